//! The last good keys of an issuer of users' tokens, as the registry keeps them.

use std::sync::Arc;

use hauberk_identity::{Name, UnixMillis};
use hauberk_tls::jwt::{JwtKeySet, KeyUse};
use serde::{Deserialize, Serialize};

use super::catalog::{Entry, Model};
use super::key::{Kind, ResourceKey};
use crate::registry::{StoreError, Stored, document, keys};

/// Keys that were fetched and found good, and for which resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedKeys {
    /// Of the resource as it was made.
    uid: String,
    /// Of where its spec says that keys come from: what was fetched from elsewhere counts no longer, so that an admin's word is the last.
    spec_digest: [u8; 32],
    keys: Arc<JwtKeySet>,
    fetched_at: UnixMillis,
}

#[derive(Serialize, Deserialize)]
struct Record {
    uid: String,
    #[serde(with = "document::base64_bytes")]
    spec_digest: Vec<u8>,
    jwks: String,
    fetched_at: u64,
}

impl FetchedKeys {
    /// What was fetched for the resource of `entry`. `None` where that is no issuer.
    pub fn new(entry: &Entry, keys: JwtKeySet, fetched_at: UnixMillis) -> Option<Self> {
        let Model::JwtIssuer(issuer) = entry.model() else { return None };
        let (uid, spec_digest) = (entry.uid().to_owned(), issuer.digest());
        Some(Self { uid, spec_digest, keys: Arc::new(keys), fetched_at })
    }

    /// Whether they were fetched for this very resource.
    pub fn are_for(&self, entry: &Entry) -> bool {
        match entry.model() {
            Model::JwtIssuer(issuer) => self.uid == entry.uid() && self.spec_digest == issuer.digest(),
            _ => false,
        }
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<JwtKeySet> {
        &self.keys
    }

    /// When.
    pub fn fetched_at(&self) -> UnixMillis {
        self.fetched_at
    }

    /// Where they stand in the registry.
    pub fn store_key(key: &ResourceKey) -> String {
        format!("{}{}/{}", keys::FETCHED_KEYS, key.mesh, key.name)
    }

    /// The resource that a record belongs to; `None` for what is no such record.
    pub fn resource_of(key: &str) -> Option<ResourceKey> {
        let (mesh, name) = key.strip_prefix(keys::FETCHED_KEYS)?.split_once('/')?;
        let (mesh, name) = (Name::parse(mesh).ok()?, Name::parse(name).ok()?);
        Some(ResourceKey { kind: Kind::JwtIssuer, mesh, name })
    }

    /// As the registry keeps them.
    ///
    /// # Errors
    /// Never, in practice: texts and numbers have a JSON.
    pub fn to_bytes(&self, key: &ResourceKey) -> Result<bytes::Bytes, StoreError> {
        let record = Record {
            uid: self.uid.clone(),
            spec_digest: self.spec_digest.to_vec(),
            jwks: self.keys.to_jwks(KeyUse::Signature),
            fetched_at: self.fetched_at.0,
        };
        document::to_bytes(&Self::store_key(key), &record)
    }

    /// Reads them back.
    ///
    /// # Errors
    /// Says why it is not what was written.
    pub fn from_stored(key: &ResourceKey, stored: &Stored) -> Result<Self, String> {
        let Record { uid, spec_digest, jwks, fetched_at } =
            document::from_stored(&Self::store_key(key), stored).map_err(|error| error.to_string())?;
        // Those that a former release took, and this one does not, take no others with them.
        let (keys, _passed_over) =
            JwtKeySet::of_issuer(jwks.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self {
            uid,
            spec_digest: spec_digest.try_into().map_err(|_| "its digest has the wrong length".to_owned())?,
            keys: Arc::new(keys),
            fetched_at: UnixMillis(fetched_at),
        })
    }
}
