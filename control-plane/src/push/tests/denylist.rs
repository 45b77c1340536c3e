//! Who is refused: told first, told at once, waited for; and whoever is meant is sent away.

use std::collections::HashSet;
use std::sync::LazyLock;

use hauberk_tls::signing::ViewSigner;

use super::*;
use crate::instances::Recorded;
use crate::revocation::{Certificate, Listed, Mark};

static SIGNER: LazyLock<ViewSigner> = LazyLock::new(|| ViewSigner::generate().unwrap());

/// A list of these instances' certificates.
fn denylist(revision: u64, instances: &[u8]) -> Arc<Denylist> {
    let revoked = Certificate { not_after: NOW.plus(Duration::from_secs(3_600)), at: NOW, issuer: None };
    let serials = instances.iter().map(|number| (Serial::from_random([*number; 16]), revoked));
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let mark = Mark { epoch: EPOCH, revision };
    let listed = Listed { serials: serials.collect(), ..Listed::default() };
    Arc::new(Denylist::new(mark, &trust_domain, listed, &SIGNER).unwrap())
}

impl World {
    /// As the control plane does it.
    fn deny(&self, list: &Arc<Denylist>) {
        self.push.instances.deny(Arc::clone(list));
        self.denylist.send_replace(Arc::clone(list));
    }

    /// An instance was issued a certificate, with this serial number and for so many minutes.
    fn recorded(&self, number: u8, serial: u8, minutes: u64) {
        let not_after = NOW.plus(Duration::from_secs(60 * minutes));
        self.push.instances.recorded(Recorded {
            spiffe_id: node_id("orders"),
            instance: instance(number),
            node_uid: Some(FIRST.to_owned()),
            token: None,
            certificate: IssuedTo {
                serial: Serial::from_random([serial; 16]),
                issued_at: Some(NOW),
                not_after,
            },
            is_dismissed: false,
        });
    }
}

impl Agent {
    async fn acknowledge_denylist(&self, revision: u64) {
        let message = agent::AcknowledgeDenylist { epoch: EPOCH, revision };
        self.send(from_agent::Message::AcknowledgeDenylist(message)).await;
    }
}

fn holding(revision: u64) -> agent::Hello {
    let key_id = SIGNER.key_id().to_owned();
    agent::Hello {
        denylist: Some(agent::HeldDenylist { epoch: EPOCH, revision, key_id: key_id.clone() }),
        view_key_ids: vec![key_id],
        ..hello()
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_before_everything_and_is_waited_for() {
    let world = World::new().await;
    world.deny(&denylist(2, &[9]));
    world.publish(2, &[("orders", 1)], &[], &[]);
    let mut agent = world.connect("orders", 1);
    agent.say(holding(0)).await;
    assert_eq!(agent.until_current(2).await, ["denylist", "trust", "node 1"]);
    agent.acknowledge(1, "").await;
    assert_eq!(world.lag(2).await, Some(Lag::NotAcknowledged));
    assert_eq!(world.lag(1).await, Some(Lag::NotAcknowledged), "it is not known to hold any list");
    agent.acknowledge_denylist(3).await;
    assert_eq!(world.lag(2).await, Some(Lag::NotAcknowledged), "no such list was pushed");
    agent.acknowledge_denylist(2).await;
    assert_eq!(world.lag(2).await, None);

    world.deny(&denylist(3, &[9, 8]));
    assert_eq!(agent.next().await, "denylist", "at once");
    assert_eq!(world.lag(2).await, None, "what it holds is what there was by then");
    world.publish(3, &[("orders", 1)], &[], &[]);
    assert_eq!(world.lag(3).await, Some(Lag::NotAcknowledged));
    agent.acknowledge_denylist(3).await;
    assert_eq!(world.lag(3).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_holds_is_not_pushed_again_and_what_it_has_lost_is() {
    let world = World::new().await;
    world.deny(&denylist(1, &[9]));
    let mut agent = world.connect("orders", 1);
    agent.say(holding(1)).await;
    assert_eq!(agent.until_current(1).await, ["trust", "node 1"]);
    let mut older = world.connect("orders", 2);
    older.hello().await;
    assert_eq!(
        older.until_current(1).await,
        ["trust", "denylist", "node 1"],
        "it does not say which keys it knows"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoked_instance_is_told_and_sent_away() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.say(holding(0)).await;
    agent.until_current(1).await;
    agent.register("10.0.0.1:1", false).await;
    let mut other = world.connect("orders", 2);
    other.say(holding(0)).await;
    other.until_current(1).await;
    world.deny(&denylist(2, &[1]));
    world.publish(2, &[("orders", 1)], &[], &[]);
    assert_eq!([agent.next().await, agent.next().await], ["trust", "denylist"]);
    assert!(world.endpoints().is_empty(), "nobody is sent to it any longer");
    agent.acknowledge_denylist(2).await;
    assert_eq!(agent.ending().await, Code::PermissionDenied);
    world.settle().await;
    assert_eq!(world.rollout(2).concerned, 1, "it does not count any longer");
    assert_eq!(world.lag(2).await, Some(Lag::NotAcknowledged), "the other one does");

    // It comes back and does not obey: the stream ends all the same.
    let mut again = world.connect("orders", 1);
    again.say(holding(2)).await;
    assert_eq!([again.next().await, again.next().await], ["trust", "denylist"]);
    assert_eq!(again.ending().await, Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn one_whose_last_certificate_alone_was_revoked_counts_while_another_is_good() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.say(holding(0)).await;
    agent.until_current(1).await;
    // Its stream goes on by the certificate that it was begun with.
    world.recorded(1, 7, 90);
    world.deny(&denylist(2, &[7]));
    world.publish(2, &[("orders", 1)], &[], &[]);
    assert_eq!(world.lag(2).await, Some(Lag::NotAcknowledged));
    let (instances, now) = (&world.push.instances, world.clock.now());
    let trusting = instances.trusting(now);
    assert_eq!((trusting.len(), trusting[0].serial), (1, Serial::from_random([1; 16])));
    assert_eq!(instances.missing_features(&node_id("orders"), &["new"], now), Some(instance(1)));
    let report = &instances.reports(|_| true)[0];
    assert_eq!((report.denial, report.certificate.serial), (None, Serial::from_random([1; 16])));
    agent.acknowledge_denylist(2).await;
    agent.acknowledge(1, "").await;
    assert_eq!(world.lag(2).await, None);
    assert_eq!(world.rollout(2).concerned, 1);

    drop(agent);
    world.publish(3, &[("orders", 3)], &[], &[]);
    assert_eq!(world.lag(3).await, Some(Lag::NotConnected), "its certificate is good all the same");
    assert_eq!(world.rollout(3).laggards[0].certificate_not_after, NOW.plus(Duration::from_secs(3_600)));
    world.deny(&denylist(3, &[7, 1]));
    assert_eq!(world.rollout(3).concerned, 0);
}

#[tokio::test(start_paused = true)]
async fn who_obeys_by_the_last_certificate_is_not_waited_for_and_who_does_by_another_is() {
    let world = World::new().await;
    world.recorded(1, 6, 30);
    let (mut first, mut second) = (world.connect("orders", 1), world.connect("orders", 2));
    for agent in [&mut first, &mut second] {
        agent.say(holding(0)).await;
        agent.until_current(1).await;
    }
    world.recorded(2, 8, 90);
    world.deny(&denylist(2, &[1, 2]));
    assert_eq!(world.rollout(1).concerned, 2, "both hold another");
    for agent in [&mut first, &mut second] {
        assert_eq!([agent.next().await, agent.next().await], ["trust", "denylist"]);
        agent.acknowledge_denylist(2).await;
        assert_eq!(agent.ending().await, Code::PermissionDenied);
    }
    world.settle().await;
    let rollout = world.rollout(1);
    assert_eq!((rollout.concerned, rollout.laggards[0].instance), (1, instance(2)));
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_whom_to_believe_before_what_they_have_signed() {
    let world = World::new().await;
    world.trust.send_modify(|trust| Arc::make_mut(trust).view_keys = believed());
    world.deny(&denylist(2, &[1]));
    // It was away while one key followed another, and was revoked meanwhile.
    let former = "0".repeat(64);
    let held = agent::HeldDenylist { epoch: EPOCH, revision: 1, key_id: former.clone() };
    let was_away = agent::Hello { denylist: Some(held), view_key_ids: vec![former], ..hello() };
    let mut agent = world.connect("orders", 1);
    agent.say(was_away).await;
    assert_eq!([agent.next().await, agent.next().await], ["trust", "denylist"]);
    agent.acknowledge_denylist(2).await;
    assert_eq!(agent.ending().await, Code::PermissionDenied);

    // One that is connected when both happen, whichever its session sees first.
    world.publish(2, &[("orders", 1)], &[], &[]);
    let mut present = Vec::new();
    for number in 10..26 {
        let mut agent = world.connect("orders", number);
        agent.say(holding(2)).await;
        agent.until_current(2).await;
        present.push(agent);
    }
    let next = ViewSigner::generate().unwrap();
    let numbers: Vec<u8> = (10..26).collect();
    let mut list = Denylist::clone(&denylist(3, &numbers));
    list.signed.key_id = next.key_id().to_owned();
    world.trust.send_modify(|trust| {
        let key_id = next.key_id().to_owned();
        Arc::make_mut(trust).view_keys.push(agent::ViewKey { key_id, public_key: Vec::new() });
    });
    world.deny(&Arc::new(list));
    for mut agent in present {
        let mut told = vec![agent.next().await];
        while told.last().is_some_and(|last| last == "trust") {
            told.push(agent.next().await);
        }
        assert!(told.len() > 1 && told.last().is_some_and(|last| last == "denylist"), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_instance_has_no_stream_where_the_list_has_no_room_for_its_certificate() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.say(holding(0)).await;
    agent.until_current(1).await;
    let mark = Mark { epoch: EPOCH, revision: 2 };
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let listed = Listed { instances: HashSet::from([instance(1)]), ..Listed::default() };
    let list = Denylist::new(mark, &trust_domain, listed, &SIGNER);
    world.deny(&Arc::new(list.unwrap()));
    assert_eq!(agent.ending().await, Code::PermissionDenied);
    world.settle().await;
    world.publish(2, &[("orders", 1)], &[], &[]);
    assert_eq!(
        world.lag(2).await,
        Some(Lag::NotConnected),
        "others believe it, and it does not deny everything"
    );
    let mut other = world.connect("orders", 2);
    other.say(holding(0)).await;
    assert_eq!(other.next().await, "denylist");
}

#[tokio::test(start_paused = true)]
async fn who_knows_serial_numbers_alone_is_late_while_instances_stand_for_certificates() {
    let world = World::new().await;
    let mark = Mark { epoch: EPOCH, revision: 2 };
    let (trust_domain, until) =
        (TrustDomain::parse("shop.local").unwrap(), NOW.plus(Duration::from_secs(60)));
    let instances = HashSet::from([instance(9)]);
    let listed = Listed { instances, unlisted_until: until, ..Listed::default() };
    let list = Denylist::new(mark, &trust_domain, listed, &ViewSigner::generate().unwrap());
    world.deny(&Arc::new(list.unwrap()));
    world.publish(2, &[("orders", 1)], &[], &[]);
    let features = hauberk_proto::convert::features::ALL.map(str::to_owned).to_vec();
    let mut agents = Vec::new();
    for (number, features) in [(1, vec!["cedar-1".to_owned()]), (2, features)] {
        let mut agent = world.connect("orders", number);
        agent.say(agent::Hello { features, ..holding(2) }).await;
        agent.until_current(2).await;
        agent.acknowledge(1, "").await;
        world.settle().await;
        let laggards = world.rollout(2).laggards.into_iter().map(|late| (late.instance, late.lag));
        assert_eq!(laggards.collect::<Vec<_>>(), [(instance(1), Lag::KnowsNoInstances { until })]);
        agents.push(agent);
    }
    world.clock.advance(Duration::from_secs(61));
    assert!(world.rollout(2).is_done(), "what it does not refuse has expired");
}

#[tokio::test(start_paused = true)]
async fn where_another_key_signs_word_of_it_goes_before_what_it_has_signed() {
    let world = World::new().await;
    world.deny(&denylist(1, &[9]));
    world.trust.send_modify(|trust| Arc::make_mut(trust).view_keys = believed());
    // It was away while one key followed another.
    let former = "0".repeat(64);
    let held = agent::HeldDenylist { epoch: EPOCH, revision: 1, key_id: former.clone() };
    let was_away = agent::Hello { denylist: Some(held), view_key_ids: vec![former], ..hello() };
    let mut agent = world.connect("orders", 1);
    agent.say(was_away).await;
    assert_eq!(
        agent.until_current(1).await,
        ["trust", "denylist", "node 1"],
        "the same list, by another key"
    );

    // One that is connected when it happens.
    let mut present = world.connect("orders", 2);
    present.say(holding(1)).await;
    assert_eq!(present.until_current(1).await, ["trust", "node 1"]);
    let next = ViewSigner::generate().unwrap();
    let mut again = Denylist::clone(&world.denylist.borrow());
    again.signed.key_id = next.key_id().to_owned();
    world.trust.send_modify(|trust| {
        let key_id = next.key_id().to_owned();
        Arc::make_mut(trust).view_keys.push(agent::ViewKey { key_id, public_key: Vec::new() });
    });
    world.deny(&Arc::new(again));
    world.amend(|compilation| {
        for view in compilation.nodes.values_mut() {
            Arc::make_mut(view).signed.key_id = "orders 1 again".to_owned();
        }
        compilation.revision = 2;
    });
    assert_eq!(present.until_current(2).await, ["trust", "denylist", "node 1 again"]);
}

fn believed() -> Vec<agent::ViewKey> {
    vec![agent::ViewKey { key_id: SIGNER.key_id().to_owned(), public_key: Vec::new() }]
}

#[tokio::test(start_paused = true)]
async fn only_whoever_waits_for_what_was_revoked_waits_for_a_list_that_cannot_be_made() {
    let world = World::new().await;
    world.deny(&denylist(2, &[9]));
    world.publish(3, &[("orders", 1)], &[], &[]);
    let mut agent = world.connect("orders", 1);
    agent.say(holding(2)).await;
    agent.until_current(3).await;
    agent.acknowledge(1, "").await;
    world.settle().await;
    let (instances, compilation) = (&world.push.instances, Arc::clone(&world.compilation.borrow()));
    instances.expect_denylist(3);
    assert_eq!(world.lag(3).await, Some(Lag::NoDenylist));
    let rollout = world.rollout(2);
    assert!(rollout.is_done(), "all that was revoked by then is on the list: {rollout:?}");
    assert!(!instances.is_late(&instance(1), &compilation, 2, world.clock.now()));
    let mesh = Name::parse("shop").unwrap();
    assert_eq!(instances.without_views_of(&compilation, 2, &mesh, world.clock.now()), []);
    assert_eq!(
        instances.without_views_of(&compilation, 3, &mesh, world.clock.now()),
        [],
        "of keys, not of revocations"
    );
}
