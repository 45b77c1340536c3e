use hauberk_identity::{InstanceId, Name, NodeName};
use hauberk_tls::PeerIdentity;
use serde_json::json;

use super::*;
use crate::admins::Role;
use crate::registry::{Commit, Store, document, keys};
use crate::revocation::{Denial, Target};
use crate::testing::{Busy, Scratch, actor, joined, scratch, scratch_over};

/// Every kind that is pruned: what it is called, and where it stands.
const KINDS: [(&str, &str); 6] = [
    ("machines", keys::ATTESTED),
    ("certificates", keys::ISSUED),
    ("trust in force", keys::TRUST_IN_FORCE),
    ("join tokens", keys::TOKENS),
    ("revocations", keys::REVOKED_INSTANCES),
    ("login tokens", keys::LOGINS),
];

/// A control plane with something of each kind that has long expired.
async fn with_expired() -> (Scratch, Arc<Busy>) {
    let mut busy = None;
    let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
    let control = &scratch.control;
    let peer = joined(&scratch).await;
    let instance = control.ledger.instance_of(&peer, control.clock.now()).await.unwrap().unwrap();
    control.revocations.revoke(&Target::Instance(instance), &actor()).await.unwrap();
    let nobody = InstanceId::from_random([9; 8]);
    let machine = format!("{}uid/machine/key", keys::ATTESTED);
    let record = json!({
        "mesh": "shop", "enrollment": "gone", "node": "orders", "node_uid": "first",
        "instance": nobody.to_string(), "at": 1, "source": "10.0.0.7:4", "revoked": false,
    });
    let trust = format!("{}{nobody}", keys::TRUST_IN_FORCE);
    let commit = Commit::new()
        .put(machine.clone(), document::to_bytes(&machine, &record).unwrap())
        .put(trust.clone(), document::to_bytes(&trust, &json!({ "version": 1 })).unwrap());
    control.store.commit(commit).await.unwrap();
    control.admins.create(&Name::parse("ada").unwrap(), &[Role::Viewer], &actor()).await.unwrap();
    scratch.clock.advance(Duration::from_secs(10 * 86_400));
    (scratch, busy.unwrap())
}

/// Whether something of this kind is left.
async fn is_left(busy: &Busy, prefix: &str) -> bool {
    !busy.list(prefix, None, 1).await.unwrap().entries.is_empty()
}

#[tokio::test]
async fn what_cannot_be_read_keeps_no_other_kind_from_being_pruned() {
    for (damaged, prefix) in KINDS {
        let (scratch, busy) = with_expired().await;
        busy.damage(Some(prefix));
        let Pruned { removed, failed } = once(&scratch.control).await;
        assert!(matches!(failed.as_slice(), [(what, _)] if *what == damaged), "{failed:?}");
        assert!(removed >= 4, "{damaged}: {removed}");
        busy.damage(None);
        for (kind, prefix) in KINDS {
            // Which machines were revoked has to be remembered first.
            let waits = (damaged, kind) == ("machines", "revocations");
            assert_eq!(is_left(&busy, prefix).await, kind == damaged || waits, "{damaged}: {kind}");
        }
        let Pruned { failed, .. } = once(&scratch.control).await;
        assert!(failed.is_empty(), "{failed:?}");
        for (kind, prefix) in KINDS {
            assert!(!is_left(&busy, prefix).await, "{kind}");
        }
    }
}

/// Set ahead for as long as one round takes, by little and by much, soon after a start and long after it.
#[tokio::test]
async fn while_the_clock_is_set_ahead_nothing_is_forgotten() {
    for (running, ahead) in [(0, 400 * 86_400), (2 * 3_600, 2 * 3_600 + 60), (2 * 3_600, 400 * 86_400)] {
        let scratch = scratch().await;
        let control = &scratch.control;
        scratch.clock.advance(Duration::from_secs(running));
        let (revoked, live) = (joined(&scratch).await, joined(&scratch).await);
        assert!(once(control).await.removed == 0);
        control.revocations.revoke(&Target::Serial(revoked.serial()), &actor()).await.unwrap();

        let right = scratch.clock.now();
        scratch.clock.set(right.plus(Duration::from_secs(ahead)));
        assert_eq!(once(control).await.removed, 0, "{running} {ahead}");
        assert_eq!(scratch.clock.ahead(), Some(Duration::from_secs(ahead)));
        // Another revocation, and another start, have the list read again meanwhile.
        let (mesh, node) = (Name::parse("shop").unwrap(), NodeName::parse("orders").unwrap());
        control.revocations.quarantine((&mesh, &node), false, &actor()).await.unwrap();
        control.revocations.quarantine((&mesh, &node), true, &actor()).await.unwrap();
        let again = scratch.started_again().await;
        scratch.clock.set(right);
        assert_eq!(scratch.clock.ahead(), None);

        for control in [control, &again] {
            let denial =
                |peer: &PeerIdentity| control.revocations.denylist().denial(peer.id(), peer.serial());
            assert_eq!(denial(&revoked), Some(Denial::Revoked), "{running} {ahead}");
            assert_eq!(denial(&live), None);
            assert!(control.ledger.instance_of(&live, right).await.unwrap().is_some());
        }
        // What has ended by the right clock goes all the same.
        scratch.clock.advance(Duration::from_secs(2 * 86_400));
        assert!(once(control).await.removed >= 4, "{running} {ahead}");
    }
}
