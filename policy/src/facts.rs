//! What is known of a node beforehand, as Cedar entities: its ports and routes and what they belong to.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use hauberk_identity::{IdentityKind, Name, SpiffeId};

use crate::named::{Known, NamedPort, port_entity, route_entity};
use crate::names::{ANONYMOUS, Namespace, port_id, principal_kind, route_id};
use crate::route::UNDECLARED;
use crate::scope::{MethodAccess, NodeScope, Place, Protocol};
use crate::vocabulary::{Action, ActionSet, Kind};

/// Something that a request or stream can be for: a route, or a port.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) uid: EntityUid,
    /// Itself and all that it is in.
    pub(crate) within: HashSet<EntityUid>,
    /// What can be done with it at all.
    pub(crate) actions: ActionSet,
    /// It is for requests that are made for a user, and no others.
    pub(crate) requires_user: bool,
}

/// The resources of one port, at the positions that [`resources`] gives them.
#[derive(Debug)]
pub(crate) struct PortResources {
    /// The port itself, for streams.
    pub(crate) port: usize,
    /// In the order of the scope's routes.
    pub(crate) routes: Vec<usize>,
    pub(crate) undeclared: usize,
}

/// What is said of others than the node itself: who is in which roles, which labels nodes have, and what named ports
/// are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    roles: HashMap<SpiffeId, Vec<EntityUid>>,
    /// Names and values.
    labels: HashMap<SpiffeId, Vec<(String, String)>>,
    ports: Vec<NamedPort>,
}

impl Said {
    pub(crate) fn new(known: Known<'_>, names: &Namespace) -> Self {
        let Known { roles, labels, ports } = known;
        let mut said = Self { ports: ports.to_vec(), ..Self::default() };
        for role in roles {
            let uid = Kind::Role.uid(names.role_id(&role.role));
            for member in &role.members {
                said.roles.entry(member.clone()).or_default().push(uid.clone());
            }
        }
        for label in labels {
            for (node, value) in &label.values {
                let own = said.labels.entry(node.clone()).or_default();
                own.push((label.name.clone(), value.clone()));
            }
        }
        said
    }

    fn roles_of(&self, id: &SpiffeId) -> impl Iterator<Item = EntityUid> {
        self.roles.get(id).into_iter().flatten().cloned()
    }

    fn labels_of(&self, id: &SpiffeId) -> impl Iterator<Item = (String, RestrictedExpression)> {
        let labels = self.labels.get(id).into_iter().flatten();
        labels.map(|(name, value)| (name.clone(), RestrictedExpression::new_string(value.clone())))
    }
}

impl NodeScope {
    pub(crate) fn names(&self) -> Namespace {
        Namespace::of(&self.trust_domain, &self.mesh)
    }

    /// What the ids of its ports begin with.
    fn owner(&self) -> String {
        match &self.place {
            Place::Node(node) => node.to_string(),
            Place::External(external) => format!("{}/external/{external}", self.mesh),
        }
    }

    /// What its ports are in by whose they are, services aside.
    fn owner_uid(&self) -> EntityUid {
        match &self.place {
            Place::Node(node) => Kind::Node.uid(node),
            Place::External(external) => Kind::External.uid(self.names().external_id(external)),
        }
    }
}

/// Every resource of the node, and where each port's are among them.
pub(crate) fn resources(scope: &NodeScope, said: &Said) -> (Vec<Resource>, Vec<PortResources>) {
    let names = scope.names();
    let mesh = Kind::Mesh.uid(&scope.mesh);
    let mut of_owner = HashSet::from([scope.owner_uid(), mesh]);
    if let Place::Node(node) = &scope.place {
        of_owner.insert(Kind::TrustDomain.uid(&scope.trust_domain));
        of_owner.extend(said.roles_of(node));
    }
    let owner = scope.owner();
    let mut resources = Vec::new();
    let mut ports = Vec::new();
    for port in &scope.ports {
        let uid = Kind::Port.uid(port_id(&owner, port.number));
        let services = port.services.iter().map(|service| Kind::Service.uid(names.service_id(service)));
        let within: HashSet<EntityUid> =
            of_owner.iter().cloned().chain(services).chain([uid.clone()]).collect();
        let (of_port, of_routes): (ActionSet, ActionSet) = match port.protocol {
            Protocol::Http | Protocol::Http2 => (ActionSet::default(), Action::HTTP.into_iter().collect()),
            Protocol::Grpc => (ActionSet::default(), Action::Call.bit()),
            Protocol::Tcp => (Action::Connect.bit(), ActionSet::default()),
        };
        let mut push = |resource| {
            resources.push(resource);
            resources.len() - 1
        };
        let default = port.users.as_ref().is_some_and(|users| users.required);
        let mut route = |template: &str, classes: &[Name], requires_user: bool, actions: ActionSet| {
            let uid = Kind::Route.uid(route_id(&owner, port.number, template));
            let within = within.iter().cloned().chain(in_classes(classes, &names)).chain([uid.clone()]);
            push(Resource { uid, within: within.collect(), actions, requires_user })
        };
        let routes = port.routes.iter().map(|own| {
            let actions = match (port.protocol, own.access) {
                (Protocol::Grpc, MethodAccess::Read) => ActionSet::READING_CALL,
                _ => of_routes,
            };
            route(own.template.as_str(), &own.classes, own.requires_user.unwrap_or(default), actions)
        });
        let routes = routes.collect();
        let undeclared = route(UNDECLARED, &[], default, of_routes);
        let (actions, requires_user) = (of_port, false);
        let port = push(Resource { uid, within: within.clone(), actions, requires_user });
        ports.push(PortResources { port, routes, undeclared });
    }
    (resources, ports)
}

/// The node's entities, with all ancestors spelled out; none where one cannot be made.
pub(crate) fn entities(scope: &NodeScope, said: &Said) -> Option<Vec<Entity>> {
    let names = scope.names();
    let mesh = Kind::Mesh.uid(&scope.mesh);
    let (owner, owner_uid) = (scope.owner(), scope.owner_uid());
    let mut entities = vec![match &scope.place {
        Place::Node(node) => principal(Kind::Node, node, said)?.entity,
        Place::External(_) => Entity::new_no_attrs(owner_uid.clone(), HashSet::from([mesh.clone()])),
    }];
    let mut services = HashSet::new();
    for port in &scope.ports {
        let uid = Kind::Port.uid(port_id(&owner, port.number));
        let of: Vec<_> =
            port.services.iter().map(|service| Kind::Service.uid(names.service_id(service))).collect();
        services.extend(of.iter().cloned());
        let within = of.into_iter().chain([owner_uid.clone()]);
        entities.extend(port_entity(uid.clone(), port.number, port.protocol, within));
        let declared = port.routes.iter().map(|route| (route.template.as_str(), &*route.classes));
        for (template, classes) in declared.chain([(UNDECLARED, &[][..])]) {
            let route = Kind::Route.uid(route_id(&owner, port.number, template));
            entities.extend(route_entity(route, template, port.number, classes, &uid, &names));
        }
    }
    let of_mesh = HashSet::from([mesh]);
    entities.extend(services.into_iter().map(|service| Entity::new_no_attrs(service, of_mesh.clone())));
    // Of its own the node knows itself.
    let others = said.ports.iter().filter(|port| scope.node() != Some(&port.node));
    for port in others.clone() {
        entities.extend(port.entities(&names));
    }
    let owners: BTreeSet<&SpiffeId> = others.map(|port| &port.node).collect();
    for owner in owners {
        entities.push(named(Kind::Node, owner, said)?);
    }
    Some(entities)
}

/// A service or external service that conditions name: what it is in is told by its name alone.
pub(crate) fn named_of_mesh(kind: Kind, id: &str, mesh: &Name) -> Option<Entity> {
    let parents = HashSet::from([Kind::Mesh.uid(mesh)]);
    matches!(kind, Kind::Service | Kind::External).then(|| Entity::new_no_attrs(kind.uid(id), parents))
}

/// A principal that conditions name: what it is in, and how it is labelled, is known, whoever calls.
pub(crate) fn named(kind: Kind, id: &SpiffeId, said: &Said) -> Option<Entity> {
    Some(principal(kind, id, said)?.entity)
}

fn in_classes(classes: &[Name], names: &Namespace) -> impl Iterator<Item = EntityUid> {
    classes.iter().map(|class| Kind::DataClass.uid(names.data_class_id(class)))
}

/// A caller as policies see it.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    pub(crate) uid: EntityUid,
    /// Itself and all that it is in.
    pub(crate) within: HashSet<EntityUid>,
    pub(crate) entity: Entity,
    /// It belongs to another trust domain.
    pub(crate) is_foreign: bool,
}

/// The principal that `id` is, or nobody where it never calls services.
pub(crate) fn caller(id: &SpiffeId, scope: &NodeScope, said: &Said) -> Option<Principal> {
    let kind = principal_kind(id, &scope.trust_domain)?;
    // What leaves the mesh is decided by the agents of its own nodes, and by nobody else.
    let is_own = matches!(id.kind(), IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. } if scope.mesh == *mesh);
    if matches!(scope.place, Place::External(_)) && !(kind == Kind::Node && is_own) {
        return None;
    }
    let is_foreign = !id.is_member_of(&scope.trust_domain);
    Some(Principal { is_foreign, ..principal(kind, id, said)? })
}

pub(crate) fn anonymous() -> Principal {
    let uid = Kind::Anonymous.uid(ANONYMOUS);
    let entity = Entity::new_no_attrs(uid.clone(), HashSet::new());
    Principal { within: HashSet::from([uid.clone()]), uid, entity, is_foreign: false }
}

fn principal(kind: Kind, id: &SpiffeId, said: &Said) -> Option<Principal> {
    let uid = kind.uid(id);
    let mut parents: HashSet<EntityUid> = said.roles_of(id).collect();
    parents.insert(Kind::TrustDomain.uid(id.trust_domain()));
    if let (Kind::Node, IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. }) =
        (kind, id.kind())
    {
        parents.insert(Kind::Mesh.uid(mesh));
    }
    let within = parents.iter().cloned().chain([uid.clone()]).collect();
    let labels = (kind == Kind::Node).then(|| said.labels_of(id)).into_iter().flatten();
    let entity = Entity::new_with_tags(uid.clone(), [], parents, labels).ok()?;
    Some(Principal { entity, uid, within, is_foreign: false })
}
