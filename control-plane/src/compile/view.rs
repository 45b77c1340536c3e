//! Where resources become views: what the agents of a node, and the callers of a service, are to know.

mod followed;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, NodeName, SpiffeId, TrustDomain};
use hauberk_policy::{
    DeclaredRoute, EgressIndex, Known, Mode, NamedPort, NodeLabel, NodeScope, Place, PolicyIndex,
    PolicySlice, PortScope, Reference, Referent, RoleMembers,
};
use hauberk_proto::convert::{
    Egress, External, FederatedBundle, JwtIssuer, NodeView, ServicePort, ServiceView, Target, features,
};
use hauberk_tls::SpiffeBundle;
use hauberk_tls::jwt::KeyUse;

use crate::resources::{
    Catalog, Discovery, Enclosing, Kind, MeshCatalog, Provider, ResourceKey, VirtualNode, VirtualService,
};

/// The keys of an issuer of which none are known yet.
const NO_KEYS: &str = "{\"keys\":[]}";

/// A mesh with what is looked up in it for every view.
pub struct MeshViews<'a> {
    trust_domain: &'a TrustDomain,
    mesh: &'a Name,
    resources: &'a MeshCatalog,
    /// Made at its first use: where only a few policies changed, it is not needed.
    policies: OnceCell<PolicyIndex<'a>>,
    /// Those that policies mention, with all their members.
    roles: OnceCell<Vec<RoleMembers>>,
    /// Those that policies read, with all nodes of the mesh that have them.
    labels: OnceCell<Vec<NodeLabel>>,
    /// Those that policies ask about, with their routes of which they do.
    ports: OnceCell<Vec<NamedPort>>,
    /// The services of each node, by the node's name.
    provided: Provided<'a>,
    /// External services, and the policies about calls of them. Made at its first use.
    egress: OnceCell<(Vec<External>, EgressIndex<'a>)>,
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

    /// The services that name a virtual node, in order.
    pub(crate) fn of_node(&self, node: &Name) -> impl Iterator<Item = (&'a Name, &'a Provider)> {
        let start = self.0.partition_point(|(other, ..)| *other < node);
        let of_node = self.0.iter().skip(start).take_while(move |(other, ..)| *other == node);
        of_node.map(|(_, service, provider)| (*service, *provider))
    }

    /// The services that a listener is.
    fn services(&self, node: &NodeName, port: u16) -> Vec<Name> {
        // A gateway provides none.
        let NodeName::Node(node) = node else { return Vec::new() };
        let of_node = self.of_node(node).filter(|(_, provider)| provider.takes(port));
        of_node.map(|(service, _)| service.clone()).collect()
    }
}

/// What a node enforces, its policies aside.
pub(crate) fn node_scope(
    trust_domain: &TrustDomain,
    mesh: &Name,
    resources: &MeshCatalog,
    provided: &Provided<'_>,
    name: &NodeName,
    node: &VirtualNode,
) -> NodeScope {
    let default = resources.spec().map(|mesh| mesh.authorization()).unwrap_or_default();
    let enclosing = OnceCell::new();
    let declared = |route: &DeclaredRoute| {
        if route.classes.is_empty() {
            return route.clone();
        }
        let classes = enclosing.get_or_init(|| Enclosing::of(resources)).with(&route.classes);
        DeclaredRoute { classes, ..route.clone() }
    };
    let ports = node.listeners().iter().map(|listener| PortScope {
        number: listener.port(),
        protocol: listener.protocol(),
        services: provided.services(name, listener.port()),
        routes: listener.routes().iter().map(&declared).collect(),
        undeclared: listener.undeclared(),
        authorization: listener.authorization().unwrap_or(default),
        users: listener.users().cloned(),
        escaped_slashes: listener.escaped_slashes(),
        obs_text: listener.obs_text(),
    });
    NodeScope {
        trust_domain: trust_domain.clone(),
        mesh: mesh.clone(),
        place: Place::Node(name.spiffe_id(trust_domain, mesh)),
        ports: ports.collect(),
    }
}

impl<'a> MeshViews<'a> {
    /// Prepares the views of a mesh.
    pub fn new(trust_domain: &'a TrustDomain, mesh: &'a Name, resources: &'a MeshCatalog) -> Self {
        let provided = Provided::of(resources);
        let (policies, roles, labels) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        let (ports, egress) = (OnceCell::new(), OnceCell::new());
        Self { trust_domain, mesh, resources, policies, roles, labels, ports, provided, egress }
    }

    /// The view of a node: its listeners with the services that they are, the policies that can concern it, and the
    /// services it calls.
    pub fn node(&self, name: &NodeName, node: &VirtualNode) -> NodeView {
        let scope = self.scope(name, node);
        let policies = self.slice(&scope);
        self.node_with(scope, policies, node)
    }

    /// What a node enforces, its policies aside.
    pub(super) fn scope(&self, name: &NodeName, node: &VirtualNode) -> NodeScope {
        node_scope(self.trust_domain, self.mesh, self.resources, &self.provided, name, node)
    }

    /// The policies that can concern a node.
    pub(super) fn slice(&self, scope: &NodeScope) -> PolicySlice {
        self.index().slice(scope, self.known())
    }

    fn index(&self) -> &PolicyIndex<'a> {
        self.policies.get_or_init(|| PolicyIndex::new(self.mesh, self.resources.policies()))
    }

    /// How many characters follow wildcards in the policies about calls to a node, and in those about its calls out of the
    /// mesh.
    pub(super) fn following(&self, scope: &NodeScope, known: Known<'_>) -> [usize; 2] {
        let caller = scope.node().filter(|_| self.resources.externals().next().is_some());
        let out = caller.map(|caller| self.egress_index().1.following(caller)).unwrap_or_default();
        [self.index().following(scope, known), out]
    }

    /// What policies may ask for of the mesh.
    pub(super) fn known(&self) -> Known<'_> {
        Known { roles: self.roles(), labels: self.labels(), ports: self.ports() }
    }

    /// The roles that any policy mentions, in order, each with all its members.
    pub(super) fn roles(&self) -> &[RoleMembers] {
        self.roles.get_or_init(|| {
            let mentioned: BTreeSet<&Name> =
                self.resources.policies().flat_map(|policy| policy.roles()).collect();
            let members = |role: &&Name| RoleMembers {
                role: (*role).clone(),
                members: self.resources.members_of(role).into_iter().cloned().collect(),
            };
            let known = |role: &&Name| self.resources.role(role.as_str()).is_some();
            mentioned.into_iter().filter(known).map(|role| members(&role)).collect()
        })
    }

    /// The labels of nodes that any policy reads, in order, each with all nodes of the mesh that have it.
    pub(super) fn labels(&self) -> &[NodeLabel] {
        self.labels.get_or_init(|| {
            let read: BTreeSet<&str> = self.resources.policies().flat_map(|policy| policy.labels()).collect();
            let value = |node: &NodeName, label: &str| {
                let value = self.resources.label_of(node, label)?.to_owned();
                Some((node.spiffe_id(self.trust_domain, self.mesh), value))
            };
            let of_nodes = |label: &str| NodeLabel {
                name: label.to_owned(),
                values: self
                    .resources
                    .nodes_and_gateways()
                    .filter_map(|(node, _)| value(&node, label))
                    .collect(),
            };
            read.into_iter().map(of_nodes).collect()
        })
    }

    /// The ports that any policy asks about, in order, with their routes of which one does.
    pub(super) fn ports(&self) -> &[NamedPort] {
        self.ports.get_or_init(|| {
            let mut scopes: BTreeMap<SpiffeId, Option<NodeScope>> = BTreeMap::new();
            let scope = |id: &SpiffeId| {
                let (_, name) = id.mesh_and_node().filter(|(mesh, _)| mesh == self.mesh)?;
                Some(self.scope(&name, self.resources.node_or_gateway(&name)?))
            };
            NamedPort::found(
                self.resources.policies().flat_map(|policy| policy.ports_read()),
                |id, number| {
                    let found = scopes.entry(id.clone()).or_insert_with(|| scope(id));
                    found.as_ref()?.ports.iter().find(|port| port.number == number).cloned()
                },
            )
        })
    }

    /// The view of a node whose scope and policies are known.
    pub(super) fn node_with(&self, scope: NodeScope, policies: PolicySlice, node: &VirtualNode) -> NodeView {
        let max_view_age = self.resources.spec().and_then(|mesh| mesh.max_view_age());
        let federated = self.resources.federated().filter_map(|(_, followed, bundle)| {
            let bundle = bundle.filter(|bundle| !bundle.is_empty())?;
            let (trust_domain, document) = (followed.trust_domain().clone(), bundle.to_keys().into_bytes());
            Some(FederatedBundle { trust_domain, document })
        });
        let (backends, federated, issuers) = (node.backends().to_vec(), federated.collect(), self.issuers());
        let egress = Box::new(scope.node().map(|node| self.egress(node)).unwrap_or_default());
        NodeView { scope, policies, backends, max_view_age, federated, issuers, egress }
    }

    /// Whether some node has a service at a port of this number.
    pub fn is_served(&self, service: &Name, port: u16) -> bool {
        let mut services = self.resources.services().filter(|(name, _)| *name == service);
        services.any(|(_, service)| {
            let provider = service.provider().filter(|provider| provider.takes(port));
            let node = provider.and_then(|provider| self.resources.node(provider.node().as_str()));
            node.is_some_and(|node| node.listeners().iter().any(|listener| listener.port() == port))
        })
    }

    /// The issuers of users' tokens.
    pub fn issuers(&self) -> Vec<JwtIssuer> {
        let issuers = self.resources.issuers().map(|(name, issuer, keys)| JwtIssuer {
            name: name.clone(),
            issuer: issuer.issuer().to_owned(),
            audiences: issuer.audiences().to_vec(),
            jwks: keys
                .map_or_else(|| NO_KEYS.to_owned(), |keys| keys.to_jwks(KeyUse::Signature))
                .into_bytes(),
            claims: issuer.claims().clone(),
            token_header: issuer.token_header().map(str::to_owned),
            audience_is_client: issuer.audience_is_client(),
            // Its keys may be written down by hand: who signs with them is the same.
            is_ours: self.resources.has_our_name(issuer),
        });
        issuers.collect()
    }

    /// What may leave the mesh from a node.
    fn egress(&self, node: &SpiffeId) -> Egress {
        if self.resources.externals().next().is_none() {
            return Egress::default();
        }
        let (externals, index) = self.egress_index();
        Egress { externals: externals.clone(), policies: index.slice(node, self.known()) }
    }

    fn egress_index(&self) -> &(Vec<External>, EgressIndex<'a>) {
        self.egress.get_or_init(|| {
            let externals = self.resources.externals().map(|(name, external)| external.of_view(name));
            let externals: Vec<External> = externals.collect();
            let scopes = externals.iter().map(|external| external.scope(self.trust_domain, self.mesh));
            let scopes: Vec<NodeScope> = scopes.collect();
            (externals, EgressIndex::new(&scopes, self.resources.policies()))
        })
    }

    /// An external service, and what decides on calls of it by whichever node of the mesh.
    pub fn external(&self, name: &Name) -> Option<(&External, NodeScope, PolicySlice)> {
        let (externals, index) = self.egress_index();
        let external = externals.iter().find(|external| external.name == *name)?;
        Some((external, external.scope(self.trust_domain, self.mesh), index.of_all(self.known())))
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
    let mut changes: BTreeMap<&Name, BTreeSet<&ResourceKey>> = BTreeMap::new();
    for key in changed {
        changes.entry(&key.mesh).or_default().insert(key);
    }
    let mut newly = Vec::new();
    for (mesh, changed) in changes {
        let Some(after) = after.mesh(mesh.as_str()) else { continue };
        let before = before.mesh(mesh.as_str()).map(|before| &**before);
        let of_mesh_before = before.map(needed_by_mesh).unwrap_or_default();
        let of_mesh = needed_by_mesh(after);
        let concerns_all = of_mesh != of_mesh_before || changed.iter().any(|key| key.kind == Kind::Mesh);
        // Features do not depend on which services a port is.
        let provided = Provided(Vec::new());
        let of_node = |resources: &MeshCatalog, name: &NodeName| -> BTreeSet<&'static str> {
            let Some(node) = resources.node_or_gateway(name) else { return BTreeSet::new() };
            let scope = node_scope(trust_domain, mesh, resources, &provided, name, node);
            features::needed_by_scope(&scope).collect()
        };
        for (name, _) in after.nodes_and_gateways() {
            if !concerns_all && !changed.contains(&ResourceKey::node(mesh, &name)) {
                continue;
            }
            let known = before.map(|before| of_node(before, &name)).unwrap_or_default();
            let needed = of_node(after, &name);
            let needed = needed.union(&of_mesh).filter(|feature| !known.contains(*feature));
            let new: Vec<_> = needed.filter(|feature| !of_mesh_before.contains(*feature)).copied().collect();
            if !new.is_empty() {
                newly.push((name.spiffe_id(trust_domain, mesh), new));
            }
        }
    }
    newly
}

/// Whether agents must know of [`features::MANY_ROOTS`] to verify by it.
pub(crate) fn has_many_roots(bundle: &SpiffeBundle) -> bool {
    bundle.x509().roots().len() > features::FEW_ROOTS
}

/// What every node of a mesh may have to understand.
fn needed_by_mesh(resources: &MeshCatalog) -> BTreeSet<&'static str> {
    let audits = resources.policies().any(|policy| policy.mode() == Mode::Audit);
    let bounds = resources.policies().any(|policy| policy.mode() == Mode::Boundary);
    let has_policies = resources.policies().next().is_some();
    let is_class = |reference: &Reference| matches!(reference.referent, Referent::DataClass(_));
    let reads_labels = resources.policies().any(|policy| policy.labels().next().is_some());
    let asks_of_named = resources.policies().any(|policy| policy.asks_of_named_resources());
    let names_roles = resources.policies().any(|policy| policy.roles().next().is_some());
    let names_classes = resources.policies().flat_map(|policy| policy.references()).any(is_class);
    let has_externals = resources.externals().next().is_some();
    let ages = resources.spec().is_some_and(|mesh| mesh.max_view_age().is_some());
    let has_users = resources.issuers().next().is_some()
        || resources.policies().any(|policy| policy.reads().are_of_users());
    let by_client = resources.issuers().any(|(_, issuer, _)| issuer.audience_is_client());
    let reads_context = resources.policies().any(|policy| policy.reads().are_beyond_path_and_method());
    let reads_calls = resources.policies().any(|policy| policy.reads_calls_as_requests());
    let many_roots =
        resources.federated().filter_map(|(_, _, bundle)| bundle).any(|bundle| has_many_roots(bundle));
    let needed = [
        has_policies.then_some(features::CEDAR),
        reads_calls.then_some(features::METHOD_ACCESS),
        reads_context.then_some(features::CONTEXT),
        audits.then_some(features::AUDIT_POLICIES),
        bounds.then_some(features::BOUNDARIES),
        ages.then_some(features::MAX_VIEW_AGE),
        names_roles.then_some(features::ROLES),
        reads_labels.then_some(features::NODE_LABELS),
        asks_of_named.then_some(features::NAMED_PORTS),
        names_classes.then_some(features::DATA_CLASSES),
        has_users.then_some(features::USERS),
        by_client.then_some(features::CLIENTS_AS_AUDIENCES),
        has_externals.then_some(features::EGRESS),
        many_roots.then_some(features::MANY_ROOTS),
    ];
    needed.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
