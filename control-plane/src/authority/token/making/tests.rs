use std::sync::mpsc;

use cryptoki::object::{Attribute, ObjectClass};
use hauberk_identity::UnixMillis;
use tokio::time::{advance, pause, resume};

use super::*;
use crate::authority::{AuthorityError, KeyEncryptionKey, KeyStore, found};
use crate::testing::softhsm;

/// How many private keys there are.
fn keys(token: &Token) -> usize {
    let module = token.module.read().unwrap();
    // Nobody sees private keys before the process has logged in.
    let _logged_in = token.session(&module, false).unwrap();
    let (slot, _) = module.token().unwrap();
    let session = module.context().open_ro_session(slot).unwrap();
    session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap().len()
}

async fn make(token: &Arc<Token>) -> Result<TokenKeyRecord, TokenError> {
    let maker = Arc::clone(token);
    token.makes(move || maker.generate("made")).await
}

#[tokio::test]
async fn a_key_that_comes_too_late_or_in_vain_does_not_stay_in_the_token() {
    const TEST: &str = "authority::token::making::tests::\
                        a_key_that_comes_too_late_or_in_vain_does_not_stay_in_the_token";
    let Some(hsm) = softhsm::in_a_process_of_its_own(TEST) else { return };
    let token = Token::open_if(Some(&hsm.settings)).await.unwrap().unwrap();
    make(&token).await.unwrap();
    assert_eq!(keys(&token), 1);

    // Whoever waits gives up; the key is made all the same.
    pause();
    let (goes_on, waits) = mpsc::channel::<()>();
    let (has_begun, begins) = tokio::sync::oneshot::channel();
    let maker = Arc::clone(&token);
    let late = token.makes(move || {
        let _begun = has_begun.send(());
        let _ends = waits.recv();
        maker.generate("late")
    });
    let (late, ()) = tokio::join!(late, async {
        begins.await.unwrap();
        advance(MAKING_DEADLINE + Duration::from_secs(1)).await;
    });
    assert!(matches!(late, Err(TokenError::Late { .. })), "{late:?}");
    resume();
    drop(goes_on);
    // Which has its turn once the one before has ended.
    make(&token).await.unwrap();
    assert_eq!(keys(&token), 2);

    // What it is for cannot be made.
    let maker = Arc::clone(&token);
    let in_vain = token.makes(move || {
        maker.generate("in vain")?;
        Err::<(), _>(AuthorityError::Missing("root"))
    });
    assert!(matches!(in_vain.await, Err(AuthorityError::Missing(_))));
    assert_eq!(keys(&token), 2);

    // Nor can it be destroyed, for the token is away: it is once another is made.
    let (maker, unplugged) = (Arc::clone(&token), hsm.clone());
    let left = token.makes(move || {
        maker.generate("left")?;
        unplugged.unplug();
        Err::<(), _>(AuthorityError::Missing("root"))
    });
    assert!(matches!(left.await, Err(AuthorityError::Missing(_))));
    assert!(make(&token).await.is_err());
    hsm.plug_in();
    token.begin_anew().unwrap();
    assert_eq!(keys(&token), 3);
    make(&token).await.unwrap();
    assert_eq!(keys(&token), 3);
}

#[tokio::test]
async fn keys_of_an_installation_that_was_not_founded_do_not_stay_in_the_token() {
    const TEST: &str = "authority::token::making::tests::\
                        keys_of_an_installation_that_was_not_founded_do_not_stay_in_the_token";
    let Some(hsm) = softhsm::in_a_process_of_its_own(TEST) else { return };
    let token = Token::open_if(Some(&hsm.settings)).await.unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kek = KeyEncryptionKey::create(&folder.path().join("kek")).unwrap();
    let store = KeyStore::new(Arc::new(kek), Some(Arc::clone(&token)));
    let domain = "shop.local".parse().unwrap();
    let (_, _, made) =
        found(&domain, Vec::new(), &store, UnixMillis::from_secs(1_800_000_000)).await.unwrap();
    assert_eq!(keys(&token), 2);
    made.destroy(&store).await;
    assert_eq!(keys(&token), 0);
}
