//! Endpoints of another trust domain than the one whose bundle they serve: that one's bundle says who answers.

use super::*;
use crate::registry::{Commit, keys};
use crate::revocation::{Certificate, Denylist, Listed, Mark};

/// What says that another domain's bundle is kept, or where it comes from.
fn hub(change: impl FnOnce(&mut wire::FederatedTrustDomainSpec)) -> wire::Resource {
    let mut spec = wire::FederatedTrustDomainSpec::default();
    change(&mut spec);
    resource("shop", "hub.example", Spec::FederatedTrustDomain(spec))
}

/// The partner, whose endpoint is one of this trust domain.
fn of(partner: &Partner, trust_domain: &str) -> wire::Resource {
    let id = format!("spiffe://{trust_domain}/control-plane/one");
    partner.resource_with(|spec| {
        spec.bundle_endpoint_profile.as_mut().unwrap().endpoint_spiffe_id = id;
        spec.trust_domain_bundle.clear();
    })
}

async fn refused(federation: &Federation) -> String {
    federation.refresh(&key()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn an_endpoint_of_another_domain_is_believed_by_that_domains_bundle_alone() {
    let (hubs, own) = (root("hub.example", 21), root("partner.example", 22));
    let issuing = |root| IssuingAuthority::create(root, validity(), Serial::from_random([23; 16])).unwrap();
    let partner = Partner::known_by("partner.example", own, &issuing(&hubs)).await;
    let (scratch, federation) = shop().await;
    let keep = |roots: &[&RootAuthority]| {
        let document = document("hub.example", roots, None);
        hub(|spec| spec.trust_domain_bundle = document)
    };
    scratch.apply(&[keep(&[&hubs]), of(&partner, "hub.example")]).await;
    federation.refresh(&key()).await.unwrap();
    let (held, problem) = standing(&scratch, &federation).await;
    let held = held.unwrap();
    assert_eq!(
        (held.trust_domain(), held.x509().roots().len(), &*problem),
        (&domain("partner.example"), 1, "")
    );

    // Neither the partner's own authority nor a stranger under the hub's name can say what its bundle is.
    for impostor in [issuing(&partner.root), issuing(&root("hub.example", 24))] {
        let impostor = Partner::known_by("partner.example", root("partner.example", 25), &impostor).await;
        let at = format!("https://{}/bundle", impostor.address);
        let mut resource = of(&partner, "hub.example");
        let Some(Spec::FederatedTrustDomain(spec)) = &mut resource.spec else { panic!() };
        spec.bundle_endpoint_url = at;
        scratch.apply(&[resource]).await;
        let error = refused(&federation).await;
        assert!(error.contains("not who was expected") || error.contains("no root"), "{error}");
        assert_eq!(standing(&scratch, &federation).await.0, None);
    }

    // What the hub is believed by from now on decides from now on.
    scratch.apply(&[of(&partner, "hub.example")]).await;
    federation.refresh(&key()).await.unwrap();
    let good = standing(&scratch, &federation).await.0;
    scratch.apply(&[keep(&[&root("hub.example", 26)])]).await;
    assert!(refused(&federation).await.contains("no root"));
    let (held, problem) = standing(&scratch, &federation).await;
    assert!(held == good && problem.contains("no root"), "the last good one stays: {problem}");
}

#[tokio::test]
async fn while_the_other_domains_bundle_is_not_known_nobody_is_believed() {
    let hubs = root("hub.example", 21);
    let issuing = IssuingAuthority::create(&hubs, validity(), Serial::from_random([23; 16])).unwrap();
    let partner = Partner::known_by("partner.example", root("partner.example", 22), &issuing).await;
    let (scratch, federation) = shop().await;
    let later = hub(|spec| {
        let r#type = "https_web".into();
        spec.bundle_endpoint_url = "https://hub.example:8443/".into();
        spec.bundle_endpoint_profile = Some(wire::BundleEndpointProfile { r#type, ..Default::default() });
    });
    scratch.apply(&[later, of(&partner, "hub.example")]).await;
    let error = refused(&federation).await;
    assert!(error.contains("one of hub.example, whose bundle is not known"), "{error}");
    assert_eq!(standing(&scratch, &federation).await.0, None);
}

/// A partner whose endpoint is one of our own, and by what ours are refused.
struct Within {
    scratch: Scratch,
    federation: Arc<Federation>,
    partner: Partner,
    denylist: watch::Sender<Arc<Denylist>>,
}

impl Within {
    async fn start() -> Self {
        let scratch = Scratch::new().await;
        scratch.apply(&[mesh("shop"), node("orders", [listener(8080, "http")])]).await;
        let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
        let ours = root("shop.example", 27);
        let issuing = IssuingAuthority::create(&ours, validity(), Serial::from_random([28; 16])).unwrap();
        let identity = LiveIdentity::new(issuing.root_bundle().clone());
        let denylist = watch::Sender::default();
        let own = FederationParts {
            identity,
            denylist: denylist.subscribe(),
            ..parts(&scratch, Arc::new(audit), None)
        };
        let federation = Federation::new(own);
        let partner = Partner::known_by("partner.example", root("partner.example", 22), &issuing).await;
        scratch.apply(&[of(&partner, "shop.example")]).await;
        Self { scratch, federation, partner, denylist }
    }

    fn refuse(&self, listed: Listed) {
        let revision = self.denylist.borrow().mark.revision + 1;
        self.denylist.send_replace(list(&self.scratch, revision, listed));
    }
}

fn list(scratch: &Scratch, revision: u64, listed: Listed) -> Arc<Denylist> {
    let signer = Arc::clone(&scratch.authority.view_signer().borrow());
    let mark = Mark { epoch: 1, revision };
    Arc::new(Denylist::new(mark, &domain("shop.example"), listed, &signer).unwrap())
}

#[tokio::test]
async fn an_endpoint_may_be_one_of_our_own() {
    let Within { scratch, federation, partner: _partner, .. } = Within::start().await;
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 1);
}

#[tokio::test]
async fn an_endpoint_of_our_own_that_is_revoked_or_in_quarantine_is_not_believed() {
    let mut within = Within::start().await;
    let server = SpiffeId::parse("spiffe://shop.example/control-plane/one").unwrap();
    let revoked = Certificate { not_after: UnixMillis(u64::MAX), at: UnixMillis(0), issuer: None };
    let serials = [(Serial::from_random([3; 16]), revoked)].into();
    for (listed, why) in [
        (Listed { serials, ..Listed::default() }, "it was revoked"),
        (
            Listed { nodes: [(server, UnixMillis(0))].into(), ..Listed::default() },
            "its node is in quarantine",
        ),
    ] {
        within.refuse(listed);
        let error = refused(&within.federation).await;
        assert!(error.contains(why), "{error}");
        // It may have noticed that somebody came and left.
        assert_eq!(within.partner.asked.try_recv().unwrap_or_default(), "", "it is asked nothing");
        assert_eq!(standing(&within.scratch, &within.federation).await.0, None);
    }
    within.refuse(Listed::default());
    within.federation.refresh(&key()).await.unwrap();
}

/// What comes of a question if that is done before it is answered.
async fn meanwhile(federation: &Arc<Federation>, partner: &mut Partner, done: impl AsyncFnOnce()) -> String {
    let good = partner.answer.borrow().clone();
    partner.says("");
    let asking = federation.clone();
    let asking = async move { refused(&asking).await };
    let act = async {
        partner.asked.recv().await.unwrap();
        done().await;
        partner.says(good);
    };
    tokio::join!(asking, act).0
}

#[tokio::test]
async fn what_was_answered_under_a_voucher_that_is_replaced_meanwhile_does_not_count() {
    let hubs = root("hub.example", 21);
    let issuing = IssuingAuthority::create(&hubs, validity(), Serial::from_random([23; 16])).unwrap();
    let mut partner = Partner::known_by("partner.example", root("partner.example", 22), &issuing).await;
    let (scratch, federation) = shop().await;
    let keep = |roots: &[&RootAuthority]| {
        let document = document("hub.example", roots, None);
        hub(|spec| spec.trust_domain_bundle = document)
    };
    scratch.apply(&[keep(&[&hubs]), of(&partner, "hub.example")]).await;
    let replaced = keep(&[&root("hub.example", 26)]);
    let replace = async || drop(scratch.apply(&[replaced]).await);
    let error = meanwhile(&federation, &mut partner, replace).await;
    assert!(error.contains("was replaced meanwhile (the bundle of another trust domain)"), "{error}");
    assert_eq!(standing(&scratch, &federation).await.0, None);
    scratch.apply(&[keep(&[&hubs])]).await;
    federation.refresh(&key()).await.unwrap();

    // Our own, where a root goes or somebody is refused: as it is written, and as it is in force.
    for written in [keys::TRUST, keys::DENYLIST_NUMBER] {
        let Within { scratch, federation, mut partner, denylist: _denylist } = Within::start().await;
        let write = Commit::new().put(written, "another").raising_revision();
        let write = async || {
            scratch.store.commit(write).await.unwrap();
        };
        let error = meanwhile(&federation, &mut partner, write).await;
        assert!(error.contains("was replaced meanwhile (our own trust"), "{written}: {error}");
        assert_eq!(standing(&scratch, &federation).await.0, None);
    }
    let Within { scratch, federation, mut partner, denylist } = Within::start().await;
    let later = list(&scratch, 1, Listed::default());
    let publish = async || drop(denylist.send_replace(later));
    let error = meanwhile(&federation, &mut partner, publish).await;
    assert!(error.contains("was replaced meanwhile (our own trust"), "{error}");
    assert_eq!(standing(&scratch, &federation).await.0, None);
}
