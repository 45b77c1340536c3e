//! Agents of gateways are let in as those of nodes are, and a node and a gateway that are called the same are two everywhere.

use super::*;
use crate::issuance::IssuedRecord;
use crate::revocation::{Denial, Target};

const BOTH: [&str; 2] = ["edge", "gateway/edge"];

fn named(node: &str) -> NodeName {
    NodeName::parse(node).unwrap()
}

fn mesh() -> Name {
    Name::parse(NODE.0).unwrap()
}

fn stored_key(node: &str) -> String {
    crate::resources::ResourceKey::node(&mesh(), &named(node)).store_key()
}

/// A control plane with a node and a gateway of one name.
async fn with_both() -> Scratch {
    let scratch = scratch().await;
    for node in BOTH {
        scratch.control.store.commit(Commit::new().put(stored_key(node), a_node(node))).await.unwrap();
    }
    scratch
}

async fn try_token_of(scratch: &Scratch, node: &str) -> Result<String, TokenError> {
    let of = TokenFor::Node(named(node));
    let asked = TokenRequest { mesh: mesh(), of, ttl: None, uses: Uses::Unlimited };
    Ok(scratch.control.tokens.create(asked, &actor()).await?.secret.reveal().to_owned())
}

struct Agent {
    instance: InstanceId,
    peer: PeerIdentity,
}

async fn agent_of(scratch: &Scratch, node: &str) -> Agent {
    let token = try_token_of(scratch, node).await.unwrap();
    let enrolled = attest(scratch, &token, &request().1).await.unwrap();
    Agent { instance: enrolled.instance, peer: scratch.peer(&enrolled.issued.svid) }
}

impl Agent {
    async fn renew(&self, scratch: &Scratch) -> Result<Enrolled, EnrollmentError> {
        scratch.control.enrollment.renew(&self.peer, &request().1, "10.0.0.7:4").await
    }

    async fn sign_workload(&self, scratch: &Scratch, name: &str) -> Result<IssuedRecord, EnrollmentError> {
        let (_, csr) = request();
        let enrollment = &scratch.control.enrollment;
        let issued = enrollment.sign_workload(&self.peer, self.instance, name, &csr, "s").await?;
        let record = scratch.control.ledger.certificate(issued.svid.serial()).await.unwrap();
        Ok(record.unwrap())
    }

    fn denial(&self, scratch: &Scratch) -> Option<Denial> {
        scratch.control.revocations.denylist().denial(self.peer.id(), self.peer.serial())
    }
}

/// Each of the two, and the other one.
fn each() -> [(&'static str, &'static str); 2] {
    [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])]
}

#[tokio::test]
async fn a_token_makes_an_agent_of_the_very_one() {
    let scratch = with_both().await;
    for (node, id) in [("edge", "node/edge"), ("gateway/edge", "gateway/edge")] {
        let agent = agent_of(&scratch, node).await;
        assert_eq!(agent.peer.id().as_str(), format!("spiffe://shop.local/mesh/shop/{id}"));
        let record = scratch.control.ledger.instance(&agent.instance).await.unwrap().unwrap();
        assert_eq!((record.node.as_str(), record.node_uid.as_deref()), (node, Some(node)));
        assert_eq!(agent.renew(&scratch).await.unwrap().issued.svid.id(), agent.peer.id());
        let listed = scratch.control.tokens.list(Some("shop")).await.unwrap();
        assert!(listed.iter().any(|token| token.record.node == node), "{listed:?}");
    }
}

#[tokio::test]
async fn where_one_is_gone_the_other_stands_for_nothing_of_it() {
    for (node, other) in each() {
        let scratch = with_both().await;
        let (agent, neighbour) = (agent_of(&scratch, node).await, agent_of(&scratch, other).await);
        let token = try_token_of(&scratch, node).await.unwrap();
        scratch.control.store.commit(Commit::new().delete(stored_key(node))).await.unwrap();
        let wanted = format!("mesh shop has no {} any longer", named(node).in_words());
        for refused in [agent.renew(&scratch).await, attest(&scratch, &token, &request().1).await] {
            assert_eq!(refused.unwrap_err().to_string(), wanted);
        }
        let refused = try_token_of(&scratch, node).await.unwrap_err().to_string();
        assert_eq!(refused, format!("mesh shop has no {}: apply it first", named(node).in_words()));
        neighbour.renew(&scratch).await.unwrap();
        // One that is made anew is another, whatever its neighbour is.
        let anew = Commit::new().put(stored_key(node), a_node(other));
        scratch.control.store.commit(anew).await.unwrap();
        assert!(matches!(agent.renew(&scratch).await, Err(EnrollmentError::NodeMadeAnew { .. })));
    }
}

#[tokio::test]
async fn one_in_quarantine_leaves_the_other_alone() {
    for (node, other) in each() {
        let scratch = with_both().await;
        let revocations = &scratch.control.revocations;
        let (agent, neighbour) = (agent_of(&scratch, node).await, agent_of(&scratch, other).await);
        let (_, changed) = revocations.quarantine((&mesh(), &named(node)), false, &actor()).await.unwrap();
        assert!(changed);
        assert_eq!((agent.denial(&scratch), neighbour.denial(&scratch)), (Some(Denial::Quarantined), None));
        assert!(matches!(agent.renew(&scratch).await, Err(EnrollmentError::Denied(Denial::Quarantined))));
        neighbour.renew(&scratch).await.unwrap();
        // The other is not in it, so that nothing ends by that.
        let (_, changed) = revocations.quarantine((&mesh(), &named(other)), true, &actor()).await.unwrap();
        assert!(!changed);
        let (_, changed) = revocations.quarantine((&mesh(), &named(node)), true, &actor()).await.unwrap();
        assert!(changed);
        agent.renew(&scratch).await.unwrap();
    }
}

#[tokio::test]
async fn to_revoke_one_leaves_the_other_alone() {
    for (node, other) in each() {
        let scratch = with_both().await;
        let (agent, neighbour) = (agent_of(&scratch, node).await, agent_of(&scratch, other).await);
        let target = Target::Node(mesh(), named(node));
        let revoked = scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
        assert_eq!(revoked.serials, [agent.peer.serial()]);
        assert_eq!((agent.denial(&scratch), neighbour.denial(&scratch)), (Some(Denial::Revoked), None));
        neighbour.renew(&scratch).await.unwrap();
    }
}

#[tokio::test]
async fn only_the_parents_agents_vouch_for_a_workload() {
    use prost::Message as _;
    for (node, other) in each() {
        let scratch = with_both().await;
        let workload = wire::WorkloadEnrollment {
            path: "worker".to_owned(),
            selectors: vec!["unix:uid:1000".to_owned()],
            ..wire::WorkloadEnrollment::default()
        };
        let (parent, workload) = (Some(parent(node)), Some(workload));
        let spec = wire::EnrollmentSpec { parent, workload, attest: None };
        let spec = Some(wire::resource::Spec::Enrollment(spec));
        let bytes = wire::Resource { spec, ..wire::Resource::default() }.encode_to_vec();
        let put = Commit::new().put(keys::resource("Enrollment", NODE.0, "worker"), bytes);
        scratch.control.store.commit(put).await.unwrap();

        let (agent, neighbour) = (agent_of(&scratch, node).await, agent_of(&scratch, other).await);
        let refused = neighbour.sign_workload(&scratch, "worker").await.unwrap_err();
        let parent = named(node).in_words();
        assert_eq!(refused.to_string(), format!("the parent of enrollment worker is {parent}, not {other}"));
        let issued = agent.sign_workload(&scratch, "worker").await.unwrap();
        assert_eq!(issued.spiffe_id, "spiffe://shop.local/workload/worker");
        let vouching = agent.peer.id().to_string();
        assert!(matches!(issued.holder, Holder::Workload { node, .. } if node == vouching));
    }
}
