use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use proptest::prelude::*;

use super::*;
use crate::authority::{AuthorityError, IssuingAuthority, RootAuthority};
use crate::crl::CrlIssue;
use crate::issue::{IssueError, SvidTemplate};
use crate::verifier::{Usage, verify_svid};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// What signs elsewhere: the key, how often it was asked, and what spoils its answers.
struct Device {
    public_key: PublicKey,
    asked: Arc<AtomicUsize>,
    key: AuthorityKey,
}

/// A device whose answers go through `answer`. It is given what was to be signed, so it signs a digest as a token does: by
/// a software key, which takes the message.
fn device(answer: impl Fn([u8; 64]) -> Result<[u8; 64], String> + Send + Sync + 'static) -> Device {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let public_key = PublicKey::from_p256_point(pair.public_key().as_ref()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let sign = move |digest: &[u8; 32]| {
        counted.fetch_add(1, Ordering::Relaxed);
        let digest = digest::Digest::import_less_safe(digest, &digest::SHA256).unwrap();
        let signature = pair.sign_digest(&digest).unwrap();
        answer(signature.as_ref().try_into().unwrap())
    };
    let key = AuthorityKey::elsewhere(public_key.clone(), Box::new(sign)).unwrap();
    Device { public_key, asked, key }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn window(hours: u32) -> Validity {
    Validity::new(NOW, NOW.plus(HOUR * hours)).unwrap()
}

fn crl_issue() -> CrlIssue {
    CrlIssue { number: 1, this_update: NOW, next_update: NOW.plus(HOUR) }
}

fn serial(n: u8) -> Serial {
    Serial::from_random([n; 16])
}

fn template() -> SvidTemplate {
    SvidTemplate {
        id: SpiffeId::node(&domain(), &Name::parse("shop").unwrap(), &Name::parse("web").unwrap()),
        public_key: KeyPair::generate().unwrap().public_key(),
        serial: serial(3),
        validity: window(1),
        dns_names: vec![],
        ip_addresses: vec![],
    }
}

#[test]
fn an_authority_signs_with_a_key_that_is_elsewhere() {
    let root = RootAuthority::create(&domain(), window(1_000), serial(1)).unwrap();
    let Device { public_key, asked, key } = device(Ok);
    let issuing = IssuingAuthority::create_with(&root, window(100), serial(2), key).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0, "its certificate is the root's to sign");
    assert!(issuing.key().is_elsewhere() && issuing.key().to_pkcs8_der().is_none());
    assert_eq!(issuing.key().public_key(), public_key);
    let svid = issuing.sign(&template()).unwrap();
    verify_svid(svid.chain(), issuing.root_bundle(), NOW, Usage::Client).unwrap();
    issuing.sign_crl(&[], crl_issue()).unwrap();
    issuing.key().prove().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3);

    // And the other way round: a root elsewhere over a key that is here.
    let root = RootAuthority::create_with(&domain(), window(1_000), serial(4), device(Ok).key).unwrap();
    let issuing = IssuingAuthority::create(&root, window(100), serial(5)).unwrap();
    verify_svid(issuing.sign(&template()).unwrap().chain(), issuing.root_bundle(), NOW, Usage::Client)
        .unwrap();
}

#[test]
fn what_is_signed_elsewhere_is_verified_before_it_is_used() {
    let spoilt = |bytes: [u8; 64]| {
        let mut bytes = bytes;
        bytes[40] ^= 1;
        Ok(bytes)
    };
    let wrong = "what it signed does not verify by the authority's public key";
    let created = RootAuthority::create_with(&domain(), window(10), serial(1), device(spoilt).key);
    assert_eq!(created.unwrap_err(), AuthorityError::Sign(wrong.to_owned()));
    for answer in [[0; 64], [0xff; 64]] {
        assert_eq!(device(move |_| Ok(answer)).key.prove(), Err(wrong.to_owned()));
    }
    // It signs well, with another key.
    let (ours, other) = (device(Ok), device(Ok));
    let Holder::Elsewhere { sign, .. } = other.key.0 else { panic!("it is elsewhere") };
    let key = AuthorityKey::elsewhere(ours.public_key, sign).unwrap();
    assert_eq!(key.prove(), Err(wrong.to_owned()));

    let root = RootAuthority::create(&domain(), window(1_000), serial(1)).unwrap();
    let failing = device(|_| Err("the token is away".to_owned()));
    let issuing = IssuingAuthority::create_with(&root, window(100), serial(2), failing.key).unwrap();
    let refused = issuing.sign(&template()).unwrap_err();
    assert_eq!(refused, IssueError::KeyElsewhere("the token is away".to_owned()));
    let refused = issuing.sign_crl(&[], crl_issue()).unwrap_err();
    assert_eq!(refused.to_string(), "the revocation list could not be signed: the token is away");
}

#[test]
fn a_key_elsewhere_is_on_p256() {
    let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = aws_lc_rs::encoding::AsDer::as_der(p384.public_key()).unwrap().as_ref().to_vec();
    let p384 = PublicKey::from_spki_der(&p384).unwrap();
    let refused = AuthorityKey::elsewhere(p384, Box::new(|_| Err(String::new())));
    assert_eq!(refused.unwrap_err(), KeyError::Algorithm);
    for point in [&[4; 64][..], &[2; 33], &[0; 65], &[]] {
        assert_eq!(PublicKey::from_p256_point(point), Err(KeyError::Point), "{point:?}");
    }
}

proptest! {
    #[test]
    fn both_forms_of_a_signature_say_the_same(message: Vec<u8>) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let fixed = pair.sign(&SystemRandom::new(), &message).unwrap();
        let public = pair.public_key().as_ref();
        let verify = |algorithm, signature: &[u8]| {
            UnparsedPublicKey::new(algorithm, public).verify(&message, signature).is_ok()
        };
        prop_assert!(verify(&ECDSA_P256_SHA256_FIXED, fixed.as_ref()));
        prop_assert!(verify(&ECDSA_P256_SHA256_ASN1, &to_der(fixed.as_ref().try_into().unwrap())));
    }
}

#[test]
fn numbers_are_written_in_their_shortest_form() {
    let mut numbers = [0; 64];
    numbers[31] = 0x7f;
    numbers[62] = 0x80;
    assert_eq!(to_der(&numbers), [0x30, 8, 2, 1, 0x7f, 2, 3, 0, 0x80, 0]);
    assert_eq!(to_der(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    assert_eq!(to_der(&[0xff; 64]).len(), 72);
}
