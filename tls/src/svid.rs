//! An X.509-SVID: a leaf certificate and the chain that leads to a root.

use std::sync::Arc;

use hauberk_identity::{Serial, SpiffeId, Validity};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::certificate::{self, CertificateFault, Facts};
use crate::fingerprint::Fingerprint;
use crate::pem;
use crate::verifier::{self, VerifyError};

/// The most certificates that one SVID's chain holds: as many as a peer may send.
pub const MAX_CHAIN: usize = 7;

/// A leaf certificate with its chain. Cheap to clone; holds no private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    chain: Arc<[CertificateDer<'static>]>,
    id: SpiffeId,
    serial: Serial,
    validity: Validity,
    key_fingerprint: Fingerprint,
}

/// Why a chain cannot be an SVID. The fault is whoever supplied it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// The text is not PEM.
    #[error("the certificate chain is not PEM")]
    Pem,
    /// No certificate, or more than 7.
    #[error("a certificate chain has 1 to 7 certificates, this one has {0}")]
    Length(usize),
    /// A certificate is malformed.
    #[error("the certificate is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// The leaf names nobody.
    #[error(transparent)]
    Identity(#[from] VerifyError),
}

impl Svid {
    /// Takes a chain, leaf first. Its form is checked, not its signatures: that is [`crate::verify_svid`]'s part.
    ///
    /// # Errors
    /// The chain is empty, too long or malformed, or its leaf has no SPIFFE id.
    pub fn from_der<C>(chain: impl IntoIterator<Item = C>) -> Result<Self, SvidError>
    where
        C: Into<CertificateDer<'static>>,
    {
        let chain: Arc<[CertificateDer<'static>]> = chain.into_iter().map(Into::into).collect();
        if chain.len() > MAX_CHAIN {
            return Err(SvidError::Length(chain.len()));
        }
        let leaf = chain.first().ok_or(SvidError::Length(0))?;
        let facts = Facts::read(leaf)?;
        let (id, serial, validity) = (verifier::spiffe_id(&facts)?, facts.serial, facts.validity);
        let key_fingerprint = Fingerprint::of(facts.spki);
        Ok(Self { chain, id, serial, validity, key_fingerprint })
    }

    /// Reads a chain, leaf first, from certificates in DER that follow one another, as the SPIFFE Workload API has them.
    ///
    /// # Errors
    /// As [`Svid::from_der`].
    pub fn from_concatenated_der(bytes: &[u8]) -> Result<Self, SvidError> {
        Self::from_der(certificate::split(bytes)?)
    }

    /// Reads a chain, leaf first, from PEM.
    ///
    /// # Errors
    /// As [`Svid::from_der`], and for text that is not PEM.
    pub fn from_pem(text: &str) -> Result<Self, SvidError> {
        Self::from_der(pem::decode_certificates(text).map_err(|_| SvidError::Pem)?)
    }

    /// The same SVID whose chain ends in `root`, for servers that clients know by the root's fingerprint alone.
    ///
    /// # Errors
    /// The chain would become too long.
    pub fn with_root(&self, root: &CertificateDer<'static>) -> Result<Self, SvidError> {
        self.followed_by([root.clone()])
    }

    /// The same SVID with more certificates behind its chain.
    ///
    /// # Errors
    /// The chain would become too long.
    pub fn followed_by(
        &self,
        more: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, SvidError> {
        Self::from_der(self.chain.iter().cloned().chain(more))
    }

    /// The same SVID as a server shows it while one root follows another: `crosses`, which are certificates of the authority that
    /// signed it by other roots, stand before that authority's own, and `roots` behind everything.
    ///
    /// OpenSSL and BoringSSL take the first certificate of a name that they come upon, and try no other: a client that knows a
    /// former root alone finds its way by what stands first, and one that knows both roots does too.
    ///
    /// # Errors
    /// The chain would become too long.
    pub fn vouched_for_by(
        &self,
        crosses: impl IntoIterator<Item = CertificateDer<'static>>,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, SvidError> {
        let mut own = self.chain.iter().cloned();
        let leaf = own.next();
        Self::from_der(leaf.into_iter().chain(crosses).chain(own).chain(roots))
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain as PEM, leaf first.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&*self.chain)
    }

    /// Whom the leaf names.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The serial number of the authority that signed the leaf, where its certificate comes along: its own, which stands behind
    /// those by other roots.
    pub fn issuer_serial(&self) -> Option<Serial> {
        let mut above = self.chain.iter().skip(1).map_while(|der| Facts::read(der).ok());
        let first = above.next()?;
        let of_same_key = above.take_while(|other| other.spki == first.spki);
        Some(of_same_key.last().map_or(first.serial, |own| own.serial))
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// When the leaf is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub fn key_fingerprint(&self) -> Fingerprint {
        self.key_fingerprint
    }
}
