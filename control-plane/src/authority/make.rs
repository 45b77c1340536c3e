//! How authorities are made, and how they come out of the registry with their keys.

use std::time::Duration;

use hauberk_identity::{BACKDATED, TrustDomain, UnixMillis, Validity};
use hauberk_tls::{AuthorityKey, CertificateDer, IssuingAuthority, MAX_CHAIN, PublicKey, RootAuthority};

use super::AuthorityError;
use super::book::{Book, Entry, Kind};
use super::key_store::{KeyStore, StoredKey};
use super::records::{AuthorityRecord, Der, RequestRecord, State};
use crate::random;

/// The life of a root.
pub(super) const ROOT_LIFE: Duration = Duration::from_secs(3_650 * 86_400);

/// The life of an issuing authority; its root's end comes first where it is nearer.
pub(super) const ISSUING_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// For how many roots before its own there is room in our own certificate's chain, where so many certificates stand between the
/// issuing authority and its root: beside the certificate itself, that authority and its root, each takes its cross certificate
/// and itself.
pub(super) const fn room_for_former(intermediates: usize) -> usize {
    MAX_CHAIN.saturating_sub(3 + intermediates) / 2
}

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
    let record = prepared(root.certificate().to_vec(), Some(stored), String::new(), now);
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
    let record = prepared(issuing.certificate().to_vec(), Some(stored), root.serial().to_string(), now);
    Ok((issuing, record))
}

/// A request for an issuing authority that somebody else is to sign: its record, and its public key.
pub(super) fn request(
    trust_domain: &TrustDomain,
    keys: &KeyStore,
    now: UnixMillis,
) -> Result<(RequestRecord, PublicKey), AuthorityError> {
    let unique = random::serial()?;
    let (key, stored) = keys.generate_for_request(trust_domain, unique)?;
    let csr = IssuingAuthority::request(trust_domain, &key, unique)?;
    let (sealed_key, token_key) = stored.into_parts();
    Ok((RequestRecord { created_at: now.0, csr, sealed_key, token_key }, key.public_key()))
}

/// The record of an issuing authority that somebody else signed, prepared.
pub(super) fn adopted(
    issuing: &IssuingAuthority,
    intermediates: &[CertificateDer<'static>],
    key: StoredKey,
    root: String,
    now: UnixMillis,
) -> AuthorityRecord {
    AuthorityRecord {
        intermediates: intermediates.iter().map(|der| Der(der.to_vec())).collect(),
        ..prepared(issuing.certificate().to_vec(), Some(key), root, now)
    }
}

/// An issuing authority of another control plane's key: its certificate, serial number and record.
pub(super) fn delegated(
    root: &RootAuthority,
    key: &PublicKey,
    delegate: String,
    now: UnixMillis,
) -> Result<(CertificateDer<'static>, String, AuthorityRecord), AuthorityError> {
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ISSUING_LIFE))?;
    let serial = random::serial()?;
    let certificate = root.certify(key, validity, serial)?;
    let record = AuthorityRecord {
        state: State::Delegated,
        delegate,
        ..prepared(certificate.to_vec(), None, root.serial().to_string(), now)
    };
    Ok((certificate, serial.to_string(), record))
}

/// The record of somebody else's root, prepared.
pub(super) fn upstream_root(root: &CertificateDer<'static>, now: UnixMillis) -> AuthorityRecord {
    AuthorityRecord { is_upstream: true, ..prepared(root.to_vec(), None, String::new(), now) }
}

/// A root with its key, for as long as something is signed with it.
pub(super) fn open_root(entry: &Entry, keys: &KeyStore) -> Result<RootAuthority, AuthorityError> {
    if !entry.has_key() {
        return Err(AuthorityError::RootElsewhere(entry.serial.clone()));
    }
    Ok(RootAuthority::load(entry.der(), keys.open(entry)?)?)
}

/// The same without a signature of its key, as [`load_issuing`].
pub(super) fn load_root(entry: &Entry, keys: &KeyStore) -> Result<RootAuthority, AuthorityError> {
    Ok(RootAuthority::load(entry.der(), keys.load(entry)?)?)
}

/// An issuing authority that signs, or will, with its key.
pub(super) async fn open_issuing(
    book: &Book,
    entry: &Entry,
    keys: &KeyStore,
) -> Result<IssuingAuthority, AuthorityError> {
    issuing_with(keys.open_in_time(entry).await?, book, entry)
}

/// The same without a signature of its key, for one that has given one before it was made the authority that signs: a token
/// that has failed since keeps nothing from being published, and signs once it works again.
pub(super) fn load_issuing(
    book: &Book,
    entry: &Entry,
    keys: &KeyStore,
) -> Result<IssuingAuthority, AuthorityError> {
    issuing_with(keys.load(entry)?, book, entry)
}

fn issuing_with(key: AuthorityKey, book: &Book, entry: &Entry) -> Result<IssuingAuthority, AuthorityError> {
    let root = book.find(&entry.record.root).ok_or(AuthorityError::Missing("root"))?;
    let between = entry.record.intermediates.iter().map(|der| der.0.clone().into());
    Ok(IssuingAuthority::load(entry.der(), key, root.der())?.through(between))
}

fn prepared(certificate: Vec<u8>, key: Option<StoredKey>, root: String, now: UnixMillis) -> AuthorityRecord {
    let (sealed_key, token_key) = key.map(StoredKey::into_parts).unwrap_or_default();
    AuthorityRecord {
        created_at: now.0,
        state: State::Prepared,
        changed_at: now.0,
        needs_version: 0,
        goes_on: false,
        was_tainted: false,
        root,
        cross: Vec::new(),
        crosses: Vec::new(),
        is_upstream: false,
        is_exclusive: false,
        intermediates: Vec::new(),
        delegate: String::new(),
        certificate,
        sealed_key,
        token_key,
    }
}
