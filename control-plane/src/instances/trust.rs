//! Which version of trust each instance has in force.

use hauberk_identity::{InstanceId, Serial, SpiffeId, UnixMillis};

use super::{Connected, Instances};

/// A live instance and what it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusting {
    /// Which.
    pub instance: InstanceId,
    /// What it proves to be.
    pub spiffe_id: SpiffeId,
    /// Of the certificate that it proves on its stream, or else of the last that was issued to it.
    pub serial: Serial,
    /// Until then it is live.
    pub not_after: UnixMillis,
    /// What it has acknowledged; 0 where nothing was heard since this control plane started.
    pub version: u64,
    /// Whether its stream is up.
    pub is_connected: bool,
}

impl Instances {
    /// All live instances, in the order of their nodes, but those that have said that they deny everything.
    pub fn trusting(&self, now: UnixMillis) -> Vec<Trusting> {
        let state = self.lock();
        let ids = state.by_node.values().flatten();
        ids.filter_map(|id| Some((*id, state.by_id.get(id)?)))
            .filter(|(_, instance)| state.is_live(instance, now) && !instance.dismissal.is_obeyed)
            .map(|(id, instance)| Trusting {
                instance: id,
                spiffe_id: instance.spiffe_id.clone(),
                serial: instance
                    .session
                    .as_ref()
                    .map_or(instance.certificate.serial, |session| session.serial),
                not_after: instance.certificate.not_after,
                version: instance.trust_version,
                is_connected: instance.session.is_some(),
            })
            .collect()
    }
}

impl Connected {
    /// The agent has kept this version of trust and put it in force.
    pub fn trusts(&self, version: u64) {
        self.change(|instance| instance.trust_version = version);
    }
}
