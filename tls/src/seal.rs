//! What this process hands out and takes back, and nobody else can read or make: AES-256-GCM under a key that never leaves
//! its memory.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::signing::SigningError;

/// A key of this process.
pub struct SealingKey(LessSafeKey);

impl SealingKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn generate() -> Result<Self, SigningError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut *bytes).map_err(|_| SigningError::Unusable)?;
        let key = UnboundKey::new(&AES_256_GCM, &*bytes).map_err(|_| SigningError::Unusable)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Seals something for a purpose: a random nonce, then the ciphertext with its tag.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn seal(&self, purpose: &[u8], content: &[u8]) -> Result<Vec<u8>, SigningError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SigningError::Unusable)?;
        let mut sealed = Zeroizing::new(content.to_vec());
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(unique, Aad::from(purpose), &mut *sealed)
            .map_err(|_| SigningError::Unusable)?;
        Ok([nonce.as_slice(), sealed.as_slice()].concat())
    }

    /// What was sealed for this purpose; `None` for anything that this key did not seal so.
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut content = Zeroizing::new(rest.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(purpose), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_sealed_opens_and_only_for_the_same_purpose() {
        let (own, other) = (SealingKey::generate().unwrap(), SealingKey::generate().unwrap());
        let sealed = own.seal(b"a", b"alice").unwrap();
        assert_eq!(own.open(b"a", &sealed).unwrap().as_slice(), b"alice");
        assert!(own.open(b"b", &sealed).is_none() && other.open(b"a", &sealed).is_none());
        assert_ne!(own.seal(b"a", b"alice").unwrap(), sealed);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(own.open(b"a", &flipped).is_none(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(own.open(b"a", &sealed[..length]).is_none(), "{length}");
        }
    }
}
