//! Calls through an agent's outbound listener, as an app with an HTTP proxy would make them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::error::DemoError;

/// What is called, and how: `http://orders/orders/1` or `POST http://payments/charge`.
#[derive(Debug, Clone)]
pub(super) struct Target {
    method: Method,
    uri: Uri,
}

impl Target {
    /// Parses `[METHOD ]URL`.
    ///
    /// # Errors
    /// It is neither, or the URL is not an absolute http one.
    pub(super) fn parse(text: &str) -> Result<Self, DemoError> {
        let (method, url) = text.trim().split_once(' ').unwrap_or(("GET", text.trim()));
        let uri: Uri = url.parse().map_err(|source| DemoError::Url { url: url.to_owned(), source })?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(DemoError::NotHttp(url.to_owned()));
        }
        let method =
            method.parse().map_err(|source| DemoError::Method { method: method.to_owned(), source })?;
        Ok(Self { method, uri })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The id of a denial.
    pub(super) decision: Option<String>,
    pub(super) body: String,
}

/// Keeps one connection to an agent (or straight to a service) while it serves.
#[derive(Debug)]
pub(super) struct Caller {
    via: SocketAddr,
    sender: Option<http1::SendRequest<Empty<Bytes>>>,
    connections: JoinSet<()>,
}

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of the demo is larger.
const BODY_LIMIT: usize = 64 * 1024;

impl Caller {
    /// Calls will go through the listener at `via`.
    pub(super) fn new(via: SocketAddr) -> Self {
        Self { via, sender: None, connections: JoinSet::new() }
    }

    /// Calls once; a connection that has gone stale is replaced first.
    ///
    /// # Errors
    /// Nothing answers at `via`, or not in time, or not in HTTP.
    pub(super) async fn call(&mut self, target: &Target) -> Result<Answer, DemoError> {
        self.call_with(target, &HeaderMap::new()).await
    }

    /// The same with these header fields.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub(super) async fn call_with(
        &mut self,
        target: &Target,
        fields: &HeaderMap,
    ) -> Result<Answer, DemoError> {
        let result = tokio::time::timeout(PATIENCE, self.exchange(target, fields)).await;
        result.unwrap_or(Err(DemoError::Late(PATIENCE)))
    }

    async fn exchange(&mut self, target: &Target, fields: &HeaderMap) -> Result<Answer, DemoError> {
        let authority = target.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(target.method.clone())
            .uri(target.uri.clone())
            .header(header::HOST, authority)
            .body(Empty::new())?;
        request.headers_mut().extend(fields.clone());
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(self.via, &mut self.connections).await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let decision = response.headers().get("hauberk-decision").and_then(|value| value.to_str().ok());
        let decision = decision.map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let body = body.map_err(|error| DemoError::BrokeOff(error.to_string()))?.to_bytes();
        self.sender = Some(sender);
        Ok(Answer { status, decision, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

async fn connect(
    via: SocketAddr,
    connections: &mut JoinSet<()>,
) -> Result<http1::SendRequest<Empty<Bytes>>, DemoError> {
    while connections.try_join_next().is_some() {}
    let stream = TcpStream::connect(via).await.map_err(DemoError::io(format!("nothing answers at {via}")))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The end of a connection shows as the end of its sender.
    connections.spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// The agent's outbound listener: `--outbound`, else what the agent tells its child, else the default.
///
/// # Errors
/// It is no address.
pub(super) fn outbound(flag: Option<SocketAddr>) -> Result<SocketAddr, DemoError> {
    if let Some(address) = flag {
        return Ok(address);
    }
    let told = std::env::var("HAUBERK_OUTBOUND").unwrap_or_else(|_| "http://127.0.0.1:15001".to_owned());
    let bare = told.trim_start_matches("http://").trim_end_matches('/');
    bare.parse().map_err(|source| DemoError::Outbound { told: told.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_a_method_and_an_absolute_url() {
        assert_eq!(
            Target::parse("http://orders/orders/1").unwrap().to_string(),
            "GET http://orders/orders/1"
        );
        assert_eq!(
            Target::parse("POST http://payments/charge").unwrap().to_string(),
            "POST http://payments/charge"
        );
        for wrong in ["orders/1", "https://orders/", "/orders", "PO ST http://x/", "http://"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
