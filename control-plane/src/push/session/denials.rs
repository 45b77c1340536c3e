//! Programs beside an agent that got no identity: the audit log has them, for whoever enrolls them.

use std::sync::Arc;

use hauberk_proto::agent::v1::WorkloadDenied;

use super::Session;
use crate::audit::{Act, Actor};
use crate::enrollment::workload_object;
use crate::push::incoming::shown;

/// As audit records name it.
const ACTION: &str = "workload.deny";

/// The most selectors that are recorded of each kind.
const MOST_SELECTORS: usize = 32;

/// Records what an agent says, as far as it has not said too much lately: a program that asks in a loop is told once by its agent,
/// and however many there are, an agent fills no log.
pub(super) fn hear(session: &mut Session<'_>, message: WorkloadDenied) {
    let (push, peer) = (session.push, session.peer);
    let WorkloadDenied { nearest, missing, holds, problem, left_out } = message;
    let left_out = match push.shares.denial(peer.instance, push.clock.now()) {
        Some(dropped) => dropped.saturating_add(left_out),
        None => return,
    };
    let mut why = match nearest.as_str() {
        "" => "no enrollment has this node as its parent".to_owned(),
        _ => format!("missing {}", in_words(missing)),
    };
    why += &format!("; it has {}", in_words(holds));
    if !problem.is_empty() {
        why += &format!("; {}", shown(&problem));
    }
    if left_out > 0 {
        why = format!("({left_out} programs before this are not recorded) {why}");
    }
    let source = peer.address.map(|address| address.to_string()).unwrap_or_default();
    let actor = Actor { name: peer.spiffe_id.to_string(), source };
    let act = Act::refused(&actor, ACTION, workload_object(&nearest, peer.instance), why);
    let audit = Arc::clone(&push.audit);
    push.tasks.spawn(async move {
        if let Err(error) = audit.record(act).await {
            tracing::error!(event = "audit_failed", %error, "that a program got no identity could not be recorded");
        }
    });
}

/// Agents tell no values of variables. Nor are they recorded of one that does.
fn in_words(selectors: Vec<String>) -> String {
    let words = selectors.iter().take(MOST_SELECTORS).map(|selector| match selector.split_once('=') {
        Some((name, _)) if selector.starts_with("docker:env:") => format!("{}=…", shown(name)),
        _ => shown(selector),
    });
    let words: Vec<_> = words.collect();
    if words.is_empty() { "nothing that can be told".to_owned() } else { words.join(", ") }
}
