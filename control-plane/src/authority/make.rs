//! How authorities are made, and how they come out of the registry with their keys.

use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis, Validity};
use hauberk_tls::{IssuingAuthority, RootAuthority};

use super::book::{Book, Entry, Kind};
use super::key_store::{KeyStore, StoredKey};
use super::records::{AuthorityRecord, State};
use super::{AuthorityError, BACKDATED};
use crate::random;

/// The life of a root.
pub(super) const ROOT_LIFE: Duration = Duration::from_secs(3_650 * 86_400);

/// The life of an issuing authority; its root's end comes first where it is nearer.
pub(super) const ISSUING_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// A new root and its record, prepared.
pub(super) fn root(
    trust_domain: &TrustDomain,
    keys: &KeyStore,
    now: UnixMillis,
) -> Result<(RootAuthority, AuthorityRecord), AuthorityError> {
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ROOT_LIFE))?;
    let serial = random::serial()?;
    let (key, stored) = keys.generate(trust_domain, Kind::Root, serial)?;
    let root = RootAuthority::create_with(trust_domain, validity, serial, key)?;
    let record = prepared(root.certificate().to_vec(), stored, String::new(), now);
    Ok((root, record))
}

/// A new issuing authority under a root and its record, prepared.
pub(super) fn issuing(
    root: &RootAuthority,
    keys: &KeyStore,
    now: UnixMillis,
) -> Result<(IssuingAuthority, AuthorityRecord), AuthorityError> {
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ISSUING_LIFE))?;
    let serial = random::serial()?;
    let (key, stored) = keys.generate(root.trust_domain(), Kind::Issuing, serial)?;
    let issuing = IssuingAuthority::create_with(root, validity, serial, key)?;
    let record = prepared(issuing.certificate().to_vec(), stored, root.serial().to_string(), now);
    Ok((issuing, record))
}

/// A root with its key, for as long as something is signed with it.
pub(super) fn open_root(entry: &Entry, keys: &KeyStore) -> Result<RootAuthority, AuthorityError> {
    Ok(RootAuthority::load(entry.der(), keys.open(entry)?)?)
}

/// An issuing authority that signs, or will, with its key.
pub(super) async fn open_issuing(
    book: &Book,
    entry: &Entry,
    keys: &KeyStore,
) -> Result<IssuingAuthority, AuthorityError> {
    let root = book.find(&entry.record.root).ok_or(AuthorityError::Missing("root"))?;
    Ok(IssuingAuthority::load(entry.der(), keys.open_in_time(entry).await?, root.der())?)
}

fn prepared(certificate: Vec<u8>, key: StoredKey, root: String, now: UnixMillis) -> AuthorityRecord {
    let (sealed_key, token_key) = match key {
        StoredKey::Sealed(sealed) => (sealed, None),
        StoredKey::InToken(record) => (Vec::new(), Some(record)),
    };
    AuthorityRecord {
        created_at: now.0,
        state: State::Prepared,
        changed_at: now.0,
        needs_version: 0,
        goes_on: false,
        was_tainted: false,
        root,
        cross: Vec::new(),
        certificate,
        sealed_key,
        token_key,
    }
}
