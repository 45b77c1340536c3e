//! Issuers of users' tokens that may have a key of which we were not told yet: the control plane looks for it, where it
//! fetches their keys.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often the control plane is told of one issuer at the most: anybody can write a token that names a key.
const EVERY: Duration = Duration::from_secs(30);

/// They, until the control plane is told.
#[derive(Debug, Default)]
pub struct UnknownKeys {
    issuers: Mutex<BTreeMap<Name, Seen>>,
    is_new: Notify,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    is_told: bool,
}

impl UnknownKeys {
    /// A token says that it is by this issuer of a view's, and names a key that is none of its.
    pub fn note(&self, issuer: &Name) {
        let now = Instant::now();
        let mut issuers = self.issuers();
        issuers.retain(|_, seen| !seen.is_told || now.duration_since(seen.at) < EVERY);
        if !issuers.contains_key(issuer) {
            issuers.insert(issuer.clone(), Seen { at: now, is_told: false });
            self.is_new.notify_one();
        }
    }

    /// The next one of which the control plane is to be told, once there is one.
    pub async fn next(&self) -> Name {
        loop {
            if let Some(issuer) = self.take() {
                return issuer;
            }
            self.is_new.notified().await;
        }
    }

    fn take(&self) -> Option<Name> {
        let mut issuers = self.issuers();
        let (issuer, seen) = issuers.iter_mut().find(|(_, seen)| !seen.is_told)?;
        *seen = Seen { at: Instant::now(), is_told: true };
        Some(issuer.clone())
    }

    fn issuers(&self) -> MutexGuard<'_, BTreeMap<Name, Seen>> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_each_issuer_is_told_once_in_a_while_however_many_tokens_come() {
        let (keys, soon) = (UnknownKeys::default(), Duration::from_millis(1));
        let [one, other]: [Name; 2] = ["one", "other"].map(|name| name.parse().unwrap());
        let next = || timeout(soon, keys.next());
        assert!(next().await.is_err(), "there is none");
        for _ in 0..1_000 {
            keys.note(&one);
        }
        assert_eq!(next().await, Ok(one.clone()));
        keys.note(&one);
        keys.note(&other);
        assert_eq!(next().await, Ok(other.clone()));
        advance(EVERY - 4 * soon).await;
        keys.note(&one);
        assert!(next().await.is_err(), "it was told just now");
        advance(4 * soon).await;
        keys.note(&one);
        assert_eq!(next().await, Ok(one));
    }
}
