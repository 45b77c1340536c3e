use std::time::Duration;

use hauberk_identity::{Name, NodeName, Serial, SpiffeId};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::PeerIdentity;
use hauberk_tls::signing::{Purpose, ViewVerifier};
use prost::Message as _;

use super::revocations::MOST_CERTIFICATES;
use super::*;
use crate::audit::Filter;
use crate::authority::Kind;
use crate::enrollment::{AgentInfo, Enrolled, EnrollmentError, TokenFor, TokenRequest, Uses};
use crate::health::Health;
use crate::registry::{Commit, MAX_VALUE_BYTES, document, keys};
use crate::secret::{SecretHash, SecretId};
use crate::testing::{Busy, NODE, Scratch, actor, request, scratch, scratch_over};

async fn token(scratch: &Scratch, uses: Uses) -> String {
    let (mesh, node) = node();
    let asked = TokenRequest { mesh, of: TokenFor::Node(node), ttl: None, uses };
    scratch.control.tokens.create(asked, &actor()).await.unwrap().secret.reveal().to_owned()
}

async fn attest(scratch: &Scratch, token: &str, csr: &[u8]) -> Result<Enrolled, EnrollmentError> {
    scratch.control.enrollment.attest(token, csr, AgentInfo::default(), None, "10.0.0.7:4").await
}

async fn join(scratch: &Scratch) -> (Enrolled, PeerIdentity) {
    let token = token(scratch, Uses::Limited(1)).await;
    let enrolled = attest(scratch, &token, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    (enrolled, peer)
}

async fn renew(scratch: &Scratch, peer: &PeerIdentity) -> Result<Enrolled, EnrollmentError> {
    scratch.control.enrollment.renew(peer, &request().1, "10.0.0.7:4").await
}

fn denial(scratch: &Scratch, peer: &PeerIdentity) -> Option<Denial> {
    scratch.control.revocations.denylist().denial(peer.id(), peer.serial())
}

fn node() -> (Name, NodeName) {
    (Name::parse(NODE.0).unwrap(), NodeName::parse(NODE.1).unwrap())
}

fn left<const N: usize>(serials: [Serial; N]) -> Left {
    let instance = serials.first().and_then(Serial::instance);
    Left { serials: serials.to_vec(), admin: None, instance }
}

fn is_denied<T: std::fmt::Debug>(result: Result<T, EnrollmentError>, denial: Denial) {
    match result {
        Err(EnrollmentError::Denied(found)) => assert_eq!(found, denial),
        other => panic!("{other:?}"),
    }
}

async fn load_again(scratch: &Scratch) -> Revocations {
    let control = &scratch.control;
    Revocations::load(RevocationsParts {
        store: control.store.clone(),
        audit: control.audit.clone(),
        ledger: control.ledger.clone(),
        instances: control.instances.clone(),
        authority: control.authority.clone(),
        clock: control.clock.clone(),
    })
    .await
    .unwrap()
}

/// The lists of all who sign some, that of the issuing authority that signs certificates first.
async fn crls(scratch: &Scratch, revocations: &Revocations) -> Vec<bytes::Bytes> {
    let mut keeper = crl::Keeper::default();
    keeper.renew(revocations, &scratch.control.authorities).await.unwrap();
    keeper.lists().unwrap().ders
}

async fn crl(scratch: &Scratch, revocations: &Revocations) -> bytes::Bytes {
    crls(scratch, revocations).await.swap_remove(0)
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_renewed_no_more() {
    let scratch = scratch().await;
    let revocations = &scratch.control.revocations;
    let (_, first) = join(&scratch).await;
    let second = scratch.peer(&renew(&scratch, &first).await.unwrap().issued.svid);
    let before = scratch.control.store.revision().await.unwrap().0;
    let revoked = revocations.revoke(&Target::Serial(first.serial()), &actor()).await.unwrap();
    assert_eq!((revoked.revision, revoked.serials), (before + 1, vec![first.serial()]));
    assert_eq!(revoked.left, left([second.serial()]));
    assert_eq!(denial(&scratch, &first), Some(Denial::Revoked));
    assert_eq!(denial(&scratch, &second), None, "only what was named");
    is_denied(renew(&scratch, &first).await, Denial::Revoked);
    renew(&scratch, &second).await.unwrap();

    let again = revocations.revoke(&Target::Serial(first.serial()), &actor()).await.unwrap();
    assert_eq!((again.revision, again.serials.len()), (before + 1, 0), "it is revoked already");
    assert_eq!(
        load_again(&scratch).await.denylist().mark,
        revocations.denylist().mark,
        "after a restart too"
    );
    let asked = Filter { action: "revoke.".to_owned(), ..Filter::default() };
    let records = scratch.control.audit.list(&asked, None, 10).await.unwrap().records;
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].reason.contains(&first.serial().to_string()), "{records:?}");
}

#[tokio::test]
async fn a_revoked_instance_gets_nothing_more_by_its_token() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let (_, csr) = request();
    let enrolled = attest(&scratch, &token, &csr).await.unwrap();
    let first = scratch.peer(&enrolled.issued.svid);
    let second = scratch.peer(&renew(&scratch, &first).await.unwrap().issued.svid);
    let target = Target::Instance(enrolled.instance);
    let revoked = scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!((revoked.serials.len(), revoked.left.serials.len()), (2, 0));
    let rests_on = |list: &Denylist| list.rests_on_instances(scratch.clock.now());
    assert_eq!(rests_on(&scratch.control.revocations.denylist()), None, "each is named");
    for peer in [&first, &second] {
        assert_eq!(denial(&scratch, peer), Some(Denial::Revoked));
        is_denied(renew(&scratch, peer).await, Denial::Revoked);
    }
    // The reply might have been lost: the same token and key would be answered again.
    is_denied(attest(&scratch, &token, &csr).await, Denial::Revoked);
    let (_, other) = join(&scratch).await;
    assert_eq!(denial(&scratch, &other), None, "a new instance is another");
}

#[tokio::test]
async fn workloads_go_with_the_instance_that_vouches_for_them() {
    let scratch = scratch().await;
    let control = &scratch.control;
    scratch.enroll("worker", wire::WorkloadEnrollment::default()).await;
    let (enrolled, peer) = join(&scratch).await;
    let sign = async || {
        let (_, csr) = request();
        control.enrollment.sign_workload(&peer, enrolled.instance, "worker", &csr, "10.0.0.7:4").await
    };
    let workload = scratch.peer(&sign().await.unwrap().svid);
    assert_eq!(control.ledger.answerable(&peer).await, enrolled.instance);
    let of_workloads = control.ledger.answerable(&workload).await;
    assert_ne!(of_workloads, enrolled.instance, "no workload takes its agent's places");

    let (mesh, name) = node();
    control.revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    is_denied(sign().await, Denial::Quarantined);
    // What the workload has is held back for as long, by every agent and by those who read the CRL.
    for list in [control.revocations.denylist(), load_again(&scratch).await.denylist()] {
        assert_eq!(list.denial(workload.id(), workload.serial()), Some(Denial::Quarantined));
        let told = hauberk_proto::agent::v1::Denylist::decode(&*list.signed.denylist).unwrap();
        let [held] = &told.certificates[..] else { panic!("{told:?}") };
        assert_eq!((&held.serial[..], held.on_hold), (workload.serial().as_bytes(), true));
    }
    let crl = crl(&scratch, &control.revocations).await;
    let (_, crl) = x509_parser::parse_x509_crl(&crl).unwrap();
    let mut on_hold: Vec<_> = crl
        .iter_revoked_certificates()
        .filter(|entry| entry.reason_code().unwrap().1 == x509_parser::x509::ReasonCode::CertificateHold)
        .map(|entry| entry.raw_serial().to_vec())
        .collect();
    on_hold.sort();
    let mut expected = [workload.serial().as_bytes().to_vec(), peer.serial().as_bytes().to_vec()];
    expected.sort();
    assert_eq!(on_hold, expected);
    control.revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap();
    assert_eq!(denial(&scratch, &workload), None);

    let target = Target::Instance(enrolled.instance);
    let revoked = control.revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!(revoked.serials.len(), 2, "its own and the workload's");
    assert_eq!(denial(&scratch, &workload), Some(Denial::Revoked));
    is_denied(sign().await, Denial::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_renewal_slips_past_the_revocation_of_its_instance() {
    let scratch = std::sync::Arc::new(scratch().await);
    for _ in 0..8 {
        let (enrolled, peer) = join(&scratch).await;
        let mut renewals = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (scratch, peer) = (scratch.clone(), peer.clone());
            renewals.spawn(async move { renew(&scratch, &peer).await });
        }
        let target = Target::Instance(enrolled.instance);
        scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
        for renewed in renewals.join_all().await.into_iter().flatten() {
            let peer = scratch.peer(&renewed.issued.svid);
            assert_eq!(denial(&scratch, &peer), Some(Denial::Revoked), "issued before, and so revoked too");
        }
        is_denied(renew(&scratch, &peer).await, Denial::Revoked);
    }
}

#[tokio::test]
async fn all_instances_that_a_node_has_are_revoked_and_new_ones_are_not() {
    let scratch = scratch().await;
    let (_, first) = join(&scratch).await;
    let (_, second) = join(&scratch).await;
    let (mesh, name) = node();
    let target = Target::Node(mesh.clone(), name.clone());
    let revoked = scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!(revoked.serials.len(), 2);
    assert_eq!([denial(&scratch, &first), denial(&scratch, &second)], [Some(Denial::Revoked); 2]);
    let (_, third) = join(&scratch).await;
    assert_eq!(denial(&scratch, &third), None);
    let target = Target::Node(mesh, NodeName::parse("nobody").unwrap());
    let error = scratch.control.revocations.revoke(&target, &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::NoInstances { .. }), "{error}");
}

#[tokio::test]
async fn all_who_joined_by_a_token_are_revoked_also_when_it_is_gone() {
    let scratch = scratch().await;
    let stolen = token(&scratch, Uses::Unlimited).await;
    let id = SecretId::parse(SecretHash::of(&stolen).short()).unwrap();
    let (_, csr) = request();
    let first = scratch.peer(&attest(&scratch, &stolen, &csr).await.unwrap().issued.svid);
    let renewed = scratch.peer(&renew(&scratch, &first).await.unwrap().issued.svid);
    let again = scratch.peer(&attest(&scratch, &stolen, &csr).await.unwrap().issued.svid);
    let second = scratch.peer(&attest(&scratch, &stolen, &request().1).await.unwrap().issued.svid);
    let (_, other) = join(&scratch).await;
    scratch.control.tokens.delete(id.as_str(), &actor()).await.unwrap();
    let target = Target::Token(id);
    let revoked = scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!(revoked.serials.len(), 4);
    for peer in [&first, &renewed, &again, &second] {
        assert_eq!(denial(&scratch, peer), Some(Denial::Revoked));
        is_denied(renew(&scratch, peer).await, Denial::Revoked);
    }
    assert_eq!(denial(&scratch, &other), None, "it joined by another");
    let asked = Filter { action: "revoke.token".to_owned(), ..Filter::default() };
    assert_eq!(scratch.control.audit.list(&asked, None, 10).await.unwrap().records.len(), 1);
    let nobody = Target::Token(SecretId::parse("0123456789ab").unwrap());
    let error = scratch.control.revocations.revoke(&nobody, &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::UnknownToken(_)), "{error}");
}

#[tokio::test]
async fn instances_that_renew_in_a_loop_are_revoked_all_the_same() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (enrolled, peer) = join(&scratch).await;
    let key = format!("{}{}", keys::INSTANCES, enrolled.instance);
    let record = scratch.control.store.get(&key).await.unwrap().unwrap().value;
    let busy = busy.unwrap();
    // As a renewal does just before each attempt.
    for _ in 0..100 {
        busy.before_next(Commit::new().put(key.clone(), record.clone()));
    }
    let target = Target::Instance(enrolled.instance);
    scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!(denial(&scratch, &peer), Some(Denial::Revoked));
}

/// Has the list hold as many certificates as it takes.
async fn fill(scratch: &Scratch) -> Revocations {
    fill_with(scratch, Serial::from_random).await
}

/// The same with such ones.
async fn fill_with(scratch: &Scratch, serial: impl Fn([u8; 16]) -> Serial) -> Revocations {
    let not_after = scratch.clock.now().plus(Duration::from_secs(3_600)).0;
    let record = records::RevokedCertificate {
        spiffe_id: String::new(),
        not_after,
        at: scratch.clock.now().0,
        issuer: None,
    };
    let listed = document::to_bytes("listed", &record).unwrap();
    let full = (0..MOST_CERTIFICATES as u64).fold(Commit::new(), |commit, number| {
        let mut seed = [0; 16];
        seed[8..].copy_from_slice(&number.to_be_bytes());
        commit.put(records::serial_key(serial(seed)), listed.clone())
    });
    scratch.control.store.commit(full).await.unwrap();
    load_again(scratch).await
}

#[tokio::test]
async fn an_instance_is_revoked_with_however_many_certificates() {
    let scratch = scratch().await;
    let control = &scratch.control;
    scratch.enroll("worker", wire::WorkloadEnrollment::default()).await;
    let stolen = token(&scratch, Uses::Unlimited).await;
    let first = attest(&scratch, &stolen, &request().1).await.unwrap();
    let second = attest(&scratch, &stolen, &request().1).await.unwrap();
    let peer = scratch.peer(&first.issued.svid);
    let mut peers = vec![peer.clone(), scratch.peer(&second.issued.svid)];
    peers.push(scratch.peer(&renew(&scratch, &peer).await.unwrap().issued.svid));
    let (_, csr) = request();
    let worker = control.enrollment.sign_workload(&peer, first.instance, "worker", &csr, "s").await.unwrap();
    peers.push(scratch.peer(&worker.svid));
    let (_, other) = join(&scratch).await;

    let revocations = fill(&scratch).await;
    let target = Target::Token(SecretId::parse(SecretHash::of(&stolen).short()).unwrap());
    let revoked = revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!(revoked.serials.len(), 4);
    for list in [revocations.denylist(), load_again(&scratch).await.denylist()] {
        assert_eq!(list.certificates(), MOST_CERTIFICATES);
        let told = hauberk_proto::agent::v1::Denylist::decode(&*list.signed.denylist).unwrap();
        let mut expected = [first.instance.to_string(), second.instance.to_string()];
        expected.sort();
        assert_eq!(told.instance_ids, expected);
        for peer in &peers {
            assert_eq!(list.denial(peer.id(), peer.serial()), Some(Denial::Revoked));
        }
        assert_eq!(list.denial(other.id(), other.serial()), None);
        // Whoever knows serial numbers alone accepts them until the last has expired.
        let last = peers.iter().map(PeerIdentity::not_after).max().unwrap();
        assert_eq!(list.rests_on_instances(last), Some(last));
        assert_eq!(list.rests_on_instances(last.plus(Duration::from_millis(1))), None);
    }
    let again = revocations.revoke(&target, &actor()).await.unwrap();
    assert_eq!((again.revision, again.serials.len()), (revoked.revision, 0), "they are revoked already");
    is_denied(renew(&scratch, &peer).await, Denial::Revoked);
}

#[tokio::test]
async fn certificates_of_revoked_instances_take_no_place_from_one_that_is_revoked_by_itself() {
    let scratch = scratch().await;
    let (thief, of_thief) = join(&scratch).await;
    let (_, other) = join(&scratch).await;
    let revocations = fill_with(&scratch, |seed| Serial::of_instance(thief.instance, seed)).await;
    let error = revocations.revoke(&Target::Serial(other.serial()), &actor()).await.unwrap_err();
    assert!(
        matches!(error, RevocationError::TooMany { recorded: false }),
        "each stands for itself as yet: {error}"
    );
    revocations.revoke(&Target::Instance(thief.instance), &actor()).await.unwrap();
    let revoked = revocations.revoke(&Target::Serial(other.serial()), &actor()).await.unwrap();
    assert_eq!(revoked.serials, [other.serial()]);
    for revocations in [&revocations, &load_again(&scratch).await] {
        let list = revocations.denylist();
        assert_eq!(list.denial(other.id(), other.serial()), Some(Denial::Revoked));
        assert_eq!(list.denial(of_thief.id(), of_thief.serial()), Some(Denial::Revoked));
        let told = hauberk_proto::agent::v1::Denylist::decode(&*list.signed.denylist).unwrap();
        assert_eq!(told.certificates.len(), MOST_CERTIFICATES, "the others as long as there is room");
        assert!(list.rests_on_instances(scratch.clock.now()).is_some());
        assert!(told.certificates.iter().any(|told| told.serial == other.serial().as_bytes()));
        let crl = crl(&scratch, revocations).await;
        let (_, crl) = x509_parser::parse_x509_crl(&crl).unwrap();
        assert_eq!(crl.iter_revoked_certificates().count(), MOST_CERTIFICATES);
        let mut listed = crl.iter_revoked_certificates();
        assert!(listed.any(|entry| entry.raw_serial() == other.serial().as_bytes()));
    }
}

#[tokio::test]
async fn workloads_of_a_node_in_quarantine_are_held_back_with_however_many_certificates() {
    let scratch = scratch().await;
    let control = &scratch.control;
    scratch.enroll("worker", wire::WorkloadEnrollment::default()).await;
    let (enrolled, peer) = join(&scratch).await;
    let (_, csr) = request();
    let worker = control.enrollment.sign_workload(&peer, enrolled.instance, "worker", &csr, "s").await;
    let worker = scratch.peer(&worker.unwrap().svid);
    let revocations = fill(&scratch).await;
    let (mesh, name) = node();
    revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    let list = revocations.denylist();
    assert_eq!(list.denial(worker.id(), worker.serial()), Some(Denial::Quarantined));
    let told = hauberk_proto::agent::v1::Denylist::decode(&*list.signed.denylist).unwrap();
    assert_eq!(told.held_instance_ids, [enrolled.instance.to_string()]);
    assert_eq!(told.certificates.len(), MOST_CERTIFICATES, "there is no room for more");
    assert_eq!(list.rests_on_instances(scratch.clock.now()), Some(worker.not_after()));
    let crl = crl(&scratch, &revocations).await;
    assert!(crl.len() > MAX_VALUE_BYTES, "it stands in the registry in parts");
    let kept = kept_lists::load(&*control.store).await.unwrap();
    assert!(kept.values().any(|kept| *kept == crl));
    let (_, crl) = x509_parser::parse_x509_crl(&crl).unwrap();
    assert_eq!(crl.iter_revoked_certificates().count(), MOST_CERTIFICATES);
    revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap();
    assert_eq!(revocations.denylist().denial(worker.id(), worker.serial()), None);
    assert_eq!(revocations.denylist().rests_on_instances(scratch.clock.now()), None);
}

#[tokio::test]
async fn whoever_has_more_certificates_of_an_earlier_release_than_the_list_takes_gets_nothing_more() {
    let scratch = scratch().await;
    let (enrolled, peer) = join(&scratch).await;
    // One that does not say whose it is.
    let key = |serial: Serial| format!("{}{serial}", keys::ISSUED);
    let (old, record) = (Serial::from_random([9; 16]), scratch.control.store.get(&key(peer.serial())).await);
    let put = Commit::new().put(key(old), record.unwrap().unwrap().value);
    scratch.control.store.commit(put).await.unwrap();
    let revocations = fill(&scratch).await;
    let target = Target::Instance(enrolled.instance);
    for is_recorded in [true, false] {
        let error = revocations.revoke(&target, &actor()).await.unwrap_err();
        assert!(matches!(error, RevocationError::TooMany { .. }), "{error}");
        assert_eq!(error.is_recorded(), is_recorded, "the second time there is nothing to record");
    }
    let list = revocations.denylist();
    assert_eq!((list.denial(peer.id(), old), list.certificates()), (None, MOST_CERTIFICATES));
    assert_eq!(list.denial(peer.id(), peer.serial()), Some(Denial::Revoked));
    assert!(list.is_instance_revoked(enrolled.instance), "it is let in nowhere here");
    is_denied(renew(&scratch, &peer).await, Denial::Revoked);
    let asked = Filter { action: "revoke.instance".to_owned(), ..Filter::default() };
    let records = scratch.control.audit.list(&asked, None, 10).await.unwrap().records;
    assert_eq!(records.len(), 1, "{records:?}");
    // Once there is room, it is done as asked.
    scratch.clock.advance(Duration::from_secs(60));
    let forgotten = Commit::new().delete(records::serial_key(Serial::from_random([0; 16])));
    scratch.control.store.commit(forgotten).await.unwrap();
    assert_eq!(load_again(&scratch).await.revoke(&target, &actor()).await.unwrap().serials, [old]);
}

#[tokio::test]
async fn what_a_restored_registry_does_not_know_is_refused_by_its_instance() {
    let scratch = scratch().await;
    let revocations = &scratch.control.revocations;
    let (enrolled, peer) = join(&scratch).await;
    let unrecorded = |instance| Serial::of_instance(instance, [7; 16]);
    let denial = |instance| {
        // Another node's id, as a workload's would be: only the instance tells.
        let other = SpiffeId::parse("spiffe://shop.local/mesh/shop/node/other").unwrap();
        revocations.denylist().denial(&other, unrecorded(instance))
    };
    // The last certificate on record is gone, the instance is still known, and holds another.
    let issued = format!("{}{}", keys::ISSUED, peer.serial());
    scratch.control.store.commit(Commit::new().delete(issued)).await.unwrap();
    let (mesh, name) = node();
    revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    assert_eq!(denial(enrolled.instance), Some(Denial::Quarantined));
    revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap();
    assert_eq!(denial(enrolled.instance), None);
    revocations.revoke(&Target::Node(mesh, name), &actor()).await.unwrap();
    assert_eq!(denial(enrolled.instance), Some(Denial::Revoked));

    let unknown = hauberk_identity::InstanceId::from_random([7; 8]);
    let error = revocations.revoke(&Target::Instance(unknown), &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::NotOnRecord { .. }), "{error}");
    assert_eq!(denial(unknown), None);
    let revoked = revocations.revoke(&Target::UnrecordedInstance(unknown), &actor()).await.unwrap();
    assert_eq!(revoked.serials, []);
    revocations.revoke(&Target::Instance(unknown), &actor()).await.expect("it is known by that");
    assert_eq!(denial(unknown), Some(Denial::Revoked));
    // As long as any certificate lives that it may hold.
    scratch.clock.advance(Duration::from_secs(86_400));
    assert_eq!(revocations.prune(scratch.clock.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn an_instance_that_is_revoked_while_the_clock_is_behind_is_forgotten_no_earlier() {
    let scratch = scratch().await;
    let (revocations, hour) = (&scratch.control.revocations, Duration::from_secs(3_600));
    scratch.clock.advance(24 * hour);
    let right = scratch.clock.now();
    scratch.clock.set(right.minus(20 * hour));
    let unknown = hauberk_identity::InstanceId::from_random([7; 8]);
    revocations.revoke(&Target::UnrecordedInstance(unknown), &actor()).await.unwrap();
    scratch.clock.set(right);
    scratch.clock.advance(24 * hour);
    assert_eq!(revocations.prune(scratch.clock.now()).await.unwrap(), 0);
    assert!(revocations.denylist().is_instance_revoked(unknown));
    scratch.clock.advance(2 * hour);
    assert_eq!(revocations.prune(scratch.clock.now()).await.unwrap(), 1);
}

#[tokio::test]
async fn what_cannot_be_revoked_is_named() {
    let scratch = scratch().await;
    let revocations = &scratch.control.revocations;
    let (enrolled, _) = join(&scratch).await;
    let id = enrolled.instance.to_string();
    let mistyped = format!("{}{}", &id[..9], if id.ends_with('2') { '3' } else { '2' });
    let mistyped = hauberk_identity::InstanceId::parse(&mistyped).unwrap();
    let error = revocations.revoke(&Target::Instance(mistyped), &actor()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("did you mean \"{}\"? ", enrolled.instance)), "{error}");
    assert!(error.contains("`hauberk get instances`") && error.contains("--unrecorded"), "{error}");
    let unknown = Serial::from_random([7; 16]);
    let error = revocations.revoke(&Target::Serial(unknown), &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::UnknownSerial(_)), "{error}");
    let (_, peer) = join(&scratch).await;
    let authority = peer.issuer_serial().unwrap();
    let error = revocations.revoke(&Target::Serial(authority), &actor()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("`hauberk authority revoke {authority}`")), "{error}");
    scratch.clock.advance(Duration::from_secs(2 * 86_400));
    let error = revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::Expired(_)), "{error}");
    assert_eq!(revocations.denylist().mark.revision, 0, "nothing was changed");
}

#[tokio::test]
async fn a_node_in_quarantine_is_let_in_nowhere_until_that_is_undone() {
    let scratch = scratch().await;
    let revocations = &scratch.control.revocations;
    let token = token(&scratch, Uses::Unlimited).await;
    let (_, peer) = join(&scratch).await;
    let (mesh, name) = node();
    let (revision, changed) = revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    assert!(changed);
    assert_eq!(denial(&scratch, &peer), Some(Denial::Quarantined));
    is_denied(renew(&scratch, &peer).await, Denial::Quarantined);
    is_denied(attest(&scratch, &token, &request().1).await, Denial::Quarantined);
    assert_eq!(revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap(), (revision, false));
    assert_eq!(
        load_again(&scratch).await.denylist().denial(peer.id(), peer.serial()),
        Some(Denial::Quarantined)
    );

    let undone = revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap();
    assert_eq!(undone, (revision + 1, true));
    assert_eq!(denial(&scratch, &peer), None);
    renew(&scratch, &peer).await.unwrap();
    attest(&scratch, &token, &request().1).await.unwrap();
    let nobody = NodeName::parse("nobody").unwrap();
    for undo in [false, true] {
        let error = revocations.quarantine((&mesh, &nobody), undo, &actor()).await.unwrap_err();
        assert!(matches!(error, RevocationError::NoSuchNode { .. }), "{undo}: {error}");
    }
    assert_eq!(revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap(), (revision + 1, false));
    // Of a node that was deleted it can be ended.
    revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    let resource = crate::resources::ResourceKey::node(&mesh, &name).store_key();
    scratch.control.store.commit(Commit::new().delete(resource)).await.unwrap();
    assert!(revocations.quarantine((&mesh, &name), true, &actor()).await.unwrap().1);
}

#[tokio::test]
async fn nothing_is_forgotten_before_it_has_expired() {
    let scratch = scratch().await;
    let control = &scratch.control;
    let (enrolled, peer) = join(&scratch).await;
    control.revocations.revoke(&Target::Instance(enrolled.instance), &actor()).await.unwrap();
    let mark = control.revocations.denylist().mark;
    // Tokens live for a day at the most, and so does what keeps those out that were made before.
    let kept_for = Duration::from_secs(86_400 + 3_599);
    assert!(scratch.clock.now().plus(kept_for) > peer.not_after().plus(Duration::from_secs(3_600)));
    scratch.clock.advance(kept_for);
    assert_eq!(control.revocations.prune(scratch.clock.now()).await.unwrap(), 0);
    scratch.clock.advance(Duration::from_secs(2));
    assert_eq!(control.revocations.prune(scratch.clock.now()).await.unwrap(), 2, "certificate and instance");
    let list = load_again(&scratch).await.denylist();
    assert_eq!((list.certificates(), list.mark), (0, mark), "an agent that holds the list need not be told");
}

#[tokio::test]
async fn the_list_for_agents_is_signed_and_numbered() {
    let scratch = scratch().await;
    let (_, peer) = join(&scratch).await;
    let (mesh, name) = node();
    scratch.control.revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
    scratch.control.revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    let list = scratch.control.revocations.denylist();
    let keys = scratch.control.authority.view_keys();
    let verifier = ViewVerifier::from_public_keys(keys.iter().map(|key| &key.public_key[..])).unwrap();
    let signed = &list.signed;
    verifier.verify(Purpose::Denylist, &signed.key_id, &signed.denylist, &signed.signature).unwrap();
    let read = hauberk_proto::agent::v1::Denylist::decode(&*signed.denylist).unwrap();
    assert_eq!((read.epoch, read.revision), (scratch.control.authority.epoch(), list.mark.revision));
    assert_eq!(read.certificates[0].serial, peer.serial().as_bytes());
    assert_eq!(read.certificates[0].not_after_unix_ms, peer.not_after().0);
    let id = name.spiffe_id(scratch.control.authority.trust_domain(), &mesh);
    assert_eq!(read.spiffe_ids, [id.to_string()]);
}

/// Whose list each is, and what it names.
fn read(lists: &crl::RevocationLists) -> Vec<(String, Vec<Serial>)> {
    let read = |der: &bytes::Bytes| {
        let (_, list) = x509_parser::parse_x509_crl(der).unwrap();
        let named = list.iter_revoked_certificates();
        let serial =
            |raw: &[u8]| raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>().parse().unwrap();
        // Its name ends with the serial number of its certificate.
        let issuer = list.issuer().to_string().rsplit('=').next().unwrap().to_owned();
        (issuer, named.map(|entry| serial(entry.raw_serial())).collect())
    };
    lists.ders.iter().map(read).collect()
}

#[tokio::test]
async fn each_authority_has_a_list_of_what_it_has_signed_and_roots_of_authorities() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let root = scratch.control.authority.root().unwrap().der().clone();
    let root = hauberk_tls::AuthorityCertificate::read(root).unwrap().serial().to_string();
    let first = scratch.control.authority.issuing().serial();
    let (_, by_first) = join(&scratch).await;
    let mut keeper = crl::Keeper::default();
    let mut lists = async || {
        keeper.renew(revocations, authorities).await.unwrap();
        keeper.lists().unwrap()
    };
    let begun = lists().await;
    assert_eq!(read(&begun), [(first.to_string(), vec![]), (root.clone(), vec![])]);
    assert!(begun.is_complete);

    // One that waits has a list before it signs anything.
    let second = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    let prepared = read(&lists().await);
    assert_eq!(prepared, [(first.to_string(), vec![]), (second.clone(), vec![]), (root.clone(), vec![])]);
    authorities.activate(&second, &actor()).await.unwrap();
    let (_, by_second) = join(&scratch).await;
    for peer in [&by_first, &by_second] {
        revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
    }
    let of_first = (first.to_string(), vec![by_first.serial()]);
    let of_second = (second.clone(), vec![by_second.serial()]);
    let now = lists().await;
    assert_eq!(read(&now), [of_second.clone(), of_first, (root.clone(), vec![])]);
    assert_eq!(now.ders[2], begun.ders[1], "what has not changed is not signed again");

    // Nothing that it has signed is good any longer: whoever wants its list finds none, and its root names it.
    authorities.revoke(&first.to_string(), true, &actor()).await.unwrap();
    assert_eq!(read(&lists().await), [of_second.clone(), (root.clone(), vec![first])]);
    // Another root has a list before anything stands under it.
    let next = authorities.prepare(Kind::Root, false, &actor()).await.unwrap();
    let now = read(&lists().await);
    assert_eq!((now.len(), &now[0], &now[2]), (4, &of_second, &(root, vec![first])));
    assert_eq!(now[3], (next, vec![]));
    let pem = String::from_utf8(lists().await.pem.to_vec()).unwrap();
    assert_eq!(pem.matches("-----BEGIN X509 CRL-----").count(), 4);
}

/// Takes an authority's key away, and gives what was on record of it.
async fn lose_key(scratch: &Scratch, record: &str) -> bytes::Bytes {
    let stored = scratch.control.store.get(record).await.unwrap().unwrap().value;
    let mut lost: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    lost["sealed_key"] = "bG9zdA==".into();
    put(scratch, record, serde_json::to_vec(&lost).unwrap().into()).await;
    stored
}

async fn put(scratch: &Scratch, record: &str, value: bytes::Bytes) {
    scratch.control.store.commit(Commit::new().put(record, value)).await.unwrap();
}

#[tokio::test]
async fn a_list_that_cannot_be_signed_takes_none_away_and_holds_up_no_more_than_it_must() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let root = scratch.control.authority.root().unwrap().der().clone();
    let root = hauberk_tls::AuthorityCertificate::read(root).unwrap().serial();
    let first = scratch.control.authority.issuing().serial();
    let second = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    let issuing = |serial: &str| format!("{}{serial}", keys::ISSUING);
    let lists = tokio::sync::watch::Sender::default();
    let mut follower = lists.subscribe();

    // When none was signed yet: without the root's Envoys would be given none, and believe who is revoked.
    for needed in [format!("{}{root}", keys::ROOTS), issuing(&first.to_string())] {
        let mut keeper = crl::Keeper::default();
        forget_lists(&scratch).await;
        let kept = lose_key(&scratch, &needed).await;
        keeper.renew(revocations, authorities).await.unwrap();
        assert_eq!(keeper.lists(), None, "{needed}");
        keeper.publish(&lists);
        assert!(lists.borrow().trouble.is_held_up && lists.borrow().ders.is_empty());
        assert!(!follower.has_changed().unwrap(), "nobody has to be told that");
        put(&scratch, &needed, kept).await;
    }

    // One that is prepared has signed nothing of which somebody would want its list.
    let mut keeper = crl::Keeper::default();
    forget_lists(&scratch).await;
    let kept = lose_key(&scratch, &issuing(&second)).await;
    keeper.renew(revocations, authorities).await.unwrap();
    keeper.publish(&lists);
    let now = follower.borrow_and_update().clone();
    assert_eq!(read(&now), [(first.to_string(), vec![]), (root.to_string(), vec![])]);
    assert!(now.is_complete && !now.trouble.is_held_up);
    assert!(now.trouble.unsigned.as_ref().is_some_and(|unsigned| unsigned.starts_with(&second)));
    put(&scratch, &issuing(&second), kept).await;
    keeper.renew(revocations, authorities).await.unwrap();
    keeper.publish(&lists);
    let now = follower.borrow_and_update().clone();
    assert_eq!((now.ders.len(), &now.trouble), (3, &crl::Trouble::default()));

    // A former list stays where it cannot be signed anew, and what is complete stays so.
    let of_root = format!("{}{root}", keys::ROOTS);
    lose_key(&scratch, &of_root).await;
    scratch.clock.advance(Duration::from_secs(86_400));
    keeper.renew(revocations, authorities).await.unwrap();
    let later = keeper.lists().unwrap();
    assert!(later.is_complete && later.ders[0] != now.ders[0] && later.ders[2] == now.ders[2]);
}

async fn forget_lists(scratch: &Scratch) {
    let store = &*scratch.control.store;
    let kept = kept_lists::load(store).await.unwrap();
    kept_lists::forget(store, kept.into_keys()).await.unwrap();
}

#[tokio::test]
async fn after_a_restart_the_last_list_of_an_authority_goes_out_that_cannot_sign() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let root = scratch.control.authority.root().unwrap().der().clone();
    let root = hauberk_tls::AuthorityCertificate::read(root).unwrap().serial();
    let first = scratch.control.authority.issuing().serial();
    let (_, peer) = join(&scratch).await;
    let lists = tokio::sync::watch::Sender::default();
    let mut keeper = crl::Keeper::default();
    keeper.renew(revocations, authorities).await.unwrap();
    keeper.publish(&lists);
    let before = lists.borrow().clone();

    // The root's token is away, and somebody is revoked.
    let of_root = format!("{}{root}", keys::ROOTS);
    let kept = lose_key(&scratch, &of_root).await;
    revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
    let restarted = async |after: Duration| {
        scratch.clock.advance(after);
        let (lists, mut keeper) = (tokio::sync::watch::Sender::default(), crl::Keeper::default());
        keeper.renew(&load_again(&scratch).await, authorities).await.unwrap();
        keeper.publish(&lists);
        lists.borrow().clone()
    };
    let after = restarted(Duration::from_secs(60)).await;
    assert_eq!(read(&after), [(first.to_string(), vec![peer.serial()]), (root.to_string(), vec![])]);
    assert!(after.is_complete && after.ders[1] == before.ders[1]);
    let crl::Trouble { unsigned, is_held_up, overdue, .. } = &after.trouble;
    assert!(unsigned.as_ref().is_some_and(|unsigned| unsigned.starts_with(&root.to_string())));
    assert!(!is_held_up && overdue.is_empty(), "{overdue:?}");

    // Of a list that is old it is told, and that it goes out hides nothing from those who verify by it.
    let old = restarted(Duration::from_secs(7 * 86_400)).await;
    let until = scratch.clock.now().minus(Duration::from_secs(60)).floor_to_second();
    assert_eq!(old.ders[1], before.ders[1]);
    assert_eq!(old.trouble.overdue, [(root, until)]);
    // The same in a control plane that ran on.
    keeper.renew(revocations, authorities).await.unwrap();
    assert_eq!(keeper.lists().unwrap().trouble.overdue.len(), 1);

    // What is not what it has signed is not published, and nothing else then.
    let store = &*scratch.control.store;
    let at = format!("{}{root}/0000", keys::REVOCATION_LISTS);
    let mut damaged = store.get(&at).await.unwrap().unwrap().value.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    put(&scratch, &at, damaged.into()).await;
    let held_up = restarted(Duration::ZERO).await;
    assert!(held_up.trouble.is_held_up && held_up.ders.is_empty());
    put(&scratch, &of_root, kept).await;
    let mended = restarted(Duration::ZERO).await;
    assert_eq!((mended.ders.len(), &mended.trouble), (2, &crl::Trouble::default()));

    // It goes with its authority.
    let second = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&second, &actor()).await.unwrap();
    keeper.renew(revocations, authorities).await.unwrap();
    let kept = async || kept_lists::load(store).await.unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(kept().await.len(), 3);
    authorities.revoke(&first.to_string(), true, &actor()).await.unwrap();
    keeper.renew(revocations, authorities).await.unwrap();
    assert!(kept().await.len() == 2 && !kept().await.contains(&first));
    // Also where the control plane was stopped before it could forget it.
    put(&scratch, &format!("{}{first}/0000", keys::REVOCATION_LISTS), "gone".into()).await;
    restarted(Duration::ZERO).await;
    assert!(!kept().await.contains(&first));
}

#[tokio::test]
async fn a_list_that_cannot_be_kept_is_published_and_kept_later() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let mut keeper = crl::Keeper::default();
    busy.unwrap().refuse(0, 2);
    let again_in = keeper.renew(revocations, authorities).await.unwrap();
    assert_eq!(keeper.lists().unwrap().ders.len(), 2);
    let kept = async || kept_lists::load(&*scratch.control.store).await.unwrap().len();
    assert_eq!((kept().await, again_in), (0, Duration::from_secs(5)));
    let published = keeper.lists().unwrap();
    assert_eq!(keeper.renew(revocations, authorities).await.unwrap(), Duration::from_secs(3_600));
    assert_eq!(kept().await, 2);
    assert_eq!(keeper.lists().unwrap(), published, "nothing is signed for it");
}

#[tokio::test]
async fn it_is_said_when_lists_are_complete_no_longer() {
    let scratch = scratch().await;
    let mut keeper = crl::Keeper::default();
    let mut renew = async || {
        keeper.renew(&scratch.control.revocations, &scratch.control.authorities).await.unwrap();
        keeper.lists().unwrap()
    };
    assert_eq!(renew().await.trouble, crl::Trouble::default());
    // As if it were somebody else's.
    let root = scratch.control.authority.root().unwrap().der().clone();
    let root = hauberk_tls::AuthorityCertificate::read(root).unwrap().serial();
    let record = format!("{}{root}", keys::ROOTS);
    let ours = scratch.control.store.get(&record).await.unwrap().unwrap().value;
    let mut theirs: serde_json::Value = serde_json::from_slice(&ours).unwrap();
    theirs["sealed_key"] = "".into();
    put(&scratch, &record, serde_json::to_vec(&theirs).unwrap().into()).await;
    let since = scratch.clock.now();
    for _ in 0..2 {
        let now = renew().await;
        assert_eq!((now.is_complete, now.trouble.incomplete_since), (false, Some(since)));
        scratch.clock.advance(Duration::from_secs(60));
    }
    put(&scratch, &record, ours).await;
    assert_eq!(renew().await.trouble, crl::Trouble::default());
}

#[tokio::test]
async fn it_is_said_when_lists_cover_the_members_no_longer() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let own = scratch.control.authority.root().unwrap().der().clone();
    let own = hauberk_tls::AuthorityCertificate::read(own).unwrap().serial().to_string();
    // As if a root were somebody else's.
    let theirs = async |root: &str, is_exclusive: bool| {
        let record = format!("{}{root}", keys::ROOTS);
        let stored = scratch.control.store.get(&record).await.unwrap().unwrap().value;
        let mut theirs: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        theirs["sealed_key"] = "".into();
        theirs["is_exclusive"] = is_exclusive.into();
        put(&scratch, &record, serde_json::to_vec(&theirs).unwrap().into()).await;
    };
    let told = async |keeper: &mut crl::Keeper| {
        keeper.renew(revocations, authorities).await.unwrap();
        let lists = keeper.lists().unwrap();
        (lists.covers_leaves, lists.trouble.incomplete_since)
    };
    let other = authorities.prepare(Kind::Root, true, &actor()).await.unwrap();
    theirs(&own, true).await;
    let mut keeper = crl::Keeper::default();
    assert_eq!(told(&mut keeper).await, (true, None));
    scratch.clock.advance(Duration::from_secs(60));
    theirs(&own, false).await;
    let since = scratch.clock.now();
    for _ in 0..2 {
        assert_eq!(told(&mut keeper).await, (false, Some(since)));
        scratch.clock.advance(Duration::from_secs(60));
    }
    theirs(&own, true).await;
    assert_eq!(told(&mut keeper).await, (true, None));
    // Another root, of which nothing is said; also where that was before a restart.
    theirs(&other, false).await;
    for keeper in [&mut keeper, &mut crl::Keeper::default()] {
        scratch.clock.advance(Duration::from_secs(60));
        assert_eq!(told(keeper).await, (false, Some(scratch.clock.now())));
    }
    // Where nobody has said anything of the kind it is as it is meant to be.
    theirs(&own, false).await;
    assert_eq!(told(&mut crl::Keeper::default()).await, (false, None));
}

#[tokio::test]
async fn lists_are_signed_again_before_they_are_old_and_those_of_roots_seldom() {
    let scratch = scratch().await;
    let mut keeper = crl::Keeper::default();
    let mut renew = async |after: u64| {
        scratch.clock.advance(Duration::from_secs(after));
        let again_in =
            keeper.renew(&scratch.control.revocations, &scratch.control.authorities).await.unwrap();
        (keeper.lists().unwrap().ders, again_in)
    };
    let (begun, again_in) = renew(0).await;
    assert_eq!(again_in, Duration::from_secs(3_600));
    let (same, again_in) = renew(3_000).await;
    assert_eq!((same, again_in), (begun.clone(), Duration::from_secs(600)));
    let (later, _) = renew(600).await;
    assert!(later[0] != begun[0] && later[1] == begun[1]);
    let (on_the_next_day, _) = renew(23 * 3_600).await;
    assert!(on_the_next_day[1] != begun[1]);
}

#[tokio::test]
async fn an_admins_credential_is_revoked_like_any_certificate() {
    let scratch = scratch().await;
    let admins = &scratch.control.admins;
    let name = Name::parse("ada").unwrap();
    let (_, csr) = request();
    let issued = admins.issue_locally(&name, &[], &csr, &actor()).await.unwrap().issued;
    let peer = scratch.peer(&issued.svid);
    admins.renew(&name, peer.serial(), &csr, &actor()).await.unwrap();
    scratch.control.revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
    scratch.control.revocations.until_denied(peer.id(), peer.serial()).await;
    let renewed = admins.renew(&name, peer.serial(), &csr, &actor()).await;
    assert!(matches!(renewed, Err(crate::admins::AdminError::Stale)), "{renewed:?}");
}

#[tokio::test]
async fn what_an_admin_holds_beside_a_revoked_credential_is_named() {
    let scratch = scratch().await;
    let (admins, revocations) = (&scratch.control.admins, &scratch.control.revocations);
    let issue = async |name: &Name| {
        let issued = admins.issue_locally(name, &[], &request().1, &actor()).await.unwrap().issued;
        scratch.peer(&issued.svid).serial()
    };
    let [eve, bob] = ["eve", "bob"].map(|name| Name::parse(name).unwrap());
    let first = issue(&eve).await;
    let renewed = admins.renew(&eve, first, &request().1, &actor()).await.unwrap().issued;
    let renewed = scratch.peer(&renewed.svid).serial();
    issue(&bob).await;
    let revoked = revocations.revoke(&Target::Serial(first), &actor()).await.unwrap();
    assert_eq!(revoked.left, Left { admin: Some(eve.clone()), ..left([renewed]) });
    let revoked = revocations.revoke(&Target::Serial(renewed), &actor()).await.unwrap();
    assert!(revoked.left.serials.is_empty());

    // Nothing of one that was deleted is good.
    let third = issue(&eve).await;
    issue(&eve).await;
    admins.delete(eve.as_str(), &actor()).await.unwrap();
    let revoked = revocations.revoke(&Target::Serial(third), &actor()).await.unwrap();
    assert_eq!(revoked.left, Left::default());
}

#[tokio::test]
async fn a_credential_is_revoked_though_what_others_hold_cannot_be_read() {
    let scratch = scratch().await;
    let (admins, revocations) = (&scratch.control.admins, &scratch.control.revocations);
    let issue = async |name: &str| {
        let name = Name::parse(name).unwrap();
        let issued = admins.issue_locally(&name, &[], &request().1, &actor()).await.unwrap().issued;
        scratch.peer(&issued.svid)
    };
    let (eve, bob) = (issue("eve").await, issue("bob").await);
    let damaged = Commit::new().put(format!("{}{}", keys::ISSUED, bob.serial()), "no record");
    scratch.control.store.commit(damaged).await.unwrap();
    let target = Target::Serial(eve.serial());
    for serials in [vec![eve.serial()], Vec::new()] {
        let revoked = revocations.revoke(&target, &actor()).await.unwrap();
        assert_eq!((revoked.serials, revoked.left), (serials, Left::default()));
        assert_eq!(revoked.unread.len(), 1, "{:?}", revoked.unread);
        assert!(revoked.unread[0].contains("which stays good, could not be read"), "{:?}", revoked.unread);
    }
    assert_eq!(denial(&scratch, &eve), Some(Denial::Revoked));
}

#[tokio::test(start_paused = true)]
async fn what_is_recorded_and_cannot_be_read_again_is_in_force_as_soon_as_it_can() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (_, peer) = join(&scratch).await;
    busy.damage(Some(keys::REVOCATIONS));
    let (mesh, name) = node();
    let target = Target::Serial(peer.serial());
    let late = revocations.revoke(&target, &actor()).await.unwrap_err();
    assert!(matches!(late, RevocationError::NotInForce { .. }) && late.is_recorded(), "{late}");
    let late = revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap_err();
    assert!(late.is_recorded(), "{late}");
    // Whoever asks again finds it recorded, which is not enough.
    let late = revocations.revoke(&target, &actor()).await.unwrap_err();
    assert!(matches!(late, RevocationError::NotInForce { .. }) && !late.is_recorded(), "{late}");
    let late = revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap_err();
    assert!(matches!(late, RevocationError::NotInForce { .. }) && !late.is_recorded(), "{late}");
    assert_eq!(denial(&scratch, &peer), None);
    let health = Health::new(
        std::sync::Arc::clone(&scratch.control.store),
        std::sync::Arc::clone(&scratch.control.authority),
        std::sync::Arc::clone(revocations),
        std::sync::Arc::default(),
        tokio::sync::watch::Sender::default().subscribe(),
        scratch.clock.clone(),
    );
    health.set_serving(true);
    let unready = health.unready_reason().unwrap();
    assert!(unready.starts_with("revocations reach nobody"), "{unready}");
    let stop = tokio_util::sync::CancellationToken::new();
    let mut following = tokio::task::JoinSet::new();
    following.spawn({
        let (revocations, stop) = (std::sync::Arc::clone(revocations), stop.clone());
        async move { revocations.follow(stop).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(denial(&scratch, &peer), None);
    busy.damage(None);
    let denied = revocations.until_denied(peer.id(), peer.serial());
    tokio::time::timeout(Duration::from_secs(30), denied).await.expect("it comes into force by itself");
    assert!(revocations.denylist().is_in_quarantine(peer.id()));
    assert_eq!(health.unready_reason(), None);
    let again = revocations.revoke(&target, &actor()).await.unwrap();
    assert!(again.serials.is_empty(), "it is revoked already");
    stop.cancel();
    following.join_all().await;
}

/// A renewal by this certificate's holder, to be written just before a revocation is.
async fn renewed_meanwhile(scratch: &Scratch, peer: &PeerIdentity) -> (Serial, Commit) {
    let record = scratch.control.ledger.certificate(peer.serial()).await.unwrap().unwrap();
    let renewed = crate::random::serial_of(peer.serial().instance().unwrap()).unwrap();
    let key = format!("{}{renewed}", keys::ISSUED);
    (renewed, Commit::new().put(key.clone(), document::to_bytes(&key, &record).unwrap()))
}

#[tokio::test]
async fn what_was_issued_meanwhile_is_revoked_too_where_what_is_recorded_is_not_in_force() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (enrolled, peer) = join(&scratch).await;
    let (renewed, renewal) = renewed_meanwhile(&scratch, &peer).await;
    busy.before_next(renewal);
    busy.damage(Some(keys::REVOCATIONS));
    let target = Target::Instance(enrolled.instance);
    let late = revocations.revoke(&target, &actor()).await.unwrap_err();
    assert!(matches!(late, RevocationError::NotInForce { .. }), "{late}");
    for serial in [peer.serial(), renewed] {
        assert!(scratch.control.store.get(&records::serial_key(serial)).await.unwrap().is_some(), "{serial}");
    }
}

#[tokio::test]
async fn all_that_was_recorded_is_told_where_only_the_last_of_it_was_put_in_force_at_once() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (enrolled, peer) = join(&scratch).await;
    let (renewed, renewal) = renewed_meanwhile(&scratch, &peer).await;
    busy.before_next(renewal);
    busy.damage(Some(keys::REVOCATIONS));
    let mut commits = 0;
    busy.at_each_commit({
        let busy = std::sync::Arc::downgrade(&busy);
        move || {
            commits += 1;
            if let Some(busy) = busy.upgrade().filter(|_| commits == 2) {
                busy.damage(None);
            }
        }
    });
    let revoked = revocations.revoke(&Target::Instance(enrolled.instance), &actor()).await.unwrap();
    let mut both = vec![peer.serial(), renewed];
    both.sort();
    assert_eq!((revoked.serials, revoked.revision), (both, revocations.denylist().mark.revision));
}

#[tokio::test]
async fn too_many_certificates_are_told_of_though_the_list_cannot_be_read() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (enrolled, peer) = join(&scratch).await;
    // One that does not say whose it is.
    let key = |serial: Serial| format!("{}{serial}", keys::ISSUED);
    let record = scratch.control.store.get(&key(peer.serial())).await.unwrap().unwrap().value;
    let put = Commit::new().put(key(Serial::from_random([9; 16])), record);
    scratch.control.store.commit(put).await.unwrap();
    let revocations = fill(&scratch).await;
    busy.unwrap().damage(Some(keys::REVOCATIONS));
    let error = revocations.revoke(&Target::Instance(enrolled.instance), &actor()).await.unwrap_err();
    assert!(matches!(error, RevocationError::TooMany { recorded: true }), "{error}");
}

#[tokio::test]
async fn what_is_to_be_done_by_hand_is_told_though_it_is_not_in_force() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (_, peer) = join(&scratch).await;
    let (mesh, name) = node();
    let forgotten = Commit::new().delete(format!("{}{}", keys::ISSUED, peer.serial()));
    let forgotten = forgotten.delete(format!("{}{}", keys::INSTANCES, peer.serial().instance().unwrap()));
    busy.before_next(forgotten);
    busy.damage(Some(keys::REVOCATIONS));
    let late = revocations.revoke(&Target::Node(mesh, name), &actor()).await.unwrap_err();
    assert!(matches!(late, RevocationError::NotInForce { .. }), "{late}");
    assert!(late.to_string().ends_with("why: revoke it once more"), "{late}");
}

#[tokio::test]
async fn what_is_recorded_is_revoked_whatever_becomes_of_the_second_look() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (_, peer) = join(&scratch).await;
    let (mesh, name) = node();
    // Nothing is on record of it any longer when it is looked for again.
    let forgotten = Commit::new().delete(format!("{}{}", keys::ISSUED, peer.serial()));
    let forgotten = forgotten.delete(format!("{}{}", keys::INSTANCES, peer.serial().instance().unwrap()));
    busy.before_next(forgotten);
    let revoked = revocations.revoke(&Target::Node(mesh, name), &actor()).await.unwrap();
    assert_eq!((revoked.serials, revoked.unread.len()), (vec![peer.serial()], 1));
    assert_eq!(denial(&scratch, &peer), Some(Denial::Revoked));
}

#[tokio::test]
async fn what_was_issued_while_a_certificate_was_revoked_is_named() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (_, first) = join(&scratch).await;
    let (renewed, renewal) = renewed_meanwhile(&scratch, &first).await;
    busy.unwrap().before_next(renewal);
    let revocations = &scratch.control.revocations;
    let revoked = revocations.revoke(&Target::Serial(first.serial()), &actor()).await.unwrap();
    assert_eq!((revoked.serials, revoked.left), (vec![first.serial()], left([renewed])));
}

#[tokio::test]
async fn a_revocation_reads_what_it_is_about_and_not_what_others_hold() {
    let mut busy = None;
    let scratch = scratch_over(|store| std::sync::Arc::clone(busy.insert(Busy::new(store)))).await;
    let (enrolled, first) = join(&scratch).await;
    let second = scratch.peer(&renew(&scratch, &first).await.unwrap().issued.svid);
    let (_, sibling) = join(&scratch).await;
    scratch.foreign_certificates(5_000).await;
    let (busy, revocations) = (busy.unwrap(), &scratch.control.revocations);
    let (mesh, name) = node();
    busy.certificates_read();
    let revoked = revocations.revoke(&Target::Serial(first.serial()), &actor()).await.unwrap();
    assert_eq!((revoked.serials.len(), revoked.left.serials.len()), (1, 1));
    let revoked = revocations.revoke(&Target::Instance(enrolled.instance), &actor()).await.unwrap();
    assert_eq!(revoked.serials, [second.serial()]);
    revocations.quarantine((&mesh, &name), false, &actor()).await.unwrap();
    crl(&scratch, revocations).await;
    let revoked = revocations.revoke(&Target::Node(mesh, name), &actor()).await.unwrap();
    assert_eq!(revoked.serials, [sibling.serial()]);
    let read = busy.certificates_read();
    assert!(read < 100, "{read} records of certificates were read, of three that are concerned");
}

#[tokio::test]
async fn lists_from_the_future_are_signed_again_once_the_clock_is_set_back() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let mut keeper = crl::Keeper::default();
    let right = scratch.clock.now();
    scratch.clock.set(right.plus(Duration::from_secs(2 * 3_600)));
    keeper.renew(revocations, authorities).await.unwrap();
    let from_the_future = keeper.lists().unwrap().ders;
    scratch.clock.set(right);
    keeper.renew(revocations, authorities).await.unwrap();
    let again = keeper.lists().unwrap().ders;
    assert!(again.len() == 2 && again.iter().all(|der| !from_the_future.contains(der)));
}

/// As whoever reads them knows which of two lists of one authority is the later (RFC 5280 §5.2.3).
fn numbers(ders: &[bytes::Bytes]) -> Vec<u64> {
    let number = |der: &bytes::Bytes| {
        let (_, list) = x509_parser::parse_x509_crl(der).unwrap();
        u64::try_from(list.crl_number().unwrap()).unwrap()
    };
    ders.iter().map(number).collect()
}

#[tokio::test]
async fn a_list_has_a_greater_number_than_the_last_though_the_clock_was_set_back() {
    let scratch = scratch().await;
    let (revocations, authorities) = (&scratch.control.revocations, &scratch.control.authorities);
    let back = Duration::from_secs(6 * 3_600);
    let (mut seen, mut revoked) = (vec![0, 0], Vec::new());
    let mut follow = async |keeper: &mut crl::Keeper| {
        let (_, peer) = join(&scratch).await;
        revocations.revoke(&Target::Serial(peer.serial()), &actor()).await.unwrap();
        revoked.push(peer.serial());
        revoked.sort();
        keeper.renew(revocations, authorities).await.unwrap();
        let lists = keeper.lists().unwrap();
        assert_eq!(read(&lists)[0].1, revoked);
        let now = numbers(&lists.ders);
        // The root's has not changed where the clock has not.
        assert!(now[0] > seen[0] && now[1] >= seen[1], "{seen:?}, then {now:?}");
        seen = now.clone();
        now[0]
    };
    let mut keeper = crl::Keeper::default();
    // So that what signs is valid before that too.
    scratch.clock.advance(2 * back);
    let right = scratch.clock.now();
    let first = follow(&mut keeper).await;
    assert_eq!(
        first,
        right.minus(hauberk_identity::BACKDATED).0,
        "where nothing is in the way it tells the time"
    );
    scratch.clock.set(right.minus(back));
    let second = follow(&mut keeper).await;
    assert_eq!(second, first + 1);
    // After a restart, of which what was signed before knows nothing but the lists that were kept.
    let mut restarted = crl::Keeper::default();
    assert_eq!(follow(&mut restarted).await, first + 2);
    // Once the time is beyond that it is told again.
    scratch.clock.set(right.plus(back));
    assert_eq!(follow(&mut restarted).await, right.plus(back).minus(hauberk_identity::BACKDATED).0);
}

#[tokio::test]
async fn what_only_a_clock_ended_that_is_ahead_is_revoked_all_the_same() {
    for by in ["serial", "instance", "node"] {
        let scratch = scratch().await;
        scratch.clock.advance(Duration::from_secs(3_600));
        scratch.clock.surely_past();
        let (enrolled, peer) = join(&scratch).await;
        let (mesh, name) = node();
        let target = match by {
            "serial" => Target::Serial(peer.serial()),
            "instance" => Target::Instance(enrolled.instance),
            _ => Target::Node(mesh, name),
        };
        let right = scratch.clock.now();
        scratch.clock.set(right.plus(Duration::from_secs(24 * 3_600)));
        let revoked = scratch.control.revocations.revoke(&target, &actor()).await.unwrap();
        assert_eq!(revoked.serials, [peer.serial()], "by {by}");
        scratch.clock.set(right);
        assert_eq!(denial(&scratch, &peer), Some(Denial::Revoked));
    }
}
