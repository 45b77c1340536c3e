//! `hauberk revoke` and `hauberk quarantine`

use hauberk_identity::{InstanceId, NodeName, Serial};
use hauberk_proto::admin::v1::revoke_request::Target;
use hauberk_proto::admin::v1::{NodeTarget, QuarantineRequest, RevokeRequest, RevokeResponse};
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
        output::note(left_in_words(&answer, session.of_context()));
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

/// What stays good beside a certificate, and what takes that too.
fn left_in_words(answer: &RevokeResponse, of_context: &str) -> String {
    let what = if answer.left_of_admin.is_empty() { "certificate" } else { "credential" };
    let more = if answer.left == 1 { format!("1 {what}") } else { format!("{} {what}s", answer.left) };
    if !answer.left_of_admin.is_empty() {
        let admin = output::printable(&answer.left_of_admin);
        return format!(
            "the admin {admin} holds {more} more that stay good; `hauberk admin delete {admin}{of_context}` takes them all"
        );
    }
    match instance_of(answer) {
        Some(id) => format!(
            "the instance {id} holds {more} more that stay good; `hauberk revoke instance {id}{of_context}` takes them \
             all"
        ),
        None => format!(
            "its instance holds {more} more that stay good; `hauberk get certificates{of_context}` shows which \
             instance that is"
        ),
    }
}

/// Whose certificates those are that stay good. Where an older control plane does not say it, the numbers of most
/// certificates do.
fn instance_of(answer: &RevokeResponse) -> Option<InstanceId> {
    let told = InstanceId::parse(&answer.left_of_instance).ok();
    told.or_else(|| answer.left_serials.iter().find_map(|serial| serial.parse::<Serial>().ok()?.instance()))
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
        let instance = InstanceId::from_random([7; 8]);
        let of_instance = |left_of_instance: String, serial: Serial| RevokeResponse {
            left: 1,
            left_of_instance,
            left_serials: vec![serial.to_string()],
            ..RevokeResponse::default()
        };
        let said = format!(
            "the instance {instance} holds 1 certificate more that stay good; \
             `hauberk revoke instance {instance} --context prod` takes them all"
        );
        let nameless = Serial::from_random([3; 16]);
        let told = of_instance(instance.to_string(), nameless);
        assert_eq!(left_in_words(&told, " --context prod"), said);
        // A control plane that does not say whose they are.
        let by_number = of_instance(String::new(), Serial::of_instance(instance, [3; 16]));
        assert_eq!(left_in_words(&by_number, " --context prod"), said);
        let unsaid = left_in_words(&of_instance(String::new(), nameless), " --context prod");
        assert!(unsaid.contains("`hauberk get certificates --context prod` shows"), "{unsaid}");
        assert!(!unsaid.contains("revoke instance"), "{unsaid}");
        let left_of_admin = "ada".to_owned();
        assert_eq!(
            left_in_words(
                &RevokeResponse { left: 2, left_of_admin, ..Default::default() },
                " --context prod"
            ),
            "the admin ada holds 2 credentials more that stay good; `hauberk admin delete ada --context prod` takes them all"
        );
    }
}
