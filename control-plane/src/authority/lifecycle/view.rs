//! Authorities as they are shown.

use hauberk_identity::UnixMillis;

use super::progress::Holder;
use crate::authority::book::{Entry, Kind};
use crate::authority::records::State;

/// One authority as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityView {
    /// Hexadecimal.
    pub serial: String,
    /// What it is for.
    pub kind: Kind,
    /// What it is now.
    pub state: State,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Of an issuing authority: its root.
    pub root: Option<String>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it came into its state.
    pub changed_at: UnixMillis,
    /// The end of its certificate.
    pub not_after: UnixMillis,
    /// Live instances whose certificate it has signed.
    pub holders: usize,
    /// It becomes active by itself.
    pub goes_on: bool,
    /// Of a root: it is somebody else's.
    pub is_upstream: bool,
    /// Of such a root: whoever installed it says that nobody else signs certificates of this trust domain under it.
    pub is_exclusive: bool,
    /// Of one that is delegated: who had it signed.
    pub delegate: String,
    /// Where its private key is: `sealed`, `token:` and its label, or `elsewhere`.
    pub key: String,
}

pub(super) fn view(entry: &Entry, holders: &[Holder]) -> AuthorityView {
    let record = &entry.record;
    AuthorityView {
        serial: entry.serial.clone(),
        kind: entry.kind,
        state: record.state,
        fingerprint: entry.certificate.fingerprint().to_string(),
        root: Some(record.root.clone()).filter(|root| !root.is_empty()),
        created_at: UnixMillis(record.created_at),
        changed_at: UnixMillis(record.changed_at.max(record.created_at)),
        not_after: entry.not_after(),
        holders: holders.iter().filter(|holder| holder.is_by(entry)).count(),
        goes_on: record.goes_on && entry.is(State::Prepared),
        is_upstream: record.is_upstream,
        is_exclusive: record.is_exclusive,
        delegate: record.delegate.clone(),
        key: match &record.token_key {
            Some(key) => format!("token:{}", key.label),
            None if entry.has_key() => "sealed".to_owned(),
            None => "elsewhere".to_owned(),
        },
    }
}
