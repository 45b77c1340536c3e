//! Where a certificate is issued, in four beats: the authority, the template, the record and signature, and the check
//! of our own output (which is part of [`hauberk_tls::IssuingAuthority::sign`]).
//!
//! A certificate is recorded durably, together with what entitles to it and the audit record, before it is signed: no
//! certificate exists that the registry does not know. Who it names is decided by the callers in this crate, never by
//! a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{BACKDATED, Serial, SpiffeId, UnixMillis, Validity, ValidityError};
use hauberk_tls::{CsrError, IssueError, RequestedKey, Svid, SvidTemplate};

use super::records::{Holder, IssuedRecord};
use crate::audit::{Act, Actor, Audit};
use crate::authority::{Authority, TokenError};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::random::{self, NoRandomness};
use crate::registry::{Commit, StoreError, document, keys};
use crate::server_certificate::ServerNames;

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssuanceError {
    /// Whoever asked sent a request that is not acceptable.
    #[error("the certificate request is refused: {0}")]
    Request(#[from] CsrError),
    /// What entitles to it has changed meanwhile, or the registry takes no writes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An enrollment gives somebody a name of the control plane's: its author's fault, or that of whoever named the control plane
    /// so since.
    #[error(
        "{0} is a name of the control plane's own certificate (--san), and nobody else's: take it out of the enrollment's dnsNames"
    )]
    NameOfControlPlane(String),
    /// The issuing authority has expired, or the clock is wrong: an operator must act.
    #[error("the issuing authority is not valid now: check the clock, or rotate the authority")]
    AuthorityNotValid,
    /// The clock is wrong.
    #[error("the clock is wrong")]
    Clock(#[from] ValidityError),
    /// The authority's key is in a token that does not work, or cannot keep up: an operator must act, or wait.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Signing failed, or the check of our own output: nothing left this process.
    #[error("the certificate could not be signed")]
    Sign(#[from] IssueError),
    /// No serial number, id or secret can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl IssuanceError {
    /// Whether whoever asked was refused, as against something having failed here.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Request(_) | Self::NameOfControlPlane(_))
    }

    /// The stable name of a request's refusal, for callers and metrics.
    pub fn reason_of_request(error: &CsrError) -> &'static str {
        match error {
            CsrError::NotGranted(_) => "REQUEST_NOT_GRANTED",
            _ => "BAD_REQUEST",
        }
    }
}

/// Lets `?` take what can go wrong on the way to a certificate into an error that holds an [`IssuanceError`] as `Issuance`:
/// those who let agents and admins in fail in the same ways, which are told once.
macro_rules! fails_as_issuance {
    ($error:ty) => {
        $crate::issuance::fails_as_issuance!($error: hauberk_tls::CsrError, $crate::registry::StoreError,
            $crate::random::NoRandomness);
    };
    ($error:ty: $($cause:ty),+) => {$(
        impl From<$cause> for $error {
            fn from(cause: $cause) -> Self {
                Self::Issuance(cause.into())
            }
        }
    )+};
}

pub(crate) use fails_as_issuance;

/// A certificate to be issued.
#[derive(Debug)]
pub struct Order {
    /// Whom it names.
    pub id: SpiffeId,
    /// Whose it is among those of the same name.
    pub holder: Holder,
    /// The key that it certifies: all that is taken from a request. What else that asks for must be granted.
    pub public_key: RequestedKey,
    /// Its life from now; capped by the authority's.
    pub ttl: Duration,
    /// DNS names beside the id.
    pub dns_names: Vec<String>,
    /// IP addresses beside the id.
    pub ip_addresses: Vec<IpAddr>,
    /// Who asked.
    pub actor: Actor,
    /// Why it is issued, by a stable name: `enrollment.attest`, `certificate.renew`.
    pub action: &'static str,
}

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf and issuing authority.
    pub svid: Svid,
    /// Its life and half life count from here.
    pub issued_at: UnixMillis,
}

/// Issues certificates; the only caller of the issuing authority.
pub struct Issuer {
    authority: Arc<Authority>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    clock: Clock,
    server_names: Arc<ServerNames>,
}

/// The parts that [`Issuer`] is made of.
pub struct IssuerParts {
    /// What signs.
    pub authority: Arc<Authority>,
    /// Records.
    pub audit: Arc<Audit>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The names that are the control plane's alone.
    pub server_names: Arc<ServerNames>,
}

impl Issuer {
    /// Puts the parts together.
    pub fn new(parts: IssuerParts) -> Self {
        let IssuerParts { authority, audit, metrics, clock, server_names } = parts;
        Self { authority, audit, metrics, clock, server_names }
    }

    /// The serial number of the authority that signs now.
    pub fn signer(&self) -> Serial {
        self.authority.issuing().serial()
    }

    /// Issues one certificate. `entitlement` makes the commit of what entitles to it, given the certificate's serial
    /// number and record: its guards decide whether there will be a certificate at all. Names of the control plane's own
    /// certificate are issued to nobody else: clients that know names alone would take whoever had one for it.
    ///
    /// # Errors
    /// When the request asks for what the order does not grant, a guard of the entitlement fails ([`StoreError::Conflict`]), or nothing
    /// can be recorded or signed.
    pub async fn issue(
        &self,
        order: Order,
        entitlement: impl FnOnce(&str, &IssuedRecord) -> Result<Commit, StoreError>,
    ) -> Result<Issued, IssuanceError> {
        if order.holder != Holder::ControlPlane
            && let Some(name) = order.dns_names.iter().find(|name| self.server_names.hold(name))
        {
            return Err(IssuanceError::NameOfControlPlane(name.clone()));
        }
        order.public_key.check(&order.id, &order.dns_names, &order.ip_addresses)?;
        let authority = self.authority.issuing();
        let now = self.clock.now();
        if !authority.validity().contains(now) {
            return Err(IssuanceError::AuthorityNotValid);
        }
        let turn = self.authority.turn(authority.key()).await?;

        let not_after = now.plus(order.ttl).min(authority.validity().not_after()).floor_to_second();
        let template = SvidTemplate {
            id: order.id,
            public_key: order.public_key.key().clone(),
            serial: order.holder.instance().map_or_else(random::serial, random::serial_of)?,
            validity: Validity::new(now.minus(BACKDATED).floor_to_second(), not_after)?,
            dns_names: order.dns_names,
            ip_addresses: order.ip_addresses,
        };

        let record = IssuedRecord {
            spiffe_id: template.id.to_string(),
            holder: order.holder,
            issued_at: now.0,
            not_before: template.validity.not_before().0,
            not_after: not_after.0,
            key_fingerprint: template.public_key.fingerprint().to_string(),
            issuer: Some(authority.serial().to_string()),
            dns_names: template.dns_names.clone(),
        };
        let serial = template.serial.to_string();
        let key = format!("{}{serial}", keys::ISSUED);
        let act = Act::done(&order.actor, order.action, record.spiffe_id.clone())
            .because(format!("serial {serial}"));
        let commit = entitlement(&serial, &record)?
            .put(key.clone(), document::to_bytes(&key, &record)?)
            .put(keys::issued_order(now, &serial), "");
        self.audit.commit(commit, act).await?;

        let svid = turn.sign(move || authority.sign(&template)).await??;
        self.metrics.certificates_issued.inc();
        Ok(Issued { svid, issued_at: now })
    }
}
