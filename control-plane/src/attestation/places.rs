//! Who may ask a cluster at a time. Strangers ask, with whatever they have written themselves: those of one network have a part of the
//! places, and wait for one another first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many ask at once.
pub(super) const AT_ONCE: usize = 16;

/// How many of one network do.
const OF_NETWORK: usize = AT_ONCE / 4;

/// How long one waits for a place.
pub(super) const WAITS: Duration = Duration::from_secs(5);

/// The places of one cluster.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Of those networks of which somebody asks or waits.
    of_networks: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_network: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), of_networks: Mutex::default() }
    }

    /// Waits for a place, those who have waited longest first; `None` where there is none in time.
    pub(super) async fn take(&self, network: &str) -> Option<Place> {
        let (of_network, all) = (self.of_network(network), Arc::clone(&self.all));
        let place = async {
            // In this order: whoever waits for others of the same network keeps nobody else waiting.
            let of_network = of_network.acquire_owned().await.ok()?;
            Some(Place { _of_network: of_network, _of_all: all.acquire_owned().await.ok()? })
        };
        timeout(WAITS, place).await.ok().flatten()
    }

    fn of_network(&self, network: &str) -> Arc<Semaphore> {
        let mut of_networks = self.of_networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = of_networks.get(network).and_then(Weak::upgrade) {
            return places;
        }
        // There are no more than calls of strangers.
        of_networks.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(OF_NETWORK));
        of_networks.insert(network.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_network_has_a_quarter_and_waits_for_its_own() {
        let places = Places::new();
        let mut held = Vec::new();
        for _ in 0..OF_NETWORK {
            held.push(places.take("10.0.0.1").await.unwrap());
        }
        let (late, other) = tokio::join!(places.take("10.0.0.1"), places.take("10.0.0.2"));
        assert!(late.is_none() && other.is_some());
        let waiting = places.take("10.0.0.1");
        let (waited, ()) = tokio::join!(waiting, async { drop(held.pop()) });
        assert!(waited.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_waited_longest_comes_first() {
        let places = Places::new();
        let mut held = Vec::new();
        for network in 0..4 {
            for _ in 0..OF_NETWORK {
                held.push(places.take(&format!("10.0.0.{network}")).await.unwrap());
            }
        }
        assert!(places.take("10.0.9.1").await.is_none());
        // Many more of a network that has its part do not come before another.
        let greedy = join_all((0..100).map(|_| places.take("10.0.0.0")));
        let other = async {
            let mut taking = std::pin::pin!(places.take("10.0.9.1"));
            assert!((&mut taking).now_or_never().is_none());
            drop(held.pop());
            taking.await.is_some()
        };
        let (greedy, other) = tokio::join!(greedy, other);
        assert!(other && greedy.iter().all(Option::is_none));
        drop(held);
        assert!(places.take("10.0.9.1").await.is_some());
        assert_eq!(places.of_networks.lock().unwrap().len(), 1, "nobody else is remembered");
    }
}
