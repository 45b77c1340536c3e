use std::collections::HashSet;

use hauberk_proto::sds::google::rpc::{ErrorInfo, Status};
use hauberk_tls::Fingerprint;
use prost::Message;

use super::*;
use crate::mesh::{ClosedReason, Denylist, Inbound, Mesh};
use crate::secret_file;
use crate::testing::{Authorities, ControlPlane, HOUR, SilentFile, StalledFile, around, config, now};

struct Agent {
    renewal: Renewal,
    expiry: Expiry,
    mesh: Mesh,
    credentials: Credentials,
    directory: tempfile::TempDir,
}

/// An agent whose clock is ahead, with a certificate of one hour.
fn agent(authorities: &Authorities, plane: &ControlPlane, ahead: Duration, more: &[&str]) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "hbk1-secret").unwrap();
    let token = format!("--join-token-file={}", directory.path().join("token").display());
    let more: Vec<&str> =
        more.iter().map(|flag| if *flag == "token" { token.as_str() } else { flag }).collect();
    let state_dir = directory.path().join("state");
    let state = Arc::new(State::open(&state_dir).unwrap());
    let identity = authorities.identity("mesh/shop/node/orders", around(HOUR));
    let (instance, issued_at) = (identity.instance, identity.issued_at);
    state.save_trust(&authorities.stored_trust()).unwrap();
    let issued = Issued { identity, trust: authorities.stored_trust() };
    let credentials = Credentials::new(issued, Arc::clone(&state)).unwrap();
    let clock = Clock::starting_at(now().plus(ahead));
    let mesh = Mesh::new();
    mesh.gate.set_certificate_valid(true);
    let config = Arc::new(config(plane.address, &state_dir, &more));
    let revocation = Revocation::new(
        Arc::clone(&config),
        Arc::clone(&state),
        credentials.clone(),
        Arc::clone(&mesh.denied),
    );
    let renewal = Renewal {
        config,
        state,
        clock,
        credentials: credentials.clone(),
        decisions: Arc::new(Decisions::new(clock, instance, [0; 4], None)),
        revocation: Arc::new(revocation),
        instance,
        issued_at,
        used_token: None,
    };
    let expiry = Expiry::new(credentials.clone(), Arc::clone(&mesh.gate), clock);
    Agent { renewal, expiry, mesh, credentials, directory }
}

impl Agent {
    /// Tells it that its certificate was revoked.
    fn revoke(&self) {
        let serial = self.credentials.live().current().svid().unwrap().serial();
        self.mesh.denied.replace(Denylist { serials: HashSet::from([serial]), ..Denylist::default() });
    }

    fn put_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).unwrap();
    }

    /// Joins anew by this token, which is put where one is looked for.
    async fn joins_by(&mut self, token: &str) {
        self.put_token(token);
        within(Box::pin(self.renewal.renew_once())).await.unwrap();
    }

    /// What a restart would know of its revocation.
    fn restarted(&self) -> Revocation {
        Revocation::new(
            Arc::clone(&self.renewal.config),
            Arc::clone(&self.renewal.state),
            self.credentials.clone(),
            Arc::clone(&self.mesh.denied),
        )
    }

    /// Why it does not join anew.
    async fn refused(&mut self) -> String {
        let refused = within(Box::pin(self.renewal.renew_once())).await.unwrap_err();
        let RenewError::NotJoined { problem: NotJoined::ByNothing { problem, .. }, .. } = &refused else {
            panic!("{refused}")
        };
        problem.clone()
    }
}

/// By which tokens somebody has joined.
fn shown(plane: &ControlPlane) -> Vec<String> {
    plane.enrollment.asked.lock().unwrap().iter().map(|(token, _)| token.clone()).collect()
}

fn key(credentials: &Credentials) -> Fingerprint {
    credentials.live().current().svid().unwrap().key_fingerprint()
}

fn is_expired(inbound: &Arc<Inbound>) -> bool {
    matches!(**inbound, Inbound::Closed { reason: ClosedReason::CertificateExpired })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

#[tokio::test]
async fn after_half_life_there_is_a_new_certificate_for_a_new_key() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    *plane.enrollment.lifetime.lock().unwrap() = HOUR * 5;
    plane.enrollment.refusals.lock().unwrap().push(tonic::Status::unavailable("later"));
    let agent = agent(&authorities, &plane, Duration::from_secs(45 * 60), &[]);
    let before = key(&agent.credentials);
    let mut changes = agent.credentials.live().subscribe();
    changes.mark_unchanged();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(agent.renewal.run(stop.clone()));
    within(changes.wait_for(|state| state.svid().unwrap().key_fingerprint() != before)).await.unwrap();
    assert_eq!(plane.enrollment.asked.lock().unwrap().len(), 2);
    assert!(agent.mesh.gate.has_valid_certificate());
    stop.cancel();
    within(tasks.join_next()).await;
    // It is on disk, key and certificate together.
    let renewed = key(&agent.credentials);
    drop((changes, agent.credentials, agent.expiry));
    let opened = async {
        // Whoever has written may have it for a moment longer.
        loop {
            match State::open(&agent.directory.path().join("state")) {
                Err(StateError::InUse(_)) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        }
    };
    let state = within(opened).await;
    assert_eq!(state.identity().unwrap().unwrap().svid.key_fingerprint(), renewed);
}

#[tokio::test]
async fn at_expiry_everything_is_denied_until_a_token_lets_us_in_again() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    *plane.enrollment.lifetime.lock().unwrap() = HOUR * 5;
    // Time has passed there too.
    *plane.enrollment.ahead.lock().unwrap() = HOUR * 2;
    let agent = agent(&authorities, &plane, HOUR * 2, &["token"]);
    let mut inbound = agent.mesh.inbound();
    inbound.mark_unchanged();
    plane.enrollment.refusals.lock().unwrap().push(tonic::Status::unavailable("later"));
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(agent.expiry.run(stop.clone()));
    tasks.spawn(agent.renewal.run(stop.clone()));
    within(inbound.wait_for(is_expired)).await.unwrap();
    assert!(!agent.mesh.gate.has_valid_certificate());
    within(inbound.wait_for(|inbound| !is_expired(inbound))).await.unwrap();
    assert!(agent.mesh.gate.has_valid_certificate());
    assert_eq!(plane.enrollment.asked.lock().unwrap()[0].0, "hbk1-secret");
    stop.cancel();
    while within(tasks.join_next()).await.is_some() {}
}

#[tokio::test]
async fn at_expiry_everything_is_denied_also_while_a_renewal_is_under_way() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let Agent { renewal, credentials, mesh, directory: _directory, .. } =
        agent(&authorities, &plane, Duration::from_secs(45 * 60), &[]);
    let mut inbound = mesh.inbound();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let answers = plane.enrollment.may_answer.lock().await;
    tasks.spawn(renewal.run(stop.clone()));
    let is_asked = async {
        while plane.enrollment.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within(is_asked).await;
    // The end comes while it waits for the answer.
    let clock = Clock::starting_at(credentials.not_after().minus(Duration::from_millis(200)));
    tasks.spawn(Expiry::new(credentials, Arc::clone(&mesh.gate), clock).run(stop.clone()));
    within(inbound.wait_for(is_expired)).await.unwrap();
    assert_eq!(plane.enrollment.asked.lock().unwrap().len(), 1);
    drop(answers);
    stop.cancel();
    while within(tasks.join_next()).await.is_some() {}
}

#[tokio::test]
async fn a_full_disk_costs_one_request_and_the_certificate_is_written_once_there_is_room() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    *plane.enrollment.lifetime.lock().unwrap() = HOUR * 5;
    let agent = agent(&authorities, &plane, Duration::from_secs(45 * 60), &[]);
    let in_the_way = agent.renewal.state.directory().join(".identity.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let (before, state) = (key(&agent.credentials), Arc::clone(&agent.renewal.state));
    let mut changes = agent.credentials.live().subscribe();
    changes.mark_unchanged();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(agent.renewal.run(stop.clone()));
    within(changes.wait_for(|live| live.svid().unwrap().key_fingerprint() != before)).await.unwrap();
    assert!(state.identity().unwrap().is_none());
    std::fs::remove_dir(&in_the_way).unwrap();
    let written = async {
        while state.identity().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    within(written).await;
    assert_eq!(state.identity().unwrap().unwrap().svid.key_fingerprint(), key(&agent.credentials));
    assert_eq!(plane.enrollment.asked.lock().unwrap().len(), 1, "each request is a record");
    stop.cancel();
    within(tasks.join_next()).await;
}

/// The disk would hold up a thread of the runtime's, and so this test, were there but one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_keeps_no_certificate_from_coming_into_force() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let Agent { mut renewal, credentials, directory: _directory, .. } =
        agent(&authorities, &plane, Duration::ZERO, &[]);
    let state = Arc::clone(&renewal.state);
    let stalled = StalledFile::at(state.directory().join(".identity.new"));
    let mut tasks = tokio::task::JoinSet::new();
    let keeping = tasks.spawn(keep_saved(credentials.clone()));
    // The second comes while the disk is at the first.
    for _ in 0..2 {
        let before = key(&credentials);
        let mut attempt = tokio::task::JoinSet::new();
        attempt.spawn(async move {
            renewal.renew_once().await.unwrap();
            renewal
        });
        renewal = within(attempt.join_next()).await.unwrap().unwrap();
        assert_ne!(key(&credentials), before);
        assert!(credentials.is_unsaved());
    }
    drop(stalled);
    let written = async {
        while credentials.is_unsaved() {
            tokio::task::yield_now().await;
        }
    };
    within(written).await;
    assert_eq!(state.identity().unwrap().unwrap().svid.key_fingerprint(), key(&credentials));
    keeping.abort();
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_while_opens_again_what_it_has_closed() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let agent = agent(&authorities, &plane, HOUR * 2, &[]);
    let is_open_at = |at: UnixMillis| {
        let gate = &agent.mesh.gate;
        Expiry::new(agent.credentials.clone(), Arc::clone(gate), Clock::starting_at(at)).look();
        gate.has_valid_certificate()
    };
    assert!(!is_open_at(now().plus(HOUR * 2)));
    // Before the certificate begins it is as little valid.
    assert!(!is_open_at(now().minus(HOUR * 2)));
    assert!(is_open_at(now()));
    assert!(plane.enrollment.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let agent = agent(&authorities, &plane, Duration::ZERO, &[]);
    let identity = authorities.identity("mesh/shop/node/payments", around(HOUR));
    let other = Issued { identity, trust: authorities.stored_trust() };
    assert!(agent.credentials.replace(other).is_err());
    assert!(agent.credentials.spiffe_id().unwrap().as_str().ends_with("/orders"));
}

#[tokio::test]
async fn a_renewal_that_is_answered_after_our_node_has_gone_is_neither_kept_nor_put_in_force() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let state = Arc::clone(&agent.renewal.state);
    let before = key(&agent.credentials);
    let answers = plane.enrollment.may_answer.lock().await;
    let forgetting = async {
        while plane.enrollment.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        state.node_is_gone();
        state.forget_node().unwrap();
        drop(answers);
    };
    let both = Box::pin(async { tokio::join!(agent.renewal.renew_once(), forgetting) });
    let (renewed, ()) = within(both).await;
    assert!(renewed.unwrap_err().to_string().contains("was deleted"));
    assert_eq!(key(&agent.credentials), before);
    assert!(!agent.credentials.is_unsaved());
    assert!(state.identity().unwrap().is_none());

    // Nor does a token make somebody of us, or is it spent.
    agent.renewal.clock = Clock::starting_at(now().plus(HOUR * 2));
    let joined = within(Box::pin(agent.renewal.renew_once())).await;
    assert!(joined.unwrap_err().to_string().contains("was deleted"));
    assert_eq!(plane.enrollment.asked.lock().unwrap().len(), 1);

    // A view of ours says that we are somebody again.
    state.node_is_back();
    agent.renewal.clock = Clock::starting_at(now());
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
    assert_ne!(key(&agent.credentials), before);
    agent.credentials.save().unwrap();
    assert!(state.identity().unwrap().is_some());
}

/// As the control plane answers of whom it has no record.
fn not_on_record() -> tonic::Status {
    let info = ErrorInfo { reason: "NOT_ON_RECORD".to_owned(), domain: "hauberk".to_owned() };
    let type_url = "type.googleapis.com/google.rpc.ErrorInfo".to_owned();
    let details = vec![prost_types::Any { type_url, value: info.encode_to_vec() }];
    let details = Status { code: 7, message: String::new(), details }.encode_to_vec();
    tonic::Status::with_details(tonic::Code::PermissionDenied, "no record", details.into())
}

#[tokio::test]
async fn whoever_is_on_no_record_joins_anew_at_once_by_a_certificate_that_is_still_valid() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let before = key(&agent.credentials);
    plane.enrollment.refusals.lock().unwrap().push(not_on_record());
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
    let asked = plane.enrollment.asked.lock().unwrap().clone();
    let tokens: Vec<&str> = asked.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(tokens, ["", "hbk1-secret"]);
    let now = key(&agent.credentials);
    assert_ne!(now, before);
    assert_eq!(now.to_string(), asked[1].1);
    // It is kept, and renewed from now on.
    agent.credentials.save().unwrap();
    assert_eq!(agent.renewal.state.identity().unwrap().unwrap().svid.key_fingerprint(), now);
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
    assert_eq!(plane.enrollment.asked.lock().unwrap()[2].0, "");
}

#[tokio::test]
async fn whoever_hears_it_of_its_certificate_does_not_wait_for_half_life() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let serial =
        |credentials: &Credentials| credentials.live().current().svid().map(hauberk_tls::Svid::serial);
    let (before, credentials) = (serial(&agent.credentials), agent.credentials);
    plane.enrollment.refusals.lock().unwrap().push(not_on_record());
    let mut changes = credentials.live().subscribe();
    changes.mark_unchanged();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(agent.renewal.run(stop.clone()));
    tokio::task::yield_now().await;
    credentials.tell_not_on_record(before);
    within(changes.wait_for(|state| state.svid().map(hauberk_tls::Svid::serial) != before)).await.unwrap();
    let asked = plane.enrollment.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().map(|(token, _)| token.as_str()).collect::<Vec<_>>(), ["", "hbk1-secret"]);
    // What is said of the former certificate is nothing to the one after it.
    credentials.tell_not_on_record(before);
    assert!(!credentials.is_not_on_record());
    stop.cancel();
    within(tasks.join_next()).await;
}

#[tokio::test]
async fn whoever_cannot_join_anew_serves_on_and_is_told_once_what_to_do() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &[]);
    let before = key(&agent.credentials);
    let mut told = None;
    plane.enrollment.refusals.lock().unwrap().extend([not_on_record(), not_on_record()]);
    for round in 0..2 {
        let problem = within(Box::pin(agent.renewal.renew_once())).await.unwrap_err();
        let RenewError::NotJoined { why, problem: NotJoined::ByNothing { problem: lack, kind } } = &problem
        else {
            panic!("{problem}")
        };
        assert!(why.contains("no record") && lack.contains("--join-token-file"), "{problem}");
        assert_eq!(told.as_ref() == Some(kind), round == 1);
        agent.renewal.tell(&problem, &mut told, Duration::ZERO);
    }
    assert!(agent.mesh.gate.has_valid_certificate());
    assert_eq!(key(&agent.credentials), before);
    let to_do = agent.renewal.what_to_do();
    assert!(to_do.contains("hauberk token create --mesh shop --node orders --out FILE"), "{to_do}");
    assert!(to_do.contains("start the agent again with --join-token-file FILE"), "{to_do}");
    // A backup of later may know it again.
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
}

/// The control plane keeps it from becoming somebody else, and from coming back by what was made before.
#[tokio::test]
async fn whoever_joins_anew_says_who_it_was() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let (instance, svid) = (agent.renewal.instance, agent.credentials.live().current());
    let svid = svid.svid().unwrap();
    plane.enrollment.refusals.lock().unwrap().push(not_on_record());
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
    let formers = plane.enrollment.formers.lock().unwrap().clone();
    let [Some(former)] = formers.as_slice() else { panic!("{formers:?}") };
    assert_eq!(former.instance_id, instance.to_string());
    assert_eq!(former.spiffe_id, "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(former.serial, svid.serial().to_string());
    assert_ne!(agent.credentials.live().current().svid().unwrap().serial(), svid.serial());
}

#[tokio::test]
async fn a_token_for_another_node_is_neither_kept_nor_put_in_force() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let identity = authorities.identity("mesh/shop/node/payments", around(HOUR));
    let others = Credentials::new(
        Issued { identity, trust: authorities.stored_trust() },
        Arc::clone(&agent.renewal.state),
    )
    .unwrap();
    agent.renewal.credentials = others.clone();
    let before = key(&others);
    // By a control plane of an earlier release, which issues it; whoever runs the agent is told once.
    let mut kinds = Vec::new();
    for _ in 0..2 {
        plane.enrollment.refusals.lock().unwrap().push(not_on_record());
        let refused = within(Box::pin(agent.renewal.renew_once())).await.unwrap_err();
        let RenewError::NotJoined { problem: NotJoined::ByNothing { problem, kind }, .. } = refused else {
            panic!("{refused}")
        };
        assert!(problem.contains("names spiffe://shop.local/mesh/shop/node/orders"), "{problem}");
        kinds.push(kind);
    }
    assert_eq!(kinds[0], kinds[1]);
    assert!(agent.renewal.what_to_do().contains("--mesh shop --node payments"));
    assert_eq!(key(&others), before);
    assert!(agent.renewal.state.identity().unwrap().is_none());
}

#[tokio::test]
async fn whoever_is_revoked_comes_back_by_another_token_alone() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    agent.renewal.used_token = Some(TokenDigest::of("hbk1-secret"));
    let before = key(&agent.credentials);
    let mut changes = agent.credentials.live().subscribe();
    changes.mark_unchanged();
    agent.revoke();
    let RenewError::NotJoined { problem: NotJoined::ByNothing { problem, .. }, why } =
        within(Box::pin(agent.renewal.renew_once())).await.unwrap_err()
    else {
        panic!("it lasts until somebody makes a token")
    };
    assert!(why.contains("revoked") && problem.contains("another one is needed"), "{why}: {problem}");
    assert!(agent.renewal.what_to_do().contains("without a restart"));
    assert!(plane.enrollment.asked.lock().unwrap().is_empty());

    std::fs::write(agent.directory.path().join("token"), "hbk1-another").unwrap();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(agent.renewal.run(stop.clone()));
    within(changes.wait_for(|state| state.svid().unwrap().key_fingerprint() != before)).await.unwrap();
    let asked = plane.enrollment.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().map(|(token, _)| token.as_str()).collect::<Vec<_>>(), ["hbk1-another"]);
    stop.cancel();
    within(tasks.join_next()).await;
    drop((changes, agent.credentials, agent.expiry));
}

/// As one that joined by evidence, or with an earlier release; or whose file goes once it has joined.
#[tokio::test]
async fn whoever_is_revoked_and_had_no_token_comes_back_by_the_first_that_is_made() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let path = agent.directory.path().join("token");
    for token_of_before in [None, Some("")] {
        match token_of_before {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => agent.put_token(text),
        }
        agent.renewal.used_token = None;
        agent.revoke();
        let before = shown(&plane).len();
        for _ in 0..2 {
            let problem = agent.refused().await;
            assert!(problem.contains("token: "), "{problem}");
        }
        agent.joins_by("hbk1-made").await;
        assert_eq!(shown(&plane)[before..], ["hbk1-made"]);
    }
}

#[tokio::test]
async fn what_lay_there_when_we_were_revoked_does_not_undo_that() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    // Others join by it, and we never have.
    agent.renewal.used_token = Some(TokenDigest::of("hbk1-first"));
    agent.put_token("hbk1-of-all");
    agent.revoke();
    assert!(agent.refused().await.contains("another one is needed"));
    // Nor does that by which we joined, should it be put back.
    agent.put_token("hbk1-first");
    assert!(agent.refused().await.contains("another one is needed"));
    agent.put_token("hbk1-of-all");
    assert!(agent.refused().await.contains("another one is needed"));
    assert!(shown(&plane).is_empty());
    agent.joins_by("hbk1-made").await;
    assert_eq!(shown(&plane), ["hbk1-made"]);
}

#[tokio::test]
async fn what_lay_there_when_we_heard_is_known_after_a_restart_until_we_have_joined() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let state = Arc::clone(&agent.renewal.state);
    let kept = |is_kept: bool| {
        let state = Arc::clone(&state);
        async move {
            while state.spent_token().unwrap().is_some() != is_kept {
                tokio::task::yield_now().await;
            }
        }
    };
    // At once, whatever a renewal waits for meanwhile.
    let heard = async {
        agent.revoke();
        kept(true).await;
    };
    tokio::select! {
        () = agent.renewal.revocation.follow() => {}
        () = within(heard) => {}
    }
    agent.renewal.revocation = Arc::new(agent.restarted());
    assert!(agent.refused().await.contains("another one is needed"));
    agent.put_token("hbk1-made");
    agent.renewal.revocation = Arc::new(agent.restarted());
    within(Box::pin(agent.renewal.renew_once())).await.unwrap();
    assert_eq!(shown(&plane), ["hbk1-made"]);
    // A restart would find who was revoked, until the disk has who we are by now.
    assert!(!agent.renewal.revocation.keep(None).await);
    assert!(state.spent_token().unwrap().is_some());
    agent.credentials.save().unwrap();
    tokio::select! {
        () = agent.renewal.revocation.follow() => {}
        () = within(kept(false)) => {}
    }
    // It is another matter from here on: the token that it has just used is spent.
    agent.revoke();
    assert!(agent.refused().await.contains("another one is needed"));

    // Damaged, it lets nobody in who was not meant to be.
    std::fs::write(state.directory().join("spent-token"), "x").unwrap();
    agent.renewal.used_token = None;
    agent.renewal.revocation = Arc::new(agent.restarted());
    assert!(agent.refused().await.contains("another one is needed"));
}

/// As by what the system refuses for a moment, or what an administrator has set.
#[tokio::test]
async fn a_token_that_could_not_be_read_when_we_were_revoked_does_not_undo_that_later() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let path = agent.directory.path().join("token");
    // It leads to itself: so it cannot be read by whoever may read everything either.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    agent.revoke();
    for _ in 0..2 {
        let problem = agent.refused().await;
        assert!(problem.contains("token: ") && problem.contains("not known which token"), "{problem}");
    }
    std::fs::remove_file(&path).unwrap();
    agent.put_token("hbk1-secret");
    assert!(agent.refused().await.contains("another one is needed"));
    assert!(shown(&plane).is_empty());
    agent.joins_by("hbk1-made").await;
    assert_eq!(shown(&plane), ["hbk1-made"]);
    // What is no text was none.
    std::fs::write(&path, [0xff]).unwrap();
    agent.renewal.used_token = None;
    agent.revoke();
    assert!(agent.refused().await.contains("token: "));
    agent.joins_by("hbk1-next").await;
    assert_eq!(shown(&plane), ["hbk1-made", "hbk1-next"]);
}

/// As one in the network, or a mount of secrets.
#[tokio::test]
async fn a_token_that_no_disk_answers_for_holds_up_nobody_and_does_not_undo_a_revocation() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let path = agent.directory.path().join("token");
    std::fs::remove_file(&path).unwrap();
    let silent = SilentFile::at(path);
    agent.revoke();
    let revocation = Arc::clone(&agent.renewal.revocation);
    tokio::time::pause();
    tokio::select! {
        () = revocation.follow() => {}
        () = tokio::time::advance(secret_file::PATIENCE / 2) => {}
    }
    let (problem, ()) = tokio::join!(agent.refused(), tokio::time::advance(3 * secret_file::PATIENCE / 2));
    assert!(problem.contains("does not answer") && problem.contains("not known which token"), "{problem}");
    tokio::time::resume();
    drop(silent);
    agent.put_token("hbk1-secret");
    assert!(agent.refused().await.contains("another one is needed"));
    assert!(shown(&plane).is_empty());
    agent.joins_by("hbk1-made").await;
    assert_eq!(shown(&plane), ["hbk1-made"]);
}

#[tokio::test]
async fn what_is_to_be_done_can_be_done_wherever_it_is_read() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let mut out_at = |path: &str| {
        let flag = format!("--join-token-file={path}");
        agent.renewal.config = Arc::new(config(plane.address, agent.renewal.state.directory(), &[&flag]));
        let to_do = agent.renewal.what_to_do();
        let command = to_do.split('`').nth(1).unwrap();
        command.split_once(" --out ").unwrap().1.to_owned()
    };
    assert_eq!(out_at("/run/secrets/token"), "/run/secrets/token");
    assert_eq!(out_at("/srv/my mesh/it's"), r"'/srv/my mesh/it'\''s'");
    let directory = std::env::current_dir().unwrap();
    assert!(out_at("join/token").contains(&directory.join("join/token").display().to_string()));
}

#[tokio::test]
async fn what_is_damaged_is_cleared_away_once_it_is_known_that_we_are_not_revoked() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    let state = Arc::clone(&agent.renewal.state);
    let path = state.directory().join("spent-token");
    std::fs::write(&path, "x").unwrap();
    let revocation = agent.restarted();
    agent.mesh.denied.lose();
    let cleared = async {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(path.exists(), "we may be revoked");
        agent.mesh.denied.replace(Denylist::default());
        while path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = revocation.follow() => {}
        () = within(cleared) => {}
    }
    assert!(!agent.restarted().is_damaged());
    // Whoever is revoked writes over it.
    std::fs::write(&path, "x").unwrap();
    let revocation = agent.restarted();
    assert!(revocation.is_damaged());
    agent.revoke();
    let noted = async {
        while !matches!(state.spent_token(), Ok(Some(_))) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = revocation.follow() => {}
        () = within(noted) => {}
    }
}

/// All who are told so renew within that time: a rotation waits for the last of them.
#[tokio::test(start_paused = true)]
async fn whoever_is_refused_meanwhile_puts_off_no_renewal_that_all_spread() {
    const WITHIN: Duration = Duration::from_secs(10);
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let agent = agent(&authorities, &plane, Duration::ZERO, &[]);
    let issuer = agent.credentials.live().current().svid().unwrap().issuer_serial().unwrap();
    let renew_issuers = vec![issuer.to_string()];
    let renew_within_ms = u32::try_from(WITHIN.as_millis()).unwrap();
    let trust = hauberk_proto::agent::v1::Trust { renew_issuers, renew_within_ms, ..authorities.trust() };
    agent.credentials.replace_trust(trust).unwrap();
    let denials = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            agent.mesh.denied.replace(Denylist::default());
        }
    };
    let waits = async {
        // By chance one or two would be over in time all the same.
        for _ in 0..100 {
            let since = Instant::now();
            agent.renewal.wait_until_due(Due { at: now().plus(HOUR), by: since + HOUR }).await;
            assert!(since.elapsed() <= WITHIN + Duration::from_millis(10), "{:?}", since.elapsed());
        }
    };
    tokio::select! {
        () = denials => {}
        () = waits => {}
    }
}

#[tokio::test]
async fn by_which_token_we_joined_is_known_after_renewals_and_restarts() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let mut agent = agent(&authorities, &plane, Duration::ZERO, &["token"]);
    plane.enrollment.refusals.lock().unwrap().push(not_on_record());
    for _ in 0..2 {
        within(Box::pin(agent.renewal.renew_once())).await.unwrap();
        agent.credentials.save().unwrap();
        let stored = agent.renewal.state.identity().unwrap().unwrap();
        assert_eq!(stored.used_token, Some(TokenDigest::of("hbk1-secret")));
    }
}
