//! A change of rules reaches what is under way: streams, tunnels and long answers are cut.

use std::{
    io::{Read, Write},
    time::Duration,
};

use hauberk_integration_tests::AgentOptions;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    client::{http1, http2, to},
    grpc,
    shop::{self, PATIENCE, get_until},
    streaming_app::empty,
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
    shop::set_policy(&mesh, "not-web", NOT_WEB);
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
