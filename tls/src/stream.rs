//! Handshakes with a time limit, and what is known of a connection once they are done.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig, InvalidMessage, ProtocolVersion, ServerConfig};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::handshake;
use crate::live::LiveIdentity;
use crate::verifier::{PeerIdentity, VerifyError};

/// Accepts TLS connections (see [`LiveIdentity::acceptor`]). Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    timeout: Duration,
}

/// Opens TLS connections (see [`LiveIdentity::connector`] and [`crate::bootstrap_connector`]). Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    inner: TlsConnector,
    /// Whose certificate is presented: there must be one before connecting makes sense.
    presents: Option<LiveIdentity>,
    timeout: Duration,
}

/// A connection whose handshake is done and whose peer, if it presented a certificate, is verified.
pub struct Connection<S> {
    stream: TlsStream<S>,
    peer: Option<PeerIdentity>,
}

/// What a handshake settled on, by the names that OpenSSL and others show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The protocol's version: `TLSv1.3`.
    pub version: &'static str,
    /// The group of the key exchange, such as `X25519MLKEM768`, `X25519` or `secp256r1`.
    pub group: &'static str,
}

/// Why a handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer was too slow.
    #[error("the TLS handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The connection broke, or the peer closed it without a reason.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
    /// We have no certificate to present yet.
    #[error("this side has no certificate yet")]
    NoCertificate,
    /// We refuse the peer's certificate. The fault is the peer's.
    #[error("the peer is refused: {0}")]
    PeerRefused(#[source] VerifyError),
    /// No root by which the server could be known, and there is no trust bundle, vouches for it.
    #[error("no root that is believed here vouches for its certificate")]
    UnknownRoot,
    /// The peer's certificate is good, and it is refused all the same, such as for being revoked. The fault is the peer's.
    #[error("the peer is refused although its certificate is good: {0}")]
    PeerDenied(&'static str),
    /// The peer refuses us with this alert (RFC 8446 §6).
    #[error("the peer refused the handshake with alert {0}")]
    RefusedByPeer(String),
    /// No common ALPN protocol. The fault is the peer's, which takes this for something else.
    #[error("the peer speaks no protocol that is spoken here")]
    NoCommonProtocol,
    /// Not TLS at all, as where something speaks plain HTTP to a port of the mesh.
    #[error("the peer does not speak TLS: {0}")]
    NotTls(String),
    /// Not TLS 1.3, or no common key exchange or signature.
    #[error("the peer does not speak TLS as required here: {0}")]
    Incompatible(String),
    /// Against the protocol.
    #[error("the peer does not speak TLS as it is: {0}")]
    Protocol(String),
}

/// The connection cannot export keying material: the handshake is not done.
#[derive(Debug, Error)]
#[error("the connection cannot export keying material")]
pub struct ExporterError(#[source] rustls::Error);

impl HandshakeError {
    /// Whether a certificate was refused for the time that it is here.
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::PeerRefused(error) if error.is_about_time())
    }
}

impl HandshakeError {
    /// Its kind, by a name for figures and logs: one of a fixed few.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "handshake_too_slow",
            Self::Io(_) => "connection_broke",
            Self::NoCertificate => "no_certificate_here",
            Self::PeerRefused(error) => error.reason(),
            Self::UnknownRoot => VerifyError::UnknownIssuer.reason(),
            Self::PeerDenied(_) => "denied",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::NoCommonProtocol => "wrong_alpn",
            Self::NotTls(_) => "not_tls",
            Self::Incompatible(_) => "incompatible_tls",
            Self::Protocol(_) => "against_tls",
        }
    }

    /// Whose fault it is, for a person.
    pub fn fault(&self) -> &'static str {
        match self {
            Self::PeerRefused(error) => error.fault(),
            Self::UnknownRoot => VerifyError::UnknownIssuer.fault(),
            Self::PeerDenied(_) => "the peer's",
            Self::NoCertificate => "this side's",
            Self::RefusedByPeer(_) => "the peer's bundle or clock, or this side's certificate",
            Self::Timeout(_) | Self::Io(_) => "the peer's, or the network's",
            Self::NoCommonProtocol | Self::NotTls(_) | Self::Incompatible(_) | Self::Protocol(_) => {
                "the peer's, which takes this port for another"
            }
        }
    }
}

impl Acceptor {
    pub(crate) fn new(config: Arc<ServerConfig>, timeout: Duration) -> Self {
        Self { inner: config.into(), timeout }
    }

    /// Answers the handshake of a client on `stream`.
    ///
    /// # Errors
    /// The client is slow, refused, refuses us, or does not speak TLS 1.3.
    pub async fn accept<S>(&self, stream: S) -> Result<Connection<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = timeout(self.timeout, self.inner.accept(stream))
            .await
            .map_err(|_| HandshakeError::Timeout(self.timeout))?
            .map_err(handshake_error)?;
        Connection::new(stream.into())
    }
}

impl Connector {
    pub(crate) fn new(config: Arc<ClientConfig>, presents: Option<LiveIdentity>, timeout: Duration) -> Self {
        Self { inner: config.into(), presents, timeout }
    }

    /// Begins a handshake with the server on `stream`.
    ///
    /// In TLS 1.3 a server that refuses our certificate says so only after our side of the handshake is done: the
    /// first read then fails.
    ///
    /// # Errors
    /// The server is slow, refused, refuses us, or does not speak TLS 1.3; or we have no certificate to present.
    pub async fn connect<S>(&self, stream: S) -> Result<Connection<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.presents.as_ref().is_some_and(|live| live.current().svid().is_none()) {
            return Err(HandshakeError::NoCertificate);
        }
        // rustls asks for a name; none is sent and the verifier decides by SPIFFE id alone.
        let nobody = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stream = timeout(self.timeout, self.inner.connect(nobody, stream))
            .await
            .map_err(|_| HandshakeError::Timeout(self.timeout))?
            .map_err(handshake_error)?;
        Connection::new(stream.into())
    }
}

impl<S> Connection<S> {
    fn new(stream: TlsStream<S>) -> Result<Self, HandshakeError> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = match certificates {
            [] => None,
            chain => Some(PeerIdentity::read(chain).map_err(HandshakeError::PeerRefused)?),
        };
        Ok(Self { stream, peer })
    }

    /// Who the peer is; `None` only for clients of an acceptor with [`crate::ClientAuth::Optional`].
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// The protocol that ALPN settled on (RFC 7301), or `None` where the client offered none.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// What the handshake settled on.
    pub fn negotiated(&self) -> Option<Negotiated> {
        let connection = self.stream.get_ref().1;
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => return None,
        };
        let group = connection.negotiated_key_exchange_group()?.name().as_str()?;
        Some(Negotiated { version, group })
    }

    /// `N` bytes that both ends of this connection, and nobody else, can derive (RFC 8446 §7.5).
    ///
    /// They name the connection: whoever shows them over another connection holds this one too.
    ///
    /// # Errors
    /// The handshake is not done.
    pub fn exporter<const N: usize>(&self, label: &[u8]) -> Result<[u8; N], ExporterError> {
        match &self.stream {
            TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; N], label, None),
            TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; N], label, None),
        }
        .map_err(ExporterError)
    }

    /// The encrypted stream, and who is at its other end.
    pub fn into_parts(self) -> (TlsStream<S>, Option<PeerIdentity>) {
        (self.stream, self.peer)
    }
}

pub(crate) fn handshake_error(error: io::Error) -> HandshakeError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return HandshakeError::Io(error);
    };
    if let Some(refusal) = handshake::refusal(tls) {
        return HandshakeError::PeerRefused(refusal);
    }
    match tls {
        rustls::Error::NoCertificatesPresented => HandshakeError::PeerRefused(VerifyError::NoCertificate),
        rustls::Error::AlertReceived(alert) => HandshakeError::RefusedByPeer(alert_name(*alert)),
        rustls::Error::NoApplicationProtocol => HandshakeError::NoCommonProtocol,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            HandshakeError::NotTls(tls.to_string())
        }
        rustls::Error::PeerIncompatible(_) => HandshakeError::Incompatible(tls.to_string()),
        other => HandshakeError::Protocol(other.to_string()),
    }
}

/// The name of an alert as RFC 8446 §6 writes it, such as `certificate_expired`.
fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase()
            && !name.is_empty()
            && !name.ends_with(|last: char| !last.is_ascii_lowercase())
        {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}
