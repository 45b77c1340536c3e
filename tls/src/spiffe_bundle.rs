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
use crate::certificate::CertificateFault;
use crate::jwt::{JwtBundle, JwtBundleError, JwtKey, JwtKeyError, JwtKeySet, strict_json};

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

/// Why a document, or a key of it, is not taken. The fault is whoever published it.
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
    /// A key for X.509-SVIDs without a certificate.
    #[error("key number {0} has no certificate in `x5c`")]
    NoCertificate(usize),
    /// What verifies X.509-SVIDs is wrong as a whole, or names another trust domain: it is not this one's bundle.
    #[error("the keys for X.509-SVIDs are refused: {0}")]
    X509(#[from] BundleError),
    /// A key for X.509-SVIDs is wrong.
    #[error("key number {number} is refused: {source}")]
    Root {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: BundleError,
    },
    /// A key for JWT-SVIDs is wrong.
    #[error("key number {number} is refused: {source}")]
    JwtKey {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: JwtKeyError,
    },
    /// Keys for JWT-SVIDs are no set together.
    #[error("keys for JWT-SVIDs are refused: {0}")]
    Jwt(#[from] JwtBundleError),
}

impl SpiffeBundle {
    /// Reads a document as [`SpiffeBundle::parse_and_tell`] does.
    ///
    /// # Errors
    /// As of that.
    pub fn parse(trust_domain: &TrustDomain, document: &[u8]) -> Result<Self, SpiffeBundleError> {
        Self::parse_and_tell(trust_domain, document).map(|(bundle, _)| bundle)
    }

    /// Reads the document of `trust_domain`, which the document itself does not name. Keys for other things, and of
    /// types that are unknown here, are passed over; so is a single key that is wrong or of no use here, and told
    /// (SPIFFE Trust Domain and Bundle §4.1.3, RFC 7517 §5). Where none of a kind is left, the domain has none of it.
    ///
    /// # Errors
    /// It is no such document, or a root names another trust domain, of which it would be the bundle.
    pub fn parse_and_tell(
        trust_domain: &TrustDomain,
        document: &[u8],
    ) -> Result<(Self, Vec<SpiffeBundleError>), SpiffeBundleError> {
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(SpiffeBundleError::TooLarge);
        }
        let set = strict_json::object(document).ok_or(SpiffeBundleError::NotASet)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(SpiffeBundleError::NotASet)?;
        let (mut roots, mut jwt_keys, mut passed_over) = (Vec::new(), Vec::new(), Vec::new());
        for (number, jwk) in (1..).zip(listed) {
            let Some((jwk, kty)) = jwk.as_object().and_then(|jwk| Some((jwk, jwk.get("kty")?.as_str()?)))
            else {
                passed_over.push(SpiffeBundleError::KeyType(number));
                continue;
            };
            if !matches!(kty, "EC" | "RSA" | "OKP") {
                continue;
            }
            match jwk.get("use").and_then(Value::as_str) {
                Some("x509-svid") => match root(trust_domain, number, jwk) {
                    Ok(root) => roots.push(root),
                    Err(SpiffeBundleError::Root {
                        source: foreign @ BundleError::TrustDomain(_), ..
                    }) => {
                        return Err(foreign.into());
                    }
                    Err(error) => passed_over.push(error),
                },
                Some("jwt-svid") => match JwtKey::from_jwk(jwk) {
                    Ok(Some(key)) if key.is_for_svids() => jwt_keys.push(key),
                    unfit => {
                        let source = match unfit {
                            Ok(Some(_)) => JwtKeyError::NotForSvids,
                            Ok(None) => JwtKeyError::Unknown,
                            Err(source) => source,
                        };
                        passed_over.push(SpiffeBundleError::JwtKey { number, source });
                    }
                },
                _ => {}
            }
        }
        let jwt_keys = JwtKeySet::unambiguous(jwt_keys, |id| {
            passed_over.push(JwtBundleError::SameId(id).into());
        });
        let bundle = Self {
            x509: TrustBundle::of_others(trust_domain.clone(), roots)?,
            jwt: JwtBundle::of_set(trust_domain.clone(), jwt_keys),
            sequence: number(&set, "spiffe_sequence")?,
            refresh_hint: number(&set, "spiffe_refresh_hint")?.map(Duration::from_secs),
        };
        Ok((bundle, passed_over))
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

/// The root that a key for X.509-SVIDs is: the first of its certificates (X509-SVID §6.2).
fn root(
    trust_domain: &TrustDomain,
    number: usize,
    jwk: &Map<String, Value>,
) -> Result<CertificateDer<'static>, SpiffeBundleError> {
    let first = jwk.get("x5c").and_then(Value::as_array).and_then(|listed| listed.first());
    let first = first.ok_or(SpiffeBundleError::NoCertificate(number))?;
    let refused = |source| SpiffeBundleError::Root { number, source };
    let der = first.as_str().and_then(|text| STANDARD.decode(text).ok());
    let der = der.ok_or_else(|| refused(CertificateFault::Malformed.into()))?;
    let der = CertificateDer::from(der);
    // Each by itself: beside others one that is wrong would take them along.
    TrustBundle::of_others(trust_domain.clone(), [der.clone()]).map_err(refused)?;
    Ok(der)
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
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                _ => "P-521",
            };
            set("crv", json!(curve));
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
