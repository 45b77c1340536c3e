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

/// How long such a time of day goes on before it is acted on where nothing is lost by that: who sets a clock wrong mends it sooner, and
/// a machine that was paused, or whose clock was behind for months, cannot wait for a day.
const LIKELY_AFTER_LEAP: Duration = Duration::from_secs(3_600);

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
    pub(super) likely_past: UnixMillis,
    /// No earlier than the time of day, nor than it should be.
    pub(super) latest: UnixMillis,
    pub(super) ahead: Option<Duration>,
    /// For how long it goes on as it does before it is believed; nothing where it is.
    pub(super) believed_in: Duration,
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
            return Seen {
                surely_past: now.of_day,
                likely_past: now.of_day,
                latest: now.of_day,
                ahead: None,
                believed_in: Duration::ZERO,
            };
        }
        let expected = self.last.leads_to(now.steady);
        let latest = expected.max(now.of_day);
        let surely_past = if self.is_believed { expected.min(now.of_day) } else { UnixMillis(0) };
        let ahead = Some(now.of_day.since(expected)).filter(|ahead| *ahead > TOLERATED);
        // What a start finds is as good as anything, until it leaps.
        let is_likely =
            (!self.is_believed && self.last.goes_on_in(&now)) || self.doubted_for(now) >= LIKELY_AFTER_LEAP;
        let likely_past = if is_likely { now.of_day } else { surely_past };
        let believed_in = self.believed_after().saturating_sub(self.doubted_for(now));
        Seen { surely_past, likely_past, latest, ahead, believed_in }
    }

    fn doubted_for(&self, now: Look) -> Duration {
        self.doubted.map(|since| now.steady.saturating_sub(since.steady)).unwrap_or_default()
    }

    /// Whether the time of day has gone on for long enough since it was set, or since the start.
    fn has_proved_itself(&mut self, now: Look) -> bool {
        let since = self.doubted.filter(|since| since.goes_on_in(&now)).unwrap_or(now);
        self.doubted = Some(since);
        self.doubted_for(now) >= self.believed_after()
    }

    fn believed_after(&self) -> Duration {
        if self.is_believed { BELIEVED_AFTER_LEAP } else { BELIEVED_AFTER_START }
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

    /// What surely has passed, and by how much the clock is ahead.
    type Guarded = (UnixMillis, Option<Duration>);

    fn seen(surely_past: u64, ahead: Option<u64>) -> Guarded {
        (UnixMillis(surely_past), ahead.map(Duration::from_millis))
    }

    impl PartialEq<Guarded> for Seen {
        fn eq(&self, (surely_past, ahead): &Guarded) -> bool {
            (self.surely_past, self.ahead) == (*surely_past, *ahead)
        }
    }

    #[test]
    fn what_a_leap_brings_is_likely_after_an_hour_and_what_a_start_finds_at_once() {
        let mut past = believed();
        let step = 91 * 24 * HOUR;
        let mut likely = |after: u64| past.look(look(NOON + step + after, HOUR + after)).likely_past.0;
        assert_eq!(likely(0), NOON);
        assert_eq!(likely(HOUR - 1), NOON + HOUR - 1);
        assert_eq!(likely(HOUR), NOON + step + HOUR);
        // Mended after all.
        assert_eq!(past.look(look(NOON + 2 * HOUR, 3 * HOUR)).likely_past.0, NOON + 2 * HOUR);

        let mut past = Past::begin(look(NOON, 0));
        assert_eq!(past.look(look(NOON + 10, 10)).likely_past.0, NOON + 10);
        assert_eq!(past.look(look(NOON + step, 20)).likely_past.0, 0);
    }

    #[test]
    fn while_it_is_set_back_the_latest_is_what_it_should_be() {
        let mut past = believed();
        assert_eq!(past.look(look(NOON - 48 * HOUR, HOUR + 10)).latest.0, NOON + 10);
        assert_eq!(past.look(look(NOON + 48 * HOUR, HOUR + 20)).latest.0, NOON + 48 * HOUR);
        assert_eq!(past.look(look(NOON + 30, HOUR + 30)).latest.0, NOON + 30);
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
    fn when_it_is_believed_is_known_as_long_as_nobody_sets_it() {
        let hours = |hours: u64| Duration::from_millis(hours * HOUR);
        let mut past = Past::begin(look(NOON, 0));
        let mut believed_in = |of_day, steady| past.look(look(of_day, steady)).believed_in;
        assert_eq!(believed_in(NOON, 0), hours(1));
        assert_eq!(believed_in(NOON + HOUR / 4, HOUR / 4), hours(1) * 3 / 4);
        assert_eq!(believed_in(NOON + HOUR, HOUR), Duration::ZERO);
        // It leaps.
        assert_eq!(believed_in(NOON + 9 * HOUR, 2 * HOUR), hours(25));
        assert_eq!(believed_in(NOON + 10 * HOUR, 3 * HOUR), hours(24));
        assert_eq!(believed_in(NOON + 3 * HOUR, 3 * HOUR), Duration::ZERO);
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
