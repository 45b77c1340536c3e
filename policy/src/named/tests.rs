use super::*;
use crate::compile::{CompileError, Engine};
use crate::document::{Mode, PolicyDocument};
use crate::scope::{NodeScope, Place};
use crate::slice::PolicyIndex;
use crate::template::PolicyTemplate;
use crate::testing::{ask, connect, documents, domain, name, node, orders, parse, peer, port, roles};

/// Node `payments`: 8080 http (service payments) with the routes `/cards/{id}`, of data class pii, and `/health`; 5432
/// tcp.
fn payments() -> NodeScope {
    let mut http = port(8080, Protocol::Http, &["payments"], &["/cards/{id}", "/health"]);
    http.routes[0].classes = vec![name("pii")];
    NodeScope {
        place: Place::Node(node("payments")),
        ports: vec![http, port(5432, Protocol::Tcp, &[], &[])],
        ..orders()
    }
}

/// What is known of the ports that these ask about.
fn ports(documents: &[PolicyDocument]) -> Vec<NamedPort> {
    NamedPort::found(documents.iter().flat_map(PolicyDocument::ports_read), |id, number| {
        let scope = [orders(), payments()].into_iter().find(|scope| scope.node() == Some(id))?;
        scope.ports.into_iter().find(|port| port.number == number)
    })
}

fn engine_at(scope: NodeScope, texts: &[&str]) -> Engine {
    let documents = documents(&texts.iter().map(|text| (Mode::Enforce, *text)).collect::<Vec<_>>());
    let (roles, ports) = (roles(), ports(&documents));
    let known = Known { roles: &roles, labels: &[], ports: &ports };
    let slice = PolicyIndex::new(&name("shop"), &documents).slice(&scope, known);
    Engine::compile(scope, &slice, None).unwrap()
}

#[test]
fn what_is_named_is_answered_alike_wherever_it_is() {
    let conditions = [
        ("Port::\"payments:8080\" in Service::\"payments\"", true),
        ("Port::\"payments:8080\" in Service::\"orders\"", false),
        ("Port::\"payments:8080\" in Node::\"payments\" && Port::\"payments:8080\" in Mesh::\"shop\"", true),
        ("Port::\"payments:5432\" in TrustDomain::\"shop.example\"", true),
        ("Port::\"payments:5432\".protocol == \"tcp\" && Port::\"payments:5432\".number == 5432", true),
        ("Port::\"payments:1\" in Node::\"payments\"", false),
        ("Route::\"payments:8080 /cards/{id}\" in DataClass::\"pii\"", true),
        ("Route::\"payments:8080 /health\" in DataClass::\"pii\"", false),
        ("Route::\"payments:8080 /health\" in Service::\"payments\"", true),
        ("Route::\"payments:8080 /none\" in Port::\"payments:8080\"", false),
        ("Route::\"payments:8080 *undeclared\" in Port::\"payments:8080\"", true),
        ("Route::\"payments:8080 /health\".port == 8080", true),
        ("Service::\"payments\" in Mesh::\"shop\" && External::\"stripe\" in Mesh::\"shop\"", true),
        ("Port::\"orders:8080\" in Service::\"orders\"", true),
        (
            "(if principal == Node::\"web\" then Port::\"payments:8080\" else Port::\"orders:8080\") in Service::\"payments\"",
            true,
        ),
        ("Port::\"payments:8080\" is Port in Service::\"payments\"", true),
    ];
    for (condition, holds) in conditions {
        let permit = "permit(principal is Node, action, resource);";
        let forbid = format!("forbid(principal is Node, action, resource) when {{ {condition} }};");
        let here = engine_at(orders(), &[permit, &forbid]);
        let there = engine_at(payments(), &[permit, &forbid]);
        let at_orders = ask(&here, &peer("web"), 8080, "GET", "/health");
        let at_payments = ask(&there, &peer("web"), 8080, "GET", "/health");
        let of_streams = connect(&there, &peer("web"), 5432);
        let denied = [at_orders, at_payments, of_streams].map(|decision| !decision.is_allowed());
        assert_eq!(denied, [holds; 3], "{condition}");
    }
}

#[test]
fn attributes_of_what_does_not_exist_deny() {
    for condition in ["Port::\"payments:1\".number == 2", "Route::\"payments:8080 /none\".template == \"\""] {
        let forbid = format!("forbid(principal is Node, action, resource) when {{ {condition} }};");
        for scope in [orders(), payments()] {
            let engine = engine_at(scope, &["permit(principal is Node, action, resource);", &forbid]);
            let decision = ask(&engine, &peer("web"), 8080, "GET", "/health");
            assert_eq!(decision.reason, crate::Reason::EvaluationError, "{condition}");
        }
    }
}

#[test]
fn of_a_named_port_that_is_needed_something_must_be_said() {
    let text = "forbid(principal, action, resource) when { Route::\"payments:8080 /health\" in Service::\"payments\" };";
    let documents = documents(&[(Mode::Enforce, text)]);
    let shop = name("shop");
    let index = PolicyIndex::new(&shop, &documents);
    let slice = index.slice(&orders(), Known::default());
    let error = Engine::compile(orders(), &slice, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy \"p0\" asks about Route::\"spiffe://shop.example/mesh/shop/node/payments:8080 /health\", of which nothing is known"
    );
    // Whose port it is knows it.
    let own = index.slice(&payments(), Known::default());
    assert!(Engine::compile(payments(), &own, None).is_ok());
    let ports = ports(&documents);
    let mut twice = index.slice(&orders(), Known { ports: &ports, ..Known::default() });
    assert_eq!(twice.ports.len(), 1);
    assert!(index.slice(&payments(), Known { ports: &ports, ..Known::default() }).ports.is_empty());
    twice.ports.push(twice.ports[0].clone());
    assert!(matches!(Engine::compile(orders(), &twice, None), Err(CompileError::Duplicate(_))));
}

#[test]
fn what_is_only_compared_or_only_has_others_in_it_does_not_travel() {
    for condition in [
        "resource in Port::\"payments:8080\"",
        "resource in [Port::\"payments:5432\", Port::\"payments:8080\"]",
        "resource == Route::\"payments:8080 /health\"",
        "[Port::\"payments:8080\"].contains(Port::\"payments:5432\")",
        "principal in Role::\"clerks\" && context.peer.federated",
    ] {
        let text = format!("forbid(principal, action, resource) when {{ {condition} }};");
        let document = parse(&text).unwrap_or_else(|problems| panic!("{condition}: {problems:?}"));
        assert_eq!(document.ports_read().count(), 0, "{condition}");
        assert!(!document.asks_of_named_resources(), "{condition}");
    }
    let of_one = "forbid(principal, action, resource) when { Route::\"payments:8080 /health\" in DataClass::\"pii\" };";
    let documents = documents(&[(Mode::Enforce, of_one)]);
    let listener = ports(&documents)[0].listener.clone().unwrap();
    assert_eq!(listener.routes.keys().collect::<Vec<_>>(), ["/health"]);
}

#[test]
fn what_nobody_can_tell_of_a_name_is_refused_with_what_to_write() {
    let in_support = "context.user in UserGroup::\"login/support\"";
    for (condition, told) in [
        ("User::\"login/alice\" in UserGroup::\"login/support\"", "context.user == User::\"login/alice\""),
        ("User::\"login/alice\".scopes.contains(\"a\")", "context has user"),
        (
            &format!("context has user && User::\"login/bob\".issuer == \"a\" && {in_support}"),
            "context has user",
        ),
        ("Role::\"clerks\" in Role::\"nobody\"", "principal in Role::"),
        ("DataClass::\"pii\" in [DataClass::\"cards\"]", "resource in DataClass::"),
        ("Mesh::\"shop\" in Mesh::\"shop\"", "compare by =="),
        ("UserGroup::\"login/a\" in UserGroup::\"login/a\"", "compare by =="),
        ("TrustDomain::\"shop.example\" in TrustDomain::\"shop.example\"", "compare by =="),
        (
            "(if context.path == \"/\" then User::\"login/a\" else User::\"login/b\") in UserGroup::\"login/a\"",
            "context has user",
        ),
    ] {
        let text = format!("forbid(principal, action == Action::\"GET\", resource) when {{ {condition} }};");
        let problems = parse(&text).unwrap_err();
        let help = problems[0].help.clone().unwrap_or_default();
        assert!(help.contains(told), "{condition}: {problems:?}");
        // Before a policy is made from it, too.
        let template = text.replace("principal,", "principal == ?principal,");
        let problems = PolicyTemplate::parse(name("shop"), &domain(), &template).unwrap_err();
        let help = problems[0].help.clone().unwrap_or_default();
        assert!(help.contains(told), "{condition}: {problems:?}");
    }
}
