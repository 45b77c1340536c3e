//! Tokens that were minted, kept until half of their lives has passed. In memory only, and never printed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use tokio::sync::Mutex as Turn;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::audience::Audience;
use crate::skew::TOLERATED;

/// How many audiences of one enrollment have their tokens kept; beyond, the one that was asked for longest ago goes.
const MOST_OF_ONE: usize = 64;

/// How long nobody asks for another after that was in vain.
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
    /// When another was asked for in vain.
    pub(super) refused_at: Option<Instant>,
}

/// One enrollment's token for one audience. Whoever has it minted holds the turn, so that the many who want the same wait for
/// the same.
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

    /// Whether another was asked for in vain just now, so that nobody has to wait for that again.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.refused_at.is_some_and(|at| now.duration_since(at) < REST)
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

#[cfg(test)]
mod tests {
    use super::*;

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
