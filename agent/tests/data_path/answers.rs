//! Where the answers of an app end: wherever that cannot be told, no caller takes a part for the whole.

use std::net::SocketAddr;

use hauberk_policy::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::clients::{ask, http1, raw};
use crate::interim::{EVERYTHING, mesh, read_head};
use crate::world::{PATIENCE, World};

/// Answers each connection's one request with these bytes, and closes.
async fn app(answer: &'static [u8], tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if read_head(&mut stream).await.is_some() {
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_length_beside_chunks_cuts_nothing_off() {
    let mut tasks = JoinSet::new();
    let lie =
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let app = app(lie, &mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http, app).await;
    let mut client = http1(local, &mut tasks).await;
    for _ in 0..2 {
        let answer = ask(&mut client, "GET", "orders", "/", b"").await;
        assert_eq!((answer.status, &*answer.body, answer.header("content-length")), (200, "whole", ""));
    }
}

#[tokio::test]
async fn what_is_encoded_as_nobody_is_told_is_not_passed_on() {
    let mut tasks = JoinSet::new();
    let encoded = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let app = app(encoded, &mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http, app).await;
    let mut client = http1(local, &mut tasks).await;
    let answer = ask(&mut client, "GET", "orders", "/", b"").await;
    assert_eq!((answer.status, answer.header("hauberk-error")), (502, "unknown_transfer_encoding"));
}

const OLD: &[u8] = b"HTTP/1.0 200 OK\r\n\r\npart";

#[tokio::test]
async fn an_app_that_speaks_http_1_0_costs_no_caller_its_connection() {
    let mut tasks = JoinSet::new();
    let (local, _agents) = mesh(Protocol::Http, app(OLD, &mut tasks).await).await;
    let request = "GET / HTTP/1.1\r\nHost: orders\r\n";
    let two = format!("{request}\r\n{request}Connection: close\r\n\r\n");
    let answers = raw(TcpStream::connect(local).await.unwrap(), two.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("\r\n0\r\n\r\n"), "{answers}");
}

#[tokio::test]
async fn what_is_cut_of_an_app_that_speaks_http_1_0_does_not_look_complete() {
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await.unwrap();
            stream.write_all(OLD).await.unwrap();
            // Only its agent ends it.
            let _ = stream.read_u8().await;
        }
    });
    let world = World::new();
    let (mut web, mut orders) = (world.agent("web"), world.agent("orders"));
    orders.apply(world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[EVERYTHING])).await;
    let inbound = orders.listen(8080, address).await;
    web.knows("orders", &orders.id, 8080, Protocol::Http, &[inbound]);
    let local = web.open_http().await;
    for version in ["1.1", "1.0"] {
        let mut stream = TcpStream::connect(local).await.unwrap();
        let request = format!("GET / HTTP/{version}\r\nHost: orders\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut came = Vec::new();
        while !came.windows(4).any(|part| part == b"part") {
            assert_ne!(tokio::time::timeout(PATIENCE, stream.read_buf(&mut came)).await.unwrap().unwrap(), 0);
        }
        orders.apply(world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[])).await;
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut came)).await.unwrap();
        let came = String::from_utf8_lossy(&came);
        assert!(!came.ends_with("0\r\n\r\n"), "{came}");
        assert_eq!(end.is_err(), version == "1.0", "{version}: {end:?} after {came}");
        orders.apply(world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[EVERYTHING])).await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_told_apart_from_none() {
    for (sent, name) in [
        (&b"HTTP/1.1 200 OK\r\nno field\r\n\r\n"[..], "app_answer_unreadable"),
        (b"HTTP/1.1 2xx\r\n\r\n", "app_answer_unreadable"),
        (b"HTTP/1.1 200 OK\r\n", "app_broke_off"),
        (b"", "app_broke_off"),
    ] {
        let mut tasks = JoinSet::new();
        let (local, _agents) = mesh(Protocol::Http, app(sent, &mut tasks).await).await;
        let mut client = http1(local, &mut tasks).await;
        let answer = ask(&mut client, "GET", "orders", "/", b"").await;
        assert_eq!((answer.status, answer.header("hauberk-error")), (502, name));
    }
}
