//! Certificates of machines, and proof of possession of their keys: what an agent can show of where it runs.
//!
//! Such a certificate is no SVID. It comes from the administrator's own authority, which names machines as it likes; what
//! it names is for selectors to judge. The proof is a signature over a [`statement`], which holds the name of the very
//! connection that it is shown on ([`ChannelBinding`]): both ends derive that from the handshake, so it is fresh, good
//! once, and worth nothing on another connection.

mod key;
mod window;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;

use hauberk_identity::{Serial, UnixMillis, Validity};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::certificate::{CertificateFault, Facts, SubjectName};
use crate::chain::check_window;
use crate::fingerprint::Fingerprint;
use crate::key::PublicKey;
use crate::pem;
use crate::provider::CERTIFICATE_ALGORITHMS;
use crate::stream::{Connection, ExporterError};
use crate::verifier::VerifyError;

pub use key::{DeviceKey, DeviceKeyError};
use window::begun;

/// The most certificates between a machine's own and the authority: what follows costs a signature check each.
pub const MAX_INTERMEDIATES: usize = 4;

/// The most authorities of one list.
const MAX_AUTHORITIES: usize = 16;

/// The most names of a kind that a certificate may have.
const MAX_NAMES: usize = 64;

/// Names the connection for this purpose alone.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-hauberk-attestation-v1";

/// Stands before what a machine's key signs, so that nothing else that it signs is taken for a proof.
const PURPOSE: &[u8] = b"hauberk-x509pop-v1\0";

/// What a machine's key signs with: one algorithm for each kind of key.
static PROOF_ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 4] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// 32 bytes that name a connection: both ends can derive them, and nobody else (RFC 8446 §7.5, in the manner of RFC 9266).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// Names a connection.
    ///
    /// # Errors
    /// The handshake is not done.
    pub fn of<S>(connection: &Connection<S>) -> Result<Self, ExporterError> {
        connection.exporter(EXPORTER_LABEL).map(Self)
    }

    /// A name that was derived elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// What a machine's key signs: that it vouches, on this connection, for the agent with this key, by this enrollment.
pub fn statement(channel: &ChannelBinding, agent_key: &PublicKey, mesh: &str, enrollment: &str) -> Vec<u8> {
    let mut statement = PURPOSE.to_vec();
    for part in [&channel.0, agent_key.spki_der(), mesh.as_bytes(), enrollment.as_bytes()] {
        // With its length before it, no part runs into the next.
        statement.extend_from_slice(&(part.len() as u64).to_be_bytes());
        statement.extend_from_slice(part);
    }
    statement
}

/// The authorities that vouch for machines.
#[derive(Clone)]
pub struct DeviceAuthorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// Of each, in the same order.
    authorities: Vec<DeviceAuthority>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DeviceAuthority {
    fingerprint: Fingerprint,
    validity: Validity,
    path_len: Option<u32>,
}

/// Why a list of authorities is not taken. The fault is whoever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DeviceAuthoritiesError {
    /// Not PEM, or nothing.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// More than 16.
    #[error("{0} authorities are too many: 16 are the most")]
    TooMany(usize),
    /// One is malformed, or its key too weak.
    #[error("certificate {number} is refused: {source}")]
    Certificate {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: CertificateFault,
    },
    /// One may not sign certificates.
    #[error("certificate {0} is not that of an authority")]
    NotAnAuthority(usize),
}

/// A machine whose certificate was verified. Whether it has the key is for [`Device::check_proof`] to say.
#[derive(Debug, Clone)]
pub struct Device {
    certificate: CertificateDer<'static>,
    facts: DeviceFacts,
    authorities: Vec<Fingerprint>,
}

/// What a certificate says of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The SHA-256 of its public key.
    pub key_fingerprint: Fingerprint,
    /// The certificate's number among those of its authority.
    pub serial: Serial,
    /// The common names of its subject.
    pub common_names: Vec<String>,
    /// Its DNS names, in lower case.
    pub dns_names: Vec<String>,
    /// Its URIs.
    pub uris: Vec<String>,
    /// Its IP addresses.
    pub ip_addresses: Vec<IpAddr>,
}

/// Why a machine's evidence counts for nothing. The fault is whoever shows it, or issued the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// keyUsage must hold digitalSignature.
    #[error("the certificate's key usage does not hold digitalSignature")]
    KeyUsage,
    /// More names than anybody gives a machine.
    #[error("the certificate has more than 64 names of a kind")]
    TooManyNames,
    /// The signature is not one of the certificate's key over the statement.
    #[error(
        "the proof of possession is not the certificate's key's signature for this connection, agent and enrollment"
    )]
    Proof,
}

impl DeviceAuthorities {
    /// Reads authorities from PEM.
    ///
    /// # Errors
    /// There are none, or one of them is none.
    pub fn from_pem(text: &str) -> Result<Self, DeviceAuthoritiesError> {
        let certificates =
            pem::decode_certificates(text).map_err(|_| DeviceAuthoritiesError::NoCertificate)?;
        match certificates.len() {
            0 => return Err(DeviceAuthoritiesError::NoCertificate),
            1..=MAX_AUTHORITIES => {}
            many => return Err(DeviceAuthoritiesError::TooMany(many)),
        }
        let (mut anchors, mut authorities) = (Vec::new(), Vec::new());
        for (index, der) in certificates.iter().enumerate() {
            let number = index + 1;
            let refused = |source| DeviceAuthoritiesError::Certificate { number, source };
            let facts = Facts::read(der).map_err(refused)?;
            let path_len =
                authority_of(&facts).ok_or(DeviceAuthoritiesError::NotAnAuthority(number))?.path_len;
            let anchor =
                webpki::anchor_from_trusted_cert(der).map_err(|_| refused(CertificateFault::Malformed))?;
            anchors.push(anchor.to_owned());
            let fingerprint = Fingerprint::of(der);
            authorities.push(DeviceAuthority { fingerprint, validity: facts.validity, path_len });
        }
        Ok(Self { anchors, authorities })
    }

    /// Whether one of these authorities has this fingerprint.
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.authorities.iter().any(|authority| authority.fingerprint == fingerprint)
    }

    /// Verifies a chain, the machine's certificate first, at `now`. What a chain may cost is bounded before any signature
    /// of it is looked at: by its length, and by the size of its keys. What begins within a minute from now is looked at as if it
    /// had begun.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixMillis) -> Result<Device, DeviceError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(VerifyError::TooManyCertificates(chain.len()).into());
        }
        let facts = Facts::read(leaf).map_err(VerifyError::Leaf)?;
        let mut at = begun(&facts, now);
        for intermediate in intermediates {
            let above = Facts::read(intermediate).map_err(VerifyError::Intermediate)?;
            at = at.max(begun(&above, now));
        }
        check_window(&facts, begun(&facts, now))?;
        if facts.authority.is_some() || facts.key_usage.is_some_and(|usage| usage.cert_sign || usage.crl_sign)
        {
            return Err(VerifyError::AuthorityAsLeaf.into());
        }
        if !facts.key_usage.is_some_and(|usage| usage.digital_signature) {
            return Err(DeviceError::KeyUsage);
        }
        let authorities = self.path_to(leaf, intermediates, at)?;
        Ok(Device {
            certificate: leaf.clone().into_owned(),
            facts: DeviceFacts::read(leaf, &facts)?,
            authorities,
        })
    }

    /// The authorities between `leaf` and one of ours, that one last.
    fn path_to(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<Vec<Fingerprint>, VerifyError> {
        let (refused, found) = (RefCell::new(None), RefCell::new(Vec::new()));
        let check = |path: &VerifiedPath<'_>| match self.check_path(path, now) {
            Ok(authorities) => {
                found.replace(authorities);
                Ok(())
            }
            Err(error) => {
                refused.replace(Some(error));
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let verified = EndEntityCert::try_from(leaf).and_then(|end_entity| {
            end_entity.verify_for_usage(
                CERTIFICATE_ALGORITHMS,
                &self.anchors,
                intermediates,
                UnixTime::since_unix_epoch(now.since(UnixMillis(0))),
                // Where a certificate says what it is for, it must be for this.
                webpki::KeyUsage::client_auth(),
                None,
                Some(&check),
            )?;
            Ok(())
        });
        match verified {
            Ok(()) => Ok(found.take()),
            Err(error) => Err(refused.take().unwrap_or_else(|| error.into())),
        }
    }

    fn check_path(&self, path: &VerifiedPath<'_>, now: UnixMillis) -> Result<Vec<Fingerprint>, VerifyError> {
        let anchor = self.anchors.iter().position(|own| own == path.anchor());
        let top = anchor.and_then(|at| self.authorities.get(at)).ok_or(VerifyError::UnknownIssuer)?;
        if !top.validity.contains(now.floor_to_second()) {
            return Err(VerifyError::RootOutsideValidity(top.fingerprint));
        }
        let (mut authorities, mut below) = (Vec::new(), 0);
        for intermediate in path.intermediate_certificates() {
            let der = intermediate.der();
            let facts = Facts::read(&der).map_err(VerifyError::Intermediate)?;
            check_window(&facts, now)?;
            authority_of(&facts).ok_or(VerifyError::NotAnAuthority)?;
            below += u32::from(!facts.self_issued);
            authorities.push(Fingerprint::of(&der));
        }
        if top.path_len.is_some_and(|most| below > most) {
            return Err(VerifyError::PathTooLong);
        }
        authorities.push(top.fingerprint);
        Ok(authorities)
    }
}

/// What makes a certificate an authority's (RFC 5280 §4.2.1.3, §4.2.1.9). Authorities of machines are older than those of
/// meshes: key identifiers may be missing.
fn authority_of(facts: &Facts<'_>) -> Option<crate::certificate::Authority> {
    let may_sign = facts.key_usage.is_none_or(|usage| usage.cert_sign);
    facts.authority.filter(|_| may_sign)
}

impl Device {
    /// What its certificate says.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// The authorities of its chain, the configured one last.
    pub fn authorities(&self) -> &[Fingerprint] {
        &self.authorities
    }

    /// Checks that `signature` is one over `statement` by the key of the verified certificate. Which algorithm it is made
    /// with follows from the key.
    ///
    /// # Errors
    /// It is not.
    pub fn check_proof(&self, statement: &[u8], signature: &[u8]) -> Result<(), DeviceError> {
        let certificate = EndEntityCert::try_from(&self.certificate).map_err(|_| DeviceError::Proof)?;
        let fits = |algorithm: &&dyn SignatureVerificationAlgorithm| {
            certificate.verify_signature(*algorithm, statement, signature).is_ok()
        };
        if PROOF_ALGORITHMS.iter().any(fits) { Ok(()) } else { Err(DeviceError::Proof) }
    }
}

impl DeviceFacts {
    fn read(certificate: &CertificateDer<'_>, facts: &Facts<'_>) -> Result<Self, DeviceError> {
        let malformed = || DeviceError::Chain(VerifyError::Leaf(CertificateFault::Malformed));
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| malformed())?;
        let common_names = parsed.subject().iter_common_name();
        let mut read = Self {
            key_fingerprint: Fingerprint::of(facts.spki),
            serial: facts.serial,
            // One that is no text is nothing that a selector could name.
            common_names: common_names.filter_map(|name| Some(name.as_str().ok()?.to_owned())).collect(),
            dns_names: Vec::new(),
            uris: Vec::new(),
            ip_addresses: Vec::new(),
        };
        for name in &facts.names {
            match name {
                SubjectName::Uri(uri) => read.uris.push((*uri).to_owned()),
                SubjectName::Dns(name) => read.dns_names.push(name.to_ascii_lowercase()),
                SubjectName::Ip(octets) => read.ip_addresses.extend(address(octets)),
                SubjectName::Other => {}
            }
        }
        let counts =
            [read.common_names.len(), read.dns_names.len(), read.uris.len(), read.ip_addresses.len()];
        if counts.into_iter().any(|count| count > MAX_NAMES) {
            return Err(DeviceError::TooManyNames);
        }
        Ok(read)
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

impl PartialEq for DeviceAuthorities {
    fn eq(&self, other: &Self) -> bool {
        self.authorities == other.authorities
    }
}

impl Eq for DeviceAuthorities {}

impl fmt::Debug for DeviceAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.authorities.iter().map(|authority| authority.fingerprint)).finish()
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding")
    }
}
