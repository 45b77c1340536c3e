//! Which of the certificates that a peer sent along signed its own.

use hauberk_identity::Serial;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::certificate::Facts;
use crate::provider::CERTIFICATE_ALGORITHMS;

/// The serial number of the authority that a verified chain led through first. Peers send what they like besides: what is of
/// another name or key than the leaf's issuer did not sign it, and among several that are of the same the signature tells. Of
/// several of one key the last is meant: those by other roots stand before the authority's own.
pub(super) fn issuer_of(leaf: &Facts<'_>, chain: &[CertificateDer<'_>]) -> Option<Serial> {
    let (first, above) = chain.split_first()?;
    let may_have_signed = |der: &&CertificateDer<'_>| {
        Facts::read(der)
            .is_ok_and(|above| above.subject == leaf.issuer && above.subject_key_id == leaf.authority_key_id)
    };
    let mut candidates = above.iter().rev().filter(may_have_signed);
    let only = candidates.next()?;
    let signer = match candidates.next() {
        None => only,
        Some(_) => above.iter().rev().filter(may_have_signed).find(|der| has_signed(der, first))?,
    };
    Some(Facts::read(signer).ok()?.serial)
}

/// Whether the key of one certificate has signed another.
fn has_signed(above: &CertificateDer<'_>, below: &CertificateDer<'_>) -> bool {
    let Ok((_, signed)) = X509Certificate::from_der(below) else { return false };
    let Ok(signer) = EndEntityCert::try_from(above) else { return false };
    let (message, signature) = (signed.tbs_certificate.as_ref(), &*signed.signature_value.data);
    let fits = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        signer.verify_signature(*algorithm, message, signature).is_ok()
    };
    CERTIFICATE_ALGORITHMS.iter().any(fits)
}
