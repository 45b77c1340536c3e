//! Connections to the app beside us.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hauberk_identity::SpiffeId;
use tokio::net::TcpStream;

use super::admit::Guest;
use super::limits::InUse;
use super::listener::Port;
use crate::wire::budget::SocketPlace;
use crate::wire::http2::MultiplexedPool;
use crate::wire::socket::{self, ConnectError};

/// How long the app may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// The HTTP/2 connections to the app, apart for each identity that calls. Streams on one connection share its window and
/// the app's limit of streams, so that a caller who reads no answers, or ends no requests, holds up itself only.
#[derive(Debug, Default)]
pub(super) struct PoolsByCaller(Mutex<HashMap<SpiffeId, Weak<MultiplexedPool>>>);

impl PoolsByCaller {
    /// The connections for this one, which end when none of its own is left.
    pub(super) fn of(&self, identity: &SpiffeId) -> Arc<MultiplexedPool> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(identity).and_then(Weak::upgrade) {
            return pool;
        }
        // Before more room is made for them, those that are no longer there are forgotten.
        if pools.len() == pools.capacity() {
            pools.retain(|_, pool| pool.strong_count() > 0);
        }
        let pool = Arc::default();
        pools.insert(identity.clone(), Arc::downgrade(&pool));
        pool
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// The peer has as many as one identity may. The fault is the peer's.
    TooManyOfOne,
    /// There is no socket, or nobody answers. The fault is ours, or the app's.
    Failed(ConnectError),
}

impl NoConnection {
    /// The name that the caller is told.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::TooManyOfOne => "too_many_of_one_identity",
            Self::Failed(ConnectError::NoPlace) => "too_many_app_connections",
            Self::Failed(ConnectError::Refused(_)) => "app_unreachable",
        }
    }

    /// Tells whoever runs the app.
    pub(super) fn log(&self, port: &Port) {
        let (event, port, app) = (self.as_str(), port.number, port.app);
        match self {
            Self::TooManyOfOne => tracing::debug!(event, port, %app),
            Self::Failed(error) => tracing::warn!(event, port, %app, %error),
        }
    }
}

/// Opens a connection.
pub(super) async fn dial(port: &Port) -> Result<(TcpStream, SocketPlace), NoConnection> {
    socket::connect_within(&port.to_app, port.app, PATIENCE).await.map_err(NoConnection::Failed)
}

/// Opens a connection for a stream of `guest`'s own. Its places go with it.
pub(super) async fn dial_for(
    guest: &Guest,
    port: &Port,
) -> Result<(TcpStream, (InUse, SocketPlace)), NoConnection> {
    let in_use = guest.use_one()?;
    let (stream, place) = dial(port).await?;
    Ok((stream, (in_use, place)))
}
