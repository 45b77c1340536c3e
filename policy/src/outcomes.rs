//! How conditions of policies came out: told beside a decision, so that it can be made again by other policies with the
//! same conditions where what these read is not kept.

use std::sync::Arc;

use serde_json::Value;

use crate::vocabulary::Kind;

/// How many conditions are told of one decision; of one in which there were more, none is.
pub const MAX_CONDITIONS: usize = 32;

/// All conditions of one statement, where nothing but the request and its route bears on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The statement.
    pub policy: Arc<str>,
    /// What they say, in a spelling that is the same for equal ones.
    pub text: Arc<str>,
}

/// How the conditions of the policies in play came out, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    of: Arc<[Condition]>,
    met: u32,
    unmet: u32,
}

/// How conditions came out in recorded calls, whichever statement they are of now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConditionOutcome {
    /// What they say, as [`Condition`] has it.
    pub text: Arc<str>,
    /// All of them held.
    pub is_met: bool,
}

impl Outcomes {
    /// Puts together what is known, one outcome for each condition; none where nothing is.
    pub(crate) fn new(of: &Arc<[Condition]>, known: impl Iterator<Item = Option<bool>>) -> Option<Arc<Self>> {
        let (mut met, mut unmet) = (0, 0);
        for (index, outcome) in known.take(MAX_CONDITIONS).enumerate() {
            match outcome {
                Some(true) => met |= 1 << index,
                Some(false) => unmet |= 1 << index,
                None => {}
            }
        }
        (met | unmet != 0).then(|| Arc::new(Self { of: Arc::clone(of), met, unmet }))
    }

    /// Those whose outcome is known, and whether they were met.
    pub fn iter(&self) -> impl Iterator<Item = (&Condition, bool)> {
        self.of.iter().enumerate().filter_map(|(index, condition)| {
            let has = |bits: u32| bits & 1 << index != 0;
            (has(self.met) || has(self.unmet)).then(|| (condition, has(self.met)))
        })
    }
}

/// The conditions of a statement's syntax tree, if it has any, and nothing but the request and its route bears on them:
/// they look at neither caller nor resource, nor into what a mesh's resources make of names.
pub(crate) fn condition_of(tree: &Value) -> Option<Arc<str>> {
    let conditions = tree.get("conditions").filter(|conditions| is_of_request(conditions))?;
    let is_empty = conditions.as_array().is_none_or(Vec::is_empty);
    (!is_empty).then(|| conditions.to_string().into())
}

fn is_of_request(tree: &Value) -> bool {
    match tree {
        Value::Array(items) => items.iter().all(is_of_request),
        Value::Object(fields) => fields.iter().all(|(key, value)| match key.as_str() {
            "Var" => value == "context",
            "Slot" => false,
            // What users are in comes with the request.
            "__entity" => matches!(kind_of(value), Some(Kind::User | Kind::UserGroup)),
            "==" | "!=" | "contains" | "containsAll" | "containsAny" => match value {
                Value::Object(sides) => sides.values().all(|side| is_name(side) || is_of_request(side)),
                other => is_of_request(other),
            },
            _ => is_of_request(value),
        }),
        _ => true,
    }
}

/// Names that are compared, and not looked into.
fn is_name(side: &Value) -> bool {
    match side.get("Set") {
        Some(Value::Array(items)) => items.iter().all(|item| is_name(item) || is_of_request(item)),
        _ => side.get("Value").and_then(|value| value.get("__entity")).and_then(kind_of).is_some(),
    }
}

fn kind_of(name: &Value) -> Option<Kind> {
    Kind::parse(name.get("type")?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(conditions: &str) -> Option<Arc<str>> {
        let text = format!("permit(principal, action == Action::\"GET\", resource) {conditions};");
        condition_of(&cedar_policy::Policy::parse(None, &text).unwrap().to_json().unwrap())
    }

    #[test]
    fn what_bears_on_a_condition_is_the_request_alone_or_it_is_not_told() {
        for of_request in [
            "context has user && context.user in UserGroup::\"login/support\"",
            "context has user && context.user == User::\"login/alice\"",
            "context.claims.hasTag(\"a\") && context.claims.getTag(\"a\").contains(\"b\")",
            "context.actors.contains(Node::\"web\") && context.actors != [Node::\"web\", Node::\"cart\"]",
            "context.actors.containsAny([Node::\"web\"])",
            "context.path like \"/a/*\" || context.params.getTag(\"id\") == \"1\"",
            "context.time.toTime() < duration(\"8h\")",
        ] {
            assert!(condition(&format!("when {{ {of_request} }}")).is_some(), "{of_request}");
        }
        for of_more in [
            "principal == Node::\"web\"",
            "context has user && principal in Role::\"clerks\"",
            "resource in DataClass::\"pii\"",
            "action in Action::\"read\"",
            "Node::\"web\" in Role::\"clerks\"",
            "Node::\"web\".hasTag(\"team\")",
            "[Node::\"web\"].contains(principal)",
            "(if true then Node::\"web\" else Node::\"cart\") in Role::\"clerks\"",
            "[Node::\"web\"] == [Node::\"web\", principal]",
        ] {
            assert_eq!(condition(&format!("when {{ {of_more} }}")), None, "{of_more}");
        }
        assert_eq!(condition(""), None);
        assert_eq!(condition("when { context.path == \"/\" } unless { principal == Node::\"web\" }"), None);
    }

    #[test]
    fn conditions_are_one_however_they_are_written() {
        let one = condition("when { context.path == \"/a\" }");
        assert_eq!(one, condition("when {\n  (context.path) == \"/a\" // here\n}"));
        assert_ne!(one, condition("unless { context.path == \"/a\" }"));
        assert_ne!(one, condition("when { context.path == \"/b\" }"));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let of: Arc<[Condition]> = ["a", "b", "c"]
            .map(|name| Condition { policy: name.into(), text: format!("{name}'s").into() })
            .into();
        let known = Outcomes::new(&of, [Some(true), None, Some(false)].into_iter()).unwrap();
        let told: Vec<_> = known.iter().map(|(condition, is_met)| (&*condition.policy, is_met)).collect();
        assert_eq!(told, [("a", true), ("c", false)]);
        assert_eq!(Outcomes::new(&of, [None; 3].into_iter()), None);
    }
}
