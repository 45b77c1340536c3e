//! What the caller of a request is told that no app has answered, and what becomes of its connection.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use hauberk_policy::Protocol;
use http::{Request, Response};
use hyper::body::{Body, Incoming};

use crate::wire::answer::{self, Form};
use crate::wire::body::{BodyError, ResponseBody};
use crate::wire::http1::SendError;
use crate::wire::meter::{Meter, until_cut};
use crate::wire::strict::Opaque;
use crate::wire::unread::Content;

/// How long an app over HTTP/2 that takes nothing may delay the end of a request.
const PATIENCE: Duration = Duration::from_millis(50);

/// A request that the app has not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    content: Content,
    has_content: bool,
    is_to_http2: bool,
}

impl Unanswered {
    /// This one, as it came; it goes on by `protocol`.
    pub(super) fn of(request: &Request<Incoming>, protocol: Protocol) -> Self {
        Self {
            content: Content::of(request),
            has_content: !request.body().is_end_stream(),
            is_to_http2: matches!(protocol, Protocol::Http2 | Protocol::Grpc),
        }
    }

    /// Completes an answer of our own to a request whose content nobody reads.
    pub(super) async fn refused<G>(
        self,
        request: &mut Request<Incoming>,
        mut answer: Response<ResponseBody<G>>,
    ) -> Response<ResponseBody<G>> {
        let is_read = self.content.throw_away(request).await;
        self.content.answered(&mut answer, is_read);
        answer
    }

    /// Reads what could not be sent to the app, as far as it is worth a connection. Says why it could not.
    pub(super) async fn unsent<E>(self, mut error: SendError<E>) -> SendError<E> {
        if let SendError::Connect(_, unsent) | SendError::Unsent(_, unsent) = &mut error {
            self.content.throw_away(unsent).await;
        }
        error
    }

    /// Completes the answer to a request that was passed on: of ours the content may be unread.
    pub(super) fn answered<G>(self, answer: &mut Response<ResponseBody<G>>, meter: &Meter) {
        self.content.answered(answer, meter.is_whole());
    }

    /// Its answer once it was cut, with the exchange still there.
    ///
    /// # Errors
    /// No decision cut it: its connection ends.
    pub(super) async fn deny<G>(
        self,
        form: Form,
        meter: &Meter,
    ) -> Result<Response<ResponseBody<G>>, BodyError> {
        let mut denial = answer::denial(form, meter.decision().ok_or(BodyError::Cut)?);
        self.answered(&mut denial, meter);
        if self.has_content && self.is_to_http2 {
            // To drop the exchange cancels the stream, which servers are known to take for the end of the content. The content
            // breaks off first, as an error, by the task that sends it: that it does only while the app reads.
            let until_sent =
                poll_fn(|cx| if meter.poll_sent(cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
            let _ = tokio::time::timeout(PATIENCE, until_sent).await;
        }
        Ok(denial)
    }
}

/// Runs an exchange unless it is cut meanwhile; `None`: its caller can still be told so.
///
/// # Errors
/// It was cut as it changed to another protocol. What comes on the connection from here on nobody has looked at.
pub(super) async fn until_cut_as_http<T>(
    meter: &Meter,
    opaque: &Opaque,
    exchange: impl Future<Output = T>,
) -> Result<Option<T>, BodyError> {
    match until_cut(meter, exchange).await {
        None if opaque.has_begun() => Err(BodyError::Cut),
        outcome => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_as_it_changes_to_another_protocol_ends_with_its_connection() {
        let (meter, opaque) = (Meter::default(), Opaque::default());
        assert!(matches!(until_cut_as_http(&meter, &opaque, async { 1 }).await, Ok(Some(1))));
        let cut = async { meter.cut() };
        assert!(matches!(until_cut_as_http(&meter, &opaque, cut).await, Ok(None)), "it is told");

        // The app's 101 has come, and nothing of it is sent yet.
        let (meter, opaque) = (Meter::default(), Opaque::default());
        let changing = async {
            opaque.begin();
            meter.cut();
        };
        assert!(matches!(until_cut_as_http(&meter, &opaque, changing).await, Err(BodyError::Cut)));
    }
}
