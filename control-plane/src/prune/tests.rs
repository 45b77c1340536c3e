use hauberk_identity::{InstanceId, Name};
use serde_json::json;

use super::*;
use crate::admins::Role;
use crate::registry::{Commit, Store, document, keys};
use crate::revocation::Target;
use crate::testing::{Busy, Scratch, actor, joined, scratch_over};

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
