//! Keys of issuers, from servers that say what they like.

use super::*;
use crate::resources::{Catalog, FetchedKeys, Kind};

const LOGIN: &str = "https://login.example";

/// An issuer, whose web server is known by the root in this file.
struct Issuer {
    partner: Partner,
    roots: tempfile::NamedTempFile,
}

impl Issuer {
    async fn start() -> Self {
        let partner = Partner::start("login.example").await;
        let roots = tempfile::NamedTempFile::new().unwrap();
        let root = partner.root.certificate().clone();
        let pem = TrustBundle::new(domain("login.example"), [root]).unwrap().to_pem();
        std::fs::write(roots.path(), pem).unwrap();
        Self { partner, roots }
    }

    fn resource(&self, change: impl FnOnce(&mut wire::JwtIssuerSpec)) -> wire::Resource {
        let mut spec = wire::JwtIssuerSpec {
            issuer: LOGIN.into(),
            audiences: vec!["shop".into()],
            jwks_url: format!("https://{}/jwks", self.partner.address),
            allow_private_addresses: Some(true),
            ..wire::JwtIssuerSpec::default()
        };
        change(&mut spec);
        resource("shop", "login", Spec::JwtIssuer(spec))
    }
}

fn key() -> ResourceKey {
    let name = |text| Name::parse(text).unwrap();
    ResourceKey { kind: Kind::JwtIssuer, mesh: name("shop"), name: name("login") }
}

async fn shop(issuer: &Issuer) -> (Scratch, Arc<Federation>) {
    let scratch = Scratch::new().await;
    scratch.apply(&[mesh("shop"), node("orders", [listener(8080, "http")])]).await;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let federation = federation_with(&scratch, Arc::new(audit), Some(issuer.roots.path().to_owned()));
    (scratch, federation)
}

fn jwks(signers: &[&JwtSigner]) -> String {
    let keys = signers.iter().map(|signer| signer.public_key().unwrap());
    JwtBundle::new(domain("login.example"), keys).unwrap().to_jwks(hauberk_tls::jwt::KeyUse::Signature)
}

/// The ids of the keys that are in the views of nodes.
async fn in_force(scratch: &Scratch) -> Vec<String> {
    ids_in(&scratch.resources.catalogs().current().await.unwrap())
}

fn ids_in(catalog: &Catalog) -> Vec<String> {
    let (_, _, keys) = catalog.mesh("shop").unwrap().issuers().next().unwrap();
    keys.map(|keys| keys.keys().map(|key| key.id().to_owned()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_served_counts_reaches_views_and_a_key_that_is_gone_is_gone() {
    let mut issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    let (first, second) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let inline = jwks(&[&first]);
    scratch.apply(&[issuer.resource(|spec| spec.jwks = inline.clone())]).await;
    assert_eq!(in_force(&scratch).await, [first.key_id()], "until the first answer");
    issuer.partner.says(ok(&jwks(&[&second])));
    let mut compilations = scratch.compilations().await;
    federation.refresh(&key()).await.unwrap();
    assert!(issuer.partner.asked.recv().await.unwrap().starts_with("GET /jwks HTTP/1.1\r\n"));
    assert_eq!(in_force(&scratch).await, [second.key_id()]);
    let orders = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap();
    let revision = scratch.store.revision().await.unwrap().0;
    let compiled = compilations.wait_for(|compilation| compilation.revision >= revision).await.unwrap();
    let Body::Node(view) = decode_view(&compiled.nodes[&orders].signed.view).unwrap().body else { panic!() };
    drop(compiled);
    let [told] = &view.issuers[..] else { panic!("{:?}", view.issuers) };
    assert_eq!((told.name.as_str(), told.issuer.as_str()), ("login", LOGIN));
    assert_eq!(told.jwks, jwks(&[&second]).into_bytes());
    // The same again changes nothing, and a restart forgets nothing.
    federation.refresh(&key()).await.unwrap();
    assert_eq!(scratch.store.revision().await.unwrap().0, revision);
    drop((federation, compilations));
    let scratch = scratch.restarted().await;
    assert_eq!(in_force(&scratch).await, [second.key_id()]);
    // What says nothing of where they come from takes nothing from them.
    let reads = issuer.resource(|spec| {
        spec.jwks.clone_from(&inline);
        spec.audiences.push("bank".into());
        spec.description = Some("everybody who works here".into());
        spec.token_header = Some("x-login".into());
        spec.claims = Some(wire::UserClaims { user: Some("email".into()), ..wire::UserClaims::default() });
        spec.declares = Some(wire::DeclaredUsers { groups: vec!["support".into()], ..Default::default() });
        spec.audience_claim = Some("client_id".into());
    });
    scratch.apply(&[reads]).await;
    assert_eq!(in_force(&scratch).await, [second.key_id()]);
    // A draft is judged as it would be applied: with what was fetched for the resource that it changes, or leaves as it is.
    let drafted = async |change: &dyn Fn(&mut wire::JwtIssuerSpec)| {
        let draft = issuer.resource(|spec| {
            spec.jwks.clone_from(&inline);
            change(spec);
        });
        let before = scratch.resources.catalogs().current().await.unwrap();
        let after = scratch.resources.draft(&before, &[draft]).unwrap().after;
        ids_in(&after)
    };
    assert_eq!(drafted(&|_| {}).await, [second.key_id()]);
    assert_eq!(drafted(&|spec| spec.description = Some("somebody".into())).await, [second.key_id()]);
    assert_eq!(drafted(&|spec| spec.jwks_url.push_str("?p=new")).await, [first.key_id()]);
    // Another source is an admin's word.
    let changed = issuer.resource(|spec| {
        spec.jwks = inline;
        spec.jwks_url.push_str("?p=new");
    });
    scratch.apply(&[changed]).await;
    assert_eq!(in_force(&scratch).await, [first.key_id()]);
    assert!(scratch.store.get(&FetchedKeys::store_key(&key())).await.unwrap().is_some());
}

#[tokio::test]
async fn a_bad_answer_leaves_the_last_good_keys_in_force() {
    let issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    scratch.apply(&[issuer.resource(|_| {})]).await;
    assert_eq!(in_force(&scratch).await, [""; 0], "nobody's tokens are good before the first answer");
    let signer = JwtSigner::generate().unwrap();
    issuer.partner.says(ok(&jwks(&[&signer])));
    federation.refresh(&key()).await.unwrap();
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(fetch::MAX_KEYS_BYTES));
    let twice = jwks(&[&signer]).replacen("\"kid\"", "\"kid\":\"x\",\"kid\"", 1);
    for (answer, wanted) in [
        (ok(&huge), "larger than"),
        (ok("{}"), "not a JSON Web Key Set"),
        (ok("<html>"), "not a JSON Web Key Set"),
        (ok(&twice), "not a JSON Web Key Set"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "status 302",
        ),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec(), "status 500"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "does not speak HTTP"),
    ] {
        issuer.partner.says(answer);
        let error = federation.refresh(&key()).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert_eq!(in_force(&scratch).await, [signer.key_id()]);
    }
}

/// An issuer whose key was lost publishes what it can in the hurry: what it no longer publishes counts no longer.
#[tokio::test]
async fn an_issuer_that_publishes_no_usable_key_takes_back_all() {
    let issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    let (lost, next) = (JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap());
    let inline = jwks(&[&lost]);
    scratch.apply(&[issuer.resource(|spec| spec.jwks = inline)]).await;
    for (answer, why) in [
        ("{\"keys\":[]}".to_owned(), "it has no keys at all"),
        (
            "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"c2VjcmV0\"}]}".to_owned(),
            "its only key is none that verifies tokens",
        ),
        (
            "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}".to_owned(),
            "key number 1 is refused",
        ),
        ("{\"keys\":[1]}".to_owned(), "key number 1 is refused: it is no object"),
    ] {
        issuer.partner.says(ok(&jwks(&[&lost])));
        federation.refresh(&key()).await.unwrap();
        assert_eq!(in_force(&scratch).await, [lost.key_id()]);
        issuer.partner.says(ok(&answer));
        federation.refresh(&key()).await.unwrap();
        assert_eq!(in_force(&scratch).await, [""; 0], "{answer}: not what the resource lists either");
        let catalog = scratch.resources.catalogs().current().await.unwrap();
        let [told] = &federation.issuers(&catalog)[..] else { panic!("one issuer") };
        assert!(told.is_fetched && told.keys == 0 && told.passed_over[0].contains(why), "{told:?}");
    }
    // A restart does not bring the lost one back, and another one counts.
    issuer.partner.says(ok(&jwks(&[&next])));
    drop(federation);
    let scratch = scratch.restarted().await;
    assert_eq!(in_force(&scratch).await, [""; 0]);
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let federation = federation_with(&scratch, Arc::new(audit), Some(issuer.roots.path().to_owned()));
    federation.refresh(&key()).await.unwrap();
    assert_eq!(in_force(&scratch).await, [next.key_id()]);
}

#[tokio::test]
async fn an_issuer_without_a_url_for_its_keys_is_asked_where_they_are() {
    let mut issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    let address = issuer.partner.address;
    let own = format!("https://{address}/realms/shop");
    let discovered = |spec: &mut wire::JwtIssuerSpec| {
        spec.issuer.clone_from(&own);
        spec.jwks_url.clear();
    };
    scratch.apply(&[issuer.resource(discovered)]).await;
    let signer = JwtSigner::generate().unwrap();
    // One document that is both: what it is asked for tells which of them was wanted.
    let says = |named: &str, keys_at: &str| {
        let keys = jwks(&[&signer]);
        let both = keys.replacen('{', &format!("{{\"issuer\":\"{named}\",\"jwks_uri\":\"{keys_at}\","), 1);
        ok(&both)
    };
    issuer.partner.says(says(&own, &format!("https://{address}/keys")));
    federation.refresh(&key()).await.unwrap();
    let mut asked = async || issuer.partner.asked.recv().await.unwrap().lines().next().unwrap().to_owned();
    assert_eq!(asked().await, "GET /realms/shop/.well-known/openid-configuration HTTP/1.1");
    assert_eq!(asked().await, "GET /keys HTTP/1.1");
    assert_eq!(in_force(&scratch).await, [signer.key_id()]);

    let elsewhere = "where they are not asked for";
    let without = |member: &str| {
        let good = says(&own, &format!("https://{address}/keys"));
        String::from_utf8(good).unwrap().replacen(member, &"x".repeat(member.len()), 1).into_bytes()
    };
    let twice = format!(
        "{{\"issuer\":\"https://evil.example\",\"issuer\":\"{own}\",\"jwks_uri\":\"https://{address}/keys\"}}"
    );
    let large = format!("{{\"issuer\":\"{own}\",\"x\":\"{}\"}}", "x".repeat(fetch::MAX_KEYS_BYTES));
    for (answer, wanted) in [
        (says(&format!("{own}/"), &format!("https://{address}/keys")), "is that of the issuer"),
        (says("https://login.example", &format!("https://{address}/keys")), "is that of the issuer"),
        (says(&"x".repeat(50_000), &format!("https://{address}/keys")), "is that of the issuer"),
        (says(&own, &format!("https://{address}x/{}", "x".repeat(50_000))), elsewhere),
        (ok(&format!("\"{}\"", "x".repeat(50_000))), "no OpenID Provider configuration"),
        (says(&own, "https://169.254.169.254/latest"), elsewhere),
        (says(&own, "https://login.example/keys"), elsewhere),
        (says(&own, "https://127.0.0.1/keys"), elsewhere),
        (says(&own, &format!("http://{address}/keys")), elsewhere),
        (says(&own, &format!("https://{address}@evil.example/keys")), elsewhere),
        (says(&own, "/keys"), elsewhere),
        (without("issuer"), "no OpenID Provider configuration: missing field `issuer`"),
        (without("jwks_uri"), "no OpenID Provider configuration: missing field `jwks_uri`"),
        (ok(&twice), "no OpenID Provider configuration: duplicate field `issuer`"),
        (ok("[]"), "no OpenID Provider configuration"),
        (ok("<html>"), "no OpenID Provider configuration"),
        (ok(&large), "larger than"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "status 302",
        ),
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
        issuer.partner.says(answer);
        let error = federation.refresh(&key()).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && error.len() < 600, "{shown}: {error}");
        // Nothing is asked of anybody after that.
        let first = issuer.partner.asked.recv().await.unwrap();
        assert!(first.contains("openid-configuration"), "{first}");
        assert!(issuer.partner.asked.try_recv().is_err(), "{shown}");
        assert_eq!(in_force(&scratch).await, [signer.key_id()], "the last good ones stay");
    }
}

#[tokio::test]
async fn a_slow_server_or_one_at_another_address_is_given_up() {
    let mut issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    scratch.apply(&[issuer.resource(|spec| spec.allow_private_addresses = None)]).await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "127.0.0.1 is no address that is asked: loopback and private addresses take allowPrivateAddresses"
    );
    for at in ["169.254.169.254", "[fe80::1]"] {
        scratch.apply(&[issuer.resource(|spec| spec.jwks_url = format!("https://{at}/jwks"))]).await;
        let error = federation.refresh(&key()).await.unwrap_err().to_string();
        let never = "link-local addresses, and such that are nobody's, are never asked";
        assert!(error.ends_with(never) && error.matches(at.trim_matches(['[', ']'])).count() == 1, "{error}");
    }
    scratch.apply(&[issuer.resource(|_| {})]).await;
    issuer.partner.says("");
    let asked = federation.clone();
    let refresh = async move { asked.refresh(&key()).await };
    let hurry = async {
        issuer.partner.asked.recv().await.unwrap();
        tokio::time::pause();
    };
    let (refused, ()) = tokio::join!(refresh, hurry);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("longer than 30 s"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_leaves_the_last_good_keys_in_force() {
    let mut issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    scratch.apply(&[issuer.resource(|_| {})]).await;
    let signer = JwtSigner::generate().unwrap();
    issuer.partner.says(ok(&jwks(&[&signer])));
    federation.refresh(&key()).await.unwrap();
    issuer.partner.goes_away().await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(error.contains("no connection to"), "{error}");
    assert_eq!(in_force(&scratch).await, [signer.key_id()]);
    // A name that nobody has.
    let nowhere = issuer.resource(|spec| spec.jwks_url = "https://nowhere.invalid/jwks".to_owned());
    scratch.apply(&[nowhere]).await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(error.contains("nowhere.invalid"), "{error}");
    assert_eq!(in_force(&scratch).await, [""; 0], "keys of another place are not of this one");
}

/// What a name means is looked at when it is asked, not when it is written (DNS rebinding).
#[tokio::test]
async fn a_name_that_leads_to_an_address_which_is_not_allowed_is_not_asked() {
    let mut issuer = Issuer::start().await;
    let (scratch, federation) = shop(&issuer).await;
    let url = format!("https://localhost:{}/jwks", issuer.partner.address.port());
    scratch
        .apply(&[issuer.resource(|spec| {
            spec.jwks_url = url.clone();
            spec.allow_private_addresses = None;
        })])
        .await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(error.contains("localhost has only addresses that are not asked, such as "), "{error}");
    assert!(error.contains("take allowPrivateAddresses"), "{error}");
    assert!(issuer.partner.asked.try_recv().is_err());
    assert_eq!(in_force(&scratch).await, [""; 0]);
    // It is the address that is refused: allowed, the server is met, and known not to be of that name.
    scratch.apply(&[issuer.resource(|spec| spec.jwks_url = url.clone())]).await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(!error.contains("addresses"), "{error}");
}
