//! A connection does not outlive the last certificate that its peer has proved, and lives as long as one is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use hauberk_policy::Protocol;
use hauberk_tls::{ClientAuth, LiveIdentity};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::apps::answer;
use crate::clients::{ask, http1 as client, tls};
use crate::live::{LONG, Pair, SHORT, advance, is_alive};
use crate::world::{PATIENCE, World, until};

/// After how long a certificate of a minute is renewed here.
const RENEWED_AFTER: Duration = Duration::from_secs(25);

/// What stays open.
enum Held {
    /// A TCP stream, or a WebSocket.
    Bytes(TcpStream),
    /// A gRPC stream.
    Grpc(SendStream<Bytes>, RecvStream),
}

impl Held {
    async fn open(pair: &Pair, protocol: Protocol, tasks: &mut JoinSet<()>) -> Self {
        match protocol {
            Protocol::Tcp => Self::Bytes(pair.stream().await),
            Protocol::Http => Self::Bytes(pair.upgraded().await),
            Protocol::Http2 | Protocol::Grpc => {
                let stream = TcpStream::connect(pair.http).await.unwrap();
                let (client, connection) = h2::client::handshake(stream).await.unwrap();
                tasks.spawn(async move { drop(connection.await) });
                let request = http::Request::post("http://orders/shop.Orders/Echo")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(())
                    .unwrap();
                let (response, send) = client.ready().await.unwrap().send_request(request, false).unwrap();
                let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
                assert_eq!(response.status(), 200);
                Self::Grpc(send, response.into_body())
            }
        }
    }

    async fn is_alive(&mut self) -> bool {
        match self {
            Self::Bytes(stream) => is_alive(stream).await,
            Self::Grpc(send, receive) => {
                if send.send_data(Bytes::from_static(b"still?"), false).is_err() {
                    return false;
                }
                match tokio::time::timeout(PATIENCE, receive.data()).await.unwrap() {
                    Some(Ok(echo)) => {
                        receive.flow_control().release_capacity(echo.len()).unwrap();
                        echo == "still?"
                    }
                    _ => false,
                }
            }
        }
    }

    /// Waits until it has ended, however that shows.
    async fn ends(&mut self) {
        match self {
            Self::Bytes(stream) => drop(stream.read_to_end(&mut Vec::new()).await),
            Self::Grpc(_, receive) => while let Some(Ok(_)) = receive.data().await {},
        }
    }
}

const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Http, Protocol::Grpc];

/// Waits until one more proof has been given than there were, and is done.
async fn until_proved(pair: &Pair, before: f64) {
    let is_done = || proofs(pair) > before && pair.orders.connections.len() == 1;
    until("the new certificate is proved", is_done).await;
}

fn proofs(pair: &Pair) -> f64 {
    pair.orders.figure("hauberk_inbound_connections_total{listener=\"8080\",protocol=\"proof\"}")
}

#[tokio::test]
async fn what_is_held_open_outlives_ten_certificates_of_both_ends() {
    for protocol in ALL {
        let pair = Pair::with_lives(protocol, SHORT, SHORT).await;
        let mut tasks = JoinSet::new();
        let mut held = Held::open(&pair, protocol, &mut tasks).await;
        let mut passed = Duration::ZERO;
        while passed < SHORT * 10 {
            advance(RENEWED_AFTER).await;
            passed += RENEWED_AFTER;
            let before = proofs(&pair);
            // The signer's clock stands where the test began.
            pair.world.certify(&pair.orders.context.identity, &pair.orders.id, passed + SHORT);
            pair.world.certify(&pair.web.context.identity, &pair.web.id, passed + SHORT);
            until_proved(&pair, before).await;
            assert!(held.is_alive().await, "{protocol:?} after {passed:?}");
            advance(RENEWED_AFTER).await;
            passed += RENEWED_AFTER;
            assert!(held.is_alive().await, "{protocol:?} after {passed:?}");
        }
        assert_eq!(pair.orders.connections.len(), 1, "it is still the connection that it was");
    }
}

#[tokio::test]
async fn the_far_agents_renewal_is_asked_for() {
    for protocol in ALL {
        let pair = Pair::with_lives(protocol, LONG, SHORT).await;
        let mut tasks = JoinSet::new();
        let mut held = Held::open(&pair, protocol, &mut tasks).await;
        pair.world.certify(&pair.orders.context.identity, &pair.orders.id, SHORT * 10);
        let before = proofs(&pair);
        advance(RENEWED_AFTER).await;
        until_proved(&pair, before).await;
        assert!(held.is_alive().await, "{protocol:?}");
        advance(SHORT * 2).await;
        assert!(held.is_alive().await, "{protocol:?}");
    }
}

#[tokio::test]
async fn whoever_does_not_renew_is_cut_when_its_certificate_expires_and_not_before() {
    for protocol in ALL {
        // Both ends see to it: the one that is called, and the one that calls.
        for (webs, orders) in [(SHORT, LONG), (LONG, SHORT)] {
            let pair = Pair::with_lives(protocol, webs, orders).await;
            let mut tasks = JoinSet::new();
            let mut held = Held::open(&pair, protocol, &mut tasks).await;
            advance(Duration::from_secs(55)).await;
            assert!(held.is_alive().await, "{protocol:?} {webs:?}");
            advance(Duration::from_secs(6)).await;
            let ended = tokio::time::timeout(PATIENCE, held.ends()).await;
            assert!(ended.is_ok(), "{protocol:?} {webs:?}");
        }
    }
}

/// A server without an agent, which takes no proofs, and how many connections it has had.
async fn foreign_server(
    identity: &LiveIdentity,
    alpn: &'static [u8],
    tasks: &mut JoinSet<()>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let acceptor = identity.acceptor(&[alpn], ClientAuth::Required, PATIENCE).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(connection) = acceptor.accept(stream).await else { continue };
            if connection.alpn() != Some(alpn) {
                continue;
            }
            counter.fetch_add(1, Ordering::Relaxed);
            let io = TokioIo::new(connection.into_parts().0);
            serving.spawn(async move {
                if alpn == b"h2" {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(io, service_fn(answer)).await);
                } else {
                    drop(http1::Builder::new().serve_connection(io, service_fn(answer)).await);
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn connections_that_cannot_be_proved_are_replaced_before_they_end_and_no_request_fails() {
    for (protocol, alpn) in [(Protocol::Http, &b"http/1.1"[..]), (Protocol::Http2, b"h2")] {
        let world = World::new();
        let mut tasks = JoinSet::new();
        let id = world.node("orders");
        let orders = world.identity(&id, SHORT);
        let (address, connections) = foreign_server(&orders, alpn, &mut tasks).await;
        let mut web = world.agent("web");
        web.knows("orders", &id, 8080, protocol, &[address]);
        let http = web.open_http().await;
        let mut app = client(http, &mut tasks).await;
        let step = Duration::from_secs(3);
        for number in 1..60_u32 {
            if number % 8 == 0 {
                world.certify(&orders, &id, step * number + SHORT);
            }
            assert_eq!(ask(&mut app, "GET", "orders", "/", b"").await.status, 200, "{protocol:?} {number}");
            advance(step).await;
        }
        // One lives for fifty seconds, for the last ten of a minute it is given nothing new.
        let count = connections.load(Ordering::Relaxed);
        assert!((3..=6).contains(&count), "{protocol:?}: {count}");
    }
}

#[tokio::test]
async fn a_request_under_way_comes_to_its_end_on_a_connection_that_is_being_replaced() {
    let world = World::new();
    let mut tasks = JoinSet::new();
    let id = world.node("orders");
    let orders = world.identity(&id, SHORT);
    let (address, connections) = foreign_server(&orders, b"http/1.1", &mut tasks).await;
    let mut web = world.agent("web");
    web.knows("orders", &id, 8080, Protocol::Http, &[address]);
    let http = web.open_http().await;
    let mut slow = TcpStream::connect(http).await.unwrap();
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: orders\r\nconnection: close\r\ncontent-length: 2\r\n\r\na")
        .await
        .unwrap();
    until("it is under way", || connections.load(Ordering::Relaxed) == 1).await;
    advance(Duration::from_secs(54)).await;
    world.certify(&orders, &id, SHORT * 5);
    let mut other = client(http, &mut tasks).await;
    assert_eq!(ask(&mut other, "GET", "orders", "/", b"").await.status, 200);
    assert_eq!(connections.load(Ordering::Relaxed), 2, "it went over a new one");
    slow.write_all(b"b").await.unwrap();
    let mut told = String::new();
    tokio::time::timeout(PATIENCE, slow.read_to_string(&mut told)).await.unwrap().unwrap();
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("ab"), "{told}");
}

#[tokio::test]
async fn clients_without_an_agent_are_let_go_shortly_before_notafter_and_cut_at_it() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let web = pair.world.identity(&pair.web.id, SHORT);
    let open = async || tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    let (mut idle, mut waiting) = (open().await, open().await);
    idle.write_all(b"HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, idle.read_u8()).await.unwrap().unwrap());
    }
    waiting.write_all(b"GET /hang HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    let decided = "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}";
    until("both are under way", || pair.orders.figure(decided) == 2.0).await;
    advance(Duration::from_secs(56)).await;
    // Closed cleanly: no request was lost.
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), idle.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(pair.orders.connections.len(), 1, "what is under way goes on");
    advance(Duration::from_secs(5)).await;
    let cut = tokio::time::timeout(PATIENCE, waiting.read(&mut [0])).await.unwrap();
    assert!(!matches!(cut, Ok(1..)), "{cut:?}");
}
