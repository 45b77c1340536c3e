//! What the data path knows of the mesh: snapshots that are replaced whole and read without a lock.
//!
//! `sync/` writes here, `inbound/` and `outbound/` read.

mod applied;
mod denylist;
mod dns;
mod endpoints;
mod external;
mod inbound;
mod issuers;
mod service;
mod services;
mod stamp;
mod unknown_keys;

use std::sync::Arc;

use tokio::sync::watch;

pub use applied::Applied;
pub use denylist::{Denial, Denied, Denylist, MintedFor};
pub use endpoints::{Endpoint, EndpointSet, Endpoints};
pub use external::{External, OwnSockets, canonical_host};
pub use inbound::{ClosedReason, Inbound, InboundGate, NodeView, Port};
pub use issuers::Issuers;
pub use service::{Service, ServicePort, Target};
pub use services::{Services, Unknown, WantedChange};
pub use stamp::ViewStamp;
pub use unknown_keys::UnknownKeys;

/// All of it, shared by every task of the agent.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Whether and by which view inbound traffic is decided. Only `sync/`, `renew.rs` and `state/` write.
    pub gate: Arc<InboundGate>,
    /// The services that local apps may call.
    pub services: Arc<Services>,
    /// Where the instances of their targets are.
    pub endpoints: Arc<Endpoints>,
    /// How far live traffic has been brought in line with [`Mesh::inbound`].
    pub applied: Arc<Applied>,
    /// Who is refused everywhere.
    pub denied: Arc<Denied>,
    /// Whose tokens name keys of which we were not told.
    pub unknown_keys: Arc<UnknownKeys>,
    /// By which authorities' certificates programs beside us live.
    pub issuers: Arc<Issuers>,
    /// What this agent listens on.
    pub own_sockets: Arc<OwnSockets>,
}

impl Mesh {
    /// A mesh of which nothing is known yet: inbound is closed, no service is known.
    pub fn new() -> Self {
        let endpoints = Arc::new(Endpoints::new());
        Self {
            gate: Arc::new(InboundGate::new()),
            services: Arc::new(Services::new(Arc::clone(&endpoints))),
            endpoints,
            applied: Arc::new(Applied::new()),
            denied: Arc::new(Denied::new()),
            unknown_keys: Arc::default(),
            issuers: Arc::default(),
            own_sockets: Arc::default(),
        }
    }

    /// What decides inbound traffic, now and at each change.
    pub fn inbound(&self) -> watch::Receiver<Arc<Inbound>> {
        self.gate.subscribe()
    }

    /// Why nothing may be sent out, where that is so. Takes no lock.
    pub fn ends_outbound(&self) -> Option<ClosedReason> {
        self.gate.ends_outbound()
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}
