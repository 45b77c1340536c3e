//! From the short names of policy text to the full ids that decisions are made on, and back.

use std::fmt::Display;

use cedar_policy::EntityUid;
use hauberk_identity::{IdentityKind, Name, NodeName, SpiffeId, TrustDomain};

use crate::route::{RouteTemplate, UNDECLARED};
use crate::vocabulary::Kind;

/// The one id of [`Kind::Anonymous`].
pub(crate) const ANONYMOUS: &str = "anonymous";

/// What a policy mentions by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Referent {
    /// A trust domain.
    TrustDomain(TrustDomain),
    /// A mesh, perhaps another one.
    Mesh(Name),
    /// A role of the policy's mesh.
    Role(Name),
    /// A data class of the policy's mesh.
    DataClass(Name),
    /// A virtual node or gateway, perhaps of another mesh.
    Node {
        /// Its mesh.
        mesh: Name,
        /// Its name.
        node: NodeName,
    },
    /// A program without an agent, or an identity of another trust domain.
    Workload(SpiffeId),
    /// Whoever proved no identity.
    Anonymous,
    /// A virtual service of the policy's mesh.
    Service(Name),
    /// An external service of the policy's mesh.
    External(Name),
    /// A port of a node or gateway of the policy's mesh.
    Port {
        /// The node or gateway.
        node: SpiffeId,
        /// The port's number.
        number: u16,
    },
    /// A user of an issuer of the policy's mesh.
    User {
        /// The issuer.
        issuer: Name,
        /// What it calls the user.
        user: String,
    },
    /// A claim of users' tokens, of whatever issuer.
    Claim(String),
    /// A label of nodes of the policy's mesh.
    Label(String),
    /// A text that is held against a part of the request.
    Text {
        /// Which.
        asked: Compared,
        /// The text.
        text: String,
    },
    /// A group of an issuer of the policy's mesh.
    UserGroup {
        /// The issuer.
        issuer: Name,
        /// What it calls the group.
        group: String,
    },
    /// A route of a port of the policy's mesh.
    Route {
        /// The node or gateway.
        node: SpiffeId,
        /// The port's number.
        port: u16,
        /// The route's template.
        template: String,
    },
}

/// A part of the request that only some texts can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compared {
    /// `context.path`.
    Path,
    /// `context.host`.
    Host,
    /// `context.method`.
    Method,
    /// `context.service`, of a gRPC method.
    Service,
    /// `context.rpc`, of a gRPC method.
    Rpc,
    /// `resource.template`.
    Template,
    /// A tag of `context.params`.
    Parameter,
}

/// Whose names a policy's short names are.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) mesh: Name,
}

/// Why a name in a policy stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName {
    /// What is wrong with it.
    pub message: String,
    /// What to write instead; empty where nothing can be told.
    pub help: String,
}

/// The virtual node, or virtual gateway, that policies of `mesh` write as `Node::"name"`.
///
/// # Errors
/// It stands for none.
pub fn node_named(trust_domain: &TrustDomain, mesh: &Name, name: &str) -> Result<SpiffeId, BadName> {
    Namespace::of(trust_domain, mesh).node(name).map(|(id, _)| id)
}

/// The workload, or member of another trust domain, that policies of `mesh` write as `Workload::"name"`.
///
/// # Errors
/// It stands for none.
pub fn workload_named(trust_domain: &TrustDomain, mesh: &Name, name: &str) -> Result<SpiffeId, BadName> {
    Namespace::of(trust_domain, mesh).workload(name)
}

impl Namespace {
    pub(crate) fn of(trust_domain: &TrustDomain, mesh: &Name) -> Self {
        Self { trust_domain: trust_domain.clone(), mesh: mesh.clone() }
    }

    /// The full id of what a policy of this mesh calls `kind::"id"`.
    pub(crate) fn qualify(&self, kind: Kind, id: &str) -> Result<(EntityUid, Referent), BadName> {
        match kind {
            Kind::TrustDomain => {
                let domain =
                    TrustDomain::parse(id).map_err(|error| bad(error, "such as \"shop.example\""))?;
                Ok((kind.uid(id), Referent::TrustDomain(domain)))
            }
            Kind::Mesh => Ok((kind.uid(id), Referent::Mesh(name(id)?))),
            Kind::Role => self.of_mesh(id).map(|role| (kind.uid(self.role_id(&role)), Referent::Role(role))),
            Kind::DataClass => self
                .of_mesh(id)
                .map(|class| (kind.uid(self.data_class_id(&class)), Referent::DataClass(class))),
            Kind::Service => self
                .of_mesh(id)
                .map(|service| (kind.uid(self.service_id(&service)), Referent::Service(service))),
            Kind::External => self
                .of_mesh(id)
                .map(|external| (kind.uid(self.external_id(&external)), Referent::External(external))),
            Kind::Node => {
                let (id, referent) = self.node(id)?;
                Ok((kind.uid(&id), referent))
            }
            Kind::Workload => {
                let id = self.workload(id)?;
                Ok((kind.uid(&id), Referent::Workload(id)))
            }
            Kind::Anonymous if id == ANONYMOUS => Ok((kind.uid(id), Referent::Anonymous)),
            Kind::Anonymous => Err(bad("anonymous callers have no names", "write `principal is Anonymous`")),
            Kind::Port => {
                let (node, number) = self.port(id)?;
                Ok((kind.uid(port_id(&node, number)), Referent::Port { node, number }))
            }
            Kind::User => {
                let (issuer, user) = of_issuer(id, "such as User::\"login/alice\"")?;
                Ok((kind.uid(id), Referent::User { issuer, user }))
            }
            Kind::UserGroup => {
                let (issuer, group) = of_issuer(id, "such as UserGroup::\"login/support\"")?;
                Ok((kind.uid(id), Referent::UserGroup { issuer, group }))
            }
            Kind::Route => {
                let help = "such as \"orders:8080 /orders/{id}\"";
                let (port, template) = id
                    .split_once(' ')
                    .ok_or_else(|| bad("a route is named by its port and template", help))?;
                if template != UNDECLARED {
                    RouteTemplate::parse(template).map_err(|error| bad(error, help))?;
                }
                let (node, port) = self.port(port)?;
                let template = template.to_owned();
                Ok((kind.uid(route_id(&node, port, &template)), Referent::Route { node, port, template }))
            }
        }
    }

    /// What a policy of this mesh would write for `uid`.
    pub(crate) fn shorten(&self, uid: &EntityUid) -> String {
        let id = uid.id().unescaped().to_owned();
        let own_nodes = format!("spiffe://{}/mesh/{}/node/", self.trust_domain, self.mesh);
        let own_mesh = format!("spiffe://{}/mesh/{}/", self.trust_domain, self.mesh);
        let own_domain = format!("spiffe://{}/workload/", self.trust_domain);
        let of_mesh = format!("{}/", self.mesh);
        let prefixes: &[&str] = match Kind::of(uid) {
            Some(Kind::Node) => &[&own_nodes, &own_mesh],
            Some(Kind::Port | Kind::Route) => &[&own_nodes, &own_mesh, &of_mesh],
            Some(Kind::Workload) => &[&own_domain],
            Some(Kind::Service | Kind::External | Kind::Role | Kind::DataClass) => &[&of_mesh],
            _ => &[],
        };
        prefixes.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(&id).to_owned()
    }

    pub(crate) fn service_id(&self, service: &Name) -> String {
        format!("{}/{service}", self.mesh)
    }

    pub(crate) fn external_id(&self, external: &Name) -> String {
        format!("{}/{external}", self.mesh)
    }

    pub(crate) fn role_id(&self, role: &Name) -> String {
        format!("{}/{role}", self.mesh)
    }

    pub(crate) fn data_class_id(&self, class: &Name) -> String {
        format!("{}/{class}", self.mesh)
    }

    /// `orders`, or `<own mesh>/orders`.
    fn of_mesh(&self, id: &str) -> Result<Name, BadName> {
        match id.split_once('/') {
            None => name(id),
            Some((mesh, id)) if self.mesh == mesh => name(id),
            Some((mesh, _)) => Err(self.foreign(mesh)),
        }
    }

    /// `web`, `gateway/edge`, or the full id of a node or gateway of this trust domain.
    fn node(&self, id: &str) -> Result<(SpiffeId, Referent), BadName> {
        let full = if id.starts_with("spiffe:") {
            SpiffeId::parse(id)
                .map_err(|error| bad(error, "such as \"spiffe://shop.example/mesh/shop/node/web\""))?
        } else {
            let node = NodeName::parse(id).map_err(|error| bad(error, ""))?;
            node.spiffe_id(&self.trust_domain, &self.mesh)
        };
        if !full.is_member_of(&self.trust_domain) {
            let help = format!("write Workload::\"{full}\"");
            return Err(bad("an identity of another trust domain is a Workload, not a Node", help));
        }
        let (mesh, node) = full
            .mesh_and_node()
            .ok_or_else(|| bad("this is the id of neither a virtual node nor a virtual gateway", ""))?;
        Ok((full, Referent::Node { mesh, node }))
    }

    /// The path of a workload of this trust domain, or a full id.
    fn workload(&self, id: &str) -> Result<SpiffeId, BadName> {
        let full = if id.starts_with("spiffe:") {
            SpiffeId::parse(id)
        } else {
            SpiffeId::workload(&self.trust_domain, id)
        }
        .map_err(|error| bad(error, "such as \"batch/nightly\" or \"spiffe://partner.example/app\""))?;
        match principal_kind(&full, &self.trust_domain) {
            Some(Kind::Workload) => Ok(full),
            Some(_) => {
                let help = format!("write Node::\"{full}\"");
                Err(bad("this is the id of a node or gateway of this trust domain", help))
            }
            None => Err(bad("identities of admins and control planes never call services", "")),
        }
    }

    /// `orders:8080`, `gateway/edge:443`, or the same with a full id of this mesh.
    fn port(&self, id: &str) -> Result<(SpiffeId, u16), BadName> {
        let help = "such as \"orders:8080\"";
        if let Some(external) = id.strip_prefix("external/") {
            let external = external.split([':', ' ']).next().unwrap_or_default();
            let help =
                format!("write resource in External::{external:?}; its ports are told apart by attributes");
            return Err(bad("ports of external services have no names in policies", help));
        }
        let (node, number) =
            id.rsplit_once(':').ok_or_else(|| bad("a port is named by its node and number", help))?;
        let (node, referent) = self.node(node)?;
        if let Referent::Node { mesh, .. } = &referent
            && *mesh != self.mesh
        {
            return Err(self.foreign(mesh.as_str()));
        }
        match number.parse::<u16>() {
            Ok(parsed) if parsed > 0 && parsed.to_string() == number => Ok((node, parsed)),
            _ => Err(bad(format!("{number:?} is not a port number from 1 to 65535"), help)),
        }
    }

    pub(crate) fn foreign(&self, mesh: &str) -> BadName {
        bad(
            format!(
                "this is a resource of mesh {mesh:?}, and this policy belongs to mesh {:?}",
                self.mesh.as_str()
            ),
            "a policy governs only resources of its own mesh: put the rule into a policy of that mesh",
        )
    }
}

/// As which type of principal `id` calls within `trust_domain`; none for admins, control planes, and ids under a
/// reserved first segment that name nobody.
pub(crate) fn principal_kind(id: &SpiffeId, trust_domain: &TrustDomain) -> Option<Kind> {
    if !id.is_member_of(trust_domain) {
        return Some(Kind::Workload);
    }
    match id.kind() {
        IdentityKind::Node { .. } | IdentityKind::Gateway { .. } => Some(Kind::Node),
        IdentityKind::Workload { .. } => Some(Kind::Workload),
        IdentityKind::ControlPlane { .. } | IdentityKind::Admin { .. } => None,
        IdentityKind::Other => {
            let first = id.path().split('/').nth(1).unwrap_or_default();
            let is_reserved = matches!(first, "mesh" | "workload" | "control-plane" | "admin");
            (!is_reserved).then_some(Kind::Workload)
        }
    }
}

/// `of`: the node's id, or what stands for an external service.
pub(crate) fn port_id(of: impl Display, number: u16) -> String {
    format!("{of}:{number}")
}

pub(crate) fn route_id(of: impl Display, port: u16, template: &str) -> String {
    format!("{of}:{port} {template}")
}

/// The id of a user or group. Names of issuers hold no slash, so that no two issuers have one of the same id.
pub(crate) fn issued_id(issuer: &Name, id: &str) -> String {
    format!("{issuer}/{id}")
}

fn of_issuer(id: &str, help: &str) -> Result<(Name, String), BadName> {
    let (issuer, own) = id.split_once('/').filter(|(_, own)| !own.is_empty()).ok_or_else(|| {
        bad("users and groups are named by their JwtIssuer, a slash, and what it calls them", help)
    })?;
    Ok((name(issuer)?, own.to_owned()))
}

fn name(text: &str) -> Result<Name, BadName> {
    Name::parse(text).map_err(|error| bad(error, ""))
}

fn bad(message: impl ToString, help: impl ToString) -> BadName {
    BadName { message: message.to_string(), help: help.to_string() }
}
