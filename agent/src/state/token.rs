//! By which token an agent has joined: one that was revoked is not to come back by the same.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

/// The SHA-256 of a join token, which is 256 random bits and so is not found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of this text.
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is to be a digest is none.
#[derive(Debug, Error)]
#[error("a digest consists of 64 hexadecimal digits")]
pub struct NoDigest;

impl FromStr for TokenDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NoDigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoDigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoDigest)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let (one, two) = (TokenDigest::of("hbk1-one"), TokenDigest::of("hbk1-two"));
        assert_ne!(one, two);
        assert_eq!(one.to_string().parse::<TokenDigest>().unwrap(), one);
        for bad in ["", "12", &"g0".repeat(32), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(bad.parse::<TokenDigest>().is_err(), "{bad}");
        }
    }
}
