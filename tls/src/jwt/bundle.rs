//! The keys of one trust domain, as a JSON Web Key Set.

use std::fmt;

use hauberk_identity::TrustDomain;
use thiserror::Error;

use super::key::{JwtKey, JwtKeyError};
use super::key_set::JwtKeySet;

/// What a set says that its keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// `sig`, for OpenID Connect.
    Signature,
    /// Nothing, nor with which algorithm, for the Workload API: some libraries refuse the `use` that SPIFFE would have
    /// there.
    Unsaid,
}

/// The keys that verify the tokens of one trust domain. Without any, nothing verifies.
pub struct JwtBundle {
    trust_domain: TrustDomain,
    keys: JwtKeySet,
}

/// Why a set of keys, or one of its keys, is not taken. The fault is whoever published it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwtBundleError {
    /// Not a key set.
    #[error("not a JSON Web Key Set: an object with an array `keys`, in which no member stands twice")]
    NotASet,
    /// Too large.
    #[error("the key set is larger than 1 MiB, or has more than 256 keys")]
    TooLarge,
    /// A key is wrong.
    #[error("key number {number} is refused: {source}")]
    Key {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: JwtKeyError,
    },
    /// There are none for tokens among so many, which is no mistake where that is meant.
    #[error("{}", none_for_tokens(*.0))]
    NoneForTokens(usize),
    /// Two keys of one id: a token would not say which.
    #[error("two keys have the id {0:?}")]
    SameId(String),
}

fn none_for_tokens(count: usize) -> String {
    match count {
        0 => "it has no keys at all".to_owned(),
        1 => "its only key is none that verifies tokens: another `use` than sig, or a `kty` or `crv` that is not known".to_owned(),
        count => format!(
            "none of its {count} keys verifies tokens: another `use` than sig, or a `kty` or `crv` that is not known"
        ),
    }
}

impl JwtBundle {
    /// These keys, for tokens of this trust domain.
    ///
    /// # Errors
    /// Two have the same id.
    pub fn new(
        trust_domain: TrustDomain,
        keys: impl IntoIterator<Item = JwtKey>,
    ) -> Result<Self, JwtBundleError> {
        Ok(Self { trust_domain, keys: JwtKeySet::new(keys)? })
    }

    /// Reads a key set, of OpenID Connect or of SPIFFE. Keys for other things, of kinds unknown here, and such as may
    /// sign no JWT-SVID are passed over.
    ///
    /// # Errors
    /// It is no key set, or one of its keys for tokens is wrong.
    pub fn from_jwks(trust_domain: TrustDomain, jwks: &[u8]) -> Result<Self, JwtBundleError> {
        Ok(Self::of_set(trust_domain, JwtKeySet::from_jwks(jwks)?))
    }

    /// The set in RFC 7517's form, in the order of the ids.
    pub fn to_jwks(&self, purpose: KeyUse) -> String {
        self.keys.to_jwks(purpose)
    }

    /// Whose tokens these keys verify.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The key of this id.
    pub fn key(&self, id: &str) -> Option<&JwtKey> {
        self.keys.key(id)
    }

    /// All keys, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &JwtKey> {
        self.keys.keys()
    }

    /// These, of which it is looked already that no two have one id.
    pub(crate) fn of_set(trust_domain: TrustDomain, mut keys: JwtKeySet) -> Self {
        keys.retain_for_svids();
        Self { trust_domain, keys }
    }

    pub(super) fn key_set(&self) -> &JwtKeySet {
        &self.keys
    }
}

impl PartialEq for JwtBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.keys == other.keys
    }
}

impl Eq for JwtBundle {}

impl fmt::Debug for JwtBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBundle")
            .field("trust_domain", &self.trust_domain)
            .field("keys", &self.keys)
            .finish()
    }
}
