//! A public key that verifies tokens, by the algorithms of its type or by one of them.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::signature::{ED25519, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::algorithm::{Algorithm, CURVES};
use crate::ed25519;
use crate::fingerprint::Fingerprint;
use crate::key::{RSA_BITS, RSA_EXPONENTS};
use crate::roca;

/// The longest key id, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// A public key. What it verifies is decided by the key alone: a token's `alg` must say the same, or the token is refused.
pub struct JwtKey {
    id: String,
    material: Material,
    /// One, or of an RSA key that names none those of RSA.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// A key as RFC 7518 §6 and RFC 8037 §2 write it.
#[derive(Clone, PartialEq, Eq)]
enum Material {
    Ec { curve: &'static str, x: Vec<u8>, y: Vec<u8> },
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

/// Why a key is not taken. The fault is whoever published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JwtKeyError {
    /// No key at all.
    #[error("it is no object")]
    NotAnObject,
    /// Without an id no token can name it.
    #[error("`kid` is missing, empty or longer than 256 bytes")]
    KeyId,
    /// A member that the key cannot do without is missing, or not base64url.
    #[error("`{0}` is missing or not base64url")]
    Member(&'static str),
    /// Not a point of the curve in its one form, or one of small order, by which anybody could sign.
    #[error("the coordinates are no point of their curve that can be a key")]
    Point,
    /// `alg` is not what such a key signs with.
    #[error("`alg` does not fit the type of the key")]
    Algorithm,
    /// An RSA key that is too small, too large, or has a bad exponent.
    #[error("an RSA key has 2048 to 8192 bits and an odd exponent from 65537 to 2^33")]
    RsaStrength,
    /// An RSA key of a maker whose primes can be found.
    #[error(
        "the RSA key has the fingerprint of CVE-2017-15361 (ROCA): its private key can be computed; make another elsewhere"
    )]
    RsaRoca,
    /// `use` or `key_ops` say that it verifies nothing.
    #[error("`use` or `key_ops` do not let it verify signatures")]
    NotForSignatures,
    /// Of a curve or for an algorithm that is none of ours.
    #[error("its `crv` or `alg` is not known")]
    Unknown,
    /// Ed25519, in the keys of a trust domain (JWT-SVID §2.1).
    #[error("no JWT-SVID is signed with Ed25519")]
    NotForSvids,
}

impl JwtKey {
    /// A P-256 key from its uncompressed point (SEC 1 §2.3.3), as our own are.
    ///
    /// # Errors
    /// It is no such point, or the id is empty or too long.
    pub fn es256(id: &str, point: &[u8]) -> Result<Self, JwtKeyError> {
        let [4, coordinates @ ..] = point else { return Err(JwtKeyError::Point) };
        let (x, y) = coordinates.split_at_checked(32).ok_or(JwtKeyError::Point)?;
        Self::ec(check_id(id)?, "P-256", x.to_vec(), y.to_vec())
    }

    /// Reads a key of RFC 7517. `None` for one of a type, curve or algorithm that is unknown here, which is to be passed
    /// over (RFC 7517 §5).
    ///
    /// # Errors
    /// It is of a known kind, and wrong.
    pub(crate) fn from_jwk(jwk: &Map<String, Value>) -> Result<Option<Self>, JwtKeyError> {
        let text = |name| jwk.get(name).and_then(Value::as_str);
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(named) => match named.as_str().and_then(Algorithm::parse) {
                Some(algorithm) => Some(algorithm),
                None => return Ok(None),
            },
        };
        let octets = |name: &'static str| {
            let decoded = text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            decoded.ok_or(JwtKeyError::Member(name))
        };
        let key = match text("kty") {
            Some("EC") => {
                let curve = text("crv").ok_or(JwtKeyError::Member("crv"))?;
                if !CURVES.iter().any(|known| known.name == curve) {
                    return Ok(None);
                }
                Self::ec(check_id(text("kid").unwrap_or_default())?, curve, octets("x")?, octets("y")?)?
            }
            // SPIFFE would have no algorithm beside a key, and its domains sign with any of these.
            Some("RSA") => {
                let id = check_id(text("kid").unwrap_or_default())?;
                let (n, e) = (octets("n")?, octets("e")?);
                match algorithm {
                    Some(named) => Self::rsa(id, &[named], n, e)?,
                    None => Self::rsa(id, &Algorithm::OF_RSA, n, e)?,
                }
            }
            Some("OKP") => {
                if text("crv").ok_or(JwtKeyError::Member("crv"))? != "Ed25519" {
                    return Ok(None);
                }
                Self::ed25519(check_id(text("kid").unwrap_or_default())?, octets("x")?)?
            }
            _ => return Ok(None),
        };
        if algorithm.is_some_and(|named| key.verifiers.iter().any(|(own, _)| *own != named)) {
            return Err(JwtKeyError::Algorithm);
        }
        match jwk.get("key_ops") {
            None => Ok(Some(key)),
            Some(Value::Array(permitted)) if permitted.iter().any(|name| name == "verify") => Ok(Some(key)),
            Some(_) => Err(JwtKeyError::NotForSignatures),
        }
    }

    /// The same of a key that may do without an id (RFC 7517 §4.5): it is called by its fingerprint then.
    pub(crate) fn from_jwk_of_issuer(jwk: &Map<String, Value>) -> Result<Option<Self>, JwtKeyError> {
        if jwk.contains_key("kid") {
            return Self::from_jwk(jwk);
        }
        let mut named = jwk.clone();
        named.insert("kid".to_owned(), json!("unnamed"));
        let key = Self::from_jwk(&named)?;
        Ok(key.map(|key| Self { id: key.fingerprint().to_string(), ..key }))
    }

    fn ec(id: String, curve: &str, x: Vec<u8>, y: Vec<u8>) -> Result<Self, JwtKeyError> {
        let curve = CURVES.iter().find(|known| known.name == curve).ok_or(JwtKeyError::Point)?;
        if x.len() != curve.coordinate || y.len() != curve.coordinate {
            return Err(JwtKeyError::Point);
        }
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        let parsed = ParsedPublicKey::new(curve.verification, point).map_err(|_| JwtKeyError::Point)?;
        let (material, verifiers) =
            (Material::Ec { curve: curve.name, x, y }, vec![(curve.algorithm, parsed)]);
        Ok(Self { id, material, verifiers })
    }

    fn ed25519(id: String, x: Vec<u8>) -> Result<Self, JwtKeyError> {
        // The library takes other lengths and forms too.
        if !ed25519::is_key(&x) {
            return Err(JwtKeyError::Point);
        }
        let parsed = ParsedPublicKey::new(&ED25519, &x).map_err(|_| JwtKeyError::Point)?;
        Ok(Self { id, material: Material::Ed25519 { x }, verifiers: vec![(Algorithm::EdDsa, parsed)] })
    }

    fn rsa(id: String, algorithms: &[Algorithm], n: Vec<u8>, e: Vec<u8>) -> Result<Self, JwtKeyError> {
        let unused = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        // An exponent of more than eight bytes is out of range in any case.
        let exponent = e.iter().fold(0_u64, |value, byte| value.saturating_mul(256) | u64::from(*byte));
        let is_strong = RSA_BITS.contains(&(n.len() * 8 - unused))
            && e.len() <= 8
            && exponent % 2 == 1
            && RSA_EXPONENTS.contains(&exponent);
        if !is_strong {
            return Err(JwtKeyError::RsaStrength);
        }
        if roca::has_fingerprint(&n) {
            return Err(JwtKeyError::RsaRoca);
        }
        let components = RsaPublicKeyComponents { n: &n, e: &e };
        let verifier = |algorithm: &Algorithm| {
            let parameters = algorithm.rsa().ok_or(JwtKeyError::Algorithm)?;
            let parsed = components.to_parsed_public_key(parameters);
            Ok((*algorithm, parsed.map_err(|_| JwtKeyError::RsaStrength)?))
        };
        let verifiers = algorithms.iter().map(verifier).collect::<Result<_, _>>()?;
        Ok(Self { id, material: Material::Rsa { n, e }, verifiers })
    }

    /// The key in RFC 7517's form, without `use`, and with `alg` only where its type would leave it more than that:
    /// SPIFFE would have none (SPIFFE Trust Domain and Bundle §4.2).
    pub(crate) fn to_jwk(&self) -> Map<String, Value> {
        let mut jwk = Map::new();
        let mut set = |name: &str, value: &str| jwk.insert(name.to_owned(), json!(value));
        set("kid", &self.id);
        match &self.material {
            Material::Ec { curve, x, y } => {
                set("kty", "EC");
                set("crv", curve);
                set("x", &URL_SAFE_NO_PAD.encode(x));
                set("y", &URL_SAFE_NO_PAD.encode(y));
            }
            Material::Rsa { n, e } => {
                set("kty", "RSA");
                set("n", &URL_SAFE_NO_PAD.encode(n));
                set("e", &URL_SAFE_NO_PAD.encode(e));
                if let Some(only) = self.only_algorithm() {
                    set("alg", only.as_str());
                }
            }
            Material::Ed25519 { x } => {
                set("kty", "OKP");
                set("crv", "Ed25519");
                set("x", &URL_SAFE_NO_PAD.encode(x));
            }
        }
        jwk
    }

    /// What tokens name it by.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of what it is, whatever it is called (as the thumbprint of RFC 7638).
    pub fn fingerprint(&self) -> Fingerprint {
        let mut members: BTreeMap<String, Value> = self.to_jwk().into_iter().collect();
        members.retain(|name, _| name != "kid" && name != "alg");
        let members: Vec<String> =
            members.into_iter().map(|(name, value)| format!("{}:{value}", Value::String(name))).collect();
        Fingerprint::of(format!("{{{}}}", members.join(",")).as_bytes())
    }

    /// What its signatures are made with, and nothing else.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    pub(super) fn only_algorithm(&self) -> Option<Algorithm> {
        let [(only, _)] = &self.verifiers[..] else { return None };
        Some(*only)
    }

    /// Whether JWT-SVIDs may be signed with it (JWT-SVID §2.1).
    pub(crate) fn is_for_svids(&self) -> bool {
        !matches!(self.material, Material::Ed25519 { .. })
    }

    /// What verifies tokens whose `alg` is this; `None` where that is nothing that the key signs with.
    pub(super) fn verifier(&self, alg: Option<&str>) -> Option<&ParsedPublicKey> {
        let named = Algorithm::parse(alg?)?;
        self.verifiers.iter().find(|(own, _)| *own == named).map(|(_, verifier)| verifier)
    }
}

fn check_id(id: &str) -> Result<String, JwtKeyError> {
    if (1..=MAX_KEY_ID_BYTES).contains(&id.len()) { Ok(id.to_owned()) } else { Err(JwtKeyError::KeyId) }
}

impl PartialEq for JwtKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.material == other.material && self.algorithms().eq(other.algorithms())
    }
}

impl Eq for JwtKey {}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({:?} {})", self.algorithms().collect::<Vec<_>>(), self.id)
    }
}
