//! Certificate revocation lists (RFC 5280 §5), for programs that do not hear of revocations by the mesh.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use hauberk_identity::{Serial, UnixMillis};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::authority::{Authority, IssuingAuthority, RootAuthority, since_epoch};
use crate::authority_key;
use crate::certificate::{CertificateFault, instant, subject_key_id};
use crate::pem;

/// One entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlEntry {
    /// Which certificate.
    pub serial: Serial,
    /// Since when it is not good.
    pub revoked_at: UnixMillis,
    /// It may become good again.
    pub is_on_hold: bool,
}

/// What a list says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlIssue {
    /// cRLNumber (RFC 5280 §5.2.3): greater than that of every earlier list of the same authority.
    pub number: u64,
    /// thisUpdate (§5.1.2.4).
    pub this_update: UnixMillis,
    /// nextUpdate (§5.1.2.5): by then another follows.
    pub next_update: UnixMillis,
}

/// Why there is no list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CrlError {
    /// The authority's own certificate is malformed. The fault is the store's.
    #[error("the authority's certificate is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// The authority's certificate names no key id, by which a list is told from that of another key.
    #[error("the authority's certificate has no subject key identifier")]
    NoKeyId,
    /// The library could not build the list.
    #[error("the revocation list could not be signed: {0}")]
    Sign(String),
}

/// Why a list that was signed before is not taken for one. The fault is whoever kept it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeptCrlError {
    /// Not one whole list in DER, with its number and the instant by which another comes.
    #[error("it is not exactly one revocation list in DER that has a number and says when the next comes")]
    Malformed,
    /// Another authority's.
    #[error("it is not by this authority")]
    OtherIssuer,
    /// Not what was signed.
    #[error("its signature is not by this authority's key")]
    Signature,
    /// The authority's own certificate is malformed. The fault is the store's.
    #[error("the authority's certificate is refused: {0}")]
    Certificate(#[from] CertificateFault),
}

/// Sees that a list that was kept is one which this authority of ours, by its certificate, has signed. Gives what the list says of itself.
///
/// # Errors
/// It is not.
pub fn verify_kept_crl(der: &[u8], authority: &CertificateDer<'_>) -> Result<CrlIssue, KeptCrlError> {
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| KeptCrlError::Malformed)?;
    let next_update = list.next_update().filter(|_| rest.is_empty()).ok_or(KeptCrlError::Malformed)?;
    // No list of ours has a number beyond this.
    let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
    let number = number.ok_or(KeptCrlError::Malformed)?;
    let (_, certificate) = X509Certificate::from_der(authority).map_err(|_| CertificateFault::Malformed)?;
    if list.issuer().as_raw() != certificate.subject().as_raw() {
        return Err(KeptCrlError::OtherIssuer);
    }
    // The keys of our own authorities are all of this kind.
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(list.tbs_cert_list.as_ref(), &list.signature_value.data)
        .map_err(|_| KeptCrlError::Signature)?;
    let this_update = instant(list.last_update().timestamp());
    Ok(CrlIssue { number, this_update, next_update: instant(next_update.timestamp()) })
}

/// A list in PEM (RFC 7468 §6).
pub fn crl_to_pem(der: &[u8]) -> String {
    pem::encode("X509 CRL", der)
}

impl IssuingAuthority {
    /// Signs a list of certificates that this authority has issued, in DER.
    ///
    /// # Errors
    /// The list cannot be built, or ends before it begins.
    pub fn sign_crl(&self, entries: &[CrlEntry], issue: CrlIssue) -> Result<Vec<u8>, CrlError> {
        sign(&self.authority, entries, issue)
    }
}

impl RootAuthority {
    /// The same of a root, whose list names authorities under it.
    ///
    /// # Errors
    /// Those of [`IssuingAuthority::sign_crl`].
    pub fn sign_crl(&self, entries: &[CrlEntry], issue: CrlIssue) -> Result<Vec<u8>, CrlError> {
        sign(&self.0, entries, issue)
    }
}

fn sign(
    authority: &Authority,
    entries: &[CrlEntry],
    CrlIssue { number, this_update, next_update }: CrlIssue,
) -> Result<Vec<u8>, CrlError> {
    let key_id = subject_key_id(&authority.der)?.ok_or(CrlError::NoKeyId)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let revoked_certs = entries.iter().map(|entry| RevokedCertParams {
        serial_number: SerialNumber::from(entry.serial.as_bytes().to_vec()),
        revocation_time: epoch + since_epoch(entry.revoked_at),
        reason_code: entry.is_on_hold.then_some(RevocationReason::CertificateHold),
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: epoch + since_epoch(this_update),
        next_update: epoch + since_epoch(next_update),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::PreSpecified(key_id),
    };
    let signed = list.signed_by(&authority.issuer);
    let signed = signed.map_err(|error| CrlError::Sign(authority_key::reason(error)))?;
    Ok(signed.der().to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hauberk_identity::{TrustDomain, Validity};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn root(serial: u8) -> RootAuthority {
        let validity = Validity::new(NOW, NOW.plus(HOUR)).unwrap();
        let trust_domain = TrustDomain::parse("shop.example").unwrap();
        RootAuthority::create(&trust_domain, validity, Serial::from_random([serial; 16])).unwrap()
    }

    #[test]
    fn a_kept_list_counts_as_its_authority_signed_it_and_not_otherwise() {
        let (root, other) = (root(1), root(2));
        let entry = CrlEntry { serial: Serial::from_random([7; 16]), revoked_at: NOW, is_on_hold: true };
        let issue = CrlIssue { number: u64::MAX, this_update: NOW, next_update: NOW.plus(HOUR) };
        let list = root.sign_crl(&[entry], issue).unwrap();
        let verify = |list: &[u8], by: &RootAuthority| verify_kept_crl(list, by.certificate());
        assert_eq!(verify(&list, &root), Ok(issue));
        assert_eq!(verify(&list, &other), Err(KeptCrlError::OtherIssuer));
        for cut in 0..list.len() {
            assert_eq!(verify(&list[..cut], &root), Err(KeptCrlError::Malformed), "cut to {cut}");
        }
        assert_eq!(verify(&[&list[..], &[0]].concat(), &root), Err(KeptCrlError::Malformed));
        // Two halves of two lists, as where only one of them was written.
        let later = CrlIssue { this_update: NOW.plus(HOUR), next_update: NOW.plus(2 * HOUR), ..issue };
        let later = root.sign_crl(&[entry], later).unwrap();
        let half = list.len() / 2;
        // Their signatures are not always of one length, and it may be no list at all.
        assert!(verify(&[&list[..half], &later[half..]].concat(), &root).is_err());
        let serial = list.windows(16).position(|bytes| bytes == entry.serial.as_bytes()).unwrap();
        let mut flipped = list.clone();
        flipped[serial] ^= 1;
        assert_eq!(verify(&flipped, &root), Err(KeptCrlError::Signature));
    }
}
