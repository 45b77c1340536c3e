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

    /// Reads a key set that is all or nothing. Keys for other things, and of kinds unknown here, are passed over.
    ///
    /// # Errors
    /// It is no key set, or one of its keys for tokens is wrong: the set is not taken in part, lest a key vanish unseen.
    pub fn from_jwks(jwks: &[u8]) -> Result<Self, JwtBundleError> {
        let keys: Result<Vec<_>, _> = listed(jwks, JwtKey::from_jwk)?.1.collect();
        Self::new(keys?)
    }

    /// Reads the keys of an issuer of users' tokens, who publishes them for others too. Those that are wrong are passed
    /// over, and told, as is why, where none is left: whoever publishes no key takes back all. One without an id is
    /// called by its fingerprint. Of those that have one id and differ none counts: a token would not say which.
    ///
    /// # Errors
    /// It is no key set.
    pub fn of_issuer(jwks: &[u8]) -> Result<(Self, Vec<JwtBundleError>), JwtBundleError> {
        let (count, listed) = listed(jwks, JwtKey::from_jwk_of_issuer)?;
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        for key in listed {
            match key {
                Ok(key) => keys.push(key),
                Err(error) => passed_over.push(error),
            }
        }
        let keys = Self::unambiguous(keys, |id| passed_over.push(JwtBundleError::SameId(id)));
        if keys.is_empty() && passed_over.is_empty() {
            passed_over.push(JwtBundleError::NoneForTokens(count));
        }
        Ok((keys, passed_over))
    }

    /// These keys without those of which several have one id; `tell` hears of it. The same key twice is one.
    pub(crate) fn unambiguous(keys: impl IntoIterator<Item = JwtKey>, mut tell: impl FnMut(String)) -> Self {
        let mut by_id = BTreeMap::<String, Option<JwtKey>>::new();
        for key in keys {
            match by_id.get_mut(key.id()) {
                None => drop(by_id.insert(key.id().to_owned(), Some(key))),
                Some(former) => {
                    if former.as_ref().is_some_and(|former| *former != key) {
                        tell(key.id().to_owned());
                        *former = None;
                    }
                }
            }
        }
        Self(by_id.into_iter().filter_map(|(id, key)| Some((id, key?))).collect())
    }

    /// Leaves out what may sign other tokens alone.
    pub(super) fn retain_for_svids(&mut self) {
        self.0.retain(|_, key| key.is_for_svids());
    }

    /// Whether nothing verifies.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set in RFC 7517's form, in the order of the ids.
    pub fn to_jwks(&self, purpose: KeyUse) -> String {
        let keys = self.keys().map(|key| {
            let mut jwk = key.to_jwk();
            if purpose == KeyUse::Signature {
                jwk.insert("use".to_owned(), json!("sig"));
                if let Some(only) = key.only_algorithm() {
                    jwk.insert("alg".to_owned(), json!(only.as_str()));
                }
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
        let refused = |source| JwtBundleError::Key { number: index + 1, source };
        let Some(jwk) = jwk.as_object() else {
            keys.push(Err(refused(JwtKeyError::NotAnObject)));
            continue;
        };
        if jwk.get("use").is_none_or(|purpose| purpose == "sig" || purpose == "jwt-svid") {
            keys.extend(read(jwk).map_err(refused).transpose());
        }
    }
    Ok((listed.len(), keys.into_iter()))
}

impl fmt::Debug for JwtKeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
