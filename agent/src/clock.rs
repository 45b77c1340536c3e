//! The one place that reads the time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hauberk_identity::UnixMillis;

/// A clock, made once in `app.rs` (or by a test) and handed to whoever needs the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Steady { base: UnixMillis, since: tokio::time::Instant },
}

impl Clock {
    /// The system's clock, which an administrator may set while we run.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `base` now and goes on with tokio's time, which tests can pause and advance.
    pub fn starting_at(base: UnixMillis) -> Self {
        Self(Source::Steady { base, since: tokio::time::Instant::now() })
    }

    /// The time of day.
    pub fn now(&self) -> UnixMillis {
        match self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else asks")]
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                UnixMillis(millis(since_epoch))
            }
            Source::Steady { base, since } => base.plus(since.elapsed()),
        }
    }
}

/// A span of time in whole milliseconds, as lines of the log tell it; the most that there is where it is longer.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
