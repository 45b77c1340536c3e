//! How many connections strangers and peers may hold open.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::SpiffeId;
use tokio_util::sync::CancellationToken;

/// The most connections from one address, and of one identity, of all that there may be. An identity has less, so that
/// whoever comes from the same address as a greedy one still gets in.
const SHARE_OF_ONE_ADDRESS: (usize, usize) = (3, 4);
const SHARE_OF_ONE_IDENTITY: (usize, usize) = (1, 2);
/// The most handshakes at once, and of all connections that there may be. When one more begins, the oldest gives way:
/// an honest peer is done in milliseconds.
const MAX_HANDSHAKES: usize = 1_024;
const SHARE_OF_HANDSHAKES: (usize, usize) = (1, 2);

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
    by_identity: HashMap<SpiffeId, usize>,
    handshakes: BTreeMap<u64, CancellationToken>,
    next_handshake: u64,
}

/// A place among the connections, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    address: IpAddr,
    identity: Option<SpiffeId>,
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
        let address = network_of(address);
        let mut held = self.held();
        let from_there = held.by_address.get(&address).copied().unwrap_or(0);
        if held.total >= self.max_connections || from_there >= self.share(SHARE_OF_ONE_ADDRESS) {
            return None;
        }
        held.total += 1;
        held.by_address.insert(address, from_there + 1);
        Some(Place { limits: Arc::clone(self), address, identity: None })
    }

    fn share(&self, (share, of): (usize, usize)) -> usize {
        (self.max_connections * share / of).max(1)
    }

    /// A place for a handshake; the oldest one's, if need be.
    pub(super) fn begin_handshake(self: &Arc<Self>) -> HandshakePlace {
        let must_give_way = CancellationToken::new();
        let most = self.share(SHARE_OF_HANDSHAKES).min(MAX_HANDSHAKES);
        let mut held = self.held();
        let number = held.next_handshake;
        held.next_handshake += 1;
        held.handshakes.insert(number, must_give_way.clone());
        if held.handshakes.len() > most
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

impl Place {
    /// Counts it for the peer that has proved who it is. Says whether the peer may have one more.
    pub(super) fn is_granted_to(&mut self, identity: &SpiffeId) -> bool {
        let mut held = self.limits.held();
        let count = held.by_identity.entry(identity.clone()).or_default();
        if *count >= self.limits.share(SHARE_OF_ONE_IDENTITY) {
            return false;
        }
        *count += 1;
        self.identity = Some(identity.clone());
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.limits.held();
        held.total = held.total.saturating_sub(1);
        give_back(&mut held.by_address, &self.address);
        if let Some(identity) = &self.identity {
            give_back(&mut held.by_identity, identity);
        }
    }
}

fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(of);
        }
    }
}

/// Whoever has one IPv6 address has the other 2⁶⁴ of its network, too.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 => v4,
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
    fn one_network_counts_as_one_address() {
        let limits = Limits::new(4);
        let of_one: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "::ffff:10.0.0.1"]
            .iter()
            .map(|address| limits.admit(address.parse().unwrap()))
            .collect();
        assert_eq!(of_one.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false, true]);
        assert!(limits.held().by_address.contains_key(&IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn one_identity_cannot_take_all_places_from_many_addresses() {
        let limits = Limits::new(6);
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.local/workload/{name}")).unwrap();
        let mut places: Vec<_> =
            (1..=4).map(|host| limits.admit(IpAddr::from([10, 0, 0, host])).unwrap()).collect();
        let mut last = places.pop().unwrap();
        assert!(places.iter_mut().all(|place| place.is_granted_to(&id("greedy"))));
        assert!(!last.is_granted_to(&id("greedy")));
        assert!(last.is_granted_to(&id("other")));
        places.pop();
        let mut next = limits.admit(IpAddr::from([10, 0, 0, 9])).unwrap();
        assert!(next.is_granted_to(&id("greedy")));
        drop((places, last, next));
        let held = limits.held();
        assert!(held.by_identity.is_empty() && held.by_address.is_empty() && held.total == 0);
    }

    #[test]
    fn the_oldest_handshake_gives_way() {
        let few = Limits::new(4);
        let of_few: Vec<_> = (0..3).map(|_| few.begin_handshake()).collect();
        assert!(of_few[0].must_give_way.is_cancelled() && !of_few[1].must_give_way.is_cancelled());
        let limits = Limits::new(4 * MAX_HANDSHAKES);
        let places: Vec<_> = (0..=MAX_HANDSHAKES).map(|_| limits.begin_handshake()).collect();
        let cancelled = |place: &HandshakePlace| place.must_give_way.is_cancelled();
        assert!(cancelled(&places[0]));
        assert!(!places[1..].iter().any(cancelled));
        drop(places);
        assert!(limits.held().handshakes.is_empty());
    }
}
