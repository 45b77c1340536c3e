//! How a value stands in the embedded store: format, version, length and checksum before it, so that no damaged or
//! misplaced value is ever taken for a good one.

use bytes::Bytes;

use super::{Stored, Version};

/// The newest format that this program writes and reads.
pub(super) const FORMAT: u8 = 1;

/// format 1, version 8, length 4, CRC-32 4.
const HEADER_BYTES: usize = 17;

/// Why a record was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordError {
    NewerFormat(u8),
    Truncated,
    Length,
    Checksum,
}

impl RecordError {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NewerFormat(_) => "its format is newer than this program",
            Self::Truncated => "it is cut short",
            Self::Length => "its length is wrong",
            Self::Checksum => "its checksum is wrong",
        }
    }
}

/// The bytes of a record.
pub(super) fn encode(key: &[u8], version: Version, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + value.len());
    record.push(FORMAT);
    record.extend_from_slice(&version.0.to_be_bytes());
    record.extend_from_slice(&(value.len() as u32).to_be_bytes());
    record.extend_from_slice(&checksum(key, version, value).to_be_bytes());
    record.extend_from_slice(value);
    record
}

/// Reads a record back.
pub(super) fn decode(key: &[u8], record: &[u8]) -> Result<Stored, RecordError> {
    let (version, value) = check(key, record)?;
    Ok(Stored { version, value: Bytes::copy_from_slice(value) })
}

/// Checks a record: its version, and its value.
pub(super) fn check<'r>(key: &[u8], record: &'r [u8]) -> Result<(Version, &'r [u8]), RecordError> {
    let (&[format], rest) = record.split_first_chunk::<1>().ok_or(RecordError::Truncated)?;
    if format > FORMAT {
        return Err(RecordError::NewerFormat(format));
    }
    let (version, rest) = rest.split_first_chunk::<8>().ok_or(RecordError::Truncated)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Truncated)?;
    let (sum, value) = rest.split_first_chunk::<4>().ok_or(RecordError::Truncated)?;
    let version = Version(u64::from_be_bytes(*version));
    if u32::from_be_bytes(*length) as usize != value.len() {
        return Err(RecordError::Length);
    }
    if format != FORMAT || u32::from_be_bytes(*sum) != checksum(key, version, value) {
        return Err(RecordError::Checksum);
    }
    Ok((version, value))
}

/// One record's share of the digest over all records. Shares are added with wrap-around, so that a record can be
/// taken out again: a record that silently vanished leaves the sum wrong.
pub(super) fn digest_share(key: &[u8], version: Version) -> u64 {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[key, &version.0.to_be_bytes()].concat());
    digest.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn checksum(key: &[u8], version: Version, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u32).to_be_bytes());
    hasher.update(key);
    hasher.update(&version.0.to_be_bytes());
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let record = encode(b"token/1", Version(7), b"some value");
        assert_eq!(decode(b"token/1", &record).unwrap().value, "some value");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(b"token/1", &flipped).is_err(), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(decode(b"token/1", &record[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let record = encode(b"token/1", Version(7), b"some value");
        assert_eq!(decode(b"token/2", &record), Err(RecordError::Checksum));
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut record = encode(b"k", Version(1), b"v");
        record[0] = FORMAT + 1;
        assert_eq!(decode(b"k", &record), Err(RecordError::NewerFormat(FORMAT + 1)));
    }
}
