//! A virtual service, as it is accepted.

use hauberk_identity::Name;
use hauberk_proto::mesh::v1 as wire;
use wire::virtual_service_provider::Provider as WireProvider;

use super::choice;
use super::problem::Problems;

/// A virtual service that is well-formed. That what it names exists is checked where it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    provider: Option<Provider>,
}

/// Who serves a virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    node: Name,
    port: Option<u16>,
}

impl VirtualService {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::VirtualServiceSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::VirtualServiceSpec { provider } = spec;
        let provider =
            provider.as_ref().and_then(|wire::VirtualServiceProvider { provider }| match provider {
                Some(WireProvider::VirtualNode(node)) => Provider::parse(node, problems),
                None => {
                    problems.invalid_but(
                        "spec.provider",
                        "it names nobody",
                        "write virtualNode: {virtualNodeName: …}",
                    );
                    None
                }
            });
        (problems.count() == before).then_some(Self { provider })
    }

    /// Who serves it; `None` as long as nobody does.
    pub fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }
}

impl Provider {
    fn parse(provider: &wire::VirtualNodeProvider, problems: &mut Problems) -> Option<Self> {
        let wire::VirtualNodeProvider { virtual_node_name, port } = provider;
        let field = "spec.provider.virtualNode";
        let node = choice::name(problems, &format!("{field}.virtualNodeName"), virtual_node_name);
        let port = match port {
            Some(_) => Some(choice::port(problems, &format!("{field}.port"), *port)?),
            None => None,
        };
        Some(Self { node: node?, port })
    }

    /// The virtual node.
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// The one listener that is the service; `None`: all of the node's.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether this listener of the node is the service.
    pub fn takes(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}
