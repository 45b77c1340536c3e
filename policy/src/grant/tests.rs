use super::words::{MAX_NAME_LEN, shell_quote};
use super::*;
use crate::testing::{ask, connect, domain, engine, foreign, name, parse, peer};
use crate::{Caller, Decision};

fn grant(callers: &[&str], target: GrantTarget, port: Option<u16>, access: Access) -> Grant {
    let callers =
        callers.iter().map(|text| GrantCaller::parse(text, &domain(), &name("shop")).unwrap()).collect();
    Grant { callers, target, port, access }
}

fn service(text: &str) -> GrantTarget {
    GrantTarget::Service(name(text))
}

fn http(methods: &[&str], path: Option<&str>) -> Access {
    let methods = methods.iter().map(ToString::to_string).collect();
    Access::Http { methods, path: path.map(|path| PathPattern::parse(path).unwrap()) }
}

fn decide(grant: &Grant, caller: &Caller, port: u16, method: &str, path: &str) -> Decision {
    ask(&engine(&[&grant.to_cedar(Verb::Allow).unwrap()]), caller, port, method, path)
}

#[test]
fn writes_policies_that_do_what_they_say() {
    let narrow = grant(&["web"], service("orders"), None, http(&["GET"], Some("/orders/*")));
    assert_eq!(
        narrow.to_cedar(Verb::Allow).unwrap(),
        "permit(\n  principal == Node::\"web\",\n  action == Action::\"GET\",\n  resource in Service::\"orders\"\n)\nwhen { \
         context.path like \"/orders/*\" };\n"
    );
    assert!(decide(&narrow, &peer("web"), 8080, "GET", "/orders/1/items").is_allowed());
    assert!(!decide(&narrow, &peer("web"), 8080, "GET", "/orders").is_allowed());
    assert!(!decide(&narrow, &peer("web"), 8080, "POST", "/orders/1").is_allowed());
    assert!(!decide(&narrow, &peer("web"), 9000, "GET", "/orders/1").is_allowed());
    assert!(!decide(&narrow, &peer("intruder"), 8080, "GET", "/orders/1").is_allowed());

    let all = grant(&["web", "cart"], service("orders"), None, Access::All);
    assert!(decide(&all, &peer("cart"), 50051, "POST", "/shop.Orders/Get").is_allowed());
    assert!(decide(&all, &peer("web"), 8080, "PROPFIND", "/x").is_allowed());

    let one_port = grant(&["web"], service("orders"), Some(50051), Access::All);
    assert!(decide(&one_port, &peer("web"), 50051, "POST", "/shop.Orders/Get").is_allowed());
    assert!(!decide(&one_port, &peer("web"), 8080, "GET", "/").is_allowed());

    let stream = grant(&["web"], service("cache"), Some(6379), Access::All);
    assert!(connect(&engine(&[&stream.to_cedar(Verb::Allow).unwrap()]), &peer("web"), 6379).is_allowed());

    let rpc = grant(&["web"], service("orders"), None, Access::rpc("shop.Orders/Get").unwrap());
    assert!(decide(&rpc, &peer("web"), 50051, "POST", "/shop.Orders/Get").is_allowed());
    assert!(!decide(&rpc, &peer("web"), 50051, "POST", "/shop.Orders/Put").is_allowed());
    let rpcs = grant(&["web"], service("orders"), None, Access::rpc("shop.Orders/*").unwrap());
    assert!(decide(&rpcs, &peer("web"), 50051, "POST", "/shop.Orders/Put").is_allowed());

    let odd = grant(&["web"], service("orders"), None, http(&["PROPFIND", "GET"], None));
    assert!(decide(&odd, &peer("web"), 8080, "PROPFIND", "/").is_allowed());
    assert!(decide(&odd, &peer("web"), 8080, "GET", "/").is_allowed());
    assert!(!decide(&odd, &peer("web"), 8080, "TRACE", "/").is_allowed());

    let node = grant(&["web"], GrantTarget::Node(name("orders")), Some(8081), http(&[], None));
    assert!(decide(&node, &peer("web"), 8081, "GET", "/").is_allowed());
    assert!(!decide(&node, &peer("web"), 8080, "GET", "/").is_allowed());

    let others = grant(
        &["@anonymous", "workload/ci", "spiffe://partner.example/app", "role/nobody", "gateway/edge"],
        service("orders"),
        None,
        Access::All,
    );
    assert!(decide(&others, &Caller::Anonymous, 8080, "GET", "/").is_allowed());
    assert!(decide(&others, &foreign("spiffe://partner.example/app"), 8080, "GET", "/").is_allowed());
    assert!(decide(&others, &foreign("spiffe://shop.example/workload/ci"), 8080, "GET", "/").is_allowed());
    assert!(
        decide(&others, &foreign("spiffe://shop.example/mesh/shop/gateway/edge"), 8080, "GET", "/")
            .is_allowed()
    );
    assert!(!decide(&others, &peer("edge"), 8080, "GET", "/").is_allowed());

    let forbid = narrow.to_cedar(Verb::Deny).unwrap();
    let both = engine(&[&all.to_cedar(Verb::Allow).unwrap(), &forbid]);
    assert!(!ask(&both, &peer("web"), 8080, "GET", "/orders/1").is_allowed());
    assert!(ask(&both, &peer("web"), 8080, "GET", "/").is_allowed());
}

#[test]
fn escapes_stars_of_literals() {
    let pattern = PathPattern::parse("/a\\*b/*").unwrap();
    assert_eq!(pattern.to_string(), "/a\\*b/*");
    let literal = grant(
        &["web"],
        service("orders"),
        None,
        Access::Http { methods: Vec::new(), path: Some(PathPattern::exactly("/a*b")) },
    );
    assert!(decide(&literal, &peer("web"), 8080, "GET", "/a*b").is_allowed());
    assert!(!decide(&literal, &peer("web"), 8080, "GET", "/axb").is_allowed());
    assert_eq!(literal.command(Verb::Allow), "hauberk allow web orders --path '/a\\*b'");
    let like = grant(&["web"], service("orders"), None, http(&[], Some("/a\\*b/*")));
    assert!(decide(&like, &peer("web"), 8080, "GET", "/a*b/c").is_allowed());
    assert!(!decide(&like, &peer("web"), 8080, "GET", "/axb/c").is_allowed());
}

#[test]
fn names_are_stable_and_tell_grants_apart() {
    let plain = grant(&["web"], service("orders"), None, Access::All);
    assert_eq!(plain.name(Verb::Allow), "allow-web-to-orders");
    assert_eq!(plain.name(Verb::Deny), "deny-web-to-orders");
    let name_of = |access| grant(&["web"], service("orders"), None, access).name(Verb::Allow);
    let names = [
        name_of(Access::All),
        name_of(http(&[], None)),
        name_of(http(&["GET"], None)),
        name_of(http(&["GET"], Some("/a"))),
        name_of(http(&["GET"], Some("/a/"))),
        name_of(http(&["GET"], Some("/a*"))),
        name_of(http(&["GET", "PUT"], None)),
        name_of(Access::rpc("a.B/C").unwrap()),
        name_of(Access::rpc("a.B/*").unwrap()),
        grant(&["web"], service("orders"), Some(80), Access::All).name(Verb::Allow),
        grant(&["web"], service("Orders"), None, Access::All).name(Verb::Allow),
        grant(&["gateway/web"], service("orders"), None, Access::All).name(Verb::Allow),
        grant(&["web"], service("orders-get"), None, Access::All).name(Verb::Allow),
        grant(&["web"], GrantTarget::Node(name("orders")), None, Access::All).name(Verb::Allow),
        grant(&["web"], service("to-orders"), None, Access::All).name(Verb::Allow),
        grant(&["web-to"], service("orders"), None, Access::All).name(Verb::Allow),
    ];
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:#?}");
    for name in &names {
        assert!(Name::parse(name).is_ok());
    }
    let long = format!("/{}", "a".repeat(400));
    assert!(name_of(http(&["GET"], Some(&long))).len() <= MAX_NAME_LEN + 7);
}

#[test]
fn commands_are_quoted_for_a_shell() {
    let grant = grant(&["intruder"], service("payments"), Some(80), http(&["GET"], Some("/charge")));
    assert_eq!(
        grant.command(Verb::Allow),
        "hauberk allow intruder payments --methods GET --path /charge --port 80"
    );
    assert_eq!(shell_quote("/orders/*"), "'/orders/*'");
    assert_eq!(shell_quote("/it's"), "'/it'\\''s'");
    assert_eq!(shell_quote("$(rm)"), "'$(rm)'");
    assert_eq!(shell_quote(""), "''");
}

#[test]
fn refuses_words_that_mean_nothing() {
    for text in
        ["", "a b", "gateway/", "role/", "spiffe://x", "spiffe://shop.example/admin/alice", "workload/", "@x"]
    {
        assert!(GrantCaller::parse(text, &domain(), &name("shop")).is_err(), "{text}");
    }
    for text in ["", "orders", "\\*\\*", "\\*/a", "\\**", "/a b", "/a?b", "/a//b", "/a\\b", "/%2f", "/é"] {
        assert!(PathPattern::parse(text).is_err(), "{text}");
    }
    for text in ["", "a", "a/", "/b", "a/b/c", "a\"/b"] {
        assert!(Access::rpc(text).is_err(), "{text}");
    }
    for method in ["", "G T", "GET\"", "GÉT"] {
        assert!(grant(&["web"], service("o"), None, http(&[method], None)).to_cedar(Verb::Allow).is_err());
    }
}

#[test]
fn whatever_it_writes_is_a_valid_policy() {
    for caller in
        ["web", "gateway/edge", "role/clerks", "workload/ci", "spiffe://partner.example/app", "@anonymous"]
    {
        for target in
            [service("orders"), GrantTarget::Node(name("orders")), GrantTarget::Gateway(name("edge"))]
        {
            for port in [None, Some(80)] {
                for access in [
                    Access::All,
                    http(&[], None),
                    http(&["GET", "upgrade", "PROPFIND"], Some("/a\\**")),
                    Access::rpc("a.B/*").unwrap(),
                ] {
                    for verb in [Verb::Allow, Verb::Deny] {
                        let text =
                            grant(&[caller], target.clone(), port, access.clone()).to_cedar(verb).unwrap();
                        assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
                    }
                }
            }
        }
    }
}
