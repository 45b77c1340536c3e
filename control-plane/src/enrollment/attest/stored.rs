//! Enrollments of agents by evidence, as they stand in the registry.

use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{EnrollmentSpec, Resource, resource::Spec};
use prost::Message;

use crate::registry::{Store, StoreError, Version, keys};
use crate::resources::{AttestEnrollment, Problems};

/// One of them.
pub(in crate::enrollment) struct Stored {
    /// Its key in the registry, and which version it is.
    pub(in crate::enrollment) key: String,
    pub(in crate::enrollment) version: Version,
    /// One that is made anew under its name has another.
    pub(in crate::enrollment) uid: String,
    pub(in crate::enrollment) enrollment: AttestEnrollment,
}

impl Stored {
    /// Reads one; `None` where there is none of agents under this name, or this release cannot read it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(in crate::enrollment) async fn read(
        store: &dyn Store,
        mesh: &str,
        name: &str,
    ) -> Result<Option<Self>, StoreError> {
        // Neither may lead to another record.
        let (Ok(mesh), Ok(name)) = (Name::parse(mesh), Name::parse(name)) else { return Ok(None) };
        let key = keys::resource("Enrollment", mesh.as_str(), name.as_str());
        let Some(stored) = store.get(&key).await? else { return Ok(None) };
        let damaged = |_| StoreError::Damaged { key: key.clone(), what: "it is no resource" };
        let Resource { spec, metadata, .. } = Resource::decode(stored.value).map_err(damaged)?;
        let Some(Spec::Enrollment(EnrollmentSpec { parent: None, workload: None, attest: Some(attest) })) =
            spec
        else {
            return Ok(None);
        };
        let Some(enrollment) = AttestEnrollment::parse(&attest, &mut Problems::default()) else {
            return Ok(None);
        };
        let uid = metadata.map(|metadata| metadata.uid).unwrap_or_default();
        Ok(Some(Self { key, version: stored.version, uid, enrollment }))
    }
}
