//! How fast an agent is listened to.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};

/// Messages that an agent may send at once, and how many more each second. Above that it is read more slowly.
const BURST: u32 = 2_000;
const MESSAGES_PER_SECOND: u32 = 200;

/// For how many messages a registration counts: all who call the node are told of it, so that ten are taken at once and then
/// one each second.
pub(super) const REGISTRATION: u32 = 200;

/// Decisions that are taken of an agent at once (as many as it keeps while it is away, and some more), and how many more
/// each second: what it is told to send at the most.
const DECISIONS_AT_ONCE: usize = 2_048;
const DECISIONS_PER_SECOND: usize = *super::DECISIONS_PER_AGENT.end();

/// How many decisions are taken of an agent.
pub(super) struct DecisionPace {
    left: usize,
    refilled: Instant,
}

impl DecisionPace {
    pub(super) fn new() -> Self {
        Self { left: DECISIONS_AT_ONCE, refilled: Instant::now() }
    }

    /// How many of `count` are taken now; the others are not waited for.
    pub(super) fn take(&mut self, count: usize) -> usize {
        let seconds = usize::try_from(self.refilled.elapsed().as_secs()).unwrap_or(usize::MAX);
        if seconds > 0 {
            let earned = seconds.saturating_mul(DECISIONS_PER_SECOND);
            self.left = self.left.saturating_add(earned).min(DECISIONS_AT_ONCE);
            self.refilled = Instant::now();
        }
        let taken = count.min(self.left);
        self.left -= taken;
        taken
    }
}

/// A bucket of tokens, one for each message.
pub(super) struct Pace {
    tokens: u32,
    refilled: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { tokens: BURST, refilled: Instant::now() }
    }

    /// What was said last counts for so many messages.
    pub(super) fn charge(&mut self, messages: u32) {
        let more = messages.saturating_sub(1);
        let at_once = more.min(self.tokens);
        self.tokens -= at_once;
        // What is not there is earned before anything else.
        self.refilled += Duration::from_secs(1) / MESSAGES_PER_SECOND * (more - at_once);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_charged_is_earned_before_more_is_heard() {
        let mut messages = futures_util::stream::repeat(());
        let mut pace = Pace::new();
        let begun = Instant::now();
        let mut register = async || {
            pace.next(&mut messages).await.unwrap();
            pace.charge(REGISTRATION);
            begun.elapsed().as_millis()
        };
        for _ in 0..10 {
            assert_eq!(register().await, 0);
        }
        assert!((0..50).contains(&register().await));
        assert!((1_000..1_050).contains(&register().await));
        assert!((2_000..2_050).contains(&register().await));
    }
}
