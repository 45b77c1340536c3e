//! Where local apps arrive.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hauberk_identity::Name;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::app_socket::{AppSocket, EndTells};
use super::call::{Call, Wish};
use super::{Outbound, http, tcp};
use crate::wire::accept::Refusals;
use crate::wire::budget::SocketPlace;
use crate::wire::serve::serve_until;
use crate::wire::socket::{self, ConnectError};
use crate::wire::strict::{Broken, MAX_HEAD, Opaque, StrictRequests};
use crate::wire::{http1, http2};

/// How long an app may take to show which version of HTTP it speaks.
const PATIENCE: Duration = Duration::from_secs(60);
/// With these bytes every HTTP/2 connection begins, and no HTTP/1.1 request (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI";

/// A connection of an app that speaks HTTP, for what lasts longer than that, such as upgraded ones.
#[derive(Debug)]
pub(super) struct AppConnection {
    /// To be told when it no longer speaks HTTP/1.1.
    pub(super) opaque: Opaque,
    /// To be told when it ends amid another protocol.
    pub(super) end: EndTells,
    /// Where the app is.
    pub(super) app: SocketAddr,
    _place: SocketPlace,
}

/// The service that a bound TCP port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpService {
    /// It is an external service.
    pub is_external: bool,
    /// Its name.
    pub name: Name,
    /// Its port; none where it has only one for TCP.
    pub port: Option<u16>,
}

impl Outbound {
    /// Takes HTTP requests of local apps until `stop`, then lets what is under way come to its end. Dropping the future
    /// ends it all.
    pub async fn serve_http(self: &Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        self.serve(listener, stop.clone(), |outbound, stream, place| {
            let stop = stop.clone();
            async move { serve_http(outbound, stream, place, &stop).await }
        })
        .await;
    }

    /// Takes TCP connections of local apps for a service until `stop`, then lets those that are open come to their end.
    /// Dropping the future ends it all.
    pub async fn serve_tcp(
        self: &Arc<Self>,
        listener: TcpListener,
        service: TcpService,
        stop: CancellationToken,
    ) {
        let service = Arc::new(service);
        self.serve(listener, stop, |outbound, stream, place| {
            let service = Arc::clone(&service);
            async move {
                tcp::serve(&outbound, stream, &service).await;
                drop(place);
            }
        })
        .await;
    }

    /// Closes idle connections, and waits for streams that outlive the connections they came on, such as WebSockets. To
    /// be called when all listeners have ended.
    pub async fn finish(&self) {
        self.balancer.clear();
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn serve<F>(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
        serve_one: impl Fn(Arc<Self>, TcpStream, SocketPlace) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut serving = JoinSet::new();
        let mut refusals = Refusals::at("outbound");
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = serving.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => match self.from_apps.take_free() {
                        Some(place) => {
                            socket::prepare(&stream);
                            serving.spawn(serve_one(Arc::clone(self), stream, place));
                        }
                        None => refusals.tell(&ConnectError::NoPlace),
                    },
                    Err(error) => refusals.wait(&error).await,
                },
            }
        }
        drop(listener);
        while serving.join_next().await.is_some() {}
    }
}

async fn serve_http(
    outbound: Arc<Outbound>,
    mut stream: TcpStream,
    place: SocketPlace,
    stop: &CancellationToken,
) {
    let begun = tokio::select! {
        begun = tokio::time::timeout(PATIENCE, first_bytes(&mut stream)) => begun,
        () = stop.cancelled() => return,
    };
    let Ok(Ok(first)) = begun else { return };
    let is_http2 = first.starts_with(PREFACE);
    let opaque = Opaque::default();
    if is_http2 {
        opaque.begin();
    }
    let tasks = outbound.tasks.clone();
    let app = address_of(&stream);
    let telling = Arc::clone(&outbound);
    let tell = move |broken: Broken| {
        // The call whose body it is in tells of its own end.
        if !broken.is_under_way {
            Call::begin(&telling, Wish::Unread).unread(broken);
        }
    };
    let end = EndTells::default();
    let stream = AppSocket::new(stream, end.clone());
    let io = TokioIo::new(StrictRequests::new(stream, first, opaque.clone(), MAX_HEAD, tell));
    let connection = Arc::new(AppConnection { opaque, end: end.clone(), app, _place: place });
    let service = service_fn(move |request: Request<Incoming>| {
        let (outbound, connection) = (Arc::clone(&outbound), Arc::clone(&connection));
        let (ending, version) = (connection.end.clone(), request.version());
        async move {
            let answer = http::handle(outbound, connection, request).await;
            if version < Version::HTTP_11 && answer.body().size_hint().exact().is_none() {
                ending.by_close();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // Nothing but `stop` ends a local app's connection.
    let never = CancellationToken::new();
    if is_http2 {
        serve_until(http2::server(tasks).serve_connection(io, service), &never, stop, || ()).await;
    } else {
        let served = http1::server().serve_connection(io, service).with_upgrades();
        serve_until(served, &never, stop, || end.with_all()).await;
    }
}

/// Where an app is: apps are let in on loopback alone, and one that has just gone was there.
pub(super) fn address_of(app: &TcpStream) -> SocketAddr {
    app.peer_addr().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// As many bytes as tell HTTP/2 from HTTP/1.1.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut first = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first.len() >= PREFACE.len() || !PREFACE.starts_with(&first) {
            return Ok(first.freeze());
        }
    }
}
