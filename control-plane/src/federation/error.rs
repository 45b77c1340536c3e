//! Why what others publish did not come, by whose fault it is.

use hauberk_identity::{InstanceId, SpiffeId};
use hauberk_proto::convert::features::{FEW_ROOTS, MANY_ROOTS};

use super::fetch::FetchError;
use super::status::Hindrance;
use crate::ask::{Unanswered, Unreached};
use crate::registry::StoreError;
use crate::resources::ResourceKey;

/// A bundle that was asked for by hand and did not come.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// There is nothing to ask.
    #[error("{0} does not exist, or has no URL to ask")]
    NoEndpoint(ResourceKey),
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A running agent would let in nobody of the trust domain.
    #[error(
        "the bundle has {roots} roots, and instance {instance} of {node} takes no more than {FEW_ROOTS}: it lacks {MANY_ROOTS}; update its \
         agent, or stop it"
    )]
    Incapable {
        /// How many it has.
        roots: usize,
        /// The instance.
        instance: InstanceId,
        /// Its node.
        node: SpiffeId,
    },
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever asks has panicked.
    #[error(
        "whoever asks for it has failed, which is a fault of the control plane's: its log says where, and it is asked for again"
    )]
    Panicked,
}

impl RefreshError {
    /// What stands in the way, as far as somebody here can mend it.
    pub(super) fn hindrance(&self) -> Hindrance {
        match self {
            Self::Fetch(error) => of_fetch(error),
            Self::Incapable { .. } => Hindrance::Agent,
            Self::Store(StoreError::Conflict { .. }) => Hindrance::Passing,
            Self::Store(_) | Self::Panicked => Hindrance::Ours,
            Self::NoEndpoint(_) => Hindrance::Other,
        }
    }
}

fn of_fetch(error: &FetchError) -> Hindrance {
    match error {
        FetchError::Unreached(error) => match error {
            Unreached::Address { is_never: false, .. } => Hindrance::Inside,
            Unreached::NoWebRoot { .. } => Hindrance::NoWebRoot,
            Unreached::WebRoots { .. } | Unreached::Unanswered(Unanswered::Setup(_)) => Hindrance::Ours,
            Unreached::Unanswered(Unanswered::TooLarge(_)) => Hindrance::Answer,
            _ => Hindrance::Other,
        },
        FetchError::Bundle(_)
        | FetchError::Configuration(_)
        | FetchError::OtherIssuer(_)
        | FetchError::KeysElsewhere { .. }
        | FetchError::Keys(_) => Hindrance::Answer,
        FetchError::Older { .. } => Hindrance::Older,
        FetchError::Unvouched(_) | FetchError::NoRoots(_) => Hindrance::Voucher,
        FetchError::VoucherReplaced(_) => Hindrance::Passing,
    }
}
