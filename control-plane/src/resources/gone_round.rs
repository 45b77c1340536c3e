//! Listeners at which what is said of some routes is gone round: a path that no template matches belongs to none of them, and an app
//! may answer it all the same as one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{Effect, Mode, PolicyDocument, Protocol, Referent, UNDECLARED, Undeclared};

use super::mesh_catalog::MeshCatalog;
use super::virtual_node::Listener;

/// The most policies of which it is told.
const MOST_TOLD: usize = 5;

/// What to do about it.
pub(crate) const MEND: &str =
    "write `undeclared: DENY` on the listener, so that what matches none of its routes is denied";

/// One such listener.
#[derive(Debug)]
pub(crate) struct GoneRound<'a> {
    pub(crate) node: &'a Name,
    port: u16,
    /// Policies and boundaries that forbid some routes by their names or data classes.
    by: Vec<&'a PolicyDocument>,
    /// Some routes ask for a user, and the others do not.
    is_by_users: bool,
}

impl GoneRound<'_> {
    /// Whether this policy or boundary is one that is gone round.
    pub(crate) fn is_by(&self, label: &str) -> bool {
        self.by.iter().any(|document| document.label() == label)
    }
}

impl fmt::Display for GoneRound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by: Vec<String> = self.by.iter().take(MOST_TOLD).map(|document| document.label()).collect();
        if let more @ 1.. = self.by.len().saturating_sub(MOST_TOLD) {
            by.push(format!("{more} more"));
        }
        if self.is_by_users {
            by.push("`users: REQUIRED`".to_owned());
        }
        write!(
            f,
            "port {}: {} holds for some of its routes alone, and other spellings of a path, such as /a/ and /A for /a, are of \
             none of them, though many apps answer them alike",
            self.port,
            by.join(", ")
        )
    }
}

/// Those of a mesh, where some permit may let through what matches no route.
pub(crate) fn gone_round(mesh: &MeshCatalog) -> Vec<GoneRound<'_>> {
    let (permitted, forbidden) = (Permitted::of(mesh), Forbidden::of(mesh));
    let mut found = Vec::new();
    for (node, resource) in mesh.nodes() {
        for listener in resource.listeners() {
            let is_concerned = matches!(listener.protocol(), Protocol::Http | Protocol::Http2)
                && listener.undeclared() == Undeclared::Decide
                && !listener.routes().is_empty();
            if !is_concerned || !permitted.reaches(node, listener.port()) {
                continue;
            }
            let (by, is_by_users) = (forbidden.at(node, listener), asks_users_of_some(listener));
            if !by.is_empty() || is_by_users {
                found.push(GoneRound { node, port: listener.port(), by, is_by_users });
            }
        }
    }
    found
}

fn asks_users_of_some(listener: &Listener) -> bool {
    listener.users().is_some_and(|users| !users.required)
        && listener.routes().iter().any(|route| route.requires_user == Some(true))
}

/// What permits are for by their scopes, as far as requests of no declared route may be in it.
#[derive(Default)]
struct Permitted {
    all: bool,
    nodes: BTreeSet<Name>,
    ports: BTreeSet<(Name, u16)>,
}

impl Permitted {
    fn of(mesh: &MeshCatalog) -> Self {
        let mut permitted = Self::default();
        let deciding = mesh.policies().filter(|document| document.mode() == Mode::Enforce);
        for resource in deciding.flat_map(|document| document.resources(Effect::Allow)) {
            match resource {
                Some(Referent::Service(service)) => {
                    let provider = mesh.service(service.as_str()).and_then(|service| service.provider());
                    match provider.map(|provider| (provider.node().clone(), provider.port())) {
                        Some((node, Some(port))) => drop(permitted.ports.insert((node, port))),
                        Some((node, None)) => drop(permitted.nodes.insert(node)),
                        None => {}
                    }
                }
                Some(Referent::Node { node, .. }) => drop(permitted.nodes.insert(node.name().clone())),
                Some(Referent::Port { node, number }) => permitted.ports.extend(port_of(node, *number)),
                Some(Referent::Route { node, port, template }) if template == UNDECLARED => {
                    permitted.ports.extend(port_of(node, *port));
                }
                Some(Referent::Route { .. } | Referent::DataClass(_) | Referent::External(_)) => {}
                _ => permitted.all = true,
            }
        }
        permitted
    }

    fn reaches(&self, node: &Name, port: u16) -> bool {
        self.all || self.nodes.contains(node) || self.ports.contains(&(node.clone(), port))
    }
}

/// Who forbids what of routes.
#[derive(Default)]
struct Forbidden<'a> {
    /// By each class, also within one that is named.
    classes: BTreeMap<&'a Name, Vec<&'a PolicyDocument>>,
    routes: BTreeMap<(Name, u16), Vec<&'a PolicyDocument>>,
}

impl<'a> Forbidden<'a> {
    fn of(mesh: &'a MeshCatalog) -> Self {
        let mut forbidden = Self::default();
        for document in mesh.policies().filter(|document| document.mode() != Mode::Audit) {
            for resource in document.resources(Effect::Deny).flatten() {
                match resource {
                    Referent::DataClass(class) => {
                        for class in mesh.classes_within(class) {
                            forbidden.classes.entry(class).or_default().push(document);
                        }
                    }
                    Referent::Route { node, port, template } if template != UNDECLARED => {
                        if let Some(port) = port_of(node, *port) {
                            forbidden.routes.entry(port).or_default().push(document);
                        }
                    }
                    _ => {}
                }
            }
        }
        forbidden
    }

    fn at(&self, node: &Name, listener: &Listener) -> Vec<&'a PolicyDocument> {
        let classes: BTreeSet<&Name> = listener.routes().iter().flat_map(|route| &route.classes).collect();
        let by_class = classes.iter().filter_map(|class| self.classes.get(*class)).flatten();
        let by_route = self.routes.get(&(node.clone(), listener.port())).into_iter().flatten();
        let mut by: Vec<&PolicyDocument> = by_class.chain(by_route).copied().collect();
        by.sort_by_key(|document| document.label());
        by.dedup_by_key(|document| document.label());
        by
    }
}

/// A port of a virtual node; gateways have none that requests come to.
fn port_of(node: &SpiffeId, port: u16) -> Option<(Name, u16)> {
    match node.mesh_and_node()?.1 {
        NodeName::Node(node) => Some((node, port)),
        NodeName::Gateway(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1::{Listener as Wire, Resource};

    use super::*;
    use crate::resources::testing::*;

    const PII: &str = "forbid(principal, action, resource in DataClass::\"pii\");";
    const ROUTE: &str = "forbid(principal, action, resource == Route::\"orders:8080 /a\");";

    fn told(listener: Wire, others: &[Resource]) -> Vec<String> {
        let mut batch = vec![
            mesh("shop"),
            data_class("card", &[]),
            data_class("pii", &["card"]),
            node("web", []),
            node("orders", [listener]),
            service("orders", "orders", None),
            service("web", "web", None),
        ];
        batch.extend_from_slice(others);
        let catalog = catalog_of(&batch);
        gone_round(catalog.mesh("shop").unwrap()).iter().map(ToString::to_string).collect()
    }

    fn carded(protocol: &str) -> Wire {
        classified(routes(listener(8080, protocol), &["/a"]), "/orders/{id}/card", &["card"])
    }

    #[test]
    fn what_forbids_some_routes_is_gone_round_where_others_are_permitted() {
        let all = policy("all", "permit(principal is Node, action, resource);");
        let others = [all.clone(), boundary("pii", PII), policy("a", ROUTE)];
        let found = told(carded("http"), &others);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("port 8080: a, boundary:pii holds for some of its routes alone"),
            "{found:?}"
        );
        for (permit, is_told) in [
            ("resource in Service::\"orders\"", true),
            ("resource in Service::\"web\"", false),
            ("resource in Node::\"orders\"", true),
            ("resource in Port::\"orders:8080\"", true),
            ("resource == Route::\"orders:8080 *undeclared\"", true),
            ("resource == Route::\"orders:8080 /a\"", false),
            ("resource in DataClass::\"pii\"", false),
            ("resource in Mesh::\"shop\"", true),
        ] {
            let permit = policy("p", &format!("permit(principal is Node, action, {permit});"));
            assert_eq!(!told(carded("http"), &[permit, policy("pii", PII)]).is_empty(), is_told);
        }
        let elsewhere = policy("w", "forbid(principal, action, resource in Service::\"orders\");");
        assert!(told(carded("http"), &[all.clone(), elsewhere]).is_empty(), "it forbids other paths too");
        let denying = Wire { undeclared: Some("DENY".to_owned()), ..carded("http") };
        assert!(told(denying, &others).is_empty());
        assert!(told(listener(8080, "http"), &[all, boundary("pii", PII)]).is_empty());
    }

    #[test]
    fn so_is_what_asks_for_users_of_some_routes() {
        let all = policy("all", "permit(principal is Node, action, resource);");
        let asking = |mode: &str| {
            let mut asking = for_users(carded("http2"), mode, &[]);
            asking.routes[0].users = Some("REQUIRED".to_owned());
            asking
        };
        let others = [all, issuer("login", |_| {})];
        let found = told(asking("OPTIONAL"), &others);
        assert!(found[0].contains("`users: REQUIRED` holds for some"), "{found:?}");
        assert!(told(asking("REQUIRED"), &others).is_empty());
    }
}
