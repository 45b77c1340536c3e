//! Which changes of meshes, nodes and services are changes of policy.
//!
//! Policies speak of services, ports and routes. Whoever decides which ports a service is, what a route is, or whether
//! denials are enforced, decides what those policies reach: that takes the right to change policies, and is told in
//! words. It is asked of every policy that names what is touched, whether it permits or forbids, and also where a port
//! only comes or goes: what is taken away today may come back otherwise tomorrow. What no policy names is an editor's.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::{Authorization, NodeScope, PortScope, Referent, RouteTemplate, Undeclared};
use hauberk_proto::mesh::v1::resource::Spec;

use super::{Rights, Step};
use crate::compile::view::{Provided, node_scope};
use crate::resources::catalog::MeshCatalog;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh::Mesh;
use crate::resources::problem::{Fault, Problems};

/// Reports each such change as a problem where the author lacks the right, else as a warning.
pub(super) fn check(step: &Step<'_>, rights: Rights, problems: &mut Problems, warnings: &mut Vec<String>) {
    let meshes: BTreeSet<&Name> = step.places.keys().map(|key| &key.mesh).collect();
    for mesh in meshes {
        let Some(comparison) = Comparison::new(step, mesh) else { continue };
        for opening in comparison.openings() {
            if rights.policies {
                warnings.push(format!("{}: {}", opening.key, opening.message));
            } else {
                let help = "that changes what policies reach, and takes the role policy-admin".to_owned();
                let place = step.places.get(&opening.key).copied().unwrap_or_default();
                problems.about(place).report(Fault::Denied, opening.field, opening.message, Some(help));
            }
        }
    }
}

/// One change of policy.
struct Opening {
    /// The resource of the batch that does it.
    key: ResourceKey,
    field: String,
    message: String,
}

/// Which port is compared.
#[derive(Clone, Copy)]
struct Port<'a> {
    node: &'a Name,
    id: &'a SpiffeId,
    number: u16,
}

/// A mesh before and after.
struct Comparison<'a> {
    step: &'a Step<'a>,
    name: &'a Name,
    before: Option<&'a MeshCatalog>,
    after: &'a MeshCatalog,
    /// Made at its first use: a batch of policies alone does not ask for it.
    mentions: OnceCell<Mentions<'a>>,
}

/// Which policies, as they stand, speak of what; in whatever way.
#[derive(Default)]
struct Mentions<'a> {
    services: BTreeMap<&'a Name, BTreeSet<&'a Name>>,
    /// By a port's own name or one of its routes'.
    ports: BTreeMap<(&'a SpiffeId, u16), BTreeSet<&'a Name>>,
    routes: BTreeMap<(&'a SpiffeId, u16), BTreeSet<&'a Name>>,
    /// Of any port and route, by what these are.
    all: BTreeSet<&'a Name>,
}

impl<'a> Mentions<'a> {
    fn of(mesh: &'a MeshCatalog) -> Self {
        let mut mentions = Self::default();
        for policy in mesh.policies() {
            let name = policy.name();
            if policy.reads_resource() {
                mentions.all.insert(name);
            }
            for reference in policy.references() {
                match &reference.referent {
                    Referent::Service(service) => {
                        mentions.services.entry(service).or_default().insert(name);
                    }
                    Referent::Port { node, number } => {
                        mentions.ports.entry((node, *number)).or_default().insert(name);
                    }
                    Referent::Route { node, port, .. } => {
                        mentions.ports.entry((node, *port)).or_default().insert(name);
                        mentions.routes.entry((node, *port)).or_default().insert(name);
                    }
                    // What they reach does not depend on the listeners of any node.
                    Referent::TrustDomain(_)
                    | Referent::Mesh(_)
                    | Referent::Role(_)
                    | Referent::Node { .. }
                    | Referent::Gateway { .. }
                    | Referent::Workload(_)
                    | Referent::Anonymous => {}
                }
            }
        }
        mentions
    }

    /// The policies that speak of a port, or of its routes.
    fn of_port(&self, port: (&SpiffeId, u16)) -> String {
        list(self.ports.get(&port).into_iter().flatten().chain(&self.all))
    }

    fn of_routes(&self, port: (&SpiffeId, u16)) -> String {
        list(self.routes.get(&port).into_iter().flatten().chain(&self.all))
    }

    fn of_service(&self, service: &Name) -> String {
        list(self.services.get(service).into_iter().flatten())
    }
}

impl<'a> Comparison<'a> {
    fn new(step: &'a Step<'a>, name: &'a Name) -> Option<Self> {
        let before = step.before.mesh(name.as_str()).map(|mesh| &**mesh);
        let after = step.after.mesh(name.as_str())?;
        Some(Self { step, name, before, after, mentions: OnceCell::new() })
    }

    fn mentions(&self) -> &Mentions<'a> {
        self.mentions.get_or_init(|| self.before.map(Mentions::of).unwrap_or_default())
    }

    fn openings(&self) -> Vec<Opening> {
        let mut openings = Vec::new();
        self.compare_meshes(&mut openings);
        let affected = self.affected();
        if affected.is_empty() {
            return openings;
        }
        let (before, after) = (self.before.map(Provided::of), Provided::of(self.after));
        for node in affected {
            let scope_before = self
                .before
                .zip(before.as_ref())
                .and_then(|(mesh, provided)| self.scope(mesh, provided, node));
            let scope_after = self.scope(self.after, &after, node);
            let (former, now) = (by_number(scope_before.as_ref()), by_number(scope_after.as_ref()));
            let id = SpiffeId::node(self.step.trust_domain, self.name, node);
            for number in former.keys().chain(now.keys()).copied().collect::<BTreeSet<u16>>() {
                let port = Port { node, id: &id, number };
                let (former, now) = (former.get(&number).copied(), now.get(&number).copied());
                self.compare_places(port, former, now, &mut openings);
                if self.step.places.contains_key(&self.key(Kind::VirtualNode, node))
                    && let Some(now) = now
                {
                    self.compare_rules(port, former, now, &mut openings);
                }
            }
        }
        openings
    }

    /// The nodes whose ports may be other than before.
    fn affected(&self) -> BTreeSet<&'a Name> {
        let mut affected = BTreeSet::new();
        for key in self.step.places.keys().filter(|key| key.mesh == *self.name) {
            match key.kind {
                Kind::Enrollment | Kind::FederatedTrustDomain | Kind::Mesh | Kind::Policy => {}
                Kind::VirtualNode => {
                    affected.insert(&key.name);
                }
                Kind::VirtualService => {
                    let services = [self.before, Some(self.after)].into_iter().flatten();
                    let services = services.filter_map(|mesh| mesh.service(key.name.as_str()));
                    affected.extend(services.filter_map(|service| Some(service.provider()?.node())));
                }
            }
        }
        affected
    }

    fn scope(&self, mesh: &MeshCatalog, provided: &Provided<'_>, name: &Name) -> Option<NodeScope> {
        let node = mesh.node(name.as_str())?;
        Some(node_scope(self.step.trust_domain, self.name, mesh, provided, name, node))
    }

    fn compare_meshes(&self, openings: &mut Vec<Opening>) {
        let audits = |mesh: Option<&MeshCatalog>| {
            mesh.and_then(MeshCatalog::spec).is_some_and(|mesh| mesh.authorization() == Authorization::Audit)
        };
        if audits(Some(self.after)) && !audits(self.before) {
            openings.push(Opening {
                key: self.key(Kind::Mesh, self.name),
                field: "spec.authorization".to_owned(),
                message: "AUDIT lets through what no policy permits, on every port that does not say ENFORCE"
                    .to_owned(),
            });
        }
        let age = |mesh: Option<&MeshCatalog>| mesh.and_then(MeshCatalog::spec).and_then(Mesh::max_view_age);
        if let Some(former) = age(self.before)
            && age(Some(self.after)).is_none_or(|age| age > former)
        {
            openings.push(Opening {
                key: self.key(Kind::Mesh, self.name),
                field: "spec.maxViewAge".to_owned(),
                message: format!(
                    "views older than {} s would no longer deny everything",
                    former.as_secs_f64()
                ),
            });
        }
    }

    /// Whether a port is there, and which services it is.
    fn compare_places(
        &self,
        port: Port<'_>,
        former: Option<&PortScope>,
        now: Option<&PortScope>,
        openings: &mut Vec<Opening>,
    ) {
        let Port { node, id, number } = port;
        let services = |port: Option<&'_ PortScope>| -> BTreeSet<Name> {
            port.into_iter().flat_map(|port| port.services.iter().cloned()).collect()
        };
        let (were, are) = (services(former), services(now));
        let mut change = |service: &Name, (what, whither): (&str, &str)| {
            let policies = self.mentions().of_service(service);
            if !policies.is_empty() {
                let message = format!(
                    "this {what} port {number} of {node} {whither} virtual service {service}, which is named by {policies}"
                );
                openings.push(self.by_service_or_node(service, port, message));
            }
        };
        are.difference(&were).for_each(|service| change(service, ("places", "under")));
        were.difference(&are).for_each(|service| change(service, ("takes", "out of")));
        if former.is_some() != now.is_some() {
            let policies = self.mentions().of_port((id, number));
            if !policies.is_empty() {
                let what = if now.is_some() { "adds" } else { "removes" };
                let message = format!("this {what} port {number} of {node}, which {policies} may speak of");
                let field = self.listener_field(node, number, "portMapping.port");
                openings.push(Opening { key: self.key(Kind::VirtualNode, node), field, message });
            }
        }
    }

    /// What a port of a node of the batch does with requests.
    fn compare_rules(
        &self,
        place: Port<'_>,
        former: Option<&PortScope>,
        port: &PortScope,
        openings: &mut Vec<Opening>,
    ) {
        let Port { node, id, number } = place;
        let mut open = |field: &str, message: String| {
            let field = self.listener_field(node, number, field);
            openings.push(Opening { key: self.key(Kind::VirtualNode, node), field, message });
        };
        if port.authorization == Authorization::Audit
            && former.is_none_or(|former| former.authorization != Authorization::Audit)
        {
            open("authorization", format!("port {number}: AUDIT lets through what no policy permits"));
        }
        let Some(former) = former else { return };
        if former.protocol != port.protocol {
            let (was, is) = (former.protocol.as_str(), port.protocol.as_str());
            let message = format!(
                "port {number} speaks {is} instead of {was}: policies about {was} requests no longer hold there"
            );
            open("portMapping.protocol", message);
        }
        if former.undeclared == Undeclared::Deny {
            if port.undeclared == Undeclared::Decide {
                let message = format!("port {number} no longer denies requests that match no declared route");
                open("undeclared", message);
            } else {
                for route in port.routes.iter().filter(|route| !former.routes.contains(route)) {
                    let message = format!(
                        "port {number} no longer denies {route}: policies decide about it from now on"
                    );
                    open("routes", message);
                }
            }
        }
        if routes(former) != routes(port) {
            let policies = self.mentions().of_routes((id, number));
            if !policies.is_empty() {
                open(
                    "routes",
                    format!(
                        "this changes which requests belong to the routes of port {number}, which {policies} may \
                         speak of"
                    ),
                );
            }
        }
    }

    /// The change is the service's where the batch holds the service, else the node's.
    fn by_service_or_node(&self, service: &Name, port: Port<'_>, message: String) -> Opening {
        let key = self.key(Kind::VirtualService, service);
        if self.step.places.contains_key(&key) {
            return Opening { key, field: "spec.provider".to_owned(), message };
        }
        let field = self.listener_field(port.node, port.number, "portMapping.port");
        Opening { key: self.key(Kind::VirtualNode, port.node), field, message }
    }

    /// The path of a field of the listener with this port, in the request's own order.
    fn listener_field(&self, node: &Name, port: u16, field: &str) -> String {
        let key = self.key(Kind::VirtualNode, node);
        let spec = self.step.after.get(&key).and_then(|entry| entry.resource().spec.as_ref());
        let Some(Spec::VirtualNode(spec)) = spec else { return "spec.listeners".to_owned() };
        let listener = spec.listeners.iter().position(|listener| {
            listener.port_mapping.as_ref().and_then(|mapping| mapping.port) == Some(u32::from(port))
        });
        let own = listener.and_then(|index| Some((index, spec.listeners.get(index)?)));
        match own {
            Some((_, listener)) if field == "authorization" && listener.authorization.is_none() => {
                "spec.authorization".to_owned()
            }
            Some((index, _)) => format!("spec.listeners[{index}].{field}"),
            None => "spec.listeners".to_owned(),
        }
    }

    fn key(&self, kind: Kind, name: &Name) -> ResourceKey {
        ResourceKey { kind, mesh: self.name.clone(), name: name.clone() }
    }
}

fn by_number(scope: Option<&NodeScope>) -> BTreeMap<u16, &PortScope> {
    scope.into_iter().flat_map(|scope| &scope.ports).map(|port| (port.number, port)).collect()
}

fn routes(port: &PortScope) -> BTreeSet<&str> {
    port.routes.iter().map(RouteTemplate::as_str).collect()
}

/// The names of policies, in order.
fn list<'a>(policies: impl Iterator<Item = &'a &'a Name>) -> String {
    let names: BTreeSet<&str> = policies.map(|name| name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
