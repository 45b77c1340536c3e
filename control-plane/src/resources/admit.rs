//! Where a resource is accepted or refused.
//!
//! A batch is judged as one transaction against what is stored: everything that is wrong with it is reported at once,
//! each with the field that is wrong. What the body of each kind must hold is in the file of its name; what they may refer to
//! in `references`, and for roles, data classes and templates in `membership` and `templates`, for users in `issuers`, for what leaves the mesh in `externals`; which changes of a node or service
//! are changes of policy in `opens`; whom a followed trust domain's end or change keeps out in `followed`; and what may be removed in `removal`.

mod declared;
mod detours;
mod envelope;
mod externals;
mod followed;
mod forbidden_no_longer;
mod header_values;
mod hints;
mod issuers;
mod membership;
mod names;
mod opens;
mod overlaps;
mod references;
mod removal;
mod templates;
mod texts;
mod vouched;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::TrustDomain;
use hauberk_proto::mesh::v1::Resource;
use hauberk_proto::refusal::held_twice;

use super::catalog::{Catalog, Entry, Model};
use super::choice::did_you_mean;
use super::key::{Kind, ResourceKey};
use super::problem::{Fault, Problem, Problems};

pub use removal::{Removal, Target, admit_removal};

/// Of how many names that are wrong in one change the nearest is looked for.
const MOST_HINTS: usize = 50;

/// What the author of a change may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Meshes, virtual nodes, gateways and services.
    pub resources: bool,
    /// Policies, and what changes their reach.
    pub policies: bool,
    /// Boundaries, and what changes their reach.
    pub boundaries: bool,
    /// Enrollments and federated trust domains.
    pub identities: bool,
}

/// A batch that is accepted.
#[derive(Debug)]
pub struct Admission {
    /// What becomes of each resource, in the order of the batch.
    pub changes: Vec<Change>,
    /// What a person should know about it.
    pub warnings: Vec<String>,
    /// All resources as they will be.
    pub after: Catalog,
}

/// What becomes of one resource.
#[derive(Debug)]
pub struct Change {
    /// Its name.
    pub key: ResourceKey,
    /// Whether it is made, changed, or stays as it was.
    pub outcome: Outcome,
    /// As it will be, without metadata.
    pub resource: Resource,
    /// As it stands.
    pub previous: Option<Arc<Entry>>,
}

/// What becomes of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It changes.
    Configured,
    /// It is already so.
    Unchanged,
}

/// Judges a batch of resources that are to be created or replaced.
///
/// # Errors
/// Everything that is wrong with it, in the order of the batch.
pub fn admit(
    catalog: &Catalog,
    batch: &[Resource],
    rights: Rights,
    trust_domain: &TrustDomain,
) -> Result<Admission, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut changes = Vec::with_capacity(batch.len());
    let mut after = catalog.clone();
    let mut warnings = Vec::new();
    // Also those that are refused for what is in them, so that nobody is told they do not exist.
    let mut places: BTreeMap<ResourceKey, usize> = BTreeMap::new();
    for (index, resource) in batch.iter().enumerate() {
        problems.about(index);
        let count = problems.count();
        let Some((key, normal)) = envelope::read(resource, &mut problems) else { continue };
        if let Some(first) = places.get(&key) {
            // Whoever sent it knows by this number where that one stands.
            problems.invalid("name", held_twice(&key.to_string(), *first));
            continue;
        }
        places.insert(key.clone(), index);
        let previous = catalog.get(&key).cloned();
        envelope::check_version(resource, previous.as_deref(), &mut problems);
        let outcome = match &previous {
            None => Outcome::Created,
            Some(previous) if envelope::is_same(previous.resource(), &normal) => Outcome::Unchanged,
            Some(_) => Outcome::Configured,
        };
        // What stays as it is changes nothing, whoever sends it along: a whole folder is applied for one node in it. It tells nothing
        // either: every admin reads every resource.
        if outcome != Outcome::Unchanged {
            check_rights(&key, rights, &mut problems);
        }
        // What stays as it is stored is no new text, and is not refused for what only those are.
        problems.of_stored_from_here(outcome == Outcome::Unchanged);
        let model = match &normal.spec {
            Some(spec) => Model::parse(spec, &key, trust_domain, &mut problems),
            None => None,
        };
        problems.of_stored_from_here(false);
        warnings.extend(problems.take_warnings().into_iter().map(|warning| format!("{key}: {warning}")));
        let Some(model) = model else { continue };
        match &previous {
            // It is the very one that is stored, with all that was fetched for it.
            Some(previous)
                if outcome == Outcome::Unchanged && !matches!(previous.model(), Model::Unreadable(_)) => {}
            previous => {
                let metadata = previous.as_ref().and_then(|entry| entry.resource().metadata.clone());
                after.set(&key, Entry::new(Resource { metadata, ..normal.clone() }, model));
            }
        }
        if problems.count() == count {
            changes.push(Change { key, outcome, resource: normal, previous });
        }
    }
    let step = Step {
        batch,
        before: catalog,
        after: &after,
        places: &places,
        trust_domain,
        hints: Cell::new(MOST_HINTS),
    };
    references::check(&step, &mut problems, &mut warnings);
    followed::warn(&step, &mut warnings);
    templates::check(&step, &mut problems, &mut warnings);
    membership::check(&step, rights, &mut problems, &mut warnings);
    issuers::check(&step, &mut problems, &mut warnings);
    declared::check(&step, &mut problems, &mut warnings);
    externals::check(&step, rights, &mut problems, &mut warnings);
    opens::check(&step, rights, &mut problems, &mut warnings);
    forbidden_no_longer::warn(&step, &mut warnings);
    header_values::warn(&step, &mut warnings);
    hints::warn(&step, &mut warnings);
    overlaps::warn(&step, &mut warnings);
    detours::warn(&step, &mut warnings);
    let problems = problems.into_sorted();
    if problems.is_empty() { Ok(Admission { changes, warnings, after }) } else { Err(problems) }
}

/// A batch between before and after.
struct Step<'a> {
    /// As it was sent; nothing where resources are removed.
    batch: &'a [Resource],
    before: &'a Catalog,
    after: &'a Catalog,
    /// Every resource that the batch names, with its place in the request.
    places: &'a BTreeMap<ResourceKey, usize>,
    trust_domain: &'a TrustDomain,
    /// How often it is still looked for what was meant.
    hints: Cell<usize>,
}

impl Step<'_> {
    /// `did you mean "orders"?`. It is looked for a few times: all other changes wait meanwhile, and thousands of names that are
    /// wrong are so for one reason.
    fn nearest<'k>(&self, word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
        self.hint(|| did_you_mean(word, known))
    }

    /// What is found, while there is something left to look for.
    fn hint(&self, find: impl FnOnce() -> Option<String>) -> Option<String> {
        let left = self.hints.get().checked_sub(1)?;
        self.hints.set(left);
        find()
    }
}

fn check_rights(key: &ResourceKey, rights: Rights, problems: &mut Problems) {
    let (may, role) = match key.kind {
        Kind::Enrollment | Kind::FederatedTrustDomain => (rights.identities, "identity-admin"),
        Kind::Boundary => (rights.boundaries, "boundary-admin"),
        Kind::DataClass
        | Kind::ExternalService
        | Kind::JwtIssuer
        | Kind::Policy
        | Kind::PolicyTemplate
        | Kind::Role => (rights.policies, "policy-admin"),
        Kind::Mesh | Kind::VirtualGateway | Kind::VirtualNode | Kind::VirtualService => {
            (rights.resources, "editor")
        }
    };
    if !may {
        let message = format!("to change {} takes the role {role}", key.kind.with_article());
        problems.report(Fault::Denied, "kind", message, None);
    }
}
