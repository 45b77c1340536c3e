use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[test]
fn agrees_with_the_shared_cases() {
    let Some(file) = crate::skipped::shared("vectors/spiffe/spiffe-id-cases.json") else { return };
    let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let list = |key: &str| -> Vec<String> {
        cases[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let counts = ["valid_leaf", "valid_trust_domain_only_not_leaf", "invalid"].map(|key| list(key).len());
    assert_eq!(counts, [8, 1, 38]);
    for id in list("valid_leaf") {
        assert_eq!(SpiffeId::parse(&id).unwrap().as_str(), id);
    }
    for id in list("valid_trust_domain_only_not_leaf") {
        assert_eq!(SpiffeId::parse(&id), Err(SpiffeIdError::NoPath), "{id:?}");
        assert_eq!(TrustDomain::parse(id.strip_prefix(SCHEME).unwrap()).unwrap().id_string(), id);
    }
    for id in list("invalid") {
        assert!(SpiffeId::parse(&id).is_err(), "{id:?} was accepted");
    }
}

/// SPIFFE-ID §2, rule by rule: these run where no suite of others lies beside the checkout.
#[test]
fn only_ids_of_the_standard_are_read() {
    for id in [
        "spiffe://a/b",
        "spiffe://example.org/9eebccd2-12bf-40a6-b262-65fe0487d453",
        "spiffe://staging.example.org/payments/mysql",
        "spiffe://example.org/ns/prod/sa/Web_1.x-y",
        "spiffe://1.2.3.4/service",
        "spiffe://_trust-domain_/x",
        "spiffe://example.org/...",
        "spiffe://example.org/..a",
    ] {
        assert_eq!(SpiffeId::parse(id).unwrap().as_str(), id);
    }
    for id in [
        "",
        "spiffe",
        "spiffe:",
        "spiffe:/",
        "spiffe://",
        "spiffe:///path",
        "spiffe:example.org/path",
        "SPIFFE://example.org/path",
        "https://example.org/path",
        " spiffe://example.org/path",
        "spiffe://example.org/path ",
        "spiffe://example.org/path\n",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/path/",
        "spiffe://example.org//path",
        "spiffe://example.org/a//b",
        "spiffe://example.org/.",
        "spiffe://example.org/..",
        "spiffe://example.org/a/./b",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/a b",
        "spiffe://example.org/a%20b",
        "spiffe://example.org/%61",
        "spiffe://example.org/a:b",
        "spiffe://example.org/a@b",
        "spiffe://example.org/a~b",
        "spiffe://example.org/\u{e9}",
        "spiffe://example.org/a\u{0}",
        "spiffe://example.org/a\\b",
        "spiffe://example.org/path?query",
        "spiffe://example.org/path#fragment",
        "spiffe://example.org:8443/path",
        "spiffe://user@example.org/path",
        "spiffe://[::1]/path",
        "spiffe://Example.org/path",
        "spiffe://exa%6dple.org/path",
        "spiffe://example\u{e9}.org/path",
    ] {
        assert!(SpiffeId::parse(id).is_err(), "{id:?} was accepted");
    }
}

#[test]
fn lengths_are_limited_to_the_byte() {
    let longest = "a".repeat(255);
    assert!(SpiffeId::parse(&format!("spiffe://{longest}/x")).is_ok());
    let error = SpiffeIdError::TrustDomain(TrustDomainError::TooLong(256));
    assert_eq!(SpiffeId::parse(&format!("spiffe://{longest}a/x")), Err(error));
    let head = "spiffe://example.org/";
    assert!(SpiffeId::parse(&format!("{head}{}", "p".repeat(2048 - head.len()))).is_ok());
    let too_long = SpiffeId::parse(&format!("{head}{}", "p".repeat(2049 - head.len())));
    assert_eq!(too_long, Err(SpiffeIdError::TooLong(2049)));
}

#[test]
fn composed_ids_parse_to_themselves_and_know_their_kind() {
    let longest = name(&"n".repeat(255));
    let domain = TrustDomain::parse(&"d".repeat(255)).unwrap();
    for id in [
        SpiffeId::node(&domain, &longest, &longest),
        SpiffeId::gateway(&domain, &longest, &longest),
        SpiffeId::control_plane(&domain, &longest),
        SpiffeId::admin(&domain, &longest),
        SpiffeId::workload(&domain, "batch/nightly").unwrap(),
    ] {
        let parsed = SpiffeId::parse(id.as_str()).unwrap();
        assert_eq!(parsed, id);
        assert_eq!(parsed.kind(), id.kind());
        assert_ne!(id.kind(), IdentityKind::Other);
        assert!(id.is_member_of(&domain));
        assert_eq!(id.trust_domain(), domain);
    }
    let node = SpiffeId::node(&self::domain(), &name("shop"), &name("orders"));
    assert_eq!(node.as_str(), "spiffe://example.org/mesh/shop/node/orders");
    assert_eq!(node.path(), "/mesh/shop/node/orders");
    assert_eq!(node.kind(), IdentityKind::Node { mesh: "shop", name: "orders" });
    let workload = SpiffeId::workload(&self::domain(), "a/b").unwrap();
    assert_eq!(workload.kind(), IdentityKind::Workload { path: "a/b" });
    assert!(SpiffeId::workload(&self::domain(), "").is_err());
    let wrong = SpiffeId::workload(&self::domain(), "../admin/root").unwrap_err();
    assert!(matches!(wrong, SpiffeIdError::Segment { number: 1, .. }), "{wrong}");
}

#[test]
fn malformed_reserved_paths_stand_for_nothing() {
    for path in [
        "mesh",
        "mesh/shop",
        "mesh/shop/node",
        "mesh/shop/node/orders/more",
        "mesh/shop/router/orders",
        "Mesh/shop/node/orders",
        "workload",
        "control-plane",
        "control-plane/a/b",
        "admin",
        "admin/a/b",
        "web",
        "ns/prod/sa/web",
    ] {
        let id = SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap();
        assert_eq!(id.kind(), IdentityKind::Other, "{path}");
    }
    let unnameable = format!("spiffe://example.org/admin/{}", "a".repeat(256));
    assert_eq!(SpiffeId::parse(&unnameable).unwrap().kind(), IdentityKind::Other);
}

#[test]
fn is_found_in_a_set_by_its_text() {
    let set = HashSet::from([SpiffeId::admin(&domain(), &name("ada"))]);
    assert!(set.contains("spiffe://example.org/admin/ada"));
}

#[test]
fn membership_needs_the_whole_domain() {
    let id = SpiffeId::parse("spiffe://example.org.evil/x").unwrap();
    assert!(!id.is_member_of(&domain()));
    assert!(!SpiffeId::parse("spiffe://example.or/g").unwrap().is_member_of(&domain()));
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_canonical(text in "(spiffe://)?[a-zA-Z0-9._/%:@?#-]{0,60}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            prop_assert!(id.path().split('/').skip(1).all(|s| !s.is_empty() && s != "." && s != ".."));
            prop_assert!(!id.as_str().contains(['%', '?', '#', '@']));
        }
    }

    #[test]
    fn well_formed_ids_are_accepted(text in "spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}){1,8}") {
        prop_assert!(SpiffeId::parse(&text).is_ok());
    }

    #[test]
    fn never_panics(text in ".*") {
        let _ = SpiffeId::parse(&text);
        let _ = TrustDomain::parse(&text);
    }
}
