//! Why a decision was made, as it is told to admins.

use hauberk_policy::{Effect, Explanation, Mismatch, Mode, PolicyNote, Reason};

use crate::agent::v1 as wire;

/// The message for how one policy met a question.
pub fn encode_policy_note(note: &PolicyNote) -> wire::PolicyTrace {
    let PolicyNote {
        name,
        effect,
        mode,
        principal,
        action,
        resource,
        mismatches,
        lacks_user: _,
        is_for_others: _,
        error,
    } = note;
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

/// Completes what is known of a decision with what the policies said.
pub fn encode_explanation(explanation: Explanation, known: wire::Decision) -> wire::DecisionDetail {
    let suggestion = explanation.command().unwrap_or_default();
    let Explanation {
        mesh: _,
        caller,
        attempt: _,
        decision,
        policies,
        suggestion: _,
        for_users,
        conditional,
    } = explanation;
    let verdict = match (decision.effect, decision.reason) {
        (Effect::Allow, Reason::AuditDefaultAllow) => wire::Verdict::AuditAllow,
        (Effect::Allow, _) => wire::Verdict::Allow,
        (Effect::Deny, _) => wire::Verdict::Deny,
    };
    let audit_verdict = match decision.audit.as_ref().map(|audit| audit.effect) {
        Some(effect) if effect != decision.effect => match effect {
            Effect::Allow => wire::Verdict::Allow,
            Effect::Deny => wire::Verdict::Deny,
        },
        _ => wire::Verdict::Unspecified,
    };
    // A route is named by its port and its template.
    let resource = decision.resource.as_deref().unwrap_or_default();
    let route = resource.split_once(' ').map_or("", |(_port, template)| template);
    let decided = wire::Decision {
        caller,
        action: decision.action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
        route: route.to_owned(),
        verdict: verdict.into(),
        reason: decision.reason.as_str().to_owned(),
        policies: decision.policies.iter().map(ToString::to_string).collect(),
        audit_verdict: audit_verdict.into(),
        ..known
    };
    let no_policies = match policies.is_empty() && !asks_policies(&decided.reason) {
        true => wire::NoPolicies::NotAsked,
        false => wire::NoPolicies::Unspecified,
    };
    wire::DecisionDetail {
        no_policies: no_policies.into(),
        decision: Some(decided),
        policies: policies.iter().map(encode_policy_note).collect(),
        suggestion,
        for_users: for_users.iter().map(ToString::to_string).collect(),
        conditional: conditional.iter().map(ToString::to_string).collect(),
    }
}

/// Whether policies were asked before a decision was made for this reason.
pub fn asks_policies(reason: &str) -> bool {
    let is_decided_before = |reason| {
        matches!(
            reason,
            Reason::AmbiguousPath
                | Reason::NoSuchPort
                | Reason::NotAPrincipal
                | Reason::TrustDomainNotFederated
                | Reason::UndeclaredRoute
                | Reason::UserIssuerNotTaken
                | Reason::UserMissing
                | Reason::WrongProtocol
        )
    };
    // What is no reason of policies was a reason to refuse before.
    Reason::parse(reason).is_some_and(|reason| !is_decided_before(reason))
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
