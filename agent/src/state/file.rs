//! One file: a head line with format and checksum, then the payload. Replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::random;

const TITLE: &str = "hauberk-agent-state";
const FORMAT: u32 = 1;
/// No file of ours comes near; more is damage.
const MAX_LEN: u64 = 256 << 20;

pub(super) enum ReadError {
    Io(io::Error),
    Damaged(&'static str),
    Format(u32),
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let file = File::open(path).map_err(ReadError::Io)?;
    let mut bytes = Zeroizing::new(Vec::new());
    // Room beforehand, so that no copy of a key is left behind by a buffer that grew.
    bytes.reserve(file.metadata().map_or(0, |metadata| metadata.len().min(MAX_LEN) as usize) + 1);
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(ReadError::Damaged("it has no head"))?;
    let (head, payload) = bytes.split_at(end);
    let payload = payload.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| ReadError::Damaged("its head is no text"))?;
    let mut words = head.split(' ');
    if words.next() != Some(TITLE) {
        return Err(ReadError::Damaged("its head is not ours"));
    }
    match words.next().and_then(|word| word.parse().ok()) {
        Some(FORMAT) => {}
        Some(other) => return Err(ReadError::Format(other)),
        None => return Err(ReadError::Damaged("its head names no format")),
    }
    if words.next() != Some(&*checksum(payload)) {
        return Err(ReadError::Damaged("its checksum is wrong"));
    }
    Ok(Zeroizing::new(payload.to_vec()))
}

pub(super) fn write(directory: &Path, name: &str, payload: &[u8]) -> io::Result<()> {
    let head = format!("{TITLE} {FORMAT} {}\n", checksum(payload));
    let bytes = Zeroizing::new([head.as_bytes(), payload].concat());
    replace(directory, name, &bytes)
}

/// Puts a file in place of the former one, so that after a crash or loss of power either is there whole. The directory
/// is nobody else's.
pub(super) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    finish(file, content, &temporary, directory, name)
}

/// The same in a directory into which others may write too: by a file of a name that nobody knows beforehand, which is
/// made here and now, for us alone.
pub(crate) fn replace_among_others(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let unique = random::bytes::<8>().map_err(io::Error::other)?;
    let temporary = directory.join(format!(".{name}.{:016x}", u64::from_be_bytes(unique)));
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    let finished = finish(file, content, &temporary, directory, name);
    if finished.is_err() {
        // There may be a key in it, and no later attempt has its name.
        let _ = fs::remove_file(&temporary);
    }
    finished
}

fn finish(mut file: File, content: &[u8], temporary: &Path, directory: &Path, name: &str) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

pub(super) fn checksum(payload: &[u8]) -> String {
    digest(&SHA256, payload).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_that_lay_there_before_is_written_to() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = folder.path();
        // Where somebody else has put a link, and a file that everybody reads and that is held open.
        let target = elsewhere.path().join("target");
        fs::write(&target, "theirs").unwrap();
        for name in ["svid.key", ".svid.key.new"] {
            symlink(&target, directory.join(name)).unwrap();
        }
        let ready = directory.join(".token.new");
        fs::write(&ready, "").unwrap();
        fs::set_permissions(&ready, fs::Permissions::from_mode(0o666)).unwrap();
        let mut held = File::open(&ready).unwrap();

        replace_among_others(directory, "svid.key", b"key").unwrap();
        replace_among_others(directory, "token", b"token").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        let mut seen = String::new();
        held.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "");
        for (name, content) in [("svid.key", "key"), ("token", "token")] {
            let written = fs::symlink_metadata(directory.join(name)).unwrap();
            assert!(written.is_file(), "{name}");
            assert_eq!(written.permissions().mode() & 0o777, 0o600, "{name}");
            assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), content);
        }
        // A directory that has the name: nothing of the attempt is left.
        fs::create_dir(directory.join("taken")).unwrap();
        replace_among_others(directory, "taken", b"key").unwrap_err();
        assert_eq!(fs::read_dir(directory).unwrap().count(), 5);
    }
}
