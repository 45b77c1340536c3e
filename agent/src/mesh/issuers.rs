//! Which authorities programs beside us live by.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hauberk_identity::Serial;

/// The serial numbers of the authorities that signed the certificates which programs are given now.
///
/// `workloads/` writes here; `connections.rs` looks here before it says that nothing rests on an authority any longer.
#[derive(Debug, Default)]
pub struct Issuers(Mutex<BTreeSet<Serial>>);

impl Issuers {
    /// States that from now on these are all.
    pub fn replace(&self, issuers: BTreeSet<Serial>) {
        *self.issuers() = issuers;
    }

    /// Whether this is so of one of them.
    pub fn any(&self, is_so: impl FnMut(&Serial) -> bool) -> bool {
        self.issuers().iter().any(is_so)
    }

    fn issuers(&self) -> MutexGuard<'_, BTreeSet<Serial>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
