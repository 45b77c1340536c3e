//! Forbids that stop nothing, because the route or service that they are about is not there: whoever wrote them goes on
//! trusting in them, and what they forbade is let through wherever a policy permits it. Where the port or the node is
//! gone too, nothing is let through; and what conditions name may be excepted by them.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::SpiffeId;
use hauberk_policy::{Effect, Mode, Referent, RouteTemplate, UNDECLARED, Undeclared};

use super::key::Kind;
use super::mesh_catalog::MeshCatalog;
use super::virtual_node::Listener;

/// The most policies of which it is told.
const MOST_TOLD: usize = 5;

/// What to do about it.
pub(crate) const MEND: &str =
    "name in it what takes those requests now, or delete the forbid: it stops none of them";

/// Something that is not there, with the policies and boundaries that forbid by it.
#[derive(Debug)]
pub(crate) struct IdleForbid<'a> {
    pub(crate) referent: &'a Referent,
    by: BTreeSet<String>,
}

/// Those that a mesh enforces, of what is asked about, in order.
pub(crate) fn idle_forbids<'a>(
    mesh: &'a MeshCatalog,
    is_asked: impl Fn(&Referent) -> bool,
) -> Vec<IdleForbid<'a>> {
    // What is there has nobody.
    let mut looked_at: BTreeMap<&Referent, Option<BTreeSet<String>>> = BTreeMap::new();
    for document in mesh.policies().filter(|document| document.mode() != Mode::Audit) {
        for referent in document.resources(Effect::Deny).flatten().filter(|referent| is_asked(referent)) {
            let is_idle = || is_missing(mesh, referent).then(BTreeSet::new);
            if let Some(by) = looked_at.entry(referent).or_insert_with(is_idle) {
                by.insert(document.label());
            }
        }
    }
    let found = looked_at.into_iter().filter_map(|(referent, by)| Some((referent, by?)));
    found.map(|(referent, by)| IdleForbid { referent, by }).collect()
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

/// Whether a service is not there, or a route whose requests a listener takes all the same.
fn is_missing(mesh: &MeshCatalog, referent: &Referent) -> bool {
    match referent {
        Referent::Service(service) => !mesh.of_kind(Kind::VirtualService).contains_key(service),
        Referent::Route { node, port, template } => {
            // Where there is no such node or port nothing is let through, and of a node that cannot be read nothing is
            // known.
            let found = node.mesh_and_node().and_then(|(_, node)| mesh.node_or_gateway(&node));
            let listener = found.and_then(|found| found.listener(*port));
            listener.is_some_and(|listener| takes_undeclared(listener, template))
        }
        _ => false,
    }
}

/// Whether a listener does not declare a route, and policies decide about its requests nevertheless.
fn takes_undeclared(listener: &Listener, template: &str) -> bool {
    let declared = || listener.routes().iter().map(|route| &route.template);
    if template == UNDECLARED || declared().any(|route| route.as_str() == template) {
        return false;
    }
    listener.undeclared() == Undeclared::Decide
        || RouteTemplate::parse(template)
            .is_ok_and(|template| declared().any(|route| route.shares_requests_with(&template)))
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
            node(
                "orders",
                [routes(listener(8080, "http"), &["GET /x", "/y"]), routes(listener(9090, "http"), &["/z"])],
            ),
            service("orders", "orders", None),
            policy("no-x", scoped),
            boundary("no-x", scoped),
            policy("no-admin", "forbid(principal, action, resource in Port::\"orders:9090\");"),
            policy("no-z", "forbid(principal, action, resource == Route::\"orders:9090 /z\");"),
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
                format!("{} by {} {instead}", idle.place(), idle.by())
            };
            found.iter().map(one).collect()
        };
        assert_eq!(told(&catalog), [""; 0]);
        // Of port 9090 nothing is let through any longer, and what is excepted no longer is forbidden.
        let changed = node("orders", [routes(listener(8080, "http"), &["GET,PUT /x"])]);
        let changed = try_admit(&catalog, &[changed], EVERYTHING).unwrap().after;
        let changed = once_gone(&changed, Kind::VirtualService, "orders");
        let mut found = told(&changed);
        found.sort();
        assert_eq!(
            found,
            [
                "route \"GET /x\" of port 8080 of virtual node orders by boundary:no-x, no-x \
                 did you mean \"GET,PUT /x\"?",
                "virtual service orders by no-orders ",
            ]
        );
        assert_eq!(
            told(&once_gone(&changed, Kind::VirtualNode, "orders")),
            ["virtual service orders by no-orders "]
        );
    }

    #[test]
    fn a_route_that_no_other_takes_the_requests_of_is_denied_where_what_is_undeclared_is() {
        let orders = |undeclared: &str, declared: &[&str]| {
            let mut listener = routes(listener(8080, "http"), declared);
            listener.undeclared = Some(undeclared.to_owned());
            node("orders", [listener])
        };
        let no_x = "forbid(principal, action, resource == Route::\"orders:8080 GET /x\");";
        let catalog = catalog_of(&[mesh("shop"), orders("DENY", &["GET /x", "/y"]), policy("no-x", no_x)]);
        let is_told = |undeclared: &str, declared: &[&str]| {
            let after = try_admit(&catalog, &[orders(undeclared, declared)], EVERYTHING).unwrap().after;
            !idle_forbids(after.mesh("shop").unwrap(), |_| true).is_empty()
        };
        for declared in [&["/y"][..], &["PUT /x", "/x/y"]] {
            assert!(!is_told("DENY", declared), "{declared:?}");
            assert!(is_told("DECIDE", declared), "{declared:?}");
        }
        for declared in [&["GET,PUT /x"][..], &["HEAD /x"], &["/x"], &["/y", "GET /{one}"], &["/{rest...}"]] {
            assert!(is_told("DENY", declared), "{declared:?}");
        }
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
