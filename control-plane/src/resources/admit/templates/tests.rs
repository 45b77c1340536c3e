use hauberk_proto::mesh::v1::{Resource, resource::Spec};

use super::*;
use crate::resources::admit::{Rights, Target, admit_removal};
use crate::resources::catalog::Catalog;
use crate::resources::testing::*;

const READERS: &str = "permit(principal == ?principal, action in Action::\"read\", resource in ?resource);";

fn shop() -> Catalog {
    catalog_of(&[
        mesh("shop"),
        node("web", []),
        node("orders", [listener(8080, "http")]),
        service("orders", "orders", None),
        role("clerks", &["web"], &[], &[]),
        template("readers", READERS),
        linked("web-reads", "readers", Some("Node::\"web\""), Some("Service::\"orders\"")),
    ])
}

fn refusals(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    let problems = try_admit(catalog, batch, EVERYTHING).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
}

fn warnings(catalog: &Catalog, batch: &[Resource]) -> Vec<String> {
    try_admit(catalog, batch, EVERYTHING).unwrap_or_else(|problems| panic!("{problems:#?}")).warnings
}

fn text_of(catalog: &Catalog, policy: &str) -> String {
    let name = |text| Name::parse(text).unwrap();
    let key = ResourceKey { kind: Kind::Policy, mesh: name("shop"), name: name(policy) };
    catalog.get(&key).unwrap().document().unwrap().text().to_owned()
}

#[test]
fn a_policy_follows_its_template_in_whatever_order_they_come() {
    let batch = [
        linked("a", "writers", Some("Role::\"clerks\""), None),
        template("writers", "permit(principal in ?principal, action, resource in Service::\"orders\");"),
    ];
    let told = "Mesh shop: policy web-reads says nothing new: a permits all of it";
    assert_eq!(warnings(&shop(), &batch), [told]);
    let admission = try_admit(&shop(), &batch, EVERYTHING).unwrap();
    assert!(text_of(&admission.after, "a").contains("principal in Role::\"clerks\""));
    // The template's change is the policy's.
    let changed = READERS.replace("read", "write");
    let after = try_admit(&shop(), &[template("readers", &changed)], EVERYTHING).unwrap();
    assert_eq!(after.warnings, ["PolicyTemplate shop/readers: this changes what follows it: web-reads"]);
    assert!(text_of(&after.after, "web-reads").contains("Action::\"write\""));
    assert_eq!(warnings(&shop(), &[template("readers", &format!("{READERS}\n"))]), [""; 0]);
}

#[test]
fn what_does_not_follow_is_told_with_its_field() {
    let both = {
        let mut both = linked("b", "readers", Some("Node::\"web\""), Some("Service::\"orders\""));
        let Some(Spec::Policy(spec)) = &mut both.spec else { panic!("a policy") };
        spec.cedar = "forbid(principal, action, resource);".into();
        both
    };
    let batch = [
        linked("a", "reader", None, None),
        both,
        linked("c", "readers", Some("Service::\"orders\""), None),
        linked("d", "members", Some("Role::\"clerk\""), Some("Service::\"orders\"")),
        linked("e", "readers", Some("Node::\"a/b\""), Some("Service::\"orders\"")),
        linked("f", "a/b", None, None),
        template("members", "permit(principal in ?principal, action, resource in ?resource);"),
    ];
    let found = refusals(&shop(), &batch);
    for expected in [
        "spec.template.name: policy template \"reader\" does not exist; did you mean \"readers\"?",
        "spec.cedar: it follows a template, too; leave one of them out",
        "spec.template.principal: Service does not fit ?principal; write a caller, such as Node::\"web\" or \
         Role::\"clerks\"",
        "spec.template.resource: the template's ?resource is not filled; write what is called, such as \
         Service::\"orders\" or DataClass::\"pii\"",
        "spec.template: role \"clerk\" does not exist; did you mean \"clerks\"?",
        "spec.template.name: a name consists of A-Z a-z 0-9 . _ - and must not contain '/'",
    ] {
        assert!(found.iter().any(|problem| problem == expected), "{expected}\nin {found:#?}");
    }
    assert!(
        found.iter().any(|problem| problem.starts_with("spec.template: with its slots filled, ")),
        "{found:#?}"
    );
}

#[test]
fn a_template_that_would_break_what_follows_it_is_refused() {
    let told = "spec.cedar: Policy shop/web-reads follows it, and would be wrong: the template has no ?resource; \
                leave it out";
    let narrower = "permit(principal == ?principal, action, resource in Service::\"orders\");";
    assert_eq!(refusals(&shop(), &[template("readers", narrower)]), [told]);
    // With the policy in one change it is good.
    let both = [template("readers", narrower), linked("web-reads", "readers", Some("Node::\"web\""), None)];
    assert_eq!(refusals(&shop(), &both), [""; 0]);
    let unknown =
        READERS.to_owned() + "\nforbid(principal in Role::\"none\", action, resource in ?resource);";
    let told = "spec.cedar: Policy shop/web-reads follows it, and would be wrong: role \"none\" does not exist; \
                apply the role as well";
    assert_eq!(refusals(&shop(), &[template("readers", &unknown)]), [told]);
}

#[test]
fn a_template_stays_as_long_as_policies_follow_it() {
    let name = |text: &str| Name::parse(text).unwrap();
    let catalog = shop();
    let removal = |targets: &[(Kind, &str)]| {
        let target = |(kind, which): &(Kind, &str)| Target {
            key: ResourceKey { kind: *kind, mesh: name("shop"), name: name(which) },
            resource_version: 0,
            ignore_missing: false,
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let problems = admit_removal(&catalog, &targets, EVERYTHING, &trust_domain()).err();
        problems.unwrap_or_default().iter().map(|problem| problem.description()).collect::<Vec<_>>()
    };
    let told =
        "PolicyTemplate shop/readers is still used by policy \"web-reads\"; remove these first, or with it";
    assert_eq!(removal(&[(Kind::PolicyTemplate, "readers")]), [told]);
    assert_eq!(removal(&[(Kind::PolicyTemplate, "readers"), (Kind::Policy, "web-reads")]), [""; 0]);
    let rights = Rights { policies: false, ..EVERYTHING };
    let problems = try_admit(&catalog, &[template("t", READERS)], rights).unwrap_err();
    assert_eq!(problems[0].message, "to change a policy template takes the role policy-admin");
}
