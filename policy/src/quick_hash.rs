//! Hashes for small maps that are asked for every request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are few, or are none that a caller chooses.
pub(crate) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<QuickHasher>>;

/// Hashes by multiplication, which whoever chooses keys can foretell: keys that fall together make a search among all
/// that a map holds. It is for maps that are bounded to few entries, and for those whose keys come from the view.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            // Less than a word: its length finds room.
            let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write_u64(last | (rest.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        // The golden ratio's bits, as Knuth proposes for hashing by multiplication.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    #[test]
    fn what_differs_seldom_falls_together() {
        fn hash(of: impl Hash) -> u64 {
            let mut hasher = QuickHasher::default();
            of.hash(&mut hasher);
            hasher.finish()
        }
        let texts = (0..1_000).map(|number| hash(format!("/orders/{number}/lines")));
        let numbers = (0..1_000_usize).map(|number| hash((number, 3_usize)));
        for mut hashes in [texts.collect::<Vec<_>>(), numbers.collect()] {
            hashes.iter_mut().for_each(|hash| *hash &= 0xffff);
            hashes.sort_unstable();
            hashes.dedup();
            assert!(hashes.len() > 950, "{} of 1,000 are told apart by 16 bits", hashes.len());
        }
        assert_ne!(hash("a"), hash("a\0"), "the length counts");
    }
}
