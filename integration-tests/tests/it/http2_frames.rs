//! HTTP/2 frames written by hand, since no library would send them: whatever HTTP/1.1 behind could read otherwise, the
//! app never gets.

use std::net::SocketAddr;

use hauberk_integration_tests::App;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    peer::Peer,
    shop::{self, PATIENCE, WEB_MAY_ALL},
    streaming_app::StreamingApp,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A field line, as bytes: not every one is text.
type Field<'a> = (&'a [u8], &'a [u8]);

const METHOD: &[u8] = b":method";
const PATH: &[u8] = b":path";
const SCHEME: Field<'_> = (b":scheme", b"https");
const AUTHORITY: Field<'_> = (b":authority", b"orders");
const GET: Field<'_> = (METHOD, b"GET");
const POST: Field<'_> = (METHOD, b"POST");
const ROOT: Field<'_> = (PATH, b"/");

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HPACK without compression: literal fields that are never indexed (RFC 7541 §6.2.3).
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        for (prefix, text) in [(Some(0x10), name), (None, value)] {
            block.extend(prefix);
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 0x7f);
            block.push(length);
            block.extend_from_slice(text);
        }
    }
    block
}

/// How the other side answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// With a response, whichever.
    Response,
    /// By ending the stream or the connection.
    Refusal,
}

/// One request over a connection of its own.
async fn ask(peer: &Peer, address: SocketAddr, fields: &[Field<'_>], body: Option<&[u8]>) -> Answer {
    let mut stream = peer.connect("orders", address, &[b"h2"]).await.unwrap();
    let mut bytes = PREFACE.to_vec();
    let end = if body.is_some() { 0 } else { END_STREAM };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block(fields)));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    stream.write_all(&bytes).await.unwrap();
    let reading = async {
        loop {
            match read_frame(&mut stream).await {
                None | Some((RST_STREAM | GOAWAY, _)) => return Answer::Refusal,
                Some((HEADERS, _)) => return Answer::Response,
                Some(_) => {}
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no answer to {fields:?}"))
}

/// The next frame's kind and content; none at the end.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// Writes all that there is, and reads until the other side ends the connection. Whether it does, with what is written
/// still open.
async fn is_thrown_out(peer: &Peer, address: SocketAddr, alpn: &[u8], bytes: Vec<u8>) -> bool {
    let stream = peer.connect("orders", address, &[alpn]).await.unwrap();
    let (mut reads, mut writes) = tokio::io::split(stream);
    let writing = async {
        // Whoever has thrown us out reads no more.
        let _ = writes.write_all(&bytes).await;
        let _ = writes.flush().await;
        std::future::pending::<()>().await;
    };
    let reading = async { while !matches!(read_frame(&mut reads).await, None | Some((GOAWAY, _))) {} };
    tokio::select! {
        () = writing => false,
        ended = timeout(PATIENCE, reading) => ended.is_ok(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http1_would_read_otherwise_never_reaches_the_app() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let peer = Peer::join(&mesh, "web").await;
    let address = orders.inbound(8080);

    // The same hand sends good requests too.
    assert_eq!(ask(&peer, address, &[GET, SCHEME, AUTHORITY, ROOT], None).await, Answer::Response);
    let good = [POST, SCHEME, AUTHORITY, ROOT, (b"content-length", b"3"), (b"x", b"y")];
    assert_eq!(ask(&peer, address, &good, Some(b"abc")).await, Answer::Response);
    assert_eq!(app.requests(), 2);
    // What HTTP/2 may split, HTTP/1.1 has in one line.
    let crumbs = [GET, SCHEME, AUTHORITY, ROOT, (b"cookie", b"a=1"), (b"cookie", b"b=2")];
    assert_eq!(ask(&peer, address, &crumbs, None).await, Answer::Response);
    let head = app.heads().pop().unwrap();
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("cookie: a=1; b=2")), "{head:?}");

    let smuggled: &[u8] = b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: orders";
    let with = |field: Field<'static>| vec![GET, SCHEME, AUTHORITY, ROOT, field];
    let at = |path: &'static [u8]| vec![GET, SCHEME, AUTHORITY, (PATH, path)];
    let cases: Vec<Vec<Field<'_>>> = vec![
        at(b"public"),
        at(b""),
        at(b"*"),
        at(b"/a b"),
        at(b"/a\r\nx: y"),
        at(b"/a HTTP/1.1\r\nhost: orders\r\n\r\nGET /smuggled"),
        at(b"/a\0"),
        at(b"/a\xff"),
        vec![GET, SCHEME, AUTHORITY],
        vec![GET, SCHEME, AUTHORITY, ROOT, (PATH, b"/second")],
        vec![GET, SCHEME, AUTHORITY, AUTHORITY, ROOT],
        vec![SCHEME, AUTHORITY, ROOT],
        vec![(METHOD, b"GET / HTTP/1.1\r\nx: y"), SCHEME, AUTHORITY, ROOT],
        vec![(METHOD, b"GET /smuggled"), SCHEME, AUTHORITY, ROOT],
        vec![(METHOD, b""), SCHEME, AUTHORITY, ROOT],
        vec![(METHOD, b"CONNECT"), AUTHORITY],
        vec![(METHOD, b"CONNECT"), (b":protocol", b"websocket"), SCHEME, AUTHORITY, ROOT],
        vec![GET, SCHEME, (b":authority", b"orders\r\nx: y"), ROOT],
        vec![GET, SCHEME, (b":authority", b"user@orders"), ROOT],
        vec![GET, SCHEME, AUTHORITY, ROOT, (b":unknown", b"1")],
        vec![GET, SCHEME, AUTHORITY, (b"x", b"y"), ROOT],
        with((b"host", b"payments")),
        with((b"transfer-encoding", b"chunked")),
        with((b"connection", b"close")),
        with((b"connection", b"hauberk-service")),
        with((b"upgrade", b"websocket")),
        with((b"te", b"gzip")),
        with((b"X-Upper", b"1")),
        with((b"x y", b"1")),
        with((b"x:y", b"1")),
        with((b"x\r\ny", b"1")),
        with((b"", b"1")),
        with((b"x", smuggled)),
        with((b"x", b"a\nb")),
        with((b"x", b"a\rb")),
        with((b"x", b"a\0b")),
        with((b"content-length", b"5")),
        with((b"content-length", b"+0")),
        with((b"content_length", b"0")),
        with((b"Content_Length", b"0")),
        with((b"transfer_encoding", b"chunked")),
        vec![GET, SCHEME, AUTHORITY, ROOT, (b"content-length", b"0"), (b"content-length", b"0")],
        vec![GET, SCHEME, AUTHORITY, ROOT, (b"content-length", b"0"), (b"content-length", b"00")],
        vec![GET, SCHEME, AUTHORITY, ROOT, (b"hauberk-service", b"orders"), (b"hauberk-service", b"cache")],
    ];
    for case in &cases {
        let before = app.requests();
        let answer = ask(&peer, address, case, None).await;
        let shown: Vec<_> = case.iter().map(|(name, value)| (lossy(name), lossy(value))).collect();
        assert_eq!(
            app.requests(),
            before,
            "{shown:?}, answered by a {answer:?}, came through: {:?}",
            app.heads().last()
        );
    }
    // What begins with `#` is cut off before anything is decided, and never passed on; or refused.
    let before = app.heads().len();
    for path in [&b"/public#/../admin"[..], b"/public#?a=b", b"/public?a#/../../admin", b"/public/#"] {
        ask(&peer, address, &at(path), None).await;
    }
    for head in &app.heads()[before..] {
        let is_cut = ["GET /public HTTP/1.1", "GET /public?a HTTP/1.1", "GET /public/ HTTP/1.1"];
        assert!(is_cut.contains(&head[0].as_str()), "{head:?}");
    }
    // A body of another length than was said: the app may see a broken request, and nothing that looks whole.
    for (length, body) in [(&b"5"[..], &b"abc"[..]), (b"3", b"abcGET /smuggled HTTP/1.1\r\n\r\n")] {
        ask(&peer, address, &[POST, SCHEME, AUTHORITY, ROOT, (b"content-length", length)], Some(body)).await;
    }
    assert!(!app.heads().iter().any(|head| head[0].contains("smuggled")));
    assert_eq!(ask(&peer, address, &[GET, SCHEME, AUTHORITY, ROOT], None).await, Answer::Response);
}

/// Streams that are reset at once (CVE-2023-44487), header blocks without an end (CVE-2024-27316 and its like), and
/// blocks that grow when they are unpacked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_own_connection_alone() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let peer = Peer::join(&mesh, "web").await;
    let address = orders.inbound(8080);
    let request = block(&[GET, SCHEME, AUTHORITY, ROOT]);

    let resets = (0..20_000u32).flat_map(|index| {
        let stream = 2 * index + 1;
        let begun = frame(HEADERS, END_HEADERS, stream, &request);
        [begun, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    });
    let begun = frame(HEADERS, END_STREAM, 1, &request);
    let endless = (0..10_000).flat_map(|_| frame(CONTINUATION, 0, 1, &block(&[(b"x-a", b"1")])));
    let empty = (0..10_000).flat_map(|_| frame(CONTINUATION, 0, 1, &[]));
    let mut floods = vec![
        ("resets", resets.collect::<Vec<_>>()),
        ("continuations", begun.iter().copied().chain(endless).collect()),
        ("empty continuations", begun.iter().copied().chain(empty).collect()),
    ];
    for (_, flood) in &mut floods {
        flood.splice(0..0, PREFACE.iter().copied());
    }
    for (what, flood) in floods {
        assert!(is_thrown_out(&peer, address, b"h2", flood).await, "{what}");
    }

    // Blocks that are more than may be, in bytes or unpacked: whatever is answered, the app is not asked.
    let before = app.requests();
    let long: Vec<Vec<u8>> = (0..200).map(|_| block(&[(b"x-long", &[b'a'; 100])])).collect();
    let mut bytes = [PREFACE, &frame(HEADERS, END_STREAM, 1, &request)].concat();
    for (index, part) in long.iter().enumerate() {
        let flags = if index + 1 == long.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, part));
    }
    assert!(!is_answered_by_the_app(&peer, address, &bytes).await, "a long block");
    // A field of four thousand bytes that goes into the table (RFC 7541 §6.2.1), and a thousand times its index (§6.1).
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'a'; 4_000]);
    bomb.extend([0x80 | 62; 1_000]);
    let bytes = [PREFACE, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &[request, bomb].concat())].concat();
    assert!(!is_answered_by_the_app(&peer, address, &bytes).await, "a block that grows");
    assert_eq!(app.requests(), before);

    assert_eq!(ask(&peer, address, &[GET, SCHEME, AUTHORITY, ROOT], None).await, Answer::Response);
    assert_eq!(app.requests(), before + 1);
}

/// Whether anything but a refusal comes of these bytes: the status is no 2xx where it is refused.
async fn is_answered_by_the_app(peer: &Peer, address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = peer.connect("orders", address, &[b"h2"]).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let reading = async {
        loop {
            match read_frame(&mut stream).await {
                None | Some((RST_STREAM | GOAWAY, _)) => return false,
                // 200 is in the static table (RFC 7541, appendix A).
                Some((HEADERS, block)) => return block.first() == Some(&0x88),
                Some(_) => {}
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A gRPC path without its slash slips past rules in some servers (CVE-2026-33186).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_path_has_one_spelling() {
    let mesh = shop::open();
    shop::set_policy(
        &mesh,
        "but-one",
        "permit (principal == Node::\"web\", action == Action::\"call\", resource in Service::\"orders-rpc\");\n\
         forbid (principal, action == Action::\"call\", resource in Service::\"orders-rpc\")\n\
         when { context.service == \"test.Admin\" };",
    );
    let app = StreamingApp::start();
    let orders = shop::orders(&mesh, app.address());
    let peer = Peer::join(&mesh, "web").await;
    let address = orders.inbound(50051);
    let call = async |path: &[u8]| {
        let fields =
            [POST, SCHEME, AUTHORITY, (PATH, path), (&b"content-type"[..], &b"application/grpc"[..])];
        ask(&peer, address, &fields, None).await
    };
    assert_eq!(call(b"/test.Echo/Fail").await, Answer::Response);
    assert_eq!(app.count(), 1);
    for path in [
        "test.Admin/Drop",
        "/test.Admin/Drop",
        "//test.Admin/Drop",
        "/test.Admin//Drop",
        "/test.Admin/Drop/",
        "/test.Echo/../test.Admin/Drop",
        "/%74est.Admin/Drop",
        "/test.Admin/Drop?x",
        "/test.Admin%2fDrop",
        "/./test.Admin/Drop",
    ] {
        call(path.as_bytes()).await;
    }
    let seen: Vec<String> = app.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/test.Echo/Fail"]);
}
