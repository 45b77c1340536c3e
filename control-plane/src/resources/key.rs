//! What names a resource, and where it stands in the registry.

use std::fmt;

use hauberk_identity::{Name, NodeName};
use hauberk_proto::mesh::v1 as wire;

use crate::registry::keys;

/// What a resource is. Ordered as lists are: by the kind's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What no policy permits.
    Boundary,
    /// A sort of data.
    DataClass,
    /// Who may become what.
    Enrollment,
    /// Hosts outside of the mesh.
    ExternalService,
    /// A trust domain whose members are known.
    FederatedTrustDomain,
    /// Who says who users are.
    JwtIssuer,
    /// A mesh.
    Mesh,
    /// A Cedar document.
    Policy,
    /// What policies are made from.
    PolicyTemplate,
    /// A named group of callers.
    Role,
    /// A virtual gateway.
    VirtualGateway,
    /// A virtual node.
    VirtualNode,
    /// A virtual service.
    VirtualService,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Self; 13] = [
        Self::Boundary,
        Self::DataClass,
        Self::Enrollment,
        Self::ExternalService,
        Self::FederatedTrustDomain,
        Self::JwtIssuer,
        Self::Mesh,
        Self::Policy,
        Self::PolicyTemplate,
        Self::Role,
        Self::VirtualGateway,
        Self::VirtualNode,
        Self::VirtualService,
    ];

    /// The kind as files and registry keys spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boundary => "Boundary",
            Self::DataClass => "DataClass",
            Self::Enrollment => "Enrollment",
            Self::ExternalService => "ExternalService",
            Self::FederatedTrustDomain => "FederatedTrustDomain",
            Self::JwtIssuer => "JwtIssuer",
            Self::Mesh => "Mesh",
            Self::Policy => "Policy",
            Self::PolicyTemplate => "PolicyTemplate",
            Self::Role => "Role",
            Self::VirtualGateway => "VirtualGateway",
            Self::VirtualNode => "VirtualNode",
            Self::VirtualService => "VirtualService",
        }
    }

    /// The kind in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Boundary => "boundary",
            Self::DataClass => "data class",
            Self::Enrollment => "enrollment",
            Self::ExternalService => "external service",
            Self::FederatedTrustDomain => "federated trust domain",
            Self::JwtIssuer => "JWT issuer",
            Self::Mesh => "mesh",
            Self::Policy => "policy",
            Self::PolicyTemplate => "policy template",
            Self::Role => "role",
            Self::VirtualGateway => "virtual gateway",
            Self::VirtualNode => "virtual node",
            Self::VirtualService => "virtual service",
        }
    }

    /// The same with its article.
    pub fn with_article(self) -> String {
        let noun = self.noun();
        let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {noun}")
    }

    /// The kind that a request names; `None` where it names none, or one that this release does not know.
    pub fn from_wire(kind: i32) -> Option<Self> {
        match wire::Kind::try_from(kind) {
            Ok(wire::Kind::Boundary) => Some(Self::Boundary),
            Ok(wire::Kind::DataClass) => Some(Self::DataClass),
            Ok(wire::Kind::Enrollment) => Some(Self::Enrollment),
            Ok(wire::Kind::ExternalService) => Some(Self::ExternalService),
            Ok(wire::Kind::FederatedTrustDomain) => Some(Self::FederatedTrustDomain),
            Ok(wire::Kind::JwtIssuer) => Some(Self::JwtIssuer),
            Ok(wire::Kind::Mesh) => Some(Self::Mesh),
            Ok(wire::Kind::Policy) => Some(Self::Policy),
            Ok(wire::Kind::PolicyTemplate) => Some(Self::PolicyTemplate),
            Ok(wire::Kind::Role) => Some(Self::Role),
            Ok(wire::Kind::VirtualGateway) => Some(Self::VirtualGateway),
            Ok(wire::Kind::VirtualNode) => Some(Self::VirtualNode),
            Ok(wire::Kind::VirtualService) => Some(Self::VirtualService),
            Ok(wire::Kind::Unspecified) | Err(_) => None,
        }
    }

    /// The kind of a body.
    pub fn of(spec: &wire::resource::Spec) -> Self {
        match spec {
            wire::resource::Spec::Boundary(_) => Self::Boundary,
            wire::resource::Spec::DataClass(_) => Self::DataClass,
            wire::resource::Spec::Enrollment(_) => Self::Enrollment,
            wire::resource::Spec::ExternalService(_) => Self::ExternalService,
            wire::resource::Spec::FederatedTrustDomain(_) => Self::FederatedTrustDomain,
            wire::resource::Spec::JwtIssuer(_) => Self::JwtIssuer,
            wire::resource::Spec::MeshSpec(_) => Self::Mesh,
            wire::resource::Spec::VirtualGateway(_) => Self::VirtualGateway,
            wire::resource::Spec::VirtualNode(_) => Self::VirtualNode,
            wire::resource::Spec::VirtualService(_) => Self::VirtualService,
            wire::resource::Spec::Policy(_) => Self::Policy,
            wire::resource::Spec::PolicyTemplate(_) => Self::PolicyTemplate,
            wire::resource::Spec::Role(_) => Self::Role,
        }
    }

    /// The kind of what has this name.
    pub fn of_node(node: &NodeName) -> Self {
        match node {
            NodeName::Node(_) => Self::VirtualNode,
            NodeName::Gateway(_) => Self::VirtualGateway,
        }
    }

    /// A body of this kind with nothing in it, for messages that only name a resource.
    pub fn empty_spec(self) -> wire::resource::Spec {
        match self {
            Self::Boundary => wire::resource::Spec::Boundary(wire::BoundarySpec::default()),
            Self::DataClass => wire::resource::Spec::DataClass(wire::DataClassSpec::default()),
            Self::Enrollment => wire::resource::Spec::Enrollment(wire::EnrollmentSpec::default()),
            Self::ExternalService => {
                wire::resource::Spec::ExternalService(wire::ExternalServiceSpec::default())
            }
            Self::FederatedTrustDomain => {
                wire::resource::Spec::FederatedTrustDomain(wire::FederatedTrustDomainSpec::default())
            }
            Self::JwtIssuer => wire::resource::Spec::JwtIssuer(wire::JwtIssuerSpec::default()),
            Self::Mesh => wire::resource::Spec::MeshSpec(wire::MeshSpec::default()),
            Self::Policy => wire::resource::Spec::Policy(wire::PolicySpec::default()),
            Self::PolicyTemplate => wire::resource::Spec::PolicyTemplate(wire::PolicyTemplateSpec::default()),
            Self::Role => wire::resource::Spec::Role(wire::RoleSpec::default()),
            Self::VirtualGateway => wire::resource::Spec::VirtualGateway(wire::VirtualGatewaySpec::default()),
            Self::VirtualNode => wire::resource::Spec::VirtualNode(wire::VirtualNodeSpec::default()),
            Self::VirtualService => wire::resource::Spec::VirtualService(wire::VirtualServiceSpec::default()),
        }
    }
}

/// The name of one resource among all. A mesh stands in itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// What it is.
    pub kind: Kind,
    /// The mesh it belongs to.
    pub mesh: Name,
    /// Its name, unique among its kind in its mesh.
    pub name: Name,
}

impl ResourceKey {
    /// That of a trust domain that a mesh follows.
    pub fn federated_trust_domain(mesh: Name, name: Name) -> Self {
        Self { kind: Kind::FederatedTrustDomain, mesh, name }
    }

    /// That of a virtual node or gateway.
    pub fn node(mesh: &Name, node: &NodeName) -> Self {
        Self { kind: Kind::of_node(node), mesh: mesh.clone(), name: node.name().clone() }
    }

    /// The virtual node or gateway that it is of, if it is.
    pub fn as_node(&self) -> Option<NodeName> {
        match self.kind {
            Kind::VirtualNode => Some(NodeName::Node(self.name.clone())),
            Kind::VirtualGateway => Some(NodeName::Gateway(self.name.clone())),
            Kind::Boundary
            | Kind::DataClass
            | Kind::Enrollment
            | Kind::ExternalService
            | Kind::FederatedTrustDomain
            | Kind::JwtIssuer
            | Kind::Mesh
            | Kind::Policy
            | Kind::PolicyTemplate
            | Kind::Role
            | Kind::VirtualService => None,
        }
    }

    /// Where it stands in the registry.
    pub fn store_key(&self) -> String {
        keys::resource(self.kind.as_str(), self.mesh.as_str(), self.name.as_str())
    }

    /// Reads a registry key back; `None` for what is not a resource's.
    pub fn from_store_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(keys::RESOURCES)?.split('/');
        let (kind, mesh, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let key = Self { kind, mesh: Name::parse(mesh).ok()?, name: Name::parse(name).ok()? };
        parts.next().is_none().then_some(key)
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Mesh => write!(f, "Mesh {}", self.name),
            kind => write!(f, "{} {}/{}", kind.as_str(), self.mesh, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_keys_read_back() {
        let name = |text| Name::parse(text).unwrap();
        for kind in Kind::ALL {
            let key = ResourceKey { kind, mesh: name("shop"), name: name("orders.v2") };
            assert_eq!(ResourceKey::from_store_key(&key.store_key()), Some(key));
        }
        for wrong in ["resource/Node/a/b", "resource/Mesh/a", "resource/Mesh/a/b/c", "token/Mesh/a/b", ""] {
            assert_eq!(ResourceKey::from_store_key(wrong), None, "{wrong}");
        }
        assert!(Kind::ALL.is_sorted());
        assert!(Kind::ALL.is_sorted_by_key(|kind| kind.as_str()));
    }
}
