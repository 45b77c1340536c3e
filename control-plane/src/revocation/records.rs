//! What is remembered of those who are refused.

use hauberk_identity::{InstanceId, Name, NodeName, Serial, SpiffeId, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize};

use super::denylist::Denial;
use super::revocations::TOKENS_LIVE;
use crate::registry::{Commit, Store, StoreError, document, keys};

/// A revoked certificate; its serial number is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RevokedCertificate {
    /// Whom it names.
    pub(super) spiffe_id: String,
    /// Its end, Unix ms.
    pub(super) not_after: u64,
    /// When it was revoked, Unix ms.
    pub(super) at: u64,
    /// The serial number of the authority that signed it; `None` in records of releases that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<String>,
}

/// A revoked instance; its id is in the key. It gets no certificate, whatever token it may show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RevokedInstance {
    /// Unix ms.
    pub(super) at: u64,
    /// Until then it could ask for a certificate by what it has, Unix ms.
    pub(super) kept_until: u64,
    /// The end of the last certificate of it, Unix ms, that stands on the list by the instance alone; 0 where there is none.
    #[serde(default)]
    pub(super) unlisted_until: u64,
}

/// A node or gateway in quarantine; mesh and name are in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quarantine {
    /// Unix ms.
    pub(super) at: u64,
}

/// The revision at which the denylist last changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Number {
    pub(super) revision: u64,
}

pub(super) fn serial_key(serial: Serial) -> String {
    format!("{}{serial}", keys::REVOKED_SERIALS)
}

pub(super) fn instance_key(instance: &InstanceId) -> String {
    format!("{}{instance}", keys::REVOKED_INSTANCES)
}

/// Names hold no slash: that of a gateway, `gateway/edge`, is no node's.
pub(super) fn quarantine_key(mesh: &Name, node: &NodeName) -> String {
    format!("{}{mesh}/{node}", keys::QUARANTINES)
}

/// The node or gateway behind a [`quarantine_key`].
pub(super) fn quarantined(key: &str, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let (mesh, node) = key.strip_prefix(keys::QUARANTINES)?.split_once('/')?;
    Some(NodeName::parse(node).ok()?.spiffe_id(trust_domain, &mesh.parse().ok()?))
}

/// Lets a commit that issues a certificate happen only while the instance, and the certificate that it renews, are not
/// revoked. Gives the denial where they are already.
///
/// # Errors
/// When the store cannot be read.
pub async fn check_instance(
    store: &dyn Store,
    commit: Commit,
    instance: &InstanceId,
    renewed: Option<Serial>,
) -> Result<Result<Commit, Denial>, StoreError> {
    let checked = check_absent(store, commit, instance_key(instance), Denial::Revoked).await?;
    match (checked, renewed) {
        (Ok(commit), Some(renewed)) => check_certificate(store, commit, renewed).await,
        (checked, _) => Ok(checked),
    }
}

/// When an instance was revoked, or the certificate of it that it holds, if either was; where both were, the later
/// time. Lets a commit happen only while that stays so.
///
/// # Errors
/// When the store cannot be read.
pub async fn last_revoked(
    store: &dyn Store,
    commit: Commit,
    instance: &InstanceId,
    certificate: Option<Serial>,
) -> Result<(Commit, Option<UnixMillis>), StoreError> {
    let key = instance_key(instance);
    let stored = store.get(&key).await?;
    let record = stored.as_ref().map(|stored| document::from_stored::<RevokedInstance>(&key, stored));
    let of_instance = record.transpose()?.map(|revoked| revoked.at);
    let commit = commit.unchanged(key, stored.as_ref());
    let Some(serial) = certificate else { return Ok((commit, of_instance.map(UnixMillis))) };
    let key = serial_key(serial);
    let stored = store.get(&key).await?;
    let record = stored.as_ref().map(|stored| document::from_stored::<RevokedCertificate>(&key, stored));
    let of_certificate = record.transpose()?.map(|revoked| revoked.at);
    let commit = commit.unchanged(key, stored.as_ref());
    Ok((commit, of_instance.max(of_certificate).map(UnixMillis)))
}

/// The same as [`check_instance`] for a certificate alone.
///
/// # Errors
/// When the store cannot be read.
pub async fn check_certificate(
    store: &dyn Store,
    commit: Commit,
    serial: Serial,
) -> Result<Result<Commit, Denial>, StoreError> {
    check_absent(store, commit, serial_key(serial), Denial::Revoked).await
}

/// The same for the quarantine of a node.
///
/// # Errors
/// When the store cannot be read.
pub async fn check_node(
    store: &dyn Store,
    commit: Commit,
    mesh: &Name,
    node: &NodeName,
) -> Result<Result<Commit, Denial>, StoreError> {
    check_absent(store, commit, quarantine_key(mesh, node), Denial::Quarantined).await
}

async fn check_absent(
    store: &dyn Store,
    commit: Commit,
    key: String,
    denial: Denial,
) -> Result<Result<Commit, Denial>, StoreError> {
    Ok(match store.get(&key).await? {
        Some(_) => Err(denial),
        None => Ok(commit.absent(key)),
    })
}

impl RevokedCertificate {
    /// Kept for an hour longer than it could be of use, so that a CRL which is made after its end names it once more
    /// (RFC 5280 §3.3); and for as long as a token may be good that was made before.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        is_over(self.not_after.max(UnixMillis(self.at).plus(TOKENS_LIVE).0), now)
    }
}

impl RevokedInstance {
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        is_over(self.kept_until, now)
    }
}

fn is_over(end: u64, now: UnixMillis) -> bool {
    UnixMillis(end).plus(std::time::Duration::from_secs(3_600)) < now
}

/// Reads a record.
pub(super) async fn read<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<T>, StoreError> {
    store.get(key).await?.map(|stored| document::from_stored(key, &stored)).transpose()
}
