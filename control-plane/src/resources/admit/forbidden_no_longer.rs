//! Warns of what a change of a node or service takes from under forbids that name it.

use std::collections::BTreeSet;

use hauberk_identity::{Name, NodeName};
use hauberk_policy::Referent;

use super::Step;
use crate::resources::Model;
use crate::resources::idle_forbids::{IdleForbid, idle_forbids};
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::virtual_service::Provider;

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Tells which routes and services go, and which forbids stop nothing then. A new forbid that names nothing is
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
        let known: BTreeSet<&Referent> =
            idle_forbids(before, is_touched).into_iter().map(|idle| idle.referent).collect();
        let found = idle_forbids(after, is_touched);
        let is_new = |idle: &&IdleForbid<'_>| {
            !known.contains(idle.referent) && may_be_let_through(idle.referent, before, after)
        };
        let told: Vec<&IdleForbid<'_>> = found.iter().filter(is_new).collect();
        for idle in told.iter().take(MOST) {
            let Some(key) = of(name, idle.referent) else { continue };
            let instead = idle.instead(after).map(|instead| format!("; {instead}")).unwrap_or_default();
            warnings.push(format!(
                "{key}: {} is there no longer, and what forbids by it in {} stops nothing: what was forbidden so is \
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

/// Whether something of what a forbid was about is let through yet: of a service that goes with the ports that were it
/// nothing is.
fn may_be_let_through(referent: &Referent, before: &MeshCatalog, after: &MeshCatalog) -> bool {
    let Referent::Service(service) = referent else { return true };
    let former = before.of_kind(Kind::VirtualService).get(service).map(|entry| entry.model());
    // Of one that could not be read it is not known which those were.
    let Some(Model::VirtualService(former)) = former else { return true };
    let node = |provider: &Provider| after.node_or_gateway(&NodeName::Node(provider.node().clone()));
    former.provider().is_some_and(|provider| {
        node(provider)
            .is_some_and(|node| node.listeners().iter().any(|listener| provider.takes(listener.port())))
    })
}

/// The resource that a route or service is of.
fn of(mesh: &Name, referent: &Referent) -> Option<ResourceKey> {
    let (kind, name) = match referent {
        Referent::Service(service) => (Kind::VirtualService, service.clone()),
        Referent::Route { node, .. } => {
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
        let removed = |kinds: &[Kind]| {
            let target = |kind: &Kind| {
                let key = ResourceKey { kind: *kind, mesh: name("shop"), name: name("orders") };
                Target { key, resource_version: 0, ignore_missing: false }
            };
            let targets: Vec<_> = kinds.iter().map(target).collect();
            admit_removal(&catalog, &targets, EVERYTHING, &trust_domain()).unwrap().warnings
        };
        let warnings = removed(&[Kind::VirtualService]);
        let told = "VirtualService shop/orders: virtual service orders is there no longer, and what forbids by it in";
        assert!(warnings.iter().any(|warning| warning.starts_with(told)), "{warnings:?}");
        // Nothing is let through without its ports.
        let warnings = removed(&[Kind::VirtualService, Kind::VirtualNode]);
        assert!(!warnings.iter().any(|warning| warning.contains("forbids by it")), "{warnings:?}");
    }

    #[test]
    fn what_goes_with_its_port_or_is_excepted_is_not_told() {
        let excepted =
            "forbid(principal, action, resource) unless { resource == Route::\"orders:8080 GET /x\" };";
        let catalog = catalog_of(&[
            mesh("shop"),
            orders(&["GET /x", "/y"]),
            policy("no-x", NO_X),
            policy("but-x", excepted),
            policy("no-port", "forbid(principal, action, resource in Port::\"orders:8080\");"),
        ]);
        let other_port = node("orders", [routes(listener(9090, "http"), &["GET /x"])]);
        for (changed, told) in [(other_port, 0), (node("orders", []), 0), (orders(&["/y"]), 1)] {
            let warnings = try_admit(&catalog, &[changed], EVERYTHING).unwrap().warnings;
            let told_of: Vec<_> = warnings.iter().filter(|one| one.contains("forbids by it")).collect();
            assert_eq!(told_of.len(), told, "{warnings:?}");
            assert!(told_of.iter().all(|one| one.contains("in no-x stops nothing")), "{warnings:?}");
        }
    }
}
