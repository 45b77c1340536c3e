//! Those who watch decisions come. A slow one misses some, is told how many, and slows nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_proto::{admin::v1 as admin, agent::v1 as agent};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::Filter;

/// How many may watch at the same time.
const MAX_OBSERVERS: usize = 32;

/// How many batches wait for one observer.
const WAITING_BATCHES: usize = 256;

/// Too many watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{MAX_OBSERVERS} observers are watching already")]
pub struct TooManyObservers;

#[derive(Debug)]
pub(super) struct Observers {
    list: Mutex<List>,
    observed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    observers: Vec<Observer>,
}

#[derive(Debug)]
struct Observer {
    number: u64,
    filter: Filter,
    batches: mpsc::Sender<admin::ObserveResponse>,
    /// Not yet told.
    dropped: u64,
}

/// What one observer sees, until it is dropped.
#[derive(Debug)]
pub struct Observation {
    observers: Arc<Observers>,
    number: u64,
    batches: mpsc::Receiver<admin::ObserveResponse>,
}

impl Default for Observers {
    fn default() -> Self {
        Self { list: Mutex::default(), observed: watch::Sender::new(false) }
    }
}

impl Observers {
    pub(super) fn join(this: &Arc<Self>, filter: Filter) -> Result<Observation, TooManyObservers> {
        let (batches, receiver) = mpsc::channel(WAITING_BATCHES);
        let mut list = this.lock();
        if list.observers.len() == MAX_OBSERVERS {
            return Err(TooManyObservers);
        }
        let number = list.next;
        list.next += 1;
        list.observers.push(Observer { number, filter, batches, dropped: 0 });
        this.observed.send_if_modified(|observed| !std::mem::replace(observed, true));
        drop(list);
        Ok(Observation { observers: Arc::clone(this), number, batches: receiver })
    }

    pub(super) fn observed(&self) -> watch::Receiver<bool> {
        self.observed.subscribe()
    }

    /// Shows each observer what its filter lets through.
    pub(super) fn offer(&self, decisions: &[agent::Decision], dropped: u64) {
        for observer in &mut self.lock().observers {
            let shown: Vec<_> =
                decisions.iter().filter(|decision| observer.filter.shows(decision)).cloned().collect();
            observer.dropped = observer.dropped.saturating_add(dropped);
            if shown.is_empty() {
                continue;
            }
            let count = shown.len() as u64;
            let batch = admin::ObserveResponse { decisions: shown, dropped: observer.dropped };
            match observer.batches.try_send(batch) {
                Ok(()) => observer.dropped = 0,
                Err(_) => observer.dropped = observer.dropped.saturating_add(count),
            }
        }
    }

    fn leave(&self, number: u64) {
        let mut list = self.lock();
        list.observers.retain(|observer| observer.number != number);
        let any = !list.observers.is_empty();
        self.observed.send_if_modified(|observed| std::mem::replace(observed, any) != any);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observation {
    /// The next batch.
    pub async fn next(&mut self) -> Option<admin::ObserveResponse> {
        self.batches.recv().await
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.observers.leave(self.number);
    }
}
