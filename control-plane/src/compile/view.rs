//! Where resources become views: what the agents of a node, and the callers of a service, are to know.

use std::collections::BTreeSet;

use hauberk_identity::{Name, SpiffeId, TrustDomain};
use hauberk_policy::{Mode, NodeScope, PolicyIndex, PortScope};
use hauberk_proto::convert::{NodeView, ServicePort, ServiceView, Target, features};

use crate::resources::{Catalog, Discovery, MeshCatalog, Provider, ResourceKey, VirtualNode, VirtualService};

/// A mesh with what is looked up in it for every view.
pub struct MeshViews<'a> {
    trust_domain: &'a TrustDomain,
    mesh: &'a Name,
    resources: &'a MeshCatalog,
    policies: PolicyIndex<'a>,
    /// The services of each node, by the node's name.
    provided: Provided<'a>,
}

/// Which services name a node as their provider, in the order of nodes and services.
pub(crate) struct Provided<'a>(Vec<(&'a Name, &'a Name, &'a Provider)>);

impl<'a> Provided<'a> {
    /// Reads it from a mesh.
    pub(crate) fn of(resources: &'a MeshCatalog) -> Self {
        let mut provided: Vec<_> = resources
            .services()
            .filter_map(|(name, service)| {
                service.provider().map(|provider| (provider.node(), name, provider))
            })
            .collect();
        provided.sort_by_key(|(node, service, _)| (*node, *service));
        Self(provided)
    }

    /// The services that a listener is.
    fn services(&self, node: &Name, port: u16) -> Vec<Name> {
        let start = self.0.partition_point(|(other, ..)| *other < node);
        let of_node = self.0.iter().skip(start).take_while(|(other, ..)| *other == node);
        of_node
            .filter(|(.., provider)| provider.takes(port))
            .map(|(_, service, _)| (*service).clone())
            .collect()
    }
}

/// What a node enforces, its policies aside.
pub(crate) fn node_scope(
    trust_domain: &TrustDomain,
    mesh: &Name,
    resources: &MeshCatalog,
    provided: &Provided<'_>,
    name: &Name,
    node: &VirtualNode,
) -> NodeScope {
    let default = resources.spec().map(|mesh| mesh.authorization()).unwrap_or_default();
    let ports = node.listeners().iter().map(|listener| PortScope {
        number: listener.port(),
        protocol: listener.protocol(),
        services: provided.services(name, listener.port()),
        routes: listener.routes().to_vec(),
        undeclared: listener.undeclared(),
        authorization: listener.authorization().unwrap_or(default),
    });
    NodeScope {
        trust_domain: trust_domain.clone(),
        mesh: mesh.clone(),
        node: SpiffeId::node(trust_domain, mesh, name),
        ports: ports.collect(),
    }
}

impl<'a> MeshViews<'a> {
    /// Prepares the views of a mesh.
    pub fn new(trust_domain: &'a TrustDomain, mesh: &'a Name, resources: &'a MeshCatalog) -> Self {
        let policies = PolicyIndex::new(mesh, resources.policies());
        Self { trust_domain, mesh, resources, policies, provided: Provided::of(resources) }
    }

    /// The view of a node: its listeners with the services that they are, the policies that can concern it, and the
    /// services it calls.
    pub fn node(&self, name: &Name, node: &VirtualNode) -> NodeView {
        let scope = node_scope(self.trust_domain, self.mesh, self.resources, &self.provided, name, node);
        NodeView {
            policies: self.policies.slice(&scope, &[]),
            scope,
            backends: node.backends().to_vec(),
            max_view_age: self.resources.spec().and_then(|mesh| mesh.max_view_age()),
        }
    }

    /// The view of a service: its ports, and for each who serves it and how they are found.
    pub fn service(&self, name: &Name, service: &VirtualService) -> ServiceView {
        let provider = service.provider().and_then(|provider| {
            let node = self.resources.node(provider.node().as_str())?;
            Some((provider, node))
        });
        let ports = provider.into_iter().flat_map(|(provider, node)| {
            let listeners = node.listeners().iter().filter(|listener| provider.takes(listener.port()));
            listeners.map(|listener| ServicePort {
                number: listener.port(),
                protocol: listener.protocol(),
                targets: self.target(provider.node(), node, listener.port()).into_iter().collect(),
            })
        });
        ServiceView { name: name.clone(), ports: ports.collect() }
    }

    /// A node as the target of one of its ports; none where its list of addresses has nothing for this port.
    fn target(&self, name: &Name, node: &VirtualNode, port: u16) -> Option<Target> {
        use hauberk_proto::convert::Discovery as Found;
        let discovery = match node.discovery() {
            Discovery::Registered => Found::Registered,
            Discovery::Dns(dns) => Found::Dns(dns.clone()),
            Discovery::Fixed(endpoints) => {
                let serving: Vec<_> =
                    endpoints.iter().filter_map(|endpoint| endpoint.serving(port)).collect();
                if serving.is_empty() {
                    return None;
                }
                Found::Fixed(serving)
            }
        };
        Some(Target { spiffe_id: SpiffeId::node(self.trust_domain, self.mesh, name), discovery })
    }
}

/// What agents need newly because of a change of these resources: for each node whose listeners need something that
/// they did not need before.
pub(crate) fn needed_features<'a>(
    trust_domain: &TrustDomain,
    before: &Catalog,
    after: &Catalog,
    changed: impl Iterator<Item = &'a ResourceKey>,
) -> Vec<(SpiffeId, Vec<&'static str>)> {
    let meshes: BTreeSet<&Name> = changed.map(|key| &key.mesh).collect();
    let mut newly = Vec::new();
    for mesh in meshes {
        let Some(after) = after.mesh(mesh.as_str()) else { continue };
        let of_mesh = |resources: &MeshCatalog| {
            let audits = resources.policies().any(|policy| policy.mode() == Mode::Audit);
            let has_policies = resources.policies().next().is_some();
            let ages = resources.spec().is_some_and(|mesh| mesh.max_view_age().is_some());
            let of_mesh = [
                has_policies.then_some(features::CEDAR),
                audits.then_some(features::AUDIT_POLICIES),
                ages.then_some(features::MAX_VIEW_AGE),
            ];
            of_mesh.into_iter().flatten().collect::<BTreeSet<_>>()
        };
        let before = before.mesh(mesh.as_str());
        let (mesh_before, mesh_after) =
            (before.map(|mesh| of_mesh(mesh)).unwrap_or_default(), of_mesh(after));
        // Features do not depend on which services a port is.
        let provided = Provided(Vec::new());
        for (name, node) in after.nodes() {
            let of_node = |resources: &MeshCatalog, node: &VirtualNode| -> BTreeSet<&'static str> {
                let scope = node_scope(trust_domain, mesh, resources, &provided, name, node);
                features::needed_by_scope(&scope).collect()
            };
            let was = before.and_then(|mesh| Some(of_node(mesh, mesh.node(name.as_str())?)));
            let known: BTreeSet<_> = mesh_before.union(&was.unwrap_or_default()).copied().collect();
            let needed: BTreeSet<_> = mesh_after.union(&of_node(after, node)).copied().collect();
            let new: Vec<_> = needed.difference(&known).copied().collect();
            if !new.is_empty() {
                newly.push((SpiffeId::node(trust_domain, mesh, name), new));
            }
        }
    }
    newly
}
