use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hauberk_identity::Name;
use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence as Source;
use hauberk_tls::{CertificateRequest, KeyPair, WebCertificate};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::resources::testing::attest_rule;
use crate::resources::{AttestEnrollment, Problems};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const UID: &str = "5b5e9a3c-8d0e-4e0c-9d4b-0c3f6b2a1f00";

/// What signs a cluster's tokens, as API servers do by default: RS256.
struct Cluster(RsaKeyPair);

impl Cluster {
    fn new() -> Self {
        Self(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn jwks(&self) -> String {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        // RSAPublicKey (RFC 8017 §A.1.1): of 2048 bits, so that each part stands at a known place.
        let der = self.0.public_key().as_ref();
        let (n, e) = (&der[9..265], &der[267..]);
        assert_eq!(e, [1, 0, 1]);
        json!({ "keys": [
            { "use": "sig", "kty": "RSA", "kid": "k1", "alg": "RS256", "n": part(n), "e": part(e) },
        ] })
        .to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.sign(&json!({ "alg": "RS256", "kid": "k1" }), &claims)
    }
}

/// As an API server writes them into the token of a projected volume.
fn claims() -> Value {
    let now = NOW.0 / 1_000;
    json!({
        "aud": ["hauberk"],
        "exp": now + 3_607,
        "iat": now,
        "iss": ISSUER,
        "jti": "0d1b8a4c-3f4e-4a43-9f0b-0f3d8b1f9a11",
        "kubernetes.io": {
            "namespace": "shop",
            "node": { "name": "n1", "uid": "7c1f8d1e-0a65-4f3c-8b0e-9b1a0c9d8e7f" },
            "pod": { "name": "orders-0", "uid": UID },
            "serviceaccount": { "name": "orders", "uid": "a1b2c3d4-0000-4000-8000-000000000000" },
        },
        "nbf": now,
        "sub": "system:serviceaccount:shop:orders",
    })
}

fn source(evidence: Source) -> EvidenceSource {
    let selector = match &evidence {
        Source::X509pop(_) => "x509pop:subject:cn:a",
        Source::Kubernetes(_) => "k8s:ns:shop",
        Source::Aws(_) => "aws:account:123456789012",
        Source::JoinToken(_) => "join_token:label:env:prod",
    };
    let rules = vec![attest_rule("orders", &[selector])];
    let spec = wire::AttestEnrollment { rules, evidence: Some(evidence) };
    let mut problems = Problems::default();
    let parsed = AttestEnrollment::parse(&spec, &mut problems);
    parsed.unwrap_or_else(|| panic!("{:?}", problems.into_sorted())).source().clone()
}

fn by_keys(cluster: &Cluster) -> EvidenceSource {
    source(Source::Kubernetes(wire::KubernetesEvidence {
        issuer: ISSUER.to_owned(),
        jwks: cluster.jwks(),
        ..wire::KubernetesEvidence::default()
    }))
}

async fn show(
    evidence: Evidence,
    source: &EvidenceSource,
    reviewers: &TokenReviewers,
) -> Result<Attested, EvidenceError> {
    show_from("10.0.0.7", evidence, source, reviewers).await
}

async fn show_from(
    network: &str,
    evidence: Evidence,
    source: &EvidenceSource,
    reviewers: &TokenReviewers,
) -> Result<Attested, EvidenceError> {
    let key = KeyPair::generate().unwrap();
    let agent_key = CertificateRequest::parse(&CertificateRequest::create(&key).unwrap()).unwrap();
    let channel = ChannelBinding::from_bytes([0; 32]);
    let agent_key = &agent_key;
    let occasion =
        Occasion { channel: &channel, agent_key, mesh: "shop", enrollment: "pods", network, now: NOW };
    verify(&evidence, source, reviewers, occasion).await
}

fn nobody() -> TokenReviewers {
    TokenReviewers::new([])
}

fn words(attested: &Attested) -> Vec<String> {
    attested.selectors.iter().map(ToString::to_string).collect()
}

fn pod() -> Vec<String> {
    [
        "k8s:ns:shop".to_owned(),
        "k8s:sa:orders".to_owned(),
        "k8s:pod-name:orders-0".to_owned(),
        format!("k8s:pod-uid:{UID}"),
        "k8s:node-name:n1".to_owned(),
    ]
    .into()
}

/// As a cluster says it that does not tell nodes.
fn pod_somewhere() -> Vec<String> {
    let mut pod = pod();
    pod.truncate(4);
    pod
}

#[tokio::test]
async fn a_token_of_a_cluster_whose_clock_is_ahead_is_good_or_will_be() {
    let cluster = Cluster::new();
    let by_keys = by_keys(&cluster);
    let show = async |ahead: u64| {
        let token = cluster.token(|claims| {
            for claim in ["nbf", "iat", "exp"] {
                claims[claim] = json!(claims[claim].as_u64().unwrap() + ahead);
            }
        });
        show(Evidence::Kubernetes(token.into()), &by_keys, &nobody()).await
    };
    for ahead in [2, 60] {
        show(ahead).await.unwrap();
    }
    let early = show(61).await.unwrap_err();
    assert!(early.is_too_early() && !early.is_unjudged(), "{early}");
    let error = crate::enrollment::EnrollmentError::NotAttested(early.into());
    // Whoever runs the control plane is told all the same.
    assert!(error.is_refusal());
    let status = crate::rpc::status::of_enrollment(&error);
    assert_eq!(status.code(), tonic::Code::Unavailable, "agents try again: {status}");
    assert_eq!(hauberk_proto::refusal::reason(&status).as_deref(), Some("NOT_ATTESTED_YET"));
}

#[tokio::test]
async fn a_pod_is_what_its_token_says() {
    let cluster = Cluster::new();
    let by_keys = by_keys(&cluster);
    let attested =
        show(Evidence::Kubernetes(cluster.token(|_| {}).into()), &by_keys, &nobody()).await.unwrap();
    assert_eq!(words(&attested), pod());
    assert_eq!(attested.subject, format!("pod {UID}"));
    let somewhere =
        cluster.token(|claims| drop(claims["kubernetes.io"].as_object_mut().unwrap().remove("node")));
    let somewhere = show(Evidence::Kubernetes(somewhere.into()), &by_keys, &nobody()).await.unwrap();
    assert_eq!(words(&somewhere), pod_somewhere());
    assert!(still_believed(&by_keys, "kubernetes", &attested.voucher));
    assert!(!still_believed(&by_keys, "x509pop", &attested.voucher));
    assert!(!still_believed(&by_keys, "kubernetes", "issuer https://another"));
    // Another cluster that calls its issuer the same.
    assert!(!still_believed(&self::by_keys(&Cluster::new()), "kubernetes", &attested.voucher));
}

#[tokio::test]
async fn tokens_that_are_not_a_pods_for_us_are_refused() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let by_keys = by_keys(&cluster);
    let refusal = async |token: String| {
        let refused = show(Evidence::Kubernetes(token.into()), &by_keys, &nobody()).await.unwrap_err();
        assert!(!refused.is_unjudged());
        refused.to_string()
    };
    let changed = |change: fn(&mut Value)| cluster.token(change);
    for (token, why) in [
        (changed(|claims| claims["aud"] = json!(["https://kubernetes.default.svc"])), "audience"),
        (changed(|claims| claims["iss"] = json!("https://another")), "issuer is not"),
        (changed(|claims| claims["exp"] = json!(NOW.0 / 1_000)), "expired"),
        (changed(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), "`exp` is missing"),
        (changed(|claims| claims["nbf"] = json!(NOW.0 / 1_000 + 61)), "is valid from"),
        // Tokens of secrets, which never expire, are bound to no pod.
        (
            changed(|claims| drop(claims["kubernetes.io"].as_object_mut().unwrap().remove("pod"))),
            "bound to the pod",
        ),
        (changed(|claims| drop(claims.as_object_mut().unwrap().remove("kubernetes.io"))), "bound to the pod"),
        (changed(|claims| claims["sub"] = json!("system:serviceaccount:shop:admin")), "bound to the pod"),
        (changed(|claims| claims["kubernetes.io"]["namespace"] = json!("Shop\n")), "bound to the pod"),
        (changed(|claims| claims["kubernetes.io"]["node"]["name"] = json!("n1\n")), "bound to the pod"),
        (other.token(|_| {}), "signature is wrong"),
        (cluster.sign(&json!({ "alg": "none", "kid": "k1" }), &claims()), "not signed with RS256"),
        (cluster.sign(&json!({ "alg": "HS256", "kid": "k1" }), &claims()), "not signed with RS256"),
        (cluster.sign(&json!({ "alg": "RS256", "kid": "k2" }), &claims()), "not in the bundle"),
        ("x".repeat(20_000), "are the most"),
        (String::new(), "three parts"),
    ] {
        let told = refusal(token).await;
        assert!(told.contains(why), "{why}: {told}");
    }
    let document = show(Evidence::Aws(String::new()), &by_keys, &nobody()).await.unwrap_err().to_string();
    assert_eq!(document, "the enrollment takes kubernetes evidence, and aws was shown");
}

/// An API server that reviews tokens, over TLS, for those who show its reviewer's token.
struct ApiServer {
    folder: tempfile::TempDir,
    port: u16,
    _serving: JoinSet<()>,
}

impl ApiServer {
    async fn start(answer: fn(&Value) -> (StatusCode, Value)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let certificate = WebCertificate::from_pem(&certificate, key.serialize_pem().as_bytes()).unwrap();
        let acceptor = certificate.acceptor(Duration::from_secs(10)).unwrap();

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), ca).unwrap();
        std::fs::write(folder.path().join("token"), "reviewer\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(connection) = acceptor.accept(stream).await else { continue };
                let stream = TokioIo::new(connection.into_parts().0);
                let service = service_fn(move |request| respond(request, answer));
                let _ended =
                    hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
            }
        });
        Self { folder, port, _serving: serving }
    }

    fn reviewers(&self) -> TokenReviewers {
        TokenReviewers::new([self.cluster("prod", self.port)])
    }

    /// A cluster that is known as this one is, and listens on this port.
    fn cluster(&self, name: &str, port: u16) -> ReviewCluster {
        let credentials = self.folder.path().to_owned();
        ReviewCluster { name: Name::parse(name).unwrap(), host: "127.0.0.1".to_owned(), port, credentials }
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: fn(&Value) -> (StatusCode, Value),
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let asked: Value = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap_or_default();
    let is_right = head.method == "POST"
        && head.uri.path() == "/apis/authentication.k8s.io/v1/tokenreviews"
        && asked["kind"] == "TokenReview"
        && asked["apiVersion"] == "authentication.k8s.io/v1";
    let (status, body) = match head.headers.get("authorization").map(http::HeaderValue::as_bytes) {
        _ if !is_right => (StatusCode::NOT_FOUND, Value::Null),
        Some(b"Bearer reviewer") => answer(&asked["spec"]),
        _ => (StatusCode::UNAUTHORIZED, Value::Null),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

/// What an API server answers of a good token.
fn review(asked: &Value) -> (StatusCode, Value) {
    let user = json!({
        "username": "system:serviceaccount:shop:orders",
        "uid": "a1b2c3d4-0000-4000-8000-000000000000",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/pod-name": ["orders-0"],
            "authentication.kubernetes.io/pod-uid": [UID],
            "authentication.kubernetes.io/node-name": ["n1"],
        },
    });
    let status = json!({ "authenticated": true, "user": user, "audiences": asked["audiences"] });
    (StatusCode::CREATED, json!({ "kind": "TokenReview", "spec": asked, "status": status }))
}

fn by_review() -> EvidenceSource {
    by_review_of("prod")
}

fn by_review_of(cluster: &str) -> EvidenceSource {
    source(Source::Kubernetes(wire::KubernetesEvidence {
        token_review: cluster.to_owned(),
        ..wire::KubernetesEvidence::default()
    }))
}

/// What only a cluster can tell from a token of its own.
fn token() -> Evidence {
    token_but(|_| {})
}

fn token_but(change: impl FnOnce(&mut Value)) -> Evidence {
    let mut claims = claims();
    change(&mut claims);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "RS256", "kid": "k1" });
    Evidence::Kubernetes(format!("{}.{}.{}", part(&header), part(&claims), part(&json!("signed"))).into())
}

#[tokio::test]
async fn a_cluster_says_whose_a_token_is() {
    let server = ApiServer::start(|asked| {
        assert_eq!(asked["audiences"], json!(["hauberk"]));
        review(asked)
    })
    .await;
    let attested = show(token(), &by_review(), &server.reviewers()).await.unwrap();
    assert_eq!(words(&attested), pod());
    assert!(still_believed(&by_review(), "kubernetes", &attested.voucher));
    let server = ApiServer::start(|asked| {
        let (status, mut answer) = review(asked);
        let extra = answer["status"]["user"]["extra"].as_object_mut().unwrap();
        extra.remove("authentication.kubernetes.io/node-name");
        (status, answer)
    })
    .await;
    let somewhere = show(token(), &by_review(), &server.reviewers()).await.unwrap();
    assert_eq!(words(&somewhere), pod_somewhere());
}

#[tokio::test]
async fn what_a_cluster_does_not_vouch_for_is_refused() {
    type Answer = fn(&Value) -> (StatusCode, Value);
    fn but(asked: &Value, change: impl FnOnce(&mut Value)) -> (StatusCode, Value) {
        let (status, mut answer) = review(asked);
        change(&mut answer["status"]);
        (status, answer)
    }
    let answers: [(Answer, &str, bool); 9] = [
        (|asked| but(asked, |status| status["authenticated"] = json!(false)), "not authentic", false),
        (|asked| but(asked, |status| status["error"] = json!("token is expired")), "token is expired", false),
        // One that is too old to know audiences has not looked at them.
        (|asked| but(asked, |status| status["audiences"] = Value::Null), "not for this audience", false),
        (|asked| but(asked, |status| status["audiences"] = json!(["other"])), "not for this audience", false),
        (|asked| but(asked, |status| status["user"]["username"] = json!("ada")), "bound to the pod", false),
        (|asked| but(asked, |status| status["user"]["extra"] = json!({})), "bound to the pod", false),
        (|_| (StatusCode::FORBIDDEN, Value::Null), "system:auth-delegator", true),
        (|_| (StatusCode::CREATED, json!({})), "no TokenReview", true),
        (|_| (StatusCode::CREATED, json!("x".repeat(300_000))), "larger than 262144 bytes", true),
    ];
    for (answer, why, is_unjudged) in answers {
        let server = ApiServer::start(answer).await;
        let refused = show(token(), &by_review(), &server.reviewers()).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{why}: {refused}");
        assert_eq!(refused.is_unjudged(), is_unjudged, "{refused}");
    }
}

#[tokio::test]
async fn only_the_cluster_that_the_operator_named_is_asked() {
    let server = ApiServer::start(review).await;
    let unknown = show(token(), &by_review(), &nobody()).await.unwrap_err();
    assert!(unknown.to_string().contains("--token-review prod=HOST:PORT=DIRECTORY"), "{unknown}");
    let gone = TokenReviewers::new([server.cluster("prod", 1)]);
    let away = show(token(), &by_review(), &gone).await.unwrap_err();
    assert!(away.is_unjudged(), "{away}");

    // Another server at its address, which the certificates in the directory do not vouch for.
    let other = ApiServer::start(review).await;
    std::fs::copy(other.folder.path().join("ca.crt"), server.folder.path().join("ca.crt")).unwrap();
    let posing = show(token(), &by_review(), &server.reviewers()).await.unwrap_err();
    assert!(posing.is_unjudged() && posing.to_string().contains("who answers is not believed"), "{posing}");
    // A credential of ours that it does not take.
    std::fs::write(other.folder.path().join("token"), "somebody else").unwrap();
    let stranger = show(token(), &by_review(), &other.reviewers()).await.unwrap_err();
    assert!(stranger.to_string().contains("401"), "{stranger}");
}

#[tokio::test]
async fn a_cluster_is_not_asked_about_what_it_could_not_vouch_for() {
    let server = ApiServer::start(review).await;
    // Whoever is asked here does not answer.
    let gone = TokenReviewers::new([server.cluster("prod", 1)]);
    let text = |text: &str| Evidence::Kubernetes(text.to_owned().into());
    let now = NOW.0 / 1_000;
    for (shown, why) in [
        (text(""), "three parts"),
        (text("a.b.c\r\nHost: x"), "three parts"),
        (text("bm8.dG9rZW4.YQ"), "header is not a JSON object"),
        (token_but(|claims| claims["exp"] = json!(now)), "expired"),
        (token_but(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), "`exp` is missing"),
        (token_but(|claims| claims["aud"] = json!("https://kubernetes.default.svc")), "audience"),
        (token_but(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))), "`aud` is missing"),
        (text(&format!("e30.{}.YQ", "A".repeat(MAX_TOKEN_BYTES))), "are the most"),
    ] {
        let refused = show(shown, &by_review(), &gone).await.unwrap_err();
        assert!(!refused.is_unjudged() && refused.to_string().contains(why), "{why}: {refused}");
    }
    // One that is for others too, and one whose cluster's clock is ahead of ours, are for it to judge.
    let more = token_but(|claims| claims["aud"] = json!(["https://kubernetes.default.svc", "hauberk"]));
    let early = token_but(|claims| claims["nbf"] = json!(now + 60));
    for shown in [more, early] {
        assert!(show(shown.clone(), &by_review(), &gone).await.unwrap_err().is_unjudged());
        show(shown, &by_review(), &server.reviewers()).await.unwrap();
    }
}

#[tokio::test]
async fn questions_that_one_cluster_does_not_answer_take_nothing_from_another() {
    let server = ApiServer::start(review).await;
    // Its connections are taken, and nothing is said on them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = server.cluster("slow", silent.local_addr().unwrap().port());
    let reviewers = Arc::new(TokenReviewers::new([slow, server.cluster("prod", server.port)]));
    let (mut asking, mut held) = (JoinSet::new(), Vec::new());
    for network in 0..4 {
        ask_slow(&mut asking, &reviewers, format!("10.0.0.{network}"), 4);
    }
    for _ in 0..16 {
        held.push(silent.accept().await.unwrap());
    }
    show_from("10.0.0.0", token(), &by_review(), &reviewers).await.unwrap();
    tokio::time::pause();
    let busy = show_from("10.0.9.1", token(), &by_review_of("slow"), &reviewers).await.unwrap_err();
    assert!(
        busy.is_unjudged() && busy.to_string().contains("cluster slow is asked about as many tokens"),
        "{busy}"
    );
}

#[tokio::test]
async fn whoever_has_a_cluster_asked_about_junk_keeps_others_from_no_answer() {
    let server = ApiServer::start(review).await;
    let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = server.cluster("slow", before.local_addr().unwrap().port());
    let reviewers = Arc::new(TokenReviewers::new([slow]));
    let (mut asking, mut held) = (JoinSet::new(), Vec::new());
    ask_slow(&mut asking, &reviewers, "10.0.0.1".to_owned(), 100);
    // The cluster is slow to judge these, and answers all others.
    for _ in 0..4 {
        held.push(before.accept().await.unwrap());
    }
    let forwards = async {
        let (mut asked, _) = before.accept().await.unwrap();
        let mut answers = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut asked, &mut answers).await
    };
    let by_slow = by_review_of("slow");
    let shown = show_from("10.0.0.2", token(), &by_slow, &reviewers);
    let (attested, _ended) = tokio::join!(shown, forwards);
    assert_eq!(words(&attested.unwrap()), pod());
}

/// So many in one network ask at once.
fn ask_slow(asking: &mut JoinSet<()>, reviewers: &Arc<TokenReviewers>, network: String, count: usize) {
    for _ in 0..count {
        let (reviewers, network) = (Arc::clone(reviewers), network.clone());
        asking.spawn(async move {
            let _unanswered = show_from(&network, token(), &by_review_of("slow"), &reviewers).await;
        });
    }
}
