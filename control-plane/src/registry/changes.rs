//! The recent commits, kept in memory for those who follow the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Revision, Stored, Version};

/// How many written keys the ring remembers before a slow watcher must list again: more than the largest change of resources writes.
pub(crate) const REMEMBERED_WRITES: usize = 16_384;

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
    writes: usize,
    /// All commits up to this one are forgotten.
    forgotten: Version,
}

impl ChangeRing {
    /// An empty ring of a store that stands at `version`.
    pub fn new(version: Version) -> Self {
        let (latest, receiver) = watch::channel(version.0);
        Self {
            state: Mutex::new(RingState { changes: VecDeque::new(), writes: 0, forgotten: version }),
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
                state.changes.push_back(Arc::new(change));
            }
            while state.writes > REMEMBERED_WRITES && state.changes.len() > 1 {
                if let Some(oldest) = state.changes.pop_front() {
                    state.writes -= oldest.writes.len();
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
