//! How long things take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts times by `N` upper bounds, and those above all of them.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    /// In nanoseconds, rising.
    bounds: [u64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    /// In nanoseconds; enough for 584 years.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub(super) fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub(super) fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < nanos);
        self.counts.get(bucket).unwrap_or(&self.above).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Each bound in seconds, with how many took at most as long.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut so_far = 0;
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| {
            so_far += count.load(Ordering::Relaxed);
            (seconds(*bound), so_far)
        })
    }

    /// How many took longer than the last bound.
    pub(super) fn above(&self) -> u64 {
        self.above.load(Ordering::Relaxed)
    }

    /// How long all took together, in seconds.
    pub(super) fn sum(&self) -> f64 {
        seconds(self.sum.load(Ordering::Relaxed))
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}
