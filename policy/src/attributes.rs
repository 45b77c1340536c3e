//! Which policies look at what a port or route is, rather than at which one it is.

use cedar_policy::{ActionConstraint, ResourceConstraint};
use serde_json::Value;

use crate::document::{PolicyDocument, Statement};
use crate::reads::Fact;
use crate::vocabulary::{Action, ActionSet, VOCABULARY};

impl PolicyDocument {
    /// Whether a condition looks at attributes of the resource, such as `resource.template`, or at the parameters of
    /// its template: it then speaks of ports and routes that it does not name, and a route that is declared otherwise
    /// may fall under it or out of it.
    pub fn reads_resource(&self) -> bool {
        self.reads().contains(Fact::Params)
            || self.statements().iter().any(|statement| match statement.policy.to_json() {
                Ok(tree) => tree.get("conditions").is_some_and(reads_resource),
                // What cannot be looked into may look at anything.
                Err(_) => true,
            })
    }

    /// Whether it is about gRPC methods and reads of them what earlier releases knew of HTTP requests alone: the query,
    /// or parameters.
    pub fn reads_calls_as_requests(&self) -> bool {
        self.statements().iter().any(|Statement { policy, reads, .. }| {
            reads.contains_any(&[Fact::Query, Fact::Params])
                && VOCABULARY.admitted(&policy.action_constraint()).intersects(Action::Call.bit())
        })
    }

    /// Whether gRPC methods that read and those that write are not the same to it: which is which then decides what it
    /// reaches.
    pub fn tells_calls_apart(&self) -> bool {
        let groups = ["read", "write"].map(|name| VOCABULARY.group(name));
        self.statements().iter().any(|Statement { policy, .. }| {
            let of_calls = VOCABULARY.admitted(&policy.action_constraint()).common(Action::Call.bits());
            let is_about_some = of_calls != ActionSet::default() && of_calls != Action::Call.bits();
            is_about_some || policy.entity_literals().iter().any(|uid| groups.contains(uid))
        })
    }

    /// Whether a statement of it, of every node, may be decided otherwise at a port that speaks another protocol: it is
    /// about some actions only, or looks at what requests alone have, or at whether there is one.
    pub fn tells_protocols_apart_everywhere(&self) -> bool {
        self.statements().iter().filter(|statement| statement.is_of_every_node()).any(|statement| {
            let Statement { policy, reads, .. } = statement;
            let is_of_some_kind = matches!(
                policy.resource_constraint(),
                ResourceConstraint::Is(_) | ResourceConstraint::IsIn(..)
            );
            policy.action_constraint() != ActionConstraint::Any
                || is_of_some_kind
                || !reads.are_of_any_connection()
                || policy.entity_literals().iter().any(|uid| uid.type_name().basename() == "Action")
                // What cannot be looked into may look at anything.
                || policy.to_json().map_or(true, |tree| tree.get("conditions").is_some_and(asks_what_it_is))
        })
    }
}

/// Whether it is asked of what type the resource is, a route or a port: what a port speaks decides it.
fn asks_what_it_is(tree: &Value) -> bool {
    any_field(tree, &|key, value| key == "is" && any_field(value, &is_resource_name))
}

fn any_field(tree: &Value, is_meant: &impl Fn(&str, &Value) -> bool) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(|item| any_field(item, is_meant)),
        Value::Object(fields) => {
            fields.iter().any(|(key, value)| is_meant(key, value) || any_field(value, is_meant))
        }
        _ => false,
    }
}

/// Any mention of the variable counts but for comparisons of the resource itself, whose other side is a name.
fn reads_resource(tree: &Value) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(reads_resource),
        Value::Object(fields) => fields.iter().any(|(key, value)| match key.as_str() {
            "in" | "is" | "==" | "!=" => match value.as_object() {
                Some(sides) => sides.values().any(|side| !is_resource(side) && reads_resource(side)),
                None => reads_resource(value),
            },
            _ => is_resource_name(key, value) || reads_resource(value),
        }),
        _ => false,
    }
}

fn is_resource(tree: &Value) -> bool {
    tree.as_object().is_some_and(|fields| fields.iter().any(|(key, value)| is_resource_name(key, value)))
}

fn is_resource_name(key: &str, value: &Value) -> bool {
    key == "Var" && value == "resource"
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, TrustDomain};

    use super::*;
    use crate::document::Mode;

    fn reads(condition: &str) -> bool {
        let text = format!("forbid(principal, action == Action::\"GET\", resource) when {{ {condition} }};");
        let name = |text| Name::parse(text).unwrap();
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        PolicyDocument::parse(name("shop"), &trust_domain, name("p"), Mode::Enforce, &text)
            .unwrap()
            .reads_resource()
    }

    #[test]
    fn policies_tell_reads_from_writes_by_groups() {
        let told = |action: &str, condition: &str| {
            let text = format!("forbid(principal, {action}, resource) when {{ {condition} }};");
            crate::testing::parse(&text).unwrap().tells_calls_apart()
        };
        let here = "context.peer.federated";
        assert!(told("action in Action::\"write\"", here) && told("action in [Action::\"read\"]", here));
        assert!(told("action == Action::\"call\"", "action in Action::\"read\""));
        assert!(!told("action == Action::\"call\"", here) && !told("action", here));
        assert!(!told("action in Action::\"http\"", here));
    }

    #[test]
    fn what_a_connection_has_too_does_not_tell_protocols_apart() {
        let told = |text: &str| crate::testing::parse(text).unwrap().tells_protocols_apart_everywhere();
        let when =
            |condition: &str| told(&format!("forbid(principal, action, resource) when {{ {condition} }};"));
        assert!(told("forbid(principal, action in Action::\"write\", resource);"));
        assert!(told(
            "permit(principal is Node, action == Action::\"connect\", resource in Mesh::\"shop\");"
        ));
        assert!(told("forbid(principal, action, resource is Route);"));
        assert!(when("action in Action::\"http\"") && when("resource is Route"));
        assert!(when("context has user"));
        assert!(!told("forbid(principal, action, resource);"));
        // At the service's ports alone.
        assert!(!told("forbid(principal, action == Action::\"GET\", resource in Service::\"orders\");"));
        assert!(!when("context.peer.federated") && !when("resource in Service::\"orders\""));
        assert!(!when("principal in TrustDomain::\"shop.example\""));
    }

    #[test]
    fn names_are_not_attributes() {
        assert!(!reads("context.path like \"/admin/*\""));
        assert!(!reads("resource in Service::\"orders\" || resource == Route::\"orders:8080 /a\""));
        assert!(!reads("resource is Route in Port::\"orders:8080\""));
        assert!(reads("resource.template like \"/admin/*\""));
        assert!(reads("resource in Service::\"orders\" && (if true then resource else resource).port == 1"));
        assert!(reads("[resource].contains(resource)"));
        assert!(reads("context.params.hasTag(\"id\")"));
    }
}
