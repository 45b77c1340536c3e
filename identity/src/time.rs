//! Instants, validity windows and the instant at which a certificate is renewed.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

const MILLIS_PER_SECOND: u64 = 1_000;
const MILLIS_PER_DAY: u64 = 86_400_000;

/// How far the beginning of what proves somebody lies before its issuance, for clocks that go slow.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// An instant: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// All arithmetic saturates. `Display` prints RFC 3339 in UTC, with a fraction only where there is one; `{:.3}` prints
/// milliseconds always, for logs whose lines are sorted and cut by column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The instant `secs` whole seconds after the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(MILLIS_PER_SECOND))
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / MILLIS_PER_SECOND
    }

    /// This instant without its fraction of a second, as a certificate can hold it.
    pub const fn floor_to_second(self) -> Self {
        Self::from_secs(self.as_secs())
    }

    /// The instant `span` later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(to_millis(span)))
    }

    /// The instant `span` earlier, at least the epoch.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(to_millis(span)))
    }

    /// The time that has passed since `earlier`; zero where `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn to_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / MILLIS_PER_DAY);
        let of_day = self.0 % MILLIS_PER_DAY;
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match (of_day % MILLIS_PER_SECOND, f.precision()) {
            (0, None) => f.write_str("Z"),
            (millis, _) => write!(f, ".{millis:03}Z"),
        }
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day comes last and every month's start is a linear function of
/// its number; 400 years are always 146,097 days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_EPOCH: u64 = 719_468; // from 0000-03-01
    let days = days + DAYS_TO_EPOCH;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The window in which a certificate is valid, both ends included (RFC 5280 §4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Validity {
    not_before: UnixMillis,
    not_after: UnixMillis,
}

/// A window would end before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("validity ends at {not_after}, before it begins at {not_before}")]
pub struct ValidityError {
    not_before: UnixMillis,
    not_after: UnixMillis,
}

impl Validity {
    /// A window from `not_before` to `not_after`.
    ///
    /// # Errors
    /// `not_after` is the earlier.
    pub fn new(not_before: UnixMillis, not_after: UnixMillis) -> Result<Self, ValidityError> {
        if not_after < not_before {
            return Err(ValidityError { not_before, not_after });
        }
        Ok(Self { not_before, not_after })
    }

    /// The first instant that is valid.
    pub fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// The last instant that is valid.
    pub fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Whether `now` lies in the window.
    pub fn contains(&self, now: UnixMillis) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The time from `now` to the end; zero once it is over.
    pub fn remaining(&self, now: UnixMillis) -> Duration {
        self.not_after.since(now)
    }
}

/// The instant at which to renew a certificate issued at `issued`: half its life, ±10 % of that half.
///
/// `jitter` between 0 and 1 chooses within the ±10 % (0.5 is exactly half life), so that a fleet started together
/// does not renew together; values outside are clamped.
pub fn renewal_at(issued: UnixMillis, not_after: UnixMillis, jitter: f64) -> UnixMillis {
    let jitter = if jitter.is_nan() { 0.5 } else { jitter.clamp(0.0, 1.0) };
    let half_life = not_after.since(issued) / 2;
    issued.plus(half_life.mul_f64(0.9 + 0.2 * jitter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_790_000_000_001, "2026-09-21T14:13:20.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixMillis(millis).to_string(), text);
        }
        assert_eq!(format!("{:.3}", UnixMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(format!("{:.3}", UnixMillis(1_709_251_199_999)), "2024-02-29T23:59:59.999Z");
        UnixMillis(u64::MAX).to_string();
    }

    #[test]
    fn windows_include_both_ends() {
        let (start, end) = (UnixMillis(1_000), UnixMillis(2_000));
        let validity = Validity::new(start, end).unwrap();
        assert!(validity.contains(start) && validity.contains(end));
        assert!(!validity.contains(UnixMillis(999)) && !validity.contains(UnixMillis(2_001)));
        assert_eq!(validity.remaining(UnixMillis(1_400)), Duration::from_millis(600));
        assert_eq!(validity.remaining(UnixMillis(9_000)), Duration::ZERO);
        assert!(Validity::new(end, start).is_err());
    }

    #[test]
    fn renews_about_half_life() {
        let (issued, end) = (UnixMillis(1_000_000), UnixMillis(3_000_000));
        assert_eq!(renewal_at(issued, end, 0.0), UnixMillis(1_900_000));
        assert_eq!(renewal_at(issued, end, 0.5), UnixMillis(2_000_000));
        assert_eq!(renewal_at(issued, end, 1.0), UnixMillis(2_100_000));
        assert_eq!(renewal_at(issued, end, f64::NAN), UnixMillis(2_000_000));
        assert_eq!(renewal_at(issued, end, 7.0), UnixMillis(2_100_000));
        assert_eq!(renewal_at(end, issued, 0.3), end);
    }

    proptest! {
        #[test]
        fn consecutive_days_have_consecutive_dates(day in 0u64..4_000_000) {
            let (today, tomorrow) = (civil_from_days(day), civil_from_days(day + 1));
            prop_assert!(tomorrow > today);
            prop_assert!(tomorrow == (today.0, today.1, today.2 + 1) || tomorrow.2 == 1);
            prop_assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
        }

        #[test]
        fn arithmetic_saturates(a: u64, span: u64) {
            let (instant, span) = (UnixMillis(a), Duration::from_millis(span));
            prop_assert!(instant.plus(span) >= instant && instant.minus(span) <= instant);
            prop_assert!(instant.plus(span).since(instant) <= span);
            prop_assert_eq!(instant.since(instant.plus(span)), Duration::ZERO);
        }
    }
}
