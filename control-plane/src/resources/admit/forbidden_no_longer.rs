//! Warns of what a change of a node or service takes from under forbids that name it.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::Referent;

use super::Step;
use crate::resources::idle_forbids::{IdleForbid, idle_forbids};
use crate::resources::key::{Kind, ResourceKey};

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Tells which routes, ports and services go, and which forbids stop nothing then. A new forbid that names nothing is
/// refused.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    let bears = |kind| matches!(kind, Kind::VirtualNode | Kind::VirtualService);
    let meshes: BTreeSet<&Name> =
        step.places.keys().filter(|key| bears(key.kind)).map(|key| &key.mesh).collect();
    for name in meshes {
        let meshes = step.before.mesh(name.as_str()).zip(step.after.mesh(name.as_str()));
        let Some((before, after)) = meshes else { continue };
        let is_touched =
            |referent: &Referent| of(name, referent).is_some_and(|key| step.places.contains_key(&key));
        let known = idle_forbids(before, is_touched);
        let found = idle_forbids(after, is_touched);
        let is_new = |idle: &&IdleForbid<'_>| !known.iter().any(|known| known.referent == idle.referent);
        let told: Vec<&IdleForbid<'_>> = found.iter().filter(is_new).collect();
        for idle in told.iter().take(MOST) {
            let Some(key) = of(name, idle.referent) else { continue };
            let may = if idle.is_whole { "stops" } else { "may stop" };
            let instead = idle.instead(after).map(|instead| format!("; {instead}")).unwrap_or_default();
            warnings.push(format!(
                "{key}: {} is there no longer, and what forbids by it in {} {may} nothing: what was forbidden so is \
                 let through from then on, wherever a policy permits it{instead}",
                idle.place(),
                idle.by()
            ));
        }
        if let more @ 1.. = told.len().saturating_sub(MOST) {
            warnings.push(format!("mesh {name}: {more} more that forbids name are there no longer"));
        }
    }
}

/// The resource that a route, port or service is of.
fn of(mesh: &Name, referent: &Referent) -> Option<ResourceKey> {
    let (kind, name) = match referent {
        Referent::Service(service) => (Kind::VirtualService, service.clone()),
        Referent::Port { node, .. } | Referent::Route { node, .. } => {
            let (_, node) = node.mesh_and_node()?;
            (Kind::of_node(&node), node.name().clone())
        }
        _ => return None,
    };
    Some(ResourceKey { kind, mesh: mesh.clone(), name })
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1::{Listener, Resource};

    use super::*;
    use crate::resources::admit::{Target, admit_removal};
    use crate::resources::testing::*;

    const NO_X: &str = "forbid(principal, action, resource == Route::\"orders:8080 GET /x\");";

    fn orders(described: &[&str]) -> Resource {
        let open: Listener = routes(listener(8080, "http"), described);
        node("orders", [open])
    }

    #[test]
    fn a_forbid_that_a_change_of_routes_switches_off_is_told() {
        let catalog = catalog_of(&[mesh("shop"), orders(&["GET /x", "/y"]), policy("no-x", NO_X)]);
        let told = |batch: &[Resource]| -> Vec<String> {
            let warnings = try_admit(&catalog, batch, EVERYTHING).unwrap().warnings;
            warnings.into_iter().filter(|warning| warning.contains("forbids by it")).collect()
        };
        let gone = |instead: &str| {
            [format!(
                "VirtualNode shop/orders: route \"GET /x\" of port 8080 of virtual node orders is there no longer, \
                 and what forbids by it in no-x stops nothing: what was forbidden so is let through from then on, \
                 wherever a policy permits it{instead}"
            )]
        };
        assert_eq!(told(&[orders(&["GET,PUT /x", "/y"])]), gone("; did you mean \"GET,PUT /x\"?"));
        assert_eq!(told(&[orders(&["/y"])]), gone(""));
        assert_eq!(told(&[orders(&["GET /x"])]), [""; 0]);
        let renamed = policy("no-x", &NO_X.replace("GET /x", "GET,PUT /x"));
        assert_eq!(told(&[orders(&["GET,PUT /x"]), renamed]), [""; 0]);
        // It stopped nothing before.
        let after = try_admit(&catalog, &[orders(&["/y"])], EVERYTHING).unwrap().after;
        let again = try_admit(&after, &[orders(&["/z"])], EVERYTHING).unwrap().warnings;
        assert!(!again.iter().any(|warning| warning.contains("forbids by it")), "{again:?}");
    }

    #[test]
    fn so_is_one_of_a_service_that_goes() {
        let catalog = catalog_of(&[
            mesh("shop"),
            node("web", []),
            orders(&["/y"]),
            service("orders", "orders", None),
            forbid("no-web", "web", "orders"),
        ]);
        let name = |text| Name::parse(text).unwrap();
        let key = ResourceKey { kind: Kind::VirtualService, mesh: name("shop"), name: name("orders") };
        let target = Target { key, resource_version: 0, ignore_missing: false };
        let warnings = admit_removal(&catalog, &[target], EVERYTHING, &trust_domain()).unwrap().warnings;
        let told = "VirtualService shop/orders: virtual service orders is there no longer, and what forbids by it in";
        assert!(warnings.iter().any(|warning| warning.starts_with(told)), "{warnings:?}");
    }
}
