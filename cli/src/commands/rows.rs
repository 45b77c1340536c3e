//! What tables show of each kind.

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{Admin, Instance, IssuedCertificate, Role, Token};
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1::{
    AttestEnrollment, Duration, EnrollmentSpec, ExternalPort, ExternalServiceSpec, FederatedTrustDomainSpec,
    JwtIssuerSpec, Kind, Listener, Resource, VirtualNodeSpec, VirtualServiceSpec,
    attest_enrollment::Evidence, resource::Spec, service_discovery::Discovery,
    virtual_service_provider::Provider,
};

use crate::commands::token::sorted;
use crate::kinds;
use crate::times::{age, short, until};

/// The headers of a kind's table, beyond NAME, and where `-o wide` shows more.
pub(crate) fn headers(kind: Kind, wide: bool) -> Vec<&'static str> {
    let mut headers = match kind {
        Kind::Mesh => vec!["AUTHORIZATION", "AGE"],
        Kind::VirtualNode => vec!["LISTENERS", "BACKENDS", "DISCOVERY", "AGE"],
        Kind::VirtualGateway => vec!["AGE"],
        Kind::VirtualService => vec!["PROVIDER", "PORT", "AGE"],
        Kind::Policy => vec!["MODE", "STATEMENTS", "DESCRIPTION", "AGE"],
        Kind::Boundary | Kind::PolicyTemplate => vec!["STATEMENTS", "DESCRIPTION", "AGE"],
        Kind::Role => vec!["MEMBERS", "ROLES", "DESCRIPTION", "AGE"],
        Kind::DataClass => vec!["HOLDS", "DESCRIPTION", "AGE"],
        Kind::Enrollment => vec!["SHOWN BY", "BECOMES", "SELECTORS", "AGE"],
        Kind::FederatedTrustDomain => vec!["PROFILE", "ENDPOINT", "AGE"],
        Kind::ExternalService => vec!["HOSTS", "PORTS", "AGE"],
        Kind::JwtIssuer => vec!["ISSUER", "AUDIENCES", "KEYS", "AGE"],
        Kind::Unspecified => vec!["AGE"],
    };
    if wide {
        headers.extend(["LABELS", "VERSION", "REVISION"]);
    }
    headers
}

/// A resource's row below [`headers`].
pub(crate) fn cells(resource: &Resource, wide: bool, now: UnixMillis) -> Vec<String> {
    let metadata = resource.metadata.clone().unwrap_or_default();
    let mut cells = match &resource.spec {
        Some(Spec::MeshSpec(spec)) => {
            vec![spec.authorization.clone().unwrap_or_else(|| "ENFORCE".to_owned())]
        }
        Some(Spec::VirtualNode(spec)) => vec![listeners(spec), backends(spec), discovery(spec)],
        Some(Spec::VirtualGateway(_)) => Vec::new(),
        Some(Spec::VirtualService(spec)) => {
            let (node, port) = provider(spec);
            vec![node.map_or_else(|| "-".to_owned(), |node| format!("virtualnode/{node}")), port]
        }
        Some(Spec::Policy(spec)) => vec![
            spec.mode.clone().unwrap_or_else(|| "ENFORCE".to_owned()),
            match &spec.template {
                Some(link) => format!("of {}", link.name),
                None => statements(&spec.cedar),
            },
            spec.description.clone().unwrap_or_else(|| "-".to_owned()),
        ],
        Some(Spec::PolicyTemplate(spec)) => {
            vec![statements(&spec.cedar), spec.description.clone().unwrap_or_else(|| "-".to_owned())]
        }
        Some(Spec::Boundary(spec)) => {
            vec![statements(&spec.cedar), spec.description.clone().unwrap_or_else(|| "-".to_owned())]
        }
        Some(Spec::Role(spec)) => vec![
            spec.members.len().to_string(),
            or_dash(spec.roles.join(",")),
            spec.description.clone().unwrap_or_else(|| "-".to_owned()),
        ],
        Some(Spec::DataClass(spec)) => vec![
            or_dash(spec.data_classes.join(",")),
            spec.description.clone().unwrap_or_else(|| "-".to_owned()),
        ],
        Some(Spec::Enrollment(spec)) => enrollment(spec),
        Some(Spec::FederatedTrustDomain(spec)) => followed(spec),
        Some(Spec::JwtIssuer(spec)) => {
            vec![spec.issuer.clone(), or_dash(spec.audiences.join(",")), key_source(spec).to_owned()]
        }
        Some(Spec::ExternalService(spec)) => vec![spec.hosts.join(","), external_ports(spec)],
        None => Vec::new(),
    };
    cells.push(age(metadata.created_at.as_ref(), now));
    if wide {
        let mut labels: Vec<String> =
            resource.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        cells.extend([
            or_dash(labels.join(",")),
            metadata.resource_version.to_string(),
            metadata.revision.to_string(),
        ]);
    }
    cells
}

/// Where an issuer's keys come from.
pub(crate) fn key_source(spec: &JwtIssuerSpec) -> &str {
    match (spec.jwks_url.as_str(), spec.jwks.as_str()) {
        ("", "") => "discovered",
        ("", _) => "inline",
        (url, _) => url,
    }
}

/// `443/tls,80/http`.
pub(crate) fn external_ports(spec: &ExternalServiceSpec) -> String {
    let port = |port: &ExternalPort| format!("{}/{}", port.port.unwrap_or_default(), port.protocol);
    spec.ports.iter().map(port).collect::<Vec<_>>().join(",")
}

/// `8080/http`.
pub(crate) fn listener(listener: &Listener) -> String {
    let mapping = listener.port_mapping.clone().unwrap_or_default();
    format!("{}/{}", mapping.port.unwrap_or_default(), mapping.protocol)
}

fn listeners(spec: &VirtualNodeSpec) -> String {
    or_dash(spec.listeners.iter().map(listener).collect::<Vec<_>>().join(","))
}

/// The services that a node calls.
pub(crate) fn backends(spec: &VirtualNodeSpec) -> String {
    let names = spec.backends.iter().filter_map(|backend| backend.virtual_service.as_ref());
    or_dash(names.map(|service| service.virtual_service_name.clone()).collect::<Vec<_>>().join(","))
}

/// How a node's instances are found.
pub(crate) fn discovery(spec: &VirtualNodeSpec) -> String {
    match spec.service_discovery.as_ref().and_then(|discovery| discovery.discovery.as_ref()) {
        Some(Discovery::Dns(dns)) => format!("dns:{}", dns.hostname),
        Some(Discovery::Fixed(fixed)) => format!("fixed:{}", fixed.endpoints.len()),
        Some(Discovery::Registered(_)) | None => "registered".to_owned(),
    }
}

/// The node that serves a service, and its port.
pub(crate) fn provider(spec: &VirtualServiceSpec) -> (Option<&str>, String) {
    match spec.provider.as_ref().and_then(|provider| provider.provider.as_ref()) {
        Some(Provider::VirtualNode(node)) => {
            let port = node.port.map_or_else(|| "all".to_owned(), |port| port.to_string());
            (Some(&node.virtual_node_name), port)
        }
        None => (None, "-".to_owned()),
    }
}

fn enrollment(spec: &EnrollmentSpec) -> Vec<String> {
    if let Some(attest) = &spec.attest {
        let nodes = attest.rules.iter().map(|rule| node_or_dash(WrittenNode::of_rule(rule)));
        let selectors = attest.rules.iter().map(|rule| rule.selectors.join(","));
        return vec![
            evidence(attest).to_owned(),
            or_dash(nodes.collect::<Vec<_>>().join(" ")),
            or_dash(selectors.collect::<Vec<_>>().join(" ")),
        ];
    }
    let parent = node_or_dash(spec.parent.as_ref().and_then(WrittenNode::of_parent));
    let workload = spec.workload.clone().unwrap_or_default();
    vec![parent, workload.path, or_dash(workload.selectors.join(","))]
}

/// `virtualnode/orders`, `virtualgateway/edge`.
pub(crate) fn node_or_dash(written: Option<WrittenNode<'_>>) -> String {
    let named = written.and_then(|written| written.named().ok());
    named.as_ref().map_or_else(|| "-".to_owned(), kinds::node_label)
}

/// What agents show for an enrollment.
pub(crate) fn evidence(attest: &AttestEnrollment) -> &'static str {
    match &attest.evidence {
        Some(Evidence::X509pop(_)) => "x509pop",
        Some(Evidence::Kubernetes(_)) => "kubernetes",
        Some(Evidence::Aws(_)) => "aws",
        Some(Evidence::JoinToken(_)) => "join_token",
        None => "-",
    }
}

fn followed(spec: &FederatedTrustDomainSpec) -> Vec<String> {
    let profile = spec.bundle_endpoint_profile.clone().unwrap_or_default().r#type;
    let profile = if profile.is_empty() { "static".to_owned() } else { profile };
    vec![profile, or_dash(spec.bundle_endpoint_url.clone())]
}

/// How long certificates or tokens live.
pub(crate) fn life(ttl: Option<&Duration>) -> String {
    match ttl {
        Some(ttl) => format!("{} {}", ttl.value.unwrap_or_default(), ttl.unit),
        None => "as agents' own".to_owned(),
    }
}

/// `2 permit, 1 forbid`.
fn statements(cedar: &str) -> String {
    let count = |effect: &str| {
        cedar
            .lines()
            .filter(|line| line.strip_prefix(effect).is_some_and(|rest| rest.trim_start().starts_with('(')))
            .count()
    };
    let words: Vec<String> = [("permit", count("permit")), ("forbid", count("forbid"))]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(effect, count)| format!("{count} {effect}"))
        .collect();
    or_dash(words.join(", "))
}

/// The headers of the instances' table.
pub(crate) fn instance_headers(wide: bool) -> Vec<&'static str> {
    let mut headers = vec!["INSTANCE", "NODE", "STATE", "ENFORCES", "CERTIFICATE", "LISTENS"];
    if wide {
        headers.extend(["VERSION", "HOST", "PEER", "CLOCK", "SERIAL", "TOKEN"]);
    }
    headers
}

/// One instance.
pub(crate) fn instance(instance: &Instance, wide: bool, now: UnixMillis) -> Vec<String> {
    let state = match (instance.connected, instance.draining) {
        (true, true) => "draining".to_owned(),
        (true, false) => "connected".to_owned(),
        (false, _) => format!("away {}", age(instance.last_seen.as_ref(), now)),
    };
    let ports = instance.ports.iter().map(|port| format!("{}@{}", port.listener_port, port.address));
    let mut cells = vec![
        instance.id.clone(),
        format!("{}/{}", instance.mesh, instance.node),
        state,
        enforces(instance),
        until(instance.certificate_not_after.as_ref(), now),
        or_dash(ports.collect::<Vec<_>>().join(",")),
    ];
    if wide {
        cells.extend([
            or_dash(instance.version.clone()),
            or_dash(instance.hostname.clone()),
            or_dash(instance.peer_address.clone()),
            format!("{:+} ms", instance.clock_skew_ms),
            or_dash(instance.serial.clone()),
            or_dash(instance.token_id.clone()),
        ]);
    }
    cells
}

/// What an instance enforces of what is meant for it.
pub(crate) fn enforces(instance: &Instance) -> String {
    if instance.enforced_revision >= instance.latest_revision && instance.lag_reason.is_empty() {
        return format!("latest ({})", instance.enforced_revision);
    }
    let reason = if instance.lag_reason.is_empty() { "behind" } else { instance.lag_reason.as_str() };
    format!("{} of {}: {reason}", instance.enforced_revision, instance.latest_revision)
}

/// The headers of the tokens' table.
pub(crate) const TOKEN_HEADERS: [&str; 7] = ["ID", "FOR", "USED", "EXPIRES", "CREATED-BY", "AGE", "LABELS"];

/// One token.
pub(crate) fn token(token: &Token, now: UnixMillis) -> Vec<String> {
    let uses = if token.uses == 0 { "unlimited".to_owned() } else { token.uses.to_string() };
    let what_for = match token.enrollment.as_str() {
        "" => format!("{}/{}", token.mesh, token.node),
        name => format!("{}/enrollment/{name}", token.mesh),
    };
    let labels = sorted(&token.labels).map(|(name, value)| format!("{name}={value}"));
    vec![
        token.id.clone(),
        what_for,
        format!("{} of {uses}", token.used),
        until(token.expires_at.as_ref(), now),
        token.created_by.clone(),
        age(token.created_at.as_ref(), now),
        or_dash(labels.collect::<Vec<_>>().join(",")),
    ]
}

/// The headers of the certificates' table.
pub(crate) const CERTIFICATE_HEADERS: [&str; 5] = ["SERIAL", "SPIFFE-ID", "INSTANCE", "EXPIRES", "ISSUED"];

/// One certificate.
pub(crate) fn certificate(certificate: &IssuedCertificate, now: UnixMillis) -> Vec<String> {
    vec![
        certificate.serial.clone(),
        certificate.spiffe_id.clone(),
        or_dash(certificate.instance_id.clone()),
        until(certificate.not_after.as_ref(), now),
        format!("{} ago", age(certificate.issued_at.as_ref(), now)),
    ]
}

/// The headers of the admins' table.
pub(crate) const ADMIN_HEADERS: [&str; 5] = ["NAME", "ROLES", "CREDENTIAL", "CREATED-BY", "AGE"];

/// One admin.
pub(crate) fn admin(admin: &Admin, now: UnixMillis) -> Vec<String> {
    vec![
        admin.name.clone(),
        admin.roles().map(role).collect::<Vec<_>>().join(","),
        until(admin.credential_not_after.as_ref(), now),
        or_dash(admin.created_by.clone()),
        age(admin.created_at.as_ref(), now),
    ]
}

/// A role as the command line writes it.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::PolicyAdmin => "policy-admin",
        Role::IdentityAdmin => "identity-admin",
        Role::BoundaryAdmin => "boundary-admin",
        Role::Owner => "owner",
        Role::Unspecified => "unknown",
    }
}

/// `12m`, or `-` for nothing.
pub(crate) fn left(until: UnixMillis, now: UnixMillis) -> String {
    if until < now { format!("expired {} ago", short(now.since(until))) } else { short(until.since(now)) }
}

pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
