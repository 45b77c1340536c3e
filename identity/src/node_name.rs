//! What an agent is an instance of, as its mesh calls it.

use std::fmt;

use crate::name::{Name, NameError};
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// What gateways' names begin with where nodes are named too.
const GATEWAY: &str = "gateway/";

/// A virtual node or a virtual gateway, by its name in its mesh: `web`, or `gateway/edge`, as policies write them.
///
/// A [`Name`] holds no slash, so that a node and a gateway that are called the same differ wherever this is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeName {
    /// A virtual node.
    Node(Name),
    /// A virtual gateway.
    Gateway(Name),
}

impl NodeName {
    /// Parses `web` or `gateway/edge`.
    ///
    /// # Errors
    /// Says which rule of [`Name`] the text breaks, or what follows `gateway/` in it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(GATEWAY) {
            Some(gateway) => Name::parse(gateway).map(Self::Gateway),
            None => Name::parse(text).map(Self::Node),
        }
    }

    /// Its name among those of its kind.
    pub fn name(&self) -> &Name {
        match self {
            Self::Node(name) | Self::Gateway(name) => name,
        }
    }

    /// The id that its agents prove.
    pub fn spiffe_id(&self, trust_domain: &TrustDomain, mesh: &Name) -> SpiffeId {
        match self {
            Self::Node(name) => SpiffeId::node(trust_domain, mesh, name),
            Self::Gateway(name) => SpiffeId::gateway(trust_domain, mesh, name),
        }
    }

    /// For a sentence: `virtual node web`, `virtual gateway edge`.
    pub fn in_words(&self) -> String {
        match self {
            Self::Node(name) => format!("virtual node {name}"),
            Self::Gateway(name) => format!("virtual gateway {name}"),
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "{name}"),
            Self::Gateway(name) => write!(f, "{GATEWAY}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    #[test]
    fn a_node_and_a_gateway_of_one_name_differ() {
        let (domain, mesh) = (TrustDomain::parse("shop.example").unwrap(), Name::parse("shop").unwrap());
        let (node, gateway) = (parse("edge"), parse("gateway/edge"));
        assert_eq!(node.name(), gateway.name());
        assert_ne!(node, gateway);
        for (named, id) in [
            (node, "spiffe://shop.example/mesh/shop/node/edge"),
            (gateway, "spiffe://shop.example/mesh/shop/gateway/edge"),
            (parse("gateway"), "spiffe://shop.example/mesh/shop/node/gateway"),
        ] {
            let of = named.spiffe_id(&domain, &mesh);
            assert_eq!(of.as_str(), id);
            assert_eq!(of.mesh_and_node(), Some((mesh.clone(), named)));
        }
        assert_eq!(SpiffeId::admin(&domain, &mesh).mesh_and_node(), None);
    }

    #[test]
    fn what_names_neither_is_refused() {
        for text in ["", "gateway/", "gateway/a/b", "node/web", "/web", "gateway//edge", "gateway/.."] {
            assert!(NodeName::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_back_what_it_prints(name in "[A-Za-z0-9_-]{1,20}", is_gateway: bool) {
            let name = Name::parse(&name).unwrap();
            let named = if is_gateway { NodeName::Gateway(name) } else { NodeName::Node(name) };
            prop_assert_eq!(NodeName::parse(&named.to_string()), Ok(named));
        }
    }
}
