//! The shop that most tests trade in: web calls orders, orders calls payments, and intruder has a certificate and
//! no permission.

use std::{net::SocketAddr, time::Duration};

pub(crate) use hauberk_integration_tests::wants_long_tests;
use hauberk_integration_tests::{
    Agent, AgentOptions, App, CommandOutput, MeshBox, Response, eventually, get, request,
};

use crate::streaming_app::StreamingApp;

/// Nodes and services; no policy, so that nothing is allowed yet.
pub(crate) const SHOP: &str = r"
kind: Mesh
name: shop
spec: {}
---
kind: VirtualNode
mesh: shop
name: web
spec:
  backends: [{virtualService: {virtualServiceName: orders}}]
---
kind: VirtualNode
mesh: shop
name: intruder
spec: {}
---
kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - {portMapping: {port: 8080, protocol: http}}
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
---
kind: VirtualNode
mesh: shop
name: redis
spec:
  listeners: [{portMapping: {port: 6379, protocol: tcp}}]
---
kind: VirtualNode
mesh: shop
name: payments
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
---
kind: VirtualService
mesh: shop
name: orders
spec: {provider: {virtualNode: {virtualNodeName: orders, port: 8080}}}
---
kind: VirtualService
mesh: shop
name: orders-h2
spec: {provider: {virtualNode: {virtualNodeName: orders, port: 9090}}}
---
kind: VirtualService
mesh: shop
name: orders-rpc
spec: {provider: {virtualNode: {virtualNodeName: orders, port: 50051}}}
---
kind: VirtualService
mesh: shop
name: cache
spec: {provider: {virtualNode: {virtualNodeName: redis}}}
---
kind: VirtualService
mesh: shop
name: payments
spec: {provider: {virtualNode: {virtualNodeName: payments}}}
";

/// The smallest shop that trades: web may read from orders, and intruder may not.
pub(crate) const SMALL_SHOP: &str = r#"
kind: Mesh
name: shop
---
kind: VirtualNode
mesh: shop
name: orders
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: VirtualService
mesh: shop
name: orders
spec: {provider: {virtualNode: {virtualNodeName: orders}}}
---
kind: VirtualNode
mesh: shop
name: web
spec: {backends: [{virtualService: {virtualServiceName: orders}}]}
---
kind: VirtualNode
mesh: shop
name: intruder
spec: {}
---
kind: Policy
mesh: shop
name: web-reads-orders
spec:
  cedar: permit(principal == Node::"web", action == Action::"GET", resource in Service::"orders");
"#;

/// A permit of everything for web.
pub(crate) const WEB_MAY_ALL: &str = "permit (principal == Node::\"web\", action, resource);";

/// How long a test waits for something that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh that knows the shop.
pub(crate) fn open() -> MeshBox {
    open_with(&[])
}

/// The same, with more arguments for the control plane.
pub(crate) fn open_with(arguments: &[&str]) -> MeshBox {
    let mesh = MeshBox::start_with(arguments);
    mesh.apply(SHOP);
    mesh
}

/// Applies a policy and waits until every agent enforces it.
pub(crate) fn set_policy(mesh: &MeshBox, name: &str, cedar: &str) -> CommandOutput {
    let body: String = cedar.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!("kind: Policy\nmesh: shop\nname: {name}\nspec:\n  cedar: |\n{body}");
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &yaml).ok()
}

/// Takes a policy away and waits until no agent uses it.
pub(crate) fn remove_policy(mesh: &MeshBox, name: &str) {
    mesh.hauberk(&["delete", "policy", name]).ok();
    mesh.wait_enforced();
}

/// What an agent of orders needs to know: this app is behind each of its ports.
pub(crate) fn behind_orders(app: SocketAddr) -> AgentOptions {
    AgentOptions::default().app(8080, app).app(9090, app).app(50051, app)
}

/// An agent of orders with this app behind every port.
pub(crate) fn orders(mesh: &MeshBox, app: SocketAddr) -> Agent {
    mesh.agent("orders", behind_orders(app))
}

/// An agent of redis, the node behind the service `cache`.
pub(crate) fn redis(mesh: &MeshBox, app: SocketAddr) -> Agent {
    mesh.agent("redis", AgentOptions::default().app(6379, app))
}

/// An agent of a node that only calls.
pub(crate) fn caller(mesh: &MeshBox, node: &str) -> Agent {
    mesh.agent(node, AgentOptions::default())
}

/// A shop in which nothing is allowed yet: its mesh, the app behind orders, and the agents of orders and web.
pub(crate) fn trading() -> (MeshBox, App, Agent, Agent) {
    behind(open(), App::start("orders"), App::address)
}

/// The same under a policy.
pub(crate) fn trading_by(policy: &str, cedar: &str) -> (MeshBox, App, Agent, Agent) {
    let mesh = open();
    set_policy(&mesh, policy, cedar);
    behind(mesh, App::start("orders"), App::address)
}

/// The same with an app that streams.
pub(crate) fn streaming_by(policy: &str, cedar: &str) -> (MeshBox, StreamingApp, Agent, Agent) {
    let mesh = open();
    set_policy(&mesh, policy, cedar);
    behind(mesh, StreamingApp::start(), StreamingApp::address)
}

fn behind<A>(mesh: MeshBox, app: A, address: impl Fn(&A) -> SocketAddr) -> (MeshBox, A, Agent, Agent) {
    let orders = orders(&mesh, address(&app));
    let web = caller(&mesh, "web");
    (mesh, app, orders, web)
}

/// `GET` through an agent, asked until the answer has this status: for the moment after a start, when endpoints are
/// still on their way.
pub(crate) fn get_until(agent: &Agent, host: &str, path: &str, status: u16) -> Response {
    let mut last = None;
    eventually(&format!("{host}{path} answers {status}"), PATIENCE, || {
        let response = get(agent.outbound(), host, path).ok();
        let found = response.clone().filter(|response| response.status == status);
        if let (None, Some(response)) = (&found, response)
            && last != Some(response.status)
        {
            eprintln!("{host}{path}: {} {}", response.status, response.body.trim());
            last = Some(response.status);
        }
        found
    })
}

/// The answer to these bytes through an agent, asked until it has this status.
pub(crate) fn eventually_status(agent: &Agent, what: &str, bytes: &str, status: u16) -> Response {
    eventually(&format!("{what} answers {status}"), PATIENCE, || {
        request(agent.outbound(), bytes).ok().filter(|response| response.status == status)
    })
}
