//! The one place that reads the clocks: that of the day, and the steady one. Everything else is given instants, or this clock.

mod past;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hauberk_identity::UnixMillis;
use rustix::time::{ClockId, clock_gettime};

use past::{Look, Past, Seen};

/// Tells the time of day.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    past: Arc<Mutex<Past>>,
}

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    of_day: AtomicU64,
    /// Milliseconds.
    steady: AtomicU64,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::of(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] moves it; for tests.
    pub fn manual(start: UnixMillis) -> Self {
        let of_day = AtomicU64::new(start.0);
        Self::of(Source::Manual(Arc::new(Manual { of_day, steady: AtomicU64::default() })))
    }

    fn of(source: Source) -> Self {
        let past = Arc::new(Mutex::new(Past::begin(source.look())));
        Self { source, past }
    }

    /// The time now.
    pub fn now(&self) -> UnixMillis {
        self.source.look().of_day
    }

    /// An instant that has surely passed, however wrong the clock may be set now: by it goes what could not be undone. It is the
    /// time now, but for an hour after a start, and where the time of day went further than steady time did.
    pub fn surely_past(&self) -> UnixMillis {
        self.see().surely_past
    }

    /// The same for what takes nothing away: the time now, but for an hour after it went further than steady time did. A clock that
    /// is set wrong is mended by then; and where it was set right, nobody waits for longer.
    pub fn likely_past(&self) -> UnixMillis {
        self.see().likely_past
    }

    /// The time now, or what it should be where the clock was set back: nothing has happened later.
    pub fn latest(&self) -> UnixMillis {
        self.see().latest
    }

    /// By how much the time of day went further than steady time, while it is not believed for that.
    pub fn ahead(&self) -> Option<Duration> {
        self.see().ahead
    }

    /// How long it takes until the time of day is believed, if nobody sets it until then; nothing where it is.
    pub fn believed_in(&self) -> Duration {
        self.see().believed_in
    }

    fn see(&self) -> Seen {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.look(self.source.look())
    }

    /// Lets time pass on a manual clock, and all its clones; the system's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.source {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            manual.of_day.fetch_add(by, Ordering::AcqRel);
            manual.steady.fetch_add(by, Ordering::AcqRel);
        }
    }

    /// Sets a manual clock, and all its clones, as an operator or a time server does: no time passes.
    pub fn set(&self, to: UnixMillis) {
        if let Source::Manual(manual) = &self.source {
            manual.of_day.store(to.0, Ordering::Release);
        }
    }
}

impl Source {
    fn look(&self) -> Look {
        match self {
            Self::System => Look { of_day: system_now(), steady: steady() },
            Self::Manual(manual) => Look {
                of_day: UnixMillis(manual.of_day.load(Ordering::Acquire)),
                steady: Duration::from_millis(manual.steady.load(Ordering::Acquire)),
            },
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
fn system_now() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// What nobody sets. It goes on while the host sleeps, as the time of day does.
fn steady() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
