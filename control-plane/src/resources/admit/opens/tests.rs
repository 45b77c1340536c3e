use hauberk_proto::mesh::v1::{Duration, Listener, MeshSpec, Resource, RouteDeclaration, resource::Spec};

use super::*;
use crate::resources::Catalog;
use crate::resources::admit::{Target, admit_removal};
use crate::resources::testing::routes;
use crate::resources::testing::*;

const EDITOR: Rights = Rights { resources: true, policies: false, boundaries: false, identities: false };

/// What an editor is told of a change that takes policy rights, and that is good otherwise.
fn refusals(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    try_admit(catalog, batch, EVERYTHING).unwrap();
    let problems = try_admit(catalog, batch, EDITOR).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| problem.fault == Fault::Denied), "{problems:#?}");
    problems.into_iter().map(|problem| problem.message).collect()
}

/// The same of a removal.
fn removals(catalog: &Catalog, kind: Kind, which: &str) -> Vec<String> {
    let name = |text| Name::parse(text).unwrap();
    let judge = |rights| {
        let key = ResourceKey { kind, mesh: name("shop"), name: name(which) };
        let target = Target { key, resource_version: 0, ignore_missing: false };
        admit_removal(catalog, &[target], rights, &trust_domain())
    };
    judge(EVERYTHING).unwrap();
    judge(EDITOR).err().unwrap_or_default().into_iter().map(|problem| problem.message).collect()
}

/// Port 8080 of orders is the service orders; nobody has it as a backend.
fn shop_with(listeners: impl Into<Vec<Listener>>, policies: &[Resource]) -> Catalog {
    let service = service("orders", "orders", Some(8080));
    let mut batch = vec![mesh("shop"), node("web", []), node("orders", listeners), service];
    batch.extend_from_slice(policies);
    catalog_of(&batch)
}

fn http(port: u32) -> Listener {
    listener(port, "http")
}

#[test]
fn a_route_that_a_policy_names_does_not_go_and_come_back_otherwise() {
    let policies = [
        policy("all", "permit(principal is Node, action, resource in Mesh::\"shop\");"),
        policy("no-admin", "forbid(principal, action, resource == Route::\"orders:8080 /admin/*\");"),
    ];
    let batch = [
        mesh("shop"),
        node("orders", [routes(http(8080), &["/admin/*"]), routes(http(9090), &["/a"])]),
        node("bare", []),
    ];
    let catalog = catalog_of(&[&batch[..], &policies[..]].concat());
    let without = node("orders", [routes(http(9090), &["/a"])]);
    assert_eq!(
        refusals(&catalog, std::slice::from_ref(&without)),
        ["this removes port 8080 of orders, which no-admin may speak of"]
    );
    assert_eq!(
        removals(&catalog, Kind::VirtualNode, "orders"),
        ["this removes port 8080 of orders, which no-admin may speak of"]
    );
    let catalog = try_admit(&catalog, &[without], EVERYTHING).unwrap().after;
    let back = node("orders", [http(8080), routes(http(9090), &["/a"])]);
    assert_eq!(refusals(&catalog, &[back]), ["this adds port 8080 of orders, which no-admin may speak of"]);

    // What no policy names is an editor's.
    let catalog = catalog_of(&[&batch[..], &policies[..]].concat());
    let changed = node("orders", [routes(http(8080), &["/admin/*"]), routes(http(9090), &["/b"])]);
    assert_eq!(refusals(&catalog, &[changed]), Vec::<String>::new());
    let changed = node("orders", [routes(http(8080), &["/admin/*"])]);
    assert_eq!(refusals(&catalog, &[changed, node("bare", [http(1)])]), Vec::<String>::new());
}

#[test]
fn a_port_does_not_leave_a_service_that_a_policy_names_by_being_removed() {
    let catalog = shop_with([http(8080)], &[forbid("no-web", "web", "orders")]);
    let told = ["this takes port 8080 of orders out of virtual service orders, which is named by no-web"];
    // A service that names a port keeps its listener there; one that is the node as a whole does not.
    let whole = shop_whole(&[forbid("no-web", "web", "orders")]);
    assert_eq!(refusals(&whole, &[node("orders", [])]), told);
    assert_eq!(removals(&catalog, Kind::VirtualService, "orders"), told);
}

fn shop_whole(policies: &[Resource]) -> Catalog {
    let service = service("orders", "orders", None);
    let nodes = [node("web", []), node("orders", [http(8080)])];
    catalog_of(&[&[mesh("shop"), service], &nodes[..], policies].concat())
}

#[test]
fn joining_and_leaving_count_for_permits_and_forbids_alike() {
    let unless = policy(
        "only-public",
        "forbid(principal, action, resource) unless { resource in Service::\"public\" };",
    );
    let catalog = shop_with([http(8080)], &[unless, service("public", "orders", None)]);
    let catalog = once_gone(&catalog, Kind::VirtualService, "public");
    assert_eq!(
        refusals(&catalog, &[service("public", "orders", None)]),
        ["this places port 8080 of orders under virtual service public, which is named by only-public"]
    );
    assert_eq!(refusals(&catalog, &[service("other", "orders", None)]), Vec::<String>::new());

    let unless = policy(
        "all-but",
        "permit(principal is Node, action, resource) unless { resource in Service::\"orders\" };",
    );
    let catalog = shop_with([http(8080)], &[unless]);
    assert_eq!(
        removals(&catalog, Kind::VirtualService, "orders"),
        ["this takes port 8080 of orders out of virtual service orders, which is named by all-but"]
    );
    assert_eq!(removals(&shop_with([http(8080)], &[]), Kind::VirtualService, "orders"), Vec::<String>::new());
}

#[test]
fn a_policy_that_looks_at_templates_speaks_of_all_routes() {
    let text = "forbid(principal, action == Action::\"GET\", resource) when { resource.template like \"/admin/*\" };";
    let catalog = shop_with([routes(http(8080), &["/admin/*"])], &[policy("no-admin", text)]);
    assert_eq!(
        refusals(&catalog, &[node("orders", [http(8080)])]),
        ["this changes which requests belong to the routes of port 8080, which no-admin may speak of"]
    );
    assert_eq!(
        refusals(&catalog, &[node("new", [http(1)])]),
        ["this adds port 1 of new, which no-admin may speak of"]
    );
}

#[test]
fn views_do_not_get_older_than_a_policy_admin_wanted() {
    let aged = |age: Option<u32>| {
        let max_view_age = age.map(|seconds| Duration { value: Some(seconds), unit: "s".into() });
        resource("", "shop", Spec::MeshSpec(MeshSpec { max_view_age, ..MeshSpec::default() }))
    };
    let catalog = catalog_of(&[aged(Some(60))]);
    let told = ["views older than 60 s would no longer deny everything"];
    assert_eq!(refusals(&catalog, &[aged(None)]), told);
    assert_eq!(refusals(&catalog, &[aged(Some(61))]), told);
    assert_eq!(refusals(&catalog, &[aged(Some(30))]), Vec::<String>::new());
}

#[test]
fn what_a_port_speaks_is_not_changed_under_a_boundary_about_requests() {
    let text = "forbid(principal, action in Action::\"write\", resource);";
    let catalog = shop_with([http(8080)], &[boundary("read-only", text)]);
    let changed = [node("orders", [listener(8080, "tcp")])];
    try_admit(&catalog, &changed, EVERYTHING).unwrap();
    let takes = |rights| -> Vec<String> {
        let problems = try_admit(&catalog, &changed, rights).err().unwrap_or_default();
        problems.into_iter().filter_map(|problem| problem.help).collect()
    };
    let policies = Rights { policies: true, ..EDITOR };
    assert_eq!(
        takes(policies),
        ["that changes what the boundary reaches, and takes the role boundary-admin"]
    );
    assert_eq!(takes(EDITOR).len(), 2);
    let without = shop_with([http(8080)], &[]);
    try_admit(&without, &changed, policies).unwrap();
}

#[test]
fn what_is_told_of_another_protocol_is_so() {
    let text = "forbid(principal, action in Action::\"http\", resource);";
    let catalog = shop_with([http(8080)], &[boundary("none", text)]);
    for (protocol, told) in [
        (
            "http2",
            "speaks http2 instead of http: policies hold there as before unless they look at the protocol, and \
             the app must speak it too",
        ),
        (
            "grpc",
            "speaks grpc instead of http: what policies say of HTTP requests alone no longer holds there, and \
             what they say of gRPC calls does",
        ),
        (
            "tcp",
            "speaks tcp instead of http: what policies say of HTTP requests alone no longer holds there, and \
             what they say of streams does",
        ),
    ] {
        let changed = [node("orders", [listener(8080, protocol)])];
        let warnings = try_admit(&catalog, &changed, EVERYTHING).unwrap().warnings;
        let told = format!("VirtualNode shop/orders: port 8080 {told}");
        assert!(warnings.contains(&told), "{warnings:?}");
        // A policy may look at the protocol, also where it is HTTP by either.
        assert!(!refusals(&catalog, &changed).is_empty(), "{protocol}");
    }
}

#[test]
fn a_port_that_denies_what_is_undeclared_does_not_go_and_come_back_deciding() {
    let closed = |port| {
        let mut listener = routes(http(port), &["/a"]);
        listener.undeclared = Some("DENY".into());
        listener
    };
    let anything = policy("all", "permit(principal is Node, action, resource in Mesh::\"shop\");");
    let catalog = catalog_of(&[mesh("shop"), node("orders", [closed(8080), http(9090)]), anything]);
    let told = ["this removes port 8080, which denies requests that match no declared route"];
    assert_eq!(refusals(&catalog, &[node("orders", [http(9090)])]), told);
    assert_eq!(removals(&catalog, Kind::VirtualNode, "orders"), told);
    let open = node("orders", [closed(8080)]);
    assert_eq!(refusals(&catalog, &[open]), [""; 0]);
}

#[test]
fn a_port_that_goes_does_not_come_back_speaking_what_nobody_forbids() {
    let writes = "forbid(principal, action in Action::\"write\", resource);";
    let told = |who: &str| {
        [format!(
            "this removes port 8080 of orders, which speaks http: with another protocol it would be other requests that \
             {who} may speak of"
        )]
    };
    let gone = [node("orders", [])];
    for (document, who) in
        [(boundary("read-only", writes), "boundary:read-only"), (policy("read-only", writes), "read-only")]
    {
        let catalog = catalog_of(&[mesh("shop"), node("orders", [http(8080)]), document]);
        assert_eq!(refusals(&catalog, &gone)[..1], told(who));
        assert_eq!(removals(&catalog, Kind::VirtualNode, "orders")[..1], told(who));
        assert_eq!(bounded(&catalog, &gone).is_empty(), who == "read-only");
    }
    // Forbidden is whatever is spoken: that stays so.
    let foreign =
        "forbid(principal, action, resource) unless { principal in TrustDomain::\"shop.example\" };";
    let catalog = catalog_of(&[mesh("shop"), node("orders", [http(8080)]), boundary("own", foreign)]);
    assert_eq!(refusals(&catalog, &gone), [""; 0]);
    // No boundary and no such policy: the port is an editor's.
    assert_eq!(refusals(&catalog_of(&[mesh("shop"), node("orders", [http(8080)])]), &gone), [""; 0]);
}

#[test]
fn a_node_made_anew_brings_no_label_that_a_boundary_reads() {
    let reads = "forbid(principal, action, resource) when { principal.hasTag(\"suspect\") };";
    let web = labelled(node("web", []), &[("suspect", "")]);
    let catalog = catalog_of(&[mesh("shop"), web, boundary("b", reads)]);
    let told = [
        "this takes the label \"suspect\", which is \"\", from virtual node web; the label is read by boundary:b",
    ];
    assert_eq!(removals(&catalog, Kind::VirtualNode, "web"), told);
}

/// What somebody with all rights but that to change boundaries is told.
fn bounded(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    let rights = Rights { boundaries: false, ..EVERYTHING };
    let problems = try_admit(catalog, batch, rights).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| problem.fault == Fault::Denied), "{problems:#?}");
    problems.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn a_node_that_a_boundary_names_is_not_made_anew_by_others() {
    let text = "forbid(principal, action, resource) unless { principal == Node::\"auditor\" };";
    let before = catalog_of(&[mesh("shop"), node("auditor", []), node("web", []), boundary("b", text)]);
    let told = |what| vec![format!("this {what} virtual node auditor, which boundary:b may speak of")];
    assert_eq!(removals(&before, Kind::VirtualNode, "auditor"), told("removes"));
    assert_eq!(removals(&before, Kind::VirtualNode, "web"), Vec::<String>::new());
    let without = once_gone(&before, Kind::VirtualNode, "auditor");
    assert_eq!(bounded(&without, &[node("auditor", [])]), told("makes"));
    assert_eq!(bounded(&without, &[node("other", [])]), Vec::<String>::new());
    // A policy that names it leaves it the editor's.
    let policy = policy("p", "permit(principal == Node::\"web\", action, resource in Service::\"orders\");");
    let named = catalog_of(&[mesh("shop"), node("web", []), policy]);
    assert_eq!(removals(&named, Kind::VirtualNode, "web"), Vec::<String>::new());
}

#[test]
fn a_mesh_that_goes_does_not_take_with_it_whom_a_boundary_of_another_names() {
    let text = "forbid(principal, action, resource) unless { principal == Node::\"spiffe://shop.example/mesh/other/node/auditor\" };";
    let other = |resource: Resource| Resource { mesh: "other".into(), ..resource };
    let aged = MeshSpec {
        max_view_age: Some(Duration { value: Some(60), unit: "s".into() }),
        ..MeshSpec::default()
    };
    let catalog = catalog_of(&[
        mesh("shop"),
        boundary("b", text),
        resource("", "other", Spec::MeshSpec(aged)),
        other(node("auditor", [])),
        other(node("web", [])),
    ]);
    let gone = |catalog: &Catalog, nodes: &[&str], rights| {
        let name = |text: &str| Name::parse(text).unwrap();
        let target = |kind, named: &str| Target {
            key: ResourceKey { kind, mesh: name("other"), name: name(named) },
            resource_version: 0,
            ignore_missing: false,
        };
        let mut targets = vec![target(Kind::Mesh, "other")];
        targets.extend(nodes.iter().map(|node| target(Kind::VirtualNode, node)));
        let problems = admit_removal(catalog, &targets, rights, &trust_domain()).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    let named = "this removes virtual node auditor, which boundary:b may speak of";
    let age = "views older than 60 s would no longer deny everything";
    let nodes = ["auditor", "web"];
    assert_eq!(gone(&catalog, &nodes, EVERYTHING), [""; 0]);
    assert_eq!(gone(&catalog, &nodes, Rights { boundaries: false, ..EVERYTHING }), [named]);
    assert_eq!(gone(&catalog, &nodes, EDITOR), [age, named]);
    // What nobody names goes with its mesh.
    let bare = catalog_of(&[mesh("other"), other(node("web", []))]);
    assert_eq!(gone(&bare, &["web"], EDITOR), [""; 0]);
}

#[test]
fn a_boundary_that_cannot_be_read_may_speak_of_anything() {
    use crate::resources::{Entry, Model};

    let mut catalog = shop_with([http(8080)], &[]);
    let key = ResourceKey {
        kind: Kind::Boundary,
        mesh: Name::parse("shop").unwrap(),
        name: Name::parse("b").unwrap(),
    };
    let unreadable = Model::Unreadable("from the future".to_owned());
    catalog.set(&key, Entry::new(boundary("b", "forbid(principal, action, resource);"), unreadable));
    assert_eq!(
        bounded(&catalog, &[service("more", "orders", Some(8080))]),
        ["this places port 8080 of orders under virtual service more, which is named by boundary:b"]
    );
    assert_eq!(
        bounded(&catalog, &[node("new", [])]),
        ["this makes virtual node new, which boundary:b may speak of"]
    );
}

#[test]
fn routes_for_users_are_not_opened_by_more_specific_ones_nor_by_going_and_coming_back() {
    let users = |mode: &str, listener| for_users(listener, mode, &[]);
    let with_admin = |listener: Listener, more: &[&str]| {
        let mut listener = routes(listener, &[&["/admin/*"][..], more].concat());
        listener.routes[0].users = Some("REQUIRED".into());
        node("orders", [listener])
    };
    let by_service = permit("web-to-orders", "web", "orders");
    let catalog = |orders: Resource| {
        let service = service("orders", "orders", None);
        catalog_of(&[
            mesh("shop"),
            node("web", []),
            issuer("login", |_| {}),
            orders,
            service,
            by_service.clone(),
        ])
    };
    let otherwise = ["port 8080 takes the tokens of users in another way"];
    let before = catalog(with_admin(users("OPTIONAL", http(8080)), &[]));
    assert_eq!(refusals(&before, &[with_admin(users("OPTIONAL", http(8080)), &["/admin/{x}"])]), otherwise);
    let before = catalog(with_admin(users("OPTIONAL", http(8080)), &["/admin/{x}"]));
    assert_eq!(refusals(&before, &[with_admin(users("OPTIONAL", http(8080)), &[])]), otherwise);
    // What is opened is said as that.
    let before = catalog(with_admin(users("OPTIONAL", http(8080)), &[]));
    let of_route = ["port 8080 no longer requires a user for /admin/*"];
    let open = || routes(users("OPTIONAL", http(8080)), &["/admin/*"]);
    assert_eq!(refusals(&before, &[node("orders", [open()])]), of_route);
    let before = catalog(node("orders", [users("REQUIRED", http(8080))]));
    let of_port = ["port 8080 no longer requires a user"];
    assert_eq!(refusals(&before, &[node("orders", [users("OPTIONAL", http(8080))])]), of_port);
    let of_all = ["port 8080 no longer requires a user, and looks at no user's token any longer"];
    assert_eq!(refusals(&before, &[node("orders", [http(8080)])]), of_all);
    // Where no route says anything of its own, routes are an editor's as everywhere.
    let required = |paths: &[&str]| node("orders", [routes(users("REQUIRED", http(8080)), paths)]);
    assert_eq!(refusals(&catalog(required(&[])), &[required(&["/a"])]), Vec::<String>::new());

    // By a policy that names no service, neither.
    let anything = policy("all", "permit(principal is Node, action, resource in Mesh::\"shop\");");
    let orders = node("orders", [users("REQUIRED", http(8080)), http(9090)]);
    let before = catalog_of(&[mesh("shop"), issuer("login", |_| {}), orders, anything]);
    let gone = ["this removes port 8080, which takes the tokens of users"];
    assert_eq!(refusals(&before, &[node("orders", [http(9090)])]), gone);
    assert_eq!(removals(&before, Kind::VirtualNode, "orders"), gone);
    let without = node("orders", [users("REQUIRED", http(8080))]);
    assert_eq!(refusals(&before, &[without]), Vec::<String>::new());
}

#[test]
fn a_method_does_not_become_a_read_under_a_policy_about_reads() {
    let methods = |access: &[(&str, &str)]| {
        let mut listener = listener(50051, "grpc");
        listener.routes = access
            .iter()
            .map(|(path, access)| RouteDeclaration {
                path: (*path).into(),
                access: Some((*access).into()),
                ..RouteDeclaration::default()
            })
            .collect();
        node("orders", [listener])
    };
    let reads = "permit(principal is Node, action in Action::\"read\", resource);";
    let told = |names: &str| {
        format!(
            "this changes which methods of port 50051 of orders read and which write, which {names} may tell apart"
        )
    };
    let with =
        |node: Resource, policies: &[Resource]| catalog_of(&[&[mesh("shop"), node], policies].concat());
    let write = methods(&[("a.B/C", "WRITE")]);
    let read = methods(&[("a.B/C", "READ")]);
    let permit = [policy("readers", reads)];
    for (before, after) in [
        (&write, &read),
        (&read, &write),
        (&node("orders", []), &read),
        (&methods(&[("a.B/*", "READ")]), &methods(&[("a.B/*", "READ"), ("a.B/C", "WRITE")])),
    ] {
        let catalog = with(before.clone(), &permit);
        assert_eq!(refusals(&catalog, std::slice::from_ref(after)), [told("readers")]);
    }
    assert_eq!(refusals(&with(read.clone(), &permit), &[node("orders", [])])[..1], [told("readers")]);
    // Whoever does not tell them apart does not mind.
    let all = [policy("all", "permit(principal is Node, action == Action::\"call\", resource);")];
    assert_eq!(refusals(&with(write.clone(), &all), std::slice::from_ref(&read)), Vec::<String>::new());
    assert_eq!(refusals(&with(write.clone(), &permit), &[methods(&[])]), Vec::<String>::new());
    let bound = [boundary("no-writes", "forbid(principal, action in Action::\"write\", resource);")];
    assert_eq!(bounded(&with(write, &bound), &[read]), [told("boundary:no-writes")]);
}

#[test]
fn a_label_that_a_policy_reads_is_policy() {
    let reads = "permit(principal is Node, action, resource) when { principal.hasTag(\"team\") && principal.getTag(\"team\") == \"checkout\" };";
    let web = |labels: &[(&str, &str)]| labelled(node("web", []), labels);
    let catalog = catalog_of(&[
        mesh("shop"),
        web(&[("team", "stock"), ("room", "1")]),
        node("cart", []),
        policy("by-team", reads),
    ]);
    for (change, told) in [
        (
            web(&[("team", "checkout"), ("room", "1")]),
            "this changes the label \"team\" of virtual node web from \"stock\" to \"checkout\"; the label is read by by-team",
        ),
        (
            web(&[("room", "1")]),
            "this takes the label \"team\", which is \"stock\", from virtual node web; the label is read by by-team",
        ),
        (
            labelled(node("new", []), &[("team", "checkout")]),
            "this gives virtual node new the label \"team\" with \"checkout\"; the label is read by by-team",
        ),
    ] {
        assert_eq!(refusals(&catalog, std::slice::from_ref(&change)), [told]);
        let problem = try_admit(&catalog, std::slice::from_ref(&change), EDITOR).unwrap_err().remove(0);
        assert_eq!(problem.field, "labels.team");
        assert_eq!(
            problem.help.as_deref(),
            Some("that changes what policies reach, and takes the role policy-admin")
        );
        let warned = try_admit(&catalog, std::slice::from_ref(&change), EVERYTHING).unwrap().warnings;
        assert_eq!(warned, [format!("VirtualNode shop/{}: {told}", change.name)]);
    }
    let edge = labelled(gateway("edge"), &[("team", "checkout")]);
    assert_eq!(
        refusals(&catalog, &[edge]),
        [
            "this gives virtual gateway edge the label \"team\" with \"checkout\"; the label is read by by-team"
        ]
    );
    // What is taken away today may come back otherwise tomorrow.
    assert_eq!(
        removals(&catalog, Kind::VirtualNode, "web"),
        [
            "this takes the label \"team\", which is \"stock\", from virtual node web; the label is read by by-team"
        ]
    );
    // What no policy reads is an editor's.
    for change in [web(&[("team", "stock"), ("room", "2")]), web(&[("team", "stock")]), node("new", [])] {
        assert_eq!(refusals(&catalog, &[change]), [""; 0]);
    }
    assert_eq!(removals(&catalog, Kind::VirtualNode, "cart"), [""; 0]);
}

#[test]
fn a_label_that_the_boundary_reads_is_the_boundary_s() {
    let reads = "forbid(principal, action, resource) when { principal.hasTag(\"suspect\") };";
    let web = |labels: &[(&str, &str)]| labelled(node("web", []), labels);
    let catalog = catalog_of(&[mesh("shop"), web(&[("suspect", "")]), boundary("b", reads)]);
    let rights = Rights { boundaries: false, ..EVERYTHING };
    for change in [web(&[]), web(&[("suspect", "no")]), labelled(node("new", []), &[("suspect", "")])] {
        try_admit(&catalog, std::slice::from_ref(&change), EVERYTHING).unwrap();
        let problems = try_admit(&catalog, std::slice::from_ref(&change), rights).unwrap_err();
        assert!(problems[0].message.ends_with("the label is read by boundary:b"), "{problems:?}");
    }
}
