use super::*;
use crate::testing::{Authorities, HOUR, around};

fn opened() -> (tempfile::TempDir, State) {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(&directory.path().join("state")).unwrap();
    (directory, state)
}

#[test]
fn is_for_one_agent_and_its_user_alone() {
    let (_directory, state) = opened();
    let mode = fs::metadata(state.directory()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(matches!(State::open(state.directory()), Err(StateError::InUse(_))));
    let path = state.directory().to_owned();
    drop(state);
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let again = State::open(&path).unwrap();
    assert_eq!(fs::metadata(again.directory()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn keeps_what_was_saved_and_nothing_else() {
    let (_directory, state) = opened();
    assert!(state.mark().unwrap().is_none());
    assert!(state.node_view().unwrap().is_none());
    assert!(state.identity().unwrap().is_none());
    assert!(state.endpoints().unwrap().is_empty());
    let mark = Mark { epoch: 7, revision: u64::MAX };
    state.save_mark(mark).unwrap();
    assert_eq!(state.mark().unwrap(), Some(mark));
    let views: Vec<_> = (0..3)
        .map(|n| pb::SignedView {
            view: vec![n; 100].into(),
            signature: vec![n].into(),
            key_id: "k".to_owned(),
        })
        .collect();
    state.save_service_views(&views).unwrap();
    assert_eq!(state.service_views().unwrap(), views);
    state.save_service_views(&views[..1]).unwrap();
    assert_eq!(state.service_views().unwrap().len(), 1);
    assert_eq!(fs::metadata(state.directory().join(MARK)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn every_flipped_bit_is_named() {
    let (_directory, state) = opened();
    let view =
        pb::SignedView { view: vec![1, 2, 3].into(), signature: vec![9].into(), key_id: "k".to_owned() };
    state.save_service_views(std::slice::from_ref(&view)).unwrap();
    let path = state.directory().join(SERVICE_VIEWS);
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        fs::write(&path, flipped(&good, bit)).unwrap();
        let error = state.service_views().unwrap_err();
        assert!(error.to_string().contains(SERVICE_VIEWS), "bit {bit}: {error}");
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(state.service_views(), Err(StateError::Damaged { .. })), "{len} bytes");
    }
}

#[test]
fn no_flipped_bit_makes_another_view() {
    let (_directory, state) = opened();
    let view =
        pb::SignedView { view: vec![1, 2, 3].into(), signature: vec![9].into(), key_id: "k".to_owned() };
    state.save_node_view(&view).unwrap();
    let path = state.directory().join(NODE_VIEW);
    let good = fs::read(&path).unwrap();
    let written = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for bit in 0..written * 8 {
        fs::write(&path, flipped(&good, bit)).unwrap();
        let error = state.node_view().unwrap_err();
        assert!(error.to_string().contains(NODE_VIEW), "bit {bit}: {error}");
    }
    for len in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..len]).unwrap();
        match state.node_view() {
            Ok(found) => assert_eq!(found.as_ref(), Some(&view), "{len} bytes"),
            Err(error) => assert!(matches!(error, StateError::Damaged { .. }), "{len} bytes: {error}"),
        }
    }
}

fn flipped(good: &[u8], bit: usize) -> Vec<u8> {
    let mut bad = good.to_vec();
    bad[bit / 8] ^= 1 << (bit % 8);
    bad
}

#[test]
fn a_write_that_was_cut_off_leaves_the_former_file() {
    let (_directory, state) = opened();
    state.save_mark(Mark { epoch: 1, revision: 1 }).unwrap();
    fs::write(state.directory().join(format!(".{MARK}.new")), b"half").unwrap();
    assert_eq!(state.mark().unwrap(), Some(Mark { epoch: 1, revision: 1 }));
    state.save_mark(Mark { epoch: 1, revision: 2 }).unwrap();
    assert_eq!(state.mark().unwrap(), Some(Mark { epoch: 1, revision: 2 }));
}

#[test]
fn a_pending_key_is_the_same_until_there_is_a_certificate() {
    let (_directory, state) = opened();
    let first = state.pending_key().unwrap();
    let second = state.pending_key().unwrap();
    assert_eq!(first.public_key().fingerprint(), second.public_key().fingerprint());
    fs::write(state.directory().join(PENDING_KEY), b"damaged").unwrap();
    let third = state.pending_key().unwrap();
    assert_ne!(first.public_key().fingerprint(), third.public_key().fingerprint());
}

#[test]
fn nothing_of_an_identity_is_left_when_its_node_is_gone() {
    let (_directory, state) = opened();
    state.pending_key().unwrap();
    let names = [
        IDENTITY,
        ".identity.new",
        PENDING_KEY,
        ".pending-key.new",
        SPENT_TOKEN,
        ".spent-token.new",
        NODE_VIEW,
        ENDPOINTS,
    ];
    for name in names {
        fs::write(state.directory().join(name), b"left").unwrap();
    }
    state.forget_node().unwrap();
    assert_eq!(names.map(|name| state.directory().join(name).exists()), [true; 8], "it is there");
    state.node_is_gone();
    state.forget_node().unwrap();
    assert_eq!(names.map(|name| state.directory().join(name).exists()), [false; 8]);
    assert!(matches!(state.membership(), Err(StateError::NodeGone)));
    assert!(matches!(state.keeping(), Err(StateError::NodeGone)));
    state.node_is_back();
    assert!(state.membership().is_ok() && state.keeping().is_ok());
}

#[test]
fn whoever_keeps_an_identity_when_its_node_goes_is_waited_for_and_nothing_is_left() {
    let (_directory, state) = opened();
    let identity = Authorities::new().identity("mesh/shop/node/orders", around(HOUR));
    let keeping = state.keeping().unwrap();
    std::thread::scope(|scope| {
        state.node_is_gone();
        let forgetting = scope.spawn(|| state.forget_node());
        keeping.save_identity(&identity).unwrap();
        assert!(state.identity().unwrap().is_some() && !forgetting.is_finished());
        drop(keeping);
        forgetting.join().unwrap().unwrap();
    });
    assert!(state.identity().unwrap().is_none());
    assert!(matches!(state.keeping(), Err(StateError::NodeGone)));
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let (_directory, state) = opened();
    fs::write(state.directory().join(MARK), b"hauberk-agent-slots 2 1 0 0\nhauberk-agent-slots 2 1 0 0\n")
        .unwrap();
    assert!(matches!(state.mark(), Err(StateError::NewerFormat { format: 2, .. })));
}
