//! Issuing authorities that somebody else signs: what is asked for, and whether what comes back will do.
//!
//! Nothing that somebody else signed is relied on before every field of it has been looked at, and before a certificate was
//! made with it on trial and verified as a stranger would.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::profile::{check, climb, field, read_all};
use super::{AuthorityError, ISSUING_PATH_LEN, IssuingAuthority, RootAuthority};
use super::{authority_params, capped, sign_error};
use crate::authority_key::AuthorityKey;
use crate::bundle::{BundleError, TrustBundle};
use crate::certificate::{CertificateFault, Facts};
use crate::issue::{IssueError, SvidTemplate};
use crate::key::{KeyPair, PublicKey};
use crate::verifier::{Usage, verify_svid};

/// The most authorities between an issuing authority and its root: while one root follows another, a server's chain holds
/// its own certificate, the issuing authority's two, and both roots besides, and nobody takes more than seven.
pub(super) const MAX_INTERMEDIATES: usize = 2;

/// The most certificates that are looked at.
const MAX_GIVEN: usize = 16;

/// The life of a certificate made on trial.
const ON_TRIAL: Duration = Duration::from_secs(60);

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It signs SVIDs.
    Issuing,
    /// Between that and the root.
    Intermediate,
    /// Everybody is to trust it.
    Root,
}

/// Why what somebody else signed will not do. The fault is whoever signed it, or put it together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// More than anybody needs.
    #[error("{0} certificates were given; {MAX_GIVEN} are the most")]
    TooMany(usize),
    /// One of them cannot be read.
    #[error("certificate {position} of those that were given is refused: {fault}")]
    Certificate {
        /// From 1 on.
        position: usize,
        /// What is wrong with it.
        fault: CertificateFault,
    },
    /// It was signed for another request.
    #[error(
        "none of the certificates is for the key of the request that waits: was an older request signed?"
    )]
    OtherKey,
    /// Which one is meant?
    #[error("several certificates are for the key of the request: give the one that is meant")]
    Ambiguous,
    /// One field is not what it must be.
    #[error("{place}'s {field} is {found}; what is needed is {wanted}")]
    Field {
        /// Whose.
        place: Place,
        /// Which, by its name in RFC 5280.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// Nobody says whom to trust.
    #[error("no root was given, and none is known here: give the root's certificate too")]
    NoRoot,
    /// Somebody in between is missing.
    #[error(
        "nobody who was given, and no root, is the issuer of {place} ({issuer}): a certificate is missing"
    )]
    Gap {
        /// Whose issuer is missing.
        place: Place,
        /// Who that is.
        issuer: String,
    },
    /// More than fit into a chain.
    #[error("more than {MAX_INTERMEDIATES} certificates stand between the issuing certificate and the root")]
    TooLong,
    /// The root cannot be one.
    #[error("the root is refused: {0}")]
    Root(#[from] BundleError),
    /// The certificate and the key do not make an authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Our own verifier would refuse what it signs.
    #[error("a certificate that it signed on trial would be refused: {0}")]
    Trial(#[from] IssueError),
}

/// An issuing authority's certificate by somebody else, and what leads from it to a root. Its fields are right; its
/// signatures are looked at by [`IssuingAuthority::adopt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChain {
    certificate: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl UpstreamChain {
    /// Finds the issuing certificate for `key` among those given, in any order, and what leads from it to a root: `root`,
    /// whatever it is; where there is none, a self-signed one of those given, else one of those `known`.
    ///
    /// # Errors
    /// The first field that is not what it must be, or what is missing.
    pub fn find(
        trust_domain: &TrustDomain,
        key: &PublicKey,
        given: &[CertificateDer<'static>],
        root: Option<&CertificateDer<'static>>,
        known: &[CertificateDer<'static>],
        now: UnixMillis,
    ) -> Result<Self, UpstreamError> {
        if given.len() > MAX_GIVEN {
            return Err(UpstreamError::TooMany(given.len()));
        }
        let given = read_all(given)?;
        let mut ours = given.iter().filter(|one| one.facts.spki == key.spki_der());
        let issuing = ours.next().ok_or(UpstreamError::OtherKey)?;
        if ours.any(|other| other.der != issuing.der) {
            return Err(UpstreamError::Ambiguous);
        }
        check(Place::Issuing, issuing, trust_domain, now)?;
        let self_signed: Vec<_> = given.iter().filter(|one| one.facts.self_issued).collect();
        let named = root.map(std::slice::from_ref).map(read_all).transpose()?;
        let known = read_all(known)?;
        let roots = match &named {
            Some(named) => named.iter().collect(),
            None if self_signed.is_empty() => known.iter().collect(),
            None => self_signed,
        };
        if roots.is_empty() {
            return Err(UpstreamError::NoRoot);
        }
        let (above, root) = climb(issuing, &given, &roots)?;
        for intermediate in &above {
            check(Place::Intermediate, intermediate, trust_domain, now)?;
        }
        check(Place::Root, root, trust_domain, now)?;
        TrustBundle::new(trust_domain.clone(), [root.der.clone()])?;
        for (place, higher) in
            above.iter().map(|one| (Place::Intermediate, *one)).chain([(Place::Root, root)])
        {
            let (end, most) = (issuing.facts.validity.not_after(), higher.facts.validity.not_after());
            if end > most {
                let wanted = format!("an end no later than that of {place}, {most}");
                return Err(field(Place::Issuing, "validity", format!("until {end}"), wanted));
            }
        }
        Ok(Self {
            certificate: issuing.der.clone(),
            intermediates: above.into_iter().map(|one| one.der.clone()).collect(),
            root: root.der.clone(),
        })
    }

    /// The issuing authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What stands between it and the root, its own signer first.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The root.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }
}

/// Whether a certificate is one's own issuer, as roots are.
pub fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    Facts::read(certificate).is_ok_and(|facts| facts.self_issued)
}

/// Whether this may be the root of a trust domain: X509-SVID §3.2 lets a signing certificate name none, and ours to name
/// another is refused.
///
/// # Errors
/// The first field that is not what it must be.
pub fn check_root(
    trust_domain: &TrustDomain,
    root: &CertificateDer<'static>,
    now: UnixMillis,
) -> Result<(), UpstreamError> {
    for root in &read_all(std::slice::from_ref(root))? {
        check(Place::Root, root, trust_domain, now)?;
    }
    TrustBundle::new(trust_domain.clone(), [root.clone()])?;
    Ok(())
}

impl IssuingAuthority {
    /// A request in DER (RFC 2986) for an issuing authority's certificate, with the profile that is wanted in its extensions.
    /// `unique` goes into the subject, so that no two authorities have one name.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn request(
        trust_domain: &TrustDomain,
        key: &AuthorityKey,
        unique: Serial,
    ) -> Result<Vec<u8>, AuthorityError> {
        let whenever = Validity::new(UnixMillis(0), UnixMillis(0))?;
        let mut params = authority_params(trust_domain, "issuing", ISSUING_PATH_LEN, whenever, unique)?;
        params.serial_number = None;
        params.serialize_request(key).map(|request| request.der().to_vec()).map_err(sign_error)
    }

    /// Loads an issuing authority that somebody else signed, and has it sign a server's certificate with these names on trial.
    ///
    /// # Errors
    /// It is not what it seems, or what it signs would be refused.
    pub fn adopt(
        chain: &UpstreamChain,
        key: impl Into<AuthorityKey>,
        dns_names: Vec<String>,
        ip_addresses: Vec<IpAddr>,
        now: UnixMillis,
    ) -> Result<Self, UpstreamError> {
        let issuing = Self::load(chain.certificate.clone(), key, chain.root.clone())?
            .through(chain.intermediates.iter().cloned());
        let name = Name::parse("trial").map_err(|error| AuthorityError::Sign(error.to_string()))?;
        let template = SvidTemplate {
            id: SpiffeId::control_plane(issuing.trust_domain(), &name),
            public_key: KeyPair::generate().map_err(AuthorityError::from)?.public_key(),
            serial: Serial::from_random([1; 16]),
            validity: Validity::new(now, now.plus(ON_TRIAL)).map_err(AuthorityError::from)?,
            dns_names,
            ip_addresses,
        };
        let svid = issuing.sign(&template)?;
        for usage in [Usage::Client, Usage::Server] {
            verify_svid(svid.chain(), issuing.root_bundle(), now, usage)
                .map_err(|error| IssueError::SelfCheck(error.into()))?;
        }
        Ok(issuing)
    }

    /// The same authority with what stands between it and its root, which goes along in every chain; its signer first.
    #[must_use]
    pub fn through(mut self, intermediates: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.intermediates = intermediates.into_iter().collect();
        self
    }
}

impl RootAuthority {
    /// Certifies somebody's key as that of an issuing authority of this trust domain. The validity is capped by the root's.
    ///
    /// # Errors
    /// No certificate could be made, or nothing of the validity lies within the root's.
    pub fn certify(
        &self,
        key: &PublicKey,
        validity: Validity,
        serial: Serial,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let params = issuing_params(&self.0.trust_domain, capped(validity, self.0.validity)?, serial)?;
        Ok(params.signed_by(key, &self.0.issuer).map_err(sign_error)?.into())
    }
}

/// The profile of an issuing authority's certificate.
pub(super) fn issuing_params(
    trust_domain: &TrustDomain,
    validity: Validity,
    serial: Serial,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = authority_params(trust_domain, "issuing", ISSUING_PATH_LEN, validity, serial)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A certificate's subject for another certificate of the same authority.
pub(super) fn subject_of(der: &CertificateDer<'_>) -> Result<DistinguishedName, AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateFault::Malformed)?;
    name_of(certificate.subject())
        .ok_or_else(|| AuthorityError::Sign("its subject cannot be written again as it is".to_owned()))
}

/// A name as the library writes it; `None` where that would be another. It keeps one attribute of each type, each in a set of
/// its own, and a name that comes out differently would make a chain that nobody accepts.
fn name_of(name: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut copied = DistinguishedName::new();
    for set in name.iter() {
        let mut attributes = set.iter();
        let (attribute, None) = (attributes.next()?, attributes.next()) else { return None };
        let kind = DnType::from_oid(&attribute.attr_type().iter()?.collect::<Vec<_>>());
        let value = attribute.attr_value();
        let text = std::str::from_utf8(value.data).ok()?;
        let value = match value.header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(PrintableString::try_from(text).ok()?),
            Tag::Ia5String => DnValue::Ia5String(Ia5String::try_from(text).ok()?),
            _ => return None,
        };
        if copied.get(&kind).is_some() {
            return None;
        }
        copied.push(kind, value);
    }
    Some(copied)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuing => "the issuing certificate",
            Self::Intermediate => "an intermediate certificate",
            Self::Root => "the root",
        })
    }
}
