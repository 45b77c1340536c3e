//! How often what was decided: counted by kind, and told to the control plane from time to time.
//!
//! A decision that is remembered is counted where it is remembered (`policy/src/tally.rs`), and only the first with a
//! path comes here; what is decided anew each time is counted here, which costs little beside deciding it.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_identity::UnixMillis;
use hauberk_policy::{Condition, Count, Counted, Fact, Tally};
use hauberk_proto::agent::v1 as pb;

use super::facts::{Facts, Ruling, Verdict};

/// How many kinds of decisions are told apart.
const MAX_FLOWS: usize = 2_048;
/// How many counters are read: a caller has several for one kind, if it calls from several places.
const MAX_SOURCES: usize = 16_384;
/// How many decisions of one kind are told by themselves.
const MAX_EXEMPLARS: usize = 8;
/// The longest path, in bytes, that is told.
const MAX_PATH: usize = 256;
/// How long a kind of which nothing is heard any longer is remembered.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How many bytes stand for what conditions say.
const DIGEST_LEN: usize = 16;
/// How many kinds go into one message.
const MAX_BATCH: usize = 64;

/// What was decided and is not told yet. Its memory is bounded; what is too much is counted.
#[derive(Debug, Default)]
pub(super) struct Record {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By a hash with a random key, so that no caller can make two kinds look like one.
    flows: HashMap<u64, Flow>,
    /// By the counters' address.
    sources: HashMap<usize, Source>,
    unrecorded: u64,
    /// The epoch and revision of the newest view that has decided.
    latest: (u64, u64),
}

/// Decisions that are alike.
#[derive(Debug)]
struct Flow {
    /// What they have in common; what is counted is what is not told yet.
    summary: pb::FlowSummary,
    exemplars: HashMap<u64, Exemplar>,
    is_told: bool,
}

#[derive(Debug)]
struct Exemplar {
    /// What is counted is what is not told yet.
    message: pb::FlowExemplar,
    is_told: bool,
}

/// Counters, and what their seats stand for.
#[derive(Debug)]
struct Source {
    tally: Arc<Tally>,
    seats: Vec<(usize, Place)>,
}

/// Where decisions are counted: a flow, and one of its exemplars unless it has too many.
#[derive(Debug, Clone, Copy)]
struct Place {
    flow: u64,
    exemplar: Option<u64>,
}

impl Record {
    /// Stands for a request's method and path among what one remembered decision is for.
    pub(super) fn mark(&self, method: &str, path: &str) -> u64 {
        self.hasher.hash_one((method, path)) | 1
    }

    /// Counts a decision of the view's policies; `counted` is what has become of that so far.
    pub(super) fn count(&self, facts: &Facts<'_>, counted: Counted) {
        let Ruling::Policy(_) = facts.ruling else { return };
        let at = facts.moment.time;
        match counted {
            Counted::Yes => {}
            Counted::No => {
                let mut state = self.state();
                match state.place(&self.hasher, facts) {
                    Some(place) => state.add(place, Count { times: 1, last: at }),
                    None => state.unrecorded += 1,
                }
            }
            Counted::First { tally, seat } => {
                let mut state = self.state();
                match state.place(&self.hasher, facts) {
                    Some(place) if state.read(&tally, seat, place) => {}
                    // This one, and those of others who have counted by it since.
                    _ => state.unrecorded += tally.free(seat).map_or(0, |count| count.times),
                }
            }
        }
    }

    /// Says everything once more: whoever is told now may have been told nothing yet.
    pub(super) fn tell_again(&self) {
        for flow in self.state().flows.values_mut() {
            flow.is_told = false;
            flow.exemplars.values_mut().for_each(|exemplar| exemplar.is_told = false);
        }
    }

    /// What was counted since this was last asked.
    pub(super) fn take(&self, now: UnixMillis) -> Vec<pb::FlowSummaries> {
        let mut state = self.state();
        state.collect();
        let told: Vec<_> = state.flows.values_mut().filter_map(Flow::take).collect();
        state.forget(now);
        let unrecorded = std::mem::take(&mut state.unrecorded);
        drop(state);
        let mut messages: Vec<_> = told
            .chunks(MAX_BATCH)
            .map(|flows| pb::FlowSummaries { flows: flows.to_vec(), unrecorded: 0 })
            .collect();
        match messages.first_mut() {
            Some(first) => first.unrecorded = unrecorded,
            None if unrecorded > 0 => messages.push(pb::FlowSummaries { flows: Vec::new(), unrecorded }),
            None => {}
        }
        messages
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Where decisions like this one are counted; none where there are too many kinds.
    fn place(&mut self, hasher: &RandomState, facts: &Facts<'_>) -> Option<Place> {
        let key = key_of(hasher, facts);
        let view = facts.view.map_or((0, 0), |view| (view.epoch, view.revision));
        if view > self.latest {
            self.begin(view);
        }
        let is_full = self.flows.len() >= MAX_FLOWS;
        let flow = match self.flows.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(new) => new.insert(Flow::new(facts)),
        };
        Some(Place { flow: key, exemplar: flow.exemplar(hasher, facts) })
    }

    /// Reads a seat of these counters from now on, unless too many are read.
    fn read(&mut self, tally: &Arc<Tally>, seat: usize, place: Place) -> bool {
        let is_full = self.sources.len() >= MAX_SOURCES;
        // It is ours as long as we read it, so that the address stands for nothing else.
        match self.sources.entry(Arc::as_ptr(tally) as usize) {
            Entry::Occupied(known) => known.into_mut().seats.push((seat, place)),
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(new) => {
                new.insert(Source { tally: Arc::clone(tally), seats: vec![(seat, place)] });
            }
        }
        true
    }

    fn add(&mut self, place: Place, count: Count) {
        let Some(flow) = self.flows.get_mut(&place.flow) else { return };
        let Count { times, last } = count;
        let summary = &mut flow.summary;
        summary.last_seen_unix_ms = summary.last_seen_unix_ms.max(last.0);
        match place.exemplar.and_then(|key| flow.exemplars.get_mut(&key)) {
            Some(Exemplar { message, .. }) => {
                message.count += times;
                message.last_seen_unix_ms = message.last_seen_unix_ms.max(last.0);
            }
            None => summary.others += times,
        }
    }

    /// Reads all counters, and lets go of those that nobody counts by any longer.
    fn collect(&mut self) {
        let mut counted = Vec::new();
        self.sources.retain(|_, source| {
            let is_in_use = Arc::strong_count(&source.tally) > 1;
            for (seat, place) in &source.seats {
                counted.extend(source.tally.take(*seat).map(|count| (*place, count)));
            }
            // Only what shares one decision is counted without a seat.
            if let (Some((_, place)), Some(count)) = (source.seats.first(), source.tally.take_others()) {
                counted.push((Place { exemplar: None, ..*place }, count));
            }
            is_in_use
        });
        counted.into_iter().for_each(|(place, count)| self.add(place, count));
    }

    fn forget(&mut self, now: UnixMillis) {
        let (read, recently, latest) = (self.read_flows(), now.minus(FORGET_AFTER), self.latest);
        let may_come_again =
            |flow: &Flow| flow.view() == latest && UnixMillis(flow.summary.last_seen_unix_ms) >= recently;
        self.flows.retain(|key, flow| read.contains(key) || may_come_again(flow));
    }

    /// Nothing more comes of former views, and the new one has flows of its own: both together might be too many.
    fn begin(&mut self, view: (u64, u64)) {
        self.latest = view;
        if self.flows.len() >= MAX_FLOWS {
            self.collect();
            let read = self.read_flows();
            self.flows.retain(|key, flow| read.contains(key) || flow.has_untold());
        }
    }

    /// Those that counters are read for.
    fn read_flows(&self) -> HashSet<u64> {
        self.sources.values().flat_map(|source| &source.seats).map(|(_, place)| place.flow).collect()
    }
}

impl Flow {
    fn view(&self) -> (u64, u64) {
        (self.summary.epoch, self.summary.revision)
    }

    /// Whether something of it is yet to be told.
    fn has_untold(&self) -> bool {
        let of_exemplars = || self.exemplars.values().any(|own| own.message.count > 0 || !own.is_told);
        !self.is_told || self.summary.others > 0 || of_exemplars()
    }

    fn new(facts: &Facts<'_>) -> Self {
        let (ruling, at) = (facts.ruling, facts.moment.time.0);
        let texts = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect();
        let summary = pb::FlowSummary {
            caller: facts.caller_id().to_owned(),
            node: facts.view.map(|view| view.spiffe_id.to_string()).unwrap_or_default(),
            port: facts.port.into(),
            action: facts.request.action().to_owned(),
            route: ruling.route().to_owned(),
            verdict: ruling.verdict().to_proto(),
            reason: ruling.reason().to_owned(),
            policies: texts(ruling.policies()),
            audit_verdict: ruling.audit_verdict().map_or(0, Verdict::to_proto),
            audit_policies: texts(ruling.audit_policies()),
            epoch: facts.view.map_or(0, |view| view.epoch),
            revision: facts.view.map_or(0, |view| view.revision),
            exemplars: Vec::new(),
            others: 0,
            first_seen_unix_ms: at,
            last_seen_unix_ms: at,
            conditions: ruling.conditions().map(outcome).collect(),
            external: facts.external().to_owned(),
        };
        Self { summary, exemplars: HashMap::new(), is_told: false }
    }

    /// Which exemplar a decision is, if it is one.
    fn exemplar(&mut self, hasher: &RandomState, facts: &Facts<'_>) -> Option<u64> {
        let key = exemplar_key(hasher, facts);
        if self.exemplars.contains_key(&key) {
            return Some(key);
        }
        let is_too_long = facts.is_long() || facts.request.path().len() > MAX_PATH;
        if is_too_long || self.exemplars.len() >= MAX_EXEMPLARS {
            return None;
        }
        let at = facts.moment.time.0;
        // Of the connection, too, what is remembered together differs in what policies do not read.
        let mut known = facts.known_to_policies();
        if facts.tls_read().is_none() {
            (known.tls_version, known.tls_group) = Default::default();
        }
        // Whom calls were made for is nobody's to keep for a month.
        known.on_behalf_of = None;
        let message = pb::FlowExemplar {
            path: facts.request.path().to_owned(),
            peer_address: facts.address_read().map(|address| address.to_string()).unwrap_or_default(),
            facts: Some(known),
            query_known: facts.ruling.reads().contains(Fact::Query),
            count: 0,
            first_seen_unix_ms: at,
            last_seen_unix_ms: at,
        };
        self.exemplars.insert(key, Exemplar { message, is_told: false });
        Some(key)
    }

    /// What is to be told of it, if anything.
    fn take(&mut self) -> Option<pb::FlowSummary> {
        let exemplars: Vec<_> = self.exemplars.values_mut().filter_map(Exemplar::take).collect();
        if exemplars.is_empty() && self.summary.others == 0 && self.is_told {
            return None;
        }
        self.is_told = true;
        let summary = pb::FlowSummary { exemplars, ..self.summary.clone() };
        self.summary.others = 0;
        Some(summary)
    }
}

impl Exemplar {
    fn take(&mut self) -> Option<pb::FlowExemplar> {
        if self.message.count == 0 && self.is_told {
            return None;
        }
        self.is_told = true;
        let message = self.message.clone();
        self.message.count = 0;
        Some(message)
    }
}

fn key_of(hasher: &RandomState, facts: &Facts<'_>) -> u64 {
    let ruling = facts.ruling;
    let asked = (facts.caller_id(), facts.external(), facts.port, facts.request.action(), ruling.route());
    let decided = (ruling.verdict(), ruling.reason(), ruling.policies());
    let audit = (ruling.audit_verdict(), ruling.audit_policies());
    // Within one view a name stands for a text.
    let view = facts.view.map(|view| (view.epoch, view.revision));
    let mut state = hasher.build_hasher();
    (asked, decided, audit, view).hash(&mut state);
    for (condition, is_met) in ruling.conditions() {
        (&condition.policy, is_met).hash(&mut state);
    }
    state.finish()
}

fn outcome((condition, met): (&Condition, bool)) -> pb::ConditionOutcome {
    let digest = digest(&SHA256, condition.text.as_bytes());
    let digest = digest.as_ref().iter().take(DIGEST_LEN).copied().collect();
    pb::ConditionOutcome { policy: condition.policy.to_string(), digest, met }
}

fn exemplar_key(hasher: &RandomState, facts: &Facts<'_>) -> u64 {
    let mut state = hasher.build_hasher();
    (facts.request.method(), facts.request.path(), facts.address_read(), facts.tls_read()).hash(&mut state);
    (facts.host_read(), facts.query_read(), facts.ruling.reads()).hash(&mut state);
    for lines in facts.headers_read() {
        (&lines.name, &lines.values).hash(&mut state);
    }
    state.finish()
}

#[cfg(test)]
mod tests;
