//! Who is trusted no longer has no session, whatever else it would have been told at that moment.

use hauberk_identity::Validity;
use hauberk_tls::{IssuingAuthority, KeyPair, PeerIdentity, RootAuthority, SvidTemplate, Usage, verify_svid};

use super::*;

/// Somebody's authorities.
fn authorities() -> IssuingAuthority {
    let (hour, domain) = (Duration::from_secs(3_600), TrustDomain::parse("shop.local").unwrap());
    let validity = |hours| Validity::new(NOW.minus(hour * hours), NOW.plus(hour * hours)).unwrap();
    let root = RootAuthority::create(&domain, validity(3), Serial::from_random([1; 16])).unwrap();
    IssuingAuthority::create(&root, validity(2), Serial::from_random([2; 16])).unwrap()
}

fn proof(authority: &IssuingAuthority, number: u8) -> PeerIdentity {
    let hour = Duration::from_secs(3_600);
    let template = SvidTemplate {
        id: node_id("orders"),
        public_key: KeyPair::generate().unwrap().public_key(),
        serial: Serial::from_random([number; 16]),
        validity: Validity::new(NOW.minus(hour), NOW.plus(hour)).unwrap(),
        dns_names: vec![],
        ip_addresses: vec![],
    };
    let svid = authority.sign(&template).unwrap();
    verify_svid(svid.chain(), authority.root_bundle(), NOW, Usage::Client).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_an_authority_that_is_revoked_has_no_session_and_is_sent_nothing_of_later() {
    let (world, authority) = (World::new().await, authorities());
    world.push.identity.publish_bundle(authority.root_bundle().clone()).unwrap();
    let mut agents = Vec::new();
    // As many, so that some of their sessions find first that there is something to send.
    for number in 10..42 {
        let mut agent = world.connect_proved("orders", number, proof(&authority, number));
        agent.hello().await;
        agent.until_current(1).await;
        agents.push(agent);
    }
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    world.push.identity.publish_bundle(TrustBundle::empty(trust_domain)).unwrap();
    world.publish(2, &[("orders", 2)], &[], &[]);
    world.trust.send_modify(|trust| Arc::make_mut(trust).version = 2);
    for mut agent in agents {
        let ended = agent.received().await.expect_err("nothing is sent to it");
        assert_eq!(ended.code(), Code::Unauthenticated);
    }
}
