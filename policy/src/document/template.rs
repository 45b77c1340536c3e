//! Reads the text of a template.

use hauberk_identity::{Name, TrustDomain};
use serde_json::Value;

use super::reader::{Grade, Text, ordinal};
use super::{PolicyProblem, Reader};
use crate::names::Namespace;
use crate::qualify::find_flaws;

/// The syntax trees of a template's statements, in the order of the text, their names as they are written; and of a
/// stored text what a new one would be refused for.
pub(crate) fn read_template(
    mesh: &Name,
    trust_domain: &TrustDomain,
    text: &str,
    from: Text,
) -> Result<(Vec<Value>, Vec<PolicyProblem>), Vec<PolicyProblem>> {
    let mut reader = Reader::new(text, from);
    reader.check_size();
    let set = reader.finish_stage(|reader| {
        let set = reader.parse_any();
        if set.templates().next().is_none() && reader.has_no_problems() {
            let help = "write ?principal or ?resource where a policy fills in a name, or make it a Policy";
            let message = "a template has no slot".to_owned();
            reader.report_as(Grade::Untidy, 0, 1, message, Some(help.to_owned()));
        }
        set
    })?;
    reader.finish_stage(|reader| reader.validate(&set))?;
    let names = Namespace::of(trust_domain, mesh);
    let trees = reader.finish_stage(|reader| {
        let of_templates = set.templates().map(|template| (template.id(), template.to_json().ok()));
        let of_policies = set.policies().map(|policy| (policy.id(), policy.to_json().ok()));
        let mut statements: Vec<_> = of_templates.chain(of_policies).collect();
        statements.sort_by_key(|(id, _)| ordinal(id));
        let mut trees = Vec::with_capacity(statements.len());
        for (id, tree) in statements {
            let extent = reader.extent_of(id);
            match tree {
                Some(tree) => {
                    reader.report_flaws(extent, find_flaws(&tree, &names));
                    trees.push(tree);
                }
                None => reader.report_at(extent, "this statement has no syntax tree", None),
            }
        }
        trees
    })?;
    Ok((trees, reader.outdated()))
}
