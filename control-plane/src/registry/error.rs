//! What can go wrong with the store, by whose fault it is.

use std::path::PathBuf;

use super::Guard;

/// A commit or reading that did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was faster, or the caller's view was old: read again and decide anew.
    #[error("the registry has changed in between: {guard}")]
    Conflict {
        /// The condition that did not hold.
        guard: Guard,
    },
    /// The caller's value is larger than the store takes.
    #[error("the value of {key} has {bytes} bytes; at most {} are stored", super::MAX_VALUE_BYTES)]
    TooLarge {
        /// Its key.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// The caller's key is empty or larger than the store takes.
    #[error("a key of {bytes} bytes is not storable; 1 to {} are", super::MAX_KEY_BYTES)]
    BadKey {
        /// Its size.
        bytes: usize,
    },
    /// The disk is nearly full: the write was refused before it began, and will be taken once there is room.
    #[error(
        "the disk of the registry is full ({available_mib} MiB left, and writing takes {needed_mib}): free some space; nothing was written"
    )]
    Full {
        /// What is left.
        available_mib: u64,
        /// What there must be.
        needed_mib: u64,
    },
    /// The storage failed once and is not written to again before a restart.
    #[error("the registry is read-only since a write failed: {reason}; repair the disk and restart")]
    ReadOnly {
        /// The first failure.
        reason: String,
    },
    /// What the disk holds is not what was written.
    #[error("the registry's record {key} is damaged ({what}): restore it from a backup")]
    Damaged {
        /// Its key.
        key: String,
        /// The check that failed.
        what: &'static str,
    },
    /// The storage failed on reading.
    #[error("the registry cannot be read: {reason}")]
    Unreadable {
        /// The failure.
        reason: String,
    },
    /// What has changed of resources could not be read for a while. That is tried all the time.
    #[error(
        "resources cannot be read from the registry as they stand, which is tried every second: the control plane's log says what fails; \
         try again later"
    )]
    NotFollowed,
    /// What has changed of resources is not taken over yet, by a machine that has much to do.
    #[error("the last changes of resources are not followed up yet: try again")]
    Behind,
    /// The control plane is stopping.
    #[error("the registry is closed: the control plane is stopping")]
    Closed,
}

/// A store that was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("{} holds no registry: run `hauberk-control-plane init` first", .0.display())]
    Missing(PathBuf),
    /// Something is there already.
    #[error("{} holds a registry already: it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// It was being made when its maker was killed.
    #[error("`init` did not finish in {}: remove that directory and run `init` again", .0.display())]
    Unfinished(PathBuf),
    /// Another process holds the lock.
    #[error("{} is in use by another control plane (its lock is held): stop that one first", .0.display())]
    InUse(PathBuf),
    /// There is no room even to check it.
    #[error(
        "the disk of {} is full ({available_kib} KiB left): free some space, then try again; it takes {needed_mib} MiB to \
         start, and nothing was changed",
        .path.display()
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// What is left.
        available_kib: u64,
        /// What there must be.
        needed_mib: u64,
    },
    /// Written by a later release.
    #[error(
        "the registry has format {found}, and this program knows formats up to {known}: run a newer release"
    )]
    NewerFormat {
        /// The format found.
        found: u8,
        /// The newest that this program reads.
        known: u8,
    },
    /// What the disk holds is not what was written.
    #[error(
        "the registry in {} is damaged: {what}{}. Restore the data directory from a backup",
        .path.display(),
        .copy.as_ref().map(|copy| format!("; a copy of how it was found is in {}", copy.display()))
            .unwrap_or_default()
    )]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What was found.
        what: String,
        /// Where a copy was put before repair was tried.
        copy: Option<PathBuf>,
    },
    /// The file system refused.
    #[error("{what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}
