//! How many connections may be open, and which of them count for what.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, network_of};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::metrics::{ListenerLabel, Metrics};
use crate::room::{Calls, Room, Stay};

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address, or one IPv6 network.
    pub connections_per_address: usize,
    /// By one instance, whatever certificates it has, or by one certificate of somebody else, wherever they come from: whoever
    /// has one takes no places of the others, also if it is refused everything.
    pub connections_per_holder: usize,
    /// In the middle of their handshake, in all. When there are more, the oldest of the network that has most gives way.
    pub handshakes: usize,
    /// The same without a certificate. They take no place of those that have one.
    pub strangers: usize,
    /// How long a handshake, and who has no certificate and no call under way, keep their place where others of the same network want it.
    pub grace: Duration,
    /// Calls of one connection that has a certificate, at the same time.
    pub calls: u32,
}

/// How many connections are open, by network.
pub(super) struct Counts {
    limits: Limits,
    handshakes: Arc<Room>,
    strangers: Arc<Room>,
    open: Mutex<Open>,
    metrics: Arc<Metrics>,
    label: ListenerLabel,
}

/// Those in a handshake among them, strangers not.
#[derive(Default)]
struct Open {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
    by_holder: HashMap<InstanceId, usize>,
}

impl Open {
    fn close(&mut self, network: IpAddr) {
        self.all -= 1;
        give_back(&mut self.by_network, network);
    }
}

fn give_back<K: Eq + Hash>(held: &mut HashMap<K, usize>, of: K) {
    if let Entry::Occupied(mut held) = held.entry(of) {
        *held.get_mut() -= 1;
        if *held.get() == 0 {
            held.remove();
        }
    }
}

impl Counts {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>, label: ListenerLabel) -> Arc<Self> {
        let (handshakes, strangers) =
            (Room::new(limits.handshakes, limits.grace), Room::new(limits.strangers, limits.grace));
        Arc::new(Self { limits, handshakes, strangers, open: Mutex::default(), metrics, label })
    }

    pub(super) fn take_place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network_of(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = open.by_network.get(&network).copied().unwrap_or_default();
        if open.all >= self.limits.connections || of_network >= self.limits.connections_per_address {
            return None;
        }
        let standing = Standing::Handshake(self.handshakes.enter(address)?);
        open.all += 1;
        open.by_network.insert(network, of_network + 1);
        self.metrics.connections.get_or_create(&self.label).inc();
        Some(Place { counts: Arc::clone(self), network, standing })
    }
}

/// One connection's share of the limits; given back when dropped.
pub(super) struct Place {
    counts: Arc<Counts>,
    network: IpAddr,
    standing: Standing,
}

enum Standing {
    Handshake(Stay),
    Known(InstanceId),
    Stranger(Stay),
}

impl Place {
    /// Ends the handshake. `false`: there are too many already of the holder of the certificate that was proved, or too many
    /// without one that have calls under way.
    pub(super) fn settle(&mut self, holder: Option<InstanceId>) -> bool {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holder {
            let by_holder = open.by_holder.entry(holder).or_default();
            if *by_holder >= self.counts.limits.connections_per_holder {
                return false;
            }
            *by_holder += 1;
            self.standing = Standing::Known(holder);
        } else {
            let Some(stay) = self.counts.strangers.enter(self.network) else { return false };
            open.close(self.network);
            self.standing = Standing::Stranger(stay);
        }
        true
    }

    /// Where calls of a peer without a certificate are noted.
    pub(super) fn calls_of_stranger(&self) -> Option<Calls> {
        match &self.standing {
            Standing::Stranger(stay) => Some(stay.calls()),
            Standing::Handshake(_) | Standing::Known(_) => None,
        }
    }

    /// Ends when somebody else needs the place, as long as the peer has proved nothing.
    pub(super) fn must_leave(&self) -> Option<WaitForCancellationFutureOwned> {
        match &self.standing {
            Standing::Handshake(stay) | Standing::Stranger(stay) => Some(stay.must_leave()),
            Standing::Known(_) => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        match self.standing {
            Standing::Handshake(_) => open.close(self.network),
            Standing::Known(holder) => {
                open.close(self.network);
                give_back(&mut open.by_holder, holder);
            }
            Standing::Stranger(_) => {}
        }
        self.counts.metrics.connections.get_or_create(&self.counts.label).dec();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use futures_util::FutureExt;

    use super::*;

    fn counts() -> Arc<Counts> {
        let limits = Limits {
            connections: 4,
            connections_per_address: 3,
            connections_per_holder: 2,
            handshakes: 4,
            strangers: 4,
            grace: Duration::ZERO,
            calls: 1,
        };
        Counts::new(limits, Arc::default(), ListenerLabel { listener: "agent" })
    }

    fn leaves(place: &Place) -> bool {
        place.must_leave().is_some_and(|must_leave| must_leave.now_or_never().is_some())
    }

    fn holder(number: u8) -> InstanceId {
        InstanceId::from_random([number; 8])
    }

    #[test]
    fn strangers_take_no_place_of_those_with_a_certificate() {
        let counts = counts();
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let last = std::cell::Cell::new(0);
        let connect = |address, is_known: bool| {
            let mut place = counts.take_place(address)?;
            // Each has a certificate of its own.
            last.set(last.get() + 1);
            place.settle(is_known.then(|| holder(last.get()))).then_some(place)
        };
        let honest = connect(other, false).unwrap();
        let strangers: Vec<_> = (0..5).map(|_| connect(one, false).unwrap()).collect();
        assert_eq!(strangers.iter().map(leaves).collect::<Vec<_>>(), [true, true, false, false, false]);
        assert!(!leaves(&honest));

        let known: Vec<_> = (0..3).map(|_| connect(one, true).unwrap()).collect();
        assert!(connect(one, true).is_none(), "so many may come from one address");
        let last = connect(other, true).unwrap();
        assert!(connect(other, true).is_none(), "these are all");

        drop((honest, strangers, known, last));
        assert!(connect(one, false).is_some());
        let open = counts.open.lock().unwrap();
        assert!(open.all == 0 && open.by_network.is_empty() && open.by_holder.is_empty());
    }

    #[test]
    fn one_holder_takes_no_places_of_the_others() {
        let counts = counts();
        let connect = |address: [u8; 4], number| {
            let mut place = counts.take_place(address.into())?;
            place.settle(Some(holder(number))).then_some(place)
        };
        let first = connect([10, 0, 0, 1], 1).unwrap();
        let _second = connect([10, 0, 0, 2], 1).unwrap();
        assert!(connect([10, 0, 0, 3], 1).is_none(), "so many by one holder");
        let _other = connect([10, 0, 0, 3], 2).unwrap();
        drop(first);
        let _again = connect([10, 0, 0, 3], 1).unwrap();
    }

    #[test]
    fn the_oldest_handshake_of_the_network_that_has_most_gives_way() {
        let limits =
            Limits { connections: 20, connections_per_address: 10, handshakes: 4, ..counts().limits };
        let counts = Counts::new(limits, Arc::default(), ListenerLabel { listener: "agent" });
        let mut done = counts.take_place([10, 0, 0, 1].into()).unwrap();
        assert!(done.settle(Some(holder(1))));
        let honest = counts.take_place([10, 0, 0, 1].into()).unwrap();
        let address = |host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into();
        let silent: Vec<_> = (1..=9).map(|host| counts.take_place(address(host)).unwrap()).collect();
        assert_eq!(silent.iter().filter(|place| leaves(place)).count(), 6);
        assert!(!leaves(&honest) && !leaves(&done), "whoever is done is in nobody's way");
        // One network is one address, to the last of its places.
        let _tenth = counts.take_place(address(10)).unwrap();
        assert!(counts.take_place(address(11)).is_none());
    }
}
