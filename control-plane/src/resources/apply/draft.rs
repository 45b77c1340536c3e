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
    /// change anything. It keeps a processor busy for as long as that takes; no change waits for it.
    ///
    /// # Errors
    /// What the change would be refused for.
    pub fn draft(&self, before: &Catalog, batch: &[Resource]) -> Result<Draft, ChangeError> {
        check_draft(batch)?;
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
    /// The same with some of it taken away then.
    ///
    /// # Errors
    /// What the removal would be refused for.
    pub fn without(self, removed: &[ResourceKey], trust_domain: &TrustDomain) -> Result<Self, ChangeError> {
        let Self { after, mut warnings } = self;
        let (after, more) = removed_from_draft(after, removed, trust_domain)?;
        warnings.extend(more);
        Ok(Self { after, warnings })
    }
}

/// Takes some of a draft's resources away, judged as [`Resources::delete`] would for somebody who may change everything; gives what is
/// left, and what a person should know about it.
///
/// # Errors
/// What the removal would be refused for.
pub fn removed_from_draft(
    draft: Catalog,
    removed: &[ResourceKey],
    trust_domain: &TrustDomain,
) -> Result<(Catalog, Vec<String>), ChangeError> {
    if removed.is_empty() {
        return Ok((draft, Vec::new()));
    }
    if removed.len() > MAX_BATCH {
        return Err(ChangeError::TooMany(removed.len()));
    }
    let target = |key: &ResourceKey| Target { key: key.clone(), resource_version: 0, ignore_missing: false };
    let targets: Vec<Target> = removed.iter().map(target).collect();
    let admitted = admit_removal(&draft, &targets, EVERYTHING, trust_domain);
    let Removal { warnings, after, .. } = admitted.map_err(ChangeError::Refused)?;
    Ok((after, warnings))
}

/// Refuses a draft that is too large to be looked at.
///
/// # Errors
/// How large it is.
pub fn check_draft(batch: &[Resource]) -> Result<(), DraftTooLarge> {
    let (resources, bytes) = (batch.len(), batch.iter().map(Message::encoded_len).sum());
    let is_too_large = resources > MAX_BATCH || bytes > MAX_BATCH_BYTES;
    if is_too_large { Err(DraftTooLarge { resources, bytes }) } else { Ok(()) }
}
