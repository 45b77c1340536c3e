use std::collections::BTreeMap;

use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence as Source;
use prost::Message;

use super::*;
use crate::audit::Filter;
use crate::enrollment::{AgentInfo, Enrolled, TokenError, TokenFor, TokenRequest, Uses};
use crate::registry::keys;
use crate::resources::MOST_LABELS;
use crate::resources::testing::attest_rule;
use crate::revocation::Target;
use crate::secret::SecretId;
use crate::testing::{NODE, Scratch, a_node, actor, request, scratch};

fn rule(node: &str, selectors: &[&str]) -> wire::AttestRule {
    let selectors = selectors.iter().map(|text| format!("join_token:label:{text}")).collect();
    wire::AttestRule { selectors, ..attest_rule(node, &[]) }
}

async fn enroll_as(scratch: &Scratch, uid: &str, rules: Vec<wire::AttestRule>) {
    let evidence = Some(Source::JoinToken(wire::JoinTokenEvidence {}));
    put(scratch, uid, wire::AttestEnrollment { rules, evidence }).await;
}

async fn put(scratch: &Scratch, uid: &str, attest: wire::AttestEnrollment) {
    let spec = wire::EnrollmentSpec { attest: Some(attest), ..wire::EnrollmentSpec::default() };
    let metadata = Some(wire::Metadata { uid: uid.to_owned(), ..wire::Metadata::default() });
    let spec = Some(wire::resource::Spec::Enrollment(spec));
    let bytes = wire::Resource { spec, metadata, ..wire::Resource::default() }.encode_to_vec();
    let put = Commit::new().put(keys::resource("Enrollment", NODE.0, "fleet"), bytes);
    scratch.control.store.commit(put).await.unwrap();
}

async fn enroll(scratch: &Scratch, rules: Vec<wire::AttestRule>) {
    enroll_as(scratch, "first", rules).await;
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn try_token(
    scratch: &Scratch,
    labels: BTreeMap<String, String>,
    uses: Uses,
) -> Result<String, TokenError> {
    let of = TokenFor::Enrollment { name: Name::parse("fleet").unwrap(), labels };
    let asked = TokenRequest { mesh: Name::parse(NODE.0).unwrap(), of, ttl: None, uses };
    let made = scratch.control.tokens.create(asked, &actor()).await?;
    Ok(made.secret.reveal().to_owned())
}

async fn token(scratch: &Scratch, of: &[(&str, &str)]) -> String {
    try_token(scratch, labels(of), Uses::Unlimited).await.unwrap()
}

async fn join(scratch: &Scratch, token: &str, csr: &[u8]) -> Result<Enrolled, EnrollmentError> {
    scratch.control.enrollment.attest(token, csr, AgentInfo::default(), None, "10.0.0.7:4").await
}

async fn renew(scratch: &Scratch, enrolled: &Enrolled) -> Result<Enrolled, EnrollmentError> {
    let peer = scratch.peer(&enrolled.issued.svid);
    scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await
}

/// The caller is told a code; the administrator why.
async fn refused(scratch: &Scratch, result: Result<Enrolled, EnrollmentError>, why: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), "NOT_ATTESTED", "{error}");
    let caller = crate::rpc::status::of_enrollment(&error).message().to_owned();
    assert_eq!(caller, "the evidence makes nothing of this agent: the control plane's audit log says why");
    let filter = Filter { refused_only: true, ..Filter::default() };
    let recorded = scratch.control.audit.list(&filter, None, 1).await.unwrap().records;
    assert!(recorded[0].reason.contains(why), "{}", recorded[0].reason);
}

async fn add_web(scratch: &Scratch) {
    let web = keys::resource("VirtualNode", NODE.0, "web");
    scratch.control.store.commit(Commit::new().put(web, a_node("web"))).await.unwrap();
}

#[tokio::test]
async fn what_a_bearer_becomes_follows_from_the_labels() {
    let scratch = scratch().await;
    add_web(&scratch).await;
    enroll(&scratch, vec![rule("orders", &["role:orders", "env:prod"]), rule("web", &["role:web"])]).await;
    let orders = token(&scratch, &[("env", "prod"), ("role", "orders"), ("zone", "a")]).await;
    let (_, csr) = request();
    let first = join(&scratch, &orders, &csr).await.unwrap();
    assert_eq!(first.issued.svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(join(&scratch, &orders, &csr).await.unwrap().instance, first.instance, "a lost answer");
    let web = token(&scratch, &[("role", "web")]).await;
    let web = join(&scratch, &web, &request().1).await.unwrap();
    assert_eq!(web.issued.svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/web");

    let listed = scratch.control.tokens.list(Some("shop")).await.unwrap();
    let listed = listed
        .iter()
        .find(|token| token.used_by.iter().any(|used| used.instance == first.instance.to_string()));
    let of = listed.unwrap().record.enrollment.clone().unwrap();
    assert_eq!((of.name.as_str(), of.to_string().as_str()), ("fleet", "env=prod, role=orders, zone=a"));
    let record = scratch.control.ledger.instance(&first.instance).await.unwrap().unwrap();
    assert_eq!(record.token.as_deref(), Some(listed.unwrap().id.as_str()));
    let evidence = record.evidence.unwrap();
    assert_eq!((evidence.attestor.as_str(), evidence.enrollment.as_str()), ("join_token", "fleet"));
    let selectors = ["join_token:label:env:prod", "join_token:label:role:orders", "join_token:label:zone:a"];
    assert_eq!(evidence.selectors, selectors);
    // A revoked one's others stay: a token is no machine.
    let other = join(&scratch, &orders, &request().1).await.unwrap();
    scratch.control.revocations.revoke(&Target::Instance(first.instance), &actor()).await.unwrap();
    renew(&scratch, &other).await.unwrap();
    assert!(matches!(join(&scratch, &orders, &csr).await, Err(EnrollmentError::Denied(_))));
}

#[tokio::test]
async fn the_administrator_is_told_which_label_is_missing_and_nothing_is_used_up() {
    let scratch = scratch().await;
    enroll(&scratch, vec![rule("orders", &["env:prod"])]).await;
    let once = try_token(&scratch, labels(&[("env", "prod")]), Uses::Limited(1)).await.unwrap();
    enroll(&scratch, vec![rule("orders", &["env:prod", "zone:b"])]).await;
    let why = "for virtual node orders (rules[0]) it lacks join_token:label:zone:b; it has join_token:label:env:prod";
    refused(&scratch, join(&scratch, &once, &request().1).await, why).await;
    assert_eq!(scratch.control.tokens.list(None).await.unwrap()[0].record.used, 0);
    // A value is compared as it stands, and no label is another's.
    for wrong in ["env:Prod", "env:prod2", "Env:prod", "env:prod:b"] {
        enroll(&scratch, vec![rule("orders", &[wrong])]).await;
        refused(&scratch, join(&scratch, &once, &request().1).await, "it lacks join_token:label:").await;
    }
    enroll(&scratch, vec![rule("orders", &["env:prod"])]).await;
    join(&scratch, &once, &request().1).await.unwrap();
    assert!(matches!(join(&scratch, &once, &request().1).await, Err(EnrollmentError::UsedUp { .. })));
}

#[tokio::test]
async fn an_enrollment_that_is_gone_or_another_lets_nobody_in_by_its_tokens() {
    let scratch = scratch().await;
    let rules = || vec![rule("orders", &["env:prod"])];
    enroll(&scratch, rules()).await;
    let token = token(&scratch, &[("env", "prod")]).await;
    let (_, csr) = request();
    let enrolled = join(&scratch, &token, &csr).await.unwrap();

    let key = keys::resource("Enrollment", NODE.0, "fleet");
    scratch.control.store.commit(Commit::new().delete(key)).await.unwrap();
    refused(&scratch, join(&scratch, &token, &csr).await, "has no enrollment \"fleet\"").await;
    refused(&scratch, renew(&scratch, &enrolled).await, "has no enrollment \"fleet\"").await;
    enroll_as(&scratch, "second", rules()).await;
    refused(&scratch, join(&scratch, &token, &csr).await, "was deleted and made anew since the token").await;
    // As of any evidence, the enrollment is asked that there is now.
    renew(&scratch, &enrolled).await.unwrap();
    let aws = wire::AwsEvidence { certificates: String::new() };
    let unreadable = wire::AttestEnrollment { rules: rules(), evidence: Some(Source::Aws(aws)) };
    put(&scratch, "first", unreadable).await;
    refused(&scratch, join(&scratch, &token, &csr).await, "has no enrollment \"fleet\"").await;
    let review = wire::KubernetesEvidence { token_review: "prod".to_owned(), ..Default::default() };
    let rules = vec![wire::AttestRule { selectors: vec!["k8s:ns:shop".to_owned()], ..rule("orders", &[]) }];
    put(&scratch, "first", wire::AttestEnrollment { rules, evidence: Some(Source::Kubernetes(review)) })
        .await;
    let why = "the enrollment takes kubernetes evidence, and join_token was shown";
    refused(&scratch, join(&scratch, &token, &csr).await, why).await;
    refused(&scratch, renew(&scratch, &enrolled).await, "does not believe join_token evidence").await;
}

#[tokio::test]
async fn an_instance_stays_of_its_node_whatever_the_labels_make_of_its_token_later() {
    let scratch = scratch().await;
    add_web(&scratch).await;
    enroll(&scratch, vec![rule("orders", &["env:prod"])]).await;
    let token = token(&scratch, &[("env", "prod")]).await;
    let (_, csr) = request();
    let enrolled = join(&scratch, &token, &csr).await.unwrap();
    enroll(&scratch, vec![rule("web", &["env:prod"])]).await;
    refused(
        &scratch,
        join(&scratch, &token, &csr).await,
        "made another node or gateway of this agent than virtual node web",
    )
    .await;
    refused(&scratch, renew(&scratch, &enrolled).await, "its evidence now makes it virtual node web").await;
    let other = join(&scratch, &token, &request().1).await.unwrap();
    assert_eq!(other.issued.svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/web");
    assert_ne!(other.instance, enrolled.instance);
}

#[tokio::test]
async fn impossible_labels_make_no_token() {
    let scratch = scratch().await;
    enroll(&scratch, vec![rule("orders", &["env:prod"])]).await;
    let asked = async |of: BTreeMap<String, String>| {
        let told = try_token(&scratch, of, Uses::Unlimited).await.unwrap_err();
        (crate::rpc::status::of_token(&told).code(), told)
    };
    for (name, value) in [
        ("", "prod"),
        ("env:", "prod"),
        ("e\u{202e}v", "x"),
        ("env", "prod\n"),
        ("env", " prod"),
        ("env", "pr\u{f6}d"),
    ] {
        let (code, told) = asked(labels(&[("env", "prod"), (name, value)])).await;
        assert!(matches!(told, TokenError::BadLabel { .. }), "{told}");
        assert_eq!(code, tonic::Code::InvalidArgument);
        assert!(!told.to_string().chars().any(char::is_control), "{told:?}");
    }
    let (_, told) = asked(labels(&[("env", &"x".repeat(100_000))])).await;
    assert!(told.to_string().len() < 1_000, "{told}");
    let many = |count| (0..count).map(|number| (format!("n{number}"), String::new()));
    let (_, told) = asked(many(MOST_LABELS + 1).collect()).await;
    assert!(matches!(told, TokenError::TooManyLabels(_)), "{told}");
    let (_, told) = asked(BTreeMap::new()).await;
    assert!(matches!(told, TokenError::NoLabels), "{told}");
    let (code, told) = asked(labels(&[("env", "test")])).await;
    assert!(told.to_string().contains("it lacks join_token:label:env:prod"), "{told}");
    assert_eq!(code, tonic::Code::FailedPrecondition);
    let most = many(MOST_LABELS - 1).chain([("env".to_owned(), "prod".to_owned())]);
    try_token(&scratch, most.collect(), Uses::Unlimited).await.unwrap();
    put(&scratch, "first", wire::AttestEnrollment::default()).await;
    let (_, told) = asked(labels(&[("env", "prod")])).await;
    assert!(matches!(told, TokenError::NoSuchEnrollment { .. }), "{told}");
}

#[tokio::test]
async fn to_take_a_token_back_with_its_instances_finds_them() {
    let scratch = scratch().await;
    enroll(&scratch, vec![rule("orders", &["env:prod"])]).await;
    let token = token(&scratch, &[("env", "prod")]).await;
    let mut instances = Vec::new();
    for _ in 0..2 {
        instances.push(join(&scratch, &token, &request().1).await.unwrap());
    }
    let id = scratch.control.tokens.list(None).await.unwrap()[0].id.clone();
    scratch.control.tokens.delete(&id, &actor()).await.unwrap();
    let target = Target::Token(SecretId::parse(&id).unwrap());
    scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    for enrolled in &instances {
        assert!(matches!(renew(&scratch, enrolled).await, Err(EnrollmentError::Denied(_))));
    }
}
