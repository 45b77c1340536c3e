//! What a program is answered that gets no identity: a code, and no more.

use hauberk_proto::refusal;
use hauberk_tls::LiveState;
use tonic::{Code, Status};

use super::entry::Entries;
use super::looks::LookError;
use crate::mesh::Denied;

/// Of none of these entries all is true of the program.
pub(super) fn refused(denied: &Denied, us: &LiveState, entries: &Entries) -> Status {
    no_identity(match denied.denial_of_us(us) {
        Some(_) => refusal::AGENT_REFUSED,
        None if entries.is_empty() => refusal::NO_ENROLLMENT,
        None => refusal::SELECTOR_MISSING,
    })
}

/// Whether it has one cannot be found out now.
pub(super) fn unseen(uid: u32, error: &LookError) -> Status {
    match error {
        LookError::Stopping => Status::unavailable("the agent is stopping"),
        LookError::TimedOut(_) | LookError::Broken(_) => {
            tracing::warn!(event = "workload_not_looked_at", uid, %error);
            Status::unavailable("what is true of this program cannot be found out now: try again later")
        }
    }
}

/// The message is the one that clients of SPIRE know.
pub(super) fn no_identity(reason: &str) -> Status {
    refusal::with_reason(Code::PermissionDenied, reason, "no identity issued")
}
