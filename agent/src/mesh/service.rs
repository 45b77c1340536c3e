//! A virtual service as its callers see it.

use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::Protocol;
use hauberk_proto::convert::{Discovery, ServiceView};

use super::{EndpointSet, Endpoints};

/// One virtual service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The control plane's epoch.
    pub epoch: u64,
    /// The revision at which this last changed.
    pub revision: u64,
    /// The SHA-256 of the view that told.
    pub digest: [u8; 32],
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

impl Service {
    /// Makes a service of what its view tells.
    pub fn new(
        epoch: u64,
        revision: u64,
        digest: [u8; 32],
        view: ServiceView,
        endpoints: &Endpoints,
    ) -> Self {
        let ServiceView { name, ports } = view;
        let ports = ports.into_iter().map(|port| ServicePort {
            number: port.number,
            protocol: port.protocol,
            targets: port
                .targets
                .into_iter()
                .map(|target| Target {
                    endpoints: endpoints.of(&target.spiffe_id, port.number, &target.discovery),
                    spiffe_id: target.spiffe_id,
                    discovery: target.discovery,
                })
                .collect(),
        });
        Self { name, epoch, revision, digest, ports: ports.collect() }
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}
