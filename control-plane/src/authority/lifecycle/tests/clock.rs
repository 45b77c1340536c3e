//! Clocks that are set wrong for a while.

use hauberk_identity::BACKDATED;

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
async fn what_is_tainted_is_not_followed_by_one_that_cannot_sign_now() {
    let scratch = with_one_from_the_future().await;
    let (control, now) = (&scratch.control, scratch.clock.now());
    let active = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let waiting = serial_of(&scratch, Kind::Issuing, State::Prepared).await;
    let refused = control.authorities.activate(&waiting, &actor()).await.unwrap_err();
    assert!(
        matches!(&refused, LifecycleError::NotValidNow { serial, .. } if *serial == waiting),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains(&format!("is valid from {}", now.plus(83 * DAY).minus(BACKDATED).floor_to_second()))
    );
    control.authorities.taint(&active, &actor()).await.unwrap();
    assert_eq!(control.authority.cannot_sign(now), None);
    assert!(is_accepted(&scratch, &certificate(&scratch).await));
    assert_eq!(control.authorities.get(&waiting).await.unwrap().state, State::Retired);
}

#[tokio::test]
async fn but_by_the_one_that_waits_where_a_clock_was_just_set_past_its_end() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    scratch.clock.advance(DAY);
    settle(authorities).await;
    let active = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let waiting = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    let right = scratch.clock.now();
    scratch.clock.set(right.plus(91 * DAY));
    authorities.taint(&active, &actor()).await.unwrap();
    scratch.clock.set(right);
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, waiting);
    assert!(is_accepted(&scratch, &certificate(&scratch).await));
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

/// As where the host was paused, or a time server mends what was behind for months.
#[tokio::test]
async fn after_a_leap_that_is_right_one_follows_within_the_hour_and_nothing_is_taken_away() {
    let scratch = scratch().await;
    let (authorities, authority) = (&scratch.control.authorities, &scratch.control.authority);
    scratch.clock.advance(DAY);
    settle(authorities).await;
    let before = authorities.list().await.unwrap();
    scratch.clock.set(scratch.clock.now().plus(91 * DAY));
    assert!(authority.cannot_sign(scratch.clock.now()).is_some());
    assert!(!authorities.advance(&actor()).await.unwrap(), "it may be mended yet");
    assert_eq!(authorities.list().await.unwrap(), before);
    scratch.clock.advance(Duration::from_secs(3_600));
    settle(authorities).await;
    scratch.clock.advance(Duration::from_secs(1));
    settle(authorities).await;
    assert_eq!(authority.cannot_sign(scratch.clock.now()), None);
    let mut states = states(&authorities.list().await.unwrap().0);
    states.sort();
    let expected = [(Kind::Root, "active"), (Kind::Issuing, "active"), (Kind::Issuing, "retiring")];
    assert_eq!(states, expected);
}

/// Until nothing is due, by a process that finds this time.
async fn run_at(scratch: &Scratch, at: UnixMillis) -> Arc<crate::app::ControlPlane> {
    let clock = Clock::manual(at);
    let started = scratch.started_again_by(clock.clone()).await;
    started.authorities.begin(&actor()).await;
    for _ in 0..2 {
        settle(&started.authorities).await;
        clock.advance(Duration::from_secs(1));
    }
    started
}

#[tokio::test]
async fn a_root_is_followed_in_time_though_the_control_plane_never_runs_for_an_hour() {
    let scratch = scratch().await;
    let root = serial_of(&scratch, Kind::Root, State::Active).await;
    let ends = scratch.control.authorities.get(&root).await.unwrap().not_after;
    let mut seen = Vec::new();
    for days in [40, 20, 6, 5] {
        let started = run_at(&scratch, ends.minus(days * DAY)).await;
        let roots = started.authorities.list().await.unwrap().0;
        let roots = states(&roots).into_iter().filter(|(kind, _)| *kind == Kind::Root);
        seen.push(roots.map(|(_, state)| state).collect::<Vec<_>>());
    }
    let expected =
        [vec!["active"], vec!["active", "prepared"], vec!["retiring", "active"], vec!["retiring", "active"]];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_start_with_a_clock_ahead_prepares_one_and_activates_none() {
    let scratch = scratch().await;
    let (issuing, right) = (serial_of(&scratch, Kind::Issuing, State::Active).await, scratch.clock.now());
    let started = run_at(&scratch, right.plus(85 * DAY)).await;
    let (views, _) = started.authorities.list().await.unwrap();
    assert_eq!(states(&views).iter().filter(|(_, state)| *state == "prepared").count(), 1);
    run_at(&scratch, right).await;
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, issuing);
}

#[tokio::test]
async fn a_start_activates_none_that_is_not_valid_now() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    authorities.prepare(Kind::Issuing, true, &actor()).await.unwrap();
    let before = authorities.list().await.unwrap();
    scratch.clock.set(scratch.clock.now().minus(Duration::from_secs(2 * 3_600)));
    authorities.begin(&actor()).await;
    assert_eq!(authorities.list().await.unwrap(), before);
}

#[tokio::test]
async fn what_a_clock_replaced_that_is_behind_retires_no_earlier_once_it_is_right() {
    let scratch = scratch().await;
    let (authorities, hour) = (&scratch.control.authorities, Duration::from_secs(3_600));
    scratch.clock.advance(DAY);
    settle(authorities).await;
    let right = scratch.clock.now();
    // What signed a moment ago.
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    scratch.clock.set(right.minus(20 * hour));
    let serial = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&serial, &actor()).await.unwrap();
    scratch.clock.set(right);
    scratch.clock.advance(6 * hour);
    settle(authorities).await;
    assert_eq!(authorities.get(&former).await.unwrap().state, State::Retiring);
    scratch.clock.advance(20 * hour);
    settle(authorities).await;
    assert_eq!(authorities.get(&former).await.unwrap().state, State::Retired);
}

#[tokio::test]
async fn nor_what_a_start_replaced_that_finds_one_behind() {
    let scratch = scratch().await;
    let (authorities, hour) = (&scratch.control.authorities, Duration::from_secs(3_600));
    scratch.clock.advance(2 * DAY);
    let former = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&former, &actor()).await.unwrap();
    let right = scratch.clock.now();
    let started = run_at(&scratch, right.minus(20 * hour)).await;
    assert_eq!(started.authorities.get(&former).await.unwrap().state, State::Retiring);
    let clock = Clock::manual(right.plus(6 * hour));
    let believed = scratch.started_again_by(clock.clone()).await;
    clock.advance(hour);
    settle(&believed.authorities).await;
    assert_eq!(believed.authorities.get(&former).await.unwrap().state, State::Retiring);
}
