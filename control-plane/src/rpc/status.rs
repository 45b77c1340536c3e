//! The one place that turns errors into gRPC statuses. What the caller did wrong is told in full, with a stable reason
//! (google.rpc.ErrorInfo); what failed here is logged in full and told in general.

mod joining;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use hauberk_identity::InstanceId;
use hauberk_proto::refusal::{DOMAIN, NAME_OF_CONTROL_PLANE};
use hauberk_tls::IssueError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admins::AdminError;
use crate::authority::{AuthorityError, LifecycleError};
use crate::bulkhead::Busy;
use crate::federation::RefreshError;
use crate::issuance::IssuanceError;
use crate::jwt_svid::{MintError, SigningKeyError};
use crate::push::{Close, ExplainError};
use crate::registry::StoreError;
use crate::resources::{ChangeError, Fault, Problem};
use crate::revocation::{Denial, RevocationError};
use crate::telemetry::TelemetryError;
pub use joining::{of_denial, of_enrollment, of_token};

/// What the details of one status may weigh, in bytes: with base64 and the other headers it stays below the 8 KiB that
/// clients take as trailers.
const DETAILS_BYTES: usize = 5_000;

/// The longest text in a status, in characters: it may repeat what the caller sent.
const LONGEST_TEXT: usize = 1_000;

fn cut(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A status with a stable reason.
pub fn refusal(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    let message = cut(message);
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// The same status with more words.
pub fn in_words(status: &Status, message: impl Into<String>) -> Status {
    Status::with_error_details(status.code(), cut(message), status.get_error_details())
}

/// The caller's message has a field that cannot be.
pub fn bad_field(field: impl Into<String>, problem: impl std::fmt::Display) -> Status {
    let (field, problem) = (cut(field), cut(problem.to_string()));
    let mut details = ErrorDetails::with_bad_request_violation(&field, problem.clone());
    details.set_error_info("BAD_FIELD", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {problem}"), details)
}

/// The caller names an instance that is not there.
pub fn no_such_instance(id: &InstanceId) -> Status {
    refusal(Code::NotFound, "NO_SUCH_INSTANCE", RevocationError::UnknownInstance(id.to_string()).to_string())
}

/// The caller does something more often than it needs to.
fn too_often(reason: &'static str, error: &dyn Error, again_in: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(again_in));
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
}

/// Something failed here that is nobody's business elsewhere.
pub fn internal(error: &dyn Error) -> Status {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    tracing::error!(event = "internal_error", error = chain, "a call failed inside the control plane");
    Status::internal("the control plane failed on this: its log says why")
}

/// Of the registry.
pub fn of_store(error: &StoreError) -> Status {
    match error {
        StoreError::Conflict { .. } => {
            refusal(Code::Aborted, "CONFLICT", "somebody else changed this at the same moment: try again")
        }
        StoreError::TooLarge { .. } | StoreError::BadKey { .. } => {
            refusal(Code::InvalidArgument, "TOO_LARGE", error.to_string())
        }
        StoreError::Full { .. } => refusal(Code::ResourceExhausted, "DISK_FULL", error.to_string()),
        StoreError::ReadOnly { .. } => refusal(
            Code::Unavailable,
            "READ_ONLY",
            "the control plane takes no writes since its disk failed: see its log, repair the disk and restart it",
        ),
        StoreError::Closed => refusal(Code::Unavailable, "STOPPING", error.to_string()),
        StoreError::NotFollowed => refusal(Code::Unavailable, "RESOURCES_UNREADABLE", error.to_string()),
        StoreError::Behind => refusal(Code::Unavailable, "RESOURCES_BEHIND", error.to_string()),
        StoreError::Damaged { .. } | StoreError::Unreadable { .. } => internal(error),
    }
}

/// What was asked about is not there; `hint` names what is nearest.
pub fn missing(message: &str, hint: Option<String>) -> Status {
    let message = hint.map_or(message.to_owned(), |hint| format!("{message}; {hint}"));
    refusal(Code::NotFound, "NOT_FOUND", message)
}

/// Of a change of resources. `list` is the field of the request that holds them.
pub fn of_change(error: &ChangeError, list: &str) -> Status {
    match error {
        ChangeError::TooMany(_) | ChangeError::TooLarge(_) | ChangeError::DraftTooLarge(_) => {
            refusal(Code::InvalidArgument, "BATCH_TOO_LARGE", error.to_string())
        }
        ChangeError::Refused(problems) => of_problems(problems, list, error.to_string()),
        ChangeError::Incapable { .. } => {
            refusal(Code::FailedPrecondition, "AGENT_LACKS_FEATURE", error.to_string())
        }
        ChangeError::Oversized(oversized) => {
            refusal(Code::FailedPrecondition, "VIEW_TOO_LARGE", oversized.to_string())
        }
        ChangeError::Contended => refusal(Code::Aborted, "CONFLICT", error.to_string()),
        ChangeError::Busy(error) => of_busy(*error),
        ChangeError::Store(error) => of_store(error),
        ChangeError::NoRandomness(_) | ChangeError::Unjudged(_) => internal(error),
    }
}

/// All problems of a change, each with the path of its field: `resources[3].spec.listeners[0].portMapping.port`. What
/// does not fit into a status is counted.
fn of_problems(problems: &[Problem], list: &str, message: String) -> Status {
    let worst = problems.iter().map(|problem| problem.fault).min().unwrap_or(Fault::Invalid);
    let (code, reason) = match worst {
        Fault::Invalid => (Code::InvalidArgument, "INVALID"),
        Fault::Denied => (Code::PermissionDenied, "ROLE_NEEDED"),
        Fault::Stale => (Code::Aborted, "STALE_VERSION"),
        Fault::Missing => (Code::NotFound, "NOT_FOUND"),
        Fault::InUse => (Code::FailedPrecondition, "IN_USE"),
    };
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let message = cut(message);
    let mut weight = message.len();
    for (index, problem) in problems.iter().enumerate() {
        let dot = if problem.field.is_empty() { "" } else { "." };
        let field = cut(format!("{list}[{}]{dot}{}", problem.resource, problem.field));
        let description = cut(problem.description());
        weight += field.len() + description.len() + 8;
        if weight > DETAILS_BYTES && index > 0 {
            let more = problems.len() - index;
            details.add_bad_request_violation("", format!("and {more} more problems, not listed here"));
            break;
        }
        details.add_bad_request_violation(field, description);
    }
    Status::with_error_details(code, message, details)
}

/// Of issuance.
pub fn of_issuance(error: &IssuanceError) -> Status {
    match error {
        IssuanceError::Request(why) => {
            refusal(Code::InvalidArgument, IssuanceError::reason_of_request(why), error.to_string())
        }
        IssuanceError::NameOfControlPlane(_) => {
            refusal(Code::FailedPrecondition, NAME_OF_CONTROL_PLANE, error.to_string())
        }
        IssuanceError::Store(error) => of_store(error),
        IssuanceError::AuthorityNotValid => {
            refusal(Code::FailedPrecondition, "AUTHORITY_NOT_VALID", error.to_string())
        }
        // The token's own words are for whoever runs the control plane: its log and /readyz have them.
        IssuanceError::Token(_) | IssuanceError::Sign(IssueError::KeyElsewhere(_)) => refusal(
            Code::Unavailable,
            "TOKEN_UNAVAILABLE",
            "the control plane's PKCS#11 token signs nothing just now: try again; its log says why",
        ),
        IssuanceError::Clock(_) | IssuanceError::Sign(_) | IssuanceError::NoRandomness(_) => internal(error),
    }
}

/// Of questions to bundle endpoints.
pub fn of_refresh(error: &RefreshError) -> Status {
    match error {
        RefreshError::NoEndpoint(_) => refusal(Code::NotFound, "NO_BUNDLE_ENDPOINT", error.to_string()),
        RefreshError::Fetch(_) => refusal(Code::Unavailable, "BUNDLE_NOT_FETCHED", error.to_string()),
        RefreshError::Incapable { .. } => {
            refusal(Code::FailedPrecondition, "AGENT_LACKS_FEATURE", error.to_string())
        }
        RefreshError::Store(error) => of_store(error),
        RefreshError::Panicked => internal(error),
    }
}

/// Of revocations.
pub fn of_revocation(error: &RevocationError) -> Status {
    let refused = |code, reason| refusal(code, reason, error.to_string());
    match error {
        RevocationError::UnknownSerial(_) => refused(Code::NotFound, "NO_SUCH_CERTIFICATE"),
        RevocationError::UnknownInstance(_) | RevocationError::NotOnRecord { .. } => {
            refused(Code::NotFound, "NO_SUCH_INSTANCE")
        }
        RevocationError::UnknownToken(_) => refused(Code::NotFound, "NO_SUCH_TOKEN"),
        RevocationError::NoSuchNode { .. } => refused(Code::NotFound, "NO_SUCH_NODE"),
        RevocationError::NoInstances { .. } => refused(Code::NotFound, "NO_INSTANCES"),
        RevocationError::Authority(_) => refused(Code::FailedPrecondition, "AUTHORITY"),
        RevocationError::Expired(_) => refused(Code::FailedPrecondition, "EXPIRED"),
        RevocationError::ControlPlane(_) => refused(Code::FailedPrecondition, "CONTROL_PLANE"),
        RevocationError::TooMany { .. } => refused(Code::ResourceExhausted, "TOO_MANY_REVOKED"),
        RevocationError::NotInForce { .. } => refused(Code::Unavailable, "NOT_IN_FORCE"),
        RevocationError::Store(error) => of_store(error),
        RevocationError::Sign(_) => internal(error),
    }
}

/// Of JWT-SVIDs.
pub fn of_mint(error: &MintError) -> Status {
    match error {
        MintError::NoAudience | MintError::TooManyAudiences => bad_field("audience", error),
        MintError::NotEntitled(error) => of_enrollment(error),
        MintError::TooOften { again_in } => too_often(error.reason(), error, *again_in),
        MintError::NoKey => refusal(Code::Unavailable, error.reason(), error.to_string()),
        MintError::Sign(_) | MintError::NoRandomness(_) => internal(error),
    }
}

/// Of admins.
pub fn of_admin(error: &AdminError) -> Status {
    match error {
        AdminError::BadName(_) => bad_field("name", error),
        AdminError::NoRoles => bad_field("roles", error),
        AdminError::Exists(_) => refusal(Code::AlreadyExists, "ADMIN_EXISTS", error.to_string()),
        AdminError::OtherRoles(_) => refusal(Code::FailedPrecondition, "OTHER_ROLES", error.to_string()),
        AdminError::NoSuchAdmin(_) => refusal(Code::NotFound, "NO_SUCH_ADMIN", error.to_string()),
        AdminError::Oneself => refusal(Code::FailedPrecondition, "ONESELF", error.to_string()),
        AdminError::LastOwner(_) => refusal(Code::FailedPrecondition, "LAST_OWNER", error.to_string()),
        AdminError::UnknownLogin => refusal(Code::Unauthenticated, "LOGIN_UNKNOWN", error.to_string()),
        AdminError::LoginExpired => refusal(Code::Unauthenticated, "LOGIN_EXPIRED", error.to_string()),
        AdminError::NotAnAdmin(_) | AdminError::Stale => {
            refusal(Code::Unauthenticated, "CREDENTIAL_REFUSED", error.to_string())
        }
        AdminError::TooOften { again_in } => too_often("RENEWED_TOO_OFTEN", error, *again_in),
        AdminError::Issuance(error) => of_issuance(error),
    }
}

/// Of authorities.
pub fn of_authority(error: &LifecycleError) -> Status {
    let unmet = |reason| refusal(Code::FailedPrecondition, reason, error.to_string());
    match error {
        LifecycleError::Unknown(_) | LifecycleError::SigningKey(SigningKeyError::NotThere(_)) => {
            refusal(Code::NotFound, "NO_SUCH_AUTHORITY", error.to_string())
        }
        LifecycleError::WrongState { .. } | LifecycleError::ViewKeySigns(_) => unmet("WRONG_STATE"),
        LifecycleError::NotOfViewKeys { .. } => unmet("NO_SUCH_STEP"),
        LifecycleError::UnderPreparedRoot { .. } => unmet("ROOT_NOT_ACTIVE"),
        LifecycleError::NotTrustedYet { .. } => unmet("NOT_TRUSTED_YET"),
        LifecycleError::NotValidNow { .. } => unmet("NOT_VALID_NOW"),
        LifecycleError::StillHeld { .. } => unmet("STILL_HELD"),
        LifecycleError::TokensInUse { .. } | LifecycleError::TokensKept { .. } => unmet("TOKENS_IN_USE"),
        LifecycleError::StillDelegated { .. } | LifecycleError::MaybeDelegated { .. } => {
            unmet("STILL_DELEGATED")
        }
        LifecycleError::StillProved { .. } => unmet("STILL_PROVED"),
        LifecycleError::NothingUnder(_) => unmet("NO_ISSUING_AUTHORITY"),
        LifecycleError::Waits(_) => unmet("PREPARED_ALREADY"),
        LifecycleError::NoRequest => unmet("NO_REQUEST"),
        LifecycleError::FormerRoot { .. } => unmet("FORMER_ROOT"),
        LifecycleError::SameRoot(_) => unmet("SAME_ROOT"),
        LifecycleError::UpstreamIsSet => unmet("UPSTREAM_IS_SET"),
        LifecycleError::Authority(AuthorityError::RootElsewhere(_)) => unmet("ROOT_ELSEWHERE"),
        LifecycleError::Authority(AuthorityError::RootsInUse { .. }) => unmet("ROOTS_IN_USE"),
        LifecycleError::Unacceptable(_)
        | LifecycleError::SerialTaken(_)
        | LifecycleError::OwnRoot(_)
        | LifecycleError::KeyUsed { .. } => {
            refusal(Code::InvalidArgument, "NOT_ACCEPTABLE", error.to_string())
        }
        LifecycleError::Request(_) => refusal(Code::InvalidArgument, "BAD_REQUEST", error.to_string()),
        LifecycleError::Upstream(_) => refusal(Code::Unavailable, "UPSTREAM_FAILED", error.to_string()),
        LifecycleError::TooManyRoots(_)
        | LifecycleError::TooManyDelegated(_)
        | LifecycleError::TooManyJwtKeys(_) => {
            refusal(Code::ResourceExhausted, "TOO_MANY_AUTHORITIES", error.to_string())
        }
        LifecycleError::TooOften { again_in } => too_often("SIGNED_TOO_OFTEN", error, *again_in),
        LifecycleError::Store(error)
        | LifecycleError::Authority(AuthorityError::Store(error))
        | LifecycleError::SigningKey(SigningKeyError::Store(error)) => of_store(error),
        LifecycleError::Authority(
            AuthorityError::Token(_) | AuthorityError::TokenKey(_) | AuthorityError::NoToken { .. },
        ) => refusal(Code::Unavailable, "TOKEN_UNAVAILABLE", error.to_string()),
        LifecycleError::Authority(_) | LifecycleError::Publish(_) | LifecycleError::SigningKey(_) => {
            internal(error)
        }
    }
}

/// Of an agent's stream that ends.
pub fn of_close(close: &Close) -> Status {
    let ended = |code, reason| refusal(code, reason, close.to_string());
    match close {
        Close::Gone => ended(Code::Cancelled, "GONE"),
        Close::Stopping => stopping(),
        Close::Superseded => ended(Code::Aborted, "SUPERSEDED"),
        Close::CertificateExpired => ended(Code::Unauthenticated, "CERTIFICATE_EXPIRED"),
        Close::NodeDeleted => ended(Code::NotFound, "NODE_GONE"),
        Close::NodeMadeAnew => ended(Code::PermissionDenied, "NODE_MADE_ANEW"),
        Close::NodeUnknown => ended(Code::NotFound, "NODE_UNKNOWN"),
        Close::Denied(denial) => of_denial(*denial),
        Close::InstanceRevoked => of_denial(Denial::Revoked),
        Close::NotTrusted(_) => ended(Code::Unauthenticated, "NOT_TRUSTED"),
        Close::HelloTimeout => ended(Code::DeadlineExceeded, "NO_HELLO"),
        Close::Protocol(_) => ended(Code::InvalidArgument, "PROTOCOL"),
        Close::Store(error) => of_store(error),
    }
}

/// The control plane stops, and with it every stream.
pub fn stopping() -> Status {
    refusal(Code::Unavailable, "STOPPING", "the control plane is stopping: connect again")
}

/// Of questions about a decision.
pub fn of_explain(error: &ExplainError) -> Status {
    match error {
        ExplainError::Malformed(_) => bad_field("decisionId", error),
        ExplainError::UnknownInstance(_) => refusal(Code::NotFound, "INSTANCE_UNKNOWN", error.to_string()),
        ExplainError::Gone { .. } => refusal(Code::NotFound, "INSTANCE_GONE", error.to_string()),
        ExplainError::Forgotten { .. } => refusal(Code::NotFound, "DECISION_FORGOTTEN", error.to_string()),
        ExplainError::NoAnswer { .. } => refusal(Code::Unavailable, "NO_ANSWER", error.to_string()),
    }
}

/// Of a caller who asks too much at once.
pub fn of_busy(error: Busy) -> Status {
    refusal(Code::ResourceExhausted, "BUSY", error.to_string())
}

/// Of the log filter.
pub fn of_telemetry(error: &TelemetryError) -> Status {
    match error {
        TelemetryError::BadFilter { .. } => bad_field("filter", error),
        TelemetryError::StartedTwice | TelemetryError::NotReloadable(_) => internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_sent_is_not_sent_back_at_length() {
        let long = "x".repeat(100_000);
        let statuses = [
            bad_field(&long, &long),
            refusal(Code::NotFound, "NOT_FOUND", &long),
            of_problems(
                &[Problem {
                    resource: 0,
                    field: long.clone(),
                    message: long.clone(),
                    help: Some(long.clone()),
                    fault: Fault::Invalid,
                }],
                "resources",
                long.clone(),
            ),
        ];
        for status in statuses {
            assert!(status.message().len() < 3_000);
            assert!(status.details().len() < 5_000, "{}", status.details().len());
        }
    }
}
