mod differential;
mod egress;
mod method_access;
mod users;

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::SpiffeId;

use super::*;
use crate::allowance::Allowance;
use crate::cell::{Cell, MAX_REMEMBERED_PATHS};
use crate::circumstances::Moment;
use crate::compile::CompileError;
use crate::fields::PARSED;
use crate::memo::{CallerMemo, MAX_PATHS_OF_CALLER, Recalled};
use crate::named::Known;
use crate::path::{CanonicalPath, EscapedSlashes};
use crate::slice::PolicyIndex;
use crate::tally::Counted;
use crate::testing::{
    HERE, NOW, ask, connect, documents, domain, engine, engine_for, foreign, name, orders, peer, port,
    question, request, roles,
};
use crate::{
    Authorization, Effect, Fact, Mode, NodeLabel, Place, PolicySlice, RoleMembers, SlicedPolicy, Tls,
};

const ANY_NODE: &str = "permit(principal is Node, action, resource);";

fn reason(decision: &Decision) -> (Effect, &'static str) {
    (decision.effect, decision.reason.as_str())
}

#[test]
fn denies_by_default() {
    let empty = engine(&[]);
    for caller in [peer("web"), Caller::Anonymous, foreign("spiffe://partner.example/app")] {
        assert_eq!(reason(&ask(&empty, &caller, 8080, "GET", "/")), (Effect::Deny, "no_policy_matched"));
        assert_eq!(reason(&connect(&empty, &caller, 6379)), (Effect::Deny, "no_policy_matched"));
    }
    assert_eq!(reason(&ask(&empty, &peer("web"), 1, "GET", "/")), (Effect::Deny, "no_such_port"));
}

#[test]
fn forbid_beats_permit() {
    let engine =
        engine(&[ANY_NODE, "forbid(principal == Node::\"web\", action in Action::\"write\", resource);"]);
    let decision = ask(&engine, &peer("web"), 8080, "POST", "/orders/1");
    assert_eq!(reason(&decision), (Effect::Deny, "forbidden"));
    assert_eq!(decision.policies.as_ref(), ["p1".into()]);
    let decision = ask(&engine, &peer("web"), 8080, "GET", "/orders/1");
    assert_eq!(reason(&decision), (Effect::Allow, "permitted"));
    assert_eq!(decision.policies.as_ref(), ["p0".into()]);
    assert_eq!(decision.resource.as_deref(), Some("orders:8080 /orders/{id}"));
    assert_eq!(decision.action, Some(Action::Get));
}

#[test]
fn an_error_denies_although_cedar_would_pass_over_it() {
    let overflow = "when { resource.number * 9223372036854775807 > 0 }";
    for erring in [
        "forbid(principal, action == Action::\"connect\", resource)",
        "permit(principal is Node, action == Action::\"connect\", resource)",
    ] {
        let engine = engine(&[ANY_NODE, &format!("{erring} {overflow};")]);
        let decision = connect(&engine, &peer("web"), 6379);
        assert_eq!(reason(&decision), (Effect::Deny, "evaluation_error"));
        assert_eq!(decision.policies.as_ref(), ["p1".into()]);
        // Where it is not in play, it does no harm.
        assert!(ask(&engine, &peer("web"), 8080, "GET", "/").is_allowed());
    }
}

#[test]
fn audit_lets_default_denials_through_and_nothing_else() {
    let mut scope = orders();
    scope.ports.iter_mut().for_each(|port| port.authorization = Authorization::Audit);
    let engine = engine_for(
        scope,
        &[
            (Mode::Enforce, "forbid(principal == Node::\"intruder\", action, resource);"),
            (Mode::Enforce, "permit(principal is Node, action, resource in Service::\"orders-admin\");"),
            (
                Mode::Enforce,
                "permit(principal == Node::\"cart\", action == Action::\"connect\", resource) when { resource.number * \
                 9223372036854775807 > 0 };",
            ),
        ],
    );
    assert_eq!(reason(&ask(&engine, &peer("web"), 8080, "GET", "/")), (Effect::Allow, "audit_default_allow"));
    assert_eq!(reason(&ask(&engine, &peer("web"), 9000, "GET", "/")), (Effect::Allow, "permitted"));
    assert_eq!(reason(&ask(&engine, &peer("intruder"), 8080, "GET", "/")), (Effect::Deny, "forbidden"));
    assert_eq!(reason(&connect(&engine, &peer("cart"), 6379)), (Effect::Deny, "evaluation_error"));
    let admin = foreign("spiffe://shop.example/admin/alice");
    assert_eq!(reason(&ask(&engine, &admin, 8080, "GET", "/")), (Effect::Deny, "not_a_principal"));
    // Who belongs to another trust domain needs a permit.
    let own = foreign("spiffe://shop.example/workload/a");
    assert_eq!(reason(&ask(&engine, &own, 8080, "GET", "/")), (Effect::Allow, "audit_default_allow"));
    for id in ["spiffe://partner.example/workload/a", "spiffe://partner.example/mesh/shop/node/web"] {
        let decision = ask(&engine, &foreign(id), 8080, "GET", "/");
        assert_eq!(reason(&decision), (Effect::Deny, "no_policy_matched"), "{id}");
    }
}

#[test]
fn members_of_another_trust_domain_are_named_by_exactly_that_domain() {
    let engine = engine(&[
        "permit(principal is Workload in TrustDomain::\"partner.example\", action == Action::\"GET\", resource);",
        "permit(principal == Workload::\"spiffe://partner.example/payments\", action == Action::\"PUT\", resource);",
        "permit(principal is Workload in TrustDomain::\"shop.example\", action == Action::\"POST\", resource);",
        "permit(principal is Node in TrustDomain::\"partner.example\", action == Action::\"PATCH\", resource);",
        ANY_NODE,
    ]);
    for (id, methods) in [
        ("spiffe://partner.example/payments", "GET PUT"),
        ("spiffe://partner.example/payments/x", "GET"),
        ("spiffe://partner.example/mesh/shop/node/orders", "GET"),
        ("spiffe://x.partner.example/payments", ""),
        ("spiffe://partner.example.x/payments", ""),
        ("spiffe://partner.examp1e/payments", ""),
        ("spiffe://partner/payments", ""),
        ("spiffe://shop.example/payments", "POST"),
    ] {
        let is_allowed = |method: &&str| ask(&engine, &foreign(id), 8081, method, "/").is_allowed();
        let allowed: Vec<_> = ["GET", "PUT", "POST", "PATCH"].into_iter().filter(is_allowed).collect();
        assert_eq!(allowed.join(" "), methods, "{id}");
    }
}

#[test]
fn policies_in_audit_mode_are_recorded_and_decide_nothing() {
    let engine = engine_for(
        orders(),
        &[
            (Mode::Enforce, "permit(principal == Node::\"web\", action, resource);"),
            (Mode::Audit, "forbid(principal, action == Action::\"DELETE\", resource);"),
            (Mode::Audit, "permit(principal == Node::\"cart\", action, resource);"),
        ],
    );
    let decision = ask(&engine, &peer("web"), 8080, "DELETE", "/orders/1");
    assert_eq!(reason(&decision), (Effect::Allow, "permitted"));
    let audit = decision.audit.unwrap();
    assert_eq!((audit.effect, audit.policies.as_ref()), (Effect::Deny, &["p1".into()][..]));
    let decision = ask(&engine, &peer("cart"), 8080, "GET", "/orders/1");
    assert_eq!(reason(&decision), (Effect::Deny, "no_policy_matched"));
    let audit = decision.audit.unwrap();
    assert_eq!((audit.effect, audit.policies.as_ref()), (Effect::Allow, &["p2".into()][..]));
    assert_eq!(ask(&engine, &peer("web"), 8080, "GET", "/orders/1").audit, None);
}

#[test]
fn forbids_in_audit_are_named_beside_what_is_not_known() {
    let plain = "forbid(principal, action == Action::\"GET\", resource);";
    let timed = "forbid(principal, action == Action::\"GET\", resource) when { context.time.toTime() >= duration(\"0h\") };";
    let never =
        "forbid(principal, action == Action::\"GET\", resource) when { context.path like \"/never/*\" };";
    let query = "permit(principal is Node, action == Action::\"GET\", resource) when { context.query.hasTag(\"a\") };";
    // It would hold if Cedar were listened to about what is left out.
    let absent =
        "forbid(principal, action == Action::\"GET\", resource) unless { context.query.hasTag(\"a\") };";
    let permit = (Mode::Enforce, ANY_NODE);
    let audited = |texts: &[&'static str]| {
        let all: Vec<_> = [permit].into_iter().chain(texts.iter().map(|text| (Mode::Audit, *text))).collect();
        let engine = engine_for(orders(), &all);
        let mut memo = engine.caller(&peer("web"), &HERE);
        let decision = ask_with(&mut memo, "/?a=%zz", "", &[], NOW);
        assert!(decision.is_allowed());
        let audit = decision.audit.as_ref().unwrap();
        (audit.effect, audit.policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    for (texts, named) in [
        (&[query, plain][..], "p1 p2"),
        (&[query, timed], "p1 p2"),
        (&[plain, query, never, timed], "p1 p2 p4"),
        (&[query, never], "p1"),
        (&[query], "p1"),
        (&[absent, never, timed], "p1 p3"),
        (&[absent, plain, query], "p1 p2 p3"),
        (&[absent], "p1"),
    ] {
        assert_eq!(audited(texts), (Effect::Deny, named.to_owned()), "{texts:?}");
    }
}

#[test]
fn a_service_is_its_own_ports_only() {
    let engine = engine(&["permit(principal is Node, action, resource in Service::\"orders\");"]);
    for (port, path, allowed) in
        [(8080, "/", true), (50051, "/shop.Orders/Get", true), (9000, "/", false), (8081, "/", false)]
    {
        assert_eq!(ask(&engine, &peer("web"), port, "POST", path).is_allowed(), allowed, "{port}");
    }
    assert!(!connect(&engine, &peer("web"), 6379).is_allowed());
}

#[test]
fn the_protocol_settles_the_action() {
    let engine = engine(&[ANY_NODE]);
    let web = peer("web");
    assert_eq!(ask(&engine, &web, 50051, "POST", "/shop.Orders/Get").action, Some(Action::Call));
    for (method, path) in [
        ("GET", "/shop.Orders/Get"),
        ("POST", "/shop.Orders"),
        ("POST", "/a/b/c"),
        ("POST", "/a/"),
        ("POST", "/"),
    ] {
        assert_eq!(ask(&engine, &web, 50051, method, path).reason, Reason::WrongProtocol, "{method} {path}");
    }
    assert_eq!(ask(&engine, &web, 6379, "GET", "/").reason, Reason::WrongProtocol);
    assert_eq!(connect(&engine, &web, 8080).reason, Reason::WrongProtocol);
    assert_eq!(ask(&engine, &web, 8080, "PROPFIND", "/").action, Some(Action::Other));
    assert_eq!(ask(&engine, &web, 8080, "get", "/").action, Some(Action::Other));
    assert_eq!(upgrade(&engine, "GET").action, Some(Action::Upgrade));
    let path = CanonicalPath::parse("GET", "/").unwrap();
    let attempt = request("GET", &path, true);
    let on_grpc = question(&web, 50051, attempt);
    assert_eq!(engine.decide(&on_grpc).reason, Reason::WrongProtocol);
}

/// What web gets who asks for another protocol on port 8080.
fn upgrade(engine: &Engine, method: &str) -> Decision {
    let path = CanonicalPath::parse(method, "/ws").unwrap();
    let attempt = request(method, &path, true);
    engine.decide(&question(&peer("web"), 8080, attempt))
}

#[test]
fn an_upgrade_is_what_its_method_says_as_well() {
    let permit =
        |action: &str| format!("permit(principal is Node, action == Action::\"{action}\", resource);");
    let (get, delete, upgrades) = (permit("GET"), permit("DELETE"), permit("upgrade"));
    let both = engine(&[&get, &upgrades]);
    let decision = upgrade(&both, "GET");
    assert_eq!(reason(&decision), (Effect::Allow, "permitted"));
    assert_eq!(decision.policies.as_ref(), ["p0".into(), "p1".into()]);
    assert_eq!(decision.action, Some(Action::Upgrade));
    // Neither stands in for the other.
    let decision = upgrade(&both, "DELETE");
    assert_eq!(reason(&decision), (Effect::Deny, "no_policy_matched"));
    assert_eq!(decision.action, Some(Action::Delete));
    let decision = upgrade(&engine(&[&delete]), "DELETE");
    assert_eq!(reason(&decision), (Effect::Deny, "no_policy_matched"));
    assert_eq!(decision.action, Some(Action::Upgrade));
    let forbid = "forbid(principal, action == Action::\"DELETE\", resource);";
    let decision = upgrade(&engine(&[ANY_NODE, forbid]), "DELETE");
    assert_eq!(reason(&decision), (Effect::Deny, "forbidden"));
    assert_eq!(decision.policies.as_ref(), ["p1".into()]);
    assert!(upgrade(&engine(&[ANY_NODE, forbid]), "GET").is_allowed());
}

#[test]
fn audit_sees_both_halves_of_an_upgrade() {
    let mut scope = orders();
    scope.ports.iter_mut().for_each(|port| port.authorization = Authorization::Audit);
    let decision = upgrade(
        &engine_for(
            scope,
            &[(Mode::Enforce, "permit(principal is Node, action == Action::\"GET\", resource);")],
        ),
        "GET",
    );
    assert_eq!(reason(&decision), (Effect::Allow, "audit_default_allow"));
    let audited = engine_for(
        orders(),
        &[
            (Mode::Enforce, ANY_NODE),
            (Mode::Audit, "forbid(principal, action == Action::\"GET\", resource);"),
        ],
    );
    let decision = upgrade(&audited, "GET");
    assert_eq!(reason(&decision), (Effect::Allow, "permitted"));
    let audit = decision.audit.unwrap();
    assert_eq!((audit.effect, audit.policies.as_ref()), (Effect::Deny, &["p1".into()][..]));
}

#[test]
fn undeclared_routes_are_policies_business_unless_the_port_denies_them() {
    let policy = "permit(principal is Node, action, resource == Route::\"orders:8080 *undeclared\");";
    let open = engine(&[policy]);
    assert!(ask(&open, &peer("web"), 8080, "GET", "/other").is_allowed());
    assert!(!ask(&open, &peer("web"), 8080, "GET", "/health").is_allowed());
    let mut scope = orders();
    scope.ports[0].undeclared = Undeclared::Deny;
    scope.ports[0].authorization = Authorization::Audit;
    let closed = engine_for(scope, &[(Mode::Enforce, ANY_NODE)]);
    assert_eq!(
        reason(&ask(&closed, &peer("web"), 8080, "GET", "/other")),
        (Effect::Deny, "undeclared_route")
    );
    assert!(ask(&closed, &peer("web"), 8080, "GET", "/health").is_allowed());
}

#[test]
fn callers_are_what_their_ids_are() {
    let engine = engine(&[
        "permit(principal is Workload, action == Action::\"GET\", resource);",
        "permit(principal is Node, action == Action::\"PUT\", resource);",
        "permit(principal is Anonymous, action == Action::\"POST\", resource);",
        "permit(principal in Role::\"clerks\", action == Action::\"PATCH\", resource);",
        "permit(principal is Node in Mesh::\"bank\", action == Action::\"DELETE\", resource);",
    ]);
    for (id, methods) in [
        ("spiffe://shop.example/mesh/shop/node/web", "PUT PATCH"),
        ("spiffe://shop.example/mesh/shop/node/other", "PUT"),
        ("spiffe://shop.example/mesh/shop/gateway/web", "PUT"),
        ("spiffe://shop.example/mesh/bank/node/web", "PUT DELETE"),
        ("spiffe://shop.example/workload/web", "GET"),
        ("spiffe://shop.example/something/else", "GET"),
        // Another trust domain's nodes and admins are just workloads here, and in none of our meshes.
        ("spiffe://other.example/mesh/shop/node/web", "GET"),
        ("spiffe://other.example/admin/alice", "GET"),
        ("spiffe://shop.example/admin/alice", ""),
        ("spiffe://shop.example/admin/alice/x", ""),
        ("spiffe://shop.example/control-plane/0", ""),
        ("spiffe://shop.example/mesh/shop/node", ""),
        ("spiffe://shop.example/mesh/shop/node/web/x", ""),
    ] {
        let allowed: Vec<_> = ["GET", "PUT", "POST", "PATCH", "DELETE"]
            .into_iter()
            .filter(|method| ask(&engine, &foreign(id), 8081, method, "/").is_allowed())
            .collect();
        assert_eq!(allowed.join(" "), methods, "{id}");
    }
    assert!(ask(&engine, &Caller::Anonymous, 8081, "POST", "/").is_allowed());
    assert!(!ask(&engine, &Caller::Anonymous, 8081, "GET", "/").is_allowed());
    let lookalike =
        engine_for(orders(), &[(Mode::Enforce, "permit(principal == Node::\"web\", action, resource);")]);
    for id in ["spiffe://shop.example.evil/mesh/shop/node/web", "spiffe://shop.example/mesh/shop/node/Web"] {
        assert!(!ask(&lookalike, &foreign(id), 8080, "GET", "/").is_allowed(), "{id}");
    }
}

#[test]
fn a_node_may_call_itself_if_permitted() {
    let engine = engine(&["permit(principal == Node::\"orders\", action, resource in Node::\"orders\");"]);
    assert!(ask(&engine, &peer("orders"), 8080, "GET", "/").is_allowed());
}

#[test]
fn compiling_refuses_whole_what_it_cannot_enforce() {
    let compile = |scope, slice: &PolicySlice| Engine::compile(scope, slice, None).err();
    let policy = |name: &str, text: &str| SlicedPolicy {
        name: name.to_owned(),
        mode: Mode::Enforce,
        text: text.to_owned(),
    };
    let with = |policies: Vec<SlicedPolicy>| PolicySlice { policies, ..PolicySlice::default() };
    let forbid = "forbid(principal, action, resource);";
    assert!(compile(orders(), &with(vec![policy("a", forbid)])).is_none());
    for slice in [
        with(vec![policy("a", forbid), policy("a", forbid)]),
        with(vec![policy("a", "forbid(principal, action, resource) when { context.tomorrow };")]),
        with(vec![policy("a", "forbid(principal is Robot, action, resource);")]),
        with(vec![policy("a", "forbid(")]),
        with(vec![policy("a", "")]),
        with(vec![policy("a", &forbid.repeat(2))]),
        with(vec![policy("a", "forbid(principal in Role::\"shop/clerks\", action, resource);")]),
        PolicySlice {
            roles: vec![RoleMembers { role: name("a"), members: Vec::new() }; 2],
            ..PolicySlice::default()
        },
        PolicySlice {
            labels: vec![NodeLabel { name: "a".to_owned(), values: BTreeMap::new() }; 2],
            ..PolicySlice::default()
        },
        with(vec![policy("a", "forbid(principal, action, resource) unless { principal.hasTag(\"a\") };")]),
    ] {
        assert!(compile(orders(), &slice).is_some(), "{slice:?}");
    }
    let none = PolicySlice::default();
    let mut scope = orders();
    scope.place = Place::Node(SpiffeId::node(&domain(), &name("bank"), &name("orders")));
    assert!(matches!(compile(scope, &none), Some(CompileError::Node(_))));
    let mut scope = orders();
    scope.ports.push(port(8080, Protocol::Tcp, &[], &[]));
    assert_eq!(compile(scope, &none), Some(CompileError::DuplicatePort(8080)));
    for (protocol, routes) in [
        (Protocol::Http, &["/a/{x}", "/a/{y}"][..]),
        (Protocol::Http, &["/a", "/b", "/a"][..]),
        (Protocol::Http, &["GET /a", "PUT /a", "GET,HEAD /a"][..]),
        (Protocol::Http, &["a.B/C"][..]),
        (Protocol::Grpc, &["/a"][..]),
        (Protocol::Tcp, &["/a"][..]),
    ] {
        let mut scope = orders();
        scope.ports.push(port(1, protocol, &[], routes));
        assert!(compile(scope, &none).is_some(), "{routes:?}");
    }
}

#[test]
fn what_is_taken_from_a_former_compilation_is_only_what_is_the_same() {
    let open = "permit(principal is Node, action, resource);";
    let closed = "forbid(principal is Node, action, resource);";
    let clerks = "permit(principal in Role::\"clerks\", action, resource);";
    let slice_of = |texts: &[(Mode, &str)]| {
        let documents = documents(texts);
        PolicyIndex::new(&name("shop"), &documents)
            .slice(&orders(), Known { roles: &roles(), ..Known::default() })
    };
    let compile =
        |slice: &PolicySlice, former: Option<&Engine>| Engine::compile(orders(), slice, former).unwrap();
    let is_open = |engine: &Engine| ask(engine, &peer("web"), 8080, "GET", "/").is_allowed();

    let first = compile(&slice_of(&[(Mode::Enforce, open), (Mode::Enforce, clerks)]), None);
    assert!(is_open(&first));
    let same = compile(&slice_of(&[(Mode::Enforce, open), (Mode::Enforce, clerks)]), Some(&first));
    for (one, other) in first.0.policies.iter().zip(&same.0.policies) {
        assert!(Arc::ptr_eq(one, other), "{} was compiled anew", one.name);
    }
    for changed in
        [&[(Mode::Enforce, closed), (Mode::Enforce, clerks)][..], &[(Mode::Audit, open)][..], &[][..]]
    {
        let slice = slice_of(changed);
        let (fresh, after) = (compile(&slice, None), compile(&slice, Some(&first)));
        assert_eq!(is_open(&fresh), is_open(&after), "{changed:?}");
        assert!(!is_open(&after), "{changed:?}");
    }

    let mut forgotten = slice_of(&[(Mode::Enforce, open), (Mode::Enforce, clerks)]);
    forgotten.roles.clear();
    assert!(matches!(
        Engine::compile(orders(), &forgotten, Some(&first)),
        Err(CompileError::UnknownRole { .. })
    ));
    let mut twice = slice_of(&[(Mode::Enforce, open)]);
    twice.policies.push(twice.policies[0].clone());
    assert!(matches!(Engine::compile(orders(), &twice, Some(&first)), Err(CompileError::Duplicate(_))));
}

#[test]
fn slices_hold_what_concerns_the_node() {
    let texts = [
        "permit(principal is Node, action, resource in Service::\"orders\");",
        "permit(principal is Node, action, resource in Service::\"payments\");",
        "permit(principal in Role::\"clerks\", action, resource in Node::\"orders\");",
        "permit(principal is Node, action, resource in Node::\"payments\");",
        "forbid(principal, action, resource);",
        "forbid(principal, action, resource in Mesh::\"shop\");",
        "permit(principal is Node, action == Action::\"connect\", resource in Service::\"orders\");",
        "permit(principal is Node, action, resource == Route::\"orders:8080 /gone\");",
        "permit(principal is Node, action, resource == Port::\"orders:8080\");",
        "permit(principal is Node, action, resource == Port::\"orders:6379\");",
    ];
    let documents = documents(&texts.map(|text| (Mode::Enforce, text)));
    let mesh = name("shop");
    let index = PolicyIndex::new(&mesh, &documents);
    let slice = index.slice(&orders(), Known { roles: &roles(), ..Known::default() });
    let names: Vec<_> = slice.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["p0", "p2", "p4", "p5", "p9"]);
    assert_eq!(slice.roles.iter().map(|role| role.role.as_str()).collect::<Vec<_>>(), ["clerks"]);
    let mut elsewhere = orders();
    elsewhere.mesh = name("bank");
    assert_eq!(
        index.slice(&elsewhere, Known { roles: &roles(), ..Known::default() }),
        PolicySlice::default()
    );
    let bank = name("bank");
    assert_eq!(
        PolicyIndex::new(&bank, &documents).slice(&orders(), Known::default()),
        PolicySlice::default()
    );
    // A role without members given makes the whole slice invalid, rather than a forbid on it silent.
    let slice = index.slice(&orders(), Known::default());
    assert!(matches!(Engine::compile(orders(), &slice, None), Err(CompileError::UnknownRole { .. })));
}

#[test]
fn remembers_only_what_cannot_change_and_not_too_much() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource) when { context.path like \"/a/*\" };",
        "permit(principal is Node, action == Action::\"PUT\", resource) when { context.method == \"PUT\" };",
        "permit(principal is Node, action == Action::\"other\", resource) when { context.method == \"LOCK\" };",
    ]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let mut ask = |method: &str, path: &str| {
        let path = CanonicalPath::parse(method, path).unwrap();
        let allowed = memo.decide(8081, request(method, &path, false), NOW).is_allowed();
        let largest = memo.cells.values().map(|cell| match cell {
            Cell::Settled(..) => 0,
            Cell::Open(open) => open.remembered.len(),
        });
        (allowed, largest.max().unwrap())
    };
    for index in 0..1_000 {
        let (allowed, largest) = ask("GET", &format!("/{}/{index}", if index % 2 == 0 { "a" } else { "b" }));
        assert_eq!(allowed, index % 2 == 0);
        assert!(largest <= MAX_REMEMBERED_PATHS);
    }
    assert!(ask("PUT", "/x").0);
    assert!(ask("LOCK", "/x").0);
    assert!(!ask("UNLOCK", "/x").0);
    assert!(ask("LOCK", "/x").0);
    let put = memo.cells.iter().find(|((_, action), _)| *action == Action::Put);
    assert!(matches!(put, Some((_, Cell::Settled(..)))), "PUT depends on nothing");
}

#[test]
fn all_of_a_callers_memory_is_bounded() {
    let routes: Vec<String> = (0..100).map(|number| format!("/r{number}/{{id}}")).collect();
    let mut scope = orders();
    scope.ports[0].routes = routes.iter().map(|route| RouteTemplate::parse(route).unwrap().into()).collect();
    let by_path =
        "forbid(principal, action in Action::\"http\", resource) when { context.path like \"*/secret\" };";
    let engine = engine_for(scope, &[(Mode::Enforce, by_path)]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let held = |memo: &CallerMemo| -> usize {
        let open = memo.cells.values().filter_map(|cell| match cell {
            Cell::Settled(..) => None,
            Cell::Open(open) => Some(open.remembered.len()),
        });
        open.sum()
    };
    let mut most = 0;
    for (route, id) in (0..100).flat_map(|route| (0..60).map(move |id| (route, id))) {
        let path = format!("/r{route}/{id}");
        let path = CanonicalPath::parse("GET", &path).unwrap();
        memo.decide(8080, request("GET", &path, false), NOW);
        most = most.max(held(&memo));
    }
    assert!(most > MAX_PATHS_OF_CALLER / 2 && most <= MAX_PATHS_OF_CALLER, "{most}");
}

#[test]
fn many_callers_remember_together_what_they_are_allowed_and_decide_the_rest_each_time() {
    let by_path =
        "permit(principal is Node, action == Action::\"GET\", resource) when { context.path like \"/a/*\" };";
    let engine = engine(&[by_path]);
    let allowance = Allowance::new(100_000);
    let held = |memos: &[CallerMemo]| -> (usize, usize) {
        let cells = || memos.iter().flat_map(|memo| memo.cells.values());
        let paths = cells().map(|cell| match cell {
            Cell::Settled(..) => 0,
            Cell::Open(open) => open.remembered.len(),
        });
        (cells().count(), paths.sum())
    };
    let mut memos: Vec<_> = (0..40).map(|_| engine.caller(&peer("web"), &HERE).within(&allowance)).collect();
    let ask = |memo: &mut CallerMemo, path: &str| {
        let path = CanonicalPath::parse("GET", path).unwrap();
        memo.decide(8081, request("GET", &path, false), NOW).is_allowed()
    };
    for (number, memo) in memos.iter_mut().enumerate() {
        for path in 0..20 {
            assert!(ask(memo, &format!("/a/{number}/{path}")) && !ask(memo, &format!("/b/{number}/{path}")));
        }
    }
    assert!(allowance.is_spent());
    let (cells, paths) = held(&memos);
    assert!((1..40).contains(&cells) && (20..60).contains(&paths), "{cells} cells, {paths} paths");
    // Whoever had room finds some again for what it asks now, in place of what it asked.
    assert!(ask(&mut memos[0], "/a/hot"));
    let path = CanonicalPath::parse("GET", "/a/hot").unwrap();
    assert!(matches!(memos[0].recall(8081, request("GET", &path, false), NOW, None), Recalled::Known(..)));
    drop(memos);
    let mut anew = [engine.caller(&peer("web"), &HERE).within(&allowance)];
    (0..50).for_each(|path| assert!(ask(&mut anew[0], &format!("/a/{path}"))));
    assert_eq!(held(&anew).1, 50, "what was dropped was given back");
}

/// Asks for a path of port 8081 with what policies want gathered.
fn ask_with(
    memo: &mut CallerMemo,
    target: &str,
    host: &str,
    headers: &[(&'static str, &'static [u8])],
    moment: Moment,
) -> Arc<Decision> {
    let path = CanonicalPath::parse("GET", target).unwrap();
    let wanted = memo.engine().wanted(8081).cloned().unwrap_or_default();
    let gathered = wanted.gather(host, headers.iter().copied());
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: &gathered };
    memo.decide(8081, attempt, moment)
}

const GET: &str = "permit(principal is Node, action == Action::\"GET\", resource) when ";

#[test]
fn headers_queries_and_hosts_decide() {
    let engine = engine(&[&format!(
        "{GET} {{ context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\") && \
         context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"a b\") && context.host == \"orders.shop\" }};"
    )]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let mut ask = |target, host, headers: &[_]| ask_with(&mut memo, target, host, headers, NOW).is_allowed();
    let blue = ("x-tenant", &b"blue"[..]);
    assert!(ask("/?id=a+b", "Orders.Shop:80", &[blue]));
    assert!(ask("/?id=1&id=a%20b", "orders.shop", &[("x-tenant", b"red"), blue]));
    assert!(!ask("/?id=a+b", "orders.shop.evil", &[blue]));
    assert!(!ask("/?id=ab", "orders.shop", &[blue]));
    assert!(!ask("/", "orders.shop", &[blue]));
    assert!(!ask("/?id=a+b", "orders.shop", &[("x-tenant", b"blue, red")]));
    assert!(!ask("/?id=a+b", "orders.shop", &[]));
}

#[test]
fn a_name_in_a_query_that_servers_take_for_another_is_denied_where_that_is_read() {
    let engine = engine(&[
        &format!("{GET} {{ true }};"),
        "forbid(principal, action == Action::\"GET\", resource) when { context.query.hasTag(\"debug\") };",
    ]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    for (target, reason) in [
        ("/?a[]=1&A=1", Reason::Permitted),
        ("/?debug=1", Reason::Forbidden),
        ("/?debug[]=1", Reason::UnreadableQuery),
        ("/?debug%5B0%5D", Reason::UnreadableQuery),
        ("/?a=1&Debug", Reason::UnreadableQuery),
    ] {
        assert_eq!(ask_with(&mut memo, target, "", &[], NOW).reason, reason, "{target}");
    }
}

#[test]
fn a_query_is_parsed_once_however_many_policies_read_it() {
    let text = |name: usize| format!("{GET} {{ context.query.hasTag(\"q{name}\") }};");
    let texts: Vec<_> = (0..50).map(text).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let mut memo = engine(&texts).caller(&peer("web"), &HERE);
    for (target, is_allowed) in [("/?q49=1", true), ("/?q50=1", false), ("/?q49=%", false)] {
        let before = PARSED.get();
        assert_eq!(ask_with(&mut memo, target, "", &[], NOW).is_allowed(), is_allowed, "{target}");
        assert_eq!(PARSED.get() - before, 1, "{target}");
    }
}

#[test]
fn a_memory_is_free_for_others_while_a_question_is_evaluated() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource) when { context.path like \"/a/*\" };",
        "permit(principal is Node, action == Action::\"PUT\", resource);",
    ]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let path = CanonicalPath::parse("GET", "/a/b").unwrap();
    let asked = request("GET", &path, false);
    let is_known = |memo: &CallerMemo| matches!(memo.recall(8081, asked, NOW, None), Recalled::Known(..));
    assert!(!is_known(&memo));
    // Two ask the same at once, and somebody else something else.
    let both = [(); 2].map(|()| memo.recall(8081, asked, NOW, Some(1)));
    assert!(memo.decide(8081, request("PUT", &path, false), NOW).is_allowed());
    let counted = both.map(|recalled| {
        let Recalled::Open(pending) = recalled else { panic!("it is not known yet") };
        let (decision, counted) = memo.learn(pending.decide());
        assert!(decision.is_allowed());
        counted
    });
    assert!(matches!(counted, [Counted::First { .. }, Counted::Yes]), "{counted:?}");
    assert!(is_known(&memo));
    let known = memo.recall(8081, asked, NOW, Some(1));
    assert!(matches!(known, Recalled::Known(decision, Counted::Yes) if decision.is_allowed()));
    // Of another path the policies in play are known, but not what they say.
    let other = CanonicalPath::parse("GET", "/b").unwrap();
    let recalled = memo.recall(8081, request("GET", &other, false), NOW, None);
    let Recalled::Open(pending) = recalled else { panic!("it was never asked") };
    assert!(!memo.learn(pending.decide()).0.is_allowed());
}

#[test]
fn parameters_of_the_route_decide_and_are_remembered_by_path() {
    let engine = engine(&[&format!(
        "{GET} {{ context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"a b\" }};"
    )]);
    for _ in 0..2 {
        assert!(ask(&engine, &peer("web"), 8080, "GET", "/orders/a%20b").is_allowed());
        assert!(!ask(&engine, &peer("web"), 8080, "GET", "/orders/ab").is_allowed());
        assert!(!ask(&engine, &peer("web"), 8081, "GET", "/orders/a%20b").is_allowed(), "no declared route");
    }
}

#[test]
fn what_is_known_of_the_caller_decides() {
    let engine = engine(&[
        "permit(principal is Node, action, resource) when { context.peer.address.isInRange(ip(\"10.0.0.0/8\")) };",
        "forbid(principal, action, resource) unless { context.peer has tlsGroup && context.peer.tlsGroup == \
         \"X25519MLKEM768\" };",
        "forbid(principal, action, resource) when { context.peer has certificateAge && context.peer.certificateAge > 3600 };",
        "permit(principal is Workload, action, resource) when { context.peer.federated && context.peer has spiffeId && \
         context.peer.spiffeId like \"spiffe://partner.example/*\" && context.peer has trustDomain && \
         context.peer.trustDomain == \"partner.example\" };",
    ]);
    let peer_at = |address: &str, group: &str| {
        let tls = Tls { version: "TLSv1.3".into(), group: group.into() };
        Peer::new(Some(address.parse().unwrap()), Some(tls))
    };
    let decide = |caller: &Caller, peer: &Peer, moment| {
        let attempt = Attempt::Stream;
        engine.decide(&Question { caller, peer, port: 6379, attempt, moment }).is_allowed()
    };
    let web = peer("web");
    for address in ["10.1.2.3", "::ffff:10.1.2.3"] {
        assert!(decide(&web, &peer_at(address, "X25519MLKEM768"), NOW), "{address}");
    }
    assert!(!decide(&web, &peer_at("11.1.2.3", "X25519MLKEM768"), NOW));
    assert!(!decide(&web, &peer_at("10.1.2.3", "X25519"), NOW));
    let late = Moment { time: NOW.time.plus(std::time::Duration::from_secs(3_000)), ..NOW };
    assert!(!decide(&web, &HERE, late));
    assert!(decide(&foreign("spiffe://partner.example/app"), &HERE, NOW));
    assert!(!decide(&foreign("spiffe://shop.example/app"), &HERE, NOW));
    assert!(!decide(&Caller::Anonymous, &HERE, NOW));
    let tls = HERE.tls().cloned();
    for (tls, reason) in [(tls, Reason::FactsMissing), (None, Reason::Forbidden)] {
        let nowhere = Question { peer: &Peer::new(None, tls), ..question(&web, 6379, Attempt::Stream) };
        assert_eq!(engine.decide(&nowhere).reason, reason);
    }
}

#[test]
fn time_decides_and_is_not_remembered() {
    let engine = engine(&[&format!("{GET} {{ context.time.toTime() < duration(\"12h\") }};")]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let mut at = |hours: u64| {
        let time = NOW.time.plus(std::time::Duration::from_secs(3_600 * hours));
        ask_with(&mut memo, "/", "", &[], Moment { time, ..NOW })
    };
    assert!(at(0).is_allowed());
    assert!(!at(2).is_allowed());
    assert!(at(0).reads.change_with_time());
    assert!(!at(24 + 13).is_allowed());
}

#[test]
fn what_cannot_be_read_denies_what_reads_it_and_nothing_else() {
    let query = format!("{GET} {{ context.path like \"/*\" || context.query.hasTag(\"a\") }};");
    let header = format!("{GET} {{ context.path like \"/*\" || context.headers.hasTag(\"x-a\") }};");
    let plain = format!("{GET} {{ context.path like \"/*\" }};");
    let asked = |texts: &[(Mode, &str)], target, headers: &[_]| {
        let engine = engine_for(orders(), texts);
        let mut memo = engine.caller(&peer("web"), &HERE);
        let decision = ask_with(&mut memo, target, "", headers, NOW);
        (decision.reason.as_str(), decision.audit.as_ref().map(|audit| audit.effect), decision.policies.len())
    };
    let enforced = |text| [(Mode::Enforce, plain.as_str()), (Mode::Enforce, text)];
    assert_eq!(asked(&enforced(&query), "/?a=%zz", &[]), ("unreadable_query", None, 1));
    assert_eq!(asked(&enforced(&query), "/?a=%20", &[]), ("permitted", None, 2));
    // Nothing beyond ASCII is read, whoever reads it: one that permits does not, one that forbids does.
    let forbids = header.replacen("permit", "forbid", 1).replace("context.path like \"/*\" ||", "!");
    assert_ne!(forbids, header);
    for byte in 0x80..=0xff {
        let value: &'static [u8] = vec![b'a', byte].leak();
        assert_eq!(asked(&enforced(&header), "/", &[("x-a", value)]), ("unreadable_header", None, 1));
        assert_eq!(asked(&enforced(&forbids), "/", &[("x-a", value)]), ("unreadable_header", None, 1));
    }
    assert_eq!(asked(&enforced(&header), "/", &[("x_a", b"1")]), ("unreadable_header", None, 1));
    for padded in [&b" 1"[..], b"1 ", b"\t1"] {
        assert_eq!(asked(&enforced(&header), "/", &[("x-a", padded)]), ("unreadable_header", None, 1));
    }
    assert_eq!(asked(&enforced(&header), "/?a=%zz", &[("x-b", b"\xff")]), ("permitted", None, 2));
    let audited = [(Mode::Enforce, plain.as_str()), (Mode::Audit, query.as_str())];
    assert_eq!(asked(&audited, "/?a=%zz", &[]), ("permitted", Some(Effect::Deny), 1));
    // What was not gathered when the request came is not taken for absent.
    let engine = engine(&[&header]);
    let path = CanonicalPath::parse("GET", "/").unwrap();
    let decision = engine.decide(&question(&peer("web"), 8081, request("GET", &path, false)));
    assert_eq!(decision.reason, Reason::FactsMissing);
}

#[test]
fn a_permit_of_which_nobody_knows_what_it_says_takes_nothing_from_what_is_decided_without_it() {
    let any = "permit(principal is Node, action, resource);";
    let by_path = format!("{GET} {{ context.path like \"/*\" }};");
    let by_time = format!("{GET} {{ context.time > datetime(\"2000-01-01\") }};");
    let by_header = format!("{GET} {{ context.headers.hasTag(\"x-a\") }};");
    // It would fail where it is asked without what it reads, and hold without a header that is there.
    let by_host = format!("{GET} {{ context.host != \"a\" }};");
    let without = format!("{GET} {{ !context.headers.hasTag(\"x-a\") }};");
    let forbid = "forbid(principal, action == Action::\"GET\", resource) when { context.path == \"/\" };";
    let failing = forbid.replace("context.path == \"/\"", "resource.port * 9223372036854775807 > 0");
    let forbid_by_header = forbid.replace("context.path == \"/\"", "context.headers.hasTag(\"x-a\")");
    let asked = |texts: &[(Mode, &str)]| {
        let engine = engine_for(orders(), texts);
        let path = CanonicalPath::parse("GET", "/").unwrap();
        let web = peer("web");
        let mut memo = engine.caller(&web, &HERE);
        let question = question(&web, 8080, request("GET", &path, false));
        let decision = engine.decide(&question);
        let remembered = memo.decide(8080, question.attempt, question.moment);
        assert_eq!((remembered.reason, &remembered.policies), (decision.reason, &decision.policies));
        (decision.reason.as_str(), decision.policies.len(), decision.audit.map(|audit| audit.effect))
    };
    let enforced = |texts: &[&str]| {
        let texts: Vec<_> = texts.iter().map(|text| (Mode::Enforce, *text)).collect();
        let (reason, policies, _) = asked(&texts);
        (reason, policies)
    };
    for unknown in [&by_header, &by_host, &without] {
        for known in [any, by_path.as_str(), by_time.as_str()] {
            assert_eq!(enforced(&[known, unknown]), ("permitted", 1), "{known} {unknown}");
            assert_eq!(enforced(&[unknown, known]), ("permitted", 1), "{known} {unknown}");
        }
        assert_eq!(enforced(&[unknown]), ("facts_missing", 1), "{unknown}");
        assert_eq!(enforced(&[unknown, forbid]), ("forbidden", 1), "{unknown}");
        assert_eq!(enforced(&[any, unknown, forbid]), ("forbidden", 1), "{unknown}");
        assert_eq!(enforced(&[any, unknown, &failing]).0, "evaluation_error", "{unknown}");
        // Of a forbid it matters.
        assert_eq!(enforced(&[any, unknown, &forbid_by_header]), ("facts_missing", 2), "{unknown}");
        let bounded = [(Mode::Enforce, any), (Mode::Boundary, forbid_by_header.as_str())];
        assert_eq!(asked(&bounded).0, "facts_missing");
        let audited = [(Mode::Enforce, any), (Mode::Audit, unknown.as_str())];
        assert_eq!(asked(&audited), ("permitted", 1, Some(Effect::Deny)));
        let audited = [(Mode::Enforce, any), (Mode::Audit, unknown.as_str()), (Mode::Audit, any)];
        assert_eq!(asked(&audited), ("permitted", 1, Some(Effect::Allow)));
    }
}

#[test]
fn only_what_is_read_is_wanted() {
    let engine = engine(&[
        "forbid(principal, action == Action::\"GET\", resource == Route::\"orders:8080 /health\") when { \
         context.headers.hasTag(\"x-b\") || context.headers.hasTag(\"x-a\") };",
        "forbid(principal, action == Action::\"call\", resource) when { context.host == \"a\" };",
        "forbid(principal, action == Action::\"GET\", resource) when { context.path == \"/\" || context.query.hasTag(\"a\") };",
    ]);
    let wanted = engine.wanted(8080).unwrap();
    assert_eq!(wanted.headers.iter().map(|name| &**name).collect::<Vec<_>>(), ["x-a", "x-b"]);
    assert!(!wanted.host && engine.wanted(50051).unwrap().host);
    assert_eq!(engine.wanted(9000), None);
    assert_eq!(engine.wanted(6379), None);
    let decision = ask(&engine, &peer("web"), 9000, "GET", "/");
    assert!(decision.reads.contains(Fact::Query) && !decision.reads.contains(Fact::Headers));
}

#[test]
fn what_a_policy_names_elsewhere_can_be_looked_at() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource) when { Port::\"orders:6379\".number == 6379 && \
         Port::\"orders:6379\" in Service::\"cache\" && Node::\"orders\" in Mesh::\"shop\" && action in Action::\"read\" };",
    ]);
    assert!(ask(&engine, &peer("web"), 8080, "GET", "/").is_allowed());
}

#[test]
fn routes_are_decided_by_their_data_classes() {
    let mut scope = orders();
    scope.ports[0].routes[0].classes = vec![name("card"), name("pii")];
    let texts = [
        (Mode::Enforce, "permit(principal is Node, action, resource in Service::\"orders\");"),
        (Mode::Enforce, "forbid(principal == Node::\"web\", action, resource in DataClass::\"pii\");"),
        (
            Mode::Enforce,
            "forbid(principal == Node::\"cart\", action in Action::\"http\", resource) when { resource in \
             DataClass::\"card\" };",
        ),
    ];
    let engine = engine_for(scope, &texts);
    let reason = |caller: &str, path: &str| ask(&engine, &peer(caller), 8080, "GET", path).reason;
    assert_eq!(reason("web", "/orders/1"), Reason::Forbidden);
    assert_eq!(reason("web", "/orders/1/2"), Reason::Permitted);
    assert_eq!(reason("web", "/other"), Reason::Permitted);
    assert_eq!(reason("cart", "/orders/1"), Reason::Forbidden);
    assert_eq!(reason("cart", "/health"), Reason::Permitted);
    assert_eq!(reason("payments", "/orders/1"), Reason::Permitted);
}

#[test]
fn nothing_lifts_what_the_boundary_forbids() {
    let mut scope = orders();
    scope.ports.iter_mut().for_each(|port| port.authorization = Authorization::Audit);
    let texts = [
        (Mode::Enforce, "permit(principal is Node, action, resource);"),
        (
            Mode::Boundary,
            "forbid(principal == Node::\"web\", action, resource) when { context has path && context.path like \
             \"/orders/*\" };",
        ),
        (Mode::Enforce, "forbid(principal == Node::\"web\", action in Action::\"http\", resource);"),
        (Mode::Audit, "forbid(principal, action, resource);"),
    ];
    let engine = engine_for(scope, &texts);
    let bounded = ask(&engine, &peer("web"), 8080, "GET", "/orders/1");
    assert_eq!(reason(&bounded), (Effect::Deny, "forbidden_by_boundary"));
    assert_eq!(&*bounded.policies, ["boundary:p1".into()]);
    assert_eq!(bounded.audit.unwrap().effect, Effect::Deny);
    let forbidden = ask(&engine, &peer("web"), 8080, "GET", "/other");
    assert_eq!(reason(&forbidden), (Effect::Deny, "forbidden"));
    assert_eq!(&*forbidden.policies, ["p2".into()]);
    assert_eq!(ask(&engine, &peer("cart"), 8080, "GET", "/orders/1").reason, Reason::Permitted);

    let caller = peer("web");
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let attempt = request("GET", &path, false);
    let explained = engine.explain(&question(&caller, 8080, attempt));
    assert_eq!(&*explained.policies[0].name, "boundary:p1");
    assert_eq!(explained.nearest().unwrap().mode, Mode::Boundary);
    assert_eq!(explained.suggestion, None);
}

#[test]
fn a_path_with_escaped_slashes_must_be_permitted_in_both_readings() {
    let decide = |texts: &[&str], path: &str| {
        let mut scope = orders();
        scope.ports[0].escaped_slashes = EscapedSlashes::Keep;
        let engine = engine_for(scope, &texts.iter().map(|text| (Mode::Enforce, *text)).collect::<Vec<_>>());
        let path = CanonicalPath::parse_with("GET", path, engine.escaped_slashes(8080)).unwrap();
        engine.decide(&question(&peer("web"), 8080, request("GET", &path, false)))
    };
    let public = "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.path like \"/public/*\" };";
    let route =
        "permit(principal == Node::\"web\", action, resource == Route::\"orders:8080 /orders/{id}\");";
    let all = "permit(principal == Node::\"web\", action, resource in Service::\"orders\");";
    let no_admin =
        "forbid(principal, action in Action::\"http\", resource) when { context.path like \"/admin/*\" };";
    assert!(decide(&[public], "/public/a%2Fb").is_allowed());
    assert!(!decide(&[public], "/other%2Fa").is_allowed());
    assert!(!decide(&[public], "/public%2Fa").is_allowed(), "not as it stands");
    // As it stands it is of the permitted route, and with slashes of another.
    assert!(decide(&[route], "/orders/1").is_allowed() && !decide(&[route], "/orders/1%2Fcard").is_allowed());
    let forbidden = decide(&[all, no_admin], "/admin%2Fkeys");
    assert_eq!((forbidden.reason, forbidden.is_allowed()), (Reason::Forbidden, false));
    assert!(decide(&[all, no_admin], "/a%2Fkeys").is_allowed());
}
