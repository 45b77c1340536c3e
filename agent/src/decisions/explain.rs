//! Why a remembered decision was made.

use hauberk_policy::{Attempt, CanonicalPath, Explanation, Gathered, Question, Verb};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::convert::{encode_policy_note, explains};

use super::facts::Request;
use super::memory::Kept;

/// Decides again by the view that decided, if it is still there; otherwise, and where something else came out because
/// policies were not asked then, tells what was recorded.
pub(super) fn explain(kept: &Kept) -> pb::DecisionDetail {
    let decision = kept.to_proto();
    let again = decide_again(kept).filter(|explanation| explains(explanation, &decision));
    let mut detail = pb::DecisionDetail {
        decision: Some(decision),
        policies: Vec::new(),
        suggestion: String::new(),
        for_users: Vec::new(),
    };
    if let Some(explanation) = again {
        detail.policies = explanation.policies.iter().map(encode_policy_note).collect();
        detail.suggestion =
            explanation.suggestion.map(|grant| grant.command(Verb::Allow)).unwrap_or_default();
        detail.for_users = explanation.for_users.iter().map(ToString::to_string).collect();
    }
    detail
}

fn decide_again(kept: &Kept) -> Option<Explanation> {
    let view = kept.view.as_ref()?;
    if kept.is_shortened() {
        return None;
    }
    let facts = kept.facts();
    let (caller, peer, port, moment) = (facts.caller, facts.peer, facts.port, facts.moment);
    let engine = match facts.leaves_to {
        None => &view.engine,
        // Where no external service has the host there are no policies to ask.
        Some(to) => &view.external(to.external)?.engine,
    };
    let explain = |attempt| Some(engine.explain(&Question { caller, peer, port, attempt, moment }));
    let gathered = facts.gathered.map_or(Gathered::nothing(), |gathered| gathered);
    match facts.request {
        Request::Connect => explain(Attempt::Stream),
        Request::Http { method, path, is_upgrade: upgrade } => {
            let target = facts.query.map(|query| format!("{path}?{query}"));
            let target = target.as_deref().unwrap_or(path);
            let path = CanonicalPath::parse_with(method, target, engine.escaped_slashes(port)).ok()?;
            explain(Attempt::Request { method, path: &path, upgrade, gathered })
        }
        Request::Grpc { path } => {
            let path = CanonicalPath::parse("POST", path).ok()?;
            explain(Attempt::Request { method: "POST", path: &path, upgrade: false, gathered })
        }
    }
}
