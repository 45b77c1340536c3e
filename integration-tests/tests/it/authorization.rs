//! Who may do what: denied unless permitted, at once, and with a reason that can be asked for.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use hauberk_integration_tests::{AgentOptions, Response, binary, eventually, get, request};
use serde_json::Value;
use tonic::Code;

use crate::{
    grpc,
    shop::{self, PATIENCE, WEB_MAY_ALL, get_until},
    streaming_app::StreamingApp,
    tcp_app::TcpApp,
};

/// The decision's id, after checking that the answer says nothing else.
fn denial(response: &Response) -> String {
    assert_eq!(response.status, 403, "{response:?}");
    for (name, _) in &response.headers {
        let allowed = ["hauberk-decision", "content-length", "content-type", "date", "connection"];
        assert!(allowed.contains(&name.as_str()), "a denied caller learns too much: {response:?}");
    }
    let id = response.header("hauberk-decision").unwrap();
    assert_eq!(response.body, format!("denied: `hauberk explain {id}` tells an admin of the mesh why\n"));
    id.to_owned()
}

#[test]
fn denied_by_default_explained_allowed_and_gone_through_at_once() {
    let (mesh, app, mut orders, web) = shop::trading();
    let intruder = shop::caller(&mesh, "intruder");
    let id = denial(&get_until(&web, "orders", "/orders/1", 403));
    assert_eq!(app.requests(), 0);

    // The first of its kind, and a later one, which only the agent knows.
    let repeated = denial(&get(web.outbound(), "orders", "/orders/1").unwrap());
    assert_ne!(id, repeated);
    for id in [&id, &repeated] {
        let told = mesh.hauberk(&["explain", id]).ok().stdout;
        for part in ["web", "orders", "GET", "/orders/1", "hauberk allow web orders"] {
            assert!(told.contains(part), "{part:?} is missing: {told}");
        }
    }
    let nonsense = mesh.hauberk(&["explain", "nonsense"]);
    assert_eq!(nonsense.code, 1, "{nonsense:?}");
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "GET", "/orders/1"]).code, 1);

    let allow = ["allow", "web", "orders", "--methods", "GET", "--path", "/orders/*", "--wait"];
    let shown = mesh.hauberk(&allow).ok().stdout;
    assert!(shown.contains("permit") && shown.contains("context.path like \"/orders/*\""), "{shown}");
    // Enforced means: the very next call goes through.
    assert_eq!(get(web.outbound(), "orders", "/orders/1").unwrap().status, 200);
    assert_eq!(app.requests(), 1);
    mesh.hauberk(&["can", "web", "orders", "GET", "/orders/1"]).ok();
    assert_eq!(mesh.hauberk(&["can", "intruder", "orders", "GET", "/orders/1"]).code, 1);

    // That much and no more.
    denial(&get(web.outbound(), "orders", "/other").unwrap());
    denial(
        &request(web.outbound(), "POST /orders/1 HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n")
            .unwrap(),
    );
    denial(&request(web.outbound(), "get /orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n").unwrap());
    // Another protocol takes a permit of its own, beside the GET that it begins with.
    let upgrade =
        "GET /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let id = denial(&request(web.outbound(), upgrade).unwrap());
    let told = mesh.hauberk(&["explain", &id]).ok().stdout;
    assert!(told.contains("--methods GET,upgrade --path /orders/1"), "{told}");
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "upgrade", "/orders/1"]).code, 1);
    denial(&get_until(&intruder, "orders", "/orders/1", 403));
    assert_eq!(app.requests(), 1);

    // A forbid beats a permit.
    mesh.hauberk(&["deny", "web", "orders", "--path", "/orders/secret*", "--wait"]).ok();
    denial(&get(web.outbound(), "orders", "/orders/secret").unwrap());
    assert_eq!(get(web.outbound(), "orders", "/orders/1").unwrap().status, 200);
    assert_eq!(app.requests(), 2);

    // An id that somebody has seen is explained after the agent has gone.
    orders.process.kill();
    let told = mesh.hauberk(&["explain", &id]).ok().stdout;
    assert!(told.contains("web") && told.contains("/orders/1"), "{told}");
}

#[test]
fn explain_says_that_rules_have_changed_since_and_what_they_decide_now() {
    let (mesh, _app, mut orders, web) = shop::trading();
    let id = denial(&get_until(&web, "orders", "/orders/1", 403));
    let explain = || mesh.hauberk(&["explain", &id]).ok().stdout;
    let changed = "The rules have changed since, last at revision ";
    assert!(!explain().contains(changed), "{}", explain());
    let rule = |rest: &str| {
        let scope =
            "(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\")";
        shop::set_policy(&mesh, "readers", &rest.replace("SCOPE", scope));
    };
    let now = "By the present rules the same request, as it was recorded, would be";
    let told = |parts: &[&str]| {
        let told = explain();
        let then = format!("DENIED {id}: no policy permits it\n");
        assert!(told.starts_with(&then), "what it was stands first: {told}");
        for part in [changed].iter().chain(parts) {
            assert!(told.contains(part), "{part:?} is missing: {told}");
        }
        told
    };
    let allowed = [now, "\n\nALLOWED: policy readers permits it\n", "✓ readers (permit)"];
    rule("permit SCOPE;");
    assert!(!told(&allowed).contains("To let exactly this through"), "it is let through by now");
    let unknown = "What the present ones would decide cannot be said: they read what was not recorded of it.";
    rule("permit SCOPE when { context.headers.hasTag(\"x-tenant\") };");
    assert!(!told(&[unknown]).contains(now));
    rule("permit SCOPE when { context.path like \"/other/*\" };");
    told(&[now, "\n\nDENIED: no policy permits it\n", "✗ readers (permit)", "hauberk allow web orders"]);
    rule("permit SCOPE;");
    let json = mesh.hauberk(&["explain", &id, "-o", "json"]).ok().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["decision"]["decision"]["reason"], "no_policy_matched", "{json}");
    assert_eq!(json["rulesSince"]["now"]["decision"]["reason"], "permitted", "{json}");
    // From what the control plane has kept, too.
    orders.process.kill();
    told(&allowed);
    told(&["as the control plane kept it", "No policy concerned this target then."]);
}

#[test]
fn explain_tells_the_nearest_policy_and_the_field_that_differed() {
    let (mesh, _app, _orders, web) = shop::trading();
    shop::set_policy(
        &mesh,
        "readers",
        "permit (principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");",
    );
    get_until(&web, "orders", "/", 200);
    let response = request(web.outbound(), "DELETE /orders/9 HTTP/1.1\r\nhost: orders\r\n\r\n").unwrap();
    let told = mesh.hauberk(&["explain", &denial(&response)]).ok().stdout;
    assert!(told.contains("readers"), "{told}");
    assert!(told.contains("action"), "{told}");
    assert!(told.contains("--methods DELETE"), "{told}");
    // The suggestion is a command that works as it stands and opens exactly this.
    let suggestion =
        told.lines().find_map(|line| line.trim().find("hauberk allow").map(|at| &line.trim()[at..]));
    let words = words(suggestion.unwrap());
    let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).chain(["--wait"]).collect();
    mesh.hauberk(&arguments).ok();
    let send = |text: &str| request(web.outbound(), text).unwrap().status;
    assert_eq!(send("DELETE /orders/9 HTTP/1.1\r\nhost: orders\r\n\r\n"), 200);
    assert_eq!(send("DELETE /orders/8 HTTP/1.1\r\nhost: orders\r\n\r\n"), 403);
    // What a forbid denies is not opened by a permit, and whoever writes one is told.
    shop::set_policy(
        &mesh,
        "keep-8",
        "forbid (principal, action in Action::\"http\", resource) when { context.path == \"/orders/8\" };",
    );
    let told =
        mesh.hauberk(&["allow", "web", "orders", "--methods", "DELETE", "--path", "/orders/8", "--wait"]);
    let told = told.ok().stderr;
    assert!(told.contains("still denied: web → orders:") && told.contains("keep-8 forbids it"), "{told}");
    // A gRPC port has no method `/`: what is asked about instead of everything is not told as if it had been granted.
    let everything = mesh.hauberk(&["allow", "web", "orders-rpc"]).ok().stderr;
    assert!(!everything.contains("still denied"), "{everything}");
    let response = request(web.outbound(), "DELETE /orders/8 HTTP/1.1\r\nhost: orders\r\n\r\n").unwrap();
    let told = mesh.hauberk(&["explain", &denial(&response)]).ok().stdout;
    assert!(told.contains("No permit lifts a forbid: change or delete keep-8"), "{told}");
    // Without a path a forbid is told that leaves nothing, and no other.
    let everything = mesh.hauberk(&["allow", "web", "orders"]).ok().stderr;
    assert!(!everything.contains("still denied"), "{everything}");
    shop::set_policy(&mesh, "closed", "forbid (principal, action, resource in Service::\"orders\");");
    let everything = mesh.hauberk(&["allow", "web", "orders"]).ok().stderr;
    assert!(
        everything.contains("still denied: web → orders:")
            && everything.contains(", whatever it asks for: closed forbids it"),
        "{everything}"
    );
}

/// A command line as a shell would split it: words, some in single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_denials_are_statuses() {
    let mesh = shop::open();
    let app = StreamingApp::start();
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let channel = grpc::channel(web.outbound(), "orders-rpc");
    grpc::until_reachable(&channel).await;
    let call = |method| grpc::call_streaming(&channel, method, tokio_stream::iter(["hi".to_owned()]));
    let denied = call("/test.Echo/Both").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let id = denied.metadata().get("hauberk-decision").unwrap().to_str().unwrap().to_owned();
    assert_eq!(app.count(), 0);
    let told = mesh.hauberk(&["explain", &id]).ok().stdout;
    assert!(told.contains("test.Echo/Both"), "{told}");

    mesh.hauberk(&["allow", "web", "orders-rpc", "--rpc", "test.Echo/Both", "--wait"]).ok();
    let mut answers = call("/test.Echo/Both").await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), "hi");
    assert_eq!(call("/test.Echo/Fail").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(call("/test.echo/Both").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(app.count(), 1);
}

#[test]
fn tcp_denials_are_clean_ends() {
    let mesh = shop::open();
    let app = TcpApp::echo();
    let _redis = shop::redis(&mesh, app.address());
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    let intruder = mesh.agent("intruder", AgentOptions::default().tcp("cache:6379"));
    mesh.hauberk(&["allow", "web", "cache", "--wait"]).ok();
    drop(crate::tcp::open_echo(web.tcp("cache:6379")));
    let seen = app.connections();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(intruder.tcp("cache:6379")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let _ = stream.write_all(b"PING\r\n");
        let mut answer = Vec::new();
        let outcome = stream.read_to_end(&mut answer);
        let timed_out = outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out && answer.is_empty(), "{answer:?}");
    }
    assert_eq!(app.connections(), seen, "the app never heard of it");
    drop(crate::tcp::open_echo(web.tcp("cache:6379")));
}

#[test]
fn audit_lets_default_denials_through_and_records_them() {
    let (mesh, _app, _orders, web) = shop::trading();
    get_until(&web, "orders", "/", 403);
    mesh.apply(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  authorization: AUDIT\n  listeners:\n  \
         - {portMapping: {port: 8080, protocol: http}}\n  - {portMapping: {port: 9090, protocol: http2}}\n  \
         - {portMapping: {port: 50051, protocol: grpc}}\n",
    );
    mesh.wait_enforced();
    let response = get(web.outbound(), "orders", "/recorded").unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("hauberk-decision"), None);
    shop::set_policy(
        &mesh,
        "no",
        "forbid (principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.path == \"/no\" };",
    );
    denial(&get(web.outbound(), "orders", "/no").unwrap());
    assert_eq!(get(web.outbound(), "orders", "/yes").unwrap().status, 200);
    let check = mesh.hauberk(&["check"]);
    assert!((check.stdout.clone() + &check.stderr).contains("AUDIT"), "{check:?}");
}

#[test]
fn tap_shows_denials_as_they_happen() {
    let (mesh, _app, _orders, web) = shop::trading();
    shop::set_policy(
        &mesh,
        "ok",
        "permit (principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { context.path == \"/ok\" };",
    );
    get_until(&web, "orders", "/ok", 200);
    let mut tap = Command::new(binary("hauberk"))
        .args(["tap", "--denied", "-o", "json"])
        .env("HAUBERK_HOME", mesh.cli_home())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap_or(Value::String(line)));
        }
    });
    // It watches from some moment on; so the same is asked until it has been seen.
    let told = eventually("tap tells of a denial", PATIENCE, || {
        assert_eq!(get(web.outbound(), "orders", "/ok").unwrap().status, 200);
        denial(&get(web.outbound(), "orders", "/tapped").unwrap());
        receiver.try_recv().ok()
    });
    tap.kill().unwrap();
    tap.wait().unwrap();
    let text = told.to_string();
    assert!(text.contains("/tapped") && text.contains("web"), "{text}");
    for told in receiver.try_iter() {
        assert!(!told.to_string().contains("\"/ok\""), "only denials were asked for: {told}");
    }
}

#[test]
fn a_removed_permit_denies_the_very_next_call() {
    let (mesh, app, _orders, web) = shop::trading();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    // Over a connection that stays open: what was decided for it before counts no more.
    let mut stream = TcpStream::connect(web.outbound()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut call = move || {
        stream.write_all(b"GET /kept HTTP/1.1\r\nhost: orders\r\n\r\n").unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        stream.read_exact(&mut vec![0; length]).unwrap();
        head.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(call(), 200);
    shop::remove_policy(&mesh, "all");
    let seen = app.requests();
    assert_eq!(call(), 403);
    assert_eq!(app.requests(), seen);
}
