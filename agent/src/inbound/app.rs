//! Connections to the app beside us.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::SpiffeId;
use tokio::net::TcpStream;

use super::admit::Guest;
use super::listener::Port;
use crate::wire::budget::{Budget, InUse, SocketPlace};
use crate::wire::http2::MultiplexedPool;
use crate::wire::socket::{self, ConnectError};

/// How long the app may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// The HTTP/2 connections to the app, apart for each identity that calls. Streams on one connection share its window
/// and the app's limit of streams, so that a caller who reads no answers, or ends no requests, holds up itself only.
#[derive(Debug)]
pub(super) struct PoolsByCaller {
    by_caller: Mutex<HashMap<SpiffeId, Arc<MultiplexedPool>>>,
    /// Where their connections have their places.
    budget: Budget,
}

impl PoolsByCaller {
    /// No connections yet.
    pub(super) fn new(budget: Budget) -> Self {
        Self { by_caller: Mutex::default(), budget }
    }

    /// The connections for this one. They are kept for a while when it has left, since it may come back.
    pub(super) fn of(&self, identity: &SpiffeId) -> Arc<MultiplexedPool> {
        let mut pools = self.by_caller();
        if let Some(pool) = pools.get(identity) {
            return Arc::clone(pool);
        }
        let pool = MultiplexedPool::new(&self.budget);
        pools.insert(identity.clone(), Arc::clone(&pool));
        pool
    }

    /// Closes connections that nobody has used for long. Forgets whoever has left and has none, or may keep none.
    pub(super) fn prune(&self) {
        let may_keep = !self.budget.is_scarce();
        self.by_caller().retain(|_, pool| pool.prune() && may_keep || Arc::strong_count(pool) > 1);
    }

    fn by_caller(&self) -> MutexGuard<'_, HashMap<SpiffeId, Arc<MultiplexedPool>>> {
        self.by_caller.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_left_without_connections_is_forgotten() {
        let pools = PoolsByCaller::new(Budget::of(4));
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.local/workload/{name}")).unwrap();
        let (web, _) = (pools.of(&id("web")), pools.of(&id("other")));
        pools.prune();
        assert!(Arc::ptr_eq(&web, &pools.of(&id("web"))));
        assert_eq!(pools.by_caller().len(), 1);
    }
}
