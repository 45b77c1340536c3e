use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hauberk_identity::{Serial, TrustDomain, UnixMillis, Validity};
use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::authority::{IssuingAuthority, RootAuthority};
use crate::bootstrap::{BootstrapTrust, bootstrap_connector};
use crate::fingerprint::Fingerprint;
use crate::issue::SvidTemplate;
use crate::stream::{Connection, HandshakeError};
use crate::verifier::Usage;
use crate::verifier::verify_svid;

mod federation;
mod resumption;
mod vouched;

const LIMIT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

/// One trust domain with its authorities.
struct Domain {
    root: RootAuthority,
    issuing: IssuingAuthority,
}

static OURS: LazyLock<Domain> = LazyLock::new(|| Domain::new("example.org"));

fn now() -> UnixMillis {
    UnixMillis::from_secs(UnixTime::now().as_secs())
}

/// From `back` ago to `ahead` from now.
fn around(back: Duration, ahead: Duration) -> Validity {
    Validity::new(now().minus(back), now().plus(ahead)).unwrap()
}

/// A number not used before: authorities of the same number would have the same name.
fn serial() -> Serial {
    static LAST: AtomicU8 = AtomicU8::new(0);
    Serial::from_random([LAST.fetch_add(1, Ordering::Relaxed); 16])
}

impl Domain {
    fn new(name: &str) -> Self {
        let name = TrustDomain::parse(name).unwrap();
        let root = RootAuthority::create(&name, around(HOUR * 90, HOUR * 90), serial()).unwrap();
        let issuing = IssuingAuthority::create(&root, around(HOUR * 80, HOUR * 80), serial()).unwrap();
        Self { root, issuing }
    }

    fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("{}/{path}", self.root.trust_domain().id_string())).unwrap()
    }

    fn issue(&self, path: &str, validity: Validity) -> (Svid, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let template = SvidTemplate {
            id: self.id(path),
            public_key: key.public_key(),
            serial: serial(),
            validity,
            dns_names: vec![],
            ip_addresses: vec![],
        };
        (self.issuing.sign(&template).unwrap(), key)
    }

    fn bundle(&self) -> TrustBundle {
        self.issuing.root_bundle().clone()
    }

    fn live(&self, path: &str) -> LiveIdentity {
        self.live_for(path, around(HOUR, HOUR))
    }

    fn live_for(&self, path: &str, validity: Validity) -> LiveIdentity {
        let live = LiveIdentity::new(self.bundle());
        let (svid, key) = self.issue(path, validity);
        live.publish(svid, &key).unwrap();
        live
    }

    /// A leaf that the product would never issue, signed all the same.
    fn forge(&self, change: impl FnOnce(&mut CertificateParams)) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = crate::authority::dated_params(around(HOUR, HOUR), Serial::from_random([7; 16]));
        params.subject_alt_names = vec![uri("spiffe://example.org/mesh/shop/node/web")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuing.authority.issuer).unwrap();
        (vec![leaf.into(), self.issuing.certificate().clone()], key)
    }
}

/// What a machine's certificate may have, and no SVID: name and serial number of its issuer, and no key id.
fn names_issuer_without_key_id(params: &mut CertificateParams) {
    // [1] a directory name with no attributes, [2] the number 1.
    let content = vec![0x30, 9, 0xa1, 4, 0xa4, 2, 0x30, 0, 0x82, 1, 1];
    params.use_authority_key_identifier_extension = false;
    params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 35], content));
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn any_of(ids: &[SpiffeId]) -> ServerExpectation {
    ServerExpectation::AnyOf(ids.into())
}

type Outcome = Result<Connection<DuplexStream>, HandshakeError>;

/// Both ends of a handshake over a pipe; client first.
async fn shake(connector: &Connector, acceptor: &Acceptor) -> (Outcome, Outcome) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(connector.connect(near), acceptor.accept(far))
}

fn acceptor(live: &LiveIdentity) -> Acceptor {
    live.acceptor(&[b"h2"], ClientAuth::Required, LIMIT).unwrap()
}

fn connector(live: &LiveIdentity, expected: ServerExpectation) -> Connector {
    live.connector(expected, &[b"h2"], true, LIMIT).unwrap()
}

fn refused(outcome: Outcome) -> VerifyError {
    match outcome.map(drop) {
        Err(HandshakeError::PeerRefused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_members_meet_and_know_each_other() {
    let (web, orders) = (OURS.live("mesh/shop/node/web"), OURS.live("mesh/shop/node/orders"));
    let expected = any_of(&[OURS.id("mesh/shop/node/orders")]);
    let (client, server) = shake(&connector(&web, expected), &acceptor(&orders)).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer().unwrap().id(), &OURS.id("mesh/shop/node/orders"));
    let peer = server.peer().unwrap();
    assert_eq!(peer.id(), &OURS.id("mesh/shop/node/web"));
    assert_eq!(peer.serial(), web.current().svid().unwrap().serial());
    assert_eq!(peer.not_after(), web.current().svid().unwrap().validity().not_after());
    assert_eq!(peer.verify_again(&OURS.bundle(), now(), Usage::Client), Ok(peer.not_after()));
    let empty = TrustBundle::empty(OURS.bundle().trust_domain().clone());
    assert_eq!(peer.verify_again(&empty, now(), Usage::Client), Err(VerifyError::UnknownIssuer));
    let negotiated = crate::Negotiated { version: "TLSv1.3", group: "X25519MLKEM768" };
    assert_eq!((client.negotiated(), server.negotiated()), (Some(negotiated), Some(negotiated)));
    assert_eq!((client.alpn(), server.alpn()), (Some(&b"h2"[..]), Some(&b"h2"[..])));
    let name = client.exporter::<32>(b"EXPORTER-test").unwrap();
    assert_eq!(name, server.exporter::<32>(b"EXPORTER-test").unwrap());
    assert_ne!(name, server.exporter::<32>(b"EXPORTER-other").unwrap());
    let ((mut client, _), (mut server, _)) = (client.into_parts(), server.into_parts());
    let mut received = [0; 5];
    let (sent, read) = tokio::join!(client.write_all(b"hello"), server.read_exact(&mut received));
    sent.unwrap();
    read.unwrap();
    assert_eq!(&received, b"hello");
    let group = client.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn the_server_must_be_who_was_expected() {
    let (web, orders) = (OURS.live("mesh/shop/node/web"), OURS.live("mesh/shop/node/orders"));
    for expected in [any_of(&[]), any_of(&[OURS.id("mesh/shop/node/payments")])] {
        let (client, server) = shake(&connector(&web, expected), &acceptor(&orders)).await;
        assert_eq!(refused(client), VerifyError::UnexpectedId(OURS.id("mesh/shop/node/orders")));
        assert!(matches!(server, Err(HandshakeError::RefusedByPeer(_))));
    }
    let (client, _) = shake(&connector(&web, ServerExpectation::ControlPlane), &acceptor(&orders)).await;
    assert_eq!(refused(client), VerifyError::NotControlPlane(OURS.id("mesh/shop/node/orders")));
    let plane = OURS.live("control-plane/a");
    let (client, _) = shake(&connector(&web, ServerExpectation::ControlPlane), &acceptor(&plane)).await;
    client.unwrap();
}

#[tokio::test]
async fn strangers_of_other_domains_are_refused_both_ways() {
    let (theirs, ours) = (Domain::new("other.org"), OURS.live("mesh/shop/node/orders"));
    let stranger = theirs.live("mesh/shop/node/web");
    let expected = any_of(&[OURS.id("mesh/shop/node/orders")]);
    let (client, _) = shake(&connector(&stranger, expected.clone()), &acceptor(&ours)).await;
    assert_eq!(refused(client), VerifyError::UnknownIssuer);
    // One that trusts us is not trusted for it, although its own domain bears our name.
    let lookalike = Domain::new("example.org").live("mesh/shop/node/web");
    lookalike.publish_bundle(OURS.bundle()).unwrap();
    let (client, server) = shake(&connector(&lookalike, expected), &acceptor(&ours)).await;
    assert_eq!(refused(server), VerifyError::UnknownIssuer);
    let (mut stream, _) = client.unwrap().into_parts();
    assert!(stream.read(&mut [0]).await.is_err());
}

#[tokio::test]
async fn time_decides_in_both_directions() {
    let web = OURS.live("mesh/shop/node/web");
    let expected = any_of(&[OURS.id("mesh/shop/node/orders")]);
    let past = Validity::new(now().minus(HOUR * 2), now().minus(HOUR)).unwrap();
    let future = Validity::new(now().plus(HOUR), now().plus(HOUR * 2)).unwrap();
    let expired = OURS.live_for("mesh/shop/node/orders", past);
    let (client, _) = shake(&connector(&web, expected.clone()), &acceptor(&expired)).await;
    assert!(matches!(refused(client), VerifyError::Expired { .. }));
    let early = OURS.live_for("mesh/shop/node/orders", future);
    let (client, _) = shake(&connector(&web, expected), &acceptor(&early)).await;
    assert!(matches!(refused(client), VerifyError::NotYetValid { .. }));
    let to_web = any_of(&[OURS.id("mesh/shop/node/web")]);
    let (_, server) = shake(&connector(&expired, to_web.clone()), &acceptor(&web)).await;
    assert!(matches!(refused(server), VerifyError::Expired { .. }));
    let (_, server) = shake(&connector(&early, to_web), &acceptor(&web)).await;
    assert!(matches!(refused(server), VerifyError::NotYetValid { .. }));
}

#[tokio::test]
async fn without_a_certificate_only_optional_listeners_answer() {
    let plane = OURS.live("control-plane/a");
    let nobody = LiveIdentity::new(OURS.bundle());
    let silent = nobody.connector(ServerExpectation::ControlPlane, &[b"h2"], false, LIMIT).unwrap();
    let (_, server) = shake(&silent, &acceptor(&plane)).await;
    assert_eq!(refused(server), VerifyError::NoCertificate);
    let optional = plane.acceptor(&[b"h2"], ClientAuth::Optional, LIMIT).unwrap();
    let (client, server) = shake(&silent, &optional).await;
    assert!(client.is_ok());
    assert!(server.unwrap().peer().is_none());
    // Where one is presented, it is verified there too.
    let stranger = Domain::new("example.org").live("mesh/shop/node/web");
    stranger.publish_bundle(OURS.bundle()).unwrap();
    let (_, server) = shake(&connector(&stranger, ServerExpectation::ControlPlane), &optional).await;
    assert_eq!(refused(server), VerifyError::UnknownIssuer);
    let (client, _) = shake(&connector(&nobody, ServerExpectation::ControlPlane), &optional).await;
    assert!(matches!(client, Err(HandshakeError::NoCertificate)));
}

#[tokio::test]
async fn a_newcomer_finds_the_pinned_control_plane_and_no_other() {
    let root = OURS.root.certificate();
    let serve = |path: &str, domain: &Domain, with_root: bool| {
        let live = LiveIdentity::new(domain.bundle());
        let (svid, key) = domain.issue(path, around(HOUR, HOUR));
        let svid = if with_root { svid.with_root(domain.root.certificate()).unwrap() } else { svid };
        live.publish(svid, &key).unwrap();
        live.acceptor(&[b"h2"], ClientAuth::Optional, LIMIT).unwrap()
    };
    let pin = BootstrapTrust::Root { pin: Fingerprint::of(root), trust_domain: None };
    let by_pin = bootstrap_connector(pin, &[b"h2"], LIMIT).unwrap();
    let by_bundle = BootstrapTrust::Bundle(Arc::new(OURS.bundle()));
    let by_bundle = bootstrap_connector(by_bundle, &[b"h2"], LIMIT).unwrap();

    let plane = serve("control-plane/a", &OURS, true);
    for connector in [&by_pin, &by_bundle] {
        let (client, server) = shake(connector, &plane).await;
        assert_eq!(client.unwrap().peer().unwrap().id(), &OURS.id("control-plane/a"));
        assert!(server.unwrap().peer().is_none());
    }
    let (client, _) = shake(&by_pin, &serve("control-plane/a", &OURS, false)).await;
    assert_eq!(refused(client), VerifyError::PinNotPresented(Fingerprint::of(root)));
    let (client, _) = shake(&by_bundle, &serve("control-plane/a", &OURS, false)).await;
    client.unwrap();
    let impostor = serve("mesh/shop/node/web", &OURS, true);
    for connector in [&by_pin, &by_bundle] {
        let (client, _) = shake(connector, &impostor).await;
        assert_eq!(refused(client), VerifyError::NotControlPlane(OURS.id("mesh/shop/node/web")));
    }
    let elsewhere = serve("control-plane/a", &Domain::new("example.org"), true);
    let (client, _) = shake(&by_pin, &elsewhere).await;
    assert_eq!(refused(client), VerifyError::PinNotPresented(Fingerprint::of(root)));
    let (client, _) = shake(&by_bundle, &elsewhere).await;
    assert_eq!(refused(client), VerifyError::UnknownIssuer);
    // A leaf that is pinned itself is no root.
    let (svid, key) = OURS.issue("control-plane/a", around(HOUR, HOUR));
    let leaf = svid.chain()[0].clone();
    let live = LiveIdentity::new(OURS.bundle());
    live.publish(svid.with_root(&leaf).unwrap(), &key).unwrap();
    let by_leaf = BootstrapTrust::Root { pin: Fingerprint::of(&leaf), trust_domain: None };
    let by_leaf = bootstrap_connector(by_leaf, &[b"h2"], LIMIT).unwrap();
    let (client, _) = shake(&by_leaf, &live.acceptor(&[b"h2"], ClientAuth::Optional, LIMIT).unwrap()).await;
    assert_eq!(refused(client), VerifyError::PinNotRoot(Fingerprint::of(&leaf)));
}

#[tokio::test]
async fn what_is_published_counts_from_the_next_handshake() {
    let (web, orders) = (OURS.live("mesh/shop/node/web"), OURS.live("mesh/shop/node/orders"));
    let (connector, acceptor) =
        (connector(&web, any_of(&[OURS.id("mesh/shop/node/orders")])), acceptor(&orders));
    let mut changes = orders.subscribe();
    let (client, _) = shake(&connector, &acceptor).await;
    let before = client.unwrap().peer().unwrap().key_fingerprint();
    let (svid, key) = OURS.issue("mesh/shop/node/orders", around(HOUR, HOUR));
    orders.publish(svid, &key).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let (client, _) = shake(&connector, &acceptor).await;
    let after = client.unwrap().peer().unwrap().key_fingerprint();
    assert_ne!(before, after);
    assert_eq!(after, key.public_key().fingerprint());
    orders.publish_bundle(OURS.bundle()).unwrap();
    assert!(!changes.has_changed().unwrap());
    orders.publish_bundle(TrustBundle::empty(OURS.bundle().trust_domain().clone())).unwrap();
    assert!(changes.has_changed().unwrap());
    let (_, server) = shake(&connector, &acceptor).await;
    assert_eq!(refused(server), VerifyError::UnknownIssuer);
}

#[tokio::test]
async fn what_does_not_belong_together_is_not_published() {
    let live = LiveIdentity::new(OURS.bundle());
    let ((svid, _), (_, other_key)) =
        (OURS.issue("workload/a", around(HOUR, HOUR)), OURS.issue("workload/a", around(HOUR, HOUR)));
    assert!(matches!(live.publish(svid, &other_key), Err(LiveIdentityError::KeyMismatch)));
    let theirs = Domain::new("other.org");
    let (svid, key) = theirs.issue("workload/a", around(HOUR, HOUR));
    assert!(matches!(live.publish(svid, &key), Err(LiveIdentityError::TrustDomain)));
    assert!(matches!(live.publish_bundle(theirs.bundle()), Err(LiveIdentityError::TrustDomain)));
    assert!(live.current().svid().is_none());
}

#[tokio::test]
async fn protocols_must_agree_and_silence_is_dropped() {
    let (web, orders) = (OURS.live("mesh/shop/node/web"), OURS.live("mesh/shop/node/orders"));
    let expected = any_of(&[OURS.id("mesh/shop/node/orders")]);
    let http1 = web.connector(expected.clone(), &[b"http/1.1"], true, LIMIT).unwrap();
    let (client, server) = shake(&http1, &acceptor(&orders)).await;
    assert!(
        matches!(client, Err(HandshakeError::RefusedByPeer(alert)) if alert == "no_application_protocol")
    );
    assert!(matches!(server, Err(HandshakeError::NoCommonProtocol)));
    let plain = web.connector(expected, &[], true, LIMIT).unwrap();
    let (client, server) = shake(&plain, &acceptor(&orders)).await;
    assert_eq!((client.unwrap().alpn(), server.unwrap().alpn()), (None, None));

    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
    assert!(matches!(acceptor(&orders).accept(far).await, Err(HandshakeError::NotTls(_))));
    let hasty = orders.acceptor(&[], ClientAuth::Required, Duration::from_millis(5)).unwrap();
    let (_near, far) = tokio::io::duplex(1024);
    assert!(matches!(hasty.accept(far).await, Err(HandshakeError::Timeout(_))));
}

#[test]
fn forged_leaves_prove_nothing() {
    let bundle = OURS.bundle();
    let verify = |chain: &[CertificateDer<'_>], usage| verify_svid(chain, &bundle, now(), usage).map(drop);
    let forged = |change: fn(&mut CertificateParams)| verify(&OURS.forge(change).0, Usage::Server);
    assert_eq!(forged(|_| {}), Ok(()));
    assert_eq!(forged(|p| p.is_ca = IsCa::NoCa), Ok(()));
    assert_eq!(
        forged(|p| p.subject_alt_names.push(uri("spiffe://example.org/admin/root"))),
        Err(VerifyError::NotOneUri(2))
    );
    assert_eq!(
        forged(|p| p.subject_alt_names.push(uri("https://example.org/"))),
        Err(VerifyError::NotOneUri(2))
    );
    assert_eq!(
        forged(|p| p.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("localhost").unwrap())]),
        Err(VerifyError::NotOneUri(0))
    );
    for id in
        ["spiffe://example.org", "spiffe://example.org/", "spiffe://Example.org/x", "https://example.org/x"]
    {
        let (chain, _) = OURS.forge(|p| p.subject_alt_names = vec![uri(id)]);
        assert!(matches!(verify(&chain, Usage::Server), Err(VerifyError::NotSpiffeId(_))), "{id}");
    }
    let foreign = forged(|p| p.subject_alt_names = vec![uri("spiffe://example.org.evil/workload/x")]);
    assert!(matches!(foreign, Err(VerifyError::ForeignTrustDomain { .. })));
    // A name of another kind that reads like an id is none; nor does what follows a NUL count, or what comes before it.
    let spelled = "spiffe://example.org/admin/root";
    for name in [
        SanType::DnsName(Ia5String::try_from(spelled).unwrap()),
        SanType::Rfc822Name(Ia5String::try_from(spelled).unwrap()),
    ] {
        let (chain, _) = OURS.forge(|p| p.subject_alt_names = vec![name.clone()]);
        assert_eq!(verify(&chain, Usage::Server), Err(VerifyError::NotOneUri(0)));
        let (chain, _) = OURS.forge(|p| p.subject_alt_names.push(name));
        let peer = verify_svid(&chain, &bundle, now(), Usage::Server).unwrap();
        assert_eq!(peer.id().as_str(), "spiffe://example.org/mesh/shop/node/web");
    }
    for id in
        ["spiffe://example.org/workload/x\0", "spiffe://example.org\0.evil/x", "\0spiffe://example.org/x"]
    {
        let (chain, _) = OURS.forge(|p| p.subject_alt_names = vec![uri(id)]);
        assert!(matches!(verify(&chain, Usage::Server), Err(VerifyError::NotSpiffeId(_))), "{id:?}");
    }
    let no_purpose = forged(|p| {
        p.extended_key_usages = vec![];
        p.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 37], vec![0x30, 0]));
    });
    assert!(no_purpose.is_err());
    let unconstrained = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (chain, _) = OURS.forge(|p| {
        p.is_ca = unconstrained;
        p.distinguished_name.push(rcgen::DnType::CommonName, "a");
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    });
    assert_eq!(verify(&chain, Usage::Server), Err(VerifyError::AuthorityAsLeaf));
    assert!(forged(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)).is_err());
    assert_eq!(forged(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), Err(VerifyError::KeyUsage));
    assert_eq!(forged(|p| p.key_usages = vec![]), Err(VerifyError::KeyUsage));
    assert_eq!(forged(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), Err(VerifyError::KeyUsage));
    let no_server = Err(VerifyError::ExtendedKeyUsage(Usage::Server));
    assert_eq!(forged(|p| p.extended_key_usages = vec![]), no_server);
    assert_eq!(forged(|p| p.use_authority_key_identifier_extension = false), Err(VerifyError::KeyIdentifier));
    assert_eq!(forged(names_issuer_without_key_id), Err(VerifyError::KeyIdentifier));
    let (client_only, _) = OURS.forge(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(verify(&client_only, Usage::Server).is_err());
    assert_eq!(verify(&client_only, Usage::Client), Ok(()));
}

#[test]
fn each_kind_of_refusal_has_a_name() {
    let bundle = OURS.bundle();
    let reason = |change: fn(&mut CertificateParams)| {
        let (chain, _) = OURS.forge(change);
        verify_svid(&chain, &bundle, now(), Usage::Client).unwrap_err().reason()
    };
    let ca = |p: &mut CertificateParams| {
        p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        p.distinguished_name.push(rcgen::DnType::CommonName, "a");
        p.key_usages.push(KeyUsagePurpose::KeyCertSign);
    };
    fn dated(p: &mut CertificateParams, year: i32) {
        p.not_before = rcgen::date_time_ymd(year, 1, 1);
        p.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
    }
    let found = [
        reason(|p| p.subject_alt_names.push(uri("spiffe://example.org/admin/root"))),
        reason(|p| p.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("localhost").unwrap())]),
        reason(|p| p.subject_alt_names = vec![uri("https://example.org/x")]),
        reason(|p| p.subject_alt_names = vec![uri("spiffe://evil.example/workload/x")]),
        reason(ca),
        reason(|p| p.key_usages = vec![]),
        reason(|p| dated(p, 2019)),
        reason(|p| dated(p, 2090)),
        reason(|p| p.use_authority_key_identifier_extension = false),
    ];
    let expected = [
        "two_uris",
        "no_uri",
        "not_a_spiffe_id",
        "foreign_trust_domain",
        "is_ca",
        "key_usage",
        "expired",
        "not_yet_valid",
        "bad_certificate",
    ];
    assert_eq!(found, expected);
}

#[test]
fn chains_must_lead_to_a_root_of_the_bundle() {
    let (bundle, (svid, key)) = (OURS.bundle(), OURS.issue("workload/x", around(HOUR, HOUR)));
    let verify = |chain: &[CertificateDer<'_>]| verify_svid(chain, &bundle, now(), Usage::Client).map(drop);
    let [leaf, issuing] = svid.chain() else { panic!() };
    assert_eq!(verify(&[]), Err(VerifyError::NoCertificate));
    assert_eq!(verify(std::slice::from_ref(leaf)), Err(VerifyError::UnknownIssuer));
    assert_eq!(verify(&[leaf.clone(), issuing.clone(), OURS.root.certificate().clone()]), Ok(()));
    assert_eq!(verify(&vec![leaf.clone(); 8]), Err(VerifyError::TooManyCertificates(8)));
    assert_eq!(verify(std::slice::from_ref(issuing)), Err(VerifyError::AuthorityAsLeaf));
    assert_eq!(verify(&[OURS.root.certificate().clone()]), Err(VerifyError::AuthorityAsLeaf));
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://example.org/workload/x")];
    assert!(verify(&[params.self_signed(&key).unwrap().into()]).is_err());
    // A leaf that signs another leaf.
    let issuer = rcgen::Issuer::from_ca_cert_der(leaf, &key).unwrap();
    params.use_authority_key_identifier_extension = true;
    let below = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    assert!(verify(&[below.into(), leaf.clone(), issuing.clone()]).is_err());
    let mut broken = leaf.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert!(verify(&[broken.into(), issuing.clone()]).is_err());
    let later = now().plus(HOUR * 100);
    let expired = verify_svid(svid.chain(), &bundle, later, Usage::Client).map(drop);
    assert!(matches!(expired, Err(VerifyError::Expired { .. })));
}

/// An authority that is held to names of URIs, whichever they are: that is a constraint which webpki does not weigh, and what is not
/// weighed must not be passed over (RUSTSEC-2026-0098).
#[test]
fn an_authority_that_is_held_to_uris_vouches_for_nobody() {
    let verify = |constraints: Option<(bool, &[u8])>| {
        let (between, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = crate::authority::dated_params(around(HOUR, HOUR), serial());
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        if let Some((is_excluding, host)) = constraints {
            // NameConstraints with one subtree whose base is a uniformResourceIdentifier (RFC 5280 §4.2.1.10).
            let base = [&[0x86, host.len() as u8], host].concat();
            let subtree = [&[0x30, base.len() as u8][..], &base].concat();
            let side =
                [&[if is_excluding { 0xa1 } else { 0xa0 }, subtree.len() as u8][..], &subtree].concat();
            let content = [&[0x30, side.len() as u8][..], &side].concat();
            let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }
        let root = rcgen::Issuer::from_ca_cert_der(OURS.root.certificate(), OURS.root.key()).unwrap();
        let authority: CertificateDer<'static> = params.signed_by(&between, &root).unwrap().into();
        let mut params = crate::authority::dated_params(around(HOUR, HOUR), serial());
        params.subject_alt_names = vec![uri("spiffe://example.org/workload/x")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = rcgen::Issuer::from_ca_cert_der(&authority, &between).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().into();
        verify_svid(&[leaf, authority], &OURS.bundle(), now(), Usage::Client).map(drop)
    };
    assert_eq!(verify(None), Ok(()));
    for host in [&b"example.org"[..], b".example.org", b"other.example", b""] {
        for is_excluding in [false, true] {
            let refused = verify(Some((is_excluding, host)));
            assert!(refused.is_err(), "{is_excluding} {:?}", String::from_utf8_lossy(host));
        }
    }
}

#[test]
fn a_root_outside_its_own_validity_vouches_for_nobody() {
    let name = TrustDomain::parse("example.org").unwrap();
    let old = Validity::new(now().minus(HOUR * 2), now().minus(HOUR)).unwrap();
    let root = RootAuthority::create(&name, old, Serial::from_random([1; 16])).unwrap();
    // The authority claims more life than its root had.
    let key = KeyPair::generate().unwrap();
    let mut params = crate::authority::dated_params(around(HOUR, HOUR), Serial::from_random([2; 16]));
    params.subject_alt_names = vec![uri("spiffe://example.org/workload/x")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = rcgen::Issuer::from_ca_cert_der(root.certificate(), root.key()).unwrap();
    let leaf: CertificateDer<'static> = params.signed_by(&key, &issuer).unwrap().into();
    let bundle = TrustBundle::new(name, [root.certificate().clone()]).unwrap();
    let outcome = verify_svid(&[leaf], &bundle, now(), Usage::Client).map(drop);
    assert_eq!(outcome, Err(VerifyError::RootOutsideValidity(root.fingerprint())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_changed_byte_is_accepted(at: usize, byte in 1u8.., issuing: bool) {
        static SVID: LazyLock<Svid> = LazyLock::new(|| OURS.issue("workload/x", around(HOUR, HOUR)).0);
        let mut chain: Vec<Vec<u8>> = SVID.chain().iter().map(|der| der.to_vec()).collect();
        let der = &mut chain[usize::from(issuing)];
        let at = at % der.len();
        der[at] ^= byte;
        let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(Into::into).collect();
        prop_assert!(verify_svid(&chain, &OURS.bundle(), now(), Usage::Client).is_err());
    }
}
