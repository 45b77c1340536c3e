//! The first certificate of an instance, by whatever it is let in: the same step for tokens and evidence.

use std::sync::PoisonError;
use std::time::Duration;

use hauberk_identity::{InstanceId, Name};
use hauberk_tls::RequestedKey;

use super::error::EnrollmentError;
use super::instance::{AgentInfo, Joined, instance_record, put_instance};
use super::join::{Enrolled, Enrollment};
use super::node::StoredNode;
use super::renewals::Used;
use crate::audit::Actor;
use crate::issuance::{Holder, Order};
use crate::registry::Commit;
use crate::resources::Makes;
use crate::secret::SecretHash;

/// Somebody who is let in.
pub(super) struct Admitted<'a> {
    pub(super) mesh: &'a Name,
    pub(super) makes: &'a Makes,
    /// The node that it is made one of.
    pub(super) node: StoredNode,
    pub(super) instance: InstanceId,
    pub(super) public_key: &'a RequestedKey,
    pub(super) info: &'a AgentInfo,
    pub(super) joined: Joined,
    pub(super) actor: Actor,
    pub(super) taken: Taken<'a>,
}

/// What an attempt has taken of what somebody may have.
pub(super) enum Taken<'a> {
    /// A renewal: its instance is there.
    Renewal { instance: InstanceId, life: Duration, used: Used },
    /// One of the new instances of a token for any number.
    Arrival { token: &'a SecretHash, source: &'a str },
    /// One of the new keys of a machine.
    NewKey { machine: &'a str },
    /// As many as an admin has chosen may come at once.
    Nothing,
}

impl Enrollment {
    /// Issues the certificate, where `entitlement` comes about. What was taken for it is given back where it does not; a caller who goes
    /// away before the answer gets nothing back, for the certificate may be there all the same.
    ///
    /// # Errors
    /// Something of it has changed, or it cannot be signed or written.
    pub(super) async fn issue_first(
        &self,
        admitted: Admitted<'_>,
        entitlement: Commit,
    ) -> Result<Enrolled, EnrollmentError> {
        let Admitted { mesh, makes, node, instance, public_key, info, joined, actor, taken } = admitted;
        let order = Order {
            id: makes.node.spiffe_id(&self.trust_domain, mesh),
            holder: Holder::Instance(instance.to_string()),
            public_key: public_key.clone(),
            ttl: makes.ttl.unwrap_or(self.svid_ttl),
            dns_names: makes.dns_names.iter().cloned().collect(),
            ip_addresses: Vec::new(),
            actor,
            action: "enrollment.attest",
        };
        let of_node = (mesh, &makes.node);
        let issued = self
            .issuer
            .issue(order, |serial, certificate| {
                let record = instance_record(of_node, node.uid, serial, certificate, info, joined);
                put_instance(entitlement, &instance, &record)
            })
            .await;
        if issued.is_err() {
            self.give_back(taken);
        }
        Ok(Enrolled { issued: issued?, instance })
    }

    /// Counts the certificate of an instance that is there.
    pub(super) fn take_renewal(
        &self,
        instance: InstanceId,
        makes: &Makes,
    ) -> Result<Taken<'static>, EnrollmentError> {
        let life = makes.ttl.unwrap_or(self.svid_ttl);
        let used = self.renewals.take(instance, life, self.issuer.signer(), self.clock.now())?;
        Ok(Taken::Renewal { instance, life, used })
    }

    fn give_back(&self, taken: Taken<'_>) {
        match taken {
            Taken::Renewal { instance, life, used } => self.renewals.give_back(instance, life, used),
            Taken::Arrival { token, source } => self.arrivals().give_back(token, source),
            Taken::NewKey { machine } => {
                self.machines.lock().unwrap_or_else(PoisonError::into_inner).give_back(machine);
            }
            Taken::Nothing => {}
        }
    }
}
