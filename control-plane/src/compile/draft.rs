//! What a change of resources changes in the views.
//!
//! Only meshes that a change touched are looked at, and in them only views whose content differs are encoded, checked
//! and signed anew; the others keep their revision and their very bytes, so that nothing is pushed. Where another key
//! signs, all are signed anew, and nothing else in them changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId, TrustDomain};
use hauberk_proto::convert::Body;
use hauberk_tls::signing::ViewSigner;

use super::checked::Checked;
use super::compilation::{Compilation, CompileFinding, CompiledView, Unmade};
use super::content::Content;
use super::policy_changes::PolicyChanges;
use super::view::MeshViews;
use super::view_records::ViewKey;
use crate::registry::Revision;
use crate::resources::{Catalog, MeshCatalog, VirtualService};

/// All views as they stand. Immutable.
#[derive(Debug, Default)]
pub(super) struct Views {
    meshes: BTreeMap<Name, Arc<MeshCatalog>>,
    views: BTreeMap<ViewKey, View>,
    findings: BTreeMap<Name, Vec<CompileFinding>>,
    /// What the views of each mesh were compiled to last.
    checked: BTreeMap<Name, Checked>,
}

#[derive(Debug, Clone)]
struct View {
    content: Arc<Content>,
    compiled: Arc<CompiledView>,
}

/// What changes in the views.
#[derive(Debug)]
pub(super) struct Draft {
    meshes: BTreeMap<Name, Arc<MeshCatalog>>,
    /// New content, which agents will accept.
    pub(super) changed: Vec<(ViewKey, Arc<Content>)>,
    /// Views that nobody is to have any longer.
    pub(super) removed: Vec<ViewKey>,
    findings: BTreeMap<Name, Vec<CompileFinding>>,
    checked: BTreeMap<Name, Checked>,
}

impl Draft {
    /// Compares the views with the resources of `catalog`.
    pub(super) fn new(views: &Views, catalog: &Catalog, trust_domain: &TrustDomain) -> Self {
        let meshes = catalog.meshes().clone();
        let of_meshes = |name: &Name| catalog.meshes().contains_key(name);
        let checked = views.checked.iter().filter(|(name, _)| of_meshes(name));
        let mut draft = Self {
            meshes,
            changed: Vec::new(),
            removed: Vec::new(),
            findings: BTreeMap::new(),
            checked: checked.map(|(name, checked)| (name.clone(), checked.clone())).collect(),
        };
        for (name, resources) in catalog.meshes() {
            if views.meshes.get(name).is_some_and(|former| Arc::ptr_eq(former, resources)) {
                if let Some(findings) = views.findings.get(name) {
                    draft.findings.insert(name.clone(), findings.clone());
                }
            } else {
                draft.compare_mesh(views, name, resources, trust_domain);
            }
        }
        for name in views.meshes.keys().filter(|name| !catalog.meshes().contains_key(*name)) {
            draft.removed.extend(views.of_mesh(name).cloned());
        }
        draft
    }

    fn compare_mesh(
        &mut self,
        views: &Views,
        name: &Name,
        resources: &MeshCatalog,
        trust_domain: &TrustDomain,
    ) {
        let mesh = MeshViews::new(trust_domain, name, resources);
        let of_service = |(service, spec): (&Name, &VirtualService)| {
            (ViewKey::service(name.clone(), service.clone()), "", Body::Service(mesh.service(service, spec)))
        };
        let holding_back: Vec<_> = resources.holding_back().collect();
        if !holding_back.is_empty() {
            // What cannot be read might be a forbid: what nodes enforce stays as it was.
            for (kind, resource, reason) in &holding_back {
                let summary = format!("the stored {} {resource} is not accepted: {reason}", kind.noun());
                self.report(name, Unmade::All, summary, "apply it again, corrected, or delete it");
            }
            // Who serves what is no matter of policies, and calls are decided where they arrive.
            let is_known = |(_, service): &(&Name, &VirtualService)| {
                service.provider().is_none_or(|provider| resources.node(provider.node().as_str()).is_some())
            };
            let services = resources.services().filter(is_known).map(of_service);
            self.compile(views, name, trust_domain, services);
            return;
        }
        // Views that were held back do not reflect the former resources, and nothing can be told from those.
        let former = views.meshes.get(name).filter(|_| !views.findings.contains_key(name));
        let policies = former.and_then(|former| PolicyChanges::new(name, former, resources));
        let nodes = resources.nodes_and_gateways().map(|(node, spec)| {
            let scope = mesh.scope(&node, spec);
            let (key, uid) = (ViewKey::node(name.clone(), &node), resources.uid_of(&node));
            let former = views.views.get(&key).map(|former| former.content.body());
            let slice = match (former, &policies) {
                (Some(Body::Node(former)), Some(changes)) if former.scope == scope => {
                    changes.apply_to(&former.policies, &scope, mesh.known())
                }
                _ => mesh.slice(&scope),
            };
            (key, uid, Body::Node(mesh.node_with(scope, slice, spec)))
        });
        let services = resources.services().map(of_service);
        self.compile(views, name, trust_domain, nodes.chain(services));
        let is_gone = |key: &&ViewKey| !resources.of_kind(key.kind).contains_key(&key.name);
        self.removed.extend(views.of_mesh(name).filter(is_gone).cloned());
    }

    /// Makes those of a mesh's views whose content is another, each with its node's uid.
    fn compile<'a>(
        &mut self,
        views: &Views,
        mesh: &Name,
        trust_domain: &TrustDomain,
        bodies: impl Iterator<Item = (ViewKey, &'a str, Body)>,
    ) {
        let mut checked = self.checked.remove(mesh).unwrap_or_default();
        for (key, uid, body) in bodies {
            if views.views.get(&key).is_some_and(|former| former.content.is(uid, &body)) {
                continue;
            }
            let unmade = unmade(&key, &body);
            match Content::new(trust_domain, mesh, uid, body, &mut checked) {
                Ok(content) => self.changed.push((key, Arc::new(content))),
                Err(error) => {
                    tracing::error!(event = "view_compile_failed", view = %key, %error, "the former view stays in force");
                    let summary = format!("the view of {key} cannot be made: {error}");
                    self.report(mesh, unmade, summary, error.fix());
                }
            }
        }
        self.checked.insert(mesh.clone(), checked);
    }

    fn report(&mut self, mesh: &Name, unmade: Unmade, summary: String, fix: &str) {
        let finding = CompileFinding { mesh: mesh.clone(), unmade, summary, fix: fix.to_owned() };
        self.findings.entry(mesh.clone()).or_default().push(finding);
    }
}

/// Which view it is that was to have this body.
fn unmade(key: &ViewKey, body: &Body) -> Unmade {
    match body {
        Body::Node(node) => node.scope.node().cloned().map_or(Unmade::All, Unmade::OfNode),
        Body::Service(_) => Unmade::OfService(key.name.clone()),
    }
}

impl Views {
    /// These views with a draft's changes, each numbered as `numbers` says, and signed.
    pub(super) fn with(
        &self,
        draft: Draft,
        numbers: &HashMap<ViewKey, Revision>,
        (epoch, signer): (u64, &ViewSigner),
    ) -> Self {
        let Draft { meshes, changed, removed, mut findings, checked } = draft;
        let mut views = self.views.clone();
        for key in &removed {
            views.remove(key);
        }
        let changed = changed.into_iter().filter_map(|(key, content)| {
            let revision = *numbers.get(&key)?;
            Some((key, content, revision))
        });
        // What another key has signed says the same under the same number.
        let signed_before = views.iter().filter(|(_, view)| view.compiled.signed.key_id != signer.key_id());
        let signed_before = signed_before.map(|(key, View { content, compiled })| {
            (key.clone(), Arc::clone(content), Revision(compiled.revision))
        });
        for (key, content, revision) in signed_before.collect::<Vec<_>>().into_iter().chain(changed) {
            match content.seal(epoch, revision, signer) {
                Ok(compiled) => {
                    views.insert(key, View { content, compiled: Arc::new(compiled) });
                }
                Err(error) => {
                    tracing::error!(event = "view_compile_failed", view = %key, %error, "it could not be signed");
                    let summary = format!("the view of {key} could not be signed: {error}");
                    let fix = "restart the control plane; its log says more".to_owned();
                    let unmade = unmade(&key, content.body());
                    let finding = CompileFinding { mesh: key.mesh.clone(), unmade, summary, fix };
                    findings.entry(key.mesh).or_default().push(finding);
                }
            }
        }
        Self { meshes, views, findings, checked }
    }

    /// The views of nodes that have another content in `next`, or are there no longer.
    pub(super) fn replaced_by<'a>(
        &'a self,
        next: &'a Self,
    ) -> impl Iterator<Item = (SpiffeId, Arc<CompiledView>)> + 'a {
        let revision = |key| next.views.get(key).map(|view| view.compiled.revision);
        let replaced =
            self.views.iter().filter(move |(key, view)| revision(key) != Some(view.compiled.revision));
        replaced.filter_map(|(_, View { content, compiled })| match content.body() {
            Body::Node(node) => Some((node.scope.node()?.clone(), Arc::clone(compiled))),
            Body::Service(_) => None,
        })
    }

    /// What agents are to have at `revision`.
    pub(super) fn publish(&self, trust_domain: &TrustDomain, epoch: u64, revision: Revision) -> Compilation {
        let nodes = self.meshes.iter().flat_map(|(mesh, resources)| {
            resources.node_names().map(move |name| {
                // What cannot be read proves nothing, its uid included.
                let uid = resources.node_or_gateway(&name).map(|_| resources.uid_of(&name).to_owned());
                (name.spiffe_id(trust_domain, mesh), uid.filter(|uid| !uid.is_empty()))
            })
        });
        let mut compilation = Compilation {
            epoch,
            revision: revision.0,
            node_uids: nodes.collect(),
            findings: self.findings.values().flatten().cloned().collect(),
            ..Compilation::default()
        };
        for (key, View { content, compiled }) in &self.views {
            let compiled = Arc::clone(compiled);
            match content.body() {
                Body::Node(node) => {
                    node.scope.node().and_then(|node| compilation.nodes.insert(node.clone(), compiled))
                }
                Body::Service(_) => {
                    compilation.services.insert((key.mesh.clone(), key.name.clone()), compiled)
                }
            };
        }
        compilation
    }

    fn of_mesh(&self, mesh: &Name) -> impl Iterator<Item = &ViewKey> {
        self.views.keys().filter(move |key| key.mesh == *mesh)
    }
}
