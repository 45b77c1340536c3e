//! Where the control plane can be reached: what was bound, for programs on this host.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::AppError;
use crate::config::Settings;
use crate::private_file;

/// The addresses that were bound, as `addresses.json` in the data directory tells them to programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Where agents connect.
    pub agent: SocketAddr,
    /// Where admins connect.
    pub admin: SocketAddr,
    /// Where probes and scrapers connect.
    pub health: SocketAddr,
    /// Where the keys that verify JWT-SVIDs are served, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<SocketAddr>,
    /// Where our trust bundle is served, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<SocketAddr>,
}

/// An address that a client on this host can use.
pub fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}

/// Tells them to programs.
pub(super) fn write(settings: &Settings, addresses: &Addresses) -> Result<(), AppError> {
    let path = settings.addresses_file();
    serde_json::to_vec_pretty(addresses)
        .map_err(std::io::Error::other)
        .and_then(|text| private_file::replace(&path, &text))
        .map_err(|source| AppError::Write { path, source })
}
