//! Resources for tests, as short as they can be written.

use hauberk_identity::TrustDomain;
use hauberk_proto::mesh::v1::{
    Backend, BackendVirtualService, Listener, MeshSpec, Metadata, PolicySpec, PortMapping, Resource,
    RouteDeclaration, VirtualNodeProvider, VirtualNodeSpec, VirtualServiceProvider, VirtualServiceSpec,
    resource::Spec, virtual_service_provider::Provider,
};

use super::admit::{Admission, Rights, admit};
use super::catalog::Catalog;
use super::problem::Problem;

pub(crate) const EVERYTHING: Rights = Rights { resources: true, policies: true };

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
    let route = |path: &&str| RouteDeclaration { path: (*path).into(), methods: Vec::new() };
    Listener { routes: paths.iter().map(route).collect(), ..listener }
}

pub(crate) fn node(name: &str, listeners: impl Into<Vec<Listener>>) -> Resource {
    let spec = VirtualNodeSpec { listeners: listeners.into(), ..VirtualNodeSpec::default() };
    resource("shop", name, Spec::VirtualNode(spec))
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

/// The catalog after a batch that is good, its resources at version 1.
pub(crate) fn catalog_of(batch: &[Resource]) -> Catalog {
    let batch: Vec<_> = batch.iter().cloned().map(|resource| at_version(resource, 0)).collect();
    let mut catalog = try_admit(&Catalog::default(), &batch, EVERYTHING).unwrap().after;
    let keys: Vec<_> = catalog
        .meshes()
        .iter()
        .flat_map(|(_, mesh)| {
            super::Kind::ALL.into_iter().map(move |kind| (kind, mesh.of_kind(kind).clone()))
        })
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
