//! What may be removed.

mod users;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{Mode, Referent};

use super::templates::followers;
use super::{
    MOST_HINTS, Rights, Step, check_rights, envelope, followed, forbidden_no_longer, membership, opens,
};
use crate::resources::catalog::{Catalog, Entry};
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problem, Problems};
use users::Users;

/// A resource that is to be removed.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which.
    pub key: ResourceKey,
    /// The version that the author looked at; 0: any.
    pub resource_version: u64,
    /// It is no error if it is not there.
    pub ignore_missing: bool,
}

/// A removal that is accepted.
#[derive(Debug)]
pub struct Removal {
    /// What goes, in the order of the request.
    pub removed: Vec<(ResourceKey, Arc<Entry>)>,
    /// What a person should know about it.
    pub warnings: Vec<String>,
    /// All resources as they will be.
    pub after: Catalog,
}

/// Judges the removal of `targets`, all or none. What others still refer to stays.
///
/// # Errors
/// Everything that is wrong with it, in the order of the request.
pub fn admit_removal(
    catalog: &Catalog,
    targets: &[Target],
    rights: Rights,
    trust_domain: &TrustDomain,
) -> Result<Removal, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut removed = Vec::new();
    let mut after = catalog.clone();
    let mut places: BTreeMap<ResourceKey, usize> = BTreeMap::new();
    for (index, Target { key, resource_version, ignore_missing }) in targets.iter().enumerate() {
        problems.about(index);
        if places.contains_key(key) {
            problems.invalid("", format!("{key} stands in the request twice"));
            continue;
        }
        check_rights(key, rights, &mut problems);
        let entry = catalog.get(key);
        if let Some(message) = envelope::stale(*resource_version, entry.map(|entry| &**entry)) {
            problems.report(Fault::Stale, "resourceVersion", message, None);
        }
        match entry {
            Some(entry) => {
                places.insert(key.clone(), index);
                after.remove(key);
                removed.push((key.clone(), Arc::clone(entry)));
            }
            None if *ignore_missing => {}
            None => problems.report(Fault::Missing, "", format!("{key} does not exist"), None),
        }
    }
    let users = Users::of(&places, &after, trust_domain);
    for (key, index) in &places {
        check_unused(key, &after, &users, problems.about(*index));
    }
    let step = Step {
        batch: &[],
        before: catalog,
        after: &after,
        places: &places,
        trust_domain,
        hints: Cell::new(MOST_HINTS),
    };
    let mut warnings = Vec::new();
    membership::check(&step, rights, &mut problems, &mut warnings);
    opens::check(&step, rights, &mut problems, &mut warnings);
    forbidden_no_longer::warn(&step, &mut warnings);
    followed::warn(&step, &mut warnings);
    let mut unreadable: BTreeMap<&Name, BTreeSet<(Kind, &Name)>> = BTreeMap::new();
    for (key, entry) in removed.iter().filter(|(key, _)| matches!(key.kind, Kind::Policy | Kind::Boundary)) {
        let Some(before) = catalog.mesh(key.mesh.as_str()) else { continue };
        let holding_back = || before.holding_back().map(|(kind, name, _)| (kind, name)).collect();
        let unreadable = unreadable.entry(&key.mesh).or_insert_with(holding_back);
        warnings.extend(lifted(key, entry, unreadable.contains(&(key.kind, &key.name)), &after));
    }
    let mut problems = problems.into_sorted();
    // A target has no fields of the resource itself.
    problems.iter_mut().filter(|problem| problem.field.starts_with("spec.")).for_each(|p| p.field.clear());
    if problems.is_empty() { Ok(Removal { removed, warnings, after }) } else { Err(problems) }
}

/// That something is forbidden no longer, or perhaps, where it may forbid and cannot be read; of a mesh that goes as a whole nothing is
/// left to forbid.
fn lifted(key: &ResourceKey, entry: &Entry, may_forbid: bool, after: &Catalog) -> Option<String> {
    after.mesh(key.mesh.as_str())?;
    if may_forbid {
        return Some(format!(
            "{key}: it cannot be read, and may forbid: what it forbids is let through from then on, wherever a policy permits it"
        ));
    }
    let document = entry.document().filter(|document| document.forbids())?;
    let decides = document.mode() != Mode::Audit;
    decides
        .then(|| format!("{key}: what it forbids is let through from then on, wherever a policy permits it"))
}

fn check_unused(key: &ResourceKey, after: &Catalog, users: &Users<'_>, problems: &mut Problems) {
    let users = users_of(key, after, users);
    if let [first, others @ ..] = &users[..] {
        let more = match others.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = match key.kind {
            Kind::Mesh => format!("{key} still holds {first}{more}"),
            _ => format!("{key} is still used by {first}{more}"),
        };
        let help = "remove these first, or with it".to_owned();
        problems.report(Fault::InUse, "", message, Some(help));
    }
}

/// What of the resources that remain refers to one, each as messages name it.
fn users_of(key: &ResourceKey, after: &Catalog, users: &Users<'_>) -> Vec<String> {
    // A role of another mesh may name it where its own mesh goes too.
    if matches!(key.kind, Kind::VirtualGateway | Kind::VirtualNode | Kind::VirtualService) {
        return users.named(key);
    }
    let Some(mesh) = after.mesh(key.mesh.as_str()) else { return Vec::new() };
    match key.kind {
        Kind::Mesh => {
            let kinds = Kind::ALL.into_iter().flat_map(|kind| {
                mesh.of_kind(kind).keys().map(move |name| format!("{} {name:?}", kind.noun()))
            });
            kinds.collect()
        }
        Kind::FederatedTrustDomain => mesh
            .enrollments()
            .filter(|(_, enrollment)| enrollment.federates_with(key.name.as_str()))
            .map(|(name, _)| format!("enrollment {name:?}"))
            .chain(
                mesh.roles()
                    .filter(|(_, role)| {
                        role.members().iter().any(|id| id.trust_domain().as_str() == key.name.as_str())
                    })
                    .map(|(name, _)| format!("role {name:?}")),
            )
            .chain(
                mesh.federated()
                    .filter(|(_, other, _)| {
                        other.vouched_by().is_some_and(|by| by.as_str() == key.name.as_str())
                    })
                    .map(|(name, _, _)| format!("federated trust domain {name:?}")),
            )
            .collect(),
        Kind::DataClass => policies_naming(mesh, Referent::DataClass(key.name.clone()))
            .chain(
                mesh.data_classes()
                    .filter(|(_, class)| class.classes().contains(&key.name))
                    .map(|(name, _)| format!("data class {name:?}")),
            )
            .chain(
                mesh.nodes()
                    .filter(|(_, node)| {
                        let mut routes = node.listeners().iter().flat_map(|listener| listener.routes());
                        routes.any(|route| route.classes.contains(&key.name))
                    })
                    .map(|(name, _)| format!("virtual node {name:?}")),
            )
            .collect(),
        Kind::PolicyTemplate => {
            followers(mesh, &key.name).map(|(name, _)| format!("policy {name:?}")).collect()
        }
        Kind::Role => policies_naming(mesh, Referent::Role(key.name.clone()))
            .chain(
                mesh.roles()
                    .filter(|(_, role)| role.roles().contains(&key.name))
                    .map(|(name, _)| format!("role {name:?}")),
            )
            .collect(),
        Kind::JwtIssuer => policies_of_users(mesh, &key.name)
            .chain(
                mesh.nodes()
                    .filter(|(_, node)| {
                        let mut tokens = node.listeners().iter().filter_map(|listener| listener.users());
                        tokens.any(|users| users.issuers.contains(&key.name))
                    })
                    .map(|(name, _)| format!("virtual node {name:?}")),
            )
            .collect(),
        Kind::ExternalService => policies_naming(mesh, Referent::External(key.name.clone())).collect(),
        // Whether a role lists the workload is looked at where its members are.
        Kind::Boundary
        | Kind::Enrollment
        | Kind::Policy
        | Kind::VirtualGateway
        | Kind::VirtualNode
        | Kind::VirtualService => Vec::new(),
    }
}

fn policies_naming(mesh: &MeshCatalog, meant: Referent) -> impl Iterator<Item = String> {
    policies_with(mesh, move |referent| *referent == meant)
}

/// Those that name users or groups of an issuer.
fn policies_of_users(mesh: &MeshCatalog, meant: &Name) -> impl Iterator<Item = String> {
    policies_with(mesh, |referent| opens::issuer_of(referent) == Some(meant))
}

fn policies_with(mesh: &MeshCatalog, is_meant: impl Fn(&Referent) -> bool) -> impl Iterator<Item = String> {
    mesh.policies()
        .filter(move |policy| policy.references().iter().any(|reference| is_meant(&reference.referent)))
        .map(|policy| match policy.mode() {
            Mode::Enforce | Mode::Audit => format!("policy {:?}", policy.name()),
            Mode::Boundary => format!("boundary {:?}", policy.name()),
        })
}
