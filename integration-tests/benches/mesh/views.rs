//! What a change costs one agent, by its own count: to put the view of a node among 10,000 policies and 500 nodes in
//! force, and to decide what is live again.

use std::net::SocketAddr;

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, get};
use tokio::runtime::Runtime;

use crate::{control, load};

/// How many of the policies concern every node.
const OF_ALL: usize = 500;
/// About as many TCP streams as an agent has room for that may have 20,000 files open.
const LIVE: usize = 4_500;
const CHANGES: usize = 11;

/// In a mesh of its own.
pub fn views(runtime: &Runtime, backend: SocketAddr) {
    let mesh = MeshBox::start();
    mesh.apply(crate::MESH);
    let server = |mesh: &MeshBox| {
        mesh.agent("server", AgentOptions::default().app(8080, backend).app(9000, backend).quiet())
    };
    let small = server(&mesh);
    let without = own(&small);
    control::grow(runtime, &mesh, OF_ALL);
    let large = server(&mesh);
    mesh.wait_enforced();
    println!("\nA node that {OF_ALL} of the policies concern");
    println!("  its first view in force after        {:>8.1} ms", spent(&large) * 1e3);
    println!("  with it, more than without           {:>8.1} MiB", own(&large) - without);
    let client = mesh.agent("client", AgentOptions::default().tcp("server:9000").quiet());
    println!("  one policy changed                   {:>8.1} ms, median", changes(runtime, &mesh, &large, 0));
    let live = runtime.block_on(load::idle(client.tcp("server:9000"), LIVE));
    println!(
        "  the same with {} live streams       {:>8.1} ms, median",
        live.len(),
        changes(runtime, &mesh, &large, CHANGES)
    );
    // It holds up what concerns it once it has gone.
    drop(small);
}

/// How long an agent took to put changes in force, in milliseconds.
fn changes(runtime: &Runtime, mesh: &MeshBox, agent: &Agent, from: usize) -> f64 {
    let each: Vec<f64> = (from..from + CHANGES)
        .map(|number| {
            let before = spent(agent);
            runtime.block_on(control::change(mesh, number, 1));
            (spent(agent) - before) * 1e3
        })
        .collect();
    crate::median(&each)
}

/// What memory it has of its own, in MiB.
fn own(agent: &Agent) -> f64 {
    agent.process.own_kib() as f64 / 1024.0
}

/// How long an agent took to put views in force so far, in seconds.
fn spent(agent: &Agent) -> f64 {
    let page = get(agent.health(), "health", "/metrics").unwrap().body;
    let line = page.lines().find_map(|line| line.strip_prefix("hauberk_view_apply_seconds_sum ")).unwrap();
    line.parse().unwrap()
}
