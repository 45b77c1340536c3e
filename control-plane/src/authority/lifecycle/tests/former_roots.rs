use hauberk_tls::TrustBundle;

use super::*;
use crate::authority::book::put;
use crate::authority::{AuthorityError, steps::OUTLIVED_AFTER};

/// What somebody knows who has looked under the active root, and at nothing else.
fn alone(scratch: &Scratch) -> TrustBundle {
    scratch.control.authority.issuing().root_bundle().clone()
}

/// Puts another root in the place of the active one, a minute after what came before. Gives its serial number.
async fn rotated(scratch: &Scratch) -> String {
    scratch.clock.advance(Duration::from_secs(60));
    let root = after_a_crash(scratch).await.prepare(Kind::Root, false, &actor()).await.unwrap();
    after_a_crash(scratch).await.activate(&root, &actor()).await.unwrap();
    while scratch.control.authorities.advance(&actor()).await.unwrap() {}
    root
}

/// Our own certificate as it is shown now.
async fn shown(scratch: &Scratch) -> Svid {
    let authority = &scratch.control.authority;
    assert_eq!(after_a_crash(scratch).await.parts.authority.server_chain(), authority.server_chain());
    authority.server_chain().complete(&certificate(scratch).await).unwrap()
}

fn finds(scratch: &Scratch, by: &TrustBundle, shown: &[hauberk_tls::CertificateDer<'_>]) -> bool {
    verify_svid(shown, by, scratch.clock.now(), Usage::Server).is_ok()
}

#[tokio::test]
async fn who_knows_any_of_the_roots_in_use_alone_finds_us_and_no_more_are_than_can_be_shown() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let first = (serial_of(&scratch, Kind::Root, State::Active).await, alone(&scratch));
    rotated(&scratch).await;
    let stopped = scratch.clock.now();
    let second = alone(&scratch);
    scratch.clock.advance(Duration::from_secs(3_600));
    rotated(&scratch).await;
    for round in ["root", "issuing"] {
        let own = shown(&scratch).await;
        for root in [&first.1, &second, &alone(&scratch)] {
            assert!(finds(&scratch, root, own.chain()), "{round}");
        }
        // Whoever takes what stands first and tries nothing else, and has not looked since, knows the oldest one.
        assert!(finds(&scratch, &first.1, &own.chain()[..2]), "{round}");
        assert_eq!(own.issuer_serial(), Some(scratch.control.authority.issuing().serial()), "{round}");
        let next = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
        authorities.activate(&next, &actor()).await.unwrap();
    }

    let refused = authorities.prepare(Kind::Root, true, &actor()).await.unwrap_err();
    let LifecycleError::Authority(AuthorityError::RootsInUse { oldest, room: 2, from }) = refused else {
        panic!("{refused}");
    };
    assert_eq!((oldest, from), (first.0, stopped.plus(OUTLIVED_AFTER)));
    scratch.clock.advance(from.since(scratch.clock.now()));
    rotated(&scratch).await;
    let own = shown(&scratch).await;
    assert!(finds(&scratch, &second, own.chain()) && !finds(&scratch, &first.1, own.chain()));
}

#[tokio::test]
async fn a_root_between_that_is_revoked_makes_room_and_cuts_off_nobody_else() {
    let scratch = scratch().await;
    let first = alone(&scratch);
    let stolen = rotated(&scratch).await;
    rotated(&scratch).await;
    assert!(scratch.control.authorities.prepare(Kind::Root, true, &actor()).await.is_err());
    scratch.control.authorities.revoke(&stolen, true, &actor()).await.unwrap();
    let own = shown(&scratch).await;
    assert!(finds(&scratch, &first, &own.chain()[..2]), "what the revoked one signed is in nobody's way");
    rotated(&scratch).await;
    assert!(finds(&scratch, &first, shown(&scratch).await.chain()));
}

#[tokio::test]
async fn the_root_is_found_of_a_cross_certificate_that_a_former_release_kept() {
    let scratch = scratch().await;
    let first = (serial_of(&scratch, Kind::Root, State::Active).await, alone(&scratch));
    rotated(&scratch).await;
    let book = Book::read(&*scratch.control.store).await.unwrap();
    let issuing = book.active(Kind::Issuing).unwrap();
    let mut record = issuing.record.clone();
    record.cross = record.crosses.remove(0).certificate;
    let commit = put(Commit::new(), Kind::Issuing, &issuing.serial, &record).unwrap();
    scratch.control.store.commit(commit).await.unwrap();
    let read = Book::read(&*scratch.control.store).await.unwrap();
    assert_eq!(read.active(Kind::Issuing).unwrap().record, issuing.record);
    assert!(read.active(Kind::Issuing).unwrap().cross_by(&first.0).is_some());
    assert!(finds(&scratch, &first.1, &shown(&scratch).await.chain()[..2]));
}
