//! What somebody with a service's key, agent and tokens says to ports, in the protocol of each: HTTP/1.1, HTTP/2, gRPC,
//! TCP and what is none of them.

use std::{net::SocketAddr, sync::Arc};

use hauberk_integration_tests::{Agent, App, MeshBox, dial, eventually, request};
use hauberk_proto::agent::v1::{MintTokenRequest, svid_tokens_client::SvidTokensClient};
use hauberk_tls::{KeyPair, LiveIdentity, LiveState, Svid};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    compromised::{Attacker, CLAIMS, METHODS, PLAIN, SILENCE, USER},
    identity_tokens::{chain, stolen},
    login::Login,
    partner::Partner,
    paths::TRICKS,
    peer::{Peer, converse},
    shop,
    streaming_app::{AnyBody, empty},
};

/// A connection that speaks HTTP/2, past web's agent.
struct Http2 {
    sender: http2::SendRequest<AnyBody>,
    is_grpc: bool,
}

impl Http2 {
    async fn open(peer: &Peer, node: &str, address: SocketAddr, is_grpc: bool) -> Self {
        let stream = peer.connect(node, address, &[b"h2"]).await.unwrap();
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, is_grpc }
    }

    /// A request as this port takes them; none where the library would not send it.
    fn request(&self, method: &str, uri: &str, lines: &str) -> Option<Request<AnyBody>> {
        let mut builder = Request::builder().method(method).uri(uri);
        if self.is_grpc {
            builder = builder.header("content-type", "application/grpc").header("te", "trailers");
        }
        for (name, value) in lines.lines().filter_map(|line| line.split_once(": ")) {
            builder = builder.header(name, value);
        }
        builder.body(empty()).ok()
    }

    /// Whether a request is answered as a good one. gRPC says so at the end.
    async fn is_open(&self, request: Request<AnyBody>) -> bool {
        let mut sender = self.sender.clone();
        let asking = async move {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
            let is_good = status.is_none_or(|status| status == "0");
            Some(head.status.is_success() && is_good && (status.is_some() || !self.is_grpc))
        };
        timeout(SILENCE * 5, asking).await.expect("it is answered").unwrap_or(false)
    }
}

/// Every method, path and service, over HTTP/2 and as gRPC: on each port the one that is granted, and no other.
pub(crate) async fn speaks_http2_and_grpc(peer: &Peer, orders: &Agent) {
    let grpc_paths =
        ["/shop.Orders/Get", "/shop.Orders/Delete", "/shop.orders/Get", "/shop.Orders/Get/x", "/Get"];
    for (port, own, is_grpc, granted) in [
        (9090, "orders-h2", false, ("GET", "/orders/1")),
        (50051, "orders-rpc", true, ("POST", "/shop.Orders/Get")),
    ] {
        let address = orders.inbound(port);
        let opened = Arc::new(Http2::open(peer, "orders", address, is_grpc).await);
        // So many at a time: each has to be answered in time from when it is sent.
        let places = Arc::new(Semaphore::new(32));
        let mut asking = JoinSet::new();
        let methods = METHODS.into_iter().chain(["CONNECT"]);
        for (method, service) in methods.flat_map(|method| {
            [own, "orders", "payments", "cache", "127.0.0.1"].map(|service| (method, service))
        }) {
            // Tricks of paths by one method that reads and one that writes; what is allowed of a path, all methods try.
            let tricks = if matches!(method, "GET" | "POST") { &TRICKS[..] } else { &[] };
            for path in PLAIN.into_iter().chain(grpc_paths).chain(tricks.iter().copied()) {
                let is_granted = (method, path) == granted && service == own;
                let lines = CLAIMS.replace("hauberk-service: orders", &format!("hauberk-service: {service}"));
                let Some(request) = opened.request(method, &format!("http://{service}{path}"), &lines) else {
                    continue;
                };
                let (opened, places) = (Arc::clone(&opened), Arc::clone(&places));
                asking.spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    let is_open = opened.is_open(request).await;
                    (is_open, is_granted, format!("{port}: {method} {service} {path}"))
                });
            }
        }
        assert!(asking.len() > 500, "{}", asking.len());
        let mut open = Vec::new();
        while let Some(asked) = asking.join_next().await {
            let (is_open, is_granted, what) = asked.unwrap();
            assert!(is_open || !is_granted, "{what} is granted");
            if is_open && !is_granted {
                open.push(what);
            }
        }
        assert_eq!(open, Vec::<String>::new());
    }
}

/// TCP, tunnels, other protocols and services that a port is not.
pub(crate) async fn speaks_what_ports_do_not(peer: &Peer, web: &Agent, orders: &Agent, redis: &Agent) {
    let mut stream = tokio::net::TcpStream::connect(web.tcp("cache:6379")).await.unwrap();
    assert_eq!(converse(&mut stream, b"PING\r\n").await, "");
    for alpn in [&[][..], &[&b"hauberk-tcp/1"[..]], &[b"h2"], &[b"http/1.1"]] {
        for (node, address) in [
            ("redis", redis.inbound(6379)),
            ("orders", orders.inbound(9090)),
            ("orders", orders.inbound(50051)),
            ("orders", orders.inbound(8080)),
        ] {
            let Ok(mut stream) = peer.connect(node, address, alpn).await else { continue };
            let text = b"GET /admin HTTP/1.1\r\nhost: orders\r\n\r\n";
            let answer = timeout(SILENCE * 10, converse(&mut stream, text)).await;
            let answer = answer.unwrap_or_default();
            assert!(!answer.contains("HTTP/1.1 2"), "{node} {alpn:?}: {answer}");
        }
    }
    // A tunnel for TCP, spoken as agents do.
    if let Ok(stream) = peer.connect("redis", redis.inbound(6379), &[b"hauberk-tcp/1"]).await {
        let (mut tunnel, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        for target in ["cache:6379", "orders:8080", "127.0.0.1:22"] {
            let connect = Request::builder().method(Method::CONNECT).uri(target);
            let (answer, _) = tunnel.send_request(connect.body(()).unwrap(), false).unwrap();
            let status = answer.await.map(|answer| answer.status().as_u16()).unwrap_or_default();
            assert!(!(200..300).contains(&status), "{target}: {status}");
        }
        connection.abort();
    }
    for (lines, target) in [
        ("upgrade: websocket\r\nconnection: upgrade\r\n", "GET /orders/1"),
        ("", "CONNECT payments:8080"),
        ("", "CONNECT 127.0.0.1:22"),
        ("", "GET http://payments/"),
    ] {
        let text = format!("{target} HTTP/1.1\r\nhost: orders\r\n{lines}\r\n");
        let answer = peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
        let is_refused = ["HTTP/1.1 4", "HTTP/1.1 5"].iter().any(|begin| answer.starts_with(begin));
        assert!(is_refused, "{target}: {answer}");
    }
}

/// Who came to web, and whom web's attacker would rather have.
pub(crate) struct Users {
    pub(crate) login: Login,
    pub(crate) partner: Partner,
    pub(crate) edge: Agent,
    pub(crate) web_app: App,
}

impl Users {
    /// What web's app is given of a user who comes.
    fn handle(&self, token: &str) -> String {
        let head = format!(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        eventually("web is reached", shop::PATIENCE, || {
            (request(self.edge.outbound(), &head).ok()?.status == 200).then_some(())
        });
        let last = self.web_app.heads().pop().unwrap();
        let found = last.iter().find_map(|line| line.strip_prefix("hauberk-identity: "));
        found.unwrap_or_else(|| panic!("{last:?}")).to_owned()
    }
}

/// A token, and what it is.
type Token = (&'static str, String);

/// What the attacker has and can make, by the key of web and all that came to it. None of it is of a user in support.
async fn tokens(
    attacker: &Attacker,
    users: &Users,
    (svid, live): (&Svid, &LiveState),
    mesh: &MeshBox,
) -> Vec<Token> {
    let mut minting = SvidTokensClient::new(attacker.agent_api.clone());
    let mut mint = async |audience: &[&str]| {
        let audience = audience.iter().map(|&audience| audience.to_owned()).collect();
        minting.mint_token(MintTokenRequest { audience }).await.unwrap().into_inner().token
    };
    let everywhere = ["orders", "payments", "shop", "spiffe://box.test/mesh/shop/node/orders"];
    let minted = mint(&everywhere).await;
    let bob = users.login.token("bob", &["staff"]);
    let handle = users.handle(&bob);
    let alice = |login: &Login| login.token("alice", &["support"]);
    let mallory = alice(&Login::new("login"));
    let stranger = alice(&Login::new("mallory"));
    let own = |user: &str, audience: &str| chain(user, &[(svid, live, audience)]);
    let edge = stolen(&users.edge).0;
    let (foreign, foreign_key) = users.partner.identity("billing");
    let foreign_live = LiveIdentity::new(users.partner.bundle());
    foreign_live.publish(foreign.clone(), &foreign_key).unwrap();
    let foreign_live = foreign_live.current();
    // A node of the mesh's own, joined by the same attacker's token: another instance of web, and so another
    // certificate.
    let (twin, twin_key) = dial::join(mesh, "web").await;
    let twin_live = live_of(mesh, &twin, &twin_key);
    let (_, hops) = {
        let whole = own(&bob, "orders");
        let (user, hops) = whole.split_once('~').unwrap();
        (user.to_owned(), hops.to_owned())
    };
    vec![
        ("a minted JWT-SVID", minted.clone()),
        ("a minted JWT-SVID, passed on", own(&minted, "orders")),
        ("bob's token", bob.clone()),
        ("bob's handle", handle.clone()),
        ("bob's handle, passed on", own(&handle, "orders")),
        ("bob, passed on", own(&bob, "orders")),
        ("bob, passed on to payments", own(&bob, "payments")),
        (
            "bob, through edge that has not signed",
            chain(&bob, &[(&edge, live, "web"), (svid, live, "orders")]),
        ),
        ("bob, through another instance", chain(&bob, &[(&twin, &twin_live, "web"), (svid, live, "orders")])),
        (
            "bob, through another domain",
            chain(&bob, &[(&foreign, &foreign_live, "web"), (svid, live, "orders")]),
        ),
        ("bob, by another domain", chain(&bob, &[(&foreign, &foreign_live, "orders")])),
        ("alice of a key of his own", own(&mallory, "orders")),
        ("alice of an issuer of his own", own(&stranger, "orders")),
        ("alice of a key of his own, past all", mallory.clone()),
        ("alice with bob's hops", format!("{mallory}~{hops}")),
        ("hops without a user", format!("~{hops}")),
        ("nothing", String::new()),
    ]
}

pub(crate) fn live_of(mesh: &MeshBox, svid: &Svid, key: &KeyPair) -> LiveState {
    let live = LiveIdentity::new(dial::bundle(mesh));
    live.publish(svid.clone(), key).unwrap();
    live.current()
}

/// Web may write refunds for users in support. None came, and none of what he shows makes one, on no port.
pub(crate) async fn shows_every_token(
    (mesh, attacker): (&MeshBox, &Attacker),
    users: &Users,
    (web, orders, payments): (&Agent, &Agent, &Agent),
) {
    let live = live_of(mesh, &attacker.svid, &attacker.key);
    let own = (&attacker.svid, &live);
    let peer = &attacker.peer;
    let (of_h2, of_grpc) = (
        Http2::open(peer, "orders", orders.inbound(9090), false).await,
        Http2::open(peer, "orders", orders.inbound(50051), true).await,
    );
    let post = |service: &str, path: &str, line: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {service}\r\n{line}content-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let shown = tokens(attacker, users, own, mesh).await;
    for (what, token) in &shown {
        for line in [format!("authorization: Bearer {token}\r\n"), format!("hauberk-identity: {token}\r\n")] {
            for (service, node, address) in
                [("orders", "orders", orders.inbound(8080)), ("payments", "payments", payments.inbound(8080))]
            {
                let text = post(service, "/refunds/1", &line);
                let past = peer.exchange(node, address, text.as_bytes()).await;
                assert!(!past.starts_with("HTTP/1.1 2"), "{what} at {service}: {past}");
                let by_agent = request(web.outbound(), &text).unwrap();
                assert!(by_agent.status >= 400, "{what} at {service}: {by_agent:?}");
            }
            for (opened, uri) in
                [(&of_h2, "http://orders-h2/refunds/1"), (&of_grpc, "http://orders-rpc/shop.Orders/Refund")]
            {
                let Some(request) = opened.request("POST", uri, &line) else { continue };
                assert!(!opened.is_open(request).await, "{what} at {uri}");
            }
        }
    }
    // It is for want of a user alone: with one in support who did come to web, each of these is open.
    let alice = users.login.token("alice", &["support"]);
    let handle = format!("hauberk-identity: {}\r\n", users.handle(&alice));
    let by_agent = request(web.outbound(), &post("orders", "/refunds/alice", &handle)).unwrap();
    assert_eq!(by_agent.status, 200, "{by_agent:?}");
    let line = format!("hauberk-identity: {}\r\n", chain(&alice, &[(own.0, own.1, "orders")]));
    let past = post("orders", "/refunds/alice", &line);
    let past = peer.exchange("orders", orders.inbound(8080), past.as_bytes()).await;
    assert!(past.starts_with("HTTP/1.1 200 "), "{past}");
    for (opened, uri) in
        [(&of_h2, "http://orders-h2/refunds/alice"), (&of_grpc, "http://orders-rpc/shop.Orders/Refund")]
    {
        let request = opened.request("POST", uri, &line).unwrap();
        assert!(opened.is_open(request).await, "{uri}");
    }
    assert!(USER.starts_with("hauberk-identity: "), "the made-up handle is tried with every path");
}
