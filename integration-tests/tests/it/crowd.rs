//! A peer that holds as many connections, or streams, as it gets takes nothing from the others.

use bytes::Bytes;
use h2::client::SendRequest;
use hauberk_integration_tests::{Agent, AgentOptions, App, get};
use http::{Method, Request, StatusCode};
use tokio::task::JoinSet;

use crate::{
    peer::Peer,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    tcp_app::TcpApp,
};

/// The files of the agent that is beset.
const FILES: u32 = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_holds_all_it_gets_leaves_room_for_others() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    shop::set_policy(&mesh, "own", "permit (principal == Node::\"orders\", action, resource);");
    let app = App::start("orders");
    let options = shop::behind_orders(app.address()).open_files(FILES);
    let orders = mesh.agent("orders", options);
    let _payments = mesh.agent("payments", AgentOptions::default().app(8080, app.address()));
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);

    let intruder = Peer::join(&mesh, "intruder").await;
    let mut held = Vec::new();
    for _ in 0..2 * FILES {
        let connecting = intruder.connect("orders", orders.inbound(8080), &[b"h2"]);
        match tokio::time::timeout(PATIENCE, connecting).await.expect("the agent accepts or refuses") {
            Ok(stream) => held.push(stream),
            Err(_) => break,
        }
    }
    // Others come in, and so do probes; the app beside it gets out.
    let peer = Peer::join(&mesh, "web").await;
    let answer =
        peer.exchange("orders", orders.inbound(8080), b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(get(orders.health(), "health", "/readyz").unwrap().status, 200);
    get_until(&orders, "payments", "/", 200);
    assert!(!orders.process.log().contains("accept_failed"), "it ran out of files");
    drop(held);
}

async fn tunnel(peer: &Peer, redis: &Agent, tasks: &mut JoinSet<()>) -> SendRequest<Bytes> {
    let stream = peer.connect("redis", redis.inbound(6379), &[b"hauberk-tcp/1"]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

/// Opens a stream, and says whether it was; it stays open.
async fn open(tunnel: &SendRequest<Bytes>, held: &mut Vec<(h2::SendStream<Bytes>, h2::RecvStream)>) -> bool {
    let request = Request::builder().method(Method::CONNECT).uri("cache:6379").body(()).unwrap();
    let opening = async {
        let (response, send) = tunnel.clone().ready().await.unwrap().send_request(request, false).unwrap();
        (response.await.unwrap(), send)
    };
    let (response, send) = tokio::time::timeout(PATIENCE, opening).await.expect("the agent answers");
    let is_open = response.status() == StatusCode::OK;
    if is_open {
        held.push((send, response.into_body()));
    }
    is_open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_opens_all_streams_it_gets_leaves_room_for_others() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    shop::set_policy(&mesh, "payments", "permit (principal == Node::\"payments\", action, resource);");
    let app = TcpApp::echo();
    let redis = mesh.agent("redis", AgentOptions::default().app(6379, app.address()).open_files(FILES));
    let (web, payments) = (Peer::join(&mesh, "web").await, Peer::join(&mesh, "payments").await);
    let (mut tasks, mut held) = (JoinSet::new(), Vec::new());
    for _ in 0..4 {
        let tunnel = tunnel(&web, &redis, &mut tasks).await;
        for _ in 0..100 {
            open(&tunnel, &mut held).await;
        }
    }
    // Each needs a socket to the app: without a limit, 256 files would not do.
    assert!((4..100).contains(&held.len()), "{} streams were opened", held.len());
    let tunnel = tunnel(&payments, &redis, &mut tasks).await;
    assert!(open(&tunnel, &mut held).await, "others still reach the app");
    assert_eq!(get(redis.health(), "health", "/readyz").unwrap().status, 200);
    let log = redis.process.log();
    assert!(!log.contains("os error 24") && !log.contains("accept_failed"), "it ran out of files:\n{log}");
}
