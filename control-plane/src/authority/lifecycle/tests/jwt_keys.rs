//! One key that signs JWT-SVIDs after another, by hand.

use hauberk_tls::PeerIdentity;
use hauberk_tls::jwt::{unverified_key_id, verify_jwt_svid};

use super::*;
use crate::app::ControlPlane;
use crate::audit::Filter;
use crate::compile::view::MeshViews;
use crate::instances::Connected;
use crate::jwt_svid::{LONGEST_TOKEN_LIFE, PUBLISHED_FOR};
use crate::resources::{Catalogs, OwnIssuerParts};
use crate::testing::NODE;

/// A control plane with a key that signs.
async fn with_a_key() -> (Scratch, String) {
    let scratch = scratch().await;
    scratch.control.authorities.begin_jwt_keys(&actor()).await;
    let key = the(&scratch.control.authorities, State::Active);
    (scratch, key)
}

/// The id of the one key in a state.
fn the(authorities: &Authorities, state: State) -> String {
    let found: Vec<_> = authorities.jwt_keys().into_iter().filter(|key| key.state == state).collect();
    let [key] = &found[..] else { panic!("{state:?}: {found:?}") };
    key.key_id.clone()
}

fn states(authorities: &Authorities) -> Vec<State> {
    authorities.jwt_keys().iter().map(|key| key.state).collect()
}

/// A live instance whose stream is up and that has acknowledged nothing.
async fn connected(scratch: &Scratch) -> Connected {
    let svid = certificate(scratch).await;
    let instance = hauberk_identity::InstanceId::parse("aaaaaaaaaa").unwrap();
    let held = IssuedTo { serial: svid.serial(), issued_at: None, not_after: svid.validity().not_after() };
    let peer = Peer::new(svid.id().clone(), instance, None, held, None).unwrap();
    let (hello, questions, now) = (HelloFacts::default(), mpsc::channel(1).0, scratch.clock.now());
    scratch.control.instances.connect(&peer, hello, Enforcement::default(), None, questions, now)
}

async fn token(control: &ControlPlane, peer: &PeerIdentity) -> (String, String) {
    let minted = control.minter.mint(peer, &["db".to_owned()], "").await.unwrap();
    let token = minted.token.to_string();
    let key_id = unverified_key_id(&token).unwrap();
    (token, key_id)
}

fn is_good(control: &ControlPlane, token: &str) -> bool {
    let keys = control.signing_keys.current();
    verify_jwt_svid(token, "db", keys.bundle(), control.clock.now()).is_ok()
}

#[tokio::test]
async fn a_key_is_prepared_told_and_activated_and_the_former_retires_by_hand() {
    let (scratch, first) = with_a_key().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let agent = connected(&scratch).await;
    let peer = joined(&scratch).await;
    let (old, by) = token(control, &peer).await;
    assert_eq!(by, first);

    let version = control.authority.version();
    let second = authorities.prepare_jwt_key(false, &actor()).await.unwrap();
    assert_eq!(authorities.prepare_jwt_key(false, &actor()).await.unwrap(), second, "one waits");
    assert_eq!(control.authority.version(), version + 1, "agents are told, and say so");
    assert_eq!(states(authorities), [State::Active, State::Prepared]);
    assert!(control.signing_keys.current().bundle().key(&second).is_some());
    assert_eq!(token(control, &peer).await.1, first, "it signs nothing yet");
    let early = authorities.activate_jwt_key(&second, &actor()).await.unwrap_err();
    assert!(matches!(early, LifecycleError::NotTrustedYet { count: 1, .. }), "{early}");
    agent.trusts(version + 1);
    assert_eq!(authorities.jwt_keys().iter().map(|key| key.holders).collect::<Vec<_>>(), [1, 1]);
    authorities.activate_jwt_key(&second, &actor()).await.unwrap();
    assert_eq!(states(authorities), [State::Retiring, State::Active]);
    let again = authorities.activate_jwt_key(&second, &actor()).await.unwrap_err();
    assert!(matches!(again, LifecycleError::WrongState { .. }), "{again}");
    let (new, by) = token(control, &peer).await;
    assert_eq!((by, is_good(control, &new)), (second.clone(), true));
    assert!(is_good(control, &old));

    // What it has signed may be in use for as long as a token lives at the most.
    let refused = authorities.revoke_jwt_key(&first, false, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::TokensInUse { .. }), "{refused}");
    scratch.clock.advance(LONGEST_TOKEN_LIFE);
    authorities.revoke_jwt_key(&first, false, &actor()).await.unwrap();
    assert_eq!(states(authorities), [State::Active]);
    let unknown = authorities.revoke_jwt_key(&first, false, &actor()).await.unwrap_err();
    assert!(matches!(unknown, LifecycleError::Unknown(_)), "{unknown}");
    let signs = authorities.revoke_jwt_key(&second, true, &actor()).await.unwrap_err();
    assert!(signs.to_string().contains("hauberk authority rotate jwt-key"), "{signs}");

    let records = control.audit.list(&Filter::default(), None, 100).await.unwrap().records;
    let of_keys = records.iter().filter(|record| record.action.starts_with("jwt-key."));
    let of_keys: Vec<_> = of_keys.map(|record| (&*record.action, &*record.object)).collect();
    let expected = [("revoke", &first), ("activate", &second), ("prepare", &second), ("prepare", &first)];
    let expected = expected.map(|(step, key)| (format!("jwt-key.{step}"), key.clone()));
    assert_eq!(of_keys, expected.iter().map(|(step, key)| (&**step, &**key)).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_that_goes_on_signs_as_soon_as_everybody_knows_it() {
    let (scratch, _) = with_a_key().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let agent = connected(&scratch).await;
    let second = authorities.prepare_jwt_key(false, &actor()).await.unwrap();
    agent.trusts(control.authority.version());
    assert!(!authorities.advance_jwt_keys(&actor()).await.unwrap(), "nobody has asked for it");
    assert_eq!(authorities.prepare_jwt_key(true, &actor()).await.unwrap(), second);
    assert_eq!(authorities.progress().await.unwrap().waiting, Some(second.clone()));
    assert!(authorities.advance_jwt_keys(&actor()).await.unwrap());
    assert_eq!(the(authorities, State::Active), second);
    let progress = authorities.progress().await.unwrap();
    assert_eq!((progress.waiting, progress.unsettled.len()), (None, 1), "and everybody is told that it does");
    agent.trusts(control.authority.version());
    assert!(authorities.progress().await.unwrap().is_done());

    let third = authorities.prepare_jwt_key(true, &actor()).await.unwrap();
    assert!(!authorities.advance_jwt_keys(&actor()).await.unwrap(), "somebody does not know it");
    assert_eq!(the(authorities, State::Active), second);
    // Nobody waits for longer than by the clock.
    scratch.clock.advance(PUBLISHED_FOR);
    assert_eq!(the(authorities, State::Prepared), third);
    scratch.clock.advance(DAY);
    assert_eq!(control.signing_keys.current().prepared(scratch.clock.now()), None);
}

#[tokio::test]
async fn what_a_tainted_key_signed_is_refused_once_it_is_revoked_and_a_new_token_is_good() {
    for has_next in [false, true] {
        let (scratch, first) = with_a_key().await;
        let (authorities, control) = (&scratch.control.authorities, &scratch.control);
        let peer = joined(&scratch).await;
        let (old, _) = token(control, &peer).await;
        let next =
            if has_next { Some(authorities.prepare_jwt_key(false, &actor()).await.unwrap()) } else { None };
        let agent = connected(&scratch).await;
        authorities.taint_jwt_key(&first, &actor()).await.unwrap();
        assert_eq!(the(authorities, State::Tainted), first);
        assert_eq!(control.signing_keys.current().tainted().collect::<Vec<_>>(), [&first]);
        let (new, by) = token(control, &peer).await;
        assert_eq!(by, the(authorities, State::Active));
        assert!(next.is_none_or(|next| next == by), "the one that waited");
        assert!(is_good(control, &old) && is_good(control, &new));

        let version = control.authority.version();
        authorities.taint_jwt_key(&first, &actor()).await.unwrap();
        assert_eq!(control.authority.version(), version, "said again, it changes nothing");
        let refused = authorities.revoke_jwt_key(&first, false, &actor()).await.unwrap_err();
        assert!(matches!(refused, LifecycleError::TokensKept { .. }), "{refused}");
        agent.trusts(version);
        authorities.revoke_jwt_key(&first, true, &actor()).await.unwrap();
        assert!(!is_good(control, &old) && is_good(control, &new));

        // By the clock nothing brings it back, and the rest goes on.
        authorities.begin_jwt_keys(&actor()).await;
        assert!(!is_good(control, &old) && is_good(control, &new));
        assert_eq!(the(authorities, State::Active), by);
    }
}

/// Each step is seen from a process that was killed right after it.
#[tokio::test]
async fn so_many_follow_one_another_and_no_more() {
    let (scratch, _) = with_a_key().await;
    let authorities = &scratch.control.authorities;
    let refused = loop {
        scratch.clock.advance(Duration::from_secs(1));
        match authorities.prepare_jwt_key(false, &actor()).await {
            Ok(key) => authorities.activate_jwt_key(&key, &actor()).await.unwrap(),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, LifecycleError::TooManyJwtKeys(32)), "{refused}");
    assert_eq!(authorities.jwt_keys().len(), 32);
    // The one that signs is replaced all the same.
    let signs = the(authorities, State::Active);
    authorities.taint_jwt_key(&signs, &actor()).await.unwrap();
    assert_ne!(the(authorities, State::Active), signs);
}

#[tokio::test]
async fn each_step_stands_though_the_control_plane_is_killed_after_it() {
    let (scratch, first) = with_a_key().await;
    let again = async || {
        // Keys of one instant have no order.
        scratch.clock.advance(Duration::from_secs(1));
        scratch.started_again().await
    };
    let second = again().await.authorities.prepare_jwt_key(false, &actor()).await.unwrap();
    let found = again().await;
    assert_eq!(states(&found.authorities), [State::Active, State::Prepared]);
    assert_eq!(found.authority.version(), found.authorities.list().await.unwrap().1);
    found.authorities.prepare_jwt_key(true, &actor()).await.unwrap();
    let found = again().await;
    assert!(found.authorities.jwt_keys()[1].goes_on);
    found.authorities.begin_jwt_keys(&actor()).await;
    let found = again().await;
    assert_eq!(the(&found.authorities, State::Active), second);
    found.authorities.taint_jwt_key(&second, &actor()).await.unwrap();
    let found = again().await;
    assert_eq!(states(&found.authorities), [State::Retiring, State::Tainted, State::Active]);
    found.authorities.revoke_jwt_key(&second, false, &actor()).await.unwrap();
    found.authorities.revoke_jwt_key(&first, true, &actor()).await.unwrap();
    let found = again().await;
    assert_eq!(states(&found.authorities), [State::Active]);

    // The process that was there all along learns of it with its next step.
    let control = &scratch.control;
    while control.authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(control.authorities.jwt_keys(), found.authorities.jwt_keys());
}

/// Whether agents are told that the mesh's one issuer is us.
async fn is_ours(catalogs: &Catalogs) -> bool {
    let (catalog, mesh) = (catalogs.current().await.unwrap(), NODE.0.parse().unwrap());
    let trust_domain = hauberk_identity::TrustDomain::parse("shop.local").unwrap();
    let views = MeshViews::new(&trust_domain, &mesh, catalog.mesh(NODE.0).unwrap());
    views.issuers().first().unwrap().is_ours
}

/// What verifies the tokens of the mesh's one issuer.
async fn believed(catalogs: &Catalogs) -> Vec<String> {
    let catalog = catalogs.current().await.unwrap();
    let (_, _, keys) = catalog.mesh(NODE.0).unwrap().issuers().next().unwrap();
    keys.map(|keys| keys.keys().map(|key| key.id().to_owned()).collect()).unwrap_or_default()
}

#[tokio::test]
async fn an_issuer_that_is_us_has_our_keys_from_the_revision_on_that_changes_them() {
    use hauberk_proto::mesh::v1::{JwtIssuerSpec, resource::Spec};
    use prost::Message as _;
    const OURS: &str = "https://oidc.shop.local";
    let (scratch, first) = with_a_key().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let follow = async |url: &str| {
        let (store, trust_domain) = (Arc::clone(&control.store), control.authority.trust_domain().clone());
        let own = OwnIssuerParts { url: url.to_owned(), signing_keys: Arc::clone(&control.signing_keys) };
        Catalogs::start(store, trust_domain, Some(own), &control.tasks, control.stop.clone()).await.unwrap()
    };
    let catalogs = follow(OURS).await;
    let issuer = async |jwks: &str, jwks_url: &str| {
        let spec = JwtIssuerSpec {
            issuer: OURS.into(),
            audiences: vec!["orders".into()],
            jwks: jwks.into(),
            jwks_url: jwks_url.into(),
            ..JwtIssuerSpec::default()
        };
        let resource = crate::resources::testing::resource(NODE.0, "own", Spec::JwtIssuer(spec));
        let commit = Commit::new().put(keys::resource("JwtIssuer", NODE.0, "own"), resource.encode_to_vec());
        control.store.commit(commit.raising_revision()).await.unwrap();
    };
    issuer("", "").await;
    assert_eq!(believed(&catalogs).await, [&*first], "nobody is asked");
    assert!(is_ours(&catalogs).await);
    let begun = catalogs.current().await.unwrap();

    // One commit, and one revision, for all that verifies by it.
    authorities.taint_jwt_key(&first, &actor()).await.unwrap();
    let second = the(authorities, State::Active);
    let mut both = [first.clone(), second.clone()];
    both.sort();
    assert_eq!(believed(&catalogs).await, both);
    let before = control.store.revision().await.unwrap().0;
    authorities.revoke_jwt_key(&first, true, &actor()).await.unwrap();
    assert_eq!(control.store.revision().await.unwrap().0, before + 1);
    let now = catalogs.current().await.unwrap();
    assert_eq!(believed(&catalogs).await, [&*second]);
    let since = |catalog: &crate::resources::Catalog| catalog.mesh(NODE.0).unwrap().own_keys_since();
    assert_eq!(since(&now).map(|since| since.0), Some(before + 1));
    assert!(since(&begun).is_some_and(|since| since.0 < before));
    assert_eq!(believed(&follow(OURS).await).await, [&*second], "after a restart too");

    // Wherever its keys are said to be; but what an admin has written down alone is the admin's.
    issuer("", "https://somewhere.example/keys").await;
    assert_eq!(believed(&catalogs).await, [&*second]);
    let listed = control.signing_keys.current().bundle().to_jwks(hauberk_tls::jwt::KeyUse::Signature);
    issuer(&listed, "").await;
    authorities.taint_jwt_key(&second, &actor()).await.unwrap();
    authorities.revoke_jwt_key(&second, true, &actor()).await.unwrap();
    assert_eq!(believed(&catalogs).await, [&*second]);
    assert_eq!(since(&catalogs.current().await.unwrap()), None);
    assert!(is_ours(&catalogs).await, "whoever has written down the keys");
    // Of another issuer we know nothing.
    issuer("", "").await;
    let other = follow("https://other.example").await;
    assert_eq!(believed(&other).await, [""; 0]);
    assert!(!is_ours(&other).await);
}

#[tokio::test]
async fn a_step_of_a_key_that_is_not_there_is_no_step() {
    let (scratch, _) = with_a_key().await;
    let (authorities, keys) = (&scratch.control.authorities, scratch.control.signing_keys.current());
    let (commit, now) = (Commit::new, scratch.clock.now());
    let steps = [
        keys.activate(commit(), "nobody", 1, now),
        keys.go_on(commit(), "nobody"),
        keys.taint(commit(), "nobody", 1, now),
    ];
    for step in steps {
        let refused = step.unwrap_err().to_string();
        assert!(refused.contains("no key that signs tokens has the id nobody"), "{refused}");
    }
    let before = scratch.control.store.revision().await.unwrap();
    for refused in [
        authorities.activate_jwt_key("nobody", &actor()).await.unwrap_err(),
        authorities.taint_jwt_key("nobody", &actor()).await.unwrap_err(),
        authorities.revoke_jwt_key("nobody", true, &actor()).await.unwrap_err(),
    ] {
        assert!(matches!(refused, LifecycleError::Unknown(_)), "{refused}");
    }
    assert_eq!(scratch.control.store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_for_a_while_takes_no_key_away() {
    let (scratch, first) = with_a_key().await;
    let control = &scratch.control;
    scratch.clock.advance(Duration::from_secs(3_600));
    control.authorities.begin_jwt_keys(&actor()).await;
    let peer = joined(&scratch).await;
    let (old, _) = token(control, &peer).await;
    let right = scratch.clock.now();
    scratch.clock.set(right.plus(2 * DAY));
    control.authorities.begin_jwt_keys(&actor()).await;
    scratch.clock.set(right);
    control.authorities.begin_jwt_keys(&actor()).await;
    assert!(is_good(control, &old));
    assert_eq!(token(control, &peer).await.1, first);
}

#[tokio::test]
async fn nor_does_one_that_was_just_started_but_no_more_are_kept_than_are_read() {
    let (scratch, first) = with_a_key().await;
    let mut now = scratch.clock.now().plus(2 * DAY);
    let started = scratch.started_again_by(Clock::manual(now)).await;
    started.authorities.begin_jwt_keys(&actor()).await;
    assert!(started.authorities.jwt_keys().iter().any(|key| key.key_id == first));
    for _ in 0..20 {
        now = now.plus(DAY);
        let started = scratch.started_again_by(Clock::manual(now)).await;
        started.authorities.begin_jwt_keys(&actor()).await;
        assert!(started.authorities.jwt_keys().len() <= 17);
        assert!(
            started.signing_keys.current().bundle().key(&the(&started.authorities, State::Active)).is_some()
        );
    }
}
