//! Why a remembered decision was made.

use hauberk_policy::{Attempt, CanonicalPath, Explanation, Gathered, Question};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::convert::{asks_policies, encode_policy_note, explains};

use super::facts::Request;
use super::memory::Kept;

/// Decides again by the view that decided, if it is still there; otherwise, and where something else came out because
/// policies were not asked then, tells what was recorded, and why no more.
pub(super) fn explain(kept: &Kept) -> pb::DecisionDetail {
    let decision = kept.to_proto();
    let again = match decide_again(kept) {
        Ok(explanation) if explains(&explanation, &decision) => Ok(explanation),
        Ok(_) => Err(pb::NoPolicies::Differs),
        Err(why) => Err(why),
    };
    let is_asked = asks_policies(&decision.reason);
    let mut detail = pb::DecisionDetail {
        decision: Some(decision),
        policies: Vec::new(),
        suggestion: String::new(),
        for_users: Vec::new(),
        conditional: Vec::new(),
        no_policies: pb::NoPolicies::Unspecified.into(),
    };
    let told = again.as_ref().map(|explanation| !explanation.policies.is_empty());
    detail.no_policies = match told {
        Ok(true) => pb::NoPolicies::Unspecified,
        _ if !is_asked => pb::NoPolicies::NotAsked,
        Ok(false) => pb::NoPolicies::Unspecified,
        Err(why) => *why,
    }
    .into();
    if let Ok(explanation) = again {
        detail.policies = explanation.policies.iter().map(encode_policy_note).collect();
        detail.suggestion = explanation.command().unwrap_or_default();
        detail.for_users = explanation.for_users.iter().map(ToString::to_string).collect();
        detail.conditional = explanation.conditional.iter().map(ToString::to_string).collect();
    }
    detail
}

fn decide_again(kept: &Kept) -> Result<Explanation, pb::NoPolicies> {
    use pb::NoPolicies::{Differs, NotAsked, RulesGone, Shortened};
    let view = kept.view.as_ref().ok_or(RulesGone)?;
    if kept.is_shortened() {
        return Err(Shortened);
    }
    let facts = kept.facts();
    let (caller, peer, port, moment) = (facts.caller, facts.peer, facts.port, facts.moment);
    let engine = match facts.leaves_to {
        None => &view.engine,
        // Where no external service has the host there are no policies to ask.
        Some(to) => &view.external(to.external).ok_or(NotAsked)?.engine,
    };
    let explain = |attempt| Ok(engine.explain(&Question { caller, peer, port, attempt, moment }));
    let gathered = facts.gathered.map_or(Gathered::nothing(), |gathered| gathered);
    let (method, path, upgrade) = match facts.request {
        Request::Connect => return explain(Attempt::Stream),
        Request::Http { method, path, is_upgrade } => (method, path, is_upgrade),
        Request::Grpc { path } => ("POST", path, false),
    };
    let target = facts.query.map(|query| format!("{path}?{query}"));
    let target = target.as_deref().unwrap_or(path);
    let path = CanonicalPath::parse_with(method, target, engine.escaped_slashes(port));
    let path = path.map_err(|_| Differs)?;
    explain(Attempt::Request { method, path: &path, upgrade, gathered })
}
