use super::*;
use crate::credentials::Credentials;
use crate::testing::{Authorities, ControlPlane, HOUR, around, config};

struct Newcomer {
    directory: tempfile::TempDir,
    state: Arc<State>,
}

impl Newcomer {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&directory.path().join("state")).unwrap());
        std::fs::write(directory.path().join("token"), "hbk1-secret\n").unwrap();
        Self { directory, state }
    }

    fn config(&self, plane: &ControlPlane, more: &[&str]) -> Config {
        self.config_at(plane.address, more)
    }

    fn config_at(&self, address: std::net::SocketAddr, more: &[&str]) -> Config {
        let token = format!("--join-token-file={}", self.directory.path().join("token").display());
        let more: Vec<&str> = more.iter().copied().chain([token.as_str()]).collect();
        config(address, self.state.directory(), &more)
    }

    async fn obtain(&self, config: &Config) -> Result<Issued, EnrollError> {
        let stop = CancellationToken::new();
        let obtaining = Box::pin(obtain(config, &self.state, Clock::system(), &stop));
        tokio::time::timeout(Duration::from_secs(20), obtaining).await.unwrap()
    }
}

fn pin(authorities: &Authorities) -> String {
    format!("--root-fingerprint={}", authorities.root.fingerprint())
}

#[tokio::test]
async fn asks_again_with_the_same_key_until_it_is_answered() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    plane.enrollment.refusals.lock().unwrap().extend([
        tonic::Status::unavailable("starting"),
        tonic::Status::internal("disk"),
        tonic::Status::deadline_exceeded("slow"),
    ]);
    let newcomer = Newcomer::new();
    let config = newcomer.config(&plane, &[&pin(&authorities)]);
    let issued = newcomer.obtain(&config).await.unwrap();
    let asked = plane.enrollment.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|one| *one == asked[0]), "one key and one token: {asked:?}");
    assert_eq!(asked[0].0, "hbk1-secret");
    assert_eq!(issued.identity.svid.key_fingerprint().to_string(), asked[0].1);
    let formers = plane.enrollment.formers.lock().unwrap();
    assert!(formers.iter().all(Option::is_none), "it was nobody: {formers:?}");
}

#[tokio::test]
async fn a_reply_that_was_lost_is_asked_for_again_after_a_restart() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let newcomer = Newcomer::new();
    let config = newcomer.config(&plane, &[&pin(&authorities)]);
    let before = newcomer.state.keeping().unwrap().pending_key().unwrap().public_key().fingerprint();
    let issued = newcomer.obtain(&config).await.unwrap();
    assert_eq!(issued.identity.svid.key_fingerprint(), before);
}

#[tokio::test]
async fn with_a_valid_certificate_nobody_is_asked() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let newcomer = Newcomer::new();
    newcomer.obtain(&newcomer.config(&plane, &[&pin(&authorities)])).await.unwrap();
    // Neither token nor pin: what is on disk is enough.
    let again = newcomer.obtain(&config(plane.address, newcomer.state.directory(), &[])).await.unwrap();
    assert_eq!(again.identity.svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(plane.enrollment.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_expired_certificate_is_replaced_by_a_token_and_its_own_bundle() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let newcomer = Newcomer::new();
    let now = crate::testing::now();
    let expired = hauberk_identity::Validity::new(now.minus(HOUR * 2), now.minus(HOUR)).unwrap();
    let identity = authorities.identity("mesh/shop/node/orders", expired);
    newcomer.state.keeping().unwrap().save_identity(&identity).unwrap();
    newcomer.state.save_trust(&authorities.stored_trust()).unwrap();
    let without = newcomer.obtain(&config(plane.address, newcomer.state.directory(), &[])).await;
    assert!(matches!(without, Err(EnrollError::NoToken { .. })));
    let with = newcomer.obtain(&newcomer.config(&plane, &[])).await.unwrap();
    assert!(with.identity.svid.validity().contains(now));
}

#[tokio::test]
async fn whoever_outlives_what_is_issued_waits_for_the_clock_and_joins_by_the_same_token() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    *plane.enrollment.lifetime.lock().unwrap() = Duration::from_secs(60);
    let newcomer = Newcomer::new();
    let config = newcomer.config(&plane, &[&pin(&authorities)]);
    let lack = || stored(&newcomer.state, crate::testing::now()).err().unwrap();
    let ahead = Clock::starting_at(crate::testing::now().plus(Duration::from_secs(200)));
    let attempt = Box::pin(become_somebody(&config, &newcomer.state, ahead, lack())).await.unwrap_err();
    let Attempt::Again(problem) = &attempt else { panic!("{attempt}") };
    assert!(
        problem.starts_with("this host's clock is 20") || problem.starts_with("this host's clock is 199"),
        "{problem}"
    );
    assert!(problem.contains("ahead of the control plane's"), "{problem}");
    newcomer.obtain(&config).await.unwrap();
    let asked = plane.enrollment.asked.lock().unwrap().clone();
    assert!(asked.len() == 2 && asked[0] == asked[1], "one key and one token: {asked:?}");
}

#[tokio::test]
async fn a_clock_that_is_set_while_we_wait_finds_the_certificate_and_uses_no_token() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    // Our clock is behind by an hour, and that is told; soon it reaches what is on disk.
    *plane.enrollment.ahead.lock().unwrap() = HOUR;
    let newcomer = Newcomer::new();
    newcomer.state.save_trust(&authorities.stored_trust()).unwrap();
    let (config, without) =
        (newcomer.config(&plane, &[]), config(plane.address, newcomer.state.directory(), &[]));
    for config in [config, without] {
        let now = crate::testing::now();
        let later =
            hauberk_identity::Validity::new(now.plus(Duration::from_secs(2)), now.plus(HOUR)).unwrap();
        let identity = authorities.identity("mesh/shop/node/orders", later);
        let serial = identity.svid.serial();
        newcomer.state.keeping().unwrap().save_identity(&identity).unwrap();
        assert_eq!(newcomer.obtain(&config).await.unwrap().identity.svid.serial(), serial);
    }
    assert!(plane.enrollment.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_has_expired_by_our_clock_alone_is_waited_for_and_said() {
    let authorities = Authorities::new();
    let newcomer = Newcomer::new();
    let now = crate::testing::now();
    let expired = hauberk_identity::Validity::new(now.minus(HOUR * 2), now.minus(HOUR)).unwrap();
    let identity = authorities.identity("mesh/shop/node/orders", expired);
    newcomer.state.keeping().unwrap().save_identity(&identity).unwrap();
    newcomer.state.save_trust(&authorities.stored_trust()).unwrap();
    let comes_of = async |address: std::net::SocketAddr, clock: Clock| {
        let lack = stored(&newcomer.state, clock.now()).err().unwrap();
        lack.without_joining(&config(address, newcomer.state.directory(), &[]), clock).await
    };
    let waits_for = |attempt: &Attempt, what: &str| {
        let Attempt::Again(problem) = attempt else { panic!("{attempt}") };
        assert!(problem.contains("expired at") && problem.contains(what), "{problem}");
    };
    waits_for(&comes_of("127.0.0.1:1".parse().unwrap(), Clock::system()).await, "cannot be reached");
    let plane = ControlPlane::start(&authorities).await;
    let ahead = Clock::starting_at(now.plus(HOUR));
    waits_for(&comes_of(plane.address, ahead).await, "ahead of the control plane's");
    let over = comes_of(plane.address, Clock::system()).await;
    assert!(matches!(over, Attempt::Final(EnrollError::NoToken { .. })), "{over}");
    // It is there, and by another root than that which was kept: no clock mends that.
    let other = ControlPlane::start(&Authorities::new()).await;
    let refused = comes_of(other.address, Clock::system()).await;
    let Attempt::Stranger(EnrollError::NoToken { why, .. }) = &refused else { panic!("{refused}") };
    assert!(why.contains("the peer is refused") && why.contains("--root-fingerprint"), "{why}");
}

#[tokio::test]
async fn a_stranger_who_answers_for_a_while_ends_no_agent_that_was_in() {
    let authorities = Authorities::new();
    let stranger = ControlPlane::start(&Authorities::new()).await;
    for has_token in [false, true] {
        let newcomer = Newcomer::new();
        let now = crate::testing::now();
        let expired = hauberk_identity::Validity::new(now.minus(HOUR * 2), now.minus(HOUR)).unwrap();
        let identity = authorities.identity("mesh/shop/node/orders", expired);
        newcomer.state.keeping().unwrap().save_identity(&identity).unwrap();
        newcomer.state.save_trust(&authorities.stored_trust()).unwrap();
        // Counts those who come, and passes them on.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = match has_token {
            true => newcomer.config_at(address, &[]),
            false => config(address, newcomer.state.directory(), &[]),
        };
        let second_attempt = async {
            for _ in 0..2 {
                let (mut from, _) = listener.accept().await.unwrap();
                let mut to = tokio::net::TcpStream::connect(stranger.address).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        };
        let obtaining = newcomer.obtain(&config);
        tokio::select! {
            obtained = obtaining => panic!("{has_token}: {obtained:?}"),
            () = second_attempt => {}
        }
    }
    assert!(stranger.enrollment.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stranger_whom_every_attempt_of_a_minute_has_met_ends_an_agent() {
    let authorities = Authorities::new();
    let stranger = ControlPlane::start(&Authorities::new()).await;
    let newcomer = Newcomer::new();
    let now = crate::testing::now();
    let expired = hauberk_identity::Validity::new(now.minus(HOUR * 2), now.minus(HOUR)).unwrap();
    let identity = authorities.identity("mesh/shop/node/orders", expired);
    newcomer.state.keeping().unwrap().save_identity(&identity).unwrap();
    newcomer.state.save_trust(&authorities.stored_trust()).unwrap();
    let ended_by = async |config: &Config| {
        let a_minute_ago = tokio::time::Instant::now().checked_sub(strangers::STAY).unwrap();
        let (strangers, stop) = (Strangers(Some(a_minute_ago)), CancellationToken::new());
        let obtaining = Box::pin(obtain_after(strangers, config, &newcomer.state, Clock::system(), &stop));
        tokio::time::timeout(Duration::from_secs(20), obtaining).await.unwrap().unwrap_err()
    };
    let ended = ended_by(&newcomer.config(&stranger, &[])).await;
    assert!(matches!(ended, EnrollError::WrongControlPlane { .. }), "{ended}");
    let ended = ended_by(&config(stranger.address, newcomer.state.directory(), &[])).await;
    assert!(matches!(ended, EnrollError::NoToken { .. }), "{ended}");
    assert!(stranger.enrollment.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_final_and_told_in_the_control_planes_words() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    plane.enrollment.refusals.lock().unwrap().push(tonic::Status::permission_denied("the token is used up"));
    let newcomer = Newcomer::new();
    let error = newcomer.obtain(&newcomer.config(&plane, &[&pin(&authorities)])).await.unwrap_err();
    assert!(error.to_string().contains("the token is used up"));
    assert!(error.is_for_the_administrator());
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn another_control_plane_is_not_told_the_token() {
    let (ours, others) = (Authorities::new(), Authorities::new());
    let newcomer = Newcomer::new();
    let other = ControlPlane::start(&others).await;
    let error = newcomer.obtain(&newcomer.config(&other, &[&pin(&ours)])).await.unwrap_err();
    assert!(matches!(error, EnrollError::WrongControlPlane { .. }), "{error}");
    // A workload of the right root poses as control plane.
    let posing = ControlPlane::start_as(&ours, "mesh/shop/node/evil").await;
    let error = newcomer.obtain(&newcomer.config(&posing, &[&pin(&ours)])).await.unwrap_err();
    assert!(matches!(error, EnrollError::WrongControlPlane { .. }), "{error}");
    assert!(posing.enrollment.asked.lock().unwrap().is_empty());
    assert!(other.enrollment.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn says_what_is_missing() {
    let authorities = Authorities::new();
    let plane = ControlPlane::start(&authorities).await;
    let newcomer = Newcomer::new();
    let no_pin = newcomer.obtain(&newcomer.config(&plane, &[])).await.unwrap_err();
    assert!(matches!(no_pin, EnrollError::NoPin));
    let no_file =
        newcomer.obtain(&newcomer.config(&plane, &["--bundle-file=/nonexistent"])).await.unwrap_err();
    assert!(matches!(no_file, EnrollError::BundleFile { .. }));
    assert!(no_file.is_for_the_administrator());
}

#[tokio::test]
async fn what_the_control_plane_sends_is_verified() {
    let (ours, others) = (Authorities::new(), Authorities::new());
    let identity = others.identity("mesh/shop/node/orders", around(HOUR));
    let foreign = Issued { identity, trust: ours.stored_trust() };
    assert!(matches!(foreign.verify(crate::testing::now()), Err(CredentialsError::Unverified(_))));
    let identity = ours.identity("workload/batch", around(HOUR));
    let workload = Issued { identity, trust: ours.stored_trust() };
    assert!(matches!(workload.verify(crate::testing::now()), Err(CredentialsError::NoNode(_))));
    let mut identity = ours.identity("mesh/shop/node/orders", around(HOUR));
    identity.key = KeyPair::generate().unwrap();
    let swapped = Issued { identity, trust: ours.stored_trust() };
    assert!(matches!(swapped.verify(crate::testing::now()), Err(CredentialsError::OtherKey)));
}

/// Evidence may count for one key alone, the last that it was shown with.
#[tokio::test]
async fn whoever_comes_back_by_evidence_has_the_key_in_force_and_waits_for_no_disk_that_hangs() {
    let authorities = Authorities::new();
    let newcomer = Newcomer::new();
    let state = &newcomer.state;
    let issued = || Issued {
        identity: authorities.identity("mesh/shop/node/orders", around(HOUR)),
        trust: authorities.stored_trust(),
    };
    let (kept, renewed) = (issued(), issued());
    state.keeping().unwrap().save_identity(&kept.identity).unwrap();
    let [kept_key, renewed_key] = [&kept, &renewed].map(|issued| issued.identity.svid.key_fingerprint());
    let credentials = Credentials::new(kept, Arc::clone(state)).unwrap();
    let of = async |may_be_last, former: Option<&Credentials>| {
        own_key(may_be_last, state, former).await.map(|key| key.public_key().fingerprint())
    };
    assert_eq!(of(true, Some(&credentials)).await.unwrap(), kept_key);
    credentials.replace(renewed).unwrap();
    assert_eq!(of(true, Some(&credentials)).await.unwrap(), renewed_key);
    assert_eq!(of(true, None).await.unwrap(), kept_key, "at a start there is but the disk");
    // As while the disk is at the one that is in force.
    let keeping = state.keeping().unwrap();
    assert_eq!(of(true, Some(&credentials)).await.unwrap(), renewed_key);
    tokio::time::pause();
    let (other, ()) =
        tokio::join!(of(false, Some(&credentials)), tokio::time::advance(2 * own_key::DISK_TIMEOUT));
    assert!(matches!(&other, Err(Attempt::Again(problem)) if problem.contains("disk")), "{other:?}");
    drop(keeping);
    credentials.save().unwrap();
    assert_eq!(of(true, Some(&credentials)).await.unwrap(), renewed_key);
}
