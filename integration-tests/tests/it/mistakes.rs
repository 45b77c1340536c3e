//! Files with mistakes: every one of them is told at once, with its place, and nothing changes.

use hauberk_integration_tests::MeshBox;

use crate::resources::{SHOP, apply_file, names};

/// Applies a file that has mistakes and checks that each is told with its place, and that nothing has changed. Gives
/// the number of all that is told.
fn refused(mesh: &MeshBox, text: &str, mistakes: &[(&str, &str)]) -> usize {
    let before = names(mesh);
    let output = apply_file(mesh, text);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    for (place, words) in mistakes {
        let told = format!("file.yaml:{place}: ");
        let line = output.stderr.lines().find(|line| line.contains(&told) && line.contains(words));
        assert!(line.is_some(), "{place} {words:?} is missing:\n{}\n{text}", output.stderr);
    }
    assert_eq!(names(mesh), before);
    output.stderr.matches("file.yaml:").count()
}

#[test]
fn mistakes_of_form_are_told_with_their_places() {
    let mesh = MeshBox::start();
    let told = refused(&mesh, "kind: Mesh\nname: shop\nnmae: x\n", &[("3:1", "did you mean `name`?")]);
    assert_eq!(told, 1);
    refused(&mesh, "kind: VirtualNod\nname: a\n", &[("1:7", "did you mean `VirtualNode`?")]);
    refused(&mesh, "kind: Mesh\nname: a\nname: b\n", &[("3:1", "name")]);
    refused(&mesh, "kind: Mesh\nname: \"a\n", &[("2:7", "")]);
    refused(
        &mesh,
        "kind: VirtualNode\nmesh: shop\nname: a\nspec:\n  listeners:\n    - portMaping: {port: 1}\n    - portMapping: {port: high, protocol: http}\n  virtualGateways: 3\n",
        &[
            ("6:7", "spec.listeners[0].portMaping: unknown field; did you mean `portMapping`?"),
            ("7:27", "spec.listeners[1].portMapping.port"),
            ("8:3", "spec.virtualGateways"),
        ],
    );
    for (text, words) in [
        ("", "no resource"),
        ("# nothing\n---\n", "no resource"),
        ("- a\n- b\n", "file.yaml:1:1"),
        ("just words\n", "file.yaml:1:1"),
        ("kind: VirtualRouter\nmesh: shop\nname: r\n", "not supported"),
    ] {
        let output = apply_file(&mesh, text);
        assert_eq!(output.code, 1, "{text:?}: {output:?}");
        assert!(output.stderr.contains(words), "{text:?}: {}", output.stderr);
    }
    let missing = mesh.hauberk(&["apply", "-f", "/nonexistent/shop.yaml"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    assert!(missing.stderr.contains("/nonexistent/shop.yaml"), "{}", missing.stderr);
}

#[test]
fn all_mistakes_of_sense_are_told_at_once() {
    let mesh = MeshBox::start();
    mesh.apply(SHOP);
    let told = refused(
        &mesh,
        "kind: VirtualNode
mesh: shop
name: payments
spec:
  backends:
    - virtualService: {virtualServiceName: order}
  listeners:
    - portMapping: {port: 8080, protocol: htp}
    - portMapping: {port: 8081, protocol: http}
    - portMapping: {port: 8081, protocol: http}
    - portMapping: {port: 70000, protocol: tcp}
---
kind: VirtualService
mesh: shop
name: payments
spec:
  provider:
    virtualNode: {virtualNodeName: payment}
---
kind: VirtualNode
mesh: shopp
name: lost
spec: {}
---
kind: VirtualService
mesh: shop
name: orders-admin
spec:
  provider:
    virtualNode: {virtualNodeName: orders, port: 9999}
",
        &[
            ("6:44", "virtual service \"order\" does not exist"),
            ("8:43", "did you mean \"http\"?"),
            ("10:27", "port 8081 is already that of listeners[1]"),
            ("11:27", "70000"),
            ("18:36", "virtual node \"payment\" does not exist"),
            ("21:7", "mesh \"shopp\" does not exist"),
            ("30:50", "9999"),
        ],
    );
    assert_eq!(told, 7, "so many and no more");
}

#[test]
fn mistakes_in_cedar_are_told_where_they_stand() {
    let mesh = MeshBox::start();
    mesh.apply(SHOP);
    let policy = |cedar: &str| {
        let indented: String = cedar.lines().map(|line| format!("    {line}\n")).collect();
        format!("kind: Policy\nmesh: shop\nname: bad\nspec:\n  cedar: |\n{indented}")
    };
    // Line 1 of the policy is line 6 of the file, its first column the fifth.
    refused(&mesh, &policy("permit(principal == Node::\"web\", action, resource);\nperm"), &[("7:9", "")]);
    refused(&mesh, &policy("permit(principal, action, resource);"), &[("6:12", "principal is Node")]);
    refused(
        &mesh,
        &policy("permit(principal is Node, action == Action::\"GETT\", resource);"),
        &[("6:41", "GET")],
    );
    refused(
        &mesh,
        &policy(
            "permit(principal is Node, action == Action::\"GET\", resource)\nwhen { context.pth == \"/\" };",
        ),
        &[("7:12", "path")],
    );
    // A name that nothing has yet is no mistake, but worth a word.
    let early = apply_file(&mesh, &policy("permit(principal == Node::\"webb\", action, resource);")).ok();
    assert!(early.stderr.contains("webb") && early.stderr.contains("web"), "{}", early.stderr);
}
