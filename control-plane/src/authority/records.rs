//! What the registry holds about this installation and its authorities.

use serde::{Deserialize, Serialize};

use crate::registry::document::base64_bytes;

/// What this installation is; written once, by `init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The trust domain of everything that is issued here.
    pub trust_domain: String,
    /// The first part of every view's number: Unix ms at `init`, higher after a restore.
    pub epoch: u64,
    /// DNS names and IP addresses that `init` was given for the server certificate.
    pub sans: Vec<String>,
}

/// An authority: root or issuing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorityRecord {
    /// When it was made, Unix ms; the latest issuing authority is the active one.
    pub(super) created_at: u64,
    /// DER.
    #[serde(with = "base64_bytes")]
    pub(super) certificate: Vec<u8>,
    /// PKCS#8, sealed for this record.
    #[serde(with = "base64_bytes")]
    pub(super) sealed_key: Vec<u8>,
}

/// A key that signs views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ViewKeyRecord {
    /// When it was made, Unix ms; the latest signs, all are trusted.
    pub(super) created_at: u64,
    /// SubjectPublicKeyInfo.
    #[serde(with = "base64_bytes")]
    pub(super) public_key: Vec<u8>,
    /// PKCS#8, sealed for this record.
    #[serde(with = "base64_bytes")]
    pub(super) sealed_key: Vec<u8>,
}
