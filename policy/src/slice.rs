//! Which policies of a mesh one node needs.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use hauberk_identity::{Name, SpiffeId};

use crate::compiled::permits;
use crate::document::{Mode, PolicyDocument, Statement};
use crate::facts::{Resource, Said, resources};
use crate::labels::labels_needed;
use crate::named::{Known, NamedPort, ports_needed};
use crate::reads::{Fact, FactSet, Reads};
use crate::scope::{NodeLabel, NodeScope, RoleMembers};
use crate::vocabulary::{Action, ActionSet, Kind, VOCABULARY};

/// The policies of one mesh, indexed by the resources that they govern.
///
/// Build it once per change of policies, then [`slice`](Self::slice) it for each node.
#[derive(Debug)]
pub struct PolicyIndex<'a> {
    mesh: &'a Name,
    entries: Vec<Entry<'a>>,
    /// Entries whose resource is, or is in, the entity.
    by_resource: HashMap<EntityUid, Vec<usize>>,
    /// Entries that name no resource.
    broad: Vec<usize>,
}

#[derive(Debug)]
struct Entry<'a> {
    mode: Mode,
    statement: &'a Statement,
    resource: ResourceConstraint,
    actions: ActionSet,
}

/// The policies of one mesh that can concern what leaves it.
#[derive(Debug)]
pub struct EgressIndex<'a> {
    entries: Vec<Entry<'a>>,
}

/// What a node needs in order to decide: plain data, to be carried in a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySlice {
    /// The statements that can concern the node, ordered by name.
    pub policies: Vec<SlicedPolicy>,
    /// The roles that those statements mention, ordered by name.
    pub roles: Vec<RoleMembers>,
    /// The labels of nodes that those statements read, ordered by name.
    pub labels: Vec<NodeLabel>,
    /// The ports of other nodes that those statements ask about, ordered by node and number.
    pub ports: Vec<NamedPort>,
}

impl PolicySlice {
    /// What it tells of the mesh besides policies.
    pub fn known(&self) -> Known<'_> {
        Known { roles: &self.roles, labels: &self.labels, ports: &self.ports }
    }
}

/// One statement of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicedPolicy {
    /// Unique in the mesh: the policy's name, followed by `/` and the statement's id where there are several.
    pub name: String,
    /// Whether it decides.
    pub mode: Mode,
    /// Cedar text with full names.
    pub text: String,
}

impl SlicedPolicy {
    /// Whether it permits; also where it cannot be read.
    pub fn permits(&self) -> bool {
        Policy::parse(None, &self.text).map_or(true, |policy| permits(&policy))
    }

    /// What of the context its conditions read at most; everything, where the text cannot be read itself.
    pub fn reads(&self) -> FactSet {
        // Most read the path at most, and need no parsing.
        let count = |word: &str| self.text.matches(word).count();
        if ["context.path", "context.method"].map(count).iter().sum::<usize>() == count("context") {
            return FactSet::of(&[Fact::Path, Fact::Method]);
        }
        self.read().map_or(FactSet::all(), |reads| reads.facts)
    }

    /// Whether it reads labels of nodes; also where the text cannot be read itself.
    pub fn reads_labels(&self) -> bool {
        self.text.contains("Tag(") && self.read().is_none_or(|reads| !reads.labels.is_empty())
    }

    /// Whether it asks of services, ports or routes that it names what these are or are in; also where the text cannot
    /// be read itself.
    pub fn asks_of_named_resources(&self) -> bool {
        // Most have no conditions that name any, and need no parsing. What a scope names holds no condition.
        let start = ["when", "unless"].iter().filter_map(|word| self.text.find(word)).min();
        let conditions = start.and_then(|start| self.text.get(start..)).unwrap_or_default();
        ["Service::", "External::", "Port::", "Route::"].iter().any(|kind| conditions.contains(kind))
            && self.read().is_none_or(|reads| reads.asks_of_named_resources())
    }

    fn read(&self) -> Option<Reads> {
        let tree = Policy::parse(None, &self.text).ok().and_then(|policy| policy.to_json().ok());
        tree.map(|tree| Reads::of(&tree))
    }

    /// Whether it is about gRPC methods and reads of them what earlier releases knew of HTTP requests alone: the query,
    /// or parameters. Also where the text cannot be read itself.
    pub fn reads_calls_as_requests(&self) -> bool {
        if !self.text.contains("query") && !self.text.contains("params") && !self.text.contains("context ==")
        {
            return false;
        }
        self.reads().contains_any(&[Fact::Query, Fact::Params])
            && Policy::parse(None, &self.text).map_or(true, |policy| {
                VOCABULARY.admitted(&policy.action_constraint()).intersects(Action::Call.bit())
            })
    }
}

impl<'a> PolicyIndex<'a> {
    /// Indexes those of `documents` that belong to `mesh`.
    pub fn new(mesh: &'a Name, documents: impl IntoIterator<Item = &'a PolicyDocument>) -> Self {
        let mut index = Self { mesh, entries: Vec::new(), by_resource: HashMap::new(), broad: Vec::new() };
        for document in documents.into_iter().filter(|document| document.mesh() == mesh) {
            for statement in document.statements() {
                let resource = statement.policy.resource_constraint();
                let place = match named(&resource) {
                    Some(uid) => index.by_resource.entry(uid.clone()).or_default(),
                    None => &mut index.broad,
                };
                place.push(index.entries.len());
                let actions = VOCABULARY.admitted(&statement.policy.action_constraint());
                index.entries.push(Entry { mode: document.mode(), statement, resource, actions });
            }
        }
        index
    }

    /// What the node of `scope` needs: every statement whose scope some request to the node can match, and the
    /// members of the roles that those mention, the labels that they read, and the ports of other nodes that they ask
    /// about. Empty for a node of another mesh.
    ///
    /// What is mentioned but not `known` is left out: the slice then does not compile.
    pub fn slice(&self, scope: &NodeScope, known: Known<'_>) -> PolicySlice {
        if scope.mesh != *self.mesh {
            return PolicySlice::default();
        }
        cut(&self.chosen(scope, known).collect::<Vec<_>>(), None, scope.node(), known)
    }

    /// How many characters follow the wildcards of the statements that [`slice`](Self::slice) picks, where Cedar is
    /// asked about them.
    pub fn following(&self, scope: &NodeScope, known: Known<'_>) -> usize {
        if scope.mesh != *self.mesh {
            return 0;
        }
        self.chosen(scope, known).map(|entry| entry.statement.following).sum()
    }

    fn chosen(&self, scope: &NodeScope, known: Known<'_>) -> impl Iterator<Item = &Entry<'a>> {
        // Of its resources only the node's own roles are asked for.
        let own = scope.node().into_iter().flat_map(|node| {
            let of_node = known.roles.iter().filter(|role| role.members.contains(node));
            of_node.map(|role| RoleMembers { role: role.role.clone(), members: vec![node.clone()] })
        });
        let own: Vec<RoleMembers> = own.collect();
        let (resources, _) =
            resources(scope, &Said::new(Known { roles: &own, ..Known::default() }, &scope.names()));
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        for resource in &resources {
            let named = resource.within.iter().filter_map(|uid| self.by_resource.get(uid)).flatten();
            chosen.extend(named.chain(&self.broad).copied().filter(|index| {
                self.entries.get(*index).is_some_and(|entry| {
                    entry.actions.intersects(resource.actions) && admits(&entry.resource, resource)
                })
            }));
        }
        chosen.into_iter().filter_map(|index| self.entries.get(index))
    }
}

impl<'a> EgressIndex<'a> {
    /// Picks those of `documents` of whose scope some external service of `scopes`, which are all of one mesh, can be.
    /// What cannot be one by its resource alone costs next to nothing.
    pub fn new(scopes: &[NodeScope], documents: impl IntoIterator<Item = &'a PolicyDocument>) -> Self {
        let all: Vec<Resource> =
            scopes.iter().flat_map(|scope| resources(scope, &Said::default()).0).collect();
        let mut entries = Vec::new();
        for document in documents {
            for statement in document.statements() {
                let resource = statement.policy.resource_constraint();
                let may_be = named(&resource)
                    .is_none_or(|uid| matches!(Kind::of(uid), Some(Kind::External | Kind::Mesh)));
                if !may_be {
                    continue;
                }
                let actions = VOCABULARY.admitted(&statement.policy.action_constraint());
                let is_meant = |one: &Resource| actions.intersects(one.actions) && admits(&resource, one);
                if all.iter().any(is_meant) {
                    entries.push(Entry { mode: document.mode(), statement, resource, actions });
                }
            }
        }
        Self { entries }
    }

    /// The names of those that permit.
    pub fn permits(&self) -> impl Iterator<Item = &str> {
        let permitting = self.entries.iter().filter(|entry| permits(&entry.statement.policy));
        permitting.map(|entry| entry.statement.name.as_str())
    }

    /// All of it, for whichever node calls.
    pub fn of_all(&self, known: Known<'_>) -> PolicySlice {
        cut(&self.entries.iter().collect::<Vec<_>>(), None, None, known)
    }

    /// What the agents of `node` need of it: every statement but those that are about another caller by name, and the
    /// members of the roles that these mention, its own and named nodes' labels that they read, and the ports that they
    /// ask about.
    pub fn slice(&self, node: &SpiffeId, known: Known<'_>) -> PolicySlice {
        cut(&self.chosen(node).collect::<Vec<_>>(), Some(node), None, known)
    }

    /// How many characters follow the wildcards of the statements that [`slice`](Self::slice) picks, where Cedar is
    /// asked about them.
    pub fn following(&self, node: &SpiffeId) -> usize {
        self.chosen(node).map(|entry| entry.statement.following).sum()
    }

    fn chosen(&self, node: &SpiffeId) -> impl Iterator<Item = &Entry<'a>> {
        let own = Kind::Node.uid(node);
        let is_meant = move |entry: &&Entry<'_>| match entry.statement.policy.principal_constraint() {
            PrincipalConstraint::Eq(uid) => uid == own,
            PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => kind == *own.type_name(),
            PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
        };
        self.entries.iter().filter(is_meant)
    }
}

/// These statements as they travel, with the roles that they mention, the labels that they read, of `caller` where
/// nobody else calls, and the ports that they ask about, but for those of `own`.
fn cut(
    chosen: &[&Entry<'_>],
    caller: Option<&SpiffeId>,
    own: Option<&SpiffeId>,
    known: Known<'_>,
) -> PolicySlice {
    let Known { roles, labels, ports } = known;
    let mentioned: BTreeSet<&Name> = chosen.iter().flat_map(|entry| &entry.statement.roles).collect();
    let mut slice = PolicySlice {
        policies: chosen
            .iter()
            .map(|entry| SlicedPolicy {
                name: entry.statement.name.clone(),
                mode: entry.mode,
                text: entry.statement.text.clone(),
            })
            .collect(),
        roles: roles.iter().filter(|role| mentioned.contains(&role.role)).cloned().collect(),
        labels: labels_needed(
            &chosen.iter().filter_map(|entry| entry.statement.labels.as_ref()).collect::<Vec<_>>(),
            caller,
            roles,
            labels,
        ),
        ports: ports_needed(chosen.iter().flat_map(|entry| &entry.statement.named.ports), own, ports),
    };
    slice.policies.sort_by(|one, other| one.name.cmp(&other.name));
    slice.roles.sort_by(|one, other| one.role.cmp(&other.role));
    slice
}

/// Whether the scope's `resource` clause holds for `resource`.
pub(crate) fn admits(constraint: &ResourceConstraint, resource: &Resource) -> bool {
    let is = |type_name: &EntityTypeName| resource.uid.type_name() == type_name;
    match constraint {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(uid) => *uid == resource.uid,
        ResourceConstraint::In(uid) => resource.within.contains(uid),
        ResourceConstraint::Is(type_name) => is(type_name),
        ResourceConstraint::IsIn(type_name, uid) => is(type_name) && resource.within.contains(uid),
    }
}

pub(crate) fn named(constraint: &ResourceConstraint) -> Option<&EntityUid> {
    match constraint {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            Some(uid)
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    }
}
