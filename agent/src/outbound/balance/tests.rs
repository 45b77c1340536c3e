use std::collections::HashMap as Map;

use hauberk_identity::TrustDomain;
use hauberk_tls::{LiveIdentity, TrustBundle};

use super::*;

fn peers(count: u16) -> Vec<Arc<Peer>> {
    hauberk_tls::install_provider();
    let domain = TrustDomain::parse("shop.local").unwrap();
    let identity = LiveIdentity::new(TrustBundle::empty(domain));
    let id = SpiffeId::parse("spiffe://shop.local/mesh/shop/node/orders").unwrap();
    (0..count)
        .map(|port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port + 1));
            Arc::new(Peer::new(&identity, &id, address, Protocol::Http, &Budget::of(8)).unwrap())
        })
        .collect()
}

fn group(confirmed: Vec<Arc<Peer>>, others: Vec<Arc<Peer>>) -> Group {
    Group {
        port: 80,
        protocol: Protocol::Http,
        made_of: Vec::new(),
        metrics: Arc::clone(crate::metrics::Metrics::new().unknown_service()),
        confirmed,
        others,
        idle_rounds: AtomicU8::new(0),
    }
}

#[test]
fn spreads_load_and_prefers_the_less_loaded() {
    let peers = peers(4);
    let group = group(peers.clone(), Vec::new());
    let mut held = Vec::new();
    let mut counts: Map<SocketAddr, usize> = Map::new();
    for _ in 0..400 {
        let peer = group.pick(0, &[]).unwrap();
        *counts.entry(peer.address()).or_default() += 1;
        held.push(Peer::begin(&peer));
    }
    assert!(counts.len() == 4 && counts.values().all(|count| (80..120).contains(count)), "{counts:?}");
}

#[test]
fn prefers_confirmed_ones_and_rests_those_that_failed() {
    let all = peers(3);
    let group = group(all[..2].to_vec(), all[2..].to_vec());
    for _ in 0..50 {
        assert_ne!(group.pick(0, &[]).unwrap().address(), all[2].address());
    }
    all[0].failed(0);
    for _ in 0..50 {
        assert_eq!(group.pick(1, &[]).unwrap().address(), all[1].address());
    }
    all[1].failed(0);
    assert_eq!(group.pick(1, &[]).unwrap().address(), all[2].address());
    all[2].failed(0);
    // When all rest, one is tried all the same.
    assert!(group.pick(1, &[]).is_some());
    assert!(group.pick(1, &all).is_none());
    // Rest ends, and a success ends it at once.
    assert!(!all[0].rests(60_000));
    all[0].succeeded();
    assert!(!all[0].rests(1));
}

#[test]
fn finds_the_one_good_endpoint_among_many() {
    let all = peers(100);
    for peer in &all[..99] {
        peer.failed(0);
    }
    let group = group(all.clone(), Vec::new());
    for _ in 0..50 {
        assert_eq!(group.pick(1, &[]).unwrap().address(), all[99].address());
    }
}
