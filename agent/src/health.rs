//! For probes and scrapers: `/livez`, `/readyz`, `/metrics`, and nothing else.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::local_http::{Answer, Answers, text, typed};
use crate::status::Status;

/// How long a probe waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The health listener.
#[derive(Debug)]
pub(crate) struct Health(pub(crate) Arc<Status>);

impl Answers for Health {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.0.unready() {
                None => text(StatusCode::OK, "ok\n"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => metrics(&self.0),
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
        }
    }
}

/// The answer to `/metrics`.
pub(crate) fn metrics(status: &Status) -> Answer {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", status.metrics())
}

/// Asks an agent whether it is ready, as `hauberk-agent healthz` does.
///
/// # Errors
/// It cannot be asked, or is not ready; the text says which.
pub fn probe(address: &str) -> Result<(), String> {
    let mut address: SocketAddr =
        address.parse().map_err(|_| format!("{address:?}: write IP:PORT, such as 127.0.0.1:15020"))?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    let answer = ask(address).map_err(|error| format!("the agent at {address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("not ready: {}", body.trim())) }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(16 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
