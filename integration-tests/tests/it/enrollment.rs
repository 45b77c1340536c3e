//! Joining: who gets a certificate for a join token and who does not, and what is kept of it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, dial, eventually, eventually_async, get};
use hauberk_proto::{
    admin::v1::{
        AuditOutcome, AuditRecord, ListAuditRequest, ListCertificatesRequest, ListTokensRequest,
        audit_client::AuditClient, identities_client::IdentitiesClient,
    },
    agent::v1::AttestResponse,
};
use hauberk_tls::{KeyPair, Svid, install_provider};
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};

const MESH: &str = r"
kind: Mesh
name: shop
---
kind: VirtualNode
mesh: shop
name: orders
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: VirtualNode
mesh: shop
name: web
spec: {}
";

pub(crate) const ORDERS: &str = "spiffe://box.test/mesh/shop/node/orders";

pub(crate) fn shop() -> MeshBox {
    install_provider();
    let mesh = MeshBox::start();
    mesh.apply(MESH);
    mesh
}

pub(crate) fn svid(answer: &AttestResponse) -> Svid {
    let certificate = answer.certificate.clone().expect("a certificate comes");
    Svid::from_der(certificate.chain).unwrap()
}

fn admin_channel(mesh: &MeshBox) -> Channel {
    dial::channel(mesh.admin_address(), dial::admin(mesh))
}

async fn audit(mesh: &MeshBox, action: &str) -> Vec<AuditRecord> {
    let request = ListAuditRequest { action: action.to_owned(), page_size: 1000, ..Default::default() };
    AuditClient::new(admin_channel(mesh)).list(request).await.unwrap().into_inner().records
}

/// Serials of all certificates issued to `spiffe_id`.
pub(crate) async fn issued(mesh: &MeshBox, spiffe_id: &str) -> Vec<String> {
    let request = ListCertificatesRequest { spiffe_id: spiffe_id.to_owned(), ..Default::default() };
    let answer = IdentitiesClient::new(admin_channel(mesh)).list_certificates(request).await.unwrap();
    answer.into_inner().certificates.into_iter().map(|certificate| certificate.serial).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_one_key_in_and_the_same_key_again() {
    let mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());

    let first = dial::attest(&mesh, &token, &key).await.unwrap();
    // The reply may have been lost.
    let again = dial::attest(&mesh, &token, &key).await.unwrap();
    assert_eq!(first.instance_id, again.instance_id);
    assert_eq!(svid(&first).id().as_str(), ORDERS);
    assert_eq!(svid(&again).key_fingerprint(), key.public_key().fingerprint());
    assert_ne!(svid(&first).serial(), svid(&again).serial());

    let refused = dial::attest(&mesh, &token, &other).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("used up"), "{refused}");
    assert!(refused.message().contains(&first.instance_id), "it says by whom: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_expired_and_orphaned_tokens_are_refused() {
    let mesh = shop();
    let key = KeyPair::generate().unwrap();
    let good = dial::token(&mesh, "orders", &[]);

    let mut wrong = good.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    for token in [wrong.as_str(), "hbk1-", "", "\u{0}", &"x".repeat(10_000)] {
        let refused = dial::attest(&mesh, token, &key).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{:.80}: {refused}", token);
        assert!(refused.message().contains("unknown"), "{refused}");
    }

    let short = dial::token(&mesh, "orders", &["--ttl", "1s", "--uses", "unlimited"]);
    let refused = eventually_async("the token expires", Duration::from_secs(10), async || {
        // Until then the same key gets certificates, and soon no more of them.
        dial::attest(&mesh, &short, &key)
            .await
            .err()
            .filter(|refused| refused.code() != Code::ResourceExhausted)
    })
    .await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("expired"), "{refused}");

    let orphan = dial::token(&mesh, "web", &[]);
    mesh.hauberk(&["delete", "virtualnode", "web"]).ok();
    let refused = dial::attest(&mesh, &orphan, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("no virtual node web"), "{refused}");
    assert!(issued(&mesh, "spiffe://box.test/mesh/shop/node/web").await.is_empty());

    let taken_back = dial::token(&mesh, "orders", &[]);
    let mut identities = IdentitiesClient::new(admin_channel(&mesh));
    let tokens = identities.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    let latest = tokens.iter().max_by_key(|token| token.created_at.map(|at| (at.seconds, at.nanos)));
    mesh.hauberk(&["token", "delete", &latest.unwrap().id]).ok();
    let refused = dial::attest(&mesh, &taken_back, &key).await.unwrap_err();
    assert!(refused.message().contains("unknown"), "{refused}");

    // None of this has used up the good one.
    dial::attest(&mesh, &good, &key).await.unwrap();
}

#[test]
fn tokens_are_made_only_for_nodes_that_exist_and_within_limits() {
    let mesh = shop();
    for (arguments, word) in [
        (&["--node", "order"][..], "order"),
        (&["--node", "orders", "--mesh", "shopp"], "shopp"),
        (&["--node", "orders", "--ttl", "25h"], "24h"),
        (&["--node", "orders", "--ttl", "soon"], "soon"),
        (&["--node", "orders", "--uses", "0"], "uses"),
        (&["--node", "orders", "--uses", "many"], "many"),
    ] {
        let refused = mesh.hauberk(&[&["token", "create"], arguments].concat());
        assert!(refused.code == 1 || refused.code == 2, "{arguments:?}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        assert!(refused.stderr.contains(word), "{arguments:?}: {}", refused.stderr);
    }
    let made = mesh.hauberk(&["token", "create", "--node", "orders"]).ok();
    assert!(made.stdout.trim().starts_with("hbk1-"), "{made:?}");
    assert!(!made.stderr.contains(made.stdout.trim()), "the token is in one place only: {made:?}");

    let file = mesh.token_file("orders", &[]);
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_command_that_a_token_comes_with_leads_to_the_agent_api() {
    let mesh = shop();
    let made = mesh.hauberk_json(&["token", "create", "--node", "web", "-o", "json"]);
    let command = made["command"].as_str().unwrap();
    let mut words = command.split_whitespace().skip_while(|word| *word != "--control-plane").skip(1);
    let control_plane = words.next().unwrap().to_owned();
    assert_eq!(control_plane, mesh.agent_address(), "{command}");

    let file = mesh.folder().join("made-token");
    fs::write(&file, made["token"].as_str().unwrap()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let control_plane = Some(control_plane);
    mesh.agent("web", AgentOptions { token_file: Some(file), control_plane, ..AgentOptions::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_parallel_joins_on_a_single_use_token_exactly_one_gets_in() {
    let mesh = std::sync::Arc::new(shop());
    let token = dial::token(&mesh, "orders", &[]);
    let mut joins = JoinSet::new();
    for _ in 0..64 {
        let (mesh, token) = (std::sync::Arc::clone(&mesh), token.clone());
        joins.spawn(async move {
            let key = KeyPair::generate().unwrap();
            let answer = dial::attest(&mesh, &token, &key).await;
            (key, answer)
        });
    }
    let mut winners = Vec::new();
    let mut losers = Vec::new();
    for (key, answer) in joins.join_all().await {
        match answer {
            Ok(answer) => winners.push((key, answer)),
            Err(refused) => {
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
                losers.push(key);
            }
        }
    }
    assert_eq!((winners.len(), losers.len()), (1, 63));
    assert_eq!(issued(&mesh, ORDERS).await.len(), 1, "nobody else was certified in secret");

    let (key, first) = &winners[0];
    let again = dial::attest(&mesh, &token, key).await.unwrap();
    assert_eq!(again.instance_id, first.instance_id);
    dial::attest(&mesh, &token, &losers[0]).await.unwrap_err();

    let mut identities = IdentitiesClient::new(admin_channel(&mesh));
    let tokens = identities.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].used_by, std::slice::from_ref(&first.instance_id));
}

#[test]
fn a_kill_in_the_middle_lets_nobody_in_twice() {
    let mut mesh = shop();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..6 {
        let token = dial::token(&mesh, "orders", &[]);
        let address = mesh.agent_address().to_owned();
        let mut joins = JoinSet::new();
        let _guard = runtime.enter();
        for _ in 0..16 {
            let channel = dial::channel(&address, dial::stranger(&mesh));
            let join = dial::attest_over(channel, token.clone(), KeyPair::generate().unwrap());
            joins.spawn_on(join, runtime.handle());
        }
        // Before, while and after the first of them is let in.
        std::thread::sleep(Duration::from_millis(round * 5));
        mesh.kill_control_plane();
        runtime.block_on(async { while joins.join_next().await.is_some() {} });
        mesh.restart_control_plane();
        for _ in 0..2 {
            let _ = runtime.block_on(dial::attest(&mesh, &token, &KeyPair::generate().unwrap()));
        }
        let listed = runtime.block_on(async {
            let mut identities = IdentitiesClient::new(admin_channel(&mesh));
            identities.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens
        });
        let users: Vec<usize> = listed.iter().map(|token| token.used_by.len()).collect();
        assert!(users.iter().all(|users| *users == 1), "round {round}: {users:?}");
        let instances = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
        assert_eq!(ids(&instances).len() as u64, round + 1, "round {round}: {instances}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_three_lets_in_three() {
    let mesh = shop();
    let token = dial::token(&mesh, "orders", &["--uses", "3"]);
    let mut instances = BTreeSet::new();
    for _ in 0..3 {
        let answer = dial::attest(&mesh, &token, &KeyPair::generate().unwrap()).await.unwrap();
        instances.insert(answer.instance_id);
    }
    assert_eq!(instances.len(), 3);
    dial::attest(&mesh, &token, &KeyPair::generate().unwrap()).await.unwrap_err();
}

/// Files under a folder that hold these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(holding(&path, bytes));
        } else if let Ok(contents) = fs::read(&path)
            && contents.windows(bytes.len()).any(|window| window == bytes)
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_stand_in_no_store_and_no_log() {
    let mut mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let key = KeyPair::generate().unwrap();
    dial::attest(&mesh, &token, &key).await.unwrap();
    let wrong = format!("hbk1-{}", "z".repeat(token.len() - 5));
    dial::attest(&mesh, &wrong, &key).await.unwrap_err();

    let file = mesh.token_file("web", &[]);
    let agent_token = fs::read_to_string(&file).unwrap().trim().to_owned();
    let options = AgentOptions { token_file: Some(file), ..AgentOptions::default() };
    let agent = mesh.agent("web", options);

    let data = mesh.data_dir();
    assert!(
        !holding(&data, b"spiffe://box.test/mesh/shop/node/orders").is_empty(),
        "the search finds things"
    );
    for secret in [&token, &wrong, &agent_token] {
        let body = secret.strip_prefix("hbk1-").unwrap();
        assert_eq!(holding(&data, body.as_bytes()), Vec::<PathBuf>::new());
        assert_eq!(holding(agent.state_dir(), body.as_bytes()), Vec::<PathBuf>::new());
        assert!(!agent.process.log().contains(body), "the agent's log");
        assert!(!mesh.control_plane().log().contains(body), "the control plane's log");
    }
    // Private keys stand in the clear in the two 0600 files that are theirs, and nowhere else.
    let keys = holding(mesh.folder(), b"PRIVATE KEY-----");
    for path in &keys {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others", path.display());
        assert!(!path.starts_with(&data), "{} holds a key in the clear", path.display());
    }
    // The same keys in any other spelling: their base64, its bytes, and the number that is the secret (RFC 5915 §3).
    let own = holding(agent.state_dir(), b"PRIVATE KEY-----");
    let [own] = &own[..] else { panic!("{own:?}") };
    // It stands there as a JSON string.
    let pem = fs::read_to_string(own).unwrap().replace("\\n", "\n");
    let body = pem.split_once("PRIVATE KEY-----").unwrap().1.split_once("-----END").unwrap().0;
    let base64: String = body.split_whitespace().collect();
    let der = STANDARD.decode(&base64).unwrap();
    let before = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = der.windows(before.len()).position(|window| window == before).unwrap();
    let secret = &der[at + before.len()..][..32];
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let figures = [agent.health(), mesh.health_address().parse().unwrap()]
        .map(|address| get(address, "health", "/metrics").unwrap().body);
    assert!(figures.iter().all(|text| text.contains("hauberk_")));
    let logs = [agent.process.log(), mesh.control_plane().log()];
    for text in figures.iter().chain(&logs) {
        assert!(!text.contains(&hex) && !text.contains(&base64[40..80]), "a key is printed");
    }
    for folder in [&data, agent.state_dir()] {
        assert_eq!(holding(folder, secret), Vec::<PathBuf>::new(), "a key's bytes");
        assert_eq!(holding(folder, hex.as_bytes()), Vec::<PathBuf>::new());
    }
    for folder in [&data, agent.state_dir()] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
}

#[test]
fn login_tokens_stand_in_no_store_and_no_log() {
    let mut mesh = shop();
    let made = mesh.hauberk(&["admin", "create", "pat", "--role", "editor"]).ok().stdout;
    let token = made.split_whitespace().find(|word| word.starts_with("hbl1-")).unwrap().to_owned();
    let wrong = format!("hbl1-{}", "z".repeat(token.len() - 5));
    let root = mesh.root_fingerprint();
    // Refused, good, and used up.
    for (token, code) in [(&wrong, 1), (&token, 0), (&token, 1)] {
        let file = mesh.folder().join("login");
        fs::write(&file, token).unwrap();
        let server = ["login", "--server", mesh.admin_address(), "--root-fingerprint", &root];
        let told =
            mesh.hauberk(&[&server[..], &["--token-file", file.to_str().unwrap(), "--name", "pat"]].concat());
        fs::remove_file(&file).unwrap();
        assert_eq!(told.code, code, "{told:?}");
        assert!(!told.stdout.contains(&**token) && !told.stderr.contains(&**token), "{told:?}");
    }
    let audit = mesh.hauberk(&["audit", "list", "--context", "box"]).ok().stdout;
    assert!(audit.contains("pat"), "{audit}");
    for secret in [&token, &wrong] {
        let body = secret.strip_prefix("hbl1-").unwrap();
        assert_eq!(holding(mesh.folder(), body.as_bytes()), Vec::<PathBuf>::new());
        assert!(!mesh.control_plane().log().contains(body) && !audit.contains(body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_and_refused_enrollments_leave_audit_records() {
    let mut mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let key = KeyPair::generate().unwrap();
    let answer = dial::attest(&mesh, &token, &key).await.unwrap();
    dial::attest(&mesh, &token, &KeyPair::generate().unwrap()).await.unwrap_err();

    mesh.restart_control_plane();
    let records = audit(&mesh, "enrollment.").await;
    let of = |outcome: AuditOutcome| {
        records.iter().filter(|record| record.outcome() == outcome).collect::<Vec<_>>()
    };
    let (good, refused) = (of(AuditOutcome::Ok), of(AuditOutcome::Refused));
    assert_eq!((good.len(), refused.len()), (1, 1), "{records:#?}");
    assert_eq!(good[0].object, ORDERS);
    assert!(good[0].reason.contains(&svid(&answer).serial().to_string()), "{:?}", good[0]);
    assert_eq!(refused[0].actor, "unauthenticated");
    assert!(refused[0].reason.contains("used up"), "{:?}", refused[0]);
    assert!(records.iter().all(|record| record.source.starts_with("127.0.0.1:")), "{records:#?}");
    let made = audit(&mesh, "token.create").await;
    assert_eq!(made[0].actor, "spiffe://box.test/admin/admin");

    let listed = mesh.hauberk(&["audit", "list"]).ok().stdout;
    assert!(listed.contains("enrollment.attest") && listed.contains("token.create"), "{listed}");
}

#[test]
fn an_agent_with_a_bad_token_ends_and_says_why() {
    let mesh = shop();
    let file = mesh.folder().join("bad-token");
    fs::write(&file, format!("hbk1-{}\n", "0".repeat(52))).unwrap();
    let mut options = AgentOptions { token_file: Some(file), ..AgentOptions::default() };
    let mut agent = Agent::spawn(&mesh, "orders", &mut options);
    let status = agent.process.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(78), "{}", agent.process.log());
    assert!(agent.process.log().contains("unknown"), "{}", agent.process.log());
}

#[test]
fn an_agent_that_pins_another_root_never_shows_its_token() {
    let mesh = shop();
    let mut options = AgentOptions::default();
    // The root of another control plane of the same trust domain.
    let other = MeshBox::start();
    options.bundle_file = Some(other.bundle_file());
    let _agent = Agent::spawn(&mesh, "orders", &mut options);
    eventually("the agent ends a handshake", Duration::from_secs(20), || {
        let figures = get(mesh.health_address().parse().unwrap(), "health", "/metrics").unwrap().body;
        figures.contains("hauberk_connections_refused_total{listener=\"agent\"}").then_some(())
    });
    let attempts = mesh.hauberk(&["audit", "list", "--action", "enrollment"]).ok().stdout;
    assert!(!attempts.contains("enrollment.attest"), "{attempts}");
}

#[test]
fn an_agent_comes_back_from_its_state_without_a_token() {
    let mesh = shop();
    let app = App::start("orders");
    let token = mesh.token_file("orders", &[]);
    let mut options = AgentOptions::default().app(8080, app.address());
    options.token_file = Some(token.clone());
    let mut agent = mesh.agent("orders", options);
    let before = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    fs::remove_file(token).unwrap();
    agent.restart(mesh.folder());
    let after = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    assert_eq!(ids(&before).len(), 1, "{before}");
    assert_eq!(ids(&before), ids(&after), "it is the same instance");
    assert_eq!(get(agent.health(), "health", "/livez").unwrap().status, 200);
}

fn ids(listed: &serde_json::Value) -> BTreeSet<String> {
    let text = listed.to_string();
    text.split("\"id\":\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}
