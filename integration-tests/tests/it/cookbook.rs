//! The cookbook of docs/authorization.md: each rule with its assertions, by `hauberk policy test` and no control plane;
//! and whether the page's other resources are admitted.

use std::fs;
use std::path::Path;
use std::process::Command;

use hauberk_integration_tests::{CommandOutput, binary};

const PAGE: &str = include_str!("../../../docs/authorization.md");

/// A rule of the cookbook.
struct Recipe<'a> {
    title: &'a str,
    resources: &'a str,
    assertions: &'a str,
}

/// What stands in the YAML fences of a text.
fn fences(text: &str) -> Vec<&str> {
    text.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// The shop, and the recipes.
fn cookbook() -> (&'static str, Vec<Recipe<'static>>) {
    let (_, section) = PAGE.split_once("\n## Cookbook\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut parts = section.split("\n### ");
    let shop = fences(parts.next().unwrap())[0];
    let recipe = |part: &'static str| {
        let (title, text) = part.split_once('\n').unwrap();
        let [resources, assertions] = fences(text)[..] else { panic!("{title}: a rule and its assertions") };
        Recipe { title, resources, assertions }
    };
    (shop, parts.map(recipe).collect())
}

/// Runs assertions in a folder that has no context.
pub(crate) fn policy_test(folder: &Path, assertions: &str, resources: &[&str]) -> CommandOutput {
    let tests = folder.join("tests.yaml");
    fs::write(&tests, assertions).unwrap();
    let mut command = Command::new(binary("hauberk"));
    command.args(["policy", "test"]).arg(&tests).env("HAUBERK_HOME", folder).env("NO_COLOR", "1");
    for (index, resources) in resources.iter().enumerate() {
        let file = folder.join(format!("resources-{index}.yaml"));
        fs::write(&file, resources).unwrap();
        command.arg("-f").arg(&file);
    }
    let output = command.output().unwrap();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn every_rule_of_the_cookbook_does_what_it_says() {
    let (shop, recipes) = cookbook();
    assert!(recipes.len() >= 15, "{}", recipes.len());
    let folder = tempfile::tempdir().unwrap();
    for Recipe { title, resources, assertions } in recipes {
        assert!(assertions.lines().count() > 1, "{title}");
        // A recipe may bring a node of its own instead of the shop's.
        let others = without(shop, resources);
        let tested = policy_test(folder.path(), assertions, &[&others.join("---\n"), resources]);
        assert_eq!(tested.code, 0, "{title}: {tested:?}");
        // None of them holds by itself.
        let without = policy_test(folder.path(), assertions, &[shop]);
        assert_eq!(without.code, 1, "{title}: {without:?}");
    }
}

/// What the resources of the page name besides the cookbook's shop.
const SURROUNDINGS: &str = r#"
{kind: Mesh, name: bank, spec: {}}
---
{kind: VirtualNode, mesh: bank, name: teller, spec: {}}
---
kind: VirtualNode
mesh: shop
name: payments
spec:
  serviceDiscovery: {dns: {hostname: payments.internal}}
  listeners: [{portMapping: {port: 8080, protocol: http}}]
---
kind: VirtualService
mesh: shop
name: payments
spec: {provider: {virtualNode: {virtualNodeName: payments}}}
---
{kind: Role, mesh: shop, name: support, spec: {members: [{virtualNode: cart}]}}
---
kind: Enrollment
mesh: shop
name: worker
spec: {parent: {virtualNode: web}, workload: {path: billing/worker, selectors: ['unix:uid:7']}}
---
kind: VirtualGateway
mesh: shop
name: edge
spec: {}
---
kind: FederatedTrustDomain
mesh: shop
name: partner.example
spec: {bundleEndpointUrl: 'https://partner.example/', bundleEndpointProfile: {type: https_web}}
"#;

/// What the assertions of the page hold of.
const ASSERTED: &str = r#"
kind: Policy
mesh: shop
name: asserted
spec:
  cedar: |
    permit(principal == Node::"web", action == Action::"GET", resource in Service::"orders");
    permit(principal == Node::"cart", action == Action::"connect", resource == Port::"cache:6379");
    permit(principal == Node::"web", action == Action::"POST", resource in Service::"orders")
    when { context.time.toTime() >= duration("8h") };
"#;

/// Documents, but those that one of `others` is instead of.
fn without<'a>(documents: &'a str, others: &str) -> Vec<&'a str> {
    let of = |document: &str| -> Option<(String, String)> {
        let value = |name: &str| {
            let (_, rest) = document.split_once(name)?;
            Some(rest.split([',', '\n', '}']).next()?.trim().to_owned())
        };
        Some((value("kind: ")?, value("name: ")?))
    };
    let others: Vec<_> = others.split("---\n").map(of).collect();
    documents.split("---\n").filter(|document| !others.contains(&of(document))).collect()
}

#[test]
fn every_other_resource_of_the_page_is_admitted() {
    let (shop, _) = cookbook();
    let (before, cookbook) = PAGE.split_once("\n## Cookbook\n").unwrap();
    let (_, after) = cookbook.split_once("\n## ").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let around = format!("{shop}---{SURROUNDINGS}");
    let mut admitted = 0;
    for example in [before, after].into_iter().flat_map(fences) {
        let is_assertions = example.contains("\ntests:\n");
        let (assertions, resources) = match is_assertions {
            true => (example, ASSERTED),
            false => (
                "mesh: shop\ntrustDomain: shop.example\ntests:\n- deny: {caller: cart, target: cache}\n",
                example,
            ),
        };
        let around = without(&around, resources).join("---\n");
        let tested = policy_test(folder.path(), assertions, &[&around, resources]);
        assert_eq!(tested.code, 0, "{example}: {tested:?}");
        admitted += 1;
    }
    assert!(admitted >= 12, "{admitted}");
}

#[test]
fn an_assertion_that_does_not_hold_is_told_with_its_place_and_why() {
    let (shop, recipes) = cookbook();
    let folder = tempfile::tempdir().unwrap();
    let rule = recipes.iter().find(|recipe| recipe.title == "Business hours").unwrap().resources;
    let assertions = "trustDomain: shop.example
tests:
- name: web writes at night
  allow: {caller: web, target: orders, port: 8080, method: POST, path: /orders/1, time: '2026-03-02T03:00:00Z'}
- deny: {caller: web, target: orders, port: 8080, method: POST, path: /orders/1}
- allow: {caller: web, target: oders, port: 8080, method: POST, path: /orders/1}
- deny: {caller: cart, target: orders, port: 8080, method: POST, path: /orders/1}
";
    let tested = policy_test(folder.path(), assertions, &[shop, rule]);
    assert_eq!(tested.code, 1, "{tested:?}");
    for told in [
        "tests.yaml:3:3: web writes at night: expected allow, got deny: no policy permits it",
        "context.time.toTime(): expected >= duration(\"8h\"), was",
        "tests.yaml:5:3: test 2: expected deny, got conditional: it depends on what is not told",
        "rule: ",
        "tests.yaml:6:3: test 3: expected allow, got no answer",
        "did you mean \"orders\"?",
        "1 passed, 3 failed",
    ] {
        assert!(tested.stdout.contains(told), "{told}: {}", tested.stdout);
    }
    // What cannot be run is told apart from what does not hold.
    for (assertions, resources, told) in [
        (
            "tests:\n- alow: {caller: web}\n",
            shop,
            "tests.yaml:2:3: tests[0].alow: unknown field; did you mean `allow`?",
        ),
        ("tests:\n- allow: {caller: web}\n", shop, "`target` is missing"),
        (
            assertions,
            "kind: Policy\nmesh: shop\nname: p\nspec: {cedar: 'permit(principal, action, resource);'}\n",
            "resources-0.yaml:2:7: mesh: mesh \"shop\" does not exist",
        ),
    ] {
        let tested = policy_test(folder.path(), assertions, &[resources]);
        assert_eq!(tested.code, 2, "{tested:?}");
        assert!(tested.stderr.contains(told), "{told}: {tested:?}");
    }
}
