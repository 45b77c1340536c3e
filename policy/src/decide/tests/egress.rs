//! Calls that leave the mesh, as the agent of whoever calls decides them.

use super::*;
use crate::testing::node;
use crate::{EgressIndex, NodeScope, Place};

/// Port 80 for requests, 443 for streams.
fn outside(external: &str) -> NodeScope {
    let ports = [(80, Protocol::Http), (443, Protocol::Tcp)];
    NodeScope::external(&domain(), &name("shop"), &name(external), ports)
}

fn slice_for(texts: &[&str], of: &str) -> PolicySlice {
    let documents = documents(&texts.iter().map(|text| (Mode::Enforce, *text)).collect::<Vec<_>>());
    EgressIndex::new(&[outside("stripe"), outside("other")], &documents)
        .slice(&node(of), Known { roles: &roles(), ..Known::default() })
}

fn engine_of(texts: &[&str]) -> Engine {
    Engine::compile(outside("stripe"), &slice_for(texts, "web"), None).unwrap()
}

#[test]
fn nothing_leaves_without_a_permit_that_reaches_it() {
    let cases = [
        ("permit(principal == Node::\"web\", action, resource in External::\"stripe\");", true),
        ("permit(principal is Node, action, resource in Mesh::\"shop\");", true),
        ("permit(principal in Role::\"clerks\", action, resource);", true),
        (
            "permit(principal == Node::\"web\", action, resource) when { resource is Port && resource.number == 443 };",
            true,
        ),
        (
            "permit(principal == Node::\"web\", action, resource) when { resource in External::\"stripe\" };",
            true,
        ),
        ("permit(principal == Node::\"web\", action, resource in External::\"other\");", false),
        ("permit(principal == Node::\"cart\", action, resource in External::\"stripe\");", false),
        ("permit(principal is Node, action, resource in Service::\"orders\");", false),
        ("permit(principal is Node, action, resource in Node::\"orders\");", false),
        ("permit(principal is Node, action, resource in TrustDomain::\"shop.example\");", false),
        ("permit(principal is Node, action in Action::\"http\", resource in External::\"stripe\");", false),
        ("permit(principal is Workload, action, resource);", false),
    ];
    for (text, expected) in cases {
        let decided = connect(&engine_of(&[text]), &peer("web"), 443);
        assert_eq!(decided.is_allowed(), expected, "{text}: {decided:?}");
    }
    let both = "permit(principal == Node::\"web\", action, resource in External::\"stripe\");";
    let forbid = "forbid(principal, action, resource in External::\"stripe\");";
    assert_eq!(connect(&engine_of(&[both, forbid]), &peer("web"), 443).reason, Reason::Forbidden);
}

#[test]
fn requests_outside_are_decided_like_those_within() {
    let engine = engine_of(&[
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in External::\"stripe\") \
                              when { context.path like \"/v1/*\" && context.host == \"api.example\" };",
    ]);
    let path = CanonicalPath::parse("GET", "/v1/prices").unwrap();
    let decide = |host: &str, method: &'static str| {
        let gathered = engine.wanted(80).unwrap().gather(host, []);
        let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
        engine.decide(&question(&peer("web"), 80, attempt))
    };
    let allowed = decide("API.example:80", "GET");
    assert!(allowed.is_allowed());
    assert_eq!(allowed.resource.as_deref(), Some("external/stripe:80 *undeclared"));
    assert!(!decide("api.example", "POST").is_allowed() && !decide("other.example", "GET").is_allowed());
    // A stream does not go around what decides on requests.
    assert_eq!(connect(&engine, &peer("web"), 80).reason, Reason::WrongProtocol);
    assert_eq!(connect(&engine, &peer("web"), 81).reason, Reason::NoSuchPort);
    let suggested = engine.explain(&question(&peer("cart"), 443, Attempt::Stream)).suggestion.unwrap();
    assert_eq!(suggested.command(crate::Verb::Allow), "hauberk allow cart external/stripe --port 443");
    let granted = engine_of(&[&suggested.to_cedar(crate::Verb::Allow).unwrap()]);
    assert!(!connect(&granted, &peer("web"), 443).is_allowed());
}

#[test]
fn only_nodes_of_the_mesh_call_out() {
    let engine = engine_of(&[
        "permit(principal is Node, action, resource);",
        "permit(principal is Workload, action, resource);",
    ]);
    let bank = Caller::Peer(SpiffeId::node(&domain(), &name("bank"), &name("web")));
    for caller in [
        bank,
        foreign("spiffe://shop.example/workload/ci"),
        foreign("spiffe://other.example/x"),
        Caller::Anonymous,
    ] {
        assert_eq!(connect(&engine, &caller, 443).reason, Reason::NotAPrincipal, "{caller:?}");
    }
    assert!(connect(&engine, &peer("web"), 443).is_allowed());
}

#[test]
fn a_node_gets_what_can_concern_its_calls_and_no_more() {
    let texts = [
        "permit(principal == Node::\"web\", action, resource in External::\"stripe\");",
        "permit(principal == Node::\"cart\", action, resource in External::\"stripe\");",
        "permit(principal in Role::\"clerks\", action == Action::\"connect\", resource in External::\"other\");",
        "forbid(principal, action, resource in Mesh::\"shop\");",
        "permit(principal is Node, action, resource in Service::\"orders\");",
        "permit(principal is Node, action == Action::\"call\", resource in Mesh::\"shop\");",
        "permit(principal is Workload, action, resource);",
    ];
    let names = |of: &str| {
        let slice = slice_for(&texts, of);
        let names: Vec<_> = slice.policies.into_iter().map(|policy| policy.name).collect();
        (names.join(" "), slice.roles.len())
    };
    assert_eq!(names("web"), ("p0 p2 p3".to_owned(), 1));
    assert_eq!(names("cart"), ("p1 p2 p3".to_owned(), 1));
    let scope = outside("stripe");
    assert_eq!((scope.node(), &scope.place), (None, &Place::External(name("stripe"))));
}
