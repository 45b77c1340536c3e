//! What becomes of a change of admins, or of a credential, that is not made.

use std::time::Duration;

use hauberk_identity::{Name, NameError, SpiffeId};

use crate::issuance::{IssuanceError, fails_as_issuance};
use crate::registry::StoreError;

/// Why an admin is not made, changed, or believed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The caller's name for an admin is none.
    #[error("the name of an admin: {0}")]
    BadName(#[from] NameError),
    /// The caller gave no role.
    #[error("an admin needs at least one role")]
    NoRoles,
    /// The caller would make an admin a second time.
    #[error("there is an admin {0} already")]
    Exists(Name),
    /// The caller would change roles by issuing a credential.
    #[error("admin {0} exists with other roles: leave the roles out, or delete the admin first")]
    OtherRoles(Name),
    /// Nobody has this name.
    #[error("there is no admin {0}")]
    NoSuchAdmin(String),
    /// The answer would not arrive: a deleted admin's connections are cut.
    #[error("admins do not delete themselves: another owner can")]
    Oneself,
    /// Without an owner nobody could make admins any more.
    #[error("{0} is the last owner: make another owner first")]
    LastOwner(Name),
    /// Nobody made such a token, or it was used, or its admin was deleted.
    #[error("the login token is unknown: it was mistyped, used already, or its admin is gone")]
    UnknownLogin,
    /// The bearer came too late.
    #[error("the login token has expired: ask for a new one")]
    LoginExpired,
    /// The certificate is no admin's.
    #[error("{0} is no admin")]
    NotAnAdmin(SpiffeId),
    /// The certificate was good once.
    #[error("the credential is not valid any longer: its admin was deleted, or it has expired")]
    Stale,
    /// The admin has more credentials than anybody can need.
    #[error("this credential was renewed too often: again in {} minutes", .again_in.as_secs().div_ceil(60))]
    TooOften {
        /// When it may be.
        again_in: Duration,
    },
    /// Nothing could be issued.
    #[error(transparent)]
    Issuance(#[from] IssuanceError),
}

fails_as_issuance!(AdminError);

impl AdminError {
    /// Whether the caller was refused, as against something having failed here.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Issuance(error) => error.is_refusal(),
            _ => true,
        }
    }

    /// Whether somebody else was faster.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Issuance(IssuanceError::Store(StoreError::Conflict { .. })))
    }
}
