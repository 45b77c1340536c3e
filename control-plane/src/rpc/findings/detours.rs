//! Listeners at which what is said of some routes is gone round.

use hauberk_proto::admin::v1::Finding;

use super::{EACH_AT_MOST, warning};
use crate::resources::{Catalog, Detours, GONE_ROUND_MEND};

/// The first such listeners, as many as are told, and how many more there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::rpc) struct ToldDetours {
    told: Vec<String>,
    more: usize,
}

impl ToldDetours {
    /// Looks at every listener of all meshes.
    pub(in crate::rpc) fn of(catalog: &Catalog) -> Self {
        let mut found = Self::default();
        for (mesh, resources) in catalog.meshes() {
            for detour in Detours::of(resources).listeners() {
                // Whom it names is looked up for what is told alone.
                if found.told.len() < EACH_AT_MOST {
                    found.told.push(format!("VirtualNode {mesh}/{}, {detour}", detour.node));
                } else {
                    found.more += 1;
                }
            }
        }
        found
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let more = (self.more > 0).then(|| {
            format!("{} more listeners at which what is said of some routes is gone round", self.more)
        });
        let told = self.told.iter().cloned().chain(more);
        told.map(|summary| warning(summary, GONE_ROUND_MEND)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::testing::{catalog_of, classified, data_class, listener, mesh, node, policy};

    #[test]
    fn as_many_are_told_as_of_other_kinds_and_the_rest_is_counted() {
        let many = |count: u32| {
            let card = |port| classified(listener(port, "http"), "/card", &["pii"]);
            let listeners: Vec<_> = (1..=count).map(card).collect();
            let found = ToldDetours::of(&catalog_of(&[
                mesh("shop"),
                data_class("pii", &[]),
                node("orders", listeners),
                policy("all", "permit(principal is Node, action, resource);"),
                policy("pii", "forbid(principal, action, resource in DataClass::\"pii\");"),
            ]));
            found.findings()
        };
        assert_eq!(many(50).len(), 50);
        let told = many(53);
        assert_eq!(told.len(), 51);
        assert!(told[50].summary.starts_with("3 more listeners at which"), "{told:?}");
        assert!(told[50].fix.starts_with("write `undeclared: DENY`"), "{told:?}");
    }
}
