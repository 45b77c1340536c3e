use super::*;
use crate::testing::{documents, name, orders, peer, question, request, roles};
use crate::{CanonicalPath, Engine, Known, Mode, PolicyIndex};

fn seen(action: Action, port: u16, route: Option<&str>, method: &str, path: &str) -> Seen {
    Seen { port, action, route: route.map(str::to_owned), method: method.to_owned(), path: path.to_owned() }
}

fn get(route: Option<&str>, path: &str) -> Seen {
    seen(Action::Get, 8080, route, "GET", path)
}

fn suggested(seen: Vec<(Caller, Vec<Seen>)>) -> Suggested {
    let seen = seen.into_iter().map(|(caller, seen)| (caller, seen.into_iter().collect())).collect();
    suggest(&orders(), &seen)
}

/// The engine that enforces what was suggested.
fn engine(suggested: &Suggested) -> Engine {
    let texts: Vec<_> =
        suggested.policies.iter().map(|policy| (Mode::Enforce, policy.cedar.as_str())).collect();
    let documents = documents(&texts);
    let scope = orders();
    let slice = PolicyIndex::new(&name("shop"), &documents)
        .slice(&scope, Known { roles: &roles(), ..Known::default() });
    Engine::compile(scope, &slice, None).unwrap()
}

fn allows(engine: &Engine, caller: &str, port: u16, method: &str, path: &str, upgrade: bool) -> bool {
    let path = CanonicalPath::parse(method, path).unwrap();
    engine.decide(&question(&peer(caller), port, request(method, &path, upgrade))).is_allowed()
}

#[test]
fn what_was_seen_is_allowed_and_nothing_else() {
    let suggested = suggested(vec![
        (
            peer("web"),
            vec![
                get(Some("/orders/{id}"), "/orders/1"),
                get(Some("/health"), "/health"),
                seen(Action::Post, 8080, Some("/orders/{id}"), "POST", "/orders/1"),
                get(None, "/a"),
                get(None, "/b*"),
                seen(Action::Other, 8080, None, "PURGE", "/a"),
                seen(Action::Upgrade, 8081, None, "GET", "/ws"),
                seen(Action::Call, 50051, Some("shop.Orders/Get"), "POST", "/shop.Orders/Get"),
                seen(Action::Call, 50051, None, "POST", "/shop.Other/Put"),
                seen(Action::Connect, 6379, None, "", ""),
            ],
        ),
        (peer("cart"), vec![get(None, "/items/1"), get(None, "/items/22"), get(None, "/one/7")]),
        (peer("bill"), vec![get(None, "/items/1"), get(None, "/items/22"), get(None, "/one/7")]),
    ]);
    let names: Vec<_> = suggested.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}: those who did the same share one");
    assert!(names[0].starts_with("suggested-bill-and-cart-to-node-orders"), "{names:?}");
    assert_eq!(names[1], "suggested-web-to-orders");
    let engine = engine(&suggested);
    for (caller, port, method, path, upgrade, allowed) in [
        ("web", 8080, "GET", "/orders/1", false, true),
        ("web", 8080, "POST", "/orders/1", false, true),
        ("web", 8080, "PUT", "/orders/1", false, false),
        ("web", 8080, "GET", "/health", false, true),
        ("web", 8080, "POST", "/health", false, false),
        ("web", 8080, "GET", "/a", false, true),
        ("web", 8080, "GET", "/b*", false, true),
        ("web", 8080, "GET", "/bb", false, false),
        ("web", 8080, "PURGE", "/a", false, true),
        ("web", 8080, "TRACE", "/a", false, false),
        ("web", 8080, "GET", "/c", false, false),
        ("web", 9000, "GET", "/a", false, false),
        ("web", 8081, "GET", "/ws", true, true),
        ("web", 50051, "POST", "/shop.Orders/Get", false, true),
        ("web", 50051, "POST", "/shop.Other/Put", false, true),
        ("web", 50051, "POST", "/shop.Other/Get", false, false),
        ("cart", 8080, "GET", "/items/333", false, true),
        ("cart", 8080, "GET", "/items", false, false),
        ("cart", 8080, "GET", "/one/7", false, true),
        ("cart", 8080, "GET", "/one/8", false, false),
        ("cart", 8080, "GET", "/health", false, false),
        ("intruder", 8080, "GET", "/health", false, false),
    ] {
        assert_eq!(allows(&engine, caller, port, method, path, upgrade), allowed, "{caller} {method} {path}");
    }
    let connect = |caller| crate::testing::connect(&engine, &peer(caller), 6379).is_allowed();
    assert!(connect("web") && !connect("cart"));
    let named: Vec<_> = suggested.generalisations.iter().map(String::as_str).collect();
    assert_eq!(
        named,
        [
            "bill GET orders:8080: /items/* for 2 paths that were seen; * stands for more than one segment, too",
            "cart GET orders:8080: /items/* for 2 paths that were seen; * stands for more than one segment, too",
            "orders:8080 /orders/{id}: every path of the declared route",
            "web GET orders:8081 /ws: without asking for another protocol, too",
        ]
    );
}

#[test]
fn policies_read_like_those_that_people_write() {
    let suggested = suggested(vec![(
        peer("web"),
        vec![
            get(Some("/orders/{id}"), "/orders/1"),
            get(Some("/health"), "/health"),
            get(None, "/a"),
            get(None, "/users/1/posts"),
            get(None, "/users/2/posts"),
        ],
    )]);
    assert_eq!(
        suggested.policies[0].cedar,
        r#"permit(
  principal == Node::"web",
  action == Action::"GET",
  resource in Port::"orders:8080"
)
when { [Route::"orders:8080 /health", Route::"orders:8080 /orders/{id}"].contains(resource) };

permit(
  principal == Node::"web",
  action == Action::"GET",
  resource == Route::"orders:8080 *undeclared"
)
when { (context.path == "/a" || context.path like "/users/*/posts") };
"#
    );
}

#[test]
fn only_numbers_and_the_like_are_taken_for_one_another() {
    let shapes = [
        "/a/1",
        "/a/b7",
        "/8f14e45f-ceea-467f-a9cb-cdf1d5f6e7a1/x",
        "/deadbeefdeadbeef",
        "/cafe",
        "/1.5",
        "/",
    ];
    let found: Vec<_> = shapes.into_iter().map(shape).collect();
    assert_eq!(found, ["/a/*", "/a/b7", "/*/x", "/deadbeefdeadbeef", "/cafe", "/1.5", "/"]);
}

#[test]
fn what_leaves_the_mesh_leaves_by_the_ports_that_were_seen_and_no_others() {
    use crate::testing::{connect, domain, node};
    use crate::{EgressIndex, NodeScope, Protocol};
    let ports = [(80, Protocol::Http), (81, Protocol::Http), (443, Protocol::Tcp), (444, Protocol::Tcp)];
    let scope = NodeScope::external(&domain(), &name("shop"), &name("stripe"), ports);
    let seen = BTreeSet::from([
        seen(Action::Connect, 443, None, "", ""),
        seen(Action::Get, 80, None, "GET", "/v1/prices"),
    ]);
    let found = suggest(&scope, &BTreeMap::from([(peer("web"), seen)]));
    let [policy] = &found.policies[..] else { panic!("{found:?}") };
    assert!(policy.name.starts_with("suggested-web-to-external-stripe"), "{}", policy.name);
    let documents = documents(&[(Mode::Enforce, &policy.cedar)]);
    let slice =
        EgressIndex::new(std::slice::from_ref(&scope), &documents).slice(&node("web"), Known::default());
    let engine = Engine::compile(scope, &slice, None).unwrap();
    for (caller, port, method, path, allowed) in [
        ("web", 80, "GET", "/v1/prices", true),
        ("web", 80, "POST", "/v1/prices", false),
        ("web", 80, "GET", "/v1", false),
        ("web", 81, "GET", "/v1/prices", false),
        ("cart", 80, "GET", "/v1/prices", false),
    ] {
        assert_eq!(
            allows(&engine, caller, port, method, path, false),
            allowed,
            "{caller} {port} {method} {path}"
        );
    }
    assert!(
        connect(&engine, &peer("web"), 443).is_allowed() && !connect(&engine, &peer("web"), 444).is_allowed()
    );
    assert!(!connect(&engine, &peer("cart"), 443).is_allowed());
}
