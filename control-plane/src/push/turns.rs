//! Streams that are no sessions: those that have not said Hello, and those that are being sent away. An instance has one of
//! each at a time, however often it comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::InstanceId;
use tokio_util::sync::CancellationToken;

/// Turns of one kind.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    of_instance: HashMap<InstanceId, u64>,
    /// By number, and so the oldest first.
    turns: BTreeMap<u64, (InstanceId, CancellationToken)>,
}

impl Turns {
    /// At most so many at a time.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// A turn for an instance, which loses the one that it has. Where there are too many the oldest is lost: who does what it
    /// is told needs a moment only.
    pub(super) fn take(self: &Arc<Self>, instance: InstanceId) -> Turn {
        let lost = CancellationToken::new();
        let mut held = self.lock();
        held.last += 1;
        let number = held.last;
        if let Some(former) = held.of_instance.insert(instance, number) {
            held.lose(former);
        }
        while held.turns.len() >= self.most
            && let Some((oldest, _)) = held.turns.first_key_value()
        {
            let oldest = *oldest;
            held.lose(oldest);
        }
        held.turns.insert(number, (instance, lost.clone()));
        Turn { turns: Arc::clone(self), number, lost }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn lose(&mut self, number: u64) {
        if let Some((instance, lost)) = self.turns.remove(&number) {
            lost.cancel();
            // It may have taken another meanwhile.
            if self.of_instance.get(&instance) == Some(&number) {
                self.of_instance.remove(&instance);
            }
        }
    }
}

/// Held for as long as a stream is of that kind.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: u64,
    lost: CancellationToken,
}

impl Turn {
    /// Until another has taken it.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().lose(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(number: u8) -> InstanceId {
        InstanceId::from_random([number; 8])
    }

    #[test]
    fn a_newer_one_ends_the_older_and_too_many_end_the_oldest() {
        let turns = Turns::new(2);
        let first = turns.take(instance(1));
        let second = turns.take(instance(2));
        let again = turns.take(instance(1));
        assert!(first.lost.is_cancelled() && !second.lost.is_cancelled(), "its own");
        drop(first);
        let third = turns.take(instance(3));
        assert!(second.lost.is_cancelled() && !again.lost.is_cancelled(), "the oldest");
        drop(again);
        let fourth = turns.take(instance(4));
        assert!(!third.lost.is_cancelled(), "there was room");
        drop((second, third, fourth));
        let held = turns.lock();
        assert!(held.turns.is_empty() && held.of_instance.is_empty());
    }
}
