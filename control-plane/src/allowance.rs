//! How often each of many may do something: so many times at once, and then once in so long.

use std::collections::HashMap;
use std::time::Duration;

use hauberk_identity::UnixMillis;

/// From how many on those who are at rest are forgotten.
const FORGET_FROM: usize = 1_024;

/// An allowance for each of many. Whoever does nothing for long enough may do everything at once again.
#[derive(Debug)]
pub struct Allowances {
    at_once: u32,
    every: Duration,
    /// When each would be at rest again.
    busy_until: HashMap<String, UnixMillis>,
    forget_at: usize,
}

impl Allowances {
    /// `at_once` times at once, and then once in `every`.
    pub fn new(at_once: u32, every: Duration) -> Self {
        Self { at_once, every, busy_until: HashMap::new(), forget_at: FORGET_FROM }
    }

    /// Uses up one time of `who`'s.
    ///
    /// # Errors
    /// How long from now there is none; nothing is used up.
    pub fn take(&mut self, who: &str, now: UnixMillis) -> Result<(), Duration> {
        self.take_at_rate(who, self.every, now)
    }

    /// The same for somebody whose times come back once in `every`, whatever those of the others do.
    ///
    /// # Errors
    /// How long from now there is none; nothing is used up.
    pub fn take_at_rate(&mut self, who: &str, every: Duration, now: UnixMillis) -> Result<(), Duration> {
        let most = every.saturating_mul(self.at_once);
        // A clock that was set back must not keep anybody waiting for longer than that.
        let busy_until = self.busy_until.get(who).copied().unwrap_or(now).clamp(now, now.plus(most));
        let after = busy_until.plus(every);
        if after > now.plus(most) {
            return Err(after.since(now.plus(most)));
        }
        if self.busy_until.len() >= self.forget_at {
            self.busy_until.retain(|_, until| *until > now);
            self.forget_at = (self.busy_until.len() * 2).max(FORGET_FROM);
        }
        self.busy_until.insert(who.to_owned(), after);
        Ok(())
    }

    /// What was taken last was not needed.
    pub fn give_back(&mut self, who: &str) {
        self.give_back_at_rate(who, self.every);
    }

    /// The same for what was taken at this rate.
    pub fn give_back_at_rate(&mut self, who: &str, every: Duration) {
        if let Some(until) = self.busy_until.get_mut(who) {
            *until = until.minus(every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn so_many_at_once_and_then_one_by_one() {
        let mut allowances = Allowances::new(3, 10 * SECOND);
        let now = UnixMillis(1_000_000);
        for _ in 0..3 {
            allowances.take("a", now).unwrap();
        }
        assert_eq!(allowances.take("a", now), Err(10 * SECOND));
        assert_eq!(allowances.take("a", now.plus(4 * SECOND)), Err(6 * SECOND));
        for _ in 0..4 {
            allowances.take("b", now).unwrap();
            allowances.give_back("b");
        }
        allowances.take("b", now).unwrap();
        let later = now.plus(10 * SECOND);
        allowances.take("a", later).unwrap();
        assert_eq!(allowances.take("a", later), Err(10 * SECOND));
        let at_rest = now.plus(100 * SECOND);
        allowances.give_back("a");
        for _ in 0..3 {
            allowances.take("a", at_rest).unwrap();
        }
        // The clock was set back.
        assert_eq!(allowances.take("a", now), Err(10 * SECOND));
    }

    #[test]
    fn what_is_given_back_is_what_was_taken() {
        let mut allowances = Allowances::new(3, 10 * SECOND);
        let now = UnixMillis(1_000_000);
        for _ in 0..100 {
            allowances.take_at_rate("a", SECOND, now).unwrap();
            allowances.give_back_at_rate("a", SECOND);
        }
        for _ in 0..3 {
            allowances.take_at_rate("a", SECOND, now).unwrap();
        }
        allowances.give_back_at_rate("a", SECOND);
        allowances.take_at_rate("a", SECOND, now).unwrap();
        assert_eq!(allowances.take_at_rate("a", SECOND, now), Err(SECOND));
    }

    #[test]
    fn those_at_rest_are_forgotten() {
        let mut allowances = Allowances::new(1, SECOND);
        for index in 0..10 * FORGET_FROM {
            let now = UnixMillis(1_000_000).plus(SECOND * u32::try_from(index).unwrap());
            allowances.take(&index.to_string(), now).unwrap();
        }
        assert!(allowances.busy_until.len() <= FORGET_FROM);
    }
}
