//! Documents for whoever asks, over HTTPS and without a certificate: those of OpenID Connect, and our trust bundle.

mod certificate;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use certificate::{ServedCertificate, WebCertificateFault};

/// How long a handshake, and then a connection, may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(20);

/// How many connections are served at once. Anybody may connect: when there are more, the oldest gives way.
const AT_ONCE: usize = 256;

/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// How often an operator's certificate files are looked at.
const FILES_LOOKED_AT_EVERY: Duration = Duration::from_secs(60);

/// After an error of accept that is not the peer's, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The answer to GET and HEAD of a path.
pub type Respond = dyn Fn(&str) -> Response<Full<Bytes>> + Send + Sync;

/// A listener and what it serves.
pub struct WebListener {
    /// The socket.
    pub socket: TcpListener,
    /// Whom it says that it is.
    pub certificate: ServedCertificate,
    /// What is served.
    pub respond: Arc<Respond>,
}

impl WebListener {
    /// Serves until `stop`; connections under way end with it.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { socket, mut certificate, respond } = self;
        let listener = certificate.listener();
        let mut connections = JoinSet::new();
        let mut in_order: VecDeque<AbortHandle> = VecDeque::new();
        let mut look = tokio::time::interval(FILES_LOOKED_AT_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_ended) = connections.join_next() => in_order.retain(|connection| !connection.is_finished()),
                _ = look.tick() => certificate.look_again().await,
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => {
                        if in_order.len() >= AT_ONCE && let Some(oldest) = in_order.pop_front() {
                            oldest.abort();
                        }
                        let connection = answer(stream, certificate.acceptor(), listener, Arc::clone(&respond));
                        in_order.push_back(
                            connections.spawn(async move {
                                // One that is too slow is closed; there is nobody to tell.
                                let _late = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
                            })
                        );
                    }
                    Err(error) => {
                        tracing::warn!(event = "accept_failed", listener, %error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    acceptor: hauberk_tls::Acceptor,
    listener: &'static str,
    respond: Arc<Respond>,
) {
    let stream = match acceptor.accept(stream).await {
        Ok(connection) => connection.into_parts().0,
        Err(error) => {
            tracing::debug!(event = "handshake_failed", listener, %error, "a client is not served");
            return;
        }
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer_to(&*respond, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_DEADLINE)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(event = "exchange_failed", listener, %error, "an exchange ended badly");
    }
}

fn answer_to(respond: &Respond, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(request.uri().path());
    }
    let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
    refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    refusal
}

/// A JSON document that may be kept for so many seconds.
pub fn document(text: Bytes, kept_for: u64) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(kept) = HeaderValue::from_str(&format!("public, max-age={kept_for}")) {
        headers.insert(header::CACHE_CONTROL, kept);
    }
    response
}

/// The answer where nothing is.
pub fn nothing() -> Response<Full<Bytes>> {
    plain(StatusCode::NOT_FOUND, "there is nothing here\n")
}

/// The answer where something will be, after so long.
pub fn not_yet(again_in: Duration, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(again_in.as_secs()));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
