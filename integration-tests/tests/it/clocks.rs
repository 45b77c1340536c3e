//! Hosts whose clocks are off: they are let in nowhere, and told by how much. Skipped where faketime is not installed.

use std::{fs, path::PathBuf};

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, dial, eventually, get, skip};
use serde_json::Value;

use crate::{
    load::Load,
    peer::Peer,
    revocation::is_served,
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

/// As on a host without a clock of its own, or after its machine was asleep.
#[test]
fn a_certificate_is_kept_over_a_start_with_a_wrong_clock_and_no_token_is_used() {
    let Some(faketime) = faketime() else { return };
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let (clock, next) = (mesh.folder().join("clock"), mesh.folder().join("clock.next"));
    let set = |offset: &str| {
        fs::write(&next, offset).unwrap();
        fs::rename(&next, &clock).unwrap();
    };
    set("+0s");
    let of_file = |options: AgentOptions| options.clock(clock.to_str().unwrap(), &faketime);
    let mut web = mesh.agent("web", of_file(AgentOptions::default()));
    // With the token that it has used, and then with nothing to join with.
    for has_token in [true, false] {
        for offset in ["-2h", "+2h"] {
            web.process.kill();
            let log = web.process.log().len();
            set(offset);
            web.relaunch(mesh.folder());
            let process = &mut web.process;
            eventually("it says what it waits for", PATIENCE, || {
                process.log()[log..].contains("this host's clock is ").then_some(())
            });
            set("+0s");
            web.wait_ready();
        }
        if has_token {
            web.process.kill();
            let state_dir = Some(web.state_dir().to_owned());
            web = mesh.agent("web", of_file(AgentOptions { state_dir, ..AgentOptions::default() }));
        }
    }
    assert_eq!(certificates_of(&mesh, "web"), 1, "{}", web.process.log());
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
        let seconds = (230..=250).any(|seconds| line.contains(&format!(" is {seconds} s {way}")));
        assert!(seconds, "{line}");
    };
    of("/node/orders", "behind");
    of("/node/web", "ahead");
}

/// The control plane's, while it runs, and set right soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_whose_clock_was_off_for_a_while_refuses_whom_it_refused_and_issues_as_before() {
    let Some(faketime) = faketime() else { return };
    let mut mesh = MeshBox::start();
    let (clock, next) = (mesh.folder().join("clock"), mesh.folder().join("clock.next"));
    let set = |offset: &str| {
        fs::write(&next, offset).unwrap();
        fs::rename(&next, &clock).unwrap();
    };
    set("+0s");
    mesh.set_clock(Some((clock.to_str().unwrap().to_owned(), faketime)));
    mesh.restart_control_plane();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let (svid, key) = dial::join(&mesh, "web").await;
    let revoked = Peer::with(&mesh, &svid, &key);
    assert!(is_served(&revoked, orders.inbound(8080)).await);
    mesh.hauberk(&["revoke", "serial", &svid.serial().to_string(), "--wait=20s"]).ok();
    let health = mesh.health_address().parse().unwrap();
    let asked = |path| get(health, "health", path).unwrap();
    let own_certificates =
        |mesh: &mut MeshBox| mesh.control_plane().log().matches("server_certificate").count();
    let seconds_ahead = || {
        let figures = asked("/metrics").body;
        let line = figures.lines().find_map(|line| line.strip_prefix("hauberk_clock_ahead_seconds "));
        line.unwrap().parse::<i64>().unwrap()
    };

    let noticed = FAR.into_iter().filter(|(offset, _)| *offset != "-10m");
    for (offset, seconds) in noticed.chain([("+83d", 7_171_200)]) {
        let before = own_certificates(&mut mesh);
        set(offset);
        eventually("the control plane has seen it", PATIENCE, || {
            let is_ahead = (seconds_ahead() - seconds).abs() < 60;
            // Before the mesh was founded nothing is valid.
            let is_behind =
                seconds < -600 && asked("/readyz").body.contains("the issuing authority is valid from");
            (is_ahead || is_behind).then_some(())
        });
        if seconds > 7_200 {
            eventually("its own certificate has ended", PATIENCE, || {
                (own_certificates(&mut mesh) > before).then_some(())
            });
        }
        set("+0s");
        eventually("it is as before", PATIENCE, || {
            let admins_are_served = || mesh.hauberk(&["get", "certificates"]).code == 0;
            let is_ready = seconds_ahead() == 0 && asked("/readyz").status == 200;
            (is_ready && admins_are_served()).then_some(())
        });
        assert!(!is_served(&revoked, orders.inbound(8080)).await, "{offset}");
        let new = Peer::join(&mesh, "web").await;
        assert!(is_served(&new, orders.inbound(8080)).await, "{offset}");
    }
    mesh.restart_control_plane();
    let new = Peer::join(&mesh, "web").await;
    assert!(is_served(&new, orders.inbound(8080)).await);
    assert!(!is_served(&revoked, orders.inbound(8080)).await);
}
