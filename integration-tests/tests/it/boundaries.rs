//! Boundaries: what no policy permits, and who may change that.

use std::path::Path;

use hauberk_integration_tests::{CommandOutput, MeshBox, get};

use crate::shop::{self, WEB_MAY_ALL, get_until};

const BOUNDARY: &str = "kind: Boundary
mesh: shop
name: no-secrets
spec:
  description: nobody reads secrets over the mesh
  cedar: |
    forbid(principal, action in Action::\"http\", resource in Service::\"orders\")
    when { context.path like \"/secret*\" };
";

/// Applies resources as an admin who has these roles alone.
fn apply_as(mesh: &MeshBox, admin: &str, roles: &[&str], yaml: &str) -> CommandOutput {
    let mut create = vec!["admin", "create", admin];
    roles.iter().for_each(|role| create.extend(["--role", role]));
    let made = mesh.hauberk(&create).ok().stdout;
    let token = mesh.folder().join(format!("login-{admin}"));
    std::fs::write(&token, made.split_whitespace().find(|word| word.starts_with("hbl1-")).unwrap()).unwrap();
    login(mesh, admin, &token);
    mesh.hauberk_with_input(&["apply", "-f", "-", "--context", admin], yaml)
}

fn login(mesh: &MeshBox, admin: &str, token: &Path) {
    let root = mesh.root_fingerprint();
    let (server, file) = (mesh.admin_address(), token.to_str().unwrap());
    let arguments = ["--root-fingerprint", &root, "--token-file", file, "--name", admin];
    mesh.hauberk(&[&["login", "--server", server], &arguments[..]].concat()).ok();
    mesh.hauberk(&["context", "use", "box"]).ok();
}

#[test]
fn what_the_boundary_forbids_no_policy_permits_and_no_audit_lets_through() {
    let (mesh, _app, _orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/secret", 200);

    let refused = apply_as(&mesh, "pat", &["policy-admin", "editor"], BOUNDARY);
    assert!(refused.code != 0 && refused.stderr.contains("role boundary-admin"), "{refused:?}");
    apply_as(&mesh, "bo", &["boundary-admin"], BOUNDARY).ok();
    mesh.wait_enforced();
    let denied = get(web.outbound(), "orders", "/secret").unwrap();
    assert_eq!(denied.status, 403);
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("the mesh's boundary forbids it (boundary:no-secrets)"), "{told}");
    let first = told.lines().skip_while(|line| !line.contains("the nearest first")).nth(1).unwrap();
    assert!(first.contains("boundary:no-secrets"), "{told}");
    assert_eq!(get(web.outbound(), "orders", "/other").unwrap().status, 200);

    // Neither a permit nor a mesh in AUDIT lifts it.
    mesh.apply("kind: Mesh\nname: shop\nspec: {authorization: AUDIT}\n");
    shop::set_policy(
        &mesh,
        "more",
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");",
    );
    assert_eq!(get(web.outbound(), "orders", "/secret").unwrap().status, 403);
    let json = mesh.hauberk(&["can", "web", "orders", "GET", "/secret", "-o", "json"]).stdout;
    assert!(json.contains("forbidden_by_boundary"), "{json}");

    // A policy-admin moves nothing from under it.
    let elsewhere = "kind: VirtualService\nmesh: shop\nname: orders\nspec: {provider: {virtualNode: \
                     {virtualNodeName: payments}}}\n";
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-", "--context", "pat"], elsewhere);
    assert!(refused.code != 0 && refused.stderr.contains("boundary-admin"), "{refused:?}");
    assert!(mesh.hauberk(&["delete", "boundary", "no-secrets", "--context", "pat"]).code != 0);

    let listed = mesh.hauberk(&["get", "boundaries"]).ok().stdout;
    assert!(listed.contains("1 forbid") && listed.contains("nobody reads secrets"), "{listed}");
    let described = mesh.hauberk(&["describe", "boundary", "no-secrets"]).ok().stdout;
    assert!(described.contains("Service::\"orders\""), "{described}");
    let node = mesh.hauberk(&["describe", "service", "orders"]).ok().stdout;
    assert!(node.contains("boundary:no-secrets"), "{node}");
    let permits = BOUNDARY.replace("forbid(principal,", "permit(principal is Node,");
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &permits);
    assert!(
        refused.stderr.contains("<stdin>:7:") && refused.stderr.contains("a boundary only forbids"),
        "{refused:?}"
    );
    let client = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=client"], &permits);
    assert!(client.stderr.contains("a boundary only forbids"), "{client:?}");

    mesh.hauberk(&["delete", "boundary", "no-secrets", "--context", "bo"]).ok();
    mesh.wait_enforced();
    assert_eq!(get(web.outbound(), "orders", "/secret").unwrap().status, 200);
}
