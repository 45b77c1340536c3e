//! What ends with an admin: the connections of one who is deleted are cut, whoever has deleted it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::Name;
use tokio_util::sync::CancellationToken;

use super::Admins;
use crate::registry::{Change, StoreError, Version, Watch, WatchEnd, keys};

/// Before the registry is read again after a failure.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is cancelled when an admin is deleted.
#[derive(Debug, Default)]
pub(super) struct Dismissals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_name: HashMap<Name, CancellationToken>,
    /// Commits whose deletions have been obeyed before they were followed: whoever has the name since is another.
    obeyed: BTreeSet<Version>,
    /// The last commit whose deletions have been followed: whoever has the name since is another, too.
    followed: Version,
}

impl Dismissals {
    pub(super) fn of(&self, name: Name) -> CancellationToken {
        self.lock().by_name.entry(name).or_default().clone()
    }

    /// Dismisses an admin whom this commit has deleted, before that is answered.
    pub(super) fn dismiss(&self, name: &Name, deleted: Version) {
        let mut state = self.lock();
        if deleted <= state.followed {
            return;
        }
        state.obeyed.insert(deleted);
        state.dismiss(name.as_str());
    }

    pub(super) fn follow(&self, change: &Change) {
        let mut state = self.lock();
        if !state.obeyed.contains(&change.version) {
            let deleted = change.under(keys::ADMINS).filter(|(_, stored)| stored.is_none());
            let deleted = deleted.filter_map(|(key, _)| key.strip_prefix(keys::ADMINS));
            deleted.for_each(|name| state.dismiss(name));
        }
        state.followed_until(change.version);
    }

    /// Dismisses everybody in place of those who were deleted up to this commit.
    fn dismiss_all(&self, until: Version) {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.by_name);
        all.values().for_each(CancellationToken::cancel);
        state.followed_until(until);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn dismiss(&mut self, name: &str) {
        self.by_name.remove(name).iter().for_each(CancellationToken::cancel);
    }

    fn followed_until(&mut self, version: Version) {
        self.followed = version;
        self.obeyed.retain(|obeyed| *obeyed > version);
    }
}

impl Admins {
    /// What is written about admins from now on, for [`Admins::follow`]: to be asked for before anybody connects.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn changes(&self) -> Result<Watch, StoreError> {
        Ok(self.store.watch(keys::ADMINS, self.version().await?))
    }

    async fn version(&self) -> Result<Version, StoreError> {
        Ok(self.store.list(keys::ADMINS, None, 1).await?.version)
    }

    /// Dismisses whoever is deleted, until `stop`: a deletion is written for good, also where whoever asked for it has gone before it
    /// was answered.
    pub async fn follow(&self, mut changes: Watch, stop: CancellationToken) {
        let follow = async {
            loop {
                match changes.next().await {
                    Ok(change) => self.dismissals.follow(&change),
                    Err(WatchEnd::Closed) => return,
                    Err(WatchEnd::Compacted) => {
                        let version = self.version_as_soon_as_readable().await;
                        changes = self.store.watch(keys::ADMINS, version);
                        // Who was deleted meanwhile cannot be told: whoever is an admin still connects again.
                        self.dismissals.dismiss_all(version);
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    async fn version_as_soon_as_readable(&self) -> Version {
        loop {
            match self.version().await {
                Ok(version) => return version,
                Err(error) => {
                    tracing::error!(event = "admins_unreadable", %error);
                    tokio::time::sleep(READ_AGAIN_AFTER).await;
                }
            }
        }
    }
}
