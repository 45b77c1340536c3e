//! Answers that their program does not take.
//!
//! An answer waits here for as long as the program opens no window for it (RFC 9113 §5.2), and an answer may hold whole
//! revocation lists. So each stream has one of them at a time, and the next is made of what is true once that one is
//! written; a connection has few of them at once, whatever streams it has; and one that leaves an answer for too long
//! ends. Lists are shared, but each that was replaced takes memory while an answer with it waits: where many were
//! replaced, that is not waited for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::Frame;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tonic::body::Body;

use super::answers::{Answers, Encoded};
use super::told::RevocationLists;

/// How many there may be at once.
const AT_ONCE: usize = 8;

/// How long one may be left. It may be noticed as late again.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How many lists may come after the one in an answer before that one may be left for less time.
pub(super) const MOST_BEHIND: u64 = 8;
pub(super) const PATIENCE_BEHIND: Duration = Duration::from_secs(2);

/// Those of one connection.
#[derive(Debug)]
pub(super) struct Untaken {
    places: Arc<Semaphore>,
    left: Mutex<Slab<Left>>,
}

/// One of them.
#[derive(Debug)]
struct Left {
    since: Instant,
    /// The number of the revocation lists in it.
    list: Option<u64>,
}

/// What answers one request.
enum Answering {
    /// As tonic encodes it.
    Once(Body),
    Streaming(Answers),
}

/// The answers of one stream, each made only when there is a place for it.
pub(super) struct Counted {
    answering: Answering,
    /// Of the stream: one answer at a time.
    turn: PollSemaphore,
    /// Of the connection.
    places: PollSemaphore,
    untaken: Arc<Untaken>,
}

/// Bytes that have a place until they are written.
pub(super) struct Waiting {
    answer: Encoded,
    untaken: Arc<Untaken>,
    key: usize,
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Left {
    /// Until when it may be left, where this is the number of the latest list.
    fn until(&self, latest: u64) -> Instant {
        let is_behind = self.list.is_some_and(|list| latest.saturating_sub(list) > MOST_BEHIND);
        self.since + if is_behind { PATIENCE_BEHIND } else { PATIENCE }
    }
}

impl Untaken {
    /// None yet.
    pub(super) fn none() -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(AT_ONCE)), left: Mutex::default() })
    }

    /// Counts what this body holds, or these answers in its place.
    pub(super) fn of(self: &Arc<Self>, body: Body, streaming: Option<Answers>) -> Counted {
        Counted {
            answering: streaming.map_or(Answering::Once(body), Answering::Streaming),
            turn: PollSemaphore::new(Arc::new(Semaphore::new(1))),
            places: PollSemaphore::new(Arc::clone(&self.places)),
            untaken: Arc::clone(self),
        }
    }

    /// Waits until an answer has been left for too long.
    pub(super) async fn until_left(&self, mut lists: watch::Receiver<RevocationLists>) {
        loop {
            let latest = lists.borrow_and_update().number;
            let now = Instant::now();
            let end = self.left().iter().map(|(_, left)| left.until(latest)).min();
            if end.is_some_and(|end| end <= now) {
                return;
            }
            let changed = async {
                if lists.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(end.unwrap_or(now + PATIENCE)) => {}
            }
        }
    }

    fn left(&self) -> MutexGuard<'_, Slab<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Counted {
    type Data = Waiting;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Waiting>, Status>>> {
        let this = self.get_mut();
        // Nobody closes them.
        let Some(turn) = ready!(this.turn.poll_acquire(cx)) else { return Poll::Ready(None) };
        let Some(place) = ready!(this.places.poll_acquire(cx)) else { return Poll::Ready(None) };
        let frame = match &mut this.answering {
            Answering::Once(body) => ready!(Pin::new(body).poll_frame(cx))
                .map(|frame| frame.map(|frame| frame.map_data(Encoded::whole))),
            Answering::Streaming(answers) => ready!(Pin::new(answers).poll_frame(cx)),
        };
        let untaken = Arc::clone(&this.untaken);
        let keep = |answer: Encoded| {
            let key = untaken.left().insert(Left { since: Instant::now(), list: answer.list });
            Waiting { answer, untaken, key, _turn: turn, _place: place }
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(keep))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.answering {
            Answering::Once(body) => http_body::Body::is_end_stream(body),
            Answering::Streaming(answers) => http_body::Body::is_end_stream(answers),
        }
    }
}

impl Buf for Waiting {
    fn remaining(&self) -> usize {
        self.answer.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.answer.chunk()
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        self.answer.chunks_vectored(into)
    }

    fn advance(&mut self, count: usize) {
        self.answer.advance(count);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.untaken.left().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn lists() -> watch::Sender<RevocationLists> {
        watch::Sender::default()
    }

    /// A stream of answers with the latest list of all.
    fn streaming(untaken: &Arc<Untaken>, lists: &watch::Sender<RevocationLists>) -> Counted {
        let lists = lists.subscribe();
        let answers = futures_util::stream::repeat_with(move || {
            let RevocationLists { ders, number, .. } = lists.borrow().clone();
            let mut answer = Encoded::whole(ders.first().cloned().unwrap_or_default());
            answer.list = Some(number);
            Ok(answer)
        });
        untaken.of(Body::empty(), Some(Answers::new(answers)))
    }

    fn next(stream: &mut Counted) -> Option<Waiting> {
        stream.frame().now_or_never().flatten()?.unwrap().into_data().ok()
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_made_while_enough_of_them_wait() {
        let untaken = Untaken::none();
        let answer = || Body::new(Full::new(Bytes::from_static(b"answer")));
        let mut streams: Vec<_> = (0..AT_ONCE + 2).map(|_| untaken.of(answer(), None)).collect();
        let mut made: Vec<_> = streams.iter_mut().filter_map(next).collect();
        assert_eq!(made.len(), AT_ONCE);
        let lists = lists();
        assert!(untaken.until_left(lists.subscribe()).now_or_never().is_none());
        made.pop();
        let one_more = next(&mut streams[AT_ONCE]);
        assert!(one_more.is_some(), "one was taken");

        let since = Instant::now();
        untaken.until_left(lists.subscribe()).await;
        assert!((PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&since.elapsed()));
        drop((made, one_more, streams));
        assert_eq!(untaken.places.available_permits(), AT_ONCE);
        assert!(untaken.left().is_empty());
    }

    #[tokio::test]
    async fn a_stream_has_one_answer_at_a_time_and_then_the_latest() {
        let (untaken, lists) = (Untaken::none(), lists());
        let list = |number| RevocationLists {
            ders: [Bytes::from(vec![number; 4])].into(),
            complete: None,
            of_leaves: None,
            number: number.into(),
        };
        lists.send_replace(list(1));
        let mut stream = streaming(&untaken, &lists);
        let first = next(&mut stream).unwrap();
        for number in 2..=5 {
            lists.send_replace(list(number));
            assert!(next(&mut stream).is_none(), "the first is not written yet");
        }
        assert_eq!(first.chunk(), [1; 4]);
        drop(first);
        assert_eq!(next(&mut stream).unwrap().chunk(), [5; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_were_replaced_are_not_waited_for_as_long() {
        let (untaken, lists) = (Untaken::none(), lists());
        let mut stream = streaming(&untaken, &lists);
        let waiting = next(&mut stream).unwrap();
        let since = Instant::now();
        let mut left = std::pin::pin!(untaken.until_left(lists.subscribe()));
        for _ in 0..MOST_BEHIND {
            lists.send_modify(|list| list.number += 1);
        }
        assert!((&mut left).now_or_never().is_none());
        tokio::time::advance(PATIENCE_BEHIND).await;
        assert!((&mut left).now_or_never().is_none(), "it is not so far behind");
        lists.send_modify(|list| list.number += 1);
        left.await;
        assert!(since.elapsed() < PATIENCE);
        drop(waiting);
    }
}
