//! Where an identity is kept, and where it is forgotten: one after the other, whoever comes first.
//!
//! A certificate may be asked for just when the control plane says that our virtual node is gone, and be answered only
//! after that. So nobody puts an identity in force but by way of a [`Membership`], or keeps one but by way of a
//! [`Keeping`], which there is none of once the node is gone; and forgetting waits for those that are held. They are
//! two, for a disk may hang: who is in force is known without it.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use hauberk_tls::KeyPair;

use super::{
    ENDPOINTS, IDENTITY, NODE_VIEW, PENDING_KEY, SERVICE_VIEWS, SPENT_TOKEN, SpentToken, State, StateError,
    StoredIdentity,
};

/// How often, and how long after the last time, whoever does not wait for a disk that hangs asks whether it is its
/// turn.
const TURNS: u32 = 100;
const TURN: Duration = Duration::from_millis(50);

/// That our virtual node is not gone, for as long as this is held: for no longer than memory takes, and no disk.
/// Whoever puts an identity in force does so meanwhile.
#[derive(Debug)]
pub struct Membership<'a> {
    _is_node_gone: MutexGuard<'a, bool>,
}

/// That nothing of our virtual node is forgotten on disk while this is held. Whoever keeps what is the node's does so
/// meanwhile. That takes as long as the disk does: not for the runtime's threads.
#[derive(Debug)]
pub struct Keeping<'a> {
    state: &'a State,
    _writing: MutexGuard<'a, ()>,
}

impl State {
    /// Waits for no disk.
    ///
    /// # Errors
    /// Our virtual node is gone.
    pub fn membership(&self) -> Result<Membership<'_>, StateError> {
        let is_node_gone = self.is_node_gone();
        if *is_node_gone {
            return Err(StateError::NodeGone);
        }
        Ok(Membership { _is_node_gone: is_node_gone })
    }

    /// Waits for whoever keeps or forgets what is the node's just now, and so for the disk.
    ///
    /// # Errors
    /// Our virtual node is gone.
    pub fn keeping(&self) -> Result<Keeping<'_>, StateError> {
        self.keeping_by(self.writing())
    }

    /// The same, but none where others keep or forget for longer than a disk takes that answers.
    ///
    /// # Errors
    /// Our virtual node is gone.
    pub fn keeping_soon(&self) -> Result<Option<Keeping<'_>>, StateError> {
        for _ in 0..TURNS {
            match self.writing.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::sleep(TURN),
                Ok(writing) => return self.keeping_by(writing).map(Some),
                Err(TryLockError::Poisoned(poisoned)) => {
                    return self.keeping_by(poisoned.into_inner()).map(Some);
                }
            }
        }
        self.membership().map(|_| None)
    }

    /// Our virtual node is gone: from now on there is neither [`Membership`] nor [`Keeping`]. Waits for no disk.
    pub fn node_is_gone(&self) {
        *self.is_node_gone() = true;
    }

    /// Our virtual node is there again. Waits for no disk, nor for whoever forgets what was kept of it before.
    pub fn node_is_back(&self) {
        *self.is_node_gone() = false;
    }

    /// Forgets who we were and what we were to do, where our virtual node is gone: see [`Self::node_is_gone`]. What to
    /// trust and how far we have come stay.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_node(&self) -> Result<(), StateError> {
        let _writing = self.writing();
        // It may be back by now.
        if self.membership().is_ok() {
            return Ok(());
        }
        // In this order: without views nothing is let in; views without an identity would meet whoever joins next.
        for names in [&[NODE_VIEW, SERVICE_VIEWS, ENDPOINTS][..], &[IDENTITY, PENDING_KEY, SPENT_TOKEN]] {
            for name in names {
                self.remove(name)?;
                // What a write that was cut off has left.
                self.remove(&format!(".{name}.new"))?;
            }
            File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|source| StateError::Directory { directory: self.directory.clone(), source })?;
        }
        Ok(())
    }

    fn keeping_by<'a>(&'a self, writing: MutexGuard<'a, ()>) -> Result<Keeping<'a>, StateError> {
        // Looked at last: whoever forgets says so first, and then waits for us.
        self.membership()?;
        Ok(Keeping { state: self, _writing: writing })
    }

    fn is_node_gone(&self) -> MutexGuard<'_, bool> {
        self.is_node_gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeping<'_> {
    /// Keeps key and certificate, together.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_identity(&self, identity: &StoredIdentity) -> Result<(), StateError> {
        self.state.write(IDENTITY, &identity.encode())?;
        self.state.remove(PENDING_KEY)
    }

    /// Keeps which token does not let us in again.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_spent_token(&self, spent: SpentToken) -> Result<(), StateError> {
        self.state.write(SPENT_TOKEN, spent.to_string().as_bytes())
    }

    /// The key that the first certificate is asked for, kept before it is used, so that a reply that was lost can be
    /// asked for again.
    ///
    /// # Errors
    /// There is none yet and none can be made or kept.
    pub fn pending_key(&self) -> Result<KeyPair, StateError> {
        self.state.pending_key()
    }
}
