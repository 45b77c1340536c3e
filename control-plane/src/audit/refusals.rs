//! How many refusals are recorded: some of each who provokes them, so that nobody's flood hides another's attempt.

use std::time::Duration;

use hauberk_identity::UnixMillis;

use super::{Act, Actor};
use crate::allowance::Allowances;

/// How many refusals of one caller, or of one address of callers who have proved nothing, are recorded at once.
pub(super) const AT_ONCE: u32 = 20;

/// After how long one more is.
const EVERY: Duration = Duration::from_secs(1);

/// How many refusals of one action to callers who have proved nothing are recorded in a second, from wherever they come.
pub(super) const OF_STRANGERS_PER_SECOND: u32 = 20;

#[derive(Debug)]
pub(super) struct Refusals {
    known: Kind,
    strangers: Kind,
    all_strangers: Allowances,
}

#[derive(Debug)]
struct Kind {
    allowances: Allowances,
    left_out: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        let kind = || Kind { allowances: Allowances::new(AT_ONCE, EVERY), left_out: 0 };
        let all_strangers = Allowances::new(OF_STRANGERS_PER_SECOND, EVERY / OF_STRANGERS_PER_SECOND);
        Self { known: kind(), strangers: kind(), all_strangers }
    }

    /// Whether a refusal is recorded; how many of its kind were left out since the last one then.
    pub(super) fn admit(&mut self, act: &Act, now: UnixMillis) -> Option<u64> {
        let Actor { name, source } = &act.actor;
        let (kind, is_within) = if act.actor.is_stranger() {
            let address = source.rsplit_once(':').map_or(source.as_str(), |(address, _port)| address);
            // By what they were refused, so that calls without a certificate hide no attempt at a token.
            let is_within = self.strangers.allowances.take(&format!("{} {address}", act.action), now).is_ok()
                && self.all_strangers.take(act.action, now).is_ok();
            (&mut self.strangers, is_within)
        } else {
            let is_within = self.known.allowances.take(name, now).is_ok();
            (&mut self.known, is_within)
        };
        if is_within {
            return Some(std::mem::take(&mut kind.left_out));
        }
        kind.left_out += 1;
        None
    }
}
