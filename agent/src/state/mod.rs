//! What an agent keeps on disk: its identity, what to trust, the last good views, and how far it has come.
//!
//! A directory of its own (0700), locked while the agent runs. Every file is replaced whole (temporary file, fsync,
//! rename, fsync of the directory) and carries a checksum; the node's own view and the high-water mark, which are
//! written at each change of rules, have two slots instead. What is damaged is named and never taken for truth.

pub(crate) mod file;
mod membership;
mod records;
mod slots;
mod spent;
mod token;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hauberk_proto::agent::v1 as pb;
use hauberk_tls::KeyPair;
use prost::Message;
use rustix::fs::FlockOperation;
use thiserror::Error;

pub use membership::{Keeping, Membership};
pub use records::{Mark, StoredIdentity, StoredTrust};
pub use spent::SpentToken;
pub use token::TokenDigest;

const IDENTITY: &str = "identity";
const PENDING_KEY: &str = "pending-key";
const TRUST: &str = "trust";
const NODE_VIEW: &str = "node-view";
const DENYLIST: &str = "denylist";
const JWT_KEYS: &str = "jwt-keys";
const SERVICE_VIEWS: &str = "service-views";
const ENDPOINTS: &str = "endpoints";
const MARK: &str = "high-water-mark";
const CONFIRMED: &str = "view-confirmed";
const ADVERTISED: &str = "advertised-ip";
const SPENT_TOKEN: &str = "spent-token";

/// The state directory, ours alone until this is dropped.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    /// Our virtual node is gone, so that we are nobody. Held for a moment only. See `membership.rs`.
    is_node_gone: Mutex<bool>,
    /// Held by whoever writes or forgets what is the node's.
    writing: Mutex<()>,
    _lock: File,
}

/// Why state cannot be read or kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another agent runs with this directory.
    #[error("the state directory {0} is in use by another agent; give each agent its own --state-dir")]
    InUse(PathBuf),
    /// The directory cannot be made or read. The fault is the administrator's, or the disk's.
    #[error("the state directory {directory} cannot be used: {source}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what was written there.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer release has written this file.
    #[error("{path} was written in format {format}; this release reads format 1")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Our virtual node is gone: whatever was issued for it is kept no longer.
    #[error("our virtual node or gateway was deleted; to join another, start again with a new token")]
    NodeGone,
}

impl State {
    /// Opens the directory, making it where it is not there, and locks it.
    ///
    /// # Errors
    /// It is in use, or cannot be made or tightened to 0700.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let refused = |source| StateError::Directory { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(refused)?;
        let mode = fs::metadata(directory).map_err(refused)?.permissions().mode();
        if mode & 0o077 != 0 {
            // A volume is often made 0755 by whoever provides it.
            fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(refused)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(refused)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                is_node_gone: Mutex::default(),
                writing: Mutex::default(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::InUse(directory.to_owned())),
            Err(error) => Err(refused(error.into())),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Key and certificate.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn identity(&self) -> Result<Option<StoredIdentity>, StateError> {
        let Some(payload) = self.read(IDENTITY)? else { return Ok(None) };
        StoredIdentity::decode(&payload).map(Some).map_err(|problem| self.damaged(IDENTITY, problem))
    }

    fn pending_key(&self) -> Result<KeyPair, StateError> {
        match self.read(PENDING_KEY) {
            Ok(Some(der)) => match KeyPair::from_pkcs8_der(&der) {
                Ok(key) => return Ok(key),
                Err(error) => tracing::warn!(event = "pending_key_discarded", %error),
            },
            Ok(None) => {}
            Err(error @ StateError::Damaged { .. }) => {
                tracing::warn!(event = "pending_key_discarded", %error);
            }
            Err(error) => return Err(error),
        }
        let key = KeyPair::generate().map_err(|error| self.damaged(PENDING_KEY, error.to_string()))?;
        self.write(PENDING_KEY, &key.to_pkcs8_der())?;
        Ok(key)
    }

    /// What to trust.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn trust(&self) -> Result<Option<StoredTrust>, StateError> {
        let message = self.decode(TRUST, self.read(TRUST)?.as_deref().map(Vec::as_slice))?;
        message.map(StoredTrust::new).transpose().map_err(|problem| self.damaged(TRUST, problem))
    }

    /// Keeps what to trust.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_trust(&self, trust: &StoredTrust) -> Result<(), StateError> {
        self.write(TRUST, &trust.message().encode_to_vec())
    }

    /// The node's own last good view. Its signature is the reader's to check.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn node_view(&self) -> Result<Option<pb::SignedView>, StateError> {
        self.decode(NODE_VIEW, self.found(NODE_VIEW, slots::read)?.as_deref())
    }

    /// Keeps the node's own view.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_node_view(&self, view: &pb::SignedView) -> Result<(), StateError> {
        self.overwrite(NODE_VIEW, &view.encode_to_vec())
    }

    /// The last good denylist. Its signature is the reader's to check.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn denylist(&self) -> Result<Option<pb::SignedDenylist>, StateError> {
        self.decode(DENYLIST, self.found(DENYLIST, slots::read)?.as_deref())
    }

    /// Keeps the denylist.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_denylist(&self, denylist: &pb::SignedDenylist) -> Result<(), StateError> {
        self.overwrite(DENYLIST, &denylist.encode_to_vec())
    }

    /// The keys that verified tokens last.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn jwt_keys(&self) -> Result<Option<pb::JwtKeys>, StateError> {
        self.decode(JWT_KEYS, self.read(JWT_KEYS)?.as_deref().map(Vec::as_slice))
    }

    /// Keeps the keys that verify tokens.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_jwt_keys(&self, keys: &pb::JwtKeys) -> Result<(), StateError> {
        self.write(JWT_KEYS, &keys.encode_to_vec())
    }

    /// Keeps them no longer.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_jwt_keys(&self) -> Result<(), StateError> {
        self.remove(JWT_KEYS)
    }

    /// The last good views of services. Their signatures are the reader's to check.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn service_views(&self) -> Result<Vec<pb::SignedView>, StateError> {
        self.read_list(SERVICE_VIEWS)
    }

    /// Keeps the views of services.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_service_views(&self, views: &[pb::SignedView]) -> Result<(), StateError> {
        self.write_list(SERVICE_VIEWS, views)
    }

    /// The endpoints that were told last.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn endpoints(&self) -> Result<Vec<pb::EndpointsUpdate>, StateError> {
        self.read_list(ENDPOINTS)
    }

    /// Keeps endpoints.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_endpoints(&self, endpoints: &[pb::EndpointsUpdate]) -> Result<(), StateError> {
        self.write_list(ENDPOINTS, endpoints)
    }

    /// The highest (epoch, revision) that was ever accepted.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn mark(&self) -> Result<Option<Mark>, StateError> {
        let Some(payload) = self.found(MARK, slots::read)? else { return Ok(None) };
        Mark::decode(&payload).map(Some).ok_or_else(|| self.damaged(MARK, "its length is wrong".to_owned()))
    }

    /// Keeps the highest (epoch, revision).
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_mark(&self, mark: Mark) -> Result<(), StateError> {
        self.overwrite(MARK, &mark.encode())
    }

    /// When the view was last known to be the newest, in Unix ms.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn view_confirmed_at(&self) -> Result<Option<u64>, StateError> {
        self.read_text(CONFIRMED)
    }

    /// Keeps when the view was last known to be the newest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_view_confirmed_at(&self, unix_ms: u64) -> Result<(), StateError> {
        self.write(CONFIRMED, unix_ms.to_string().as_bytes())
    }

    /// The address that was advertised last.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn advertised_ip(&self) -> Result<Option<std::net::IpAddr>, StateError> {
        self.read_text(ADVERTISED)
    }

    /// Keeps the address that is advertised.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_advertised_ip(&self, ip: std::net::IpAddr) -> Result<(), StateError> {
        self.write(ADVERTISED, ip.to_string().as_bytes())
    }

    /// Writes a file for others to read, such as the addresses that were bound.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn publish(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        file::replace(&self.directory, name, content).map_err(|source| self.io(name, source))
    }

    fn read_text<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(payload) = self.read(name)? else { return Ok(None) };
        let parsed = std::str::from_utf8(&payload).ok().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| self.damaged(name, "it does not parse".to_owned()))
    }

    fn read_list<M: Message + Default>(&self, name: &str) -> Result<Vec<M>, StateError> {
        let Some(payload) = self.read(name)? else { return Ok(Vec::new()) };
        let mut rest = &**payload;
        let mut list = Vec::new();
        while !rest.is_empty() {
            let message = M::decode_length_delimited(&mut rest)
                .map_err(|error| self.damaged(name, error.to_string()))?;
            list.push(message);
        }
        Ok(list)
    }

    fn write_list<M: Message>(&self, name: &str, list: &[M]) -> Result<(), StateError> {
        let bytes: Vec<u8> = list.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        self.write(name, &bytes)
    }

    fn read(&self, name: &str) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, StateError> {
        self.found(name, file::read)
    }

    fn found<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Path) -> Result<T, file::ReadError>,
    ) -> Result<Option<T>, StateError> {
        let path = self.directory.join(name);
        match read(&path) {
            Ok(payload) => Ok(Some(payload)),
            Err(file::ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(file::ReadError::Io(source)) => Err(StateError::Io { path, source }),
            Err(file::ReadError::Damaged(problem)) => {
                Err(StateError::Damaged { path, problem: problem.to_owned() })
            }
            Err(file::ReadError::Format(format)) => Err(StateError::NewerFormat { path, format }),
        }
    }

    fn decode<T>(&self, name: &str, payload: Option<&[u8]>) -> Result<Option<T>, StateError>
    where
        T: Message + Default,
    {
        payload.map(T::decode).transpose().map_err(|error| self.damaged(name, error.to_string()))
    }

    fn write(&self, name: &str, payload: &[u8]) -> Result<(), StateError> {
        file::write(&self.directory, name, payload).map_err(|source| self.io(name, source))
    }

    fn overwrite(&self, name: &str, payload: &[u8]) -> Result<(), StateError> {
        slots::write(&self.directory, name, payload).map_err(|source| self.io(name, source))
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(name, error)),
            _ => Ok(()),
        }
    }

    fn io(&self, name: &str, source: io::Error) -> StateError {
        StateError::Io { path: self.directory.join(name), source }
    }

    fn damaged(&self, name: &str, problem: String) -> StateError {
        StateError::Damaged { path: self.directory.join(name), problem }
    }
}

#[cfg(test)]
mod tests;
