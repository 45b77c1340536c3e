//! TCP through two agents: bytes, ends and an app's own TLS.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, eventually};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    shop::{self, PATIENCE},
    tcp_app::TcpApp,
};

const WEB_MAY_CONNECT: &str =
    "permit (principal == Node::\"web\", action == Action::\"connect\", resource in Service::\"cache\");";

/// A mesh where web may connect to cache, with this app behind it.
fn connected(app: SocketAddr) -> (MeshBox, Agent, Agent) {
    let mesh = shop::open();
    shop::set_policy(&mesh, "cache", WEB_MAY_CONNECT);
    let redis = shop::redis(&mesh, app);
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    (mesh, redis, web)
}

/// A connection through the mesh on which the first byte has come back.
pub(crate) fn open_echo(address: SocketAddr) -> TcpStream {
    eventually("a TCP service answers", PATIENCE, || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.write_all(b"?").ok()?;
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        Some(stream)
    })
}

#[test]
fn ten_megabytes_pass_both_ways_at_once() {
    let app = TcpApp::echo();
    let (_mesh, _orders, web) = connected(app.address());
    let mut stream = open_echo(web.tcp("cache:6379"));
    let sent: Vec<u8> = (0..10_u32 << 20).map(|number| (number % 251) as u8).collect();
    let received = thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let sent = &sent;
        scope.spawn(move || {
            writer.write_all(sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} bytes came back", received.len());
}

#[test]
fn a_half_closed_connection_still_answers() {
    let app = TcpApp::count();
    let (_mesh, _orders, web) = connected(app.address());
    let address = web.tcp("cache:6379");
    let answer = eventually("the app answers after the half close", PATIENCE, || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.write_all(&[b'x'; 12_345]).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert_eq!(answer, "12345");
}

#[test]
fn many_connections_share_the_mesh_and_end_apart() {
    let app = TcpApp::echo();
    let (_mesh, _orders, web) = connected(app.address());
    let mut streams: Vec<TcpStream> = (0..40).map(|_| open_echo(web.tcp("cache:6379"))).collect();
    for (number, stream) in streams.iter_mut().enumerate().step_by(2) {
        stream.write_all(&[number as u8]).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate().skip(1).step_by(2) {
        stream.write_all(&[number as u8]).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [number as u8]);
    }
    assert!(app.connections() >= 40);
}

#[test]
fn a_dead_app_is_a_closed_connection() {
    let dead = hauberk_integration_tests::free_port();
    let (_mesh, _orders, web) = connected(dead);
    let mut stream = TcpStream::connect(web.tcp("cache:6379")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = stream.write_all(b"anybody?");
    let mut answer = Vec::new();
    let outcome = stream.read_to_end(&mut answer);
    let timed_out = outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out && answer.is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apps_own_tls_passes_untouched() {
    hauberk_tls::install_provider();
    let generated = rcgen::generate_simple_self_signed(["cache.internal".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = generated.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(generated.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                stream.write_all(name.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    let (_mesh, _orders, web) = connected(address);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let greeting = loop {
        let attempt = async {
            let stream = tokio::net::TcpStream::connect(web.tcp("cache:6379")).await?;
            let name = ServerName::try_from("cache.internal").unwrap();
            let mut stream = connector.connect(name, stream).await?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).await?;
            Ok::<_, std::io::Error>(greeting)
        };
        match attempt.await {
            Ok(greeting) => break greeting,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(greeting, "cache.internal", "the name that the client sent reaches the app's TLS");
}

#[test]
fn a_tunnel_by_connect_leads_to_tcp_services_alone() {
    let app = TcpApp::echo();
    let (mesh, _redis, web) = connected(app.address());
    let orders = App::start("orders");
    let _orders = shop::orders(&mesh, orders.address());
    drop(open_echo(web.tcp("cache:6379")));
    let connect = |target: &str| {
        let mut stream = TcpStream::connect(web.outbound()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        write!(stream, "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let status = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
        (stream, status)
    };
    let (mut stream, status) = connect("cache:6379");
    assert_eq!(status, "200");
    stream.write_all(b"GET / HTTP/1.1\n\n").unwrap();
    let mut echo = [0; 16];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"GET / HTTP/1.1\n\n");

    let before = (app.connections(), orders.requests());
    for target in ["orders:8080", "nowhere:6379", "cache:1", "127.0.0.1:22", "[::1]:6379"] {
        let (_, status) = connect(target);
        assert!(status.starts_with(['4', '5']), "{target}: {status}");
    }
    assert_eq!((app.connections(), orders.requests()), before);
}
