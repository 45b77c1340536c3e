//! Looks at programs that may never end: executables lie where whoever runs them likes, on a disk that has gone too. So
//! each look has a thread that nothing else waits for, no user has many of them, and several users do not have all.
//! Where everything runs as one user, as in many containers, programs of one disk leave some to those of others.
//!
//! What the kernel keeps in memory (/proc, but for the files that it leads to) is not asked of a disk, and is read
//! wherever it is wanted.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::places::{Place, Places};

/// Looks at once, of all users.
pub(crate) const AT_ONCE: usize = 32;

/// How much of a program is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Depth {
    /// What is true of it, and where its executable is.
    Surface,
    /// Each byte of its executable.
    Whole,
}

impl Depth {
    /// Looks at once at a user's programs that lie on one disk. One executable of them is read at a time: whoever
    /// connects a thousand times does not take the whole processor.
    fn of_disk(self) -> usize {
        match self {
            Self::Surface => 2,
            Self::Whole => 1,
        }
    }

    /// And at all of a user's.
    fn of_user(self) -> usize {
        2 * self.of_disk()
    }

    /// How long one may take, from its beginning; and how long whoever waits for a turn waits while no look of those
    /// before it ends. Many that come at once, as after a restart, each have theirs so, and nobody waits for a disk
    /// that has gone.
    fn within(self) -> Duration {
        match self {
            Self::Surface => Duration::from_secs(5),
            Self::Whole => Duration::from_secs(60),
        }
    }

    async fn in_time<T>(self, work: impl Future<Output = T>) -> Result<T, LookError> {
        timeout(self.within(), work).await.map_err(|_| LookError::TimedOut(self.within()))
    }
}

/// A program could not be looked at. The fault is its disk's, or that of another program of its user's.
#[derive(Debug, Error)]
pub(crate) enum LookError {
    /// It takes too long.
    #[error("it, or others of its user's, take longer than {} s to be looked at: do their files lie on a disk that has gone?", .0.as_secs())]
    TimedOut(Duration),
    /// Nobody waits any longer.
    #[error("the agent is stopping")]
    Stopping,
    /// The fault is ours.
    #[error("the look broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// Who has to wait where looks do not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Whose {
    pub(super) uid: u32,
    /// The device on which the executable lies, where that is known.
    pub(super) disk: Option<u64>,
}

/// Whose turn it is to look.
#[derive(Debug, Clone)]
pub(super) struct Looks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    /// Some place is free again.
    freed: Notify,
    /// Turns of a user at one disk and, without one, of the user.
    lines: Mutex<HashMap<(Whose, Depth), Weak<Line>>>,
    stop: CancellationToken,
}

/// Who waits for turns of the same kind, in order.
#[derive(Debug)]
struct Line {
    turns: Arc<Semaphore>,
    /// A look has ended. Who has only given up has not moved the line: those behind may fare no better.
    moved: Notify,
}

/// A turn, until it has ended.
struct OfLine {
    line: Arc<Line>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// One look, until it has ended; not only until nobody waits for it any longer.
struct Turn {
    place: Option<Place>,
    looks: Looks,
    of_disk: Option<OfLine>,
    of_user: OfLine,
}

impl Looks {
    /// None yet; those that are under way when the agent stops are not waited for.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let (places, freed, lines) = (Places::new(AT_ONCE), Notify::new(), Mutex::default());
        Self(Arc::new(Shared { places, freed, lines, stop }))
    }

    /// Does something that may wait for ever, for one of these programs. Turns go to whoever waits, in order: only a
    /// task of its own may, for a future that is left half-way keeps a turn that it does not use.
    ///
    /// # Errors
    /// It does, or so do others of the user's.
    pub(super) async fn at<T: Send + 'static>(
        &self,
        whose: Whose,
        depth: Depth,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LookError> {
        let look = async {
            let turn = self.turn(whose, depth).await?;
            let ended = tokio::task::spawn_blocking(move || {
                let found = work();
                drop(turn);
                found
            });
            Ok(depth.in_time(ended).await??)
        };
        tokio::select! {
            () = self.0.stop.cancelled() => Err(LookError::Stopping),
            looked = look => looked,
        }
    }

    async fn turn(&self, whose: Whose, depth: Depth) -> Result<Turn, LookError> {
        let of_user = self.line(Whose { disk: None, ..whose }, depth, depth.of_user());
        // Whoever waits for a disk keeps nothing of its user's.
        let of_disk = match whose.disk {
            Some(_) => Some(self.line(whose, depth, depth.of_disk()).turn(depth, || ()).await?),
            None => None,
        };
        // As long as this wait goes on, so does that of those behind at the disk.
        let tell_disk = || of_disk.iter().for_each(|of_disk| of_disk.line.moved.notify_waiters());
        let of_user = of_user.turn(depth, tell_disk).await?;
        let placing = async {
            loop {
                let freed = self.0.freed.notified();
                if let Ok(place) = self.0.places.take(whose.uid) {
                    return place;
                }
                freed.await;
            }
        };
        // Others' looks free places for which this one may not be in line.
        let place = depth.in_time(placing).await?;
        Ok(Turn { place: Some(place), looks: self.clone(), of_disk, of_user })
    }

    fn line(&self, whose: Whose, depth: Depth, count: usize) -> Arc<Line> {
        let mut all = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&(whose, depth)).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line { turns: Arc::new(Semaphore::new(count)), moved: Notify::new() });
        all.insert((whose, depth), Arc::downgrade(&line));
        line
    }
}

impl Line {
    /// Waits for a turn as long as looks end for which others in line have waited, and tells of each.
    async fn turn(self: Arc<Self>, depth: Depth, has_moved: impl Fn()) -> Result<OfLine, LookError> {
        let mut turn = pin!(Arc::clone(&self.turns).acquire_owned());
        loop {
            let moved = depth.in_time(self.moved.notified());
            tokio::select! {
                // Whoever ends tells that before the turn is free.
                biased;
                moved = moved => moved?,
                turn = &mut turn => {
                    // Nobody closes it.
                    let turn = turn.ok();
                    return Ok(OfLine { line: Arc::clone(&self), _turn: turn });
                }
            }
            has_moved();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        for OfLine { line, .. } in self.of_disk.iter().chain([&self.of_user]) {
            line.moved.notify_waiters();
        }
        drop(self.place.take());
        self.looks.0.freed.notify_waiters();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    /// Looks that end when a test says so.
    pub(in super::super) struct Stalled {
        looks: JoinSet<Result<(), LookError>>,
        go: Vec<mpsc::Sender<()>>,
        begun: tokio::sync::mpsc::UnboundedReceiver<()>,
        begin: tokio::sync::mpsc::UnboundedSender<()>,
    }

    impl Stalled {
        pub(in super::super) fn new() -> Self {
            let (begin, begun) = tokio::sync::mpsc::unbounded_channel();
            Self { looks: JoinSet::new(), go: Vec::new(), begun, begin }
        }

        /// One more, at one of these programs.
        pub(in super::super) fn look(&mut self, looks: &Looks, whose: Whose, depth: Depth) {
            let (go, wait) = mpsc::channel::<()>();
            let (looks, begin) = (looks.clone(), self.begin.clone());
            self.go.push(go);
            self.looks.spawn(async move {
                let stalled = move || {
                    begin.send(()).unwrap();
                    let _gone = wait.recv();
                };
                looks.at(whose, depth, stalled).await
            });
        }

        /// Waits until so many of them have begun.
        pub(in super::super) async fn begun(&mut self, count: usize) {
            for _ in 0..count {
                self.begun.recv().await.unwrap();
            }
        }

        pub(in super::super) async fn end(mut self) -> Vec<Result<(), LookError>> {
            self.go.clear();
            self.looks.join_all().await
        }
    }

    /// Programs of a user's on a disk.
    pub(in super::super) fn programs(uid: u32, disk: u64) -> Whose {
        Whose { uid, disk: Some(disk) }
    }

    #[tokio::test(start_paused = true)]
    async fn programs_that_stall_keep_only_those_of_their_user_and_disk_waiting() {
        let looks = Looks::new(CancellationToken::new());
        let mut stalled = Stalled::new();
        let stall = |stalled: &mut Stalled, whose| {
            for _ in 0..20 {
                stalled.look(&looks, whose, Depth::Surface);
                stalled.look(&looks, whose, Depth::Whole);
            }
        };
        stall(&mut stalled, programs(1, 1));
        stalled.begun(3).await;
        // Of the same user, on another disk.
        looks.at(programs(1, 2), Depth::Surface, || ()).await.unwrap();
        looks.at(programs(1, 2), Depth::Whole, || ()).await.unwrap();
        stall(&mut stalled, programs(1, 2));
        stall(&mut stalled, programs(1, 3));
        for uid in 2..=4 {
            stall(&mut stalled, programs(uid, 1));
            stall(&mut stalled, programs(uid, 2));
        }
        stalled.begun(3 + 3 * 6).await;
        // Of another user, on the same disk.
        looks.at(programs(5, 1), Depth::Surface, || ()).await.unwrap();
        looks.at(programs(5, 1), Depth::Whole, || ()).await.unwrap();
        assert!(stalled.begun.try_recv().is_err(), "no user has more than so many");
        // Once they go on everybody has a turn.
        assert!(stalled.end().await.into_iter().all(|look| look.is_ok()));
    }

    #[tokio::test]
    async fn whoever_stops_waits_for_no_look() {
        let stop = CancellationToken::new();
        let looks = Looks::new(stop.clone());
        let mut stalled = Stalled::new();
        stalled.look(&looks, programs(1, 1), Depth::Surface);
        stalled.begun(1).await;
        stop.cancel();
        let ended = stalled.looks.join_next().await.unwrap().unwrap();
        assert!(matches!(ended, Err(LookError::Stopping)));
        stalled.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_while_others_are_looked_at_has_the_whole_time() {
        let looks = Looks::new(CancellationToken::new());
        let mut stalled = Stalled::new();
        // Two of a user's are looked at at once, and one of a disk.
        for disk in [1, 2, 3, 4, 4, 4] {
            stalled.look(&looks, programs(1, disk), Depth::Whole);
        }
        stalled.begun(2).await;
        for begin in [1, 1, 0, 1, 1, 0] {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            // Each takes two such spans at the most.
            tokio::time::advance(Depth::Whole.within() * 2 / 5).await;
            stalled.go.remove(0);
            stalled.looks.join_next().await.unwrap().unwrap().unwrap();
            stalled.begun(begin).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_is_told_and_the_look_still_counts() {
        let looks = Looks::new(CancellationToken::new());
        let mut stalled = Stalled::new();
        stalled.look(&looks, programs(1, 1), Depth::Whole);
        stalled.begun(1).await;
        // The clock of a test does not go by itself while a thread works.
        let second = looks.at(programs(1, 1), Depth::Whole, || ());
        tokio::pin!(second);
        assert!((&mut second).now_or_never().is_none());
        tokio::time::advance(Depth::Whole.within()).await;
        assert!(matches!(second.await, Err(LookError::TimedOut(_))));
        let first = stalled.looks.join_next().await.unwrap().unwrap();
        assert!(matches!(first, Err(LookError::TimedOut(_))));
        let third = looks.at(programs(1, 1), Depth::Whole, || ());
        tokio::pin!(third);
        assert!((&mut third).now_or_never().is_none(), "the first has not ended");
        stalled.end().await;
        third.await.unwrap();
    }
}
