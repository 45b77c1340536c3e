//! Roles and data classes: whether what they name is there, whether they come round again, how many they become, and what changes by them.

mod stays;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{IdentityKind, Name, NodeName, SpiffeId};
use hauberk_policy::{PolicyDocument, Reference, Referent};
use hauberk_proto::mesh::v1::{
    BoundarySpec, Listener, PolicySpec, RoleSpec, RouteDeclaration, VirtualNodeSpec, resource::Spec,
};

use super::opens::Speakers;
use super::{Rights, Step};
use crate::resources::catalog::Model;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::nesting;
use crate::resources::problem::{Fault, Problems};
use crate::resources::role::member_id;

/// The most roles of a mesh.
const MOST_ROLES: usize = 1_000;
/// The most members of a role, those of the roles within it among them: they travel in the view of each node whose policies
/// mention it.
const MOST_MEMBERS: usize = 10_000;
/// How many members a warning names.
const NAMED: usize = 5;

/// Checks the roles and data classes of the batch, whoever mentions any, and the roles that name what is changed.
pub(super) fn check(step: &Step<'_>, rights: Rights, problems: &mut Problems, warnings: &mut Vec<String>) {
    let mut changed: BTreeMap<&Name, &ResourceKey> = BTreeMap::new();
    let (enrolled, roles) = (OnceCell::new(), OnceCell::new());
    for (key, index) in step.places {
        problems.about(*index);
        if key.kind == Kind::Enrollment {
            step.check_workload_stays(key, (&enrolled, &roles), problems);
        }
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        // Also where something else is wrong with it.
        let sent = step.batch.get(*index).and_then(|resource| resource.spec.as_ref());
        if let Some(Spec::Role(spec)) = sent {
            step.check_members(key, spec, &enrolled, problems);
            step.check_nested(key, mesh, "spec.roles", &spec.roles, problems);
        }
        if let Some(Spec::DataClass(spec)) = sent {
            step.check_nested(key, mesh, "spec.dataClasses", &spec.data_classes, problems);
        }
        if let Some(Spec::VirtualNode(spec)) = sent {
            step.check_classes(key, mesh, spec, problems);
        }
        if key.kind == Kind::Role {
            changed.entry(&key.mesh).or_insert(key);
        }
        for (of, document) in step.documents(key) {
            step.check_mentions(key, &of, mesh, document.references(), problems);
        }
        if let Some(Spec::Policy(PolicySpec { cedar, .. }) | Spec::Boundary(BoundarySpec { cedar, .. })) =
            sent
            && step.is_refused(key, cedar)
        {
            let mentioned = PolicyDocument::mentioned(&key.mesh, step.trust_domain, cedar);
            step.check_mentions(key, key, mesh, &mentioned, problems);
        }
    }
    for (mesh, key) in changed {
        let place = step.places.get(key).copied().unwrap_or_default();
        if let Some(after) = step.after.mesh(mesh.as_str()) {
            step.check_sizes(mesh, after, problems.about(place));
            step.tell_changes(mesh, after, rights, problems, warnings);
        }
    }
}

impl Step<'_> {
    fn check_members(
        &self,
        key: &ResourceKey,
        spec: &RoleSpec,
        enrolled: &OnceCell<BTreeSet<SpiffeId>>,
        problems: &mut Problems,
    ) {
        for (index, member) in spec.members.iter().enumerate() {
            // What is wrong with the name itself has been told.
            let Ok(id) = member_id(member, self.trust_domain, &key.mesh) else { continue };
            let Some((part, message, help)) = self.stranger(key, &id, enrolled) else { continue };
            problems.report(Fault::Invalid, format!("spec.members[{index}].{part}"), message, help);
        }
    }

    /// Why nobody has this id, if so: the field, the message, and what to write.
    fn stranger(
        &self,
        role: &ResourceKey,
        id: &SpiffeId,
        enrolled: &OnceCell<BTreeSet<SpiffeId>>,
    ) -> Option<(&'static str, String, Option<String>)> {
        if let Some(why) = self.unfollowed(&role.mesh, &id.trust_domain()) {
            let mesh = self.after.mesh(role.mesh.as_str())?;
            let known = mesh.of_kind(Kind::FederatedTrustDomain).keys().map(Name::as_str);
            return Some(("workload", why, self.nearest(id.trust_domain().as_str(), known)));
        }
        if !id.is_member_of(self.trust_domain) {
            return None;
        }
        match id.kind() {
            IdentityKind::Node { .. } | IdentityKind::Gateway { .. } => {
                let (mesh, node) = id.mesh_and_node()?;
                if self.has_node(&mesh, &node) {
                    return None;
                }
                let (kind, name) = (Kind::of_node(&node), node.name());
                let known = self.after.mesh(mesh.as_str()).into_iter();
                let known = known.flat_map(|mesh| mesh.of_kind(kind).keys()).map(Name::as_str);
                let help = self.nearest(name.as_str(), known);
                let part = match &node {
                    NodeName::Node(_) => "virtualNode",
                    NodeName::Gateway(_) => "virtualGateway",
                };
                Some((part, format!("there is no {} {name:?} in mesh {mesh:?}", kind.noun()), help))
            }
            IdentityKind::Workload { path } => {
                let enrolled = enrolled.get_or_init(|| self.enrolled().collect());
                if enrolled.contains(id) {
                    return None;
                }
                let paths: Vec<String> = enrolled.iter().map(path_of).collect();
                let help = self.nearest(path, paths.iter().map(String::as_str));
                Some(("workload", format!("no enrollment makes a workload {path:?}"), help))
            }
            IdentityKind::Other | IdentityKind::ControlPlane { .. } | IdentityKind::Admin { .. } => None,
        }
    }

    /// The ids of all workloads that are enrolled, those of the batch that are refused for something else among them.
    pub(super) fn enrolled(&self) -> impl Iterator<Item = SpiffeId> {
        let stored = self.after.meshes().values().flat_map(|mesh| mesh.workloads());
        let sent = self.batch.iter().filter_map(|resource| match &resource.spec {
            Some(Spec::Enrollment(spec)) => {
                SpiffeId::workload(self.trust_domain, &spec.workload.as_ref()?.path).ok()
            }
            _ => None,
        });
        stored.map(|(_, workload)| workload.id().clone()).chain(sent)
    }

    /// Whether the groups within a role or data class are there, and do not come round again.
    fn check_nested(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        field: &str,
        names: &[String],
        problems: &mut Problems,
    ) {
        for (index, name) in names.iter().enumerate() {
            let Ok(name) = Name::parse(name) else { continue };
            self.check_there(key.kind, mesh, &key.mesh, &name, &format!("{field}[{index}]"), problems);
        }
        let within = |name: &Name| match mesh.of_kind(key.kind).get(name).map(|entry| entry.model()) {
            Some(Model::Role(role)) => role.roles(),
            Some(Model::DataClass(class)) => class.classes(),
            _ => &[],
        };
        if let Some(circle) = nesting::circle(&key.name, within) {
            let names: Vec<&str> = circle.into_iter().map(Name::as_str).collect();
            let message = format!("{} goes round in a circle: {}", key.kind.noun(), names.join(" → "));
            problems.invalid_but(field, message, "leave one of these out");
        }
    }

    /// Whether the data classes of a node's routes are there.
    fn check_classes(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &VirtualNodeSpec,
        problems: &mut Problems,
    ) {
        for (listener, sent) in spec.listeners.iter().enumerate() {
            let Listener { routes, .. } = sent;
            self.check_described_classes(
                key,
                mesh,
                sent,
                &format!("spec.listeners[{listener}].api"),
                problems,
            );
            for (route, RouteDeclaration { data_classes, .. }) in routes.iter().enumerate() {
                for (index, class) in data_classes.iter().enumerate() {
                    let Ok(class) = Name::parse(class) else { continue };
                    let field = format!("spec.listeners[{listener}].routes[{route}].dataClasses[{index}]");
                    self.check_there(Kind::DataClass, mesh, &key.mesh, &class, &field, problems);
                }
            }
        }
    }

    /// The same of the routes that a listener's description says.
    fn check_described_classes(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        sent: &Listener,
        field: &str,
        problems: &mut Problems,
    ) {
        let port = sent.port_mapping.as_ref().and_then(|mapping| u16::try_from(mapping.port?).ok());
        let node = self.after.get(key).and_then(|entry| match entry.model() {
            Model::VirtualNode(node) => Some(node),
            _ => None,
        });
        let described = sent.api.as_ref().and(node).zip(port).and_then(|(node, port)| node.listener(port));
        let by_hand = |class: &Name| {
            let mut classes = sent.routes.iter().flat_map(|route| &route.data_classes);
            classes.any(|named| named == class.as_str())
        };
        let classes: BTreeSet<&Name> = described
            .into_iter()
            .flat_map(|listener| listener.routes())
            .flat_map(|route| &route.classes)
            .filter(|class| !by_hand(class))
            .collect();
        for class in classes {
            self.check_there(Kind::DataClass, mesh, &key.mesh, class, field, problems);
        }
    }

    pub(super) fn check_there(
        &self,
        kind: Kind,
        mesh: &MeshCatalog,
        of: &Name,
        name: &Name,
        field: &str,
        problems: &mut Problems,
    ) {
        if !self.exists(kind, of, name) {
            let help = self.nearest(name.as_str(), mesh.of_kind(kind).keys().map(Name::as_str));
            problems.report(Fault::Invalid, field, format!("{} {name:?} does not exist", kind.noun()), help);
        }
    }

    /// Whether a text that was sent is none of those that will be, for what is wrong with it.
    fn is_refused(&self, key: &ResourceKey, cedar: &str) -> bool {
        let text = self.after.get(key).and_then(|entry| entry.document()).map(PolicyDocument::text);
        !cedar.is_empty() && text != Some(cedar)
    }

    /// Whether the roles and data classes are there that the document of `of` names, by a change of `key`: these are all that it names.
    fn check_mentions(
        &self,
        key: &ResourceKey,
        of: &ResourceKey,
        mesh: &MeshCatalog,
        references: &[Reference],
        problems: &mut Problems,
    ) {
        for reference in references {
            let (kind, name) = match &reference.referent {
                Referent::Role(role) => (Kind::Role, role),
                Referent::DataClass(class) => (Kind::DataClass, class),
                Referent::External(external) => (Kind::ExternalService, external),
                Referent::User { issuer, .. } | Referent::UserGroup { issuer, .. } => {
                    (Kind::JwtIssuer, issuer)
                }
                _ => continue,
            };
            if !self.exists(kind, &key.mesh, name) {
                let help = self.nearest(name.as_str(), mesh.of_kind(kind).keys().map(Name::as_str));
                let help = help.or_else(|| Some(format!("apply the {} as well", kind.noun())));
                let message = format!("{} {name:?} does not exist", kind.noun());
                self.report_mention(key, of, reference, message, help, problems);
            }
        }
    }

    fn check_sizes(&self, name: &Name, mesh: &MeshCatalog, problems: &mut Problems) {
        let count = mesh.of_kind(Kind::Role).len();
        if count > MOST_ROLES {
            problems.invalid("", format!("the mesh has {count} roles by this: at most {MOST_ROLES}"));
        }
        for (role, _) in mesh.roles() {
            let members = mesh.members_of(role).len();
            if members > MOST_MEMBERS {
                let key = ResourceKey { kind: Kind::Role, mesh: name.clone(), name: role.clone() };
                let message = format!(
                    "{key} has {members} members by this, those of the roles within it counted: at most {MOST_MEMBERS}"
                );
                problems.invalid_but(
                    "spec",
                    message,
                    "name a trust domain or mesh in the policies instead, or split the role",
                );
            }
        }
    }

    /// Says who comes into the roles that policies mention, and who goes. Of those that the boundary mentions that takes the
    /// right to change it.
    fn tell_changes(
        &self,
        name: &Name,
        after: &MeshCatalog,
        rights: Rights,
        problems: &mut Problems,
        warnings: &mut Vec<String>,
    ) {
        // A role that is new is mentioned by what is new with it.
        let Some(before) = self.before.mesh(name.as_str()) else { return };
        let mut mentioned: BTreeMap<&Name, Speakers<'_>> = BTreeMap::new();
        for policy in before.policies().chain(after.policies()) {
            for role in policy.roles().filter(|role| before.role(role.as_str()).is_some()) {
                mentioned.entry(role).or_default().insert(policy);
            }
        }
        for (role, speakers) in mentioned {
            let (former, now) = (before.members_of(role), after.members_of(role));
            // What is within it counts also while nobody is in that: whoever comes there later comes here, or no longer.
            let (within_before, within) = (before.roles_within(role), after.roles_within(role));
            let nested = [
                ("holds role", within.difference(&within_before)),
                ("no longer holds role", within_before.difference(&within)),
            ];
            let nested =
                nested.into_iter().flat_map(|(what, roles)| roles.map(move |role| format!("{what} {role}")));
            let changes: Vec<String> =
                [("gets", now.difference(&former)), ("loses", former.difference(&now))]
                    .into_iter()
                    .map(|(what, ids)| (what, ids.copied().collect::<Vec<_>>()))
                    .filter(|(_, ids)| !ids.is_empty())
                    .map(|(what, ids)| format!("{what} {}", named(&ids)))
                    .chain(nested)
                    .collect();
            if changes.is_empty() {
                continue;
            }
            let key = ResourceKey { kind: Kind::Role, mesh: name.clone(), name: role.clone() };
            let message = format!("{key}: it {}; it is named by {speakers}", changes.join(" and "));
            if speakers.has_boundary() && !rights.boundaries {
                let help =
                    "that changes what the boundary reaches, and takes the role boundary-admin".to_owned();
                problems.report(Fault::Denied, "spec", message, Some(help));
            } else {
                warnings.push(message);
            }
        }
    }
}

/// The first few ids, and how many more there are.
fn named(ids: &[&SpiffeId]) -> String {
    let first = ids.iter().take(NAMED).map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    match ids.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn path_of(id: &SpiffeId) -> String {
    match id.kind() {
        IdentityKind::Workload { path } => path.to_owned(),
        _ => id.to_string(),
    }
}

#[cfg(test)]
mod tests;
