//! Room for those of whom nothing is known yet. When it is full, whoever comes is let in all the same, and the oldest of the network
//! that has most of it leaves: who takes all of it takes it from himself, and an honest client is done long before it is the oldest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::network_of;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Room for so many.
#[derive(Debug)]
pub struct Room {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    next: u64,
    /// The oldest of each first. Whoever is to leave is not among them any longer.
    by_network: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// A place in it, until dropped.
#[derive(Debug)]
pub struct Stay {
    room: Arc<Room>,
    network: IpAddr,
    number: u64,
    must_leave: CancellationToken,
}

impl Room {
    /// At most so many stay at once.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Lets in whoever comes from this address.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Stay {
        let (network, must_leave) = (network_of(address), CancellationToken::new());
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        held.count += 1;
        held.by_network.entry(network).or_default().insert(number, must_leave.clone());
        if held.count > self.most {
            held.have_one_leave();
        }
        Stay { room: Arc::clone(self), network, number, must_leave }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn have_one_leave(&mut self) {
        let oldest = |(network, stays): (&IpAddr, &BTreeMap<u64, _>)| {
            let number = *stays.keys().next()?;
            Some((stays.len(), Reverse(number), *network))
        };
        let Some((_, Reverse(number), network)) = self.by_network.iter().filter_map(oldest).max() else {
            return;
        };
        if let Some(leaves) = self.take(network, number) {
            leaves.cancel();
        }
    }

    fn take(&mut self, network: IpAddr, number: u64) -> Option<CancellationToken> {
        let stays = self.by_network.get_mut(&network)?;
        let taken = stays.remove(&number)?;
        if stays.is_empty() {
            self.by_network.remove(&network);
        }
        self.count -= 1;
        Some(taken)
    }
}

impl Stay {
    /// Ends when somebody else needs the place.
    pub fn must_leave(&self) -> WaitForCancellationFutureOwned {
        self.must_leave.clone().cancelled_owned()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _was_there = self.room.held().take(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(room: &Arc<Room>, address: &str) -> Stay {
        room.enter(address.parse().unwrap())
    }

    fn leaves(stay: &Stay) -> bool {
        stay.must_leave.is_cancelled()
    }

    #[test]
    fn the_oldest_of_the_network_that_has_most_leaves() {
        let room = Room::new(4);
        let honest = enter(&room, "10.0.0.1");
        let greedy: Vec<_> = (1..=8).map(|host| enter(&room, &format!("2001:db8::{host}"))).collect();
        assert_eq!(
            greedy.iter().map(leaves).collect::<Vec<_>>(),
            [true, true, true, true, true, false, false, false]
        );
        let late = enter(&room, "10.0.0.2");
        assert!(!leaves(&honest) && !leaves(&late) && leaves(&greedy[5]));
        drop((honest, greedy, late));
        let held = room.held();
        assert!(held.count == 0 && held.by_network.is_empty());
    }

    #[test]
    fn of_many_networks_that_have_one_each_the_oldest_of_all_leaves() {
        let room = Room::new(3);
        let all: Vec<_> = (1..=4).map(|host| enter(&room, &format!("10.0.{host}.1"))).collect();
        assert_eq!(all.iter().map(leaves).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[test]
    fn one_that_comes_from_the_same_address_as_all_others_gets_in() {
        let room = Room::new(2);
        let _silent = [enter(&room, "127.0.0.1"), enter(&room, "127.0.0.1")];
        assert!(!leaves(&enter(&room, "127.0.0.1")));
    }
}
