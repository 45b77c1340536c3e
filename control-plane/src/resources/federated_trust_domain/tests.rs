use hauberk_identity::{Name, Serial, UnixMillis, Validity};
use hauberk_proto::mesh::v1::{self as wire, resource::Spec};
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{RootAuthority, TrustBundle, bundle_document};

use super::*;
use crate::resources::admit::{Rights, Target, admit_removal};
use crate::resources::testing::*;
use crate::resources::{Catalog, Kind};

/// The bundle of a trust domain with one root.
pub(crate) fn bundle(trust_domain: &str) -> String {
    let trust_domain = TrustDomain::parse(trust_domain).unwrap();
    let validity = Validity::new(UnixMillis(0), UnixMillis::from_secs(4_000_000_000)).unwrap();
    let root = RootAuthority::create(&trust_domain, validity, Serial::from_random([9; 16])).unwrap();
    let roots = TrustBundle::new(trust_domain.clone(), [root.certificate().clone()]).unwrap();
    bundle_document(&roots, &JwtBundle::new(trust_domain, []).unwrap(), Some(1), None)
}

fn followed(name: &str, change: impl FnOnce(&mut wire::FederatedTrustDomainSpec)) -> wire::Resource {
    let mut spec = wire::FederatedTrustDomainSpec {
        trust_domain_bundle: bundle("partner.example"),
        bundle_endpoint_url: "https://bundles.partner.example:8443/spiffe".into(),
        bundle_endpoint_profile: Some(wire::BundleEndpointProfile {
            r#type: "https_spiffe".into(),
            endpoint_spiffe_id: "spiffe://partner.example/control-plane/one".into(),
        }),
        allow_private_addresses: None,
    };
    change(&mut spec);
    resource("shop", name, Spec::FederatedTrustDomain(spec))
}

fn shop() -> Catalog {
    catalog_of(&[mesh("shop"), node("orders", [listener(8080, "http")])])
}

fn problems(resource: wire::Resource, rights: Rights) -> Vec<String> {
    let problems = try_admit(&shop(), &[resource], rights).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
}

#[test]
fn whole_ones_are_accepted() {
    let web = |spec: &mut wire::FederatedTrustDomainSpec| {
        let r#type = "https_web".into();
        let profile = wire::BundleEndpointProfile { r#type, endpoint_spiffe_id: String::new() };
        spec.bundle_endpoint_profile = Some(profile);
        spec.trust_domain_bundle.clear();
    };
    let only_static = |spec: &mut wire::FederatedTrustDomainSpec| {
        spec.bundle_endpoint_url.clear();
        spec.bundle_endpoint_profile = None;
    };
    for resource in [
        followed("partner.example", |_| {}),
        followed("partner.example", web),
        followed("partner.example", only_static),
    ] {
        assert_eq!(problems(resource, EVERYTHING), [""; 0]);
    }
}

#[test]
fn it_takes_the_role_for_identities() {
    let rights = Rights { resources: true, policies: true, boundaries: true, identities: false };
    let found = problems(followed("partner.example", |_| {}), rights);
    assert_eq!(found, ["kind: to change a federated trust domain takes the role identity-admin"]);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let one = |name: &str, change: &dyn Fn(&mut wire::FederatedTrustDomainSpec), begin: &str| {
        let found = problems(followed(name, |spec| change(spec)), EVERYTHING);
        assert!(found.len() == 1 && found[0].starts_with(begin), "{begin}: {found:#?}");
    };
    one("Partner.example", &|_| {}, "name: a trust domain consists of a-z");
    one("shop.example", &|_| {}, "name: this is our own trust domain");
    // Roots of a domain with a similar name vouch for nobody of this one.
    let without_endpoint = |spec: &mut wire::FederatedTrustDomainSpec| {
        spec.bundle_endpoint_url.clear();
        spec.bundle_endpoint_profile = None;
    };
    one("partner.example.", &without_endpoint, "spec.trustDomainBundle: the keys for X.509");
    let of_other = |spec: &mut wire::FederatedTrustDomainSpec| {
        spec.trust_domain_bundle = bundle("shop.example");
        spec.bundle_endpoint_url.clear();
        spec.bundle_endpoint_profile = None;
    };
    one("partner.example", &of_other, "spec.trustDomainBundle: the keys for X.509-SVIDs are refused: root");
    let profile = |r#type: &str, id: &str| {
        let (r#type, endpoint_spiffe_id) = (r#type.to_owned(), id.to_owned());
        move |spec: &mut wire::FederatedTrustDomainSpec| {
            let profile = wire::BundleEndpointProfile {
                r#type: r#type.clone(),
                endpoint_spiffe_id: endpoint_spiffe_id.clone(),
            };
            spec.bundle_endpoint_profile = Some(profile);
        }
    };
    let id = "spec.bundleEndpointProfile.endpointSpiffeId: ";
    one(
        "partner.example",
        &profile("https_spiffe", "spiffe://hub.example/x"),
        &format!("{id}the endpoint of partner.example is one of hub.example"),
    );
    one("partner.example", &profile("https_spiffe", ""), id);
    one("partner.example", &profile("https_web", "spiffe://partner.example/x"), id);
    one(
        "partner.example",
        &profile("https_spif", ""),
        "spec.bundleEndpointProfile.type: \"https_spif\" is not known",
    );
    one("partner.example", &|spec| spec.bundle_endpoint_profile = None, "spec.bundleEndpointProfile: ");
    one(
        "partner.example",
        &|spec| spec.bundle_endpoint_url.clear(),
        "spec.bundleEndpointUrl: a profile is of no use",
    );
    one(
        "partner.example",
        &|spec| spec.trust_domain_bundle.clear(),
        "spec.trustDomainBundle: with https_spiffe",
    );
    let empty = |spec: &mut wire::FederatedTrustDomainSpec| *spec = wire::FederatedTrustDomainSpec::default();
    one("partner.example", &empty, "spec: it says nowhere");
    let no_keys = |spec: &mut wire::FederatedTrustDomainSpec| {
        *spec = wire::FederatedTrustDomainSpec {
            trust_domain_bundle: "{\"keys\":[]}".into(),
            ..Default::default()
        };
    };
    one("partner.example", &no_keys, "spec.trustDomainBundle: it has no key of SPIFFE's");
}

#[test]
fn what_reaches_everybody_of_it_unnamed_is_told() {
    let catalog = shop();
    let broad = policy("all", "permit(principal is Workload, action, resource);");
    let narrow = "permit(principal is Workload in TrustDomain::\"partner.example\", action, resource);";
    let told = |batch: &[wire::Resource]| try_admit(&catalog, batch, EVERYTHING).unwrap().warnings;
    let both = told(&[followed("partner.example", |_| {}), broad.clone()]);
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0]
            .contains("Policy shop/all permits workloads of any trust domain, those of partner.example too")
    );
    assert_eq!(told(&[broad]), [""; 0], "before anybody is followed there is nothing to tell");
    assert_eq!(told(&[followed("partner.example", |_| {}), policy("some", narrow)]), [""; 0]);
    let dangling = told(&[policy("some", narrow)]);
    assert!(
        dangling[0].ends_with("mesh \"shop\" has no FederatedTrustDomain partner.example"),
        "{dangling:?}"
    );
    let workload = "permit(principal == Workload::\"spiffe://partner.example/a\", action, resource);";
    assert_eq!(told(&[policy("some", workload)]).len(), 1);
    let own = "permit(principal == Workload::\"batch/a\", action, resource);";
    let nobody = told(&[policy("some", own)]);
    assert!(nobody[0].ends_with("no Enrollment gives anybody this identity"), "{nobody:?}");
    // Nobody of it is somebody of ours, whatever its path.
    let node =
        "permit(principal == Node::\"spiffe://partner.example/mesh/shop/node/web\", action, resource);";
    assert!(try_admit(&catalog, &[policy("node", node)], EVERYTHING).is_err());
}

#[test]
fn enrollments_federate_with_what_is_followed() {
    let enrollment = |domains: &[&str]| {
        let workload = wire::WorkloadEnrollment {
            path: "worker".into(),
            selectors: vec!["unix:uid:1".into()],
            federates_with: domains.iter().map(|&domain| domain.into()).collect(),
            ..Default::default()
        };
        let parent = Some(parent("orders"));
        let spec = wire::EnrollmentSpec { parent, workload: Some(workload), attest: None };
        resource("shop", "worker", Spec::Enrollment(spec))
    };
    let found = problems(enrollment(&["partner.example", "shop.example", "A"]), EVERYTHING);
    assert_eq!(found.len(), 3, "{found:?}");
    let known = || catalog_of(&[mesh("shop"), node("orders", []), followed("partner.example", |_| {})]);
    let refused = try_admit(&known(), &[enrollment(&["partner.exampel"])], EVERYTHING).unwrap_err();
    assert!(refused[0].description().ends_with("did you mean \"partner.example\"?"), "{refused:?}");
    let after = try_admit(&known(), &[enrollment(&["partner.example"])], EVERYTHING).unwrap().after;
    let name = |text| Name::parse(text).unwrap();
    let key =
        ResourceKey { kind: Kind::FederatedTrustDomain, mesh: name("shop"), name: name("partner.example") };
    let target = Target { key, resource_version: 0, ignore_missing: false };
    let problems = admit_removal(&after, &[target], EVERYTHING, &trust_domain()).unwrap_err();
    assert!(problems[0].message.contains("still used by enrollment \"worker\""), "{problems:?}");
}

#[test]
fn a_mesh_follows_so_many_and_no_more() {
    let bundle = |n: usize| {
        let name = format!("partner-{n}.example");
        let trust_domain_bundle = bundle(&name);
        let spec = wire::FederatedTrustDomainSpec { trust_domain_bundle, ..Default::default() };
        resource("shop", &name, Spec::FederatedTrustDomain(spec))
    };
    let many: Vec<_> = (0..33).map(bundle).collect();
    assert!(try_admit(&shop(), &many[..32], EVERYTHING).is_ok());
    let refused = try_admit(&shop(), &many, EVERYTHING).unwrap_err();
    assert!(refused[0].message.contains("33 trust domains: at most 32"), "{refused:?}");
}

#[test]
fn endpoints_of_others_take_that_those_are_followed_and_do_not_vouch_in_a_circle() {
    let by = |name: &str, id: &str| {
        followed(name, |spec| {
            spec.bundle_endpoint_profile.as_mut().unwrap().endpoint_spiffe_id = format!("spiffe://{id}/x");
            spec.trust_domain_bundle.clear();
        })
    };
    let kept = |name: &str| {
        followed(name, |spec| {
            *spec =
                wire::FederatedTrustDomainSpec { trust_domain_bundle: bundle(name), ..Default::default() };
        })
    };
    let told = |catalog: &Catalog, batch: &[wire::Resource]| {
        let found = try_admit(catalog, batch, EVERYTHING).err().unwrap_or_default();
        found
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.description()))
            .collect::<Vec<_>>()
    };
    for batch in [
        vec![by("partner.example", "shop.example")],
        vec![by("partner.example", "hub.example"), kept("hub.example")],
        vec![by("a.example", "b.example"), by("b.example", "c.example"), kept("c.example")],
        vec![by("a.example", "b.example"), by("b.example", "shop.example")],
    ] {
        assert_eq!(told(&shop(), &batch), [""; 0]);
    }
    let circle = [by("a.example", "b.example"), by("b.example", "c.example"), by("c.example", "a.example")];
    let found = told(&shop(), &circle);
    assert_eq!(found.len(), 3, "{found:#?}");
    let said =
        "endpoints vouch for one another in a circle (a.example by b.example by c.example by a.example)";
    assert!(found[0].contains(said), "{found:#?}");

    // Nor does a change close one, or take away who vouches.
    let catalog = catalog_of(&[mesh("shop"), by("a.example", "b.example"), kept("b.example")]);
    let found = told(&catalog, &[by("b.example", "a.example")]);
    assert!(found.len() == 1 && found[0].contains("in a circle"), "{found:#?}");
    let key =
        ResourceKey::federated_trust_domain(Name::parse("shop").unwrap(), Name::parse("b.example").unwrap());
    let target = Target { key, resource_version: 0, ignore_missing: false };
    let refused = admit_removal(&catalog, &[target], EVERYTHING, &trust_domain()).unwrap_err();
    assert!(refused[0].message.contains("still used by federated trust domain \"a.example\""), "{refused:?}");
}
