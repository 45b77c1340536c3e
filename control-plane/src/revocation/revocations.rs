//! Where somebody is revoked, and where the list of them is kept up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, Serial, SpiffeId, UnixMillis};
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use super::denylist::{Certificate, Denylist, Listed, Mark};
use super::error::RevocationError;
use super::records::{self, Number, Quarantine, RevokedCertificate, RevokedInstance, quarantine_key};
use crate::audit::{Act, Actor, Audit};
use crate::authority::Authority;
use crate::clock::Clock;
use crate::instances::Instances;
use crate::issuance::{Holder, Ledger};
use crate::registry::{Commit, Store, StoreError, WatchEnd, document, keys};
use crate::resources::ResourceKey;
use crate::secret::SecretId;

/// The most certificates on the list: some two MiB for each agent. Certificates of revoked instances need no room there, and have
/// it while there is some: those who read the CRL go by it.
pub(super) const MOST_CERTIFICATES: usize = 50_000;

/// How often a change is tried again because another came between.
pub(super) const ATTEMPTS: usize = 32;

/// For how long the token of a revoked instance could be shown again: as long as tokens live.
pub(super) const TOKENS_LIVE: Duration = Duration::from_secs(86_400);

/// Before the registry is read again after a failure.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Who is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One certificate.
    Serial(Serial),
    /// An instance with all its certificates.
    Instance(InstanceId),
    /// The same, also where nothing is on record of it: a registry restored from a backup does not know who has joined since.
    UnrecordedInstance(InstanceId),
    /// All instances that a node or gateway has now.
    Node(Name, NodeName),
    /// All instances that joined by a token, which must have been deleted: none joins by it any longer.
    Token(SecretId),
}

/// What [`Revocations`] is made of.
pub struct RevocationsParts {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Who revoked whom.
    pub audit: Arc<Audit>,
    /// Which certificates there are.
    pub ledger: Arc<Ledger>,
    /// The instances there are, which learn who of them lives no longer.
    pub instances: Arc<Instances>,
    /// Signs the list.
    pub authority: Arc<Authority>,
    /// The time.
    pub clock: Clock,
}

/// All revocations.
pub struct Revocations {
    pub(super) store: Arc<dyn Store>,
    audit: Arc<Audit>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) instances: Arc<Instances>,
    pub(super) authority: Arc<Authority>,
    pub(super) clock: Clock,
    denylist: watch::Sender<Arc<Denylist>>,
    /// Held while the list is read and published, so that no older one follows a newer one.
    reading: Mutex<()>,
    unreadable: AtomicBool,
    /// Somebody else than [`Revocations::follow`] could not make the list.
    failed: Notify,
}

impl Revocations {
    /// Reads who is refused.
    ///
    /// # Errors
    /// When the registry cannot be read: a control plane that does not know who is refused lets nobody in.
    pub async fn load(parts: RevocationsParts) -> Result<Self, RevocationError> {
        let RevocationsParts { store, audit, ledger, instances, authority, clock } = parts;
        let denylist = watch::Sender::new(Arc::default());
        let (reading, unreadable, failed) = (Mutex::new(()), AtomicBool::new(false), Notify::new());
        let revocations =
            Self { store, audit, ledger, instances, authority, clock, denylist, reading, unreadable, failed };
        revocations.read_again().await?;
        Ok(revocations)
    }

    /// Who is refused at this moment.
    pub fn denylist(&self) -> Arc<Denylist> {
        Arc::clone(&self.denylist.borrow())
    }

    /// The same, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Denylist>> {
        self.denylist.subscribe()
    }

    /// Whether what is revoked reaches nobody, for the list cannot be made anew just now.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Acquire)
    }

    /// The number of the last revocation that is recorded. No rollout is done from now on before the list is of that number.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn recorded(&self) -> Result<u64, StoreError> {
        let number = records::read::<Number>(&*self.store, keys::DENYLIST_NUMBER).await?;
        let Number { revision } = number.unwrap_or_default();
        self.instances.expect_denylist(revision);
        Ok(revision)
    }

    /// Until whoever proves this is refused.
    pub async fn until_denied(&self, id: &SpiffeId, serial: Serial) {
        let mut changes = self.subscribe();
        // The sender is ours, and so there while this runs.
        let _denied = changes.wait_for(|list| list.denial(id, serial).is_some()).await;
    }

    /// Follows what others write, and which key signs, until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut signers = self.authority.view_signer();
        // Seen at first too: another may sign since the list was read.
        signers.mark_changed();
        let follow = async {
            loop {
                let page = match self.store.list(keys::REVOCATIONS, None, 1).await {
                    Ok(page) => page,
                    Err(error) => {
                        self.unreadable.store(true, Ordering::Release);
                        tracing::error!(event = "revocations_unreadable", %error, "the former denylist stays in force");
                        tokio::time::sleep(READ_AGAIN_AFTER).await;
                        continue;
                    }
                };
                let mut watch = self.store.watch(keys::REVOCATIONS, page.version);
                loop {
                    if let Err(error) = self.read_again().await {
                        tracing::error!(event = "revocations_unreadable", %error, "the former denylist stays in force");
                        tokio::time::sleep(READ_AGAIN_AFTER).await;
                        continue;
                    }
                    tokio::select! {
                        change = watch.next() => match change {
                            Ok(_) => {}
                            Err(WatchEnd::Closed) => return,
                            Err(WatchEnd::Compacted) => break,
                        },
                        changed = signers.changed() => if changed.is_err() { return },
                        () = self.failed.notified() => {}
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    /// Puts a node or gateway in quarantine, or ends that. Gives the revision, and whether anything changed.
    ///
    /// # Errors
    /// There is no such node, or nothing could be recorded. [`RevocationError::NotInForce`]: it is recorded.
    pub async fn quarantine(
        &self,
        (mesh, node): (&Name, &NodeName),
        undo: bool,
        actor: &Actor,
    ) -> Result<(u64, bool), RevocationError> {
        let key = quarantine_key(mesh, node);
        let mut attempt = 1;
        loop {
            let present = self.store.get(&key).await?;
            let resource = ResourceKey::node(mesh, node).store_key();
            // A deleted node may still be in quarantine; one that never was is a slip, and leaves the node in it that was meant.
            if (!undo || present.is_none()) && self.store.get(&resource).await?.is_none() {
                return Err(RevocationError::NoSuchNode { mesh: mesh.clone(), node: node.clone() });
            }
            if present.is_some() != undo {
                return Ok((self.in_force(false).await?, false));
            }
            let commit = Commit::new().unchanged(&key, present.as_ref());
            let (commit, action) = if undo {
                (commit.delete(&key), "quarantine.undo")
            } else {
                let record = Quarantine { at: self.clock.now().0 };
                (commit.put(&key, document::to_bytes(&key, &record)?), "quarantine.node")
            };
            match self.commit(commit, Act::done(actor, action, format!("{mesh}/{node}"))).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(revision) => {
                    self.in_force(true).await?;
                    return Ok((revision, true));
                }
            }
        }
    }

    /// Forgets revocations of what has been of no use for an hour; nothing that is still good is ever let in again. Gives
    /// their number.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let mut commit = Commit::new();
        for (key, stored) in self.store.list(keys::REVOKED_SERIALS, None, usize::MAX).await?.entries {
            if document::from_stored::<RevokedCertificate>(&key, &stored)?.is_over(now) {
                commit = commit.delete(key);
            }
        }
        for (key, stored) in self.store.list(keys::REVOKED_INSTANCES, None, usize::MAX).await?.entries {
            if document::from_stored::<RevokedInstance>(&key, &stored)?.is_over(now) {
                commit = commit.delete(key);
            }
        }
        let removed = commit.len();
        if removed > 0 {
            self.store.commit(commit).await?;
        }
        Ok(removed)
    }

    /// Gives the revision. A conflict means that something came between: the change must be thought through again. It is put in force
    /// too where that can be done at once: [`Revocations::in_force`] tells.
    pub(super) async fn commit(&self, commit: Commit, act: Act) -> Result<u64, RevocationError> {
        let now = self.store.revision().await?;
        let number = Number { revision: now.0 + 1 };
        let commit = commit
            .at_revision(now)
            .put(keys::DENYLIST_NUMBER, document::to_bytes(keys::DENYLIST_NUMBER, &number)?)
            .raising_revision()
            .using_reserve();
        self.audit.commit(commit, act).await?;
        self.instances.expect_denylist(number.revision);
        if let Err(error) = self.read_now().await {
            tracing::error!(event = "revocations_unreadable", %error, "what was recorded is not in force yet");
        }
        Ok(number.revision)
    }

    /// The number of the list, where all that is recorded is on it, whoever recorded it. Who finds something recorded does not know
    /// that without asking. `recorded`: whether something was recorded by the call that asks.
    ///
    /// # Errors
    /// [`RevocationError::NotInForce`]: it is not, and [`Revocations::follow`] goes on trying.
    pub(super) async fn in_force(&self, recorded: bool) -> Result<u64, RevocationError> {
        let up_to_date = async {
            if self.denylist().mark.revision < self.recorded().await? {
                self.read_now().await?;
            }
            Ok(self.denylist().mark.revision)
        };
        up_to_date.await.map_err(|source: RevocationError| RevocationError::NotInForce {
            recorded,
            unread: Vec::new(),
            source: Box::new(source),
        })
    }

    /// Makes the list of the records for somebody who tries that once: [`Revocations::follow`] goes on trying.
    async fn read_now(&self) -> Result<(), RevocationError> {
        self.read_again().await.inspect_err(|_| self.failed.notify_one())
    }

    /// Makes the list of the records and publishes it.
    async fn read_again(&self) -> Result<(), RevocationError> {
        let _turn = self.reading.lock().await;
        let read = self.read().await;
        self.unreadable.store(read.is_err(), Ordering::Release);
        read
    }

    /// Reads the records and publishes what follows from them: of all that are there, for no clock may take anybody off the list that
    /// [`Revocations::prune`] keeps.
    async fn read(&self) -> Result<(), RevocationError> {
        let page = self.store.list(keys::REVOCATIONS, None, usize::MAX).await?;
        let (mut serials, mut nodes, mut revision) = (Vec::new(), HashMap::new(), 0);
        let (mut instances, mut unlisted_until) = (HashSet::new(), UnixMillis(0));
        let damaged = |key: &str| StoreError::Damaged { key: key.to_owned(), what: "it names nobody" };
        for (key, stored) in &page.entries {
            if key == keys::DENYLIST_NUMBER {
                revision = document::from_stored::<Number>(key, stored)?.revision;
            } else if let Some(serial) = key.strip_prefix(keys::REVOKED_SERIALS) {
                let record: RevokedCertificate = document::from_stored(key, stored)?;
                let revoked = Certificate {
                    not_after: UnixMillis(record.not_after),
                    at: UnixMillis(record.at),
                    issuer: record.issuer.and_then(|issuer| issuer.parse().ok()),
                };
                serials.push((serial.parse().map_err(|_| damaged(key))?, revoked));
            } else if let Some(instance) = key.strip_prefix(keys::REVOKED_INSTANCES) {
                let record: RevokedInstance = document::from_stored(key, stored)?;
                unlisted_until = unlisted_until.max(UnixMillis(record.unlisted_until));
                instances.insert(InstanceId::parse(instance).map_err(|_| damaged(key))?);
            } else if key.starts_with(keys::QUARANTINES) {
                let trust_domain = self.authority.trust_domain();
                let node = records::quarantined(key, trust_domain).ok_or_else(|| damaged(key))?;
                nodes.insert(node, UnixMillis(document::from_stored::<Quarantine>(key, stored)?.at));
            }
        }
        let (serials, without_room) = with_room(serials, &instances);
        let mark = Mark { epoch: self.authority.epoch(), revision };
        let authority = &self.authority;
        let (on_hold, held_instances, held_without_room) =
            self.of_workloads_of(&nodes, serials.len(), self.clock.surely_past()).await?;
        let unlisted_until = unlisted_until.max(without_room).max(held_without_room);
        let listed = Listed { serials, on_hold, held_instances, nodes, instances, unlisted_until };
        let signer = Arc::clone(&authority.view_signer().borrow());
        let list = Denylist::new(mark, authority.trust_domain(), listed, &signer)?;
        let list = Arc::new(list);
        self.instances.deny(Arc::clone(&list));
        self.denylist.send_replace(list);
        Ok(())
    }

    /// The certificates of workloads that nodes in quarantine vouch for, the instances that they name, and those that are on
    /// record, which may vouch for others that are not: a registry restored from a backup does not know them. Beside so many that
    /// are listed, those that name one stand there themselves as long as there is room. While the quarantine lasts there will be no
    /// more: what issues them looks at it in the same commit. And the end of the last for which there is no room.
    async fn of_workloads_of(
        &self,
        nodes: &HashMap<SpiffeId, UnixMillis>,
        listed: usize,
        now: UnixMillis,
    ) -> Result<(HashMap<Serial, Certificate>, HashSet<InstanceId>, UnixMillis), StoreError> {
        let (mut on_hold, mut instances, mut without_room) = (HashMap::new(), HashSet::new(), UnixMillis(0));
        if nodes.is_empty() {
            return Ok((on_hold, instances, without_room));
        }
        let since: HashMap<_, _> = nodes.iter().map(|(id, at)| (id.to_string(), *at)).collect();
        let on_record = self.ledger.instances().await?.into_iter();
        instances.extend(on_record.filter(|(_, it)| since.contains_key(&it.spiffe_id)).map(|(id, _)| id));
        let since = |holder: &Holder| match holder {
            Holder::Workload { node, .. } => since.get(node).copied(),
            Holder::Instance(_) | Holder::Admin(_) | Holder::ControlPlane => None,
        };
        let found = self.ledger.unexpired_of(instances.iter().copied(), now).await?;
        // Those that name nobody take their places first.
        let mut found: Vec<_> =
            found.into_iter().filter(|(_, record)| since(&record.holder).is_some()).collect();
        found.sort_by_key(|(serial, _)| serial.instance().is_some());
        for (serial, record) in found {
            let Some(at) = since(&record.holder) else { continue };
            let instance = serial.instance();
            instances.extend(instance);
            let not_after = UnixMillis(record.not_after);
            if instance.is_none() || listed + on_hold.len() < MOST_CERTIFICATES {
                let issuer = record.issuer.and_then(|issuer| issuer.parse().ok());
                on_hold.insert(serial, Certificate { not_after, at, issuer });
            } else {
                without_room = without_room.max(not_after);
            }
        }
        Ok((on_hold, instances, without_room))
    }
}

/// All certificates that no revoked instance stands for, and of the others as many as there is room for beside them; and the end
/// of the last of those for which there is none.
fn with_room(
    serials: Vec<(Serial, Certificate)>,
    instances: &HashSet<InstanceId>,
) -> (HashMap<Serial, Certificate>, UnixMillis) {
    let is_covered = |serial: Serial| serial.instance().is_some_and(|id| instances.contains(&id));
    let (mut covered, alone): (Vec<_>, Vec<_>) =
        serials.into_iter().partition(|(serial, _)| is_covered(*serial));
    let room = MOST_CERTIFICATES.saturating_sub(alone.len());
    let left = covered.split_off(room.min(covered.len()));
    let without_room = left.iter().map(|(_, certificate)| certificate.not_after).max();
    (alone.into_iter().chain(covered).collect(), without_room.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Busy, actor, joined, scratch_over};

    #[tokio::test(start_paused = true)]
    async fn a_list_that_could_not_be_made_once_is_made_without_another_change() {
        let mut busy = None;
        let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
        let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
        let peer = joined(&scratch).await;
        let stop = CancellationToken::new();
        let mut following = tokio::task::JoinSet::new();
        following.spawn({
            let (revocations, stop) = (Arc::clone(revocations), stop.clone());
            async move { revocations.follow(stop).await }
        });
        revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
        // Paused time goes on once whoever follows has seen that, and waits for what comes next.
        tokio::time::sleep(Duration::from_secs(60)).await;
        revocations.denylist.send_replace(Arc::default());
        busy.damage(Some(keys::REVOCATIONS));
        revocations.read_now().await.unwrap_err();
        assert!(revocations.is_unreadable());
        busy.damage(None);
        let denied = revocations.until_denied(peer.id(), peer.serial());
        tokio::time::timeout(Duration::from_secs(30), denied).await.expect("it is tried again");
        assert!(!revocations.is_unreadable());
        stop.cancel();
        following.join_all().await;
    }
}
