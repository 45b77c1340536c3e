//! Tokens that were minted, kept until half of their lives has passed. In memory only, and never printed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::Shared;
use hauberk_identity::{Name, SpiffeId, UnixMillis};
use tokio::sync::{Mutex as Turn, oneshot};
use tokio::time::Instant;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::audience::Audience;
use crate::skew::TOLERATED;

/// How many audiences of one enrollment have their tokens kept; beyond, the one that was asked for longest ago goes.
const MOST_OF_ONE: usize = 64;

/// How long nobody asks for another after that was in vain, or has brought one that is ahead.
const REST: Duration = Duration::from_secs(10);

/// A token by our own clock: it lives from when it was asked for.
pub(super) struct HeldToken {
    /// Whom it names.
    pub(super) id: SpiffeId,
    pub(super) token: Arc<Zeroizing<String>>,
    /// What signed it.
    pub(super) key_id: String,
    /// When it was asked for, or signed by the control plane's clock, whichever is later.
    pub(super) since: UnixMillis,
    /// Half of its life has passed.
    pub(super) renew_at: UnixMillis,
    pub(super) not_after: UnixMillis,
    /// Another is not asked for now.
    pub(super) rest: Option<Rest>,
    /// Another is being asked for.
    pub(super) renewal: Option<Renewal>,
}

/// Since when another is not asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) since: Instant,
    /// Whether its key was tainted already when another was asked for: a taint that came later is a new reason to ask.
    pub(super) was_tainted: bool,
}

/// The wait for another, which goes on when nobody waits.
#[derive(Clone)]
pub(super) struct Renewal {
    pub(super) begun: Instant,
    /// Why there is no other, once it is known.
    pub(super) ended: Shared<oneshot::Receiver<Option<Status>>>,
}

/// One enrollment's token for one audience. Whoever has the first one minted holds the turn, so that the many who want the same
/// wait for the same.
pub(super) type Slot = Arc<Turn<Option<HeldToken>>>;

/// All of them.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<BTreeMap<Name, VecDeque<(Audience, Slot)>>>,
}

impl TokenCache {
    /// The place of a token, which may be empty.
    pub(super) fn slot(&self, enrollment: &Name, audience: &Audience) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = slots.entry(enrollment.clone()).or_default();
        let found =
            of_one.iter().position(|(held, _)| held == audience).and_then(|index| of_one.remove(index));
        let (audience, slot) = found.unwrap_or_else(|| (audience.clone(), Slot::default()));
        if of_one.len() >= MOST_OF_ONE {
            of_one.pop_front();
        }
        of_one.push_back((audience, Arc::clone(&slot)));
        slot
    }

    /// Forgets the tokens of all that are vouched for no longer.
    pub(super) fn retain(&self, is_enrolled: impl Fn(&Name) -> bool) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|enrollment, _| is_enrolled(enrollment));
    }
}

impl HeldToken {
    /// Whether it begins later than clocks may differ: it was minted while one was ahead, and nobody can say how long it is
    /// good.
    pub(super) fn is_ahead(&self, now: UnixMillis) -> bool {
        self.since.since(now) > TOLERATED
    }

    /// Whether another was asked for just now, and nothing better is to be had by asking again.
    pub(super) fn rests(&self, now: Instant, is_tainted: bool) -> bool {
        self.rest.is_some_and(|Rest { since, was_tainted }| {
            now.duration_since(since) < REST && (was_tainted || !is_tainted)
        })
    }

    /// Whether it is still of use as it is.
    pub(super) fn is_fresh(&self, id: &SpiffeId, now: UnixMillis) -> bool {
        self.id == *id && now < self.renew_at
    }

    /// Whether it is better than none.
    pub(super) fn is_valid(&self, id: &SpiffeId, now: UnixMillis) -> bool {
        self.id == *id && now < self.not_after
    }
}

/// Takes over what came of asking for another: it takes the place of the one that is held, a denial takes that away, and after
/// anything else it stays. Why there is no other is returned.
pub(super) fn settle(
    held: &mut Option<HeldToken>,
    outcome: Result<HeldToken, Status>,
    rest: Rest,
) -> Option<Status> {
    match outcome {
        Ok(minted) => {
            *held = Some(minted);
            None
        }
        Err(status) => {
            if status.code() == Code::PermissionDenied {
                *held = None;
            }
            if let Some(held) = held {
                (held.rest, held.renewal) = (Some(rest), None);
            }
            Some(status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str) -> HeldToken {
        HeldToken {
            id: SpiffeId::parse("spiffe://shop.local/workload/a").unwrap(),
            token: Arc::new(Zeroizing::new(text.to_owned())),
            key_id: "k".to_owned(),
            since: UnixMillis(0),
            renew_at: UnixMillis(1),
            not_after: UnixMillis(2),
            rest: None,
            renewal: None,
        }
    }

    #[test]
    fn a_denial_takes_the_token_away_and_what_is_in_vain_rests_until_a_taint() {
        let since = Instant::now();
        let rest = |was_tainted| Rest { since, was_tainted };
        let mut slot = Some(held("one"));
        assert!(settle(&mut slot, Err(Status::unavailable("no")), rest(false)).is_some());
        let one = slot.as_ref().unwrap();
        assert!(one.rests(since, false) && !one.rests(since, true) && !one.rests(since + REST, false));
        settle(&mut slot, Err(Status::unavailable("no")), rest(true));
        assert!(slot.as_ref().unwrap().rests(since, true), "it is known");
        assert!(settle(&mut slot, Ok(held("two")), rest(false)).is_none());
        let two = slot.as_ref().unwrap();
        assert!(two.token.as_str() == "two" && !two.rests(since, false));
        let denied = settle(&mut slot, Err(Status::permission_denied("no")), rest(false));
        assert_eq!(denied.unwrap().code(), Code::PermissionDenied);
        assert!(slot.is_none());
    }

    fn audience(number: usize) -> Audience {
        Audience::new(vec![number.to_string()]).unwrap()
    }

    #[test]
    fn each_enrollment_has_so_many_and_the_others_keep_theirs() {
        let cache = TokenCache::default();
        let (one, other) = (Name::parse("one").unwrap(), Name::parse("other").unwrap());
        let first = cache.slot(&one, &audience(0));
        let others = cache.slot(&other, &audience(0));
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        assert!(!Arc::ptr_eq(&first, &others));
        for number in 1..MOST_OF_ONE {
            cache.slot(&one, &audience(number));
        }
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))), "and now the second is the oldest");
        cache.slot(&one, &audience(MOST_OF_ONE));
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        for number in MOST_OF_ONE + 1..2 * MOST_OF_ONE {
            cache.slot(&one, &audience(number));
        }
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))), "it was asked for again");
        for number in 0..MOST_OF_ONE {
            cache.slot(&one, &audience(1_000 + number));
        }
        assert!(!Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        assert!(Arc::ptr_eq(&others, &cache.slot(&other, &audience(0))));
        cache.retain(|name| *name == one);
        assert!(!Arc::ptr_eq(&others, &cache.slot(&other, &audience(0))));
    }
}
