//! A change of resources as one durable transaction.

mod draft;
mod error;

use std::sync::Arc;

use hauberk_identity::{InstanceId, SpiffeId, TrustDomain, UnixMillis};
use hauberk_proto::convert::timestamp;
use hauberk_proto::mesh::v1::{Metadata, Resource};
use prost::Message;

use super::admit::{Admission, Change, Outcome, Removal, Rights, Target, admit_removal};
use super::follow::Catalogs;
use super::key::{Kind, ResourceKey};
use crate::audit::{self, Act, Actor, Audit};
use crate::bulkhead::{Bulkhead, Turn};
use crate::clock::Clock;
use crate::random::{self, NoRandomness};
use crate::registry::{Commit, Revision, StoreError};
use crate::server_certificate::ServerNames;

pub use draft::{Draft, DraftTooLarge, check_draft, draft_alone};
pub use error::ChangeError;

/// The most resources of one change, or of one that is only looked at: often a whole folder, of which little changes.
pub const MAX_BATCH: usize = 10_000;

/// The most bytes of one change, encoded.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How often a change is judged anew because another one came between.
const ATTEMPTS: usize = 8;

/// How many resources an audit record names.
const NAMED_IN_AUDIT: usize = 10;

/// Who makes a change.
#[derive(Debug, Clone)]
pub struct Author {
    /// As audit records name them.
    pub actor: Actor,
    /// What they may change.
    pub rights: Rights,
}

/// A live instance of a node that lacks one of the features, if there is one.
pub type MissingFeature = Box<dyn Fn(&SpiffeId, &[&str]) -> Option<InstanceId> + Send + Sync>;

/// A change that happened, or would have.
#[derive(Debug)]
pub struct Applied {
    /// What became of each resource, in the order of the batch.
    pub changes: Vec<AppliedChange>,
    /// The revision of the change; the current one where nothing changed.
    pub revision: Revision,
    /// What a person should know about it.
    pub warnings: Vec<String>,
}

/// What became of one resource.
#[derive(Debug)]
pub struct AppliedChange {
    /// Whether it was made, changed, or stays as it was.
    pub outcome: Outcome,
    /// As it now stands.
    pub resource: Resource,
    /// As it stood.
    pub previous: Option<Resource>,
}

/// A removal that happened, or would have.
#[derive(Debug)]
pub struct Removed {
    /// What went, in the order of the request.
    pub resources: Vec<Resource>,
    /// The revision of the change; the current one where nothing changed.
    pub revision: Revision,
    /// What a person should know about it.
    pub warnings: Vec<String>,
}

/// What changing resources needs.
pub struct ResourcesParts {
    /// All resources.
    pub catalogs: Catalogs,
    /// Who did what.
    pub audit: Arc<Audit>,
    /// The time.
    pub clock: Clock,
    /// The trust domain of all nodes.
    pub trust_domain: TrustDomain,
    /// What the control plane itself is called.
    pub server_names: Arc<ServerNames>,
    /// What running agents cannot enforce.
    pub missing_feature: MissingFeature,
}

/// Changes resources.
pub struct Resources {
    parts: Arc<ResourcesParts>,
    /// One change at a time is judged and committed here, and no author's changes keep out those of others; the guard on the revision
    /// holds off other replicas.
    changing: Bulkhead,
}

impl Resources {
    /// Puts the parts together.
    pub fn new(parts: ResourcesParts) -> Self {
        Self { parts: Arc::new(parts), changing: Bulkhead::of_changes() }
    }

    /// All resources.
    pub fn catalogs(&self) -> &Catalogs {
        &self.parts.catalogs
    }

    /// The trust domain of all nodes.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.parts.trust_domain
    }

    /// Creates or replaces resources, all or none. With `validate_only` everything but the writing is done.
    ///
    /// # Errors
    /// When nothing was changed; says everything that is wrong with the batch. That it was refused is recorded.
    pub async fn apply(
        &self,
        author: &Author,
        batch: &[Resource],
        validate_only: bool,
    ) -> Result<Applied, ChangeError> {
        const ACTION: &str = "resources.apply";
        let result = self.try_apply(author, batch, validate_only, ACTION).await;
        if !validate_only {
            let name = |resource: &Resource| {
                let kind = resource.spec.as_ref().map(|spec| format!("{} ", Kind::of(spec).as_str()));
                format!("{}{}/{}", kind.unwrap_or_default(), resource.mesh, resource.name)
            };
            let names = || named(batch.iter().map(name));
            match &result {
                Err(error) => self.record(Act::refused(&author.actor, ACTION, names(), error)).await,
                Ok(applied) if is_unchanged(applied) => {
                    self.record(Act::done(&author.actor, ACTION, names()).because("nothing changed")).await;
                }
                Ok(_) => {}
            }
        }
        result
    }

    /// Removes resources, all or none. With `validate_only` everything but the removing is done.
    ///
    /// # Errors
    /// When nothing was removed; says everything that is wrong with the request. That it was refused is recorded.
    pub async fn delete(
        &self,
        author: &Author,
        targets: &[Target],
        validate_only: bool,
    ) -> Result<Removed, ChangeError> {
        const ACTION: &str = "resources.delete";
        let result = self.try_delete(author, targets, validate_only, ACTION).await;
        if let (Err(error), false) = (&result, validate_only) {
            let names = named(targets.iter().map(|target| target.key.to_string()));
            self.record(Act::refused(&author.actor, ACTION, names, error)).await;
        }
        result
    }

    async fn try_apply(
        &self,
        author: &Author,
        batch: &[Resource],
        validate_only: bool,
        action: &'static str,
    ) -> Result<Applied, ChangeError> {
        check_size(batch)?;
        let mut turn = self.turn_of(author).await?;
        let (batch, rights): (Arc<[Resource]>, _) = (batch.into(), author.rights);
        for _ in 0..ATTEMPTS {
            let catalog = self.parts.catalogs.current_in_turn().await?;
            let (before, batch) = (Arc::clone(&catalog), Arc::clone(&batch));
            let admission;
            (admission, turn) = self.judged(turn, move |parts| parts.judge(&before, &batch, rights)).await?;
            let Admission { changes, warnings, after: _ } = admission?;
            let written: Vec<_> =
                changes.iter().filter(|change| change.outcome != Outcome::Unchanged).collect();
            if written.is_empty() {
                let changes = changes.into_iter().map(AppliedChange::unchanged).collect();
                return Ok(Applied { changes, revision: catalog.revision(), warnings });
            }
            let object = named(written.iter().map(|change| change.key.to_string()));
            let now = self.parts.clock.now();
            // The guard on the revision makes this the number it gets.
            let revision = Revision(catalog.revision().0 + 1);
            let changes: Vec<(ResourceKey, AppliedChange)> = changes
                .into_iter()
                .map(|change| Ok((change.key.clone(), AppliedChange::stamped(change, now, revision)?)))
                .collect::<Result<_, NoRandomness>>()?;
            if !validate_only {
                let commit = Commit::new().at_revision(catalog.revision()).raising_revision();
                let commit = changes
                    .iter()
                    .filter(|(_, change)| change.outcome != Outcome::Unchanged)
                    .fold(commit, |commit, (key, change)| {
                        commit.put(key.store_key(), change.resource.encode_to_vec())
                    });
                if !self.commit(commit, Act::done(&author.actor, action, object)).await? {
                    continue;
                }
            }
            let revision = if validate_only { catalog.revision() } else { revision };
            let changes = changes.into_iter().map(|(_, change)| change).collect();
            return Ok(Applied { changes, revision, warnings });
        }
        Err(ChangeError::Contended)
    }

    async fn try_delete(
        &self,
        author: &Author,
        targets: &[Target],
        validate_only: bool,
        action: &'static str,
    ) -> Result<Removed, ChangeError> {
        if targets.len() > MAX_BATCH {
            return Err(ChangeError::TooMany(targets.len()));
        }
        let mut turn = self.turn_of(author).await?;
        let (targets, rights): (Arc<[Target]>, _) = (targets.into(), author.rights);
        for _ in 0..ATTEMPTS {
            let catalog = self.parts.catalogs.current_in_turn().await?;
            let (before, targets) = (Arc::clone(&catalog), Arc::clone(&targets));
            let admission;
            (admission, turn) = self
                .judged(turn, move |parts| admit_removal(&before, &targets, rights, &parts.trust_domain))
                .await?;
            let Removal { removed, warnings, after: _ } = admission.map_err(ChangeError::Refused)?;
            let resources = removed.iter().map(|(_, entry)| entry.resource().clone()).collect();
            if validate_only || removed.is_empty() {
                return Ok(Removed { resources, revision: catalog.revision(), warnings });
            }
            let commit = Commit::new().at_revision(catalog.revision()).raising_revision();
            let commit = removed.iter().fold(commit, |commit, (key, _)| commit.delete(key.store_key()));
            let object = named(removed.iter().map(|(key, _)| key.to_string()));
            if self.commit(commit, Act::done(&author.actor, action, object)).await? {
                let revision = Revision(catalog.revision().0 + 1);
                return Ok(Removed { resources, revision, warnings });
            }
        }
        Err(ChangeError::Contended)
    }

    /// Commits with a record of the act. `false`: another change came between, and this one must be judged anew.
    async fn commit(&self, commit: Commit, act: Act) -> Result<bool, ChangeError> {
        match self.parts.audit.commit(commit, act).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Judges a change on a thread of its own: it may take a while, and agents are served meanwhile. One judgement runs at a time.
    async fn judged<T: Send + 'static>(
        &self,
        turn: Turn,
        judge: impl FnOnce(&ResourcesParts) -> T + Send + 'static,
    ) -> Result<(T, Turn), ChangeError> {
        let parts = Arc::clone(&self.parts);
        turn.lend(move || judge(&parts)).await.map_err(ChangeError::Unjudged)
    }

    /// A turn of this author's, once all resources can be read: whoever waits for those is counted, and holds up nobody.
    async fn turn_of(&self, author: &Author) -> Result<Turn, ChangeError> {
        let place = self.changing.place(&author.actor.name)?;
        self.parts.catalogs.current().await?;
        Ok(place.turn().await?)
    }

    /// Records what left no trace in the registry otherwise. The answer does not depend on it.
    async fn record(&self, act: Act) {
        if act.outcome == audit::Outcome::Refused {
            return self.parts.audit.record_refusal(act).await;
        }
        if let Err(error) = self.parts.audit.record(act).await {
            tracing::error!(event = "audit_failed", %error, "a change of resources could not be recorded");
        }
    }
}

impl AppliedChange {
    fn unchanged(change: Change) -> Self {
        let Change { key: _, outcome, resource, previous } = change;
        let previous = previous.map(|entry| entry.resource().clone());
        Self { outcome, resource: previous.clone().unwrap_or(resource), previous }
    }

    /// The resource with the metadata it gets by this change.
    fn stamped(change: Change, now: UnixMillis, revision: Revision) -> Result<Self, NoRandomness> {
        if change.outcome == Outcome::Unchanged {
            return Ok(Self::unchanged(change));
        }
        let Change { key: _, outcome, resource, previous } = change;
        let previous = previous.map(|entry| entry.resource().clone());
        let former = previous.as_ref().and_then(|resource| resource.metadata.clone());
        let former = match former {
            Some(former) => former,
            None => Metadata { uid: new_uid()?, created_at: Some(timestamp(now)), ..Metadata::default() },
        };
        let metadata = Metadata {
            resource_version: former.resource_version + 1,
            revision: revision.0,
            updated_at: Some(timestamp(now)),
            ..former
        };
        Ok(Self { outcome, resource: Resource { metadata: Some(metadata), ..resource }, previous })
    }
}

fn is_unchanged(applied: &Applied) -> bool {
    applied.changes.iter().all(|change| change.outcome == Outcome::Unchanged)
}

fn check_size(batch: &[Resource]) -> Result<(), ChangeError> {
    if batch.len() > MAX_BATCH {
        return Err(ChangeError::TooMany(batch.len()));
    }
    let bytes = batch.iter().map(Message::encoded_len).sum();
    if bytes > MAX_BATCH_BYTES { Err(ChangeError::TooLarge(bytes)) } else { Ok(()) }
}

/// Sixteen random bytes, spelt as UUIDs are.
fn new_uid() -> Result<String, NoRandomness> {
    let hex: String = random::bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let (mut uid, mut rest) = (String::with_capacity(36), hex.as_str());
    for length in [8, 4, 4, 4] {
        let (part, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
        uid.push_str(part);
        uid.push('-');
        rest = tail;
    }
    uid.push_str(rest);
    Ok(uid)
}

/// What a record says a change is about: the first few names, and how many more.
fn named(mut names: impl Iterator<Item = String>) -> String {
    let first: Vec<String> = names.by_ref().take(NAMED_IN_AUDIT).collect();
    let first = first.join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
