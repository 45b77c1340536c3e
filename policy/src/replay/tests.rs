mod others;
mod outcomes;
mod paths;
mod slashes;
mod trust_domains;

use std::collections::BTreeSet;

use super::compare::Side;
use super::*;
use crate::circumstances::Gathered;
use crate::scope::{Authorization, MethodAccess, Protocol};
use crate::testing::{HERE, NOW, documents, domain, foreign, name, orders, peer, roles};
use crate::{HeaderLines, Known, Mode, NodeLabel, NodeScope, PolicyIndex, RouteTemplate, UserTokens};

fn engines(now: &[&str], draft: &[&str]) -> (Engine, Engine) {
    engines_of(orders(), now, orders(), draft)
}

fn engines_of(scope: NodeScope, now: &[&str], draft_scope: NodeScope, draft: &[&str]) -> (Engine, Engine) {
    let compile = |scope: NodeScope, texts: &[&str], former: Option<&Engine>| {
        let texts: Vec<_> = texts.iter().map(|text| (Mode::Enforce, *text)).collect();
        let documents = documents(&texts);
        let slice = PolicyIndex::new(&name("shop"), &documents)
            .slice(&scope, Known { roles: &roles(), ..Known::default() });
        Engine::compile(scope, &slice, former).unwrap()
    };
    let now = compile(scope, now, None);
    let draft = compile(draft_scope, draft, Some(&now));
    (now, draft)
}

/// The first port takes users' tokens; it asks for one, or not.
fn with_users(required: bool) -> NodeScope {
    let mut scope = orders();
    scope.ports[0].users = Some(UserTokens { required, issuers: Vec::new(), kept: false });
    scope
}

fn call(method: &str, target: &str, count: u64) -> RecordedCall {
    RecordedCall {
        peer: HERE.clone(),
        moment: NOW,
        method: method.into(),
        target: target.into(),
        gathered: Gathered::recorded(None, Vec::new()),
        is_query_known: false,
        count,
    }
}

fn flow(caller: &str, calls: Vec<RecordedCall>, others: u64) -> RecordedFlow {
    let action = Action::of_method(calls.first().map_or("GET", |call| &call.method));
    RecordedFlow {
        caller: peer(caller),
        port: 8080,
        action,
        route: "/orders/{id}".into(),
        calls,
        others,
        outcomes: Arc::default(),
    }
}

/// What is told, shortly: the effect of the draft, or why it cannot be said, with the count.
fn told(engines: &(Engine, Engine), flow: &RecordedFlow) -> Vec<(String, u64)> {
    told_where(&Vouching::default(), engines, flow)
}

/// The same, where others vouch for callers and users.
fn told_where(vouching: &Vouching, engines: &(Engine, Engine), flow: &RecordedFlow) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    Replay::new(&engines.0, &engines.1, vouching).flow(flow, |replayed, count, _| {
        let what = match replayed {
            Replayed::Flips { draft, .. } => format!("{:?} {}", draft.effect, draft.policies.join(",")),
            Replayed::Undecidable(why) => why.as_str().to_owned(),
        };
        told.push((what, count));
    });
    told
}

const ALL: &str =
    "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\");";
const GETS: &str =
    "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");";
const BY_PATH: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when { context.path == \"/orders/1\" };";
const BY_HEADER: &str = "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.headers.hasTag(\"x-tenant\") };";
const BY_QUERY: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when { context.query.hasTag(\"a\") };";
const BY_HOUR: &str = "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.time.toTime() < duration(\"18h\") };";
const AT_NIGHT: &str = "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.time.toTime() >= duration(\"18h\") };";

#[test]
fn an_equal_draft_changes_nothing_whatever_it_reads() {
    for text in [ALL, BY_PATH, BY_HEADER, BY_QUERY, BY_HOUR] {
        let flow = flow("web", vec![call("GET", "/orders/1", 5)], 7);
        assert_eq!(told(&engines(&[text], &[text]), &flow), [], "{text}");
    }
}

#[test]
fn what_others_may_do_does_not_concern_a_caller() {
    let more = "permit(principal == Node::\"cart\", action in Action::\"http\", resource in Service::\"orders\") when { context.headers.hasTag(\"x\") };";
    let web = flow("web", vec![call("GET", "/orders/1", 5)], 7);
    assert_eq!(told(&engines(&[BY_HOUR], &[BY_HOUR, more]), &web), []);
    let cart = flow("cart", vec![call("GET", "/orders/1", 5)], 0);
    assert_eq!(told(&engines(&[BY_HOUR], &[BY_HOUR, more]), &cart), [("facts_not_recorded".to_owned(), 5)]);
}

#[test]
fn what_the_draft_denies_flips_and_so_does_what_it_allows() {
    let post = flow("web", vec![call("POST", "/orders/1", 3), call("POST", "/orders/2", 1)], 2);
    let deny = |count| ("Deny ".to_owned(), count);
    assert_eq!(told(&engines(&[ALL], &[GETS]), &post), [deny(3), deny(1), deny(2)], "no path matters");
    let allow = |count| ("Allow p0".to_owned(), count);
    assert_eq!(told(&engines(&[GETS], &[ALL]), &post), [allow(3), allow(1), allow(2)]);
    assert_eq!(
        told(&engines(&[ALL], &[ALL, "forbid(principal, action == Action::\"POST\", resource);"]), &post)[0]
            .0,
        "Deny p1"
    );
}

#[test]
fn paths_that_were_not_recorded_are_not_guessed() {
    let get = flow("web", vec![call("GET", "/orders/1", 3), call("GET", "/orders/2", 1)], 2);
    let found = told(&engines(&[ALL], &[BY_PATH]), &get);
    assert_eq!(found, [("Deny ".to_owned(), 1), ("too_many_to_record".to_owned(), 2)]);
    let only = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    assert_eq!(told(&engines(&[ALL], &[BY_PATH]), &only), [("too_many_to_record".to_owned(), 2)]);
}

#[test]
fn facts_that_were_not_recorded_are_not_guessed() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 0);
    let unknown = [("facts_not_recorded".to_owned(), 3)];
    assert_eq!(told(&engines(&[ALL], &[BY_HEADER]), &get), unknown);
    assert_eq!(told(&engines(&[BY_HEADER], &[ALL]), &get), unknown, "nor of what is in force");
    assert_eq!(told(&engines(&[ALL], &[BY_QUERY]), &get), unknown);
    let lines = |values: &[&str]| HeaderLines {
        name: "x-tenant".into(),
        values: Some(values.iter().map(|value| (*value).into()).collect()),
    };
    let with_header = RecordedCall {
        gathered: Gathered::recorded(None, vec![lines(&["blue"])]),
        ..call("GET", "/orders/1", 3)
    };
    assert_eq!(told(&engines(&[ALL], &[BY_HEADER]), &flow("web", vec![with_header], 0)), []);
    let without =
        RecordedCall { gathered: Gathered::recorded(None, vec![lines(&[])]), ..call("GET", "/orders/1", 3) };
    assert_eq!(
        told(&engines(&[ALL], &[BY_HEADER]), &flow("web", vec![without], 0)),
        [("Deny ".to_owned(), 3)]
    );
    let with_query = RecordedCall { is_query_known: true, ..call("GET", "/orders/1?a=1", 3) };
    assert_eq!(told(&engines(&[ALL], &[BY_QUERY]), &flow("web", vec![with_query], 0)), []);
    let no_query = RecordedCall { is_query_known: true, ..call("GET", "/orders/1", 3) };
    assert_eq!(
        told(&engines(&[ALL], &[BY_QUERY]), &flow("web", vec![no_query], 0)),
        [("Deny ".to_owned(), 3)]
    );
}

#[test]
fn of_what_depends_on_the_time_one_moment_is_known() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 0);
    let unsure = ("depends_on_time".to_owned(), 2);
    assert_eq!(told(&engines(&[ALL], &[AT_NIGHT]), &get), [("Deny ".to_owned(), 1), unsure.clone()]);
    assert_eq!(told(&engines(&[ALL], &[BY_HOUR]), &get), [unsure]);
    let once = flow("web", vec![call("GET", "/orders/1", 1)], 0);
    assert_eq!(told(&engines(&[ALL], &[BY_HOUR]), &once), []);
}

#[test]
fn another_route_and_another_role_are_other_questions() {
    let by_route =
        "permit(principal == Node::\"web\", action, resource == Route::\"orders:8080 /orders/{id}\");";
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let mut renamed = orders();
    renamed.ports[0].routes = vec![RouteTemplate::parse("/orders/*").unwrap().into()];
    let found = told(&engines_of(orders(), &[by_route], renamed, &[by_route]), &get);
    assert_eq!(found, [("Deny ".to_owned(), 3), ("too_many_to_record".to_owned(), 2)]);
    let by_role = "permit(principal in Role::\"clerks\", action, resource in Service::\"orders\");";
    let scope = orders();
    let documents = documents(&[(Mode::Enforce, by_role)]);
    let compile = |members: Vec<hauberk_identity::SpiffeId>| {
        let roles = [crate::RoleMembers { role: name("clerks"), members }];
        let slice = PolicyIndex::new(&name("shop"), &documents)
            .slice(&scope, Known { roles: &roles, ..Known::default() });
        Engine::compile(scope.clone(), &slice, None).unwrap()
    };
    let web = hauberk_identity::SpiffeId::node(&domain(), &name("shop"), &name("web"));
    let engines = (compile(vec![web]), compile(Vec::new()));
    assert_eq!(told(&engines, &get), [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)]);
}

#[test]
fn another_label_is_another_question() {
    let text = "permit(principal is Node, action, resource) when { principal.hasTag(\"team\") && principal.getTag(\"team\") == \"checkout\" };";
    let documents = documents(&[(Mode::Enforce, text)]);
    let compile = |values: &[(&str, &str)]| {
        let values = values.iter().map(|(own, value)| (crate::testing::node(own), (*value).to_owned()));
        let label = NodeLabel { name: "team".to_owned(), values: values.collect() };
        let slice = PolicyIndex::new(&name("shop"), &documents)
            .slice(&orders(), Known { labels: &[label], ..Known::default() });
        Engine::compile(orders(), &slice, None).unwrap()
    };
    let get = |who: &str| flow(who, vec![call("GET", "/orders/1", 3)], 2);
    let becomes = |draft: &[(&str, &str)], who: &str| {
        let engines = (compile(&[("web", "checkout")]), compile(draft));
        told(&engines, &get(who))
            .into_iter()
            .map(|(what, count)| format!("{what}{count}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(becomes(&[], "web"), ["Deny 3", "Deny 2"]);
    assert_eq!(becomes(&[("web", "stock")], "web"), ["Deny 3", "Deny 2"]);
    assert_eq!(becomes(&[("web", "checkout"), ("cart", "checkout")], "cart"), ["Allow p03", "Allow p02"]);
    // Somebody else's label is nothing to web.
    assert_eq!(becomes(&[("web", "checkout"), ("cart", "checkout")], "web"), [""; 0]);
}

#[test]
fn another_service_of_a_named_port_is_another_question() {
    let text = "permit(principal is Node, action, resource) when { Port::\"payments:80\" in Service::\"payments\" };";
    let documents = documents(&[(Mode::Enforce, text)]);
    let compile = |services: &[&str]| {
        let listener = |_: &_, number| Some(crate::testing::port(number, Protocol::Http, services, &[]));
        let ports =
            crate::NamedPort::found(documents.iter().flat_map(|document| document.ports_read()), listener);
        let slice = PolicyIndex::new(&name("shop"), &documents)
            .slice(&orders(), Known { ports: &ports, ..Known::default() });
        Engine::compile(orders(), &slice, None).unwrap()
    };
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let becomes = |draft: &[&str]| told(&(compile(&["payments"]), compile(draft)), &get);
    assert_eq!(becomes(&["other"]), [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)]);
    assert_eq!(becomes(&["payments", "other"]), []);
}

#[test]
fn streams_and_calls_are_replayed_too() {
    let stream = RecordedFlow {
        port: 6379,
        action: Action::Connect,
        route: "".into(),
        ..flow("web", vec![call("", "", 4)], 0)
    };
    let connect = "permit(principal == Node::\"web\", action == Action::\"connect\", resource);";
    assert_eq!(told(&engines(&[connect], &[]), &stream), [("Deny ".to_owned(), 4)]);
    let rpc = RecordedFlow {
        port: 50051,
        action: Action::Call,
        route: "shop.Orders/Get".into(),
        ..flow("web", vec![call("POST", "/shop.Orders/Get", 4)], 0)
    };
    let permit = "permit(principal == Node::\"web\", action == Action::\"call\", resource) when { context.rpc == \"Get\" };";
    assert_eq!(told(&engines(&[], &[permit]), &rpc), [("Allow p0".to_owned(), 4)]);
    // Where a draft says that the method reads.
    let mut reading = orders();
    let routes = reading.ports.iter_mut().flat_map(|port| &mut port.routes);
    routes.filter(|route| route.template.is_rpc()).for_each(|route| route.access = MethodAccess::Read);
    let write = "permit(principal == Node::\"web\", action in Action::\"write\", resource);";
    let by_condition = "permit(principal == Node::\"web\", action == Action::\"call\", resource) when { action in Action::\"write\" };";
    for permit in [write, by_condition] {
        let drafted = engines_of(orders(), &[permit], reading.clone(), &[permit]);
        assert_eq!(told(&drafted, &rpc), [("Deny ".to_owned(), 4)], "{permit}");
    }
    let odd = RecordedFlow { port: 8080, ..flow("web", vec![call("GET", "no path", 4)], 0) };
    assert_eq!(told(&engines(&[ALL], &[]), &odd), [("unreadable_record".to_owned(), 4)]);
}

#[test]
fn what_is_settled_by_scopes_alone_is_what_cedar_says() {
    let statements = [
        "permit(principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\");",
        "permit(principal in Role::\"clerks\", action in Action::\"read\", resource);",
        "forbid(principal == Node::\"cart\", action == Action::\"HEAD\", resource);",
        "forbid(principal, action == Action::\"DELETE\", resource == Route::\"orders:8080 /health\");",
        "permit(principal is Node, action == Action::\"PUT\", resource in Port::\"orders:8081\");",
    ];
    let mut compared = 0;
    for chosen in 0..1 << statements.len() {
        let texts = statements.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
        let texts: Vec<_> = texts.map(|(_, text)| *text).collect();
        for authorization in [Authorization::Enforce, Authorization::Audit] {
            let mut scope = orders();
            scope.ports.iter_mut().for_each(|port| port.authorization = authorization);
            let (engine, _) = engines_of(scope, &texts, orders(), &[]);
            for (caller, port, target) in ["web", "cart", "other"].into_iter().flat_map(|caller| {
                [(caller, 8080, "/orders/1"), (caller, 8080, "/health"), (caller, 8081, "/x")]
            }) {
                for method in ["GET", "HEAD", "PUT", "DELETE"] {
                    let caller = peer(caller);
                    let principal = engine.0.principal(&caller).unwrap();
                    let path = CanonicalPath::parse(method, target).unwrap();
                    let attempt = crate::testing::request(method, &path, false);
                    let (_, place) = engine.0.locate(port, attempt).unwrap();
                    let side = Side::of(&engine, &principal, port, place.resource).unwrap();
                    let settled = side.settled(Action::of_method(method)).unwrap();
                    let decided = engine.decide(&crate::testing::question(&caller, port, attempt));
                    assert_eq!(settled, decided, "{method} {target}: {texts:?}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 32 * 2 * 9 * 4);
}

#[test]
fn what_was_not_recorded_of_a_connection_is_not_guessed_either() {
    let by_tls = "forbid(principal, action == Action::\"GET\", resource) unless { context.peer has tlsGroup && context.peer.tlsGroup == \"X25519MLKEM768\" };";
    let by_address = "forbid(principal, action == Action::\"GET\", resource) when { context.peer.address.isInRange(ip(\"10.0.0.0/8\")) };";
    let known = flow("web", vec![call("GET", "/orders/1", 3)], 0);
    assert_eq!(told(&engines(&[ALL], &[ALL, by_tls]), &known), []);
    assert_eq!(told(&engines(&[ALL], &[ALL, by_address]), &known), [("Deny p1".to_owned(), 3)]);
    let nothing = RecordedCall { peer: Peer::new(None, None), ..call("GET", "/orders/1", 3) };
    let unknown = flow("web", vec![nothing], 0);
    for draft in [by_tls, by_address] {
        assert_eq!(told(&engines(&[ALL], &[ALL, draft]), &unknown), [("facts_not_recorded".to_owned(), 3)]);
    }
}

#[test]
fn what_is_refused_before_policies_are_asked_stays_refused() {
    let scope = || {
        let mut scope = orders();
        scope.ports[0].undeclared = crate::Undeclared::Deny;
        scope
    };
    let scanned = RecordedFlow { route: "".into(), ..flow("web", vec![call("GET", "/x", 3)], 90) };
    assert_eq!(told(&engines_of(scope(), &[GETS], scope(), &[]), &scanned), []);
    let opened = told(&engines_of(scope(), &[GETS], orders(), &[GETS]), &scanned);
    assert_eq!(opened, [("Allow p0".to_owned(), 3), ("too_many_to_record".to_owned(), 90)]);
}

#[test]
fn what_depends_on_users_cannot_be_decided_since_of_users_nothing_is_recorded() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let unknown = |counts: &[u64]| -> Vec<(String, u64)> {
        counts.iter().map(|count| ("facts_not_recorded".to_owned(), *count)).collect()
    };
    for condition in [
        "context has user",
        "!(context has user)",
        "context.claims.hasTag(\"team\")",
        "context.actors == [Node::\"cart\"]",
        "context.actors.isEmpty()",
    ] {
        let by_user = format!(
            "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when {{ {condition} }};"
        );
        let found = told(&engines(&[ALL], &[&by_user]), &get);
        assert_eq!(found[0], unknown(&[3])[0], "{condition}");
        assert!(
            found.iter().all(|(what, _)| !what.starts_with("Deny") && !what.starts_with("Allow")),
            "{found:?}"
        );
        assert_eq!(told(&engines(&[&by_user], &[ALL]), &get)[0], unknown(&[3])[0], "nor of what is in force");
        // A forbid beside what permits: perhaps it stops them, perhaps it does not.
        let forbid = format!("forbid(principal, action, resource is Route) when {{ {condition} }};");
        assert_eq!(told(&engines(&[ALL], &[ALL, &forbid]), &get)[0], unknown(&[3])[0], "{condition}");
        assert_eq!(told(&engines(&[&by_user], &[&by_user]), &get), [], "the very same policies");
    }
    // The listener says it, and no policy reads anything.
    let taking = |required, issuers: &[&str]| {
        let mut scope = orders();
        let issuers = issuers.iter().map(|issuer| name(issuer)).collect();
        scope.ports[0].users = Some(UserTokens { required, issuers, kept: false });
        scope
    };
    for other in [taking(true, &[]), taking(false, &["login"])] {
        for (now, draft) in [(orders(), other.clone()), (other.clone(), orders())] {
            assert_eq!(told(&engines_of(now, &[ALL], draft, &[ALL]), &get)[0], unknown(&[3])[0]);
        }
        assert_eq!(told(&engines_of(other.clone(), &[ALL], other, &[ALL]), &get), []);
    }
}

#[test]
fn a_route_that_becomes_one_for_users_or_no_longer_is_one_is_not_unchanged() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let unknown = [("facts_not_recorded".to_owned(), 3), ("facts_not_recorded".to_owned(), 2)];
    let of = |now: bool, texts: &[&str], draft: bool, draft_texts: &[&str]| {
        told(&engines_of(with_users(now), texts, with_users(draft), draft_texts), &get)
    };
    assert_eq!(of(false, &[ALL], true, &[ALL]), unknown);
    assert_eq!(of(true, &[ALL], false, &[ALL]), unknown);
    // By one route alone, too.
    let mut by_route = with_users(false);
    by_route.ports[0].routes[0].requires_user = Some(true);
    assert_eq!(told(&engines_of(with_users(false), &[ALL], by_route, &[ALL]), &get), unknown);
    // What is let through for users alone, and still is; and what is denied with and without a user.
    assert_eq!(of(true, &[ALL], true, &[ALL, GETS]), []);
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 0);
    let of = |now: bool, texts: &[&str], draft: bool, draft_texts: &[&str]| {
        told(&engines_of(with_users(now), texts, with_users(draft), draft_texts), &get)
    };
    assert_eq!(of(true, &[], false, &[]), []);
    assert_eq!(of(false, &[ALL], true, &[]), [("Deny ".to_owned(), 3)]);
    assert_eq!(of(true, &[ALL], true, &[]), unknown[..1], "it may have been denied for want of a user");
}

#[test]
fn what_a_draft_asks_of_users_is_not_guessed() {
    let conditions = [
        "context has user",
        "context has user && context.user in UserGroup::\"login/support\"",
        "context has user && context.user.scopes.contains(\"orders\")",
        "context.claims.hasTag(\"team\")",
        "context.actors.contains(Node::\"web\")",
        "!(context has user)",
    ];
    let rpc = RecordedFlow {
        port: 50051,
        action: Action::Call,
        route: "shop.Orders/Get".into(),
        ..flow("web", vec![call("POST", "/shop.Orders/Get", 4)], 2)
    };
    let request = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    for (flow, action, count) in [(&request, "http", 3), (&rpc, "call", 4)] {
        let all = format!("permit(principal is Node, action in Action::\"{action}\", resource);");
        let unknown = [("facts_not_recorded".to_owned(), count), ("facts_not_recorded".to_owned(), 2)];
        for condition in conditions {
            let about_users = format!(
                "permit(principal is Node, action in Action::\"{action}\", resource) when {{ {condition} }};"
            );
            let forbid = about_users.replace("permit", "forbid");
            assert_eq!(told(&engines(&[&all], &[&about_users]), flow), unknown, "{condition}");
            assert_eq!(told(&engines(&[&about_users], &[&all]), flow), unknown, "now: {condition}");
            assert_eq!(told(&engines(&[&all], &[&all, &forbid]), flow), unknown, "forbid: {condition}");
            assert_eq!(told(&engines(&[&about_users], &[&about_users]), flow), [], "as it is: {condition}");
        }
    }
}

#[test]
fn who_vouches_for_users_decides_before_policies_do() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let unknown = [("facts_not_recorded".to_owned(), 3), ("facts_not_recorded".to_owned(), 2)];
    let [more, other] =
        [Issuers::More, Issuers::Other].map(|issuers| Vouching { issuers, ..Vouching::default() });
    let of = |vouching: &Vouching, scope: NodeScope, draft_scope: NodeScope| {
        told_where(vouching, &engines_of(scope, &[ALL], draft_scope, &[ALL]), &get)
    };
    let (plain, with) = (orders, || with_users(false));
    assert_eq!(of(&other, with(), with()), unknown);
    assert_eq!(of(&more, with(), with()), unknown, "a token that nobody looked at is now looked at");
    assert_eq!(of(&other, plain(), plain()), unknown, "users are passed on to any port");
    assert_eq!(of(&more, plain(), plain()), []);
    assert_eq!(of(&Vouching::default(), plain(), with()), unknown);
    assert_eq!(of(&Vouching::default(), with(), plain()), unknown);
    let mut of_login = with();
    of_login.ports[0].users.iter_mut().for_each(|users| users.issuers.push(name("login")));
    assert_eq!(of(&Vouching::default(), with(), of_login), unknown);
    // At another port, by nobody who passes users on, and as a stream nothing comes of it.
    let mut at_9000 = orders();
    at_9000.ports[1].users = with_users(false).ports[0].users.clone();
    let alone = RecordedFlow { others: 0, ..get.clone() };
    let engines_at = engines_of(orders(), &[ALL], at_9000, &[ALL]);
    assert_eq!(told(&engines_at, &alone), []);
    let public = "permit(principal is Anonymous, action in Action::\"http\", resource);";
    let anonymous = RecordedFlow { caller: Caller::Anonymous, ..get.clone() };
    assert_eq!(told_where(&other, &engines(&[public], &[public]), &anonymous), []);
    let connect = "permit(principal == Node::\"web\", action == Action::\"connect\", resource);";
    let stream = RecordedFlow {
        port: 6379,
        action: Action::Connect,
        route: "".into(),
        ..flow("web", vec![call("", "", 4)], 0)
    };
    assert_eq!(told_where(&other, &engines(&[connect], &[connect]), &stream), []);
    // What policies deny whoever it is for is denied.
    assert_eq!(told_where(&other, &engines(&[], &[]), &get), []);
    let denied = [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)];
    assert_eq!(told_where(&other, &engines(&[ALL], &[]), &get), denied);
    assert_eq!(told_where(&other, &engines(&[], &[ALL]), &get), unknown);
}

#[test]
fn what_agents_reach_or_gather_no_longer_decides_before_policies_do() {
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    let unknown = [("facts_not_recorded".to_owned(), 3), ("facts_not_recorded".to_owned(), 2)];
    let denied = [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)];
    let less = Vouching { reaches_less: true, ..Vouching::default() };
    assert_eq!(told_where(&less, &engines(&[ALL], &[ALL]), &get), unknown);
    assert_eq!(told_where(&less, &engines(&[ALL], &[]), &get), denied);
    // A field that holds tokens in the draft is told to no policy.
    let hidden = Vouching { token_fields: BTreeSet::from(["x_tenant".to_owned()]), ..Vouching::default() };
    let by_tenant = "permit(principal == Node::\"web\", action in Action::\"http\", resource) when { context.headers.hasTag(\"x-tenant\") };";
    assert_eq!(told_where(&hidden, &engines(&[ALL, by_tenant], &[ALL, by_tenant]), &get), unknown);
    assert_eq!(told_where(&hidden, &engines(&[ALL], &[ALL]), &get), [], "nobody reads it");
}

#[test]
fn what_a_condition_asks_of_another_port_is_looked_at() {
    let by_port = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Port::\"orders:8080\") when { Port::\"orders:9000\".protocol == \"http2\" };";
    let get = flow("web", vec![call("GET", "/orders/1", 3)], 0);
    let mut spoken = orders();
    spoken.ports[1].protocol = Protocol::Http;
    let found = told(&engines_of(orders(), &[by_port], spoken, &[by_port]), &get);
    assert_eq!(found, [("Deny ".to_owned(), 3)]);
    let mut moved = orders();
    moved.ports[1].authorization = Authorization::Audit;
    assert_eq!(told(&engines_of(orders(), &[by_port], moved, &[by_port]), &get), []);
}
