//! Who writes an admin's record, one after another: several who issue to one admin at once would be in each other's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hauberk_identity::Name;
use tokio::sync::OwnedMutexGuard;

/// One turn for each admin.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Name, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else here writes this admin's record.
    pub(super) async fn of(&self, name: &Name) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(name.clone(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}
