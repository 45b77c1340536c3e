//! Routes that are read from the description of an interface.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hauberk_integration_tests::{App, get, request};
use tonic::{Code, transport::Server};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

use crate::{
    cookbook::policy_test,
    grpc,
    shop::{self, get_until},
};

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
          /orders/{id}.pdf:
            get: {x-hauberk-data-classes: [pii]}
          /orders/{id}:cancel:
            servers: [{url: /}, {url: 'https://orders.example/v2'}]
            post: {}
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
    assert_eq!(get(web.outbound(), "orders", "/orders/1.pdf").unwrap().status, 403);
    assert_eq!(
        get(web.outbound(), "orders", "/orders/.pdf").unwrap().status,
        200,
        "it has no name before the dot"
    );
    let post =
        |path: &str| status(&format!("POST {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n"));
    assert_eq!(post("/orders/1:cancel"), 200);
    assert_eq!(post("/v2/orders/1:cancel"), 200);
    assert_eq!(post("/orders/1:cancelled"), 403, "undeclared");
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

#[test]
fn routes_come_from_a_large_document_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..16)
        .map(|number| {
            let text = "what it does, at length ".repeat(11_000);
            format!(
                r#""/v1/things-{number}/{{id}}":{{"get":{{"description":"\ud83d\udee1 {text}","responses":{{}}}},"delete":{{"x-hauberk-data-classes":["pii"]}}}}"#
            )
        })
        .collect();
    let document = format!(
        r#"{{"openapi":"3.0.3","servers":[{{"url":"https://orders.example/api"}}],"paths":{{{}}},"components":{{"schemas":{{}}}}}}"#,
        paths.join(",")
    );
    assert!(document.len() > 3 << 20, "{}", document.len());
    fs::write(folder.path().join("orders.json"), document).unwrap();
    let resources = "kind: Mesh
name: shop
spec: {}
---
{kind: VirtualNode, mesh: shop, name: web, spec: {}}
---
{kind: DataClass, mesh: shop, name: pii, spec: {}}
---
kind: VirtualNode
mesh: shop
name: orders
spec:
  serviceDiscovery: {dns: {hostname: orders.internal}}
  listeners:
  - portMapping: {port: 8080, protocol: http}
    undeclared: DENY
    api: {openapiFile: orders.json}
---
kind: Policy
mesh: shop
name: web
spec:
  cedar: |
    permit(principal == Node::\"web\", action, resource in Port::\"orders:8080\");
    forbid(principal, action, resource in DataClass::\"pii\");
";
    let assertions = "trustDomain: shop.example
tests:
- allow: {caller: web, target: orders, method: GET, path: /api/v1/things-15/1}
- deny: {caller: web, target: orders, method: DELETE, path: /api/v1/things-15/1}
- deny: {caller: web, target: orders, method: GET, path: /api/v1/things-16/1}
- deny: {caller: web, target: orders, method: PUT, path: /api/v1/things-15/1}
";
    let tested = policy_test(folder.path(), assertions, &[resources]);
    assert_eq!(tested.code, 0, "{tested:?}");
    // What the control plane finds wrong of it is told at the file that names it.
    fs::write(folder.path().join("orders.json"), r#"{"openapi":"2.0","paths":{"/a":{"gett":{}}}}"#).unwrap();
    let tested = policy_test(folder.path(), assertions, &[resources]);
    assert_eq!(tested.code, 2, "{tested:?}");
    for told in
        ["resources-0.yaml:17:", "version \"2.0\" is not known", "paths./a.gett: this is not understood here"]
    {
        assert!(tested.stderr.contains(told), "{told}: {tested:?}");
    }
}

/// The node that serves gRPC's health service, by the descriptor set that protoc has made of it.
fn healthy(set: &[u8]) -> String {
    format!(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - {{portMapping: {{port: 8080, protocol: http}}}}\n  \
         - {{portMapping: {{port: 9090, protocol: http2}}}}\n  - portMapping: {{port: 50051, protocol: grpc}}\n    undeclared: DENY\n    \
         api: {{protobuf: '{}'}}\n",
        STANDARD.encode(set)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_decided_by_the_methods_of_a_descriptor_set() {
    let mesh = shop::open();
    mesh.apply(&healthy(tonic_health::pb::FILE_DESCRIPTOR_SET));
    shop::set_policy(
        &mesh,
        "checks",
        "permit(principal == Node::\"web\", action == Action::\"call\", resource == Route::\"orders:50051 grpc.health.v1.Health/Check\");\n\
         permit(principal == Node::\"intruder\", action == Action::\"call\", resource in Service::\"orders-rpc\");",
    );
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("till", ServingStatus::Serving).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let _orders = shop::orders(&mesh, address);
    let (web, intruder) = (shop::caller(&mesh, "web"), shop::caller(&mesh, "intruder"));
    let (of_web, of_intruder) =
        (grpc::channel(web.outbound(), "orders-rpc"), grpc::channel(intruder.outbound(), "orders-rpc"));
    grpc::until_reachable(&of_web).await;
    grpc::until_reachable(&of_intruder).await;

    let question = || HealthCheckRequest { service: "till".to_owned() };
    let (mut web_client, mut intruder_client) =
        (HealthClient::new(of_web.clone()), HealthClient::new(of_intruder.clone()));
    let answer = web_client.check(question()).await.unwrap().into_inner();
    assert_eq!(answer.status, ServingStatus::Serving as i32);
    let denied = web_client.watch(question()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "it is another method: {denied}");
    let mut watch = intruder_client.watch(question()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    // The set has no such method, and what it does not name is denied, whoever may call the service.
    let strange =
        grpc::call_streaming(&of_intruder, "/grpc.health.v1.Health/Reset", tokio_stream::empty()).await;
    assert_eq!(strange.unwrap_err().code(), Code::PermissionDenied);

    let id = denied.metadata().get("hauberk-decision").unwrap().to_str().unwrap();
    let told = mesh.hauberk(&["explain", id]).ok().stdout;
    assert!(told.contains("grpc.health.v1.Health/Watch"), "{told}");
    let node = mesh.hauberk(&["describe", "node", "orders"]).ok().stdout;
    assert!(node.contains("descriptor set"), "{node}");
    // Cut in the middle it is no set, of another service its methods are others, and an OpenAPI document does not fit
    // the port.
    let cut = healthy(&tonic_health::pb::FILE_DESCRIPTOR_SET[..40]);
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &cut);
    assert!(refused.code == 1 && refused.stderr.contains("this is no FileDescriptorSet"), "{refused:?}");
    let others = mesh.hauberk_with_input(
        &["apply", "-f", "-", "--wait=20s"],
        &healthy(hauberk_proto::FILE_DESCRIPTOR_SET),
    );
    let told = "this changes which requests belong to the routes of port 50051, which checks may speak of";
    assert!(others.code == 0 && others.stderr.contains(told), "{others:?}");
    let gone = web_client.check(question()).await.unwrap_err();
    assert_eq!(gone.code(), Code::PermissionDenied, "{gone}");
    server.abort();
}

#[test]
fn paths_may_stand_in_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("paths")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "orders.yaml",
        "openapi: 3.1.0\npaths:\n  /orders/{id}: {$ref: paths/order.yaml}\n  '/orders/{name}?old=true': {get: {}}\n",
    );
    write("paths/order.yaml", "get: {responses: {}}\nput: {$ref: 'operations.yaml#/replace'}\n");
    write("paths/operations.yaml", "replace: {x-hauberk-data-classes: [pii]}\n");
    let resources = "kind: Mesh
name: shop
spec: {}
---
{kind: VirtualNode, mesh: shop, name: web, spec: {}}
---
{kind: DataClass, mesh: shop, name: pii, spec: {}}
---
kind: VirtualNode
mesh: shop
name: orders
spec:
  serviceDiscovery: {dns: {hostname: orders.internal}}
  listeners:
  - portMapping: {port: 8080, protocol: http}
    undeclared: DENY
    api: {openapiFile: orders.yaml}
  - portMapping: {port: 9090, protocol: grpc}
---
kind: Policy
mesh: shop
name: web
spec:
  cedar: |
    permit(principal == Node::\"web\", action, resource in Node::\"orders\");
    forbid(principal, action, resource in DataClass::\"pii\");
";
    // Of the ports one takes what is asked.
    let assertions = "trustDomain: shop.example
tests:
- allow: {caller: web, target: orders, method: GET, path: /orders/1}
- deny: {caller: web, target: orders, method: PUT, path: /orders/1}
- deny: {caller: web, target: orders, method: DELETE, path: /orders/1}
- allow: {caller: web, target: orders, rpc: shop.Orders/Get}
";
    let tested = policy_test(folder.path(), assertions, &[resources]);
    assert_eq!(tested.code, 0, "{tested:?}");
}
