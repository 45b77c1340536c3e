//! Users: verified where their calls come in, told to policies, and nobody else's word.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use hauberk_integration_tests::{Agent, App, MeshBox, Response, eventually, request, skip};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::{
    client::{http2, whole},
    grpc,
    login::{Login, now},
    shop::{self, PATIENCE, get_until},
    streaming_app::{StreamingApp, empty},
};

const FOR_SUPPORT: &str = "permit (principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\") when { \
    context has user && context.user in UserGroup::\"login/support\" };\n\
    permit (principal == Node::\"web\", action == Action::\"GET\", resource == Route::\"orders:8080 /health\");";

/// The node `orders`, which takes tokens so on its port 8080.
fn orders_taking(users: &str) -> String {
    format!(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - portMapping: {{port: 8080, protocol: http}}\n    \
         users: {users}\n    routes: [{{path: /health}}, {{path: '/refunds/*', users: REQUIRED}}]\n  - {{portMapping: {{port: 9090, \
         protocol: http2}}}}\n  - {{portMapping: {{port: 50051, protocol: grpc}}}}\n"
    )
}

/// A shop in which `login` says who users are.
fn open(login: &Login, users: &str) -> MeshBox {
    let mesh = shop::open();
    mesh.apply(&format!("{}---\n{}", login.resource(""), orders_taking(users)));
    shop::set_policy(&mesh, "support", FOR_SUPPORT);
    mesh
}

fn get(web: &Agent, path: &str, lines: &[&str]) -> Response {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    request(
        web.outbound(),
        &format!("GET {path} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n{lines}\r\n"),
    )
    .unwrap()
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// Why a request was denied.
fn reason(mesh: &MeshBox, response: &Response) -> String {
    assert_eq!(response.status, 403, "{response:?}");
    let id = response.header("hauberk-decision").unwrap();
    let told = mesh.hauberk(&["explain", id, "-o", "json"]).ok().stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let found = told.pointer("/decision/decision/reason").or_else(|| told.pointer("/decision/reason"));
    found.and_then(|reason| reason.as_str()).unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[test]
fn a_users_token_decides_and_one_that_is_no_good_denies_even_where_none_is_needed() {
    let (login, stranger) = (Login::new("login"), Login::new("stranger"));
    let mesh = open(&login, "{}");
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/health", 200);
    let support = login.token("alice", &["support"]);
    let header = |kid: &str, alg: &str| json!({"kid": kid, "alg": alg});
    let by_rsa = login.sign(&header("rsa", "PS256"), &login.claims("bob", &["support"], 600));
    for token in [&support, &by_rsa] {
        assert_eq!(get(&web, "/orders/1", &[&bearer(token)]).status, 200);
    }
    // The app never sees it.
    let last = app.heads().pop().unwrap();
    assert!(!last.iter().any(|line| line.to_ascii_lowercase().starts_with("authorization")), "{last:?}");
    let seen = app.requests();
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[])), "no_policy_matched");
    assert_eq!(reason(&mesh, &get(&web, "/refunds/1", &[])), "user_missing");
    let staff = get(&web, "/orders/1", &[&bearer(&login.token("carol", &["staff"]))]);
    let told = mesh.hauberk(&["explain", staff.header("hauberk-decision").unwrap()]).ok().stdout;
    let lacks = "context.user: expected in UserGroup::\"login/support\", was User::\"login/carol\"";
    assert!(told.contains(lacks), "{told}");
    assert!(told.contains("does not meet the condition of support/1:"), "{told}");
    assert!(!told.contains("What lacks is a user") && !told.contains("exactly this"), "{told}");

    let good = || login.claims("alice", &["support"], 600);
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = good();
        claims[name] = value;
        login.sign(&header("ec", "ES256"), &claims)
    };
    let unsigned = format!("{}..", support.split_once('.').unwrap().0);
    // An RSA key's own text as the secret of an HMAC is the old trick: no algorithm but the key's own counts.
    for (token, expected) in [
        ("nonsense".to_owned(), "user_token_malformed"),
        (unsigned, "user_token_malformed"),
        (login.sign(&json!({"kid": "ec", "alg": "none"}), &good()), "user_token_algorithm"),
        (login.sign(&header("ec", "HS256"), &good()), "user_token_algorithm"),
        (login.sign(&header("rsa", "RS256"), &good()), "user_token_algorithm"),
        (login.sign(&header("rsa", "ES256"), &good()), "user_token_algorithm"),
        (login.sign(&header("enc", "ES256"), &good()), "user_token_unknown_key"),
        (login.sign(&header("../../../dev/null", "ES256"), &good()), "user_token_unknown_key"),
        (stranger.sign(&header("ec", "ES256"), &good()), "user_token_signature"),
        (stranger.token("alice", &["support"]), "user_token_unknown_issuer"),
        (with("aud", json!("bank")), "user_token_audience"),
        (with("exp", json!(now() - 1)), "user_token_expired"),
        (with("nbf", json!(now() + 600)), "user_token_not_yet_valid"),
    ] {
        // Where no user is needed at all, too.
        for path in ["/orders/1", "/health", "/refunds/1"] {
            let answer = get(&web, path, &[&bearer(&token)]);
            assert_eq!(reason(&mesh, &answer), expected, "{path} {}", token.len());
        }
    }
    let twice = get(&web, "/health", &[&bearer(&support), &bearer(&support)]);
    assert_eq!(reason(&mesh, &twice), "user_token_ambiguous");
    assert_eq!(app.requests(), seen);
    assert_eq!(get(&web, "/health", &["authorization: Basic YTpi"]).status, 200, "that is the app's own");
    assert_eq!(get(&web, "/refunds/1", &[&bearer(&support)]).status, 200);
    // No token is in any log or answer.
    let secret = support.rsplit('.').next().unwrap().to_owned();
    assert!(!orders.process.log().contains(&secret), "a token is logged");
    let denied = get(&web, "/orders/1", &[&bearer(&with("exp", json!(1)))]);
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("the user's token has expired") && !told.contains("eyJ"), "{told}");

    // The same question of what is stored.
    let can = |more: &[&str]| {
        let asked = ["can", "web", "orders", "GET", "/orders/1"];
        mesh.hauberk(&asked.iter().chain(more).copied().collect::<Vec<_>>())
    };
    assert_eq!(can(&[]).code, 3, "it depends on the user, who was not told");
    can(&["--user", "alice@login", "--claims", "{\"groups\": [\"support\"]}"]).ok();
    assert_eq!(can(&["--user", "alice@login", "--claims", "{\"groups\": [\"staff\"]}"]).code, 1);
    assert_eq!(can(&["--without-user"]).code, 1);
    let both = can(&["--user", "alice@login", "--without-user"]);
    assert!(both.code == 2 && both.stderr.contains("cannot be used with"), "{both:?}");
    let refund = mesh.hauberk(&["can", "web", "orders", "GET", "/refunds/1", "--without-user"]);
    assert!(refund.code == 1 && refund.stdout.contains("the route is for users"), "{refund:?}");
    let unknown = can(&["--user", "alice@logn"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("did you mean \"login\"?"), "{unknown:?}");
}

#[test]
fn two_issuers_have_no_user_in_common_and_stand_where_they_are_said_to() {
    let (login, edge) = (Login::new("login"), Login::new("edge"));
    let mesh = open(&login, "{mode: REQUIRED, keepToken: true}");
    mesh.apply(
        &edge.resource("  tokenHeader: x-edge-token\n  claims: {user: email, groups: [realm.groups]}\n"),
    );
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    shop::set_policy(
        &mesh,
        "support",
        "permit (principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when { context has user && \
         (context.user == User::\"login/alice\" || context.user in UserGroup::\"edge/support\") };",
    );
    let alice = bearer(&login.token("alice", &[]));
    shop::eventually_status(
        &web,
        "orders",
        &format!("GET / HTTP/1.1\r\nhost: orders\r\n{alice}\r\n\r\n"),
        200,
    );
    let last = app.heads().pop().unwrap();
    assert!(last.iter().any(|line| line.starts_with("authorization: Bearer ")), "it is kept: {last:?}");
    let of_edge = |user: &str, groups: &[&str]| {
        let mut claims = edge.claims("x", &[], 600);
        claims["email"] = json!(user);
        claims["realm"] = json!({"groups": groups});
        edge.sign(&json!({"kid": "ec", "alg": "ES256"}), &claims)
    };
    let at_edge = |token: &str| format!("x-edge-token: {token}");
    assert_eq!(get(&web, "/", &[&at_edge(&of_edge("dora", &["support"]))]).status, 200);
    assert_eq!(reason(&mesh, &get(&web, "/", &[&at_edge(&of_edge("alice", &[]))])), "no_policy_matched");
    assert_eq!(reason(&mesh, &get(&web, "/", &[])), "user_missing");
    for (line, expected) in [
        (bearer(&of_edge("alice", &["support"])), "user_token_misplaced"),
        (at_edge(&login.token("alice", &[])), "user_token_misplaced"),
    ] {
        assert_eq!(reason(&mesh, &get(&web, "/", &[&line])), expected);
    }
    // A token in a field of its own is no header field for policies: it would come into records.
    shop::set_policy(
        &mesh,
        "no-edge",
        "forbid (principal, action in Action::\"http\", resource in Service::\"orders\") unless { \
         context.headers.hasTag(\"x-edge-token\") };",
    );
    let token = of_edge("dora", &["support"]);
    let denied = get(&web, "/", &[&at_edge(&token)]);
    assert_eq!(reason(&mesh, &denied), "forbidden");
    let told =
        mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap(), "-o", "json"]).ok().stdout;
    assert!(!told.contains(&token), "{told}");
    shop::remove_policy(&mesh, "no-edge");
    // One issuer's key never speaks for the other.
    let mut claims = edge.claims("alice", &[], 600);
    claims["iss"] = json!(login.issuer());
    let forged = edge.sign(&json!({"kid": "ec", "alg": "ES256"}), &claims);
    assert_eq!(reason(&mesh, &get(&web, "/", &[&bearer(&forged)])), "user_token_signature");
}

/// A request that has come to the app, of whose content the rest never comes.
fn begin(app: &App, web: &Agent, line: &str) -> TcpStream {
    let before = app.requests();
    let mut stream = TcpStream::connect(web.outbound()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("POST /orders/1 HTTP/1.1\r\nhost: orders\r\n{line}\r\ncontent-length: 9\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    eventually("the app has it", PATIENCE, || (app.requests() > before).then_some(()));
    stream
}

/// Checks that a request still waits, and is neither answered nor cut.
fn waits(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let waits = stream.read(&mut [0; 1]).unwrap_err().kind();
    assert!(matches!(waits, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{waits:?}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Waits until a request is cut by the app's agent: for longer than the shortest token lives.
fn until_cut(mut stream: TcpStream, why: &str) {
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{why}: {answer}");
}

#[test]
fn what_is_under_way_is_cut_when_the_token_ends_its_key_goes_or_its_issuer() {
    let login = Login::new("login");
    let mesh = open(&login, "{}");
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/health", 200);
    let begun = |token: &str| begin(&app, &web, &bearer(token));
    let short = login.sign(&json!({"kid": "ec", "alg": "ES256"}), &login.claims("alice", &["support"], 20));
    let ends = begun(&short);
    let lasts = begun(&login.token("alice", &["support"]));
    let by_rsa = login.sign(&json!({"kid": "rsa", "alg": "PS256"}), &login.claims("bob", &["support"], 600));
    let mut by_other_key = begun(&by_rsa);
    until_cut(ends, "the token has ended");
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&bearer(&short)])), "user_token_expired");
    // One key is taken back: whoever it vouched for is cut, and nobody else.
    let keys: serde_json::Value = serde_json::from_str(&login.jwks()).unwrap();
    let without = json!({"keys": [keys["keys"][1]]}).to_string();
    let resource = login.resource("").replace(&login.jwks(), &without);
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &resource).ok();
    until_cut(lasts, "its key is gone");
    let alice = bearer(&login.token("alice", &["support"]));
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&alice])), "user_token_unknown_key");
    waits(&mut by_other_key);
    // What names the issuer goes first.
    let refused = mesh.hauberk(&["delete", "jwtissuer", "login"]);
    assert!(refused.code != 0 && refused.stderr.contains("policy \"support\""), "{refused:?}");
    shop::set_policy(
        &mesh,
        "support",
        "permit (principal == Node::\"web\", action in Action::\"http\", resource in Service::\"orders\");",
    );
    mesh.hauberk(&["delete", "jwtissuer", "login"]).ok();
    mesh.wait_enforced();
    until_cut(by_other_key, "its issuer is gone");
    assert_eq!(get(&web, "/orders/1", &[]).status, 200);
    let unissued = get(&web, "/orders/1", &[&alice]);
    assert_eq!(
        reason(&mesh, &unissued),
        "user_token_unknown_issuer",
        "a port that takes tokens passes none on unread"
    );
}

#[test]
fn what_is_under_way_is_decided_again_when_tokens_are_to_stand_elsewhere() {
    let (login, edge) = (Login::new("login"), Login::new("edge"));
    let mesh = open(&login, "{}");
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/health", 200);
    let alice = login.token("alice", &["support"]);
    let (by_bearer, by_field) = (bearer(&alice), format!("x-login-token: {alice}"));
    let begun = |line: &str| begin(&app, &web, line);
    let change = |resource: &str| {
        mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], resource).ok();
    };
    let in_bearer = begun(&by_bearer);
    change(&login.resource("  tokenHeader: x-login-token\n"));
    until_cut(in_bearer, "its token is where its issuer's are not");
    assert_eq!(get(&web, "/orders/1", &[&by_field]).status, 200);
    // Nobody looks there any longer.
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&by_bearer])), "no_policy_matched");
    let in_field = begun(&by_field);
    // Another issuer comes, whose tokens would be a second one of a request: whether it has one nobody knows.
    change(&edge.resource(""));
    until_cut(in_field, "there may be another token");
    let of_edge = bearer(&edge.token("dora", &["support"]));
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&by_field, &of_edge])), "user_token_ambiguous");
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&by_bearer])), "user_token_misplaced");
    // Who has nothing to do with it goes on.
    let mut in_field = begun(&by_field);
    change(&edge.resource("  tokenHeader: x-login-token\n"));
    waits(&mut in_field);
    change(&login.resource(""));
    until_cut(in_field, "back again");
    assert_eq!(get(&web, "/orders/1", &[&by_bearer]).status, 200);
}

#[test]
fn keys_are_fetched_by_the_control_plane_and_outlive_their_server() {
    let login = Login::new("login");
    let served = login.serve();
    let mut mesh = shop::open_with(&["--web-roots", served.roots.to_str().unwrap()]);
    let inner = login
        .resource("")
        .replace(&format!("  jwks: '{}'\n", login.jwks()), &format!("  jwksUrl: {}\n", served.url));
    mesh.apply(&format!("{inner}---\n{}", orders_taking("{}")));
    shop::set_policy(&mesh, "support", FOR_SUPPORT);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/health", 200);
    let alice = bearer(&login.token("alice", &["support"]));
    // Loopback takes a word of the admin's: until then there are no keys.
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&alice])), "user_token_unknown_key");
    assert_eq!(served.asked(), 0);
    mesh.apply(&format!("{inner}  allowPrivateAddresses: true\n"));
    let ask = format!("GET /orders/1 HTTP/1.1\r\nhost: orders\r\n{alice}\r\n\r\n");
    shop::eventually_status(&web, "orders", &ask, 200);
    // Keys that come and go do so at once, where an admin asks for it.
    let new = Login::new("login");
    served.says(&new.jwks());
    mesh.hauberk(&["bundle", "refresh", "--issuer", "login"]).ok();
    mesh.wait_enforced();
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&alice])), "user_token_signature");
    let alice = bearer(&new.token("alice", &["support"]));
    assert_eq!(get(&web, "/orders/1", &[&alice]).status, 200);
    served.go_down();
    let failed = mesh.hauberk(&["bundle", "refresh", "--issuer", "login"]);
    assert_ne!(failed.code, 0, "{failed:?}");
    let checked = mesh.hauberk(&["check"]);
    assert!(
        format!("{checked:?}").contains("JwtIssuer shop/login: its keys cannot be fetched"),
        "{checked:?}"
    );
    mesh.kill_control_plane();
    mesh.restart_control_plane();
    mesh.apply(&orders_taking("{mode: REQUIRED}"));
    mesh.wait_enforced();
    assert_eq!(get(&web, "/orders/1", &[&alice]).status, 200, "the last good keys stay");
    let described = mesh.hauberk(&["describe", "issuer", "login"]).ok().stdout;
    assert!(described.contains(&served.url) && described.contains("\n  support\n"), "{described}");
}

/// What `simulate`, `policy diff` and a dry run of `apply` say of a draft.
fn drafted(mesh: &MeshBox, draft: &str) -> [String; 3] {
    let commands: [&[&str]; 3] =
        [&["simulate", "-f", "-"], &["policy", "diff", "-f", "-"], &["apply", "-f", "-", "--dry-run=server"]];
    commands.map(|command| {
        let told = mesh.hauberk_with_input(command, draft);
        // That there are differences is an exit code too.
        assert!(told.code < 2, "{told:?}");
        told.stdout + &told.stderr
    })
}

#[test]
fn what_is_told_of_an_issuer_is_of_no_matter_to_its_keys() {
    let login = Login::new("login");
    let served = login.serve();
    let mesh = shop::open_with(&["--web-roots", served.roots.to_str().unwrap()]);
    mesh.apply(&orders_taking("{}"));
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let from_there = format!("  jwksUrl: {}\n  allowPrivateAddresses: true\n", served.url);
    let resource = login.resource("").replace(&format!("  jwks: '{}'\n", login.jwks()), &from_there);
    // The keys are there once it has been waited for it.
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &resource).ok();
    shop::set_policy(&mesh, "support", FOR_SUPPORT);
    let alice = bearer(&login.token("alice", &["support"]));
    get_until(&web, "orders", "/health", 200);
    assert_eq!(get(&web, "/orders/1", &[&alice]).status, 200);
    let mut passing = begin(&app, &web, &alice);
    let lasting = begin(&app, &web, &alice);

    // What is stored is no change to itself, and what is said of it is none to any call.
    let stored = mesh.hauberk(&["get", "jwtissuer", "login", "-o", "yaml"]).ok().stdout;
    assert!(stored.contains(&served.url), "{stored}");
    let described = format!("{resource}  description: who works here\n");
    let elsewhere = resource.replace("/jwks\n", "/jwks?p=other\n");
    // Of an issuer that is another one nothing can be said.
    let told = eventually("the calls are recorded", PATIENCE, || {
        Some(drafted(&mesh, &elsewhere)).filter(|told| told[0].contains("cannot be decided"))
    });
    assert!(told[1].contains("which tokens are good"), "{told:?}");
    for draft in [&stored, &resource, &described] {
        let told = drafted(&mesh, draft);
        assert!(told[0].contains("nothing would be decided otherwise"), "{told:?}");
        assert!(told.iter().all(|told| !told.contains("which tokens are good")), "{told:?}");
        assert!(told.iter().all(|told| !told.contains("cannot be decided")), "{told:?}");
    }

    served.go_down();
    let asked = served.asked();
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &described).ok();
    passing.write_all(b"123456789").unwrap();
    let mut head = [0; 12];
    passing.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200", "it is not cut");
    assert_eq!(get(&web, "/orders/1", &[&alice]).status, 200, "its keys are where they were");
    assert_eq!(served.asked(), asked, "nobody was asked for them anew");
    // Whoever says that they come from elsewhere has said that these count no longer.
    let elsewhere = described.replace("/jwks\n", "/jwks?p=other\n");
    let told = mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &elsewhere).ok().stderr;
    assert!(told.contains("the keys of jwtissuer/login could not be fetched yet"), "{told}");
    until_cut(lasting, "its keys come from elsewhere");
    assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&alice])), "user_token_unknown_key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_over_http2_and_grpc_are_for_a_user_too_and_end_with_the_key() {
    let login = Login::new("login");
    let mesh = shop::open();
    let listeners: String = [(8080, "http"), (9090, "http2"), (50051, "grpc")]
        .iter()
        .map(|(port, protocol)| {
            format!(
                "  - portMapping: {{port: {port}, protocol: {protocol}}}\n    users: {{mode: REQUIRED}}\n"
            )
        })
        .collect();
    let orders = format!("kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n{listeners}");
    mesh.apply(&format!("{}---\n{orders}", login.resource("")));
    let rule = "permit (principal == Node::\"web\", action, resource in Node::\"orders\");\n\
        forbid (principal, action in [Action::\"http\", Action::\"call\"], resource in Node::\"orders\") unless { \
        context has user && context.user in UserGroup::\"login/support\" };";
    shop::set_policy(&mesh, "support", rule);
    let app = StreamingApp::start();
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let channel = grpc::channel(web.outbound(), "orders-rpc");
    grpc::until_reachable(&channel).await;
    let call = async |token: Option<&str>, method| {
        let mut request = Request::new(tokio_stream::pending::<String>());
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        grpc::call_with(&channel, method, request).await
    };
    let mut h2 = http2(web.outbound()).await;
    let mut get = async |token: Option<&str>, path: &str| {
        let mut request = http::Request::get(format!("http://orders-h2{path}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        h2.send_request(request.body(empty()).unwrap()).await.unwrap()
    };
    let (alice, carol) = (login.token("alice", &["support"]), login.token("carol", &["staff"]));
    assert_eq!(call(None, "/test.Echo/Drip").await.unwrap_err().code(), Code::PermissionDenied);
    for token in [&carol, "nonsense"] {
        let denied = call(Some(token), "/test.Echo/Drip").await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied);
        assert!(denied.metadata().get("hauberk-decision").is_some());
    }
    assert_eq!(whole(get(None, "/").await).await.status, 403);
    assert_eq!(whole(get(Some(&carol), "/").await).await.status, 403);
    assert_eq!(app.count(), 0);
    let mut messages = call(Some(&alice), "/test.Echo/Drip").await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
    let mut drip = get(Some(&alice), "/drip").await;
    drip.frame().await.unwrap().unwrap();
    // The key that vouches for alice goes.
    let other = Login::new("login");
    let resource = other.resource("");
    let taken_back = tokio::task::spawn_blocking(move || {
        mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &resource).ok();
        mesh
    });
    let _mesh = taken_back.await.unwrap();
    let cut = async {
        while let Ok(Some(_)) = messages.message().await {}
        while let Some(Ok(_)) = drip.frame().await {}
    };
    timeout(PATIENCE, cut).await.expect("both are cut");
    assert_eq!(whole(get(Some(&alice), "/").await).await.status, 403);
    assert_eq!(call(Some(&alice), "/test.Echo/Drip").await.unwrap_err().code(), Code::PermissionDenied);
    let alice = other.token("alice", &["support"]);
    let mut messages = call(Some(&alice), "/test.Echo/Drip").await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
}

#[test]
fn a_listener_for_users_whom_nobody_issues_is_told() {
    let mesh = shop::open();
    let applied = mesh.hauberk_with_input(&["apply", "-f", "-"], &orders_taking("{}")).ok();
    let told = "takes users' tokens on port 8080, and mesh shop has no JwtIssuer";
    assert!(applied.stderr.contains(told), "{applied:?}");
    let check = || {
        let told = mesh.hauberk(&["check"]);
        format!("{}{}", told.stdout, told.stderr)
    };
    let told = "listener 8080/http of orders takes users' tokens, and mesh shop has no JwtIssuer";
    assert!(check().contains(told), "{}", check());
    mesh.apply(&Login::new("login").resource(""));
    assert!(!check().contains("has no JwtIssuer"), "{}", check());
}

/// An issuer as PyJWT makes one of its defaults: keys and tokens without `kid`.
const PYJWT: &str = r#"
import json, sys, time
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
keys = {"rsa": rsa.generate_private_key(65537, 2048), "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()), "weak": rsa.generate_private_key(65537, 1024),
        "stranger": rsa.generate_private_key(65537, 2048), "ed": ed25519.Ed25519PrivateKey.generate()}
public = lambda of, name: of.to_jwk(keys[name].public_key(), as_dict=True)
algorithms = jwt.algorithms
listed = [public(algorithms.RSAAlgorithm, "rsa"), public(algorithms.ECAlgorithm, "p256"),
          public(algorithms.ECAlgorithm, "p384"), {**public(algorithms.RSAAlgorithm, "weak"), "kid": "weak"},
          public(algorithms.OKPAlgorithm, "ed")]
claims = {"iss": sys.argv[1], "sub": "alice", "aud": "shop", "groups": ["support"], "exp": int(time.time()) + 600}
made = lambda name, algorithm, **header: jwt.encode(claims, keys[name], algorithm=algorithm, headers=header)
print(json.dumps({
    "jwks": json.dumps({"keys": listed}),
    "taken": [made("rsa", "RS256"), made("p256", "ES256"), made("p384", "ES384"), made("rsa", "PS512"),
              made("ed", "EdDSA")],
    "unknown": [made("weak", "RS256", kid="weak"), made("rsa", "RS256", kid="rsa")],
    "wrong": [made("weak", "RS256"), made("stranger", "RS256")],
}))
"#;

#[test]
fn tokens_of_pyjwt_need_no_key_id_where_one_key_alone_fits() {
    let Some(python) = std::env::var_os("HAUBERK_TEST_PYTHON") else {
        skip("HAUBERK_TEST_PYTHON names no Python that has pyjwt and cryptography");
        return;
    };
    let output =
        Command::new(python).args(["-W", "ignore", "-c", PYJWT, "https://login.example"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens =
        |name: &str| made[name].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned());
    let mesh = shop::open();
    let issuer = format!(
        "kind: JwtIssuer\nmesh: shop\nname: login\nspec:\n  issuer: https://login.example\n  audiences: [shop]\n  jwks: '{}'\n",
        made["jwks"].as_str().unwrap()
    );
    let told = mesh.apply(&format!("{issuer}---\n{}", orders_taking("{}"))).stderr;
    assert!(told.contains("spec.jwks: key number 4 is refused: an RSA key has 2048"), "{told}");
    shop::set_policy(&mesh, "support", FOR_SUPPORT);
    let app = App::start("orders");
    let _orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/health", 200);
    for token in tokens("taken") {
        assert_eq!(get(&web, "/orders/1", &[&bearer(&token)]).status, 200);
    }
    for (name, expected) in [("unknown", "user_token_unknown_key"), ("wrong", "user_token_signature")] {
        for token in tokens(name) {
            assert_eq!(reason(&mesh, &get(&web, "/orders/1", &[&bearer(&token)])), expected);
        }
    }
    let check = mesh.hauberk(&["check"]).stdout;
    assert!(check.contains("JwtIssuer shop/login: not all of its keys count"), "{check}");
    // Where none is of use nothing is taken.
    let keys: serde_json::Value = serde_json::from_str(made["jwks"].as_str().unwrap()).unwrap();
    let only_weak =
        issuer.replace(made["jwks"].as_str().unwrap(), &json!({"keys": [keys["keys"][3]]}).to_string());
    let refused = mesh.hauberk_with_input(&["apply", "-f", "-"], &only_weak);
    assert!(refused.code != 0 && refused.stderr.contains("none of its keys is of use"), "{refused:?}");
}
