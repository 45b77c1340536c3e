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
    /// For the profile `https_web`: the server's certificate is by one of `roots`, and for the name that is asked for. The
    /// web is not ours: here alone a peer may know no more than TLS 1.2 (docs/decisions/0024-web-servers-of-others-may-speak-tls-1-2.md).
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn web(roots: WebRoots, timeout: Duration) -> Result<Self, SetupError> {
        let provider = provider::web_provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.0, Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
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
    /// The server is slow, refused, refuses us, or does not speak such TLS; or `host` is no such name.
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

#[cfg(test)]
mod tests {
    use hauberk_identity::{TrustDomain, UnixMillis, Validity};
    use rustls::{ServerConfig, SupportedProtocolVersion, version};
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
    use tokio::io::duplex;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::authority::{IssuingAuthority, RootAuthority};
    use crate::issue::SvidTemplate;
    use crate::live::{ClientAuth, LiveIdentity};
    use crate::stream::Acceptor;
    use crate::web::WebCertificate;
    use crate::{KeyPair, Svid};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A web server's certificate for `localhost`, by itself, and its key.
    fn web() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    /// How it goes with a server that speaks this version alone, as one of the web or as one with a SPIFFE id.
    async fn met(only: &'static SupportedProtocolVersion, is_web: bool) -> Result<(), String> {
        let made = web();
        let roots = WebRoots::from_pem(&made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider::web_provider())
            .with_protocol_versions(&[only])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (client, served) = duplex(1 << 16);
        let connector = match is_web {
            true => EndpointConnector::web(roots, LIMIT).unwrap(),
            false => {
                let bundle = Arc::new(TrustBundle::empty(TrustDomain::parse("example.org").unwrap()));
                let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
                EndpointConnector::spiffe(bundle, id, Arc::new(|_, _| None), LIMIT).unwrap()
            }
        };
        let serve = TlsAcceptor::from(Arc::new(config)).accept(served);
        let (connected, _served) = tokio::join!(connector.connect("localhost", client), serve);
        connected.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_web_server_may_speak_tls_1_2_and_one_with_a_spiffe_id_may_not() {
        assert_eq!(met(&version::TLS13, true).await, Ok(()));
        assert_eq!(met(&version::TLS12, true).await, Ok(()));
        let refused = met(&version::TLS12, false).await.unwrap_err();
        assert!(refused.to_lowercase().contains("version") || refused.contains("incompatible"), "{refused}");
    }

    fn svid(domain: &TrustDomain) -> (Svid, KeyPair, TrustBundle) {
        let now = UnixMillis::from_secs(UnixTime::now().as_secs());
        let hour = Duration::from_secs(3_600);
        let validity = Validity::new(now.minus(hour), now.plus(hour)).unwrap();
        let root = RootAuthority::create(domain, validity, Serial::from_random([1; 16])).unwrap();
        let issuing = IssuingAuthority::create(&root, validity, Serial::from_random([2; 16])).unwrap();
        let key = KeyPair::generate().unwrap();
        let template = SvidTemplate {
            id: SpiffeId::parse("spiffe://example.org/a").unwrap(),
            public_key: key.public_key(),
            serial: Serial::from_random([3; 16]),
            validity,
            dns_names: vec!["localhost".to_owned()],
            ip_addresses: vec![],
        };
        (issuing.sign(&template).unwrap(), key, issuing.root_bundle().clone())
    }

    /// All that accept connections are made in one of these ways: between agents, for agents and admins, for the web.
    #[tokio::test]
    async fn nothing_of_ours_that_accepts_speaks_tls_1_2() {
        let (svid, key, bundle) = svid(&TrustDomain::parse("example.org").unwrap());
        let live = LiveIdentity::new(bundle);
        live.publish(svid, &key).unwrap();
        let made = web();
        let own = WebCertificate::from_pem(&made.cert.pem(), made.signing_key.serialize_pem().as_bytes());
        let acceptors: [(&str, Acceptor); 5] = [
            ("required", live.acceptor(&[b"h2"], ClientAuth::Required, LIMIT).unwrap()),
            ("optional", live.acceptor(&[b"h2"], ClientAuth::Optional, LIMIT).unwrap()),
            ("tcp", live.acceptor(&[], ClientAuth::Required, LIMIT).unwrap()),
            ("web", live.web_acceptor(LIMIT).unwrap()),
            ("own", own.unwrap().acceptor(LIMIT).unwrap()),
        ];
        for (which, acceptor) in acceptors {
            let roots = WebRoots::from_pem(&made.cert.pem()).unwrap();
            let config = ClientConfig::builder_with_provider(provider::web_provider())
                .with_protocol_versions(&[&version::TLS12])
                .unwrap()
                .with_root_certificates(roots.0)
                .with_no_client_auth();
            let (client, served) = duplex(1 << 16);
            let name = ServerName::try_from("localhost").unwrap();
            let connect = TlsConnector::from(Arc::new(config)).connect(name, client);
            let (accepted, connected) = tokio::join!(acceptor.accept(served), connect);
            assert!(accepted.is_err(), "{which}");
            let refused = connected.map(drop).unwrap_err().to_string();
            assert!(refused.contains("ProtocolVersion"), "{which}: {refused}");
        }
    }
}
