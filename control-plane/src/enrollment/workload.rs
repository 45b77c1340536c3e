//! Certificates and tokens for programs beside an agent, by enrollments whose parent is the agent's node.

use hauberk_identity::{InstanceId, Name};
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use hauberk_tls::{CertificateRequest, PeerIdentity, RequestedKey};
use prost::Message;

use super::error::{EnrollmentError, without_conflict};
use super::join::Enrollment;
use crate::audit::Actor;
use crate::issuance::{Holder, Issued, Order};
use crate::registry::{Commit, StoreError, Version, keys};
use crate::resources::{Problems, WorkloadEnrollment};

/// As audit records name it.
pub(crate) const ACTION: &str = "workload.issue";

/// What an agent may vouch for, and what that rests on.
pub(crate) struct EntitledWorkload {
    /// What it becomes, and how.
    pub(crate) workload: WorkloadEnrollment,
    /// The enrollment's name.
    pub(crate) name: Name,
    /// Holds only while nothing of it has changed, and nobody is refused.
    entitlement: Commit,
}

/// What a refusal is about, as audit records name it: not the name that was asked for where that can be none.
pub(crate) fn object(enrollment: &str, instance: InstanceId) -> String {
    match Name::parse(enrollment) {
        Ok(name) => format!("enrollment {name}, instance {instance}"),
        Err(_) => format!("instance {instance}"),
    }
}

impl Enrollment {
    /// Issues a certificate for a workload. `enrollment` is a name in the mesh of the agent's node; whom the certificate
    /// names comes from that enrollment, and only where the agent's node is its parent.
    ///
    /// # Errors
    /// When the enrollment is not there or another node's, or the request is not acceptable; refusals are recorded.
    pub async fn sign_workload(
        &self,
        peer: &PeerIdentity,
        instance: InstanceId,
        enrollment: &str,
        csr: &[u8],
        source: &str,
    ) -> Result<Issued, EnrollmentError> {
        let actor = Actor { name: peer.id().to_string(), source: source.to_owned() };
        let result = self.try_sign_workload(peer, instance, enrollment, csr, &actor).await;
        if let Err(error) = &result {
            self.tell_refused(error, actor, ACTION, object(enrollment, instance), error).await;
        }
        result
    }

    async fn try_sign_workload(
        &self,
        peer: &PeerIdentity,
        instance: InstanceId,
        enrollment: &str,
        csr: &[u8],
        actor: &Actor,
    ) -> Result<Issued, EnrollmentError> {
        let EntitledWorkload { workload, name, .. } = self.entitled_workload(peer, enrollment).await?;
        let (of, life) = ((instance, &name), workload.ttl().unwrap_or(self.svid_ttl));
        let used = self.renewals.take_for_workload(of, life, self.issuer.signer(), self.clock.now())?;
        let public_key = CertificateRequest::read(csr)?;
        let signed =
            without_conflict(|| self.sign_workload_once(peer, instance, enrollment, &public_key, actor))
                .await;
        if signed.is_err() {
            self.renewals.give_back_for_workload(of, life, used);
        }
        signed
    }

    /// One attempt: fails with a conflict where the node, the enrollment, or what is refused, changed in between.
    async fn sign_workload_once(
        &self,
        peer: &PeerIdentity,
        instance: InstanceId,
        enrollment: &str,
        public_key: &RequestedKey,
        actor: &Actor,
    ) -> Result<Issued, EnrollmentError> {
        let EntitledWorkload { workload, name, entitlement } =
            self.entitled_workload(peer, enrollment).await?;
        let order = Order {
            id: workload.id().clone(),
            holder: Holder::Workload {
                instance: instance.to_string(),
                enrollment: name.to_string(),
                node: peer.id().to_string(),
            },
            public_key: public_key.clone(),
            ttl: workload.ttl().unwrap_or(self.svid_ttl),
            dns_names: workload.dns_names().to_vec(),
            ip_addresses: Vec::new(),
            actor: actor.clone(),
            action: ACTION,
        };
        Ok(self.issuer.issue(order, |_, _| Ok(entitlement)).await?)
    }

    /// The workload that an agent may vouch for by this enrollment, now: whoever would not be renewed itself vouches for nobody.
    ///
    /// # Errors
    /// When the enrollment is not there or another node's, or the agent is let in no longer, or not on record.
    pub(crate) async fn entitled_workload(
        &self,
        peer: &PeerIdentity,
        enrollment: &str,
    ) -> Result<EntitledWorkload, EnrollmentError> {
        let agent = self.entitled(peer).await?;
        let missing = || EnrollmentError::NoSuchEnrollment { mesh: agent.mesh.to_string() };
        let name = Name::parse(enrollment).map_err(|_| missing())?;
        let key = keys::resource("Enrollment", agent.mesh.as_str(), name.as_str());
        let (version, workload) = self.enrolled_workload(&key).await?.ok_or_else(missing)?;
        if *workload.parent() != agent.name {
            let (parent, node) = (workload.parent().clone(), agent.name);
            return Err(EnrollmentError::OtherParent { enrollment: name.to_string(), parent, node });
        }
        // The very enrollment that was read: one that changes meanwhile names somebody else, perhaps.
        let entitlement = self.entitlement(&agent, peer).await?.at(key, version);
        Ok(EntitledWorkload { workload, name, entitlement })
    }

    /// What the registry holds under an enrollment's key, with its version; `None` where that is nothing acceptable.
    async fn enrolled_workload(
        &self,
        key: &str,
    ) -> Result<Option<(Version, WorkloadEnrollment)>, EnrollmentError> {
        let Some(stored) = self.store.get(key).await? else { return Ok(None) };
        let damaged = |_| StoreError::Damaged { key: key.to_owned(), what: "it is no resource" };
        let resource = Resource::decode(stored.value).map_err(damaged)?;
        let Some(Spec::Enrollment(spec)) = &resource.spec else { return Ok(None) };
        let parsed = WorkloadEnrollment::parse(spec, &self.trust_domain, &mut Problems::default());
        Ok(parsed.map(|workload| (stored.version, workload)))
    }
}
