//! The first connection to a control plane, before there is a bundle of our own.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis};
use rustls_pki_types::CertificateDer;

use crate::bundle::{self, TrustBundle};
use crate::certificate::Facts;
use crate::fingerprint::Fingerprint;
use crate::handshake::{ServerTrust, VerifyServer};
use crate::live::{self, ServerExpectation};
use crate::provider::SetupError;
use crate::stream::Connector;
use crate::verifier::{Usage, VerifyError, verify_parts};

/// How a newcomer knows the right control plane.
#[derive(Debug, Clone)]
pub enum BootstrapTrust {
    /// By its root, which it sends in its chain.
    Root {
        /// The SHA-256 of the root's certificate.
        pin: Fingerprint,
        /// The trust domain, for a root that names none: whoever it vouches for in another one is refused.
        trust_domain: Option<TrustDomain>,
    },
    /// By a bundle that was copied here.
    Bundle(Arc<TrustBundle>),
}

/// What connects to a control plane, presenting no certificate.
///
/// The server must be a control plane by its SPIFFE id: one of its workloads, though vouched for by the same root, is
/// refused.
///
/// # Errors
/// The TLS library refuses the configuration.
pub fn bootstrap_connector(
    trust: BootstrapTrust,
    alpn: &[&[u8]],
    timeout: Duration,
) -> Result<Connector, SetupError> {
    let config = live::client_config(VerifyServer(ServerTrust::Bootstrap(trust)), None, alpn)?;
    Ok(Connector::new(config, None, timeout))
}

/// What connects to a control plane only to ask what time it is there: certificates are held against an instant at which the
/// server's own is valid, for it is this host's clock that is in doubt.
///
/// For people to read, never to decide by: whoever has the key of a control plane's former certificate passes here.
///
/// # Errors
/// The TLS library refuses the configuration.
pub fn clock_connector(
    trust: BootstrapTrust,
    alpn: &[&[u8]],
    timeout: Duration,
) -> Result<Connector, SetupError> {
    let config = live::client_config(VerifyServer(ServerTrust::AtAnyTime(trust)), None, alpn)?;
    Ok(Connector::new(config, None, timeout))
}

impl BootstrapTrust {
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<(), VerifyError> {
        let id = match self {
            Self::Bundle(bundle) => verify_parts(leaf, others, bundle, now, Usage::Server)?,
            Self::Root { pin, trust_domain } => {
                let bundle = pinned_root(others, *pin, trust_domain.as_ref())?;
                verify_parts(leaf, others, &bundle, now, Usage::Server)?
            }
        };
        ServerExpectation::ControlPlane.check(id)
    }
}

/// The bundle that consists of the one presented certificate whose fingerprint is pinned.
fn pinned_root(
    presented: &[CertificateDer<'_>],
    pin: Fingerprint,
    told: Option<&TrustDomain>,
) -> Result<TrustBundle, VerifyError> {
    let root =
        presented.iter().find(|der| Fingerprint::of(der) == pin).ok_or(VerifyError::PinNotPresented(pin))?;
    let facts = Facts::read(root).map_err(VerifyError::Intermediate)?;
    let names_nobody = facts.uris().next().is_none();
    let none = if names_nobody { VerifyError::PinOfNoTrustDomain(pin) } else { VerifyError::PinNotRoot(pin) };
    let trust_domain = told.cloned().or_else(|| bundle::trust_domain_of(&facts)).ok_or(none)?;
    TrustBundle::new(trust_domain, [root.clone().into_owned()]).map_err(|_| VerifyError::PinNotRoot(pin))
}
