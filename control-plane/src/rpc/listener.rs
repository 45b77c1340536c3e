//! From a TCP socket to a verified connection: limits before the handshake, a deadline for it, and an end at the
//! expiry of the certificate that the peer proved.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hauberk_tls::{Acceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::access::ConnectionInfo;
use crate::admins::Admins;
use crate::clock::Clock;
use crate::metrics::{ListenerLabel, Metrics};

/// How long a connection may take to begin speaking HTTP/2 once its handshake is done.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// The length of what every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// How long a connection without a certificate lives: enough for the one call that it may make.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);

/// After an error of accept that is not the peer's, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub connections_per_address: usize,
    /// In the middle of their handshake, in all; from one address half as many.
    pub handshakes: usize,
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
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The time, for the expiry of certificates.
    pub clock: Clock,
    /// Whose connections end when they are deleted.
    pub admins: Arc<Admins>,
}

impl Listening {
    /// Accepts until `stop`, handing out connections whose handshake is done. Handshakes under way end with it.
    pub(super) async fn accept(
        self,
        connections: mpsc::Sender<io::Result<Connection>>,
        stop: CancellationToken,
    ) {
        let label = ListenerLabel { listener: self.name };
        let counts = Arc::new(Counts {
            limits: self.limits,
            open: Mutex::default(),
            metrics: Arc::clone(&self.metrics),
            label: label.clone(),
        });
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
                            metrics: Arc::clone(&self.metrics),
                            place,
                            address,
                        };
                        handshakes.spawn(handshake.finish(stream, connections.clone()));
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
    metrics: Arc<Metrics>,
    place: Place,
    address: SocketAddr,
}

impl Handshake {
    async fn finish(mut self, stream: TcpStream, connections: mpsc::Sender<io::Result<Connection>>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(event = "nodelay_failed", %error, "the connection is slower than it could be");
        }
        match self.acceptor.accept(stream).await {
            Ok(accepted) => {
                self.place.handshake_done();
                let (stream, peer) = accepted.into_parts();
                // The clock of day is read once; what remains is measured by the steady one.
                let now = self.clock.now();
                let life = peer.as_ref().map_or(ANONYMOUS_LIFE, |peer| peer.not_after().since(now));
                let dismissed = peer.as_ref().and_then(|peer| self.admins.dismissal_of(peer));
                let info = ConnectionInfo::Tls { address: self.address, peer };
                let connection = Connection {
                    stream,
                    info,
                    expiry: Box::pin(tokio::time::sleep(life)),
                    preface: Some(Preface {
                        missing: PREFACE_BYTES,
                        deadline: Box::pin(tokio::time::sleep(PREFACE_DEADLINE)),
                    }),
                    dismissed: dismissed.map(|token| Box::pin(token.cancelled_owned())),
                    _place: self.place,
                };
                // The server has stopped taking connections: this one closes.
                let _stopping = connections.send(Ok(connection)).await;
            }
            Err(error) => {
                let label = ListenerLabel { listener: self.listener };
                self.metrics.connections_refused.get_or_create(&label).inc();
                tracing::info!(
                    event = "handshake_failed",
                    listener = self.listener,
                    address = %self.address,
                    %error,
                    "a connection was refused"
                );
            }
        }
    }
}

/// How many connections are open, by address.
struct Counts {
    limits: Limits,
    open: Mutex<Open>,
    metrics: Arc<Metrics>,
    label: ListenerLabel,
}

#[derive(Default)]
struct Open {
    connections: usize,
    handshakes: usize,
    by_address: HashMap<IpAddr, Held>,
}

#[derive(Default, Clone, Copy)]
struct Held {
    connections: usize,
    handshakes: usize,
}

impl Counts {
    fn take_place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = open.by_address.get(&address).copied().unwrap_or_default();
        if open.connections >= self.limits.connections
            || open.handshakes >= self.limits.handshakes
            || held.connections >= self.limits.connections_per_address
            || held.handshakes >= self.limits.handshakes / 2
        {
            return None;
        }
        open.connections += 1;
        open.handshakes += 1;
        let held = Held { connections: held.connections + 1, handshakes: held.handshakes + 1 };
        open.by_address.insert(address, held);
        self.metrics.connections.get_or_create(&self.label).inc();
        Some(Place { counts: Arc::clone(self), address, in_handshake: true })
    }
}

/// One connection's share of the limits; given back when dropped.
struct Place {
    counts: Arc<Counts>,
    address: IpAddr,
    in_handshake: bool,
}

impl Place {
    fn handshake_done(&mut self) {
        if std::mem::take(&mut self.in_handshake) {
            let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.handshakes -= 1;
            if let Some(held) = open.by_address.get_mut(&self.address) {
                held.handshakes -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshake_done();
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections -= 1;
        if let Some(held) = open.by_address.get_mut(&self.address) {
            held.connections -= 1;
            if held.connections == 0 {
                open.by_address.remove(&self.address);
            }
        }
        self.counts.metrics.connections.get_or_create(&self.counts.label).dec();
    }
}

/// A verified connection. It breaks when its peer's certificate expires, when its peer is an admin who is deleted, and
/// when its peer does not begin to speak in time.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    expiry: Pin<Box<Sleep>>,
    preface: Option<Preface>,
    dismissed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _place: Place,
}

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
            return broken("the admin was deleted");
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
