//! What is counted and logged of what passes.

use std::net::SocketAddr;

use hauberk_policy::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::apps::{http1_app, http2_app, tcp_app};
use crate::clients::{ask, call, http1, http2, raw, tls};
use crate::world::{Agent, Lines, World, until};

const READ: &str = r#"permit(principal == Node::"web", action in Action::"read", resource in Service::"orders");
permit(principal == Node::"web", action in Action::"http", resource in Service::"orders")
when { context.path == "/echo" };"#;
const CALL: &str = r#"permit(principal == Node::"web", action == Action::"call", resource in Service::"orders")
when { context.rpc == "Get" };"#;
const CONNECT: &str =
    r#"permit(principal == Node::"web", action == Action::"connect", resource in Service::"orders");"#;

struct Pair {
    world: World,
    web: Agent,
    web_lines: Lines,
    orders: Agent,
    orders_lines: Lines,
    inbound: SocketAddr,
    clients: JoinSet<()>,
}

impl Pair {
    async fn new(protocol: Protocol) -> Self {
        let world = World::new();
        let ((web, web_lines), (mut orders, orders_lines)) =
            (world.logging_agent("web"), world.logging_agent("orders"));
        let (app, policy) = match protocol {
            Protocol::Http => (http1_app(&mut orders.tasks).await, READ),
            Protocol::Http2 | Protocol::Grpc => (http2_app(&mut orders.tasks).await, CALL),
            Protocol::Tcp => (tcp_app(&mut orders.tasks).await, CONNECT),
        };
        orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[policy])).await;
        let inbound = orders.listen(8080, app).await;
        web.knows("orders", &orders.id, 8080, protocol, &[inbound]);
        Self { world, web, web_lines, orders, orders_lines, inbound, clients: JoinSet::new() }
    }

    /// Waits until the receiving agent shows so much.
    async fn orders_show(&self, sample: &str, value: f64) {
        until(&format!("{sample} is {value}"), || self.orders.figure(sample) == value).await;
    }

    async fn web_shows(&self, sample: &str, value: f64) {
        until(&format!("{sample} is {value}"), || self.web.figure(sample) == value).await;
    }
}

#[tokio::test]
async fn requests_are_counted_and_logged_on_both_sides() {
    let mut pair = Pair::new(Protocol::Http).await;
    let local = pair.web.open_http().await;
    let mut client = http1(local, &mut pair.clients).await;
    assert_eq!(ask(&mut client, "POST", "orders", "/echo?secret=1", b"hello").await.status, 200);

    let line = pair.orders_lines.next().await;
    assert_eq!(line["direction"], "inbound");
    assert_eq!(
        (&line["decision"], &line["status"], &line["path"]),
        (&"allow".into(), &200.into(), &"/echo".into())
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()));
    assert!(line["duration_us"].as_u64() > Some(0), "{line}");
    let line = pair.web_lines.next().await;
    assert_eq!(line["direction"], "outbound");
    assert_eq!(
        (&line["service"], &line["port"], &line["status"]),
        (&"orders".into(), &8080.into(), &200.into())
    );
    assert_eq!((&line["method"], &line["path"]), (&"POST".into(), &"/echo".into()));
    assert_eq!(line["endpoint"], pair.inbound.to_string());
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()));
    assert!(line["duration_us"].as_u64() > Some(0), "{line}");
    assert!(line.get("attempts").is_none() && line.get("error").is_none(), "{line}");

    let denied = ask(&mut client, "POST", "orders", "/x", b"").await;
    let line = pair.orders_lines.next().await;
    assert_eq!((&line["decision"], &line["status"]), (&"deny".into(), &403.into()));
    assert_eq!(line["id"], denied.header("hauberk-decision"));
    assert!(line["duration_us"].as_u64() > Some(0), "{line}");
    let kept = pair.orders.context.decisions.explain(denied.header("hauberk-decision")).unwrap();
    assert_eq!(kept.decision.as_ref().unwrap().status, 403);
    assert!(kept.decision.unwrap().duration_us > 0);
    let line = pair.web_lines.next().await;
    assert_eq!((&line["error"], &line["status"]), (&"denied".into(), &403.into()));
    assert_eq!(line["id"], denied.header("hauberk-decision"));

    assert_eq!(ask(&mut client, "GET", "orders", "/a%2fb", b"").await.status, 400);
    let line = pair.orders_lines.next().await;
    assert_eq!((&line["reason"], &line["status"]), (&"ambiguous_path".into(), &400.into()));
    assert!(line["duration_us"].as_u64() > Some(0), "{line}");

    for (sample, value) in [
        ("hauberk_inbound_connections_total{listener=\"8080\",protocol=\"http1\"}", 1.0),
        ("hauberk_inbound_connections{listener=\"8080\"}", 1.0),
        ("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}", 1.0),
        ("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"deny\"}", 2.0),
        ("hauberk_inbound_denials_total{listener=\"8080\",reason=\"no_policy_matched\"}", 1.0),
        ("hauberk_inbound_denials_total{listener=\"8080\",reason=\"ambiguous_path\"}", 1.0),
        ("hauberk_inbound_responses_total{listener=\"8080\",class=\"2xx\"}", 1.0),
        ("hauberk_inbound_responses_total{listener=\"8080\",class=\"4xx\"}", 2.0),
        ("hauberk_inbound_bytes_total{listener=\"8080\",direction=\"in\"}", 5.0),
        ("hauberk_inbound_request_seconds_count{listener=\"8080\"}", 1.0),
        ("hauberk_decision_seconds_count", 2.0),
    ] {
        pair.orders_show(sample, value).await;
    }
    for (sample, value) in [
        ("hauberk_outbound_requests_total{service=\"orders\",result=\"2xx\"}", 1.0),
        ("hauberk_outbound_requests_total{service=\"orders\",result=\"denied\"}", 1.0),
        ("hauberk_outbound_requests_total{service=\"orders\",result=\"4xx\"}", 1.0),
        ("hauberk_outbound_bytes_total{service=\"orders\",direction=\"in\"}", 5.0),
        ("hauberk_outbound_connections", 1.0),
    ] {
        pair.web_shows(sample, value).await;
    }
}

#[tokio::test]
async fn what_has_no_answer_is_logged_with_its_reason_and_unknown_names_share_a_counter() {
    let mut pair = Pair::new(Protocol::Http).await;
    let local = pair.web.open_http().await;
    let mut client = http1(local, &mut pair.clients).await;
    for unknown in ["a", "b"] {
        let unknown = crate::world::name(unknown);
        pair.web.context.mesh.services.set_backends([unknown.clone()]);
        pair.web.context.mesh.services.remove(std::slice::from_ref(&unknown));
        assert_eq!(ask(&mut client, "GET", unknown.as_str(), "/", b"").await.status, 502);
        let line = pair.web_lines.next().await;
        assert_eq!((&line["error"], &line["status"]), (&"unknown_service".into(), &502.into()));
        assert_eq!(line["service"], unknown.as_str());
        assert!(line.get("endpoint").is_none(), "{line}");
    }
    let shared = "hauberk_outbound_requests_total{service=\"(unknown)\",result=\"unknown_service\"}";
    pair.web_shows(shared, 2.0).await;

    // One endpoint is gone: which of the two is asked first is chance.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    pair.web.knows("orders", &pair.orders.id, 8080, Protocol::Http, &[gone]);
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 503);
    let line = pair.web_lines.next().await;
    assert_eq!((&line["error"], &line["status"]), (&"endpoint_unreachable".into(), &503.into()));
    assert_eq!(line["endpoint"], gone.to_string());
    let sample = "hauberk_outbound_requests_total{service=\"orders\",result=\"endpoint_unreachable\"}";
    pair.web_shows(sample, 1.0).await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    pair.web.knows("orders", &pair.orders.id, 8080, Protocol::Http, &[gone, other]);
    assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 503);
    assert_eq!(pair.web_lines.next().await["attempts"], 2);
    pair.web_shows("hauberk_outbound_retries_total{service=\"orders\"}", 1.0).await;

    // An app that does not wait is told of, too.
    pair.web.knows("orders", &pair.orders.id, 8080, Protocol::Http, &[pair.inbound]);
    let mut impatient = http2(local, &mut pair.clients).await;
    let request = http::Request::get("http://orders/hang").body(http_body_util::Full::default()).unwrap();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { drop(impatient.send_request(request).await) });
    pair.orders_show("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}", 1.0).await;
    waiting.shutdown().await;
    assert_eq!(pair.web_lines.next().await["error"], "abandoned");
}

#[tokio::test]
async fn what_is_no_request_is_told_with_the_name_of_its_fault() {
    let mut pair = Pair::new(Protocol::Http).await;
    let local = pair.web.open_http().await;
    let two_hosts = b"GET / HTTP/1.1\r\nHost: orders\r\nHost: b\r\n\r\n";
    let answer = raw(TcpStream::connect(local).await.unwrap(), two_hosts).await;
    assert!(answer.contains("\r\nhauberk-error: ambiguous_host\r\n"), "{answer}");
    let line = pair.web_lines.next().await;
    assert_eq!((&line["direction"], &line["error"]), (&"outbound".into(), &"ambiguous_host".into()));
    assert_eq!(line["status"], 400);
    assert!(line.get("method").is_none() && line.get("path").is_none(), "{line}");
    pair.web_shows("hauberk_outbound_requests_total{service=\"(unknown)\",result=\"ambiguous_host\"}", 1.0)
        .await;

    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(3600));
    let connect = || tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]);
    let answer = raw(connect().await.unwrap(), two_hosts).await;
    assert!(answer.contains("\r\nhauberk-error: ambiguous_host\r\n"), "{answer}");
    let line = pair.orders_lines.next().await;
    assert_eq!((&line["decision"], &line["reason"]), (&"deny".into(), &"ambiguous_host".into()));
    assert_eq!((&line["caller"], &line["status"]), (&pair.web.id.to_string().into(), &400.into()));
    assert!(line.get("method").is_none() && line.get("path").is_none(), "{line}");

    // In a body: the request that it is of has been let in, and has a line of its own.
    let bad_chunk = b"POST /echo HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n";
    drop(raw(connect().await.unwrap(), bad_chunk).await);
    let lines = [pair.orders_lines.next().await, pair.orders_lines.next().await];
    let reasons = lines.each_ref().map(|line| line["reason"].as_str().unwrap());
    assert!(reasons.contains(&"malformed_chunk"), "{lines:?}");
    assert!(lines.iter().any(|line| line["path"] == "/echo"), "{lines:?}");
    for (sample, value) in [
        ("hauberk_inbound_denials_total{listener=\"8080\",reason=\"ambiguous_host\"}", 1.0),
        ("hauberk_inbound_denials_total{listener=\"8080\",reason=\"malformed_chunk\"}", 1.0),
        ("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"deny\"}", 1.0),
        ("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}", 1.0),
    ] {
        pair.orders_show(sample, value).await;
    }
}

#[tokio::test]
async fn grpc_calls_are_logged_with_their_own_status() {
    let mut pair = Pair::new(Protocol::Grpc).await;
    let local = pair.web.open_http().await;
    let mut client = http2(local, &mut pair.clients).await;
    let answer = call(&mut client, "http://orders/shop.Orders/Get", b"").await;
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let denied = call(&mut client, "http://orders/shop.Orders/Delete", b"").await;
    assert_eq!(denied.header("grpc-status"), "7");
    for lines in [&pair.orders_lines, &pair.web_lines] {
        let line = lines.next().await;
        assert_eq!((&line["status"], &line["grpc_status"]), (&200.into(), &0.into()), "{line}");
        assert_eq!((&line["action"], &line["path"]), (&"call".into(), &"shop.Orders/Get".into()));
        let line = lines.next().await;
        assert_eq!((&line["status"], &line["grpc_status"]), (&200.into(), &7.into()), "{line}");
        assert_eq!(line["id"], denied.header("hauberk-decision"));
        assert!(line["duration_us"].as_u64() > Some(0), "{line}");
    }
    let kept = pair.orders.context.decisions.explain(denied.header("hauberk-decision")).unwrap();
    assert_eq!(kept.decision.unwrap().grpc_status, Some(7));
    let sample = "hauberk_inbound_denials_total{listener=\"8080\",reason=\"no_policy_matched\"}";
    pair.orders_show(sample, 1.0).await;
}

#[tokio::test]
async fn tcp_streams_are_counted_while_they_last_and_logged_at_their_end() {
    let mut pair = Pair::new(Protocol::Tcp).await;
    let local = pair.web.open_tcp("orders").await;
    let mut stream = TcpStream::connect(local).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    for direction in ["in", "out"] {
        let labels = format!("direction=\"{direction}\"}}");
        pair.orders_show(&format!("hauberk_inbound_bytes_total{{listener=\"8080\",{labels}"), 5.0).await;
        pair.web_shows(&format!("hauberk_outbound_bytes_total{{service=\"orders\",{labels}"), 5.0).await;
    }
    pair.orders_show("hauberk_inbound_connections_total{listener=\"8080\",protocol=\"tunnel\"}", 1.0).await;
    pair.orders_show("hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}", 1.0).await;
    stream.shutdown().await.unwrap();
    assert_eq!(raw(stream, b"").await, "bye");
    let line = pair.web_lines.next().await;
    assert_eq!(
        (&line["service"], &line["action"], &line["status"]),
        (&"orders".into(), &"connect".into(), &200.into())
    );
    assert_eq!((&line["bytes_in"], &line["endpoint"]), (&5.into(), &pair.inbound.to_string().into()));
    let line = pair.orders_lines.next().await;
    assert_eq!(
        (&line["decision"], &line["status"], &line["bytes_in"]),
        (&"allow".into(), &200.into(), &5.into())
    );

    let (mut intruder, lines) = pair.world.logging_agent("intruder");
    intruder.knows("orders", &pair.orders.id, 8080, Protocol::Tcp, &[pair.inbound]);
    let local = intruder.open_tcp("orders").await;
    assert_eq!(raw(TcpStream::connect(local).await.unwrap(), b"").await, "");
    let line = lines.next().await;
    assert_eq!((&line["error"], &line["status"]), (&"denied".into(), &403.into()));
    let denied = pair.orders_lines.next().await;
    assert_eq!((&denied["id"], &denied["status"]), (&line["id"], &403.into()));
    assert!(denied["duration_us"].as_u64() > Some(0), "{denied}");
    pair.orders_show("hauberk_inbound_connections{listener=\"8080\"}", 2.0).await;
    drop(intruder);
    pair.orders_show("hauberk_inbound_connections{listener=\"8080\"}", 1.0).await;
}

#[tokio::test]
async fn connections_without_a_peer_are_counted() {
    let pair = Pair::new(Protocol::Http).await;
    let web = pair.world.identity(&pair.web.id, std::time::Duration::from_secs(60));
    let other = World::new();
    let stranger = other.identity(&other.node("web"), std::time::Duration::from_secs(60));
    drop(tls(&stranger, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await);
    raw(TcpStream::connect(pair.inbound).await.unwrap(), b"GET / HTTP/1.1\r\n\r\n").await;
    let sample = |reason| {
        format!("hauberk_inbound_connections_refused_total{{listener=\"8080\",reason=\"{reason}\"}}")
    };
    pair.orders_show(&sample("refused_by_peer"), 1.0).await;
    pair.orders_show(&sample("not_tls"), 1.0).await;
    // Those whom the port refuses are told apart.
    let at_orders = async |identity| {
        if let Ok(stream) = tls(&identity, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await {
            assert_eq!(raw(stream, b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await, "");
        }
    };
    at_orders(pair.world.expired(&pair.web.id)).await;
    pair.orders_show(&sample("expired"), 1.0).await;
    // Nobody may come in as an administrator, whom the same root vouches for.
    let admin = hauberk_identity::SpiffeId::parse("spiffe://shop.local/admin/root").unwrap();
    let admin = pair.world.identity(&admin, std::time::Duration::from_secs(60));
    let stream = tls(&admin, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    raw(stream, b"").await;
    let line = pair.orders_lines.next().await;
    assert_eq!((&line["decision"], &line["reason"]), (&"deny".into(), &"not_a_principal".into()));
    pair.orders_show("hauberk_inbound_denials_total{listener=\"8080\",reason=\"not_a_principal\"}", 1.0)
        .await;
    // ALPN that a port does not speak fails in the handshake.
    assert!(tls(&web, &pair.orders.id, pair.inbound, &[b"hauberk-tcp/1"]).await.is_err());
    pair.orders_show(&sample("wrong_alpn"), 1.0).await;
}
