use std::time::Duration;

use hauberk_identity::{Name, SpiffeId};

use super::*;
use crate::registry::{Commit, StoreError, keys};
use crate::testing::{Scratch, actor, request, scratch};

fn order(scratch: &Scratch, ttl: Duration) -> Order {
    let (node, mesh) = (Name::parse("orders").unwrap(), Name::parse("shop").unwrap());
    Order {
        id: SpiffeId::node(scratch.control.authority.trust_domain(), &mesh, &node),
        holder: Holder::Instance("0123456789".into()),
        public_key: request().0.public_key().into(),
        ttl,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        actor: actor(),
        action: "certificate.issue",
    }
}

#[tokio::test]
async fn what_is_issued_is_recorded_and_verifies() {
    let scratch = scratch().await;
    let hour = Duration::from_secs(3_600);
    let issued = scratch.control.issuer.issue(order(&scratch, hour), |_, _| Ok(Commit::new())).await.unwrap();
    let now = scratch.clock.now();
    assert_eq!(issued.issued_at, now);
    assert_eq!(issued.svid.validity().not_after(), now.plus(hour).floor_to_second());
    assert_eq!(issued.svid.chain().len(), 2);
    let peer = scratch.peer(&issued.svid);
    let record = scratch.control.ledger.certificate(peer.serial()).await.unwrap().unwrap();
    assert_eq!(record.spiffe_id, "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(record.not_after, peer.not_after().0);
    assert_eq!(record.key_fingerprint, peer.key_fingerprint().to_string());
    let page = scratch.control.ledger.certificates(Some(&record.spiffe_id), None, 10).await.unwrap();
    assert_eq!(page.certificates, vec![(peer.serial().to_string(), record)]);
    let acts = scratch.control.audit.list(&Default::default(), None, 10).await.unwrap().records;
    assert_eq!(acts[0].action, "certificate.issue");
}

#[tokio::test]
async fn without_its_entitlement_nothing_is_issued_or_recorded() {
    let scratch = scratch().await;
    let refused = scratch
        .control
        .issuer
        .issue(order(&scratch, Duration::from_secs(60)), |_, _| Ok(Commit::new().present("token/none")))
        .await;
    assert!(matches!(refused, Err(IssuanceError::Store(StoreError::Conflict { .. }))));
    assert!(scratch.control.ledger.certificates(None, None, 10).await.unwrap().certificates.is_empty());
    assert!(scratch.control.audit.list(&Default::default(), None, 10).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn nothing_outlives_the_authority() {
    let scratch = scratch().await;
    let end = scratch.control.authority.issuing().validity().not_after();
    scratch.clock.advance(end.since(scratch.clock.now()).saturating_sub(Duration::from_secs(600)));
    let hour = Duration::from_secs(3_600);
    let issued = scratch.control.issuer.issue(order(&scratch, hour), |_, _| Ok(Commit::new())).await.unwrap();
    assert!(issued.svid.validity().not_after() <= end);
    scratch.clock.advance(Duration::from_secs(700));
    let late = scratch.control.issuer.issue(order(&scratch, hour), |_, _| Ok(Commit::new())).await;
    assert!(matches!(late, Err(IssuanceError::AuthorityNotValid)));
}

#[tokio::test]
async fn expired_records_are_forgotten_and_pages_go_on() {
    let scratch = scratch().await;
    for _ in 0..5 {
        let minute = Duration::from_secs(60);
        scratch.control.issuer.issue(order(&scratch, minute), |_, _| Ok(Commit::new())).await.unwrap();
        scratch.clock.advance(Duration::from_secs(1));
    }
    let ledger = &scratch.control.ledger;
    let first = ledger.certificates(None, None, 2).await.unwrap();
    let second = ledger.certificates(None, first.next.as_deref(), 10).await.unwrap();
    assert_eq!((first.certificates.len(), second.certificates.len()), (2, 3));
    assert!(first.certificates[0].1.issued_at > second.certificates[0].1.issued_at);
    assert_eq!(ledger.prune(scratch.clock.now()).await.unwrap(), 0);
    scratch.clock.advance(Duration::from_secs(3_600 + 120));
    assert_eq!(ledger.prune(scratch.clock.now()).await.unwrap(), 5);
    assert!(ledger.certificates(None, None, 10).await.unwrap().certificates.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_flushes() {
    let scratch = std::sync::Arc::new(scratch().await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let scratch = std::sync::Arc::clone(&scratch);
        tasks.spawn(async move {
            let minute = Duration::from_secs(60);
            scratch.control.issuer.issue(order(&scratch, minute), |_, _| Ok(Commit::new())).await.unwrap()
        });
    }
    let mut serials: Vec<_> = tasks.join_all().await.iter().map(|issued| issued.svid.serial()).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 200);
}

#[tokio::test]
async fn one_call_looks_at_a_bounded_number_of_certificates() {
    let scratch = scratch().await;
    let now = scratch.clock.now();
    let issued =
        scratch.control.issuer.issue(order(&scratch, Duration::from_secs(60)), |_, _| Ok(Commit::new()));
    let id = scratch.peer(&issued.await.unwrap().svid).id().to_string();
    let ledger = &scratch.control.ledger;
    let record = ledger.certificates(None, None, 1).await.unwrap().certificates.remove(0).1;
    let other = IssuedRecord { spiffe_id: "spiffe://shop.local/mesh/shop/node/other".into(), ..record };
    for chunk in 0..12 {
        let mut commit = Commit::new();
        for index in 0..1_000 {
            let serial = format!("{:040x}", chunk * 1_000 + index);
            let key = format!("{}{serial}", keys::ISSUED);
            let bytes = crate::registry::document::to_bytes(&key, &other).unwrap();
            commit =
                commit.put(key, bytes).put(keys::issued_order(now.plus(Duration::from_secs(1)), &serial), "");
        }
        scratch.control.store.commit(commit).await.unwrap();
    }
    let first = ledger.certificates(Some(&id), None, 10).await.unwrap();
    assert!(first.certificates.is_empty());
    let second = ledger.certificates(Some(&id), first.next.as_deref(), 10).await.unwrap();
    assert_eq!((second.certificates.len(), second.next), (1, None));
}
