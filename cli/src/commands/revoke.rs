//! `hauberk revoke` and `hauberk quarantine`

use hauberk_proto::admin::v1::revoke_request::Target;
use hauberk_proto::admin::v1::{NodeTarget, QuarantineRequest, RevokeRequest};
use tokio::time::Instant;

use crate::arguments::{Global, Quarantine, Revoke, WaitEnforced};
use crate::commands::wait;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Runs `revoke`.
///
/// # Errors
/// There is nothing of that name, what the control plane answers, or not enforced in time.
pub(crate) async fn revoke(global: &Global, command: Revoke) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let is_unrecorded = matches!(command, Revoke::Instance { unrecorded: true, .. });
    let (target, said, waiting) = match command {
        Revoke::Serial { serial, wait } => {
            (Target::Serial(serial.clone()), format!("certificate/{serial}"), wait)
        }
        Revoke::Instance { id, unrecorded: _, wait } => {
            (Target::InstanceId(id.clone()), format!("instance/{id}"), wait)
        }
        Revoke::Token { id, wait } => (Target::TokenId(id.clone()), format!("token/{id}"), wait),
        Revoke::Node { name, wait } => {
            let said = format!("virtualnode/{name}");
            let mesh = session.mesh().await?;
            (Target::Node(NodeTarget { mesh, name }), said, wait)
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
        output::note(format_args!(
            "the instance holds {} more that stay good; `hauberk revoke instance` takes them all",
            if answer.left == 1 {
                "1 certificate".to_owned()
            } else {
                format!("{} certificates", answer.left)
            }
        ));
    }
    finish(&session, answer.revision, waiting, begun).await
}

/// Runs `quarantine`.
///
/// # Errors
/// There is no such node, what the control plane answers, or not enforced in time.
pub(crate) async fn quarantine(global: &Global, command: Quarantine) -> Result<(), CommandError> {
    let Quarantine::Node { name, undo, wait } = command;
    let session = Session::open(global).await?;
    let mesh = session.mesh().await?;
    let begun = Instant::now();
    let node = Some(NodeTarget { mesh, name: name.clone() });
    let answer = session.revocations().quarantine(QuarantineRequest { node, undo }).await?.into_inner();
    output::line(match (answer.changed, undo) {
        (true, false) => format!("virtualnode/{name} is in quarantine"),
        (true, true) => format!("virtualnode/{name} is out of quarantine"),
        (false, false) => format!("virtualnode/{name} unchanged: it is in quarantine already"),
        (false, true) => format!("virtualnode/{name} unchanged: it is not in quarantine"),
    })?;
    finish(&session, answer.revision, wait, begun).await
}

async fn finish(
    session: &Session,
    revision: u64,
    waiting: WaitEnforced,
    begun: Instant,
) -> Result<(), CommandError> {
    match waiting.timeout {
        // Of every mesh: nobody anywhere may believe a revoked certificate. There is no revision 0 to wait for.
        Some(timeout) if revision > 0 => wait::until_enforced(session, revision, "", (begun, timeout)).await,
        Some(_) => Ok(()),
        None => {
            output::note(format_args!(
                "revision {revision}; until all agents enforce it: hauberk wait --revision {revision}"
            ));
            Ok(())
        }
    }
}
