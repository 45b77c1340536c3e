//! Documents for whoever asks, over HTTPS and without a certificate: those of OpenID Connect, and our trust bundle.

mod certificate;

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
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::room::Room;
pub use certificate::{ServedCertificate, WebCertificateFault};

/// How long a handshake, and then a connection, may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(20);

/// How many connections are served at once. Anybody may connect: when there are more, the oldest of the network that has most gives
/// way.
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
        let (listener, acceptor) = (certificate.listener(), certificate.acceptor());
        // Beside the rest: files that cannot be read may take long to say so.
        let looks = async {
            let mut look = tokio::time::interval(FILES_LOOKED_AT_EVERY);
            loop {
                look.tick().await;
                certificate.look_again().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = looks => {}
            () = accept(&socket, listener, &acceptor, &respond) => {}
        }
    }
}

async fn accept(
    socket: &TcpListener,
    listener: &'static str,
    acceptor: &hauberk_tls::Acceptor,
    respond: &Arc<Respond>,
) {
    let (room, mut connections) = (Room::new(AT_ONCE, Duration::ZERO), JoinSet::new());
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = socket.accept() => match accepted {
                Ok((stream, address)) => {
                    let Some(stay) = room.enter(address.ip()) else { continue };
                    let connection = answer(stream, acceptor.clone(), listener, Arc::clone(respond));
                    connections.spawn(async move {
                        // One that is too slow is closed, or that others need the place of; there is nobody to tell.
                        tokio::select! {
                            () = stay.must_leave() => {}
                            _late = tokio::time::timeout(CONNECTION_DEADLINE, connection) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(event = "accept_failed", listener, %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
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

#[cfg(test)]
mod tests {
    use crate::clock::Clock;
    use std::net::SocketAddr;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpSocket;

    use super::*;
    use crate::config::CertificateFiles;
    use crate::testing::scratch;

    async fn connect(to: SocketAddr, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_opens_many_connections_has_nobody_elses_closed() {
        let scratch = scratch().await;
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let certificate =
            ServedCertificate::open("oidc", None, &scratch.control.identity, scratch.control.clock.clone())
                .await
                .unwrap();
        let listener = WebListener { socket, certificate, respond: Arc::new(|_: &str| nothing()) };
        scratch.control.tasks.spawn(listener.serve(scratch.control.stop.clone()));
        let honest = connect(address, [127, 0, 0, 1]).await;
        let mut greedy = Vec::new();
        for _ in 0..AT_ONCE + 1 {
            greedy.push(connect(address, [127, 0, 0, 2]).await);
        }
        // Two too many have come.
        for gone in greedy.iter_mut().take(2) {
            assert!(matches!(gone.read(&mut [0]).await, Ok(0) | Err(_)));
        }
        let still_there = honest.try_read(&mut [0]).unwrap_err();
        assert_eq!(still_there.kind(), std::io::ErrorKind::WouldBlock);
        scratch.control.stop.cancel();
    }

    /// As on a network that is down. Where this fails the clock stands still for ever, so it runs in a thread of its own.
    #[test]
    fn certificate_files_that_cannot_be_read_keep_nobody_out() {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.unwrap().block_on(serve_while_a_file_hangs());
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    async fn serve_while_a_file_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = rcgen::CertificateParams::new(["shop.example".to_owned()]).unwrap();
        let chain = chain.self_signed(&key).unwrap().pem();
        let path = |name| directory.path().join(name);
        let files = CertificateFiles { certificate: path("chain.pem"), key: path("key.pem") };
        std::fs::write(&files.certificate, chain).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        let own = hauberk_tls::LiveIdentity::new((*scratch().await.control.authority.bundle()).clone());
        let certificate = ServedCertificate::open("oidc", Some(&files), &own, Clock::system()).await.unwrap();
        std::fs::remove_file(&files.certificate).unwrap();
        mknodat(CWD, &files.certificate, FileType::Fifo, Mode::RWXU, 0).unwrap();

        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let listener = WebListener { socket, certificate, respond: Arc::new(|_: &str| nothing()) };
        tasks.spawn(listener.serve(stop.clone()));
        let mut connections = Vec::new();
        for _ in 0..AT_ONCE + 1 {
            connections.push(connect(address, [127, 0, 0, 1]).await);
        }
        // The first gives way, so they are taken.
        assert!(matches!(connections[0].read(&mut [0]).await, Ok(0) | Err(_)));
        stop.cancel();
        // Whoever reads goes on, and ends, once somebody has opened the file to write.
        drop(std::fs::File::options().read(true).write(true).open(&files.certificate).unwrap());
    }
}
