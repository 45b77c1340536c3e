//! A virtual node, as it is accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hauberk_identity::Name;
use hauberk_policy::{Authorization, Protocol, RouteTemplate, Undeclared};
use hauberk_proto::convert::{Dns, IpPreference};
use hauberk_proto::mesh::v1 as wire;
use wire::service_discovery::Discovery as WireDiscovery;

use super::choice;
use super::problem::Problems;

/// The most listeners of a node: what one agent registers.
const MOST_LISTENERS: usize = 64;
/// The most declared routes of a listener.
const MOST_ROUTES: usize = 1_000;
/// The most backends of a node: what one agent subscribes to.
const MOST_BACKENDS: usize = 1_000;
/// The most fixed endpoints of a node.
const MOST_ENDPOINTS: usize = 1_000;
/// The longest host name (RFC 1035 §2.3.4).
const LONGEST_HOSTNAME: usize = 253;

const PROTOCOLS: [(&str, Protocol); 4] =
    [("http", Protocol::Http), ("http2", Protocol::Http2), ("grpc", Protocol::Grpc), ("tcp", Protocol::Tcp)];

/// A virtual node that is well-formed. That what it names exists is checked where it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNode {
    listeners: Vec<Listener>,
    backends: Vec<Name>,
    discovery: Discovery,
}

/// One mesh port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    port: u16,
    protocol: Protocol,
    routes: Vec<RouteTemplate>,
    undeclared: Undeclared,
    authorization: Option<Authorization>,
}

/// How a node's instances are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// They register themselves.
    Registered,
    /// By a DNS name.
    Dns(Dns),
    /// They are these.
    Fixed(Vec<FixedEndpoint>),
}

/// One address of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedEndpoint {
    address: IpAddr,
    /// The listener it serves; `None`: all of them, each at its own port.
    listener: Option<u16>,
    port: Option<u16>,
}

impl VirtualNode {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::VirtualNodeSpec, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::VirtualNodeSpec { listeners, backends, service_discovery, authorization } = spec;
        let authorization = choice::authorization(problems, "spec.authorization", authorization.as_deref());
        let listeners = parse_listeners(listeners, authorization, problems);
        let backends = parse_backends(backends, problems);
        let discovery = service_discovery
            .as_ref()
            .and_then(|discovery| Discovery::parse(discovery, &listeners, problems))
            .unwrap_or(Discovery::Registered);
        (problems.count() == before).then_some(Self { listeners, backends, discovery })
    }

    /// Its mesh ports, in the order of their numbers.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The listener with this port.
    pub fn listener(&self, port: u16) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.port == port)
    }

    /// Services that its agents are sent unasked, in order.
    pub fn backends(&self) -> &[Name] {
        &self.backends
    }

    /// How its instances are found.
    pub fn discovery(&self) -> &Discovery {
        &self.discovery
    }
}

impl Listener {
    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The declared routes.
    pub fn routes(&self) -> &[RouteTemplate] {
        &self.routes
    }

    /// What becomes of requests that match none of them.
    pub fn undeclared(&self) -> Undeclared {
        self.undeclared
    }

    /// What it, or else its node, says of default denials; `None`: the mesh decides.
    pub fn authorization(&self) -> Option<Authorization> {
        self.authorization
    }
}

fn parse_listeners(
    listeners: &[wire::Listener],
    of_node: Option<Authorization>,
    problems: &mut Problems,
) -> Vec<Listener> {
    if listeners.len() > MOST_LISTENERS {
        let message = format!("{} listeners are too many: at most {MOST_LISTENERS}", listeners.len());
        problems.invalid("spec.listeners", message);
    }
    let mut parsed: BTreeMap<u16, (usize, Listener)> = BTreeMap::new();
    for (index, listener) in listeners.iter().enumerate().take(MOST_LISTENERS) {
        let field = format!("spec.listeners[{index}]");
        let Some(listener) = Listener::parse(listener, of_node, &field, problems) else { continue };
        if let Some((first, _)) = parsed.get(&listener.port) {
            let message = format!("port {} is already that of listeners[{first}]", listener.port);
            problems.invalid(format!("{field}.portMapping.port"), message);
        } else {
            parsed.insert(listener.port, (index, listener));
        }
    }
    parsed.into_values().map(|(_, listener)| listener).collect()
}

impl Listener {
    fn parse(
        listener: &wire::Listener,
        of_node: Option<Authorization>,
        field: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::Listener { port_mapping, tls, authorization, routes, undeclared } = listener;
        if let Some(wire::ListenerTls { mode }) = tls {
            check_tls(mode, &format!("{field}.tls.mode"), problems);
        }
        let authorization =
            choice::authorization(problems, &format!("{field}.authorization"), authorization.as_deref());
        let answers = [("DECIDE", Undeclared::Decide), ("DENY", Undeclared::Deny)];
        let undeclared = undeclared
            .as_deref()
            .and_then(|word| choice::choose(problems, &format!("{field}.undeclared"), word, &answers))
            .unwrap_or_default();
        let Some(wire::PortMapping { port, protocol }) = port_mapping else {
            let help = "write portMapping: {port: 8080, protocol: http}";
            problems.invalid_but(format!("{field}.portMapping"), "it is missing", help);
            return None;
        };
        let port = choice::port(problems, &format!("{field}.portMapping.port"), *port);
        let protocol =
            choice::choose(problems, &format!("{field}.portMapping.protocol"), protocol, &PROTOCOLS)?;
        if protocol == Protocol::Tcp && undeclared == Undeclared::Deny {
            let help = "leave it out: on tcp there are no requests, and policies decide each stream";
            problems.invalid_but(format!("{field}.undeclared"), "a tcp listener has no routes", help);
        }
        let routes = parse_routes(routes, protocol, &format!("{field}.routes"), problems);
        Some(Self { port: port?, protocol, routes, undeclared, authorization: authorization.or(of_node) })
    }
}

fn check_tls(mode: &str, field: &str, problems: &mut Problems) {
    let modes = [("STRICT", true), ("PERMISSIVE", false), ("DISABLED", false)];
    if choice::choose(problems, field, mode, &modes) == Some(false) {
        problems.invalid_but(
            field,
            format!("{mode} would let callers in who prove no identity; mesh ports take mutual TLS alone"),
            "write STRICT or leave tls out, and give callers without an agent a certificate of their own",
        );
    }
}

fn parse_routes(
    routes: &[wire::RouteDeclaration],
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> Vec<RouteTemplate> {
    if protocol == Protocol::Tcp && !routes.is_empty() {
        problems.invalid(field, "a tcp listener has no routes: there are no requests on it");
        return Vec::new();
    }
    if routes.len() > MOST_ROUTES {
        problems.invalid(field, format!("{} routes are too many: at most {MOST_ROUTES}", routes.len()));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut parsed = Vec::new();
    for (index, route) in routes.iter().enumerate().take(MOST_ROUTES) {
        let wire::RouteDeclaration { path, methods } = route;
        let field = format!("{field}[{index}]");
        let Some(methods) = parse_methods(methods, protocol, &field, problems) else { continue };
        let text = if methods.is_empty() { path.clone() } else { format!("{} {path}", methods.join(",")) };
        let template = match RouteTemplate::parse(&text) {
            Ok(template) => template,
            Err(error) => {
                problems.invalid(format!("{field}.path"), error);
                continue;
            }
        };
        match (protocol, template.is_rpc()) {
            (Protocol::Grpc, false) => {
                let help = "write package.Service/Method or package.Service/*";
                problems.invalid_but(format!("{field}.path"), "a route of a grpc listener is a method", help);
            }
            (Protocol::Http | Protocol::Http2, true) => {
                let help = "begin it with a slash, such as /orders/{id}";
                problems.invalid_but(format!("{field}.path"), "a route of an http listener is a path", help);
            }
            _ => match seen.insert(text, index) {
                Some(first) => problems.invalid(field, format!("this is already routes[{first}]")),
                None => parsed.push(template),
            },
        }
    }
    parsed
}

fn parse_methods(
    methods: &[String],
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    if protocol == Protocol::Grpc && !methods.is_empty() {
        problems.invalid(format!("{field}.methods"), "a gRPC method has no HTTP methods: leave them out");
        return None;
    }
    let mut parsed = BTreeSet::new();
    let before = problems.count();
    for (index, method) in methods.iter().enumerate() {
        let field = format!("{field}.methods[{index}]");
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
            problems.invalid_but(field, format!("{method:?} is not an HTTP method"), "write it in capitals");
        } else if !parsed.insert(method.clone()) {
            problems.invalid(field, format!("{method} stands here twice"));
        }
    }
    (problems.count() == before).then(|| parsed.into_iter().collect())
}

fn parse_backends(backends: &[wire::Backend], problems: &mut Problems) -> Vec<Name> {
    if backends.len() > MOST_BACKENDS {
        let message = format!("{} backends are too many: at most {MOST_BACKENDS}", backends.len());
        problems.invalid_but("spec.backends", message, "services are found at their first use anyway");
    }
    let mut parsed = BTreeSet::new();
    for (index, wire::Backend { virtual_service }) in backends.iter().enumerate().take(MOST_BACKENDS) {
        let field = format!("spec.backends[{index}].virtualService");
        let Some(wire::BackendVirtualService { virtual_service_name }) = virtual_service else {
            let help = "write virtualService: {virtualServiceName: …}";
            problems.invalid_but(field, "it is missing", help);
            continue;
        };
        let field = format!("{field}.virtualServiceName");
        if let Some(name) = choice::name(problems, &field, virtual_service_name)
            && !parsed.insert(name)
        {
            problems.invalid(field, format!("{virtual_service_name:?} stands here twice"));
        }
    }
    parsed.into_iter().collect()
}

impl Discovery {
    fn parse(
        discovery: &wire::ServiceDiscovery,
        listeners: &[Listener],
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::ServiceDiscovery { discovery } = discovery;
        match discovery {
            Some(WireDiscovery::Dns(dns)) => parse_dns(dns, problems).map(Self::Dns),
            Some(WireDiscovery::Fixed(fixed)) => Some(Self::Fixed(parse_fixed(fixed, listeners, problems))),
            Some(WireDiscovery::Registered(wire::RegisteredDiscovery {})) => Some(Self::Registered),
            None => {
                let help = "write dns, fixed or registered, or leave it out: agents register themselves";
                problems.invalid_but("spec.serviceDiscovery", "it is empty", help);
                None
            }
        }
    }
}

fn parse_dns(dns: &wire::DnsDiscovery, problems: &mut Problems) -> Option<Dns> {
    let wire::DnsDiscovery { hostname, response_type, ip_preference } = dns;
    let field = "spec.serviceDiscovery.dns";
    if !is_hostname(hostname) {
        let message = format!("{hostname:?} is not a host name");
        problems.invalid(format!("{field}.hostname"), message);
    }
    let kinds = [("LOADBALANCER", false), ("ENDPOINTS", true)];
    let all_addresses = response_type
        .as_deref()
        .and_then(|word| choice::choose(problems, &format!("{field}.responseType"), word, &kinds));
    let preferences = [
        ("IPv4_PREFERRED", IpPreference::Ipv4Preferred),
        ("IPv4_ONLY", IpPreference::Ipv4Only),
        ("IPv6_PREFERRED", IpPreference::Ipv6Preferred),
        ("IPv6_ONLY", IpPreference::Ipv6Only),
    ];
    let ip_preference = ip_preference
        .as_deref()
        .and_then(|word| choice::choose(problems, &format!("{field}.ipPreference"), word, &preferences));
    Some(Dns {
        hostname: hostname.clone(),
        all_addresses: all_addresses.unwrap_or_default(),
        ip_preference: ip_preference.unwrap_or_default(),
    })
}

/// RFC 1123 §2.1, and underscores, which service names in DNS have.
fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= LONGEST_HOSTNAME && text.split('.').all(is_label)
}

fn parse_fixed(
    fixed: &wire::FixedDiscovery,
    listeners: &[Listener],
    problems: &mut Problems,
) -> Vec<FixedEndpoint> {
    let wire::FixedDiscovery { endpoints } = fixed;
    let field = "spec.serviceDiscovery.fixed.endpoints";
    if endpoints.is_empty() {
        problems.invalid_but(
            field,
            "it is empty",
            "list at least one address, or leave serviceDiscovery out",
        );
    }
    if endpoints.len() > MOST_ENDPOINTS {
        let message = format!("{} endpoints are too many: at most {MOST_ENDPOINTS}", endpoints.len());
        problems.invalid_but(field, message, "use dns, or let agents register themselves");
    }
    let endpoints = endpoints.iter().enumerate().take(MOST_ENDPOINTS);
    endpoints
        .filter_map(|(index, endpoint)| {
            FixedEndpoint::parse(endpoint, listeners, &format!("{field}[{index}]"), problems)
        })
        .collect()
}

impl FixedEndpoint {
    fn parse(
        endpoint: &wire::FixedEndpoint,
        listeners: &[Listener],
        field: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::FixedEndpoint { address, listener_port, port } = endpoint;
        let before = problems.count();
        let ip = match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                problems.invalid(format!("{field}.address"), format!("nobody can be reached at {ip}"));
                None
            }
            Ok(ip) => Some(ip),
            Err(_) => {
                let message = format!("{address:?} is not an IP address");
                problems.invalid_but(format!("{field}.address"), message, "use dns for a host name");
                None
            }
        };
        let mut number = |name: &str, number: &Option<u32>| {
            number.and_then(|_| choice::port(problems, &format!("{field}.{name}"), *number))
        };
        let (listener, port) = (number("listenerPort", listener_port), number("port", port));
        // A port that is given alone is that of the listener as well.
        let (named, wanted) =
            if listener_port.is_some() { ("listenerPort", listener) } else { ("port", port) };
        if let Some(wanted) = wanted
            && !listeners.iter().any(|listener| listener.port == wanted)
        {
            let help = (named == "port").then(|| "name the listener as listenerPort".to_owned());
            let message = format!("there is no listener with port {wanted}");
            problems.report(super::problem::Fault::Invalid, format!("{field}.{named}"), message, help);
        }
        let ip = ip?;
        (problems.count() == before).then_some(Self { address: ip, listener: wanted, port })
    }

    /// Where this endpoint serves the listener with the given port, if it does.
    pub fn serving(&self, listener: u16) -> Option<SocketAddr> {
        let serves = self.listener.is_none_or(|own| own == listener);
        serves.then(|| SocketAddr::new(self.address, self.port.unwrap_or(listener)))
    }
}
