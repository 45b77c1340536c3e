//! How many connections may be open, and which of them count for what.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::{ListenerLabel, Metrics};

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub connections_per_address: usize,
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
    Known,
    Stranger,
}

impl Place {
    /// Ends the handshake. `false`: the peer has proved nothing, and there are too many of these already.
    pub(super) fn settle(&mut self, is_known: bool) -> bool {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known {
            open.change(self.address, |held| held.handshakes -= 1);
            self.standing = Standing::Known;
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
            Standing::Known => held.connections -= 1,
            Standing::Stranger => held.strangers -= 1,
        });
        self.counts.metrics.connections.get_or_create(&self.counts.label).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Arc<Counts> {
        let limits =
            Limits { connections: 4, connections_per_address: 3, handshakes: 4, strangers: 4, calls: 1 };
        Counts::new(limits, Arc::default(), ListenerLabel { listener: "agent" })
    }

    #[test]
    fn strangers_take_no_place_of_those_with_a_certificate() {
        let counts = counts();
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let connect = |address, is_known| {
            let mut place = counts.take_place(address)?;
            place.settle(is_known).then_some(place)
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
        assert!(open.all == Held::default() && open.by_address.is_empty());
    }

    #[test]
    fn handshakes_have_a_limit_of_their_own() {
        let counts = counts();
        let address = [10, 0, 0, 1].into();
        let mut first = counts.take_place(address).unwrap();
        let second = counts.take_place(address).unwrap();
        assert!(counts.take_place(address).is_none());
        assert!(first.settle(true));
        drop(second);
        let _third = counts.take_place(address).unwrap();
    }
}
