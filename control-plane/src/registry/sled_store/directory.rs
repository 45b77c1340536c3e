//! The files around sled: the lock, the mark of the last acknowledged commit, and what makes them durable.
//!
//! ```text
//! lock           held for as long as the store is open
//! acknowledged   the number of the last commit that was answered
//! sled/          sled's own: db, conf, blobs/, snap.*
//! ```

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::registry::OpenError;

/// Writes are refused below this much free space, while there is still room to finish what was begun.
pub(super) const RESERVED_BYTES: u64 = 8 * 1024 * 1024;

/// Below this much even commits that may use the reserve are refused: a write that fails half way makes the store
/// read-only.
pub(super) const LAST_BYTES: u64 = 2 * 1024 * 1024;

/// What there must be before a store is made: its first files, and what is written to it afterwards.
pub(super) const FOUNDING_BYTES: u64 = RESERVED_BYTES + 4 * 1024 * 1024;

/// The lock of a store's directory; let go when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    pub(super) fn take(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(
                |source| OpenError::Io { what: "cannot open the lock", path: path.clone(), source },
            )?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(directory.to_owned())),
            Err(error) => Err(OpenError::Io { what: "cannot lock", path, source: error.into() }),
        }
    }
}

/// The number of the last acknowledged commit, outside sled. It is written after a batch is durable and before it is
/// answered, so a store that opens below it has lost acknowledged writes: sled takes a damaged tail of its log for an
/// unfinished write and drops it in silence.
#[derive(Debug)]
pub(super) struct AcknowledgedMark {
    file: File,
}

impl AcknowledgedMark {
    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("acknowledged");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map(|file| Self { file })
            .map_err(|source| OpenError::Io { what: "cannot open", path, source })
    }

    /// The mark, or 0 where it was torn by a power cut: it is a tripwire, not a record.
    pub(super) fn read(&self) -> u64 {
        let mut mark = [0; 12];
        match self.file.read_exact_at(&mut mark, 0) {
            Ok(()) => {
                let (number, sum) = mark.split_at(8);
                match (number.first_chunk::<8>(), sum.first_chunk::<4>()) {
                    (Some(number), Some(sum)) if crc32fast::hash(number) == u32::from_be_bytes(*sum) => {
                        u64::from_be_bytes(*number)
                    }
                    _ => 0,
                }
            }
            Err(_) => 0,
        }
    }

    pub(super) fn write(&self, version: u64) -> io::Result<()> {
        let number = version.to_be_bytes();
        let mut mark = [0; 12];
        let (left, right) = mark.split_at_mut(8);
        left.copy_from_slice(&number);
        right.copy_from_slice(&crc32fast::hash(&number).to_be_bytes());
        self.file.write_all_at(&mark, 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Carries sled's files to the disk itself, which sled's flush does not.
#[derive(Debug)]
pub(super) struct DiskSync {
    pub(super) log: File,
    blobs: PathBuf,
    synced_blobs: HashSet<OsString>,
}

impl DiskSync {
    pub(super) fn open(sled: &Path) -> Result<Self, OpenError> {
        let path = sled.join("db");
        let log = File::open(&path).map_err(|source| OpenError::Io { what: "cannot open", path, source })?;
        Ok(Self { log, blobs: sled.join("blobs"), synced_blobs: HashSet::new() })
    }

    /// Returns when all that sled has flushed would survive loss of power.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let mut present = HashSet::new();
        let mut new = false;
        for entry in std::fs::read_dir(&self.blobs)? {
            let name = entry?.file_name();
            if !self.synced_blobs.contains(&name) {
                match File::open(self.blobs.join(&name)) {
                    Ok(blob) => blob.sync_data()?,
                    // sled removes blobs in the background.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                new = true;
            }
            present.insert(name);
        }
        if new {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.synced_blobs = present;
        self.log.sync_data()
    }
}

/// Makes a directory that only its owner may enter; it may exist already.
pub(super) fn make_private(directory: &Path) -> Result<(), OpenError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(OpenError::Io { what: "cannot create", path: directory.to_owned(), source }),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|source| OpenError::Io {
        what: "cannot sync",
        path: directory.to_owned(),
        source,
    })
}

/// Removes snapshots that sled was writing when it was killed: its next start would take one for a whole snapshot
/// and report corruption for ever.
pub(super) fn remove_half_written_snapshots(sled: &Path) -> Result<(), OpenError> {
    remove_snapshots(sled, |name| name.ends_with(".generating") || name.ends_with(".in___motion"))
}

/// Removes all of sled's snapshots, which it then builds anew from its log.
pub(super) fn remove_all_snapshots(sled: &Path) -> Result<(), OpenError> {
    remove_snapshots(sled, |_| true)
}

/// Copies a store's directory, once: a copy that stands there already is left as it is.
pub(super) fn copy_aside(directory: &Path) -> Result<PathBuf, OpenError> {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    let copy = directory.with_file_name(name);
    if !copy.exists() {
        copy_directory(directory, &copy).map_err(|source| OpenError::Io {
            what: "cannot copy the damaged registry to",
            path: copy.clone(),
            source,
        })?;
    }
    Ok(copy)
}

/// The space that the file system still has for us.
pub(super) fn available_bytes(directory: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(directory)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Whether there is room to open a store: sled writes while it opens, and fails half way on a full disk.
pub(super) fn check_room(directory: &Path) -> Result<(), OpenError> {
    let path = directory.to_owned();
    match available_bytes(directory) {
        Ok(available) => check_available(available, path),
        Err(source) => Err(OpenError::Io { what: "cannot tell the free space of", path, source }),
    }
}

/// Whether there is room to make a store here, and to write what an installation begins with.
pub(super) fn check_room_to_found(directory: &Path) -> Result<(), OpenError> {
    let path = directory.to_owned();
    match available_bytes(directory) {
        Ok(available) => check_room_for(available, FOUNDING_BYTES, path),
        Err(source) => Err(OpenError::Io { what: "cannot tell the free space of", path, source }),
    }
}

fn check_available(available: u64, path: PathBuf) -> Result<(), OpenError> {
    check_room_for(available, LAST_BYTES, path)
}

fn check_room_for(available: u64, needed: u64, path: PathBuf) -> Result<(), OpenError> {
    if available >= needed {
        return Ok(());
    }
    let needed_mib = needed / (1024 * 1024);
    Err(OpenError::Full { path, available_kib: available / 1024, needed_mib })
}

fn remove_snapshots(sled: &Path, unwanted: impl Fn(&str) -> bool) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { what: "cannot clean", path: sled.to_owned(), source };
    for entry in std::fs::read_dir(sled).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && unwanted(&name) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_what_to_do() {
        let path = PathBuf::from("/data/registry");
        assert!(check_available(LAST_BYTES, path.clone()).is_ok());
        let told = check_available(LAST_BYTES - 1, path).unwrap_err().to_string();
        for words in ["/data/registry", "2047 KiB left", "free some space", "2 MiB"] {
            assert!(told.contains(words), "{told}");
        }
        let path = PathBuf::from("/data");
        assert!(check_room_for(FOUNDING_BYTES, FOUNDING_BYTES, path.clone()).is_ok());
        // Enough to open one, and not to found one.
        let told = check_room_for(6 << 20, FOUNDING_BYTES, path).unwrap_err().to_string();
        assert!(told.contains("6144 KiB left") && told.contains("12 MiB"), "{told}");
    }
}
