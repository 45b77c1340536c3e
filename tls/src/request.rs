//! Certificate signing requests (PKCS#10, RFC 2986): ours out; of others', the public key and nothing else.

mod asked;

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use crate::key::{KeyError, KeyPair, PublicKey};
use crate::pem;
use crate::provider::CERTIFICATE_ALGORITHMS;
use asked::Asked;
pub use asked::RequestedKey;

/// The longest request that is read, in bytes.
const MAX_LEN: usize = 64 * 1024;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// The tag of the attributes.
const ATTRIBUTES: u8 = 0xa0;

/// Requests for a certificate: how an agent asks, and how the control plane reads what was asked.
#[derive(Debug, Clone, Copy)]
pub struct CertificateRequest;

/// Why a request is refused. The fault is the requester's, except [`CsrError::Create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CsrError {
    /// Our own request could not be made.
    #[error("the request could not be signed")]
    Create,
    /// The text holds no request.
    #[error("there is no certificate request in PEM")]
    Pem,
    /// More than 64 KiB.
    #[error("the request has {0} bytes; 65536 are the most")]
    TooLong(usize),
    /// Not one whole PKCS#10 request in DER.
    #[error("the request is not exactly one PKCS#10 request in DER")]
    Malformed,
    /// The key is not acceptable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Signed with an algorithm that is not accepted, or that does not fit the key.
    #[error("the request is signed with an algorithm that is not accepted for its key")]
    SignatureAlgorithm,
    /// The signature does not prove possession of the key.
    #[error("the request's signature does not prove possession of its key")]
    Signature,
    /// Attributes or requested extensions that cannot be parsed, or stand there twice.
    #[error("the request's extensions cannot be read, or one of them stands there twice")]
    Extensions,
    /// It asks for a name or a right that the requester is not given.
    #[error("the request asks for {0}: no name or right is taken from a request, so leave them out")]
    NotGranted(&'static str),
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

    /// A request as PEM, as OpenSSL reads it.
    pub fn to_pem(der: &[u8]) -> String {
        pem::encode("CERTIFICATE REQUEST", der)
    }

    /// The first request of a PEM text, in DER.
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(text: &str) -> Result<Vec<u8>, CsrError> {
        let request = CertificateSigningRequestDer::from_pem_slice(text.as_bytes());
        request.map(|request| request.to_vec()).map_err(|_| CsrError::Pem)
    }

    /// Takes the public key out of a request, once its signature has proved possession of the private one.
    ///
    /// What else it asks for is not looked at: of authorities' requests, whose profile is always our own.
    ///
    /// # Errors
    /// The request is too long, malformed, weak or wrongly signed.
    pub fn parse(der: &[u8]) -> Result<PublicKey, CsrError> {
        Self::verified(der).map(|(key, _)| key)
    }

    /// The same, with what it asks for, so that whoever asks for more than is granted can be refused. The subject is not looked at.
    ///
    /// # Errors
    /// The same, or its extensions cannot be read.
    pub fn read(der: &[u8]) -> Result<RequestedKey, CsrError> {
        let (key, request) = Self::verified(der)?;
        let asked = Asked::read(request.attributes).ok_or(CsrError::Extensions)?;
        Ok(RequestedKey::new(key, asked))
    }

    fn verified(der: &[u8]) -> Result<(PublicKey, Request<'_>), CsrError> {
        if der.len() > MAX_LEN {
            return Err(CsrError::TooLong(der.len()));
        }
        let request = Request::read(der).ok_or(CsrError::Malformed)?;
        let key = PublicKey::from_spki_der(request.key)?;
        let algorithm = CERTIFICATE_ALGORITHMS
            .iter()
            .find(|algorithm| {
                algorithm.public_key_alg_id().as_ref() == request.key_algorithm
                    && algorithm.signature_alg_id().as_ref() == request.signature_algorithm
            })
            .ok_or(CsrError::SignatureAlgorithm)?;
        algorithm
            .verify_signature(request.key_bits, request.signed, request.signature)
            .map_err(|_| CsrError::Signature)?;
        Ok((key, request))
    }
}

/// The parts of a request (RFC 2986 §4) that matter, each as it stands in its bytes.
struct Request<'a> {
    /// CertificationRequestInfo: what the signature covers.
    signed: &'a [u8],
    /// SubjectPublicKeyInfo, and of it the algorithm's contents and the key.
    key: &'a [u8],
    key_algorithm: &'a [u8],
    key_bits: &'a [u8],
    attributes: &'a [u8],
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads strictly: no other bytes mean the same request.
    fn read(der: &'a [u8]) -> Option<Self> {
        let request = only(der, SEQUENCE)?;
        let (info, rest) = element(request, SEQUENCE)?;
        let (signature_algorithm, rest) = element(rest, SEQUENCE)?;
        let signature = whole_octets(only(rest, BIT_STRING)?)?;

        let (version, rest) = element(info.contents, INTEGER)?;
        let (_subject, rest) = element(rest, SEQUENCE)?;
        let (key, rest) = element(rest, SEQUENCE)?;
        let attributes = only(rest, ATTRIBUTES)?;
        let (key_algorithm, key_bits) = element(key.contents, SEQUENCE)?;
        (version.contents == [0]).then_some(Self {
            signed: info.whole,
            key: key.whole,
            key_algorithm: key_algorithm.contents,
            key_bits: whole_octets(only(key_bits, BIT_STRING)?)?,
            attributes,
            signature_algorithm: signature_algorithm.contents,
            signature,
        })
    }
}

/// One DER element: its contents, and with its tag and length before them.
struct Element<'a> {
    whole: &'a [u8],
    contents: &'a [u8],
}

/// Splits an element of the given tag off `der`; its length must be in the shortest form (X.690 §10.1).
fn element(der: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    let (header, len) = match *der {
        [t, len @ 0..=0x7f, ..] if t == tag => (2, usize::from(len)),
        [t, 0x81, len @ 0x80..=0xff, ..] if t == tag => (3, usize::from(len)),
        [t, 0x82, high @ 1..=0xff, low, ..] if t == tag => (4, usize::from(high) << 8 | usize::from(low)),
        _ => return None,
    };
    let (whole, rest) = der.split_at_checked(header + len)?;
    Some((Element { whole, contents: whole.get(header..)? }, rest))
}

/// The contents of an element that is all there is.
fn only(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = element(der, tag)?;
    rest.is_empty().then_some(element.contents)
}

/// A bit string's octets, where no bit is unused.
fn whole_octets(bits: &[u8]) -> Option<&[u8]> {
    bits.strip_prefix(&[0])
}
