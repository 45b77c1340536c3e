//! HTTP through two agents: what an app sends is what the other app gets.

use std::time::Duration;

use bytes::Bytes;
use hauberk_integration_tests::{AgentOptions, get, request};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::{http1, http2, to, whole},
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    streaming_app::{Frames, StreamingApp, empty, full},
};

#[test]
fn a_call_passes_from_web_through_orders_to_payments() {
    let mesh = shop::open();
    shop::set_policy(
        &mesh,
        "chain",
        "permit (principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");\n\
         permit (principal == Node::\"orders\", action == Action::\"GET\", resource in Service::\"payments\");",
    );
    let payments_app = StreamingApp::start();
    let orders_app = StreamingApp::start();
    let _payments = mesh.agent("payments", AgentOptions::default().app(8080, payments_app.address()));
    let orders = shop::orders(&mesh, orders_app.address());
    let web = shop::caller(&mesh, "web");

    get_until(&web, "orders", "/orders/1", 200);
    get_until(&orders, "payments", "/charge", 200);
    let seen = orders_app.requests().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/orders/1"));
    assert_eq!(seen.headers["host"], "orders", "the app's own Host");
    let client = seen.headers["x-forwarded-client-cert"].to_str().unwrap();
    assert!(client.contains("URI=spiffe://box.test/mesh/shop/node/web"), "{client}");
    assert!(client.contains("By=spiffe://box.test/mesh/shop/node/orders"), "{client}");
    assert!(!seen.headers.keys().any(|name| name.as_str().starts_with("hauberk-")), "{:?}", seen.headers);

    // Both agents have counted it, and a page of figures holds nothing that a caller has sent.
    for (agent, figure) in [
        (&orders, "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"} "),
        (&web, "hauberk_outbound_requests_total{service=\"orders\",result=\"2xx\"} "),
    ] {
        let page = get(agent.health(), "health", "/metrics").unwrap().body;
        let count =
            page.lines().find_map(|line| line.strip_prefix(figure)).unwrap_or_else(|| panic!("{page}"));
        assert!(count.parse::<u64>().unwrap() > 0, "{page}");
        assert!(page.contains("\nhauberk_certificate_not_after_seconds 1"), "{page}");
        assert!(!page.contains("/orders/1") && !page.contains("spiffe"), "{page}");
    }

    // Named with its port, with another case, as to a proxy, and over HTTP/1.0.
    for text in [
        "GET /2 HTTP/1.1\r\nhost: orders:8080\r\nconnection: close\r\n\r\n",
        "GET /2 HTTP/1.1\r\nhost: ORDERS\r\nconnection: close\r\n\r\n",
        "GET http://orders/2 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        "GET http://orders:8080/2 HTTP/1.1\r\nhost: orders:8080\r\nproxy-connection: close\r\nconnection: close\r\n\r\n",
        "GET /2 HTTP/1.0\r\nhost: orders\r\n\r\n",
    ] {
        let response = request(web.outbound(), text).unwrap();
        assert_eq!(response.status, 200, "{text}: {}", response.body);
        let seen = orders_app.requests().pop().unwrap();
        assert_eq!(seen.target, "/2");
        assert!(!seen.headers.contains_key("proxy-connection"));
    }
    // A query is not the agent's business.
    assert_eq!(get(web.outbound(), "orders", "/q?a=%2F..%2f&b=//").unwrap().status, 200);
    assert_eq!(orders_app.requests().pop().unwrap().target, "/q?a=%2F..%2f&b=//");

    // A name that is no service is told to the app in one line, and so is a port that the service does not have.
    let unknown = get(web.outbound(), "oders", "/").unwrap();
    assert!((500..600).contains(&unknown.status), "{unknown:?}");
    assert!(unknown.body.contains("oders") && unknown.body.trim().lines().count() == 1, "{unknown:?}");
    let port = get(web.outbound(), "orders:9999", "/").unwrap();
    assert!((500..600).contains(&port.status), "{port:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_arrives_as_it_was_sent() {
    let (_mesh, app, _orders, web) = shop::streaming_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let mut client = http1(web.outbound()).await;

    // 10 MiB each way, chunked, then with a length.
    let bulk = Bytes::from(vec![7; 10 << 20]);
    let (sender, body) = Frames::channel();
    let sending = bulk.clone();
    tokio::spawn(async move {
        for start in (0..sending.len()).step_by(64 << 10) {
            let end = sending.len().min(start + (64 << 10));
            sender.send(Frame::data(sending.slice(start..end))).await.unwrap();
        }
    });
    let response = client.send_request(to("orders", "POST", "/echo").body(body).unwrap()).await.unwrap();
    assert_eq!(whole(response).await.body, bulk);
    assert_eq!(app.requests().pop().unwrap().headers["transfer-encoding"], "chunked");
    client.ready().await.unwrap();
    let response =
        client.send_request(to("orders", "PUT", "/echo").body(full(bulk.clone())).unwrap()).await.unwrap();
    assert_eq!(whole(response).await.body, bulk);
    assert_eq!(app.requests().pop().unwrap().headers["content-length"], bulk.len().to_string());
    client.ready().await.unwrap();

    // A body is a stream: what was sent comes back before the rest is there.
    let (sender, body) = Frames::channel();
    let response = client.send_request(
        to("orders", "POST", "/echo")
            .header("te", "trailers")
            .header("trailer", "x-checksum")
            .body(body)
            .unwrap(),
    );
    sender.send(Frame::data(Bytes::from_static(b"first"))).await.unwrap();
    let mut response = response.await.unwrap().into_body();
    let frame = timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first");
    // And trailers come after it, both ways.
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    sender.send(Frame::trailers(trailers.clone())).await.unwrap();
    drop(sender);
    let rest = response.collect().await.unwrap();
    assert_eq!(rest.trailers(), Some(&trailers));
    assert_eq!(app.trailers(), [trailers]);

    let mut client = http1(web.outbound()).await;
    let response =
        whole(client.send_request(to("orders", "HEAD", "/static").body(empty()).unwrap()).await.unwrap())
            .await;
    assert_eq!((response.status, response.headers["content-length"].to_str().unwrap()), (200, "12"));
    assert!(response.body.is_empty());
    client.ready().await.unwrap();
    let response =
        whole(client.send_request(to("orders", "GET", "/static").body(empty()).unwrap()).await.unwrap())
            .await;
    assert_eq!((response.status, &response.body[..]), (200, &b"twelve bytes"[..]));
    assert_eq!(response.headers["etag"], "\"1\"");
    client.ready().await.unwrap();

    // An answer before the body's end.
    let (_open, body) = Frames::channel();
    let response = client.send_request(to("orders", "POST", "/early").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_ends_the_apps_connection_only_where_something_of_the_request_is_left_on_it() {
    let reads = "permit (principal == Node::\"web\", action == Action::\"GET\", resource);";
    let (_mesh, _app, _orders, web) = shop::streaming_by("reads", reads);
    get_until(&web, "orders", "/", 200);
    let mut client = http1(web.outbound()).await;
    let (sender, chunked) = Frames::channel();
    sender.send(Frame::data(Bytes::from_static(b"some"))).await.unwrap();
    drop(sender);
    for body in [full("some"), chunked] {
        let denied = client.send_request(to("orders", "POST", "/echo").body(body).unwrap()).await.unwrap();
        let denied = whole(denied).await;
        assert_eq!((denied.status, denied.headers.get("connection")), (403, None));
        client.ready().await.unwrap();
        let next = client.send_request(to("orders", "GET", "/").body(empty()).unwrap()).await.unwrap();
        assert_eq!(whole(next).await.status, 200);
        client.ready().await.unwrap();
    }
    let (_open, unfinished) = Frames::channel();
    let denied = client.send_request(to("orders", "POST", "/echo").body(unfinished).unwrap()).await.unwrap();
    assert_eq!((denied.status().as_u16(), denied.headers()["connection"].as_bytes()), (403, &b"close"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_continue_and_changes_protocols() {
    let (_mesh, app, _orders, web) = shop::streaming_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);

    let mut stream = TcpStream::connect(web.outbound()).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.contains("hello"), "{rest}");

    let mut client = http1(web.outbound()).await;
    let request = to("orders", "GET", "/chat")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(empty())
        .unwrap();
    let mut response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut socket = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut echo = vec![0; 100_000];
    for round in 0..3 {
        // Frames mean nothing to an agent, and neither do bytes that look like another request.
        let message = [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &vec![round; 99_982]].concat();
        let (mut read, mut write) = tokio::io::split(&mut socket);
        let (sent, received) = tokio::join!(write.write_all(&message), read.read_exact(&mut echo));
        sent.unwrap();
        received.unwrap();
        assert_eq!(echo, message);
    }
    assert_eq!(app.requests().iter().filter(|seen| seen.target == "/chat").count(), 1);
    let seen = app.requests().pop().unwrap();
    assert_eq!(seen.headers["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_passes_many_streams_over_one_connection() {
    let (_mesh, app, _orders, web) = shop::streaming_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);

    let client = http2(web.outbound()).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50_u32 {
        let mut client = client.clone();
        calls.spawn(async move {
            let body = full(vec![number as u8; 50_000]);
            let uri = format!("http://orders-h2/{number}/echo");
            let request = Request::post(uri).header("te", "trailers").body(body).unwrap();
            let response = whole(client.send_request(request).await.unwrap()).await;
            assert_eq!(response.status, 200, "{response:?}");
            assert!(response.body.len() == 50_000 && response.body.iter().all(|&byte| byte == number as u8));
        });
    }
    timeout(Duration::from_secs(30), async {
        while let Some(call) = calls.join_next().await {
            call.unwrap()
        }
    })
    .await
    .unwrap();
    let seen = app.requests().into_iter().filter(|seen| seen.target.ends_with("/echo")).count();
    assert_eq!(seen, 50);
    assert_eq!(app.requests().pop().unwrap().version, http::Version::HTTP_2);

    // Trailers without TE, and a stream in which question and answer alternate.
    let mut client = client.clone();
    let (sender, body) = Frames::channel();
    let response = client.send_request(Request::post("http://orders-h2/echo").body(body).unwrap());
    sender.send(Frame::data(Bytes::from_static(b"0"))).await.unwrap();
    let mut answers = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
    for number in 1..20_u8 {
        let frame = timeout(PATIENCE, answers.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap()[..], [b'0' + number - 1]);
        sender.send(Frame::data(Bytes::from(vec![b'0' + number]))).await.unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("7"));
    sender.send(Frame::trailers(trailers.clone())).await.unwrap();
    drop(sender);
    assert_eq!(answers.collect().await.unwrap().trailers(), Some(&trailers));
    assert_eq!(app.broken(), 0);
}
