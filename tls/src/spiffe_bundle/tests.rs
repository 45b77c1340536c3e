use hauberk_identity::{Serial, UnixMillis, Validity};

use super::*;
use crate::authority::RootAuthority;
use crate::jwt::JwtSigner;
use crate::skipped::shared;

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn root(trust_domain: &str, n: u8) -> RootAuthority {
    let validity = Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap();
    RootAuthority::create(&domain(trust_domain), validity, Serial::from_random([n; 16])).unwrap()
}

fn document(trust_domain: &str, roots: &[&RootAuthority], keys: &[&JwtSigner], sequence: u64) -> String {
    let roots = roots.iter().map(|root| root.certificate().clone());
    let x509 = TrustBundle::new(domain(trust_domain), roots).unwrap();
    let keys = keys.iter().map(|key| key.public_key().unwrap());
    let jwt = JwtBundle::new(domain(trust_domain), keys).unwrap();
    bundle_document(&x509, &jwt, Some(sequence), Some(Duration::from_secs(300)))
}

/// A vector of another implementation's suite; `None` where the suite is absent.
fn vector(name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(shared(&format!("vectors/spiffe/{name}"))?).unwrap())
}

#[test]
fn every_vector_is_read_or_refused_as_its_suite_says() {
    let local = domain("local");
    let parse = |name: &str| Some(SpiffeBundle::parse(&local, &vector(name)?));
    let shape = |parsed: &SpiffeBundle| {
        let seconds = parsed.refresh_hint().map(|hint| hint.as_secs());
        (parsed.x509().roots().len(), parsed.jwt().keys().count(), parsed.sequence(), seconds)
    };
    let good = [
        ("spiffebundle_valid_1.json", (1, 1, None, None)),
        ("spiffebundle_valid_2.json", (1, 6, Some(1), Some(60))),
        ("spiffebundle_valid_with_wit.json", (1, 2, Some(1), Some(60))),
        // Key sets of OpenID Connect: what has no `use` is not for SVIDs.
        ("jwks_valid_1.json", (0, 0, None, None)),
        ("jwks_valid_2.json", (0, 0, None, None)),
        ("jwks_missing_kid.json", (0, 0, None, None)),
    ];
    for (name, wanted) in good {
        let Some(parsed) = parse(name) else { return };
        let parsed = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shape(&parsed), wanted, "{name}");
        let again = SpiffeBundle::parse(&local, parsed.to_document().as_bytes()).unwrap();
        assert_eq!(again, parsed, "{name}");
    }
    assert_eq!(parse("spiffebundle_no_keys.json"), Some(Err(SpiffeBundleError::NotASet)));
    let told = |name: &str| {
        let (parsed, told) = SpiffeBundle::parse_and_tell(&local, &vector(name).unwrap()).unwrap();
        ((parsed.x509().roots().len(), parsed.jwt().keys().count()), told)
    };
    let without_id = SpiffeBundleError::JwtKey { number: 2, source: JwtKeyError::KeyId };
    let (counts, passed_over) = told("spiffebundle_missing_kid.json");
    assert_eq!((counts.0, passed_over), (1, vec![without_id]));
    // The first of several certificates counts (X509-SVID §6.2).
    let (counts, passed_over) = told("spiffebundle_multiple_x509.json");
    assert_eq!((counts.0, passed_over), (1, vec![]));
    // The same roots are no other domain's, however alike its name.
    for other in ["loca1", "local.", "x.local", "local.x"] {
        let refused = SpiffeBundle::parse(&domain(other), &vector("spiffebundle_valid_1.json").unwrap());
        assert!(matches!(refused, Err(SpiffeBundleError::X509(BundleError::TrustDomain(_)))), "{refused:?}");
    }
}

#[test]
fn key_sets_of_the_same_suite_are_read_as_such() {
    let parse = |name: &str| Some(JwtBundle::from_jwks(domain("local"), &vector(name)?));
    for (name, keys) in [("jwks_valid_1.json", 1), ("jwks_valid_2.json", 2)] {
        let Some(parsed) = parse(name) else { return };
        assert_eq!(parsed.unwrap().keys().count(), keys, "{name}");
    }
    let refused = parse("jwks_missing_kid.json").unwrap().unwrap_err();
    assert!(matches!(refused, JwtBundleError::Key { number: 2, source: JwtKeyError::KeyId }), "{refused}");
}

#[test]
fn each_of_many_servers_may_be_an_authority_of_its_own() {
    let roots: Vec<_> = (0..40).map(|n| root("shop.test", n)).collect();
    let x509: Vec<_> = roots.iter().map(|root| root.certificate().clone()).collect();
    let keys: Vec<_> = x509.iter().map(x509_key).collect();
    let document = json!({ "keys": keys }).to_string();
    assert!(document.len() < MAX_BUNDLE_BYTES, "{}", document.len());
    let parsed = SpiffeBundle::parse(&domain("shop.test"), document.as_bytes()).unwrap();
    assert_eq!(parsed.x509().roots().len(), 40);
    // As the Workload API hands them on.
    let joined: Vec<u8> = x509.iter().flat_map(|der| der.iter().copied()).collect();
    assert_eq!(TrustBundle::from_concatenated_der(domain("shop.test"), &joined).unwrap().roots().len(), 40);
}

#[test]
fn what_is_published_reads_back_and_has_the_members_that_the_standard_wants() {
    let (one, two) = (root("shop.test", 1), root("shop.test", 2));
    let key = JwtSigner::generate().unwrap();
    let text = document("shop.test", &[&one, &two], &[&key], 7);
    let parsed = SpiffeBundle::parse(&domain("shop.test"), text.as_bytes()).unwrap();
    assert_eq!((parsed.x509().roots().len(), parsed.jwt().keys().count()), (2, 1));
    assert_eq!((parsed.sequence(), parsed.refresh_hint()), (Some(7), Some(Duration::from_secs(300))));
    assert_eq!(parsed.to_document(), text);
    let value: Value = serde_json::from_str(&text).unwrap();
    let keys = value["keys"].as_array().unwrap();
    for x509 in &keys[..2] {
        assert_eq!((&x509["use"], &x509["kty"]), (&json!("x509-svid"), &json!("EC")));
        assert_eq!(x509["x5c"].as_array().unwrap().len(), 1);
        assert!(x509.get("kid").is_none() && x509["x"].is_string() && x509["y"].is_string(), "{x509}");
    }
    assert_eq!((&keys[2]["use"], &keys[2]["kid"]), (&json!("jwt-svid"), &json!(key.key_id())));
    assert!(keys[2].get("alg").is_none(), "{}", keys[2]);
}

#[test]
fn keys_of_foreign_documents_count_by_themselves_and_what_is_no_document_not_at_all() {
    let own = root("shop.test", 1);
    let parse = |document: &Value| SpiffeBundle::parse(&domain("shop.test"), document.to_string().as_bytes());
    let good: Value = serde_json::from_str(&document("shop.test", &[&own], &[], 1)).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        parse(&changed)
    };
    // An empty set takes everything back.
    let empty = with(&|set| set["keys"] = json!([])).unwrap();
    assert!(empty.is_empty() && !empty.has_same_keys(&parse(&good).unwrap()));
    // Unknown uses and types are passed over, and so is what has no use.
    let unknown = json!({"kty": "AKP", "use": "x509-svid", "x5c": []});
    let passed = with(&|set| {
        let keys = set["keys"].as_array_mut().unwrap();
        keys.extend([unknown.clone(), json!({"kty": "EC", "use": "X509-SVID"}), json!({"kty": "EC"})]);
    });
    assert!(passed.unwrap().has_same_keys(&parse(&good).unwrap()));
    // One that is wrong is passed over, and told; the others count.
    let key = JwtSigner::generate().unwrap();
    let several: Value = serde_json::from_str(&document("shop.test", &[&own], &[&key], 1)).unwrap();
    let namesake = {
        let other = JwtSigner::generate().unwrap().public_key().unwrap();
        let mut jwk = Value::Object(other.to_jwk());
        jwk["kid"] = json!(key.key_id());
        jwk["use"] = json!("jwt-svid");
        jwk
    };
    // Of RFC 8037's appendix A.2.
    let ed25519 = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let ed25519 = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "jwt-svid", "x": ed25519 });
    let weak = json!({ "kty": "RSA", "kid": "weak", "use": "jwt-svid", "n": "AQAB", "e": "AQAB" });
    for (change, told, left) in [
        (
            &(|set: &mut Value| set["keys"][0]["kty"] = Value::Null) as &dyn Fn(&mut Value),
            "number 1 has no `kty`",
            (0, 1),
        ),
        (&|set| set["keys"][0] = json!(1), "number 1 has no `kty`", (0, 1)),
        (&|set| set["keys"][0]["x5c"] = json!([]), "number 1 has no certificate", (0, 1)),
        (
            &|set| drop(set["keys"][0].as_object_mut().unwrap().remove("x5c")),
            "number 1 has no certificate",
            (0, 1),
        ),
        (&|set| set["keys"][0]["x5c"] = json!(["AAAA"]), "number 1 is refused: a certificate", (0, 1)),
        (&|set| set["keys"][0]["x5c"] = json!([7]), "number 1 is refused: a certificate", (0, 1)),
        (&|set| set["keys"][0]["x5c"] = json!("AAAA"), "number 1 has no certificate", (0, 1)),
        (&|set| set["keys"][1]["x"] = json!("AAAA"), "number 2 is refused: the coordinates", (1, 0)),
        (
            &|set| set["keys"].as_array_mut().unwrap().push(weak.clone()),
            "number 3 is refused: an RSA key",
            (1, 1),
        ),
        (&|set| set["keys"].as_array_mut().unwrap().push(namesake.clone()), "two keys have the id", (1, 0)),
        (&|set| set["keys"][1]["crv"] = json!("secp256k1"), "number 2 is refused: its `crv`", (1, 0)),
        (&|set| set["keys"][1]["alg"] = json!("ES256K"), "number 2 is refused: its `crv` or `alg`", (1, 0)),
        (
            &|set| set["keys"].as_array_mut().unwrap().push(ed25519.clone()),
            "number 3 is refused: no JWT-SVID is signed with Ed25519",
            (1, 1),
        ),
    ] {
        let mut changed = several.clone();
        change(&mut changed);
        let document = changed.to_string();
        let (parsed, passed_over) =
            SpiffeBundle::parse_and_tell(&domain("shop.test"), document.as_bytes()).unwrap();
        assert_eq!((parsed.x509().roots().len(), parsed.jwt().keys().count()), left, "{document}");
        assert!(passed_over.len() == 1 && passed_over[0].to_string().contains(told), "{passed_over:?}");
    }
    let first = json!([several["keys"][0]["x5c"][0], "AAAA"]);
    assert!(
        with(&|set| set["keys"][0]["x5c"] = first.clone()).unwrap().has_same_keys(&parse(&good).unwrap())
    );
    let refused = [
        with(&|set| set["keys"] = json!({})),
        with(&|set| set["spiffe_sequence"] = json!(-1)),
        with(&|set| set["spiffe_sequence"] = json!("1")),
        with(&|set| set["spiffe_refresh_hint"] = json!(1.5)),
    ];
    for (index, refused) in refused.iter().enumerate() {
        assert!(refused.is_err(), "{index}: {refused:?}");
    }
    let twice = br#"{"keys": [], "keys": []}"#;
    assert_eq!(SpiffeBundle::parse(&domain("shop.test"), twice), Err(SpiffeBundleError::NotASet));
    let large = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(MAX_BUNDLE_BYTES));
    let large = SpiffeBundle::parse(&domain("shop.test"), large.as_bytes());
    assert_eq!(large, Err(SpiffeBundleError::TooLarge));
}

#[test]
fn a_root_too_weak_that_names_another_domain_says_as_well_whose_bundle_it_is() {
    /// The root with its key on a curve that is not taken (prime192v1).
    fn weak(root: &RootAuthority) -> Vec<u8> {
        let (p256, p192): ([u8; 8], [u8; 8]) =
            ([0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1]);
        let mut der = root.certificate().to_vec();
        let at = der.windows(8).position(|bytes| *bytes == p256).unwrap();
        der[at..at + 8].copy_from_slice(&p192);
        der
    }
    let parse = |roots: &[Vec<u8>]| {
        let key = |der: &Vec<u8>| json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)] });
        let document = json!({ "keys": roots.iter().map(key).collect::<Vec<_>>() }).to_string();
        SpiffeBundle::parse_and_tell(&domain("shop.test"), document.as_bytes())
    };
    let (own, foreign) = (root("shop.test", 1), root("other.test", 2));
    for roots in [vec![weak(&foreign)], vec![own.certificate().to_vec(), weak(&foreign)]] {
        let refused = parse(&roots).unwrap_err();
        assert!(matches!(refused, SpiffeBundleError::X509(BundleError::TrustDomain(_))), "{refused}");
    }
    let (bundle, passed_over) = parse(&[weak(&own)]).unwrap();
    assert!(bundle.is_empty() && passed_over.len() == 1, "{passed_over:?}");
    assert!(passed_over[0].to_string().contains("none of these"), "{passed_over:?}");
}
