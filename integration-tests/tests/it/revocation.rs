//! Revoked certificates and nodes in quarantine: cut, refused everywhere, and told so; what a restart does not undo.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use hauberk_integration_tests::{AgentOptions, App, MeshBox, dial, eventually, get, skip};
use hauberk_proto::agent::v1::{
    FromAgent, Hello, SignCertificateRequest, ToAgent, enrollment_client::EnrollmentClient, from_agent,
    mesh_client::MeshClient, to_agent,
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    peer::Peer,
    shop::{self, PATIENCE, SMALL_SHOP, get_until},
    tcp_app::TcpApp,
};

const WAIT: &str = "--wait=20s";

fn small_shop() -> MeshBox {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh
}

fn channel(mesh: &MeshBox, svid: &Svid, key: &KeyPair) -> Channel {
    dial::channel(mesh.agent_address(), dial::bearer(mesh, svid.clone(), key))
}

fn serial(svid: &Svid) -> String {
    svid.serial().to_string()
}

/// Whether the peer gets an answer of the app's.
pub(crate) async fn is_served(peer: &Peer, address: std::net::SocketAddr) -> bool {
    let Ok(mut stream) = peer.connect("orders", address, &[b"http/1.1"]).await else { return false };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    answer.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_cut_and_refused_also_after_a_restart() {
    let mut mesh = small_shop();
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let (svid, key) = dial::join(&mesh, "web").await;
    let web = Peer::with(&mesh, &svid, &key);
    let address = orders.inbound(8080);
    let mut open = web.connect("orders", address, &[b"http/1.1"]).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut head = [0; 13];
    open.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 ");

    let told = mesh.hauberk(&["revoke", "serial", &serial(&svid), WAIT]).ok();
    assert!(told.stdout.contains("revoked (1 certificate)"), "{told:?}");
    assert!(told.stderr.contains("is enforced by 1 instance"), "the one that serves: {told:?}");
    let seen = app.requests();
    let mut rest = Vec::new();
    assert!(timeout(PATIENCE, open.read_to_end(&mut rest)).await.is_ok(), "what was open is cut");
    assert!(!is_served(&web, address).await);
    let again = Peer::join(&mesh, "web").await;
    assert!(is_served(&again, address).await, "the node's others are served");

    // Without a control plane an agent that starts again still knows.
    mesh.kill_control_plane();
    orders.restart(mesh.folder());
    let address = orders.inbound(8080);
    assert!(is_served(&again, address).await);
    assert!(!is_served(&web, address).await);
    assert_eq!(app.requests(), seen + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_joined_by_a_stolen_token_is_listed_and_revoked_with_it() {
    let mesh = small_shop();
    let app = App::start("orders");
    let orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let token = dial::token(&mesh, "web", &["--uses", "unlimited"]);
    let tokens = mesh.hauberk_json(&["get", "tokens", "-o", "json"]);
    let stolen = tokens["items"].as_array().unwrap().iter().find(|token| token["node"] == "web").unwrap();
    let id = stolen["id"].as_str().unwrap();
    let mut thieves = Vec::new();
    for _ in 0..3 {
        let key = KeyPair::generate().unwrap();
        let answer = dial::attest(&mesh, &token, &key).await.unwrap();
        let svid = Svid::from_der(answer.certificate.unwrap().chain).unwrap();
        thieves.push(Peer::with(&mesh, &svid, &key));
    }
    let listed = mesh.hauberk(&["get", "instances", id]).ok();
    assert_eq!(listed.stdout.lines().count(), 4, "a header and three: {listed:?}");
    for thief in &thieves {
        assert!(is_served(thief, orders.inbound(8080)).await);
    }

    let told = mesh.hauberk(&["revoke", "token", id, WAIT]).ok();
    assert!(told.stdout.contains(&format!("token/{id} revoked (3 certificates)")), "{told:?}");
    for thief in &thieves {
        assert!(!is_served(thief, orders.inbound(8080)).await);
    }
    // By another token, which is not meant.
    let honest = Peer::join(&mesh, "web").await;
    assert!(is_served(&honest, orders.inbound(8080)).await);
    let refused = dial::attest(&mesh, &token, &KeyPair::generate().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("unknown"), "{refused}");
    let again = mesh.hauberk(&["revoke", "token", id]).ok();
    assert!(again.stdout.contains("unchanged"), "{again:?}");
    let unused = mesh.hauberk_json(&["token", "create", "--node", "web", "-o", "json"]);
    let told = mesh.hauberk(&["revoke", "token", unused["id"].as_str().unwrap()]).ok();
    assert!(told.stdout.contains("deleted; nobody holds a certificate by it"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_revoked_gets_nothing_of_the_control_plane_but_that() {
    let mesh = small_shop();
    let (svid, key) = dial::join(&mesh, "web").await;
    let channel = channel(&mesh, &svid, &key);
    let (_up, mut down) = sync(channel.clone()).await;
    until(&mut down, |message| matches!(message, to_agent::Message::CurrentAt(_))).await.unwrap();

    mesh.hauberk(&["revoke", "serial", &serial(&svid), WAIT]).ok();
    until(&mut down, |message| matches!(message, to_agent::Message::Denylist(_))).await.unwrap();
    // It does not obey, and so the stream ends all the same.
    let ended = until(&mut down, |_| false).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    assert!(ended.message().contains("revoked"), "{ended}");

    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let mut renewal = EnrollmentClient::new(channel.clone());
    let refused = renewal.sign_certificate(SignCertificateRequest { csr }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("revoked"), "{refused}");
    let mut health = HealthClient::new(channel);
    let refused = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "also what anybody may ask: {refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opaque_stream_is_cut() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "web", shop::WEB_MAY_ALL);
    let app = TcpApp::echo();
    let redis = shop::redis(&mesh, app.address());
    let (svid, key) = dial::join(&mesh, "web").await;
    let web = Peer::with(&mesh, &svid, &key);
    let mut stream = web.connect("redis", redis.inbound(6379), &[]).await.unwrap();
    stream.write_all(b"ping\n").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    mesh.hauberk(&["revoke", "serial", &serial(&svid), WAIT]).ok();
    assert!(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.is_ok(), "it ends");
    if let Ok(mut again) = web.connect("redis", redis.inbound(6379), &[]).await {
        let _ = again.write_all(b"ping\n").await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, again.read_to_end(&mut answer)).await.expect("it ends");
        assert!(answer.is_empty(), "{answer:?}");
    }
}

#[test]
fn the_agents_of_a_revoked_node_close_themselves_and_are_not_called() {
    let mesh = small_shop();
    let app = App::start("orders");
    let token = mesh.token_file("orders", &["--uses", "unlimited"]);
    let options = AgentOptions { token_file: Some(token.clone()), ..AgentOptions::default() };
    let orders = mesh.agent("orders", options.app(8080, app.address()));
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    mesh.hauberk(&["revoke", "node", "orders", WAIT]).ok();
    let seen = app.requests();
    let answer = get(web.outbound(), "orders", "/").unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(app.requests(), seen);
    eventually("it closes itself", PATIENCE, || {
        let unready = get(orders.health(), "health", "/readyz").ok()?;
        (unready.status == 503 && unready.body.trim() == "revoked").then_some(())
    });
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let instance = listed["items"].as_array().unwrap().iter().find(|instance| instance["node"] == "orders");
    let lag = instance.and_then(|instance| instance["lagReason"].as_str()).unwrap_or_default();
    assert!(lag.contains("revoked"), "{listed}");

    // By the token that it has it does not come back, though that would let in others. By another one it does.
    eventually("it says what it waits for", PATIENCE, || {
        orders.process.log().contains("another one is needed").then_some(())
    });
    assert_eq!(get(orders.health(), "health", "/readyz").unwrap().status, 503);
    fs::copy(mesh.token_file("orders", &[]), &token).unwrap();
    get_until(&web, "orders", "/", 200);
    assert_eq!(get(orders.health(), "health", "/readyz").unwrap().status, 200);
}

#[test]
fn a_node_in_quarantine_serves_and_calls_nobody_until_that_is_undone() {
    let mesh = small_shop();
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    let token = mesh.token_file("web", &[]);
    let told = mesh.hauberk(&["quarantine", "node", "web", WAIT]).ok();
    assert!(told.stdout.contains("web is in quarantine"), "{told:?}");
    assert!(told.stderr.contains("is enforced by 1 instance"), "{told:?}");
    let seen = app.requests();
    // Whether it knows already or not: the others do.
    assert_ne!(get(web.outbound(), "orders", "/").unwrap().status, 200);
    eventually("it closes itself", PATIENCE, || {
        let unready = get(web.health(), "health", "/readyz").ok()?;
        (unready.body.trim() == "quarantined").then_some(())
    });
    assert_ne!(get(web.outbound(), "orders", "/").unwrap().status, 200);
    assert_eq!(app.requests(), seen);
    let refused = mesh.hauberk(&["quarantine", "node", "nobody"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    drop(token);

    mesh.hauberk(&["quarantine", "node", "web", "--undo", WAIT]).ok();
    get_until(&web, "orders", "/", 200);
    orders.restart(mesh.folder());
    get_until(&web, "orders", "/", 200);
}

#[test]
fn an_agent_whose_denylist_is_damaged_lets_nobody_in_until_it_has_another() {
    let mut mesh = small_shop();
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    mesh.hauberk(&["quarantine", "node", "intruder", WAIT]).ok();
    orders.process.stop(PATIENCE);
    let file = orders.state_dir().join("denylist");
    fs::write(&file, b"nonsense").unwrap();
    mesh.kill_control_plane();
    orders.relaunch(mesh.folder());
    let addresses = orders.state_dir().join("addresses.json");
    eventually("it says why it is closed", PATIENCE, || {
        let addresses: Value = serde_json::from_str(&fs::read_to_string(&addresses).ok()?).ok()?;
        let unready = get(addresses["health"].as_str()?.parse().ok()?, "health", "/readyz").ok()?;
        (unready.body.trim() == "no_denylist").then_some(())
    });
    mesh.restart_control_plane();
    orders.wait_ready();
}

#[test]
fn an_agent_whose_denylist_is_damaged_calls_nobody_until_it_has_another() {
    let mut mesh = small_shop();
    let app = App::start("orders");
    let _orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let mut web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    mesh.hauberk(&["quarantine", "node", "intruder", WAIT]).ok();
    web.process.stop(PATIENCE);
    let seen = app.requests();
    fs::write(web.state_dir().join("denylist"), b"nonsense").unwrap();
    mesh.kill_control_plane();
    web.relaunch(mesh.folder());
    let addresses = web.state_dir().join("addresses.json");
    let refused = eventually("it answers", PATIENCE, || {
        let addresses: Value = serde_json::from_str(&fs::read_to_string(&addresses).ok()?).ok()?;
        get(addresses["outbound"].as_str()?.parse().ok()?, "orders", "/").ok()
    });
    assert_eq!((refused.status, refused.header("hauberk-error")), (503, Some("no_denylist")), "{refused:?}");
    assert_eq!(app.requests(), seen);
    mesh.restart_control_plane();
    web.wait_ready();
    get_until(&web, "orders", "/", 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admins_open_stream_is_cut_with_the_credential() {
    let mesh = small_shop();
    let admin = HealthClient::new(dial::channel(mesh.admin_address(), dial::admin(&mesh)));
    let mut watch = admin.clone().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let own = Svid::from_pem(&mesh.context("certificate_pem")).unwrap();
    // The connection that asks for it is cut too, perhaps before it is answered.
    mesh.hauberk(&["revoke", "serial", &serial(&own)]);
    let end = timeout(PATIENCE, watch.message()).await.expect("it ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    let refused = mesh.hauberk(&["get", "instances"]);
    assert!(refused.code != 0 && refused.stderr.contains("revoked"), "{refused:?}");
}

/// What the control plane publishes for programs that are not in the mesh.
pub(crate) fn crl(mesh: &MeshBox) -> Vec<u8> {
    // It is signed once the control plane has started.
    eventually("the list is signed", PATIENCE, || {
        let mut stream = TcpStream::connect(mesh.health_address()).ok()?;
        stream.write_all(b"GET /crl HTTP/1.1\r\nhost: crl\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        if !head.starts_with("HTTP/1.1 200 ") {
            return None;
        }
        assert!(head.contains("application/pkix-crl"), "{head}");
        Some(answer.split_off(end + 4))
    })
}

fn openssl(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_believes_the_published_list() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed");
    }
    let mesh = small_shop();
    let (revoked, _) = dial::join(&mesh, "web").await;
    let (held, _) = dial::join(&mesh, "intruder").await;
    let (good, _) = dial::join(&mesh, "orders").await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("root.pem", mesh.bundle_pem().as_bytes());
    for (name, svid) in [("revoked", &revoked), ("held", &held), ("good", &good)] {
        write(&format!("{name}.der"), &svid.chain()[0]);
        openssl(
            folder.path(),
            &["x509", "-inform", "der", "-in", &format!("{name}.der"), "-out", &format!("{name}.pem")],
        );
    }
    write("issuing.der", &good.chain()[1]);
    openssl(folder.path(), &["x509", "-inform", "der", "-in", "issuing.der", "-out", "issuing.pem"]);
    let verify = |name: &str| {
        let list = crl(&mesh);
        write("list.der", &list);
        let (verified, said) = openssl(
            folder.path(),
            &[
                "crl",
                "-inform",
                "der",
                "-in",
                "list.der",
                "-verify",
                "-CAfile",
                "issuing.pem",
                "-out",
                "list.pem",
            ],
        );
        assert!(verified && said.contains("verify OK"), "{said}");
        let leaf = format!("{name}.pem");
        let trust = ["-CAfile", "root.pem", "-untrusted", "issuing.pem", "-CRLfile", "list.pem"];
        openssl(folder.path(), &[&["verify", "-x509_strict", "-crl_check"], &trust[..], &[&leaf]].concat())
    };
    for name in ["revoked", "held", "good"] {
        let (is_good, said) = verify(name);
        assert!(is_good, "{name}: {said}");
    }
    mesh.hauberk(&["revoke", "serial", &serial(&revoked)]).ok();
    mesh.hauberk(&["quarantine", "node", "intruder"]).ok();
    for name in ["revoked", "held"] {
        eventually("openssl refuses it", PATIENCE, || {
            let (is_good, said) = verify(name);
            (!is_good && said.contains("certificate revoked")).then_some(())
        });
    }
    assert!(verify("good").0);
    let (_, text) = openssl(folder.path(), &["crl", "-in", "list.pem", "-noout", "-text"]);
    assert!(text.contains("Certificate Hold") && text.contains("X509v3 CRL Number"), "{text}");
    mesh.hauberk(&["quarantine", "node", "intruder", "--undo"]).ok();
    eventually("what was on hold is good again", PATIENCE, || verify("held").0.then_some(()));
    assert!(!verify("revoked").0);
}

/// A stream of somebody who has this certificate, with what it says.
async fn sync(channel: Channel) -> (mpsc::Sender<FromAgent>, Streaming<ToAgent>) {
    let (up, waiting) = mpsc::channel(4);
    let hello = from_agent::Message::Hello(Hello::default());
    up.send(FromAgent { message: Some(hello) }).await.unwrap();
    let down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await;
    (up, down.unwrap().into_inner())
}

/// Until something is said that `wanted` picks, or the end.
async fn until(
    down: &mut Streaming<ToAgent>,
    wanted: impl Fn(to_agent::Message) -> bool,
) -> Result<(), tonic::Status> {
    let found = async {
        loop {
            let message = down.message().await?.expect("a stream ends with its status");
            if message.message.is_some_and(&wanted) {
                return Ok(());
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_kept_is_no_way_back_in() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed");
    }
    let mesh = small_shop();
    let app = App::start("orders");
    let orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let (svid, key) = dial::join(&mesh, "web").await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chain.pem"), svid.to_pem()).unwrap();
    fs::write(folder.path().join("key.pem"), key.to_pkcs8_pem().as_bytes()).unwrap();
    let address = orders.inbound(8080).to_string();
    let call = |session: &[&str]| {
        let connect = ["s_client", "-connect", &address, "-alpn", "http/1.1", "-tls1_3", "-ign_eof"];
        let with = ["-cert", "chain.pem", "-cert_chain", "chain.pem", "-key", "key.pem"];
        let mut child = Command::new("openssl")
            .current_dir(folder.path())
            .args([&connect[..], &with, session].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        // Whoever is refused closes before it is read.
        let _ = child.stdin.take().unwrap().write_all(request);
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = call(&["-sess_out", "session.pem"]);
    assert!(first.contains("New, TLSv1.3") && first.contains("HTTP/1.1 200 "), "{first}");
    // Without a ticket it keeps what the handshake left.
    let kept = folder.path().join("session.pem").exists();
    let again: &[&str] = if kept { &["-sess_in", "session.pem"] } else { &[] };
    let second = call(again);
    assert!(second.contains("New, TLSv1.3") && !second.contains("Reused"), "{second}");
    let seen = app.requests();
    assert_eq!(seen, 2);

    mesh.hauberk(&["revoke", "serial", &serial(&svid), WAIT]).ok();
    let refused = call(again);
    assert!(!refused.contains("HTTP/1.1") && !refused.contains("Reused"), "{refused}");
    assert_eq!(app.requests(), seen);
}
