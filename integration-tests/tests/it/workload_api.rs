//! The SPIFFE Workload API: programs beside an agent get identities of their own, those that their enrollments name and
//! no others.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_integration_tests::{
    Agent, AgentOptions, MeshBox, Process, binary, dial, eventually, eventually_async, get, wants_long_tests,
};
use hauberk_proto::{
    admin::v1::{AuditOutcome, ListAuditRequest, audit_client::AuditClient},
    agent::v1::{SignWorkloadCertificateRequest, workloads_client::WorkloadsClient},
    refusal,
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::shop::{PATIENCE, SMALL_SHOP};

pub(crate) fn uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

pub(crate) fn enrollment(name: &str, parent: &str, selector: &str, more: &str) -> String {
    format!(
        "kind: Enrollment\nmesh: shop\nname: {name}\nspec:\n  parent: {{virtualNode: {parent}}}\n  workload: \
         {{path: test/{name}, selectors: [\"{selector}\"]{more}}}\n"
    )
}

/// A shop whose agent of web serves the Workload API.
pub(crate) fn shop() -> (MeshBox, Agent, PathBuf) {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let socket = mesh.folder().join("run").join("api.sock");
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    let agent = mesh.agent("web", options);
    (mesh, agent, socket)
}

pub(crate) async fn client(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    let socket = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap();
    SpiffeWorkloadApiClient::new(channel)
}

pub(crate) async fn svids(socket: &Path) -> Streaming<X509svidResponse> {
    client(socket).await.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner()
}

pub(crate) fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> Result<Vec<Svid>, Status> {
    let answer = timeout(PATIENCE, stream.message()).await.expect("in time")?;
    let svids = answer.expect("a stream ends with its status").svids;
    Ok(svids.iter().map(|svid| Svid::from_concatenated_der(&svid.x509_svid).unwrap()).collect())
}

/// The next answer with other identities. One may come before it for another reason, as that revocation lists were signed.
async fn changed(stream: &mut Streaming<X509svidResponse>, before: &[Svid]) -> Result<Vec<Svid>, Status> {
    loop {
        let now = next(stream).await?;
        if ids(&now) != ids(before) {
            return Ok(now);
        }
    }
}

/// A stream, and its first answer, once the agent has heard of the enrollment that was just applied.
pub(crate) async fn begun(socket: &Path) -> (Vec<Svid>, Streaming<X509svidResponse>) {
    eventually_async("an identity is given", PATIENCE, async || {
        let mut stream = svids(socket).await;
        let first = next(&mut stream).await.ok()?;
        Some((first, stream))
    })
    .await
}

fn ids(svids: &[Svid]) -> Vec<String> {
    svids.iter().map(|svid| svid.id().to_string()).collect()
}

pub(crate) fn fetch(socket: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary("hauberk-agent"))
        .args(["api", "fetch", "--socket", socket.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_reaches_a_program_that_waits() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", dnsNames: [worker.internal]"));
    let (first, mut stream) = begun(&socket).await;
    assert_eq!(ids(&first), ["spiffe://box.test/workload/test/worker"]);

    mesh.apply(&enrollment("another", "web", &uid(), ""));
    let both = changed(&mut stream, &first).await.unwrap();
    assert_eq!(
        ids(&both),
        ["spiffe://box.test/workload/test/another", "spiffe://box.test/workload/test/worker"],
        "full state, in the order of names"
    );
    assert_eq!(both[1].serial(), first[0].serial(), "what has not changed is not issued again");

    // Other DNS names need another certificate; the former one is taken from nobody before it is there.
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    loop {
        let now = next(&mut stream).await.unwrap();
        assert_eq!(ids(&now), ids(&both));
        if now[1].serial() != first[0].serial() {
            break;
        }
    }

    mesh.hauberk(&["delete", "enrollment", "another"]).ok();
    let left = changed(&mut stream, &both).await.unwrap();
    assert_eq!(ids(&left), ["spiffe://box.test/workload/test/worker"]);
    mesh.hauberk(&["delete", "enrollment", "worker"]).ok();
    let ended = changed(&mut stream, &left).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied, "the last has gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_at_half_its_life() {
    if !wants_long_tests() {
        return;
    }
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", x509Ttl: {value: 60, unit: s}"));
    let (first, mut stream) = begun(&socket).await;
    let renewing = async {
        loop {
            let answer = stream.message().await.unwrap().unwrap();
            let now = Svid::from_concatenated_der(&answer.svids[0].x509_svid).unwrap();
            if now.serial() != first[0].serial() {
                return now;
            }
        }
    };
    let renewed = timeout(std::time::Duration::from_secs(45), renewing).await.expect("at half life");
    assert_ne!(renewed.key_fingerprint(), first[0].key_fingerprint(), "with a key of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_whom_an_enrollment_names_get_anything() {
    let (mesh, agent, socket) = shop();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o777);
    let refused = next(&mut svids(&socket).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // Somebody else's, and one that this very program is not.
    mesh.apply(&enrollment("of-orders", "orders", &uid(), ""));
    mesh.apply(&enrollment("other-program", "web", "unix:path:/usr/bin/none", ""));
    let logged = eventually("the agent says which selector is missing", PATIENCE, || {
        let (ok, said) = fetch(&socket, &["x509"]);
        assert!(!ok && said.contains("no identity for this program"), "{said}");
        let log = agent.process.log();
        log.contains("unix:path:/usr/bin/none").then_some(log)
    });
    let metrics = get(agent.health(), "health", "/metrics").unwrap().body;
    let counted = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).trim().parse().unwrap()
    };
    assert!(counted("hauberk_workload_denials_total{reason=\"no_identity\"}") >= 2, "{metrics}");
    assert_eq!(counted("hauberk_workload_answers_total{service=\"workload-api\"}"), 0, "{metrics}");
    let line = logged.lines().find(|line| line.contains("unix:path:/usr/bin/none")).unwrap();
    assert!(line.contains("workload_denied") && line.contains("other-program"), "{line}");
    assert!(line.contains(&uid()), "what is true of it is told too: {line}");

    // The program learns a code, the admin everything, once.
    let (_, said) = fetch(&socket, &["x509"]);
    assert!(said.contains("SELECTOR_MISSING") && !said.contains("/usr/bin/none"), "{said}");
    let refused = next(&mut svids(&socket).await).await.unwrap_err();
    assert_eq!(refusal::reason(&refused).as_deref(), Some(refusal::SELECTOR_MISSING), "{refused}");
    let told = eventually("the control plane is told", PATIENCE, || {
        let told = mesh.hauberk(&["describe", "enrollment", "other-program"]).ok().stdout;
        told.contains("missing unix:path:/usr/bin/none").then_some(told)
    });
    assert!(told.contains(&uid()), "{told}");
    for _ in 0..50 {
        next(&mut svids(&socket).await).await.unwrap_err();
    }
    let audit = mesh.hauberk(&["audit", "list", "--action", "workload.deny"]).ok().stdout;
    let count = audit.matches("other-program").count();
    // Each of the two programs, this one and the one that fetches, once.
    assert!((1..=2).contains(&count), "{audit}");

    // A request that does not say that it is meant.
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    begun(&socket).await;
    let status = client(&socket).await.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_programs_of_one_user_are_served_and_others_still_find_a_place() {
    // As root in containers: all of them are one user.
    const PROGRAMS: usize = 300;
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let socket = mesh.folder().join("run").join("api.sock");
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    // Half of a sixteenth of them is a user's.
    let agent = mesh.agent("web", options.open_files(12_288));
    begun(&socket).await;
    let mut programs = Vec::new();
    for _ in 0..PROGRAMS {
        let mut stream = svids(&socket).await;
        assert_eq!(next(&mut stream).await.unwrap().len(), 1);
        programs.push(stream);
    }
    let refused = eventually_async("the user has all that it may have", PATIENCE, async || {
        let mut asked = client(&socket).await;
        match asked.fetch_x509svid(marked(X509svidRequest {})).await {
            Ok(stream) => {
                programs.push(stream.into_inner());
                None
            }
            Err(refused) => Some(refused),
        }
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("connections"), "{refused}");
    assert!((PROGRAMS..=384).contains(&programs.len()), "{}", programs.len());
    let metrics = get(agent.health(), "health", "/metrics").unwrap().body;
    assert!(metrics.contains("hauberk_workload_connections_refused_total{reason=\"too_many\"}"), "{metrics}");
    // All of them hear of a change.
    mesh.apply(&enrollment("another", "web", &uid(), ""));
    for stream in &mut programs[..PROGRAMS] {
        while next(stream).await.unwrap().len() < 2 {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_is_told_each_missing_selector_whole() {
    let (mesh, _agent, socket) = shop();
    let long = |n: usize| format!("docker:label:{n}:{}", "x".repeat(1_000));
    let selectors: Vec<_> = (10..41).map(long).collect();
    let listed: String = selectors.iter().map(|selector| format!(", \"{selector}\"")).collect();
    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: long\nspec:\n  parent: {{virtualNode: web}}\n  workload: {{path: test/long, \
         selectors: [\"{}\"{listed}]}}\n",
        uid()
    ));
    let wanted = format!("missing {}; it has ", selectors.join(", "));
    eventually("the admin is told", PATIENCE, || {
        let (is_given, _) = fetch(&socket, &["x509"]);
        assert!(!is_given);
        let told = mesh.hauberk(&["describe", "enrollment", "long"]).ok().stdout;
        (told.contains(&wanted) && told.contains(&uid())).then_some(())
    });
    let told = mesh.hauberk(&["audit", "list", "--action", "workload.deny", "-o", "json"]).ok().stdout;
    assert!(told.contains(&wanted), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_nothing_of_another_nodes_enrollments() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let ask = async |node: &str, name: &str| {
        let (svid, key) = dial::join(&mesh, node).await;
        let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
        let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
        let request = SignWorkloadCertificateRequest { enrollment: name.to_owned(), csr };
        WorkloadsClient::new(channel).sign_certificate(request).await
    };
    let issued = ask("web", "worker").await.unwrap().into_inner().certificate.unwrap();
    assert_eq!(issued.spiffe_id, "spiffe://box.test/workload/test/worker");
    // Its certificate makes nobody an agent.
    let names = ["worker", "none", "../VirtualNode/shop/orders", ""];
    for name in names {
        let refused = ask("orders", name).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}: {refused}");
        assert!(!refused.message().contains("web"), "{refused}");
    }
    let stranger = dial::channel(mesh.agent_address(), dial::stranger(&mesh));
    let request = SignWorkloadCertificateRequest { enrollment: "worker".to_owned(), csr: Vec::new() };
    let refused = WorkloadsClient::new(stranger).sign_certificate(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    let admin = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    let asked = ListAuditRequest { action: "workload.issue".to_owned(), ..Default::default() };
    let records = AuditClient::new(admin).list(asked).await.unwrap().into_inner().records;
    let refused: Vec<_> = records.iter().filter(|record| record.outcome() == AuditOutcome::Refused).collect();
    assert_eq!((refused.len(), records.len()), (names.len(), names.len() + 1), "{records:#?}");
    let other = refused.iter().find(|record| record.reason.contains("is virtual node web, not orders"));
    assert!(other.is_some_and(|record| record.actor.ends_with("/node/orders")), "{refused:#?}");
}

#[test]
fn people_get_files() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", hint: internal"));
    let folder = mesh.folder().join("files");
    std::fs::create_dir(&folder).unwrap();
    let said = eventually("the identity is there", PATIENCE, || {
        let (ok, said) = fetch(&socket, &["x509", "--write", folder.to_str().unwrap()]);
        ok.then_some(said)
    });
    assert!(said.starts_with("spiffe://box.test/workload/test/worker  hint internal\n"), "{said}");
    let (ok, said) = fetch(&socket, &["bundle"]);
    assert!(ok && said.contains("root of box.test"), "{said}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let svid = Svid::from_pem(&read("svid.0.pem")).unwrap();
    let key = KeyPair::from_pkcs8_pem(&read("svid.0.key")).unwrap();
    assert_eq!(svid.key_fingerprint(), key.public_key().fingerprint());
    assert_eq!(read("bundle.0.pem"), mesh.bundle_pem());
    let mode = std::fs::metadata(folder.join("svid.0.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let described = mesh.hauberk(&["describe", "enrollment", "worker"]).ok().stdout;
    assert!(described.contains("spiffe://box.test/workload/test/worker"), "{described}");
    assert!(mesh.hauberk(&["get", "enrollments"]).ok().stdout.contains("test/worker"));
}

#[tokio::test]
async fn an_agent_that_cannot_join_says_so_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, token) = (folder.path().join("api.sock"), folder.path().join("token"));
    // Nobody answers there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&token, "none").unwrap();
    let mut command = Command::new(binary("hauberk-agent"));
    command.args(["run", "--control-plane", &closed.to_string(), "--root-fingerprint", &"0".repeat(64)]);
    command.arg("--state-dir").arg(folder.path().join("state")).arg("--join-token-file").arg(&token);
    command.arg("--workload-api-socket").arg(&socket);
    for listener in ["--outbound", "--admin", "--health"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    let mut agent = Process::start("agent", folder.path(), command);
    eventually("the socket is there", PATIENCE, || {
        assert!(agent.is_running(), "{}", agent.log());
        // Its file is there a moment before anybody listens.
        std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(())
    });
    let asked = async { client(&socket).await.fetch_x509svid(marked(X509svidRequest {})).await };
    let refused = timeout(PATIENCE, asked).await.expect("in time").unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(refusal::reason(&refused).as_deref(), Some(refusal::NOT_JOINED));
}
