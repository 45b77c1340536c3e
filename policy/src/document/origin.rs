//! Whether a statement's conditions say of which trust domain the caller must be.

use cedar_policy::Policy;
use serde_json::Value;

use crate::vocabulary::Kind;

/// Whether a statement applies to callers of certain trust domains alone, by a condition that must hold as a whole.
/// What cannot be told counts as none.
pub(super) fn demands_trust_domain(policy: &Policy) -> bool {
    let Ok(tree) = policy.to_json() else { return false };
    let conditions = tree.get("conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| {
        let body = condition.get("body").unwrap_or(&Value::Null);
        let is_unless = condition.get("kind").is_some_and(|kind| kind == "unless");
        if is_unless { demands_unless(body) } else { demands(body) }
    })
}

/// Whether it holds for callers of certain trust domains alone.
fn demands(tree: &Value) -> bool {
    let sides = |operator: &str| {
        let sides = tree.get(operator)?;
        Some((sides.get("left")?, sides.get("right")?))
    };
    let is_either = |operator: &str, is_meant: fn(&Value) -> bool, is_said: fn(&Value) -> bool| {
        sides(operator)
            .is_some_and(|(left, right)| is_meant(left) && is_said(right) || is_meant(right) && is_said(left))
    };
    if let Some((left, right)) = sides("&&") {
        return demands(left) || demands(right);
    }
    if let Some((left, right)) = sides("||") {
        return demands(left) && demands(right);
    }
    if let Some(negated) = tree.get("!").and_then(|negation| negation.get("arg")) {
        return demands_unless(negated);
    }
    if let Some(is) = tree.get("is") {
        return is.get("left").is_some_and(is_caller) && is.get("in").is_some_and(is_within);
    }
    sides("in").is_some_and(|(left, right)| is_caller(left) && is_within(right))
        || is_either("==", is_caller, |value| named(value).is_some())
        || is_either("==", is_where_it_belongs, |value| text(value).is_some())
        || sides("contains").is_some_and(|(set, one)| {
            is_where_it_belongs(one)
                && items(set).is_some_and(|items| items.iter().all(|item| text(item).is_some()))
        })
}

/// The same of an expression that must not hold.
fn demands_unless(tree: &Value) -> bool {
    if let Some(negated) = tree.get("!").and_then(|negation| negation.get("arg")) {
        return demands(negated);
    }
    let sides =
        |operator: &str| tree.get(operator).and_then(|sides| Some([sides.get("left")?, sides.get("right")?]));
    if let Some(sides) = sides("||") {
        return sides.into_iter().any(demands_unless);
    }
    if let Some(sides) = sides("&&") {
        return sides.into_iter().all(demands_unless);
    }
    if let Some([left, right]) = sides("!=") {
        let is_said = |one, other| is_where_it_belongs(one) && text(other).is_some();
        return is_said(left, right) || is_said(right, left);
    }
    // Whoever is not of another trust domain is of our own.
    is_of_peer(tree, "federated")
}

fn is_caller(tree: &Value) -> bool {
    tree.get("Var").is_some_and(|variable| variable == "principal")
}

/// Trust domains, or certain callers or those of certain roles.
fn is_within(tree: &Value) -> bool {
    match items(tree) {
        Some(items) => items.iter().all(is_within),
        None => named(tree).is_some(),
    }
}

fn named(tree: &Value) -> Option<Kind> {
    Kind::parse(tree.get("Value")?.get("__entity")?.get("type")?.as_str()?)
}

fn text(tree: &Value) -> Option<&str> {
    tree.get("Value")?.as_str()
}

fn items(tree: &Value) -> Option<&Vec<Value>> {
    tree.get("Set")?.as_array()
}

fn is_where_it_belongs(tree: &Value) -> bool {
    is_of_peer(tree, "trustDomain") || is_of_peer(tree, "spiffeId")
}

/// `context.peer.<attribute>`
fn is_of_peer(tree: &Value, attribute: &str) -> bool {
    let of = |tree: &Value, name: &str| {
        tree.get(".").filter(|access| access.get("attr").is_some_and(|attr| attr == name)).cloned()
    };
    let peer = of(tree, attribute).and_then(|access| access.get("left").and_then(|left| of(left, "peer")));
    peer.is_some_and(|access| {
        access.get("left").and_then(|left| left.get("Var")).is_some_and(|var| var == "context")
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::parse;

    #[test]
    fn a_permit_for_workloads_of_certain_trust_domains_is_not_for_all() {
        let parsed = |rest: &str| {
            let text = format!(
                "permit(principal is Workload, action in Action::\"http\", resource in Service::\"orders\") {rest};"
            );
            parse(&text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
        };
        let reaches_all = |rest: &str| parsed(rest).permits_all_workloads();
        let lab = "principal in TrustDomain::\"lab.example\"";
        for some in [
            format!("when {{ {lab} }}"),
            format!("when {{ context.path like \"/a*\" && {lab} }}"),
            format!("when {{ {lab} || principal in TrustDomain::\"partner.example\" }}"),
            format!("when {{ context.path like \"/a*\" }} when {{ {lab} }}"),
            format!("unless {{ !({lab}) }}"),
            format!("unless {{ context.path == \"/a\" || !({lab}) }}"),
            "when { principal is Workload in TrustDomain::\"lab.example\" }".to_owned(),
            "when { principal in [TrustDomain::\"lab.example\", TrustDomain::\"partner.example\"] }"
                .to_owned(),
            "when { context.peer has trustDomain && context.peer.trustDomain == \"lab.example\" }".to_owned(),
            "when { context.peer has trustDomain && [\"lab.example\"].contains(context.peer.trustDomain) }"
                .to_owned(),
            "when { !context.peer.federated }".to_owned(),
            "unless { context.peer.federated }".to_owned(),
        ] {
            assert!(!reaches_all(&some), "{some}");
            // It is for some of them all the same.
            assert!(parsed(&some).permits_some_workloads(), "{some}");
        }
        for all in [
            String::new(),
            format!("unless {{ {lab} }}"),
            format!("when {{ {lab} || context.path == \"/a\" }}"),
            format!("when {{ !({lab}) }}"),
            "when { context.peer.federated }".to_owned(),
            "when { resource in Service::\"orders\" }".to_owned(),
        ] {
            assert!(reaches_all(&all), "{all}");
        }
    }
}
