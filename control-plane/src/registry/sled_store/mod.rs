//! The embedded store: sled in one process, with the safeguards that sled itself lacks.
//!
//! One thread writes. It takes all commits that are waiting, checks their guards in order, applies them as one batch,
//! flushes, calls `fdatasync` (sled's own flush does not survive a power cut), and only then answers. Until then
//! readers are shown the values from before, so that nothing undurable is ever seen.

mod directory;
mod open;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{
    ChangeRing, Commit, Committed, Condition, MAX_KEY_BYTES, MAX_VALUE_BYTES, OpenError, Page, Revision,
    Store, StoreError, Stored, Version, Watch, record,
};
use directory::{LAST_BYTES, RESERVED_BYTES};
use writer::Job;

/// How many commits may wait for the writer before callers are held back.
const WAITING_COMMITS: usize = 4_096;

/// Values live under this byte, so that no key of a caller meets [`META_KEY`].
const VALUE_SPACE: u8 = b'v';

/// The record of version, revision and digest, written with every batch.
const META_KEY: &[u8] = b"m/state";

/// The store in a directory of its own. Cheap to share in an `Arc`; see [`Store`] for what it does.
#[derive(Debug)]
pub struct SledStore {
    shared: Arc<Shared>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    /// Ends once everything is durable and the files are closed.
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Shared {
    tree: sled::Tree,
    directory: PathBuf,
    durable: RwLock<Durable>,
    changes: Arc<ChangeRing>,
    /// Why nothing is written any more, once a write has failed.
    broken: Mutex<Option<String>>,
    /// What a test says is left on the disk.
    #[cfg(test)]
    pretended_room: Mutex<Option<u64>>,
}

impl Shared {
    /// Whether a commit would be taken now, or one that may use the reserve.
    fn check_writable(&self, uses_reserve: bool) -> Result<(), StoreError> {
        let needed = if uses_reserve { LAST_BYTES } else { RESERVED_BYTES };
        if let Some(reason) = &*self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(StoreError::ReadOnly { reason: reason.clone() });
        }
        match self.available_bytes() {
            Ok(available) if available < needed => {
                let needed_mib = needed / (1024 * 1024);
                Err(StoreError::Full { available_mib: available / (1024 * 1024), needed_mib })
            }
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::Unreadable { reason: error.to_string() }),
        }
    }

    fn available_bytes(&self) -> std::io::Result<u64> {
        #[cfg(test)]
        if let Some(pretended) = *self.pretended_room.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(pretended);
        }
        directory::available_bytes(&self.directory)
    }
}

/// The durable state: sled's, except for the keys that are being written.
#[derive(Debug)]
struct Durable {
    version: Version,
    revision: Revision,
    /// The values from before of keys whose new values are not durable yet.
    before: BTreeMap<String, Option<Stored>>,
}

impl SledStore {
    /// Makes a new store in `directory`, which is created.
    ///
    /// # Errors
    /// When there is one already, or the file system refuses.
    pub fn create(directory: &Path) -> Result<Self, OpenError> {
        open::create(directory).and_then(Self::start)
    }

    /// Whether there is room on the disk of `directory` to make a store, and to write what an installation begins with.
    ///
    /// # Errors
    /// There is not, or that cannot be told.
    pub fn check_room_to_found(directory: &Path) -> Result<(), OpenError> {
        directory::check_room_to_found(directory)
    }

    /// Opens the store in `directory`, after checking every record in it.
    ///
    /// # Errors
    /// When there is none, it is in use, newer than this program, damaged, or has lost writes it had acknowledged.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        open::open(directory).and_then(Self::start)
    }

    fn start(opened: open::Opened) -> Result<Self, OpenError> {
        let path = opened.directory.clone();
        let shared = Arc::new(Shared {
            tree: opened.tree.clone(),
            directory: opened.directory.clone(),
            durable: RwLock::new(Durable {
                version: opened.state.version,
                revision: opened.state.revision,
                before: BTreeMap::new(),
            }),
            changes: Arc::new(ChangeRing::new(opened.state.version)),
            broken: Mutex::new(None),
            #[cfg(test)]
            pretended_room: Mutex::new(None),
        });
        let (jobs, waiting) = mpsc::channel(WAITING_COMMITS);
        let writer = writer::start(opened, Arc::clone(&shared), waiting).map_err(|source| {
            let what =
                "the system has no thread (see its limit of processes) for the writer of the registry in";
            OpenError::Io { what, path, source }
        })?;
        Ok(Self { shared, jobs: Mutex::new(Some(jobs)), writer: tokio::sync::Mutex::new(Some(writer)) })
    }

    /// Has the store believe that so much is left on the disk.
    #[cfg(test)]
    pub(crate) fn pretend_room(&self, mib: u64) {
        let mut pretended = self.shared.pretended_room.lock().unwrap_or_else(PoisonError::into_inner);
        *pretended = Some(mib * 1024 * 1024);
    }

    fn sender(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store for SledStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            check_sizes(&commit)?;
            let jobs = self.sender().ok_or(StoreError::Closed)?;
            let (answer, answered) = oneshot::channel();
            jobs.send(Job { commit, answer }).await.map_err(|_| StoreError::Closed)?;
            drop(jobs);
            answered.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Stored>, StoreError>> {
        async move {
            let durable = self.shared.durable.read().unwrap_or_else(PoisonError::into_inner);
            match durable.before.get(key) {
                Some(before) => Ok(before.clone()),
                None => read(&self.shared.tree, key),
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        async move {
            let durable = self.shared.durable.read().unwrap_or_else(PoisonError::into_inner);
            list(&self.shared.tree, &durable, prefix, after, limit)
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Version) -> Watch {
        self.shared.changes.watch(prefix, after)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move { Ok(self.shared.durable.read().unwrap_or_else(PoisonError::into_inner).revision) }.boxed()
    }

    fn condition(&self) -> Condition {
        // Closed, or its thread has ended by a panic of sled's.
        if self.sender().is_none_or(|jobs| jobs.is_closed()) {
            return Condition::Broken("its writer has ended".to_owned());
        }
        match self.shared.check_writable(false) {
            Ok(()) => Condition::Writable,
            Err(error @ StoreError::Full { .. }) => Condition::Full(error.to_string()),
            Err(error) => Condition::Broken(error.to_string()),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(writer) = self.writer.lock().await.take() {
                // One that has panicked has ended too, which is what is waited for.
                let _ended = tokio::task::spawn_blocking(|| writer.join()).await;
            }
        }
        .boxed()
    }
}

fn check_sizes(commit: &Commit) -> Result<(), StoreError> {
    for (key, value) in &commit.writes {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(StoreError::BadKey { bytes: key.len() });
        }
        if let Some(value) = value
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(StoreError::TooLarge { key: key.clone(), bytes: value.len() });
        }
    }
    Ok(())
}

fn list(
    tree: &sled::Tree,
    durable: &Durable,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Page, StoreError> {
    use std::ops::Bound::{Excluded, Unbounded};
    let mut entries = BTreeMap::new();
    // The keys being written can add or hide at most as many as there are, so this reads enough.
    let wanted = limit.saturating_add(durable.before.len()).saturating_add(1);
    let scan = match after {
        Some(after) if after >= prefix => tree.range((Excluded(physical(after)), Unbounded)),
        _ => tree.range(physical(prefix)..),
    };
    for item in scan.take(wanted) {
        let (physical, record) = item.map_err(unreadable)?;
        let Some(key) = logical(&physical) else { break };
        if !key.starts_with(prefix) {
            break;
        }
        if !durable.before.contains_key(key) {
            entries.insert(key.to_owned(), decode(key, &record)?);
        }
    }
    for (key, before) in durable.before.iter().filter(|(key, _)| key.starts_with(prefix)) {
        if let Some(stored) = before
            && after.is_none_or(|after| key.as_str() > after)
        {
            entries.insert(key.clone(), stored.clone());
        }
    }
    let more = entries.len() > limit;
    let entries = entries.into_iter().take(limit).collect();
    Ok(Page { entries, more, version: durable.version, revision: durable.revision })
}

fn read(tree: &sled::Tree, key: &str) -> Result<Option<Stored>, StoreError> {
    match tree.get(physical(key)).map_err(unreadable)? {
        Some(record) => decode(key, &record).map(Some),
        None => Ok(None),
    }
}

/// Only the version of what stands under a key.
fn version(tree: &sled::Tree, key: &str) -> Result<Option<Version>, StoreError> {
    match tree.get(physical(key)).map_err(unreadable)? {
        Some(record) => record::check(key.as_bytes(), &record).map(|(version, _)| Some(version)),
        None => return Ok(None),
    }
    .map_err(|error| damaged(key, error))
}

fn decode(key: &str, record: &[u8]) -> Result<Stored, StoreError> {
    record::decode(key.as_bytes(), record).map_err(|error| damaged(key, error))
}

fn damaged(key: &str, error: record::RecordError) -> StoreError {
    StoreError::Damaged { key: key.to_owned(), what: error.as_str() }
}

fn physical(key: &str) -> Vec<u8> {
    let mut physical = Vec::with_capacity(1 + key.len());
    physical.push(VALUE_SPACE);
    physical.extend_from_slice(key.as_bytes());
    physical
}

fn logical(physical: &[u8]) -> Option<&str> {
    match physical.split_first() {
        Some((&VALUE_SPACE, key)) => std::str::from_utf8(key).ok(),
        _ => None,
    }
}

fn unreadable(error: sled::Error) -> StoreError {
    StoreError::Unreadable { reason: error.to_string() }
}
