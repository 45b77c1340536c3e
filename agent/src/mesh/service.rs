//! A virtual service as its callers see it.

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::Protocol;

use super::EndpointSet;

/// One virtual service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The control plane's epoch.
    pub epoch: u64,
    /// The revision at which this last changed.
    pub revision: u64,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a virtual service.
#[derive(Debug)]
pub struct ServicePort {
    /// The number that callers ask for; also the listener's at the targets.
    pub number: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Who serves it.
    pub targets: Vec<Target>,
}

/// A node that serves a port of a service.
#[derive(Debug)]
pub struct Target {
    /// The identity that its agents must prove, exactly.
    pub spiffe_id: SpiffeId,
    /// How its instances are found.
    pub discovery: Discovery,
    /// Where they are; kept up to date behind this handle.
    pub endpoints: Arc<EndpointSet>,
}

/// How the instances of a target are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// They register with the control plane, which tells us.
    Registered,
    /// By name.
    Dns {
        /// The name to resolve.
        hostname: String,
        /// Use every address of the answer rather than the first.
        all_addresses: bool,
        /// Which addresses of the answer are used.
        family: AddressFamily,
    },
    /// They are listed in the configuration.
    Fixed(Vec<SocketAddr>),
}

/// Which addresses of a DNS answer are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// IPv4 ones; IPv6 where there is no other.
    Ipv4Preferred,
    /// IPv4 ones.
    Ipv4Only,
    /// IPv6 ones; IPv4 where there is no other.
    Ipv6Preferred,
    /// IPv6 ones.
    Ipv6Only,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}
