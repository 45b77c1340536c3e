//! Certificate signing requests (PKCS#10, RFC 2986): ours out; of others', the public key and nothing else.

use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;

use crate::key::{KeyError, KeyPair, PublicKey};

/// The longest request that is read, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// What may sign a request: no SHA-1, no MD5.
static SIGNATURES: &[Oid<'static>] = &[
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
];

/// Requests for a certificate: how an agent asks, and how the control plane reads what was asked.
#[derive(Debug, Clone, Copy)]
pub struct CertificateRequest;

/// Why a request is refused. The fault is the requester's, except [`CsrError::Create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CsrError {
    /// Our own request could not be made.
    #[error("the request could not be signed")]
    Create,
    /// More than 64 KiB.
    #[error("the request has {0} bytes; 65536 are the most")]
    TooLong(usize),
    /// Not one whole PKCS#10 request in DER.
    #[error("the request is not exactly one PKCS#10 request in DER")]
    Malformed,
    /// The key is not acceptable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Signed with an algorithm that is not accepted.
    #[error("the request is signed with an algorithm that is not accepted")]
    SignatureAlgorithm,
    /// The signature does not prove possession of the key.
    #[error("the request's signature does not prove possession of its key")]
    Signature,
}

impl CertificateRequest {
    /// A request in DER for `key`, with an empty subject and without attributes: the issuer decides everything.
    ///
    /// # Errors
    /// Signing fails.
    pub fn create(key: &KeyPair) -> Result<Vec<u8>, CsrError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serialize_request(key).map(|request| request.der().to_vec()).map_err(|_| CsrError::Create)
    }

    /// Takes the public key out of a request, once its signature has proved possession of the private one.
    ///
    /// Subject, extensions and attributes are not looked at.
    ///
    /// # Errors
    /// The request is too long, malformed, weak or wrongly signed.
    pub fn parse(der: &[u8]) -> Result<PublicKey, CsrError> {
        if der.len() > MAX_LEN {
            return Err(CsrError::TooLong(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let key = PublicKey::from_spki_der(request.certification_request_info.subject_pki.raw)?;
        if !SIGNATURES.contains(&request.signature_algorithm.algorithm) {
            return Err(CsrError::SignatureAlgorithm);
        }
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(key)
    }
}
