//! Counters by a label whose values are names in this program.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// At most `N` values of one label. Each name is given a place when it first occurs; whatever finds none is counted
/// together. Never waits.
#[derive(Debug)]
pub(super) struct ByName<const N: usize> {
    places: [Place; N],
    other: AtomicU64,
}

#[derive(Debug, Default)]
struct Place {
    name: OnceLock<&'static str>,
    count: AtomicU64,
}

impl<const N: usize> ByName<N> {
    /// These names are shown from the beginning, so that a rate knows the first occurrence from none; the most frequent
    /// one comes first.
    pub(super) fn beginning_with(names: &[&'static str]) -> Self {
        let places: [Place; N] = std::array::from_fn(|_| Place::default());
        for (place, name) in places.iter().zip(names) {
            place.name.get_or_init(|| name);
        }
        Self { places, other: AtomicU64::new(0) }
    }

    /// Counts one.
    pub(super) fn add(&self, name: &'static str) {
        // A free place becomes this name's, unless another comes first and takes it.
        let own = self.places.iter().find(|place| *place.name.get_or_init(|| name) == name);
        own.map_or(&self.other, |place| &place.count).fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted.
    pub(super) fn counted(&self) -> Vec<(&'static str, u64)> {
        let named = self
            .places
            .iter()
            .filter_map(|place| Some((*place.name.get()?, place.count.load(Ordering::Relaxed))));
        let other = self.other.load(Ordering::Relaxed);
        named.chain((other > 0).then_some(("other", other))).collect()
    }
}
