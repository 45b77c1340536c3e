//! The signing keys there are, and which of them signs at a moment.

use std::fmt;
use std::sync::Arc;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::jwt::{JwtBundle, JwtBundleError, JwtKeyError, JwtSigner};
use hauberk_tls::signing::SigningError;
use tokio::sync::watch;

use super::record::SigningKeyRecord;
use crate::audit::Audit;
use crate::authority::{KeyEncryptionKey, SealError};
use crate::clock::Clock;
use crate::registry::{Store, StoreError, Stored, document, keys};

/// How many records are read; there are three at the most.
const MANY: usize = 1_000;

/// Signing keys that cannot be made, stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The registry cannot be read, or takes no writes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key is sealed under another key-encryption key.
    #[error(transparent)]
    Seal(#[from] SealError),
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
    pub(super) store: Arc<dyn Store>,
    pub(super) audit: Arc<Audit>,
    pub(super) kek: Arc<KeyEncryptionKey>,
    pub(super) clock: Clock,
    trust_domain: TrustDomain,
    current: watch::Sender<Arc<KeySet>>,
}

/// The keys of one moment.
pub struct KeySet {
    keys: Vec<SigningKey>,
    bundle: JwtBundle,
}

/// One key and when it signs.
pub(super) struct SigningKey {
    pub(super) signs_from: UnixMillis,
    pub(super) not_after: UnixMillis,
    pub(super) signer: JwtSigner,
}

impl SigningKeys {
    /// Reads the keys that the registry holds; a new installation has none until [`SigningKeys::rotate`] makes one.
    ///
    /// # Errors
    /// When a record cannot be read or opened.
    pub async fn load(
        store: Arc<dyn Store>,
        audit: Arc<Audit>,
        kek: Arc<KeyEncryptionKey>,
        clock: Clock,
        trust_domain: TrustDomain,
    ) -> Result<Self, SigningKeyError> {
        let current = watch::Sender::new(Arc::new(KeySet::none(trust_domain.clone())?));
        let signing_keys = Self { store, audit, kek, clock, trust_domain, current };
        let records = signing_keys.records().await?;
        signing_keys.publish(records.iter().map(|(name, record, _)| (name, record)))?;
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

    /// What the registry holds, in the order in which the keys sign.
    pub(super) async fn records(&self) -> Result<Vec<(String, SigningKeyRecord, Stored)>, StoreError> {
        let page = self.store.list(keys::JWT_KEYS, None, MANY).await?;
        let read = |(key, stored): (String, Stored)| {
            document::from_stored(&key, &stored).map(|record| (key, record, stored))
        };
        let mut records = page.entries.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        records.sort_by_key(|(_, record, _): &(_, SigningKeyRecord, _)| record.signs_from);
        Ok(records)
    }

    /// Makes these the keys that are signed with and published. Where they are the same, nobody is told.
    pub(super) fn publish<'a>(
        &self,
        records: impl Iterator<Item = (&'a String, &'a SigningKeyRecord)>,
    ) -> Result<(), SigningKeyError> {
        let mut keys = Vec::new();
        for (name, record) in records {
            keys.push(SigningKey {
                signs_from: UnixMillis(record.signs_from),
                not_after: UnixMillis(record.not_after),
                signer: JwtSigner::from_pkcs8_der(&self.kek.open(name, &record.sealed_key)?)?,
            });
        }
        let public = keys.iter().map(|key| key.signer.public_key()).collect::<Result<Vec<_>, _>>()?;
        let bundle = JwtBundle::new(self.trust_domain.clone(), public)?;
        self.current.send_if_modified(|current| {
            let differs = current.bundle != bundle;
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

    /// The key that signs at this moment: the last that has begun to.
    pub(super) fn signing_at(&self, now: UnixMillis) -> Option<&SigningKey> {
        self.keys.iter().rev().find(|key| key.signs_from <= now && now < key.not_after)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bundle.fmt(f)
    }
}
