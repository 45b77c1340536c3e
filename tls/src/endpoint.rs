//! Clients of SPIFFE bundle endpoints (SPIFFE Federation §5): who answers there is known by the web's authorities and a
//! name, or by a SPIFFE id. They present no certificate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Serial, SpiffeId};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::bundle::TrustBundle;
use crate::handshake::{ServerTrust, VerifyServer};
use crate::pem;
use crate::provider::{self, SetupError};
use crate::stream::{HandshakeError, handshake_error};
use crate::verifier::{PeerIdentity, VerifyError};

/// The authorities of the web that a host trusts. Cheap to clone.
#[derive(Clone)]
pub struct WebRoots(Arc<RootCertStore>);

/// Why roots of the web are not taken. The fault is whoever wrote the file.
#[derive(Debug, Error)]
pub enum WebRootsError {
    /// The text is not PEM.
    #[error("it is not PEM")]
    Pem,
    /// None of its certificates can be an authority.
    #[error("it holds no certificate of an authority")]
    Empty,
}

/// Says why somebody is refused whom a bundle vouches for, if that is so.
pub type Refuses = dyn Fn(&SpiffeId, Serial) -> Option<&'static str> + Send + Sync;

/// Opens TLS connections to one bundle endpoint. Cheap to clone.
#[derive(Clone)]
pub struct EndpointConnector {
    inner: TlsConnector,
    /// Of servers that are known by a SPIFFE id.
    refuses: Option<Arc<Refuses>>,
    timeout: Duration,
}

impl WebRoots {
    /// Reads roots from PEM. Those that nothing here can verify by are passed over, as browsers do with the sets that
    /// operating systems keep.
    ///
    /// # Errors
    /// It is not PEM, or holds none.
    pub fn from_pem(text: &str) -> Result<Self, WebRootsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pem::decode_certificates(text).map_err(|_| WebRootsError::Pem)?);
        if roots.is_empty() { Err(WebRootsError::Empty) } else { Ok(Self(Arc::new(roots))) }
    }
}

impl EndpointConnector {
    /// For the profile `https_web`: the server's certificate is by one of `roots`, and for the name that is asked for.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn web(roots: WebRoots, timeout: Duration) -> Result<Self, SetupError> {
        let provider = provider::provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.0, Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        Ok(Self::new(config, timeout))
    }

    /// For the profile `https_spiffe`: the server's X.509-SVID is by a root of `bundle`, names `server`, and is none that `refuses` has
    /// something against.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn spiffe(
        bundle: Arc<TrustBundle>,
        server: SpiffeId,
        refuses: Arc<Refuses>,
        timeout: Duration,
    ) -> Result<Self, SetupError> {
        let config = ClientConfig::builder_with_provider(provider::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(VerifyServer(ServerTrust::Fixed(bundle, server))))
            .with_no_client_auth();
        Ok(Self { refuses: Some(refuses), ..Self::new(config, timeout) })
    }

    fn new(mut config: ClientConfig, timeout: Duration) -> Self {
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { inner: TlsConnector::from(Arc::new(config)), refuses: None, timeout }
    }

    /// Begins a handshake with the server on `stream`, which is known by the DNS name or IP address `host`.
    ///
    /// # Errors
    /// The server is slow, refused, refuses us, or does not speak TLS 1.3; or `host` is no such name.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| HandshakeError::Protocol(error.to_string()))?;
        let stream = timeout(self.timeout, self.inner.connect(name, stream)).await;
        let stream = stream.map_err(|_| HandshakeError::Timeout(self.timeout))?;
        let stream = stream.map_err(|error| match handshake_error(error) {
            // There is no trust bundle here.
            HandshakeError::PeerRefused(VerifyError::UnknownIssuer) if self.refuses.is_none() => {
                HandshakeError::UnknownRoot
            }
            error => error,
        })?;
        if let Some(refuses) = &self.refuses {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let server = PeerIdentity::read(chain).map_err(HandshakeError::PeerRefused)?;
            if let Some(why) = refuses(server.id(), server.serial()) {
                return Err(HandshakeError::PeerDenied(why));
            }
        }
        Ok(stream.into())
    }
}

impl fmt::Debug for WebRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebRoots").field(&self.0.len()).finish()
    }
}

impl fmt::Debug for EndpointConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConnector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
