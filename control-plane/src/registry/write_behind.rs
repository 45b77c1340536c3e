//! Records that follow what is known in memory, a little later and many in one commit.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Commit, Store, StoreError};

/// How many records one commit writes.
const WRITES_PER_COMMIT: usize = 500;

/// How a writer goes about it.
#[derive(Debug)]
pub struct Pace {
    /// What comes within so long is written together.
    pub every: Duration,
    /// Before a write is tried again after a failure.
    pub again_after: Duration,
    /// The name of the event that tells of a failure.
    pub event: &'static str,
    /// What a failure means to an operator.
    pub meaning: &'static str,
}

/// Whose records the store does not hold as they are known. Agents say what is written here as often as they like: a round
/// writes what there was at its beginning, and the next one waits.
#[derive(Debug)]
pub struct WriteBehind<K> {
    pace: Pace,
    unwritten: Mutex<BTreeSet<K>>,
    added: Notify,
}

impl<K: Ord + Clone> WriteBehind<K> {
    /// Nothing is to be written yet.
    pub fn new(pace: Pace) -> Self {
        Self { pace, unwritten: Mutex::default(), added: Notify::new() }
    }

    /// The record of `key` is to be written, as it is known by then.
    pub fn add(&self, key: K) {
        self.lock().insert(key);
        self.added.notify_one();
    }

    /// Writes until `stop`; what is unwritten then is written before this returns. `record` adds to a commit what is known
    /// of a key now.
    pub async fn run(
        &self,
        store: &dyn Store,
        record: impl Fn(Commit, &K) -> Result<Commit, StoreError>,
        stop: &CancellationToken,
    ) {
        loop {
            // Whoever adds without end would be served first otherwise.
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.added.notified() => false,
            };
            let pause = match self.write_round(store, &record).await {
                Ok(()) => self.pace.every,
                Err(error) => {
                    warn!(event = self.pace.event, %error, "{}", self.pace.meaning);
                    self.added.notify_one();
                    self.pace.again_after
                }
            };
            if stopping {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Writes what is unwritten now. What is added meanwhile waits for the next round: it must not keep this one from its
    /// end.
    async fn write_round(
        &self,
        store: &dyn Store,
        record: &impl Fn(Commit, &K) -> Result<Commit, StoreError>,
    ) -> Result<(), StoreError> {
        let mut left = std::mem::take(&mut *self.lock());
        while !left.is_empty() {
            let after = left.iter().nth(WRITES_PER_COMMIT).cloned();
            let rest = after.map(|after| left.split_off(&after)).unwrap_or_default();
            let written = match left.iter().try_fold(Commit::new(), record) {
                Ok(commit) => store.commit(commit).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                let mut unwritten = self.lock();
                unwritten.extend(left);
                unwritten.extend(rest);
                return Err(error);
            }
            left = rest;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
