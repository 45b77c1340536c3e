//! For whom requests are made.

use serde_json::json;

use super::*;
use crate::circumstances::Gathered;
use crate::decision::Reason;
use crate::explain::Mismatch;
use crate::scope::UserTokens;
use crate::testing::{node, parse};
use crate::user::{ClaimsMapping, OnBehalfOf, Origin};

/// A request for the user of `login` whose token claims this.
fn made_for(engine: &Engine, claims: &serde_json::Value, actors: &[&str]) -> OnBehalfOf {
    let user = ClaimsMapping::default()
        .user(
            claims.as_object().unwrap(),
            engine.claims_read(),
            &name("login"),
            &"https://login.example".into(),
        )
        .unwrap();
    let actors = actors.iter().map(|actor| node(actor)).collect();
    OnBehalfOf::User(Arc::new(Origin { user, actors }))
}

fn decide_for(memo: &mut CallerMemo, port: u16, target: &str, made_for: OnBehalfOf) -> Decision {
    let method = if port == 50051 { "POST" } else { "GET" };
    let path = CanonicalPath::parse(method, target).unwrap();
    let gathered = Gathered::default().made_for(made_for);
    let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
    Arc::unwrap_or_clone(memo.decide(port, attempt, NOW))
}

#[test]
fn what_reads_the_user_is_not_remembered_for_another() {
    let rule = |text: &str| {
        engine(&[&format!("permit(principal is Node, action, resource is Route) when {{ {text} }};")])
    };
    for (condition, alice, bob) in [
        (
            "context has user && context.user == User::\"login/alice\"",
            json!({"sub": "alice"}),
            json!({"sub": "bob"}),
        ),
        (
            "context has user && context.user in UserGroup::\"login/support\"",
            json!({"sub": "x", "groups": ["support"]}),
            json!({"sub": "x", "groups": ["supporters"]}),
        ),
        (
            "context has user && context.user.roles.contains(\"clerk\") && context.user.issuer == \"https://login.example\"",
            json!({"sub": "x", "roles": ["clerk"]}),
            json!({"sub": "x", "roles": []}),
        ),
        (
            "context.claims.hasTag(\"realm.team\") && context.claims.getTag(\"realm.team\") == [\"blue\"]",
            json!({"sub": "x", "realm": {"team": "blue"}}),
            json!({"sub": "x", "realm": {"team": ["blue", "red"]}}),
        ),
    ] {
        let engine = rule(condition);
        let mut memo = engine.caller(&peer("web"), &HERE);
        for port in [8080, 50051] {
            let target = if port == 50051 { "/shop.Orders/Get" } else { "/orders/1" };
            for _ in 0..2 {
                let mut ask = |behalf| decide_for(&mut memo, port, target, behalf);
                assert!(ask(made_for(&engine, &alice, &[])).is_allowed(), "{condition}");
                assert!(!ask(made_for(&engine, &bob, &[])).is_allowed(), "{condition}");
                assert_eq!(ask(OnBehalfOf::Nobody).reason, Reason::NoPolicyMatched, "{condition}");
                let unknown = ask(OnBehalfOf::NotLookedAt);
                assert_eq!(unknown.reason, Reason::FactsMissing, "{condition}");
            }
        }
        assert!(engine.wanted(8080).unwrap().user());
    }
    assert_eq!(engine(&[ANY_NODE]).wanted(8080).map(|wanted| wanted.user()), None);
}

#[test]
fn who_passed_the_user_on_is_one_rule() {
    let engine = engine(&[
        "permit(principal == Node::\"orders\", action in Action::\"write\", resource in Service::\"orders\") \
        when { context has user && context.user in UserGroup::\"login/support\" && context.actors == [Node::\"web\"] };",
    ]);
    let support = json!({"sub": "alice", "groups": ["support"]});
    let ask = |actors: &[&str]| {
        let path = CanonicalPath::parse("POST", "/orders/1").unwrap();
        let gathered = Gathered::default().made_for(made_for(&engine, &support, actors));
        let attempt = Attempt::Request { method: "POST", path: &path, upgrade: false, gathered: &gathered };
        engine.caller(&peer("orders"), &HERE).decide(8080, attempt, NOW).is_allowed()
    };
    assert!(ask(&["web"]));
    assert!(!ask(&[]) && !ask(&["cart"]) && !ask(&["web", "cart"]));
}

#[test]
fn a_route_for_users_denies_whoever_is_none_whatever_policies_say() {
    let mut scope = orders();
    scope.ports[0].users = Some(UserTokens { required: true, issuers: Vec::new(), kept: false });
    let health = scope.ports[0].routes.iter_mut().find(|route| route.template.as_str() == "/health");
    health.unwrap().requires_user = Some(false);
    let any = "permit(principal is Node, action, resource is Route);";
    let users =
        "permit(principal is Node, action in Action::\"http\", resource is Route) when { context has user };";
    let engine = engine_for(scope, &[(Mode::Enforce, any), (Mode::Enforce, users)]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let alice = || made_for(&engine, &json!({"sub": "alice"}), &[]);
    let denied = decide_for(&mut memo, 8080, "/orders/1", OnBehalfOf::Nobody);
    assert_eq!(denied.reason, Reason::UserMissing);
    assert_eq!(denied.resource.as_deref(), Some("orders:8080 /orders/{id}"));
    assert_eq!(decide_for(&mut memo, 8080, "/other", OnBehalfOf::NotLookedAt).reason, Reason::UserMissing);
    assert!(decide_for(&mut memo, 8080, "/orders/1", alice()).is_allowed());
    assert!(decide_for(&mut memo, 8080, "/health", OnBehalfOf::Nobody).is_allowed());
    assert!(engine.wanted(8080).unwrap().user(), "whom it is for must be known");
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let explained = engine.explain(&question(&peer("web"), 8080, request("GET", &path, false)));
    assert_eq!(explained.decision.reason, Reason::UserMissing);
    // Of the policies it is told that there is no user, not that somebody forgot to look.
    let told: Vec<_> =
        explained.policies.iter().map(|note| (&note.mismatches[..], note.error.as_deref())).collect();
    let lacks = |told: &[Mismatch]| told.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told.iter().all(|(_, error)| error.is_none()), "{told:?}");
    assert!(
        told.iter().any(|(told, _)| lacks(told) == ["context: expected has user, was absent"]),
        "{told:?}"
    );
}

#[test]
fn a_user_whose_issuer_a_port_does_not_take_is_none_there() {
    let mut scope = orders();
    let users = UserTokens { required: false, issuers: vec![name("login")], kept: false };
    scope.ports[0].users = Some(users);
    let any = "permit(principal is Node, action, resource is Route);";
    let engine = engine_for(scope, &[(Mode::Enforce, any)]);
    let mut memo = engine.caller(&peer("web"), &HERE);
    let of = |issuer: &str, actors: &[&str]| {
        let claims = json!({"sub": "alice"});
        let url = "https://login.example".into();
        let user =
            ClaimsMapping::default().user(claims.as_object().unwrap(), [], &name(issuer), &url).unwrap();
        let actors = actors.iter().map(|actor| node(actor)).collect();
        OnBehalfOf::User(Arc::new(Origin { user, actors }))
    };
    let mut ask = |made_for| decide_for(&mut memo, 8080, "/orders/1", made_for).reason;
    assert_eq!(ask(of("login", &[])), Reason::Permitted);
    assert_eq!(ask(of("edge", &[])), Reason::UserIssuerNotTaken);
    assert_eq!(ask(of("edge", &["web"])), Reason::UserIssuerNotTaken, "nor is one who was passed on");
    assert_eq!(ask(OnBehalfOf::Nobody), Reason::Permitted);
    assert_eq!(ask(OnBehalfOf::NotLookedAt), Reason::FactsMissing, "it may be made for anybody");
    // A port that says nothing of users takes those who are passed on.
    assert_eq!(decide_for(&mut memo, 50051, "/shop.Orders/Get", of("edge", &[])).reason, Reason::Permitted);
}

#[test]
fn an_explanation_says_what_the_user_lacked() {
    let engine =
        engine(&["permit(principal is Node, action, resource is Route) when { context has user && \
        context.user in UserGroup::\"login/support\" && context.claims.hasTag(\"team\") };"]);
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let gathered =
        Gathered::default().made_for(made_for(&engine, &json!({"sub": "alice", "groups": ["staff"]}), &[]));
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: &gathered };
    let told = engine.explain(&question(&peer("web"), 8080, attempt));
    let told: Vec<String> = told.policies[0].mismatches.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "context.user: expected in UserGroup::\"login/support\", was User::\"login/alice\"",
            "context.claims: expected hasTag(\"team\"), was absent",
        ]
    );
}

#[test]
fn users_and_groups_are_named_by_their_issuer() {
    for (text, wanted) in [
        ("context has user && context.user == User::\"alice\"", "a slash"),
        ("context has user && context.user == User::\"login/\"", "a slash"),
        ("context.user == User::\"login/alice\"", "user"),
        ("context.claims.getTag(\"a\") == [\"b\"]", "hasTag"),
        ("context.claims.hasTag(context.path)", "written out"),
        ("context.claims == Claims::\"request\"", "no name"),
    ] {
        let text =
            format!("permit(principal is Node, action == Action::\"GET\", resource) when {{ {text} }};");
        let told = parse(&text).unwrap_err();
        assert!(told.iter().any(|told| told.to_string().contains(wanted)), "{text}: {told:?}");
    }
    let principal = parse("permit(principal == User::\"login/alice\", action, resource);");
    assert!(principal.is_err(), "users are not callers");
}
