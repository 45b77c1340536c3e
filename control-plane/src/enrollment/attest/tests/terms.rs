//! How long the certificates of agents live that came by evidence, and which names are in them.

use hauberk_tls::{Fingerprint, Svid};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::*;
use crate::audit::Filter;
use crate::issuance::IssuanceError;

/// The names in a certificate but for its SPIFFE id.
fn names(svid: &Svid) -> Vec<String> {
    let (_, parsed) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let extension = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    });
    let names = extension.unwrap().general_names.iter();
    let named = names.filter_map(|name| match name {
        GeneralName::URI(_) => None,
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        other => Some(format!("{other:?}")),
    });
    named.collect()
}

fn life(enrolled: &Enrolled) -> Duration {
    enrolled.issued.svid.validity().not_after().since(enrolled.issued.issued_at.floor_to_second())
}

fn with_terms(selector: &str, seconds: u32, names: &[&str]) -> wire::AttestRule {
    let x509_ttl = Some(wire::Duration { value: Some(seconds), unit: "s".to_owned() });
    let dns_names = names.iter().map(|name| (*name).to_owned()).collect();
    wire::AttestRule { x509_ttl, dns_names, ..rule("orders", selector) }
}

const SELECTOR: &str = "x509pop:subject:cn:vm-1";

#[tokio::test]
async fn certificates_are_as_the_enrollment_says_at_the_time_and_not_as_those_before() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![with_terms(SELECTOR, 60, &["orders.example", "o.example"])]).await;
    let machine = ca.machine("vm-1");
    let enrolled = join(&scratch, &machine, &request().1).await.unwrap();
    assert_eq!(names(&enrolled.issued.svid), ["o.example", "orders.example"]);
    assert_eq!(life(&enrolled), Duration::from_secs(60));
    let serial = enrolled.issued.svid.serial();
    let recorded = scratch.control.ledger.certificate(serial).await.unwrap().unwrap();
    assert_eq!(recorded.dns_names, ["o.example", "orders.example"]);

    let peer = scratch.peer(&enrolled.issued.svid);
    let renew = async || scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await.unwrap();
    let renewed = renew().await;
    assert_eq!(
        (names(&renewed.issued.svid), life(&renewed)),
        (names(&enrolled.issued.svid), life(&enrolled))
    );
    enroll(&scratch, &ca.pem, vec![with_terms(SELECTOR, 120, &["new.example"])]).await;
    let renewed = renew().await;
    assert_eq!(names(&renewed.issued.svid), ["new.example"]);
    assert_eq!(life(&renewed), Duration::from_secs(120));
    enroll(&scratch, &ca.pem, vec![rule("orders", SELECTOR)]).await;
    let renewed = renew().await;
    assert_eq!(names(&renewed.issued.svid), [""; 0]);
    assert_eq!(life(&renewed), Duration::from_secs(3_600));
}

#[tokio::test]
async fn short_certificates_are_renewed_as_often_as_they_need() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![with_terms(SELECTOR, 60, &[])]).await;
    let enrolled = join(&scratch, &ca.machine("vm-1"), &request().1).await.unwrap();
    let mut svid = enrolled.issued.svid;
    for _ in 0..40 {
        scratch.clock.advance(Duration::from_secs(25));
        let peer = scratch.peer(&svid);
        let renewed = scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await;
        svid = renewed.unwrap().issued.svid;
    }
}

#[tokio::test]
async fn a_request_may_ask_for_what_is_granted_and_for_nothing_else() {
    let (scratch, ca) = (scratch().await, Machines::new());
    let key = KeyPair::generate().unwrap();
    let asking = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "web.example");
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let machine = ca.machine("vm-1");
    for (rules, granted) in [
        (vec![rule("orders", SELECTOR)], &[][..]),
        (vec![with_terms(SELECTOR, 60, &["orders.example"])], &["orders.example"][..]),
    ] {
        enroll(&scratch, &ca.pem, rules).await;
        // An instance may ask only so often.
        scratch.clock.advance(Duration::from_secs(600));
        for more in ["web.example", "10.0.0.9"] {
            let csr = asking(&[granted, &[more]].concat());
            let refused = join(&scratch, &machine, &csr).await.unwrap_err();
            assert_eq!(refused.reason(), "REQUEST_NOT_GRANTED", "{refused}");
            assert!(refused.is_refusal());
            assert_eq!(crate::rpc::status::of_enrollment(&refused).code(), tonic::Code::InvalidArgument);
        }
        let enrolled = join(&scratch, &machine, &asking(granted)).await.unwrap();
        assert_eq!(names(&enrolled.issued.svid), granted);
        let peer = scratch.peer(&enrolled.issued.svid);
        let control = &scratch.control;
        let refused = control.enrollment.renew(&peer, &asking(&["web.example"]), "10.0.0.7:4").await;
        assert_eq!(refused.unwrap_err().reason(), "REQUEST_NOT_GRANTED");
        let renewed = control.enrollment.renew(&peer, &asking(granted), "10.0.0.7:4").await.unwrap();
        assert_eq!(names(&renewed.issued.svid), granted, "nor at renewal");
    }
    let filter = Filter { refused_only: true, ..Filter::default() };
    let recorded = scratch.control.audit.list(&filter, None, 20).await.unwrap().records;
    assert_eq!(recorded.len(), 6);
    assert!(recorded.iter().all(|record| record.reason.contains("that is not granted")), "{recorded:?}");
}

#[tokio::test]
async fn evidence_of_which_rules_say_different_things_is_refused() {
    let (scratch, ca) = (scratch().await, Machines::new());
    let machine = ca.machine("vm-1");
    let (_, csr) = request();
    let fingerprint = Fingerprint::of(&rustls_der(&ca.pem));
    let by_authority = format!("x509pop:ca:fingerprint:{fingerprint}");
    enroll(&scratch, &ca.pem, vec![rule("orders", SELECTOR), rule("orders", &by_authority)]).await;
    join(&scratch, &machine, &csr).await.unwrap();
    enroll(&scratch, &ca.pem, vec![rule("orders", SELECTOR), with_terms(&by_authority, 60, &[])]).await;
    let why =
        "it fits rules[0] and rules[1], both of virtual node orders, which differ in x509Ttl or dnsNames";
    refused(&scratch, join(&scratch, &machine, &csr).await, why).await;
}

fn rustls_der(pem: &str) -> Vec<u8> {
    hauberk_tls::certificates_from_pem(pem).unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_name_of_the_control_plane_is_issued_to_nobody_else() {
    let (scratch, ca) = (scratch().await, Machines::new());
    // As where it was named so after the enrollment was made.
    enroll(&scratch, &ca.pem, vec![with_terms(SELECTOR, 60, &["fine.example", "localhost"])]).await;
    let error = join(&scratch, &ca.machine("vm-1"), &request().1).await.unwrap_err();
    assert!(matches!(error, EnrollmentError::Issuance(IssuanceError::NameOfControlPlane(_))), "{error}");
    assert_eq!(error.reason(), "NAME_OF_CONTROL_PLANE");
    let (_, administrator) = told(&scratch, &error).await;
    assert!(administrator.contains("localhost is a name of the control plane's own"), "{administrator}");
    enroll(&scratch, &ca.pem, vec![with_terms(SELECTOR, 60, &["127.0.0.1"])]).await;
    join(&scratch, &ca.machine("vm-1"), &request().1).await.unwrap_err();
    let none = scratch.control.ledger.certificates(None, None, 10).await.unwrap();
    assert!(none.certificates.is_empty(), "{none:?}");
}
