//! Listeners at which what is said of some routes is gone round.

use hauberk_proto::admin::v1::Finding;

use super::{each, warning};
use crate::resources::{Catalog, GONE_ROUND_MEND, gone_round};

pub(super) fn detours(catalog: &Catalog) -> Vec<Finding> {
    let found = catalog.meshes().iter().flat_map(|(mesh, resources)| {
        gone_round(resources).into_iter().map(move |detour| {
            warning(format!("VirtualNode {mesh}/{}, {detour}", detour.node), GONE_ROUND_MEND)
        })
    });
    each(found, "listeners at which what is said of some routes is gone round")
}
