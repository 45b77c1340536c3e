//! Endpoints of another trust domain than the one whose bundle they serve: that one's bundle says who answers.

use super::*;

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

#[tokio::test]
async fn an_endpoint_may_be_one_of_our_own() {
    let scratch = Scratch::new().await;
    scratch.apply(&[mesh("shop"), node("orders", [listener(8080, "http")])]).await;
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    let ours = root("shop.example", 27);
    let issuing = IssuingAuthority::create(&ours, validity(), Serial::from_random([28; 16])).unwrap();
    let identity = LiveIdentity::new(issuing.root_bundle().clone());
    let federation = Federation::new(FederationParts { identity, ..parts(&scratch, Arc::new(audit), None) });
    let partner = Partner::known_by("partner.example", root("partner.example", 22), &issuing).await;
    scratch.apply(&[of(&partner, "shop.example")]).await;
    federation.refresh(&key()).await.unwrap();
    assert_eq!(standing(&scratch, &federation).await.0.unwrap().x509().roots().len(), 1);
}
