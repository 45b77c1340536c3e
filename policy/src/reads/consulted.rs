//! Which entities that conditions name are asked what they are, or what they are in: only of those must anything be
//! known.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Reads;
use crate::vocabulary::Kind;

impl Reads {
    /// Whether they ask of services, ports or routes that they name what these are or are in.
    pub(crate) fn asks_of_named_resources(&self) -> bool {
        let is_resource =
            |kind: &Kind| matches!(kind, Kind::Service | Kind::External | Kind::Port | Kind::Route);
        self.consulted.iter().any(|(kind, _)| is_resource(kind))
    }
}

/// Those of which an operator in the tree looks at attributes, tags, or what they are in. What is only compared, or
/// only has others in it, is not among them.
pub(super) fn consulted(tree: &Value) -> BTreeSet<(Kind, Box<str>)> {
    let mut found = BTreeSet::new();
    visit(tree, &mut found);
    found
}

fn visit(tree: &Value, found: &mut BTreeSet<(Kind, Box<str>)>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| visit(item, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                let asks = match key.as_str() {
                    "in" | "." | "has" | "hasTag" | "getTag" => true,
                    "is" => value.get("in").is_some(),
                    _ => false,
                };
                if let Some(left) = value.get("left").filter(|_| asks) {
                    values(left, found);
                }
                visit(value, found);
            }
        }
        _ => {}
    }
}

/// The entities by name that an expression can have for its value.
fn values(tree: &Value, found: &mut BTreeSet<(Kind, Box<str>)>) {
    let operator = tree.as_object().and_then(|fields| fields.iter().next());
    match operator {
        Some((operator, of)) if operator == "if-then-else" => {
            ["then", "else"].iter().filter_map(|part| of.get(part)).for_each(|part| values(part, found));
        }
        // What an attribute of the context, or of an entity, holds is nothing that is named; but a record may stand
        // written out.
        _ => mentioned(tree, found),
    }
}

fn mentioned(tree: &Value, found: &mut BTreeSet<(Kind, Box<str>)>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| mentioned(item, found)),
        Value::Object(fields) => {
            let named = fields.get("__entity").and_then(|name| {
                let field = |field| name.get(field).and_then(Value::as_str);
                Some((Kind::parse(field("type")?)?, field("id")?.into()))
            });
            found.extend(named);
            fields.values().for_each(|value| mentioned(value, found));
        }
        _ => {}
    }
}
