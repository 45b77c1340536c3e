//! How many connections may be open, and which of them count for what.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::InstanceId;

use crate::metrics::{ListenerLabel, Metrics};

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub connections_per_address: usize,
    /// By one instance, whatever certificates it has, or by one certificate of somebody else, wherever they come from: whoever
    /// has one takes no places of the others, also if it is refused everything.
    pub connections_per_holder: usize,
    /// In the middle of their handshake, in all; from one address half as many.
    pub handshakes: usize,
    /// Without a certificate, in all; from one address half as many. They take no place of those that have one.
    pub strangers: usize,
    /// Calls of one connection that has a certificate, at the same time.
    pub calls: u32,
}

/// How many connections are open, by address.
pub(super) struct Counts {
    limits: Limits,
    open: Mutex<Open>,
    metrics: Arc<Metrics>,
    label: ListenerLabel,
}

#[derive(Default)]
struct Open {
    all: Held,
    by_address: HashMap<IpAddr, Held>,
    by_holder: HashMap<InstanceId, usize>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Those in a handshake among them, strangers not.
    connections: usize,
    handshakes: usize,
    strangers: usize,
}

impl Open {
    fn change(&mut self, address: IpAddr, change: impl Fn(&mut Held)) {
        change(&mut self.all);
        let held = self.by_address.entry(address).or_default();
        change(held);
        if *held == Held::default() {
            self.by_address.remove(&address);
        }
    }

    fn held_by(&self, address: IpAddr) -> Held {
        self.by_address.get(&address).copied().unwrap_or_default()
    }
}

impl Counts {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>, label: ListenerLabel) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), metrics, label })
    }

    pub(super) fn take_place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = open.held_by(address);
        if open.all.connections >= self.limits.connections
            || open.all.handshakes >= self.limits.handshakes
            || held.connections >= self.limits.connections_per_address
            || held.handshakes >= self.limits.handshakes / 2
        {
            return None;
        }
        open.change(address, |held| {
            held.connections += 1;
            held.handshakes += 1;
        });
        self.metrics.connections.get_or_create(&self.label).inc();
        Some(Place { counts: Arc::clone(self), address, standing: Standing::Handshake })
    }
}

/// One connection's share of the limits; given back when dropped.
pub(super) struct Place {
    counts: Arc<Counts>,
    address: IpAddr,
    standing: Standing,
}

#[derive(Clone, Copy)]
enum Standing {
    Handshake,
    Known(InstanceId),
    Stranger,
}

impl Place {
    /// Ends the handshake. `false`: there are too many already of the holder of the certificate that was proved, or of those who
    /// have proved nothing.
    pub(super) fn settle(&mut self, holder: Option<InstanceId>) -> bool {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holder {
            let by_holder = open.by_holder.entry(holder).or_default();
            if *by_holder >= self.counts.limits.connections_per_holder {
                return false;
            }
            *by_holder += 1;
            open.change(self.address, |held| held.handshakes -= 1);
            self.standing = Standing::Known(holder);
            return true;
        }
        let most = self.counts.limits.strangers;
        if open.all.strangers >= most || open.held_by(self.address).strangers >= most / 2 {
            return false;
        }
        open.change(self.address, |held| {
            held.handshakes -= 1;
            held.connections -= 1;
            held.strangers += 1;
        });
        self.standing = Standing::Stranger;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = self.standing;
        open.change(self.address, |held| match standing {
            Standing::Handshake => {
                held.handshakes -= 1;
                held.connections -= 1;
            }
            Standing::Known(_) => held.connections -= 1,
            Standing::Stranger => held.strangers -= 1,
        });
        if let Standing::Known(holder) = standing
            && let Entry::Occupied(mut held) = open.by_holder.entry(holder)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.counts.metrics.connections.get_or_create(&self.counts.label).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Arc<Counts> {
        let limits = Limits {
            connections: 4,
            connections_per_address: 3,
            connections_per_holder: 2,
            handshakes: 4,
            strangers: 4,
            calls: 1,
        };
        Counts::new(limits, Arc::default(), ListenerLabel { listener: "agent" })
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
        let mut strangers: Vec<_> = (0..2).map(|_| connect(one, false).unwrap()).collect();
        assert!(connect(one, false).is_none(), "half of them may come from one address");
        strangers.extend((0..2).map(|_| connect(other, false).unwrap()));
        assert!(connect([10, 0, 0, 3].into(), false).is_none(), "these are all");

        let known: Vec<_> = (0..3).map(|_| connect(one, true).unwrap()).collect();
        assert!(connect(one, true).is_none(), "so many may come from one address");
        let last = connect(other, true).unwrap();
        assert!(connect(other, true).is_none(), "these are all");

        drop((strangers, known, last));
        assert!(connect(one, false).is_some());
        let open = counts.open.lock().unwrap();
        assert!(open.all == Held::default() && open.by_address.is_empty() && open.by_holder.is_empty());
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
    fn handshakes_have_a_limit_of_their_own() {
        let counts = counts();
        let address = [10, 0, 0, 1].into();
        let mut first = counts.take_place(address).unwrap();
        let second = counts.take_place(address).unwrap();
        assert!(counts.take_place(address).is_none());
        assert!(first.settle(Some(holder(1))));
        drop(second);
        let _third = counts.take_place(address).unwrap();
    }
}
