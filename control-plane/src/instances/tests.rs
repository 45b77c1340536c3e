use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::registry::SledStore;
use crate::revocation::Target;
use crate::testing::{Busy, actor, joined, request, scratch};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn node(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{name}")).unwrap()
}

fn instance(number: u8) -> InstanceId {
    InstanceId::from_random([number; 8])
}

fn certificate(number: u8, minutes: u64) -> IssuedTo {
    let not_after = NOW.plus(Duration::from_secs(60 * minutes));
    IssuedTo { serial: Serial::from_random([number; 16]), issued_at: Some(NOW), not_after }
}

fn recorded(spiffe_id: SpiffeId, number: u8, certificate: IssuedTo) -> Recorded {
    let instance = instance(number);
    Recorded { spiffe_id, instance, node_uid: None, token: None, certificate, is_dismissed: false }
}

fn connect(instances: &Arc<Instances>, number: u8, features: &[&str]) -> Connected {
    let peer = Peer::new(node("orders"), instance(number), None, certificate(number, 60), None).unwrap();
    let features = features.iter().map(|feature| (*feature).to_owned()).collect();
    let hello = HelloFacts { features, ..HelloFacts::default() };
    instances.connect(&peer, hello, Enforcement::default(), None, mpsc::channel(1).0, NOW)
}

#[test]
fn the_certificate_that_ends_last_counts() {
    let instances = Instances::default();
    for minutes in [60, 90, 30] {
        instances.recorded(recorded(node("orders"), 1, certificate(1, minutes)));
    }
    assert_eq!(instances.reports(|_| true)[0].certificate, certificate(1, 90));
    let admin = SpiffeId::parse("spiffe://shop.local/admin/a").unwrap();
    instances.recorded(recorded(admin, 2, certificate(2, 1)));
    assert_eq!(instances.reports(|_| true).len(), 1, "admins are no instances");
}

#[tokio::test]
async fn what_was_issued_before_is_known_after_a_restart_too() {
    let scratch = scratch().await;
    let control = &scratch.control;
    let first = joined(&scratch).await;
    scratch.clock.advance(Duration::from_secs(60));
    let renewed = control.enrollment.renew(&first, &request().1, "10.0.0.7:4").await.unwrap();
    let last = Target::Serial(scratch.peer(&renewed.issued.svid).serial());
    let instances = Instances::default();
    instances.load(&*control.store).await.unwrap();
    control.revocations.revoke(&last, &actor()).await.unwrap();
    instances.deny(control.revocations.denylist());
    let live = instances.trusting(scratch.clock.now());
    assert_eq!((live.len(), live[0].serial), (1, first.serial()));
    control.revocations.revoke(&Target::Serial(first.serial()), &actor()).await.unwrap();
    instances.deny(control.revocations.denylist());
    assert!(instances.trusting(scratch.clock.now()).is_empty());
}

#[test]
fn whoever_expired_over_an_hour_ago_is_forgotten() {
    let instances = Arc::new(Instances::default());
    instances.recorded(recorded(node("orders"), 1, certificate(1, 60)));
    let connected = connect(&instances, 2, &[]);
    instances.prune(NOW.plus(Duration::from_secs(2 * 3_600)));
    assert_eq!(instances.reports(|_| true).len(), 2);
    instances.prune(NOW.plus(Duration::from_secs(2 * 3_600 + 1)));
    assert_eq!(instances.reports(|_| true)[0].id, instance(2), "it is connected");
    drop(connected);
    instances.prune(NOW.plus(Duration::from_secs(2 * 3_600 + 1)));
    assert!(instances.reports(|_| true).is_empty());
    assert_eq!(instances.node_of(instance(2)), None);
}

#[test]
fn a_live_instance_that_lacks_a_feature_is_named() {
    let instances = Arc::new(Instances::default());
    let wanted = ["roles", "tokens"];
    let _able = connect(&instances, 1, &["roles", "tokens", "more"]);
    assert_eq!(instances.missing_features(&node("orders"), &wanted, NOW), None);
    let unable = connect(&instances, 2, &["roles"]);
    drop(unable);
    assert_eq!(instances.missing_features(&node("orders"), &wanted, NOW), Some(instance(2)));
    assert_eq!(instances.missing_features(&node("web"), &wanted, NOW), None);
    let later = NOW.plus(Duration::from_secs(3_601));
    assert_eq!(instances.missing_features(&node("orders"), &wanted, later), None, "it is not live any more");
}

#[test]
fn a_superseded_stream_changes_nothing_any_more() {
    let instances = Arc::new(Instances::default());
    let older = connect(&instances, 1, &[]);
    let newer = connect(&instances, 1, &[]);
    assert!(older.superseded().is_cancelled() && !newer.superseded().is_cancelled());
    assert!(!older.end());
    drop(older);
    assert_eq!(instances.connected(), 1);
    assert!(newer.end() && !newer.end());
    assert_eq!(instances.connected(), 0);
}

#[test]
fn live_instances_are_counted_by_the_token_that_they_joined_by() {
    let instances = Instances::default();
    for (number, token) in [(1, "one"), (2, "one"), (3, "two")] {
        let recorded = recorded(node("orders"), number, certificate(number, 60 * u64::from(number)));
        instances.recorded(Recorded { token: Some(token.to_owned()), ..recorded });
    }
    let count = |now| instances.live_by_token(now).into_iter().collect::<BTreeMap<_, _>>();
    assert_eq!(count(NOW), BTreeMap::from([("one".to_owned(), 2), ("two".to_owned(), 1)]));
    let later = NOW.plus(Duration::from_secs(2 * 3_600 - 1));
    assert_eq!(count(later), BTreeMap::from([("one".to_owned(), 1), ("two".to_owned(), 1)]));
}

#[tokio::test]
async fn an_agent_that_acknowledges_without_end_keeps_no_round_of_writing_from_its_end() {
    let instances = Arc::new(Instances::default());
    let directory = tempfile::tempdir().unwrap();
    let store = Busy::new(SledStore::create(&directory.path().join("store")).unwrap());
    let (connected, commits) = (Arc::new(connect(&instances, 1, &[])), Arc::new(AtomicU64::new(0)));
    connected.trusts(1);
    let (agent, counted) = (Arc::clone(&connected), Arc::clone(&commits));
    store.at_each_commit(move || {
        let commits = counted.fetch_add(1, Ordering::Relaxed) + 1;
        // It gives up some time, so that what waits for it fails and does not hang.
        if commits < 100 {
            agent.trusts(1 + commits);
        }
    });
    let stopped = CancellationToken::new();
    stopped.cancel();
    instances.write_trust(&*store, 0, &stopped).await;
    assert_eq!(commits.load(Ordering::Relaxed), 1);
    connected.trusts(1);
    assert_eq!(instances.trusting(NOW)[0].version, 2, "a stream does not go back behind what it has said");
}
