//! What has surely passed: the time of day, held against the steady time since the last look at it.
//!
//! Whoever sets a clock wrong, or a host that starts with a wrong one, mends it soon. What was forgotten meanwhile is gone all the
//! same, and a revocation that is forgotten lets somebody in.

use std::time::Duration;

use hauberk_identity::UnixMillis;

/// By how much the time of day may differ from what steady time says.
const TOLERATED: Duration = Duration::from_secs(300);

/// How long a control plane runs before the time of day that it began with is believed: a host that starts may have a wrong one until
/// it has asked others.
const BELIEVED_AFTER_START: Duration = Duration::from_secs(3_600);

/// How long a time of day goes on that came by a leap before it is believed: what was issued before the leap has ended by then, be
/// the clock right or wrong.
const BELIEVED_AFTER_LEAP: Duration = Duration::from_secs(25 * 3_600);

/// Both clocks at one instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) of_day: UnixMillis,
    pub(super) steady: Duration,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) surely_past: UnixMillis,
    pub(super) ahead: Option<Duration>,
}

/// What is remembered of earlier looks.
#[derive(Debug)]
pub(super) struct Past {
    /// The last at which the time of day was believed, or that of the start.
    last: Look,
    is_believed: bool,
    /// Since when it goes on as it does, while it is not believed.
    doubted: Option<Look>,
}

impl Look {
    /// What the time of day should be by now.
    fn leads_to(&self, steady: Duration) -> UnixMillis {
        self.of_day.plus(steady.saturating_sub(self.steady))
    }

    /// Whether nobody has set the clock between the two.
    fn goes_on_in(&self, later: &Self) -> bool {
        let expected = self.leads_to(later.steady);
        expected.since(later.of_day).max(later.of_day.since(expected)) <= TOLERATED
    }
}

impl Past {
    pub(super) fn begin(start: Look) -> Self {
        Self { last: start, is_believed: false, doubted: Some(start) }
    }

    pub(super) fn look(&mut self, now: Look) -> Seen {
        if (self.is_believed && self.last.goes_on_in(&now)) || self.has_proved_itself(now) {
            *self = Self { last: now, is_believed: true, doubted: None };
            return Seen { surely_past: now.of_day, ahead: None };
        }
        let expected = self.last.leads_to(now.steady);
        let surely_past = if self.is_believed { expected.min(now.of_day) } else { UnixMillis(0) };
        let ahead = Some(now.of_day.since(expected)).filter(|ahead| *ahead > TOLERATED);
        Seen { surely_past, ahead }
    }

    /// Whether the time of day has gone on for long enough since it was set, or since the start.
    fn has_proved_itself(&mut self, now: Look) -> bool {
        let since = self.doubted.filter(|since| since.goes_on_in(&now)).unwrap_or(now);
        self.doubted = Some(since);
        let after = if self.is_believed { BELIEVED_AFTER_LEAP } else { BELIEVED_AFTER_START };
        now.steady.saturating_sub(since.steady) >= after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_790_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn look(of_day: u64, steady: u64) -> Look {
        Look { of_day: UnixMillis(of_day), steady: Duration::from_millis(steady) }
    }

    /// One that has run for an hour.
    fn believed() -> Past {
        let mut past = Past::begin(look(NOON - HOUR, 0));
        assert_eq!(past.look(look(NOON - 1, HOUR - 1)), seen(0, None));
        assert_eq!(past.look(look(NOON, HOUR)), seen(NOON, None));
        past
    }

    fn seen(surely_past: u64, ahead: Option<u64>) -> Seen {
        Seen { surely_past: UnixMillis(surely_past), ahead: ahead.map(Duration::from_millis) }
    }

    #[test]
    fn a_clock_that_is_set_ahead_is_believed_once_it_is_right_again() {
        for step in [2 * HOUR, 400 * 24 * HOUR] {
            let mut past = believed();
            assert_eq!(past.look(look(NOON + 10 + step, HOUR + 10)), seen(NOON + 10, Some(step)));
            assert_eq!(past.look(look(NOON + HOUR + step, 2 * HOUR)), seen(NOON + HOUR, Some(step)));
            assert_eq!(past.look(look(NOON + 2 * HOUR, 3 * HOUR)), seen(NOON + 2 * HOUR, None));
        }
    }

    #[test]
    fn or_once_it_has_gone_on_for_longer_than_anything_lives_that_was_issued_before() {
        let mut past = believed();
        let leapt = NOON + 2 * HOUR;
        assert_eq!(past.look(look(leapt, HOUR)), seen(NOON, Some(2 * HOUR)));
        let almost = 25 * HOUR - 1;
        assert_eq!(past.look(look(leapt + almost, HOUR + almost)), seen(NOON + almost, Some(2 * HOUR)));
        assert_eq!(past.look(look(leapt + 25 * HOUR, 26 * HOUR)), seen(leapt + 25 * HOUR, None));
    }

    #[test]
    fn who_sets_it_again_begins_anew() {
        let mut past = believed();
        past.look(look(NOON + 2 * HOUR, HOUR));
        let step = 3 * HOUR;
        assert_eq!(past.look(look(NOON + 24 * HOUR + step, 25 * HOUR)), seen(NOON + 24 * HOUR, Some(step)));
        let later = 26 * HOUR;
        assert_eq!(past.look(look(NOON + later + step, HOUR + later)), seen(NOON + later, Some(step)));
    }

    #[test]
    fn what_a_start_finds_is_believed_after_an_hour_without_being_set() {
        let mut past = Past::begin(look(NOON, 0));
        assert_eq!(past.look(look(NOON + HOUR + 2 * HOUR, HOUR)), seen(0, Some(2 * HOUR)));
        assert_eq!(past.look(look(NOON + 2 * HOUR, 2 * HOUR)), seen(0, None));
        assert_eq!(past.look(look(NOON + 3 * HOUR, 3 * HOUR)), seen(NOON + 3 * HOUR, None));
    }

    #[test]
    fn a_clock_that_is_set_back_is_followed() {
        let mut past = believed();
        assert_eq!(past.look(look(NOON - 2 * HOUR, HOUR)), seen(NOON - 2 * HOUR, None));
        assert_eq!(past.look(look(NOON + HOUR, 2 * HOUR)), seen(NOON + HOUR, None));
    }

    #[test]
    fn small_corrections_are_no_leap_however_many() {
        let (mut past, mut now) = (believed(), NOON);
        for hours in 2..1_000 {
            now += HOUR + 299_000;
            assert_eq!(past.look(look(now, hours * HOUR)), seen(now, None));
        }
    }
}
