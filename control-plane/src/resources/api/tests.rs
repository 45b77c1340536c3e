use hauberk_policy::MethodAccess;
use hauberk_proto::mesh::v1::{self as wire, Listener, api_description::Description};
use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
};

use crate::registry::{Stored, Version, keys};
use crate::resources::testing::*;
use crate::resources::{Catalog, Entry, Kind, Model};

mod documents;

const DOCUMENT: &str = r##"
openapi: 3.1.0
info: {title: Orders, version: "1"}
servers:
- url: https://api.example/{stage}
  variables: {stage: {default: v1, enum: [v1, v2]}}
- url: /v1/
paths:
  /orders:
    get: {responses: {}}
    post: {responses: {}}
  /orders/{order.id}:
    x-hauberk-data-classes: [order]
    summary: one of them
    parameters: [{name: order.id, in: path}]
    get: {x-hauberk-data-classes: [pii]}
    delete: {}
    put: {}
  /health: {}
  x-internal: whatever
components: {schemas: {}}
"##;

fn described(mut listener: Listener, description: Description) -> Listener {
    listener.api = Some(wire::ApiDescription { description: Some(description) });
    listener
}

fn catalog() -> Catalog {
    catalog_of(&[mesh("shop"), data_class("order", &[]), data_class("pii", &[])])
}

/// The routes of a listener of orders, each with its classes; or what is wrong with it.
fn routes_of(listener: Listener) -> Result<Vec<String>, Vec<String>> {
    let orders = node("orders", [listener]);
    let admission = try_admit(&catalog(), std::slice::from_ref(&orders), EVERYTHING).map_err(|problems| {
        problems
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.description()))
            .collect::<Vec<_>>()
    })?;
    Ok(told_routes(admission.after.get(&admission.changes[0].key).unwrap()))
}

/// The same of one that is stored, and was admitted by whatever release.
fn stored(openapi: &str) -> Vec<String> {
    let orders =
        node("orders", [described(listener(8080, "http"), Description::Openapi(openapi.to_owned()))]);
    let stored = Stored { version: Version::default(), value: orders.encode_to_vec().into() };
    let mut catalog = catalog();
    catalog.write(&keys::resource("VirtualNode", "shop", "orders"), Some(&stored), &trust_domain());
    told_routes(&catalog.mesh("shop").unwrap().of_kind(Kind::VirtualNode)["orders"])
}

fn told_routes(entry: &Entry) -> Vec<String> {
    let Model::VirtualNode(node) = entry.model() else { panic!("a node: {:?}", entry.model()) };
    let routes = node.listeners()[0].routes().iter().map(|route| {
        let classes: Vec<_> = route.classes.iter().map(ToString::to_string).collect();
        let reads = if route.access == MethodAccess::Read { " reads" } else { "" };
        format!("{} [{}]{reads}", route.template, classes.join(" "))
    });
    routes.collect()
}

fn openapi(text: &str) -> Result<Vec<String>, Vec<String>> {
    routes_of(described(listener(8080, "http"), Description::Openapi(text.to_owned())))
}

fn descriptor_set() -> Vec<u8> {
    let method = |name: &str| {
        let level = match name {
            "Get" => Some(IdempotencyLevel::NoSideEffects),
            "Put" => Some(IdempotencyLevel::Idempotent),
            _ => None,
        };
        let options = level
            .map(|level| MethodOptions { idempotency_level: Some(level.into()), ..MethodOptions::default() });
        MethodDescriptorProto { name: Some(name.to_owned()), options, ..Default::default() }
    };
    let service = |name: &str, methods: &[&str]| ServiceDescriptorProto {
        name: Some(name.to_owned()),
        method: methods.iter().map(|name| method(name)).collect(),
        ..ServiceDescriptorProto::default()
    };
    let file = |name: &str, package: &str, service| FileDescriptorProto {
        name: Some(name.to_owned()),
        package: (!package.is_empty()).then(|| package.to_owned()),
        service: vec![service],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet {
        file: vec![
            file("orders.proto", "shop.v1", service("Orders", &["Get", "Put"])),
            file("bare.proto", "", service("Bare", &["Do"])),
        ],
    }
    .encode_to_vec()
}

#[test]
fn an_openapi_document_says_its_paths_with_their_methods_and_classes() {
    let expected = [
        "GET,POST /v1/orders []",
        "DELETE,PUT /v1/orders/{order_id} [order]",
        "GET /v1/orders/{order_id} [order pii]",
    ];
    let mut found = openapi(DOCUMENT).unwrap();
    found.sort();
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    assert_eq!(found, sorted);
    let json = "{\"openapi\": \"3.0.3\", \"paths\": {\"/a\": {\"patch\": {}}}}";
    assert_eq!(openapi(json).unwrap(), ["PATCH /a []"]);
}

#[test]
fn routes_by_hand_win_where_they_match_the_same_paths() {
    let mut listener = described(listener(8080, "http"), Description::Openapi(DOCUMENT.to_owned()));
    let by_hand = |path: &str, methods: &[&str]| wire::RouteDeclaration {
        path: path.to_owned(),
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        data_classes: Vec::new(),
        ..wire::RouteDeclaration::default()
    };
    listener.routes =
        vec![by_hand("/v1/orders", &["POST"]), by_hand("/v1/orders/{id}", &[]), by_hand("/v1/*", &[])];
    let mut found = routes_of(listener).unwrap();
    found.sort();
    assert_eq!(found, ["/v1/* []", "/v1/orders/{id} []", "GET /v1/orders []", "POST /v1/orders []"]);
}

#[test]
fn a_route_by_hand_for_get_is_the_one_for_head_too() {
    let text = "{\"openapi\": \"3.0.3\", \"paths\": {\"/a\": {\"get\": {}, \"head\": {}, \"put\": {}}}}";
    let mut listener = described(listener(8080, "http"), Description::Openapi(text.to_owned()));
    let methods = vec!["GET".to_owned()];
    let by_hand = wire::RouteDeclaration { path: "/a".to_owned(), methods, ..Default::default() };
    listener.routes = vec![by_hand];
    let mut found = routes_of(listener).unwrap();
    found.sort();
    assert_eq!(found, ["GET /a []", "PUT /a []"]);
}

#[test]
fn a_descriptor_set_says_its_methods() {
    let mut listener = described(listener(50051, "grpc"), Description::Protobuf(descriptor_set()));
    let expected = ["shop.v1.Orders/Get [] reads", "shop.v1.Orders/Put []", "Bare/Do []"];
    assert_eq!(routes_of(listener.clone()).unwrap(), expected);
    listener.routes = vec![wire::RouteDeclaration {
        path: "shop.v1.Orders/Put".into(),
        methods: Vec::new(),
        data_classes: vec!["pii".into()],
        access: Some("READ".into()),
        ..wire::RouteDeclaration::default()
    }];
    let expected = ["shop.v1.Orders/Put [pii] reads", "shop.v1.Orders/Get [] reads", "Bare/Do []"];
    assert_eq!(routes_of(listener).unwrap(), expected);
}

#[test]
fn what_cannot_be_understood_is_told_with_its_place() {
    let field = "spec.listeners[0].api.openapi";
    let told = |text: &str| openapi(text).unwrap_err();
    for (text, expected) in [
        ("", "it is empty"),
        ("a: [", "line 2, column 1: this is not YAML"),
        ("a: 1\na: 2", "line 2, column 1: the key \"a\" stands here twice"),
        ("a: &x 1", "line 1, column 7: anchors are not understood here"),
        ("? [a]\n: 1", "line 1, column 3: a key must be a text"),
        ("openapi: 3.0.0\n", "it has no paths"),
        ("openapi: 4.0.0\npaths: {}", "openapi: version \"4.0.0\" is not known: 3.x is"),
        ("swagger: '2.0'\npaths: {}", "openapi: this is Swagger; convert it to OpenAPI 3"),
        ("paths: {}", "openapi: this is no OpenAPI document: its version is missing"),
        ("openapi: 3.0.0\npaths: []", "paths: it is not a mapping"),
        ("openapi: 3.0.0\npaths: {/a: {$ref: '#/x'}}", "paths./a.$ref: there is no \"#/x\" in the document"),
        ("openapi: 3.0.0\npaths: {/a: {got: {}}}", "paths./a.got: this is not understood here"),
        ("openapi: 3.0.0\npaths: {/a: {get: []}}", "paths./a.get: it is not a mapping"),
        ("openapi: 3.0.0\npaths: {a: {get: {}}}", "paths.a: "),
        (
            "openapi: 3.0.0\nservers: [{url: 'https://a/{v}/b'}]\npaths: {}",
            "servers[0].url: {v} is none of the server's variables",
        ),
        (
            "openapi: 3.0.0\nservers: [{url: '/{v}', variables: {v: {enum: [a]}}}]\npaths: {}",
            "servers[0].variables.v.default: it is missing",
        ),
        (
            "openapi: 3.0.0\npaths: {/a: {get: {x-hauberk-data-classes: pii}}}",
            "paths./a.get.x-hauberk-data-classes: it is not a list of names",
        ),
    ] {
        let found = told(text);
        assert!(found[0].starts_with(&format!("{field}: {expected}")), "{text}: {found:?}");
    }
    let unknown = "openapi: 3.0.0\npaths: {/a: {get: {x-hauberk-data-classes: [pij]}}}";
    let expected = "spec.listeners[0].api: data class \"pij\" does not exist; did you mean \"pii\"?";
    assert_eq!(told(unknown), [expected]);
    let deep = format!("openapi: 3.0.0\nx: {}{}", "[".repeat(70), "]".repeat(70));
    assert!(told(&deep)[0].contains("nested deeper than 64 levels"));
    let many: String = (0..1_001).map(|number| format!("  /p{number}: {{get: {{}}}}\n")).collect();
    let expected = format!("{field}: it says more than 1000 routes, which are the most");
    assert_eq!(told(&format!("openapi: 3.0.0\npaths:\n{many}")), [expected]);
}

#[test]
fn a_description_fits_what_the_listener_speaks() {
    let of = |protocol: &str, description| {
        routes_of(described(listener(8080, protocol), description)).unwrap_err().remove(0)
    };
    let text = || Description::Openapi(DOCUMENT.to_owned());
    assert!(of("grpc", text()).contains("write protobuf: for grpc"));
    assert!(of("tcp", text()).starts_with("spec.listeners[0].api.openapi: it does not fit"));
    assert!(of("http", Description::Protobuf(descriptor_set())).contains("write openapi:"));
    let broken = of("grpc", Description::Protobuf(b"\xff".to_vec()));
    assert!(broken.contains("this is no FileDescriptorSet"), "{broken}");
    assert!(of("grpc", Description::Protobuf(Vec::new())).contains("it has no services"));
    let mut empty = listener(8080, "http");
    empty.api = Some(wire::ApiDescription::default());
    assert_eq!(
        routes_of(empty).unwrap_err(),
        ["spec.listeners[0].api: it says nothing; write openapi: or protobuf:"]
    );
}

#[test]
fn a_changed_description_is_a_change_of_what_policies_name() {
    let with = |text: &str| {
        node("orders", [described(listener(8080, "http"), Description::Openapi(text.to_owned()))])
    };
    let one = "openapi: 3.0.0\npaths: {/a: {get: {}}}";
    let named = policy("p", "forbid(principal, action, resource == Route::\"orders:8080 GET /a\");");
    let catalog = catalog_of(&[mesh("shop"), with(one), named]);
    let rights = crate::resources::admit::Rights { policies: false, ..EVERYTHING };
    let problems =
        try_admit(&catalog, &[with("openapi: 3.0.0\npaths: {/b: {get: {}}}")], rights).unwrap_err();
    assert!(problems[0].message.contains("routes of port 8080"), "{problems:#?}");
}
