//! What is decided is counted and kept, drafts are held against it, and policies are written from it.

use std::{io::Write, process::Command};

use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, binary, dial, eventually, get, request};
use hauberk_proto::agent::v1::{
    DecisionFacts, FlowExemplar, FlowSummaries, FlowSummary, FromAgent, Hello, Verdict, from_agent::Message,
    mesh_client::MeshClient, to_agent,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    grpc::{channel, until_reachable},
    shop::{self, PATIENCE, SMALL_SHOP, get_until},
    streaming_app::StreamingApp,
    tcp_app::TcpApp,
};

/// As it stands, with a description.
const EQUAL: &str = r#"
kind: Policy
mesh: shop
name: web-reads-orders
spec:
  description: says no more than before
  cedar: permit(principal == Node::"web", action == Action::"GET", resource in Service::"orders");
"#;

/// What web did is denied, and what the intruder tried is allowed.
const REVERSED: &str = r#"
kind: Policy
mesh: shop
name: web-reads-orders
spec:
  cedar: permit(principal == Node::"intruder", action == Action::"GET", resource in Service::"orders");
"#;

/// It depends on what nobody recorded.
const BY_HEADER: &str = r#"
kind: Policy
mesh: shop
name: web-reads-orders
spec:
  cedar: >
    permit(principal == Node::"web", action == Action::"GET", resource in Service::"orders")
    when { context.headers.hasTag("x-tenant") };
"#;

/// What a draft, given by standard input, would change.
fn simulate(mesh: &MeshBox, draft: &str) -> Value {
    let told = mesh.hauberk_with_input(&["simulate", "-f", "-", "-o", "json"], draft);
    assert!(told.code < 2, "{told:?}");
    serde_json::from_str(&told.stdout).unwrap()
}

fn number(told: &Value, field: &str) -> u64 {
    match &told[field] {
        Value::String(text) => text.parse().unwrap(),
        Value::Number(number) => number.as_u64().unwrap(),
        other => panic!("{field}: {other}"),
    }
}

/// Waits until so many decisions are recorded.
fn until_recorded(mesh: &MeshBox, decisions: u64) {
    eventually(&format!("{decisions} decisions are recorded"), PATIENCE, || {
        (number(&simulate(mesh, EQUAL), "decisions") == decisions).then_some(())
    });
}

/// A shop whose web has read an order three times, and whose intruder has tried to once.
fn traded() -> (MeshBox, App, Agent, Agent) {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let app = App::start("orders");
    let orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let (web, intruder) = (shop::caller(&mesh, "web"), shop::caller(&mesh, "intruder"));
    for path in ["/orders/1", "/orders/1", "/orders/2"] {
        get_until(&web, "orders", path, 200);
    }
    get_until(&intruder, "orders", "/orders/1", 403);
    until_recorded(&mesh, 4);
    (mesh, app, orders, web)
}

#[test]
fn drafts_are_held_against_what_was_decided() {
    let (mesh, _app, _orders, _web) = traded();
    let told = simulate(&mesh, EQUAL);
    assert_eq!((number(&told, "flows"), &told["flips"]), (2, &Value::Array(Vec::new())), "{told}");

    let told = mesh.hauberk_with_input(&["simulate", "-f", "-"], REVERSED);
    assert_eq!(told.code, 1, "{told:?}");
    let rows: Vec<Vec<&str>> = told.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let web = rows.iter().find(|row| row[0] == "web").unwrap();
    let wanted = ["orders:8080", "GET", "/orders/1", "and", "1", "more", "allow", "deny", "3"];
    assert_eq!(web[1..10], wanted, "{told:?}");
    assert!(told.stdout.contains("no policy permits it any longer; web-reads-orders did"), "{told:?}");
    let intruder = rows.iter().find(|row| row[0] == "intruder").unwrap();
    assert_eq!(intruder[1..7], ["orders:8080", "GET", "/orders/1", "deny", "allow", "1"], "{told:?}");
    assert!(told.stderr.contains("2 recorded flows"), "{told:?}");
    assert!(told.stderr.contains("1 (3 calls) would be denied, 1 (1 call) would be allowed"), "{told:?}");

    let told = mesh.hauberk_with_input(&["simulate", "-f", "-"], BY_HEADER);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("it depends on what was not recorded of these calls"), "{told:?}");
    assert!(told.stderr.contains("1 (3 calls) cannot be decided"), "{told:?}");
    let yaml = mesh.hauberk_with_input(&["simulate", "-f", "-", "-o", "yaml"], BY_HEADER).ok();
    assert!(yaml.stdout.contains("reason: facts_not_recorded"), "{yaml:?}");

    let dry = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=server"], REVERSED).ok();
    assert!(dry.stdout.contains("policy/web-reads-orders configured (server dry run)"), "{dry:?}");
    assert!(dry.stderr.contains("1 (3 calls) would be denied"), "{dry:?}");
    // Its exit code tells acceptance alone, and it says what it says nothing of.
    let dry = mesh.hauberk_with_input(&["apply", "-f", "-", "--dry-run=server"], BY_HEADER).ok();
    assert!(dry.stderr.contains("of 1 flow (3 calls) nothing can be said"), "{dry:?}");
    assert_eq!(number(&simulate(&mesh, EQUAL), "decisions"), 4, "nothing was changed");
    // Where nobody reads what it tells, it does not say by its silence that nothing would be denied.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = Command::new(binary("hauberk"));
    unread.args(["simulate", "--delete", "policy/web-reads-orders"]).env("HAUBERK_HOME", mesh.cli_home());
    let unread = unread.stdout(writer).output().unwrap();
    assert_eq!(unread.status.code(), Some(2), "{unread:?}");
    assert!(String::from_utf8_lossy(&unread.stderr).contains("cannot write the output"), "{unread:?}");

    let unknown = mesh.hauberk_with_input(&["simulate", "-f", "-"], &REVERSED.replace("intruder", "intrudr"));
    assert!(unknown.code == 1 && unknown.stderr.contains("did you mean"), "{unknown:?}");
    let wrong = mesh.hauberk_with_input(&["simulate", "-f", "-"], &REVERSED.replace("permit", "permitt"));
    assert!(wrong.code == 2 && wrong.stderr.contains("<stdin>:6"), "{wrong:?}");
}

#[test]
fn a_removal_is_held_against_what_was_decided() {
    let (mesh, _app, _orders, web) = traded();
    let dry = ["delete", "policy", "web-reads-orders", "--dry-run"];
    for (arguments, draft) in [
        (&dry[..], ""),
        (&["simulate", "--delete", "policy/web-reads-orders"], ""),
        // Files are applied before.
        (&["simulate", "-f", "-", "--delete", "policy/web-reads-orders"], REVERSED),
    ] {
        let told = mesh.hauberk_with_input(arguments, draft);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.stdout.contains("no policy permits it any longer; web-reads-orders did"), "{told:?}");
        assert!(told.stderr.contains("2 recorded flows"), "{told:?}");
        assert!(told.stderr.contains("1 (3 calls) would be denied"), "{told:?}");
    }
    let instead = REVERSED.replace("name: web-reads-orders", "name: others").replace("intruder", "web");
    let told = mesh
        .hauberk_with_input(&["simulate", "-f", "-", "--delete", "policy/web-reads-orders"], &instead)
        .ok();
    assert!(told.stderr.contains("nothing would be decided otherwise"), "{told:?}");

    let told = mesh.hauberk(&["policy", "diff", "--delete", "policy/web-reads-orders"]);
    assert_eq!(told.code, 1, "{told:?}");
    let rows: Vec<Vec<&str>> = told.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let found: Vec<_> = rows[1..].iter().map(|row| (row[0], row[2], row[4], row[5])).collect();
    assert_eq!(found, [("web", "GET", "always", "web-reads-orders")], "{told:?}");
    let told = mesh.hauberk(&["policy", "diff", "--delete", "policy/web-reads-orders", "-o", "yaml"]);
    assert!(told.stdout.starts_with("items:") && told.stdout.contains("\nnotCompared: []"), "{told:?}");
    let told = mesh.hauberk(&["policy", "diff", "--delete", "vs/orders", "-o", "yaml"]);
    assert!(told.code == 2 && told.stderr.contains("is still used by virtual node \"web\""), "{told:?}");
    let missing = mesh.hauberk(&["simulate", "--delete", "policy/web-reads-order"]);
    assert!(missing.code == 2 && missing.stderr.contains("does not exist"), "{missing:?}");
    let nothing = mesh.hauberk(&["simulate"]);
    assert!(nothing.code == 2 && nothing.stderr.contains("--filename"), "{nothing:?}");

    // What goes that forbids something lets through, and that is said.
    shop::set_policy(&mesh, "no-get", "forbid(principal, action == Action::\"GET\", resource);");
    let denied = get_until(&web, "orders", "/orders/1", 403);
    assert!(denied.header("hauberk-decision").is_some());
    until_recorded(&mesh, 5);
    let told = mesh.hauberk(&["delete", "policy", "no-get", "--dry-run"]).ok();
    assert!(told.stdout.contains("policy/no-get deleted (server dry run)"), "{told:?}");
    assert!(told.stderr.contains("what it forbids is let through from then on"), "{told:?}");
    assert!(told.stderr.contains("would be allowed"), "{told:?}");

    // Whoever waits for it calls in vain at once.
    mesh.hauberk(&["delete", "policy", "no-get", "--wait=20s"]).ok();
    assert_eq!(get(web.outbound(), "orders", "/orders/1").unwrap().status, 200);
    let told = mesh.hauberk(&["delete", "policy", "web-reads-orders", "--wait=20s"]).ok();
    assert!(told.stderr.contains("is enforced by"), "{told:?}");
    assert_eq!(get(web.outbound(), "orders", "/orders/1").unwrap().status, 403);
}

#[test]
fn the_record_outlives_both_who_keep_it() {
    let (mut mesh, _app, mut orders, web) = traded();
    // What is told is written within seconds, and at the end; whoever is killed before has lost these.
    mesh.control_plane().stop(PATIENCE);
    for _ in 0..2 {
        mesh.restart_control_plane();
        assert_eq!(number(&simulate(&mesh, EQUAL), "decisions"), 4);
    }
    let folder = mesh.folder().to_owned();
    orders.restart(&folder);
    until_recorded(&mesh, 4);
    get_until(&web, "orders", "/orders/1", 200);
    until_recorded(&mesh, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_counts_for_another() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let (svid, key) = dial::join(&mesh, "intruder").await;
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
    let (up, waiting) = mpsc::channel(4);
    let say = async |message| up.send(FromAgent { message: Some(message) }).await.unwrap();
    say(Message::Hello(Hello { reports_flows: true, ..Hello::default() })).await;
    let mut down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    let is_wanted = loop {
        let message = down.message().await.unwrap().unwrap().message;
        if let Some(to_agent::Message::Observe(observe)) = message {
            break observe.flows;
        }
    };
    assert!(is_wanted);
    let of = |node: &str, path: &str| FlowSummary {
        caller: "spiffe://box.test/mesh/shop/node/web".into(),
        node: format!("spiffe://box.test/mesh/shop/node/{node}"),
        port: 8080,
        action: "GET".into(),
        route: "*undeclared".into(),
        verdict: Verdict::Allow.into(),
        reason: "permitted".into(),
        exemplars: vec![FlowExemplar {
            path: path.into(),
            facts: Some(DecisionFacts { method: "GET".into(), ..DecisionFacts::default() }),
            count: 1_000,
            ..FlowExemplar::default()
        }],
        ..FlowSummary::default()
    };
    let flows = vec![of("orders", "/forged"), of("intruder", "/own")];
    say(Message::Flows(FlowSummaries { flows, unrecorded: 0 })).await;
    let told = eventually("its own is recorded", PATIENCE, || {
        let told = simulate(&mesh, REVERSED);
        (number(&told, "decisions") > 0).then_some(told)
    });
    assert_eq!((number(&told, "flows"), number(&told, "decisions")), (1, 1_000), "{told}");
    assert_eq!(told["flips"], Value::Array(Vec::new()), "nothing of orders: {told}");
    let metrics = get(mesh.health_address().parse().unwrap(), "metrics", "/metrics").unwrap().body;
    let line = metrics.lines().find(|line| line.contains("flows_foreign_total ")).unwrap();
    assert!(line.ends_with(" 1"), "{line}");

    // An agent that does not say that it counts is not asked to, and is named.
    let (svid, key) = dial::join(&mesh, "web").await;
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
    let (up, waiting) = mpsc::channel(4);
    up.send(FromAgent { message: Some(Message::Hello(Hello::default())) }).await.unwrap();
    let mut down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    loop {
        match down.message().await.unwrap().unwrap().message {
            Some(to_agent::Message::Observe(observe)) => panic!("{observe:?}"),
            Some(to_agent::Message::CurrentAt(_)) => break,
            _ => {}
        }
    }
    let told = mesh.hauberk_with_input(&["simulate", "-f", "-"], REVERSED).stderr;
    assert!(told.contains("agents are of a former release: what is decided by web/"), "{told}");
}

/// The methods, paths and what they are answered, of web and of the intruder.
fn asked(caller: &Agent, method: &str, path: &str) -> u16 {
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    request(caller.outbound(), &head).unwrap().status
}

#[test]
fn what_is_suggested_lets_the_same_calls_pass_and_no_others() {
    let mesh = shop::open();
    let declared = "kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - portMapping: {port: 8080, protocol: http}
    routes: [{path: '/orders/{id}'}, {path: /health}]
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
";
    mesh.apply(declared);
    shop::set_policy(&mesh, "all", "permit (principal is Node, action, resource);");
    let (app, echo) = (App::start("orders"), TcpApp::echo());
    let _orders = shop::orders(&mesh, app.address());
    let _redis = shop::redis(&mesh, echo.address());
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/orders/1", 200);
    let done = [
        ("GET", "/orders/2"),
        ("POST", "/orders/1"),
        ("GET", "/health"),
        ("GET", "/users/7"),
        ("GET", "/users/8"),
    ];
    for (method, path) in done {
        assert_eq!(asked(&web, method, path), 200, "{method} {path}");
    }
    get_until(&intruder, "orders", "/health", 200);
    let mut stream = crate::tcp::open_echo(web.tcp("cache:6379"));
    stream.write_all(b"x").unwrap();
    // The stream that did not come through yet counts too, so that how many there were is not known.
    let suggest = || mesh.hauberk(&["suggest"]).ok();
    let told = eventually("all of it is covered", PATIENCE, || {
        let told = suggest();
        let names = ["suggested-intruder-to-orders", "suggested-web-to-orders", "suggested-web-to-redis"];
        let is_whole = names.iter().all(|name| told.stdout.contains(name)) && told.stdout.contains("/users/");
        (is_whole && told.stdout.contains("POST") && told.stderr.contains("100.0 %")).then_some(told)
    });
    for named in [
        "orders:8080 /orders/{id}: every path of the declared route",
        "web GET orders:8080: /users/* for 2 paths that were seen",
        "all let ",
    ] {
        assert!(told.stderr.contains(named), "{named}: {told:?}");
    }
    drop(stream);

    shop::remove_policy(&mesh, "all");
    assert_eq!(asked(&web, "GET", "/health"), 403);
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &told.stdout).ok();
    for (method, path) in done {
        assert_eq!(asked(&web, method, path), 200, "{method} {path}");
    }
    assert_eq!(asked(&intruder, "GET", "/health"), 200);
    drop(crate::tcp::open_echo(web.tcp("cache:6379")));
    for (method, path) in
        [("PUT", "/orders/1"), ("POST", "/health"), ("GET", "/users"), ("DELETE", "/users/7"), ("GET", "/")]
    {
        assert_eq!(asked(&web, method, path), 403, "{method} {path}");
    }
    for (method, path) in [("GET", "/orders/1"), ("POST", "/health"), ("GET", "/users/7")] {
        assert_eq!(asked(&intruder, method, path), 403, "{method} {path}");
    }
    let only_redis = mesh.hauberk(&["suggest", "--node", "redis"]).ok();
    assert!(!only_redis.stdout.contains("to-orders"), "{only_redis:?}");
    let wrong = mesh.hauberk(&["suggest", "--node", "rediss"]);
    assert!(wrong.stderr.contains("did you mean"), "{wrong:?}");
}

#[test]
fn what_audit_would_have_denied_is_counted() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    let audited = "kind: Policy
mesh: shop
name: no-secrets
spec:
  mode: AUDIT
  cedar: forbid(principal, action in Action::\"http\", resource) when { context.path like \"/secret*\" };
---
kind: VirtualNode
mesh: shop
name: orders
spec: {listeners: [{portMapping: {port: 8080, protocol: http}, authorization: AUDIT}]}
";
    mesh.apply(audited);
    let app = App::start("orders");
    let _orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let (web, intruder) = (shop::caller(&mesh, "web"), shop::caller(&mesh, "intruder"));
    get_until(&web, "orders", "/orders/1", 200);
    let listed = mesh.hauberk(&["get", "policies"]).ok();
    let row = |stdout: &str| {
        let row = stdout.lines().find(|line| line.starts_with("no-secrets")).unwrap();
        row.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row(&listed.stdout), "no-secrets AUDIT none for", "{listed:?}");
    for _ in 0..3 {
        get_until(&web, "orders", "/secret/1", 200);
    }
    get_until(&intruder, "orders", "/orders/1", 200);
    let listed = eventually("the would-be denials are counted", PATIENCE, || {
        let listed = mesh.hauberk(&["get", "policies"]).ok();
        (listed.stdout.contains("3 calls, none for ") && listed.stderr.contains("1 call, none for "))
            .then_some(listed)
    });
    let told = "orders:8080 is in AUDIT: without that it would have denied 1 call";
    assert!(listed.stderr.contains(told), "{listed:?}");
    let described = mesh.hauberk(&["describe", "policy", "no-secrets"]).ok().stdout;
    assert!(described.contains("Would deny:       3 calls, none for "), "{described}");
    let described = mesh.hauberk(&["describe", "vn", "orders"]).ok().stdout;
    assert!(described.contains("let through what no policy permits: 1 call"), "{described}");
    // As it is changed, it is counted anew.
    mesh.apply(&audited.replace("/secret*", "/hidden*"));
    eventually("it is counted anew", PATIENCE, || {
        let listed = mesh.hauberk(&["get", "policies"]).ok();
        (row(&listed.stdout) == "no-secrets AUDIT none for").then_some(())
    });
}

/// The contents of a page's fences of one language, from a heading on.
fn fences(page: &'static str, heading: &str, language: &str) -> Vec<String> {
    let (_, rest) = page.split_once(heading).unwrap();
    let fence = format!("```{language}\n");
    let found = rest.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    found.collect()
}

/// The rows of a table, their words one by one, without how long ago something was.
fn rows(table: &str) -> Vec<String> {
    let is_age = |word: &str| word.ends_with('s') && word.trim_end_matches('s').parse::<u64>().is_ok();
    let row = |line: &str| line.split_whitespace().filter(|word| !is_age(word)).collect::<Vec<_>>().join(" ");
    table.lines().filter(|line| !line.starts_with("$ ")).map(row).collect()
}

#[test]
fn the_page_s_drafts_come_out_as_it_says() {
    const PAGE: &str = include_str!("../../../docs/authorization.md");
    let (mesh, ..) = traded();
    let drafts = fences(PAGE, "## What a change would do", "yaml");
    let told = fences(PAGE, "## What a change would do", "console");
    for (draft, wanted) in drafts.iter().zip(&told) {
        let found = mesh.hauberk_with_input(&["simulate", "-f", "-"], draft);
        assert_eq!(rows(&found.stdout), rows(wanted), "{draft}");
    }
    assert_eq!((drafts.len(), told.len() > 2), (2, true));
    let told = fences(PAGE, "## The least that is needed", "console");
    let (_, wanted) = told[0].split_once('\n').unwrap();
    assert_eq!(mesh.hauberk(&["suggest", "--node", "orders"]).ok().stdout, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_grpc_methods_are_recorded_too() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", shop::WEB_MAY_ALL);
    let app = StreamingApp::start();
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    until_reachable(&channel(web.outbound(), "orders-rpc")).await;
    let told = eventually("the call is recorded", PATIENCE, || {
        let told = mesh.hauberk(&["suggest"]).ok();
        told.stdout.contains("suggested-web-to-orders").then_some(told)
    });
    let condition = r#"when { context.service == "test.Echo" && context.rpc == "Both" };"#;
    assert!(told.stdout.contains(condition), "{told:?}");
    let other = "kind: Policy\nmesh: shop\nname: all\nspec:\n  cedar: >\n    permit(principal == Node::\"web\", \
                 action == Action::\"call\", resource) when { context.rpc == \"One\" };\n";
    let found = mesh.hauberk_with_input(&["simulate", "-f", "-"], other);
    assert!(found.code == 1 && found.stdout.contains("/test.Echo/Both"), "{found:?}");
}
