//! Which changes of meshes, nodes and services are changes of policy.
//!
//! Policies speak of services, ports, routes and labels of nodes. Whoever decides which ports a service is, what a route is, how a node
//! is labelled, or whether denials are enforced, decides what those policies reach: that takes the right to change policies, and is told in
//! words. It is asked of every policy that names what is touched, whether it permits or forbids, and also where a port
//! only comes or goes: what is taken away today may come back otherwise tomorrow. What no policy names is an editor's. What the
//! boundary names takes the right to change that, so that nobody else moves what it forbids from under it.

mod access;
mod classes;
mod labels;
mod mentions;
mod rules;
mod users;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{Authorization, NodeScope, PortScope};
use hauberk_proto::mesh::v1::resource::Spec;

pub(super) use mentions::Speakers;
use mentions::{BoundariesOfNodes, Mentions, Takes};
pub(super) use users::issuer_of;

use super::{Rights, Step};
use crate::compile::view::{Provided, node_scope};
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh::Mesh;
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problems};
use crate::resources::virtual_node::VirtualNode;

/// Reports each such change as a problem where the author lacks the right, else as a warning.
pub(super) fn check(step: &Step<'_>, rights: Rights, problems: &mut Problems, warnings: &mut Vec<String>) {
    let meshes: BTreeSet<&Name> = step.places.keys().map(|key| &key.mesh).collect();
    let none = MeshCatalog::default();
    for mesh in meshes {
        // Of a mesh that goes as a whole nothing is left to reach.
        let is_left = step.after.mesh(mesh.as_str()).is_some();
        for opening in Comparison::new(step, mesh, &none).openings() {
            let Opening { key, field, message, takes } = opening;
            let place = step.places.get(&key).copied().unwrap_or_default();
            let mut may = true;
            for (is_taken, has, help) in [
                (
                    takes.policies,
                    rights.policies,
                    "that changes what policies reach, and takes the role policy-admin",
                ),
                (
                    takes.boundaries,
                    rights.boundaries,
                    "that changes what the boundary reaches, and takes the role boundary-admin",
                ),
            ] {
                if is_taken && !has {
                    may = false;
                    let help = Some(help.to_owned());
                    problems.about(place).report(Fault::Denied, field.clone(), message.clone(), help);
                }
            }
            if may && is_left {
                warnings.push(format!("{key}: {message}"));
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
    takes: Takes,
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

impl<'a> Comparison<'a> {
    /// A mesh that goes has `none` of its resources afterwards: whatever was in it may come back otherwise.
    fn new(step: &'a Step<'a>, name: &'a Name, none: &'a MeshCatalog) -> Self {
        let before = step.before.mesh(name.as_str()).map(|mesh| &**mesh);
        let after = step.after.mesh(name.as_str()).map_or(none, |mesh| &**mesh);
        Self { step, name, before, after, mentions: OnceCell::new() }
    }

    fn mentions(&self) -> &Mentions<'a> {
        self.mentions.get_or_init(|| self.before.map(Mentions::of).unwrap_or_default())
    }

    fn openings(&self) -> Vec<Opening> {
        let mut openings = Vec::new();
        self.compare_meshes(&mut openings);
        self.compare_issuers(&mut openings);
        self.compare_names(&mut openings);
        self.compare_labels(&mut openings);
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
                self.compare_classes(port, former, now, &mut openings);
                if self.step.places.contains_key(&self.key(Kind::VirtualNode, node)) {
                    self.compare_users(port, former, now, &mut openings);
                    self.compare_access(port, former, now, &mut openings);
                    match (former, now) {
                        (_, Some(now)) => self.compare_rules(port, former, now, &mut openings),
                        (Some(former), None) => self.compare_removal(port, former, &mut openings),
                        (None, None) => {}
                    }
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
                Kind::Boundary
                | Kind::Enrollment
                | Kind::ExternalService
                | Kind::FederatedTrustDomain
                | Kind::JwtIssuer
                | Kind::Mesh
                | Kind::Policy
                | Kind::PolicyTemplate
                | Kind::Role
                | Kind::VirtualGateway => {}
                Kind::DataClass => affected.extend(self.classified()),
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

    /// The nodes that have routes of any data class.
    fn classified(&self) -> impl Iterator<Item = &'a Name> {
        let nodes = [self.before, Some(self.after)].into_iter().flatten().flat_map(MeshCatalog::nodes);
        let is_classified = |node: &VirtualNode| {
            let mut routes = node.listeners().iter().flat_map(|listener| listener.routes());
            routes.any(|route| !route.classes.is_empty())
        };
        nodes.filter(move |(_, node)| is_classified(node)).map(|(name, _)| name)
    }

    fn scope(&self, mesh: &MeshCatalog, provided: &Provided<'_>, name: &Name) -> Option<NodeScope> {
        let node = mesh.node(name.as_str())?;
        let name = NodeName::Node(name.clone());
        Some(node_scope(self.step.trust_domain, self.name, mesh, provided, &name, node))
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
                takes: Takes::POLICIES,
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
                takes: Takes::POLICIES,
            });
        }
    }

    /// Whether a node or gateway is there that a boundary names: what is made under its name is whom the boundary means.
    fn compare_names(&self, openings: &mut Vec<Opening>) {
        let boundaries = OnceCell::new();
        for key in self.step.places.keys().filter(|key| key.mesh == *self.name) {
            let Some(node) = key.as_node() else { continue };
            let is_there =
                |mesh: Option<&MeshCatalog>| mesh.is_some_and(|mesh| mesh.node_or_gateway(&node).is_some());
            let (was, is) = (is_there(self.before), is_there(Some(self.after)));
            if was == is {
                continue;
            }
            let all = || BoundariesOfNodes::of(self.step.before, self.name);
            let named = boundaries.get_or_init(all).of_node(&node);
            if named.has_boundary() {
                let what = if is { "makes" } else { "removes" };
                let message = format!("this {what} {}, which {named} may speak of", node.in_words());
                let (key, takes) = (key.clone(), named.takes());
                openings.push(Opening { key, field: String::new(), message, takes });
            }
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
            let named = self.mentions().of_service(service);
            if !named.is_empty() {
                let message = format!(
                    "this {what} port {number} of {node} {whither} virtual service {service}, which is named by {named}"
                );
                openings.push(self.by_service_or_node(service, port, message, named.takes()));
            }
        };
        are.difference(&were).for_each(|service| change(service, ("places", "under")));
        were.difference(&are).for_each(|service| change(service, ("takes", "out of")));
        if former.is_some() != now.is_some() {
            let named = self.mentions().of_port((id, number));
            if !named.is_empty() {
                let what = if now.is_some() { "adds" } else { "removes" };
                let message = format!("this {what} port {number} of {node}, which {named} may speak of");
                let field = self.listener_field(node, number, "portMapping.port");
                let (key, takes) = (self.key(Kind::VirtualNode, node), named.takes());
                openings.push(Opening { key, field, message, takes });
            }
        }
    }

    /// How a port of a node of the batch takes the tokens of users.
    fn compare_users(
        &self,
        Port { node, id, number }: Port<'_>,
        former: Option<&PortScope>,
        now: Option<&PortScope>,
        openings: &mut Vec<Opening>,
    ) {
        let Some(message) = former.and_then(|former| users::change(number, former, now)) else { return };
        let (key, field) = (self.key(Kind::VirtualNode, node), self.listener_field(node, number, "users"));
        let takes = Takes::POLICIES.and_of(&self.mentions().of_port((id, number)));
        openings.push(Opening { key, field, message, takes });
    }

    /// The change is the service's where the batch holds the service, else the node's.
    fn by_service_or_node(&self, service: &Name, port: Port<'_>, message: String, takes: Takes) -> Opening {
        let key = self.key(Kind::VirtualService, service);
        if self.step.places.contains_key(&key) {
            return Opening { key, field: "spec.provider".to_owned(), message, takes };
        }
        let field = self.listener_field(port.node, port.number, "portMapping.port");
        Opening { key: self.key(Kind::VirtualNode, port.node), field, message, takes }
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

#[cfg(test)]
mod tests;
