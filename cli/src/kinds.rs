//! The kinds of things that commands name: as users write them, as files write them, as the API numbers them.

use hauberk_identity::{Name, NodeName};
use hauberk_proto::mesh::v1::{Kind, Resource, ResourceRef, resource::Spec};

use crate::error::CommandError;
use crate::nearest::suggestion;
use crate::output::printable;

/// One kind of resource.
pub(crate) struct KindName {
    pub(crate) kind: Kind,
    /// As files write it: `VirtualNode`.
    pub(crate) written: &'static str,
    /// What users may say, lower case; the first is printed: `virtualnode`.
    pub(crate) said: &'static [&'static str],
}

/// The kinds of resources.
pub(crate) const RESOURCES: [KindName; 13] = [
    KindName { kind: Kind::Mesh, written: "Mesh", said: &["mesh", "meshes"] },
    KindName {
        kind: Kind::VirtualNode,
        written: "VirtualNode",
        said: &["virtualnode", "virtualnodes", "vn", "node", "nodes"],
    },
    KindName {
        kind: Kind::VirtualGateway,
        written: "VirtualGateway",
        said: &["virtualgateway", "virtualgateways", "vg", "gateway", "gateways"],
    },
    KindName {
        kind: Kind::VirtualService,
        written: "VirtualService",
        said: &["virtualservice", "virtualservices", "vs", "service", "services", "svc"],
    },
    KindName { kind: Kind::Policy, written: "Policy", said: &["policy", "policies", "pol"] },
    KindName {
        kind: Kind::PolicyTemplate,
        written: "PolicyTemplate",
        said: &["policytemplate", "policytemplates", "template", "templates"],
    },
    KindName { kind: Kind::Boundary, written: "Boundary", said: &["boundary", "boundaries"] },
    KindName { kind: Kind::Role, written: "Role", said: &["role", "roles"] },
    KindName { kind: Kind::DataClass, written: "DataClass", said: &["dataclass", "dataclasses", "dc"] },
    KindName { kind: Kind::Enrollment, written: "Enrollment", said: &["enrollment", "enrollments", "enr"] },
    KindName {
        kind: Kind::FederatedTrustDomain,
        written: "FederatedTrustDomain",
        said: &["federatedtrustdomain", "federatedtrustdomains", "ftd"],
    },
    KindName {
        kind: Kind::JwtIssuer,
        written: "JwtIssuer",
        said: &["jwtissuer", "jwtissuers", "issuer", "issuers"],
    },
    KindName {
        kind: Kind::ExternalService,
        written: "ExternalService",
        said: &["externalservice", "externalservices", "external", "externals", "es"],
    },
];

/// Kinds of AWS App Mesh that this version does not have.
pub(crate) const NOT_YET: [&str; 3] = ["VirtualRouter", "Route", "GatewayRoute"];

/// What `get` can list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Resource(Kind),
    All,
    Instances,
    Tokens,
    Certificates,
    Admins,
}

const OTHERS: [(Listed, &[&str]); 5] = [
    (Listed::All, &["all"]),
    (Listed::Instances, &["instance", "instances", "agent", "agents"]),
    (Listed::Tokens, &["token", "tokens"]),
    (Listed::Certificates, &["certificate", "certificates", "cert", "certs"]),
    (Listed::Admins, &["admin", "admins"]),
];

/// The kind of resource that the user means, in any case, singular, plural or short.
///
/// # Errors
/// A message with the nearest kind.
pub(crate) fn resource_kind(word: &str) -> Result<Kind, String> {
    let wanted = word.to_lowercase();
    RESOURCES
        .iter()
        .find(|name| name.said.contains(&wanted.as_str()))
        .map(|name| name.kind)
        .ok_or_else(|| unknown(word, RESOURCES.iter().flat_map(|name| name.said).copied()))
}

/// What the user wants listed.
///
/// # Errors
/// A message with the nearest kind.
pub(crate) fn listed(word: &str) -> Result<Listed, String> {
    let wanted = word.to_lowercase();
    if let Some((listed, _)) = OTHERS.iter().find(|(_, said)| said.contains(&wanted.as_str())) {
        return Ok(*listed);
    }
    resource_kind(word).map(Listed::Resource).map_err(|_| unknown(word, every_word()))
}

/// Every word that [`listed`] understands, for completion and suggestions.
pub(crate) fn every_word() -> impl Iterator<Item = &'static str> {
    let resources = RESOURCES.iter().flat_map(|name| name.said);
    resources.chain(OTHERS.iter().flat_map(|(_, said)| said.iter())).copied()
}

/// As files write it: `VirtualNode`.
pub(crate) fn written(kind: Kind) -> &'static str {
    RESOURCES.iter().find(|name| name.kind == kind).map_or("Unknown", |name| name.written)
}

/// As messages write it: `virtualnode`.
pub(crate) fn said(kind: Kind) -> &'static str {
    RESOURCES
        .iter()
        .find(|name| name.kind == kind)
        .and_then(|name| name.said.first())
        .copied()
        .unwrap_or("unknown")
}

/// What kind a resource is.
pub(crate) fn kind_of(resource: &Resource) -> Kind {
    match &resource.spec {
        Some(Spec::MeshSpec(_)) => Kind::Mesh,
        Some(Spec::VirtualNode(_)) => Kind::VirtualNode,
        Some(Spec::VirtualGateway(_)) => Kind::VirtualGateway,
        Some(Spec::VirtualService(_)) => Kind::VirtualService,
        Some(Spec::Policy(_)) => Kind::Policy,
        Some(Spec::PolicyTemplate(_)) => Kind::PolicyTemplate,
        Some(Spec::Boundary(_)) => Kind::Boundary,
        Some(Spec::Role(_)) => Kind::Role,
        Some(Spec::DataClass(_)) => Kind::DataClass,
        Some(Spec::Enrollment(_)) => Kind::Enrollment,
        Some(Spec::FederatedTrustDomain(_)) => Kind::FederatedTrustDomain,
        Some(Spec::JwtIssuer(_)) => Kind::JwtIssuer,
        Some(Spec::ExternalService(_)) => Kind::ExternalService,
        None => Kind::Unspecified,
    }
}

/// The kind of what has this name.
pub(crate) fn kind_of_node(node: &NodeName) -> Kind {
    match node {
        NodeName::Node(_) => Kind::VirtualNode,
        NodeName::Gateway(_) => Kind::VirtualGateway,
    }
}

/// The virtual node or gateway that a user names.
///
/// # Errors
/// It is no name.
pub(crate) fn node_named(name: &str, of: fn(Name) -> NodeName) -> Result<NodeName, CommandError> {
    Name::parse(name).map(of).map_err(|error| CommandError::Usage(format!("`{}`: {error}", printable(name))))
}

/// `virtualnode/orders`, `virtualgateway/edge`.
pub(crate) fn node_label(node: &NodeName) -> String {
    format!("{}/{}", said(kind_of_node(node)), node.name())
}

/// The reference that names a resource.
pub(crate) fn reference(resource: &Resource) -> ResourceRef {
    let kind = kind_of(resource);
    let mesh = if kind == Kind::Mesh { String::new() } else { resource.mesh.clone() };
    ResourceRef { kind: kind.into(), mesh, name: resource.name.clone() }
}

/// `virtualnode/orders`.
pub(crate) fn label(resource: &Resource) -> String {
    format!("{}/{}", said(kind_of(resource)), printable(&resource.name))
}

fn unknown<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    if let Some(later) = NOT_YET.iter().find(|kind| kind.eq_ignore_ascii_case(word.trim_end_matches('s'))) {
        return format!("App Mesh's {later} is not supported by this version");
    }
    format!("there is no kind `{}`{}", printable(word), suggestion(word, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_understood_in_every_spelling() {
        for word in ["vn", "VN", "VirtualNode", "virtualnodes", "node"] {
            assert_eq!(resource_kind(word), Ok(Kind::VirtualNode), "{word}");
        }
        assert_eq!(listed("instances"), Ok(Listed::Instances));
        assert_eq!(listed("pol"), Ok(Listed::Resource(Kind::Policy)));
    }

    #[test]
    fn a_wrong_kind_is_answered_with_the_nearest() {
        insta::assert_snapshot!(listed("virtualnod").unwrap_err(), @"there is no kind `virtualnod`; did you mean `virtualnode`?");
        insta::assert_snapshot!(listed("virtualrouters").unwrap_err(), @"App Mesh's VirtualRouter is not supported by this version");
    }
}
