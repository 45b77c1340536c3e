//! Warns of policies that make one another pointless.

use std::collections::BTreeSet;

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::{Groups, Overlap, PolicyDocument, overlaps};

use super::Step;
use crate::resources::key::Kind;
use crate::resources::mesh_catalog::MeshCatalog;

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Looks at the policies of each mesh in which the batch changes any.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    let is_stated = |kind| matches!(kind, Kind::Boundary | Kind::Policy | Kind::PolicyTemplate);
    let meshes: BTreeSet<&Name> =
        step.places.keys().filter(|key| is_stated(key.kind)).map(|key| &key.mesh).collect();
    for mesh in meshes {
        let Some(after) = step.after.mesh(mesh.as_str()) else { continue };
        let stated: BTreeSet<String> = step
            .places
            .keys()
            .filter(|key| key.mesh == *mesh)
            .flat_map(|key| step.documents(key))
            .map(|(_, document)| document.label())
            .collect();
        let groups = groups(step, mesh, after);
        let is_stated = |document: &PolicyDocument| stated.contains(&document.label());
        for overlap in overlaps(after.policies(), is_stated, &groups, MOST) {
            warnings.push(match overlap {
                Overlap::Same { one, other } => {
                    format!("Mesh {mesh}: policies {one} and {other} say the same: one of them will do")
                }
                Overlap::Covered { permit, forbid } => {
                    format!("Mesh {mesh}: policy {permit} permits nothing: {forbid} forbids all of it")
                }
                Overlap::Contained { permit, wider } => {
                    format!("Mesh {mesh}: policy {permit} says nothing new: {wider} permits all of it")
                }
                Overlap::Needless { forbid, wider } => {
                    format!("Mesh {mesh}: policy {forbid} says nothing new: {wider} forbids all of it")
                }
                Overlap::Never { policy } => {
                    format!("Mesh {mesh}: policy {policy} is about nothing: its conditions never hold")
                }
                Overlap::Always { policy } => {
                    format!("Mesh {mesh}: the conditions of policy {policy} always hold: leave them out")
                }
            });
        }
    }
}

/// What is in what, as the mesh will stand.
fn groups(step: &Step<'_>, name: &Name, mesh: &MeshCatalog) -> Groups {
    let mut groups = Groups::new(step.trust_domain, name);
    for (role, listed) in mesh.roles() {
        groups.add_role(role, listed.members(), listed.roles());
    }
    for (class, listed) in mesh.data_classes() {
        groups.add_class(class, listed.classes());
    }
    for (service, listed) in mesh.services() {
        let Some(provider) = listed.provider() else { continue };
        let listeners = mesh.node(provider.node().as_str()).map(|node| node.listeners());
        let ports = listeners.into_iter().flatten().map(|listener| listener.port());
        let ports = ports.filter(|port| provider.port().is_none_or(|own| own == *port));
        groups.add_service(service, &SpiffeId::node(step.trust_domain, name, provider.node()), ports);
    }
    groups
}
