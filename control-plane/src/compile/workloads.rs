//! Which workloads the agents of each node vouch for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hauberk_identity::{SpiffeId, TrustDomain};
use hauberk_proto::agent::v1::{WorkloadEntries, WorkloadEntry};

use crate::resources::{Catalog, WorkloadEnrollment};

/// The entries of every node that is a parent, in the order of their names.
pub(super) type Workloads = HashMap<SpiffeId, Arc<WorkloadEntries>>;

/// What agents are to have of `catalog`. What does not differ from `former` stays shared.
pub(super) fn of(catalog: &Catalog, trust_domain: &TrustDomain, former: &Workloads) -> Workloads {
    let mut found = BTreeMap::<SpiffeId, WorkloadEntries>::new();
    for (mesh, resources) in catalog.meshes() {
        for (name, enrollment) in resources.workloads() {
            let node = enrollment.parent().spiffe_id(trust_domain, mesh);
            found.entry(node).or_default().entries.push(entry(name.as_str(), enrollment));
        }
    }
    let shared = found.into_iter().map(|(node, entries)| {
        let same = former.get(&node).filter(|former| ***former == entries);
        (node, same.map_or_else(|| Arc::new(entries), Arc::clone))
    });
    shared.collect()
}

fn entry(name: &str, enrollment: &WorkloadEnrollment) -> WorkloadEntry {
    WorkloadEntry {
        enrollment: name.to_owned(),
        spiffe_id: enrollment.id().to_string(),
        selectors: enrollment.selectors().iter().map(ToString::to_string).collect(),
        hint: enrollment.hint().unwrap_or_default().to_owned(),
        ttl_ms: enrollment.ttl().map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        dns_names: enrollment.dns_names().to_vec(),
        federates_with: enrollment.federates_with().iter().map(ToString::to_string).collect(),
    }
}
