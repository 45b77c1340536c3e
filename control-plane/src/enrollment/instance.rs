//! What is recorded of an instance that gets a certificate.

use hauberk_identity::{InstanceId, Name, NodeName};

use crate::issuance::{EvidenceRecord, InstanceRecord, IssuedRecord};
use crate::registry::{Commit, StoreError, document, keys};

/// The longest text that an agent may say about itself, in characters.
const LONGEST_INFO: usize = 255;

/// What an agent says about itself; shown to admins, trusted for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// Its host.
    pub hostname: String,
}

/// How an instance came, as far as that is known.
pub(super) struct Joined {
    /// Unix ms; `None`: now.
    pub(super) at: Option<u64>,
    /// The id of the token.
    pub(super) token: Option<String>,
    /// The evidence.
    pub(super) evidence: Option<EvidenceRecord>,
    /// From where.
    pub(super) from: Option<String>,
}

pub(super) fn instance_record(
    (mesh, node): (&Name, &NodeName),
    node_uid: String,
    serial: &str,
    certificate: &IssuedRecord,
    info: &AgentInfo,
    joined: Joined,
) -> InstanceRecord {
    InstanceRecord {
        spiffe_id: certificate.spiffe_id.clone(),
        mesh: mesh.to_string(),
        node: node.to_string(),
        node_uid: Some(node_uid),
        serial: serial.to_owned(),
        issued_at: certificate.issued_at,
        not_after: certificate.not_after,
        enrolled_at: joined.at.unwrap_or(certificate.issued_at),
        version: info.version.clone(),
        hostname: info.hostname.clone(),
        token: joined.token,
        evidence: joined.evidence,
        joined_from: joined.from,
        dismissed_at: None,
    }
}

pub(super) fn put_instance(
    commit: Commit,
    id: &InstanceId,
    record: &InstanceRecord,
) -> Result<Commit, StoreError> {
    let key = format!("{}{id}", keys::INSTANCES);
    let bytes = document::to_bytes(&key, record)?;
    Ok(commit.put(key, bytes))
}

/// What an agent says of itself, without what would confuse a terminal.
pub(super) fn presentable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_INFO).collect()
}
