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
    let nobody = mesh.hauberk(&["can", "anonymous", "orders", "GET", "/orders/1"]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(!nobody.stderr.contains("applies to no call"), "{nobody:?}");
    // Policies may be ahead of listeners, and then the answer says so.
    shop::set_policy(
        &mesh,
        "strangers",
        "permit(principal is Anonymous, action == Action::\"GET\", resource in Service::\"orders\");",
    );
    for question in [
        &["can", "anonymous", "orders", "GET", "/elsewhere"][..],
        &["who-can", "orders", "GET", "/elsewhere"],
        &["what-can", "anonymous"],
    ] {
        let answer = mesh.hauberk(question).ok();
        assert!(answer.stderr.contains("what policies say of Anonymous applies to no call"), "{answer:?}");
    }
}

#[test]
fn who_proves_nothing_has_no_certificate_in_any_answer() {
    let mesh = open();
    let permit = |path: &str, condition: &str| {
        format!(
            "permit(principal is Anonymous, action == Action::\"GET\", resource in Service::\"orders\") when {{ context.path == \"{path}\" \
             && {condition} }};\n"
        )
    };
    let nothing = "!(context.peer has spiffeId) && !(context.peer has trustDomain) && !context.peer.federated && !(context.peer has \
                   certificateAge)";
    let rules = [
        permit("/nobody", nothing),
        permit("/somebody", "(context.peer has spiffeId || context.peer.federated)"),
        permit("/aged", "context.peer has certificateAge"),
        permit("/encrypted", "context.peer has tlsVersion"),
    ];
    shop::set_policy(&mesh, "strangers", &rules.concat());
    let asked = |path: &str, more: &[&str]| {
        mesh.hauberk(&[&["can", "anonymous", "orders", "GET", path, "-o", "json"], more].concat())
    };
    let encrypted = &["--tls-group", "X25519"][..];
    // What is assumed where nothing was told is told apart from what holds whatever it is.
    for (path, more, code, reason) in [
        ("/nobody", &[][..], 0, "permitted"),
        ("/nobody", encrypted, 0, "permitted"),
        ("/somebody", &[], 1, "no_policy_matched"),
        ("/aged", &[], 1, "no_policy_matched"),
        ("/encrypted", &[], 3, "no_policy_matched"),
        ("/encrypted", encrypted, 0, "permitted"),
    ] {
        let answer = asked(path, more);
        let json: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
        let decided = &json["decisions"][0]["decision"]["reason"];
        assert_eq!((answer.code, decided.as_str()), (code, Some(reason)), "{path} {more:?}: {answer:?}");
    }
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
    for never in ["intruder", "anonymous", "others: spiffe://box.test/workload/*"] {
        let row = all.lines().find(|line| line.starts_with(never)).unwrap();
        assert!(row.contains("never") && row.contains("no policy permits it"), "{all}");
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

    // The control plane's own resources, where no files are named.
    let tests = mesh.folder().join("tests.yaml");
    fs::write(&tests, "tests:\n- deny: {caller: web, target: orders, method: POST, path: /orders/1}\n")
        .unwrap();
    let live = mesh.hauberk(&["policy", "test", tests.to_str().unwrap()]).ok();
    assert!(live.stdout.contains("1 passed, 0 failed"), "{live:?}");
}
