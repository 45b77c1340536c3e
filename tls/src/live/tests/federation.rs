//! Clients of other trust domains: each is verified by the bundle of exactly the domain that it names.

use std::sync::Arc;

use super::*;
use crate::endpoint::EndpointConnector;
use crate::federated::FederatedBundles;
use crate::jwt::JwtBundle;
use crate::spiffe_bundle::{SpiffeBundle, bundle_document};

static PARTNER: LazyLock<Domain> = LazyLock::new(|| Domain::new("partner.example"));

fn followed(domains: &[&Domain]) -> FederatedBundles {
    let bundle = |domain: &&Domain| {
        let name = domain.root.trust_domain();
        let none = JwtBundle::new(name.clone(), []).unwrap();
        let text = bundle_document(&domain.bundle(), &none, None, None);
        Arc::new(SpiffeBundle::parse(name, text.as_bytes()).unwrap())
    };
    domains.iter().map(bundle).collect()
}

fn admitted(state: &LiveState, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, VerifyError> {
    let (leaf, others) = chain.split_first().unwrap();
    state.verify_client(leaf, others, now())
}

/// Somebody of `named` by the authority of `domain`, which would never issue it.
fn misissued(domain: &Domain, named: &str) -> Vec<CertificateDer<'static>> {
    domain.forge(|params| params.subject_alt_names = vec![uri(named)]).0
}

#[test]
fn a_client_is_verified_by_the_bundle_of_the_domain_that_it_names() {
    let live = OURS.live("mesh/shop/node/orders");
    let (foreign, _) = PARTNER.issue("payments", around(HOUR, HOUR));
    let own = OURS.issue("mesh/shop/node/web", around(HOUR, HOUR)).0;
    let stranger = VerifyError::UnknownIssuer;
    assert_eq!(admitted(&live.current(), foreign.chain()), Err(stranger.clone()), "nobody is followed yet");
    live.publish_federated(followed(&[&PARTNER]));
    let state = live.current();
    assert_eq!(admitted(&state, foreign.chain()).unwrap(), PARTNER.id("payments"));
    assert_eq!(admitted(&state, own.chain()).unwrap(), OURS.id("mesh/shop/node/web"));

    // Neither vouches for the other's, nor for anybody with a similar name.
    for named in ["spiffe://example.org/mesh/shop/node/web", "spiffe://other.example/payments"] {
        assert_eq!(admitted(&state, &misissued(&PARTNER, named)), Err(stranger.clone()), "{named}");
    }
    let lookalikes =
        ["partner.example.", "x.partner.example", "partner", "partner.examp1e", "partner-example"];
    for domain in lookalikes {
        let named = format!("spiffe://{domain}/payments");
        assert_eq!(admitted(&state, &misissued(&PARTNER, &named)), Err(stranger.clone()), "{named}");
        // Ours has issued it, for whatever reason: it is still nobody of ours.
        let refused = admitted(&state, &misissued(&OURS, &named)).unwrap_err();
        assert!(matches!(refused, VerifyError::ForeignTrustDomain { .. }), "{refused}");
    }
    assert_eq!(admitted(&state, &misissued(&OURS, "spiffe://partner.example/payments")), Err(stranger));
    let upper = admitted(&state, &misissued(&PARTNER, "spiffe://Partner.example/payments")).unwrap_err();
    assert!(matches!(upper, VerifyError::UnknownIssuer | VerifyError::NotSpiffeId(_)), "{upper}");
}

#[test]
fn a_root_that_two_domains_share_vouches_for_each_by_its_own_bundle_alone() {
    // A bundle may hold a root without a name, and so the same one as another's.
    let anonymous = |serial: u8| {
        let mut params =
            crate::authority::dated_params(around(HOUR, HOUR), Serial::from_random([serial; 16]));
        params.distinguished_name.push(rcgen::DnType::CommonName, "shared root");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        (CertificateDer::from(params.self_signed(&key).unwrap()), params, key)
    };
    let (der, params, key) = anonymous(200);
    let issuer = rcgen::Issuer::from_params(&params, key);
    let leaf = |named: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = crate::authority::dated_params(around(HOUR, HOUR), Serial::from_random([201; 16]));
        params.subject_alt_names = vec![uri(named)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        [CertificateDer::from(params.signed_by(&key, &issuer).unwrap())]
    };
    let partner = TrustDomain::parse("partner.example").unwrap();
    let none = JwtBundle::new(partner.clone(), []).unwrap();
    let bundle = TrustBundle::new(partner.clone(), [der]).unwrap();
    let text = bundle_document(&bundle, &none, None, None);
    let live = OURS.live("mesh/shop/node/orders");
    let bundle = SpiffeBundle::parse(&partner, text.as_bytes()).unwrap();
    live.publish_federated([Arc::new(bundle)].into_iter().collect());
    let state = live.current();
    assert!(admitted(&state, &leaf("spiffe://partner.example/a")).is_ok());
    assert_eq!(admitted(&state, &leaf("spiffe://example.org/a")), Err(VerifyError::UnknownIssuer));
    assert_eq!(admitted(&state, &leaf("spiffe://other.example/a")), Err(VerifyError::UnknownIssuer));
}

#[test]
fn a_bundle_of_our_own_domain_that_others_tell_counts_for_nothing() {
    let impostor = Domain::new("example.org");
    let live = OURS.live("mesh/shop/node/orders");
    live.publish_federated(followed(&[&impostor, &PARTNER]));
    let (forged, _) = impostor.issue("mesh/shop/node/web", around(HOUR, HOUR));
    assert_eq!(admitted(&live.current(), forged.chain()), Err(VerifyError::UnknownIssuer));
    let (own, _) = OURS.issue("mesh/shop/node/web", around(HOUR, HOUR));
    assert!(admitted(&live.current(), own.chain()).is_ok());
}

#[test]
fn live_connections_are_held_against_the_bundles_of_the_moment() {
    let live = OURS.live("mesh/shop/node/orders");
    live.publish_federated(followed(&[&PARTNER]));
    let (foreign, _) = PARTNER.issue("payments", around(HOUR, HOUR));
    let peer = verify_svid(foreign.chain(), &PARTNER.bundle(), now(), Usage::Client).unwrap();
    let again = |usage| live.current().verify_again(&peer, now(), usage);
    assert_eq!(again(Usage::Client), Ok(peer.not_after()));
    // As servers only members of our own domain are known.
    assert_eq!(again(Usage::Server), Err(VerifyError::UnknownIssuer));
    let successor = Domain::new("partner.example");
    live.publish_federated(followed(&[&successor]));
    assert_eq!(again(Usage::Client), Err(VerifyError::UnknownIssuer));
    live.publish_federated(FederatedBundles::default());
    assert_eq!(again(Usage::Client), Err(VerifyError::UnknownIssuer));
}

#[tokio::test]
async fn a_bundle_endpoint_is_known_by_exactly_the_id_that_is_expected() {
    let served = PARTNER.live("control-plane/one");
    let acceptor = served.web_acceptor(LIMIT).unwrap();
    let ask = async |bundle: &TrustBundle, id: &SpiffeId, denied: Option<&'static str>| {
        let refuses = Arc::new(move |_: &SpiffeId, _: Serial| denied);
        let bundle = Arc::new(bundle.clone());
        let connector = EndpointConnector::spiffe(bundle, id.clone(), refuses, LIMIT).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (client, _) =
            tokio::join!(connector.connect("bundles.partner.example", near), acceptor.accept(far));
        client.map(drop)
    };
    let (own, right) = (PARTNER.bundle(), PARTNER.id("control-plane/one"));
    assert!(ask(&own, &right, None).await.is_ok());
    let denied = ask(&own, &right, Some("revoked")).await.unwrap_err();
    assert!(matches!(denied, HandshakeError::PeerDenied("revoked")), "{denied}");
    for (bundle, id) in [
        (&own, PARTNER.id("control-plane/two")),
        (&own, OURS.id("control-plane/one")),
        (&OURS.bundle(), right.clone()),
        (&TrustBundle::empty(PARTNER.root.trust_domain().clone()), right),
    ] {
        let refused = ask(bundle, &id, None).await.unwrap_err();
        assert!(matches!(refused, HandshakeError::PeerRefused(_)), "{id}: {refused}");
    }
}
