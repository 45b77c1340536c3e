//! What a draft would make of the calls that agents have counted.

mod conditions;
mod elsewhere;
mod engines;
mod flips;
mod suggest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_policy::{CompileError, Decision, Effect, Reason, Replay, Replayed, Undecidable};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::decode_flow;
use thiserror::Error;

use crate::compile::view::MeshViews;
use crate::flows::{NodeRecord, decisions};
use crate::resources::{Catalog, Kind, MeshCatalog};

use conditions::Conditions;
use elsewhere::{Lost, other_callers};
use engines::{Enforced, Sides, Strangers};
use flips::Flips;
pub use flips::{Flip, Verdict};
pub use suggest::{Suggestion, suggest};

/// What was found.
#[derive(Debug, Default)]
pub struct Simulation {
    /// What would be decided otherwise, or perhaps: what would be denied first, then what cannot be said.
    pub flips: Vec<Flip>,
    /// How many flows were looked at, and how many decisions these are.
    pub looked_at: Figure,
    /// Those that are allowed and would be denied.
    pub denied: Figure,
    /// Those that are denied and would be allowed.
    pub allowed: Figure,
    /// Those of which nothing can be said.
    pub undecidable: Figure,
    /// Since when there are records, in Unix ms.
    pub since: Option<u64>,
    /// Decisions that were not recorded one by one.
    pub unrecorded: u64,
}

/// A number of flows, and of decisions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// One caller, port, action and route each.
    pub flows: u64,
    /// How often these were decided.
    pub decisions: u64,
}

/// Why nothing can be said at all.
#[derive(Debug, Error)]
pub enum SimulateError {
    /// What is stored is not understood, and might be a forbid.
    #[error("the stored {} {name} of mesh {mesh} is not accepted: {reason}; apply it again, corrected, or delete it", .kind.noun())]
    Unreadable {
        /// Its mesh.
        mesh: Name,
        /// What it is.
        kind: Kind,
        /// Its name.
        name: Name,
        /// Why not.
        reason: String,
    },
    /// A node's policies cannot be enforced.
    #[error("the policies of {} of mesh {mesh} cannot be enforced: {source}", .node.in_words())]
    Compile {
        /// The mesh.
        mesh: Name,
        /// The node or gateway.
        node: NodeName,
        /// Why not.
        source: CompileError,
    },
}

/// Decides what is recorded of nodes by the resources as they are, and as they would be.
///
/// # Errors
/// Something of either is not understood, or cannot be enforced.
pub fn simulate(
    trust_domain: &TrustDomain,
    before: &Catalog,
    after: &Catalog,
    records: &[NodeRecord],
) -> Result<Simulation, SimulateError> {
    let mut simulation = Simulation::default();
    let mut flips = Flips::default();
    let other_callers = other_callers(trust_domain, before, after);
    let nothing = Arc::new(MeshCatalog::default());
    let by_mesh = records.chunk_by(|one, next| mesh_of(one) == mesh_of(next));
    for records in by_mesh {
        let Some(mesh) = records.first().and_then(mesh_of) else { continue };
        let Some(now) = before.mesh(mesh.as_str()) else { continue };
        // One that goes as a whole is left with nothing.
        let draft = after.mesh(mesh.as_str()).unwrap_or(&nothing);
        let is_same = Arc::ptr_eq(now, draft);
        if !is_same {
            check_readable(&mesh, now)?;
            check_readable(&mesh, draft)?;
        }
        let by_now = MeshViews::new(trust_domain, &mesh, now);
        let by_draft = MeshViews::new(trust_domain, &mesh, draft);
        for record in records {
            let Some((_, name)) = record.node.mesh_and_node() else { continue };
            // Of what is gone by now nothing is decided any longer.
            let Some(node) = now.node_or_gateway(&name) else { continue };
            simulation.note(record);
            let is_other = |flow: &&Arc<agent::FlowSummary>| other_callers.contains(&flow.caller);
            let (of_others, flows): (Vec<_>, Vec<_>) = record.flows.iter().partition(is_other);
            of_others.into_iter().for_each(|flow| flips.add_unknown(flow, Undecidable::CallerChanges));
            if is_same {
                continue;
            }
            let failed = |source| SimulateError::Compile { mesh: mesh.clone(), node: name.clone(), source };
            let draft_node = draft.node_or_gateway(&name);
            let mut places: BTreeMap<&str, Vec<_>> = BTreeMap::new();
            for flow in flows {
                places.entry(flow.external.as_str()).or_default().push(flow);
            }
            for (external, flows) in places {
                let enforced = match Name::parse(external) {
                    // A flow that stays in the mesh names none.
                    Err(_) => {
                        let now = engines::of_node(&by_now, node, &name);
                        let draft = draft_node.map(|node| engines::of_node(&by_draft, node, &name));
                        Some((now.clone(), draft.unwrap_or_else(|| now.gone())))
                    }
                    Ok(external) => of_external(&by_now, draft_node.map(|_| &by_draft), &external),
                };
                // Of an external service that is in neither nothing is let out by either.
                let Some((now, draft)) = enforced else { continue };
                let Lost { elsewhere, not_called } = Lost::of(&now, &draft, &by_draft);
                let strangers = Strangers::of(trust_domain, &now, &draft);
                // Where ports and policies stay as they are, and whoever vouches for callers, so does all that is decided.
                let sides = engines::sides(now, draft, not_called).map_err(failed)?;
                let Some(Sides { now, draft, vouching }) = sides else { continue };
                let mut replay = Replay::new(&now, &draft, &vouching);
                let conditions = Conditions::of([&now, &draft]);
                for flow in flows {
                    // It was looked at as it came.
                    let Some(mut recorded) = decode_flow(flow) else { continue };
                    let (is_refused_now, is_refused_then) = strangers.are_refused(&recorded.caller);
                    // Whatever policies say, and whoever else is called.
                    if is_refused_now && is_refused_then {
                        continue;
                    }
                    let is_elsewhere = u16::try_from(flow.port).is_ok_and(|port| elsewhere.contains(&port));
                    if is_elsewhere && !is_refused_then {
                        flips.add_unknown(flow, Undecidable::CalledElsewhere);
                        continue;
                    }
                    recorded.outcomes = conditions.outcomes(flow);
                    replay.flow(&recorded, |replayed, count, call| {
                        if !is_refused_now || matches!(replayed, Replayed::Undecidable(_)) {
                            flips.add(flow, replayed, count, call);
                        }
                    });
                }
            }
        }
    }
    flips.finish(&mut simulation);
    Ok(simulation)
}

/// What is enforced on calls of an external service now, and by a draft, in which nobody may be there to call it. Where there is
/// no such service nothing permits them.
fn of_external(
    now: &MeshViews<'_>,
    draft: Option<&MeshViews<'_>>,
    external: &Name,
) -> Option<(Enforced, Enforced)> {
    match (engines::of_external(now, external), draft.and_then(|draft| engines::of_external(draft, external)))
    {
        (Some(now), Some(draft)) => Some((now, draft)),
        (Some(now), None) => Some((now.clone(), now.without_policies())),
        (None, Some(draft)) => Some((draft.without_policies(), draft)),
        (None, None) => None,
    }
}

impl Simulation {
    fn note(&mut self, record: &NodeRecord) {
        let mut flows = BTreeSet::new();
        for flow in &record.flows {
            flows.insert((&flow.caller, &flow.external, flow.port, &flow.action, &flow.route));
            self.looked_at.decisions = self.looked_at.decisions.saturating_add(decisions(flow));
            let since =
                self.since.map_or(flow.first_seen_unix_ms, |since| since.min(flow.first_seen_unix_ms));
            self.since = Some(since);
        }
        self.looked_at.flows += flows.len() as u64;
        self.unrecorded = self.unrecorded.saturating_add(record.unrecorded);
    }
}

/// What holds back the views of agents proves nothing: a forbid may be in it. What they are sent their views without is left
/// out here too.
fn check_readable(mesh: &Name, resources: &MeshCatalog) -> Result<(), SimulateError> {
    match resources.holding_back().next() {
        None => Ok(()),
        Some((kind, name, reason)) => Err(SimulateError::Unreadable {
            mesh: mesh.clone(),
            kind,
            name: name.clone(),
            reason: reason.to_owned(),
        }),
    }
}

fn mesh_of(record: &NodeRecord) -> Option<Name> {
    record.node.mesh_and_node().map(|(mesh, _)| mesh)
}

/// The verdict that a decision is.
fn verdict_of(decision: &Decision) -> agent::Verdict {
    match (decision.effect, decision.reason) {
        (Effect::Deny, _) => agent::Verdict::Deny,
        (_, Reason::AuditDefaultAllow) => agent::Verdict::AuditAllow,
        _ => agent::Verdict::Allow,
    }
}

#[cfg(test)]
mod tests;
