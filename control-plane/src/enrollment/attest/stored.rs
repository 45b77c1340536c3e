//! Enrollments of agents by evidence, as they stand in the registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{EnrollmentSpec, Resource, resource::Spec};
use prost::Message;

use crate::registry::{self, Store, StoreError, Version, keys};
use crate::resources::{AttestEnrollment, Problems};

/// How many bytes of enrollments are kept as read, as they are stored: more than any installation has.
const MOST_KEPT: usize = 16 * 1024 * 1024;

/// One of them.
pub(in crate::enrollment) struct Stored {
    /// Its key in the registry, and which version it is.
    pub(in crate::enrollment) key: String,
    pub(in crate::enrollment) version: Version,
    /// One that is made anew under its name has another.
    pub(in crate::enrollment) uid: String,
    pub(in crate::enrollment) enrollment: Arc<AttestEnrollment>,
}

/// Enrollments as they were read last. Whoever has proved nothing may name one: each version is read once, however large it is and
/// however often it is named.
#[derive(Debug, Default)]
pub(in crate::enrollment) struct Readings {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<String, Reading>,
    /// Of what is stored.
    bytes: usize,
}

#[derive(Debug)]
struct Reading {
    version: Version,
    bytes: usize,
    /// Its id and what it says; `None`: it is none of agents, or this release cannot read it.
    read: Option<(String, Arc<AttestEnrollment>)>,
}

impl Readings {
    /// The one of this name; `None` where there is none of agents under it, or this release cannot read it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(in crate::enrollment) async fn get(
        &self,
        store: &dyn Store,
        mesh: &str,
        name: &str,
    ) -> Result<Option<Stored>, StoreError> {
        // Neither may lead to another record.
        let (Ok(mesh), Ok(name)) = (Name::parse(mesh), Name::parse(name)) else { return Ok(None) };
        let key = keys::resource("Enrollment", mesh.as_str(), name.as_str());
        let stored = store.get(&key).await?;
        // Held while one is read, so that many who name it at once wait for one reading.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stored) = stored else {
            kept.forget(&key);
            return Ok(None);
        };
        let version = stored.version;
        let read = match kept.by_key.get(&key).filter(|reading| reading.version == version) {
            Some(reading) => reading.read.clone(),
            None => {
                let (bytes, read) = (stored.value.len(), read(&key, stored)?);
                kept.keep(&key, Reading { version, bytes, read: read.clone() });
                read
            }
        };
        Ok(read.map(|(uid, enrollment)| Stored { key, version, uid, enrollment }))
    }
}

impl Kept {
    fn keep(&mut self, key: &str, reading: Reading) {
        self.forget(key);
        if self.bytes + reading.bytes > MOST_KEPT {
            *self = Self::default();
        }
        self.bytes += reading.bytes;
        self.by_key.insert(key.to_owned(), reading);
    }

    fn forget(&mut self, key: &str) {
        if let Some(former) = self.by_key.remove(key) {
            self.bytes -= former.bytes;
        }
    }
}

fn read(key: &str, stored: registry::Stored) -> Result<Option<(String, Arc<AttestEnrollment>)>, StoreError> {
    let damaged = |_| StoreError::Damaged { key: key.to_owned(), what: "it is no resource" };
    let Resource { spec, metadata, .. } = Resource::decode(stored.value).map_err(damaged)?;
    let Some(Spec::Enrollment(EnrollmentSpec { parent: None, workload: None, attest: Some(attest) })) = spec
    else {
        return Ok(None);
    };
    let uid = metadata.map(|metadata| metadata.uid).unwrap_or_default();
    let enrollment = AttestEnrollment::parse(&attest, &mut Problems::default());
    Ok(enrollment.map(|enrollment| (uid, Arc::new(enrollment))))
}
