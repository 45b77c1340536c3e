//! A statement's conditions one by one, and what of the context, or of a node's labels, one of them did not find as it
//! wants it.

use cedar_policy::{Entities, EvalResult, Expression, Policy, Request, eval_expression};
use serde_json::{Value, json};

use super::Mismatch;
use crate::reads::{FactSet, Reads};

/// A statement's conditions, `when` split at `&&`.
pub(crate) fn conditions(policy: &Policy) -> Vec<Value> {
    let Ok(mut tree) = policy.to_json() else { return Vec::new() };
    let Some(Value::Array(conditions)) = tree.get_mut("conditions").map(Value::take) else {
        return Vec::new();
    };
    let mut split = Vec::new();
    for mut condition in conditions.into_iter().map(plain) {
        if condition.get("kind").is_some_and(|kind| kind == "when")
            && let Some(body) = condition.get_mut("body").map(Value::take)
        {
            split_conjunction(body, &mut split);
        } else {
            split.push(condition);
        }
    }
    split
}

/// The same without negations that a comparison can say: Cedar takes `a >= b` for `!(a < b)`.
fn plain(tree: Value) -> Value {
    match tree {
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(fields) => {
            let negated = fields.get("!").and_then(|negation| negation.get("arg")?.as_object());
            let turned = negated.and_then(|inner| {
                let (operator, sides) = inner.iter().next()?;
                let turned = match operator.as_str() {
                    "<" => ">=",
                    "<=" => ">",
                    "==" => "!=",
                    _ => return None,
                };
                Some(json!({ turned: plain(sides.clone()) }))
            });
            turned.unwrap_or_else(|| {
                Value::Object(fields.into_iter().map(|(key, value)| (key, plain(value))).collect())
            })
        }
        other => other,
    }
}

fn split_conjunction(mut body: Value, split: &mut Vec<Value>) {
    let sides = body.get_mut("&&").map(|sides| {
        let mut side = |name| sides.get_mut(name).map(Value::take);
        (side("left"), side("right"))
    });
    match sides {
        Some((Some(left), Some(right))) => {
            split_conjunction(left, split);
            split_conjunction(right, split);
        }
        _ => split.push(json!({"kind": "when", "body": body})),
    }
}

/// A statement with this condition alone.
pub(crate) fn alone(condition: &Value) -> Value {
    let all = json!({"op": "All"});
    json!({"effect": "permit", "principal": all, "action": all, "resource": all, "conditions": [condition]})
}

/// A condition as Cedar text, with its keyword where that is `unless`.
fn text_of(condition: &Value) -> String {
    let text = condition.get("body").map(text_of_expression).unwrap_or_default();
    let is_unless = condition.get("kind").is_some_and(|kind| kind == "unless");
    if is_unless { format!("unless {text}") } else { text }
}

/// An expression as Cedar text.
pub(crate) fn text_of_expression(expression: &Value) -> String {
    let operation = expression.as_object().and_then(|fields| fields.iter().next());
    let side = |sides: &Value, name: &str| sides.get(name).map(operand).unwrap_or_default();
    match operation {
        // Cedar would write all of these with `!`.
        Some((operator, sides)) if mentions_turned(expression) => match operator.as_str() {
            "!" => format!("!{}", side(sides, "arg")),
            ">=" | ">" | "!=" | "&&" | "||" => {
                format!("{} {operator} {}", side(sides, "left"), side(sides, "right"))
            }
            _ => text_by_cedar(expression),
        },
        _ => text_by_cedar(expression),
    }
}

/// The same as a part of another one.
fn operand(expression: &Value) -> String {
    let text = text_of_expression(expression);
    let operator = expression.as_object().and_then(|fields| fields.keys().next()).map(String::as_str);
    match operator {
        Some("==" | "!=" | "<" | "<=" | ">" | ">=" | "&&" | "||" | "in" | "like" | "has" | "is") => {
            format!("({text})")
        }
        Some("+" | "-" | "*" | "if-then-else") => format!("({text})"),
        _ => text,
    }
}

/// Whether it holds what [`plain`] makes, which Cedar takes apart again.
fn mentions_turned(tree: &Value) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(mentions_turned),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| matches!(key.as_str(), ">=" | ">" | "!=") || mentions_turned(value)),
        _ => false,
    }
}

fn text_by_cedar(expression: &Value) -> String {
    let condition = json!({"kind": "when", "body": expression});
    let policy = Policy::from_json(None, alone(&condition)).ok();
    let text = policy.and_then(|policy| policy.to_cedar()).unwrap_or_default();
    let inner = text.find('{').zip(text.rfind('}')).and_then(|(open, close)| text.get(open + 1..close));
    inner.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A condition that failed: in terms of its values where it compares a fact of the context, or a label, with something,
/// otherwise as a whole.
pub(super) fn failed(condition: &Value, request: Option<&Request>, entities: &Entities) -> Mismatch {
    failed_comparison(condition, request, entities).unwrap_or_else(|| Mismatch {
        field: text_of(condition),
        expected: "true".to_owned(),
        was: "false".to_owned(),
    })
}

fn failed_comparison(condition: &Value, request: Option<&Request>, entities: &Entities) -> Option<Mismatch> {
    if condition.get("kind")? != "when" {
        return None;
    }
    let body = condition.get("body")?;
    let (operator, sides) = body.as_object()?.iter().next()?;
    // Functions such as `isInRange` have a list of arguments.
    let compared = sides.get("left").or_else(|| sides.get(0))?;
    let is_compared = match operator.as_str() {
        "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "like" | "has" | "hasTag" => true,
        "contains" | "containsAll" | "containsAny" | "isEmpty" => true,
        _ => sides.is_array(),
    };
    let (reads, is_of_tags) = (Reads::of(compared), operator == "hasTag");
    let asks_for_label = !if is_of_tags { Reads::of(body).labels } else { reads.labels }.is_empty();
    if !is_compared || reads.facts == FactSet::NONE && !asks_for_label {
        return None;
    }
    let field = text_of_expression(compared);
    let text = text_of(condition);
    let rest = text.strip_prefix(&field).or_else(|| text.strip_prefix(&format!("({field})")))?;
    let rest = rest.trim_start_matches(['.', ' ']);
    let expected = rest.strip_prefix("== ").unwrap_or(rest).to_owned();
    let was = match operator.as_str() {
        "has" | "hasTag" => "absent".to_owned(),
        _ => {
            let expression: Expression = field.parse().ok()?;
            match eval_expression(request?, entities, &expression) {
                Ok(value) => shown(value),
                Err(_) => "absent".to_owned(),
            }
        }
    };
    Some(Mismatch { field, expected, was })
}

/// A value as policies write it.
fn shown(value: EvalResult) -> String {
    match value {
        EvalResult::String(text) => format!("{text:?}"),
        value => value.to_string(),
    }
}
