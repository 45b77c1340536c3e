//! Looks at programs. What is asked of /proc and of executables may never be answered: these lie where whoever runs them likes, on a
//! disk that has gone too. So each look has a thread that nobody else waits for, no user has many of them, and several users do
//! not have all.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::places::{Place, Places};

/// Looks at once, of all users.
pub(crate) const AT_ONCE: usize = 32;

/// How much of a program is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Depth {
    /// What the kernel knows of it.
    Surface,
    /// Each byte of its executable.
    Whole,
}

impl Depth {
    /// Looks of one user at once. One executable of a user's is read at a time: whoever connects a thousand times does not take
    /// the whole processor.
    fn of_user(self) -> usize {
        match self {
            Self::Surface => 4,
            Self::Whole => 1,
        }
    }

    /// How long one may take, the wait for its turn included.
    fn within(self) -> Duration {
        match self {
            Self::Surface => Duration::from_secs(5),
            Self::Whole => Duration::from_secs(60),
        }
    }
}

/// Whose turn it is to look.
#[derive(Debug, Clone)]
pub(super) struct Looks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    /// Some place is free again.
    freed: Notify,
    users: Mutex<HashMap<(u32, Depth), Weak<Semaphore>>>,
}

/// One look, until it has ended; not only until nobody waits for it any longer.
struct Turn {
    place: Option<Place>,
    looks: Looks,
    _of_user: Option<OwnedSemaphorePermit>,
}

impl Looks {
    pub(super) fn new() -> Self {
        let (places, freed, users) = (Places::new(AT_ONCE), Notify::new(), Mutex::default());
        Self(Arc::new(Shared { places, freed, users }))
    }

    /// Does something for a program of this user that may wait for ever.
    ///
    /// # Errors
    /// It does, or so do others of the user's.
    pub(super) async fn at<T: Send + 'static>(
        &self,
        uid: u32,
        depth: Depth,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let look = async {
            let turn = self.turn(uid, depth).await;
            let ended = tokio::task::spawn_blocking(move || {
                let found = work();
                drop(turn);
                found
            });
            ended.await.map_err(io::Error::other)
        };
        timeout(depth.within(), look).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn turn(&self, uid: u32, depth: Depth) -> Turn {
        // Nobody closes it.
        let of_user = self.of_user(uid, depth).acquire_owned().await.ok();
        loop {
            let freed = self.0.freed.notified();
            if let Ok(place) = self.0.places.take(uid) {
                return Turn { place: Some(place), looks: self.clone(), _of_user: of_user };
            }
            freed.await;
        }
    }

    fn of_user(&self, uid: u32, depth: Depth) -> Arc<Semaphore> {
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.get(&(uid, depth)).and_then(Weak::upgrade) {
            return known;
        }
        users.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(depth.of_user()));
        users.insert((uid, depth), Arc::downgrade(&turns));
        turns
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.place.take());
        self.looks.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    /// A look that ends when the test says so.
    struct Stalled {
        looks: JoinSet<io::Result<()>>,
        go: Vec<mpsc::Sender<()>>,
        begun: tokio::sync::mpsc::UnboundedReceiver<()>,
        begin: tokio::sync::mpsc::UnboundedSender<()>,
    }

    impl Stalled {
        fn new() -> Self {
            let (begin, begun) = tokio::sync::mpsc::unbounded_channel();
            Self { looks: JoinSet::new(), go: Vec::new(), begun, begin }
        }

        fn look(&mut self, looks: &Looks, uid: u32, depth: Depth) {
            let (go, wait) = mpsc::channel::<()>();
            let (looks, begin) = (looks.clone(), self.begin.clone());
            self.go.push(go);
            self.looks.spawn(async move {
                let stalled = move || {
                    begin.send(()).unwrap();
                    let _gone = wait.recv();
                };
                looks.at(uid, depth, stalled).await
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_whose_programs_stall_keeps_nobody_else_waiting() {
        let looks = Looks::new();
        let mut stalled = Stalled::new();
        for uid in 1..=5 {
            for _ in 0..20 {
                stalled.look(&looks, uid, Depth::Surface);
                stalled.look(&looks, uid, Depth::Whole);
            }
        }
        for _ in 0..5 * 5 {
            stalled.begun.recv().await.unwrap();
        }
        looks.at(6, Depth::Surface, || ()).await.unwrap();
        looks.at(6, Depth::Whole, || ()).await.unwrap();
        assert!(stalled.begun.try_recv().is_err(), "no user has more than so many");
        // Once they go on everybody has a turn.
        stalled.go.clear();
        assert!(stalled.looks.join_all().await.into_iter().all(|look| look.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_is_told_and_the_look_still_counts() {
        let looks = Looks::new();
        let mut stalled = Stalled::new();
        stalled.look(&looks, 1, Depth::Whole);
        stalled.begun.recv().await.unwrap();
        // The clock of a test does not go by itself while a thread works.
        let second = looks.at(1, Depth::Whole, || ());
        tokio::pin!(second);
        assert!((&mut second).now_or_never().is_none());
        tokio::time::advance(Depth::Whole.within()).await;
        assert_eq!(second.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let first = stalled.looks.join_next().await.unwrap().unwrap();
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let third = looks.at(1, Depth::Whole, || ());
        tokio::pin!(third);
        assert!((&mut third).now_or_never().is_none(), "the first has not ended");
        stalled.go.clear();
        third.await.unwrap();
    }
}
