//! Renewals for a certificate.

use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, Serial};
use hauberk_tls::{CertificateRequest, PeerIdentity, RequestedKey};

use super::attest::{Permit, machine_prefix};
use super::error::{EnrollmentError, without_conflict};
use super::instance::{AgentInfo, Joined, instance_record, put_instance};
use super::join::{Enrolled, Enrollment};
use super::node::StoredNode;
use crate::audit::Actor;
use crate::issuance::{Holder, InstanceRecord, Order};
use crate::registry::Commit;
use crate::revocation;

/// What an agent is entitled to its name by.
pub(crate) struct Entitled {
    /// Which instance it is.
    pub(crate) instance: InstanceId,
    /// Of its node.
    pub(super) mesh: Name,
    /// Its node or gateway.
    pub(super) name: NodeName,
    node: StoredNode,
    former: InstanceRecord,
    /// The enrollment that it still rests on, where it came by evidence.
    permit: Option<Permit>,
}

impl Entitled {
    /// The life of its certificates; `None`: as agents' are.
    fn ttl(&self) -> Option<Duration> {
        self.permit.as_ref().and_then(|permit| permit.makes.ttl)
    }

    /// DNS names in its certificates.
    fn dns_names(&self) -> Vec<String> {
        self.permit.iter().flat_map(|permit| permit.makes.dns_names.iter().cloned()).collect()
    }
}

impl Enrollment {
    /// Whether an agent that has proved its certificate is still entitled to the name in it: the certificate has not
    /// expired meanwhile, the instance is on record, the node is there and the one that it joined, and the enrollment that let
    /// it in, if one did, still would.
    ///
    /// # Errors
    /// When it is not, or nothing can be read.
    pub(crate) async fn entitled(&self, peer: &PeerIdentity) -> Result<Entitled, EnrollmentError> {
        if peer.not_after() < self.clock.now() {
            return Err(EnrollmentError::CertificateExpired);
        }
        let Some((mesh, name)) = peer.id().mesh_and_node() else {
            return Err(EnrollmentError::NotANode(peer.id().clone()));
        };
        let Some(instance) = self.ledger.instance_of(peer, self.clock.now()).await? else {
            // Whoever is refused is told that, and not to come back as another.
            let claimed = peer.serial().instance();
            let refused = claimed.as_ref().map(|instance| (instance, Some(peer.serial())));
            self.check_denied(Commit::new(), (&mesh, &name), refused).await?;
            return Err(EnrollmentError::NotOnRecord);
        };
        let former = self.recorded((&mesh, &name), &instance, peer).await?;
        let node = self.same_node(&mesh, &name, former.node_uid.as_deref()).await?;
        let permit = match &former.evidence {
            Some(evidence) => Some(self.still_permitted(&mesh, &name, evidence).await?),
            None => None,
        };
        Ok(Entitled { instance, mesh, name, node, former, permit })
    }

    /// A commit that comes about only while an agent is entitled, to its own name and to those of workloads: while nothing of
    /// that changes, neither the instance nor its present certificate is revoked, the node is not in quarantine, and no other
    /// instance of its machine is revoked, where it came by evidence.
    ///
    /// # Errors
    /// When it is refused already, or nothing can be read.
    pub(crate) async fn entitlement(
        &self,
        entitled: &Entitled,
        peer: &PeerIdentity,
    ) -> Result<Commit, EnrollmentError> {
        let Entitled { instance, mesh, name, node, former, permit } = entitled;
        let of_instance = Some((instance, Some(peer.serial())));
        let commit = self.check_denied(node.guard(Commit::new()), (mesh, name), of_instance).await?;
        let (Some(evidence), Some(permit)) = (&former.evidence, permit) else { return Ok(commit) };
        let machine = machine_prefix(&permit.enrollment_uid, &evidence.subject);
        self.check_machine(commit.guard(permit.guard.clone()), &machine, &evidence.subject).await
    }

    /// What an instance joined, and by what. It is on record for as long as any of its certificates is good: of one that is not
    /// there is no saying what it may have. One that is revoked, or of a node in quarantine, is told that instead: it is not to
    /// come back as another.
    async fn recorded(
        &self,
        node: (&Name, &NodeName),
        instance: &InstanceId,
        peer: &PeerIdentity,
    ) -> Result<InstanceRecord, EnrollmentError> {
        let record = self.ledger.instance(instance).await?;
        match record.filter(|record| record.spiffe_id == peer.id().as_str()) {
            Some(record) => Ok(record),
            None => {
                self.check_denied(Commit::new(), node, Some((instance, Some(peer.serial())))).await?;
                Err(EnrollmentError::NotOnRecord)
            }
        }
    }

    /// Renews the certificate of an agent that has proved its present one. Name and instance come from that.
    ///
    /// # Errors
    /// When the node is gone, the certificate expired meanwhile, or the request is not acceptable.
    pub async fn renew(
        &self,
        peer: &PeerIdentity,
        csr: &[u8],
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let result = self.try_renew(peer, csr, source).await;
        if let Err(error) = &result {
            let actor = Actor { name: peer.id().to_string(), source: source.to_owned() };
            let object = peer.id().to_string();
            // Several instances have this name.
            let why = format!("serial {}: {error}", peer.serial());
            self.tell_refused(error, actor, "certificate.renew", object, why).await;
        }
        result
    }

    async fn try_renew(
        &self,
        peer: &PeerIdentity,
        csr: &[u8],
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let entitled = self.entitled(peer).await?;
        let instance = entitled.instance;
        let life = entitled.ttl().unwrap_or(self.svid_ttl);
        let used = self.renewals.take(instance, life, self.issuer.signer(), self.clock.now())?;
        let public_key = CertificateRequest::read(csr)?;
        let mut entitled = Some(entitled);
        let renewed = without_conflict(|| self.renew_once(peer, &public_key, source, entitled.take())).await;
        if renewed.is_err() {
            self.renewals.give_back(instance, life, used);
        }
        renewed
    }

    /// One attempt: fails with a conflict where the node, the enrollment, or what is refused, changed in between. What entitles
    /// is read where it is not `known`.
    async fn renew_once(
        &self,
        peer: &PeerIdentity,
        public_key: &RequestedKey,
        source: &str,
        known: Option<Entitled>,
    ) -> Result<Enrolled, EnrollmentError> {
        let entitled = match known {
            Some(entitled) => entitled,
            None => self.entitled(peer).await?,
        };
        let mut entitlement = self.entitlement(&entitled, peer).await?;
        // As the enrollment says now, whatever the certificate that is renewed says.
        let (ttl, dns_names) = (entitled.ttl().unwrap_or(self.svid_ttl), entitled.dns_names());
        let Entitled { instance, mesh, name, node, former, permit } = entitled;
        let InstanceRecord { version, hostname, enrolled_at, token, evidence, joined_from, .. } = former;
        let info = AgentInfo { version, hostname };
        if let (Some(evidence), Some(permit)) = (&evidence, &permit) {
            let (of, to) = (peer.key_fingerprint(), public_key.fingerprint());
            entitlement = self.pass_on(entitlement, (mesh.as_str(), permit, evidence), of, to).await?;
        }
        let joined = Joined { at: Some(enrolled_at), token, evidence, from: joined_from };
        let order = Order {
            id: peer.id().clone(),
            holder: Holder::Instance(instance.to_string()),
            public_key: public_key.clone(),
            ttl,
            dns_names,
            ip_addresses: Vec::new(),
            actor: Actor { name: peer.id().to_string(), source: source.to_owned() },
            action: "certificate.renew",
        };
        let issued = self
            .issuer
            .issue(order, |serial, certificate| {
                let record = instance_record((&mesh, &name), node.uid, serial, certificate, &info, joined);
                put_instance(entitlement, &instance, &record)
            })
            .await?;
        Ok(Enrolled { issued, instance })
    }

    /// Lets a certificate be issued only while neither the instance nor the certificate that it renews is revoked, and the
    /// node is not in quarantine.
    pub(super) async fn check_denied(
        &self,
        commit: Commit,
        (mesh, node): (&Name, &NodeName),
        instance: Option<(&InstanceId, Option<Serial>)>,
    ) -> Result<Commit, EnrollmentError> {
        let mut checked = revocation::check_node(&*self.store, commit, mesh, node).await?;
        if let (Ok(commit), Some((instance, renewed))) = (&checked, instance) {
            let commit = commit.clone();
            checked = revocation::check_instance(&*self.store, commit, instance, renewed).await?;
        }
        checked.map_err(EnrollmentError::Denied)
    }
}
