//! When a certificate is to be replaced by another.

use hauberk_identity::{UnixMillis, renewal_at};
use tokio::time::Instant;

use crate::random::fraction;

/// By two clocks, whichever is there first: the host's may be behind the control plane's, which has written the
/// certificate's end, and steady time may stand still while the host sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// By the host's clock.
    pub(crate) at: UnixMillis,
    /// By steady time.
    pub(crate) by: Instant,
}

impl Due {
    /// After a random part of its life, about half of it. `received`: what this host's clock told when it came, just now;
    /// `None` where it lay on disk, so that only that clock tells how old it is.
    pub(crate) fn of(issued_at: UnixMillis, not_after: UnixMillis, received: Option<UnixMillis>) -> Self {
        let part = fraction();
        // By a clock that is ahead only the rest of its life is left: without this it would be due before it came, and
        // so would the next one.
        let begins = received.map_or(issued_at, |received| received.max(issued_at));
        let after = renewal_at(issued_at, not_after, part).since(issued_at);
        Self { at: renewal_at(begins, not_after, part), by: Instant::now() + after }
    }

    /// Whether it is time.
    pub(crate) fn is_past(&self, now: UnixMillis) -> bool {
        now >= self.at || Instant::now() >= self.by
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_behind_keeps_no_certificate_past_its_half() {
        let issued_at = UnixMillis::from_secs(1_000_000);
        let not_after = issued_at.plus(60 * SECOND);
        let behind = issued_at.minus(120 * SECOND);
        let due = Due::of(issued_at, not_after, Some(behind));
        tokio::time::advance(23 * SECOND).await;
        assert!(!due.is_past(behind.plus(23 * SECOND)));
        tokio::time::advance(14 * SECOND).await;
        assert!(due.is_past(behind.plus(37 * SECOND)));
        // As where the host slept, and steady time stood still.
        let due = Due::of(issued_at, not_after, Some(issued_at));
        assert!(due.is_past(issued_at.plus(37 * SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_ahead_asks_for_no_other_at_once() {
        let issued_at = UnixMillis::from_secs(1_000_000);
        let not_after = issued_at.plus(60 * SECOND);
        let ahead = issued_at.plus(40 * SECOND);
        let due = Due::of(issued_at, not_after, Some(ahead));
        assert!(!due.is_past(ahead.plus(7 * SECOND)));
        assert!(due.is_past(ahead.plus(13 * SECOND)));
        // How long one has lain on disk only that clock tells.
        assert!(Due::of(issued_at, not_after, None).is_past(ahead));
    }
}
