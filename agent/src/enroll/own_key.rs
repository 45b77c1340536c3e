//! Which key is to be certified.

use std::sync::Arc;
use std::time::Duration;

use hauberk_tls::KeyPair;
use tokio::time::timeout;

use super::{Attempt, EnrollError};
use crate::credentials::Credentials;
use crate::state::State;

/// How long to wait for our key, which may be made first, before it is tried again.
pub(super) const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// The key that is to be certified: where it may be the last one that we had, that. Evidence may count for one key
/// alone, and whoever was in by it comes back by that key.
pub(super) async fn own_key(
    may_be_last: bool,
    state: &Arc<State>,
    former: Option<&Credentials>,
) -> Result<KeyPair, Attempt> {
    // What the disk does not have yet is newer than what it has.
    if let Some(key) = former.filter(|_| may_be_last).and_then(Credentials::unsaved_key) {
        // Where our node is gone a token would be spent in vain.
        state.membership().map_err(EnrollError::State)?;
        return Ok(key);
    }
    let state = Arc::clone(state);
    let kept = tokio::task::spawn_blocking(move || {
        // None of those who try again and again waits for a disk that keeps one of them.
        let Some(keeping) = state.keeping_soon()? else { return Ok(None) };
        if may_be_last && let Ok(Some(identity)) = state.identity() {
            return Ok(Some(identity.key));
        }
        keeping.pending_key().map(Some)
    });
    match timeout(DISK_TIMEOUT, kept).await {
        Ok(Ok(Ok(Some(key)))) => Ok(key),
        Ok(Ok(Err(error))) => Err(EnrollError::State(error).into()),
        Ok(Ok(Ok(None))) | Err(_) => {
            Err(Attempt::Again("the disk of the state directory does not answer".to_owned()))
        }
        Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}
