//! Serving gRPC on verified connections.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::listener::{Doors, Listening};
use crate::access::AccessLayer;

/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// The largest header list of a request, in bytes.
const HEADER_BYTES: u32 = 16 * 1024;

/// How many calls a connection without a certificate may have open: it needs one.
const CALLS_OF_STRANGERS: u32 = 4;

/// How many bytes of one call, and of all calls of a connection, wait here unread.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// The same where the peer has proved nothing: what it may make us hold must be little.
const WINDOWS_OF_STRANGERS: (u32, u32) = (32 * 1024, 64 * 1024);

/// How many streams a peer may reset before they were looked at, until its connection is closed.
const PENDING_RESETS: usize = 20;

/// How many connections may wait between handshake and server.
const WAITING_CONNECTIONS: usize = 16;

/// Serves `routes` behind the access layer until `stop`; then takes nothing new and returns once what is under way has
/// ended. That may take for ever: the caller sets a deadline.
///
/// # Errors
/// When the server itself fails; single connections do not end it.
pub async fn serve(
    listening: Listening,
    routes: Routes,
    access: AccessLayer,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (known, of_known) = mpsc::channel(WAITING_CONNECTIONS);
    let (strangers, of_strangers) = mpsc::channel(WAITING_CONNECTIONS);
    let deadlines = listening.deadlines;
    let to_known = builder(listening.limits.calls, WINDOWS)
        .timeout(deadlines.call)
        .layer(access.clone())
        .add_routes(routes.clone())
        .serve_with_incoming_shutdown(ReceiverStream::new(of_known), stop.clone().cancelled_owned());
    let to_strangers = builder(CALLS_OF_STRANGERS, WINDOWS_OF_STRANGERS)
        .timeout(deadlines.call_of_stranger)
        .layer(access)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(of_strangers), stop.clone().cancelled_owned());
    let accepting = listening.accept(Doors { known, strangers }, stop);
    let (to_known, to_strangers, ()) = tokio::join!(to_known, to_strangers, accepting);
    to_known.and(to_strangers)
}

/// A server with the limits that all our servers have. A connection has at most so many calls open, and at most so many
/// bytes wait unread of one call and of them all.
pub(super) fn builder(calls: u32, (of_call, of_connection): (u32, u32)) -> Server {
    Server::builder()
        .initial_stream_window_size(of_call)
        .initial_connection_window_size(of_connection)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .max_concurrent_streams(calls)
}
