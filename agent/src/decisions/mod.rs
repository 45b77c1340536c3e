//! What becomes of a decision: an id and a place in memory for what was denied, an access line, and a summary for the
//! control plane where it is the first of its kind or somebody is watching.
//!
//! An allowed request costs one atomic load here when the access log is off and nobody watches.

mod access_log;
mod explain;
mod facts;
mod memory;
mod upstream;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hauberk_identity::InstanceId;
use hauberk_proto::agent::v1 as pb;

pub use access_log::{AccessLog, AccessLogWriter};
pub use facts::{Facts, Outcome, Request, Ruling, Verdict};
pub use memory::DecisionId;

use crate::clock::Clock;
use memory::Memory;
use upstream::Upstream;

/// Where the data path brings its decisions.
#[derive(Debug)]
pub struct Decisions {
    clock: Clock,
    memory: Mutex<Memory>,
    upstream: Upstream,
    access_log: Option<AccessLog>,
}

impl Decisions {
    /// Remembers nothing yet. `boot` is random and tells the ids of this run from those of former ones.
    pub fn new(clock: Clock, instance: InstanceId, boot: [u8; 4], access_log: Option<AccessLog>) -> Self {
        Self { clock, memory: Mutex::new(Memory::new(instance, boot)), upstream: Upstream::new(), access_log }
    }

    /// Records a decision that was not plainly to allow, when it is made, and names it. Its id goes to the caller.
    pub fn record(&self, facts: &Facts<'_>) -> DecisionId {
        let at = self.clock.now();
        let mut memory = self.memory();
        let (id, is_first) = memory.keep(at, facts);
        drop(memory);
        if is_first || self.upstream.is_observed() {
            let mut decision = facts.to_proto(at, Some(&id), None);
            decision.first_of_kind = is_first;
            self.upstream.push(at, decision);
        }
        id
    }

    /// Whether [`Decisions::finish`] would do anything with an allowed request. Ask before gathering its facts.
    pub fn wants_outcomes(&self) -> bool {
        self.access_log.is_some() || self.upstream.is_observed()
    }

    /// Tells how a request, stream or connection ended. `id` is what [`Decisions::record`] gave, if it was called.
    pub fn finish(&self, facts: &Facts<'_>, id: Option<&DecisionId>, outcome: &Outcome) {
        if !self.wants_outcomes() {
            return;
        }
        let at = self.clock.now();
        if let Some(log) = &self.access_log {
            log.write(at, facts, id, outcome);
        }
        // What has an id was sent when it was decided.
        if id.is_none() && self.upstream.is_observed() {
            self.upstream.push(at, facts.to_proto(at, None, Some(outcome)));
        }
    }

    /// What is known of a decision of ours, decided again by the engine that decided it.
    pub fn explain(&self, id: &str) -> Option<pb::DecisionDetail> {
        let kept = self.memory().find(id)?;
        Some(explain::explain(&kept))
    }

    /// Says which decisions the control plane wants to hear of.
    pub fn observe(&self, observe: &pb::Observe) {
        self.upstream.observe(observe.all, observe.limit_per_second);
    }

    /// Waits for decisions that the control plane should hear of. Safe to drop while waiting.
    pub async fn next_batch(&self) -> pb::Decisions {
        self.upstream.next_batch().await
    }

    /// Names the instance in the ids of decisions from now on.
    pub fn set_instance(&self, instance: InstanceId) {
        self.memory().set_instance(instance);
    }

    /// How many decisions have been given an id.
    pub fn recorded(&self) -> u64 {
        self.memory().recorded()
    }

    /// How many access lines were left out because the log could not be written as fast.
    pub fn dropped_lines(&self) -> u64 {
        self.access_log.as_ref().map_or(0, AccessLog::dropped)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
