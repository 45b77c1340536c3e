//! The content of a request that is answered without anybody reading it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response, Version, header};
use http_body::Body;

use super::body::ResponseBody;
use super::headers::CLOSE;

/// How much of it is read and thrown away, so that its connection can serve the next request, and for how long.
const MOST: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_millis(50);

/// What becomes of the connection that a request came on, where we answer it ourselves and perhaps nobody reads its
/// content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content {
    /// To leave it unread would end the connection, of which whoever sends the requests has to be told.
    may_be_unread: bool,
    /// Its sender waits for a word before it sends it.
    is_held_back: bool,
}

impl Content {
    /// That of this request, as it came.
    pub(crate) fn of<B: Body>(request: &Request<B>) -> Self {
        Self {
            may_be_unread: request.version() < Version::HTTP_2 && !request.body().is_end_stream(),
            is_held_back: request.headers().contains_key(header::EXPECT),
        }
    }

    /// Reads what nobody is going to read, as far as it is worth a connection. Whether nothing of it is left there.
    pub(crate) async fn throw_away<B: Body + Unpin>(self, request: &mut Request<B>) -> bool {
        !self.may_be_unread || !self.is_held_back && Box::pin(discard(request.body_mut())).await
    }

    /// Completes an answer: after one of ours the connection ends, unless all of the content was read.
    pub(crate) fn answered<G>(self, answer: &mut Response<ResponseBody<G>>, is_read: bool) {
        if self.may_be_unread && !is_read && matches!(answer.body(), ResponseBody::Own(_)) {
            answer.headers_mut().insert(header::CONNECTION, CLOSE);
        }
    }
}

/// Reads content to its end and throws it away, where it is little and comes at once. Whether it has ended: otherwise
/// nothing can follow it on its connection.
async fn discard<B: Body + Unpin>(content: &mut B) -> bool {
    if content.size_hint().exact().is_none_or(|length| length > MOST) {
        return false;
    }
    let rest = async {
        loop {
            match poll_fn(|cx| Pin::new(&mut *content).poll_frame(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn the_connection_ends_only_after_content_that_is_left_there() {
        let ends = async |request: &mut Request<Full<Bytes>>| {
            let content = Content::of(request);
            let mut answer = Response::new(ResponseBody::<()>::empty());
            let is_read = content.throw_away(request).await;
            content.answered(&mut answer, is_read);
            answer.headers().contains_key(header::CONNECTION)
        };
        let of = |length| Request::new(Full::new(Bytes::from(vec![0; length])));
        assert!(!ends(&mut of(0)).await && !ends(&mut of(6)).await && ends(&mut of(1 << 20)).await);
        let mut held_back = of(6);
        held_back.headers_mut().insert(header::EXPECT, http::HeaderValue::from_static("100-continue"));
        assert!(ends(&mut held_back).await);
        let mut over_http2 = of(1 << 20);
        *over_http2.version_mut() = Version::HTTP_2;
        assert!(!ends(&mut over_http2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_little_content_is_thrown_away() {
        assert!(discard(&mut Full::new(Bytes::from_static(b"little"))).await);
        assert!(!discard(&mut Full::new(Bytes::from(vec![0; 1 << 20]))).await);
        let unknown = futures_util::stream::pending::<Result<Frame<Bytes>, hyper::Error>>();
        assert!(!discard(&mut StreamBody::new(unknown)).await);
    }
}
