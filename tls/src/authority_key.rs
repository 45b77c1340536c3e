//! The key of an authority: in this process, or in something outside of it that signs when it is asked to.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{PublicKeyData, SigningKey};
use zeroize::Zeroizing;

use crate::key::{KeyError, KeyPair, PublicKey};

/// The bytes of a coordinate of P-256, and of each of a signature's two numbers.
const NUMBER_BYTES: usize = 32;

/// What is signed to see whether a key signs. No certificate, request or list begins like this.
const PROOF: &[u8] = b"hauberk-authority-key-v1\0";

/// Signs a SHA-256 with ECDSA on P-256. Gives the signature's two numbers, r and s, 32 bytes each and the most significant
/// first, as tokens do; or says why there is none, to whoever wanted it.
pub type SignDigest = dyn Fn(&[u8; 32]) -> Result<[u8; 64], String> + Send + Sync;

/// The key that an authority signs with. What signs elsewhere is believed nothing: each signature is verified before it is
/// used.
pub struct AuthorityKey(Holder);

enum Holder {
    Here(KeyPair),
    Elsewhere { public_key: PublicKey, sign: Box<SignDigest> },
}

impl AuthorityKey {
    /// A key of which this process has the public part alone.
    ///
    /// # Errors
    /// The key is not on P-256.
    pub fn elsewhere(public_key: PublicKey, sign: Box<SignDigest>) -> Result<Self, KeyError> {
        if public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(KeyError::Algorithm);
        }
        Ok(Self(Holder::Elsewhere { public_key, sign }))
    }

    /// Whether it is outside of this process, so that a signature may have to be waited for.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.0, Holder::Elsewhere { .. })
    }

    /// The private key as PKCS#8 DER, to be sealed before it is stored; `None` of one that is elsewhere.
    pub fn to_pkcs8_der(&self) -> Option<Zeroizing<Vec<u8>>> {
        match &self.0 {
            Holder::Here(key) => Some(key.to_pkcs8_der()),
            Holder::Elsewhere { .. } => None,
        }
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        match &self.0 {
            Holder::Here(key) => key.public_key(),
            Holder::Elsewhere { public_key, .. } => public_key.clone(),
        }
    }

    /// Has something signed that is of no use to anybody: what signs elsewhere does so, and with the very key that belongs to
    /// the public one. It may wait.
    ///
    /// # Errors
    /// Why it does not.
    pub fn prove(&self) -> Result<(), String> {
        self.sign(PROOF).map(|_| ()).map_err(reason)
    }
}

impl From<KeyPair> for AuthorityKey {
    fn from(key: KeyPair) -> Self {
        Self(Holder::Here(key))
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Holder::Here(key) => key.fmt(f),
            Holder::Elsewhere { public_key, .. } => {
                f.debug_tuple("AuthorityKey").field(public_key).finish_non_exhaustive()
            }
        }
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.0 {
            Holder::Here(key) => key.der_bytes(),
            Holder::Elsewhere { public_key, .. } => public_key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match &self.0 {
            Holder::Here(key) => key.algorithm(),
            Holder::Elsewhere { public_key, .. } => public_key.algorithm(),
        }
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.0 {
            Holder::Here(key) => key.sign(message),
            Holder::Elsewhere { public_key, sign } => {
                sign_elsewhere(public_key, sign, message).map_err(rcgen::Error::RingKeyRejected)
            }
        }
    }
}

/// Why rcgen signed nothing, if that is because of a key elsewhere. Its error of remote keys carries no text; of those that
/// do this one comes from reading keys alone.
pub(crate) fn reason_elsewhere(error: &rcgen::Error) -> Option<&str> {
    match error {
        rcgen::Error::RingKeyRejected(reason) => Some(reason),
        _ => None,
    }
}

/// Why rcgen signed nothing.
pub(crate) fn reason(error: rcgen::Error) -> String {
    reason_elsewhere(&error).map_or_else(|| error.to_string(), str::to_owned)
}

fn sign_elsewhere(public_key: &PublicKey, sign: &SignDigest, message: &[u8]) -> Result<Vec<u8>, String> {
    let digest = digest::digest(&digest::SHA256, message);
    let digest = digest.as_ref().try_into().map_err(|_| "no digest can be made".to_owned())?;
    let signature = to_der(&sign(digest)?);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key.der_bytes())
        .verify(message, &signature)
        .map_err(|_| "what it signed does not verify by the authority's public key".to_owned())?;
    Ok(signature)
}

/// `ECDSA-Sig-Value` (RFC 3279 §2.2.3).
fn to_der(numbers: &[u8; 2 * NUMBER_BYTES]) -> Vec<u8> {
    let (r, s) = numbers.split_at(NUMBER_BYTES);
    let contents = [integer(r), integer(s)].concat();
    [vec![0x30, short_length(&contents)], contents].concat()
}

fn integer(number: &[u8]) -> Vec<u8> {
    let leading = number.iter().take_while(|byte| **byte == 0).count().min(number.len().saturating_sub(1));
    let shortest = number.get(leading..).unwrap_or_default();
    // Without it, it would be negative.
    let sign: &[u8] = if shortest.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    let contents = [sign, shortest].concat();
    [vec![0x02, short_length(&contents)], contents].concat()
}

/// At most 70 bytes: the short form.
fn short_length(contents: &[u8]) -> u8 {
    u8::try_from(contents.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
