//! Which changes of meshes, nodes and services are changes of policy.
//!
//! Policies speak of services and routes. Whoever decides which ports a service is, what a route is, or whether denials
//! are enforced, decides what those policies reach: that takes the right to change policies, and is told in words.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::{Authorization, Effect, NodeScope, PortScope, Referent, RouteTemplate, Undeclared};
use hauberk_proto::mesh::v1::resource::Spec;

use super::{Rights, Step};
use crate::compile::view::{Provided, node_scope};
use crate::resources::catalog::MeshCatalog;
use crate::resources::key::{Kind, ResourceKey};
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

/// A mesh before and after.
struct Comparison<'a> {
    step: &'a Step<'a>,
    name: &'a Name,
    before: Option<&'a MeshCatalog>,
    after: &'a MeshCatalog,
    /// Made at its first use: a batch of policies alone does not ask for it.
    mentions: OnceCell<Mentions<'a>>,
}

/// Which policies, as they stand, speak of what.
#[derive(Default)]
struct Mentions<'a> {
    services: BTreeMap<&'a Name, Vec<(Effect, &'a Name)>>,
    routes: BTreeMap<(&'a SpiffeId, u16), Vec<&'a Name>>,
}

impl<'a> Mentions<'a> {
    fn of(mesh: &'a MeshCatalog) -> Self {
        let mut mentions = Self::default();
        for policy in mesh.policies() {
            for reference in policy.references() {
                match &reference.referent {
                    Referent::Service(service) => {
                        mentions.services.entry(service).or_default().push((reference.effect, policy.name()));
                    }
                    Referent::Route { node, port, .. } => {
                        mentions.routes.entry((node, *port)).or_default().push(policy.name());
                    }
                    _ => {}
                }
            }
        }
        mentions
    }

    fn of_service(&self, service: &Name, effect: Effect) -> Vec<&'a Name> {
        let all = self.services.get(service).into_iter().flatten();
        all.filter(|(own, _)| *own == effect).map(|(_, policy)| *policy).collect()
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
            let Some(scope_after) = self.scope(self.after, &after, node) else { continue };
            let scope_before = self
                .before
                .zip(before.as_ref())
                .and_then(|(mesh, provided)| self.scope(mesh, provided, node));
            let ports_before = scope_before.as_ref().map(|scope| &scope.ports[..]).unwrap_or_default();
            for port in &scope_after.ports {
                let former = ports_before.iter().find(|former| former.number == port.number);
                self.compare_ports(node, &scope_after.node, former, port, &mut openings);
            }
        }
        openings
    }

    /// The nodes whose ports may be other than before.
    fn affected(&self) -> BTreeSet<&'a Name> {
        let mut affected = BTreeSet::new();
        for key in self.step.places.keys().filter(|key| key.mesh == *self.name) {
            match key.kind {
                Kind::Mesh | Kind::Policy => {}
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
    }

    fn compare_ports(
        &self,
        name: &Name,
        id: &SpiffeId,
        former: Option<&PortScope>,
        port: &PortScope,
        openings: &mut Vec<Opening>,
    ) {
        let number = port.number;
        let node = self.key(Kind::VirtualNode, name);
        let former_services = former.map(|former| &former.services[..]).unwrap_or_default();
        for service in port.services.iter().filter(|service| !former_services.contains(service)) {
            let permits = self.mentions().of_service(service, Effect::Allow);
            let is_new = self.before.is_none_or(|mesh| mesh.service(service.as_str()).is_none());
            // A service that is new opens nothing as long as no policy permits calls to it.
            if !is_new || !permits.is_empty() {
                let reach = list(&permits, "no policy permits calls to it yet", "which is permitted by");
                let message =
                    format!("this places port {number} of {name} under virtual service {service}: {reach}");
                openings.push(self.by_service_or_node(service, &node, number, message));
            }
        }
        let Some(former) = former else {
            if port.authorization == Authorization::Audit && self.step.places.contains_key(&node) {
                openings.push(self.audited(&node, number));
            }
            return;
        };
        for service in former.services.iter().filter(|service| !port.services.contains(service)) {
            let forbids = self.mentions().of_service(service, Effect::Deny);
            if !forbids.is_empty() {
                let reach = list(&forbids, "", "which is protected by");
                let message =
                    format!("this takes port {number} of {name} out of virtual service {service}, {reach}");
                openings.push(self.by_service_or_node(service, &node, number, message));
            }
        }
        if !self.step.places.contains_key(&node) {
            return;
        }
        if port.authorization == Authorization::Audit && former.authorization != Authorization::Audit {
            openings.push(self.audited(&node, number));
        }
        let mut open = |field: &str, message: String| {
            let field = self.listener_field(&node, number, field);
            openings.push(Opening { key: node.clone(), field, message });
        };
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
        if let Some(policies) = self.mentions().routes.get(&(id, number))
            && routes(former) != routes(port)
        {
            let reach = list(policies, "", "whose routes are named by");
            open(
                "routes",
                format!("this changes which requests belong to the routes of port {number}, {reach}"),
            );
        }
    }

    fn audited(&self, node: &ResourceKey, port: u16) -> Opening {
        let message = format!("port {port}: AUDIT lets through what no policy permits");
        Opening { key: node.clone(), field: self.listener_field(node, port, "authorization"), message }
    }

    /// The change is the service's where the batch holds the service, else the node's.
    fn by_service_or_node(&self, service: &Name, node: &ResourceKey, port: u16, message: String) -> Opening {
        let key = self.key(Kind::VirtualService, service);
        if self.step.places.contains_key(&key) {
            return Opening { key, field: "spec.provider".to_owned(), message };
        }
        Opening { key: node.clone(), field: self.listener_field(node, port, "portMapping.port"), message }
    }

    /// The path of a field of the listener with this port, in the request's own order.
    fn listener_field(&self, node: &ResourceKey, port: u16, field: &str) -> String {
        let spec = self.step.after.get(node).and_then(|entry| entry.resource().spec.as_ref());
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

fn routes(port: &PortScope) -> BTreeSet<&str> {
    port.routes.iter().map(RouteTemplate::as_str).collect()
}

/// `none`, or `lead` and the names.
fn list(policies: &[&Name], none: &str, lead: &str) -> String {
    let names: BTreeSet<&str> = policies.iter().map(|name| name.as_str()).collect();
    if names.is_empty() {
        return none.to_owned();
    }
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    format!("{lead} {names}")
}
