//! The control plane is away, comes back, or somebody has been at an agent's state.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_integration_tests::{
    Agent, AgentOptions, App, MeshBox, eventually, free_port, get, wants_long_tests,
};

use crate::{
    load::Load,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    tcp::open_echo,
    tcp_app::TcpApp,
};

/// An app behind mesh ports that stay the same when the agent is started again.
fn fixed(ports: &[u16], app: SocketAddr) -> AgentOptions {
    ports.iter().fold(AgentOptions::default(), |options, port| {
        options.argument("--listener").argument(&format!("{port},inbound={},app={app}", free_port()))
    })
}

/// The ports of orders.
const ORDERS: &[u16] = &[8080, 9090, 50051];

#[test]
fn calls_go_on_and_agents_start_from_disk() {
    let mut mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (app, tcp) = (App::start("orders"), TcpApp::echo());
    let mut orders = mesh.agent("orders", fixed(ORDERS, app.address()));
    let mut redis = mesh.agent("redis", fixed(&[6379], tcp.address()));
    let mut web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/", 200);
    get_until(&intruder, "orders", "/", 403);
    let mut open = open_echo(web.tcp("cache:6379"));

    let load = Load::start(web.outbound(), "orders");
    load.wait_for(20);
    mesh.kill_control_plane();
    load.wait_for(200);
    load.finish();
    open.write_all(b"!").unwrap();
    open.read_exact(&mut [0]).unwrap();

    // Without it, from what is on disk; and no freer than before.
    orders.restart(mesh.folder());
    redis.restart(mesh.folder());
    web.restart(mesh.folder());
    get_until(&web, "orders", "/from-disk", 200);
    drop(open_echo(web.tcp("cache:6379")));
    let seen = app.requests();
    get_until(&intruder, "orders", "/", 403);
    assert_eq!(app.requests(), seen);

    // Back again, it is obeyed again.
    mesh.restart_control_plane();
    shop::remove_policy(&mesh, "all");
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 403);
}

#[test]
fn a_restart_of_the_control_plane_fails_no_call() {
    let (mut mesh, _app, _orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let load = Load::start(web.outbound(), "orders");
    // What an agent has registered is written within a tenth of a second: one that is killed before forgets it.
    load.wait_for(1_000);
    for _ in 0..3 {
        load.wait_for(50);
        mesh.restart_control_plane();
    }
    load.wait_for(200);
    mesh.wait_enforced();
    load.finish();
}

/// A mesh in which orders serves web from a fixed port, with what a test needs to tamper with its state.
struct Tampering {
    orders: Agent,
    web: Agent,
    app: App,
    mesh: MeshBox,
}

impl Tampering {
    fn start() -> Self {
        let mesh = shop::open();
        shop::set_policy(&mesh, "all", WEB_MAY_ALL);
        let app = App::start("orders");
        let orders = mesh.agent("orders", fixed(ORDERS, app.address()));
        let web = shop::caller(&mesh, "web");
        get_until(&web, "orders", "/", 200);
        Self { mesh, app, orders, web }
    }

    fn node_view(&self) -> Vec<u8> {
        fs::read(self.orders.state_dir().join("node-view")).unwrap()
    }

    /// Starts orders without a control plane, on this node view, and sees that nothing is let in; then brings the
    /// control plane back and sees that all is well.
    fn expect_refusal(mut self, node_view: &[u8]) {
        self.mesh.kill_control_plane();
        self.orders.process.kill();
        fs::write(self.orders.state_dir().join("node-view"), node_view).unwrap();
        let seen = self.app.requests();
        let begun = self.orders.process.log().len();
        self.orders.relaunch(self.mesh.folder());
        let process = &mut self.orders.process;
        eventually("the agent names the view that it refuses", PATIENCE, || {
            let log = process.log()[begun..].to_owned();
            assert!(process.is_running(), "{log}");
            let named = ["stored_view_discarded", "node-view is damaged"];
            named.iter().any(|words| log.contains(words)).then_some(())
        });
        for _ in 0..5 {
            // Denied, or not answered.
            let status = get(self.web.outbound(), "orders", "/").map_or(0, |response| response.status);
            assert_ne!(status, 200);
        }
        assert_eq!(self.app.requests(), seen, "nothing is let in by a view that is refused");

        self.mesh.restart_control_plane();
        self.orders.wait_ready();
        get_until(&self.web, "orders", "/again", 200);
    }
}

#[test]
fn an_older_view_is_not_taken_back() {
    let state = Tampering::start();
    let older = state.node_view();
    let mark = state.orders.state_dir().join("high-water-mark");
    let before = fs::read(&mark).ok();
    shop::set_policy(&state.mesh, "more", "forbid (principal == Node::\"intruder\", action, resource);");
    assert_ne!(older, state.node_view());
    eventually("how far the agent has come is on its disk", PATIENCE, || {
        fs::read(&mark).ok().filter(|now| Some(now) != before.as_ref())
    });
    state.expect_refusal(&older);
}

#[test]
fn a_flipped_byte_is_found() {
    let state = Tampering::start();
    let mut view = state.node_view();
    // Of both slots: the former view may still be there.
    for slot in view.chunks_mut(state.node_view().len() / 2) {
        if let Some(head) = slot.iter().position(|&byte| byte == b'\n') {
            slot[head + 9] ^= 1;
        }
    }
    assert_ne!(view, state.node_view());
    state.expect_refusal(&view);
}

#[test]
fn a_forger_who_mends_the_checksum_is_found() {
    let state = Tampering::start();
    let view = state.node_view();
    // The policy grants web; let it grant somebody else as well-formed and as long.
    let mut forged = 0;
    let slots = view.chunks(view.len() / 2).flat_map(|slot| {
        let Some((sequence, mut payload)) = unsealed(slot) else { return slot.to_vec() };
        if let Some(found) = payload.windows(8).position(|bytes| bytes == b"node/web") {
            payload[found + 5..found + 8].copy_from_slice(b"wab");
            forged += 1;
        }
        let mut slot = slot.to_vec();
        let sealed = sealed(sequence, &payload);
        slot[..sealed.len()].copy_from_slice(&sealed);
        slot
    });
    let slots = slots.collect::<Vec<_>>();
    assert!(forged > 0, "a view on disk holds the policy");
    state.expect_refusal(&slots);
}

#[test]
fn another_nodes_view_is_not_ours() {
    let state = Tampering::start();
    let payments = App::start("payments");
    let payments = state.mesh.agent("payments", AgentOptions::default().app(8080, payments.address()));
    let view = fs::read(payments.state_dir().join("node-view")).unwrap();
    drop(payments);
    state.expect_refusal(&view);
}

/// A slot as agents write it.
fn sealed(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let checksum: String = digest(&SHA256, &[&sequence.to_be_bytes(), payload].concat())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    [format!("hauberk-agent-slots 1 {sequence} {} {checksum}\n", payload.len()).as_bytes(), payload].concat()
}

fn unsealed(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let end = slot.iter().position(|&byte| byte == b'\n')?;
    let head: Vec<_> = std::str::from_utf8(&slot[..end]).ok()?.split(' ').collect();
    let (sequence, len): (u64, usize) = (head[2].parse().ok()?, head[3].parse().ok()?);
    let payload = slot[end + 1..][..len].to_vec();
    assert_eq!(sealed(sequence, &payload), slot[..end + 1 + len], "this test seals as agents do");
    Some((sequence, payload))
}

#[test]
fn one_state_directory_serves_one_agent() {
    let mesh = shop::open();
    let web = shop::caller(&mesh, "web");
    let mut options = AgentOptions { state_dir: Some(web.state_dir().to_owned()), ..AgentOptions::default() };
    let copy = web.state_dir().join("addresses.json");
    let addresses = fs::read(&copy).unwrap();
    let mut second = Agent::spawn(&mesh, "web", &mut options);
    let status = second.process.wait(PATIENCE);
    assert!(!status.success());
    assert!(second.process.log().contains("in use"), "{}", second.process.log());
    // The harness took the file away before it started the second.
    fs::write(&copy, addresses).unwrap();
    get(web.health(), "health", "/readyz").map(|response| assert_eq!(response.status, 200)).unwrap();
}

/// Certificates of a minute: renewed without a broken connection; once nobody renews them, nothing is let in.
#[test]
fn renewal_breaks_nothing_and_expiry_denies() {
    if !wants_long_tests() {
        return;
    }
    let mut mesh = shop::open_with(&["--svid-ttl", "1m"]);
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let (app, tcp) = (App::start("orders"), TcpApp::echo());
    let orders = shop::orders(&mesh, app.address());
    let _redis = shop::redis(&mesh, tcp.address());
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    get_until(&web, "orders", "/", 200);
    let mut open = open_echo(web.tcp("cache:6379"));
    let first = serial(orders.state_dir());
    let load = Load::start(web.outbound(), "orders");
    // Three generations: every certificate that the tunnel began with has then expired.
    let mut generations = vec![first];
    let mut use_tunnel = || {
        open.write_all(b"!").unwrap();
        open.read_exact(&mut [0]).unwrap();
    };
    eventually("three renewals", Duration::from_secs(180), || {
        use_tunnel();
        let now = serial(orders.state_dir());
        if generations.last() != Some(&now) {
            generations.push(now);
        }
        (generations.len() > 3).then_some(())
    });
    use_tunnel();
    load.finish();

    mesh.kill_control_plane();
    eventually("expired certificates let nothing in", Duration::from_secs(90), || {
        // One that meets a connection as it is closed for its age fails by itself.
        let is_let_in = || get(web.outbound(), "orders", "/").is_ok_and(|response| response.status == 200);
        (!(0..5).any(|_| is_let_in())).then_some(())
    });
    let seen = app.requests();
    for _ in 0..20 {
        assert_ne!(get(web.outbound(), "orders", "/").map_or(0, |response| response.status), 200);
    }
    assert_eq!(app.requests(), seen);
    let ended = eventually("the tunnel is cut", Duration::from_secs(90), || {
        let mut byte = [0];
        let alive = open.write_all(b"!").is_ok() && matches!(open.read(&mut byte), Ok(1));
        (!alive).then_some(true)
    });
    assert!(ended);
}

/// What tells one certificate of an agent from the next.
fn serial(state: &Path) -> Vec<u8> {
    fs::read(state.join("identity")).unwrap()
}
