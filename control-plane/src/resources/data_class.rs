//! A data class, as it is accepted.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_proto::mesh::v1 as wire;

use super::choice;
use super::mesh_catalog::MeshCatalog;
use super::problem::Problems;

/// The most classes that one class lists.
const MOST_CLASSES: usize = 100;

/// A data class that is well-formed. That what it names exists is checked where it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataClass {
    classes: Vec<Name>,
}

impl DataClass {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::DataClassSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::DataClassSpec { data_classes, description } = spec;
        choice::description(problems, description.as_deref());
        let classes = choice::names(problems, "spec.dataClasses", data_classes, MOST_CLASSES);
        (problems.count() == before).then_some(Self { classes })
    }

    /// The classes that are within it, in order.
    pub fn classes(&self) -> &[Name] {
        &self.classes
    }
}

/// Which classes of a mesh are around which.
pub(crate) struct Enclosing<'a>(BTreeMap<&'a Name, Vec<&'a Name>>);

impl<'a> Enclosing<'a> {
    pub(crate) fn of(mesh: &'a MeshCatalog) -> Self {
        let mut around: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (outer, class) in mesh.data_classes() {
            for inner in class.classes() {
                around.entry(inner).or_default().push(outer);
            }
        }
        Self(around)
    }

    /// These classes and all around them, in order.
    pub(crate) fn with(&self, classes: &[Name]) -> Vec<Name> {
        let mut reached: BTreeSet<&Name> = classes.iter().collect();
        let mut pending: Vec<&Name> = classes.iter().collect();
        while let Some(class) = pending.pop() {
            let outer = self.0.get(class).into_iter().flatten().copied();
            pending.extend(outer.filter(|outer| reached.insert(outer)));
        }
        reached.into_iter().cloned().collect()
    }
}
