//! What could be called, by whom, and under what conditions: asked of a control plane, with no agent about.

use std::fs;

use hauberk_integration_tests::MeshBox;

use crate::shop;

const RULES: &str = r#"
kind: Policy
mesh: shop
name: web-reads
spec:
  cedar: |
    permit(principal == Node::"web", action in Action::"read", resource in Service::"orders")
    when { context.path like "/orders/*" };
---
kind: Policy
mesh: shop
name: web-adds-items
spec:
  cedar: |
    permit(principal == Node::"web", action == Action::"POST", resource in Service::"orders")
    when { context.path like "/orders/*/items" };
---
kind: Policy
mesh: shop
name: opening-hours
spec:
  cedar: |
    permit(principal == Node::"payments", action == Action::"POST", resource in Service::"orders")
    when { context.time.toTime() >= duration("8h") && context.headers.hasTag("x-shift") };
"#;

fn open() -> MeshBox {
    let mesh = shop::open();
    mesh.apply(RULES);
    mesh
}

#[test]
fn an_answer_says_on_what_it_depends() {
    let mesh = open();
    let can =
        |more: &[&str]| mesh.hauberk(&[&["can", "payments", "orders", "POST", "/orders/1"], more].concat());
    let open = can(&[]);
    assert_eq!(open.code, 3, "{open:?}");
    for told in [
        "it depends: payments → orders:8080 POST /orders/1, on what was not told",
        "permitted where\n  opening-hours: ",
        "context.time",
        "context.headers.hasTag(\"x-shift\")",
        "but denied where\n  header field x-shift is no text, or is spelled in two ways",
    ] {
        assert!(open.stdout.contains(told), "{told}: {}", open.stdout);
    }
    can(&["--at", "2026-03-02T10:00:00Z", "--header", "x-shift=early"]).ok();
    assert_eq!(can(&["--at", "2026-03-02T10:00:00Z"]).code, 3);
    // One fact is enough where it settles all.
    assert_eq!(can(&["--at", "2026-03-02T07:00:00Z", "--header", "x-shift=early"]).code, 1);
    assert_eq!(can(&["--header", "x-shift"]).code, 1);
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "GET", "/orders/1"]).code, 0);
    // Policies may be ahead of listeners, which take nobody without a certificate.
    shop::set_policy(
        &mesh,
        "strangers",
        "permit(principal is Anonymous, action == Action::\"GET\", resource in Service::\"orders\"); \
         permit(principal is Workload, action == Action::\"GET\", resource in Service::\"orders\");",
    );
    let partner = "spiffe://partner.example/billing";
    for (caller, why) in [
        ("anonymous", "no listener takes callers without a certificate"),
        (partner, "the mesh has no keys of its trust domain"),
    ] {
        let answer = mesh.hauberk(&["can", caller, "orders", "GET", "/elsewhere"]);
        assert!(answer.code == 1 && answer.stdout.contains(why), "{answer:?}");
        let nothing = mesh.hauberk(&["what-can", caller]).ok();
        assert!(nothing.stderr.contains("no policy lets it call anything"), "{nothing:?}");
    }
    let who = mesh.hauberk(&["who-can", "orders", "GET", "/elsewhere"]).ok();
    assert!(!who.stdout.contains("anonymous") && who.stdout.contains("/workload/"), "{who:?}");
    let quarantined = ["quarantine", "node", "payments"];
    mesh.hauberk(&quarantined).ok();
    let open = can(&[]);
    assert!(open.code == 1 && open.stdout.contains("its node is in quarantine"), "{open:?}");
    mesh.hauberk(&[&quarantined[..], &["--undo"]].concat()).ok();
    assert_eq!(can(&[]).code, 3);
    // As agents answer, and as methods are compared.
    let tunnel = mesh.hauberk(&["can", "web", "orders", "CONNECT", "/x"]);
    assert!(tunnel.code == 2 && tunnel.stderr.contains("agents answer CONNECT with 405"), "{tunnel:?}");
    let lower = mesh.hauberk(&["can", "web", "orders", "post", "/orders/1/items"]);
    assert!(lower.code == 1 && lower.stderr.contains("did you mean POST?"), "{lower:?}");
}

#[test]
fn assertions_know_whom_agents_turn_away() {
    let mesh = open();
    let permit = |who: &str| {
        format!("permit(principal is {who}, action == Action::\"GET\", resource in Service::\"orders\");\n")
    };
    shop::set_policy(&mesh, "everybody", &["Node", "Anonymous", "Workload"].map(permit).concat());
    let facts = |caller: &str| format!("{{caller: {caller}, target: orders, method: GET, path: /orders/1}}");
    let file = mesh.folder().join("tests.yaml");
    let test = |expected: &[(&str, &str)]| {
        let tests: Vec<_> =
            expected.iter().map(|(word, caller)| format!("- {word}: {}\n", facts(caller))).collect();
        fs::write(&file, format!("mesh: shop\ntests:\n{}", tests.concat())).unwrap();
        mesh.hauberk(&["policy", "test", file.to_str().unwrap()])
    };
    let partner = "'spiffe://partner.example/billing'";
    let tested = test(&[("allow", "web"), ("deny", "anonymous"), ("deny", partner)]).ok();
    assert!(tested.stdout.contains("3 passed, 0 failed"), "{tested:?}");
    mesh.hauberk(&["quarantine", "node", "web"]).ok();
    let tested = test(&[("deny", "web"), ("allow", "web")]);
    assert!(tested.code == 1 && tested.stdout.contains("1 passed, 1 failed"), "{tested:?}");
    assert!(tested.stdout.contains("its node is in quarantine"), "{tested:?}");
    mesh.hauberk(&["quarantine", "node", "web", "--undo"]).ok();

    // Names would mean somebody else there.
    fs::write(&file, format!("trustDomain: other.example\ntests:\n- allow: {}\n", facts("web"))).unwrap();
    let other = mesh.hauberk(&["policy", "test", file.to_str().unwrap()]);
    assert!(other.code == 2 && other.stderr.contains("about other.example"), "{other:?}");
    fs::write(&file, format!("mesh: shop\ntests:\n- allow: {}\n", facts("web"))).unwrap();
    let other = mesh.hauberk(&["--mesh", "bank", "policy", "test", file.to_str().unwrap()]);
    assert!(other.code == 2 && other.stderr.contains("about mesh shop"), "{other:?}");
}

#[test]
fn tables_tell_who_can_and_what_one_can() {
    let mesh = open();
    let table = mesh.hauberk(&["who-can", "orders", "POST", "/orders/*"]).ok().stdout;
    let row =
        |caller: &str| table.lines().find(|line| line.starts_with(caller)).unwrap_or_default().to_owned();
    assert!(
        row("web").contains("part")
            && table.contains("] web-adds-items: context.path like \"/orders/*/items\"\n"),
        "{table}"
    );
    assert!(row("payments").contains("conditional"), "{table}");
    assert_eq!(row("intruder"), "", "{table}");
    let all = mesh.hauberk(&["who-can", "orders", "POST", "/orders/*", "--all"]).ok().stdout;
    for (never, why) in [
        ("intruder", "no policy permits it"),
        ("anonymous", "no listener takes callers without a certificate"),
        ("others: spiffe://box.test/workload/*", "no policy permits it"),
    ] {
        let row = all.lines().find(|line| line.starts_with(never)).unwrap();
        assert!(row.contains("never") && row.contains(why), "{all}");
    }
    let whole = mesh.hauberk_json(&["who-can", "orders", "POST", "/orders/1/items", "-o", "json"]);
    let callers: Vec<_> = whole["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["caller"].as_str().unwrap(), item["outlook"].as_str().unwrap()))
        .collect();
    assert_eq!(
        callers,
        [
            ("spiffe://box.test/mesh/shop/node/payments", "conditional"),
            ("spiffe://box.test/mesh/shop/node/web", "always"),
        ]
    );

    let table = mesh.hauberk(&["what-can", "web"]).ok().stdout;
    let row =
        |actions: &str| table.lines().any(|line| line.starts_with("orders:8080") && line.contains(actions));
    assert!(row("GET,HEAD,OPTIONS") && row("POST"), "{table}");
    assert!(!table.contains("DELETE"), "{table}");
    let nothing = mesh.hauberk(&["what-can", "intruder"]).ok();
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("nothing"), "{nothing:?}");
    let unknown = mesh.hauberk(&["who-can", "oders"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("did you mean \"orders\"?"), "{unknown:?}");
}

#[test]
fn a_draft_is_compared_and_tested_before_it_holds() {
    let mesh = open();
    let draft = mesh.folder().join("draft.yaml");
    fs::write(
        &draft,
        RULES.replace("/orders/*/items", "/orders/*").replace("in Action::\"read\"", "== Action::\"GET\""),
    )
    .unwrap();
    let diff = mesh.hauberk(&["policy", "diff", "-f", draft.to_str().unwrap()]);
    assert_eq!(diff.code, 1, "{diff:?}");
    let lines: Vec<&str> = diff.stdout.lines().collect();
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(
        has(&["web", "orders:8080", "POST", "part [2]", "part [3]"])
            && has(&["[2] web-adds-items: context.path like \"/orders/*/items\""])
            && has(&["[3] web-adds-items: context.path like \"/orders/*\""]),
        "{}",
        diff.stdout
    );
    assert!(
        has(&["web", "orders:8080", "HEAD,OPTIONS", "part [", "never (no policy permits it)"]),
        "{}",
        diff.stdout
    );
    assert!(!diff.stdout.contains("payments"), "{}", diff.stdout);
    let same = mesh.hauberk_with_input(&["policy", "diff", "-f", "-"], RULES).ok();
    assert!(same.stderr.contains("nothing would change for anybody"), "{same:?}");

    // Somebody comes, where all rules stay as they are.
    let everybody = "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\");";
    shop::set_policy(&mesh, "everybody", everybody);
    let draft = "kind: VirtualNode\nmesh: shop\nname: newcomer\nspec: {}\n";
    let comes = mesh.hauberk_with_input(&["policy", "diff", "-f", "-"], draft);
    let row = comes.stdout.lines().find(|line| line.starts_with("newcomer")).unwrap_or_default();
    assert!(comes.code == 1 && row.contains("there is no such thing") && row.contains("always"), "{comes:?}");
    let outside = |hosts: &str| {
        format!(
            "kind: ExternalService\nmesh: shop\nname: outside\nspec: {{hosts: [{hosts}], ports: [{{port: 443, protocol: tls}}]}}\n"
        )
    };
    mesh.apply(&outside("a.example"));
    let moved = mesh.hauberk_with_input(&["policy", "diff", "-f", "-"], &outside("b.example"));
    assert!(moved.code == 1 && moved.stderr.contains("external service outside: which hosts"), "{moved:?}");
    assert!(!moved.stderr.contains("nothing would change"), "{moved:?}");
    let diff = ["policy", "diff", "-f", "-", "-o", "json"];
    let moved: serde_json::Value =
        serde_json::from_str(&mesh.hauberk_with_input(&diff, &outside("b.example")).stdout).unwrap();
    assert_eq!(moved["items"], serde_json::json!([]));
    let not_compared = moved["notCompared"][0].as_str().unwrap_or_default();
    assert!(not_compared.contains("external service outside: which hosts"), "{moved}");

    // The control plane's own resources, where no files are named.
    let tests = mesh.folder().join("tests.yaml");
    fs::write(&tests, "tests:\n- deny: {caller: web, target: orders, method: POST, path: /orders/1}\n")
        .unwrap();
    let live = mesh.hauberk(&["policy", "test", tests.to_str().unwrap()]).ok();
    assert!(live.stdout.contains("1 passed, 0 failed"), "{live:?}");
    fs::write(&tests, "tests: []\n").unwrap();
    let empty = mesh.hauberk(&["policy", "test", tests.to_str().unwrap()]);
    assert!(empty.code == 2 && empty.stderr.contains("tests.yaml has no tests"), "{empty:?}");
}
