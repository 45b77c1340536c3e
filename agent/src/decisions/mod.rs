//! What becomes of a decision: an id and a place in memory for what was denied, an access line, and a summary for the
//! control plane where it is the first of its kind or somebody is watching.
//!
//! An allowed request costs two atomic operations here when the access log is off and nobody watches: it is counted
//! where its decision is remembered.

mod access_log;
mod explain;
mod facts;
mod memory;
mod record;
mod upstream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hauberk_identity::{InstanceId, UnixMillis};
use hauberk_policy::Counted;
use hauberk_proto::agent::v1 as pb;

pub use access_log::{AccessLog, AccessLogWriter};
pub use facts::{Facts, LeavesTo, OutboundFacts, Outcome, Request, Ruling, Verdict};
pub use memory::DecisionId;

use crate::clock::Clock;
use memory::Memory;
use record::Record;
use upstream::Upstream;

/// A decision that was given an id when it was made. How it ended is told by [`Decisions::finish`].
#[derive(Debug)]
pub struct Recorded {
    id: DecisionId,
    is_first: bool,
    /// The control plane has been told already.
    is_told: bool,
}

/// Where the data path brings its decisions.
#[derive(Debug)]
pub struct Decisions {
    clock: Clock,
    memory: Mutex<Memory>,
    upstream: Upstream,
    record: Record,
    /// The control plane wants what is recorded.
    are_flows_wanted: AtomicBool,
    access_log: Option<AccessLog>,
}

impl Decisions {
    /// Remembers nothing yet. `boot` is random and tells the ids of this run from those of former ones.
    pub fn new(clock: Clock, instance: InstanceId, boot: [u8; 4], access_log: Option<AccessLog>) -> Self {
        Self {
            clock,
            memory: Mutex::new(Memory::new(instance, boot)),
            upstream: Upstream::new(),
            record: Record::default(),
            are_flows_wanted: AtomicBool::new(false),
            access_log,
        }
    }

    /// Records a decision that was not plainly to allow, when it is made, and names it. Its id goes to the caller. How
    /// it ends must be told to [`Decisions::finish`].
    pub fn begin(&self, facts: &Facts<'_>) -> Recorded {
        let at = self.clock.now();
        let (id, is_first) = self.memory().keep(at, facts);
        // What is denied ends at once. What passes may last for days, and whoever wants to close what is open in audit
        // wants to know today.
        let is_told = is_first && facts.ruling.verdict() != Verdict::Deny;
        if is_told {
            self.tell(at, facts, Some(&id), true, None);
        }
        Recorded { id, is_first, is_told }
    }

    /// Records and tells a decision that ends something under way, whose own end is told as that of an allowed one.
    pub fn record(&self, facts: &Facts<'_>) -> DecisionId {
        let at = self.clock.now();
        let (id, is_first) = self.memory().keep(at, facts);
        self.tell(at, facts, Some(&id), is_first, None);
        id
    }

    /// Whether [`Decisions::finish`] would do anything with an allowed request. Ask before gathering its facts.
    pub fn wants_outcomes(&self) -> bool {
        self.access_log.is_some() || self.upstream.is_observed()
    }

    /// Tells how a request or stream ended. `recorded` is what [`Decisions::begin`] gave, if it was called.
    pub fn finish(&self, facts: &Facts<'_>, recorded: Option<&Recorded>, outcome: &Outcome) {
        let at = self.clock.now();
        let id = recorded.map(Recorded::id);
        // What leaves the mesh has its line where it is called.
        if let Some(log) = self.access_log.as_ref().filter(|_| facts.leaves_to.is_none()) {
            log.write(at, facts, id, outcome);
        }
        if let Some(id) = id {
            self.memory().complete(id, outcome);
        }
        if recorded.is_none_or(|recorded| !recorded.is_told) {
            let is_first = recorded.is_some_and(|recorded| recorded.is_first);
            self.tell(at, facts, id, is_first, Some(outcome));
        }
    }

    /// Whether [`Decisions::finish_outbound`] would do anything.
    pub fn writes_lines(&self) -> bool {
        self.access_log.is_some()
    }

    /// Tells how a request or stream of a local app ended.
    pub fn finish_outbound(&self, facts: &OutboundFacts<'_>, outcome: &Outcome) {
        if let Some(log) = &self.access_log {
            log.write_outbound(self.clock.now(), facts, outcome);
        }
    }

    /// What is known of a decision of ours, decided again by the engine that decided it.
    pub fn explain(&self, id: &str) -> Option<pb::DecisionDetail> {
        let kept = self.memory().find(id)?;
        Some(explain::explain(&kept))
    }

    /// Stands for a request's method and path, for [`Decisions::count`].
    pub fn mark(&self, method: &str, path: &str) -> u64 {
        self.record.mark(method, path)
    }

    /// Counts a decision by its kind. `counted` is what has become of that where it is remembered.
    pub fn count(&self, facts: &Facts<'_>, counted: Counted) {
        self.record.count(facts, counted);
    }

    /// What was counted since this was last asked; nothing while nobody wants it.
    pub fn flow_summaries(&self) -> Vec<pb::FlowSummaries> {
        if !self.are_flows_wanted.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.record.take(self.clock.now())
    }

    /// Says which decisions the control plane wants to hear of.
    pub fn observe(&self, observe: &pb::Observe) {
        self.upstream.observe(observe.all, observe.limit_per_second);
        if !self.are_flows_wanted.swap(observe.flows, Ordering::Relaxed) && observe.flows {
            self.record.tell_again();
        }
    }

    /// Waits for decisions that the control plane should hear of. Safe to drop while waiting.
    pub async fn next_batch(&self) -> pb::Decisions {
        self.upstream.next_batch().await
    }

    /// Names the instance in the ids of decisions from now on.
    pub fn set_instance(&self, instance: InstanceId) {
        self.memory().set_instance(instance);
    }

    /// Our instance, as it is named in them.
    pub fn instance(&self) -> InstanceId {
        self.memory().instance()
    }

    /// How many decisions have been given an id.
    pub fn recorded(&self) -> u64 {
        self.memory().recorded()
    }

    /// How many access lines were left out because the log could not be written as fast.
    pub fn dropped_lines(&self) -> u64 {
        self.access_log.as_ref().map_or(0, AccessLog::dropped)
    }

    /// Tells the control plane, if it wants to know.
    fn tell(
        &self,
        at: UnixMillis,
        facts: &Facts<'_>,
        id: Option<&DecisionId>,
        is_first: bool,
        outcome: Option<&Outcome>,
    ) {
        if is_first || self.upstream.is_observed() {
            let mut decision = facts.to_proto(at, id, outcome);
            decision.first_of_kind = is_first;
            self.upstream.push(at, decision);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// The decision's id.
    pub fn id(&self) -> &DecisionId {
        &self.id
    }

    /// The decision's id, where nothing more is to be told.
    pub fn into_id(self) -> DecisionId {
        self.id
    }
}

#[cfg(test)]
mod tests;
