//! Which routes and data classes forbids are about.

use cedar_policy::Policy;
use serde_json::Value;

use super::PolicyDocument;
use crate::compiled::permits;
use crate::names::{Namespace, Referent};
use crate::vocabulary::Kind;

/// For which outcome of an expression a forbid applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Applies {
    WhereTrue,
    WhereFalse,
    /// It cannot be told.
    Perhaps,
}

impl PolicyDocument {
    /// The routes and data classes that forbids of it are about, by their scopes and by conditions that they meet: not
    /// those that `unless` or `!` leaves out. One may come several times.
    pub fn routes_forbidden(&self) -> impl Iterator<Item = &Referent> {
        self.statements.iter().flat_map(|statement| {
            let by_scope = statement.resource.iter().filter(|_| !permits(&statement.policy));
            by_scope.chain(&statement.routes_forbidden).filter(|referent| is_of_routes(referent))
        })
    }
}

/// Whether it is a route, or routes are in it.
pub(super) fn is_of_routes(referent: &Referent) -> bool {
    matches!(referent, Referent::DataClass(_) | Referent::Route { .. })
}

/// Those of a forbid's conditions, which have full names.
pub(super) fn by_conditions(forbid: &Policy, names: &Namespace) -> Vec<Referent> {
    let mut found = Vec::new();
    let tree = forbid.to_json().unwrap_or_default();
    for condition in tree.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let is_when = condition.get("kind").and_then(Value::as_str) != Some("unless");
        let applies = if is_when { Applies::WhereTrue } else { Applies::WhereFalse };
        condition.get("body").into_iter().for_each(|body| applies.visit(body, &mut found));
    }
    let referent = |(kind, id): (&str, &str)| Some(names.qualify(Kind::parse(kind)?, id).ok()?.1);
    found.into_iter().filter_map(referent).filter(is_of_routes).collect()
}

impl Applies {
    fn otherwise(self) -> Self {
        match self {
            Self::WhereTrue => Self::WhereFalse,
            Self::WhereFalse => Self::WhereTrue,
            Self::Perhaps => Self::Perhaps,
        }
    }

    /// Finds what is named, by type and id, where the forbid may apply to it.
    fn visit<'v>(self, tree: &'v Value, found: &mut Vec<(&'v str, &'v str)>) {
        match tree {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item, found)),
            Value::Object(operators) => {
                for (operator, of) in operators {
                    let applies = match operator.as_str() {
                        "!" | "!=" => self.otherwise(),
                        // Of `if-then-else`.
                        "if" => Self::Perhaps,
                        _ => self,
                    };
                    let field = |name| of.get(name).and_then(Value::as_str);
                    match (operator.as_str(), field("type"), field("id")) {
                        ("__entity", Some(kind), Some(id)) if applies != Self::WhereFalse => {
                            found.push((kind, id));
                        }
                        _ => applies.visit(of, found),
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::parse;

    fn named(text: &str) -> Vec<String> {
        let document = parse(text).unwrap();
        let mut named: Vec<_> = document.routes_forbidden().map(|referent| format!("{referent:?}")).collect();
        named.dedup();
        named
    }

    #[test]
    fn conditions_name_what_is_forbidden_as_scopes_do() {
        let by_scope = named(r#"forbid(principal, action, resource in DataClass::"pii");"#);
        assert_eq!(by_scope.len(), 1);
        for condition in [
            r#"when { resource in DataClass::"pii" }"#,
            r#"when { context.method == "GET" && (resource in [DataClass::"pii"] || context.path == "/a") }"#,
            r#"when { resource is Route in DataClass::"pii" }"#,
            r#"unless { !(resource in DataClass::"pii") }"#,
            r#"when { if resource in DataClass::"pii" then context.path == "/a" else context.path == "/b" }"#,
        ] {
            let forbid = format!(r#"forbid(principal, action in Action::"http", resource) {condition};"#);
            assert_eq!(named(&forbid), by_scope, "{condition}");
        }
        for route in [r#"resource == Route::"orders:8080 /a""#, r#"resource in Route::"orders:8080 /a""#] {
            let found = named(&format!("forbid(principal, action, resource) when {{ {route} }};"));
            assert!(found.len() == 1 && found[0].starts_with("Route {"), "{route}: {found:?}");
        }
    }

    #[test]
    fn what_a_forbid_leaves_out_it_is_not_about() {
        for other in [
            r#"forbid(principal, action, resource) unless { resource in DataClass::"pii" };"#,
            r#"forbid(principal, action, resource) when { !(resource in DataClass::"pii") };"#,
            r#"forbid(principal, action, resource) when { resource != Route::"orders:8080 /a" };"#,
            r#"forbid(principal, action, resource) when { resource in Service::"orders" };"#,
            r#"forbid(principal, action, resource in Node::"orders");"#,
            r#"permit(principal is Node, action, resource in DataClass::"pii");"#,
            r#"permit(principal is Node, action, resource) when { resource in DataClass::"pii" };"#,
        ] {
            assert!(named(other).is_empty(), "{other}");
        }
    }
}
