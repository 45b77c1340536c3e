use hauberk_proto::mesh::v1::{self as wire, Resource, resource::Spec};

use super::*;
use crate::resources::Catalog;
use crate::resources::admit::{Rights, Target, admit_removal};
use crate::resources::testing::*;

/// A shop with an enrolled workload and a partner who is followed.
fn shop() -> Catalog {
    catalog_of(&[
        mesh("shop"),
        node("web", []),
        node("cart", []),
        node("orders", [listener(8080, "http")]),
        service("orders", "orders", None),
        enrolled("worker", "orders", "billing/worker"),
        partner(),
        mesh("bank"),
        Resource { mesh: "bank".into(), ..node("teller", []) },
    ])
}

fn clerks_read() -> Resource {
    policy("clerks-read", "permit(principal in Role::\"clerks\", action, resource in Service::\"orders\");")
}

fn refusals(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    let problems = try_admit(catalog, batch, EVERYTHING).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
}

fn warnings(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    try_admit(catalog, batch, EVERYTHING).unwrap_or_else(|problems| panic!("{problems:#?}")).warnings
}

fn removal(catalog: &Catalog, targets: &[(Kind, &str)]) -> Vec<String> {
    let name = |text: &str| Name::parse(text).unwrap();
    let targets: Vec<_> = targets
        .iter()
        .map(|(kind, which)| Target {
            key: ResourceKey { kind: *kind, mesh: name("shop"), name: name(which) },
            resource_version: 0,
            ignore_missing: false,
        })
        .collect();
    let problems = admit_removal(catalog, &targets, EVERYTHING, &trust_domain()).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
}

#[test]
fn whole_roles_are_accepted_in_any_order() {
    let bank = "spiffe://shop.example/mesh/bank/node/teller";
    let batch = [
        clerks_read(),
        role("clerks", &["web", bank], &["billing/worker", "spiffe://partner.example/app"], &["readers"]),
        role("readers", &["cart", "spiffe://shop.example/mesh/shop/node/web"], &["new/worker"], &[]),
        enrolled("new", "orders", "new/worker"),
        role("nobody", &[], &[], &[]),
    ];
    assert_eq!(warnings(&shop(), &batch), [""; 0]);
    let backwards: Vec<_> = batch.iter().rev().cloned().collect();
    assert_eq!(warnings(&shop(), &backwards), [""; 0]);
}

#[test]
fn every_member_that_is_nobody_is_told_with_its_place() {
    let mut wrong = role(
        "clerks",
        &["wbe", "a/b", "gateway/edge", "spiffe://shop.example/mesh/bank/node/tellr", "web", "web"],
        &["billing/workr", "spiffe://partnr.example/app", "spiffe://shop.example/admin/root"],
        &["clerk", "a b"],
    );
    let Some(Spec::Role(spec)) = &mut wrong.spec else { panic!("a role") };
    spec.members.push(wire::RoleMember::default());
    spec.description = Some("x".repeat(1_001));
    let mut found = refusals(&shop(), &[wrong]);
    found.sort();
    let mut expected = [
        "spec.description: it has 1001 characters; at most 1000 are kept",
        "spec.members[0].virtualNode: there is no virtual node \"wbe\" in mesh \"shop\"; did you mean \"web\"?",
        "spec.members[1].virtualNode: a name consists of A-Z a-z 0-9 . _ - and must not contain '/'",
        "spec.members[2].virtualNode: this is a virtual gateway; write virtualGateway: edge",
        "spec.members[3].virtualNode: there is no virtual node \"tellr\" in mesh \"bank\"; did you mean \"teller\"?",
        "spec.members[5]: spiffe://shop.example/mesh/shop/node/web stands here twice",
        "spec.members[6].workload: no enrollment makes a workload \"billing/workr\"; did you mean \
         \"billing/worker\"?",
        "spec.members[7].workload: mesh \"shop\" has no FederatedTrustDomain partnr.example; did you mean \
         \"partner.example\"?",
        "spec.members[8].workload: identities of admins and control planes never call services",
        "spec.members[9]: it names nobody; write virtualNode: or virtualGateway: and a name, or workload: and a path or SPIFFE \
         id",
        "spec.roles[0]: role \"clerk\" does not exist",
        "spec.roles[1]: a name consists of A-Z a-z 0-9 . _ - and must not contain ' '",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn roles_do_not_go_round_in_circles() {
    let own = role("a", &[], &[], &["a"]);
    let told = "spec.roles: role goes round in a circle: a → a; leave one of these out";
    assert_eq!(refusals(&shop(), &[own]), [told]);
    let catalog = catalog_of(&[
        mesh("shop"),
        role("a", &[], &[], &["b"]),
        role("b", &[], &[], &["c"]),
        role("c", &[], &[], &[]),
    ]);
    let told = "spec.roles: role goes round in a circle: c → a → b → c; leave one of these out";
    assert_eq!(refusals(&catalog, &[role("c", &[], &[], &["a"])]), [told]);
}

#[test]
fn a_policy_names_roles_that_there_are() {
    let text = "permit(principal in Role::\"clerk\", action, resource in Service::\"orders\");";
    let catalog = catalog_of(&[mesh("shop"), node("orders", []), service("orders", "orders", None)]);
    let told = "spec.cedar: 1:21+13: role \"clerk\" does not exist; apply the role as well";
    assert_eq!(refusals(&catalog, &[policy("p", text)]), [told]);
    let with = [role("clerks", &[], &[], &[]), policy("p", text)];
    let told = "spec.cedar: 1:21+13: role \"clerk\" does not exist; did you mean \"clerks\"?";
    assert_eq!(refusals(&catalog, &with), [told]);
}

#[test]
fn what_is_not_there_is_told_together_with_whatever_else_is_wrong() {
    for (kind, text) in [
        (
            "policy",
            "permit(principal in Role::\"clrks\", action == Action::\"GTE\", resource in Service::\"orders\");",
        ),
        ("boundary", "forbid(principal in Role::\"clrks\", action == Action::\"GTE\", resource);"),
    ] {
        let sent = if kind == "policy" { policy("p", text) } else { boundary("p", text) };
        let told = refusals(&shop(), &[sent, role("clerks", &["web"], &[], &[])]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().any(|told| told.contains("unrecognized action")), "{told:?}");
        let role = told.iter().find(|told| told.contains("role \"clrks\" does not exist")).unwrap();
        assert!(role.contains("1:21+13: ") && role.contains("did you mean \"clerks\"?"), "{role}");
    }
}

#[test]
fn what_a_role_or_policy_names_stays() {
    let mut batch = vec![clerks_read()];
    batch.push(role("clerks", &["web"], &["billing/worker", "spiffe://partner.example/app"], &["readers"]));
    batch.push(role("readers", &[], &[], &[]));
    let catalog = try_admit(&shop(), &batch, EVERYTHING).unwrap().after;
    let help = "remove these first, or with it";
    for (kind, name, told) in [
        (Kind::VirtualNode, "web", "VirtualNode shop/web is still used by role \"clerks\" of mesh \"shop\""),
        (Kind::Role, "clerks", "Role shop/clerks is still used by policy \"clerks-read\""),
        (Kind::Role, "readers", "Role shop/readers is still used by role \"clerks\""),
        (
            Kind::FederatedTrustDomain,
            "partner.example",
            "FederatedTrustDomain shop/partner.example is still used by role \"clerks\"",
        ),
    ] {
        assert_eq!(removal(&catalog, &[(kind, name)]), [format!(": {told}; {help}")]);
    }
    let told = "spiffe://shop.example/workload/billing/worker would be nobody, and role \"clerks\" of mesh \
                \"shop\" lists it; take it out of the role first, or with it";
    assert_eq!(removal(&catalog, &[(Kind::Enrollment, "worker")]), [format!(": {told}")]);
    let moved = enrolled("worker", "orders", "billing/other");
    assert_eq!(refusals(&catalog, std::slice::from_ref(&moved)), [format!("spec.workload.path: {told}")]);
    // Another enrollment of the same workload will do, and so will a role that no longer lists it.
    assert_eq!(refusals(&catalog, &[moved.clone(), enrolled("second", "orders", "billing/worker")]), [""; 0]);
    assert_eq!(refusals(&catalog, &[moved, role("clerks", &["web"], &[], &[])]), [""; 0]);
    let all = [(Kind::Role, "clerks"), (Kind::Policy, "clerks-read"), (Kind::Enrollment, "worker")];
    assert_eq!(removal(&catalog, &all), [""; 0]);
}

#[test]
fn who_comes_and_goes_is_told_where_a_policy_names_the_role() {
    let batch = [clerks_read(), role("clerks", &["web"], &[], &["inner"]), role("inner", &[], &[], &[])];
    let catalog = try_admit(&shop(), &batch, EVERYTHING).unwrap().after;
    assert_eq!(
        warnings(&catalog, &[role("inner", &["cart"], &[], &[])]),
        ["Role shop/clerks: it gets spiffe://shop.example/mesh/shop/node/cart; it is named by clerks-read"]
    );
    assert_eq!(
        warnings(&catalog, &[role("clerks", &["cart"], &[], &[])]),
        ["Role shop/clerks: it gets spiffe://shop.example/mesh/shop/node/cart and loses \
          spiffe://shop.example/mesh/shop/node/web and no longer holds role inner; it is named by clerks-read"]
    );
    assert_eq!(warnings(&catalog, &[role("other", &["cart"], &[], &[])]), [""; 0]);
}

#[test]
fn roles_are_a_policy_admins() {
    let rights = Rights { policies: false, ..EVERYTHING };
    let problems = try_admit(&shop(), &[role("clerks", &[], &[], &[])], rights).unwrap_err();
    assert_eq!(problems[0].message, "to change a role takes the role policy-admin");
    assert_eq!(problems[0].fault, Fault::Denied);
}

#[test]
fn members_are_bounded() {
    let ids = |from: usize, count: usize| -> Vec<String> {
        (from..from + count).map(|number| format!("spiffe://partner.example/{number}")).collect()
    };
    let big = |name: &str, ids: &[String], roles: &[&str]| {
        role(name, &[], &ids.iter().map(String::as_str).collect::<Vec<_>>(), roles)
    };
    let told = "spec.members: 1001 members are too many: a role lists at most 1000; put some of them into roles \
                of their own";
    assert_eq!(refusals(&shop(), &[big("clerks", &ids(0, 1_001), &[])]), [told]);
    let names: Vec<String> = (0..10).map(|number| format!("part-{number}")).collect();
    let parts = names.iter().enumerate().map(|(index, name)| big(name, &ids(index * 1_000, 1_000), &[]));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut batch: Vec<_> = parts.collect();
    batch.push(role("all", &[], &[], &names));
    assert_eq!(refusals(&shop(), &batch), [""; 0]);
    batch.pop();
    batch.push(role("all", &["web"], &[], &names));
    let told = "spec: Role shop/all has 10001 members by this, those of the roles within it counted: at most \
                10000; name a trust domain or mesh in the policies instead, or split the role";
    assert_eq!(refusals(&shop(), &batch), [told]);
}

const NO_PII: &str = "forbid(principal, action, resource in DataClass::\"pii\");";

#[test]
fn data_classes_that_do_not_exist_are_refused_wherever_they_are_named() {
    let catalog = catalog_of(&[mesh("shop"), data_class("pii", &[])]);
    let batch = [
        node("orders", [classified(listener(8080, "http"), "/orders/*", &["pi", "pii", "pii", "a b"])]),
        data_class("card", &["pij", "card"]),
        policy("no-pii", "forbid(principal, action, resource in DataClass::\"piis\");"),
    ];
    let mut found = refusals(&catalog, &batch);
    found.sort();
    assert_eq!(
        found,
        [
            "spec.cedar: 1:39+17: data class \"piis\" does not exist; did you mean \"pii\"?",
            "spec.dataClasses: data class goes round in a circle: card → card; leave one of these out",
            "spec.dataClasses[0]: data class \"pij\" does not exist; did you mean \"pii\"?",
            "spec.listeners[0].routes[0].dataClasses[0]: data class \"pi\" does not exist; did you mean \"pii\"?",
            "spec.listeners[0].routes[0].dataClasses[2]: \"pii\" stands here twice",
            "spec.listeners[0].routes[0].dataClasses[3]: a name consists of A-Z a-z 0-9 . _ - and must not \
             contain ' '",
        ]
    );
}

#[test]
fn a_data_class_stays_as_long_as_it_is_named() {
    let catalog = catalog_of(&[
        mesh("shop"),
        data_class("pii", &["card"]),
        data_class("card", &[]),
        data_class("log", &[]),
        node("orders", [classified(listener(8080, "http"), "/orders/*", &["log"])]),
        policy("no-pii", NO_PII),
    ]);
    for (name, user) in
        [("pii", "policy \"no-pii\""), ("card", "data class \"pii\""), ("log", "virtual node \"orders\"")]
    {
        let told = format!(": DataClass shop/{name} is still used by {user}; remove these first, or with it");
        assert_eq!(removal(&catalog, &[(Kind::DataClass, name)]), [told]);
    }
}

#[test]
fn what_comes_into_a_class_that_a_policy_names_takes_policy_rights() {
    let orders =
        |classes: &[&str]| node("orders", [classified(listener(8080, "http"), "/orders/{id}", classes)]);
    let catalog = catalog_of(&[
        mesh("shop"),
        data_class("pii", &["card"]),
        data_class("card", &[]),
        data_class("log", &[]),
        orders(&["card"]),
        policy("no-pii", NO_PII),
    ]);
    let editor = Rights { policies: false, ..EVERYTHING };
    let out =
        "this takes /orders/{id} of port 8080 of orders out of data class pii, which is named by no-pii";
    for without in [orders(&[]), orders(&["log"]), node("orders", [])] {
        let problems = try_admit(&catalog, std::slice::from_ref(&without), editor).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [out]);
        assert_eq!(problems[0].fault, Fault::Denied);
        assert_eq!(warnings(&catalog, &[without]), [format!("VirtualNode shop/orders: {out}")]);
    }
    // Whether it is in the class by one or another within it, and classes that no policy names, are an editor's.
    for same in [orders(&["pii"]), orders(&["card", "log"])] {
        assert_eq!(try_admit(&catalog, &[same], editor).unwrap().warnings, [""; 0]);
    }
    let told = [format!("DataClass shop/pii: {out}")];
    assert_eq!(warnings(&catalog, &[data_class("pii", &["log"])]), told);
}

#[test]
fn a_route_that_takes_requests_out_of_a_class_takes_the_rights_of_what_names_it() {
    let classed = || classified(listener(8080, "http"), "/orders/{id}", &["pii"]);
    let text = "forbid(principal is Node, action, resource in DataClass::\"pii\");";
    let catalog = catalog_of(&[
        mesh("shop"),
        data_class("pii", &[]),
        node("orders", [classed()]),
        policy("no-pii", text),
    ]);
    let editor = Rights { policies: false, ..EVERYTHING };
    let narrower = node("orders", [classified(classed(), "/orders/7", &[])]);
    let problems = try_admit(&catalog, &[narrower], editor).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].fault, Fault::Denied);
    assert!(problems[0].message.contains("no-pii"), "{problems:?}");
}

#[test]
fn what_the_boundary_names_takes_the_right_to_change_it() {
    let orders =
        |classes: &[&str]| node("orders", [classified(listener(8080, "http"), "/orders/{id}", classes)]);
    let text = "forbid(principal in Role::\"clerks\", action, resource in DataClass::\"pii\");\nforbid(principal, \
                action, resource in Service::\"secret\");";
    let catalog = catalog_of(&[
        mesh("shop"),
        node("web", []),
        node("vault", [listener(8080, "http"), listener(8081, "http")]),
        service("secret", "vault", Some(8080)),
        data_class("pii", &[]),
        orders(&["pii"]),
        role("clerks", &["web"], &[], &[]),
        policy("p", "permit(principal in Role::\"clerks\", action, resource in Service::\"secret\");"),
        boundary("b", text),
    ]);
    let admin = Rights { boundaries: false, ..EVERYTHING };
    let denied = |batch: &[Resource]| {
        let problems = try_admit(&catalog, batch, admin).unwrap_err();
        assert!(problems.iter().all(|problem| problem.fault == Fault::Denied), "{problems:#?}");
        problems
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.description()))
            .collect::<Vec<_>>()
    };
    let help = "that changes what the boundary reaches, and takes the role boundary-admin";
    assert_eq!(
        denied(&[boundary("c", "forbid(principal, action, resource);")]),
        ["kind: to change a boundary takes the role boundary-admin"]
    );
    let told =
        "Role shop/clerks: it loses spiffe://shop.example/mesh/shop/node/web; it is named by p, boundary:b";
    assert_eq!(denied(&[role("clerks", &[], &[], &[])]), [format!("spec: {told}; {help}")]);
    // Also while nobody is in what comes or goes.
    let nested = catalog_of(&[
        mesh("shop"),
        role("temps", &[], &[], &[]),
        role("clerks", &[], &[], &["temps"]),
        boundary("b", "forbid(principal in Role::\"clerks\", action, resource);"),
    ]);
    let problems = try_admit(&nested, &[role("clerks", &[], &[], &[])], admin).unwrap_err();
    let told = "Role shop/clerks: it no longer holds role temps; it is named by boundary:b";
    assert_eq!(problems[0].description(), format!("{told}; {help}"));
    try_admit(&nested, &[role("clerks", &[], &[], &[])], EVERYTHING).unwrap();
    let told =
        "this takes /orders/{id} of port 8080 of orders out of data class pii, which is named by boundary:b";
    assert_eq!(denied(&[orders(&[])]), [format!("spec.listeners[0].routes: {told}; {help}")]);
    let moved = denied(&[service("secret", "vault", Some(8081))]);
    assert!(moved.len() == 2 && moved.iter().all(|problem| problem.ends_with(help)), "{moved:#?}");
    // Whoever may change the boundary alone may not change policies by that.
    let bounds = Rights { policies: false, ..EVERYTHING };
    let problems = try_admit(&catalog, &[service("secret", "vault", Some(8081))], bounds).unwrap_err();
    assert!(problems[0].help.as_ref().unwrap().ends_with("policy-admin"), "{problems:#?}");
    for (kind, name) in [(Kind::Role, "clerks"), (Kind::DataClass, "pii")] {
        let refused = removal(&catalog, &[(kind, name)]);
        assert!(refused[0].contains("boundary \"b\"") || refused[0].contains("and 1 more"), "{refused:?}");
    }
}

#[test]
fn a_permit_in_a_boundary_is_refused_with_its_place() {
    let wrong = boundary("b", "permit(principal is Node, action, resource);");
    let told = "spec.cedar: 1:1+44: a boundary only forbids; write what is permitted into a Policy; a boundary says \
                what no policy permits";
    assert_eq!(refusals(&shop(), &[wrong]), [told]);
}
