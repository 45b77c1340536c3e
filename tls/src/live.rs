//! The identity that this process has at the moment: its SVID, its key and the trust bundle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{IdentityKind, SpiffeId, TrustDomain, UnixMillis};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;

use crate::bundle::TrustBundle;
use crate::certificate::Facts;
use crate::federated::FederatedBundles;
use crate::handshake::{ServerTrust, VerifyClients, VerifyServer};
use crate::key::KeyPair;
use crate::provider::{self, SetupError};
use crate::stream::{Acceptor, Connector};
use crate::svid::Svid;
use crate::verifier::{PeerIdentity, Usage, VerifyError, spiffe_id, verify_parts};

/// This process's SVID, key and trust bundle, replaceable while listeners and connectors stay.
///
/// Every handshake uses what was published last. Clones share one state.
#[derive(Clone)]
pub struct LiveIdentity {
    state: watch::Sender<LiveState>,
}

/// What is published at one moment, as a whole.
#[derive(Clone)]
pub struct LiveState {
    certified: Option<Arc<Certified>>,
    bundle: Arc<TrustBundle>,
    federated: FederatedBundles,
}

struct Certified {
    svid: Svid,
    key: Arc<CertifiedKey>,
}

/// Why something cannot be published. The fault is the caller's.
#[derive(Debug, Error)]
pub enum LiveIdentityError {
    /// The key is not the one that the SVID certifies.
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    /// SVID or bundle are of another trust domain than this identity.
    #[error("the trust domain of a live identity does not change")]
    TrustDomain,
    /// The TLS library refuses the key.
    #[error(transparent)]
    Key(#[from] SetupError),
}

/// Whether a listener insists on a client certificate. One that is presented is verified in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without a certificate there is no connection.
    Required,
    /// For callers that are about to get their first certificate.
    Optional,
}

/// Which identities a client accepts of a server. Host names decide nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerExpectation {
    /// One of these ids.
    AnyOf(Arc<[SpiffeId]>),
    /// Any replica of the trust domain's control plane.
    ControlPlane,
}

impl LiveIdentity {
    /// An identity that trusts `bundle` and has no SVID yet.
    pub fn new(bundle: TrustBundle) -> Self {
        let (certified, bundle, federated) = (None, Arc::new(bundle), FederatedBundles::default());
        Self { state: watch::Sender::new(LiveState { certified, bundle, federated }) }
    }

    /// Publishes a new SVID with its key, for the next handshake and all after it.
    ///
    /// # Errors
    /// They do not belong together, or the SVID is of another trust domain.
    pub fn publish(&self, svid: Svid, key: &KeyPair) -> Result<(), LiveIdentityError> {
        if !svid.id().is_member_of(self.state.borrow().bundle.trust_domain()) {
            return Err(LiveIdentityError::TrustDomain);
        }
        if svid.key_fingerprint() != key.public_key().fingerprint() {
            return Err(LiveIdentityError::KeyMismatch);
        }
        let der = key.to_pkcs8_der();
        let private = PrivateKeyDer::Pkcs8(der.as_slice().into());
        let signer = any_ecdsa_type(&private).map_err(SetupError::from)?;
        let key = Arc::new(CertifiedKey::new(svid.chain().to_vec(), signer));
        self.state.send_modify(|state| state.certified = Some(Arc::new(Certified { svid, key })));
        Ok(())
    }

    /// Publishes a new bundle. Live connections are the caller's to judge (see [`crate::PeerIdentity::verify_again`]).
    ///
    /// # Errors
    /// It is of another trust domain.
    pub fn publish_bundle(&self, bundle: TrustBundle) -> Result<(), LiveIdentityError> {
        if bundle.trust_domain() != self.state.borrow().bundle.trust_domain() {
            return Err(LiveIdentityError::TrustDomain);
        }
        self.state.send_if_modified(|state| {
            let changed = *state.bundle != bundle;
            state.bundle = Arc::new(bundle);
            changed
        });
        Ok(())
    }

    /// Publishes the bundles of other trust domains, by which acceptors let their members in, each by its own domain's alone.
    /// One of our own domain counts for nothing. Says whether they differ from before: live connections are the caller's to
    /// judge (see [`LiveState::verify_again`]).
    pub fn publish_federated(&self, federated: FederatedBundles) -> bool {
        self.state.send_if_modified(|state| {
            let changed = state.federated != federated;
            state.federated = federated;
            changed
        })
    }

    /// What is published now.
    pub fn current(&self) -> LiveState {
        self.state.borrow().clone()
    }

    /// Follows every change of SVID or bundle.
    pub fn subscribe(&self) -> watch::Receiver<LiveState> {
        self.state.subscribe()
    }

    /// What accepts connections as this identity. Clients must offer one of `alpn`, or none at all; handshakes that
    /// take longer than `timeout` are dropped.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn acceptor(
        &self,
        alpn: &[&[u8]],
        client_auth: ClientAuth,
        timeout: Duration,
    ) -> Result<Acceptor, SetupError> {
        let verifier = Arc::new(VerifyClients { live: self.clone(), client_auth });
        let mut config = ServerConfig::builder_with_provider(provider::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.clone()));
        // Neither revocation nor policy may be outlived by a ticket.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = owned(alpn);
        Ok(Acceptor::new(Arc::new(config), timeout))
    }

    /// What connects to servers of which `expected` is accepted, presenting the SVID where `present_certificate`.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn connector(
        &self,
        expected: ServerExpectation,
        alpn: &[&[u8]],
        present_certificate: bool,
        timeout: Duration,
    ) -> Result<Connector, SetupError> {
        let verifier = VerifyServer(ServerTrust::Live(self.clone(), expected));
        let presents = present_certificate.then(|| self.clone());
        let config = client_config(verifier, presents.clone(), alpn)?;
        Ok(Connector::new(config, presents, timeout))
    }
}

impl LiveState {
    /// Our SVID, if there is one yet.
    pub fn svid(&self) -> Option<&Svid> {
        self.certified.as_ref().map(|certified| &certified.svid)
    }

    /// The bundle that peers of our own trust domain are verified against.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// The bundles that clients of other trust domains are verified against.
    pub fn federated(&self) -> &FederatedBundles {
        &self.federated
    }

    /// Verifies a client's chain by the bundle of exactly the trust domain that its certificate names.
    pub(crate) fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<SpiffeId, VerifyError> {
        // What names nobody is refused by our own bundle, as it always was.
        let named = Facts::read(leaf).ok().filter(|_| !self.federated.is_empty());
        let named = named.and_then(|facts| spiffe_id(&facts).ok());
        let bundle = named.map_or(&*self.bundle, |id| self.bundle_of(&id.trust_domain()));
        verify_parts(leaf, others, bundle, now, Usage::Client)
    }

    /// Verifies the chain of a live connection's peer again. As a client it may be of another trust domain, as a server
    /// only of our own.
    ///
    /// # Errors
    /// The chain would not be accepted today.
    pub fn verify_again(
        &self,
        peer: &PeerIdentity,
        now: UnixMillis,
        usage: Usage,
    ) -> Result<UnixMillis, VerifyError> {
        let bundle = match usage {
            Usage::Client => self.bundle_of(&peer.id().trust_domain()),
            Usage::Server => &self.bundle,
        };
        peer.verify_again(bundle, now, usage)
    }

    /// What vouches for members of a trust domain: where nothing does, our own bundle, which refuses them for what they are.
    fn bundle_of(&self, trust_domain: &TrustDomain) -> &TrustBundle {
        let own = &*self.bundle;
        if trust_domain == own.trust_domain() {
            return own;
        }
        self.federated.get(trust_domain).map_or(own, |bundle| bundle.x509())
    }

    pub(crate) fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        self.certified.as_ref().map(|certified| Arc::clone(&certified.key))
    }
}

impl ServerExpectation {
    /// Holds a verified id against what is expected.
    pub(crate) fn check(&self, id: SpiffeId) -> Result<(), VerifyError> {
        match self {
            Self::AnyOf(ids) if ids.contains(&id) => Ok(()),
            Self::AnyOf(_) => Err(VerifyError::UnexpectedId(id)),
            Self::ControlPlane if matches!(id.kind(), IdentityKind::ControlPlane { .. }) => Ok(()),
            Self::ControlPlane => Err(VerifyError::NotControlPlane(id)),
        }
    }
}

/// A client's configuration: TLS 1.3 alone, no server name on the wire, no resumption, no early data.
pub(crate) fn client_config(
    verifier: VerifyServer,
    presents: Option<LiveIdentity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, SetupError> {
    let mut config = ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(PresentCertificate(presents)));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = owned(alpn);
    Ok(Arc::new(config))
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.state.borrow().certified_key()
    }
}

/// Presents the current SVID to servers that ask, or nothing.
#[derive(Debug)]
struct PresentCertificate(Option<LiveIdentity>);

impl ResolvesClientCert for PresentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().and_then(|live| live.state.borrow().certified_key())
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.state.borrow(), f)
    }
}

impl fmt::Debug for LiveState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveState")
            .field("id", &self.svid().map(Svid::id))
            .field("bundle", &self.bundle)
            .field("federated", &self.federated)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
