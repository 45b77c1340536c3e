use hauberk_identity::{Serial, UnixMillis};

use super::*;
use crate::authority::{IssuingAuthority, RootAuthority};

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn root(trust_domain: &str, n: u8) -> RootAuthority {
    let validity = Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap();
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    RootAuthority::create(&trust_domain, validity, Serial::from_random([n; 16])).unwrap()
}

#[test]
fn is_a_sorted_set_whatever_the_spelling() {
    let (a, b) = (root("example.org", 1).certificate().clone(), root("example.org", 2).certificate().clone());
    let one = TrustBundle::new(domain(), [a.clone(), b.clone(), a.clone()]).unwrap();
    let other = TrustBundle::new(domain(), [b.to_vec(), a.to_vec()]).unwrap();
    assert_eq!(one, other);
    assert_eq!(one.roots().len(), 2);
    assert_eq!(TrustBundle::from_pem(domain(), &one.to_pem()).unwrap(), one);
    assert_eq!(TrustBundle::from_self_describing_pem(&one.to_pem(), None).unwrap(), one);
    assert!(one.root(Fingerprint::of(&a)).is_some());
    assert!(TrustBundle::empty(domain()).roots().is_empty());
}

#[test]
fn refuses_what_is_no_root_of_the_domain() {
    let foreign = root("other.org", 1);
    let error = BundleError::TrustDomain(foreign.fingerprint());
    assert_eq!(TrustBundle::new(domain(), [foreign.certificate().clone()]), Err(error));
    assert_eq!(TrustBundle::from_self_describing_pem("", None), Err(BundleError::Empty));
    assert!(TrustBundle::new(domain(), [vec![1, 2, 3]]).is_err());
    let leaf = rcgen::CertificateParams::new(vec!["x.org".to_owned()]).unwrap();
    let leaf = leaf.self_signed(&crate::KeyPair::generate().unwrap()).unwrap();
    assert!(TrustBundle::new(domain(), [leaf]).is_err());
    let many: Vec<_> = (0..33).map(|n| root("example.org", n).certificate().clone()).collect();
    assert_eq!(TrustBundle::new(domain(), many), Err(BundleError::TooMany(32)));
}

#[test]
fn an_issuing_authority_may_be_a_root_of_its_own() {
    let root = root("example.org", 1);
    let issuing = IssuingAuthority::create(&root, root.validity(), Serial::from_random([2; 16])).unwrap();
    assert!(TrustBundle::new(domain(), [issuing.certificate().clone()]).is_ok());
}

#[test]
fn a_root_that_names_its_signer_without_a_key_id_is_none() {
    let made = |content: Option<Vec<u8>>| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let extension = |content| rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 35], content);
        params.custom_extensions.extend(content.map(extension));
        let certificate = params.self_signed(&crate::KeyPair::generate().unwrap()).unwrap();
        TrustBundle::new(domain(), [certificate.der().to_vec()]).map(drop)
    };
    assert_eq!(made(None), Ok(()), "it may say nothing of its signer");
    // A directory name with no attributes, and the number 1.
    let named = made(Some(vec![0x30, 9, 0xa1, 4, 0xa4, 2, 0x30, 0, 0x82, 1, 1]));
    assert!(matches!(named, Err(BundleError::NotAnAuthority(_))), "{named:?}");
    let says_nothing = BundleError::Certificate(CertificateFault::Contents("authorityKeyIdentifier"));
    assert_eq!(made(Some(vec![0x30, 0])), Err(says_nothing));
}

/// Other trust domains have such roots; their members' own keys are those that everybody has.
#[test]
fn a_root_may_be_on_p521_and_a_leaf_may_not() {
    use crate::verifier::{Usage, verify_svid};
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let bundle = TrustBundle::new(domain(), [root.der().to_vec()]).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(root.der(), key).unwrap();
    let verified = |algorithm: &'static rcgen::SignatureAlgorithm| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://example.org/a".try_into().unwrap())];
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        verify_svid(&[leaf], &bundle, UnixMillis::from_secs(1_800_000_000), Usage::Client).map(drop)
    };
    assert_eq!(verified(&rcgen::PKCS_ECDSA_P384_SHA384), Ok(()));
    let refused = verified(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap_err();
    assert!(refused.to_string().contains("none of these"), "{refused}");
}
