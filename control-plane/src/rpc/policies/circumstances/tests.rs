use hauberk_proto::admin::v1::{CheckResponse, Outlook};
use hauberk_proto::mesh::v1::{ExternalPort, ExternalServiceSpec, Resource, UserClaims, resource::Spec};

use super::*;
use crate::resources::testing::{
    catalog_of, for_users, issuer, listener, mesh, node, policy, resource, trust_domain,
};
use crate::rpc::policies::check::Check;

fn ask(resources: &[Resource], request: CheckRequest) -> Result<CheckResponse, String> {
    let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
    let catalog = catalog_of(resources);
    let mesh = Mesh::of(&catalog, &domain, &shop).unwrap();
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let (caller, target) = (or(request.caller, "web"), or(request.target, "orders"));
    let request =
        CheckRequest { mesh: "shop".to_owned(), caller, target, method: "GET".to_owned(), ..request };
    let answered = Check::new(&mesh, &request, UnixMillis(2)).and_then(|check| check.answer());
    answered.map_err(|status| status.message().to_owned())
}

/// web may call orders where this holds; users come of login, whose tokens name them by their mail.
fn shop_where(condition: &str) -> Vec<Resource> {
    let text =
        format!("permit(principal is Node, action == Action::\"GET\", resource) when {{ {condition} }};");
    let login = issuer("login", |spec| {
        spec.claims = Some(UserClaims { user: Some("email".to_owned()), ..UserClaims::default() });
    });
    let orders = node("orders", [for_users(listener(8080, "http"), "OPTIONAL", &["login"])]);
    vec![mesh("shop"), login, node("web", []), orders, policy("some", &text)]
}

#[test]
fn of_claims_that_every_token_has_nothing_is_assumed() {
    let claim =
        |name: &str| format!("context.claims.hasTag(\"{name}\") && context.claims.getTag(\"{name}\")");
    let told = |condition: &str, claims: &str| {
        let (user, claims) = ("alice@login".to_owned(), claims.to_owned());
        let answer = ask(&shop_where(condition), CheckRequest { user, claims, ..CheckRequest::default() });
        answer.unwrap().prospects[0].outlook()
    };
    for name in ["exp", "iat", "nbf", "aud", "sub"] {
        let condition = format!("{}.contains(\"1\")", claim(name));
        assert_eq!(told(&condition, ""), Outlook::Conditional, "{name}");
        assert_eq!(told(&format!("!({condition})"), ""), Outlook::Conditional, "{name}");
    }
    assert_eq!(told(&format!("{}.contains(\"1\")", claim("exp")), r#"{"exp": 1}"#), Outlook::Always);
    let issuer = format!("{}.contains(\"https://login.example\")", claim("iss"));
    assert_eq!(told(&issuer, ""), Outlook::Always);
    assert_eq!(told(&format!("!({issuer})"), ""), Outlook::Never);
    // What a token need not have, and was not told, it has not.
    assert_eq!(told(&format!("{}.contains(\"1\")", claim("team")), ""), Outlook::Never);
    assert_eq!(told(&format!("{}.contains(\"alice\")", claim("email")), ""), Outlook::Always);
}

#[test]
fn claims_that_contradict_the_question_are_refused() {
    let refused = |claims: &str| {
        let (user, claims) = ("alice@login".to_owned(), claims.to_owned());
        ask(&shop_where("true"), CheckRequest { user, claims, ..CheckRequest::default() }).unwrap_err()
    };
    for (claims, told) in [
        (
            r#"{"email": "bob"}"#,
            "the claim \"email\" names the user, who is \"alice\", and is said to be \"bob\"",
        ),
        (r#"{"iss": "https://x.example"}"#, "which calls itself \"https://login.example\""),
        (r#"{"aud": ["a", "b"]}"#, "is refused: its issuer's must have one of shop"),
    ] {
        assert!(refused(claims).contains(told), "{}", refused(claims));
    }
    let (user, claims) = ("alice@login".to_owned(), r#"{"email": "alice", "aud": ["a", "shop"]}"#.to_owned());
    ask(&shop_where("context has user"), CheckRequest { user, claims, ..CheckRequest::default() }).unwrap();
}

#[test]
fn what_contradicts_itself_is_refused() {
    let shop = shop_where("context.host == \"orders\"");
    let lines = |name: &str, values: &[&str]| agent::HeaderLines {
        name: name.to_owned(),
        values: values.iter().map(ToString::to_string).collect(),
        unreadable: false,
    };
    let headers = vec![lines("x-tenant", &["blue"]), lines("X-Tenant", &[])];
    let told = ask(&shop, CheckRequest { headers, ..CheckRequest::default() }).unwrap_err();
    assert!(told.contains("is said to be sent, and not to be sent"), "{told}");
    let headers = vec![lines("x-tenant", &["blue"]), lines("x-tenant", &["red"]), lines("x-other", &[])];
    ask(&shop, CheckRequest { headers, ..CheckRequest::default() }).unwrap();
    let of_group =
        |group: &str| ask(&shop, CheckRequest { tls_group: group.to_owned(), ..CheckRequest::default() });
    assert!(of_group("x25519").unwrap_err().contains("there is no group \"x25519\": write X25519"));
    of_group("X25519").unwrap();

    let ports = vec![ExternalPort { port: Some(80), protocol: "http".to_owned() }];
    let hosts = vec!["api.stripe.example".to_owned()];
    let spec = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
    let mut shop = shop;
    shop.push(resource("shop", "stripe", Spec::ExternalService(spec)));
    let of_host = |host: &str| {
        let target = "external/stripe".to_owned();
        ask(&shop, CheckRequest { target, host: host.to_owned(), ..CheckRequest::default() })
    };
    let told = of_host("api.else.example").unwrap_err();
    assert!(told.contains("has no host \"api.else.example\": it has api.stripe.example"), "{told}");
    for host in ["", "api.stripe.example", "API.stripe.example:80"] {
        of_host(host).unwrap();
    }
}

#[test]
fn an_address_of_ipv6_is_asked_for_with_brackets_or_without() {
    let mut shop = shop_where("context.host == \"[2001:db8::1]\"");
    let ports = vec![ExternalPort { port: Some(80), protocol: "http".to_owned() }];
    let hosts = vec!["2001:db8::1".to_owned()];
    let spec = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
    shop.push(resource("shop", "far", Spec::ExternalService(spec)));
    for target in ["orders", "external/far"] {
        for host in ["[2001:db8::1]", "2001:db8::1", "[2001:db8::1]:80", "2001:DB8::1"] {
            let (target, host, without_user) = (target.to_owned(), host.to_owned(), true);
            let answer = ask(&shop, CheckRequest { target, host, without_user, ..CheckRequest::default() });
            let answer = answer.unwrap();
            assert_eq!(answer.prospects[0].outlook(), Outlook::Always, "{answer:?}");
        }
    }
    let (target, host) = ("external/far".to_owned(), "[2001:db8::2]".to_owned());
    ask(&shop, CheckRequest { target, host, ..CheckRequest::default() }).unwrap_err();
}

#[test]
fn a_host_that_was_not_told_is_not_made_up() {
    for host in ["orders", "other"] {
        let answer =
            ask(&shop_where(&format!("context.host == \"{host}\"")), CheckRequest::default()).unwrap();
        assert_eq!(answer.prospects[0].outlook(), Outlook::Conditional, "{host}");
        let note = &answer.decisions[0].policies[0];
        assert_eq!(note.difference, "what it reads was not told", "{note:?}");
    }
}
