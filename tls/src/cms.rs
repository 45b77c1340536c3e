//! Signed documents (CMS SignedData, RFC 5652; once PKCS#7), as clouds hand them out to their machines.
//!
//! What is verified is what is returned: the content comes out of the very bytes that the signature covers, and never from
//! anywhere else. Who may sign is configured: certificates that come along with a document are not looked at.

mod ber;

#[cfg(test)]
mod tests;

use std::fmt;

use hauberk_identity::UnixMillis;
use thiserror::Error;
use webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::fingerprint::Fingerprint;
use crate::key::{self, KeyError};
use crate::pem;
use ber::{Element, element, octets, only};

/// The largest document that is read, with its signature, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// The most signers of one list.
const MAX_SIGNERS: usize = 128;

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;
const IMPLICIT_1: u8 = 0xa1;

/// 1.2.840.113549.1.7.2 and .1: signedData and data.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 2.16.840.1.101.3.4.2.1: SHA-256.
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.2.840.113549.1.1.1 and .11: RSA, and RSA with SHA-256.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_SHA_256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
/// 1.2.840.113549.1.9.3 and .4: the attributes contentType and messageDigest.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];

/// Those whose signatures on documents are believed.
#[derive(Clone)]
pub struct DocumentSigners(Vec<Signer>);

/// One certificate, of which the key alone counts.
#[derive(Clone, PartialEq, Eq)]
struct Signer {
    fingerprint: Fingerprint,
    /// Name of the issuer and serial number, by which a document names who signed it.
    issuer: Vec<u8>,
    serial: Vec<u8>,
    not_before: UnixMillis,
    not_after: UnixMillis,
    key: Vec<u8>,
}

/// Why a list of signers is not taken. The fault is whoever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DocumentSignersError {
    /// Not PEM, or nothing.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// More than anybody needs.
    #[error("{0} certificates are too many: 128 are the most")]
    TooMany(usize),
    /// Not a certificate.
    #[error("certificate {0} is malformed")]
    Malformed(usize),
    /// Its key does not do.
    #[error("certificate {number} is refused: {source}")]
    Key {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: KeyError,
    },
    /// Its key is none that signs documents.
    #[error("certificate {0} has no RSA key: the one that is for RSA-2048 signatures is needed")]
    NotRsa(usize),
}

/// A document that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument {
    /// What was signed.
    pub content: Vec<u8>,
    /// The certificate of who signed it.
    pub signer: Fingerprint,
}

/// Why a document proves nothing. The fault is whoever made or sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// More than 64 KiB.
    #[error("the document has {0} bytes; 65536 are the most")]
    TooLong(usize),
    /// Not one whole SignedData with its content.
    #[error("the document is not exactly one CMS SignedData that holds its content")]
    Malformed,
    /// None, or several: it would not be clear whose document it is.
    #[error("the document does not have exactly one signature")]
    NotOneSignature,
    /// Another algorithm than RSA with SHA-256.
    #[error("the document is not signed by RSA with SHA-256")]
    Algorithm,
    /// What is signed is not the digest of the content.
    #[error("what the signature covers is not the digest of the content")]
    Digest,
    /// By a certificate that is not configured.
    #[error("the document is signed by none of those that are believed")]
    UnknownSigner,
    /// By one that is not valid now.
    #[error("the certificate {0} that signed the document is not valid now")]
    SignerNotValid(Fingerprint),
    /// The signature is wrong.
    #[error("the document's signature is wrong")]
    Signature,
}

impl DocumentSigners {
    /// Reads the signers' certificates from PEM.
    ///
    /// # Errors
    /// There are none, or one cannot sign documents.
    pub fn from_pem(text: &str) -> Result<Self, DocumentSignersError> {
        let certificates = pem::decode_certificates(text).map_err(|_| DocumentSignersError::NoCertificate)?;
        match certificates.len() {
            0 => return Err(DocumentSignersError::NoCertificate),
            1..=MAX_SIGNERS => {}
            many => return Err(DocumentSignersError::TooMany(many)),
        }
        let read = certificates.iter().enumerate().map(|(index, der)| Signer::read(index + 1, der));
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Whether one of them has this fingerprint.
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.0.iter().any(|signer| signer.fingerprint == fingerprint)
    }

    /// Verifies a document (RFC 5652 §5.4, §5.6) that holds its content, at `now`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, document: &[u8], now: UnixMillis) -> Result<SignedDocument, DocumentError> {
        if document.len() > MAX_LEN {
            return Err(DocumentError::TooLong(document.len()));
        }
        let (content, signature) = read(document).ok_or(DocumentError::Malformed)??;
        let signed = signature.signed(&content)?;
        let named = |signer: &&Signer| signer.issuer == signature.issuer && signer.serial == signature.serial;
        let signer = self.0.iter().find(named).ok_or(DocumentError::UnknownSigner)?;
        if now < signer.not_before || now > signer.not_after {
            return Err(DocumentError::SignerNotValid(signer.fingerprint));
        }
        RSA_PKCS1_2048_8192_SHA256
            .verify_signature(&signer.key, &signed, signature.value)
            .map_err(|_| DocumentError::Signature)?;
        Ok(SignedDocument { content, signer: signer.fingerprint })
    }
}

impl Signer {
    fn read(number: usize, der: &[u8]) -> Result<Self, DocumentSignersError> {
        let malformed = || DocumentSignersError::Malformed(number);
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let tbs = &certificate.tbs_certificate;
        let spki = &tbs.subject_pki;
        if spki.algorithm.algorithm.as_bytes() != RSA {
            return Err(DocumentSignersError::NotRsa(number));
        }
        key::check_strength(spki).map_err(|source| DocumentSignersError::Key { number, source })?;
        let instant = |seconds: i64| UnixMillis::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            fingerprint: Fingerprint::of(der),
            issuer: tbs.issuer.as_raw().to_vec(),
            serial: tbs.raw_serial().to_vec(),
            not_before: instant(tbs.validity.not_before.timestamp()),
            not_after: instant(tbs.validity.not_after.timestamp()),
            key: spki.subject_public_key.data.to_vec(),
        })
    }
}

/// The one signature of a document.
struct Signature<'a> {
    /// Name of the signer's issuer, with its tag; and the serial number.
    issuer: &'a [u8],
    serial: &'a [u8],
    /// What is signed beside the content, where anything is.
    attributes: Option<Element<'a>>,
    value: &'a [u8],
}

/// Takes a document apart: `None` where it has another form.
#[allow(
    clippy::type_complexity,
    reason = "the inner error says what is wrong with a document of the right form"
)]
fn read(document: &[u8]) -> Option<Result<(Vec<u8>, Signature<'_>), DocumentError>> {
    let outer = only(document, SEQUENCE)?;
    let (kind, rest) = element(outer, OBJECT)?;
    if kind.contents != SIGNED_DATA {
        return None;
    }
    let signed_data = only(only(rest, EXPLICIT_0)?, SEQUENCE)?;
    let (_version, rest) = element(signed_data, INTEGER)?;
    let (_digests, rest) = element(rest, SET)?;
    let (encapsulated, rest) = element(rest, SEQUENCE)?;
    let (kind, content) = element(encapsulated.contents, OBJECT)?;
    if kind.contents != DATA {
        return None;
    }
    let content = octets(only(content, EXPLICIT_0)?)?;
    // Certificates and revocation lists that came along.
    let rest = element(rest, EXPLICIT_0).map_or(rest, |(_, rest)| rest);
    let rest = element(rest, IMPLICIT_1).map_or(rest, |(_, rest)| rest);
    let signatures = only(rest, SET)?;
    let Some((signature, [])) = element(signatures, SEQUENCE) else {
        return Some(Err(DocumentError::NotOneSignature));
    };
    Some(Signature::read(signature.contents)?.map(|signature| (content, signature)))
}

impl<'a> Signature<'a> {
    /// Reads a SignerInfo (RFC 5652 §5.3) that names its signer by issuer and serial number.
    fn read(info: &'a [u8]) -> Option<Result<Self, DocumentError>> {
        let (_version, rest) = element(info, INTEGER)?;
        let (signer, rest) = element(rest, SEQUENCE)?;
        let (issuer, serial) = element(signer.contents, SEQUENCE)?;
        let serial = only(serial, INTEGER)?;
        let (digest, rest) = element(rest, SEQUENCE)?;
        let (attributes, rest) = match element(rest, EXPLICIT_0) {
            Some((attributes, rest)) => (Some(attributes), rest),
            None => (None, rest),
        };
        let (algorithm, rest) = element(rest, SEQUENCE)?;
        let (value, rest) = element(rest, OCTET_STRING)?;
        if !rest.is_empty() {
            // Attributes that are not signed: nothing of them counts, and they must be all.
            only(rest, IMPLICIT_1)?;
        }
        let (digest, _) = element(digest.contents, OBJECT)?;
        let (algorithm, _) = element(algorithm.contents, OBJECT)?;
        if digest.contents != SHA_256 || ![RSA, RSA_SHA_256].contains(&algorithm.contents) {
            return Some(Err(DocumentError::Algorithm));
        }
        Some(Ok(Self { issuer: issuer.whole, serial, attributes, value: value.contents }))
    }

    /// What the signature is over: the content, or attributes that hold its digest (RFC 5652 §5.4).
    fn signed(&self, content: &[u8]) -> Result<Vec<u8>, DocumentError> {
        let Some(attributes) = &self.attributes else { return Ok(content.to_vec()) };
        let kind = attribute(attributes.contents, CONTENT_TYPE, OBJECT).ok_or(DocumentError::Malformed)?;
        let digest =
            attribute(attributes.contents, MESSAGE_DIGEST, OCTET_STRING).ok_or(DocumentError::Malformed)?;
        if kind != DATA || digest != Fingerprint::of(content).as_bytes() {
            return Err(DocumentError::Digest);
        }
        // They are signed under the tag that they have among themselves.
        let mut signed = attributes.whole.to_vec();
        if let Some(tag) = signed.first_mut() {
            *tag = SET;
        }
        Ok(signed)
    }
}

/// The one value of an attribute that stands there once.
fn attribute<'a>(mut attributes: &'a [u8], wanted: &[u8], tag: u8) -> Option<&'a [u8]> {
    let mut found = None;
    while !attributes.is_empty() {
        let (one, rest) = element(attributes, SEQUENCE)?;
        attributes = rest;
        let (kind, values) = element(one.contents, OBJECT)?;
        if kind.contents == wanted && found.replace(only(only(values, SET)?, tag)?).is_some() {
            return None;
        }
    }
    found
}

impl PartialEq for DocumentSigners {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for DocumentSigners {}

impl fmt::Debug for DocumentSigners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|signer| signer.fingerprint)).finish()
    }
}
