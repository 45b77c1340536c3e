//! DNS names in certificates: those that an enrollment gives, in the X.509 certificate itself, and no others.

use hauberk_integration_tests::dial;
use hauberk_proto::agent::v1::{
    SignCertificateRequest, SignWorkloadCertificateRequest, enrollment_client::EnrollmentClient,
    workloads_client::WorkloadsClient,
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    certificates::greedy_request,
    enrollment::{ORDERS, svid},
    shop::SMALL_SHOP,
    workload_api::{begun, enrollment, shop, uid},
};

/// Every name in a certificate.
fn names(der: &[u8]) -> Vec<String> {
    let (_, leaf) = X509Certificate::from_der(der).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
        other => format!("{other:?}"),
    });
    names.collect()
}

fn names_of(svid: &Svid) -> Vec<String> {
    names(&svid.chain()[0])
}

const WORKER: &str = "spiffe://box.test/workload/test/worker";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_has_the_names_of_its_enrollment_and_none_that_is_asked_for() {
    let (mesh, _agent, socket) = shop();
    mesh.apply(&enrollment("worker", "web", &uid(), ", dnsNames: [worker.internal, w.internal]"));
    let (first, _stream) = begun(&socket).await;
    assert_eq!(names_of(&first[0]), [WORKER, "worker.internal", "w.internal"]);

    // An agent in other hands asks for more.
    let (of_web, key) = dial::join(&mesh, "web").await;
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, of_web, &key));
    let asked = async |csr: Vec<u8>| {
        let request = SignWorkloadCertificateRequest { enrollment: "worker".to_owned(), csr };
        let answer = WorkloadsClient::new(channel.clone()).sign_certificate(request).await;
        answer.map(|answer| names(&answer.into_inner().certificate.unwrap().chain[0]))
    };
    let (key, plain) = (KeyPair::generate().unwrap(), CertificateRequest::create);
    let refused = asked(greedy_request(&key)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert_eq!(asked(plain(&key).unwrap()).await.unwrap(), [WORKER, "worker.internal", "w.internal"]);
    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    assert_eq!(asked(plain(&key).unwrap()).await.unwrap(), [WORKER]);
}

fn fleet(terms: &str) -> String {
    format!(
        "kind: Enrollment\nmesh: shop\nname: fleet\nspec:\n  attest:\n    joinToken: {{}}\n    rules:\n    - {{virtualNode: \
         orders, selectors: ['join_token:label:env:prod']{terms}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_the_names_of_its_enrollment_at_the_time_and_none_that_is_asked_for() {
    let mesh = crate::enrollment::shop();
    mesh.apply(&fleet(", dnsNames: [orders.example]"));
    let made = mesh.hauberk(&["token", "create", "--enrollment", "fleet", "--label", "env=prod"]).ok();
    let key = KeyPair::generate().unwrap();
    let refused = dial::attest_with(&mesh, made.stdout.trim(), greedy_request(&key)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    let answer = dial::attest(&mesh, made.stdout.trim(), &key).await.unwrap();
    assert_eq!(names_of(&svid(&answer)), [ORDERS, "orders.example"]);

    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid(&answer), &key));
    let renewed = async || {
        let request = SignCertificateRequest { csr: CertificateRequest::create(&key).unwrap() };
        let answer = EnrollmentClient::new(channel.clone()).sign_certificate(request).await.unwrap();
        names(&answer.into_inner().certificate.unwrap().chain[0])
    };
    assert_eq!(renewed().await, [ORDERS, "orders.example"]);
    mesh.apply(&fleet(", dnsNames: [new.example]"));
    assert_eq!(renewed().await, [ORDERS, "new.example"]);
    mesh.apply(&fleet(""));
    assert_eq!(renewed().await, [ORDERS]);
}

#[test]
fn names_that_are_no_ones_or_the_control_planes_are_refused_with_their_place() {
    let mesh = hauberk_integration_tests::MeshBox::start_with(&["--san", "cp.box.example,127.0.0.1"]);
    mesh.apply(SMALL_SHOP);
    let refused = |yaml: &str, place: &str, why: &str| {
        let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], yaml);
        assert!(refused.code != 0, "{yaml}: {refused:?}");
        assert!(refused.stderr.contains(place) && refused.stderr.contains(why), "{refused:?}");
    };
    let first = "spec.attest.rules[0].dnsNames[0]";
    refused(&fleet(", dnsNames: ['*.example']"), first, "wildcards are none");
    refused(&fleet(", dnsNames: [Orders.example]"), first, "no DNS name in lower case");
    refused(&fleet(", dnsNames: [cp.box.example]"), first, "a name of the control plane's own certificate");
    refused(&fleet(", dnsNames: ['127.0.0.1']"), first, "a name of the control plane's own certificate");
    refused(&fleet(", dnsNames: ['0x7f.1']"), first, "taken for an address of IPv4");
    let ttl = ", x509Ttl: {value: 59, unit: s}";
    refused(&fleet(ttl), "spec.attest.rules[0].x509Ttl", "certificates live from 1 minute to 24 hours");
    let workload = enrollment("worker", "web", &uid(), ", dnsNames: [a.example, cp.box.example]");
    refused(&workload, "spec.workload.dnsNames[1]", "a name of the control plane's own certificate");
    mesh.apply(&fleet(", dnsNames: [a.cp.box.example]"));
}
