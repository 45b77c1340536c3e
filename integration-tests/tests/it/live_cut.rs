//! A change of rules reaches what is under way: streams, tunnels and long answers are cut.

use std::{
    io::{Read, Write},
    time::Duration,
};

use bytes::Bytes;
use hauberk_integration_tests::{AgentOptions, MeshBox, get};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    client::{http1, http2, to, whole},
    grpc,
    peer::Peer,
    shop::{self, PATIENCE, get_until},
    streaming_app::{Frames, empty},
    tcp_app::TcpApp,
};

const WEB_AND_INTRUDER: &str = "permit (principal == Node::\"web\", action, resource);\n\
     permit (principal == Node::\"intruder\", action, resource);";
const NOT_WEB: &str = "forbid (principal == Node::\"web\", action, resource);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deny_cuts_streams_upgrades_and_long_answers() {
    let (mesh, app, _orders, web) = shop::streaming_by("both", WEB_AND_INTRUDER);
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/", 200);
    get_until(&intruder, "orders", "/", 200);

    // What the permitted twin keeps.
    let mut twin_client = http1(intruder.outbound()).await;
    let mut twin =
        twin_client.send_request(to("orders", "GET", "/drip").body(empty()).unwrap()).await.unwrap();

    let mut client = http1(web.outbound()).await;
    let mut drip = client.send_request(to("orders", "GET", "/drip").body(empty()).unwrap()).await.unwrap();
    drip.frame().await.unwrap().unwrap();

    let mut second = http1(web.outbound()).await;
    let request = to("orders", "GET", "/chat").header("connection", "upgrade").header("upgrade", "websocket");
    let mut upgraded = second.send_request(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(upgraded.status(), 101);
    let mut socket = TokioIo::new(hyper::upgrade::on(&mut upgraded).await.unwrap());
    socket.write_all(b"?").await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'?');

    let mut h2 = http2(web.outbound()).await;
    let request = http::Request::get("http://orders-h2/drip").body(empty()).unwrap();
    let mut h2_drip = h2.send_request(request).await.unwrap();
    h2_drip.frame().await.unwrap().unwrap();

    let channel = grpc::channel(web.outbound(), "orders-rpc");
    grpc::until_reachable(&channel).await;
    let response = grpc::call_streaming(&channel, "/test.Echo/Drip", tokio_stream::pending()).await.unwrap();
    let mut messages = response.into_inner();
    messages.message().await.unwrap().unwrap();

    let before = app.count();
    shop::set_policy(&mesh, "not-web", NOT_WEB);
    let cut = async {
        while let Some(frame) = drip.frame().await {
            if frame.is_err() {
                break;
            }
        }
        while let Some(frame) = h2_drip.frame().await {
            if frame.is_err() {
                break;
            }
        }
        while let Ok(Some(_)) = messages.message().await {}
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    };
    timeout(PATIENCE, cut).await.expect("everything that web had open is cut");
    // A cut answer must not look like a whole one.
    assert_eq!(app.count(), before);

    for _ in 0..20 {
        let frame = timeout(PATIENCE, twin.frame()).await.unwrap().expect("the permitted twin goes on");
        frame.unwrap();
    }
    assert_eq!(get_until(&intruder, "orders", "/", 200).status, 200);
    assert_eq!(get_until(&web, "orders", "/", 403).status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_answer_does_not_pass_for_a_whole_one() {
    let (mesh, _app, _orders, web) = shop::streaming_by("both", WEB_AND_INTRUDER);
    get_until(&web, "orders", "/", 200);
    let mut client = http1(web.outbound()).await;
    let mut drip = client.send_request(to("orders", "GET", "/drip").body(empty()).unwrap()).await.unwrap();
    drip.frame().await.unwrap().unwrap();
    let mut h2 = http2(web.outbound()).await;
    let request = http::Request::get("http://orders-h2/drip").body(empty()).unwrap();
    let mut h2_drip = h2.send_request(request).await.unwrap();
    h2_drip.frame().await.unwrap().unwrap();
    // Nothing but the end of its connection tells where this answer ends.
    let mut old = tokio::net::TcpStream::connect(web.outbound()).await.unwrap();
    old.write_all(b"GET /drip HTTP/1.0\r\nhost: orders\r\n\r\n").await.unwrap();
    let mut head = vec![0; 12];
    old.read_exact(&mut head).await.unwrap();
    assert_eq!(&head[8..], b" 200");
    shop::set_policy(&mesh, "not-web", NOT_WEB);
    let end = timeout(PATIENCE, old.read_to_end(&mut head)).await.expect("it is cut");
    assert_eq!(end.expect_err("it ended as if it were complete").kind(), std::io::ErrorKind::ConnectionReset);
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(!head.contains("content-length") && !head.contains("chunked"), "{head}");
    for body in [&mut drip, &mut h2_drip] {
        let end = async {
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    other => return other.is_some(),
                }
            }
        };
        let is_error = timeout(PATIENCE, end).await.expect("it is cut");
        assert!(is_error, "the body ended as if it were complete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_is_told_the_decision() {
    let (mesh, app, _orders, web) = shop::streaming_by("both", WEB_AND_INTRUDER);
    let channel = grpc::channel(web.outbound(), "orders-rpc");
    grpc::until_reachable(&channel).await;
    let drip = grpc::call_streaming(&channel, "/test.Echo/Drip", tokio_stream::pending()).await.unwrap();
    let mut drip = drip.into_inner();
    drip.message().await.unwrap().unwrap();
    // Nothing is said on it at all.
    let silent = grpc::call_streaming(&channel, "/test.Echo/Both", tokio_stream::pending()).await.unwrap();
    let mut silent = silent.into_inner();
    // Not answered yet.
    let unanswered = tokio::spawn(async move {
        grpc::call_streaming(&channel, "/test.Echo/take", tokio_stream::pending()).await.map(drop)
    });
    eventually_async("it has come", || app.taking() == 1).await;

    shop::set_policy(&mesh, "not-web", NOT_WEB);
    let ends = async {
        let of_drip = loop {
            match drip.message().await {
                Ok(Some(_)) => {}
                end => break end.map(drop),
            }
        };
        // Where a message was on its way just then, there is no room for more than the code.
        assert_eq!(of_drip.expect_err("it is cut").code(), Code::PermissionDenied);
        [silent.message().await.map(drop), unanswered.await.unwrap()]
    };
    for end in timeout(PATIENCE, ends).await.expect("all of them are cut") {
        let status = end.expect_err("a call that is cut has not succeeded");
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "denied"));
        let id = status.metadata().get("hauberk-decision").unwrap().to_str().unwrap();
        explains(&mesh, id);
        let line = format!("\"error\":\"denied\",\"id\":\"{id}\"");
        eventually_async("the caller's log has it", || web.process.log().contains(&line)).await;
    }
    // However it was told.
    let figure = "hauberk_outbound_requests_total{service=\"orders-rpc\",result=\"denied\"} 3\n";
    let page = || get(web.health(), "health", "/metrics").unwrap().body;
    eventually_async("all of them count as denied", || page().contains(figure)).await;
}

const TO_CALLERS: &str = "hauberk_inbound_bytes_total{listener=\"8080\",direction=\"out\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_while_its_caller_takes_nothing_ends_with_its_connection() {
    let (mesh, app, orders, web) = shop::streaming_by("both", WEB_AND_INTRUDER);
    get_until(&web, "orders", "/", 200);
    let peer = Peer::join(&mesh, "web").await;
    let stream = peer.connect("orders", orders.inbound(8080), &[b"h2"]).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let before = app.count();
    let request = http::Request::get("http://orders/drip").body(()).unwrap();
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!((answer.status().as_u16(), app.count()), (200, before + 1));
    // What comes every 20 ms is looked at no longer once it waits for the peer.
    let page = || get(orders.health(), "health", "/metrics").unwrap().body;
    let passed = || page().lines().find(|line| line.contains(TO_CALLERS)).map(str::to_owned);
    let (mut last, mut since) = (passed(), Instant::now());
    eventually_async("nothing passes any more", || {
        let now = passed();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    })
    .await;
    // Without waiting, since the peer acknowledges nothing.
    let policy = format!("kind: Policy\nmesh: shop\nname: not-web\nspec:\n  cedar: '{NOT_WEB}'\n");
    mesh.hauberk_with_input(&["apply", "-f", "-"], &policy).ok();
    let mut content = answer.into_body();
    let end = timeout(PATIENCE, content.data()).await.expect("it is cut");
    assert!(end.is_none_or(|part| part.is_err()), "nothing comes before");
    let _ended = timeout(PATIENCE, connection).await.expect("so is all else on its connection");
    assert!(orders.process.log().contains("cut_answer_not_taken"), "{}", orders.process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_is_told_the_decision() {
    let (mesh, app, _orders, web) = shop::streaming_by("both", WEB_AND_INTRUDER);
    get_until(&web, "orders", "/", 200);
    get_until(&web, "orders-h2", "/", 200);
    let mut one = http1(web.outbound()).await;
    let mut other = http2(web.outbound()).await;
    let (one_more, body) = Frames::channel();
    let by_one = one.send_request(to("orders", "POST", "/take").body(body).unwrap());
    let (other_more, body) = Frames::channel();
    let by_other = other.send_request(http::Request::post("http://orders-h2/take").body(body).unwrap());
    let (by_one, by_other) = (tokio::spawn(by_one), tokio::spawn(by_other));
    for more in [&one_more, &other_more] {
        more.send(Frame::data(Bytes::from_static(b"some"))).await.unwrap();
    }
    eventually_async("both have come", || app.taken() == 8).await;

    shop::set_policy(&mesh, "not-web", NOT_WEB);
    // Whether it is read or not, it comes to nobody.
    for more in [&one_more, &other_more] {
        let _ = more.try_send(Frame::data(Bytes::from_static(b"more")));
    }
    for answer in [by_one, by_other] {
        let answer = timeout(PATIENCE, answer).await.expect("it is cut").unwrap().unwrap();
        let answer = whole(answer).await;
        assert_eq!((answer.status, answer.headers.get("hauberk-error")), (403, None));
        let id = answer.headers["hauberk-decision"].to_str().unwrap();
        let said = format!("denied: `hauberk explain {id}` tells an admin of the mesh why\n");
        assert_eq!(answer.body, said.as_bytes());
        explains(&mesh, id);
    }
    eventually_async("the app knows that neither is whole", || app.broken() == 2).await;
    assert_eq!(app.taken(), 8);
    // Others on the same connections go on, and what comes next is asked anew.
    shop::remove_policy(&mesh, "not-web");
    let request = http::Request::get("http://orders-h2/").body(empty()).unwrap();
    assert_eq!(timeout(PATIENCE, other.send_request(request)).await.unwrap().unwrap().status(), 200);
}

/// Checks that an admin is told by which policy a caller was cut off that has seen this id.
fn explains(mesh: &MeshBox, id: &str) {
    let told = mesh.hauberk(&["explain", id]).ok().stdout;
    assert!(told.contains("not-web (forbid)"), "{told}");
}

/// Waits until it is so.
async fn eventually_async(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[test]
fn a_deny_cuts_tunnels_and_a_permit_lets_new_ones_in() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "both", WEB_AND_INTRUDER);
    let app = TcpApp::echo();
    let _redis = shop::redis(&mesh, app.address());
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    let intruder = mesh.agent("intruder", AgentOptions::default().tcp("cache:6379"));
    let mut streams: Vec<_> = (0..8).map(|_| crate::tcp::open_echo(web.tcp("cache:6379"))).collect();
    let mut twin = crate::tcp::open_echo(intruder.tcp("cache:6379"));

    shop::set_policy(&mesh, "not-web", NOT_WEB);
    for stream in &mut streams {
        let mut rest = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let outcome = stream.read_to_end(&mut rest);
        let timed_out = outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "an open tunnel outlives its permit");
        assert!(rest.is_empty());
    }
    twin.write_all(b"!").unwrap();
    let mut byte = [0];
    twin.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");

    shop::remove_policy(&mesh, "not-web");
    drop(crate::tcp::open_echo(web.tcp("cache:6379")));
}
