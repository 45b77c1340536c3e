//! Work for admins that keeps a processor busy, and changes of resources: little of it runs at once, each piece on a
//! thread of its own, so that agents are served meanwhile; and no admin's work keeps out that of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// How many calls of one caller are under way or wait.
pub const MOST_OF_ONE: usize = 64;

/// One caller asks too much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MOST_OF_ONE} such calls of yours are under way or wait already: try again when one of them is answered"
)]
pub struct Busy;

/// Where such work waits for its turn. Of one caller one piece runs at a time, the others in their order; so whoever else asks waits for
/// what runs now, and for one piece of each who came before.
#[derive(Debug)]
pub struct Bulkhead {
    threads: Arc<Semaphore>,
    /// Each who waits or whose work runs holds one of its caller's.
    callers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Bulkhead {
    /// At most so many pieces of work at once.
    pub fn new(at_once: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(at_once)), callers: Mutex::default() }
    }

    /// Waits for a turn of this caller's. It is lost where nobody waits for it any longer.
    ///
    /// # Errors
    /// When too much of this caller waits.
    pub async fn turn(&self, caller: &str) -> Result<Turn, Busy> {
        let own = self.place_of(caller)?.lock_owned().await;
        // Nobody closes it.
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| Busy)?;
        Ok(Turn { _own: own, _thread: thread })
    }

    fn place_of(&self, caller: &str) -> Result<Arc<tokio::sync::Mutex<()>>, Busy> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|_, held| held.strong_count() > 0);
        let held = callers.get(caller);
        if held.is_some_and(|held| held.strong_count() >= MOST_OF_ONE) {
            return Err(Busy);
        }
        Ok(held.and_then(Weak::upgrade).unwrap_or_else(|| {
            let own = Arc::default();
            callers.insert(caller.to_owned(), Arc::downgrade(&own));
            own
        }))
    }
}

/// A turn, until it is dropped or its work is done.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _own: OwnedMutexGuard<()>,
    _thread: OwnedSemaphorePermit,
}

impl Turn {
    /// Does the work on a thread of its own. The next turn comes when it is done, also where whoever asked has gone before: nothing takes
    /// back what a thread has begun.
    ///
    /// # Errors
    /// When the work has panicked, or the process stops.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let work = move || {
            let done = work();
            drop(self);
            done
        };
        tokio::task::spawn_blocking(work).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_hangs_up_keeps_the_turn_until_the_work_is_done() {
        let bulkhead = Bulkhead::new(1);
        let (release, released) = mpsc::channel::<()>();
        let turn = bulkhead.turn("ada").await.unwrap();
        let mut asked = Box::pin(turn.run(move || released.recv()));
        assert!(asked.as_mut().now_or_never().is_none(), "it runs");
        drop(asked);
        let mut next = Box::pin(bulkhead.turn("bob"));
        assert!(next.as_mut().now_or_never().is_none(), "its thread is busy still");
        drop(release);
        let turn = next.await.unwrap();
        // Nor is a turn kept by work that fails.
        turn.run(|| panic!("as planned")).await.unwrap_err();
        bulkhead.turn("bob").await.unwrap().run(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_keeps_out_others_by_asking_much() {
        let bulkhead = Bulkhead::new(2);
        let first = bulkhead.turn("ada").await.unwrap();
        let mut waiting: Vec<_> = (1..MOST_OF_ONE).map(|_| Box::pin(bulkhead.turn("ada"))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "one of them runs at a time");
        }
        assert_eq!(bulkhead.turn("ada").now_or_never().unwrap().unwrap_err(), Busy);
        let others = bulkhead.turn("bob").now_or_never().expect("there is a thread for another").unwrap();
        // Who comes third waits for what runs, before all that one of them has asked.
        let mut third = Box::pin(bulkhead.turn("eve"));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(third.as_mut().now_or_never().expect("its turn has come").unwrap());
        drop((others, waiting));
        let turn = bulkhead.turn("ada").now_or_never().expect("nobody waits any longer").unwrap();
        assert_eq!(bulkhead.callers.lock().unwrap().len(), 1, "whoever asks nothing is forgotten");
        drop(turn);
    }
}
