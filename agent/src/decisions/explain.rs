//! Why a remembered decision was made.

use hauberk_policy::{
    Attempt, CanonicalPath, Effect, Explanation, Mismatch, Mode, PolicyNote, Question, Verb,
};
use hauberk_proto::agent::v1 as pb;

use super::facts::Request;
use super::memory::Kept;

/// Decides again by the view that decided, if it is still there; otherwise tells what was recorded.
pub(super) fn explain(kept: &Kept) -> pb::DecisionDetail {
    let mut detail = pb::DecisionDetail {
        decision: Some(kept.to_proto()),
        policies: Vec::new(),
        suggestion: String::new(),
    };
    if let Some(explanation) = decide_again(kept) {
        detail.policies = explanation.policies.into_iter().map(trace).collect();
        detail.suggestion =
            explanation.suggestion.map(|grant| grant.command(Verb::Allow)).unwrap_or_default();
    }
    detail
}

fn decide_again(kept: &Kept) -> Option<Explanation> {
    let view = kept.view.as_ref()?;
    if kept.is_shortened() {
        return None;
    }
    let facts = kept.facts();
    let explain =
        |attempt| Some(view.engine.explain(&Question { caller: facts.caller, port: facts.port, attempt }));
    match facts.request {
        Request::Connect => explain(Attempt::Stream),
        Request::Http { method, path, is_upgrade } => {
            let path = CanonicalPath::parse(method, path).ok()?;
            explain(Attempt::Request { method, path: &path, upgrade: is_upgrade })
        }
        Request::Grpc { path } => {
            let path = CanonicalPath::parse("POST", path).ok()?;
            explain(Attempt::Request { method: "POST", path: &path, upgrade: false })
        }
    }
}

fn trace(note: PolicyNote) -> pb::PolicyTrace {
    let PolicyNote { name, effect, mode, principal, action, resource, mismatches, error } = note;
    let is_scope = |field: &str| matches!(field, "principal" | "action" | "resource");
    let differences: Vec<String> = mismatches.iter().map(Mismatch::to_string).chain(error.clone()).collect();
    pb::PolicyTrace {
        policy: name.to_string(),
        effect: match effect {
            Effect::Allow => "permit",
            Effect::Deny => "forbid",
        }
        .to_owned(),
        audit: mode == Mode::Audit,
        principal_matched: principal,
        action_matched: action,
        resource_matched: resource,
        conditions_held: error.is_none() && mismatches.iter().all(|mismatch| is_scope(&mismatch.field)),
        difference: differences.join("; "),
    }
}
