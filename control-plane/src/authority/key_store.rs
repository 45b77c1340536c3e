//! Where the keys of authorities are made and found again: in a token, if there is one, else sealed in the registry.
//!
//! Which of both it was is in an authority's record, so that those of before a token came go on signing until others follow
//! them.

use std::sync::Arc;

use hauberk_identity::{Serial, TrustDomain};
use hauberk_tls::{AuthorityKey, KeyPair};

use super::book::{Entry, Kind};
use super::records::{RequestRecord, TokenKeyRecord};
use super::token::{Token, TokenError};
use super::{AuthorityError, KeyEncryptionKey};
use crate::registry::keys;

/// Makes keys and opens them.
#[derive(Clone)]
pub struct KeyStore {
    kek: Arc<KeyEncryptionKey>,
    token: Option<Arc<Token>>,
}

/// A key as its record refers to it.
#[derive(Clone)]
pub(super) enum StoredKey {
    /// PKCS#8, sealed for the record.
    Sealed(Vec<u8>),
    /// It is where it was made.
    InToken(TokenKeyRecord),
}

impl StoredKey {
    /// As records have it: sealed, or in a token.
    pub(super) fn into_parts(self) -> (Vec<u8>, Option<TokenKeyRecord>) {
        match self {
            Self::Sealed(sealed) => (sealed, None),
            Self::InToken(record) => (Vec::new(), Some(record)),
        }
    }
}

/// What has become of a key that nobody needs any longer.
pub(super) enum Destroyed {
    /// It goes with its record.
    WithItsRecord,
    /// It was destroyed in the token.
    InToken,
    /// It stays where nobody here can reach it.
    Left,
}

impl KeyStore {
    /// Keys are made in the token, if there is one.
    pub fn new(kek: Arc<KeyEncryptionKey>, token: Option<Arc<Token>>) -> Self {
        Self { kek, token }
    }

    /// The key that seals others.
    pub fn kek(&self) -> &Arc<KeyEncryptionKey> {
        &self.kek
    }

    /// Where keys are made, if not here.
    pub fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// Does something with keys where that may wait.
    pub(super) async fn run<T: Send + 'static, E: From<TokenError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        match &self.token {
            None => work(self),
            Some(token) => {
                if let Some(reason) = token.out_of_order() {
                    return Err(TokenError::OutOfOrder(reason).into());
                }
                let keys = self.clone();
                token.makes(move || work(&keys)).await
            }
        }
    }

    /// Does something with the key of one authority: one that is not in a token takes no waiting for it.
    pub(super) async fn run_with<T: Send + 'static, E: From<TokenError> + Send + 'static>(
        &self,
        entry: &Entry,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        match entry.record.token_key {
            None => work(self),
            Some(_) => self.run(work).await,
        }
    }

    pub(super) fn generate(
        &self,
        trust_domain: &TrustDomain,
        kind: Kind,
        serial: Serial,
    ) -> Result<(AuthorityKey, StoredKey), AuthorityError> {
        let label = format!("hauberk {trust_domain} {} {serial}", kind.as_str());
        self.generate_for(&kind.key(&serial.to_string()), &label)
    }

    /// A key for an authority that somebody else is to sign, under a serial number that nobody knows yet.
    pub(super) fn generate_for_request(
        &self,
        trust_domain: &TrustDomain,
        unique: Serial,
    ) -> Result<(AuthorityKey, StoredKey), AuthorityError> {
        self.generate_for(keys::AUTHORITY_REQUEST, &format!("hauberk {trust_domain} request {unique}"))
    }

    fn generate_for(&self, name: &str, label: &str) -> Result<(AuthorityKey, StoredKey), AuthorityError> {
        let Some(token) = &self.token else {
            let key = KeyPair::generate()?;
            let sealed = self.kek.seal(name, &key.to_pkcs8_der())?;
            return Ok((key.into(), StoredKey::Sealed(sealed)));
        };
        let record = token.generate(label)?;
        Ok((token.key(&record).and_then(proven)?, StoredKey::InToken(record)))
    }

    /// The same as [`KeyStore::open`]; one that is in a token is waited for where that may be.
    pub(super) async fn open_in_time(&self, entry: &Entry) -> Result<AuthorityKey, AuthorityError> {
        let whose = entry.clone();
        self.run_with(entry, move |keys| keys.open(&whose)).await
    }

    /// The key of an authority, once it has signed something where it is in a token.
    pub(super) fn open(&self, entry: &Entry) -> Result<AuthorityKey, AuthorityError> {
        self.load(entry).and_then(proven)
    }

    /// The same without a signature: a token is asked for nothing.
    pub(super) fn load(&self, entry: &Entry) -> Result<AuthorityKey, AuthorityError> {
        let whose = || format!("{} authority {}", entry.kind.as_str(), entry.serial);
        self.load_stored(&entry.key(), &entry.record.sealed_key, entry.record.token_key.as_ref(), whose)
    }

    /// The key of a request.
    pub(super) fn open_request(&self, request: &RequestRecord) -> Result<AuthorityKey, AuthorityError> {
        let whose = || "the request that waits".to_owned();
        self.load_stored(keys::AUTHORITY_REQUEST, &request.sealed_key, request.token_key.as_ref(), whose)
            .and_then(proven)
    }

    fn load_stored(
        &self,
        name: &str,
        sealed_key: &[u8],
        token_key: Option<&TokenKeyRecord>,
        whose: impl FnOnce() -> String,
    ) -> Result<AuthorityKey, AuthorityError> {
        match (token_key, &self.token) {
            (None, _) => Ok(KeyPair::from_pkcs8_der(&self.kek.open(name, sealed_key)?)?.into()),
            (Some(record), Some(token)) => token.key(record),
            (Some(record), None) => Err(AuthorityError::NoToken {
                whose: whose(),
                label: record.label.clone(),
                serial: record.token_serial.clone(),
            }),
        }
    }

    /// The key of a request as the record of the authority that it has become refers to it.
    pub(super) fn hand_over(
        &self,
        request: &RequestRecord,
        serial: Serial,
    ) -> Result<StoredKey, AuthorityError> {
        if let Some(record) = &request.token_key {
            return Ok(StoredKey::InToken(record.clone()));
        }
        let key = self.kek.open(keys::AUTHORITY_REQUEST, &request.sealed_key)?;
        Ok(StoredKey::Sealed(self.kek.seal(&Kind::Issuing.key(&serial.to_string()), &key)?))
    }

    pub(super) fn destroy(&self, token_key: Option<&TokenKeyRecord>) -> Result<Destroyed, TokenError> {
        match (token_key, &self.token) {
            (None, _) => Ok(Destroyed::WithItsRecord),
            (Some(_), None) => Ok(Destroyed::Left),
            // In the token of the record it is not there if we were killed just after it was destroyed.
            (Some(record), Some(token)) => {
                let was_there = token.destroy(record)?;
                let is_its_token = record.token_serial == token.serial();
                Ok(if was_there || is_its_token { Destroyed::InToken } else { Destroyed::Left })
            }
        }
    }
}

/// A key that signs: one that is in a token has to show it.
fn proven(key: AuthorityKey) -> Result<AuthorityKey, AuthorityError> {
    if key.is_elsewhere() {
        key.prove().map_err(AuthorityError::TokenKey)?;
    }
    Ok(key)
}
