//! What denylists an agent accepts, and what a restart makes of them.

use hauberk_identity::{InstanceId, Serial, SpiffeId};

use super::running::Running;
use super::*;
use crate::mesh::Denial;

const EPOCH: u64 = 5;

fn serial(number: u8) -> Serial {
    Serial::from_random([number; 16])
}

/// Those from 200 on are on hold.
fn list(revision: u64, serials: &[u8]) -> pb::Denylist {
    let certificates = serials.iter().map(|number| pb::RevokedCertificate {
        serial: serial(*number).as_bytes().to_vec(),
        not_after_unix_ms: u64::MAX,
        on_hold: *number >= 200,
    });
    pb::Denylist {
        epoch: EPOCH,
        revision,
        trust_domain: "shop.local".to_owned(),
        certificates: certificates.collect(),
        spiffe_ids: vec!["spiffe://shop.local/mesh/shop/node/bad".to_owned()],
        instance_ids: Vec::new(),
        held_instance_ids: Vec::new(),
    }
}

impl Agent {
    async fn refuse(&self, held: &mut Held, list: &pb::Denylist) -> Result<Mark, BadDenylist> {
        let taken = held.take_denylist(self.authorities.signed_denylist(list), &self.authorities.view_keys());
        held.disk.write_all().await;
        taken
    }

    fn denial(&self, node: &str, number: u8) -> Option<Denial> {
        let id = SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{node}")).unwrap();
        self.mesh.denied.denial(&id, serial(number))
    }
}

#[tokio::test]
async fn a_denylist_survives_a_restart_and_an_older_one_changes_nothing() {
    let agent = Agent::new();
    let mut held = agent.held();
    assert_eq!(
        held.hello(UnixMillis(0), false, &agent.authorities.view_keys()).denylist,
        Some(pb::HeldDenylist::default())
    );
    agent.refuse(&mut held, &list(3, &[1, 200])).await.unwrap();
    assert_eq!(agent.denial("web", 1), Some(Denial::Revoked));
    assert_eq!(agent.denial("web", 200), Some(Denial::Quarantined));
    assert_eq!(agent.denial("bad", 2), Some(Denial::Quarantined));
    assert_eq!(agent.denial("web", 2), None);
    assert!(matches!(agent.refuse(&mut held, &list(2, &[])).await, Err(BadDenylist::Older { .. })));

    drop(held);
    let agent = agent.restarted();
    let mut held = agent.held();
    assert_eq!(agent.denial("web", 1), Some(Denial::Revoked));
    assert_eq!(
        held.hello(UnixMillis(0), false, &agent.authorities.view_keys()).denylist,
        Some(pb::HeldDenylist { epoch: EPOCH, revision: 3, key_id: agent.authorities.view_key_id() })
    );
    assert!(matches!(agent.refuse(&mut held, &list(2, &[])).await, Err(BadDenylist::Older { .. })));
    agent.refuse(&mut held, &list(4, &[])).await.unwrap();
    assert_eq!(agent.denial("web", 1), None, "it is full state");
}

#[tokio::test]
async fn an_instance_that_is_listed_is_refused_by_whatever_certificate_says_that_it_is_its() {
    let agent = Agent::new();
    let mut held = agent.held();
    let [revoked, on_hold, other] = [1, 2, 3].map(|number| InstanceId::from_random([number; 8]));
    let instance_ids = vec![revoked.to_string()];
    let held_instance_ids = vec![on_hold.to_string(), revoked.to_string()];
    let denylist = pb::Denylist { instance_ids, held_instance_ids, ..list(3, &[]) };
    agent.refuse(&mut held, &denylist).await.unwrap();
    drop(held);
    let agent = agent.restarted();
    let _held = agent.held();
    let denial = |path: &str, serial| {
        agent.mesh.denied.denial(&SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap(), serial)
    };
    for path in ["mesh/shop/node/web", "workload/worker"] {
        for random in [[3; 16], [4; 16]] {
            assert_eq!(denial(path, Serial::of_instance(revoked, random)), Some(Denial::Revoked));
            assert_eq!(denial(path, Serial::of_instance(on_hold, random)), Some(Denial::Quarantined));
            assert_eq!(denial(path, Serial::of_instance(other, random)), None);
        }
        assert_eq!(denial(path, serial(1)), None);
    }
}

#[tokio::test]
async fn a_denylist_that_is_not_ours_or_cannot_be_is_refused_whole() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.refuse(&mut held, &list(3, &[1])).await.unwrap();
    let foreign = pb::Denylist { trust_domain: "other.local".to_owned(), ..list(9, &[]) };
    assert!(matches!(agent.refuse(&mut held, &foreign).await, Err(BadDenylist::OtherTrustDomain(_))));
    let mut impossible = list(9, &[]);
    impossible.spiffe_ids.push("web".to_owned());
    assert!(matches!(agent.refuse(&mut held, &impossible).await, Err(BadDenylist::Impossible(_))));
    let mut impossible = list(9, &[]);
    impossible.instance_ids.push("web".to_owned());
    assert!(matches!(agent.refuse(&mut held, &impossible).await, Err(BadDenylist::Impossible(_))));
    let mut impossible = list(9, &[2]);
    impossible.certificates[0].serial.clear();
    assert!(matches!(agent.refuse(&mut held, &impossible).await, Err(BadDenylist::Impossible(_))));
    let others = Authorities::new().signed_denylist(&list(9, &[]));
    let taken = held.take_denylist(others, &agent.authorities.view_keys());
    assert!(matches!(taken, Err(BadDenylist::BadSignature(_))));
    // A view's signature is none of a denylist's.
    let encoded = list(9, &[]).encode_to_vec();
    let signature = agent.authorities.signer.sign(hauberk_tls::signing::Purpose::View, &encoded).unwrap();
    let key_id = agent.authorities.signer.key_id().to_owned();
    let posing = pb::SignedDenylist { denylist: encoded.into(), signature: signature.into(), key_id };
    let taken = held.take_denylist(posing, &agent.authorities.view_keys());
    assert!(matches!(taken, Err(BadDenylist::BadSignature(_))));
    assert_eq!(agent.denial("web", 1), Some(Denial::Revoked), "the former stays");
}

#[tokio::test]
async fn where_the_kept_list_is_damaged_nobody_is_let_in() {
    let agent = Agent::new();
    let mut held = agent.held();
    agent.take(&mut held, &node_view(1)).await;
    agent.refuse(&mut held, &list(3, &[1])).await.unwrap();
    assert_eq!(agent.closed(), None);
    drop(held);
    std::fs::write(agent.directory.path().join("denylist"), b"nonsense").unwrap();
    let agent = agent.restarted();
    let mut held = agent.held();
    assert_eq!(agent.closed(), Some(ClosedReason::NoDenylist));
    agent.refuse(&mut held, &list(3, &[1])).await.unwrap();
    assert_eq!(agent.closed(), None);
}

#[tokio::test]
async fn a_denylist_by_a_key_that_is_not_known_ends_the_session_so_that_the_next_is_told_of_it() {
    let agent = Agent::new();
    let held = agent.held();
    let mut running = Running::start(agent, held).await;
    let next = Authorities::new();
    running.stream.send(Down::Denylist(next.signed_denylist(&list(3, &[1])))).await;
    let again = tokio::time::timeout(Duration::from_secs(10), running.plane.streams.recv());
    let mut stream = again.await.expect("it comes back").unwrap();
    let hello = stream.next(|up| if let Up::Hello(hello) = up { Some(hello) } else { None }).await;
    assert_eq!(hello.view_key_ids, [running.agent.authorities.view_key_id()]);
    assert_eq!(hello.denylist.unwrap().revision, 0);
    let mut trust = running.agent.authorities.trust();
    trust.view_keys.extend(next.trust().view_keys);
    running.agent.mesh.denied.publish_applied(Mark { epoch: EPOCH, revision: 3 });
    stream.send(Down::Trust(trust)).await;
    stream.send(Down::Denylist(next.signed_denylist(&list(3, &[1])))).await;
    stream.next(|up| if let Up::AcknowledgeDenylist(it) = up { Some(it) } else { None }).await;
    assert_eq!(running.agent.denial("web", 1), Some(Denial::Revoked));
}
