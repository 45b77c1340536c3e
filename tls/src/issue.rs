//! How an SVID is signed, and how our own output is checked before it leaves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hauberk_identity::{Serial, SpiffeId, Validity, ValidityError};
use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::authority::{self, IssuingAuthority};
use crate::authority_key::reason_elsewhere;
use crate::bundle::{Root, TrustBundle};
use crate::certificate::{CertificateFault, Facts, SubjectName};
use crate::key::PublicKey;
use crate::svid::{Svid, SvidError};
use crate::verifier::{Usage, VerifyError, verify_svid};

/// Everything that an SVID will say. Nothing of it comes from the requester except the key.
#[derive(Debug, Clone)]
pub struct SvidTemplate {
    /// Whom it names.
    pub id: SpiffeId,
    /// The key that it certifies.
    pub public_key: PublicKey,
    /// Its serial number, new and random.
    pub serial: Serial,
    /// When it is valid; capped by the signer.
    pub validity: Validity,
    /// DNS names beside the id, for clients that know no SPIFFE ids.
    pub dns_names: Vec<String>,
    /// IP addresses beside the id.
    pub ip_addresses: Vec<IpAddr>,
}

/// Why no SVID was issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The id is not of the authority's trust domain. The fault is the caller's.
    #[error("{0} is not of the authority's trust domain")]
    ForeignTrustDomain(SpiffeId),
    /// Nothing of the validity lies within the signer's. The signer has expired, or the clock is wrong.
    #[error("the validity asked for lies outside the issuing authority's")]
    OutsideAuthority(#[from] ValidityError),
    /// Not a DNS name. The fault is whoever configured it.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// The library could not build the certificate.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// What holds the authority's key elsewhere did not sign.
    #[error("{0}")]
    KeyElsewhere(String),
    /// Our own output failed the check: a bug, and nothing was issued.
    #[error("the certificate that was signed is not the one that was meant: {0}")]
    SelfCheck(#[from] SelfCheckError),
}

/// In what a signed certificate differs from its template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelfCheckError {
    /// It cannot be read.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    /// Our own verifier refuses it.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// One field is not as asked.
    #[error("its {0} differs")]
    Field(&'static str),
}

impl IssuingAuthority {
    /// Signs one SVID in the profile of X509-SVID §2 to §5 and checks it before handing it out.
    ///
    /// The subject is empty and the alternative names therefore critical (RFC 5280 §4.1.2.6), so that the SPIFFE id is
    /// the only identity that a certificate has.
    ///
    /// # Errors
    /// The template is not this authority's to sign, or the check of our own output fails.
    pub fn sign(&self, template: &SvidTemplate) -> Result<Svid, IssueError> {
        if !template.id.is_member_of(&self.authority.trust_domain) {
            return Err(IssueError::ForeignTrustDomain(template.id.clone()));
        }
        let validity = authority::capped(template.validity, self.authority.validity)?;
        let mut params = authority::dated_params(validity, template.serial);
        params.subject_alt_names = subject_names(template)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&template.public_key, &self.authority.issuer).map_err(sign_error)?;
        let above = self.intermediates.iter().cloned();
        let chain = [leaf.into(), self.authority.der.clone()].into_iter().chain(above);
        let svid = Svid::from_der(chain).map_err(SelfCheckError::from)?;
        self.check(&svid, template, validity)?;
        Ok(svid)
    }

    fn check(&self, svid: &Svid, template: &SvidTemplate, validity: Validity) -> Result<(), SelfCheckError> {
        if let Some(itself) = self.proven.get() {
            return verify_leaf(svid.chain().get(..1).unwrap_or_default(), template, validity, itself);
        }
        verify_issued(svid, template, validity, &self.root)?;
        // What stands above may permit some names and not others.
        let above = self.root.roots().iter().map(Root::der).chain(&self.intermediates);
        let is_constrained = |der| Facts::read(der).is_ok_and(|facts| facts.has_name_constraints);
        if above.into_iter().any(is_constrained) {
            return Ok(());
        }
        // An authority that cannot stand as a root is verified with its path each time.
        if let Ok(itself) = TrustBundle::new(self.trust_domain().clone(), [self.authority.der.clone()]) {
            self.proven.get_or_init(|| itself);
        }
        Ok(())
    }
}

/// Checks a signed SVID as a stranger would, and that it says what `template` meant within `validity`, no more.
///
/// # Errors
/// The first difference.
pub fn verify_issued(
    svid: &Svid,
    template: &SvidTemplate,
    validity: Validity,
    root: &TrustBundle,
) -> Result<(), SelfCheckError> {
    if *svid.id() != template.id {
        return Err(SelfCheckError::Field("SPIFFE id"));
    }
    verify_leaf(svid.chain(), template, validity, root)
}

/// The same of a chain under any authority that may sign such a leaf.
fn verify_leaf(
    chain: &[CertificateDer<'_>],
    template: &SvidTemplate,
    validity: Validity,
    authority: &TrustBundle,
) -> Result<(), SelfCheckError> {
    let differs = |field| Err(SelfCheckError::Field(field));
    let at = validity.not_before();
    let peer = verify_svid(chain, authority, at, Usage::Server)?;
    let leaf = chain.first().ok_or(SvidError::Length(0))?;
    let facts = Facts::read(leaf)?;
    if *peer.id() != template.id {
        return differs("SPIFFE id");
    }
    if facts.spki != template.public_key.spki_der() {
        return differs("public key");
    }
    if facts.serial != template.serial {
        return differs("serial number");
    }
    if facts.validity != validity {
        return differs("validity");
    }
    if !facts.extended_key_usage.is_some_and(|usage| usage.server && usage.client) {
        return differs("extended key usage");
    }
    if facts.subject_key_id.is_none() || !facts.has_basic_constraints {
        return differs("profile");
    }
    let octets: Vec<Vec<u8>> = template.ip_addresses.iter().map(|ip| octets(*ip)).collect();
    let meant: BTreeSet<SubjectName<'_>> = [SubjectName::Uri(template.id.as_str())]
        .into_iter()
        .chain(template.dns_names.iter().map(|name| SubjectName::Dns(name)))
        .chain(octets.iter().map(|ip| SubjectName::Ip(ip)))
        .collect();
    if facts.names.into_iter().collect::<BTreeSet<_>>() != meant {
        return differs("subject alternative names");
    }
    Ok(())
}

fn subject_names(template: &SvidTemplate) -> Result<Vec<SanType>, IssueError> {
    let mut names = vec![authority::uri(template.id.as_str()).map_err(sign_error)?];
    for name in &template.dns_names {
        if !is_dns_name(name) {
            return Err(IssueError::DnsName(name.clone()));
        }
        names.push(SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(sign_error)?));
    }
    names.extend(template.ip_addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn sign_error(error: rcgen::Error) -> IssueError {
    match reason_elsewhere(&error) {
        Some(reason) => IssueError::KeyElsewhere(reason.to_owned()),
        None => IssueError::Sign(error.to_string()),
    }
}

/// Whether a text may stand in a certificate as a DNS name, by RFC 1123 §2.1: letters, digits and hyphens in labels of 1 to
/// 63. No wildcards: a certificate is one server's.
pub fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
