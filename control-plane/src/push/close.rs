//! Why an agent's stream ends.

use std::time::Duration;

use hauberk_tls::VerifyError;
use thiserror::Error;

use super::incoming::ProtocolError;
use crate::compile::Compilation;
use crate::instances::Peer;
use crate::instances::wanted::{self, Standing};
use crate::registry::StoreError;
use crate::revocation::{Denial, Denylist};

/// How long an agent may take to say Hello.
pub(super) const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, Error)]
pub enum Close {
    /// The agent went away, or the network between.
    #[error("the agent is gone")]
    Gone,
    /// The control plane stops.
    #[error("the control plane is stopping: connect again")]
    Stopping,
    /// A newer stream of the same instance has begun.
    #[error("a newer stream of this instance has taken over")]
    Superseded,
    /// The certificate that the agent proved is no longer valid.
    #[error("the certificate of this connection has expired: renew it and connect again")]
    CertificateExpired,
    /// The virtual node was deleted.
    #[error("the virtual node or gateway of this certificate was deleted: this agent denies everything")]
    NodeDeleted,
    /// The virtual node was deleted, and another was made under its name.
    #[error(
        "the virtual node or gateway of this certificate was deleted and made anew: this agent denies everything; start it again \
         with a new token"
    )]
    NodeMadeAnew,
    /// The virtual node is not in the registry, which has no record either that the instance ever joined it.
    #[error(
        "the virtual node or gateway of this certificate is unknown here, and no record tells that it was deleted: this agent goes \
         on with what it holds and tries again; create it, or start the agent again with a new token"
    )]
    NodeUnknown,
    /// The certificate was revoked, or the node is in quarantine.
    #[error("{0}")]
    Denied(Denial),
    /// The instance was revoked, and this certificate, of an earlier release, found no room on the denylist: agents believe it until
    /// it expires.
    #[error("this instance was revoked: join anew with a new token, if an admin makes you one")]
    InstanceRevoked,
    /// The authority that vouched for the agent is not trusted any longer.
    #[error("the certificate of this connection is not trusted any longer ({0}): join again")]
    NotTrusted(VerifyError),
    /// No Hello in time.
    #[error("no Hello within {} seconds", HELLO_WITHIN.as_secs())]
    HelloTimeout,
    /// The agent broke the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// The registry cannot be read.
    #[error("the registry cannot be read: try again")]
    Store(#[source] StoreError),
}

impl Close {
    /// Whether the agent is to serve nobody any longer.
    pub(super) fn is_dismissal(&self) -> bool {
        matches!(self, Self::NodeDeleted | Self::NodeMadeAnew | Self::Denied(_))
    }

    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Stopping => "stopping",
            Self::Superseded => "superseded",
            Self::CertificateExpired => "certificate_expired",
            Self::NodeDeleted => "node_deleted",
            Self::NodeMadeAnew => "node_made_anew",
            Self::NodeUnknown => "node_unknown",
            Self::Denied(denial) => denial.as_str(),
            Self::InstanceRevoked => "instance_revoked",
            Self::NotTrusted(_) => "not_trusted",
            Self::HelloTimeout => "hello_timeout",
            Self::Protocol(_) => "protocol",
            Self::Store(_) => "store",
        }
    }
}

/// Whether the peer is let in at all.
pub(super) fn check_denied(denylist: &Denylist, peer: &Peer) -> Result<(), Close> {
    match denylist.denial(&peer.spiffe_id, peer.certificate.serial) {
        Some(denial) => Err(Close::Denied(denial)),
        None if denylist.is_instance_revoked(peer.instance) => Err(Close::InstanceRevoked),
        None => Ok(()),
    }
}

/// Whether the node that the peer joined is there. Where it has no view its stream stays, so that its endpoints do.
pub(super) fn check_node(compilation: &Compilation, peer: &Peer) -> Result<(), Close> {
    match wanted::standing(compilation, &peer.spiffe_id, peer.node_uid.as_deref()) {
        Standing::Here(_) | Standing::NotMade => Ok(()),
        Standing::Deleted => Err(Close::NodeDeleted),
        Standing::MadeAnew => Err(Close::NodeMadeAnew),
        Standing::Unknown => Err(Close::NodeUnknown),
    }
}
