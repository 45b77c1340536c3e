//! The small HTTP/1.1 server behind `admin.rs` and `health.rs`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::wire::accept::Refusals;

/// More at once than any probe or person needs. When one more comes, the oldest gives way: an honest one is done in
/// milliseconds, and whoever says nothing keeps no probe out.
const MAX_CONNECTIONS: usize = 32;
/// How long a request's head may take, and how long a connection is kept for the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What answers requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, answers: Arc<impl Answers>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    let mut refusals = Refusals::at("admin or health");
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => oldest_first.retain(|connection| !connection.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let answers = Arc::clone(&answers);
                    if oldest_first.len() == MAX_CONNECTIONS
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    oldest_first.push_back(connections.spawn(async move {
                        let service = service_fn(|request| {
                            let answers = Arc::clone(&answers);
                            async move { Ok::<_, Infallible>(answers.answer(request).await) }
                        });
                        let serving = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEAD_TIMEOUT)
                            .max_buf_size(16 * 1024)
                            .serve_connection(TokioIo::new(stream), service);
                        // Whoever goes away early is no concern of ours.
                        let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
                    }));
                }
                Err(error) => refusals.wait(&error).await,
            },
        }
    }
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

/// An answer of another type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(content.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Ready;

    impl Answers for Ready {
        async fn answer(&self, _: Request<Incoming>) -> Answer {
            text(StatusCode::OK, "ready")
        }
    }

    #[tokio::test]
    async fn those_who_say_nothing_keep_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::new(Ready), CancellationToken::new()));
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /readyz HT").await.unwrap();
            silent.push(stream);
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(HEAD_TIMEOUT / 2, probe.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The oldest has been let go for it, and no more than need be.
        let mut oldest = silent.remove(0);
        assert!(!matches!(oldest.read(&mut [0]).await, Ok(1..)));
    }
}
