//! Private keys at rest: AES-256-GCM under a key-encryption key that lives outside the registry.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::private_file;
use crate::random::{self, NoRandomness};

/// The length of the key, in bytes; the file holds these and nothing else.
const KEY_BYTES: usize = 32;

/// A key that cannot be used, or a sealed secret that does not open.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file cannot be read or made.
    #[error("the key-encryption key {} cannot be used", .path.display())]
    File {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read or change the file.
    #[error(
        "the key-encryption key {} has mode {mode:04o}: others may read or change it. Run `chmod 600` on it, and ask \
         yourself who has read it",
        .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} is no key-encryption key: it has {length} bytes instead of {KEY_BYTES}", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        length: usize,
    },
    /// Wrong key, or damaged, or moved here from another record.
    #[error("{name} does not open under this key-encryption key: is the file the one that `init` made?")]
    DoesNotOpen {
        /// The sealed record.
        name: String,
    },
    /// No nonce can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The key that seals the others. Never printed.
pub struct KeyEncryptionKey(LessSafeKey);

impl KeyEncryptionKey {
    /// Makes a new key in a new file, 0600.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path) -> Result<Self, SealError> {
        let bytes = Zeroizing::new(random::bytes::<KEY_BYTES>()?);
        private_file::create(path, bytes.as_slice())
            .map_err(|source| SealError::File { path: path.to_owned(), source })?;
        Self::from_bytes(path, bytes.as_slice())
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    /// When the file cannot be read, others can read it, or it holds something else.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if private_file::is_exposed(mode) {
            return Err(SealError::Exposed { path: path.to_owned(), mode });
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Self::from_bytes(path, &Zeroizing::new(bytes))
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, SealError> {
        UnboundKey::new(&AES_256_GCM, bytes)
            .map(|key| Self(LessSafeKey::new(key)))
            .map_err(|_| SealError::Length { path: path.to_owned(), length: bytes.len() })
    }

    /// Seals a secret for the record `name`: a random nonce, then the ciphertext with its tag.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random::bytes::<NONCE_LEN>()?;
        let mut sealed = Zeroizing::new(secret.to_vec());
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut *sealed,
            )
            .map_err(|_| SealError::DoesNotOpen { name: name.to_owned() })?;
        Ok([nonce.as_slice(), sealed.as_slice()].concat())
    }

    /// Opens what [`KeyEncryptionKey::seal`] sealed for the same record.
    ///
    /// # Errors
    /// When it does not open: nothing of it is given out then.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let refused = || SealError::DoesNotOpen { name: name.to_owned() };
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name.as_bytes()), &mut buffer)
            .map_err(|_| refused())?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_key_and_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kek");
        let key = KeyEncryptionKey::create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(KeyEncryptionKey::create(&path).is_err(), "it is not overwritten");
        let sealed = key.seal("authority/root/1", b"secret").unwrap();
        assert_ne!(sealed, key.seal("authority/root/1", b"secret").unwrap());
        let reloaded = KeyEncryptionKey::load(&path).unwrap();
        assert_eq!(reloaded.open("authority/root/1", &sealed).unwrap().as_slice(), b"secret");
        assert!(reloaded.open("authority/root/2", &sealed).is_err());
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            assert!(reloaded.open("authority/root/1", &flipped).is_err());
        }
        let other = KeyEncryptionKey::create(&directory.path().join("other")).unwrap();
        assert!(other.open("authority/root/1", &sealed).is_err());
        assert!(reloaded.open("authority/root/1", b"short").is_err());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kek");
        KeyEncryptionKey::create(&path).unwrap();
        for (mode, is_exposed) in
            [(0o400, false), (0o440, false), (0o644, true), (0o604, true), (0o660, true)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let loaded = KeyEncryptionKey::load(&path);
            assert_eq!(matches!(loaded, Err(SealError::Exposed { .. })), is_exposed, "{mode:o}");
        }
    }

    #[test]
    fn a_file_of_another_length_is_no_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 31]).unwrap();
        assert!(matches!(KeyEncryptionKey::load(file.path()), Err(SealError::Length { length: 31, .. })));
    }
}
