use std::sync::Arc;

use bytes::{Buf, Bytes};
use hauberk_identity::{Serial, TrustDomain};
use hauberk_proto::sds::envoy::config::core::v3::data_source::Specifier;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig};
use hauberk_proto::sds::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use hauberk_proto::sds::google::rpc;
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{
    CertificateDer, KeyPair, RootAuthority, SpiffeBundle, Svid, TrustBundle, bundle_document,
    certificates_from_pem,
};
use prost::Message;
use tonic::Code;

use super::super::answers::Encoded;
use super::super::given::{Given, Sufficiency};
use super::super::keeper::WorkloadSvid;
use super::super::told::RevocationLists;
use super::has_certificate_and_lists;
use super::secrets::TYPE_URL;
use super::subscription::Subscription;
use crate::testing::{Authorities, HOUR, around};

const BILLING: &str = "spiffe://shop.local/workload/billing";
const TRUST_DOMAIN: &str = "spiffe://shop.local";

fn given(authorities: &Authorities, paths: &[&str]) -> Given {
    let svids = paths.iter().map(|path| {
        let key = KeyPair::generate().unwrap();
        let svid = authorities.sign(path, key.public_key(), around(HOUR));
        (Arc::new(WorkloadSvid { svid, key }), String::new())
    });
    Given {
        identities: Vec::new(),
        svids: svids.collect(),
        has_default: true,
        is_partial: false,
        is_outlived: false,
        bundle: Arc::new(authorities.issuing.root_bundle().clone()),
        federated: Vec::new(),
        revocation_lists: RevocationLists::default(),
        jwt_keys: None,
    }
}

fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE_URL.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn secrets(answer: &DiscoveryResponse) -> Vec<Secret> {
    assert!(answer.resources.iter().all(|resource| resource.type_url == TYPE_URL));
    answer.resources.iter().map(|resource| Secret::decode(resource.value.as_slice()).unwrap()).collect()
}

fn names(answer: &DiscoveryResponse) -> Vec<String> {
    secrets(answer).into_iter().map(|secret| secret.name).collect()
}

/// What a stream is answered next, as a client reads it.
fn answered(subscription: &mut Subscription, given: &Given) -> Option<DiscoveryResponse> {
    subscription.answer(given).unwrap().map(decoded)
}

fn decoded(mut answer: Encoded) -> DiscoveryResponse {
    let (is_compressed, length) = (answer.get_u8(), answer.get_u32());
    assert_eq!((is_compressed, length as usize), (0, answer.remaining()));
    DiscoveryResponse::decode(answer).unwrap()
}

/// The whole of what one stream is answered that asks once.
fn asked(given: &Given, names: &[&str]) -> DiscoveryResponse {
    let mut subscription = Subscription::default();
    assert!(subscription.take(request(names, "")).unwrap());
    answered(&mut subscription, given).unwrap()
}

fn text(source: Option<hauberk_proto::sds::envoy::config::core::v3::DataSource>) -> String {
    let Some(Specifier::InlineBytes(bytes)) = source.unwrap().specifier else { unreachable!() };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn each_name_has_its_secret() {
    let authorities = Authorities::new();
    let given = given(&authorities, &["workload/billing", "workload/worker"]);
    let bundle = given.bundle.to_pem();
    for (name, path) in
        [("default", "billing"), (BILLING, "billing"), ("spiffe://shop.local/workload/worker", "worker")]
    {
        let answer = asked(&given, &[name]);
        let [Secret { name: found, r#type: Some(Type::TlsCertificate(certificate)) }] = &secrets(&answer)[..]
        else {
            panic!("{answer:?}")
        };
        assert_eq!(found, name, "by the name that was asked for");
        let svid = Svid::from_pem(&text(certificate.certificate_chain.clone())).unwrap();
        let key = KeyPair::from_pkcs8_pem(&text(certificate.private_key.clone())).unwrap();
        assert_eq!(svid.id().as_str(), format!("spiffe://shop.local/workload/{path}"));
        assert_eq!(svid.key_fingerprint(), key.public_key().fingerprint());
    }
    for name in ["ROOTCA", TRUST_DOMAIN] {
        let answer = asked(&given, &[name]);
        let [Secret { r#type: Some(Type::ValidationContext(context)), .. }] = &secrets(&answer)[..] else {
            panic!("{answer:?}")
        };
        assert_eq!(text(context.trusted_ca.clone()), bundle);
    }
    let answer = asked(&given, &["ALL"]);
    let [Secret { r#type: Some(Type::ValidationContext(context)), .. }] = &secrets(&answer)[..] else {
        panic!("{answer:?}")
    };
    let validator = context.custom_validator_config.clone().unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = SpiffeCertValidatorConfig::decode(validator.typed_config.unwrap().value.as_slice()).unwrap();
    let domains: Vec<_> =
        config.trust_domains.into_iter().map(|domain| (domain.name, text(domain.trust_bundle))).collect();
    assert_eq!(domains, [("shop.local".to_owned(), bundle)]);

    let everything = asked(&given, &[]);
    assert_eq!(names(&everything), [TRUST_DOMAIN, BILLING, "spiffe://shop.local/workload/worker"]);
}

#[test]
fn other_trust_domains_stand_in_all_with_their_own_roots() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    let followed = |name: &str, roots: &TrustBundle| {
        let domain = TrustDomain::parse(name).unwrap();
        let tokens = JwtBundle::new(domain.clone(), []).unwrap();
        let document = bundle_document(roots, &tokens, None, None);
        Arc::new(SpiffeBundle::parse(&domain, document.as_bytes()).unwrap())
    };
    let none =
        TrustBundle::new(TrustDomain::parse("empty.example").unwrap(), Vec::<CertificateDer<'static>>::new())
            .unwrap();
    // Of our own domain in the tests, so it is given under its own name here.
    let own = given.bundle.clone();
    given.federated = vec![followed("empty.example", &none), followed("shop.local", &own)];
    let answer = asked(&given, &["ALL"]);
    let [Secret { r#type: Some(Type::ValidationContext(context)), .. }] = &secrets(&answer)[..] else {
        panic!("{answer:?}")
    };
    let config = context.custom_validator_config.clone().unwrap().typed_config.unwrap();
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
    let domains: Vec<_> =
        config.trust_domains.into_iter().map(|domain| (domain.name, text(domain.trust_bundle))).collect();
    let with_roots = ("shop.local".to_owned(), own.to_pem());
    assert_eq!(domains, [with_roots.clone(), with_roots], "one without roots is left out");
}

/// What another trust domain is verified by, as it is and as it is followed.
fn partner() -> (TrustBundle, Arc<SpiffeBundle>) {
    hauberk_tls::install_provider();
    let partner = TrustDomain::parse("partner.example").unwrap();
    let root = RootAuthority::create(&partner, around(HOUR), Serial::from_random([9; 16])).unwrap();
    let bundle = TrustBundle::new(partner.clone(), [root.certificate().clone()]).unwrap();
    let document = bundle_document(&bundle, &JwtBundle::new(partner.clone(), []).unwrap(), None, None);
    let followed = Arc::new(SpiffeBundle::parse(&partner, document.as_bytes()).unwrap());
    (bundle, followed)
}

#[test]
fn revocation_lists_stand_with_our_own_roots_where_they_cover_what_is_held_against_them() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    let (bundle, followed) = partner();
    given.federated = vec![followed];
    let context = |given: &Given, name: &str| {
        let [Secret { r#type: Some(Type::ValidationContext(context)), .. }] =
            &secrets(&asked(given, &[name]))[..]
        else {
            panic!("{name}")
        };
        context.clone()
    };
    let of_all = |given: &Given| -> Vec<String> {
        let config = context(given, "ALL").custom_validator_config.unwrap().typed_config.unwrap();
        let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
        config.trust_domains.into_iter().map(|domain| text(domain.trust_bundle)).collect()
    };
    let lists = Some("two lists\n");
    for (complete, of_leaves) in [(None, None), (None, lists), (lists, lists)] {
        given.revocation_lists.complete = complete.map(Bytes::from);
        given.revocation_lists.of_leaves = of_leaves.map(Bytes::from);
        given.revocation_lists.number += 1;
        for name in ["ROOTCA", TRUST_DOMAIN] {
            let context = context(&given, name);
            assert_eq!(context.crl.map(|crl| text(Some(crl))).as_deref(), of_leaves, "{name}");
            assert_eq!(context.only_verify_leaf_cert_crl, of_leaves.is_some(), "{name}");
            assert_eq!(text(context.trusted_ca), given.bundle.to_pem());
        }
        let of_partner = context(&given, "spiffe://partner.example");
        assert_eq!((of_partner.crl, of_partner.only_verify_leaf_cert_crl), (None, false));
        let own = given.bundle.to_pem() + complete.unwrap_or_default();
        assert_eq!(of_all(&given), [own, bundle.to_pem()]);
    }
}

#[test]
fn the_revocation_lists_of_all_streams_are_one_copy() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    given.federated = vec![partner().1];
    let lists = Bytes::from(vec![b'l'; 2 << 20]);
    given.revocation_lists = RevocationLists {
        complete: Some(lists.clone()),
        of_leaves: Some(lists.clone()),
        number: 7,
        ..Default::default()
    };
    let is_shared = |part: &&[u8]| part.as_ptr() == lists.as_ptr() && part.len() == lists.len();
    for (names, copies) in
        [(&[][..], 1), (&["ROOTCA", "ALL", TRUST_DOMAIN], 3), (&["default", "spiffe://partner.example"], 0)]
    {
        let asked = || {
            let mut subscription = Subscription::default();
            subscription.take(request(names, "")).unwrap();
            subscription
        };
        for answer in [asked().answer(&given).unwrap().unwrap(), asked().whole_answer(&given).unwrap()] {
            assert_eq!(answer.list, (copies > 0).then_some(7), "so that it ends once many came after it");
            let mut parts = [std::io::IoSlice::new(&[]); 16];
            let count = answer.chunks_vectored(&mut parts);
            let parts: Vec<&[u8]> = parts[..count].iter().map(|part| &**part).collect();
            assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), answer.remaining());
            let own: usize = parts.iter().filter(|part| !is_shared(part)).map(|part| part.len()).sum();
            assert_eq!(parts.iter().filter(|part| is_shared(part)).count(), copies, "{names:?}");
            assert!(own < 16 * 1024, "{own}");
            secrets(&decoded(answer));
        }
        let mut subscription = asked();
        answered(&mut subscription, &given).unwrap();
        given.revocation_lists.number += 1;
        assert_eq!(answered(&mut subscription, &given).is_some(), copies > 0, "{names:?}");
        given.revocation_lists.number = 7;
    }
}

#[test]
fn nothing_is_given_before_it_is_known_who_is_revoked() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    let lacks = |given: &Given, what: &str| {
        let found = has_certificate_and_lists(given);
        assert!(matches!(found, Sufficiency::Lacks(lack) if lack.contains(what)), "{what}: {found:?}");
    };
    lacks(&given, "revocation lists");
    given.revocation_lists.number = 1;
    assert_eq!(has_certificate_and_lists(&given), Sufficiency::Whole);
    given.svids.clear();
    lacks(&given, "certificate");
}

#[test]
fn nobody_is_the_default_in_the_place_of_who_is_on_the_way() {
    let mut given = given(&Authorities::new(), &["workload/worker"]);
    given.revocation_lists.number = 1;
    (given.has_default, given.is_partial) = (false, true);
    assert_eq!(has_certificate_and_lists(&given), Sufficiency::InPart, "others go by their names");
    let worker = "spiffe://shop.local/workload/worker";
    assert_eq!(names(&asked(&given, &["default", worker])), [worker]);
    given.has_default = true;
    assert_eq!(names(&asked(&given, &["default", worker])), ["default", worker]);
}

/// The roots in an answer of one secret.
fn roots(answer: &DiscoveryResponse) -> String {
    let [Secret { r#type: Some(Type::ValidationContext(context)), .. }] = &secrets(answer)[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(context.custom_validator_config, None);
    text(context.trusted_ca.clone())
}

#[test]
fn another_trust_domain_is_given_by_its_name_and_taken_back() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    let (bundle, followed) = partner();
    let partner = bundle.trust_domain().clone();

    // Before it is followed, nobody: Envoy would wait, or keep what it had.
    const PARTNER: &str = "spiffe://partner.example";
    let mut subscription = Subscription::default();
    assert!(subscription.take(request(&[PARTNER], "")).unwrap());
    let nobody = roots(&answered(&mut subscription, &given).unwrap());
    let certificates = certificates_from_pem(&nobody).unwrap();
    assert_eq!(certificates.len(), 1, "an empty set would be no check at all");
    assert!(![bundle.to_pem(), given.bundle.to_pem()].contains(&nobody));
    assert_eq!(answered(&mut subscription, &given), None, "that is told once");

    given.federated = vec![Arc::clone(&followed)];
    assert_eq!(roots(&answered(&mut subscription, &given).unwrap()), bundle.to_pem());
    assert_eq!(names(&asked(&given, &[])), [PARTNER, TRUST_DOMAIN, BILLING], "in the order of names");
    given.federated.clear();
    assert_eq!(roots(&answered(&mut subscription, &given).unwrap()), nobody, "it is taken back");
    // One without roots has taken all back itself.
    let none = TrustBundle::new(partner.clone(), Vec::<CertificateDer<'static>>::new()).unwrap();
    let document = bundle_document(&none, &JwtBundle::new(partner.clone(), []).unwrap(), None, None);
    given.federated = vec![Arc::new(SpiffeBundle::parse(&partner, document.as_bytes()).unwrap())];
    assert_eq!(roots(&asked(&given, &[PARTNER])), nobody);
    assert!(!roots(&asked(&given, &["spiffe://other.example"])).is_empty());
}

#[test]
fn what_is_not_given_is_absent() {
    let authorities = Authorities::new();
    let given = given(&authorities, &["workload/billing"]);
    let others =
        ["spiffe://shop.local/workload/worker", "spiffe://Other.test", "rootca", "spiffe://shop.local/"];
    for name in others {
        let mut subscription = Subscription::default();
        assert!(subscription.take(request(&[name], "")).unwrap());
        assert_eq!(answered(&mut subscription, &given), None, "{name}");
        // Once it is asked for beside something that there is, that is answered.
        assert!(subscription.take(request(&[name, "default"], "")).unwrap());
        assert_eq!(names(&answered(&mut subscription, &given).unwrap()), ["default"]);
    }
    let mut once = Subscription::default();
    once.take(request(&others, "")).unwrap();
    assert_eq!(decoded(once.whole_answer(&given).unwrap()).resources, []);
}

#[test]
fn each_change_is_answered_once_and_a_refusal_is_no_reason_to_repeat() {
    let authorities = Authorities::new();
    let mut given = given(&authorities, &["workload/billing"]);
    let mut subscription = Subscription::default();
    assert!(!subscription.has_begun());
    assert!(subscription.take(request(&["default"], "")).unwrap());
    let first = answered(&mut subscription, &given).unwrap();
    assert_eq!((first.version_info.as_str(), first.nonce.as_str()), ("1", "1"));
    // Taken.
    let mut taken = request(&["default"], "1");
    taken.version_info = "1".to_owned();
    assert!(!subscription.take(taken).unwrap());
    assert_eq!(answered(&mut subscription, &given), None, "nothing that it wants has changed");

    given.svids = self::given(&authorities, &["workload/billing"]).svids;
    let second = answered(&mut subscription, &given).unwrap();
    assert_eq!(second.nonce, "2");
    assert_ne!(second.resources, first.resources);
    let mut refused = request(&["default"], "2");
    refused.version_info = "1".to_owned();
    refused.error_detail = Some(rpc::Status { code: 13, message: "no".repeat(10_000), details: vec![] });
    assert!(!subscription.take(refused).unwrap());
    assert_eq!(answered(&mut subscription, &given), None, "no loop");

    // A request that crossed the last answer is passed over, what it says of names too.
    assert!(!subscription.take(request(&["ROOTCA"], "1")).unwrap());
    assert!(subscription.take(request(&["ROOTCA"], "2")).unwrap());
    assert_eq!(names(&answered(&mut subscription, &given).unwrap()), ["ROOTCA"]);
    // All given up, which is not the same as asking for everything; then asked for anew.
    assert!(subscription.take(request(&[], "3")).unwrap());
    assert_eq!(answered(&mut subscription, &given), None);
    assert!(subscription.take(request(&["ROOTCA"], "3")).unwrap());
    assert_eq!(names(&answered(&mut subscription, &given).unwrap()), ["ROOTCA"]);
}

#[test]
fn only_secrets_are_served_and_not_without_end() {
    let mut subscription = Subscription::default();
    let mut other = request(&["default"], "");
    other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    assert_eq!(subscription.take(other).unwrap_err().code(), Code::InvalidArgument);
    let many = request(&["a"; 65], "");
    assert_eq!(subscription.take(many).unwrap_err().code(), Code::InvalidArgument);
    let mut unsaid = request(&["default"], "");
    unsaid.type_url.clear();
    assert!(subscription.take(unsaid).unwrap());
}
