//! HTTP/2 connections: their limits, and the few that are kept to one server.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::RequestBody;
use super::budget::{Budget, InUse, KeepsIdle};
use super::cuttable::Cuttable;
use super::http1::{KEEP, SendError, copy};
use super::strict::MAX_HEAD;
use super::tasks::Tasks;
use super::transport::Transport;
use crate::connections::Registered;

/// Streams at once on one connection that a caller may open.
const MAX_STREAMS: u32 = 256;
/// Bytes that may be under way on one stream, and on all streams of a connection together.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Streams that a caller may reset before they were looked at (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 32;
/// Bytes of one stream that wait to be written before its sender must wait. Callers who open many streams and read none
/// make us hold that much for each.
const SEND_BUFFER: usize = 256 << 10;
const SEND_BUFFER_TO_CALLER: usize = 64 << 10;
/// After how long a silent connection is asked whether it lives, and how long it may take to say so.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Streams on each connection to a server before another is opened, and the most connections.
const SPREAD_FROM: usize = 100;
const MAX_CONNECTIONS: usize = 4;
/// How often a request is sent that the server has not looked at: a connection that is going may be found twice.
const MAX_TRIES: usize = 3;

/// How we serve HTTP/2.
pub(crate) fn server(tasks: Tasks) -> server::Builder<Tasks> {
    let mut builder = server::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_TO_CALLER)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_PATIENCE)
        .auto_date_header(false);
    builder
}

/// An HTTP/2 connection to a server, driven by a task of its own, which ends when this is dropped and no stream is
/// left.
#[derive(Debug)]
pub(crate) struct Multiplexed {
    sender: client::SendRequest<RequestBody>,
    streams: Streams,
    /// Fires when nothing new should be sent on it.
    retired: CancellationToken,
}

/// The streams of one connection.
#[derive(Debug, Clone)]
struct Streams(Arc<Mutex<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    count: usize,
    /// Counts the connection for whoever uses it, while there are streams.
    in_use: Option<InUse>,
    /// An answer has come on it, and before that what its server allows.
    has_answered: bool,
    idle_since: Instant,
}

/// Counts one stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamLease(Streams);

/// What sends one request, and what counts it.
struct Stream {
    sender: client::SendRequest<RequestBody>,
    lease: StreamLease,
    /// Its connection has answered nothing yet.
    is_first: bool,
}

/// The HTTP/2 connections to one server.
#[derive(Debug)]
pub(crate) struct MultiplexedPool {
    open: Mutex<Vec<Multiplexed>>,
    /// The server has refused a stream before: from then on what can be sent again is kept. It would be a copy for
    /// nothing with all others.
    refuses: AtomicBool,
    /// Held while a connection is opened, so that the many who need one wait for the same.
    opening: tokio::sync::Mutex<()>,
}

impl Multiplexed {
    /// Speaks HTTP/2 over a stream. `lease` is its place in the registry, if it goes to another agent.
    ///
    /// # Errors
    /// The stream broke.
    pub(crate) async fn open(
        transport: Transport,
        tasks: &Tasks,
        lease: Option<Registered>,
    ) -> hyper::Result<Self> {
        let mut builder = client::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_PATIENCE);
        let retired = lease.as_ref().map(|lease| lease.connection().retired().clone()).unwrap_or_default();
        let stream = Cuttable::new(transport, lease);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tasks.spawn(async move {
            // What went wrong reaches the streams.
            let _ = connection.await;
        });
        Ok(Self { sender, streams: Streams::none(), retired })
    }

    /// Begins a stream. Where it is the first, `claim` says whether the connection may be used.
    fn begin<E>(&self, claim: impl FnOnce() -> Result<Option<InUse>, E>) -> Result<Stream, E> {
        let mut streams = self.streams.lock();
        if streams.count == 0 {
            streams.in_use = claim()?;
        }
        streams.count += 1;
        let (sender, lease) = (self.sender.clone(), StreamLease(self.streams.clone()));
        Ok(Stream { sender, lease, is_first: !streams.has_answered })
    }

    /// Since when no stream is left. None also where the server has closed it: it has no place any more.
    fn idle_since(&self) -> Option<Instant> {
        let streams = self.streams.lock();
        (streams.count == 0 && !self.sender.is_closed()).then_some(streams.idle_since)
    }
}

impl Streams {
    fn none() -> Self {
        let (in_use, idle_since) = (None, Instant::now());
        Self(Arc::new(Mutex::new(UnderWay { count: 0, in_use, has_answered: false, idle_since })))
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        let mut streams = self.0.lock();
        streams.count = streams.count.saturating_sub(1);
        if streams.count == 0 {
            streams.in_use = None;
            streams.idle_since = Instant::now();
        }
    }
}

impl MultiplexedPool {
    /// No connections yet. They have their places in `budget`.
    pub(crate) fn new(budget: &Budget) -> Arc<Self> {
        let pool = Arc::new(Self {
            open: Mutex::default(),
            refuses: AtomicBool::default(),
            opening: tokio::sync::Mutex::default(),
        });
        budget.lends_to(&pool);
        pool
    }

    /// A stream on the least busy connection of those that `claim` allows. None where another should be opened: all are
    /// busy, and there `may_be_more`.
    fn take<E>(
        &self,
        claim: impl Fn() -> Result<Option<InUse>, E>,
        may_be_more: bool,
    ) -> Result<Option<Stream>, E> {
        let mut open = self.open();
        open.retain(|connection| !connection.sender.is_closed() && !connection.retired.is_cancelled());
        let may_be_more = may_be_more && open.len() < MAX_CONNECTIONS;
        let mut outcome = Ok(None);
        // Only what nobody uses may be refused, and all of that for the same reason.
        for least in [0, 1] {
            let counted = open.iter().map(|connection| (connection.streams.lock().count, connection));
            let usable = counted.filter(|(count, _)| *count >= least);
            let Some((count, connection)) = usable.min_by_key(|(count, _)| *count) else { break };
            if may_be_more && count >= SPREAD_FROM {
                break;
            }
            outcome = connection.begin(&claim).map(Some);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Keeps a new connection, and begins a stream on it.
    fn put<E>(&self, connection: Multiplexed, in_use: Option<InUse>) -> Result<Stream, E> {
        let stream = connection.begin(|| Ok(in_use));
        self.open().push(connection);
        stream
    }

    /// Closes connections that nobody has used for long, and forgets those that the server has closed. Whether any is
    /// left.
    pub(crate) fn prune(&self) -> bool {
        let now = Instant::now();
        let mut open = self.open();
        open.retain(|connection| {
            let is_old = connection.idle_since().is_some_and(|since| now.duration_since(since) >= KEEP);
            !is_old && !connection.sender.is_closed()
        });
        !open.is_empty()
    }

    /// Streams begin under this lock only.
    fn open(&self) -> MutexGuard<'_, Vec<Multiplexed>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeepsIdle for MultiplexedPool {
    fn idle_since(&self) -> Option<Instant> {
        self.open().iter().filter_map(Multiplexed::idle_since).min()
    }

    fn close_longest_idle(&self) -> bool {
        let mut open = self.open();
        let idle =
            open.iter().enumerate().filter_map(|(at, connection)| Some((connection.idle_since()?, at)));
        let longest = idle.min().map(|(_, at)| open.swap_remove(at));
        longest.is_some()
    }
}

/// Sends a request as one stream of a connection, which is opened where there is none with room. `claim` counts one
/// that nobody uses as in use, or says why it may not be. Where it may not, or none can be opened, one that is in use
/// must do.
///
/// # Errors
/// There is no response, and perhaps the request may be tried elsewhere.
pub(crate) async fn send<E, F, C>(
    pool: &MultiplexedPool,
    mut request: Request<RequestBody>,
    claim: impl Fn() -> Result<Option<InUse>, E>,
    connect: C,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>>
where
    C: Fn() -> F,
    F: Future<Output = Result<Multiplexed, E>>,
{
    let mut tries = 1;
    loop {
        let stream = match obtain(pool, &claim, &connect).await {
            Ok(stream) => stream,
            Err(error) => return Err(SendError::Connect(error, request)),
        };
        match send_on(pool, stream, request).await {
            // The connection has just been closed, or is going.
            Err(SendError::Unsent(_, unsent)) if tries < MAX_TRIES => request = unsent,
            done => return done,
        }
        tries += 1;
    }
}

async fn obtain<E, F, C>(
    pool: &MultiplexedPool,
    claim: &impl Fn() -> Result<Option<InUse>, E>,
    connect: &C,
) -> Result<Stream, E>
where
    C: Fn() -> F,
    F: Future<Output = Result<Multiplexed, E>>,
{
    if let Ok(Some(stream)) = pool.take(claim, true) {
        return Ok(stream);
    }
    let _opening = pool.opening.lock().await;
    let obtained = match pool.take(claim, true) {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => open_one(pool, claim, connect).await,
        Err(error) => Err(error),
    };
    obtained.or_else(|error| match pool.take(claim, false) {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) | Err(_) => Err(error),
    })
}

async fn open_one<E, F, C>(
    pool: &MultiplexedPool,
    claim: impl Fn() -> Result<Option<InUse>, E>,
    connect: &C,
) -> Result<Stream, E>
where
    C: Fn() -> F,
    F: Future<Output = Result<Multiplexed, E>>,
{
    let in_use = claim()?;
    let connection = connect().await?;
    pool.put(connection, in_use)
}

async fn send_on<E>(
    pool: &MultiplexedPool,
    Stream { mut sender, lease, is_first }: Stream,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>> {
    let may_be_refused = is_first || pool.refuses.load(Ordering::Relaxed);
    let second = (may_be_refused && request.body().is_empty()).then(|| copy(&request));
    let mut failure = match sender.try_send_request(request).await {
        Ok(response) => {
            if is_first {
                lease.0.lock().has_answered = true;
            }
            return Ok((response, lease));
        }
        Err(failure) => failure,
    };
    let unsent = failure.take_message();
    let error = failure.into_error();
    let is_refused = is_refused(&error);
    if is_refused {
        pool.refuses.store(true, Ordering::Relaxed);
    }
    match unsent.or(second.filter(|_| is_refused)) {
        Some(unsent) => Err(SendError::Unsent(error, unsent)),
        None => Err(SendError::Broken(error)),
    }
}

/// Whether the server says that it has looked at nothing of the request, which may be sent again whatever it is (RFC
/// 9113 §8.7): by a GOAWAY for the streams before this one, or by a reset.
fn is_refused(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let is_so = |cause: &h2::Error| cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    cause.is_some_and(|cause| cause.is_remote() && is_so(cause))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;
    use tokio_util::task::TaskTracker;

    use super::*;

    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

    const HEADERS: u8 = 1;

    /// The kind of the next frame.
    async fn kind_of_next(stream: &mut TcpStream) -> u8 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, ..] = head;
        let mut content = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut content).await.unwrap();
        kind
    }

    /// Goes away from its first connection without having looked at anything. On the next one it refuses each request
    /// that comes after one it has answered.
    async fn refusing_server(tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            first.write_all(SETTINGS).await.unwrap();
            first.read_exact(&mut [0; 24]).await.unwrap();
            while kind_of_next(&mut first).await != HEADERS {}
            first.write_all(GOAWAY).await.unwrap();
            let (second, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(second).await.unwrap();
            let mut number = 0;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                match number % 2 {
                    0 => drop(respond.send_response(Response::new(()), true).unwrap()),
                    _ => respond.send_reset(h2::Reason::REFUSED_STREAM),
                }
                number += 1;
            }
        });
        address
    }

    #[tokio::test]
    async fn what_a_server_has_not_looked_at_is_sent_again() {
        let mut serving = JoinSet::new();
        let address = refusing_server(&mut serving).await;
        let (budget, tasks) = (Budget::of(4), Tasks::new(TaskTracker::new()));
        let pool = MultiplexedPool::new(&budget);
        let connect = || async {
            let stream = TcpStream::connect(address).await.unwrap();
            let transport = Transport::plain(stream, budget.take_free().unwrap());
            Ok::<_, Infallible>(Multiplexed::open(transport, &tasks, None).await.unwrap())
        };
        for number in 0..6 {
            let request = Request::get("http://orders/").body(RequestBody::empty()).unwrap();
            let sent = send(&pool, request, || Ok(None), connect).await;
            assert!(sent.is_ok(), "{number}: {:?}", sent.err());
        }
    }
}
