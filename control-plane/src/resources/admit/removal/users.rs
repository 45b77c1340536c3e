//! Who still names the nodes, gateways and services that go. Thousands may go at once, and all other changes wait meanwhile: what remains
//! is looked at once for all of them.

use std::collections::{BTreeMap, HashMap};

use hauberk_identity::{NodeName, SpiffeId, TrustDomain};

use crate::resources::catalog::Catalog;
use crate::resources::key::{Kind, ResourceKey};

/// Of each that goes and is named, by whom, as messages name them.
#[derive(Default)]
pub(super) struct Users<'a>(BTreeMap<&'a ResourceKey, Vec<String>>);

impl<'a> Users<'a> {
    /// Looks for them among what remains.
    pub(super) fn of(
        gone: &'a BTreeMap<ResourceKey, usize>,
        after: &Catalog,
        trust_domain: &TrustDomain,
    ) -> Self {
        let nodes =
            gone.keys().filter_map(|key| Some((key.as_node()?.spiffe_id(trust_domain, &key.mesh), key)));
        let nodes: HashMap<SpiffeId, &ResourceKey> = nodes.collect();
        let mut users = Self::default();
        if nodes.is_empty() && !gone.keys().any(|key| key.kind == Kind::VirtualService) {
            return users;
        }
        for (mesh, resources) in after.meshes() {
            let node = |node: &NodeName| gone.get_key_value(&ResourceKey::node(mesh, node));
            for (name, service) in resources.services() {
                let provider = service.provider().map(|provider| NodeName::Node(provider.node().clone()));
                users.note(provider.and_then(|provider| node(&provider)), || {
                    format!("virtual service {name:?}")
                });
            }
            for (name, enrollment) in resources.enrollments() {
                for named in enrollment.nodes() {
                    users.note(node(named), || format!("enrollment {name:?}"));
                }
            }
            for (name, caller) in resources.nodes() {
                for backend in caller.backends() {
                    let service =
                        ResourceKey { kind: Kind::VirtualService, mesh: mesh.clone(), name: backend.clone() };
                    users.note(gone.get_key_value(&service), || format!("virtual node {name:?}"));
                }
            }
        }
        // Roles of other meshes too.
        for (mesh, resources) in after.meshes() {
            for (name, role) in resources.roles() {
                for member in role.members() {
                    let known = nodes.get(member).map(|key| (*key, &0));
                    users.note(known, || format!("role {name:?} of mesh {mesh:?}"));
                }
            }
        }
        users
    }

    /// Those of one of them.
    pub(super) fn named(&self, key: &ResourceKey) -> Vec<String> {
        self.0.get(key).cloned().unwrap_or_default()
    }

    fn note(&mut self, key: Option<(&'a ResourceKey, &usize)>, by: impl FnOnce() -> String) {
        let Some((key, _)) = key else { return };
        let (users, by) = (self.0.entry(key).or_default(), by());
        // It may name it several times.
        if users.last() != Some(&by) {
            users.push(by);
        }
    }
}
