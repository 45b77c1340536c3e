//! What a join token makes of its bearers: the virtual node or gateway that it was made for, or what an enrollment says of its labels.

use std::collections::BTreeSet;

use hauberk_identity::{Attestor, EvidenceSelector, Name, NodeName};

use super::attest::{NotAttested, Stored};
use super::error::EnrollmentError;
use super::join::Enrollment;
use super::node::StoredNode;
use super::token::{EnrollmentOfToken, TokenRecord, TokenUse};
use crate::attestation::EvidenceError;
use crate::issuance::EvidenceRecord;
use crate::registry::{Commit, StoreError};
use crate::resources::{EvidenceSource, Makes};
use crate::secret::SecretHash;

/// What somebody becomes who holds a token.
pub(super) struct Bearer {
    pub(super) makes: Makes,
    pub(super) node: StoredNode,
    /// Holds only while all of this stays so.
    pub(super) entitlement: Commit,
    /// What was true of the token, where an enrollment says what it makes.
    pub(super) evidence: Option<EvidenceRecord>,
}

impl Enrollment {
    /// What a token makes now of somebody who calls from `source`, and who used it `before`, perhaps.
    ///
    /// # Errors
    /// The node or the enrollment is gone or another, or the enrollment makes nothing of the token.
    pub(super) async fn bearer(
        &self,
        hash: &SecretHash,
        mesh: &Name,
        record: &TokenRecord,
        before: Option<&TokenUse>,
        source: &str,
    ) -> Result<Bearer, EnrollmentError> {
        let Some(of) = &record.enrollment else {
            let makes = Makes { node: NodeName::parse(&record.node)?, ttl: None, dns_names: BTreeSet::new() };
            let node = self.same_node(mesh, &makes.node, record.node_uid.as_deref()).await?;
            let entitlement = node.guard(Commit::new());
            return Ok(Bearer { makes, node, entitlement, evidence: None });
        };
        let EnrollmentOfToken { name, uid, labels: _ } = of;
        let Stored { key, version, uid: now, enrollment } =
            self.enrollment_of_agents(&record.mesh, name).await?;
        if now != *uid {
            let (mesh, name) = (record.mesh.clone(), name.clone());
            return Err(NotAttested::MadeAnew { mesh, name }.into());
        }
        if *enrollment.source() != EvidenceSource::JoinToken {
            let wanted = enrollment.source().attestor();
            let other = EvidenceError::OtherKind { wanted, shown: Attestor::JoinToken };
            return Err(NotAttested::from(other).into());
        }
        let what = "a label of it is none";
        let damaged = |_| StoreError::Damaged { key: format!("token {}", hash.short()), what };
        let selectors = of.selectors().collect::<Result<BTreeSet<_>, _>>().map_err(damaged)?;
        let subject = format!("join token {}", hash.short());
        let makes = match enrollment.makes(&selectors) {
            Ok(makes) => makes.clone(),
            Err(why) => return Err(NotAttested::NoRule { subject, why }.into()),
        };
        let node = self.same_node(mesh, &makes.node, None).await?;
        // The instance is of a node, and stays what it is.
        if before.and_then(|used| used.node_uid.as_ref()).is_some_and(|former| *former != node.uid) {
            let why = format!(
                "{subject} made another node or gateway of this agent than {}",
                makes.node.in_words()
            );
            return Err(NotAttested::NoLonger { enrollment: name.clone(), why, of_rule: 0 }.into());
        }
        let evidence = EvidenceRecord {
            attestor: Attestor::JoinToken.to_string(),
            voucher: subject.clone(),
            subject,
            enrollment: name.clone(),
            selectors: selectors.iter().map(EvidenceSelector::to_string).collect(),
            at: self.clock.now().0,
            source: source.to_owned(),
        };
        let entitlement = node.guard(Commit::new()).at(key, version);
        Ok(Bearer { makes, node, entitlement, evidence: Some(evidence) })
    }
}

#[cfg(test)]
mod tests;
