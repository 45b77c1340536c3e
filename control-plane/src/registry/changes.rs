//! The recent commits, kept in memory for those who follow the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Revision, Stored, Version};

/// How many written keys the ring remembers before a slow watcher must list again: more than the largest change of
/// resources writes.
pub(crate) const REMEMBERED_WRITES: usize = 16_384;

/// How many bytes of keys and values it remembers: a key may hold as much as thousands of others.
const REMEMBERED_BYTES: usize = 64 * 1024 * 1024;

/// One commit, as seen by a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number.
    pub version: Version,
    /// The revision after it.
    pub revision: Revision,
    /// Whether it raised the revision.
    pub raised_revision: bool,
    /// The keys written; `None` where one was removed.
    pub writes: Vec<(String, Option<Stored>)>,
}

impl Change {
    /// The writes to keys that begin with `prefix`.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, Option<&'a Stored>)> {
        self.writes
            .iter()
            .filter(move |(key, _)| key.starts_with(prefix))
            .map(|(key, stored)| (key.as_str(), stored.as_ref()))
    }

    /// How many bytes its keys and values have.
    fn bytes(&self) -> usize {
        let value = |stored: &Option<Stored>| stored.as_ref().map_or(0, |stored| stored.value.len());
        self.writes.iter().map(|(key, stored)| key.len() + value(stored)).sum()
    }
}

/// Why a watch gives no more changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The changes asked for are no longer remembered: list again, then watch from there.
    #[error("the changes asked for are no longer remembered: list again")]
    Compacted,
    /// The store was closed.
    #[error("the registry is closed")]
    Closed,
}

/// The memory of recent commits. The store that owns it pushes; any number of [`Watch`]es read.
#[derive(Debug)]
pub struct ChangeRing {
    state: Mutex<RingState>,
    /// Dropped when the store closes, which ends every watch. The value is the number of the last commit.
    latest: Mutex<Option<watch::Sender<u64>>>,
    receiver: watch::Receiver<u64>,
}

#[derive(Debug)]
struct RingState {
    changes: VecDeque<Arc<Change>>,
    /// How many keys, and how many bytes, the changes write.
    writes: usize,
    bytes: usize,
    /// All commits up to this one are forgotten.
    forgotten: Version,
}

impl ChangeRing {
    /// An empty ring of a store that stands at `version`.
    pub fn new(version: Version) -> Self {
        let (latest, receiver) = watch::channel(version.0);
        Self {
            state: Mutex::new(RingState {
                changes: VecDeque::new(),
                writes: 0,
                bytes: 0,
                forgotten: version,
            }),
            latest: Mutex::new(Some(latest)),
            receiver,
        }
    }

    /// Adds commits in their order and wakes the watchers.
    pub fn push(&self, changes: impl IntoIterator<Item = Change>) {
        let mut last = None;
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                last = Some(change.version.0);
                state.writes += change.writes.len();
                state.bytes += change.bytes();
                state.changes.push_back(Arc::new(change));
            }
            // However large the last one is, whoever has seen all before it sees it too.
            while state.is_full() && state.changes.len() > 1 {
                if let Some(oldest) = state.changes.pop_front() {
                    state.writes -= oldest.writes.len();
                    state.bytes -= oldest.bytes();
                    state.forgotten = oldest.version;
                }
            }
        }
        if let Some(last) = last
            && let Some(latest) = &*self.latest.lock().unwrap_or_else(PoisonError::into_inner)
        {
            latest.send_replace(last);
        }
    }

    /// Ends every watch, after it has read what is remembered.
    pub fn close(&self) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Follows the commits after `after` that touch keys under `prefix`.
    pub fn watch(self: &Arc<Self>, prefix: &str, after: Version) -> Watch {
        Watch {
            ring: Arc::clone(self),
            latest: self.receiver.clone(),
            prefix: prefix.to_owned(),
            seen: after,
        }
    }

    fn next(&self, seen: &mut Version, prefix: &str) -> Result<Option<Arc<Change>>, WatchEnd> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen < state.forgotten {
            return Err(WatchEnd::Compacted);
        }
        let start = state.changes.partition_point(|change| change.version <= *seen);
        for change in state.changes.range(start..) {
            *seen = change.version;
            if prefix.is_empty() || change.under(prefix).next().is_some() {
                return Ok(Some(Arc::clone(change)));
            }
        }
        Ok(None)
    }
}

impl RingState {
    fn is_full(&self) -> bool {
        self.writes > REMEMBERED_WRITES || self.bytes > REMEMBERED_BYTES
    }
}

/// A place in the sequence of commits.
#[derive(Debug)]
pub struct Watch {
    ring: Arc<ChangeRing>,
    latest: watch::Receiver<u64>,
    prefix: String,
    seen: Version,
}

impl Watch {
    /// Waits for the next commit that touches the prefix. May be cancelled at any time without loss.
    ///
    /// # Errors
    /// [`WatchEnd::Compacted`] when the watcher was too slow or began too far back.
    pub async fn next(&mut self) -> Result<Arc<Change>, WatchEnd> {
        loop {
            self.latest.mark_unchanged();
            if let Some(change) = self.ring.next(&mut self.seen, &self.prefix)? {
                return Ok(change);
            }
            if self.latest.changed().await.is_err() {
                // The store may have committed between the look above and its closing.
                return self.ring.next(&mut self.seen, &self.prefix)?.ok_or(WatchEnd::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    /// A commit of so many values of 512 KiB.
    fn large(version: u64, values: usize) -> Change {
        let value = Bytes::from(vec![0; 512 * 1024]);
        let writes = (0..values).map(|number| {
            (format!("r/{number}"), Some(Stored { version: Version(version), value: value.clone() }))
        });
        let (version, revision) = (Version(version), Revision(version));
        Change { version, revision, raised_revision: true, writes: writes.collect() }
    }

    fn next(watch: &mut Watch) -> Option<Result<Version, WatchEnd>> {
        watch.next().now_or_never().map(|next| next.map(|change| change.version))
    }

    #[test]
    fn what_is_remembered_has_only_so_many_bytes() {
        let ring = Arc::new(ChangeRing::new(Version(0)));
        let (mut quick, mut slow) = (ring.watch("", Version(0)), ring.watch("", Version(0)));
        for version in 1..=100 {
            ring.push([large(version, 20)]);
            assert_eq!(next(&mut quick), Some(Ok(Version(version))));
            let state = ring.state.lock().unwrap();
            let bytes: usize = state.changes.iter().map(|change| change.bytes()).sum();
            assert_eq!(state.bytes, bytes);
            assert!(bytes <= REMEMBERED_BYTES && state.changes.len() as u64 == version.min(6), "{bytes}");
        }
        assert_eq!(next(&mut slow), Some(Err(WatchEnd::Compacted)));
        assert_eq!(next(&mut ring.watch("", Version(94))), Some(Ok(Version(95))));
        assert_eq!(next(&mut ring.watch("", Version(93))), Some(Err(WatchEnd::Compacted)));
    }

    #[test]
    fn one_commit_of_more_bytes_than_are_remembered_is_told_to_whoever_has_seen_all_before_it() {
        let ring = Arc::new(ChangeRing::new(Version(0)));
        let (mut quick, mut slow) = (ring.watch("r/", Version(0)), ring.watch("", Version(0)));
        ring.push([large(1, 1)]);
        assert_eq!(next(&mut quick), Some(Ok(Version(1))));
        ring.push([large(2, 200)]);
        assert_eq!(next(&mut quick), Some(Ok(Version(2))));
        assert_eq!(next(&mut slow), Some(Err(WatchEnd::Compacted)));
        // It goes once another one has come.
        ring.push([large(3, 1)]);
        assert_eq!(next(&mut quick), Some(Ok(Version(3))));
        assert_eq!(ring.state.lock().unwrap().bytes, large(3, 1).bytes());
        assert_eq!(next(&mut quick), None);
    }
}
