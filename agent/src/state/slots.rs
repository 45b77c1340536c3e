//! A file whose content changes often: two slots of equal size, written in turn.
//!
//! New content goes over the older slot and is durable after one `fdatasync`: no new file, no rename, no directory to
//! sync, which on a busy disk is most of the time that a change takes to be in force. A write that is cut off leaves
//! the other slot as it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file::{ReadError, checksum, replace};

const TITLE: &str = "hauberk-agent-slots";
const FORMAT: u32 = 1;
/// A head is shorter: title, format, two numbers of 20 digits and a checksum of 64.
const MAX_HEAD: usize = 160;
/// Small slots grow rarely if they have some room from the beginning.
const MIN_SLOT: usize = 4096;
/// No content of ours comes near; more is damage.
const MAX_LEN: u64 = 512 << 20;

/// What a slot says of itself.
struct Head {
    /// The slot with the higher number is the newer.
    sequence: u64,
    payload_len: usize,
    checksum: String,
    /// Where the payload begins.
    len: usize,
}

/// The newest content that is whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let bytes = read_all(&File::open(path).map_err(ReadError::Io)?).map_err(ReadError::Io)?;
    newest(&bytes).map(|newest| newest.payload.to_vec())
}

/// Puts new content in place of the older of two, so that after a crash or loss of power the newest whole one is found.
pub(super) fn write(directory: &Path, name: &str, payload: &[u8]) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(directory.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(directory, name, 1, payload),
        Err(error) => return Err(error),
    };
    let bytes = read_all(&file)?;
    let Ok(newest) = newest(&bytes) else { return create(directory, name, 1, payload) };
    let (sequence, slot) = (newest.sequence.saturating_add(1), bytes.len() / 2);
    let content = encode(sequence, payload);
    if content.len() > slot {
        return create(directory, name, sequence, payload);
    }
    let offset = if newest.is_first { slot } else { 0 };
    file.write_all_at(&content, offset as u64)?;
    // What failed may still be read back, and the next write would go over the only content that is durable.
    file.sync_data().or_else(|_| create(directory, name, sequence, payload))
}

struct Slot<'a> {
    is_first: bool,
    sequence: u64,
    payload: &'a [u8],
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Only what is whole counts: a slot whose head was written and whose payload was not must be the next written over.
fn newest(bytes: &[u8]) -> Result<Slot<'_>, ReadError> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let decode = |slot, is_first| {
        decode(slot).map(|(head, payload)| Slot { is_first, sequence: head.sequence, payload })
    };
    match (decode(first, true), decode(second, false)) {
        (Ok(first), Ok(second)) => Ok(if first.sequence > second.sequence { first } else { second }),
        (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Makes the file anew, with room to grow; what it holds, it holds in the first slot.
fn create(directory: &Path, name: &str, sequence: u64, payload: &[u8]) -> io::Result<()> {
    let content = encode(sequence, payload);
    let slot = content.len().saturating_mul(2).max(MIN_SLOT).next_multiple_of(MIN_SLOT);
    let mut bytes = vec![0; slot.saturating_mul(2)];
    for (place, byte) in bytes.iter_mut().zip(content) {
        *place = byte;
    }
    replace(directory, name, &bytes)
}

fn encode(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let sum = checksum_of(sequence, payload);
    let head = format!("{TITLE} {FORMAT} {sequence} {} {sum}\n", payload.len());
    [head.as_bytes(), payload].concat()
}

fn decode(slot: &[u8]) -> Result<(Head, &[u8]), ReadError> {
    let head = parse_head(slot)?;
    let payload = slot.get(head.len..).and_then(|rest| rest.get(..head.payload_len));
    let payload = payload.ok_or(ReadError::Damaged("it is cut off"))?;
    if checksum_of(head.sequence, payload) != head.checksum {
        return Err(ReadError::Damaged("its checksum is wrong"));
    }
    Ok((head, payload))
}

/// Of the number too: a write that was cut off right behind it would make the older content the newest.
fn checksum_of(sequence: u64, payload: &[u8]) -> String {
    checksum(&[&sequence.to_be_bytes(), payload].concat())
}

fn parse_head(slot: &[u8]) -> Result<Head, ReadError> {
    let damaged = ReadError::Damaged;
    let end = slot.iter().take(MAX_HEAD).position(|byte| *byte == b'\n').ok_or(damaged("it has no head"))?;
    let text = slot.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    let mut words = text.ok_or(damaged("its head is no text"))?.split(' ');
    if words.next() != Some(TITLE) {
        return Err(damaged("its head is not ours"));
    }
    match words.next().and_then(|word| word.parse().ok()) {
        Some(FORMAT) => {}
        Some(other) => return Err(ReadError::Format(other)),
        None => return Err(damaged("its head names no format")),
    }
    let (sequence, payload_len, checksum) = (words.next(), words.next(), words.next());
    let head =
        sequence.and_then(|word| word.parse().ok()).zip(payload_len.and_then(|word| word.parse().ok()));
    let ((sequence, payload_len), checksum) = head.zip(checksum).ok_or(damaged("its head is cut off"))?;
    Ok(Head { sequence, payload_len, checksum: checksum.to_owned(), len: end + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(directory: &Path) -> Option<String> {
        read(&directory.join("view")).ok().map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn the_newest_is_read_and_the_file_stays_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("view");
        assert!(read_text(directory.path()).is_none());
        let mut len = 0;
        for number in 0..20 {
            let text = format!("content {number}");
            write(directory.path(), "view", text.as_bytes()).expect("written");
            assert_eq!(read_text(directory.path()), Some(text));
            let now = path.metadata().expect("there").len();
            assert!(len == 0 || len == now, "the file grew from {len} to {now}");
            len = now;
        }
    }

    #[test]
    fn content_that_outgrows_its_slot_is_kept_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        for len in [10, 5_000, 4_000, 70_000, 3, 70_001, 300_000] {
            let text = "x".repeat(len);
            write(directory.path(), "view", text.as_bytes()).expect("written");
            assert_eq!(read_text(directory.path()), Some(text));
        }
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_former() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("view");
        for text in ["first content", "second content"] {
            write(directory.path(), "view", text.as_bytes()).expect("written");
        }
        let before = std::fs::read(&path).expect("there");
        write(directory.path(), "view", b"third content").expect("written");
        let after = std::fs::read(&path).expect("there");
        let changed = before.iter().zip(&after).rposition(|(a, b)| a != b).expect("something changed");
        for cut in 0..changed {
            let torn: Vec<u8> = after[..cut].iter().chain(&before[cut..]).copied().collect();
            std::fs::write(&path, torn).expect("written");
            assert_eq!(read_text(directory.path()).as_deref(), Some("second content"), "cut at {cut}");
            // And the next write goes over what is damaged.
            write(directory.path(), "view", b"fourth").expect("written");
            assert_eq!(read_text(directory.path()).as_deref(), Some("fourth"), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_such_file_is_damaged_and_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        for garbage in
            ["", "x", "hauberk-agent-state 1 00\n", "hauberk-agent-slots 1 18446744073709551615 99 0\n"]
        {
            std::fs::write(directory.path().join("view"), garbage).expect("written");
            assert!(read_text(directory.path()).is_none(), "{garbage:?}");
            write(directory.path(), "view", b"good").expect("written");
            assert_eq!(read_text(directory.path()).as_deref(), Some("good"), "{garbage:?}");
        }
        std::fs::write(directory.path().join("view"), "hauberk-agent-slots 2 1 0 0\n".repeat(2))
            .expect("written");
        assert!(matches!(read(&directory.path().join("view")), Err(ReadError::Format(2))));
    }
}
