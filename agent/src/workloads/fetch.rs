//! `hauberk-agent api fetch`: what a program is given by the Workload API, for people and for programs that only read
//! files.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use hauberk_identity::{TrustDomain, TrustDomainError};
use hauberk_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hauberk_proto::workload::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use hauberk_tls::{BundleError, KeyError, KeyPair, Svid, SvidError, TrustBundle};
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::config::{FetchFlags, Fetched};
use crate::control_plane::OneConnection;
use crate::state::file::replace;

/// How long an answer may take: an agent that has just begun waits for its control plane.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nothing was fetched, or not kept.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nobody answers. The fault is whoever named the socket, or the agent does not run.
    #[error("no agent answers on {socket}: does it run with --workload-api-socket? ({source})")]
    NobodyThere {
        /// The socket.
        socket: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the agent broke: {0}")]
    Broken(#[from] tonic::transport::Error),
    /// The agent knows nobody like us.
    #[error(
        "no identity for this program: no enrollment of the agent's node has selectors that are all true of it; the agent's log \
         (workload_denied) says which are missing"
    )]
    NoIdentity,
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
    /// The directory takes no files. The fault is whoever named it.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Asks once; gives what to print.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(flags: &FetchFlags) -> Result<String, FetchError> {
    let FetchFlags { what, socket, write } = flags;
    let directory = write.as_deref();
    match tokio::time::timeout(PATIENCE, ask(*what, socket, directory)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(FetchError::Answer(Status::deadline_exceeded("nothing within ten seconds"))),
    }
}

async fn ask(what: Fetched, socket: &str, directory: Option<&Path>) -> Result<String, FetchError> {
    let mut client = SpiffeWorkloadApiClient::new(connect(socket).await?);
    match what {
        Fetched::X509 => {
            let mut answers =
                client.fetch_x509svid(marked(X509svidRequest {})).await.map_err(judge)?.into_inner();
            show_svids(answers.message().await.map_err(judge)?.ok_or_else(nothing)?, directory)
        }
        Fetched::Bundle => {
            let asked = marked(X509BundlesRequest {});
            let mut answers = client.fetch_x509_bundles(asked).await.map_err(judge)?.into_inner();
            let answer = answers.message().await.map_err(judge)?.ok_or_else(nothing)?;
            let mut bundles: Vec<_> = answer.bundles.into_iter().collect();
            bundles.sort();
            let mut text = String::new();
            for (number, (id, der)) in bundles.into_iter().enumerate() {
                let bundle = read_bundle(id.strip_prefix("spiffe://").unwrap_or(&id), &der)?;
                describe_bundle(&mut text, &bundle);
                put(directory, &format!("bundle.{number}.pem"), bundle.to_pem().as_bytes())?;
            }
            Ok(text)
        }
    }
}

async fn connect(socket: &str) -> Result<Channel, FetchError> {
    let path = socket.strip_prefix("unix://").or_else(|| socket.strip_prefix("unix:")).unwrap_or(socket);
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| FetchError::NobodyThere { socket: path.to_owned(), source })?;
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(OneConnection::new(stream)).await?)
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn judge(status: Status) -> FetchError {
    if status.code() == Code::PermissionDenied { FetchError::NoIdentity } else { FetchError::Answer(status) }
}

fn nothing() -> FetchError {
    FetchError::Answer(Status::internal("the stream ended without an answer"))
}

fn show_svids(answer: X509svidResponse, directory: Option<&Path>) -> Result<String, FetchError> {
    let mut text = String::new();
    for (number, one) in answer.svids.into_iter().enumerate() {
        let svid = Svid::from_concatenated_der(&one.x509_svid)?;
        let key = KeyPair::from_pkcs8_der(&Zeroizing::new(one.x509_svid_key))?;
        let bundle = read_bundle(svid.id().trust_domain().as_str(), &one.bundle)?;
        let hint =
            if one.hint.is_empty() { String::new() } else { format!("  hint {}", one.hint.escape_default()) };
        let _infallible = writeln!(
            text,
            "{}{hint}\n  serial {}\n  valid until {}",
            svid.id(),
            svid.serial(),
            svid.validity().not_after(),
        );
        describe_bundle(&mut text, &bundle);
        put(directory, &format!("svid.{number}.pem"), svid.to_pem().as_bytes())?;
        put(directory, &format!("svid.{number}.key"), key.to_pkcs8_pem().as_bytes())?;
        put(directory, &format!("bundle.{number}.pem"), bundle.to_pem().as_bytes())?;
    }
    Ok(text)
}

fn read_bundle(trust_domain: &str, der: &[u8]) -> Result<TrustBundle, FetchError> {
    Ok(TrustBundle::from_concatenated_der(TrustDomain::parse(trust_domain)?, der)?)
}

fn describe_bundle(text: &mut String, bundle: &TrustBundle) {
    for root in bundle.roots() {
        let not_after = root.validity().not_after();
        let _infallible =
            writeln!(text, "  root of {} {} until {not_after}", bundle.trust_domain(), root.fingerprint());
    }
}

fn put(directory: Option<&Path>, name: &str, content: &[u8]) -> Result<(), FetchError> {
    let Some(directory) = directory else { return Ok(()) };
    replace(directory, name, content)
        .map_err(|source| FetchError::Write { path: directory.join(name).display().to_string(), source })
}
