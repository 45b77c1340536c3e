//! Where a connection is decided.
//!
//! It is registered first. Then the rules of that moment are asked whether its peer may be here at all; each request
//! and each TCP stream on it is decided by itself (`http.rs`, `tcp.rs`, `tunnel.rs`), in the same order: registered by
//! [`Connection::admit`], and only then decided by the policies. When rules,
//! trust or time change, [`Connections`](crate::connections::Connections) decides all of them again.

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_policy::Protocol;
use hauberk_tls::HandshakeError;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::app::NoConnection;
use super::limits::Place;
use super::listener::{Port, Stream};
use super::{http, prove, tcp, tunnel};
use crate::connections::{Connection, Registered, Role, Shown};
use crate::wire::alpn;
use crate::wire::budget::InUse;
use crate::wire::socket::EXPORTER_LABEL;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    Tunnel,
    Opaque,
    Proof,
}

/// A connection's places in the registry and among those that there may be. Shared with the tasks that outlive the one
/// that accepted it, such as those of upgraded connections.
#[derive(Debug)]
pub(super) struct Guest {
    registered: Registered,
    place: Place,
}

/// Serves a connection for as long as it may live.
pub(super) async fn connection(
    port: Arc<Port>,
    protocol: Protocol,
    stream: Stream,
    shown: Option<Shown>,
    address: SocketAddr,
    mut place: Place,
) {
    let Some(spoken) = Spoken::of(protocol, stream.alpn()) else {
        return port.turn_away(address, &HandshakeError::NoCommonProtocol);
    };
    let exporter = match stream.exporter(EXPORTER_LABEL) {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(event = "connection_refused", %address, %error);
            return;
        }
    };
    let since = Instant::now();
    let tls = stream.negotiated();
    let (mut stream, peer) = stream.into_parts();
    let Some(peer) = peer else { return };
    let identity = port.connections.context().identity.current();
    if !place.is_granted_to(peer.id(), identity.bundle().trust_domain()) {
        port.metrics.turned_away("too_many_of_one_identity");
        tracing::info!(event = "connection_refused", %address, peer = %peer.id(), reason = "too_many_of_one_identity");
        return;
    }
    let role = Role::Inbound { port: port.number, protocol };
    let registered = match port.connections.register(role, peer, address, tls, exporter) {
        Ok(registered) => registered,
        Err(error) => return port.turned_away.tell(&port, address, (error.reason(), error.fault()), &error),
    };
    registered.connection().set_shown(shown);
    if let Err(reason) = registered.connection().check(&port.connections.rules()) {
        let decision = registered.connection().record_refusal(&port.connections, reason, since);
        tracing::info!(event = "connection_refused", %address, reason, %decision);
        // The peer may be gone already.
        let _ = stream.shutdown().await;
        return;
    }
    port.metrics.speaks(spoken.as_str());
    let cut = registered.connection().cut_signal().clone();
    let guest = Arc::new(Guest { registered, place });
    let served = async {
        match spoken {
            Spoken::Http1 => http::serve_http1(port, guest, stream).await,
            Spoken::Http2 => http::serve_http2(port, guest, stream).await,
            Spoken::Tunnel => tunnel::serve(port, guest, stream).await,
            Spoken::Opaque => tcp::serve(port, guest, stream).await,
            Spoken::Proof => prove::answer(&port, guest.connection(), stream).await,
        }
    };
    tokio::select! {
        () = served => {}
        () = cut.cancelled() => {}
    }
}

impl Spoken {
    /// What a client's ALPN settles on a port of this protocol. A client without ALPN speaks the port's plainest form.
    fn of(protocol: Protocol, negotiated: Option<&[u8]>) -> Option<Self> {
        match (protocol, negotiated) {
            (_, Some(alpn::PROVE)) => Some(Self::Proof),
            (Protocol::Http, None | Some(alpn::HTTP1)) => Some(Self::Http1),
            (Protocol::Http | Protocol::Http2 | Protocol::Grpc, Some(alpn::HTTP2)) => Some(Self::Http2),
            (Protocol::Tcp, Some(alpn::TUNNEL)) => Some(Self::Tunnel),
            (Protocol::Tcp, None) => Some(Self::Opaque),
            _ => None,
        }
    }

    /// The name in figures.
    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tunnel => "tunnel",
            Self::Opaque => "tcp",
            Self::Proof => "proof",
        }
    }
}

impl Guest {
    /// The connection.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        self.registered.connection()
    }

    /// Counts a connection to the app for the peer, unless it has too many.
    pub(super) fn use_one(&self) -> Result<InUse, NoConnection> {
        self.place.use_one().ok_or(NoConnection::TooManyOfOne)
    }
}
