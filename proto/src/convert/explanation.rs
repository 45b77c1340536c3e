//! Why a decision was made, as it is told to admins.

use hauberk_policy::{Effect, Mismatch, Mode, PolicyNote};

use crate::agent::v1 as wire;

/// The message for how one policy met a question.
pub fn encode_policy_note(note: &PolicyNote) -> wire::PolicyTrace {
    let PolicyNote { name, effect, mode, principal, action, resource, mismatches, error } = note;
    let is_scope = |mismatch: &Mismatch| matches!(&*mismatch.field, "principal" | "action" | "resource");
    let differences = mismatches.iter().map(Mismatch::to_string).chain(error.clone());
    wire::PolicyTrace {
        policy: name.to_string(),
        effect: match effect {
            Effect::Allow => "permit",
            Effect::Deny => "forbid",
        }
        .to_owned(),
        audit: *mode == Mode::Audit,
        principal_matched: *principal,
        action_matched: *action,
        resource_matched: *resource,
        conditions_held: error.is_none() && mismatches.iter().all(is_scope),
        difference: differences.collect::<Vec<_>>().join("; "),
    }
}
