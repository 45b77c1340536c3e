//! Whether workloads that roles list stay somebody. Thousands of enrollments may change at once, and all other changes wait meanwhile: who
//! is enrolled, and who is listed, is looked up once for all of them.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};

use hauberk_identity::{Name, SpiffeId};

use super::Step;
use crate::resources::catalog::{Catalog, Model};
use crate::resources::enrollment::Enrollment;
use crate::resources::key::ResourceKey;
use crate::resources::problem::{Fault, Problems};

/// The mesh and name of a role.
type RoleKey<'a> = (&'a Name, &'a Name);

impl<'a> Step<'a> {
    /// A role would name a workload that nobody can become any longer, until somebody else is enrolled as it.
    pub(super) fn check_workload_stays(
        &self,
        key: &ResourceKey,
        (enrolled, roles): (&OnceCell<BTreeSet<SpiffeId>>, &OnceCell<HashMap<&'a SpiffeId, RoleKey<'a>>>),
        problems: &mut Problems,
    ) {
        let former = match self.before.get(key).map(|entry| entry.model()) {
            Some(Model::Enrollment(Enrollment::Workload(workload))) => workload.id(),
            _ => return,
        };
        if enrolled.get_or_init(|| self.enrolled().collect()).contains(former) {
            return;
        }
        if let Some((mesh, role)) = roles.get_or_init(|| first_roles(self.after)).get(former) {
            let message = format!("{former} would be nobody, and role {role:?} of mesh {mesh:?} lists it");
            let help = "take it out of the role first, or with it".to_owned();
            problems.report(Fault::InUse, "spec.workload.path", message, Some(help));
        }
    }
}

/// All members of roles, each with the first that lists it.
fn first_roles(catalog: &Catalog) -> HashMap<&SpiffeId, RoleKey<'_>> {
    let mut first = HashMap::new();
    for (mesh, resources) in catalog.meshes() {
        for (name, role) in resources.roles() {
            for member in role.members() {
                first.entry(member).or_insert((mesh, name));
            }
        }
    }
    first
}
