use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{
    DnsDiscovery, Duration, EgressFilter, EnrollmentSpec, FixedDiscovery, FixedEndpoint, Listener,
    ListenerTls, MeshSpec, Metadata, PolicySpec, Resource, RouteDeclaration, ServiceDiscovery,
    VirtualServiceSpec, WorkloadEnrollment, resource::Spec, service_discovery::Discovery,
};

use super::*;
use crate::resources::testing::*;

const EDITOR: Rights = Rights { resources: true, policies: false, boundaries: false, identities: false };

/// `field: message; help` of each problem, with the resource's place in front.
fn refused(catalog: &Catalog, batch: &[Resource], rights: Rights) -> Vec<String> {
    let problems = try_admit(catalog, batch, rights).unwrap_err();
    problems
        .iter()
        .map(|problem| format!("{} {}: {}", problem.resource, problem.field, problem.description()))
        .collect()
}

fn accepted(catalog: &Catalog, batch: &[Resource], rights: Rights) -> Admission {
    try_admit(catalog, batch, rights).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The problems of one resource in a mesh that exists.
fn refused_alone(resource: Resource) -> Vec<String> {
    let problems = refused(&catalog_of(&[mesh("shop")]), &[resource], EVERYTHING);
    problems.iter().map(|problem| problem.strip_prefix("0 ").unwrap_or(problem).to_owned()).collect()
}

fn changed_node(change: impl FnOnce(&mut hauberk_proto::mesh::v1::VirtualNodeSpec)) -> Resource {
    let mut node = node("orders", [listener(8080, "http")]);
    change(node_spec(&mut node));
    node
}

fn changed_listener(change: impl FnOnce(&mut Listener)) -> Resource {
    changed_node(|spec| change(&mut spec.listeners[0]))
}

#[test]
fn a_whole_shop_is_accepted_in_any_order() {
    let admission = accepted(&Catalog::default(), &shop(), EVERYTHING);
    assert!(admission.changes.iter().all(|change| change.outcome == Outcome::Created));
    assert_eq!(admission.warnings, Vec::<String>::new());
    let mut backwards = shop();
    backwards.reverse();
    accepted(&Catalog::default(), &backwards, EVERYTHING);
}

#[test]
fn what_is_already_so_is_unchanged() {
    let catalog = catalog_of(&shop());
    let admission = accepted(&catalog, &shop(), EVERYTHING);
    assert!(admission.changes.iter().all(|change| change.outcome == Outcome::Unchanged));
    let mut labelled = shop().remove(1);
    labelled.labels.insert("team".into(), "checkout".into());
    let admission = accepted(&catalog, &[labelled], EDITOR);
    assert_eq!(admission.changes[0].outcome, Outcome::Configured);
    assert_eq!(admission.changes[0].previous.as_ref().unwrap().resource_version(), 1);
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let mut web = node("web", [listener(0, "htp"), listener(70_000, "http")]);
    node_spec(&mut web).backends.extend([backend("odrers"), backend("orders")]);
    let batch = [
        Resource::default(),
        web,
        node("a/b", []),
        service("orders", "ordres", None),
        node("orders", [listener(8080, "http"), listener(8080, "tcp")]),
        policy("p", "permit(principal, action, resource);\nforbid(principal is Nod, action, resource);"),
        service("orders", "orders", None),
    ];
    let problems = refused(&catalog_of(&[mesh("shop")]), &batch, EVERYTHING);
    let expected = [
        "0 kind: it is missing, or not known to this release; it is one of Boundary, DataClass, Enrollment, ExternalService, FederatedTrustDomain, JwtIssuer, Mesh, Policy, PolicyTemplate, Role, VirtualGateway, VirtualNode, VirtualService",
        "0 name: a name must not be empty",
        "1 spec.backends[0].virtualService.virtualServiceName: virtual service \"odrers\" does not exist; did you \
         mean \"orders\"?",
        "1 spec.listeners[0].portMapping.port: 0 is not a port number from 1 to 65535",
        "1 spec.listeners[0].portMapping.protocol: \"htp\" is not known; did you mean \"http\"?",
        "1 spec.listeners[1].portMapping.port: 70000 is not a port number from 1 to 65535",
        "2 name: a name consists of A-Z a-z 0-9 . _ - and must not contain '/'",
        "3 spec.provider.virtualNode.virtualNodeName: virtual node \"ordres\" does not exist",
        "4 spec.listeners[1].portMapping.port: port 8080 is already that of listeners[0]",
    ];
    for expected in expected {
        assert!(problems.iter().any(|problem| problem == expected), "{expected}\nin {problems:#?}");
    }
    assert!(problems.iter().any(|problem| problem.starts_with("5 spec.cedar: 2:")), "{problems:#?}");
    let last = "6 name: VirtualService shop/orders is already resources[3]";
    assert_eq!(problems.last().unwrap(), last);
    // What is itself refused is not also reported as missing.
    assert!(!problems.iter().any(|problem| problem.contains("service \"orders\" does not")), "{problems:#?}");
}

#[test]
fn one_mistake_does_not_hide_another() {
    let twice = node("orders", [listener(8080, "htp"), listener(8080, "http"), listener(9090, "http")]);
    let mut wrong = node("pay", [listener(7070, "http")]);
    node_spec(&mut wrong).authorization = Some("OFF".into());
    let batch = [
        service("lost", "ordesr", Some(70_000)),
        service("a/b", "ordesr", Some(0)),
        twice,
        // These ports are told of nodes that are refused for something else.
        service("orders", "orders", Some(9090)),
        service("orders-8080", "orders", Some(8080)),
        service("orders-80", "orders", Some(80)),
        wrong,
        service("pay", "pay", Some(7070)),
    ];
    assert_eq!(
        refused(&catalog_of(&shop()), &batch, EVERYTHING),
        [
            "0 spec.provider.virtualNode.port: 70000 is not a port number from 1 to 65535",
            "0 spec.provider.virtualNode.virtualNodeName: virtual node \"ordesr\" does not exist; did you mean \
             \"orders\"?",
            "1 name: a name consists of A-Z a-z 0-9 . _ - and must not contain '/'",
            "2 spec.listeners[0].portMapping.protocol: \"htp\" is not known; did you mean \"http\"?",
            "2 spec.listeners[1].portMapping.port: port 8080 is already that of listeners[0]",
            "5 spec.provider.virtualNode.port: virtual node \"orders\" has no listener with port 80; its listeners \
             are 8080, 9090",
            "6 spec.authorization: \"OFF\" is not known; it is one of ENFORCE, AUDIT",
        ]
    );
}

#[test]
fn what_was_meant_is_looked_for_a_few_times() {
    let mut web = node("web", []);
    node_spec(&mut web).backends.extend((100..300).map(|number| backend(&format!("orders{number}"))));
    let problems = refused(&catalog_of(&shop()), &[web], EVERYTHING);
    let hints = problems.iter().filter(|problem| problem.ends_with("did you mean \"orders\"?")).count();
    assert_eq!((problems.len(), hints), (200, 50));
    // Of routes it is looked for the same path no more often.
    let orders = node("orders", [routes(listener(8080, "http"), &["GET,PUT /x"])]);
    let forbids = (100..300).map(|number| {
        let text = "forbid(principal, action, resource == Route::\"orders:8080 GET /x\");";
        policy(&format!("no-{number}"), text)
    });
    let problems = refused(&catalog_of(&[mesh("shop"), orders]), &forbids.collect::<Vec<_>>(), EVERYTHING);
    let hints = problems.iter().filter(|problem| problem.contains("did you mean \"GET,PUT /x\"?")).count();
    assert_eq!((problems.len(), hints), (200, 50));
}

#[test]
fn references_name_the_nearest() {
    let catalog = catalog_of(&shop());
    let mut web = node("web", []);
    node_spec(&mut web).backends.extend([backend("orders"), backend("oders")]);
    let mut elsewhere = node("web", []);
    elsewhere.mesh = "shpo".into();
    let batch = [web, service("pay", "ordesr", None), service("pay2", "orders", Some(80)), elsewhere];
    assert_eq!(
        refused(&catalog, &batch, EVERYTHING),
        [
            "0 spec.backends[1].virtualService.virtualServiceName: virtual service \"oders\" does not exist; did you \
             mean \"orders\"?",
            "1 spec.provider.virtualNode.virtualNodeName: virtual node \"ordesr\" does not exist; did you mean \
             \"orders\"?",
            "2 spec.provider.virtualNode.port: virtual node \"orders\" has no listener with port 80; its listeners \
             are 8080, 9090",
            "3 mesh: mesh \"shpo\" does not exist; did you mean \"shop\"?",
        ]
    );
}

#[test]
fn a_port_that_a_service_uses_stays() {
    let catalog = catalog_of(&shop());
    let without = node("orders", [listener(9090, "http")]);
    assert_eq!(
        refused(&catalog, std::slice::from_ref(&without), EVERYTHING),
        [
            "0 spec.listeners: virtual service \"orders\" is port 8080, which this node has no longer; keep the \
          listener, or move orders to another port first"
        ]
    );
    accepted(&catalog, &[without, service("orders", "orders", Some(9090))], EVERYTHING);
}

#[test]
fn names_and_labels_have_limits() {
    let labelled = |key: String, value: String| {
        let mut node = node("orders", []);
        node.labels.insert(key, value);
        refused_alone(node)
    };
    assert_eq!(
        labelled("k".repeat(129), "v".into())[0],
        format!("labels.{}: its key has 129 characters: at most 128", "k".repeat(129))
    );
    assert_eq!(
        labelled("k".into(), "v".repeat(257)),
        ["labels.k: its value has 257 characters: at most 256"]
    );
    assert_eq!(labelled("k".into(), "a\nb".into()), ["labels.k: it holds a control character"]);
    assert_eq!(labelled(String::new(), "v".into()), ["labels: a label has an empty key"]);
    let mut many = node("orders", []);
    many.labels = (0..51).map(|n| (n.to_string(), String::new())).collect();
    assert_eq!(refused_alone(many), ["labels: 51 labels are too many: at most 50"]);
    let name = "n".repeat(256);
    assert_eq!(refused_alone(node(&name, [])), ["name: a name has at most 255 bytes, this one has 256"]);
    let mut nowhere = node("orders", []);
    nowhere.mesh.clear();
    assert!(refused_alone(nowhere)[0].starts_with("mesh: a virtual node belongs to a mesh"));
    let mut inside = mesh("shop");
    inside.mesh = "other".into();
    assert!(refused_alone(inside)[0].starts_with("mesh: a mesh is in itself"));
}

#[test]
fn a_mesh_says_only_what_is_enforced() {
    let refused_mesh = |spec| refused_alone(resource("", "shop", Spec::MeshSpec(spec)));
    let egress = |word: &str| {
        refused_mesh(MeshSpec {
            egress_filter: Some(EgressFilter { r#type: word.into() }),
            ..MeshSpec::default()
        })
    };
    assert!(
        egress("ALLOW_ALL")[0]
            .starts_with("spec.egressFilter.type: ALLOW_ALL would let out what no policy permits")
    );
    assert_eq!(
        egress("DROP_AL"),
        ["spec.egressFilter.type: \"DROP_AL\" is not known; did you mean \"DROP_ALL\"?"]
    );
    assert!(egress("")[0].starts_with("spec.egressFilter.type: it is empty"));
    let audit = MeshSpec { authorization: Some("audit".into()), ..MeshSpec::default() };
    assert_eq!(refused_mesh(audit), ["spec.authorization: \"audit\" is not known; did you mean \"AUDIT\"?"]);
    let age = |value, unit: &str| {
        let max_view_age = Some(Duration { value, unit: unit.into() });
        refused_mesh(MeshSpec { max_view_age, ..MeshSpec::default() })
    };
    assert!(age(Some(1), "min")[0].starts_with("spec.maxViewAge.unit: \"min\" is not known"));
    assert_eq!(age(None, "s"), ["spec.maxViewAge.value: a number is missing"]);
    assert!(age(Some(999), "ms")[0].starts_with("spec.maxViewAge: at least 1 s"));
}

#[test]
fn a_listener_says_only_what_is_enforced() {
    let tls = |mode: &str| {
        refused_alone(changed_listener(|listener| listener.tls = Some(ListenerTls { mode: mode.into() })))
    };
    assert!(tls("PERMISSIVE")[0].starts_with("spec.listeners[0].tls.mode: PERMISSIVE would let callers in"));
    assert!(tls("DISABLED")[0].contains("; write STRICT"));
    assert!(tls("strict")[0].contains("did you mean \"STRICT\"?"));
    let word = |change: fn(&mut Listener)| refused_alone(changed_listener(change)).remove(0);
    assert!(
        word(|listener| listener.authorization = Some("OFF".into()))
            .starts_with("spec.listeners[0].authorization")
    );
    assert!(
        word(|listener| listener.undeclared = Some("ALLOW".into()))
            .starts_with("spec.listeners[0].undeclared")
    );
    assert!(
        word(|listener| listener.port_mapping = None)
            .starts_with("spec.listeners[0].portMapping: it is missing")
    );
    let port = |listener: &mut Listener| listener.port_mapping.as_mut().unwrap().port = None;
    assert!(word(port).starts_with("spec.listeners[0].portMapping.port: a port number"));
    let node = changed_node(|spec| spec.authorization = Some("AUDITED".into()));
    assert!(refused_alone(node)[0].starts_with("spec.authorization"));
    let crowded: Vec<_> = (1..=65).map(|port| listener(port, "tcp")).collect();
    let many = self::node("orders", crowded);
    assert_eq!(refused_alone(many), ["spec.listeners: 65 listeners are too many: at most 64"]);
}

#[test]
fn routes_fit_their_protocol() {
    let of = |protocol: &str, paths: &[&str]| {
        refused_alone(node("orders", [routes(listener(80, protocol), paths)]))
    };
    assert!(
        of("http", &["shop.Orders/Get"])[0]
            .starts_with("spec.listeners[0].routes[0].path: a route of an http")
    );
    assert!(
        of("grpc", &["/orders"])[0]
            .starts_with("spec.listeners[0].routes[0].path: a route of a grpc listener")
    );
    assert!(of("tcp", &["/orders"])[0].starts_with("spec.listeners[0].routes: a tcp listener has no routes"));
    assert!(
        of("http", &["/ok", "/a/*/b"])[0]
            .starts_with("spec.listeners[0].routes[1].path: \"*\" matches the rest")
    );
    assert_eq!(of("http", &["/a", "/a"]), ["spec.listeners[0].routes[1]: this is already routes[0]"]);
    assert!(of("http", &["/a/{x}", "/a/{y}"])[0].starts_with("spec.listeners: routes /a/{x} and /a/{y}"));
    let methods = |protocol: &str, path: &str, methods: &[&str]| {
        let mut listener = listener(80, protocol);
        let methods = methods.iter().map(ToString::to_string).collect();
        listener.routes.push(RouteDeclaration { path: path.into(), methods, ..RouteDeclaration::default() });
        refused_alone(node("orders", [listener]))
    };
    assert!(
        methods("http", "/a", &["GET", "get"])[0]
            .starts_with("spec.listeners[0].routes[0].methods[1]: \"get\"")
    );
    assert!(methods("http", "/a", &["GET", "GET"])[0].contains("GET stands here twice"));
    assert!(methods("grpc", "a.B/C", &["GET"])[0].starts_with("spec.listeners[0].routes[0].methods: a gRPC"));
    let access = |protocol: &str, path: &str, access: &str| {
        let mut listener = listener(80, protocol);
        let access = Some(access.into());
        listener.routes.push(RouteDeclaration { path: path.into(), access, ..RouteDeclaration::default() });
        refused_alone(node("orders", [listener]))
    };
    let field = "spec.listeners[0].routes[0].access";
    assert!(access("http", "/a", "READ")[0].starts_with(&format!("{field}: it is said of gRPC methods")));
    assert!(
        access("grpc", "a.B/C", "READS")[0]
            .starts_with(&format!("{field}: \"READS\" is not known; did you mean"))
    );
    let denying = changed_listener(|listener| {
        *listener = Listener { undeclared: Some("DENY".into()), ..self::listener(80, "tcp") };
    });
    assert!(
        refused_alone(denying)[0].starts_with("spec.listeners[0].undeclared: a tcp listener has no routes")
    );
}

#[test]
fn discovery_leads_somewhere() {
    let discover = |discovery| {
        refused_alone(changed_node(|spec| spec.service_discovery = Some(ServiceDiscovery { discovery })))
    };
    assert!(discover(None)[0].starts_with("spec.serviceDiscovery: it is empty"));
    let dns = |hostname: &str, response: &str, preference: &str| {
        discover(Some(Discovery::Dns(DnsDiscovery {
            hostname: hostname.into(),
            response_type: Some(response.into()),
            ip_preference: Some(preference.into()),
        })))
    };
    for wrong in ["", "a..b", "-a", "a_b.c-", "ä", &"a".repeat(64), &"a.".repeat(130)] {
        let problems = dns(wrong, "ENDPOINTS", "IPv4_ONLY");
        assert!(problems[0].starts_with("spec.serviceDiscovery.dns.hostname"), "{wrong}");
    }
    let problems = dns("a.b", "ENDPOINT", "IPv5_ONLY");
    assert!(
        problems[0]
            .starts_with("spec.serviceDiscovery.dns.responseType: \"ENDPOINT\" is not known; did you mean")
    );
    assert!(problems[1].starts_with("spec.serviceDiscovery.dns.ipPreference: \"IPv5_ONLY\""));

    let fixed = |address: &str, listener_port, port| {
        let endpoints = vec![FixedEndpoint { address: address.into(), listener_port, port }];
        let discovery = Some(Discovery::Fixed(FixedDiscovery { endpoints }));
        changed_node(|spec| spec.service_discovery = Some(ServiceDiscovery { discovery }))
    };
    let field = "spec.serviceDiscovery.fixed.endpoints[0]";
    for (wrong, end) in [
        (fixed("localhost", None, None), "address: \"localhost\" is not an IP address"),
        (fixed("10.0.0.1:80", None, None), "address: \"10.0.0.1:80\" is not an IP address"),
        (fixed("0.0.0.0", None, None), "address: nobody can be reached"),
        (fixed("ff02::1", None, None), "address: nobody can be reached"),
        (fixed("10.0.0.1", Some(81), None), "listenerPort: there is no listener with port 81"),
        (fixed("10.0.0.1", None, Some(81)), "port: there is no listener with port 81; name the listener"),
        (fixed("10.0.0.1", Some(8080), Some(0)), "port: 0 is not a port number"),
    ] {
        let problems = refused_alone(wrong);
        assert!(problems[0].starts_with(&format!("{field}.{end}")), "{problems:?}");
    }
    let catalog = catalog_of(&[mesh("shop")]);
    accepted(&catalog, &[fixed("10.0.0.1", Some(8080), Some(15_443))], EDITOR);
    let none = discover(Some(Discovery::Fixed(FixedDiscovery::default())));
    assert!(none[0].starts_with("spec.serviceDiscovery.fixed.endpoints: it is empty"));
}

#[test]
fn policies_are_checked_in_their_places() {
    let alone = |cedar: &str| refused_alone(policy("p", cedar)).remove(0);
    let typo =
        refused_alone(policy("p", "permit(principal is Node, action,\n  resource in Servce::\"orders\");"));
    assert!(typo.iter().any(|problem| problem.starts_with("spec.cedar: 2:15+")), "{typo:?}");
    let role = alone("permit(\n  principal in Role::\"clerks\", action, resource);");
    assert!(role.starts_with("spec.cedar: 2:16+14: role \"clerks\" does not exist"), "{role}");
    assert!(alone("").starts_with("spec.cedar: 1:1+"));
    let spec = PolicySpec {
        cedar: "permit(principal is Node, action, resource);".into(),
        mode: Some("AUDITING".into()),
        description: Some("d".repeat(1_001)),
        template: None,
    };
    let problems = refused_alone(resource("shop", "p", Spec::Policy(spec)));
    assert_eq!(
        problems,
        [
            "spec.mode: \"AUDITING\" is not known; did you mean \"AUDIT\"?",
            "spec.description: it has 1001 characters; at most 1000 are kept"
        ]
    );
}

#[test]
fn texts_that_no_request_has_are_warned_of() {
    let rpc = routes(listener(50051, "grpc"), &["shop.Orders/Get", "shop.Orders/Delete"]);
    let all = [
        mesh("shop"),
        node("orders", [routes(listener(8080, "http"), &["/orders/{id}", "/files/{rest...}"]), rpc]),
    ];
    let catalog = catalog_of(&all);
    let warned = |catalog: &Catalog, action: &str, condition: &str| {
        let text = format!("forbid(principal, action {action}, resource) when {{ {condition} }};");
        accepted(catalog, &[policy("p", &text)], EVERYTHING).warnings
    };
    let (http, call) = ("== Action::\"GET\"", "== Action::\"call\"");
    for (action, condition, told) in [
        (
            http,
            "context.method == \"delete\"",
            "\"delete\" is never met: methods are compared as they are sent; write \"DELETE\"",
        ),
        (http, "[\"GET\", \"Put\"].contains(context.method)", "write \"PUT\""),
        (
            http,
            "resource.template == \"/order/{id}\"",
            "declares such a route; did you mean \"/orders/{id}\"?",
        ),
        (
            http,
            "context.params.hasTag(\"idd\") && context.params.getTag(\"idd\") == \"1\"",
            "such a parameter; did you mean \"id\"?",
        ),
        (call, "context.service == \"shop.Order\"", "such a gRPC service; did you mean \"shop.Orders\"?"),
        (call, "[\"Delte\"].containsAny([context.rpc])", "such a gRPC method; did you mean \"Delete\"?"),
    ] {
        let warnings = warned(&catalog, action, condition);
        assert!(warnings.len() == 1 && warnings[0].ends_with(told), "{condition}: {warnings:?}");
    }
    for (action, condition) in [
        (http, "context.method == \"DELETE\" || context.method == \"purge\" || context.method == \"Link\""),
        (http, "resource.template == \"/orders/{id}\" || resource.template == \"*undeclared\""),
        (http, "context.params.hasTag(\"id\") || context.params.hasTag(\"rest\")"),
        (http, "context.query.hasTag(\"idd\") || context.headers.hasTag(\"idd\")"),
        (call, "context.service == \"shop.Orders\" && [\"Get\", \"Delete\"].contains(context.rpc)"),
    ] {
        assert_eq!(warned(&catalog, action, condition), [""; 0], "{condition}");
    }
    // Policies decide about undeclared methods too, unless these are denied.
    for (undeclared, how) in [
        ("DECIDE", "is declared by none, and met where `undeclared` is DECIDE alone"),
        ("DENY", "is never met"),
    ] {
        let rpc = routes(listener(50051, "grpc"), &["shop.Orders/Get"]);
        let rpc = Listener { undeclared: Some(undeclared.to_owned()), ..rpc };
        let catalog = catalog_of(&[mesh("shop"), node("orders", [rpc])]);
        let warnings = warned(&catalog, call, "context.service == \"a.B\"");
        let told = format!("\"a.B\" {how}: no port of the mesh declares such a gRPC service");
        assert!(warnings.len() == 1 && warnings[0].ends_with(&told), "{warnings:?}");
    }
    // What a port serves that declares nothing, or all methods of a service, is not known.
    for routes_of_rpc in [&["shop.Orders/*"][..], &[]] {
        let rpc = routes(listener(50051, "grpc"), routes_of_rpc);
        let catalog = catalog_of(&[mesh("shop"), node("orders", [rpc])]);
        assert_eq!(warned(&catalog, call, "context.rpc == \"Delte\""), [""; 0], "{routes_of_rpc:?}");
    }
}

#[test]
fn policies_may_speak_of_what_comes_later_but_not_unnoticed() {
    let catalog = catalog_of(&shop());
    let text = "permit(principal == Node::\"wbe\", action, resource in Service::\"orders\");\n\
                permit(principal == Node::\"web\", action, resource == Route::\"orders:8080 /x\");\n\
                permit(principal == Node::\"web\", action, resource in Port::\"orders:81\");\n\
                permit(principal == Node::\"web\", action, resource in Service::\"order\");";
    let admission = accepted(&catalog, &[policy("p", text)], EVERYTHING);
    assert_eq!(
        admission.warnings,
        [
            "Policy shop/p, 1:21: Node::\"wbe\" does not exist: there is no virtual node \"wbe\" in mesh \"shop\"; did \
             you mean \"web\"?",
            "Policy shop/p, 2:54: Route::\"orders:8080 /x\" does not exist: port 8080 of virtual node \"orders\" \
             declares no such route; it declares none: match context.path, or declare it",
            "Policy shop/p, 3:54: Port::\"orders:81\" does not exist: virtual node \"orders\" has no listener with port \
             81; its listeners are 8080, 9090",
            "Policy shop/p, 4:54: Service::\"order\" does not exist: there is no virtual service \"order\" in mesh \
             \"shop\"; did you mean \"orders\"?",
            "Mesh shop: policy p/2 says nothing new: allow-web-to-orders permits all of it",
        ]
    );
    let text = "forbid(principal == Node::\"web\", action, resource) when { context.peer.federated };\n\
                forbid(principal is Node, action, resource);\n\
                permit(principal is Node, action == Action::\"GET\", resource) when { context.path == \"/a\" && context.path == \"/b\" };\n\
                permit(principal is Node, action == Action::\"PUT\", resource in Service::\"orders\") when { true };";
    let empty = catalog_of(&[
        mesh("shop"),
        node("orders", [listener(8080, "http")]),
        node("web", []),
        service("orders", "orders", None),
    ]);
    assert_eq!(
        accepted(&empty, &[policy("p", text)], EVERYTHING).warnings,
        [
            "Mesh shop: policy p/3 is about nothing: its conditions never hold",
            "Mesh shop: the conditions of policy p/4 always hold: leave them out",
            "Mesh shop: policy p/1 says nothing new: p/2 forbids all of it",
            "Mesh shop: policy p/3 permits nothing: p/2 forbids all of it",
            "Mesh shop: policy p/4 permits nothing: p/2 forbids all of it",
        ]
    );
    let declared = ["/orders/{id}", "/health", "/a", "/b", "/c", "/d"];
    let catalog = catalog_of(&[mesh("shop"), node("orders", [routes(listener(8080, "http"), &declared)])]);
    let text = "permit(principal is Node, action, resource == Route::\"orders:8080 /order/{id}\");\n\
                permit(principal is Node, action, resource == Route::\"orders:8080 /somewhere/else\");\n\
                permit(principal is Node, action, resource in Port::\"orders:8081\");";
    let ends = [
        "declares no such route; did you mean \"/orders/{id}\"?",
        "declares no such route; it declares \"/orders/{id}\", \"/health\", \"/a\", \"/b\", \"/c\", …",
        "has no listener with port 8081; its only listener is 8080",
    ];
    let warnings = accepted(&catalog, &[policy("p", text)], EVERYTHING).warnings;
    for (warning, end) in warnings.iter().zip(ends) {
        assert!(warning.ends_with(end), "{warning}");
    }
    assert_eq!(warnings.len(), 3);
    // What is meant to be stopped must be there, or nothing is.
    let forbids = text.replace("permit(principal is Node", "forbid(principal");
    for batch in [policy("p", &forbids), boundary("p", &forbids)] {
        let problems = refused(&catalog, &[batch], EVERYTHING);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("spec.cedar: 1:39+32: Route::\"orders:8080 /order/{id}\" does not exist"),
            "{problems:?}"
        );
        for (problem, end) in problems.iter().zip(ends) {
            assert!(problem.contains(end), "{problem}");
        }
    }
    let misspelt = policy("p", "forbid(principal == Node::\"wbe\", action, resource);");
    let problems = refused(&catalog_of(&shop()), std::slice::from_ref(&misspelt), EVERYTHING);
    assert!(problems[0].contains("did you mean \"web\"?"), "{problems:?}");
    // It may come with it.
    assert!(accepted(&catalog, &[misspelt, node("wbe", [])], EVERYTHING).warnings.is_empty());
}

#[test]
fn a_workload_of_ours_that_nobody_becomes_is_told() {
    let catalog = catalog_of(&shop());
    let of = |name: &str| {
        policy(
            "p",
            &format!("permit(principal == Workload::\"{name}\", action, resource in Service::\"orders\");"),
        )
    };
    let enrolled = resource(
        "shop",
        "nightly",
        Spec::Enrollment(EnrollmentSpec {
            parent: Some(parent("web")),
            workload: Some(WorkloadEnrollment {
                path: "batch/nightly".into(),
                selectors: vec!["unix:uid:7".into()],
                ..WorkloadEnrollment::default()
            }),
            attest: None,
        }),
    );
    let told = |name: &str| accepted(&catalog, &[of(name), enrolled.clone()], EVERYTHING).warnings;
    assert_eq!(told("batch/nightly"), [""; 0]);
    let misspelt = told("batch/nightli");
    assert!(
        misspelt[0].contains("no Enrollment gives anybody this identity; did you mean \"spiffe://"),
        "{misspelt:?}"
    );
}

#[test]
fn versions_that_others_have_changed_are_refused() {
    let catalog = catalog_of(&shop());
    accepted(&catalog, &[at_version(mesh("shop"), 1)], EDITOR);
    let problems =
        try_admit(&catalog, &[at_version(mesh("shop"), 7), at_version(node("new", []), 3)], EDITOR);
    let problems = problems.unwrap_err();
    assert!(problems.iter().all(|problem| problem.fault == Fault::Stale), "{problems:?}");
    assert_eq!(problems[0].field, "metadata.resourceVersion");
    assert_eq!(problems[0].message, "version 7 was read, but version 1 is stored: somebody else changed it");
    assert_eq!(problems[1].message, "version 3 was read, but it does not exist any longer");
}

/// One problem that only the right to change policies lifts; with it, a warning.
fn takes_policy_rights(catalog: &Catalog, batch: &[Resource], field: &str, message: &str) {
    let problems = try_admit(catalog, batch, EDITOR).unwrap_err();
    let found = problems.iter().find(|problem| problem.field == field && problem.message.contains(message));
    let found = found.unwrap_or_else(|| panic!("{field}: {message}\nin {problems:#?}"));
    assert_eq!(found.fault, Fault::Denied);
    let warnings = accepted(catalog, batch, EVERYTHING).warnings;
    assert!(warnings.iter().any(|warning| warning.contains(message)), "{warnings:#?}");
}

#[test]
fn editors_change_nodes_and_services_but_not_policies() {
    let catalog = catalog_of(&shop());
    let mut more = shop();
    more.retain(|resource| resource.name != "allow-web-to-orders");
    more.extend([node("pay", [listener(80, "http")]), service("pay", "pay", None)]);
    accepted(&catalog, &more, EDITOR);
    accepted(&Catalog::default(), &more, EDITOR);
    let problems = refused(&catalog, &[permit("p", "web", "orders")], EDITOR);
    assert_eq!(problems, ["0 kind: to change a policy takes the role policy-admin"]);
    let nobody = Rights { resources: false, ..EVERYTHING };
    let problems = refused(&catalog, &[node("new", [])], nobody);
    assert_eq!(problems, ["0 kind: to change a virtual node takes the role editor"]);
}

#[test]
fn what_stays_as_it_is_takes_no_role_and_keeps_what_it_is() {
    let stamped = |mut resource: Resource, uid: &str| {
        let metadata = Metadata { uid: uid.to_owned(), resource_version: 3, ..Metadata::default() };
        resource.metadata = Some(metadata);
        resource
    };
    let mut catalog = catalog_of(&shop());
    let (login, rule) = (issuer("login", |_| {}), permit("rule", "web", "orders"));
    let bound = boundary("none", "forbid(principal is Anonymous, action, resource);");
    let enrolled = enrolled("jobs", "web", "jobs");
    let others = [login.clone(), rule, bound, partner(), enrolled, role("r", &["web"], &[], &[])];
    catalog = accepted(&catalog, &others, EVERYTHING).after;
    let shop_name = Name::parse("shop").unwrap();
    let stored: Vec<_> = Kind::ALL
        .into_iter()
        .flat_map(|kind| {
            let named = catalog.mesh("shop").unwrap().of_kind(kind).clone();
            let key = |name| ResourceKey { kind, mesh: shop_name.clone(), name };
            named.into_iter().map(move |(name, entry)| (key(name), entry)).collect::<Vec<_>>()
        })
        .collect();
    for (key, entry) in stored {
        let resource = stamped(entry.resource().clone(), &format!("uid-{}", key.name));
        catalog.set(&key, Entry::new(resource, entry.model().clone()));
    }
    // A whole folder, of which one node changes.
    let editor = Rights { resources: true, policies: false, boundaries: false, identities: false };
    let web = labelled(shop().swap_remove(1), &[("team", "front")]);
    let folder: Vec<_> =
        shop().into_iter().filter(|one| one.name != "web").chain([web]).chain(others).collect();
    let admitted = accepted(&catalog, &folder, editor);
    let changed = admitted.changes.iter().filter(|change| change.outcome != Outcome::Unchanged);
    assert_eq!(changed.map(|change| change.key.to_string()).collect::<Vec<_>>(), ["VirtualNode shop/web"]);
    let (before, after) = (catalog.mesh("shop").unwrap(), admitted.after.mesh("shop").unwrap());
    for kind in Kind::ALL {
        for (name, entry) in before.of_kind(kind) {
            let later = &after.of_kind(kind)[name];
            assert_eq!((later.uid(), later.resource_version()), (entry.uid(), 3), "{name}");
            assert_eq!(Arc::ptr_eq(entry, later), name != "web", "{name}");
        }
    }
    // What changes takes the role as before.
    let mut other = login;
    let Some(Spec::JwtIssuer(spec)) = &mut other.spec else { panic!() };
    spec.description = Some("ours".into());
    let told = refused(&catalog, &[other], editor);
    assert_eq!(told, ["0 kind: to change a JWT issuer takes the role policy-admin"]);
}

#[test]
fn placing_a_port_under_a_service_takes_policy_rights() {
    let catalog = catalog_of(&shop());
    takes_policy_rights(
        &catalog,
        &[service("orders", "orders", Some(9090))],
        "spec.provider",
        "port 9090 of orders under virtual service orders, which is named by allow-web-to-orders",
    );
    // From one port to all.
    takes_policy_rights(&catalog, &[service("orders", "orders", None)], "spec.provider", "port 9090");
    // A new listener of a node that is a service as a whole.
    let mut whole = shop();
    whole[3] = service("orders", "orders", None);
    let three = node("orders", [listener(8080, "http"), listener(9090, "http"), listener(1, "tcp")]);
    let field = "spec.listeners[2].portMapping.port";
    takes_policy_rights(
        &catalog_of(&whole),
        &[three],
        field,
        "port 1 of orders under virtual service orders",
    );
    // A service that is new opens what policies already permit.
    let early = catalog_of(&[mesh("shop"), node("a", [listener(1, "http")]), permit("early", "a", "s")]);
    takes_policy_rights(&early, &[service("s", "a", None)], "spec.provider", "named by early");
    accepted(&early, &[service("t", "a", None)], EDITOR);
}

#[test]
fn taking_a_port_from_under_a_forbid_takes_policy_rights() {
    let mut batch = shop();
    batch.push(forbid("no-web", "web", "orders"));
    let catalog = catalog_of(&batch);
    let moved = [node("other", [listener(80, "http")]), service("orders", "other", None)];
    takes_policy_rights(
        &catalog,
        &moved,
        "spec.provider",
        "out of virtual service orders, which is named by allow-web-to-orders, no-web",
    );
    let web = node("web", [listener(8000, "http")]);
    let without_backend = try_admit(&catalog, &[web], EVERYTHING).unwrap().after;
    let target = |kind, name: &str| Target {
        key: ResourceKey { kind, mesh: name_of("shop"), name: name_of(name) },
        resource_version: 0,
        ignore_missing: false,
    };
    let orders = [target(Kind::VirtualService, "orders")];
    let problems = admit_removal(&without_backend, &orders, EDITOR, &trust_domain()).unwrap_err();
    assert_eq!((problems[0].fault, problems[0].field.as_str()), (Fault::Denied, ""));
    assert!(admit_removal(&without_backend, &orders, EVERYTHING, &trust_domain()).is_ok());
}

#[test]
fn loosening_takes_policy_rights() {
    let catalog = catalog_of(&shop());
    let audit = || Some("AUDIT".to_owned());
    let with = |change: fn(&mut Listener)| {
        let mut node = node("orders", [listener(8080, "http"), listener(9090, "http")]);
        change(&mut node_spec(&mut node).listeners[0]);
        node
    };
    let listener_audits = with(|listener| listener.authorization = Some("AUDIT".into()));
    takes_policy_rights(&catalog, &[listener_audits], "spec.listeners[0].authorization", "port 8080: AUDIT");
    let mut node_audits = with(|_| {});
    node_spec(&mut node_audits).authorization = audit();
    takes_policy_rights(&catalog, &[node_audits], "spec.authorization", "port 9090: AUDIT");
    let spec = MeshSpec { authorization: audit(), ..MeshSpec::default() };
    let mesh_audits = resource("", "shop", Spec::MeshSpec(spec));
    takes_policy_rights(
        &catalog,
        std::slice::from_ref(&mesh_audits),
        "spec.authorization",
        "AUDIT lets through",
    );
    takes_policy_rights(&Catalog::default(), &[mesh_audits], "spec.authorization", "AUDIT lets through");
    let tcp = with(|listener| *listener = self::listener(8080, "tcp"));
    takes_policy_rights(
        &catalog,
        &[tcp],
        "spec.listeners[0].portMapping.protocol",
        "speaks tcp instead of http",
    );
}

#[test]
fn changing_what_routes_are_takes_policy_rights() {
    let denying = |paths: &[&str]| {
        let undeclared = Some("DENY".to_owned());
        node(
            "orders",
            [Listener { undeclared, ..routes(listener(8080, "http"), paths) }, listener(9090, "http")],
        )
    };
    let mut batch = shop();
    batch[2] = denying(&["/a", "/b"]);
    let catalog = catalog_of(&batch);
    let open = node("orders", [routes(listener(8080, "http"), &["/a", "/b"]), listener(9090, "http")]);
    takes_policy_rights(&catalog, &[open], "spec.listeners[0].undeclared", "no longer denies requests");
    takes_policy_rights(
        &catalog,
        &[denying(&["/a", "/b", "/c"])],
        "spec.listeners[0].routes",
        "no longer denies /c",
    );
    accepted(&catalog, &[denying(&["/a"])], EDITOR);
    batch.push(policy("no-b", "forbid(principal, action, resource == Route::\"orders:8080 /b\");"));
    let catalog = catalog_of(&batch);
    let field = "spec.listeners[0].routes";
    takes_policy_rights(&catalog, &[denying(&["/a"])], field, "which no-b may speak of");
    let tightened = |listener: Listener| Listener { authorization: Some("ENFORCE".into()), ..listener };
    let mut same = denying(&["/b", "/a"]);
    let spec = node_spec(&mut same);
    spec.listeners[0] = tightened(spec.listeners[0].clone());
    accepted(&catalog, &[same], EDITOR);
}

fn name_of(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn remove(catalog: &Catalog, targets: &[(Kind, &str)]) -> Result<Removal, Vec<String>> {
    let targets: Vec<_> = targets
        .iter()
        .map(|(kind, name)| Target {
            key: ResourceKey { kind: *kind, mesh: name_of("shop"), name: name_of(name) },
            resource_version: 0,
            ignore_missing: false,
        })
        .collect();
    admit_removal(catalog, &targets, EVERYTHING, &trust_domain())
        .map_err(|problems| problems.iter().map(Problem::description).collect())
}

#[test]
fn what_is_used_is_not_removed() {
    let catalog = catalog_of(&shop());
    let refused = |kind, name| remove(&catalog, &[(kind, name)]).unwrap_err().remove(0);
    assert_eq!(
        refused(Kind::VirtualNode, "orders"),
        "VirtualNode shop/orders is still used by virtual service \"orders\"; remove these first, or with it"
    );
    assert_eq!(
        refused(Kind::VirtualService, "orders"),
        "VirtualService shop/orders is still used by virtual node \"web\"; remove these first, or with it"
    );
    assert_eq!(
        refused(Kind::Mesh, "shop"),
        "Mesh shop still holds policy \"allow-web-to-orders\" and 3 more; remove these first, or with it"
    );
    assert_eq!(refused(Kind::Policy, "none"), "Policy shop/none does not exist");
    remove(&catalog, &[(Kind::Policy, "allow-web-to-orders")]).unwrap();
    let all = [
        (Kind::Mesh, "shop"),
        (Kind::Policy, "allow-web-to-orders"),
        (Kind::VirtualNode, "orders"),
        (Kind::VirtualNode, "web"),
        (Kind::VirtualService, "orders"),
    ];
    let removal = remove(&catalog, &all).unwrap();
    assert_eq!(removal.removed.len(), 5);
    assert!(removal.after.meshes().is_empty());
}

#[test]
fn a_removal_says_what_it_lets_through_and_what_policies_no_longer_reach() {
    let mut resources = shop();
    let mut audited = forbid("watched", "web", "orders");
    if let Some(Spec::Policy(spec)) = &mut audited.spec {
        spec.mode = Some("AUDIT".to_owned());
    }
    let service = "forbid(principal is Node, action, resource in Service::\"orders\");";
    resources.extend([audited, forbid("never", "web", "orders"), boundary("guard", service)]);
    let catalog = catalog_of(&resources);
    let told = |targets: &[(Kind, &str)]| remove(&catalog, targets).unwrap().warnings;
    let lifted = |key: &str| {
        vec![format!("{key}: what it forbids is let through from then on, wherever a policy permits it")]
    };
    assert_eq!(told(&[(Kind::Policy, "never")]), lifted("Policy shop/never"));
    assert_eq!(told(&[(Kind::Boundary, "guard")]), lifted("Boundary shop/guard"));
    assert_eq!(told(&[(Kind::Policy, "watched")]), Vec::<String>::new());
    assert_eq!(told(&[(Kind::Policy, "allow-web-to-orders")]), Vec::<String>::new());
    let reach = told(&[(Kind::VirtualNode, "web"), (Kind::VirtualService, "orders")]);
    assert!(reach[0].contains("takes port 8080 of orders out of virtual service orders"), "{reach:?}");
    let all = [
        (Kind::Mesh, "shop"),
        (Kind::Boundary, "guard"),
        (Kind::Policy, "allow-web-to-orders"),
        (Kind::Policy, "never"),
        (Kind::Policy, "watched"),
        (Kind::VirtualNode, "orders"),
        (Kind::VirtualNode, "web"),
        (Kind::VirtualService, "orders"),
    ];
    let told = told(&all);
    assert_eq!(told, Vec::<String>::new());
}

#[test]
fn a_removal_of_what_cannot_be_read_says_that_it_may_forbid() {
    let mut catalog = catalog_of(&shop());
    let told = |catalog: &Catalog, kind, name: &str| remove(catalog, &[(kind, name)]).unwrap().warnings;
    let forbids = "forbid(principal, action, resource in Service::\"orders\");";
    let mut unreadable = |kind, name: &str, stored: Resource| {
        let key = ResourceKey { kind, mesh: name_of("shop"), name: name_of(name) };
        let model = Model::Unreadable("from the future".to_owned());
        catalog.set(&key, Entry::new(stored, model));
    };
    unreadable(Kind::Boundary, "guard", boundary("guard", forbids));
    unreadable(Kind::Policy, "never", policy("never", forbids));
    unreadable(Kind::Policy, "reads", policy("reads", "permit(principal is Node, action, resource);"));
    for (kind, name, key) in
        [(Kind::Boundary, "guard", "Boundary shop/guard"), (Kind::Policy, "never", "Policy shop/never")]
    {
        assert_eq!(
            told(&catalog, kind, name),
            [format!(
                "{key}: it cannot be read, and may forbid: what it forbids is let through from then on, wherever a \
                 policy permits it"
            )]
        );
    }
    assert_eq!(told(&catalog, Kind::Policy, "reads"), [""; 0], "a text of nothing but permits");
}

#[test]
fn a_forbid_that_a_list_in_one_line_passes_by_is_worth_a_warning() {
    let catalog = catalog_of(&shop());
    let warned = |condition: &str| {
        let text = format!(
            "forbid(principal, action == Action::\"GET\", resource in Service::\"orders\")\n\
             when {{ context.headers.hasTag(\"x-role\") && {condition} }};"
        );
        accepted(&catalog, &[policy("roles", &text)], EVERYTHING).warnings
    };
    let values = "context.headers.getTag(\"x-role\")";
    assert_eq!(
        warned(&format!("{values}.contains(\"admin\")")),
        [
            "Policy shop/roles: roles denies by values of the header field \"x-role\", and whoever sends several as one, such as \
          `x-role: a, b`, sends another that it does not name; deny instead what is not among the good ones: \
          ![\"a\"].containsAll(context.headers.getTag(\"x-role\"))"
        ]
    );
    assert_eq!(warned(&format!("![\"guest\"].containsAll({values})")), [""; 0]);
}

#[test]
fn a_removal_looks_at_versions_and_roles() {
    let catalog = catalog_of(&shop());
    let target = |version, ignore_missing, name: &str| Target {
        key: ResourceKey { kind: Kind::Policy, mesh: name_of("shop"), name: name_of(name) },
        resource_version: version,
        ignore_missing,
    };
    let judge = |targets: &[Target], rights| admit_removal(&catalog, targets, rights, &trust_domain());
    let own = "allow-web-to-orders";
    assert_eq!(judge(&[target(2, false, own)], EVERYTHING).unwrap_err()[0].fault, Fault::Stale);
    assert_eq!(judge(&[target(0, false, own)], EDITOR).unwrap_err()[0].fault, Fault::Denied);
    assert_eq!(judge(&[target(0, false, "none")], EVERYTHING).unwrap_err()[0].fault, Fault::Missing);
    let twice = judge(&[target(0, false, own), target(0, false, own)], EVERYTHING).unwrap_err();
    assert_eq!(twice[0].fault, Fault::Invalid);
    assert!(judge(&[target(0, true, "none")], EVERYTHING).unwrap().removed.is_empty());
    assert_eq!(judge(&[target(1, false, own)], EVERYTHING).unwrap().removed.len(), 1);
}

#[test]
fn a_service_without_a_provider_is_worth_a_warning() {
    let catalog = catalog_of(&[mesh("shop"), node("bare", [])]);
    let empty = resource("shop", "s", Spec::VirtualService(VirtualServiceSpec::default()));
    let admission = accepted(&catalog, &[empty, service("t", "bare", None)], EDITOR);
    assert_eq!(
        admission.warnings,
        [
            "VirtualService shop/s has no provider: calls to it fail",
            "VirtualService shop/t: bare has no listeners yet: calls to it fail"
        ]
    );
}
