//! Data classes: routes say which they hand out, and policies speak of all of these at once.

use hauberk_integration_tests::{App, get};

use crate::shop::{self, get_until};

const CLASSES: &str = "kind: DataClass
mesh: shop
name: pii
spec: {dataClasses: [card], description: what tells of a person}
---
kind: DataClass
mesh: shop
name: card
spec: {}
---
kind: Policy
mesh: shop
name: web-without-pii
spec:
  cedar: |
    permit(principal == Node::\"web\", action, resource in Service::\"orders\");
    forbid(principal == Node::\"web\", action, resource in DataClass::\"pii\");
";

fn orders(classes: &str) -> String {
    format!(
        "kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - portMapping: {{port: 8080, protocol: http}}
    routes:
    - {{path: '/orders/{{id}}/card', dataClasses: [{classes}]}}
  - {{portMapping: {{port: 9090, protocol: http2}}}}
  - {{portMapping: {{port: 50051, protocol: grpc}}}}
"
    )
}

#[test]
fn policies_of_a_data_class_hold_for_routes_as_they_are_declared() {
    let mesh = shop::open();
    mesh.apply(&format!("{CLASSES}---\n{}", orders("card")));
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/orders/1", 200);
    let denied = get(web.outbound(), "orders", "/orders/1/card").unwrap();
    assert_eq!(denied.status, 403);
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("web-without-pii/2"), "{told}");

    // What is taken out of the class is told before, takes the right to change policies, and holds at once.
    let without = orders("");
    let dry = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=server"], &without).ok();
    let told = "this takes /orders/{id}/card of port 8080 of orders out of data class pii";
    assert!(dry.stderr.contains(told), "{dry:?}");
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &without).ok();
    assert_eq!(get(web.outbound(), "orders", "/orders/1/card").unwrap().status, 200);
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &orders("pii")).ok();
    assert_eq!(get(web.outbound(), "orders", "/orders/1/card").unwrap().status, 403);

    let described = mesh.hauberk(&["describe", "dataclass", "pii"]).ok().stdout;
    for part in ["orders:8080 /orders/{id}/card", "web-without-pii", "what tells of a person"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let node = mesh.hauberk(&["describe", "node", "orders"]).ok().stdout;
    assert!(node.contains("/orders/{id}/card  any method  pii"), "{node}");
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &orders("pi"));
    assert!(
        refused.stderr.contains("<stdin>:8:") && refused.stderr.contains("did you mean \"pii\"?"),
        "{refused:?}"
    );
}
