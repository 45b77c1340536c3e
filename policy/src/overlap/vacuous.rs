//! Conditions that say nothing: they hold whatever is so, or never.

use cedar_policy::Policy;
use serde_json::Value;

use crate::explain::conditions;

/// What conditions that say nothing come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vacuous {
    Always,
    Never,
}

/// What an expression may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Worth {
    holds: bool,
    fails_to_hold: bool,
    /// It cannot be evaluated.
    breaks: bool,
}

const OPEN: Worth = Worth { holds: true, fails_to_hold: true, breaks: true };

/// Whether all conditions of a statement together say nothing, as far as their form tells. What their types tell is an
/// error already.
///
/// `text` is theirs. Most name no truth value and compare one thing at the most, and need no reading.
pub(super) fn vacuous(policy: &Policy, text: &str) -> Option<Vacuous> {
    if !["true", "false"].iter().any(|value| text.contains(value)) && text.matches("==").count() < 2 {
        return None;
    }
    let conditions = conditions(policy);
    if conditions.is_empty() {
        return None;
    }
    let worth = |condition: &Value| {
        let body = condition.get("body").map_or(OPEN, worth);
        if condition.get("kind").is_some_and(|kind| kind == "unless") { body.negated() } else { body }
    };
    let all = conditions.iter().map(worth).reduce(Worth::and)?;
    let bodies =
        conditions.iter().filter(|condition| condition.get("kind").is_some_and(|kind| kind == "when"));
    if !all.holds || contradict(&bodies.filter_map(|condition| condition.get("body")).collect::<Vec<_>>()) {
        return Some(Vacuous::Never);
    }
    (!all.fails_to_hold && !all.breaks).then_some(Vacuous::Always)
}

impl Worth {
    fn negated(self) -> Self {
        Self { holds: self.fails_to_hold, fails_to_hold: self.holds, ..self }
    }

    /// Of two, of which the second one is asked where the first one holds.
    fn and(self, other: Self) -> Self {
        Self {
            holds: self.holds && other.holds,
            fails_to_hold: self.fails_to_hold || (self.holds && other.fails_to_hold),
            breaks: self.breaks || (self.holds && other.breaks),
        }
    }
}

fn worth(tree: &Value) -> Worth {
    if let Some(value) = tree.get("Value").and_then(Value::as_bool) {
        return Worth { holds: value, fails_to_hold: !value, breaks: false };
    }
    let Some((operator, sides)) = tree.as_object().and_then(|fields| fields.iter().next()) else {
        return OPEN;
    };
    let side = |name: &str| sides.get(name).map_or(OPEN, worth);
    match operator.as_str() {
        "!" => side("arg").negated(),
        "&&" if contradict(&conjuncts(tree)) => Worth { holds: false, ..OPEN },
        "&&" => side("left").and(side("right")),
        "||" => side("left").negated().and(side("right").negated()).negated(),
        _ => OPEN,
    }
}

/// What `&&` joins.
fn conjuncts(tree: &Value) -> Vec<&Value> {
    let Some(sides) = tree.get("&&") else { return vec![tree] };
    ["left", "right"].iter().filter_map(|name| sides.get(*name)).flat_map(conjuncts).collect()
}

/// Whether some two of these want one thing to be two different literals.
fn contradict(all: &[&Value]) -> bool {
    let wanted: Vec<_> = all.iter().filter_map(|tree| literally(tree)).collect();
    wanted.iter().enumerate().any(|(index, (what, literal))| {
        wanted.iter().skip(index + 1).any(|(other, other_literal)| what == other && literal != other_literal)
    })
}

/// What is compared with a literal, and with which.
fn literally(tree: &Value) -> Option<(&Value, &Value)> {
    let sides = tree.get("==")?;
    let (left, right) = (sides.get("left")?, sides.get("right")?);
    match (left.get("Value"), right.get("Value")) {
        (None, Some(literal)) => Some((left, literal)),
        (Some(literal), None) => Some((right, literal)),
        _ => None,
    }
}
