//! How many connections strangers and peers may hold open, and how many to the app on their behalf.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::{SpiffeId, TrustDomain, network_of};
use tokio_util::sync::CancellationToken;

use crate::wire::budget::{Budget, InUse};

/// How many times what is then still free one identity may have, and one address: alone they get nine tenths and
/// nineteen twentieths of all; the more others have, the less each may. Whoever has nothing yet may have one while
/// there is one: a handful in league, from several addresses, can take all. An identity may have less, so that whoever
/// comes from the same address as a greedy one still gets in. What holds for an identity's connections also holds for
/// those to the app that are in use for it: each stream of a tunnel needs one, each HTTP/1.1 request, and each HTTP/2
/// connection with requests on it.
const TIMES_FOR_ONE_IDENTITY: usize = 9;
const TIMES_FOR_ONE_ADDRESS: usize = 19;
/// The most handshakes at once, and of the places that nobody has who has proved who it is. When one more begins, the
/// oldest gives way: an honest peer is done in milliseconds.
const MAX_HANDSHAKES: usize = 1_024;
const SHARE_OF_HANDSHAKES: (usize, usize) = (1, 2);

/// The limits of all inbound listeners together.
#[derive(Debug)]
pub struct Limits {
    max_connections: usize,
    to_app: Budget,
    /// Connections to the app that are in use for whomever.
    in_use: Arc<AtomicUsize>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    by_identity: HashMap<Arc<str>, OfIdentity>,
    handshakes: BTreeMap<u64, CancellationToken>,
    next_handshake: u64,
}

/// What one identity has.
#[derive(Debug, Default)]
struct OfIdentity {
    connections: usize,
    in_use: Arc<AtomicUsize>,
}

/// A place among the connections, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    address: IpAddr,
    identity: Option<(Arc<str>, Arc<AtomicUsize>)>,
}

/// A place among the handshakes, until dropped.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    limits: Arc<Limits>,
    number: u64,
    must_give_way: CancellationToken,
}

impl Limits {
    /// At most this many connections in all, and this many to the app.
    pub fn new(max_connections: usize, to_app: usize) -> Arc<Self> {
        Arc::new(Self {
            max_connections,
            to_app: Budget::of(to_app),
            in_use: Arc::default(),
            held: Mutex::default(),
        })
    }

    /// The places of connections to the app.
    pub(super) fn to_app(&self) -> &Budget {
        &self.to_app
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network_of(address);
        let mut held = self.held();
        let from_there = held.by_address.get(&address).copied().unwrap_or(0);
        let left = self.max_connections.checked_sub(held.total + 1)?;
        if !may_have_one_more(from_there, TIMES_FOR_ONE_ADDRESS, left) {
            return None;
        }
        held.total += 1;
        held.by_address.insert(address, from_there + 1);
        Some(Place { limits: Arc::clone(self), address, identity: None })
    }

    /// A place for a handshake; the oldest one's, if need be.
    pub(super) fn begin_handshake(self: &Arc<Self>) -> HandshakePlace {
        let must_give_way = CancellationToken::new();
        let mut held = self.held();
        let granted = held.total.saturating_sub(held.handshakes.len() + 1);
        let not_granted = self.max_connections.saturating_sub(granted);
        let most = share(not_granted, SHARE_OF_HANDSHAKES).min(MAX_HANDSHAKES);
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
    /// Counts it for the peer that has proved who it is. Says whether the peer may have one more. Another trust domain
    /// than `own` counts as one: it makes as many identities as it likes.
    pub(super) fn is_granted_to(&mut self, peer: &SpiffeId, own: &TrustDomain) -> bool {
        let identity: Arc<str> =
            if peer.is_member_of(own) { peer.as_str().into() } else { peer.trust_domain().as_str().into() };
        let mut held = self.limits.held();
        // It is among the total already.
        let left = self.limits.max_connections.saturating_sub(held.total);
        let of_identity = held.by_identity.entry(Arc::clone(&identity)).or_default();
        if !may_have_one_more(of_identity.connections, TIMES_FOR_ONE_IDENTITY, left) {
            return false;
        }
        of_identity.connections += 1;
        self.identity = Some((identity, Arc::clone(&of_identity.in_use)));
        true
    }

    /// Counts a connection to the app for the peer, unless so many are in use for it that others would be left without.
    pub(super) fn use_one(&self) -> Option<InUse> {
        let (_, of_identity) = self.identity.as_ref()?;
        let (one, of_this_one, of_all) = InUse::count(of_identity, &self.limits.in_use);
        let left = self.limits.to_app.all().saturating_sub(of_all);
        may_have_one_more(of_this_one - 1, TIMES_FOR_ONE_IDENTITY, left).then_some(one)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.limits.held();
        held.total = held.total.saturating_sub(1);
        give_back(&mut held.by_address, &self.address, |count| count);
        if let Some((identity, _)) = &self.identity {
            give_back(&mut held.by_identity, identity, |of_identity| &mut of_identity.connections);
        }
    }
}

/// Whether somebody who has so many may have one more, where so many are free when it is taken. The first one anybody
/// may have.
fn may_have_one_more(has: usize, times: usize, left: usize) -> bool {
    has < times.saturating_mul(left).max(1)
}

fn share(of_all: usize, (share, of): (usize, usize)) -> usize {
    (of_all * share / of).max(1)
}

fn give_back<K: Eq + Hash, V>(held: &mut HashMap<K, V>, of: &K, count: impl Fn(&mut V) -> &mut usize) {
    if let Some(value) = held.get_mut(of) {
        let count = count(value);
        *count = count.saturating_sub(1);
        if *count == 0 {
            held.remove(of);
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
        let limits = Limits::new(4, 4);
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
        let limits = Limits::new(4, 4);
        let of_one: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "::ffff:10.0.0.1"]
            .iter()
            .map(|address| limits.admit(address.parse().unwrap()))
            .collect();
        assert_eq!(of_one.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false, true]);
        assert!(limits.held().by_address.contains_key(&IpAddr::from([10, 0, 0, 1])));
    }

    fn own() -> TrustDomain {
        TrustDomain::parse("shop.local").unwrap()
    }

    #[test]
    fn another_trust_domain_counts_as_one_identity() {
        let limits = Limits::new(5, 4);
        let id = |id: &str| SpiffeId::parse(id).unwrap();
        let place = |host| limits.admit(IpAddr::from([10, 0, 0, host])).unwrap();
        let mut places: Vec<_> = (1..=4).map(place).collect();
        for (number, place) in places.iter_mut().enumerate() {
            assert!(place.is_granted_to(&id(&format!("spiffe://partner.example/{number}")), &own()));
        }
        let mut last = place(5);
        assert!(!last.is_granted_to(&id("spiffe://partner.example/new"), &own()));
        assert!(last.is_granted_to(&id("spiffe://shop.local/new"), &own()));
    }

    #[test]
    fn one_identity_cannot_take_all_places_from_many_addresses() {
        let limits = Limits::new(5, 4);
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.local/workload/{name}")).unwrap();
        let mut places: Vec<_> =
            (1..=4).map(|host| limits.admit(IpAddr::from([10, 0, 0, host])).unwrap()).collect();
        assert!(places.iter_mut().all(|place| place.is_granted_to(&id("greedy"), &own())));
        let mut last = limits.admit(IpAddr::from([10, 0, 0, 5])).unwrap();
        assert!(!last.is_granted_to(&id("greedy"), &own()));
        assert!(last.is_granted_to(&id("other"), &own()));
        places.pop();
        places.pop();
        let mut next = limits.admit(IpAddr::from([10, 0, 0, 9])).unwrap();
        assert!(next.is_granted_to(&id("greedy"), &own()));
        drop((places, last, next));
        let held = limits.held();
        assert!(held.by_identity.is_empty() && held.by_address.is_empty() && held.total == 0);
    }

    #[test]
    fn one_identity_cannot_use_all_connections_to_the_app() {
        let limits = Limits::new(4, 4);
        let place = |name: &str| {
            let mut place = limits.admit(IpAddr::from([10, 0, 0, 1])).unwrap();
            let id = SpiffeId::parse(&format!("spiffe://shop.local/{name}")).unwrap();
            assert!(place.is_granted_to(&id, &own()));
            place
        };
        let (first, second, other) = (place("greedy"), place("greedy"), place("other"));
        let mut in_use = vec![first.use_one().unwrap(), second.use_one().unwrap(), first.use_one().unwrap()];
        assert!(first.use_one().is_none() && second.use_one().is_none());
        assert!(other.use_one().is_some());
        in_use.pop();
        assert!(first.use_one().is_some());
        // Nobody uses anything without having proved who it is.
        assert!(Limits::new(4, 4).admit(IpAddr::from([10, 0, 0, 1])).unwrap().use_one().is_none());
    }

    /// How many each of these takes, one after the other, of so many.
    fn taken_in_turn(of: usize, identities: usize) -> Vec<usize> {
        let limits = Limits::new(of, of);
        let mut taken = Vec::new();
        let (mut places, mut in_use) = (Vec::new(), Vec::new());
        for number in 0..identities {
            let id = SpiffeId::parse(&format!("spiffe://shop.local/{number}")).unwrap();
            let address = |host: usize| IpAddr::from(((10 << 24 | number << 16 | host) as u32).to_be_bytes());
            let next = (0..).map_while(|host| {
                let mut place = limits.admit(address(host))?;
                place.is_granted_to(&id, &own()).then_some(place)
            });
            let of_one: Vec<_> = next.collect();
            let used: Vec<_> = (0..of).map_while(|_| of_one.first()?.use_one()).collect();
            assert_eq!(of_one.len(), used.len());
            taken.push(of_one.len());
            places.push(of_one);
            in_use.push(used);
        }
        taken
    }

    #[test]
    fn one_identity_has_most_of_what_nobody_else_needs_and_others_get_in() {
        // As many as there are where 1,024 files may be open.
        assert_eq!(taken_in_turn(224, 4), [201, 20, 2, 1]);
        assert_eq!(taken_in_turn(16_384, 3), [14_745, 1_475, 147]);
        assert_eq!(taken_in_turn(4, 2), [3, 1]);
        assert_eq!(taken_in_turn(1, 1), [1]);
    }

    #[test]
    fn whoever_comes_from_the_address_of_a_greedy_identity_gets_in() {
        let limits = Limits::new(224, 224);
        let address = IpAddr::from([10, 0, 0, 1]);
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.local/{name}")).unwrap();
        let mut granted = Vec::new();
        while let Some(mut place) = limits.admit(address).filter(|_| granted.len() < 224) {
            if !place.is_granted_to(&id("greedy"), &own()) {
                break;
            }
            granted.push(place);
        }
        assert_eq!(granted.len(), 201);
        assert!(limits.admit(address).unwrap().is_granted_to(&id("other"), &own()));
    }

    #[test]
    fn handshakes_leave_room_for_others_where_one_identity_has_most_places() {
        let limits = Limits::new(224, 224);
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://shop.local/{name}")).unwrap();
        let address = |network: u8, host: usize| IpAddr::from([10, network, 0, host as u8]);
        let mut granted = Vec::new();
        for host in 0..201 {
            let mut place = limits.admit(address(1, host)).unwrap();
            assert!(place.is_granted_to(&id("greedy"), &own()));
            granted.push(place);
        }
        let mut silent = Vec::new();
        for host in 0..100 {
            let place = limits.admit(address(2, host)).unwrap();
            silent.push((limits.begin_handshake(), place));
            // Those whose time has come go, as the listener's do.
            silent.retain(|(handshake, _)| !handshake.must_give_way.is_cancelled());
        }
        let mut newcomer = limits.admit(address(3, 1)).unwrap();
        let handshake = limits.begin_handshake();
        assert!(!handshake.must_give_way.is_cancelled());
        assert!(newcomer.is_granted_to(&id("newcomer"), &own()));
    }

    #[test]
    fn the_oldest_handshake_gives_way() {
        let few = Limits::new(4, 4);
        let of_few: Vec<_> = (0..3).map(|_| few.begin_handshake()).collect();
        assert!(of_few[0].must_give_way.is_cancelled() && !of_few[1].must_give_way.is_cancelled());
        let limits = Limits::new(4 * MAX_HANDSHAKES, 4);
        let places: Vec<_> = (0..=MAX_HANDSHAKES).map(|_| limits.begin_handshake()).collect();
        let cancelled = |place: &HandshakePlace| place.must_give_way.is_cancelled();
        assert!(cancelled(&places[0]));
        assert!(!places[1..].iter().any(cancelled));
        drop(places);
        assert!(limits.held().handshakes.is_empty());
    }
}
