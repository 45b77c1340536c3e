//! Tokens that were verified, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Identity;

/// How many are kept before all are forgotten, and how many bytes they may take.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Bounded: whoever has many good tokens has them verified again and again, and nobody else.
#[derive(Default)]
pub(super) struct Kept {
    by_hash: HashMap<[u8; 32], Arc<Identity>>,
    bytes: usize,
}

impl Kept {
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<Arc<Identity>> {
        self.by_hash.get(hash).cloned()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub(super) fn insert(&mut self, hash: [u8; 32], identity: Arc<Identity>) {
        let size = identity.size();
        if self.by_hash.len() >= MOST || self.bytes.saturating_add(size) > MOST_BYTES {
            *self = Self::default();
        }
        if self.by_hash.insert(hash, identity).is_none() {
            self.bytes += size;
        }
    }
}
