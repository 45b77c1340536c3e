//! Decisions that agents send up: the first denial of each kind always, everything while somebody observes, and how often
//! what was decided.

mod filter;
mod kept;
mod observers;
mod recorded;
mod unrecorded;
mod would_deny;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as agent;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::registry::{Store, StoreError};

pub use filter::Filter;
pub use kept::KeptDecision;
pub use observers::{Observation, TooManyObservers};
pub(crate) use recorded::decisions;
pub use recorded::{NodeRecord, REMEMBERED_FOR, Recorded};
pub use would_deny::{Auditing, Tally, WouldDenials};

use kept::Kept;
use observers::Observers;

/// The largest decision that is kept, in encoded bytes: a path of 8 KiB and the rest.
const MAX_DECISION_BYTES: usize = 12 * 1024;

/// How often what is too old is looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(300);

/// The decisions that are known, and those who watch them come.
#[derive(Debug)]
pub struct Flows {
    kept: Mutex<Kept>,
    unwritten: Notify,
    observers: Arc<Observers>,
    recorded: Recorded,
    would_denials: WouldDenials,
}

impl Flows {
    /// Reads the denials that were kept before the control plane started.
    ///
    /// # Errors
    /// When the store cannot be read. A record that does not parse is left out, and said so.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let kept = Mutex::new(Kept::load(store).await?);
        Ok(Self {
            kept,
            unwritten: Notify::new(),
            observers: Arc::default(),
            recorded: Recorded::load(store).await?,
            would_denials: WouldDenials::load(store).await?,
        })
    }

    /// Takes what the instance of `node` sent. Gives the number of decisions that are not its own to report, which
    /// are left out.
    pub fn record(
        &self,
        node: &SpiffeId,
        instance: InstanceId,
        batch: agent::Decisions,
        now: UnixMillis,
    ) -> usize {
        let agent::Decisions { mut decisions, dropped } = batch;
        let sent = decisions.len();
        decisions.retain(|decision| is_own(decision, node, instance));
        let foreign = sent - decisions.len();
        let mut must_write = false;
        {
            let mut kept = self.kept();
            for decision in decisions.iter().filter(|decision| !decision.id.is_empty()) {
                must_write |= kept.keep(instance, decision, now);
            }
        }
        if must_write {
            self.unwritten.notify_one();
        }
        self.observers.offer(&decisions, dropped);
        foreign
    }

    /// Takes what an instance of `node` has counted. Gives the number of flows that are not its own to report, or mean
    /// nothing, which are left out.
    pub fn count(&self, node: &SpiffeId, mesh: &Name, flows: agent::FlowSummaries, now: UnixMillis) -> usize {
        let sent = flows.flows.len();
        let own = self.recorded.add(node, flows, now);
        own.iter().for_each(|flow| self.would_denials.add(node, mesh, flow, now));
        sent - own.len()
    }

    /// What was decided how often.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// What would have been denied how often.
    pub fn would_denials(&self) -> &WouldDenials {
        &self.would_denials
    }

    /// A denial that is kept.
    pub fn kept_decision(&self, id: &str) -> Option<KeptDecision> {
        self.kept().find(id)
    }

    /// Begins to watch. Agents are told to send everything while anybody does.
    ///
    /// # Errors
    /// When too many watch already.
    pub fn observe(&self, filter: Filter) -> Result<Observation, TooManyObservers> {
        Observers::join(&self.observers, filter)
    }

    /// Whether anybody watches.
    pub fn observed(&self) -> watch::Receiver<bool> {
        self.observers.observed()
    }

    /// Writes first denials and counts to the store until `stop`; what is unwritten then is written before this returns.
    pub async fn run(&self, store: &dyn Store, clock: &Clock, stop: &CancellationToken) {
        tokio::join!(
            self.prune_always(clock, stop),
            self.write_denials(store, stop),
            self.recorded.run(store, stop),
            self.would_denials.run(store, stop),
        );
    }

    async fn prune_always(&self, clock: &Clock, stop: &CancellationToken) {
        loop {
            let (flows, denials) = self.prune(clock.surely_past());
            if flows + denials > 0 {
                debug!(event = "flows_pruned", flows, denials, "calls of long ago are forgotten");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PRUNE_EVERY) => {}
            }
        }
    }

    /// Forgets kinds of calls that have not come again for long, and denials that are as old; says how many.
    fn prune(&self, now: UnixMillis) -> (usize, usize) {
        let denials = self.kept().prune(now.minus(REMEMBERED_FOR));
        if denials > 0 {
            self.unwritten.notify_one();
        }
        (self.recorded.prune(now), denials)
    }

    async fn write_denials(&self, store: &dyn Store, stop: &CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = self.unwritten.notified() => false,
            };
            if let Err(error) = self.write_all(store).await {
                // What could not be written is still in memory; a disk that is full is told of elsewhere.
                warn!(event = "decisions_not_written", %error, "denials are kept in memory only");
            }
            if stopping {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(kept::WRITE_EVERY) => {}
            }
        }
    }

    async fn write_all(&self, store: &dyn Store) -> Result<(), StoreError> {
        loop {
            let commit = self.kept().next_commit();
            if commit.is_empty() {
                return Ok(());
            }
            store.commit(commit).await?;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits a decision id into the instance that made it and the rest. `None` where it is no decision id.
pub fn instance_of_decision(id: &str) -> Option<InstanceId> {
    let (instance, rest) = id.split_once('-')?;
    let well_formed = !rest.is_empty()
        && rest.len() <= 64
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if well_formed { InstanceId::parse(instance).ok() } else { None }
}

/// An agent speaks for its own node and instance alone.
fn is_own(decision: &agent::Decision, node: &SpiffeId, instance: InstanceId) -> bool {
    decision.node == node.as_str()
        && (decision.id.is_empty() || instance_of_decision(&decision.id) == Some(instance))
        && decision.encoded_len() <= MAX_DECISION_BYTES
}
