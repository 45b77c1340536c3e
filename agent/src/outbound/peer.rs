//! One endpoint of a service, and our connections to its agent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hauberk_identity::SpiffeId;
use hauberk_policy::Protocol;
use hauberk_tls::{
    Connector, ExporterError, HandshakeError, LiveIdentity, ServerExpectation, SetupError, Svid,
};
use thiserror::Error;

use super::tunnel::TunnelPool;
use crate::connections::{Connections, Registered, Role, Unwelcome, shown_by};
use crate::wire::alpn;
use crate::wire::budget::Budget;
use crate::wire::http1::LinkPool;
use crate::wire::http2::MultiplexedPool;
use crate::wire::socket::{self, ConnectError, EXPORTER_LABEL};
use crate::wire::transport::Transport;

/// How long connecting may take, and then the handshake.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
pub(super) const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an endpoint rests after one failure; twice as long after each further one, up to the most. In ms.
const REST: u64 = 250;
const MAX_REST: u64 = 10_000;
/// How many requests one recent failure weighs.
const WEIGHT_OF_FAILURE: usize = 8;

/// One endpoint.
#[derive(Debug)]
pub(super) struct Peer {
    id: SpiffeId,
    address: SocketAddr,
    alpn: &'static [u8],
    connector: Connector,
    budget: Budget,
    pub(super) links: Arc<LinkPool>,
    pub(super) multiplexed: Arc<MultiplexedPool>,
    pub(super) tunnels: TunnelPool,
    in_flight: AtomicUsize,
    failures: AtomicU32,
    rests_until: AtomicU64,
}

/// A request or stream given to an endpoint, until dropped.
#[derive(Debug)]
pub(super) struct Load(Arc<Peer>);

/// Why there is no connection to an endpoint. The fault lies there, or on the way, but for our own certificate and
/// limits.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// We have no socket for it.
    #[error("no connection to {0}")]
    NoPlace(SocketAddr, #[source] ConnectError),
    /// Nobody answers.
    #[error("{0} cannot be reached")]
    Unreachable(SocketAddr, #[source] io::Error),
    /// It is not who is expected, or refuses us.
    #[error("no mutual TLS with {0}: {1}")]
    Handshake(SocketAddr, #[source] HandshakeError),
    /// It is not who may be called, or no longer.
    #[error("{0} is not called: {1}")]
    Unwelcome(SocketAddr, #[source] Unwelcome),
    /// It does not speak the port's protocol.
    #[error("{0} does not speak {1}")]
    Alpn(SocketAddr, &'static str),
    /// The connection has no name.
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    /// HTTP could not be begun.
    #[error("{0} broke off")]
    Http(SocketAddr, #[source] hyper::Error),
    /// A tunnel could not be begun.
    #[error("{0} broke off")]
    Tunnel(SocketAddr, #[source] h2::Error),
}

impl Peer {
    /// An endpoint that must prove to be `id`. Connections to it have their places in `budget`.
    pub(super) fn new(
        identity: &LiveIdentity,
        id: &SpiffeId,
        address: SocketAddr,
        protocol: Protocol,
        budget: &Budget,
    ) -> Result<Self, SetupError> {
        let alpn = match protocol {
            Protocol::Http => alpn::HTTP1,
            Protocol::Http2 | Protocol::Grpc => alpn::HTTP2,
            Protocol::Tcp => alpn::TUNNEL,
        };
        let expected = ServerExpectation::AnyOf([id.clone()].into());
        Ok(Self {
            id: id.clone(),
            address,
            alpn,
            connector: identity.connector(expected, &[alpn], true, HANDSHAKE_PATIENCE)?,
            budget: budget.clone(),
            links: LinkPool::to_agent(budget.clone()),
            multiplexed: MultiplexedPool::new(budget),
            tunnels: TunnelPool::default(),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
        })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection, and registers it.
    pub(super) async fn dial(
        &self,
        connections: &Arc<Connections>,
    ) -> Result<(Transport, Registered), DialError> {
        // Read before the handshake, so that a renewal during it makes us end the connection too early, not too late.
        let own = connections.context().identity.current();
        let own_until = own.svid().map(Svid::validity);
        let (stream, place) = socket::connect_within(&self.budget, self.address, CONNECT_PATIENCE)
            .await
            .map_err(|error| match error {
                ConnectError::NoPlace => DialError::NoPlace(self.address, error),
                ConnectError::Refused(error) => DialError::Unreachable(self.address, error),
            })?;
        let stream = self
            .connector
            .connect(stream)
            .await
            .map_err(|error| DialError::Handshake(self.address, error))?;
        if stream.alpn() != Some(self.alpn) {
            return Err(DialError::Alpn(self.address, std::str::from_utf8(self.alpn).unwrap_or_default()));
        }
        let exporter = stream.exporter(EXPORTER_LABEL)?;
        let tls = stream.negotiated();
        let (stream, peer) = stream.into_parts();
        let (Some(peer), Some(own_until)) = (peer, own_until) else {
            return Err(DialError::Handshake(self.address, HandshakeError::NoCertificate));
        };
        let registered = connections
            .register(Role::Outbound, peer, self.address, tls, exporter)
            .map_err(|error| DialError::Unwelcome(self.address, error))?;
        registered.connection().set_own_until(own_until.not_after());
        registered.connection().set_shown(shown_by(&own));
        Ok((Transport::tls(stream, place), registered))
    }

    /// Who it must prove to be.
    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Counts a request or stream given to it.
    pub(super) fn begin(this: &Arc<Self>) -> Load {
        this.in_flight.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(this))
    }

    /// How busy it is, where recent failures count too: whoever fails fast is not idle.
    pub(super) fn load(&self) -> usize {
        let failures = self.failures.load(Ordering::Relaxed) as usize;
        self.in_flight.load(Ordering::Relaxed).saturating_add(failures.saturating_mul(WEIGHT_OF_FAILURE))
    }

    /// Whether it should be let rest.
    pub(super) fn rests(&self, now: u64) -> bool {
        self.rests_until.load(Ordering::Relaxed) > now
    }

    /// It could not be reached for this reason.
    pub(super) fn not_dialled(&self, error: &DialError, now: u64) {
        // Resting does not help against what it is not to blame for.
        if !matches!(error, DialError::NoPlace(..)) {
            self.failed(now);
        }
    }

    /// It could not be reached, or broke off.
    pub(super) fn failed(&self, now: u64) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let rest = (REST << before).min(MAX_REST);
        self.rests_until.store(now.saturating_add(rest), Ordering::Relaxed);
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        // Load before store: there seldom is anything to forget.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.rests_until.store(0, Ordering::Relaxed);
        }
    }

    /// Closes connections that nobody has used for long.
    pub(super) fn prune(&self) {
        self.links.prune();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
