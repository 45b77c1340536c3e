//! One HTTP/1.1 exchange at a time over a connection that is kept.
//!
//! A [`Link`] is driven by whoever uses it: the task of the request polls the connection itself, so that a request
//! costs no message to another task and no second wake-up. Nobody polls an idle link; whether it still lives is seen
//! when it is taken up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::strict::MAX_HEAD;
use super::transport::Transport;
use crate::connections::Registered;

/// A kept HTTP/1.1 connection to a server.
pub(crate) struct Link {
    sender: http1::SendRequest<RequestBody>,
    driver: Option<Driver>,
    /// Its place in the registry, if it goes to another agent.
    lease: Option<Registered>,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Why there is no response.
pub(crate) struct SendFailure {
    pub(crate) error: hyper::Error,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl Link {
    /// Speaks HTTP/1.1 over a stream.
    ///
    /// # Errors
    /// hyper refuses.
    pub(crate) async fn open(transport: Transport, lease: Option<Registered>) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(4 * MAX_HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(transport)).await?;
        let mut link = Self { sender, driver: Some(Box::pin(connection.with_upgrades())), lease };
        // hyper takes a request only once the connection has been polled.
        link.drive(&mut Context::from_waker(Waker::noop()));
        Ok(link)
    }

    /// Whether the server has not closed meanwhile, as far as has been seen, and the next request may be sent.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        let is_retired = self.lease.as_ref().is_some_and(|lease| lease.connection().retired().is_cancelled());
        self.driver.is_some() && self.sender.is_ready() && !is_retired
    }

    /// Sends a request and waits for the head of the response. The caller drives on while it reads the body.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Box<SendFailure>> {
        // Unconstrained, since a future out of tokio's budget asks to be polled again by the waker that it is not given.
        let response = tokio::task::unconstrained(self.sender.try_send_request(request));
        let mut response = std::pin::pin!(response);
        let (driver, lease) = (&mut self.driver, self.lease.as_ref());
        let outcome = std::future::poll_fn(|cx| {
            drive(driver, lease, cx);
            // Only the driver completes the response, and it has just been polled: no waker is needed here, and one
            // would wake this very task.
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        outcome.await.map_err(|mut failure| {
            let unsent = failure.take_message();
            Box::new(SendFailure { error: failure.into_error(), unsent })
        })
    }

    /// Lets the connection go on as far as it can.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, self.lease.as_ref(), cx);
    }

    /// Moves the bytes of the connection after a 101, until it has handed over the stream. Yields its place in the
    /// registry, which must be kept for as long as the stream.
    pub(crate) async fn run_to_end(mut self) -> Option<Registered> {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.driver.is_some() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        self.lease
    }
}

fn drive(driver: &mut Option<Driver>, lease: Option<&Registered>, cx: &mut Context<'_>) {
    if lease.is_some_and(|lease| lease.connection().poll_cut(cx)) {
        *driver = None;
    } else if let Some(running) = driver
        && running.as_mut().poll(cx).is_ready()
    {
        // What went wrong, if anything did, reaches us as the error of the response or of its body.
        *driver = None;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_open", &self.driver.is_some()).finish_non_exhaustive()
    }
}
