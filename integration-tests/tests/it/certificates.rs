//! What stands in a certificate: our profile, the node that the token is for, and of a request nothing but its key; and
//! that requests for more are refused.

use hauberk_identity::Serial;
use hauberk_integration_tests::dial;
use hauberk_proto::agent::v1::{SignCertificateRequest, enrollment_client::EnrollmentClient};
use hauberk_tls::{CertificateRequest, KeyPair};
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use tonic::Code;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::enrollment::{ORDERS, issued, shop, svid};

/// A request that asks for everything it should not have.
pub(crate) fn greedy_request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["control-plane.box.test".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://box.test/admin/admin".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    // basicConstraints with cA TRUE.
    let mut authority =
        CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    authority.set_criticality(true);
    params.custom_extensions.push(authority);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_request_is_refused_and_of_another_nothing_is_taken_but_the_key() {
    let mesh = shop();
    let key = KeyPair::generate().unwrap();
    let token = dial::token(&mesh, "orders", &[]);
    let refused = dial::attest_with(&mesh, &token, greedy_request(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(hauberk_proto::refusal::reason(&refused).as_deref(), Some("REQUEST_NOT_GRANTED"));
    // That has used up nothing of the token. A subject is nobody's name.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    let answer = dial::attest_with(&mesh, &token, csr).await.unwrap();
    let chain = answer.certificate.clone().unwrap().chain;

    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0, "no subject: {}", leaf.subject());
    assert_eq!(leaf.public_key().raw, key.public_key_der());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "without a subject the names are critical (RFC 5280 §4.2.1.6)");
    assert!(
        matches!(names.value.general_names[..], [GeneralName::URI(ORDERS)]),
        "{:?}",
        names.value.general_names
    );
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else: {}", usage.value);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    assert!(!extended.code_signing && !extended.ocsp_signing);
    let has = |wanted: fn(&ParsedExtension<'_>) -> bool| {
        leaf.extensions().iter().any(|extension| wanted(extension.parsed_extension()))
    };
    assert!(has(|extension| matches!(extension, ParsedExtension::SubjectKeyIdentifier(_))));
    assert!(has(|extension| matches!(extension, ParsedExtension::AuthorityKeyIdentifier(_))));
    // The serial number says whose it is, and nothing else of it repeats: 75 bits are random.
    let (first, second) = {
        let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid(&answer), &key));
        let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
        let renewed = EnrollmentClient::new(channel).sign_certificate(SignCertificateRequest { csr }).await;
        let chain = renewed.unwrap().into_inner().certificate.unwrap().chain;
        (svid(&answer).serial(), hauberk_tls::Svid::from_der(chain).unwrap().serial())
    };
    let number = |serial: Serial| u128::from_be_bytes(serial.as_bytes().try_into().expect("16 octets"));
    const RANDOM: u32 = 75;
    let of_instance = |serial| number(serial) >> RANDOM;
    assert_eq!(first.instance().map(|id| id.to_string()), Some(answer.instance_id.clone()));
    assert_eq!((of_instance(first), of_instance(first) >> 50), (of_instance(second), 0b001));
    let differ = ((number(first) ^ number(second)) & ((1 << RANDOM) - 1)).count_ones();
    assert!((10..=65).contains(&differ), "{differ} of 75 random bits differ between {first} and {second}");
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((3600..=3600 + 301).contains(&life), "an hour, backdated five minutes: {life} s");

    let (_, issuing) = X509Certificate::from_der(&chain[1]).unwrap();
    assert!(issuing.basic_constraints().unwrap().unwrap().value.ca);
    leaf.verify_signature(Some(issuing.public_key())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_odd_keys_or_without_proof_are_refused_and_use_up_nothing() {
    let mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let key = KeyPair::generate().unwrap();
    let good = CertificateRequest::create(&key).unwrap();

    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let p521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = CertificateParams::default().serialize_request(&p521).unwrap().der().to_vec();
    let pem = String::from("-----BEGIN CERTIFICATE REQUEST-----\n").into_bytes();
    for (what, csr) in [
        ("a signature that does not fit", forged),
        ("something behind it", trailing),
        ("cut short", good[..good.len() - 8].to_vec()),
        ("P-521", odd),
        ("PEM", pem),
        ("nothing", Vec::new()),
        ("8 KiB", vec![0x30; 8_192]),
    ] {
        let refused = dial::attest_with(&mesh, &token, csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    dial::attest_with(&mesh, &token, good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_is_listed() {
    let mesh = shop();
    let token = dial::token(&mesh, "orders", &[]);
    let key = KeyPair::generate().unwrap();
    let answer = dial::attest(&mesh, &token, &key).await.unwrap();
    let serial = svid(&answer).serial().to_string();
    assert_eq!(issued(&mesh, ORDERS).await, std::slice::from_ref(&serial));

    let table = mesh.hauberk(&["get", "certificates", "-o", "wide"]).ok().stdout;
    assert!(table.contains(&serial) && table.contains(ORDERS), "{table}");
    let json = mesh.hauberk(&["get", "certificates", "-o", "json"]).ok().stdout;
    assert!(json.contains(&serial) && json.contains(&answer.instance_id), "{json}");
}
