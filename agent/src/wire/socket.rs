//! How sockets are set up, and how connections are named.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::TcpStream;

use super::budget::{Budget, SocketPlace};

/// The label under which both ends of a TLS connection derive its name (RFC 8446 §7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-hauberk-prove";

const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// There is no socket to be had for a connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    /// We may open no more of its kind.
    #[error(
        "this agent has as many connections of this kind as its limit of open files allows; \
         close some, or raise the limit (ulimit -n)"
    )]
    NoPlace,
    /// Nobody listens there, or nobody answers in time.
    #[error(transparent)]
    Refused(#[from] io::Error),
}

/// Sends small writes at once, and finds out when the other side is gone for good.
pub(crate) fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_RETRIES);
    let outcome = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = outcome {
        // It works without, and if the peer is gone already the next read tells.
        tracing::debug!(event = "socket_option_failed", %error);
    }
}

/// Connects within `patience`, if a place is free, or that of a connection which nobody uses.
///
/// # Errors
/// No place is free, nobody listens there, or nobody answers in time.
pub(crate) async fn connect_within(
    budget: &Budget,
    address: SocketAddr,
    patience: Duration,
) -> Result<(TcpStream, SocketPlace), ConnectError> {
    let taking = tokio::time::timeout(patience, budget.take());
    let place = taking.await.ok().flatten().ok_or(ConnectError::NoPlace)?;
    Ok((connect(address, patience).await?, place))
}

/// Connects within `patience`.
///
/// # Errors
/// Nobody listens there, or nobody answers in time.
pub(crate) async fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    prepare(&stream);
    Ok(stream)
}
