//! HTTP/2 connections: their limits, and the few that are kept to one server.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::body::RequestBody;
use super::cuttable::Cuttable;
use super::http1::SendError;
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

/// An HTTP/2 connection to a server, driven by a task of its own.
#[derive(Debug, Clone)]
pub(crate) struct Multiplexed {
    sender: client::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    /// Fires when nothing new should be sent on it.
    retired: CancellationToken,
}

/// Counts one stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamLease(Arc<AtomicUsize>);

/// The HTTP/2 connections to one server.
#[derive(Debug, Default)]
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
        Ok(Self { sender, streams: Arc::default(), retired })
    }

    /// What sends one request, and what counts it.
    fn stream(&self) -> (client::SendRequest<RequestBody>, StreamLease) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), StreamLease(Arc::clone(&self.streams)))
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MultiplexedPool {
    /// The least busy connection, unless one more should be opened.
    fn take(&self) -> Option<Multiplexed> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.sender.is_closed() && !connection.retired.is_cancelled());
        let busy = |connection: &&Multiplexed| connection.streams.load(Ordering::Relaxed);
        let least = open.iter().min_by_key(busy)?;
        (busy(&least) < SPREAD_FROM || open.len() >= MAX_CONNECTIONS).then(|| least.clone())
    }

    /// Keeps a connection.
    fn put(&self, connection: Multiplexed) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// Sends a request as one stream of a connection, which is opened where there is none with room.
///
/// # Errors
/// There is no response, and perhaps the request may be tried elsewhere.
pub(crate) async fn send<E, F, C>(
    pool: &MultiplexedPool,
    request: Request<RequestBody>,
    connect: C,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>>
where
    C: Fn() -> F,
    F: Future<Output = Result<Multiplexed, E>>,
{
    let request = match pool.take() {
        Some(connection) => match send_on(&connection, request).await {
            // It has just been closed.
            Err(SendError::Unsent(_, unsent)) => unsent,
            done => return done,
        },
        None => request,
    };
    let opening = pool.opening.lock().await;
    let connection = match pool.take() {
        Some(connection) => connection,
        None => match connect().await {
            Ok(connection) => {
                pool.put(connection.clone());
                connection
            }
            Err(error) => return Err(SendError::Connect(error, request)),
        },
    };
    drop(opening);
    send_on(&connection, request).await
}

async fn send_on<E>(
    connection: &Multiplexed,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, StreamLease), SendError<E>> {
    let (mut sender, lease) = connection.stream();
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, lease)),
        Err(mut failure) => Err(match failure.take_message() {
            Some(unsent) => SendError::Unsent(failure.into_error(), unsent),
            None => SendError::Broken(failure.into_error()),
        }),
    }
}
