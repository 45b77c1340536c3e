//! The connection to the control plane: mutual TLS, checked by SPIFFE id, with errors that say what to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use hauberk_tls::{
    BootstrapTrust, Connector, HandshakeError, ServerExpectation, TlsStream, VerifyError, bootstrap_connector,
};
use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::context::Credential;

/// How long reaching the server may take, and then its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What gRPC speaks.
const ALPN: [&[u8]; 1] = [b"h2"];

/// Why the control plane cannot be called.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The address is malformed. The fault is the user's.
    #[error("`{server}` is no address: write HOST:PORT")]
    Address { server: String },
    /// The name has no address.
    #[error("the name in {server} cannot be resolved: {source}")]
    Resolve { server: String, source: std::io::Error },
    /// Nobody listens there.
    #[error("nothing answers at {server}: is the control plane running?")]
    Refused { server: String },
    /// The network does not answer.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable { server: String, reason: String },
    /// There is somebody, but not the control plane that this context trusts, or it does not trust us.
    #[error("{}", handshake_message(server, source))]
    Handshake { server: String, source: HandshakeError },
    /// TLS could not be set up. The fault is ours.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl ClientError {
    /// What the user can do.
    pub(crate) fn help(&self) -> Vec<String> {
        let text = match self {
            Self::Refused { .. } => {
                "start it with: hauberk-control-plane run --data-dir DIR; or choose another with: hauberk context use NAME"
            }
            Self::Unreachable { .. } => "check the address (hauberk context list) and the network",
            Self::Handshake {
                source: HandshakeError::PeerRefused(VerifyError::NotYetValid { .. }), ..
            } => "its certificate begins in the future: this machine's clock is probably behind",
            Self::Handshake { source: HandshakeError::PeerRefused(VerifyError::Expired { .. }), .. } => {
                "its certificate has expired: compare both machines' clocks; a running control plane renews its own"
            }
            Self::Handshake { source: HandshakeError::PeerRefused(VerifyError::UnknownIssuer), .. } => {
                "its root may have been replaced since this context last ran a command, or another control plane runs there, perhaps a new \
                 installation: get a new credential, with `hauberk-control-plane admin issue NAME` on its host or a login token, or choose \
                 another context"
            }
            Self::Handshake {
                source:
                    HandshakeError::Protocol(_)
                    | HandshakeError::Incompatible(_)
                    | HandshakeError::NotTls(_)
                    | HandshakeError::NoCommonProtocol
                    | HandshakeError::Io(_),
                ..
            } => "is that the admin API's port? (the agents' API has another)",
            Self::Handshake { source: HandshakeError::RefusedByPeer(_), .. } => {
                "the credential may be revoked or expired: hauberk-control-plane admin issue NAME on its host"
            }
            _ => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

fn handshake_message(server: &str, error: &HandshakeError) -> String {
    match error {
        HandshakeError::PeerRefused(reason) => {
            format!("{server} is not the control plane that was expected: {reason}")
        }
        HandshakeError::RefusedByPeer(alert) => {
            format!("{server} refused this credential (TLS alert {alert})")
        }
        other => format!("no secure connection to {server}: {other}"),
    }
}

/// Connects with a context's credential.
///
/// # Errors
/// Says at which step it failed.
pub(crate) async fn connect(server: &str, credential: &Credential) -> Result<Channel, ClientError> {
    let connector = credential
        .identity
        .connector(ServerExpectation::ControlPlane, &ALPN, true, CONNECT_TIMEOUT)
        .map_err(|error| ClientError::Setup(error.to_string()))?;
    open(server, connector).await
}

/// Connects without a credential, knowing the control plane by its root.
///
/// # Errors
/// Says at which step it failed.
pub(crate) async fn connect_pinned(server: &str, trust: BootstrapTrust) -> Result<Channel, ClientError> {
    let connector = bootstrap_connector(trust, &ALPN, CONNECT_TIMEOUT)
        .map_err(|error| ClientError::Setup(error.to_string()))?;
    open(server, connector).await
}

/// Dials once, so that what is wrong comes out plainly, and lets the channel begin with that connection.
async fn open(server: &str, connector: Connector) -> Result<Channel, ClientError> {
    let uri: Uri = format!("http://{server}")
        .parse()
        .ok()
        .filter(|uri: &Uri| uri.port_u16().is_some())
        .ok_or_else(|| ClientError::Address { server: server.to_owned() })?;
    let first = dial(server, &connector).await?;
    let dialer = Dialer { server: server.to_owned(), connector, first: Arc::new(Mutex::new(Some(first))) };
    Endpoint::from(uri)
        .timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .connect_with_connector(dialer)
        .await
        .map_err(|error| ClientError::Unreachable { server: server.to_owned(), reason: error.to_string() })
}

async fn dial(server: &str, connector: &Connector) -> Result<TlsStream<TcpStream>, ClientError> {
    let server = server.to_owned();
    let addresses: Vec<_> = tokio::net::lookup_host(&server)
        .await
        .map_err(|source| ClientError::Resolve { server: server.clone(), source })?
        .collect();
    let mut last =
        ClientError::Unreachable { server: server.clone(), reason: "it has no address".to_owned() };
    for address in addresses {
        last = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _slower_but_fine = stream.set_nodelay(true);
                let connection = connector
                    .connect(stream)
                    .await
                    .map_err(|source| ClientError::Handshake { server, source })?;
                return Ok(connection.into_parts().0);
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                ClientError::Refused { server: server.clone() }
            }
            Ok(Err(error)) => ClientError::Unreachable { server: server.clone(), reason: error.to_string() },
            Err(_) => {
                let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                ClientError::Unreachable { server: server.clone(), reason }
            }
        };
    }
    Err(last)
}

/// What tonic asks for connections.
#[derive(Clone)]
struct Dialer {
    server: String,
    connector: Connector,
    first: Arc<Mutex<Option<TlsStream<TcpStream>>>>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let ready = self.first.lock().ok().and_then(|mut first| first.take());
        let dialer = self.clone();
        Box::pin(async move {
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => dial(&dialer.server, &dialer.connector).await.map(TokioIo::new),
            }
        })
    }
}
