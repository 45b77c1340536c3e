//! What to do while the system has no socket to give.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// How long to wait after the first refusal; twice as long after each further one, up to the most. After as long again
/// without any it is over.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often it is told: whoever has no files left is not helped by a full disk.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The refusals that one listener meets.
#[derive(Debug)]
pub(crate) struct Refusals {
    listener: String,
    pause: Duration,
    last: Option<Instant>,
    told: Option<Instant>,
}

impl Refusals {
    /// None yet, at the listener of this name.
    pub(crate) fn at(listener: impl Into<String>) -> Self {
        Self { listener: listener.into(), pause: PAUSE, last: None, told: None }
    }

    /// Waits before the next try.
    pub(crate) async fn wait(&mut self, error: &io::Error) {
        if self.last.is_none_or(|last| last.elapsed() > 2 * MAX_PAUSE) {
            self.pause = PAUSE;
        }
        self.tell(error);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.last = Some(Instant::now());
    }

    /// Tells why a connection is not taken, now and then.
    pub(crate) fn tell(&mut self, error: &dyn std::error::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(event = "accept_failed", listener = self.listener, %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_longer_each_time_until_it_is_over() {
        let mut refusals = Refusals::at("test");
        let error = io::Error::from_raw_os_error(24);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let since = Instant::now();
            refusals.wait(&error).await;
            waits.push(since.elapsed().as_millis());
        }
        assert!(waits.is_sorted() && waits[0] < 100 && (1_000..1_100).contains(&waits[6]), "{waits:?}");
        let told = refusals.told;
        tokio::time::sleep(3 * MAX_PAUSE).await;
        let since = Instant::now();
        refusals.wait(&error).await;
        assert!(since.elapsed() < Duration::from_millis(100));
        assert_eq!(refusals.told, told);
    }
}
