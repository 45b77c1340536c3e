//! A store that refuses a commit for a while: nothing is lost by it, nothing is half done, and it is tried again.

use hauberk_tls::jwt::verify_jwt_svid;

use super::*;
use crate::testing::{Busy, scratch_over};

async fn busy() -> (Scratch, Arc<Busy>) {
    let mut busy = None;
    let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
    (scratch, busy.unwrap())
}

/// What is on record and in force: authorities, keys, and what everybody is told.
async fn standing(scratch: &Scratch) -> String {
    let control = &scratch.control;
    let listed = control.authorities.list().await.unwrap();
    let view_keys = control.authorities.view_keys().await.unwrap();
    let (jwt_keys, trust) = (control.authorities.jwt_keys(), control.authority.trust().borrow().clone());
    let signs = control.authority.issuing().serial();
    format!("{listed:?} {view_keys:?} {jwt_keys:?} {trust:?} {signs}")
}

/// What stands is what a process finds that starts now.
async fn is_on_record(scratch: &Scratch) {
    let found = Scratch::started_again(scratch).await;
    let authorities = &scratch.control.authorities;
    assert_eq!(found.authorities.list().await.unwrap(), authorities.list().await.unwrap());
    assert_eq!(found.authorities.jwt_keys(), authorities.jwt_keys());
    assert_eq!(*found.authority.trust().borrow(), *scratch.control.authority.trust().borrow());
    assert_eq!(found.authority.issuing().serial(), scratch.control.authority.issuing().serial());
}

/// A step that is refused at first, and taken when it is tried again.
async fn refused_then_taken<T>(
    (scratch, busy): &(Scratch, Arc<Busy>),
    step: impl AsyncFn(&Authorities) -> Result<T, LifecycleError>,
) -> T {
    let before = standing(scratch).await;
    busy.refuse(0, 1);
    let refused = step(&scratch.control.authorities).await.map(drop).unwrap_err();
    assert!(matches!(refused, LifecycleError::Store(StoreError::Full { .. })), "{refused}");
    assert_eq!(standing(scratch).await, before, "nothing has changed");
    is_on_record(scratch).await;
    let taken = step(&scratch.control.authorities).await.unwrap();
    assert_ne!(standing(scratch).await, before);
    is_on_record(scratch).await;
    taken
}

#[tokio::test]
async fn authorities_that_the_store_refuses_are_prepared_activated_tainted_and_revoked_when_it_takes_them() {
    let busy = busy().await;
    for kind in [Kind::Issuing, Kind::Root] {
        let former = serial_of(&busy.0, kind, State::Active).await;
        let certificate = certificate(&busy.0).await;
        let next =
            refused_then_taken(&busy, async |authorities| authorities.prepare(kind, false, &actor()).await)
                .await;
        assert_eq!(serial_of(&busy.0, kind, State::Prepared).await, next, "one, however often it was tried");
        refused_then_taken(&busy, async |authorities| authorities.activate(&next, &actor()).await).await;
        assert!(is_accepted(&busy.0, &certificate));
        refused_then_taken(&busy, async |authorities| authorities.taint(&former, &actor()).await).await;
        refused_then_taken(&busy, async |authorities| authorities.revoke(&former, false, &actor()).await)
            .await;
        assert!(!is_accepted(&busy.0, &certificate));
    }
}

#[tokio::test]
async fn keys_that_the_store_refuses_follow_when_it_takes_them_and_tokens_are_minted_meanwhile() {
    let busy = busy().await;
    let (scratch, store) = &busy;
    let authorities = &scratch.control.authorities;
    // The first of all: there are no tokens until then, and it is tried again.
    refused_then_taken(&busy, async |authorities| authorities.advance_jwt_keys(&actor()).await).await;
    let first = authorities.jwt_keys()[0].key_id.clone();
    let mint = async || {
        let peer = joined(scratch).await;
        let minted = scratch.control.minter.mint(&peer, &["db".to_owned()], "").await.unwrap();
        let keys = scratch.control.signing_keys.current();
        verify_jwt_svid(&minted.token, "db", keys.bundle(), scratch.clock.now()).unwrap();
    };
    let second =
        refused_then_taken(&busy, async |authorities| authorities.prepare_jwt_key(true, &actor()).await)
            .await;
    mint().await;
    refused_then_taken(&busy, async |authorities| authorities.advance_jwt_keys(&actor()).await).await;
    mint().await;
    assert_eq!(
        authorities.jwt_keys().last().map(|key| (&key.key_id, key.state)),
        Some((&second, State::Active))
    );
    refused_then_taken(&busy, async |authorities| authorities.taint_jwt_key(&second, &actor()).await).await;
    mint().await;
    for key in [&second, &first] {
        refused_then_taken(&busy, async |authorities| authorities.revoke_jwt_key(key, true, &actor()).await)
            .await;
    }
    mint().await;

    // By the clock, through some days on which every other commit is refused.
    for _ in 0..96 {
        store.refuse(0, 1);
        while authorities.advance_jwt_keys(&actor()).await.unwrap_or(true) {}
        is_on_record(scratch).await;
        store.refuse(0, 0);
        mint().await;
        scratch.clock.advance(Duration::from_secs(3_600));
    }
}

#[tokio::test]
async fn the_key_that_signs_views_follows_when_the_store_takes_it() {
    let busy = busy().await;
    let first = busy.0.control.authority.view_signer().borrow().key_id().to_owned();
    refused_then_taken(&busy, async |authorities| authorities.rotate_view_key(&actor()).await).await;
    refused_then_taken(&busy, async |authorities| authorities.revoke_view_key(&first, &actor()).await).await;
}
