//! Making and opening the store: nothing is served before every record has been checked, and a store that cannot be
//! trusted is never replaced by an empty one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::{self, AcknowledgedMark, DirectoryLock, DiskSync};
use super::{META_KEY, logical};
use crate::registry::record::{self, FORMAT, RecordError};
use crate::registry::{OpenError, Revision, Version};

/// sled's cache; its own default would be 1 GiB.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// How often sled's own lock is tried: a former handle in this process lets go of it a moment after it is dropped.
const LOCK_ATTEMPTS: u32 = 100;

/// A store that was made or checked, ready for its writer.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) db: sled::Db,
    pub(super) tree: sled::Tree,
    pub(super) state: State,
    pub(super) directory: PathBuf,
    pub(super) disk: DiskSync,
    pub(super) mark: AcknowledgedMark,
    pub(super) lock: DirectoryLock,
}

/// What is written with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) version: Version,
    pub(super) revision: Revision,
    /// The sum of [`record::digest_share`] over all records.
    pub(super) digest: u64,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16);
        value.extend_from_slice(&self.revision.0.to_be_bytes());
        value.extend_from_slice(&self.digest.to_be_bytes());
        record::encode(META_KEY, self.version, &value)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let stored = record::decode(META_KEY, bytes)?;
        let (revision, rest) = stored.value.split_first_chunk::<8>().ok_or(RecordError::Truncated)?;
        let digest = rest.first_chunk::<8>().ok_or(RecordError::Truncated)?;
        Ok(Self {
            version: stored.version,
            revision: Revision(u64::from_be_bytes(*revision)),
            digest: u64::from_be_bytes(*digest),
        })
    }
}

/// Makes an empty store and carries it to the disk.
pub(super) fn create(directory: &Path) -> Result<Opened, OpenError> {
    directory::make_private(directory)?;
    let lock = DirectoryLock::take(directory)?;
    let sled = directory.join("sled");
    if sled.exists() {
        return Err(OpenError::Exists(directory.to_owned()));
    }
    directory::check_room(directory)?;
    directory::make_private(&sled)?;
    let (db, tree) = open_sled(&sled).map_err(|trouble| trouble.into_error(directory, None))?;
    let state = State::default();
    let mut disk = DiskSync::open(&sled)?;
    tree.insert(META_KEY, state.encode())
        .and_then(|_| db.flush())
        .map_err(|error| Trouble::from(error).into_error(directory, None))?;
    disk.sync().map_err(|source| OpenError::Io { what: "cannot sync", path: sled.clone(), source })?;
    let mark = AcknowledgedMark::open(directory)?;
    for path in [&sled.join("blobs"), &sled, directory].into_iter().chain(directory.parent()) {
        directory::sync_directory(if path.as_os_str().is_empty() { Path::new(".") } else { path })?;
    }
    Ok(Opened { db, tree, state, directory: directory.to_owned(), disk, mark, lock })
}

/// Opens and checks what [`create`] made.
pub(super) fn open(directory: &Path) -> Result<Opened, OpenError> {
    let sled = directory.join("sled");
    if !sled.join("db").exists() {
        return Err(OpenError::Missing(directory.to_owned()));
    }
    let lock = DirectoryLock::take(directory)?;
    directory::check_room(directory)?;
    directory::remove_half_written_snapshots(&sled)?;
    let mark = AcknowledgedMark::open(directory)?;
    let (db, tree, state) = match open_and_verify(&sled, mark.read()) {
        Ok(opened) => opened,
        Err(Trouble::Damaged(first)) => {
            let copy = directory::copy_aside(directory)?;
            directory::remove_all_snapshots(&sled)?;
            let opened = open_and_verify(&sled, mark.read())
                .map_err(|trouble| trouble.into_error(directory, Some(copy.clone())))?;
            tracing::warn!(
                event = "registry_repaired",
                damage = first,
                copy = %copy.display(),
                "the registry was rebuilt from its log and every record in it is whole"
            );
            opened
        }
        Err(trouble) => return Err(trouble.into_error(directory, None)),
    };
    let disk = DiskSync::open(&sled)?;
    Ok(Opened { db, tree, state, directory: directory.to_owned(), disk, mark, lock })
}

/// Why an attempt at opening failed.
#[derive(Debug)]
enum Trouble {
    Damaged(String),
    NewerFormat(u8),
    Unfinished,
    Io(std::io::Error),
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(source) => Self::Io(source),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl Trouble {
    fn into_error(self, directory: &Path, copy: Option<PathBuf>) -> OpenError {
        let path = directory.to_owned();
        match self {
            Self::Damaged(what) => OpenError::Damaged { path, what, copy },
            Self::NewerFormat(found) => OpenError::NewerFormat { found, known: FORMAT },
            Self::Unfinished => OpenError::Unfinished(path),
            Self::Io(source) => OpenError::Io { what: "cannot open the registry in", path, source },
        }
    }
}

/// Opens in a thread of its own, since sled panics on some kinds of damage.
fn open_and_verify(sled: &Path, acknowledged: u64) -> Result<(sled::Db, sled::Tree, State), Trouble> {
    std::thread::scope(|scope| {
        let attempt = std::thread::Builder::new().name("registry-check".to_owned());
        let attempt = attempt.spawn_scoped(scope, || {
            let (db, tree) = open_sled(sled)?;
            let state = verify(&tree, acknowledged)?;
            Ok((db, tree, state))
        });
        attempt
            .map_err(Trouble::Io)?
            .join()
            .unwrap_or_else(|_| Err(Trouble::Damaged("sled cannot make sense of its log".to_owned())))
    })
}

fn open_sled(sled: &Path) -> Result<(sled::Db, sled::Tree), Trouble> {
    let config = sled::Config::new().path(sled).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let mut attempt = 1;
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(sled::Error::Io(error))
                if attempt < LOCK_ATTEMPTS && error.to_string().contains("could not acquire lock") =>
            {
                attempt += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let tree = db.open_tree("registry")?;
    Ok((db, tree))
}

fn verify(tree: &sled::Tree, acknowledged: u64) -> Result<State, Trouble> {
    let damaged = |key: &str, what: &str| Trouble::Damaged(format!("the record {key}: {what}"));
    let state = match tree.get(META_KEY)? {
        Some(bytes) => State::decode(&bytes).map_err(|error| match error {
            RecordError::NewerFormat(found) => Trouble::NewerFormat(found),
            other => damaged("of its state", other.as_str()),
        })?,
        None if tree.is_empty() && acknowledged == 0 => return Err(Trouble::Unfinished),
        None => return Err(Trouble::Damaged("the record of its state is missing".to_owned())),
    };
    let mut digest = 0_u64;
    for item in tree {
        let (physical, bytes) = item?;
        if physical == META_KEY {
            continue;
        }
        let key = logical(&physical).ok_or_else(|| damaged("with an unknown key", "it is not ours"))?;
        let stored = record::decode(key.as_bytes(), &bytes).map_err(|error| match error {
            RecordError::NewerFormat(found) => Trouble::NewerFormat(found),
            other => damaged(key, other.as_str()),
        })?;
        digest = digest.wrapping_add(record::digest_share(key.as_bytes(), stored.version));
    }
    if digest != state.digest {
        return Err(Trouble::Damaged("records are missing or left over".to_owned()));
    }
    if state.version.0 < acknowledged {
        return Err(Trouble::Damaged(format!(
            "acknowledged writes are missing: it ends at commit {}, and commit {acknowledged} had been answered",
            state.version.0
        )));
    }
    Ok(state)
}
