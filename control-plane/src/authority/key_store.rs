//! Where the keys of authorities are made and found again: in a token, if there is one, else sealed in the registry.
//!
//! Which of both it was is in an authority's record, so that those of before a token came go on signing until others follow
//! them.

use std::sync::Arc;

use hauberk_identity::{Serial, TrustDomain};
use hauberk_tls::{AuthorityKey, KeyPair};

use super::book::{Entry, Kind};
use super::records::TokenKeyRecord;
use super::token::{Token, TokenError};
use super::{AuthorityError, KeyEncryptionKey};

/// Makes keys and opens them.
#[derive(Clone)]
pub struct KeyStore {
    kek: Arc<KeyEncryptionKey>,
    token: Option<Arc<Token>>,
}

/// A key as its record refers to it.
pub(super) enum StoredKey {
    /// PKCS#8, sealed for the record.
    Sealed(Vec<u8>),
    /// It is where it was made.
    InToken(TokenKeyRecord),
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
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, AuthorityError> + Send + 'static,
    ) -> Result<T, AuthorityError> {
        match &self.token {
            None => work(self),
            Some(token) => {
                if let Some(reason) = token.out_of_order() {
                    return Err(TokenError::OutOfOrder(reason).into());
                }
                let keys = self.clone();
                token.makes(move || work(&keys)).await?
            }
        }
    }

    pub(super) fn generate(
        &self,
        trust_domain: &TrustDomain,
        kind: Kind,
        serial: Serial,
    ) -> Result<(AuthorityKey, StoredKey), AuthorityError> {
        let Some(token) = &self.token else {
            let key = KeyPair::generate()?;
            let sealed = self.kek.seal(&kind.key(&serial.to_string()), &key.to_pkcs8_der())?;
            return Ok((key.into(), StoredKey::Sealed(sealed)));
        };
        let record = token.generate(&format!("hauberk {trust_domain} {} {serial}", kind.as_str()))?;
        match token.key(&record) {
            Ok(key) => Ok((key, StoredKey::InToken(record))),
            Err(error) => {
                // Nothing is written of it.
                let _left = token.destroy(&record);
                Err(error)
            }
        }
    }

    /// The same as [`KeyStore::open`]; one that is in a token is waited for where that may be.
    pub(super) async fn open_in_time(&self, entry: &Entry) -> Result<AuthorityKey, AuthorityError> {
        if entry.record.token_key.is_none() {
            return self.open(entry);
        }
        let entry = entry.clone();
        self.run(move |keys| keys.open(&entry)).await
    }

    pub(super) fn open(&self, entry: &Entry) -> Result<AuthorityKey, AuthorityError> {
        match (&entry.record.token_key, &self.token) {
            (None, _) => {
                Ok(KeyPair::from_pkcs8_der(&self.kek.open(&entry.key(), &entry.record.sealed_key)?)?.into())
            }
            (Some(record), Some(token)) => token.key(record),
            (Some(record), None) => Err(AuthorityError::NoToken {
                kind: entry.kind.as_str(),
                authority: entry.serial.clone(),
                label: record.label.clone(),
                serial: record.token_serial.clone(),
            }),
        }
    }

    pub(super) fn destroy(&self, entry: &Entry) -> Result<Destroyed, TokenError> {
        match (&entry.record.token_key, &self.token) {
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
