//! Which workloads the agents of each node vouch for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{SpiffeId, TrustDomain};
use hauberk_proto::agent::v1::{WorkloadEntries, WorkloadEntry};

use crate::resources::{Catalog, WorkloadEnrollment};

/// The entries of every node that is a parent, in the order of their names.
pub(super) type Workloads = HashMap<SpiffeId, Arc<WorkloadEntries>>;

/// What agents are to have of `catalog`, where tokens live for `token_life` unless an enrollment says otherwise. What does not differ
/// from `former` stays shared.
pub(super) fn of(
    catalog: &Catalog,
    trust_domain: &TrustDomain,
    token_life: Duration,
    former: &Workloads,
) -> Workloads {
    let mut found = BTreeMap::<SpiffeId, WorkloadEntries>::new();
    for (mesh, resources) in catalog.meshes() {
        for (name, enrollment) in resources.workloads() {
            let node = enrollment.parent().spiffe_id(trust_domain, mesh);
            found.entry(node).or_default().entries.push(entry(name.as_str(), enrollment, token_life));
        }
    }
    let shared = found.into_iter().map(|(node, entries)| {
        let same = former.get(&node).filter(|former| ***former == entries);
        (node, same.map_or_else(|| Arc::new(entries), Arc::clone))
    });
    shared.collect()
}

fn entry(name: &str, enrollment: &WorkloadEnrollment, token_life: Duration) -> WorkloadEntry {
    let millis = |life: Duration| u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    WorkloadEntry {
        enrollment: name.to_owned(),
        spiffe_id: enrollment.id().to_string(),
        selectors: enrollment.selectors().iter().map(ToString::to_string).collect(),
        hint: enrollment.hint().unwrap_or_default().to_owned(),
        ttl_ms: enrollment.ttl().map_or(0, millis),
        dns_names: enrollment.dns_names().to_vec(),
        federates_with: enrollment.federates_with().iter().map(ToString::to_string).collect(),
        jwt_ttl_ms: millis(enrollment.token_ttl().unwrap_or(token_life)),
    }
}
