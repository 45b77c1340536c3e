//! Clocks that are set wrong for a while.

use super::*;

/// Until nothing is due.
async fn settle(authorities: &Authorities) {
    while authorities.advance(&actor()).await.unwrap() {}
}

#[tokio::test]
async fn while_the_clock_is_set_ahead_no_authority_follows_retires_or_is_forgotten() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    scratch.clock.advance(DAY);
    let serial = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&serial, &actor()).await.unwrap();
    authorities.rotate_view_key(&actor()).await.unwrap();
    settle(authorities).await;
    let before = authorities.list().await.unwrap();
    let (keys, right) = (authorities.view_keys().await.unwrap(), scratch.clock.now());
    for days in [2, 83, 400] {
        scratch.clock.set(right.plus(days * DAY));
        assert!(!authorities.advance(&actor()).await.unwrap(), "{days} days");
        scratch.clock.set(right);
        assert_eq!(authorities.list().await.unwrap(), before, "{days} days");
        assert_eq!(authorities.view_keys().await.unwrap(), keys);
        certificate(&scratch).await;
    }
    scratch.clock.advance(2 * DAY);
    settle(authorities).await;
    let after = authorities.list().await.unwrap().0;
    let after = states(&after);
    assert_eq!(after.len(), 3);
    // The first two are as old as each other.
    for expected in [(Kind::Root, "active"), (Kind::Issuing, "retired"), (Kind::Issuing, "active")] {
        assert!(after.contains(&expected), "{after:?}");
    }
}

/// Makes the authority that signs one that a clock made which was 83 days ahead.
async fn with_one_from_the_future() -> Scratch {
    let scratch = scratch().await;
    let (authorities, right) = (&scratch.control.authorities, scratch.clock.now());
    scratch.clock.set(right.plus(83 * DAY));
    let serial = authorities.prepare(Kind::Issuing, true, &actor()).await.unwrap();
    authorities.activate(&serial, &actor()).await.unwrap();
    // And another that waits.
    authorities.prepare(Kind::Issuing, true, &actor()).await.unwrap();
    scratch.clock.set(right);
    scratch
}

#[tokio::test]
async fn an_authority_from_the_future_is_followed_at_once_by_one_that_signs_now() {
    let scratch = with_one_from_the_future().await;
    let (control, now) = (&scratch.control, scratch.clock.now());
    let reason = control.authority.cannot_sign(now).unwrap();
    assert!(reason.contains("the issuing authority is valid from"), "{reason}");
    settle(&control.authorities).await;
    scratch.clock.advance(Duration::from_secs(1));
    settle(&control.authorities).await;
    let svid = certificate(&scratch).await;
    assert!(is_accepted(&scratch, &svid));
    assert_eq!(control.authority.cannot_sign(scratch.clock.now()), None);
    // It does not go round in circles.
    assert_eq!(control.authorities.list().await.unwrap().0.len(), 5);
}

#[tokio::test]
async fn nor_does_it_keep_a_control_plane_from_starting() {
    let scratch = with_one_from_the_future().await;
    let started = scratch.started_again().await;
    assert!(started.authority.cannot_sign(scratch.clock.now()).is_some());
    started.authorities.begin(&actor()).await;
    assert_eq!(started.authority.cannot_sign(scratch.clock.now()), None);
}

#[tokio::test]
async fn nor_does_one_that_ended_while_nobody_was_there() {
    let scratch = scratch().await;
    let later = Clock::manual(scratch.clock.now().plus(91 * DAY));
    let started = scratch.started_again_by(later.clone()).await;
    assert!(started.authority.cannot_sign(later.now()).is_some());
    started.authorities.begin(&actor()).await;
    assert_eq!(started.authority.cannot_sign(later.now()), None);
}

/// As where the clock is set back to before everything was made.
#[tokio::test]
async fn where_no_root_is_valid_no_authority_after_another_is_made() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let (before, right) = (authorities.list().await.unwrap(), scratch.clock.now());
    scratch.clock.set(right.minus(Duration::from_secs(2 * 3_600)));
    assert!(!authorities.advance(&actor()).await.unwrap());
    authorities.begin(&actor()).await;
    scratch.clock.set(right);
    assert_eq!(authorities.list().await.unwrap(), before);
}
