//! Warns of policies that make one another pointless.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::{Overlap, overlaps};

use super::Step;
use crate::resources::key::Kind;

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
        for overlap in overlaps(after.policies(), |document| stated.contains(&document.label()), MOST) {
            warnings.push(match overlap {
                Overlap::Same { one, other } => {
                    format!("Mesh {mesh}: policies {one} and {other} say the same: one of them will do")
                }
                Overlap::Covered { permit, forbid } => {
                    format!("Mesh {mesh}: policy {permit} permits nothing: {forbid} forbids all of it")
                }
            });
        }
    }
}
