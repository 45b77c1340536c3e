//! `hauberk-agent run … -- COMMAND`: the app as the agent's child.

use std::{fs, time::Duration};

use bytes::Bytes;
use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, eventually, free_port, get};
use hyper::body::Frame;
use rustix::process::Signal;

use crate::{
    client::{http1, to, whole},
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    streaming_app::{Frames, StreamingApp},
};

fn shell(script: &str) -> AgentOptions {
    let child = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    AgentOptions { child, ..AgentOptions::default() }
}

/// Runs an agent with this child to its end.
fn exit_code(mesh: &MeshBox, mut options: AgentOptions) -> i32 {
    let mut agent = Agent::spawn(mesh, "web", &mut options);
    let status = agent.process.wait(Duration::from_secs(30));
    status.code().unwrap_or_else(|| panic!("{status}: {}", agent.process.log()))
}

#[test]
fn the_agent_ends_as_its_child_has_ended() {
    let mesh = shop::open();
    assert_eq!(exit_code(&mesh, shell("exit 0")), 0);
    assert_eq!(exit_code(&mesh, shell("exit 3")), 3);
    assert_eq!(exit_code(&mesh, shell("kill -KILL $$")), 128 + 9);
    assert_eq!(exit_code(&mesh, shell("kill -TERM $$")), 128 + 15);
    let missing = AgentOptions { child: vec!["/no/such/program".to_owned()], ..AgentOptions::default() };
    assert_eq!(exit_code(&mesh, missing), 127);
}

#[test]
fn the_child_starts_when_the_agent_is_ready_and_knows_where_to_send() {
    let mesh = shop::open();
    let health = free_port();
    let agent = hauberk_integration_tests::binary("hauberk-agent");
    let script = format!(
        "set -e; {} healthz --address {health}; echo \"outbound is $HAUBERK_OUTBOUND\"; test -z \"$HAUBERK_JOIN_TOKEN\"",
        agent.display()
    );
    let mut options = shell(&script).argument("--health").argument(&health.to_string());
    let mut agent = Agent::spawn(&mesh, "web", &mut options);
    let status = agent.process.wait(Duration::from_secs(30));
    let log = agent.process.log();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("outbound is http://127.0.0.1:"), "{log}");
}

#[test]
fn signals_reach_the_child() {
    let mesh = shop::open();
    let script = "trap 'echo got hup' HUP; trap 'echo got term; exit 7' TERM; echo waiting; while :; do sleep 0.05; done";
    let mut agent = mesh.agent("web", shell(script));
    let says = |agent: &Agent, what: &str| {
        eventually(what, PATIENCE, || agent.process.log().contains(what).then_some(()));
    };
    says(&agent, "waiting");
    agent.process.signal(Signal::HUP);
    says(&agent, "got hup");
    let status = agent.process.stop(Duration::from_secs(30));
    assert_eq!(status.code(), Some(7), "{}", agent.process.log());
    assert!(agent.process.log().contains("got term"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_ends_before_the_child_is_told_to() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = StreamingApp::start();
    let told = mesh.folder().join("told");
    let script = format!("trap 'echo > {}; exit 0' TERM; while :; do sleep 0.05; done", told.display());
    let options = AgentOptions { child: shell(&script).child, ..shop::behind_orders(app.address()) };
    let mut orders = mesh.agent("orders", options);
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);

    let mut client = http1(web.outbound()).await;
    let (sender, body) = Frames::channel();
    let response = client.send_request(to("orders", "POST", "/echo").body(body).unwrap());
    sender.send(Frame::data(Bytes::from_static(b"before "))).await.unwrap();
    let response = response.await.unwrap();

    orders.process.signal(Signal::TERM);
    eventually("the agent says that it is draining", PATIENCE, || {
        let ready = get(orders.health(), "health", "/readyz");
        ready.is_ok_and(|response| response.status == 503).then_some(())
    });
    assert!(!told.exists(), "the app is still needed");
    sender.send(Frame::data(Bytes::from_static(b"after"))).await.unwrap();
    drop(sender);
    assert_eq!(whole(response).await.body, "before after");
    let status = orders.process.wait(Duration::from_secs(30));
    assert!(status.success(), "{status}: {}", orders.process.log());
    assert!(fs::exists(&told).unwrap());
}
