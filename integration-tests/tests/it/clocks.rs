//! Hosts whose clocks are off: they are let in nowhere, and told by how much. Skipped where faketime is not installed.

use std::{fs, path::PathBuf};

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, eventually, get, skip};
use serde_json::Value;

use crate::{
    load::Load,
    shop::{self, PATIENCE, SMALL_SHOP, get_until},
};

/// Debian's library, for programs with threads; says so and gives nothing if it is not installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        skip("faketime is not installed");
    }
    found
}

/// What is far off, and in seconds.
const FAR: [(&str, i64); 6] = [
    ("-10m", -600),
    ("+10m", 600),
    ("-2h", -7_200),
    ("+2h", 7_200),
    ("-400d", -34_560_000),
    ("+400d", 34_560_000),
];

/// The seconds that the agent names in its log, once it does: negative where its clock is behind.
fn named(agent: &mut Agent) -> i64 {
    let process = &mut agent.process;
    eventually("it says by how much its clock is off", PATIENCE, || {
        let log = process.log();
        let (_, told) = log.split_once("this host's clock is ")?;
        let (seconds, rest) = told.split_once(" s ")?;
        let seconds: i64 = seconds.replace(',', "").parse().unwrap();
        let sign = if rest.starts_with("behind the control plane's") { -1 } else { 1 };
        assert!(sign < 0 || rest.starts_with("ahead of the control plane's"), "{rest}");
        Some(sign * seconds)
    })
}

fn certificates_of(mesh: &MeshBox, node: &str) -> usize {
    let listed = mesh.hauberk_json(&["get", "certificates", "-o", "json"]);
    let of_node =
        |certificate: &&Value| certificate["spiffeId"].as_str().unwrap().ends_with(&format!("/node/{node}"));
    listed["items"].as_array().unwrap().iter().filter(of_node).count()
}

#[test]
fn nobody_joins_whose_clock_is_off_and_no_token_is_used_up_by_it() {
    let Some(faketime) = faketime() else { return };
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let token = mesh.token_file("web", &[]);
    let options = || AgentOptions { token_file: Some(token.clone()), ..AgentOptions::default() };
    let mut agents: Vec<_> = FAR
        .iter()
        .map(|(offset, seconds)| {
            (Agent::spawn(&mesh, "web", &mut options().clock(offset, &faketime)), *seconds)
        })
        .collect();
    for (agent, seconds) in &mut agents {
        let told = named(agent);
        assert!((told - *seconds).abs() <= 30, "{told} for {seconds}:\n{}", agent.process.log());
        assert!(agent.process.is_running(), "it waits for its clock to be set:\n{}", agent.process.log());
        assert!(!agent.state_dir().join("identity").exists());
    }
    assert_eq!(certificates_of(&mesh, "web"), 0);
    // Set right, the same token does.
    let (mut last, _) = agents.pop().unwrap();
    drop(agents);
    last.set_clock(None);
    last.restart(mesh.folder());
    assert_eq!(certificates_of(&mesh, "web"), 1);
}

#[test]
fn whoever_joined_and_whose_clock_is_off_afterwards_lets_nobody_in() {
    let Some(faketime) = faketime() else { return };
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    let seen = app.requests();
    // Not ten minutes ahead: then its certificate is good for fifty more.
    for (offset, seconds) in FAR.into_iter().filter(|(offset, _)| *offset != "+10m") {
        orders.process.kill();
        let log = orders.process.log().len();
        orders.set_clock(Some((offset.to_owned(), faketime.clone())));
        orders.relaunch(mesh.folder());
        let process = &mut orders.process;
        eventually("it says by how much its clock is off", PATIENCE, || {
            let log = process.log()[log..].to_owned();
            let way = if seconds < 0 { "behind the control plane's" } else { "ahead of the control plane's" };
            (log.contains("this host's clock is ") && log.contains(way)).then_some(())
        });
        assert_ne!(get(web.outbound(), "orders", "/").map_or(0, |answer| answer.status), 200, "{offset}");
    }
    assert_eq!(app.requests(), seen, "nothing came through");
    orders.set_clock(None);
    orders.restart(mesh.folder());
    get_until(&web, "orders", "/", 200);
}

#[test]
fn what_is_less_than_five_minutes_off_works_and_check_tells_of_it() {
    let Some(faketime) = faketime() else { return };
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let slow = AgentOptions::default().app(8080, app.address()).clock("-4m", &faketime);
    let _orders = mesh.agent("orders", slow);
    let web = mesh.agent("web", AgentOptions::default().clock("+4m", &faketime));
    get_until(&web, "orders", "/", 200);
    let load = Load::start(web.outbound(), "orders");
    load.wait_for(50);
    load.finish();
    let told = mesh.hauberk(&["check"]).stdout;
    let of = |node: &str, way: &str| {
        let line = told.lines().find(|line| line.contains("the clock of instance") && line.contains(node));
        let line = line.unwrap_or_else(|| panic!("{told}"));
        let seconds = (238..=242).any(|seconds| line.contains(&format!(" is {seconds} s {way}")));
        assert!(seconds, "{line}");
    };
    of("/node/orders", "behind");
    of("/node/web", "ahead");
}
