//! Where an identity is kept, and where it is forgotten: one after the other, whoever comes first.
//!
//! A certificate may be asked for just when the control plane says that our virtual node is gone, and be answered only
//! after that. So nobody keeps an identity but by way of a [`Membership`], which there is none of once the node is
//! gone; and forgetting waits for those that are held.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError};

use super::{ENDPOINTS, IDENTITY, NODE_VIEW, PENDING_KEY, SERVICE_VIEWS, State, StateError, StoredIdentity};

/// That our virtual node is not gone, for as long as this is held. Whoever puts an identity in force does so meanwhile.
#[derive(Debug)]
pub struct Membership<'a> {
    state: &'a State,
    _is_node_gone: MutexGuard<'a, bool>,
}

impl State {
    /// Waits for whoever keeps or forgets an identity just now.
    ///
    /// # Errors
    /// Our virtual node is gone.
    pub fn membership(&self) -> Result<Membership<'_>, StateError> {
        let is_node_gone = self.is_node_gone();
        if *is_node_gone {
            return Err(StateError::NodeGone);
        }
        Ok(Membership { state: self, _is_node_gone: is_node_gone })
    }

    /// Forgets who we are and what we were to do: our virtual node is gone. What to trust and how far we have come stay.
    /// From now on there is no [`Membership`], whatever the disk says.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_node(&self) -> Result<(), StateError> {
        let mut is_node_gone = self.is_node_gone();
        *is_node_gone = true;
        // In this order: without views nothing is let in; views without an identity would meet whoever joins next.
        for names in [&[NODE_VIEW, SERVICE_VIEWS, ENDPOINTS][..], &[IDENTITY, PENDING_KEY]] {
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

    /// The control plane has a view for us again, so that we are somebody.
    pub fn remember_node(&self) {
        *self.is_node_gone() = false;
    }

    fn is_node_gone(&self) -> MutexGuard<'_, bool> {
        self.is_node_gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership<'_> {
    /// Keeps key and certificate, together.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_identity(&self, identity: &StoredIdentity) -> Result<(), StateError> {
        self.state.write(IDENTITY, &identity.encode())?;
        self.state.remove(PENDING_KEY)
    }
}
