//! Files and directories that only their owner may read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Permissions that let others read a key, or change it. A group may read it: that is how keys are mounted for programs that
/// run as nobody in particular.
const EXPOSED: u32 = 0o027;

/// The permissions of a file that others may read or change; `None` for one that is kept from them.
///
/// # Errors
/// When it cannot be looked at.
pub fn exposed(path: &Path) -> io::Result<Option<u32>> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & EXPOSED != 0).then_some(mode))
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
    let mut draft = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    write_draft(&mut draft, contents).and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // It may hold a private key, where nobody would look for one.
        let _gone = std::fs::remove_file(&beside);
    })?;
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

fn write_draft(file: &mut File, contents: &[u8]) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_put_in_its_place_is_left_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("contexts.toml");
        std::fs::create_dir(&target).unwrap();
        replace(&target, b"a private key").unwrap_err();
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["contexts.toml"]);
        std::fs::remove_dir(&target).unwrap();
        replace(&target, b"a private key").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"a private key");
    }

    #[test]
    fn what_is_not_ours_and_in_the_way_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("contexts.toml");
        let in_the_way = directory.path().join(format!("contexts.toml.{}.new", std::process::id()));
        std::os::unix::fs::symlink(&in_the_way, &in_the_way).unwrap();
        replace(&target, b"a private key").unwrap_err();
        assert!(in_the_way.is_symlink());
    }
}
