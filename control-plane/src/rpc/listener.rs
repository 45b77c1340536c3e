//! From a TCP socket to a verified connection: limits before the handshake, a deadline for it, and an end at the
//! expiry of the certificate that the peer proved.

mod gathered;
mod places;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hauberk_tls::device::ChannelBinding;
use hauberk_tls::{Acceptor, Connection as Accepted, HandshakeError, PeerIdentity, TlsStream, Usage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::access::ConnectionInfo;
use crate::admins::Admins;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::issuance::Ledger;
use crate::metrics::{ListenerLabel, Metrics};
use crate::revocation::Revocations;
use gathered::Gathered;
pub use places::Limits;
use places::{Counts, Place};

/// How long a connection may take to begin speaking HTTP/2 once its handshake is done.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// The length of what every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// How long a connection without a certificate lives: enough for the one call that it may make.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);

/// After an error of accept that is not the peer's, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a call may take until its answer begins: the request must have been sent whole by then.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Of a peer with a certificate.
    pub call: Duration,
    /// Of one without.
    pub call_of_stranger: Duration,
}

/// Where connections go whose handshake is done.
#[derive(Clone)]
pub(super) struct Doors {
    /// Those whose peer has proved who it is.
    pub(super) known: mpsc::Sender<io::Result<Connection>>,
    /// Those whose peer has proved nothing.
    pub(super) strangers: mpsc::Sender<io::Result<Connection>>,
}

/// A listener with its limits.
pub struct Listening {
    /// `agent` or `admin`: for metrics and logs.
    pub name: &'static str,
    /// The socket.
    pub socket: TcpListener,
    /// The TLS side.
    pub acceptor: Acceptor,
    /// How much is too much.
    pub limits: Limits,
    /// How long is too long.
    pub deadlines: Deadlines,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The time, for the expiry of certificates.
    pub clock: Clock,
    /// Whose connections end when they are deleted.
    pub admins: Arc<Admins>,
    /// And when their certificates are revoked. Agents are told why first, on their streams.
    pub revocations: Arc<Revocations>,
    /// And when the authorities that vouch for them are.
    pub authority: Arc<Authority>,
    /// Who answers for a certificate.
    pub ledger: Arc<Ledger>,
}

impl Listening {
    /// Accepts until `stop`, handing out connections whose handshake is done. Handshakes under way end with it.
    pub(super) async fn accept(self, doors: Doors, stop: CancellationToken) {
        let label = ListenerLabel { listener: self.name };
        let counts = Counts::new(self.limits, Arc::clone(&self.metrics), label.clone());
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_ended) = handshakes.join_next() => {}
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => {
                        let Some(place) = counts.take_place(address.ip()) else {
                            self.metrics.connections_refused.get_or_create(&label).inc();
                            tracing::debug!(event = "connection_refused", listener = self.name, %address, "too many");
                            continue;
                        };
                        let handshake = Handshake {
                            listener: self.name,
                            acceptor: self.acceptor.clone(),
                            clock: self.clock.clone(),
                            admins: Arc::clone(&self.admins),
                            revocations: Arc::clone(&self.revocations),
                            authority: Arc::clone(&self.authority),
                            ledger: Arc::clone(&self.ledger),
                            metrics: Arc::clone(&self.metrics),
                            place,
                            address,
                        };
                        handshakes.spawn(handshake.begin(stream, doors.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(event = "accept_failed", listener = self.name, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

struct Handshake {
    listener: &'static str,
    acceptor: Acceptor,
    clock: Clock,
    admins: Arc<Admins>,
    revocations: Arc<Revocations>,
    authority: Arc<Authority>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    place: Place,
    address: SocketAddr,
}

impl Handshake {
    async fn begin(self, stream: TcpStream, doors: Doors) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(event = "nodelay_failed", %error, "the connection is slower than it could be");
        }
        let accepted = tokio::select! {
            () = gives_way(&self.place) => {
                self.count_refused();
                let (listener, address) = (self.listener, self.address);
                tracing::debug!(event = "handshake_gives_way", listener, %address, "too many are under way");
                return;
            }
            accepted = self.acceptor.accept(stream) => accepted,
        };
        self.finish(accepted, doors).await;
    }

    async fn finish(mut self, accepted: Result<Accepted<TcpStream>, HandshakeError>, doors: Doors) {
        match accepted {
            Ok(accepted) => {
                let Ok(channel) = ChannelBinding::of(&accepted) else {
                    self.count_refused();
                    tracing::error!(
                        event = "connection_unnamed",
                        listener = self.listener,
                        "a handshake is not done"
                    );
                    return;
                };
                let (stream, peer) = accepted.into_parts();
                let holder = match &peer {
                    Some(peer) => Some(self.ledger.answerable(peer).await),
                    None => None,
                };
                if !self.place.settle(holder) {
                    self.count_refused();
                    tracing::debug!(
                        event = "connection_refused",
                        listener = self.listener,
                        address = %self.address,
                        "too many by the holder of this certificate, or without one"
                    );
                    return;
                }
                let door = if peer.is_some() { doors.known } else { doors.strangers };
                // The clock of day is read once; what remains is measured by the steady one.
                let now = self.clock.now();
                let life = peer.as_ref().map_or(ANONYMOUS_LIFE, |peer| peer.not_after().since(now));
                let dismissed = match &peer {
                    Some(peer) => self.dismissal_of(peer),
                    None => self.place.must_leave().map(|must_leave| Box::pin(must_leave) as Dismissal),
                };
                let info = ConnectionInfo::Tls {
                    address: self.address,
                    peer,
                    channel,
                    calls: self.place.calls_of_stranger(),
                };
                let connection = Connection {
                    stream: Gathered::new(stream),
                    info,
                    expiry: Box::pin(tokio::time::sleep(life)),
                    preface: Some(Preface {
                        missing: PREFACE_BYTES,
                        deadline: Box::pin(tokio::time::sleep(PREFACE_DEADLINE)),
                    }),
                    dismissed,
                    _place: self.place,
                };
                // The server has stopped taking connections: this one closes.
                let _stopping = door.send(Ok(connection)).await;
            }
            Err(error) => {
                self.count_refused();
                // Anybody can provoke these, at any rate.
                tracing::debug!(
                    event = "handshake_failed",
                    listener = self.listener,
                    address = %self.address,
                    %error,
                    "a connection was refused"
                );
            }
        }
    }

    /// For an admin: until the admin is deleted, the certificate revoked, or nobody who is trusted vouches for it. Calls are checked
    /// when they begin; what they stream would go on for as long as the certificate was to live.
    fn dismissal_of(&self, peer: &PeerIdentity) -> Option<Dismissal> {
        let deleted = self.admins.dismissal_of(peer)?.cancelled_owned();
        let (revocations, peer) = (Arc::clone(&self.revocations), peer.clone());
        let (authority, clock) = (Arc::clone(&self.authority), self.clock.clone());
        // Whoever is already is told so, call by call.
        let was_denied = revocations.denylist().denial(peer.id(), peer.serial()).is_some();
        Some(Box::pin(async move {
            tokio::select! {
                () = deleted => {}
                () = revocations.until_denied(peer.id(), peer.serial()), if !was_denied => {}
                () = until_distrusted(&authority, &clock, &peer) => {}
            }
        }))
    }

    fn count_refused(&self) {
        let label = ListenerLabel { listener: self.listener };
        self.metrics.connections_refused.get_or_create(&label).inc();
    }
}

/// Waits until others need the place.
async fn gives_way(place: &Place) {
    match place.must_leave() {
        Some(must_leave) => must_leave.await,
        None => std::future::pending().await,
    }
}

/// Until no authority that is trusted vouches for a peer.
async fn until_distrusted(authority: &Authority, clock: &Clock, peer: &PeerIdentity) {
    let mut trust = authority.trust();
    // The first look is for what was revoked since the handshake. The sender lives as long as the authority, which is borrowed.
    while !authority.has_revoked()
        || peer.verify_again(&authority.bundle(), clock.now(), Usage::Client).is_ok()
    {
        if trust.changed().await.is_err() {
            return;
        }
    }
}

/// A verified connection. It breaks when its peer's certificate expires, when its peer is an admin who is deleted or
/// whose certificate or authority is revoked, when its peer has none and others need its place, and when its peer does not begin to
/// speak in time.
pub(super) struct Connection {
    stream: Gathered<TlsStream<TcpStream>>,
    info: ConnectionInfo,
    expiry: Pin<Box<Sleep>>,
    preface: Option<Preface>,
    dismissed: Option<Dismissal>,
    _place: Place,
}

/// Ends when the peer is to be heard no longer.
type Dismissal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a peer has yet to send before its connection counts as alive; from then on HTTP/2 pings watch over it.
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let broken = |why| Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        if self.expiry.as_mut().poll(context).is_ready() {
            return broken("what the peer proved has expired");
        }
        if self.dismissed.as_mut().is_some_and(|dismissed| dismissed.as_mut().poll(context).is_ready()) {
            return broken(
                "the admin was deleted, the certificate or its authority revoked, or a stranger's place needed",
            );
        }
        if self.preface.as_mut().is_some_and(|preface| preface.deadline.as_mut().poll(context).is_ready()) {
            return broken("the peer does not speak");
        }
        Ok(())
    }

    fn count_preface(&mut self, read: usize) {
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(read);
            if preface.missing == 0 {
                self.preface = None;
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.count_preface(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
