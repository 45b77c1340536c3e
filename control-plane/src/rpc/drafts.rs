//! Drafts that are asked about, of whatever service: read when they come, and judged when their turn has come.

use hauberk_proto::mesh::v1::{Resource, ResourceRef};
use tonic::Status;

use super::resources::resource_keys;
use super::status;
use crate::resources::{Catalog, Draft, ResourceKey, Resources, check_draft};

/// What is to be applied, and taken away then.
pub(super) struct Proposal {
    batch: Vec<Resource>,
    pub(super) removed: Vec<ResourceKey>,
}

impl Proposal {
    /// Reads one. What is too much waits for no turn.
    pub(super) fn read(batch: Vec<Resource>, removed: &[ResourceRef]) -> Result<Self, Status> {
        check_draft(&batch, removed.len()).map_err(|error| status::of_change(&error, "resources"))?;
        Ok(Self { batch, removed: resource_keys("removed", removed)? })
    }

    /// All resources as they would be, if that could be done.
    pub(super) fn draft(&self, resources: &Resources, before: &Catalog) -> Result<Draft, Status> {
        let draft = resources.draft(before, &self.batch);
        let draft = draft.map_err(|error| status::of_change(&error, "resources"))?;
        let draft = draft.without(&self.removed, resources.trust_domain());
        draft.map_err(|error| status::of_change(&error, "removed"))
    }
}
