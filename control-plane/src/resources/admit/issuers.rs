//! Issuers of users' tokens: whether those are there whose tokens listeners take, and whether no two are the same.
//! Which keys of theirs, and of trust domains that are followed, are of no use.

use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{Listener, VirtualNodeSpec, resource::Spec};

use super::Step;
use crate::resources::catalog::Model;
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
        warnings.extend(passed_over(step, key));
        if !mesh.of_kind(Kind::JwtIssuer).is_empty() {
            continue;
        }
        if key.kind == Kind::VirtualNode {
            warnings.extend(without_issuer(key, mesh));
        }
        let reads_users =
            step.documents(key).into_iter().any(|(_, document)| document.reads().are_of_users());
        if reads_users {
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

/// Which keys that a resource lists are of no use.
fn passed_over<'a>(step: &'a Step<'_>, key: &'a ResourceKey) -> impl Iterator<Item = String> + 'a {
    let found = step.after.get(key).and_then(|entry| match entry.model() {
        Model::JwtIssuer(issuer) => Some(("jwks", issuer.passed_over())),
        Model::FederatedTrustDomain(followed) => Some(("trustDomainBundle", followed.passed_over())),
        _ => None,
    });
    let (field, why) = found.unwrap_or_default();
    why.iter().map(move |why| format!("{key}, spec.{field}: {why}; its other keys count"))
}

/// The listeners of a node that take users' tokens where nobody issues any.
fn without_issuer(key: &ResourceKey, mesh: &MeshCatalog) -> Option<String> {
    let node = mesh.node(key.name.as_str())?;
    let taking = node.listeners().iter().filter_map(|listener| Some((listener, listener.users()?)));
    let (mut ports, mut is_required) = (Vec::new(), false);
    for (listener, users) in taking {
        ports.push(listener.port().to_string());
        let of_routes = listener.routes().iter().any(|route| route.requires_user == Some(true));
        is_required |= users.required || of_routes;
    }
    if ports.is_empty() {
        return None;
    }
    let meaning = match is_required {
        false => "every token is refused",
        true => "every token is refused, and so is every request that must be made for a user",
    };
    let ports = ports.join(", ");
    Some(format!(
        "{key} takes users' tokens on port {ports}, and mesh {} has no JwtIssuer: {meaning}",
        key.mesh
    ))
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
