//! Warns of enrollments whose hints tell a program nothing, because another of its enrollments has the same.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;

use super::Step;
use crate::resources::enrollment::{Enrollment, WorkloadEnrollment};
use crate::resources::key::{Kind, ResourceKey};

/// The most warnings about one mesh.
const MOST: usize = 20;

/// Looks at the enrollments that the batch brings.
pub(super) fn warn(step: &Step<'_>, warnings: &mut Vec<String>) {
    let enrollments = || step.places.keys().filter(|key| key.kind == Kind::Enrollment);
    let meshes: BTreeSet<&Name> = enrollments().map(|key| &key.mesh).collect();
    for mesh in meshes {
        let Some(after) = step.after.mesh(mesh.as_str()) else { continue };
        let mut by_hint: BTreeMap<_, Vec<(&Name, &WorkloadEnrollment)>> = BTreeMap::new();
        for (name, enrollment) in after.enrollments() {
            let Enrollment::Workload(workload) = enrollment else { continue };
            let Some(hint) = workload.hint() else { continue };
            by_hint.entry((workload.parent(), hint)).or_default().push((name, workload));
        }
        let brought = enrollments().filter(|key| key.mesh == *mesh);
        let told = brought.filter_map(|key| told(key, by_hint.values()));
        warnings.extend(told.take(MOST));
    }
}

/// What is to be told of one enrollment, if anything is.
fn told<'a>(
    key: &ResourceKey,
    mut groups: impl Iterator<Item = &'a Vec<(&'a Name, &'a WorkloadEnrollment)>>,
) -> Option<String> {
    let (own, group) = groups.find_map(|group| {
        let own = group.iter().find(|(name, _)| **name == key.name)?;
        Some((own.1, group))
    })?;
    let (other, _) =
        group.iter().find(|(name, other)| **name != key.name && are_of_one_program(own, other))?;
    // In the order of the names, as programs are given their identities.
    let first = (*other).min(&key.name);
    let hint = own.hint().unwrap_or_default();
    Some(format!(
        "{key}: enrollment {other} of the same parent has the hint {hint:?} too: a program that gets both is given {first} alone with \
         it; give each a hint of its own"
    ))
}

/// Whether all selectors of both may be true of one program.
fn are_of_one_program(one: &WorkloadEnrollment, other: &WorkloadEnrollment) -> bool {
    let excludes = |own| other.selectors().iter().any(|other| other.excludes(own));
    !one.selectors().iter().any(excludes)
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1 as wire;
    use hauberk_proto::mesh::v1::resource::Spec;

    use crate::resources::testing::*;

    #[test]
    fn of_two_enrollments_of_one_program_with_one_hint_it_is_told() {
        let enrollment = |name: &str, of: &str, hint: Option<&str>, selector: &str| {
            let workload = wire::WorkloadEnrollment {
                path: name.into(),
                selectors: vec![selector.into()],
                hint: hint.map(Into::into),
                ..wire::WorkloadEnrollment::default()
            };
            let spec =
                wire::EnrollmentSpec { parent: Some(parent(of)), workload: Some(workload), attest: None };
            resource("shop", name, Spec::Enrollment(spec))
        };
        let catalog = catalog_of(&[
            mesh("shop"),
            node("orders", []),
            node("web", []),
            enrollment("b", "orders", Some("internal"), "unix:uid:1000"),
        ]);
        let told = |batch: wire::Resource| {
            let warnings = try_admit(&catalog, &[batch], EVERYTHING).unwrap().warnings;
            warnings.into_iter().filter(|warning| warning.contains("hint")).collect::<Vec<_>>()
        };
        let shared = told(enrollment("c", "orders", Some("internal"), "unix:gid:1"));
        assert_eq!(
            shared,
            [
                "Enrollment shop/c: enrollment b of the same parent has the hint \"internal\" too: a program that gets both is given b \
                 alone with it; give each a hint of its own"
            ]
        );
        let shared = told(enrollment("a", "orders", Some("internal"), "unix:uid:1000"));
        assert!(shared[0].contains("is given a alone"), "{shared:?}");
        for other in [
            enrollment("c", "orders", Some("external"), "unix:gid:1"),
            enrollment("c", "orders", None, "unix:gid:1"),
            enrollment("c", "web", Some("internal"), "unix:gid:1"),
            // Nobody is both.
            enrollment("c", "orders", Some("internal"), "unix:uid:1001"),
        ] {
            assert!(told(other).is_empty());
        }
    }
}
