//! What agents have counted: which calls there were and what was decided of them, node by node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_policy::MAX_CONDITIONS;
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::decode_flow;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::unrecorded::Unrecorded;
use crate::registry::{Commit, Pace, Store, StoreError, WriteBehind, keys};

/// How many kinds of calls are kept of a node, and how many bytes they take together, encoded: an agent reports as many as
/// it likes, but of its own node alone.
const MAX_FLOWS_PER_NODE: usize = 2_048;
const MAX_BYTES_PER_NODE: usize = 2 * 1024 * 1024;

/// How many bytes they take for all nodes.
const MAX_BYTES: usize = 128 * 1024 * 1024;

/// The longest record, encoded, and the most calls that it tells of by themselves.
const MAX_FLOW_BYTES: usize = 24 * 1024;
const MAX_EXEMPLARS: usize = 8;

/// How long calls are remembered that do not come again, and denials.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How counts are written.
const PACE: Pace = Pace {
    every: Duration::from_secs(5),
    again_after: Duration::from_secs(10),
    event: "flows_not_written",
    meaning: "what was decided how often is kept in memory only",
};

/// The name of a flow among those of its node.
type FlowId = [u8; 16];

/// All of it.
#[derive(Debug)]
pub struct Recorded {
    state: Mutex<State>,
    unwritten: WriteBehind<Record>,
}

/// Of a node: a flow, or how many decisions are in none.
type Record = (SpiffeId, Option<FlowId>);

#[derive(Debug, Default)]
struct State {
    by_node: BTreeMap<SpiffeId, OfNode>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct OfNode {
    flows: HashMap<FlowId, Kept>,
    bytes: usize,
    unrecorded: Unrecorded,
}

#[derive(Debug)]
struct Kept {
    /// What is counted is all there was.
    flow: Arc<agent::FlowSummary>,
    bytes: usize,
}

/// What is recorded of one node.
#[derive(Debug, Clone)]
pub struct NodeRecord {
    /// The node.
    pub node: SpiffeId,
    /// Its flows, those of one caller one after the other.
    pub flows: Vec<Arc<agent::FlowSummary>>,
    /// Decisions that are in none of them.
    pub unrecorded: u64,
}

impl Recorded {
    /// Reads what was recorded before the control plane started.
    ///
    /// # Errors
    /// When the store cannot be read. A record that does not parse is left out, and said so.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut state = State::default();
        let unwritten = WriteBehind::new(PACE);
        for prefix in [keys::UNRECORDED, keys::FLOWS] {
            let mut after = None;
            loop {
                let page = store.list(prefix, after.as_deref(), 1_000).await?;
                for (key, stored) in &page.entries {
                    match state.read(key, stored.value.clone()) {
                        Some(given_up) => given_up.into_iter().for_each(|record| unwritten.add(record)),
                        None => error!(event = "flow_record_unreadable", key, "recorded calls are left out"),
                    }
                }
                after = page.entries.last().map(|(key, _)| key.clone());
                if !page.more {
                    break;
                }
            }
        }
        Ok(Self { state: Mutex::new(state), unwritten })
    }

    /// Adds what an agent of `node` has counted since it last said so. Gives those that are its own to report and mean
    /// something; the others are left out.
    pub(super) fn add(
        &self,
        node: &SpiffeId,
        summaries: agent::FlowSummaries,
        now: UnixMillis,
    ) -> Vec<agent::FlowSummary> {
        let agent::FlowSummaries { flows, unrecorded } = summaries;
        let own = flows.into_iter().filter(|flow| flow.node == node.as_str() && is_sound(flow));
        let own: Vec<_> = own.map(|flow| dated(flow, now)).collect();
        let mut state = self.state();
        let mut written = Vec::new();
        if unrecorded > 0 {
            state.by_node.entry(node.clone()).or_default().unrecorded.add(unrecorded, now);
            written.push((node.clone(), None));
        }
        for flow in &own {
            let (id, given_up) = state.put(node, flow.clone());
            written.push((node.clone(), Some(id)));
            written.extend(given_up);
        }
        drop(state);
        for id in written {
            self.unwritten.add(id);
        }
        own
    }

    /// What is recorded of the nodes that `wanted` picks.
    pub fn of(&self, wanted: impl Fn(&SpiffeId) -> bool) -> Vec<NodeRecord> {
        let state = self.state();
        let picked = state.by_node.iter().filter(|(node, _)| wanted(node));
        let mut records: Vec<_> = picked
            .map(|(node, of_node)| NodeRecord {
                node: node.clone(),
                flows: of_node.flows.values().map(|kept| Arc::clone(&kept.flow)).collect(),
                unrecorded: of_node.unrecorded.count,
            })
            .collect();
        drop(state);
        for record in &mut records {
            record.flows.sort_by(|one, other| order(one).cmp(&order(other)));
        }
        records
    }

    /// Forgets calls that have not come again for long; says how many kinds of them there were.
    pub fn prune(&self, now: UnixMillis) -> usize {
        let before = now.minus(REMEMBERED_FOR);
        let mut state = self.state();
        let old: Vec<_> = state
            .by_node
            .iter()
            .flat_map(|(node, of_node)| of_node.flows.iter().map(move |(id, kept)| (node, id, kept)))
            .filter(|(.., kept)| kept.flow.last_seen_unix_ms < before.0)
            .map(|(node, id, _)| (node.clone(), *id))
            .collect();
        old.iter().for_each(|(node, id)| drop(state.remove(node, id)));
        for (node, of_node) in &mut state.by_node {
            if of_node.unrecorded.forget_before(before) {
                self.unwritten.add((node.clone(), None));
            }
        }
        state.by_node.retain(|_, of_node| !of_node.flows.is_empty() || of_node.unrecorded.count > 0);
        drop(state);
        let count = old.len();
        old.into_iter().for_each(|(node, id)| self.unwritten.add((node, Some(id))));
        count
    }

    /// Writes counts until `stop`; what is unwritten then is written before this returns.
    pub(super) async fn run(&self, store: &dyn Store, stop: &CancellationToken) {
        let record = |commit: Commit, (node, id): &Record| {
            let state = self.state();
            let of_node = state.by_node.get(node);
            let (key, value) = match id {
                Some(id) => {
                    let kept = of_node.and_then(|of_node| of_node.flows.get(id));
                    let value = kept.map(|kept| kept.flow.encode_to_vec());
                    (format!("{}{node}/{}", keys::FLOWS, hex(id)), value)
                }
                None => {
                    let unrecorded = of_node.map(|of_node| &of_node.unrecorded);
                    let unrecorded = unrecorded.filter(|unrecorded| unrecorded.count > 0);
                    (Unrecorded::key(node), unrecorded.map(Unrecorded::encode_to_vec))
                }
            };
            Ok(match value {
                Some(value) => commit.put(key, value),
                None => commit.delete(key),
            })
        };
        self.unwritten.run(store, record, stop).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads a record, for which others may have to go; `None` where it makes no sense.
    fn read(&mut self, key: &str, value: Bytes) -> Option<Vec<Record>> {
        if let Some(node) = key.strip_prefix(keys::UNRECORDED) {
            let (node, unrecorded) = (SpiffeId::parse(node).ok()?, Unrecorded::decode(value).ok()?);
            self.by_node.entry(node).or_default().unrecorded = unrecorded;
            return Some(Vec::new());
        }
        let flow = agent::FlowSummary::decode(value).ok().filter(is_sound)?;
        let node = SpiffeId::parse(&flow.node).ok()?;
        Some(self.put(&node, flow).1)
    }

    /// Adds to what is known of a flow. Says which it is, and what else has changed: what there is no room for takes the place of
    /// what was not seen for longest, of the same node where that has too much itself, else of the node that has most.
    fn put(&mut self, node: &SpiffeId, flow: agent::FlowSummary) -> (FlowId, Vec<Record>) {
        let id = id_of(&flow);
        let of_node = self.by_node.entry(node.clone()).or_default();
        let former = of_node.flows.remove(&id);
        let freed = former.as_ref().map_or(0, |former| former.bytes);
        let flow = match former {
            Some(former) => merged(Arc::unwrap_or_clone(former.flow), flow),
            None => flow,
        };
        let bytes = flow.encoded_len();
        of_node.flows.insert(id, Kept { flow: Arc::new(flow), bytes });
        of_node.bytes = of_node.bytes - freed + bytes;
        self.bytes = self.bytes - freed + bytes;
        let mut given_up = Vec::new();
        while let Some(from) = self.too_much(node).cloned()
            && let Some(oldest) = self.by_node.get(&from).and_then(|of_node| {
                let new = Some(&id).filter(|_| from == *node);
                of_node.oldest(new)
            })
        {
            self.forget(&from, &oldest);
            given_up.extend([(from.clone(), Some(oldest)), (from, None)]);
        }
        (id, given_up)
    }

    /// The node of which something must go, if so, after something came of `node`.
    fn too_much<'a>(&'a self, node: &'a SpiffeId) -> Option<&'a SpiffeId> {
        let own = self.by_node.get(node)?;
        if own.flows.len() > MAX_FLOWS_PER_NODE || own.bytes > MAX_BYTES_PER_NODE {
            return Some(node);
        }
        let heaviest = self.by_node.iter().max_by_key(|(_, of_node)| of_node.bytes);
        heaviest.filter(|_| self.bytes > MAX_BYTES).map(|(node, _)| node)
    }

    /// Removes a flow, and remembers how many decisions that were.
    fn forget(&mut self, node: &SpiffeId, id: &FlowId) {
        let Some(gone) = self.remove(node, id) else { return };
        if let Some(of_node) = self.by_node.get_mut(node) {
            of_node.unrecorded.add(decisions(&gone), UnixMillis(gone.last_seen_unix_ms));
        }
    }

    fn remove(&mut self, node: &SpiffeId, id: &FlowId) -> Option<Arc<agent::FlowSummary>> {
        let of_node = self.by_node.get_mut(node)?;
        let kept = of_node.flows.remove(id)?;
        of_node.bytes -= kept.bytes;
        self.bytes -= kept.bytes;
        Some(kept.flow)
    }
}

impl OfNode {
    /// The flow that was not seen for longest, other than `new`.
    fn oldest(&self, new: Option<&FlowId>) -> Option<FlowId> {
        let others = self.flows.iter().filter(|(id, _)| Some(*id) != new);
        others.min_by_key(|(id, kept)| (kept.flow.last_seen_unix_ms, **id)).map(|(id, _)| *id)
    }
}

/// How many decisions a flow is.
pub(crate) fn decisions(flow: &agent::FlowSummary) -> u64 {
    let told = flow.exemplars.iter().map(|exemplar| exemplar.count);
    told.fold(flow.others, u64::saturating_add)
}

fn order(flow: &agent::FlowSummary) -> (&str, u32, &str, &str) {
    (&flow.caller, flow.port, &flow.route, &flow.action)
}

/// Whether it is a record that agents of ours make.
fn is_sound(flow: &agent::FlowSummary) -> bool {
    flow.exemplars.len() <= MAX_EXEMPLARS
        && flow.conditions.len() <= MAX_CONDITIONS
        && flow.encoded_len() <= MAX_FLOW_BYTES
        && flow.verdict() != agent::Verdict::Unspecified
        && decode_flow(flow).is_some()
}

/// Nothing was seen later than now, nor first after it was last.
fn dated(mut flow: agent::FlowSummary, now: UnixMillis) -> agent::FlowSummary {
    let clamp = |first: &mut u64, last: &mut u64| {
        *last = (*last).min(now.0);
        *first = (*first).min(*last);
    };
    clamp(&mut flow.first_seen_unix_ms, &mut flow.last_seen_unix_ms);
    for exemplar in &mut flow.exemplars {
        clamp(&mut exemplar.first_seen_unix_ms, &mut exemplar.last_seen_unix_ms);
    }
    flow
}

/// What two flows have in common that are counted together: all but the view, the calls and when they were.
fn id_of(flow: &agent::FlowSummary) -> FlowId {
    let common = agent::FlowSummary {
        caller: flow.caller.clone(),
        port: flow.port,
        action: flow.action.clone(),
        route: flow.route.clone(),
        verdict: flow.verdict,
        reason: flow.reason.clone(),
        policies: flow.policies.clone(),
        audit_verdict: flow.audit_verdict,
        audit_policies: flow.audit_policies.clone(),
        conditions: flow.conditions.clone(),
        external: flow.external.clone(),
        ..agent::FlowSummary::default()
    };
    let digest = digest::digest(&digest::SHA256, &common.encode_to_vec());
    let mut id = FlowId::default();
    id.iter_mut().zip(digest.as_ref()).for_each(|(own, byte)| *own = *byte);
    id
}

fn merged(known: agent::FlowSummary, new: agent::FlowSummary) -> agent::FlowSummary {
    let mut exemplars = known.exemplars;
    let mut others = known.others.saturating_add(new.others);
    for told in new.exemplars {
        let has_room = exemplars.len() < MAX_EXEMPLARS;
        match exemplars.iter_mut().find(|own| is_alike(own, &told)) {
            Some(own) => {
                own.count = own.count.saturating_add(told.count);
                own.first_seen_unix_ms = own.first_seen_unix_ms.min(told.first_seen_unix_ms);
                if own.last_seen_unix_ms <= told.last_seen_unix_ms {
                    own.last_seen_unix_ms = told.last_seen_unix_ms;
                    own.facts = told.facts;
                }
            }
            None if has_room => exemplars.push(told),
            // The latest are kept: what is recorded of them is what policies read now.
            None => {
                let oldest = exemplars.iter_mut().min_by_key(|own| own.last_seen_unix_ms);
                let oldest = oldest.filter(|own| own.last_seen_unix_ms < told.last_seen_unix_ms);
                let given_up = match oldest {
                    Some(oldest) => std::mem::replace(oldest, told).count,
                    None => told.count,
                };
                others = others.saturating_add(given_up);
            }
        }
    }
    agent::FlowSummary {
        exemplars,
        others,
        first_seen_unix_ms: known.first_seen_unix_ms.min(new.first_seen_unix_ms),
        last_seen_unix_ms: known.last_seen_unix_ms.max(new.last_seen_unix_ms),
        ..new
    }
}

/// Whether both are one, but for how many there were and when.
fn is_alike(one: &agent::FlowExemplar, other: &agent::FlowExemplar) -> bool {
    let timeless = |exemplar: &agent::FlowExemplar| {
        exemplar.facts.clone().map(|facts| agent::DecisionFacts {
            time_unix_ms: 0,
            certificate_not_before_unix_ms: 0,
            ..facts
        })
    };
    one.path == other.path
        && one.peer_address == other.peer_address
        && one.query_known == other.query_known
        && timeless(one) == timeless(other)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
