//! Load: keep-alive HTTP/1.1 requests, bulk bytes and new connections, all over the loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What a run of requests showed.
#[derive(Debug, Clone)]
pub struct Rate {
    /// Requests, or connections, answered.
    pub done: u64,
    /// Those that failed.
    pub failed: u64,
    /// From the first to the last.
    pub took: Duration,
    /// Latencies, sorted.
    latencies: Vec<Duration>,
}

impl Rate {
    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }

    /// The latency that this share of the answers did not exceed, in microseconds.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// An HTTP/1.1 server that answers every request with three bytes; a connection whose first line
/// begins with `BULK` is drained and told how many bytes came. Returns its address.
pub async fn backend() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-type: text/plain\r\n\r\nok\n";
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        if buffer.starts_with(b"BULK") {
            return drain(stream, filled, buffer).await;
        }
        while let Some(end) = find(&buffer[..filled], b"\r\n\r\n") {
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
        }
    }
}

async fn drain(mut stream: TcpStream, already: usize, mut buffer: Vec<u8>) {
    let mut total = already as u64;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        total += count as u64;
    }
    let _ = stream.write_all(total.to_string().as_bytes()).await;
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Sends `GET path` over `connections` keep-alive connections, one request at a time on each.
pub async fn requests(to: SocketAddr, host: &str, path: &str, connections: usize, span: Duration) -> Rate {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut failed = 0;
            let mut buffer = vec![0; 16 * 1024];
            'connect: while begun.elapsed() < span {
                let Ok(mut stream) = TcpStream::connect(to).await else {
                    failed += 1;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    match exchange(&mut stream, &request, &mut buffer).await {
                        Some(true) => latencies.push(sent.elapsed()),
                        Some(false) => failed += 1,
                        None => {
                            failed += 1;
                            continue 'connect;
                        }
                    }
                }
            }
            (latencies, failed)
        });
    }
    collect(tasks, begun).await
}

/// One request and its answer; whether it was a 200, or `None` when the connection is of no more use.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Option<bool> {
    stream.write_all(request).await.ok()?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await.ok().filter(|count| *count > 0)?;
        filled += count;
        let Some(end) = find(&buffer[..filled], b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).ok()?.to_ascii_lowercase();
        let length: usize =
            head.split("content-length:").nth(1)?.split("\r\n").next()?.trim().parse().ok()?;
        while filled < end + 4 + length {
            filled += stream.read(&mut buffer[filled..]).await.ok().filter(|count| *count > 0)?;
        }
        return Some(head.starts_with("http/1.1 200"));
    }
}

/// Opens connections, does one request on each and closes it, `parallel` at a time.
pub async fn connections(to: SocketAddr, parallel: usize, span: Duration) -> Rate {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        tasks.spawn(async move {
            let (mut latencies, mut failed) = (Vec::new(), 0);
            let mut buffer = vec![0; 4096];
            while begun.elapsed() < span {
                let opened = Instant::now();
                let done = async {
                    let mut stream = TcpStream::connect(to).await.ok()?;
                    exchange(&mut stream, b"GET / HTTP/1.1\r\nhost: b\r\n\r\n", &mut buffer).await
                };
                match done.await {
                    Some(true) => latencies.push(opened.elapsed()),
                    _ => failed += 1,
                }
            }
            (latencies, failed)
        });
    }
    collect(tasks, begun).await
}

async fn collect(mut tasks: JoinSet<(Vec<Duration>, u64)>, begun: Instant) -> Rate {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    while let Some(result) = tasks.join_next().await {
        let (more, wrong) = result.unwrap();
        latencies.extend(more);
        failed += wrong;
    }
    latencies.sort_unstable();
    Rate { done: latencies.len() as u64, failed, took: begun.elapsed(), latencies }
}

/// Sends bytes over one connection for a while; how many arrived, and how long that took.
pub async fn bulk(to: SocketAddr, span: Duration) -> (u64, Duration) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let chunk = vec![b'x'; 128 * 1024];
    let begun = Instant::now();
    stream.write_all(b"BULK").await.unwrap();
    while begun.elapsed() < span {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.trim().parse().unwrap(), begun.elapsed())
}

/// Opens connections that do nothing, after one byte has come through each.
pub async fn idle(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    let mut buffer = vec![0; 4096];
    for _ in 0..count {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let answered = exchange(&mut stream, b"GET / HTTP/1.1\r\nhost: b\r\n\r\n", &mut buffer).await;
        assert_eq!(answered, Some(true), "an idle connection works before it idles");
        held.push(stream);
    }
    held
}
