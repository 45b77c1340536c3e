//! Bulkheads around what admins have the control plane do: changes of resources, questions that keep a processor busy, and drafts, which
//! take room besides. Each has one of its own; in each, little runs at once, every piece on a thread of its own, so that agents are served
//! meanwhile, and no admin's work keeps out that of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// How many calls of one caller are under way or wait behind a bulkhead.
pub const MOST_OF_ONE: usize = 64;

/// The same of changes, of which the largest have megabytes.
pub const MOST_CHANGES_OF_ONE: usize = 16;

/// The same of calls that carry drafts: each is held as long as it waits, and a draft has megabytes.
pub const MOST_DRAFTS_OF_ONE: usize = 4;

/// How many questions that may take their time are looked at at once, so that they leave the machine to others.
const QUESTIONS_AT_ONCE: usize = 2;

/// One caller asks too much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{most} such calls of yours are under way or wait already: try again when one of them is answered")]
pub struct Busy {
    most: usize,
}

/// Where such work waits for its turn. Of one caller one piece runs at a time, the others in their order; so whoever else asks waits for
/// what runs now, and for one piece of each who came before.
#[derive(Debug)]
pub struct Bulkhead {
    threads: Arc<Semaphore>,
    /// Each who waits or whose work runs holds one of its caller's.
    callers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    most_of_one: usize,
}

impl Bulkhead {
    /// One piece of work at a time.
    pub fn one_at_a_time() -> Self {
        Self::new(1, MOST_OF_ONE)
    }

    /// The same, for changes.
    pub fn of_changes() -> Self {
        Self::new(1, MOST_CHANGES_OF_ONE)
    }

    /// For questions about what is there.
    pub fn of_questions() -> Self {
        Self::new(QUESTIONS_AT_ONCE, MOST_OF_ONE)
    }

    /// For questions about drafts.
    pub fn of_drafts() -> Self {
        Self::new(QUESTIONS_AT_ONCE, MOST_DRAFTS_OF_ONE)
    }

    fn new(at_once: usize, most_of_one: usize) -> Self {
        Self { threads: Arc::new(Semaphore::new(at_once)), callers: Mutex::default(), most_of_one }
    }

    /// Waits for a turn of this caller's. It is lost where nobody waits for it any longer.
    ///
    /// # Errors
    /// When too much of this caller waits.
    pub async fn turn(&self, caller: &str) -> Result<Turn, Busy> {
        self.place(caller)?.turn().await
    }

    /// A place of this caller's, for one who has something else to wait for before: it counts from now on, and holds up nobody.
    ///
    /// # Errors
    /// When too much of this caller waits.
    pub fn place(&self, caller: &str) -> Result<Place, Busy> {
        let (busy, threads) = (Busy { most: self.most_of_one }, Arc::clone(&self.threads));
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|_, held| held.strong_count() > 0);
        let held = callers.get(caller);
        if held.is_some_and(|held| held.strong_count() >= self.most_of_one) {
            return Err(busy);
        }
        let own = held.and_then(Weak::upgrade).unwrap_or_else(|| {
            let own = Arc::default();
            callers.insert(caller.to_owned(), Arc::downgrade(&own));
            own
        });
        Ok(Place { own, threads, busy })
    }
}

/// One of the calls that a caller may have under way, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place {
    own: Arc<tokio::sync::Mutex<()>>,
    threads: Arc<Semaphore>,
    busy: Busy,
}

impl Place {
    /// Waits for the turn of whoever has this place. It is lost where nobody waits for it any longer.
    ///
    /// # Errors
    /// Never, as long as nobody closes the bulkhead.
    pub async fn turn(self) -> Result<Turn, Busy> {
        let Self { own, threads, busy } = self;
        let own = own.lock_owned().await;
        let thread = threads.acquire_owned().await.map_err(|_| busy)?;
        Ok(Turn { _own: own, _thread: thread })
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
        let (done, _ended) = self.lend(work).await?;
        Ok(done)
    }

    /// The same, of whoever has more to do in this turn.
    ///
    /// # Errors
    /// As of [`Turn::run`]; the turn is over then.
    pub async fn lend<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Self), JoinError> {
        tokio::task::spawn_blocking(move || (work(), self)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_hangs_up_keeps_the_turn_until_the_work_is_done() {
        let bulkhead = Bulkhead::one_at_a_time();
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
        let bulkhead = Bulkhead::of_questions();
        let first = bulkhead.turn("ada").await.unwrap();
        let mut waiting: Vec<_> = (1..MOST_OF_ONE).map(|_| Box::pin(bulkhead.turn("ada"))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "one of them runs at a time");
        }
        assert_eq!(bulkhead.turn("ada").now_or_never().unwrap().unwrap_err(), Busy { most: MOST_OF_ONE });
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

    #[tokio::test]
    async fn a_place_counts_and_holds_up_nobody() {
        let bulkhead = Bulkhead::one_at_a_time();
        let mut places: Vec<_> = (0..MOST_OF_ONE).map(|_| bulkhead.place("ada").unwrap()).collect();
        assert_eq!(bulkhead.place("ada").unwrap_err(), Busy { most: MOST_OF_ONE });
        drop(bulkhead.turn("bob").now_or_never().expect("nobody has the thread").unwrap());
        let turn = places.pop().unwrap().turn();
        drop(turn.now_or_never().expect("nor a turn of hers").unwrap());
        drop(bulkhead.place("ada").unwrap());
    }

    #[tokio::test]
    async fn of_drafts_fewer_wait() {
        let bulkhead = Bulkhead::of_drafts();
        let first = bulkhead.turn("ada").await.unwrap();
        let mut waiting: Vec<_> = (1..MOST_DRAFTS_OF_ONE).map(|_| Box::pin(bulkhead.turn("ada"))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "one of them runs at a time");
        }
        let busy = bulkhead.turn("ada").now_or_never().unwrap().unwrap_err();
        assert!(busy.to_string().starts_with("4 such calls of yours"), "{busy}");
        drop(bulkhead.turn("bob").now_or_never().expect("there is a thread for another").unwrap());
        drop(first);
    }
}
