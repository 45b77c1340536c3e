//! Which statements deny by single values of a header field, and so let through whoever sends several of them as one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::PolicyDocument;
use crate::compiled::permits;
use crate::reads::{Fact, path_of};

/// For which outcome of an expression a request is denied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Denied {
    WhereTrue,
    WhereFalse,
    /// It cannot be told.
    Perhaps,
}

impl PolicyDocument {
    /// The statements that deny where a header field has, or has not only, certain values, each by its name in a slice
    /// with the names of the fields. Values that somebody joins in one line, as in `x-role: guest, admin` (RFC 9110
    /// §5.3), are one other value, which no comparison with any of them finds. A statement that denies whatever is not
    /// among certain values is none of these.
    pub fn denies_by_header_values(&self) -> Vec<(&str, BTreeSet<String>)> {
        let reading = self.statements.iter().filter(|statement| statement.reads.contains(Fact::Headers));
        let found = reading.filter_map(|statement| {
            let tree = statement.policy.to_json().ok()?;
            let mut fields = BTreeSet::new();
            for condition in tree.get("conditions").and_then(Value::as_array).into_iter().flatten() {
                let is_when = condition.get("kind").and_then(Value::as_str) != Some("unless");
                // A forbid that applies denies, and so does a permit that does not.
                let denied = match is_when == permits(&statement.policy) {
                    true => Denied::WhereFalse,
                    false => Denied::WhereTrue,
                };
                condition.get("body").into_iter().for_each(|body| denied.visit(body, &mut fields));
            }
            (!fields.is_empty()).then_some((statement.name.as_str(), fields))
        });
        found.collect()
    }
}

impl Denied {
    fn otherwise(self) -> Self {
        match self {
            Self::WhereTrue => Self::WhereFalse,
            Self::WhereFalse => Self::WhereTrue,
            Self::Perhaps => Self::Perhaps,
        }
    }

    fn visit(self, tree: &Value, fields: &mut BTreeSet<String>) {
        match tree {
            Value::Array(items) => items.iter().for_each(|item| Self::Perhaps.visit(item, fields)),
            Value::Object(operators) => {
                for (operator, of) in operators {
                    self.visit_operator(operator, of, fields);
                }
            }
            _ => {}
        }
    }

    fn visit_operator(self, operator: &str, of: &Value, fields: &mut BTreeSet<String>) {
        let visit = |part: &str, denied: Self, fields: &mut _| {
            of.get(part).into_iter().for_each(|part| denied.visit(part, fields))
        };
        match operator {
            "!" => visit("arg", self.otherwise(), fields),
            "&&" | "||" => ["left", "right"].into_iter().for_each(|side| visit(side, self, fields)),
            "if-then-else" => {
                visit("if", Self::Perhaps, fields);
                ["then", "else"].into_iter().for_each(|branch| visit(branch, self, fields));
            }
            "==" | "!=" if sides(of).iter().any(|side| is_boolean(side)) => {
                let [left, right] = sides(of);
                let (inner, value) = match left.get("Value").and_then(Value::as_bool) {
                    Some(value) => (right, Some(value)),
                    None => (left, right.get("Value").and_then(Value::as_bool)),
                };
                match value {
                    Some(value) if value == (operator == "==") => self.visit(inner, fields),
                    Some(_) => self.otherwise().visit(inner, fields),
                    None => [left, right].into_iter().for_each(|side| Self::Perhaps.visit(side, fields)),
                }
            }
            "==" | "!=" | "contains" | "containsAll" | "containsAny" => {
                let mut compared = BTreeSet::new();
                compared_fields(of, &mut compared);
                let unharmed = if operator == "!=" { Self::WhereTrue } else { Self::WhereFalse };
                match compared.is_empty() {
                    true => ["left", "right"].into_iter().for_each(|side| visit(side, Self::Perhaps, fields)),
                    false if self == unharmed => {}
                    false => fields.append(&mut compared),
                }
            }
            _ => Self::Perhaps.visit(of, fields),
        }
    }
}

fn sides(of: &Value) -> [&Value; 2] {
    ["left", "right"].map(|side| of.get(side).unwrap_or(&Value::Null))
}

/// Whether it is true or false, by what it is made of: to compare that is to compare no values.
fn is_boolean(tree: &Value) -> bool {
    const OPERATORS: [&str; 18] = [
        "!",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "in",
        "is",
        "has",
        "hasTag",
        "like",
        "contains",
        "containsAll",
        "containsAny",
        "isEmpty",
    ];
    tree.get("Value").is_some_and(Value::is_boolean)
        || tree.get("if-then-else").and_then(|branches| branches.get("then")).is_some_and(is_boolean)
        || OPERATORS.iter().any(|operator| tree.get(operator).is_some())
}

/// The header fields whose values something is made of.
fn compared_fields(tree: &Value, fields: &mut BTreeSet<String>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| compared_fields(item, fields)),
        Value::Object(parts) => {
            for (operator, of) in parts {
                let is_of_headers = operator == "getTag"
                    && of.get("left").and_then(|left| left.get(".")).and_then(path_of).as_deref()
                        == Some(&["headers"]);
                let name = of.get("right").and_then(|name| name.get("Value")).and_then(Value::as_str);
                match name.filter(|_| is_of_headers) {
                    Some(name) => drop(fields.insert(name.to_owned())),
                    None => compared_fields(of, fields),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, TrustDomain};

    use super::*;
    use crate::document::Mode;

    fn found(effect: &str, conditions: &str) -> Vec<String> {
        let text = format!(
            "{effect}(principal == Node::\"web\", action == Action::\"GET\", resource) {conditions};"
        );
        let name = |text| Name::parse(text).unwrap();
        let domain = TrustDomain::parse("shop.example").unwrap();
        let parsed = PolicyDocument::parse(name("shop"), &domain, name("p"), Mode::Enforce, &text);
        let document = parsed.unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        let found = document.denies_by_header_values();
        assert!(found.iter().all(|(statement, _)| *statement == "p"));
        found.into_iter().flat_map(|(_, fields)| fields).collect()
    }

    #[test]
    fn what_denies_by_a_value_that_a_list_hides_is_found() {
        const ROLE: &str = "context.headers.hasTag(\"x-role\") && ";
        const VALUES: &str = "context.headers.getTag(\"x-role\")";
        let of = |effect: &str, kind: &str, condition: &str| {
            let condition = condition.replace("VALUES", VALUES);
            found(effect, &format!("{kind} {{ {ROLE}{condition} }}"))
        };
        for (hidden, is_found_else) in [
            ("VALUES.contains(\"admin\")", false),
            ("VALUES.containsAny([\"admin\", \"root\"])", false),
            ("[\"admin\"].containsAny(VALUES)", false),
            ("VALUES == [\"admin\"]", false),
            ("[\"admin\"].containsAll(VALUES)", false),
            ("!(VALUES != [\"admin\"])", false),
            ("(context.path == \"/\" || VALUES.contains(context.host))", false),
            ("(if context.path == \"/\" then VALUES.contains(\"admin\") else false)", false),
            // Either way.
            ("(if VALUES.contains(\"admin\") then context.path == \"/\" else false)", true),
            // A comparison of truths.
            ("(VALUES.contains(\"admin\") == true)", false),
            ("(true == VALUES.contains(\"admin\"))", false),
            ("(VALUES.contains(\"admin\") != false)", false),
            ("((VALUES.contains(\"admin\") == false) == false)", false),
            ("((VALUES == [\"admin\"]) == true)", false),
            ("((if context.path == \"/\" then VALUES.contains(\"admin\") else false) == true)", false),
            ("(VALUES.contains(\"admin\") == (context.path == \"/\"))", true),
            ("(VALUES.contains(\"admin\") != context.headers.hasTag(\"x-test\"))", true),
        ] {
            assert_eq!(of("forbid", "when", hidden), ["x-role"], "{hidden}");
            assert_eq!(of("permit", "unless", hidden), ["x-role"], "{hidden}");
            let sound = format!("!({hidden})");
            if !is_found_else {
                assert_eq!(of("forbid", "when", &sound), [""; 0], "{sound}");
                assert_eq!(of("permit", "when", hidden), [""; 0], "{hidden}");
            }
        }
        assert_eq!(of("forbid", "when", "!([\"guest\"].containsAll(VALUES))"), [""; 0]);
        assert_eq!(of("forbid", "when", "VALUES != [\"guest\"]"), [""; 0]);
        assert_eq!(of("permit", "when", "VALUES == [\"guest\"]"), [""; 0]);
        assert_eq!(of("permit", "when", "VALUES.contains(\"admin\") == false"), ["x-role"]);
        assert_eq!(of("forbid", "when", "VALUES.contains(\"guest\") == false"), [""; 0]);
        assert_eq!(of("permit", "when", "false != VALUES.contains(\"guest\")"), [""; 0]);
        assert_eq!(of("forbid", "unless", "VALUES.contains(\"guest\")"), [""; 0]);
        // Whether there are any, no list of values hides.
        for truth in ["false", "context.peer.federated", "VALUES.isEmpty()"] {
            let condition = format!("(VALUES.isEmpty() == {truth})");
            assert_eq!(of("forbid", "when", &condition), [""; 0], "{condition}");
        }
        assert_eq!(of("forbid", "when", "(VALUES.isEmpty() == VALUES.contains(\"admin\"))"), ["x-role"]);
        assert_eq!(found("forbid", "when { context.headers.hasTag(\"x-role\") }"), [""; 0]);
        let of_query = "context.query.hasTag(\"a\") && context.query.getTag(\"a\").contains(\"b\")";
        assert_eq!(found("forbid", &format!("when {{ {ROLE}{of_query} }}")), [""; 0]);
    }
}
