//! What the registry holds of a signing key.

use serde::{Deserialize, Serialize};

use crate::registry::document::base64_bytes;

/// A key that signs tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SigningKeyRecord {
    /// When it was made and published, Unix ms.
    pub(super) created_at: u64,
    /// From when on it signs, Unix ms.
    pub(super) signs_from: u64,
    /// When it and the last of its tokens end, Unix ms.
    pub(super) not_after: u64,
    /// An uncompressed point of P-256.
    #[serde(with = "base64_bytes")]
    pub(super) public_key: Vec<u8>,
    /// PKCS#8, sealed for this record.
    #[serde(with = "base64_bytes")]
    pub(super) sealed_key: Vec<u8>,
    /// Since when it may be in other hands, Unix ms: it signs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tainted_at: Option<u64>,
    /// It signs as soon as every live instance knows it, though its time has not come.
    #[serde(default)]
    pub(super) goes_on: bool,
    /// The version of trust that tells of it as it is.
    #[serde(default)]
    pub(super) needs_version: u64,
}
