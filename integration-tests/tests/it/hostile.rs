//! Peers that are not who they should be, on every port that the mesh opens.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hauberk_identity::{Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, dial, eventually, eventually_async, get, request, skip,
    wants_long_tests,
};
use hauberk_proto::{
    admin::v1::{ListAdminsRequest, admins_client::AdminsClient},
    agent::v1::{SignCertificateRequest, enrollment_client::EnrollmentClient},
};
use hauberk_tls::{
    CertificateRequest, IssuingAuthority, KeyPair, RootAuthority, Svid, SvidTemplate, install_provider,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::shop::SMALL_SHOP;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn shop() -> (MeshBox, App, Agent) {
    install_provider();
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let agent = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    mesh.wait_enforced();
    (mesh, app, agent)
}

/// A certificate chain and its key, as a peer presents them.
type Credential = (Vec<CertificateDer<'static>>, KeyPair);

fn credential((svid, key): (Svid, KeyPair)) -> Credential {
    (svid.chain().to_vec(), key)
}

/// A certificate for `id` by an authority of the attacker's, which calls itself by the name of `domain`.
fn forged(domain: &str, id: &str) -> (Svid, KeyPair) {
    let domain = TrustDomain::parse(domain).unwrap();
    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let hour = Duration::from_secs(3600);
    let validity = Validity::new(now.minus(hour), now.plus(hour)).unwrap();
    let root = RootAuthority::create(&domain, validity, Serial::from_random([1; 16])).unwrap();
    let issuing = IssuingAuthority::create(&root, validity, Serial::from_random([2; 16])).unwrap();
    let key = KeyPair::generate().unwrap();
    let template = SvidTemplate {
        id: SpiffeId::parse(id).unwrap(),
        public_key: key.public_key(),
        serial: Serial::from_random([3; 16]),
        validity,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    (issuing.sign(&template).unwrap(), key)
}

fn named(id: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn self_signed(id: &str) -> Credential {
    self_signed_but(id, |_| ())
}

/// The same, but for what is wrong with it besides. It says who vouches for it, as our own do.
fn self_signed_but(id: &str, wrong: impl FnOnce(&mut rcgen::CertificateParams)) -> Credential {
    let key = KeyPair::generate().unwrap();
    let mut params = named(id);
    params.use_authority_key_identifier_extension = true;
    wrong(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    (vec![certificate.into()], key)
}

/// A certificate for `id` that a workload has signed with its own key, as if it were an authority.
fn signed_by_workload(id: &str, (svid, workload): &(Svid, KeyPair)) -> Credential {
    let key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&svid.chain()[0], workload).unwrap();
    let certificate = named(id).signed_by(&key, &issuer).unwrap();
    let chain = std::iter::once(certificate.into()).chain(svid.chain().iter().cloned()).collect();
    (chain, key)
}

/// Trusts whoever answers: these tests are about what the other side does.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Sends a request over TLS with this credential and gives back everything that comes.
async fn ask(address: SocketAddr, credential: Option<Credential>) -> String {
    ask_as(address, credential, b"http/1.1", None).await
}

/// The same, offering this protocol, and naming this server.
async fn ask_as(
    address: SocketAddr,
    credential: Option<Credential>,
    alpn: &[u8],
    server: Option<&'static str>,
) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)));
    let mut config = match credential {
        Some((chain, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        // An address is not sent, a name is (SNI).
        let name = match server {
            Some(server) => ServerName::try_from(server).expect("the test writes a name"),
            None => ServerName::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        Ok::<_, std::io::Error>((answer, ended.err()))
    };
    match timeout(PATIENCE, exchange).await.expect("the peer neither answers nor closes") {
        Ok((answer, _)) => String::from_utf8_lossy(&answer).into_owned(),
        Err(_) => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_the_mesh_are_heard_on_the_mesh_port() {
    let (mesh, app, agent) = shop();
    let port = agent.inbound(8080);
    let web = dial::join(&mesh, "web").await;
    let web_id = web.0.id().to_string();
    let good = || Some((web.0.chain().to_vec(), KeyPair::from_pkcs8_der(&web.1.to_pkcs8_der()).unwrap()));
    let answer = ask(port, good()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "the permitted caller is served: {answer}");
    assert_eq!(app.requests(), 1);

    let (mut mixed, mixed_key) = credential(forged("box.test", &web_id));
    mixed[1] = web.0.chain()[1].clone();
    let (admin_svid, admin_key) =
        (Svid::from_pem(&mesh.context("certificate_pem")), KeyPair::from_pkcs8_pem(&mesh.context("key_pem")));
    let two_uris = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://box.test/other".try_into().unwrap()));
    };
    let is_ca = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    };
    let is_old = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let is_early = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    };
    for (what, credential, reason) in [
        ("no certificate", None, "no_certificate"),
        ("self-signed", Some(self_signed(&web_id)), "untrusted"),
        ("self-signed, of two names", Some(self_signed_but(&web_id, two_uris)), "untrusted"),
        ("self-signed, an authority's", Some(self_signed_but(&web_id, is_ca)), "is_ca"),
        ("self-signed, of long ago", Some(self_signed_but(&web_id, is_old)), "expired"),
        ("self-signed, of the future", Some(self_signed_but(&web_id, is_early)), "not_yet_valid"),
        ("another authority of the same name", Some(credential(forged("box.test", &web_id))), "untrusted"),
        ("another authority's leaf beside our issuer", Some((mixed, mixed_key)), "untrusted"),
        (
            "another trust domain",
            Some(credential(forged("evil.test", "spiffe://evil.test/mesh/shop/node/web"))),
            "foreign_trust_domain",
        ),
        ("signed by a workload", Some(signed_by_workload(&web_id, &web)), "bad_certificate"),
        ("an admin's", Some(credential((admin_svid.unwrap(), admin_key.unwrap()))), ""),
    ] {
        let before = refused(&agent);
        let answer = ask(port, credential).await;
        let mut expected = before;
        if !reason.is_empty() {
            *expected.entry(reason.to_owned()).or_default() += 1;
        }
        eventually(&format!("{what} is counted as {reason}: {:?}", refused(&agent)), PATIENCE, || {
            (refused(&agent) == expected).then_some(())
        });
        assert!(!answer.contains("200"), "{what}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 403"), "{what}: {answer}");
        assert_eq!(app.requests(), 1, "{what}: the app saw it");
    }
    // A node of the mesh that nobody permitted is told so, with an id, and goes no further.
    let answer = ask(port, Some(credential(dial::join(&mesh, "intruder").await))).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("hauberk-decision: "), "{answer}");
    assert_eq!(app.requests(), 1);

    let (revoked, key) = dial::join(&mesh, "web").await;
    mesh.hauberk(&["revoke", "serial", &revoked.serial().to_string()]).ok();
    // Those who have joined here are no agents, and acknowledge nothing: until orders has heard it is asked. One that
    // is open when it hears is cut, which is not counted as this is.
    eventually_async("a revoked one is refused, and counted", PATIENCE, async || {
        let key = KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
        let is_empty = ask(port, Some((revoked.chain().to_vec(), key))).await.is_empty();
        (is_empty && refused(&agent).contains_key("revoked")).then_some(())
    })
    .await;
    let before = app.requests();

    let answer = ask(port, good()).await;
    assert_eq!(app.requests(), before + 1);
    assert!(answer.starts_with("HTTP/1.1 200"), "after all that the permitted caller is served: {answer}");
}

/// How many connections an agent's port has refused, by the reason.
fn refused(agent: &Agent) -> BTreeMap<String, u64> {
    let figures = get(agent.health(), "health", "/metrics").unwrap().body;
    let lines = figures.lines().filter_map(|line| {
        let sample = line.strip_prefix("hauberk_inbound_connections_refused_total{")?;
        let (labels, count) = sample.rsplit_once("} ")?;
        let (_, reason) = labels.split_once("reason=\"")?;
        Some((reason.trim_end_matches('"').to_owned(), count.parse().ok()?))
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_protocol_nor_server_name_opens_what_is_not_permitted() {
    let (mesh, app, agent) = shop();
    let port = agent.inbound(8080);
    let web = dial::join(&mesh, "web").await;
    let good = || Some((web.0.chain().to_vec(), KeyPair::from_pkcs8_der(&web.1.to_pkcs8_der()).unwrap()));
    // The name of another service, of the caller's own and of none: the port alone says what is asked for.
    for (number, server) in [(1, "payments"), (2, "web"), (3, "box.test"), (4, "orders-admin.shop")] {
        let answer = ask_as(port, good(), b"http/1.1", Some(server)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{server}: {answer}");
        assert_eq!(app.requests(), number);
    }
    let intruder = dial::join(&mesh, "intruder").await;
    for server in ["orders", "web"] {
        let chain = intruder.0.chain().to_vec();
        let key = KeyPair::from_pkcs8_der(&intruder.1.to_pkcs8_der()).unwrap();
        let answer = ask_as(port, Some((chain, key)), b"http/1.1", Some(server)).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{server}: {answer}");
    }
    // Protocols of other ports, and of none.
    for (number, alpn) in [&b"hauberk-tcp/1"[..], b"h3", b"HTTP/1.1", b"http/1.0"].iter().enumerate() {
        assert_eq!(ask_as(port, good(), alpn, None).await, "");
        let count = number as u64 + 1;
        eventually("it is counted", PATIENCE, || {
            (refused(&agent).get("wrong_alpn") == Some(&count)).then_some(())
        });
    }
    assert_eq!(app.requests(), 4);
    // The control plane speaks HTTP/2 and nothing else, whoever asks.
    for address in [mesh.admin_address(), mesh.agent_address()].map(|address| address.parse().unwrap()) {
        for alpn in [&b"http/1.1"[..], b"h3", b"H2", b"hauberk-tcp/1", b"acme-tls/1"] {
            for credential in [good(), None] {
                let answer = ask_as(address, credential, alpn, None).await;
                assert_eq!(answer, "", "{}", String::from_utf8_lossy(alpn));
            }
        }
    }
    mesh.hauberk(&["get", "meshes"]).ok();
}

#[test]
fn plaintext_on_the_mesh_port_reaches_nobody() {
    let (mesh, app, agent) = shop();
    for bytes in
        ["GET /orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n\r\n"]
    {
        let answer = request(agent.inbound(8080), bytes);
        assert!(answer.is_err(), "{bytes:?}: {answer:?}");
    }
    for port in [mesh.admin_address(), mesh.agent_address()] {
        assert!(get(port.parse().unwrap(), "control-plane", "/").is_err());
    }
    assert_eq!(app.requests(), 0);
    mesh.hauberk(&["get", "meshes"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_not_spoken() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed");
    }
    let (mesh, app, agent) = shop();
    let (svid, key) = dial::join(&mesh, "web").await;
    let file = mesh.folder().join("web.pem");
    std::fs::write(&file, format!("{}{}", *key.to_pkcs8_pem(), svid.to_pem())).unwrap();
    let client = |version: &str, port: &str| {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", version, "-quiet", "-connect", port, "-cert"])
            .arg(&file)
            .arg("-cert_chain");
        command.arg(&file).arg("-key").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may be refused before it has read anything.
        let _ = std::io::Write::write_all(
            &mut input,
            b"GET /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        );
        let output = child.wait_with_output().unwrap();
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let mesh_port = agent.inbound(8080).to_string();
    let (answer, said) = client("-tls1_3", &mesh_port);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}{said}");
    for port in [mesh_port.as_str(), mesh.admin_address(), mesh.agent_address()] {
        let (answer, said) = client("-tls1_2", port);
        assert!(answer.is_empty() && said.contains("protocol version"), "{port}: {answer}{said}");
    }
    assert_eq!(app.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_credentials_open_neither_api_of_the_control_plane() {
    let (mesh, _app, _agent) = shop();
    let list = async |connector| {
        let channel = dial::channel(mesh.admin_address(), connector);
        AdminsClient::new(channel).list_admins(ListAdminsRequest {}).await
    };
    list(dial::admin(&mesh)).await.unwrap();
    let (svid, key) = forged("box.test", "spiffe://box.test/admin/admin");
    list(dial::bearer(&mesh, svid, &key)).await.unwrap_err();
    list(dial::stranger(&mesh)).await.unwrap_err();

    let renew = async |svid: Svid, key: KeyPair| {
        let csr = CertificateRequest::create(&key).unwrap();
        let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
        let mut client = EnrollmentClient::new(channel);
        client.sign_certificate(SignCertificateRequest { csr }).await
    };
    let (svid, key) = dial::join(&mesh, "web").await;
    let renewed = renew(svid, key).await.unwrap().into_inner().certificate.unwrap();
    assert_eq!(renewed.spiffe_id, "spiffe://box.test/mesh/shop/node/web");
    let (svid, key) = forged("box.test", "spiffe://box.test/mesh/shop/node/web");
    renew(svid, key).await.unwrap_err();
    list(dial::admin(&mesh)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_connect_and_say_nothing_keep_nobody_out() {
    let (mesh, _app, agent) = shop();
    let mut silent = Vec::new();
    for address in [agent.inbound(8080), mesh.agent_address().parse().unwrap()] {
        for _ in 0..40 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
    }
    let web = dial::join(&mesh, "web").await;
    let answer = ask(agent.inbound(8080), Some(credential(web))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_certificates_are_refused_everywhere() {
    if !wants_long_tests() {
        return;
    }
    install_provider();
    let mesh = MeshBox::start_with(&["--svid-ttl", "1m"]);
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let agent = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    mesh.wait_enforced();
    let (svid, key) = dial::join(&mesh, "web").await;
    let again = || Some((svid.chain().to_vec(), KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap()));
    assert!(ask(agent.inbound(8080), again()).await.starts_with("HTTP/1.1 200"));
    let not_after = svid.validity().not_after();
    let expired = || UnixMillis::from_secs(UnixTime::now().as_secs()) > not_after;
    eventually("the certificate expires", Duration::from_secs(90), || expired().then_some(()));
    assert!(!ask(agent.inbound(8080), again()).await.contains("200"));
    assert_eq!(app.requests(), 1);
    let csr = CertificateRequest::create(&key).unwrap();
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
    let mut client = EnrollmentClient::new(channel);
    client.sign_certificate(SignCertificateRequest { csr }).await.unwrap_err();
}
