//! What the certificates above an SVID must hold: each field of them, and the way from one to the next.

use hauberk_identity::{TrustDomain, UnixMillis};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::ISSUING_PATH_LEN;
use super::upstream::{MAX_INTERMEDIATES, Place, UpstreamError, subject_of};
use crate::certificate::Facts;

/// One of those that were given.
pub(super) struct Given<'a> {
    pub(super) der: &'a CertificateDer<'static>,
    pub(super) facts: Facts<'a>,
}

pub(super) fn read_all<'a>(given: &'a [CertificateDer<'static>]) -> Result<Vec<Given<'a>>, UpstreamError> {
    let read = |(index, der)| {
        let facts =
            Facts::read(der).map_err(|fault| UpstreamError::Certificate { position: index + 1, fault });
        Ok(Given { der, facts: facts? })
    };
    given.iter().enumerate().map(read).collect()
}

/// The way from the issuing certificate up: those in between, and the root.
pub(super) fn climb<'a>(
    issuing: &'a Given<'a>,
    given: &'a [Given<'a>],
    roots: &[&'a Given<'a>],
) -> Result<(Vec<&'a Given<'a>>, &'a Given<'a>), UpstreamError> {
    let has_signed = |higher: &Given<'_>, lower: &Given<'_>| {
        higher.facts.subject == lower.facts.issuer
            && lower.facts.authority_key_id.is_none_or(|id| higher.facts.subject_key_id == Some(id))
    };
    let (mut above, mut lower) = (Vec::new(), issuing);
    loop {
        if let Some(root) = roots.iter().find(|root| has_signed(root, lower)) {
            return Ok((above, root));
        }
        let next = given.iter().find(|higher| !higher.facts.self_issued && has_signed(higher, lower));
        let Some(next) = next else {
            let place = if above.is_empty() { Place::Issuing } else { Place::Intermediate };
            return Err(UpstreamError::Gap { place, issuer: issuer_in_words(lower.der) });
        };
        if above.len() == MAX_INTERMEDIATES {
            return Err(UpstreamError::TooLong);
        }
        above.push(next);
        lower = next;
    }
}

/// RFC 5280 §4.2.1 and X509-SVID §3.2 and §4, stricter where we may ask for more: of the issuing certificate.
pub(super) fn check(
    place: Place,
    one: &Given<'_>,
    trust_domain: &TrustDomain,
    now: UnixMillis,
) -> Result<(), UpstreamError> {
    let Given { der, facts } = one;
    let is_issuing = place == Place::Issuing;
    let fault =
        |name, found: &str, wanted: &str| Err(field(place, name, found.to_owned(), wanted.to_owned()));
    let wanted = if is_issuing { "CA:TRUE, pathlen:0, critical" } else { "CA:TRUE, critical" };
    match facts.authority {
        None => return fault("basicConstraints", "absent, or CA:FALSE", wanted),
        Some(authority) if !authority.critical => {
            return fault("basicConstraints", "not critical", wanted);
        }
        Some(authority) if is_issuing && authority.path_len != Some(ISSUING_PATH_LEN.into()) => {
            let found =
                authority.path_len.map_or("without a pathlen".to_owned(), |len| format!("pathlen:{len}"));
            return fault("basicConstraints", &found, wanted);
        }
        Some(_) => {}
    }
    let wanted = if is_issuing { "keyCertSign and cRLSign, critical" } else { "keyCertSign" };
    match facts.key_usage {
        None => return fault("keyUsage", "absent", wanted),
        Some(usage) if !usage.cert_sign => return fault("keyUsage", "without keyCertSign", wanted),
        Some(usage) if is_issuing && !usage.crl_sign => return fault("keyUsage", "without cRLSign", wanted),
        Some(usage) if is_issuing && !usage.critical => return fault("keyUsage", "not critical", wanted),
        Some(_) => {}
    }
    if facts.extended_key_usage.is_some_and(|usage| !usage.server || !usage.client) {
        let found = "there, and lacks serverAuth or clientAuth";
        return fault("extKeyUsage", found, "none at all, or both of these");
    }
    if facts.subject_key_id.is_none() {
        return fault("subjectKeyIdentifier", "absent", "there");
    }
    if facts.authority_key_id.is_none() && place != Place::Root {
        return fault("authorityKeyIdentifier", "absent, or without a key identifier", "there, with one");
    }
    let own = trust_domain.id_string();
    let uris: Vec<&str> = facts.uris().collect();
    if is_issuing && uris != [own.as_str()] || uris.iter().any(|uri| *uri != own) {
        let found = if uris.is_empty() { "without a URI".to_owned() } else { uris.join(", ") };
        let wanted = if is_issuing { format!("URI:{own}") } else { format!("no URI, or URI:{own}") };
        return fault("subjectAltName", &found, &wanted);
    }
    if is_issuing && (facts.self_issued || subject_of(der).is_err()) {
        let wanted = "that of the request, or one with no attribute twice, in UTF8String or PrintableString";
        return fault("subject", "one that chains cannot be made with", wanted);
    }
    let (begin, end) = (facts.validity.not_before(), facts.validity.not_after());
    if !facts.validity.contains(now.floor_to_second()) {
        return fault("validity", &format!("from {begin} until {end}"), &format!("one that holds {now}"));
    }
    Ok(())
}

pub(super) fn field(place: Place, field: &'static str, found: String, wanted: String) -> UpstreamError {
    UpstreamError::Field { place, field, found, wanted }
}

fn issuer_in_words(der: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(der).map(|(_, read)| read.issuer().to_string()).unwrap_or_default()
}
