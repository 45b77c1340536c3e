//! gRPC methods that read, and those that write.

use super::*;
use crate::scope::{MethodAccess, NodeScope};
use crate::testing::{documents, engine_for, name, orders, peer, question, request, roles};

const GET: &str = "/shop.Orders/Get";
const PUT: &str = "/shop.Orders/Put";

/// Where `Get` reads, and all that is not declared writes.
fn shop() -> NodeScope {
    let mut scope = orders();
    let mut routes = scope.ports.iter_mut().flat_map(|port| &mut port.routes);
    let get = routes.find(|route| route.template.is_rpc()).unwrap();
    get.access = MethodAccess::Read;
    scope
}

/// What `web` may call of `Get` and `Put`, by these policies.
fn allowed(scope: NodeScope, texts: &[&str]) -> [bool; 2] {
    let texts: Vec<_> = texts.iter().map(|text| (Mode::Enforce, *text)).collect();
    let engine = engine_for(scope, &texts);
    [GET, PUT].map(|path| ask(&engine, &peer("web"), 50051, "POST", path).is_allowed())
}

fn permit(action: &str, condition: &str) -> String {
    format!("permit(principal is Node, {action}, resource) when {{ {condition} }};")
}

#[test]
fn what_reads_is_in_read_and_what_writes_in_write() {
    for (action, condition, expected) in [
        ("action in Action::\"read\"", "true", [true, false]),
        ("action in Action::\"write\"", "true", [false, true]),
        ("action in [Action::\"read\", Action::\"write\"]", "true", [true, true]),
        ("action == Action::\"call\"", "true", [true, true]),
        ("action in Action::\"call\"", "true", [true, true]),
        ("action in Action::\"http\"", "true", [true, true]),
        ("action == Action::\"call\"", "action in Action::\"read\"", [true, false]),
        ("action == Action::\"call\"", "!(action in Action::\"read\")", [false, true]),
        ("action", "action in Action::\"write\"", [false, true]),
        ("action", "[Action::\"GET\", Action::\"call\"].contains(action)", [true, true]),
    ] {
        assert_eq!(allowed(shop(), &[&permit(action, condition)]), expected, "{action} {condition}");
    }
    let all = permit("action == Action::\"call\"", "true");
    let forbid = "forbid(principal, action in Action::\"write\", resource);";
    assert_eq!(allowed(shop(), &[&all, forbid]), [true, false]);
    assert_eq!(
        allowed(orders(), &[&all, forbid]),
        [false, false],
        "a method writes unless it is said to read"
    );
    assert_eq!(allowed(orders(), &[&permit("action in Action::\"read\"", "true")]), [false, false]);
}

#[test]
fn a_read_may_be_asked_what_any_read_may() {
    let by_query = permit("action in Action::\"read\"", "context.query.hasTag(\"a\")");
    let engine = engine_for(shop(), &[(Mode::Enforce, &by_query)]);
    let call = |target: &str| ask(&engine, &peer("web"), 50051, "POST", target);
    assert!(call("/shop.Orders/Get?a=1").is_allowed());
    assert!(!call(GET).is_allowed());
    assert_eq!(call("/shop.Orders/Get?a=1;b=2").reason, Reason::UnreadableQuery);
    let by_params = permit("action in Action::\"read\"", "!context.params.hasTag(\"id\")");
    assert_eq!(allowed(shop(), &[&by_params]), [true, false]);
}

/// Compilations of one node after another take over statements, whether methods of the one before read or not.
#[test]
fn a_method_that_comes_to_read_is_decided_anew() {
    let texts = [permit("action in Action::\"read\"", "true"), permit("action in Action::\"write\"", "true")];
    let documents = documents(&texts.each_ref().map(|text| (Mode::Enforce, &**text)));
    let name = name("shop");
    let index = PolicyIndex::new(&name, &documents);
    let compile = |scope: NodeScope, former: Option<&Engine>| {
        let slice = index.slice(&scope, Known { roles: &roles(), ..Known::default() });
        Engine::compile(scope, &slice, former).unwrap()
    };
    let before = compile(orders(), None);
    let after = compile(shop(), Some(&before));
    let policies = |engine: &Engine| ask(engine, &peer("web"), 50051, "POST", GET).policies.to_vec();
    assert_eq!([policies(&before), policies(&after)].map(|names| names[0].to_string()), ["p1", "p0"]);
    assert_eq!(policies(&compile(orders(), Some(&after)))[0].to_string(), "p1");
}

/// As the control plane compiles the views of a mesh, of which some have methods that read.
#[test]
fn nodes_that_read_and_nodes_that_do_not_share_their_statements() {
    let texts = [
        permit("action in Action::\"read\"", "true"),
        permit("action == Action::\"call\"", "context.path like \"/a*\""),
    ];
    let documents = documents(&texts.each_ref().map(|text| (Mode::Enforce, &**text)));
    let name = name("shop");
    let index = PolicyIndex::new(&name, &documents);
    let mut former: Option<Engine> = None;
    for scope in [orders(), shop(), orders(), shop()] {
        let slice = index.slice(&scope, Known { roles: &roles(), ..Known::default() });
        let engine = Engine::compile(scope, &slice, former.as_ref()).unwrap();
        if let Some(former) = &former {
            let pairs = engine.0.policies.iter().zip(&former.0.policies);
            assert_eq!(pairs.filter(|(own, former)| Arc::ptr_eq(own, former)).count(), texts.len());
        }
        former = Some(engine);
    }
}

/// As a view could bring it that another release made.
#[test]
fn what_is_valid_for_writes_alone_is_refused_where_a_method_reads() {
    let text = "forbid(principal, action == Action::\"call\", resource) when { action in Action::\"read\" && context.nothing };";
    let policies = vec![SlicedPolicy { name: "p".into(), mode: Mode::Enforce, text: text.into() }];
    let slice = PolicySlice { policies, ..PolicySlice::default() };
    assert!(Engine::compile(orders(), &slice, None).is_ok());
    let elsewhere = Engine::compile(orders(), &slice, None).unwrap();
    for former in [None, Some(&elsewhere), Some(&elsewhere)] {
        let refused = Engine::compile(shop(), &slice, former).unwrap_err();
        assert!(matches!(refused, CompileError::Invalid { .. }), "{refused}");
    }
    assert!(crate::testing::parse(text).is_err());
}

#[test]
fn explanations_say_which_it_is() {
    let engine = engine_for(shop(), &[(Mode::Enforce, &permit("action in Action::\"write\"", "true"))]);
    let path = CanonicalPath::parse("POST", GET).unwrap();
    let explained = engine.explain(&question(&peer("web"), 50051, request("POST", &path, false)));
    let mismatch = explained.policies[0].mismatches[0].to_string();
    assert!(mismatch.ends_with("was call of a method that reads"), "{mismatch}");
}

/// Routes of a method take each other's requests, as paths do.
#[test]
fn the_most_specific_route_says_it() {
    let mut scope = shop();
    let port = scope.ports.iter_mut().find(|port| port.number == 50051).unwrap();
    port.routes[0].access = MethodAccess::Write;
    let all = RouteTemplate::parse("shop.Orders/*").unwrap();
    port.routes.push(crate::DeclaredRoute { access: MethodAccess::Read, ..all.into() });
    assert_eq!(allowed(scope, &[&permit("action in Action::\"read\"", "true")]), [false, true]);
}
