//! Traffic from the app beside us to services of the mesh, and out of it.
//!
//! Apps reach us on loopback: by HTTP, where the host names a virtual service, or by TCP, on a port bound to one. A
//! request is routed (`route.rs`), given to one of the service's endpoints (`balance.rs`), and sent over a connection
//! to that endpoint's agent, which must prove to be exactly who is expected (`peer.rs`). What leaves the mesh is
//! decided here (`egress/mod.rs`).

mod app_socket;
mod balance;
mod call;
mod connect;
mod egress;
mod http;
mod listener;
mod peer;
mod prove;
mod route;
mod tcp;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::Connections;
use crate::wire::budget::Budget;
use crate::wire::tasks::Tasks;
use balance::Balancer;

pub use listener::TcpService;

/// How often idle connections are looked after.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// What all outbound listeners share: the endpoints in use, and the connections to them.
#[derive(Debug)]
pub struct Outbound {
    connections: Arc<Connections>,
    balancer: Balancer,
    /// The places of connections out of the mesh, among those to other agents.
    outside: Budget,
    /// The places of connections of local apps.
    from_apps: Budget,
    tracker: TaskTracker,
    tasks: Tasks,
    started: Instant,
}

impl Outbound {
    /// No connections yet, and never more than so many from apps and to other agents.
    pub fn new(connections: Arc<Connections>, from_apps: usize, to_agents: usize) -> Arc<Self> {
        let tracker = TaskTracker::new();
        let to_agents = Budget::of(to_agents);
        let tasks = Tasks::new(tracker.clone());
        Arc::new(Self {
            connections,
            balancer: Balancer::new(to_agents.clone()),
            outside: to_agents,
            from_apps: Budget::of(from_apps),
            tracker,
            tasks,
            started: Instant::now(),
        })
    }

    /// Closes idle connections that have served, and proves renewed certificates on those that stay, until `stop`.
    pub async fn maintain(&self, stop: CancellationToken) {
        let prune = async {
            let mut tick = tokio::time::interval(PRUNE_EVERY);
            loop {
                tick.tick().await;
                self.balancer.prune();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = prune => {}
            () = prove::keep_proved(&self.connections) => {}
        }
    }

    /// Milliseconds since this was made, by which endpoints are let rest.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
