//! Listeners at which what is said of some routes is gone round: a path that no template matches belongs to none of
//! them, and an app may answer it all the same as one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{
    Authorization, Effect, Mode, PolicyDocument, Protocol, Referent, UNDECLARED, Undeclared,
};

use super::mesh_catalog::MeshCatalog;
use super::virtual_node::Listener;

/// The most policies of which it is told.
const MOST_TOLD: usize = 5;

/// What to do about it.
pub(crate) const MEND: &str =
    "write `undeclared: DENY` on the listener, so that what matches none of its routes is denied";

/// What of a mesh decides where what is said of some routes is gone round.
pub(crate) struct Detours<'a> {
    mesh: &'a MeshCatalog,
    permitted: Permitted,
    forbidden: RouteForbids<'a>,
}

impl<'a> Detours<'a> {
    /// Reads it from a mesh.
    pub(crate) fn of(mesh: &'a MeshCatalog) -> Self {
        let (permitted, forbidden) = (Permitted::of(mesh), RouteForbids::among(mesh, mesh.policies()));
        Self { mesh, permitted, forbidden }
    }

    /// The listeners where what matches no route may be let through, by some permit or without any. Who forbids is
    /// looked up for those alone that are told.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = Detour<'_>> {
        let Self { mesh, permitted, forbidden } = self;
        let all = mesh.nodes().flat_map(move |(node, resource)| {
            resource.listeners().iter().map(move |listener| {
                let is_by_users = asks_users_of_some(listener);
                Detour { node, listener, forbidden, is_by_users }
            })
        });
        let is_concerned = |one: &Detour<'_>| {
            matches!(one.listener.protocol(), Protocol::Http | Protocol::Http2)
                && one.listener.undeclared() == Undeclared::Decide
                && !one.listener.routes().is_empty()
                && permitted.reaches(one.node, one.listener)
        };
        all.filter(move |one| is_concerned(one) && (one.is_by_users || one.is_by(forbidden)))
    }

    /// What is permitted, and of which classes, that was not in `former`, which is the same mesh before a change.
    pub(crate) fn since<'f>(&'f self, former: &'f Detours<'_>) -> Opened<'f> {
        let is_new = |(class, named): &(&&'a Name, &Vec<&'a Name>)| {
            let before = former.forbidden.classes.get(**class);
            // In order, as they were found.
            named.iter().any(|name| before.is_none_or(|before| before.binary_search(name).is_err()))
        };
        let classes = self.forbidden.classes.iter().filter(is_new).map(|(class, _)| *class);
        let is_wider = self.permitted != former.permitted;
        Opened { permitted: is_wider.then_some(&former.permitted), classes: classes.collect() }
    }
}

/// What a change of a mesh opens or forbids, its nodes aside.
pub(crate) struct Opened<'a> {
    /// What was permitted before, where that was something else.
    permitted: Option<&'a Permitted>,
    /// The classes that are forbidden by other names than before.
    classes: BTreeSet<&'a Name>,
}

impl Opened<'_> {
    /// Whether it is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.permitted.is_none() && self.classes.is_empty()
    }

    /// Whether what is said at this listener was not gone round before, or by fewer names of classes.
    pub(crate) fn brings(&self, detour: &Detour<'_>) -> bool {
        self.permitted.is_some_and(|former| !former.reaches(detour.node, detour.listener))
            || detour.classes().any(|class| self.classes.contains(class))
    }
}

/// A listener at which what is said of some routes is gone round.
pub(crate) struct Detour<'a> {
    pub(crate) node: &'a Name,
    listener: &'a Listener,
    forbidden: &'a RouteForbids<'a>,
    /// Some routes ask for a user, and the others do not.
    is_by_users: bool,
}

impl Detour<'_> {
    /// Whether one of these forbids is gone round.
    pub(crate) fn is_by(&self, forbids: &RouteForbids<'_>) -> bool {
        self.classes().any(|class| forbids.classes.contains_key(class))
            || forbids.routes.contains_key(&(self.node.clone(), self.listener.port()))
    }

    /// Of its routes; one may come several times.
    fn classes(&self) -> impl Iterator<Item = &Name> {
        self.listener.routes().iter().flat_map(|route| &route.classes)
    }

    /// Policies and boundaries that forbid some routes by their names or data classes: policies first, each in order.
    fn by(&self) -> Vec<&PolicyDocument> {
        let classes: BTreeSet<&Name> = self.classes().collect();
        let named: BTreeSet<&Name> = classes
            .iter()
            .filter_map(|class| self.forbidden.classes.get(*class))
            .flatten()
            .copied()
            .collect();
        let by_class = named.iter().filter_map(|class| self.forbidden.named.get(*class)).flatten();
        let port = (self.node.clone(), self.listener.port());
        let by_route = self.forbidden.routes.get(&port).into_iter().flatten();
        let mut by: Vec<&PolicyDocument> = by_class.chain(by_route).copied().collect();
        by.sort_by(|one, other| order(one).cmp(&order(other)));
        by.dedup_by(|one, other| order(one) == order(other));
        by
    }
}

/// Policies before boundaries, each by name: that is all that tells one from another.
fn order(document: &PolicyDocument) -> (bool, &Name) {
    (document.mode() == Mode::Boundary, document.name())
}

impl fmt::Display for Detour<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.by();
        let mut by: Vec<String> = all.iter().take(MOST_TOLD).map(|document| document.label()).collect();
        if let more @ 1.. = all.len().saturating_sub(MOST_TOLD) {
            by.push(format!("{more} more"));
        }
        if self.is_by_users {
            by.push("`users: REQUIRED`".to_owned());
        }
        write!(
            f,
            "port {}: {} holds for some of its routes alone, and other spellings of a path, such as /a/ and /A for \
             /a, are of none of them, though many apps answer them alike",
            self.listener.port(),
            by.join(", ")
        )
    }
}

fn asks_users_of_some(listener: &Listener) -> bool {
    listener.users().is_some_and(|users| !users.required)
        && listener.routes().iter().any(|route| route.requires_user == Some(true))
}

/// What permits are for by their scopes, as far as requests of no declared route may be in it, and what is let through
/// without any.
#[derive(Default, PartialEq, Eq)]
struct Permitted {
    /// What becomes of what no policy permits, where a listener does not say.
    default: Authorization,
    all: bool,
    nodes: BTreeSet<Name>,
    ports: BTreeSet<(Name, u16)>,
}

impl Permitted {
    fn of(mesh: &MeshCatalog) -> Self {
        let default = mesh.spec().map(|mesh| mesh.authorization()).unwrap_or_default();
        let mut permitted = Self { default, ..Self::default() };
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

    fn reaches(&self, node: &Name, listener: &Listener) -> bool {
        self.all
            || listener.authorization().unwrap_or(self.default) == Authorization::Audit
            || self.nodes.contains(node)
            || self.ports.contains(&(node.clone(), listener.port()))
    }
}

/// Who forbids what of routes.
#[derive(Default)]
pub(crate) struct RouteForbids<'a> {
    /// By each class that is named.
    named: BTreeMap<&'a Name, Vec<&'a PolicyDocument>>,
    /// The classes that are forbidden, each with those that are named and that it is within.
    classes: BTreeMap<&'a Name, Vec<&'a Name>>,
    routes: BTreeMap<(Name, u16), Vec<&'a PolicyDocument>>,
}

impl<'a> RouteForbids<'a> {
    /// Those of some policies and boundaries of a mesh.
    pub(crate) fn among(mesh: &'a MeshCatalog, documents: impl Iterator<Item = &'a PolicyDocument>) -> Self {
        let mut forbids = Self::default();
        for document in documents.filter(|document| document.mode() != Mode::Audit) {
            for resource in document.routes_forbidden() {
                match resource {
                    Referent::DataClass(class) => forbids.named.entry(class).or_default().push(document),
                    Referent::Route { node, port, template } if template != UNDECLARED => {
                        if let Some(port) = port_of(node, *port) {
                            forbids.routes.entry(port).or_default().push(document);
                        }
                    }
                    _ => {}
                }
            }
        }
        for named in forbids.named.keys().copied() {
            for class in mesh.classes_within(named) {
                forbids.classes.entry(class).or_default().push(named);
            }
        }
        forbids
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.routes.is_empty()
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
        let detours = Detours::of(catalog.mesh("shop").unwrap());
        detours.listeners().map(|detour| detour.to_string()).collect()
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
        for (condition, is_told) in [
            ("when { resource in DataClass::\"pii\" }", true),
            ("when { resource == Route::\"orders:8080 /a\" }", true),
            ("unless { resource in DataClass::\"pii\" }", false),
        ] {
            let forbid = policy("f", &format!("forbid(principal, action, resource) {condition};"));
            let found = told(carded("http"), &[all.clone(), forbid]);
            assert_eq!(!found.is_empty(), is_told, "{condition}");
            assert!(found.iter().all(|found| found.starts_with("port 8080: f holds")), "{found:?}");
        }
        let elsewhere = policy("w", "forbid(principal, action, resource in Service::\"orders\");");
        assert!(told(carded("http"), &[all.clone(), elsewhere]).is_empty(), "it forbids other paths too");
        let denying = Wire { undeclared: Some("DENY".to_owned()), ..carded("http") };
        assert!(told(denying, &others).is_empty());
        assert!(told(listener(8080, "http"), &[all, boundary("pii", PII)]).is_empty());
    }

    #[test]
    fn what_lets_through_all_that_no_policy_permits_is_gone_round_without_a_permit() {
        let forbid = || [policy("pii", PII)];
        assert!(told(carded("http"), &forbid()).is_empty());
        let auditing = Wire { authorization: Some("AUDIT".to_owned()), ..carded("http") };
        assert_eq!(told(auditing, &forbid()).len(), 1);
    }

    #[test]
    fn of_many_policies_the_first_are_told_and_the_others_counted() {
        let all = policy("all", "permit(principal is Node, action, resource);");
        let forbids = (1..=6).map(|number| policy(&format!("p{number}"), PII));
        // Each once, however it forbids; a class and the one that it is within are named by two.
        let both = policy("p0", &format!("{PII}\n{ROUTE}"));
        let card = policy("p7", "forbid(principal, action, resource in DataClass::\"card\");");
        let others: Vec<_> = forbids.chain([all, both, card, boundary("a", PII)]).collect();
        let found = told(carded("http"), &others);
        assert!(found[0].starts_with("port 8080: p0, p1, p2, p3, p4, 4 more holds for"), "{found:?}");
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
