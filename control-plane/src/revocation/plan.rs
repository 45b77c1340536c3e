//! What a revocation writes, and what must not change meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{InstanceId, Name, Serial, UnixMillis};

use super::denylist::Denylist;
use super::error::RevocationError;
use super::records::{self, RevokedCertificate, RevokedInstance, instance_key, serial_key};
use super::revocations::{MOST_CERTIFICATES, Revocations, TOKENS_LIVE, Target};
use crate::admins;
use crate::issuance::{Holder, IssuedRecord};
use crate::registry::{Commit, StoreError, document, keys};
use crate::resources::did_you_mean;

/// Certificates that stay good of who held one that was revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Theirs.
    pub serials: Vec<Serial>,
    /// The admin whose they are; `None`: an instance's.
    pub admin: Option<Name>,
    /// The instance whose they are; `None`: an admin's, or there are none.
    pub instance: Option<InstanceId>,
}

/// A commit that is being put together.
pub(super) struct Plan {
    /// Who gets nothing more: what is on record of that, and what is to be.
    instances: BTreeMap<InstanceId, (Option<RevokedInstance>, RevokedInstance)>,
    /// What is revoked newly.
    certificates: BTreeMap<Serial, RevokedCertificate>,
    pub(super) action: &'static str,
    pub(super) object: String,
}

impl Plan {
    fn new(action: &'static str, object: String) -> Self {
        Self { instances: BTreeMap::new(), certificates: BTreeMap::new(), action, object }
    }

    /// Whether the list has no room for those of these that need a place of their own.
    pub(super) fn is_too_many(&self, list: &Denylist) -> bool {
        let is_alone = |serial: &Serial| !self.is_covered(*serial, list);
        let listed = list.serials().filter(|(serial, _)| is_alone(serial)).count();
        listed + self.certificates.keys().filter(|serial| is_alone(serial)).count() > MOST_CERTIFICATES
    }

    /// Leaves out the certificates that agents refuse by the instance which they name, where the list has no room for all.
    pub(super) fn leave_covered_without_room(&mut self, list: &Denylist) {
        if list.certificates() + self.certificates.len() <= MOST_CERTIFICATES {
            return;
        }
        for (serial, revoked) in std::mem::take(&mut self.certificates) {
            if !self.is_covered(serial, list) {
                self.certificates.insert(serial, revoked);
            } else if let Some((_, instance)) = serial.instance().and_then(|id| self.instances.get_mut(&id)) {
                instance.unlisted_until = revoked.not_after.max(instance.unlisted_until);
            }
        }
    }

    /// Whether the instance that a certificate names is revoked, or is to be.
    fn is_covered(&self, serial: Serial, list: &Denylist) -> bool {
        serial.instance().is_some_and(|id| self.instances.contains_key(&id) || list.is_instance_revoked(id))
    }

    /// Leaves out all certificates, and gives them: that nobody gets more of them needs no room on the list.
    pub(super) fn leave_certificates(&mut self) -> BTreeMap<Serial, RevokedCertificate> {
        std::mem::take(&mut self.certificates)
    }

    /// What is revoked newly.
    pub(super) fn serials(&self) -> impl Iterator<Item = Serial> {
        self.certificates.keys().copied()
    }

    /// What is to be written; empty where all is so already.
    pub(super) fn commit(&self) -> Result<Commit, StoreError> {
        let mut commit = Commit::new();
        for (id, (on_record, revoked)) in &self.instances {
            if on_record.as_ref() != Some(revoked) {
                let key = instance_key(id);
                let bytes = document::to_bytes(&key, revoked)?;
                commit = commit.put(key, bytes);
            }
        }
        for (serial, revoked) in &self.certificates {
            let key = serial_key(*serial);
            let bytes = document::to_bytes(&key, revoked)?;
            commit = commit.put(key, bytes);
        }
        Ok(commit)
    }
}

impl Revocations {
    /// What it takes to revoke somebody, as things are.
    pub(super) async fn plan(&self, target: &Target) -> Result<Plan, RevocationError> {
        // A clock that is ahead leaves nothing out that is good as soon as it is right; what is listed needlessly is forgotten in time.
        let (now, past) = (self.clock.now(), self.clock.surely_past());
        let plan = match target {
            Target::Serial(serial) => self.plan_serial(*serial, now).await?,
            Target::Instance(id) | Target::UnrecordedInstance(id) => {
                if matches!(target, Target::Instance(_)) {
                    self.check_known(id).await?;
                }
                let plan = Plan::new("revoke.instance", format!("instance {id}"));
                self.plan_instances(plan, BTreeSet::from([*id]), now, BTreeMap::new()).await?
            }
            Target::Node(mesh, node) => {
                let plan = Plan::new("revoke.node", format!("{mesh}/{node}"));
                let spiffe_id = node.spiffe_id(self.authority.trust_domain(), mesh).to_string();
                let certificates =
                    self.ledger.unexpired_nameless(past, |record| record.spiffe_id == spiffe_id).await?;
                let mut instances: BTreeSet<_> =
                    certificates.values().filter_map(|record| record.holder.instance()).collect();
                // An instance is on record for as long as any of its certificates is good. It may hold more than is on record: a
                // registry restored from a backup knows only older certificates.
                let on_record = self.ledger.instances().await?.into_iter();
                instances.extend(on_record.filter(|(_, it)| it.spiffe_id == spiffe_id).map(|(id, _)| id));
                if certificates.is_empty() && instances.is_empty() {
                    return Err(RevocationError::NoInstances { mesh: mesh.clone(), node: node.clone() });
                }
                self.plan_instances(plan, instances, now, certificates).await?
            }
            Target::Token(id) => {
                let plan = Plan::new("revoke.token", format!("token {}", id.as_str()));
                let all = self.ledger.instances().await?;
                let joined =
                    all.into_iter().filter(|(_, record)| record.token.as_deref() == Some(id.as_str()));
                let instances: BTreeSet<_> = joined.map(|(instance, _)| instance).collect();
                if instances.is_empty() {
                    return Err(RevocationError::UnknownToken(id.as_str().to_owned()));
                }
                self.plan_instances(plan, instances, now, BTreeMap::new()).await?
            }
        };
        Ok(plan)
    }

    /// One that was mistyped is not revoked, and then believed to be.
    async fn check_known(&self, id: &InstanceId) -> Result<(), RevocationError> {
        let is_on_record = self.ledger.instance(id).await?.is_some()
            || self.instances.node_of(*id).is_some()
            || records::read::<RevokedInstance>(&*self.store, &instance_key(id)).await?.is_some()
            || !self.ledger.unexpired_of([*id], self.clock.surely_past()).await?.is_empty();
        if is_on_record {
            return Ok(());
        }
        let known: Vec<_> =
            self.ledger.instances().await?.iter().map(|(known, _)| known.to_string()).collect();
        let near = did_you_mean(&id.to_string(), known.iter().map(String::as_str));
        Err(RevocationError::NotOnRecord { id: *id, near: near.unwrap_or_default() })
    }

    async fn plan_serial(&self, serial: Serial, now: UnixMillis) -> Result<Plan, RevocationError> {
        let record = self.ledger.certificate(serial).await?;
        let Some(record) = record else {
            for kind in [keys::ISSUING, keys::ROOTS] {
                if self.store.get(&format!("{kind}{serial}")).await?.is_some() {
                    return Err(RevocationError::Authority(serial.to_string()));
                }
            }
            return Err(RevocationError::UnknownSerial(serial.to_string()));
        };
        if record.holder == Holder::ControlPlane {
            return Err(RevocationError::ControlPlane(serial.to_string()));
        }
        if UnixMillis(record.not_after) < self.clock.surely_past() {
            return Err(RevocationError::Expired(serial.to_string()));
        }
        let mut plan = Plan::new("revoke.serial", record.spiffe_id.clone());
        self.plan_certificate(&mut plan, serial, &record, now).await?;
        Ok(plan)
    }

    /// What else the instance that answers for a certificate has, for itself or for workloads, or the admin whose it is, that
    /// is not revoked.
    pub(super) async fn left_beside(&self, serial: Serial) -> Result<Left, StoreError> {
        let mut left = Left::default();
        let Some(record) = self.ledger.certificate(serial).await? else { return Ok(left) };
        let past = self.clock.likely_past();
        let others = match (&record.holder, record.holder.instance()) {
            (_, Some(id)) => {
                left.instance = Some(id);
                self.ledger.unexpired_of([id], past).await?
            }
            (Holder::Admin(generation), None) => {
                left.admin = admins::holding(&*self.store, &record.spiffe_id, generation).await?;
                if left.admin.is_none() {
                    // Nothing of one that was deleted is good.
                    return Ok(left);
                }
                self.ledger.unexpired_nameless(past, |other| other.holder == record.holder).await?
            }
            _ => return Ok(left),
        };
        for other in others.into_keys() {
            if other != serial && self.store.get(&serial_key(other)).await?.is_none() {
                left.serials.push(other);
            }
        }
        Ok(left)
    }

    /// Everything that these instances have, and that they get nothing more. What one of them is issued before that is
    /// written is seen the next time: many who renew in a loop must not keep the commit from ever happening.
    async fn plan_instances(
        &self,
        mut plan: Plan,
        instances: BTreeSet<InstanceId>,
        now: UnixMillis,
        certificates: BTreeMap<Serial, IssuedRecord>,
    ) -> Result<Plan, RevocationError> {
        let theirs = self.ledger.unexpired_of(instances.iter().copied(), self.clock.surely_past()).await?;
        let all: BTreeMap<_, _> = theirs.into_iter().chain(certificates).collect();
        for (serial, record) in &all {
            self.plan_certificate(&mut plan, *serial, record, now).await?;
        }
        let mut ends = BTreeMap::<InstanceId, u64>::new();
        for record in all.values() {
            if let Some(id) = record.holder.instance() {
                let end = ends.entry(id).or_default();
                *end = record.not_after.max(*end);
            }
        }
        for id in instances {
            let on_record = records::read::<RevokedInstance>(&*self.store, &instance_key(&id)).await?;
            let revoked = match &on_record {
                Some(revoked) => revoked.clone(),
                None => self.newly_revoked(id, ends.get(&id).copied(), now).await?,
            };
            plan.instances.insert(id, (on_record, revoked));
        }
        Ok(plan)
    }

    /// `last`: the end of its last certificate that is on record.
    async fn newly_revoked(
        &self,
        id: InstanceId,
        last: Option<u64>,
        now: UnixMillis,
    ) -> Result<RevokedInstance, StoreError> {
        // What it may show was made by a clock that was right, while this one is behind.
        let kept_until = self.clock.latest().plus(TOKENS_LIVE).0.max(last.unwrap_or_default());
        // A registry that was restored knows no serial number of what it may hold.
        let unlisted_until = match (last, self.ledger.instance(&id).await?) {
            (Some(_), _) => 0,
            (None, Some(instance)) => instance.not_after,
            (None, None) => kept_until,
        };
        Ok(RevokedInstance { at: now.0, kept_until, unlisted_until })
    }

    async fn plan_certificate(
        &self,
        plan: &mut Plan,
        serial: Serial,
        record: &IssuedRecord,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        if self.store.get(&serial_key(serial)).await?.is_some() {
            return Ok(());
        }
        let revoked = RevokedCertificate {
            spiffe_id: record.spiffe_id.clone(),
            not_after: record.not_after,
            at: now.0,
            issuer: record.issuer.clone(),
        };
        plan.certificates.insert(serial, revoked);
        Ok(())
    }
}
