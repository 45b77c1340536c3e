//! Changes reach what is under way.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hauberk_policy::Protocol;
use hauberk_tls::TrustBundle;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::apps::{http1_app, http2_app, tcp_app};
use crate::clients::{ask, http1, http2, over, tls};
use crate::world::{self, Agent, PATIENCE, World, until};

const EVERYTHING: &str = r#"permit(principal == Node::"web", action, resource in Service::"orders");"#;
const NOTHING: &str = r#"forbid(principal, action, resource in Service::"orders");"#;

/// web, which calls, and orders, which is called, with an app that sends back what it gets.
pub struct Pair {
    pub world: World,
    pub web: Agent,
    pub orders: Agent,
    pub inbound: SocketAddr,
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    protocol: Protocol,
}

impl Pair {
    pub async fn new(protocol: Protocol, life: Duration) -> Self {
        Self::with_lives(protocol, life, LONG).await
    }

    /// With certificates of these lives, web's first.
    pub async fn with_lives(protocol: Protocol, webs: Duration, orders: Duration) -> Self {
        let world = World::new();
        let (mut web, mut orders) =
            (world.agent_with_life("web", webs), world.agent_with_life("orders", orders));
        let app = match protocol {
            Protocol::Http => http1_app(&mut orders.tasks).await,
            Protocol::Http2 | Protocol::Grpc => http2_app(&mut orders.tasks).await,
            Protocol::Tcp => tcp_app(&mut orders.tasks).await,
        };
        orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[EVERYTHING])).await;
        let inbound = orders.listen(8080, app).await;
        web.knows("orders", &orders.id, 8080, protocol, &[inbound]);
        let (http, tcp) = (web.open_http().await, web.open_tcp("orders").await);
        Self { world, web, orders, inbound, http, tcp, protocol }
    }

    async fn apply(&self, policy: &str) {
        let view = self.world.view(&self.orders.id, "orders", &[(8080, self.protocol)], &[policy]);
        self.orders.apply(view).await;
    }

    /// A TCP stream that has already carried something both ways.
    pub async fn stream(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        assert!(is_alive(&mut stream).await);
        stream
    }

    /// A WebSocket, or whatever a 101 makes of a connection.
    pub async fn upgraded(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request =
            b"GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-App: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let head = head_of(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: echo"), "{head}");
        assert!(is_alive(&mut stream).await);
        stream
    }
}

pub async fn is_alive(stream: &mut TcpStream) -> bool {
    // Not HTTP, and bytes that the framing guard would refuse.
    let mut echo = [0; 6];
    let both =
        async { stream.write_all(b"a\n\n\0b\n").await.is_ok() && stream.read_exact(&mut echo).await.is_ok() };
    tokio::time::timeout(PATIENCE, both).await.unwrap() && &echo == b"a\n\n\0b\n"
}

async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

/// Lives of certificates.
pub const LONG: Duration = Duration::from_secs(3_600);
pub const SHORT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_rule_that_reads_a_field_leaves_open_websockets_without_it_alone() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let mut stream = pair.upgraded().await;
    let forbid = |field: &str| {
        let condition = format!("context.headers.hasTag(\"{field}\")");
        format!(
            "{EVERYTHING}\nforbid(principal, action in Action::\"http\", resource) when {{ {condition} }};"
        )
    };
    pair.apply(&forbid("x-canary")).await;
    assert!(is_alive(&mut stream).await);
    pair.apply(&forbid("x-app")).await;
    ends(&mut stream).await;
}

#[tokio::test]
async fn a_new_view_cuts_tcp_streams_and_only_what_it_denies() {
    let pair = Pair::new(Protocol::Tcp, LONG).await;
    let mut stream = pair.stream().await;
    pair.apply(EVERYTHING).await;
    assert!(is_alive(&mut stream).await);
    pair.apply(NOTHING).await;
    ends(&mut stream).await;
    pair.apply(EVERYTHING).await;
    assert!(is_alive(&mut pair.stream().await).await);
}

/// Between two views that both forbid something no request of it passes, however the exchange falls (as
/// CVE-2024-28248).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_views_forbid_passes_at_no_moment_between_them() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let views = [
        r#"permit(principal == Node::"web", action == Action::"GET", resource) when { context.path == "/open" };"#,
        "permit(principal is Node, action == Action::\"GET\", resource) when { principal == Node::\"web\" };\n\
         forbid(principal, action in Action::\"http\", resource) unless { context.path == \"/open\" };",
    ];
    pair.apply(views[0]).await;
    let mut tasks = JoinSet::new();
    let done = tokio_util::sync::CancellationToken::new();
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let (mut client, done) = (http1(pair.http, &mut tasks).await, done.clone());
        asking.spawn(async move {
            let mut asked = 0;
            while !done.is_cancelled() {
                assert_eq!(ask(&mut client, "GET", "orders", "/closed", b"").await.status, 403);
                assert_eq!(ask(&mut client, "GET", "orders", "/open", b"").await.status, 200);
                asked += 1;
            }
            asked
        });
    }
    for number in 0..200 {
        pair.apply(views[number % 2]).await;
    }
    done.cancel();
    let asked: Vec<u32> = asking.join_all().await;
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
}

#[tokio::test]
async fn a_new_view_cuts_upgraded_connections() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let mut stream = pair.upgraded().await;
    pair.apply(EVERYTHING).await;
    assert!(is_alive(&mut stream).await);
    pair.apply(NOTHING).await;
    let end = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "it does not look complete: {end}");
}

#[tokio::test]
async fn an_app_sees_that_an_upgraded_connection_was_cut() {
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head_of(&mut stream).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        tell.send(stream.read_u8().await.unwrap_err().kind()).unwrap();
    });
    let pair = Pair::new(Protocol::Http, LONG).await;
    let mut orders = pair.world.agent("orders");
    orders.apply(pair.world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[EVERYTHING])).await;
    let inbound = orders.listen(8080, address).await;
    let web = pair.world.identity(&pair.web.id, LONG);
    let mut stream = tls(&web, &orders.id, inbound, &[b"http/1.1"]).await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 101"));
    orders.apply(pair.world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[NOTHING])).await;
    let end = tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
    assert_eq!(end, std::io::ErrorKind::ConnectionReset);
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "its client sees it too");
}

#[tokio::test]
async fn a_new_view_cuts_requests_under_way() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let pair = Pair::new(protocol, LONG).await;
        let mut tasks = JoinSet::new();
        let mut clients = JoinSet::new();
        if protocol == Protocol::Http {
            let mut client = http1(pair.http, &mut clients).await;
            tasks.spawn(async move { ask(&mut client, "GET", "orders", "/hang", b"").await.status });
        } else {
            let mut client = http2(pair.http, &mut clients).await;
            let request =
                http::Request::get("http://orders/hang").body(http_body_util::Full::default()).unwrap();
            tasks.spawn(async move {
                client.send_request(request).await.map_or(0, |answer| answer.status().as_u16())
            });
        }
        until("the request is under way", || pair.orders.connections.len() == 1).await;
        tokio::time::timeout(Duration::from_millis(300), tasks.join_next()).await.unwrap_err();
        pair.apply(NOTHING).await;
        let status = tokio::time::timeout(PATIENCE, tasks.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status, 403, "{protocol:?}");
    }
}

/// The head of an answer.
async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn the_denial_of_a_request_that_was_cut_ends_its_connection_only_where_some_of_it_is_to_come() {
    for (content, is_whole) in [("hello", true), ("hel", false)] {
        let pair = Pair::new(Protocol::Http, LONG).await;
        let web = pair.world.identity(&pair.web.id, LONG);
        let mut stream = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
        let request = format!("POST /hang HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\n{content}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let come = "hauberk_inbound_bytes_total{listener=\"8080\",direction=\"in\"}";
        until("the content is on its way to the app", || pair.orders.figure(come) == content.len() as f64)
            .await;
        pair.apply(NOTHING).await;
        let head = head_of(&mut stream).await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 403"), "{head}");
        assert_eq!(head.contains("\r\nconnection: close\r\n"), !is_whole, "{content}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut denial = vec![0; length.parse().unwrap()];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut denial)).await.unwrap().unwrap();
        if is_whole {
            stream.write_all(b"GET /next HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 403"), "the connection goes on");
        } else {
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        }
    }
}

#[tokio::test]
async fn an_answer_of_an_agent_says_that_its_connection_ends_where_content_is_unread() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let forbid = format!("{EVERYTHING}\nforbid(principal, action == Action::\"POST\", resource);");
    pair.apply(&forbid).await;
    let web = pair.world.identity(&pair.web.id, LONG);
    let ends = [
        ("Content-Length: 5\r\n\r\nhello", false),
        ("Content-Length: 5\r\n\r\nhel", true),
        ("Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", true),
        ("Content-Length: 1000000\r\n\r\nhello", true),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true),
    ];
    for (rest, is_close) in ends {
        for (target, status) in [("/", "403"), ("/%2f", "400")] {
            let mut stream = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
            let request = format!("POST {target} HTTP/1.1\r\nHost: orders\r\n{rest}");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let head = head_of(&mut stream).await.to_ascii_lowercase();
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
            assert_eq!(head.contains("\r\nconnection: close\r\n"), is_close, "{rest}: {head}");
        }
    }
}

/// Where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn connections_outlive_answers_of_an_agent_to_requests_whose_content_has_come() {
    for protocol in [Protocol::Http, Protocol::Http2, Protocol::Grpc] {
        let world = World::new();
        let (mut web, mut orders) = (world.agent("web"), world.agent("orders"));
        orders.apply(world.view(&orders.id, "orders", &[(8080, protocol)], &[EVERYTHING])).await;
        let inbound = orders.listen(8080, nobody().await).await;
        web.knows("gone", &orders.id, 8080, protocol, &[nobody().await]);
        let (identity, mut tasks) = (world.identity(&web.id, LONG), JoinSet::new());
        // Of HTTP/2 a connection outlives every answer, and others are not spoken there.
        let mut foreign = match protocol {
            Protocol::Http => {
                let stream = tls(&identity, &orders.id, inbound, &[b"http/1.1"]).await.unwrap();
                Some(over(stream, &mut tasks).await)
            }
            _ => None,
        };
        let mut local = http1(web.open_http().await, &mut tasks).await;
        for _ in 0..2 {
            if let Some(foreign) = &mut foreign {
                let answer = ask(foreign, "POST", "orders", "/", b"hello").await;
                assert_eq!(
                    (answer.header("hauberk-error"), answer.header("connection")),
                    ("app_unreachable", "")
                );
            }
            for host in ["gone", "unknown"] {
                let answer = ask(&mut local, "POST", host, "/", b"hello").await;
                assert_ne!(answer.header("hauberk-error"), "");
                assert_eq!(answer.header("connection"), "", "{answer:?}");
            }
        }
    }
}

/// Answers at once, and goes on reading: tells each part of the request's body, and none where it breaks off.
async fn hasty_app(tasks: &mut JoinSet<()>) -> (SocketAddr, mpsc::UnboundedReceiver<Option<Bytes>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut reading = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            respond.send_response(http::Response::new(()), true).unwrap();
            let tell = tell.clone();
            reading.spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(part)) = body.data().await {
                    body.flow_control().release_capacity(part.len()).unwrap();
                    tell.send(Some(part)).unwrap();
                }
                drop(tell.send(None));
            });
        }
    });
    (address, told)
}

#[tokio::test]
async fn a_new_view_cuts_an_upload_that_has_its_answer() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let pair = Pair::new(protocol, LONG).await;
        let mut tasks = JoinSet::new();
        let (app, mut told) = hasty_app(&mut tasks).await;
        let mut orders = pair.world.agent("orders");
        let view = |policy| pair.world.view(&orders.id, "orders", &[(8080, protocol)], &[policy]);
        let (everything, nothing) = (view(EVERYTHING), view(NOTHING));
        orders.apply(everything).await;
        let inbound = orders.listen(8080, app).await;
        let web = pair.world.identity(&pair.web.id, LONG);
        let stream = tls(&web, &orders.id, inbound, &[b"h2"]).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        let request = http::Request::post("http://orders/shop.Orders/Put").body(()).unwrap();
        let (response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"before"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let mut next = async || tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert_eq!(next().await.unwrap(), "before");
        orders.apply(nothing).await;
        // Whether the caller has heard of it yet or not.
        let _ = body.send_data(Bytes::from_static(b"after"), false);
        assert_eq!(next().await, None, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_root_that_is_trusted_no_longer_cuts_everything() {
    let pair = Pair::new(Protocol::Tcp, LONG).await;
    let mut stream = pair.stream().await;
    pair.orders.context.identity.publish_bundle(World::new().bundle()).unwrap();
    ends(&mut stream).await;
    let mut refused = TcpStream::connect(pair.tcp).await.unwrap();
    ends(&mut refused).await;
    // The other side finds out as well.
    let other = Pair::new(Protocol::Http, LONG).await;
    let mut stream = other.upgraded().await;
    other.web.context.identity.publish_bundle(TrustBundle::empty(other.world.domain.clone())).unwrap();
    ends(&mut stream).await;
}

#[tokio::test]
async fn a_peer_whose_certificate_has_expired_is_cut() {
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let pair = Pair::new(protocol, SHORT).await;
        let mut stream = if protocol == Protocol::Tcp { pair.stream().await } else { pair.upgraded().await };
        let web = pair.world.identity(&pair.web.id, SHORT);
        let mut foreign = tls(&web, &pair.orders.id, pair.inbound, &[]).await.unwrap();
        advance(SHORT).await;
        ends(&mut stream).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, foreign.read_to_end(&mut rest)).await.unwrap();
    }
}

#[tokio::test]
async fn a_renewed_certificate_that_is_proved_keeps_streams_alive() {
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let pair = Pair::new(protocol, SHORT).await;
        let mut stream = if protocol == Protocol::Tcp { pair.stream().await } else { pair.upgraded().await };
        pair.world.certify(&pair.web.context.identity, &pair.web.id, LONG);
        let proofs = "hauberk_inbound_connections_total{listener=\"8080\",protocol=\"proof\"}";
        let is_proved = || pair.orders.figure(proofs) == 1.0 && pair.orders.connections.len() == 1;
        until("the new certificate is proved", is_proved).await;
        assert!(is_alive(&mut stream).await, "{protocol:?}");
        for _ in 0..3 {
            advance(SHORT).await;
            assert!(is_alive(&mut stream).await, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn draining_lets_what_is_under_way_end() {
    for protocol in [Protocol::Http, Protocol::Http2, Protocol::Tcp] {
        let pair = Pair::new(protocol, LONG).await;
        let mut clients = JoinSet::new();
        if protocol == Protocol::Tcp {
            let mut stream = pair.stream().await;
            pair.orders.stop.cancel();
            assert!(is_alive(&mut stream).await);
        } else {
            let mut client = http1(pair.http, &mut clients).await;
            assert_eq!(ask(&mut client, "GET", "orders", "/", b"").await.status, 200);
            pair.orders.stop.cancel();
        }
        let is_done = |agent: &Agent| agent.listeners.iter().all(tokio::task::AbortHandle::is_finished);
        until("inbound has ended", || is_done(&pair.orders) && pair.orders.connections.is_empty()).await;
        pair.web.stop.cancel();
        until("outbound has ended", || is_done(&pair.web)).await;
        tokio::time::timeout(PATIENCE, pair.web.outbound.finish()).await.unwrap();
    }
}

/// Lets time pass at once.
pub async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// A little more than the time without a request after which a connection is let go.
const FIVE_MINUTES: Duration = Duration::from_secs(301);

/// Whether a connection shows nothing after five minutes without a request. Ends are noticed once a second.
async fn is_silent_after_five_minutes<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    advance(FIVE_MINUTES).await;
    tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0])).await.is_err()
}

#[tokio::test]
async fn a_peer_that_asks_nothing_for_long_is_let_go() {
    let pair = Pair::new(Protocol::Http, LONG).await;
    let web = pair.world.identity(&pair.web.id, LONG);
    // One that never asked, one that was answered, one whose answer is on its way.
    let mut silent = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    let mut answered = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    answered.write_all(b"HEAD / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    head_of(&mut answered).await;
    let mut waiting = tls(&web, &pair.orders.id, pair.inbound, &[b"http/1.1"]).await.unwrap();
    waiting.write_all(b"GET /hang HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    let decided = "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"}";
    until("both requests are decided", || pair.orders.figure(decided) == 2.0).await;

    advance(FIVE_MINUTES).await;
    assert_eq!(tokio::time::timeout(PATIENCE, silent.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(tokio::time::timeout(PATIENCE, answered.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(is_silent_after_five_minutes(&mut waiting).await);
    until("only one is left", || pair.orders.connections.len() == 1).await;
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_is_asked_is_let_go() {
    let pair = Pair::new(Protocol::Tcp, LONG).await;
    let web = pair.world.identity(&pair.web.id, LONG);
    let mut silent = tls(&web, &pair.orders.id, pair.inbound, &[b"hauberk-tcp/1"]).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Frames: the length in three bytes, the kind, flags, and the stream in four bytes.
    async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, u8)> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await?;
        Ok((head[3], head[4]))
    }
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let mut until = async |wanted| {
        while tokio::time::timeout(PATIENCE, frame(&mut silent)).await.unwrap()? != wanted {}
        Ok::<_, std::io::Error>(())
    };
    // Its preface has been read.
    until((SETTINGS, 1)).await.unwrap();
    advance(FIVE_MINUTES).await;
    until((GOAWAY, 0)).await.unwrap();
    // It was asked to go and stays.
    assert_eq!(pair.orders.connections.len(), 1);
    advance(FIVE_MINUTES).await;
    until((SETTINGS, 0)).await.unwrap_err();
    world::until("nobody is left", || pair.orders.connections.is_empty()).await;
}

#[tokio::test]
async fn a_tunnel_is_kept_for_the_next_stream() {
    let pair = Pair::new(Protocol::Tcp, LONG).await;
    drop(pair.stream().await);
    let mut stream = pair.stream().await;
    assert!(is_silent_after_five_minutes(&mut stream).await);
    assert!(is_alive(&mut stream).await);
    assert_eq!(pair.orders.connections.len(), 1);
}
