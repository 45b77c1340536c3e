use std::sync::Arc;

use hauberk_identity::{InstanceId, Name, NodeName, Serial, TrustDomain};

use super::*;
use crate::compile::{CompileFinding, CompiledView, Unmade, heavy_patterns};
use crate::federation::{Failing, Hindrance};
use crate::instances::{HelloFacts, IssuedTo, Refusal};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn spiffe_id() -> SpiffeId {
    SpiffeId::parse("spiffe://shop.local/mesh/shop/node/orders").unwrap()
}

fn instance() -> InstanceId {
    InstanceId::from_random([1; 8])
}

fn report() -> Report {
    let certificate = IssuedTo {
        serial: Serial::from_random([1; 16]),
        issued_at: Some(NOW),
        not_after: NOW.plus(Duration::from_secs(3_600)),
    };
    Report {
        id: instance(),
        spiffe_id: spiffe_id(),
        mesh: Name::parse("shop").unwrap(),
        node: NodeName::parse("orders").unwrap(),
        node_uid: None,
        token: None,
        certificate,
        connected_since: Some(NOW),
        last_seen: Some(NOW),
        address: None,
        hello: Some(HelloFacts::default()),
        in_force: None,
        refusal: None,
        registration_refused: None,
        denial: None,
    }
}

fn valid_for(from: UnixMillis, days: u32) -> Option<Validity> {
    Some(Validity::new(from, from.plus(days * DAY)).unwrap())
}

fn view(audit_ports: Vec<u16>) -> Arc<CompiledView> {
    Arc::new(CompiledView {
        revision: 1,
        digest: [0; 32],
        signed: hauberk_proto::agent::v1::SignedView::default(),
        features: Vec::new(),
        mesh: Name::parse("shop").unwrap(),
        uid: String::new(),
        backends: Vec::new(),
        targets: Vec::new(),
        audit_ports,
    })
}

struct World {
    now: UnixMillis,
    condition: Condition,
    certificates: Certificates,
    need: Option<Need>,
    clock_ahead: Option<Duration>,
    compilation: Compilation,
    catalog: Catalog,
    rollout: Rollout,
    reports: Vec<Report>,
    followed: Vec<Followed>,
    issuers: Vec<FollowedIssuer>,
    own_keys: JwtBundle,
    lists: Trouble,
    is_denylist_unreadable: bool,
}

impl World {
    fn healthy() -> Self {
        let certificates = Certificates {
            root: valid_for(NOW, 3_650),
            issuing: valid_for(NOW, 90),
            server: valid_for(NOW, 1),
        };
        Self {
            now: NOW,
            condition: Condition::Writable,
            certificates,
            need: None,
            clock_ahead: None,
            compilation: Compilation::default(),
            catalog: Catalog::default(),
            rollout: Rollout {
                revision: 1,
                concerned: 1,
                laggards: Vec::new(),
                compiled: true,
                denies_all: true,
            },
            reports: vec![report()],
            followed: Vec::new(),
            issuers: Vec::new(),
            own_keys: JwtBundle::new(TrustDomain::parse("shop.local").unwrap(), []).unwrap(),
            lists: Trouble::default(),
            is_denylist_unreadable: false,
        }
    }

    fn findings(&self) -> Vec<Finding> {
        collect(&Facts {
            now: self.now,
            condition: &self.condition,
            cannot_sign: None,
            is_denylist_unreadable: self.is_denylist_unreadable,
            clock_ahead: self.clock_ahead,
            certificates: &self.certificates,
            need: self.need.as_ref(),
            lists: &self.lists,
            compilation: &self.compilation,
            catalog: &self.catalog,
            heavy: &heavy_patterns(self.own_keys.trust_domain(), &self.catalog),
            detours: &ToldDetours::of(&self.catalog),
            idle: &ToldIdle::of(&self.catalog),
            rollout: &self.rollout,
            reports: &self.reports,
            followed: &self.followed,
            issuers: &self.issuers,
            own_keys: &self.own_keys,
            tokens: &[],
        })
    }

    fn summaries(&self) -> Vec<String> {
        self.findings().into_iter().map(|finding| finding.summary).collect()
    }
}

fn laggard_with(lag: Lag) -> Laggard {
    Laggard { instance: instance(), spiffe_id: spiffe_id(), lag, certificate_not_after: NOW, in_force: None }
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(World::healthy().findings(), []);
}

#[test]
fn certificates_are_told_of_before_they_expire() {
    let mut world = World::healthy();
    world.now = NOW.plus(85 * DAY);
    world.certificates.server = valid_for(world.now, 1);
    world.reports.clear();
    assert_eq!(world.summaries(), ["the issuing authority's certificate expires at 2027-04-15T08:00:00Z"]);
    world.now = NOW.plus(91 * DAY);
    world.certificates.server = valid_for(world.now.minus(DAY * 5 / 6), 1);
    let findings = world.findings();
    assert_eq!(findings[0].severity(), Severity::Error);
    assert_eq!(findings[0].summary, "the issuing authority's certificate expired at 2027-04-15T08:00:00Z");
    assert!(findings[1].summary.starts_with("the control plane's own certificate expires at"));
}

#[test]
fn revocation_lists_that_are_lacking_are_told_of() {
    let mut world = World::healthy();
    world.lists.unsigned = Some("0a1b: the token is away".to_owned());
    let unsigned = "the revocation list of an authority cannot be signed: 0a1b: the token is away".to_owned();
    assert_eq!(world.summaries(), std::slice::from_ref(&unsigned));
    world.lists.overdue = vec![(Serial::from_random([1; 16]), NOW)];
    let findings = world.findings();
    assert!(findings[1].summary.ends_with("should have been followed by another at 2027-01-15T08:00:00Z"));
    assert_eq!(findings[1].severity(), Severity::Error);
    world.lists.overdue.clear();
    world.lists.is_held_up = true;
    world.lists.incomplete_since = Some(NOW);
    let findings = world.findings();
    assert_eq!(findings[0].summary, unsigned + "; no list is published before it is");
    assert_eq!(findings[0].severity(), Severity::Error);
    let incomplete = "since 2027-01-15T08:00:00Z Envoys are given no revocation lists: an authority of somebody else's is believed";
    assert_eq!((&*findings[1].summary, findings[1].severity()), (incomplete, Severity::Warning));
    assert!(findings[1].fix.contains("hauberk authority install ROOT --exclusive"), "{}", findings[1].fix);
    world.lists.covers_leaves = true;
    let of_members = &world.findings()[1];
    assert!(of_members.summary.contains("Envoys that ask for the roots of ALL"), "{}", of_members.summary);
    assert!(of_members.fix.contains("ROOTCA"), "{}", of_members.fix);
}

#[test]
fn a_denylist_that_cannot_be_made_is_told_of() {
    let mut world = World::healthy();
    world.is_denylist_unreadable = true;
    let findings = world.findings();
    assert_eq!(findings[0].severity(), Severity::Error);
    assert!(
        findings[0]
            .summary
            .starts_with("the denylist cannot be made anew: what was revoked or put in quarantine since")
    );
}

#[test]
fn a_full_disk_takes_no_restart_and_a_broken_one_does() {
    let mut world = World::healthy();
    for (condition, restart) in
        [(Condition::Full("full".into()), false), (Condition::Broken("broken".into()), true)]
    {
        world.condition = condition;
        let findings = world.findings();
        assert_eq!(findings[0].fix.contains("then restart"), restart, "{}", findings[0].fix);
    }
}

#[test]
fn errors_come_first() {
    let mut world = World::healthy();
    world.reports[0].hello = Some(HelloFacts { clock_skew_ms: -45_000, ..HelloFacts::default() });
    world.condition = Condition::Full("the disk is full".into());
    let refusal = Refusal { service: None, revision: 3, reason: "invalid".into(), detail: String::new() };
    world.rollout.laggards = vec![laggard_with(Lag::NotConnected), laggard_with(Lag::Refused(refusal))];
    world.compilation.findings = Arc::new([CompileFinding {
        mesh: Name::parse("shop").unwrap(),
        unmade: Unmade::All,
        summary: "the view of orders cannot be made".into(),
        fix: "apply it again".into(),
    }]);
    let of_instance = format!("instance {} of {}", instance(), spiffe_id());
    assert_eq!(
        world.summaries(),
        [
            "the registry takes no writes: the disk is full".to_owned(),
            "mesh shop: the view of orders cannot be made; the former view stays in force".to_owned(),
            format!("{of_instance}: refused revision 3: invalid"),
            format!("{of_instance}: not connected"),
            format!("the clock of {} is 45 s behind", &of_instance),
        ]
    );
    assert!(world.findings().iter().all(|finding| !finding.fix.is_empty()));
}

#[test]
fn an_agent_that_lacks_what_its_view_needs_is_to_be_updated() {
    let mut world = World::healthy();
    let reason = "missing_feature".to_owned();
    let refusal = Refusal { service: None, revision: 3, reason, detail: "it lacks named-ports-1".into() };
    world.rollout.laggards = vec![laggard_with(Lag::Refused(refusal))];
    let findings = world.findings();
    assert!(findings[0].summary.ends_with("missing_feature (it lacks named-ports-1)"), "{findings:?}");
    assert!(findings[0].fix.starts_with("update its agent"), "{findings:?}");
}

#[test]
fn late_renewal_and_bad_registration_are_of_live_instances() {
    let mut world = World::healthy();
    world.reports[0].registration_refused = Some("ports[0].address: not of the form IP:port".into());
    world.now = NOW.plus(Duration::from_secs(2_701));
    assert_eq!(world.findings().len(), 2);
    world.now = NOW.plus(Duration::from_secs(3_601));
    assert_eq!(world.summaries(), [""; 0]);
}

#[test]
fn every_listener_in_audit_is_told_up_to_a_limit() {
    let mut world = World::healthy();
    world.compilation.nodes.insert(spiffe_id(), view((1..=60).collect()));
    let summaries = world.summaries();
    assert_eq!(summaries.len(), 51);
    assert!(summaries[0].starts_with("port 1 of spiffe://shop.local/mesh/shop/node/orders lets through"));
    assert_eq!(summaries[50], "10 more listeners are in AUDIT");
    assert!(world.findings()[50].fix.starts_with("permit what is needed"), "instances are others");
}

#[test]
fn a_token_that_has_made_a_crowd_is_told_with_what_to_do() {
    let mut world = World::healthy();
    let token = Some("0123456789ab".to_owned());
    world.reports = vec![Report { token: token.clone(), ..report() }; MANY_BY_TOKEN - 1];
    assert_eq!(world.summaries(), [""; 0]);
    world.reports.push(Report {
        denial: Some(crate::revocation::Denial::Revoked),
        token: token.clone(),
        ..report()
    });
    assert_eq!(world.summaries(), [""; 0], "nobody counts whom everybody refuses");
    world.reports.push(Report { token, ..report() });
    let findings = world.findings();
    assert_eq!(findings.len(), 1);
    let told = &findings[0].summary;
    assert!(
        told.starts_with("4000 live instances of spiffe://") && told.contains("token 0123456789ab"),
        "{told}"
    );
    for remedy in ["tokens of their own", "`hauberk revoke token 0123456789ab`"] {
        assert!(findings[0].fix.contains(remedy), "{}", findings[0].fix);
    }
    world.now = NOW.plus(Duration::from_secs(3_601));
    assert_eq!(world.summaries(), [""; 0], "they have expired");
}

#[test]
fn trust_domains_whose_members_are_not_known_are_told() {
    use hauberk_identity::TrustDomain;
    use hauberk_tls::jwt::JwtBundle;
    use hauberk_tls::{RootAuthority, SpiffeBundle, TrustBundle, bundle_document};
    let trust_domain = TrustDomain::parse("partner.example").unwrap();
    let validity = valid_for(NOW, 30).unwrap();
    let root = RootAuthority::create(&trust_domain, validity, Serial::from_random([1; 16])).unwrap();
    let bundle = |roots: &[&RootAuthority]| {
        let roots = roots.iter().map(|root| root.certificate().clone());
        let roots = TrustBundle::new(trust_domain.clone(), roots).unwrap();
        let none = JwtBundle::new(trust_domain.clone(), []).unwrap();
        let document = bundle_document(&roots, &none, None, None);
        Some(Arc::new(SpiffeBundle::parse(&trust_domain, document.as_bytes()).unwrap()))
    };
    let name = |text| Name::parse(text).unwrap();
    let followed = |bundle, problem: Option<&str>| Followed {
        key: crate::resources::ResourceKey::federated_trust_domain(name("shop"), name("partner.example")),
        trust_domain: trust_domain.clone(),
        bundle,
        endpoint: Some("https://bundles.partner.example/".to_owned()),
        vouches_for_itself: false,
        fetched_at: None,
        failing: problem.map(failing),
        passed_over: Vec::new(),
        reused: None,
    };
    let mut world = World::healthy();
    let mut told = |followed: Followed, now: UnixMillis| {
        world.followed = vec![followed];
        world.now = now;
        world.certificates.server = valid_for(now, 1);
        world.reports.clear();
        world.findings().into_iter().map(|finding| (finding.severity(), finding.summary)).collect::<Vec<_>>()
    };
    assert_eq!(told(followed(bundle(&[&root]), None), NOW), []);
    let reused = told(Followed { reused: Some(7), ..followed(bundle(&[&root]), None) }, NOW);
    assert_eq!(reused[0].0, Severity::Warning);
    assert!(reused[0].1.contains("two bundles of number 7"), "{reused:?}");
    let passed_over = vec!["key number 2 is refused: it is weak".to_owned()];
    let weak = told(Followed { passed_over: passed_over.clone(), ..followed(bundle(&[&root]), None) }, NOW);
    assert_eq!(weak[0].0, Severity::Warning);
    assert!(weak[0].1.ends_with("not all keys of its bundle count: key number 2 is refused: it is weak"));
    let none = told(Followed { passed_over, ..followed(bundle(&[]), None) }, NOW);
    assert_eq!(none[0].0, Severity::Error);
    assert!(
        none[0].1.ends_with(
            "its bundle has no root that counts: it has taken all back, or they are among the keys that are of no use: key number 2 \
             is refused: it is weak"
        ),
        "{none:?}"
    );
    let unanswered = vec![followed(bundle(&[&root]), Some("nobody answers"))];
    let fix = World { followed: unanswered, ..World::healthy() }.findings().remove(0).fix;
    assert!(fix.contains("`hauberk bundle refresh partner.example --mesh shop`"), "{fix}");
    // What is written is not asked for, and nobody takes back what was written.
    let fix_of = |followed: Followed, now: UnixMillis| {
        let mut found =
            World { followed: vec![followed], now, reports: Vec::new(), ..World::healthy() }.findings();
        found.retain(|finding| finding.summary.starts_with("FederatedTrustDomain"));
        let Finding { summary, fix, .. } = found.remove(0);
        (summary, fix)
    };
    let later = NOW.plus(DAY * 31);
    let present = "apply the resource with its present bundle";
    let asked = "`hauberk bundle refresh partner.example --mesh shop`";
    let written = |bundle| Followed { endpoint: None, ..followed(bundle, None) };
    for (followed, now) in [(written(bundle(&[&root])), later), (written(bundle(&[])), NOW)] {
        let (summary, fix) = fix_of(followed, now);
        assert!(fix.starts_with(present) && !fix.contains("refresh") && !summary.contains("back"), "{fix}");
    }
    let weak = Followed { passed_over: vec!["it is weak".to_owned()], ..written(bundle(&[&root])) };
    assert!(fix_of(weak, NOW).1.contains(present));
    // What it answers is its publisher's to mend, and whose answers nobody can believe is not asked in vain.
    for roots in [vec![], vec![&root]] {
        let answered = Followed { fetched_at: Some(NOW), ..followed(bundle(&roots), None) };
        let fix = fix_of(answered.clone(), later).1;
        assert!(
            fix.starts_with("have its publisher serve roots that are valid") && fix.contains(asked),
            "{fix}"
        );
        for failing in [None, Some(failing("it is not believed"))] {
            let locked_out = Followed { vouches_for_itself: true, failing, ..answered.clone() };
            let fix = fix_of(locked_out, later).1;
            assert!(fix.starts_with(present) && !fix.contains("refresh"), "{fix}");
        }
    }
    let unasked = fix_of(followed(bundle(&[&root]), None), later).1;
    assert!(unasked.starts_with("see that its endpoint answers") && unasked.contains(asked), "{unasked}");
    for (hindrance, wanted, is_asked_by_hand) in [
        (Hindrance::Answer, "have its publisher serve its present bundle", true),
        (Hindrance::Older, "have its publisher serve its present bundle there, with a number", true),
        (Hindrance::Voucher, "see to the trust domain that its endpoint is one of", true),
        (Hindrance::Agent, "update that agent, or stop it", false),
        (Hindrance::Ours, "mend that at the control plane", false),
        (Hindrance::Passing, "wait", false),
        (Hindrance::Other, "see that its endpoint answers", true),
    ] {
        let failing = Some(Failing { hindrance, ..failing("it fails") });
        let fix = fix_of(Followed { failing, ..followed(bundle(&[&root]), None) }, NOW).1;
        assert!(fix.starts_with(wanted) && fix.contains(asked) == is_asked_by_hand, "{fix}");
    }
    let failing = told(followed(bundle(&[&root]), Some("nobody answers")), NOW);
    assert_eq!(failing[0].0, Severity::Warning);
    let wanted = "FederatedTrustDomain shop/partner.example: its bundle cannot be fetched since 2027-01-15T08:00:00Z: \
                  nobody answers; the former one stays in force";
    assert_eq!(failing[0].1, wanted);
    for (bundle, now, wanted) in [
        (None, NOW, "there is no bundle of it; its bundle cannot be fetched since"),
        (bundle(&[]), NOW, "its bundle has no root: it has taken all back"),
        (bundle(&[&root]), NOW.plus(DAY * 31), "every root of its bundle has expired"),
    ] {
        let found = told(followed(bundle, Some("late")), now);
        assert_eq!(found[0].0, Severity::Error);
        assert!(
            found[0].1.contains("nobody of partner.example is let in: ") && found[0].1.contains(wanted),
            "{found:?}"
        );
    }
}

#[test]
fn what_somebody_else_has_to_sign_is_told_instead_of_what_would_come_by_itself() {
    let mut world = World::healthy();
    world.certificates.issuing = valid_for(NOW.minus(89 * DAY), 90);
    let plain = world.summaries();
    assert!(
        plain.len() == 1 && plain[0].starts_with("the issuing authority's certificate expires"),
        "{plain:?}"
    );
    world.need = Some(Need { what: "it ends".into(), fix: "sign it".into(), is_urgent: false });
    assert_eq!(world.summaries(), ["it ends"]);
    assert_eq!(world.findings()[0].severity(), Severity::Warning);
    world.need = Some(Need { is_urgent: true, ..world.need.unwrap() });
    assert_eq!(world.findings()[0].severity(), Severity::Error);
}

/// An attempt that failed for this.
fn failing(problem: &str) -> Failing {
    Failing { problem: problem.to_owned(), since: NOW, hindrance: Hindrance::Other }
}

#[test]
fn an_issuer_without_keys_is_an_error_and_one_that_cannot_be_asked_a_warning() {
    let name = |text| Name::parse(text).unwrap();
    let key = crate::resources::ResourceKey {
        kind: crate::resources::Kind::JwtIssuer,
        mesh: name("shop"),
        name: name("login"),
    };
    let with = |keys, failing| {
        let issuers = vec![FollowedIssuer { keys, failing, ..followed_issuer(&key) }];
        World { issuers, ..World::healthy() }.findings()
    };
    assert!(with(2, None).is_empty());
    let refused = with(0, Some(failing("no answer")));
    assert_eq!(refused[0].severity(), Severity::Error);
    assert!(refused[0].summary.contains("JwtIssuer shop/login: its tokens are refused"), "{refused:?}");
    let late = with(2, Some(failing("no answer")));
    assert_eq!(late[0].severity(), Severity::Warning);
    assert!(late[0].summary.contains("no answer; the former ones stay in force"), "{late:?}");
    assert!(late[0].fix.contains("see that it answers where it is asked"), "{late:?}");
    // Whoever is asked has no say in what is advised.
    let quoted = "its configuration is that of the issuer \"private addresses take allowPrivateAddresses\"";
    let answered = with(0, Some(failing(quoted)));
    assert!(answered[0].fix.contains("see that it answers where it is asked"), "{answered:?}");
    // What is not asked at all does not come to answer.
    let not_asked = with(0, Some(Failing { hindrance: Hindrance::Inside, ..failing("it is not asked") }));
    assert!(not_asked[0].fix.contains("`allowPrivateAddresses: true`"), "{not_asked:?}");
    let unknown = with(0, Some(Failing { hindrance: Hindrance::NoWebRoot, ..failing("it is not believed") }));
    assert!(
        unknown[0]
            .fix
            .contains("setting `web-roots`, then `hauberk bundle refresh --issuer login --mesh shop`"),
        "{unknown:?}"
    );
    let wrong = with(2, Some(Failing { hindrance: Hindrance::Answer, ..failing("it is no set of keys") }));
    assert!(wrong[0].fix.starts_with("see that its keys are where they are asked for"), "{wrong:?}");
    let passed_over = vec!["key number 2 is refused: it is weak".to_owned()];
    let issuers = vec![FollowedIssuer { keys: 1, passed_over: passed_over.clone(), ..followed_issuer(&key) }];
    let weak = World { issuers, ..World::healthy() }.findings();
    assert_eq!(weak[0].severity(), Severity::Warning);
    assert!(
        weak[0].summary.ends_with("not all of its keys count: key number 2 is refused: it is weak"),
        "{weak:?}"
    );
    // Asked, and without any that counts.
    let issuers = vec![FollowedIssuer { is_fetched: true, passed_over, ..followed_issuer(&key) }];
    let none = World { issuers, ..World::healthy() }.findings();
    assert_eq!(none[0].severity(), Severity::Error);
    let wanted = "JwtIssuer shop/login: all its users are denied: it publishes no key that can verify tokens: key number 2";
    assert!(none[0].summary.starts_with(wanted), "{none:?}");
    assert!(none[0].fix.starts_with("have the issuer publish its keys, then `hauberk bundle"), "{none:?}");
    // What it publishes by now cannot be fetched: that comes first.
    let inside = Some(Failing { hindrance: Hindrance::Inside, ..failing("it is not asked") });
    let issuers = vec![FollowedIssuer { is_fetched: true, failing: inside, ..followed_issuer(&key) }];
    let none = World { issuers, ..World::healthy() }.findings();
    assert!(none[0].summary.contains("cannot be fetched since") && none[0].severity() == Severity::Error);
    assert!(none[0].fix.contains("`allowPrivateAddresses: true`"), "{none:?}");
}

/// One of which no key is known.
fn followed_issuer(key: &crate::resources::ResourceKey) -> FollowedIssuer {
    let (keys, is_fetched, passed_over, listed, failing) = (0, false, Vec::new(), None, None);
    FollowedIssuer { key: key.clone(), keys, is_fetched, passed_over, listed, failing }
}

#[test]
fn an_issuer_that_lists_keys_of_ours_is_told() {
    use hauberk_tls::jwt::{JwtKeySet, JwtSigner, KeyUse};
    let signers = [JwtSigner::generate().unwrap(), JwtSigner::generate().unwrap()];
    let set = |signer: &JwtSigner| JwtKeySet::new([signer.public_key().unwrap()]).unwrap();
    let key = crate::resources::ResourceKey {
        kind: crate::resources::Kind::JwtIssuer,
        mesh: Name::parse("shop").unwrap(),
        name: Name::parse("own").unwrap(),
    };
    let with = |listed: JwtKeySet, has_our_name| {
        let listed = Some((Arc::new(listed), has_our_name));
        let issuers = vec![FollowedIssuer { keys: 1, listed, ..followed_issuer(&key) }];
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        let own_keys = JwtBundle::new(trust_domain, [signers[0].public_key().unwrap()]).unwrap();
        World { issuers, own_keys, ..World::healthy() }.findings()
    };
    assert_eq!(with(set(&signers[1]), false), []);
    let renamed = set(&signers[0]).to_jwks(KeyUse::Signature).replace(signers[0].key_id(), "another-name");
    for listed in [set(&signers[0]), JwtKeySet::from_jwks(renamed.as_bytes()).unwrap()] {
        let found = with(listed, false);
        assert_eq!((found.len(), found[0].severity()), (1, Severity::Warning));
        assert!(
            found[0].summary.contains("of this control plane: it is believed there whatever"),
            "{found:?}"
        );
    }
    let revoked = with(set(&signers[1]), true);
    assert!(revoked[0].summary.contains("keys for this control plane's own tokens"), "{revoked:?}");
}

#[test]
fn a_clock_that_was_set_ahead_is_named_with_what_is_not_done_for_it() {
    let world = World { clock_ahead: Some(Duration::from_secs(7_200)), ..World::healthy() };
    let [found] = world.findings().try_into().unwrap();
    assert_eq!(found.severity(), Severity::Error);
    assert!(
        found.summary.contains("clock was set 7200 s ahead") && found.fix.contains("set the clock right"),
        "{found:?}"
    );
}

#[test]
fn what_is_stored_and_would_not_be_admitted_is_told() {
    use crate::registry::{Stored, Version, keys};
    use crate::resources::testing::{node, policy};
    use prost::Message;
    let mut world = World::healthy();
    let trust_domain = world.own_keys.trust_domain().clone();
    let mut write = |kind: &str, resource: &hauberk_proto::mesh::v1::Resource| {
        let stored = Stored { version: Version::default(), value: resource.encode_to_vec().into() };
        world.catalog.write(&keys::resource(kind, "shop", &resource.name), Some(&stored), &trust_domain);
    };
    let on = |condition: &str| {
        format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
    };
    let listener = crate::resources::testing::listener(80, "http");
    write("VirtualNode", &node("orders", [listener]));
    write("Policy", &policy("asks", &on("User::\"login/alice\" in UserGroup::\"login/support\"")));
    write("Policy", &policy("heavy", &on(&format!("context.host like \"*{}\"", "a".repeat(9_000)))));
    write("Policy", &policy("wrong", "permit(principal is Nobody, action, resource);"));
    let told = world.summaries();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with("the stored policy shop/wrong is not accepted, and left out: "), "{told:?}");
    let outdated = "is still enforced, and would be refused today: 1:";
    assert!(told[1].starts_with(&format!("policy shop/asks {outdated}")), "{told:?}");
    assert!(told[2].starts_with(&format!("policy shop/heavy {outdated}")), "{told:?}");
    assert!(told[3].starts_with("9001 characters follow the wildcards"), "{told:?}");
}

#[test]
fn forbids_of_what_is_there_no_longer_are_told() {
    use crate::resources::testing::{
        EVERYTHING, catalog_of, listener, mesh, node, policy, routes, try_admit,
    };
    let orders = |route: &str| node("orders", [routes(listener(8080, "http"), &[route])]);
    let of_some = |rest: &str| format!("forbid(principal, action, resource{rest};");
    let named = "resource == Route::\"orders:8080 GET /x\"";
    let before = catalog_of(&[
        mesh("shop"),
        orders("GET /x"),
        policy("no-x", &of_some(" == Route::\"orders:8080 GET /x\")")),
        policy("but-x", &of_some(&format!(") unless {{ {named} }}"))),
    ]);
    let mut world = World::healthy();
    world.catalog = before.clone();
    assert_eq!(world.summaries(), [""; 0]);
    world.catalog = try_admit(&before, &[orders("GET,PUT /x")], EVERYTHING).unwrap().after;
    let found = world.findings();
    let place = "route \"GET /x\" of port 8080 of virtual node orders";
    let hint = "there is none; did you mean \"GET,PUT /x\"?";
    let summaries: Vec<_> = found.iter().map(|finding| finding.summary.as_str()).collect();
    // What but-x excepted it stops too.
    assert_eq!(summaries, [format!("mesh shop: what forbids by {place} in no-x stops nothing: {hint}")]);
    assert_eq!(found[0].severity(), Severity::Error);
}

#[test]
fn listeners_at_which_a_forbid_is_gone_round_are_told() {
    use crate::resources::testing::{catalog_of, classified, data_class, listener, mesh, node, policy};
    let mut world = World::healthy();
    world.catalog = catalog_of(&[
        mesh("shop"),
        data_class("pii", &[]),
        node("orders", [classified(listener(8080, "http"), "/card", &["pii"])]),
        policy("all", "permit(principal is Node, action, resource);"),
        policy("pii", "forbid(principal, action, resource in DataClass::\"pii\");"),
    ]);
    let found = world.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].summary.starts_with("VirtualNode shop/orders, port 8080: pii holds for some of its routes"),
        "{found:?}"
    );
    assert!(found[0].fix.starts_with("write `undeclared: DENY` on the listener"), "{found:?}");
}
