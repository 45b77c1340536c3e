//! What a change of policies changes in the slice of a node whose listeners stay as they are: so that one policy among
//! thousands does not cost as much as all of them.

use std::collections::HashSet;
use std::sync::Arc;

use hauberk_identity::Name;
use hauberk_policy::{NodeScope, PolicyIndex, PolicySlice, SlicedPolicy};

use crate::resources::{Kind, MeshCatalog, Model};

/// The policies that differ between two states of a mesh.
pub(super) struct PolicyChanges<'a> {
    /// Those that are gone or another by now.
    gone: HashSet<&'a str>,
    /// Those that are new or another.
    come: Option<PolicyIndex<'a>>,
}

impl<'a> PolicyChanges<'a> {
    /// Compares two states of `mesh`.
    pub(super) fn new(mesh: &'a Name, before: &'a MeshCatalog, after: &'a MeshCatalog) -> Self {
        let (before, after) = (before.of_kind(Kind::Policy), after.of_kind(Kind::Policy));
        let is_kept =
            |name: &Name, entry: &Arc<_>| after.get(name).is_some_and(|now| Arc::ptr_eq(now, entry));
        let gone = before.iter().filter(|(name, entry)| !is_kept(name, entry)).map(|(name, _)| name.as_str());
        let is_new =
            |name: &Name, entry: &Arc<_>| before.get(name).is_none_or(|was| !Arc::ptr_eq(was, entry));
        let come = after.iter().filter(|(name, entry)| is_new(name, entry));
        let come: Vec<_> = come
            .filter_map(|(_, entry)| match entry.model() {
                Model::Policy(document) => Some(&**document),
                _ => None,
            })
            .collect();
        let come = (!come.is_empty()).then(|| PolicyIndex::new(mesh, come));
        Self { gone: gone.collect(), come }
    }

    /// The slice of a node that had the slice `former` with the same scope.
    pub(super) fn apply_to(&self, former: &PolicySlice, scope: &NodeScope) -> PolicySlice {
        let mut slice = self.come.as_ref().map(|index| index.slice(scope, &[])).unwrap_or_default();
        let is_kept = |policy: &&SlicedPolicy| !self.gone.contains(document_of(policy));
        slice.policies.extend(former.policies.iter().filter(is_kept).cloned());
        slice.policies.sort_by(|one, other| one.name.cmp(&other.name));
        slice
    }
}

/// The document that a statement is of: their names hold no slash.
fn document_of(policy: &SlicedPolicy) -> &str {
    policy.name.split_once('/').map_or(&policy.name, |(document, _)| document)
}
