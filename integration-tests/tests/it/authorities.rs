//! One authority follows another while the mesh trades.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, dial, eventually, skip};
use hauberk_tls::{KeyPair, Svid};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    identity_tokens::stolen,
    load::Load,
    peer::Peer,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
};

/// A mesh in which web calls orders, with real agents and a steady load between them.
pub(crate) struct Trading {
    pub(crate) load: Load,
    pub(crate) web: Agent,
    orders: Agent,
    _app: App,
    pub(crate) mesh: MeshBox,
}

impl Trading {
    pub(crate) fn start() -> Self {
        let mesh = shop::open();
        shop::set_policy(&mesh, "all", WEB_MAY_ALL);
        let app = App::start("orders");
        let orders = shop::orders(&mesh, app.address());
        let web = shop::caller(&mesh, "web");
        get_until(&web, "orders", "/", 200);
        let load = Load::start(web.outbound(), "orders");
        load.wait_for(50);
        Self { load, web, orders, _app: app, mesh }
    }

    pub(crate) fn agents(&self) -> [&Agent; 2] {
        [&self.web, &self.orders]
    }

    /// What the agents hold once each holds another certificate than before. What is in force comes to the disk a moment
    /// later.
    pub(crate) fn renewed(&self, before: &[Vec<u8>; 2]) -> [Vec<u8>; 2] {
        eventually("all hold new certificates", PATIENCE, || {
            let now = self.agents().map(identity);
            before.iter().zip(&now).all(|(before, now)| before != now).then_some(now)
        })
    }

    pub(crate) fn authority(&self, arguments: &[&str]) {
        let output = self.mesh.hauberk(&[&["authority"], arguments].concat());
        assert_eq!(output.code, 0, "{arguments:?}: {} {}", output.stdout, output.stderr);
    }

    /// The one authority of a kind in a state.
    pub(crate) fn serial(&self, kind: &str, state: &str) -> String {
        let found = listed(&self.mesh);
        let found: Vec<&Value> =
            found.iter().filter(|one| one["kind"] == kind && one["state"] == state).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]["serial"].as_str().unwrap().to_owned()
    }
}

/// Roots and issuing authorities.
pub(crate) fn authorities(mesh: &MeshBox) -> Vec<Value> {
    let mut listed = listed(mesh);
    listed.retain(|one| one["kind"] != "view_key" && one["kind"] != "jwt_key");
    listed
}

pub(crate) fn listed(mesh: &MeshBox) -> Vec<Value> {
    let listed = mesh.hauberk_json(&["authority", "list", "-o", "json"]);
    listed.as_array().or_else(|| listed["items"].as_array()).unwrap_or_else(|| panic!("{listed}")).clone()
}

/// The serial number of the issuing authority that signs.
pub(crate) fn issuing(mesh: &MeshBox) -> String {
    let found = authorities(mesh);
    let active = found.iter().find(|one| one["kind"] == "issuing" && one["state"] == "active");
    active.unwrap_or_else(|| panic!("{found:?}"))["serial"].as_str().unwrap().to_owned()
}

/// What tells one certificate of an agent from the next.
pub(crate) fn identity(agent: &Agent) -> Vec<u8> {
    std::fs::read(agent.state_dir().join("identity")).unwrap()
}

#[test]
fn issuing_authority_and_root_are_replaced_under_load_without_one_failed_call() {
    let trading = Trading::start();
    let first = trading.mesh.root_fingerprint();
    let before = trading.agents().map(identity);

    trading.authority(&["rotate", "issuing", "--wait=60s"]);
    let between = trading.renewed(&before);
    assert_eq!(trading.mesh.root_fingerprint(), first);
    trading.load.wait_for(100);

    trading.authority(&["rotate", "root", "--wait=60s"]);
    trading.renewed(&between);
    assert_ne!(trading.mesh.root_fingerprint(), first);
    let (old, new) = (trading.serial("root", "retiring"), trading.serial("root", "active"));
    let holders = |serial: &str| {
        let found = authorities(&trading.mesh).into_iter().find(|one| one["serial"] == serial).unwrap();
        found["holders"].as_u64().unwrap_or_default()
    };
    assert_eq!((holders(&old), holders(&new)), (0, 2), "every chain ends in the new root");
    trading.load.wait_for(100);
    trading.authority(&["list"]);

    // Nobody holds anything by the old root any longer, and no connection rests on it: it can go, and nobody notices.
    trading.authority(&["taint", &old, "--wait=60s"]);
    trading.load.wait_for(50);
    trading.authority(&["revoke", &old, "--wait=60s"]);
    trading.load.wait_for(100);
    trading.load.finish();
    get_until(&trading.web, "orders", "/after", 200);
}

#[test]
fn who_joined_and_who_looked_before_a_root_was_replaced_still_finds_the_control_plane() {
    let mut mesh = shop::open();
    let pin = mesh.root_fingerprint();
    let old_bundle = mesh.folder().join("old-bundle.pem");
    std::fs::write(&old_bundle, mesh.bundle_pem()).unwrap();
    let contexts = mesh.cli_home().join("contexts.toml");
    let old_contexts = std::fs::read(&contexts).unwrap();
    mesh.hauberk(&["authority", "rotate", "root", "--wait=60s"]).ok();
    assert_ne!(mesh.root_fingerprint(), pin);
    assert_eq!(
        mesh.bundle_pem().matches("BEGIN CERTIFICATE").count(),
        2,
        "the context has learnt the new root"
    );

    // Another admin's context, which has not looked since, still works, and learns it now.
    std::fs::write(&contexts, old_contexts).unwrap();
    mesh.hauberk(&["get", "meshes"]).ok();
    assert_eq!(mesh.bundle_pem().matches("BEGIN CERTIFICATE").count(), 2);

    // An agent that begins with what was handed out before.
    let agent = mesh.agent("web", AgentOptions { bundle_file: Some(old_bundle), ..AgentOptions::default() });
    mesh.restart_control_plane();
    mesh.wait_enforced();
    drop(agent);
}

/// Whether OpenSSL takes whoever listens there for good, knowing these roots and nothing else.
fn openssl_believes(address: &str, roots: &Path) -> (bool, String) {
    let output = Command::new("openssl")
        .args(["s_client", "-alpn", "h2", "-verify_return_error", "-connect", address, "-CAfile"])
        .arg(roots)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (said.contains("Verify return code: 0 (ok)"), said)
}

#[test]
fn openssl_finds_its_way_to_the_former_root_alone_and_to_either_of_all() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl is not installed");
    }
    let mesh = shop::open();
    let file = |name: &str| {
        let path = mesh.folder().join(name);
        std::fs::write(&path, mesh.bundle_pem()).unwrap();
        path
    };
    let former = file("former.pem");
    let addresses = [mesh.admin_address(), mesh.agent_address()];
    for after in ["the root is another", "the issuing authority is another"] {
        let kind = if after.starts_with("the root") { "root" } else { "issuing" };
        mesh.hauberk(&["authority", "rotate", kind, "--wait=60s"]).ok();
        for address in addresses {
            for roots in [&former, &file("all.pem")] {
                let (is_believed, said) = openssl_believes(address, roots);
                assert!(is_believed, "{after}, {}: {said}", roots.display());
            }
        }
    }
    // Once the former root is trusted no longer, the new one alone is as good.
    let found = authorities(&mesh);
    let old = found.iter().find(|one| one["kind"] == "root" && one["state"] == "retiring").unwrap();
    let old = old["serial"].as_str().unwrap();
    for step in ["taint", "revoke"] {
        mesh.hauberk(&["authority", step, old, "--wait=60s"]).ok();
    }
    mesh.hauberk(&["get", "meshes"]).ok();
    let new = file("new.pem");
    assert_eq!(mesh.bundle_pem().matches("BEGIN CERTIFICATE").count(), 1);
    for address in addresses {
        eventually("OpenSSL believes it by the new root", PATIENCE, || {
            openssl_believes(address, &new).0.then_some(())
        });
        assert!(!openssl_believes(address, &former).0);
    }
}

#[test]
fn what_a_tainted_authority_signed_is_replaced_within_seconds_and_then_refused() {
    let trading = Trading::start();
    let tainted = trading.serial("issuing", "active");
    let before = trading.agents().map(identity);
    trading.authority(&["taint", &tainted, "--wait=60s"]);
    trading.renewed(&before);
    trading.load.wait_for(50);
    trading.authority(&["revoke", &tainted, "--wait=60s"]);
    eventually("every agent distrusts it", PATIENCE, || {
        trading.orders.process.log().contains("trust_replaced").then_some(())
    });
    trading.load.wait_for(50);
    trading.load.finish();
    get_until(&trading.web, "orders", "/after", 200);
}

/// Sends a request by a certificate, and tells whether anything at all is answered, be it a denial.
async fn is_let_in(mesh: &MeshBox, (svid, key): &(Svid, KeyPair), address: SocketAddr) -> bool {
    let thief = Peer::with(mesh, svid, key);
    let Ok(mut stream) = thief.connect("orders", address, &[b"http/1.1"]).await else { return false };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    !answer.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stole_what_a_tainted_authority_signed_is_let_in_nowhere_once_that_is_enforced() {
    let trading = Trading::start();
    let tainted = trading.serial("issuing", "active");
    let stolen = stolen(&trading.web);
    let inbound = trading.orders.inbound(8080);
    assert!(is_let_in(&trading.mesh, &stolen, inbound).await);
    let asks = async |address: &str| {
        let bearer = dial::bearer(&trading.mesh, stolen.0.clone(), &stolen.1);
        let mut health = HealthClient::new(dial::channel(address, bearer));
        health.check(HealthCheckRequest::default()).await
    };
    assert!(asks(trading.mesh.agent_address()).await.is_ok());
    // What is open when it is revoked ends as well, idle or not.
    let thief = Peer::with(&trading.mesh, &stolen.0, &stolen.1);
    let mut open = thief.connect("orders", inbound, &[b"http/1.1"]).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut begun = [0; 12];
    open.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");

    trading.authority(&["taint", &tainted, "--wait=60s"]);
    trading.authority(&["revoke", &tainted, "--wait=60s"]);
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, open.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a connection by the tainted authority's certificate lives on");
    for _ in 0..100 {
        assert!(!is_let_in(&trading.mesh, &stolen, inbound).await);
        for address in [trading.mesh.agent_address(), trading.mesh.admin_address()] {
            assert!(asks(address).await.is_err());
        }
    }
    let good = dial::channel(trading.mesh.admin_address(), dial::admin(&trading.mesh));
    assert!(HealthClient::new(good).check(HealthCheckRequest::default()).await.is_ok());
    trading.load.wait_for(50);
    trading.load.finish();
}

#[test]
fn whoever_has_done_its_part_and_is_away_holds_up_no_revocation_after_a_restart() {
    let mut mesh = shop::open();
    let mut web = shop::caller(&mesh, "web");
    let tainted = issuing(&mesh);
    mesh.hauberk(&["authority", "taint", &tainted, "--wait=60s"]).ok();
    web.process.kill();
    mesh.control_plane().stop(PATIENCE);
    mesh.restart_control_plane();
    mesh.hauberk(&["authority", "revoke", &tainted]).ok();
}

#[test]
fn a_rotation_survives_kills_at_any_moment() {
    let mut trading = Trading::start();
    for kind in ["issuing", "root"] {
        let first = trading.serial(kind, "active");
        trading.mesh.hauberk(&["authority", "rotate", kind]).ok();
        // Wherever it is: what was written is gone on from.
        trading.mesh.restart_control_plane();
        eventually("the next one signs", Duration::from_secs(60), || {
            let found = authorities(&trading.mesh);
            found
                .iter()
                .any(|one| one["serial"] == first.as_str() && one["state"] == "retiring")
                .then_some(())
        });
        trading.mesh.restart_control_plane();
        trading.mesh.hauberk(&["authority", "prepare", kind, "--wait=60s"]).ok();
    }
    trading.load.wait_for(100);
    trading.load.finish();
}

#[test]
fn the_key_that_signs_views_is_replaced_under_load_and_agents_start_from_what_the_new_one_has_signed() {
    let trading = Trading::start();
    let before = trading.agents().map(identity);
    let former = trading.serial("view_key", "active");
    trading.authority(&["rotate", "view-key", "--wait=60s"]);
    assert_eq!(trading.serial("view_key", "retiring"), former);
    let keys: Vec<_> = listed(&trading.mesh).into_iter().filter(|one| one["kind"] == "view_key").collect();
    assert!(keys.len() == 2 && keys.iter().all(|key| key["fingerprint"] == key["serial"]), "{keys:?}");
    assert!(keys.iter().all(|key| key["holders"] == 2), "both agents know both: {keys:?}");
    let signs = trading.serial("view_key", "active");
    // Views of services are written from time to time, and by the former key perhaps once more: a view names its key.
    let is_by_it = |agent: &Agent, file: &str| {
        let kept = std::fs::read(agent.state_dir().join(file)).unwrap_or_default();
        kept.windows(signs.len()).any(|bytes| bytes == signs.as_bytes())
    };
    eventually("views by the new key are on the disks", PATIENCE, || {
        let nodes = trading.agents().into_iter().all(|agent| is_by_it(agent, "node-view"));
        (nodes && is_by_it(&trading.web, "service-views")).then_some(())
    });
    let refused = trading.mesh.hauberk(&["authority", "revoke", &signs]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("hauberk authority rotate view-key"), "{}", refused.stderr);
    trading.authority(&["revoke", &former, "--wait=60s"]);
    trading.load.wait_for(100);
    assert_eq!(trading.agents().map(identity), before, "no certificate was renewed for it");
    let Trading { load, mut web, mut orders, _app: app, mut mesh } = trading;
    load.finish();

    // With the former key's signatures they would find nothing that they believe.
    mesh.kill_control_plane();
    web.restart(mesh.folder());
    get_until(&web, "orders", "/from-disk", 200);
    // It is ready only with a view of its own.
    orders.restart(mesh.folder());
    mesh.restart_control_plane();
    mesh.wait_enforced();
    drop(app);
}
