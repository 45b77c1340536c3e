//! The one schema of all policies, parsed once, and the names in it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use cedar_policy::{ActionConstraint, Entities, EntityId, EntityTypeName, EntityUid, Schema, Validator};

/// The schema that policies are validated against, as Cedar text: for those who write policies.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// The version of the schema. It grows with every change of what policies may say; which agents know what is told by
/// the features that views need.
pub const SCHEMA_VERSION: u32 = 2;

/// The one line of the schema that is another one where a gRPC method is a read, and that other one.
const CALL: [&str; 2] = ["action \"call\" in [\"write\"]", "action \"call\" in [\"read\"]"];

/// What a request does, as policies name it. The listener's protocol decides which of these can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// HTTP `GET`.
    Get,
    /// HTTP `HEAD`.
    Head,
    /// HTTP `OPTIONS`.
    Options,
    /// HTTP `POST`.
    Post,
    /// HTTP `PUT`.
    Put,
    /// HTTP `PATCH`.
    Patch,
    /// HTTP `DELETE`.
    Delete,
    /// A request for another protocol on the same connection, such as WebSocket, besides what its method says.
    Upgrade,
    /// Any other HTTP method.
    Other,
    /// A gRPC method, be it a read or a write.
    Call,
    /// A TCP stream.
    Connect,
}

impl Action {
    /// All actions, each at the index of its discriminant.
    pub const ALL: [Self; 11] = [
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::Upgrade,
        Self::Other,
        Self::Call,
        Self::Connect,
    ];

    /// The actions of a port that speaks HTTP.
    pub(crate) const HTTP: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::Upgrade,
        Self::Other,
    ];

    /// The action's name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Upgrade => "upgrade",
            Self::Other => "other",
            Self::Call => "call",
            Self::Connect => "connect",
        }
    }

    /// The action that an HTTP request's method says. Methods are case-sensitive (RFC 9110 §9.1).
    pub fn of_method(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Whether the action's name settles the request's method.
    pub(crate) fn fixes_method(self) -> bool {
        !matches!(self, Self::Upgrade | Self::Other)
    }

    /// The action on whatever it can be done with.
    pub(crate) fn bits(self) -> ActionSet {
        match self {
            Self::Call => ActionSet(self.bit().0 | ActionSet::READING_CALL.0),
            _ => self.bit(),
        }
    }

    /// The action; of [`Action::Call`], where the method is a write.
    pub(crate) fn bit(self) -> ActionSet {
        ActionSet(1 << self as u8)
    }
}

/// A set of actions, in which `call` of a method that reads and of one that writes are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ActionSet(u16);

impl ActionSet {
    /// `call` of a method that reads.
    pub(crate) const READING_CALL: Self = Self(1 << 15);

    /// Whether the action is among them, on something at least.
    pub(crate) fn contains(self, action: Action) -> bool {
        self.intersects(action.bits())
    }

    /// Those that are in both.
    pub(crate) fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in either.
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn includes(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<T: IntoIterator<Item = Action>>(actions: T) -> Self {
        actions.into_iter().fold(Self::default(), |all, action| all.union(action.bits()))
    }
}

/// The types of entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    TrustDomain,
    Mesh,
    Role,
    DataClass,
    Node,
    Workload,
    Anonymous,
    Service,
    External,
    Port,
    Route,
    User,
    UserGroup,
}

impl Kind {
    const ALL: [(Self, &'static str); 13] = [
        (Self::TrustDomain, "TrustDomain"),
        (Self::Mesh, "Mesh"),
        (Self::Role, "Role"),
        (Self::DataClass, "DataClass"),
        (Self::Node, "Node"),
        (Self::Workload, "Workload"),
        (Self::Anonymous, "Anonymous"),
        (Self::Service, "Service"),
        (Self::External, "External"),
        (Self::Port, "Port"),
        (Self::Route, "Route"),
        (Self::User, "User"),
        (Self::UserGroup, "UserGroup"),
    ];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, own)| *own == name).map(|(kind, _)| kind)
    }

    pub(crate) fn of(uid: &EntityUid) -> Option<Self> {
        Self::parse(uid.type_name().basename())
    }

    /// The entity of this type with this full id.
    pub(crate) fn uid(self, id: impl AsRef<str>) -> EntityUid {
        EntityUid::from_type_name_and_id(self.type_name().clone(), EntityId::new(id.as_ref()))
    }

    pub(crate) fn type_name(self) -> &'static EntityTypeName {
        let types = &VOCABULARY.types;
        match self {
            Self::TrustDomain => &types.trust_domain,
            Self::Mesh => &types.mesh,
            Self::Role => &types.role,
            Self::DataClass => &types.data_class,
            Self::Node => &types.node,
            Self::Workload => &types.workload,
            Self::Anonymous => &types.anonymous,
            Self::Service => &types.service,
            Self::External => &types.external,
            Self::Port => &types.port,
            Self::Route => &types.route,
            Self::User => &types.user,
            Self::UserGroup => &types.user_group,
        }
    }
}

/// The parsed names of the types.
struct Types {
    trust_domain: EntityTypeName,
    mesh: EntityTypeName,
    role: EntityTypeName,
    data_class: EntityTypeName,
    node: EntityTypeName,
    workload: EntityTypeName,
    anonymous: EntityTypeName,
    service: EntityTypeName,
    external: EntityTypeName,
    port: EntityTypeName,
    route: EntityTypeName,
    user: EntityTypeName,
    user_group: EntityTypeName,
}

/// The schema in the forms that are asked for.
pub(crate) struct Vocabulary {
    /// As it is written: every gRPC method is a write.
    pub(crate) writing: World,
    /// As it is where the gRPC method that is called is a read.
    pub(crate) reading: World,
    types: Types,
    action_type: EntityTypeName,
    /// For each action and group of actions: the actions that are in it.
    members: HashMap<EntityUid, ActionSet>,
}

/// The schema by one sort of gRPC method. A request is of one of them, and Cedar's promises hold for each by itself.
pub(crate) struct World {
    pub(crate) schema: Schema,
    pub(crate) validator: Validator,
    /// The actions and their groups.
    pub(crate) actions: Entities,
}

impl World {
    fn new(text: &str) -> Self {
        let (schema, _warnings) = must(Schema::from_cedarschema_str(text));
        let actions = must(schema.action_entities());
        Self { validator: Validator::new(schema.clone()), schema, actions }
    }

    fn groups(&self, action: &EntityUid) -> impl Iterator<Item = EntityUid> {
        self.actions.ancestors(action).into_iter().flatten().cloned()
    }
}

pub(crate) static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let [written, read] = CALL;
    let (writing, reading) = (World::new(SCHEMA), World::new(&SCHEMA.replace(written, read)));
    let action_type: EntityTypeName = must("Action".parse());
    let types = Types {
        trust_domain: must("TrustDomain".parse()),
        mesh: must("Mesh".parse()),
        role: must("Role".parse()),
        data_class: must("DataClass".parse()),
        node: must("Node".parse()),
        workload: must("Workload".parse()),
        anonymous: must("Anonymous".parse()),
        service: must("Service".parse()),
        external: must("External".parse()),
        port: must("Port".parse()),
        route: must("Route".parse()),
        user: must("User".parse()),
        user_group: must("UserGroup".parse()),
    };
    let mut members: HashMap<EntityUid, ActionSet> = HashMap::new();
    let all = Action::ALL.into_iter().map(|action| (&writing, action, action.bit()));
    for (world, action, bit) in all.chain([(&reading, Action::Call, ActionSet::READING_CALL)]) {
        let uid = EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(action.as_str()));
        for group in world.groups(&uid).chain([uid.clone()]) {
            let known = members.entry(group).or_default();
            *known = known.union(bit);
        }
    }
    Vocabulary { writing, reading, types, action_type, members }
});

impl Vocabulary {
    /// The world of what can be done with something.
    pub(crate) fn world(&self, actions: ActionSet) -> &World {
        if actions.intersects(ActionSet::READING_CALL) { &self.reading } else { &self.writing }
    }

    pub(crate) fn action(&self, action: Action) -> EntityUid {
        EntityUid::from_type_name_and_id(self.action_type.clone(), EntityId::new(action.as_str()))
    }

    /// A group of actions.
    pub(crate) fn group(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.action_type.clone(), EntityId::new(name))
    }

    /// The actions that a policy's scope admits.
    pub(crate) fn admitted(&self, constraint: &ActionConstraint) -> ActionSet {
        let members = |uid| self.members.get(uid).copied().unwrap_or_default();
        match constraint {
            ActionConstraint::Any => Action::ALL.into_iter().collect(),
            ActionConstraint::In(groups) => {
                groups.iter().map(members).fold(ActionSet::default(), ActionSet::union)
            }
            // Equality with a group holds for no request.
            ActionConstraint::Eq(uid) => {
                Action::ALL.into_iter().filter(|action| self.action(*action) == *uid).collect()
            }
        }
    }
}

#[expect(clippy::expect_used, reason = "the schema is part of the program, and a test reads it")]
fn must<T, E: Debug>(result: Result<T, E>) -> T {
    result.expect("the built-in schema is well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::CARRIED;

    #[test]
    fn the_schema_knows_all_that_the_code_names() {
        let known: Vec<_> = VOCABULARY.writing.schema.entity_types().map(ToString::to_string).collect();
        assert_eq!(known.len(), Kind::ALL.len() + CARRIED.len());
        assert!(CARRIED.iter().all(|name| known.iter().any(|known| known == name)));
        for (kind, name) in Kind::ALL {
            assert!(known.iter().any(|known| known == name), "{name}");
            assert_eq!(Kind::of(&kind.uid("x")), Some(kind));
        }
        for world in [&VOCABULARY.writing, &VOCABULARY.reading] {
            let actions: Vec<_> = world.schema.actions().collect();
            for action in Action::ALL {
                assert!(actions.contains(&&VOCABULARY.action(action)), "{action:?}");
            }
        }
        let group = |name: &str| format!("Action::\"{name}\"").parse().unwrap();
        let write = VOCABULARY.admitted(&ActionConstraint::In(vec![group("write")]));
        assert!(write.contains(Action::Post) && write.contains(Action::Call) && !write.contains(Action::Get));
        let http = VOCABULARY.admitted(&ActionConstraint::In(vec![group("http")]));
        assert!(
            http.contains(Action::Get) && http.contains(Action::Other) && !http.contains(Action::Connect)
        );
        let [read, call] =
            ["read", "call"].map(|name| VOCABULARY.admitted(&ActionConstraint::In(vec![group(name)])));
        let reading = ActionSet::READING_CALL;
        assert!(read.includes(reading) && !read.intersects(Action::Call.bit()));
        assert!(write.includes(Action::Call.bit()) && !write.intersects(reading));
        for all in [call, VOCABULARY.admitted(&ActionConstraint::Eq(group("call")))] {
            assert!(all.includes(Action::Call.bits()) && Action::Call.bits().includes(reading));
        }
        let none = VOCABULARY.admitted(&ActionConstraint::Eq(group("http")));
        assert!(Action::ALL.into_iter().all(|action| !none.contains(action)));
    }

    /// What stands in the schema, without comments and spaces, as a number (FNV-1a).
    fn fingerprint() -> u64 {
        let lines = SCHEMA.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        let code = lines.flat_map(str::bytes).filter(|byte| !byte.is_ascii_whitespace());
        code.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    #[test]
    fn another_schema_is_another_version() {
        assert!(SCHEMA.starts_with(&format!("// Hauberk's schema, version {SCHEMA_VERSION}.\n")));
        let advice =
            "raise SCHEMA_VERSION and the schema's first line, and say in docs/authorization.md what is new";
        assert_eq!((SCHEMA_VERSION, fingerprint()), (2, 10_817_275_663_568_998_915), "{advice}");
    }

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(Action::of_method("GET"), Action::Get);
        for method in ["get", "upgrade", "call", "connect", "CONNECT", "PROPFIND", "", "GET "] {
            assert_eq!(Action::of_method(method), Action::Other, "{method}");
        }
    }
}
