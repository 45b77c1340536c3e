use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{
    Authorization, ClaimsMapping, DeclaredRoute, EscapedSlashes, Gathered, HeaderLines, MethodAccess, Mode,
    Moment, NamedListener, NamedPort, NodeLabel, NodeScope, ObsText, OnBehalfOf, Origin, Peer, Place,
    PolicySlice, PortScope, Protocol, RoleMembers, RouteTemplate, SlicedPolicy, Tls, Undeclared, User,
    UserTokens,
};
use prost::Message;

use super::*;
use crate::agent::v1 as wire;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn node_view() -> NodeView {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let port = |number, protocol, routes: &[&str]| PortScope {
        number,
        protocol,
        services: vec![name("orders")],
        routes: routes
            .iter()
            .map(|text| DeclaredRoute {
                template: RouteTemplate::parse(text).unwrap(),
                classes: vec![name("card"), name("pii")],
                requires_user: Some(false),
                access: match text.contains("Get") {
                    true => MethodAccess::Read,
                    false => MethodAccess::Write,
                },
            })
            .collect(),
        undeclared: Undeclared::Deny,
        authorization: Authorization::Audit,
        users: Some(UserTokens { required: true, issuers: vec![name("login")], kept: true }),
        escaped_slashes: EscapedSlashes::Keep,
        obs_text: ObsText::Forward,
    };
    NodeView {
        scope: NodeScope {
            place: Place::Node(SpiffeId::node(&trust_domain, &name("shop"), &name("orders"))),
            trust_domain,
            mesh: name("shop"),
            ports: vec![
                port(8080, Protocol::Http, &["GET,HEAD /orders/{id}", "/static/*"]),
                port(9090, Protocol::Grpc, &["shop.Orders/Get"]),
                port(5432, Protocol::Tcp, &[]),
            ],
        },
        policies: PolicySlice {
            policies: vec![SlicedPolicy {
                name: "web/1".into(),
                mode: Mode::Audit,
                text: "permit(principal is Node, action, resource);".into(),
            }],
            roles: vec![RoleMembers {
                role: name("clerks"),
                members: vec![SpiffeId::parse("spiffe://partner.example/clerk").unwrap()],
            }],
            labels: vec![NodeLabel {
                name: "team".to_owned(),
                values: [("cart", "checkout"), ("stock", "supply"), ("web", "checkout")]
                    .map(|(node, value)| {
                        let id = format!("spiffe://shop.example/mesh/shop/node/{node}");
                        (SpiffeId::parse(&id).unwrap(), value.to_owned())
                    })
                    .into(),
            }],
            ports: vec![
                NamedPort {
                    node: SpiffeId::parse("spiffe://shop.example/mesh/shop/gateway/edge").unwrap(),
                    number: 443,
                    listener: None,
                },
                NamedPort {
                    node: SpiffeId::parse("spiffe://shop.example/mesh/shop/node/web").unwrap(),
                    number: 8080,
                    listener: Some(NamedListener {
                        protocol: Protocol::Http2,
                        services: vec![name("web")],
                        routes: [("/a".to_owned(), vec![name("pii")]), ("GET /b".to_owned(), Vec::new())]
                            .into(),
                    }),
                },
            ],
        },
        backends: vec![name("payments")],
        max_view_age: Some(Duration::from_secs(60)),
        federated: vec![FederatedBundle {
            trust_domain: TrustDomain::parse("partner.example").unwrap(),
            document: b"{\"keys\":[]}".to_vec(),
        }],
        issuers: vec![JwtIssuer {
            name: name("login"),
            issuer: "https://login.example".to_owned(),
            audiences: vec!["shop".to_owned()],
            jwks: b"{\"keys\":[]}".to_vec(),
            claims: ClaimsMapping::default(),
            token_header: Some("x-token".to_owned()),
            audience_is_client: true,
            is_ours: true,
        }],
        egress: Box::new(Egress {
            externals: vec![External {
                name: name("stripe"),
                hosts: vec!["10.0.0.7".to_owned(), "api.stripe.com".to_owned()],
                ports: vec![
                    ExternalPort { number: 80, protocol: ExternalProtocol::Http },
                    ExternalPort { number: 443, protocol: ExternalProtocol::Tls },
                    ExternalPort { number: 5432, protocol: ExternalProtocol::Tcp },
                ],
                allowed: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            }],
            policies: PolicySlice {
                policies: vec![SlicedPolicy {
                    name: "web-pays".into(),
                    mode: Mode::Enforce,
                    text: "permit(principal, action, resource in External::\"shop/stripe\");".into(),
                }],
                roles: vec![RoleMembers { role: name("payers"), members: Vec::new() }],
                labels: vec![NodeLabel { name: "tier".to_owned(), values: BTreeMap::new() }],
                ports: vec![NamedPort {
                    node: SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap(),
                    number: 1,
                    listener: None,
                }],
            },
        }),
    }
}

fn service_view() -> ServiceView {
    let target = |node: &str, discovery| Target {
        spiffe_id: SpiffeId::parse(&format!("spiffe://shop.example/mesh/shop/node/{node}")).unwrap(),
        discovery,
    };
    let dns =
        Dns { hostname: "db.example".into(), all_addresses: true, ip_preference: IpPreference::Ipv6Only };
    ServiceView {
        name: name("orders"),
        ports: vec![ServicePort {
            number: 8080,
            protocol: Protocol::Http2,
            targets: vec![
                target("a", Discovery::Registered),
                target("b", Discovery::Dns(dns)),
                target("c", Discovery::Fixed(vec!["[::1]:8080".parse().unwrap()])),
            ],
        }],
    }
}

fn wire_view(body: wire::view::Body) -> wire::View {
    wire::View {
        epoch: 7,
        revision: 9,
        features: vec!["cedar-1".into()],
        trust_domain: "shop.example".into(),
        mesh: "shop".into(),
        body: Some(body),
    }
}

fn wire_node() -> wire::View {
    wire_view(wire::view::Body::Node(encode_node_view(&node_view())))
}

fn wire_service() -> wire::View {
    wire_view(wire::view::Body::Service(encode_service_view(&service_view())))
}

fn node_of(view: &mut wire::View) -> &mut wire::NodeView {
    match &mut view.body {
        Some(wire::view::Body::Node(node)) => node,
        _ => unreachable!(),
    }
}

fn service_of(view: &mut wire::View) -> &mut wire::ServiceView {
    match &mut view.body {
        Some(wire::view::Body::Service(service)) => service,
        _ => unreachable!(),
    }
}

#[test]
fn views_come_back_as_they_went() {
    let view = decode_view(&wire_node().encode_to_vec()).unwrap();
    assert_eq!((view.epoch, view.revision, view.mesh.as_str()), (7, 9, "shop"));
    assert_eq!(view.body, Body::Node(node_view()));
    let view = decode_view(&wire_service().encode_to_vec()).unwrap();
    assert_eq!(view.body, Body::Service(service_view()));
}

#[test]
fn a_view_lists_what_it_needs() {
    let all = features::needed(&Body::Node(node_view()));
    assert_eq!(
        all,
        [
            "audit-authorization",
            "audit-policies",
            "cedar-1",
            "clients-as-audiences-1",
            "data-classes-1",
            "deny-undeclared",
            "egress-1",
            "escaped-slashes-1",
            "max-view-age",
            "method-access-1",
            "roles-1",
            "routes-1",
            "users-1"
        ]
    );
    let reads = |condition: &str| {
        let text =
            format!("permit(principal is Node, action == Action::\"GET\", resource) when {{ {condition} }};");
        let mut view = node_view();
        view.policies.policies[0].text = text;
        features::needed(&Body::Node(view)).contains(&features::CONTEXT)
    };
    assert!(!reads("context.path like \"/peer/*\" && context.method == \"context.host\""));
    assert!(reads("context.path == \"/\" && context.peer.federated"));
    assert!(reads("context == context"));
    let reads_calls = |action: &str, condition: &str| {
        let text = format!("permit(principal is Node, {action}, resource) when {{ {condition} }};");
        let mut view = node_view();
        view.scope.ports.iter_mut().for_each(|port| port.routes.clear());
        view.policies.policies[0].text = text;
        features::needed(&Body::Node(view)).contains(&features::METHOD_ACCESS)
    };
    assert!(reads_calls("action == Action::\"call\"", "context.query.hasTag(\"a\")"));
    assert!(reads_calls("action in Action::\"write\"", "context.params.hasTag(\"a\")"));
    assert!(reads_calls("action", "context == context"));
    assert!(!reads_calls("action in Action::\"read\"", "context.query.hasTag(\"a\")"));
    assert!(!reads_calls("action == Action::\"call\"", "context.path == \"/query\""));
    let has_text = |template: &str| {
        let mut view = node_view();
        view.scope.ports[0].routes = vec![RouteTemplate::parse(template).unwrap().into()];
        features::needed(&Body::Node(view)).contains(&features::ROUTE_TEXT)
    };
    assert!(has_text("/files/{id}.json") && has_text("GET /v{version}/x"));
    assert!(!has_text("/files/{id}") && !has_text("/files/{rest...}") && !has_text("/files/id.json"));
    let reads_labels = |condition: &str| {
        let mut view = node_view();
        view.policies.policies[0].text =
            format!("permit(principal is Node, action, resource) when {{ {condition} }};");
        features::needed(&Body::Node(view)).contains(&features::NODE_LABELS)
    };
    assert!(reads_labels("principal.hasTag(\"team\")"));
    assert!(reads_labels("Node::\"a\".hasTag(\"team\")"));
    assert!(!reads_labels("context.headers.hasTag(\"team\") && principal == Node::\"hasTag(\""));
    let asks_of_named = |condition: &str| {
        let mut view = node_view();
        view.policies.policies[0].text =
            format!("permit(principal is Node, action, resource in Port::\"a:1\") when {{ {condition} }};");
        features::needed(&Body::Node(view)).contains(&features::NAMED_PORTS)
    };
    assert!(asks_of_named("Port::\"a:1\" in Service::\"b\"") && asks_of_named("Port::\"a:1\".number == 1"));
    assert!(
        asks_of_named("Service::\"a\" in Mesh::\"b\"")
            && asks_of_named("Route::\"a:1 /\" in DataClass::\"c\"")
    );
    let has_many_roots = |count: usize| {
        let keys = vec![r#"{"kid":"\"use\":\"x509-svid\"","kty":"EC","use":"x509-svid"}"#; count].join(",");
        let mut view = node_view();
        view.federated[0].document = format!(r#"{{"keys":[{keys}]}}"#).into_bytes();
        features::needed(&Body::Node(view)).contains(&features::MANY_ROOTS)
    };
    assert!(has_many_roots(33) && !has_many_roots(32));
    assert!(!asks_of_named("resource in Service::\"a\" && resource in [Port::\"a:1\"]"));
    assert!(!asks_of_named("resource == Port::\"a:1\" || context.path == \"Port::\""));
    assert_eq!(features::needed(&Body::Service(service_view())), ["dns-discovery", "fixed-discovery"]);
    let mut sorted = features::ALL;
    sorted.sort_unstable();
    assert_eq!(sorted, features::ALL);
}

#[test]
fn statements_of_the_boundary_come_back_as_such() {
    let mut view = node_view();
    view.policies.policies[0].mode = Mode::Boundary;
    let body = Body::Node(view);
    let Body::Node(node) = &body else { unreachable!() };
    let encoded = wire_view(wire::view::Body::Node(encode_node_view(node))).encode_to_vec();
    assert_eq!(decode_view(&encoded).unwrap().body, body);
    assert!(features::needed(&body).contains(&"boundaries-1"));
}

#[test]
fn a_wrong_field_of_a_node_view_is_named() {
    type Change = fn(&mut wire::View);
    let cases: &[(&str, Change)] = &[
        ("trust_domain", |view| view.trust_domain = "Shop".into()),
        ("mesh", |view| view.mesh.clear()),
        ("body", |view| view.body = None),
        ("node.spiffe_id", |view| node_of(view).spiffe_id = "web".into()),
        ("node.spiffe_id", |view| node_of(view).spiffe_id = "spiffe://shop.example/admin/a".into()),
        ("node.spiffe_id", |view| node_of(view).spiffe_id = "spiffe://shop.example/mesh/b/node/a".into()),
        ("node.spiffe_id", |view| node_of(view).spiffe_id = "spiffe://b/mesh/shop/node/a".into()),
        ("node.ports[0].number", |view| node_of(view).ports[0].number = 0),
        ("node.ports[0].number", |view| node_of(view).ports[0].number = 73_616),
        ("node.ports[1]", |view| node_of(view).ports[1].number = 8080),
        ("node.ports[0].protocol", |view| node_of(view).ports[0].protocol = 0),
        ("node.ports[0].protocol", |view| node_of(view).ports[0].protocol = 99),
        ("node.ports[0].services[0]", |view| node_of(view).ports[0].services[0] = "a/b".into()),
        ("node.ports[0].services[1]", |view| node_of(view).ports[0].services.push("orders".into())),
        ("node.ports[0].routes[1]", |view| node_of(view).ports[0].routes[1].template = "/a/*/b".into()),
        ("node.ports[0].routes[1]", |view| {
            let route = node_of(view).ports[0].routes[0].clone();
            node_of(view).ports[0].routes[1] = route;
        }),
        ("node.ports[0].routes[0].data_classes[0]", |view| {
            node_of(view).ports[0].routes[0].data_classes[0].clear();
        }),
        ("node.ports[0].routes[0].data_classes[2]", |view| {
            node_of(view).ports[0].routes[0].data_classes.push("pii".into());
        }),
        ("node.policies[0].name", |view| node_of(view).policies[0].name.clear()),
        ("node.policies[0].boundary", |view| node_of(view).policies[0].boundary = true),
        ("node.policies[1]", |view| {
            let policy = node_of(view).policies[0].clone();
            node_of(view).policies.push(policy);
        }),
        ("node.roles[0].role", |view| node_of(view).roles[0].role.clear()),
        ("node.roles[0].members[0]", |view| node_of(view).roles[0].members[0] = "clerk".into()),
        ("node.roles[1]", |view| {
            let role = node_of(view).roles[0].clone();
            node_of(view).roles.push(role);
        }),
        ("node.labels[0].values[0].nodes[0]", |view| {
            node_of(view).labels[0].values[0].nodes[0] = "web".into();
        }),
        ("node.labels[0].values[0].nodes", |view| {
            node_of(view).labels[0].values[0].nodes[0] = "spiffe://shop.example/mesh/bank/node/web".into();
        }),
        ("node.labels[0].values[0].nodes", |view| {
            node_of(view).labels[0].values[0].nodes[0] = "spiffe://partner.example/mesh/shop/node/web".into();
        }),
        ("node.labels[0].values[1].nodes", |view| {
            let node = node_of(view).labels[0].values[0].nodes[0].clone();
            node_of(view).labels[0].values[1].nodes.push(node);
        }),
        ("node.labels[1]", |view| {
            let label = node_of(view).labels[0].clone();
            node_of(view).labels.push(label);
        }),
        ("node.named_ports[0].node", |view| node_of(view).named_ports[0].node = "web".into()),
        ("node.named_ports[0].node", |view| {
            node_of(view).named_ports[0].node = "spiffe://shop.example/mesh/bank/node/web".into();
        }),
        ("node.named_ports[0].number", |view| node_of(view).named_ports[0].number = 0),
        ("node.named_ports[2]", |view| {
            let port = node_of(view).named_ports[0].clone();
            node_of(view).named_ports.push(port);
        }),
        ("node.named_ports[1].listener.protocol", |view| {
            node_of(view).named_ports[1].listener.as_mut().unwrap().protocol = 99;
        }),
        ("node.named_ports[1].listener.services[0]", |view| {
            node_of(view).named_ports[1].listener.as_mut().unwrap().services[0].clear();
        }),
        ("node.named_ports[1].listener.routes[2]", |view| {
            let routes = &mut node_of(view).named_ports[1].listener.as_mut().unwrap().routes;
            routes.push(routes[0].clone());
        }),
        ("node.named_ports[1].listener.routes[0].data_classes[1]", |view| {
            let routes = &mut node_of(view).named_ports[1].listener.as_mut().unwrap().routes;
            routes[0].data_classes.push("pii".into());
        }),
        ("node.backends[0]", |view| node_of(view).backends[0] = "..".into()),
        ("node.federated_bundles[0].trust_domain", |view| {
            node_of(view).federated_bundles[0].trust_domain = "Partner.example".into();
        }),
        ("node.federated_bundles[1]", |view| {
            let bundle = node_of(view).federated_bundles[0].clone();
            node_of(view).federated_bundles.push(bundle);
        }),
        ("node.federated_bundles", |view| {
            node_of(view).federated_bundles[0].trust_domain = "shop.example".into();
        }),
    ];
    for (field, change) in cases {
        let mut view = wire_node();
        change(&mut view);
        assert_eq!(decode_view(&view.encode_to_vec()).unwrap_err().field, *field);
    }
}

#[test]
fn a_wrong_field_of_a_service_view_is_named() {
    fn target(view: &mut wire::View, index: usize) -> &mut wire::Target {
        &mut service_of(view).ports[0].targets[index]
    }
    fn fixed(view: &mut wire::View, address: &str) {
        let addresses = vec![address.to_owned()];
        target(view, 2).discovery = Some(wire::target::Discovery::Fixed(wire::Fixed { addresses }));
    }
    type Change = fn(&mut wire::View);
    let cases: &[(&str, Change)] = &[
        ("service.name", |view| service_of(view).name.clear()),
        ("service.ports[0].number", |view| service_of(view).ports[0].number = 65_536),
        ("service.ports[0].protocol", |view| service_of(view).ports[0].protocol = 0),
        ("service.ports[0].targets[0].spiffe_id", |view| target(view, 0).spiffe_id.clear()),
        ("service.ports[0].targets[0].spiffe_id", |view| {
            target(view, 0).spiffe_id = "spiffe://other/mesh/shop/node/a".into();
        }),
        ("service.ports[0].targets[1]", |view| {
            target(view, 1).spiffe_id = "spiffe://shop.example/mesh/shop/node/a".into();
        }),
        ("service.ports[0].targets[1].discovery", |view| target(view, 1).discovery = None),
        ("service.ports[0].targets[1].dns.hostname", |view| {
            let dns = wire::Dns { hostname: String::new(), all_addresses: false, ip_preference: 1 };
            target(view, 1).discovery = Some(wire::target::Discovery::Dns(dns));
        }),
        ("service.ports[0].targets[1].dns.ip_preference", |view| {
            let dns = wire::Dns { hostname: "a".into(), all_addresses: false, ip_preference: 0 };
            target(view, 1).discovery = Some(wire::target::Discovery::Dns(dns));
        }),
        ("service.ports[0].targets[2].fixed.addresses[0]", |view| fixed(view, "localhost:80")),
        ("service.ports[0].targets[2].fixed.addresses[0]", |view| fixed(view, "10.0.0.1")),
        ("service.ports[0].targets[2].fixed.addresses[0]", |view| fixed(view, "10.0.0.1:0")),
        ("service.ports[0].targets[2].fixed.addresses[0]", |view| fixed(view, "0.0.0.0:80")),
        ("service.ports[0].targets[2].fixed.addresses[0]", |view| fixed(view, "224.0.0.1:80")),
    ];
    for (field, change) in cases {
        let mut view = wire_service();
        change(&mut view);
        assert_eq!(decode_view(&view.encode_to_vec()).unwrap_err().field, *field);
    }
}

#[test]
fn what_was_known_of_a_decision_comes_back_as_it_went() {
    let lines = HeaderLines { name: "x-tenant".into(), values: Some(vec!["blue".into()]) };
    let unreadable = HeaderLines { name: "x-team".into(), values: None };
    let user = User {
        issuer: name("login"),
        issuer_url: "https://login.example".into(),
        id: "alice".into(),
        groups: vec!["support".into()],
        scopes: vec!["read".into()],
        roles: vec!["clerk".into()],
        claims: [("team".into(), vec!["blue".into()])].into(),
    };
    let actors = vec![SpiffeId::parse("spiffe://shop.example/mesh/shop/node/web").unwrap()];
    let made_for = OnBehalfOf::User(Arc::new(Origin { user, actors }));
    let mut decision = wire::Decision {
        at_unix_ms: 9,
        action: "upgrade".into(),
        peer_address: "10.1.2.3:4".into(),
        facts: Some(wire::DecisionFacts {
            time_unix_ms: 7,
            certificate_not_before_unix_ms: 5,
            tls_version: "TLSv1.3".into(),
            tls_group: "X25519".into(),
            method: "GET".into(),
            host: Some("orders".into()),
            query: Some("a=b".into()),
            headers: [&lines, &unreadable].map(encode_header_lines).to_vec(),
            shortened: true,
            on_behalf_of: encode_on_behalf_of(&made_for),
        }),
        ..wire::Decision::default()
    };
    let tls = Tls { version: "TLSv1.3".into(), group: "X25519".into() };
    let address = Some("10.1.2.3".parse().unwrap());
    let expected = Circumstances {
        peer: Peer::new(address, Some(tls)),
        moment: Moment { time: UnixMillis(7), certificate_since: Some(UnixMillis(5)) },
        gathered: Gathered::recorded(Some("orders".into()), vec![lines, unreadable]).made_for(made_for),
        query: Some("a=b".into()),
        method: "GET".into(),
        is_shortened: true,
    };
    assert_eq!(decode_circumstances(&decision), expected);
    // As an older agent told it.
    decision.facts = None;
    let expected = Circumstances {
        peer: Peer::new(address, None),
        moment: Moment { time: UnixMillis(9), certificate_since: None },
        gathered: Gathered::default(),
        query: None,
        method: "GET".into(),
        is_shortened: false,
    };
    assert_eq!(decode_circumstances(&decision), expected);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    assert_eq!(decode_view(b"\xff").unwrap_err().field, "view");
    let mut cut = wire_node().encode_to_vec();
    cut.truncate(cut.len() - 1);
    assert!(decode_view(&cut).is_err());
    assert_eq!(decode_view(b"").unwrap_err().field, "trust_domain");
}
