use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, NodeName, Serial, UnixMillis};
use hauberk_proto::mesh::v1 as wire;
use hauberk_tls::PeerIdentity;
use hauberk_tls::jwt::{JwtSvid, verify_jwt_svid};

use super::rotate::{KEY_LIFE, PREPARED_BEFORE_END, PUBLISHED_FOR, SIGNS_BEFORE_END};
use super::*;
use crate::app::ControlPlane;
use crate::audit::Filter;
use crate::authority::KeyEncryptionKey;
use crate::enrollment::EnrollmentError;
use crate::registry::{Commit, keys};
use crate::revocation::Target;
use crate::testing::{NODE, Scratch, actor, joined, scratch};

const HOUR: Duration = Duration::from_secs(3_600);

async fn token(scratch: &Scratch, peer: &PeerIdentity) -> Result<String, MintError> {
    let minted = scratch.control.minter.mint(peer, &["db".to_owned()], "127.0.0.1:9").await?;
    assert_eq!(minted.issued_at, scratch.clock.now());
    Ok(minted.token.to_string())
}

/// The id of the key that signs now.
fn signs(keys: &SigningKeys, now: UnixMillis) -> Option<String> {
    keys.current().signing_at(now).map(|key| key.signer.key_id().to_owned())
}

/// Does all that is due.
async fn rotate(control: &ControlPlane) {
    while control.authorities.advance_jwt_keys(&actor()).await.unwrap() {}
}

fn published(keys: &SigningKeys) -> usize {
    keys.current().bundle().keys().count()
}

/// The instance that the number of a token names.
fn minted_for(svid: &JwtSvid) -> Option<InstanceId> {
    svid.claims()["jti"].as_str().unwrap().parse::<Serial>().unwrap().instance()
}

#[tokio::test]
async fn a_token_names_its_caller_and_verifies() {
    let scratch = scratch().await;
    let peer = joined(&scratch).await;
    assert!(matches!(token(&scratch, &peer).await, Err(MintError::NoKey)));
    rotate(&scratch.control).await;
    let token = token(&scratch, &peer).await.unwrap();
    let keys = scratch.control.signing_keys.current();
    let now = scratch.clock.now();
    let svid = verify_jwt_svid(&token, "db", keys.bundle(), now).unwrap();
    assert_eq!(svid.id(), peer.id());
    assert_eq!(svid.expires_at(), now.plus(Duration::from_secs(300)).floor_to_second());
    let instance = scratch.control.ledger.instance_of(&peer, now).await.unwrap();
    assert_eq!(minted_for(&svid), instance);
    assert!(svid.claims().get("iss").is_none());
    let another = self::token(&scratch, &peer).await.unwrap();
    let another = verify_jwt_svid(&another, "db", keys.bundle(), now).unwrap();
    assert_ne!(another.claims()["jti"], svid.claims()["jti"]);
}

#[tokio::test]
async fn a_workload_gets_a_token_by_an_enrollment_of_the_agents_node() {
    let scratch = scratch().await;
    let control = &scratch.control;
    rotate(control).await;
    let short = wire::Duration { value: Some(120), unit: "s".to_owned() };
    let short = wire::WorkloadEnrollment { jwt_ttl: Some(short), ..wire::WorkloadEnrollment::default() };
    scratch.enroll("short", short).await;
    scratch.enroll("worker", wire::WorkloadEnrollment::default()).await;
    let peer = joined(&scratch).await;
    let instance = control.ledger.instance_of(&peer, control.clock.now()).await.unwrap().unwrap();
    let audience = ["db".to_owned()];
    let mint = async |enrollment: &str| {
        control.minter.mint_for_workload(&peer, instance, enrollment, &audience, "").await
    };
    let (now, keys) = (scratch.clock.now(), control.signing_keys.current());
    for (name, life) in [("worker", 300), ("short", 120)] {
        let minted = mint(name).await.unwrap();
        let svid = verify_jwt_svid(&minted.token, "db", keys.bundle(), now).unwrap();
        assert_eq!(svid.id().as_str(), format!("spiffe://shop.local/workload/{name}"));
        assert_eq!(svid.expires_at(), now.plus(Duration::from_secs(life)).floor_to_second());
        assert_eq!(minted_for(&svid), Some(instance), "the one that vouches for it");
    }
    for none in ["other", "../orders", ""] {
        assert!(matches!(mint(none).await, Err(MintError::NotEntitled(_))), "{none}");
    }

    // Those of one workload are not taken from another's.
    while mint("short").await.is_ok() {}
    assert!(matches!(mint("short").await, Err(MintError::TooOften { .. })));
    mint("worker").await.unwrap();

    let (mesh, node) = (NODE.0.parse().unwrap(), NodeName::parse(NODE.1).unwrap());
    control.revocations.quarantine((&mesh, &node), false, &actor()).await.unwrap();
    let denied = mint("worker").await.err().unwrap();
    assert!(matches!(&denied, MintError::NotEntitled(EnrollmentError::Denied(_))), "{denied}");
    control.revocations.quarantine((&mesh, &node), true, &actor()).await.unwrap();
    control.revocations.revoke(&Target::Instance(instance), &actor()).await.unwrap();
    let denied = mint("worker").await.err().unwrap();
    assert!(matches!(&denied, MintError::NotEntitled(EnrollmentError::Denied(_))), "{denied}");
    let asked = Filter { action: "workload.mint".to_owned(), ..Filter::default() };
    let records = control.audit.list(&asked, None, 100).await.unwrap().records;
    let denied = |object: &str| records.iter().any(|record| record.object.starts_with(object));
    assert!(denied("enrollment worker, instance ") && denied("instance "), "{records:?}");
}

#[tokio::test]
async fn who_may_not_have_a_token_gets_none() {
    let scratch = scratch().await;
    let peer = joined(&scratch).await;
    let minter = &scratch.control.minter;
    rotate(&scratch.control).await;
    for none in [vec![], vec![String::new()], vec!["db".to_owned(), String::new()]] {
        assert!(matches!(minter.mint(&peer, &none, "").await, Err(MintError::NoAudience)));
    }
    for many in [vec!["db".to_owned(); 33], vec!["x".repeat(4_097)]] {
        assert!(matches!(minter.mint(&peer, &many, "").await, Err(MintError::TooManyAudiences)));
    }
    let mut minted = 0;
    let refusal = loop {
        match token(&scratch, &peer).await {
            Ok(_) => minted += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, MintError::TooOften { .. }), "{refusal}");
    assert_eq!(minted, 500);
    scratch.clock.advance(Duration::from_millis(100));
    token(&scratch, &peer).await.unwrap();
    scratch.clock.advance(Duration::from_millis(100));

    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    scratch.control.store.commit(Commit::new().delete(node).raising_revision()).await.unwrap();
    assert!(matches!(token(&scratch, &peer).await, Err(MintError::NotEntitled(_))));
    scratch.clock.advance(2 * HOUR);
    let expired = token(&scratch, &peer).await;
    assert!(matches!(expired, Err(MintError::NotEntitled(error)) if error.to_string().contains("expired")));
}

#[tokio::test]
async fn an_agent_that_is_revoked_gets_no_token_of_its_own() {
    let scratch = scratch().await;
    let control = &scratch.control;
    rotate(control).await;
    let (peer, other) = (joined(&scratch).await, joined(&scratch).await);
    token(&scratch, &peer).await.unwrap();
    let instance = control.ledger.instance_of(&peer, control.clock.now()).await.unwrap().unwrap();
    let (mesh, node) = (NODE.0.parse().unwrap(), NodeName::parse(NODE.1).unwrap());
    let denied = async |peer: &PeerIdentity| {
        let refused = token(&scratch, peer).await;
        matches!(refused, Err(MintError::NotEntitled(EnrollmentError::Denied(_))))
    };
    control.revocations.revoke(&Target::Instance(instance), &actor()).await.unwrap();
    assert!(denied(&peer).await);
    assert!(!denied(&other).await);
    control.revocations.revoke(&Target::Serial(other.serial()), &actor()).await.unwrap();
    assert!(denied(&other).await);
    let third = joined(&scratch).await;
    control.revocations.quarantine((&mesh, &node), false, &actor()).await.unwrap();
    assert!(denied(&third).await);
}

#[tokio::test]
async fn who_asks_too_often_is_told_so_before_anything_is_read() {
    let scratch = scratch().await;
    let peer = joined(&scratch).await;
    rotate(&scratch.control).await;
    let node = keys::resource("VirtualNode", NODE.0, NODE.1);
    scratch.control.store.commit(Commit::new().delete(node).raising_revision()).await.unwrap();
    for _ in 0..500 {
        assert!(matches!(token(&scratch, &peer).await, Err(MintError::NotEntitled(_))));
    }
    assert!(matches!(token(&scratch, &peer).await, Err(MintError::TooOften { .. })));
}

/// Each step is seen from a control plane that was killed right after it as well.
#[tokio::test]
async fn keys_follow_each_other_whenever_it_is_killed() {
    let scratch = scratch().await;
    let keys = &scratch.control.signing_keys;
    let (clock, begun) = (&scratch.clock, scratch.clock.now());
    rotate(&scratch.control).await;
    let first = signs(keys, begun).unwrap();
    let old_token = |keys: &SigningKeys| {
        let current = keys.current();
        let key = current.signing_at(clock.now()).unwrap();
        (key.signer.key_id().to_owned(), key.not_after())
    };
    assert_eq!(old_token(keys), (first.clone(), begun.plus(KEY_LIFE)));

    // Nothing is due until half its life has passed.
    clock.advance(KEY_LIFE - PREPARED_BEFORE_END - Duration::from_millis(1));
    rotate(&scratch.control).await;
    assert_eq!((published(keys), signs(keys, clock.now())), (1, Some(first.clone())));

    // Prepared and published, and it does not sign yet.
    clock.advance(Duration::from_millis(1));
    rotate(&scratch.control).await;
    for control in [&scratch.control, &scratch.started_again().await] {
        rotate(control).await;
        let keys = &control.signing_keys;
        assert_eq!((published(keys), signs(keys, clock.now())), (2, Some(first.clone())));
    }

    // It signs, and the first is still published for its tokens.
    clock.advance(PREPARED_BEFORE_END - SIGNS_BEFORE_END);
    let second = signs(keys, clock.now()).unwrap();
    assert_ne!(second, first);
    for control in [&scratch.control, &scratch.started_again().await] {
        rotate(control).await;
        let keys = &control.signing_keys;
        assert_eq!((published(keys), signs(keys, clock.now())), (2, Some(second.clone())));
        assert!(keys.current().bundle().key(&first).is_some());
    }

    // The last of its tokens has expired.
    clock.advance(SIGNS_BEFORE_END);
    for control in [&scratch.control, &scratch.started_again().await] {
        rotate(control).await;
        let keys = &control.signing_keys;
        assert!(keys.current().bundle().key(&first).is_none());
        assert_eq!(signs(keys, clock.now()), Some(second.clone()));
    }
    let stored = scratch.control.store.list(keys::JWT_KEYS, None, 10).await.unwrap();
    assert_eq!(stored.entries.len(), published(keys));

    // Through some days, there is always one that signs, and it was published before it did.
    let mut seen = Vec::new();
    for _ in 0..96 {
        rotate(&scratch.control).await;
        let signs = signs(keys, clock.now()).unwrap();
        assert!(seen.is_empty() || seen.contains(&signs), "{signs} signs and was not published before");
        seen = keys.current().bundle().keys().map(|key| key.id().to_owned()).collect();
        clock.advance(HOUR);
    }
}

#[tokio::test]
async fn a_rotation_that_is_late_leaves_no_gap() {
    for (late, signs_at_once) in [
        // Prepared late, but in time to be published before it signs.
        (KEY_LIFE - 2 * HOUR, false),
        (KEY_LIFE - HOUR - PUBLISHED_FOR, false),
        // Too late for that.
        (KEY_LIFE - HOUR, true),
        (KEY_LIFE, true),
        (100 * KEY_LIFE, true),
    ] {
        let scratch = scratch().await;
        let keys = &scratch.control.signing_keys;
        rotate(&scratch.control).await;
        let first = signs(keys, scratch.clock.now());
        scratch.clock.advance(late);
        rotate(&scratch.control).await;
        let now = scratch.clock.now();
        assert_eq!(signs(keys, now) != first, signs_at_once, "{late:?}");
        scratch.clock.advance(PUBLISHED_FOR);
        let next = signs(keys, scratch.clock.now());
        assert!(next.is_some() && next != first, "{late:?}");
    }
}

#[tokio::test]
async fn keys_are_sealed_and_open_for_their_owner_alone() {
    let scratch = scratch().await;
    let keys = &scratch.control.signing_keys;
    rotate(&scratch.control).await;
    let stored = scratch.control.store.list(keys::JWT_KEYS, None, 10).await.unwrap();
    let (name, record) = stored.entries.first().unwrap();
    let current = keys.current();
    let private = current.signing_at(scratch.clock.now()).unwrap().signer.to_pkcs8_der().unwrap();
    let text = String::from_utf8(record.value.to_vec()).unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &*private);
    assert!(!text.contains(&encoded[40..80]), "{text}");
    // A record that was put in another's place does not open.
    let moved = format!("{}moved", keys::JWT_KEYS);
    let commit = Commit::new().put(moved, record.value.clone()).delete(name.clone());
    scratch.control.store.commit(commit).await.unwrap();
    let (first, now) = (signs(keys, scratch.clock.now()), scratch.clock.now());
    scratch.control.authorities.prepare_jwt_key(false, &actor()).await.unwrap();
    rotate(&scratch.control).await;
    assert!(signs(keys, now).is_some() && signs(keys, now) != first, "it is left out, and another signs");
    assert!(keys.current().bundle().key(&first.unwrap()).is_none());
    let settings = &scratch.control.settings;
    let kek = Arc::new(KeyEncryptionKey::load(&settings.kek_file).unwrap());
    let trust_domain = scratch.control.authority.trust_domain().clone();
    let loaded = SigningKeys::load(Arc::clone(&scratch.control.store), kek, trust_domain).await;
    assert!(matches!(loaded.map(drop), Err(SigningKeyError::Seal(_))), "nothing starts upon it");
}
