//! How many sockets of one kind may be open, so that files are left for the other kinds.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The places for sockets of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    all: usize,
    /// Where connections that have places are kept while nobody uses them.
    pools: Arc<Mutex<Vec<Weak<dyn KeepsIdle>>>>,
}

/// A socket's place, until dropped.
#[derive(Debug)]
pub(crate) struct SocketPlace {
    _permit: OwnedSemaphorePermit,
}

/// Keeps connections that nobody uses, each of which has a place.
pub(crate) trait KeepsIdle: fmt::Debug + Send + Sync {
    /// Since when the longest idle one has been idle.
    fn idle_since(&self) -> Option<Instant>;

    /// Closes that one, so that its place is free, or will be at once. False if none is idle.
    fn close_longest_idle(&self) -> bool;
}

/// That a socket is in use, until dropped: one more for whom it is in use, and one more of all.
#[derive(Debug)]
pub(crate) struct InUse {
    of_one: Arc<AtomicUsize>,
    of_all: Arc<AtomicUsize>,
}

impl InUse {
    /// Counts it. How many there are now of this one, and of all.
    pub(crate) fn count(of_one: &Arc<AtomicUsize>, of_all: &Arc<AtomicUsize>) -> (Self, usize, usize) {
        let counted = Self { of_one: Arc::clone(of_one), of_all: Arc::clone(of_all) };
        let [one, all] = [of_one, of_all].map(|count| count.fetch_add(1, Ordering::Relaxed) + 1);
        (counted, one, all)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.of_one.fetch_sub(1, Ordering::Relaxed);
        self.of_all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budget {
    /// So many places.
    pub(crate) fn of(sockets: usize) -> Self {
        let all = sockets.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all, pools: Arc::default() }
    }

    /// A place, if one is free.
    pub(crate) fn take_free(&self) -> Option<SocketPlace> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(SocketPlace { _permit: permit })
    }

    /// A place, if one is free, or else that of the connection which has been idle for the longest.
    pub(crate) async fn take(&self) -> Option<SocketPlace> {
        if let Some(place) = self.take_free() {
            return Some(place);
        }
        if !self.close_longest_idle() {
            return None;
        }
        // An HTTP/2 connection has its place until the task that drives it has seen that it is closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(SocketPlace { _permit: permit })
    }

    /// Connections that are idle in this pool have their places here.
    pub(crate) fn lends_to<P: KeepsIdle + 'static>(&self, pool: &Arc<P>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Before more room is made for them, those that are no longer there are forgotten.
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        let pool: Weak<P> = Arc::downgrade(pool);
        pools.push(pool);
    }

    /// Whether so few places are free that nobody should keep one for later: three quarters are taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free.available_permits() < self.all.div_ceil(4)
    }

    /// How many places there are, taken or not.
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// False if no connection is idle.
    fn close_longest_idle(&self) -> bool {
        let pools: Vec<_> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        let longest = || {
            pools.iter().filter_map(|pool| Some((pool.idle_since()?, pool))).min_by_key(|(since, _)| *since)
        };
        while let Some((_, pool)) = longest() {
            if pool.close_longest_idle() {
                return true;
            }
            // Somebody else has taken it up meanwhile; the next one is looked for.
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let budget = Budget::of(4);
        let mut taken: Vec<_> = (0..3).map(|_| budget.take_free().unwrap()).collect();
        assert!(!budget.is_scarce());
        taken.push(budget.take_free().unwrap());
        assert!(budget.is_scarce() && budget.take_free().is_none());
        taken.pop();
        assert!(budget.take_free().is_some());
    }
}
