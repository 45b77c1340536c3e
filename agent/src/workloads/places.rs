//! Places for connections, shared out among users so that few of them cannot keep the others out.
//!
//! A user is let in only while as many places are left free as the user then has. So the first may have half of all
//! places, the next half of what that one leaves, and so on: `k` users together leave at least one in `2^k` of them
//! free, whatever they do, and in whatever order. (Of users in the order of their last admissions, each had at most
//! half of what the former ones still hold did leave.) A user with few connections gets one more even then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By everybody.
    all: usize,
    /// By each user that has any.
    by_user: HashMap<u32, usize>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    uid: u32,
    places: Places,
}

/// There is none for this user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPlace {
    /// How many the user has.
    pub(super) of_user: usize,
    /// How many are taken.
    pub(super) all: usize,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(all: usize) -> Self {
        Self { all, taken: Arc::default() }
    }

    /// A place for a user.
    ///
    /// # Errors
    /// Fewer would be left free than the user would have.
    pub(super) fn take(&self, uid: u32) -> Result<Place, NoPlace> {
        let mut taken = self.taken();
        let of_user = taken.by_user.get(&uid).copied().unwrap_or_default();
        let free = self.all.saturating_sub(taken.all);
        if free <= of_user + 1 {
            return Err(NoPlace { of_user, all: taken.all });
        }
        taken.all += 1;
        taken.by_user.insert(uid, of_user + 1);
        Ok(Place { uid, places: self.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_user) = taken.by_user.get_mut(&self.uid) {
            *of_user = of_user.saturating_sub(1);
            if *of_user == 0 {
                taken.by_user.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many as a user gets.
    fn greedy(places: &Places, uid: u32) -> Vec<Place> {
        std::iter::from_fn(|| places.take(uid).ok()).collect()
    }

    #[test]
    fn each_user_gets_half_of_what_the_others_leave() {
        let places = Places::new(256);
        let held: Vec<Vec<Place>> = (0..9).map(|uid| greedy(&places, uid)).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [128, 64, 32, 16, 8, 4, 2, 1, 0]);
        assert_eq!(places.take(0).unwrap_err(), NoPlace { of_user: 128, all: 255 });
        drop(held);
        assert!(places.taken().by_user.is_empty());
        assert_eq!(greedy(&places, 9).len(), 128);
    }

    proptest! {
        #[test]
        fn few_users_leave_room_for_another_whatever_they_do(
            users in 1_u32..6,
            steps in prop::collection::vec((0_u32..6, 0..8, any::<prop::sample::Index>()), 0..2_000),
        ) {
            let places = Places::new(256);
            let mut held: Vec<Place> = Vec::new();
            for (uid, step, which) in steps {
                // Most of them come.
                if step > 0 || held.is_empty() {
                    held.extend(places.take(uid % users));
                } else {
                    held.swap_remove(which.index(held.len()));
                }
                prop_assert!(256 - held.len() >= 256 >> users);
            }
            let of_another = greedy(&places, 6);
            prop_assert!(of_another.len() >= 256 >> (users + 1));
        }
    }
}
