//! HTTP/2 connections: their limits, and the few that are kept to one server.

use std::future::Future;
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
use super::http1::{KEEP, SendError};
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
    idle_since: Instant,
}

/// Counts one stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamLease(Streams);

/// What sends one request, and what counts it.
type Stream = (client::SendRequest<RequestBody>, StreamLease);

/// The HTTP/2 connections to one server.
#[derive(Debug)]
pub(crate) struct MultiplexedPool {
    open: Mutex<Vec<Multiplexed>>,
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
        Ok((self.sender.clone(), StreamLease(self.streams.clone())))
    }

    /// Since when no stream is left. None also where the server has closed it: it has no place any more.
    fn idle_since(&self) -> Option<Instant> {
        let streams = self.streams.lock();
        (streams.count == 0 && !self.sender.is_closed()).then_some(streams.idle_since)
    }
}

impl Streams {
    fn none() -> Self {
        Self(Arc::new(Mutex::new(UnderWay { count: 0, in_use: None, idle_since: Instant::now() })))
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
        let pool = Arc::new(Self { open: Mutex::default(), opening: tokio::sync::Mutex::default() });
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
    request: Request<RequestBody>,
    claim: impl Fn() -> Result<Option<InUse>, E>,
    connect: C,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>>
where
    C: Fn() -> F,
    F: Future<Output = Result<Multiplexed, E>>,
{
    let request = match pool.take(&claim, true) {
        Ok(Some(stream)) => match send_on(stream, request).await {
            // It has just been closed.
            Err(SendError::Unsent(_, unsent)) => unsent,
            done => return done,
        },
        Ok(None) | Err(_) => request,
    };
    let opening = pool.opening.lock().await;
    let obtained = match pool.take(&claim, true) {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => open_one(pool, &claim, connect).await,
        Err(error) => Err(error),
    };
    let stream = match obtained {
        Ok(stream) => stream,
        Err(error) => match pool.take(&claim, false) {
            Ok(Some(stream)) => stream,
            Ok(None) | Err(_) => return Err(SendError::Connect(error, request)),
        },
    };
    drop(opening);
    send_on(stream, request).await
}

async fn open_one<E, F, C>(
    pool: &MultiplexedPool,
    claim: impl Fn() -> Result<Option<InUse>, E>,
    connect: C,
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
    (mut sender, lease): Stream,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>> {
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, lease)),
        Err(mut failure) => Err(match failure.take_message() {
            Some(unsent) => SendError::Unsent(failure.into_error(), unsent),
            None => SendError::Broken(failure.into_error()),
        }),
    }
}
