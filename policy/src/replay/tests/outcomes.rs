//! How conditions came out stands for what they read.

use serde_json::json;

use super::*;
use crate::user::{ClaimsMapping, OnBehalfOf, Origin};

const BY_SUPPORT: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when { context has user && context.user in UserGroup::\"login/support\" };";
const NOT_BY_WEB: &str =
    "forbid(principal, action, resource is Route) unless { context.actors.contains(Node::\"web\") };";

/// For whom calls are made: nobody, and two users.
fn users() -> [OnBehalfOf; 3] {
    let made_for = |claims: serde_json::Value, actors: &[&str]| {
        let claims = claims.as_object().unwrap();
        let user = ClaimsMapping::default()
            .user(claims, BTreeSet::from(["team"]), &name("login"), &"https://login.example".into())
            .unwrap();
        let actors = actors.iter().map(|actor| crate::testing::node(actor)).collect();
        OnBehalfOf::User(Arc::new(Origin { user, actors }))
    };
    [
        OnBehalfOf::Nobody,
        made_for(json!({"sub": "alice", "groups": ["support"], "team": "blue"}), &["web"]),
        made_for(json!({"sub": "bob", "groups": ["sales"]}), &[]),
    ]
}

/// What is decided of a call for somebody, and the flow that is recorded of it.
fn recorded(engine: &Engine, method: &str, target: &str, made_for: &OnBehalfOf) -> (Decision, RecordedFlow) {
    let path = CanonicalPath::parse(method, target).unwrap();
    let gathered = Gathered::default().made_for(made_for.clone());
    let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
    let web = peer("web");
    let decision = engine.decide(&crate::testing::question(&web, 8080, attempt));
    let outcomes = decision
        .conditions
        .iter()
        .flat_map(|known| known.iter())
        .map(|(condition, is_met)| ConditionOutcome { text: Arc::clone(&condition.text), is_met });
    let label = decision.resource.clone().unwrap_or_default();
    let route = label.split_once(' ').map_or("", |(_, route)| route).into();
    let outcomes = outcomes.collect();
    (decision, RecordedFlow { route, outcomes, ..flow("web", vec![call(method, target, 3)], 2) })
}

fn in_group(now: &str) -> RecordedFlow {
    recorded(&engines(&[now], &[]).0, "GET", "/orders/1", &users()[1]).1
}

#[test]
fn a_condition_that_stays_comes_out_as_it_did() {
    let wider = BY_SUPPORT.replace("action == Action::\"GET\"", "action in Action::\"http\"");
    let met = in_group(BY_SUPPORT);
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&wider]), &met), [], "it permits what it did, and more");
    let forbid =
        "forbid(principal, action == Action::\"GET\", resource == Route::\"orders:8080 /orders/{id}\");";
    let denied = [("Deny p1".to_owned(), 3), ("Deny p1".to_owned(), 2)];
    assert_eq!(told(&engines(&[BY_SUPPORT], &[BY_SUPPORT, forbid]), &met), denied);
    let nobody_s = wider.replace("\"web\"", "\"cart\"");
    let denied = [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)];
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&nobody_s]), &met), denied);
    let unmet = recorded(&engines(&[BY_SUPPORT], &[]).0, "GET", "/orders/1", &users()[2]).1;
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&wider]), &unmet), [], "it did not permit");
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&nobody_s]), &unmet), []);
    let allowed = [("Allow p1".to_owned(), 3), ("Allow p1".to_owned(), 2)];
    assert_eq!(told(&engines(&[BY_SUPPORT], &[BY_SUPPORT, GETS]), &unmet), allowed);
}

#[test]
fn what_was_not_recorded_of_a_condition_is_not_guessed() {
    let unknown = [("facts_not_recorded".to_owned(), 3), ("facts_not_recorded".to_owned(), 2)];
    let met = in_group(BY_SUPPORT);
    let other = BY_SUPPORT.replace("support", "sales");
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&other]), &met), unknown, "another condition");
    assert_eq!(told(&engines(&[ALL], &[ALL, NOT_BY_WEB]), &in_group(ALL)), unknown, "a new one");
    let silent = RecordedFlow { outcomes: Arc::default(), ..met.clone() };
    let wider = BY_SUPPORT.replace("action == Action::\"GET\"", "action in Action::\"http\"");
    assert_eq!(told(&engines(&[BY_SUPPORT], &[&wider]), &silent), unknown, "agents of a former release");
    // Beside a forbid Cedar does not tell what permits say.
    let forbid = "forbid(principal, action == Action::\"GET\", resource is Route);";
    let (decision, stopped) =
        recorded(&engines(&[BY_SUPPORT, forbid], &[]).0, "GET", "/orders/1", &users()[1]);
    assert_eq!((decision.reason, decision.conditions), (Reason::Forbidden, None));
    assert_eq!(told(&engines(&[BY_SUPPORT, forbid], &[BY_SUPPORT]), &stopped), unknown);
    // Another route, others who vouch, and one that becomes for users.
    let mut renamed = orders();
    renamed.ports[0].routes = vec![RouteTemplate::parse("/orders/*").unwrap().into()];
    let found = told(&engines_of(orders(), &[BY_SUPPORT], renamed, &[BY_SUPPORT, GETS]), &met);
    assert_eq!(found[0], unknown[0]);
    let vouching = Vouching { issuers: Issuers::Other, ..Vouching::default() };
    assert_eq!(told_where(&vouching, &engines(&[BY_SUPPORT], &[&wider]), &met), unknown);
    let found = told(&engines_of(with_users(false), &[BY_SUPPORT], with_users(true), &[&wider]), &met);
    assert_eq!(found, unknown);
}

#[test]
fn on_routes_for_users_too() {
    let scope = || with_users(true);
    let (now, _) = engines_of(scope(), &[BY_SUPPORT], scope(), &[]);
    let met = recorded(&now, "GET", "/orders/1", &users()[1]).1;
    let wider = BY_SUPPORT.replace("action == Action::\"GET\"", "action in Action::\"http\"");
    assert_eq!(told(&engines_of(scope(), &[BY_SUPPORT], scope(), &[&wider]), &met), []);
    let denied = [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)];
    assert_eq!(told(&engines_of(scope(), &[BY_SUPPORT], scope(), &[]), &met), denied);
    // Who had no user was stopped before any condition was looked at.
    let (decision, stopped) = recorded(&now, "GET", "/orders/1", &users()[0]);
    assert_eq!((decision.reason, stopped.outcomes.len()), (Reason::UserMissing, 0));
}

#[test]
fn whatever_is_said_is_what_would_be_decided() {
    let condition = |effect: &str, action: &str, condition: &str| {
        format!(
            "{effect}(principal == Node::\"web\", action in Action::\"{action}\", resource is Route) {condition};"
        )
    };
    let by_support = "when { context has user && context.user in UserGroup::\"login/support\" }";
    let statements = [
        condition("permit", "GET", by_support),
        condition("permit", "http", by_support),
        condition("forbid", "http", by_support),
        condition("permit", "http", "when { context.claims.hasTag(\"team\") }"),
        condition("forbid", "read", "unless { context.actors.contains(Node::\"web\") }"),
        condition("permit", "http", "when { principal in Role::\"clerks\" && context has user }"),
        condition("permit", "http", "when { context.path like \"/orders/*\" }"),
        condition("permit", "read", ""),
    ];
    let chosen = |bits: usize| -> Vec<&str> {
        let chosen = statements.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
        chosen.map(|(_, text)| text.as_str()).collect()
    };
    let (mut sure, mut unsure) = (0, 0);
    let all = 1_usize << statements.len();
    for now in 0..all {
        // One more or one less, another one each time.
        let draft = now ^ (1 << (now % statements.len()));
        let (now, draft) = engines(&chosen(now), &chosen(draft));
        for (made_for, method) in users().iter().flat_map(|user| [(user, "GET"), (user, "POST")]) {
            let (decided, flow) = recorded(&now, method, "/orders/1", made_for);
            let (would_be, _) = recorded(&draft, method, "/orders/1", made_for);
            let found = told(&(now.clone(), draft.clone()), &flow);
            if found.iter().any(|(what, _)| what.contains('_')) {
                unsure += 1;
                continue;
            }
            sure += 1;
            let flips = decided.effect != would_be.effect;
            assert_eq!(!found.is_empty(), flips, "{decided:?} {would_be:?} {found:?}");
        }
    }
    assert!(sure > 300 && unsure > 100, "{sure} {unsure}");
}
