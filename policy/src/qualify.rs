//! Makes every name of a statement full, on Cedar's own syntax tree, and checks what the schema cannot.

mod refused;

use std::collections::BTreeSet;
use std::slice::from_ref;

use cedar_policy::{EntityUid, Policy, ResourceConstraint};
use serde_json::{Map, Value};

use crate::context::CARRIED;
use crate::document::Grade;
use crate::evaluation::Evaluation;
use crate::fields::canonical_host;
use crate::names::{BadName, Compared, Namespace, Referent};
use crate::path::{CanonicalPath, EscapedSlashes};
use crate::reads::{FieldFlaw, Reads};
use crate::vocabulary::Kind;

/// A statement with full names.
pub(crate) struct Qualified {
    pub(crate) policy: Policy,
    pub(crate) reads: Reads,
    pub(crate) text: String,
    pub(crate) mentions: Vec<Mention>,
    /// How many characters follow the wildcards of its patterns, where Cedar is asked about it.
    pub(crate) following: usize,
    /// What no new statement may have.
    pub(crate) untidy: Vec<Flaw>,
}

/// A name that the statement mentions.
pub(crate) struct Mention {
    pub(crate) referent: Referent,
    /// As it is written, such as `Node::"web"`.
    pub(crate) text: String,
}

/// Something wrong with a statement.
pub(crate) struct Flaw {
    /// What is wrong, as it is written; empty for the statement as a whole.
    pub(crate) text: String,
    pub(crate) message: String,
    pub(crate) help: String,
    pub(crate) grade: Grade,
}

/// Makes the names of `policy` full.
pub(crate) fn qualify(policy: &Policy, names: &Namespace) -> Result<Qualified, Vec<Flaw>> {
    let mut walk = Walk::new(names);
    let tree = policy.to_json().map_err(|error| vec![Flaw::of_all(error)])?;
    let mut tree = tree;
    walk.visit(&mut tree);
    walk.check_following();
    let mut reads = Reads::of(&tree);
    let mention = |referent: fn(String) -> Referent, name: &str| Mention {
        referent: referent(name.to_owned()),
        text: format!("\"{}\"", name.escape_debug()),
    };
    walk.mentions.extend(reads.claims.iter().map(|name| mention(Referent::Claim, name)));
    walk.mentions.extend(reads.labels.iter().map(|name| mention(Referent::Label, name)));
    walk.mentions.extend(std::mem::take(&mut walk.texts).into_iter().map(|(asked, text)| {
        let written = format!("\"{}\"", text.escape_debug());
        Mention { referent: Referent::Text { asked, text }, text: written }
    }));
    let flaws = std::mem::take(&mut reads.flaws);
    // Agents refuse these too.
    let of_fields =
        flaws.into_iter().map(|FieldFlaw { text, message, help }| Flaw::mistake(text, message, help));
    walk.flaws.extend(of_fields);
    walk.check_consulted(&reads);
    if walk.is_mistaken() {
        return Err(walk.flaws);
    }
    let following = if Evaluation::needs_cedar(&tree) { walk.following } else { 0 };
    let policy =
        Policy::from_json(Some(policy.id().clone()), tree).map_err(|error| vec![Flaw::of_all(error)])?;
    let text = policy.to_cedar().ok_or_else(|| vec![Flaw::of_all("this statement has no text")])?;
    walk.check_governs_own_mesh(&policy);
    if walk.is_mistaken() {
        return Err(walk.flaws);
    }
    Ok(Qualified { policy, reads, text, mentions: walk.mentions, following, untidy: walk.flaws })
}

/// What is wrong with the names in a statement's syntax tree, slots aside.
pub(crate) fn find_flaws(tree: &Value, names: &Namespace) -> Vec<Flaw> {
    let mut walk = Walk::new(names);
    let mut tree = tree.clone();
    walk.visit(&mut tree);
    walk.check_following();
    walk.check_consulted(&Reads::of(&tree));
    walk.flaws
}

/// The names that a statement's syntax tree mentions, whatever else is wrong with it.
pub(crate) fn find_mentions(mut tree: Value, names: &Namespace) -> Vec<Mention> {
    let mut walk = Walk::new(names);
    walk.visit(&mut tree);
    walk.mentions
}

impl Flaw {
    fn of_all(message: impl ToString) -> Self {
        Self::mistake(String::new(), message.to_string(), String::new())
    }

    fn mistake(text: String, message: String, help: String) -> Self {
        Self { text, message, help, grade: Grade::Mistake }
    }

    fn untidy(text: String, message: String, help: String) -> Self {
        Self { text, message, help, grade: Grade::Untidy }
    }
}

struct Walk<'a> {
    names: &'a Namespace,
    mentions: Vec<Mention>,
    /// What parts of the request are held against.
    texts: BTreeSet<(Compared, String)>,
    /// How much follows the wildcards of its patterns.
    following: usize,
    flaws: Vec<Flaw>,
}

impl<'a> Walk<'a> {
    fn new(names: &'a Namespace) -> Self {
        Self { names, mentions: Vec::new(), texts: BTreeSet::new(), following: 0, flaws: Vec::new() }
    }
}

impl Walk<'_> {
    /// Whether the statement cannot be enforced.
    fn is_mistaken(&self) -> bool {
        self.flaws.iter().any(|flaw| flaw.grade == Grade::Mistake)
    }

    fn visit(&mut self, tree: &mut Value) {
        match tree {
            Value::Array(items) => items.iter_mut().for_each(|item| self.visit(item)),
            Value::Object(fields) => {
                self.check_texts(fields);
                self.check_pattern(fields);
                self.check_label(fields);
                for (key, value) in fields {
                    match key.as_str() {
                        // The scope: {"op": "==", "entity": {…}}, {"op": "in", "entities": […]}.
                        "entity" => self.visit_uid(value),
                        "entities" => {
                            value.as_array_mut().into_iter().flatten().for_each(|uid| self.visit_uid(uid))
                        }
                        // A literal: {"Value": {"__entity": {…}}}.
                        "__entity" => self.visit_uid(value),
                        _ => self.visit(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn visit_uid(&mut self, uid: &mut Value) {
        let field = |name| uid.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        let (Some(type_name), Some(id)) = (field("type"), field("id")) else {
            // Not a name after all, but an attribute that is called like one.
            return self.visit(uid);
        };
        if CARRIED.contains(&type_name.as_str()) {
            let message = "this is what a request brings along, and has no name".to_owned();
            let help = format!("write context.{}", type_name.to_lowercase());
            self.flaws.push(Flaw::mistake(type_name, message, help));
            return;
        }
        let Some(kind) = Kind::parse(&type_name) else { return };
        let text = format!("{type_name}::\"{}\"", id.escape_debug());
        match self.names.qualify(kind, &id) {
            Ok((full, referent)) => {
                if let Some(id) = uid.get_mut("id") {
                    *id = Value::String(full.id().unescaped().to_owned());
                }
                self.mentions.push(Mention { referent, text });
            }
            Err(BadName { message, help }) => self.flaws.push(Flaw::mistake(text, message, help)),
        }
    }

    /// Refuses to compare `context.path` and `context.host` with what no canonical path or host can be: a forbid would
    /// never match. What other parts of the request are compared with is looked at where it is known what they can be.
    fn check_texts(&mut self, expression: &Map<String, Value>) {
        for (asked, text) in comparisons(expression) {
            match asked {
                Compared::Path if text != "*" => {
                    if let Some(help) = why_not_canonical(text) {
                        self.flaw_of_path(text, help);
                    }
                }
                Compared::Path => {}
                Compared::Host => {
                    let host = canonical_host(text);
                    if host != *text {
                        self.flaw_of_host(text, &host);
                    }
                }
                Compared::Method
                | Compared::Service
                | Compared::Rpc
                | Compared::Template
                | Compared::Parameter => {
                    self.texts.insert((asked, text.to_owned()));
                }
            }
        }
        if let Some(like) = expression.get("like")
            && let Some(asked) = like.get("left").and_then(asked)
        {
            let pattern =
                like.get("pattern").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            // The tree may hold each character by itself.
            let is_wildcard = |part: &Value| part.get("Literal").is_none();
            for (index, run) in
                pattern.chunk_by(|one, next| is_wildcard(one) == is_wildcard(next)).enumerate()
            {
                let literal: String = run.iter().filter_map(|part| part.get("Literal")?.as_str()).collect();
                // What `OPTIONS *` asks for.
                let is_of_server = literal == "*" && run.len() == pattern.len();
                if !literal.is_empty()
                    && asked == Compared::Path
                    && !is_of_server
                    && let Some(help) = why_not_part_of_canonical(&literal, index == 0)
                {
                    self.flaw_of_path(&literal, help);
                }
                // What ends the pattern ends the host.
                let mut host = literal.to_ascii_lowercase();
                let is_last = run.as_ptr_range().end == pattern.as_ptr_range().end;
                if is_last && !literal.is_empty() {
                    host = canonical_host(&format!("x{host}")).split_off(1);
                }
                if asked == Compared::Host && host != literal {
                    self.flaw_of_host(&literal, &host);
                }
            }
        }
    }

    /// Refuses to ask a node of another mesh for a label: it has none here, and a forbid would never match.
    fn check_label(&mut self, expression: &Map<String, Value>) {
        let call = expression.get("hasTag").or_else(|| expression.get("getTag"));
        let named = call.and_then(|call| call.get("left")?.get("Value")?.get("__entity"));
        let field = |name| named.and_then(|named| named.get(name)?.as_str());
        let Some(id) = field("id").filter(|_| field("type") == Some("Node")) else { return };
        let Ok((uid, _)) = self.names.qualify(Kind::Node, id) else { return };
        if let Some(mesh) = foreign_mesh(&uid, self.names) {
            let message = format!("nodes of mesh {mesh:?} have no labels here");
            let help = "policies can ask nodes of their own mesh alone".to_owned();
            let text = format!("Node::\"{}\"", id.escape_debug());
            self.flaws.push(Flaw::untidy(text, message, help));
        }
    }

    fn flaw_of_host(&mut self, literal: &str, host: &str) {
        let message = "no request has such a host, so this never matches".to_owned();
        let help = format!("write {host:?}: hosts are compared in lower case and without a port");
        self.flaws.push(Flaw::untidy(literal.to_owned(), message, help));
    }

    fn flaw_of_path(&mut self, literal: &str, help: String) {
        let message = "no request has such a path, so this never matches".to_owned();
        self.flaws.push(Flaw::untidy(literal.to_owned(), message, help));
    }

    fn check_governs_own_mesh(&mut self, policy: &Policy) {
        let resource = match policy.resource_constraint() {
            ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
                uid
            }
            ResourceConstraint::Any | ResourceConstraint::Is(_) => return,
        };
        if let Some(mesh) = foreign_mesh(&resource, self.names) {
            let BadName { message, help } = self.names.foreign(&mesh);
            let text = format!("{}::\"{}\"", resource.type_name(), resource.id().unescaped());
            self.flaws.push(Flaw::mistake(text, message, help));
        }
    }
}

/// The texts that an operator holds parts of the request against.
fn comparisons(expression: &Map<String, Value>) -> Vec<(Compared, &str)> {
    let sides = |operator: &str| {
        let sides = expression.get(operator)?;
        Some((sides.get("left")?, sides.get("right")?))
    };
    let mut found = Vec::new();
    for (left, right) in ["==", "!="].into_iter().filter_map(sides) {
        compare(from_ref(left), from_ref(right), &mut found);
    }
    for (left, right) in ["contains"].into_iter().filter_map(sides) {
        compare(items(left), from_ref(right), &mut found);
    }
    for (left, right) in ["containsAny", "containsAll"].into_iter().filter_map(sides) {
        compare(items(left), items(right), &mut found);
    }
    for (left, right) in ["hasTag", "getTag"].into_iter().filter_map(sides) {
        let name = right.get("Value").and_then(Value::as_str);
        found.extend(
            name.filter(|_| is_attribute("context", "params", left)).map(|name| (Compared::Parameter, name)),
        );
    }
    found
}

/// What of either side is held against texts of the other.
fn compare<'v>(one: &'v [Value], other: &'v [Value], found: &mut Vec<(Compared, &'v str)>) {
    for (one, other) in [(one, other), (other, one)] {
        // Where a set has other things too, the text may be meant for them.
        let Some(part) = one.first().and_then(asked) else { continue };
        if one.iter().any(|also| asked(also) != Some(part)) {
            continue;
        }
        let texts = other.iter().filter_map(|value| value.get("Value")?.as_str());
        found.extend(texts.map(|text| (part, text)));
    }
}

fn items(set: &Value) -> &[Value] {
    set.get("Set").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The part of the request that an expression is.
fn asked(expression: &Value) -> Option<Compared> {
    const PARTS: [(&str, &str, Compared); 6] = [
        ("context", "path", Compared::Path),
        ("context", "host", Compared::Host),
        ("context", "method", Compared::Method),
        ("context", "service", Compared::Service),
        ("context", "rpc", Compared::Rpc),
        ("resource", "template", Compared::Template),
    ];
    let (.., asked) = PARTS.iter().find(|(variable, name, _)| is_attribute(variable, name, expression))?;
    Some(*asked)
}

fn is_attribute(variable: &str, name: &str, expression: &Value) -> bool {
    let access = expression.get(".");
    let attribute = access.and_then(|access| access.get("attr")).and_then(Value::as_str);
    let of = access.and_then(|access| access.get("left")?.get("Var")?.as_str());
    attribute == Some(name) && of == Some(variable)
}

fn why_not_canonical(path: &str) -> Option<String> {
    // Some listeners let escaped slashes stand.
    match CanonicalPath::parse_with("GET", path, EscapedSlashes::Keep) {
        Ok(canonical) if canonical.query().is_some() => {
            Some("the query is not part of context.path".to_owned())
        }
        Ok(canonical) if canonical.was_rewritten() => Some(format!("write {:?}", canonical.path())),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The same for a piece of a pattern, whose ends may cut a segment but not an escape.
pub(crate) fn why_not_part_of_canonical(piece: &str, is_first: bool) -> Option<String> {
    if is_first && !piece.starts_with('/') {
        return Some("begin with \"/\" or \"*\"".to_owned());
    }
    if piece.contains('?') {
        return Some("the query is not part of context.path".to_owned());
    }
    // Between letters, dots at either end are no dot segment.
    let whole = format!("/x{piece}x");
    match CanonicalPath::parse_with("GET", &whole, EscapedSlashes::Keep) {
        Ok(canonical) if canonical.was_rewritten() => {
            let path = canonical.path();
            Some(format!("write {:?}", path.get(2..path.len() - 1).unwrap_or(path)))
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The mesh of a resource, if it is not the policy's own.
fn foreign_mesh(resource: &EntityUid, names: &Namespace) -> Option<String> {
    let id = resource.id().unescaped();
    let mesh = match Kind::of(resource)? {
        Kind::Mesh => id,
        // A node's full id; ports, routes, services and roles of other meshes are refused wherever they stand.
        Kind::Node => id.split('/').nth(4)?,
        _ => return None,
    };
    (names.mesh != *mesh).then(|| mesh.to_owned())
}
