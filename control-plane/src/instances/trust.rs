//! Which version of trust each instance has in force.
//!
//! It is durable, so that an authority can be replaced although an instance that has done its part is away when the control plane
//! starts. Each instance acknowledges each version once, so that it is written as rarely.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hauberk_identity::{InstanceId, Serial, SpiffeId, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Connected, Instances};
use crate::authority::epoch_of;
use crate::registry::{Commit, Pace, Store, StoreError, WriteBehind, document, keys};

/// How acknowledgements are written.
const PACE: Pace = Pace {
    every: Duration::from_millis(200),
    again_after: Duration::from_secs(5),
    event: "trust_not_written",
    meaning: "which trust is in force is not durable",
};

/// A live instance and what it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusting {
    /// Which.
    pub instance: InstanceId,
    /// What it proves to be.
    pub spiffe_id: SpiffeId,
    /// Of the certificate that it proves on its stream, or else of the last that was issued to it and is not revoked.
    pub serial: Serial,
    /// Until then it is live.
    pub not_after: UnixMillis,
    /// What it has acknowledged; 0 where it never has.
    pub version: u64,
    /// Whether its stream is up.
    pub is_connected: bool,
}

/// What an instance has acknowledged; its id is in the registry's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct TrustRecord {
    version: u64,
    /// Of the installation. A restored registry counts versions anew from where its backup stood: an acknowledgement from before
    /// names another trust by the same number.
    #[serde(default)]
    epoch: u64,
}

/// Whose acknowledgement is not written yet.
#[derive(Debug)]
pub(super) struct Unwritten(WriteBehind<InstanceId>);

impl Default for Unwritten {
    fn default() -> Self {
        Self(WriteBehind::new(PACE))
    }
}

impl Instances {
    /// All live instances, in the order of their nodes, but those that have said that they deny everything.
    pub fn trusting(&self, now: UnixMillis) -> Vec<Trusting> {
        let state = self.lock();
        let ids = state.by_node.values().flatten();
        ids.filter_map(|id| Some((*id, state.by_id.get(id)?)))
            .filter(|(_, instance)| state.is_live(instance, now) && !instance.dismissal.is_obeyed)
            .map(|(id, instance)| {
                let (certificate, _) = state.standing(instance);
                Trusting {
                    instance: id,
                    spiffe_id: instance.spiffe_id.clone(),
                    serial: instance.session.as_ref().map_or(certificate.serial, |session| session.serial),
                    not_after: certificate.not_after,
                    version: instance.trust_version,
                    is_connected: instance.session.is_some(),
                }
            })
            .collect()
    }

    /// How many live instances have said since this control plane started that they believe a key that signs views.
    pub fn believing(&self, key_id: &str, now: UnixMillis) -> usize {
        let state = self.lock();
        let believe = state.by_id.values().filter(|instance| {
            state.is_live(instance, now) && instance.view_keys.iter().any(|own| own == key_id)
        });
        believe.count()
    }
}

impl Instances {
    /// Reads what instances that are known have acknowledged in this epoch. What was heard from them since counts more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn load_trust(&self, store: &dyn Store) -> Result<(), StoreError> {
        let now = epoch_of(store).await?;
        let page = store.list(keys::TRUST_IN_FORCE, None, usize::MAX).await?;
        let mut known = BTreeMap::new();
        for (key, stored) in &page.entries {
            let TrustRecord { version, epoch } = document::from_stored(key, stored)?;
            if let Some(id) = instance_of(key).filter(|_| epoch == now) {
                known.insert(id, version);
            }
        }
        self.change(|state| {
            for (id, version) in known {
                if let Some(instance) = state.by_id.get_mut(&id).filter(|known| known.trust_version == 0) {
                    instance.trust_version = version;
                }
            }
        });
        Ok(())
    }

    /// Writes what is acknowledged in this epoch, until `stop`; what is unwritten then is written before this returns.
    pub async fn write_trust(&self, store: &dyn Store, epoch: u64, stop: &CancellationToken) {
        let record = |commit: Commit, id: &InstanceId| {
            let version = self.lock().by_id.get(id).map(|instance| instance.trust_version);
            let Some(version) = version else { return Ok(commit) };
            let key = format!("{}{id}", keys::TRUST_IN_FORCE);
            let bytes = document::to_bytes(&key, &TrustRecord { version, epoch })?;
            Ok(commit.put(key, bytes))
        };
        self.unwritten_trust.0.run(store, record, stop).await;
    }

    /// Forgets what instances that are on record no longer have acknowledged. Gives the number of records removed.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune_trust(&self, store: &dyn Store) -> Result<usize, StoreError> {
        let mut commit = Commit::new();
        for (key, _) in store.list(keys::TRUST_IN_FORCE, None, usize::MAX).await?.entries {
            let id = key.strip_prefix(keys::TRUST_IN_FORCE).unwrap_or_default();
            if store.get(&format!("{}{id}", keys::INSTANCES)).await?.is_none() {
                commit = commit.delete(key);
            }
        }
        let removed = commit.len();
        if removed > 0 {
            store.commit(commit).await?;
        }
        Ok(removed)
    }
}

impl Connected {
    /// The agent believes these keys that sign views, and no others.
    pub fn believes(&self, key_ids: &[String]) {
        self.change(|instance| instance.view_keys = key_ids.to_vec());
    }

    /// The agent has kept this version of trust and put it in force. A stream that goes back behind what it has said is not
    /// believed: an agent never does, and each change costs a write.
    pub fn trusts(&self, version: u64) {
        if self.trusted.fetch_max(version, Ordering::Relaxed) > version {
            return;
        }
        let former = self.change(|instance| std::mem::replace(&mut instance.trust_version, version));
        if former.is_some_and(|former| former != version) {
            self.instances.unwritten_trust.0.add(self.instance);
        }
    }
}

fn instance_of(key: &str) -> Option<InstanceId> {
    InstanceId::parse(key.strip_prefix(keys::TRUST_IN_FORCE)?).ok()
}
