//! Where connections from the mesh arrive.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_policy::Protocol;
use hauberk_tls::{Acceptor, ClientAuth, Connection as TlsConnection, HandshakeError, SetupError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit;
use super::app::PoolsByCaller;
use super::limits::{Limits, Place};
use super::turned_away::TurnedAway;
use crate::connections::{Connections, shown_by};
use crate::metrics::ListenerMetrics;
use crate::wire::accept::Refusals;
use crate::wire::alpn;
use crate::wire::budget::Budget;
use crate::wire::http1::LinkPool;
use crate::wire::socket;
use crate::wire::tasks::Tasks;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often idle connections to the app are looked after.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// One inbound listener.
#[derive(Debug)]
pub struct Listener {
    /// Its number in the mesh.
    pub port: u16,
    /// Where it listens in fact.
    pub socket: TcpListener,
    /// Where the app listens.
    pub app: SocketAddr,
}

/// What the connections of one listener share.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) app: SocketAddr,
    pub(super) connections: Arc<Connections>,
    pub(super) metrics: Arc<ListenerMetrics>,
    pub(super) links: Arc<LinkPool>,
    pub(super) multiplexed: PoolsByCaller,
    pub(super) to_app: Budget,
    pub(super) tasks: Tasks,
    /// Fires when nothing new should be begun.
    pub(super) stop: CancellationToken,
    pub(super) turned_away: TurnedAway,
    acceptor: Mutex<Option<(Protocol, Acceptor)>>,
}

/// Serves a listener until `stop`, then lets what is under way come to its end. Dropping the future ends it all.
pub async fn serve(
    listener: Listener,
    connections: Arc<Connections>,
    limits: Arc<Limits>,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let port = Arc::new(Port {
        number: listener.port,
        app: listener.app,
        metrics: connections.context().metrics.listener(listener.port),
        connections,
        links: LinkPool::to_app(limits.to_app().clone()),
        multiplexed: PoolsByCaller::new(limits.to_app().clone()),
        to_app: limits.to_app().clone(),
        tasks: Tasks::new(tracker.clone()),
        stop: stop.clone(),
        turned_away: TurnedAway::default(),
        acceptor: Mutex::default(),
    });
    let mut serving = JoinSet::new();
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    let mut refusals = Refusals::at(format!("inbound {}", port.number));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = serving.join_next() => {}
            _ = prune.tick() => {
                port.links.prune();
                port.multiplexed.prune();
            }
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, address)) => match limits.admit(address.ip()) {
                    Some(place) => {
                        serving.spawn(welcome(Arc::clone(&port), Arc::clone(&limits), place, stream, address));
                    }
                    None => refused(&port, address, "too_many_connections"),
                },
                Err(error) => refusals.wait(&error).await,
            },
        }
    }
    drop(listener);
    while serving.join_next().await.is_some() {}
    // Kept connections to the app end with it.
    drop(port);
    tracker.close();
    tracker.wait().await;
}

async fn welcome(port: Arc<Port>, limits: Arc<Limits>, place: Place, stream: TcpStream, address: SocketAddr) {
    socket::prepare(&stream);
    let protocol = match port.connections.rules().view().map(|view| view.port(port.number)) {
        Ok(Some(described)) => described.protocol,
        Ok(None) => return refused(&port, address, "no_such_port"),
        Err(reason) => return refused(&port, address, reason),
    };
    let acceptor = match port.acceptor(protocol) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(event = "tls_setup_failed", %error);
            return refused(&port, address, "tls_setup_failed");
        }
    };
    // Read before the handshake, which may show a newer one.
    let shown = shown_by(&port.connections.context().identity.current());
    let handshake = limits.begin_handshake();
    let outcome = tokio::select! {
        outcome = acceptor.accept(stream) => outcome,
        () = handshake.must_give_way() => return refused(&port, address, "too_many_handshakes"),
        () = port.stop.cancelled() => return,
    };
    drop(handshake);
    match outcome {
        Ok(stream) => Box::pin(admit::connection(port, protocol, stream, shown, address, place)).await,
        Err(error) => port.turn_away(address, &error),
    }
}

fn refused(port: &Port, address: SocketAddr, reason: &'static str) {
    port.metrics.turned_away(reason);
    tracing::debug!(event = "connection_refused", %address, reason);
}

impl Port {
    /// Counts and tells a handshake that came to nothing.
    pub(super) fn turn_away(&self, address: SocketAddr, error: &HandshakeError) {
        self.turned_away.tell(self, address, (error.reason(), error.fault()), error);
    }

    fn acceptor(&self, protocol: Protocol) -> Result<Acceptor, SetupError> {
        let mut kept = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, acceptor)) = &*kept
            && *of == protocol
        {
            return Ok(acceptor.clone());
        }
        let offered: &[&[u8]] = match protocol {
            Protocol::Http => &[alpn::HTTP2, alpn::HTTP1, alpn::PROVE],
            Protocol::Http2 | Protocol::Grpc => &[alpn::HTTP2, alpn::PROVE],
            Protocol::Tcp => &[alpn::TUNNEL, alpn::PROVE],
        };
        let identity = &self.connections.context().identity;
        let acceptor = identity.acceptor(offered, ClientAuth::Required, HANDSHAKE_TIMEOUT)?;
        *kept = Some((protocol, acceptor.clone()));
        Ok(acceptor)
    }
}

/// A connection whose handshake is done.
pub(super) type Stream = TlsConnection<TcpStream>;
