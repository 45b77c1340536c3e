//! The content of a request that is answered without anybody reading it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http_body::Body;

/// How much of it is read and thrown away, so that its connection can serve the next request, and for how long.
const MOST: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads content to its end and throws it away, where it is little and comes at once. Whether it has ended: otherwise
/// nothing can follow it on its connection.
pub(crate) async fn discard<B: Body + Unpin>(content: &mut B) -> bool {
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

    #[tokio::test(start_paused = true)]
    async fn only_little_content_is_thrown_away() {
        assert!(discard(&mut Full::new(Bytes::from_static(b"little"))).await);
        assert!(!discard(&mut Full::new(Bytes::from(vec![0; 1 << 20]))).await);
        let unknown = futures_util::stream::pending::<Result<Frame<Bytes>, hyper::Error>>();
        assert!(!discard(&mut StreamBody::new(unknown)).await);
    }
}
