//! Everything that goes to agents and comes from them once they are somebody: signed views, endpoints, questions;
//! acknowledgements, registrations, decisions.

mod close;
mod dismiss;
mod endpoints;
mod explain;
mod holding;
mod incoming;
mod metrics;
mod pace;
mod recall;
mod registration;
mod session;
#[cfg(test)]
mod tests;
mod turns;
mod workload_api;

use std::sync::Arc;

use futures_util::Stream;
use hauberk_proto::agent::v1::{self as agent, FromAgent, ToAgent};
use hauberk_tls::LiveIdentity;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::audit::Audit;
use crate::authority::epoch_of;
use crate::clock::Clock;
use crate::compile::Compilation;
use crate::enrollment::MOST_INSTANCES;
use crate::flows::Flows;
use crate::instances::{Instances, Peer};
use crate::jwt_svid::KeySet;
use crate::metrics::Metrics;
use crate::registry::{Store, StoreError};
use crate::resources::ResourceKey;
use crate::revocation::Denylist;
use crate::revocation::crl::RevocationLists;

pub use close::Close;
pub use endpoints::{EndpointSnapshot, Endpoints, TargetPort, UNCONFIRMED_FOR};
pub use explain::{ExplainError, Explained};
pub use incoming::ProtocolError;
pub use recall::{RulesSince, Undecidable};
pub use registration::{RegisteredPort, Registration, RegistrationError};

use metrics::PushMetrics;
use pace::Shares;
use turns::Turns;

/// Messages that wait for one agent's network before no more are made for it.
const OUTGOING_MESSAGES: usize = 8;

/// How many agents are sent away at once: all that a node has, when it is deleted. Each has ten seconds to say that it has
/// heard.
const DISMISSALS: usize = MOST_INSTANCES;

/// Decisions that all agents together may send in a second while somebody observes.
const DECISIONS_PER_SECOND: usize = 5_000;

/// What one agent may send of these at the most, and at the least.
const DECISIONS_PER_AGENT: std::ops::RangeInclusive<usize> = 5..=500;

/// What pushing needs.
pub struct PushParts {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// Refusals are recorded here.
    pub audit: Arc<Audit>,
    /// The instances there are, which this reads and keeps up.
    pub instances: Arc<Instances>,
    /// The time of day.
    pub clock: Clock,
    /// Who is refused.
    pub denylist: watch::Receiver<Arc<Denylist>>,
    /// The views as they stand.
    pub compilation: watch::Receiver<Arc<Compilation>>,
    /// Roots and view keys, as agents are told them.
    pub trust: watch::Receiver<Arc<agent::Trust>>,
    /// The keys that sign JWT-SVIDs.
    pub signing_keys: watch::Receiver<Arc<KeySet>>,
    /// The revocation lists; none before the first are signed.
    pub revocation_lists: watch::Receiver<Arc<RevocationLists>>,
    /// Issuers that may have keys which agents were not told.
    pub unknown_keys: mpsc::Sender<ResourceKey>,
    /// What peers are verified against.
    pub identity: LiveIdentity,
    /// Where figures are shown.
    pub metrics: Arc<Metrics>,
    /// Owns every task.
    pub tasks: TaskTracker,
    /// Ends every task.
    pub stop: CancellationToken,
}

/// All sessions and what they share.
pub struct Push {
    instances: Arc<Instances>,
    endpoints: Endpoints,
    flows: Flows,
    store: Arc<dyn Store>,
    audit: Arc<Audit>,
    clock: Clock,
    denylist: watch::Receiver<Arc<Denylist>>,
    compilation: watch::Receiver<Arc<Compilation>>,
    trust: watch::Receiver<Arc<agent::Trust>>,
    signing_keys: watch::Receiver<Arc<KeySet>>,
    revocation_lists: watch::Receiver<Arc<RevocationLists>>,
    unknown_keys: mpsc::Sender<ResourceKey>,
    identity: LiveIdentity,
    metrics: PushMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Streams that have not said Hello.
    arriving: Arc<Turns>,
    /// Streams of those who are sent away.
    leaving: Arc<Turns>,
    shares: Shares,
}

impl Push {
    /// Reads what is remembered of instances, endpoints and denials, and begins to keep it up.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn start(parts: PushParts) -> Result<Arc<Self>, StoreError> {
        let PushParts {
            store,
            audit,
            instances,
            clock,
            denylist,
            compilation,
            trust,
            signing_keys,
            revocation_lists,
            unknown_keys,
            identity,
            metrics,
            tasks,
            stop,
        } = parts;
        let version = instances.load(&*store).await?;
        let epoch = epoch_of(&*store).await?;
        let push = Arc::new(Self {
            instances,
            endpoints: Endpoints::load(&*store).await?,
            flows: Flows::load(&*store).await?,
            store,
            audit,
            clock,
            denylist,
            compilation,
            trust,
            signing_keys,
            revocation_lists,
            unknown_keys,
            identity,
            metrics: PushMetrics::new(&metrics),
            tasks,
            stop,
            arriving: Turns::new(usize::MAX),
            leaving: Turns::new(DISMISSALS),
            shares: Shares::new(),
        });
        let upkeep = Arc::clone(&push);
        push.tasks.spawn(async move {
            let Self { instances, endpoints, flows, store, clock, stop, .. } = &*upkeep;
            tokio::join!(
                instances.follow(&**store, version, clock, stop),
                instances.write_trust(&**store, epoch, stop),
                endpoints.run(&**store, stop),
                flows.run(&**store, clock, stop),
            );
        });
        Ok(push)
    }

    /// Begins a session. It lives until the peer goes, its certificate expires, a newer stream of the same instance
    /// comes, or the control plane stops.
    pub fn accept<S>(self: &Arc<Self>, peer: Peer, incoming: S) -> mpsc::Receiver<Result<ToAgent, Status>>
    where
        S: Stream<Item = Result<FromAgent, Status>> + Send + Unpin + 'static,
    {
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MESSAGES);
        self.tasks.spawn(session::run(Arc::clone(self), peer, incoming, outgoing));
        receiver
    }

    /// The instances there are.
    pub fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// Their registered endpoints.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What they decide.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The views as they stand, and their changes.
    pub fn compilation(&self) -> watch::Receiver<Arc<Compilation>> {
        self.compilation.clone()
    }

    /// The revocation lists as they stand.
    pub fn revocation_lists(&self) -> Arc<RevocationLists> {
        Arc::clone(&self.revocation_lists.borrow())
    }

    /// Cancelled when the control plane stops, which streams of others end with too.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// What one agent may send while somebody observes.
    fn decisions_per_second(&self) -> u32 {
        let share = DECISIONS_PER_SECOND / self.instances.connected().max(1);
        let share = share.clamp(*DECISIONS_PER_AGENT.start(), *DECISIONS_PER_AGENT.end());
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}
