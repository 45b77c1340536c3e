//! How many sockets of one kind may be open, so that files are left for the other kinds.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places for sockets of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    all: usize,
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
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// A place, if one is free.
    pub(crate) fn take(&self) -> Option<SocketPlace> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| SocketPlace { _permit: permit })
    }

    /// Whether so few places are free that nobody should keep one for later: three quarters are taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free.available_permits() < self.all.div_ceil(4)
    }

    /// How many places there are, taken or not.
    pub(crate) fn all(&self) -> usize {
        self.all
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
