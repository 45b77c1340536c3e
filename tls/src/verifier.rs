//! Who a peer is: the one check of an X.509-SVID, for clients and servers alike.

mod issuer;

use std::fmt;
use std::sync::Arc;

use hauberk_identity::{Serial, SpiffeId, SpiffeIdError, TrustDomain, UnixMillis};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::bundle::TrustBundle;
use crate::certificate::{CertificateFault, Facts};
use crate::chain::{PathWindow, verify_chain};
use crate::fingerprint::Fingerprint;
use crate::words;
use issuer::issuer_of;

/// In which role a certificate authenticates its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The owner connects.
    Client,
    /// The owner is connected to.
    Server,
}

/// A peer whose certificate was verified.
#[derive(Clone)]
pub struct PeerIdentity {
    id: SpiffeId,
    serial: Serial,
    issuer_serial: Option<Serial>,
    not_before: UnixMillis,
    not_after: UnixMillis,
    key_fingerprint: Fingerprint,
    chain: Arc<[CertificateDer<'static>]>,
}

/// Why a certificate does not prove an identity. The fault is the peer's, or that of who issued to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// No certificate at all.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than anybody needs.
    #[error("{0} certificates were presented: that is too many")]
    TooManyCertificates(usize),
    /// The peer's own certificate breaks the profile.
    #[error("the certificate is refused: {0}")]
    Leaf(#[source] CertificateFault),
    /// A certificate between it and the root breaks the profile.
    #[error("an intermediate certificate is refused: {0}")]
    Intermediate(#[source] CertificateFault),
    /// The time is past notAfter. Whose fault it is cannot be said: the peer's, if it has not renewed, or this host's clock's.
    #[error(
        "the certificate expired at {not_after}, {} s ago by this host's clock, which says {now}",
        now.since(*not_after).as_secs()
    )]
    Expired {
        /// The last valid instant.
        not_after: UnixMillis,
        /// The time that was checked.
        now: UnixMillis,
    },
    /// The time is before notBefore. Nobody issues for the future: a clock is wrong.
    #[error(
        "the certificate is valid from {not_before}, which by this host's clock is {} s ahead: this clock, which says {now}, \
         is behind by as much or more",
        not_before.since(*now).as_secs()
    )]
    NotYetValid {
        /// The first valid instant.
        not_before: UnixMillis,
        /// The time that was checked.
        now: UnixMillis,
    },
    /// The certificate of an authority authenticates nobody.
    #[error("the certificate is that of an authority")]
    AuthorityAsLeaf,
    /// keyUsage must be critical and hold digitalSignature, not keyCertSign or cRLSign.
    #[error("the certificate's key usage does not permit it to authenticate, or permits it to issue")]
    KeyUsage,
    /// extKeyUsage must be present and hold the role.
    #[error("the certificate's extended key usage does not permit it to act as a {0}")]
    ExtendedKeyUsage(Usage),
    /// An authority or subject key identifier is missing.
    #[error("a certificate of the chain lacks its key identifiers")]
    KeyIdentifier,
    /// A certificate in the chain issued although it may not.
    #[error("a certificate of the chain is not that of an authority")]
    NotAnAuthority,
    /// More intermediates than the root permits.
    #[error("the chain is longer than its root permits")]
    PathTooLong,
    /// No root of the bundle vouches for the chain.
    #[error("no root of the trust bundle vouches for the certificate")]
    UnknownIssuer,
    /// The chain ends in a root that is itself expired or not valid yet.
    #[error("root {0} is outside its own validity")]
    RootOutsideValidity(Fingerprint),
    /// An authority of the chain was revoked.
    #[error("the authority with key {0} was revoked: nothing that it signed is accepted")]
    Distrusted(Fingerprint),
    /// An authority between the leaf and the root says that it is of another trust domain.
    #[error("an authority of the chain is not of trust domain {0}")]
    ForeignAuthority(TrustDomain),
    /// A signature in the chain is wrong.
    #[error("a signature in the chain is wrong")]
    BadSignature,
    /// Anything else that path validation finds.
    #[error("the chain is refused: {0}")]
    Path(String),
    /// Not exactly one URI among the names.
    #[error("the certificate has {0} URI names; a SPIFFE certificate has exactly one")]
    NotOneUri(usize),
    /// The URI is not a SPIFFE id with a path.
    #[error("the certificate's URI is not a SPIFFE id: {0}")]
    NotSpiffeId(#[from] SpiffeIdError),
    /// The id belongs to another trust domain than the bundle.
    #[error("{id} is not of trust domain {trust_domain}")]
    ForeignTrustDomain {
        /// Whom the certificate names.
        id: SpiffeId,
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
    },
    /// A proper identity, but not one that was expected here.
    #[error("{0} is not who was expected")]
    UnexpectedId(SpiffeId),
    /// A proper identity, but not the control plane's.
    #[error("{0} is not a control plane")]
    NotControlPlane(SpiffeId),
    /// No certificate of the chain has the pinned fingerprint.
    #[error("no certificate presented has the pinned fingerprint {0}")]
    PinNotPresented(Fingerprint),
    /// The pinned certificate cannot be a root.
    #[error("the pinned certificate {0} cannot serve as a root of the trust domain")]
    PinNotRoot(Fingerprint),
    /// The pinned root may be that of many trust domains.
    #[error("root {0} names no trust domain: say which one is meant (--trust-domain)")]
    PinOfNoTrustDomain(Fingerprint),
}

impl VerifyError {
    /// Whether it was refused for the time that it is here.
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Expired { .. } | Self::NotYetValid { .. } | Self::RootOutsideValidity(_))
    }

    /// Its kind, by a name for figures and logs: one of a fixed few.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::TooManyCertificates(_) => "too_many_certificates",
            Self::Leaf(CertificateFault::Key(_)) | Self::Intermediate(CertificateFault::Key(_)) => "weak_key",
            Self::Leaf(_) | Self::Intermediate(_) | Self::KeyIdentifier => "bad_certificate",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::AuthorityAsLeaf => "is_ca",
            Self::KeyUsage | Self::ExtendedKeyUsage(_) => "key_usage",
            Self::NotAnAuthority | Self::PathTooLong | Self::Path(_) => "bad_chain",
            Self::UnknownIssuer => "untrusted",
            Self::RootOutsideValidity(_) => "root_outside_validity",
            Self::Distrusted(_) => "authority_revoked",
            Self::BadSignature => "bad_signature",
            Self::NotOneUri(0) => "no_uri",
            Self::NotOneUri(_) => "two_uris",
            Self::NotSpiffeId(_) => "not_a_spiffe_id",
            Self::ForeignAuthority(_) | Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::UnexpectedId(_) | Self::NotControlPlane(_) => "unexpected_peer",
            Self::PinNotPresented(_) | Self::PinNotRoot(_) | Self::PinOfNoTrustDomain(_) => {
                "not_the_pinned_root"
            }
        }
    }

    /// Whose fault it is, for a person.
    pub fn fault(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "the peer's, which has not renewed, or one of the two clocks'",
            Self::NotYetValid { .. } => "this host's clock, or that of the control plane",
            Self::RootOutsideValidity(_) => "the trust bundle's, or this host's clock",
            Self::ForeignTrustDomain { .. } => {
                "the peer's, which is not of this mesh, or a federation's that is not set up"
            }
            Self::UnexpectedId(_) | Self::NotControlPlane(_) => "whoever answers at that address",
            Self::PinNotPresented(_) | Self::PinNotRoot(_) | Self::PinOfNoTrustDomain(_) => {
                "whoever answers at that address, or the pin's"
            }
            Self::Distrusted(_) => "the peer's, which has not renewed since its authority was revoked",
            _ => "the peer's, or that of who issued to it",
        }
    }
}

/// Verifies a chain, leaf first, and says whom it proves.
///
/// # Errors
/// The first rule that it breaks; see [`VerifyError`].
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixMillis,
    usage: Usage,
) -> Result<PeerIdentity, VerifyError> {
    verify_for_a_while(chain, bundle, now, usage).map(|(peer, _)| peer)
}

/// The same, and how long it stands.
pub(crate) fn verify_for_a_while(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixMillis,
    usage: Usage,
) -> Result<(PeerIdentity, PathWindow), VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let (facts, id, window) = verify_facts(leaf, intermediates, bundle, now, usage)?;
    Ok((PeerIdentity::of(&facts, id, chain), window))
}

/// The same where the leaf stands apart, as TLS hands it over; yields the id alone.
pub(crate) fn verify_parts(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixMillis,
    usage: Usage,
) -> Result<SpiffeId, VerifyError> {
    verify_facts(leaf, intermediates, bundle, now, usage).map(|(_, id, _)| id)
}

fn verify_facts<'a>(
    leaf: &'a CertificateDer<'a>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixMillis,
    usage: Usage,
) -> Result<(Facts<'a>, SpiffeId, PathWindow), VerifyError> {
    let (facts, window) = verify_chain(leaf, intermediates, bundle, now, usage)?;
    check_usage(&facts, usage)?;
    let id = spiffe_id(&facts)?;
    if !id.is_member_of(bundle.trust_domain()) {
        return Err(VerifyError::ForeignTrustDomain { id, trust_domain: bundle.trust_domain().clone() });
    }
    Ok((facts, id, window))
}

/// X509-SVID §4.3 and §4.4: what the key may do. Stricter than the standard, `extKeyUsage` must be there.
pub(crate) fn check_usage(facts: &Facts<'_>, usage: Usage) -> Result<(), VerifyError> {
    if !facts.key_usage.is_some_and(|key_usage| key_usage.critical && key_usage.digital_signature) {
        return Err(VerifyError::KeyUsage);
    }
    check_purpose(facts, usage)
}

pub(crate) fn check_purpose(facts: &Facts<'_>, usage: Usage) -> Result<(), VerifyError> {
    let permitted = facts.extended_key_usage.is_some_and(|purposes| match usage {
        Usage::Client => purposes.client,
        Usage::Server => purposes.server,
    });
    if permitted { Ok(()) } else { Err(VerifyError::ExtendedKeyUsage(usage)) }
}

/// Whom a certificate says that it is of. Nothing of it is verified, so that this only ever serves to refuse it.
///
/// # Errors
/// It is no certificate, or names nobody.
pub fn unverified_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    spiffe_id(&Facts::read(certificate).map_err(VerifyError::Leaf)?)
}

/// X509-SVID §2: the only URI among the names is the SPIFFE id. Other kinds of name may stand beside it.
pub(crate) fn spiffe_id(facts: &Facts<'_>) -> Result<SpiffeId, VerifyError> {
    match (facts.uris().next(), facts.uris().count()) {
        (Some(uri), 1) => Ok(SpiffeId::parse(uri)?),
        (_, count) => Err(VerifyError::NotOneUri(count)),
    }
}

impl PeerIdentity {
    /// Reads the identity out of a chain that has been verified.
    pub(crate) fn read(chain: &[CertificateDer<'_>]) -> Result<Self, VerifyError> {
        let leaf = chain.first().ok_or(VerifyError::NoCertificate)?;
        let facts = Facts::read(leaf).map_err(VerifyError::Leaf)?;
        Ok(Self::of(&facts, spiffe_id(&facts)?, chain))
    }

    fn of(leaf: &Facts<'_>, id: SpiffeId, chain: &[CertificateDer<'_>]) -> Self {
        Self {
            id,
            serial: leaf.serial,
            issuer_serial: issuer_of(leaf, chain),
            not_before: leaf.validity.not_before(),
            not_after: leaf.validity.not_after(),
            key_fingerprint: Fingerprint::of(leaf.spki),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        }
    }

    /// Who the peer is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The serial number of the certificate.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// The first instant at which the certificate is valid.
    pub fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// The last instant at which the certificate is valid.
    pub fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// The serial number of the authority that signed the certificate, where its own came along, wherever in the chain.
    pub fn issuer_serial(&self) -> Option<Serial> {
        self.issuer_serial
    }

    /// The SHA-256 of the certificate's SubjectPublicKeyInfo.
    pub fn key_fingerprint(&self) -> Fingerprint {
        self.key_fingerprint
    }

    /// The chain as the peer presented it, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Verifies the chain again, for a live connection, and says until when it proves the peer: an authority above it may end
    /// before the peer's own certificate does.
    ///
    /// # Errors
    /// The chain would not be accepted today.
    pub fn verify_again(
        &self,
        bundle: &TrustBundle,
        now: UnixMillis,
        usage: Usage,
    ) -> Result<UnixMillis, VerifyError> {
        let (leaf, intermediates) = self.chain.split_first().ok_or(VerifyError::NoCertificate)?;
        verify_facts(leaf, intermediates, bundle, now, usage).map(|(_, _, window)| window.until())
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

impl From<webpki::Error> for VerifyError {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { not_after: millis(not_after), now: millis(time) }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { not_before: millis(not_before), now: millis(time) }
            }
            webpki::Error::UnknownIssuer => Self::UnknownIssuer,
            webpki::Error::InvalidSignatureForPublicKey => Self::BadSignature,
            webpki::Error::PathLenConstraintViolated => Self::PathTooLong,
            webpki::Error::EndEntityUsedAsCa => Self::NotAnAuthority,
            webpki::Error::CaUsedAsEndEntity => Self::AuthorityAsLeaf,
            webpki::Error::RequiredEkuNotFoundContext(context) => Self::Path(words::of_usage(&context)),
            other => Self::Path(words::of(&other)),
        }
    }
}

fn millis(time: rustls_pki_types::UnixTime) -> UnixMillis {
    UnixMillis::from_secs(time.as_secs())
}
