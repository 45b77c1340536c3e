//! What a change of policies changes in the slice of a node whose listeners stay as they are: so that one policy among
//! thousands does not cost as much as all of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use hauberk_identity::Name;
use hauberk_policy::{
    BOUNDARY, Known, LabelsRead, NodeScope, PolicyDocument, PolicyIndex, PolicySlice, SlicedPolicy,
    labels_needed, ports_needed,
};

use crate::resources::{Entry, Kind, MeshCatalog};

/// The policies that differ between two states of a mesh.
pub(super) struct PolicyChanges<'a> {
    /// Those that are gone or another by now.
    gone: HashSet<String>,
    /// Those that are new or another.
    come: Option<PolicyIndex<'a>>,
    after: &'a MeshCatalog,
}

impl<'a> PolicyChanges<'a> {
    /// Compares two states of `mesh`; `None` where roles differ, which concern policies that stay as they are.
    pub(super) fn new(mesh: &'a Name, before: &'a MeshCatalog, after: &'a MeshCatalog) -> Option<Self> {
        let (roles_before, roles) = (before.of_kind(Kind::Role), after.of_kind(Kind::Role));
        let is_same = |(one, other): (&Arc<Entry>, &Arc<Entry>)| Arc::ptr_eq(one, other);
        if !(roles_before.keys().eq(roles.keys()) && roles_before.values().zip(roles.values()).all(is_same)) {
            return None;
        }
        let mut changes = Self { gone: HashSet::new(), come: None, after };
        let mut come = Vec::new();
        for kind in [Kind::Policy, Kind::Boundary] {
            let (before, after) = (before.of_kind(kind), after.of_kind(kind));
            let differs = |name: &Name, entry: &Arc<Entry>, others: &BTreeMap<Name, Arc<Entry>>| {
                others.get(name).is_none_or(|other| !Arc::ptr_eq(other, entry))
            };
            let gone = before.iter().filter(|(name, entry)| differs(name, entry, after));
            changes.gone.extend(gone.filter_map(|(_, entry)| Some(entry.document()?.label())));
            let new = after.iter().filter(|(name, entry)| differs(name, entry, before));
            come.extend(new.filter_map(|(_, entry)| entry.document()));
        }
        if !come.is_empty() {
            changes.come = Some(PolicyIndex::new(mesh, come));
        }
        Some(changes)
    }

    /// The slice of a node that had the slice `former` with the same scope, of policies that ask for this.
    pub(super) fn apply_to(&self, former: &PolicySlice, scope: &NodeScope, known: Known<'_>) -> PolicySlice {
        let Known { roles, labels, ports } = known;
        let mut slice = self.come.as_ref().map(|index| index.slice(scope, known)).unwrap_or_default();
        let is_kept = |policy: &&SlicedPolicy| !self.gone.contains(document_of(&policy.name));
        slice.policies.extend(former.policies.iter().filter(is_kept).cloned());
        slice.policies.sort_by(|one, other| one.name.cmp(&other.name));
        if !roles.is_empty() {
            let mentioned: BTreeSet<&Name> =
                slice.policies.iter().flat_map(|policy| self.roles_of(&policy.name)).collect();
            slice.roles = roles.iter().filter(|role| mentioned.contains(&role.role)).cloned().collect();
        }
        if !labels.is_empty() {
            let reads: Vec<&LabelsRead> = slice
                .policies
                .iter()
                .filter_map(|policy| self.document(&policy.name)?.labels_of(&policy.name))
                .collect();
            slice.labels = labels_needed(&reads, None, roles, labels);
        }
        if !ports.is_empty() {
            let reads = slice.policies.iter().flat_map(|policy| {
                // A few ask about any, of documents that may have many statements.
                self.document(&policy.name)
                    .filter(|document| document.ports_read().next().is_some())
                    .map(|document| document.ports_read_by(&policy.name))
                    .unwrap_or_default()
            });
            slice.ports = ports_needed(reads, scope.node(), ports);
        }
        slice
    }

    /// The roles that a statement mentions.
    fn roles_of(&self, statement: &str) -> &[Name] {
        self.document(statement).map(|document| document.roles_of(statement)).unwrap_or_default()
    }

    /// What a statement is of.
    fn document(&self, statement: &str) -> Option<&PolicyDocument> {
        let label = document_of(statement);
        let (kind, name) = match label.strip_prefix(BOUNDARY) {
            Some(name) => (Kind::Boundary, name),
            None => (Kind::Policy, label),
        };
        self.after.of_kind(kind).get(name)?.document()
    }
}

/// The label of the document that a statement is of: names hold no slash.
fn document_of(statement: &str) -> &str {
    statement.split_once('/').map_or(statement, |(document, _)| document)
}
