//! Warm tunnels to an endpoint, each of which carries many TCP streams.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use hauberk_identity::Name;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio_util::sync::CancellationToken;

use super::peer::{DialError, Peer};
use crate::connections::Connections;
use crate::wire::headers::{DECISION, SERVICE};
use crate::wire::tasks::Tasks;
use crate::wire::tunnel::{self, MAX_STREAMS};

/// Streams on each tunnel before another is opened, while there are few: one tunnel is one core's work.
const SPREAD_FROM: usize = 16;
const FEW: usize = 4;

/// The tunnels to one endpoint.
#[derive(Debug, Default)]
pub(super) struct TunnelPool {
    open: Mutex<Vec<Tunnel>>,
    /// Held while a tunnel is opened, so that the many who need one wait for the same.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Tunnel {
    sender: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
    /// Fires when it has ended, or should be given nothing new.
    done: CancellationToken,
}

/// A TCP stream that the far agent has accepted.
#[derive(Debug)]
pub(super) struct TunnelStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    lease: StreamLease,
}

/// Counts a stream on its tunnel, until dropped.
#[derive(Debug)]
pub(super) struct StreamLease(Arc<AtomicUsize>);

/// Why there is no stream. Nothing of the app's has been sent then.
#[derive(Debug)]
pub(super) enum OpenError {
    /// No tunnel.
    Dial(DialError),
    /// The tunnel broke.
    Broken(h2::Error),
    /// The far agent answered with another status than 200, and perhaps the id of its decision.
    Refused { status: StatusCode, decision: Option<String> },
}

/// Opens a stream to `service` by way of `peer`.
pub(super) async fn open(
    peer: &Peer,
    service: &Name,
    port: u16,
    connections: &Arc<Connections>,
    tasks: &Tasks,
) -> Result<TunnelStream, OpenError> {
    let (tunnel, lease) = match peer.tunnels.take() {
        Some(taken) => taken,
        None => {
            let _opening = peer.tunnels.opening.lock().await;
            match peer.tunnels.take() {
                Some(taken) => taken,
                None => {
                    let tunnel = dig(peer, connections, tasks).await.map_err(OpenError::Dial)?;
                    peer.tunnels.put(tunnel)
                }
            }
        }
    };
    let Tunnel { sender, done, streams: _ } = tunnel;
    // Told to go, it takes nothing new from then on, and ends only later: whoever tries again needs another.
    let broken = |error| {
        done.cancel();
        OpenError::Broken(error)
    };
    let mut sender = sender.ready().await.map_err(broken)?;
    let request = connect_request(service, port);
    let (response, send) = sender.send_request(request, false).map_err(broken)?;
    let response = response.await.map_err(OpenError::Broken)?;
    if response.status() == StatusCode::OK {
        return Ok(TunnelStream { send, receive: response.into_body(), lease });
    }
    let decision = response.headers().get(DECISION).and_then(|id| id.to_str().ok()).map(str::to_owned);
    Err(OpenError::Refused { status: response.status(), decision })
}

async fn dig(peer: &Peer, connections: &Arc<Connections>, tasks: &Tasks) -> Result<Tunnel, DialError> {
    let (stream, registered) = peer.dial(connections).await?;
    let broken = |error| DialError::Tunnel(peer.address(), error);
    let (sender, connection) = tunnel::client().handshake::<_, Bytes>(stream).await.map_err(broken)?;
    let done = registered.connection().retired().child_token();
    let guard = done.clone().drop_guard();
    tasks.spawn(async move {
        let _guard = guard;
        tokio::select! {
            outcome = connection => if let Err(error) = outcome {
                tracing::debug!(event = "tunnel_broken", %error);
            },
            () = registered.connection().cut_signal().cancelled() => {}
        }
    });
    Ok(Tunnel { sender, streams: Arc::default(), done })
}

fn connect_request(service: &Name, port: u16) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    if let Ok(authority) = format!("{service}:{port}").parse() {
        *request.uri_mut() = authority;
    }
    let mut headers = HeaderMap::with_capacity(1);
    if let Ok(service) = HeaderValue::from_str(service.as_str()) {
        headers.insert(SERVICE, service);
    }
    *request.headers_mut() = headers;
    request
}

impl TunnelStream {
    /// Both directions, and what counts the stream.
    pub(super) fn into_parts(self) -> (SendStream<Bytes>, RecvStream, StreamLease) {
        (self.send, self.receive, self.lease)
    }
}

impl TunnelPool {
    /// The least busy tunnel, unless one more should be opened.
    fn take(&self) -> Option<(Tunnel, StreamLease)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|tunnel| !tunnel.done.is_cancelled());
        let least = open.iter().min_by_key(|tunnel| tunnel.busy())?;
        let limit = if open.len() < FEW { SPREAD_FROM } else { MAX_STREAMS };
        (least.busy() < limit).then(|| least.lease())
    }

    fn put(&self, tunnel: Tunnel) -> (Tunnel, StreamLease) {
        let leased = tunnel.lease();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(tunnel);
        leased
    }
}

impl Tunnel {
    fn busy(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn lease(&self) -> (Self, StreamLease) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.clone(), StreamLease(Arc::clone(&self.streams)))
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
