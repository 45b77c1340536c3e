//! From a node's scope and slice to something that decides.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use cedar_policy::{Authorizer, Entities};
use hauberk_identity::SpiffeId;
use thiserror::Error;

use crate::circumstances::Wanted;
use crate::compiled::{Compiled, compile_statements};
use crate::decision::Reason;
use crate::facts::{self, PortResources, Resource, Said, entities, resources};
use crate::named::NamedPort;
use crate::names::port_id;
use crate::path::EscapedSlashes;
use crate::reads::{Fact, FactSet};
use crate::route::RouteTable;
use crate::scope::{Authorization, NodeScope, Place, Protocol, Undeclared, UserTokens};
use crate::slice::{PolicySlice, admits};
use crate::user::{OnBehalfOf, User};
use crate::vocabulary::{ActionSet, Kind, VOCABULARY, World};

/// The policies of one node, ready to decide. Immutable, and cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) scope: NodeScope,
    pub(crate) said: Said,
    pub(crate) authorizer: Authorizer,
    /// What does not depend on the caller.
    pub(crate) entities: Entities,
    /// The same where the gRPC method that is called is a read, if there is one.
    reading: Option<Entities>,
    pub(crate) policies: Vec<Arc<Compiled>>,
    /// What any of them reads.
    pub(crate) reads: FactSet,
    pub(crate) resources: Vec<Governed>,
    pub(crate) ports: BTreeMap<u16, Port>,
}

/// A resource and the statements whose scope admits it.
#[derive(Debug)]
pub(crate) struct Governed {
    pub(crate) resource: Resource,
    pub(crate) label: Arc<str>,
    pub(crate) policies: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    pub(crate) undeclared: Undeclared,
    pub(crate) authorization: Authorization,
    pub(crate) escaped_slashes: EscapedSlashes,
    /// Each with its resource.
    pub(crate) routes: RouteTable,
    pub(crate) undeclared_route: usize,
    pub(crate) stream: usize,
    /// What of its requests policies read besides method and path.
    pub(crate) wanted: Option<Wanted>,
    /// How it takes users, if it looks for their tokens.
    pub(crate) users: Option<UserTokens>,
}

impl Inner {
    /// What does not depend on the caller, as it is where this can be done.
    pub(crate) fn entities_of(&self, actions: ActionSet) -> &Entities {
        let reading = self.reading.as_ref().filter(|_| actions.intersects(ActionSet::READING_CALL));
        reading.unwrap_or(&self.entities)
    }
}

impl Port {
    /// Why a request is denied for whom it is made, whatever policies say.
    pub(crate) fn refuses(&self, resource: &Resource, made_for: &OnBehalfOf) -> Option<Reason> {
        match made_for {
            OnBehalfOf::User(origin) => {
                (!self.takes_users_of(&origin.user)).then_some(Reason::UserIssuerNotTaken)
            }
            OnBehalfOf::Nobody | OnBehalfOf::NotLookedAt if resource.requires_user => {
                Some(Reason::UserMissing)
            }
            // It might be made for one who is none here.
            OnBehalfOf::NotLookedAt if self.takes_some_users() => Some(Reason::FactsMissing),
            OnBehalfOf::Nobody | OnBehalfOf::NotLookedAt => None,
        }
    }

    /// Whether users of some issuers alone are users here.
    pub(crate) fn takes_some_users(&self) -> bool {
        self.users.as_ref().is_some_and(|users| !users.issuers.is_empty())
    }

    fn takes_users_of(&self, user: &User) -> bool {
        self.users.as_ref().is_none_or(|users| users.takes(&user.issuer))
    }
}

/// Why a node's policies cannot be enforced; none of them is then. The fault is the sender's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The node's id is not that of a node or gateway of the scope's mesh.
    #[error("{0} is not a node or gateway of the scope's mesh")]
    Node(SpiffeId),
    /// Two listeners with one port.
    #[error("port {0} is listed twice")]
    DuplicatePort(u16),
    /// Two routes of a port that a request could belong to alike.
    #[error("routes {first} and {second} of port {port} match the same requests")]
    AmbiguousRoutes {
        /// The port.
        port: u16,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A route of the wrong sort for its port, such as a path on a gRPC or TCP port.
    #[error("route {template} does not fit port {port}, which speaks {protocol}")]
    RouteKind {
        /// The port.
        port: u16,
        /// The route.
        template: String,
        /// What the port speaks.
        protocol: &'static str,
    },
    /// Two statements with one name, or two lists of one role's members or of one label's values.
    #[error("{0:?} is listed twice")]
    Duplicate(String),
    /// A statement that is not valid Cedar by our schema: perhaps from a newer control plane.
    #[error("policy {name:?} is not valid here: {reason}")]
    Invalid {
        /// The statement.
        name: String,
        /// What Cedar says of it.
        reason: String,
    },
    /// A statement mentions a role whose members were not given.
    #[error("policy {name:?} mentions {role}, whose members are not known")]
    UnknownRole {
        /// The statement.
        name: String,
        /// The role, as policies write it.
        role: String,
    },
    /// A statement reads a label of nodes that was not given.
    #[error("policy {name:?} reads label {label:?} of nodes, whose values are not known")]
    UnknownLabel {
        /// The statement.
        name: String,
        /// The label.
        label: String,
    },
    /// A statement asks what a port, or a route, of another node is or is in, and it was not given.
    #[error("policy {name:?} asks about {port}, of which nothing is known")]
    UnknownPort {
        /// The statement.
        name: String,
        /// The port or route, as policies write it with full names.
        port: String,
    },
    /// The node's own entities could not be built.
    #[error("the node's resources do not fit the schema: {0}")]
    Facts(String),
}

impl Engine {
    /// Compiles all that a node enforces. The control plane does so before it pushes a view, the agent before it
    /// accepts one.
    ///
    /// Statements that `former` has word for word are taken from it, so that a change takes time in proportion to what
    /// it changes.
    ///
    /// # Errors
    /// Something in `scope` or `slice` cannot be enforced; nothing is compiled then.
    pub fn compile(
        scope: NodeScope,
        slice: &PolicySlice,
        former: Option<&Self>,
    ) -> Result<Self, CompileError> {
        check_scope(&scope)?;
        let names = scope.names();
        let mut known = HashSet::new();
        for role in &slice.roles {
            if !known.insert(Kind::Role.uid(names.role_id(&role.role))) {
                return Err(CompileError::Duplicate(role.role.to_string()));
            }
        }
        let mut labels = HashSet::new();
        for label in &slice.labels {
            if !labels.insert(label.name.as_str()) {
                return Err(CompileError::Duplicate(label.name.clone()));
            }
        }
        let mut listed = HashSet::new();
        for NamedPort { node, number, .. } in &slice.ports {
            if !listed.insert((node, number)) {
                return Err(CompileError::Duplicate(port_id(node, *number)));
            }
        }
        let said = Said::new(slice.known(), &names);
        let (resources, by_port) = resources(&scope, &said);
        let reads_calls = resources.iter().any(|own| own.actions.intersects(ActionSet::READING_CALL));
        let policies =
            compile_statements(slice, former.map_or(&[], |former| &former.0.policies), reads_calls)?;
        for compiled in &policies {
            if let Some(role) = compiled.roles.iter().find(|role| !known.contains(role)) {
                return Err(CompileError::UnknownRole {
                    name: compiled.name.to_string(),
                    role: role.to_string(),
                });
            }
            if let Some(label) = compiled.reads.labels.iter().find(|label| !labels.contains(&***label)) {
                let (name, label) = (compiled.name.to_string(), label.to_string());
                return Err(CompileError::UnknownLabel { name, label });
            }
            let mut of_others = compiled.ports.iter().filter(|port| scope.node() != Some(port.node()));
            if let Some(port) = of_others.find(|port| !listed.contains(&port.place())) {
                let (name, port) = (compiled.name.to_string(), port.in_words());
                return Err(CompileError::UnknownPort { name, port });
            }
        }
        let resources: Vec<_> =
            resources.into_iter().map(|resource| govern(resource, &policies, &scope)).collect();
        let ports =
            ports(&scope, by_port, |of, takes_tokens| wanted(of, takes_tokens, &resources, &policies))?;
        let named = policies.iter().flat_map(|compiled| &compiled.reads.principals);
        let named = named.filter_map(|(kind, id)| Some((*kind, SpiffeId::parse(id).ok()?)));
        let named: Option<Vec<_>> = named.map(|(kind, id)| facts::named(kind, &id, &said)).collect();
        let consulted = policies.iter().flat_map(|compiled| &compiled.reads.consulted);
        let of_mesh: Vec<_> =
            consulted.filter_map(|(kind, id)| facts::named_of_mesh(*kind, id, &scope.mesh)).collect();
        let unmade = || CompileError::Facts("one of them cannot be made".to_owned());
        let entities = entities(&scope, &said).zip(named).ok_or_else(unmade)?;
        let entities: Vec<_> = entities.0.into_iter().chain(entities.1).chain(of_mesh).collect();
        let in_world = |world: &World, entities| {
            Entities::from_entities(entities, Some(&world.schema))
                .map_err(|error| CompileError::Facts(error.to_string()))
        };
        let reading = reads_calls.then(|| in_world(&VOCABULARY.reading, entities.clone())).transpose()?;
        let entities = in_world(&VOCABULARY.writing, entities)?;
        let authorizer = Authorizer::new();
        let reads = policies.iter().fold(FactSet::NONE, |reads, compiled| reads.and(compiled.reads.facts));
        Ok(Self(Arc::new(Inner {
            scope,
            said,
            authorizer,
            entities,
            reading,
            policies,
            reads,
            resources,
            ports,
        })))
    }

    /// The node's scope.
    pub fn scope(&self) -> &NodeScope {
        &self.0.scope
    }

    /// The claims that its policies name, in order: nothing else of users' tokens needs to be kept.
    pub fn claims_read(&self) -> BTreeSet<&str> {
        let named = self.0.policies.iter().flat_map(|compiled| &compiled.reads.claims);
        named.map(|name| &**name).collect()
    }

    /// What the conditions of its statements say of which it is told how they came out.
    pub fn conditions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.policies.iter().filter_map(|compiled| compiled.condition.as_ref())
    }

    /// Whether two are the very same compilation, so that what was decided by one stands.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

fn check_scope(scope: &NodeScope) -> Result<(), CompileError> {
    use hauberk_identity::IdentityKind::{Gateway, Node};
    if let Place::Node(node) = &scope.place {
        let of_mesh = match node.kind() {
            Node { mesh, .. } | Gateway { mesh, .. } => scope.mesh == *mesh,
            _ => false,
        };
        if !of_mesh || !node.is_member_of(&scope.trust_domain) {
            return Err(CompileError::Node(node.clone()));
        }
    }
    for port in &scope.ports {
        for route in &port.routes {
            let template = &route.template;
            let fits = match port.protocol {
                Protocol::Http | Protocol::Http2 => !template.is_rpc(),
                Protocol::Grpc => template.is_rpc(),
                Protocol::Tcp => false,
            };
            if !fits {
                return Err(CompileError::RouteKind {
                    port: port.number,
                    template: template.to_string(),
                    protocol: port.protocol.as_str(),
                });
            }
        }
    }
    Ok(())
}

fn govern(resource: Resource, policies: &[Arc<Compiled>], scope: &NodeScope) -> Governed {
    let in_play = policies.iter().enumerate().filter(|(_, compiled)| {
        compiled.actions.intersects(resource.actions) && admits(&compiled.resource, &resource)
    });
    let policies = in_play.map(|(index, _)| index).collect();
    let label = scope.names().shorten(&resource.uid).into();
    Governed { resource, label, policies }
}

/// What must be gathered of requests for these resources.
fn wanted(
    of: &PortResources,
    takes_tokens: bool,
    resources: &[Governed],
    policies: &[Arc<Compiled>],
) -> Option<Wanted> {
    let routes = of.routes.iter().chain([&of.undeclared]).filter_map(|index| resources.get(*index));
    let in_play: HashSet<usize> = routes.flat_map(|governed| &governed.policies).copied().collect();
    let in_play: Vec<_> = in_play.into_iter().filter_map(|index| policies.get(index)).collect();
    let host = in_play.iter().any(|compiled| compiled.reads.facts.contains(Fact::Host));
    let headers: BTreeSet<&Arc<str>> = in_play.iter().flat_map(|compiled| &compiled.headers).collect();
    let headers = headers.into_iter().cloned().collect::<Vec<_>>().into();
    let user = takes_tokens || in_play.iter().any(|compiled| compiled.reads.facts.are_of_users());
    Some(Wanted { host, headers, user }).filter(|wanted| *wanted != Wanted::default())
}

fn ports(
    scope: &NodeScope,
    by_port: Vec<PortResources>,
    wanted: impl Fn(&PortResources, bool) -> Option<Wanted>,
) -> Result<BTreeMap<u16, Port>, CompileError> {
    let mut ports = BTreeMap::new();
    for (port, resources) in scope.ports.iter().zip(by_port) {
        let wanted = wanted(&resources, port.users.is_some());
        let routes = port.routes.iter().map(|route| route.template.clone()).zip(resources.routes);
        let routes = RouteTable::new(routes.collect());
        for (index, (first, _)) in routes.iter().enumerate() {
            let mut same = routes.iter().skip(index + 1).take_while(|(next, _)| first.is_of_same_paths(next));
            if let Some((second, _)) = same.find(|(next, _)| first.collides_with(next)) {
                let (first, second) = (first.to_string(), second.to_string());
                return Err(CompileError::AmbiguousRoutes { port: port.number, first, second });
            }
        }
        let compiled = Port {
            protocol: port.protocol,
            undeclared: port.undeclared,
            authorization: port.authorization,
            escaped_slashes: port.escaped_slashes,
            routes,
            undeclared_route: resources.undeclared,
            stream: resources.port,
            wanted,
            users: port.users.clone(),
        };
        if ports.insert(port.number, compiled).is_some() {
            return Err(CompileError::DuplicatePort(port.number));
        }
    }
    Ok(ports)
}
