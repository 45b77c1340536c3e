//! Sessions over in-memory streams, on paused time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hauberk_identity::{InstanceId, Name, Serial, SpiffeId, TrustDomain, UnixMillis};
use hauberk_proto::agent::v1::{from_agent, to_agent::Message};
use hauberk_tls::{PeerIdentity, TrustBundle};
use tokio::time::{advance, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::bulkhead::{Bulkhead, MOST_DRAFTS_OF_ONE};
use crate::compile::CompiledView;
use crate::flows::Filter;
use crate::instances::{IssuedTo, Lag};
use crate::registry::SledStore;
use crate::resources::Kind;
use crate::revocation::crl::RevocationLists;
use crate::testing::Busy;

mod denylist;
mod dismissal;
mod standing;
mod trust;

const EPOCH: u64 = 1_700_000_000_000;
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// The uid of the nodes there are.
const FIRST: &str = "first";

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_cut_after_ten_seconds() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    assert_eq!(agent.ending().await, Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_first_message_is_hello_and_the_only_one() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.send(from_agent::Message::Subscribe(agent::Subscribe::default())).await;
    assert_eq!(agent.ending().await, Code::InvalidArgument);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.hello().await;
    assert_eq!(agent.ending().await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn only_what_has_changed_is_pushed() {
    let world = World::new().await;
    world.publish(1, &[("orders", 1)], &[("payments", 1)], &["payments"]);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    assert_eq!(agent.until_current(1).await, ["trust", "node 1", "payments 1", "endpoints 0"]);
    world.publish(2, &[("orders", 1)], &[("payments", 1)], &["payments"]);
    world.settle().await;
    assert!(agent.down.try_recv().is_err(), "what does not concern it is not told");
    world.publish(3, &[("orders", 1)], &[("payments", 3)], &["payments"]);
    assert_eq!(agent.until_current(3).await, ["payments 3"]);
}

#[tokio::test(start_paused = true)]
async fn trust_is_told_at_each_change_and_acknowledged() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    assert_eq!(agent.until_current(1).await, ["trust", "node 1"]);
    world.trust.send_modify(|trust| Arc::make_mut(trust).version = 2);
    assert_eq!(agent.next().await, "trust");
    let in_force = |version| from_agent::Message::TrustInForce(agent::TrustInForce { version });
    // What there is not yet, nobody has in force.
    agent.send(in_force(3)).await;
    agent.send(in_force(2)).await;
    world.until(|world| world.push.instances.trusting(NOW)[0].version == 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_has_keys_looked_for_of_issuers_of_its_own_mesh_alone() {
    let mut world = World::new().await;
    let agent = world.connect("orders", 1);
    agent.hello().await;
    for issuer in ["login", "../bank/login", "", "other"] {
        agent.send(from_agent::Message::UnknownKey(agent::UnknownKey { issuer: issuer.to_owned() })).await;
    }
    for issuer in ["login", "other"] {
        let told = world.next_unknown_key().await;
        assert_eq!((told.kind, told.mesh.as_str(), told.name.as_str()), (Kind::JwtIssuer, "shop", issuer));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_tells_of_one_issuer_without_end_is_heard_once_in_a_while() {
    let mut world = World::new().await;
    let agent = world.connect("orders", 1);
    agent.hello().await;
    let tell = async |issuer: &str| {
        agent.send(from_agent::Message::UnknownKey(agent::UnknownKey { issuer: issuer.to_owned() })).await;
    };
    for _ in 0..20 {
        tell("login").await;
    }
    tell("other").await;
    assert_eq!(world.next_unknown_key().await.name.as_str(), "login");
    assert_eq!(world.next_unknown_key().await.name.as_str(), "other");
    advance(Duration::from_secs(30)).await;
    tell("login").await;
    assert_eq!(world.next_unknown_key().await.name.as_str(), "login");
}

#[tokio::test(start_paused = true)]
async fn workloads_are_told_whole_and_at_each_change() {
    let world = World::new().await;
    world.enroll(2, "orders", &["worker"]);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    assert_eq!(agent.until_current(2).await, ["trust", "workloads worker", "node 1"]);
    world.enroll(3, "orders", &["other", "worker"]);
    assert_eq!(agent.until_current(3).await, ["workloads other worker"]);
    world.enroll(4, "payments", &["another"]);
    world.settle().await;
    assert!(agent.down.try_recv().is_err(), "another node's are not its concern");
    world.enroll(5, "orders", &[]);
    assert_eq!(agent.until_current(5).await, ["workloads "]);
}

#[tokio::test(start_paused = true)]
async fn who_serves_a_workload_api_is_told_what_that_takes_before_workloads() {
    let world = World::new().await;
    world.enroll(2, "orders", &["worker"]);
    let serving = agent::Hello { serves_workload_api: true, ..hello() };
    let mut agent = world.connect("orders", 1);
    agent.say(serving.clone()).await;
    assert_eq!(agent.until_current(2).await, ["jwt keys", "trust", "workloads worker", "node 1"]);
    world.publish_lists(&[b"123", b"45"]);
    assert_eq!(agent.next().await, "revocation lists 3 2");
    world.signing_keys.send_modify(|_| {});
    assert_eq!(agent.next().await, "jwt keys");

    let mut other = world.connect("orders", 2);
    other.say(serving).await;
    let told = other.until_current(2).await;
    assert_eq!(told, ["jwt keys", "trust", "revocation lists 3 2", "workloads worker", "node 1"]);
    // Who acknowledges a version of trust has the keys that it counts, in whichever order their changes are noticed.
    for version in 2..10 {
        world.signing_keys.send_modify(|_| {});
        world.trust.send_modify(|trust| Arc::make_mut(trust).version = version);
        assert_eq!([other.next().await, other.next().await], ["jwt keys", "trust"]);
    }
    let mut bare = world.connect("orders", 3);
    bare.hello().await;
    assert_eq!(bare.until_current(2).await, ["trust", "workloads worker", "node 1"]);
    world.publish_lists(&[b"1234"]);
    world.publish(3, &[("orders", 3)], &[], &[]);
    assert_eq!(bare.until_current(3).await, ["node 3"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_holds_is_not_pushed_again() {
    let world = World::new().await;
    world.publish(7, &[("orders", 5)], &[("payments", 6)], &["payments"]);
    let mut agent = world.connect("orders", 1);
    let held = |revision| {
        Some(agent::Held {
            epoch: EPOCH,
            revision,
            digest: digest(revision).to_vec(),
            ..agent::Held::default()
        })
    };
    let services = vec![agent::HeldService { name: "payments".into(), held: held(6) }];
    agent.say(agent::Hello { held: held(5), services, ..hello() }).await;
    assert_eq!(agent.until_current(7).await, ["trust", "endpoints 0"]);
    assert!(world.rollout(7).is_done(), "what it holds is what is wanted");
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_enforced_once_every_view_is_acknowledged() {
    let world = World::new().await;
    world.publish(1, &[("orders", 1)], &[("payments", 1)], &["payments"]);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    assert_eq!(world.lag(1).await, Some(Lag::NotAcknowledged));
    agent.acknowledge(1, "").await;
    agent.acknowledge(9, "").await;
    assert_eq!(world.lag(1).await, Some(Lag::NotAcknowledged), "the service's view is not in force");
    agent.acknowledge(1, "payments").await;
    assert_eq!(world.lag(1).await, None);
    assert_eq!(world.lag(2).await, Some(Lag::NotCompiled), "nobody enforces what is to come");
    drop(agent);
    world.until(|world| world.push.instances.connected() == 0).await;
    world.publish(2, &[("orders", 1)], &[("payments", 1)], &["payments"]);
    assert_eq!(world.lag(2).await, None, "its view does not change by revision 2");
    world.publish(3, &[("orders", 3)], &[("payments", 1)], &["payments"]);
    assert_eq!(world.lag(3).await, Some(Lag::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_decisions_is_left_out_and_a_message_full_of_them_ends_the_stream() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    let mut observation = world.push.flows.observe(Filter::default()).unwrap();
    let many = |count| {
        let node = node_id("orders").to_string();
        let decisions = vec![agent::Decision { node, ..agent::Decision::default() }; count];
        from_agent::Message::Decisions(agent::Decisions { decisions, dropped: 0 })
    };
    let mut seen = async |agent: &Agent| {
        agent.send(many(256)).await;
        let response = observation.next().await.unwrap();
        (response.decisions.len(), response.dropped)
    };
    for _ in 0..8 {
        assert_eq!(seen(&agent).await, (256, 0));
    }
    // Left out; the next batch says so.
    agent.send(many(256)).await;
    world.settle().await;
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(seen(&agent).await, (256, 256));
    assert_eq!(seen(&agent).await, (244, 12));
    agent.send(many(257)).await;
    assert_eq!(agent.ending().await, Code::InvalidArgument);
}

#[tokio::test]
async fn what_an_older_stream_registers_comes_too_late() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(&directory.path().join("store")).unwrap();
    let endpoints = Endpoints::load(&store).await.unwrap();
    let (id, instance) = (node_id("orders"), InstanceId::from_random([1; 8]));
    let registration = |address: &str| {
        let ports = vec![agent::Registration { listener_port: 80, address: address.into(), healthy: true }];
        Registration::parse(&agent::Register { ports, draining: false }).unwrap()
    };
    endpoints.register(&id, instance, 2, registration("10.0.0.2:80"));
    endpoints.register(&id, instance, 1, registration("10.0.0.1:80"));
    assert_eq!(endpoints.registration(&id, instance), Some(registration("10.0.0.2:80")));
}

#[tokio::test]
async fn an_agent_that_registers_without_end_keeps_no_round_of_writing_from_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = Busy::new(SledStore::create(&directory.path().join("store")).unwrap());
    let endpoints = Arc::new(Endpoints::load(&*store).await.unwrap());
    let registered = |endpoints: &Endpoints, port: u32| {
        let address = format!("10.0.0.2:{port}");
        let ports = vec![agent::Registration { listener_port: 80, address, healthy: true }];
        let registration = Registration::parse(&agent::Register { ports, draining: false }).unwrap();
        endpoints.register(&node_id("orders"), instance(1), 1, registration);
    };
    registered(&endpoints, 1);
    let commits = Arc::new(AtomicU32::new(0));
    let (agent, counted) = (Arc::clone(&endpoints), Arc::clone(&commits));
    store.at_each_commit(move || {
        let commits = counted.fetch_add(1, Ordering::Relaxed) + 1;
        // It gives up some time, so that what waits for it fails and does not hang.
        if commits < 100 {
            registered(&agent, 1 + commits);
        }
    });
    let stopped = CancellationToken::new();
    stopped.cancel();
    endpoints.run(&*store, &stopped).await;
    assert_eq!(commits.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_until_a_later_view_is_taken() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    agent
        .send(from_agent::Message::Refuse(agent::Refuse {
            epoch: EPOCH,
            revision: 1,
            reason: "missing_feature".into(),
            detail: "does not know \u{1b}[31mroles".into(),
            ..agent::Refuse::default()
        }))
        .await;
    let lag = world.lag(1).await.unwrap().to_string();
    assert_eq!(lag, "refused revision 1: missing_feature (does not know [31mroles)");
    world.publish(2, &[("orders", 2)], &[], &[]);
    agent.until_current(2).await;
    agent.acknowledge(2, "").await;
    assert_eq!(world.lag(2).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_of_the_same_instance_wins() {
    let world = World::new().await;
    let mut older = world.connect("orders", 1);
    older.hello().await;
    older.until_current(1).await;
    older.register("10.0.0.1:80", false).await;
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
    let mut newer = world.connect("orders", 1);
    newer.hello().await;
    newer.until_current(1).await;
    assert_eq!(older.ending().await, Code::Aborted);
    advance(Duration::from_secs(60)).await;
    world.settle().await;
    assert_eq!(world.endpoints(), ["10.0.0.1:80 confirmed"], "the instance was here all the time");
    drop(newer);
    world.until(|world| world.endpoints() == ["10.0.0.1:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_to_whoever_is_ahead() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.say(agent::Hello { highest_epoch: EPOCH, highest_revision: 2, ..hello() }).await;
    assert_eq!(agent.next().await, "trust");
    assert_eq!(world.lag(1).await, Some(Lag::Ahead { epoch: EPOCH, revision: 2 }));
    world.publish(5, &[("orders", 5)], &[], &[]);
    assert!(timeout(Duration::from_secs(60), agent.down.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn draining_is_published_at_once_and_loss_after_thirty_seconds() {
    let world = World::new().await;
    world.publish(1, &[("web", 1), ("orders", 1)], &[("orders", 1)], &["orders"]);
    let mut web = world.connect("web", 9);
    web.hello().await;
    assert_eq!(web.until_current(1).await, ["trust", "node 1", "orders 1", "endpoints 0"]);
    let first = world.connect("orders", 1);
    first.hello().await;
    first.register("10.0.0.1:80", false).await;
    assert_eq!(web.next().await, "endpoints 10.0.0.1:80 confirmed");
    first.register("10.0.0.1:80", true).await;
    assert_eq!(web.next().await, "endpoints 0");
    first.register("10.0.0.2:80", false).await;
    assert_eq!(web.next().await, "endpoints 10.0.0.2:80 confirmed");
    let lost = tokio::time::Instant::now();
    drop(first);
    assert_eq!(web.next().await, "endpoints 10.0.0.2:80");
    assert!(lost.elapsed() < Duration::from_secs(1));
    assert_eq!(web.next().await, "endpoints 0");
    assert!(lost.elapsed() >= UNCONFIRMED_FOR && lost.elapsed() < UNCONFIRMED_FOR + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_bad_registration_leaves_the_former_one_and_is_shown() {
    let world = World::new().await;
    let agent = world.connect("orders", 1);
    agent.hello().await;
    agent.register("10.0.0.1:80", false).await;
    agent.register("0.0.0.0:80", false).await;
    let refused = |world: &World| world.push.instances.reports(|_| true)[0].registration_refused.clone();
    world.until(|world| refused(world).is_some()).await;
    assert!(refused(&world).unwrap().starts_with("ports[0].address: 0.0.0.0:80 cannot be called"));
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_registers_over_and_over_waits_whatever_its_streams() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    for number in 1..=10 {
        agent.register(&format!("10.0.0.{number}:80"), false).await;
    }
    world.until(|world| world.endpoints() == ["10.0.0.10:80 confirmed"]).await;
    let mut again = world.connect("orders", 1);
    again.hello().await;
    again.until_current(1).await;
    again.register("10.0.0.11:80", false).await;
    world.settle().await;
    assert!(!world.endpoints().concat().contains("10.0.0.11"), "{:?}", world.endpoints());
    let mut other = world.connect("orders", 2);
    other.hello().await;
    other.until_current(1).await;
    other.register("10.0.0.12:80", false).await;
    world.until(|world| world.endpoints().contains(&"10.0.0.12:80 confirmed".to_owned())).await;
    world.clock.advance(Duration::from_secs(1));
    world.until(|world| world.endpoints().contains(&"10.0.0.11:80 confirmed".to_owned())).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_hello_is_short() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.say(agent::Hello { features: vec!["x".repeat(64), "y".repeat(65)], ..hello() }).await;
    assert_eq!(agent.ending().await, Code::InvalidArgument);
    let mut agent = world.connect("orders", 1);
    agent.say(agent::Hello { features: vec!["x".repeat(64); 33], ..hello() }).await;
    assert_eq!(agent.ending().await, Code::InvalidArgument);
    assert_eq!(world.push.instances.connected(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_endpoints_for_thirty_seconds() {
    let world = World::new().await;
    let agent = world.connect("orders", 1);
    agent.hello().await;
    agent.register("10.0.0.1:80", false).await;
    world.until(|world| !world.endpoints().is_empty()).await;
    let world = world.restart().await;
    assert_eq!(world.endpoints(), ["10.0.0.1:80"], "known, and not confirmed");
    let agent = world.connect("orders", 1);
    agent.hello().await;
    agent.register("10.0.0.1:80", false).await;
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
    advance(Duration::from_secs(60)).await;
    assert_eq!(world.endpoints(), ["10.0.0.1:80 confirmed"]);
    drop(agent);
    world.until(|world| world.endpoints().is_empty()).await;
    assert!(world.restart().await.endpoints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn unknown_services_are_gone_until_they_appear() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    let add = vec!["payments".into(), "no name".into()];
    agent.send(from_agent::Message::Subscribe(agent::Subscribe { add, remove: vec![] })).await;
    assert_eq!(agent.next().await, "gone no name");
    assert_eq!(agent.next().await, "gone payments");
    world.publish(2, &[("orders", 1)], &[("payments", 2)], &[]);
    assert_eq!(agent.until_current(2).await, ["payments 2", "endpoints 0"]);
    world.publish(3, &[("orders", 1)], &[], &[]);
    assert_eq!(agent.until_current(3).await, ["gone payments"]);
    let remove = vec!["payments".into()];
    agent.send(from_agent::Message::Subscribe(agent::Subscribe { add: vec![], remove })).await;
    world.settle().await;
    world.publish(4, &[("orders", 1)], &[("payments", 4)], &[]);
    world.settle().await;
    assert!(agent.down.try_recv().is_err(), "it has no use for it any longer");
}

#[tokio::test(start_paused = true)]
async fn too_many_subscriptions_end_the_stream() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    for batch in 0..2 {
        let add = (0..600).map(|n| format!("s{batch}-{n}")).collect();
        agent.send(from_agent::Message::Subscribe(agent::Subscribe { add, remove: vec![] })).await;
    }
    assert_eq!(agent.ending().await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_slow_agent_gets_the_latest_and_holds_up_nobody() {
    let world = World::new().await;
    let mut slow = world.connect("orders", 1);
    slow.hello().await;
    let mut quick = world.connect("orders", 2);
    quick.hello().await;
    quick.until_current(1).await;
    for revision in 2..=200 {
        world.publish(revision, &[("orders", revision)], &[], &[]);
        assert_eq!(quick.until_current(revision).await, [format!("node {revision}")]);
    }
    let late = slow.until_current(200).await;
    assert!(late.len() <= 2 * OUTGOING_MESSAGES, "{late:?}");
    assert_eq!(late.last().unwrap(), "node 200");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_certificate_with_its_node_and_with_the_control_plane() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(agent.ending().await, Code::Unauthenticated);

    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    world.publish(2, &[("web", 2)], &[], &[]);
    assert_eq!(agent.ending().await, Code::NotFound);
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    assert_eq!(agent.ending().await, Code::NotFound);

    let mut agent = world.connect("web", 1);
    agent.hello().await;
    agent.until_current(2).await;
    world.stop.cancel();
    assert_eq!(agent.ending().await, Code::Unavailable);
    world.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_enforced_once_its_instances_deny_everything() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    agent.acknowledge(1, "").await;
    agent.register("10.0.0.1:80", false).await;
    world.until(|world| world.endpoints() == ["10.0.0.1:80 confirmed"]).await;
    world.publish(2, &[("web", 1)], &[], &[]);
    assert_eq!(agent.next().await, "node gone 2");
    assert_eq!(world.lag(2).await, Some(Lag::NotDismissed));
    assert_eq!(world.lag(1).await, None, "it had what revision 1 asked of it");
    world.until(|world| world.endpoints().is_empty()).await;
    // Another view's acknowledgement is none of this.
    agent.acknowledge(1, "").await;
    assert_eq!(world.lag(2).await, Some(Lag::NotDismissed));
    agent.acknowledge(2, "").await;
    assert_eq!(agent.ending().await, Code::NotFound);
    assert_eq!(world.lag(2).await, None);
    assert_eq!(world.rollout(2).concerned, 1);

    // One that says nothing is named until its certificate expires; so is one that is away.
    let mut silent = world.connect("orders", 2);
    silent.hello().await;
    assert_eq!(silent.ending().await, Code::NotFound);
    assert_eq!(world.lag(2).await, Some(Lag::NotDismissed));
    world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(world.rollout(2).concerned, 0);
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_a_former_node_is_cut_and_not_let_in() {
    let world = World::new().await;
    let mut former = world.connect_of("orders", 1, Some("former".to_owned()));
    former.hello().await;
    assert_eq!(former.next().await, "node gone 1");
    former.acknowledge(1, "").await;
    assert_eq!(former.ending().await, Code::PermissionDenied);
    assert_eq!(world.lag(1).await, None, "it denies everything");
    let mut again = world.connect_of("orders", 1, Some("former".to_owned()));
    again.hello().await;
    assert_eq!(again.ending().await, Code::PermissionDenied);

    let mut own = world.connect_of("orders", 2, Some(FIRST.to_owned()));
    own.hello().await;
    own.until_current(1).await;
    // Also where the new node's view cannot be made.
    world.amend(|compilation| {
        compilation.node_uids.insert(node_id("orders"), Some("second".to_owned()));
    });
    assert_eq!(own.next().await, "node gone 1");
    own.acknowledge(1, "").await;
    assert_eq!(own.ending().await, Code::PermissionDenied);

    world.stop.cancel();
    world.stopped().await;
    let refused = crate::audit::Filter { refused_only: true, ..Default::default() };
    let recorded = world.push.audit.list(&refused, None, 10).await.unwrap().records;
    assert_eq!(recorded.len(), 2, "each once, however often it comes back: {recorded:?}");
}

#[tokio::test(start_paused = true)]
async fn agents_send_everything_while_somebody_observes() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    let mut observation = world.push.flows.observe(Filter::default()).unwrap();
    assert_eq!(agent.next().await, "observe true 500");
    let mut late = world.connect("orders", 2);
    late.hello().await;
    assert_eq!(late.until_current(1).await, ["trust", "observe true 500", "node 1"]);
    agent.decide(&decision("orders", 1, "1")).await;
    let seen = timeout(Duration::from_secs(5), observation.next()).await.unwrap().unwrap();
    assert_eq!(seen.decisions[0].id, id_of(1, "1"));
    drop(observation);
    assert_eq!(agent.next().await, "observe false 0");
}

async fn explain(world: &World, id: &str) -> Result<Explained, ExplainError> {
    world.push.explain(id, (&Bulkhead::one_at_a_time(), "ada")).await
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_explained_by_its_agent() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    let push = Arc::clone(&world.push);
    let asked = tokio_util::task::AbortOnDropHandle::new(
        world
            .push
            .tasks
            .spawn(async move { push.explain(&id_of(1, "a"), (&Bulkhead::one_at_a_time(), "ada")).await }),
    );
    let asked_agent = timeout(Duration::from_secs(60), agent.down.recv()).await;
    let Ok(Some(Ok(ToAgent { message: Some(Message::Question(question)) }))) = asked_agent else {
        panic!("no question: {asked_agent:?}");
    };
    let detail = agent::DecisionDetail { decision: Some(decision("orders", 1, "a")), ..Default::default() };
    let question_id = question.question_id;
    agent.send(from_agent::Message::Answer(agent::Answer { question_id, decision: Some(detail) })).await;
    let explained = asked.await.unwrap().unwrap();
    assert_eq!((explained.detail.decision.unwrap().id, explained.kept_at), (id_of(1, "a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_decision_of_a_lost_agent_is_explained_from_what_it_had_sent() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    agent.decide(&decision("orders", 1, "a")).await;
    agent.decide(&decision("payments", 1, "b")).await;
    agent.decide(&decision("orders", 2, "c")).await;
    world.until(|world| world.push.flows.kept_decision(&id_of(1, "a")).is_some()).await;
    let silent = explain(&world, &id_of(1, "z")).await;
    assert!(matches!(silent, Err(ExplainError::NoAnswer { .. })), "{silent:?}");
    drop(agent);
    world.until(|world| world.push.instances.connected() == 0).await;
    let world = world.restart().await;
    let explained = explain(&world, &id_of(1, "a")).await.unwrap();
    assert_eq!((explained.detail.decision.unwrap().id, explained.kept_at), (id_of(1, "a"), Some(NOW)));
    for (id, wanted) in [
        (id_of(1, "b"), ExplainError::UnknownInstance(instance(1))),
        (id_of(2, "c"), ExplainError::UnknownInstance(instance(2))),
        ("nonsense".to_owned(), ExplainError::Malformed("nonsense".to_owned())),
    ] {
        assert_eq!(explain(&world, &id).await.unwrap_err(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_too_much_is_told_what_is_known_without_the_present_rules() {
    let world = World::new().await;
    let mut agent = world.connect("orders", 1);
    agent.hello().await;
    agent.until_current(1).await;
    let drafts = Bulkhead::of_drafts();
    let _first = drafts.turn("ada").await.unwrap();
    let mut waiting: Vec<_> = (1..MOST_DRAFTS_OF_ONE).map(|_| Box::pin(drafts.turn("ada"))).collect();
    for turn in &mut waiting {
        assert!(turn.as_mut().now_or_never().is_none());
    }
    let of_earlier =
        agent::Decision { epoch: EPOCH - 1, reason: "forbidden".into(), ..decision("orders", 1, "a") };
    let answer = async {
        let asked = timeout(Duration::from_secs(60), agent.down.recv()).await;
        let Ok(Some(Ok(ToAgent { message: Some(Message::Question(question)) }))) = asked else {
            panic!("no question: {asked:?}");
        };
        let detail = agent::DecisionDetail { decision: Some(of_earlier), ..Default::default() };
        let question_id = question.question_id;
        agent.send(from_agent::Message::Answer(agent::Answer { question_id, decision: Some(detail) })).await;
    };
    let id = id_of(1, "a");
    let (explained, ()) = tokio::join!(world.push.explain(&id, (&drafts, "ada")), answer);
    let explained = explained.unwrap();
    assert_eq!(explained.detail.decision.unwrap().id, id);
    assert_eq!(explained.rules_since.unwrap().now.unwrap_err(), Undecidable::Busy);

    // The same where the agent is gone, and the rules are those by which it decided.
    let kept = agent::Decision { reason: "forbidden".into(), ..decision("orders", 1, "b") };
    agent.decide(&agent::Decision { epoch: EPOCH, revision: 1, ..kept }).await;
    world.until(|world| world.push.flows.kept_decision(&id_of(1, "b")).is_some()).await;
    drop(agent);
    world.until(|world| world.push.instances.connected() == 0).await;
    let explained = world.push.explain(&id_of(1, "b"), (&drafts, "ada")).await.unwrap();
    assert_eq!(explained.detail.no_policies(), agent::NoPolicies::Busy);
    assert_eq!((explained.kept_at, explained.rules_since.is_none()), (Some(NOW), true));
}

#[tokio::test(start_paused = true)]
async fn what_has_become_of_the_rules_is_told() {
    use recall::Undecidable::{Gone, RefusedBefore, Unreadable};
    let world = World::new().await;
    world.publish(7, &[("orders", 5)], &[], &[]);
    world.amend(|compilation| drop(compilation.node_uids.insert(node_id("broken"), None)));
    let compilation = Arc::clone(&world.compilation.borrow());
    let asker = (&Bulkhead::one_at_a_time(), "ada");
    let made = agent::Decision {
        epoch: EPOCH,
        revision: 5,
        reason: "forbidden".into(),
        ..decision("orders", 1, "a")
    };
    for (decision, wanted) in [
        (made.clone(), None),
        (agent::Decision { node: String::new(), revision: 0, ..made.clone() }, None),
        (agent::Decision { revision: 4, ..made.clone() }, Some((Some(5), Unreadable))),
        (agent::Decision { epoch: EPOCH - 1, ..made.clone() }, Some((Some(5), Unreadable))),
        (
            agent::Decision { revision: 4, reason: "user_token_expired".into(), ..made.clone() },
            Some((Some(5), RefusedBefore)),
        ),
        (agent::Decision { node: node_id("broken").to_string(), ..made.clone() }, None),
        (agent::Decision { node: node_id("payments").to_string(), ..made }, Some((None, Gone))),
    ] {
        let since = recall::rules_since(&decision, recall::Present::of(&decision, &compilation), asker);
        let since = since.await;
        let found = since.map(|since| (since.revision, since.now.unwrap_err()));
        assert_eq!(found, wanted, "{decision:?}");
    }
}

/// A control plane with the node and service names of a small shop.
struct World {
    push: Arc<Push>,
    compilation: watch::Sender<Arc<Compilation>>,
    denylist: watch::Sender<Arc<Denylist>>,
    trust: watch::Sender<Arc<agent::Trust>>,
    signing_keys: watch::Sender<Arc<KeySet>>,
    revocation_lists: watch::Sender<Arc<RevocationLists>>,
    unknown_keys: mpsc::Receiver<ResourceKey>,
    clock: Clock,
    stop: CancellationToken,
    store: Arc<SledStore>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(SledStore::create(&directory.path().join("store")).unwrap());
        let world = Self::start(store, directory).await;
        world.publish(1, &[("orders", 1)], &[], &[]);
        world
    }

    async fn next_unknown_key(&mut self) -> ResourceKey {
        let told = timeout(Duration::from_secs(60), self.unknown_keys.recv()).await;
        told.expect("it is told of").unwrap()
    }

    fn publish_lists(&self, ders: &[&'static [u8]]) {
        let ders = ders.iter().map(|der| Bytes::from_static(der)).collect();
        self.revocation_lists.send_replace(Arc::new(RevocationLists { ders, ..RevocationLists::default() }));
    }

    async fn start(store: Arc<SledStore>, directory: tempfile::TempDir) -> Self {
        let (compilation, receiver) = watch::channel(Arc::default());
        let denylist = watch::Sender::new(Arc::default());
        let (clock, stop) = (Clock::manual(NOW), CancellationToken::new());
        let trust = agent::Trust { trust_domain: "shop.local".into(), version: 1, ..agent::Trust::default() };
        let trust = watch::Sender::new(Arc::new(trust));
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        let signing_keys = watch::Sender::new(Arc::new(KeySet::none(trust_domain.clone()).unwrap()));
        let revocation_lists = watch::Sender::default();
        let (told, unknown_keys) = mpsc::channel(8);
        let push = Push::start(PushParts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            audit: Arc::new(Audit::open(Arc::clone(&store) as Arc<dyn Store>, clock.clone()).await.unwrap()),
            instances: Arc::default(),
            clock: clock.clone(),
            denylist: denylist.subscribe(),
            compilation: receiver,
            trust: trust.subscribe(),
            signing_keys: signing_keys.subscribe(),
            revocation_lists: revocation_lists.subscribe(),
            unknown_keys: told,
            identity: LiveIdentity::new(TrustBundle::empty(trust_domain)),
            metrics: Arc::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let push = push.await.unwrap();
        Self {
            push,
            compilation,
            denylist,
            trust,
            signing_keys,
            revocation_lists,
            unknown_keys,
            clock,
            stop,
            store,
            directory,
        }
    }

    async fn stopped(&self) {
        self.push.tasks.close();
        // Without a deadline on the paused clock, which would run while the disk is written.
        self.push.tasks.wait().await;
    }

    /// The same store under a new control plane.
    async fn restart(self) -> Self {
        self.stop.cancel();
        self.stopped().await;
        let compilation = Arc::clone(&self.compilation.borrow());
        let world = Self::start(self.store, self.directory).await;
        world.compilation.send_replace(compilation);
        world
    }

    /// Publishes views, each with the revision of its last change; every service is served by its own node.
    fn publish(&self, revision: u64, nodes: &[(&str, u64)], services: &[(&str, u64)], backends: &[&str]) {
        let mesh = Name::parse("shop").unwrap();
        let view = |name: &str, changed: u64, kind: &str| {
            let backends = backends.iter().filter(|backend| **backend != name && kind == "node");
            Arc::new(CompiledView {
                revision: changed,
                digest: digest(changed),
                signed: agent::SignedView { key_id: format!("{name} {changed}"), ..Default::default() },
                backends: backends.map(|name| Name::parse(name).unwrap()).collect(),
                targets: vec![(node_id(name), 80)],
                features: Vec::new(),
                mesh: mesh.clone(),
                uid: FIRST.to_owned(),
                audit_ports: Vec::new(),
            })
        };
        let node_uids = nodes.iter().map(|(name, _)| (node_id(name), Some(FIRST.to_owned()))).collect();
        let nodes: HashMap<_, _> =
            nodes.iter().map(|(name, at)| (node_id(name), view(name, *at, "node"))).collect();
        let services = services
            .iter()
            .map(|(name, at)| ((mesh.clone(), Name::parse(name).unwrap()), view(name, *at, "service")))
            .collect();
        let workloads = self.compilation.borrow().workloads.clone();
        self.compilation.send_replace(Arc::new(Compilation {
            epoch: EPOCH,
            revision,
            nodes,
            node_uids,
            services,
            workloads,
            former: Arc::default(),
            findings: Arc::default(),
        }));
    }

    /// Publishes what is published with a difference.
    fn amend(&self, change: impl FnOnce(&mut Compilation)) {
        let mut compilation = Compilation::clone(&self.compilation.borrow());
        change(&mut compilation);
        self.compilation.send_replace(Arc::new(compilation));
    }

    /// Publishes workloads of a node; all else stays.
    fn enroll(&self, revision: u64, node: &str, names: &[&str]) {
        let entry = |name: &&str| agent::WorkloadEntry { enrollment: (*name).into(), ..Default::default() };
        let entries = agent::WorkloadEntries { entries: names.iter().map(entry).collect() };
        let mut compilation = (**self.compilation.borrow()).clone();
        compilation.revision = revision;
        compilation.workloads.insert(node_id(node), Arc::new(entries));
        self.compilation.send_replace(Arc::new(compilation));
    }

    fn connect(&self, node: &str, number: u8) -> Agent {
        self.connect_of(node, number, Some(FIRST.to_owned()))
    }

    fn connect_of(&self, node: &str, number: u8, node_uid: Option<String>) -> Agent {
        self.connect_as(node, number, node_uid, None)
    }

    fn connect_proved(&self, node: &str, number: u8, proof: PeerIdentity) -> Agent {
        self.connect_as(node, number, Some(FIRST.to_owned()), Some(proof))
    }

    fn connect_as(
        &self,
        node: &str,
        number: u8,
        node_uid: Option<String>,
        proof: Option<PeerIdentity>,
    ) -> Agent {
        let certificate = IssuedTo {
            serial: Serial::from_random([number; 16]),
            issued_at: Some(NOW),
            not_after: NOW.plus(Duration::from_secs(3_600)),
        };
        let peer = Peer::new(node_id(node), instance(number), node_uid, certificate, None).unwrap();
        let peer = Peer { proof, ..peer };
        let (up, incoming) = mpsc::channel(1);
        let down = self.push.accept(peer, ReceiverStream::new(incoming));
        Agent { up, down, node: node.to_owned(), knows_workloads: false }
    }

    fn rollout(&self, revision: u64) -> crate::instances::Rollout {
        self.push.instances.rollout(&self.compilation.borrow(), revision, None, self.clock.now())
    }

    /// Why the first instance does not enforce a revision.
    async fn lag(&self, revision: u64) -> Option<Lag> {
        self.settle().await;
        self.rollout(revision).laggards.into_iter().next().map(|laggard| laggard.lag)
    }

    fn endpoints(&self) -> Vec<String> {
        let snapshot = self.push.endpoints.subscribe().borrow().clone();
        snapshot.values().flat_map(|list| list.iter().map(describe_endpoint)).collect()
    }

    /// Lets every task do what it can do now.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(120), waiting).await.expect("it never came to hold");
    }
}

struct Agent {
    up: mpsc::Sender<Result<FromAgent, Status>>,
    down: mpsc::Receiver<Result<ToAgent, Status>>,
    node: String,
    knows_workloads: bool,
}

impl Agent {
    async fn send(&self, message: from_agent::Message) {
        self.up.send(Ok(FromAgent { message: Some(message) })).await.unwrap();
    }

    async fn say(&self, hello: agent::Hello) {
        self.send(from_agent::Message::Hello(hello)).await;
    }

    async fn hello(&self) {
        self.say(hello()).await;
    }

    async fn acknowledge(&self, revision: u64, service: &str) {
        let service = service.to_owned();
        self.send(from_agent::Message::Acknowledge(agent::Acknowledge { epoch: EPOCH, revision, service }))
            .await;
    }

    async fn register(&self, address: &str, draining: bool) {
        let ports = vec![agent::Registration { listener_port: 80, address: address.into(), healthy: true }];
        self.send(from_agent::Message::Register(agent::Register { ports, draining })).await;
    }

    async fn decide(&self, decision: &agent::Decision) {
        let decisions = vec![decision.clone()];
        self.send(from_agent::Message::Decisions(agent::Decisions { decisions, dropped: 0 })).await;
    }

    async fn received(&mut self) -> Result<ToAgent, Status> {
        let received = timeout(Duration::from_secs(60), self.down.recv()).await;
        received.expect("a message in time").expect("an open stream")
    }

    /// What is said next, but for the first word that there are no workloads.
    async fn next(&mut self) -> String {
        loop {
            let message = self.received().await.expect("a message").message.expect("with a content");
            if let Message::Workloads(entries) = &message {
                let is_first = !std::mem::replace(&mut self.knows_workloads, true);
                if is_first && entries.entries.is_empty() {
                    continue;
                }
            }
            return self.describe(message);
        }
    }

    /// What comes before it is said to be current.
    async fn until_current(&mut self, revision: u64) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            if message == format!("current {revision}") {
                return messages;
            }
            messages.push(message);
        }
    }

    /// The status at the end, whatever comes before it.
    async fn ending(&mut self) -> Code {
        loop {
            if let Err(status) = self.received().await {
                let after = timeout(Duration::from_secs(60), self.down.recv()).await;
                assert!(after.expect("it ends").is_none(), "the stream ends with its status");
                return status.code();
            }
        }
    }

    fn describe(&self, message: Message) -> String {
        match message {
            Message::View(view) => view.key_id.replace(&format!("{} ", self.node), "node "),
            Message::ServicesGone(gone) => format!("gone {}", gone.names.join(" ")),
            Message::Endpoints(update) if update.endpoints.is_empty() => "endpoints 0".to_owned(),
            Message::Endpoints(update) => {
                let list: Vec<_> = update.endpoints.iter().map(describe_endpoint).collect();
                format!("endpoints {}", list.join(" "))
            }
            Message::Trust(_) => "trust".to_owned(),
            Message::Question(question) => format!("question {}", question.decision_id),
            Message::Observe(observe) => format!("observe {} {}", observe.all, observe.limit_per_second),
            Message::CurrentAt(current) => format!("current {}", current.revision),
            Message::Denylist(_) => "denylist".to_owned(),
            Message::NodeGone(gone) => format!("node gone {}", gone.revision),
            Message::Workloads(entries) => {
                let names: Vec<_> = entries.entries.iter().map(|entry| &*entry.enrollment).collect();
                format!("workloads {}", names.join(" "))
            }
            Message::JwtKeys(_) => "jwt keys".to_owned(),
            Message::RevocationList(agent::RevocationList { der, others, .. }) => {
                let lengths: Vec<_> =
                    [&der].into_iter().chain(&others).map(|der| der.len().to_string()).collect();
                format!("revocation lists {}", lengths.join(" "))
            }
        }
    }
}

fn describe_endpoint(endpoint: &agent::Endpoint) -> String {
    format!("{}{}", endpoint.address, if endpoint.confirmed { " confirmed" } else { "" })
}

fn hello() -> agent::Hello {
    agent::Hello { now_unix_ms: NOW.0, ..agent::Hello::default() }
}

fn digest(revision: u64) -> [u8; 32] {
    [revision as u8; 32]
}

fn node_id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{name}")).unwrap()
}

fn instance(number: u8) -> InstanceId {
    InstanceId::from_random([number; 8])
}

fn id_of(number: u8, rest: &str) -> String {
    format!("{}-{rest}", instance(number))
}

fn decision(node: &str, number: u8, rest: &str) -> agent::Decision {
    agent::Decision {
        id: id_of(number, rest),
        node: node_id(node).to_string(),
        first_of_kind: true,
        ..agent::Decision::default()
    }
}
