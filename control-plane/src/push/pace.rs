//! How fast an agent is listened to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hauberk_identity::{InstanceId, UnixMillis};
use tokio::time::{Instant, sleep_until};

use crate::allowance::Allowances;

/// Messages that an agent may send at once, and how many more each second. Above that it is read more slowly.
const BURST: u32 = 2_000;
const MESSAGES_PER_SECOND: u32 = 200;

/// How many registrations are taken of an instance at once, and how often one more: all who call the node are told of each.
const REGISTRATIONS_AT_ONCE: u32 = 10;
const REGISTRATION_EVERY: Duration = Duration::from_secs(1);

/// Decisions that are taken of an instance at once (as many as it keeps while it is away, and some more), and how often one
/// more: what it is told to send at the most.
const DECISIONS_AT_ONCE: u32 = 2_048;
const DECISION_EVERY: Duration = Duration::from_millis(1_000 / *super::DECISIONS_PER_AGENT.end() as u64);

/// Flows whose counts are taken of an instance at once (as many as it tells apart, said twice), and how often one more.
const FLOWS_AT_ONCE: u32 = 4_096;
const FLOW_EVERY: Duration = Duration::from_millis(2);

/// How many programs that got no identity an instance may tell of at once, and how often one more.
const DENIALS_AT_ONCE: u32 = 16;
const DENIAL_EVERY: Duration = Duration::from_secs(60);

/// What instances may do over all of their streams, for each begins anew with nothing said.
#[derive(Debug)]
pub(super) struct Shares {
    registrations: Mutex<Allowances>,
    decisions: Mutex<Allowances>,
    flows: Mutex<Allowances>,
    denials: Mutex<Denials>,
}

/// Programs that got no identity: how many of them are taken, and how many were not since one last was, of whichever agent.
#[derive(Debug)]
struct Denials {
    allowances: Allowances,
    left_out: u64,
}

impl Shares {
    pub(super) fn new() -> Self {
        Self {
            registrations: Mutex::new(Allowances::new(REGISTRATIONS_AT_ONCE, REGISTRATION_EVERY)),
            decisions: Mutex::new(Allowances::new(DECISIONS_AT_ONCE, DECISION_EVERY)),
            flows: Mutex::new(Allowances::new(FLOWS_AT_ONCE, FLOW_EVERY)),
            denials: Mutex::new(Denials {
                allowances: Allowances::new(DENIALS_AT_ONCE, DENIAL_EVERY),
                left_out: 0,
            }),
        }
    }

    /// Counts a registration.
    ///
    /// # Errors
    /// How long from now it is taken.
    pub(super) fn register(&self, instance: InstanceId, now: UnixMillis) -> Result<(), Duration> {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        registrations.take(&instance.to_string(), now)
    }

    /// How many of `count` decisions are taken now; the others are not waited for.
    pub(super) fn decisions(&self, instance: InstanceId, count: usize, now: UnixMillis) -> usize {
        taken(&self.decisions, instance, count, now)
    }

    /// Whether word of a program that got no identity is taken now: how many were not since the last.
    pub(super) fn denial(&self, instance: InstanceId, now: UnixMillis) -> Option<u64> {
        let mut denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        if denials.allowances.take(&instance.to_string(), now).is_ok() {
            return Some(std::mem::take(&mut denials.left_out));
        }
        denials.left_out = denials.left_out.saturating_add(1);
        None
    }

    /// The same of flows.
    pub(super) fn flows(&self, instance: InstanceId, count: usize, now: UnixMillis) -> usize {
        taken(&self.flows, instance, count, now)
    }
}

fn taken(allowances: &Mutex<Allowances>, instance: InstanceId, count: usize, now: UnixMillis) -> usize {
    let mut allowances = allowances.lock().unwrap_or_else(PoisonError::into_inner);
    let instance = instance.to_string();
    (0..count).take_while(|_| allowances.take(&instance, now).is_ok()).count()
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

    #[test]
    fn each_instance_has_a_share_of_its_own() {
        let shares = Shares::new();
        let (one, other) = (InstanceId::from_random([1; 8]), InstanceId::from_random([2; 8]));
        let now = UnixMillis(1_800_000_000_000);
        for _ in 0..10 {
            shares.register(one, now).unwrap();
        }
        assert_eq!(shares.register(one, now), Err(Duration::from_secs(1)));
        shares.register(other, now).unwrap();
        shares.register(one, now.plus(Duration::from_secs(1))).unwrap();
        assert_eq!(shares.decisions(one, 2_000, now), 2_000);
        assert_eq!(shares.decisions(one, 256, now), 48);
        assert_eq!(shares.decisions(other, 256, now), 256);
        assert_eq!(shares.decisions(one, 600, now.plus(Duration::from_secs(1))), 500);
    }
}
