//! The connections of the demo's servers.

use std::future::Future;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::error::DemoError;

/// Answers HTTP/1.1 requests until it is told to stop; whatever is open then ends. `open` makes of a socket what is
/// spoken over, or nothing where nobody is there to speak to.
pub(super) async fn serve<S, Open, Answer>(
    listener: TcpListener,
    open: impl Fn(TcpStream) -> Open,
    answer: impl Fn(Request<Incoming>) -> Answer + Clone + Send + 'static,
) -> Result<ExitCode, DemoError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Open: Future<Output = Option<S>> + Send + 'static,
    Answer: Future<Output = http::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(super::processes::told_to_stop()?);
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        while connections.try_join_next().is_some() {}
        let (opening, answer) = (open(socket), answer.clone());
        connections.spawn(async move {
            let Some(stream) = opening.await else { return };
            // A client that goes away is no news.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await);
        });
    }
}
