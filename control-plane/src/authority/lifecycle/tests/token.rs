//! Keys in a PKCS#11 token.

use super::*;
use crate::audit::Filter;
use crate::authority::Token;
use crate::testing::softhsm;
use crate::testing::{Busy, scratch_with};

#[tokio::test]
async fn a_token_that_fails_once_it_is_needed_keeps_nothing_from_being_published() {
    const TEST: &str = "authority::lifecycle::tests::token::\
                        a_token_that_fails_once_it_is_needed_keeps_nothing_from_being_published";
    let Some(hsm) = softhsm::in_a_process_of_its_own(TEST).map(Arc::new) else { return };
    let token = Token::open_if(Some(&hsm.settings)).await.unwrap();
    let mut busy = None;
    let scratch = scratch_with(|store| Arc::clone(busy.insert(Busy::new(store))), token).await;
    let (authorities, authority) = (&scratch.control.authorities, &scratch.control.authority);
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let next = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();

    // It has signed what shows that it can: then it goes, just before that is written.
    let unplugged = Arc::clone(&hsm);
    busy.unwrap().at_each_commit(move || unplugged.unplug());
    authorities.activate(&next, &actor()).await.unwrap();
    assert_eq!(authority.issuing().serial().to_string(), next);
    assert!(authority.issuing().key().prove().is_err(), "the token is away");
    authorities.revoke(&former, true, &actor()).await.unwrap();
    assert_eq!(authority.trust().borrow().distrusted_keys.len(), 1, "everybody is told of the revocation");
    assert_eq!(authority.version(), Book::read(&*scratch.control.store).await.unwrap().trust.version);

    hsm.plug_in();
    authority.token().unwrap().begin_anew().unwrap();
    authority.issuing().key().prove().unwrap();
}

#[tokio::test]
async fn the_key_of_an_authority_is_destroyed_before_it_is_forgotten_also_where_a_crash_comes_between() {
    const TEST: &str = "authority::lifecycle::tests::token::\
        the_key_of_an_authority_is_destroyed_before_it_is_forgotten_also_where_a_crash_comes_between";
    let Some(hsm) = softhsm::in_a_process_of_its_own(TEST) else { return };
    let token = Token::open_if(Some(&hsm.settings)).await.unwrap();
    let mut busy = None;
    let scratch = scratch_with(|store| Arc::clone(busy.insert(Busy::new(store))), token).await;
    let (control, authorities) = (&scratch.control, &scratch.control.authorities);
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let next = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&next, &actor()).await.unwrap();
    scratch.clock.advance(2 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    let entry = async || Book::read(&*control.store).await.unwrap().find(&former).cloned();
    let (retired, keys) = (entry().await.unwrap(), &authorities.parts.keys);
    assert!(retired.is(State::Retired) && keys.open(&retired).is_ok(), "as long as it is remembered");

    scratch.clock.advance(90 * DAY);
    busy.unwrap().refuse(0, 1);
    let book = Book::read(&*control.store).await.unwrap();
    authorities.take(&book, &Step::Forget(former.clone()), &actor()).await.unwrap_err();
    assert!(entry().await.is_some() && keys.open(&retired).is_err());
    while authorities.advance(&actor()).await.unwrap() {}
    assert!(entry().await.is_none());
    let filter = Filter { action: "authority.forget".to_owned(), ..Filter::default() };
    let records = control.audit.list(&filter, None, 10).await.unwrap().records;
    let told = records.iter().find(|record| record.object == former).map(|record| record.reason.as_str());
    assert!(
        told.is_some_and(|told| told.contains("its key was destroyed in the token \"mesh\"")),
        "{told:?}"
    );
}
