//! What is stored and would not be admitted today, or comes to nothing.

use hauberk_proto::admin::v1::Finding;

use super::{ToldIdle, each, error, warning};
use crate::compile::HeavyPatterns;
use crate::resources::Catalog;

const LEFT_OUT: &str = "apply it again, corrected, or delete it: until then nothing is let through by it";
const OUTDATED: &str = "apply it again, corrected: until then a change of it is refused";
const HEAVY: &str = "nothing is refused for what stands, but a change that adds to it is";

/// Resources that are left out, others of which new ones would be refused, forbids that stop nothing, and nodes whose
/// patterns make too much work.
pub(super) fn stored(catalog: &Catalog, heavy: &[HeavyPatterns], idle: &ToldIdle) -> Vec<Finding> {
    let meshes = || catalog.meshes().iter();
    let left_out = meshes().flat_map(|(mesh, resources)| {
        resources.left_out().map(move |(kind, name, reason)| {
            error(
                format!("the stored {} {mesh}/{name} is not accepted, and left out: {reason}", kind.noun()),
                LEFT_OUT,
            )
        })
    });
    let outdated = meshes().flat_map(|(mesh, resources)| {
        resources.outdated().filter_map(move |(kind, name, problems)| {
            let (first, more) = problems.split_first()?;
            let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
            let what = format!("{} {mesh}/{name}", kind.noun());
            Some(warning(
                format!("{what} is still enforced, and would be refused today: {first}{more}"),
                OUTDATED,
            ))
        })
    });
    let heavy = heavy.iter().map(|heavy| warning(heavy.to_string(), HEAVY));
    let mut findings = each(left_out, "stored resources are left out", LEFT_OUT);
    findings.extend(idle.findings());
    findings.extend(each(outdated, "stored resources would be refused today", OUTDATED));
    findings.extend(each(heavy, "nodes have patterns that make too much work", HEAVY));
    findings
}
