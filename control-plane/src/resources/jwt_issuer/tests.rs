use hauberk_proto::mesh::v1 as wire;

use crate::resources::admit::{Rights, Target, admit_removal};
use crate::resources::problem::Problems;
use crate::resources::testing::*;
use crate::resources::{Catalog, JwtIssuer, KeyEndpoint, Kind, ResourceKey};

fn base() -> Catalog {
    catalog_of(&shop())
}

fn told(catalog: &Catalog, batch: &[wire::Resource]) -> Vec<String> {
    let problems = try_admit(catalog, batch, EVERYTHING).unwrap_err();
    problems.iter().map(|problem| problem.description()).collect()
}

fn orders_for_users(mode: &str, issuers: &[&str]) -> wire::Resource {
    node("orders", [for_users(listener(8080, "http"), mode, issuers), listener(9090, "http")])
}

#[test]
fn an_issuer_that_says_nothing_of_its_keys_is_asked_for_them_where_the_standard_says() {
    let endpoint = |url: &str, inline: bool| {
        let spec = wire::JwtIssuerSpec {
            issuer: url.into(),
            audiences: vec!["shop".into()],
            jwks: if inline { keys() } else { String::new() },
            ..wire::JwtIssuerSpec::default()
        };
        let mut problems = Problems::default();
        JwtIssuer::parse(&spec, &mut problems).unwrap().endpoint().cloned()
    };
    for (issuer, asked) in [
        ("https://login.example", "https://login.example/.well-known/openid-configuration"),
        ("https://login.example/", "https://login.example/.well-known/openid-configuration"),
        (
            "https://login.example:8443/realms/a/",
            "https://login.example:8443/realms/a/.well-known/openid-configuration",
        ),
    ] {
        let Some(KeyEndpoint::Configuration(found)) = endpoint(issuer, false) else { panic!("{issuer}") };
        assert_eq!(found.url().to_string(), asked);
        assert_eq!(endpoint(issuer, true), None, "its keys are written down");
    }
}

#[test]
fn a_good_issuer_is_accepted_and_a_bad_one_refused_with_the_field() {
    try_admit(&base(), &[issuer("login", |_| {})], EVERYTHING).unwrap();
    type Change = Box<dyn FnOnce(&mut wire::JwtIssuerSpec)>;
    let cases: Vec<(&str, Change)> = vec![
        ("spec.issuer", Box::new(|spec| spec.issuer.clear())),
        ("spec.audiences", Box::new(|spec| spec.audiences.clear())),
        ("spec.audiences[1]", Box::new(|spec| spec.audiences.push("shop".into()))),
        ("spec.audiences[1]", Box::new(|spec| spec.audiences.push(String::new()))),
        ("spec.jwks", Box::new(|spec| spec.jwks = "{}".into())),
        ("spec.jwks", Box::new(|spec| spec.jwks = "{\"keys\":[]}".into())),
        (
            "spec.jwks",
            Box::new(|spec| {
                spec.jwks = "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"c2VjcmV0\"}]}".into()
            }),
        ),
        (
            "spec",
            Box::new(|spec| {
                spec.jwks.clear();
                spec.issuer = "login".into();
            }),
        ),
        (
            "spec",
            Box::new(|spec| {
                spec.jwks.clear();
                spec.issuer = "http://login.example".into();
            }),
        ),
        (
            "spec.issuer",
            Box::new(|spec| {
                spec.jwks.clear();
                spec.issuer.clear();
            }),
        ),
        ("spec.jwksUrl", Box::new(|spec| spec.jwks_url = "http://login.example/jwks".into())),
        ("spec.jwksUrl", Box::new(|spec| spec.jwks_url = "file:///etc/passwd".into())),
        ("spec.tokenHeader", Box::new(|spec| spec.token_header = Some("cookie".into()))),
        ("spec.audienceClaim", Box::new(|spec| spec.audience_claim = Some("azp".into()))),
        ("spec.audienceClaim", Box::new(|spec| spec.audience_claim = Some(String::new()))),
        ("spec.tokenHeader", Box::new(|spec| spec.token_header = Some("X-Token".into()))),
        ("spec.tokenHeader", Box::new(|spec| spec.token_header = Some("hauberk-user".into()))),
        (
            "spec.claims.user",
            Box::new(|spec| {
                spec.claims = Some(wire::UserClaims { user: Some(String::new()), ..Default::default() })
            }),
        ),
    ];
    for (field, change) in cases {
        let problems = try_admit(&base(), &[issuer("login", change)], EVERYTHING).unwrap_err();
        assert_eq!(
            problems.iter().map(|problem| &*problem.field).collect::<Vec<_>>(),
            [field],
            "{problems:?}"
        );
    }
    let same = |spec: &mut wire::JwtIssuerSpec| spec.issuer = "https://login.example".into();
    let twice = told(&base(), &[issuer("login", |_| {}), issuer("other", same)]);
    assert!(twice.iter().any(|told| told.contains("already the issuer of")), "{twice:?}");
}

#[test]
fn what_names_an_issuer_that_is_not_there_is_refused_with_the_nearest() {
    let known = catalog_of(&[shop(), vec![issuer("login", |_| {})]].concat());
    let rule = |condition: &str| {
        policy(
            "users",
            &format!(
                "forbid(principal, action in Action::\"http\", resource) unless {{ context has user && {condition} }};"
            ),
        )
    };
    try_admit(&known, &[rule("context.user in UserGroup::\"login/support\"")], EVERYTHING).unwrap();
    for condition in ["context.user in UserGroup::\"logni/a\"", "context.user == User::\"logni/a\""] {
        let told = told(&known, &[rule(condition)]);
        assert!(told[0].contains("JWT issuer \"logni\" does not exist"), "{told:?}");
        assert!(told[0].contains("did you mean \"login\"?"), "{told:?}");
    }
    let told_of = told(&known, &[rule("context.user == User::\"alice\"")]);
    assert!(told_of[0].contains("a slash"), "{told_of:?}");
    let told_of = told(&known, &[orders_for_users("REQUIRED", &["logn"])]);
    assert!(
        told_of[0].contains("spec.listeners[0].users.issuers[0]") || told_of[0].contains("did you mean"),
        "{told_of:?}"
    );
    let told_of = told(&known, &[orders_for_users("MAYBE", &[])]);
    assert!(told_of[0].contains("MAYBE"), "{told_of:?}");
    // What is named stays.
    let after =
        try_admit(&known, &[rule("context.user in UserGroup::\"login/a\"")], EVERYTHING).unwrap().after;
    let name = |text| hauberk_identity::Name::parse(text).unwrap();
    let key = ResourceKey { kind: Kind::JwtIssuer, mesh: name("shop"), name: name("login") };
    let target = [Target { key, resource_version: 0, ignore_missing: false }];
    let refused = admit_removal(&after, &target, EVERYTHING, &trust_domain()).unwrap_err();
    assert!(refused[0].message.contains("still used by policy \"users\""), "{refused:?}");
    assert!(admit_removal(&known, &target, EVERYTHING, &trust_domain()).is_ok());
}

#[test]
fn who_users_are_is_a_matter_of_policy() {
    let editor = Rights { policies: false, boundaries: false, identities: false, ..EVERYTHING };
    let policy_admin = Rights { boundaries: false, ..EVERYTHING };
    let login = issuer("login", |_| {});
    let refused = try_admit(&base(), std::slice::from_ref(&login), editor).unwrap_err();
    assert!(refused[0].message.contains("policy-admin"), "{refused:?}");
    // Whether a route is for users alone, too.
    let before = catalog_of(&[shop(), vec![login.clone()]].concat());
    let known = try_admit(&before, &[orders_for_users("REQUIRED", &[])], EVERYTHING).unwrap().after;
    let refused = try_admit(&known, &[orders_for_users("OPTIONAL", &[])], editor).unwrap_err();
    assert_eq!(refused[0].field, "spec.listeners[0].users", "{refused:?}");
    let told = try_admit(&known, &[orders_for_users("OPTIONAL", &[])], policy_admin).unwrap().warnings;
    assert!(told.iter().any(|told| told.contains("port 8080 no longer requires a user")), "{told:?}");
    // What the boundary says of users nobody else moves from under it.
    let bound = boundary(
        "staff",
        "forbid(principal, action in Action::\"http\", resource) unless { context has user };",
    );
    let bounded = catalog_of(&[shop(), vec![login, bound]].concat());
    let refused = try_admit(&bounded, &[issuer("login", |_| {})], policy_admin).unwrap_err();
    assert!(refused[0].help.as_deref().unwrap_or_default().contains("boundary-admin"), "{refused:?}");
    try_admit(&bounded, &[issuer("login", |_| {})], EVERYTHING).unwrap();
}

#[test]
fn a_listener_that_takes_users_without_any_issuer_is_told() {
    let told = |node: wire::Resource, issuers: &[wire::Resource]| {
        let batch = [&[node], issuers].concat();
        let warnings = try_admit(&base(), &batch, EVERYTHING).unwrap().warnings;
        warnings.into_iter().filter(|told| told.contains("has no JwtIssuer")).collect::<Vec<_>>()
    };
    let of = |mode| orders_for_users(mode, &[]);
    let optional = "VirtualNode shop/orders takes users' tokens on port 8080, and mesh shop has no JwtIssuer: every token is refused";
    let required = format!("{optional}, and so is every request that must be made for a user");
    assert_eq!(told(of("OPTIONAL"), &[]), [optional]);
    assert_eq!(told(of("REQUIRED"), &[]), [required]);
    assert_eq!(told(of("OPTIONAL"), &[issuer("login", |_| {})]), [""; 0]);
    assert_eq!(told(node("orders", [listener(8080, "http")]), &[]), [""; 0]);
}

#[test]
fn a_rule_about_users_without_any_issuer_is_told() {
    let text = "forbid(principal, action in Action::\"http\", resource) unless { context has user };";
    let told = try_admit(&base(), &[policy("users", text)], EVERYTHING).unwrap().warnings;
    assert!(told.iter().any(|told| told.contains("has no JwtIssuer")), "{told:?}");
}
