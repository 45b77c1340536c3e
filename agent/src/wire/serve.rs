//! How long a connection on which we serve HTTP lives.

use std::future::Future;
use std::pin::{Pin, pin};

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use tokio_util::sync::CancellationToken;

use super::tasks::Tasks;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection that can be asked to end after what is under way.
pub(crate) trait EndGracefully: Future<Output = hyper::Result<()>> {
    /// Asks it.
    fn end_gracefully(self: Pin<&mut Self>);
}

impl<I, S> EndGracefully for http1::UpgradeableConnection<I, S>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxError>,
    I: Read + Write + Unpin + Send + 'static,
    S::ResBody: Body + 'static,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> EndGracefully for http2::Connection<I, S, Tasks>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    I: Read + Write + Unpin,
    S::ResBody: Body + Send + 'static,
    <S::ResBody as Body>::Data: Send,
    <S::ResBody as Body>::Error: Into<BoxError>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Waits until a connection should be given nothing new: itself is `retired`, or everything should `stop`.
pub(crate) async fn asked_to_end(retired: &CancellationToken, stop: &CancellationToken) {
    tokio::select! {
        () = retired.cancelled() => {}
        () = stop.cancelled() => {}
    }
}

/// Serves a connection to its end, gracefully once `retired` or `stop` fires. Where it ends well, `whole` is called
/// while its socket is still open.
pub(crate) async fn serve_until(
    connection: impl EndGracefully,
    retired: &CancellationToken,
    stop: &CancellationToken,
    whole: impl FnOnce(),
) {
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        () = asked_to_end(retired, stop) => {
            connection.as_mut().end_gracefully();
            connection.await
        }
    };
    match outcome {
        Ok(()) => whole(),
        Err(error) => tracing::debug!(event = "http_connection_broken", %error),
    }
}
