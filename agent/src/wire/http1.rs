//! HTTP/1.1 connections, kept for the next request.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use tokio::time::Instant;

use super::body::RequestBody;
use super::budget::{Budget, KeepsIdle};
use super::exchange::Link;
use super::strict::MAX_HEAD;

/// How long an idle connection is kept.
pub(super) const KEEP: Duration = Duration::from_secs(60);
/// How recently a link to an app must have been used to carry a request that cannot be sent twice: many servers close
/// after a few seconds without telling beforehand. Agents do not, except at the end of a certificate or of themselves.
const FRESH_TO_APP: Duration = Duration::from_secs(1);
const FRESH_TO_AGENT: Duration = KEEP;
/// The most idle links to one server.
const MAX_IDLE: usize = 256;

/// The idle links to one server; the last used is the first to be used again, so that few stay in use.
#[derive(Debug)]
pub(crate) struct LinkPool {
    /// The longest idle first.
    idle: Mutex<Vec<Idle>>,
    fresh: Duration,
    /// Where its links have their places.
    budget: Budget,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

impl LinkPool {
    /// No links to an app yet.
    pub(crate) fn to_app(budget: Budget) -> Arc<Self> {
        Self::new(FRESH_TO_APP, budget)
    }

    /// No links to an agent yet.
    pub(crate) fn to_agent(budget: Budget) -> Arc<Self> {
        Self::new(FRESH_TO_AGENT, budget)
    }

    fn new(fresh: Duration, budget: Budget) -> Arc<Self> {
        let pool = Arc::new(Self { idle: Mutex::default(), fresh, budget });
        pool.budget.lends_to(&pool);
        pool
    }

    /// An idle link on which this request may be risked, and whether it has been idle for so long that its server may
    /// be closing it just now.
    fn take(&self, request: &Request<RequestBody>) -> Option<(Link, bool)> {
        let now = Instant::now();
        loop {
            let Idle { mut link, since } = self.idle().pop()?;
            let is_stale = now.duration_since(since) >= self.fresh;
            if is_stale && !is_repeatable(request) {
                // The new link takes its place.
                return None;
            }
            if link.is_usable() {
                return Some((link, is_stale));
            }
        }
    }

    /// Keeps a link, if it can be used again and its place is not needed.
    pub(crate) fn put(&self, mut link: Link) {
        if !link.is_usable() || self.budget.is_scarce() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { link, since: Instant::now() });
        }
    }

    /// Closes links that nobody has used for long, and those that their servers have closed.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        self.idle().retain_mut(|idle| now.duration_since(idle.since) < KEEP && idle.link.is_usable());
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeepsIdle for LinkPool {
    fn idle_since(&self) -> Option<Instant> {
        self.idle().first().map(|idle| idle.since)
    }

    fn close_longest_idle(&self) -> bool {
        let mut idle = self.idle();
        let longest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        // Its place is free once it is dropped.
        longest.is_some()
    }
}

/// Why a request got no response. `E` is why no connection could be opened.
#[derive(Debug)]
pub(crate) enum SendError<E> {
    /// No connection could be opened.
    Connect(E, Request<RequestBody>),
    /// A new connection was closed before anything was sent.
    Unsent(hyper::Error, Request<RequestBody>),
    /// The connection broke after something had been sent.
    Broken(hyper::Error),
}

/// Sends a request over an idle link, or a new one. Sends it a second time only where nothing was sent the first time,
/// or where an idle link broke under a request that may be repeated.
///
/// # Errors
/// There is no response, and perhaps the request may be tried elsewhere.
pub(crate) async fn send<E, F, C>(
    pool: &LinkPool,
    mut request: Request<RequestBody>,
    connect: C,
) -> Result<(Response<Incoming>, Link), SendError<E>>
where
    C: Fn() -> F,
    F: Future<Output = Result<Link, E>>,
{
    if let Some((mut link, may_be_stale)) = pool.take(&request) {
        let second = may_be_stale.then(|| copy(&request));
        match link.send(request).await {
            Ok(response) => return Ok((response, link)),
            Err(failure) => match (failure.unsent, second) {
                (Some(unsent), _) => request = unsent,
                (None, Some(second)) if !failure.error.is_parse() => request = second,
                (None, _) => return Err(SendError::Broken(failure.error)),
            },
        }
    }
    let mut link = match connect().await {
        Ok(link) => link,
        Err(error) => return Err(SendError::Connect(error, request)),
    };
    match link.send(request).await {
        Ok(response) => Ok((response, link)),
        Err(failure) => Err(match failure.unsent {
            Some(unsent) => SendError::Unsent(failure.error, unsent),
            None => SendError::Broken(failure.error),
        }),
    }
}

/// How we serve HTTP/1.1.
pub(crate) fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // See `strict.rs`.
        .header_read_timeout(None)
        .max_buf_size(4 * MAX_HEAD)
        .max_header_size(4 * MAX_HEAD)
        // A caller that has sent its request and shut down its half still wants the answer.
        .half_close(true)
        // Dates are the app's.
        .auto_date_header(false);
    builder
}

/// Whether a request may be sent again without the caller knowing (RFC 9110 §9.2.2).
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    const IDEMPOTENT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];
    request.body().is_empty() && IDEMPOTENT.contains(request.method())
}

/// A second copy of a request without a body.
pub(super) fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
