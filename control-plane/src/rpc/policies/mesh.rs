//! A mesh that questions are asked about: its nodes' policies as they are stored, or would be.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use hauberk_identity::{Name, NodeName, SpiffeId, TrustDomain};
use hauberk_policy::{Asker, Caller, Engine, NodeScope, PolicySlice, Protocol, Referent};
use hauberk_proto::convert::JwtIssuer;
use tonic::{Code, Status};

use crate::compile::view::MeshViews;
use crate::resources::{Catalog, Kind, Listener, MeshCatalog, VirtualNode, did_you_mean};
use crate::rpc::status;

/// The word for a caller who proves nothing.
pub(super) const ANONYMOUS: &str = "anonymous";

/// A mesh at one revision.
pub(super) struct Mesh<'a> {
    pub(super) name: &'a Name,
    pub(super) resources: &'a MeshCatalog,
    pub(super) catalog: &'a Catalog,
    pub(super) trust_domain: &'a TrustDomain,
    views: MeshViews<'a>,
    /// Those that were asked for before.
    engines: RefCell<HashMap<(bool, Name), Engine>>,
}

/// What is called.
pub(super) struct Called<'a> {
    /// The virtual service, where that was named.
    pub(super) service: Option<&'a Name>,
    pub(super) place: Place<'a>,
    /// The ports that are meant.
    pub(super) ports: Vec<(u16, Protocol)>,
}

/// Whose ports are called.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A virtual node's.
    Node(&'a Name, &'a VirtualNode),
    /// Those of an external service.
    External(&'a Name),
}

/// What the names of external services begin with, where nodes and services are named too.
const EXTERNAL: &str = "external/";

/// Somebody who may call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Somebody {
    /// A SPIFFE id, or `anonymous`; of representatives what their ids begin with.
    pub(super) label: String,
    pub(super) asker: Asker,
}

impl<'a> Mesh<'a> {
    /// The mesh of this name, if there is one.
    pub(super) fn of(
        catalog: &'a Catalog,
        trust_domain: &'a TrustDomain,
        mesh: &'a Name,
    ) -> Result<Self, Status> {
        let resources = catalog.mesh(mesh.as_str()).filter(|resources| resources.spec().is_some());
        let resources = resources.ok_or_else(|| {
            let hint = did_you_mean(mesh.as_str(), catalog.meshes().keys().map(Name::as_str));
            status::missing(&format!("mesh {mesh} does not exist"), hint)
        })?;
        // A forbid may be in it, and agents have their views of before it. What can only permit, or decides nothing, is left
        // out of their views, and so here.
        if let Some((kind, name, reason)) = resources.holding_back().next() {
            let message = format!(
                "the stored {} {name} of mesh {mesh} is not accepted: {reason}; apply it again, corrected, or delete it",
                kind.noun()
            );
            return Err(status::refusal(Code::FailedPrecondition, "UNREADABLE_RESOURCE", message));
        }
        Ok(Self::new(catalog, trust_domain, mesh, resources))
    }

    /// A mesh that is there no longer, with nothing in it.
    pub(super) fn gone(
        catalog: &'a Catalog,
        trust_domain: &'a TrustDomain,
        mesh: &'a Name,
        nothing: &'a MeshCatalog,
    ) -> Self {
        Self::new(catalog, trust_domain, mesh, nothing)
    }

    fn new(
        catalog: &'a Catalog,
        trust_domain: &'a TrustDomain,
        mesh: &'a Name,
        resources: &'a MeshCatalog,
    ) -> Self {
        let views = MeshViews::new(trust_domain, mesh, resources);
        Self { name: mesh, resources, catalog, trust_domain, views, engines: RefCell::default() }
    }

    /// What is enforced where a node is called, or by those who call an external service.
    pub(super) fn rules(&self, place: Place<'_>) -> Option<(NodeScope, PolicySlice)> {
        match place {
            Place::Node(name, node) => {
                let view = self.views.node(&NodeName::Node(name.clone()), node);
                Some((view.scope, view.policies))
            }
            Place::External(name) => self.views.external(name).map(|(_, scope, policies)| (scope, policies)),
        }
    }

    /// What agents decide with.
    pub(super) fn engine(&self, place: Place<'_>) -> Result<Engine, Status> {
        let key = match place {
            Place::Node(name, _) => (false, name.clone()),
            Place::External(name) => (true, name.clone()),
        };
        if let Some(known) = self.engines.borrow().get(&key) {
            return Ok(known.clone());
        }
        let missing = || status::missing(&format!("external service {} does not exist", key.1), None);
        let (scope, policies) = self.rules(place).ok_or_else(missing)?;
        let engine = Engine::compile(scope, &policies, None).map_err(|error| status::internal(&error))?;
        self.engines.borrow_mut().insert(key, engine.clone());
        Ok(engine)
    }

    /// Of how many places the rules were compiled.
    #[cfg(test)]
    pub(super) fn compiled(&self) -> usize {
        self.engines.borrow().len()
    }

    /// Everything that may be called: nodes, then external services.
    pub(super) fn places(&self) -> Vec<Place<'a>> {
        let nodes = self.resources.nodes().map(|(name, node)| Place::Node(name, node));
        nodes.chain(self.resources.externals().map(|(name, _)| Place::External(name))).collect()
    }

    pub(super) fn id_of(&self, node: &Name) -> SpiffeId {
        SpiffeId::node(self.trust_domain, self.name, node)
    }

    /// A SPIFFE id, the name of a virtual node of this mesh, or of a gateway as `gateway/edge`, or `anonymous`.
    pub(super) fn caller(&self, text: &str) -> Result<Caller, Status> {
        if text.starts_with("spiffe:") {
            let id = SpiffeId::parse(text).map_err(|error| status::bad_field("caller", error))?;
            return Ok(Caller::Peer(id));
        }
        let node = NodeName::parse(text).map_err(|error| status::bad_field("caller", error))?;
        if self.resources.node_or_gateway(&node).is_some() {
            return Ok(Caller::Peer(node.spiffe_id(self.trust_domain, self.name)));
        }
        if text == ANONYMOUS {
            return Ok(Caller::Anonymous);
        }
        let known: Vec<String> = self.resources.node_names().map(|name| name.to_string()).collect();
        let message = format!("{} does not exist in mesh {}", node.in_words(), self.name);
        Err(status::missing(&message, did_you_mean(text, known.iter().map(String::as_str))))
    }

    /// The node and listeners that serve the target: a virtual service's, else a virtual node's; or those of an external service,
    /// `external/stripe`. With a port, that one.
    pub(super) fn called(&self, target: &str, port: u32) -> Result<Called<'_>, Status> {
        if let Some(external) = target.strip_prefix(EXTERNAL) {
            let found = self.resources.externals().find(|(name, _)| **name == *external);
            let (name, external) = found.ok_or_else(|| {
                let known = self.resources.of_kind(Kind::ExternalService).keys().map(Name::as_str);
                let message = format!("mesh {} has no external service {external:?}", self.name);
                status::missing(&message, did_you_mean(external, known))
            })?;
            let ports = external.ports().iter().map(|port| (port.number, port.protocol.decided_as()));
            let ports = meant(target, ports.collect(), port)?;
            return Ok(Called { service: None, place: Place::External(name), ports });
        }
        let service = self.resources.services().find(|(name, _)| **name == *target);
        let (service, name, provided) = match service {
            Some((name, service)) => {
                let provider = service.provider().ok_or_else(|| {
                    let message = format!("virtual service {name} has no provider: calls to it fail");
                    status::refusal(Code::FailedPrecondition, "NO_PROVIDER", message)
                })?;
                (Some(name), provider.node().as_str(), Some(provider))
            }
            None => (None, target, None),
        };
        let node = self.resources.nodes().find(|(own, _)| **own == *name);
        let (name, node) = node.ok_or_else(|| {
            let kinds = [Kind::VirtualService, Kind::VirtualNode];
            let known =
                kinds.into_iter().flat_map(|kind| self.resources.of_kind(kind).keys()).map(Name::as_str);
            let message =
                format!("mesh {} has neither a virtual service nor a virtual node {target:?}", self.name);
            status::missing(&message, did_you_mean(target, known))
        })?;
        let is_offered =
            |listener: &&Listener| provided.is_none_or(|provider| provider.takes(listener.port()));
        let offered = node.listeners().iter().filter(is_offered);
        let offered = offered.map(|listener| (listener.port(), listener.protocol())).collect();
        Ok(Called { service, place: Place::Node(name, node), ports: meant(target, offered, port)? })
    }

    /// Whom resources say that there is: the nodes and gateways of all meshes, and the workloads that are enrolled.
    pub(super) fn residents(&self) -> BTreeSet<SpiffeId> {
        let mut residents = BTreeSet::new();
        for (mesh, resources) in self.catalog.meshes() {
            residents.extend(resources.node_names().map(|name| name.spiffe_id(self.trust_domain, mesh)));
            residents.extend(resources.workloads().map(|(_, workload)| workload.id().clone()));
        }
        residents
    }

    /// The issuers of users' tokens, as agents know them.
    pub(super) fn issuers(&self) -> Vec<JwtIssuer> {
        self.views.issuers()
    }

    /// Everybody who might call: the nodes and gateways of the mesh, whoever is named by its roles, policies and enrollments, and
    /// one who stands for all others of each mesh and trust domain.
    pub(super) fn everybody(&self) -> Vec<Somebody> {
        let nodes = self.resources.nodes_and_gateways();
        let nodes: Vec<SpiffeId> =
            nodes.map(|(name, _)| name.spiffe_id(self.trust_domain, self.name)).collect();
        let mut named: BTreeSet<SpiffeId> = BTreeSet::new();
        named.extend(self.resources.roles().flat_map(|(_, role)| role.members()).cloned());
        named.extend(self.resources.workloads().map(|(_, workload)| workload.id().clone()));
        for reference in self.resources.policies().flat_map(|policy| policy.references()) {
            match &reference.referent {
                Referent::Node { mesh, node } => {
                    named.insert(node.spiffe_id(self.trust_domain, mesh));
                }
                Referent::Workload(id) => {
                    named.insert(id.clone());
                }
                _ => {}
            }
        }
        nodes.iter().for_each(|id| {
            named.remove(id);
        });
        let one = |id: &SpiffeId| Somebody {
            label: id.to_string(),
            asker: Asker { caller: Caller::Peer(id.clone()), is_representative: false },
        };
        let mut everybody: Vec<Somebody> = nodes.iter().chain(&named).map(one).collect();
        let meshes = self.catalog.meshes().keys().filter(|mesh| *mesh != self.name);
        let others = meshes
            .flat_map(|mesh| ["node", "gateway"].map(|kind| format!("{mesh}/{kind}")))
            .map(|kind| format!("spiffe://{}/mesh/{kind}/", self.trust_domain))
            .chain([format!("spiffe://{}/workload/", self.trust_domain)])
            .chain(
                self.resources
                    .federated()
                    .map(|(_, followed, _)| format!("spiffe://{}/", followed.trust_domain())),
            );
        everybody.extend(others.filter_map(|prefix| representative(prefix, &named)));
        let caller = Caller::Anonymous;
        let asker = Asker { caller, is_representative: false };
        everybody.push(Somebody { label: ANONYMOUS.to_owned(), asker });
        everybody
    }
}

impl Somebody {
    /// The caller that is named so.
    pub(super) fn called(mesh: &Mesh<'_>, caller: &str) -> Result<Self, Status> {
        let caller = mesh.caller(caller)?;
        let label = match &caller {
            Caller::Peer(id) => id.to_string(),
            Caller::Anonymous => ANONYMOUS.to_owned(),
        };
        Ok(Self { label, asker: Asker { caller, is_representative: false } })
    }
}

/// One whose id begins so and is not named.
fn representative(prefix: String, named: &BTreeSet<SpiffeId>) -> Option<Somebody> {
    let mut id = SpiffeId::parse(&format!("{prefix}others")).ok()?;
    while named.contains(&id) {
        id = SpiffeId::parse(&format!("{id}-")).ok()?;
    }
    let asker = Asker { caller: Caller::Peer(id), is_representative: true };
    Some(Somebody { label: prefix, asker })
}

/// The ports that are meant by a number, or by none.
fn meant(target: &str, offered: Vec<(u16, Protocol)>, port: u32) -> Result<Vec<(u16, Protocol)>, Status> {
    let is_meant = |(number, _): &&(u16, Protocol)| port == 0 || u32::from(*number) == port;
    let ports: Vec<_> = offered.iter().filter(is_meant).copied().collect();
    if ports.is_empty() {
        let problem = match offered.len() {
            0 => format!("{target} has no ports"),
            _ => format!("{target} has no port {port}; it has {}", numbers(&offered)),
        };
        return Err(status::bad_field("port", problem));
    }
    Ok(ports)
}

pub(super) fn numbers(ports: &[(u16, Protocol)]) -> String {
    ports.iter().map(|(number, _)| number.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::testing::{boundary, catalog_of, mesh, node, policy, trust_domain};
    use crate::resources::{Entry, Model, ResourceKey};

    #[test]
    fn nothing_is_told_of_a_mesh_whose_boundary_cannot_be_read() {
        let mut catalog = catalog_of(&[mesh("shop"), node("web", [])]);
        let shop = Name::parse("shop").unwrap();
        assert!(Mesh::of(&catalog, &trust_domain(), &shop).is_ok());
        let key = ResourceKey { kind: Kind::Boundary, mesh: shop.clone(), name: Name::parse("b").unwrap() };
        let unreadable = Model::Unreadable("from the future".to_owned());
        catalog.set(&key, Entry::new(boundary("b", "forbid(principal, action, resource);"), unreadable));
        let status = Mesh::of(&catalog, &trust_domain(), &shop).err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status
                .message()
                .starts_with("the stored boundary b of mesh shop is not accepted: from the future")
        );
    }

    #[test]
    fn what_agents_are_sent_views_without_is_left_out_here_too() {
        let mut catalog = catalog_of(&[mesh("shop"), node("web", [])]);
        let shop = Name::parse("shop").unwrap();
        let key = ResourceKey { kind: Kind::Policy, mesh: shop.clone(), name: Name::parse("p").unwrap() };
        let unreadable = Model::Unreadable("from the future".to_owned());
        let permits = policy("p", "permit(principal is Nobody, action, resource);");
        catalog.set(&key, Entry::new(permits, unreadable));
        let domain = trust_domain();
        let mesh = Mesh::of(&catalog, &domain, &shop).unwrap_or_else(|status| panic!("{status}"));
        for place in mesh.places() {
            assert!(mesh.engine(place).is_ok());
        }
    }
}
