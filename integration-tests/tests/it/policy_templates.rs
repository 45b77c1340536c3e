//! Templates of policies: one change of a template changes what all policies that follow it say.

use hauberk_integration_tests::{App, get};

use crate::shop::{self, get_until};

const READERS: &str = "kind: PolicyTemplate
mesh: shop
name: readers
spec:
  description: may read
  cedar: permit(principal == ?principal, action == Action::\"GET\", resource in ?resource);
";

const FOLLOWERS: &str = "kind: Policy
mesh: shop
name: web-reads
spec: {template: {name: readers, principal: 'Node::\"web\"', resource: 'Service::\"orders\"'}}
---
kind: Policy
mesh: shop
name: intruder-reads
spec: {template: {name: readers, principal: 'Node::\"intruder\"', resource: 'Service::\"orders\"'}}
";

#[test]
fn a_change_of_a_template_changes_what_follows_it_at_once() {
    let mesh = shop::open();
    mesh.apply(&format!("{FOLLOWERS}---\n{READERS}"));
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/", 200);
    get_until(&intruder, "orders", "/", 200);
    mesh.hauberk(&["can", "web", "orders", "GET", "/"]).ok();

    let stricter = READERS
        .replace("resource in ?resource)", "resource in ?resource) when { context.path == \"/open\" }");
    let dry = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=server"], &stricter).ok();
    assert!(dry.stderr.contains("this changes what follows it: intruder-reads, web-reads"), "{dry:?}");
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &stricter).ok();
    for agent in [&web, &intruder] {
        assert_eq!(get(agent.outbound(), "orders", "/").unwrap().status, 403);
        assert_eq!(get(agent.outbound(), "orders", "/open").unwrap().status, 200);
    }

    let listed = mesh.hauberk(&["get", "policies"]).ok().stdout;
    assert!(listed.contains("of readers"), "{listed}");
    let described = mesh.hauberk(&["describe", "policy", "web-reads"]).ok().stdout;
    for part in ["policytemplate/readers", "principal == Node::\"web\"", "Service::\"orders\""] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let described = mesh.hauberk(&["describe", "template", "readers"]).ok().stdout;
    assert!(described.contains("intruder-reads  Node::\"intruder\", Service::\"orders\""), "{described}");
    let used = mesh.hauberk(&["delete", "template", "readers"]);
    assert!(used.code != 0 && used.stderr.contains("policy \"intruder-reads\""), "{used:?}");
    let unfilled = "kind: Policy\nmesh: shop\nname: web-reads\nspec:\n  template:\n    name: readers\n    \
                    principal: 'Service::\"orders\"'\n";
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], unfilled);
    for told in ["<stdin>:7:", "Service does not fit ?principal", "the template's ?resource is not filled"] {
        assert!(refused.stderr.contains(told), "{told}: {refused:?}");
    }
}
