//! How the control plane is reached: one TCP connection, one handshake, one gRPC channel over it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hauberk_tls::device::ChannelBinding;
use hauberk_tls::{Connector, ExporterError, HandshakeError, LiveIdentity, ServerExpectation, SetupError};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config::HostPort;

/// What both sides speak.
pub const ALPN: &[&[u8]] = &[b"h2"];
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is probed, and how long it may stay silent then.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The largest message; what the control plane sends is never larger.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Why the control plane cannot be talked to.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It is not there, or not there yet.
    #[error("the control plane at {address} cannot be reached: {source}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// It is there, and it or we refuse.
    #[error("no secure connection to the control plane: {0}")]
    Handshake(#[from] HandshakeError),
    /// The TLS library does not name it. The fault is ours.
    #[error(transparent)]
    Unnamed(#[from] ExporterError),
    /// The TLS library refuses. The fault is ours.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The connection broke before it could be used.
    #[error("the connection to the control plane broke: {0}")]
    Broken(#[from] tonic::transport::Error),
}

/// Connects once. The channel lives as long as this one connection: it never connects again by itself, so that whoever
/// uses it decides when and with which certificate.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(address: &HostPort, connector: &Connector) -> Result<Channel, ConnectError> {
    Ok(connect_named(address, connector).await?.0)
}

/// Connects once as ourselves, to a control plane for which the trust that we hold vouches.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_as(address: &HostPort, identity: &LiveIdentity) -> Result<Channel, ConnectError> {
    let connector = identity.connector(ServerExpectation::ControlPlane, ALPN, true, HANDSHAKE_TIMEOUT)?;
    connect(address, &connector).await
}

/// The same as [`connect`], with what names the connection: for evidence that is good on this one alone.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_named(
    address: &HostPort,
    connector: &Connector,
) -> Result<(Channel, ChannelBinding), ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { address: address.authority(), source };
    let tcp =
        tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((address.host.as_str(), address.port)))
            .await
            .map_err(|_| unreachable(io::Error::from(io::ErrorKind::TimedOut)))?
            .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let connection = connector.connect(tcp).await?;
    let name = ChannelBinding::of(&connection)?;
    let (stream, _peer) = connection.into_parts();
    // The name stands in requests only; who the server is was decided by its certificate.
    let endpoint = Endpoint::from_static("http://control-plane.hauberk")
        .timeout(RPC_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    Ok((endpoint.connect_with_connector(OneConnection::new(stream)).await?, name))
}

/// The address of ours that the control plane is reached from. Sends nothing.
///
/// # Errors
/// The name does not resolve, or there is no route.
pub async fn local_ip_towards(address: &HostPort) -> io::Result<IpAddr> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for remote in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
        match local_ip(remote) {
            Ok(ip) => return Ok(ip),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn local_ip(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // For UDP this only chooses the route.
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

/// Gives the one stream that was opened, then refuses.
pub(crate) struct OneConnection<S>(Mutex<Option<S>>);

impl<S> OneConnection<S> {
    /// This one.
    pub(crate) fn new(stream: S) -> Self {
        Self(Mutex::new(Some(stream)))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> tower_service::Service<Uri> for OneConnection<S> {
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let result = stream.map(TokioIo::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into());
        Box::pin(std::future::ready(result))
    }
}
