//! Each fact of a decision's context, as a real agent tells it to policies: with a call that a policy of it lets
//! through, and one that it does not.

use std::net::Ipv4Addr;

use hauberk_integration_tests::{Agent, AgentOptions, App, dial, request};
use rustls::NamedGroup;
use serde_json::json;
use tonic::Code;

use crate::{
    grpc,
    login::{Login, now},
    partner::Partner,
    peer::converse,
    shop::{self, get_until},
    spiffe_clients::Foreigner,
    streaming_app::StreamingApp,
};

#[derive(Debug, Clone, Copy)]
enum Who {
    /// Through its agent.
    Web,
    /// Web's certificate in a client that exchanges keys by X25519 alone.
    WebOverX25519,
    /// Workloads of another trust domain.
    Billing,
    /// The same one from another address.
    BillingFromElsewhere,
    Shipping,
}

use Who::{Billing, BillingFromElsewhere, Shipping, Web, WebOverX25519};

#[derive(Debug, Clone, Copy)]
struct Call {
    who: Who,
    method: &'static str,
    /// What follows in the path.
    rest: &'static str,
    /// Lines beside `Host`, which is `orders` where none is among them; some by what stands for them.
    lines: &'static [&'static str],
}

const fn get(who: Who, rest: &'static str, lines: &'static [&'static str]) -> Call {
    Call { who, method: "GET", rest, lines }
}

struct Row {
    /// The fact; paths begin with it.
    fact: &'static str,
    condition: &'static str,
    allowed: &'static [Call],
    denied: &'static [Call],
}

const ROWS: &[Row] = &[
    Row {
        fact: "federated",
        condition: "context.peer.federated",
        allowed: &[get(Billing, "", &[]), get(Shipping, "", &[])],
        denied: &[get(Web, "", &[]), get(WebOverX25519, "", &[])],
    },
    Row {
        fact: "spiffeId",
        condition: "context.peer has spiffeId && context.peer.spiffeId == \"spiffe://partner.test/workload/billing\"",
        allowed: &[get(Billing, "", &[])],
        denied: &[get(Shipping, "", &[]), get(Web, "", &[])],
    },
    Row {
        fact: "trustDomain",
        condition: "context.peer has trustDomain && context.peer.trustDomain == \"box.test\"",
        allowed: &[get(Web, "", &[])],
        denied: &[get(Billing, "", &[])],
    },
    Row {
        fact: "tlsVersion",
        condition: "context.peer has tlsVersion && context.peer.tlsVersion == \"TLSv1.3\"",
        allowed: &[get(Web, "", &[]), get(Billing, "", &[])],
        denied: &[],
    },
    Row {
        fact: "tlsVersionOther",
        condition: "context.peer has tlsVersion && context.peer.tlsVersion != \"TLSv1.3\"",
        allowed: &[],
        denied: &[get(Web, "", &[]), get(Billing, "", &[])],
    },
    Row {
        fact: "tlsGroup",
        condition: "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519MLKEM768\"",
        allowed: &[get(Web, "", &[])],
        denied: &[get(WebOverX25519, "", &[])],
    },
    Row {
        fact: "tlsGroupOther",
        condition: "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
        allowed: &[get(WebOverX25519, "", &[])],
        denied: &[get(Web, "", &[])],
    },
    Row {
        fact: "params",
        condition: "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"7 a\"",
        allowed: &[get(Web, "/7%20a", &[]), get(Billing, "/%37%20%61", &[])],
        denied: &[get(Web, "/7", &[]), get(Web, "/7%20a/more", &[]), get(Web, "/7+a", &[])],
    },
    Row {
        fact: "claims",
        condition: "context.claims.hasTag(\"team\") && context.claims.getTag(\"team\").contains(\"blue\")",
        allowed: &[get(Web, "", &["BLUE"]), get(Billing, "", &["BLUE"])],
        denied: &[get(Web, "", &["RED"]), get(Web, "", &[])],
    },
    Row {
        fact: "claimsOfObjects",
        condition: "context.claims.hasTag(\"address.floor\") && context.claims.getTag(\"address.floor\") == [\"3\"]",
        allowed: &[get(Web, "", &["BLUE"])],
        denied: &[get(Web, "", &["RED"]), get(Web, "", &[])],
    },
    Row {
        fact: "host",
        condition: "context.host == \"orders\"",
        allowed: &[get(Web, "", &[]), get(Billing, "", &["Host: ORDERS:8080"])],
        denied: &[get(Billing, "", &["Host: orders.elsewhere"]), get(Billing, "", &["Host: 127.0.0.1:8080"])],
    },
    Row {
        fact: "query",
        condition: "context.query.hasTag(\"v\") && context.query.getTag(\"v\") == [\"a b\", \"c\"]",
        allowed: &[get(Web, "?v=c&v=a+b", &[]), get(Web, "?x=1&v=a%20b&%76=c&v=c", &[])],
        denied: &[
            get(Web, "?v=c", &[]),
            get(Web, "?v=a+b&v=c&v=d", &[]),
            get(Web, "?v=a+b,c", &[]),
            get(Web, "", &[]),
        ],
    },
    Row {
        fact: "headers",
        condition: "context.headers.hasTag(\"x-part\") && context.headers.getTag(\"x-part\") == [\"a\", \"b\"]",
        allowed: &[
            get(Web, "", &["x-part: b", "X-Part: a"]),
            get(Billing, "", &["x-part: a", "x-part: b", "x-part: a"]),
        ],
        denied: &[
            get(Web, "", &["x-part: a"]),
            get(Web, "", &["x-part: a, b"]),
            get(Web, "", &["x-part: a", "x-part: b", "x-part: c"]),
            get(Web, "", &["x-part: a", "x_part: b"]),
            get(Web, "", &[]),
        ],
    },
    Row {
        fact: "time",
        condition: "context.time > HOUR_AGO && context.time < IN_AN_HOUR",
        allowed: &[get(Web, "", &[]), get(Billing, "", &[])],
        denied: &[],
    },
    Row {
        fact: "timeOther",
        condition: "context.time < HOUR_AGO || context.time > IN_AN_HOUR",
        allowed: &[],
        denied: &[get(Web, "", &[]), get(Billing, "", &[])],
    },
    Row {
        fact: "method",
        condition: "context.method == \"PROPFIND\"",
        allowed: &[
            Call { method: "PROPFIND", ..get(Web, "", &[]) },
            Call { method: "PROPFIND", ..get(Billing, "", &[]) },
        ],
        denied: &[
            Call { method: "PROPPATCH", ..get(Web, "", &[]) },
            Call { method: "propfind", ..get(Web, "", &[]) },
            get(Web, "", &[]),
        ],
    },
    Row {
        fact: "address",
        condition: "context.peer.address == ip(\"127.0.0.9\")",
        allowed: &[get(BillingFromElsewhere, "", &[])],
        denied: &[get(Billing, "", &[]), get(Web, "", &[])],
    },
    Row {
        fact: "certificateAge",
        condition: "context.peer has certificateAge && context.peer.certificateAge < 1800",
        allowed: &[get(Web, "", &[])],
        denied: &[get(Billing, "", &[])],
    },
    Row {
        fact: "certificateAgeOther",
        condition: "context.peer has certificateAge && context.peer.certificateAge >= 3600 && context.peer.certificateAge < 5400",
        allowed: &[get(Billing, "", &[])],
        denied: &[get(Web, "", &[])],
    },
    Row {
        fact: "user",
        condition: "context has user && context.user == User::\"login/alice\"",
        allowed: &[get(Web, "", &["BLUE"]), get(Billing, "", &["RED"])],
        denied: &[get(Web, "", &["BOB"]), get(Web, "", &[])],
    },
    Row {
        fact: "userGroup",
        condition: "context has user && context.user in UserGroup::\"login/support\"",
        allowed: &[get(Web, "", &["BOB"])],
        denied: &[get(Web, "", &["BLUE"]), get(Web, "", &[])],
    },
    Row {
        fact: "userIssuer",
        condition: "context has user && context.user.issuer == \"https://login.example\"",
        allowed: &[get(Web, "", &["BLUE"])],
        denied: &[get(Web, "", &["STAFF"]), get(Web, "", &[])],
    },
    Row {
        fact: "scopes",
        condition: "context has user && context.user.scopes == [\"orders:read\", \"orders:write\"]",
        allowed: &[get(Web, "", &["BOB"])],
        denied: &[get(Web, "", &["BLUE"]), get(Web, "", &[])],
    },
    Row {
        fact: "roles",
        condition: "context has user && context.user.roles.contains(\"clerk\")",
        allowed: &[get(Web, "", &["BOB"])],
        denied: &[get(Web, "", &["BLUE"]), get(Web, "", &[])],
    },
    Row {
        fact: "actors",
        condition: "context.actors == [Node::\"payments\"]",
        allowed: &[get(Web, "", &["VIA PAYMENTS"])],
        denied: &[get(Web, "", &["DIRECT"]), get(Web, "", &["BLUE"]), get(Web, "", &[])],
    },
    Row {
        fact: "noActors",
        condition: "context has user && context.actors.isEmpty()",
        allowed: &[get(Web, "", &["DIRECT"]), get(Web, "", &["BLUE"])],
        denied: &[get(Web, "", &["VIA PAYMENTS"])],
    },
];

/// Conditions on gRPC calls, and methods that they let through and do not.
const CALLS: &[(&str, &[&str], &[&str])] = &[
    (
        "context.service == \"facts.Service\"",
        &["/facts.Service/Get", "/facts.Service/Put"],
        &["/facts.Services/Get"],
    ),
    (
        "context.rpc == \"Only\"",
        &["/facts.One/Only", "/facts.Other/Only"],
        &["/facts.One/Other", "/facts.Only/One"],
    ),
    ("context.path == \"/facts.Path/Get\"", &["/facts.Path/Get"], &["/facts.Path/Put", "/facts.path/Get"]),
    ("context.path like \"/facts.Host/*\" && context.host == \"orders-rpc\"", &["/facts.Host/Get"], &[]),
    ("context.path like \"/facts.Method/*\" && context.method != \"POST\"", &[], &["/facts.Method/Get"]),
];

/// The node with a route for each fact, one of which has a parameter; and two that a user's calls go through before.
const NODES: &str = "kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - {portMapping: {port: 8080, protocol: http}, users: {}, routes: [{path: '/params/{id}'}]}
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
---
kind: VirtualNode
mesh: shop
name: web
spec: {listeners: [{portMapping: {port: 8080, protocol: http}, users: {}}]}
---
kind: VirtualNode
mesh: shop
name: payments
spec: {listeners: [{portMapping: {port: 8080, protocol: http}, users: {}}]}
---
kind: VirtualService
mesh: shop
name: web
spec: {provider: {virtualNode: {virtualNodeName: web}}}
---
kind: Policy
mesh: shop
name: before
spec:
  cedar: |
    permit(principal is Node, action == Action::\"GET\", resource in Node::\"web\");
    permit(principal is Node, action == Action::\"GET\", resource in Node::\"payments\");
";

struct Callers {
    web: Agent,
    over_x25519: Foreigner,
    billing: Foreigner,
    shipping: Foreigner,
    orders: Agent,
    /// What stands for lines in the table.
    lines: Vec<(&'static str, String)>,
}

impl Callers {
    /// The status of the answer.
    async fn call(&self, fact: &str, call: &Call) -> u16 {
        let Call { who, method, rest, lines } = call;
        let mut head = format!("{method} /{fact}{rest} HTTP/1.1\r\nconnection: close\r\n");
        if !lines.iter().any(|line| line.starts_with("Host: ")) {
            head += "host: orders\r\n";
        }
        for line in *lines {
            let meant = self.lines.iter().find(|(name, _)| name == line);
            head += &format!("{}\r\n", meant.map_or(*line, |(_, line)| line.as_str()));
        }
        head += "\r\n";
        let (foreigner, from) = match who {
            Web => return request(self.web.outbound(), &head).unwrap().status,
            WebOverX25519 => (&self.over_x25519, Ipv4Addr::LOCALHOST),
            Billing => (&self.billing, Ipv4Addr::LOCALHOST),
            BillingFromElsewhere => (&self.billing, Ipv4Addr::new(127, 0, 0, 9)),
            Shipping => (&self.shipping, Ipv4Addr::LOCALHOST),
        };
        let at = self.orders.inbound(8080);
        let mut stream = foreigner.connect_from(from, at, &[b"http/1.1"]).await.unwrap();
        let answer = converse(&mut stream, head.as_bytes()).await;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }
}

/// The line by which an app passes its user on, once this call has brought one to it.
fn passed_on(by: &Agent, service: &str, line: &str, app: &App) -> String {
    let head = format!("GET / HTTP/1.1\r\nhost: {service}\r\n{line}\r\nconnection: close\r\n\r\n");
    shop::eventually_status(by, service, &head, 200);
    let last = app.heads().pop().unwrap();
    last.into_iter().find(|line| line.starts_with("hauberk-identity: ")).unwrap()
}

/// The policies of the table.
fn policies() -> String {
    let hour = |from_now: i64| {
        let time = (i64::try_from(now()).unwrap() + from_now * 3600) * 1000;
        format!("datetime(\"1970-01-01\").offset(duration(\"{time}ms\"))")
    };
    let (hour_ago, in_an_hour) = (hour(-1), hour(1));
    let of_requests = ROWS.iter().map(|Row { fact, condition, .. }| {
        let condition = condition.replace("HOUR_AGO", &hour_ago).replace("IN_AN_HOUR", &in_an_hour);
        let statement = |principal: &str| {
            format!(
                "    permit(principal is {principal}, action in Action::\"http\", resource in Service::\"orders\") when {{ (context.path == \
                 \"/{fact}\" || context.path like \"/{fact}/*\") && {condition} }};\n"
            )
        };
        (fact.to_lowercase(), [statement("Node"), statement("Workload")].concat())
    });
    let of_calls = CALLS.iter().enumerate().map(|(number, (condition, ..))| {
        let statement = format!(
            "    permit(principal is Node, action == Action::\"call\", resource in Service::\"orders-rpc\") when {{ {condition} }};\n"
        );
        (format!("call-{number}"), statement)
    });
    let policy =
        |(name, cedar)| format!("kind: Policy\nmesh: shop\nname: {name}\nspec:\n  cedar: |\n{cedar}");
    of_requests.chain(of_calls).map(policy).collect::<Vec<_>>().join("---\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_of_the_context_lets_a_call_through_and_denies_another() {
    let (login, staff, partner) = (Login::new("login"), Login::new("staff"), Partner::new(1));
    let mesh = shop::open();
    let others = [login.resource(""), staff.resource(""), partner.resource()].join("---\n");
    mesh.apply(&format!("{NODES}---\n{others}"));
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &policies()).ok();
    let (app, grpc_app) = (App::start("orders"), StreamingApp::start());
    let behind = AgentOptions::default().app(8080, app.address()).app(9090, app.address());
    let orders = mesh.agent("orders", behind.app(50051, grpc_app.address()));
    let before = [App::start("web"), App::start("payments")];
    let agent = |node, app: &App| mesh.agent(node, AgentOptions::default().app(8080, app.address()));
    let (web, payments) = (agent("web", &before[0]), agent("payments", &before[1]));
    let intruder = shop::caller(&mesh, "intruder");
    get_until(&web, "orders", "/tlsVersion", 200);
    let bearer = |login: &Login, user: &str, groups: &[&str], more: serde_json::Value| {
        let mut claims = login.claims(user, groups, 600);
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("authorization: Bearer {}", login.sign(&json!({"kid": "ec", "alg": "ES256"}), &claims))
    };
    let blue = bearer(&login, "alice", &[], json!({"team": ["red", "blue"], "address": {"floor": 3}}));
    let of_bob = json!({"scope": "orders:write orders:read", "roles": ["clerk"]});
    let direct = passed_on(&intruder, "web", &blue, &before[0]);
    let via_payments =
        passed_on(&payments, "web", &passed_on(&intruder, "payments", &blue, &before[1]), &before[0]);
    let (svid, key) = dial::join(&mesh, "web").await;
    let callers = Callers {
        over_x25519: Foreigner::over(NamedGroup::X25519, &svid, &key),
        billing: partner.workload("billing"),
        shipping: partner.workload("shipping"),
        lines: vec![
            ("BLUE", blue),
            ("RED", bearer(&login, "alice", &[], json!({"team": ["red"], "address": {"floor": 4}}))),
            ("BOB", bearer(&login, "bob", &["support"], of_bob)),
            ("STAFF", bearer(&staff, "alice", &[], json!({}))),
            ("DIRECT", direct),
            ("VIA PAYMENTS", via_payments),
        ],
        web,
        orders,
    };
    let before = app.requests();
    let mut allowed = 0;
    for row in ROWS {
        for call in row.allowed {
            assert_eq!(callers.call(row.fact, call).await, 200, "{}: {call:?}", row.fact);
            allowed += 1;
        }
        for call in row.denied {
            assert_eq!(callers.call(row.fact, call).await, 403, "{}: {call:?}", row.fact);
        }
    }
    assert_eq!(app.requests() - before, allowed);
    // The app is given the very host by which it was decided.
    let of_hosts = app.heads().into_iter().filter(|head| head[0].contains(" /host"));
    let hosts = of_hosts.map(|head| head.into_iter().find(|line| line.starts_with("host: ")));
    assert_eq!(hosts.collect::<Vec<_>>(), vec![Some("host: orders".to_owned()); 2]);

    let channel = grpc::channel(callers.web.outbound(), "orders-rpc");
    grpc::until_reachable(&channel).await;
    for (condition, allowed, denied) in CALLS {
        for method in *allowed {
            let said = grpc::call_streaming(&channel, method, tokio_stream::empty()).await;
            assert!(said.is_ok(), "{condition}: {method}: {said:?}");
        }
        for method in *denied {
            let said = grpc::call_streaming(&channel, method, tokio_stream::empty()).await.map(drop);
            assert_eq!(
                said.map_err(|status| status.code()),
                Err(Code::PermissionDenied),
                "{condition}: {method}"
            );
        }
    }
    let heard = grpc_app.requests().into_iter().map(|seen| seen.target);
    let may_be = CALLS.iter().flat_map(|(_, allowed, _)| *allowed).copied();
    assert_eq!(heard.collect::<Vec<_>>(), may_be.collect::<Vec<_>>());
}
