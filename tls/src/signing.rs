//! Signatures on views and denylists: the control plane signs, agents verify.
//!
//! ECDSA on P-256 with SHA-256, ASN.1 DER, over the name of what is signed ([`Purpose`]) followed by the message, so that
//! nothing else that such a key signs can be taken for it.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;

/// What a signature is for. Its name stands before the signed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What the agents of a node, or the callers of a service, are to know.
    View,
    /// Who is refused everywhere.
    Denylist,
}

impl Purpose {
    fn name(self) -> &'static [u8] {
        match self {
            Self::View => b"hauberk-view-v1\0",
            Self::Denylist => b"hauberk-denylist-v1\0",
        }
    }
}

/// Why nothing was signed, or a key not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SigningError {
    /// The key could not be generated or used. The fault is this machine's.
    #[error("the view key could not be used")]
    Unusable,
    /// Not an unencrypted PKCS#8 private key on P-256. The fault is the storage's.
    #[error("not a PKCS#8 private key for ECDSA on P-256")]
    NotPrivateKey,
    /// Not a SubjectPublicKeyInfo on P-256. The fault is whoever sent the key.
    #[error("not a public key for ECDSA on P-256")]
    NotPublicKey,
}

/// Why a signature does not count. The fault is whoever sent the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// Signed by a key that is not among those trusted.
    #[error("signed by the key {0:?}, which is not trusted")]
    UnknownKey(String),
    /// The signature does not fit the message.
    #[error("the signature does not fit the message")]
    Mismatch,
}

/// Signs views. The private key is never printed.
pub struct ViewSigner {
    key: EcdsaKeyPair,
    public_key: Vec<u8>,
    key_id: String,
    random: SystemRandom,
}

impl ViewSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn generate() -> Result<Self, SigningError> {
        let key =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| SigningError::Unusable)?;
        Self::new(key)
    }

    /// Reads a key from PKCS#8 DER.
    ///
    /// # Errors
    /// It is not an unencrypted P-256 key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, SigningError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| SigningError::NotPrivateKey)?;
        Self::new(key)
    }

    fn new(key: EcdsaKeyPair) -> Result<Self, SigningError> {
        let public_key = key.public_key().as_der().map_err(|_| SigningError::Unusable)?.as_ref().to_vec();
        let key_id = key_id(&public_key);
        Ok(Self { key, public_key, key_id, random: SystemRandom::new() })
    }

    /// The private key as PKCS#8 DER, to be sealed before it is stored.
    ///
    /// # Errors
    /// The key cannot be encoded, which does not happen to one that was generated or read here.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, SigningError> {
        let document = self.key.to_pkcs8v1().map_err(|_| SigningError::Unusable)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The public key as SubjectPublicKeyInfo DER (RFC 5280 §4.1.2.7), for agents to verify with.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key
    }

    /// SHA-256 of the public key, 64 lower-case hexadecimal digits.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs `message` for a purpose.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let framed = framed(purpose, message);
        let signature = self.key.sign(&self.random, &framed).map_err(|_| SigningError::Unusable)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for ViewSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewSigner").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Verifies views against a set of keys.
#[derive(Default)]
pub struct ViewVerifier {
    keys: BTreeMap<String, ParsedPublicKey>,
}

impl ViewVerifier {
    /// A verifier that trusts these keys, each a SubjectPublicKeyInfo in DER. None trusted means nothing verifies.
    ///
    /// # Errors
    /// One of them is not a key on P-256; then none is taken.
    pub fn from_public_keys<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SigningError> {
        let mut parsed = BTreeMap::new();
        for der in keys {
            let key =
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, der).map_err(|_| SigningError::NotPublicKey)?;
            // A bare point would parse as well, and have another id.
            if key.as_der().map_err(|_| SigningError::NotPublicKey)?.as_ref() != der {
                return Err(SigningError::NotPublicKey);
            }
            parsed.insert(key_id(der), key);
        }
        Ok(Self { keys: parsed })
    }

    /// Checks that `signature` is one over `message` for this purpose by the trusted key `key_id`.
    ///
    /// # Errors
    /// The key is not trusted, or the signature is wrong.
    pub fn verify(
        &self,
        purpose: Purpose,
        key_id: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let key = self.keys.get(key_id).ok_or_else(|| SignatureError::UnknownKey(key_id.to_owned()))?;
        key.verify_sig(&framed(purpose, message), signature).map_err(|_| SignatureError::Mismatch)
    }

    /// The ids of the trusted keys, in order.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

impl fmt::Debug for ViewVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.keys()).finish()
    }
}

fn key_id(spki: &[u8]) -> String {
    Fingerprint::of(spki).to_string()
}

fn framed(purpose: Purpose, message: &[u8]) -> Vec<u8> {
    [purpose.name(), message].concat()
}

#[cfg(test)]
mod tests {
    use super::Purpose::{Denylist, View};
    use super::*;

    fn verifier(signers: &[&ViewSigner]) -> ViewVerifier {
        ViewVerifier::from_public_keys(signers.iter().map(|signer| signer.public_key_der())).unwrap()
    }

    #[test]
    fn what_is_signed_verifies_with_that_key_alone() {
        let (ours, other) = (ViewSigner::generate().unwrap(), ViewSigner::generate().unwrap());
        let signature = ours.sign(View, b"view").unwrap();
        assert_eq!(verifier(&[&ours, &other]).verify(View, ours.key_id(), b"view", &signature), Ok(()));
        assert_eq!(
            verifier(&[&ours, &other]).verify(View, other.key_id(), b"view", &signature),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(
            verifier(&[&other]).verify(View, ours.key_id(), b"view", &signature),
            Err(SignatureError::UnknownKey(ours.key_id().to_owned()))
        );
        assert!(verifier(&[]).verify(View, ours.key_id(), b"view", &signature).is_err());
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let signer = ViewSigner::generate().unwrap();
        let verifier = verifier(&[&signer]);
        let signature = signer.sign(View, b"view").unwrap();
        for bit in 0..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verifier.verify(View, signer.key_id(), b"view", &flipped).is_err(), "bit {bit}");
        }
        assert!(verifier.verify(View, signer.key_id(), b"viev", &signature).is_err());
        assert!(verifier.verify(View, signer.key_id(), b"view", &[]).is_err());
    }

    #[test]
    fn the_key_survives_storage() {
        let signer = ViewSigner::generate().unwrap();
        let again = ViewSigner::from_pkcs8_der(&signer.to_pkcs8_der().unwrap()).unwrap();
        assert_eq!(again.key_id(), signer.key_id());
        let signature = again.sign(View, b"view").unwrap();
        assert_eq!(verifier(&[&signer]).verify(View, signer.key_id(), b"view", &signature), Ok(()));
    }

    #[test]
    fn a_message_without_its_purpose_does_not_verify() {
        let signer = ViewSigner::generate().unwrap();
        let bare = signer.key.sign(&SystemRandom::new(), b"view").unwrap();
        assert!(verifier(&[&signer]).verify(View, signer.key_id(), b"view", bare.as_ref()).is_err());
    }

    #[test]
    fn what_is_signed_for_one_purpose_does_not_verify_for_another() {
        let signer = ViewSigner::generate().unwrap();
        for (signed, taken) in [(View, Denylist), (Denylist, View)] {
            let signature = signer.sign(signed, b"view").unwrap();
            let verified = verifier(&[&signer]).verify(taken, signer.key_id(), b"view", &signature);
            assert_eq!(verified, Err(SignatureError::Mismatch));
        }
    }

    #[test]
    fn foreign_keys_are_refused() {
        let point = ViewSigner::generate().unwrap().key.public_key().as_ref().to_vec();
        let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let p384 = p384.public_key().as_der().unwrap().as_ref().to_vec();
        for key in [&point[..], &p384, b"", b"nonsense"] {
            assert_eq!(ViewVerifier::from_public_keys([key]).unwrap_err(), SigningError::NotPublicKey);
        }
        assert_eq!(ViewSigner::from_pkcs8_der(b"nonsense").unwrap_err(), SigningError::NotPrivateKey);
    }
}
