//! An app that does all that HTTP can: streams, trailers, upgrades, gRPC, early and endless answers. It speaks
//! HTTP/1.1 and HTTP/2 without TLS and remembers every request.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};

/// The body of any request or response in these tests.
pub(crate) type AnyBody = BoxBody<Bytes, Infallible>;

/// A request as the app saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

/// What the app remembers.
#[derive(Debug, Default)]
struct Memory {
    requests: Vec<Seen>,
    trailers: Vec<HeaderMap>,
    /// Bodies that were cut off before their end.
    broken: usize,
    /// Requests that came to `take`, and bytes of their content.
    taking: usize,
    taken: usize,
}

/// The app; its connections end with it.
#[derive(Debug)]
pub(crate) struct StreamingApp {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    runtime: Option<Runtime>,
}

impl StreamingApp {
    /// Starts it on a free port of the loopback.
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let memory = Arc::new(Mutex::new(Memory::default()));
        let (for_task, _guard) = (Arc::clone(&memory), runtime.enter());
        let listener = TcpListener::from_std(listener).unwrap();
        runtime.spawn(accept(listener, for_task));
        drop(_guard);
        Self { address, memory, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.memory.lock().unwrap().requests.clone()
    }

    /// How many requests so far.
    pub(crate) fn count(&self) -> usize {
        self.memory.lock().unwrap().requests.len()
    }

    /// The trailers of every request body that had some.
    pub(crate) fn trailers(&self) -> Vec<HeaderMap> {
        self.memory.lock().unwrap().trailers.clone()
    }

    /// How many request bodies broke off before their end.
    pub(crate) fn broken(&self) -> usize {
        self.memory.lock().unwrap().broken
    }

    /// How many requests came to `take`.
    pub(crate) fn taking(&self) -> usize {
        self.memory.lock().unwrap().taking
    }

    /// How many bytes of content came to `take`.
    pub(crate) fn taken(&self) -> usize {
        self.memory.lock().unwrap().taken
    }
}

impl Drop for StreamingApp {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A body out of a channel: each frame as it comes, the end when the sender is gone.
pub(crate) struct Frames(mpsc::Receiver<Frame<Bytes>>);

impl Frames {
    /// The body and what fills it.
    pub(crate) fn channel() -> (mpsc::Sender<Frame<Bytes>>, AnyBody) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self(receiver).boxed())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).boxed()
}

/// No body.
pub(crate) fn empty() -> AnyBody {
    Empty::new().boxed()
}

async fn accept(listener: TcpListener, memory: Arc<Mutex<Memory>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let memory = Arc::clone(&memory);
        tokio::spawn(async move {
            let serve = service_fn(move |request| {
                let memory = Arc::clone(&memory);
                async move {
                    let answer = match request.uri().path().ends_with("/take") {
                        true => take(request, memory).await,
                        false => answer(request, memory),
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().preserve_header_case(false);
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), serve).await;
        });
    }
}

fn answer(request: Request<Incoming>, memory: Arc<Mutex<Memory>>) -> Response<AnyBody> {
    memory.lock().unwrap().requests.push(Seen {
        method: request.method().clone(),
        target: request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string),
        version: request.version(),
        headers: request.headers().clone(),
    });
    if request.headers().contains_key("upgrade") {
        return upgrade(request);
    }
    if request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        return grpc(request, memory);
    }
    let path = request.uri().path().to_owned();
    match path.rsplit('/').next().unwrap_or_default() {
        "echo" => echo(request, memory, HeaderMap::new()),
        "drip" => Response::new(drip()),
        "early" => Response::builder().status(413).body(full("too much")).unwrap(),
        "large" => Response::new(full(vec![b'x'; 10 << 20])),
        "static" => Response::builder().header("etag", "\"1\"").body(full("twelve bytes")).unwrap(),
        _ => Response::new(full(format!("orders {} {}", request.method(), request.uri()))),
    }
}

/// Answers once it has all of the body.
async fn take(request: Request<Incoming>, memory: Arc<Mutex<Memory>>) -> Response<AnyBody> {
    memory.lock().unwrap().taking += 1;
    let mut upload = Upload { memory, is_whole: false };
    let mut incoming = request.into_body();
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else { return Response::builder().status(400).body(empty()).unwrap() };
        upload.memory.lock().unwrap().taken += frame.data_ref().map_or(0, Bytes::len);
    }
    upload.is_whole = true;
    Response::new(full("taken"))
}

/// Broken if it is dropped before its end: hyper may drop whoever reads it instead of telling.
struct Upload {
    memory: Arc<Mutex<Memory>>,
    is_whole: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_whole {
            self.memory.lock().unwrap().broken += 1;
        }
    }
}

/// Sends the body back as it comes, its trailers too.
fn echo(request: Request<Incoming>, memory: Arc<Mutex<Memory>>, last: HeaderMap) -> Response<AnyBody> {
    let (sender, body) = Frames::channel();
    let mut incoming = request.into_body();
    tokio::spawn(async move {
        let mut trailers = last;
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else {
                memory.lock().unwrap().broken += 1;
                return;
            };
            match frame.into_data() {
                Ok(data) => {
                    if sender.send(Frame::data(data)).await.is_err() {
                        return;
                    }
                }
                Err(frame) => {
                    let received = frame.into_trailers().unwrap();
                    memory.lock().unwrap().trailers.push(received.clone());
                    trailers.extend(received);
                }
            }
        }
        if !trailers.is_empty() {
            let _ = sender.send(Frame::trailers(trailers)).await;
        }
    });
    Response::builder().header("trailer", "x-checksum").body(body).unwrap()
}

/// A byte every few milliseconds, for ever.
fn drip() -> AnyBody {
    let (sender, body) = Frames::channel();
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            if sender.send(Frame::data(Bytes::from_static(b"."))).await.is_err() {
                return;
            }
        }
    });
    body
}

/// 101, and then every byte comes back.
fn upgrade(mut request: Request<Incoming>) -> Response<AnyBody> {
    let protocol = request.headers()["upgrade"].clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let builder = Response::builder().status(101).header("connection", "upgrade").header("upgrade", protocol);
    builder.body(empty()).unwrap()
}

/// `Both` echoes messages, `Fail` fails at once, `Drip` sends a message every few milliseconds for ever.
fn grpc(request: Request<Incoming>, memory: Arc<Mutex<Memory>>) -> Response<AnyBody> {
    let kind = HeaderValue::from_static("application/grpc");
    let mut response = match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "Fail" => Response::builder()
            .header("grpc-status", "9")
            .header("grpc-message", "not today")
            .header("x-reason", "closed")
            .body(empty())
            .unwrap(),
        "Drip" => {
            let (sender, body) = Frames::channel();
            tokio::spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(20));
                // An empty google.protobuf.StringValue.
                while sender.send(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]))).await.is_ok() {
                    pace.tick().await;
                }
            });
            Response::new(body)
        }
        _ => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("x-last", HeaderValue::from_static("words"));
            echo(request, memory, trailers)
        }
    };
    response.headers_mut().insert("content-type", kind);
    response
}
