//! Room for those of whom nothing is known yet. When it is full, the oldest of the network that has most of it leaves for whoever comes:
//! who takes all of it takes it from himself. It is not the one nearest its end, though, or nobody would come to one where more come
//! than are done: whoever has a call under way leaves last, and only for another network; so does who came, or ended a call, just now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::network_of;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Room for so many.
#[derive(Debug)]
pub struct Room {
    most: usize,
    grace: Duration,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    next: u64,
    /// Whoever is to leave is not among them any longer.
    by_network: HashMap<IpAddr, BTreeMap<u64, Guest>>,
}

#[derive(Debug)]
struct Guest {
    must_leave: CancellationToken,
    calls: usize,
    /// When it came, or ended its latest call.
    idle_since: Instant,
}

/// A place in it, until dropped.
#[derive(Debug)]
pub struct Stay {
    must_leave: CancellationToken,
    calls: Calls,
}

/// Where the calls of one that stays are noted.
#[derive(Debug, Clone)]
pub struct Calls {
    room: Arc<Room>,
    network: IpAddr,
    number: u64,
}

/// A call under way, until dropped.
#[derive(Debug)]
pub struct Call(Calls);

impl Room {
    /// At most so many stay at once. Whoever came, or ended a call, within the time of grace does not leave for one of the same network.
    pub fn new(most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { most, grace, held: Mutex::default() })
    }

    /// Lets in whoever comes from this address; `None` where nobody is to leave for it.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Stay> {
        self.enter_at(address, Instant::now())
    }

    fn enter_at(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Stay> {
        let (network, must_leave) = (network_of(address), CancellationToken::new());
        let mut held = self.held();
        if held.count >= self.most {
            let (of, number) = held.who_leaves(network, now, self.grace)?;
            held.take(of, number)?.must_leave.cancel();
        }
        let number = held.next;
        held.next += 1;
        held.count += 1;
        let guest = Guest { must_leave: must_leave.clone(), calls: 0, idle_since: now };
        held.by_network.entry(network).or_default().insert(number, guest);
        Some(Stay { must_leave, calls: Calls { room: Arc::clone(self), network, number } })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Who leaves for one that comes from `newcomer`, which counts as if it were there.
    fn who_leaves(&self, newcomer: IpAddr, now: Instant, grace: Duration) -> Option<(IpAddr, u64)> {
        let own = 1 + self.by_network.get(&newcomer).map_or(0, BTreeMap::len);
        let (has, longest_idle, of) = self
            .by_network
            .iter()
            .map(|(network, guests)| {
                let idle = guests.iter().filter(|(_, guest)| guest.calls == 0);
                let longest = idle.map(|(number, guest)| Reverse((guest.idle_since, *number))).max();
                (if *network == newcomer { own } else { guests.len() }, longest, *network)
            })
            .max()
            .filter(|(has, ..)| *has >= own)?;
        let has_more = has > own;
        match longest_idle {
            Some(Reverse((since, number))) => {
                (has_more || now.saturating_duration_since(since) >= grace).then_some((of, number))
            }
            // The one that is furthest from its end.
            None if has_more => self.by_network.get(&of)?.keys().next_back().map(|number| (of, *number)),
            None => None,
        }
    }

    fn take(&mut self, network: IpAddr, number: u64) -> Option<Guest> {
        let guests = self.by_network.get_mut(&network)?;
        let taken = guests.remove(&number)?;
        if guests.is_empty() {
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

    /// Where its calls are noted.
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let Calls { room, network, number } = &self.calls;
        let _was_there = room.held().take(*network, *number);
    }
}

impl Calls {
    /// Notes that one begins.
    pub fn begin(&self) -> Call {
        self.change(|guest| guest.calls += 1);
        Call(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Guest)) {
        let mut held = self.room.held();
        // Whoever is to leave is not there any longer.
        if let Some(guest) = held.by_network.get_mut(&self.network).and_then(|of| of.get_mut(&self.number)) {
            change(guest);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.change(|guest| {
            guest.calls -= 1;
            // Its answer is still on the way.
            guest.idle_since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(room: &Arc<Room>, address: &str) -> Stay {
        room.enter(address.parse().unwrap()).unwrap()
    }

    fn is_refused(room: &Arc<Room>, address: &str) -> bool {
        room.enter(address.parse().unwrap()).is_none()
    }

    fn leaves(stay: &Stay) -> bool {
        stay.must_leave.is_cancelled()
    }

    #[test]
    fn the_oldest_of_the_network_that_has_most_leaves() {
        let room = Room::new(4, Duration::ZERO);
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
        let room = Room::new(3, Duration::ZERO);
        let all: Vec<_> = (1..=4).map(|host| enter(&room, &format!("10.0.{host}.1"))).collect();
        assert_eq!(all.iter().map(leaves).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[test]
    fn one_that_comes_from_the_same_address_as_all_others_gets_in() {
        let room = Room::new(2, Duration::ZERO);
        let _silent = [enter(&room, "127.0.0.1"), enter(&room, "127.0.0.1")];
        assert!(!leaves(&enter(&room, "127.0.0.1")));
    }

    #[test]
    fn whoever_has_a_call_under_way_leaves_last_and_for_another_network_alone() {
        let room = Room::new(3, Duration::ZERO);
        let [first, second] = [enter(&room, "10.0.0.1"), enter(&room, "10.0.0.1")];
        let [of_first, of_second] = [&first, &second].map(|stay| stay.calls().begin());
        let idle = enter(&room, "10.0.0.1");
        let third = enter(&room, "10.0.0.1");
        assert!(leaves(&idle) && !leaves(&first) && !leaves(&second));
        let of_third = [third.calls().begin(), third.calls().begin()];
        for _ in 0..10 {
            assert!(is_refused(&room, "10.0.0.1"));
        }
        // The oldest is nearest its end.
        let other = enter(&room, "10.0.0.2");
        assert!(leaves(&third) && !leaves(&first) && !leaves(&second));
        let of_other = other.calls().begin();
        assert!(is_refused(&room, "10.0.0.1"));
        let next = enter(&room, "10.0.0.3");
        assert!(leaves(&second) && !leaves(&first) && !leaves(&other));
        let of_next = next.calls().begin();
        assert!(is_refused(&room, "10.0.0.4"), "who has no more than the newcomer loses nothing to it");

        drop(of_other);
        drop((of_first, of_second, of_third, of_next));
        let again = enter(&room, "10.0.0.4");
        assert!(leaves(&other) && !leaves(&first), "the one whose call ended first");
        drop((first, second, third, other, next, again, idle));
        let held = room.held();
        assert!(held.count == 0 && held.by_network.is_empty());
    }

    #[test]
    fn whoever_came_just_now_or_has_just_been_answered_leaves_for_another_network_alone() {
        let grace = Duration::from_secs(3_600);
        let room = Room::new(2, grace);
        let began = Instant::now();
        let [first, second] = [enter(&room, "10.0.0.1"), enter(&room, "10.0.0.1")];
        assert!(is_refused(&room, "10.0.0.1"));
        let other = enter(&room, "10.0.0.2");
        assert!(leaves(&first) && !leaves(&second));
        assert!(is_refused(&room, "10.0.0.2") && is_refused(&room, "10.0.0.3"));
        let late = began + grace * 2;
        let third = room.enter_at([10, 0, 0, 2].into(), late).unwrap();
        assert!(leaves(&other) && !leaves(&second) && !leaves(&third));
    }
}
