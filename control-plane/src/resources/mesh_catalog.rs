//! The resources of one mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{PolicyDocument, PolicyTemplate};
use hauberk_tls::SpiffeBundle;
use hauberk_tls::jwt::JwtKeySet;

use super::catalog::{Entry, Model};
use super::data_class::DataClass;
use super::enrollment::{Enrollment, WorkloadEnrollment};
use super::external_service::ExternalService;
use super::federated_trust_domain::FederatedTrustDomain;
use super::fetched::FetchedBundle;
use super::fetched_keys::FetchedKeys;
use super::jwt_issuer::JwtIssuer;
use super::key::{Kind, ResourceKey};
use super::mesh::Mesh;
use super::nesting;
use super::own_issuer::OwnIssuer;
use super::role::Role;
use super::template::LinkedPolicy;
use super::virtual_node::VirtualNode;
use super::virtual_service::VirtualService;
use crate::registry::Revision;

/// The resources of one mesh.
#[derive(Debug, Clone, Default)]
pub struct MeshCatalog {
    boundaries: BTreeMap<Name, Arc<Entry>>,
    classes: BTreeMap<Name, Arc<Entry>>,
    enrollments: BTreeMap<Name, Arc<Entry>>,
    externals: BTreeMap<Name, Arc<Entry>>,
    federated: BTreeMap<Name, Arc<Entry>>,
    issuers: BTreeMap<Name, Arc<Entry>>,
    meshes: BTreeMap<Name, Arc<Entry>>,
    policies: BTreeMap<Name, Arc<Entry>>,
    templates: BTreeMap<Name, Arc<Entry>>,
    roles: BTreeMap<Name, Arc<Entry>>,
    gateways: BTreeMap<Name, Arc<Entry>>,
    nodes: BTreeMap<Name, Arc<Entry>>,
    services: BTreeMap<Name, Arc<Entry>>,
    /// The last good bundles of followed trust domains; `None`: what is stored cannot be read.
    pub(super) fetched: BTreeMap<Name, Option<Arc<FetchedBundle>>>,
    /// The same of the keys of issuers.
    pub(super) fetched_keys: BTreeMap<Name, Option<Arc<FetchedKeys>>>,
    /// Ourselves as an issuer, if we are one: up to date wherever an issuer of the mesh is us.
    pub(super) own_issuer: Option<Arc<OwnIssuer>>,
}

impl MeshCatalog {
    /// The resources of one kind, by name.
    pub fn of_kind(&self, kind: Kind) -> &BTreeMap<Name, Arc<Entry>> {
        match kind {
            Kind::Boundary => &self.boundaries,
            Kind::DataClass => &self.classes,
            Kind::Enrollment => &self.enrollments,
            Kind::ExternalService => &self.externals,
            Kind::FederatedTrustDomain => &self.federated,
            Kind::JwtIssuer => &self.issuers,
            Kind::Mesh => &self.meshes,
            Kind::Policy => &self.policies,
            Kind::PolicyTemplate => &self.templates,
            Kind::Role => &self.roles,
            Kind::VirtualGateway => &self.gateways,
            Kind::VirtualNode => &self.nodes,
            Kind::VirtualService => &self.services,
        }
    }

    pub(super) fn of_kind_mut(&mut self, kind: Kind) -> &mut BTreeMap<Name, Arc<Entry>> {
        match kind {
            Kind::Boundary => &mut self.boundaries,
            Kind::DataClass => &mut self.classes,
            Kind::Enrollment => &mut self.enrollments,
            Kind::ExternalService => &mut self.externals,
            Kind::FederatedTrustDomain => &mut self.federated,
            Kind::JwtIssuer => &mut self.issuers,
            Kind::Mesh => &mut self.meshes,
            Kind::Policy => &mut self.policies,
            Kind::PolicyTemplate => &mut self.templates,
            Kind::Role => &mut self.roles,
            Kind::VirtualGateway => &mut self.gateways,
            Kind::VirtualNode => &mut self.nodes,
            Kind::VirtualService => &mut self.services,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.of_kind(kind).is_empty())
    }

    /// Makes anew what follows from a resource that was put in or taken out: the policy itself, or those that follow the
    /// template.
    pub(super) fn relink(&mut self, key: &ResourceKey) {
        let policies: Vec<(&Name, &Arc<Entry>)> = match key.kind {
            Kind::Policy => self.policies.get_key_value(&key.name).into_iter().collect(),
            Kind::PolicyTemplate => self.policies.iter().collect(),
            _ => return,
        };
        let follows = |policy: &LinkedPolicy| key.kind == Kind::Policy || *policy.template() == key.name;
        let made = policies.into_iter().filter_map(|(name, entry)| match entry.model() {
            Model::Linked(policy) if follows(policy) => {
                let made = policy.made_from(self.template(policy.template()));
                Some((name.clone(), Arc::new(Entry::new(entry.resource().clone(), Model::Linked(made)))))
            }
            _ => None,
        });
        let made: Vec<_> = made.collect();
        self.policies.extend(made);
    }

    fn template(&self, name: &Name) -> Option<&PolicyTemplate> {
        match self.templates.get(name)?.model() {
            Model::PolicyTemplate(template) => Some(template),
            _ => None,
        }
    }

    /// What the mesh itself says.
    pub fn spec(&self) -> Option<&Mesh> {
        self.meshes.values().find_map(|entry| match entry.model() {
            Model::Mesh(mesh) => Some(mesh),
            _ => None,
        })
    }

    /// A virtual node.
    pub fn node(&self, name: &str) -> Option<&VirtualNode> {
        as_node(self.nodes.get(name)?)
    }

    /// A virtual node, or a gateway as a node that only calls.
    pub fn node_or_gateway(&self, name: &NodeName) -> Option<&VirtualNode> {
        as_node_or_gateway(self.of_kind(Kind::of_node(name)).get(name.name())?)
    }

    /// The id that a virtual node or gateway got when it was made: one that is made anew under its name has another.
    pub fn uid_of(&self, name: &NodeName) -> &str {
        self.of_kind(Kind::of_node(name)).get(name.name()).map(|entry| entry.uid()).unwrap_or_default()
    }

    /// The value of a virtual node's or gateway's label, if it has that.
    pub fn label_of(&self, name: &NodeName, label: &str) -> Option<&str> {
        let entry = self.of_kind(Kind::of_node(name)).get(name.name())?;
        entry.resource().labels.get(label).map(String::as_str)
    }

    /// The labels of a virtual node or gateway, in no order.
    pub fn labels_of(&self, name: &NodeName) -> impl Iterator<Item = (&str, &str)> {
        let entry = self.of_kind(Kind::of_node(name)).get(name.name());
        let labels = entry.into_iter().flat_map(|entry| &entry.resource().labels);
        labels.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A virtual service.
    pub fn service(&self, name: &str) -> Option<&VirtualService> {
        as_service(self.services.get(name)?)
    }

    /// All virtual nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &VirtualNode)> {
        self.nodes.iter().filter_map(|(name, entry)| Some((name, as_node(entry)?)))
    }

    /// All virtual nodes and gateways, whatever is stored of them: each kind in order.
    pub fn node_names(&self) -> impl Iterator<Item = NodeName> {
        let nodes = self.nodes.keys().cloned().map(NodeName::Node);
        nodes.chain(self.gateways.keys().cloned().map(NodeName::Gateway))
    }

    /// All virtual nodes, and all gateways as nodes that only call; each kind in order.
    pub fn nodes_and_gateways(&self) -> impl Iterator<Item = (NodeName, &VirtualNode)> {
        self.node_names().filter_map(|name| {
            let node = self.node_or_gateway(&name)?;
            Some((name, node))
        })
    }

    /// All virtual services, in order.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &VirtualService)> {
        self.services.iter().filter_map(|(name, entry)| Some((name, as_service(entry)?)))
    }

    /// All policies and boundaries, each in order.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyDocument> {
        self.policies.values().chain(self.boundaries.values()).filter_map(|entry| entry.document())
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        as_role(self.roles.get(name)?)
    }

    /// All roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = (&Name, &Role)> {
        self.roles.iter().filter_map(|(name, entry)| Some((name, as_role(entry)?)))
    }

    /// The members of a role, also by the roles that are in it.
    pub fn members_of(&self, role: &Name) -> BTreeSet<&SpiffeId> {
        let reached = self.reached(role);
        reached.into_iter().filter_map(|name| self.role(name.as_str())).flat_map(Role::members).collect()
    }

    /// The roles within a role, at any depth.
    pub fn roles_within<'a>(&'a self, role: &'a Name) -> BTreeSet<&'a Name> {
        let mut within = self.reached(role);
        within.remove(role);
        within
    }

    fn reached<'a>(&'a self, role: &'a Name) -> BTreeSet<&'a Name> {
        nesting::reached(role, |name| self.role(name.as_str()).map(Role::roles).unwrap_or_default())
    }

    /// All data classes, in order.
    pub fn data_classes(&self) -> impl Iterator<Item = (&Name, &DataClass)> {
        self.classes.iter().filter_map(|(name, entry)| match entry.model() {
            Model::DataClass(class) => Some((name, class)),
            _ => None,
        })
    }

    /// A data class and those within it, at any depth.
    pub fn classes_within<'a>(&'a self, class: &'a Name) -> BTreeSet<&'a Name> {
        nesting::reached(class, |name| match self.classes.get(name).map(|entry| entry.model()) {
            Some(Model::DataClass(class)) => class.classes(),
            _ => &[],
        })
    }

    /// All external services, in order.
    pub fn externals(&self) -> impl Iterator<Item = (&Name, &ExternalService)> {
        self.externals.iter().filter_map(|(name, entry)| match entry.model() {
            Model::ExternalService(external) => Some((name, external)),
            _ => None,
        })
    }

    /// All enrollments, in order.
    pub fn enrollments(&self) -> impl Iterator<Item = (&Name, &Enrollment)> {
        self.enrollments.iter().filter_map(|(name, entry)| match entry.model() {
            Model::Enrollment(enrollment) => Some((name, enrollment)),
            _ => None,
        })
    }

    /// Those of programs beside agents, in order.
    pub fn workloads(&self) -> impl Iterator<Item = (&Name, &WorkloadEnrollment)> {
        self.enrollments().filter_map(|(name, enrollment)| match enrollment {
            Enrollment::Workload(workload) => Some((name, workload)),
            Enrollment::Attest(_) => None,
        })
    }

    /// All trust domains that are followed, in order, each with the bundle that counts: the last good one that was fetched
    /// for the very resource, else what the resource itself says.
    pub fn federated(
        &self,
    ) -> impl Iterator<Item = (&Name, &FederatedTrustDomain, Option<&Arc<SpiffeBundle>>)> {
        self.federated.iter().filter_map(|(name, entry)| match entry.model() {
            Model::FederatedTrustDomain(followed) => {
                Some((name, followed, self.bundle_of(name, entry, followed)))
            }
            _ => None,
        })
    }

    /// The bundle that counts of one of them; `None` where there is none yet, or no such trust domain.
    pub fn bundle(&self, name: &Name) -> Option<&Arc<SpiffeBundle>> {
        let entry = self.federated.get(name)?;
        match entry.model() {
            Model::FederatedTrustDomain(followed) => self.bundle_of(name, entry, followed),
            _ => None,
        }
    }

    fn bundle_of<'a>(
        &'a self,
        name: &Name,
        entry: &Entry,
        followed: &'a FederatedTrustDomain,
    ) -> Option<&'a Arc<SpiffeBundle>> {
        match self.fetched.get(name) {
            Some(None) => None,
            Some(Some(fetched)) if fetched.is_for(entry) => Some(fetched.bundle()),
            Some(Some(_)) | None => followed.initial(),
        }
    }

    /// All issuers of users' tokens, in order, each with the keys that count: our own where that is us, else the last good ones
    /// that were fetched for the very resource, else those that the resource itself says.
    pub fn issuers(&self) -> impl Iterator<Item = (&Name, &JwtIssuer, Option<&Arc<JwtKeySet>>)> {
        self.issuers.iter().filter_map(|(name, entry)| match entry.model() {
            Model::JwtIssuer(issuer) => {
                let keys = match self.fetched_keys.get(name) {
                    _ if self.is_us(issuer) => self.own_issuer.as_ref().map(|own| own.keys()),
                    Some(None) => None,
                    Some(Some(fetched)) if fetched.are_for(entry) => Some(fetched.keys()),
                    Some(Some(_)) | None => issuer.initial(),
                };
                Some((name, issuer, keys))
            }
            _ => None,
        })
    }

    /// Whether an issuer is us, so that its keys are our own, and nobody is asked for them.
    pub fn is_us(&self, issuer: &JwtIssuer) -> bool {
        self.own_issuer.as_ref().is_some_and(|own| own.is(issuer))
    }

    /// Whether an issuer has our name, wherever its keys come from.
    pub fn has_our_name(&self, issuer: &JwtIssuer) -> bool {
        self.own_issuer.as_ref().is_some_and(|own| own.is_named_by(issuer))
    }

    /// Which revision last changed the keys of an issuer of this mesh that is us; `None` where none is.
    pub fn own_keys_since(&self) -> Option<Revision> {
        let is_one = self.issuers().any(|(_, issuer, _)| self.is_us(issuer));
        self.own_issuer.as_ref().filter(|_| is_one).map(|own| own.revision())
    }

    /// What was fetched last for a trust domain that is followed, if it counts.
    pub fn fetched(&self, name: &str) -> Option<&Arc<FetchedBundle>> {
        let entry = self.federated.get(name)?;
        self.fetched.get(name)?.as_ref().filter(|fetched| fetched.is_for(entry))
    }
}

fn as_node(entry: &Entry) -> Option<&VirtualNode> {
    match entry.model() {
        Model::VirtualNode(node) => Some(node),
        _ => None,
    }
}

fn as_node_or_gateway(entry: &Entry) -> Option<&VirtualNode> {
    match entry.model() {
        Model::VirtualNode(node) => Some(node),
        Model::VirtualGateway(gateway) => Some(gateway.as_node()),
        _ => None,
    }
}

fn as_role(entry: &Entry) -> Option<&Role> {
    match entry.model() {
        Model::Role(role) => Some(role),
        _ => None,
    }
}

fn as_service(entry: &Entry) -> Option<&VirtualService> {
    match entry.model() {
        Model::VirtualService(service) => Some(service),
        _ => None,
    }
}
