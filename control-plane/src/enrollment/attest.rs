//! The first certificate for evidence of where an agent runs.
//!
//! The agent names an enrollment; what it becomes follows from the evidence and that enrollment's rules. The same key gets
//! the same instance again, as with join tokens. Another key of the same machine gets another instance: the agent may have
//! lost its state.

mod machines;
mod stored;

use hauberk_identity::{InstanceId, Name, NodeName, UnixMillis};
use hauberk_tls::device::ChannelBinding;
use hauberk_tls::{CertificateRequest, PublicKey, RequestedKey};

use machines::AttestedRecord;
pub(super) use machines::{KEYS_AT_ONCE, KEYS_IN_A_LIFE, machine_prefix};
pub(super) use stored::{Readings, Stored};

use super::arrivals;
use super::error::{ATTEMPTS, EnrollmentError};
use super::first::Admitted;
use super::former::Former;
use super::instance::{AgentInfo, Joined, presentable};
use super::join::{Enrolled, Enrollment};
use crate::attestation::{self, Attested, Evidence, EvidenceError, Occasion};
use crate::audit::Actor;
use crate::issuance::EvidenceRecord;
use crate::random;
use crate::registry::{Commit, Guard, StoreError, document};
use crate::resources::{EvidenceSource, Makes, NoRule};

/// What an agent shows, and how.
pub struct Shown<'a> {
    /// The mesh of the enrollment that it names.
    pub mesh: &'a str,
    /// The name of that.
    pub enrollment: &'a str,
    /// The evidence.
    pub evidence: Evidence,
    /// The connection.
    pub channel: &'a ChannelBinding,
    /// Who joins anew, if it does.
    pub former: Option<&'a Former>,
}

/// Why an agent gets nothing for its evidence. Administrators are told; the agent is told only that it does not.
#[derive(Debug, thiserror::Error)]
pub enum NotAttested {
    /// There is no such enrollment, or it is not for agents, or this release cannot read it.
    #[error("mesh {mesh:?} has no enrollment {name:?} of agents by evidence")]
    NoSuchEnrollment {
        /// The mesh.
        mesh: String,
        /// The name.
        name: String,
    },
    /// The evidence is not believed.
    #[error("the evidence is not believed: {0}")]
    Evidence(#[from] EvidenceError),
    /// It is, and stands for nothing.
    #[error("evidence of {subject} is good, but {why}")]
    NoRule {
        /// Whose.
        subject: String,
        /// Why not.
        why: NoRule,
    },
    /// The machine had an instance that was revoked.
    #[error(
        "instance {instance} of {subject} was revoked: its machine is let in by this enrollment no longer"
    )]
    Revoked {
        /// Whose.
        subject: String,
        /// Which.
        instance: String,
    },
    /// Evidence that counts for one key, which was another.
    #[error(
        "evidence of {subject} counts for the first key that shows it, which came from {source_address} at {at}, and not for \
         another: if the agent has lost its key, let it join by a token"
    )]
    Taken {
        /// Whose.
        subject: String,
        /// From where the first came.
        source_address: String,
        /// When.
        at: UnixMillis,
    },
    /// A token of an enrollment that was deleted, and another was made under its name.
    #[error(
        "enrollment {name} of mesh {mesh} was deleted and made anew since the token was made: make a new one"
    )]
    MadeAnew {
        /// The mesh.
        mesh: String,
        /// The enrollment.
        name: String,
    },
    /// At renewal: the enrollment that let it in lets it in no longer.
    #[error("enrollment {enrollment} would not let it in any longer: {why}")]
    NoLonger {
        /// The enrollment.
        enrollment: String,
        /// Why not.
        why: String,
        /// How much of that, in bytes, was written by an admin.
        of_rule: usize,
    },
}

/// That an enrollment would still let an instance in.
pub(super) struct Permit {
    /// Makes a commit rest on it.
    pub(super) guard: Guard,
    /// Which of the enrollments of that name it is.
    pub(super) enrollment_uid: String,
    /// What it makes of the instance now.
    pub(super) makes: Makes,
}

impl Enrollment {
    /// Exchanges evidence for a first certificate.
    ///
    /// # Errors
    /// Says precisely why not; refusals are recorded.
    pub async fn attest_evidence(
        &self,
        shown: Shown<'_>,
        csr: &[u8],
        info: AgentInfo,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let result = self.try_attest_evidence(&shown, csr, info, source).await;
        self.count(result.as_ref().err());
        if let Err(error) = &result {
            let actor = Actor::unauthenticated(source);
            // They may be anything; what cannot be a name is not repeated.
            let object = match (Name::parse(shown.mesh), Name::parse(shown.enrollment)) {
                (Ok(mesh), Ok(name)) => format!("enrollment {mesh}/{name}"),
                _ => "an enrollment".to_owned(),
            };
            self.tell_refused(error, actor, "enrollment.attest", object, error).await;
        }
        result
    }

    async fn try_attest_evidence(
        &self,
        shown: &Shown<'_>,
        csr: &[u8],
        info: AgentInfo,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let info = AgentInfo { version: presentable(&info.version), hostname: presentable(&info.hostname) };
        let (mut agent_key, mut verified) = (None, None);
        let mut attempt = 1;
        loop {
            let stored = self.enrollment_of_agents(shown.mesh, shown.enrollment).await?;
            let believed = stored.enrollment.source();
            // Signatures are checked only for those who name an enrollment, and once.
            let agent_key = match &agent_key {
                Some(agent_key) => agent_key,
                None => agent_key.insert(CertificateRequest::read(csr)?),
            };
            let attested = match &verified {
                Some((by, attested)) if by == believed => attested,
                _ => {
                    let attested = self.verify(shown, believed, agent_key.key(), source).await?;
                    &verified.insert((believed.clone(), attested)).1
                }
            };
            match self.let_in(shown, &stored, attested, agent_key, &info, source).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn verify(
        &self,
        shown: &Shown<'_>,
        believed: &EvidenceSource,
        agent_key: &PublicKey,
        source: &str,
    ) -> Result<Attested, EnrollmentError> {
        let (now, network) = (self.clock.now(), arrivals::network(source));
        let occasion = Occasion {
            channel: shown.channel,
            agent_key,
            mesh: shown.mesh,
            enrollment: shown.enrollment,
            network: &network,
            now,
        };
        let verified = attestation::verify(&shown.evidence, believed, &self.reviewers, occasion).await;
        Ok(verified.map_err(NotAttested::from)?)
    }

    /// One attempt: fails with a conflict where the enrollment, or what the key became before, changed in between.
    async fn let_in(
        &self,
        shown: &Shown<'_>,
        enrollment: &Stored,
        attested: &Attested,
        agent_key: &RequestedKey,
        info: &AgentInfo,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let subject = || attested.subject.clone();
        let makes = enrollment.enrollment.makes(&attested.selectors);
        let makes = makes.map_err(|why| NotAttested::NoRule { subject: subject(), why })?;
        let (node, mesh) = (&makes.node, Name::parse(shown.mesh)?);
        let mesh = &mesh;
        let existing = self.same_node(mesh, node, None).await?;
        let entitlement = existing.guard(Commit::new()).at(enrollment.key.clone(), enrollment.version);
        let entitlement = self.check_denied(entitlement, (mesh, node), None).await?;
        let id = node.spiffe_id(&self.trust_domain, mesh);
        let entitlement = self.check_former(entitlement, shown.former, &id, None).await?;
        let machine = machine_prefix(&enrollment.uid, &attested.subject);
        let entitlement = self.check_machine(entitlement, &machine, &attested.subject).await?;
        let entitlement =
            self.check_once(entitlement, shown, enrollment, attested, agent_key.key(), source).await?;

        let key = format!("{machine}{}", agent_key.fingerprint());
        let stored = self.store.get(&key).await?;
        let before = stored.as_ref().map(|stored| document::from_stored::<AttestedRecord>(&key, stored));
        let before = before
            .transpose()?
            .filter(|before| before.node == node.to_string() && before.node_uid == existing.uid);
        let entitlement = entitlement.unchanged(key.clone(), stored.as_ref());
        let (instance, entitlement, taken) = match &before {
            Some(before) => {
                let damaged = |_| StoreError::Damaged { key: key.clone(), what: "it is no instance" };
                let instance = InstanceId::parse(&before.instance).map_err(damaged)?;
                (instance, entitlement, self.take_renewal(instance, makes)?)
            }
            None => {
                self.check_room(&id, &existing.uid, (mesh, node))?;
                let instance = random::instance_id()?;
                let record = AttestedRecord {
                    mesh: mesh.to_string(),
                    enrollment: shown.enrollment.to_owned(),
                    node: node.to_string(),
                    node_uid: existing.uid.clone(),
                    instance: instance.to_string(),
                    at: self.clock.now().0,
                    source: source.to_owned(),
                    revoked: false,
                };
                let entitlement = entitlement.put(key.clone(), document::to_bytes(&key, &record)?);
                (instance, entitlement, self.take_new_key(&machine)?)
            }
        };
        let from = Some(before.as_ref().map_or_else(|| source.to_owned(), |before| before.source.clone()));
        let evidence = Some(self.recorded_evidence(shown, attested, source));
        let joined = Joined { at: before.map(|before| before.at), token: None, evidence, from };
        let name = format!("{}:{}", attested.attestor, attested.subject);
        let actor = Actor { name, source: source.to_owned() };
        let (node, public_key) = (existing, agent_key);
        let admitted = Admitted { mesh, makes, node, instance, public_key, info, joined, actor, taken };
        self.issue_first(admitted, entitlement).await
    }

    /// What stays on record of evidence that lets somebody in.
    fn recorded_evidence(&self, shown: &Shown<'_>, attested: &Attested, source: &str) -> EvidenceRecord {
        EvidenceRecord {
            attestor: attested.attestor.to_string(),
            subject: attested.subject.clone(),
            enrollment: shown.enrollment.to_owned(),
            selectors: attested.selectors.iter().map(ToString::to_string).collect(),
            voucher: attested.voucher.clone(),
            at: self.clock.now().0,
            source: source.to_owned(),
        }
    }

    pub(super) async fn enrollment_of_agents(
        &self,
        mesh: &str,
        name: &str,
    ) -> Result<Stored, EnrollmentError> {
        let stored = self.readings.get(&*self.store, mesh, name).await?;
        let missing = || NotAttested::NoSuchEnrollment { mesh: mesh.to_owned(), name: name.to_owned() };
        Ok(stored.ok_or_else(missing)?)
    }

    /// Whether an instance of `node` that came by evidence would still be let in, by its enrollment as it is now; the
    /// condition that makes a commit rest on that.
    pub(super) async fn still_permitted(
        &self,
        mesh: &Name,
        node: &NodeName,
        evidence: &EvidenceRecord,
    ) -> Result<Permit, EnrollmentError> {
        let EvidenceRecord { attestor, enrollment: name, selectors, voucher, .. } = evidence;
        let Stored { key, version, uid: enrollment_uid, enrollment } =
            self.enrollment_of_agents(mesh.as_str(), name).await?;
        let no_longer =
            |why: String, of_rule| NotAttested::NoLonger { enrollment: name.clone(), why, of_rule };
        if !attestation::still_believed(enrollment.source(), attestor, voucher) {
            let why = format!("it does not believe {attestor} evidence by {voucher} any longer");
            return Err(no_longer(why, 0).into());
        }
        // One that no release reads any longer is not there.
        let found = selectors.iter().filter_map(|text| hauberk_identity::EvidenceSelector::parse(text).ok());
        match enrollment.makes(&found.collect()) {
            Ok(makes) if makes.node == *node => {
                Ok(Permit { guard: Guard::At(key, version), enrollment_uid, makes: makes.clone() })
            }
            Ok(Makes { node: now, .. }) => {
                Err(no_longer(format!("its evidence now makes it {}", now.in_words()), 0).into())
            }
            Err(why) => Err(no_longer(why.to_string(), why.of_rule()).into()),
        }
    }
}

#[cfg(test)]
mod tests;
