//! What is in what.

use std::collections::{HashMap, HashSet};

use cedar_policy::EntityUid;
use hauberk_identity::{IdentityKind, Name, SpiffeId, TrustDomain};

use crate::names::{Namespace, port_id, principal_kind};
use crate::vocabulary::Kind;

/// What of a mesh is in what as its resources stand now, besides what the names say themselves.
#[derive(Debug, Clone)]
pub struct Groups {
    names: Namespace,
    /// What each is in, one step up.
    around: HashMap<EntityUid, Vec<EntityUid>>,
}

impl Groups {
    /// Those of a mesh of which nothing but the names is known.
    pub fn new(trust_domain: &TrustDomain, mesh: &Name) -> Self {
        Self { names: Namespace::of(trust_domain, mesh), around: HashMap::new() }
    }

    /// The same without what resources list, which may come to list something else.
    pub(super) fn by_names_alone(&self) -> Self {
        Self { names: self.names.clone(), around: HashMap::new() }
    }

    /// A role with what it lists.
    pub fn add_role<'a>(
        &mut self,
        role: &Name,
        members: impl IntoIterator<Item = &'a SpiffeId>,
        roles: impl IntoIterator<Item = &'a Name>,
    ) {
        let outer = Kind::Role.uid(self.names.role_id(role));
        for member in members {
            if let Some(kind) = principal_kind(member, &self.names.trust_domain) {
                self.put(kind.uid(member), outer.clone());
            }
        }
        for inner in roles {
            self.put(Kind::Role.uid(self.names.role_id(inner)), outer.clone());
        }
    }

    /// A data class with the classes that it lists.
    pub fn add_class<'a>(&mut self, class: &Name, classes: impl IntoIterator<Item = &'a Name>) {
        let outer = Kind::DataClass.uid(self.names.data_class_id(class));
        for inner in classes {
            self.put(Kind::DataClass.uid(self.names.data_class_id(inner)), outer.clone());
        }
    }

    /// A virtual service with the node whose ports it is. All of it is that node's.
    pub fn add_service(&mut self, service: &Name, node: &SpiffeId, ports: impl IntoIterator<Item = u16>) {
        let uid = Kind::Service.uid(self.names.service_id(service));
        self.put(uid.clone(), Kind::Node.uid(node));
        for port in ports {
            self.put(Kind::Port.uid(port_id(node, port)), uid.clone());
        }
    }

    fn put(&mut self, inner: EntityUid, outer: EntityUid) {
        self.around.entry(inner).or_default().push(outer);
    }

    /// An entity and all that it is in.
    pub(super) fn around(&self, uid: &EntityUid) -> HashSet<EntityUid> {
        let mut reached = HashSet::from([uid.clone()]);
        let mut pending = vec![uid.clone()];
        while let Some(inner) = pending.pop() {
            let listed = self.around.get(&inner).into_iter().flatten().cloned();
            for outer in listed.chain(by_name(&inner)) {
                if reached.insert(outer.clone()) {
                    pending.push(outer);
                }
            }
        }
        reached
    }
}

/// What an entity is in by its very name.
fn by_name(uid: &EntityUid) -> Vec<EntityUid> {
    let id: &str = uid.id().unescaped();
    let identity = || SpiffeId::parse(id).ok();
    let of_mesh = || id.split_once('/').map(|(mesh, _)| Kind::Mesh.uid(mesh)).into_iter().collect();
    match Kind::of(uid) {
        Some(Kind::Node) => {
            let Some(node) = identity() else { return Vec::new() };
            let mesh = match node.kind() {
                IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. } => {
                    Some(Kind::Mesh.uid(mesh))
                }
                _ => None,
            };
            mesh.into_iter().chain([Kind::TrustDomain.uid(node.trust_domain())]).collect()
        }
        Some(Kind::Workload) => {
            identity().map(|id| Kind::TrustDomain.uid(id.trust_domain())).into_iter().collect()
        }
        Some(Kind::Service | Kind::External) => of_mesh(),
        Some(Kind::Route) => id.split_once(' ').map(|(port, _)| Kind::Port.uid(port)).into_iter().collect(),
        Some(Kind::Port) => match id.rsplit_once(':') {
            Some((owner, _)) if owner.starts_with("spiffe://") => vec![Kind::Node.uid(owner)],
            Some((owner, _)) => owner
                .split_once("/external/")
                .map(|(mesh, name)| Kind::External.uid(format!("{mesh}/{name}")))
                .into_iter()
                .collect(),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}
