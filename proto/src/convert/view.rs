//! A view that means something.

use std::net::SocketAddr;
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, TrustDomain};
use hauberk_policy::{AddressRange, ClaimsMapping, NodeScope, PolicySlice, Protocol};

/// What the agents of one node, or the callers of one service, get at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Unix ms at `init`; higher after a restore.
    pub epoch: u64,
    /// The configuration revision at which the content last changed.
    pub revision: u64,
    /// What an agent must understand to enforce it. See [`features`](super::features).
    pub features: Vec<String>,
    /// The trust domain of everyone in it.
    pub trust_domain: TrustDomain,
    /// The mesh.
    pub mesh: Name,
    /// The content.
    pub body: Body,
}

/// The content of a view.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "each is made once a view, and moved little")]
pub enum Body {
    /// About the node itself.
    Node(NodeView),
    /// About a service, for its callers.
    Service(ServiceView),
}

/// What a node enforces and whom it is going to call.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its listeners; also says whose view this is.
    pub scope: NodeScope,
    /// What of the mesh's policies can concern it.
    pub policies: PolicySlice,
    /// Services to have ready before their first use, in order.
    pub backends: Vec<Name>,
    /// Older views deny everything.
    pub max_view_age: Option<Duration>,
    /// The bundles of other trust domains, in their order.
    pub federated: Vec<FederatedBundle>,
    /// Who says who users are, in order.
    pub issuers: Vec<JwtIssuer>,
    /// What may leave the mesh from here.
    pub egress: Box<Egress>,
}

/// External services, and what decides on calls of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// In the order of their names.
    pub externals: Vec<External>,
    /// What of the mesh's policies can concern calls of them.
    pub policies: PolicySlice,
}

/// Hosts outside of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// What policies call them.
    pub name: Name,
    /// Names in DNS and IP addresses, in order.
    pub hosts: Vec<String>,
    /// By number.
    pub ports: Vec<ExternalPort>,
    /// Addresses that are reached although they are not public.
    pub allowed: Vec<AddressRange>,
}

/// One port of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalPort {
    /// Its number.
    pub number: u16,
    /// What is spoken there.
    pub protocol: ExternalProtocol,
}

/// What is spoken outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExternalProtocol {
    /// Plain HTTP/1.1, request by request.
    Http,
    /// What apps encrypt themselves.
    Tls,
    /// Anything.
    Tcp,
}

impl ExternalProtocol {
    /// As resources write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// As what policies see it.
    pub fn decided_as(self) -> Protocol {
        match self {
            Self::Http => Protocol::Http,
            Self::Tls | Self::Tcp => Protocol::Tcp,
        }
    }
}

impl External {
    /// What decides on calls of it, in a mesh.
    pub fn scope(&self, trust_domain: &TrustDomain, mesh: &Name) -> NodeScope {
        let ports = self.ports.iter().map(|port| (port.number, port.protocol.decided_as()));
        NodeScope::external(trust_domain, mesh, &self.name, ports)
    }
}

/// An issuer of users' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtIssuer {
    /// What policies call it.
    pub name: Name,
    /// What it calls itself.
    pub issuer: String,
    /// Of which a token names one.
    pub audiences: Vec<String>,
    /// Its keys, a JSON Web Key Set. What it says is the reader's to check.
    pub jwks: Vec<u8>,
    /// Which claims say what.
    pub claims: ClaimsMapping,
    /// The header field that holds a token alone, in lower case; `None`: `Authorization: Bearer`.
    pub token_header: Option<String>,
    /// The audiences are held against `client_id` instead of `aud`.
    pub audience_is_client: bool,
    /// It is the control plane itself, and its tokens are JWT-SVIDs.
    pub is_ours: bool,
}

/// The keys of another trust domain, as they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// In SPIFFE's bundle format. What it says is the reader's to check.
    pub document: Vec<u8>,
}

/// What callers of a service need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// The virtual service.
    pub name: Name,
    /// Its ports, by number. None where nobody provides it.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The listeners' port.
    pub number: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Who serves it.
    pub targets: Vec<Target>,
}

/// A node that serves a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The identity that its agents must prove.
    pub spiffe_id: SpiffeId,
    /// How its instances are found.
    pub discovery: Discovery,
}

/// How instances are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// They register themselves, and endpoints come in messages of their own.
    Registered,
    /// By a DNS name; the port is the listener's.
    Dns(Dns),
    /// They are these.
    Fixed(Vec<SocketAddr>),
}

/// A DNS name to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name.
    pub hostname: String,
    /// All addresses of the answer are instances, not any one.
    pub all_addresses: bool,
    /// Which addresses of the answer are used.
    pub ip_preference: IpPreference,
}

/// Which addresses of a DNS answer are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IpPreference {
    /// IPv4 where there is any, else IPv6.
    #[default]
    Ipv4Preferred,
    /// IPv4 alone.
    Ipv4Only,
    /// IPv6 where there is any, else IPv4.
    Ipv6Preferred,
    /// IPv6 alone.
    Ipv6Only,
}
