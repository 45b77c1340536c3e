//! `aws`: the identity document of the EC2 instance that we run on, from its metadata service (IMDSv2).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// How long all of it may take: the service is on this very host.
const DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long our session lasts, in seconds: two questions.
const SESSION: &str = "60";

/// Why there is no document.
#[derive(Debug, Error)]
pub(crate) enum ImdsError {
    /// It took too long: perhaps this is no EC2 instance, or the hop limit does not let containers ask.
    #[error("it took longer than {} s; in a container the instance's hop limit must be 2", DEADLINE.as_secs())]
    Late,
    /// Nobody is there.
    #[error(transparent)]
    Connect(#[from] io::Error),
    /// It does not speak HTTP as it should.
    #[error("it does not speak HTTP/1.1: {0}")]
    Http(#[from] hyper::Error),
    /// It refuses.
    #[error("it answers {path} with status {status}")]
    Status {
        /// What was asked for.
        path: &'static str,
        /// The answer.
        status: StatusCode,
    },
    /// Its answer is too large, or broke off.
    #[error("its answer to {0} is no text of at most {MAX_ANSWER} bytes")]
    Answer(&'static str),
}

/// The document with its RSA-2048 signature, as the service gives it.
pub(super) async fn identity_document(imds: SocketAddr) -> Result<String, ImdsError> {
    let asked = async {
        let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", SESSION);
        let session = ask(imds, Method::PUT, "/latest/api/token", ttl).await?;
        let session = ("x-aws-ec2-metadata-token", session.as_str());
        ask(imds, Method::GET, "/latest/dynamic/instance-identity/rsa2048", session).await
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap_or(Err(ImdsError::Late))
}

async fn ask(
    imds: SocketAddr,
    method: Method,
    path: &'static str,
    (name, value): (&str, &str),
) -> Result<String, ImdsError> {
    let stream = TcpStream::connect(imds).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, imds.ip().to_string())
        .header(header::CONNECTION, "close")
        .header(name, value)
        .body(Empty::<Bytes>::new())
        .map_err(|_| ImdsError::Answer(path))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(ImdsError::Status { path, status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| ImdsError::Answer(path))?.to_bytes();
        String::from_utf8(body.to_vec()).map_err(|_| ImdsError::Answer(path))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            // What came before the end is there all the same.
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A metadata service that takes sessions of version 2 only, and answers with `document`.
    async fn service(document: &'static str) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let body = if head.starts_with("put /latest/api/token ")
                    && head.contains("\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
                {
                    Some("session-1")
                } else if head.starts_with("get /latest/dynamic/instance-identity/rsa2048 ")
                    && head.contains("\r\nx-aws-ec2-metadata-token: session-1\r\n")
                {
                    Some(document)
                } else {
                    None
                };
                let answer = match body {
                    Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
                    None => "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, serving)
    }

    #[tokio::test]
    async fn asks_in_a_session_of_version_2() {
        let (address, _serving) = service("MIAG\nCSqG\n").await;
        assert_eq!(identity_document(address).await.unwrap(), "MIAG\nCSqG\n");
        let refused =
            ask(address, Method::GET, "/latest/dynamic/instance-identity/rsa2048", ("a", "b")).await;
        assert!(matches!(refused, Err(ImdsError::Status { status: StatusCode::UNAUTHORIZED, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_says_nothing_or_too_much_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = identity_document(listener.local_addr().unwrap()).await;
        assert!(matches!(silent, Err(ImdsError::Late)), "{silent:?}");
    }
}
