mod aws;
mod terms;

use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence as Source;
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use hauberk_tls::device::{DeviceKey, statement};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::*;
use crate::audit::Filter;
use crate::registry::keys;
use crate::resources::testing::{attest_rule, parent};
use crate::revocation::Target;
use crate::testing::{Busy, NODE, Scratch, a_node, actor, request, scratch, scratch_over};

const CHANNEL: [u8; 32] = [7; 32];

/// An authority of machines.
struct Machines {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Machines {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "machines");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn machine(&self, name: &str) -> DeviceKey {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        DeviceKey::from_pem(&certificate.pem(), key.serialize_pem().as_bytes()).unwrap()
    }
}

fn rule(node: &str, selector: &str) -> wire::AttestRule {
    attest_rule(node, &[selector])
}

async fn enroll(scratch: &Scratch, ca: &str, rules: Vec<wire::AttestRule>) {
    enroll_as(scratch, "first", ca, rules).await;
}

async fn enroll_as(scratch: &Scratch, uid: &str, ca: &str, rules: Vec<wire::AttestRule>) {
    let evidence = Some(Source::X509pop(wire::X509PopEvidence { ca: ca.to_owned() }));
    put_enrollment(scratch, uid, wire::AttestEnrollment { rules, evidence }).await;
}

async fn put_enrollment(scratch: &Scratch, uid: &str, attest: wire::AttestEnrollment) {
    let attest = Some(attest);
    let spec = Some(Spec::Enrollment(wire::EnrollmentSpec { attest, ..wire::EnrollmentSpec::default() }));
    let metadata = Some(wire::Metadata { uid: uid.to_owned(), ..wire::Metadata::default() });
    let bytes = Resource { spec, metadata, ..Resource::default() }.encode_to_vec();
    let put = Commit::new().put(keys::resource("Enrollment", NODE.0, "vms"), bytes);
    scratch.control.store.commit(put).await.unwrap();
}

fn proof(machine: &DeviceKey, csr: &[u8], channel: [u8; 32]) -> Evidence {
    let agent_key = CertificateRequest::parse(csr).unwrap();
    let said = statement(&ChannelBinding::from_bytes(channel), &agent_key, NODE.0, "vms");
    let chain = machine.chain().iter().map(|certificate| certificate.to_vec()).collect();
    Evidence::X509Pop { chain, signature: machine.prove(&said).unwrap() }
}

async fn show(scratch: &Scratch, evidence: Evidence, csr: &[u8]) -> Result<Enrolled, EnrollmentError> {
    show_to(scratch, "vms", evidence, csr).await
}

async fn show_to(
    scratch: &Scratch,
    enrollment: &str,
    evidence: Evidence,
    csr: &[u8],
) -> Result<Enrolled, EnrollmentError> {
    let channel = ChannelBinding::from_bytes(CHANNEL);
    let shown = Shown { mesh: NODE.0, enrollment, evidence, channel: &channel, former: None };
    scratch.control.enrollment.attest_evidence(shown, csr, AgentInfo::default(), "10.0.0.7:4").await
}

async fn join(scratch: &Scratch, machine: &DeviceKey, csr: &[u8]) -> Result<Enrolled, EnrollmentError> {
    show(scratch, proof(machine, csr, CHANNEL), csr).await
}

/// What the caller is told, and what the administrator is.
async fn told(scratch: &Scratch, error: &EnrollmentError) -> (String, String) {
    let filter = Filter { refused_only: true, ..Filter::default() };
    let recorded = scratch.control.audit.list(&filter, None, 1).await.unwrap().records;
    (crate::rpc::status::of_enrollment(error).message().to_owned(), recorded[0].reason.clone())
}

async fn refused(scratch: &Scratch, result: Result<Enrolled, EnrollmentError>, why: &str) {
    let error = result.unwrap_err();
    let (caller, administrator) = told(scratch, &error).await;
    assert_eq!(caller, "the evidence makes nothing of this agent: the control plane's audit log says why");
    assert!(administrator.contains(why), "{administrator}");
}

#[tokio::test]
async fn a_machine_becomes_what_its_enrollment_says_and_the_same_key_the_same_again() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let machine = ca.machine("vm-1");
    let (key, csr) = request();
    let first = join(&scratch, &machine, &csr).await.unwrap();
    let svid = &first.issued.svid;
    assert_eq!(svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(svid.key_fingerprint(), key.public_key().fingerprint());

    scratch.clock.advance(Duration::from_secs(60));
    let again = join(&scratch, &machine, &csr).await.unwrap();
    assert_eq!(again.instance, first.instance);
    let other = join(&scratch, &machine, &request().1).await.unwrap();
    assert_ne!(other.instance, first.instance);

    let record = scratch.control.ledger.instance(&first.instance).await.unwrap().unwrap();
    assert_eq!(record.enrolled_at, first.issued.issued_at.0);
    let evidence = record.evidence.unwrap();
    assert_eq!(
        (&*evidence.attestor, &*evidence.enrollment, &*evidence.source),
        ("x509pop", "vms", "10.0.0.7:4")
    );
    assert!(evidence.selectors.contains(&"x509pop:subject:cn:vm-1".to_owned()), "{evidence:?}");
}

#[tokio::test]
async fn evidence_makes_nobody_somebody_else() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, (_, csr)) = (ca.machine("vm-1"), request());
    let channel = ChannelBinding::from_bytes(CHANNEL);
    let as_whom = async |name: &str| {
        let spiffe_id = format!("spiffe://shop.local/mesh/shop/node/{name}").parse().unwrap();
        let former = Former { instance: "0123456789".parse().unwrap(), spiffe_id, certificate: None };
        let (evidence, former) = (proof(&machine, &csr, CHANNEL), Some(&former));
        let shown = Shown { mesh: NODE.0, enrollment: "vms", evidence, channel: &channel, former };
        scratch.control.enrollment.attest_evidence(shown, &csr, AgentInfo::default(), "10.0.0.7:4").await
    };
    let error = as_whom("web").await.unwrap_err();
    assert_eq!(error.reason(), "SOMEBODY_ELSE");
    let (caller, administrator) = told(&scratch, &error).await;
    assert!(!caller.contains("orders") && administrator.contains("/node/orders"), "{administrator}");
    as_whom("orders").await.unwrap();
}

#[tokio::test]
async fn an_enrollment_is_read_once_however_often_strangers_name_it() {
    let (scratch, machines) = (scratch().await, Machines::new());
    let rules = |node| vec![rule(node, "x509pop:subject:cn:host-1")];
    enroll(&scratch, &machines.pem, rules(NODE.1)).await;
    let enrollment = &scratch.control.enrollment;
    let read = async || enrollment.enrollment_of_agents(NODE.0, "vms").await.map(|stored| stored.enrollment);
    let first = read().await.unwrap();
    for _ in 0..3 {
        let junk = Evidence::X509Pop { chain: vec![vec![0; 9]], signature: vec![0; 9] };
        show(&scratch, junk, &request().1).await.unwrap_err();
        assert!(Arc::ptr_eq(&first, &read().await.unwrap()), "the very reading of before");
    }
    // Another version is what it says.
    enroll(&scratch, &machines.pem, rules("web")).await;
    let second = read().await.unwrap();
    assert_ne!(first, second);
    assert!(Arc::ptr_eq(&second, &read().await.unwrap()));
    let key = keys::resource("Enrollment", NODE.0, "vms");
    scratch.control.store.commit(Commit::new().delete(key.clone())).await.unwrap();
    assert!(read().await.is_err());
    // Nor is what no release reads.
    scratch.control.store.commit(Commit::new().put(key, Resource::default().encode_to_vec())).await.unwrap();
    assert!(read().await.is_err());
}

#[tokio::test]
async fn the_administrator_is_told_every_selector_that_is_missing_however_long() {
    let (scratch, ca) = (scratch().await, Machines::new());
    let selectors: Vec<_> =
        (10..42).map(|n| format!("x509pop:subject:cn:{n}{}", "x".repeat(1_000))).collect();
    let wanted = format!("it lacks {}; it has", selectors.join(", "));
    let rule = wire::AttestRule { selectors, ..rule("orders", "") };
    enroll(&scratch, &ca.pem, vec![rule]).await;
    let (machine, (_, csr)) = (ca.machine("vm-1"), request());
    refused(&scratch, join(&scratch, &machine, &csr).await, &wanted).await;
}

#[tokio::test]
async fn the_caller_is_told_nothing_and_the_administrator_everything() {
    let (scratch, ca, others) = (scratch().await, Machines::new(), Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, (_, csr)) = (ca.machine("vm-1"), request());

    let foreign = join(&scratch, &others.machine("vm-1"), &csr).await;
    refused(&scratch, foreign, "the evidence is not believed").await;
    let other = join(&scratch, &ca.machine("vm-2"), &csr).await;
    refused(&scratch, other, "for virtual node orders (rules[0]) it lacks x509pop:subject:cn:vm-1; it has")
        .await;
    let good = || proof(&machine, &csr, CHANNEL);
    for name in ["vm", "", "../vms", "vms/x"] {
        let missing = show_to(&scratch, name, good(), &csr).await;
        refused(&scratch, missing, &format!("has no enrollment {name:?} of agents by evidence")).await;
    }
    // A program's enrollment is none of agents.
    let workload = Some(wire::WorkloadEnrollment {
        path: "worker".to_owned(),
        selectors: vec!["unix:uid:1000".to_owned()],
        ..wire::WorkloadEnrollment::default()
    });
    let parent = Some(parent(NODE.1));
    let spec = Some(Spec::Enrollment(wire::EnrollmentSpec { parent, workload, attest: None }));
    let bytes = Resource { spec, ..Resource::default() }.encode_to_vec();
    let key = keys::resource("Enrollment", NODE.0, "worker");
    scratch.control.store.commit(Commit::new().put(key, bytes)).await.unwrap();
    refused(&scratch, show_to(&scratch, "worker", good(), &csr).await, "of agents by evidence").await;
    assert!(scratch.control.ledger.certificates(None, None, 10).await.unwrap().certificates.is_empty());
    join(&scratch, &machine, &csr).await.unwrap();
}

#[tokio::test]
async fn a_proof_is_good_for_one_connection_one_agent_and_one_enrollment() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, (_, csr), (_, stolen_for)) = (ca.machine("vm-1"), request(), request());
    let not_possession = "the proof of possession is not the certificate's key's";
    // What was overheard on another connection, or is shown for another key.
    let replayed = show(&scratch, proof(&machine, &csr, [8; 32]), &csr).await;
    refused(&scratch, replayed, not_possession).await;
    let relayed = show(&scratch, proof(&machine, &csr, CHANNEL), &stolen_for).await;
    refused(&scratch, relayed, not_possession).await;
    // The certificate is public; the key is not.
    let Evidence::X509Pop { chain, .. } = proof(&machine, &csr, CHANNEL) else { unreachable!() };
    let Evidence::X509Pop { signature, .. } = proof(&ca.machine("vm-1"), &csr, CHANNEL) else {
        unreachable!()
    };
    let copied = show(&scratch, Evidence::X509Pop { chain: chain.clone(), signature }, &csr).await;
    refused(&scratch, copied, not_possession).await;
    let without = show(&scratch, Evidence::X509Pop { chain: Vec::new(), signature: Vec::new() }, &csr).await;
    refused(&scratch, without, "no certificate was presented").await;
    let garbage = Evidence::X509Pop { chain: vec![vec![0x30; 20_000]], signature: Vec::new() };
    refused(&scratch, show(&scratch, garbage, &csr).await, "16384 are the most").await;
    // Another enrollment that believes the same authority.
    let vms = scratch.control.store.get(&keys::resource("Enrollment", NODE.0, "vms")).await.unwrap().unwrap();
    let put = Commit::new().put(keys::resource("Enrollment", NODE.0, "others"), vms.value);
    scratch.control.store.commit(put).await.unwrap();
    let elsewhere = show_to(&scratch, "others", proof(&machine, &csr, CHANNEL), &csr).await;
    refused(&scratch, elsewhere, not_possession).await;
}

#[tokio::test]
async fn what_fits_rules_of_two_nodes_is_refused() {
    let (scratch, ca) = (scratch().await, Machines::new());
    let web = keys::resource("VirtualNode", NODE.0, "web");
    scratch.control.store.commit(Commit::new().put(web, a_node("web"))).await.unwrap();
    let machine = ca.machine("vm-1");
    let dns = "x509pop:san:dns:rcgen.example";
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1"), rule("web", dns)]).await;
    join(&scratch, &machine, &request().1).await.unwrap();
    // A second rule of the same node is no ambiguity.
    let by_name = rule("orders", "x509pop:subject:cn:vm-1");
    let authority = {
        let record = scratch.control.ledger.instances().await.unwrap().remove(0).1;
        let selectors = record.evidence.unwrap().selectors;
        selectors.into_iter().find(|text| text.starts_with("x509pop:ca:fingerprint:")).unwrap()
    };
    enroll(&scratch, &ca.pem, vec![by_name.clone(), rule("orders", &authority)]).await;
    join(&scratch, &machine, &request().1).await.unwrap();
    enroll(&scratch, &ca.pem, vec![by_name.clone(), rule("web", &authority)]).await;
    let ambiguous = join(&scratch, &machine, &request().1).await;
    refused(
        &scratch,
        ambiguous,
        "it is ambiguous: it fits rules of virtual node orders and virtual node web",
    )
    .await;
    // One that could never be unambiguous is not even taken for an enrollment.
    let mut both = rule("web", &authority);
    both.selectors.push("x509pop:subject:cn:vm-1".to_owned());
    enroll(&scratch, &ca.pem, vec![by_name, both]).await;
    let result = join(&scratch, &machine, &request().1).await;
    refused(&scratch, result, "of agents by evidence").await;
}

#[tokio::test]
async fn a_machine_becomes_a_gateway_and_not_the_node_of_its_name() {
    let (scratch, ca) = (scratch().await, Machines::new());
    for kind in ["VirtualNode", "VirtualGateway"] {
        let key = keys::resource(kind, NODE.0, "edge");
        scratch.control.store.commit(Commit::new().put(key, a_node(kind))).await.unwrap();
    }
    let by_name = |node: &str| rule(node, "x509pop:subject:cn:vm-1");
    enroll(&scratch, &ca.pem, vec![by_name("gateway/edge")]).await;
    let machine = ca.machine("vm-1");
    let (_, csr) = request();
    let gateway = join(&scratch, &machine, &csr).await.unwrap();
    assert_eq!(gateway.issued.svid.id().as_str(), "spiffe://shop.local/mesh/shop/gateway/edge");
    let peer = scratch.peer(&gateway.issued.svid);
    let renew = async || scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await;
    renew().await.unwrap();

    let both = vec![by_name("gateway/edge"), rule("edge", "x509pop:san:dns:rcgen.example")];
    enroll(&scratch, &ca.pem, both).await;
    join(&scratch, &machine, &request().1).await.unwrap();
    let authority = {
        let record = scratch.control.ledger.instances().await.unwrap().remove(0).1;
        let selectors = record.evidence.unwrap().selectors;
        selectors.into_iter().find(|text| text.starts_with("x509pop:ca:fingerprint:")).unwrap()
    };
    enroll(&scratch, &ca.pem, vec![by_name("gateway/edge"), rule("edge", &authority)]).await;
    let ambiguous = join(&scratch, &machine, &request().1).await;
    refused(&scratch, ambiguous, "it fits rules of virtual gateway edge and virtual node edge").await;

    // The same key becomes another instance by another rule, and the gateway's is renewed no longer.
    enroll(&scratch, &ca.pem, vec![by_name("edge")]).await;
    let refused = renew().await.unwrap_err();
    assert!(refused.to_string().contains("its evidence now makes it virtual node edge"), "{refused}");
    let node = join(&scratch, &machine, &csr).await.unwrap();
    assert_eq!(node.issued.svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/edge");
    assert_ne!(node.instance, gateway.instance);
}

#[tokio::test]
async fn a_renewal_asks_whether_the_enrollment_would_still_let_it_in() {
    let (scratch, ca, others) = (scratch().await, Machines::new(), Machines::new());
    let by_name = || vec![rule("orders", "x509pop:subject:cn:vm-1")];
    enroll(&scratch, &ca.pem, by_name()).await;
    let enrolled = join(&scratch, &ca.machine("vm-1"), &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    let renew = async || scratch.control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await;
    assert_eq!(renew().await.unwrap().instance, enrolled.instance);
    let kept = scratch.control.ledger.instance(&enrolled.instance).await.unwrap().unwrap().evidence;
    assert_eq!(kept.unwrap().enrollment, "vms");

    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-2")]).await;
    refused(&scratch, renew().await, "enrollment vms would not let it in any longer: it fits no rule").await;
    let web = keys::resource("VirtualNode", NODE.0, "web");
    scratch.control.store.commit(Commit::new().put(web, a_node("web"))).await.unwrap();
    enroll(&scratch, &ca.pem, vec![rule("web", "x509pop:subject:cn:vm-1")]).await;
    refused(&scratch, renew().await, "its evidence now makes it virtual node web").await;
    enroll(&scratch, &others.pem, by_name()).await;
    refused(&scratch, renew().await, "it does not believe x509pop evidence by").await;
    enroll(&scratch, &[others.pem, ca.pem.clone()].concat(), by_name()).await;
    renew().await.unwrap();
    let key = keys::resource("Enrollment", NODE.0, "vms");
    scratch.control.store.commit(Commit::new().delete(key)).await.unwrap();
    refused(&scratch, renew().await, "has no enrollment").await;
    enroll(&scratch, &ca.pem, by_name()).await;
    renew().await.unwrap();
}

#[tokio::test]
async fn whoever_would_not_be_renewed_vouches_for_no_workload() {
    let (scratch, ca) = (scratch().await, Machines::new());
    let by_name = || vec![rule("orders", "x509pop:subject:cn:vm-1")];
    enroll(&scratch, &ca.pem, by_name()).await;
    scratch.enroll("worker", Default::default()).await;
    let machine = ca.machine("vm-1");
    let enrolled = join(&scratch, &machine, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    let control = &scratch.control;
    control.authorities.advance_jwt_keys(&actor()).await.unwrap();
    let sign = async || {
        let (csr, instance) = (request().1, enrolled.instance);
        control.enrollment.sign_workload(&peer, instance, "worker", &csr, "10.0.0.7:4").await
    };
    let mint = async || {
        let audience = ["db".to_owned()];
        control.minter.mint_for_workload(&peer, enrolled.instance, "worker", &audience, "10.0.0.7:4").await
    };
    let refuse = async |why: &str| {
        let error = sign().await.unwrap_err();
        assert!(matches!(error, EnrollmentError::NotAttested(_)), "{error}");
        let (_, administrator) = told(&scratch, &error).await;
        assert!(administrator.contains(why), "{administrator}");
        assert!(mint().await.is_err(), "no token either: {why}");
    };
    sign().await.unwrap();
    mint().await.unwrap();

    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-2")]).await;
    refuse("enrollment vms would not let it in any longer: it fits no rule").await;
    let key = keys::resource("Enrollment", NODE.0, "vms");
    control.store.commit(Commit::new().delete(key)).await.unwrap();
    refuse("has no enrollment").await;
    enroll(&scratch, &ca.pem, by_name()).await;
    sign().await.unwrap();
    mint().await.unwrap();

    let other = join(&scratch, &machine, &request().1).await.unwrap().instance;
    control.revocations.revoke(&Target::Instance(other), &actor()).await.unwrap();
    refuse(&format!("instance {other} of key ")).await;
}

#[tokio::test]
async fn a_machine_of_which_an_instance_was_revoked_does_not_come_back() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, (_, csr)) = (ca.machine("vm-1"), request());
    let enrolled = join(&scratch, &machine, &csr).await.unwrap();
    let control = &scratch.control;
    control.revocations.revoke(&Target::Instance(enrolled.instance), &actor()).await.unwrap();
    for csr in [&csr, &request().1] {
        let why = format!("instance {} of key ", enrolled.instance);
        refused(&scratch, join(&scratch, &machine, csr).await, &why).await;
    }
    // Another machine of that name is another machine.
    join(&scratch, &ca.machine("vm-1"), &request().1).await.unwrap();

    // Also once the revocation itself, and everything else of the instance, is forgotten.
    assert_eq!(control.enrollment.prune_attested().await.unwrap(), 0);
    scratch.clock.advance(Duration::from_secs(10 * 86_400));
    let now = scratch.clock.now();
    control.ledger.prune(now).await.unwrap();
    control.revocations.prune(now).await.unwrap();
    assert!(control.store.list(keys::REVOKED_INSTANCES, None, 10).await.unwrap().entries.is_empty());
    assert_eq!(control.enrollment.prune_attested().await.unwrap(), 1, "of the other machine, which is gone");
    assert_eq!(control.store.list(keys::ATTESTED, None, 10).await.unwrap().entries.len(), 1);
    refused(&scratch, join(&scratch, &machine, &request().1).await, "was revoked").await;
    // Made anew it is another.
    enroll_as(&scratch, "second", &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    join(&scratch, &machine, &request().1).await.unwrap();
    assert_eq!(control.enrollment.prune_attested().await.unwrap(), 1);
    assert_eq!(control.store.list(keys::ATTESTED, None, 10).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_machine_of_which_an_instance_was_revoked_renews_none_of_its_others() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, other) = (ca.machine("vm-1"), ca.machine("vm-1"));
    let mut peers = Vec::new();
    for machine in [&machine, &machine, &other] {
        let enrolled = join(&scratch, machine, &request().1).await.unwrap();
        peers.push((enrolled.instance, scratch.peer(&enrolled.issued.svid)));
    }
    let control = &scratch.control;
    let renew = async |peer| control.enrollment.renew(peer, &request().1, "10.0.0.7:4").await;
    for (instance, peer) in &peers {
        assert_eq!(renew(peer).await.unwrap().instance, *instance);
    }
    let [(revoked, its), (_, second), (_, of_other)] = &peers[..] else { unreachable!() };
    control.revocations.revoke(&Target::Instance(*revoked), &actor()).await.unwrap();
    let refused_itself = renew(its).await;
    assert!(matches!(refused_itself, Err(EnrollmentError::Denied(_))), "{refused_itself:?}");
    refused(&scratch, renew(second).await, &format!("instance {revoked} of key ")).await;
    renew(of_other).await.unwrap();
    // Also once only the machine is remembered.
    control.enrollment.prune_attested().await.unwrap();
    let forgotten = Commit::new().delete(format!("{}{revoked}", keys::REVOKED_INSTANCES));
    control.store.commit(forgotten).await.unwrap();
    refused(&scratch, renew(second).await, &format!("instance {revoked} of key ")).await;
}

#[tokio::test]
async fn one_machine_does_not_use_up_its_nodes_instances() {
    let (scratch, ca) = (scratch().await, Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let (machine, other) = (ca.machine("vm-1"), ca.machine("vm-1"));
    for _ in 0..KEYS_AT_ONCE {
        join(&scratch, &machine, &request().1).await.unwrap();
    }
    let refused = join(&scratch, &machine, &request().1).await.unwrap_err();
    assert!(matches!(refused, EnrollmentError::TooManyKeys { .. }), "{refused}");
    let status = crate::rpc::status::of_enrollment(&refused);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    join(&scratch, &other, &request().1).await.unwrap();
    scratch.clock.advance(Duration::from_secs(180));
    join(&scratch, &machine, &request().1).await.unwrap();
}

#[tokio::test]
async fn what_comes_to_no_certificate_is_given_back() {
    let mut busy = None;
    let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, ca) = (busy.unwrap(), Machines::new());
    enroll(&scratch, &ca.pem, vec![rule("orders", "x509pop:subject:cn:vm-1")]).await;
    let machine = ca.machine("vm-1");
    let fail = async |csr: &[u8]| {
        busy.refuse(0, 1);
        let failed = join(&scratch, &machine, csr).await.unwrap_err();
        assert!(!failed.is_refusal(), "{failed}");
    };
    // New keys, more than a machine may have at once.
    for _ in 0..=KEYS_AT_ONCE {
        fail(&request().1).await;
    }
    for _ in 1..KEYS_AT_ONCE {
        join(&scratch, &machine, &request().1).await.unwrap();
    }
    // And the same key again, more often than an instance renews.
    let (_, csr) = request();
    let instance = join(&scratch, &machine, &csr).await.unwrap().instance;
    for _ in 0..=KEYS_AT_ONCE {
        fail(&csr).await;
    }
    assert_eq!(join(&scratch, &machine, &csr).await.unwrap().instance, instance);
}
