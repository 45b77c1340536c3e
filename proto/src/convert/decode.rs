//! From messages to the domain.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hauberk_identity::{IdentityKind, Name, SpiffeId, TrustDomain};
use hauberk_policy::{
    AddressRange, Authorization, ClaimsMapping, DeclaredRoute, EscapedSlashes, MethodAccess, Mode, NodeScope,
    ObsText, Place, PolicySlice, PortScope, Protocol, RoleMembers, RouteTemplate, SlicedPolicy, Undeclared,
    UserTokens,
};
use prost::Message;

use super::view::{
    Body, Discovery, Dns, Egress, External, ExternalPort, ExternalProtocol, FederatedBundle, IpPreference,
    JwtIssuer, NodeView, ServicePort, ServiceView, Target, View,
};
use super::{ConvertError, labels, named_ports};
use crate::agent::v1 as wire;

/// Reads an encoded `View`, as a `SignedView` carries it.
///
/// That its signature is good, that it is new enough and meant for the reader, and that the reader has the
/// [`features`](super::features) it needs remains the reader's to check.
///
/// # Errors
/// Names the first field that is missing, unknown or out of range, or stands twice.
pub fn decode_view(bytes: &[u8]) -> Result<View, ConvertError> {
    let wire::View { epoch, revision, features, trust_domain, mesh, body } =
        wire::View::decode(bytes).map_err(|error| ConvertError::new("view", error))?;
    let trust_domain =
        TrustDomain::parse(&trust_domain).map_err(|error| ConvertError::new("trust_domain", error))?;
    let mesh = name("mesh", &mesh)?;
    let body = match body {
        Some(wire::view::Body::Node(node)) => Body::Node(node_view(node, &trust_domain, &mesh)?),
        Some(wire::view::Body::Service(service)) => Body::Service(service_view(service, &trust_domain)?),
        None => return Err(ConvertError::new("body", "there is none, or it is of an unknown kind")),
    };
    Ok(View { epoch, revision, features, trust_domain, mesh, body })
}

/// Reads a port number.
///
/// # Errors
/// It is not within 1 to 65535.
pub fn listener_port(field: &str, number: u32) -> Result<u16, ConvertError> {
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(ConvertError::new(field, format!("{number} is not a port number from 1 to 65535"))),
    }
}

fn node_view(
    view: wire::NodeView,
    trust_domain: &TrustDomain,
    mesh: &Name,
) -> Result<NodeView, ConvertError> {
    let wire::NodeView {
        spiffe_id,
        ports,
        policies,
        backends,
        max_view_age_ms,
        federated_bundles,
        roles,
        issuers,
        egress,
        labels,
        named_ports,
    } = view;
    let node = self::spiffe_id("node.spiffe_id", &spiffe_id)?;
    let owner = match node.kind() {
        IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. } => Some(mesh),
        _ => None,
    };
    if owner != Some(mesh.as_str()) || !node.is_member_of(trust_domain) {
        let problem = format!("{node} is no node or gateway of mesh {mesh} in {trust_domain}");
        return Err(ConvertError::new("node.spiffe_id", problem));
    }
    let ports = each("node.ports", ports, inbound_port)?;
    distinct("node.ports", ports.iter().map(|port| port.number))?;
    let policies = each("node.policies", policies, policy)?;
    distinct("node.policies", policies.iter().map(|policy| policy.name.clone()))?;
    let backends = names("node.backends", backends)?;
    let scope =
        NodeScope { trust_domain: trust_domain.clone(), mesh: mesh.clone(), place: Place::Node(node), ports };
    let max_view_age = (max_view_age_ms > 0).then(|| Duration::from_millis(max_view_age_ms));
    let federated = each("node.federated_bundles", federated_bundles, federated_bundle)?;
    distinct("node.federated_bundles", federated.iter().map(|bundle| bundle.trust_domain.clone()))?;
    if federated.iter().any(|bundle| bundle.trust_domain == *trust_domain) {
        return Err(ConvertError::new("node.federated_bundles", format!("{trust_domain} is our own")));
    }
    let roles = each("node.roles", roles, role)?;
    distinct("node.roles", roles.iter().map(|role| role.role.as_str()))?;
    let labels = labels::decode("node.labels", labels, &scope)?;
    let named = named_ports::decode("node.named_ports", named_ports, &scope)?;
    let policies = PolicySlice { policies, roles, labels, ports: named };
    let issuers = each("node.issuers", issuers, issuer)?;
    distinct("node.issuers", issuers.iter().map(|issuer| issuer.name.as_str()))?;
    distinct("node.issuers", issuers.iter().map(|issuer| issuer.issuer.as_str()))?;
    let egress = Box::new(egress.map(|egress| self::egress(egress, &scope)).transpose()?.unwrap_or_default());
    Ok(NodeView { scope, policies, backends, max_view_age, federated, issuers, egress })
}

fn egress(egress: wire::Egress, scope: &NodeScope) -> Result<Egress, ConvertError> {
    let wire::Egress { externals, policies, roles, labels, named_ports } = egress;
    let externals = each("node.egress.externals", externals, external)?;
    distinct("node.egress.externals", externals.iter().map(|external| external.name.as_str()))?;
    // A host of two would be decided by one of them alone.
    let hosts = externals.iter().flat_map(|external| &external.hosts);
    distinct("node.egress.externals.hosts", hosts.map(String::as_str))?;
    let policies = each("node.egress.policies", policies, policy)?;
    distinct("node.egress.policies", policies.iter().map(|policy| policy.name.as_str()))?;
    let roles = each("node.egress.roles", roles, role)?;
    distinct("node.egress.roles", roles.iter().map(|role| role.role.as_str()))?;
    let labels = labels::decode("node.egress.labels", labels, scope)?;
    let ports = named_ports::decode("node.egress.named_ports", named_ports, scope)?;
    Ok(Egress { externals, policies: PolicySlice { policies, roles, labels, ports } })
}

fn external(field: &str, external: wire::External) -> Result<External, ConvertError> {
    let wire::External { name, hosts, ports, allowed_addresses } = external;
    let name = self::name(&format!("{field}.name"), &name)?;
    if hosts.iter().any(String::is_empty) {
        return Err(ConvertError::new(format!("{field}.hosts"), "one is empty"));
    }
    let ports = each(&format!("{field}.ports"), ports, external_port)?;
    distinct(&format!("{field}.ports"), ports.iter().map(|port| port.number))?;
    let allowed = each(&format!("{field}.allowed_addresses"), allowed_addresses, |field, text| {
        text.parse::<AddressRange>().map_err(|error| ConvertError::new(field, error))
    })?;
    Ok(External { name, hosts, ports, allowed })
}

fn external_port(field: &str, port: wire::ExternalPort) -> Result<ExternalPort, ConvertError> {
    let wire::ExternalPort { number, protocol } = port;
    let number = listener_port(&format!("{field}.number"), number)?;
    let protocol = match wire::ExternalProtocol::try_from(protocol) {
        Ok(wire::ExternalProtocol::Http) => ExternalProtocol::Http,
        Ok(wire::ExternalProtocol::Tls) => ExternalProtocol::Tls,
        Ok(wire::ExternalProtocol::Tcp) => ExternalProtocol::Tcp,
        Ok(wire::ExternalProtocol::Unspecified) | Err(_) => {
            let problem = format!("{protocol} is no known protocol");
            return Err(ConvertError::new(format!("{field}.protocol"), problem));
        }
    };
    Ok(ExternalPort { number, protocol })
}

fn issuer(field: &str, issuer: wire::JwtIssuer) -> Result<JwtIssuer, ConvertError> {
    let wire::JwtIssuer {
        name,
        issuer,
        audiences,
        jwks,
        user_claim,
        group_claims,
        scope_claims,
        role_claims,
        token_header,
        audience_is_client,
        is_ours,
    } = issuer;
    let name = self::name(&format!("{field}.name"), &name)?;
    for (part, text) in [("issuer", &issuer), ("user_claim", &user_claim)] {
        if text.is_empty() {
            return Err(ConvertError::new(format!("{field}.{part}"), "it is empty"));
        }
    }
    // Without an audience a token for anybody would do.
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(ConvertError::new(format!("{field}.audiences"), "there is none, or one is empty"));
    }
    let claims =
        ClaimsMapping { user: user_claim, groups: group_claims, scopes: scope_claims, roles: role_claims };
    let token_header = (!token_header.is_empty()).then_some(token_header);
    Ok(JwtIssuer { name, issuer, audiences, jwks, claims, token_header, audience_is_client, is_ours })
}

fn role(field: &str, role: wire::RoleMembers) -> Result<RoleMembers, ConvertError> {
    let wire::RoleMembers { role, members } = role;
    let role = name(&format!("{field}.role"), &role)?;
    let members = each(&format!("{field}.members"), members, |field, id| spiffe_id(field, &id))?;
    Ok(RoleMembers { role, members })
}

fn federated_bundle(field: &str, bundle: wire::FederatedBundle) -> Result<FederatedBundle, ConvertError> {
    let wire::FederatedBundle { trust_domain, bundle: document } = bundle;
    let trust_domain = TrustDomain::parse(&trust_domain)
        .map_err(|error| ConvertError::new(format!("{field}.trust_domain"), error))?;
    Ok(FederatedBundle { trust_domain, document })
}

fn inbound_port(field: &str, port: wire::InboundPort) -> Result<PortScope, ConvertError> {
    let wire::InboundPort {
        number,
        protocol,
        services,
        routes,
        deny_undeclared,
        audit,
        users,
        keep_escaped_slashes,
        forward_obs_text,
    } = port;
    let routes = each(&format!("{field}.routes"), routes, route)?;
    distinct(&format!("{field}.routes"), routes.iter().map(|route| route.template.as_str()))?;
    Ok(PortScope {
        number: listener_port(&format!("{field}.number"), number)?,
        protocol: decode_protocol(&format!("{field}.protocol"), protocol)?,
        services: names(&format!("{field}.services"), services)?,
        routes,
        undeclared: if deny_undeclared { Undeclared::Deny } else { Undeclared::Decide },
        authorization: if audit { Authorization::Audit } else { Authorization::Enforce },
        users: users.map(|users| user_tokens(&format!("{field}.users"), users)).transpose()?,
        escaped_slashes: if keep_escaped_slashes { EscapedSlashes::Keep } else { EscapedSlashes::Reject },
        obs_text: if forward_obs_text { ObsText::Forward } else { ObsText::Reject },
    })
}

fn user_tokens(field: &str, users: wire::UserTokens) -> Result<UserTokens, ConvertError> {
    let wire::UserTokens { required, issuers, kept } = users;
    Ok(UserTokens { required, issuers: names(&format!("{field}.issuers"), issuers)?, kept })
}

fn route(field: &str, route: wire::Route) -> Result<DeclaredRoute, ConvertError> {
    let wire::Route { template, methods, data_classes, requires_user, reads } = route;
    let text = if methods.is_empty() { template } else { format!("{} {template}", methods.join(",")) };
    let template = RouteTemplate::parse(&text).map_err(|error| ConvertError::new(field, error))?;
    let classes = names(&format!("{field}.data_classes"), data_classes)?;
    let access = if reads { MethodAccess::Read } else { MethodAccess::Write };
    Ok(DeclaredRoute { template, classes, requires_user, access })
}

fn policy(field: &str, policy: wire::Policy) -> Result<SlicedPolicy, ConvertError> {
    let wire::Policy { name, cedar, audit, boundary } = policy;
    if name.is_empty() {
        return Err(ConvertError::new(format!("{field}.name"), "it is empty"));
    }
    let mode = match (audit, boundary) {
        (false, false) => Mode::Enforce,
        (true, false) => Mode::Audit,
        (false, true) => Mode::Boundary,
        (true, true) => {
            return Err(ConvertError::new(format!("{field}.boundary"), "a boundary always decides"));
        }
    };
    Ok(SlicedPolicy { name, mode, text: cedar })
}

fn service_view(view: wire::ServiceView, trust_domain: &TrustDomain) -> Result<ServiceView, ConvertError> {
    let wire::ServiceView { name, ports } = view;
    let name = self::name("service.name", &name)?;
    let ports = each("service.ports", ports, |field, port| service_port(field, port, trust_domain))?;
    distinct("service.ports", ports.iter().map(|port| port.number))?;
    Ok(ServiceView { name, ports })
}

fn service_port(
    field: &str,
    port: wire::ServicePort,
    trust_domain: &TrustDomain,
) -> Result<ServicePort, ConvertError> {
    let wire::ServicePort { number, protocol, targets } = port;
    let field_of_targets = format!("{field}.targets");
    let targets =
        each(&field_of_targets, targets, |field, target| self::target(field, target, trust_domain))?;
    distinct(&field_of_targets, targets.iter().map(|target| target.spiffe_id.as_str()))?;
    Ok(ServicePort {
        number: listener_port(&format!("{field}.number"), number)?,
        protocol: decode_protocol(&format!("{field}.protocol"), protocol)?,
        targets,
    })
}

fn target(field: &str, target: wire::Target, trust_domain: &TrustDomain) -> Result<Target, ConvertError> {
    let wire::Target { spiffe_id, discovery } = target;
    let spiffe_id = self::spiffe_id(&format!("{field}.spiffe_id"), &spiffe_id)?;
    let serves = matches!(spiffe_id.kind(), IdentityKind::Node { .. } | IdentityKind::Gateway { .. });
    if !serves || !spiffe_id.is_member_of(trust_domain) {
        let problem = format!("{spiffe_id} is no node or gateway in {trust_domain}");
        return Err(ConvertError::new(format!("{field}.spiffe_id"), problem));
    }
    let discovery = match discovery {
        Some(wire::target::Discovery::Registered(wire::Registered {})) => Discovery::Registered,
        Some(wire::target::Discovery::Dns(dns)) => Discovery::Dns(decode_dns(&format!("{field}.dns"), dns)?),
        Some(wire::target::Discovery::Fixed(wire::Fixed { addresses })) => {
            Discovery::Fixed(each(&format!("{field}.fixed.addresses"), addresses, |field, address| {
                socket_address(field, &address)
            })?)
        }
        None => {
            let problem = "there is none, or it is of an unknown kind";
            return Err(ConvertError::new(format!("{field}.discovery"), problem));
        }
    };
    Ok(Target { spiffe_id, discovery })
}

fn decode_dns(field: &str, dns: wire::Dns) -> Result<Dns, ConvertError> {
    let wire::Dns { hostname, all_addresses, ip_preference } = dns;
    if hostname.is_empty() {
        return Err(ConvertError::new(format!("{field}.hostname"), "it is empty"));
    }
    let ip_preference = match wire::IpPreference::try_from(ip_preference) {
        Ok(wire::IpPreference::Ipv4Preferred) => IpPreference::Ipv4Preferred,
        Ok(wire::IpPreference::Ipv4Only) => IpPreference::Ipv4Only,
        Ok(wire::IpPreference::Ipv6Preferred) => IpPreference::Ipv6Preferred,
        Ok(wire::IpPreference::Ipv6Only) => IpPreference::Ipv6Only,
        Ok(wire::IpPreference::Unspecified) | Err(_) => {
            let problem = format!("{ip_preference} is no known preference");
            return Err(ConvertError::new(format!("{field}.ip_preference"), problem));
        }
    };
    Ok(Dns { hostname, all_addresses, ip_preference })
}

pub(super) fn decode_protocol(field: &str, protocol: i32) -> Result<Protocol, ConvertError> {
    match wire::Protocol::try_from(protocol) {
        Ok(wire::Protocol::Http) => Ok(Protocol::Http),
        Ok(wire::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(wire::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(wire::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(wire::Protocol::Unspecified) | Err(_) => {
            Err(ConvertError::new(field, format!("{protocol} is no known protocol")))
        }
    }
}

fn socket_address(field: &str, text: &str) -> Result<SocketAddr, ConvertError> {
    let address: SocketAddr =
        text.parse().map_err(|_| ConvertError::new(field, format!("{text:?} is not IP:port")))?;
    let reachable = address.port() != 0 && is_reachable(address.ip());
    if reachable {
        Ok(address)
    } else {
        Err(ConvertError::new(field, format!("nobody can be reached at {text}")))
    }
}

fn is_reachable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

fn name(field: &str, text: &str) -> Result<Name, ConvertError> {
    Name::parse(text).map_err(|error| ConvertError::new(field, error))
}

pub(super) fn names(field: &str, texts: Vec<String>) -> Result<Vec<Name>, ConvertError> {
    let names = each(field, texts, |field, text| name(field, &text))?;
    distinct(field, names.iter().map(Name::as_str))?;
    Ok(names)
}

pub(super) fn spiffe_id(field: &str, text: &str) -> Result<SpiffeId, ConvertError> {
    SpiffeId::parse(text).map_err(|error| ConvertError::new(field, error))
}

pub(super) fn each<T, U>(
    field: &str,
    items: Vec<T>,
    convert: impl Fn(&str, T) -> Result<U, ConvertError>,
) -> Result<Vec<U>, ConvertError> {
    let numbered = items.into_iter().enumerate();
    numbered.map(|(index, item)| convert(&format!("{field}[{index}]"), item)).collect()
}

pub(super) fn distinct<K: Ord + std::fmt::Display>(
    field: &str,
    keys: impl Iterator<Item = K>,
) -> Result<(), ConvertError> {
    let mut seen = BTreeSet::new();
    for (index, key) in keys.enumerate() {
        if seen.contains(&key) {
            return Err(ConvertError::new(format!("{field}[{index}]"), format!("{key} stands here twice")));
        }
        seen.insert(key);
    }
    Ok(())
}
