//! How many connections strangers and peers may hold open.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The most connections from one address, of all that there may be.
const SHARE_OF_ONE_ADDRESS: (usize, usize) = (3, 4);
/// The most handshakes at once. When one more begins, the oldest gives way: an honest peer is done in milliseconds.
const MAX_HANDSHAKES: usize = 1_024;

/// The limits of all inbound listeners together.
#[derive(Debug)]
pub struct Limits {
    max_connections: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    handshakes: BTreeMap<u64, CancellationToken>,
    next_handshake: u64,
}

/// A place among the connections, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    address: IpAddr,
}

/// A place among the handshakes, until dropped.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    limits: Arc<Limits>,
    number: u64,
    must_give_way: CancellationToken,
}

impl Limits {
    /// At most this many connections in all.
    pub fn new(max_connections: usize) -> Arc<Self> {
        Arc::new(Self { max_connections, held: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let (share, of) = SHARE_OF_ONE_ADDRESS;
        let mut held = self.held();
        let from_there = held.by_address.get(&address).copied().unwrap_or(0);
        if held.total >= self.max_connections || from_there >= self.max_connections * share / of {
            return None;
        }
        held.total += 1;
        held.by_address.insert(address, from_there + 1);
        Some(Place { limits: Arc::clone(self), address })
    }

    /// A place for a handshake; the oldest one's, if need be.
    pub(super) fn begin_handshake(self: &Arc<Self>) -> HandshakePlace {
        let must_give_way = CancellationToken::new();
        let mut held = self.held();
        let number = held.next_handshake;
        held.next_handshake += 1;
        held.handshakes.insert(number, must_give_way.clone());
        if held.handshakes.len() > MAX_HANDSHAKES
            && let Some((_, oldest)) = held.handshakes.pop_first()
        {
            oldest.cancel();
        }
        HandshakePlace { limits: Arc::clone(self), number, must_give_way }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.limits.held();
        held.total = held.total.saturating_sub(1);
        if let Some(count) = held.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

impl HandshakePlace {
    /// Waits until a newer handshake needs the place.
    pub(super) async fn must_give_way(&self) {
        self.must_give_way.cancelled().await;
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.limits.held().handshakes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let limits = Limits::new(4);
        let (greedy, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let places: Vec<_> = (0..4).map(|_| limits.admit(greedy)).collect();
        assert_eq!(places.iter().filter(|place| place.is_some()).count(), 3);
        let last = limits.admit(other);
        assert!(last.is_some());
        assert!(limits.admit(other).is_none());
        drop(places);
        assert!(limits.admit(greedy).is_some());
        drop(last);
        assert!(limits.held().by_address.is_empty());
    }

    #[test]
    fn the_oldest_handshake_gives_way() {
        let limits = Limits::new(4);
        let places: Vec<_> = (0..=MAX_HANDSHAKES).map(|_| limits.begin_handshake()).collect();
        let cancelled = |place: &HandshakePlace| place.must_give_way.is_cancelled();
        assert!(cancelled(&places[0]));
        assert!(!places[1..].iter().any(cancelled));
        drop(places);
        assert!(limits.held().handshakes.is_empty());
    }
}
