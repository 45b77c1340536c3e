//! What is remembered of each certificate and of those who hold them.

mod held;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{BACKDATED, InstanceId, Serial, UnixMillis};
use hauberk_tls::{Fingerprint, PeerIdentity};
use serde::{Deserialize, Serialize};

use crate::registry::{Commit, Store, StoreError, document, keys};
pub use held::Held;

/// How long records are kept after the last certificate has expired.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(3_600);

/// How long after a restore certificates may be about that are on no record since: the longest life that one has.
pub const FORGOTTEN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// How many records one reading of the store takes.
const READ_AT_ONCE: usize = 1_000;

/// How many certificates one call looks at for those that are wanted.
const LOOKED_AT: usize = 10_000;

/// Whose a certificate is, among those that name the same SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// An instance of a node.
    Instance(String),
    /// A program beside an instance.
    Workload {
        /// The instance whose agent vouched for it.
        instance: String,
        /// The enrollment that entitled to it, in the mesh of the instance's node.
        enrollment: String,
        /// The node's SPIFFE id; empty in records of releases that did not look at it.
        #[serde(default)]
        node: String,
    },
    /// An admin, by the generation of the record: one that was deleted and made anew is somebody else.
    Admin(String),
    /// The control plane itself.
    ControlPlane,
}

impl Holder {
    /// The instance that answers for the certificate; `None` where that is no agent.
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Instance(id) | Self::Workload { instance: id, .. } => InstanceId::parse(id).ok(),
            Self::Admin(_) | Self::ControlPlane => None,
        }
    }
}

/// An issued certificate; its serial number is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// Whom it names.
    pub spiffe_id: String,
    /// Whose it is.
    pub holder: Holder,
    /// Unix ms.
    pub issued_at: u64,
    /// Unix ms.
    pub not_before: u64,
    /// Unix ms.
    pub not_after: u64,
    /// SHA-256 of the public key, hexadecimal.
    pub key_fingerprint: String,
    /// The serial number of the authority that signed it; `None` in records of releases that had one.
    #[serde(default)]
    pub issuer: Option<String>,
    /// DNS names in it, beside the id; empty too in records of releases that did not keep them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
}

impl IssuedRecord {
    /// Whether this is the certificate that a peer has proved. Whoever has the key of an authority can sign any serial number and
    /// name, but not have the key that was certified here.
    pub fn is_of(&self, peer: &PeerIdentity) -> bool {
        self.key_fingerprint == peer.key_fingerprint().to_string() && self.spiffe_id == peer.id().as_str()
    }
}

/// A running agent, as far as certificates go; its id is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Whom its certificates name.
    pub spiffe_id: String,
    /// The mesh.
    pub mesh: String,
    /// The virtual node.
    pub node: String,
    /// Which node of that name; `None` in records of releases that did not look at it.
    #[serde(default)]
    pub node_uid: Option<String>,
    /// The latest certificate's serial number.
    pub serial: String,
    /// When that was issued, Unix ms.
    pub issued_at: u64,
    /// When that expires, Unix ms.
    pub not_after: u64,
    /// When the instance first joined, Unix ms.
    pub enrolled_at: u64,
    /// What the agent says about itself.
    pub version: String,
    /// What the agent says about itself.
    pub hostname: String,
    /// The id of the token that it joined by; `None` in records of releases that did not keep it.
    #[serde(default)]
    pub token: Option<String>,
    /// From where it joined; `None` in records of releases that did not keep it.
    #[serde(default)]
    pub joined_from: Option<String>,
    /// When it said that it denies everything since its node is gone, Unix ms.
    #[serde(default)]
    pub dismissed_at: Option<u64>,
    /// What it was let in by; `None` where that was a join token.
    #[serde(default)]
    pub evidence: Option<EvidenceRecord>,
}

/// The evidence that an instance was let in by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// What verified it.
    pub attestor: String,
    /// Whose it was: the machine's.
    pub subject: String,
    /// The enrollment, in the mesh of the instance's node.
    pub enrollment: String,
    /// All that was true of it.
    pub selectors: Vec<String>,
    /// Who vouched for it, of those that the enrollment named.
    pub voucher: String,
    /// When it was last verified, Unix ms.
    pub at: u64,
    /// From where it came.
    pub source: String,
}

/// Issued certificates, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedPage {
    /// Serial number and record.
    pub certificates: Vec<(String, IssuedRecord)>,
    /// What to go on after; `None` after the last.
    pub next: Option<String>,
}

/// Reads and prunes the records.
pub struct Ledger {
    store: Arc<dyn Store>,
    /// When the store was last put back from a backup.
    restored_at: Option<UnixMillis>,
}

impl Ledger {
    /// The records in a store, which was last put back from a backup then, if ever.
    pub fn new(store: Arc<dyn Store>, restored_at: Option<UnixMillis>) -> Self {
        Self { store, restored_at }
    }

    /// The record of a certificate; `None` if it was not issued here, or expired long ago.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn certificate(&self, serial: Serial) -> Result<Option<IssuedRecord>, StoreError> {
        self.read(&format!("{}{serial}", keys::ISSUED)).await
    }

    /// The record of an instance.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<InstanceRecord>, StoreError> {
        self.read(&format!("{}{id}", keys::INSTANCES)).await
    }

    /// All instances that hold, or lately held, a certificate.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instances(&self) -> Result<Vec<(InstanceId, InstanceRecord)>, StoreError> {
        let page = self.store.list(keys::INSTANCES, None, usize::MAX).await?;
        let mut instances = Vec::with_capacity(page.entries.len());
        for (key, stored) in &page.entries {
            let id = key.strip_prefix(keys::INSTANCES).and_then(|id| InstanceId::parse(id).ok());
            let id =
                id.ok_or_else(|| StoreError::Damaged { key: key.clone(), what: "it is no instance's id" })?;
            instances.push((id, document::from_stored(key, stored)?));
        }
        Ok(instances)
    }

    /// Which instance a peer with a verified certificate is; `None` where the certificate is not on record as an instance's of this
    /// name and key: whoever has signed it, it was not this installation. After a restore from an older backup the registry does not know
    /// what was issued since the backup: of that the serial number tells the instance, for as long as any of it may be good, unless
    /// that is on record under another name. One of an earlier release, which does not, has an id made from it, under which
    /// nothing is on record.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instance_of(
        &self,
        peer: &PeerIdentity,
        now: UnixMillis,
    ) -> Result<Option<InstanceId>, StoreError> {
        let serial = peer.serial();
        match self.certificate(serial).await? {
            Some(record) if !record.is_of(peer) => Ok(None),
            Some(IssuedRecord { holder: Holder::Instance(id), .. }) => Ok(InstanceId::parse(&id).ok()),
            Some(_) => Ok(None),
            None if self.may_have_forgotten(peer, now) => {
                let claimed = serial.instance().unwrap_or_else(|| made_from(serial.as_bytes()));
                let recorded = self.instance(&claimed).await?;
                let is_others = recorded.is_some_and(|record| record.spiffe_id != peer.id().as_str());
                Ok((!is_others).then_some(claimed))
            }
            None => Ok(None),
        }
    }

    fn may_have_forgotten(&self, peer: &PeerIdentity, now: UnixMillis) -> bool {
        let Some(restored_at) = self.restored_at else { return false };
        // Certificates know no fractions of a second.
        let issued_at = peer.not_before().plus(BACKDATED);
        issued_at < restored_at.floor_to_second() && now < restored_at.plus(FORGOTTEN_FOR)
    }

    /// Who answers for what is done with a certificate: the instance that holds it. The workloads that an instance vouches for
    /// answer together, apart from it, so that none of them takes its agent's place. Of any other certificate, and where the store
    /// cannot be read, an id made from its serial number; and of one that is on record with another key, from its own.
    pub async fn answerable(&self, peer: &PeerIdentity) -> InstanceId {
        let serial = peer.serial();
        match self.certificate(serial).await {
            Ok(Some(record)) if !record.is_of(peer) => made_from(peer.key_fingerprint().as_bytes()),
            Ok(Some(IssuedRecord { holder: Holder::Instance(id), .. })) => {
                InstanceId::parse(&id).unwrap_or_else(|_| made_from(serial.as_bytes()))
            }
            Ok(Some(IssuedRecord { holder: Holder::Workload { instance, .. }, .. })) => {
                made_from(format!("workloads of {instance}").as_bytes())
            }
            Ok(_) | Err(_) => made_from(serial.as_bytes()),
        }
    }

    /// Issued certificates, the latest first, at most `limit`; those of one SPIFFE id where it is given. A page may hold
    /// fewer and still have a next: one call looks at a bounded number of certificates.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn certificates(
        &self,
        spiffe_id: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<IssuedPage, StoreError> {
        self.wanted(|record| spiffe_id.is_none_or(|wanted| record.spiffe_id == wanted), after, limit).await
    }

    /// Who has signed what these instances hold for themselves and for their workloads and has not ended: the authorities' serial
    /// numbers, `None` where that is not recorded. Whoever holds nothing that is on record is not in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn issuers(
        &self,
        of: &HashSet<InstanceId>,
        now: UnixMillis,
    ) -> Result<HashMap<InstanceId, HashSet<Option<String>>>, StoreError> {
        let mut issuers: HashMap<_, HashSet<_>> = HashMap::new();
        let mut after = None;
        loop {
            let page = self.store.list(keys::ISSUED, after.as_deref(), READ_AT_ONCE).await?;
            for (key, stored) in &page.entries {
                let record: IssuedRecord = document::from_stored(key, stored)?;
                let holder = record.holder.instance().filter(|holder| of.contains(holder));
                if let Some(holder) = holder.filter(|_| UnixMillis(record.not_after) >= now) {
                    issuers.entry(holder).or_default().insert(record.issuer);
                }
            }
            if !page.more {
                return Ok(issuers);
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            // The store answers at once, so nothing else lets others go on.
            tokio::task::yield_now().await;
        }
    }

    async fn wanted(
        &self,
        wanted: impl Fn(&IssuedRecord) -> bool,
        after: Option<&str>,
        limit: usize,
    ) -> Result<IssuedPage, StoreError> {
        let mut certificates = Vec::new();
        let mut after = after.map(|after| format!("{}{after}", keys::ISSUED_ORDER));
        let mut looked_at = 0;
        loop {
            let page = self.store.list(keys::ISSUED_ORDER, after.as_deref(), READ_AT_ONCE).await?;
            for (key, _) in &page.entries {
                let position = key.strip_prefix(keys::ISSUED_ORDER).unwrap_or(key);
                let Some((_, serial)) = position.split_once('/') else { continue };
                // It may have been pruned since the page was read.
                let Some(record) = self.read::<IssuedRecord>(&format!("{}{serial}", keys::ISSUED)).await?
                else {
                    continue;
                };
                if wanted(&record) {
                    certificates.push((serial.to_owned(), record));
                }
                looked_at += 1;
                if certificates.len() >= limit || looked_at >= LOOKED_AT {
                    return Ok(IssuedPage { certificates, next: Some(position.to_owned()) });
                }
            }
            if !page.more {
                return Ok(IssuedPage { certificates, next: None });
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            // The store answers at once, so nothing else lets others go on.
            tokio::task::yield_now().await;
        }
    }

    /// Removes the records of certificates that expired more than an hour before `now`, and of instances all of whose
    /// certificates did: not only the latest, which may be shorter than one before it. Gives the number of records removed.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let expired = |not_after: u64| UnixMillis(not_after).plus(KEPT_AFTER_EXPIRY) < now;
        let mut removed = 0;
        let mut holders = HashSet::new();
        let mut after = None;
        loop {
            let page = self.store.list(keys::ISSUED, after.as_deref(), READ_AT_ONCE).await?;
            let mut commit = Commit::new();
            for (key, stored) in &page.entries {
                let record: IssuedRecord = document::from_stored(key, stored)?;
                if expired(record.not_after) {
                    let serial = key.strip_prefix(keys::ISSUED).unwrap_or(key);
                    let order = keys::issued_order(UnixMillis(record.issued_at), serial);
                    commit = commit.delete(key.clone()).delete(order);
                    removed += 1;
                } else {
                    holders.extend(record.holder.instance());
                }
            }
            if !commit.is_empty() {
                self.store.commit(commit).await?;
            }
            if !page.more {
                break;
            }
            after = page.entries.last().map(|(key, _)| key.clone());
        }
        for (id, record) in self.instances().await? {
            if expired(record.not_after) && !holders.contains(&id) {
                let key = format!("{}{id}", keys::INSTANCES);
                // An instance that renews at this moment is kept.
                if let Some(stored) = self.store.get(&key).await?
                    && expired(document::from_stored::<InstanceRecord>(&key, &stored)?.not_after)
                {
                    match self.store.commit(Commit::new().at(key.clone(), stored.version).delete(key)).await {
                        Ok(_) => removed += 1,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(removed)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.store.get(key).await?.map(|stored| document::from_stored(key, &stored)).transpose()
    }
}

fn made_from(name: &[u8]) -> InstanceId {
    let fingerprint = Fingerprint::of(name);
    InstanceId::from_random(fingerprint.as_bytes().first_chunk().copied().unwrap_or_default())
}
