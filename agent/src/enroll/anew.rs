//! Whoever was in joins once more, where its certificate is renewed no longer.

use std::sync::Arc;

use hauberk_identity::InstanceId;
use hauberk_proto::agent::v1 as pb;
use thiserror::Error;

use super::{Attempt, Door, EnrollError};
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials::{Credentials, Issued};
use crate::state::{State, TokenDigest};

/// Who we were, and still are until we have joined anew.
pub(crate) struct Former<'a> {
    /// What we hold.
    pub(crate) credentials: &'a Credentials,
    /// Which instance we are.
    pub(crate) instance: InstanceId,
    /// The tokens that do not let us in again.
    pub(crate) spent: &'a [TokenDigest],
}

impl Former<'_> {
    /// As the control plane is told, so that it makes nobody else of us, and lets us in by nothing that was made
    /// before we were revoked. We are nobody without a certificate.
    pub(super) fn named(&self) -> Option<pb::FormerInstance> {
        let live = self.credentials.live().current();
        let svid = live.svid()?;
        Some(pb::FormerInstance {
            instance_id: self.instance.to_string(),
            spiffe_id: svid.id().to_string(),
            serial: svid.serial().to_string(),
        })
    }
}

/// Why whoever was in has not joined anew.
#[derive(Debug, Error)]
pub(crate) enum NotJoined {
    /// It may come by itself.
    #[error("{0}")]
    Yet(String),
    /// There is nothing to join with, or what there is does not do.
    #[error("{problem}")]
    ByNothing {
        /// In words.
        problem: String,
        /// Stays the same while the problem does, whatever times its words name.
        kind: String,
    },
}

/// Joins once more, if there is anything to join with. What is issued is the caller's to keep, once it is looked at: an
/// earlier control plane may have made it somebody else's. A disk that hangs is not waited for for long.
///
/// # Errors
/// There is nothing to join with, the control plane refuses, or is away.
pub(crate) async fn join_anew(
    config: &Config,
    state: &Arc<State>,
    clock: Clock,
    former: &Former<'_>,
) -> Result<Issued, NotJoined> {
    let joining = async { Door::reach(config, state, clock, Some(former)).await?.join(clock).await };
    joining.await.map_err(|attempt: Attempt| {
        let problem = attempt.to_string();
        let kind = match attempt {
            Attempt::Final(EnrollError::Refused { reason: Some(reason), .. }) => reason,
            Attempt::Final(EnrollError::Refused { .. } | EnrollError::Evidence(_)) | Attempt::Nothing(_) => {
                problem.clone()
            }
            Attempt::Final(_) | Attempt::Stranger(_) | Attempt::Again(_) => return NotJoined::Yet(problem),
        };
        NotJoined::ByNothing { problem, kind }
    })
}
