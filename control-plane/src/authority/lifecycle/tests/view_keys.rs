//! One key that signs views after another.

use hauberk_tls::signing::{Purpose, ViewVerifier};

use super::*;
use crate::authority::view_keys::SIGNS_FOR;
use crate::compile;
use crate::resources::Catalogs;
use crate::resources::testing::TOKEN_LIFE;
use crate::revocation::Target;

fn believed(scratch: &Scratch) -> Vec<String> {
    let trust = scratch.control.authority.trust().borrow().clone();
    trust.view_keys.iter().map(|key| key.key_id.clone()).collect()
}

fn signs(scratch: &Scratch) -> String {
    scratch.control.authority.view_signer().borrow().key_id().to_owned()
}

#[tokio::test]
async fn one_key_follows_another_in_one_step_and_both_are_believed() {
    let scratch = scratch().await;
    let (authorities, first) = (&scratch.control.authorities, signs(&scratch));
    assert!(matches!(
        authorities.revoke_view_key(&first, &actor()).await,
        Err(LifecycleError::ViewKeySigns(_))
    ));
    let version = scratch.control.authority.version();
    let second = authorities.rotate_view_key(&actor()).await.unwrap();
    assert_eq!((signs(&scratch), believed(&scratch)), (second.clone(), vec![first.clone(), second.clone()]));
    assert_eq!(scratch.control.authority.version(), version + 1, "agents are told");

    // Where the clock has gone back meanwhile, the latest is still the latest; and another process finds the same.
    let third = authorities.rotate_view_key(&actor()).await.unwrap();
    let kek = KeyEncryptionKey::load(&scratch.control.settings.kek_file).unwrap();
    let loaded = Authority::load(&*scratch.control.store, &KeyStore::new(Arc::new(kek), None)).await.unwrap();
    assert_eq!(loaded.view_signer().borrow().key_id(), third);
    assert_eq!(loaded.view_keys(), scratch.control.authority.view_keys());

    authorities.revoke_view_key(&first, &actor()).await.unwrap();
    assert_eq!(believed(&scratch), [second, third]);
    let unknown = authorities.revoke_view_key(&first, &actor()).await;
    assert!(matches!(unknown, Err(LifecycleError::Unknown(_))));
}

#[tokio::test]
async fn who_knows_a_key_is_who_has_said_so_and_is_live() {
    let scratch = scratch().await;
    let (authorities, control, first) = (&scratch.control.authorities, &scratch.control, signs(&scratch));
    let second = authorities.rotate_view_key(&actor()).await.unwrap();
    let holders = async || {
        let keys = authorities.view_keys().await.unwrap();
        keys.iter().map(|key| key.holders).collect::<Vec<_>>()
    };
    assert_eq!(holders().await, [0, 0]);
    let svid = certificate(&scratch).await;
    let instance = hauberk_identity::InstanceId::parse("aaaaaaaaaa").unwrap();
    let held = IssuedTo { serial: svid.serial(), issued_at: None, not_after: svid.validity().not_after() };
    let peer = Peer::new(svid.id().clone(), instance, None, held, None).unwrap();
    let (hello, questions) = (HelloFacts::default(), mpsc::channel(1).0);
    let now = scratch.clock.now();
    let connected = control.instances.connect(&peer, hello, Enforcement::default(), None, questions, now);
    assert_eq!(holders().await, [0, 0], "it has said nothing");
    connected.believes(std::slice::from_ref(&first));
    assert_eq!(holders().await, [1, 0]);
    connected.believes(&[first, second]);
    assert_eq!(holders().await, [1, 1]);
    scratch.clock.advance(Duration::from_secs(3_700));
    assert_eq!(holders().await, [0, 0], "its certificate has expired");
}

#[tokio::test]
async fn by_itself_it_follows_after_ninety_days_and_the_former_goes_a_day_later() {
    let scratch = scratch().await;
    let first = signs(&scratch);
    scratch.clock.advance(SIGNS_FOR - DAY);
    while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {}
    let keys = after_a_crash(&scratch).await.view_keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| &key.key_id).collect::<Vec<_>>(), [&first]);
    scratch.clock.advance(DAY);
    while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {}
    let keys = after_a_crash(&scratch).await.view_keys().await.unwrap();
    let [former, latest] = &keys[..] else { panic!("{keys:?}") };
    assert_eq!((&former.key_id, former.signs, latest.signs), (&first, false, true));
    scratch.clock.advance(DAY);
    while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {}
    assert_eq!(after_a_crash(&scratch).await.view_keys().await.unwrap().len(), 2, "who was away may hold it");
    scratch.clock.advance(DAY);
    while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {}
    let keys = after_a_crash(&scratch).await.view_keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| &key.key_id).collect::<Vec<_>>(), [&latest.key_id]);
}

#[tokio::test]
async fn views_and_denylist_are_signed_anew_and_say_the_same_under_the_same_number() {
    let scratch = scratch().await;
    let control = &scratch.control;
    let peer = joined(&scratch).await;
    control.revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
    let trust_domain = control.authority.trust_domain().clone();
    let (store, tasks, stop) = (Arc::clone(&control.store), &control.tasks, control.stop.clone());
    let catalogs =
        Catalogs::start(Arc::clone(&store), trust_domain, None, tasks, stop.clone()).await.unwrap();
    let authority = Arc::clone(&control.authority);
    let mut views =
        compile::start(store, authority, &catalogs, TOKEN_LIFE, tasks, stop.clone()).await.unwrap();
    tasks.spawn({
        let revocations = Arc::clone(&control.revocations);
        async move { revocations.follow(stop).await }
    });
    let before = views.borrow().nodes.values().next().unwrap().clone();
    let denied_before = control.revocations.denylist();

    let second = control.authorities.rotate_view_key(&actor()).await.unwrap();
    let verifier = |public_key: &[u8]| ViewVerifier::from_public_keys([public_key]).unwrap();
    let new = verifier(&control.authority.view_keys()[1].public_key);
    let is_by_second =
        |views: &Arc<compile::Compilation>| views.nodes.values().all(|view| view.signed.key_id == second);
    let waited = tokio::time::timeout(Duration::from_secs(30), views.wait_for(is_by_second)).await;
    let after = waited.unwrap().unwrap().nodes.values().next().unwrap().clone();
    assert_eq!((&after.signed.view, after.revision), (&before.signed.view, before.revision));
    new.verify(Purpose::View, &second, &after.signed.view, &after.signed.signature).unwrap();

    let mut denied = control.revocations.subscribe();
    let waited = denied.wait_for(|list| list.signed.key_id == second);
    let list = Arc::clone(&*tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap().unwrap());
    assert_eq!((&list.signed.denylist, list.mark), (&denied_before.signed.denylist, denied_before.mark));
    new.verify(Purpose::Denylist, &second, &list.signed.denylist, &list.signed.signature).unwrap();
    control.stop.cancel();
}

#[tokio::test]
async fn what_an_id_names_is_known_before_any_step() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    authorities.begin_jwt_keys(&actor()).await;
    let issuing = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let jwt_key = authorities.jwt_keys()[0].key_id.clone();
    for (id, named) in [
        (issuing.as_str(), KeyNamed::Authority),
        (&signs(&scratch), KeyNamed::ViewKey),
        (&"0".repeat(64), KeyNamed::ViewKey),
        (&jwt_key, KeyNamed::JwtKey),
        (&jwt_key[1..], KeyNamed::Authority),
        (&"x".repeat(64), KeyNamed::Authority),
        ("", KeyNamed::Authority),
    ] {
        assert_eq!(authorities.key_named(id), named, "{id}");
    }
}
