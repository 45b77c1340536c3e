//! Serving gRPC on verified connections.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::listener::Listening;
use crate::access::AccessLayer;

/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// The largest header list of a request, in bytes.
const HEADER_BYTES: u32 = 16 * 1024;

/// How many calls one connection may have open.
const CONCURRENT_CALLS: u32 = 256;

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
    let (connections, accepted) = mpsc::channel(WAITING_CONNECTIONS);
    let serving = builder()
        .layer(access)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.clone().cancelled_owned());
    let (served, ()) = tokio::join!(serving, listening.accept(connections, stop));
    served
}

/// A server with the limits that all our servers have.
pub(super) fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .max_concurrent_streams(CONCURRENT_CALLS)
}
