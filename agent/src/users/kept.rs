//! What was verified, by its hash.

use std::collections::HashMap;
use std::sync::Arc;

/// The SHA-256 of what was verified.
pub(super) type Hash = [u8; 32];

/// How many one generation holds at the most, and how many bytes they may take.
const MOST: usize = 2_048;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Bounded: when the young are too many they become the old, and the old are forgotten that nobody has shown since.
/// Whoever has many good ones has those verified again and again, and others theirs once in a generation.
pub(super) struct Kept<T> {
    young: HashMap<Hash, Item<T>>,
    young_bytes: usize,
    old: HashMap<Hash, Item<T>>,
}

struct Item<T> {
    what: Arc<T>,
    bytes: usize,
}

impl<T> Kept<T> {
    pub(super) fn get(&mut self, hash: &Hash) -> Option<Arc<T>> {
        if let Some(known) = self.young.get(hash) {
            return Some(Arc::clone(&known.what));
        }
        let Item { what, bytes } = self.old.remove(hash)?;
        self.insert(*hash, Arc::clone(&what), bytes);
        Some(what)
    }

    /// Keeps what takes about so many bytes.
    pub(super) fn insert(&mut self, hash: Hash, what: Arc<T>, bytes: usize) {
        if self.young.len() >= MOST || self.young_bytes.saturating_add(bytes) > MOST_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&hash);
        if self.young.insert(hash, Item { what, bytes }).is_none() {
            self.young_bytes += bytes;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|item| item.bytes).sum()
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), young_bytes: 0, old: HashMap::new() }
    }
}
