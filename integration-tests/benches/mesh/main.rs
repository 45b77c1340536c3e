//! `make bench`: one run that measures direct calls, calls through two agents, and calls through
//! two of each other proxy that is installed, in turn, and prints ratios. Then memory, how fast a
//! change is enforced, and what concerns identities: issuance, a thousand agents at once, workloads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark: a failure is a panic with a reason, and it is timed by the real clock"
)]

mod control;
mod identities;
mod load;
mod peers;
mod views;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, eventually, get};
use tokio::runtime::Runtime;

const SPAN: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
/// Of two things that differ by little.
const COMPARED: usize = 9;

const MESH: &str = r#"
kind: Mesh
name: bench
---
kind: VirtualNode
mesh: bench
name: client
spec: {backends: [{virtualService: {virtualServiceName: server}}]}
---
kind: VirtualNode
mesh: bench
name: server
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
    - portMapping: {port: 9000, protocol: tcp}
---
kind: VirtualService
mesh: bench
name: server
spec: {provider: {virtualNode: {virtualNodeName: server}}}
---
kind: Policy
mesh: bench
name: client-may-call
spec:
  cedar: |
    permit(principal == Node::"client", action, resource in Service::"server");
"#;

/// What may be named on the command line; all of it where nothing is.
const PARTS: [&str; 11] = [
    "calls",
    "authorization",
    "bytes",
    "memory",
    "enforcement",
    "revocation",
    "policies",
    "views",
    "workloads",
    "thousand",
    "issuance",
];

fn main() {
    // Cargo adds a flag of its own.
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let unknown: Vec<_> = chosen.iter().filter(|part| !PARTS.contains(&part.as_str())).collect();
    assert!(unknown.is_empty(), "there is no part {unknown:?}; there are {PARTS:?}");
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|wanted| wanted == part);

    let runtime = Runtime::new().unwrap();
    let backend = runtime.block_on(load::backend());
    let mesh = MeshBox::start();
    mesh.apply(MESH);
    let server = mesh.agent("server", AgentOptions::default().app(8080, backend).app(9000, backend).quiet());
    let client = mesh.agent("client", AgentOptions::default().tcp("server:9000").quiet());
    mesh.wait_enforced();
    if wants("calls") {
        calls(&runtime, &mesh, backend, &client, &server);
    }
    if wants("authorization") {
        authorization(&runtime, backend);
    }
    if wants("bytes") {
        bytes(&runtime, backend, &client, &server);
    }
    // An instance that has gone holds up every change that concerns it: all stay until the last change was made.
    let mut standing = Vec::new();
    if wants("memory") {
        standing.push(memory(&runtime, &mesh, &client, &server));
    }
    if ["enforcement", "revocation", "policies"].into_iter().any(wants) {
        let agents = control::many_agents(&mesh, backend);
        if wants("enforcement") {
            control::enforcement(&mesh, &agents);
        }
        if wants("revocation") {
            control::revocation(&runtime, &mesh, agents.len());
        }
        if wants("policies") {
            control::grow(&runtime, &mesh, 0);
            control::enforcement(&mesh, &agents);
        }
        standing.extend(agents);
    }
    if wants("workloads") {
        standing.push(identities::workloads(&runtime, &mesh));
    }
    if wants("thousand") {
        identities::thousand(&runtime, &mesh);
    }
    drop((client, server, standing));
    if wants("views") {
        views::views(&runtime, backend);
    }
    // Last: its instances never connect.
    if wants("issuance") {
        identities::issuance(&runtime, &mesh);
    }
}

fn calls(runtime: &Runtime, mesh: &MeshBox, backend: SocketAddr, client: &Agent, server: &Agent) {
    let pairs = peers::pairs(mesh.folder(), backend);
    println!("HTTP/1.1 keep-alive, GET with a 3-byte answer; medians of {ROUNDS} runs of {SPAN:?}");
    for connections in [1, 64] {
        let ours = || cpu(client, server);
        let mut rows = vec![Row::new("direct"), Row::new("two agents")];
        rows.extend(pairs.iter().map(|pair| Row::new(pair.name)));
        for _ in 0..ROUNDS {
            rows[0].add(runtime, backend, "server", connections, || 0.0);
            rows[1].add(runtime, client.outbound(), "server", connections, ours);
            for (row, pair) in rows[2..].iter_mut().zip(&pairs) {
                row.add(runtime, pair.entry, "server", connections, || pair.cpu_seconds());
            }
        }
        print_rows(connections, &rows);
    }
    deciding(runtime, client, server);
}

/// How much of the called agent's time goes to deciding, by its own count of it. Whoever is kept from a processor while
/// it decides is counted as deciding, so that it is rather less.
fn deciding(runtime: &Runtime, client: &Agent, server: &Agent) {
    let counted = || {
        let page = get(server.health(), "health", "/metrics").unwrap().body;
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        let (sum, count) = (value("hauberk_decision_seconds_sum"), value("hauberk_decision_seconds_count"));
        (sum, count, server.process.cpu_seconds())
    };
    let before = counted();
    runtime.block_on(load::requests(client.outbound(), "server", "/", 64, SPAN));
    let after = counted();
    let requests = after.1 - before.1;
    let [deciding, all] = [after.0 - before.0, after.2 - before.2].map(|seconds| seconds / requests * 1e6);
    println!(
        "\n  deciding takes {deciding:.2} µs of {all:.1} µs CPU a request at the called agent, {:.1} %",
        deciding / all * 100.0
    );
}

/// Where the agent is that decides nothing, which `make bench-authorization` builds.
const UNDECIDED: &str = "HAUBERK_BENCH_UNDECIDED_AGENT";

/// What authorization costs of the agents' CPU: the same calls through agents that decide each request, and through
/// ones that do all the rest, in turn, so that whatever else slows the machine down meets both.
fn authorization(runtime: &Runtime, backend: SocketAddr) {
    let Some(undecided) = std::env::var_os(UNDECIDED).map(PathBuf::from) else {
        println!("\nAuthorization on and off: not measured, `make bench-authorization` does that");
        return;
    };
    // Without a policy nothing but an agent that does not ask for one lets a call through.
    let (rest, _) = MESH.rsplit_once("---").unwrap();
    let [on, off] = [(MESH, None), (rest, Some(undecided))].map(|(resources, program)| {
        let mesh = MeshBox::start();
        mesh.apply(resources);
        let quiet = || AgentOptions { program: program.clone(), ..AgentOptions::default() }.quiet();
        let server = mesh.agent("server", quiet().app(8080, backend).app(9000, backend));
        let client = mesh.agent("client", quiet());
        mesh.wait_enforced();
        // Where the server is, the client hears a moment after its rules.
        eventually("the first call", Duration::from_secs(10), || {
            (get(client.outbound(), "server", "/").unwrap().status == 200).then_some(())
        });
        (client, server, mesh)
    });
    println!(
        "\nAuthorization: CPU of both agents a request, {COMPARED} times {SPAN:?} each, in turn; medians"
    );
    for connections in [1, 64] {
        let each = |(client, server, _): &(Agent, Agent, MeshBox)| {
            let before = cpu(client, server);
            let rate = runtime.block_on(load::requests(client.outbound(), "server", "/", connections, SPAN));
            assert_eq!(rate.failed, 0);
            (cpu(client, server) - before) / rate.done as f64 * 1e6
        };
        each(&off);
        let compared: Vec<_> = (0..COMPARED).map(|_| [each(&on), each(&off)]).collect();
        let of = |value: fn(&[f64; 2]) -> f64| median(&compared.iter().map(value).collect::<Vec<_>>());
        let ([on, off], ratio) = ([of(|pair| pair[0]), of(|pair| pair[1])], of(|pair| pair[0] / pair[1]));
        println!("  {connections:>2} connection(s)   on {on:>6.1} µs   off {off:>6.1} µs   ratio {ratio:.3}");
    }
}

fn bytes(runtime: &Runtime, backend: SocketAddr, client: &Agent, server: &Agent) {
    println!("\nBulk TCP, one connection for {SPAN:?}");
    let (bytes, took) = runtime.block_on(load::bulk(backend, SPAN));
    let direct = gbit(bytes, took);
    println!("  {:<14} {direct:>8.2} Gbit/s", "direct");
    let before = cpu(client, server);
    let (bytes, took) = runtime.block_on(load::bulk(client.tcp("server:9000"), SPAN));
    let per_gib = (cpu(client, server) - before) / (bytes as f64 / f64::from(1 << 30));
    let through = gbit(bytes, took);
    println!(
        "  {:<14} {through:>8.2} Gbit/s   {:.2} of direct   {per_gib:.2} CPU s/GiB",
        "two agents",
        through / direct
    );

    println!("\nNew TCP connections, one request each, 16 in flight, for {SPAN:?}");
    let direct = runtime.block_on(load::connections(backend, 16, SPAN));
    println!("  {:<14} {:>8.0} /s", "direct", direct.per_second());
    let before = cpu(client, server);
    let through = runtime.block_on(load::connections(client.tcp("server:9000"), 16, SPAN));
    let each = (cpu(client, server) - before) / through.done as f64 * 1e3;
    println!(
        "  {:<14} {:>8.0} /s   {:.2} of direct   {each:.3} CPU ms each   {} failed",
        "two agents",
        through.per_second(),
        through.per_second() / direct.per_second(),
        through.failed
    );
}

/// Gives the agent that was started for it.
fn memory(runtime: &Runtime, mesh: &MeshBox, client: &Agent, server: &Agent) -> Agent {
    println!("\nMemory, MiB resident");
    let fresh = mesh.agent("client", AgentOptions::default().quiet());
    println!("  an agent that has done nothing     {:>6.1}", mib(&fresh));
    let (a, b) = (mib(client), mib(server));
    println!("  after the load above               {a:>6.1} calling, {b:.1} called");
    let held = runtime.block_on(load::idle(client.tcp("server:9000"), 1000));
    let (idle_a, idle_b) = (mib(client), mib(server));
    println!(
        "  with {} idle TCP connections     {idle_a:>6.1} calling, {idle_b:.1} called; {:.1} KiB a connection",
        held.len(),
        (idle_a + idle_b - a - b) * 1024.0 / held.len() as f64
    );
    fresh
}

/// One line of the table.
struct Row {
    name: &'static str,
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
    failed: u64,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self { name, rate: Vec::new(), p50: Vec::new(), p99: Vec::new(), cpu: Vec::new(), failed: 0 }
    }

    fn add(
        &mut self,
        runtime: &Runtime,
        to: SocketAddr,
        host: &str,
        connections: usize,
        cpu: impl Fn() -> f64,
    ) {
        let before = cpu();
        let rate = runtime.block_on(load::requests(to, host, "/", connections, SPAN));
        self.cpu.push((cpu() - before) / rate.done.max(1) as f64 * 1e5);
        self.rate.push(rate.per_second());
        self.p50.push(rate.quantile_us(0.5));
        self.p99.push(rate.quantile_us(0.99));
        self.failed += rate.failed;
    }
}

fn print_rows(connections: usize, rows: &[Row]) {
    println!(
        "\n  {connections} connection(s)  {:>9} {:>9} {:>9} {:>14} {:>10} {:>10}",
        "req/s", "p50 µs", "p99 µs", "CPU s/100k", "of direct", "CPU ratio"
    );
    let ours = median(&rows[1].cpu);
    for row in rows {
        let cpu = median(&row.cpu);
        let ratio = if cpu > 0.0 { format!("{:.2}", ours / cpu) } else { "-".to_owned() };
        let failed = if row.failed > 0 { format!("   {} FAILED", row.failed) } else { String::new() };
        println!(
            "  {:<14}  {:>9.0} {:>9.0} {:>9.0} {:>14.2} {:>10.2} {:>10}{failed}",
            row.name,
            median(&row.rate),
            median(&row.p50),
            median(&row.p99),
            cpu,
            median(&row.rate) / median(&rows[0].rate),
            ratio,
        );
    }
    println!("  (CPU: of the two proxies alone; CPU ratio: two agents to that row)");
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn cpu(a: &Agent, b: &Agent) -> f64 {
    a.process.cpu_seconds() + b.process.cpu_seconds()
}

fn mib(agent: &Agent) -> f64 {
    agent.process.resident_kib() as f64 / 1024.0
}

fn gbit(bytes: u64, took: Duration) -> f64 {
    bytes as f64 * 8.0 / took.as_secs_f64() / 1e9
}
