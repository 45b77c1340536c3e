//! Whoever has much leaves room for the others.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use hauberk_agent::inbound::Limits;
use hauberk_policy::Protocol;
use hauberk_tls::LiveIdentity;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apps::{http1_app, http2_app, http2_app_of_one_connection, tcp_app};
use crate::clients::{ask, call, http1, http2, over, raw, tls};
use crate::world::{Agent, PATIENCE, World, until};

const ANYBODY: &str = r#"permit(principal is Node, action, resource in Service::"orders");"#;
const LIFE: std::time::Duration = std::time::Duration::from_secs(3_600);

/// An agent of orders with an app behind it, and so many connections at the most from the mesh, and to the app.
async fn orders(
    world: &World,
    protocol: Protocol,
    (from_mesh, to_app): (usize, usize),
) -> (Agent, SocketAddr) {
    let mut orders = world.agent("orders");
    let app = match protocol {
        Protocol::Tcp => tcp_app(&mut orders.tasks).await,
        Protocol::Grpc => http2_app(&mut orders.tasks).await,
        _ => http1_app(&mut orders.tasks).await,
    };
    orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[ANYBODY])).await;
    let inbound = orders.listen_within(Limits::new(from_mesh, to_app), 8080, app).await;
    (orders, inbound)
}

type Tunnel = h2::client::SendRequest<Bytes>;
type Stream = (h2::SendStream<Bytes>, h2::RecvStream);

async fn tunnel(who: &LiveIdentity, orders: &Agent, at: SocketAddr, tasks: &mut JoinSet<()>) -> Tunnel {
    let stream = tls(who, &orders.id, at, &[b"hauberk-tcp/1"]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

/// Opens a stream; the name of the error if that is refused.
async fn open(tunnel: &Tunnel) -> Result<Stream, String> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "orders:8080".parse().unwrap();
    let opening = async {
        let (response, send) = tunnel.clone().ready().await.unwrap().send_request(request, false).unwrap();
        (response.await.unwrap(), send)
    };
    let (response, send) = tokio::time::timeout(PATIENCE, opening).await.unwrap();
    match response.status() {
        StatusCode::OK => Ok((send, response.into_body())),
        _ => Err(response.headers()["hauberk-error"].to_str().unwrap().to_owned()),
    }
}

#[tokio::test]
async fn tunnels_on_which_nothing_is_said_are_counted_for_whoever_opened_them() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Tcp, (20, 100)).await;
    let (web, other) = (world.identity(&world.node("web"), LIFE), world.identity(&world.node("other"), LIFE));
    let mut tasks = JoinSet::new();
    let mut silent = Vec::new();
    for _ in 0..18 {
        silent.push(tunnel(&web, &orders, inbound, &mut tasks).await);
    }
    // The handshake is done when it is found out who it is; then the connection is closed.
    let one_more = tls(&web, &orders.id, inbound, &[b"hauberk-tcp/1"]).await.unwrap();
    assert_eq!(raw(one_more, b"").await, "");
    let refused =
        "hauberk_inbound_connections_refused_total{listener=\"8080\",reason=\"too_many_of_one_identity\"}";
    until("it is told why", || orders.figure(refused) == 1.0).await;
    let tunnel = tunnel(&other, &orders, inbound, &mut tasks).await;
    assert!(open(&tunnel).await.is_ok());
}

#[tokio::test]
async fn streams_of_one_identity_leave_connections_to_the_app_for_others() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Tcp, (100, 4)).await;
    let (web, other) = (world.identity(&world.node("web"), LIFE), world.identity(&world.node("other"), LIFE));
    let mut tasks = JoinSet::new();
    let (first, second) =
        (tunnel(&web, &orders, inbound, &mut tasks).await, tunnel(&web, &orders, inbound, &mut tasks).await);
    let mut held = Vec::new();
    for tunnel in [&first, &second, &first] {
        held.push(open(tunnel).await.unwrap());
    }
    for tunnel in [&first, &second] {
        assert_eq!(open(tunnel).await.unwrap_err(), "too_many_of_one_identity");
    }
    let third = tunnel(&other, &orders, inbound, &mut tasks).await;
    held.push(open(&third).await.unwrap());
    // Those without an agent have no more than others.
    let opaque = tls(&web, &orders.id, inbound, &[]).await.unwrap();
    assert_eq!(raw(opaque, b"").await, "");
    // A third finds no socket left.
    let late = world.identity(&world.node("late"), LIFE);
    let fourth = tunnel(&late, &orders, inbound, &mut tasks).await;
    assert_eq!(open(&fourth).await.unwrap_err(), "too_many_app_connections");
    held.clear();
    let places_come_back = async { while open(&fourth).await.is_err() {} };
    tokio::time::timeout(PATIENCE, places_come_back).await.unwrap();
}

#[tokio::test]
async fn requests_of_one_identity_leave_connections_to_the_app_for_others() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Http, (100, 4)).await;
    let (web, other) = (world.identity(&world.node("web"), LIFE), world.identity(&world.node("other"), LIFE));
    let mut tasks = JoinSet::new();
    let stream = tls(&web, &orders.id, inbound, &[b"h2"]).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    for _ in 0..3 {
        let mut sender = sender.clone();
        let request = Request::builder().uri("http://orders/hang").body(Full::<Bytes>::default()).unwrap();
        tasks.spawn(async move { drop(sender.send_request(request).await) });
    }
    let allowed = "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}";
    until("all are under way", || orders.figure(allowed) == 3.0).await;
    let refused = call(&mut sender.clone(), "http://orders/echo", b"").await;
    assert_eq!(refused.header("hauberk-error"), "too_many_of_one_identity");
    let mut one = over(tls(&web, &orders.id, inbound, &[b"http/1.1"]).await.unwrap(), &mut tasks).await;
    for _ in 0..2 {
        let refused = ask(&mut one, "POST", "orders", "/echo", b"x").await;
        assert_eq!(refused.header("hauberk-error"), "too_many_of_one_identity");
        assert_eq!(refused.header("connection"), "", "it goes on");
    }
    let stream = tls(&other, &orders.id, inbound, &[b"http/1.1"]).await.unwrap();
    let mut client = over(stream, &mut tasks).await;
    for _ in 0..5 {
        assert_eq!(ask(&mut client, "POST", "orders", "/echo", b"x").await.body, "x");
    }
}

#[tokio::test]
async fn links_that_nobody_uses_make_room_for_whoever_needs_one() {
    let world = World::new();
    let mut orders = world.agent("orders");
    let (app, database) = (http1_app(&mut orders.tasks).await, tcp_app(&mut orders.tasks).await);
    let ports = [(8080, Protocol::Http), (6379, Protocol::Tcp)];
    orders.apply(world.view(&orders.id, "orders", &ports, &[ANYBODY])).await;
    let limits = Limits::new(100, 8);
    let inbound = orders.listen_within(limits.clone(), 8080, app).await;
    let streams = orders.listen_within(limits, 6379, database).await;
    let (web, other) = (world.identity(&world.node("web"), LIFE), world.identity(&world.node("other"), LIFE));
    let mut tasks = JoinSet::new();
    let stream = tls(&web, &orders.id, inbound, &[b"h2"]).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    // Six at once, each of which is answered from its beginning and ends when all have begun.
    let (all_begun, mut responses) = (CancellationToken::new(), Vec::new());
    for _ in 0..6 {
        let end = all_begun.clone();
        let rest = async move {
            end.cancelled().await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))
        };
        let body = BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::once(rest)));
        let request = Request::post("http://orders/echo").body(body).unwrap();
        let responding = tokio::time::timeout(PATIENCE, sender.clone().send_request(request));
        responses.push(responding.await.unwrap().unwrap());
    }
    all_begun.cancel();
    for response in responses {
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
    }

    let tunnel = tunnel(&other, &orders, streams, &mut tasks).await;
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(open(&tunnel).await.unwrap());
    }
    // What is in use stays so.
    assert_eq!(open(&tunnel).await.unwrap_err(), "too_many_of_one_identity");
    let mut client = sender.clone();
    let request = || {
        let nothing = http_body_util::Empty::<Bytes>::new();
        Request::get("http://orders/").body(BodyExt::boxed_unsync(nothing)).unwrap()
    };
    assert_eq!(client.send_request(request()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_app_has_no_more_connections_than_there_are_places() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Http, (100, 100)).await;
    let mut web = world.cramped_agent("web", 2);
    web.knows("orders", &orders.id, 8080, Protocol::Http, &[inbound]);
    let local = web.open_http().await;
    let mut tasks = JoinSet::new();
    let mut first = http1(local, &mut tasks).await;
    assert_eq!(ask(&mut first, "GET", "orders", "/echo", b"").await.status, 200);
    let mut second = http2(local, &mut tasks).await;
    assert_eq!(call(&mut second, "http://orders/echo", b"").await.status, 200);
    assert_eq!(raw(TcpStream::connect(local).await.unwrap(), b"").await, "");

    // Each request of another agent's needs a connection; the idle one is used again.
    for _ in 0..2 {
        let mut sender = second.clone();
        let request = Request::builder().uri("http://orders/hang").body(Full::<Bytes>::default()).unwrap();
        tasks.spawn(async move { drop(sender.send_request(request).await) });
    }
    let allowed = "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}";
    until("both are under way", || orders.figure(allowed) == 4.0).await;
    let refused = ask(&mut first, "GET", "orders", "/echo", b"").await;
    assert_eq!((refused.status, refused.header("hauberk-error")), (503, "endpoint_unreachable"));
    assert!(refused.body.contains("limit of open files"), "{}", refused.body);

    drop((first, second));
    tasks.shutdown().await;
    let places_come_back = async {
        let mut answer = Vec::new();
        while !answer.starts_with(b"HTTP/1.1 200") {
            answer.clear();
            let mut stream = TcpStream::connect(local).await.unwrap();
            let request = b"GET /echo HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
            // Those that are refused may be reset.
            if stream.write_all(request).await.is_ok() {
                let _ = stream.read_to_end(&mut answer).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, places_come_back).await.unwrap();
}

#[tokio::test]
async fn a_request_that_breaks_off_is_the_fault_of_its_caller_only() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Http, (100, 100)).await;
    let mut web = world.agent("web");
    web.knows("orders", &orders.id, 8080, Protocol::Http, &[inbound]);
    // The app reads to the end before it answers; the second chunk has no size.
    let request =
        b"POST /x HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nsize\r\n";
    let local = TcpStream::connect(web.open_http().await).await.unwrap();
    let foreign = world.identity(&world.node("web"), LIFE);
    let foreign = tls(&foreign, &orders.id, inbound, &[b"http/1.1"]).await.unwrap();
    for answer in [raw(local, request).await, raw(foreign, request).await] {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("hauberk-error: request_broken_off"), "{answer}");
    }
}

#[tokio::test]
async fn a_caller_that_reads_no_answers_holds_up_no_other() {
    let world = World::new();
    let (orders, inbound) = orders(&world, Protocol::Grpc, (100, 100)).await;
    let (web, other) = (world.identity(&world.node("web"), LIFE), world.identity(&world.node("other"), LIFE));
    let mut tasks = JoinSet::new();
    let stream = tls(&web, &orders.id, inbound, &[b"h2"]).await.unwrap();
    let (mut hostile, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    let mut unread = Vec::new();
    for _ in 0..64 {
        hostile = hostile.ready().await.unwrap();
        let request = Request::post("http://orders/shop.Orders/Flood").body(()).unwrap();
        let (response, _) = hostile.send_request(request, true).unwrap();
        unread.push(tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap());
    }
    let stream = tls(&other, &orders.id, inbound, &[b"h2"]).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    for _ in 0..300 {
        let answer = call(&mut client, "http://orders/shop.Orders/Get", b"").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "message"));
    }
}

/// An agent of orders with a gRPC port and one for TCP, and so many connections to the apps at the most.
async fn orders_of_two_kinds(world: &World, to_app: usize) -> (Agent, SocketAddr, SocketAddr) {
    let mut orders = world.agent("orders");
    let (app, database) = (http2_app(&mut orders.tasks).await, tcp_app(&mut orders.tasks).await);
    let ports = [(8080, Protocol::Grpc), (6379, Protocol::Tcp)];
    orders.apply(world.view(&orders.id, "orders", &ports, &[ANYBODY])).await;
    let limits = Limits::new(100, to_app);
    let calls = orders.listen_within(limits.clone(), 8080, app).await;
    let streams = orders.listen_within(limits, 6379, database).await;
    (orders, calls, streams)
}

async fn grpc(who: &LiveIdentity, orders: &Agent, at: SocketAddr, tasks: &mut JoinSet<()>) -> Tunnel {
    let stream = tls(who, &orders.id, at, &[b"h2"]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

/// Begins a call that ends with what is returned; the name of the error if that is refused.
async fn begin(client: &Tunnel) -> Result<Stream, String> {
    let request = Request::post("http://orders/shop.Orders/Echo").body(()).unwrap();
    let beginning = async {
        let (response, send) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
        (response.await.unwrap(), send)
    };
    let (response, send) = tokio::time::timeout(PATIENCE, beginning).await.unwrap();
    match response.headers().get("hauberk-error") {
        None => Ok((send, response.into_body())),
        Some(error) => Err(error.to_str().unwrap().to_owned()),
    }
}

async fn end((mut send, mut body): Stream) {
    send.send_data(Bytes::new(), true).unwrap();
    while let Some(data) = tokio::time::timeout(PATIENCE, body.data()).await.unwrap() {
        data.unwrap();
    }
}

#[tokio::test]
async fn http2_connections_to_the_app_are_counted_while_there_are_calls_on_them() {
    let world = World::new();
    let (orders, calls, streams) = orders_of_two_kinds(&world, 4).await;
    let web = world.identity(&world.node("web"), LIFE);
    let mut tasks = JoinSet::new();
    let client = grpc(&web, &orders, calls, &mut tasks).await;
    let tunnel = tunnel(&web, &orders, streams, &mut tasks).await;
    let under_way = (begin(&client).await.unwrap(), begin(&client).await.unwrap());
    let mut held = vec![open(&tunnel).await.unwrap(), open(&tunnel).await.unwrap()];
    assert_eq!(open(&tunnel).await.unwrap_err(), "too_many_of_one_identity");
    end(under_way.0).await;
    assert_eq!(open(&tunnel).await.unwrap_err(), "too_many_of_one_identity");
    end(under_way.1).await;
    let it_is_idle = async {
        loop {
            if let Ok(stream) = open(&tunnel).await {
                return stream;
            }
        }
    };
    held.push(tokio::time::timeout(PATIENCE, it_is_idle).await.unwrap());
    // The place is kept, but may not be used.
    assert_eq!(begin(&client).await.unwrap_err(), "too_many_of_one_identity");
}

#[tokio::test]
async fn http2_connections_that_nobody_uses_make_room_for_whoever_needs_one() {
    let world = World::new();
    let (orders, calls, streams) = orders_of_two_kinds(&world, 8).await;
    let id = |name: &str| world.identity(&world.node(name), LIFE);
    let mut tasks = JoinSet::new();
    let client = grpc(&id("web"), &orders, calls, &mut tasks).await;
    end(begin(&client).await.unwrap()).await;
    let greedy = tunnel(&id("greedy"), &orders, streams, &mut tasks).await;
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(open(&greedy).await.unwrap());
    }
    let late = tunnel(&id("late"), &orders, streams, &mut tasks).await;
    let newcomer = open(&late).await.unwrap();
    assert_eq!(begin(&client).await.unwrap_err(), "too_many_app_connections");
    drop(newcomer);
    let another_is_opened = async { while begin(&client).await.is_err() {} };
    tokio::time::timeout(PATIENCE, another_is_opened).await.unwrap();
}

#[tokio::test]
async fn calls_go_on_a_busy_connection_where_no_further_one_can_be_opened() {
    let world = World::new();
    let (orders, calls, _) = orders_of_two_kinds(&world, 1).await;
    let mut tasks = JoinSet::new();
    let client = grpc(&world.identity(&world.node("web"), LIFE), &orders, calls, &mut tasks).await;
    let mut under_way = Vec::new();
    for _ in 0..110 {
        under_way.push(begin(&client).await.unwrap());
    }
}

#[tokio::test]
async fn a_caller_that_comes_back_finds_its_connection_to_the_app_which_ends_with_the_listener() {
    let world = World::new();
    let mut orders = world.agent("orders");
    let app = http2_app_of_one_connection(&mut orders.tasks).await;
    orders.apply(world.view(&orders.id, "orders", &[(8080, Protocol::Grpc)], &[ANYBODY])).await;
    let inbound = orders.listen_within(Limits::new(100, 100), 8080, app).await;
    let web = world.identity(&world.node("web"), LIFE);
    for _ in 0..2 {
        let mut tasks = JoinSet::new();
        let client = grpc(&web, &orders, inbound, &mut tasks).await;
        end(begin(&client).await.unwrap()).await;
        drop(client);
        tasks.shutdown().await;
        let open = "hauberk_inbound_connections{listener=\"8080\"}";
        until("it has left", || orders.figure(open) == 0.0).await;
    }
    orders.stop.cancel();
    until("the listener has ended", || orders.listeners.iter().all(|listener| listener.is_finished())).await;
}
