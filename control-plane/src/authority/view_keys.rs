//! The keys that sign views and denylists: the latest signs, all are believed.
//!
//! One follows another in a single step. Agents are told of the new key on the stream on which what it signs comes next, so
//! that nobody has to be waited for; and as soon as an agent has what the new one has signed, it keeps that.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_tls::signing::ViewSigner;

use super::book::Book;
use super::make::ISSUING_LIFE;
use super::records::ViewKeyRecord;
use super::steps::{OUTLIVED_AFTER, Step};
use super::{AuthorityError, KeyStore};
use crate::registry::{Commit, StoreError, document, keys};

/// How long a key signs before the next one does.
pub(super) const SIGNS_FOR: Duration = ISSUING_LIFE;

/// A key whose signatures on views are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewKey {
    /// SHA-256 of the key, hexadecimal.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewKeyView {
    /// SHA-256 of the key, hexadecimal.
    pub key_id: String,
    /// It signs; the others are believed only.
    pub signs: bool,
    /// When it was made.
    pub created_at: UnixMillis,
    /// Since when it signs, or signs no longer.
    pub changed_at: UnixMillis,
    /// When the next one follows, or when it is believed no longer.
    pub until: UnixMillis,
    /// Live instances that have said that they believe it.
    pub holders: usize,
}

/// One key as it stands in the registry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key_id: String,
    pub(super) record: ViewKeyRecord,
}

/// Who signs views, and whose signatures are believed, at one moment.
#[derive(Debug, Clone)]
pub(super) struct ViewKeys {
    pub(super) signer: Arc<ViewSigner>,
    pub(super) believed: Vec<ViewKey>,
}

impl ViewKeys {
    /// What the book says. The signer is `before`'s where it still is the one.
    ///
    /// # Errors
    /// There is no key, or it does not open.
    pub(super) fn of(book: &Book, keys: &KeyStore, before: Option<&Self>) -> Result<Self, AuthorityError> {
        let latest = book.view_keys.last().ok_or(AuthorityError::Missing("view-signing key"))?;
        let signer = match before.filter(|before| before.signer.key_id() == latest.key_id) {
            Some(before) => Arc::clone(&before.signer),
            None => {
                let sealed = &latest.record.sealed_key;
                Arc::new(ViewSigner::from_pkcs8_der(&keys.kek().open(&store_key(&latest.key_id), sealed)?)?)
            }
        };
        let believed = book.view_keys.iter().map(|Entry { key_id, record }| ViewKey {
            key_id: key_id.clone(),
            public_key: record.public_key.clone(),
        });
        Ok(Self { signer, believed: believed.collect() })
    }

    /// The first one of an installation.
    pub(super) fn founded(signer: ViewSigner) -> Self {
        let first =
            ViewKey { key_id: signer.key_id().to_owned(), public_key: signer.public_key_der().to_vec() };
        Self { signer: Arc::new(signer), believed: vec![first] }
    }
}

/// A key's record, and where it belongs.
pub(super) fn record_of(
    signer: &ViewSigner,
    keys: &KeyStore,
    created_at: u64,
) -> Result<(String, ViewKeyRecord), AuthorityError> {
    let key = store_key(signer.key_id());
    let record = ViewKeyRecord {
        created_at,
        public_key: signer.public_key_der().to_vec(),
        sealed_key: keys.kek().seal(&key, &signer.to_pkcs8_der()?)?,
    };
    Ok((key, record))
}

/// Another key signs from now on. Gives its id.
pub(super) fn rotate(
    book: &Book,
    keys: &KeyStore,
    now: UnixMillis,
) -> Result<(String, Commit), AuthorityError> {
    let signer = ViewSigner::generate()?;
    // Which is the latest is told by these instants, whatever the clock does.
    let after_all = book.view_keys.iter().map(|entry| entry.record.created_at + 1).fold(now.0, u64::max);
    let (key, record) = record_of(&signer, keys, after_all)?;
    let bytes = document::to_bytes(&key, &record)?;
    Ok((signer.key_id().to_owned(), book.change()?.put(key, bytes)))
}

/// What a key has signed is believed no longer.
pub(super) fn revoke(book: &Book, key_id: &str) -> Result<Commit, StoreError> {
    Ok(book.change()?.delete(store_key(key_id)))
}

/// What is due by itself.
pub(super) fn due(book: &Book, now: UnixMillis) -> impl Iterator<Item = Step> {
    let shown = show(book);
    shown
        .into_iter()
        .filter(move |key| now >= key.until)
        .map(|key| if key.signs { Step::RotateViewKey } else { Step::RevokeViewKey(key.key_id) })
}

/// All keys, the oldest first. Of who believes them the registry knows nothing.
pub(super) fn show(book: &Book) -> Vec<ViewKeyView> {
    let next = book.view_keys.iter().skip(1).map(Some).chain([None]);
    let shown = book.view_keys.iter().zip(next).map(|(entry, next)| {
        let created_at = UnixMillis(entry.record.created_at);
        let changed_at = next.map_or(created_at, |next| UnixMillis(next.record.created_at));
        ViewKeyView {
            key_id: entry.key_id.clone(),
            signs: next.is_none(),
            created_at,
            changed_at,
            until: changed_at.plus(if next.is_none() { SIGNS_FOR } else { OUTLIVED_AFTER }),
            holders: 0,
        }
    });
    shown.collect()
}

fn store_key(key_id: &str) -> String {
    format!("{}{key_id}", keys::VIEW_KEYS)
}
