//! The machine's own certificate and key, on the machine.

use std::fmt;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::web::{WebCertificateError, certified};

/// As the control plane verifies them: one for each kind of key.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A machine's certificate chain and its key. The key is never printed.
pub struct DeviceKey(CertifiedKey);

/// Why nothing can be proved with a certificate and its key. The fault is whoever wrote the files.
#[derive(Debug, Error)]
pub enum DeviceKeyError {
    /// They are not there, or do not belong together.
    #[error(transparent)]
    Files(#[from] WebCertificateError),
    /// A kind of key that the control plane does not take.
    #[error("the key is none of ECDSA on P-256 or P-384, Ed25519 and RSA")]
    Algorithm,
    /// The signature could not be made. The fault is this machine's.
    #[error("the key could not be used")]
    Unusable,
}

impl DeviceKey {
    /// Takes a chain, the machine's certificate first, and its key: PKCS#8, SEC 1 or PKCS#1, not encrypted.
    ///
    /// # Errors
    /// They are not there, or do not belong together.
    pub fn from_pem(chain: &str, key: &[u8]) -> Result<Self, DeviceKeyError> {
        Ok(Self(certified(chain, key)?))
    }

    /// The chain, the machine's certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }

    /// Signs a statement (see [`super::statement`]).
    ///
    /// # Errors
    /// The key is of another kind, or signing fails.
    pub fn prove(&self, statement: &[u8]) -> Result<Vec<u8>, DeviceKeyError> {
        let signer = self.0.key.choose_scheme(&SCHEMES).ok_or(DeviceKeyError::Algorithm)?;
        signer.sign(statement).map_err(|_| DeviceKeyError::Unusable)
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").finish_non_exhaustive()
    }
}
