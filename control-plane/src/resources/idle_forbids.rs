//! Forbids that stop nothing, because the route, port or service that they name is not there: whoever wrote them goes
//! on trusting in them, and what they forbade is let through wherever a policy permits it.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::SpiffeId;
use hauberk_policy::{Effect, Mode, Referent, UNDECLARED};

use super::key::Kind;
use super::mesh_catalog::MeshCatalog;

/// The most policies of which it is told.
const MOST_TOLD: usize = 5;

/// What to do about it.
pub(crate) const MEND: &str =
    "name in it what takes those requests now, or delete the forbid: it stops none of them";

/// Something that is not there, with the policies and boundaries that forbid by it.
#[derive(Debug)]
pub(crate) struct IdleForbid<'a> {
    pub(crate) referent: &'a Referent,
    /// What a statement is about as a whole, so that it stops nothing; otherwise a condition names it, and may say that
    /// something is excepted.
    pub(crate) is_whole: bool,
    by: BTreeSet<String>,
}

/// Those that a mesh enforces, of what is asked about, in order.
pub(crate) fn idle_forbids<'a>(
    mesh: &'a MeshCatalog,
    is_asked: impl Fn(&Referent) -> bool,
) -> Vec<IdleForbid<'a>> {
    let mut looked_at: BTreeMap<&Referent, bool> = BTreeMap::new();
    let mut found: BTreeMap<(&Referent, bool), BTreeSet<String>> = BTreeMap::new();
    for document in mesh.policies().filter(|document| document.mode() != Mode::Audit) {
        let forbidding = document.references().iter().filter(|reference| reference.effect == Effect::Deny);
        for referent in forbidding.map(|reference| &reference.referent).filter(|referent| is_asked(referent))
        {
            if *looked_at.entry(referent).or_insert_with(|| is_missing(mesh, referent)) {
                let is_whole = document.resources(Effect::Deny).any(|of| of == Some(referent));
                found.entry((referent, !is_whole)).or_default().insert(document.label());
            }
        }
    }
    let found = found.into_iter();
    found.map(|((referent, is_part), by)| IdleForbid { referent, is_whole: !is_part, by }).collect()
}

impl IdleForbid<'_> {
    /// `route "GET /x" of port 8080 of orders`.
    pub(crate) fn place(&self) -> String {
        let node = |node: &SpiffeId| {
            let named = node.mesh_and_node().map(|(_, node)| node.in_words());
            named.unwrap_or_else(|| node.to_string())
        };
        match self.referent {
            Referent::Service(service) => format!("virtual service {service}"),
            Referent::Port { node: of, number } => format!("port {number} of {}", node(of)),
            Referent::Route { node: of, port, template } => {
                format!("route {template:?} of port {port} of {}", node(of))
            }
            // Of others it is not looked at whether they are there.
            other => format!("{other:?}"),
        }
    }

    /// The policies and boundaries, the first of them by name and how many more there are.
    pub(crate) fn by(&self) -> String {
        let mut told: Vec<String> = self.by.iter().take(MOST_TOLD).cloned().collect();
        if let more @ 1.. = self.by.len().saturating_sub(MOST_TOLD) {
            told.push(format!("{more} more"));
        }
        told.join(", ")
    }

    /// What stands there in its place, if that is known.
    pub(crate) fn instead(&self, mesh: &MeshCatalog) -> Option<String> {
        let Referent::Route { node, port, template } = self.referent else { return None };
        let listener = mesh.node_or_gateway(&node.mesh_and_node()?.1)?.listener(*port)?;
        let declared = listener.routes().iter().map(|route| route.template.as_str());
        of_same_path(template, declared).map(|route| format!("did you mean {route:?}?"))
    }
}

/// Whether a route, port or service is not there.
fn is_missing(mesh: &MeshCatalog, referent: &Referent) -> bool {
    let (node, number, template) = match referent {
        Referent::Service(service) => return !mesh.of_kind(Kind::VirtualService).contains_key(service),
        Referent::Port { node, number } => (node, *number, None),
        Referent::Route { node, port, template } => (node, *port, Some(template.as_str())),
        _ => return false,
    };
    let Some((_, node)) = node.mesh_and_node() else { return false };
    if !mesh.of_kind(Kind::of_node(&node)).contains_key(node.name()) {
        return true;
    }
    // Of one that cannot be read nothing is known.
    let Some(found) = mesh.node_or_gateway(&node) else { return false };
    let Some(listener) = found.listener(number) else { return true };
    template.is_some_and(|template| {
        let mut declared = listener.routes().iter().map(|route| route.template.as_str());
        template != UNDECLARED && !declared.any(|route| route == template)
    })
}

/// The route of the same path, of several the one with most of the methods: a method more or less makes it another
/// route, and its requests are these.
pub(crate) fn of_same_path<'r>(template: &str, declared: impl Iterator<Item = &'r str>) -> Option<&'r str> {
    let (methods, path) = template.split_once(' ').unwrap_or(("", template));
    let methods: BTreeSet<&str> = methods.split(',').filter(|method| !method.is_empty()).collect();
    let mut best: Option<(usize, &str)> = None;
    for route in declared {
        let (others, other) = route.split_once(' ').unwrap_or(("", route));
        if !without_names(other).eq(without_names(path)) {
            continue;
        }
        let common = others.split(',').filter(|method| methods.contains(method)).count();
        if best.is_none_or(|(most, _)| common > most) {
            best = Some((common, route));
        }
    }
    best.map(|(_, route)| route)
}

/// A path without the names of its parameters, by which no request is told apart.
fn without_names(path: &str) -> impl Iterator<Item = char> {
    let mut is_name = false;
    path.chars().filter(move |char| {
        is_name &= !matches!(char, '}' | '.');
        let is_kept = !is_name;
        is_name |= *char == '{';
        is_kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::testing::*;

    #[test]
    fn what_stops_nothing_is_told_with_who_forbids_by_it() {
        let scoped = "forbid(principal, action, resource == Route::\"orders:8080 GET /x\");";
        let batch = [
            mesh("shop"),
            node("orders", [routes(listener(8080, "http"), &["GET /x", "/y"]), listener(9090, "http")]),
            service("orders", "orders", None),
            policy("no-x", scoped),
            boundary("no-x", scoped),
            policy("no-admin", "forbid(principal, action, resource in Port::\"orders:9090\");"),
            policy("no-orders", "forbid(principal, action, resource in Service::\"orders\");"),
            policy(
                "but-y",
                "forbid(principal, action, resource) unless { resource == Route::\"orders:8080 /y\" };",
            ),
            policy("all", "permit(principal is Node, action, resource == Route::\"orders:8080 GET /x\");"),
        ];
        let catalog = catalog_of(&batch);
        let told = |catalog: &crate::resources::Catalog| -> Vec<String> {
            let shop = catalog.mesh("shop").unwrap();
            let found = idle_forbids(shop, |_| true);
            let one = |idle: &IdleForbid<'_>| {
                let instead = idle.instead(shop).unwrap_or_default();
                format!("{} {} by {} {instead}", idle.is_whole, idle.place(), idle.by())
            };
            found.iter().map(one).collect()
        };
        assert_eq!(told(&catalog), [""; 0]);
        let changed = node("orders", [routes(listener(8080, "http"), &["GET,PUT /x"])]);
        let changed = try_admit(&catalog, &[changed], EVERYTHING).unwrap().after;
        let changed = once_gone(&changed, Kind::VirtualService, "orders");
        let mut found = told(&changed);
        found.sort();
        assert_eq!(
            found,
            [
                "false route \"/y\" of port 8080 of virtual node orders by but-y ",
                "true port 9090 of virtual node orders by no-admin ",
                "true route \"GET /x\" of port 8080 of virtual node orders by boundary:no-x, no-x \
                 did you mean \"GET,PUT /x\"?",
                "true virtual service orders by no-orders ",
            ]
        );
    }

    #[test]
    fn the_route_of_the_same_path_and_most_of_the_methods_is_meant() {
        let declared = ["POST /x", "GET,PUT /x", "GET /xy", "GET /o/{id}", "/o/{rest...}", "shop.Orders/Get"];
        for (template, expected) in [
            ("GET /x", Some("GET,PUT /x")),
            ("/x", Some("POST /x")),
            ("GET /o/{order}", Some("GET /o/{id}")),
            ("GET /o/{path...}", Some("/o/{rest...}")),
            ("GET /z", None),
            ("shop.Orders/Get", Some("shop.Orders/Get")),
        ] {
            assert_eq!(of_same_path(template, declared.into_iter()), expected, "{template}");
        }
    }
}
