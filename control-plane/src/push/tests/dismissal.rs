//! Whoever is sent away: known to have obeyed after a restart, and one at a time.

use tokio::time::Instant;

use super::*;
use crate::issuance::InstanceRecord;
use crate::registry::{Commit, document, keys};

impl World {
    /// What joining leaves in the registry.
    async fn record(&self, number: u8) {
        let key = format!("{}{}", keys::INSTANCES, instance(number));
        let record = InstanceRecord {
            spiffe_id: node_id("orders").to_string(),
            mesh: "shop".to_owned(),
            node: "orders".to_owned(),
            node_uid: Some(FIRST.to_owned()),
            serial: Serial::from_random([number; 16]).to_string(),
            issued_at: NOW.0,
            not_after: NOW.plus(Duration::from_secs(3_600)).0,
            enrolled_at: NOW.0,
            version: String::new(),
            hostname: String::new(),
            token: None,
            joined_from: None,
            dismissed_at: None,
            evidence: None,
        };
        let bytes = document::to_bytes(&key, &record).unwrap();
        self.store.commit(Commit::new().put(key, bytes)).await.unwrap();
    }

    async fn version_of_record(&self, number: u8) -> crate::registry::Version {
        self.store.get(&format!("{}{}", keys::INSTANCES, instance(number))).await.unwrap().unwrap().version
    }
}

// On the real clock: the paused one would run while the disk is written.
#[tokio::test]
async fn who_has_obeyed_is_not_named_after_a_restart_and_who_has_not_is() {
    let world = World::new().await;
    for number in [1, 2] {
        world.record(number).await;
    }
    world.publish(2, &[("web", 1)], &[], &[]);
    let obey = async |world: &World| {
        let mut agent = world.connect("orders", 1);
        agent.hello().await;
        assert_eq!(agent.next().await, "node gone 2");
        agent.acknowledge(2, "").await;
        assert_eq!(agent.ending().await, Code::NotFound);
    };
    obey(&world).await;
    let written = world.version_of_record(1).await;
    obey(&world).await;
    assert_eq!(world.version_of_record(1).await, written, "once is enough");

    let world = world.restart().await;
    let rollout = world.rollout(2);
    let named: Vec<_> =
        rollout.laggards.iter().map(|laggard| (laggard.instance, laggard.lag.clone())).collect();
    assert_eq!((rollout.concerned, named), (2, vec![(instance(2), Lag::NotDismissed)]));
}

#[tokio::test]
async fn obedience_that_cannot_be_written_does_not_count() {
    let world = World::new().await;
    world.record(1).await;
    world.publish(2, &[("web", 1)], &[], &[]);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    assert_eq!(agent.next().await, "node gone 2");
    world.store.close().await;
    agent.acknowledge(2, "").await;
    assert_eq!(agent.ending().await, Code::NotFound);
    assert_eq!(world.lag(2).await, Some(Lag::NotDismissed));
}

#[tokio::test(start_paused = true)]
async fn an_instance_has_one_stream_that_is_sent_away() {
    let world = World::new().await;
    world.publish(2, &[("web", 1)], &[], &[]);
    let mut other = world.connect("orders", 9);
    other.hello().await;
    assert_eq!(other.next().await, "node gone 2");
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut agent = world.connect("orders", 1);
        agent.hello().await;
        assert_eq!(agent.next().await, "node gone 2");
        streams.push(agent);
    }
    let mut last = streams.pop().unwrap();
    let begun = Instant::now();
    for mut former in streams {
        assert_eq!(former.ending().await, Code::NotFound);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    last.acknowledge(2, "").await;
    assert_eq!(last.ending().await, Code::NotFound);
    other.acknowledge(2, "").await;
    assert_eq!(other.ending().await, Code::NotFound, "another instance's is its own");
    assert!(world.rollout(2).is_done());
}

#[tokio::test(start_paused = true)]
async fn an_instance_has_one_stream_that_has_not_said_hello() {
    let world = World::new().await;
    let mut streams: Vec<_> = (0..5).map(|_| world.connect("orders", 1)).collect();
    let mut last = streams.pop().unwrap();
    let begun = Instant::now();
    for mut former in streams {
        assert_eq!(former.ending().await, Code::Aborted);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    last.hello().await;
    last.until_current(1).await;
    // A session is ended by the next Hello, not by a stream that may never say it.
    let mut silent = world.connect("orders", 1);
    assert_eq!(silent.ending().await, Code::DeadlineExceeded);
    world.publish(2, &[("orders", 2)], &[], &[]);
    assert_eq!(last.until_current(2).await, ["node 2"]);
}
