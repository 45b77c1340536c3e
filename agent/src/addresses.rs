//! Where the agent listens in fact, for whoever started it with port 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::state::State;

/// The file in the state directory that holds this as JSON.
pub(crate) const FILE: &str = "addresses.json";

/// For how long the file is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// All addresses that are bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Addresses {
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) health: SocketAddr,
    /// By `SERVICE` or `SERVICE:PORT`, as configured.
    pub(crate) tcp: BTreeMap<String, SocketAddr>,
    /// By the listener's number.
    pub(crate) inbound: BTreeMap<u16, SocketAddr>,
    /// Whether every listener of the view is among them.
    #[serde(skip)]
    pub(crate) is_complete: bool,
}

impl Addresses {
    /// All of them.
    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        let own = [self.outbound, self.admin, self.health].into_iter();
        own.chain(self.tcp.values().copied()).chain(self.inbound.values().copied()).collect()
    }

    /// The content of the file.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// The file, as it is written while the agent runs.
#[derive(Debug)]
pub(crate) struct Published {
    state: Arc<State>,
    /// What is to be written.
    newest: Arc<Mutex<Option<Vec<u8>>>>,
    /// What writes it, one at a time: a disk may hang.
    writing: JoinSet<()>,
}

impl Published {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { state, newest: Arc::default(), writing: JoinSet::new() }
    }

    /// Writes it off the runtime's threads, and waits for a disk that answers.
    pub(crate) async fn replace(&mut self, addresses: &Addresses) {
        *lock(&self.newest) = Some(addresses.to_json());
        if timeout(PATIENCE, self.write()).await.is_err() {
            tracing::error!(
                event = "state_not_saved",
                what = FILE,
                "the disk does not answer; it is served all the same"
            );
        }
    }

    async fn write(&mut self) {
        // It takes the newest too, if it comes to that.
        while self.writing.join_next().await.is_some() {}
        let (state, newest) = (Arc::clone(&self.state), Arc::clone(&self.newest));
        self.writing.spawn_blocking(move || {
            while let Some(content) = take(&newest) {
                if let Err(error) = state.publish(FILE, &content) {
                    tracing::error!(event = "state_not_saved", %error);
                    // For the next time, unless there is something newer.
                    lock(&newest).get_or_insert(content);
                    return;
                }
            }
        });
        while self.writing.join_next().await.is_some() {}
    }
}

fn take(newest: &Mutex<Option<Vec<u8>>>) -> Option<Vec<u8>> {
    lock(newest).take()
}

fn lock(newest: &Mutex<Option<Vec<u8>>>) -> MutexGuard<'_, Option<Vec<u8>>> {
    newest.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::testing::StalledFile;

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_a_while_and_has_the_newest_once_it_answers() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(directory.path()).unwrap());
        let mut published = Published::new(Arc::clone(&state));
        let own: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let bound = |port: u16| Addresses {
            outbound: own,
            admin: own,
            health: own,
            tcp: BTreeMap::new(),
            inbound: [(port, own)].into(),
            is_complete: true,
        };
        let stalled = StalledFile::at(directory.path().join(".addresses.json.new"));
        pause();
        for port in 1..=3 {
            let addresses = bound(port);
            tokio::join!(published.replace(&addresses), advance(2 * PATIENCE));
        }
        drop(stalled);
        published.write().await;
        assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), bound(3).to_json());
        published.replace(&bound(4)).await;
        assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), bound(4).to_json());
    }
}
