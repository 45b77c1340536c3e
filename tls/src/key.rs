//! Key pairs, public keys, and which keys are strong enough.

use std::fmt;

use rcgen::{PublicKeyData, SigningKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::{Zeroize, Zeroizing};

use crate::ed25519;
use crate::fingerprint::Fingerprint;
use crate::pem;
use crate::roca;

/// The smallest and largest RSA modulus, in bits.
pub(crate) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// RSA exponents below invite attacks on padding, those above only slow the verifier down.
pub(crate) const RSA_EXPONENTS: std::ops::RangeInclusive<u64> = 65_537..=0x1_ffff_ffff;

/// What stands before an uncompressed point of P-256 in SubjectPublicKeyInfo (RFC 5480 §2): all lengths, the algorithm, and
/// that no bit of the last octet is unused.
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// An ECDSA P-256 key pair. The private part is wiped on drop and never printed.
pub struct KeyPair(rcgen::KeyPair);

/// A public key that is strong enough to be certified: P-256, P-384, Ed25519, or RSA of 2048 to 8192 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: &'static rcgen::SignatureAlgorithm,
    bits: Vec<u8>,
    spki: Vec<u8>,
}

/// Why a key is not accepted. The fault is whoever supplied the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A new key could not be generated. The fault is this machine's.
    #[error("no key could be generated")]
    Generate,
    /// Not an unencrypted PKCS#8 private key on P-256.
    #[error("not a PKCS#8 private key for ECDSA on P-256")]
    NotPrivateKey,
    /// Not a DER SubjectPublicKeyInfo, or not the shortest one.
    #[error("not a public key in DER")]
    NotPublicKey,
    /// Another algorithm or curve.
    #[error("keys are ECDSA on P-256 or P-384, Ed25519, or RSA; this one is none of these")]
    Algorithm,
    /// An EC key that is not an uncompressed point of the curve's size.
    #[error("the EC public key is not an uncompressed point")]
    Point,
    /// An Ed25519 key that is not 32 octets in their one form, or by which anybody could sign.
    #[error(
        "the Ed25519 public key is not 32 octets that encode a point (RFC 8032 §5.1.5), or one of small order: anybody could sign by it"
    )]
    Ed25519,
    /// An RSA modulus that is too small, too large, or not a whole number of octets.
    #[error("RSA keys have 2048 to 8192 bits, in whole octets; this one has {0}")]
    RsaSize(usize),
    /// An RSA key of a maker whose primes can be found.
    #[error(
        "the RSA key has the fingerprint of CVE-2017-15361 (ROCA): its private key can be computed; make another elsewhere"
    )]
    RsaRoca,
    /// An RSA exponent that is even, below 65537 or above 2^33.
    #[error("the RSA exponent must be odd, at least 65537 and below 2^33")]
    RsaExponent,
}

impl KeyPair {
    /// Generates a new key pair.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self).map_err(|_| KeyError::Generate)
    }

    /// Reads a key pair from PKCS#8 DER.
    ///
    /// # Errors
    /// It is not an unencrypted P-256 key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(der),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
        .map(Self)
        .map_err(|_| KeyError::NotPrivateKey)
    }

    /// Reads a key pair from the first `PRIVATE KEY` section of a PEM text.
    ///
    /// # Errors
    /// There is none, or it is not an unencrypted P-256 key.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::NotPrivateKey)?;
        let der = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        Self::from_pkcs8_der(&der)
    }

    /// The private key as PKCS#8 DER, for storage that only its owner can read.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// The private key as PKCS#8 PEM, for storage that only its owner can read.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", self.0.serialized_der()))
    }

    /// The public key as SubjectPublicKeyInfo DER (RFC 5280 §4.1.2.7).
    pub fn public_key_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey {
            algorithm: self.0.algorithm(),
            bits: self.0.der_bytes().to_vec(),
            spki: self.public_key_der(),
        }
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public_key", &Fingerprint::of(&self.public_key_der()))
            .finish_non_exhaustive()
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl PublicKey {
    /// Reads a public key from SubjectPublicKeyInfo DER.
    ///
    /// # Errors
    /// It is malformed, not in its shortest form, of another algorithm, or too weak.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, parsed) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::NotPublicKey)?;
        if !rest.is_empty() {
            return Err(KeyError::NotPublicKey);
        }
        check_strength(&parsed)?;
        let key = rcgen::SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Algorithm)?;
        if key.subject_public_key_info() != der {
            return Err(KeyError::NotPublicKey);
        }
        Ok(Self { algorithm: key.algorithm(), bits: key.der_bytes().to_vec(), spki: der.to_vec() })
    }

    /// A key on P-256 by its point, 65 bytes in the uncompressed form (SEC 1 §2.3.3), as tokens tell it.
    ///
    /// # Errors
    /// It is no such point.
    pub fn from_p256_point(point: &[u8]) -> Result<Self, KeyError> {
        Self::from_spki_der(&[P256_SPKI, point].concat()).map_err(|_| KeyError::Point)
    }

    /// The key as SubjectPublicKeyInfo DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The SHA-256 of the SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.spki)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.fingerprint()).finish()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

/// Holds a key from a request or a certificate against the allow-list.
pub(crate) fn check_strength(key: &SubjectPublicKeyInfo<'_>) -> Result<(), KeyError> {
    match curve_of(key) {
        Some(curve) if curve == OID_NIST_EC_P521 => Err(KeyError::Algorithm),
        _ => check_authority_strength(key),
    }
}

/// The same of the key of an authority, which may be on P-521 too: operators and other trust domains have such. No leaf
/// does.
pub(crate) fn check_authority_strength(key: &SubjectPublicKeyInfo<'_>) -> Result<(), KeyError> {
    let (algorithm, bits) = (&key.algorithm.algorithm, key.subject_public_key.data.as_ref());
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let coordinate = match curve_of(key).ok_or(KeyError::Algorithm)? {
            c if c == OID_EC_P256 => 32,
            c if c == OID_NIST_EC_P384 => 48,
            c if c == OID_NIST_EC_P521 => 66,
            _ => return Err(KeyError::Algorithm),
        };
        let uncompressed = bits.first() == Some(&4) && bits.len() == 1 + 2 * coordinate;
        if uncompressed { Ok(()) } else { Err(KeyError::Point) }
    } else if *algorithm == OID_SIG_ED25519 {
        if ed25519::is_key(bits) { Ok(()) } else { Err(KeyError::Ed25519) }
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        check_rsa(bits)
    } else {
        Err(KeyError::Algorithm)
    }
}

fn curve_of<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<Oid<'a>> {
    key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok())
}

fn check_rsa(bits: &[u8]) -> Result<(), KeyError> {
    let (rest, key) = RSAPublicKey::from_der(bits).map_err(|_| KeyError::NotPublicKey)?;
    if !rest.is_empty() {
        return Err(KeyError::NotPublicKey);
    }
    let start = key.modulus.iter().position(|b| *b != 0).unwrap_or(key.modulus.len());
    let modulus = key.modulus.get(start..).unwrap_or_default();
    let unused = modulus.first().map_or(0, |b| b.leading_zeros() as usize);
    let size = modulus.len() * 8 - unused;
    if !RSA_BITS.contains(&size) || size % 8 != 0 {
        return Err(KeyError::RsaSize(size));
    }
    if roca::has_fingerprint(modulus) {
        return Err(KeyError::RsaRoca);
    }
    let exponent = key.try_exponent().map_err(|_| KeyError::RsaExponent)?;
    if RSA_EXPONENTS.contains(&exponent) && exponent % 2 == 1 { Ok(()) } else { Err(KeyError::RsaExponent) }
}
