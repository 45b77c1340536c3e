//! The one thread that writes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::open::{Opened, State};
use super::{META_KEY, Shared, physical, read, version};
use crate::registry::{Change, Commit, Committed, Guard, Revision, StoreError, Stored, Version, record};

/// What the system calls the thread: it shows fifteen characters of a name.
pub(super) const NAME: &str = "registry-writer";

/// How many commits at most share one flush.
const GROUP_COMMITS: usize = 1_024;

/// How many bytes at most share one flush.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// After a group of at least so many the next one is not closed at once: where many commit, more soon follow, and each flush
/// wakes all of sled's threads. One who commits alone waits for nobody.
const COMPANY: usize = 4;

/// How long a group then stays open for each commit of the group before it: the more there are, the more is saved by one flush
/// less, and the longer each of them waits for the processor anyway.
const GATHERING: Duration = Duration::from_micros(250);

/// How long it stays open at most.
const MOST_GATHERING: Duration = Duration::from_millis(4);

/// A commit and the one who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) answer: oneshot::Sender<Result<Committed, StoreError>>,
}

impl Job {
    fn bytes(&self) -> usize {
        self.commit.writes.values().flatten().map(Bytes::len).sum()
    }

    /// The asker may have gone away, which changes nothing.
    fn answer(self, result: Result<Committed, StoreError>) {
        let _asker_gone = self.answer.send(result);
    }
}

/// Commits that share one flush.
struct Group {
    jobs: Vec<Job>,
    bytes: usize,
}

impl Group {
    fn of(first: Job) -> Self {
        Self { bytes: first.bytes(), jobs: vec![first] }
    }

    fn has_room(&self) -> bool {
        self.jobs.len() < GROUP_COMMITS && self.bytes < GROUP_BYTES
    }

    fn take_waiting(&mut self, waiting: &mut mpsc::Receiver<Job>) {
        while self.has_room() {
            let Ok(next) = waiting.try_recv() else { break };
            self.bytes += next.bytes();
            self.jobs.push(next);
        }
    }
}

/// Starts the thread. It ends, with everything durable and the files closed, once all senders of jobs are gone.
///
/// # Errors
/// When the system has no thread to give.
pub(super) fn start(
    opened: Opened,
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        let mut writer = Writer { opened, shared };
        let mut last_group = 0;
        while let Some(first) = jobs.blocking_recv() {
            let mut group = Group::of(first);
            group.take_waiting(&mut jobs);
            if last_group >= COMPANY && group.has_room() {
                let commits = u32::try_from(last_group).unwrap_or(u32::MAX);
                std::thread::park_timeout(GATHERING.saturating_mul(commits).min(MOST_GATHERING));
                group.take_waiting(&mut jobs);
            }
            last_group = group.jobs.len();
            writer.commit_group(group.jobs);
        }
        writer.finish();
    })
}

struct Writer {
    opened: Opened,
    shared: Arc<Shared>,
}

/// The outcome of a group before it is durable.
#[derive(Default)]
struct Staged {
    state: State,
    writes: BTreeMap<String, Option<Stored>>,
    /// What stood under their keys before the group.
    before: BTreeMap<String, Option<Stored>>,
    changes: Vec<Change>,
}

impl Writer {
    fn commit_group(&mut self, group: Vec<Job>) {
        let group = match self.shared.check_writable(false) {
            Ok(()) => group,
            Err(error) => {
                let (on_reserve, refused): (Vec<_>, Vec<_>) =
                    group.into_iter().partition(|job| job.commit.uses_reserve);
                refused.into_iter().for_each(|job| job.answer(Err(error.clone())));
                if let Err(error) = self.shared.check_writable(true) {
                    on_reserve.into_iter().for_each(|job| job.answer(Err(error.clone())));
                    return;
                }
                on_reserve
            }
        };
        let mut staged = Staged { state: self.opened.state, ..Staged::default() };
        let mut decided = Vec::with_capacity(group.len());
        for job in group {
            let outcome = self.stage(&job.commit, &mut staged);
            decided.push((job, outcome));
        }
        // Refusals are answered after the flush as well: they may rest on a commit of the same group.
        let durable = if staged.changes.is_empty() { Ok(()) } else { self.write(staged) };
        for (job, outcome) in decided {
            job.answer(durable.clone().and(outcome));
        }
    }

    /// Checks one commit against the store and the commits of its group before it, and adds it to them.
    fn stage(&self, commit: &Commit, staged: &mut Staged) -> Result<Committed, StoreError> {
        for guard in &commit.guards {
            let holds = match guard {
                Guard::Absent(key) => self.current_version(key, staged)?.is_none(),
                Guard::Present(key) => self.current_version(key, staged)?.is_some(),
                Guard::At(key, version) => self.current_version(key, staged)? == Some(*version),
                Guard::RevisionIs(revision) => staged.state.revision == *revision,
            };
            if !holds {
                return Err(StoreError::Conflict { guard: guard.clone() });
            }
        }
        if commit.is_empty() && !commit.raise_revision {
            return Ok(Committed { version: staged.state.version, revision: staged.state.revision });
        }
        // All that can fail comes before the first change to `staged`.
        let mut digest = staged.state.digest;
        let version = Version(staged.state.version.0 + 1);
        let mut writes = Vec::with_capacity(commit.writes.len());
        let mut before = Vec::new();
        for (key, value) in &commit.writes {
            let old = match staged.writes.get(key) {
                Some(stored) => stored.as_ref().map(|stored| stored.version),
                None => {
                    let stored = read(&self.shared.tree, key)?;
                    let version = stored.as_ref().map(|stored| stored.version);
                    before.push((key.clone(), stored));
                    version
                }
            };
            if let Some(old) = old {
                digest = digest.wrapping_sub(record::digest_share(key.as_bytes(), old));
            }
            let stored = value.clone().map(|value| Stored { version, value });
            if stored.is_some() {
                digest = digest.wrapping_add(record::digest_share(key.as_bytes(), version));
            }
            writes.push((key.clone(), stored));
        }
        let revision = Revision(staged.state.revision.0 + u64::from(commit.raise_revision));
        staged.state = State { version, revision, digest };
        staged.before.extend(before);
        staged.writes.extend(writes.iter().cloned());
        staged.changes.push(Change { version, revision, raised_revision: commit.raise_revision, writes });
        Ok(Committed { version, revision })
    }

    fn current_version(&self, key: &str, staged: &Staged) -> Result<Option<Version>, StoreError> {
        match staged.writes.get(key) {
            Some(stored) => Ok(stored.as_ref().map(|stored| stored.version)),
            None => version(&self.shared.tree, key),
        }
    }

    /// Applies a group and makes it durable. After a failure the store stays read-only, showing what is durable.
    fn write(&mut self, staged: Staged) -> Result<(), StoreError> {
        let Staged { state, writes, before, changes } = staged;
        self.apply_and_sync(&state, &writes, before).inspect_err(|error| {
            let reason = error.to_string();
            tracing::error!(
                event = "registry_read_only",
                error = reason,
                "the registry takes no more writes"
            );
            *self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        })?;
        self.opened.state = state;
        {
            let mut durable = self.shared.durable.write().unwrap_or_else(PoisonError::into_inner);
            durable.version = state.version;
            durable.revision = state.revision;
            durable.before.clear();
        }
        self.shared.changes.push(changes);
        Ok(())
    }

    fn apply_and_sync(
        &mut self,
        state: &State,
        writes: &BTreeMap<String, Option<Stored>>,
        before: BTreeMap<String, Option<Stored>>,
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, stored) in writes {
            match stored {
                Some(stored) => {
                    batch
                        .insert(physical(key), record::encode(key.as_bytes(), stored.version, &stored.value));
                }
                None => batch.remove(physical(key)),
            }
        }
        batch.insert(META_KEY, state.encode());
        let failed = |reason: String| StoreError::ReadOnly { reason };
        {
            let mut durable = self.shared.durable.write().unwrap_or_else(PoisonError::into_inner);
            durable.before = before;
            self.opened.tree.apply_batch(batch).map_err(|error| failed(error.to_string()))?;
        }
        self.opened.db.flush().map_err(|error| failed(error.to_string()))?;
        self.opened.disk.sync().map_err(|error| failed(error.to_string()))?;
        self.opened.mark.write(state.version.0).map_err(|error| failed(error.to_string()))
    }

    fn finish(self) {
        let Self { opened, shared } = self;
        let Opened { db, tree, mut disk, mark, lock, .. } = opened;
        let flushed = db
            .flush()
            .map_err(|error| error.to_string())
            .and_then(|_| disk.sync().and_then(|()| mark.sync()).map_err(|error| error.to_string()));
        if let Err(error) = flushed {
            tracing::error!(event = "registry_close_failed", error, "the registry was not closed cleanly");
        }
        shared.changes.close();
        drop((tree, db, lock));
    }
}
