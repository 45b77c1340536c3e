//! One authority follows another while the mesh trades.

use std::time::Duration;

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, eventually};
use serde_json::Value;

use crate::{
    load::Load,
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

    pub(crate) fn authority(&self, arguments: &[&str]) {
        let output = self.mesh.hauberk(&[&["authority"], arguments].concat());
        assert_eq!(output.code, 0, "{arguments:?}: {} {}", output.stdout, output.stderr);
    }

    /// The one authority of a kind in a state.
    pub(crate) fn serial(&self, kind: &str, state: &str) -> String {
        let found = authorities(&self.mesh);
        let found: Vec<&Value> =
            found.iter().filter(|one| one["kind"] == kind && one["state"] == state).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]["serial"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn authorities(mesh: &MeshBox) -> Vec<Value> {
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
    let between = trading.agents().map(identity);
    assert!(before.iter().zip(&between).all(|(before, after)| before != after), "all hold new certificates");
    assert_eq!(trading.mesh.root_fingerprint(), first);
    trading.load.wait_for(100);

    trading.authority(&["rotate", "root", "--wait=60s"]);
    let after = trading.agents().map(identity);
    assert!(between.iter().zip(&after).all(|(before, after)| before != after), "all hold new certificates");
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

#[test]
fn what_a_tainted_authority_signed_is_replaced_within_seconds_and_then_refused() {
    let trading = Trading::start();
    let tainted = trading.serial("issuing", "active");
    let before = trading.agents().map(identity);
    trading.authority(&["taint", &tainted, "--wait=60s"]);
    let after = trading.agents().map(identity);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
    trading.load.wait_for(50);
    trading.authority(&["revoke", &tainted, "--wait=60s"]);
    eventually("every agent distrusts it", PATIENCE, || {
        trading.orders.process.log().contains("trust_replaced").then_some(())
    });
    trading.load.wait_for(50);
    trading.load.finish();
    get_until(&trading.web, "orders", "/after", 200);
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
