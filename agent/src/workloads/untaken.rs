//! Answers that their program does not take.
//!
//! An answer waits here for as long as the program opens no window for it (RFC 9113 §5.2), and an answer may hold a whole
//! revocation list. So a connection has few of them at once, whatever streams it has, and one that leaves an answer for too
//! long ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tonic::body::Body;

/// How many there may be at once.
const AT_ONCE: usize = 8;

/// How long one may be left. It may be noticed as late again.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Those of one connection.
#[derive(Debug)]
pub(super) struct Untaken {
    places: Arc<Semaphore>,
    since: Mutex<Slab<Instant>>,
}

/// The answers of one stream, each made only when there is a place for it.
pub(super) struct Answers {
    body: Body,
    places: PollSemaphore,
    untaken: Arc<Untaken>,
}

/// Bytes that have a place until they are written.
struct Waiting {
    bytes: Bytes,
    untaken: Arc<Untaken>,
    key: usize,
    _place: OwnedSemaphorePermit,
}

impl Untaken {
    /// None yet.
    pub(super) fn none() -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(AT_ONCE)), since: Mutex::default() })
    }

    /// Counts what this body holds.
    pub(super) fn of(self: &Arc<Self>, body: Body) -> Answers {
        let places = PollSemaphore::new(Arc::clone(&self.places));
        Answers { body, places, untaken: Arc::clone(self) }
    }

    /// Waits until an answer has been left for too long.
    pub(super) async fn until_left(&self) {
        loop {
            let oldest = self.since().iter().map(|(_, since)| *since).min();
            match oldest {
                Some(since) if since.elapsed() >= PATIENCE => return,
                _ => sleep_until(oldest.unwrap_or_else(Instant::now) + PATIENCE).await,
            }
        }
    }

    fn keep(self: &Arc<Self>, bytes: Bytes, place: OwnedSemaphorePermit) -> Bytes {
        let key = self.since().insert(Instant::now());
        Bytes::from_owner(Waiting { bytes, untaken: Arc::clone(self), key, _place: place })
    }

    fn since(&self) -> MutexGuard<'_, Slab<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        // Nobody closes it.
        let Some(place) = ready!(this.places.poll_acquire(cx)) else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| this.untaken.keep(bytes, place)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for Waiting {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.untaken.since().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_made_while_enough_of_them_wait() {
        let untaken = Untaken::none();
        let mut streams: Vec<_> = (0..AT_ONCE + 2)
            .map(|_| untaken.of(Body::new(Full::new(Bytes::from_static(b"answer")))))
            .collect();
        let mut made: Vec<_> =
            streams.iter_mut().filter_map(|stream| stream.frame().now_or_never()).flatten().collect();
        assert_eq!(made.len(), AT_ONCE);
        assert!(untaken.until_left().now_or_never().is_none());
        made.pop();
        let next = streams[AT_ONCE].frame().now_or_never();
        assert!(next.is_some(), "one was taken");

        let since = Instant::now();
        untaken.until_left().await;
        assert!((PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&since.elapsed()));
        drop((made, next, streams));
        assert_eq!(untaken.places.available_permits(), AT_ONCE);
        assert!(untaken.since().is_empty());
    }
}
