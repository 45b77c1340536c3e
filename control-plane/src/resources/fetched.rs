//! The last good bundle of a trust domain that is followed, as the registry keeps it.

use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain, UnixMillis};
use hauberk_tls::SpiffeBundle;
use serde::{Deserialize, Serialize};

use super::catalog::{Entry, Model};
use super::key::ResourceKey;
use crate::registry::{Stored, document, keys};

/// A bundle that was fetched and found good, and for which resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBundle {
    /// Of the resource as it was made.
    uid: String,
    /// Of its spec: what was fetched by another one counts no longer, so that an admin's word is the last.
    spec_digest: [u8; 32],
    bundle: Arc<SpiffeBundle>,
    highest_sequence: Option<u64>,
    fetched_at: UnixMillis,
}

#[derive(Serialize, Deserialize)]
struct Record {
    uid: String,
    #[serde(with = "document::base64_bytes")]
    spec_digest: Vec<u8>,
    bundle: String,
    highest_sequence: Option<u64>,
    fetched_at: u64,
}

impl FetchedBundle {
    /// What was fetched for the resource of `entry` in place of `former`. `None` where that is no federated trust domain.
    pub fn new(
        entry: &Entry,
        former: Option<&Self>,
        bundle: SpiffeBundle,
        fetched_at: UnixMillis,
    ) -> Option<Self> {
        let Model::FederatedTrustDomain(followed) = entry.model() else { return None };
        let former = former.filter(|former| former.is_for(entry)).and_then(|former| former.highest_sequence);
        Some(Self {
            uid: entry.uid().to_owned(),
            spec_digest: followed.digest(),
            highest_sequence: bundle.sequence().max(former),
            bundle: Arc::new(bundle),
            fetched_at,
        })
    }

    /// Whether it was fetched for this very resource.
    pub fn is_for(&self, entry: &Entry) -> bool {
        match entry.model() {
            Model::FederatedTrustDomain(followed) => {
                self.uid == entry.uid() && self.spec_digest == followed.digest()
            }
            _ => false,
        }
    }

    /// The bundle.
    pub fn bundle(&self) -> &Arc<SpiffeBundle> {
        &self.bundle
    }

    /// The highest number that any bundle from there has had.
    pub fn highest_sequence(&self) -> Option<u64> {
        self.highest_sequence
    }

    /// When.
    pub fn fetched_at(&self) -> UnixMillis {
        self.fetched_at
    }

    /// Where it stands in the registry.
    pub fn store_key(key: &ResourceKey) -> String {
        format!("{}{}/{}", keys::FETCHED_BUNDLES, key.mesh, key.name)
    }

    /// The resource that a record belongs to; `None` for what is no such record.
    pub fn resource_of(key: &str) -> Option<ResourceKey> {
        let (mesh, name) = key.strip_prefix(keys::FETCHED_BUNDLES)?.split_once('/')?;
        Some(ResourceKey::federated_trust_domain(Name::parse(mesh).ok()?, Name::parse(name).ok()?))
    }

    /// As the registry keeps it.
    ///
    /// # Errors
    /// Never, in practice: texts and numbers have a JSON.
    pub fn to_bytes(&self, key: &ResourceKey) -> Result<bytes::Bytes, crate::registry::StoreError> {
        let record = Record {
            uid: self.uid.clone(),
            spec_digest: self.spec_digest.to_vec(),
            bundle: self.bundle.to_document(),
            highest_sequence: self.highest_sequence,
            fetched_at: self.fetched_at.0,
        };
        document::to_bytes(&Self::store_key(key), &record)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Says why it is not what was written.
    pub fn from_stored(key: &ResourceKey, stored: &Stored) -> Result<Self, String> {
        let Record { uid, spec_digest, bundle, highest_sequence, fetched_at } =
            document::from_stored(&Self::store_key(key), stored).map_err(|error| error.to_string())?;
        let trust_domain = TrustDomain::parse(key.name.as_str()).map_err(|error| error.to_string())?;
        let bundle =
            SpiffeBundle::parse(&trust_domain, bundle.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self {
            uid,
            spec_digest: spec_digest.try_into().map_err(|_| "its digest has the wrong length".to_owned())?,
            bundle: Arc::new(bundle),
            highest_sequence,
            fetched_at: UnixMillis(fetched_at),
        })
    }
}
