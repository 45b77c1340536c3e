//! Clients that have a SPIFFE identity and no agent: plain rustls, HTTP or bare TCP.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hauberk_integration_tests::{App, MeshBox, dial};
use hauberk_tls::{KeyPair, Svid};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    peer::converse,
    shop::{self, PATIENCE, WEB_MAY_ALL},
    tcp_app::TcpApp,
};

/// Accepts a server that is a node of the shop by the SPIFFE id in its certificate, as such clients do. Its issuer is
/// not looked at: here the server judges the client.
#[derive(Debug)]
struct ById {
    ids: [&'static str; 2],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ById {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap().value;
        let is_known = |name: &GeneralName| matches!(name, GeneralName::URI(id) if self.ids.contains(id));
        assert!(names.general_names.len() == 1 && is_known(&names.general_names[0]), "{names:?}");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 must not happen".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A client with an identity and no agent.
pub(crate) struct Foreigner {
    config: ClientConfig,
}

impl Foreigner {
    async fn join(mesh: &MeshBox, node: &str) -> Self {
        let (svid, key) = dial::join(mesh, node).await;
        Self::with(&svid, &key)
    }

    /// Whoever holds this certificate.
    pub(crate) fn with(svid: &Svid, key: &KeyPair) -> Self {
        hauberk_tls::install_provider();
        Self::by(svid, key, Arc::clone(CryptoProvider::get_default().unwrap()))
    }

    /// The same, which knows this group of a key exchange and no other.
    pub(crate) fn over(group: NamedGroup, svid: &Svid, key: &KeyPair) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let known = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.iter().copied();
        let kx_groups = known.filter(|known| known.name() == group).collect();
        Self::by(svid, key, Arc::new(CryptoProvider { kx_groups, ..provider }))
    }

    fn by(svid: &Svid, key: &KeyPair, provider: Arc<CryptoProvider>) -> Self {
        let verifier = ById {
            ids: ["spiffe://box.test/mesh/shop/node/orders", "spiffe://box.test/mesh/shop/node/redis"],
            provider: Arc::clone(&provider),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(
                svid.chain().to_vec(),
                PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()).into(),
            )
            .unwrap();
        Self { config }
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        alpn: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        self.connect_from(Ipv4Addr::LOCALHOST, address, alpn).await
    }

    /// The same from another address of the loopback.
    pub(crate) async fn connect_from(
        &self,
        from: Ipv4Addr,
        address: SocketAddr,
        alpn: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(address).await?;
        // A name in SNI decides nothing, so any will do.
        let name = ServerName::try_from("whatever.example").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One GET, and the status of its answer.
    pub(crate) async fn status(&self, address: SocketAddr, alpn: &[&[u8]], host: &str) -> String {
        let mut stream = self.connect(address, alpn).await.unwrap();
        let text = format!("GET /foreign HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = converse(&mut stream, text.as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_tcp_client_is_decided_like_any_other() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = TcpApp::echo();
    let redis = shop::redis(&mesh, app.address());
    let web = Foreigner::join(&mesh, "web").await;
    let mut stream = web.connect(redis.inbound(6379), &[]).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"hello");
    assert_eq!(app.connections(), 1);

    let intruder = Foreigner::join(&mesh, "intruder").await;
    let answer = match intruder.connect(redis.inbound(6379), &[]).await {
        Ok(mut stream) => read_after(&mut stream, b"hello").await,
        Err(_) => Vec::new(),
    };
    assert!(answer.is_empty());
    assert_eq!(app.connections(), 1, "the app never heard of it");

    // A protocol that a TCP port does not speak is no way in.
    assert!(web.connect(redis.inbound(6379), &[b"http/1.1"]).await.is_err());

    // What is open is cut when it is no longer permitted.
    mesh.hauberk(&["delete", "policy", "all"]).ok();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the open connection is cut");
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_http_client_is_served_by_authority() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let address = orders.inbound(8080);
    let web = Foreigner::join(&mesh, "web").await;
    let http1: &[&[u8]] = &[b"http/1.1"];
    assert_eq!(web.status(address, http1, "orders").await, "200");
    assert_eq!(web.status(address, http1, "orders:8080").await, "200");
    // The port is one service only, so any other name can mean nothing else.
    assert_eq!(web.status(address, http1, "whatever.example").await, "200");
    assert_eq!(app.requests(), 3);

    let intruder = Foreigner::join(&mesh, "intruder").await;
    assert_eq!(intruder.status(address, http1, "orders").await, "403");
    // Without ALPN an HTTP port stays one: requests are decided, bytes are not passed on.
    let status = match intruder.connect(address, &[]).await {
        Ok(mut stream) => {
            let text = b"GET /foreign HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
            String::from_utf8(read_after(&mut stream, text).await).unwrap()
        }
        Err(_) => String::new(),
    };
    assert!(status.is_empty() || status.starts_with("HTTP/1.1 403 "), "{status}");
    assert!(web.connect(address, &[b"hauberk-tcp/1"]).await.is_err(), "an HTTP port has no tunnels");
    assert_eq!(app.requests(), 3);
}

/// Sends bytes and reads until the other side ends.
pub(crate) async fn read_after(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the other side ends");
    answer
}

/// An open connection ends with its certificate, and an expired one opens none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_worth_nothing() {
    if !shop::wants_long_tests() {
        return;
    }
    let mesh = shop::open_with(&["--svid-ttl", "1m"]);
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (app, tcp) = (App::start("orders"), TcpApp::echo());
    let orders = shop::orders(&mesh, app.address());
    let redis = shop::redis(&mesh, tcp.address());
    let web = Foreigner::join(&mesh, "web").await;
    let mut open = web.connect(redis.inbound(6379), &[]).await.unwrap();
    open.write_all(b"?").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'?');
    assert_eq!(web.status(orders.inbound(8080), &[b"http/1.1"], "orders").await, "200");
    let mut rest = Vec::new();
    let _ =
        timeout(Duration::from_secs(90), open.read_to_end(&mut rest)).await.expect("it is cut at notAfter");

    // notAfter itself is still within a certificate's life (RFC 5280 §4.1.2.5), so that its last second may pass.
    let mut refused = 0;
    let mut seen = app.requests();
    while refused < 3 {
        let answer = match web.connect(orders.inbound(8080), &[b"http/1.1"]).await {
            Ok(mut stream) => read_after(&mut stream, b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await,
            Err(_) => Vec::new(),
        };
        if answer.is_empty() {
            refused += 1;
            assert_eq!(app.requests(), seen);
        } else {
            assert!(refused == 0 && app.requests() < 10, "{}", String::from_utf8_lossy(&answer));
            seen = app.requests();
        }
    }
}
