//! One question over HTTPS to a server that is not ours: asked only after who answers has been authenticated, bounded in time
//! and size, and answered there or nowhere: no redirect is followed.

mod reach;

use std::time::Duration;

use bytes::Bytes;
use hauberk_tls::{EndpointConnector, HandshakeError, SetupError};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub use reach::{STEP_DEADLINE, Unreached, get, web_connector};

/// The largest head of an answer, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Why there is no answer. The fault is the server's, or of whoever said that it is to be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// It took too long.
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
    /// What is to be asked cannot be said in HTTP.
    #[error("it cannot be asked: {0}")]
    Question(#[from] http::Error),
    /// TLS cannot be set up. The fault is ours.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Who answers is not authenticated.
    #[error("who answers is not believed: {0}")]
    Handshake(#[from] HandshakeError),
    /// It does not speak HTTP as it should.
    #[error("it does not speak HTTP/1.1: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is too large.
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer broke off.
    #[error("its answer broke off: {0}")]
    BrokenOff(String),
}

/// What a question has in all, with what comes before it.
///
/// # Errors
/// Its own, or that it took longer than `deadline`.
pub async fn within<T, E: From<Unanswered>>(
    deadline: Duration,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(deadline, asked).await.unwrap_or_else(|_| Err(Unanswered::Late(deadline).into()))
}

/// Asks the server on `stream`, known as `host`. The content of an answer is at most `most` bytes, and is read only where the status
/// says that there is what was asked for (2xx); it is empty otherwise.
///
/// # Errors
/// There is no answer.
pub async fn ask<B>(
    connector: &EndpointConnector,
    host: &str,
    stream: TcpStream,
    request: Request<B>,
    most: usize,
) -> Result<(StatusCode, Bytes), Unanswered>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connector.connect(host, stream).await?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Ok((status, Bytes::new()));
        }
        match Limited::new(response.into_body(), most).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Unanswered::TooLarge(most)),
            Err(error) => Err(Unanswered::BrokenOff(error.to_string())),
        }
    };
    // Its end is told to the exchange, which has what came before it.
    let driven = async {
        let _ended = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driven => never,
    }
}
