//! Which facts of the context a statement reads: only those are gathered, and what reads none of those that change is
//! remembered.

mod consulted;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::fields::why_not_listed;
use crate::query_names::QueryNames;
use crate::vocabulary::Kind;

mod tree;

pub(crate) use tree::path_of;
use tree::{attributes, may_be_node};

/// One thing that policies may know of a question through `context`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fact {
    /// `context.method`.
    Method,
    /// `context.path`, and a gRPC method's `service` and `rpc`, which follow from it.
    Path,
    /// `context.params`.
    Params,
    /// `context.host`.
    Host,
    /// `context.query`.
    Query,
    /// `context.headers`.
    Headers,
    /// `context.time`.
    Time,
    /// `context.peer.certificateAge`.
    CertificateAge,
    /// `context.peer.address`.
    Address,
    /// `context.peer.tlsVersion` and `tlsGroup`.
    Tls,
    /// `context.peer.spiffeId`, `trustDomain` and `federated`.
    Identity,
    /// `context.user`.
    User,
    /// `context.claims`.
    Claims,
    /// `context.actors`.
    Actors,
}

/// A set of facts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FactSet(u16);

impl Fact {
    const ALL: [Self; 14] = [
        Self::Method,
        Self::Path,
        Self::Params,
        Self::Host,
        Self::Query,
        Self::Headers,
        Self::Time,
        Self::CertificateAge,
        Self::Address,
        Self::Tls,
        Self::Identity,
        Self::User,
        Self::Claims,
        Self::Actors,
    ];
    const PEER: [Self; 4] = [Self::CertificateAge, Self::Address, Self::Tls, Self::Identity];
    /// What passes on a connection may vary in these, or the connection does as time passes.
    const VARYING: [Self; 8] = [
        Self::Host,
        Self::Query,
        Self::Headers,
        Self::Time,
        Self::CertificateAge,
        Self::User,
        Self::Claims,
        Self::Actors,
    ];
    /// What a user's token tells, and who passed it on.
    const OF_USERS: [Self; 3] = [Self::User, Self::Claims, Self::Actors];
}

impl FactSet {
    /// No fact.
    pub const NONE: Self = Self(0);

    /// Every fact.
    pub(crate) fn all() -> Self {
        Self::of(&Fact::ALL)
    }

    pub(crate) fn of(facts: &[Fact]) -> Self {
        Self(facts.iter().fold(0, |bits, fact| bits | 1 << *fact as u8))
    }

    /// Whether the fact is among them.
    pub fn contains(self, fact: Fact) -> bool {
        self.0 & 1 << fact as u8 != 0
    }

    /// Whether any of these facts is among them.
    pub fn contains_any(self, facts: &[Fact]) -> bool {
        self.0 & Self::of(facts).0 != 0
    }

    /// Whether what depends on them may be otherwise a moment later, although nothing new is asked.
    pub fn change_with_time(self) -> bool {
        self.contains_any(&[Fact::Time, Fact::CertificateAge])
    }

    /// Whether agents of the first release cannot supply them all.
    pub fn are_beyond_path_and_method(self) -> bool {
        self.0 & !Self::of(&[Fact::Method, Fact::Path]).0 != 0
    }

    /// Whether any of them is told by a user's token, or by who passed it on.
    pub fn are_of_users(self) -> bool {
        self.contains_any(&Fact::OF_USERS)
    }

    /// Whether there are some, and all are told so.
    pub(crate) fn are_only_of_users(self) -> bool {
        self.are_of_users() && self.without(Self::of(&Fact::OF_USERS)) == Self::NONE
    }

    /// Whether a connection has them all, whatever is spoken on it.
    pub(crate) fn are_of_any_connection(self) -> bool {
        !self.without(Self::of(&Fact::PEER).and(Self::of(&[Fact::Time]))).contains_any(&Fact::ALL)
    }

    /// Whether they vary from question to question in more than path and method.
    pub(crate) fn vary(self) -> bool {
        self.contains_any(&Fact::VARYING)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for FactSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Fact::ALL.iter().filter(|fact| self.contains(**fact))).finish()
    }
}

/// What of the context a statement's conditions read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reads {
    pub(crate) facts: FactSet,
    /// The header fields that it names.
    pub(crate) headers: BTreeSet<Box<str>>,
    /// The names in queries that it asks for.
    pub(crate) query: QueryNames,
    /// The claims that it names.
    pub(crate) claims: BTreeSet<Box<str>>,
    /// The labels of nodes that it names, of whoever calls or of nodes that it names too.
    pub(crate) labels: BTreeSet<Box<str>>,
    /// The callers that they name, whoever calls.
    pub(crate) principals: Vec<(Kind, Box<str>)>,
    /// The roles and data classes that they name, with their full ids.
    pub(crate) groups: BTreeSet<(Kind, Box<str>)>,
    /// The entities that they name and ask what these are, or what these are in.
    pub(crate) consulted: BTreeSet<(Kind, Box<str>)>,
    /// Why what it does with header fields, claims or labels cannot be supported.
    pub(crate) flaws: Vec<FieldFlaw>,
}

/// A use of header fields, claims or labels that agents cannot supply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldFlaw {
    /// What is wrong, as it is written.
    pub(crate) text: String,
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Reads {
    /// Finds every mention of the context in a statement's syntax tree. One that is not a plain `context.x` or
    /// `context has x` reads all of it.
    pub(crate) fn of(tree: &Value) -> Self {
        let mut found = Self { consulted: consulted::consulted(tree), ..Self::default() };
        found.visit(tree);
        found
    }

    fn visit(&mut self, tree: &Value) {
        match tree {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    match key.as_str() {
                        "." | "has" => self.visit_access(key, value),
                        "hasTag" | "getTag" => self.visit_tag(value),
                        "Var" if value == "context" => {
                            self.add(FactSet::all());
                            self.query.ask_for_any();
                        }
                        "__entity" => self.visit_name(value),
                        _ => self.visit(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn visit_name(&mut self, name: &Value) {
        let field = |field| name.get(field).and_then(Value::as_str);
        match (field("type").and_then(Kind::parse), field("id")) {
            // Whoever is named may be whom the request is made for: what is known of them comes with that.
            (Some(Kind::User), _) => self.add(FactSet::of(&[Fact::User])),
            (Some(kind @ (Kind::Node | Kind::Workload)), Some(id)) => self.principals.push((kind, id.into())),
            (Some(kind @ (Kind::Role | Kind::DataClass)), Some(id)) => {
                self.groups.insert((kind, id.into()));
            }
            (Some(_), Some(_)) => {}
            // Not a name after all, but a field of a record that is called like one.
            _ => self.visit(name),
        }
    }

    fn visit_access(&mut self, operator: &str, access: &Value) {
        let path = path_of(access);
        let named = match path.as_deref() {
            Some([name]) => Named::parse(name),
            _ => None,
        };
        if let Some(named) = named {
            self.add(FactSet::of(&[named.fact()]));
            // What is asked of its tags is seen before; `context has headers` is always so.
            if operator != "has" {
                self.flaw_of_use(named);
            }
            return;
        }
        match path.as_deref() {
            Some(path) => {
                self.add(facts_of(path));
                if operator != "has" && facts_of(path).contains(Fact::Query) {
                    self.query.ask_for_any();
                }
            }
            None => {
                for named in attributes(access).into_iter().filter_map(Named::parse) {
                    self.add(FactSet::of(&[named.fact()]));
                    self.flaw_of_use(named);
                }
                self.visit(access);
            }
        }
    }

    fn visit_tag(&mut self, call: &Value) {
        let path = call.get("left").and_then(|left| left.get(".")).and_then(path_of);
        let name = call.get("right");
        let written = name.and_then(|name| name.get("Value")).and_then(Value::as_str);
        let named = match path.as_deref() {
            Some(["query"]) => {
                self.add(FactSet::of(&[Fact::Query]));
                match written {
                    Some(written) => self.query.ask_for(written),
                    None => self.query.ask_for_any(),
                }
                return name.into_iter().for_each(|name| self.visit(name));
            }
            Some([name]) => Named::parse(name),
            _ => None,
        };
        let Some(named) = named else {
            if call.get("left").is_some_and(may_be_node) {
                self.visit_label(call.get("right"));
            }
            return self.visit(call);
        };
        self.add(FactSet::of(&[named.fact()]));
        match (named, written) {
            (Named::Headers, Some(name)) => match why_not_listed(name) {
                None => drop(self.headers.insert(name.into())),
                Some((message, help)) => self.flaw(name, message, help),
            },
            (Named::Claims, Some(name)) => drop(self.claims.insert(name.into())),
            (Named::Headers, None) => self.flaw(
                "context.headers",
                "the name of a header field must be written out",
                "agents gather only the fields that policies name: write context.headers.hasTag(\"x-tenant\")",
            ),
            (Named::Claims, None) => self.flaw(
                "context.claims",
                "the name of a claim must be written out",
                "agents keep only the claims that policies name: write context.claims.hasTag(\"department\")",
            ),
        }
        name.into_iter().for_each(|name| self.visit(name));
    }

    fn visit_label(&mut self, name: Option<&Value>) {
        match name.and_then(|name| name.get("Value")).and_then(Value::as_str) {
            Some(name) => drop(self.labels.insert(name.into())),
            None => self.flaw(
                "hasTag",
                "the name of a label must be written out",
                "agents get only the labels that policies name: write principal.hasTag(\"team\")",
            ),
        }
    }

    fn flaw_of_use(&mut self, named: Named) {
        match named {
            Named::Headers => self.flaw(
                "headers",
                "header fields can only be asked for by name",
                "write context.headers.hasTag(\"x-tenant\") or context.headers.getTag(\"x-tenant\")",
            ),
            Named::Claims => self.flaw(
                "claims",
                "claims can only be asked for by name",
                "write context.claims.hasTag(\"department\") or context.claims.getTag(\"department\")",
            ),
        }
    }

    fn flaw(&mut self, text: &str, message: &str, help: &str) {
        let [text, message, help] = [text, message, help].map(str::to_owned);
        self.flaws.push(FieldFlaw { text, message, help });
    }

    fn add(&mut self, facts: FactSet) {
        self.facts = self.facts.and(facts);
    }
}

/// What is asked for by names that must be written out, since agents gather nothing else of it.
#[derive(Clone, Copy)]
enum Named {
    Headers,
    Claims,
}

impl Named {
    fn parse(attribute: &str) -> Option<Self> {
        match attribute {
            "headers" => Some(Self::Headers),
            "claims" => Some(Self::Claims),
            _ => None,
        }
    }

    fn fact(self) -> Fact {
        match self {
            Self::Headers => Fact::Headers,
            Self::Claims => Fact::Claims,
        }
    }
}

fn facts_of(path: &[&str]) -> FactSet {
    let facts: &[Fact] = match path {
        ["method"] => &[Fact::Method],
        ["path" | "service" | "rpc"] => &[Fact::Path],
        ["params"] => &[Fact::Params],
        ["host"] => &[Fact::Host],
        ["query"] => &[Fact::Query],
        ["time"] => &[Fact::Time],
        ["peer"] => &Fact::PEER,
        ["peer", "address"] => &[Fact::Address],
        ["peer", "certificateAge"] => &[Fact::CertificateAge],
        ["peer", "tlsVersion" | "tlsGroup"] => &[Fact::Tls],
        ["peer", "spiffeId" | "trustDomain" | "federated"] => &[Fact::Identity],
        ["user"] | ["user", "issuer" | "scopes" | "roles"] => &[Fact::User],
        ["actors"] => &[Fact::Actors],
        _ => return FactSet::all(),
    };
    FactSet::of(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(condition: &str) -> Reads {
        let text = format!("forbid(principal, action == Action::\"GET\", resource) when {{ {condition} }};");
        let policy = cedar_policy::Policy::parse(None, &text).unwrap();
        Reads::of(&policy.to_json().unwrap())
    }

    #[test]
    fn sees_which_names_of_a_query_are_asked_for() {
        let asked = |condition: &str| format!("{:?}", reads(condition).query);
        for (condition, names) in [
            ("context.host == \"a\"", "{}"),
            ("context has query", "{}"),
            ("context.query.hasTag(\"b\") && context.query.getTag(\"a\").isEmpty()", "{\"a\", \"b\"}"),
            ("context.query.hasTag(context.host)", "any"),
            ("(if context.host == \"a\" then context.query else context.query).hasTag(\"a\")", "any"),
            ("(if context.host == \"a\" then context else context).query.hasTag(\"a\")", "any"),
            ("context == context", "any"),
        ] {
            assert_eq!(asked(condition), names, "{condition}");
        }
    }

    #[test]
    fn sees_what_a_condition_reads() {
        use Fact::{
            Actors, Address, CertificateAge, Claims, Headers, Host, Identity, Method, Params, Path, Query,
            Time, Tls, User,
        };
        for (condition, facts) in [
            ("true", &[][..]),
            ("context.path == \"/a\" || context.method == \"GET\"", &[Path, Method]),
            ("context has service && context.rpc == \"Get\"", &[Path]),
            ("context.peer.address.isInRange(ip(\"10.0.0.0/8\"))", &[Address]),
            ("context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"", &[Tls]),
            ("context has peer.certificateAge", &[CertificateAge]),
            ("context.peer.federated", &[Identity]),
            ("context.peer == context.peer", &[Address, CertificateAge, Identity, Tls]),
            ("context.time.toTime() < duration(\"8h\")", &[Time]),
            (
                "context.query.hasTag(context.path) && context.params.getTag(\"id\") == \"1\"",
                &[Params, Path, Query],
            ),
            ("[context.host].contains(\"a\")", &[Host]),
            ("context.headers.hasTag(\"x-tenant\")", &[Headers]),
            ("context has user && context.user in UserGroup::\"login/support\"", &[User]),
            ("context has user.scopes && context.user.scopes.contains(\"a\")", &[User]),
            ("[User::\"login/alice\"].contains(User::\"login/bob\")", &[User]),
            ("context.claims.hasTag(\"a\") && context has claims", &[Claims]),
            ("context.actors == [Node::\"web\"]", &[Actors]),
            (
                "{\"has\": context.path, \"hasTag\": context.method} == {\"has\": \"/\", \"hasTag\": \"\"}",
                &[Path, Method],
            ),
            ("{\"__entity\": context has user}.__entity", &[User]),
            ("{\"__entity\": {\"type\": context.path, \"id\": \"a\"}}.__entity.id == \"a\"", &[Path]),
            ("(if true then context else context).path == \"/\"", &Fact::ALL),
            ("context == context", &Fact::ALL),
        ] {
            let found = reads(condition);
            assert_eq!(found.facts, FactSet::of(facts), "{condition}");
            assert!(found.flaws.is_empty(), "{condition}: {:?}", found.flaws);
        }
    }

    #[test]
    fn header_fields_are_named_by_literals_that_agents_can_supply() {
        let named = reads("context.headers.hasTag(\"b\") && context.headers.getTag(\"a-b\").contains(\"x\")");
        assert_eq!(named.headers.iter().map(|name| &**name).collect::<Vec<_>>(), ["a-b", "b"]);
        let named = reads("context.claims.hasTag(\"b\") && context.claims.getTag(\"a.b\").contains(\"x\")");
        assert_eq!(named.claims.iter().map(|name| &**name).collect::<Vec<_>>(), ["a.b", "b"]);
        for condition in [
            "context.headers.hasTag(context.path)",
            "context.headers.hasTag(\"X-Tenant\")",
            "context.headers.hasTag(\"cookie\")",
            "context.headers == context.headers",
            "(if true then context.headers else context.headers).hasTag(\"a\")",
            "(if true then context else context).headers.hasTag(\"a\")",
            "{a: context}.a.headers.hasTag(\"a\")",
            "[context.headers].contains(context.headers)",
            "context.claims.hasTag(context.path)",
            "context.claims == context.claims",
            "(if true then context.claims else context.claims).hasTag(\"a\")",
            "(if true then context else context).claims.hasTag(\"a\")",
        ] {
            assert!(!reads(condition).flaws.is_empty(), "{condition}");
        }
    }

    #[test]
    fn labels_are_named_by_literals_whosever_they_are() {
        for (condition, labels) in [
            ("principal.hasTag(\"b\") && principal.getTag(\"a\") == \"x\"", &["a", "b"][..]),
            ("Node::\"web\".hasTag(\"a\")", &["a"]),
            ("(if context.peer.federated then principal else Node::\"web\").hasTag(\"a\")", &["a"]),
            ("(if true then Node::\"web\" else Node::\"cart\").hasTag(\"a\")", &["a"]),
            (
                "{a: principal}.a.hasTag(\"a\") || {a: {b: [principal], c: Node::\"web\"}}.a.c.hasTag(\"b\")",
                &["a", "b"],
            ),
            ("principal.hasTag(\"a\") && context.query.hasTag(principal.getTag(\"a\"))", &["a"]),
            (
                "principal == Node::\"web\" && context.query.hasTag(\"a\") && context.params.hasTag(context.host)",
                &[],
            ),
            (
                "(if principal == Node::\"web\" then context.query else context.query).hasTag(context.host)",
                &[],
            ),
            ("context.headers.hasTag(\"a\")", &[]),
        ] {
            let found = reads(condition);
            assert_eq!(found.labels.iter().map(|name| &**name).collect::<Vec<_>>(), labels, "{condition}");
            assert!(found.flaws.is_empty(), "{condition}: {:?}", found.flaws);
        }
        for condition in [
            "principal.hasTag(context.path)",
            "Node::\"web\".getTag(context.host) == \"x\"",
            "{a: principal}.a.hasTag(context.path)",
            "(if true then principal else principal).hasTag(if true then \"a\" else \"b\")",
        ] {
            assert!(!reads(condition).flaws.is_empty(), "{condition}");
        }
    }
}
