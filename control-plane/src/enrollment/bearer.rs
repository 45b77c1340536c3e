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

/// What an enrollment makes of a token.
struct Made {
    stored: Stored,
    subject: String,
    selectors: BTreeSet<EvidenceSelector>,
    makes: Makes,
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
        let name = &of.name;
        let made = self.made_of(hash.short(), &record.mesh, of).await?;
        let Made { stored: Stored { key, version, .. }, subject, selectors, makes } = made;
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

    /// The virtual node or gateway that whoever joins by a token becomes now, as far as labels tell; `None` where nobody does.
    /// `id`: the token's.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn node_by(
        &self,
        id: &str,
        record: &TokenRecord,
    ) -> Result<Option<NodeName>, EnrollmentError> {
        let Some(of) = &record.enrollment else { return Ok(NodeName::parse(&record.node).ok()) };
        match self.made_of(id, &record.mesh, of).await {
            Ok(made) => Ok(Some(made.makes.node)),
            Err(EnrollmentError::NotAttested(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What its enrollment makes of a token's labels now.
    async fn made_of(&self, id: &str, mesh: &str, of: &EnrollmentOfToken) -> Result<Made, EnrollmentError> {
        let EnrollmentOfToken { name, uid, labels: _ } = of;
        let stored = self.enrollment_of_agents(mesh, name).await?;
        if stored.uid != *uid {
            let (mesh, name) = (mesh.to_owned(), name.clone());
            return Err(NotAttested::MadeAnew { mesh, name }.into());
        }
        let source = stored.enrollment.source();
        if *source != EvidenceSource::JoinToken {
            let other = EvidenceError::OtherKind { wanted: source.attestor(), shown: Attestor::JoinToken };
            return Err(NotAttested::from(other).into());
        }
        let what = "a label of it is none";
        let damaged = |_| StoreError::Damaged { key: format!("token {id}"), what };
        let selectors = of.selectors().collect::<Result<BTreeSet<_>, _>>().map_err(damaged)?;
        let subject = format!("join token {id}");
        match stored.enrollment.makes(&selectors) {
            Ok(makes) => {
                let makes = makes.clone();
                Ok(Made { stored, subject, selectors, makes })
            }
            Err(why) => Err(NotAttested::NoRule { subject, why }.into()),
        }
    }
}

#[cfg(test)]
mod tests;
