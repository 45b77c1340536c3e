//! Roles: who is in one may do what policies let it do, as long as they are in it.

use std::time::Duration;

use hauberk_integration_tests::get;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::{
    client::{http1, to},
    shop::{self, PATIENCE, get_until},
    streaming_app::{StreamingApp, empty},
};

const READERS: &str = "kind: Role
mesh: shop
name: readers
spec:
  description: whoever may read orders
  roles: [front]
---
kind: Role
mesh: shop
name: front
spec:
  members: [{virtualNode: web}, {virtualNode: intruder}]
---
kind: Policy
mesh: shop
name: readers-read
spec:
  cedar: permit(principal in Role::\"readers\", action == Action::\"GET\", resource in Service::\"orders\");
";

const WITHOUT_WEB: &str = "kind: Role
mesh: shop
name: front
spec:
  members: [{virtualNode: intruder}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_role_is_cut_off_and_the_others_go_on() {
    let mesh = shop::open();
    mesh.apply(READERS);
    let app = StreamingApp::start();
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/", 200);
    get_until(&intruder, "orders", "/", 200);
    mesh.hauberk(&["can", "web", "orders", "GET", "/"]).ok();
    let mut clients = (http1(web.outbound()).await, http1(intruder.outbound()).await);
    let drip = || to("orders", "GET", "/drip").body(empty()).unwrap();
    let mut cut = clients.0.send_request(drip()).await.unwrap();
    let mut kept = clients.1.send_request(drip()).await.unwrap();
    cut.frame().await.unwrap().unwrap();

    // What it would do is told before it is done.
    let shown = mesh.hauberk_with_input(&["diff", "-f", "-"], WITHOUT_WEB);
    assert_eq!(shown.code, 1, "{shown:?}");
    let mut gone = shown.stdout.lines().filter(|line| line.starts_with('-'));
    assert!(gone.any(|line| line.ends_with("virtualNode: web")), "{shown:?}");
    let dry = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=server"], WITHOUT_WEB).ok();
    for told in ["Role shop/readers: it loses", "node/web", "named by readers-read"] {
        assert!(dry.stderr.contains(told) && shown.stderr.contains(told), "{told}: {dry:?}");
    }
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200);

    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], WITHOUT_WEB).ok();
    let end = async {
        while let Some(frame) = cut.frame().await {
            if frame.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, end).await.expect("what web had open is cut");
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 403);
    for _ in 0..20 {
        let frame = timeout(Duration::from_secs(15), kept.frame()).await.unwrap();
        frame.expect("who stays in the role goes on").unwrap();
    }
    assert_eq!(get(intruder.outbound(), "orders", "/").unwrap().status, 200);
    let denied = get(web.outbound(), "orders", "/").unwrap();
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("Role \"readers\""), "{told}");

    // Back in, at once.
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], READERS).ok();
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200);
}

#[test]
fn roles_are_listed_described_and_refused_with_their_places() {
    let mesh = shop::open();
    mesh.apply(READERS);
    let listed = mesh.hauberk(&["get", "roles"]).ok().stdout;
    assert!(listed.contains("MEMBERS") && listed.contains("whoever may read orders"), "{listed}");
    let described = mesh.hauberk(&["describe", "role", "readers"]).ok().stdout;
    for part in ["virtualnode/web  by front", "readers-read"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let again = mesh.hauberk(&["get", "role", "readers", "-o", "yaml"]).ok().stdout;
    let unchanged = mesh.apply(&again).stdout;
    assert!(unchanged.contains("role/readers unchanged"), "{unchanged}");
    let circle =
        "kind: Role\nmesh: shop\nname: front\nspec:\n  members: [{virtualNode: wbe}]\n  roles: [readers]\n";
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], circle);
    for told in ["front → readers → front", "<stdin>:5:", "did you mean \"web\"?"] {
        assert!(refused.stderr.contains(told), "{told}: {refused:?}");
    }
    let used = mesh.hauberk(&["delete", "role", "readers"]);
    assert!(used.code != 0 && used.stderr.contains("policy \"readers-read\""), "{used:?}");
}
