use std::path::PathBuf;

use hauberk_identity::{Serial, TrustDomain, Validity};
use hauberk_tls::{
    AuthorityCertificate, CertificateDer, CertificateRequest, OperatorAuthority, TrustBundle, UpstreamError,
    certificates_from_pem,
};

use super::*;
use crate::authority::{AuthorityError, UpstreamFault};
use crate::config::CertificateFiles;
use crate::random;

/// A root as operators have them: it names no trust domain.
struct Corporate {
    pem: String,
    key_pem: String,
}

impl Corporate {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        Self { pem: params(name).self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() }
    }

    /// An intermediate authority under it, with its certificate behind its own.
    fn intermediate(&self, name: &str, ends: UnixMillis) -> Self {
        let (key, own) =
            (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::from_pem(&self.key_pem).unwrap());
        let mut params = params(name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(ends.0);
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.pem, own).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { pem: certificate.pem() + &self.pem, key_pem: key.serialize_pem() }
    }

    fn der(&self) -> CertificateDer<'static> {
        certificates_from_pem(&self.pem).unwrap().remove(0)
    }

    /// What it makes of a request: the issuing certificate, then its own.
    fn sign(&self, scratch: &Scratch, csr: &[u8]) -> Vec<CertificateDer<'static>> {
        self.sign_as(random::serial().unwrap(), scratch, csr)
    }

    fn sign_as(&self, serial: Serial, scratch: &Scratch, csr: &[u8]) -> Vec<CertificateDer<'static>> {
        let operator = OperatorAuthority::from_pem(&self.pem, self.key_pem.as_bytes()).unwrap();
        let now = scratch.clock.now();
        let (key, validity) =
            (CertificateRequest::parse(csr).unwrap(), Validity::new(now, now.plus(90 * DAY)).unwrap());
        let domain = scratch.control.authority.trust_domain();
        operator.certify(domain, &key, validity, serial).unwrap()
    }

    /// It and its key in files, as the settings name them.
    fn files(&self, folder: &std::path::Path) -> Upstream {
        let path = |name: &str| -> PathBuf { folder.join(name) };
        std::fs::write(path("upstream.pem"), &self.pem).unwrap();
        let _other = std::fs::remove_file(path("upstream.key"));
        crate::private_file::create(&path("upstream.key"), self.key_pem.as_bytes()).unwrap();
        let files = CertificateFiles { certificate: path("upstream.pem"), key: path("upstream.key") };
        Upstream::Files { files, root: None }
    }
}

fn params(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn bundle(scratch: &Scratch, root: CertificateDer<'static>) -> TrustBundle {
    TrustBundle::new(scratch.control.authority.trust_domain().clone(), [root]).unwrap()
}

/// Has the scratch's own authority see what another process has written.
async fn seen(scratch: &Scratch) {
    scratch.control.authorities.advance(&actor()).await.unwrap();
}

/// Certificates stand under this root, and a successor is needed in time.
async fn moved_under(scratch: &Scratch, corporate: &Corporate) -> String {
    let authorities = &scratch.control.authorities;
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let root = authorities.install(corporate.sign(scratch, &csr), None, None, &actor()).await.unwrap();
    authorities.activate(&root, &actor()).await.unwrap();
    root
}

#[tokio::test]
async fn an_operators_root_takes_the_place_of_our_own_whatever_process_takes_which_step() {
    let scratch = scratch().await;
    let (corporate, before) = (Corporate::new("corporate"), certificate(&scratch).await);
    let former = (*scratch.control.authority.bundle()).clone();
    let own = serial_of(&scratch, Kind::Root, State::Active).await;
    let first = after_a_crash(&scratch).await.request(false, &actor()).await.unwrap();
    let again = after_a_crash(&scratch).await.request(false, &actor()).await.unwrap();
    assert_eq!(again, first, "the same request until it is installed");
    assert_eq!(after_a_crash(&scratch).await.list().await.unwrap().1, 1, "nobody's trust has changed");

    let signed = corporate.sign(&scratch, &first.csr);
    let root = after_a_crash(&scratch).await.install(signed, None, None, &actor()).await.unwrap();
    let (views, version) = after_a_crash(&scratch).await.list().await.unwrap();
    assert_eq!(version, 2, "one commit");
    let prepared: Vec<_> = views.iter().filter(|view| view.state == State::Prepared).collect();
    assert_eq!(prepared.len(), 2);
    assert!(prepared.iter().any(|view| view.serial == root && view.is_upstream && view.kind == Kind::Root));
    seen(&scratch).await;
    assert_eq!(scratch.control.authority.bundle().roots().len(), 2);
    assert!(is_accepted(&scratch, &certificate(&scratch).await), "the former one signs still");

    after_a_crash(&scratch).await.activate(&root, &actor()).await.unwrap();
    seen(&scratch).await;
    let after = certificate(&scratch).await;
    assert!(is_accepted(&scratch, &before) && is_accepted(&scratch, &after));
    let now = scratch.clock.now();
    let by_corporate = bundle(&scratch, corporate.der());
    assert!(verify_svid(after.chain(), &by_corporate, now, Usage::Client).is_ok());
    // Whoever knows our former root alone still finds the control plane.
    let server = scratch.control.authority.server_chain().complete(&after).unwrap();
    assert!(verify_svid(server.chain(), &former, now, Usage::Server).is_ok());

    // The next issuing authority: the root is known by now.
    let csr = scratch.control.authorities.request(false, &actor()).await.unwrap().csr;
    assert_ne!(csr, first.csr, "another key");
    let signed = corporate.sign(&scratch, &csr)[..1].to_vec();
    let next = scratch.control.authorities.install(signed, None, None, &actor()).await.unwrap();
    scratch.control.authorities.activate(&next, &actor()).await.unwrap();
    let after = certificate(&scratch).await;
    assert_eq!(after.issuer_serial().unwrap().to_string(), next);
    let server = scratch.control.authority.server_chain().complete(&after).unwrap();
    assert!(verify_svid(server.chain(), &former, now, Usage::Server).is_ok());
    assert_eq!(
        scratch.control.authority.root_fingerprint(),
        by_corporate.roots()[0].fingerprint().to_string()
    );
    scratch.clock.advance(2 * DAY);
    while scratch.control.authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(scratch.control.authorities.get(&own).await.unwrap().state, State::Retired);
    assert!(is_accepted(&scratch, &certificate(&scratch).await));
}

#[tokio::test]
async fn what_will_not_do_changes_nothing() {
    let scratch = scratch().await;
    let (authorities, corporate) = (&scratch.control.authorities, Corporate::new("corporate"));
    let install = async |certificates, root| authorities.install(certificates, root, None, &actor()).await;
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let signed = corporate.sign(&scratch, &csr);
    let newer = authorities.request(true, &actor()).await.unwrap().csr;
    let refused = install(signed, None).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Unacceptable(UpstreamError::OtherKey)), "{refused}");
    let good = corporate.sign(&scratch, &newer);
    let stranger = Corporate::new("stranger").der();
    let refused = install(vec![good[0].clone(), stranger.clone()], None).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Unacceptable(UpstreamError::Gap { .. })), "{refused}");
    let refused = install(good.clone(), Some(stranger)).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::Unacceptable(UpstreamError::Gap { .. })), "{refused}");
    let own_serial = AuthorityCertificate::read(corporate.der()).unwrap().serial();
    let same = corporate.sign_as(own_serial, &scratch, &newer);
    let refused = install(same, None).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::SerialTaken(_)), "{refused}");
    assert_eq!(authorities.list().await.unwrap().1, 1);

    let root = install(good.clone(), None).await.unwrap();
    assert!(matches!(install(good, None).await, Err(LifecycleError::NoRequest)));
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let waits = install(corporate.sign(&scratch, &csr), None).await.unwrap_err();
    assert!(matches!(&waits, LifecycleError::Waits(serial) if *serial == root), "{waits}");
    let other = install(Corporate::new("other").sign(&scratch, &csr), None).await.unwrap_err();
    assert!(matches!(other, LifecycleError::Waits(_)), "one root at a time");
    // Taken away by hand, it makes room.
    authorities.revoke(&root, false, &actor()).await.unwrap();
    assert_eq!(scratch.control.authority.bundle().roots().len(), 1);
    assert_eq!(install(corporate.sign(&scratch, &csr), None).await.unwrap(), root, "and may come again");
    assert_eq!(scratch.control.authority.bundle().roots().len(), 2);

    // Once it was in use and is not believed any longer, it does not.
    authorities.activate(&root, &actor()).await.unwrap();
    let own = authorities.prepare_own_root(&actor()).await.unwrap();
    authorities.activate(&own, &actor()).await.unwrap();
    authorities.revoke(&root, false, &actor()).await.unwrap();
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let former = install(corporate.sign(&scratch, &csr), None).await.unwrap_err();
    assert!(matches!(former, LifecycleError::FormerRoot { .. }), "{former}");
    let former = install(vec![corporate.der()], None).await.unwrap_err();
    assert!(matches!(former, LifecycleError::FormerRoot { .. }), "{former}");
    install(Corporate::new("other").sign(&scratch, &csr), None).await.unwrap();
}

#[tokio::test]
async fn under_a_root_whose_key_is_elsewhere_somebody_is_told_in_time() {
    let scratch = scratch().await;
    let (authorities, corporate) = (&scratch.control.authorities, Corporate::new("corporate"));
    moved_under(&scratch, &corporate).await;
    let advance = async || while authorities.advance(&actor()).await.unwrap() {};
    assert_eq!(authorities.need().await.unwrap(), None);
    for kind in [Kind::Issuing, Kind::Root] {
        let refused = authorities.prepare(kind, true, &actor()).await.unwrap_err();
        let expected = matches!(refused, LifecycleError::Authority(AuthorityError::RootElsewhere(_)));
        assert!(expected && refused.to_string().contains("hauberk authority csr"), "{refused}");
    }
    let active = serial_of(&scratch, Kind::Issuing, State::Active).await;
    assert!(authorities.taint(&active, &actor()).await.is_err(), "nothing could sign then");

    scratch.clock.advance(61 * DAY);
    advance().await;
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.fix.contains("hauberk authority csr") && !need.is_urgent, "{need:?}");
    assert_eq!(scratch.control.metrics.authority_needed.get(), 1);
    scratch.clock.advance(23 * DAY);
    advance().await;
    assert!(authorities.need().await.unwrap().unwrap().is_urgent);
    // Installed late, it is active by itself once its revocation list is there.
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let next = authorities.install(corporate.sign(&scratch, &csr), None, None, &actor()).await.unwrap();
    assert_eq!(authorities.need().await.unwrap(), None);
    assert_eq!(scratch.control.metrics.authority_needed.get(), 0);
    scratch.clock.advance(Duration::from_secs(1));
    advance().await;
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, next);
    // With one that waits, what may be in other hands is replaced at once.
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let last = authorities.install(corporate.sign(&scratch, &csr), None, None, &actor()).await.unwrap();
    authorities.taint(&next, &actor()).await.unwrap();
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, last);
}

#[tokio::test]
async fn from_one_root_of_somebody_elses_to_the_next_whoever_knows_the_former_has_a_day_to_learn() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let (corporate, next) = (Corporate::new("corporate"), Corporate::new("next"));
    moved_under(&scratch, &corporate).await;
    let advance = async || while authorities.advance(&actor()).await.unwrap() {};
    scratch.clock.advance(2 * DAY);
    advance().await;
    // Announced early, everybody trusts it before anything stands under it, and nothing can be activated.
    let announced = authorities.install(vec![next.der()], None, None, &actor()).await.unwrap();
    assert_eq!(authorities.install(vec![next.der()], None, None, &actor()).await.unwrap(), announced);
    assert_eq!(scratch.control.authority.bundle().roots().len(), 2);
    let refused = authorities.activate(&announced, &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::NothingUnder(_)), "{refused}");
    advance().await;
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let signed = next.sign(&scratch, &csr)[..1].to_vec();
    assert_eq!(authorities.install(signed, None, None, &actor()).await.unwrap(), announced);

    // By itself it waits until whoever knows the former root alone cannot be there any longer; by hand it need not.
    let going = after_a_crash(&scratch).await;
    assert_eq!(going.prepare(Kind::Root, true, &actor()).await.unwrap(), announced);
    advance().await;
    assert_eq!(authorities.get(&announced).await.unwrap().state, State::Prepared);
    scratch.clock.advance(DAY + DAY / 24);
    advance().await;
    assert_eq!(authorities.get(&announced).await.unwrap().state, State::Active);
    let after = certificate(&scratch).await;
    assert!(
        verify_svid(after.chain(), &bundle(&scratch, next.der()), scratch.clock.now(), Usage::Client).is_ok()
    );
    let own = scratch.control.authority.server_chain().complete(&after).unwrap();
    assert_eq!(own.chain()[after.chain().len()..], [next.der()], "nothing by the former root's key");

    // And back to a root of our own.
    let own = authorities.prepare_own_root(&actor()).await.unwrap();
    authorities.activate(&own, &actor()).await.unwrap();
    assert!(is_accepted(&scratch, &after) && is_accepted(&scratch, &certificate(&scratch).await));
    assert!(authorities.prepare(Kind::Issuing, false, &actor()).await.is_ok(), "signed here again");
}

#[tokio::test]
async fn the_end_of_an_intermediate_above_is_told_in_time_with_what_helps() {
    let scratch = scratch().await;
    let (authorities, corporate) = (&scratch.control.authorities, Corporate::new("corporate"));
    let ends = scratch.clock.now().plus(80 * DAY);
    let intermediate = corporate.intermediate("intermediate", ends);
    moved_under(&scratch, &intermediate).await;
    let advance = async || while authorities.advance(&actor()).await.unwrap() {};
    let needed = &scratch.control.metrics.authority_needed;
    scratch.clock.advance(45 * DAY);
    advance().await;
    assert_eq!((authorities.need().await.unwrap(), needed.get()), (None, 0));
    scratch.clock.advance(6 * DAY);
    advance().await;
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.what.starts_with("the issuing authority ends at ") && !need.is_urgent, "{need:?}");
    assert!(need.what.contains("; and the intermediate certificate "), "{need:?}");

    // A successor under the same intermediate does not help for long.
    let install = async |by: &Corporate| {
        let csr = authorities.request(false, &actor()).await.unwrap().csr;
        authorities.install(by.sign(&scratch, &csr), None, None, &actor()).await.unwrap()
    };
    let waiting = install(&intermediate).await;
    advance().await;
    assert_eq!(needed.get(), 1);
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.what.starts_with("the intermediate certificate ") && !need.is_urgent, "{need:?}");
    assert!(need.fix.contains(&format!("`hauberk authority activate {waiting}`, then ")), "{need:?}");
    assert!(need.fix.contains("`hauberk authority csr ") && need.fix.contains(" install "), "{need:?}");
    scratch.clock.advance(23 * DAY);
    advance().await;
    assert_eq!(serial_of(&scratch, Kind::Issuing, State::Active).await, waiting);
    assert!(authorities.need().await.unwrap().unwrap().is_urgent);
    // One under another intermediate does.
    let next = install(&corporate.intermediate("next", ends.plus(100 * DAY))).await;
    advance().await;
    assert_eq!((authorities.need().await.unwrap(), needed.get()), (None, 0));
    assert_eq!(authorities.get(&next).await.unwrap().state, State::Prepared);
}

#[tokio::test]
async fn the_end_of_an_intermediate_in_files_is_told_and_another_in_its_place_is_signed_with() {
    let scratch = scratch().await;
    let (folder, corporate) = (tempfile::tempdir().unwrap(), Corporate::new("corporate"));
    let ends = scratch.clock.now().plus(80 * DAY);
    let upstream = corporate.intermediate("intermediate", ends).files(folder.path());
    let instances = Arc::clone(&scratch.control.instances);
    let authorities = after_a_crash_with(&scratch, Some(upstream), instances).await;
    let advance = async || while authorities.advance(&actor()).await.unwrap() {};
    let needed = &scratch.control.metrics.authority_needed;
    advance().await;
    assert_eq!((authorities.need().await.unwrap(), needed.get()), (None, 0));
    scratch.clock.advance(51 * DAY);
    advance().await;
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.what.starts_with("the intermediate certificate ") && !need.is_urgent, "{need:?}");
    assert!(need.fix.contains("--upstream-certificate"), "{need:?}");
    assert_eq!(needed.get(), 1);
    scratch.clock.advance(23 * DAY);
    assert!(authorities.need().await.unwrap().unwrap().is_urgent);

    corporate.intermediate("next", ends.plus(100 * DAY)).files(folder.path());
    advance().await;
    assert_eq!((authorities.need().await.unwrap(), needed.get()), (None, 0));
    scratch.clock.advance(5 * DAY);
    advance().await;
    let active = serial_of(&scratch, Kind::Issuing, State::Active).await;
    assert!(authorities.get(&active).await.unwrap().not_after > ends);
}

#[tokio::test]
async fn an_authority_in_files_signs_by_itself_and_another_in_its_place_is_moved_to() {
    let scratch = scratch().await;
    let folder = tempfile::tempdir().unwrap();
    let (corporate, next) = (Corporate::new("corporate"), Corporate::new("next"));
    let with_files = async |of: &Corporate| {
        let upstream = of.files(folder.path());
        after_a_crash_with(&scratch, Some(upstream), Arc::clone(&scratch.control.instances)).await
    };
    let authorities = with_files(&corporate).await;
    while authorities.advance(&actor()).await.unwrap() {}
    scratch.clock.advance(Duration::from_secs(1));
    while authorities.advance(&actor()).await.unwrap() {}
    let first = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let root = serial_of(&scratch, Kind::Root, State::Active).await;
    assert!(authorities.get(&root).await.unwrap().is_upstream);
    assert!(matches!(
        authorities.prepare(Kind::Root, true, &actor()).await,
        Err(LifecycleError::SameRoot(serial)) if serial == root
    ));
    assert!(matches!(authorities.prepare_own_root(&actor()).await, Err(LifecycleError::UpstreamIsSet)));

    // Two who ask at once have one signed.
    let ask = async || authorities.prepare(Kind::Issuing, false, &actor()).await;
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!(one.unwrap(), other.unwrap());

    // Its successor comes by itself, without anybody's hand.
    scratch.clock.advance(84 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    let second = serial_of(&scratch, Kind::Issuing, State::Active).await;
    assert_ne!(second, first);
    // What may be in other hands too.
    authorities.taint(&second, &actor()).await.unwrap();
    let third = serial_of(&scratch, Kind::Issuing, State::Active).await;
    assert_ne!(third, second);

    // A key that everybody can read signs nothing; what is active goes on, and it is said.
    let key = folder.path().join("upstream.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    scratch.clock.advance(61 * DAY);
    let refused = loop {
        match authorities.advance(&actor()).await {
            Ok(goes_on) => assert!(goes_on, "a refusal was expected"),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, LifecycleError::Upstream(UpstreamFault::Exposed { .. })), "{refused}");
    // It is not asked again at once, and holds up nothing else that is due.
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(authorities.get(&first).await.map(|view| view.state).ok(), None, "long forgotten");
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.what.contains("upstream.key has mode 0644"), "{need:?}");
    assert_eq!(scratch.control.metrics.authority_needed.get(), 1);

    // Another authority in the same files: its root is prepared, and becomes active once it is known.
    drop(authorities);
    let authorities = with_files(&next).await;
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(authorities.need().await.unwrap(), None);
    let moving = serial_of(&scratch, Kind::Root, State::Prepared).await;
    scratch.clock.advance(24 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(serial_of(&scratch, Kind::Root, State::Active).await, moving);
    seen(&scratch).await;
    let svid = certificate(&scratch).await;
    assert!(
        verify_svid(svid.chain(), &bundle(&scratch, next.der()), scratch.clock.now(), Usage::Client).is_ok()
    );
}

#[tokio::test]
async fn what_is_signed_for_another_control_plane_is_known_by_name_and_can_be_taken_back() {
    let scratch = scratch().await;
    let (authorities, authority) = (&scratch.control.authorities, &scratch.control.authority);
    let (key, csr) = request();
    let [certificate, root] = authorities.sign(&csr, &actor()).await.unwrap();
    let again = authorities.sign(&csr, &actor()).await.unwrap();
    assert_eq!(again, [certificate.clone(), root.clone()], "the same for the same key");
    let domain: TrustDomain = authority.trust_domain().clone();
    let given = [certificate.clone(), root.clone()];
    let chain =
        hauberk_tls::UpstreamChain::find(&domain, &key.public_key(), &given, None, &[], scratch.clock.now());
    let now = scratch.clock.now();
    let issuing =
        hauberk_tls::IssuingAuthority::adopt(&chain.unwrap(), key, Vec::new(), Vec::new(), now).unwrap();
    let id = SpiffeId::node(&domain, &Name::parse("other").unwrap(), &Name::parse("web").unwrap());
    let theirs = issuing
        .sign(&hauberk_tls::SvidTemplate {
            id,
            public_key: KeyPair::generate().unwrap().public_key(),
            serial: random::serial().unwrap(),
            validity: Validity::new(now, now.plus(9 * DAY)).unwrap(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        })
        .unwrap();
    assert!(is_accepted(&scratch, &theirs), "one trust domain");
    let serial = serial_of(&scratch, Kind::Issuing, State::Delegated).await;
    assert_eq!(authorities.get(&serial).await.unwrap().delegate, actor().name);
    assert!(authority.trust().borrow().renew_issuers.is_empty(), "nobody of ours is concerned");

    // As long as it signs there, its root is trusted here.
    let root = authorities.prepare(Kind::Root, true, &actor()).await.unwrap();
    scratch.clock.advance(Duration::from_secs(1));
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(authorities.get(&root).await.unwrap().state, State::Active);
    scratch.clock.advance(3 * DAY);
    while authorities.advance(&actor()).await.unwrap() {}
    let former = serial_of(&scratch, Kind::Root, State::Retiring).await;
    for resting in [&serial, &former] {
        let refused = authorities.revoke(resting, false, &actor()).await.unwrap_err();
        let names =
            matches!(&refused, LifecycleError::StillDelegated { serial: named, .. } if *named == serial);
        assert!(names && is_accepted(&scratch, &theirs), "{refused}");
    }
    authorities.revoke(&serial, true, &actor()).await.unwrap();
    let refused = authorities.sign(&csr, &actor()).await.unwrap_err();
    assert!(matches!(&refused, LifecycleError::KeyUsed { serial: used, .. } if *used == serial), "{refused}");
    assert!(!is_accepted(&scratch, &theirs));
    assert_eq!(authority.trust().borrow().distrusted_keys.len(), 1);
    while authorities.advance(&actor()).await.unwrap() {}
    assert_eq!(authorities.get(&former).await.unwrap().state, State::Retired);

    // Nobody fills the registry with them.
    let refused = loop {
        if let Err(refused) = authorities.sign(&request().1, &actor()).await {
            break refused;
        }
    };
    assert!(matches!(refused, LifecycleError::TooOften { .. }), "{refused}");
    for number in 0.. {
        let somebody = Actor { name: format!("admin {number}"), ..actor() };
        match authorities.sign(&request().1, &somebody).await {
            Ok(_) => assert!(number < 40),
            Err(LifecycleError::TooManyDelegated(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(matches!(authorities.sign(b"junk", &actor()).await, Err(LifecycleError::Request(_))));
}

#[tokio::test]
async fn what_is_signed_for_another_control_plane_is_not_cut_off_by_being_tainted() {
    for of_root in [false, true] {
        let scratch = scratch().await;
        let authorities = &scratch.control.authorities;
        authorities.sign(&request().1, &actor()).await.unwrap();
        let theirs = serial_of(&scratch, Kind::Issuing, State::Delegated).await;
        let root = serial_of(&scratch, Kind::Root, State::Active).await;
        authorities.prepare(Kind::Root, true, &actor()).await.unwrap();
        scratch.clock.advance(Duration::from_secs(1));
        while authorities.advance(&actor()).await.unwrap() {}
        authorities.taint(if of_root { &root } else { &theirs }, &actor()).await.unwrap();
        assert_eq!(authorities.get(&theirs).await.unwrap().state, State::Tainted);
        let is_refused = async || {
            for resting in [&theirs, &root] {
                let refused = authorities.revoke(resting, false, &actor()).await.unwrap_err();
                let names =
                    matches!(&refused, LifecycleError::StillDelegated { serial, .. } if *serial == theirs);
                assert!(names, "{refused}");
            }
        };
        is_refused().await;
        // Nor by itself, a day later.
        scratch.clock.advance(2 * DAY);
        while authorities.advance(&actor()).await.unwrap() {}
        is_refused().await;
        let right = scratch.clock.now();
        scratch.clock.set(right.plus(91 * DAY));
        // It has ended by a clock that nobody believes yet: when that is, and what helps until then, is told.
        for resting in [&theirs, &root] {
            let refused = authorities.revoke(resting, false, &actor()).await.unwrap_err();
            let LifecycleError::MaybeDelegated { serial, believed_in, .. } = &refused else {
                panic!("{refused}")
            };
            assert_eq!((serial, *believed_in), (&theirs, 25 * DAY / 24));
            let told = refused.to_string();
            assert!(
                told.contains("is believed in 1500 minutes") && told.contains("now with --now"),
                "{told}"
            );
        }
        scratch.clock.set(right);
        scratch.clock.advance(88 * DAY);
        while authorities.advance(&actor()).await.unwrap() {}
        assert_eq!(
            authorities.get(&theirs).await.unwrap().state,
            State::Retired,
            "its certificate has expired"
        );
        assert_eq!(authorities.get(&root).await.unwrap().state, State::Retired);
    }
}

#[tokio::test]
async fn whom_another_hauberk_trusts_is_trusted_here_before_anything_stands_under_it() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let (one, two) = (Corporate::new("one"), Corporate::new("two"));
    let fingerprint = |of: &Corporate| hauberk_tls::Fingerprint::of(&of.der());
    let follow = async |theirs: &[&Corporate], active: &Corporate| {
        let theirs: Vec<_> = theirs.iter().map(|root| root.der()).collect();
        authorities.follow(&theirs, fingerprint(active), &[], &actor()).await
    };
    let trusts = |root: &Corporate| scratch.control.authority.bundle().root(fingerprint(root)).is_some();
    follow(&[&one], &one).await.unwrap();
    assert!(trusts(&one));
    let version = authorities.list().await.unwrap().1;
    follow(&[&one], &one).await.unwrap();
    assert_eq!(authorities.list().await.unwrap().1, version, "nothing to do, nothing done");
    moved_under(&scratch, &one).await;

    follow(&[&one, &two], &one).await.unwrap();
    assert!(trusts(&one) && trusts(&two));
    // One that is taken back before it was ever used goes here too, and may come again.
    follow(&[&one], &one).await.unwrap();
    assert!(!trusts(&two));
    follow(&[&one, &two], &one).await.unwrap();
    assert!(trusts(&two));
    // The active one is kept although it is gone there: everything here rests on it.
    follow(&[&two], &two).await.unwrap();
    assert!(trusts(&one) && trusts(&two));
    assert_eq!(scratch.control.metrics.authority_needed.get(), 1, "and somebody has to sign");
}

#[tokio::test]
async fn what_another_hauberk_has_taken_back_signs_here_no_longer() {
    let scratch = scratch().await;
    let folder = tempfile::tempdir().unwrap();
    let corporate = Corporate::new("corporate");
    let upstream = Some(corporate.files(folder.path()));
    let authorities = after_a_crash_with(&scratch, upstream, Arc::clone(&scratch.control.instances)).await;
    while authorities.advance(&actor()).await.unwrap() {}
    scratch.clock.advance(Duration::from_secs(1));
    while authorities.advance(&actor()).await.unwrap() {}
    let first = serial_of(&scratch, Kind::Issuing, State::Active).await;
    let active = hauberk_tls::Fingerprint::of(&corporate.der());
    let follow = async |renew: &[String]| {
        authorities.follow(&[corporate.der()], active, renew, &actor()).await.unwrap();
    };
    let waiting = authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
    follow(&["0a".to_owned()]).await;
    assert_eq!(authorities.need().await.unwrap(), None, "none of ours");
    assert!(!authorities.get(&waiting).await.unwrap().goes_on);

    // What waits was taken back too: it does not follow.
    let renew = [first.clone(), waiting.clone()];
    follow(&renew).await;
    let need = authorities.need().await.unwrap().unwrap();
    assert!(need.is_urgent && need.what.contains(&first), "{need:?}");
    scratch.clock.advance(Duration::from_secs(1));
    while authorities.advance(&actor()).await.unwrap() {}
    let next = serial_of(&scratch, Kind::Issuing, State::Active).await;
    assert!(!renew.contains(&next));
    assert_eq!(authorities.get(&waiting).await.unwrap().state, State::Retired);
    assert_eq!(authorities.need().await.unwrap(), None);
    let version = authorities.list().await.unwrap().1;
    follow(&renew).await;
    assert_eq!(authorities.list().await.unwrap().1, version, "nothing to do, nothing done");
}

#[tokio::test]
async fn where_somebody_else_signs_a_successor_that_is_not_valid_now_is_named_before_anything_is_tainted() {
    for by_itself in [false, true] {
        let (scratch, folder) = (scratch().await, tempfile::tempdir().unwrap());
        let corporate = Corporate::new("corporate");
        moved_under(&scratch, &corporate).await;
        let upstream = by_itself.then(|| corporate.files(folder.path()));
        let instances = Arc::clone(&scratch.control.instances);
        let authorities = after_a_crash_with(&scratch, upstream, instances).await;
        let prepare = async || {
            if by_itself {
                return authorities.prepare(Kind::Issuing, false, &actor()).await.unwrap();
            }
            let csr = authorities.request(false, &actor()).await.unwrap().csr;
            authorities.install(corporate.sign(&scratch, &csr), None, None, &actor()).await.unwrap()
        };
        let active = serial_of(&scratch, Kind::Issuing, State::Active).await;
        let right = scratch.clock.now();
        scratch.clock.set(right.plus(80 * DAY));
        let waiting = prepare().await;
        scratch.clock.set(right);
        let refused = authorities.taint(&active, &actor()).await.unwrap_err();
        let LifecycleError::NotValidNow { serial, .. } = &refused else { panic!("{refused}") };
        let ends = authorities.get(&waiting).await.unwrap().not_after;
        let told = refused.to_string();
        assert!(*serial == waiting && told.contains(&format!(" to {ends}, and it is {right}: ")), "{told}");
        assert_eq!(authorities.get(&active).await.unwrap().state, State::Active);

        // As it says.
        authorities.revoke(&waiting, false, &actor()).await.unwrap();
        if !by_itself {
            prepare().await;
        }
        authorities.taint(&active, &actor()).await.unwrap();
        assert_eq!(authorities.get(&active).await.unwrap().state, State::Tainted);
    }
}

#[tokio::test]
async fn lists_cover_the_members_under_a_root_that_is_said_to_be_exclusive() {
    let scratch = scratch().await;
    let (authorities, corporate) = (&scratch.control.authorities, Corporate::new("corporate"));
    let covered = async || {
        let issuers = authorities.list_issuers().await.unwrap();
        (issuers.is_complete, issuers.covers_leaves)
    };
    assert_eq!(covered().await, (true, true), "nothing is somebody else's");
    let own = serial_of(&scratch, Kind::Root, State::Active).await;
    let ours = scratch.control.authority.root().unwrap().der().clone();
    let refused = authorities.install(vec![ours], None, Some(true), &actor()).await.unwrap_err();
    assert!(matches!(&refused, LifecycleError::OwnRoot(serial) if *serial == own), "{refused}");
    let root = moved_under(&scratch, &corporate).await;
    assert_eq!(covered().await, (false, false), "others may sign under it");
    let said = async || authorities.get(&root).await.unwrap().is_exclusive;
    for exclusive in [true, false, true] {
        let version = scratch.control.authority.version();
        for _ in 0..2 {
            authorities.install(vec![corporate.der()], None, Some(exclusive), &actor()).await.unwrap();
            assert_eq!((said().await, covered().await), (exclusive, (false, exclusive)));
        }
        assert_eq!(scratch.control.authority.version(), version + 1, "who keeps lists is woken, once");
    }
    // What is said once stands, also when the next is signed under the same root or nothing is said of it.
    authorities.install(vec![corporate.der()], None, None, &actor()).await.unwrap();
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let next = corporate.sign(&scratch, &csr);
    authorities.install(next, None, None, &actor()).await.unwrap();
    assert_eq!(covered().await, (false, true));

    // Another root, of which nothing is said, may vouch for others.
    let other = Corporate::new("other").der();
    let announced = authorities.install(vec![other], None, None, &actor()).await.unwrap();
    assert_eq!(covered().await, (false, false));
    authorities.revoke(&announced, false, &actor()).await.unwrap();
    assert_eq!(covered().await, (false, true));
    // It may be said as it is installed.
    let csr = authorities.request(true, &actor()).await.unwrap().csr;
    let third = Corporate::new("third");
    let third = authorities.install(third.sign(&scratch, &csr), None, Some(true), &actor()).await.unwrap();
    assert!(authorities.get(&third).await.unwrap().is_exclusive);
    assert_eq!(covered().await, (false, true));
}

#[tokio::test]
async fn of_a_root_that_is_trusted_it_is_said_though_it_has_ended() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let (key, mut params) = (rcgen::KeyPair::generate().unwrap(), params("other"));
    let ends = scratch.clock.now().plus(400 * DAY);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(ends.0);
    let other = params.self_signed(&key).unwrap().der().clone();
    let announced = authorities.install(vec![other.clone()], None, Some(true), &actor()).await.unwrap();
    scratch.clock.advance(500 * DAY);
    let said = authorities.install(vec![other], None, Some(false), &actor()).await.unwrap();
    assert_eq!((&said, authorities.get(&announced).await.unwrap().is_exclusive), (&announced, false));
}

#[tokio::test]
async fn of_an_intermediate_that_everybody_trusts_it_is_said_without_a_new_authority() {
    let scratch = scratch().await;
    let (authorities, corporate) = (&scratch.control.authorities, Corporate::new("corporate"));
    let intermediate = corporate.intermediate("intermediate", scratch.clock.now().plus(400 * DAY));
    let trusted = intermediate.der();
    let csr = authorities.request(false, &actor()).await.unwrap().csr;
    let signed = intermediate.sign(&scratch, &csr);
    let root = authorities.install(signed, Some(trusted.clone()), None, &actor()).await.unwrap();
    for exclusive in [true, false] {
        let given = vec![trusted.clone()];
        let said =
            authorities.install(given, Some(trusted.clone()), Some(exclusive), &actor()).await.unwrap();
        assert_eq!((&said, authorities.get(&root).await.unwrap().is_exclusive), (&root, exclusive));
        assert_eq!(authorities.list_issuers().await.unwrap().covers_leaves, exclusive);
    }
    // Alone it is no root.
    let refused = authorities.install(vec![trusted], None, Some(true), &actor()).await.unwrap_err();
    assert!(matches!(refused, LifecycleError::NoRequest), "{refused}");
}

#[tokio::test]
async fn of_those_signed_for_others_the_one_that_signs_longest_is_named() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    let mut signed = Vec::new();
    for _ in 0..6 {
        let [certificate, _] = authorities.sign(&request().1, &actor()).await.unwrap();
        signed.push(AuthorityCertificate::read(certificate).unwrap());
        scratch.clock.advance(2 * DAY);
    }
    let root = serial_of(&scratch, Kind::Root, State::Active).await;
    authorities.prepare(Kind::Root, true, &actor()).await.unwrap();
    scratch.clock.advance(Duration::from_secs(1));
    while authorities.advance(&actor()).await.unwrap() {}
    // By a clock that nobody believes yet all but the last have ended.
    scratch.clock.set(signed[4].validity().not_after().plus(Duration::from_secs(1)));
    let refused = authorities.revoke(&root, false, &actor()).await.unwrap_err();
    let last = signed[5].serial().to_string();
    assert!(
        matches!(&refused, LifecycleError::StillDelegated { serial, .. } if *serial == last),
        "{refused}"
    );
}

#[tokio::test]
async fn nor_do_they_where_another_control_plane_signs_members() {
    let scratch = scratch().await;
    let authorities = &scratch.control.authorities;
    authorities.sign(&request().1, &actor()).await.unwrap();
    let issuers = authorities.list_issuers().await.unwrap();
    assert!(!issuers.is_complete && !issuers.covers_leaves);
}

/// As tools issue them that renew what they have issued every few minutes. The control plane has just been started:
/// what has surely passed it does not know for an hour.
#[tokio::test]
async fn under_authorities_of_minutes_there_is_always_one_that_signs() {
    let scratch = scratch().await;
    let (folder, corporate) = (tempfile::tempdir().unwrap(), Corporate::new("corporate"));
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let renewed =
        || corporate.intermediate("short", scratch.clock.now().plus(minutes(20))).files(folder.path());
    let instances = Arc::clone(&scratch.control.instances);
    let authorities = after_a_crash_with(&scratch, Some(renewed()), instances).await;
    let settle = async || while authorities.advance(&actor()).await.unwrap() {};
    for _ in 0..2 {
        settle().await;
        scratch.clock.advance(Duration::from_secs(1));
    }
    let mut signers = std::collections::BTreeSet::new();
    for round in 1..=180 {
        scratch.clock.advance(Duration::from_secs(30));
        if round % 10 == 0 {
            renewed();
        }
        settle().await;
        seen(&scratch).await;
        let now = scratch.clock.now();
        assert_eq!(scratch.control.authority.cannot_sign(now), None, "round {round}");
        let svid = certificate(&scratch).await;
        let left = svid.validity().remaining(now);
        assert!(is_accepted(&scratch, &svid) && left > minutes(1), "round {round}: {left:?} left");
        signers.insert(svid.issuer_serial().unwrap());
    }
    assert!(signers.len() > 4, "{signers:?}");
}
