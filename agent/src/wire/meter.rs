//! What has passed, and whether it may go on.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;

/// The meter and the valve of one request or stream: its two directions count here, and both stop when it is cut.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    is_cut: AtomicBool,
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

impl Meter {
    /// Ends both directions, wherever they wait.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.incoming.wake();
        self.outgoing.wake();
    }

    /// Whether it has been cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Whether it has been cut; if not, `waker` is woken when it is.
    pub(crate) fn poll_cut(&self, direction: Direction, waker: &Waker) -> bool {
        match direction {
            Direction::In => self.incoming.register(waker),
            Direction::Out => self.outgoing.register(waker),
        }
        self.is_cut()
    }

    /// Adds bytes that have passed.
    pub(crate) fn count(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
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
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
