//! What a piece of a statement's syntax tree leads to.

use serde_json::Value;

/// The attributes that lead from the context to what is accessed, such as `["peer", "address"]`.
pub(crate) fn path_of(access: &Value) -> Option<Vec<&str>> {
    let left = access.get("left")?;
    let mut path = match left.get(".") {
        Some(inner) => path_of(inner)?,
        None if left.get("Var")? == "context" => Vec::new(),
        None => return None,
    };
    path.extend(attributes(access));
    Some(path)
}

/// Of `has a.b` both names.
pub(super) fn attributes(access: &Value) -> Vec<&str> {
    match access.get("attr") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(name) => name.as_str().into_iter().collect(),
        None => Vec::new(),
    }
}

/// Whether an expression can have a node for its value: of what has tags, all that is no node comes with the context.
pub(super) fn may_be_node(tree: &Value) -> bool {
    let Some((operator, of)) = tree.as_object().and_then(|fields| fields.iter().next()) else { return false };
    let part = |name| of.get(name).is_some_and(may_be_node);
    match operator.as_str() {
        "Var" => of == "principal",
        "Value" => of.get("__entity").and_then(|name| name.get("type")).is_some_and(|kind| kind == "Node"),
        "if-then-else" => part("then") || part("else"),
        // A field of a record that is written out.
        "." => path_of(of).is_none() && of.get("left").is_some_and(mentions_node),
        _ => false,
    }
}

fn mentions_node(tree: &Value) -> bool {
    may_be_node(tree)
        || match tree {
            Value::Array(items) => items.iter().any(mentions_node),
            Value::Object(fields) => fields.values().any(mentions_node),
            _ => false,
        }
}
