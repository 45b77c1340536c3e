//! A trust domain's bundle as domains tell it one another: all keys that verify its SVIDs, as a JSON Web Key Set
//! (SPIFFE Trust Domain and Bundle §4).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hauberk_identity::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::bundle::{BundleError, TrustBundle};
use crate::jwt::{JwtBundle, JwtBundleError, JwtKey, JwtKeyError, strict_json};

/// The largest document that is read, in bytes: the keys of others travel in views, and take no more of their room.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024;

/// The bundle of one trust domain. Without keys it verifies nobody: that is how a domain takes back all it had.
#[derive(Debug, PartialEq, Eq)]
pub struct SpiffeBundle {
    x509: TrustBundle,
    jwt: JwtBundle,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
}

/// Why a document is not taken: not in part, lest a key vanish unseen. The fault is whoever published it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeBundleError {
    /// More than 64 KiB.
    #[error("it is larger than 64 KiB")]
    TooLarge,
    /// Not a key set.
    #[error("it is no JSON object with an array `keys`, in which no member stands twice")]
    NotASet,
    /// `spiffe_sequence` or `spiffe_refresh_hint` is no number as the standard has it.
    #[error("`{0}` is not a whole number that is not negative")]
    Number(&'static str),
    /// A key without `kty`.
    #[error("key number {0} has no `kty`")]
    KeyType(usize),
    /// A key for X.509-SVIDs without exactly one certificate.
    #[error("key number {0} has not exactly one certificate in `x5c`")]
    NotOneCertificate(usize),
    /// What verifies X.509-SVIDs is wrong.
    #[error("the keys for X.509-SVIDs are refused: {0}")]
    X509(#[from] BundleError),
    /// A key for JWT-SVIDs is wrong.
    #[error("key number {number} is refused: {source}")]
    JwtKey {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: JwtKeyError,
    },
    /// The keys for JWT-SVIDs make no set.
    #[error("the keys for JWT-SVIDs are refused: {0}")]
    Jwt(#[from] JwtBundleError),
}

impl SpiffeBundle {
    /// Reads the document of `trust_domain`, which the document itself does not name. Keys for other things, and of types
    /// that are unknown here, are passed over.
    ///
    /// # Errors
    /// It is no such document, or one of its keys is wrong, or a root names another trust domain.
    pub fn parse(trust_domain: &TrustDomain, document: &[u8]) -> Result<Self, SpiffeBundleError> {
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(SpiffeBundleError::TooLarge);
        }
        let set = strict_json::object(document).ok_or(SpiffeBundleError::NotASet)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(SpiffeBundleError::NotASet)?;
        let (mut roots, mut jwt_keys) = (Vec::new(), Vec::new());
        for (number, jwk) in (1..).zip(listed) {
            let jwk = jwk.as_object().ok_or(SpiffeBundleError::NotASet)?;
            let kty = jwk.get("kty").and_then(Value::as_str).ok_or(SpiffeBundleError::KeyType(number))?;
            if !matches!(kty, "EC" | "RSA" | "OKP") {
                continue;
            }
            match jwk.get("use").and_then(Value::as_str) {
                Some("x509-svid") => {
                    roots.push(certificate(jwk).ok_or(SpiffeBundleError::NotOneCertificate(number))?);
                }
                Some("jwt-svid") => {
                    let key = JwtKey::from_jwk(jwk);
                    jwt_keys.extend(key.map_err(|source| SpiffeBundleError::JwtKey { number, source })?);
                }
                _ => {}
            }
        }
        Ok(Self {
            x509: TrustBundle::of_others(trust_domain.clone(), roots)?,
            jwt: JwtBundle::new(trust_domain.clone(), jwt_keys)?,
            sequence: number(&set, "spiffe_sequence")?,
            refresh_hint: number(&set, "spiffe_refresh_hint")?.map(Duration::from_secs),
        })
    }

    /// The document again, in our own spelling.
    pub fn to_document(&self) -> String {
        bundle_document(&self.x509, &self.jwt, self.sequence, self.refresh_hint)
    }

    /// The same without its number and hint: what verifies, and nothing that changes without it.
    pub fn to_keys(&self) -> String {
        bundle_document(&self.x509, &self.jwt, None, None)
    }

    /// Whose keys they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.x509.trust_domain()
    }

    /// What verifies X.509-SVIDs.
    pub fn x509(&self) -> &TrustBundle {
        &self.x509
    }

    /// What verifies JWT-SVIDs.
    pub fn jwt(&self) -> &JwtBundle {
        &self.jwt
    }

    /// Which of the domain's bundles it is: a later one has a greater number.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often to look for a later one.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Whether it has no key at all.
    pub fn is_empty(&self) -> bool {
        self.x509.roots().is_empty() && self.jwt.keys().next().is_none()
    }

    /// Whether both verify the same.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.x509 == other.x509 && self.jwt == other.jwt
    }
}

/// The document with these keys: certificates without `kid`, keys for tokens with it.
pub fn bundle_document(
    x509: &TrustBundle,
    jwt: &JwtBundle,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
) -> String {
    let roots = x509.roots().iter().map(|root| x509_key(root.der()));
    let tokens = jwt.keys().map(|key| {
        let mut jwk = key.to_jwk();
        jwk.insert("use".to_owned(), json!("jwt-svid"));
        jwk
    });
    let mut document = Map::new();
    document.insert("keys".to_owned(), roots.chain(tokens).collect());
    if let Some(sequence) = sequence {
        document.insert("spiffe_sequence".to_owned(), json!(sequence));
    }
    if let Some(hint) = refresh_hint {
        document.insert("spiffe_refresh_hint".to_owned(), json!(hint.as_secs()));
    }
    Value::Object(document).to_string()
}

fn certificate(jwk: &Map<String, Value>) -> Option<CertificateDer<'static>> {
    match jwk.get("x5c")?.as_array()?.as_slice() {
        [one] => STANDARD.decode(one.as_str()?).ok().map(CertificateDer::from),
        _ => None,
    }
}

fn number(set: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, SpiffeBundleError> {
    match set.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(SpiffeBundleError::Number(name)),
    }
}

/// A root in RFC 7517's form. The members beside `x5c` repeat what is in the certificate, for readers that insist on them.
fn x509_key(root: &CertificateDer<'_>) -> Map<String, Value> {
    let mut jwk = Map::new();
    let mut set = |name: &str, value: Value| jwk.insert(name.to_owned(), value);
    set("use", json!("x509-svid"));
    set("x5c", json!([STANDARD.encode(root)]));
    let key = X509Certificate::from_der(root).ok().map(|(_, certificate)| certificate);
    match key.as_ref().map(|certificate| certificate.public_key().parsed()) {
        Some(Ok(PublicKey::EC(point))) => {
            let coordinates = point.data().get(1..).unwrap_or_default();
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            set("kty", json!("EC"));
            set("crv", json!(if x.len() > 32 { "P-384" } else { "P-256" }));
            set("x", json!(URL_SAFE_NO_PAD.encode(x)));
            set("y", json!(URL_SAFE_NO_PAD.encode(y)));
        }
        Some(Ok(PublicKey::RSA(key))) => {
            let without_sign = |bytes: &[u8]| {
                let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
                URL_SAFE_NO_PAD.encode(bytes.get(from..).unwrap_or_default())
            };
            set("kty", json!("RSA"));
            set("n", json!(without_sign(key.modulus)));
            set("e", json!(without_sign(key.exponent)));
        }
        // The only other kind on the allow-list.
        _ => {
            let point = key.as_ref().map(|certificate| certificate.public_key().subject_public_key.as_ref());
            set("kty", json!("OKP"));
            set("crv", json!("Ed25519"));
            set("x", json!(URL_SAFE_NO_PAD.encode(point.unwrap_or_default())));
        }
    }
    jwk
}

#[cfg(test)]
mod tests;
