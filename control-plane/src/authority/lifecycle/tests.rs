mod away;
mod clock;
mod former_roots;
mod jwt_keys;
mod refused;
mod token;
mod upstream;
mod view_keys;

use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use hauberk_tls::{KeyPair, Svid, Usage, verify_svid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::authority::{Installation, KeyEncryptionKey};
use crate::instances::{Enforcement, HelloFacts, IssuedTo, Peer};
use crate::issuance::{Holder, Order};
use crate::registry::{StoreError, document, keys};
use crate::testing::{Scratch, actor, joined, request, scratch};

const DAY: Duration = Duration::from_secs(86_400);

fn states(views: &[AuthorityView]) -> Vec<(Kind, &'static str)> {
    views.iter().map(|view| (view.kind, view.state.as_str())).collect()
}

async fn serial_of(scratch: &Scratch, kind: Kind, state: State) -> String {
    let (views, _) = scratch.control.authorities.list().await.unwrap();
    let found = views.into_iter().find(|view| view.kind == kind && view.state == state);
    found.unwrap_or_else(|| panic!("no {state:?} {kind:?}")).serial
}

async fn certificate(scratch: &Scratch) -> Svid {
    let (mesh, node) = (Name::parse("shop").unwrap(), Name::parse("orders").unwrap());
    let order = Order {
        id: SpiffeId::node(scratch.control.authority.trust_domain(), &mesh, &node),
        holder: Holder::Instance("aaaaaaaaaa".into()),
        public_key: KeyPair::generate().unwrap().public_key().into(),
        ttl: Duration::from_secs(3_600),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        actor: actor(),
        action: "certificate.issue",
    };
    scratch.control.issuer.issue(order, |_, _| Ok(Commit::new())).await.unwrap().svid
}

fn is_accepted(scratch: &Scratch, svid: &Svid) -> bool {
    let bundle = scratch.control.authority.bundle();
    verify_svid(svid.chain(), &bundle, scratch.clock.now(), Usage::Client).is_ok()
}

/// What a process finds that was killed after the last commit and started again.
async fn after_a_crash(scratch: &Scratch) -> Authorities {
    after_a_crash_with(scratch, None, Arc::clone(&scratch.control.instances)).await
}

/// The same with settings that say who signs, and with what is heard from agents.
async fn after_a_crash_with(
    scratch: &Scratch,
    upstream: Option<Upstream>,
    instances: Arc<Instances>,
) -> Authorities {
    let control = &scratch.control;
    let kek = KeyEncryptionKey::load(&control.settings.kek_file).unwrap();
    let keys = KeyStore::new(Arc::new(kek), None);
    let authority = Arc::new(Authority::load(&*control.store, &keys).await.unwrap());
    let (kek, trust_domain) = (Arc::clone(keys.kek()), authority.trust_domain().clone());
    let signing_keys = SigningKeys::load(Arc::clone(&control.store), kek, trust_domain).await.unwrap();
    assert_eq!(authority.version(), Book::read(&*control.store).await.unwrap().trust.version);
    Authorities::new(AuthoritiesParts {
        store: Arc::clone(&control.store),
        audit: Arc::clone(&control.audit),
        identity: LiveIdentity::new((*authority.bundle()).clone()),
        authority,
        instances,
        ledger: Arc::clone(&control.ledger),
        clock: control.clock.clone(),
        keys,
        signing_keys: Arc::new(signing_keys),
        upstream,
        server_names: ServerNames::of(&control.settings, &control.authority).unwrap(),
        metrics: Arc::clone(&control.metrics),
    })
}

#[tokio::test]
async fn an_issuing_authority_follows_another_under_the_same_root() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let (before, root) = (certificate(&scratch).await, scratch.control.authority.root_fingerprint());
    let serial = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    assert_eq!(authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap(), serial, "one waits");
    assert_ne!(certificate(&scratch).await.issuer_serial().unwrap().to_string(), serial);
    authorities.activate(&serial, &actor()).await.unwrap();
    let after = certificate(&scratch).await;
    assert_eq!(after.issuer_serial().unwrap().to_string(), serial);
    assert!(is_accepted(&scratch, &before) && is_accepted(&scratch, &after));
    assert_eq!(scratch.control.authority.root_fingerprint(), root);
    let trust = Arc::clone(&scratch.control.authority.trust().borrow());
    assert_eq!(trust.renew_issuers, [before.issuer_serial().unwrap().to_string()]);
    assert!(matches!(authorities.activate(&serial, &actor()).await, Err(LifecycleError::WrongState { .. })));
    // By hand it goes at once, though it was never tainted and the root still vouches for it.
    authorities.revoke(&before.issuer_serial().unwrap().to_string(), false, &actor()).await.unwrap();
    assert!(!is_accepted(&scratch, &before) && is_accepted(&scratch, &after));
}

#[tokio::test]
async fn a_root_becomes_active_only_once_all_live_instances_trust_it() {
    let scratch = scratch().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let svid = certificate(&scratch).await;
    let instance = hauberk_identity::InstanceId::parse("aaaaaaaaaa").unwrap();
    let not_after = svid.validity().not_after();
    let held = IssuedTo { serial: svid.serial(), issued_at: None, not_after };
    let peer = Peer::new(svid.id().clone(), instance, None, held, None).unwrap();
    let (hello, questions) = (HelloFacts::default(), mpsc::channel(1).0);
    let now = scratch.clock.now();
    let connected = control.instances.connect(&peer, hello, Enforcement::default(), None, questions, now);

    let serial = authorities.prepare(Kind::Root, true, &actor()).await.unwrap();
    assert_eq!(control.authority.bundle().roots().len(), 2);
    assert_eq!(control.identity.current().bundle().roots().len(), 2);
    let refused = authorities.activate(&serial, &actor()).await.unwrap_err();
    assert!(refused.to_string().contains("aaaaaaaaaa of spiffe://"), "{refused}");
    assert!(!authorities.advance(&actor()).await.unwrap());
    let progress = authorities.progress().await.unwrap();
    assert_eq!((progress.waiting, progress.unsettled.len()), (Some(serial.clone()), 1));

    connected.trusts(control.authority.version());
    scratch.clock.advance(Duration::from_secs(1));
    assert!(authorities.advance(&actor()).await.unwrap());
    assert_eq!(serial_of(&scratch, Kind::Root, State::Active).await, serial);
    let progress = authorities.progress().await.unwrap();
    assert_eq!(progress.unsettled[0].reason, "has not acknowledged the trust bundle");
    connected.trusts(control.authority.version());
    let progress = authorities.progress().await.unwrap();
    assert_eq!(progress.unsettled[0].reason, "holds a certificate of an authority that signs no longer");
    // One that is expired is not waited for.
    scratch.clock.advance(Duration::from_secs(3_700));
    assert!(authorities.progress().await.unwrap().is_done());
}

#[tokio::test]
async fn who_knows_either_root_accepts_our_own_certificate_while_one_follows_the_other() {
    let scratch = scratch().await;
    let (authorities, authority) = (&scratch.control.authorities, &scratch.control.authority);
    let former = (*authority.bundle()).clone();
    let root = authorities.prepare(Kind::Root, false, &actor()).await.unwrap();
    authorities.activate(&root, &actor()).await.unwrap();
    for round in ["root", "issuing"] {
        let new = authority.server_chain().complete(&certificate(&scratch).await).unwrap();
        let current = TrustOfOne::of(&scratch);
        let now = scratch.clock.now();
        assert!(verify_svid(new.chain(), &former, now, Usage::Server).is_ok(), "{round}");
        assert!(verify_svid(new.chain(), &current.0, now, Usage::Server).is_ok(), "{round}");
        assert_eq!(new.issuer_serial(), Some(authority.issuing().serial()), "{round}");
        // Some take what stands first and try nothing else: whoever knows the former root has to find it there.
        let path = [new.chain()[0].clone(), new.chain()[1].clone()];
        assert!(verify_svid(&path, &former, now, Usage::Server).is_ok(), "{round}");
        let serial = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
        authorities.activate(&serial, &actor()).await.unwrap();
    }
    // Once nobody trusts the former root any longer, nothing by it is in the way of those who know the new one alone.
    scratch.clock.advance(2 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    let (after, current) = (certificate(&scratch).await, TrustOfOne::of(&scratch));
    let after = authority.server_chain().complete(&after).unwrap();
    let roots = current.0.roots().iter().map(|root| root.der());
    assert!(after.chain()[1..].iter().eq([authority.issuing().certificate()].into_iter().chain(roots)));
}

/// The active root alone.
struct TrustOfOne(hauberk_tls::TrustBundle);

impl TrustOfOne {
    fn of(scratch: &Scratch) -> Self {
        Self(scratch.control.authority.issuing().root_bundle().clone())
    }
}

#[tokio::test]
async fn rotation_goes_on_after_a_crash_at_every_step() {
    let scratch = scratch().await;
    let first = certificate(&scratch).await;
    let mut seen = Vec::new();
    after_a_crash(&scratch).await.prepare(Kind::Root, true, &actor()).await.unwrap();
    let goes_on = after_a_crash(&scratch).await.advance(&actor()).await.unwrap();
    assert!(!goes_on, "the lists of the next root and of what stands under it go first");
    scratch.clock.advance(Duration::from_secs(1));
    // Every step by a process of its own, which knows nothing but what was written.
    for day in 0..30 {
        while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {
            let (views, version) = after_a_crash(&scratch).await.list().await.unwrap();
            seen.push(states(&views));
            assert_eq!(version, seen.len() as u64 + 2, "one step, one commit");
        }
        if day == 0 {
            scratch.control.authorities.advance(&actor()).await.unwrap();
            assert!(is_accepted(&scratch, &first) && is_accepted(&scratch, &certificate(&scratch).await));
        }
        scratch.clock.advance(DAY);
    }
    let kinds = [Kind::Root, Kind::Issuing, Kind::Root, Kind::Issuing];
    let at = |wanted: [&'static str; 4]| kinds.into_iter().zip(wanted).collect();
    let by_kind = |mut states: Vec<(Kind, &'static str)>| {
        states.sort();
        states
    };
    let seen: Vec<_> = seen.into_iter().map(by_kind).collect();
    assert_eq!(
        seen,
        [
            by_kind(at(["retiring", "retiring", "active", "active"])),
            by_kind(at(["retiring", "retired", "active", "active"])),
            by_kind(at(["retired", "retired", "active", "active"])),
        ]
    );
}

#[tokio::test]
async fn a_rotation_of_the_issuing_authority_alone_goes_on_after_a_crash_at_every_step() {
    let scratch = scratch().await;
    let first = certificate(&scratch).await;
    let (root, former) = (scratch.control.authority.root_fingerprint(), first.issuer_serial().unwrap());
    let begun = after_a_crash(&scratch).await.list().await.unwrap().1;
    let next = after_a_crash(&scratch).await.prepare(Kind::Issuing, true, &actor()).await.unwrap();
    // Whoever says it again after the crash changes nothing.
    assert_eq!(after_a_crash(&scratch).await.prepare(Kind::Issuing, true, &actor()).await.unwrap(), next);
    let (views, version) = after_a_crash(&scratch).await.list().await.unwrap();
    assert_eq!(states(&views).iter().filter(|(_, state)| *state == "prepared").count(), 1);
    assert_eq!(version, begun + 1);
    assert_eq!(after_a_crash(&scratch).await.parts.authority.issuing().serial(), former, "it signs as yet");
    assert!(
        !after_a_crash(&scratch).await.advance(&actor()).await.unwrap(),
        "the list of the next goes first"
    );
    scratch.clock.advance(Duration::from_secs(1));
    let mut seen = Vec::new();
    for _ in 0..30 {
        while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {
            let crashed = after_a_crash(&scratch).await;
            let (views, version) = crashed.list().await.unwrap();
            let mut states = states(&views);
            states.sort_unstable();
            seen.push(states);
            assert_eq!(version, begun + 1 + seen.len() as u64, "one step, one commit");
            let authority = &crashed.parts.authority;
            assert_eq!(authority.issuing().serial().to_string(), next, "from the first step on");
            assert_eq!(authority.root_fingerprint(), root);
            let (bundle, now) = (authority.bundle(), scratch.clock.now());
            let is_good =
                verify_svid(first.chain(), &bundle, now.min(first.validity().not_after()), Usage::Client);
            assert!(is_good.is_ok(), "what the former one has signed stays good: {is_good:?}");
        }
        scratch.clock.advance(DAY);
    }
    let of_former = |state| vec![(Kind::Root, "active"), (Kind::Issuing, "active"), (Kind::Issuing, state)];
    assert_eq!(seen, [of_former("retiring"), of_former("retired")]);
}

#[tokio::test]
async fn what_is_tainted_is_replaced_at_once_and_believed_nothing_once_revoked() {
    let scratch = scratch().await;
    let (authorities, authority) = (&scratch.control.authorities, &scratch.control.authority);
    let svid = certificate(&scratch).await;
    let serial = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let refused = authorities.revoke(&serial, true, &actor()).await;
    assert!(matches!(refused, Err(LifecycleError::WrongState { .. })), "it signs");
    let root = serial_of(&scratch, Kind::Root, State::Active).await;
    assert!(authorities.taint(&root, &actor()).await.is_err(), "everybody hangs on it");

    authorities.taint(&serial, &actor()).await.unwrap();
    assert_ne!(authority.issuing().serial().to_string(), serial);
    assert_eq!(authority.trust().borrow().renew_issuers, std::slice::from_ref(&serial));
    let after = certificate(&scratch).await;
    assert!(is_accepted(&scratch, &svid) && !authority.has_revoked());
    authorities.revoke(&serial, false, &actor()).await.unwrap();
    assert!(!is_accepted(&scratch, &svid) && is_accepted(&scratch, &after) && authority.has_revoked());
    assert_eq!(authority.trust().borrow().distrusted_keys.len(), 1);
    // Until its certificate has expired, for longer than that nobody believes it anyway.
    scratch.clock.advance(92 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(authority.trust().borrow().distrusted_keys.len(), 0);
    assert!(matches!(authorities.get(&serial).await, Err(LifecycleError::Unknown(_))));
}

#[tokio::test]
async fn what_stood_under_a_revoked_root_is_believed_by_no_older_root_that_signed_it_too() {
    let scratch = scratch().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let rotate = async || {
        let root = authorities.prepare(Kind::Root, false, &actor()).await.unwrap();
        authorities.activate(&root, &actor()).await.unwrap();
        root
    };
    let stolen = rotate().await;
    let svid = certificate(&scratch).await;
    let book = Book::read(&*control.store).await.unwrap();
    let crossed = book.active(Kind::Issuing).unwrap().record.crosses[0].certificate.clone();
    // As whoever knows the oldest root alone is shown it.
    let chain = [svid.chain()[0].clone(), crossed.into()];
    let is_believed =
        |by: &hauberk_tls::TrustBundle| verify_svid(&chain, by, scratch.clock.now(), Usage::Client).is_ok();
    scratch.clock.advance(Duration::from_secs(1));
    rotate().await;
    assert!(is_believed(&control.authority.bundle()) && is_accepted(&scratch, &svid));

    authorities.revoke(&stolen, true, &actor()).await.unwrap();
    assert_eq!(control.authority.bundle().roots().len(), 2, "the oldest one is believed still");
    assert!(!is_accepted(&scratch, &svid));
    assert!(!is_believed(&control.authority.bundle()), "whoever has its key could go on");
    assert!(!is_believed(control.identity.current().bundle()), "here too");
    let told = Arc::clone(&control.authority.trust().borrow());
    assert_eq!(told.distrusted_keys.len(), 1, "agents are told");
    let found = after_a_crash(&scratch).await;
    assert!(!is_believed(&found.parts.authority.bundle()));
    // What signs now is not.
    assert!(is_accepted(&scratch, &certificate(&scratch).await));
}

#[tokio::test]
async fn what_was_tainted_goes_on_to_be_revoked_after_a_crash_at_every_step() {
    for kind in [Kind::Issuing, Kind::Root] {
        let scratch = scratch().await;
        let before = certificate(&scratch).await;
        let serial = serial_of(&scratch, kind, State::Active).await;
        if kind == Kind::Root {
            after_a_crash(&scratch).await.prepare(Kind::Root, true, &actor()).await.unwrap();
            scratch.clock.advance(Duration::from_secs(1));
            while after_a_crash(&scratch).await.advance(&actor()).await.unwrap() {}
        }
        let state = async || after_a_crash(&scratch).await.get(&serial).await.unwrap().state;
        let believes = async |svid: &Svid| {
            let bundle = after_a_crash(&scratch).await.parts.authority.bundle();
            verify_svid(svid.chain(), &bundle, scratch.clock.now(), Usage::Client).is_ok()
        };
        after_a_crash(&scratch).await.taint(&serial, &actor()).await.unwrap();
        assert_eq!(state().await, State::Tainted);
        let next = after_a_crash(&scratch).await.parts.authority;
        assert_ne!(
            next.issuing().serial(),
            before.issuer_serial().unwrap(),
            "another signs, in the same commit"
        );
        assert_eq!(next.trust().borrow().renew_issuers, [before.issuer_serial().unwrap().to_string()]);
        assert!(believes(&before).await, "until it is replaced");

        // Whoever says it again after the crash changes nothing.
        let (_, version) = after_a_crash(&scratch).await.list().await.unwrap();
        after_a_crash(&scratch).await.taint(&serial, &actor()).await.unwrap();
        assert!(!after_a_crash(&scratch).await.advance(&actor()).await.unwrap());
        assert_eq!(after_a_crash(&scratch).await.list().await.unwrap().1, version);

        after_a_crash(&scratch).await.revoke(&serial, false, &actor()).await.unwrap();
        assert_eq!(state().await, State::Retired);
        assert!(!believes(&before).await);
        after_a_crash(&scratch).await.revoke(&serial, false, &actor()).await.unwrap();
        assert_eq!(after_a_crash(&scratch).await.list().await.unwrap().1, version + 1);

        // The process that was there all along learns of it.
        while scratch.control.authorities.advance(&actor()).await.unwrap() {}
        assert!(!is_accepted(&scratch, &before) && is_accepted(&scratch, &certificate(&scratch).await));
    }
}

#[tokio::test]
async fn whoever_still_holds_a_certificate_is_named_before_it_is_cut_off() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let svid = certificate(&scratch).await;
    let instance = hauberk_identity::InstanceId::parse("aaaaaaaaaa").unwrap();
    let not_after = svid.validity().not_after();
    let held = IssuedTo { serial: svid.serial(), issued_at: None, not_after };
    scratch.control.instances.recorded(crate::instances::Recorded {
        spiffe_id: svid.id().clone(),
        instance,
        node_uid: None,
        token: None,
        certificate: held,
        is_dismissed: false,
    });
    let serial = serial_of(&scratch, Kind::Issuing, State::Active).await;
    authorities.taint(&serial, &actor()).await.unwrap();
    let refused = authorities.revoke(&serial, false, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::StillHeld { count: 1, .. }), "{refused}");
    authorities.revoke(&serial, true, &actor()).await.unwrap();
    assert!(!is_accepted(&scratch, &svid));
}

#[tokio::test]
async fn whoever_has_not_proved_anew_is_named_before_its_connections_are_cut() {
    let scratch = scratch().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    authorities.taint(&former, &actor()).await.unwrap();
    let svid = certificate(&scratch).await;
    let instance = hauberk_identity::InstanceId::parse("aaaaaaaaaa").unwrap();
    let held = IssuedTo { serial: svid.serial(), issued_at: None, not_after: svid.validity().not_after() };
    let peer = Peer::new(svid.id().clone(), instance, None, held, None).unwrap();
    let (hello, questions) = (HelloFacts::default(), mpsc::channel(1).0);
    let now = scratch.clock.now();
    let connected = control.instances.connect(&peer, hello, Enforcement::default(), None, questions, now);
    connected.trusts(control.authority.version() - 1);
    let refused = authorities.revoke(&former, false, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::StillProved { count: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("aaaaaaaaaa of spiffe://"), "{refused}");
    connected.trusts(control.authority.version());
    authorities.revoke(&former, false, &actor()).await.unwrap();
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Retired).await, former);
}

#[tokio::test]
async fn what_an_instance_has_acknowledged_is_known_after_a_restart_though_it_is_away() {
    let scratch = scratch().await;
    let (authorities, control) = (&scratch.control.authorities, &scratch.control);
    let first = joined(&scratch).await;
    let former = serial_of(&scratch, Kind::Issuing, State::Active).await;
    authorities.taint(&former, &actor()).await.unwrap();
    let renewed = control.enrollment.renew(&first, &request().1, "10.0.0.7:4").await.unwrap();
    control.instances.load(&*control.store).await.unwrap();
    let peer = scratch.peer(&renewed.issued.svid);
    let held = IssuedTo { serial: peer.serial(), issued_at: None, not_after: peer.not_after() };
    let peer = Peer::new(peer.id().clone(), renewed.instance, None, held, None).unwrap();
    let (hello, questions) = (HelloFacts::default(), mpsc::channel(1).0);
    let now = scratch.clock.now();
    let connected = control.instances.connect(&peer, hello, Enforcement::default(), None, questions, now);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let restart = async || {
        control.instances.write_trust(&*control.store, control.authority.epoch(), &stopped).await;
        let instances = Arc::new(Instances::default());
        instances.load(&*control.store).await.unwrap();
        after_a_crash_with(&scratch, None, instances).await
    };
    connected.trusts(control.authority.version() - 1);
    let refused = restart().await.revoke(&former, false, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::StillProved { count: 1, .. }), "{refused}");
    connected.trusts(control.authority.version());
    let restarted = restart().await;
    assert!(restarted.progress().await.unwrap().is_done());
    restarted.revoke(&former, false, &actor()).await.unwrap();

    // The same again is not written again, nor what a stream takes back.
    let key = format!("{}{}", keys::TRUST_IN_FORCE, renewed.instance);
    let written = control.store.get(&key).await.unwrap().unwrap().version;
    connected.trusts(control.authority.version());
    connected.trusts(control.authority.version() - 1);
    restart().await;
    assert_eq!(control.store.get(&key).await.unwrap().unwrap().version, written);

    // A registry that was restored counts anew: the same number is another trust.
    let known = async || {
        let instances = Arc::new(Instances::default());
        instances.load(&*control.store).await.unwrap();
        instances.trusting(now).iter().map(|known| known.version).max()
    };
    assert_eq!(known().await, Some(control.authority.version()));
    let stored = control.store.get(keys::INSTALLATION).await.unwrap().unwrap();
    let mut restored: Installation = document::from_stored(keys::INSTALLATION, &stored).unwrap();
    restored.epoch += 1;
    let restored = document::to_bytes(keys::INSTALLATION, &restored).unwrap();
    control.store.commit(Commit::new().put(keys::INSTALLATION, restored)).await.unwrap();
    assert_eq!(known().await, Some(0));
    assert_eq!(control.instances.prune_trust(&*control.store).await.unwrap(), 0);
    let gone = format!("{}{}", keys::INSTANCES, renewed.instance);
    control.store.commit(Commit::new().delete(gone)).await.unwrap();
    assert_eq!(control.instances.prune_trust(&*control.store).await.unwrap(), 1);
}

#[tokio::test]
async fn the_next_authority_comes_by_itself_before_the_end() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let begun = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let advance = async || while authorities.advance(&actor()).await.unwrap() {};
    scratch.clock.advance(59 * DAY);
    advance().await;
    assert_eq!(authorities.list().await.unwrap().0.len(), 2);
    scratch.clock.advance(DAY + DAY / 24);
    advance().await;
    let next = serial_of(&scratch, Kind::Issuing, State::Prepared).await;
    scratch.clock.advance(22 * DAY);
    advance().await;
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, begun);
    scratch.clock.advance(DAY);
    advance().await;
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, next);
    scratch.clock.advance(2 * DAY);
    advance().await;
    assert_eq!(authorities.get(&begun).await.unwrap().state, State::Retired);
    scratch.clock.advance(7 * DAY);
    advance().await;
    assert!(authorities.get(&begun).await.is_err(), "forgotten a day after its end");
}
