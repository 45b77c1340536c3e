//! Agents that were revoked and find a token: of before that, or of another node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial, eventually};
use hauberk_tls::KeyPair;

use crate::restored::{instance, listed};
use crate::shop::{PATIENCE, SMALL_SHOP};

const WAIT: &str = "--wait=20s";

/// The longest that an agent waits between two attempts is half of it.
const ATTEMPTS: Duration = Duration::from_secs(60);

/// A mesh with an agent of web that is revoked, and had used up and lost its token before; where it looks for another.
/// `made`: tokens that were there before.
fn revoked(made: impl FnOnce(&MeshBox) -> PathBuf) -> (MeshBox, Agent, PathBuf, PathBuf) {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let token = mesh.token_file("web", &[]);
    let web = mesh.agent("web", AgentOptions { token_file: Some(token.clone()), ..AgentOptions::default() });
    let made = made(&mesh);
    fs::remove_file(&token).unwrap();
    mesh.hauberk(&["revoke", "instance", &instance(&web), WAIT]).ok();
    eventually("it says that there is no token", ATTEMPTS, || {
        told(&web, "this instance was revoked")
            .is_some_and(|line| line.contains("No such file"))
            .then_some(())
    });
    (mesh, web, token, made)
}

/// The last line of its log with such words.
fn told(agent: &Agent, words: &str) -> Option<String> {
    agent.process.log().lines().rfind(|line| line.contains(words)).map(str::to_owned)
}

fn put(from: &Path, to: &Path) {
    // At once: a part of a token would be another one.
    let beside = to.with_extension("new");
    fs::copy(from, &beside).unwrap();
    fs::rename(beside, to).unwrap();
}

fn joins_by_a_new_token(mesh: &MeshBox, web: &Agent, token: &Path) {
    let before = instance(web);
    put(&mesh.token_file("web", &[]), token);
    let now = eventually("it joins anew", ATTEMPTS, || Some(instance(web)).filter(|now| *now != before));
    eventually("it is listed", PATIENCE, || listed(mesh).contains(&now).then_some(()));
}

/// It remembers no token as one of before, for it found none when it heard.
#[test]
fn a_token_of_before_a_revocation_does_not_undo_it_wherever_it_was_meanwhile() {
    let (mesh, web, token, of_all) = revoked(|mesh| mesh.token_file("web", &["--uses", "unlimited"]));
    let before = instance(&web);
    put(&of_all, &token);
    let refusal = eventually("it is refused", ATTEMPTS, || told(&web, "made before this agent was revoked"));
    assert!(refusal.contains("hauberk token create --mesh shop --node web"), "{refusal}");
    assert_eq!(instance(&web), before);
    let recorded = mesh.hauberk_json(&["audit", "list", "--refused", "-o", "json"]).to_string();
    assert!(recorded.contains(&format!("instance {before} was revoked at")), "{recorded}");
    joins_by_a_new_token(&mesh, &web, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_node_makes_nobody_of_a_revoked_agent_and_is_not_used_up() {
    let (mesh, web, token, others) = revoked(|mesh| mesh.token_file("intruder", &[]));
    let instances = listed(&mesh);
    put(&others, &token);
    eventually("it is refused", ATTEMPTS, || told(&web, "makes somebody else of this agent"));
    assert_eq!(listed(&mesh), instances);
    // Nobody has to wait for an instance that is nowhere.
    mesh.hauberk(&["quarantine", "node", "orders", WAIT]).ok();
    joins_by_a_new_token(&mesh, &web, &token);
    let text = fs::read_to_string(&others).unwrap();
    dial::attest(&mesh, text.trim(), &KeyPair::generate().unwrap()).await.unwrap();
}
