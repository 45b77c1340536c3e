//! Keys in a PKCS#11 token.

use super::*;
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
