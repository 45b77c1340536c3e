use prost::Message;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1::from_agent::Message as Up;
use hauberk_proto::agent::v1::to_agent::Message as Down;

use super::disk::Kind;
use super::held::Taken;
use super::*;
use crate::clock::Clock;
use crate::connections::Connections;
use crate::context::Context;
use crate::credentials::Issued;
use crate::mesh::{ClosedReason, Inbound};
use crate::metrics::Metrics;
use crate::state::{Mark, State};
use crate::testing::{Authorities, ControlPlane, HOUR, around, node_view, recipient, service_view};

mod denylist;
mod disk;
mod running;

struct Agent {
    authorities: Arc<Authorities>,
    mesh: Mesh,
    state: Arc<State>,
    age: Arc<ViewAge>,
    directory: Arc<tempfile::TempDir>,
}

impl Agent {
    fn new() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let state = Arc::new(State::open(directory.path()).unwrap());
        let mesh = Mesh::new();
        mesh.gate.set_certificate_valid(true);
        Self { authorities: Authorities::new(), mesh, state, age: Arc::default(), directory }
    }

    fn restarted(self) -> Self {
        let Self { authorities, directory, state, .. } = self;
        drop(state);
        let mesh = Mesh::new();
        mesh.gate.set_certificate_valid(true);
        let state = Arc::new(State::open(directory.path()).unwrap());
        Self { authorities, mesh, state, age: Arc::default(), directory }
    }

    fn held(&self) -> Held {
        let keys = self.authorities.view_keys();
        Held::load(Arc::clone(&self.state), self.mesh.clone(), recipient(), &keys, Arc::clone(&self.age))
    }

    async fn take(&self, held: &mut Held, view: &pb::View) -> Taken {
        let taken = held.take(self.authorities.signed(view), &self.authorities.view_keys()).await;
        held.disk.write_all().await;
        taken
    }

    fn closed(&self) -> Option<ClosedReason> {
        match &**self.mesh.inbound().borrow() {
            Inbound::Closed { reason } => Some(*reason),
            Inbound::Open(_) => None,
        }
    }

    fn revision(&self) -> Option<u64> {
        match &**self.mesh.inbound().borrow() {
            Inbound::Closed { .. } => None,
            Inbound::Open(view) => Some(view.revision),
        }
    }
}

impl Held {
    /// Brings to the disk what there is, as a session that ends does.
    async fn saved(&mut self) {
        self.save(UnixMillis(0));
        self.disk.write_all().await;
    }

    /// The same for what was said of our node; whether the disk has forgotten it.
    async fn forgot_node(&self) -> bool {
        self.disk.write_all().await;
        self.disk.has(Kind::Node)
    }
}

/// What enforces what this agent holds.
fn connections(agent: &Agent, decisions: Arc<Decisions>) -> Arc<Connections> {
    Connections::new(Context {
        clock: Clock::system(),
        identity: agent.authorities.live("mesh/shop/node/orders"),
        trust: watch::Sender::new(Arc::new(agent.authorities.stored_trust())).subscribe(),
        mesh: agent.mesh.clone(),
        decisions,
        metrics: Arc::default(),
    })
}

fn refusal(taken: Taken) -> pb::Refuse {
    match taken {
        Taken::Refused(refuse) => refuse,
        Taken::Node(_) | Taken::Service(_) => panic!("it was taken"),
    }
}

fn node_of(view: &mut pb::View) -> &mut pb::NodeView {
    match &mut view.body {
        Some(pb::view::Body::Node(node)) => node,
        _ => panic!("no node"),
    }
}

#[tokio::test]
async fn a_good_view_opens_and_a_newer_one_replaces_it() {
    let agent = Agent::new();
    let mut held = agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
    assert!(matches!(agent.take(&mut held, &node_view(5)).await, Taken::Node(view) if view.revision == 5));
    assert_eq!(agent.revision(), Some(5));
    agent.take(&mut held, &node_view(6)).await;
    assert_eq!(agent.revision(), Some(6));
}

#[tokio::test]
async fn what_is_forged_old_or_for_others_is_discarded_and_the_former_stays() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;

    let mut forged = agent.authorities.signed(&node_view(9));
    forged.view = node_view(10).encode_to_vec().into();
    let keys = agent.authorities.view_keys();
    assert_eq!(refusal(held.take(forged, &keys).await).reason, "bad_signature");
    let other_key = Authorities::new().signed(&node_view(9));
    assert_eq!(refusal(held.take(other_key, &keys).await).reason, "bad_signature");

    let older = refusal(agent.take(&mut held, &node_view(4)).await);
    assert_eq!((older.reason.as_str(), older.revision), ("older", 4));
    let former_epoch = pb::View { epoch: 0, ..node_view(1000) };
    assert_eq!(refusal(agent.take(&mut held, &former_epoch).await).reason, "older");

    let mut others = node_view(9);
    node_of(&mut others).spiffe_id = "spiffe://shop.local/mesh/shop/node/payments".to_owned();
    assert_eq!(refusal(agent.take(&mut held, &others).await).reason, "other_node");
    let other_mesh = pb::View { mesh: "bank".to_owned(), ..node_view(9) };
    assert_eq!(refusal(agent.take(&mut held, &other_mesh).await).reason, "other_node");
    let other_domain = pb::View { trust_domain: "evil.local".to_owned(), ..node_view(9) };
    assert_eq!(refusal(agent.take(&mut held, &other_domain).await).reason, "other_node");

    assert_eq!(agent.revision(), Some(5));
    // None of them has moved the mark.
    assert!(matches!(agent.take(&mut held, &node_view(6)).await, Taken::Node(_)));
}

#[tokio::test]
async fn what_cannot_be_enforced_closes_until_something_better_comes() {
    type Spoil = fn(&mut pb::View);
    let unenforceable: [(&str, ClosedReason, Spoil); 5] = [
        ("missing_feature", ClosedReason::MissingFeature, |view| {
            view.features.push("time-travel".to_owned())
        }),
        ("invalid", ClosedReason::InvalidView, |view| view.body = None),
        ("invalid", ClosedReason::InvalidView, |view| node_of(view).ports[0].number = 73_616),
        ("invalid", ClosedReason::InvalidView, |view| node_of(view).ports[0].protocol = 99),
        ("invalid", ClosedReason::InvalidView, |view| {
            let cedar = "permit(principal is Nobody, action, resource);".to_owned();
            node_of(view).policies.push(pb::Policy { name: "p".to_owned(), cedar, ..pb::Policy::default() });
        }),
    ];
    for (reason, closed, spoil) in unenforceable {
        let agent = Agent::new();
        let mut held = agent.held();
        agent.take(&mut held, &node_view(5)).await;
        let mut spoiled = node_view(6);
        spoil(&mut spoiled);
        let refused = refusal(agent.take(&mut held, &spoiled).await);
        assert_eq!((refused.reason.as_str(), refused.revision), (reason, 6), "{}", refused.detail);
        assert_eq!(agent.closed(), Some(closed));
        assert_eq!(refusal(agent.take(&mut held, &node_view(5)).await).reason, "older", "no way back");
        assert_eq!(agent.closed(), Some(closed));
        agent.take(&mut held, &node_view(7)).await;
        assert_eq!(agent.revision(), Some(7));
    }
}

#[tokio::test]
async fn a_restart_goes_on_with_the_last_good_view_and_not_behind_it() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    agent.take(&mut held, &service_view("payments.shop", 5)).await;
    held.saved().await;
    drop(held);
    let agent = agent.restarted();
    let mut held = agent.held();
    assert_eq!(agent.revision(), Some(5));
    assert!(agent.mesh.services.lookup("payments.shop").is_some());
    assert_eq!(refusal(agent.take(&mut held, &node_view(4)).await).reason, "older");
    assert!(matches!(agent.take(&mut held, &node_view(5)).await, Taken::Node(_)));
}

#[tokio::test]
async fn an_old_view_put_back_on_disk_is_not_taken() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    held.saved().await;
    drop(held);
    agent.state.save_node_view(&agent.authorities.signed(&node_view(4))).unwrap();
    let agent = agent.restarted();
    agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
}

#[tokio::test]
async fn after_an_unusable_view_a_restart_stays_closed() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    let spoiled = pb::View { features: vec!["time-travel".to_owned()], ..node_view(6) };
    refusal(agent.take(&mut held, &spoiled).await);
    held.saved().await;
    drop(held);
    let agent = agent.restarted();
    agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
}

#[tokio::test]
async fn a_damaged_or_forged_view_on_disk_is_not_trusted() {
    let agent = Agent::new();
    agent.state.save_node_view(&Authorities::new().signed(&node_view(5))).unwrap();
    let agent = agent.restarted();
    let held = agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
    drop(held);
    std::fs::write(agent.directory.path().join("node-view"), b"hauberk-agent-state 1 00\n").unwrap();
    let agent = agent.restarted();
    agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
}

#[tokio::test]
async fn an_older_view_of_a_service_is_refused_and_a_bad_one_leaves_our_rules_alone() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    assert!(matches!(agent.take(&mut held, &service_view("payments.shop", 7)).await, Taken::Service(_)));
    assert_eq!(refusal(agent.take(&mut held, &service_view("payments.shop", 6)).await).reason, "older");
    let spoiled = pb::View { features: vec!["time-travel".to_owned()], ..service_view("payments.shop", 8) };
    let refused = refusal(agent.take(&mut held, &spoiled).await);
    assert_eq!((refused.reason.as_str(), refused.service.as_str()), ("missing_feature", "payments.shop"));
    assert_eq!(agent.revision(), Some(5));
    assert_eq!(agent.mesh.services.lookup("payments.shop").unwrap().revision, 7);
}

#[tokio::test]
async fn endpoints_are_taken_whole_or_not_at_all() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &service_view("payments.shop", 7)).await;
    let good = pb::Endpoint {
        address: "127.0.0.1:1".to_owned(),
        instance_id: "0123456789".to_owned(),
        confirmed: true,
    };
    let bad = pb::Endpoint { address: "nowhere".to_owned(), ..good.clone() };
    let mut update = pb::EndpointsUpdate {
        spiffe_id: "spiffe://shop.local/mesh/shop/node/payments".to_owned(),
        listener_port: 9090,
        endpoints: vec![good.clone(), bad],
    };
    assert!(held.take_endpoints(&update, true).is_err());
    let endpoints = || {
        let service = agent.mesh.services.lookup("payments.shop").unwrap();
        service.ports[0].targets[0].endpoints.snapshot().to_vec()
    };
    assert!(endpoints().is_empty());
    update.endpoints = vec![good];
    held.take_endpoints(&update, true).unwrap();
    assert!(endpoints()[0].confirmed);
    held.saved().await;
    drop(held);
    let agent = agent.restarted();
    agent.held();
    let service = agent.mesh.services.lookup("payments.shop").unwrap();
    let kept = service.ports[0].targets[0].endpoints.snapshot();
    assert_eq!((kept.len(), kept[0].confirmed), (1, false), "kept, but nobody has confirmed it since");
}

#[tokio::test(start_paused = true)]
async fn a_view_becomes_too_old_without_the_control_plane_and_good_again_with_it() {
    let agent = Agent::new();
    let clock = Clock::starting_at(UnixMillis(1_000_000));
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&agent.age).watch(Arc::clone(&agent.mesh.gate), clock, stop.clone()));
    let mut held = agent.held();
    let mut view = node_view(5);
    node_of(&mut view).max_view_age_ms = 60_000;
    agent.age.confirmed_for_now();
    agent.take(&mut held, &view).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.closed(), None, "confirmed all the time");
    held.session_ended(clock.now());
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(agent.closed(), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(agent.closed(), Some(ClosedReason::ViewTooOld));
    held.confirmed();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(agent.closed(), None);
}

#[tokio::test]
async fn a_session_says_what_it_holds_and_acknowledges_what_live_traffic_obeys() {
    let agent = Agent::new();
    let mut plane = ControlPlane::start(&agent.authorities).await;
    let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
    let issued = Issued { identity, trust: agent.authorities.stored_trust() };
    let credentials = Credentials::new(issued, Arc::clone(&agent.state)).unwrap();
    let clock = Clock::system();
    let decisions = Arc::new(Decisions::new(clock, "0123456789".parse().unwrap(), [1; 4], None));
    let registrations = watch::Sender::new(pb::Register::default());
    let connected = watch::Sender::new(false);
    let metrics = Arc::new(Metrics::new());
    let sync = Sync {
        control_plane: crate::testing::config(plane.address, agent.directory.path(), &[]).control_plane,
        clock,
        credentials: credentials.clone(),
        recipient: recipient(),
        mesh: agent.mesh.clone(),
        decisions: Arc::clone(&decisions),
        workloads: Board::new(false),
        metrics: Arc::clone(&metrics),
        registrations: registrations.subscribe(),
        connected: connected.clone(),
        settled: watch::Sender::new(false),
    };
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(sync.run(agent.held(), stop.clone()));
    let mut stream = plane.streams.recv().await.unwrap();
    let hello = stream.next(|up| if let Up::Hello(hello) = up { Some(hello) } else { None }).await;
    assert!(hello.held.is_none());
    assert!(hello.features.contains(&"cedar-1".to_owned()));

    let mut inbound = agent.mesh.inbound();
    inbound.mark_unchanged();
    stream.send(Down::View(agent.authorities.signed(&node_view(5)))).await;
    inbound.changed().await.unwrap();
    // In force for new traffic, and not acknowledged: what comes up next is something else.
    registrations.send_replace(pb::Register { draining: true, ..pb::Register::default() });
    let next = stream
        .next(|up| match up {
            Up::Register(register) if register.draining => Some(None),
            Up::Acknowledge(acknowledge) => Some(Some(acknowledge)),
            _ => None,
        })
        .await;
    assert!(next.is_none());
    // Live traffic is held against it, and then it is.
    let connections = connections(&agent, decisions);
    tasks.spawn({
        let (connections, stop) = (Arc::clone(&connections), stop.clone());
        async move { connections.enforce(stop).await }
    });
    let acknowledged = stream.next(|up| if let Up::Acknowledge(it) = up { Some(it) } else { None }).await;
    assert_eq!((acknowledged.epoch, acknowledged.revision), (1, 5));
    assert_eq!(agent.mesh.applied.view().unwrap().revision, 5);
    assert!(metrics.text().contains("hauberk_view_apply_seconds_count 1\n"));

    // First use of a service subscribes to it.
    let (wanted, ()) = tokio::join!(agent.mesh.services.want("payments.shop"), async {
        let add =
            stream.next(|up| if let Up::Subscribe(change) = up { Some(change.add) } else { None }).await;
        assert_eq!(add, ["payments.shop"]);
        stream.send(Down::View(agent.authorities.signed(&service_view("payments.shop", 3)))).await;
    });
    assert_eq!(wanted.unwrap().revision, 3);

    // A renewed certificate opens a new stream, which says what is held.
    let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
    credentials.replace(Issued { identity, trust: agent.authorities.stored_trust() }).unwrap();
    let mut stream = plane.streams.recv().await.unwrap();
    let hello = stream.next(|up| if let Up::Hello(hello) = up { Some(hello) } else { None }).await;
    assert_eq!(hello.held.unwrap().revision, 5);
    assert_eq!(hello.highest_revision, 5);
    let service = hello.services.iter().find(|service| service.name == "payments.shop").unwrap();
    assert_eq!(service.held.as_ref().unwrap().revision, 3);
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    assert!(!*connected.borrow());
}

#[tokio::test]
async fn a_node_that_is_gone_denies_everything_also_after_a_restart() {
    let agent = Agent::new();
    let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
    agent.state.keeping().unwrap().save_identity(&identity).unwrap();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    agent.take(&mut held, &service_view("payments.shop", 3)).await;

    let older = [Mark { epoch: 1, revision: 4 }, Mark { epoch: 0, revision: 9 }];
    for at in older {
        assert!(!held.take_node_gone(at), "an older control plane says so");
    }
    assert_eq!(agent.revision(), Some(5));

    for _ in 0..2 {
        assert!(held.take_node_gone(Mark { epoch: 1, revision: 6 }) && held.forgot_node().await);
        assert_eq!(agent.closed(), Some(ClosedReason::NodeDeleted));
        assert!(agent.mesh.services.all().is_empty());
    }
    // What was on its way is not kept.
    let update = pb::EndpointsUpdate {
        spiffe_id: "spiffe://shop.local/mesh/shop/node/payments".to_owned(),
        listener_port: 9090,
        endpoints: vec![pb::Endpoint {
            instance_id: "0123456789".to_owned(),
            address: "10.0.0.1:9090".to_owned(),
            confirmed: true,
        }],
    };
    held.take_endpoints(&update, true).unwrap();
    agent.take(&mut held, &service_view("payments.shop", 8)).await;
    held.session_ended(UnixMillis(7));
    held.disk.write_all().await;
    assert!(agent.state.endpoints().unwrap().is_empty() && agent.state.service_views().unwrap().is_empty());
    drop(held);
    let agent = agent.restarted();
    let mut held = agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoView));
    assert!(agent.mesh.services.all().is_empty());
    assert!(agent.state.identity().unwrap().is_none());
    // How far it had come is not forgotten.
    assert_eq!(refusal(agent.take(&mut held, &node_view(4)).await).reason, "older");
    agent.take(&mut held, &node_view(7)).await;
    assert_eq!(agent.revision(), Some(7));
}

#[tokio::test]
async fn what_came_while_a_node_was_gone_is_kept_once_it_is_back() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    assert!(held.take_node_gone(Mark { epoch: 1, revision: 6 }) && held.forgot_node().await);
    agent.take(&mut held, &service_view("payments.shop", 8)).await;
    held.saved().await;
    assert!(agent.state.service_views().unwrap().is_empty());
    agent.take(&mut held, &node_view(7)).await;
    held.saved().await;
    assert_eq!(agent.state.service_views().unwrap().len(), 1);
}

#[tokio::test]
async fn a_disk_that_does_not_forget_is_not_taken_for_one_that_did() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    let in_the_way = agent.state.directory().join("identity");
    std::fs::create_dir(&in_the_way).unwrap();
    let at = Mark { epoch: 1, revision: 6 };
    assert!(held.take_node_gone(at) && !held.forgot_node().await);
    assert_eq!(agent.closed(), Some(ClosedReason::NodeDeleted), "nothing is let in meanwhile");
    assert!(agent.state.node_view().unwrap().is_none(), "views go first");
    assert!(agent.state.membership().is_err(), "nor is an identity kept");
    std::fs::remove_dir(&in_the_way).unwrap();
    assert!(held.forgot_node().await, "it is tried again");
    assert!(agent.state.membership().is_err());
    agent.take(&mut held, &node_view(7)).await;
    assert!(agent.state.membership().is_ok(), "a view says that we are somebody");
}

#[tokio::test]
async fn an_agent_that_was_killed_before_its_mark_was_kept_keeps_it_when_it_starts() {
    let agent = Agent::new();
    let mut held = agent.held();
    let in_the_way = agent.state.directory().join(".high-water-mark.new");
    std::fs::create_dir(&in_the_way).unwrap();
    agent.take(&mut held, &node_view(5)).await;
    assert_eq!(agent.state.mark().unwrap(), None, "this is the moment");
    drop(held);
    std::fs::remove_dir(&in_the_way).unwrap();
    let agent = agent.restarted();
    agent.held().disk.write_all().await;
    assert_eq!(agent.state.mark().unwrap(), Some(Mark { epoch: 1, revision: 5 }));
}

#[tokio::test]
async fn who_is_refused_comes_back_later_and_later() {
    let agent = Agent::new();
    let mut plane = ControlPlane::start(&agent.authorities).await;
    let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
    let issued = Issued { identity, trust: agent.authorities.stored_trust() };
    let clock = Clock::system();
    let registrations = watch::Sender::new(pb::Register::default());
    let sync = Sync {
        control_plane: crate::testing::config(plane.address, agent.directory.path(), &[]).control_plane,
        clock,
        credentials: Credentials::new(issued, Arc::clone(&agent.state)).unwrap(),
        recipient: recipient(),
        mesh: agent.mesh.clone(),
        decisions: Arc::new(Decisions::new(clock, "0123456789".parse().unwrap(), [1; 4], None)),
        workloads: Board::new(false),
        metrics: Arc::default(),
        registrations: registrations.subscribe(),
        connected: watch::Sender::new(false),
        settled: watch::Sender::new(false),
    };
    let (first, most) = (Duration::from_millis(100), Duration::from_secs(5));
    let mut backoff = Backoff::new(first, most);
    for _ in 0..20 {
        backoff.step();
    }
    let mut held = agent.held();
    let (ended, ()) = tokio::join!(sync.one_session(&mut held, &mut backoff), async {
        let stream = plane.streams.recv().await.unwrap();
        stream.down.send(Err(tonic::Status::not_found("the node is gone"))).await.unwrap();
    });
    assert!(ended.is_ok());
    assert!(backoff.step() >= most / 2);
    let (ended, ()) = tokio::join!(sync.one_session(&mut held, &mut backoff), async {
        let stream = plane.streams.recv().await.unwrap();
        stream.send(Down::NodeGone(pb::NodeGone { epoch: 1, revision: 1 })).await;
    });
    assert!(ended.is_ok());
    assert!(backoff.step() >= most / 2);
    let (ended, ()) = tokio::join!(sync.one_session(&mut held, &mut backoff), async {
        let stream = plane.streams.recv().await.unwrap();
        stream.send(Down::Trust(agent.authorities.trust())).await;
        stream.send(Down::Denylist(agent.authorities.signed_denylist(&empty_denylist()))).await;
    });
    assert!(ended.is_ok());
    assert!(backoff.step() >= most / 2);
    let (ended, ()) = tokio::join!(sync.one_session(&mut held, &mut backoff), async {
        let stream = plane.streams.recv().await.unwrap();
        stream.send(Down::CurrentAt(pb::CurrentAt::default())).await;
    });
    assert!(ended.is_ok());
    assert!(backoff.step() <= first, "it was let in");
}

#[tokio::test]
async fn an_older_control_plane_that_knows_nothing_of_our_node_leaves_programs_who_they_are() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    let mut running = running::Running::start(agent, held).await;
    let mut told = running.workloads.entries();
    running.stream.send(Down::Workloads(pb::WorkloadEntries::default())).await;
    told.changed().await.unwrap();
    told.mark_unchanged();
    running.stream.send(Down::NodeGone(pb::NodeGone { epoch: 1, revision: 4 })).await;
    running.stream.send(Down::Question(pb::Question::default())).await;
    running.stream.next(|up| matches!(up, Up::Answer(_)).then_some(())).await;
    assert!(!told.has_changed().unwrap());
    running.stream.send(Down::NodeGone(pb::NodeGone { epoch: 1, revision: 6 })).await;
    tokio::time::timeout(Duration::from_secs(10), told.changed()).await.unwrap().unwrap();
}

/// One that does not know the message would end the stream.
#[tokio::test]
async fn a_control_plane_is_told_of_unknown_keys_once_it_asks_for_them() {
    let agent = Agent::new();
    let held = agent.held();
    agent.mesh.unknown_keys.note(&Name::parse("login").unwrap());
    let mut running = running::Running::start(agent, held).await;
    running.stream.send(Down::Question(pb::Question::default())).await;
    let told = |up| match up {
        Up::Answer(_) => Some(None),
        Up::UnknownKey(pb::UnknownKey { issuer }) => Some(Some(issuer)),
        _ => None,
    };
    assert_eq!(running.stream.next(told).await, None);
    running.stream.send(Down::Observe(pb::Observe { unknown_keys: true, ..pb::Observe::default() })).await;
    assert_eq!(running.stream.next(told).await.as_deref(), Some("login"));
}

#[test]
fn floors_are_by_service() {
    let agent = Agent::new();
    let name = Name::parse("payments.shop").unwrap();
    let floors = Floors {
        node: Mark { epoch: 9, revision: 9 },
        services: [(name, Mark { epoch: 1, revision: 8 })].into(),
    };
    let check = |view: &pb::View| {
        authenticate(&agent.authorities.signed(view), &agent.authorities.view_keys(), &recipient(), &floors)
            .map(|authentic| authentic.mark.revision)
            .map_err(|rejection| rejection.reason())
    };
    assert_eq!(check(&service_view("payments.shop", 7)), Err("older"));
    assert_eq!(check(&service_view("payments.shop", 8)), Ok(8));
    assert_eq!(check(&service_view("other.shop", 1)), Ok(1));
    assert_eq!(check(&node_view(8)), Err("older"));
}

#[tokio::test]
async fn what_another_key_signs_anew_is_kept_by_its_signature() {
    let mut agent = Agent::new();
    let mut held = agent.held();
    let Taken::Node(before) = agent.take(&mut held, &node_view(5)).await else { panic!("not taken") };
    agent.take(&mut held, &service_view("payments.shop", 4)).await;
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &agent.authorities.view_keys())
        .unwrap();
    held.saved().await;

    let former = std::mem::replace(&mut agent.authorities, Authorities::new());
    assert!(
        matches!(agent.take(&mut held, &node_view(5)).await, Taken::Node(view) if Arc::ptr_eq(&view, &before))
    );
    let taken = agent.take(&mut held, &service_view("payments.shop", 4)).await;
    assert!(matches!(taken, Taken::Service(acknowledge) if acknowledge.revision == 4));
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &agent.authorities.view_keys())
        .unwrap();
    held.saved().await;
    drop(held);

    // A start that believes the new key alone finds everything good, and one by the former key nothing.
    let agent = agent.restarted();
    let held = agent.held();
    assert_eq!((agent.revision(), agent.closed()), (Some(5), None));
    let hello = held.hello(UnixMillis(0), false, &agent.authorities.view_keys());
    let key = agent.authorities.view_key_id();
    assert_eq!(hello.view_key_ids, std::slice::from_ref(&key));
    assert_eq!(hello.denylist.map(|held| held.key_id), Some(key.clone()));
    let services: Vec<_> = hello.services.into_iter().map(|service| service.held.unwrap().key_id).collect();
    assert_eq!(services, [key]);
    drop(held);
    let agent = Agent { authorities: former, ..agent.restarted() };
    agent.held();
    assert_eq!(agent.revision(), None);
}

fn empty_denylist() -> pb::Denylist {
    pb::Denylist { epoch: 1, revision: 1, trust_domain: "shop.local".to_owned(), ..pb::Denylist::default() }
}
