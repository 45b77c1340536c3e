//! What is recorded of an instance with each of its certificates.

use hauberk_identity::InstanceId;

use super::join::AgentInfo;
use crate::issuance::{InstanceRecord, IssuedRecord};
use crate::registry::{Commit, StoreError, document, keys};

/// How an instance came, as far as that is known.
pub(super) struct Joined {
    /// Unix ms; `None`: now.
    pub(super) at: Option<u64>,
    /// The id of the token.
    pub(super) token: Option<String>,
    /// From where.
    pub(super) from: Option<String>,
}

pub(super) fn instance_record(
    (mesh, node, node_uid): (&str, &str, String),
    serial: &str,
    certificate: &IssuedRecord,
    info: &AgentInfo,
    joined: Joined,
) -> InstanceRecord {
    InstanceRecord {
        spiffe_id: certificate.spiffe_id.clone(),
        mesh: mesh.to_owned(),
        node: node.to_owned(),
        node_uid: Some(node_uid),
        serial: serial.to_owned(),
        issued_at: certificate.issued_at,
        not_after: certificate.not_after,
        enrolled_at: joined.at.unwrap_or(certificate.issued_at),
        version: info.version.clone(),
        hostname: info.hostname.clone(),
        token: joined.token,
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
