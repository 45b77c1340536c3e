//! What policies read of a request and its connection, through real agents.

use hauberk_integration_tests::{Response, get, request};

use crate::shop::{self, get_until};

fn status(web: &hauberk_integration_tests::Agent, head: &str) -> Response {
    request(web.outbound(), &format!("{head}\r\n\r\n")).unwrap()
}

#[test]
fn headers_queries_hosts_and_addresses_decide_and_are_explained() {
    let (mesh, app, _orders, web) = shop::trading();
    shop::set_policy(
        &mesh,
        "tenants",
        "permit (principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when { \
         context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\") == [\"blue\"] && \
         context.host == \"orders\" && context.query.hasTag(\"v\") && context.query.getTag(\"v\") == [\"a b\"] };\n\
         forbid (principal, action in Action::\"http\", resource in Service::\"orders\") unless { \
         context.peer.address.isLoopback() && context.peer has tlsGroup && \
         context.peer.tlsGroup == \"X25519MLKEM768\" && context.peer has certificateAge && \
         context.peer.certificateAge < 3600 && context.time > datetime(\"2024-01-01\") };",
    );
    get_until(&web, "orders", "/", 403);
    let asked =
        |target: &str, lines: &str| status(&web, &format!("GET {target} HTTP/1.1\r\nHost: Orders{lines}"));
    assert_eq!(asked("/?v=a+b", "\r\nX-Tenant: blue").status, 200);
    let seen = app.requests();
    for (target, lines) in [
        ("/?v=ab", "\r\nx-tenant: blue"),
        ("/?v=a+b&v=c", "\r\nx-tenant: blue"),
        ("/?v=%zz", "\r\nx-tenant: blue"),
        ("/?v=a+b", ""),
        ("/?v=a+b", "\r\nx-tenant: blue\r\nx-tenant: red"),
        ("/?v=a+b", "\r\nx-tenant: blue\r\nX_Tenant: red"),
        ("/?v=a+b", "\r\nx-tenant: bl\u{e9}ue\u{1}"),
        ("/?v=a+b", "\r\nconnection: x-tenant\r\nx-tenant: blue"),
    ] {
        let status = asked(target, lines).status;
        assert!(matches!(status, 400 | 403), "{target} {lines:?}: {status}");
    }
    assert_eq!(app.requests(), seen);

    let denied = asked("/?v=a+b", "\r\nx-tenant: red");
    let id = denied.header("hauberk-decision").unwrap();
    let told = mesh.hauberk(&["explain", id]).ok().stdout;
    let difference = "context.headers.getTag(\"x-tenant\"): expected [\"blue\"], was [\"red\"]";
    assert!(told.contains(difference), "{told}");

    let can = |more: &[&str]| {
        let asked = ["can", "web", "orders", "GET", "/?v=a+b"];
        mesh.hauberk(&asked.iter().chain(more).copied().collect::<Vec<_>>())
    };
    let all = [
        ["--from", "127.0.0.1"],
        ["--header", "X-Tenant=blue"],
        ["--host", "Orders:80"],
        ["--certificate-age", "10m"],
        ["--at", "2026-01-01T00:00:00Z"],
        ["--tls-group", "X25519MLKEM768"],
    ];
    can(&all.concat()).ok();
    for (place, other) in
        ["10.0.0.1", "x-tenant=red", "other", "2h", "2023-01-01T00:00:00Z", "X25519"].iter().enumerate()
    {
        let (mut denied, mut open) = (all, all.to_vec());
        denied[place][1] = other;
        assert_eq!(can(&denied.concat()).code, 1, "{denied:?}");
        open.remove(place);
        let open = can(&open.concat());
        assert!(open.code == 3 && open.stdout.contains("it depends"), "{open:?}");
    }
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 403);
}

#[test]
fn what_agents_cannot_supply_is_refused_when_it_is_applied() {
    let mesh = shop::open();
    for (condition, told) in [
        ("context.headers.hasTag(\"X-Tenant\")", "lower case"),
        ("context.headers.hasTag(\"authorization\")", "secrets"),
        ("context.headers.hasTag(\"connection\")", "one connection"),
        ("context.headers.hasTag(\"hauberk-service\")", "agents take this field out"),
        ("context.headers.hasTag(context.path)", "written out"),
        ("context.peer.tlsGroup == \"X25519\"", "tlsGroup"),
        ("context.peer.adress.isLoopback()", "address"),
        ("context.host == \"Orders:80\"", "never matches"),
        ("Headers::\"request\".hasTag(\"cookie\")", "context.headers"),
    ] {
        let cedar = format!(
            "permit (principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when {{ {condition} }};"
        );
        let document = format!("kind: Policy\nmesh: shop\nname: p\nspec:\n  cedar: |\n    {cedar}\n");
        let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &document);
        assert!(refused.code != 0 && refused.stderr.contains(told), "{condition}: {refused:?}");
    }
}
