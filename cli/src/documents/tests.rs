//! Every mistake with its place, and what is written can be read again.

use base64::Engine as _;
use hauberk_proto::mesh::v1::{Resource, api_description::Description, resource::Spec};

use super::message::APP_MESH_ONLY;
use super::problem::Source;
use super::read::{Documents, ReadError, parse};
use super::{resource_tree, to_json, to_yaml};

fn load(text: &str) -> Result<Documents, ReadError> {
    parse(vec![Source { name: "shop.yaml".to_owned(), text: text.to_owned(), folder: None }], None)
}

fn one(text: &str) -> Resource {
    load(text).unwrap().resources().next().unwrap().clone()
}

/// The messages without colours.
fn wrong(text: &str) -> String {
    anstream::adapter::strip_str(&load(text).unwrap_err().to_string()).to_string()
}

#[test]
fn a_whole_node_is_read() {
    let resource = one(
        "kind: VirtualNode\nmesh: shop\nname: orders\nlabels: {team: checkout}\nspec:\n  listeners:\n  - portMapping: {port: 8080, protocol: http}\n",
    );
    let Some(Spec::VirtualNode(node)) = &resource.spec else { panic!("{resource:?}") };
    assert_eq!(node.listeners[0].port_mapping.as_ref().unwrap().port, Some(8080));
    assert_eq!(resource.labels["team"], "checkout");
}

#[test]
fn a_virtual_gateway_is_read_and_what_it_would_listen_on_is_refused_by_name() {
    for text in [
        "kind: VirtualGateway\nmesh: shop\nname: edge\nspec: {}\n",
        "meshName: shop\nvirtualGatewayName: edge\nspec: {}\n",
    ] {
        let resource = one(text);
        assert!(matches!(resource.spec, Some(Spec::VirtualGateway(_))), "{resource:?}");
        assert_eq!((resource.mesh.as_str(), resource.name.as_str()), ("shop", "edge"));
        assert_eq!(one(&to_yaml(&resource_tree(&resource))), resource);
    }
    let gateway = "meshName: shop\nvirtualGatewayName: edge\nspec:";
    let listening = wrong(&format!("{gateway} {{listeners: []}}\n"));
    assert!(
        listening.contains("`listeners` of a virtual gateway are not supported by this version"),
        "{listening}"
    );
    let defaults = wrong(&format!("{gateway} {{backendDefaults: {{}}}}\n"));
    assert!(defaults.contains("App Mesh's `backendDefaults` is not supported by this version"), "{defaults}");
    assert!(
        wrong(&format!("{gateway} {{lisseners: []}}\n")).contains("unknown field; nothing can stand here")
    );
    let both = wrong("meshName: shop\nvirtualGatewayName: edge\nvirtualNodeName: edge\nspec: {}\n");
    assert!(both.contains("this document does not say its `kind`"), "{both}");
    let route = wrong("kind: GatewayRoute\nmesh: shop\nname: r\nspec: {}\n");
    assert!(route.contains("App Mesh's GatewayRoute is not supported by this version"), "{route}");
    // An enrollment says one of the two.
    let both = wrong(
        "kind: Enrollment\nmesh: shop\nname: e\nspec: {attest: {rules: [{virtualNode: a, virtualGateway: b}], joinToken: {}}}\n",
    );
    assert!(both.contains("only one of `virtualNode` and `virtualGateway` can be set"), "{both}");
}

#[test]
fn the_readme_names_what_of_app_mesh_is_refused() {
    const README: &str = include_str!("../../../README.md");
    let (_, list) = README.split_once("## What does not work yet\n").unwrap();
    let list = list.split("\n## ").next().unwrap();
    for field in APP_MESH_ONLY {
        assert!(list.contains(&format!("`{field}`")), "{field}");
    }
    // Its kinds, as a sentence has them.
    for (kind, said) in
        [("VirtualRouter", "virtual routers"), ("Route", "routes"), ("GatewayRoute", "gateway routes")]
    {
        let refused = wrong(&format!("kind: {kind}\nmesh: shop\nname: r\nspec: {{}}\n"));
        assert!(refused.contains(&format!("App Mesh's {kind} is not supported")), "{refused}");
        assert!(list.contains(said), "{said}");
    }
}

#[test]
fn what_stands_in_a_file_does_not_command_the_terminal() {
    let evil = r"x\e[31mRED\e]0;PWN\a\u202e";
    for text in [
        format!("kind: \"{evil}\"\nmesh: m\nname: n\n"),
        format!("kind: Mesh\nname: m\n\"{evil}\": 1\n"),
        format!("kind: Mesh\nname: m\nspec: {{\"{evil}\": 1}}\n"),
        format!("kind: Mesh\nname: m\nlabels: {{\"{evil}\": 1}}\n"),
        format!("kind: Mesh\nname: m\nname: m\n\"{evil}\": 1\n\"{evil}\": 1\n"),
    ] {
        let told = load(&text).unwrap_err().to_string();
        assert!(
            !told.contains("\x1b[31mRED") && !told.contains("\x1b]") && !told.contains('\u{202e}'),
            "{told:?}"
        );
    }
    let label = crate::kinds::label(&Resource { name: "a\x1b[31mb".into(), ..Resource::default() });
    assert_eq!(label, "unknown/a\u{fffd}[31mb");
}

#[test]
fn aliases_are_counted_by_what_they_hold() {
    let text = format!(
        "kind: Policy\nmesh: m\nname: n\nspec:\n  description: &a \"{}\"\n  x: [{}]\n",
        "x".repeat(1 << 20),
        "*a,".repeat(100)
    );
    let told = wrong(&text);
    assert!(told.contains("more than 64 MiB of text, aliases counted at each use"), "{}", &told[..300]);
}

#[test]
fn many_problems_are_counted_and_found_quickly() {
    let keys: String = (0..30_000).map(|index| format!("k{index}: 1\n")).collect();
    let told = wrong(&format!("kind: Mesh\nname: m\n{keys}"));
    assert!(told.contains("\nand 29950 more\n30000 problems"), "{}", &told[told.len() - 200..]);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once_with_its_place() {
    let text = "\
kind: VirtualNode
mesh: shop
name: orders
colour: red
spec:
  listeners:
    - portMaping: {port: 8080}
    - portMapping: {port: \"8081\", protocol: 5}
    - portMapping: {port: -1, protocol: http}
      healthCheck: {}
  serviceDiscovery: {dns: {hostname: a}, registered: {}}
---
kind: VirtualNod
name: x
---
kind: VirtualService
spec: []
";
    insta::assert_snapshot!(wrong(text));
}

#[test]
fn what_is_said_of_a_port_is_said_in_its_listener() {
    for (field, value) in [("api", "{openapi: a}"), ("routes", "[]"), ("undeclared", "DENY")] {
        let told = wrong(&format!("kind: VirtualNode\nmesh: m\nname: n\nspec: {{{field}: {value}}}\n"));
        let expected =
            format!("spec.{field}: unknown field; it stands in each listener, spec.listeners[].{field}");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn duplicate_keys_are_refused() {
    insta::assert_snapshot!(wrong("kind: Mesh\nname: a\nname: b\n"));
}

#[test]
fn text_that_is_not_yaml_is_refused_with_its_place() {
    insta::assert_snapshot!(wrong("kind: Mesh\nname: \"a\nspec: {}\n"));
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(wrong(&bomb).contains("more than 1000000 values"), "{}", wrong(&bomb));
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    // The scanner itself gives up at 255 levels.
    assert!(wrong(&deep).contains("recursion limit") && wrong(&deep).len() < 500, "{}", wrong(&deep));
    let nested = format!("{}x{}", "[".repeat(100), "]".repeat(100));
    assert!(wrong(&nested).contains("nested deeper than 64 levels"));
    assert!(wrong("a: &a [*a]\n").contains("shop.yaml:1"));
}

#[test]
fn anchors_may_be_used_for_what_they_are_for() {
    let resource = one(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - portMapping: &p {port: 1, protocol: http}\n  - portMapping: *p\n",
    );
    let Some(Spec::VirtualNode(node)) = resource.spec else { panic!() };
    assert_eq!(node.listeners[0].port_mapping, node.listeners[1].port_mapping);
}

#[test]
fn app_mesh_spellings_imply_the_kind() {
    let node = one(r#"{"meshName": "shop", "virtualNodeName": "orders", "spec": {"listeners": []}}"#);
    assert!(matches!(node.spec, Some(Spec::VirtualNode(_))));
    assert_eq!((node.mesh.as_str(), node.name.as_str()), ("shop", "orders"));
    let mesh = one("{\n\t\"meshName\": \"shop\",\n\t\"spec\": {}\n}");
    assert!(matches!(mesh.spec, Some(Spec::MeshSpec(_))));
    assert_eq!(mesh.name, "shop");
}

#[test]
fn what_the_server_finds_is_shown_in_the_file() {
    let text = "\
# two documents
kind: Mesh
name: shop
---
kind: Policy
mesh: shop
name: p
labels: {app.example/name: x}
spec:
  cedar: |
    permit (principal == Node::\"web\", action, resource);
    permit (oops);
";
    let violations = vec![
        ("resources[1].spec.cedar".to_owned(), "2:9: expected an identifier".to_owned()),
        ("resources[1].labels.app.example/name".to_owned(), "too long".to_owned()),
        ("resources[1].name".to_owned(), "Policy shop/p is already resources[0]".to_owned()),
        ("resources[1].spec.mode".to_owned(), "not there".to_owned()),
        ("page".to_owned(), "elsewhere".to_owned()),
    ];
    let (problems, elsewhere) = load(text).unwrap().locate(violations);
    insta::assert_snapshot!(anstream::adapter::strip_str(&problems.unwrap().to_string()).to_string());
    assert_eq!(elsewhere, ["page: elsewhere"]);
}

#[test]
fn what_is_written_is_read_back_the_same() {
    let text = r##"
kind: Policy
mesh: shop
name: "8080"
labels: {a: "yes", b: "1e3", c: "", d: "a: b", e: "x #y", f: " lead", g: "é\u2028\u0007\"\\", h: "null", "k:": "-"}
metadata: {resourceVersion: 7}
spec:
  cedar: "\n  permit (principal is Node, action, resource);\n\n\tx\n"
  description: "tail\n\n"
---
kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
    routes: [{path: "/orders/{id}", methods: [GET, HEAD]}, {path: "/*"}]
  - portMapping: {port: 9090, protocol: tcp}
  backends: [{virtualService: {virtualServiceName: payments}}]
  serviceDiscovery: {registered: {}}
---
kind: Mesh
name: empty
"##;
    for resource in load(text).unwrap().resources() {
        let tree = resource_tree(resource);
        assert_eq!(&one(&to_yaml(&tree)), resource, "{}", to_yaml(&tree));
        assert_eq!(&one(&to_json(&tree)), resource, "{}", to_json(&tree));
    }
}

#[test]
fn a_list_of_resources_is_read_as_so_many_documents() {
    let listed =
        load(r#"{"items": [{"kind": "Mesh", "name": "a"}, {"kind": "Mesh", "name": "b"}]}"#).unwrap();
    let names: Vec<&str> = listed.resources().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(wrong("items: []\nname: a\n").contains("shop.yaml:1:1: items: unknown field"));
    assert!(wrong("items:\n  - {kind: Mesh, nam: a}\n").contains("shop.yaml:2:18: nam: unknown field"));
}

#[test]
fn resources_are_written_as_people_write_them() {
    let text = "kind: Policy\nmesh: shop\nname: web-may-read\nspec:\n  cedar: |\n    permit (\n      principal,\n      action,\n      resource\n    );\n  mode: ENFORCE\n";
    assert_eq!(to_yaml(&resource_tree(&one(text))), text);
}

#[test]
fn app_mesh_samples_are_read_or_refused_by_name() {
    let Some(folder) = crate::skipped::shared("samples/app-mesh") else { return };
    let mut seen = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains("-vn-") && !name.contains("-vs-") {
            continue;
        }
        // Their authors fill bare $NAMEs before use.
        let text = std::fs::read_to_string(&path).unwrap();
        let filled: String = text
            .lines()
            .map(|line| match line.split_once('$') {
                Some((before, after)) => {
                    let rest = after.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
                    format!("{before}\"filled\"{rest}\n")
                }
                None => format!("{line}\n"),
            })
            .collect();
        let named = if name.contains("-vn-") { "VirtualNode" } else { "VirtualService" };
        let body = filled.trim_start().trim_start_matches('{');
        let extra = if body.contains("virtualNodeName\": \"color-node") { "" } else { ", \"name\": \"x\"" };
        let whole = format!("{{\"kind\": \"{named}\", \"mesh\": \"m\"{extra},{body}");
        // Each field either is one of ours or is named in a refusal; none vanishes.
        let fields =
            ["healthCheck", "outlierDetection", "awsCloudMap", "certificate", "validation", "virtualRouter"];
        match load(&whole) {
            Ok(documents) => assert_eq!(documents.resources().count(), 1),
            Err(_) => {
                let report = wrong(&whole);
                for field in fields.iter().filter(|field| whole.contains(&format!("\"{field}\""))) {
                    assert!(
                        report.contains(&format!("App Mesh's `{field}` is not supported")),
                        "{name}: {report}"
                    );
                }
                assert!(!report.contains("this is not YAML"), "{name}: {report}");
            }
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} samples were there");
}

#[test]
fn bytes_are_read_in_lines_as_base64_writes_them() {
    let node = |api: &str| {
        format!(
            "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - api:\n      protobuf: {api}\n"
        )
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode([7_u8; 200]);
    let lines: Vec<String> =
        encoded.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let resource = one(&node(&format!("|\n        {}", lines.join("\r\n        "))));
    let Some(Spec::VirtualNode(read)) = &resource.spec else { panic!("{resource:?}") };
    let described = read.listeners[0].api.clone().unwrap().description.unwrap();
    assert_eq!(described, Description::Protobuf(vec![7_u8; 200]));
    assert!(wrong(&node("'AA*='")).contains("expected bytes in base64"));
}

#[test]
fn ten_thousand_policies_fit_into_a_file() {
    let policy = |number: usize| {
        format!(
            "---\nkind: Policy\nmesh: shop\nname: p-{number}\nlabels: {{team: a}}\nspec:\n  description: one of many\n  cedar: |\n    \
             permit(principal == Node::\"web\", action, resource in Service::\"orders-{number}\")\n    when {{ {} }};\n",
            "context.path like \"/orders/*\" && ".repeat(40) + "true"
        )
    };
    let text: String = (0..10_000).map(policy).collect();
    assert!(text.len() > 8 << 20, "{}", text.len());
    assert_eq!(load(&text).ok().map(|read| read.resources().count()), Some(10_000));
}
