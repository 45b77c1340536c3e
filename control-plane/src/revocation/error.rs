//! Why nothing was revoked, by whose fault it is.

use hauberk_identity::{InstanceId, Name, NodeName};
use hauberk_tls::signing::SigningError;

use super::revocations::MOST_CERTIFICATES;
use crate::registry::StoreError;

/// Why nothing was revoked or put in quarantine.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// No such certificate is on record.
    #[error(
        "no certificate with the serial number {0} is on record; if the registry was restored from a backup that is older \
         than the certificate, put its node in quarantine"
    )]
    UnknownSerial(String),
    /// It is an authority's.
    #[error(
        "{0} is the serial number of an authority, not of a certificate that it signed: `hauberk authority revoke {0}` has everybody \
         refuse what it signed"
    )]
    Authority(String),
    /// The certificate is good no longer anyway.
    #[error("the certificate {0} has expired: it is refused everywhere already")]
    Expired(String),
    /// Without its own certificate the control plane could not tell anybody anything.
    #[error(
        "{0} is a certificate of the control plane itself, which agents must believe: rotate the authority instead"
    )]
    ControlPlane(String),
    /// No instance of this id holds a certificate.
    #[error("no instance {0} holds a certificate; `hauberk get instances` lists those that do")]
    UnknownInstance(String),
    /// Nothing is known of an instance of this id: it may have been mistyped.
    #[error(
        "nothing is on record of an instance {id}, so nobody was revoked: {near}{}`hauberk get instances` lists those that are; if the \
         registry was restored from a backup that is older than the instance, `hauberk revoke instance {id} --unrecorded`",
        if near.is_empty() { "" } else { " " }
    )]
    NotOnRecord {
        /// What was named.
        id: InstanceId,
        /// `did you mean …?`, where one is called nearly so.
        near: String,
    },
    /// No instance joined by the token, or all are forgotten.
    #[error("there is no token {0}, nor an instance that joined by it and may hold a certificate")]
    UnknownToken(String),
    /// No instance of the node holds a certificate.
    #[error("no instance of {} of mesh {mesh} holds a certificate that is still good", .node.in_words())]
    NoInstances {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
    },
    /// There is no such node.
    #[error("mesh {mesh} has no {}", .node.in_words())]
    NoSuchNode {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
    },
    /// Every agent keeps the whole list, and certificates that do not say whose they are take a place each.
    #[error(
        "{MOST_CERTIFICATES} revoked certificates that have not expired are as many as agents are sent one by one. Instances need no \
         room among them: `hauberk revoke instance ID`. Where that was meant, certificates of a release that did not say whose they \
         are were in the way: the instance is issued nothing more, and agents believe those until they expire; put the node in \
         quarantine until then"
    )]
    TooMany {
        /// That nobody gets more of them is recorded.
        recorded: bool,
    },
    /// The registry cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is recorded for good, and the list of who is refused could not be made anew: that is tried again all the time.
    #[error(
        "it is recorded{}, and will be in force as soon as the records of revocations can be read and the denylist signed, which is tried \
         every second: the control plane's log says what fails{}",
        if *.recorded { "" } else { " already" }, .unread.iter().map(|unread| format!("; {unread}")).collect::<String>()
    )]
    NotInForce {
        /// Whether this call recorded it; else an earlier one did.
        recorded: bool,
        /// What of it could not be read either once it was recorded, and what is to be done about that.
        unread: Vec<String>,
        /// What fails.
        source: Box<RevocationError>,
    },
    /// No list of who is refused can be made.
    #[error("the denylist cannot be signed")]
    Sign(#[from] SigningError),
}

impl RevocationError {
    /// Whether this call has recorded something all the same, and so was not refused.
    pub fn is_recorded(&self) -> bool {
        matches!(self, Self::NotInForce { recorded: true, .. } | Self::TooMany { recorded: true })
    }

    /// Whether another change came between.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict { .. }))
    }
}
