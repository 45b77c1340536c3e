//! What is decided otherwise, put together by who calls what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hauberk_policy::{Decision, Effect, RecordedCall, Replayed, Undecidable};
use hauberk_proto::agent::v1 as agent;

use super::{Figure, Simulation, verdict_of};
use crate::flows::decisions;

/// What becomes of calls that are alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Flip {
    /// One of the records.
    pub flow: Arc<agent::FlowSummary>,
    /// The paths that are known.
    pub paths: BTreeSet<String>,
    /// What is decided now, and by the draft; `None`: it cannot be said.
    pub verdicts: Option<(Verdict, Verdict)>,
    /// Why the draft decides so, or why it cannot be said.
    pub reason: &'static str,
    /// The policies that make the difference.
    pub policies: Vec<Arc<str>>,
    /// How many decisions.
    pub count: u64,
    /// When the last of them was, in Unix ms.
    pub last_seen: u64,
}

/// What is decided.
pub type Verdict = agent::Verdict;

/// One caller, node or external service, port, action and route.
type Who = (String, (String, String), u32, String, String);

/// What is put together: the rank, who calls what, the reason, and the policies.
type Kind = (u8, Who, &'static str, Vec<Arc<str>>);

/// Those found so far.
#[derive(Debug, Default)]
pub(super) struct Flips {
    found: BTreeMap<Kind, Flip>,
}

/// In the order in which they are shown.
const DENIED: u8 = 0;
const UNDECIDABLE: u8 = 1;
const ALLOWED: u8 = 2;

impl Flips {
    /// A flow of which nothing can be said, whatever is recorded of it.
    pub(super) fn add_unknown(&mut self, flow: &Arc<agent::FlowSummary>, why: Undecidable) {
        self.add(flow, Replayed::Undecidable(why), decisions(flow), None);
    }

    pub(super) fn add(
        &mut self,
        flow: &Arc<agent::FlowSummary>,
        replayed: Replayed,
        count: u64,
        call: Option<&RecordedCall>,
    ) {
        // A call that was told of once more is not one more call.
        if count == 0 {
            return;
        }
        let (rank, verdicts, reason, policies) = match replayed {
            Replayed::Undecidable(why) => (UNDECIDABLE, None, why.as_str(), Vec::new()),
            Replayed::Flips { now, draft } => {
                let rank = if draft.effect == Effect::Deny { DENIED } else { ALLOWED };
                let verdicts = (verdict_of(&now), verdict_of(&draft));
                (rank, Some(verdicts), draft.reason.as_str(), responsible(&now, &draft))
            }
        };
        let path = call.map(|call| call.target.split('?').next().unwrap_or_default().to_owned());
        let flip = self.found.entry((rank, who(flow), reason, policies.clone())).or_insert_with(|| Flip {
            flow: Arc::clone(flow),
            paths: BTreeSet::new(),
            verdicts,
            reason,
            policies,
            count: 0,
            last_seen: 0,
        });
        flip.paths.extend(path.filter(|path| !path.is_empty()));
        flip.count = flip.count.saturating_add(count);
        flip.last_seen = flip.last_seen.max(flow.last_seen_unix_ms);
    }

    pub(super) fn finish(self, simulation: &mut Simulation) {
        let mut flows: BTreeMap<u8, BTreeSet<&Who>> = BTreeMap::new();
        for ((rank, who, ..), flip) in &self.found {
            flows.entry(*rank).or_default().insert(who);
            let figure = simulation.figure(*rank);
            figure.decisions = figure.decisions.saturating_add(flip.count);
        }
        for (rank, flows) in flows {
            simulation.figure(rank).flows = flows.len() as u64;
        }
        simulation.flips = self.found.into_values().collect();
        // Within each kind what happens most comes first.
        let rank = |flip: &Flip| match flip.verdicts {
            Some((_, Verdict::Deny)) => DENIED,
            None => UNDECIDABLE,
            Some(_) => ALLOWED,
        };
        simulation.flips.sort_by_key(|flip| (rank(flip), std::cmp::Reverse(flip.count)));
    }
}

impl Simulation {
    fn figure(&mut self, rank: u8) -> &mut Figure {
        match rank {
            DENIED => &mut self.denied,
            UNDECIDABLE => &mut self.undecidable,
            _ => &mut self.allowed,
        }
    }
}

/// Whoever makes the difference: what the draft decides by, or where that is nothing, what decides now.
fn responsible(now: &Decision, draft: &Decision) -> Vec<Arc<str>> {
    let named = if draft.policies.is_empty() { &now.policies } else { &draft.policies };
    named.to_vec()
}

fn who(flow: &agent::FlowSummary) -> Who {
    let agent::FlowSummary { caller, node, external, port, action, route, .. } = flow;
    (caller.clone(), (node.clone(), external.clone()), *port, action.clone(), route.clone())
}
