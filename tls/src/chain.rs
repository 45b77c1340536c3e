//! Chain rules that do not depend on what a certificate names: from a leaf to a root of a bundle.
//!
//! webpki builds the path and verifies signatures, name constraints and path lengths; the rules that it leaves to its
//! callers are added here.

use std::cell::{Cell, RefCell};

use hauberk_identity::{UnixMillis, Validity};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

use crate::bundle::TrustBundle;
use crate::certificate::Facts;
use crate::fingerprint::Fingerprint;
use crate::provider::CERTIFICATE_ALGORITHMS;
use crate::verifier::{Usage, VerifyError};

/// The most certificates that a peer may send besides its leaf: its issuing authority's and two above that, and, of a control
/// plane while one root follows another, its issuing authority's by the former root, and both roots.
const MAX_INTERMEDIATES: usize = 6;

/// The time in which every certificate of a path is valid, the root's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathWindow {
    from: UnixMillis,
    until: UnixMillis,
}

/// Verifies that `leaf` may act as `usage` at `now` under one of the bundle's roots, and says how long that path stands.
pub(crate) fn verify_chain<'a>(
    leaf: &'a CertificateDer<'a>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixMillis,
    usage: Usage,
) -> Result<(Facts<'a>, PathWindow), VerifyError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(VerifyError::TooManyCertificates(intermediates.len() + 1));
    }
    let facts = Facts::read(leaf).map_err(VerifyError::Leaf)?;
    check_window(&facts, now)?;
    check_leaf(&facts)?;
    let key_purpose = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    let refused = RefCell::new(None);
    // Of the path that is taken: the last one that is looked at.
    let window = Cell::new(PathWindow::of(facts.validity));
    let check = |path: &VerifiedPath<'_>| match check_path(path, bundle, now) {
        Ok(above) => {
            window.set(PathWindow::of(facts.validity).within(above));
            Ok(())
        }
        Err(error) => {
            refused.replace(Some(error));
            Err(webpki::Error::UnknownIssuer)
        }
    };
    EndEntityCert::try_from(leaf)
        .and_then(|end_entity| {
            end_entity.verify_for_usage(
                CERTIFICATE_ALGORITHMS,
                bundle.anchors(),
                intermediates,
                UnixTime::since_unix_epoch(now.since(UnixMillis(0))),
                key_purpose,
                None,
                Some(&check),
            )?;
            Ok(())
        })
        .map_err(|error| refused.take().unwrap_or_else(|| error.into()))?;
    Ok((facts, window.get()))
}

impl PathWindow {
    fn of(validity: Validity) -> Self {
        Self { from: validity.not_before(), until: validity.not_after() }
    }

    fn within(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// The last instant at which every certificate of the path is valid.
    pub(crate) fn until(self) -> UnixMillis {
        self.until
    }

    /// Whether every certificate of the path is valid at this time.
    pub(crate) fn contains(self, now: UnixMillis) -> bool {
        self.from <= now && now.floor_to_second() <= self.until
    }
}

/// Whether a certificate is valid at this time.
pub(crate) fn check_window(facts: &Facts<'_>, now: UnixMillis) -> Result<(), VerifyError> {
    let (not_before, not_after) = (facts.validity.not_before(), facts.validity.not_after());
    // A certificate counts whole seconds: its last one is valid to the end.
    if now.floor_to_second() > not_after {
        return Err(VerifyError::Expired { not_after, now });
    }
    if now < not_before {
        return Err(VerifyError::NotYetValid { not_before, now });
    }
    Ok(())
}

/// What no end of a chain may be, whatever it names.
fn check_leaf(facts: &Facts<'_>) -> Result<(), VerifyError> {
    if facts.authority.is_some() {
        return Err(VerifyError::AuthorityAsLeaf);
    }
    if facts.key_usage.is_some_and(|usage| usage.cert_sign || usage.crl_sign) {
        return Err(VerifyError::KeyUsage);
    }
    if facts.authority_key_id.is_none() {
        return Err(VerifyError::KeyIdentifier);
    }
    Ok(())
}

fn check_path(
    path: &VerifiedPath<'_>,
    bundle: &TrustBundle,
    now: UnixMillis,
) -> Result<PathWindow, VerifyError> {
    let root = bundle.root_of(path.anchor()).ok_or(VerifyError::UnknownIssuer)?;
    if !root.validity().contains(now.floor_to_second()) {
        return Err(VerifyError::RootOutsideValidity(root.fingerprint()));
    }
    let mut window = PathWindow::of(root.validity());
    let mut below_root = 0;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let facts = Facts::read(&der).map_err(VerifyError::Intermediate)?;
        check_window(&facts, now)?;
        window = window.within(PathWindow::of(facts.validity));
        check_intermediate(&facts)?;
        // Where a root vouches for authorities of several trust domains, each is believed about its own only (X509-SVID
        // §3.2).
        if facts.uris().any(|uri| uri != bundle.trust_domain().id_string()) {
            return Err(VerifyError::ForeignAuthority(bundle.trust_domain().clone()));
        }
        let key = Fingerprint::of(facts.spki);
        if bundle.distrusts(key) {
            return Err(VerifyError::Distrusted(key));
        }
        if !facts.self_issued {
            below_root += 1;
        }
    }
    if root.path_len().is_some_and(|most| below_root > most) {
        return Err(VerifyError::PathTooLong);
    }
    Ok(window)
}

/// RFC 5280 §4.2.1: what an authority must carry to have its signatures believed.
fn check_intermediate(facts: &Facts<'_>) -> Result<(), VerifyError> {
    let authority = facts.authority.ok_or(VerifyError::NotAnAuthority)?;
    let signs = facts.key_usage.is_some_and(|usage| usage.cert_sign);
    if !authority.critical || !signs {
        return Err(VerifyError::NotAnAuthority);
    }
    if facts.subject_key_id.is_none() || facts.authority_key_id.is_none() {
        return Err(VerifyError::KeyIdentifier);
    }
    Ok(())
}

#[cfg(test)]
mod limbo;
