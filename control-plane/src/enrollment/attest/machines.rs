//! What is remembered of machines that showed evidence: what their keys became, and for which keys it counts.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use hauberk_identity::{InstanceId, UnixMillis};
use hauberk_proto::mesh::v1::Resource;
use hauberk_tls::{Fingerprint, PublicKey};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{NotAttested, Permit, Shown, Stored};
use crate::attestation::{self, Attested};
use crate::enrollment::error::EnrollmentError;
use crate::enrollment::first::Taken;
use crate::enrollment::join::Enrollment;
use crate::issuance::EvidenceRecord;
use crate::registry::{Commit, StoreError, document, keys};
use crate::revocation;

/// How many new keys of one machine are let in at once, and how many more in a certificate's life: an agent whose state is
/// lost again and again must not use up its node's instances.
pub(in crate::enrollment) const KEYS_AT_ONCE: u32 = 20;
pub(in crate::enrollment) const KEYS_IN_A_LIFE: u32 = 20;

/// How many instances of a machine are looked at; far more than [`KEYS_AT_ONCE`] and [`KEYS_IN_A_LIFE`] leave.
const MOST_OF_A_MACHINE: usize = 1_000;

/// For which keys evidence counts that counts for one: the hash of the machine is in the registry's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OnceRecord {
    mesh: String,
    enrollment: String,
    enrollment_uid: String,
    /// Fingerprints of the latest key that was certified and the one before it, which the agent goes on with where the answer
    /// was lost.
    keys: Vec<String>,
    /// When it was first shown, Unix ms, and from where.
    at: u64,
    source: String,
}

/// What a key of a machine became by an enrollment; the enrollment's uid, the hash of the machine and the fingerprint of the
/// key are in the registry's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AttestedRecord {
    pub(super) mesh: String,
    pub(super) enrollment: String,
    pub(super) node: String,
    pub(super) node_uid: String,
    pub(super) instance: String,
    /// When the key was first let in, Unix ms.
    pub(super) at: u64,
    /// From where.
    pub(super) source: String,
    /// The instance was revoked: kept when the revocation itself is forgotten.
    pub(super) revoked: bool,
}

impl Enrollment {
    /// Lets nothing be issued to a machine of which an instance was revoked, to none of its instances: it would only go on as
    /// another.
    pub(in crate::enrollment) async fn check_machine(
        &self,
        mut commit: Commit,
        machine: &str,
        subject: &str,
    ) -> Result<Commit, EnrollmentError> {
        let page = self.store.list(machine, None, MOST_OF_A_MACHINE).await?;
        // One that is not looked at may be revoked.
        if page.more {
            return Err(EnrollmentError::TooManyKeys { again_in: self.svid_ttl });
        }
        for (key, stored) in &page.entries {
            let AttestedRecord { instance, revoked, .. } = document::from_stored(key, stored)?;
            let refused = || NotAttested::Revoked { subject: subject.to_owned(), instance: instance.clone() };
            let damaged = |_| StoreError::Damaged { key: key.clone(), what: "it is no instance" };
            let id = InstanceId::parse(&instance).map_err(damaged)?;
            match revocation::check_instance(&*self.store, commit, &id, None).await? {
                Ok(checked) if !revoked => commit = checked,
                _ => return Err(refused().into()),
            }
        }
        Ok(commit)
    }

    /// Lets evidence that counts once be used by the key that showed it first, or that came after it by renewal.
    pub(super) async fn check_once(
        &self,
        commit: Commit,
        shown: &Shown<'_>,
        enrollment: &Stored,
        attested: &Attested,
        agent_key: &PublicKey,
        source: &str,
    ) -> Result<Commit, EnrollmentError> {
        if !attestation::counts_once(attested.attestor.as_str()) {
            return Ok(commit);
        }
        let key = once_key(attested.attestor.as_str(), &attested.subject);
        let own = agent_key.fingerprint().to_string();
        let stored = self.store.get(&key).await?;
        let (keys, at, source) = match &stored {
            None => (vec![own], self.clock.now().0, source.to_owned()),
            Some(stored) => {
                let OnceRecord { keys, at, source, .. } = document::from_stored(&key, stored)?;
                if !keys.contains(&own) {
                    let (subject, at) = (attested.subject.clone(), UnixMillis(at));
                    return Err(NotAttested::Taken { subject, source_address: source, at }.into());
                }
                (keys, at, source)
            }
        };
        // The enrollment that it was last shown to keeps it: see `prune_once`.
        let record = OnceRecord {
            mesh: shown.mesh.to_owned(),
            enrollment: shown.enrollment.to_owned(),
            enrollment_uid: enrollment.uid.clone(),
            keys,
            at,
            source,
        };
        let bytes = document::to_bytes(&key, &record)?;
        Ok(commit.unchanged(key.clone(), stored.as_ref()).put(key, bytes))
    }

    /// At renewal: evidence that counts once counts for the renewed key from now on.
    pub(in crate::enrollment) async fn pass_on(
        &self,
        commit: Commit,
        (mesh, permit, evidence): (&str, &Permit, &EvidenceRecord),
        former: Fingerprint,
        renewed: Fingerprint,
    ) -> Result<Commit, EnrollmentError> {
        if !attestation::counts_once(&evidence.attestor) {
            return Ok(commit);
        }
        let key = once_key(&evidence.attestor, &evidence.subject);
        let former = former.to_string();
        let Some(stored) = self.store.get(&key).await? else {
            // The enrollment was made anew: whoever is in keeps others from coming by the same evidence.
            let record = OnceRecord {
                mesh: mesh.to_owned(),
                enrollment: evidence.enrollment.clone(),
                enrollment_uid: permit.enrollment_uid.clone(),
                keys: vec![renewed.to_string(), former],
                at: self.clock.now().0,
                source: evidence.source.clone(),
            };
            let bytes = document::to_bytes(&key, &record)?;
            return Ok(commit.absent(key.clone()).put(key, bytes));
        };
        let record: OnceRecord = document::from_stored(&key, &stored)?;
        // One that is not the latest is not let in by it either, and does not get to say who is.
        if !record.keys.contains(&former) {
            return Ok(commit);
        }
        let bytes =
            document::to_bytes(&key, &OnceRecord { keys: vec![renewed.to_string(), former], ..record })?;
        Ok(commit.at(key.clone(), stored.version).put(key, bytes))
    }

    /// Counts a new key of a machine.
    pub(super) fn take_new_key<'a>(&self, machine: &'a str) -> Result<Taken<'a>, EnrollmentError> {
        let mut keys = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = keys.take(machine, self.clock.now());
        taken.map_err(|again_in: Duration| EnrollmentError::TooManyKeys { again_in })?;
        Ok(Taken::NewKey { machine })
    }

    /// Forgets what keys of machines became once the instance, or the very enrollment, is gone. That an instance was revoked
    /// is remembered for as long as there is the enrollment. For whom evidence counts is kept also while an instance that came
    /// by it is on record. Gives the number of records removed.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune_attested(&self) -> Result<usize, StoreError> {
        let mut removed = 0;
        for (key, stored) in self.store.list(keys::ATTESTED, None, usize::MAX).await?.entries {
            let record: AttestedRecord = document::from_stored(&key, &stored)?;
            let uid = self.enrollment_uid(&record.mesh, &record.enrollment).await?;
            let is_enrolled = uid.is_some_and(|uid| key.starts_with(&enrollment_prefix(&uid)));
            let instance = format!("{}{}", keys::INSTANCES, record.instance);
            let is_revoked = record.revoked || self.is_revoked(&key, &record).await?;
            let is_wanted = is_enrolled && (is_revoked || self.store.get(&instance).await?.is_some());
            let commit = Commit::new().at(key.clone(), stored.version);
            let commit = match (is_wanted, is_revoked && !record.revoked) {
                (false, _) => commit.delete(key),
                (true, true) => {
                    let bytes = document::to_bytes(&key, &AttestedRecord { revoked: true, ..record })?;
                    commit.put(key, bytes)
                }
                (true, false) => continue,
            };
            match self.store.commit(commit).await {
                Ok(_) => removed += usize::from(!is_wanted),
                // It attests at this moment.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed + self.prune_once().await?)
    }

    /// Forgets for which keys evidence counts once the very enrollment that it was last shown to is gone, and nobody who came by
    /// it may hold a certificate: otherwise another key could show it before they renew. Whoever comes meanwhile writes it anew.
    async fn prune_once(&self) -> Result<usize, StoreError> {
        let mut removed = 0;
        let entries = self.store.list(keys::ATTESTED_ONCE, None, usize::MAX).await?.entries;
        let instances = self.ledger.instances().await?;
        let evidence = instances.iter().filter_map(|(_, record)| record.evidence.as_ref());
        let held: HashSet<_> =
            evidence.map(|evidence| once_key(&evidence.attestor, &evidence.subject)).collect();
        for (key, stored) in entries {
            let OnceRecord { mesh, enrollment, enrollment_uid, .. } = document::from_stored(&key, &stored)?;
            let is_enrolled =
                self.enrollment_uid(&mesh, &enrollment).await?.is_some_and(|uid| uid == enrollment_uid);
            if !is_enrolled && !held.contains(&key) {
                match self.store.commit(Commit::new().at(key.clone(), stored.version).delete(key)).await {
                    Ok(_) => removed += 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(removed)
    }

    /// The id of the enrollment that has this name now.
    async fn enrollment_uid(&self, mesh: &str, enrollment: &str) -> Result<Option<String>, StoreError> {
        let key = keys::resource("Enrollment", mesh, enrollment);
        let Some(stored) = self.store.get(&key).await? else { return Ok(None) };
        let damaged = |_| StoreError::Damaged { key: key.clone(), what: "it is no resource" };
        let resource = Resource::decode(stored.value).map_err(damaged)?;
        Ok(Some(resource.metadata.map(|metadata| metadata.uid).unwrap_or_default()))
    }

    async fn is_revoked(&self, key: &str, record: &AttestedRecord) -> Result<bool, StoreError> {
        let damaged = |_| StoreError::Damaged { key: key.to_owned(), what: "it is no instance" };
        let instance = InstanceId::parse(&record.instance).map_err(damaged)?;
        let checked = revocation::check_instance(&*self.store, Commit::new(), &instance, None).await?;
        Ok(checked.is_err())
    }
}

/// Where the keys of a machine stand in the registry. What a subject is called may hold anything; its hash does not.
pub(in crate::enrollment) fn machine_prefix(enrollment_uid: &str, subject: &str) -> String {
    format!("{}{}/", enrollment_prefix(enrollment_uid), Fingerprint::of(subject.as_bytes()))
}

/// Where it stands for which keys evidence counts.
fn once_key(attestor: &str, subject: &str) -> String {
    format!("{}{attestor}/{}", keys::ATTESTED_ONCE, Fingerprint::of(subject.as_bytes()))
}

fn enrollment_prefix(uid: &str) -> String {
    format!("{}{uid}/", keys::ATTESTED)
}
