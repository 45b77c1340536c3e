//! An app that says a mark to whoever is connected, once when they come and once each time that it is given another,
//! and remembers what it hears. With a mark that it was given after something had happened, a test sees what still
//! passes since, without a clock.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
    time::timeout,
};

use crate::streaming_app::{AnyBody, Frames, empty};

/// The app: HTTP/1.1, HTTP/2, gRPC and upgrades on one port, bytes as they come on another.
pub(crate) struct MarkedApp {
    http: SocketAddr,
    tcp: SocketAddr,
    talk: Arc<Talk>,
    runtime: Option<Runtime>,
}

struct Talk {
    mark: watch::Sender<u8>,
    heard: watch::Sender<BTreeSet<u8>>,
}

impl MarkedApp {
    /// Starts it on free ports of the loopback.
    pub(crate) fn start(mark: u8) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let talk = Arc::new(Talk { mark: watch::Sender::new(mark), heard: watch::Sender::default() });
        let (http, tcp) = (listen(), listen());
        let (at_http, at_tcp) = (http.local_addr().unwrap(), tcp.local_addr().unwrap());
        let (for_http, for_tcp) = (Arc::clone(&talk), Arc::clone(&talk));
        runtime.spawn(accept(http, move |stream| serve(stream, Arc::clone(&for_http))));
        runtime.spawn(accept(tcp, move |stream| converse(stream, Arc::clone(&for_tcp))));
        Self { http: at_http, tcp: at_tcp, talk, runtime: Some(runtime) }
    }

    /// Where it takes requests.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it takes anything.
    pub(crate) fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Says another mark to everybody, from now on.
    pub(crate) fn mark(&self, mark: u8) {
        self.talk.mark.send_replace(mark);
    }

    /// What it says now.
    pub(crate) fn says(&self) -> u8 {
        *self.talk.mark.borrow()
    }

    /// Forgets what it has heard.
    pub(crate) fn forget(&self) {
        self.talk.heard.send_replace(BTreeSet::new());
    }

    /// Whether it has heard this byte by now.
    pub(crate) fn has_heard(&self, byte: u8) -> bool {
        self.talk.heard.borrow().contains(&byte)
    }

    /// Whether it hears this byte in time.
    pub(crate) async fn hears(&self, byte: u8, patience: Duration) -> bool {
        let mut heard = self.talk.heard.subscribe();
        timeout(patience, heard.wait_for(|heard| heard.contains(&byte))).await.is_ok()
    }
}

impl Drop for MarkedApp {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Talk {
    fn hear(&self, bytes: &[u8]) {
        self.heard.send_modify(|heard| heard.extend(bytes));
    }
}

fn listen() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

async fn accept<F>(listener: std::net::TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream, talk: Arc<Talk>) {
    let serve = service_fn(move |request| {
        let talk = Arc::clone(&talk);
        async move { Ok::<_, Infallible>(answer(request, talk)) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), serve).await;
}

fn answer(mut request: Request<Incoming>, talk: Arc<Talk>) -> Response<AnyBody> {
    if let Some(protocol) = request.headers().get("upgrade").cloned() {
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
                converse(TokioIo::new(upgraded), talk).await;
            }
        });
        let switching = Response::builder().status(101).header("connection", "upgrade");
        return switching.header("upgrade", protocol).body(empty()).unwrap();
    }
    let kind = request.headers().get("content-type").cloned();
    let is_grpc = kind.as_ref().is_some_and(|kind| kind == "application/grpc");
    let (sender, body) = Frames::channel();
    let mut marks = talk.mark.subscribe();
    tokio::spawn(async move {
        loop {
            let mark = *marks.borrow_and_update();
            if sender.send(Frame::data(message(mark, is_grpc))).await.is_err()
                || marks.changed().await.is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            talk.hear(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        }
    });
    let kind = kind.unwrap_or(HeaderValue::from_static("text/plain"));
    Response::builder().header("content-type", kind).body(body).unwrap()
}

/// A mark, for gRPC as a message of its own.
pub(crate) fn message(mark: u8, is_grpc: bool) -> Bytes {
    match is_grpc {
        true => vec![0, 0, 0, 0, 1, mark].into(),
        false => vec![mark].into(),
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Send, talk: Arc<Talk>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut marks = talk.mark.subscribe();
    let mut buffer = [0; 256];
    let mut mark = *marks.borrow_and_update();
    loop {
        if write.write_all(&[mark]).await.is_err() || write.flush().await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                read = read.read(&mut buffer) => match read {
                    Ok(read @ 1..) => talk.hear(&buffer[..read]),
                    _ => return,
                },
                changed = marks.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
        mark = *marks.borrow_and_update();
    }
}
