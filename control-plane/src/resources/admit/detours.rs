//! Warns of listeners at which what is said of some routes is gone round.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::Effect;

use super::Step;
use crate::resources::gone_round::{Detour, Detours, MEND, RouteForbids};
use crate::resources::key::{Kind, ResourceKey};

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Looks at the nodes that the batch brings, at those that its policies and boundaries are about, and at those that it
/// has permits reach, or forbids of data classes.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    let meshes: BTreeSet<&Name> = step
        .places
        .keys()
        .filter(|key| states(key.kind) || may_open(key.kind))
        .map(|key| &key.mesh)
        .collect();
    for mesh in meshes {
        let Some(after) = step.after.mesh(mesh.as_str()) else { continue };
        let keys = || step.places.keys().filter(|key| key.mesh == *mesh);
        let documents = || keys().flat_map(|key| step.documents(key)).map(|(_, document)| document);
        let stated = RouteForbids::among(after, documents());
        let permits = || documents().any(|document| document.resources(Effect::Allow).next().is_some());
        let brings_nodes = keys().any(|key| key.kind == Kind::VirtualNode);
        let is_opening = keys().any(|key| may_open(key.kind)) || permits();
        // All other changes wait meanwhile.
        if stated.is_empty() && !brings_nodes && !is_opening {
            continue;
        }
        let detours = Detours::of(after);
        // The nodes of a mesh that is new are too.
        let before = step.before.mesh(mesh.as_str()).filter(|_| is_opening).map(|before| Detours::of(before));
        let opened = before.as_ref().map(|before| detours.since(before)).filter(|opened| !opened.is_empty());
        if stated.is_empty() && !brings_nodes && opened.is_none() {
            continue;
        }
        let key_of = |detour: &Detour<'_>| ResourceKey {
            kind: Kind::VirtualNode,
            mesh: mesh.clone(),
            name: detour.node.clone(),
        };
        let mut told = detours.listeners().filter(|detour| {
            detour.is_by(&stated)
                || step.places.contains_key(&key_of(detour))
                || opened.as_ref().is_some_and(|opened| opened.brings(detour))
        });
        let first = told.by_ref().take(MOST);
        warnings.extend(first.map(|detour| format!("{}, {detour}: {MEND}", key_of(&detour))));
        if let more @ 1.. = told.count() {
            let listeners = if more == 1 { "listener" } else { "listeners" };
            warnings.push(format!(
                "{more} more {listeners} of mesh {mesh} at which what is said of some routes is gone round: {MEND}"
            ));
        }
    }
}

/// Whether such a resource says something of routes, or has them.
fn states(kind: Kind) -> bool {
    matches!(kind, Kind::Boundary | Kind::Policy | Kind::PolicyTemplate | Kind::VirtualNode)
}

/// Whether such a resource may have what others say be for more than before.
fn may_open(kind: Kind) -> bool {
    matches!(kind, Kind::DataClass | Kind::Mesh | Kind::VirtualService)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use hauberk_proto::mesh::v1::{Resource, resource::Spec};

    use crate::resources::Catalog;
    use crate::resources::testing::*;

    fn told(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
        let warnings = try_admit(catalog, batch, EVERYTHING).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.contains("`undeclared: DENY`")).collect()
    }

    fn carded(port: u32, class: &str) -> hauberk_proto::mesh::v1::Listener {
        classified(listener(port, "http"), "/card", &[class])
    }

    fn pii() -> Resource {
        policy("pii", "forbid(principal, action, resource in DataClass::\"pii\");")
    }

    #[test]
    fn whoever_brings_the_policy_or_the_node_is_told() {
        let orders = node("orders", [carded(8080, "pii")]);
        let all = policy("all", "permit(principal is Node, action, resource);");
        let catalog = catalog_of(&[mesh("shop"), data_class("pii", &[]), all.clone(), orders.clone(), pii()]);
        let expected = "VirtualNode shop/orders, port 8080: pii holds for some of its routes alone";
        for brought in [orders, pii()] {
            let told = told(&catalog, &[brought]);
            assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
        }
        assert!(told(&catalog, &[node("web", [])]).is_empty() && told(&catalog, &[all]).is_empty());
    }

    #[test]
    fn so_is_whoever_has_it_reached_or_forbidden_by_a_change_elsewhere() {
        let permit = policy("p", "permit(principal is Node, action, resource in Service::\"orders\");");
        let orders = service("orders", "orders", None);
        let stored = |others: &[Resource]| {
            let mut all = vec![mesh("shop"), data_class("card", &[]), data_class("pii", &["card"]), pii()];
            all.push(node("orders", [carded(8080, "card")]));
            all.push(node("web", []));
            all.extend_from_slice(others);
            catalog_of(&all)
        };
        let expected = "VirtualNode shop/orders, port 8080: pii holds for some of its routes alone";
        let elsewhere = service("orders", "web", None);
        let permitted = stored(&[orders.clone(), permit.clone()]);
        let apart = try_admit(&permitted, &[data_class("pii", &[])], EVERYTHING).unwrap().after;
        let mut auditing = mesh("shop");
        if let Some(Spec::MeshSpec(mesh)) = &mut auditing.spec {
            mesh.authorization = Some("AUDIT".to_owned());
        }
        for (before, brought) in [
            (stored(&[elsewhere.clone(), permit.clone()]), orders.clone()),
            (stored(from_ref(&orders)), permit.clone()),
            (apart, data_class("pii", &["card"])),
            (stored(&[]), auditing),
        ] {
            let now = told(&before, from_ref(&brought));
            assert!(now.len() == 1 && now[0].starts_with(expected), "{brought:?}: {now:?}");
        }
        // What was so before is not told again.
        for brought in
            [orders, permit, data_class("pii", &["card"]), data_class("other", &["card"]), elsewhere]
        {
            assert!(told(&permitted, from_ref(&brought)).is_empty(), "{brought:?}");
        }
    }

    #[test]
    fn the_first_are_told_and_the_others_counted() {
        let all = policy("all", "permit(principal is Node, action, resource);");
        let catalog = catalog_of(&[mesh("shop"), data_class("pii", &[]), all, pii()]);
        let many = |count: u32| {
            let listeners: Vec<_> = (1..=count).map(|port| carded(port, "pii")).collect();
            told(&catalog, &[node("orders", listeners)])
        };
        assert_eq!(many(20).len(), 20);
        let told = many(23);
        assert_eq!(told.len(), 21);
        assert!(told[20].starts_with("3 more listeners of mesh shop at which"), "{told:?}");
    }
}
