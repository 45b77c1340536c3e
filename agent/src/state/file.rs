//! One file: a head line with format and checksum, then the payload. Replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

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

/// Puts a file in place of the former one, so that after a crash or loss of power either is there whole.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

pub(super) fn checksum(payload: &[u8]) -> String {
    digest(&SHA256, payload).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
