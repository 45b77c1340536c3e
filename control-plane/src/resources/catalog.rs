//! All resources at one revision, read and checked: what everything else is computed from.

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{PolicyDocument, PolicyTemplate};
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use prost::Message;

use super::data_class::DataClass;
use super::enrollment::Enrollment;
use super::external_service::ExternalService;
use super::federated_trust_domain::FederatedTrustDomain;
use super::fetched::FetchedBundle;
use super::fetched_keys::FetchedKeys;
use super::jwt_issuer::JwtIssuer;
use super::key::{Kind, ResourceKey};
use super::mesh::Mesh;
use super::mesh_catalog::MeshCatalog;
use super::own_issuer::OwnIssuer;
use super::policy;
use super::problem::Problems;
use super::role::Role;
use super::template::{self, LinkedPolicy};
use super::virtual_gateway::VirtualGateway;
use super::virtual_node::VirtualNode;
use super::virtual_service::VirtualService;
use crate::registry::{Page, Revision, Stored, Version};

/// All resources at one revision. Immutable once shared, and cheap to clone: what does not change stays shared.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    revision: Revision,
    version: Version,
    meshes: BTreeMap<Name, Arc<MeshCatalog>>,
    /// Ourselves as an issuer of users' tokens, if we are one.
    own_issuer: Option<Arc<OwnIssuer>>,
}

/// One resource, as it is stored and as it is understood.
#[derive(Debug, Clone)]
pub struct Entry {
    resource: Resource,
    model: Model,
}

/// What a resource means.
#[derive(Debug, Clone)]
pub enum Model {
    /// What no policy permits.
    Boundary(Arc<PolicyDocument>),
    /// A sort of data.
    DataClass(DataClass),
    /// Who may become what.
    Enrollment(Enrollment),
    /// Hosts outside of the mesh.
    ExternalService(ExternalService),
    /// A trust domain whose members are known.
    FederatedTrustDomain(FederatedTrustDomain),
    /// Who says who users are.
    JwtIssuer(JwtIssuer),
    /// A mesh.
    Mesh(Mesh),
    /// A policy that follows a template.
    Linked(LinkedPolicy),
    /// A policy with a text of its own.
    Policy(Arc<PolicyDocument>),
    /// What policies are made from.
    PolicyTemplate(Arc<PolicyTemplate>),
    /// A named group of callers.
    Role(Role),
    /// A virtual gateway.
    VirtualGateway(VirtualGateway),
    /// A virtual node.
    VirtualNode(VirtualNode),
    /// A virtual service.
    VirtualService(VirtualService),
    /// Stored, but not acceptable to this release: says why. Where it might have been a forbid, no node's view of its mesh is compiled
    /// until it is replaced.
    Unreadable(String),
}

impl Model {
    /// Reads a resource's body, and reports everything that is wrong with it.
    pub(crate) fn parse(
        spec: &Spec,
        key: &ResourceKey,
        trust_domain: &TrustDomain,
        problems: &mut Problems,
    ) -> Option<Self> {
        match spec {
            Spec::Boundary(spec) => {
                policy::parse_boundary(spec, key, trust_domain, problems).map(Self::Boundary)
            }
            Spec::DataClass(spec) => DataClass::parse(spec, problems).map(Self::DataClass),
            Spec::Enrollment(spec) => Enrollment::parse(spec, trust_domain, problems).map(Self::Enrollment),
            Spec::ExternalService(spec) => ExternalService::parse(spec, problems).map(Self::ExternalService),
            Spec::FederatedTrustDomain(spec) => {
                FederatedTrustDomain::parse(spec, key, trust_domain, problems).map(Self::FederatedTrustDomain)
            }
            Spec::JwtIssuer(spec) => JwtIssuer::parse(spec, problems).map(Self::JwtIssuer),
            Spec::MeshSpec(spec) => Mesh::parse(spec, problems).map(Self::Mesh),
            Spec::Role(spec) => Role::parse(spec, key, trust_domain, problems).map(Self::Role),
            Spec::VirtualGateway(spec) => Some(Self::VirtualGateway(VirtualGateway::parse(spec))),
            Spec::VirtualNode(spec) => VirtualNode::parse(spec, problems).map(Self::VirtualNode),
            Spec::VirtualService(spec) => VirtualService::parse(spec, problems).map(Self::VirtualService),
            Spec::Policy(spec) => policy::parse(spec, key, trust_domain, problems),
            Spec::PolicyTemplate(spec) => {
                template::parse(spec, key, trust_domain, problems).map(Self::PolicyTemplate)
            }
        }
    }
}

impl Entry {
    /// A resource that was read well.
    pub(crate) fn new(resource: Resource, model: Model) -> Self {
        Self { resource, model }
    }

    /// Reads a stored resource.
    fn from_stored(key: &ResourceKey, stored: &Stored, trust_domain: &TrustDomain) -> Self {
        let named = || Resource {
            mesh: key.mesh.to_string(),
            name: key.name.to_string(),
            spec: Some(key.kind.empty_spec()),
            ..Resource::default()
        };
        let resource = match Resource::decode(stored.value.clone()) {
            Ok(resource) => resource,
            Err(error) => return Self::new(named(), Model::Unreadable(error.to_string())),
        };
        let mut problems = Problems::of_stored();
        let model = match &resource.spec {
            Some(spec) if Kind::of(spec) == key.kind => Model::parse(spec, key, trust_domain, &mut problems),
            _ => return Self::new(named(), Model::Unreadable("it is of another kind".to_owned())),
        };
        let model = model.unwrap_or_else(|| {
            let found = problems.into_sorted();
            let first = found.first().map(|problem| format!("{}: {}", problem.field, problem.message));
            Model::Unreadable(first.unwrap_or_default())
        });
        Self::new(resource, model)
    }

    /// The resource as it is stored.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// What it means.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The statements of a policy or boundary.
    pub fn document(&self) -> Option<&PolicyDocument> {
        match &self.model {
            Model::Policy(document) | Model::Boundary(document) => Some(document),
            Model::Linked(policy) => policy.document(),
            _ => None,
        }
    }

    /// The id that it got when it was made.
    pub fn uid(&self) -> &str {
        self.resource.metadata.as_ref().map(|metadata| &*metadata.uid).unwrap_or_default()
    }

    /// Its own counter.
    pub fn resource_version(&self) -> u64 {
        self.resource.metadata.as_ref().map_or(0, |metadata| metadata.resource_version)
    }
}

impl Catalog {
    /// Reads listings of all resources and of all that was fetched for them, at one revision, at which our own issuer has these keys.
    pub fn from_pages(
        resources: &Page,
        fetched: &[Page],
        own_issuer: Option<OwnIssuer>,
        trust_domain: &TrustDomain,
    ) -> Self {
        let (revision, version) = (resources.revision, resources.version);
        let own_issuer = own_issuer.map(Arc::new);
        let mut catalog = Self { revision, version, own_issuer, ..Self::default() };
        for (key, stored) in &resources.entries {
            catalog.write(key, Some(stored), trust_domain);
        }
        for (key, stored) in fetched.iter().flat_map(|page| &page.entries) {
            catalog.write_fetched(key, Some(stored));
        }
        catalog
    }

    /// Takes over one write of a bundle, or of keys, that were fetched. Those that no resource of a mesh asks for are left
    /// alone.
    pub(crate) fn write_fetched(&mut self, key: &str, stored: Option<&Stored>) {
        if let Some(key) = FetchedKeys::resource_of(key) {
            return self.write_fetched_keys(key, stored);
        }
        let Some(key) = FetchedBundle::resource_of(key) else { return };
        let Some(mesh) = self.meshes.get_mut(&key.mesh) else { return };
        let mesh = Arc::make_mut(mesh);
        match stored {
            Some(stored) => {
                let read = FetchedBundle::from_stored(&key, stored);
                if let Err(error) = &read {
                    tracing::error!(event = "fetched_bundle_unreadable", resource = %key, error, "nobody of it is let in");
                }
                mesh.fetched.insert(key.name, read.ok().map(Arc::new));
            }
            None => drop(mesh.fetched.remove(&key.name)),
        }
    }

    fn write_fetched_keys(&mut self, key: ResourceKey, stored: Option<&Stored>) {
        let Some(mesh) = self.meshes.get_mut(&key.mesh) else { return };
        let mesh = Arc::make_mut(mesh);
        match stored {
            Some(stored) => {
                let read = FetchedKeys::from_stored(&key, stored);
                if let Err(error) = &read {
                    tracing::error!(event = "fetched_keys_unreadable", resource = %key, error, "its tokens are refused");
                }
                mesh.fetched_keys.insert(key.name, read.ok().map(Arc::new));
            }
            None => drop(mesh.fetched_keys.remove(&key.name)),
        }
    }

    /// Takes over other keys of our own issuer. Meshes of which no issuer is us are left alone.
    pub(crate) fn set_own_issuer(&mut self, own: OwnIssuer) {
        let own = Arc::new(own);
        for mesh in self.meshes.values_mut().filter(|mesh| mesh.own_keys_since().is_some()) {
            Arc::make_mut(mesh).own_issuer = Some(Arc::clone(&own));
        }
        self.own_issuer = Some(own);
    }

    /// Ourselves as an issuer of users' tokens, if we are one.
    pub(crate) fn own_issuer(&self) -> Option<&OwnIssuer> {
        self.own_issuer.as_deref()
    }

    /// Takes over one write of the registry.
    pub(crate) fn write(&mut self, key: &str, stored: Option<&Stored>, trust_domain: &TrustDomain) {
        let Some(key) = ResourceKey::from_store_key(key) else {
            tracing::warn!(event = "resource_key_unknown", key, "a record of an unknown kind is left alone");
            return;
        };
        match stored {
            Some(stored) => {
                let entry = Entry::from_stored(&key, stored, trust_domain);
                if let Model::Unreadable(reason) = entry.model() {
                    tracing::error!(event = "resource_unreadable", resource = %key, reason, "a stored resource is not accepted");
                }
                self.set(&key, entry);
            }
            None => self.remove(&key),
        }
    }

    /// Moves on to a later commit.
    pub(crate) fn move_on(&mut self, version: Version, revision: Revision) {
        self.version = version;
        self.revision = revision;
    }

    /// Puts a resource in, or in another's place.
    pub(crate) fn set(&mut self, key: &ResourceKey, entry: Entry) {
        let mesh = Arc::make_mut(self.meshes.entry(key.mesh.clone()).or_default());
        mesh.own_issuer.clone_from(&self.own_issuer);
        mesh.of_kind_mut(key.kind).insert(key.name.clone(), Arc::new(entry));
        mesh.relink(key);
    }

    /// Takes a resource out.
    pub(crate) fn remove(&mut self, key: &ResourceKey) {
        if let Some(mesh) = self.meshes.get_mut(&key.mesh) {
            let resources = Arc::make_mut(mesh);
            resources.of_kind_mut(key.kind).remove(&key.name);
            resources.relink(key);
            if resources.is_empty() {
                self.meshes.remove(&key.mesh);
            }
        }
    }

    /// The revision that it reflects.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The commit that it reflects.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// One resource.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Entry>> {
        self.meshes.get(&key.mesh)?.of_kind(key.kind).get(&key.name)
    }

    /// The resources of one mesh, if there are any.
    pub fn mesh(&self, name: &str) -> Option<&Arc<MeshCatalog>> {
        self.meshes.get(name)
    }

    /// All meshes that have any resources, in order.
    pub fn meshes(&self) -> &BTreeMap<Name, Arc<MeshCatalog>> {
        &self.meshes
    }
}
