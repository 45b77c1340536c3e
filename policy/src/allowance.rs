//! How much all who share a memory may remember, so that many callers take no more of it together than one may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for what is remembered, in bytes by estimate. What callers choose has room apart, so that it leaves some for
/// what the view makes: policies in play are dearer to find again than one path is to decide.
#[derive(Debug)]
pub struct Allowance {
    bytes: usize,
    paths: AtomicUsize,
    others: AtomicUsize,
}

/// Which part of the room one memory has at the most: whoever fills it is alone without.
const SHARE: usize = 16;

/// What one memory has taken of the room; given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    of: Option<Arc<Allowance>>,
    paths: usize,
    others: usize,
}

impl Allowance {
    /// A third for paths.
    pub fn new(bytes: usize) -> Arc<Self> {
        let paths = bytes / 3;
        Arc::new(Self { bytes, paths: AtomicUsize::new(paths), others: AtomicUsize::new(bytes - paths) })
    }

    /// Whether there is next to no room left for paths, or for the rest.
    pub fn is_spent(&self) -> bool {
        let left = self.paths.load(Ordering::Relaxed).min(self.others.load(Ordering::Relaxed));
        left < self.bytes / 32
    }
}

impl Held {
    /// Nothing yet, of what others share.
    pub(crate) fn of(allowance: &Arc<Allowance>) -> Self {
        Self { of: Some(Arc::clone(allowance)), paths: 0, others: 0 }
    }

    /// Takes room for something of about this size; false where there is none.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let is_fair = |of: &Allowance| bytes <= (of.bytes / SHARE).saturating_sub(self.others);
        let has_room = self.of.as_ref().is_none_or(|of| is_fair(of) && take(&of.others, bytes));
        self.others += if has_room { bytes } else { 0 };
        has_room
    }

    /// The same for a path.
    pub(crate) fn take_path(&mut self, bytes: usize) -> bool {
        let has_room = self.of.as_ref().is_none_or(|of| take(&of.paths, bytes));
        self.paths += if has_room { bytes } else { 0 };
        has_room
    }

    /// Gives back what a path has taken.
    pub(crate) fn give_path(&mut self, bytes: usize) {
        let bytes = bytes.min(self.paths);
        self.paths -= bytes;
        if let Some(of) = &self.of {
            of.paths.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Gives back what all paths have taken.
    pub(crate) fn give_paths(&mut self) {
        self.give_path(self.paths);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.paths.fetch_add(self.paths, Ordering::Relaxed);
            of.others.fetch_add(self.others, Ordering::Relaxed);
        }
    }
}

fn take(room: &AtomicUsize, bytes: usize) -> bool {
    room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back_and_nothing_more() {
        let allowance = Allowance::new(3_000);
        let left = |of: &Allowance| (of.paths.load(Ordering::Relaxed), of.others.load(Ordering::Relaxed));
        let mut one = Held::of(&allowance);
        let mut other = Held::of(&allowance);
        assert!(one.take_path(600) && !other.take_path(600) && other.take_path(400));
        // Of a sixteenth of the room.
        assert!(one.take(187) && !one.take(1) && other.take(100) && other.take(87));
        let mut more: Vec<_> = (0..8).map(|_| Held::of(&allowance)).collect();
        assert!(more.iter_mut().all(|held| held.take(187)) && allowance.is_spent());
        let mut last = Held::of(&allowance);
        assert!(last.take(130) && !last.take(1));
        assert_eq!(left(&allowance), (0, 0));
        other.give_path(1_000);
        assert_eq!(left(&allowance), (400, 0), "it had no more");
        drop((one, other, more, last));
        assert_eq!(left(&allowance), (1_000, 2_000));
        assert!(!allowance.is_spent());
        let mut unbounded = Held::default();
        assert!(unbounded.take(usize::MAX) && unbounded.take_path(1));
    }
}
