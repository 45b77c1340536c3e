//! How many sockets of one kind may be open, so that files are left for the other kinds.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::http1::LinkPool;

/// The places for sockets of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    all: usize,
    /// Where links that have places are kept while nobody uses them.
    pools: Arc<Mutex<Vec<Weak<LinkPool>>>>,
}

/// A socket's place, until dropped.
#[derive(Debug)]
pub(crate) struct SocketPlace {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// So many places.
    pub(crate) fn of(sockets: usize) -> Self {
        let all = sockets.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all, pools: Arc::default() }
    }

    /// A place, if one is free, or else that of the link which has been idle for the longest.
    pub(crate) fn take(&self) -> Option<SocketPlace> {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(SocketPlace { _permit: permit });
            }
            if !self.close_longest_idle() {
                return None;
            }
        }
    }

    /// Links that are idle in this pool have their places here.
    pub(crate) fn lends_to(&self, pool: &Arc<LinkPool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Before more room is made for them, those that are no longer there are forgotten.
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        pools.push(Arc::downgrade(pool));
    }

    /// Whether so few places are free that nobody should keep one for later: three quarters are taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free.available_permits() < self.all.div_ceil(4)
    }

    /// How many places there are, taken or not.
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// False if no link is idle.
    fn close_longest_idle(&self) -> bool {
        let pools: Vec<_> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        let longest =
            pools.iter().filter_map(|pool| Some((pool.idle_since()?, pool))).min_by_key(|(since, _)| *since);
        // Somebody else may have taken it up meanwhile; then the next one is looked for.
        longest.inspect(|(_, pool)| pool.close_longest_idle()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let budget = Budget::of(4);
        let mut taken: Vec<_> = (0..3).map(|_| budget.take().unwrap()).collect();
        assert!(!budget.is_scarce());
        taken.push(budget.take().unwrap());
        assert!(budget.is_scarce() && budget.take().is_none());
        taken.pop();
        assert!(budget.take().is_some());
    }
}
