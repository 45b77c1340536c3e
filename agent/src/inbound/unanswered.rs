//! What the caller of a request is told that is cut before it was answered.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use hauberk_policy::Protocol;
use http::{Request, Response, Version, header};
use hyper::body::{Body, Incoming};

use crate::wire::answer::{self, Form};
use crate::wire::body::{BodyError, ResponseBody};
use crate::wire::headers::CLOSE;
use crate::wire::meter::{Meter, until_cut};
use crate::wire::strict::Opaque;

/// How long an app over HTTP/2 that takes nothing may delay the end of a request.
const PATIENCE: Duration = Duration::from_millis(50);

/// A request on its way to the app.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered {
    has_content: bool,
    is_from_http1: bool,
    is_to_http2: bool,
}

impl Unanswered {
    /// This one, which goes on by `protocol`.
    pub(super) fn of(request: &Request<Incoming>, protocol: Protocol) -> Self {
        Self {
            has_content: !request.body().is_end_stream(),
            is_from_http1: request.version() < Version::HTTP_2,
            is_to_http2: matches!(protocol, Protocol::Http2 | Protocol::Grpc),
        }
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
        if self.has_content && self.is_from_http1 && !meter.is_whole() {
            // Of the rest nobody reads.
            denial.headers_mut().insert(header::CONNECTION, CLOSE);
        }
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
