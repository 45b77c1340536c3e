//! What has passed, and whether it may go on.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;
use http::HeaderMap;

use super::headers;
use crate::decisions::DecisionId;
use crate::metrics::Traffic;

/// What gRPC calls it.
const PERMISSION_DENIED: u8 = 7;

/// The meter and the valve of one request or stream: its two directions count here, and both stop when it is cut.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    is_cut: AtomicBool,
    /// The decision by which it may not go on, where it was cut by one.
    decision: OnceLock<Box<str>>,
    /// Nobody sends the request's body any more.
    is_sent: AtomicBool,
    /// All of it has come.
    is_whole: AtomicBool,
    /// An answer is on its way to the caller.
    is_answering: AtomicBool,
    /// Why the caller's side came to no end.
    left: OnceLock<&'static str>,
    /// How the answer broke off.
    broken: OnceLock<Broken>,
    /// One more than what gRPC calls the status; 0 where none has been seen.
    grpc_status: AtomicU8,
    /// What all of its listener or service have in common.
    shared: Option<Arc<Traffic>>,
    incoming: AtomicWaker,
    outgoing: AtomicWaker,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the caller.
    In,
    /// To the caller.
    Out,
}

/// How an answer broke off on its way from where it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The called node's agent ended the call by a denial, of which there was no more to be told.
    Denied,
    /// The server broke it off, or went.
    Off,
}

// Who waits and who is waited for each note something of their own, and then look at the other's. So that one of them
// sees the other, there is one order of all of this (SeqCst).
impl Meter {
    /// Also counts in `shared`, while bytes pass: a stream may last for days.
    pub(crate) fn adding_to(shared: &Arc<Traffic>) -> Self {
        Self { shared: Some(Arc::clone(shared)), ..Self::default() }
    }

    /// Ends both directions, wherever they wait.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.incoming.wake();
        self.outgoing.wake();
    }

    /// The same by this decision, whose id its caller is given where it can still be told.
    pub(crate) fn cut_by(&self, decision: &DecisionId) {
        self.note_decision(decision.as_str());
        self.cut();
    }

    /// Notes that it ended by this decision.
    pub(crate) fn note_decision(&self, id: &str) {
        let _ = self.decision.set(id.into());
    }

    /// The id of the decision by which it ended, if it was one that ended it.
    pub(crate) fn decision(&self) -> Option<&str> {
        self.decision.get().map(AsRef::as_ref)
    }

    /// Whether it has been cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Whether it has been cut; if not, `waker` is woken when it is.
    pub(crate) fn poll_cut(&self, direction: Direction, waker: &Waker) -> bool {
        match direction {
            Direction::In => self.incoming.register(waker),
            Direction::Out => self.outgoing.register(waker),
        }
        self.is_cut()
    }

    /// Notes that nobody sends the request's body any more: it has been sent, or never will be.
    pub(crate) fn sent(&self) {
        self.is_sent.store(true, Ordering::SeqCst);
        if self.is_cut() {
            self.outgoing.wake();
        }
    }

    /// Whether nothing of the request's body is left to send.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::SeqCst)
    }

    /// The same; if not, `waker` is woken once it is, where it was cut.
    pub(crate) fn poll_sent(&self, waker: &Waker) -> bool {
        self.outgoing.register(waker);
        self.is_sent()
    }

    /// Notes that all of the request's body has come.
    pub(crate) fn note_whole(&self) {
        self.is_whole.store(true, Ordering::Release);
    }

    /// Whether all of the request's body has come: nothing of it is left on its caller's connection.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Notes whether an answer is on its way to the caller.
    pub(crate) fn set_answering(&self, is_answering: bool) {
        self.is_answering.store(is_answering, Ordering::Release);
    }

    /// Whether the caller has not taken all of an answer.
    pub(crate) fn is_answering(&self) -> bool {
        self.is_answering.load(Ordering::Acquire)
    }

    /// Notes that the answer broke off.
    pub(crate) fn break_off(&self, broken: Broken) {
        let _ = self.broken.set(broken);
    }

    /// How the answer broke off, if it did.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.get().copied()
    }

    /// Notes that the request comes to no end, by its caller's fault. The name is what the caller is given.
    pub(crate) fn leave(&self, reason: &'static str) {
        let _ = self.left.set(reason);
    }

    /// Why the request came to no end, where it is its caller's fault: whatever then fails is not the server's.
    pub(crate) fn left(&self) -> Option<&'static str> {
        self.left.get().copied()
    }

    /// Adds bytes that have passed.
    pub(crate) fn count(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(shared) = &self.shared {
            shared.count(direction, bytes as u64);
        }
    }

    /// Notes how a gRPC call ended, if these headers or trailers tell.
    pub(crate) fn note_grpc_status(&self, headers: &HeaderMap) {
        if let Some(status) = headers::grpc_status(headers) {
            self.set_grpc_status(status);
        }
    }

    /// Notes that a gRPC call ended by a denial.
    pub(crate) fn note_denied_call(&self) {
        self.set_grpc_status(PERMISSION_DENIED);
    }

    fn set_grpc_status(&self, status: u8) {
        self.grpc_status.store(status.saturating_add(1), Ordering::Relaxed);
    }

    /// How a gRPC call ended, if it was one and is known.
    pub(crate) fn grpc_status(&self) -> Option<u8> {
        self.grpc_status.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Bytes from the caller, and to the caller.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }
}

/// Runs `work` unless it is cut meanwhile.
pub(crate) async fn until_cut<T>(meter: &Meter, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        if meter.poll_cut(Direction::Out, cx.waker()) {
            return Poll::Ready(None);
        }
        // Asked once more: what came about while it was being cut is nobody's any longer.
        work.as_mut().poll(cx).map(|done| (!meter.is_cut()).then_some(done))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_ends_while_it_is_cut_is_not_handed_on() {
        let meter = Meter::default();
        assert_eq!(until_cut(&meter, async { 1 }).await, Some(1));
        assert_eq!(until_cut(&meter, async { meter.cut() }).await, None);
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_of_a_body_that_was_cut_is_woken() {
        let meter = Meter::default();
        meter.cut();
        let until_sent =
            || poll_fn(|cx| if meter.poll_sent(cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
        tokio::join!(until_sent(), async { meter.sent() });
        until_sent().await;
    }
}
