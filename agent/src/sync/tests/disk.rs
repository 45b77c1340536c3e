//! What a disk refuses is in force all the same, and is said to be kept only once it is.

use futures_util::FutureExt;
use hauberk_identity::InstanceId;

use super::running::Running;
use super::*;
use crate::mesh::Denial;
use crate::sync::disk::Write;
use crate::testing::{StalledFile, Stream};

/// A session of an agent whose disk takes no file of this name.
async fn full_at(name: &str) -> (Running, std::path::PathBuf) {
    let agent = Agent::new();
    let held = agent.held();
    let in_the_way = agent.state.directory().join(name);
    std::fs::create_dir(&in_the_way).unwrap();
    (Running::start(agent, held).await, in_the_way)
}

impl Running {
    /// Whether it answers a question before it says that something is kept; it answers in the order in which it hears.
    async fn answers_first(&mut self) -> bool {
        self.stream.send(Down::Question(pb::Question { question_id: 1, ..pb::Question::default() })).await;
        let is_answer = |up| match up {
            Up::Answer(_) => Some(true),
            Up::AcknowledgeDenylist(_) | Up::TrustInForce(_) | Up::Acknowledge(_) => Some(false),
            _ => None,
        };
        self.stream.next(is_answer).await
    }
}

/// A session of an agent whose disk answers to nothing from now on: it is at what to trust, which comes first.
async fn hanging() -> (Running, StalledFile) {
    let agent = Agent::new();
    let held = agent.held();
    let stalled = StalledFile::at(agent.state.directory().join(".trust.new"));
    let hanging = Running::start(agent, held).await;
    let trust = pb::Trust { version: 2, ..hanging.agent.authorities.trust() };
    hanging.stream.send(Down::Trust(trust)).await;
    until(|| hanging.credentials.trust().version() == 2).await;
    (hanging, stalled)
}

async fn until(is_so: impl Fn() -> bool) {
    let is_so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_so).await.expect("it is never so");
}

impl Running {
    /// Holds live traffic against what is in force.
    fn enforce(&self) -> tokio::task::JoinSet<()> {
        let decisions = Decisions::new(Clock::system(), "0123456789".parse().unwrap(), [1; 4], None);
        let connections = connections(&self.agent, Arc::new(decisions));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { connections.enforce(CancellationToken::new()).await });
        tasks
    }

    async fn acknowledged(&mut self) -> u64 {
        self.stream.next(|up| if let Up::Acknowledge(it) = up { Some(it.revision) } else { None }).await
    }
}

/// Whoever waited for the disk would hear nothing more of who is refused.
#[tokio::test]
async fn while_a_disk_hangs_what_comes_is_in_force_and_all_of_it_is_kept_once_it_answers() {
    let (mut hanging, stalled) = hanging().await;
    let _enforcing = hanging.enforce();
    let instance = |number: u64| InstanceId::from_random([number as u8; 8]);
    let list = |revision: u64| {
        let instance_ids = vec![instance(revision).to_string()];
        Down::Denylist(hanging.agent.authorities.signed_denylist(&pb::Denylist {
            revision,
            instance_ids,
            ..empty_denylist()
        }))
    };
    let lists = [list(1), list(2)];
    let applied = hanging.agent.mesh.denied.applied();
    for (list, revision) in lists.into_iter().zip(1..) {
        hanging.stream.send(list).await;
        // Live traffic obeys it too.
        until(|| applied.borrow().revision == revision).await;
    }
    let serial = hauberk_identity::Serial::of_instance(instance(2), [1; 16]);
    let denial = |agent: &Agent| agent.mesh.denied.denial(&recipient().spiffe_id, serial);
    assert_eq!(denial(&hanging.agent), Some(Denial::Revoked));
    let view = |revision| Down::View(hanging.agent.authorities.signed(&node_view(revision)));
    let views = [view(5), view(6)];
    for (view, revision) in views.into_iter().zip(5..) {
        hanging.stream.send(view).await;
        until(|| hanging.agent.mesh.applied.view().is_some_and(|view| view.revision == revision)).await;
    }
    assert!(hanging.answers_first().await, "none of it is kept");
    assert!(
        hanging.agent.state.denylist().unwrap().is_none() && hanging.agent.state.mark().unwrap().is_none()
    );

    drop(stalled);
    let (mut is_denylist_kept, mut is_view_kept) = (false, false);
    while !is_denylist_kept || !is_view_kept {
        let kept = |up| match up {
            Up::AcknowledgeDenylist(it) => Some((true, it.revision)),
            Up::Acknowledge(it) => Some((false, it.revision)),
            _ => None,
        };
        match hanging.stream.next(kept).await {
            (true, revision) => is_denylist_kept = revision == 2,
            (false, revision) => is_view_kept = revision == 6,
        }
    }
    // As if it were killed now.
    let state = &hanging.agent.state;
    let kept = [state.denylist().unwrap().unwrap().denylist, state.node_view().unwrap().unwrap().view];
    assert_eq!(pb::Denylist::decode(&*kept[0]).unwrap().revision, 2);
    assert_eq!(pb::View::decode(&*kept[1]).unwrap().revision, 6);
    let agent = hanging.stopped().await;
    assert_eq!(agent.state.mark().unwrap(), Some(Mark { epoch: 1, revision: 6 }));
    assert_eq!(agent.state.trust().unwrap().unwrap().version(), 2);
    let agent = agent.restarted();
    agent.held();
    assert_eq!((denial(&agent), agent.revision()), (Some(Denial::Revoked), Some(6)));
}

#[tokio::test]
async fn while_a_disk_hangs_a_node_goes_and_comes_back() {
    for comes_back in [false, true] {
        let (mut hanging, stalled) = hanging().await;
        let _enforcing = hanging.enforce();
        let state = Arc::clone(&hanging.agent.state);
        let identity = hanging.agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
        state.keeping().unwrap().save_identity(&identity).unwrap();
        hanging.stream.send(Down::View(hanging.agent.authorities.signed(&node_view(5)))).await;
        until(|| hanging.agent.revision() == Some(5)).await;
        hanging.stream.send(Down::NodeGone(pb::NodeGone { epoch: 1, revision: 6 })).await;
        until(|| hanging.agent.closed() == Some(ClosedReason::NodeDeleted)).await;
        until(|| state.membership().is_err()).await;
        assert!(hanging.answers_first().await, "it is not forgotten yet");
        if comes_back {
            hanging.stream.send(Down::View(hanging.agent.authorities.signed(&node_view(7)))).await;
            until(|| hanging.agent.revision() == Some(7)).await;
            assert!(state.membership().is_ok());
        }
        drop(stalled);
        assert_eq!(hanging.acknowledged().await, if comes_back { 7 } else { 6 });
        assert_eq!(state.node_view().unwrap().is_some(), comes_back);
        assert_eq!(state.identity().unwrap().is_some(), comes_back);
    }
}

/// An age that does not begin to count closes nothing.
#[tokio::test]
async fn while_a_disk_hangs_a_session_ends_and_begins_and_the_age_of_the_view_counts() {
    let (mut hanging, stalled) = hanging().await;
    hanging.stream.send(Down::CurrentAt(pb::CurrentAt::default())).await;
    until(|| hanging.agent.age.is_confirmed_for_now()).await;
    hanging.stream.down.send(Err(tonic::Status::unavailable("over"))).await.unwrap();
    until(|| !hanging.agent.age.is_confirmed_for_now()).await;
    let again = tokio::time::timeout(Duration::from_secs(10), hanging.plane.streams.recv());
    hanging.stream = again.await.expect("it comes back").unwrap();
    assert!(hanging.answers_first().await);
    drop(stalled);
}

/// Whoever waits for all to obey a change is not to count one that a restart would not find.
#[tokio::test]
async fn a_session_says_that_it_holds_the_view_that_the_disk_has_answered_about() {
    let (mut hanging, stalled) = hanging().await;
    let _enforcing = hanging.enforce();
    let view = || Down::View(hanging.agent.authorities.signed(&node_view(5)));
    hanging.stream.send(view()).await;
    let applied = hanging.agent.mesh.applied.clone();
    until(|| applied.view().is_some_and(|view| view.revision == 5)).await;
    let mut held_at = async |stream: &Stream| {
        stream.down.send(Err(tonic::Status::unavailable("over"))).await.unwrap();
        let again = tokio::time::timeout(Duration::from_secs(10), hanging.plane.streams.recv());
        let mut again = again.await.expect("it comes back").unwrap();
        let hello = again.next(|up| if let Up::Hello(hello) = up { Some(hello) } else { None }).await;
        (again, hello.held.map(|held| held.revision))
    };
    let (mut again, held) = held_at(&hanging.stream).await;
    assert_eq!(held, None, "the disk does not have it");
    // Told again, it is acknowledged once the disk has it.
    again.send(view()).await;
    drop(stalled);
    let revision = |up| if let Up::Acknowledge(it) = up { Some(it.revision) } else { None };
    assert_eq!(again.next(revision).await, 5);
    assert_eq!(held_at(&again).await.1, Some(5));
}

/// Killed in between, it would find a denylist that is signed by nobody whom it believes.
#[tokio::test]
async fn whom_to_believe_is_kept_before_the_denylist_that_is_believed_by_it() {
    let agent = Agent::new();
    let mut held = agent.held();
    let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
    let issued = Issued { identity, trust: agent.authorities.stored_trust() };
    let credentials = Credentials::new(issued, Arc::clone(&agent.state)).unwrap();
    credentials.replace_trust(pb::Trust { version: 2, ..agent.authorities.trust() }).unwrap();
    let stalled = StalledFile::at(agent.state.directory().join(".denylist.new"));
    let keys = agent.authorities.view_keys();
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &keys).unwrap();
    held.save_trust(&credentials);
    let (disk, mut tasks) = (held.disk.clone(), tokio::task::JoinSet::new());
    tasks.spawn(async move { disk.write_all().await });
    until(|| credentials.is_trust_kept()).await;
    assert!(!held.disk.has(Kind::Denylist));
    drop(stalled);
    tasks.join_all().await;
}

/// The disk is at the former when they come.
#[tokio::test]
async fn whom_to_believe_by_now_is_kept_before_the_denylist_and_refused_keeps_nobody_off_it() {
    let agent = Agent::new();
    let mut held = agent.held();
    let keys = agent.authorities.view_keys();
    let told = |version| {
        let identity = agent.authorities.identity("mesh/shop/node/orders", around(HOUR));
        let issued = Issued { identity, trust: agent.authorities.stored_trust() };
        let credentials = Credentials::new(issued, Arc::clone(&agent.state)).unwrap();
        credentials.replace_trust(pb::Trust { version, ..agent.authorities.trust() }).unwrap();
        credentials
    };
    let [former, newer, newest] = [2, 3, 4].map(told);
    let stalled = StalledFile::at(agent.state.directory().join(".trust.new"));
    held.save_trust(&former);
    let disk = held.disk.clone();
    let mut writing = Box::pin(disk.write_all());
    assert!(writing.as_mut().now_or_never().is_none(), "it is at the former");
    disk.keep(Write::Trust(newer.clone()));
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &keys).unwrap();
    drop(stalled);
    writing.await;
    assert!(held.disk.has(Kind::Denylist) && newer.is_trust_kept());
    assert_eq!(agent.state.trust().unwrap().unwrap().version(), 3);

    std::fs::create_dir(agent.state.directory().join(".trust.new")).unwrap();
    held.save_trust(&newest);
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &keys).unwrap();
    held.disk.write_all().await;
    assert!(held.disk.has(Kind::Denylist) && !held.disk.has(Kind::Trust));
}

#[tokio::test]
async fn a_view_that_the_disk_refuses_holds_up_no_change_and_the_one_before_is_not_obeyed_again() {
    let agent = Agent::new();
    let mut held = agent.held();
    std::fs::create_dir(agent.state.directory().join("node-view")).unwrap();
    agent.take(&mut held, &node_view(6)).await;
    assert!(held.disk.has_answered(Kind::Node) && !held.disk.has(Kind::Node));
    assert_eq!(agent.state.mark().unwrap(), Some(Mark { epoch: 1, revision: 6 }));
}

#[tokio::test]
async fn a_denylist_that_the_disk_refuses_is_in_force_and_acknowledged_once_it_is_written() {
    let (mut full, in_the_way) = full_at("denylist").await;
    let revoked = InstanceId::from_random([7; 8]);
    let list = pb::Denylist { instance_ids: vec![revoked.to_string()], ..empty_denylist() };
    let serial = hauberk_identity::Serial::of_instance(revoked, [1; 16]);
    let denial = |agent: &Agent| agent.mesh.denied.denial(&recipient().spiffe_id, serial);
    // Live traffic obeys it at once.
    full.agent.mesh.denied.publish_applied(Mark { epoch: 1, revision: 1 });
    full.stream.send(Down::Denylist(full.agent.authorities.signed_denylist(&list))).await;
    assert!(full.answers_first().await, "the disk does not have it");
    assert_eq!(denial(&full.agent), Some(Denial::Revoked));
    std::fs::remove_dir(&in_the_way).unwrap();
    let kept =
        full.stream.next(|up| if let Up::AcknowledgeDenylist(it) = up { Some(it) } else { None }).await;
    assert_eq!((kept.epoch, kept.revision), (1, 1));
    let agent = full.stopped().await.restarted();
    agent.held();
    assert_eq!(denial(&agent), Some(Denial::Revoked));
}

#[tokio::test]
async fn a_session_says_that_it_holds_the_denylist_that_the_disk_has() {
    let agent = Agent::new();
    let mut held = agent.held();
    let in_the_way = agent.state.directory().join("denylist");
    std::fs::create_dir(&in_the_way).unwrap();
    let keys = agent.authorities.view_keys();
    held.take_denylist(agent.authorities.signed_denylist(&empty_denylist()), &keys).unwrap();
    held.disk.write_all().await;
    let held_at = |held: &Held| held.hello(UnixMillis(0), false, &keys).denylist.unwrap().revision;
    assert_eq!(held_at(&held), 0);
    std::fs::remove_dir(&in_the_way).unwrap();
    held.session_ended(UnixMillis(0));
    held.disk.write_all().await;
    assert_eq!(held_at(&held), 1);
}

#[tokio::test]
async fn trust_that_the_disk_refuses_is_in_force_and_acknowledged_once_it_is_written() {
    let (mut full, in_the_way) = full_at("trust").await;
    // One more authority, by whose absence it would be seen that an older one came back.
    let others = Authorities::new();
    let mut trust = pb::Trust { version: 2, ..full.agent.authorities.trust() };
    trust.roots.push(others.root.certificate().to_vec());
    let wanted = crate::state::StoredTrust::new(trust.clone()).unwrap();
    full.agent.mesh.applied.publish_trust(Arc::new(wanted.bundle.clone()));
    full.agent.mesh.applied.publish_followed(2);
    full.stream.send(Down::Trust(trust.clone())).await;
    assert!(full.answers_first().await, "the disk does not have it");
    assert_eq!(**full.credentials.live().current().bundle(), wanted.bundle, "every handshake obeys it");
    assert_eq!(full.credentials.trust().message(), &trust);
    // Told again, it is still not kept.
    full.stream.send(Down::Trust(trust.clone())).await;
    assert!(full.answers_first().await);
    std::fs::remove_dir(&in_the_way).unwrap();
    let kept = full.stream.next(|up| if let Up::TrustInForce(it) = up { Some(it) } else { None }).await;
    assert_eq!(kept.version, 2);
    assert_eq!(full.agent.state.trust().unwrap().unwrap().message(), &trust);
}

#[tokio::test]
async fn keys_of_tokens_that_the_disk_refuses_or_that_cannot_be_read_keep_trust_from_being_acknowledged() {
    let (mut full, in_the_way) = full_at("jwt-keys").await;
    let trust = pb::Trust { version: 2, ..full.agent.authorities.trust() };
    let bundle = crate::state::StoredTrust::new(trust.clone()).unwrap().bundle;
    full.agent.mesh.applied.publish_trust(Arc::new(bundle));
    full.agent.mesh.applied.publish_followed(2);
    let keys = pb::JwtKeys { jwks: r#"{"keys": []}"#.to_owned(), ..pb::JwtKeys::default() };
    full.stream.send(Down::JwtKeys(keys.clone())).await;
    full.stream.send(Down::Trust(trust.clone())).await;
    assert!(full.answers_first().await, "after a restart it would verify by others");
    std::fs::remove_dir(&in_the_way).unwrap();
    let in_force = |up| if let Up::TrustInForce(it) = up { Some(it) } else { None };
    assert_eq!(full.stream.next(in_force).await.version, 2);
    assert_eq!(full.agent.state.jwt_keys().unwrap(), Some(keys.clone()));

    let bad = pb::JwtKeys { jwks: "{".to_owned(), ..pb::JwtKeys::default() };
    full.stream.send(Down::JwtKeys(bad)).await;
    full.stream.send(Down::Trust(trust.clone())).await;
    assert!(full.answers_first().await, "the former are in force");
    full.stream.send(Down::JwtKeys(keys)).await;
    full.stream.send(Down::Trust(trust)).await;
    assert_eq!(full.stream.next(in_force).await.version, 2);
}

#[tokio::test]
async fn a_renewed_certificate_that_the_disk_refuses_is_in_force_and_written_later() {
    for name in [".trust.new", ".identity.new"] {
        let agent = Agent::new();
        let issued = |version| Issued {
            identity: agent.authorities.identity("mesh/shop/node/orders", around(HOUR)),
            trust: crate::state::StoredTrust::new(pb::Trust { version, ..agent.authorities.trust() })
                .unwrap(),
        };
        let serial_on_disk = || agent.state.identity().unwrap().map(|identity| identity.svid.serial());
        let former = issued(1);
        let before = former.identity.svid.serial();
        agent.state.save_trust(&former.trust).unwrap();
        agent.state.keeping().unwrap().save_identity(&former.identity).unwrap();
        let credentials = Credentials::new(former, Arc::clone(&agent.state)).unwrap();
        let in_the_way = agent.state.directory().join(name);
        std::fs::create_dir(&in_the_way).unwrap();
        let now = issued(2);
        let serial = now.identity.svid.serial();
        credentials.replace(now).unwrap();
        assert_eq!(credentials.live().current().svid().unwrap().serial(), serial, "{name}");
        assert_eq!(credentials.trust().version(), 2);
        // A restart finds the former, which is good until it ends, and with it what vouches for it.
        assert_eq!(serial_on_disk(), Some(before));
        credentials.unsaved().await;
        assert!(credentials.save().is_err());
        std::fs::remove_dir(&in_the_way).unwrap();
        credentials.save().unwrap();
        assert!(credentials.is_trust_kept());
        assert_eq!(serial_on_disk(), Some(serial), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_comes_into_force_while_something_else_is_written() {
    let agent = Agent::new();
    let issued = || Issued {
        identity: agent.authorities.identity("mesh/shop/node/orders", around(HOUR)),
        trust: agent.authorities.stored_trust(),
    };
    let credentials = Credentials::new(issued(), Arc::clone(&agent.state)).unwrap();
    let (now, after) = (issued(), issued());
    let [serial, later] = [&now, &after].map(|issued| issued.identity.svid.serial());
    let in_force = || credentials.live().current().svid().unwrap().serial();
    let keeping = agent.state.keeping().unwrap();
    credentials.replace(now).unwrap();
    assert_eq!(in_force(), serial);
    // Nor is anybody put in force while the disk has not yet forgotten who is gone.
    std::thread::scope(|scope| {
        agent.state.node_is_gone();
        let forgetting = scope.spawn(|| agent.state.forget_node());
        assert!(credentials.replace(after).is_err());
        assert_ne!(in_force(), later);
        drop(keeping);
        forgetting.join().unwrap().unwrap();
    });
    assert!(credentials.save().is_err());
    assert!(agent.state.identity().unwrap().is_none());
}

#[tokio::test]
async fn what_was_not_written_before_our_node_went_is_not_written_later() {
    for (name, trust_is_refused_longer) in [("identity", false), (".trust.new", true)] {
        let agent = Agent::new();
        let issued = |version| Issued {
            identity: agent.authorities.identity("mesh/shop/node/orders", around(HOUR)),
            trust: crate::state::StoredTrust::new(pb::Trust { version, ..agent.authorities.trust() })
                .unwrap(),
        };
        let credentials = Credentials::new(issued(1), Arc::clone(&agent.state)).unwrap();
        let in_the_way = agent.state.directory().join(name);
        std::fs::create_dir(&in_the_way).unwrap();
        credentials.replace(issued(2)).unwrap();
        assert!(credentials.save().is_err());
        assert!(credentials.is_unsaved());
        if !trust_is_refused_longer {
            std::fs::remove_dir(&in_the_way).unwrap();
        }
        agent.state.node_is_gone();
        agent.state.forget_node().unwrap();
        assert!(credentials.save().is_err());
        assert!(!credentials.is_unsaved());
        if trust_is_refused_longer {
            std::fs::remove_dir(&in_the_way).unwrap();
        }
        agent.state.node_is_back();
        credentials.save().unwrap();
        assert!(agent.state.identity().unwrap().is_none(), "{name}");
    }
}

/// A renewal may be answered just now.
#[tokio::test]
async fn nobody_is_put_in_force_for_a_node_that_is_gone_while_the_disk_hangs() {
    let agent = Agent::new();
    let issued = || Issued {
        identity: agent.authorities.identity("mesh/shop/node/orders", around(HOUR)),
        trust: agent.authorities.stored_trust(),
    };
    let credentials = Credentials::new(issued(), Arc::clone(&agent.state)).unwrap();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(5)).await;
    let stalled = StalledFile::at(agent.state.directory().join(".high-water-mark.new"));
    assert!(held.take_node_gone(Mark { epoch: 1, revision: 6 }));
    let mut forgetting = Box::pin(held.disk.write_all());
    assert!(forgetting.as_mut().now_or_never().is_none(), "the disk has not answered");
    let in_force = credentials.live().current().svid().unwrap().serial();
    assert!(credentials.replace(issued()).is_err());
    assert_eq!(credentials.live().current().svid().unwrap().serial(), in_force);
    assert!(!credentials.is_unsaved());
    drop(stalled);
    forgetting.await;
}
