//! Web may read `/public/*` and nothing else. However a path is spelled, the app never gets one that some server could
//! read as a path outside.

use std::{fs, net::SocketAddr};

use hauberk_integration_tests::{App, request, shared};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    client::whole,
    peer::Peer,
    shop::{self, get_until},
    streaming_app::empty,
};

pub(crate) const PUBLIC_ONLY: &str = "permit (principal == Node::\"web\", action == Action::\"GET\", resource in Node::\"orders\")\n\
     when { context.path like \"/public/*\" };";

/// Paths that have opened doors elsewhere, with the door's name `/admin`.
pub(crate) const TRICKS: [&str; 56] = [
    "/admin",
    "//admin",
    "/public/../admin",
    "/public/./../admin",
    "/public/%2e%2e/admin",
    "/public/%2E%2E/admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/public/..%2fadmin",
    "/public/..%2Fadmin",
    "/public%2f..%2fadmin",
    "/public/%2e%2e%2fadmin",
    "/public/%252e%252e/admin",
    "/public/%252e%252e%252fadmin",
    "/public/%25%32%65%25%32%65/admin",
    "/public/..;/admin",
    "/public/..;x=y/admin",
    "/public;/../admin",
    "/public/;/../admin",
    "/public/%3b/../admin",
    "/public/..%3b/admin",
    "/public/..\\admin",
    "/public\\..\\admin",
    "/public/..%5cadmin",
    "/public/..%5Cadmin",
    "/public/%5c../admin",
    "/public/..%00/admin",
    "/public/%00/../admin",
    "/admin%00/public/",
    "/public/../admin#/public/",
    "/admin#/public/",
    "/public/#/../../admin",
    "/admin?/public/",
    "/public/..%0d%0a/admin",
    "/public/..%09/admin",
    "/public/.%09./admin",
    "/public//../admin",
    "/public///../../admin",
    "/public/a/../../admin",
    "/public/..//admin",
    "/public/../../../../admin",
    "/./admin",
    "/.//admin",
    "/../admin",
    "/%61dmin",
    "/%2fadmin",
    "/%2e/admin",
    "/%5cadmin",
    "/public/..%c0%afadmin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/%e0%80%ae%e0%80%ae/admin",
    "/public/%uff0e%uff0e/admin",
    "/public/..%ef%bc%8fadmin",
    "/public/..%",
    "/public/%zz/../../admin",
    "/Public/../admin",
];

/// Spellings that are harmless, and how the app must get them.
const HARMLESS: [(&str, &str); 8] = [
    ("/public/a", "/public/a"),
    ("/public//a", "/public/a"),
    ("/public/%61", "/public/a"),
    ("/public/a%20b", "/public/a%20b"),
    ("/public/%C3%A4", "/public/%C3%A4"),
    ("/public/a..b", "/public/a..b"),
    ("/public/a?next=../../admin&b=%2f", "/public/a?next=../../admin&b=%2f"),
    ("/public/", "/public/"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_leads_out_of_what_is_permitted() {
    let (mesh, app, orders, web) = shop::trading_by("public", PUBLIC_ONLY);
    get_until(&web, "orders", "/public/ready", 200);
    let peer = Peer::join(&mesh, "web").await;
    let mesh_port = orders.inbound(8080);

    for (sent, received) in HARMLESS {
        let before = app.heads().len();
        let text = format!("GET {sent} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
        let through_agents = request(web.outbound(), &text).unwrap();
        assert_eq!(through_agents.status, 200, "{sent}");
        let directly = peer.exchange("orders", mesh_port, text.as_bytes()).await;
        assert!(directly.starts_with("HTTP/1.1 200 "), "{sent}: {directly}");
        for head in &app.heads()[before..] {
            assert_eq!(head[0], format!("GET {received} HTTP/1.1"), "{sent}");
        }
    }

    let from_outside = istio_paths();
    let tricks: Vec<&str> = TRICKS.into_iter().chain(from_outside.iter().map(String::as_str)).collect();
    for trick in &tricks {
        for host in ["host: orders", "host: orders:8080"] {
            let text = format!("GET {trick} HTTP/1.1\r\n{host}\r\nconnection: close\r\n\r\n");
            let status = request(web.outbound(), &text).unwrap().status;
            assert_ne!(status, 0, "{trick}");
            let answer = peer.exchange("orders", mesh_port, text.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{trick}: {answer}");
            if leads_out(trick) {
                assert!(matches!(status, 400 | 403), "{trick} by way of an agent: {status}");
                let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 403 ");
                assert!(refused, "{trick} directly: {answer}");
            }
        }
    }
    // As an absolute target, the form that proxies get.
    for trick in TRICKS {
        let text = format!("GET http://orders{trick} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
        request(web.outbound(), &text).unwrap();
        peer.exchange("orders", mesh_port, text.as_bytes()).await;
    }
    over_http2(&peer, mesh_port).await;
    check_what_came(&app);
}

/// The same tricks over HTTP/2, as far as a well-behaved library can be brought to send them.
async fn over_http2(peer: &Peer, mesh_port: SocketAddr) {
    let stream = peer.connect("orders", mesh_port, &[b"h2"]).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let (sender, connection) = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut calls = JoinSet::new();
    for trick in TRICKS {
        let Ok(uri) = format!("http://orders{trick}").parse::<http::Uri>() else { continue };
        let mut sender = sender.clone();
        calls.spawn(async move {
            let request = http::Request::get(uri).body(empty()).unwrap();
            let response = whole(sender.send_request(request).await.unwrap()).await;
            // The library drops a fragment before it is sent.
            let is_sent = !trick.contains('#');
            assert!(
                !(is_sent && leads_out(trick)) || matches!(response.status, 400 | 403),
                "{trick}: {response:?}"
            );
        });
    }
    let sent = calls.len();
    assert!(sent > 30, "{sent}");
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

/// No request that the app has got can be read as one that was not permitted.
fn check_what_came(app: &App) {
    for head in app.heads() {
        let target = head[0].split(' ').nth(1).unwrap();
        for reading in readings(target) {
            assert!(reading.starts_with("/public/"), "{target} reads as {reading}");
        }
    }
}

/// Whether some server would read a target as a path that is not permitted.
fn leads_out(target: &str) -> bool {
    readings(target).iter().any(|reading| !reading.starts_with("/public/"))
}

/// The paths that servers of all kinds may find in a target: decoded once, twice or not, with backslashes as slashes,
/// with path parameters, fragments and what follows a NUL cut off.
fn readings(target: &str) -> Vec<String> {
    let raw = target.split('?').next().unwrap();
    let mut spellings = vec![raw.to_owned()];
    for step in [
        decode,
        decode,
        |text: &str| text.replace('\\', "/"),
        cut_parameters,
        |text: &str| text.split(['#', '\0']).next().unwrap().to_owned(),
    ] {
        let changed: Vec<String> = spellings.iter().map(|text| step(text)).collect();
        spellings.extend(changed);
    }
    spellings.iter().map(|text| resolve(text)).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn cut_parameters(text: &str) -> String {
    text.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
}

fn resolve(text: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/').filter(|segment| !matches!(*segment, "" | ".")) {
        match segment {
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| text.ends_with(end));
    let path = format!("/{}", segments.join("/"));
    if is_folder && path != "/" { path + "/" } else { path }
}

/// The paths of Istio's own normalisation test, where they lie beside the checkout, led out of `/public`.
pub(crate) fn istio_paths() -> Vec<String> {
    let Some(file) = shared("vectors/path/istio-normalization.json") else { return Vec::new() };
    let vectors: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let cases = vectors["modes"].as_object().unwrap().values().flat_map(|mode| mode.as_array().unwrap());
    let mut paths: Vec<String> =
        cases.map(|case| case["in"].as_str().unwrap().replace("/app", "/public")).collect();
    paths.sort();
    paths.dedup();
    assert!(paths.len() > 10);
    paths
}

#[test]
fn the_oracle_sees_through_every_trick() {
    for trick in TRICKS {
        let hides =
            trick.contains("%c0") || trick.contains("%e0") || trick.contains("%u") || trick.contains("%ef");
        let is_open = trick.ends_with("..%")
            || trick.contains("%09")
            || trick.contains("%0d")
            || trick.contains("%00/");
        if hides || is_open {
            continue; // Refused for other reasons; no server that we know of resolves these the same way.
        }
        assert!(leads_out(trick), "{trick}");
    }
    for (_, received) in HARMLESS {
        assert!(!leads_out(received), "{received}");
    }
}

#[test]
fn a_listener_may_pass_on_bytes_beyond_ascii_in_fields_and_check_says_so() {
    let (mesh, app, _orders, web) = shop::trading();
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let ask = || {
        let text = "GET /named?name=é HTTP/1.1\r\nhost: orders\r\nx-name: é\r\nconnection: close\r\n\r\n";
        let answer = request(web.outbound(), text).unwrap();
        (answer.status, answer.header("hauberk-error").map(ToOwned::to_owned))
    };
    let set = |word: &str| {
        let node = format!(
            "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - {{portMapping: {{port: 8080, protocol: http}}, \
             obsText: {word}}}\n  - {{portMapping: {{port: 9090, protocol: http2}}}}\n  \
             - {{portMapping: {{port: 50051, protocol: grpc}}}}\n"
        );
        mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &node)
    };
    let refused = (400, Some("obs_text".to_owned()));
    assert_eq!(ask(), refused);
    assert_eq!(app.heads().iter().filter(|head| head[0].contains("/named")).count(), 0);
    assert_eq!(set("ALLOW").code, 1);
    set("FORWARD").ok();
    assert_eq!(ask(), (200, None));
    let last = app.heads().pop().unwrap();
    assert!(last.iter().any(|line| line.eq_ignore_ascii_case("x-name: é")), "{last:?}");
    assert!(last[0].contains("/named?name=é "), "{last:?}");
    let told = mesh.hauberk(&["check"]);
    let told = format!("{}{}", told.stdout, told.stderr);
    assert!(
        told.contains("listener 8080/http of orders takes header fields with bytes beyond ASCII"),
        "{told}"
    );
    assert!(told.contains("remove `obsText: FORWARD`"), "{told}");
    // What a policy reads has one reading here too.
    let reads = "forbid(principal, action in Action::\"http\", resource in Service::\"orders\") when { context.headers.hasTag(\"x-name\") && \
                 context.headers.getTag(\"x-name\").contains(\"x\") };";
    shop::set_policy(&mesh, "named", reads);
    assert_eq!(ask().0, 403);
    shop::remove_policy(&mesh, "named");
    set("REJECT").ok();
    assert_eq!(ask(), refused);
}

#[test]
fn a_listener_may_let_escaped_slashes_stand_and_check_says_so() {
    let (mesh, app, _orders, web) = shop::trading();
    shop::set_policy(
        &mesh,
        "repos",
        "permit (principal == Node::\"web\", action in Action::\"http\", resource in Node::\"orders\")\nwhen { context.path like \"/repos/*\" };\n\
         forbid (principal, action in Action::\"http\", resource in Node::\"orders\") when { context.path like \"/repos/secret/*\" };",
    );
    get_until(&web, "orders", "/repos/a", 200);
    let ask = |path: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
        request(web.outbound(), &text).unwrap().status
    };
    assert_eq!(ask("/repos/group%2Fproject"), 400);
    let listener = |action: &str| {
        format!(
            "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - {{portMapping: {{port: 8080, protocol: http}}, \
             pathWithEscapedSlashesAction: {action}}}\n  - {{portMapping: {{port: 9090, protocol: http2}}}}\n  \
             - {{portMapping: {{port: 50051, protocol: grpc}}}}\n"
        )
    };
    let unescape = mesh.hauberk_with_input(&["apply", "-f", "-"], &listener("UNESCAPE_AND_FORWARD"));
    assert!(unescape.stderr.contains("another path than the one that was asked for"), "{unescape:?}");
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &listener("KEEP_UNCHANGED")).ok();
    for (path, status) in [
        ("/repos/group%2fproject", 200),
        ("/repos/secret%2Fkeys", 403),
        ("/repos%2Fgroup", 403),
        ("/repos/..%2Fadmin", 400),
        ("/repos/a%2F%2Fb", 400),
        ("/repos/a%5Cb", 400),
        ("/repos/a%252Fb", 400),
    ] {
        assert_eq!(ask(path), status, "{path}");
    }
    let last = app.heads().pop().unwrap();
    assert_eq!(last[0], "GET /repos/group%2Fproject HTTP/1.1");
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "GET", "/repos/group%2Fproject"]).code, 0);
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "GET", "/repos/secret%2Fkeys"]).code, 1);
    let told = mesh.hauberk(&["check"]);
    let told = format!("{}{}", told.stdout, told.stderr);
    assert!(told.contains("listener 8080/http of orders takes paths with escaped slashes"), "{told}");
    assert!(told.contains("remove `pathWithEscapedSlashesAction: KEEP_UNCHANGED`"), "{told}");
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &listener("REJECT_REQUEST")).ok();
    assert_eq!(ask("/repos/group%2Fproject"), 400);
}
