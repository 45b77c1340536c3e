//! Issuers of users' tokens: whether those are there whose tokens listeners take, and whether no two are the same.

use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{Listener, VirtualNodeSpec, resource::Spec};

use super::Step;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::Problems;

/// The most issuers of a mesh: their keys travel in every view of its nodes.
const MOST_ISSUERS: usize = 16;

/// Checks the issuers of the batch, and the listeners that name any.
pub(super) fn check(step: &Step<'_>, problems: &mut Problems, warnings: &mut Vec<String>) {
    for (key, index) in step.places {
        problems.about(*index);
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        // Also where something else is wrong with it.
        if let Some(Spec::VirtualNode(spec)) = step.batch.get(*index).and_then(|sent| sent.spec.as_ref()) {
            step.check_taken(key, mesh, spec, problems);
        }
        if key.kind == Kind::JwtIssuer {
            check_distinct(key, mesh, problems);
        }
        let reads_users =
            step.documents(key).into_iter().any(|(_, document)| document.reads().are_of_users());
        if reads_users && mesh.of_kind(Kind::JwtIssuer).is_empty() {
            warnings.push(format!(
                "{key} reads who the user is, and mesh {} has no JwtIssuer: there is none",
                key.mesh
            ));
        }
    }
}

impl Step<'_> {
    fn check_taken(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        spec: &VirtualNodeSpec,
        problems: &mut Problems,
    ) {
        for (listener, Listener { users, .. }) in spec.listeners.iter().enumerate() {
            for (index, issuer) in users.iter().flat_map(|users| &users.issuers).enumerate() {
                let Ok(issuer) = Name::parse(issuer) else { continue };
                let field = format!("spec.listeners[{listener}].users.issuers[{index}]");
                self.check_there(Kind::JwtIssuer, mesh, &key.mesh, &issuer, &field, problems);
            }
        }
    }
}

/// A token says by `iss` alone whose it is.
fn check_distinct(key: &ResourceKey, mesh: &MeshCatalog, problems: &mut Problems) {
    let count = mesh.of_kind(Kind::JwtIssuer).len();
    if count > MOST_ISSUERS {
        problems.invalid("kind", format!("{count} issuers: at most {MOST_ISSUERS} in a mesh"));
    }
    let Some((_, own, _)) = mesh.issuers().find(|(name, ..)| **name == key.name) else { return };
    let same = mesh.issuers().find(|(name, other, _)| **name != key.name && other.issuer() == own.issuer());
    if let Some((other, ..)) = same {
        let help = "one resource for each issuer: list all audiences in it";
        problems.invalid_but("spec.issuer", format!("this is already the issuer of {other}"), help);
    }
}
