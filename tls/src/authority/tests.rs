use std::time::Duration;

use hauberk_identity::{Name, SpiffeId};
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints,
};

use super::*;
use crate::bootstrap::BootstrapTrust;
use crate::issue::SvidTemplate;
use crate::request::CertificateRequest;
use crate::svid::Svid;
use crate::verifier::{Usage, VerifyError, verify_svid};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn domain() -> TrustDomain {
    TrustDomain::parse("shop.example").unwrap()
}

fn days(days: u32) -> Validity {
    Validity::new(NOW.minus(DAY), NOW.plus(DAY * days)).unwrap()
}

fn serial(number: u8) -> Serial {
    Serial::from_random([number; 16])
}

/// An operator's authority: no URI, a name of its own.
struct Corporate {
    issuer: Issuer<'static, rcgen::KeyPair>,
    der: CertificateDer<'static>,
    key_pem: String,
}

impl Corporate {
    fn root(number: u8) -> Self {
        Self::make(number, None, |_| {})
    }

    fn under(&self, number: u8) -> Self {
        Self::make(number, Some(self), |_| {})
    }

    fn make(number: u8, signer: Option<&Self>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = dated_params(days(1_000), serial(number));
        params.distinguished_name.push(DnType::OrganizationName, "Corporate");
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let certificate = match signer {
            Some(signer) => params.signed_by(&key, &signer.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let (der, key_pem) = (certificate.into(), key.serialize_pem());
        Self { issuer: Issuer::from_ca_cert_der(&der, key).unwrap(), der, key_pem }
    }

    /// What this authority makes of a request, if it goes by it but for one thing.
    fn sign(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = upstream::issuing_params(&domain(), days(90), serial(200)).unwrap();
        change(&mut params);
        params.signed_by(&key.public_key(), &self.issuer).unwrap().into()
    }
}

fn find(
    key: &KeyPair,
    given: &[CertificateDer<'static>],
    known: &[CertificateDer<'static>],
) -> Result<UpstreamChain, UpstreamError> {
    UpstreamChain::find(&domain(), &key.public_key(), given, None, known, NOW)
}

fn adopt(chain: &UpstreamChain, key: &KeyPair) -> Result<IssuingAuthority, UpstreamError> {
    let key = KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
    let names = vec!["localhost".to_owned()];
    IssuingAuthority::adopt(chain, key, names, vec!["127.0.0.1".parse().unwrap()], NOW)
}

fn svid(issuing: &IssuingAuthority, domain: &TrustDomain) -> Svid {
    let template = SvidTemplate {
        id: SpiffeId::control_plane(domain, &Name::parse("0").unwrap()),
        public_key: KeyPair::generate().unwrap().public_key(),
        serial: serial(201),
        validity: days(1),
        dns_names: vec![],
        ip_addresses: vec![],
    };
    issuing.sign(&template).unwrap()
}

#[test]
fn what_an_operator_signed_signs_and_is_verified_by_the_root_alone() {
    let (root, key) = (Corporate::root(1), KeyPair::generate().unwrap());
    let middle = root.under(2);
    let lower = middle.under(3);
    for (signer, between) in [(&root, vec![]), (&middle, vec![&middle]), (&lower, vec![&lower, &middle])] {
        let mut given: Vec<_> = between.iter().map(|one| one.der.clone()).collect();
        given.insert(0, root.der.clone());
        given.push(signer.sign(&key, |_| {}));
        let chain = find(&key, &given, &[]).unwrap();
        let expected: Vec<_> = between.iter().map(|one| one.der.clone()).collect();
        assert_eq!((chain.intermediates(), chain.root()), (expected.as_slice(), &root.der));
        let issuing = adopt(&chain, &key).unwrap();
        let svid = svid(&issuing, &domain());
        assert_eq!(svid.chain().len(), 2 + between.len());
        let bundle = TrustBundle::new(domain(), [root.der.clone()]).unwrap();
        assert!(verify_svid(svid.chain(), &bundle, NOW, Usage::Client).is_ok());
        assert_eq!(svid.issuer_serial(), Some(issuing.serial()));
    }
    // The root is known already, and need not be given again.
    let signed = [root.sign(&key, |_| {})];
    assert!(find(&key, &signed, &[Corporate::root(9).der, root.der.clone()]).is_ok());
    assert_eq!(find(&key, &signed, &[]), Err(UpstreamError::NoRoot));
    // An authority that is not self-signed is a root where somebody says so: nothing else under the root is believed then.
    let signed = [middle.sign(&key, |_| {})];
    let public = key.public_key();
    let named = UpstreamChain::find(&domain(), &public, &signed, Some(&middle.der), &[], NOW).unwrap();
    assert_eq!((named.intermediates().len(), named.root()), (0, &middle.der));
    adopt(&named, &key).unwrap();
}

#[test]
fn each_field_that_is_not_as_it_must_be_is_named() {
    let (root, key) = (Corporate::root(1), KeyPair::generate().unwrap());
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        find(&key, &[root.sign(&key, change), root.der.clone()], &[]).map(|_| ()).unwrap_err().to_string()
    };
    let no_authority = |params: &mut CertificateParams| {
        (params.is_ca, params.key_usages) = (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature]);
    };
    let lasts = |params: &mut CertificateParams, from, until| {
        let new_year = |year| rcgen::date_time_ymd(year, 1, 1);
        (params.not_before, params.not_after) = (new_year(from), new_year(until));
    };
    let constrained = |len| IsCa::Ca(BasicConstraints::Constrained(len));
    let uri = |text: &str| vec![uri(text).unwrap()];
    for (field, said) in [
        ("basicConstraints is absent, or CA:FALSE", with(&no_authority)),
        ("basicConstraints is pathlen:1", with(&|params| params.is_ca = constrained(1))),
        (
            "basicConstraints is without a pathlen",
            with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("keyUsage is without cRLSign", with(&|params| params.key_usages.truncate(1))),
        (
            "extKeyUsage is there",
            with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "authorityKeyIdentifier is absent",
            with(&|params| params.use_authority_key_identifier_extension = false),
        ),
        (
            "authorityKeyIdentifier is absent, or without a key identifier",
            with(&|params| {
                // Name and serial number of the issuer alone.
                let content = vec![0x30, 9, 0xa1, 4, 0xa4, 2, 0x30, 0, 0x82, 1, 1];
                let named = CustomExtension::from_oid_content(&[2, 5, 29, 35], content);
                params.use_authority_key_identifier_extension = false;
                params.custom_extensions.push(named);
            }),
        ),
        ("subjectAltName is without a URI", with(&|params| params.subject_alt_names.clear())),
        (
            "subjectAltName is spiffe://other.example",
            with(&|params| params.subject_alt_names = uri("spiffe://other.example")),
        ),
        ("validity is from", with(&|params| lasts(params, 2010, 2020))),
        ("validity is from", with(&|params| lasts(params, 2035, 2040))),
        ("validity is until", with(&|params| params.not_after = rcgen::date_time_ymd(2040, 1, 1))),
        (
            "subject is one that chains cannot be made with",
            with(&|params| {
                let kind = DnType::CustomDnType(vec![2, 5, 4, 15]);
                params.distinguished_name.push(kind, DnValue::TeletexString("x".try_into().unwrap()));
            }),
        ),
    ] {
        assert!(said.starts_with("the issuing certificate's "), "{said}");
        assert!(said.contains(field), "{field}: {said}");
    }
}

#[test]
fn what_does_not_lead_to_the_root_is_refused() {
    let (root, key) = (Corporate::root(1), KeyPair::generate().unwrap());
    let good = root.sign(&key, |_| {});
    let other = KeyPair::generate().unwrap();
    assert_eq!(find(&other, &[good.clone(), root.der.clone()], &[]), Err(UpstreamError::OtherKey));
    let again = root.sign(&key, |params| params.serial_number = Some(vec![1].into()));
    assert_eq!(find(&key, &[good.clone(), again, root.der.clone()], &[]), Err(UpstreamError::Ambiguous));
    let stranger = Corporate::root(2);
    let error = find(&key, &[good.clone(), stranger.der.clone()], &[]).unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Gap { place: Place::Issuing, issuer } if issuer.contains("authority 1"))
    );
    // A namesake of the root, with another key and the same key id: the signature decides.
    let namesake = Corporate::make(1, None, |params| {
        let id = certificate::subject_key_id(&root.der).unwrap().unwrap();
        params.key_identifier_method = KeyIdMethod::PreSpecified(id);
    });
    let chain = find(&key, &[good.clone(), namesake.der.clone()], &[]).unwrap();
    assert!(matches!(adopt(&chain, &key), Err(UpstreamError::Trial(_))));
    // One bit in the middle of what is signed, and one in the signature.
    for at in [good.len() / 2, good.len() - 8] {
        let mut bent = good.to_vec();
        bent[at] ^= 1;
        let result = find(&key, &[bent.into(), root.der.clone()], &[]);
        assert!(result.and_then(|chain| adopt(&chain, &key)).is_err(), "{at}");
    }
    let deep = root.under(3).under(4).under(5);
    assert!(matches!(
        find(&key, &[deep.sign(&key, |_| {}), deep.der.clone(), root.der.clone()], &[]),
        Err(UpstreamError::Gap { place: Place::Intermediate, .. })
    ));
    let (a, b) = (root.under(6), root.under(6).under(7));
    drop(b);
    let (b, c) = (a.under(7), a.under(7).under(8));
    drop(c);
    let c = b.under(8);
    let given = [c.sign(&key, |_| {}), c.der.clone(), b.der.clone(), a.der.clone(), root.der.clone()];
    assert_eq!(find(&key, &given, &[]), Err(UpstreamError::TooLong));
    let junk = find(&key, &[good, vec![1, 2, 3].into()], &[]).unwrap_err();
    assert!(matches!(junk, UpstreamError::Certificate { position: 2, .. }));
}

#[test]
fn authorities_above_are_held_to_their_profile_too() {
    let key = KeyPair::generate().unwrap();
    let refused = |root: &Corporate, between: Option<&Corporate>| {
        let signer = between.unwrap_or(root);
        let mut given = vec![signer.sign(&key, |_| {}), root.der.clone()];
        given.extend(between.map(|between| between.der.clone()));
        find(&key, &given, &[]).and_then(|chain| adopt(&chain, &key)).map(|_| ()).unwrap_err().to_string()
    };
    let other = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://other.example").unwrap()];
    };
    let root = Corporate::root(1);
    let said = refused(&Corporate::make(1, None, |params| params.key_usages.clear()), None);
    assert!(said.starts_with("the root's keyUsage is absent"), "{said}");
    let said = refused(&Corporate::make(1, None, other), None);
    assert!(said.starts_with("the root's subjectAltName is spiffe://other.example"), "{said}");
    let said = refused(&root, Some(&Corporate::make(2, Some(&root), other)));
    assert!(said.starts_with("an intermediate certificate's subjectAltName"), "{said}");
    // What only whole chains show.
    let none_below = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    };
    let said = refused(&Corporate::make(1, None, none_below), None);
    assert!(said.contains("longer than its root permits"), "{said}");
    let only = |params: &mut CertificateParams| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("corporate.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    };
    let said = refused(&root, Some(&Corporate::make(2, Some(&root), only)));
    assert!(said.starts_with("a certificate that it signed on trial would be refused"), "{said}");
}

#[test]
fn what_stands_above_may_permit_some_names_and_not_others_each_time() {
    let (root, key) = (Corporate::root(1), KeyPair::generate().unwrap());
    let between = Corporate::make(2, Some(&root), |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("corporate.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let given = [between.sign(&key, |_| {}), between.der.clone(), root.der.clone()];
    let chain = find(&key, &given, &[]).unwrap();
    let copied = KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
    let names = vec!["control.corporate.example".to_owned()];
    let issuing = IssuingAuthority::adopt(&chain, copied, names, Vec::new(), NOW).unwrap();
    let named = |name: &str| {
        let template = SvidTemplate {
            id: SpiffeId::control_plane(&domain(), &Name::parse("0").unwrap()),
            public_key: KeyPair::generate().unwrap().public_key(),
            serial: serial(9),
            validity: days(1),
            dns_names: vec![name.to_owned()],
            ip_addresses: vec![],
        };
        issuing.sign(&template).is_ok()
    };
    assert!(named("worker.corporate.example") && !named("worker.internal"));
}

/// A corporate root may stand above many trust domains.
#[test]
fn an_authority_of_another_trust_domain_under_the_same_root_is_believed_nothing_here() {
    let (root, key) = (Corporate::root(1), KeyPair::generate().unwrap());
    let theirs = TrustDomain::parse("other.example").unwrap();
    let certificate = root.sign(&key, |params| {
        params.subject_alt_names = vec![uri("spiffe://other.example").unwrap()];
    });
    let chain =
        UpstreamChain::find(&theirs, &key.public_key(), &[certificate, root.der.clone()], None, &[], NOW);
    let issuing = adopt(&chain.unwrap(), &key).unwrap();
    // Its own library refuses to sign for us; whoever has the key needs no library.
    let mut params = dated_params(days(1), serial(7));
    params.subject_alt_names = vec![uri("spiffe://shop.example/mesh/shop/node/web").unwrap()];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = KeyPair::generate().unwrap();
    let leaf: CertificateDer<'static> =
        params.signed_by(&leaf.public_key(), &issuing.authority.issuer).unwrap().into();
    let forged = [leaf, issuing.certificate().clone()];
    let ours = TrustBundle::new(domain(), [root.der.clone()]).unwrap();
    let refused = verify_svid(&forged, &ours, NOW, Usage::Client).unwrap_err();
    assert_eq!(refused, VerifyError::ForeignAuthority(domain()));
    let good = svid(&issuing, &theirs);
    let their_bundle = TrustBundle::new(theirs.clone(), [root.der.clone()]).unwrap();
    assert!(verify_svid(good.chain(), &their_bundle, NOW, Usage::Server).is_ok());

    // A newcomer who knows the root alone has to be told whose control plane is meant.
    let pin = Fingerprint::of(&root.der);
    let chain = good.with_root(&root.der).unwrap();
    let (leaf, others) = chain.chain().split_first().unwrap();
    let bootstrap = |trust_domain| BootstrapTrust::Root { pin, trust_domain }.verify(leaf, others, NOW);
    assert_eq!(bootstrap(None), Err(VerifyError::PinOfNoTrustDomain(pin)));
    assert!(matches!(bootstrap(Some(domain())), Err(VerifyError::ForeignAuthority(_))));
    assert_eq!(bootstrap(Some(theirs)), Ok(()));
}

#[test]
fn an_authority_by_an_operator_is_vouched_for_by_our_own_former_root_too() {
    let own = RootAuthority::create(&domain(), days(1_000), serial(1)).unwrap();
    let (corporate, key) = (Corporate::root(2), KeyPair::generate().unwrap());
    // Operators' tools choose the key id in ways of their own.
    let key_id = vec![7; 20];
    let signed = corporate.sign(&key, |params| {
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.clone());
    });
    let chain = find(&key, &[signed, corporate.der.clone()], &[]).unwrap();
    let issuing = adopt(&chain, &key).unwrap();
    let cross = issuing.cross_signed(&own, serial(3)).unwrap();
    let named = certificate::subject_key_id(&cross).unwrap();
    assert_eq!(named, Some(key_id), "what it signs names it by that");
    let svid = svid(&issuing, &domain()).vouched_for_by([cross], []).unwrap();
    for root in [own.certificate().clone(), corporate.der.clone()] {
        let bundle = TrustBundle::new(domain(), [root]).unwrap();
        assert!(verify_svid(svid.chain(), &bundle, NOW, Usage::Server).is_ok());
    }
}

#[test]
fn a_request_says_what_is_wanted_and_a_root_certifies_its_key() {
    let (key, own) =
        (KeyPair::generate().unwrap(), RootAuthority::create(&domain(), days(9), serial(1)).unwrap());
    let signs = KeyPair::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
    let csr = IssuingAuthority::request(&domain(), &signs.into(), serial(2)).unwrap();
    let public = CertificateRequest::parse(&csr).unwrap();
    assert_eq!(public, key.public_key());
    assert_eq!(CertificateRequest::from_pem(&CertificateRequest::to_pem(&csr)).unwrap(), csr);
    assert_eq!(CertificateRequest::from_pem("nothing"), Err(crate::CsrError::Pem));
    let certificate = own.certify(&public, days(90), serial(3)).unwrap();
    let chain = find(&key, &[certificate, own.certificate().clone()], &[]).unwrap();
    let issuing = adopt(&chain, &key).unwrap();
    assert_eq!(issuing.validity(), own.validity(), "capped");
}

#[test]
fn an_operators_authority_signs_from_files_with_the_keys_that_there_are() {
    let key = KeyPair::generate().unwrap();
    let (root, other) = (Corporate::root(1), Corporate::root(2));
    let middle = root.under(3);
    let chain = crate::pem::encode_certificates([&middle.der, &root.der]);
    let operator = OperatorAuthority::from_pem(&chain, middle.key_pem.as_bytes()).unwrap();
    let signed = operator.certify(&domain(), &key.public_key(), days(5_000), serial(4)).unwrap();
    let found = find(&key, &signed, &[]).unwrap();
    assert_eq!(found.intermediates(), std::slice::from_ref(&middle.der));
    let issuing = adopt(&found, &key).unwrap();
    assert_eq!(issuing.validity().not_after(), days(1_000).not_after(), "capped");
    let refused = |certificates: &str, key: &str| {
        OperatorAuthority::from_pem(certificates, key.as_bytes()).map(|_| ()).unwrap_err()
    };
    assert_eq!(refused("", &root.key_pem), OperatorAuthorityError::NoCertificate);
    assert_eq!(refused(&chain, ""), OperatorAuthorityError::NoKey);
    assert_eq!(refused(&chain, &other.key_pem), OperatorAuthorityError::Mismatch);
    let leaf = crate::pem::encode_certificates(svid(&issuing, &domain()).chain().first());
    assert_eq!(refused(&leaf, &root.key_pem), OperatorAuthorityError::NotAnAuthority);
}
