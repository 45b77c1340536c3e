use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::mesh::v1::{self as wire, Resource, resource::Spec};
use hauberk_tls::SpiffeBundle;

use super::*;
use crate::registry::{Stored, Version};
use crate::resources::admit::{Target, admit_removal};
use crate::resources::federated_trust_domain::tests::bundle;
use crate::resources::testing::*;
use crate::resources::{Catalog, FetchedBundle};

const OF_DOMAIN: &str = "permit(principal is Workload in TrustDomain::\"partner.example\", action, resource in Service::\"orders\");";
const OF_ONE: &str = "permit(principal == Workload::\"spiffe://partner.example/billing\", action, resource in Service::\"orders\");";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn key() -> ResourceKey {
    ResourceKey::federated_trust_domain(name("shop"), name("partner.example"))
}

/// What is told where partner.example goes, and these policies with it.
fn told_of_removal(others: &[Resource], with_it: &[&str]) -> Vec<String> {
    let mut batch = vec![
        mesh("shop"),
        node("orders", [listener(8080, "http")]),
        service("orders", "orders", None),
        partner(),
    ];
    batch.extend_from_slice(others);
    let catalog = catalog_of(&batch);
    let policies = with_it.iter().map(|policy| ResourceKey {
        kind: Kind::Policy,
        mesh: name("shop"),
        name: name(policy),
    });
    let targets: Vec<_> = std::iter::once(key())
        .chain(policies)
        .map(|key| Target { key, resource_version: 0, ignore_missing: false })
        .collect();
    let removal = admit_removal(&catalog, &targets, EVERYTHING, &trust_domain()).unwrap();
    removal.warnings.into_iter().filter(|warning| warning.contains("its members")).collect()
}

#[test]
fn permits_that_still_name_members_of_one_that_goes_are_told() {
    for text in [OF_DOMAIN, OF_ONE] {
        let told = told_of_removal(&[policy("allow-billing", text)], &[]);
        let expected = "FederatedTrustDomain shop/partner.example: allow-billing still names its members, whom every agent refuses from \
                        then on; delete it too, or whoever follows it again lets them in at once";
        assert_eq!(told, [expected]);
        assert_eq!(told_of_removal(&[policy("allow-billing", text)], &["allow-billing"]), [""; 0]);
        assert_eq!(told_of_removal(&[policy("never", &text.replacen("permit", "forbid", 1))], &[]), [""; 0]);
    }
    let mut audited = policy("audited", OF_DOMAIN);
    let Some(Spec::Policy(spec)) = &mut audited.spec else { panic!("a policy") };
    spec.mode = Some("AUDIT".to_owned());
    let all = policy("all", "permit(principal is Workload, action, resource in Service::\"orders\");");
    let own = policy("own", &OF_DOMAIN.replace("partner.example", "shop.example"));
    assert_eq!(told_of_removal(&[audited, all, own], &[]), [""; 0]);
}

#[test]
fn of_many_permits_the_first_are_told() {
    let policies: Vec<_> = (1..=7).map(|number| policy(&format!("p{number}"), OF_ONE)).collect();
    let told = told_of_removal(&policies, &["p1"]);
    assert!(told[0].contains("p2, p3, p4, p5, p6 and 1 more still name its members"), "{told:?}");
    assert!(told_of_removal(&policies[..2], &[])[0].contains(": p1, p2 still name"));
}

fn followed(change: impl FnOnce(&mut wire::FederatedTrustDomainSpec)) -> Resource {
    let mut resource = partner();
    let Some(Spec::FederatedTrustDomain(spec)) = &mut resource.spec else { panic!("one that is followed") };
    change(spec);
    resource
}

/// What is told of a change of partner.example, for which this was fetched.
fn told_of_change(
    fetched: Option<&str>,
    change: impl FnOnce(&mut wire::FederatedTrustDomainSpec),
) -> Vec<String> {
    told_between(&partner(), fetched, &followed(change))
}

fn told_between(before: &Resource, fetched: Option<&str>, after: &Resource) -> Vec<String> {
    let mut catalog: Catalog = catalog_of(&[mesh("shop"), before.clone()]);
    if let Some(document) = fetched {
        let read = SpiffeBundle::parse(&TrustDomain::parse("partner.example").unwrap(), document.as_bytes());
        let entry = catalog.get(&key()).unwrap();
        let fetched = FetchedBundle::new(entry, None, read.unwrap(), UnixMillis(0)).unwrap();
        let stored = Stored { version: Version::default(), value: fetched.to_bytes(&key()).unwrap() };
        catalog.write_fetched(&FetchedBundle::store_key(&key()), Some(&stored));
        assert!(catalog.mesh("shop").unwrap().fetched("partner.example").is_some());
    }
    let warnings = try_admit(&catalog, std::slice::from_ref(after), EVERYTHING).unwrap().warnings;
    warnings.into_iter().filter(|warning| warning.contains("counts no longer")).collect()
}

#[test]
fn a_change_by_which_what_was_fetched_counts_no_longer_is_told() {
    let fetched = bundle("partner.example");
    let moved = |spec: &mut wire::FederatedTrustDomainSpec| {
        spec.bundle_endpoint_url = "https://other.partner.example/".to_owned();
    };
    let inside = |spec: &mut wire::FederatedTrustDomainSpec| spec.allow_private_addresses = Some(true);
    for told in [told_of_change(Some(&fetched), moved), told_of_change(Some(&fetched), inside)] {
        assert!(
            told.len() == 1 && told[0].contains("until its bundle is fetched anew, its members are refused"),
            "{told:?}"
        );
        assert!(told[0].contains("`hauberk bundle export partner.example --mesh shop`"), "{told:?}");
    }
    assert_eq!(told_of_change(None, moved), [""; 0], "nothing was fetched");
    assert_eq!(told_of_change(Some(&fetched), |_| {}), [""; 0], "it is as it was");
    assert_eq!(told_of_change(Some("{\"keys\":[]}"), moved), [""; 0], "nobody was let in either");
}

#[test]
fn what_is_written_meanwhile_is_told_where_it_is_something_else() {
    let (fetched, other) = (bundle("partner.example"), bundle("partner.example"));
    let with = |written: &str| {
        let written = written.to_owned();
        move |spec: &mut wire::FederatedTrustDomainSpec| spec.trust_domain_bundle = written
    };
    assert_eq!(told_of_change(Some(&fetched), with(&fetched)), [""; 0]);
    // Also where it had taken all back.
    for fetched in [&*fetched, "{\"keys\":[]}"] {
        let told = told_of_change(Some(fetched), with(&other));
        let expected = "until its bundle is fetched anew, only whom `trustDomainBundle` verifies is let in";
        assert!(told.len() == 1 && told[0].ends_with(expected), "{told:?}");
    }
    let for_good = told_of_change(Some(&fetched), |spec| {
        spec.trust_domain_bundle.clone_from(&other);
        spec.bundle_endpoint_url.clear();
        spec.bundle_endpoint_profile = None;
    });
    assert!(for_good[0].contains("no longer: from then on, only whom"), "{for_good:?}");
}

#[test]
fn what_was_written_and_is_in_force_counts_as_what_was_fetched() {
    let (first, second) = (bundle("partner.example"), bundle("partner.example"));
    let with = |written: &str| followed(|spec| spec.trust_domain_bundle = written.to_owned());
    let alone = |written: &str| {
        followed(|spec| {
            spec.trust_domain_bundle = written.to_owned();
            spec.bundle_endpoint_url.clear();
            spec.bundle_endpoint_profile = None;
        })
    };
    let keys = |text: &str| {
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        document["keys"].as_array().unwrap().clone()
    };
    let of_both = [keys(&first), keys(&second)].concat();
    let both = serde_json::json!({ "keys": of_both }).to_string();
    for before in [alone(&first), with(&first)] {
        let told = told_between(&before, None, &partner());
        let expected = "FederatedTrustDomain shop/partner.example: its former `trustDomainBundle` counts no longer: until its bundle is \
                        fetched anew, its members are refused and their connections cut; to keep it meanwhile, leave it there beside the \
                        endpoint";
        assert_eq!(told, [expected]);
        let told = told_between(&before, None, &alone(&second));
        assert!(told.len() == 1 && told[0].contains("no longer: from then on, only whom"), "{told:?}");
        let told = told_between(&before, None, &with(&second));
        assert!(told.len() == 1 && told[0].contains("fetched anew, only whom"), "{told:?}");
        for same in [alone(&first), with(&first), alone(&both), with(&both)] {
            assert_eq!(told_between(&before, None, &same), [""; 0], "who is let in stays so");
        }
    }
    let fewer = told_between(&alone(&both), None, &alone(&first));
    assert!(fewer.len() == 1 && fewer[0].contains("only whom"), "{fewer:?}");
    // Another was in force than is written.
    let told = told_between(&with(&first), Some(&second), &partner());
    assert!(told.len() == 1 && told[0].contains("`hauberk bundle export partner.example"), "{told:?}");
    assert_eq!(told_between(&partner(), None, &with(&first)), [""; 0], "there was none");
}
