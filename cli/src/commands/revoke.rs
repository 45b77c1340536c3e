//! `hauberk revoke` and `hauberk quarantine`

use hauberk_identity::NodeName;
use hauberk_proto::admin::v1::revoke_request::Target;
use hauberk_proto::admin::v1::{NodeTarget, QuarantineRequest, RevokeRequest};
use tokio::time::Instant;

use crate::arguments::{Global, Quarantine, Revoke, WaitEnforced};
use crate::commands::{apply, wait};
use crate::error::CommandError;
use crate::kinds::{node_label, node_named};
use crate::output;
use crate::session::Session;

/// The digits of a certificate's serial number.
const SERIAL_DIGITS: usize = 32;

/// Runs `revoke`.
///
/// # Errors
/// There is nothing of that name, what the control plane answers, or not enforced in time.
pub(crate) async fn revoke(global: &Global, command: Revoke) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let is_unrecorded = matches!(command, Revoke::Instance { unrecorded: true, .. });
    let (target, said, waiting) = match command {
        Revoke::Serial { serial, wait } => {
            check_whole(&serial, session.of_context())?;
            (Target::Serial(serial.clone()), format!("certificate/{serial}"), wait)
        }
        Revoke::Instance { id, unrecorded: _, wait } => {
            (Target::InstanceId(id.clone()), format!("instance/{id}"), wait)
        }
        Revoke::Token { id, wait } => (Target::TokenId(id.clone()), format!("token/{id}"), wait),
        Revoke::Node { name, wait } => of_node(&session, node_named(&name, NodeName::Node)?, wait).await?,
        Revoke::Gateway { name, wait } => {
            of_node(&session, node_named(&name, NodeName::Gateway)?, wait).await?
        }
    };
    let is_instance = matches!(target, Target::InstanceId(_));
    let begun = Instant::now();
    let request = RevokeRequest { target: Some(target), unrecorded: is_unrecorded };
    let answer = session.revocations().revoke(request).await?.into_inner();
    match answer.serials.len() {
        0 if answer.token_deleted => {
            output::line(format_args!("{said} deleted; nobody holds a certificate by it"))?
        }
        // By an id that it has from elsewhere, as from a serial number after a restore.
        0 if is_instance => {
            output::line(format_args!("{said} is revoked; no certificate of it that was good is on record"))?
        }
        0 => output::line(format_args!("{said} unchanged: it was revoked before"))?,
        1 => output::line(format_args!("{said} revoked (1 certificate)"))?,
        count => output::line(format_args!("{said} revoked ({count} certificates)"))?,
    }
    if answer.left > 0 {
        output::note(left_in_words(answer.left, &answer.left_of_admin, session.of_context()));
        for serial in &answer.left_serials {
            output::note(format_args!("  {}", output::printable(serial)));
        }
    }
    if !answer.tokens.is_empty() {
        let tokens: Vec<_> = answer.tokens.iter().map(|id| output::printable(id).to_string()).collect();
        output::note(format_args!(
            "new instances may still join by {}: `hauberk token delete ID{}` takes one back",
            tokens.join(", "),
            session.of_context()
        ));
    }
    apply::tell_warnings(&answer.unread);
    finish(&session, answer.revision, waiting, begun).await
}

/// What somebody has cut for a narrow place names no certificate, and is no reason to suspect the registry.
fn check_whole(serial: &str, of_context: &str) -> Result<(), CommandError> {
    let is_shorter = serial.len() < SERIAL_DIGITS && serial.chars().all(|digit| digit.is_ascii_hexdigit());
    if !is_shorter && !serial.ends_with(['…', '.']) {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "`{serial}` is not a whole serial number, which has {SERIAL_DIGITS} digits: `hauberk get \
         certificates{of_context}` and `hauberk describe instance ID{of_context}` show them"
    )))
}

/// What stays good beside a certificate, and what takes that too. `admin`: whose it is; empty: an instance's.
fn left_in_words(count: u32, admin: &str, of_context: &str) -> String {
    let what = if admin.is_empty() { "certificate" } else { "credential" };
    let more = if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    if admin.is_empty() {
        return format!(
            "the instance holds {more} more that stay good; `hauberk revoke instance{of_context}` takes them all"
        );
    }
    let admin = output::printable(admin);
    format!(
        "the admin {admin} holds {more} more that stay good; `hauberk admin delete {admin}{of_context}` takes them all"
    )
}

/// All instances of a node or gateway, and what it is called.
async fn of_node(
    session: &Session,
    node: NodeName,
    wait: WaitEnforced,
) -> Result<(Target, String, WaitEnforced), CommandError> {
    let target = NodeTarget { mesh: session.mesh().await?, name: node.to_string() };
    Ok((Target::Node(target), node_label(&node), wait))
}

/// Runs `quarantine`.
///
/// # Errors
/// There is no such node, what the control plane answers, or not enforced in time.
pub(crate) async fn quarantine(global: &Global, command: Quarantine) -> Result<(), CommandError> {
    let (node, undo, wait) = match command {
        Quarantine::Node { name, undo, wait } => (node_named(&name, NodeName::Node)?, undo, wait),
        Quarantine::Gateway { name, undo, wait } => (node_named(&name, NodeName::Gateway)?, undo, wait),
    };
    let session = Session::open(global).await?;
    let mesh = session.mesh().await?;
    let begun = Instant::now();
    let target = Some(NodeTarget { mesh, name: node.to_string() });
    let request = QuarantineRequest { node: target, undo };
    let answer = session.revocations().quarantine(request).await?.into_inner();
    let said = node_label(&node);
    output::line(match (answer.changed, undo) {
        (true, false) => format!("{said} is in quarantine"),
        (true, true) => format!("{said} is out of quarantine"),
        (false, false) => format!("{said} unchanged: it is in quarantine already"),
        (false, true) => format!("{said} unchanged: it is not in quarantine"),
    })?;
    finish(&session, answer.revision, wait, begun).await
}

async fn finish(
    session: &Session,
    revision: u64,
    waiting: WaitEnforced,
    begun: Instant,
) -> Result<(), CommandError> {
    let of_context = session.of_context();
    match waiting.timeout {
        // Of every mesh: nobody anywhere may believe a revoked certificate. There is no revision 0 to wait for.
        Some(timeout) if revision > 0 => {
            let waited = wait::until_enforced(session, revision, "", (begun, timeout)).await;
            if waited.is_err() {
                output::note(format_args!(
                    "it is recorded all the same: `hauberk wait --revision {revision}{of_context}` goes on waiting for the agents"
                ));
            }
            waited
        }
        Some(_) => Ok(()),
        None => {
            output::note(format_args!(
                "revision {revision}; until all agents enforce it: hauberk wait --revision {revision}{of_context}"
            ));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_that_was_cut_is_told_from_one_that_nobody_has() {
        for cut in ["3697ea35", "3697ea35…", "3697ea35...", "3697EA35"] {
            let CommandError::Usage(message) = check_whole(cut, " --context prod").unwrap_err() else {
                panic!("{cut}")
            };
            assert!(message.contains("32 digits: `hauberk get certificates --context prod`"), "{message}");
        }
        for whole in ["3697ea3597b4c1d2e3f40516273849aa", "no-serial"] {
            check_whole(whole, "").unwrap();
        }
    }

    #[test]
    fn what_stays_good_is_said_with_what_takes_it() {
        assert_eq!(
            left_in_words(1, "", ""),
            "the instance holds 1 certificate more that stay good; `hauberk revoke instance` takes them all"
        );
        assert_eq!(
            left_in_words(2, "ada", " --context prod"),
            "the admin ada holds 2 credentials more that stay good; `hauberk admin delete ada --context prod` takes them all"
        );
    }
}
