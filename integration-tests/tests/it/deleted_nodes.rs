//! Nodes that are deleted, and made anew under the same name: their former instances serve nobody and are let in
//! nowhere.

use hauberk_integration_tests::{AgentOptions, App, MeshBox, dial, eventually, get};
use hauberk_proto::{
    admin::v1::{AuditOutcome, ListAuditRequest, audit_client::AuditClient},
    agent::v1::{
        Acknowledge, FromAgent, Hello, SignCertificateRequest, ToAgent, enrollment_client::EnrollmentClient,
        from_agent, mesh_client::MeshClient, to_agent,
    },
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    peer::Peer,
    shop::{PATIENCE, SMALL_SHOP},
};

/// Orders and its service.
const ORDERS: &str = "
kind: VirtualNode
mesh: shop
name: orders
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: VirtualService
mesh: shop
name: orders
spec: {provider: {virtualNode: {virtualNodeName: orders}}}
";

fn shop() -> MeshBox {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    // Without backends, so that what it calls may be deleted.
    mesh.apply("kind: VirtualNode\nmesh: shop\nname: web\nspec: {}\n");
    mesh
}

fn delete_orders(mesh: &MeshBox) {
    mesh.hauberk_with_input(&["delete", "-f", "-"], ORDERS).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_of_a_deleted_node_serve_nobody() {
    let mesh = shop();
    let app = App::start("orders");
    let mut orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let web = Peer::join(&mesh, "web").await;
    let address = orders.inbound(8080);
    let mut open = web.connect("orders", address, &[b"http/1.1"]).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut head = [0; 13];
    open.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 ");
    let seen = app.requests();

    delete_orders(&mesh);
    eventually("its agent denies everything", PATIENCE, || {
        // The caller is no agent and holds up the rest.
        let output = mesh.hauberk(&["wait", "--timeout", "1s"]);
        assert!(output.stderr.contains("/node/web"), "{output:?}");
        (!output.stderr.contains("/node/orders")).then_some(())
    });
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, open.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "what was open is cut");
    if let Ok(mut again) = web.connect("orders", address, &[b"http/1.1"]).await {
        let _ = again.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, again.read_to_end(&mut answer)).await.expect("it ends");
        assert!(!answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(app.requests(), seen);
    let unready = get(orders.health(), "health", "/readyz").unwrap();
    assert_eq!((unready.status, unready.body.trim()), (503, "node_deleted"));
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let instance = listed["items"].as_array().unwrap().iter().find(|instance| instance["node"] == "orders");
    let lag = instance.and_then(|instance| instance["lagReason"].as_str()).unwrap_or_default();
    assert!(lag.contains("was deleted; it is believed until its certificate expires"), "{listed}");

    // Started again it is nobody, and its token is of no use.
    orders.relaunch(mesh.folder());
    assert_eq!(orders.process.wait(PATIENCE).code(), Some(78), "{}", orders.process.log());
    assert!(orders.process.log().contains("no virtual node orders any longer"), "{}", orders.process.log());
    assert_eq!(app.requests(), seen);
}

/// A stream of somebody who has this certificate, with what it says.
async fn sync(channel: Channel) -> (mpsc::Sender<FromAgent>, Result<Streaming<ToAgent>, Status>) {
    let (up, waiting) = mpsc::channel(4);
    say(&up, from_agent::Message::Hello(Hello::default())).await;
    let down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await;
    (up, down.map(tonic::Response::into_inner))
}

async fn say(up: &mpsc::Sender<FromAgent>, message: from_agent::Message) {
    up.send(FromAgent { message: Some(message) }).await.unwrap();
}

/// The next thing said that `wanted` picks, or the end.
async fn until<T>(
    down: &mut Streaming<ToAgent>,
    wanted: impl Fn(to_agent::Message) -> Option<T>,
) -> Result<T, Status> {
    let found = async {
        loop {
            let message = down.message().await?.expect("a stream ends with its status");
            if let Some(found) = message.message.and_then(&wanted) {
                return Ok(found);
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

fn current(message: to_agent::Message) -> Option<()> {
    matches!(message, to_agent::Message::CurrentAt(_)).then_some(())
}

/// Plays an agent that is told to go and obeys; gives the stream's end.
async fn obey(up: &mpsc::Sender<FromAgent>, down: &mut Streaming<ToAgent>) -> Status {
    let gone = until(down, |message| match message {
        to_agent::Message::NodeGone(gone) => Some(gone),
        _ => None,
    });
    let gone = gone.await.unwrap();
    let (epoch, revision) = (gone.epoch, gone.revision);
    let acknowledge = Acknowledge { epoch, revision, service: String::new() };
    say(up, from_agent::Message::Acknowledge(acknowledge)).await;
    until(down, |_| None::<()>).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_node_that_was_made_anew_are_let_in_nowhere() {
    let mesh = shop();
    let channel =
        |svid: Svid, key: &KeyPair| dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, key));
    let (svid, key) = dial::join(&mesh, "orders").await;
    let (up, down) = sync(channel(svid.clone(), &key)).await;
    let mut down = down.unwrap();
    until(&mut down, current).await.unwrap();

    delete_orders(&mesh);
    mesh.apply(ORDERS);
    // Which of the two it is told depends on how fast they came.
    let ended = obey(&up, &mut down).await;
    assert!([Code::NotFound, Code::PermissionDenied].contains(&ended.code()), "{ended}");

    let (up, down) = sync(channel(svid.clone(), &key)).await;
    let ended = obey(&up, &mut down.unwrap()).await;
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    assert!(ended.message().contains("deleted and made anew"), "{ended}");
    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let mut renewal = EnrollmentClient::new(channel(svid, &key));
    let refused = renewal.sign_certificate(SignCertificateRequest { csr }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("deleted and made anew"), "{refused}");

    let admin = dial::channel(mesh.admin_address(), dial::admin(&mesh));
    for action in ["mesh.sync", "certificate.renew"] {
        let asked = ListAuditRequest { action: action.to_owned(), ..Default::default() };
        let records = AuditClient::new(admin.clone()).list(asked).await.unwrap().into_inner().records;
        let refused: Vec<_> =
            records.iter().filter(|record| record.outcome() == AuditOutcome::Refused).collect();
        assert_eq!(refused.len(), 1, "{action}: {records:?}");
        assert!(refused[0].actor.ends_with("/node/orders"), "{records:?}");
    }

    // The new node's own are let in.
    let (svid, key) = dial::join(&mesh, "orders").await;
    let (_up, down) = sync(channel(svid, &key)).await;
    until(&mut down.unwrap(), current).await.unwrap();
}
