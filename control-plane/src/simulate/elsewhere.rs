//! Calls that a draft takes elsewhere, or has made by somebody else: what the node decides that took them proves nothing then.

use std::collections::BTreeSet;

use hauberk_identity::{SpiffeId, TrustDomain};

use super::engines::Enforced;
use crate::compile::view::MeshViews;
use crate::resources::{Catalog, WorkloadEnrollment};

/// The ports of one node whose services a draft takes away.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Another node has one of these services at a port of the same number: that one would decide.
    pub(super) elsewhere: BTreeSet<u16>,
    /// Nobody has them at that number.
    pub(super) not_called: BTreeSet<u16>,
}

impl Lost {
    /// Which service a call was for is not recorded: each of its port's is meant.
    pub(super) fn of(now: &Enforced, draft: &Enforced, by_draft: &MeshViews<'_>) -> Self {
        let mut lost = Self::default();
        for port in now.ports() {
            let kept = draft.ports().iter().find(|own| own.number == port.number);
            let is_kept = |service| kept.is_some_and(|own| own.services.contains(service));
            let gone: Vec<_> = port.services.iter().filter(|service| !is_kept(service)).collect();
            if gone.iter().any(|service| by_draft.is_served(service, port.number)) {
                lost.elsewhere.insert(port.number);
            } else if !gone.is_empty() {
                lost.not_called.insert(port.number);
            }
        }
        lost
    }
}

/// Whoever has an identity now that a draft takes away, or gives by other rules: nodes and gateways that are gone, and workloads of whose
/// enrollments one is gone, or asks for something else.
pub(super) fn other_callers(
    trust_domain: &TrustDomain,
    before: &Catalog,
    after: &Catalog,
) -> BTreeSet<String> {
    let mut others = BTreeSet::new();
    for (mesh, now) in before.meshes() {
        let draft = after.mesh(mesh.as_str()).map(|draft| &**draft);
        if draft.is_some_and(|draft| std::ptr::eq(draft, &**now)) {
            continue;
        }
        let nodes =
            now.node_names().filter(|name| draft.is_none_or(|draft| draft.node_or_gateway(name).is_none()));
        others.extend(nodes.map(|name| name.spiffe_id(trust_domain, mesh).to_string()));
        let given: BTreeSet<_> = draft.into_iter().flat_map(|draft| draft.workloads()).map(given).collect();
        let workloads = now.workloads().map(self::given).filter(|rule| !given.contains(rule));
        others.extend(workloads.map(|(id, ..)| id.to_string()));
    }
    others
}

/// What makes a program what it becomes.
fn given<'a>(
    (_, enrollment): (&hauberk_identity::Name, &'a WorkloadEnrollment),
) -> (&'a SpiffeId, String, &'a BTreeSet<hauberk_identity::Selector>) {
    (enrollment.id(), enrollment.parent().to_string(), enrollment.selectors())
}
