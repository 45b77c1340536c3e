use std::collections::BTreeSet;

use cedar_policy::{Authorizer, Policy, PolicyId};
use hauberk_identity::SpiffeId;
use proptest::prelude::*;

use super::*;
use crate::compile::CompileError;
use crate::facts::{Roles, entities};
use crate::slice::PolicyIndex;
use crate::testing::{
    ask, connect, documents, domain, engine, engine_for, foreign, name, node, orders, peer, port, roles,
};
use crate::{NodeScope, PolicySlice, RoleMembers, SlicedPolicy};

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
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: true };
    let on_grpc = Question { caller: &web, port: 50051, attempt };
    assert_eq!(engine.decide(&on_grpc).reason, Reason::WrongProtocol);
}

/// What web gets who asks for another protocol on port 8080.
fn upgrade(engine: &Engine, method: &str) -> Decision {
    let path = CanonicalPath::parse(method, "/ws").unwrap();
    let attempt = Attempt::Request { method, path: &path, upgrade: true };
    engine.decide(&Question { caller: &peer("web"), port: 8080, attempt })
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
    let with = |policies: Vec<SlicedPolicy>| PolicySlice { policies, roles: Vec::new() };
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
            policies: Vec::new(),
            roles: vec![RoleMembers { role: name("a"), members: Vec::new() }; 2],
        },
    ] {
        assert!(compile(orders(), &slice).is_some(), "{slice:?}");
    }
    let none = PolicySlice::default();
    let mut scope = orders();
    scope.node = SpiffeId::node(&domain(), &name("bank"), &name("orders"));
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
        PolicyIndex::new(&name("shop"), &documents).slice(&orders(), &roles())
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
    let slice = index.slice(&orders(), &roles());
    let names: Vec<_> = slice.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["p0", "p2", "p4", "p5", "p9"]);
    assert_eq!(slice.roles.iter().map(|role| role.role.as_str()).collect::<Vec<_>>(), ["clerks"]);
    let mut elsewhere = orders();
    elsewhere.mesh = name("bank");
    assert_eq!(index.slice(&elsewhere, &roles()), PolicySlice::default());
    let bank = name("bank");
    assert_eq!(PolicyIndex::new(&bank, &documents).slice(&orders(), &[]), PolicySlice::default());
    // A role without members given makes the whole slice invalid, rather than a forbid on it silent.
    let slice = index.slice(&orders(), &[]);
    assert!(matches!(Engine::compile(orders(), &slice, None), Err(CompileError::UnknownRole { .. })));
}

#[test]
fn remembers_only_what_cannot_change_and_not_too_much() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource) when { context.path like \"/a/*\" };",
        "permit(principal is Node, action == Action::\"PUT\", resource) when { context.method == \"PUT\" };",
        "permit(principal is Node, action == Action::\"other\", resource) when { context.method == \"LOCK\" };",
    ]);
    let mut memo = engine.caller(&peer("web"));
    let mut ask = |method: &str, path: &str| {
        let path = CanonicalPath::parse(method, path).unwrap();
        let allowed =
            memo.decide(8081, Attempt::Request { method, path: &path, upgrade: false }).is_allowed();
        let largest = memo.cells.values().map(|cell| match cell {
            Cell::Settled(_) => 0,
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
    assert!(matches!(memo.cells.values().nth(1), Some(Cell::Settled(_))), "PUT depends on nothing");
}

/// What plain Cedar says: all policies, all entities, the full context, nothing sliced, indexed or remembered. An
/// upgrade is asked about twice, and the worse answer counts.
fn oracle(
    scope: &NodeScope,
    texts: &[(Mode, &str)],
    caller: &Caller,
    port: u16,
    attempt: Attempt<'_>,
) -> Expected {
    let Attempt::Request { method, path, upgrade: true } = attempt else {
        return one_oracle(scope, texts, caller, port, attempt);
    };
    let plain = Attempt::Request { method, path, upgrade: false };
    let halves = [plain, attempt].map(|half| one_oracle(scope, texts, caller, port, half));
    let from_worst = [
        Reason::Forbidden,
        Reason::EvaluationError,
        Reason::NoPolicyMatched,
        Reason::AuditDefaultAllow,
        Reason::Permitted,
    ];
    let reason = from_worst.into_iter().find(|reason| halves.iter().any(|half| half.reason == *reason));
    let reason = reason.unwrap();
    let deciding = halves.iter().filter(|half| half.reason == reason);
    let named: BTreeSet<_> = deciding.filter_map(|half| half.policies.clone()).flatten().collect();
    let passes = |half: &Expected| {
        let enforced = if half.reason == Reason::Permitted { Effect::Allow } else { Effect::Deny };
        half.audit.unwrap_or(enforced) == Effect::Allow
    };
    let is_audited = halves.iter().any(|half| half.audit.is_some());
    Expected {
        reason,
        policies: (reason != Reason::EvaluationError).then_some(named),
        audit: is_audited.then(|| if halves.iter().all(passes) { Effect::Allow } else { Effect::Deny }),
    }
}

fn one_oracle(
    scope: &NodeScope,
    texts: &[(Mode, &str)],
    caller: &Caller,
    port: u16,
    attempt: Attempt<'_>,
) -> Expected {
    let roles = Roles::new(&roles(), &scope.names());
    let principal = match caller {
        Caller::Peer(id) => crate::facts::caller(id, scope, &roles).unwrap(),
        Caller::Anonymous => anonymous(),
    };
    let port = scope.ports.iter().find(|own| own.number == port).unwrap();
    let (action, resource) = match attempt {
        Attempt::Stream => {
            ("connect", crate::vocabulary::Kind::Port.uid(format!("{}:{}", scope.node, port.number)))
        }
        Attempt::Request { method, path, upgrade } => {
            let declared =
                port.routes.iter().map(|route| &route.template).filter(|own| own.matches(method, path));
            let route = declared.min_by(|one, other| one.by_specificity(other));
            let template = route.map_or("*undeclared", |route| route.as_str());
            let action = match (port.protocol, upgrade) {
                (Protocol::Grpc, _) => "call",
                (_, true) => "upgrade",
                _ if ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"].contains(&method) => method,
                _ => "other",
            };
            let id = format!("{}:{} {template}", scope.node, port.number);
            (action, crate::vocabulary::Kind::Route.uid(id))
        }
    };
    let mut context = Vec::new();
    if let Attempt::Request { method, path, .. } = attempt {
        context.extend([("path", path.path()), ("method", method)]);
        if port.protocol == Protocol::Grpc {
            let (service, rpc) = path.path()[1..].split_once('/').unwrap();
            context.extend([("service", service), ("rpc", rpc)]);
        }
    }
    let context = context
        .into_iter()
        .map(|(name, value)| (name.into(), RestrictedExpression::new_string(value.into())));
    let request = Request::new(
        principal.uid.clone(),
        format!("Action::\"{action}\"").parse().unwrap(),
        resource,
        Context::from_pairs(context).unwrap(),
        Some(&VOCABULARY.schema),
    )
    .unwrap();
    let mut all: Vec<_> = entities(scope, &roles);
    if !all.iter().any(|entity| entity.uid() == principal.uid) {
        all.push(principal.entity);
    }
    let all = Entities::from_entities(all, Some(&VOCABULARY.schema)).unwrap();
    let documents = documents(texts);
    let answer = |mode: Mode| {
        let statements = documents.iter().filter(|document| document.mode() == mode);
        let policies = statements
            .flat_map(|document| document.statements())
            .map(|statement| Policy::parse(Some(PolicyId::new(&statement.name)), &statement.text).unwrap());
        let set = PolicySet::from_policies(policies).unwrap();
        let response = Authorizer::new().is_authorized(&request, &set, &all);
        let reasons: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        let failed = response.diagnostics().errors().next().is_some();
        (response.decision(), reasons, failed)
    };
    let (decision, reasons, failed) = answer(Mode::Enforce);
    let enforced = match decision {
        CedarDecision::Deny if !reasons.is_empty() => Reason::Forbidden,
        _ if failed => Reason::EvaluationError,
        CedarDecision::Allow => Reason::Permitted,
        CedarDecision::Deny => Reason::NoPolicyMatched,
    };
    let (decision, audited, audit_failed) = answer(Mode::Audit);
    let has_forbid = decision == CedarDecision::Deny && !audited.is_empty();
    let audit = if has_forbid || audit_failed {
        Some(Effect::Deny)
    } else if !audited.is_empty() {
        let stops = matches!(enforced, Reason::Forbidden | Reason::EvaluationError);
        Some(if stops { Effect::Deny } else { Effect::Allow })
    } else {
        None
    };
    let policies = if enforced == Reason::EvaluationError { None } else { Some(reasons) };
    Expected { reason: enforced, policies, audit }
}

#[derive(Debug, PartialEq)]
struct Expected {
    reason: Reason,
    /// None where a failure decided, since Cedar's reasons are then others.
    policies: Option<BTreeSet<String>>,
    audit: Option<Effect>,
}

fn given(decision: &Decision) -> Expected {
    let policies = decision.policies.iter().map(ToString::to_string).collect();
    Expected {
        reason: decision.reason,
        policies: (decision.reason != Reason::EvaluationError).then_some(policies),
        audit: decision.audit.as_ref().map(|audit| audit.effect),
    }
}

fn some_policy() -> impl Strategy<Value = String> {
    let effect = prop::sample::select(vec!["permit", "permit", "forbid"]);
    let principal = prop::sample::select(vec![
        "principal is Node",
        "principal == Node::\"web\"",
        "principal == Node::\"orders\"",
        "principal in Role::\"clerks\"",
        "principal in Role::\"nobody\"",
        "principal in Mesh::\"shop\"",
        "principal is Node in TrustDomain::\"shop.example\"",
        "principal is Workload",
        "principal == Workload::\"ci\"",
        "principal is Workload in TrustDomain::\"partner.example\"",
        "principal is Anonymous",
    ]);
    // Each action with conditions that are valid for it.
    let on_requests = vec![
        "",
        "when { context.path like \"/orders/*\" }",
        "when { context.path == \"/health\" }",
        "unless { context.path like \"*/2\" }",
        "when { context.method == \"GET\" }",
        "when { context.method like \"*O*\" && context.path like \"/*\" }",
        "when { [\"GET\", \"LOCK\"].contains(context.method) }",
        "when { context == context }",
        "when { resource.template == \"/orders/{id}\" }",
        "when { resource.port * 9223372036854775807 < 0 }",
        "when { context.path like \"/orders/*\" && resource.port * 9223372036854775807 < 0 }",
        "when { principal in Role::\"clerks\" }",
        "when { resource in Service::\"orders\" }",
        "when { (if context.path like \"*1\" then resource else resource) in Port::\"orders:8080\" }",
    ];
    let requests = (
        prop::sample::select(vec![
            "action in Action::\"http\"",
            "action in Action::\"read\"",
            "action in [Action::\"write\", Action::\"GET\"]",
            "action == Action::\"GET\"",
            "action == Action::\"POST\"",
            "action == Action::\"other\"",
            "action == Action::\"upgrade\"",
            "action == Action::\"call\"",
        ]),
        prop::sample::select(on_requests),
    );
    let calls = (
        Just("action == Action::\"call\""),
        prop::sample::select(vec![
            "when { context.rpc == \"Get\" }",
            "unless { context.service like \"shop.*\" }",
        ]),
    );
    let anything = (Just("action"), prop::sample::select(vec!["", "when { principal in Role::\"clerks\" }"]));
    let streams = (
        Just("action == Action::\"connect\""),
        prop::sample::select(vec![
            "",
            "when { resource.number == 6379 }",
            "when { resource.number * 9223372036854775807 < 0 }",
        ]),
    );
    let resource = prop::sample::select(vec![
        "resource",
        "resource in Service::\"orders\"",
        "resource in Service::\"orders-admin\"",
        "resource in Service::\"cache\"",
        "resource in Service::\"payments\"",
        "resource in Node::\"orders\"",
        "resource in Mesh::\"shop\"",
        "resource in Port::\"orders:8080\"",
        "resource == Route::\"orders:8080 /orders/{id}\"",
        "resource == Route::\"orders:8080 *undeclared\"",
        "resource == Port::\"orders:6379\"",
    ]);
    (effect, principal, prop_oneof![4 => requests, 1 => calls, 2 => anything, 1 => streams], resource)
        .prop_map(|(effect, principal, (action, condition), resource)| {
            format!("{effect}({principal}, {action}, {resource}) {condition};")
        })
        // Some combinations can never apply, which the parser refuses.
        .prop_filter("can apply", |text| crate::testing::parse(text).is_ok())
}

fn some_request() -> impl Strategy<Value = (Caller, u16, &'static str, &'static str, bool)> {
    let caller = prop::sample::select(vec![
        peer("web"),
        peer("intruder"),
        peer("orders"),
        foreign("spiffe://shop.example/mesh/bank/gateway/edge"),
        foreign("spiffe://shop.example/workload/ci"),
        foreign("spiffe://partner.example/app"),
        Caller::Anonymous,
    ]);
    let http = (
        prop::sample::select(vec![8080_u16, 9000, 8081]),
        prop::sample::select(vec!["GET", "HEAD", "POST", "DELETE", "LOCK", "get"]),
        prop::sample::select(vec!["/orders/1", "/orders/2", "/orders/1/2", "/orders", "/health", "/"]),
        any::<bool>(),
    );
    let grpc = (
        Just(50051),
        Just("POST"),
        prop::sample::select(vec!["/shop.Orders/Get", "/shop.Orders/Put", "/bank.Ledger/Get"]),
        Just(false),
    );
    let tcp = (Just(6379), Just(""), Just("/"), Just(false));
    (caller, prop_oneof![4 => http, 1 => grpc, 1 => tcp])
        .prop_map(|(caller, (port, method, path, upgrade))| (caller, port, method, path, upgrade))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The property that everything rests on: sliced, indexed and remembered says what plain Cedar says.
    #[test]
    fn decides_as_plain_cedar_does(
        policies in prop::collection::vec((any::<bool>(), some_policy()), 0..8),
        requests in prop::collection::vec(some_request(), 1..12),
    ) {
        let texts: Vec<_> = policies
            .iter()
            .map(|(audit, text)| (if *audit { Mode::Audit } else { Mode::Enforce }, text.as_str()))
            .collect();
        let scope = orders();
        let engine = engine_for(scope.clone(), &texts);
        let mut memos: HashMap<Caller, CallerMemo> = HashMap::new();
        // Twice, so that the second time is remembered.
        for (caller, port, method, path, upgrade) in requests.iter().chain(&requests) {
            let path = CanonicalPath::parse(method, path).unwrap();
            let attempt = match method.is_empty() {
                true => Attempt::Stream,
                false => Attempt::Request { method, path: &path, upgrade: *upgrade },
            };
            let expected = oracle(&scope, &texts, caller, *port, attempt);
            let memo = memos.entry(caller.clone()).or_insert_with(|| engine.caller(caller));
            prop_assert_eq!(&given(&memo.decide(*port, attempt)), &expected);
            let question = Question { caller, port: *port, attempt };
            prop_assert_eq!(&given(&engine.decide(&question)), &expected);
            let explained = engine.explain(&question);
            prop_assert_eq!(&given(&explained.decision), &expected);
            // What explains must agree with what decides.
            for note in &explained.policies {
                let applies = note.mismatches.is_empty() && note.error.is_none();
                let determines = explained.decision.policies.contains(&note.name);
                prop_assert!(applies || !determines || expected.reason == Reason::EvaluationError, "{note:?}");
            }
        }
        let _ = node("web");
    }
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
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false };
    let explained = engine.explain(&Question { caller: &caller, port: 8080, attempt });
    assert_eq!(&*explained.policies[0].name, "boundary:p1");
    assert_eq!(explained.nearest().unwrap().mode, Mode::Boundary);
    assert_eq!(explained.suggestion, None);
}
