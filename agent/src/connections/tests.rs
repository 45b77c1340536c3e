use std::time::Duration;

use hauberk_identity::{Serial, SpiffeId};
use hauberk_policy::{Gathered, Protocol};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::jwt::{Claims, JwtKeySet, JwtSigner, KeyUse};
use hauberk_tls::{IssuingAuthority, KeyPair, RootAuthority, SvidTemplate, TrustBundle, Usage, verify_svid};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::enforce::{IDLE, LEFT};
use super::*;
use crate::clock::Clock;
use crate::mesh::{Denylist, Mesh, NodeView};
use crate::state::Mark;
use crate::state::StoredTrust;
use crate::sync::{Content, Floors, authenticate};
use crate::testing::{Authorities, HOUR, around, node_view, now, recipient, serial};
use crate::users::{Arrival, MadeFor};

mod kept;
mod leaving;
mod passed_on;

const INBOUND: Role = Role::Inbound { port: 8080, protocol: Protocol::Http };

fn connections(authorities: &Authorities) -> Arc<Connections> {
    connections_at(authorities, Clock::system())
}

fn connections_at(authorities: &Authorities, clock: Clock) -> Arc<Connections> {
    hauberk_tls::install_provider();
    let instance = "0123456789".parse().unwrap();
    Connections::new(Context {
        clock,
        identity: authorities.live("mesh/shop/node/orders"),
        trust: watch::Sender::new(Arc::new(authorities.stored_trust())).subscribe(),
        mesh: Mesh::new(),
        decisions: Arc::new(Decisions::new(clock, instance, [1, 2, 3, 4], None)),
        metrics: Arc::default(),
    })
}

/// Whom a handshake has just found web to be.
fn web(authorities: &Authorities, life: Duration) -> PeerIdentity {
    let svid = authorities.identity("mesh/shop/node/web", around(life)).svid;
    verify_svid(svid.chain(), authorities.issuing.root_bundle(), now(), Usage::Client).unwrap()
}

fn nobody(of: &TrustBundle) -> TrustBundle {
    TrustBundle::empty(of.trust_domain().clone())
}

#[test]
fn trust_that_changed_during_a_handshake_counts() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let peer = web(&authorities, HOUR);
    let address = "127.0.0.1:9".parse().unwrap();
    assert!(connections.register(INBOUND, peer.clone(), address, None, [1; 32]).is_ok());
    connections.context.identity.publish_bundle(nobody(authorities.issuing.root_bundle())).unwrap();
    for role in [INBOUND, Role::Outbound] {
        assert!(connections.register(role, peer.clone(), address, None, [1; 32]).is_err());
        assert!(connections.is_empty());
    }
}

#[test]
fn a_proof_that_nobody_vouches_for_any_longer_extends_nothing() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let newer = web(&authorities, HOUR * 2);
    assert!(connection.extend(&newer, &connections));
    assert_eq!(connection.proven_until(), newer.not_after());
    let newest = web(&authorities, HOUR * 3);
    connections.context.identity.publish_bundle(nobody(authorities.issuing.root_bundle())).unwrap();
    assert!(!connection.extend(&newest, &connections));
    assert_eq!(connection.proven_until(), newer.not_after());
}

#[test]
fn a_connection_ends_with_the_first_certificate_that_vouches_for_its_peer() {
    let authorities = Authorities::new();
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let former = authorities.issuing.root_bundle();
    let domain = former.trust_domain().clone();
    let root = RootAuthority::create(&domain, around(HOUR / 6), serial()).unwrap();
    let until = root.validity().not_after();
    let above = authorities.issuing.cross_signed(&root, serial()).unwrap();
    let roots = [authorities.root.certificate().clone(), root.certificate().clone()];
    connections.context.identity.publish_bundle(TrustBundle::new(domain, roots).unwrap()).unwrap();
    // Its own certificate is good for an hour, and by one way its authority too.
    let svid = authorities.identity("mesh/shop/node/web", around(HOUR)).svid;
    let proven = |chain: &[_]| {
        let bundle = connections.context.identity.current();
        verify_svid(chain, bundle.bundle(), now(), Usage::Client).unwrap()
    };
    let (short, long) = (proven(&[svid.chain()[0].clone(), above]), proven(svid.chain()));
    let address = "127.0.0.1:9".parse().unwrap();
    for role in [INBOUND, Role::Outbound] {
        let registered = connections.register(role, short.clone(), address, None, [1; 32]).unwrap();
        let connection = registered.connection();
        assert_eq!(connection.proven_until(), until, "{role:?}");
        assert!(connection.extend(&long, &connections));
        assert_eq!(connection.proven_until(), long.not_after(), "{role:?}");
        assert!(connection.extend(&short, &connections));
        assert_eq!(connection.proven_until(), until, "{role:?}");
    }
}

#[test]
fn a_connection_lives_on_by_the_proof_of_its_own_instance_alone() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let of = |instance: &str, number: u8, life: Duration| {
        let serial = Serial::of_instance(instance.parse().unwrap(), [number; 16]);
        let key = KeyPair::generate().unwrap().public_key();
        let svid = authorities.sign_numbered("mesh/shop/node/web", key, around(life), serial);
        verify_svid(svid.chain(), authorities.issuing.root_bundle(), now(), Usage::Client).unwrap()
    };
    let (first, renewed) = (of("aaaaaaaaaa", 1, HOUR), of("aaaaaaaaaa", 2, HOUR * 2));
    let sibling = of("bbbbbbbbbb", 3, HOUR * 3);
    let address = "127.0.0.1:9".parse().unwrap();
    for role in [INBOUND, Role::Outbound] {
        let registered = connections.register(role, first.clone(), address, None, [1; 32]).unwrap();
        let connection = registered.connection();
        assert!(!connection.extend(&sibling, &connections), "{role:?}");
        assert_eq!(connection.proven_until(), first.not_after());
        // Neither keeps the other alive: what A has opened goes with A.
        refuse(&connections, 1, &[&first]);
        assert!(!connection.extend(&sibling, &connections), "{role:?}");
        refuse(&connections, 2, &[]);
        assert!(connection.extend(&renewed, &connections), "{role:?}");
        assert_eq!(connection.proven_until(), renewed.not_after());
        // Those of an earlier release do not say whose they are.
        assert!(connection.extend(&web(&authorities, HOUR * 4), &connections), "{role:?}");
    }
}

#[test]
fn nothing_is_admitted_on_a_connection_that_has_been_cut() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
    registered.connection().cut("test");
    let passage =
        registered.connection().admit(&connections, |_| Subject::Stream, None, None, Instant::now());
    assert!(!passage.is_allowed());
    let id = passage.decision().unwrap().as_str().to_owned();
    let detail = connections.decisions().explain(&id).unwrap();
    assert_eq!(detail.decision.unwrap().reason, "connection_cut");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_nothing_is_asked_to_go_and_then_made_to() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "127.0.0.1:9".parse().unwrap();
    for protocol in [Protocol::Http, Protocol::Http2, Protocol::Tcp] {
        let role = Role::Inbound { port: 8080, protocol };
        let registered = connections.register(role, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
        let connection = registered.connection();
        let is_told = |connections: &Connections| {
            connections.apply_time();
            (connection.retired().is_cancelled(), connection.cut_signal().is_cancelled())
        };
        assert_eq!(is_told(&connections), (false, false));
        tokio::time::advance(IDLE).await;
        assert_eq!(is_told(&connections), (true, false), "{protocol:?}");
        tokio::time::advance(IDLE).await;
        assert_eq!(is_told(&connections), (true, true), "{protocol:?}");
    }
}

/// Such as by a window that it never opens: nobody asks the answer then whether it may go on.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_take_the_end_of_an_answer_that_was_cut_loses_the_connection() {
    let authorities = Authorities::new();
    let permit = [permit("/", "true")];
    let (connections, _enforcing) = enforcing(&authorities, view_with(&authorities, 1, &permit)).await;
    let address = "127.0.0.1:9".parse().unwrap();
    let peer = web(&authorities, HOUR);
    let [one, other] = [1, 2]
        .map(|exporter| connections.register(INBOUND, peer.clone(), address, None, [exporter; 32]).unwrap());
    let admit = |registered: &Registered| {
        registered.connection().admit(&connections, |_| get("/"), None, None, Instant::now())
    };
    let [left, taken] = [&one, &other].map(admit);
    for passage in [&left, &taken] {
        assert!(passage.is_allowed());
        passage.meter().set_answering(true);
    }
    connections.context.mesh.gate.open(view_with(&authorities, 2, &[]));
    for passage in [&left, &taken] {
        cut_after(passage, HOUR).await.unwrap();
    }
    let since = Instant::now();
    taken.meter().set_answering(false);
    let retired = one.connection().retired();
    retired.cancelled().await;
    assert!(since.elapsed() < LEFT, "{:?}", since.elapsed());
    one.connection().cut_signal().cancelled().await;
    assert!((LEFT..LEFT + Duration::from_secs(2)).contains(&since.elapsed()), "{:?}", since.elapsed());
    assert!(!other.connection().retired().is_cancelled() && !other.connection().cut_signal().is_cancelled());
}

/// Refuses these, and says that it does.
fn refuse(connections: &Connections, revision: u64, peers: &[&PeerIdentity]) {
    connections.context.mesh.denied.replace(Denylist {
        mark: Mark { epoch: 1, revision },
        serials: peers.iter().map(|peer| peer.serial()).collect(),
        ..Denylist::default()
    });
}

#[test]
fn whoever_was_revoked_during_a_handshake_is_not_let_in() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let (revoked, other) = (web(&authorities, HOUR), web(&authorities, HOUR));
    let address = "127.0.0.1:9".parse().unwrap();
    refuse(&connections, 1, &[&revoked]);
    for role in [INBOUND, Role::Outbound] {
        let refused = connections.register(role, revoked.clone(), address, None, [1; 32]);
        assert!(matches!(refused, Err(Unwelcome::Denied(Denial::Revoked))), "{refused:?}");
        assert!(connections.is_empty());
        assert!(connections.register(role, other.clone(), address, None, [1; 32]).is_ok());
    }
}

#[test]
fn a_revoked_proof_extends_nothing() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "127.0.0.1:9".parse().unwrap();
    let first = web(&authorities, HOUR);
    let registered = connections.register(INBOUND, first.clone(), address, None, [1; 32]).unwrap();
    let newer = web(&authorities, HOUR * 2);
    refuse(&connections, 1, &[&newer]);
    assert!(!registered.connection().extend(&newer, &connections));
    assert_eq!(registered.connection().proven_until(), first.not_after());
}

#[tokio::test]
async fn live_connections_of_the_revoked_are_cut_and_then_it_is_said() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let address = "127.0.0.1:9".parse().unwrap();
    let (revoked, other) = (web(&authorities, HOUR), web(&authorities, HOUR));
    let [inbound, outbound] = [(INBOUND, [1; 32]), (Role::Outbound, [2; 32])].map(|(role, exporter)| {
        connections.register(role, revoked.clone(), address, None, exporter).unwrap()
    });
    let stays = connections.register(Role::Outbound, other, address, None, [3; 32]).unwrap();
    let mesh = connections.context.mesh.clone();
    mesh.gate.set_certificate_valid(true);
    let stop = CancellationToken::new();
    let mut enforcing = JoinSet::new();
    enforcing.spawn({
        let (connections, stop) = (Arc::clone(&connections), stop.clone());
        async move { connections.enforce(stop).await }
    });
    let mut applied = mesh.denied.applied();
    refuse(&connections, 7, &[&revoked]);
    applied.wait_for(|mark| mark.revision == 7).await.unwrap();
    assert!(inbound.connection().cut_signal().is_cancelled());
    assert!(outbound.connection().cut_signal().is_cancelled());
    assert!(!stays.connection().cut_signal().is_cancelled());
    assert_eq!(mesh.inbound().borrow().ends_outbound(), None);

    // Ourselves.
    let own = connections.context.identity.current();
    mesh.denied.replace(Denylist {
        mark: Mark { epoch: 1, revision: 8 },
        identities: [own.svid().unwrap().id().clone()].into(),
        ..Denylist::default()
    });
    applied.wait_for(|mark| mark.revision == 8).await.unwrap();
    assert!(stays.connection().cut_signal().is_cancelled());
    assert_eq!(mesh.inbound().borrow().ends_outbound(), Some(ClosedReason::Quarantined));
    mesh.denied.replace(Denylist { mark: Mark { epoch: 1, revision: 9 }, ..Denylist::default() });
    applied.wait_for(|mark| mark.revision == 9).await.unwrap();
    assert_eq!(mesh.inbound().borrow().ends_outbound(), None);
    stop.cancel();
    enforcing.join_next().await.unwrap().unwrap();
}

/// What is to be trusted once the authority of these tests signs no longer.
fn succeeded(authorities: &Authorities) -> Arc<StoredTrust> {
    let mut trust = authorities.trust();
    trust.version = 2;
    trust.renew_issuers = vec![authorities.issuing.serial().to_string()];
    trust.renew_within_ms = 5_000;
    Arc::new(StoredTrust::new(trust).unwrap())
}

fn followed(connections: &Connections) -> Option<u64> {
    connections.follow();
    *connections.context.mesh.applied.subscribe_followed().borrow()
}

/// Has ourselves shown a certificate by the next authority.
fn renew_ourselves(connections: &Connections, next: &IssuingAuthority) {
    let key = KeyPair::generate().unwrap();
    let svid = next.sign(&template("mesh/shop/node/orders", &key)).unwrap();
    connections.context.identity.publish(svid, &key).unwrap();
}

fn template(path: &str, key: &KeyPair) -> SvidTemplate {
    SvidTemplate {
        id: format!("spiffe://shop.local/{path}").parse().unwrap(),
        public_key: key.public_key(),
        serial: serial(),
        validity: around(HOUR),
        dns_names: vec![],
        ip_addresses: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn trust_is_followed_once_both_ends_of_every_connection_have_proved_the_next_authority() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let next = IssuingAuthority::create(&authorities.root, around(HOUR * 80), serial()).unwrap();
    let address = "127.0.0.1:9".parse().unwrap();
    assert_eq!(followed(&connections), Some(0));
    let [inbound, outbound] = [(INBOUND, [1; 32]), (Role::Outbound, [2; 32])].map(|(role, exporter)| {
        let peer = web(&authorities, HOUR);
        let registered = connections.register(role, peer, address, None, exporter).unwrap();
        registered.connection().set_shown(shown_by(&connections.context.identity.current()));
        registered
    });
    connections.succession().told(succeeded(&authorities), Instant::now());
    assert_eq!(followed(&connections), Some(0));
    renew_ourselves(&connections, &next);
    connections.succession().renewed(Instant::now());
    let shown = shown_by(&connections.context.identity.current());
    let key = KeyPair::generate().unwrap();
    let svid = next.sign(&template("mesh/shop/node/web", &key)).unwrap();
    let newer = verify_svid(svid.chain(), next.root_bundle(), now(), Usage::Client).unwrap();
    for registered in [&inbound, &outbound] {
        assert!(registered.connection().extend(&newer, &connections));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(followed(&connections), Some(0), "the peer knows us by the former authority");
        registered.connection().set_shown(shown);
    }
    assert_eq!(followed(&connections), Some(0), "others may still show a former certificate");
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(followed(&connections), Some(2));
    assert!(![inbound, outbound].iter().any(|lived| lived.connection().retired().is_cancelled()));
}

#[tokio::test(start_paused = true)]
async fn trust_is_followed_once_no_program_is_given_a_certificate_by_the_former_authority_or_for_long_enough()
{
    let authorities = Authorities::new();
    let next = IssuingAuthority::create(&authorities.root, around(HOUR * 80), serial()).unwrap();
    for is_renewed in [true, false] {
        let connections = connections(&authorities);
        let issuers = &connections.context.mesh.issuers;
        issuers.replace([authorities.issuing.serial(), next.serial()].into());
        assert_eq!(followed(&connections), Some(0));
        connections.succession().told(succeeded(&authorities), Instant::now());
        renew_ourselves(&connections, &next);
        connections.succession().renewed(Instant::now());
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(followed(&connections), Some(0), "a renewal lags");
        match is_renewed {
            true => issuers.replace([next.serial()].into()),
            false => tokio::time::advance(Duration::from_secs(1)).await,
        }
        assert_eq!(followed(&connections), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_is_proved_is_drained_by_its_opener_first_and_waited_for_so_long() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let next = IssuingAuthority::create(&authorities.root, around(HOUR * 80), serial()).unwrap();
    let address = "127.0.0.1:9".parse().unwrap();
    let register =
        |role, exporter| connections.register(role, web(&authorities, HOUR), address, None, exporter);
    let (inbound, outbound) =
        (register(INBOUND, [1; 32]).unwrap(), register(Role::Outbound, [2; 32]).unwrap());
    assert_eq!(followed(&connections), Some(0));
    connections.succession().told(succeeded(&authorities), Instant::now());
    renew_ourselves(&connections, &next);
    let are_retired = || {
        let followed = followed(&connections);
        let retired = [&outbound, &inbound].map(|each| each.connection().retired().is_cancelled());
        (followed, retired, connections.is_proof_due(outbound.connection()))
    };
    assert_eq!(are_retired(), (Some(0), [false, false], false));
    let mut seen = Vec::new();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(5)).await;
        seen.push(are_retired());
    }
    assert_eq!(
        seen,
        [
            (Some(0), [false, false], true),
            (Some(0), [true, false], true),
            (Some(0), [true, true], true),
            (Some(2), [true, true], true),
        ]
    );
    // What begins only now met an old certificate, and so would the next one.
    let late = register(Role::Outbound, [3; 32]).unwrap();
    assert_eq!(followed(&connections), Some(2));
    assert!(!late.connection().retired().is_cancelled() && !inbound.connection().cut_signal().is_cancelled());
}

/// The view of a node with these policies.
pub(super) fn view_with(authorities: &Authorities, revision: u64, policies: &[String]) -> Arc<NodeView> {
    view_changed(authorities, revision, |node| node.policies = named(policies))
}

fn named(policies: &[String]) -> Vec<pb::Policy> {
    let policy = |(index, cedar): (usize, &String)| pb::Policy {
        name: format!("p{index}"),
        cedar: cedar.clone(),
        ..pb::Policy::default()
    };
    policies.iter().enumerate().map(policy).collect()
}

fn view_changed(
    authorities: &Authorities,
    revision: u64,
    change: impl FnOnce(&mut pb::NodeView),
) -> Arc<NodeView> {
    let mut view = node_view(revision);
    if let Some(pb::view::Body::Node(node)) = &mut view.body {
        change(node);
    }
    let signed = authorities.signed(&view);
    let authentic =
        authenticate(&signed, &authorities.view_keys(), &recipient(), &Floors::default()).unwrap();
    match authentic.prepare(None).unwrap().content {
        Content::Node { view, .. } => view,
        Content::Service(_) => unreachable!(),
    }
}

/// Connections under this view, and what enforces it.
async fn enforcing(authorities: &Authorities, view: Arc<NodeView>) -> (Arc<Connections>, JoinSet<()>) {
    let connections = connections_at(authorities, Clock::starting_at(now()));
    let mesh = connections.context.mesh.clone();
    let mut applied = mesh.applied.subscribe();
    mesh.gate.set_certificate_valid(true);
    mesh.gate.open(view);
    let mut enforcing = JoinSet::new();
    enforcing.spawn({
        let connections = Arc::clone(&connections);
        async move { connections.enforce(CancellationToken::new()).await }
    });
    applied.wait_for(|inbound| matches!(inbound.as_deref(), Some(Inbound::Open(_)))).await.unwrap();
    (connections, enforcing)
}

fn request(method: http::Method, path: &str, gathered: Option<Gathered>) -> Subject {
    let target = path.parse().unwrap();
    let (gathered, made_for) = (gathered.map(Arc::new), MadeFor::not_looked_for());
    Subject::Request { method, target, is_upgrade: false, gathered, made_for }
}

fn get(path: &str) -> Subject {
    request(http::Method::GET, path, None)
}

fn permit(path: &str, condition: &str) -> String {
    format!(
        "permit(principal is Node, action == Action::\"GET\", resource) when {{ context.path == \"{path}\" && {condition} }};"
    )
}

/// How long it takes until what a passage lets through is cut, tried for `patience`.
async fn cut_after(passage: &Passage, patience: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let cut = crate::wire::meter::until_cut(passage.meter(), std::future::pending::<()>());
    tokio::time::timeout(patience, cut).await.ok().map(|_| begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_by_time_or_age_is_cut_within_a_second_of_its_end_and_nothing_else() {
    let authorities = Authorities::new();
    let begun = now();
    let until = begun.plus(Duration::from_secs(30));
    let policies = [
        "permit(principal is Node, action == Action::\"PUT\", resource);".to_owned(),
        permit("/timed", &format!("context.time < datetime(\"{until:.3}\")")),
        permit("/aged", "context.peer has certificateAge && context.peer.certificateAge < 3660"),
    ];
    let (connections, _enforcing) = enforcing(&authorities, view_with(&authorities, 1, &policies)).await;
    let address = "127.0.0.1:9".parse().unwrap();
    // Its certificate is an hour old.
    let registered = connections.register(INBOUND, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let admit = |subject| connection.admit(&connections, |_| subject, None, None, Instant::now());
    let [plain, timed, aged] =
        [request(http::Method::PUT, "/", None), get("/timed"), get("/aged")].map(admit);
    assert!([&plain, &timed, &aged].into_iter().all(Passage::is_allowed));
    assert_eq!(connection.changing.load(Ordering::Relaxed), 2);
    let timed_out = cut_after(&timed, HOUR).await.unwrap();
    assert!((29_000..=31_500).contains(&timed_out.as_millis()), "{timed_out:?}");
    let aged_out = cut_after(&aged, HOUR).await.unwrap() + timed_out;
    assert!((58_000..=63_000).contains(&aged_out.as_millis()), "{aged_out:?}");
    assert_eq!(cut_after(&plain, Duration::from_secs(600)).await, None);
    assert_eq!(connection.cut_flows.load(Ordering::Relaxed), 2, "each once, however often it is looked at");
    drop((timed, aged));
    assert_eq!(connection.changing.load(Ordering::Relaxed), 0);
    assert_eq!(connection.cut_flows.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_certificate_makes_what_depends_on_its_age_young_again() {
    let authorities = Authorities::new();
    let policies = [permit("/", "context.peer has certificateAge && context.peer.certificateAge < 3660")];
    let (connections, _enforcing) = enforcing(&authorities, view_with(&authorities, 1, &policies)).await;
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let passage = connection.admit(&connections, |_| get("/"), None, None, Instant::now());
    assert_eq!(cut_after(&passage, Duration::from_secs(30)).await, None);
    let validity = hauberk_identity::Validity::new(now().minus(Duration::from_secs(60)), now().plus(HOUR));
    let svid = authorities.identity("mesh/shop/node/web", validity.unwrap()).svid;
    let newer = verify_svid(svid.chain(), authorities.issuing.root_bundle(), now(), Usage::Client).unwrap();
    assert!(connection.extend(&newer, &connections));
    assert_eq!(cut_after(&passage, Duration::from_secs(1_800)).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_a_new_view_reads_and_nobody_gathered_is_cut_with_that_reason() {
    let authorities = Authorities::new();
    let tenant = "context.headers.hasTag(\"x-tenant\")";
    let first = view_with(&authorities, 1, &[permit("/", tenant)]);
    let (connections, _enforcing) = enforcing(&authorities, Arc::clone(&first)).await;
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, web(&authorities, HOUR), address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let gathered = first.engine.wanted(8080).unwrap().gather("", [("x-tenant", &b"blue"[..])]);
    let passage = connection.admit(
        &connections,
        |_| request(http::Method::GET, "/", Some(gathered)),
        None,
        None,
        Instant::now(),
    );
    assert!(passage.is_allowed());
    let open = |revision, policies: &[String]| {
        connections.context.mesh.gate.open(view_with(&authorities, revision, policies));
    };
    open(2, &[permit("/", tenant), permit("/other", "context.method == \"GET\"")]);
    assert_eq!(cut_after(&passage, Duration::from_secs(5)).await, None);
    let by_host = permit("/other", "context.host == \"a\"");
    open(3, &[permit("/", tenant), by_host.clone()]);
    assert_eq!(cut_after(&passage, Duration::from_secs(5)).await, None);
    open(4, &[permit("/", tenant), by_host.replacen("permit", "forbid", 1)]);
    assert!(cut_after(&passage, Duration::from_secs(5)).await.is_some());
    let told = connections.decisions().next_batch().await.decisions;
    assert_eq!(told.last().unwrap().reason, "facts_missing");
}

/// Rules that believe users of an issuer, with these policies; and a token's user, for a minute.
fn for_a_user(
    authorities: &Authorities,
    connections: &Connections,
    policies: &[String],
    peer: &PeerIdentity,
) -> MadeFor {
    let begun = connections.context.clock.now();
    let (login, view) = believing(authorities, policies);
    connections.rules.store(Arc::new(Rules::new(Arc::new(Inbound::Open(Arc::clone(&view))))));
    let token = token_of(&login, peer.id(), begun, Duration::from_secs(60));
    let mut headers = with_token(&token);
    let arrival = Arrival { port: 8080, peer: peer.id(), identity: None, context: connections.context() };
    let made_for = MadeFor::look(&view, arrival, &mut headers);
    assert!(made_for.is_for_user());
    made_for
}

fn with_token(token: &str) -> http::HeaderMap {
    let bearer = format!("Bearer {token}").parse().unwrap();
    [(http::header::AUTHORIZATION, bearer)].into_iter().collect()
}

/// Rules that believe users of an issuer, with these policies, and the issuer.
fn believing(authorities: &Authorities, policies: &[String]) -> (JwtSigner, Arc<NodeView>) {
    let login = JwtSigner::generate().unwrap();
    let view = view_changed(authorities, 1, |node| {
        node.policies = named(policies);
        node.ports[0].users = Some(pb::UserTokens::default());
        node.issuers = vec![issuer(&login)];
    });
    (login, view)
}

fn issuer(login: &JwtSigner) -> pb::JwtIssuer {
    let keys = JwtKeySet::new([login.public_key().unwrap()]).unwrap();
    pb::JwtIssuer {
        name: "login".to_owned(),
        issuer: "https://login.example".to_owned(),
        audiences: vec!["shop".to_owned()],
        jwks: keys.to_jwks(KeyUse::Signature).into_bytes(),
        user_claim: "sub".to_owned(),
        ..pb::JwtIssuer::default()
    }
}

fn token_of(login: &JwtSigner, id: &SpiffeId, begun: UnixMillis, life: Duration) -> String {
    let token = login.sign(&Claims {
        id,
        audience: &["shop".to_owned()],
        issued_at: begun,
        expires_at: begun.plus(life),
        token_id: "1",
        issuer: Some("https://login.example"),
    });
    String::clone(&token.unwrap())
}

#[test]
fn what_is_made_for_a_user_is_found_while_it_is_being_decided() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let authorities = Authorities::new();
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let peer = web(&authorities, HOUR);
    let permit = "permit(principal is Node, action, resource);".to_owned();
    let made_for = for_a_user(&authorities, &connections, &[permit], &peer);
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, peer.clone(), address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let memo = connections.rules().memo(&connection.caller, &connection.circumstances, connection.id());
    let memo = memo.unwrap();
    let busy = memo.caller.lock().unwrap();
    std::thread::scope(|scope| {
        let deciding = scope.spawn(|| {
            let _entered = runtime.enter();
            let (method, target) = (http::Method::GET, "/".parse().unwrap());
            let subject = Subject::Request { method, target, is_upgrade: false, gathered: None, made_for };
            connection.admit(&connections, |_| subject, None, None, Instant::now())
        });
        while !deciding.is_finished() && connection.is_idle(Instant::now(), Duration::ZERO) {
            std::thread::yield_now();
        }
        assert!(!deciding.is_finished(), "it is registered, and waits to be decided");
        runtime.block_on(tokio::time::advance(Duration::from_secs(61)));
        runtime.block_on(connections.review_users());
        drop(busy);
        assert!(deciding.join().unwrap().meter().is_cut(), "its token has ended meanwhile");
    });
}

#[tokio::test(start_paused = true)]
async fn policies_are_not_asked_each_second_about_every_request_of_a_user() {
    let authorities = Authorities::new();
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let peer = web(&authorities, HOUR);
    let permit = "permit(principal, action, resource) when { context has user };".to_owned();
    let made_for = for_a_user(&authorities, &connections, &[permit], &peer);
    let address = "127.0.0.1:9".parse().unwrap();
    let registered = connections.register(INBOUND, peer, address, None, [1; 32]).unwrap();
    let connection = registered.connection();
    let gathered = Some(Arc::new(Gathered::nothing().clone().made_for(made_for.on_behalf_of())));
    let admit = |made_for: &MadeFor| {
        let (method, target, made_for) = (http::Method::GET, "/".parse().unwrap(), made_for.clone());
        let gathered = gathered.clone();
        let subject = Subject::Request { method, target, is_upgrade: false, gathered, made_for };
        connection.admit(&connections, |_| subject, None, None, Instant::now())
    };
    let passages: Vec<_> = (0..8).map(|_| admit(&made_for)).collect();
    assert!(passages.iter().all(Passage::is_allowed), "{:?}", passages[0].ruling);
    let asked = asked_of(&connections, connection);
    assert_eq!(asked(), 8);
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        connections.review_changing().await;
        connections.review_users().await;
    }
    assert_eq!(asked(), 8);
    tokio::time::advance(Duration::from_secs(60)).await;
    connections.review_changing().await;
    assert!(passages.iter().all(|passage| passage.meter().is_cut()), "their token has ended");
    assert_eq!(asked(), 8);
    drop(passages);
    assert_eq!(connection.changing.load(Ordering::Relaxed), 0);
}

/// Counts how often policies were asked about what this connection asks.
fn asked_of(connections: &Connections, connection: &Connection) -> impl Fn() -> usize {
    let rules = connections.rules();
    let memo = rules.memo(&connection.caller, &connection.circumstances, connection.id()).unwrap();
    move || memo.asked.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_denylist_does_not_wait_for_all_that_is_decided_by_the_time() {
    let authorities = Authorities::new();
    let until = now().plus(HOUR);
    let policies = [permit("/timed", &format!("context.time < datetime(\"{until:.3}\")"))];
    let connections = connections_at(&authorities, Clock::starting_at(now()));
    let view = view_with(&authorities, 1, &policies);
    connections.rules.store(Arc::new(Rules::new(Arc::new(Inbound::Open(view)))));
    let address = "127.0.0.1:9".parse().unwrap();
    let peer = web(&authorities, HOUR);
    // Fewer connections than a step has room for, with many more flows.
    let busy: Vec<_> = (0..8)
        .map(|number| {
            let registered =
                connections.register(INBOUND, peer.clone(), address, None, [number; 32]).unwrap();
            let connection = registered.connection();
            let admit = |_| connection.admit(&connections, |_| get("/timed"), None, None, Instant::now());
            let passages: Vec<_> = (0..enforce::WALK_STEP / 2).map(admit).collect();
            (registered, passages)
        })
        .collect();
    let flows = 8 * enforce::WALK_STEP / 2;
    let counts: Vec<_> =
        busy.iter().map(|(registered, _)| asked_of(&connections, registered.connection())).collect();
    // Some of them share a memory.
    let asked = || counts.iter().take(4).map(|count| count()).sum::<usize>();
    assert_eq!(asked(), flows);
    let by_the_time = connections.review_changing();
    let revoked = async {
        refuse(&connections, 7, &[&peer]);
        let step = asked() - flows;
        assert!((1..=2 * enforce::WALK_STEP).contains(&step), "{step} were decided before it had a turn");
        connections.apply_denylist().await;
        busy.iter().all(|(registered, _)| registered.connection().cut_signal().is_cancelled())
    };
    let ((), are_cut) = tokio::join!(biased; by_the_time, revoked);
    assert!(are_cut);
}

/// More than a walk decides before it lets others have a turn.
const SEVERAL_STEPS: usize = 3 * enforce::WALK_STEP;

/// Fails where a change is said to be in force while something that it denies is not cut. It runs beside the walk, at
/// each of its pauses.
async fn cut_before_it_is_said<T>(said: impl Future<Output = T>, passages: &[(Registered, Passage)]) {
    said.await;
    let open = passages.iter().filter(|(_, passage)| !passage.meter().is_cut()).count();
    assert_eq!(open, 0, "said to be in force while these are open");
}

/// Requests under way, each on a connection of its own.
fn under_way(
    connections: &Arc<Connections>,
    peer: &PeerIdentity,
    subject: &Subject,
) -> Vec<(Registered, Passage)> {
    let address = "127.0.0.1:9".parse().unwrap();
    let begin = |number: usize| {
        let mut exporter = [0; 32];
        exporter[..8].copy_from_slice(&number.to_be_bytes());
        let registered = connections.register(INBOUND, peer.clone(), address, None, exporter).unwrap();
        let subject = subject.clone();
        let passage =
            registered.connection().admit(connections, move |_| subject, None, None, Instant::now());
        assert!(passage.is_allowed());
        (registered, passage)
    };
    (0..SEVERAL_STEPS).map(begin).collect()
}

#[tokio::test]
async fn a_view_and_a_bundle_are_said_to_be_in_force_after_the_last_cut() {
    let authorities = Authorities::new();
    let permits = [permit("/a", "true")];
    let (connections, mut enforcing) = enforcing(&authorities, view_with(&authorities, 1, &permits)).await;
    let mesh = connections.context.mesh.clone();
    let peer = web(&authorities, HOUR);
    let passages = under_way(&connections, &peer, &get("/a"));
    let mut applied = mesh.applied.subscribe();
    mesh.gate.open(view_with(&authorities, 2, &[]));
    let said = applied
        .wait_for(|inbound| matches!(inbound.as_deref(), Some(Inbound::Open(view)) if view.revision == 2));
    cut_before_it_is_said(said, &passages).await;
    drop(passages);

    mesh.gate.open(view_with(&authorities, 3, &permits));
    applied
        .wait_for(|inbound| matches!(inbound.as_deref(), Some(Inbound::Open(view)) if view.revision == 3))
        .await
        .unwrap();
    let passages = under_way(&connections, &peer, &get("/a"));
    let mut trusted = mesh.applied.subscribe_trust();
    let none = nobody(authorities.issuing.root_bundle());
    connections.context.identity.publish_bundle(none).unwrap();
    let said = trusted.wait_for(|bundle| bundle.as_ref().is_some_and(|bundle| bundle.roots().is_empty()));
    cut_before_it_is_said(said, &passages).await;
    enforcing.abort_all();
}

#[tokio::test]
async fn a_denylist_is_said_to_be_in_force_after_the_last_cut() {
    let authorities = Authorities::new();
    let permits = [permit("/a", "true")];
    let (connections, mut enforcing) = enforcing(&authorities, view_with(&authorities, 1, &permits)).await;
    let peer = web(&authorities, HOUR);
    let passages = under_way(&connections, &peer, &get("/a"));
    let mut applied = connections.context.mesh.denied.applied();
    refuse(&connections, 7, &[&peer]);
    cut_before_it_is_said(applied.wait_for(|mark| mark.revision == 7), &passages).await;
    enforcing.abort_all();
}
