//! Agents of virtual gateways: they join, call what rules permit, and are taken back, as agents of nodes are; and a
//! node and a gateway that are called the same are two.

use std::net::SocketAddr;

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, dial, eventually, eventually_async, get};
use hauberk_proto::agent::v1::{
    SignCertificateRequest, SignWorkloadCertificateRequest, enrollment_client::EnrollmentClient,
    workloads_client::WorkloadsClient,
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tonic::{Code, transport::Channel};

use crate::{
    attestation::{Machines, showing, written},
    peer::Peer,
    revocation::is_served,
    shop::{PATIENCE, SMALL_SHOP, get_until},
    workload_api::uid,
};

const WAIT: &str = "--wait=20s";

/// A gateway, and a node that is called the same.
const BOTH: &str = "
kind: VirtualGateway
mesh: shop
name: edge
spec: {}
---
kind: VirtualNode
mesh: shop
name: edge
spec: {}
";

const GATEWAY: &str = "spiffe://box.test/mesh/shop/gateway/edge";

fn shop() -> MeshBox {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh.apply(BOTH);
    mesh
}

fn orders(mesh: &MeshBox) -> (App, Agent) {
    let app = App::start("orders");
    let agent = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    (app, agent)
}

#[test]
fn an_ingress_calls_through_its_gateways_agent_what_a_rule_permits_the_gateway() {
    let mesh = shop();
    let (app, _orders) = orders(&mesh);
    let gateway = mesh.agent("gateway/edge", AgentOptions::default());
    let node = mesh.agent("edge", AgentOptions::default());
    let denied = get_until(&gateway, "orders", "/cart", 403);
    get_until(&node, "orders", "/cart", 403);
    assert_eq!(app.requests(), 0);
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("hauberk allow gateway/edge orders"), "{told}");

    let allowed = mesh.hauberk(&["allow", "gateway/edge", "orders", "--methods", "GET", WAIT]).ok();
    assert!(allowed.stdout.contains("Node::\"gateway/edge\""), "{allowed:?}");
    assert_eq!(get(gateway.outbound(), "orders", "/cart").unwrap().status, 200);
    assert_eq!(get(node.outbound(), "orders", "/cart").unwrap().status, 403, "it is the gateway's alone");
    assert_eq!(app.requests(), 1);
    assert!(
        app.heads()[0].iter().any(|line| line.contains(GATEWAY)),
        "the app is told who: {:?}",
        app.heads()
    );

    mesh.hauberk(&["can", "gateway/edge", "orders", "GET", "/cart"]).ok();
    assert_eq!(mesh.hauberk(&["can", "edge", "orders", "GET", "/cart"]).code, 1);
    let who = mesh.hauberk(&["who-can", "orders", "GET", "/cart"]).ok().stdout;
    assert!(who.contains("gateway/edge"), "{who}");
    // Who is meant must be there.
    for (arguments, wanted) in [
        (&["can", "gateway/egde", "orders", "GET", "/cart"][..], "did you mean \"gateway/edge\"?"),
        (&["allow", "gateway/egde", "orders"], "egde"),
        (&["allow", "gateway/web", "orders"], "web"),
    ] {
        let refused = mesh.hauberk(arguments);
        assert!(refused.code != 0 && refused.stderr.contains(wanted), "{arguments:?}: {refused:?}");
    }
    let misspelt = mesh.apply(
        "kind: Policy\nmesh: shop\nname: p\nspec:\n  cedar: permit(principal == Node::\"gateway/egde\", action, resource);\n",
    );
    assert!(misspelt.stderr.contains("did you mean \"edge\"?"), "{misspelt:?}");
}

#[test]
fn an_admin_sees_a_gateways_agents_beside_those_of_nodes() {
    let mesh = shop();
    let _gateway = mesh.agent("gateway/edge", AgentOptions::default());
    let _node = mesh.agent("edge", AgentOptions::default());
    mesh.wait_enforced();
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let nodes: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|item| item["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["gateway/edge", "edge"], "{listed}");
    for (named, id) in [("gateway/edge", GATEWAY), ("edge", "spiffe://box.test/mesh/shop/node/edge")] {
        let of_one = mesh.hauberk_json(&["get", "instances", named, "-o", "json"]);
        assert_eq!(of_one["items"].as_array().map(Vec::len), Some(1), "{of_one}");
        assert_eq!(of_one["items"][0]["spiffeId"], id, "{of_one}");
        assert_eq!(of_one["items"][0]["lagReason"], "", "{of_one}");
        let instance = of_one["items"][0]["id"].as_str().unwrap();
        let certificates = mesh.hauberk_json(&["get", "certificates", named, "-o", "json"]);
        assert_eq!(certificates["items"][0]["instanceId"], instance, "{certificates}");
        let life = mesh.hauberk(&["describe", "instance", instance]).ok().stdout;
        assert!(life.contains(id), "{life}");
    }
    let described = mesh.hauberk(&["describe", "virtualgateway", "edge"]).ok().stdout;
    for fact in [
        GATEWAY,
        "Node::\"gateway/edge\"",
        "`hauberk what-can gateway/edge --mesh shop` tells what all of them permit",
        "gateway/edge",
    ] {
        assert!(described.contains(fact), "{fact}: {described}");
    }
    let tokens = mesh.hauberk_json(&["token", "list", "-o", "json"]);
    let named = |token: &serde_json::Value| token["node"] == "gateway/edge";
    assert!(tokens["items"].as_array().unwrap().iter().any(named), "{tokens}");
    let written = mesh.hauberk(&["get", "gateway", "edge", "-o", "yaml"]).ok().stdout;
    assert!(mesh.apply(&written).stdout.contains("virtualgateway/edge unchanged"), "{written}");
}

#[test]
fn what_would_need_a_gateway_of_the_meshs_own_is_refused_by_name() {
    let mesh = shop();
    let refused = |yaml: &str, wanted: &str| {
        let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], yaml);
        assert!(refused.code != 0 && refused.stderr.contains(wanted), "{refused:?}");
    };
    // As `aws appmesh describe-virtual-gateway` prints it.
    refused(
        "meshName: shop\nvirtualGatewayName: ingress\nspec:\n  listeners:\n  - portMapping: {port: 8088, protocol: http}\n",
        "`listeners` of a virtual gateway are not supported by this version",
    );
    refused(
        "kind: VirtualGateway\nmesh: shop\nname: ingress\nspec: {logging: {}}\n",
        "App Mesh's `logging` is not supported by this version",
    );
    refused(
        "kind: GatewayRoute\nmesh: shop\nname: r\nspec: {}\n",
        "App Mesh's GatewayRoute is not supported by this version",
    );
    let refused = mesh.hauberk(&["token", "create", "--gateway", "ingress"]);
    assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused:?}");
    let refused = mesh.hauberk(&["token", "create", "--gateway", "edge", "--node", "edge"]);
    assert!(refused.code != 0 && refused.stderr.contains("cannot be used with"), "{refused:?}");
}

/// Somebody who holds a certificate, and what it proves to the control plane.
struct Holder {
    peer: Peer,
    svid: Svid,
    key: KeyPair,
}

impl Holder {
    async fn of(mesh: &MeshBox, node: &str) -> Self {
        let (svid, key) = dial::join(mesh, node).await;
        Self { peer: Peer::with(mesh, &svid, &key), svid, key }
    }

    fn channel(&self, mesh: &MeshBox) -> Channel {
        dial::channel(mesh.agent_address(), dial::bearer(mesh, self.svid.clone(), &self.key))
    }

    async fn renews(&self, mesh: &MeshBox) -> bool {
        let request = SignCertificateRequest { csr: CertificateRequest::create(&self.key).unwrap() };
        EnrollmentClient::new(self.channel(mesh)).sign_certificate(request).await.is_ok()
    }

    async fn is_served(&self, address: SocketAddr) -> bool {
        is_served(&self.peer, address).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_from_one_is_not_taken_from_the_other_of_its_name() {
    let mesh = shop();
    let (_app, agent) = orders(&mesh);
    mesh.hauberk(&["allow", "gateway/edge,edge", "orders", WAIT]).ok();
    let address = agent.inbound(8080);
    let (gateway, node) = (Holder::of(&mesh, "gateway/edge").await, Holder::of(&mesh, "edge").await);
    // Holders are no agents, which `--wait` would wait for.
    let both = async |wanted: (bool, bool)| {
        eventually_async(&format!("gateway and node are served: {wanted:?}"), PATIENCE, async || {
            let are = (gateway.is_served(address).await, node.is_served(address).await);
            (are == wanted).then_some(())
        })
        .await;
    };
    both((true, true)).await;

    let mut open = gateway.peer.connect("orders", address, &[b"http/1.1"]).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut head = [0; 13];
    open.read_exact(&mut head).await.unwrap();
    let told = mesh.hauberk(&["quarantine", "gateway", "edge"]).ok();
    assert!(told.stdout.contains("virtualgateway/edge is in quarantine"), "{told:?}");
    let mut rest = Vec::new();
    assert!(timeout(PATIENCE, open.read_to_end(&mut rest)).await.is_ok(), "what was open is cut");
    both((false, true)).await;
    assert_eq!((gateway.renews(&mesh).await, node.renews(&mesh).await), (false, true));
    // The node is in none, so that nothing ends by that.
    let told = mesh.hauberk(&["quarantine", "node", "edge", "--undo"]).ok();
    assert!(told.stdout.contains("virtualnode/edge unchanged"), "{told:?}");
    mesh.hauberk(&["quarantine", "gateway", "edge", "--undo"]).ok();
    both((true, true)).await;

    mesh.hauberk(&["quarantine", "node", "edge"]).ok();
    both((true, false)).await;
    assert_eq!((gateway.renews(&mesh).await, node.renews(&mesh).await), (true, false));
    mesh.hauberk(&["quarantine", "node", "edge", "--undo"]).ok();

    let told = mesh.hauberk(&["revoke", "gateway", "edge"]).ok();
    assert!(told.stdout.contains("virtualgateway/edge revoked"), "{told:?}");
    both((false, true)).await;
    let again = Holder::of(&mesh, "gateway/edge").await;
    assert!(again.is_served(address).await, "by a new token it comes in again");
    mesh.hauberk(&["revoke", "node", "edge"]).ok();
    both((false, false)).await;
    assert!(again.is_served(address).await);
}

#[test]
fn the_agent_of_a_deleted_gateway_calls_nobody_and_its_neighbour_goes_on() {
    let mesh = shop();
    let (_app, _orders) = orders(&mesh);
    mesh.hauberk(&["allow", "gateway/edge,edge", "orders", WAIT]).ok();
    let mut gateway = mesh.agent("gateway/edge", AgentOptions::default());
    let node = mesh.agent("edge", AgentOptions::default());
    get_until(&gateway, "orders", "/", 200);
    get_until(&node, "orders", "/", 200);
    mesh.hauberk(&["delete", "virtualgateway", "edge"]).ok();
    mesh.wait_enforced();
    assert_ne!(get(gateway.outbound(), "orders", "/").map_or(0, |answer| answer.status), 200);
    eventually("it says why", PATIENCE, || {
        let unready = get(gateway.health(), "health", "/readyz").ok()?;
        ((unready.status, unready.body.trim()) == (503, "node_deleted")).then_some(())
    });
    assert_eq!(get(node.outbound(), "orders", "/").unwrap().status, 200);
    gateway.relaunch(mesh.folder());
    assert_eq!(gateway.process.wait(PATIENCE).code(), Some(78), "{}", gateway.process.log());
    assert!(
        gateway.process.log().contains("no virtual gateway edge any longer"),
        "{}",
        gateway.process.log()
    );
}

#[test]
fn a_machine_becomes_a_gateway_by_an_enrollments_rule() {
    let (mesh, ca) = (shop(), Machines::new());
    let (_app, _orders) = orders(&mesh);
    mesh.hauberk(&["allow", "gateway/edge", "orders", WAIT]).ok();
    mesh.apply(&ca.enrollment("gateway/edge", "x509pop:subject:cn:vm-1"));
    let [certificate, key] = written(&mesh, "vm-1", &ca.machine("vm-1"));
    let shown =
        ["--x509pop-certificate", certificate.to_str().unwrap(), "--x509pop-key", key.to_str().unwrap()];
    let gateway = mesh.agent("gateway/edge", showing("shop/machines", &shown));
    get_until(&gateway, "orders", "/", 200);

    let described = mesh.hauberk(&["describe", "enrollment", "machines"]).ok().stdout;
    assert!(described.contains("virtualgateway/edge, for evidence of which"), "{described}");
    let listed = mesh.hauberk(&["get", "enrollments"]).ok().stdout;
    assert!(listed.contains("virtualgateway/edge"), "{listed}");
    let refused = mesh.hauberk(&["delete", "virtualgateway", "edge"]);
    assert!(refused.stderr.contains("still used by enrollment \"machines\""), "{refused:?}");
    mesh.hauberk(&["delete", "virtualnode", "edge"]).ok();
    let written = mesh.hauberk(&["get", "enrollment", "machines", "-o", "yaml"]).ok().stdout;
    assert!(written.contains("virtualGateway: edge"), "{written}");
    assert!(mesh.apply(&written).stdout.contains("unchanged"), "{written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_agents_vouch_for_programs_beside_them_and_the_nodes_do_not() {
    let mesh = shop();
    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: proxy\nspec:\n  parent: {{virtualGateway: edge}}\n  workload: {{path: ingress/proxy, \
         selectors: [\"{}\"]}}\n",
        uid()
    ));
    let (gateway, node) = (Holder::of(&mesh, "gateway/edge").await, Holder::of(&mesh, "edge").await);
    let sign = async |holder: &Holder| {
        let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
        let request = SignWorkloadCertificateRequest { enrollment: "proxy".to_owned(), csr };
        WorkloadsClient::new(holder.channel(&mesh)).sign_certificate(request).await
    };
    let answer = sign(&gateway).await.unwrap().into_inner();
    assert_eq!(answer.certificate.unwrap().spiffe_id, "spiffe://box.test/workload/ingress/proxy");
    let refused = sign(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let log = mesh.hauberk(&["audit", "list", "--refused", "-o", "json"]).ok().stdout;
    assert!(log.contains("the parent of enrollment proxy is virtual gateway edge, not edge"), "{log}");
}
