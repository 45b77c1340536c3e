//! From the domain to messages. What is well-formed by its types always has a message.

use hauberk_policy::{
    Authorization, ClaimsMapping, DeclaredRoute, EscapedSlashes, MethodAccess, Mode, ObsText, PortScope,
    Protocol, RoleMembers, SlicedPolicy, Undeclared, UserTokens,
};

use super::view::{
    Discovery, Dns, Egress, External, ExternalPort, ExternalProtocol, FederatedBundle, IpPreference,
    JwtIssuer, NodeView, ServicePort, ServiceView, Target,
};
use super::{labels, named_ports};
use crate::agent::v1 as wire;

/// The message for a node's view.
pub fn encode_node_view(view: &NodeView) -> wire::NodeView {
    let NodeView { scope, policies, backends, max_view_age, federated, issuers, egress } = view;
    wire::NodeView {
        // An external service's has no views.
        spiffe_id: scope.node().map(ToString::to_string).unwrap_or_default(),
        ports: scope.ports.iter().map(inbound_port).collect(),
        policies: policies.policies.iter().map(policy).collect(),
        backends: backends.iter().map(ToString::to_string).collect(),
        max_view_age_ms: max_view_age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        federated_bundles: federated.iter().map(federated_bundle).collect(),
        roles: policies.roles.iter().map(role).collect(),
        issuers: issuers.iter().map(issuer).collect(),
        egress: (**egress != Egress::default()).then(|| self::egress(egress)),
        labels: policies.labels.iter().map(labels::encode).collect(),
        named_ports: policies.ports.iter().map(named_ports::encode).collect(),
    }
}

fn egress(egress: &Egress) -> wire::Egress {
    let Egress { externals, policies } = egress;
    wire::Egress {
        externals: externals.iter().map(external).collect(),
        policies: policies.policies.iter().map(policy).collect(),
        roles: policies.roles.iter().map(role).collect(),
        labels: policies.labels.iter().map(labels::encode).collect(),
        named_ports: policies.ports.iter().map(named_ports::encode).collect(),
    }
}

fn external(external: &External) -> wire::External {
    let External { name, hosts, ports, allowed } = external;
    let port = |ExternalPort { number, protocol }: &ExternalPort| wire::ExternalPort {
        number: u32::from(*number),
        protocol: match protocol {
            ExternalProtocol::Http => wire::ExternalProtocol::Http,
            ExternalProtocol::Tls => wire::ExternalProtocol::Tls,
            ExternalProtocol::Tcp => wire::ExternalProtocol::Tcp,
        }
        .into(),
    };
    wire::External {
        name: name.to_string(),
        hosts: hosts.clone(),
        ports: ports.iter().map(port).collect(),
        allowed_addresses: allowed.iter().map(ToString::to_string).collect(),
    }
}

fn issuer(known: &JwtIssuer) -> wire::JwtIssuer {
    let JwtIssuer { name, issuer, audiences, jwks, claims, token_header, audience_is_client, is_ours } =
        known;
    let ClaimsMapping { user, groups, scopes, roles } = claims;
    wire::JwtIssuer {
        name: name.to_string(),
        issuer: issuer.clone(),
        audiences: audiences.clone(),
        jwks: jwks.clone(),
        user_claim: user.clone(),
        group_claims: groups.clone(),
        scope_claims: scopes.clone(),
        role_claims: roles.clone(),
        token_header: token_header.clone().unwrap_or_default(),
        audience_is_client: *audience_is_client,
        is_ours: *is_ours,
    }
}

fn role(role: &RoleMembers) -> wire::RoleMembers {
    let RoleMembers { role, members } = role;
    wire::RoleMembers { role: role.to_string(), members: members.iter().map(ToString::to_string).collect() }
}

fn federated_bundle(bundle: &FederatedBundle) -> wire::FederatedBundle {
    let FederatedBundle { trust_domain, document } = bundle;
    wire::FederatedBundle { trust_domain: trust_domain.to_string(), bundle: document.clone() }
}

/// The message for a service's view.
pub fn encode_service_view(view: &ServiceView) -> wire::ServiceView {
    let ServiceView { name, ports } = view;
    wire::ServiceView { name: name.to_string(), ports: ports.iter().map(service_port).collect() }
}

fn inbound_port(port: &PortScope) -> wire::InboundPort {
    let PortScope {
        number,
        protocol,
        services,
        routes,
        undeclared,
        authorization,
        users,
        escaped_slashes,
        obs_text,
    } = port;
    wire::InboundPort {
        number: u32::from(*number),
        protocol: encode_protocol(*protocol).into(),
        services: services.iter().map(ToString::to_string).collect(),
        routes: routes.iter().map(route).collect(),
        deny_undeclared: *undeclared == Undeclared::Deny,
        audit: *authorization == Authorization::Audit,
        users: users.as_ref().map(user_tokens),
        keep_escaped_slashes: *escaped_slashes == EscapedSlashes::Keep,
        forward_obs_text: *obs_text == ObsText::Forward,
    }
}

fn user_tokens(users: &UserTokens) -> wire::UserTokens {
    let UserTokens { required, issuers, kept } = users;
    let issuers = issuers.iter().map(ToString::to_string).collect();
    wire::UserTokens { required: *required, issuers, kept: *kept }
}

fn route(route: &DeclaredRoute) -> wire::Route {
    let DeclaredRoute { template, classes, requires_user, access } = route;
    let (methods, template) = match template.as_str().split_once(' ') {
        Some((methods, template)) => (methods.split(',').map(ToOwned::to_owned).collect(), template),
        None => (Vec::new(), template.as_str()),
    };
    wire::Route {
        template: template.to_owned(),
        methods,
        data_classes: classes.iter().map(ToString::to_string).collect(),
        requires_user: *requires_user,
        reads: *access == MethodAccess::Read,
    }
}

fn policy(policy: &SlicedPolicy) -> wire::Policy {
    let SlicedPolicy { name, mode, text } = policy;
    wire::Policy {
        name: name.clone(),
        cedar: text.clone(),
        audit: *mode == Mode::Audit,
        boundary: *mode == Mode::Boundary,
    }
}

fn service_port(port: &ServicePort) -> wire::ServicePort {
    let ServicePort { number, protocol, targets } = port;
    wire::ServicePort {
        number: u32::from(*number),
        protocol: encode_protocol(*protocol).into(),
        targets: targets.iter().map(target).collect(),
    }
}

fn target(target: &Target) -> wire::Target {
    let Target { spiffe_id, discovery } = target;
    let discovery = match discovery {
        Discovery::Registered => wire::target::Discovery::Registered(wire::Registered {}),
        Discovery::Dns(Dns { hostname, all_addresses, ip_preference }) => {
            wire::target::Discovery::Dns(wire::Dns {
                hostname: hostname.clone(),
                all_addresses: *all_addresses,
                ip_preference: encode_ip_preference(*ip_preference).into(),
            })
        }
        Discovery::Fixed(addresses) => wire::target::Discovery::Fixed(wire::Fixed {
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }),
    };
    wire::Target { spiffe_id: spiffe_id.to_string(), discovery: Some(discovery) }
}

pub(super) fn encode_protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Http => wire::Protocol::Http,
        Protocol::Http2 => wire::Protocol::Http2,
        Protocol::Grpc => wire::Protocol::Grpc,
        Protocol::Tcp => wire::Protocol::Tcp,
    }
}

fn encode_ip_preference(preference: IpPreference) -> wire::IpPreference {
    match preference {
        IpPreference::Ipv4Preferred => wire::IpPreference::Ipv4Preferred,
        IpPreference::Ipv4Only => wire::IpPreference::Ipv4Only,
        IpPreference::Ipv6Preferred => wire::IpPreference::Ipv6Preferred,
        IpPreference::Ipv6Only => wire::IpPreference::Ipv6Only,
    }
}
