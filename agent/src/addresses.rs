//! Where the agent listens in fact, for whoever started it with port 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

/// The file in the state directory that holds this as JSON.
pub(crate) const FILE: &str = "addresses.json";

/// All addresses that are bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Addresses {
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) health: SocketAddr,
    /// By `SERVICE` or `SERVICE:PORT`, as configured.
    pub(crate) tcp: BTreeMap<String, SocketAddr>,
    /// By the listener's number.
    pub(crate) inbound: BTreeMap<u16, SocketAddr>,
    /// Whether every listener of the view is among them.
    #[serde(skip)]
    pub(crate) is_complete: bool,
}

impl Addresses {
    /// All of them.
    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        let own = [self.outbound, self.admin, self.health].into_iter();
        own.chain(self.tcp.values().copied()).chain(self.inbound.values().copied()).collect()
    }

    /// The content of the file.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}
