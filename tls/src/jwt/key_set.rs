//! Keys that verify tokens, as a JSON Web Key Set has them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::bundle::{JwtBundleError, KeyUse};
use super::key::{JwtKey, JwtKeyError};
use super::strict_json;

/// The largest set that is read, in bytes.
const MAX_SET_BYTES: usize = 1024 * 1024;

/// The most keys that a set may hold.
const MAX_KEYS: usize = 256;

/// Keys by their ids. Without any, nothing verifies.
#[derive(PartialEq, Eq, Default)]
pub struct JwtKeySet(BTreeMap<String, JwtKey>);

impl JwtKeySet {
    /// These keys.
    ///
    /// # Errors
    /// Two have the same id.
    pub fn new(keys: impl IntoIterator<Item = JwtKey>) -> Result<Self, JwtBundleError> {
        let mut by_id = BTreeMap::new();
        for key in keys {
            if let Some(former) = by_id.insert(key.id().to_owned(), key) {
                return Err(JwtBundleError::SameId(former.id().to_owned()));
            }
        }
        Ok(Self(by_id))
    }

    /// Reads a key set, of OpenID Connect or of SPIFFE. Keys for other things, and of kinds unknown here, are passed over.
    ///
    /// # Errors
    /// It is no key set, or one of its keys for tokens is wrong: the set is not taken in part, lest a key vanish unseen.
    pub fn from_jwks(jwks: &[u8]) -> Result<Self, JwtBundleError> {
        let keys: Result<Vec<_>, _> = listed(jwks, JwtKey::from_jwk)?.1.collect();
        Self::new(keys?)
    }

    /// Reads the keys of an issuer of users' tokens, who publishes them for others too. Those that are wrong are passed over,
    /// and told; one without an id is called by its fingerprint.
    ///
    /// # Errors
    /// It is no key set, two keys have one id, or none of its keys is of use: nobody's tokens would be good by it.
    pub fn of_issuer(jwks: &[u8]) -> Result<(Self, Vec<JwtBundleError>), JwtBundleError> {
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        let (count, listed) = listed(jwks, JwtKey::from_jwk_of_issuer)?;
        for key in listed {
            match key {
                Ok(key) => keys.push(key),
                Err(error) => passed_over.push(error),
            }
        }
        match passed_over.first() {
            Some(first) if keys.is_empty() => Err(JwtBundleError::NoneOfUse(Box::new(first.clone()))),
            None if keys.is_empty() => Err(JwtBundleError::NoneForTokens(count)),
            _ => Ok((Self::new(keys)?, passed_over)),
        }
    }

    /// The set in RFC 7517's form, in the order of the ids.
    pub fn to_jwks(&self, purpose: KeyUse) -> String {
        let keys = self.keys().map(|key| {
            let mut jwk = key.to_jwk();
            if purpose == KeyUse::Signature {
                jwk.insert("use".to_owned(), json!("sig"));
            }
            jwk
        });
        json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    }

    /// The key of this id.
    pub fn key(&self, id: &str) -> Option<&JwtKey> {
        self.0.get(id)
    }

    /// All keys, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &JwtKey> {
        self.0.values()
    }
}

/// How many keys a set lists, and those for tokens, in its order.
fn listed(
    jwks: &[u8],
    read: impl Fn(&Map<String, Value>) -> Result<Option<JwtKey>, JwtKeyError>,
) -> Result<(usize, impl Iterator<Item = Result<JwtKey, JwtBundleError>>), JwtBundleError> {
    if jwks.len() > MAX_SET_BYTES {
        return Err(JwtBundleError::TooLarge);
    }
    let set = strict_json::object(jwks).ok_or(JwtBundleError::NotASet)?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or(JwtBundleError::NotASet)?;
    if listed.len() > MAX_KEYS {
        return Err(JwtBundleError::TooLarge);
    }
    let mut keys = Vec::new();
    for (index, jwk) in listed.iter().enumerate() {
        let jwk = jwk.as_object().ok_or(JwtBundleError::NotASet)?;
        if jwk.get("use").is_none_or(|purpose| purpose == "sig" || purpose == "jwt-svid") {
            let key = read(jwk).map_err(|source| JwtBundleError::Key { number: index + 1, source });
            keys.extend(key.transpose());
        }
    }
    Ok((listed.len(), keys.into_iter()))
}

impl fmt::Debug for JwtKeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
