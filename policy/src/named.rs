//! Ports and routes that conditions name, whosever they are: what they are and what they are in travels with the
//! policies. A node that knew its own alone would find others in nothing, and a forbid that asks for it would stop
//! nothing there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use hauberk_identity::{Name, SpiffeId};

use crate::document::PolicyDocument;
use crate::names::{Namespace, port_id, route_id};
use crate::reads::Reads;
use crate::route::UNDECLARED;
use crate::scope::{NodeLabel, PortScope, Protocol, RoleMembers};
use crate::vocabulary::Kind;

/// A port of a node or gateway of the policies' own mesh, as conditions that name it, or a route of it, find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Whose port it is.
    pub node: SpiffeId,
    /// Its number.
    pub number: u16,
    /// What is there; none where there is no such port.
    pub listener: Option<NamedListener>,
}

/// What is known of such a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedListener {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The virtual services that it is of.
    pub services: Vec<Name>,
    /// Of its declared routes those that are named too, each with the data classes that it is in, those around them
    /// among them.
    pub routes: BTreeMap<String, Vec<Name>>,
}

/// A port, or a route of it, of which a condition asks what it is or what it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRead {
    node: SpiffeId,
    number: u16,
    /// The route's template.
    route: Option<Box<str>>,
}

/// What one statement's conditions ask of services, ports and routes that they name.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedReads {
    /// Of which ports and routes.
    pub(crate) ports: Vec<PortRead>,
    /// Of any of them, or of services.
    any: bool,
}

impl NamedReads {
    /// Reads it from what a statement with full names reads.
    pub(crate) fn of(reads: &Reads) -> Self {
        // None of these names is of anything but a node, whose all are by now.
        Self { ports: PortRead::all(reads).unwrap_or_default(), any: reads.asks_of_named_resources() }
    }
}

/// What of the mesh policies may ask for besides who calls and what is called. Empty: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Roles with their members.
    pub roles: &'a [RoleMembers],
    /// Labels with the nodes that have them.
    pub labels: &'a [NodeLabel],
    /// Ports that conditions name.
    pub ports: &'a [NamedPort],
}

impl PortRead {
    /// Reads a full name; none where it is of neither port nor route of a node.
    fn of(kind: Kind, id: &str) -> Option<Self> {
        let (port, route) = match kind {
            Kind::Port => (id, None),
            Kind::Route => id.split_once(' ').map(|(port, route)| (port, Some(route.into())))?,
            _ => return None,
        };
        let (node, number) = port.rsplit_once(':')?;
        Some(Self { node: SpiffeId::parse(node).ok()?, number: number.parse().ok()?, route })
    }

    /// Those that conditions ask about; none where one cannot be read.
    pub(crate) fn all(reads: &Reads) -> Option<Vec<Self>> {
        let of_ports = reads.consulted.iter().filter(|(kind, _)| matches!(kind, Kind::Port | Kind::Route));
        of_ports.map(|(kind, id)| Self::of(*kind, id)).collect()
    }

    /// Whose port it is.
    pub fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The port that it is, or that it is a route of.
    pub(crate) fn place(&self) -> (&SpiffeId, &u16) {
        (&self.node, &self.number)
    }

    /// As policies would write it, with full names.
    pub(crate) fn in_words(&self) -> String {
        let port = port_id(&self.node, self.number);
        match &self.route {
            Some(route) => format!("Route::\"{port} {route}\""),
            None => format!("Port::\"{port}\""),
        }
    }
}

impl NamedPort {
    /// What is to be known of the ports that are read, in order, where `listener` finds one.
    pub fn found<'a>(
        reads: impl IntoIterator<Item = &'a PortRead>,
        mut listener: impl FnMut(&SpiffeId, u16) -> Option<PortScope>,
    ) -> Vec<Self> {
        let ports = by_port(reads).into_iter().map(|((node, number), routes)| {
            let listener =
                listener(node, number).map(|PortScope { protocol, services, routes: all, .. }| {
                    let named = all.into_iter().filter(|route| routes.contains(route.template.as_str()));
                    let routes = named.map(|route| (route.template.to_string(), route.classes)).collect();
                    NamedListener { protocol, services, routes }
                });
            Self { node: node.clone(), number, listener }
        });
        ports.collect()
    }

    /// Itself and its routes, with whose it is and the services that it is of; nothing where there is no such port.
    pub(crate) fn entities(&self, names: &Namespace) -> Vec<Entity> {
        let Some(NamedListener { protocol, services, routes }) = &self.listener else { return Vec::new() };
        let port = Kind::Port.uid(port_id(&self.node, self.number));
        let mut entities = vec![];
        let services: Vec<_> =
            services.iter().map(|service| Kind::Service.uid(names.service_id(service))).collect();
        let mesh = HashSet::from([Kind::Mesh.uid(&names.mesh)]);
        entities.extend(services.iter().map(|service| Entity::new_no_attrs(service.clone(), mesh.clone())));
        let within = services.into_iter().chain([Kind::Node.uid(&self.node)]);
        entities.extend(port_entity(port.clone(), self.number, *protocol, within));
        let routes = routes.iter().map(|(template, classes)| (template.as_str(), classes.as_slice()));
        for (template, classes) in routes.chain([(UNDECLARED, &[][..])]) {
            let route = Kind::Route.uid(route_id(&self.node, self.number, template));
            entities.extend(route_entity(route, template, self.number, classes, &port, names));
        }
        entities
    }
}

/// A port by what it is and what it is in.
pub(crate) fn port_entity(
    uid: EntityUid,
    number: u16,
    protocol: Protocol,
    within: impl IntoIterator<Item = EntityUid>,
) -> Option<Entity> {
    let attributes = HashMap::from([
        ("number".to_owned(), RestrictedExpression::new_long(number.into())),
        ("protocol".to_owned(), RestrictedExpression::new_string(protocol.as_str().to_owned())),
    ]);
    Entity::new(uid, attributes, within.into_iter().collect()).ok()
}

/// A route of a port.
pub(crate) fn route_entity(
    uid: EntityUid,
    template: &str,
    number: u16,
    classes: &[Name],
    port: &EntityUid,
    names: &Namespace,
) -> Option<Entity> {
    let attributes = HashMap::from([
        ("template".to_owned(), RestrictedExpression::new_string(template.to_owned())),
        ("port".to_owned(), RestrictedExpression::new_long(number.into())),
    ]);
    let classes = classes.iter().map(|class| Kind::DataClass.uid(names.data_class_id(class)));
    Entity::new(uid, attributes, classes.chain([port.clone()]).collect()).ok()
}

impl PolicyDocument {
    /// The ports and routes that its conditions ask about; one may come several times.
    pub fn ports_read(&self) -> impl Iterator<Item = &PortRead> {
        self.statements().iter().flat_map(|statement| &statement.named.ports)
    }

    /// Those of one statement, by the statement's name in a slice.
    pub fn ports_read_by(&self, statement: &str) -> &[PortRead] {
        let found = self.statements().iter().find(|own| own.name == statement);
        found.map_or(&[], |statement| &statement.named.ports)
    }

    /// Whether its conditions ask of services, ports or routes that they name what these are or are in.
    pub fn asks_of_named_resources(&self) -> bool {
        self.statements().iter().any(|statement| statement.named.any)
    }
}

/// Of `ports` what statements that read these need at `own`, which knows its own ports itself. A port that is read but
/// not among them is left out, and what reads it then does not compile.
pub fn ports_needed<'a>(
    reads: impl IntoIterator<Item = &'a PortRead>,
    own: Option<&SpiffeId>,
    ports: &[NamedPort],
) -> Vec<NamedPort> {
    let reads = by_port(reads.into_iter().filter(|read| own != Some(&read.node)));
    let needed = ports.iter().filter_map(|port| {
        let routes = reads.get(&(&port.node, port.number))?;
        let mut needed = port.clone();
        if let Some(listener) = &mut needed.listener {
            listener.routes.retain(|template, _| routes.contains(template.as_str()));
        }
        Some(needed)
    });
    let mut needed: Vec<_> = needed.collect();
    needed.sort_by(|one, other| (&one.node, one.number).cmp(&(&other.node, other.number)));
    needed
}

/// The routes that are read of each port.
fn by_port<'a>(
    reads: impl IntoIterator<Item = &'a PortRead>,
) -> BTreeMap<(&'a SpiffeId, u16), BTreeSet<&'a str>> {
    let mut by_port: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for PortRead { node, number, route } in reads {
        by_port.entry((node, *number)).or_default().extend(route.as_deref());
    }
    by_port
}

#[cfg(test)]
mod tests;
