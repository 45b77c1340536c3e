//! How authorities are made, and how they come out of the registry with their keys.

use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis, Validity};
use hauberk_tls::{CertificateDer, IssuingAuthority, KeyPair, PublicKey, RootAuthority};

use super::book::{Book, Entry, Kind};
use super::records::{AuthorityRecord, Der, RequestRecord, State};
use super::{AuthorityError, BACKDATED, KeyEncryptionKey};
use crate::random;
use crate::registry::keys;

/// The life of a root.
pub(super) const ROOT_LIFE: Duration = Duration::from_secs(3_650 * 86_400);

/// The life of an issuing authority; its root's end comes first where it is nearer.
pub(super) const ISSUING_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// A new root and its record, prepared.
pub(super) fn root(
    trust_domain: &TrustDomain,
    kek: &KeyEncryptionKey,
    now: UnixMillis,
) -> Result<(RootAuthority, AuthorityRecord), AuthorityError> {
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ROOT_LIFE))?;
    let root = RootAuthority::create(trust_domain, validity, random::serial()?)?;
    let key = Kind::Root.key(&root.serial().to_string());
    let sealed_key = kek.seal(&key, &root.key().to_pkcs8_der())?;
    let record = prepared(root.certificate().to_vec(), sealed_key, String::new(), now);
    Ok((root, record))
}

/// A new issuing authority under a root and its record, prepared.
pub(super) fn issuing(
    root: &RootAuthority,
    kek: &KeyEncryptionKey,
    now: UnixMillis,
) -> Result<(IssuingAuthority, AuthorityRecord), AuthorityError> {
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ISSUING_LIFE))?;
    let issuing = IssuingAuthority::create(root, validity, random::serial()?)?;
    let key = Kind::Issuing.key(&issuing.serial().to_string());
    let sealed_key = kek.seal(&key, &issuing.key().to_pkcs8_der())?;
    let record = prepared(issuing.certificate().to_vec(), sealed_key, root.serial().to_string(), now);
    Ok((issuing, record))
}

/// A request for an issuing authority that somebody else is to sign: its record, and its public key.
pub(super) fn request(
    trust_domain: &TrustDomain,
    kek: &KeyEncryptionKey,
    now: UnixMillis,
) -> Result<(RequestRecord, PublicKey), AuthorityError> {
    let key = KeyPair::generate()?;
    let record = RequestRecord {
        created_at: now.0,
        csr: IssuingAuthority::request(trust_domain, &key, random::serial()?)?,
        sealed_key: kek.seal(keys::AUTHORITY_REQUEST, &key.to_pkcs8_der())?,
    };
    Ok((record, key.public_key()))
}

/// The key of a request.
pub(super) fn open_request(
    record: &RequestRecord,
    kek: &KeyEncryptionKey,
) -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::from_pkcs8_der(&kek.open(keys::AUTHORITY_REQUEST, &record.sealed_key)?)?)
}

/// The record of an issuing authority that somebody else signed, prepared.
pub(super) fn adopted(
    issuing: &IssuingAuthority,
    intermediates: &[CertificateDer<'static>],
    root: String,
    kek: &KeyEncryptionKey,
    now: UnixMillis,
) -> Result<AuthorityRecord, AuthorityError> {
    let key = Kind::Issuing.key(&issuing.serial().to_string());
    let sealed_key = kek.seal(&key, &issuing.key().to_pkcs8_der())?;
    Ok(AuthorityRecord {
        intermediates: intermediates.iter().map(|der| Der(der.to_vec())).collect(),
        ..prepared(issuing.certificate().to_vec(), sealed_key, root, now)
    })
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
        ..prepared(certificate.to_vec(), Vec::new(), root.serial().to_string(), now)
    };
    Ok((certificate, serial.to_string(), record))
}

/// The record of somebody else's root, prepared.
pub(super) fn upstream_root(root: &CertificateDer<'static>, now: UnixMillis) -> AuthorityRecord {
    AuthorityRecord { is_upstream: true, ..prepared(root.to_vec(), Vec::new(), String::new(), now) }
}

/// A root with its key, for as long as something is signed with it.
pub(super) fn open_root(entry: &Entry, kek: &KeyEncryptionKey) -> Result<RootAuthority, AuthorityError> {
    if !entry.has_key() {
        return Err(AuthorityError::RootElsewhere(entry.serial.clone()));
    }
    let key = KeyPair::from_pkcs8_der(&kek.open(&entry.key(), &entry.record.sealed_key)?)?;
    Ok(RootAuthority::load(entry.der(), key)?)
}

/// The issuing authority that signs, with its key.
pub(super) fn open_issuing(
    book: &Book,
    entry: &Entry,
    kek: &KeyEncryptionKey,
) -> Result<IssuingAuthority, AuthorityError> {
    let root = book.find(&entry.record.root).ok_or(AuthorityError::Missing("root"))?;
    let key = KeyPair::from_pkcs8_der(&kek.open(&entry.key(), &entry.record.sealed_key)?)?;
    let between = entry.record.intermediates.iter().map(|der| der.0.clone().into());
    Ok(IssuingAuthority::load(entry.der(), key, root.der())?.through(between))
}

fn prepared(certificate: Vec<u8>, sealed_key: Vec<u8>, root: String, now: UnixMillis) -> AuthorityRecord {
    AuthorityRecord {
        created_at: now.0,
        state: State::Prepared,
        changed_at: now.0,
        needs_version: 0,
        goes_on: false,
        was_tainted: false,
        root,
        cross: Vec::new(),
        is_upstream: false,
        intermediates: Vec::new(),
        delegate: String::new(),
        certificate,
        sealed_key,
    }
}
