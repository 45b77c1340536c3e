//! The command line's contexts: `contexts.toml` in `$HAUBERK_HOME`, else in `~/.config/hauberk`. The command line
//! reads and writes the same file.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::private_file;

/// A context file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ContextFileError {
    /// Nobody says where.
    #[error(
        "there is no home directory for the context file: set HAUBERK_HOME or name a file with --context-file"
    )]
    NoHome,
    /// The file system refuses.
    #[error("the context file {} cannot be written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system refuses to show it.
    #[error("the context file {} cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody wrote something else there.
    #[error("{} is not a context file: {reason}", .path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ContextFileError {
    /// That a file cannot be read.
    pub fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// How to reach a control plane as an admin.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Host and port of the admin API.
    pub server: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The roots to trust.
    pub bundle_pem: String,
    /// The credential: leaf, then issuing authority.
    pub certificate_pem: String,
    /// Its key, PKCS#8.
    pub key_pem: String,
    /// The admin's name.
    pub admin: String,
}

/// Where the context file is.
///
/// # Errors
/// When neither `HAUBERK_HOME` nor `HOME` is set.
pub fn contexts_path(variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, ContextFileError> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HAUBERK_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config/hauberk")))
        .map(|directory| directory.join("contexts.toml"))
        .ok_or(ContextFileError::NoHome)
}

/// The current context of a file, with its name; the only one, where none is current.
///
/// # Errors
/// When the file cannot be read, is not ours, or has no current context.
pub fn current_context(path: &Path) -> Result<(String, Context), ContextFileError> {
    #[derive(Deserialize)]
    struct Contexts {
        current: Option<String>,
        #[serde(default)]
        contexts: BTreeMap<String, Context>,
    }
    let text = std::fs::read_to_string(path).map_err(|source| ContextFileError::read(path, source))?;
    let not_ours =
        |reason: &str| ContextFileError::NotOurs { path: path.to_owned(), reason: reason.to_owned() };
    // The message of the parser alone: what it quotes may be a key.
    let Contexts { current, mut contexts } =
        toml::from_str(&text).map_err(|error: toml::de::Error| not_ours(error.message()))?;
    match current {
        Some(name) => contexts.remove_entry(&name),
        None if contexts.len() == 1 => contexts.pop_first(),
        None => None,
    }
    .ok_or_else(|| not_ours("no context is current"))
}

/// Adds a context, or puts it in the place of one of the same name, and makes it the current one. Others are kept.
///
/// # Errors
/// When the file is not ours or cannot be written.
pub fn add_context(path: &Path, name: &str, context: &Context) -> Result<(), ContextFileError> {
    let failed = |source| ContextFileError::Io { path: path.to_owned(), source };
    let not_ours =
        |reason: &str| ContextFileError::NotOurs { path: path.to_owned(), reason: reason.to_owned() };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        private_file::create_directory(directory).map_err(failed)?;
    }
    let _lock = lock(path).map_err(failed)?;
    let mut table = match std::fs::read_to_string(path) {
        Ok(text) => text.parse::<toml::Table>().map_err(|error| not_ours(error.message()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => toml::Table::new(),
        Err(error) => return Err(failed(error)),
    };
    let written = toml::Value::try_from(context).map_err(|error| not_ours(&error.to_string()))?;
    table.insert("current".to_owned(), toml::Value::String(name.to_owned()));
    table
        .entry("contexts")
        .or_insert_with(|| toml::Value::Table(toml::Table::new()))
        .as_table_mut()
        .ok_or_else(|| not_ours("`contexts` is no table"))?
        .insert(name.to_owned(), written);
    private_file::replace(path, table.to_string().as_bytes()).map_err(failed)
}

/// Keeps two programs from losing each other's change.
fn lock(path: &Path) -> io::Result<std::fs::File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let file = std::fs::OpenOptions::new()
        .mode(0o600)
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.with_file_name(name))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
