//! One-time secrets that people and programs carry: shown once, kept as a hash.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::random::{self, NoRandomness};

/// The SHA-256 of a secret's text, in hexadecimal: what the registry knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretHash(String);

impl SecretHash {
    /// The hash of a text that somebody presents. 256 random bits need no slow hash.
    pub fn of(text: &str) -> Self {
        let hash = digest(&SHA256, text.as_bytes());
        Self(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As in the registry's keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first part, which names the secret where people see it.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// [`SecretHash::short`] as somebody writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretId(String);

impl SecretId {
    /// Reads an id; `None` where it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 12 && text.bytes().all(is_hexadecimal)).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A new secret's text. Wiped on drop and never printed by `Debug`.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// 256 random bits behind a prefix that says what the secret is for.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(prefix: &str) -> Result<Self, NoRandomness> {
        let random = Zeroizing::new(random::bytes::<32>()?);
        Ok(Self(Zeroizing::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random.as_slice())))))
    }

    /// The text, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
