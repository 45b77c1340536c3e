//! What was recorded of calls, so that others can decide them again.

use std::net::IpAddr;
use std::sync::Arc;

use hauberk_identity::SpiffeId;
use hauberk_policy::{Action, Caller, RecordedCall, RecordedFlow};

use super::question::{Circumstances, decode_facts};
use crate::agent::v1 as wire;

/// Reads what was recorded of calls that are alike, but for how conditions came out: whose these are is for those to find who know
/// policies. `None` where it is no record of ours.
pub fn decode_flow(summary: &wire::FlowSummary) -> Option<RecordedFlow> {
    let caller = match &*summary.caller {
        "" => Caller::Anonymous,
        id => Caller::Peer(SpiffeId::parse(id).ok()?),
    };
    let action = Action::ALL.into_iter().find(|action| action.as_str() == summary.action)?;
    let calls =
        summary.exemplars.iter().map(|exemplar| decode_call(action, exemplar)).collect::<Option<_>>()?;
    let port = u16::try_from(summary.port).ok()?;
    Some(RecordedFlow {
        caller,
        port,
        action,
        route: summary.route.as_str().into(),
        calls,
        others: summary.others,
        outcomes: Arc::default(),
    })
}

fn decode_call(action: Action, exemplar: &wire::FlowExemplar) -> Option<RecordedCall> {
    let address = match &*exemplar.peer_address {
        "" => None,
        text => Some(text.parse::<IpAddr>().ok()?),
    };
    let Circumstances { peer, moment, gathered, query, method, is_shortened: false } =
        decode_facts(exemplar.facts.clone()?, address)
    else {
        return None;
    };
    let (method, mut target) = match action {
        // Written without its slash, as templates are.
        Action::Call => ("POST".to_owned(), format!("/{}", exemplar.path)),
        _ => (method, exemplar.path.clone()),
    };
    if let Some(query) = query {
        target = format!("{target}?{query}");
    }
    Some(RecordedCall {
        peer,
        moment,
        method: method.into(),
        target: target.into(),
        gathered,
        is_query_known: exemplar.query_known,
        count: exemplar.count,
    })
}
