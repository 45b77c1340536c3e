//! Whoever was in joins once more, where its certificate is renewed no longer.

use std::sync::Arc;

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
    /// The tokens that do not let us in again.
    pub(crate) spent: &'a [TokenDigest],
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

/// Joins once more, if there is anything to join with. What is issued is the caller's to keep, once it is looked at: it
/// may be somebody else's, by another token. A disk that hangs is not waited for for long.
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
