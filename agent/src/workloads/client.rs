//! How a program asks a Workload API, for the commands that do.

use std::io;

use hauberk_identity::{TrustDomain, TrustDomainError, UnixMillis};
use hauberk_proto::refusal;
use hauberk_proto::workload::ValidateJwtsvidRequest;
use hauberk_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hauberk_tls::{BundleError, KeyError, SvidError, TrustBundle};
use prost_types::value::Kind;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::control_plane::OneConnection;

/// The largest answer: revocation lists are long, and other libraries' limit of 4 MiB is no law.
const LARGEST_ANSWER: usize = 64 << 20;

/// Asks on one connection.
pub(super) type Client = SpiffeWorkloadApiClient<Channel>;

/// Nothing came of asking a Workload API.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Nobody answers. The fault is whoever named the socket, or the agent does not run.
    #[error("no agent answers on {socket}: does it run with --workload-api-socket? ({source})")]
    NobodyThere {
        /// The socket.
        socket: String,
        /// What the system says.
        source: io::Error,
    },
    /// The socket's name says nothing that is known here. The fault is whoever wrote it.
    #[error(
        "{0:?} names no socket: only unix: with an absolute path is known here, such as unix:///run/hauberk/api.sock"
    )]
    NoSocket(String),
    /// A token that was issued just now is not good here. The fault is a clock's.
    #[error(
        "the token that the control plane has issued just now is not good by this host's clock ({0}): the two clocks differ, \
         let both keep time by NTP"
    )]
    Clock(String),
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Broken(#[from] tonic::transport::Error),
    /// The agent knows nobody like us.
    #[error("no identity for this program ({0}): {why}", why = why(.0))]
    NoIdentity(String),
    /// The agent answers something else.
    #[error("the agent answers {:?}: {}", .0.code(), .0.message())]
    Answer(Status),
    /// The agent's answer cannot be read. The fault is the agent's.
    #[error("the agent's answer cannot be read: {0}")]
    Svid(#[from] SvidError),
    /// The agent's answer cannot be read. The fault is the agent's.
    #[error("the agent's answer cannot be read: {0}")]
    Key(#[from] KeyError),
    /// The agent's answer cannot be read. The fault is the agent's.
    #[error("the agent's answer cannot be read: {0}")]
    Bundle(#[from] BundleError),
    /// The agent's answer cannot be read. The fault is the agent's.
    #[error("the agent's answer cannot be read: {0}")]
    TrustDomain(#[from] TrustDomainError),
    /// A token proves nothing. The fault is whoever presents it.
    #[error("the token proves nothing: {0}")]
    NoProof(String),
    /// The flags do not go together. The fault is whoever wrote them.
    #[error("{0}")]
    Usage(String),
    /// The directory takes no files. The fault is whoever named it.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
}

impl ApiError {
    /// Whether the agent is nobody for now, and has let us wait before it said so.
    pub(super) fn has_waited(&self) -> bool {
        let Self::Answer(status) = self else { return false };
        matches!(refusal::reason(status).as_deref(), Some(refusal::NOT_JOINED | refusal::CERTIFICATE_ENDED))
    }
}

/// Connects.
pub(super) async fn connect(socket: &str) -> Result<Client, ApiError> {
    let path = path(socket).ok_or_else(|| ApiError::NoSocket(socket.to_owned()))?;
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| ApiError::NobodyThere { socket: path.to_owned(), source })?;
    let channel =
        Endpoint::from_static("http://localhost").connect_with_connector(OneConnection::new(stream)).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

/// The path that an address means (SPIFFE Workload Endpoint §4), or a path as it is.
fn path(socket: &str) -> Option<&str> {
    match socket.strip_prefix("unix:") {
        // What is between two slashes and the path would be a host.
        Some(rest) => Some(rest.strip_prefix("//").unwrap_or(rest)).filter(|path| path.starts_with('/')),
        None => Some(socket).filter(|socket| !socket.contains("://") && !socket.starts_with("tcp:")),
    }
}

/// A request that says that it is meant.
pub(super) fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// What a status means.
pub(super) fn judge(status: Status) -> ApiError {
    if status.code() != Code::PermissionDenied {
        return ApiError::Answer(status);
    }
    // An API that is not ours gives no reason.
    ApiError::NoIdentity(refusal::reason(&status).unwrap_or_else(|| "no reason given".to_owned()))
}

/// What a reason means, and what to do about it.
fn why(reason: &str) -> &'static str {
    match reason {
        refusal::NO_ENROLLMENT => {
            "no enrollment has the agent's node as its parent: `hauberk get enrollments` lists those that there are"
        }
        refusal::AGENT_REFUSED => {
            "the agent is revoked, or its node is in quarantine, so that everybody refuses it and it vouches for nobody: `hauberk get \
             instances` says which"
        }
        refusal::NOT_ITS_IDENTITY => {
            "it has identities, and not the one that was asked for: without --spiffe-id it is given those that it has"
        }
        refusal::NOT_VOUCHED_FOR => {
            "the control plane does not let the agent vouch for it, or not any longer: its enrollment was changed or deleted, or the \
             agent is refused; the audit log (workload.mint) says why"
        }
        _ => {
            "no enrollment of the agent's node has selectors that are all true of it; the agent's log (workload_denied) and `hauberk \
             describe enrollment NAME` say which are missing"
        }
    }
}

/// The stream ended.
pub(super) fn nothing() -> ApiError {
    ApiError::Answer(Status::internal("the stream ended without an answer"))
}

/// Until when a token is good, as the Workload API reads it.
pub(super) async fn expiry(client: &mut Client, token: &str, audience: &str) -> Result<UnixMillis, ApiError> {
    let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() };
    let answer = client.validate_jwtsvid(marked(request)).await.map_err(|status| match status.code() {
        // It is verified by the agent, whose host's clock is ours.
        Code::InvalidArgument if is_about_time(status.message()) => {
            ApiError::Clock(status.message().to_owned())
        }
        _ => judge(status),
    })?;
    let answer = answer.into_inner();
    match answer.claims.unwrap_or_default().fields.remove("exp").and_then(|claim| claim.kind) {
        // What is none, or too much, becomes the nearest that there is.
        Some(Kind::NumberValue(seconds)) => Ok(UnixMillis::from_secs(seconds as u64)),
        _ => Err(ApiError::Answer(Status::internal("a token without an end"))),
    }
}

/// Whether a token was refused for the time alone, as hauberk-tls words it.
fn is_about_time(message: &str) -> bool {
    message.starts_with("the token expired at") || message.starts_with("the token is valid from")
}

/// The name of a trust domain, of its SPIFFE id.
pub(super) fn bare(id: &str) -> &str {
    id.strip_prefix("spiffe://").unwrap_or(id)
}

/// Reads the roots of a trust domain.
pub(super) fn read_bundle(trust_domain: &str, der: &[u8]) -> Result<TrustBundle, ApiError> {
    Ok(TrustBundle::from_concatenated_der(TrustDomain::parse(trust_domain)?, der)?)
}

#[cfg(test)]
mod tests {
    use hauberk_tls::jwt::JwtSvidError;

    use super::*;

    #[test]
    fn a_socket_is_named_by_a_path_or_by_unix_and_an_absolute_one() {
        for (socket, meant) in [
            ("unix:///run/api.sock", Some("/run/api.sock")),
            ("unix:/run/api.sock", Some("/run/api.sock")),
            ("/run/api.sock", Some("/run/api.sock")),
            ("api.sock", Some("api.sock")),
            ("unix://host/run/api.sock", None),
            ("unix:api.sock", None),
            ("unix:", None),
            ("tcp://127.0.0.1:8000", None),
            ("tcp:127.0.0.1:8000", None),
        ] {
            assert_eq!(path(socket), meant, "{socket}");
        }
    }

    #[test]
    fn what_is_refused_for_the_time_alone_is_known_by_its_words() {
        let [earlier, later] = [1, 2].map(UnixMillis::from_secs);
        let expired = JwtSvidError::Expired { expired_at: earlier, now: later };
        let to_come = JwtSvidError::NotYetValid { valid_from: later, now: earlier };
        for error in [expired, to_come] {
            assert!(is_about_time(&error.to_string()), "{error}");
        }
        assert!(!is_about_time(&JwtSvidError::Claims.to_string()));
    }

    #[test]
    fn each_reason_is_told_in_its_own_words() {
        let told = |reason: &str| {
            judge(refusal::with_reason(Code::PermissionDenied, reason, "no identity issued")).to_string()
        };
        for (reason, words) in [
            (refusal::NO_ENROLLMENT, "no enrollment has the agent's node as its parent"),
            (refusal::AGENT_REFUSED, "the agent is revoked, or its node is in quarantine"),
            (refusal::NOT_ITS_IDENTITY, "not the one that was asked for"),
            (refusal::NOT_VOUCHED_FOR, "does not let the agent vouch for it"),
            (refusal::SELECTOR_MISSING, "selectors that are all true of it"),
        ] {
            let told = told(reason);
            assert!(told.contains(reason) && told.contains(words), "{told}");
        }
    }
}
