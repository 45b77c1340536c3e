//! Certificate revocation lists (RFC 5280 §5), for programs that do not hear of revocations by the mesh.

use hauberk_identity::{Serial, UnixMillis};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use thiserror::Error;

use crate::authority::{Authority, IssuingAuthority, RootAuthority, since_epoch};
use crate::authority_key;
use crate::certificate::{CertificateFault, subject_key_id};
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

/// A list in PEM (RFC 7468 §6).
pub fn crl_to_pem(der: &[u8]) -> String {
    pem::encode("X509 CRL", der)
}

impl IssuingAuthority {
    /// Signs a list of certificates that this authority has issued, in DER. It is numbered by the instant at which it is
    /// made, so that a later one has a greater number.
    ///
    /// # Errors
    /// The list cannot be built, or ends before it begins.
    pub fn sign_crl(
        &self,
        entries: &[CrlEntry],
        this_update: UnixMillis,
        next_update: UnixMillis,
    ) -> Result<Vec<u8>, CrlError> {
        sign(&self.authority, entries, this_update, next_update)
    }
}

impl RootAuthority {
    /// The same of a root, whose list names authorities under it.
    ///
    /// # Errors
    /// Those of [`IssuingAuthority::sign_crl`].
    pub fn sign_crl(
        &self,
        entries: &[CrlEntry],
        this_update: UnixMillis,
        next_update: UnixMillis,
    ) -> Result<Vec<u8>, CrlError> {
        sign(&self.0, entries, this_update, next_update)
    }
}

fn sign(
    authority: &Authority,
    entries: &[CrlEntry],
    this_update: UnixMillis,
    next_update: UnixMillis,
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
        crl_number: SerialNumber::from(this_update.0),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::PreSpecified(key_id),
    };
    let signed = list.signed_by(&authority.issuer);
    let signed = signed.map_err(|error| CrlError::Sign(authority_key::reason(error)))?;
    Ok(signed.der().to_vec())
}
