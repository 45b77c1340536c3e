use hauberk_proto::mesh::v1 as wire;

use super::*;
use crate::testing::{Scratch, actor, joined, request, scratch};

async fn life(scratch: &Scratch, id: InstanceId) -> Option<DescribeInstanceResponse> {
    of(&scratch.control, id, None, scratch.control.ledger.instance(&id).await.unwrap()).await.unwrap()
}

fn actions(life: &DescribeInstanceResponse) -> Vec<&str> {
    life.records.iter().map(|record| record.action.as_str()).collect()
}

#[tokio::test]
async fn a_life_is_found_among_many_others() {
    let scratch = scratch().await;
    scratch.enroll("worker", wire::WorkloadEnrollment::default()).await;
    let peer = joined(&scratch).await;
    let id = peer.serial().instance().unwrap();
    let (_, csr) = request();
    scratch.control.enrollment.sign_workload(&peer, id, "worker", &csr, "10.0.0.7:4").await.unwrap();
    scratch.control.enrollment.renew(&peer, &csr, "10.0.0.7:4").await.unwrap();
    let sibling = joined(&scratch).await;
    // More than one call looks at, all of them later.
    scratch.foreign_certificates(10_001).await;

    let found = life(&scratch, id).await.unwrap();
    assert_eq!((found.certificates.len(), found.workload_certificates.len()), (2, 1));
    assert!(!found.more_certificates && found.not_looked_at.is_empty(), "{found:?}");
    let [worker] = &found.workloads[..] else { panic!("{:?}", found.workloads) };
    assert_eq!((worker.enrollment.as_str(), worker.gone), ("worker", false));
    assert_eq!(worker.selectors, ["unix:uid:1000"]);
    let found = actions(&found).join(" ");
    assert_eq!(found, "certificate.renew workload.issue enrollment.attest token.create");
    let theirs = life(&scratch, sibling.serial().instance().unwrap()).await.unwrap();
    assert_eq!((theirs.certificates.len(), theirs.workload_certificates.len()), (1, 0));
    assert_eq!(actions(&theirs).join(" "), "enrollment.attest token.create", "nothing of its sibling");
}

#[tokio::test]
async fn the_log_tells_of_an_instance_that_the_registry_has_forgotten() {
    let scratch = scratch().await;
    let peer = joined(&scratch).await;
    let id = peer.serial().instance().unwrap();
    scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await.unwrap();
    scratch.clock.advance(Duration::from_secs(86_400));
    scratch.control.ledger.prune(scratch.clock.now()).await.unwrap();
    assert!(scratch.control.ledger.instance(&id).await.unwrap().is_none());

    let found = life(&scratch, id).await.unwrap();
    assert!(found.forgotten && found.certificates.is_empty() && found.renewal_due.is_none(), "{found:?}");
    assert_eq!(found.joined_from, "10.0.0.7:4");
    assert_eq!(actions(&found), ["certificate.renew", "enrollment.attest"]);
    let instance = found.instance.unwrap();
    assert_eq!((instance.spiffe_id.as_str(), instance.node.as_str()), (peer.id().as_str(), "orders"));

    let nobody = InstanceId::from_random([7; 8]);
    let refused = crate::audit::Act::refused(&actor(), "revoke.instance", format!("instance {nobody}"), "");
    scratch.control.audit.record(refused).await.unwrap();
    assert_eq!(life(&scratch, nobody).await, None, "that somebody asked for it makes it none");
}

#[tokio::test]
async fn certificates_of_an_earlier_release_are_found_as_far_as_they_are_looked_at() {
    let scratch = scratch().await;
    let peer = joined(&scratch).await;
    let id = peer.serial().instance().unwrap();
    let key = |serial: hauberk_identity::Serial| format!("{}{serial}", keys::ISSUED);
    let record = scratch.control.store.get(&key(peer.serial())).await.unwrap().unwrap().value;
    let old = hauberk_identity::Serial::from_random([1; 16]);
    let put = crate::registry::Commit::new().put(key(old), record);
    scratch.control.store.commit(put).await.unwrap();
    let found = life(&scratch, id).await.unwrap();
    let serials: Vec<_> = found.certificates.iter().flat_map(|told| &told.certificate).collect();
    assert!(serials.iter().any(|told| told.serial == old.to_string()), "{serials:?}");
    assert_eq!(serials.len(), 2);
}
