//! Why agents get no certificate, by whose fault it is.

use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NameError, NodeName, SpiffeId, UnixMillis};
use hauberk_proto::refusal::{NAME_OF_CONTROL_PLANE, NOT_ENROLLED, NOT_ON_RECORD};

use super::attest::NotAttested;
use super::token::TokenUse;
use crate::issuance::{IssuanceError, fails_as_issuance};
use crate::registry::StoreError;
use crate::revocation::Denial;

/// Why an agent gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    /// Nobody made such a token, or it was taken back, or it expired long ago.
    #[error("the join token is unknown: it was mistyped, taken back, or made by another control plane")]
    UnknownToken,
    /// The agent came too late.
    #[error("the join token expired {} ago: make a new one", in_words(*.ago))]
    Expired {
        /// How late.
        ago: Duration,
    },
    /// Others came before.
    #[error("the join token is used up: {}", used_by(.by))]
    UsedUp {
        /// Who.
        by: Vec<TokenUse>,
    },
    /// The node was deleted.
    #[error("mesh {mesh} has no {} any longer", .node.in_words())]
    NoSuchNode {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
    },
    /// The node was deleted, and another was made under its name.
    #[error("{} of mesh {mesh} was deleted and made anew: join it with a new token", .node.in_words())]
    NodeMadeAnew {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
    },
    /// An agent asks for a workload that is not enrolled, or no longer.
    #[error("mesh {mesh} has no enrollment of this name")]
    NoSuchEnrollment {
        /// The mesh.
        mesh: String,
    },
    /// An agent asks for a workload that another node's agents vouch for.
    #[error("the parent of enrollment {enrollment} is {}, not {node}", .parent.in_words())]
    OtherParent {
        /// The enrollment.
        enrollment: String,
        /// Its parent.
        parent: NodeName,
        /// The node of the agent that asked.
        node: NodeName,
    },
    /// A certificate of another kind asks for renewal.
    #[error("{0} is no node or gateway of a mesh: its certificate is not renewed here")]
    NotANode(SpiffeId),
    /// The connection has outlived the certificate.
    #[error("the certificate has expired: join anew with a token")]
    CertificateExpired,
    /// Nothing tells any longer which node it joined, and by what.
    #[error(
        "the registry has no record of this instance, as where it was restored from a backup older than the instance: nothing \
         is renewed for it. Join it anew, by evidence or a new token: its agent does so by itself where it finds either"
    )]
    NotOnRecord,
    /// The instance has more certificates than it can need.
    #[error("this instance has renewed its certificate too often: again in {}", in_words(*.again_in))]
    TooOften {
        /// When it may.
        again_in: Duration,
    },
    /// A token makes instances faster than anybody starts them.
    #[error(
        "join token {token} has made too many instances lately: again in {}. If it may be in other hands: `hauberk token \
         delete {token}` and make a new one, which keeps nobody waiting; `hauberk revoke token {token}` also revokes whoever \
         has joined by it", in_words(*.again_in)
    )]
    TooFast {
        /// Its id, which is no secret.
        token: String,
        /// When it makes one more.
        again_in: Duration,
    },
    /// The evidence that an agent shows, or showed once, makes nothing of it.
    #[error(transparent)]
    NotAttested(#[from] NotAttested),
    /// A machine shows its evidence with new keys more often than agents lose theirs.
    #[error("this machine's evidence was used with many new keys lately: again in {}", in_words(*.again_in))]
    TooManyKeys {
        /// When it may.
        again_in: Duration,
    },
    /// The bearers of a token have made more instances than anybody runs.
    #[error(
        "{} of mesh {mesh} has {most} live instances, and no more are let in: `hauberk check` says which join tokens made \
         them, and `hauberk revoke token ID` takes back those of one; those that are gone count until their certificates expire",
        .node.in_words()
    )]
    TooManyInstances {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
        /// How many there may be.
        most: usize,
    },
    /// The instance was revoked, or the node is in quarantine.
    #[error("{0}")]
    Denied(Denial),
    /// Whoever joins anew is made somebody else: an instance that nobody would ever be.
    #[error(
        "instance {instance} is {before}, and what it shows makes {now} of it: to make another of its agent, stop \
         that, empty its state directory and start it"
    )]
    SomebodyElse {
        /// Which it is, by its own account.
        instance: InstanceId,
        /// Who, by its own account.
        before: SpiffeId,
        /// Who it would be.
        now: SpiffeId,
    },
    /// Nobody has made the token to let in again whoever was revoked.
    #[error(
        "instance {instance} was revoked at {revoked}, and the join token was made before, at {made}: to let its \
         agent in again make a new one"
    )]
    TokenOfBefore {
        /// Which it is, by its own account.
        instance: InstanceId,
        /// When the token was made.
        made: UnixMillis,
        /// When the instance was revoked, or its certificate.
        revoked: UnixMillis,
    },
    /// A record names an impossible node.
    #[error("the registry names an impossible node")]
    Name(#[from] NameError),
    /// Nothing could be issued.
    #[error(transparent)]
    Issuance(#[from] IssuanceError),
}

fails_as_issuance!(EnrollmentError);

impl EnrollmentError {
    /// Whether what was read has changed before it could be relied on: worth another attempt.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Issuance(IssuanceError::Store(StoreError::Conflict { .. })))
    }

    /// How much of the text, in bytes, was written by an admin: selectors that the agent misses.
    pub(super) fn of_rule(&self) -> usize {
        match self {
            Self::NotAttested(NotAttested::NoRule { why, .. }) => why.of_rule(),
            Self::NotAttested(NotAttested::NoLonger { of_rule, .. }) => *of_rule,
            _ => 0,
        }
    }

    /// Whether the agent was refused, as against something having failed here.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Name(_) => false,
            Self::NotAttested(NotAttested::Evidence(error)) => !error.is_unjudged(),
            Self::Issuance(error) => error.is_refusal(),
            _ => true,
        }
    }
}

impl EnrollmentError {
    /// The stable name of the refusal, for callers and metrics; of what failed here, what it is called in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownToken => "TOKEN_UNKNOWN",
            Self::Expired { .. } => "TOKEN_EXPIRED",
            Self::UsedUp { .. } => "TOKEN_USED_UP",
            Self::NoSuchNode { .. } => "NODE_GONE",
            Self::NodeMadeAnew { .. } => "NODE_MADE_ANEW",
            Self::NoSuchEnrollment { .. } | Self::OtherParent { .. } => NOT_ENROLLED,
            Self::NotANode(_) => "NOT_A_NODE",
            Self::CertificateExpired => "CERTIFICATE_EXPIRED",
            Self::NotOnRecord => NOT_ON_RECORD,
            Self::TooOften { .. } => "RENEWED_TOO_OFTEN",
            Self::TooFast { .. } => "JOINED_TOO_OFTEN",
            Self::NotAttested(NotAttested::Evidence(error))
                if error.is_unjudged() || error.is_too_early() =>
            {
                "NOT_ATTESTED_YET"
            }
            Self::NotAttested(_) => "NOT_ATTESTED",
            Self::TooManyKeys { .. } => "TOO_MANY_KEYS",
            Self::TooManyInstances { .. } => "TOO_MANY_INSTANCES",
            Self::Denied(denial) => denial.reason(),
            Self::SomebodyElse { .. } => "SOMEBODY_ELSE",
            Self::TokenOfBefore { .. } => "TOKEN_BEFORE_REVOCATION",
            Self::Issuance(IssuanceError::Request(why)) => IssuanceError::reason_of_request(why),
            Self::Issuance(IssuanceError::NameOfControlPlane(_)) => NAME_OF_CONTROL_PLANE,
            Self::Name(_) | Self::Issuance(_) => "FAILED",
        }
    }
}

/// How often it is tried again because something that it rests on has changed meanwhile: the token, the node.
pub(super) const ATTEMPTS: u32 = 16;

/// Makes attempts until nothing that they rest on changes meanwhile.
pub(super) async fn without_conflict<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, EnrollmentError>
where
    F: Future<Output = Result<T, EnrollmentError>>,
{
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(error) if error.is_conflict() && attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

fn used_by(uses: &[TokenUse]) -> String {
    match uses {
        [] => "no use is left".to_owned(),
        [only] => {
            format!("instance {} used it at {} from {}", only.instance, UnixMillis(only.at), only.source)
        }
        [first, ..] => {
            format!(
                "{} instances used it, one of them {} at {}",
                uses.len(),
                first.instance,
                UnixMillis(first.at)
            )
        }
    }
}

fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{seconds}s"),
        seconds if seconds < 7_200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3_600),
    }
}
