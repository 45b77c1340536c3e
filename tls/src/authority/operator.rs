//! A certificate authority of an operator's own whose key is at hand: it signs issuing authorities.

use std::fmt;

use hauberk_identity::{Serial, TrustDomain, Validity};
use rcgen::{Issuer, PublicKeyData, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroize;

use super::{AuthorityError, capped, sign_error, upstream};
use crate::certificate::{CertificateFault, Facts};
use crate::key::PublicKey;
use crate::pem;

/// An operator's certificate authority with its key: the root itself, or an authority under it.
pub struct OperatorAuthority {
    issuer: Issuer<'static, OperatorKey>,
    validity: Validity,
    /// Its own certificate, and what came with it.
    chain: Vec<CertificateDer<'static>>,
}

/// Why an operator's authority cannot sign. The fault is whoever wrote the files.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperatorAuthorityError {
    /// No certificate in PEM.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// The certificate is malformed.
    #[error("the first certificate is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// It does not vouch for others.
    #[error("the first certificate is not that of an authority: CA:TRUE and keyCertSign are needed")]
    NotAnAuthority,
    /// No private key in PEM, or one that is encrypted or of an unknown kind.
    #[error("there is no unencrypted private key in PEM, of ECDSA, Ed25519 or RSA")]
    NoKey,
    /// The key is another certificate's.
    #[error("the private key does not belong to the first certificate")]
    Mismatch,
    /// A chain could not be made with it.
    #[error(
        "the subject of the first certificate cannot be written again as it is: use `hauberk authority csr`"
    )]
    Subject,
}

impl OperatorAuthority {
    /// Takes the authority's certificate, with those between it and its root behind it, and its key.
    ///
    /// # Errors
    /// They are not there, do not belong together, or are not an authority's.
    pub fn from_pem(certificates: &str, key: &[u8]) -> Result<Self, OperatorAuthorityError> {
        let missing = OperatorAuthorityError::NoCertificate;
        let chain = pem::decode_certificates(certificates).map_err(|_| missing.clone())?;
        let der = chain.first().ok_or(missing)?;
        let facts = Facts::read(der)?;
        if facts.authority.is_none() || !facts.key_usage.is_some_and(|usage| usage.cert_sign) {
            return Err(OperatorAuthorityError::NotAnAuthority);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| OperatorAuthorityError::NoKey)?;
        let key = OperatorKey(rcgen::KeyPair::try_from(&key).map_err(|_| OperatorAuthorityError::NoKey)?);
        if key.subject_public_key_info() != facts.spki {
            return Err(OperatorAuthorityError::Mismatch);
        }
        upstream::subject_of(der).map_err(|_| OperatorAuthorityError::Subject)?;
        let validity = facts.validity;
        let issuer = Issuer::from_ca_cert_der(der, key).map_err(|_| OperatorAuthorityError::Subject)?;
        Ok(Self { issuer, validity, chain })
    }

    /// Certifies a key as that of an issuing authority of a trust domain, and gives what leads from it upwards, as far as that
    /// is here. The validity is capped by this authority's own.
    ///
    /// # Errors
    /// No certificate could be made, or nothing of the validity lies within this authority's.
    pub fn certify(
        &self,
        trust_domain: &TrustDomain,
        key: &PublicKey,
        validity: Validity,
        serial: Serial,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let params = upstream::issuing_params(trust_domain, capped(validity, self.validity)?, serial)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(sign_error)?;
        Ok(std::iter::once(certificate.into()).chain(self.chain.iter().cloned()).collect())
    }
}

impl fmt::Debug for OperatorAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorAuthority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Wiped on drop and never printed.
struct OperatorKey(rcgen::KeyPair);

impl Drop for OperatorKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for OperatorKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for OperatorKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
