//! What the registry holds about this installation and its authorities.

use serde::{Deserialize, Serialize};

use super::token::KeyId;
use crate::registry::document::base64_bytes;

/// What this installation is; written by `init`, and after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The trust domain of everything that is issued here.
    pub trust_domain: String,
    /// The first part of every view's number: Unix ms at `init`, higher after a restore.
    pub epoch: u64,
    /// DNS names and IP addresses that `init` was given for the server certificate.
    pub sans: Vec<String>,
    /// When it was last said that its registry was put back from a backup, Unix ms; `None` where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<u64>,
}

/// What an authority is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is trusted, and signs nothing yet.
    Prepared,
    /// It signs. What was written before there were states is this.
    #[default]
    Active,
    /// It signs nothing more; what it has signed is good.
    Retiring,
    /// It signs nothing more, and what it has signed is being replaced.
    Tainted,
    /// Nothing that it has signed is good any longer.
    Retired,
    /// It was signed for another control plane, which has its key.
    Delegated,
}

impl State {
    /// As in answers and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Tainted => "tainted",
            Self::Retired => "retired",
            Self::Delegated => "delegated",
        }
    }
}

/// How often trust has changed: in every commit that changes an authority, and guarded by it, so that no two changes are
/// made from the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct TrustRecord {
    /// Counts the changes; agents acknowledge it.
    pub(super) version: u64,
}

/// An authority: root or issuing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorityRecord {
    /// When it was made, Unix ms.
    pub(super) created_at: u64,
    /// See [`State`].
    #[serde(default)]
    pub(super) state: State,
    /// When it came into that state, Unix ms.
    #[serde(default)]
    pub(super) changed_at: u64,
    /// The version of trust that all live instances must have acknowledged before the next step: while it is prepared, the one
    /// that tells to trust it; once it signs no longer, the one that says so.
    #[serde(default)]
    pub(super) needs_version: u64,
    /// While it is prepared: it becomes active as soon as it can, without being told again.
    #[serde(default)]
    pub(super) goes_on: bool,
    /// It was tainted or revoked by hand: once retired it is distrusted by its key.
    #[serde(default)]
    pub(super) was_tainted: bool,
    /// Of an issuing authority: the serial number of its root; empty where there was only one.
    #[serde(default)]
    pub(super) root: String,
    /// As a release wrote it that kept one cross certificate alone: it is among `crosses` once it is read.
    #[serde(default, with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub(super) cross: Vec<u8>,
    /// Of an issuing authority: its certificates by roots that were in use before its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) crosses: Vec<Cross>,
    /// Of a root: it is somebody else's, and its key is not here.
    #[serde(default)]
    pub(super) is_upstream: bool,
    /// Of such a root: whoever installed it says that nobody else signs certificates of this trust domain under it.
    #[serde(default)]
    pub(super) is_exclusive: bool,
    /// Of an issuing authority by somebody else: what stands between it and its root, its own signer first.
    #[serde(default)]
    pub(super) intermediates: Vec<Der>,
    /// Of one that is delegated: who had it signed.
    #[serde(default)]
    pub(super) delegate: String,
    /// DER.
    #[serde(with = "base64_bytes")]
    pub(super) certificate: Vec<u8>,
    /// PKCS#8, sealed for this record; empty where the key is in a token, or somebody else's.
    #[serde(default, with = "base64_bytes")]
    pub(super) sealed_key: Vec<u8>,
    /// Where it is, if in a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_key: Option<TokenKeyRecord>,
}

/// A certificate of an issuing authority by another root than its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cross {
    /// The serial number of that root.
    pub(super) root: String,
    /// DER.
    #[serde(with = "base64_bytes")]
    pub(super) certificate: Vec<u8>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Der(#[serde(with = "base64_bytes")] pub(super) Vec<u8>);

/// An issuing authority that somebody else is to sign: the same request until it is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestRecord {
    /// When it was made, Unix ms.
    pub(super) created_at: u64,
    /// PKCS#10, DER.
    #[serde(with = "base64_bytes")]
    pub(super) csr: Vec<u8>,
    /// PKCS#8, sealed for this record; empty where the key is in a token.
    #[serde(default, with = "base64_bytes")]
    pub(super) sealed_key: Vec<u8>,
    /// Where it is, if in a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_key: Option<TokenKeyRecord>,
}

/// A key in a PKCS#11 token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenKeyRecord {
    /// The label of the token that it was made in. For people: another token that has the key serves as well.
    pub(super) label: String,
    /// The serial number of that token.
    pub(super) token_serial: String,
    /// CKA_ID, by which it is found.
    #[serde(with = "base64_bytes")]
    pub(super) id: Vec<u8>,
    /// SubjectPublicKeyInfo.
    #[serde(with = "base64_bytes")]
    pub(super) public_key: Vec<u8>,
}

impl TokenKeyRecord {
    pub(super) fn key_id(&self) -> KeyId {
        KeyId(self.id.clone())
    }
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
