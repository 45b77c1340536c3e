//! OpenID Connect discovery: who accepts JWT-SVIDs without knowing SPIFFE finds the issuer's document and its keys here,
//! over HTTPS, without a certificate.

mod certificate;
mod documents;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::jwt_svid::SigningKeys;
pub use certificate::{OidcCertificate, OidcCertificateError};
pub use documents::Documents;

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

/// The listener and what it serves.
pub struct Oidc {
    /// The socket.
    pub socket: TcpListener,
    /// Whom it says that it is.
    pub certificate: OidcCertificate,
    /// What is served.
    pub documents: Documents,
    /// Whose keys.
    pub keys: Arc<SigningKeys>,
}

impl Oidc {
    /// Serves until `stop`; connections under way end with it.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { socket, mut certificate, documents, keys } = self;
        let documents = Arc::new(documents);
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
                        let connection =
                            answer(stream, certificate.acceptor(), Arc::clone(&documents), Arc::clone(&keys));
                        in_order.push_back(
                            connections.spawn(async move {
                                // One that is too slow is closed; there is nobody to tell.
                                let _late = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
                            })
                        );
                    }
                    Err(error) => {
                        tracing::warn!(event = "accept_failed", listener = "oidc", %error, "cannot accept");
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
    documents: Arc<Documents>,
    keys: Arc<SigningKeys>,
) {
    let stream = match acceptor.accept(stream).await {
        Ok(connection) => connection.into_parts().0,
        Err(error) => {
            tracing::debug!(event = "handshake_failed", listener = "oidc", %error, "a client is not served");
            return;
        }
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&documents, &keys, &request);
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
        tracing::debug!(event = "exchange_failed", listener = "oidc", %error, "an exchange ended badly");
    }
}

fn respond(documents: &Documents, keys: &SigningKeys, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    documents.respond(request.method(), request.uri().path(), &keys.current())
}
