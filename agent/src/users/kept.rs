//! Tokens that were verified, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Identity;

/// How many one generation holds at the most, and how many bytes they may take.
const MOST: usize = 2_048;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Bounded: when the young are too many they become the old, and the old are forgotten that nobody has shown since. Whoever has
/// many good tokens has those verified again and again, and others theirs once in a generation.
#[derive(Default)]
pub(super) struct Kept {
    young: HashMap<[u8; 32], Arc<Identity>>,
    young_bytes: usize,
    old: HashMap<[u8; 32], Arc<Identity>>,
}

impl Kept {
    pub(super) fn get(&mut self, hash: &[u8; 32]) -> Option<Arc<Identity>> {
        if let Some(known) = self.young.get(hash) {
            return Some(Arc::clone(known));
        }
        let known = self.old.remove(hash)?;
        self.insert(*hash, Arc::clone(&known));
        Some(known)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn insert(&mut self, hash: [u8; 32], identity: Arc<Identity>) {
        let size = identity.size();
        if self.young.len() >= MOST || self.young_bytes.saturating_add(size) > MOST_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&hash);
        if self.young.insert(hash, identity).is_none() {
            self.young_bytes += size;
        }
    }
}
