//! A peer that holds as many connections as it gets takes nothing from the others.

use hauberk_integration_tests::{App, get};

use crate::{
    peer::Peer,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
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
    let _payments =
        mesh.agent("payments", hauberk_integration_tests::AgentOptions::default().app(8080, app.address()));
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
