//! Resources for tests, as short as they can be written.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::mesh::v1::{
    AttestRule, Backend, BackendVirtualService, BoundarySpec, BundleEndpointProfile, DataClassSpec,
    EnrollmentParent, EnrollmentSpec, FederatedTrustDomainSpec, JwtIssuerSpec, Listener, MeshSpec, Metadata,
    PolicySpec, PolicyTemplateSpec, PortMapping, Resource, RoleMember, RoleSpec, RouteDeclaration,
    TemplateLink, UserTokens, VirtualGatewaySpec, VirtualNodeProvider, VirtualNodeSpec,
    VirtualServiceProvider, VirtualServiceSpec, WorkloadEnrollment, attest_rule, enrollment_parent,
    resource::Spec, role_member::Member, virtual_service_provider::Provider,
};

use hauberk_tls::jwt::{JwtBundle, JwtSigner, KeyUse};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::{Admission, Rights, admit};
use super::apply::{Applied, Author, Resources, ResourcesParts};
use super::catalog::Catalog;
use super::follow::Catalogs;
use super::problem::Problem;
use crate::audit::Audit;
use crate::authority::{self, Authority, KeyEncryptionKey, KeyStore};
use crate::clock::Clock;
use crate::compile::{self, Compilation};
use crate::registry::{SledStore, Store};
use crate::server_certificate::ServerNames;

/// How long tokens live where no enrollment says otherwise.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(300);

pub(crate) const EVERYTHING: Rights =
    Rights { resources: true, policies: true, boundaries: true, identities: true };

/// What the control plane is called.
pub(crate) fn server_names() -> ServerNames {
    ServerNames {
        dns_names: vec!["control-plane.shop.example".to_owned()],
        ip_addresses: vec!["10.0.0.2".parse().unwrap()],
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("shop.example").unwrap()
}

pub(crate) fn resource(mesh: &str, name: &str, spec: Spec) -> Resource {
    Resource { mesh: mesh.into(), name: name.into(), spec: Some(spec), ..Resource::default() }
}

pub(crate) fn mesh(name: &str) -> Resource {
    resource("", name, Spec::MeshSpec(MeshSpec::default()))
}

pub(crate) fn listener(port: u32, protocol: &str) -> Listener {
    let port_mapping = Some(PortMapping { port: Some(port), protocol: protocol.into() });
    Listener { port_mapping, ..Listener::default() }
}

pub(crate) fn routes(listener: Listener, paths: &[&str]) -> Listener {
    let route = |path: &&str| RouteDeclaration { path: (*path).into(), ..RouteDeclaration::default() };
    Listener { routes: paths.iter().map(route).collect(), ..listener }
}

/// The listener, taking users' tokens of these issuers.
pub(crate) fn for_users(listener: Listener, mode: &str, issuers: &[&str]) -> Listener {
    let issuers = issuers.iter().map(|name| (*name).into()).collect();
    let users = UserTokens { mode: Some(mode.into()), issuers, keep_token: None };
    Listener { users: Some(users), ..listener }
}

pub(crate) fn node(name: &str, listeners: impl Into<Vec<Listener>>) -> Resource {
    let spec = VirtualNodeSpec { listeners: listeners.into(), ..VirtualNodeSpec::default() };
    resource("shop", name, Spec::VirtualNode(spec))
}

/// The same resource with these labels alone.
pub(crate) fn labelled(resource: Resource, labels: &[(&str, &str)]) -> Resource {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Resource { labels, ..resource }
}

pub(crate) fn gateway(name: &str) -> Resource {
    resource("shop", name, Spec::VirtualGateway(VirtualGatewaySpec {}))
}

/// `edge`, or `gateway/edge`.
pub(crate) fn parent(node: &str) -> EnrollmentParent {
    use enrollment_parent::Node::{VirtualGateway, VirtualNode};
    let node = match node.strip_prefix("gateway/") {
        Some(gateway) => VirtualGateway(gateway.into()),
        None => VirtualNode(node.into()),
    };
    EnrollmentParent { node: Some(node) }
}

/// A program beside the agents of a node.
pub(crate) fn enrolled(name: &str, node: &str, path: &str) -> Resource {
    let selectors = vec!["unix:uid:1000".to_owned()];
    let workload = WorkloadEnrollment { path: path.to_owned(), selectors, ..WorkloadEnrollment::default() };
    let spec = EnrollmentSpec { parent: Some(parent(node)), workload: Some(workload), attest: None };
    resource("shop", name, Spec::Enrollment(spec))
}

/// The trust domain partner.example, whose bundle is still to be fetched.
pub(crate) fn partner() -> Resource {
    let bundle_endpoint_profile =
        Some(BundleEndpointProfile { r#type: "https_web".to_owned(), ..BundleEndpointProfile::default() });
    let spec = FederatedTrustDomainSpec {
        bundle_endpoint_url: "https://bundles.partner.example/".to_owned(),
        bundle_endpoint_profile,
        ..FederatedTrustDomainSpec::default()
    };
    resource("shop", "partner.example", Spec::FederatedTrustDomain(spec))
}

/// The same of a rule.
pub(crate) fn attest_rule(node: &str, selectors: &[&str]) -> AttestRule {
    use attest_rule::Node::{VirtualGateway, VirtualNode};
    let node = match node.strip_prefix("gateway/") {
        Some(gateway) => VirtualGateway(gateway.into()),
        None => VirtualNode(node.into()),
    };
    let selectors = selectors.iter().map(|text| (*text).into()).collect();
    AttestRule { node: Some(node), selectors, ..AttestRule::default() }
}

pub(crate) fn backend(service: &str) -> Backend {
    Backend { virtual_service: Some(BackendVirtualService { virtual_service_name: service.into() }) }
}

pub(crate) fn service(name: &str, node: &str, port: Option<u32>) -> Resource {
    let provider = Provider::VirtualNode(VirtualNodeProvider { virtual_node_name: node.into(), port });
    let provider = Some(VirtualServiceProvider { provider: Some(provider) });
    resource("shop", name, Spec::VirtualService(VirtualServiceSpec { provider }))
}

pub(crate) fn policy(name: &str, cedar: &str) -> Resource {
    resource("shop", name, Spec::Policy(PolicySpec { cedar: cedar.into(), ..PolicySpec::default() }))
}

pub(crate) fn permit(name: &str, caller: &str, service: &str) -> Resource {
    let text =
        format!("permit(principal == Node::\"{caller}\", action, resource in Service::\"{service}\");");
    policy(name, &text)
}

pub(crate) fn forbid(name: &str, caller: &str, service: &str) -> Resource {
    let text =
        format!("forbid(principal == Node::\"{caller}\", action, resource in Service::\"{service}\");");
    policy(name, &text)
}

pub(crate) fn at_version(resource: Resource, resource_version: u64) -> Resource {
    Resource { metadata: Some(Metadata { resource_version, ..Metadata::default() }), ..resource }
}

/// The body of a virtual node.
pub(crate) fn node_spec(resource: &mut Resource) -> &mut VirtualNodeSpec {
    match &mut resource.spec {
        Some(Spec::VirtualNode(spec)) => spec,
        _ => panic!("{} is no virtual node", resource.name),
    }
}

/// web calls orders, which has a public and an internal port; only the public one is the service.
pub(crate) fn shop() -> Vec<Resource> {
    let mut web = node("web", [listener(8000, "http")]);
    node_spec(&mut web).backends.push(backend("orders"));
    vec![
        mesh("shop"),
        web,
        node("orders", [listener(8080, "http"), listener(9090, "http")]),
        service("orders", "orders", Some(8080)),
        permit("allow-web-to-orders", "web", "orders"),
    ]
}

pub(crate) fn try_admit(
    catalog: &Catalog,
    batch: &[Resource],
    rights: Rights,
) -> Result<Admission, Vec<Problem>> {
    admit(catalog, batch, rights, &trust_domain())
}

/// What is left of a catalog without a resource that its policies may still name.
pub(crate) fn once_gone(catalog: &Catalog, kind: super::Kind, name: &str) -> Catalog {
    let (mesh, name) =
        (hauberk_identity::Name::parse("shop").unwrap(), hauberk_identity::Name::parse(name).unwrap());
    let mut left = catalog.clone();
    left.remove(&super::ResourceKey { kind, mesh, name });
    left
}

/// The catalog after a batch that is good, its resources at version 1.
pub(crate) fn catalog_of(batch: &[Resource]) -> Catalog {
    let batch: Vec<_> = batch.iter().cloned().map(|resource| at_version(resource, 0)).collect();
    let mut catalog = try_admit(&Catalog::default(), &batch, EVERYTHING).unwrap().after;
    let keys: Vec<_> = catalog
        .meshes()
        .values()
        .flat_map(|mesh| super::Kind::ALL.into_iter().map(move |kind| (kind, mesh.of_kind(kind).clone())))
        .collect();
    for (kind, entries) in keys {
        for (name, entry) in entries {
            let mesh = hauberk_identity::Name::parse(&entry.resource().mesh).unwrap();
            let resource = at_version(entry.resource().clone(), 1);
            let entry = super::Entry::new(resource, entry.model().clone());
            catalog.set(&super::ResourceKey { kind, mesh, name }, entry);
        }
    }
    catalog
}

/// A registry with resources that can be changed, in a scratch directory.
pub(crate) struct Scratch {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Scratch {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kek = KeyEncryptionKey::create(&directory.path().join("kek")).unwrap();
        let keys = KeyStore::new(Arc::new(kek), None);
        let store = SledStore::create(&directory.path().join("registry")).unwrap();
        let now = UnixMillis(1_790_000_000_000);
        let (founding, _, _) = authority::found(&trust_domain(), Vec::new(), &keys, now).await.unwrap();
        store.commit(founding).await.unwrap();
        Self::start(directory, store).await
    }

    /// The same after the process was stopped and started again.
    pub(crate) async fn restarted(self) -> Self {
        let Self { directory, store, tasks, stop, resources, .. } = self;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        store.close().await;
        drop((store, resources));
        let store = SledStore::open(&directory.path().join("registry")).unwrap();
        Self::start(directory, store).await
    }

    async fn start(directory: tempfile::TempDir, store: SledStore) -> Self {
        let store: Arc<dyn Store> = Arc::new(store);
        let kek = KeyEncryptionKey::load(&directory.path().join("kek")).unwrap();
        let keys = KeyStore::new(Arc::new(kek), None);
        let authority = Arc::new(Authority::load(&*store, &keys).await.unwrap());
        let clock = Clock::manual(UnixMillis(1_790_000_000_000));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let started = Catalogs::start(Arc::clone(&store), trust_domain(), None, &tasks, stop.clone());
        let resources = Arc::new(Resources::new(ResourcesParts {
            catalogs: started.await.unwrap(),
            audit: Arc::new(Audit::open(Arc::clone(&store), clock.clone()).await.unwrap()),
            clock: clock.clone(),
            trust_domain: trust_domain(),
            server_names: Arc::new(server_names()),
            missing_feature: Box::new(|_, _| None),
        }));
        Self { directory, store, authority, resources, clock, tasks, stop }
    }

    /// Applies what is good.
    pub(crate) async fn apply(&self, batch: &[Resource]) -> Applied {
        self.resources.apply(&owner(), batch, false).await.unwrap()
    }

    pub(crate) async fn compilations(&self) -> watch::Receiver<Arc<Compilation>> {
        let (store, authority) = (Arc::clone(&self.store), Arc::clone(&self.authority));
        let (catalogs, stop) = (self.resources.catalogs(), self.stop.clone());
        compile::start(store, authority, catalogs, TOKEN_LIFE, &self.tasks, stop).await.unwrap()
    }
}

pub(crate) fn owner() -> Author {
    Author { actor: crate::testing::actor(), rights: EVERYTHING }
}

/// A role of virtual nodes, of workloads (by path or full id), and of other roles.
pub(crate) fn role(name: &str, nodes: &[&str], workloads: &[&str], roles: &[&str]) -> Resource {
    let member = |member| RoleMember { member: Some(member) };
    let nodes = nodes.iter().map(|name| member(Member::VirtualNode((*name).into())));
    let workloads = workloads.iter().map(|name| member(Member::Workload((*name).into())));
    let spec = RoleSpec {
        members: nodes.chain(workloads).collect(),
        roles: roles.iter().map(|role| (*role).into()).collect(),
        description: None,
    };
    resource("shop", name, Spec::Role(spec))
}

/// A listener with one more route, of these data classes.
pub(crate) fn classified(mut listener: Listener, path: &str, classes: &[&str]) -> Listener {
    let data_classes = classes.iter().map(|class| (*class).into()).collect();
    listener.routes.push(RouteDeclaration { path: path.into(), data_classes, ..RouteDeclaration::default() });
    listener
}

/// A data class with others within it.
pub(crate) fn data_class(name: &str, classes: &[&str]) -> Resource {
    let data_classes = classes.iter().map(|class| (*class).into()).collect();
    resource("shop", name, Spec::DataClass(DataClassSpec { data_classes, description: None }))
}

pub(crate) fn boundary(name: &str, cedar: &str) -> Resource {
    resource("shop", name, Spec::Boundary(BoundarySpec { cedar: cedar.into(), description: None }))
}

pub(crate) fn template(name: &str, cedar: &str) -> Resource {
    let spec = PolicyTemplateSpec { cedar: cedar.into(), description: None };
    resource("shop", name, Spec::PolicyTemplate(spec))
}

/// A policy that follows a template.
pub(crate) fn linked(name: &str, template: &str, principal: Option<&str>, to: Option<&str>) -> Resource {
    let (principal, resource) = (principal.map(Into::into), to.map(Into::into));
    let template = Some(TemplateLink { name: template.into(), principal, resource });
    self::resource("shop", name, Spec::Policy(PolicySpec { template, ..PolicySpec::default() }))
}

/// The public half of a new key, as a JSON Web Key Set.
pub(crate) fn keys() -> String {
    let key = JwtSigner::generate().unwrap().public_key().unwrap();
    JwtBundle::new(trust_domain(), [key]).unwrap().to_jwks(KeyUse::Signature)
}

/// An issuer of users' tokens, with a key of its own, changed somehow.
pub(crate) fn issuer(name: &str, change: impl FnOnce(&mut JwtIssuerSpec)) -> Resource {
    let mut spec = JwtIssuerSpec {
        issuer: format!("https://{name}.example"),
        audiences: vec!["shop".into()],
        jwks: keys(),
        ..JwtIssuerSpec::default()
    };
    change(&mut spec);
    resource("shop", name, Spec::JwtIssuer(spec))
}
