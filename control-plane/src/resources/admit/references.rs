//! Whether what resources refer to is there.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, NodeName, Selector, TrustDomain};
use hauberk_policy::{Engine, PolicyDocument, PolicySlice};
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1::{
    Backend, EnrollmentSpec, VirtualNodeProvider, VirtualNodeSpec, VirtualServiceSpec, resource::Spec,
    virtual_service_provider::Provider,
};

use super::Step;
use crate::compile::view::{Provided, node_scope};
use crate::resources::catalog::Model;
use crate::resources::enrollment::{Enrollment, WorkloadEnrollment};
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problems};
use crate::resources::virtual_node::{Listener, VirtualNode};
use crate::resources::virtual_service::VirtualService;

/// The most trust domains that a mesh follows: their bundles travel in every view of its nodes.
const MOST_FEDERATED: usize = 32;

/// Checks every resource of the batch, and those that refer to what it changes. What permits may speak of what does not exist
/// yet, which is only a warning; a forbid that did so by mistake would stop nothing.
pub(super) fn check(step: &Step<'_>, problems: &mut Problems, warnings: &mut Vec<String>) {
    // Made once for each mesh: all other changes wait while thousands of nodes are looked at.
    let mut provided: BTreeMap<&Name, Provided<'_>> = BTreeMap::new();
    let mut are_followed: BTreeSet<&Name> = BTreeSet::new();
    for (key, index) in step.places {
        problems.about(*index);
        if key.kind != Kind::Mesh && !step.exists(Kind::Mesh, &key.mesh, &key.mesh) {
            let known =
                step.after.meshes().keys().map(Name::as_str).filter(|name| *name != key.mesh.as_str());
            let help =
                step.nearest(key.mesh.as_str(), known).or_else(|| Some("apply the mesh as well".to_owned()));
            problems.report(Fault::Invalid, "mesh", format!("mesh {:?} does not exist", key.mesh), help);
        }
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        // Also where something else is wrong with it.
        match step.batch.get(*index).and_then(|resource| resource.spec.as_ref()) {
            Some(Spec::Enrollment(spec)) => {
                step.check_enrolled(key, mesh, spec, problems);
                step.check_federates_with(key, mesh, spec, problems);
            }
            Some(Spec::VirtualNode(spec)) => step.check_backends(key, mesh, spec, problems),
            Some(Spec::VirtualService(spec)) => step.check_provider(key, mesh, spec, problems),
            _ => {}
        }
        for (of, document) in step.documents(key) {
            step.check_names(key, &of, document, problems, warnings);
            warn_of_reach(&of, document, mesh, warnings);
        }
        let Some(entry) = step.after.get(key) else { continue };
        match entry.model() {
            Model::VirtualNode(node) => {
                let provided = provided.entry(&key.mesh).or_insert_with(|| Provided::of(mesh));
                step.check_node(key, mesh, provided, node, problems);
            }
            Model::VirtualService(service) => warn_of_silence(key, mesh, service, warnings),
            Model::FederatedTrustDomain(followed) => {
                if are_followed.insert(&key.mesh) {
                    check_followed(mesh, problems, warnings);
                }
                step.check_vouched(key, mesh, followed, problems);
            }
            Model::Enrollment(Enrollment::Workload(workload)) => warn_of_anybody(key, workload, warnings),
            // What these name is looked at above, or in `membership`.
            Model::Boundary(_)
            | Model::DataClass(_)
            | Model::ExternalService(_)
            | Model::JwtIssuer(_)
            | Model::Linked(_)
            | Model::Policy(_)
            | Model::PolicyTemplate(_)
            | Model::Role(_)
            | Model::VirtualGateway(_) => {}
            Model::Enrollment(Enrollment::Attest(_)) | Model::Mesh(_) | Model::Unreadable(_) => {}
        }
    }
}

impl Step<'_> {
    /// Whether it will be there, or would be were it well-formed.
    pub(super) fn exists(&self, kind: Kind, mesh: &Name, name: &Name) -> bool {
        let key = ResourceKey { kind, mesh: mesh.clone(), name: name.clone() };
        self.places.contains_key(&key) || self.after.get(&key).is_some()
    }

    /// The same of a virtual node or gateway.
    pub(super) fn has_node(&self, mesh: &Name, node: &NodeName) -> bool {
        self.exists(Kind::of_node(node), mesh, node.name())
    }

    fn check_backends(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &VirtualNodeSpec,
        problems: &mut Problems,
    ) {
        for (index, Backend { virtual_service }) in spec.backends.iter().enumerate() {
            let named = virtual_service.as_ref().map(|named| Name::parse(&named.virtual_service_name));
            let Some(Ok(backend)) = named else { continue };
            if !self.exists(Kind::VirtualService, &key.mesh, &backend) {
                let field = format!("spec.backends[{index}].virtualService.virtualServiceName");
                let known = mesh.of_kind(Kind::VirtualService).keys().map(Name::as_str);
                let help = self.nearest(backend.as_str(), known);
                let message = format!("virtual service {backend:?} does not exist");
                problems.report(Fault::Invalid, field, message, help);
            }
        }
    }

    fn check_enrolled(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &EnrollmentSpec,
        problems: &mut Problems,
    ) {
        let EnrollmentSpec { parent, workload: _, attest } = spec;
        let parent = parent.iter().map(|parent| ("spec.parent".to_owned(), WrittenNode::of_parent(parent)));
        let rules = attest.iter().flat_map(|attest| &attest.rules).enumerate();
        let rules =
            rules.map(|(index, rule)| (format!("spec.attest.rules[{index}]"), WrittenNode::of_rule(rule)));
        for (field, written) in parent.chain(rules) {
            // What is wrong with the name itself has been told.
            let Some((written, Ok(node))) = written.map(|written| (written, written.named())) else {
                continue;
            };
            if !self.has_node(&key.mesh, &node) {
                self.report_no_node(&format!("{field}.{}", written.key()), mesh, &node, problems);
            }
        }
    }

    fn check_federates_with(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &EnrollmentSpec,
        problems: &mut Problems,
    ) {
        let named = spec.workload.iter().flat_map(|workload| &workload.federates_with);
        for (index, name) in named.enumerate() {
            // What is wrong with the name itself has been told.
            let is_foreign = TrustDomain::parse(name).is_ok_and(|domain| domain != *self.trust_domain);
            let Ok(followed) = Name::parse(name) else { continue };
            if is_foreign && !self.exists(Kind::FederatedTrustDomain, &key.mesh, &followed) {
                let known = mesh.of_kind(Kind::FederatedTrustDomain).keys().map(Name::as_str);
                let help = self.nearest(name, known);
                let message = format!("federated trust domain {name:?} does not exist");
                let field = format!("spec.workload.federatesWith[{index}]");
                problems.report(Fault::Invalid, field, message, help);
            }
        }
    }

    /// Why nobody of another trust domain can be known in this mesh, if so.
    pub(super) fn unfollowed(&self, mesh: &Name, trust_domain: &TrustDomain) -> Option<String> {
        if trust_domain == self.trust_domain {
            return None;
        }
        let is_followed = Name::parse(trust_domain.as_str())
            .is_ok_and(|name| self.exists(Kind::FederatedTrustDomain, mesh, &name));
        (!is_followed).then(|| format!("mesh {mesh:?} has no FederatedTrustDomain {trust_domain}"))
    }

    fn report_no_node(&self, field: &str, mesh: &MeshCatalog, node: &NodeName, problems: &mut Problems) {
        let kind = Kind::of_node(node);
        let help = self.nearest(node.name().as_str(), mesh.of_kind(kind).keys().map(Name::as_str));
        let message = format!("{} {:?} does not exist", kind.noun(), node.name());
        problems.report(Fault::Invalid, field, message, help);
    }

    fn check_provider(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &VirtualServiceSpec,
        problems: &mut Problems,
    ) {
        let provider = spec.provider.as_ref().and_then(|provider| provider.provider.as_ref());
        let Some(Provider::VirtualNode(VirtualNodeProvider { virtual_node_name, port })) = provider else {
            return;
        };
        let Ok(node) = Name::parse(virtual_node_name) else { return };
        let field = "spec.provider.virtualNode";
        if !self.exists(Kind::VirtualNode, &key.mesh, &node) {
            let (field, node) = (format!("{field}.virtualNodeName"), NodeName::Node(node));
            self.report_no_node(&field, mesh, &node, problems);
            return;
        }
        let Some(port) = port.and_then(port_number) else { return };
        let own = ResourceKey { kind: Kind::VirtualNode, name: node.clone(), ..key.clone() };
        if let Some(ports) = self.ports_of(mesh, &own)
            && !ports.contains(&port)
        {
            let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            let help = if ports.is_empty() {
                "it has no listeners at all".to_owned()
            } else {
                format!("its listeners are {ports}")
            };
            let message = format!("virtual node {node:?} has no listener with port {port}");
            problems.invalid_but(format!("{field}.port"), message, help);
        }
    }

    /// The ports of a node, also of one of the batch that is refused for something else.
    fn ports_of(&self, mesh: &MeshCatalog, node: &ResourceKey) -> Option<BTreeSet<u16>> {
        let sent = self.places.get(node).and_then(|index| self.batch.get(*index)?.spec.as_ref());
        match sent {
            Some(Spec::VirtualNode(spec)) => {
                let ports = spec.listeners.iter().filter_map(|listener| listener.port_mapping.as_ref()?.port);
                Some(ports.filter_map(port_number).collect())
            }
            _ => Some(mesh.node(node.name.as_str())?.listeners().iter().map(Listener::port).collect()),
        }
    }

    fn check_node(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        provided: &Provided<'_>,
        node: &VirtualNode,
        problems: &mut Problems,
    ) {
        // The services that others have put on this node.
        for (name, provider) in provided.of_node(&key.name) {
            let own = ResourceKey { kind: Kind::VirtualService, mesh: key.mesh.clone(), name: name.clone() };
            if let Some(port) = provider.port()
                && node.listener(port).is_none()
                && !self.places.contains_key(&own)
            {
                let help = format!("keep the listener, or move {name} to another port first");
                let message =
                    format!("virtual service {name:?} is port {port}, which this node has no longer");
                problems.report(Fault::InUse, "spec.listeners", message, Some(help));
            }
        }
        let name = NodeName::Node(key.name.clone());
        let scope = node_scope(self.trust_domain, &key.mesh, mesh, provided, &name, node);
        if let Err(error) = Engine::compile(scope, &PolicySlice::default(), None) {
            problems.invalid("spec.listeners", error);
        }
    }
}

/// What follows of a trust domain that is followed: how many there may be, and which policies let its members in unnamed.
fn check_followed(mesh: &MeshCatalog, problems: &mut Problems, warnings: &mut Vec<String>) {
    let count = mesh.of_kind(Kind::FederatedTrustDomain).len();
    if count > MOST_FEDERATED {
        problems.invalid("", format!("the mesh follows {count} trust domains: at most {MOST_FEDERATED}"));
        // Each of them would be told of with each policy.
        return;
    }
    for document in mesh.policies() {
        let key =
            ResourceKey { kind: Kind::Policy, mesh: document.mesh().clone(), name: document.name().clone() };
        warn_of_reach(&key, document, mesh, warnings);
    }
}

/// A permit for all workloads may have been meant for those of our own trust domain.
fn warn_of_reach(
    key: &ResourceKey,
    document: &PolicyDocument,
    mesh: &MeshCatalog,
    warnings: &mut Vec<String>,
) {
    let followed = mesh.of_kind(Kind::FederatedTrustDomain);
    if followed.is_empty() || !document.permits_all_workloads() {
        return;
    }
    let followed: Vec<_> = followed.keys().map(Name::as_str).collect();
    let warning = format!(
        "{key} permits workloads of any trust domain, those of {} too: write `principal is Workload in TrustDomain::\"…\"` \
         to say of which",
        followed.join(", ")
    );
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

/// A file says nothing about who executes it, and whoever does has its process do anything.
fn warn_of_anybody(key: &ResourceKey, workload: &WorkloadEnrollment, warnings: &mut Vec<String>) {
    let is_of_file =
        |selector: &Selector| matches!(selector, Selector::UnixPath(_) | Selector::UnixSha256(_));
    if workload.selectors().iter().all(is_of_file) {
        warnings.push(format!(
            "{key} is for every user of the host who may execute that file, and may have it load code of their own: name the \
             user too, as unix:uid:…"
        ));
    }
}

/// Calls to a service that leads nowhere fail.
fn warn_of_silence(
    key: &ResourceKey,
    mesh: &MeshCatalog,
    service: &VirtualService,
    warnings: &mut Vec<String>,
) {
    let Some(provider) = service.provider() else {
        warnings.push(format!("{key} has no provider: calls to it fail"));
        return;
    };
    let is_deaf = mesh.node(provider.node().as_str()).is_some_and(|node| node.listeners().is_empty());
    if is_deaf && provider.port().is_none() {
        warnings.push(format!("{key}: {} has no listeners yet: calls to it fail", provider.node()));
    }
}

fn port_number(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}
