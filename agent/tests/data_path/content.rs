//! Requests within the content of others: whatever an app leaves unread, no request comes of it, and an answer is
//! nobody else's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hauberk_policy::Protocol;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::clients::{ask, over, raw, tls};
use crate::interim::read_head;
use crate::world::{Agent, PATIENCE, World};

const PUBLIC_ONLY: &str = r#"permit(principal == Node::"web", action in Action::"http", resource in Service::"orders")
when { context.path like "/public/*" };"#;

const HIDDEN: &str = "GET /admin HTTP/1.1\r\nhost: x\r\n\r\n";

/// The first lines and `Connection` of what an app was asked, by connection.
type Asked = Arc<Mutex<Vec<Vec<(String, String)>>>>;

/// Reads the content of POST, PUT and PATCH, and of nothing else. Closes when it is told to, and not before. Answers
/// `/public/early` before it has read the content.
async fn careless_app(tasks: &mut JoinSet<()>) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let seen = Arc::clone(&asked);
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let number = seen.lock().unwrap().len();
            seen.lock().unwrap().push(Vec::new());
            serving.spawn(answer(stream, number, Arc::clone(&seen)));
        }
    });
    (address, asked)
}

async fn answer(mut stream: TcpStream, number: usize, seen: Asked) {
    while let Some(head) = read_head(&mut stream).await {
        let line = head.lines().next().unwrap().to_owned();
        let field = |wanted: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        let connection = field("connection");
        let ends = connection.ends_with("close");
        seen.lock().unwrap()[number].push((line.clone(), connection));
        let is_read = ["POST", "PUT", "PATCH"].iter().any(|method| line.starts_with(method));
        let mut content = vec![0; field("content-length").parse().unwrap_or_default()];
        if line.contains(" /public/early ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
            stream.read_exact(&mut content).await.unwrap();
            stream.write_all(b"k").await.unwrap();
        } else {
            if is_read {
                stream.read_exact(&mut content).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
        if ends {
            return;
        }
    }
}

struct Served {
    world: World,
    orders: Agent,
    at: SocketAddr,
    asked: Asked,
    tasks: JoinSet<()>,
}

impl Served {
    async fn start() -> Self {
        let world = World::new();
        let mut orders = world.agent("orders");
        let mut tasks = JoinSet::new();
        let (app, asked) = careless_app(&mut tasks).await;
        let view = world.view(&orders.id, "orders", &[(8080, Protocol::Http)], &[PUBLIC_ONLY]);
        orders.apply(view).await;
        let at = orders.listen(8080, app).await;
        Self { world, orders, at, asked, tasks }
    }

    async fn connect(&self, alpn: &[u8]) -> hauberk_tls::TlsStream<TcpStream> {
        let web = self.world.identity(&self.world.node("web"), Duration::from_secs(3_600));
        tls(&web, &self.orders.id, self.at, &[alpn]).await.unwrap()
    }

    /// What the app was asked, each connection with the number of its requests.
    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().concat()
    }
}

#[tokio::test]
async fn what_stands_in_the_content_of_a_request_is_no_request() {
    let mut served = Served::start().await;
    let methods = ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"];
    let mut sent = 0;
    let stream = served.connect(b"h2").await;
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    served.tasks.spawn(async move { drop(connection.await) });
    for method in methods {
        let length = format!("content-length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
        let chunks = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
        for content in [length, chunks] {
            let stream = served.connect(b"http/1.1").await;
            let head = format!("{method} /public/a HTTP/1.1\r\nhost: orders\r\nte: trailers\r\n");
            let text = format!("{head}connection: te, close\r\n{content}");
            let answer = raw(stream, text.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 204 "), "{method}: {answer}");
            sent += 1;
        }
        let request = http::Request::builder().method(method).uri("http://orders/public/a");
        let request = request.body(Full::new(Bytes::from_static(HIDDEN.as_bytes()))).unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 204, "{method}");
        answer.into_body().collect().await.unwrap();
        sent += 1;
        // A link that was used again would have had to answer what stood in the content first.
        let mut next = over(served.connect(b"http/1.1").await, &mut served.tasks).await;
        assert_eq!(ask(&mut next, "GET", "orders", "/public/next", b"").await.status, 204, "{method}");
        sent += 1;
    }
    let asked = served.asked();
    assert!(asked.iter().all(|(line, _)| line.contains(" /public/")), "{asked:?}");
    assert_eq!(asked.len(), sent, "{asked:?}");
    for (line, connection) in asked {
        let told = if line.contains("/next ") { &[""][..] } else { &["close", "te, close"] };
        assert!(told.contains(&connection.as_str()), "{line}: {connection:?}");
    }
}

#[tokio::test]
async fn what_is_read_costs_no_connection_unless_it_is_answered_early() {
    let mut served = Served::start().await;
    let mut client = over(served.connect(b"http/1.1").await, &mut served.tasks).await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let content = if method == "GET" || method == "DELETE" { b"".as_slice() } else { HIDDEN.as_bytes() };
        let answer = ask(&mut client, method, "orders", "/public/a", content).await;
        assert_eq!(answer.status, 204, "{method}");
    }
    assert_eq!(served.asked.lock().unwrap().len(), 1, "all of them went over one connection");

    let mut stream = served.connect(b"http/1.1").await;
    let head = format!(
        "POST /public/early HTTP/1.1\r\nhost: orders\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        HIDDEN.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\no") {
        answer.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    assert_eq!(raw(stream, HIDDEN.as_bytes()).await, "k");
    assert_eq!(ask(&mut client, "GET", "orders", "/public/a", b"").await.status, 204);
    let asked = served.asked.lock().unwrap().clone();
    assert!(asked.iter().flatten().all(|(line, _)| line.contains(" /public/")), "{asked:?}");
    let counts: Vec<usize> = asked.iter().map(Vec::len).collect();
    assert_eq!(counts, [6, 1], "the link with the early answer was not used again: {asked:?}");
}
