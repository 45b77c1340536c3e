//! The control plane's own certificate: issued by itself, with names for clients that know no SPIFFE ids, renewed at
//! half life, and put before the next handshake without touching a listener.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, NameError, SpiffeId, UnixMillis, renewal_at};
use hauberk_tls::{KeyError, KeyPair, LiveIdentityError, SvidError};

use crate::app::ControlPlane;
use crate::audit::Actor;
use crate::config::SubjectName;
use crate::issuance::{Holder, IssuanceError, Order};
use crate::random;
use crate::registry::Commit;

/// The life of the certificate.
const TTL: Duration = Duration::from_secs(86_400);

/// Before a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The longest sleep before the clock of day is looked at again: a host that slept must not sleep on.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The last part of our SPIFFE id. There is one replica as long as the registry is embedded.
const REPLICA: &str = "0";

/// A certificate that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// A name that was given at `init` is none any longer.
    #[error("the name {0:?} that `init` was given cannot stand in a certificate: set --san")]
    BadName(String),
    /// The replica's name is none.
    #[error(transparent)]
    Replica(#[from] NameError),
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[from] KeyError),
    /// Nothing could be issued.
    #[error("the control plane cannot issue its own certificate")]
    Issuance(#[from] IssuanceError),
    /// The chain cannot be completed with its root.
    #[error("the certificate's chain cannot be made")]
    Chain(#[from] SvidError),
    /// The TLS library refuses it.
    #[error("the certificate cannot be used")]
    Publish(#[from] LiveIdentityError),
}

/// The certificate in use.
#[derive(Debug)]
pub struct ServerCertificate {
    issued_at: UnixMillis,
    not_after: UnixMillis,
}

impl ServerCertificate {
    /// Issues a certificate and puts it in use.
    ///
    /// # Errors
    /// When it cannot be issued or used.
    pub async fn obtain(control: &ControlPlane) -> Result<Self, ServerCertificateError> {
        let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
        for name in subject_names(control)? {
            match name {
                SubjectName::Dns(name) => dns_names.push(name),
                SubjectName::Ip(address) => ip_addresses.push(address),
            }
        }
        let key = KeyPair::generate()?;
        let id = SpiffeId::control_plane(control.authority.trust_domain(), &Name::parse(REPLICA)?);
        let order = Order {
            id,
            holder: Holder::ControlPlane,
            public_key: key.public_key(),
            ttl: TTL,
            dns_names,
            ip_addresses,
            actor: Actor { name: "control-plane".to_owned(), source: "local".to_owned() },
            action: "certificate.issue",
        };
        let issued = control.issuer.issue(order, |_, _| Ok(Commit::new())).await?;
        // With the root in the chain, an agent that knows only the root's fingerprint can verify it.
        let svid = match control.authority.root() {
            Some(root) => issued.svid.with_root(root.der())?,
            None => issued.svid,
        };
        let not_after = svid.validity().not_after();
        control.identity.publish(svid, &key)?;
        tracing::info!(event = "server_certificate", %not_after, "the control plane's own certificate is in use");
        Ok(Self { issued_at: issued.issued_at, not_after })
    }

    /// Renews the certificate at half life, over and over, until the control plane stops.
    pub async fn keep_current(mut self, control: Arc<ControlPlane>) {
        loop {
            let due = renewal_at(self.issued_at, self.not_after, random::fraction());
            if !sleep_until(&control, due).await {
                return;
            }
            match Self::obtain(&control).await {
                Ok(renewed) => self = renewed,
                Err(error) => {
                    tracing::error!(event = "server_certificate_failed", %error, "the renewal is tried again");
                    let again = control.clock.now().plus(TRY_AGAIN);
                    if !sleep_until(&control, again).await {
                        return;
                    }
                }
            }
        }
    }
}

/// The names of the settings, else those of `init`, else those of this host.
fn subject_names(control: &ControlPlane) -> Result<Vec<SubjectName>, ServerCertificateError> {
    if !control.settings.sans.is_empty() {
        return Ok(control.settings.sans.clone());
    }
    let given = control.authority.sans();
    if !given.is_empty() {
        let parse = |name: &String| {
            SubjectName::parse(name).map_err(|_| ServerCertificateError::BadName(name.clone()))
        };
        return given.iter().map(parse).collect();
    }
    let mut names: Vec<_> =
        ["localhost", "127.0.0.1", "::1"].iter().filter_map(|name| SubjectName::parse(name).ok()).collect();
    // A host whose name is no DNS name does without.
    let host = rustix::system::uname();
    names.extend(host.nodename().to_str().ok().and_then(|name| SubjectName::parse(name).ok()));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Sleeps until an instant of the clock of day; `false` when the control plane stops instead.
async fn sleep_until(control: &ControlPlane, due: UnixMillis) -> bool {
    loop {
        let remaining = due.since(control.clock.now());
        if remaining.is_zero() {
            return true;
        }
        tokio::select! {
            () = control.stop.cancelled() => return false,
            () = tokio::time::sleep(remaining.min(LONGEST_SLEEP)) => {}
        }
    }
}
