//! The HTTP listener for probes, scrapers and programs outside the mesh: `/livez`, `/readyz`, `/metrics`, `/crl` and
//! `/crl.pem`, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::registry::{Condition, Store};
use crate::resources::Catalogs;
use crate::revocation::Revocations;
use crate::revocation::crl::RevocationLists;
use crate::room::Room;

/// How long a probe may take, from connecting to the end of its answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// How many probes and readers of revocation lists are served at once. When there are more, the oldest of the network that has most
/// gives way: a probe is done at once, and slow readers must not have an orchestrator take a healthy control plane for dead.
const AT_ONCE: usize = 64;

/// What the health listener shows.
#[derive(Clone)]
pub struct Health {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
    lists: watch::Receiver<Arc<RevocationLists>>,
    clock: Clock,
    serving: Arc<AtomicBool>,
    catalogs: Arc<OnceLock<Catalogs>>,
}

impl Health {
    /// Not serving yet.
    pub fn new(
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
        revocations: Arc<Revocations>,
        metrics: Arc<Metrics>,
        lists: watch::Receiver<Arc<RevocationLists>>,
        clock: Clock,
    ) -> Self {
        let (serving, catalogs) = (Arc::default(), Arc::default());
        Self { store, authority, revocations, metrics, lists, clock, serving, catalogs }
    }

    /// Watches from now on whether resources can be read.
    pub fn watch_resources(&self, catalogs: &Catalogs) {
        self.catalogs.get_or_init(|| catalogs.clone());
    }

    /// Says whether the API listeners take calls.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// Why this process should get no traffic; `None` when it should.
    pub fn unready_reason(&self) -> Option<String> {
        if !self.serving.load(Ordering::Acquire) {
            return Some("starting or stopping".to_owned());
        }
        if self.catalogs.get().is_some_and(Catalogs::are_unreadable) {
            return Some(
                "changes of resources reach nobody, for they cannot be read: the log says why".to_owned(),
            );
        }
        if self.revocations.is_unreadable() {
            return Some(
                "revocations reach nobody, for the denylist cannot be made anew: the log says why".to_owned(),
            );
        }
        match self.store.condition() {
            Condition::Writable => {
                let reason = self.authority.cannot_sign(self.clock.now());
                reason.map(|reason| format!("no certificates can be signed: {reason}"))
            }
            Condition::Full(reason) | Condition::Broken(reason) => {
                Some(format!("the registry takes no writes: {reason}"))
            }
        }
    }

    /// Serves probes until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let (room, mut probes) = (Room::new(AT_ONCE, Duration::ZERO), JoinSet::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_ended) = probes.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let Some(stay) = room.enter(address.ip()) else { continue };
                        let health = self.clone();
                        probes.spawn(async move {
                            tokio::select! {
                                () = stay.must_leave() => {}
                                _late = tokio::time::timeout(PROBE_DEADLINE, health.answer(stream)) => {}
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(event = "accept_failed", listener = "health", %error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    async fn answer(self, stream: TcpStream) {
        let service = service_fn(move |request| {
            let health = self.clone();
            async move { Ok::<_, Infallible>(health.respond(&request)) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PROBE_DEADLINE)
            .max_buf_size(16 * 1024)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(event = "probe_failed", %error, "a probe ended badly");
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.unready_reason() {
                None => plain(StatusCode::OK, "ok\n".to_owned()),
                Some(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => {
                let writable = matches!(self.store.condition(), Condition::Writable);
                self.metrics.registry_writable.set(i64::from(writable));
                let ahead = self.clock.ahead().unwrap_or_default().as_secs();
                self.metrics.clock_ahead.set(i64::try_from(ahead).unwrap_or(i64::MAX));
                let mut response = plain(StatusCode::OK, self.metrics.encode());
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    header::HeaderValue::from_static(
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ),
                );
                response
            }
            path => revocation_lists(path, &self.lists.borrow()).unwrap_or_else(|| {
                plain(StatusCode::NOT_FOUND, "try /livez, /readyz, /metrics, /crl or /crl.pem\n".to_owned())
            }),
        }
    }
}

/// The answer at the paths of revocation lists. They are signed, so that it matters to nobody by what way they come (RFC 5280
/// §4.2.1.13). One list in DER, as RFC 2585 §4 has it; all of them in PEM, of which files for verifiers are made.
pub fn revocation_lists(path: &str, lists: &RevocationLists) -> Option<Response<Full<Bytes>>> {
    match path {
        "/crl" => Some(revocation_list(lists.ders.first().cloned(), "application/pkix-crl")),
        "/crl.pem" => {
            let all = Some(lists.pem.clone()).filter(|pem| !pem.is_empty());
            Some(revocation_list(all, "application/x-pem-file"))
        }
        _ => None,
    }
}

fn revocation_list(list: Option<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let Some(list) = list else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no revocation list yet\n".to_owned());
    };
    let mut response = Response::new(Full::new(list));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Asks `/readyz` at `address`: the answer's status and text.
///
/// # Errors
/// When nobody answers in time.
pub async fn probe(address: SocketAddr) -> std::io::Result<(StatusCode, String)> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        let request = Request::get("/readyz")
            .header(header::HOST, address.to_string())
            .body(Full::<Bytes>::default())
            .map_err(std::io::Error::other)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), 64 * 1024)
                .collect()
                .await
                .map_err(std::io::Error::other)?;
            Ok((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(std::io::Error::other(error)),
            },
        }
    };
    tokio::time::timeout(PROBE_DEADLINE, asked)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    /// From the same address even.
    #[tokio::test]
    async fn whoever_reads_slowly_keeps_no_probe_out() {
        let scratch = scratch().await;
        let control = &scratch.control;
        let lists = watch::Sender::default();
        let health = Health::new(
            Arc::clone(&control.store),
            Arc::clone(&control.authority),
            Arc::clone(&control.revocations),
            Arc::default(),
            lists.subscribe(),
            scratch.clock.clone(),
        );
        health.set_serving(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        control.tasks.spawn(health.serve(listener, control.stop.clone()));
        let mut slow = Vec::new();
        for _ in 0..2 * AT_ONCE {
            slow.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(probe(address).await.unwrap(), (StatusCode::OK, "ok".to_owned()));
        control.stop.cancel();
    }
}
