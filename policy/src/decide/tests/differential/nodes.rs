//! The nodes that are asked, from which both sides make their own: each gets its slice of one mesh's policies. Some
//! have ports of the same number, some of the same service; one is a gateway, and one of another mesh has the name of
//! one of this. And a host outside, of which each node that calls it gets a slice of its own.

use super::oracle::READ;
use crate::named::{NamedPort, PortRead};
use crate::path::EscapedSlashes;
use crate::scope::{
    Authorization, DeclaredRoute, MethodAccess, NodeScope, Place, PortScope, Protocol, Undeclared, UserTokens,
};
use crate::testing::{domain, name};
use hauberk_identity::SpiffeId;

/// A node or gateway, or an external service.
pub(super) struct Serving {
    /// What the ids of its ports begin with.
    pub(super) id: &'static str,
    /// As decisions tell it.
    pub(super) label: &'static str,
    pub(super) mesh: &'static str,
    pub(super) ports: &'static [Listening],
}

/// One of its ports.
pub(super) struct Listening {
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    /// The services that it belongs to.
    pub(super) services: &'static [&'static str],
    /// Its routes, and the data classes that they are in.
    pub(super) routes: &'static [(&'static str, &'static [&'static str])],
    pub(super) sort: Sort,
}

/// What is peculiar to a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Plain,
    /// Escaped slashes are kept.
    Slashes,
    /// Each request must be made for a user, `/open` aside.
    Users,
    /// What is not declared is denied.
    Declared,
    /// The method [`READ`] reads.
    Reads,
}

use Protocol::{Grpc, Http, Http2, Tcp};

/// The first is the plainest.
pub(super) static NODES: [Serving; 5] = [
    Serving {
        id: "spiffe://shop.example/mesh/shop/node/orders",
        label: "orders",
        mesh: "shop",
        ports: &[
            Listening {
                services: &["orders"],
                routes: &[
                    ("/orders/{id}", &["pii"]),
                    ("POST /orders/{id}", &["cards", "pii"]),
                    ("/orders/{id}/items/{item}", &[]),
                    ("/orders/*", &[]),
                    ("/files/{rest...}", &["cards", "pii"]),
                    ("/health", &[]),
                ],
                sort: Sort::Slashes,
                ..plain(8080, Http)
            },
            Listening {
                services: &["orders-admin"],
                routes: &[("/open", &[])],
                sort: Sort::Users,
                ..plain(9000, Http2)
            },
            Listening {
                services: &["orders"],
                routes: &[(READ, &["pii"])],
                sort: Sort::Reads,
                ..plain(50051, Grpc)
            },
            Listening { services: &["cache"], ..plain(6379, Tcp) },
            Listening { routes: &[("/health", &[])], sort: Sort::Declared, ..plain(8081, Http) },
        ],
    },
    // Of the same service, and yet another one.
    Serving {
        id: "spiffe://shop.example/mesh/shop/node/cart",
        label: "cart",
        mesh: "shop",
        ports: &[
            Listening {
                services: &["orders", "cart"],
                routes: &[("/orders/{id}", &["cards"]), ("/files/{rest...}", &["pii"])],
                ..plain(8080, Http)
            },
            Listening { routes: &[("/open", &[])], ..plain(9000, Http2) },
            Listening { services: &["orders"], routes: &[(READ, &["cards"])], ..plain(50051, Grpc) },
            plain(6379, Tcp),
            Listening { services: &["orders-admin"], ..plain(8081, Http2) },
        ],
    },
    Serving {
        id: "spiffe://shop.example/mesh/shop/gateway/edge",
        label: "gateway/edge",
        mesh: "shop",
        ports: &[
            Listening {
                routes: &[("/orders/{id}", &["pii"]), ("POST /orders/{id}", &[])],
                sort: Sort::Slashes,
                ..plain(8080, Http)
            },
            Listening { sort: Sort::Users, ..plain(9000, Http2) },
            Listening { services: &["cache"], ..plain(6379, Tcp) },
        ],
    },
    // No policy here is about it, though they name what is called the same.
    Serving {
        id: "spiffe://shop.example/mesh/bank/node/orders",
        label: "orders",
        mesh: "bank",
        ports: &[
            Listening { services: &["orders"], routes: &[("/orders/{id}", &["pii"])], ..plain(8080, Http) },
            Listening { services: &["orders"], ..plain(50051, Grpc) },
            Listening { services: &["cache"], ..plain(6379, Tcp) },
        ],
    },
    Serving {
        id: "shop/external/stripe",
        label: "external/stripe",
        mesh: "shop",
        ports: &[plain(8080, Http), plain(6379, Tcp)],
    },
];

/// The ports that are read, as those nodes have them.
pub(super) fn named<'a>(reads: impl Iterator<Item = &'a PortRead>) -> Vec<NamedPort> {
    NamedPort::found(reads, |node, number| {
        let node = NODES.iter().find(|own| own.id == node.as_str())?;
        Some(node.port(number)?.scope(false))
    })
}

const fn plain(number: u16, protocol: Protocol) -> Listening {
    Listening { number, protocol, services: &[], routes: &[], sort: Sort::Plain }
}

impl Serving {
    /// The port of this number, if there is one.
    pub(super) fn port(&self, number: u16) -> Option<&'static Listening> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The name of the external service that it is, if it is one.
    pub(super) fn external(&self) -> Option<&'static str> {
        self.label.strip_prefix("external/")
    }

    /// All that is known of it beforehand, in a mesh that says AUDIT or not.
    pub(super) fn scope(&self, is_open: bool) -> NodeScope {
        if let Some(external) = self.external() {
            let ports = self.ports.iter().map(|port| (port.number, port.protocol));
            return NodeScope::external(&domain(), &name(self.mesh), &name(external), ports);
        }
        NodeScope {
            trust_domain: domain(),
            mesh: name(self.mesh),
            place: Place::Node(SpiffeId::parse(self.id).unwrap()),
            ports: self.ports.iter().map(|port| port.scope(is_open)).collect(),
        }
    }
}

impl Listening {
    fn scope(&self, is_open: bool) -> PortScope {
        let sort = |sort| self.sort == sort;
        let declared = |(template, classes): &(&str, &[&str])| DeclaredRoute {
            template: crate::route::RouteTemplate::parse(template).unwrap(),
            classes: classes.iter().map(|class| name(class)).collect(),
            requires_user: (*template == "/open").then_some(false),
            access: if sort(Sort::Reads) && *template == READ {
                MethodAccess::Read
            } else {
                MethodAccess::Write
            },
        };
        let users = UserTokens { required: true, issuers: Vec::new(), kept: false };
        PortScope {
            number: self.number,
            protocol: self.protocol,
            services: self.services.iter().map(|service| name(service)).collect(),
            routes: self.routes.iter().map(declared).collect(),
            undeclared: if sort(Sort::Declared) { Undeclared::Deny } else { Undeclared::Decide },
            authorization: if is_open { Authorization::Audit } else { Authorization::Enforce },
            users: sort(Sort::Users).then_some(users),
            escaped_slashes: if sort(Sort::Slashes) { EscapedSlashes::Keep } else { EscapedSlashes::Reject },
            obs_text: crate::scope::ObsText::Reject,
        }
    }
}
