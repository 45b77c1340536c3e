//! Clients of the SPIFFE Workload API that others have written, unchanged: the crates `spiffe` and `spiffe-rustls`, and
//! Python's `spiffe`.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use hauberk_integration_tests::{AgentOptions, App, Process, eventually, eventually_async, get, skip};
use hauberk_tls::{KeyPair, Svid};
use rustls::pki_types::{CertificateDer, ServerName};
use spiffe::{TrustDomain, WorkloadApiClient, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    shop::PATIENCE,
    spiffe_clients::{Foreigner, read_after},
    workload_api::{begun, enrollment, fetch, shop, uid},
};

const WORKER: &str = "spiffe://box.test/workload/test/worker";
const CLERK: &str = "spiffe://box.test/workload/test/clerk";

fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crate_spiffe_gets_everything_there_is() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", hint: internal"));
    begun(&socket).await;
    let client = WorkloadApiClient::connect_to(endpoint(&socket)).await.unwrap();
    let own: TrustDomain = "box.test".parse().unwrap();
    let svid = client.fetch_x509_svid().await.unwrap();
    assert_eq!((svid.spiffe_id().to_string().as_str(), svid.hint()), (WORKER, Some("internal")));
    assert_eq!(svid.cert_chain().len(), 2);
    assert_eq!(client.fetch_x509_bundles().await.unwrap().get(&own).unwrap().authorities().len(), 1);

    let svid = client.fetch_jwt_svid(["db", "cache"], None).await.unwrap();
    assert_eq!((svid.spiffe_id().to_string().as_str(), svid.hint()), (WORKER, Some("internal")));
    let named = client.fetch_jwt_svid(["db"], Some(svid.spiffe_id())).await.unwrap();
    assert_eq!(named.audience(), ["db"]);
    let other = WORKER.replace("worker", "another").parse().unwrap();
    assert!(client.fetch_jwt_svid(["db"], Some(&other)).await.is_err());
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    assert!(bundles.get(&own).unwrap().find_jwt_authority(svid.key_id()).is_some());
    let valid = client.validate_jwt_token("cache", svid.token()).await.unwrap();
    assert_eq!(valid.spiffe_id().to_string(), WORKER);
    assert!(client.validate_jwt_token("web", svid.token()).await.is_err());
    assert!(client.validate_jwt_token("cache", &svid.token().replace('.', "..")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_talk_by_the_crate_spiffe_rustls_until_one_is_revoked() {
    let (mesh, _web, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    mesh.apply(&enrollment("clerk", "orders", &uid(), ""));
    let other = mesh.folder().join("orders.sock");
    let app = App::start("orders");
    let serving = AgentOptions::default().app(8080, app.address()).argument("--workload-api-socket");
    let _orders = mesh.agent("orders", serving.argument(other.to_str().unwrap()));
    let (before, _) = begun(&socket).await;
    begun(&other).await;
    let source = async |socket| X509Source::builder().endpoint(endpoint(socket)).build().await.unwrap();
    let client = source(&socket).await;
    let served = mtls_server(source(&other).await).authorize(authorizer::exact([WORKER]).unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(served.build().unwrap()));
    let talk = async |expected: &str| {
        let called = mtls_client(client.clone()).authorize(authorizer::exact([expected]).unwrap());
        let connector = TlsConnector::from(Arc::new(called.build().unwrap()));
        let (near, far) = duplex(64 * 1024);
        let serving = async {
            let mut stream = acceptor.accept(far).await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word).await?;
            stream.flush().await
        };
        let calling = async {
            let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), near).await?;
            stream.write_all(b"ping").await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            Ok::<_, std::io::Error>(word)
        };
        let (served, called) = timeout(PATIENCE, async { tokio::join!(serving, calling) }).await.unwrap();
        served.and(called)
    };
    assert_eq!(&talk(CLERK).await.unwrap(), b"ping");
    assert!(talk(WORKER).await.is_err(), "the server is somebody else");

    // Its certificate is revoked: it has another at once, and goes on.
    mesh.hauberk(&["revoke", "serial", &before[0].serial().to_string(), "--wait=20s"]).ok();
    eventually_async("the program has another certificate", PATIENCE, async || {
        let svid = client.svid().ok()?;
        (svid.leaf().as_bytes() != &*before[0].chain()[0]).then_some(())
    })
    .await;
    // What the crate was just told it prepares in a task of its own.
    eventually_async("it talks by that", PATIENCE, async || {
        (talk(CLERK).await.ok()? == *b"ping").then_some(())
    })
    .await;
}

/// One call to the agent of orders over a connection of its own, by what the source holds at that moment.
async fn call(source: &X509Source, address: SocketAddr) -> std::io::Result<String> {
    const ORDERS: &str = "spiffe://box.test/mesh/shop/node/orders";
    let stream = TcpStream::connect(address).await?;
    let called = mtls_client(source.clone()).authorize(authorizer::exact([ORDERS]).unwrap());
    // Where its identity was taken back there is nothing to call by.
    let mut config = called.build().map_err(std::io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("orders.shop").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned())
}

const WORKER_MAY: &str = "kind: Policy\nmesh: shop\nname: worker\nspec:\n  cedar: |\n    permit(principal == \
    Workload::\"spiffe://box.test/workload/test/worker\", action in Action::\"http\", resource in Service::\"orders\");\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_by_the_crate_spiffe_rustls_calls_an_agent_and_no_handshake_fails_while_authorities_follow()
{
    let (mesh, _web, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let app = App::start("orders");
    let orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    begun(&socket).await;
    let source = X509Source::builder().endpoint(endpoint(&socket)).build().await.unwrap();
    let address = orders.inbound(8080);
    assert_eq!(call(&source, address).await.unwrap(), "403", "an identity is no permission");
    mesh.apply(WORKER_MAY);
    mesh.wait_enforced();
    assert_eq!(call(&source, address).await.unwrap(), "200");

    // Every call shakes hands anew, with whatever certificate and bundle there are then, on both sides.
    let (is_over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (source, is_over, calls) = (source.clone(), Arc::clone(&is_over), Arc::clone(&calls));
            tokio::spawn(async move {
                let mut excused = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let before = source.state().revision();
                    match call(&source, address).await {
                        Ok(status) => {
                            assert_eq!(status, "200");
                            calls.fetch_add(1, Ordering::Relaxed);
                        }
                        // What the crate was just told it prepares in a task of its own. A handshake that this falls
                        // into offers no signature scheme, or no certificate, or is given up: all three are the crate's
                        // doing.
                        Err(_) if source.state().revision() != before => excused += 1,
                        Err(error) => panic!("a handshake fails: {error:?}"),
                    }
                }
                excused
            })
        })
        .collect();
    let first = source.state().revision();
    for kind in ["issuing", "root", "view-key"] {
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
    }
    eventually_async("there were many calls, or one has failed", PATIENCE, async || {
        (calls.load(Ordering::Relaxed) >= 200 || callers.iter().any(JoinHandle::is_finished)).then_some(())
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    let mut excused = 0_u64;
    for caller in callers {
        excused += caller.await.expect("no call fails");
    }
    let revisions = source.state().revision() - first;
    assert!(excused <= 4 * (revisions + 1), "{excused} of {revisions} revisions");
    let figures = get(orders.health(), "health", "/metrics").unwrap().body;
    let refused = "hauberk_inbound_connections_refused_total{";
    let failed =
        figures.lines().filter(|line| line.starts_with(refused)).filter(|line| !line.ends_with(" 0"));
    let failed: Vec<&str> = failed.collect();
    let crates = ["\"against_tls\"", "\"no_certificate\"", "\"refused_by_peer\""];
    assert!(failed.iter().all(|line| crates.iter().any(|reason| line.contains(reason))), "{failed:?}");
    let count = |line: &&str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
    assert!(failed.iter().map(count).sum::<u64>() <= excused, "{excused} excused: {failed:?}");

    // What it holds is revoked, with the agent that vouches for it: nothing that it has opens anything, also for a
    // thief whose client does not care.
    let held = source.svid().unwrap();
    let chain = held.cert_chain().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec()));
    let svid = Svid::from_der(chain).unwrap();
    let key = KeyPair::from_pkcs8_der(held.private_key().as_bytes()).unwrap();
    let thief = Foreigner::with(&svid, &key);
    assert_eq!(thief.status(address, &[b"http/1.1"], "orders").await, "200");
    mesh.hauberk(&["revoke", "node", "web", "--wait=20s"]).ok();
    let seen = app.requests();
    assert!(call(&source, address).await.map_or(true, |status| status.is_empty()));
    let answer = match thief.connect(address, &[b"http/1.1"]).await {
        Ok(mut stream) => read_after(&mut stream, b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await,
        Err(_) => Vec::new(),
    };
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(app.requests(), seen);
}

const CLIENT: &str = r#"
import sys
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient
domain = TrustDomain("box.test")
with WorkloadApiClient(socket_path="unix://" + sys.argv[1]) as client:
    context = client.fetch_x509_context()
    print(context.default_svid.spiffe_id)
    print(len(context.default_svid.cert_chain))
    bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(domain)
    print(len(bundle.x509_authorities))
    svid = client.fetch_jwt_svid(audience={"db", "cache"})
    print(svid.spiffe_id)
    keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain)
    print(JwtSvid.parse_and_validate(svid.token, keys, {"db"}).spiffe_id)
    print(client.validate_jwt_svid(svid.token, "cache").spiffe_id)
    named = client.fetch_jwt_svid(audience={"db"}, subject=SpiffeId("spiffe://box.test/workload/test/worker"))
    print(named.spiffe_id)
    for refused in [
        lambda: client.validate_jwt_svid(svid.token, "web"),
        lambda: client.validate_jwt_svid(svid.token[:-4] + "AAAA", "db"),
        lambda: client.fetch_jwt_svid(audience={"db"}, subject=SpiffeId("spiffe://box.test/workload/other")),
    ]:
        try:
            refused()
            print("it was answered")
        except Exception as error:
            print(type(error).__name__)
"#;

#[test]
fn the_stock_python_client_works_unchanged() {
    let Some(python) = std::env::var_os("HAUBERK_TEST_PYTHON") else {
        return skip("HAUBERK_TEST_PYTHON names no Python that has spiffe");
    };
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    eventually("the identity is there", PATIENCE, || fetch(&socket, &["x509"]).0.then_some(()));
    let output = Command::new(python).args(["-c", CLIENT, socket.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let said: Vec<&str> = said.lines().collect();
    let refused = ["ValidateJwtSvidError", "ValidateJwtSvidError", "FetchJwtSvidError"];
    assert_eq!(
        said,
        [&[WORKER, "2", "1", WORKER, WORKER, WORKER, WORKER][..], &refused].concat(),
        "{said:?}"
    );
}

/// Tells what its sources hold each time that it is something else.
const SOURCES: &str = r#"
import sys, time
from spiffe import JwtSource, JwtSvid, TrustDomain, X509Source
domain = TrustDomain("box.test")
path = "unix://" + sys.argv[1]
x509 = X509Source(socket_path=path, timeout_in_seconds=20)
jwt = JwtSource(socket_path=path, timeout_in_seconds=20)
told = None
while True:
    try:
        svid = x509.get_x509_context().default_svid
        roots = len(x509.get_bundle_for_trust_domain(domain).x509_authorities)
        token = jwt.fetch_svid(audience={"db"})
        assert token.spiffe_id == svid.spiffe_id
        JwtSvid.parse_and_validate(token.token, jwt.get_bundle_for_trust_domain(domain), {"db"})
        now = f"{svid.leaf.serial_number:032x} {roots}"
    except Exception as error:
        print("over", type(error).__name__, x509.is_closed(), flush=True)
        break
    if now != told:
        told = now
        print(now, flush=True)
    time.sleep(0.05)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_sources_follow_rotations_and_revocations() {
    let Some(python) = std::env::var_os("HAUBERK_TEST_PYTHON") else {
        return skip("HAUBERK_TEST_PYTHON names no Python that has spiffe");
    };
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let (first, _) = begun(&socket).await;
    let mut command = Command::new(python);
    command.args(["-c", SOURCES]).arg(&socket);
    let mut program = Process::start("sources", mesh.folder(), command);
    let has_told = |program: &Process, wanted: &str| {
        program.log().lines().any(|line| line.starts_with(wanted)).then_some(())
    };
    let mut told = format!("{} 1", first[0].serial());
    eventually("it has the first certificate", PATIENCE, || has_told(&program, &told));
    let mut followed = async |program: &Process, roots: usize| {
        let (now, _) = begun(&socket).await;
        let wanted = format!("{} {roots}", now[0].serial());
        assert_ne!(told, wanted);
        eventually("it has the next one", PATIENCE, || has_told(program, &wanted));
        told = wanted;
        now[0].serial().to_string()
    };
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    followed(&program, 1).await;
    mesh.hauberk(&["authority", "rotate", "root", "--wait=60s"]).ok();
    let serial = followed(&program, 2).await;
    mesh.hauberk(&["revoke", "serial", &serial, "--wait=20s"]).ok();
    followed(&program, 2).await;
    mesh.hauberk(&["revoke", "node", "web", "--wait=20s"]).ok();
    eventually("its sources are over", PATIENCE, || has_told(&program, "over "));
    assert!(program.wait(PATIENCE).success(), "{}", program.log());
}
