//! How fast an agent is listened to.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};

/// Messages that an agent may send at once, and how many more each second. Above that it is read more slowly.
const BURST: u32 = 2_000;
const MESSAGES_PER_SECOND: u32 = 200;

/// A bucket of tokens, one for each message.
pub(super) struct Pace {
    tokens: u32,
    refilled: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { tokens: BURST, refilled: Instant::now() }
    }

    /// The next message, as soon as its turn has come. May be cancelled without loss.
    pub(super) async fn next<S>(&mut self, incoming: &mut S) -> Option<S::Item>
    where
        S: Stream + Unpin,
    {
        let interval = Duration::from_secs(1) / MESSAGES_PER_SECOND;
        let earned = self.refilled.elapsed().as_micros() / interval.as_micros();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(earned) >= BURST {
            (self.tokens, self.refilled) = (BURST, Instant::now());
        } else {
            self.tokens += earned;
            self.refilled += interval * earned;
        }
        if self.tokens == 0 {
            sleep_until(self.refilled + interval).await;
            (self.tokens, self.refilled) = (1, self.refilled + interval);
        }
        let message = incoming.next().await;
        self.tokens -= 1;
        message
    }
}
