//! Which control plane is the right one, for the first contact.

use std::sync::Arc;

use hauberk_tls::device::ChannelBinding;
use hauberk_tls::{
    BootstrapTrust, BundleError, Fingerprint, HandshakeError, TrustBundle, bootstrap_connector,
};
use tonic::transport::Channel;

use super::{Attempt, EnrollError};
use crate::clock::Clock;
use crate::config::{Config, HostPort, Pin};
use crate::control_plane::{self, ConnectError};
use crate::credentials::Credentials;
use crate::skew;
use crate::state::State;

/// By what a control plane is known, and the root that its answer must hold.
pub(super) struct Known {
    pub(super) trust: BootstrapTrust,
    pub(super) pin: Option<Fingerprint>,
}

/// What the control plane is known by, and what it is known by where that does not vouch for it.
///
/// What a former certificate came with was told by a control plane that a pin had vouched for, and followed it since: a
/// pin that was written down before may name a root that was replaced. But who has written down another control plane's
/// means that one, and it is that one that answers.
///
/// # Errors
/// Nothing says which control plane is the right one.
pub(super) fn bootstrap_trust(
    config: &Config,
    state: &State,
    former: Option<&Credentials>,
) -> Result<(Known, Option<Result<Known, EnrollError>>), EnrollError> {
    let pinned = config.pin.as_ref().map(|pin| pinned(pin, config));
    match (kept(config, state, former), pinned) {
        (Some(bundle), pinned) => Ok((Known { trust: BootstrapTrust::Bundle(bundle), pin: None }, pinned)),
        (None, Some(pinned)) => Ok((pinned?, None)),
        (None, None) => Err(EnrollError::NoPin),
    }
}

/// What we have trusted last, unless it is of another trust domain than the one that was named.
fn kept(config: &Config, state: &State, former: Option<&Credentials>) -> Option<Arc<TrustBundle>> {
    let kept = match former {
        Some(former) => Arc::clone(former.live().current().bundle()),
        None => Arc::new(state.trust().ok()??.bundle),
    };
    let is_named = |named| kept.trust_domain() == named;
    config.trust_domain.as_ref().is_none_or(is_named).then_some(kept)
}

fn pinned(pin: &Pin, config: &Config) -> Result<Known, EnrollError> {
    match pin {
        Pin::RootFingerprint(fingerprint) => {
            let (pin, trust_domain) = (*fingerprint, config.trust_domain.clone());
            Ok(Known { trust: BootstrapTrust::Root { pin, trust_domain }, pin: Some(pin) })
        }
        Pin::BundleFile(path) => {
            let wrong =
                |problem: String| EnrollError::BundleFile { path: path.display().to_string(), problem };
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            let bundle = TrustBundle::from_self_describing_pem(&text, config.trust_domain.as_ref())
                .map_err(|error: BundleError| wrong(error.to_string()))?;
            Ok(Known { trust: BootstrapTrust::Bundle(Arc::new(bundle)), pin: None })
        }
    }
}

/// Connects to whoever is vouched for, with what names the connection.
pub(super) async fn contact(
    address: &HostPort,
    trust: BootstrapTrust,
    clock: Clock,
) -> Result<(Channel, ChannelBinding), Attempt> {
    let connector = bootstrap_connector(trust.clone(), control_plane::ALPN, control_plane::HANDSHAKE_TIMEOUT)
        .map_err(EnrollError::Setup)?;
    match control_plane::connect_named(address, &connector).await {
        Ok(connected) => Ok(connected),
        // A clock may yet be set, as while a host starts.
        Err(ConnectError::Handshake(error)) if error.is_about_time() => {
            let skew = skew::ask(address, trust, clock).await;
            Err(Attempt::Again(skew::named(skew, error.to_string())))
        }
        Err(ConnectError::Handshake(source @ HandshakeError::PeerRefused(_))) => {
            Err(EnrollError::WrongControlPlane { address: address.authority(), source }.into())
        }
        Err(error) => Err(Attempt::Again(error.to_string())),
    }
}
