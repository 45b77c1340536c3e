use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::{BACKDATED, SpiffeId, TrustDomain, UnixMillis};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ed25519::tests::{of_small_order, spki};

mod wycheproof;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn bundle(signers: &[&JwtSigner]) -> JwtBundle {
    JwtBundle::new(domain("shop.test"), signers.iter().map(|signer| signer.public_key().unwrap())).unwrap()
}

fn content() -> Value {
    json!({ "sub": "spiffe://shop.test/workload/a", "aud": ["db", "cache"], "exp": NOW.as_secs() + 60 })
}

fn header(signer: &JwtSigner) -> Value {
    json!({ "alg": "ES256", "kid": signer.key_id(), "typ": "JWT" })
}

/// The token with one member of its header or content changed, signed anew.
fn changed(signer: &JwtSigner, part: &str, name: &str, value: Option<Value>) -> String {
    let (mut header, mut content) = (header(signer), content());
    let members = if part == "header" { &mut header } else { &mut content };
    let members = members.as_object_mut().unwrap();
    match value {
        Some(value) => drop(members.insert(name.to_owned(), value)),
        None => drop(members.remove(name)),
    }
    signer.sign_parts(&header, &content).unwrap().to_string()
}

/// Signs any bytes as header and content.
fn raw(signer: &JwtSigner, header: &str, content: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(content));
    let signature = signer.sign_bytes(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_users_token_without_a_key_id_is_by_the_only_key_of_its_algorithm() {
    let (ours, other) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let audiences = ["db".to_owned()];
    let verified = |keys: &[&JwtSigner], header: &Value, by: &JwtSigner| {
        let keys = JwtKeySet::new(keys.iter().map(|signer| signer.public_key().unwrap())).unwrap();
        let mut content = content();
        content["iss"] = json!("https://login.test");
        let token = by.sign_parts(header, &content).unwrap();
        let rules = UserTokens {
            issuer: "https://login.test",
            audiences: &audiences,
            audience_is_client: false,
            keys: &keys,
        };
        rules.verify(&token, NOW).map(|_| ()).map_err(|error| error.to_string())
    };
    let unnamed = json!({ "alg": "ES256" });
    assert_eq!(verified(&[&ours], &unnamed, &ours), Ok(()));
    for (keys, header, by, told) in [
        (&[&ours, &other][..], unnamed.clone(), &ours, "2 of the keys"),
        (&[&ours][..], unnamed.clone(), &other, "signature is wrong"),
        (&[&ours][..], json!({ "alg": "RS256" }), &ours, "0 of the keys"),
        (&[&ours][..], json!({ "alg": "none" }), &ours, "0 of the keys"),
        (&[&ours][..], json!({}), &ours, "0 of the keys"),
        // What is there names a key, or is refused.
        (&[&ours][..], json!({ "alg": "ES256", "kid": null }), &ours, "names no key"),
        (&[&ours][..], json!({ "alg": "ES256", "kid": "" }), &ours, "which is not in the bundle"),
    ] {
        let refusal = verified(keys, &header, by).unwrap_err();
        assert!(refusal.contains(told), "{header}: {refusal}");
    }
}

#[test]
fn keys_of_an_issuer_that_are_of_no_use_are_passed_over_and_told() {
    let good = JwtSigner::generate().unwrap().public_key().unwrap();
    let jwk = |key: &JwtKey| Value::Object(key.to_jwk());
    let (mut unnamed, mut broken, mut foreign) = (jwk(&good), jwk(&good), jwk(&good));
    unnamed.as_object_mut().unwrap().remove("kid");
    broken["x"] = json!("AAAA");
    broken["kid"] = json!("broken");
    foreign["crv"] = json!("P-224");
    foreign["kid"] = json!("foreign");
    let weak = json!({ "kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB" });
    let set = |keys: &[&Value]| json!({ "keys": keys }).to_string();
    let read = |keys: &[&Value]| JwtKeySet::of_issuer(set(keys).as_bytes());
    let (keys, passed_over) = read(&[&weak, &foreign, &broken, &unnamed]).unwrap();
    let told: Vec<_> = passed_over.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&told[..], [weak, broken] if weak.contains("number 1") && broken.contains("number 3")),
        "{told:?}"
    );
    // A key needs no id, and is the same wherever it is told.
    let ids: Vec<_> = keys.keys().map(JwtKey::id).collect();
    assert_eq!(ids, [good.fingerprint().to_string()]);
    assert_eq!(JwtKeySet::from_jwks(keys.to_jwks(KeyUse::Signature).as_bytes()).unwrap(), keys);
    let (keys, passed_over) = read(&[&weak, &broken]).unwrap();
    assert!(keys.is_empty() && passed_over.len() == 2, "{passed_over:?}");
    // The same key twice is one; of two that have one name none counts.
    let (keys, passed_over) = read(&[&unnamed, &unnamed]).unwrap();
    assert_eq!((keys.keys().count(), &passed_over[..]), (1, &[][..]));
    let mut namesake = jwk(&JwtSigner::generate().unwrap().public_key().unwrap());
    namesake["kid"] = json!(good.id());
    let (keys, passed_over) = read(&[&jwk(&good), &namesake, &jwk(&good)]).unwrap();
    assert_eq!(
        (keys.is_empty(), &passed_over[..]),
        (true, &[JwtBundleError::SameId(good.id().to_owned())][..])
    );
    // Whoever publishes nothing that verifies takes back all, whether it is empty or has keys for other things alone.
    let secret = json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" });
    let mut sealing = jwk(&good);
    sealing["use"] = json!("enc");
    let none = |keys: &[&Value]| {
        let (keys, passed_over) = read(keys).unwrap();
        assert!(keys.is_empty());
        passed_over
    };
    assert_eq!(none(&[]), [JwtBundleError::NoneForTokens(0)]);
    assert_eq!(none(&[&secret]), [JwtBundleError::NoneForTokens(1)]);
    let told = none(&[&secret, &foreign, &sealing]);
    assert_eq!(told, [JwtBundleError::NoneForTokens(3)]);
    assert!(told[0].to_string().contains("none of its 3 keys verifies tokens"), "{told:?}");
    assert!(JwtKeySet::of_issuer(b"{}").is_err() && JwtKeySet::of_issuer(b"<html>").is_err());
    for strict in [&weak, &unnamed] {
        let refused = JwtKeySet::from_jwks(set(&[strict, &jwk(&good)]).as_bytes());
        assert!(matches!(refused.unwrap_err(), JwtBundleError::Key { number: 1, .. }));
    }
}

#[test]
fn what_is_signed_verifies() {
    let (ours, other) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let id = SpiffeId::parse("spiffe://shop.test/mesh/shop/node/web").unwrap();
    let audience = ["db".to_owned()];
    let claims = Claims {
        id: &id,
        audience: &audience,
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        token_id: "one",
        issuer: Some("https://shop.test"),
    };
    let token = ours.sign(&claims).unwrap();
    let svid = verify_jwt_svid(&token, "db", &bundle(&[&ours, &other]), NOW).unwrap();
    assert_eq!((svid.id(), svid.audience()), (&id, &audience[..]));
    assert_eq!(svid.expires_at(), NOW.plus(Duration::from_secs(300)));
    assert_eq!(svid.claims()["iss"], "https://shop.test");
    assert_eq!(svid.claims()["jti"], "one");
    assert_eq!(
        verify_jwt_svid(&token, "db", &bundle(&[&other]), NOW).unwrap_err(),
        JwsError::UnknownKey(ours.key_id().to_owned()).into()
    );
    assert!(verify_jwt_svid(&token, "db", &bundle(&[]), NOW).is_err());
    let expired = NOW.plus(Duration::from_secs(300));
    assert!(matches!(
        verify_jwt_svid(&token, "db", &bundle(&[&ours]), expired).unwrap_err(),
        JwtSvidError::Expired { .. }
    ));
    // Made by a clock that was ahead.
    let until = NOW.minus(BACKDATED);
    assert!(verify_jwt_svid(&token, "db", &bundle(&[&ours]), until).is_ok());
    let early = verify_jwt_svid(&token, "db", &bundle(&[&ours]), until.minus(Duration::from_secs(1)));
    assert!(
        matches!(early.unwrap_err(), JwtSvidError::NotYetValid { valid_from, .. } if valid_from == until)
    );
    let again = JwtSigner::from_pkcs8_der(&ours.to_pkcs8_der().unwrap()).unwrap();
    let token = again.sign(&claims).unwrap();
    assert!(verify_jwt_svid(&token, "db", &bundle(&[&ours]), NOW).is_ok());
    assert!(!format!("{ours:?}").contains("PRIVATE"));
}

#[test]
fn each_rule_refuses_by_name() {
    let signer = JwtSigner::generate().unwrap();
    let keys = bundle(&[&signer]);
    let refusal = |token: &str| verify_jwt_svid(token, "db", &keys, NOW).unwrap_err();
    assert!(verify_jwt_svid(&changed(&signer, "header", "typ", None), "db", &keys, NOW).is_ok());
    assert!(
        verify_jwt_svid(&changed(&signer, "header", "typ", Some(json!("JOSE"))), "db", &keys, NOW).is_ok()
    );
    assert!(
        verify_jwt_svid(&changed(&signer, "content", "aud", Some(json!("db"))), "db", &keys, NOW).is_ok()
    );

    let algorithm: JwtSvidError = JwsError::Algorithm("ES256".to_owned()).into();
    for alg in ["none", "None", "HS256", "RS256", "ES384", "es256", ""] {
        assert_eq!(refusal(&changed(&signer, "header", "alg", Some(json!(alg)))), algorithm, "{alg}");
    }
    let cases = [
        ("header", "alg", None, algorithm.clone()),
        ("header", "alg", Some(json!(["ES256"])), algorithm),
        ("header", "kid", Some(json!(1)), JwsError::NoKeyId.into()),
        ("header", "kid", Some(json!("x")), JwsError::UnknownKey("x".into()).into()),
        ("header", "crit", Some(json!([])), JwsError::Critical.into()),
        ("header", "crit", Some(json!(["b64"])), JwsError::Critical.into()),
        ("header", "typ", Some(json!("at+jwt")), JwsError::Type.into()),
        ("content", "exp", None, JwtSvidError::Claim("exp")),
        ("content", "exp", Some(json!("1900000000")), JwtSvidError::Claim("exp")),
        ("content", "exp", Some(json!(-1)), JwtSvidError::Claim("exp")),
        ("content", "exp", Some(json!(1e300)), JwtSvidError::Claim("exp")),
        ("content", "iat", Some(json!("now")), JwtSvidError::Claim("iat")),
        ("content", "nbf", Some(json!(null)), JwtSvidError::Claim("nbf")),
        ("content", "aud", None, JwtSvidError::Claim("aud")),
        ("content", "aud", Some(json!([])), JwtSvidError::Claim("aud")),
        ("content", "aud", Some(json!("")), JwtSvidError::Claim("aud")),
        ("content", "aud", Some(json!(["db", ""])), JwtSvidError::Claim("aud")),
        ("content", "aud", Some(json!(["db", 1])), JwtSvidError::Claim("aud")),
        ("content", "aud", Some(json!(["DB", "db "])), JwtSvidError::Audience("db".into())),
        ("content", "sub", None, JwtSvidError::Claim("sub")),
        ("content", "sub", Some(json!(["spiffe://shop.test/a"])), JwtSvidError::Claim("sub")),
    ];
    for (part, name, value, expected) in cases {
        let described = format!("{part} {name} {value:?}");
        assert_eq!(refusal(&changed(&signer, part, name, value)), expected, "{described}");
    }
    let expired = changed(&signer, "content", "exp", Some(json!(NOW.as_secs())));
    assert!(matches!(refusal(&expired), JwtSvidError::Expired { .. }));
    let early = changed(&signer, "content", "nbf", Some(json!(NOW.as_secs() + 1)));
    assert!(matches!(refusal(&early), JwtSvidError::NotYetValid { .. }));
    for subject in ["spiffe://other.test/a", "spiffe://shop.test.evil/a"] {
        let token = changed(&signer, "content", "sub", Some(json!(subject)));
        assert!(matches!(refusal(&token), JwtSvidError::ForeignTrustDomain { .. }), "{subject}");
    }
    for subject in
        ["spiffe://shop.test", "spiffe://SHOP.test/a", "https://shop.test/a", "spiffe://shop.test/a/../b"]
    {
        let token = changed(&signer, "content", "sub", Some(json!(subject)));
        assert!(matches!(refusal(&token), JwtSvidError::NotSpiffeId(_)), "{subject}");
    }
    // Nobody's audience is meant by nobody.
    let token = changed(&signer, "header", "typ", None);
    assert!(verify_jwt_svid(&token, "", &keys, NOW).is_err());
}

#[test]
fn members_that_stand_twice_are_refused() {
    let signer = JwtSigner::generate().unwrap();
    let keys = bundle(&[&signer]);
    let (head, body) = (header(&signer).to_string(), content().to_string());
    assert!(verify_jwt_svid(&raw(&signer, &head, &body), "db", &keys, NOW).is_ok());
    let twice = |json: &str, member: &str| json.replacen('{', &format!("{{{member},"), 1);
    let refused =
        |head: &str, body: &str| verify_jwt_svid(&raw(&signer, head, body), "db", &keys, NOW).unwrap_err();
    assert_eq!(refused(&twice(&head, r#""alg":"ES256""#), &body), JwsError::Header.into());
    for member in [
        r#""sub":"spiffe://shop.test/b""#,
        r#""\u0073ub":"x""#,
        r#""x":{"y":1,"y":1}"#,
        r#""x":[{"y":1,"y":1}]"#,
    ] {
        assert_eq!(refused(&head, &twice(&body, member)), JwtSvidError::Claims, "{member}");
    }
    for broken in ["", "[]", "null", "{", "{}{}", "\u{feff}{}"] {
        assert_eq!(refused(broken, &body), JwsError::Header.into(), "{broken:?}");
        assert_eq!(refused(&head, broken), JwtSvidError::Claims, "{broken:?}");
    }
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(refused(&head, &deep), JwtSvidError::Claims);
}

#[test]
fn the_form_is_exact() {
    let signer = JwtSigner::generate().unwrap();
    let keys = bundle(&[&signer]);
    let token = changed(&signer, "header", "typ", None);
    let refusal = |token: &str| verify_jwt_svid(token, "db", &keys, NOW).unwrap_err();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for wrong in [
        String::new(),
        "..".to_owned(),
        signed.to_owned(),
        format!("{token}."),
        format!("{token}=="),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}.{signature}"),
    ] {
        assert!(verify_jwt_svid(&wrong, "db", &keys, NOW).is_err(), "{wrong:?}");
    }
    assert_eq!(refusal(&format!("{signed}.{signature}=")), JwsError::NotCompact.into());
    assert_eq!(refusal(&format!("{signed}.")), JwsError::Signature.into());
    let large = changed(&signer, "content", "x", Some(json!("x".repeat(MAX_TOKEN_BYTES))));
    assert_eq!(refusal(&large), JwsError::TooLarge(large.len()).into());
    // The last character of 64 bytes in base64url holds unused bits: a second spelling of the same signature.
    let last = signature.chars().next_back().unwrap();
    for other in ('A'..='Z').chain('a'..='z').chain('0'..='9').filter(|other| *other != last) {
        let respelt = format!("{}{other}", &token[..token.len() - 1]);
        assert!(verify_jwt_svid(&respelt, "db", &keys, NOW).is_err(), "{other}");
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    let signer = JwtSigner::generate().unwrap();
    let keys = bundle(&[&signer]);
    let token = changed(&signer, "header", "typ", None);
    for index in 0..token.len() * 7 {
        let mut bytes = token.clone().into_bytes();
        bytes[index / 7] ^= 1 << (index % 7);
        let flipped = String::from_utf8(bytes).unwrap();
        assert!(verify_jwt_svid(&flipped, "db", &keys, NOW).is_err(), "bit {index}: {flipped}");
    }
}

#[test]
fn key_sets_go_there_and_back() {
    let (one, two) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let keys = bundle(&[&one, &two]);
    for purpose in [KeyUse::Signature, KeyUse::Unsaid] {
        let jwks = keys.to_jwks(purpose);
        for member in [r#""use":"sig""#, r#""alg":"ES256""#] {
            assert_eq!(jwks.contains(member), purpose == KeyUse::Signature, "{jwks}");
        }
        assert!(!jwks.contains("\"d\""), "{jwks}");
        assert_eq!(JwtBundle::from_jwks(domain("shop.test"), jwks.as_bytes()).unwrap(), keys);
    }
    let twice = JwtBundle::new(domain("a"), [&one, &one].map(|signer| signer.public_key().unwrap()));
    assert_eq!(twice.unwrap_err(), JwtBundleError::SameId(one.key_id().to_owned()));
    let mut point = one.public_point().to_vec();
    point[40] ^= 1;
    assert_eq!(JwtKey::es256("x", &point).unwrap_err(), JwtKeyError::Point);
    assert_eq!(JwtKey::es256("", one.public_point()).unwrap_err(), JwtKeyError::KeyId);
    assert_eq!(JwtKey::es256("x", &one.public_point()[1..]).unwrap_err(), JwtKeyError::Point);
}

#[test]
fn a_jwt_svid_without_a_key_id_is_by_the_only_key_of_its_algorithm() {
    let (ours, other) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let unnamed = changed(&ours, "header", "kid", None);
    let verified = |signers: &[&JwtSigner]| {
        verify_jwt_svid(&unnamed, "db", &bundle(signers), NOW).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(verified(&[&ours]), Ok(()));
    assert!(verified(&[&ours, &other]).unwrap_err().contains("2 of the keys"));
    assert!(verified(&[&other]).unwrap_err().contains("signature is wrong"));
}

/// Signs with an RSA key of 2048 bits, as `alg` says.
fn by_rsa(key: &aws_lc_rs::signature::RsaKeyPair, alg: &str) -> String {
    use aws_lc_rs::signature::{
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding,
    };
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&json!({ "alg": alg, "kid": "rsa" })), encode(&content()));
    let padding: &'static dyn RsaEncoding = match alg {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        _ => &RSA_PSS_SHA512,
    };
    let mut signature = vec![0; key.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    key.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn an_rsa_key_that_names_no_algorithm_signs_with_those_of_rsa_and_one_that_does_with_it_alone() {
    use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
    let key = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (modulus, exponent) = (key.public_key().modulus(), key.public_key().exponent());
    let (n, e) =
        (part(modulus.big_endian_without_leading_zero()), part(exponent.big_endian_without_leading_zero()));
    let jwk = json!({ "kty": "RSA", "kid": "rsa", "n": n, "e": e });
    let read = |jwk: &Value| {
        let set = json!({ "keys": [jwk] }).to_string();
        let keys = JwtBundle::from_jwks(domain("shop.test"), set.as_bytes()).unwrap();
        // As it is stored and sent on, it is the same.
        for purpose in [KeyUse::Signature, KeyUse::Unsaid] {
            let again = JwtBundle::from_jwks(domain("shop.test"), keys.to_jwks(purpose).as_bytes());
            assert_eq!(again.as_ref(), Ok(&keys));
        }
        keys
    };
    let (any, mut named) = (read(&jwk), jwk.clone());
    for alg in Algorithm::OF_RSA {
        let token = by_rsa(&key, alg.as_str());
        assert!(verify_jwt_svid(&token, "db", &any, NOW).is_ok(), "{alg}");
        named["alg"] = json!(alg.as_str());
        let only = read(&named);
        for other in Algorithm::OF_RSA {
            let verified = verify_jwt_svid(&by_rsa(&key, other.as_str()), "db", &only, NOW);
            assert_eq!(verified.is_ok(), other == alg, "{alg} {other}");
        }
        // What is signed in one way is not taken for signed in another.
        let other = if alg == Algorithm::Rs256 { "PS256" } else { "RS256" };
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": other, "kid": "rsa" }).to_string());
        let swapped = format!("{header}.{}", token.split_once('.').unwrap().1);
        assert!(verify_jwt_svid(&swapped, "db", &any, NOW).is_err(), "{alg} as {other}");
    }
    for alg in ["ES256", "HS256", "EdDSA"] {
        named["alg"] = json!(alg);
        let set = json!({ "keys": [named] }).to_string();
        assert!(
            JwtBundle::from_jwks(domain("a"), set.as_bytes())
                .map_or(true, |keys| keys.keys().next().is_none())
        );
    }
}

/// Else it would have as many fingerprints, and could be listed where the same key is refused.
#[test]
fn a_key_has_one_form() {
    use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
    let key = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let (modulus, exponent) = (key.public_key().modulus(), key.public_key().exponent());
    let text = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
    let n = text(modulus.big_endian_without_leading_zero());
    let e = text(exponent.big_endian_without_leading_zero());
    let rsa = json!({ "kty": "RSA", "kid": "a", "alg": "RS256", "n": n, "e": e });
    let ec = Value::Object(JwtSigner::generate().unwrap().public_key().unwrap().to_jwk());
    for (jwk, names) in [(rsa, ["n", "e"]), (ec, ["x", "y"])] {
        let read = |jwk: &Value| JwtKeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes());
        assert!(read(&jwk).is_ok());
        for name in names {
            let number = URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
            for zeros in [1, 2, 8] {
                let mut longer = jwk.clone();
                longer[name] = text(&[&vec![0; zeros][..], &number].concat());
                assert!(read(&longer).is_err(), "{zeros} octets before {name}");
            }
        }
    }
}

/// The example of RFC 8037 Appendix A.4.
#[test]
fn ed25519_verifies_tokens_of_users_and_no_jwt_svid() {
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let read = |change: &dyn Fn(&mut Value)| {
        let mut jwk = jwk.clone();
        change(&mut jwk);
        JwtKeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes())
    };
    let types = jws::Types::Media(&["jwt"]);
    let verified =
        |token: &str, keys: &JwtKeySet| jws::verify(token, types, keys).map(|(payload, _)| payload);
    let keys = read(&|_| {}).unwrap();
    assert_eq!(verified(jws, &keys).unwrap(), b"Example of Ed25519 signing");
    assert_eq!(JwtKeySet::from_jwks(keys.to_jwks(KeyUse::Signature).as_bytes()).unwrap(), keys);
    for alg in ["EdDSA", "Ed25519"] {
        assert_eq!(read(&|jwk| jwk["alg"] = json!(alg)).unwrap(), keys, "{alg}");
    }
    let altered = jws.replacen("hgyY", "hgyZ", 1);
    assert_eq!(verified(&altered, &keys).unwrap_err(), JwsError::Signature);
    // Of other curves none is known, and another algorithm is a mistake.
    for crv in ["Ed448", "X25519", "ed25519"] {
        assert!(read(&|jwk| jwk["crv"] = json!(crv)).unwrap().is_empty(), "{crv}");
    }
    assert!(read(&|jwk| jwk["alg"] = json!("ES256")).is_err());
    assert!(read(&|jwk| jwk["x"] = json!("AAAA")).is_err());
    let refusal = |x: &[u8]| match read(&|jwk| jwk["x"] = json!(URL_SAFE_NO_PAD.encode(x))) {
        Err(JwtBundleError::Key { source, .. }) => Some(source),
        _ => None,
    };
    let key = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    assert_eq!(refusal(&spki(&key)), Some(JwtKeyError::Point), "the key is the point alone (RFC 8037 §2)");
    for anybodys in of_small_order() {
        assert_eq!(refusal(&anybodys), Some(JwtKeyError::Point), "{anybodys:02x?}");
    }
    let anybodys = URL_SAFE_NO_PAD.encode(of_small_order()[2]);
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": anybodys }] });
    let (keys, passed_over) = JwtKeySet::of_issuer(keys.to_string().as_bytes()).unwrap();
    assert!(
        keys.is_empty() && passed_over.len() == 1,
        "of an issuer it is passed over, and told: {passed_over:?}"
    );
    let set = json!({ "keys": [jwk] }).to_string();
    assert_eq!(JwtBundle::from_jwks(domain("a"), set.as_bytes()).unwrap().keys().count(), 0);
}

/// Of go-spiffe: what others publish.
#[test]
fn foreign_key_sets_are_read() {
    let Some(folder) = crate::skipped::shared("vectors/spiffe") else { return };
    let read =
        |name: &str| JwtBundle::from_jwks(domain("domain.test"), &std::fs::read(folder.join(name)).unwrap());
    for (name, keys) in [
        ("jwks_valid_1.json", 1),
        ("jwks_valid_2.json", 2),
        ("spiffebundle_valid_1.json", 1),
        ("spiffebundle_valid_2.json", 6),
    ] {
        assert_eq!(read(name).unwrap().keys().count(), keys, "{name}");
    }
    for name in ["jwks_missing_kid.json", "spiffebundle_missing_kid.json"] {
        let refusal = read(name).unwrap_err();
        assert!(
            matches!(refusal, JwtBundleError::Key { source: JwtKeyError::KeyId, .. }),
            "{name}: {refusal}"
        );
    }
}

/// The same shapes, of our own making: these run where no suite of others lies beside the checkout.
#[test]
fn key_sets_are_read_by_their_members_and_never_in_part() {
    let signers = [JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap()];
    let keys: Vec<_> = signers.iter().map(|signer| signer.public_key().unwrap().to_jwk()).collect();
    let read = |keys: &Value| {
        let jwks = json!({ "keys": keys }).to_string();
        JwtBundle::from_jwks(domain("domain.test"), jwks.as_bytes())
    };
    let plain = json!(keys);
    assert_eq!(read(&plain).unwrap().keys().count(), 2);
    // What each key is for is told, or not; other members mean nothing.
    for (name, value) in [("use", json!("sig")), ("use", json!("jwt-svid")), ("x", plain[0]["x"].clone())] {
        let mut one = plain.clone();
        one[0][name] = value;
        assert_eq!(read(&one).unwrap().keys().count(), 2, "{name}");
    }
    for name in ["kid", "x", "y", "crv"] {
        let mut without = plain.clone();
        without[1].as_object_mut().unwrap().remove(name);
        let refusal = read(&without).unwrap_err();
        assert!(matches!(refusal, JwtBundleError::Key { number: 2, .. }), "{name}: {refusal}");
    }
    for (name, value) in [
        ("crv", json!("P-384")),
        ("kty", json!("RSA")),
        ("x", json!("")),
        ("x", json!(format!("{}=", plain[0]["x"].as_str().unwrap()))),
        ("y", plain[1]["y"].clone()),
    ] {
        let mut wrong = plain.clone();
        wrong[0][name] = value.clone();
        assert!(read(&wrong).is_err(), "{name} {value}");
    }
    // Of a curve that is unknown here, one is passed over (RFC 7517 §5).
    let mut unknown = plain.clone();
    unknown[0]["crv"] = json!("secp256k1");
    assert_eq!(read(&unknown).unwrap().keys().count(), 1);
    let mut secret = plain.clone();
    secret[0] = json!({ "kty": "oct", "kid": "hmac", "k": "c2VjcmV0", "alg": "HS256" });
    assert!(read(&secret).map_or(true, |keys| keys.keys().count() == 1), "no HMAC verifies anything");
    let same = json!([plain[0], plain[0]]);
    assert!(matches!(read(&same), Err(JwtBundleError::SameId(_))));
    let no_key = JwtBundle::from_jwks(domain("a"), br#"{"keys":[1]}"#).unwrap_err();
    assert_eq!(no_key, JwtBundleError::Key { number: 1, source: JwtKeyError::NotAnObject });
    for wrong in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
        assert_eq!(
            JwtBundle::from_jwks(domain("a"), wrong.as_bytes()).unwrap_err(),
            JwtBundleError::NotASet,
            "{wrong}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(token in ".{0,64}\\.?.{0,64}\\.?.{0,64}", jwks in ".{0,200}") {
        let keys = bundle(&[]);
        prop_assert!(verify_jwt_svid(&token, "db", &keys, NOW).is_err());
        let _ = JwtBundle::from_jwks(domain("a"), jwks.as_bytes());
    }
}
