//! Where the answers of an app end: wherever that cannot be told, no caller takes a part for the whole.

use std::net::SocketAddr;

use hauberk_policy::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clients::{ask, http1};
use crate::interim::{mesh, read_head};

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
