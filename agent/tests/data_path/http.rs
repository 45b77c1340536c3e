//! HTTP through two agents.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hauberk_agent::mesh::{EndpointSet, Service, ServicePort, Target};
use hauberk_identity::SpiffeId;
use hauberk_policy::Protocol;
use hauberk_proto::convert::Discovery;
use http::HeaderValue;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::apps::{http1_app, http2_app};
use crate::clients::{ask, ask_with, call, http1, http2, over, raw, tls};
use crate::world::{Agent, PATIENCE, World};

/// web may read, and write to /echo and /big; nobody else may do anything.
const POLICY: &str = r#"permit(principal == Node::"web", action in Action::"read", resource in Service::"orders");
permit(principal == Node::"web", action in Action::"http", resource in Service::"orders")
when { context.path == "/echo" || context.path == "/ws" || context.path == "/big" };"#;

const RPC_POLICY: &str = r#"permit(principal == Node::"web", action == Action::"call", resource in Service::"orders")
when { context.rpc == "Get" || context.rpc == "Echo" };"#;

struct Pair {
    world: World,
    web: Agent,
    orders: Agent,
    inbound: SocketAddr,
    outbound: SocketAddr,
    clients: JoinSet<()>,
}

async fn pair(protocol: Protocol) -> Pair {
    let world = World::new();
    let (mut web, mut orders) = (world.agent("web"), world.agent("orders"));
    let (app, policy) = match protocol {
        Protocol::Http => (http1_app(&mut orders.tasks).await, POLICY),
        Protocol::Http2 => (http2_app(&mut orders.tasks).await, POLICY),
        _ => (http2_app(&mut orders.tasks).await, RPC_POLICY),
    };
    orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[policy])).await;
    let inbound = orders.listen(8080, app).await;
    web.knows("orders", &orders.id, 8080, protocol, &[inbound]);
    let outbound = web.open_http().await;
    Pair { world, web, orders, inbound, outbound, clients: JoinSet::new() }
}

#[tokio::test]
async fn a_request_passes_both_agents_or_is_denied() {
    let mut pair = pair(Protocol::Http).await;
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    for _ in 0..3 {
        let answer = ask(&mut client, "GET", "orders", "/orders/1?x=%2F", b"").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.starts_with("GET /orders/1?x=%2F\n"), "{}", answer.body);
        assert!(answer.body.contains("host: orders\n"));
        assert!(answer.body.contains(
            "x-forwarded-client-cert: By=spiffe://shop.local/mesh/shop/node/orders;\
             URI=spiffe://shop.local/mesh/shop/node/web\n"
        ));
        assert!(!answer.body.contains("hauberk-"), "{}", answer.body);
        assert_eq!(answer.header("hauberk-decision"), "", "the app forged it");
    }
    let denied = ask(&mut client, "POST", "orders", "/orders", b"").await;
    let id = denied.header("hauberk-decision");
    let told = format!("denied: `hauberk explain {id}` tells an admin of the mesh why\n");
    assert_eq!((denied.status, &denied.body), (403, &told));
    let detail = pair.orders.context.decisions.explain(id).unwrap();
    assert_eq!(detail.decision.unwrap().path, "/orders");
    // One connection between the agents was enough.
    assert_eq!(pair.web.connections.len(), 1);
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let mut pair = pair(Protocol::Http).await;
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| b'a' + (i % 23) as u8).collect();
    let answer = ask(&mut client, "POST", "orders:8080", "/echo", &sent).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.as_bytes() == sent);
    let answer = ask(&mut client, "PUT", "orders", "/big", &sent).await;
    assert!(answer.body.ends_with("\n3000000 bytes\n"), "{}", answer.body);
    let answer = ask(&mut client, "HEAD", "orders", "/x", b"").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = ask(&mut client, "GET", "orders", "/after", b"").await;
    assert!(answer.body.starts_with("GET /after\n"));
}

#[tokio::test]
async fn trailers_pass_over_http1_and_ours_are_stripped() {
    let mut pair = pair(Protocol::Http).await;
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let request = http::Request::get("/trailers").header("host", "orders").header("te", "trailers");
    let answer = ask_with(&mut client, request.body(Full::new(Bytes::new())).unwrap()).await;
    assert_eq!(answer.body, "message");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers.len(), 1);
}

#[tokio::test]
async fn many_at_once() {
    let mut pair = pair(Protocol::Http).await;
    let mut asking = JoinSet::new();
    for client_number in 0..40 {
        let mut client = http1(pair.outbound, &mut pair.clients).await;
        asking.spawn(async move {
            for n in 0..25 {
                let path = format!("/{client_number}/{n}");
                let answer = ask(&mut client, "GET", "orders", &path, b"").await;
                assert!(answer.body.starts_with(&format!("GET {path}\n")), "{answer:?}");
            }
        });
    }
    asking.join_all().await;
}

#[tokio::test]
async fn what_cannot_be_routed_says_why() {
    let mut pair = pair(Protocol::Http).await;
    pair.web.context.mesh.services.set_backends([crate::world::name("payments")]);
    pair.web.context.mesh.services.remove(&[crate::world::name("payments")]);
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let answer = ask(&mut client, "GET", "payments", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (502, "unknown_service"));
    assert!(answer.body.contains("\"payments\""), "{}", answer.body);
    let answer = ask(&mut client, "GET", "orders:99", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (502, "unknown_port"));
    pair.web.context.mesh.gate.set_certificate_valid(false);
    let answer = ask(&mut client, "GET", "orders", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (503, "certificate_expired"));
}

#[tokio::test]
async fn an_app_that_is_down_is_named_and_another_endpoint_is_tried() {
    let mut pair = pair(Protocol::Http).await;
    // Nobody listens at the first address.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    pair.web.knows("orders", &pair.orders.id, 8080, Protocol::Http, &[gone, pair.inbound]);
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    for _ in 0..10 {
        assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 200);
    }
    let lame = pair.orders.listen(8080, gone).await;
    pair.web.knows("orders", &pair.orders.id, 8080, Protocol::Http, &[lame]);
    let answer = ask(&mut client, "GET", "orders", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (503, "app_unreachable"));
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_is_expected_gets_nothing() {
    let mut pair = pair(Protocol::Http).await;
    let intruder = pair.world.node("intruder");
    pair.web.knows("orders", &intruder, 8080, Protocol::Http, &[pair.inbound]);
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let answer = ask(&mut client, "GET", "orders", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (503, "endpoint_unreachable"));
    assert!(answer.body.contains("is not who was expected"), "{}", answer.body);
}

#[tokio::test]
async fn the_path_that_is_decided_is_the_path_that_is_forwarded() {
    let mut pair = pair(Protocol::Http).await;
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let answer = ask(&mut client, "GET", "orders", "//a///%61dmin", b"").await;
    assert!(answer.body.starts_with("GET /a/admin\n"), "{}", answer.body);
    for path in ["/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a%5cb", "/a;b", "/%zz", "/%00", "/a/..;/b"] {
        let answer = ask(&mut client, "GET", "orders", path, b"").await;
        assert_eq!((answer.status, answer.header("hauberk-error")), (400, "ambiguous_path"), "{path}");
    }
}

#[tokio::test]
async fn requests_with_two_readings_reach_no_app() {
    let pair = pair(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let tail = "GET /canary HTTP/1.1\r\nHost: orders\r\n\r\n";
    for head in [
        "GET / HTTP/1.1\nHost: orders\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\nHost: orders\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: orders\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : orders\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: orders\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1, 1\r\n\r\nx",
        "GET / HTTP/1.0\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let bytes = format!("{head}{tail}");
        let stream = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
        // A duplicate Host is an answer like any; the canary that follows it is a request of its own.
        let bytes =
            if head.contains("Host: orders\r\nHost") || head.contains("http://a") || !head.contains("Host") {
                head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            } else {
                bytes
            };
        let answer = raw(stream, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        assert!(!answer.contains("200 OK") && !answer.contains("canary"), "{head:?}: {answer}");
        let local = raw(TcpStream::connect(pair.outbound).await.unwrap(), bytes.as_bytes()).await;
        assert!(local.starts_with("HTTP/1.1 400"), "{head:?}: {local}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let pair = pair(Protocol::Http).await;
    let long = format!("X: {}\r\n", "a".repeat(17_000));
    for (fields, name) in [(long, "head_too_long"), ("X: a\r\n".repeat(100), "too_many_fields")] {
        let request = format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
        let answer = raw(TcpStream::connect(pair.outbound).await.unwrap(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(answer.contains(&format!("\r\nhauberk-error: {name}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn what_an_apps_agent_takes_is_not_too_much_for_the_far_one() {
    let mut pair = pair(Protocol::Http).await;
    let long = format!("X: {}\r\nConnection: close\r\n", "a".repeat(16_326));
    let many = format!("{}Connection: close\r\n", "X: a\r\n".repeat(98));
    // With `Host` and the name of the service it is exactly as many as the far agent takes.
    for fields in [long, many] {
        let request = format!("GET / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
        let answer = raw(TcpStream::connect(pair.outbound).await.unwrap(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // More fields than HTTP/1.1 has between the agents: the app's own says so.
    let mut client = http2(pair.outbound, &mut pair.clients).await;
    let mut request = http::Request::get("http://orders/").body(Full::new(Bytes::new())).unwrap();
    for number in 0..99 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, HeaderValue::from_static("a"));
    }
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["hauberk-error"]),
        (431, &HeaderValue::from_static("too_many_fields"))
    );
    assert_eq!(
        pair.orders.figure("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}"),
        2.0
    );
}

#[tokio::test]
async fn a_fault_of_a_head_that_comes_in_parts_is_named() {
    let pair = pair(Protocol::Http).await;
    for (first, second, name) in [
        ("GET / HTTP/1.1\r\nHost: orders\r\n", "Host: b\r\n\r\n", "ambiguous_host"),
        ("GET ?x", " HTTP/1.1\r\n", "ambiguous_path"),
    ] {
        let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        // Read by now, by whoever reads in the order of what comes.
        assert!(
            raw(TcpStream::connect(pair.outbound).await.unwrap(), b"x\n")
                .await
                .contains("ambiguous_line_end")
        );
        let answer = raw(stream, second.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains(&format!("\r\nhauberk-error: {name}\r\n")), "{answer}");
    }
}

/// A reset may take from it what it has not read yet.
#[tokio::test]
async fn an_app_that_speaks_http_1_0_reads_what_is_wrong_with_a_request_after_a_whole_answer() {
    let pair = pair(Protocol::Http).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let first = b"GET /first HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n";
    stream.write_all(first).await.unwrap();
    let mut answers = Vec::new();
    let exchange = async {
        while !String::from_utf8_lossy(&answers).contains("GET /first\n") {
            assert_ne!(stream.read_buf(&mut answers).await.unwrap(), 0);
        }
        stream.write_all(b"GET /\x01 HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
        stream.read_to_end(&mut answers).await.expect("it ends, and is not reset");
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.starts_with("HTTP/1.0 200 ") && answers.contains("content-length"), "{answers}");
    assert!(answers.contains(" 400 "), "{answers}");
}

#[tokio::test]
async fn a_foreign_client_names_the_service_by_its_host() {
    let mut pair = pair(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let stream = tls(&web, &pair.orders.id, pair.inbound, alpn).await.unwrap();
        let mut client = over(stream, &mut pair.clients).await;
        assert_eq!(ask(&mut client, "GET", "orders:8080", "/", b"").await.status, 200);
        // The port has only one service, and no other name leads elsewhere.
        assert_eq!(ask(&mut client, "GET", "anything", "/", b"").await.status, 200);
        let request = http::Request::get("/").header("host", "orders").header("hauberk-service", "payments");
        let answer = ask_with(&mut client, request.body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!((answer.status, answer.header("hauberk-error")), (421, "wrong_service"));
        let forged = http::Request::get("/")
            .header("host", "orders")
            .header("X_Forwarded-Client_Cert", "URI=spiffe://a/b");
        let answer = ask_with(&mut client, forged.body(Full::new(Bytes::new())).unwrap()).await;
        assert!(!answer.body.contains("spiffe://a/b"), "{}", answer.body);
    }
    let refused = tls(&web, &pair.orders.id, pair.inbound, &[b"hauberk-tcp/1"]).await;
    assert!(refused.is_err());
    let intruder = pair.world.identity(&pair.world.node("intruder"), std::time::Duration::from_secs(60));
    let stream = tls(&intruder, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    let mut client = over(stream, &mut pair.clients).await;
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 403);
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_or_is_denied_in_its_own_way() {
    let mut pair = pair(Protocol::Grpc).await;
    let mut client = http2(pair.outbound, &mut pair.clients).await;
    for _ in 0..3 {
        let answer = call(&mut client, "http://orders/shop.Orders/Get", b"question").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "message"));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(!trailers.contains_key("hauberk-forged"));
    }
    let long = vec![b'x'; 2_000_000];
    let answer = call(&mut client, "http://orders/shop.Orders/Echo", &long).await;
    assert!(answer.body.as_bytes() == long);
    let denied = call(&mut client, "http://orders/shop.Orders/Delete", b"").await;
    assert_eq!((denied.status, denied.header("grpc-status")), (200, "7"));
    assert!(!denied.header("hauberk-decision").is_empty());
    let unknown = call(&mut client, "http://orders:1/shop.Orders/Get", b"").await;
    assert_eq!((unknown.header("grpc-status"), unknown.header("hauberk-error")), ("14", "unknown_port"));
    assert_eq!(pair.web.connections.len(), 1);
}

#[tokio::test]
async fn an_http2_client_reaches_an_http1_app() {
    let mut pair = pair(Protocol::Http).await;
    let mut client = http2(pair.outbound, &mut pair.clients).await;
    let request = http::Request::get("http://orders/a").body(Full::new(Bytes::new())).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_denied_upload_gets_its_answer() {
    let mut pair = pair(Protocol::Http).await;
    for _ in 0..5 {
        let mut client = http1(pair.outbound, &mut pair.clients).await;
        let answer = ask(&mut client, "POST", "orders", "/denied", &vec![b'x'; 5_000_000]).await;
        assert_eq!(answer.status, 403);
        assert!(!answer.header("hauberk-decision").is_empty());
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let pair = pair(Protocol::Http).await;
    let mut stream = TcpStream::connect(pair.outbound).await.unwrap();
    let head = b"PUT /big HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = raw(stream, b"hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\n5 bytes\n"), "{answer}");
}

#[tokio::test]
async fn a_chunked_upload_keeps_its_trailers_out_of_our_names() {
    let pair = pair(Protocol::Http).await;
    let request =
        b"PUT /big HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
        5;ext=1\r\nhello\r\n0\r\nhauberk-service: x\r\n\r\n";
    let answer = raw(TcpStream::connect(pair.outbound).await.unwrap(), request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\n5 bytes\n"), "{answer}");
}

#[tokio::test]
async fn fields_and_trailers_with_bytes_beyond_ascii_are_refused_over_http1() {
    let pair = pair(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let head = "PUT /big HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n";
    let field = format!("{head}X-Name: caf\u{e9}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let trailer = format!("{head}Trailer: X-Name\r\n\r\n5\r\nhello\r\n0\r\nX-Name: caf\u{e9}\r\n\r\n");
    for request in [&field, &trailer] {
        let foreign = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
        let answers = [
            raw(foreign, request.as_bytes()).await,
            raw(TcpStream::connect(pair.outbound).await.unwrap(), request.as_bytes()).await,
        ];
        for answer in answers {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("\r\nhauberk-error: obs_text\r\n"), "{answer}");
        }
    }
    let plain =
        raw(TcpStream::connect(pair.outbound).await.unwrap(), field.replace('\u{e9}', "e").as_bytes()).await;
    assert!(plain.starts_with("HTTP/1.1 200 ") && plain.contains("\nx-name: cafe\n"), "{plain}");
}

#[tokio::test]
async fn fields_and_trailers_with_bytes_beyond_ascii_are_refused_over_http2() {
    let mut pair = pair(Protocol::Http2).await;
    let stream = TcpStream::connect(pair.outbound).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    pair.clients.spawn(async move { drop(connection.await) });
    let beyond = || HeaderValue::from_bytes(b"caf\xe9").unwrap();
    for (in_head, in_trailers, status) in [(true, false, 400), (false, true, 400), (false, false, 200)] {
        let mut request = http::Request::put("http://orders/big");
        if in_head {
            request = request.header("x-name", beyond());
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", if in_trailers { beyond() } else { HeaderValue::from_static("1") });
        let body = Full::new(Bytes::from_static(b"hello"));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
        let asking = client.send_request(request.body(body).unwrap());
        let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
        let error = answer.headers().get("hauberk-error").map(|name| name.to_str().unwrap());
        let expected = (status == 400).then_some("obs_text");
        assert_eq!((answer.status().as_u16(), error), (status, expected), "{in_head} {in_trailers}");
    }
}

#[tokio::test]
async fn the_body_of_a_get_passes_whether_its_length_is_known_or_not() {
    let pair = pair(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let chunked =
        b"GET /big HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
        5\r\nhello\r\n0\r\n\r\n";
    let known = b"GET /big HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for request in [&chunked[..], known] {
        let foreign = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
        let answers = [
            raw(foreign, request).await,
            raw(TcpStream::connect(pair.outbound).await.unwrap(), request).await,
        ];
        for answer in answers {
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\n5 bytes\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn asking_for_another_protocol_changes_no_method() {
    let mut pair = pair(Protocol::Http).await;
    // What the method may not, it may not with an `Upgrade` either; and web may read, but upgrade only at /ws.
    for denied in ["DELETE /orders/1", "POST /orders", "GET /orders"] {
        let request = format!(
            "{denied} HTTP/1.1\r\nHost: orders\r\nConnection: close, upgrade\r\nUpgrade: echo\r\n\r\n"
        );
        let answer = raw(TcpStream::connect(pair.outbound).await.unwrap(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{denied}: {answer}");
    }
    // What it may, the app is asked for without the `Upgrade`.
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    let post = http::Request::post("/ws").header("host", "orders").header("connection", "upgrade");
    let post = post.header("upgrade", "echo").body(Full::new(Bytes::new())).unwrap();
    let answer = ask_with(&mut client, post).await;
    assert!(answer.status == 200 && answer.body.starts_with("POST /ws\n"), "{answer:?}");
    assert!(!answer.body.contains("upgrade"), "{}", answer.body);
}

#[tokio::test]
async fn a_connection_that_begins_nothing_is_closed() {
    let pair = pair(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let half_block = [&preface[..], b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    let mut waiting = JoinSet::new();
    for (alpn, begun) in [
        (&b"http/1.1"[..], &b""[..]),
        (b"http/1.1", b"GET / HT"),
        (b"h2", b""),
        (b"h2", &preface[..10]),
        (b"h2", &half_block),
    ] {
        let stream = tls(&web, &pair.orders.id, pair.inbound, &[alpn]).await.unwrap();
        let begun = begun.to_vec();
        waiting.spawn(async move { raw(stream, &begun).await });
    }
    waiting.join_all().await;
}

#[tokio::test]
async fn a_service_that_moves_to_another_node_is_expected_there() {
    let mut pair = pair(Protocol::Http).await;
    // Found by one name, at one address: only who must answer there differs.
    let endpoints = EndpointSet::fixed(&[pair.inbound]);
    let provided_by = |node: &SpiffeId, revision| {
        let target = Target {
            spiffe_id: node.clone(),
            discovery: Discovery::Fixed(vec![pair.inbound]),
            endpoints: Arc::clone(&endpoints),
        };
        let port = ServicePort { number: 8080, protocol: Protocol::Http, targets: vec![target] };
        let (name, digest) = (crate::world::name("orders"), [0; 32]);
        Arc::new(Service { name, epoch: 1, revision, digest, ports: vec![port] })
    };
    let services = &pair.web.context.mesh.services;
    services.install(vec![provided_by(&pair.orders.id, 2)]);
    let mut client = http1(pair.outbound, &mut pair.clients).await;
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 200);
    services.install(vec![provided_by(&pair.world.node("green"), 3)]);
    let answer = ask(&mut client, "GET", "orders", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (503, "endpoint_unreachable"));
    services.install(vec![provided_by(&pair.orders.id, 4)]);
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 200);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_take_nothing_from_others() {
    let mut pair = pair(Protocol::Grpc).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let mut refused = false;
    let stream = tls(&web, &pair.orders.id, pair.inbound, &[b"h2"]).await.unwrap();
    let (mut hostile, connection) = h2::client::handshake(stream).await.unwrap();
    pair.clients.spawn(async move { drop(connection.await) });
    for _ in 0..20_000 {
        let Ok(ready) = hostile.clone().ready().await else {
            refused = true;
            break;
        };
        hostile = ready;
        let request = http::Request::post("http://orders/shop.Orders/Get").body(()).unwrap();
        match hostile.send_request(request, false) {
            Ok((_, mut send)) => send.send_reset(h2::Reason::CANCEL),
            Err(_) => {
                refused = true;
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    let mut client = http2(pair.outbound, &mut pair.clients).await;
    let answer = call(&mut client, "http://orders/shop.Orders/Get", b"").await;
    assert_eq!(answer.status, 200, "refused the hostile one: {refused}");
}
