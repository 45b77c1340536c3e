//! What is recorded of calls that it takes more than a caller and a path to decide again: those made for users, and
//! those whose paths have two readings.

use hauberk_integration_tests::{Agent, App, MeshBox, eventually, request};
use serde_json::Value;

use crate::{
    login::Login,
    shop::{self, PATIENCE},
};

/// The node `orders`, whose first listener is set so.
fn orders_with(listener: &str) -> String {
    format!(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - {{portMapping: {{port: 8080, protocol: http}}, \
         {listener}}}\n  - {{portMapping: {{port: 9090, protocol: http2}}}}\n  - {{portMapping: {{port: 50051, protocol: grpc}}}}\n"
    )
}

fn policy(name: &str, cedar: &str) -> String {
    format!("kind: Policy\nmesh: shop\nname: {name}\nspec:\n  cedar: '{cedar}'\n")
}

fn asked(web: &Agent, path: &str, more: &str) -> u16 {
    let head = format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n{more}\r\n");
    request(web.outbound(), &head).unwrap().status
}

/// How many decisions would be denied, allowed, and cannot be decided, once so many are recorded.
fn simulated(mesh: &MeshBox, draft: &str, decisions: u64) -> [u64; 3] {
    eventually(&format!("{decisions} decisions are recorded"), PATIENCE, || {
        let told = mesh.hauberk_with_input(&["simulate", "-f", "-", "-o", "json"], draft);
        assert!(told.code < 2, "{told:?}");
        let told: Value = serde_json::from_str(&told.stdout).unwrap();
        let number = |field: &str| match &told[field] {
            Value::String(text) => text.parse::<u64>().unwrap(),
            other => other.as_u64().unwrap_or_else(|| panic!("{field}: {told}")),
        };
        let figures = || ["deniedDecisions", "allowedDecisions", "undecidableDecisions"].map(number);
        (number("decisions") == decisions).then(figures)
    })
}

#[test]
fn a_draft_that_keeps_a_condition_on_users_is_decided_although_users_are_not_recorded() {
    let by_group = |action: &str, group: &str| {
        policy(
            "support",
            &format!(
                "permit(principal == Node::\"web\", {action}, resource in Service::\"orders\") when {{ context has user && \
                 context.user in UserGroup::\"login/{group}\" }};"
            ),
        )
    };
    let (gets, all) = ("action == Action::\"GET\"", "action in Action::\"http\"");
    let (mesh, login) = (shop::open(), Login::new("login"));
    let documents = [login.resource(""), orders_with("users: {}"), by_group(gets, "support")];
    mesh.apply(&documents.join("---\n"));
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let bearer =
        |user: &str, group: &str| format!("authorization: Bearer {}\r\n", login.token(user, &[group]));
    let (alice, carol) = (bearer("alice", "support"), bearer("carol", "staff"));
    // Whoever has no user is denied, and that is counted from the first answer that is not one of the agent's own.
    eventually("orders is there", PATIENCE, || (asked(&web, "/orders/1", "") == 403).then_some(()));
    let first = 1;
    for _ in 0..3 {
        assert_eq!(asked(&web, "/orders/1", &alice), 200);
    }
    assert_eq!(asked(&web, "/orders/1", &carol), 403);
    let decisions = 4 + first;

    assert_eq!(simulated(&mesh, &by_group(all, "support"), decisions), [0, 0, 0]);
    assert_eq!(simulated(&mesh, &by_group(gets, "staff"), decisions), [0, 0, decisions]);
    let forbid = policy("stop", "forbid(principal, action == Action::\"GET\", resource is Route);");
    assert_eq!(simulated(&mesh, &forbid, decisions), [3, 0, 0]);
    let permit =
        policy("open", "permit(principal == Node::\"web\", action, resource in Service::\"orders\");");
    assert_eq!(simulated(&mesh, &permit, decisions), [0, 1 + first, 0]);
    // Nothing of users is in the record.
    let told = mesh.hauberk_with_input(&["simulate", "-f", "-", "-o", "json"], &permit).stdout;
    assert!(!told.contains("alice") && !told.contains("carol"), "{told}");
}

#[test]
fn a_path_with_two_readings_is_decided_in_both() {
    let mesh = shop::open();
    let listener = "pathWithEscapedSlashesAction: KEEP_UNCHANGED, routes: [{path: '/repos/{name}'}, {path: '/repos/{name}/keys'}]";
    mesh.apply(&orders_with(listener));
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    shop::get_until(&web, "orders", "/repos/a", 200);
    assert_eq!(asked(&web, "/repos/a%2Fkeys", ""), 200);
    let no_keys = "forbid(principal, action in Action::\"http\", resource == Route::\"orders:8080 /repos/{name}/keys\");";
    assert_eq!(simulated(&mesh, &policy("no-keys", no_keys), 2), [1, 0, 0]);
    let no_names = no_keys.replace("/keys", "");
    assert_eq!(simulated(&mesh, &policy("no-names", &no_names), 2), [2, 0, 0]);
    let no_posts = no_keys.replace("action in Action::\"http\"", "action == Action::\"POST\"");
    assert_eq!(simulated(&mesh, &policy("no-posts", &no_posts), 2), [0, 0, 0]);
    assert_eq!(
        simulated(&mesh, &orders_with(&listener.replace("KEEP_UNCHANGED", "REJECT_REQUEST")), 2),
        [1, 0, 0]
    );
}
