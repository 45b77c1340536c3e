//! Clients as apps have them: hyper's, towards their own agent.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::streaming_app::AnyBody;

/// A response with all of its body.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A connection that speaks HTTP/1.1.
pub(crate) async fn http1(address: SocketAddr) -> http1::SendRequest<AnyBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// A connection that speaks HTTP/2 without TLS, by prior knowledge.
pub(crate) async fn http2(address: SocketAddr) -> http2::SendRequest<AnyBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request to a service, in the form that HTTP/1.1 has.
pub(crate) fn to(service: &str, method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", service)
}

/// Reads a response to its end.
pub(crate) async fn whole(response: Response<Incoming>) -> Whole {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Whole { status: parts.status.as_u16(), headers: parts.headers, body }
}
