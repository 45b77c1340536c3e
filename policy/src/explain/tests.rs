use super::*;
use crate::CanonicalPath;
use crate::grant::Verb;
use crate::path::EscapedSlashes;
use crate::testing::{engine, engine_for, foreign, orders, peer, question, request};
use crate::{Gathered, OnBehalfOf};

fn explain(engine: &Engine, caller: &Caller, port: u16, method: &str, path: &str) -> Explanation {
    let path = CanonicalPath::parse(method, path).unwrap();
    let attempt = request(method, &path, false);
    engine.explain(&question(caller, port, attempt))
}

const WEB_READS: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when \
                         { context.path like \"/orders/*\" };";

fn mismatches(explanation: &Explanation) -> Vec<String> {
    explanation.nearest().unwrap().mismatches.iter().map(ToString::to_string).collect()
}

#[test]
fn names_the_field_that_differed() {
    let engine = engine(&[WEB_READS]);
    let found = explain(&engine, &peer("intruder"), 8080, "GET", "/orders/1");
    assert_eq!(mismatches(&found), ["principal: expected Node \"web\", was Node \"intruder\""]);
    assert_eq!(found.caller, "spiffe://shop.example/mesh/shop/node/intruder");
    assert_eq!(found.attempt, "GET /orders/1");
    let found = explain(&engine, &peer("web"), 8080, "POST", "/orders/1");
    assert_eq!(mismatches(&found), ["action: expected GET, was POST"]);
    let found = explain(&engine, &peer("web"), 8080, "GET", "/admin");
    assert_eq!(mismatches(&found), ["context.path: expected like \"/orders/*\", was \"/admin\""]);
    let found = explain(&engine, &peer("web"), 8080, "GET", "/orders/1");
    assert_eq!(found.decision.reason, Reason::Permitted);
    assert!(mismatches(&found).is_empty() && found.suggestion.is_none());
}

#[test]
fn names_the_label_that_differed() {
    let permit = "permit(principal is Node, action, resource) when { principal.hasTag(\"team\") && principal.getTag(\"team\") == \
                  \"checkout\" };";
    let engine = engine(&[permit]);
    assert_eq!(explain(&engine, &peer("web"), 8080, "GET", "/").decision.reason, Reason::Permitted);
    let found = explain(&engine, &peer("cart"), 8080, "GET", "/");
    assert_eq!(mismatches(&found), ["principal.getTag(\"team\"): expected \"checkout\", was \"stock\""]);
    let found = explain(&engine, &peer("intruder"), 8080, "GET", "/");
    assert_eq!(
        mismatches(&found),
        [
            "principal: expected hasTag(\"team\"), was absent",
            "principal.getTag(\"team\"): expected \"checkout\", was absent"
        ]
    );
}

#[test]
fn splits_conditions() {
    let engine = engine(&[
        "permit(principal is Node, action in Action::\"http\", resource) when { context.method == \
                           \"GET\" && (context.path == \"/a\" || context.path == \"/b\") } unless { context.path like \"*/x\" };",
    ]);
    let found = explain(&engine, &peer("web"), 8080, "PUT", "/c/x");
    assert_eq!(
        mismatches(&found),
        [
            "context.method: expected \"GET\", was \"PUT\"",
            "(context.path == \"/a\") || (context.path == \"/b\"): expected true, was false",
            "!(context.path like \"*/x\"): expected true, was false"
        ]
    );
}

#[test]
fn the_nearest_comes_first() {
    let far =
        "permit(principal == Node::\"cart\", action == Action::\"PUT\", resource in Service::\"orders\");";
    let engine = engine(&[far, WEB_READS]);
    let found = explain(&engine, &peer("intruder"), 8080, "GET", "/orders/1");
    assert_eq!(&*found.nearest().unwrap().name, "p1");
    assert_eq!(found.policies.len(), 2);
    let forbid = "forbid(principal == Node::\"intruder\", action == Action::\"GET\", resource in Service::\"orders\") \
                  when { context.path == \"/x\" };";
    let engine = crate::testing::engine(&[forbid, far, WEB_READS]);
    let names = |path| {
        let found = explain(&engine, &peer("intruder"), 8080, "GET", path);
        found.policies.iter().map(|note| note.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("/orders/1"), "p2 p1 p0", "what lacks is a permit");
    assert_eq!(
        names("/x"),
        "p0 p2 p1",
        "what decided comes first, and two parts of a scope are further than one"
    );
}

#[test]
fn a_forbid_is_what_decided_and_no_grant_lifts_it() {
    let engine = engine(&[
        "permit(principal is Node, action, resource);",
        "forbid(principal == Node::\"web\", action, resource);",
    ]);
    let found = explain(&engine, &peer("web"), 8080, "GET", "/");
    assert_eq!(&*found.nearest().unwrap().name, "p1");
    assert_eq!(found.suggestion, None);
}

#[test]
fn suggests_exactly_what_was_missing() {
    let narrow = engine(&[]);
    let cases: [(Caller, u16, &str, &str, &str); 9] = [
        (
            peer("web"),
            8080,
            "GET",
            "/orders/1",
            "hauberk allow web orders --methods GET --path /orders/1 --port 8080",
        ),
        (peer("web"), 9000, "PUT", "/a*b", "hauberk allow web orders-admin --methods PUT --path '/a\\*b'"),
        (
            peer("web"),
            50051,
            "POST",
            "/shop.Orders/Get",
            "hauberk allow web orders --rpc shop.Orders/Get --port 50051",
        ),
        (peer("web"), 8081, "GET", "/", "hauberk allow web orders --methods GET --path / --port 8081"),
        (peer("web"), 9000, "PROPFIND", "/", "hauberk allow web orders-admin --methods PROPFIND --path /"),
        (peer("web"), 9000, "OPTIONS", "*", "hauberk allow web orders-admin --methods OPTIONS --path '\\*'"),
        (peer("web"), 9000, "-X", "/", "hauberk allow web orders-admin --methods=-X --path /"),
        (Caller::Anonymous, 9000, "GET", "/", "hauberk allow @anonymous orders-admin --methods GET --path /"),
        (
            foreign("spiffe://partner.example/app"),
            9000,
            "GET",
            "/",
            "hauberk allow spiffe://partner.example/app orders-admin --methods GET --path /",
        ),
    ];
    for (caller, port, method, path, command) in cases {
        let found = explain(&narrow, &caller, port, method, path);
        assert_eq!(found.command().unwrap(), format!("{command} --mesh shop"));
        let grant = found.suggestion.unwrap();
        assert_eq!(grant.command(Verb::Allow), command);
        if let Access::Http { path: Some(path), .. } = &grant.access {
            assert_eq!(PathPattern::parse(&path.to_string()).as_ref(), Ok(path), "{command}");
        }
        let opened = engine(&[&grant.to_cedar(Verb::Allow).unwrap()]);
        assert!(explain(&opened, &caller, port, method, path).decision.is_allowed(), "{command}");
        assert!(!explain(&opened, &peer("intruder"), port, method, path).decision.is_allowed());
        assert!(!explain(&opened, &caller, port, "DELETE", "/else").decision.is_allowed());
    }
    let web = peer("web");
    let question = question(&web, 6379, Attempt::Stream);
    let grant = narrow.explain(&question).suggestion.unwrap();
    assert_eq!(grant.command(Verb::Allow), "hauberk allow web cache");
    assert!(engine(&[&grant.to_cedar(Verb::Allow).unwrap()]).decide(&question).is_allowed());
}

#[test]
fn no_command_is_suggested_that_would_let_another_method_through() {
    let narrow = engine(&[]);
    for (method, is_suggested) in [("GET", true), ("get", false), ("Get", false), ("PROPFIND", true)] {
        let found = explain(&narrow, &peer("web"), 9000, method, "/");
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched, "{method}");
        assert_eq!(found.command().is_some(), is_suggested, "{method}");
    }
}

#[test]
fn no_command_is_suggested_that_would_let_a_whole_grpc_service_through() {
    let narrow = engine(&[]);
    for (path, is_suggested) in
        [("/shop.Orders/Put", true), ("/shop.Orders/*", false), ("/*/Put", false), ("/shop.Orders/**", false)]
    {
        let found = explain(&narrow, &peer("web"), 50051, "POST", path);
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched, "{path}");
        assert_eq!(found.command().is_some(), is_suggested, "{path}");
    }
}

#[test]
fn an_upgrade_is_explained_by_the_half_that_decided() {
    let permit =
        |action: &str| format!("permit(principal is Node, action == Action::\"{action}\", resource);");
    let path = CanonicalPath::parse("GET", "/ws").unwrap();
    let attempt = request("GET", &path, true);
    let web = peer("web");
    let question = question(&web, 9000, attempt);
    let found = engine(&[&permit("upgrade")]).explain(&question);
    assert_eq!(mismatches(&found), ["action: expected upgrade, was GET"]);
    let found = engine(&[&permit("GET")]).explain(&question);
    assert_eq!(mismatches(&found), ["action: expected GET, was upgrade"]);
    let grant = engine(&[]).explain(&question).suggestion.unwrap();
    assert_eq!(grant.command(Verb::Allow), "hauberk allow web orders-admin --methods GET,upgrade --path /ws");
    assert!(engine(&[&grant.to_cedar(Verb::Allow).unwrap()]).decide(&question).is_allowed());
}

#[test]
fn failures_of_evaluation_are_told() {
    let engine = engine(&[
        "permit(principal is Node, action, resource);",
        "forbid(principal, action == Action::\"connect\", resource) when { resource.number * 9223372036854775807 > 0 };",
    ]);
    let found = engine.explain(&question(&peer("web"), 6379, Attempt::Stream));
    assert_eq!(found.decision.reason, Reason::EvaluationError);
    assert!(found.nearest().unwrap().error.as_ref().unwrap().contains("overflow"), "{found:?}");
}

#[test]
fn questions_that_no_policy_was_asked_are_explained_too() {
    let engine = engine(&[WEB_READS]);
    let found = explain(&engine, &peer("web"), 1, "GET", "/");
    assert_eq!(
        (found.decision.reason, found.policies.len(), found.suggestion),
        (Reason::NoSuchPort, 0, None)
    );
    let admin = foreign("spiffe://shop.example/admin/alice");
    assert_eq!(explain(&engine, &admin, 8080, "GET", "/").decision.reason, Reason::NotAPrincipal);
}

#[test]
fn names_the_fact_that_differed() {
    let orders = |condition: &str| {
        format!("permit(principal is Node, action == Action::\"GET\", resource) when {{ {condition} }};")
    };
    for (condition, expected) in [
        (
            "context.peer.address.isInRange(ip(\"10.9.0.0/16\"))",
            "context.peer.address: expected isInRange(ip(\"10.9.0.0/16\")), was ip(\"10.1.2.3\")",
        ),
        (
            "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
            "context.peer.tlsGroup: expected \"X25519\", was \"X25519MLKEM768\"",
        ),
        (
            "context.peer has certificateAge && context.peer.certificateAge < 600",
            "context.peer.certificateAge: expected < 600, was 700",
        ),
        (
            "context.time < datetime(\"2026-01-01\")",
            "context.time: expected < datetime(\"2026-01-01\"), was datetime(\"2026-03-02T10:00:00.000Z\")",
        ),
        ("context.host == \"a\"", "context.host: expected \"a\", was \"orders.shop\""),
        ("context.headers.hasTag(\"x-none\")", "context.headers: expected hasTag(\"x-none\"), was absent"),
        (
            "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")",
            "context.headers.getTag(\"x-tenant\"): expected contains(\"blue\"), was [\"red\"]",
        ),
        (
            "context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"2\")",
            "context.query.getTag(\"id\"): expected contains(\"2\"), was [\"1\"]",
        ),
        (
            "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"8\"",
            "context.params.getTag(\"id\"): expected \"8\", was \"7\"",
        ),
    ] {
        let engine = engine(&[&orders(condition)]);
        let path = CanonicalPath::parse("GET", "/orders/7?id=1").unwrap();
        let wanted = engine.wanted(8080).cloned().unwrap_or_default();
        let gathered = wanted.gather("orders.shop", [("x-tenant", &b"red"[..])]);
        let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: &gathered };
        assert_eq!(mismatches(&engine.explain(&question(&peer("web"), 8080, attempt))), [expected]);
    }
}

#[test]
fn what_could_not_be_read_is_told() {
    let engine = engine(&[
        "forbid(principal, action == Action::\"GET\", resource) when { context.query.hasTag(\"a\") };",
    ]);
    let found = explain(&engine, &peer("web"), 8080, "GET", "/?a=%zz");
    assert_eq!(found.decision.reason, Reason::UnreadableQuery);
    assert_eq!(found.nearest().unwrap().error.as_deref(), Some("unreadable_query"));
}

#[test]
fn what_a_connection_lacks_is_told_as_absent() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource) when { context.peer has tlsGroup && \
         context.peer.tlsGroup == \"X25519\" };",
    ]);
    let path = CanonicalPath::parse("GET", "/").unwrap();
    let plain = crate::Peer::new(Some("10.1.2.3".parse().unwrap()), None);
    let caller = peer("web");
    let asked = Question { peer: &plain, ..question(&caller, 8080, request("GET", &path, false)) };
    let found = engine.explain(&asked);
    assert_eq!(found.decision.reason, Reason::NoPolicyMatched);
    assert_eq!(found.policies[0].error, None);
    assert_eq!(
        mismatches(&found),
        [
            "context.peer: expected has tlsGroup, was absent",
            "context.peer.tlsGroup: expected \"X25519\", was absent"
        ]
    );
}

#[test]
fn of_two_readings_the_one_that_is_denied_is_explained() {
    let mut scope = orders();
    scope.ports[0].escaped_slashes = EscapedSlashes::Keep;
    let route =
        "permit(principal == Node::\"web\", action, resource == Route::\"orders:8080 /orders/{id}\");";
    let engine = engine_for(scope, &[(Mode::Enforce, route)]);
    let path = CanonicalPath::parse_with("GET", "/orders/1%2Fcard", EscapedSlashes::Keep).unwrap();
    let (caller, attempt) = (peer("web"), request("GET", &path, false));
    let found = engine.explain(&question(&caller, 8080, attempt));
    assert_eq!(found.decision, engine.decide(&question(&caller, 8080, attempt)));
    assert_eq!(found.decision.resource.as_deref(), Some("orders:8080 /orders/*"));
    assert_eq!(
        mismatches(&found),
        ["resource: expected Route \"orders:8080 /orders/{id}\", was Route \"orders:8080 /orders/*\""]
    );
    assert_eq!(found.suggestion, None, "what lets one reading through would open nothing");
}

#[test]
fn nothing_is_suggested_that_would_let_through_for_every_user_what_is_for_some() {
    let permit = |principal: &str, action: &str, group: &str| {
        format!(
            "permit(principal == Node::\"{principal}\", action == Action::\"{action}\", resource in Service::\"orders\") when {{ \
             context has user && context.user in UserGroup::\"login/{group}\" }};"
        )
    };
    let engine = engine(&[
        &permit("web", "GET", "support"),
        &permit("web", "GET", "sales"),
        &permit("cart", "GET", "support"),
        &permit("stock", "GET", "support").replace("permit", "forbid"),
        "permit(principal == Node::\"other\", action == Action::\"GET\", resource in Service::\"orders\") when { context.path == \"/x\" };",
    ]);
    let of = |caller: &str, port: u16, method: &str, path: &str| {
        let (caller, path) = (peer(caller), CanonicalPath::parse(method, path).unwrap());
        let gathered = Gathered::default().made_for(OnBehalfOf::Nobody);
        let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
        let found = engine.explain(&question(&caller, port, attempt));
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched);
        (found.suggestion.is_some(), found.for_users.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let both = ["p0", "p1"].map(str::to_owned).to_vec();
    assert_eq!(of("web", 8080, "GET", "/orders/1"), (false, both));
    assert_eq!(of("web", 8080, "POST", "/orders/1"), (false, Vec::new()), "a user would not do");
    assert_eq!(of("stock", 8080, "POST", "/orders/1"), (true, Vec::new()), "a forbid for some lifts nothing");
    assert_eq!(of("cart", 8080, "GET", "/orders/1"), (false, vec!["p2".to_owned()]));
    assert_eq!(of("other", 8080, "GET", "/orders/1"), (true, Vec::new()), "no user is asked for of it");
    assert_eq!(of("web", 9000, "GET", "/orders/1"), (true, Vec::new()), "nor there");
}

#[test]
fn nor_what_a_permit_for_users_leaves_out() {
    let staff = "context has user && context.user in UserGroup::\"login/staff\"";
    let permit = |principal: &str, action: &str, condition: &str| {
        format!(
            "permit(principal == Node::\"{principal}\", action in Action::\"{action}\", resource in Service::\"orders\") when {{ \
             {condition} }};"
        )
    };
    let is_suggested = |mode: Mode, policies: &[&str], method: &str| {
        let path = CanonicalPath::parse(method, "/orders/1").unwrap();
        let gathered = Gathered::default().made_for(OnBehalfOf::Nobody);
        let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
        let policies: Vec<_> = policies.iter().map(|policy| (mode, *policy)).collect();
        let found = engine_for(orders(), &policies).explain(&question(&peer("web"), 8080, attempt));
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched, "{policies:?}");
        assert!(found.for_users.is_empty() && found.conditional.is_empty(), "{policies:?}");
        found.suggestion.is_some()
    };
    let but_deletion = permit("web", "http", &format!("{staff} && context.method != \"DELETE\""));
    let elsewhere = permit("web", "http", &format!("context.path == \"/else\" && {staff}"));
    let posts = permit("web", "POST", staff);
    for permit in [&but_deletion, &elsewhere, &posts] {
        assert!(!is_suggested(Mode::Enforce, &[permit], "DELETE"), "{permit}");
        assert!(!is_suggested(Mode::Enforce, &[permit, WEB_READS], "DELETE"), "{permit}");
        let of_another = permit.replace("web", "cart");
        assert!(is_suggested(Mode::Enforce, &[&of_another], "DELETE"), "{of_another}");
        assert!(is_suggested(Mode::Audit, &[permit], "DELETE"), "it lets nobody through: {permit}");
    }
    assert!(!is_suggested(Mode::Enforce, &[&posts], "GET"));
    assert!(is_suggested(Mode::Enforce, &[WEB_READS], "DELETE"), "no user is asked for");
}

#[test]
fn what_lacks_is_told_of_permits_that_could_let_it_through() {
    let tenant = "permit(principal == Node::\"web\", action == Action::\"DELETE\", resource in Service::\"orders\") when { \
                  context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\") };";
    let support = "permit(principal == Node::\"web\", action == Action::\"POST\", resource in Service::\"orders\") when { \
                   context has user && context.user in UserGroup::\"login/support\" };";
    let wrong_action =
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");";
    let for_blue_users = support
        .replace("POST", "PUT")
        .replace("context has user", "context.headers.hasTag(\"x-tenant\") && context has user");
    let engine = engine(&[wrong_action, support, tenant, &for_blue_users]);
    let user = |groups: &[&str]| {
        let claims = serde_json::json!({"sub": "alice", "groups": groups});
        let (issuer, url) = (Name::parse("login").unwrap(), "https://login.example".into());
        let mapping = crate::ClaimsMapping::default();
        let user = mapping.user(claims.as_object().unwrap(), engine.claims_read(), &issuer, &url).unwrap();
        OnBehalfOf::User(Arc::new(crate::Origin { user, actors: Vec::new() }))
    };
    let of = |method: &str, headers: &[(&str, &[u8])], made_for: OnBehalfOf| {
        let path = CanonicalPath::parse(method, "/orders/1").unwrap();
        let wanted = engine.wanted(8080).cloned().unwrap_or_default();
        let gathered = wanted.gather("orders.shop", headers.iter().copied()).made_for(made_for);
        let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
        let found = engine.explain(&question(&peer("web"), 8080, attempt));
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched);
        let names = |names: &[Arc<str>]| names.join(",");
        let nearest = found.nearest().unwrap().name.to_string();
        (nearest, names(&found.for_users), names(&found.conditional), found.suggestion.is_some())
    };
    let told = |nearest: &str, for_users: &str, conditional: &str, is_suggested| {
        (nearest.to_owned(), for_users.to_owned(), conditional.to_owned(), is_suggested)
    };
    let red = [("x-tenant", &b"red"[..])];
    let nobody = OnBehalfOf::Nobody;
    assert_eq!(of("DELETE", &red, nobody.clone()), told("p2", "", "p2", false), "a header lacks");
    assert_eq!(of("DELETE", &[], nobody.clone()), told("p2", "", "p2", false), "no wrong action is nearer");
    assert_eq!(of("POST", &red, nobody.clone()), told("p1", "p1", "", false));
    assert_eq!(of("POST", &red, user(&["staff"])), told("p1", "", "p1", false), "the group is what is wrong");
    assert_eq!(of("PUT", &red, nobody.clone()), told("p3", "p3", "", false));
    assert_eq!(of("PUT", &[], nobody), told("p3", "", "p3", false), "a user alone would not do");
}

#[test]
fn a_permit_for_other_paths_does_not_lack_its_condition() {
    let blue =
        "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")";
    let permit = |conditions: &str| {
        format!("permit(principal == Node::\"web\", action == Action::\"GET\", resource) {conditions};")
    };
    let at_orders = "context.path like \"/orders/*\"";
    let engine = engine(&[
        &permit(&format!("when {{ {at_orders} && {blue} }}")),
        &permit(&format!("when {{ {blue} }} unless {{ context.path like \"/admin*\" }}")),
        &permit(&format!("when {{ context.path == \"/never\" || {blue} }}")),
        &permit(&format!("when {{ {at_orders} && context has user }}")),
    ]);
    let of = |path: &str, tenant: &[u8]| {
        let path = CanonicalPath::parse("GET", path).unwrap();
        let wanted = engine.wanted(8080).cloned().unwrap_or_default();
        let gathered = wanted.gather("orders.shop", [("x-tenant", tenant)]).made_for(OnBehalfOf::Nobody);
        let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: &gathered };
        let found = engine.explain(&question(&peer("web"), 8080, attempt));
        assert_eq!(found.decision.reason, Reason::NoPolicyMatched);
        (found.conditional.join(","), found.for_users.join(","), found.suggestion.is_some())
    };
    let told = |conditional: &str, for_users: &str, is_suggested| {
        (conditional.to_owned(), for_users.to_owned(), is_suggested)
    };
    assert_eq!(of("/orders/1", b"red"), told("p0,p1,p2", "p3", false));
    // Whatever its tenant is: those of `/orders/*` and beside `/admin` permit nothing there, and ask no user of it.
    assert_eq!(of("/admin", b"red"), told("p2", "", false));
}
