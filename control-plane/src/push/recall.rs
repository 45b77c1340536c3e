//! Why a decision was made, found out without the agent that made it: its node's view is asked the same question again.

use std::sync::Arc;

use hauberk_identity::SpiffeId;
use hauberk_policy::{Action, Attempt, Caller, CanonicalPath, Engine, Explanation, Protocol, Question, Verb};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::{
    Body, Circumstances, decode_circumstances, decode_view, encode_policy_note, explains,
};

use crate::compile::{Compilation, CompiledView};

/// The view that a decision was made by, if it still stands.
pub(super) fn view_of(decision: &agent::Decision, compilation: &Compilation) -> Option<Arc<CompiledView>> {
    let view = compilation.nodes.get(decision.node.as_str())?;
    let made_by = (decision.epoch, decision.revision);
    (made_by == (compilation.epoch, view.revision)).then(|| Arc::clone(view))
}

/// A kept decision, with what the policies said where the view it was made by still stands.
pub(super) async fn recall(
    decision: Arc<agent::Decision>,
    view: Option<Arc<CompiledView>>,
) -> agent::DecisionDetail {
    let known = agent::DecisionDetail {
        decision: Some(agent::Decision::clone(&decision)),
        ..agent::DecisionDetail::default()
    };
    let Some(view) = view else { return known };
    // Compiling a large view takes a while.
    let asked = tokio::task::spawn_blocking(move || ask_again(&view, &decision));
    match asked.await {
        Ok(Some(explanation))
            if !known.decision.as_ref().is_some_and(|decision| explains(&explanation, decision)) =>
        {
            let (now, then) = (explanation.decision.reason.as_str(), known.decision.as_ref());
            let then = then.map(|decision| decision.reason.as_str()).unwrap_or_default();
            tracing::warn!(
                event = "replay_differs",
                now,
                then,
                "a kept decision comes out otherwise when it is made again"
            );
            known
        }
        Ok(Some(explanation)) => agent::DecisionDetail {
            policies: explanation.policies.iter().map(encode_policy_note).collect(),
            suggestion: explanation.suggestion.map(|grant| grant.command(Verb::Allow)).unwrap_or_default(),
            for_users: explanation.for_users.iter().map(ToString::to_string).collect(),
            ..known
        },
        Ok(None) | Err(_) => known,
    }
}

fn ask_again(view: &CompiledView, decision: &agent::Decision) -> Option<Explanation> {
    let Body::Node(node) = decode_view(&view.signed.view).ok()?.body else { return None };
    let port = u16::try_from(decision.port).ok()?;
    let (scope, policies) = match (decision.external.as_str(), decision.external_host.as_str()) {
        ("", "") => (node.scope, node.policies),
        (external, _) => {
            let mut externals = node.egress.externals.iter();
            let external = externals.find(|own| own.name == *external)?;
            (external.scope(&node.scope.trust_domain, &node.scope.mesh), node.egress.policies)
        }
    };
    let protocol = scope.ports.iter().find(|scope| scope.number == port)?.protocol;
    let caller = match decision.caller.as_str() {
        "" => Caller::Anonymous,
        id => Caller::Peer(SpiffeId::parse(id).ok()?),
    };
    let engine = Engine::compile(scope, &policies, None).ok()?;
    let known = decode_circumstances(decision);
    let Circumstances { peer, moment, gathered, query, method, is_shortened: false } = known else {
        return None;
    };
    let (caller, peer, gathered) = (&caller, &peer, &gathered);
    let explain = |attempt| Some(engine.explain(&Question { caller, peer, port, attempt, moment }));
    match protocol {
        Protocol::Tcp => explain(Attempt::Stream),
        Protocol::Grpc => {
            let path = format!("/{}", decision.path.trim_start_matches('/'));
            let path = CanonicalPath::parse("POST", &path).ok()?;
            explain(Attempt::Request { method: "POST", path: &path, upgrade: false, gathered })
        }
        Protocol::Http | Protocol::Http2 => {
            let upgrade = decision.action == Action::Upgrade.as_str();
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let target = format!("{}{query}", decision.path);
            let path = CanonicalPath::parse_with(&method, &target, engine.escaped_slashes(port)).ok()?;
            explain(Attempt::Request { method: &method, path: &path, upgrade, gathered })
        }
    }
}
