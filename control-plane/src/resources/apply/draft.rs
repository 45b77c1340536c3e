//! How a change is judged; and one that is not made, so that others can look at what would follow from it.

use hauberk_identity::TrustDomain;
use hauberk_proto::convert::features;
use hauberk_proto::mesh::v1::Resource;
use prost::Message;

use super::{ChangeError, MAX_BATCH, MAX_BATCH_BYTES, Resources, ResourcesParts};
use crate::compile::oversized;
use crate::compile::view::needed_features;
use crate::resources::admit::{Admission, Removal, Rights, Target, admit, admit_removal};
use crate::resources::catalog::Catalog;
use crate::resources::key::ResourceKey;
use crate::resources::svid_terms;

/// More than is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a draft has at most {MAX_BATCH} resources and {MAX_BATCH_BYTES} bytes, this one has {resources} and {bytes}; leave out what stays \
     as it is"
)]
pub struct DraftTooLarge {
    resources: usize,
    bytes: usize,
}

/// Whoever only asks needs no right to change anything.
const EVERYTHING: Rights = Rights { resources: true, policies: true, boundaries: true, identities: true };

/// A change that could be made.
#[derive(Debug)]
pub struct Draft {
    /// All resources as they would be.
    pub after: Catalog,
    /// What a person should know about it.
    pub warnings: Vec<String>,
}

impl Resources {
    /// Judges a batch as [`Resources::apply`] would for somebody who may change everything: who only asks needs no right to
    /// change anything. It keeps a processor busy for as long as that takes; no change waits for it. [`check_draft`] says before
    /// whether it is too large.
    ///
    /// # Errors
    /// What the change would be refused for.
    pub fn draft(&self, before: &Catalog, batch: &[Resource]) -> Result<Draft, ChangeError> {
        let Admission { after, warnings, changes: _ } = self.parts.judge(before, batch, EVERYTHING)?;
        Ok(Draft { after, warnings })
    }
}

impl ResourcesParts {
    /// Judges a batch against what is stored, the control plane's own names, and running agents.
    pub(super) fn judge(
        &self,
        before: &Catalog,
        batch: &[Resource],
        rights: Rights,
    ) -> Result<Admission, ChangeError> {
        let own = svid_terms::names_of_the_control_plane(batch, &self.server_names);
        match admit(before, batch, rights, &self.trust_domain) {
            Ok(admission) if own.is_empty() => {
                self.check_enforceable(before, &admission)?;
                Ok(admission)
            }
            Ok(_) => Err(ChangeError::Refused(own)),
            Err(mut problems) => {
                problems.extend(own);
                problems.sort_by_key(|problem| problem.resource);
                Err(ChangeError::Refused(problems))
            }
        }
    }

    /// Refuses what could not be pushed, and what a running agent would have to refuse, which would close it.
    fn check_enforceable(&self, before: &Catalog, admission: &Admission) -> Result<(), ChangeError> {
        let keys = || admission.changes.iter().map(|change| &change.key);
        if let Some(oversized) = oversized(&self.trust_domain, before, &admission.after, keys()) {
            return Err(oversized.into());
        }
        for (node, features) in needed_features(&self.trust_domain, before, &admission.after, keys()) {
            debug_assert!(features.iter().all(|feature| features::ALL.contains(feature)), "{features:?}");
            if let Some(instance) = (self.missing_feature)(&node, &features) {
                return Err(ChangeError::Incapable { instance, node, features });
            }
        }
        Ok(())
    }
}

impl Draft {
    /// The same with some of it taken away then, judged as [`Resources::delete`] would for somebody who may change everything.
    ///
    /// # Errors
    /// What the removal would be refused for.
    pub fn without(self, removed: &[ResourceKey], trust_domain: &TrustDomain) -> Result<Self, ChangeError> {
        if removed.is_empty() {
            return Ok(self);
        }
        let target =
            |key: &ResourceKey| Target { key: key.clone(), resource_version: 0, ignore_missing: false };
        let targets: Vec<Target> = removed.iter().map(target).collect();
        let admitted = admit_removal(&self.after, &targets, EVERYTHING, trust_domain);
        let Removal { warnings: more, after, .. } = admitted.map_err(ChangeError::Refused)?;
        let mut warnings = self.warnings;
        warnings.extend(more);
        Ok(Self { after, warnings })
    }
}

/// All resources of a batch where there are no others, nor anybody who runs: nothing but the batch itself is judged.
///
/// # Errors
/// What is wrong with it.
pub fn draft_alone(batch: &[Resource], trust_domain: &TrustDomain) -> Result<Catalog, ChangeError> {
    let admitted = admit(&Catalog::default(), batch, EVERYTHING, trust_domain);
    admitted.map(|admission| admission.after).map_err(ChangeError::Refused)
}

/// Refuses a draft that is too large to be looked at, or of which too much is to be taken away.
///
/// # Errors
/// How large it is.
pub fn check_draft(batch: &[Resource], removed: usize) -> Result<(), ChangeError> {
    let (resources, bytes) = (batch.len(), batch.iter().map(Message::encoded_len).sum());
    if resources > MAX_BATCH || bytes > MAX_BATCH_BYTES {
        return Err(DraftTooLarge { resources, bytes }.into());
    }
    if removed > MAX_BATCH { Err(ChangeError::TooMany(removed)) } else { Ok(()) }
}
