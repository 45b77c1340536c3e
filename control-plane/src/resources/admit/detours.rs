//! Warns of listeners at which what is said of some routes is gone round.

use std::collections::BTreeSet;

use hauberk_identity::Name;

use super::Step;
use crate::resources::gone_round::{Detours, MEND, RouteForbids};
use crate::resources::key::{Kind, ResourceKey};

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Looks at the nodes that the batch brings, and at those that its policies and boundaries are about.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    let bears =
        |kind| matches!(kind, Kind::Boundary | Kind::Policy | Kind::PolicyTemplate | Kind::VirtualNode);
    let meshes: BTreeSet<&Name> =
        step.places.keys().filter(|key| bears(key.kind)).map(|key| &key.mesh).collect();
    for mesh in meshes {
        let Some(after) = step.after.mesh(mesh.as_str()) else { continue };
        let keys = || step.places.keys().filter(|key| key.mesh == *mesh);
        let stated = keys().flat_map(|key| step.documents(key)).map(|(_, document)| document);
        let stated = RouteForbids::among(after, stated);
        // All other changes wait meanwhile.
        if stated.is_empty() && !keys().any(|key| key.kind == Kind::VirtualNode) {
            continue;
        }
        let detours = Detours::of(after);
        let told = detours.listeners().filter_map(|detour| {
            let key = ResourceKey { kind: Kind::VirtualNode, mesh: mesh.clone(), name: detour.node.clone() };
            let is_of_batch = detour.is_by(&stated) || step.places.contains_key(&key);
            is_of_batch.then(|| format!("{key}, {detour}: {MEND}"))
        });
        warnings.extend(told.take(MOST));
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::testing::*;

    #[test]
    fn whoever_brings_the_policy_or_the_node_is_told() {
        let orders = node("orders", [classified(listener(8080, "http"), "/card", &["pii"])]);
        let pii = policy("pii", "forbid(principal, action, resource in DataClass::\"pii\");");
        let all = policy("all", "permit(principal is Node, action, resource);");
        let catalog =
            catalog_of(&[mesh("shop"), data_class("pii", &[]), all.clone(), orders.clone(), pii.clone()]);
        let told = |batch| {
            let warnings = try_admit(&catalog, &[batch], EVERYTHING).unwrap().warnings;
            warnings.into_iter().filter(|warning| warning.contains("`undeclared: DENY`")).collect::<Vec<_>>()
        };
        let expected = "VirtualNode shop/orders, port 8080: pii holds for some of its routes alone";
        for batch in [orders, pii] {
            let told = told(batch);
            assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
        }
        assert!(told(node("web", [])).is_empty() && told(all).is_empty());
    }
}
