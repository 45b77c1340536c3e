//! Statuses of those who join, renew, and make join tokens.

use tonic::{Code, Status};

use super::{bad_field, internal, of_issuance, of_store, refusal, too_often};
use crate::enrollment::{EnrollmentError, NotAttested, TokenError};
use crate::revocation::Denial;

/// Of enrollment. Those who ask hold a token, or a certificate, and may know what is wrong with it.
pub fn of_enrollment(error: &EnrollmentError) -> Status {
    let reason = error.reason();
    match error {
        EnrollmentError::UnknownToken
        | EnrollmentError::Expired { .. }
        | EnrollmentError::UsedUp { .. }
        | EnrollmentError::NoSuchNode { .. }
        | EnrollmentError::NodeMadeAnew { .. }
        | EnrollmentError::NotANode(_)
        | EnrollmentError::NotOnRecord => refusal(Code::PermissionDenied, reason, error.to_string()),
        // Whether another node has it is not for the agent to know; the audit log tells.
        EnrollmentError::NoSuchEnrollment { .. } | EnrollmentError::OtherParent { .. } => refusal(
            Code::PermissionDenied,
            reason,
            "no enrollment of this name has this node as its parent: `hauberk get enrollments` shows what there is",
        ),
        EnrollmentError::CertificateExpired => refusal(Code::Unauthenticated, reason, error.to_string()),
        EnrollmentError::NotAttested(NotAttested::Evidence(unjudged)) if unjudged.is_unjudged() => {
            refusal(Code::Unavailable, reason, "the evidence cannot be judged now: try again")
        }
        // Only a clock is wrong: an agent that gave up would have to be started again once that is right.
        EnrollmentError::NotAttested(NotAttested::Evidence(early)) if early.is_too_early() => refusal(
            Code::Unavailable,
            reason,
            "the evidence is not valid yet by the control plane's clock: see that clocks are right; trying again helps",
        ),
        // Which rule it broke is for administrators to know; the audit log tells them.
        EnrollmentError::NotAttested(_) => refusal(
            Code::PermissionDenied,
            reason,
            "the evidence makes nothing of this agent: the control plane's audit log says why",
        ),
        // Who it would be, and when it was revoked, is for administrators to know as well.
        EnrollmentError::SomebodyElse { .. } => refusal(
            Code::PermissionDenied,
            reason,
            "what is shown makes somebody else of this agent than it is: the control plane's audit log says whom",
        ),
        EnrollmentError::TokenOfBefore { .. } => refusal(
            Code::PermissionDenied,
            reason,
            "the join token was made before this agent was revoked, and another one is needed",
        ),
        EnrollmentError::TooManyKeys { again_in }
        | EnrollmentError::TooOften { again_in }
        | EnrollmentError::TooFast { again_in, .. } => too_often(reason, error, *again_in),
        EnrollmentError::TooManyInstances { .. } => {
            refusal(Code::ResourceExhausted, reason, error.to_string())
        }
        EnrollmentError::Denied(denial) => of_denial(*denial),
        EnrollmentError::Issuance(error) => of_issuance(error),
        EnrollmentError::Name(_) => internal(error),
    }
}

/// Of whoever is refused before the certificate expires.
pub fn of_denial(denial: Denial) -> Status {
    refusal(Code::PermissionDenied, denial.reason(), denial.to_string())
}

/// Of join tokens.
pub fn of_token(error: &TokenError) -> Status {
    match error {
        TokenError::BadTtl => bad_field("ttlSeconds", error),
        TokenError::NoUses => bad_field("uses", error),
        TokenError::BadLabel { .. } | TokenError::TooManyLabels(_) | TokenError::NoLabels => {
            bad_field("labels", error)
        }
        TokenError::NoSuchEnrollment { .. } => {
            refusal(Code::FailedPrecondition, "NO_SUCH_ENROLLMENT", error.to_string())
        }
        TokenError::NoRule { .. } => refusal(Code::FailedPrecondition, "NO_RULE", error.to_string()),
        TokenError::NoSuchNode { .. } => refusal(Code::FailedPrecondition, "NO_SUCH_NODE", error.to_string()),
        TokenError::NoSuchToken(_) => refusal(Code::NotFound, "NO_SUCH_TOKEN", error.to_string()),
        TokenError::Store(error) => of_store(error),
        TokenError::NoRandomness(_) => internal(error),
    }
}
