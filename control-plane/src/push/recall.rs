//! Why a decision was made, found out without the agent that made it: its node's view is asked the same question again.

use std::sync::Arc;

use hauberk_identity::SpiffeId;
use hauberk_policy::{
    Action, Attempt, Caller, CanonicalPath, Engine, Explanation, OnBehalfOf, Protocol, Question, Reason,
};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::{
    Body, Circumstances, asks_policies, decode_circumstances, decode_view, encode_explanation,
    encode_policy_note, explains,
};

use crate::bulkhead::Bulkhead;
use crate::compile::{Compilation, CompiledView};

/// What has become of the rules since a decision.
#[derive(Debug, Clone)]
pub struct RulesSince {
    /// The revision at which they last changed; none where the node is there no longer.
    pub revision: Option<u64>,
    /// What they decide of the same request, as it was recorded.
    pub now: Result<agent::DecisionDetail, Undecidable>,
}

/// Why nothing can be said of what present rules decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecidable {
    /// It was refused before any policy was asked.
    RefusedBefore,
    /// They read what was not recorded.
    FactsNotRecorded,
    /// The record is no request that the port would take.
    Unreadable,
    /// What was called is there no longer.
    Gone,
    /// Whoever asks has asked too much at once for it to be looked at.
    Busy,
}

/// The view that a node's decisions are made by now.
pub(super) enum Present {
    /// That which made the decision.
    Same(Arc<CompiledView>),
    /// Another one.
    Other { epoch: u64, view: Arc<CompiledView> },
    /// None can be made: its agents go on with what they have.
    NotMade,
    /// None, as there is no such node.
    Gone,
}

impl Undecidable {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefusedBefore => "refused_before_policies",
            Self::FactsNotRecorded => "facts_not_recorded",
            Self::Unreadable => "unreadable_record",
            Self::Gone => "gone",
            Self::Busy => "busy",
        }
    }
}

impl Present {
    /// That of the node which decided.
    pub(super) fn of(decision: &agent::Decision, compilation: &Compilation) -> Self {
        let node = decision.node.as_str();
        let Some(view) = compilation.nodes.get(node) else {
            return if compilation.node_uids.contains_key(node) { Self::NotMade } else { Self::Gone };
        };
        let (epoch, view) = (compilation.epoch, Arc::clone(view));
        let is_same = (decision.epoch, decision.revision) == (epoch, view.revision);
        if is_same { Self::Same(view) } else { Self::Other { epoch, view } }
    }
}

/// What has become of the rules since a decision; none where it was made by no view, or they are still the same. `asker`: where it
/// waits for its turn, and whose turn that is.
pub(super) async fn rules_since(
    decision: &agent::Decision,
    present: Present,
    (bulkhead, asker): (&Bulkhead, &str),
) -> Option<RulesSince> {
    let (epoch, view) = match present {
        _ if decision.node.is_empty() => return None,
        Present::Same(_) | Present::NotMade => return None,
        Present::Gone => return Some(RulesSince { revision: None, now: Err(Undecidable::Gone) }),
        Present::Other { epoch, view } => (epoch, view),
    };
    let revision = Some(view.revision);
    if Reason::parse(&decision.reason).is_none() {
        return Some(RulesSince { revision, now: Err(Undecidable::RefusedBefore) });
    }
    // What is known of the decision itself is told all the same.
    let Ok(turn) = bulkhead.turn(asker).await else {
        return Some(RulesSince { revision, now: Err(Undecidable::Busy) });
    };
    let decision = decision.clone();
    // Compiling a large view takes a while.
    let asked = turn.run(move || decide_now(epoch, &view, decision));
    Some(RulesSince { revision, now: asked.await.unwrap_or(Err(Undecidable::Unreadable)) })
}

fn decide_now(
    epoch: u64,
    view: &CompiledView,
    decision: agent::Decision,
) -> Result<agent::DecisionDetail, Undecidable> {
    let explanation = ask_again(view, &decision)?;
    let Circumstances { peer, gathered, query, .. } = decode_circumstances(&decision);
    let is_user_known = *gathered.on_behalf_of() != OnBehalfOf::NotLookedAt;
    if explanation.decision.lacks_facts(&peer, query.is_some(), is_user_known) {
        return Err(Undecidable::FactsNotRecorded);
    }
    let caller = decision.caller.clone();
    // Nobody was answered so.
    let asked = agent::Decision {
        id: String::new(),
        caller_serial: String::new(),
        status: 0,
        grpc_status: None,
        duration_us: 0,
        first_of_kind: false,
        epoch,
        revision: view.revision,
        ..decision
    };
    let mut detail = encode_explanation(explanation, asked);
    if let Some(decided) = &mut detail.decision {
        decided.caller = caller;
    }
    Ok(detail)
}

/// A kept decision alone, with why no policies are told.
pub(super) fn without_policies(decision: &agent::Decision, why: agent::NoPolicies) -> agent::DecisionDetail {
    let is_asked = asks_policies(&decision.reason);
    let no_policies = if is_asked { why } else { agent::NoPolicies::NotAsked };
    agent::DecisionDetail {
        decision: Some(decision.clone()),
        no_policies: no_policies.into(),
        ..agent::DecisionDetail::default()
    }
}

/// A kept decision, with what the policies said of it. `asker`: where it waits for its turn, and whose turn that is.
pub(super) async fn recall(
    decision: Arc<agent::Decision>,
    view: Arc<CompiledView>,
    (bulkhead, asker): (&Bulkhead, &str),
) -> agent::DecisionDetail {
    // What is known of the decision itself is told all the same.
    let Ok(turn) = bulkhead.turn(asker).await else {
        return without_policies(&decision, agent::NoPolicies::Busy);
    };
    // Compiling a large view takes a while.
    let kept = Arc::clone(&decision);
    let asked = turn.run(move || ask_again(&view, &kept));
    match asked.await {
        Ok(Ok(explanation)) if !explains(&explanation, &decision) => {
            let (now, then) = (explanation.decision.reason.as_str(), decision.reason.as_str());
            tracing::warn!(
                event = "replay_differs",
                now,
                then,
                "a kept decision comes out otherwise when it is made again"
            );
            without_policies(&decision, agent::NoPolicies::Differs)
        }
        Ok(Ok(explanation)) => {
            let policies: Vec<_> = explanation.policies.iter().map(encode_policy_note).collect();
            let alone = without_policies(&decision, agent::NoPolicies::Unspecified);
            agent::DecisionDetail {
                no_policies: if policies.is_empty() { alone.no_policies } else { 0 },
                policies,
                suggestion: explanation.command().unwrap_or_default(),
                for_users: explanation.for_users.iter().map(ToString::to_string).collect(),
                conditional: explanation.conditional.iter().map(ToString::to_string).collect(),
                ..alone
            }
        }
        Ok(Err(Undecidable::FactsNotRecorded)) => without_policies(&decision, agent::NoPolicies::Shortened),
        Ok(Err(_)) | Err(_) => without_policies(&decision, agent::NoPolicies::Differs),
    }
}

fn ask_again(view: &CompiledView, decision: &agent::Decision) -> Result<Explanation, Undecidable> {
    use Undecidable::{FactsNotRecorded, Gone, Unreadable};
    let view = decode_view(&view.signed.view).map_err(|_| Unreadable)?;
    let Body::Node(node) = view.body else { return Err(Unreadable) };
    let port = u16::try_from(decision.port).map_err(|_| Unreadable)?;
    let (scope, policies) = match (decision.external.as_str(), decision.external_host.as_str()) {
        ("", "") => (node.scope, node.policies),
        (external, _) => {
            let mut externals = node.egress.externals.iter();
            let external = externals.find(|own| own.name == *external).ok_or(Gone)?;
            (external.scope(&node.scope.trust_domain, &node.scope.mesh), node.egress.policies)
        }
    };
    let protocol = scope.ports.iter().find(|scope| scope.number == port).ok_or(Gone)?.protocol;
    let caller = match decision.caller.as_str() {
        "" => Caller::Anonymous,
        id => Caller::Peer(SpiffeId::parse(id).map_err(|_| Unreadable)?),
    };
    let engine = Engine::compile(scope, &policies, None).map_err(|_| Unreadable)?;
    let known = decode_circumstances(decision);
    let Circumstances { peer, moment, gathered, query, method, is_shortened: false } = known else {
        return Err(FactsNotRecorded);
    };
    let (caller, peer, gathered) = (&caller, &peer, &gathered);
    let explain = |attempt| Ok(engine.explain(&Question { caller, peer, port, attempt, moment }));
    let (method, path, upgrade) = match protocol {
        Protocol::Tcp => return explain(Attempt::Stream),
        Protocol::Grpc => ("POST", format!("/{}", decision.path.trim_start_matches('/')), false),
        Protocol::Http | Protocol::Http2 => {
            (method.as_str(), decision.path.clone(), decision.action == Action::Upgrade.as_str())
        }
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{path}{query}");
    let path = CanonicalPath::parse_with(method, &target, engine.escaped_slashes(port));
    let path = path.map_err(|_| Unreadable)?;
    explain(Attempt::Request { method, path: &path, upgrade, gathered })
}
