//! TCP through two agents.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hauberk_policy::Protocol;
use hauberk_tls::ClientAuth;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::apps::tcp_app;
use crate::clients::{raw, tls};
use crate::world::{Agent, PATIENCE, World, until};

const POLICY: &str =
    r#"permit(principal == Node::"web", action == Action::"connect", resource in Service::"redis");"#;

struct Pair {
    world: World,
    web: Agent,
    redis: Agent,
    inbound: SocketAddr,
    local: SocketAddr,
}

async fn pair() -> Pair {
    let world = World::new();
    let (mut web, mut redis) = (world.agent("web"), world.agent("redis"));
    let app = tcp_app(&mut redis.tasks).await;
    redis.apply(world.view(&redis.id, "redis", &[(6379, Protocol::Tcp)], &[POLICY])).await;
    let inbound = redis.listen(6379, app).await;
    web.knows("redis", &redis.id, 6379, Protocol::Tcp, &[inbound]);
    let local = web.open_tcp("redis").await;
    Pair { world, web, redis, inbound, local }
}

#[tokio::test]
async fn streams_share_a_tunnel_and_keep_their_halves() {
    let pair = pair().await;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(pair.local).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"hello");
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
    }
    assert_eq!(pair.web.connections.len(), 1);
}

#[tokio::test]
async fn much_passes_unharmed_on_many_streams() {
    let pair = pair().await;
    let mut streams = JoinSet::new();
    for number in 0..40_u8 {
        let local = pair.local;
        streams.spawn(async move {
            let stream = TcpStream::connect(local).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i as u8).wrapping_mul(number)).collect();
            let expected = [&sent[..], b"bye"].concat();
            let writing = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let ((), read) = tokio::join!(writing, reader.read_to_end(&mut got));
            read.unwrap();
            assert!(got == expected);
        });
    }
    streams.join_all().await;
}

#[tokio::test]
async fn a_stream_that_does_not_read_holds_up_no_other() {
    let pair = pair().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(pair.local).await.unwrap();
        // The app echoes what nobody reads, until everything between is full.
        let flood = vec![0; 64 << 10];
        while tokio::time::timeout(Duration::from_millis(100), stream.write_all(&flood)).await.is_ok() {}
        stalled.push(stream);
    }
    let lively = raw_echo(pair.local, &vec![1; 2_000_000]).await;
    assert_eq!(lively.len(), 2_000_003);
}

async fn raw_echo(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let writing = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(writing, reader.read_to_end(&mut got)) };
    tokio::time::timeout(PATIENCE, both).await.unwrap().1.unwrap();
    got
}

#[tokio::test]
async fn a_denied_stream_is_closed_cleanly() {
    let mut pair = pair().await;
    let mut intruder = pair.world.agent("intruder");
    intruder.knows("redis", &pair.redis.id, 6379, Protocol::Tcp, &[pair.inbound]);
    let local = intruder.open_tcp("redis").await;
    let mut stream = TcpStream::connect(local).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
    // Who asks a proxy for it is told as of any denial.
    let proxy = TcpStream::connect(intruder.open_http().await).await.unwrap();
    let request = b"CONNECT redis:6379 HTTP/1.1\r\nHost: redis:6379\r\nConnection: close\r\n\r\n";
    let answer = raw(proxy, request).await;
    let id = answer.split("hauberk-decision: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains(&format!("\r\n\r\ndenied: `hauberk explain {id}`")), "{answer}");
    // So is one of a client that has no agent.
    let foreign = pair.world.identity(&pair.world.node("intruder"), Duration::from_secs(60));
    let stream = tls(&foreign, &pair.redis.id, pair.inbound, &[]).await.unwrap();
    assert_eq!(raw(stream, b"").await, "");
    pair.web.tasks.abort_all();
}

#[tokio::test]
async fn a_client_without_an_agent_is_served() {
    let pair = pair().await;
    let web = pair.world.identity(&pair.web.id, Duration::from_secs(60));
    let mut stream = tls(&web, &pair.redis.id, pair.inbound, &[]).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "hellobye");
}

#[tokio::test]
async fn a_stream_of_a_client_without_an_agent_that_is_cut_does_not_end_cleanly() {
    let pair = pair().await;
    let web = pair.world.identity(&pair.web.id, Duration::from_secs(60));
    let mut stream = tls(&web, &pair.redis.id, pair.inbound, &[]).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 5];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
    pair.redis.apply(pair.world.view(&pair.redis.id, "redis", &[(6379, Protocol::Tcp)], &[])).await;
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn an_answer_that_has_ended_reaches_a_slow_client_without_an_agent_that_sends_on() {
    const MUCH: usize = 1 << 20;
    let world = World::new();
    let (web, mut redis) = (world.agent("web"), world.agent("redis"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    redis.apply(world.view(&redis.id, "redis", &[(6379, Protocol::Tcp)], &[POLICY])).await;
    let inbound = redis.listen(6379, listener.local_addr().unwrap()).await;
    let web = world.identity(&web.id, Duration::from_secs(60));
    let mut stream = tls(&web, &redis.id, inbound, &[]).await.unwrap();
    let mut app = listener.accept().await.unwrap().0;
    app.write_all(&vec![1; MUCH]).await.unwrap();
    // Closes both ways. What had not left it yet, its own kernel would take back.
    drop(app);
    let out = "hauberk_inbound_bytes_total{listener=\"6379\",direction=\"out\"}";
    until("all is on its way to the client", || redis.figure(out) == MUCH as f64).await;
    for _ in 0..2 {
        stream.write_all(b"more").await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let (mut received, mut piece) = (0, vec![0; 4 << 10]);
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap() {
            0 => break,
            read => received += read,
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(received, MUCH);
}

#[tokio::test]
async fn a_proxy_client_connects_by_name() {
    let mut pair = pair().await;
    let proxy = pair.web.open_http().await;
    let request = b"CONNECT redis:6379 HTTP/1.1\r\nHost: redis:6379\r\n\r\n";
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut head = [0; 19];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK\r\n\r\n");
    stream.write_all(b"PING\n\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "PING\n\nbye");
    let answer = raw(
        TcpStream::connect(proxy).await.unwrap(),
        b"CONNECT redis:1 HTTP/1.1\r\nHost: redis:1\r\nConnection: close\r\n\r\n",
    );
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    for host in ["", "Host: web:6379\r\n"] {
        let request = format!("CONNECT redis:6379 HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let answer = raw(TcpStream::connect(proxy).await.unwrap(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
}

/// The next stream that a tunnel carries.
type Accepted = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

#[tokio::test]
async fn a_tunnel_that_is_told_to_go_keeps_what_is_open_and_gets_nothing_new() {
    let world = World::new();
    let mut web = world.agent("web");
    // The far agent is played here, so that it says at the right moment that it goes.
    let redis = world.node("redis");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    web.knows("redis", &redis, 6379, Protocol::Tcp, &[listener.local_addr().unwrap()]);
    let local = web.open_tcp("redis").await;
    // So long that nobody asks for a newer proof meanwhile.
    let identity = world.identity(&redis, Duration::from_secs(3_600));
    let acceptor = identity.acceptor(&[b"hauberk-tcp/1"], ClientAuth::Required, PATIENCE).unwrap();
    let accept = async || {
        let (socket, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(socket).await.unwrap().into_parts().0;
        h2::server::handshake(stream).await.unwrap()
    };
    let mut tasks = JoinSet::new();

    let mut first = TcpStream::connect(local).await.unwrap();
    let mut tunnel = accept().await;
    let opened = tunnel.accept().await.unwrap().unwrap();
    tunnel.graceful_shutdown();
    let ended = tasks.spawn(async move { assert!(tunnel.accept().await.is_none()) });
    tasks.spawn(echo(opened));
    // It answers, so that what was said before has been heard.
    assert_eq!(exchange(&mut first, b"one").await, b"one");

    let mut second = TcpStream::connect(local).await.unwrap();
    let mut tunnel = tokio::time::timeout(PATIENCE, accept()).await.unwrap();
    let opened = tunnel.accept().await.unwrap().unwrap();
    tasks.spawn(async move { while tunnel.accept().await.is_some() {} });
    tasks.spawn(echo(opened));
    assert_eq!(exchange(&mut second, b"two").await, b"two");

    // The first one is as it was, for as long as it lasts; then its tunnel ends.
    assert!(!ended.is_finished());
    assert_eq!(exchange(&mut first, b"three").await, b"three");
    first.shutdown().await.unwrap();
    let mut rest = String::new();
    first.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    until("the tunnel has ended", || ended.is_finished()).await;
    assert_eq!(exchange(&mut second, b"four").await, b"four");
}

/// Accepts a stream and sends everything back; at its end, says so.
async fn echo((request, mut respond): Accepted) {
    let mut receive = request.into_body();
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    while let Some(data) = receive.data().await {
        let data = data.unwrap();
        receive.flow_control().release_capacity(data.len()).unwrap();
        send.send_data(data, false).unwrap();
    }
    send.send_data(Bytes::from_static(b"bye"), true).unwrap();
}

async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut got = vec![0; bytes.len()];
    let both = async {
        stream.write_all(bytes).await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
    got
}
