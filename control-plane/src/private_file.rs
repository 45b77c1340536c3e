//! Files and directories that only their owner may read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Permissions that let others read a secret, or change it. A group may read it: that is how secrets are mounted for
/// programs that run as nobody in particular.
const EXPOSED: u32 = 0o027;

/// Whether a secret in a file of this mode is not secret.
pub fn is_exposed(mode: u32) -> bool {
    mode & EXPOSED != 0
}

/// Writes a new file, 0600, and makes it durable.
///
/// # Errors
/// When it exists already, or the file system refuses.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()?;
    sync_parent(path)
}

/// Puts a file in the place of another, 0600, whole or not at all.
///
/// # Errors
/// When the file system refuses.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Makes a directory, 0700, and those above it as usual. One that exists is left as it is.
///
/// # Errors
/// When the file system refuses.
pub fn create_directory(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Closes a directory to everybody but its owner, 0700.
///
/// # Errors
/// When it is not ours.
pub fn restrict_directory(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Whether anybody but its owner may enter a directory; `false` for one that cannot be looked at.
pub fn is_open_to_others(directory: &Path) -> bool {
    std::fs::metadata(directory).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
