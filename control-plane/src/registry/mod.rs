//! What the control plane remembers: versioned keys and values behind one [`Store`] trait.
//!
//! A commit is a list of guards and a list of writes; it happens whole or not at all, and is answered only once it
//! would survive loss of power. Readers see durable state only. Two numbers order everything: the [`Version`] counts
//! commits of any kind, and the [`Revision`] counts those that change the configuration (resources, trust,
//! revocation).

mod changes;
pub mod document;
mod error;
pub mod keys;
mod record;
mod sled_store;
mod write_behind;

#[cfg(test)]
mod suite;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::BoxFuture;

#[cfg(test)]
pub(crate) use changes::REMEMBERED_WRITES;
pub use changes::{Change, ChangeRing, Watch, WatchEnd};
pub use error::{OpenError, StoreError};
pub use sled_store::SledStore;
pub use write_behind::{Pace, WriteBehind};

/// The greatest size of one value in bytes: what fits into an etcd transaction with room for the rest of it.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// The greatest size of one key in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// The number of the commit that last wrote a key. It never repeats, so a key that was deleted and made anew is
/// told from the former one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

/// The counter of the whole configuration: raised by each commit that says so
/// ([`Commit::raising_revision`]), never by issuance, registrations, flows, tokens or audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// A value as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The commit that wrote it.
    pub version: Version,
    /// What was written.
    pub value: Bytes,
}

/// A condition of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(String),
    /// The key exists, at whatever version.
    Present(String),
    /// The key exists and was last written by this commit.
    At(String, Version),
    /// No commit has raised the revision since.
    RevisionIs(Revision),
}

impl std::fmt::Display for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(key) => write!(f, "{key} must not exist"),
            Self::Present(key) => write!(f, "{key} must exist"),
            Self::At(key, version) => write!(f, "{key} must be at version {}", version.0),
            Self::RevisionIs(revision) => write!(f, "the revision must be {}", revision.0),
        }
    }
}

/// Guards and writes that happen together or not at all. A key that is written twice keeps the last write.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    guards: Vec<Guard>,
    writes: BTreeMap<String, Option<Bytes>>,
    raise_revision: bool,
    uses_reserve: bool,
}

impl Commit {
    /// An empty commit, which succeeds and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Demands that the key does not exist.
    #[must_use]
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.guard(Guard::Absent(key.into()))
    }

    /// Demands that the key exists.
    #[must_use]
    pub fn present(self, key: impl Into<String>) -> Self {
        self.guard(Guard::Present(key.into()))
    }

    /// Demands that the key was last written by the commit `version`.
    #[must_use]
    pub fn at(self, key: impl Into<String>, version: Version) -> Self {
        self.guard(Guard::At(key.into(), version))
    }

    /// Demands that the key is as it was read: absent for `None`, at that version otherwise.
    #[must_use]
    pub fn unchanged(self, key: impl Into<String>, seen: Option<&Stored>) -> Self {
        match seen {
            Some(stored) => self.at(key, stored.version),
            None => self.absent(key),
        }
    }

    /// Demands that the revision is still the one the caller looked at.
    #[must_use]
    pub fn at_revision(self, revision: Revision) -> Self {
        self.guard(Guard::RevisionIs(revision))
    }

    /// Writes a value.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.writes.insert(key.into(), Some(value.into()));
        self
    }

    /// Removes a key; nothing happens where it does not exist.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.insert(key.into(), None);
        self
    }

    /// Says that this commit changes resources, trust or revocation, so that views are computed anew.
    #[must_use]
    pub fn raising_revision(mut self) -> Self {
        self.raise_revision = true;
        self
    }

    /// Says that this commit is small, and that an operator cannot mend a full disk without it: it is taken as long as
    /// any room is left at all.
    #[must_use]
    pub fn using_reserve(mut self) -> Self {
        self.uses_reserve = true;
        self
    }

    /// The number of keys written.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// What a commit became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The number of this commit, which all its keys now carry.
    pub version: Version,
    /// The revision after it.
    pub revision: Revision,
}

/// A consistent reading of the keys under a prefix, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys and values.
    pub entries: Vec<(String, Stored)>,
    /// Whether the limit cut the page: ask again after the last key.
    pub more: bool,
    /// The commit that this reading reflects: what [`Store::watch`] goes on from.
    pub version: Version,
    /// The revision that this reading reflects.
    pub revision: Revision,
}

/// Whether the store takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Reads and writes.
    Writable,
    /// Reads only, until there is room on the disk; says how little there is.
    Full(String),
    /// Reads only, until an operator repairs the disk and restarts; says why.
    Broken(String),
}

/// The registry's storage. Guards are checked and writes applied in one step; there are no closures, so that a
/// remote transaction can implement it.
pub trait Store: Send + Sync + 'static {
    /// Checks the guards and writes, durably, before it answers.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] names the guard that failed; nothing was written then. Dropping the future does not
    /// take a commit back.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Reads one key.
    ///
    /// # Errors
    /// When the store cannot be read, or what it holds fails its checksum.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Stored>, StoreError>>;

    /// Reads at most `limit` keys that begin with `prefix` and come after the key `after`.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// Follows the commits after `after` that touch keys under `prefix`.
    fn watch(&self, prefix: &str, after: Version) -> Watch;

    /// The last durable revision.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Whether writes are taken.
    fn condition(&self) -> Condition;

    /// Finishes what was handed in, makes it durable and lets the storage go. Later commits are refused.
    fn close(&self) -> BoxFuture<'_, ()>;
}
