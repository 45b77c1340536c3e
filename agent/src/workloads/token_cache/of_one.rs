//! The places of one enrollment's tokens: found by whom they are for, and given up in the order in which they were asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::super::audience::Audience;
use super::Place;

/// How many audiences of one enrollment have their tokens kept; beyond, the one that was asked for longest ago goes.
pub(super) const MOST_OF_ONE: usize = 1_000;

/// How many tokens of one enrollment are asked for at once. Whoever asks for many waits for its own, and others do not.
const MINTED_AT_ONCE: usize = 4;

/// What is counted of a place beside its audience, which stands in its token again, by a third longer.
const OF_EACH: usize = 1_024;

/// Those of one enrollment.
pub(super) struct OfOne {
    /// Each with when it was asked for last.
    places: HashMap<Audience, (u64, Place)>,
    /// The same, the one that was asked for longest ago first.
    order: BTreeMap<u64, Audience>,
    /// Counts how often one was asked for.
    asked: u64,
    bytes: usize,
    turns: Arc<Semaphore>,
}

impl Default for OfOne {
    fn default() -> Self {
        let turns = Arc::new(Semaphore::new(MINTED_AT_ONCE));
        Self { places: HashMap::new(), order: BTreeMap::new(), asked: 0, bytes: 0, turns }
    }
}

impl OfOne {
    /// The place of a token for this audience, which may be empty.
    pub(super) fn place(&mut self, audience: &Audience) -> Place {
        self.asked += 1;
        if let Some((last, place)) = self.places.get_mut(audience) {
            if let Some(audience) = self.order.remove(last) {
                self.order.insert(self.asked, audience);
            }
            *last = self.asked;
            return Arc::clone(place);
        }
        if self.places.len() >= MOST_OF_ONE {
            self.drop_oldest();
        }
        let place = Place::default();
        self.bytes += size_of_place(audience);
        self.order.insert(self.asked, audience.clone());
        self.places.insert(audience.clone(), (self.asked, Arc::clone(&place)));
        place
    }

    pub(super) fn drop_oldest(&mut self) {
        if let Some((_, audience)) = self.order.pop_first() {
            self.places.remove(&audience);
            self.bytes = self.bytes.saturating_sub(size_of_place(&audience));
        }
    }

    /// About what all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whoever asks for one of its tokens takes a turn.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        Arc::clone(&self.turns)
    }

    /// How many there are, and what they take when it is counted anew.
    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize) {
        assert!(self.order.values().all(|audience| self.places.contains_key(audience)));
        assert_eq!(self.order.len(), self.places.len());
        (self.places.len(), self.places.keys().map(size_of_place).sum())
    }
}

/// About what a place takes, with its token: that is not much longer than whom it is for.
fn size_of_place(audience: &Audience) -> usize {
    let names: usize = audience.names().iter().map(String::len).sum();
    OF_EACH + 3 * names
}
