use hauberk_identity::Name;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence;
use hauberk_proto::mesh::v1::resource::Spec;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;
use crate::resources::admit::{Rights, Target, admit_removal};
use crate::resources::testing::*;
use crate::resources::{Kind, ResourceKey};

fn ca() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn enrollment(rules: &[wire::AttestRule]) -> wire::EnrollmentSpec {
    let evidence = Some(Evidence::X509pop(wire::X509PopEvidence { ca: ca() }));
    let attest = Some(wire::AttestEnrollment { rules: rules.to_vec(), evidence });
    wire::EnrollmentSpec { attest, ..wire::EnrollmentSpec::default() }
}

fn problems(spec: wire::EnrollmentSpec, rights: Rights) -> Vec<String> {
    let catalog = catalog_of(&[mesh("shop"), node("orders", []), node("web", [])]);
    let resource = resource("shop", "machines", Spec::Enrollment(spec));
    let problems = try_admit(&catalog, &[resource], rights).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
}

fn begin_so(found: &[String], begin: &[&str]) {
    assert_eq!(found.len(), begin.len(), "{found:#?}");
    for (found, begin) in found.iter().zip(begin) {
        assert!(found.starts_with(begin), "{found}\n{begin}");
    }
}

#[test]
fn a_whole_one_is_accepted_and_takes_a_role_of_its_own() {
    let whole = enrollment(&[
        attest_rule("orders", &["x509pop:subject:cn:vm-1"]),
        attest_rule("web", &["x509pop:subject:cn:vm-2"]),
    ]);
    assert_eq!(problems(whole.clone(), EVERYTHING), [""; 0]);
    let identities = Rights { identities: true, resources: false, policies: false, boundaries: false };
    assert_eq!(problems(whole.clone(), identities), [""; 0]);
    let found = problems(whole, Rights { identities: false, ..EVERYTHING });
    assert_eq!(found, ["kind: to change an enrollment takes the role identity-admin"]);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let mut spec = enrollment(&[
        attest_rule("order", &["x509pop:subject:nc:vm-1", "x509pop:san:ip:010.0.0.1"]),
        attest_rule("", &[]),
        attest_rule("web", &["x509pop:subject:cn:a", "x509pop:subject:cn:a", "unix:uid:1"]),
    ]);
    let Some(Evidence::X509pop(evidence)) = &mut spec.attest.as_mut().unwrap().evidence else {
        unreachable!()
    };
    evidence.ca = "none".to_owned();
    begin_so(
        &problems(spec, EVERYTHING),
        &[
            "spec.attest.x509pop.ca: there is no certificate in PEM; write the authorities' certificates",
            "spec.attest.rules[0].selectors[0]: \"x509pop:subject:nc:vm-1\" is no selector that is known; did you mean \
             \"x509pop:subject:cn:\"?",
            "spec.attest.rules[0].selectors[1]: \"x509pop:san:ip:010.0.0.1\": an IP address in its shortest form",
            "spec.attest.rules[1].virtualNode: a name must not be empty",
            "spec.attest.rules[1].selectors: without selectors whoever has any such evidence would become it",
            "spec.attest.rules[2].selectors[1]: x509pop:subject:cn:a stands there twice",
            "spec.attest.rules[2].selectors[2]: \"unix:uid:1\" is no selector that is known",
            "spec.attest.rules[0].virtualNode: virtual node \"order\" does not exist; did you mean \"orders\"?",
        ],
    );
    let empty = wire::EnrollmentSpec {
        attest: Some(wire::AttestEnrollment::default()),
        parent: Some(parent("orders")),
        ..wire::EnrollmentSpec::default()
    };
    begin_so(
        &problems(empty, EVERYTHING),
        &[
            "spec.parent: an enrollment is either of a program beside an agent or, by attest, of agents",
            "spec.attest: what agents show is missing; write x509pop: {ca: …}, kubernetes: {…}, aws: {certificates: …} or \
             joinToken: {}",
            "spec.attest.rules: what agents become is missing",
        ],
    );
}

#[test]
fn each_kind_of_evidence_is_read_with_its_own_selectors() {
    let of = |evidence, selector: &str| wire::EnrollmentSpec {
        attest: Some(wire::AttestEnrollment {
            rules: vec![attest_rule("orders", &[selector])],
            evidence: Some(evidence),
        }),
        ..wire::EnrollmentSpec::default()
    };
    let cluster = |change: fn(&mut wire::KubernetesEvidence)| {
        let mut evidence = wire::KubernetesEvidence::default();
        change(&mut evidence);
        of(Evidence::Kubernetes(evidence), "k8s:ns:shop")
    };
    const KEYS: &str = r#"{"keys":[{"kty":"EC","kid":"a","crv":"P-256","use":"sig",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let good = cluster(|own| (own.issuer, own.jwks) = ("https://k8s".into(), KEYS.into()));
    assert_eq!(problems(good, EVERYTHING), [""; 0]);
    assert_eq!(problems(cluster(|own| own.token_review = "prod".into()), EVERYTHING), [""; 0]);
    for (wrong, begin) in [
        (
            cluster(|_| {}),
            "spec.attest.kubernetes: what verifies its tokens is missing; write issuer and jwks, or",
        ),
        (
            cluster(|own| (own.token_review, own.jwks) = ("prod".into(), KEYS.into())),
            "spec.attest.kubernetes: its tokens are verified either by jwks or by tokenReview",
        ),
        (
            cluster(|own| own.jwks = KEYS.into()),
            "spec.attest.kubernetes.issuer: it is missing; write what `kubectl",
        ),
        (
            cluster(|own| (own.issuer, own.jwks) = ("https://k8s".into(), r#"{"keys":[]}"#.into())),
            "spec.attest.kubernetes.jwks: it holds no key",
        ),
        (
            cluster(|own| (own.issuer, own.jwks) = ("https://k8s".into(), "{}".into())),
            "spec.attest.kubernetes.jwks: not a JSON Web Key Set",
        ),
        (
            cluster(|own| (own.issuer, own.token_review) = ("https://k8s".into(), "prod".into())),
            "spec.attest.kubernetes.issuer: it is of no use with tokenReview",
        ),
        (
            cluster(|own| (own.audience, own.token_review) = (Some(String::new()), "prod".into())),
            "spec.attest.kubernetes.audience: it is empty",
        ),
        (
            of(Evidence::Aws(wire::AwsEvidence { certificates: ca() }), "aws:account:123456789012"),
            "spec.attest.aws.certificates: certificate 1 has no RSA key",
        ),
        (
            of(Evidence::X509pop(wire::X509PopEvidence { ca: ca() }), "k8s:ns:shop"),
            "spec.attest.rules[0].selectors[0]: \"k8s:ns:shop\" is never true of this evidence; selectors here begin with x509pop:",
        ),
    ] {
        begin_so(&problems(wrong, EVERYTHING), &[begin]);
    }
}

#[test]
fn rules_that_could_only_be_ambiguous_are_refused() {
    let (one, both) = (&["x509pop:subject:cn:a"][..], &["x509pop:subject:cn:a", "x509pop:san:dns:a"][..]);
    for (rules, at) in [
        (
            [attest_rule("orders", one), attest_rule("web", both)],
            &["spec.attest.rules[1].selectors: whatever fits it fits rules[0]"][..],
        ),
        (
            [attest_rule("orders", one), attest_rule("web", one)],
            &[
                "spec.attest.rules[0].selectors: whatever fits",
                "spec.attest.rules[1].selectors: whatever fits",
            ][..],
        ),
        ([attest_rule("orders", one), attest_rule("orders", both)], &[]),
    ] {
        begin_so(&problems(enrollment(&rules), EVERYTHING), at);
    }
}

#[test]
fn the_nearest_rule_is_one_of_which_something_is_true() {
    let selectors =
        |texts: &[&str]| texts.iter().map(|text| EvidenceSelector::parse(text).unwrap()).collect();
    let rule_of = |node: &str, texts: &[&str]| AttestRule {
        selectors: selectors(texts),
        makes: Makes {
            node: NodeName::Node(Name::parse(node).unwrap()),
            ttl: None,
            dns_names: BTreeSet::new(),
        },
    };
    let rules = [
        rule_of("web", &["x509pop:subject:cn:web"]),
        rule_of("orders", &["x509pop:subject:cn:orders", "x509pop:san:dns:prod", "x509pop:san:dns:a"]),
    ];
    let found = selectors(&["x509pop:subject:cn:orders", "x509pop:san:dns:prod", "x509pop:san:dns:b"]);
    let Err(NoRule::Lacks { index, missing, .. }) = rule::judge(&rules, &found) else { panic!("none fits") };
    assert_eq!((index, missing), (1, vec![EvidenceSelector::parse("x509pop:san:dns:a").unwrap()]));
    // Of those of which nothing is, the one that asks for least.
    let Err(NoRule::Lacks { index, .. }) = rule::judge(&rules, &BTreeSet::new()) else { panic!("none fits") };
    assert_eq!(index, 0);
}

#[test]
fn its_nodes_stay() {
    let spec = enrollment(&[
        attest_rule("web", &["x509pop:subject:cn:a"]),
        attest_rule("orders", &["x509pop:subject:cn:b"]),
    ]);
    let machines = resource("shop", "machines", Spec::Enrollment(spec));
    let catalog = catalog_of(&[mesh("shop"), node("orders", []), node("web", []), machines]);
    let name = |text| Name::parse(text).unwrap();
    let key = ResourceKey { kind: Kind::VirtualNode, mesh: name("shop"), name: name("orders") };
    let target = Target { key, resource_version: 0, ignore_missing: false };
    let problems = admit_removal(&catalog, &[target], EVERYTHING, &trust_domain()).unwrap_err();
    assert!(problems[0].message.contains("still used by enrollment \"machines\""), "{problems:?}");
}

#[test]
fn what_a_rule_says_of_certificates_is_read_with_its_place() {
    let with = |change: fn(&mut wire::AttestRule)| {
        let mut of = attest_rule("orders", &["x509pop:subject:cn:a"]);
        change(&mut of);
        enrollment(&[of])
    };
    let seconds = |value| Some(wire::Duration { value: Some(value), unit: "s".into() });
    for lives in [60, 86_400] {
        let mut spec = with(|_| {});
        spec.attest.as_mut().unwrap().rules[0].x509_ttl = seconds(lives);
        assert_eq!(problems(spec, EVERYTHING), [""; 0]);
    }
    for (wrong, begin) in [
        (
            with(|rule| rule.x509_ttl = Some(wire::Duration { value: Some(59), unit: "s".into() })),
            "spec.attest.rules[0].x509Ttl: certificates live from 1 minute to 24 hours",
        ),
        (
            with(|rule| rule.x509_ttl = Some(wire::Duration { value: Some(86_401), unit: "s".into() })),
            "spec.attest.rules[0].x509Ttl: certificates live from 1 minute to 24 hours",
        ),
        (
            with(|rule| rule.dns_names = vec!["a.example".into(), "*.example".into()]),
            "spec.attest.rules[0].dnsNames[1]: \"*.example\" is no DNS name in lower case; wildcards are none",
        ),
        (
            with(|rule| rule.dns_names = vec!["a.example".into(), "a.example".into()]),
            "spec.attest.rules[0].dnsNames[1]: a.example stands there twice",
        ),
        (
            with(|rule| rule.dns_names = (0..33).map(|number| format!("n{number}.example")).collect()),
            "spec.attest.rules[0].dnsNames: 33 are too many: at most 32",
        ),
    ] {
        begin_so(&problems(wrong, EVERYTHING), &[begin]);
    }
    // Rules of one node that say different things of the same evidence.
    let (one, both) = (&["x509pop:subject:cn:a"][..], &["x509pop:subject:cn:a", "x509pop:san:dns:a"][..]);
    let mut named = attest_rule("orders", both);
    named.dns_names = vec!["a.example".into()];
    let found = problems(enrollment(&[attest_rule("orders", one), named.clone()]), EVERYTHING);
    begin_so(
        &found,
        &[
            "spec.attest.rules[1].selectors: whatever fits it fits rules[0] too, which says another x509Ttl or other dnsNames",
        ],
    );
    let mut wider = attest_rule("orders", one);
    wider.dns_names.clone_from(&named.dns_names);
    assert_eq!(problems(enrollment(&[wider, named]), EVERYTHING), [""; 0]);
}

#[test]
fn labels_of_tokens_are_asked_for_as_other_evidence_is() {
    let of = |selector: &str| wire::EnrollmentSpec {
        attest: Some(wire::AttestEnrollment {
            rules: vec![attest_rule("orders", &[selector])],
            evidence: Some(Evidence::JoinToken(wire::JoinTokenEvidence {})),
        }),
        ..wire::EnrollmentSpec::default()
    };
    for good in ["join_token:label:env:prod", "join_token:label:env:", "join_token:label:a/b.c-d_e:x:y = z"] {
        assert_eq!(problems(of(good), EVERYTHING), [""; 0], "{good}");
    }
    for (wrong, begin) in [
        (
            "join_token:label:env",
            "spec.attest.rules[0].selectors[0]: \"join_token:label:env\": a label is NAME:VALUE",
        ),
        (
            "join_token:label:é:x",
            "spec.attest.rules[0].selectors[0]: \"join_token:label:é:x\": a label is NAME:VALUE",
        ),
        (
            "join_token:labels:env:prod",
            "spec.attest.rules[0].selectors[0]: \"join_token:labels:env:prod\" is no selector that is known",
        ),
        (
            "x509pop:subject:cn:a",
            "spec.attest.rules[0].selectors[0]: \"x509pop:subject:cn:a\" is never true of this evidence; selectors here begin \
             with join_token:label:",
        ),
    ] {
        begin_so(&problems(of(wrong), EVERYTHING), &[begin]);
    }
}
