//! Clients, ordinary and hostile.

use std::net::SocketAddr;

use bytes::Bytes;
use hauberk_tls::{LiveIdentity, ServerExpectation, TlsStream};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::world::PATIENCE;

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
    pub trailers: Option<http::HeaderMap>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Answer { status: head.status.as_u16(), headers: head.headers, body, trailers }
}

pub type Http1 = http1::SendRequest<Full<Bytes>>;

/// An HTTP/1.1 connection.
pub async fn http1(address: SocketAddr, tasks: &mut JoinSet<()>) -> Http1 {
    over(TcpStream::connect(address).await.unwrap(), tasks).await
}

/// HTTP/1.1 over any stream.
pub async fn over<S>(stream: S, tasks: &mut JoinSet<()>) -> Http1
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

pub async fn ask(client: &mut Http1, method: &str, host: &str, path: &str, body: &[u8]) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    ask_with(client, request).await
}

pub async fn ask_with(client: &mut Http1, request: http::Request<Full<Bytes>>) -> Answer {
    let asking = async {
        client.ready().await.unwrap();
        read(client.send_request(request).await.unwrap()).await
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

/// An HTTP/2 connection with prior knowledge.
pub async fn http2(address: SocketAddr, tasks: &mut JoinSet<()>) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

pub async fn call(client: &mut http2::SendRequest<Full<Bytes>>, url: &str, body: &[u8]) -> Answer {
    let request = http::Request::builder()
        .method("POST")
        .uri(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    let asking = async { read(client.send_request(request).await.unwrap()).await };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

/// Mutual TLS as a SPIFFE client without an agent opens it.
pub async fn tls(
    identity: &LiveIdentity,
    server: &hauberk_identity::SpiffeId,
    address: SocketAddr,
    alpn: &[&[u8]],
) -> Result<TlsStream<TcpStream>, hauberk_tls::HandshakeError> {
    let expected = ServerExpectation::AnyOf([server.clone()].into());
    let connector = identity.connector(expected, alpn, true, PATIENCE).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(stream).await.map(|connection| connection.into_parts().0)
}

/// Sends bytes and reads to the end.
pub async fn raw<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    let exchange = async {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        // A reset ends the answer like any end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}
