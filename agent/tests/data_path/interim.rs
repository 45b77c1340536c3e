//! Answers before the answer: 100 Continue and 103 Early Hints (RFC 9110 §15.2).
//!
//! An agent answers `Expect: 100-continue` itself when the body is wanted, and passes no interim answer of the app on:
//! what matters is that none is taken for the answer, and that the answer comes whether or not there was one.

use std::net::SocketAddr;

use bytes::Bytes;
use hauberk_policy::Protocol;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::clients::{ask, call, http1, http2, raw};
use crate::world::{Agent, PATIENCE, World};

pub const EVERYTHING: &str = r#"permit(principal == Node::"web", action, resource in Service::"orders");"#;

/// web's agent, where web sends, and what must be kept meanwhile.
pub async fn mesh(protocol: Protocol, app: SocketAddr) -> (SocketAddr, Vec<Agent>) {
    let world = World::new();
    let (mut web, mut orders) = (world.agent("web"), world.agent("orders"));
    orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[EVERYTHING])).await;
    let inbound = orders.listen(8080, app).await;
    web.knows("orders", &orders.id, 8080, protocol, &[inbound]);
    (web.open_http().await, vec![web, orders])
}

pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Sends early hints before every answer. Answers `/refuse` without reading the body, `/eager` after 100 Continue, all
/// else after the body alone.
async fn hinting_app(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            serving.spawn(async move {
                while let Some(head) = read_head(&mut stream).await {
                    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
                    stream.write_all(hints.repeat(2).as_bytes()).await.unwrap();
                    if head.starts_with("POST /refuse ") {
                        let refusal =
                            b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(refusal).await.unwrap();
                        return;
                    }
                    if head.starts_with("POST /eager ") {
                        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                    }
                    let mut body = [0; 5];
                    if head.starts_with("POST ") {
                        stream.read_exact(&mut body).await.unwrap();
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await.unwrap();
                    stream.write_all(&body).await.unwrap();
                }
            });
        }
    });
    address
}

/// Does the same over HTTP/2.
async fn hinting_http2_app(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            serving.spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    for status in [StatusCode::CONTINUE, StatusCode::EARLY_HINTS, StatusCode::EARLY_HINTS] {
                        let interim = Response::builder().status(status).header("link", "</style.css>");
                        respond.send_informational(interim.body(()).unwrap()).unwrap();
                    }
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    send.send_data(Bytes::from_static(b"final"), true).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn interim_answers_of_an_app_are_not_taken_for_its_answer() {
    let mut tasks = JoinSet::new();
    let app = hinting_app(&mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http, app).await;
    let mut client = http1(local, &mut tasks).await;
    for path in ["/eager", "/plain", "/eager"] {
        let answer = ask(&mut client, "POST", "orders", path, b"hello").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{path}");
        assert_eq!(answer.header("link"), "", "hints are not the answer's");
    }
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 200);
}

#[tokio::test]
async fn interim_answers_of_an_http2_app_are_not_taken_for_its_answer() {
    let mut tasks = JoinSet::new();
    let app = hinting_http2_app(&mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http2, app).await;
    let mut client = http2(local, &mut tasks).await;
    for _ in 0..3 {
        let answer = call(&mut client, "http://orders/x", b"hello").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "final"));
    }
}

#[tokio::test]
async fn a_client_that_waits_gets_its_answer_whether_or_not_the_app_says_continue() {
    let mut tasks = JoinSet::new();
    let app = hinting_app(&mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http, app).await;
    for (path, answer) in
        [("/eager", "HTTP/1.1 200 "), ("/plain", "HTTP/1.1 200 "), ("/refuse", "HTTP/1.1 413 ")]
    {
        let mut stream = TcpStream::connect(local).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let interim = tokio::time::timeout(PATIENCE, read_head(&mut stream)).await.unwrap().unwrap();
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        let rest = raw(stream, if path == "/refuse" { b"" } else { b"hello" }).await;
        assert!(rest.starts_with(answer), "{path}: {rest}");
        assert!(!rest.contains("HTTP/1.1 1"), "{path}: {rest}");
        assert_eq!(rest.ends_with("\r\n\r\nhello"), path != "/refuse", "{path}: {rest}");
    }
}

/// Answers the first request of each connection with `lie` as it stands, and every later one with its own target.
async fn lying_app(lie: &'static [u8], tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        let mut lies = Some(lie);
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut lie = lies.take();
            serving.spawn(async move {
                while let Some(head) = read_head(&mut stream).await {
                    let target = head.split(' ').nth(1).unwrap();
                    let own = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
                    if stream.write_all(lie.take().unwrap_or(own.as_bytes())).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn an_app_that_answers_more_than_it_was_asked_answers_nobody_else() {
    for (what, lie) in [
        (
            "a second answer",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"[..],
        ),
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 50\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "a length beside chunks",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "bare line ends",
            b"HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\nContent-Length: 6\n\npoison",
        ),
        ("an upgrade that nobody wanted", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\npoison"),
        (
            "a body without one",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 48\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        ("what is no answer", b"poison\r\n\r\npoison"),
    ] {
        let mut tasks = JoinSet::new();
        let app = lying_app(lie, &mut tasks).await;
        let (local, _agents) = mesh(Protocol::Http, app).await;
        let mut liar = http1(local, &mut tasks).await;
        let first = ask(&mut liar, "GET", "orders", "/first", b"").await;
        assert!(!first.body.contains("poison"), "{what}: {first:?}");
        let mut others = http1(local, &mut tasks).await;
        for number in 0..5 {
            let path = format!("/{number}");
            let answer = ask(&mut others, "GET", "orders", &path, b"").await;
            assert_eq!((answer.status, &answer.body), (200, &path), "{what}");
        }
    }
}

/// As CVE-2024-23326: bytes that follow an answer to an upgrade, which is none, belong to nobody.
#[tokio::test]
async fn an_answer_of_200_to_an_upgrade_opens_no_tunnel() {
    let mut tasks = JoinSet::new();
    let lie = b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 2\r\n\r\nok";
    let app = lying_app(lie, &mut tasks).await;
    let (local, _agents) = mesh(Protocol::Http, app).await;
    let asked = b"GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n\
                  GET /second HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let answers = raw(TcpStream::connect(local).await.unwrap(), asked).await;
    assert!(answers.starts_with("HTTP/1.1 200 ") && !answers.contains("101"), "{answers}");
    // What came after it is a request like any, decided by itself, or is not read at all: it is no tunnel's content.
    assert!(answers.matches("HTTP/1.1 ").count() <= 2, "{answers}");
    assert!(!answers.contains("\r\n\r\nGET "), "{answers}");
    let mut others = http1(local, &mut tasks).await;
    assert_eq!(ask(&mut others, "GET", "orders", "/after", b"").await.body, "/after");
}
