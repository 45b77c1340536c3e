//! A virtual node, as it is accepted.

mod readings;

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_policy::{
    Authorization, DeclaredRoute, EscapedSlashes, MethodAccess, ObsText, Protocol, RouteTemplate, Undeclared,
    UserTokens,
};
use hauberk_proto::mesh::v1 as wire;

use super::api;
use super::choice;
use super::discovery::Discovery;
use super::problem::Problems;

/// The most listeners of a node: what one agent registers.
const MOST_LISTENERS: usize = 64;
/// The most declared routes of a listener.
const MOST_ROUTES: usize = 1_000;
/// The most data classes that a route names.
pub(super) const MOST_CLASSES: usize = 32;
/// The most issuers that a listener names.
const MOST_ISSUERS: usize = 16;
/// The most backends of a node: what one agent subscribes to.
const MOST_BACKENDS: usize = 1_000;

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
    routes: Vec<DeclaredRoute>,
    undeclared: Undeclared,
    authorization: Option<Authorization>,
    users: Option<UserTokens>,
    escaped_slashes: EscapedSlashes,
    obs_text: ObsText,
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

    /// One that nobody calls, and that is sent nothing unasked.
    pub(crate) fn that_only_calls() -> Self {
        Self { listeners: Vec::new(), backends: Vec::new(), discovery: Discovery::Registered }
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

    /// The declared routes, each with the data classes that it names itself.
    pub fn routes(&self) -> &[DeclaredRoute] {
        &self.routes
    }

    /// What becomes of requests that match none of them.
    pub fn undeclared(&self) -> Undeclared {
        self.undeclared
    }

    /// How tokens of users are taken; `None`: nobody looks at them.
    pub fn users(&self) -> Option<&UserTokens> {
        self.users.as_ref()
    }

    /// What becomes of paths with escaped slashes.
    pub fn escaped_slashes(&self) -> EscapedSlashes {
        self.escaped_slashes
    }

    /// What becomes of header fields with bytes beyond ASCII.
    pub fn obs_text(&self) -> ObsText {
        self.obs_text
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
    let mut parsed: BTreeMap<u16, Listener> = BTreeMap::new();
    // Also those of listeners that are refused for something else.
    let mut ports: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, listener) in listeners.iter().enumerate().take(MOST_LISTENERS) {
        let field = format!("spec.listeners[{index}]");
        let port = listener.port_mapping.as_ref().and_then(|mapping| mapping.port);
        let port = port.filter(|port| (1..=u32::from(u16::MAX)).contains(port));
        let first = port.and_then(|port| ports.get(&port));
        if let (Some(port), Some(first)) = (port, first) {
            let message = format!("port {port} is already that of listeners[{first}]");
            problems.invalid(format!("{field}.portMapping.port"), message);
        } else {
            ports.extend(port.map(|port| (port, index)));
        }
        if let Some(listener) = Listener::parse(listener, of_node, &field, problems) {
            parsed.entry(listener.port).or_insert(listener);
        }
    }
    parsed.into_values().collect()
}

impl Listener {
    fn parse(
        listener: &wire::Listener,
        of_node: Option<Authorization>,
        field: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::Listener {
            port_mapping,
            tls,
            authorization,
            routes,
            undeclared,
            api,
            users,
            path_with_escaped_slashes_action,
            obs_text,
        } = listener;
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
        let escaped_slashes =
            readings::escaped_slashes(path_with_escaped_slashes_action.as_deref(), protocol, field, problems);
        let obs_text = readings::obs_text(obs_text.as_deref(), protocol, field, problems);
        let users = users
            .as_ref()
            .and_then(|users| parse_users(users, protocol, &format!("{field}.users"), problems));
        let mut routes = parse_routes(routes, protocol, &format!("{field}.routes"), problems);
        if users.is_none() && routes.iter().any(|route| route.requires_user.is_some()) {
            let help = "write users: {} on the listener as well: without it nobody looks at tokens";
            problems.invalid_but(format!("{field}.routes"), "a route says how users' tokens are taken", help);
        }
        if let Some(api) = api {
            let field = format!("{field}.api");
            routes.extend(api::routes(api, &routes, protocol, &field, problems));
            check_described(&routes, &field, problems);
        }
        let authorization = authorization.or(of_node);
        let port = port?;
        Some(Self { port, protocol, routes, undeclared, authorization, users, escaped_slashes, obs_text })
    }
}

/// Whether a request must be made for a user.
const USER_MODES: [(&str, bool); 2] = [("OPTIONAL", false), ("REQUIRED", true)];

/// What a gRPC method does.
const ACCESSES: [(&str, MethodAccess); 2] = [("READ", MethodAccess::Read), ("WRITE", MethodAccess::Write)];

fn parse_users(
    users: &wire::UserTokens,
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> Option<UserTokens> {
    let wire::UserTokens { mode, issuers, keep_token } = users;
    if protocol == Protocol::Tcp {
        problems.invalid(field, "a tcp listener has no requests, and they no tokens");
        return None;
    }
    let mode = mode.as_deref().unwrap_or("OPTIONAL");
    let required = choice::choose(problems, &format!("{field}.mode"), mode, &USER_MODES)?;
    let issuers = choice::names(problems, &format!("{field}.issuers"), issuers, MOST_ISSUERS);
    Some(UserTokens { required, issuers, kept: keep_token.unwrap_or_default() })
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
) -> Vec<DeclaredRoute> {
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
        let wire::RouteDeclaration { path, methods, data_classes, users, access } = route;
        let field = format!("{field}[{index}]");
        let requires_user = users
            .as_deref()
            .and_then(|mode| choice::choose(problems, &format!("{field}.users"), mode, &USER_MODES));
        let access = access.as_deref().and_then(|access| {
            let field = format!("{field}.access");
            if protocol != Protocol::Grpc {
                let help = "leave it out: of an HTTP request the method says it";
                problems.invalid_but(field, "it is said of gRPC methods", help);
                return None;
            }
            choice::choose(problems, &field, access, &ACCESSES)
        });
        let access = access.unwrap_or_default();
        let classes = choice::names(problems, &format!("{field}.dataClasses"), data_classes, MOST_CLASSES);
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
                None => parsed.push(DeclaredRoute { template, classes, requires_user, access }),
            },
        }
    }
    parsed
}

/// Holds what a description says to the same limits.
fn check_described(routes: &[DeclaredRoute], field: &str, problems: &mut Problems) {
    if routes.len() > MOST_ROUTES {
        let message = format!("{} routes by it are too many: at most {MOST_ROUTES}", routes.len());
        problems.invalid(field, message);
    }
    if let Some(route) = routes.iter().find(|route| route.classes.len() > MOST_CLASSES) {
        let message =
            format!("{} has {} data classes: at most {MOST_CLASSES}", route.template, route.classes.len());
        problems.invalid(field, message);
    }
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
