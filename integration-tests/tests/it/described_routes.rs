//! Routes that are read from the description of an interface.

use hauberk_integration_tests::{App, get, request};

use crate::shop::{self, get_until};

const DESCRIBED: &str = "kind: DataClass
mesh: shop
name: pii
spec: {}
---
kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
    undeclared: DENY
    api:
      openapi: |
        openapi: 3.1.0
        info: {title: orders, version: '1'}
        paths:
          /orders/{id}:
            get: {}
            delete: {}
          /orders/{id}/customer:
            get: {x-hauberk-data-classes: [pii]}
    routes:
    - {path: /health}
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
---
kind: Policy
mesh: shop
name: web
spec:
  cedar: |
    permit(principal == Node::\"web\", action, resource in Service::\"orders\");
    forbid(principal, action, resource in DataClass::\"pii\");
";

#[test]
fn requests_are_decided_by_the_routes_of_an_openapi_document() {
    let mesh = shop::open();
    mesh.apply(DESCRIBED);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/orders/1", 200);
    let status = |text: &str| request(web.outbound(), text).unwrap().status;
    assert_eq!(get(web.outbound(), "orders", "/health").unwrap().status, 200);
    assert_eq!(get(web.outbound(), "orders", "/orders/1/customer").unwrap().status, 403);
    assert_eq!(get(web.outbound(), "orders", "/orders").unwrap().status, 403, "undeclared");
    assert_eq!(status("DELETE /orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n"), 200);
    assert_eq!(status("PUT /orders/1 HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n"), 403);
    let denied = get(web.outbound(), "orders", "/orders/1/customer").unwrap();
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("GET /orders/{id}/customer"), "{told}");
    let described = mesh.hauberk(&["describe", "node", "orders"]).ok().stdout;
    assert!(described.contains("routes of an OpenAPI document"), "{described}");
    let broken = DESCRIBED.replace("openapi: 3.1.0", "openapi: 2.0.0");
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &broken);
    assert!(refused.stderr.contains("version \"2.0.0\" is not known: 3.x is"), "{refused:?}");
}
