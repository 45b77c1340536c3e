mod by_handle;
mod known_hops;
mod ours;
mod passed;
mod views;

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::Name;
use hauberk_policy::{ClaimsMapping, UserTokens as Taken};
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

/// An issuer with one key.
struct Provider {
    key: EcdsaKeyPair,
    name: &'static str,
    url: String,
}

impl Provider {
    fn new(name: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { key, name, url: format!("https://{name}.example") }
    }

    fn jwk(&self, id: &str) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y})
    }

    fn issuer(&self) -> JwtIssuer {
        JwtIssuer {
            name: Name::parse(self.name).unwrap(),
            issuer: self.url.clone(),
            audiences: vec!["other".to_owned(), "shop".to_owned()],
            jwks: json!({"keys": [self.jwk("k1")]}).to_string().into_bytes(),
            claims: ClaimsMapping::default(),
            token_header: None,
            audience_is_client: false,
            is_ours: false,
        }
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.url, "sub": "alice", "aud": "shop", "exp": NOW.as_secs() + 300,
            "groups": ["support"], "team": "blue"
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}), claims)
    }
}

#[test]
fn access_tokens_of_a_cognito_user_pool_are_for_the_client_that_they_name() {
    let pool = Provider::new("pool");
    let claims = ClaimsMapping { groups: vec!["cognito:groups".to_owned()], ..ClaimsMapping::default() };
    let by_client = JwtIssuer { audience_is_client: true, claims, ..pool.issuer() };
    let access = json!({
        "iss": pool.url, "sub": "aaaa-bbbb", "client_id": "shop", "token_use": "access", "scope": "aws.cognito.signin.user.admin",
        "cognito:groups": ["support"], "username": "alice", "version": 2, "auth_time": NOW.as_secs() - 10, "iat": NOW.as_secs() - 10,
        "exp": NOW.as_secs() + 300, "jti": "1", "origin_jti": "2", "event_id": "3"
    });
    let see = |issuer: &JwtIssuer, claims: &Value| {
        // These have no `typ`.
        let token = pool.sign(&json!({"alg": "ES256", "kid": "k1"}), claims);
        let users = users(vec![issuer.clone()]);
        match users.look(&headers(&[("authorization", &bearer(&token))]), &Mesh::new(), NOW).0 {
            Claimed::User(identity) => {
                let told = format!("{:?}", identity.origin.user);
                assert!(told.contains("support") && told.contains("aws.cognito.signin.user.admin"), "{told}");
                identity.origin.user.name()
            }
            Claimed::Refused(reason) => reason.to_owned(),
            Claimed::Nobody => "nobody".to_owned(),
        }
    };
    let with = |name: &str, value: Value| {
        let mut claims = access.clone();
        claims[name] = value;
        claims
    };
    assert_eq!(see(&by_client, &access), "pool/aaaa-bbbb");
    assert_eq!(see(&by_client, &with("client_id", json!("bank"))), "user_token_audience");
    // An identity token is for the client in `aud`, and another one than was asked for.
    let mut identity = with("aud", json!("shop"));
    identity.as_object_mut().unwrap().remove("client_id");
    assert_eq!(see(&by_client, &identity), "user_token_malformed");
    for odd in [json!(["shop"]), json!(null), json!("")] {
        assert_ne!(see(&by_client, &with("client_id", odd.clone())), "pool/aaaa-bbbb", "{odd}");
    }
    // One that names an audience as well is for nobody else.
    assert_eq!(see(&by_client, &with("aud", json!("bank"))), "user_token_audience");
    assert_eq!(see(&by_client, &with("aud", json!(["bank", "shop"]))), "pool/aaaa-bbbb");
    assert_eq!(see(&by_client, &with("aud", json!(1))), "user_token_malformed");
    // By default whom the token is for counts, and nothing else.
    let by_audience = JwtIssuer { audience_is_client: false, ..by_client.clone() };
    assert_eq!(see(&by_audience, &access), "user_token_malformed");
    assert_eq!(see(&by_audience, &with("aud", json!("bank"))), "user_token_audience");
    assert_eq!(see(&by_audience, &with("aud", json!("shop"))), "pool/aaaa-bbbb");
}

fn users(issuers: Vec<JwtIssuer>) -> Arc<Users> {
    Users::of(issuers, &BTreeSet::from(["team"]), None).unwrap()
}

fn all() -> Taken {
    Taken { required: false, issuers: Vec::new(), kept: false }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

/// Who it is, or why it is nobody.
fn seen(users: &Users, fields: &[(&str, &str)]) -> String {
    match users.look(&headers(fields), &Mesh::new(), NOW).0 {
        Claimed::Nobody => "nobody".to_owned(),
        Claimed::User(identity) => identity.origin.user.name(),
        Claimed::Refused(reason) => reason.to_owned(),
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_good_token_says_who_the_user_is_and_any_other_is_refused_by_name() {
    let login = Provider::new("login");
    let stranger = Provider::new("stranger");
    let users = users(vec![login.issuer()]);
    let see = |token: &str| seen(&users, &[("authorization", &bearer(token))]);
    assert_eq!(see(&login.token(&login.claims())), "login/alice");
    let with = |name: &str, value: Value| {
        let mut claims = login.claims();
        claims[name] = value;
        login.token(&claims)
    };
    let headed = |header: Value| login.sign(&header, &login.claims());
    let good = json!({"alg": "ES256", "kid": "k1"});
    // The issuer has one key of this algorithm.
    assert_eq!(see(&headed(json!({"alg": "ES256"}))), "login/alice");
    let mut forged = login.token(&login.claims());
    forged.truncate(forged.rfind('.').unwrap() + 1);
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": "k1"}).to_string()),
        URL_SAFE_NO_PAD.encode(login.claims().to_string())
    );
    let claims_of_login = stranger.sign(&good, &login.claims());
    let with_own_key = stranger.sign(
        &json!({"alg": "ES256", "kid": "k1", "jwk": stranger.jwk("k1"), "jku": "https://evil.example/jwks"}),
        &login.claims(),
    );
    for (token, reason) in [
        (String::new(), "user_token_malformed"),
        ("x".to_owned(), "user_token_malformed"),
        ("a.b.c".to_owned(), "user_token_malformed"),
        ("x".repeat(MAX_TOKEN + 1), "user_token_too_large"),
        (forged, "user_token_signature"),
        (unsigned, "user_token_algorithm"),
        (claims_of_login, "user_token_signature"),
        (with_own_key, "user_token_signature"),
        (headed(json!({"alg": "HS256", "kid": "k1"})), "user_token_algorithm"),
        (headed(json!({"alg": "RS256", "kid": "k1"})), "user_token_algorithm"),
        (headed(json!({"alg": "ES256", "kid": "../../k1"})), "user_token_unknown_key"),
        (headed(json!({"alg": "ES256", "kid": ["k1"]})), "user_token_unknown_key"),
        (headed(json!({"alg": "HS256"})), "user_token_unknown_key"),
        (headed(json!({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false})), "user_token_header"),
        (headed(json!({"alg": "ES256", "kid": "k1", "typ": "dpop+jwt"})), "user_token_header"),
        (stranger.token(&stranger.claims()), "user_token_unknown_issuer"),
        (with("iss", json!("https://login.example/")), "user_token_unknown_issuer"),
        (with("iss", json!(["https://login.example"])), "user_token_malformed"),
        (with("aud", json!("bank")), "user_token_audience"),
        (with("aud", json!([])), "user_token_malformed"),
        (with("exp", json!(NOW.as_secs())), "user_token_expired"),
        (with("exp", Value::Null), "user_token_malformed"),
        (with("exp", json!("1900000000")), "user_token_malformed"),
        (with("nbf", json!(NOW.as_secs() + 61)), "user_token_not_yet_valid"),
        (with("iat", json!(NOW.as_secs() + 61)), "user_token_not_yet_valid"),
        (with("sub", json!("")), "user_token_claims"),
    ] {
        assert_eq!(see(&token), reason, "{}", &token[..token.len().min(80)]);
    }
    // Media types are compared without regard to case.
    for kind in ["JWT", "jwt", "application/jwt", "at+JWT", "Application/AT+JWT"] {
        assert_eq!(see(&headed(json!({"alg": "ES256", "kid": "k1", "typ": kind}))), "login/alice", "{kind}");
    }
    for kind in [json!("text/jwt"), json!("application/"), json!("id+jwt"), json!(["jwt"]), Value::Null] {
        let told = see(&headed(json!({"alg": "ES256", "kid": "k1", "typ": kind})));
        assert_eq!(told, "user_token_header", "{kind}");
    }
    assert_eq!(see(&with("nbf", json!(NOW.as_secs() + 60))), "login/alice", "clocks differ a little");
    assert_eq!(see(&with("aud", json!(["bank", "shop"]))), "login/alice");
}

#[test]
fn a_token_is_looked_for_where_its_issuer_puts_it_and_stands_there_alone() {
    let (login, edge) = (Provider::new("login"), Provider::new("edge"));
    let at_edge = JwtIssuer { token_header: Some("x-edge-token".to_owned()), ..edge.issuer() };
    let users = users(vec![login.issuer(), at_edge]);
    let (own, other) = (login.token(&login.claims()), edge.token(&edge.claims()));
    let by_bearer = bearer(&own);
    let see = |fields: &[(&str, &str)]| seen(&users, fields);
    assert_eq!(see(&[]), "nobody");
    assert_eq!(see(&[("authorization", "Basic YWxpY2U6eA==")]), "nobody");
    assert_eq!(see(&[("authorization", &by_bearer)]), "login/alice");
    assert_eq!(see(&[("authorization", &format!("bEaReR   {own} "))]), "login/alice");
    assert_eq!(see(&[("x-edge-token", &other)]), "edge/alice");
    assert_eq!(see(&[("x_edge_token", &other)]), "edge/alice", "servers may read it so");
    assert_eq!(see(&[("x-edge-token", &bearer(&other))]), "edge/alice");
    assert_eq!(see(&[("x-edge-token", &format!("bEaReR\t {other} "))]), "edge/alice");
    for ambiguous in [
        vec![("authorization", by_bearer.as_str()), ("authorization", &by_bearer)],
        vec![("authorization", &by_bearer), ("authorization", "Basic x")],
        vec![("x-edge-token", &other), ("x-edge-token", &other)],
        vec![("x-edge-token", &other), ("x_edge_token", &other)],
        vec![("authorization", &by_bearer), ("x-edge-token", &other)],
    ] {
        assert_eq!(see(&ambiguous), "user_token_ambiguous", "{ambiguous:?}");
    }
    for malformed in ["Bearer", "Bearer ", "Bearer a b", "bearer\ta.b.c,d", "Bearer,x", "Bearer=x"] {
        assert_eq!(see(&[("authorization", malformed)]), "user_token_malformed", "{malformed}");
    }
    for malformed in ["Bearer", "Bearer Bearer x", "Basic x", "Bearer=x"] {
        assert_eq!(see(&[("x-edge-token", malformed)]), "user_token_malformed", "{malformed}");
    }
    // Where an app would find the word, though it is not where it belongs.
    for hidden in [
        " Bearer x",
        "\tBearer x",
        "\u{a0}Bearer x",
        "Bearer\u{a0}x",
        "Basic eA==, Bearer x",
        "Basic \"Bearer\"",
    ] {
        assert_eq!(see(&[("authorization", hidden)]), "user_token_malformed", "{hidden:?}");
        let with_own = format!("Bearer {own}, {hidden}");
        assert_eq!(see(&[("authorization", &with_own)]), "user_token_malformed", "{with_own:?}");
        assert_eq!(see(&[("x-edge-token", hidden)]), "user_token_malformed", "{hidden:?}");
        for with_other in [format!("Bearer {other}, {hidden}"), format!("{other}, {hidden}")] {
            assert_eq!(see(&[("x-edge-token", &with_other)]), "user_token_malformed", "{with_other:?}");
        }
    }
    assert_eq!(see(&[("authorization", "Basic Zm9yYmVhcmVyczpiZWFyZXI=")]), "nobody");
    assert_eq!(see(&[("x.edge.token", &other)]), "edge/alice", "or so");
    assert_eq!(see(&[("authorization", &bearer(&other))]), "user_token_misplaced");
    assert_eq!(see(&[("x-edge-token", &own)]), "user_token_misplaced");
}

#[test]
fn what_is_taken_out_is_the_token_alone() {
    let mut fields = headers(&[
        ("authorization", "Bearer x"),
        ("x-edge-token", "x"),
        ("x_edge_token", "x"),
        ("x.edge.token", "x"),
        ("x-other", "kept"),
    ]);
    Place::Bearer.strip(&mut fields);
    Place::Field("x-edge-token".into()).strip(&mut fields);
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["x-other"]);
}

#[test]
fn two_issuers_never_vouch_for_each_other_and_their_users_are_not_the_same() {
    let (login, edge) = (Provider::new("login"), Provider::new("edge"));
    let users = users(vec![login.issuer(), edge.issuer()]);
    let see = |token: &str| seen(&users, &[("authorization", &bearer(token))]);
    assert_eq!(see(&login.token(&login.claims())), "login/alice");
    assert_eq!(see(&edge.token(&edge.claims())), "edge/alice");
    assert_eq!(see(&edge.token(&login.claims())), "user_token_signature");
}

#[test]
fn what_was_verified_is_kept_until_it_ends_or_the_issuers_change() {
    let login = Provider::new("login");
    let first = users(vec![login.issuer()]);
    let token = login.token(&login.claims());
    let known = first.verify(&token, &Denied::new(), NOW).unwrap();
    assert!(Arc::ptr_eq(&known, &first.verify(&token, &Denied::new(), NOW).unwrap()));
    let end = NOW.plus(Duration::from_secs(300));
    assert_eq!(first.verify(&token, &Denied::new(), end).unwrap_err(), "user_token_expired");
    assert!(!format!("{known:?} {first:?}").contains(&token));
    let claims = BTreeSet::from(["team"]);
    let same = Users::of(vec![login.issuer()], &claims, Some(&first)).unwrap();
    assert!(Arc::ptr_eq(&same, &first), "what does not change is not verified anew");
    let without = JwtIssuer { jwks: b"{\"keys\":[]}".to_vec(), ..login.issuer() };
    let other = Users::of(vec![without], &claims, Some(&first)).unwrap();
    assert_eq!(other.verify(&token, &Denied::new(), NOW).unwrap_err(), "user_token_unknown_key");
    let broken = JwtIssuer { jwks: b"nonsense".to_vec(), ..login.issuer() };
    let other = Users::of(vec![broken], &claims, Some(&first)).unwrap();
    assert_eq!(other.verify(&token, &Denied::new(), NOW).unwrap_err(), "user_token_unknown_key");
    let more = Users::of(vec![login.issuer()], &BTreeSet::from(["team", "x"]), Some(&first)).unwrap();
    assert!(!Arc::ptr_eq(&more, &first), "other claims are read");
    assert!(Users::of(Vec::new(), &claims, Some(&first)).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_was_told_of_is_looked_for() {
    let [login, own] = ["login", "own"].map(Provider::new);
    let users = users(vec![login.issuer(), JwtIssuer { is_ours: true, ..own.issuer() }]);
    let asked = async |by: &Provider, header: Value| {
        let (mesh, token) = (Mesh::new(), by.sign(&header, &by.claims()));
        let seen = users.look(&headers(&[("authorization", &bearer(&token))]), &mesh, NOW).0;
        assert!(matches!(seen, Claimed::Refused(_)), "{header}");
        let next = tokio::time::timeout(Duration::from_secs(1), mesh.unknown_keys.next());
        next.await.map(|issuer| issuer.to_string()).ok()
    };
    assert_eq!(asked(&login, json!({"alg": "ES256", "kid": "k2"})).await.as_deref(), Some("login"));
    assert_eq!(
        asked(&own, json!({"alg": "ES256", "kid": "k2"})).await,
        None,
        "those are told before they sign"
    );
    assert_eq!(asked(&login, json!({"alg": "RS256", "kid": "k1"})).await, None);
    assert_eq!(asked(&login, json!({"alg": "RS256"})).await, None, "it names none");
    let stranger = Provider::new("stranger");
    assert_eq!(asked(&stranger, json!({"alg": "ES256", "kid": "k2"})).await, None);
}

#[test]
fn what_is_kept_is_bounded() {
    let login = Provider::new("login");
    let users = users(vec![login.issuer()]);
    let identity = users.verify(&login.token(&login.claims()), &Denied::new(), NOW).unwrap();
    let mut kept = Kept::default();
    for number in 0..10_000_u32 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        kept.insert(hash, Arc::clone(&identity), identity.size());
        assert!(kept.get(&hash).is_some() && kept.len() <= 4_096);
    }
    // Who is seen now and then is kept, however many others come in between.
    let seen = [255; 32];
    kept.insert(seen, Arc::clone(&identity), identity.size());
    for number in 0..10_000_u32 {
        let mut hash = [1; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        kept.insert(hash, Arc::clone(&identity), identity.size());
        assert!(number % 2_000 != 0 || kept.get(&seen).is_some(), "{number}");
    }
    assert!(kept.len() <= 4_096);
}
