//! Resources through the command line: created, listed, compared, changed together or not at all, and refused with the
//! place of every mistake.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hauberk_integration_tests::{CommandOutput, MeshBox, binary, dial};
use hauberk_proto::{
    admin::v1::{ApplyRequest, ListRequest, WatchEvent, WatchRequest, resources_client::ResourcesClient},
    mesh::v1::{Kind, Metadata, Resource, VirtualNodeSpec, resource::Spec},
};
use tokio::time::timeout;
use tonic::{Code, transport::Channel};

use crate::shop::PATIENCE;

pub(crate) const SHOP: &str = r#"kind: Mesh
name: shop
---
kind: VirtualNode
mesh: shop
name: web
labels: {team: front}
spec:
  backends:
    - virtualService: {virtualServiceName: orders}
---
kind: VirtualNode
mesh: shop
name: orders
labels: {team: checkout}
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
      routes:
        - path: /orders/{id}
          methods: [GET]
---
kind: VirtualService
mesh: shop
name: orders
spec:
  provider:
    virtualNode: {virtualNodeName: orders}
---
kind: Policy
mesh: shop
name: web-reads-orders
spec:
  description: "the shop's: front page"
  cedar: |
    // A comment that stays.
    permit (
      principal == Node::"web",
      action == Action::"GET",
      resource in Service::"orders"
    );
"#;

fn file(mesh: &MeshBox, name: &str, text: &str) -> PathBuf {
    let path = mesh.folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

pub(crate) fn apply_file(mesh: &MeshBox, text: &str) -> CommandOutput {
    let path = file(mesh, "file.yaml", text);
    mesh.hauberk(&["apply", "-f", path.to_str().unwrap()])
}

pub(crate) fn names(mesh: &MeshBox) -> Vec<String> {
    let listed = mesh.hauberk(&["get", "all", "-A", "-o", "name"]).ok().stdout;
    listed.lines().filter(|line| !line.starts_with("instance/")).map(str::to_owned).collect()
}

fn client(mesh: &MeshBox) -> ResourcesClient<Channel> {
    ResourcesClient::new(dial::channel(mesh.admin_address(), dial::admin(mesh)))
}

#[test]
fn fields_are_explained_and_files_checked_without_a_control_plane() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("policy.yaml");
    let hauberk = |arguments: &[&str]| {
        let mut command = Command::new(binary("hauberk"));
        command.args(arguments).env("HAUBERK_HOME", home.path()).env("NO_COLOR", "1");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = hauberk(&["explain", "virtualnode.spec.listeners"]);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("FIELD:    listeners <[]Listener>") && said.contains("undeclared <string>"),
        "{said}"
    );
    let (code, _, said) = hauberk(&["explain", "virtualnode.spec.listener"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("did you mean `listeners`?"), "{said}");

    let check = |principal: &str| {
        let text = format!(
            "kind: Policy\nmesh: shop\nname: p\nspec: {{cedar: 'permit(principal == {principal}, action, resource);'}}\n"
        );
        fs::write(&file, text).unwrap();
        hauberk(&["apply", "-f", file.to_str().unwrap(), "--dry-run=client"])
    };
    let good = (Some(0), "policy/p is well-formed (client dry run)\n".to_owned());
    let (code, said, noted) = check("Node::\"web\"");
    assert_eq!((code, said), good);
    assert_eq!(noted, "");
    let (code, said, noted) = check("Node::\"spiffe://shop.example/mesh/bank/node/web\"");
    assert_eq!((code, said), good);
    assert!(noted.contains("shop.example is assumed"), "{noted}");
    let (code, _, said) = check("Node::\"a b\"");
    assert_eq!(code, Some(1));
    assert!(said.contains("policy.yaml:4:") && !said.contains("unknown.invalid"), "{said}");
}

#[test]
fn an_empty_control_plane_has_nothing_to_get_and_that_is_no_failure() {
    let mesh = MeshBox::start();
    for arguments in [&["get", "all"][..], &["get", "virtualnodes"], &["get", "policies", "-o", "wide"]] {
        let output = mesh.hauberk(arguments).ok();
        assert_eq!(output.stdout, "");
        assert!(output.stderr.starts_with("No resources found"), "{output:?}");
    }
    assert_eq!(mesh.hauberk(&["get", "all", "-o", "name"]).ok().stdout, "");
    let listed = mesh.hauberk_json(&["get", "all", "-o", "json"]);
    assert_eq!(listed, serde_json::json!({"items": []}));
    let missing = mesh.hauberk(&["get", "virtualnode", "web"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    assert!(missing.stderr.contains("there is no mesh yet"), "{}", missing.stderr);
}

#[test]
fn a_change_of_many_megabytes_is_compared_as_any_other() {
    let mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n");
    // Each of the size that labels may have.
    let nodes = |version: &str| {
        let filler = "x".repeat(250);
        let labels: String = (0..49).map(|number| format!("  l{number}: {filler}\n")).collect();
        let node = |number: usize| {
            let name = format!("kind: VirtualNode\nmesh: shop\nname: n{number}\n");
            format!("---\n{name}labels:\n  version: {version}\n{labels}spec: {{}}\n")
        };
        (0..340).map(node).collect::<String>()
    };
    let diff = |version: &str| mesh.hauberk_with_input(&["diff", "-f", "-"], &nodes(version));
    let made = diff("first");
    assert_eq!(made.code, 1, "{}", made.stderr);
    assert_eq!(made.stdout.matches("+  version: first").count(), 340, "{}", made.stderr);
    mesh.apply(&nodes("first"));
    assert_eq!(diff("first").code, 0);
    let changed = diff("second");
    assert_eq!(changed.code, 1, "{}", changed.stderr);
    for line in ["--- live/virtualnode/n7\n", "+++ new/virtualnode/n7\n"] {
        assert!(changed.stdout.contains(line), "{line}");
    }
    let of = |line: &str| changed.stdout.lines().filter(|told| *told == line).count();
    let found = [of("-  version: first"), of("+  version: second")];
    assert_eq!((found, changed.stdout.contains("/dev/null")), ([340, 340], false));
    // Beyond headers, hunks and what surrounds it nothing differs.
    let differing = changed.stdout.lines().filter(|line| line.starts_with(['-', '+'])).count();
    assert_eq!(differing, 4 * 340);
}

#[test]
fn nothing_is_said_to_be_empty_in_a_mesh_that_is_not_there() {
    let mesh = MeshBox::start();
    mesh.apply(SHOP);
    for arguments in [
        &["get", "policies"][..],
        &["get", "virtualnode", "web"],
        &["get", "all"],
        &["get", "all", "-o", "json"],
        &["get", "instances"],
        &["get", "instances", "web"],
        &["get", "tokens", "-o", "name"],
        &["get", "certificates", "web"],
        &["describe", "virtualnode", "web"],
        &["bundle", "show"],
        &["bundle", "show", "partner.example"],
        &["token", "list"],
        &["allow", "web", "orders"],
        &["tap"],
        &["check"],
        &["wait"],
        &["who-can", "orders", "GET", "/"],
        &["what-can", "web"],
        &["suggest"],
    ] {
        let told = mesh.hauberk(&[arguments, &["--mesh", "shpo"]].concat());
        assert_eq!(told.code, 1, "{arguments:?}: {told:?}");
        let told = format!("{}{}", told.stdout, told.stderr);
        assert!(told.contains("shpo") && told.contains("did you mean"), "{arguments:?}: {told}");
        assert!(!told.contains("has joined"), "{arguments:?}: {told}");
    }
    for arguments in [&["get", "tokens"][..], &["get", "instances"], &["get", "roles"]] {
        mesh.hauberk(arguments).ok();
        mesh.hauberk(&[arguments, &["--mesh", "shop"]].concat()).ok();
    }
}

#[test]
fn resources_are_created_listed_changed_and_deleted() {
    let mesh = MeshBox::start();
    let made = mesh.apply(SHOP).stdout;
    assert_eq!(
        made.lines().collect::<Vec<_>>(),
        [
            "mesh/shop created",
            "virtualnode/web created",
            "virtualnode/orders created",
            "virtualservice/orders created",
            "policy/web-reads-orders created",
        ]
    );
    let again = mesh.apply(SHOP).stdout;
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    let changed = mesh.apply(&SHOP.replace("team: checkout", "team: payment")).stdout;
    assert_eq!(changed.matches("configured").count(), 1, "{changed}");
    assert!(changed.contains("virtualnode/orders configured"), "{changed}");

    let table = mesh.hauberk(&["get", "vn"]).ok().stdout;
    assert!(table.contains("web") && table.contains("orders") && table.contains("8080"), "{table}");
    let selected = mesh.hauberk(&["get", "virtualnodes", "-l", "team=payment", "-o", "name"]).ok().stdout;
    assert_eq!(selected, "virtualnode/orders\n");
    let described = mesh.hauberk(&["describe", "vn", "orders"]).ok().stdout;
    assert!(described.contains("web-reads-orders") && described.contains("8080"), "{described}");

    let missing = mesh.hauberk(&["get", "vn", "order"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));
    assert!(missing.stderr.contains("orders"), "it suggests the nearest: {}", missing.stderr);
    let unknown = mesh.hauberk(&["get", "virtualnod"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("did you mean `virtualnode`?"), "{}", unknown.stderr);

    for (kind, name, user) in
        [("vn", "orders", "orders"), ("vs", "orders", "web"), ("mesh", "shop", "web-reads-orders")]
    {
        let refused = mesh.hauberk(&["delete", kind, name]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains(user), "it says what uses it: {}", refused.stderr);
    }
    assert_eq!(names(&mesh).len(), 5);
    let shop = file(&mesh, "shop.yaml", SHOP);
    mesh.hauberk(&["delete", "-f", shop.to_str().unwrap()]).ok();
    assert_eq!(names(&mesh), Vec::<String>::new());
    let gone = mesh.hauberk(&["delete", "mesh", "shop"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    mesh.hauberk(&["delete", "mesh", "shop", "--ignore-not-found"]).ok();
}

#[test]
fn the_demo_s_mesh_is_accepted() {
    let mesh = MeshBox::start();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/mesh.yaml");
    let made = mesh.hauberk(&["apply", "-f", demo.to_str().unwrap()]).ok();
    assert!(
        made.stdout.lines().count() > 5 && made.stdout.lines().all(|line| line.ends_with(" created")),
        "{made:?}"
    );
    // Users come with people.yaml, which brings who vouches for them.
    assert!(made.stderr.contains("mesh shop has no JwtIssuer"), "{made:?}");
    assert_eq!(made.stderr.matches("warning").count(), 1, "{made:?}");
}

#[test]
fn policies_that_others_make_pointless_are_warned_of() {
    let mesh = MeshBox::start();
    mesh.apply(SHOP);
    let policies = [
        ("wide", "permit(principal is Node, action in Action::\"read\", resource in Mesh::\"shop\");"),
        ("freeze", "forbid(principal in Mesh::\"shop\", action, resource in Node::\"orders\");"),
    ];
    let document = |(name, cedar): &(&str, &str)| {
        format!("kind: Policy\nmesh: shop\nname: {name}\nspec: {{cedar: '{cedar}'}}\n")
    };
    let [wide, freeze] = policies.each_ref().map(document);
    let apply = |name: &str, text: &str| {
        let file = file(&mesh, name, text);
        mesh.hauberk(&["apply", "-f", file.to_str().unwrap()]).ok().stderr
    };
    let said = apply("wide.yaml", &wide);
    let expected = "warning: Mesh shop: policy web-reads-orders says nothing new: wide permits all of it";
    assert!(said.contains(expected), "{said}");
    let said = apply("freeze.yaml", &freeze);
    let expected = "warning: Mesh shop: policy web-reads-orders permits nothing: freeze forbids all of it";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let mesh = MeshBox::start();
    let shop = file(&mesh, "shop.yaml", SHOP);
    let shop = shop.to_str().unwrap();
    let said = mesh.hauberk(&["apply", "-f", shop, "--dry-run"]).ok().stdout;
    assert!(said.contains("virtualnode/orders created (server dry run)"), "{said}");
    assert_eq!(names(&mesh), Vec::<String>::new());

    mesh.hauberk(&["apply", "-f", shop]).ok();
    let before = mesh.hauberk(&["get", "all", "-o", "json"]).ok().stdout;
    let changed = file(&mesh, "changed.yaml", &SHOP.replace("8080", "8081"));
    let said = mesh.hauberk(&["apply", "-f", changed.to_str().unwrap(), "--dry-run=server"]).ok().stdout;
    assert!(said.contains("virtualnode/orders configured (server dry run)"), "{said}");
    let said = mesh.hauberk(&["delete", "vs", "orders", "--dry-run"]);
    assert_eq!(
        said.code, 2,
        "a dry run is refused as the deed would be, and 1 says that calls would be denied: {said:?}"
    );
    assert!(said.stderr.contains("is still used by virtual node \"web\""), "{said:?}");
    mesh.hauberk(&["delete", "policy", "web-reads-orders", "--dry-run"]).ok();
    assert_eq!(mesh.hauberk(&["get", "all", "-o", "json"]).ok().stdout, before);
}

#[test]
fn diff_tells_by_its_exit_code() {
    let mesh = MeshBox::start();
    let shop = file(&mesh, "shop.yaml", SHOP);
    let diff = |path: &PathBuf| mesh.hauberk(&["diff", "-f", path.to_str().unwrap()]);
    let new = diff(&shop);
    assert_eq!(new.code, 1, "{new:?}");
    mesh.apply(SHOP);
    let same = diff(&shop);
    assert_eq!((same.code, same.stdout.as_str()), (0, ""));
    // What means the same is the same.
    let reordered = SHOP.replace("{port: 8080, protocol: http}", "{protocol: http, port: 8080}");
    assert_eq!(diff(&file(&mesh, "reordered.yaml", &reordered)).code, 0);
    let changed = diff(&file(&mesh, "changed.yaml", &SHOP.replace("methods: [GET]", "methods: [GET, PUT]")));
    assert_eq!(changed.code, 1, "{changed:?}");
    assert!(changed.stdout.lines().any(|line| line.starts_with('+') && line.contains("PUT")), "{changed:?}");
    assert!(!changed.stdout.contains("virtualnode/web"), "{changed:?}");
    let wrong = diff(&file(&mesh, "wrong.yaml", &SHOP.replace("spec:", "specs:")));
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert_eq!(diff(&mesh.folder().join("missing.yaml")).code, 2);
}

#[test]
fn what_get_prints_apply_reads() {
    let mesh = MeshBox::start();
    mesh.apply(SHOP);
    for format in ["yaml", "json"] {
        let printed = mesh.hauberk(&["get", "all", "-o", format]).ok().stdout;
        let again = mesh.hauberk_with_input(&["apply", "-f", "-"], &printed).ok().stdout;
        assert_eq!(again.matches(" unchanged").count(), 5, "{format}: {again}\n{printed}");
    }
    let policy = mesh.hauberk(&["get", "policy", "web-reads-orders", "-o", "yaml"]).ok().stdout;
    assert!(policy.contains("// A comment that stays."), "{policy}");

    // Into an empty control plane, as after a disaster.
    let other = MeshBox::start();
    let printed = mesh.hauberk(&["get", "all", "-o", "yaml"]).ok().stdout;
    let bare: String =
        printed.split_inclusive('\n').filter(|line| !line.contains("resourceVersion")).collect();
    let made = other.hauberk_with_input(&["apply", "-f", "-"], &bare).ok().stdout;
    assert_eq!(made.matches(" created").count(), 5, "{made}");
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    let mesh = MeshBox::start();
    let broken = SHOP.replace("virtualNodeName: orders", "virtualNodeName: nowhere");
    let output = apply_file(&mesh, &broken);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(names(&mesh), Vec::<String>::new());

    mesh.apply(SHOP);
    let revision = revision(&mesh);
    let twice = format!("{SHOP}---\nkind: VirtualNode\nmesh: shop\nname: web\nspec: {{}}\n");
    let output = apply_file(&mesh, &twice);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("file.yaml:"), "{}", output.stderr);
    assert_eq!(self::revision(&mesh), revision, "a refused batch raises no revision");
    mesh.apply(SHOP);
    assert_eq!(self::revision(&mesh), revision, "neither does one that changes nothing");
}

fn revision(mesh: &MeshBox) -> u64 {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { client(mesh).list(ListRequest::default()).await.unwrap().into_inner().revision })
}

/// A virtual node with a label, read at `version` (0: whatever stands there).
fn node(name: &str, label: &str, version: u64) -> Resource {
    Resource {
        mesh: "shop".to_owned(),
        name: name.to_owned(),
        labels: HashMap::from([("n".to_owned(), label.to_owned())]),
        metadata: Some(Metadata { resource_version: version, ..Metadata::default() }),
        spec: Some(Spec::VirtualNode(VirtualNodeSpec::default())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_made_from_the_same_reading_one_wins() {
    let mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n");
    let apply = |resource: Resource| {
        let mut client = client(&mesh);
        async move { client.apply(ApplyRequest { resources: vec![resource], validate_only: false }).await }
    };
    let made = apply(node("counter", "0", 0)).await.unwrap().into_inner();
    let version = made.resources[0].resource.as_ref().unwrap().metadata.as_ref().unwrap().resource_version;
    assert!(version > 0);

    let mut attempts = tokio::task::JoinSet::new();
    for writer in 1..=8 {
        attempts.spawn(apply(node("counter", &writer.to_string(), version)));
    }
    let (won, lost): (Vec<_>, Vec<_>) = attempts.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for refused in lost {
        assert_eq!(refused.unwrap_err().code(), Code::Aborted);
    }
    let winner = &won[0].as_ref().unwrap().get_ref().resources[0];
    let stored = client(&mesh).list(ListRequest::default()).await.unwrap().into_inner().resources;
    let stored = stored.iter().find(|resource| resource.name == "counter").unwrap();
    assert_eq!(stored.labels, winner.resource.as_ref().unwrap().labels);

    // The same through files: what `get -o yaml` prints carries its version.
    let printed = mesh.hauberk(&["get", "vn", "counter", "-o", "yaml"]).ok().stdout;
    assert!(printed.contains("resourceVersion"), "{printed}");
    apply(node("counter", "meanwhile", 0)).await.unwrap();
    let stale = mesh.hauberk_with_input(&["apply", "-f", "-"], &printed);
    assert_eq!(stale.code, 1, "{stale:?}");
    assert!(stale.stderr.contains("somebody else changed it"), "{}", stale.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n");
    let resources = (0..7).map(|number| node(&format!("n{number}"), "x", 0)).collect();
    client(&mesh).apply(ApplyRequest { resources, validate_only: false }).await.unwrap();
    let mut request = ListRequest {
        kind: Kind::VirtualNode.into(),
        mesh: "shop".to_owned(),
        page_size: 3,
        ..Default::default()
    };
    let (mut sizes, mut names) = (Vec::new(), Vec::new());
    loop {
        let page = client(&mesh).list(request.clone()).await.unwrap().into_inner();
        sizes.push(page.resources.len());
        names.extend(page.resources.into_iter().map(|resource| resource.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(names, ["n0", "n1", "n2", "n3", "n4", "n5", "n6"]);
    for bad in [
        ListRequest { page_size: -1, ..request.clone() },
        ListRequest { page_token: "?".to_owned(), ..request },
    ] {
        assert_eq!(client(&mesh).list(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_there_and_then_each_change() {
    let mesh = MeshBox::start();
    mesh.apply("kind: Mesh\nname: shop\n---\nkind: VirtualNode\nmesh: shop\nname: a\nspec: {}\n");
    let request = WatchRequest { kind: Kind::VirtualNode.into(), mesh: "shop".to_owned() };
    let mut events = client(&mesh).watch(request).await.unwrap().into_inner();
    let mut next = async || {
        let message = timeout(PATIENCE, events.message()).await.expect("an event comes");
        let event = message.unwrap().unwrap();
        (event.event(), event.resource.map(|resource| resource.name).unwrap_or_default())
    };
    assert_eq!(next().await, (WatchEvent::Applied, "a".to_owned()));
    assert_eq!(next().await, (WatchEvent::Synced, String::new()));
    mesh.apply("kind: VirtualNode\nmesh: shop\nname: b\nspec: {}\n");
    assert_eq!(next().await, (WatchEvent::Applied, "b".to_owned()));
    mesh.hauberk(&["delete", "vn", "a"]).ok();
    assert_eq!(next().await, (WatchEvent::Deleted, "a".to_owned()));
}
