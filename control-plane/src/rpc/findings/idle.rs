//! Forbids that stop nothing.

use hauberk_proto::admin::v1::Finding;

use super::{EACH_AT_MOST, error, warning};
use crate::resources::{Catalog, IDLE_FORBID_MEND, idle_forbids};

/// The first things that forbids are about and that are not there, as many as are told, and how many more there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::rpc) struct ToldIdle {
    told: Vec<String>,
    more: usize,
}

impl ToldIdle {
    /// Looks at every forbid of all meshes.
    pub(in crate::rpc) fn of(catalog: &Catalog) -> Self {
        let mut found = Self::default();
        for (mesh, resources) in catalog.meshes() {
            for idle in idle_forbids(resources, |_| true) {
                if found.told.len() >= EACH_AT_MOST {
                    found.more += 1;
                    continue;
                }
                // All routes of a listener are looked through for what is told alone.
                let instead =
                    idle.instead(resources).map(|instead| format!("; {instead}")).unwrap_or_default();
                let (place, by) = (idle.place(), idle.by());
                found.told.push(format!(
                    "mesh {mesh}: what forbids by {place} in {by} stops nothing: there is none{instead}"
                ));
            }
        }
        found
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let told = self.told.iter().map(|summary| error(summary.clone(), IDLE_FORBID_MEND));
        let more = (self.more > 0).then(|| {
            let summary = format!("{} more things are named by forbids and not there", self.more);
            warning(summary, IDLE_FORBID_MEND)
        });
        told.chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Kind;
    use crate::resources::testing::{catalog_of, forbid, mesh, node, once_gone, service};

    #[test]
    fn as_many_are_told_as_of_other_kinds_and_the_rest_is_counted() {
        let many = |count: usize| {
            let names: Vec<_> = (0..count).map(|number| format!("orders-{number}")).collect();
            let forbids = names.iter().map(|name| forbid(&format!("no-{name}"), "web", name));
            let services = names.iter().map(|name| service(name, "web", None));
            let there: Vec<_> =
                [mesh("shop"), node("web", [])].into_iter().chain(services).chain(forbids).collect();
            let gone = |left, name: &String| once_gone(&left, Kind::VirtualService, name);
            ToldIdle::of(&names.iter().fold(catalog_of(&there), gone)).findings()
        };
        assert_eq!(many(50).len(), 50);
        let told = many(53);
        assert_eq!(told.len(), 51);
        assert!(told[50].summary.starts_with("3 more things are named"), "{told:?}");
    }
}
