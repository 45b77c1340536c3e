//! Programs beside an agent that got no identity: the audit log has them, for whoever enrolls them.

use std::collections::HashSet;
use std::sync::Arc;

use hauberk_proto::agent::v1::WorkloadDenied;

use super::Session;
use crate::audit::{Act, Actor};
use crate::enrollment::workload_object;
use crate::push::holding::workloads;
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
    // What an admin has written is told in full; an agent may write anything.
    let entries = workloads(&push.compilation.borrow(), peer);
    let entry = entries.entries.iter().find(|entry| entry.enrollment == nearest);
    let of_rule: HashSet<String> = entry
        .into_iter()
        .flat_map(|entry| &entry.selectors)
        .map(|selector| without_value(selector))
        .collect();
    let (missing, of_rule) = in_words(&missing, &of_rule);
    let mut why = match nearest.as_str() {
        "" => "no enrollment has this node as its parent".to_owned(),
        _ => format!("missing {missing}"),
    };
    why += &format!("; it has {}", in_words(&holds, &HashSet::new()).0);
    if !problem.is_empty() {
        why += &format!("; {}", shown(&problem));
    }
    if left_out > 0 {
        why = format!("({left_out} programs before this are not recorded) {why}");
    }
    let source = peer.address.map(|address| address.to_string()).unwrap_or_default();
    let actor = Actor { name: peer.spiffe_id.to_string(), source };
    let act = Act::refused(&actor, ACTION, workload_object(&nearest, peer.instance), why).naming(of_rule);
    let audit = Arc::clone(&push.audit);
    push.tasks.spawn(async move {
        if let Err(error) = audit.record(act).await {
            tracing::error!(event = "audit_failed", %error, "that a program got no identity could not be recorded");
        }
    });
}

/// Those of a rule whole, and how many bytes they have.
fn in_words(selectors: &[String], of_rule: &HashSet<String>) -> (String, usize) {
    let mut written = 0;
    let words = selectors.iter().take(MOST_SELECTORS).map(|selector| {
        let told = without_value(selector);
        if !of_rule.contains(&told) {
            return shown(&told);
        }
        written += told.len();
        told
    });
    let words: Vec<_> = words.collect();
    let text = if words.is_empty() { "nothing that can be told".to_owned() } else { words.join(", ") };
    (text, written)
}

/// Agents tell no values of variables. Nor are they recorded of one that does.
fn without_value(selector: &str) -> String {
    match selector.split_once('=') {
        Some((name, _)) if selector.starts_with("docker:env:") => format!("{name}=…"),
        _ => selector.to_owned(),
    }
}
