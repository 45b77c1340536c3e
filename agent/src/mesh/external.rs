//! What may leave the mesh: external services, and what decides on calls of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hauberk_identity::Name;
use hauberk_policy::{AddressRange, CompileError, Engine, Locality, NodeScope, locality, may_be_reached};
use hauberk_proto::convert::{self, Egress, ExternalPort};

use super::NodeView;

/// Hosts outside of the mesh, as the view describes them.
#[derive(Debug)]
pub struct External {
    /// What policies call them.
    pub name: Name,
    /// Names in lower case, and IP addresses.
    pub hosts: Vec<String>,
    /// By number.
    pub ports: Vec<ExternalPort>,
    /// What decides on calls of them.
    pub engine: Engine,
    allowed: Vec<AddressRange>,
}

impl External {
    /// Makes all of them ready. What `former` had already decides on is not read anew.
    ///
    /// # Errors
    /// Their policies cannot be enforced.
    pub fn all(
        egress: Egress,
        of: &NodeScope,
        former: Option<&NodeView>,
    ) -> Result<Vec<Arc<Self>>, CompileError> {
        let Egress { externals, policies } = egress;
        let known =
            former.and_then(|former| former.externals.first()).map(|external| external.engine.clone());
        let mut made: Vec<Arc<Self>> = Vec::with_capacity(externals.len());
        for external in externals {
            let scope = external.scope(&of.trust_domain, &of.mesh);
            let former = made.last().map(|external| &external.engine).or(known.as_ref());
            let engine = Engine::compile(scope, &policies, former)?;
            let convert::External { name, hosts, ports, allowed } = external;
            made.push(Arc::new(Self { name, hosts, ports, engine, allowed }));
        }
        Ok(made)
    }

    /// Its port with this number.
    pub fn port(&self, number: u16) -> Option<ExternalPort> {
        self.ports.iter().find(|port| port.number == number).copied()
    }

    /// Whether it may be called at this address.
    pub fn may_be_at(&self, address: IpAddr) -> bool {
        may_be_reached(address, &self.allowed)
    }
}

impl NodeView {
    /// The external service that a host is of. `host` is in the spelling of [`canonical_host`].
    pub fn external_with(&self, host: &str) -> Option<&Arc<External>> {
        self.externals.iter().find(|external| external.hosts.iter().any(|own| own == host))
    }

    /// The external service of this name.
    pub fn external(&self, name: &str) -> Option<&Arc<External>> {
        self.externals.iter().find(|external| external.name == *name)
    }
}

/// A host as external services spell it: a name in lower case, an address in its one spelling and without brackets.
pub fn canonical_host(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => bare.to_ascii_lowercase(),
    }
}

/// What this agent listens on itself.
#[derive(Debug, Default)]
pub struct OwnSockets(ArcSwap<Vec<SocketAddr>>);

impl OwnSockets {
    /// Says anew what it listens on.
    pub fn set(&self, sockets: Vec<SocketAddr>) {
        self.0.store(Arc::new(sockets));
    }

    /// Whether a connection to this address would come back to this agent. One on all addresses may be met at any that
    /// is not out in the internet.
    pub fn holds(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_met = |own: IpAddr| match own.is_unspecified() {
            true => locality(ip) != Locality::Public,
            false => own.to_canonical() == ip,
        };
        // Nobody listens on the unspecified address, and systems take it for their own.
        self.0
            .load()
            .iter()
            .any(|own| own.port() == address.port() && (is_met(own.ip()) || ip.is_unspecified()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (written, canonical) in [
            ("API.Example", "api.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
            // No name of an external service ends like these, and so they are none of its hosts.
            ("0177.0.0.1", "0177.0.0.1"),
            ("2130706433", "2130706433"),
            ("0x7F.1", "0x7f.1"),
        ] {
            assert_eq!(canonical_host(written), canonical);
        }
    }

    #[test]
    fn an_agent_knows_its_own_sockets() {
        let own = OwnSockets::default();
        let holds = |text: &str| own.holds(text.parse().unwrap());
        assert!(!holds("127.0.0.1:15001"));
        own.set(vec!["127.0.0.1:15001".parse().unwrap(), "0.0.0.0:15020".parse().unwrap()]);
        for text in [
            "127.0.0.1:15001",
            "[::ffff:127.0.0.1]:15001",
            "0.0.0.0:15001",
            "127.0.0.9:15020",
            "10.0.0.1:15020",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["127.0.0.2:15001", "127.0.0.1:15002", "1.1.1.1:15020"] {
            assert!(!holds(text), "{text}");
        }
    }
}
