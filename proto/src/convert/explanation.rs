//! Why a decision was made, as it is told to admins.

use hauberk_policy::{Effect, Explanation, Mismatch, Mode, PolicyNote};

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

/// Whether a question that was asked again came out as it was decided. Grounds of another outcome explain nothing: what
/// was refused before policies were asked would not be let through by any policy.
pub fn explains(explanation: &Explanation, decision: &wire::Decision) -> bool {
    let found = &explanation.decision;
    let is_allowed = matches!(decision.verdict(), wire::Verdict::Allow | wire::Verdict::AuditAllow);
    found.is_allowed() == is_allowed
        && found.reason.as_str() == decision.reason
        && found.policies.iter().map(|name| &**name).eq(decision.policies.iter().map(String::as_str))
}
