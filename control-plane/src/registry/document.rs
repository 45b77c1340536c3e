//! Records as JSON: readable in a dump, and open to new fields.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, Stored};

/// The bytes of a record.
///
/// # Errors
/// Only for types that JSON cannot hold, such as maps with keys that are no strings.
pub fn to_bytes<T: Serialize>(key: &str, record: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(record)
        .map(Bytes::from)
        .map_err(|_| StoreError::Damaged { key: key.to_owned(), what: "it cannot be written as JSON" })
}

/// Reads a record back.
///
/// # Errors
/// When it is not what was written.
pub fn from_stored<T: DeserializeOwned>(key: &str, stored: &Stored) -> Result<T, StoreError> {
    serde_json::from_slice(&stored.value)
        .map_err(|_| StoreError::Damaged { key: key.to_owned(), what: "it is not the JSON of its kind" })
}

/// Bytes in JSON, as base64.
pub mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes bytes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
