//! The fewest statements that permit what was seen, and what they permit beyond that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use hauberk_identity::{IdentityKind, Name};

use crate::decision::Caller;
use crate::grant::{Access, Grant, GrantCaller, GrantTarget, MAX_NAME_LEN, Verb};
use crate::pattern::{PathPattern, quote};
use crate::route::UNDECLARED;
use crate::scope::{NodeScope, Place, PortScope, Protocol};
use crate::vocabulary::Action;

/// From how many paths on, that differ in numbers and the like alone, one pattern stands for them.
const GENERALISED_FROM: usize = 2;

/// One call that was seen, or several that differ in nothing that is said here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// The listener that was called.
    pub port: u16,
    /// What was done.
    pub action: Action,
    /// The template of the declared route that it belongs to; none for an undeclared one.
    pub route: Option<String>,
    /// The method, as sent, and the path, without a query; empty for a stream, and where they are not known.
    pub method: String,
    /// The path.
    pub path: String,
}

/// A policy that permits what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuggestedPolicy {
    /// Its name: always the same for the same callers and node.
    pub name: String,
    /// Its text.
    pub cedar: String,
}

/// What a node's callers did, as policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suggested {
    /// One for all callers that did the same.
    pub policies: Vec<SuggestedPolicy>,
    /// What they permit beyond what was seen, in words.
    pub generalisations: BTreeSet<String>,
}

/// A statement without its principal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Body {
    action: String,
    resource: String,
    conditions: Vec<String>,
}

/// What one caller did at one listener: at each declared route, and with each undeclared path.
#[derive(Debug, Default)]
struct AtPort<'a> {
    declared: BTreeMap<&'a str, Done<'a>>,
    undeclared: BTreeMap<&'a str, Done<'a>>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Done<'a> {
    actions: BTreeSet<Action>,
    /// The methods that are no actions of their own.
    others: BTreeSet<&'a str>,
}

/// Writes the policies for what was seen at one node. Callers that policies cannot name are left out.
pub fn suggest(scope: &NodeScope, seen: &BTreeMap<Caller, BTreeSet<Seen>>) -> Suggested {
    let mut suggested = Suggested::default();
    let mut alike: BTreeMap<Vec<Body>, Vec<GrantCaller>> = BTreeMap::new();
    let Some(target) = target_of(scope) else { return suggested };
    for (caller, seen) in seen {
        let caller = match caller {
            Caller::Peer(id) => GrantCaller::of(id, &scope.trust_domain, &scope.mesh),
            Caller::Anonymous => Some(GrantCaller::Anonymous),
        };
        let Some(caller) = caller else { continue };
        let bodies = bodies(scope, &target, &caller, seen, &mut suggested.generalisations);
        if !bodies.is_empty() {
            alike.entry(bodies).or_default().push(caller);
        }
    }
    for (bodies, callers) in alike {
        let statements = callers.iter().flat_map(|caller| bodies.iter().map(|body| body.permit(caller)));
        let cedar = statements.collect::<Vec<_>>().join("\n");
        let name = name_of(&callers, &target);
        suggested.policies.push(SuggestedPolicy { name, cedar });
    }
    suggested.policies.sort_by(|one, other| one.name.cmp(&other.name));
    suggested
}

/// `suggested-web-to-orders`, with a few words and digits more for anything but one node that calls another.
fn name_of(callers: &[GrantCaller], target: &GrantTarget) -> String {
    if let ([GrantCaller::Node(caller)], GrantTarget::Node(node)) = (callers, target) {
        let name = format!("suggested-{caller}-to-{node}");
        if name.len() <= MAX_NAME_LEN {
            return name;
        }
    }
    let (callers, target) = (callers.to_vec(), target.clone());
    let grant = Grant { callers, target, port: None, access: Access::All };
    grant.name(Verb::Allow).replacen("allow-", "suggested-", 1)
}

fn target_of(scope: &NodeScope) -> Option<GrantTarget> {
    let name = |name: &str| Name::parse(name).ok();
    let node = match &scope.place {
        Place::Node(node) => node,
        Place::External(external) => return Some(GrantTarget::External(external.clone())),
    };
    match node.kind() {
        IdentityKind::Node { name: node, .. } => name(node).map(GrantTarget::Node),
        IdentityKind::Gateway { name: gateway, .. } => name(gateway).map(GrantTarget::Gateway),
        _ => None,
    }
}

fn bodies(
    scope: &NodeScope,
    target: &GrantTarget,
    caller: &GrantCaller,
    seen: &BTreeSet<Seen>,
    generalisations: &mut BTreeSet<String>,
) -> Vec<Body> {
    let mut bodies = Vec::new();
    for port in &scope.ports {
        let own = || seen.iter().filter(|seen| seen.port == port.number);
        let place = format!("{}:{}", target.word(), port.number);
        let writer = Writer { place: &place, caller, protocol: port.protocol };
        let before = bodies.len();
        match port.protocol {
            Protocol::Tcp => {
                bodies.extend(own().next().map(|_| Body {
                    action: action_clause(&BTreeSet::from([Action::Connect])),
                    resource: format!("resource == Port::{}", quote(&place)),
                    conditions: Vec::new(),
                }));
            }
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                let mut at = AtPort::default();
                own().for_each(|seen| at.add(seen));
                bodies.extend(writer.declared(&at, generalisations));
                bodies.extend(writer.undeclared(&at, generalisations));
            }
        }
        if let GrantTarget::External(external) = target {
            let written = bodies.iter_mut().skip(before);
            written.for_each(|body| body.leave_by(external, port));
        }
    }
    bodies
}

impl<'a> AtPort<'a> {
    fn add(&mut self, seen: &'a Seen) {
        let done = match &seen.route {
            Some(route) => self.declared.entry(route).or_default(),
            None if seen.path.is_empty() => return,
            None => self.undeclared.entry(&seen.path).or_default(),
        };
        match seen.action {
            Action::Other if seen.method.is_empty() => {}
            Action::Other => drop(done.others.insert(&seen.method)),
            // Such a request is both, and both must be permitted.
            Action::Upgrade => done.actions.extend([Action::Get, Action::Upgrade]),
            action => drop(done.actions.insert(action)),
        }
    }
}

/// Writes what one caller did at one listener.
struct Writer<'a> {
    place: &'a str,
    caller: &'a GrantCaller,
    protocol: Protocol,
}

impl Writer<'_> {
    fn declared(&self, at: &AtPort<'_>, generalisations: &mut BTreeSet<String>) -> Vec<Body> {
        let mut by_done: BTreeMap<&Done<'_>, Vec<&str>> = BTreeMap::new();
        for (route, done) in &at.declared {
            self.name_upgrade(done, route, generalisations);
            if route.contains(['{', '*']) {
                generalisations.insert(format!("{} {route}: every path of the declared route", self.place));
            }
            by_done.entry(done).or_default().push(route);
        }
        let route = |template: &str| format!("Route::{}", quote(&format!("{} {template}", self.place)));
        by_done
            .into_iter()
            .flat_map(|(done, routes)| {
                let (resource, conditions) = match &routes[..] {
                    [only] => (format!("resource == {}", route(only)), Vec::new()),
                    several => {
                        let routes: Vec<_> = several.iter().map(|template| route(template)).collect();
                        let condition = format!("[{}].contains(resource)", routes.join(", "));
                        (format!("resource in Port::{}", quote(self.place)), vec![condition])
                    }
                };
                done.bodies(&resource, &conditions)
            })
            .collect()
    }

    fn undeclared(&self, at: &AtPort<'_>, generalisations: &mut BTreeSet<String>) -> Vec<Body> {
        let mut by_done: BTreeMap<&Done<'_>, Vec<&str>> = BTreeMap::new();
        for (path, done) in &at.undeclared {
            self.name_upgrade(done, path, generalisations);
            by_done.entry(done).or_default().push(path);
        }
        let resource = format!("resource == Route::{}", quote(&format!("{} {UNDECLARED}", self.place)));
        by_done
            .into_iter()
            .flat_map(|(done, paths)| {
                let condition = match self.protocol {
                    Protocol::Grpc => rpcs(&paths),
                    _ => self.paths(done, &paths, generalisations),
                };
                done.bodies(&resource, &[condition])
            })
            .collect()
    }

    /// The condition that a path is one of these, or, where several differ in numbers and the like alone, such as
    /// these.
    fn paths(&self, done: &Done<'_>, paths: &[&str], generalisations: &mut BTreeSet<String>) -> String {
        let mut by_shape: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for path in paths {
            by_shape.entry(shape(path)).or_default().push(path);
        }
        let mut exact = Vec::new();
        let mut conditions = Vec::new();
        for (shape, paths) in by_shape {
            let pattern = PathPattern::parse(&shape).ok().filter(|_| paths.len() >= GENERALISED_FROM);
            match pattern {
                None => exact.extend(paths.into_iter().map(quote)),
                Some(pattern) => {
                    generalisations.insert(format!(
                        "{} {} {}: {shape} for {} paths that were seen; * stands for more than one segment, too",
                        self.caller.word(),
                        done.words(),
                        self.place,
                        paths.len()
                    ));
                    conditions.push(format!("context.path {}", pattern.to_cedar()));
                }
            }
        }
        match &exact[..] {
            [] => {}
            [only] => conditions.insert(0, format!("context.path == {only}")),
            several => conditions.insert(0, format!("[{}].contains(context.path)", several.join(", "))),
        }
        any_of(conditions)
    }

    fn name_upgrade(&self, done: &Done<'_>, what: &str, generalisations: &mut BTreeSet<String>) {
        if done.actions.contains(&Action::Upgrade) {
            generalisations.insert(format!(
                "{} GET {} {what}: without asking for another protocol, too",
                self.caller.word(),
                self.place
            ));
        }
    }
}

impl Done<'_> {
    fn bodies(&self, resource: &str, conditions: &[String]) -> Vec<Body> {
        let body = |action, more: Option<String>| Body {
            action,
            resource: resource.to_owned(),
            conditions: conditions.iter().cloned().chain(more).collect(),
        };
        let named = (!self.actions.is_empty()).then(|| body(action_clause(&self.actions), None));
        let others = (!self.others.is_empty()).then(|| {
            let methods: Vec<_> = self.others.iter().map(|method| quote(method)).collect();
            let condition = format!("[{}].contains(context.method)", methods.join(", "));
            body(action_clause(&BTreeSet::from([Action::Other])), Some(condition))
        });
        named.into_iter().chain(others).collect()
    }

    fn words(&self) -> String {
        let actions = self.actions.iter().map(|action| action.as_str());
        actions.chain(self.others.iter().copied()).collect::<Vec<_>>().join(",")
    }
}

impl Body {
    /// The same of a port of an external service, which has no name in policies: the service has one.
    fn leave_by(&mut self, external: &Name, port: &PortScope) {
        self.resource = format!("resource in External::{}", quote(external.as_str()));
        let number = port.number;
        let condition = match port.protocol {
            Protocol::Tcp => format!("resource is Port && resource.number == {number}"),
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                format!("resource is Route && resource.port == {number}")
            }
        };
        self.conditions.insert(0, condition);
    }

    fn permit(&self, caller: &GrantCaller) -> String {
        let Self { action, resource, conditions } = self;
        let mut text = format!("permit(\n  {},\n  {action},\n  {resource}\n)", caller.scope());
        if !conditions.is_empty() {
            let _infallible = write!(text, "\nwhen {{ {} }}", conditions.join(" && "));
        }
        text + ";\n"
    }
}

fn action_clause(actions: &BTreeSet<Action>) -> String {
    let uids: Vec<_> = actions.iter().map(|action| format!("Action::{}", quote(action.as_str()))).collect();
    match &uids[..] {
        [only] => format!("action == {only}"),
        several => format!("action in [{}]", several.join(", ")),
    }
}

/// The condition that a gRPC method is one of these paths.
fn rpcs(paths: &[&str]) -> String {
    let mut by_service: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (service, method) in paths.iter().filter_map(|path| path.trim_start_matches('/').split_once('/')) {
        by_service.entry(service).or_default().push(quote(method));
    }
    let one = |(service, methods): (&str, Vec<String>)| {
        let methods = match &methods[..] {
            [only] => format!("context.rpc == {only}"),
            several => format!("[{}].contains(context.rpc)", several.join(", ")),
        };
        format!("context.service == {} && {methods}", quote(service))
    };
    any_of(by_service.into_iter().map(one).collect())
}

fn any_of(conditions: Vec<String>) -> String {
    match &conditions[..] {
        [only] => only.clone(),
        several => format!("({})", several.join(" || ")),
    }
}

/// The path with an asterisk for each segment that is a number, a UUID or the like; asterisks of its own escaped.
fn shape(path: &str) -> String {
    let segments = path
        .split('/')
        .map(|segment| if is_identifier(segment) { "*".to_owned() } else { segment.replace('*', "\\*") });
    segments.collect::<Vec<_>>().join("/")
}

/// Whether a segment is a number, or hexadecimal digits and hyphens as long as those of a UUID.
fn is_identifier(segment: &str) -> bool {
    let is_number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let is_hexadecimal = segment.len() >= 16
        && segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && segment.bytes().any(|byte| byte.is_ascii_digit());
    is_number || is_hexadecimal
}

#[cfg(test)]
mod tests;
