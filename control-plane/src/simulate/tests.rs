use hauberk_identity::{NodeName, SpiffeId};

use super::*;
use crate::resources::testing::{
    EVERYTHING, catalog_of, for_users, issuer, listener, mesh, node, permit, policy, routes, service, shop,
    trust_domain, try_admit,
};

const NOW: u64 = 1_800_000_000_000;

fn id(name: &str) -> SpiffeId {
    SpiffeId::node(&trust_domain(), &Name::parse("shop").unwrap(), &Name::parse(name).unwrap())
}

fn seen(
    caller: &str,
    action: &str,
    verdict: agent::Verdict,
    paths: &[(&str, u64)],
) -> Arc<agent::FlowSummary> {
    let exemplar = |(path, count): &(&str, u64)| agent::FlowExemplar {
        path: (*path).to_owned(),
        peer_address: "10.0.0.1".to_owned(),
        facts: Some(agent::DecisionFacts {
            time_unix_ms: NOW,
            method: action.to_owned(),
            ..agent::DecisionFacts::default()
        }),
        count: *count,
        first_seen_unix_ms: NOW,
        last_seen_unix_ms: NOW,
        ..agent::FlowExemplar::default()
    };
    Arc::new(agent::FlowSummary {
        caller: id(caller).to_string(),
        node: id("orders").to_string(),
        port: 8080,
        action: action.to_owned(),
        route: "*undeclared".to_owned(),
        verdict: verdict.into(),
        reason: "permitted".to_owned(),
        exemplars: paths.iter().map(exemplar).collect(),
        first_seen_unix_ms: NOW,
        last_seen_unix_ms: NOW,
        ..agent::FlowSummary::default()
    })
}

fn records(flows: Vec<Arc<agent::FlowSummary>>) -> Vec<NodeRecord> {
    vec![NodeRecord { node: id("orders"), flows, unrecorded: 2 }]
}

fn simulated(
    before: &Catalog,
    draft: &[hauberk_proto::mesh::v1::Resource],
    records: &[NodeRecord],
) -> Simulation {
    let after = try_admit(before, draft, EVERYTHING).unwrap().after;
    simulate(&trust_domain(), before, &after, records).unwrap()
}

const ALLOW: agent::Verdict = agent::Verdict::Allow;
const DENY: agent::Verdict = agent::Verdict::Deny;

#[test]
fn a_draft_s_flips_are_told_with_whoever_makes_them() {
    let before = catalog_of(&shop());
    let records = records(vec![
        seen("cart", "GET", DENY, &[("/orders/1", 9)]),
        seen("web", "GET", ALLOW, &[("/orders/1", 5), ("/orders/2", 1)]),
        seen("web", "POST", ALLOW, &[("/orders/1", 3)]),
    ]);
    let narrow = policy(
        "allow-web-to-orders",
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");",
    );
    let found = simulated(&before, &[narrow, permit("cart", "cart", "orders")], &records);
    let told: Vec<_> = found
        .flips
        .iter()
        .map(|flip| {
            let (_, draft) = flip.verdicts.unwrap();
            let policies = flip.policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            (flip.flow.action.as_str(), draft, policies, flip.count)
        })
        .collect();
    assert_eq!(
        told,
        [("POST", DENY, "allow-web-to-orders".to_owned(), 3), ("GET", ALLOW, "cart".to_owned(), 9)]
    );
    assert_eq!(found.looked_at, Figure { flows: 3, decisions: 18 });
    assert_eq!(found.denied, Figure { flows: 1, decisions: 3 });
    assert_eq!(found.allowed, Figure { flows: 1, decisions: 9 });
    assert_eq!((found.undecidable, found.since, found.unrecorded), (Figure::default(), Some(NOW), 2));
}

#[test]
fn an_equal_draft_changes_nothing_and_neither_does_one_in_audit() {
    let before = catalog_of(&shop());
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let equal: Vec<_> = shop().into_iter().skip(1).collect();
    let found = simulated(&before, &equal, &records);
    assert_eq!((found.flips, found.looked_at), (Vec::new(), Figure { flows: 1, decisions: 5 }));
    let mut audited = policy(
        "later",
        "forbid(principal, action in Action::\"http\", resource) when { context.headers.hasTag(\"x\") };",
    );
    if let Some(hauberk_proto::mesh::v1::resource::Spec::Policy(spec)) = &mut audited.spec {
        spec.mode = Some("AUDIT".to_owned());
    }
    assert_eq!(simulated(&before, &[audited.clone()], &records).flips, []);
    if let Some(hauberk_proto::mesh::v1::resource::Spec::Policy(spec)) = &mut audited.spec {
        spec.mode = None;
    }
    let found = simulated(&before, &[audited], &records);
    assert_eq!(found.undecidable, Figure { flows: 1, decisions: 5 });
    assert_eq!((found.flips[0].verdicts, found.flips[0].reason), (None, "facts_not_recorded"));
}

#[test]
fn a_draft_that_changes_who_users_are_or_how_they_are_taken_is_not_without_effect() {
    let orders = |mode: Option<&str>| {
        let port = |number| listener(number, "http");
        let public = mode.map_or(port(8080), |mode| for_users(port(8080), mode, &[]));
        node("orders", [public, port(9090)])
    };
    let login = issuer("login", |_| {});
    let before =
        try_admit(&catalog_of(&shop()), &[orders(Some("OPTIONAL")), login], EVERYTHING).unwrap().after;
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let told = |draft: &[hauberk_proto::mesh::v1::Resource]| {
        let found = simulated(&before, draft, &records);
        let reasons: Vec<_> = found.flips.iter().map(|flip| (flip.verdicts, flip.reason)).collect();
        assert_eq!(reasons.len() as u64, found.undecidable.flows);
        reasons
    };
    let unknown = [(None, "facts_not_recorded")];
    assert_eq!(told(&[orders(Some("OPTIONAL"))]), []);
    assert_eq!(told(&[orders(Some("REQUIRED"))]), unknown);
    assert_eq!(told(&[orders(None)]), unknown);
    let other_audience = issuer("login", |spec| spec.audiences = vec!["bank".into()]);
    assert_eq!(told(&[other_audience]), unknown);
    assert_eq!(told(&[issuer("login", |_| {})]), unknown, "another key");
    assert_eq!(told(&[issuer("other", |_| {})]), unknown, "a token that nobody looked at");
}

#[test]
fn how_conditions_on_users_came_out_decides_drafts_that_keep_them() {
    let by_group = |action: &str, group: &str| {
        policy(
            "allow-web-to-orders",
            &format!(
                "permit(principal == Node::\"web\", {action}, resource in Service::\"orders\") when {{ context has user && \
                 context.user in UserGroup::\"login/{group}\" }};"
            ),
        )
    };
    let (gets, all) = ("action == Action::\"GET\"", "action in Action::\"http\"");
    let login = issuer("login", |_| {});
    let before =
        try_admit(&catalog_of(&shop()), &[login, by_group(gets, "support")], EVERYTHING).unwrap().after;
    // As an agent of the node would tell of it.
    let shop_mesh = Name::parse("shop").unwrap();
    let resources = before.mesh("shop").unwrap();
    let domain = trust_domain();
    let views = MeshViews::new(&domain, &shop_mesh, resources);
    let name = NodeName::parse("orders").unwrap();
    let own = engines::of_node(&views, resources.node("orders").unwrap(), &name);
    let now = engines::sides(own.clone(), own.gone(), Default::default()).unwrap().unwrap().now;
    let text = now.conditions().next().unwrap().to_string();
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref()[..16].to_vec();
    let of = |met, verdict| {
        let mut flow = (*seen("web", "GET", verdict, &[("/orders/1", 5)])).clone();
        let policy = "allow-web-to-orders".to_owned();
        flow.conditions = vec![agent::ConditionOutcome { policy, digest: digest.clone(), met }];
        Arc::new(flow)
    };
    let known = records(vec![of(true, ALLOW), of(false, DENY)]);
    let found = simulated(&before, &[by_group(all, "support")], &known);
    assert_eq!((found.flips, found.looked_at.flows), (Vec::new(), 1));
    let forbid = policy("stop", "forbid(principal, action == Action::\"GET\", resource);");
    let found = simulated(&before, &[forbid], &known);
    assert_eq!((found.denied.decisions, found.undecidable.decisions, found.flips.len()), (5, 0, 1));
    let found = simulated(&before, &[by_group(gets, "sales")], &known);
    assert_eq!(found.undecidable.decisions, 10, "another condition");
    let silent = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let found = simulated(&before, &[by_group(all, "support")], &silent);
    assert_eq!(found.undecidable.decisions, 5, "agents of a former release tell nothing");
}

#[test]
fn what_was_asked_of_a_node_that_a_draft_leaves_out_would_be_denied() {
    let before = catalog_of(&shop());
    let mut after = before.clone();
    let name = |text| Name::parse(text).unwrap();
    after.remove(&crate::resources::ResourceKey {
        kind: Kind::VirtualNode,
        mesh: name("shop"),
        name: name("orders"),
    });
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let found = simulate(&trust_domain(), &before, &after, &records).unwrap();
    assert_eq!((found.denied, found.flips[0].reason), (Figure { flows: 1, decisions: 5 }, "no_such_port"));
}

#[test]
fn what_was_asked_in_a_mesh_that_goes_is_not_passed_over() {
    let before = catalog_of(&shop());
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let found = simulate(&trust_domain(), &before, &Catalog::default(), &records).unwrap();
    // Whoever called goes too.
    assert_eq!((found.looked_at.flows, found.undecidable.decisions), (1, 5));
    assert_eq!(found.flips[0].reason, "caller_changes");
}

#[test]
fn what_is_stored_and_not_understood_proves_nothing() {
    let mut before = catalog_of(&shop());
    let key = crate::resources::ResourceKey {
        kind: Kind::Policy,
        mesh: Name::parse("shop").unwrap(),
        name: Name::parse("odd").unwrap(),
    };
    let odd = |text: &str| {
        let unreadable = crate::resources::Model::Unreadable("from the future".to_owned());
        crate::resources::Entry::new(policy("odd", text), unreadable)
    };
    let name = Name::parse("allow-web-to-orders").unwrap();
    let other = crate::resources::ResourceKey { name, ..key.clone() };
    // What can only permit is left out, as agents' views are made without it.
    before.set(&key, odd("permit(principal is Nobody, action, resource);"));
    let mut after = before.clone();
    after.remove(&other);
    let seen_once = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let found = simulate(&trust_domain(), &before, &after, &seen_once).unwrap();
    assert_eq!(found.denied, Figure { flows: 1, decisions: 5 });
    before.set(&key, odd("forbid"));
    let mut after = before.clone();
    after.remove(&other);
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let error = simulate(&trust_domain(), &before, &after, &records).unwrap_err();
    assert!(error.to_string().contains("from the future"), "{error}");
}

fn suggested(catalog: &Catalog, records: &[NodeRecord]) -> Suggestion {
    let shop = Name::parse("shop").unwrap();
    suggest(&trust_domain(), &shop, catalog.mesh("shop").unwrap(), records).unwrap()
}

#[test]
fn a_suggestion_covers_what_was_allowed_and_can_be_applied() {
    let orders = routes(listener(8080, "http"), &["/orders/{id}", "/health"]);
    let resources = [
        mesh("shop"),
        node("web", [listener(8000, "http")]),
        node("orders", [orders]),
        service("orders", "orders", None),
        permit("all", "web", "orders"),
        permit("unused", "web", "orders"),
        policy("no-deletes", "forbid(principal, action == Action::\"DELETE\", resource);"),
    ];
    let catalog = catalog_of(&resources);
    let mut declared = (*seen("web", "GET", ALLOW, &[("/orders/1", 5)])).clone();
    (declared.route, declared.others) = ("/orders/{id}".to_owned(), 7);
    let mut many = (*seen("web", "POST", ALLOW, &[("/x", 1)])).clone();
    many.others = 4;
    let records = records(vec![
        Arc::new(declared),
        Arc::new(many),
        seen("web", "DELETE", ALLOW, &[("/orders/1", 2)]),
        seen("web", "DELETE", ALLOW, &[("/orders/1", 3), ("/orders/2", 1)]),
        seen("web", "PUT", DENY, &[("/orders/1", 100)]),
    ]);
    let found = suggested(&catalog, &records);
    let names: Vec<_> = found.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["suggested-web-to-orders"]);
    assert_eq!((found.seen, found.covered), (5 + 7 + 1 + 4 + 2 + 4, 5 + 7 + 1));
    let uncovered: Vec<_> =
        found.uncovered.iter().map(|one| (one.action.as_str(), one.count, one.reason.as_str())).collect();
    // What cannot be told apart is told once.
    assert_eq!(uncovered, [("POST", 4, "too_many_to_record"), ("DELETE", 6, "denied_now")]);
    assert_eq!(found.generalisations, ["orders:8080 /orders/{id}: every path of the declared route"]);
    let used: Vec<_> = found.used.iter().map(|used| (used.policy.as_str(), used.count)).collect();
    assert_eq!(used, [("all", 6), ("unused", 6)], "both permit it");
    let after = try_admit(&catalog, &found.policies, EVERYTHING).unwrap().after;
    assert!(after.mesh("shop").unwrap().policies().count() == 4);
}

/// What of a suggestion is not covered: the action, how often and why.
fn uncovered(found: &Suggestion) -> Vec<(&str, u64, &str)> {
    found.uncovered.iter().map(|one| (one.action.as_str(), one.count, one.reason.as_str())).collect()
}

#[test]
fn what_depends_on_what_is_not_recorded_is_not_suggested_without_it() {
    let conditions = [
        "context has user && context.user in UserGroup::\"login/support\"",
        "context.claims.hasTag(\"team\")",
        "context.actors.contains(Node::\"web\")",
        "context.headers.hasTag(\"x-tenant\")",
        "context.query.hasTag(\"a\")",
        "context.host == \"orders.shop\"",
    ];
    for condition in conditions {
        let orders = node("orders", [for_users(listener(8080, "http"), "OPTIONAL", &[])]);
        let reading = policy(
            "reading",
            &format!(
                "permit(principal == Node::\"web\", action == Action::\"GET\", resource) when {{ {condition} }};"
            ),
        );
        let posts =
            policy("posts", "permit(principal == Node::\"web\", action == Action::\"POST\", resource);");
        let catalog = catalog_of(&[
            mesh("shop"),
            issuer("login", |_| {}),
            node("web", [listener(8000, "http")]),
            orders,
            reading,
            posts,
        ]);
        let mut gets = (*seen("web", "GET", ALLOW, &[("/orders/1", 5)])).clone();
        (gets.others, gets.policies) = (2, vec!["reading".to_owned()]);
        let records = records(vec![Arc::new(gets), seen("web", "POST", ALLOW, &[("/orders/1", 3)])]);
        let found = suggested(&catalog, &records);
        assert_eq!(uncovered(&found), [("GET", 7, "facts_not_recorded")], "{condition}");
        assert_eq!((found.seen, found.covered), (10, 3), "{condition}");
        let Some(hauberk_proto::mesh::v1::resource::Spec::Policy(spec)) = &found.policies[0].spec else {
            panic!("{:?}", found.policies)
        };
        assert!(!spec.cedar.contains("GET") && found.policies.len() == 1, "{}", spec.cedar);
        let used: Vec<_> = found.used.iter().map(|used| (used.policy.as_str(), used.count)).collect();
        assert_eq!(used, [("posts", 3), ("reading", 5)], "it let through what it did");
    }
}

#[test]
fn what_only_differs_in_what_is_not_told_is_told_once_in_the_order_in_which_it_was_found() {
    let reading = "permit(principal is Node, action in Action::\"http\", resource) when { context.host == \"orders\" };";
    let catalog = catalog_of(&[
        mesh("shop"),
        node("web", [listener(8000, "http")]),
        node("orders", [listener(8080, "http")]),
        policy("reading", reading),
    ]);
    let of = |caller: &str, action: &str, reason: &str, count: u64| {
        let mut flow = (*seen(caller, action, ALLOW, &[("/orders/1", count)])).clone();
        reason.clone_into(&mut flow.reason);
        Arc::new(flow)
    };
    let flows = vec![
        of("web", "POST", "permitted", 1),
        of("cart", "GET", "permitted", 2),
        of("web", "POST", "audit_default_allow", 4),
        of("cart", "GET", "audit_default_allow", 8),
    ];
    let found = suggested(&catalog, &records(flows));
    assert_eq!(uncovered(&found), [("POST", 5, "facts_not_recorded"), ("GET", 10, "facts_not_recorded")]);
}

#[test]
fn what_a_listener_asks_of_users_it_goes_on_asking() {
    let orders = node("orders", [for_users(listener(8080, "http"), "REQUIRED", &[])]);
    let resources = [
        mesh("shop"),
        issuer("login", |_| {}),
        node("web", [listener(8000, "http")]),
        orders,
        policy("all", "permit(principal == Node::\"web\", action in Action::\"http\", resource);"),
    ];
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let found = suggested(&catalog_of(&resources), &records);
    assert_eq!((found.seen, found.covered, found.policies.len()), (5, 5, 1), "{:?}", found.uncovered);
}

#[test]
fn what_is_denied_today_is_not_permitted_for_want_of_a_record_and_named_where_a_route_has_it() {
    let orders = routes(listener(8080, "http"), &["/orders/{id}", "/health"]);
    let first = "permit(principal == Node::\"web\", action == Action::\"GET\", resource) when { context.path == \"/orders/1\" };";
    let catalog = catalog_of(&[
        mesh("shop"),
        node("web", [listener(8000, "http")]),
        node("orders", [orders]),
        policy("first", first),
    ]);
    let of = |route: &str, paths: &[(&str, u64)], others: u64| {
        let mut flow = (*seen("web", "GET", ALLOW, paths)).clone();
        (flow.route, flow.others) = (route.to_owned(), others);
        Arc::new(flow)
    };
    let found = suggested(&catalog, &records(vec![of("/health", &[], 4)]));
    assert_eq!((found.policies.len(), found.covered), (0, 0));
    assert_eq!(uncovered(&found), [("GET", 4, "too_many_to_record")]);
    let found = suggested(&catalog, &records(vec![of("/health", &[("/health", 1)], 4)]));
    assert_eq!(
        (found.policies.len(), uncovered(&found)),
        (0, vec![("GET", 1, "denied_now"), ("GET", 4, "too_many_to_record"),])
    );
    // By what it is for today, not by what it was.
    let found = suggested(&catalog, &records(vec![of("/health", &[("/orders/1", 1)], 4)]));
    assert_eq!((found.covered, uncovered(&found)), (1, vec![("GET", 4, "too_many_to_record")]));
    let paths = [("/orders/1", 2), ("/orders/2", 1)];
    let found = suggested(&catalog, &records(vec![of("/orders/{id}", &paths, 0)]));
    assert_eq!(
        found.generalisations,
        [
            "orders:8080 /orders/{id}: every path of the declared route",
            "web GET orders:8080 /orders/{id}: also /orders/2, which no policy permits now",
        ]
    );
}

#[test]
fn numbers_that_an_agent_makes_up_harm_nobody() {
    let catalog = catalog_of(&shop());
    let mut boasting = (*seen("web", "GET", ALLOW, &[("/a", u64::MAX), ("/b", u64::MAX)])).clone();
    boasting.others = u64::MAX;
    let records = records(vec![Arc::new(boasting.clone()), Arc::new(boasting)]);
    let deny = policy("nobody", "forbid(principal, action in Action::\"http\", resource);");
    let found = simulated(&catalog, &[deny], &records);
    assert_eq!((found.denied.decisions, found.looked_at.decisions), (u64::MAX, u64::MAX));
    let found = suggested(&catalog, &records);
    assert_eq!((found.seen, found.policies.len()), (u64::MAX, 1));
}

/// An external service with one port.
fn external(name: &str, hosts: &[&str], protocol: &str) -> hauberk_proto::mesh::v1::Resource {
    use hauberk_proto::mesh::v1::{ExternalPort, ExternalServiceSpec, resource::Spec};
    let ports = vec![ExternalPort { port: Some(443), protocol: protocol.to_owned() }];
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let spec = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
    crate::resources::testing::resource("shop", name, Spec::ExternalService(spec))
}

/// Streams of node orders to an external service.
fn leaving(external: &str, count: u64) -> Arc<agent::FlowSummary> {
    let mut flow = (*seen("orders", "connect", ALLOW, &[("", count)])).clone();
    (flow.external, flow.port, flow.route) = (external.to_owned(), 443, String::new());
    flow.exemplars.iter_mut().for_each(|call| call.facts.iter_mut().for_each(|facts| facts.method.clear()));
    Arc::new(flow)
}

#[test]
fn a_draft_that_reaches_less_outside_is_not_called_harmless() {
    let all = policy("out", "permit(principal is Node, action, resource in Mesh::\"shop\");");
    let both = ["api.example", "files.example"];
    let before = catalog_of(&[
        mesh("shop"),
        node("orders", [listener(8080, "http")]),
        external("stripe", &both, "tcp"),
        all,
    ]);
    let records = records(vec![leaving("stripe", 3)]);
    for (draft, is_known) in [
        (external("stripe", &both[..1], "tcp"), false),
        (external("stripe", &both, "tls"), false),
        (external("stripe", &["api.example", "files.example", "more.example"], "tcp"), true),
    ] {
        let found = simulated(&before, &[draft], &records);
        let undecidable: u64 = found.flips.iter().map(|flip| flip.count).sum();
        assert_eq!(undecidable, if is_known { 0 } else { 3 }, "{found:?}");
        assert!(found.flips.iter().all(|flip| flip.verdicts.is_none()), "{found:?}");
    }
}

#[test]
fn what_leaves_the_mesh_is_suggested_where_it_still_exists() {
    use hauberk_proto::mesh::v1::resource::Spec;
    let all = policy("out", "permit(principal is Node, action, resource in Mesh::\"shop\");");
    let catalog = catalog_of(&[
        mesh("shop"),
        node("orders", [listener(8080, "http")]),
        external("stripe", &["api.example"], "tls"),
        all,
    ]);
    let found = suggested(&catalog, &records(vec![leaving("stripe", 3), leaving("gone", 9)]));
    let [written] = &found.policies[..] else { panic!("{found:?}") };
    let Some(Spec::Policy(spec)) = &written.spec else { panic!("{written:?}") };
    let wanted = "permit(\n  principal == Node::\"orders\",\n  action == Action::\"connect\",\n  resource in External::\"stripe\"\n)\n\
                  when { resource is Port && resource.number == 443 };\n";
    assert_eq!(spec.cedar, wanted);
    assert_eq!((found.seen, found.covered, &found.uncovered[..]), (3, 3, &[][..]));
    let used: Vec<_> = found.used.iter().map(|used| (used.policy.as_str(), used.count)).collect();
    assert_eq!(used, [("out", 3)]);
    assert!(try_admit(&catalog, &found.policies, EVERYTHING).is_ok());
}

#[test]
fn calls_of_a_service_that_another_node_would_take_are_not_called_unchanged() {
    let both = policy("both", "permit(principal == Node::\"web\", action, resource in Mesh::\"shop\");");
    let mut resources = shop();
    resources.extend([node("orders-v2", [listener(8080, "http")]), both]);
    let before = catalog_of(&resources);
    let records = records(vec![
        seen("web", "GET", ALLOW, &[("/orders/1", 5)]),
        seen("cart", "GET", DENY, &[("/orders/1", 2)]),
    ]);
    let told = |draft: &[hauberk_proto::mesh::v1::Resource]| {
        let found = simulated(&before, draft, &records);
        let told = found.flips.iter().map(|flip| (flip.verdicts.is_some(), flip.reason, flip.count));
        told.collect::<Vec<_>>()
    };
    let elsewhere = [(false, "called_elsewhere", 5), (false, "called_elsewhere", 2)];
    assert_eq!(told(&[service("orders", "orders-v2", Some(8080))]), elsewhere);
    // What calls the service finds no such port of it any longer.
    let narrowed = [service("orders", "orders", Some(9090))];
    assert_eq!(told(&narrowed), [(false, "no_longer_called", 5)]);
    assert_eq!(told(&[service("more", "orders-v2", None)]), []);
    // The node is gone, and whoever calls the service comes to the other one.
    let mut after = try_admit(&before, &[service("orders", "orders-v2", None)], EVERYTHING).unwrap().after;
    let (mesh, name) = (Name::parse("shop").unwrap(), Name::parse("orders").unwrap());
    after.remove(&crate::resources::ResourceKey { kind: Kind::VirtualNode, mesh, name });
    let found = simulate(&trust_domain(), &before, &after, &records).unwrap();
    assert_eq!((found.undecidable.decisions, found.denied.decisions), (7, 0));
}

#[test]
fn callers_who_would_be_somebody_else_are_not_called_unchanged() {
    use hauberk_proto::mesh::v1::{EnrollmentSpec, WorkloadEnrollment, resource::Spec};
    let enrolled = |path: &str, selector: &str| {
        let workload = WorkloadEnrollment {
            path: path.to_owned(),
            selectors: vec![selector.to_owned()],
            ..WorkloadEnrollment::default()
        };
        let parent = Some(crate::resources::testing::parent("web"));
        let spec = EnrollmentSpec { parent, workload: Some(workload), attest: None };
        crate::resources::testing::resource("shop", "batch", Spec::Enrollment(spec))
    };
    let mut resources = shop();
    resources.push(policy(
        "workloads",
        "permit(principal is Workload, action == Action::\"GET\", resource in Service::\"orders\");",
    ));
    resources.push(enrolled("jobs/batch", "unix:uid:1000"));
    let before = catalog_of(&resources);
    let mut flow = (*seen("web", "GET", ALLOW, &[("/orders/1", 4)])).clone();
    flow.caller = "spiffe://shop.example/workload/jobs/batch".to_owned();
    let records = records(vec![Arc::new(flow), seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    for (draft, count) in [
        (enrolled("jobs/batch", "unix:uid:1000"), 0),
        (enrolled("jobs/renamed", "unix:uid:1000"), 4),
        (enrolled("jobs/batch", "unix:uid:1001"), 4),
    ] {
        let found = simulated(&before, &[draft], &records);
        let told: Vec<_> = found.flips.iter().map(|flip| (flip.reason, flip.count)).collect();
        let wanted: &[_] = if count == 0 { &[] } else { &[("caller_changes", count)] };
        assert_eq!(told, wanted);
    }
    let mut after = before.clone();
    let (mesh, name) = (Name::parse("shop").unwrap(), Name::parse("web").unwrap());
    after.remove(&crate::resources::ResourceKey { kind: Kind::VirtualNode, mesh, name });
    let found = simulate(&trust_domain(), &before, &after, &records).unwrap();
    assert_eq!(found.undecidable.decisions, 5, "{found:?}");
}

#[test]
fn a_listener_that_takes_less_is_not_called_harmless() {
    let before = catalog_of(&shop());
    let records = records(vec![seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let told = |before: &Catalog, protocol: &str, obs_text: Option<&str>| {
        let mut own = listener(8080, protocol);
        own.obs_text = obs_text.map(str::to_owned);
        let draft = node("orders", [own, listener(9090, "http")]);
        let after = try_admit(before, &[draft], EVERYTHING).unwrap().after;
        let found = simulate(&trust_domain(), before, &after, &records).unwrap();
        let told = found.flips.iter().map(|flip| (flip.verdicts.map(|(_, draft)| draft), flip.reason));
        (told.collect::<Vec<_>>(), after)
    };
    let (unchanged, forwards) = told(&before, "http", Some("FORWARD"));
    assert_eq!(unchanged, []);
    let unknown = [(None, "listener_changes")];
    assert_eq!(told(&forwards, "http", None).0, unknown, "what held such bytes would be refused");
    let (found, http2) = told(&before, "http2", None);
    assert_eq!(found, unknown, "upgrades and HTTP/1.1 would be refused");
    assert_eq!(told(&http2, "http", None).0, []);
    assert_eq!(told(&before, "grpc", None).0, [(Some(DENY), "wrong_protocol")]);
    assert_eq!(told(&before, "tcp", None).0, [(Some(DENY), "wrong_protocol")]);
}

#[test]
fn labels_roles_and_data_classes_that_conditions_ask_for_are_named_where_they_are_left_out() {
    use crate::resources::testing::{classified, data_class, labelled, role};
    let condition = "principal.hasTag(\"team\") && principal.getTag(\"team\") == \"checkout\" && principal in Role::\"clerks\" \
                     && resource in DataClass::\"cards\"";
    let orders = classified(listener(8080, "http"), "/orders/{id}", &["cards"]);
    let of = |scope: &str, condition: &str| {
        let catalog = catalog_of(&[
            mesh("shop"),
            labelled(node("web", [listener(8000, "http")]), &[("team", "checkout")]),
            node("orders", [orders.clone()]),
            data_class("cards", &[]),
            role("clerks", &["web"], &[], &[]),
            policy("reads", &format!("permit({scope}, action == Action::\"GET\", resource){condition};")),
        ]);
        let mut flow = (*seen("web", "GET", ALLOW, &[("/orders/1", 5)])).clone();
        flow.route = "/orders/{id}".to_owned();
        let found = suggested(&catalog, &records(vec![Arc::new(flow)]));
        assert_eq!((found.seen, found.covered), (5, 5));
        found.generalisations
    };
    let of_route = "orders:8080 /orders/{id}: every path of the declared route";
    assert_eq!(
        of("principal is Node", &format!(" when {{ {condition} }}")),
        [
            of_route,
            "web GET orders:8080 /orders/{id}: whatever the data class cards, the label team, the role clerks, which policies ask for now"
        ]
    );
    // Who and what a permit is for, the suggestion says more narrowly.
    assert_eq!(of("principal in Role::\"clerks\"", ""), [of_route]);
}

#[test]
fn whose_trust_domain_is_followed_no_longer_is_surely_denied() {
    use hauberk_identity::{Serial, UnixMillis, Validity};
    use hauberk_proto::mesh::v1::{FederatedTrustDomainSpec, Resource, resource::Spec};
    use hauberk_tls::jwt::JwtBundle;
    use hauberk_tls::{RootAuthority, SpiffeBundle, TrustBundle, bundle_document};

    use crate::registry::{Stored, Version};
    use crate::resources::testing::{partner, resource};
    use crate::resources::{FetchedBundle, ResourceKey};

    let domain = TrustDomain::parse("partner.example").unwrap();
    let (partner_name, shop_name) = (Name::parse("partner.example").unwrap(), Name::parse("shop").unwrap());
    let key = ResourceKey::federated_trust_domain(shop_name, partner_name.clone());
    let bundle = |serial: u8| {
        let validity = Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap();
        let root = RootAuthority::create(&domain, validity, Serial::from_random([serial; 16])).unwrap();
        let roots = TrustBundle::new(domain.clone(), [root.certificate().clone()]).unwrap();
        bundle_document(&roots, &JwtBundle::new(domain.clone(), []).unwrap(), Some(1), None)
    };
    let followed = |change: &dyn Fn(&mut FederatedTrustDomainSpec)| -> Resource {
        let Some(Spec::FederatedTrustDomain(mut spec)) = partner().spec else { panic!("it is one") };
        change(&mut spec);
        resource("shop", "partner.example", Spec::FederatedTrustDomain(spec))
    };
    let with_bundle = |text: String| followed(&|spec| spec.trust_domain_bundle.clone_from(&text));
    let elsewhere =
        followed(&|spec| spec.bundle_endpoint_url = "https://elsewhere.partner.example/".to_owned());
    let mut resources = shop();
    resources.push(policy(
        "members",
        "permit(principal is Workload, action == Action::\"GET\", resource in Service::\"orders\");",
    ));
    let catalog =
        |followed: &Resource| catalog_of(&[&resources[..], std::slice::from_ref(followed)].concat());
    let mut flow = (*seen("web", "GET", ALLOW, &[("/orders/1", 4)])).clone();
    flow.caller = "spiffe://partner.example/billing".to_owned();
    let records = records(vec![Arc::new(flow), seen("web", "GET", ALLOW, &[("/orders/1", 5)])]);
    let told = |before: &Catalog, after: &Catalog| {
        let found = simulate(&trust_domain(), before, after, &records).unwrap();
        let reasons: Vec<_> = found.flips.iter().map(|flip| flip.reason).collect();
        ((found.denied.decisions, found.undecidable.decisions, found.allowed.decisions), reasons)
    };
    let (denied, unknown) = (vec!["trust_domain_not_federated"], vec!["bundle_changes"]);

    let own = with_bundle(bundle(1));
    let before = catalog(&own);
    let mut without = before.clone();
    without.remove(&key);
    assert_eq!(told(&before, &without), ((4, 0, 0), denied));
    let admitted =
        |draft: &Resource| try_admit(&before, std::slice::from_ref(draft), EVERYTHING).unwrap().after;
    assert_eq!(told(&before, &admitted(&own)), ((0, 0, 0), vec![]));
    assert_eq!(told(&before, &admitted(&with_bundle(bundle(2)))), ((0, 4, 0), unknown.clone()));
    // One that comes lets in whom it lets in.
    assert_eq!(told(&without, &before), ((0, 4, 0), unknown.clone()));

    // Of whom nobody follows nothing changes, whatever policies do.
    let members = Name::parse("members").unwrap();
    let members = ResourceKey { kind: Kind::Policy, mesh: key.mesh.clone(), name: members };
    let mut neither = without.clone();
    neither.remove(&members);
    assert_eq!(told(&without, &neither), ((0, 0, 0), vec![]));
    assert_eq!(told(&neither, &without), ((0, 0, 0), vec![]));
    // Nor where one that comes permits nothing.
    let mut forbidding = before.clone();
    forbidding.remove(&members);
    assert_eq!(told(&without, &forbidding), ((0, 0, 0), vec![]));

    // What was fetched counts no longer once the endpoint is another: a bundle from there is still to come.
    let mut before = catalog(&partner());
    let entry = before.mesh("shop").unwrap().of_kind(Kind::FederatedTrustDomain)[&partner_name].clone();
    let fetched = SpiffeBundle::parse(&domain, bundle(3).as_bytes()).unwrap();
    let fetched = FetchedBundle::new(&entry, None, fetched, UnixMillis(NOW)).unwrap();
    let stored = Stored { version: Version(1), value: fetched.to_bytes(&key).unwrap() };
    before.write_fetched(&FetchedBundle::store_key(&key), Some(&stored));
    let after = try_admit(&before, std::slice::from_ref(&elsewhere), EVERYTHING).unwrap().after;
    assert_eq!(told(&before, &after), ((0, 4, 0), unknown.clone()));

    // It may let them in also where nothing was fetched yet, and there was none before.
    let awaited = catalog(&partner());
    assert_eq!(told(&without, &awaited), ((0, 4, 0), unknown.clone()));
    assert_eq!(told(&awaited, &catalog(&elsewhere)), ((0, 4, 0), unknown));
    assert_eq!(told(&awaited, &catalog(&partner())), ((0, 0, 0), vec![]));
    assert_eq!(told(&awaited, &without), ((4, 0, 0), vec!["trust_domain_not_federated"]));
    let mut forbidding = awaited.clone();
    forbidding.remove(&members);
    assert_eq!(told(&neither, &forbidding), ((0, 0, 0), vec![]));
    assert_eq!(told(&forbidding, &neither), ((0, 0, 0), vec![]));
}
