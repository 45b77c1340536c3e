//! What is left of a statement's conditions once all that is known has been put in.

use cedar_policy::{Authorizer, Entities, Policy, PolicySet, Request};
use serde_json::{Value, json};

use crate::circumstances::Gathered;
use crate::explain::alone;
use crate::membership;
use crate::names::Namespace;
use crate::path_set::{Glob, PathSet, Relation, Step};
use crate::pattern_work::MAX_WILDCARDS;
use crate::reads::{Fact, FactSet, Reads, path_of};
use crate::vocabulary::Kind;

/// All that is known of one question.
pub(super) struct Residual<'a> {
    pub(super) authorizer: &'a Authorizer,
    /// With the known facts alone.
    pub(super) request: Request,
    pub(super) entities: Entities,
    pub(super) known: FactSet,
    /// The caller stands for others, so that its id is not known, but where it belongs is.
    pub(super) is_alias: bool,
    /// The header fields that are known.
    pub(super) gathered: &'a Gathered,
    /// Claims that are not.
    pub(super) untold_claims: &'a [Box<str>],
    pub(super) paths: &'a PathSet,
    pub(super) is_rpc: bool,
}

/// What is left of one statement.
pub(super) struct Remainder {
    /// The conditions that must hold for it to apply; none where it does not.
    pub(super) open: Option<Vec<Value>>,
    /// Whether what is open might fail instead, and so deny.
    pub(super) may_fail: bool,
    /// It fails, and so denies, whatever else holds.
    pub(super) fails: bool,
}

/// The value of an expression.
enum Worth {
    Known(bool),
    Fails,
    /// It depends on what is not known, or is no boolean.
    Open,
}

impl Residual<'_> {
    /// What holds of the labels, roles and data classes that are asked for.
    pub(super) fn held(&self, reads: &Reads, names: &Namespace) -> Vec<String> {
        let of = self.request.principal().zip(self.request.resource());
        of.map(|of| membership::held(reads, names, &self.entities, of)).unwrap_or_default()
    }

    /// Puts what is known into a statement's conditions, which are in the order in which they are evaluated.
    pub(super) fn of_statement(&self, conditions: &[Value]) -> Remainder {
        let mut open = Vec::new();
        for condition in conditions {
            let body = condition.get("body").cloned().unwrap_or(Value::Null);
            let is_unless = condition.get("kind").is_some_and(|kind| kind == "unless");
            let wanted = self.reduce(if is_unless { negated(body) } else { body });
            match literal(&wanted) {
                Some(true) => {}
                Some(false) => {
                    // Those before it are evaluated first, and may fail.
                    let may_fail = open.iter().any(may_fail);
                    return Remainder { open: None, may_fail, fails: false };
                }
                None if open.is_empty() && matches!(self.evaluate(&wanted), Worth::Fails) => {
                    return Remainder { open: None, may_fail: false, fails: true };
                }
                None => open.push(wanted),
            }
        }
        let may_fail = open.iter().any(may_fail);
        Remainder { open: Some(open), may_fail, fails: false }
    }

    /// The expression with all that is known put in.
    fn reduce(&self, tree: Value) -> Value {
        if literal(&tree).is_some() {
            return tree;
        }
        let known = match self.evaluate(&tree) {
            Worth::Known(value) => Some(value),
            Worth::Fails => return tree,
            Worth::Open => self.compare_path(&tree),
        };
        if let Some(known) = known {
            return json!({ "Value": known });
        }
        let part = |operator: &str, name: &str| {
            tree.get(operator).and_then(|sides| sides.get(name)).cloned().unwrap_or(Value::Null)
        };
        let operator = tree.as_object().and_then(|fields| fields.keys().next()).map(String::as_str);
        match operator {
            Some(operator @ ("&&" | "||")) => {
                let (left, right) =
                    (self.reduce(part(operator, "left")), self.reduce(part(operator, "right")));
                // What settles it: false for `&&`, true for `||`.
                let settles = operator == "||";
                match (literal(&left), literal(&right)) {
                    (Some(value), _) if value == settles => left,
                    (Some(_), _) => right,
                    (None, Some(value)) if value == settles && !may_fail(&left) => right,
                    (None, Some(value)) if value != settles => left,
                    (None, _) => json!({ operator: { "left": left, "right": right } }),
                }
            }
            Some("!") => negated(self.reduce(part("!", "arg"))),
            Some("if-then-else") => {
                let [condition, yes, no] =
                    ["if", "then", "else"].map(|name| self.reduce(part("if-then-else", name)));
                match literal(&condition) {
                    Some(true) => yes,
                    Some(false) => no,
                    None => json!({ "if-then-else": { "if": condition, "then": yes, "else": no } }),
                }
            }
            _ => tree,
        }
    }

    /// The value of an expression that reads what is known alone.
    fn evaluate(&self, tree: &Value) -> Worth {
        if !self.is_known(tree) {
            return Worth::Open;
        }
        let condition = json!({"kind": "when", "body": tree});
        let policy = Policy::from_json(None, alone(&condition)).ok();
        let Some(set) = policy.and_then(|policy| PolicySet::from_policies([policy]).ok()) else {
            return Worth::Open;
        };
        let response = self.authorizer.is_authorized(&self.request, &set, &self.entities);
        match response.diagnostics().errors().next() {
            Some(_) => Worth::Fails,
            None => Worth::Known(response.diagnostics().reason().next().is_some()),
        }
    }

    fn is_known(&self, tree: &Value) -> bool {
        let reads = Reads::of(tree);
        let unknown = reads.facts.without(self.known);
        let fields_are_known = reads.headers.iter().all(|name| self.gathered.field(name).is_some());
        let claims_are_known = !self.untold_claims.iter().any(|name| reads.claims.contains(name));
        if !fields_are_known || !claims_are_known || !reads.flaws.is_empty() {
            return false;
        }
        unknown == FactSet::NONE
            || (self.is_alias
                && unknown == FactSet::of(&[Fact::Identity])
                && only_says_where_it_belongs(tree))
    }

    /// The value of a comparison with the path where it is the same for all paths that are asked about.
    fn compare_path(&self, tree: &Value) -> Option<bool> {
        let (operator, sides) = tree.as_object()?.iter().next()?;
        let (compared, matched) = match operator.as_str() {
            "==" | "!=" => {
                let (left, right) = (sides.get("left")?, sides.get("right")?);
                let (compared, text) = match (text_literal(left), text_literal(right)) {
                    (None, Some(text)) => (left, text),
                    (Some(text), None) => (right, text),
                    _ => return None,
                };
                (compared, text.chars().map(Some).collect::<Vec<_>>())
            }
            "like" => {
                let mut matched = Vec::new();
                for piece in sides.get("pattern")?.as_array()? {
                    match piece.get("Literal") {
                        Some(text) => matched.extend(text.as_str()?.chars().map(Some)),
                        None => matched.push(None),
                    }
                }
                // One that was stored before there was a bound: to run it would take too long, and nothing is said of
                // it.
                if matched.iter().filter(|char| char.is_none()).count() > MAX_WILDCARDS {
                    return None;
                }
                (sides.get("left")?, matched)
            }
            _ => return None,
        };
        let access = compared.get(".")?;
        if access.get("left")?.get("Var")? != "context" {
            return None;
        }
        let steps = |wildcard| matched.iter().map(move |char| char.map_or(wildcard, Step::Char));
        let segment = [Step::Unslashed, Step::Within];
        let slash = [Step::Char('/')];
        let glob = match access.get("attr")?.as_str()? {
            "path" => Glob::new(steps(Step::Any).collect()),
            "service" if self.is_rpc => {
                Glob::new(slash.into_iter().chain(steps(Step::Within)).chain(slash).chain(segment).collect())
            }
            "rpc" if self.is_rpc => {
                Glob::new(slash.into_iter().chain(segment).chain(slash).chain(steps(Step::Within)).collect())
            }
            _ => return None,
        };
        match self.paths.relation(&glob) {
            Relation::Whole => Some(operator != "!="),
            Relation::None | Relation::Nothing => Some(operator == "!="),
            Relation::Part => None,
        }
    }
}

/// The same expression with names as people write them.
pub(super) fn with_short_names(tree: &Value, names: &Namespace) -> Value {
    match tree {
        Value::Array(items) => items.iter().map(|item| with_short_names(item, names)).collect(),
        Value::Object(fields) => {
            let shorten = |(key, value): (&String, &Value)| {
                let value = match entity(key, value) {
                    Some((kind, id)) => json!({
                        "type": value.get("type"),
                        "id": names.shorten(&kind.uid(id)),
                    }),
                    None => with_short_names(value, names),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(shorten).collect())
        }
        other => other.clone(),
    }
}

fn entity<'a>(key: &str, value: &'a Value) -> Option<(Kind, &'a str)> {
    let kind = value.get("type")?.as_str()?;
    (key == "__entity").then_some((Kind::parse(kind)?, value.get("id")?.as_str()?))
}

fn literal(tree: &Value) -> Option<bool> {
    tree.get("Value")?.as_bool()
}

fn text_literal(tree: &Value) -> Option<&str> {
    tree.get("Value")?.as_str()
}

fn negated(tree: Value) -> Value {
    if let Some(value) = literal(&tree) {
        return json!({ "Value": !value });
    }
    match tree.get("!").and_then(|negation| negation.get("arg")) {
        Some(inner) => inner.clone(),
        None => json!({ "!": { "arg": tree } }),
    }
}

/// Whether its evaluation could fail: of what passes validation, numbers and instants can become too large, and an
/// entity may not be there that an attribute is asked of.
fn may_fail(tree: &Value) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(may_fail),
        Value::Object(fields) => fields.iter().any(|(key, value)| match key.as_str() {
            "+" | "-" | "*" | "neg" | "offset" | "durationSince" | "toDate" => true,
            // The context has what the schema says, and so have the caller and what is called.
            "." => path_of(value).is_none() && value.get("left").is_none_or(|left| left.get("Var").is_none()),
            _ => may_fail(value),
        }),
        _ => false,
    }
}

/// Whether all that is read of the caller's identity is its trust domain.
fn only_says_where_it_belongs(tree: &Value) -> bool {
    match tree {
        Value::Array(items) => items.iter().all(only_says_where_it_belongs),
        Value::Object(fields) => fields.iter().all(|(key, value)| {
            let path = if matches!(key.as_str(), "." | "has") { path_of(value) } else { None };
            match path.as_deref() {
                Some(["peer"] | ["peer", "spiffeId"]) => false,
                Some(_) => true,
                None if key == "Var" => value != "context",
                None => only_says_where_it_belongs(value),
            }
        }),
        _ => true,
    }
}
