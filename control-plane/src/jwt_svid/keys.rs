//! The signing keys there are, and which of them signs at a moment.

use std::fmt;
use std::sync::Arc;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::jwt::{JwtBundle, JwtBundleError, JwtKeyError, JwtSigner};
use hauberk_tls::signing::SigningError;
use tokio::sync::watch;

use super::record::SigningKeyRecord;
use crate::authority::{KeyEncryptionKey, SealError};
use crate::registry::{Store, StoreError, Stored, document, keys};

/// Signing keys that cannot be made, stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The registry cannot be read, or takes no writes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key is sealed under another key-encryption key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The caller names none. The fault is the caller's.
    #[error("no key that signs tokens has the id {0}: `hauberk authority list` shows those there are")]
    NotThere(String),
    /// A private key could not be made or read.
    #[error("a key that signs tokens cannot be used")]
    Key(#[from] SigningError),
    /// A public key could not be read.
    #[error("a key that signs tokens is damaged")]
    PublicKey(#[from] JwtKeyError),
    /// Two records hold one key.
    #[error("the keys that sign tokens do not make a set")]
    Bundle(#[from] JwtBundleError),
}

/// Keeps the signing keys: in the registry, sealed, and as a snapshot for those who sign or publish.
pub struct SigningKeys {
    store: Arc<dyn Store>,
    pub(super) kek: Arc<KeyEncryptionKey>,
    trust_domain: TrustDomain,
    current: watch::Sender<Arc<KeySet>>,
}

/// The keys of one moment, in the order in which they sign.
pub struct KeySet {
    pub(super) keys: Vec<SigningKey>,
    bundle: JwtBundle,
}

/// One key, and what the registry says of it.
pub(super) struct SigningKey {
    pub(super) record: SigningKeyRecord,
    pub(super) signer: JwtSigner,
}

impl SigningKeys {
    /// Reads the keys that the registry holds; a new installation has none until the first is made.
    ///
    /// # Errors
    /// When a record cannot be read or opened.
    pub async fn load(
        store: Arc<dyn Store>,
        kek: Arc<KeyEncryptionKey>,
        trust_domain: TrustDomain,
    ) -> Result<Self, SigningKeyError> {
        let current = watch::Sender::new(Arc::new(KeySet::none(trust_domain.clone())?));
        let signing_keys = Self { store, kek, trust_domain, current };
        let records = signing_keys.records().await?;
        let opened = records.into_iter().map(|(name, record)| signing_keys.open(&name, record));
        signing_keys.publish(opened.collect::<Result<_, _>>()?)?;
        Ok(signing_keys)
    }

    /// The keys now, and each change of them.
    pub fn subscribe(&self) -> watch::Receiver<Arc<KeySet>> {
        self.current.subscribe()
    }

    /// The keys now.
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.borrow())
    }

    /// Makes what the registry holds the keys that are signed with and published. One that does not open is left out, which is
    /// reported: nothing is signed with it, and what it has signed is refused.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub async fn reload(&self) -> Result<(), SigningKeyError> {
        let mut keys = Vec::new();
        for (name, record) in self.records().await? {
            match self.open(&name, record) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(event = "jwt_key_failed", key = name, %error, cause, "a key that signs tokens is left out");
                }
            }
        }
        self.publish(keys)
    }

    /// The id and the public key, an uncompressed point, of what stands in the registry under this name: what its private key, once
    /// opened, verifies by.
    ///
    /// # Errors
    /// The record cannot be read or opened.
    pub fn public_key_of(&self, name: &str, stored: &Stored) -> Result<(String, Vec<u8>), SigningKeyError> {
        let key = self.open(name, document::from_stored(name, stored)?)?;
        Ok((key.id().to_owned(), key.signer.public_point().to_vec()))
    }

    async fn records(&self) -> Result<Vec<(String, SigningKeyRecord)>, StoreError> {
        let page = self.store.list(keys::JWT_KEYS, None, usize::MAX).await?;
        let read = page
            .entries
            .into_iter()
            .map(|(key, stored)| document::from_stored(&key, &stored).map(|record| (key, record)));
        read.collect()
    }

    fn open(&self, name: &str, record: SigningKeyRecord) -> Result<SigningKey, SigningKeyError> {
        let signer = JwtSigner::from_pkcs8_der(&self.kek.open(name, &record.sealed_key)?)?;
        Ok(SigningKey { record, signer })
    }

    /// Where they are the same, nobody is told.
    fn publish(&self, mut keys: Vec<SigningKey>) -> Result<(), SigningKeyError> {
        // Of two that sign from one instant on, the one of which was told last is the later.
        keys.sort_by_key(|key| (key.record.signs_from, key.record.needs_version));
        let public = keys.iter().map(|key| key.signer.public_key()).collect::<Result<Vec<_>, _>>()?;
        let bundle = JwtBundle::new(self.trust_domain.clone(), public)?;
        self.current.send_if_modified(|current| {
            let records = |keys: &[SigningKey]| keys.iter().map(|key| key.record.clone()).collect::<Vec<_>>();
            let differs = records(&current.keys) != records(&keys);
            if differs {
                *current = Arc::new(KeySet { keys, bundle });
            }
            differs
        });
        Ok(())
    }
}

impl KeySet {
    /// No keys.
    pub(crate) fn none(trust_domain: TrustDomain) -> Result<Self, JwtBundleError> {
        Ok(Self { keys: Vec::new(), bundle: JwtBundle::new(trust_domain, [])? })
    }

    /// What verifies the tokens of all keys: those that sign, will sign, and have signed.
    pub fn bundle(&self) -> &JwtBundle {
        &self.bundle
    }

    /// The ids of those that may be in other hands.
    pub fn tainted(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter(|key| key.is_tainted()).map(SigningKey::id)
    }

    /// The key that signs at this moment: the last that has begun to.
    pub(super) fn signing_at(&self, now: UnixMillis) -> Option<&SigningKey> {
        self.keys.iter().rev().find(|key| {
            !key.is_tainted() && UnixMillis(key.record.signs_from) <= now && now < key.not_after()
        })
    }
}

impl SigningKey {
    pub(super) fn id(&self) -> &str {
        self.signer.key_id()
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.record.tainted_at.is_some()
    }

    pub(super) fn not_after(&self) -> UnixMillis {
        UnixMillis(self.record.not_after)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bundle.fmt(f)
    }
}
