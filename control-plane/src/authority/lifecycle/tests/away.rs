use super::*;

#[tokio::test]
async fn who_is_away_holds_up_what_signed_nothing_that_it_holds_no_longer() {
    let scratch = scratch().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let first = joined(&scratch).await;
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let next = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&next, &actor()).await.unwrap();
    scratch.clock.advance(minutes(30));
    let renewed = control.enrollment.renew(&first, &request().1, "10.0.0.7:4").await.unwrap();
    let later = joined(&scratch).await;
    // None of them is connected, and none has acknowledged anything.
    control.instances.load(&*control.store).await.unwrap();
    assert_eq!(control.instances.trusting(scratch.clock.now()).len(), 2);

    let refused = authorities.revoke(&former, false, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::StillProved { count: 1, .. }), "{refused}");
    let told = format!(
        "of them 1 are away: start those again, or have those that do not come back refused by everybody, with \
                        `hauberk revoke instance {}`, or cut",
        renewed.instance
    );
    assert!(refused.to_string().contains(&told), "{refused}");
    // Nothing rests any longer on its first certificate, which has ended.
    scratch.clock.advance(minutes(45));
    assert_eq!(control.instances.trusting(scratch.clock.now()).len(), 2);
    authorities.revoke(&former, false, &actor()).await.unwrap();
    let bundle = control.authority.bundle();
    assert!(later.verify_again(&bundle, scratch.clock.now(), Usage::Client).is_ok(), "cut off nobody");
}

#[test]
fn of_many_that_are_away_the_first_are_named_and_the_others_counted() {
    let away = |count: usize| (0..count).map(|n| format!("i{n}")).collect();
    let told = |count: usize| {
        let error = LifecycleError::StillProved { count, named: Vec::new(), away: away(count) };
        error.to_string()
    };
    assert!(told(0).contains("wait some seconds"));
    assert!(told(7).contains("`hauberk revoke instance i4`, and so of 2 more"), "{}", told(7));
    assert!(!told(7).contains("i5"));
}
