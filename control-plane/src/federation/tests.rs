//! Endpoints that say what they like: what is good is in force, and of the rest nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, Serial, SpiffeId, Validity};
use hauberk_proto::convert::{Body, FederatedBundle, decode_view};
use hauberk_proto::mesh::v1::{self as wire, resource::Spec};
use hauberk_tls::jwt::{JwtBundle, JwtSigner};
use hauberk_tls::{
    IssuingAuthority, KeyPair, LiveIdentity, RootAuthority, SvidTemplate, TrustBundle, bundle_document,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::*;
use crate::compile::view::needed_features;
use crate::resources::testing::{Scratch, listener, mesh, node, owner, resource};

mod chained;
mod issuers;

const LIMIT: Duration = Duration::from_secs(20);

/// Another trust domain, whose endpoint answers with whatever bytes it is given.
struct Partner {
    root: RootAuthority,
    address: SocketAddr,
    answer: watch::Sender<Vec<u8>>,
    asked: mpsc::UnboundedReceiver<String>,
    accepting: JoinHandle<()>,
    _tasks: TaskTracker,
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn validity() -> Validity {
    Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap()
}

fn root(name: &str, serial: u8) -> RootAuthority {
    RootAuthority::create(&domain(name), validity(), Serial::from_random([serial; 16])).unwrap()
}

fn document(name: &str, roots: &[&RootAuthority], sequence: Option<u64>) -> String {
    let roots = TrustBundle::new(domain(name), roots.iter().map(|root| root.certificate().clone())).unwrap();
    bundle_document(&roots, &JwtBundle::new(domain(name), []).unwrap(), sequence, None)
}

/// The same of more roots than we write.
fn document_of_many<'a>(roots: impl Iterator<Item = &'a RootAuthority>, sequence: u64) -> String {
    let keys = roots.map(|root| document("partner.example", &[root], None)).flat_map(|one| {
        let one: serde_json::Value = serde_json::from_str(&one).unwrap();
        one["keys"].as_array().unwrap().clone()
    });
    serde_json::json!({ "keys": keys.collect::<Vec<_>>(), "spiffe_sequence": sequence }).to_string()
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Partner {
    async fn start(name: &str) -> Self {
        let root = root(name, 1);
        let issuing = IssuingAuthority::create(&root, validity(), Serial::from_random([2; 16])).unwrap();
        Self::known_by(name, root, &issuing).await
    }

    /// One that serves the bundle of `name` with that root, and is itself known by this authority.
    async fn known_by(name: &str, root: RootAuthority, issuing: &IssuingAuthority) -> Self {
        let key = KeyPair::generate().unwrap();
        let validity = Validity::new(UnixMillis(0), issuing.validity().not_after()).unwrap();
        let server = issuing.root_bundle().trust_domain();
        let template = SvidTemplate {
            id: SpiffeId::parse(&format!("spiffe://{server}/control-plane/one")).unwrap(),
            public_key: key.public_key(),
            serial: Serial::from_random([3; 16]),
            validity,
            dns_names: Vec::new(),
            ip_addresses: vec![[127, 0, 0, 1].into()],
        };
        let live = LiveIdentity::new(issuing.root_bundle().clone());
        live.publish(issuing.sign(&template).unwrap(), &key).unwrap();
        let acceptor = live.web_acceptor(LIMIT).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = watch::Sender::new(ok(&document(name, &[&root], Some(1))));
        let (tell, asked) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let (answers, serving) = (answer.clone(), tasks.clone());
        let accepting = tasks.spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, answers, tell) = (acceptor.clone(), answers.clone(), tell.clone());
                let answer = answers.borrow().clone();
                serving.spawn(async move {
                    let Ok(connection) = acceptor.accept(stream).await else { return };
                    let (mut stream, _) = connection.into_parts();
                    let mut head = vec![0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or_default();
                    if tell.send(String::from_utf8_lossy(&head[..read]).into_owned()).is_err() {
                        return;
                    }
                    let mut later = answers.subscribe();
                    let answer = match answer.is_empty() {
                        true => later.wait_for(|later| !later.is_empty()).await.unwrap().clone(),
                        false => answer,
                    };
                    let _broken = stream.write_all(&answer).await;
                    let _gone = stream.shutdown().await;
                });
            }
        });
        Self { root, address, answer, asked, accepting, _tasks: tasks }
    }

    /// Nobody listens any more.
    async fn goes_away(&mut self) {
        self.accepting.abort();
        assert!((&mut self.accepting).await.unwrap_err().is_cancelled());
    }

    fn says(&self, bytes: impl Into<Vec<u8>>) {
        self.answer.send_replace(bytes.into());
    }

    fn resource(&self) -> wire::Resource {
        self.resource_with(|_| {})
    }

    fn resource_with(&self, change: impl FnOnce(&mut wire::FederatedTrustDomainSpec)) -> wire::Resource {
        let mut spec = wire::FederatedTrustDomainSpec {
            trust_domain_bundle: document("partner.example", &[&self.root], None),
            bundle_endpoint_url: format!("https://{}/bundle", self.address),
            bundle_endpoint_profile: Some(wire::BundleEndpointProfile {
                r#type: "https_spiffe".into(),
                endpoint_spiffe_id: "spiffe://partner.example/control-plane/one".into(),
            }),
            allow_private_addresses: Some(true),
        };
        change(&mut spec);
        resource("shop", "partner.example", Spec::FederatedTrustDomain(spec))
    }
}

fn key() -> ResourceKey {
    let name = |text| Name::parse(text).unwrap();
    ResourceKey::federated_trust_domain(name("shop"), name("partner.example"))
}

fn federation(scratch: &Scratch, audit: Arc<Audit>) -> Arc<Federation> {
    federation_with(scratch, audit, None)
}

fn federation_with(scratch: &Scratch, audit: Arc<Audit>, web_roots: Option<PathBuf>) -> Arc<Federation> {
    Federation::new(parts(scratch, audit, web_roots))
}

fn parts(scratch: &Scratch, audit: Arc<Audit>, web_roots: Option<PathBuf>) -> FederationParts {
    FederationParts {
        store: Arc::clone(&scratch.store),
        catalogs: scratch.resources.catalogs().clone(),
        audit,
        clock: scratch.clock.clone(),
        metrics: Arc::default(),
        web_roots,
        own: watch::channel(Arc::default()).1,
        identity: LiveIdentity::new((*scratch.authority.bundle()).clone()),
        denylist: watch::channel(Arc::default()).1,
        missing_feature: Box::new(|_, _| None),
    }
}

async fn shop() -> (Scratch, Arc<Federation>) {
    let scratch = Scratch::new().await;
    scratch.apply(&[mesh("shop"), node("orders", [listener(8080, "http")])]).await;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let federation = federation(&scratch, Arc::new(audit));
    (scratch, federation)
}

#[tokio::test]
async fn a_bundle_without_a_number_is_asked_for_again_soon() {
    let (scratch, _) = shop().await;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let (own, told) = watch::channel(Arc::default());
    let federation = Federation::new(FederationParts { own: told, ..parts(&scratch, Arc::new(audit), None) });
    let asked = |path: &str| {
        let answer = federation.respond(path);
        (answer.status().as_u16(), answer.headers().get("retry-after").cloned())
    };
    assert_eq!(asked("/"), (503, Some(http::HeaderValue::from_static("5"))));
    assert_eq!(asked("/other"), (404, None));
    own.send_replace(Arc::new(OwnBundle { document: "{}".to_owned(), ..OwnBundle::default() }));
    assert_eq!(asked("/"), (200, None));
}

/// What is in force, and the problem of the latest attempt.
async fn standing(scratch: &Scratch, federation: &Federation) -> (Option<Arc<SpiffeBundle>>, String) {
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    let Some(followed) = federation.followed(&catalog).pop() else { return (None, String::new()) };
    let problem = followed.failing.map(|failing| failing.problem).unwrap_or_default();
    (followed.bundle, problem)
}

#[tokio::test]
async fn what_an_endpoint_says_is_in_force_and_outlives_a_restart() {
    let mut partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    let (second, signer) = (root("partner.example", 8), JwtSigner::generate().unwrap());
    let both = [&partner.root, &second].map(|root| root.certificate().clone());
    let x509 = TrustBundle::new(domain("partner.example"), both).unwrap();
    let jwt = JwtBundle::new(domain("partner.example"), [signer.public_key().unwrap()]).unwrap();
    let told = bundle_document(&x509, &jwt, Some(7), Some(Duration::from_secs(900)));
    partner.says(ok(&told));
    let mut compilations = scratch.compilations().await;
    assert_eq!(federation.refresh(&key()).await.unwrap(), Some(Duration::from_secs(900)));
    let request = partner.asked.recv().await.unwrap();
    assert!(request.starts_with("GET /bundle HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {}\r\n", partner.address)), "{request}");
    let held = standing(&scratch, &federation).await.0.unwrap();
    assert_eq!((held.x509(), held.jwt(), held.sequence()), (&x509, &jwt, Some(7)));

    // Agents have it in their view.
    let orders = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap();
    let revision = scratch.store.revision().await.unwrap().0;
    let compiled = compilations.wait_for(|compilation| compilation.revision >= revision).await.unwrap();
    let Body::Node(view) = decode_view(&compiled.nodes[&orders].signed.view).unwrap().body else { panic!() };
    drop(compiled);
    let document = bundle_document(&x509, &jwt, None, None).into_bytes();
    assert_eq!(view.federated, [FederatedBundle { trust_domain: domain("partner.example"), document }]);

    // The same again changes nothing.
    federation.refresh(&key()).await.unwrap();
    assert_eq!(scratch.store.revision().await.unwrap().0, revision);
    drop((federation, compilations));
    let scratch = scratch.restarted().await;
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    let (_, _, bundle) = catalog.mesh("shop").unwrap().federated().next().unwrap();
    assert_eq!(bundle.unwrap().to_document(), told);
}

#[tokio::test]
async fn what_is_followed_is_followed_again_after_a_panic() {
    let mut partner = Partner::start("partner.example").await;
    let (scratch, _) = shop().await;
    let others: Vec<_> = (100..132).map(|serial| root("partner.example", serial)).collect();
    partner.says(ok(&document_of_many([&partner.root].into_iter().chain(&others), 2)));
    scratch.apply(&[partner.resource()]).await;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let (panics, mut panicked) = mpsc::unbounded_channel();
    let missing_feature: MissingFeature = Box::new(move |_, _| {
        panics.send(()).unwrap();
        panic!("as planned")
    });
    let parts = parts(&scratch, Arc::new(audit), None);
    let federation = Federation::new(FederationParts { missing_feature, ..parts });
    let (_unknown, unknown_keys) = mpsc::channel(1);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(Arc::clone(&federation).run(unknown_keys, stop.clone()));
    let in_time = async |asked: &mut mpsc::UnboundedReceiver<String>| {
        tokio::time::timeout(LIMIT, asked.recv()).await.expect("it is asked").unwrap()
    };
    in_time(&mut partner.asked).await;
    tokio::time::timeout(LIMIT, panicked.recv()).await.expect("it is refused").unwrap();
    // Whoever follows anew is there, and waits.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(partner.asked.try_recv().is_err(), "not at once: it may fail again");
    // Until then it is known that it is not followed.
    let (_, problem) = standing(&scratch, &federation).await;
    assert!(problem.contains("a fault of the control plane's: its log says where"), "{problem}");
    assert_eq!(federation.metrics.failing.get_or_create(&metrics::FollowedLabel::of(&key())).get(), 1);
    tokio::time::pause();
    tokio::time::advance(follow::interval(Some(Duration::ZERO))).await;
    tokio::time::resume();
    in_time(&mut partner.asked).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_bundle_that_a_running_agent_cannot_read_leaves_the_former_one_in_force() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    federation.refresh(&key()).await.unwrap();
    let good = standing(&scratch, &federation).await.0;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let (instance, is_old) = (InstanceId::from_random([7; 8]), Arc::new(AtomicBool::new(true)));
    let lacks = Arc::clone(&is_old);
    let missing_feature: MissingFeature = Box::new(move |node, needed| {
        assert_eq!(
            (node.as_str(), needed),
            ("spiffe://shop.example/mesh/shop/node/orders", &["many-roots-1"][..])
        );
        lacks.load(Ordering::Relaxed).then_some(instance)
    });
    let parts = parts(&scratch, Arc::new(audit), None);
    let federation = Federation::new(FederationParts { missing_feature, ..parts });
    let others: Vec<_> = (100..132).map(|serial| root("partner.example", serial)).collect();
    let says = |count: usize, sequence| {
        partner
            .says(ok(&document_of_many([&partner.root].into_iter().chain(&others[..count - 1]), sequence)));
    };
    says(33, 2);
    let refused = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(refused.contains(&instance.to_string()) && refused.contains("many-roots-1"), "{refused}");
    assert_eq!(standing(&scratch, &federation).await, (good, refused));
    says(32, 3);
    federation.refresh(&key()).await.unwrap();
    // Of what is refused nothing is told as if it counted.
    let many = document_of_many([&partner.root].into_iter().chain(&others), 4);
    partner.says(ok(&many.replacen("{\"keys\":[", "{\"keys\":[1,", 1)));
    federation.refresh(&key()).await.unwrap_err();
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    assert_eq!(federation.followed(&catalog)[0].passed_over, [""; 0]);

    // Once it is updated, or gone; and what is in force already is followed further.
    is_old.store(false, Ordering::Relaxed);
    says(33, 4);
    let mut compilations = scratch.compilations().await;
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 33);
    let orders = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap();
    let revision = scratch.store.revision().await.unwrap().0;
    let compiled = compilations.wait_for(|compilation| compilation.revision >= revision).await.unwrap();
    assert_eq!(decode_view(&compiled.nodes[&orders].signed.view).unwrap().features, ["many-roots-1"]);
    drop(compiled);
    is_old.store(true, Ordering::Relaxed);
    says(33, 5);
    federation.refresh(&key()).await.unwrap();
}

#[tokio::test]
async fn a_bundle_of_many_roots_needs_agents_that_know_of_it() {
    let (scratch, _) = shop().await;
    let roots: Vec<_> = (100..133).map(|serial| root("partner.example", serial)).collect();
    let apply = async |count: usize| {
        let keys = roots[..count].iter().flat_map(|root| {
            let one = document("partner.example", &[root], None);
            let one: serde_json::Value = serde_json::from_str(&one).unwrap();
            one["keys"].as_array().unwrap().clone()
        });
        let trust_domain_bundle = serde_json::json!({ "keys": keys.collect::<Vec<_>>() }).to_string();
        let spec = wire::FederatedTrustDomainSpec { trust_domain_bundle, ..Default::default() };
        scratch.apply(&[resource("shop", "partner.example", Spec::FederatedTrustDomain(spec))]).await;
        scratch.resources.catalogs().current().await.unwrap()
    };
    let (none, few) = (scratch.resources.catalogs().current().await.unwrap(), apply(32).await);
    let many = apply(33).await;
    let needed = |before, after| needed_features(&domain("shop.example"), before, after, [key()].iter());
    assert_eq!(needed(&none, &few), []);
    let orders = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap();
    assert_eq!(needed(&few, &many), [(orders, vec!["many-roots-1"])]);
}

#[tokio::test]
async fn a_key_that_is_of_no_use_is_passed_over_and_told_and_the_others_count() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    let own = document("partner.example", &[&partner.root], Some(5));
    let weak = "{\"keys\":[{\"kty\":\"EC\",\"use\":\"x509-svid\",\"x5c\":[\"AAAA\"]},{\"kty\":\"EC\",\"use\":\"x509-svid\"},";
    partner.says(ok(&own.replacen("{\"keys\":[", weak, 1)));
    federation.refresh(&key()).await.unwrap();
    let (held, problem) = standing(&scratch, &federation).await;
    assert_eq!((held.unwrap().x509().roots().len(), &*problem), (1, ""));
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    let [followed] = &federation.followed(&catalog)[..] else { panic!("one is followed") };
    let told = &followed.passed_over;
    assert!(told.len() == 2 && told[0].starts_with("key number 1 is refused"), "{told:?}");
    // However many they are.
    let many = own.replacen("{\"keys\":[", &format!("{{\"keys\":[{}", "1,".repeat(30_000)), 1);
    partner.says(ok(&many));
    federation.refresh(&key()).await.unwrap();
    let told = &federation.followed(&catalog)[0].passed_over;
    assert!(told.len() == 21 && told[20] == "29980 more are of no use", "{told:?}");
    // It is told no longer once it is gone; and where none is left that counts, there is none.
    partner.says(ok(&document("partner.example", &[&partner.root], Some(6))));
    federation.refresh(&key()).await.unwrap();
    assert_eq!(federation.followed(&catalog)[0].passed_over, [""; 0]);
    partner.says(ok(&format!("{}]}}", weak.trim_end_matches(','))));
    federation.refresh(&key()).await.unwrap();
    assert!(standing(&scratch, &federation).await.0.unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_answer_leaves_the_last_good_one_in_force() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    partner.says(ok(&document("partner.example", &[&partner.root], Some(5))));
    federation.refresh(&key()).await.unwrap();
    let good = standing(&scratch, &federation).await.0.unwrap();
    let revision = scratch.store.revision().await.unwrap();
    let stranger = root("other.example", 9);
    let huge = "x".repeat(hauberk_tls::MAX_BUNDLE_BYTES + 1);
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "y".repeat(100_000));
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{huge}\r\n0\r\n\r\n",
        huge.len()
    );
    let own = document("partner.example", &[&partner.root], Some(6));
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (ok(&huge), "larger than"),
        (chunked.into_bytes(), "larger than"),
        (endless.into_bytes(), "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "does not speak HTTP"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{own}").into_bytes(), "broke off"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "status 302",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), "status 404"),
        (ok(""), "no JSON object"),
        (ok("<html>"), "no JSON object"),
        (ok("{\"spiffe_sequence\": 6}"), "no JSON object"),
        (ok(&document("other.example", &[&stranger], Some(6))), "not of the bundle's trust domain"),
        (ok(&document("partner.example", &[&partner.root], Some(4))), "number 4, and number 5 was seen"),
    ];
    for (answer, wanted) in bad {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        partner.says(answer);
        let error = federation.refresh(&key()).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{shown}: {error}");
        let (held, problem) = standing(&scratch, &federation).await;
        assert!(problem.contains(wanted), "{problem}");
        let whose = match wanted {
            "larger than" | "no JSON object" | "not of the bundle's trust domain" => Hindrance::Answer,
            "number 4, and number 5 was seen" => Hindrance::Older,
            _ => Hindrance::Other,
        };
        assert_eq!(federation.statuses()[&key()].failing().unwrap().hindrance, whose, "{shown}");
        assert_eq!(held, Some(Arc::clone(&good)), "{shown}");
    }
    assert_eq!(scratch.store.revision().await.unwrap(), revision);
    // One without a number is taken, and the numbers seen are not forgotten.
    partner.says(ok(&document("partner.example", &[&partner.root], None)));
    federation.refresh(&key()).await.unwrap();
    partner.says(ok(&document("partner.example", &[&partner.root], Some(4))));
    federation.refresh(&key()).await.unwrap_err();
    partner.says(ok(&own));
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.1, "");
}

#[tokio::test]
async fn two_bundles_of_one_number_are_told_until_there_is_one_of_another() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    let other = root("partner.example", 9);
    let one = || document("partner.example", &[&partner.root], Some(5));
    let both = |number| document("partner.example", &[&partner.root, &other], Some(number));
    for (answer, reused) in [(one(), None), (both(5), Some(5)), (both(5), Some(5)), (both(6), None)] {
        partner.says(ok(&answer));
        federation.refresh(&key()).await.unwrap();
        let catalog = scratch.resources.catalogs().current().await.unwrap();
        let followed = federation.followed(&catalog);
        assert_eq!(followed[0].reused, reused, "{answer}");
        let bundle = followed[0].bundle.as_ref().unwrap();
        assert_eq!(bundle.x509().roots().len(), if answer == one() { 1 } else { 2 }, "it is in force");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_given_up() {
    let mut partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    partner.says("");
    let asked = federation.clone();
    let refresh = async move { asked.refresh(&key()).await };
    let hurry = async {
        partner.asked.recv().await.unwrap();
        tokio::time::pause();
    };
    let (refused, ()) = tokio::join!(refresh, hurry);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("longer than 30 s"), "{error}");
}

#[tokio::test]
async fn only_the_endpoint_that_is_named_is_believed() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    let other_id = |spec: &mut wire::FederatedTrustDomainSpec| {
        let profile = spec.bundle_endpoint_profile.as_mut().unwrap();
        profile.endpoint_spiffe_id = "spiffe://partner.example/control-plane/two".into();
    };
    let other_root = |spec: &mut wire::FederatedTrustDomainSpec| {
        spec.trust_domain_bundle = document("partner.example", &[&root("partner.example", 77)], None);
    };
    let not_allowed = |spec: &mut wire::FederatedTrustDomainSpec| spec.allow_private_addresses = None;
    for (resource, wanted) in [
        (partner.resource_with(other_id), "is not who was expected"),
        (partner.resource_with(other_root), "no root of the trust bundle vouches"),
        (partner.resource_with(not_allowed), "take allowPrivateAddresses"),
    ] {
        scratch.apply(&[resource]).await;
        let error = federation.refresh(&key()).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        let failing = federation.statuses()[&key()].failing().unwrap();
        let is_inside = failing.hindrance == Hindrance::Inside;
        assert_eq!(is_inside, wanted.contains("allowPrivateAddresses"), "{failing:?}");
    }
    // The roots of the web are others than those of a bundle.
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let others = [root("partner.example", 77).certificate().clone()];
    std::fs::write(&roots, TrustBundle::new(domain("partner.example"), others).unwrap().to_pem()).unwrap();
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let federation = federation_with(&scratch, Arc::new(audit), Some(roots));
    let web = |spec: &mut wire::FederatedTrustDomainSpec| {
        let profile = wire::BundleEndpointProfile { r#type: "https_web".into(), ..Default::default() };
        spec.bundle_endpoint_profile = Some(profile);
    };
    scratch.apply(&[partner.resource_with(web)]).await;
    let error = federation.refresh(&key()).await.unwrap_err().to_string();
    assert!(error.ends_with("no root of the web vouches for its certificate; see --web-roots"), "{error}");
    let unknown = ResourceKey::federated_trust_domain(key().mesh, Name::parse("nobody.example").unwrap());
    assert!(matches!(federation.refresh(&unknown).await, Err(RefreshError::NoEndpoint(_))));
}

#[tokio::test]
async fn a_domain_takes_its_keys_back_by_an_empty_set() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    partner.says(ok("{\"keys\": [], \"spiffe_sequence\": 9}"));
    federation.refresh(&key()).await.unwrap();
    let (held, problem) = standing(&scratch, &federation).await;
    assert!(held.unwrap().is_empty() && problem.is_empty());
    // By what would the endpoint be known now? An admin's word is needed.
    assert!(federation.refresh(&key()).await.is_err());
}

#[tokio::test]
async fn an_admins_word_is_the_last() {
    let partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    scratch.apply(&[partner.resource()]).await;
    let second = root("partner.example", 8);
    partner.says(ok(&document("partner.example", &[&partner.root, &second], Some(7))));
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 2);
    // Another spec: what was fetched for the former one is not in force, nor its number.
    let third = root("partner.example", 10);
    let changed = partner.resource_with(|spec| {
        spec.trust_domain_bundle = document("partner.example", &[&partner.root, &second, &third], None);
    });
    scratch.apply(std::slice::from_ref(&changed)).await;
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 3);
    partner.says(ok(&document("partner.example", &[&partner.root], Some(3))));
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 1);
    // Labels are not what it says.
    let labelled = wire::Resource { labels: [("a".to_owned(), "b".to_owned())].into(), ..changed.clone() };
    scratch.apply(&[labelled]).await;
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 1);
    // One that is made anew begins anew.
    let target = crate::resources::admit::Target { key: key(), resource_version: 0, ignore_missing: false };
    scratch.resources.delete(&owner(), &[target], false).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0, None);
    scratch.apply(&[changed]).await;
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 3);
}

#[tokio::test]
async fn a_change_is_followed_and_what_is_followed_no_longer_forgotten() {
    let mut partner = Partner::start("partner.example").await;
    let (scratch, federation) = shop().await;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (_nobody, unknown_keys) = mpsc::channel(1);
    tasks.spawn(Arc::clone(&federation).run(unknown_keys, stop.clone()));
    scratch.apply(&[partner.resource()]).await;
    partner.asked.recv().await.unwrap();
    let record = crate::resources::FetchedBundle::store_key(&key());
    let version = scratch.store.list(&record, None, 1).await.unwrap().version;
    let mut changes = scratch.store.watch("federation/", version);
    while scratch.store.get(&record).await.unwrap().is_none() {
        changes.next().await.unwrap();
    }
    let target = crate::resources::admit::Target { key: key(), resource_version: 0, ignore_missing: false };
    scratch.resources.delete(&owner(), &[target], false).await.unwrap();
    while scratch.store.get(&record).await.unwrap().is_some() {
        changes.next().await.unwrap();
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn what_has_an_endpoint_again_is_asked_when_it_is_wanted() {
    let (_scratch, federation) = shop().await;
    tokio::time::pause();
    // There is nothing to ask, and so each attempt takes its status away.
    let attempts = || {
        let outcome = crate::metrics::OutcomeLabel { outcome: "failed" };
        federation.metrics.fetches.get_or_create(&outcome).get()
    };
    let wanted = async {
        for attempt in 1..4 {
            while attempts() < attempt {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let begun = tokio::time::Instant::now();
            federation.statuses().entry(key()).or_default().wanted().notify_one();
            while attempts() == attempt {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        }
    };
    tokio::select! {
        () = follow::one(Arc::clone(&federation), key()) => {}
        () = wanted => {}
    }
}

#[test]
fn intervals_keep_to_their_bounds() {
    let seconds = |hint: Option<u64>| follow::interval(hint.map(Duration::from_secs)).as_secs();
    let hints = [None, Some(0), Some(60), Some(300), Some(1_200), Some(2_419_200), Some(u64::MAX)];
    assert_eq!(hints.map(seconds), [300, 60, 60, 75, 300, 3_600, 3_600]);
}

#[tokio::test]
async fn each_content_of_our_own_bundle_has_a_number_and_later_ones_a_greater() {
    let scratch = crate::testing::scratch().await;
    let control = &scratch.control;
    let parts = || OwnBundleParts {
        store: Arc::clone(&control.store),
        authority: Arc::clone(&control.authority),
        signing_keys: Arc::clone(&control.signing_keys),
        clock: scratch.clock.clone(),
    };
    let begin = || {
        let (sender, own) = watch::channel(Arc::<OwnBundle>::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(publish(parts(), sender, stop.clone()));
        (own, stop)
    };
    let (mut own, stop) = begin();
    let first = own.wait_for(|own| own.sequence > 0).await.unwrap().clone();
    // No lower than the time: a registry from a backup does not number anew what was numbered.
    assert!(first.sequence >= scratch.clock.now().0 / 1_000);
    let read = SpiffeBundle::parse(control.authority.trust_domain(), first.document.as_bytes()).unwrap();
    assert_eq!(
        (read.x509().roots(), read.sequence()),
        (control.authority.bundle().roots(), Some(first.sequence))
    );
    assert_eq!(read.refresh_hint(), Some(REFRESH_HINT));

    control.authorities.advance_jwt_keys(&crate::testing::actor()).await.unwrap();
    let second = own.wait_for(|own| own.jwt_keys == 1).await.unwrap().clone();
    assert!(second.sequence > first.sequence && second.document.contains("jwt-svid"));
    stop.cancel();
    // After a restart the same content has the same number.
    scratch.clock.advance(Duration::from_secs(3_600));
    let (mut own, stop) = begin();
    assert_eq!(own.wait_for(|own| own.sequence > 0).await.unwrap().clone(), second);
    stop.cancel();
}
