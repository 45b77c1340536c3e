//! Warns of what becomes of members of a trust domain that is followed no longer, or by another bundle.

use hauberk_identity::TrustDomain;
use hauberk_policy::{Effect, Mode, PolicyDocument, Referent};
use hauberk_tls::SpiffeBundle;

use super::Step;
use crate::resources::catalog::Model;
use crate::resources::federated_trust_domain::FederatedTrustDomain;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;

/// The most policies that a warning names.
const MOST_TOLD: usize = 5;

/// Looks at those that the batch changes, or removes.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    for key in step.places.keys().filter(|key| key.kind == Kind::FederatedTrustDomain) {
        let (before, after) = (step.before.mesh(key.mesh.as_str()), step.after.mesh(key.mesh.as_str()));
        let (Some(before), Some(after)) = (before, after) else { continue };
        if !before.of_kind(key.kind).contains_key(&key.name) {
            continue;
        }
        // What is removed is still one of the places.
        match after.of_kind(key.kind).get(&key.name).map(|entry| entry.model()) {
            None => warnings.extend(still_named(key, after)),
            Some(Model::FederatedTrustDomain(followed)) => {
                warnings.extend(by_another_bundle(key, followed, (before, after)));
            }
            Some(_) => {}
        }
    }
}

/// Which permits go on naming members of one that goes.
fn still_named(key: &ResourceKey, after: &MeshCatalog) -> Option<String> {
    let gone = TrustDomain::parse(key.name.as_str()).ok()?;
    let named: Vec<&str> = after
        .policies()
        .filter(|policy| policy.mode() == Mode::Enforce && permits(policy, &gone))
        .map(|policy| policy.name().as_str())
        .collect();
    let told = named.iter().copied().take(MOST_TOLD).collect::<Vec<_>>().join(", ");
    let (told, them) = match named.len() {
        0 => return None,
        1 => (format!("{told} still names"), "it"),
        2..=MOST_TOLD => (format!("{told} still name"), "these"),
        all => (format!("{told} and {} more still name", all - MOST_TOLD), "these"),
    };
    Some(format!(
        "{key}: {told} its members, whom every agent refuses from then on; delete {them} too, or whoever follows it again lets them in \
         at once"
    ))
}

fn permits(policy: &PolicyDocument, members_of: &TrustDomain) -> bool {
    policy.references().iter().filter(|reference| reference.effect == Effect::Allow).any(|reference| {
        match &reference.referent {
            Referent::TrustDomain(domain) => domain == members_of,
            Referent::Workload(id) => id.is_member_of(members_of),
            _ => false,
        }
    })
}

/// That the bundle in force by the former spec, fetched or written, counts no longer, where that changes who is let in.
fn by_another_bundle(
    key: &ResourceKey,
    followed: &FederatedTrustDomain,
    (before, after): (&MeshCatalog, &MeshCatalog),
) -> Option<String> {
    let name = key.name.as_str();
    let former = before.bundle(&key.name)?;
    if after.fetched(name).is_some() {
        return None;
    }
    let was_fetched = before.fetched(name).is_some();
    let until =
        if followed.endpoint().is_some() { "until its bundle is fetched anew" } else { "from then on" };
    let what = if was_fetched { "what was fetched for it" } else { "its former `trustDomainBundle`" };
    let counts = format!("{key}: {what} counts no longer: {until}");
    match followed.initial() {
        Some(written) if written.has_same_keys(former) => None,
        // Whoever adds to what is written says who is let in besides, and takes nobody away.
        Some(written) if !was_fetched && has_all_of(written, former) => None,
        Some(_) => Some(format!("{counts}, only whom `trustDomainBundle` verifies is let in")),
        // Nobody is let in by it as it is.
        None if former.x509().roots().is_empty() => None,
        None => {
            let keeping = if was_fetched {
                format!(
                    "write it as trustDomainBundle: (`hauberk bundle export {} --mesh {}`, before this is applied)",
                    key.name, key.mesh
                )
            } else {
                "leave it there beside the endpoint".to_owned()
            };
            Some(format!(
                "{counts}, its members are refused and their connections cut; to keep it meanwhile, {keeping}"
            ))
        }
    }
}

/// Whether one verifies whatever the other does.
fn has_all_of(bundle: &SpiffeBundle, former: &SpiffeBundle) -> bool {
    former.x509().roots().iter().all(|root| bundle.x509().root(root.fingerprint()).is_some())
        && former.jwt().keys().all(|key| bundle.jwt().key(key.id()) == Some(key))
}

#[cfg(test)]
mod tests;
