use hauberk_identity::{Name, TrustDomain, UnixMillis};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, SanType};

use super::*;
use crate::authority::RootAuthority;
use crate::authority_key::AuthorityKey;
use crate::key::KeyPair;
use crate::request::{CertificateRequest, CsrError};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn serial(n: u8) -> Serial {
    Serial::from_random([n; 16])
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn issuing() -> IssuingAuthority {
    let root = RootAuthority::create(&domain(), window(NOW, 1_000), serial(1)).unwrap();
    IssuingAuthority::create(&root, window(NOW, 100), serial(2)).unwrap()
}

fn window(from: UnixMillis, hours: u32) -> Validity {
    Validity::new(from, from.plus(HOUR * hours)).unwrap()
}

fn template(public_key: PublicKey) -> SvidTemplate {
    SvidTemplate {
        id: SpiffeId::node(&domain(), &Name::parse("shop").unwrap(), &Name::parse("web").unwrap()),
        public_key,
        serial: serial(3),
        validity: window(NOW, 1),
        dns_names: vec![],
        ip_addresses: vec![],
    }
}

#[test]
fn signs_exactly_the_template() {
    let key = KeyPair::generate().unwrap();
    let mut template = template(key.public_key());
    template.dns_names = vec!["control.example.org".into(), "localhost".into()];
    template.ip_addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let issuing = issuing();
    let svid = issuing.sign(&template).unwrap();
    assert_eq!(svid.id(), &template.id);
    assert_eq!(svid.serial(), template.serial);
    assert_eq!(svid.validity(), template.validity);
    assert_eq!(svid.chain().len(), 2);
    assert_eq!(Svid::from_pem(&svid.to_pem()).unwrap(), svid);

    let mut other = template.clone();
    other.serial = serial(4);
    let check = |other: &SvidTemplate| verify_issued(&svid, other, template.validity, issuing.root_bundle());
    assert_eq!(check(&template), Ok(()));
    assert_eq!(check(&other), Err(SelfCheckError::Field("serial number")));
    other = template.clone();
    other.dns_names.pop();
    assert_eq!(check(&other), Err(SelfCheckError::Field("subject alternative names")));
    other = template.clone();
    other.public_key = KeyPair::generate().unwrap().public_key();
    assert_eq!(check(&other), Err(SelfCheckError::Field("public key")));
    other = template.clone();
    other.id = SpiffeId::workload(&domain(), "other").unwrap();
    assert_eq!(check(&other), Err(SelfCheckError::Field("SPIFFE id")));
}

#[test]
fn what_is_signed_after_the_first_is_checked_as_well() {
    let (issuing, other) = (issuing(), issuing());
    let template = template(KeyPair::generate().unwrap().public_key());
    let first = issuing.sign(&template).unwrap();
    assert!(issuing.proven.get().is_some());
    assert_eq!(issuing.check(&first, &template, template.validity), Ok(()));
    // Of the same names, by another key.
    let forged = other.sign(&template).unwrap();
    let refused = issuing.check(&forged, &template, template.validity);
    assert!(matches!(refused, Err(SelfCheckError::Verify(_))), "{refused:?}");
    let mut meant = template.clone();
    meant.serial = serial(9);
    let differs = issuing.check(&first, &meant, template.validity);
    assert_eq!(differs, Err(SelfCheckError::Field("serial number")));
}

#[test]
fn a_cross_signed_authority_is_good_under_either_root_and_a_distrusted_one_under_none() {
    let (old, new) = (
        RootAuthority::create(&domain(), window(NOW, 1_000), serial(1)).unwrap(),
        RootAuthority::create(&domain(), window(NOW, 1_000), serial(5)).unwrap(),
    );
    let issuing = IssuingAuthority::create(&new, window(NOW, 100), serial(2)).unwrap();
    let cross = issuing.cross_signed(&old, serial(6)).unwrap();
    let svid = issuing.sign(&template(KeyPair::generate().unwrap().public_key())).unwrap();
    assert_eq!(svid.issuer_serial(), Some(serial(2)));
    let roots = [new.certificate().clone(), old.certificate().clone()];
    let whole = svid.vouched_for_by([cross.clone()], roots).unwrap();
    assert_eq!(whole.chain()[1..3], [cross, issuing.certificate().clone()], "the former root's first");
    assert_eq!(whole.issuer_serial(), Some(serial(2)));
    for (root, other) in [(&old, &new), (&new, &old)] {
        let bundle = TrustBundle::new(domain(), [root.certificate().clone()]).unwrap();
        let verify = |svid: &Svid, bundle| verify_svid(svid.chain(), bundle, NOW, Usage::Client).map(drop);
        assert_eq!(verify(&whole, &bundle), Ok(()));
        let peer = verify_svid(whole.chain(), &bundle, NOW, Usage::Client).unwrap();
        assert_eq!(peer.issuer_serial(), Some(serial(2)));
        let without = svid.followed_by([other.certificate().clone()]).unwrap();
        let key = issuing.key().public_key().fingerprint();
        if root.serial() == old.serial() {
            assert_eq!(verify(&without, &bundle), Err(VerifyError::UnknownIssuer));
        }
        let distrusting = bundle.clone().distrusting([key]);
        assert_ne!(bundle, distrusting);
        assert_eq!(verify(&whole, &distrusting), Err(VerifyError::Distrusted(key)));
    }
}

#[test]
fn a_peers_issuer_is_who_signed_wherever_it_stands_in_the_chain() {
    let root = RootAuthority::create(&domain(), window(NOW, 1_000), serial(1)).unwrap();
    let [issuing, other] =
        [2, 4].map(|n| IssuingAuthority::create(&root, window(NOW, 100), serial(n)).unwrap());
    let svid = issuing.sign(&template(KeyPair::generate().unwrap().public_key())).unwrap();
    let leaf = svid.chain()[0].clone();
    let (right, wrong) = (issuing.certificate().clone(), other.certificate().clone());
    // Of the same name and key id, and not of the key: what a peer might make up.
    let mut posing = CertificateParams::default();
    let (_, named) = x509_parser::parse_x509_certificate(&right).unwrap();
    posing.distinguished_name = rcgen::DistinguishedName::new();
    assert_eq!(named.subject().iter().count(), 3);
    let mut names = named.subject().iter_organization().chain(named.subject().iter_common_name());
    posing.distinguished_name.push(DnType::OrganizationName, names.next().unwrap().as_str().unwrap());
    posing.distinguished_name.push(DnType::CommonName, names.next().unwrap().as_str().unwrap());
    let unique = rcgen::string::PrintableString::try_from(serial(2).to_string().as_str()).unwrap();
    let unique = rcgen::DnValue::PrintableString(unique);
    posing.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), unique);
    posing.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    posing.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    posing.serial_number = Some(vec![9].into());
    let key_id = crate::certificate::subject_key_id(&right).unwrap().unwrap();
    posing.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(key_id);
    posing.use_authority_key_identifier_extension = true;
    let posing = posing.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone();
    let bundle = issuing.root_bundle();
    for chain in [
        vec![leaf.clone(), right.clone()],
        vec![leaf.clone(), wrong.clone(), right.clone()],
        vec![leaf.clone(), posing, right.clone()],
    ] {
        let peer = verify_svid(&chain, bundle, NOW, Usage::Client).unwrap();
        assert_eq!(peer.issuer_serial(), Some(serial(2)));
    }
    // One that is trusted itself need not come along.
    let alone = TrustBundle::new(domain(), [issuing.certificate().clone()]).unwrap();
    let peer = verify_svid(&[leaf, wrong], &alone, NOW, Usage::Client).unwrap();
    assert_eq!(peer.issuer_serial(), None);
}

#[test]
fn life_is_capped_by_the_signer_at_both_ends() {
    let root = RootAuthority::create(&domain(), window(NOW, 10), serial(1)).unwrap();
    let issuing = IssuingAuthority::create(&root, window(NOW.minus(HOUR), 100), serial(2)).unwrap();
    assert_eq!(issuing.validity(), root.validity());
    let mut template = template(KeyPair::generate().unwrap().public_key());
    template.validity = window(NOW.minus(HOUR), 100);
    assert_eq!(issuing.sign(&template).unwrap().validity(), root.validity());
    template.validity = window(NOW.plus(HOUR * 11), 1);
    assert!(matches!(issuing.sign(&template), Err(IssueError::OutsideAuthority(_))));
}

#[test]
fn refuses_what_is_not_its_own_to_sign() {
    let issuing = issuing();
    let mut template = template(KeyPair::generate().unwrap().public_key());
    template.id = SpiffeId::parse("spiffe://other.org/workload/x").unwrap();
    assert!(matches!(issuing.sign(&template), Err(IssueError::ForeignTrustDomain(_))));
    template.id = SpiffeId::workload(&domain(), "x").unwrap();
    for name in ["", "*.example.org", "a..b", "-a", "a b", "é", "a\0b", &"a".repeat(64)] {
        template.dns_names = vec![name.to_owned()];
        assert_eq!(issuing.sign(&template), Err(IssueError::DnsName(name.to_owned())), "{name:?}");
    }
}

#[test]
fn authorities_survive_storage_and_nothing_else_passes_for_them() {
    let root = RootAuthority::create(&domain(), window(NOW, 1_000), serial(1)).unwrap();
    let issuing = IssuingAuthority::create(&root, window(NOW, 100), serial(2)).unwrap();
    let copy = |key: &AuthorityKey| KeyPair::from_pkcs8_der(&key.to_pkcs8_der().unwrap()).unwrap();
    let root_again = RootAuthority::load(root.certificate().clone(), copy(root.key())).unwrap();
    assert_eq!(root_again.fingerprint(), root.fingerprint());
    let again = IssuingAuthority::load(
        issuing.certificate().clone(),
        copy(issuing.key()),
        root.certificate().clone(),
    )
    .unwrap();
    let key = KeyPair::generate().unwrap();
    let svid = again.sign(&template(key.public_key())).unwrap();
    let peer = verify_svid(svid.chain(), issuing.root_bundle(), NOW, Usage::Client).unwrap();
    assert_eq!(peer.key_fingerprint(), key.public_key().fingerprint());
    assert!(RootAuthority::load(root.certificate().clone(), copy(issuing.key())).is_err());
    assert!(
        RootAuthority::load(svid.chain()[0].clone(), KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap())
            .is_err()
    );
    assert!(!format!("{issuing:?} {key:?}").contains(&format!("{:?}", key.to_pkcs8_der())));
    assert!(KeyPair::from_pkcs8_pem(&key.to_pkcs8_pem()).is_ok());
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// Requests that ask for what they must not get; each with a valid signature.
fn greedy_requests(key: &KeyPair) -> Vec<Vec<u8>> {
    type Ask = Box<dyn Fn(&mut CertificateParams)>;
    let mut asks: Vec<Ask> = vec![];
    for path_len in 0..8u8 {
        asks.push(Box::new(move |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len))));
    }
    asks.push(Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)));
    for id in
        ["admin/root", "control-plane/a", "mesh/shop/node/orders", "mesh/shop/gateway/g", "workload/x", ""]
    {
        asks.push(Box::new(move |p| p.subject_alt_names = vec![uri(&format!("spiffe://example.org/{id}"))]));
        asks.push(Box::new(move |p| {
            p.subject_alt_names =
                vec![uri("spiffe://example.org/a"), uri(&format!("spiffe://other.org/{id}"))];
        }));
    }
    for name in ["evil.example", "*", "localhost", "control.example.org"] {
        asks.push(Box::new(move |p| {
            p.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from(name).unwrap())];
        }));
        asks.push(Box::new(move |p| p.distinguished_name.push(DnType::CommonName, name)));
    }
    for mail in ["root@example.org", "spiffe://example.org/admin/root", "@"] {
        asks.push(Box::new(move |p| {
            p.subject_alt_names = vec![SanType::Rfc822Name(Ia5String::try_from(mail).unwrap())];
        }));
    }
    for (kind, value) in [(DnType::OrganizationName, "spiffe://example.org"), (DnType::CountryName, "ZZ")] {
        asks.push(Box::new(move |p| p.distinguished_name.push(kind.clone(), value)));
    }
    for ip in ["127.0.0.1", "::1", "10.0.0.1"] {
        asks.push(Box::new(move |p| p.subject_alt_names = vec![SanType::IpAddress(ip.parse().unwrap())]));
    }
    use KeyUsagePurpose::*;
    for usage in [KeyCertSign, CrlSign, KeyEncipherment, DataEncipherment, KeyAgreement, ContentCommitment] {
        asks.push(Box::new(move |p| p.key_usages = vec![usage]));
    }
    use ExtendedKeyUsagePurpose::*;
    for usage in [Any, CodeSigning, EmailProtection, TimeStamping, OcspSigning, ServerAuth] {
        asks.push(Box::new(move |p| p.extended_key_usages = vec![usage.clone()]));
    }
    for (oid, content) in [
        (&[2u64, 5, 29, 19][..], vec![0x30, 3, 1, 1, 0xff]),
        (&[2, 5, 29, 17], vec![0x30, 0]),
        (&[2, 5, 29, 15], vec![3, 2, 1, 6]),
        (&[2, 5, 29, 30], vec![0x30, 0]),
        (&[1, 3, 6, 1, 4, 1, 99999], vec![5, 0]),
        // Key identifiers, other names of the issuer, policies, where a revocation list is, who answers about it, TLS features.
        (&[2, 5, 29, 14], vec![4, 1, 0]),
        (&[2, 5, 29, 35], vec![0x30, 0]),
        (&[2, 5, 29, 18], vec![0x30, 0]),
        (&[2, 5, 29, 32], vec![0x30, 0]),
        (&[2, 5, 29, 31], vec![0x30, 0]),
        (&[1, 3, 6, 1, 5, 5, 7, 1, 1], vec![0x30, 0]),
        (&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 0]),
    ] {
        asks.push(Box::new(move |p| {
            let mut extension = CustomExtension::from_oid_content(oid, content.clone());
            extension.set_criticality(true);
            p.custom_extensions = vec![extension];
        }));
    }
    asks.iter()
        .map(|ask| {
            let mut params = CertificateParams::default();
            ask(&mut params);
            params.serialize_request(key).unwrap().der().to_vec()
        })
        .collect()
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let (issuing, key) = (issuing(), KeyPair::generate().unwrap());
    let plain = template(CertificateRequest::parse(&CertificateRequest::create(&key).unwrap()).unwrap());
    let leaf = issuing.sign(&plain).unwrap().chain()[0].to_vec();
    let requests = greedy_requests(&key);
    assert!(requests.len() >= 60, "{}", requests.len());
    for request in requests {
        let public_key = CertificateRequest::parse(&request).unwrap();
        assert_eq!(public_key, key.public_key());
        let greedy = issuing.sign(&template(public_key)).unwrap().chain()[0].to_vec();
        // All but the signature, which is randomised, is the same byte for byte.
        let signature = 4 + 12 + 72;
        assert_eq!(greedy[4..greedy.len() - signature], leaf[4..greedy.len() - signature]);
    }
}

/// What one of the 60 is refused for, if it is.
fn refusal(request: &[u8], id: &SpiffeId, dns_names: &[String], ips: &[IpAddr]) -> Option<CsrError> {
    match CertificateRequest::read(request) {
        Ok(read) => read.check(id, dns_names, ips).err(),
        Err(error) => Some(error),
    }
}

fn asking(key: &KeyPair, ask: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    ask(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn a_request_that_asks_for_more_than_is_granted_is_refused_by_name() {
    let key = KeyPair::generate().unwrap();
    let id = template(key.public_key()).id;
    let (dns, ips) = (vec!["orders.example".to_owned()], vec!["10.0.0.7".parse().unwrap()]);
    let name = |name: &str| SanType::DnsName(Ia5String::try_from(name).unwrap());
    let address = |ip: &str| SanType::IpAddress(ip.parse().unwrap());
    let granted = [
        CertificateRequest::create(&key).unwrap(),
        asking(&key, |p| p.subject_alt_names = vec![uri(id.as_str())]),
        asking(&key, |p| {
            p.subject_alt_names = vec![uri(id.as_str()), name("Orders.example"), address("10.0.0.7")];
        }),
        // Of no consequence, since nothing of it is taken.
        asking(&key, |p| p.distinguished_name.push(DnType::CommonName, "admin")),
        asking(&key, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        asking(&key, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ];
    for request in &granted {
        assert_eq!(refusal(request, &id, &dns, &ips), None);
    }
    let twice = |p: &mut CertificateParams, oid: &[u64], content: Vec<u8>| {
        let extension = || CustomExtension::from_oid_content(oid, content.clone());
        p.custom_extensions = vec![extension(), extension()];
    };
    let constrained = BasicConstraints::Constrained(0);
    let refused: [(Vec<u8>, &str); 14] = [
        (asking(&key, |p| p.subject_alt_names = vec![uri("spiffe://example.org/admin/a")]), "not the SPIFFE"),
        (asking(&key, |p| p.subject_alt_names = vec![uri(&format!("{id}/"))]), "not the SPIFFE"),
        (asking(&key, |p| p.subject_alt_names = vec![uri(&id.as_str().to_uppercase())]), "not the SPIFFE"),
        (asking(&key, |p| p.subject_alt_names = vec![uri(id.as_str()), uri(id.as_str())]), "than one URI"),
        (asking(&key, |p| p.subject_alt_names = vec![uri(id.as_str()), uri("urn:x")]), "than one URI"),
        (asking(&key, |p| p.subject_alt_names = vec![name("other.example")]), "DNS name"),
        (asking(&key, |p| p.subject_alt_names = vec![name("*.example")]), "DNS name"),
        (asking(&key, |p| p.subject_alt_names = vec![address("10.0.0.8")]), "IP address"),
        (asking(&key, |p| p.subject_alt_names = vec![address("::ffff:10.0.0.7")]), "IP address"),
        (asking(&key, |p| p.is_ca = IsCa::Ca(constrained)), "rights of an authority"),
        (asking(&key, |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "rights of an authority"),
        (asking(&key, |p| p.key_usages = vec![KeyUsagePurpose::CrlSign]), "rights of an authority"),
        (asking(&key, |p| twice(p, &[2, 5, 29, 15], vec![3, 2, 7, 0x80])), "stands there twice"),
        (
            asking(&key, |p| {
                let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 9, 1]);
                p.custom_extensions = vec![broken];
            }),
            "cannot be read",
        ),
    ];
    for (request, why) in refused {
        let error = refusal(&request, &id, &dns, &ips).unwrap_or_else(|| panic!("{why}"));
        assert!(error.to_string().contains(why), "{why}: {error}");
        // What it is refused for is not what an authority's request is held against.
        CertificateRequest::parse(&request).unwrap();
    }
}

#[test]
fn of_requests_that_are_mutated_each_is_refused_or_asks_for_what_is_granted() {
    let (issuing, key) = (issuing(), KeyPair::generate().unwrap());
    let plain = template(key.public_key());
    let mut counts = [0; 2];
    for request in greedy_requests(&key) {
        let mutants = (0..request.len()).flat_map(|at| {
            let mut flipped = request.clone();
            flipped[at] ^= 1 << (at % 8);
            let doubled = [&request[..at], &request[at / 2..]].concat();
            [flipped, request[..at].to_vec(), doubled]
        });
        for mutant in mutants.step_by(7).chain([request.clone()]) {
            match CertificateRequest::read(&mutant) {
                Ok(read) if read.check(&plain.id, &[], &[]).is_ok() => {
                    counts[0] += 1;
                    assert_eq!(*read.key(), key.public_key());
                    let template = SvidTemplate { public_key: read.key().clone(), ..plain.clone() };
                    let svid = issuing.sign(&template).unwrap();
                    assert_eq!(svid.id(), &plain.id);
                }
                _ => counts[1] += 1,
            }
        }
    }
    assert!(counts[0] >= 10 && counts[1] >= 40, "{counts:?}");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let request = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    for at in 0..request.len() {
        for bit in 0..8 {
            let mut flipped = request.clone();
            flipped[at] ^= 1 << bit;
            assert!(CertificateRequest::parse(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn weak_keys_and_strange_lengths_are_refused() {
    let key = KeyPair::generate().unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    let longer = [&request[..], &[0]].concat();
    assert_eq!(CertificateRequest::parse(&longer), Err(CsrError::Malformed));
    assert_eq!(CertificateRequest::parse(&request[..request.len() - 1]), Err(CsrError::Malformed));
    assert_eq!(CertificateRequest::parse(&vec![0x30; 65_537]), Err(CsrError::TooLong(65_537)));
    assert_eq!(CertificateRequest::parse(&[]), Err(CsrError::Malformed));
    let made_with = |algorithm: &'static rcgen::SignatureAlgorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        CertificateRequest::parse(request.der())
    };
    for strong in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let public_key = made_with(strong).unwrap();
        issuing().sign(&template(public_key)).unwrap();
    }
    assert!(made_with(&rcgen::PKCS_ECDSA_P521_SHA512).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, at: usize, byte: u8) {
        let _ = CertificateRequest::read(&bytes);
        let mut request = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
        let len = request.len();
        request[at % len] ^= byte.max(1);
        prop_assert!(CertificateRequest::parse(&request).is_err());
    }
}
