//! Ourselves as an issuer of users' tokens: the keys of a JwtIssuer that names us are those that sign here, as of the very revision that changes
//! them. Nobody is asked for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_tls::jwt::{JwtBundleError, JwtKey, JwtKeySet};

use super::jwt_issuer::JwtIssuer;
use crate::jwt_svid::SigningKeys;
use crate::registry::{Revision, Stored};

/// What our own tokens name as their issuer, and what opens the keys that sign them.
#[derive(Clone)]
pub struct OwnIssuerParts {
    /// Its URL, letter for letter.
    pub url: String,
    /// The keys.
    pub signing_keys: Arc<SigningKeys>,
}

/// Our own issuer at one revision.
#[derive(Debug, Clone)]
pub struct OwnIssuer {
    url: String,
    /// Of each key the id and the point, by the name of its record.
    points: BTreeMap<String, (String, Vec<u8>)>,
    keys: Arc<JwtKeySet>,
    revision: Revision,
}

impl OwnIssuer {
    /// The keys that the registry has at `revision`.
    pub(super) fn read<'a>(
        parts: &OwnIssuerParts,
        records: impl Iterator<Item = (&'a str, &'a Stored)>,
        revision: Revision,
    ) -> Self {
        let none = Self { url: parts.url.clone(), points: BTreeMap::new(), keys: Arc::default(), revision };
        none.after(parts, records.map(|(name, stored)| (name, Some(stored))), revision)
    }

    /// What they are after these writes. One that does not open is left out, as it is where our keys are published.
    pub(super) fn after<'a>(
        &self,
        parts: &OwnIssuerParts,
        writes: impl Iterator<Item = (&'a str, Option<&'a Stored>)>,
        revision: Revision,
    ) -> Self {
        let mut points = self.points.clone();
        for (name, stored) in writes {
            points.remove(name);
            match stored.map(|stored| parts.signing_keys.public_key_of(name, stored)).transpose() {
                Ok(Some(key)) => drop(points.insert(name.to_owned(), key)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(event = "own_issuer_key_unreadable", key = name, %error, "what it has signed is refused");
                }
            }
        }
        let keys = key_set(&points).unwrap_or_else(|error| {
            tracing::error!(event = "own_issuer_keys_unreadable", %error, "what our own issuer has signed is refused");
            JwtKeySet::default()
        });
        Self { url: self.url.clone(), points, keys: Arc::new(keys), revision }
    }

    /// Whether an issuer is us, and nobody has written down its keys alone.
    pub(super) fn is(&self, issuer: &JwtIssuer) -> bool {
        issuer.endpoint().is_some() && self.is_named_by(issuer)
    }

    /// Whether an issuer has our name, wherever its keys come from.
    pub(super) fn is_named_by(&self, issuer: &JwtIssuer) -> bool {
        issuer.issuer() == self.url
    }

    /// What verifies our tokens.
    pub(super) fn keys(&self) -> &Arc<JwtKeySet> {
        &self.keys
    }

    /// The last revision that changed the keys, or at which this control plane began to follow them.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }
}

fn key_set(points: &BTreeMap<String, (String, Vec<u8>)>) -> Result<JwtKeySet, JwtBundleError> {
    let keys = points.values().enumerate().map(|(index, (id, point))| {
        JwtKey::es256(id, point).map_err(|source| JwtBundleError::Key { number: index + 1, source })
    });
    JwtKeySet::new(keys.collect::<Result<Vec<_>, _>>()?)
}
