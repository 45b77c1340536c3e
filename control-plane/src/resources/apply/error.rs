//! Why a change of resources did not happen, by whose fault it is.

use hauberk_identity::{InstanceId, SpiffeId};
use tokio::task::JoinError;

use super::draft::DraftTooLarge;
use super::{ATTEMPTS, MAX_BATCH, MAX_BATCH_BYTES};
use crate::bulkhead::Busy;
use crate::compile::Oversized;
use crate::random::NoRandomness;
use crate::registry::StoreError;
use crate::resources::problem::Problem;

/// A change that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// More resources than one change may have.
    #[error("{0} resources are too many for one change: at most {MAX_BATCH}; split it")]
    TooMany(usize),
    /// More bytes than one change may have.
    #[error("{0} bytes are too many for one change: at most {MAX_BATCH_BYTES}; split it")]
    TooLarge(usize),
    /// More than is looked at without being applied.
    #[error(transparent)]
    DraftTooLarge(#[from] DraftTooLarge),
    /// The author's fault: everything that is wrong with it.
    #[error("{}", summary(.0))]
    Refused(Vec<Problem>),
    /// A running agent could not enforce it.
    #[error(
        "instance {instance} of {node} cannot enforce this: it lacks {}; update its agent, or stop it",
        .features.join(", ")
    )]
    Incapable {
        /// The instance.
        instance: InstanceId,
        /// Its node.
        node: SpiffeId,
        /// What the change needs.
        features: Vec<&'static str>,
    },
    /// A view would not fit into a message.
    #[error(transparent)]
    Oversized(#[from] Oversized),
    /// Others changed resources all the time.
    #[error("other changes came in between {ATTEMPTS} times: try again")]
    Contended,
    /// The author's fault: too many changes of theirs wait.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was not judged: that failed inside the control plane.
    #[error("the change was not judged to its end")]
    Unjudged(#[source] JoinError),
    /// No unique id can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

fn summary(problems: &[Problem]) -> String {
    let first = problems.first().map(Problem::description).unwrap_or_default();
    let place = problems.first().map(|problem| problem.field.as_str()).unwrap_or_default();
    let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
    match problems.len() {
        0 | 1 => format!("{place}{first}"),
        many => format!("{many} problems, the first: {place}{first}"),
    }
}
