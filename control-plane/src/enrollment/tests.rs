mod gateways;

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, Serial};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::{CertificateRequest, PeerIdentity};

use super::*;
use crate::audit::Filter;
use crate::authority;
use crate::instances::{IssuedTo, Recorded};
use crate::issuance::{Holder, InstanceRecord, IssuanceError, Order};
use crate::registry::{Commit, document, keys};
use crate::resources::testing::parent;
use crate::secret::SecretHash;
use crate::testing::{Busy, NODE, Scratch, a_node, actor, request, scratch, scratch_over};

async fn token(scratch: &Scratch, uses: Uses) -> String {
    let asked = TokenRequest {
        mesh: Name::parse(NODE.0).unwrap(),
        of: TokenFor::Node(NodeName::parse(NODE.1).unwrap()),
        ttl: None,
        uses,
    };
    scratch.control.tokens.create(asked, &actor()).await.unwrap().secret.reveal().to_owned()
}

async fn attest(scratch: &Scratch, token: &str, csr: &[u8]) -> Result<Enrolled, EnrollmentError> {
    scratch.control.enrollment.attest(token, csr, AgentInfo::default(), None, "10.0.0.7:4").await
}

#[tokio::test]
async fn a_token_makes_an_instance_of_its_node() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    assert!(token.starts_with("hbk1-"));
    let (key, csr) = request();
    let info = AgentInfo { version: "0.1.0".into(), hostname: format!("h\u{1b}[31m{}", "x".repeat(999)) };
    let enrolled = scratch.control.enrollment.attest(&token, &csr, info, None, "10.0.0.7:4").await.unwrap();
    let svid = &enrolled.issued.svid;
    assert_eq!(svid.id().as_str(), "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(svid.key_fingerprint(), key.public_key().fingerprint());
    let record = scratch.control.ledger.instance(&enrolled.instance).await.unwrap().unwrap();
    assert_eq!((record.mesh.as_str(), record.node.as_str()), NODE);
    assert_eq!(record.serial, svid.serial().to_string());
    assert!(!record.hostname.contains('\u{1b}') && record.hostname.chars().count() == 255);
    let listed = scratch.control.tokens.list(Some("shop")).await.unwrap();
    assert_eq!(listed[0].used_by[0].instance, enrolled.instance.to_string());
    assert!(scratch.control.tokens.list(Some("other")).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_hold_a_single_use_token_one_comes_in() {
    let scratch = Arc::new(scratch().await);
    let token = token(&scratch, Uses::Limited(1)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (scratch, token) = (Arc::clone(&scratch), token.clone());
        tasks.spawn(async move { attest(&scratch, &token, &request().1).await });
    }
    let (winners, losers): (Vec<_>, Vec<_>) = tasks.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((winners.len(), losers.len()), (1, 63));
    let winner = winners.into_iter().next().unwrap().unwrap().instance.to_string();
    for loser in losers {
        let told = loser.unwrap_err().to_string();
        assert!(told.contains("used up") && told.contains(&winner), "{told}");
    }
    assert_eq!(scratch.control.ledger.certificates(None, None, 100).await.unwrap().certificates.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_and_unlimited_tokens_let_in_as_many_as_they_say() {
    let scratch = Arc::new(scratch().await);
    for (uses, expected) in [(Uses::Limited(5), 5), (Uses::Unlimited, 20)] {
        let token = token(&scratch, uses).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (scratch, token) = (Arc::clone(&scratch), token.clone());
            tasks.spawn(async move { attest(&scratch, &token, &request().1).await.is_ok() });
        }
        assert_eq!(tasks.join_all().await.into_iter().filter(|came_in| *came_in).count(), expected);
    }
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_the_same_key_only() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let (key, csr) = request();
    let first = attest(&scratch, &token, &csr).await.unwrap();
    let again = attest(&scratch, &token, &CertificateRequest::create(&key).unwrap()).await.unwrap();
    assert_eq!(first.instance, again.instance);
    assert_ne!(first.issued.svid.serial(), again.issued.svid.serial());
    assert!(matches!(attest(&scratch, &token, &request().1).await, Err(EnrollmentError::UsedUp { .. })));
    assert_eq!(scratch.control.tokens.list(None).await.unwrap()[0].record.used, 1);
}

#[tokio::test]
async fn refusals_say_precisely_why_and_are_recorded() {
    let scratch = scratch().await;
    let (_, csr) = request();
    assert!(matches!(attest(&scratch, "hbk1-none", &csr).await, Err(EnrollmentError::UnknownToken)));
    let late = token(&scratch, Uses::Unlimited).await;
    let garbage = attest(&scratch, &late, b"no request").await;
    assert!(matches!(garbage, Err(EnrollmentError::Issuance(IssuanceError::Request(_)))));
    scratch.clock.advance(Duration::from_secs(600 + 180));
    let told = attest(&scratch, &late, &csr).await.unwrap_err().to_string();
    assert!(told.contains("expired 3m ago"), "{told}");
    let orphan = token(&scratch, Uses::Unlimited).await;
    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    scratch.control.store.commit(Commit::new().delete(node)).await.unwrap();
    let told = attest(&scratch, &orphan, &csr).await.unwrap_err().to_string();
    assert!(told.contains("no virtual node orders any longer"), "{told}");
    let filter = Filter { refused_only: true, ..Filter::default() };
    assert_eq!(scratch.control.audit.list(&filter, None, 10).await.unwrap().records.len(), 4);
}

#[tokio::test]
async fn impossible_tokens_are_not_made_and_good_ones_are_taken_back() {
    let scratch = scratch().await;
    let asked = |node: &str, ttl: u64, uses| TokenRequest {
        mesh: Name::parse("shop").unwrap(),
        of: TokenFor::Node(NodeName::parse(node).unwrap()),
        ttl: Some(Duration::from_secs(ttl)),
        uses,
    };
    let tokens = &scratch.control.tokens;
    let refused = [
        tokens.create(asked("nobody", 600, Uses::Unlimited), &actor()).await.unwrap_err(),
        tokens.create(asked("orders", 0, Uses::Unlimited), &actor()).await.unwrap_err(),
        tokens.create(asked("orders", 86_401, Uses::Unlimited), &actor()).await.unwrap_err(),
        tokens.create(asked("orders", 600, Uses::Limited(0)), &actor()).await.unwrap_err(),
    ];
    assert!(matches!(
        refused,
        [TokenError::NoSuchNode { .. }, TokenError::BadTtl, TokenError::BadTtl, TokenError::NoUses]
    ));
    let made = tokens.create(asked("orders", 600, Uses::Limited(2)), &actor()).await.unwrap();
    attest(&scratch, made.secret.reveal(), &request().1).await.unwrap();
    tokens.delete(&made.view.id, &actor()).await.unwrap();
    assert!(matches!(tokens.delete(&made.view.id, &actor()).await, Err(TokenError::NoSuchToken(_))));
    assert!(matches!(tokens.delete("", &actor()).await, Err(TokenError::NoSuchToken(_))));
    let refused = attest(&scratch, made.secret.reveal(), &request().1).await;
    assert!(matches!(refused, Err(EnrollmentError::UnknownToken)));
    let kept = tokens.create(asked("orders", 600, Uses::Unlimited), &actor()).await.unwrap();
    attest(&scratch, kept.secret.reveal(), &request().1).await.unwrap();
    assert_eq!(tokens.prune(scratch.clock.now()).await.unwrap(), 1, "who used the token that is gone");
    assert_eq!(tokens.list(None).await.unwrap()[0].used_by.len(), 1);
    tokens.delete(&kept.view.id, &actor()).await.unwrap();
    tokens.prune(scratch.clock.now()).await.unwrap();
    assert!(scratch.control.store.list(keys::TOKEN_USES, None, 10).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn expired_tokens_are_forgotten_after_a_day() {
    let scratch = scratch().await;
    token(&scratch, Uses::Unlimited).await;
    let tokens = &scratch.control.tokens;
    scratch.clock.advance(Duration::from_secs(86_400));
    assert_eq!(tokens.prune(scratch.clock.now()).await.unwrap(), 0);
    scratch.clock.advance(Duration::from_secs(700));
    assert_eq!(tokens.prune(scratch.clock.now()).await.unwrap(), 1);
}

#[tokio::test]
async fn the_text_of_a_token_is_nowhere_in_the_store() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Unlimited).await;
    attest(&scratch, &token, &request().1).await.unwrap();
    let secret = token.trim_start_matches("hbk1-");
    for (key, stored) in scratch.control.store.list("", None, usize::MAX).await.unwrap().entries {
        assert!(!key.contains(secret) && !String::from_utf8_lossy(&stored.value).contains(secret), "{key}");
    }
}

#[tokio::test]
async fn a_renewal_keeps_name_and_instance() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let enrolled = attest(&scratch, &token, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    scratch.clock.advance(Duration::from_secs(1_800));
    let (key, csr) = request();
    let renewed = scratch.control.enrollment.renew(&peer, &csr, "10.0.0.8:4").await.unwrap();
    assert_eq!(renewed.instance, enrolled.instance);
    assert_eq!(renewed.issued.svid.id(), enrolled.issued.svid.id());
    assert_eq!(renewed.issued.svid.key_fingerprint(), key.public_key().fingerprint());
    let record = scratch.control.ledger.instance(&enrolled.instance).await.unwrap().unwrap();
    assert_eq!(record.serial, renewed.issued.svid.serial().to_string());
    assert_eq!(record.enrolled_at, enrolled.issued.issued_at.0);
    assert_eq!(record.joined_from.as_deref(), Some("10.0.0.7:4"), "not from where it renews");

    scratch.clock.advance(Duration::from_secs(1_801));
    let late = scratch.control.enrollment.renew(&peer, &csr, "10.0.0.7:4").await;
    assert!(matches!(late, Err(EnrollmentError::CertificateExpired)));
}

#[tokio::test]
async fn an_instance_that_is_not_on_record_gets_nothing_and_is_told_to_join_anew() {
    let scratch = scratch().await;
    let control = &scratch.control;
    control.authorities.advance_jwt_keys(&actor()).await.unwrap();
    scratch.enroll("worker", Default::default()).await;
    let first = token(&scratch, Uses::Limited(1)).await;
    let enrolled = attest(&scratch, &first, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    // As after a restore of an older backup: the certificate is good, and the registry knows neither it nor its holder.
    for forgotten in [
        Commit::new().delete(format!("{}{}", keys::INSTANCES, enrolled.instance)),
        Commit::new().delete(format!("{}{}", keys::ISSUED, peer.serial())),
    ] {
        control.store.commit(forgotten).await.unwrap();
        let instance = enrolled.instance;
        let (_, csr) = request();
        let refused = [
            control.enrollment.renew(&peer, &csr, "10.0.0.7:4").await.map(drop),
            control.enrollment.sign_workload(&peer, instance, "worker", &csr, "10.0.0.7:4").await.map(drop),
        ];
        for refused in refused {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, EnrollmentError::NotOnRecord), "{refused}");
            let status = crate::rpc::status::of_enrollment(&refused);
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            assert!(status.message().contains("Join it anew"), "{status}");
        }
        let audience = ["db".to_owned()];
        assert!(control.minter.mint(&peer, &audience, "").await.is_err());
        assert!(control.minter.mint_for_workload(&peer, instance, "worker", &audience, "").await.is_err());
    }
    for action in ["certificate.renew", "workload.issue", "jwt-svid.mint", "workload.mint"] {
        let asked = Filter { action: action.to_owned(), refused_only: true, ..Filter::default() };
        let records = control.audit.list(&asked, None, 10).await.unwrap().records;
        assert_eq!(records.len(), 2, "{action}");
        assert!(records[0].reason.contains("Join it anew"), "{records:?}");
    }
    // Whoever is refused is told that, and not to come back as another.
    let instance = enrolled.instance;
    control
        .revocations
        .revoke(&crate::revocation::Target::UnrecordedInstance(instance), &actor())
        .await
        .unwrap();
    let refused = control.enrollment.renew(&peer, &request().1, "10.0.0.7:4").await;
    assert!(matches!(refused, Err(EnrollmentError::Denied(_))), "{refused:?}");

    let second = token(&scratch, Uses::Limited(1)).await;
    let anew = attest(&scratch, &second, &request().1).await.unwrap();
    control.enrollment.renew(&scratch.peer(&anew.issued.svid), &request().1, "s").await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_on_record_is_good_after_a_restore_alone() {
    let mut scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let enrolled = attest(&scratch, &token, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    // As after a restore of a backup that was made before it renewed, and where somebody else has signed it.
    let forgotten = Commit::new().delete(format!("{}{}", keys::ISSUED, peer.serial()));
    scratch.control.store.commit(forgotten).await.unwrap();
    let refused = scratch.control.enrollment.renew(&peer, &request().1, "s").await;
    assert!(matches!(refused, Err(EnrollmentError::NotOnRecord)), "{refused:?}");
    scratch.clock.advance(Duration::from_secs(1));
    scratch.restored().await;
    let control = &scratch.control;
    let later = attest(&scratch, &self::token(&scratch, Uses::Limited(1)).await, &request().1).await.unwrap();
    let later = scratch.peer(&later.issued.svid);
    let now = control.clock.now();
    let instance_of = async |peer, now| control.ledger.instance_of(peer, now).await.unwrap();
    assert!(instance_of(&later, now).await.is_some());
    let forgotten = Commit::new().delete(format!("{}{}", keys::ISSUED, later.serial()));
    control.store.commit(forgotten).await.unwrap();
    assert_eq!(instance_of(&later, now).await, None, "it was issued since");
    assert_eq!(instance_of(&peer, now).await, Some(enrolled.instance));
    let day = Duration::from_secs(24 * 3_600);
    assert_eq!(instance_of(&peer, now.plus(day)).await, None, "nothing lives for as long");
    let renewed = control.enrollment.renew(&peer, &request().1, "s").await.unwrap();
    assert_eq!(renewed.instance, enrolled.instance);
    // It rests on what is on record of it, as ever.
    control.store.commit(put_node("second")).await.unwrap();
    let anew = control.enrollment.renew(&peer, &request().1, "s").await;
    assert!(matches!(anew, Err(EnrollmentError::NodeMadeAnew { .. })), "{anew:?}");
    control.store.commit(put_node("first")).await.unwrap();
    // A record of somebody else's is none of its.
    let key = format!("{}{}", keys::INSTANCES, enrolled.instance);
    let record = control.ledger.instance(&enrolled.instance).await.unwrap().unwrap();
    let spiffe_id = "spiffe://shop.local/mesh/shop/node/other".to_owned();
    let others = document::to_bytes(&key, &InstanceRecord { spiffe_id, ..record }).unwrap();
    control.store.commit(Commit::new().put(key, others)).await.unwrap();
    let refused = control.enrollment.renew(&peer, &request().1, "s").await;
    assert!(matches!(refused, Err(EnrollmentError::NotOnRecord)), "{refused:?}");
    // Nor may it see or say anything in the other's place.
    assert_eq!(instance_of(&peer, now).await, None);
}

#[tokio::test]
async fn who_copies_a_serial_number_by_another_authority_is_not_whom_it_names() {
    let scratch = scratch().await;
    let control = &scratch.control;
    let enrolled = attest(&scratch, &token(&scratch, Uses::Limited(1)).await, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    let copied = scratch.copied(&peer).await;
    assert_eq!((copied.id(), copied.serial()), (peer.id(), peer.serial()));
    let now = control.clock.now();
    assert_eq!(control.ledger.instance_of(&peer, now).await.unwrap(), Some(enrolled.instance));
    assert_eq!(control.ledger.instance_of(&copied, now).await.unwrap(), None);
    let refused = control.enrollment.renew(&copied, &request().1, "s").await;
    assert!(matches!(refused, Err(EnrollmentError::NotOnRecord)), "{refused:?}");
    // Nor does it take its places at the listeners.
    assert_eq!(control.ledger.answerable(&peer).await, enrolled.instance);
    assert_ne!(control.ledger.answerable(&copied).await, enrolled.instance);
}

#[tokio::test]
async fn a_certificate_from_before_an_installation_began_is_nobodys_where_no_backup_was_put_back() {
    let mut scratch = scratch().await;
    let enrolled = attest(&scratch, &token(&scratch, Uses::Limited(1)).await, &request().1).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    // As where whoever has the key of an authority has dated it so.
    let forgotten = Commit::new().delete(format!("{}{}", keys::ISSUED, peer.serial()));
    scratch.control.store.commit(forgotten).await.unwrap();
    scratch.clock.advance(Duration::from_secs(1));
    for (restored_at, known) in [(None, None), (Some(scratch.clock.now().0), Some(enrolled.instance))] {
        scratch.go_on(restored_at).await;
        let (control, now) = (&scratch.control, scratch.clock.now());
        assert_eq!(control.ledger.instance_of(&peer, now).await.unwrap(), known, "{restored_at:?}");
    }
}

#[tokio::test]
async fn an_instance_is_on_record_until_the_last_of_its_certificates_has_expired() {
    let scratch = scratch().await;
    let (control, hour) = (&scratch.control, Duration::from_secs(3_600));
    let token = token(&scratch, Uses::Limited(1)).await;
    let (key, csr) = request();
    let enrolled = attest(&scratch, &token, &csr).await.unwrap();
    let id = enrolled.instance;
    // From before --svid-ttl was lowered, as a certificate of an authority that lives for longer.
    let order = Order {
        id: enrolled.issued.svid.id().clone(),
        holder: Holder::Instance(id.to_string()),
        public_key: key.public_key().into(),
        ttl: 24 * hour,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        actor: actor(),
        action: "certificate.renew",
    };
    let long = control.issuer.issue(order, |_, _| Ok(Commit::new())).await.unwrap();
    let peer = scratch.peer(&long.svid);
    scratch.clock.advance(20 * hour);
    assert_eq!(control.ledger.prune(scratch.clock.now()).await.unwrap(), 1, "the short certificate");
    control.store.commit(put_node("second")).await.unwrap();
    let renewed = control.enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(renewed, Err(EnrollmentError::NodeMadeAnew { .. })), "{renewed:?}");
    control.store.commit(put_node("first")).await.unwrap();
    assert_eq!(control.enrollment.renew(&peer, &csr, "s").await.unwrap().instance, id);

    scratch.clock.advance(6 * hour);
    assert_eq!(
        control.ledger.prune(scratch.clock.now()).await.unwrap(),
        3,
        "both certificates and the instance"
    );
    assert_eq!(control.ledger.instance(&id).await.unwrap(), None);
}

#[tokio::test]
async fn neither_strangers_nor_nodes_that_are_gone_renew() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let peer = scratch.peer(&attest(&scratch, &token, &request().1).await.unwrap().issued.svid);
    let (_, csr) = request();
    let admin = scratch
        .control
        .admins
        .issue_locally(&Name::parse("ada").unwrap(), &[], &csr, &actor())
        .await
        .unwrap();
    let stranger = scratch.control.enrollment.renew(&scratch.peer(&admin.issued.svid), &csr, "s").await;
    assert!(matches!(stranger, Err(EnrollmentError::NotANode(_))));
    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    scratch.control.store.commit(Commit::new().delete(node)).await.unwrap();
    let gone = scratch.control.enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(gone, Err(EnrollmentError::NoSuchNode { .. })));
}

#[tokio::test]
async fn a_node_that_is_made_anew_is_another() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Unlimited).await;
    let peer = scratch.peer(&attest(&scratch, &token, &request().1).await.unwrap().issued.svid);
    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    let put = |uid| scratch.control.store.commit(Commit::new().put(node.clone(), a_node(uid)));
    put("second").await.unwrap();
    let (_, csr) = request();
    let renewed = scratch.control.enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(renewed, Err(EnrollmentError::NodeMadeAnew { .. })));
    let joined = attest(&scratch, &token, &csr).await;
    assert!(matches!(joined, Err(EnrollmentError::NodeMadeAnew { .. })));
    let new = self::token(&scratch, Uses::Limited(1)).await;
    attest(&scratch, &new, &csr).await.unwrap();
    put("first").await.unwrap();
    scratch.control.enrollment.renew(&peer, &csr, "s").await.unwrap();
}

#[tokio::test]
async fn a_node_has_only_so_many_live_instances() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Unlimited).await;
    let (_, csr) = request();
    let first = attest(&scratch, &token, &csr).await.unwrap();
    let not_after = scratch.clock.now().plus(Duration::from_secs(60));
    let issued = |count: u16, uid: &str| {
        for number in 0..count {
            let mut seed = [0; 16];
            seed[..2].copy_from_slice(&number.to_be_bytes());
            seed[2] = uid.as_bytes()[0];
            let certificate = IssuedTo { serial: Serial::from_random(seed), issued_at: None, not_after };
            let id = InstanceId::from_random(*seed.first_chunk().unwrap());
            scratch.control.instances.recorded(Recorded {
                spiffe_id: first.issued.svid.id().clone(),
                instance: id,
                node_uid: Some(uid.to_owned()),
                token: None,
                certificate,
                is_dismissed: false,
            });
        }
    };
    // Those of a former node are not counted.
    issued(10_000, "a former one");
    issued(9_999, "first");
    attest(&scratch, &token, &request().1).await.unwrap();
    issued(10_000, "first");
    let refused = attest(&scratch, &token, &request().1).await.unwrap_err();
    let status = crate::rpc::status::of_enrollment(&refused);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("orders of mesh shop has 10000 live instances"), "{status}");
    let filter = Filter { refused_only: true, ..Filter::default() };
    let recorded = scratch.control.audit.list(&filter, None, 10).await.unwrap().records;
    assert_eq!((recorded.len(), recorded[0].action.as_str()), (1, "enrollment.attest"));
    // Who is in already stays in.
    attest(&scratch, &token, &csr).await.unwrap();
    scratch.control.enrollment.renew(&scratch.peer(&first.issued.svid), &csr, "s").await.unwrap();
    scratch.clock.advance(Duration::from_secs(61));
    attest(&scratch, &token, &request().1).await.unwrap();
}

#[tokio::test]
async fn an_instance_renews_only_so_often() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Limited(2)).await;
    let (_, csr) = request();
    let peer = scratch.peer(&attest(&scratch, &token, &csr).await.unwrap().issued.svid);
    let enrollment = &scratch.control.enrollment;
    for _ in 0..10 {
        enrollment.renew(&peer, &csr, "s").await.unwrap();
    }
    let a_tenth_of_a_life = Duration::from_secs(360);
    let refused = enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(refused, Err(EnrollmentError::TooOften { again_in }) if again_in == a_tenth_of_a_life));
    // The same key may ask again for its first certificate, and no more often.
    let refused = attest(&scratch, &token, &csr).await;
    assert!(matches!(refused, Err(EnrollmentError::TooOften { .. })));
    let other = scratch.peer(&attest(&scratch, &token, &request().1).await.unwrap().issued.svid);
    enrollment.renew(&other, &csr, "s").await.unwrap();
    scratch.clock.advance(a_tenth_of_a_life);
    enrollment.renew(&peer, &csr, "s").await.unwrap();
    let refused = enrollment.renew(&peer, &csr, "s").await.unwrap_err();
    let status = crate::rpc::status::of_enrollment(&refused);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(a_tenth_of_a_life));
}

/// Another issuing authority signs from now on. Gives the serial number of the one that signed before.
async fn rotate(scratch: &Scratch) -> String {
    let authorities = &scratch.control.authorities;
    let former = scratch.control.issuer.signer().to_string();
    let next = authorities.prepare(authority::Kind::Issuing, false, &actor()).await.unwrap();
    authorities.activate(&next, &actor()).await.unwrap();
    former
}

#[tokio::test]
async fn authorities_may_follow_each_other_as_often_as_is_needed() {
    let (agent, busy) = Starting::new(3_600).await;
    let Starting { scratch, peer, csr, .. } = &agent;
    let renew = async || scratch.control.enrollment.renew(peer, csr, "s").await.map(drop);
    for _ in 0..renewals::OF_WORKLOAD_AT_ONCE {
        agent.start().await.unwrap();
    }
    for _ in 0..10 {
        renew().await.unwrap();
    }
    for round in 0..15 {
        let former = rotate(scratch).await;
        if round == 7 {
            scratch.control.authorities.taint(&former, &actor()).await.unwrap();
        }
        // One that comes to nothing is given back.
        busy.before_next(put_node("second"));
        assert!(matches!(renew().await, Err(EnrollmentError::NodeMadeAnew { .. })));
        scratch.control.store.commit(put_node("first")).await.unwrap();
        busy.before_next(put_node("second"));
        assert!(matches!(agent.start().await, Err(EnrollmentError::NodeMadeAnew { .. })));
        scratch.control.store.commit(put_node("first")).await.unwrap();
        renew().await.unwrap();
        agent.start().await.unwrap();
        // By the old certificate too there is one for each authority.
        assert!(matches!(renew().await, Err(EnrollmentError::TooOften { .. })), "{round}");
        assert!(matches!(agent.start().await, Err(EnrollmentError::TooOften { .. })), "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_renewals_at_once_one_is_for_the_new_authority() {
    let (agent, _) = Starting::new(3_600).await;
    let Starting { scratch, peer, csr, .. } = agent;
    for _ in 0..10 {
        scratch.control.enrollment.renew(&peer, &csr, "s").await.unwrap();
    }
    rotate(&scratch).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (control, peer, csr) = (Arc::clone(&scratch.control), peer.clone(), csr.clone());
        tasks.spawn(async move { control.enrollment.renew(&peer, &csr, "s").await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|renewed| *renewed).count(), 1);
}

#[tokio::test]
async fn a_token_makes_instances_only_so_fast_and_the_audit_log_says_which() {
    let scratch = scratch().await;
    let token = token(&scratch, Uses::Unlimited).await;
    let enrollment = &scratch.control.enrollment;
    let (_, csr) = request();
    let first = attest(&scratch, &token, &csr).await.unwrap();
    let hash = SecretHash::of(&token);
    for port in 1..arrivals::AT_ONCE_OF_ADDRESS {
        let source = format!("10.0.0.7:{port}");
        enrollment.arrivals().take(&hash, &source, scratch.clock.now()).unwrap();
    }
    let (_, other) = request();
    let refused = attest(&scratch, &token, &other).await.unwrap_err();
    let status = crate::rpc::status::of_enrollment(&refused);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    for remedy in ["token delete", "revoke token"] {
        assert!(status.message().contains(&format!("hauberk {remedy} {}", hash.short())), "{status}");
    }
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(arrivals::EVERY_OF_ADDRESS));
    let filter = Filter { refused_only: true, ..Filter::default() };
    let recorded = scratch.control.audit.list(&filter, None, 10).await.unwrap().records;
    assert_eq!(recorded[0].object, format!("token {}", hash.short()));
    // Who is in already stays in, and others come from elsewhere.
    attest(&scratch, &token, &csr).await.unwrap();
    enrollment.renew(&scratch.peer(&first.issued.svid), &csr, "10.0.0.7:4").await.unwrap();
    let info = AgentInfo::default();
    enrollment.attest(&token, &request().1, info, None, "10.0.0.8:4").await.unwrap();
    scratch.clock.advance(arrivals::EVERY_OF_ADDRESS);
    attest(&scratch, &token, &other).await.unwrap();
    let listed = scratch.control.tokens.list(None).await.unwrap();
    assert_eq!(listed[0].used_by.len(), 3);
}

#[tokio::test]
async fn only_who_joins_by_a_token_for_any_number_uses_up_what_it_allows() {
    let (scratch, busy) = busy().await;
    let (unlimited, limited) =
        (token(&scratch, Uses::Unlimited).await, token(&scratch, Uses::Limited(1)).await);
    let (hash, enrollment) = (SecretHash::of(&unlimited), &scratch.control.enrollment);
    let count = |hash: &SecretHash, number: u32| {
        for port in 0..number {
            let source = format!("10.0.0.7:{port}");
            enrollment.arrivals().take(hash, &source, scratch.clock.now()).unwrap();
        }
    };
    // One is left, which those leave who are refused and those who have come already.
    count(&hash, arrivals::AT_ONCE_OF_ADDRESS - 1);
    busy.before_next(put_node("second"));
    let refused = attest(&scratch, &unlimited, &request().1).await;
    assert!(matches!(refused, Err(EnrollmentError::NodeMadeAnew { .. })), "{refused:?}");
    scratch.control.store.commit(put_node("first")).await.unwrap();
    let (_, csr) = request();
    for _ in 0..3 {
        attest(&scratch, &unlimited, &csr).await.unwrap();
    }
    let refused = attest(&scratch, &unlimited, &request().1).await;
    assert!(matches!(refused, Err(EnrollmentError::TooFast { .. })), "{refused:?}");
    // As many as an admin has chosen come as fast as they like.
    count(&SecretHash::of(&limited), arrivals::AT_ONCE_OF_ADDRESS);
    attest(&scratch, &limited, &request().1).await.unwrap();
}

/// A control plane whose node is changed at the last moment by whatever `before_next` is given.
async fn busy() -> (Scratch, Arc<Busy>) {
    let mut busy = None;
    let scratch = scratch_over(|store| Arc::clone(busy.insert(Busy::new(store)))).await;
    (scratch, busy.unwrap())
}

fn put_node(uid: &str) -> Commit {
    Commit::new().put(keys::resource("VirtualNode", NODE.0, NODE.1), a_node(uid))
}

#[tokio::test]
async fn a_node_that_is_made_anew_while_somebody_joins_or_renews_is_another() {
    let (scratch, busy) = busy().await;
    let token = token(&scratch, Uses::Unlimited).await;
    let (_, csr) = request();
    busy.before_next(put_node("second"));
    let joined = attest(&scratch, &token, &csr).await;
    assert!(matches!(joined, Err(EnrollmentError::NodeMadeAnew { .. })), "{joined:?}");
    scratch.control.store.commit(put_node("first")).await.unwrap();
    let peer = scratch.peer(&attest(&scratch, &token, &csr).await.unwrap().issued.svid);
    busy.before_next(put_node("second"));
    let renewed = scratch.control.enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(renewed, Err(EnrollmentError::NodeMadeAnew { .. })), "{renewed:?}");
    let issued = scratch.control.ledger.certificates(None, None, 100).await.unwrap().certificates;
    assert_eq!(issued.len(), 1, "{issued:?}");

    scratch.control.store.commit(put_node("first")).await.unwrap();
    busy.before_next(Commit::new().delete(keys::resource("VirtualNode", NODE.0, NODE.1)));
    let renewed = scratch.control.enrollment.renew(&peer, &csr, "s").await;
    assert!(matches!(renewed, Err(EnrollmentError::NoSuchNode { .. })), "{renewed:?}");
}

#[tokio::test]
async fn a_change_of_a_node_keeps_nobody_from_joining_or_renewing() {
    let (scratch, busy) = busy().await;
    let token = token(&scratch, Uses::Limited(1)).await;
    let (_, csr) = request();
    for _ in 0..3 {
        busy.before_next(put_node("first"));
    }
    let peer = scratch.peer(&attest(&scratch, &token, &csr).await.unwrap().issued.svid);
    for _ in 0..3 {
        busy.before_next(put_node("first"));
    }
    scratch.control.enrollment.renew(&peer, &csr, "s").await.unwrap();
    assert!(busy.first.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_workload_of_a_node_that_is_made_anew_meanwhile_gets_nothing() {
    use prost::Message as _;
    let (scratch, busy) = busy().await;
    let spec = wire::EnrollmentSpec {
        parent: Some(parent(NODE.1)),
        workload: Some(wire::WorkloadEnrollment {
            path: "worker".to_owned(),
            selectors: vec!["unix:uid:1000".to_owned()],
            ..wire::WorkloadEnrollment::default()
        }),
        attest: None,
    };
    let spec = Some(wire::resource::Spec::Enrollment(spec));
    let bytes = wire::Resource { spec, ..wire::Resource::default() }.encode_to_vec();
    let put = Commit::new().put(keys::resource("Enrollment", NODE.0, "worker"), bytes);
    scratch.control.store.commit(put.clone()).await.unwrap();
    let token = token(&scratch, Uses::Limited(1)).await;
    let (_, csr) = request();
    let enrolled = attest(&scratch, &token, &csr).await.unwrap();
    let peer = scratch.peer(&enrolled.issued.svid);
    let sign = async || {
        scratch.control.enrollment.sign_workload(&peer, enrolled.instance, "worker", &csr, "s").await
    };
    // Changes that leave it what it is are no obstacle.
    busy.before_next(put_node("first"));
    busy.before_next(put);
    sign().await.unwrap();
    busy.before_next(put_node("second"));
    let refused = sign().await;
    assert!(matches!(refused, Err(EnrollmentError::NodeMadeAnew { .. })), "{refused:?}");
}

/// An agent that asks for the certificate of its workload, as it does each time that it starts.
struct Starting {
    scratch: Scratch,
    peer: PeerIdentity,
    instance: InstanceId,
    csr: Vec<u8>,
}

impl Starting {
    async fn new(life_s: u32) -> (Self, Arc<Busy>) {
        let (scratch, busy) = busy().await;
        let life = wire::Duration { value: Some(life_s), unit: "s".to_owned() };
        let workload = wire::WorkloadEnrollment { x509_ttl: Some(life), ..Default::default() };
        scratch.enroll("worker", workload).await;
        let token = token(&scratch, Uses::Limited(1)).await;
        let enrolled = attest(&scratch, &token, &request().1).await.unwrap();
        let peer = scratch.peer(&enrolled.issued.svid);
        (Self { scratch, peer, instance: enrolled.instance, csr: request().1 }, busy)
    }

    async fn start(&self) -> Result<(), EnrollmentError> {
        let Self { scratch, peer, instance, csr } = self;
        scratch.control.enrollment.sign_workload(peer, *instance, "worker", csr, "s").await.map(drop)
    }
}

#[tokio::test]
async fn an_agent_that_restarts_again_and_again_gets_its_workloads_certificates() {
    let minute = Duration::from_secs(60);
    for life in [60, 3_600] {
        let (agent, _) = Starting::new(life).await;
        // Twice ten times within a minute, beside the renewals of a life that has just passed.
        agent.start().await.unwrap();
        agent.start().await.unwrap();
        for _ in 0..2 {
            for _ in 0..10 {
                agent.start().await.unwrap_or_else(|refused| panic!("of {life} s: {refused}"));
                agent.scratch.clock.advance(minute / 10);
            }
            agent.scratch.clock.advance(10 * minute);
        }
    }
}

#[tokio::test]
async fn a_workload_gets_only_so_many_certificates_in_a_life() {
    let (agent, _) = Starting::new(3_600).await;
    for _ in 0..renewals::OF_WORKLOAD_AT_ONCE {
        agent.start().await.unwrap();
    }
    let every = Duration::from_secs(3_600) / renewals::OF_WORKLOAD_IN_A_LIFE;
    let refused = agent.start().await;
    assert!(
        matches!(refused, Err(EnrollmentError::TooOften { again_in }) if again_in == every),
        "{refused:?}"
    );
    agent.scratch.clock.advance(every);
    agent.start().await.unwrap();
    assert!(matches!(agent.start().await, Err(EnrollmentError::TooOften { .. })));
    // Its agent renews all the same.
    let control = &agent.scratch.control;
    control.enrollment.renew(&agent.peer, &agent.csr, "s").await.unwrap();
}

#[tokio::test]
async fn what_fails_takes_nothing_from_what_a_workload_may_have() {
    let (agent, busy) = Starting::new(60).await;
    for _ in 0..3 * renewals::OF_WORKLOAD_AT_ONCE {
        busy.before_next(put_node("second"));
        let refused = agent.start().await;
        assert!(matches!(refused, Err(EnrollmentError::NodeMadeAnew { .. })), "{refused:?}");
        agent.scratch.control.store.commit(put_node("first")).await.unwrap();
    }
    for _ in 0..renewals::OF_WORKLOAD_AT_ONCE {
        agent.start().await.unwrap();
    }
    assert!(matches!(agent.start().await, Err(EnrollmentError::TooOften { .. })));
}
