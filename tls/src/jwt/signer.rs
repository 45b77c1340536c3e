//! A private key that signs tokens: ECDSA on P-256 with SHA-256.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::{BACKDATED, SpiffeId, UnixMillis};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::key::{JwtKey, JwtKeyError};
use crate::fingerprint::Fingerprint;
use crate::signing::SigningError;

/// How much of the key's hash is its id, in bytes: enough that no two meet, and short in every token.
const KEY_ID_BYTES: usize = 16;

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// Who it is about.
    pub id: &'a SpiffeId,
    /// Whom it is for; at least one, none empty.
    pub audience: &'a [String],
    /// When it is made. It is good from five minutes before, as certificates are.
    pub issued_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
    /// Its own number (`jti`).
    pub token_id: &'a str,
    /// Who says so, where that has a URL (`iss`).
    pub issuer: Option<&'a str>,
}

/// Signs tokens. The private key is never printed.
pub struct JwtSigner {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl JwtSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn generate() -> Result<Self, SigningError> {
        let key =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SigningError::Unusable)?;
        Self::new(key)
    }

    /// Reads a key from PKCS#8 DER.
    ///
    /// # Errors
    /// It is not an unencrypted P-256 key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, SigningError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| SigningError::NotPrivateKey)?;
        Self::new(key)
    }

    fn new(key: EcdsaKeyPair) -> Result<Self, SigningError> {
        let spki = key.public_key().as_der().map_err(|_| SigningError::Unusable)?;
        let hash = Fingerprint::of(spki.as_ref());
        let short = hash.as_bytes().get(..KEY_ID_BYTES).unwrap_or_default();
        let key_id = URL_SAFE_NO_PAD.encode(short);
        Ok(Self { key, key_id, random: SystemRandom::new() })
    }

    /// The private key as PKCS#8 DER, to be sealed before it is stored.
    ///
    /// # Errors
    /// The key cannot be encoded, which does not happen to one that was generated or read here.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, SigningError> {
        let document = self.key.to_pkcs8v1().map_err(|_| SigningError::Unusable)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// What tokens name it by.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key as an uncompressed point, as it is stored and sent.
    pub fn public_point(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// What verifies its tokens.
    ///
    /// # Errors
    /// None that a key of ours can have.
    pub fn public_key(&self) -> Result<JwtKey, JwtKeyError> {
        JwtKey::es256(&self.key_id, self.public_point())
    }

    /// A token in compact form (JWT-SVID §2 and §3).
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn sign(&self, claims: &Claims<'_>) -> Result<Zeroizing<String>, SigningError> {
        let mut content = json!({
            "sub": claims.id.to_string(),
            "aud": claims.audience,
            "iat": claims.issued_at.as_secs(),
            // One from a clock that was ahead is of no use until then: nobody else would look at when it was made.
            "nbf": claims.issued_at.minus(BACKDATED).as_secs(),
            "exp": claims.expires_at.as_secs(),
            "jti": claims.token_id,
        });
        if let (Some(issuer), Some(content)) = (claims.issuer, content.as_object_mut()) {
            content.insert("iss".to_owned(), json!(issuer));
        }
        self.sign_content(&content)
    }

    /// A token in compact form that says this (RFC 7519 §3).
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn sign_content(&self, content: &Value) -> Result<Zeroizing<String>, SigningError> {
        self.sign_parts(&json!({ "alg": "ES256", "kid": self.key_id, "typ": "JWT" }), content)
    }

    pub(super) fn sign_parts(
        &self,
        header: &Value,
        content: &Value,
    ) -> Result<Zeroizing<String>, SigningError> {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let mut token = Zeroizing::new(format!("{}.{}", encode(header), encode(content)));
        let signature = self.sign_bytes(token.as_bytes())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    pub(super) fn sign_bytes(&self, message: &[u8]) -> Result<impl AsRef<[u8]> + use<>, SigningError> {
        self.key.sign(&self.random, message).map_err(|_| SigningError::Unusable)
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
