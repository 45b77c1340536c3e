//! Names that only agents may set, and framings that two servers could read differently: the app gets neither.

use hauberk_integration_tests::{App, request};

use crate::{
    peer::{Peer, converse},
    shop::{self, WEB_MAY_ALL, get_until},
    streaming_app::StreamingApp,
};

/// Forty ways to write names that are ours.
fn spellings() -> Vec<String> {
    let names =
        ["x-forwarded-client-cert", "x-spiffe-id", "hauberk-service", "hauberk-decision", "x-hauberk-user"];
    names
        .iter()
        .flat_map(|name| {
            [
                (*name).to_owned(),
                name.to_uppercase(),
                name.replace('-', "_"),
                name.replace('-', "."),
                name.replace('-', "_").to_uppercase(),
                name.replacen('-', "_", 1),
                name.replace('-', "~"),
                name.split('-')
                    .map(|word| word[..1].to_uppercase() + &word[1..])
                    .collect::<Vec<_>>()
                    .join("-"),
            ]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_names_never_reach_the_app() {
    let (mesh, app, orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let peer = Peer::join(&mesh, "web").await;
    let before = app.heads().len();
    let spellings = spellings();
    assert_eq!(spellings.len(), 40);
    for name in &spellings {
        let text = |value: &str| {
            format!(
                "GET / HTTP/1.1\r\nhost: orders\r\nx-kept: yes\r\n{name}: {value}\r\nconnection: close\r\n\r\n"
            )
        };
        // To one's own agent any value is a forgery; between agents the service may be named, if it is the right one.
        let response = request(web.outbound(), &text("forged")).unwrap();
        assert_eq!(response.status, 200, "{name}: {response:?}");
        let is_service = name.eq_ignore_ascii_case("hauberk-service");
        let value = if is_service { "orders" } else { "forged" };
        let answer = peer.exchange("orders", orders.inbound(8080), text(value).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
    }
    let heads = app.heads();
    assert_eq!(heads.len() - before, 2 * spellings.len());
    for head in &heads[before..] {
        assert!(!head.iter().any(|line| line.contains("forged")), "{head:?}");
        let lower: Vec<String> = head.iter().map(|line| line.to_ascii_lowercase()).collect();
        assert!(lower.contains(&"x-kept: yes".to_owned()), "{head:?}");
        assert!(!lower.iter().any(|line| line.contains("hauberk")), "{head:?}");
        let proofs: Vec<&String> =
            lower.iter().filter(|line| line.starts_with("x-forwarded-client-cert:")).collect();
        assert_eq!(proofs.len(), 1, "{head:?}");
        assert!(proofs[0].contains("uri=spiffe://box.test/mesh/shop/node/web"), "{head:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_trailers_never_reach_the_app() {
    let (mesh, app, orders, web) = shop::streaming_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let peer = Peer::join(&mesh, "web").await;
    let lines: String = spellings().iter().map(|name| format!("{name}: forged\r\n")).collect();
    let text = format!(
        "POST /sink HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\
         connection: close\r\n\r\n3\r\nabc\r\n0\r\n{lines}x-checksum: 1\r\n\r\n"
    )
    .replace("/sink", "/echo");
    let answer = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let response = request(web.outbound(), &text).unwrap();
    assert_eq!(response.status, 200);
    let trailers = app.trailers();
    assert_eq!(trailers.len(), 2, "{trailers:?}");
    for trailers in trailers {
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert_eq!(trailers["x-checksum"], "1");
    }
}

/// Some servers take a field from either place, and trailers come when the request has long been decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policies_read_among_headers_does_not_come_as_a_trailer() {
    let mesh = shop::open();
    shop::set_policy(
        &mesh,
        "tenants",
        "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { \
         context.path == \"/\" || context.headers.hasTag(\"x-tenant\") && \
         context.headers.getTag(\"x-tenant\") == [\"blue\"] };",
    );
    let app = StreamingApp::start();
    let orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/", 200);
    let peer = Peer::join(&mesh, "web").await;
    let names = "x-tenant, X_Tenant, x-checksum";
    let text = format!(
        "POST /echo HTTP/1.1\r\nhost: orders\r\nx-tenant: blue\r\ntransfer-encoding: chunked\r\ntrailer: {names}\r\n\
         connection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Tenant: red\r\nx_tenant: red\r\nx-checksum: 1\r\n\r\n"
    );
    let answer = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let trailers = app.trailers();
    let [trailers] = trailers.as_slice() else { panic!("{trailers:?}") };
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-checksum"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_the_port_is_not_is_answered_421() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let peer = Peer::join(&mesh, "web").await;
    let ask = async |service: &str| {
        let text =
            format!("GET / HTTP/1.1\r\nhost: any\r\nhauberk-service: {service}\r\nconnection: close\r\n\r\n");
        let answer = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(ask("orders").await, "200");
    for wrong in ["payments", "orders-rpc", "cache", "nonsense", "orders.", "*"] {
        assert_eq!(ask(wrong).await, "421", "{wrong}");
    }
    let twice = b"GET / HTTP/1.1\r\nhost: a\r\nhauberk-service: orders\r\nhauberk-service: payments\r\n\
                  connection: close\r\n\r\n";
    let answer = peer.exchange("orders", orders.inbound(8080), twice).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(app.requests(), 1);
}

/// Requests that must be refused before the app hears of them; each tries to bring `/smuggled` along.
const AMBIGUOUS: [&str; 16] = [
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\ncontent-length: 44\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0, 44\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: +0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length : 0\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nx-folded: a\r\n b\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nx-folded: a\r\n\tcontent-length: 44\r\n\r\n",
    "GET / HTTP/1.1\nhost: orders\n\n",
    "GET / HTTP/1.1\r\nhost: orders\nx: y\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nx: a\rcontent-length: 44\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer_encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nhost: payments\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: orders\r\nx\0y: z\r\n\r\n",
];

/// Requests whose body is what is ambiguous: the app may hear of the first, never of a second.
const AMBIGUOUS_BODIES: [&str; 5] = [
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\nabc\r\n0\r\n\r\n",
];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: orders\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled() {
    let (mesh, app, orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let peer = Peer::join(&mesh, "web").await;
    let send = async |text: &str| {
        let directly = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
        let mut stream = tokio::net::TcpStream::connect(web.outbound()).await.unwrap();
        [directly, converse(&mut stream, text.as_bytes()).await]
    };

    // The same way of asking, asked properly, does reach the app: twice each.
    let before = app.requests();
    for answer in send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 3\r\n\r\nabc").await {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(app.requests(), before + 2);

    let before = app.requests();
    for case in AMBIGUOUS {
        for answer in send(&format!("{case}{SMUGGLED}")).await {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{case:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case:?} was answered twice: {answer}");
        }
    }
    // Two hosts in one request are refused; where it ends is not in doubt, so that the next one counts.
    for answer in send("GET http://orders/ HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n").await {
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(app.requests(), before, "{:?}", app.heads().last());
    for case in AMBIGUOUS_BODIES {
        for answer in send(&format!("{case}{SMUGGLED}")).await {
            assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{case:?} was answered twice: {answer}");
            assert!(!answer.starts_with("HTTP/1.1 2"), "{case:?}: {answer}");
        }
    }
    assert!(!app.heads().iter().any(|head| head[0].contains("/smuggled")));
    get_until(&web, "orders", "/after", 200);
}
