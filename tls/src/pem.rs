//! Certificates as PEM text (RFC 7468).

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;

/// A text that is no PEM. The fault is whoever supplied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it is not PEM")]
pub struct NotPem;

/// All certificates in a PEM text; sections of other kinds are passed over.
///
/// # Errors
/// The text is not PEM.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, NotPem> {
    decode_certificates(text).map_err(|_| NotPem)
}

/// The certificates as one PEM text, in the order given.
pub fn certificates_to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    encode_certificates(certificates)
}

/// The certificates as one PEM text, in the order given.
pub(crate) fn encode_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> String {
    certificates.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// One PEM section with line feeds, as OpenSSL writes it.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new(label, der), config)
}

/// All certificates in a PEM text; sections of other kinds are passed over.
pub(crate) fn decode_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}
