use std::time::Duration;

use hauberk_identity::{Serial, TrustDomain, Validity};

use super::*;
use crate::{IssuingAuthority, KeyPair, LiveIdentity, RootAuthority, SvidTemplate};

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

fn live(issuing: &IssuingAuthority, node: &str, serial: u8) -> LiveState {
    let key = KeyPair::generate().unwrap();
    let template = SvidTemplate {
        id: id(node),
        public_key: key.public_key(),
        serial: Serial::from_random([serial; 16]),
        validity: Validity::new(NOW.minus(Duration::from_secs(60)), NOW.plus(Duration::from_secs(60)))
            .unwrap(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    let live = LiveIdentity::new(issuing.root_bundle().clone());
    live.publish(issuing.sign(&template).unwrap(), &key).unwrap();
    live.current()
}

fn id(node: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.test/mesh/shop/node/{node}")).unwrap()
}

fn authority() -> IssuingAuthority {
    let validity = Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap();
    let domain = TrustDomain::parse("shop.test").unwrap();
    let root = RootAuthority::create(&domain, validity, Serial::from_random([1; 16])).unwrap();
    IssuingAuthority::create(&root, validity, Serial::from_random([2; 16])).unwrap()
}

#[test]
fn a_hop_verifies_after_exactly_what_it_was_signed_after() {
    let issuing = authority();
    let (web, orders) = (live(&issuing, "web", 3), live(&issuing, "orders", 4));
    let certificate = |state: &LiveState| state.svid().unwrap().chain()[0].clone();
    let (of_web, of_orders) = (certificate(&web), certificate(&orders));
    let begin = Link::of_user("token");
    let signature = web.sign_hop(begin, &id("orders"), NOW).unwrap();
    let to_orders = id("orders");
    let hop = Hop { certificate: &of_web, audience: to_orders.as_str(), at: NOW };
    let first = begin.verify(&hop, &signature).unwrap();
    assert_eq!(first, begin.then(&hop, &signature));
    let payments = id("payments");
    let second = orders.sign_hop(first, &payments, NOW).unwrap();
    let next = Hop { certificate: &of_orders, audience: payments.as_str(), at: NOW };
    assert!(first.verify(&next, &second).is_ok());

    let fails = |before: Link, hop: Hop<'_>, signature: &[u8]| {
        assert_eq!(before.verify(&hop, signature), Err(BadHop), "{hop:?}");
    };
    fails(Link::of_user("other"), hop, &signature);
    fails(begin, Hop { audience: payments.as_str(), ..hop }, &signature);
    fails(begin, Hop { at: UnixMillis(NOW.0 + 1), ..hop }, &signature);
    fails(begin, Hop { certificate: &of_orders, ..hop }, &signature);
    fails(begin, next, &second);
    fails(first, hop, &signature);
    fails(begin, hop, &[]);
    for bit in 0..signature.len() * 8 {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fails(begin, hop, &flipped);
    }
    // Of a certificate that was renewed meanwhile, the same.
    let renewed = live(&issuing, "web", 5);
    let of_renewed = certificate(&renewed);
    fails(begin, Hop { certificate: &of_renewed, ..hop }, &signature);
}

#[test]
fn without_a_certificate_nothing_is_signed() {
    let nobody = LiveIdentity::new(authority().root_bundle().clone()).current();
    assert!(nobody.sign_hop(Link::of_user("token"), &id("orders"), NOW).is_err());
}
