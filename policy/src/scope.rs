//! What one node enforces: its ports, the services that reach it there, and their routes; and of what leaves the mesh,
//! the ports of external services.

use std::collections::BTreeMap;

use hauberk_identity::{Name, SpiffeId, TrustDomain};

use crate::path::EscapedSlashes;
use crate::route::RouteTemplate;

/// All that is known beforehand of the resources that one virtual node, or virtual gateway, protects; or of one
/// external service that nodes may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeScope {
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The mesh whose policies govern the node.
    pub mesh: Name,
    /// Whose the ports are.
    pub place: Place,
    /// The listeners, or what is called.
    pub ports: Vec<PortScope>,
}

/// Whose ports a scope's are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This virtual node's, or virtual gateway's.
    Node(SpiffeId),
    /// Those of an external service of the mesh: decided where they are called from, by agents of the mesh's own nodes
    /// alone.
    External(Name),
}

impl NodeScope {
    /// The node whose listeners these are; none of an external service.
    pub fn node(&self) -> Option<&SpiffeId> {
        match &self.place {
            Place::Node(node) => Some(node),
            Place::External(_) => None,
        }
    }

    /// An external service with these ports. What no policy permits is denied, also where the mesh says AUDIT.
    pub fn external(
        trust_domain: &TrustDomain,
        mesh: &Name,
        external: &Name,
        ports: impl IntoIterator<Item = (u16, Protocol)>,
    ) -> Self {
        let port = |(number, protocol)| PortScope {
            number,
            protocol,
            services: Vec::new(),
            routes: Vec::new(),
            undeclared: Undeclared::Decide,
            authorization: Authorization::Enforce,
            users: None,
            escaped_slashes: EscapedSlashes::Reject,
            obs_text: ObsText::Reject,
        };
        let (trust_domain, mesh) = (trust_domain.clone(), mesh.clone());
        let ports = ports.into_iter().map(port).collect();
        Self { trust_domain, mesh, place: Place::External(external.clone()), ports }
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortScope {
    /// The listener's port.
    pub number: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The virtual services whose provider or routes target this port.
    pub services: Vec<Name>,
    /// The declared routes.
    pub routes: Vec<DeclaredRoute>,
    /// What happens to requests that match none of them.
    pub undeclared: Undeclared,
    /// Whether default denials are enforced.
    pub authorization: Authorization,
    /// How tokens of users are taken here; none where nobody looks at them.
    pub users: Option<UserTokens>,
    /// What becomes of paths with escaped slashes.
    pub escaped_slashes: EscapedSlashes,
    /// What becomes of header fields with bytes beyond ASCII.
    pub obs_text: ObsText,
}

/// What becomes of a request in which the value of a header field or trailer holds bytes beyond ASCII (`obs-text` of
/// RFC 9110 §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ObsText {
    /// It is refused: servers read such bytes as Latin-1, as UTF-8, or not at all.
    #[default]
    Reject,
    /// They are passed on as they are. A policy that reads such a field denies.
    Forward,
}

/// How a listener takes the tokens of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTokens {
    /// Whether a request must be made for a user, on routes that say nothing else.
    pub required: bool,
    /// Whose users there are here, in order; those of all issuers where there is none.
    pub issuers: Vec<Name>,
    /// Whether the app gets the token too.
    pub kept: bool,
}

impl UserTokens {
    /// Whether there are users of this issuer here.
    pub fn takes(&self, issuer: &Name) -> bool {
        self.issuers.is_empty() || self.issuers.contains(issuer)
    }
}

/// One declared route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredRoute {
    /// Which requests belong to it.
    pub template: RouteTemplate,
    /// The data classes that it is in, those around them among them, in order.
    pub classes: Vec<Name>,
    /// Whether a request must be made for a user; where none is said, its port says.
    pub requires_user: Option<bool>,
    /// Of a gRPC method, whether `call` of it is in `read` or in `write`.
    pub access: MethodAccess,
}

impl From<RouteTemplate> for DeclaredRoute {
    /// A route of no data class.
    fn from(template: RouteTemplate) -> Self {
        Self { template, classes: Vec::new(), requires_user: None, access: MethodAccess::Write }
    }
}

/// What a gRPC method does with data. Nothing on the wire tells it, so whoever declares the method does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MethodAccess {
    /// It may change some.
    #[default]
    Write,
    /// It changes none.
    Read,
}

/// What a listener speaks; it settles which actions exist there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, HTTP/2 accepted: each request is its method.
    Http,
    /// HTTP/2: each request is its method.
    Http2,
    /// gRPC: each request is `call`.
    Grpc,
    /// Opaque bytes: each stream is `connect`.
    Tcp,
}

impl Protocol {
    /// The protocol's name in resources, policies and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// What happens to a request that matches no declared route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Undeclared {
    /// Policies decide, on the port's route `*undeclared`.
    #[default]
    Decide,
    /// It is denied, whatever policies say.
    Deny,
}

/// Whether a request that no policy permits is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Authorization {
    /// It is denied.
    #[default]
    Enforce,
    /// It is let through and recorded. Explicit forbids and errors still deny, and members of other trust domains are
    /// let through by permits alone.
    Audit,
}

/// The members of a role: nodes, gateways and workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleMembers {
    /// The role, of the mesh whose policies mention it.
    pub role: Name,
    /// Its members, of any mesh or trust domain.
    pub members: Vec<SpiffeId>,
}

/// Which nodes of the policies' own mesh have a label, and what theirs says. Nobody else's counts: who labels the nodes
/// of another mesh has no say here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLabel {
    /// The label's name.
    pub name: String,
    /// Its value, by the node or gateway that has it.
    pub values: BTreeMap<SpiffeId, String>,
}
