//! Each fact of a decision's context, as a real agent tells it to policies: with a call that a policy of it lets through, and
//! one that it does not.

use hauberk_integration_tests::{Agent, App, dial, request};
use rustls::NamedGroup;
use serde_json::json;

use crate::{
    login::Login,
    partner::Partner,
    peer::converse,
    shop::{self, get_until},
    spiffe_clients::Foreigner,
};

#[derive(Debug, Clone, Copy)]
enum Who {
    /// Through its agent.
    Web,
    /// Web's certificate in a client that exchanges keys by X25519 alone.
    WebOverX25519,
    /// Workloads of another trust domain.
    Billing,
    Shipping,
}

use Who::{Billing, Shipping, Web, WebOverX25519};

/// A call: by whom, the rest of the path, and lines beside `Host`, which is `orders` where none is among them.
type Call = (Who, &'static str, &'static [&'static str]);

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
        allowed: &[(Billing, "", &[]), (Shipping, "", &[])],
        denied: &[(Web, "", &[]), (WebOverX25519, "", &[])],
    },
    Row {
        fact: "spiffeId",
        condition: "context.peer has spiffeId && context.peer.spiffeId == \"spiffe://partner.test/workload/billing\"",
        allowed: &[(Billing, "", &[])],
        denied: &[(Shipping, "", &[]), (Web, "", &[])],
    },
    Row {
        fact: "trustDomain",
        condition: "context.peer has trustDomain && context.peer.trustDomain == \"box.test\"",
        allowed: &[(Web, "", &[])],
        denied: &[(Billing, "", &[])],
    },
    Row {
        fact: "tlsVersion",
        condition: "context.peer has tlsVersion && context.peer.tlsVersion == \"TLSv1.3\"",
        allowed: &[(Web, "", &[]), (Billing, "", &[])],
        denied: &[],
    },
    Row {
        fact: "tlsVersionOther",
        condition: "context.peer has tlsVersion && context.peer.tlsVersion != \"TLSv1.3\"",
        allowed: &[],
        denied: &[(Web, "", &[]), (Billing, "", &[])],
    },
    Row {
        fact: "tlsGroup",
        condition: "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519MLKEM768\"",
        allowed: &[(Web, "", &[])],
        denied: &[(WebOverX25519, "", &[])],
    },
    Row {
        fact: "tlsGroupOther",
        condition: "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
        allowed: &[(WebOverX25519, "", &[])],
        denied: &[(Web, "", &[])],
    },
    Row {
        fact: "params",
        condition: "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"7 a\"",
        allowed: &[(Web, "/7%20a", &[]), (Billing, "/%37%20%61", &[])],
        denied: &[(Web, "/7", &[]), (Web, "/7%20a/more", &[]), (Web, "/7+a", &[])],
    },
    Row {
        fact: "claims",
        condition: "context.claims.hasTag(\"team\") && context.claims.getTag(\"team\").contains(\"blue\")",
        allowed: &[(Web, "", &["BLUE"]), (Billing, "", &["BLUE"])],
        denied: &[(Web, "", &["RED"]), (Web, "", &[])],
    },
    Row {
        fact: "claimsOfObjects",
        condition: "context.claims.hasTag(\"address.floor\") && context.claims.getTag(\"address.floor\") == [\"3\"]",
        allowed: &[(Web, "", &["BLUE"])],
        denied: &[(Web, "", &["RED"]), (Web, "", &[])],
    },
    Row {
        fact: "host",
        condition: "context.host == \"orders\"",
        allowed: &[(Web, "", &[]), (Billing, "", &["Host: ORDERS:8080"])],
        denied: &[(Billing, "", &["Host: orders.elsewhere"]), (Billing, "", &["Host: 127.0.0.1:8080"])],
    },
    Row {
        fact: "query",
        condition: "context.query.hasTag(\"v\") && context.query.getTag(\"v\") == [\"a b\", \"c\"]",
        allowed: &[(Web, "?v=c&v=a+b", &[]), (Web, "?x=1&v=a%20b&%76=c&v=c", &[])],
        denied: &[(Web, "?v=c", &[]), (Web, "?v=a+b&v=c&v=d", &[]), (Web, "?v=a+b,c", &[]), (Web, "", &[])],
    },
    Row {
        fact: "headers",
        condition: "context.headers.hasTag(\"x-part\") && context.headers.getTag(\"x-part\") == [\"a\", \"b\"]",
        allowed: &[
            (Web, "", &["x-part: b", "X-Part: a"]),
            (Billing, "", &["x-part: a", "x-part: b", "x-part: a"]),
        ],
        denied: &[
            (Web, "", &["x-part: a"]),
            (Web, "", &["x-part: a, b"]),
            (Web, "", &["x-part: a", "x-part: b", "x-part: c"]),
            (Web, "", &["x-part: a", "x_part: b"]),
            (Web, "", &[]),
        ],
    },
];

/// The node with a route for each fact, one of which has a parameter.
const NODE: &str = "kind: VirtualNode
mesh: shop
name: orders
spec:
  listeners:
  - {portMapping: {port: 8080, protocol: http}, users: {}, routes: [{path: '/params/{id}'}]}
  - {portMapping: {port: 9090, protocol: http2}}
  - {portMapping: {port: 50051, protocol: grpc}}
";

struct Callers {
    web: Agent,
    over_x25519: Foreigner,
    billing: Foreigner,
    shipping: Foreigner,
    orders: Agent,
    /// What stands for tokens in the table.
    tokens: [(&'static str, String); 2],
}

impl Callers {
    /// The status of the answer.
    async fn call(&self, fact: &str, (who, rest, lines): Call) -> u16 {
        let mut head = format!("GET /{fact}{rest} HTTP/1.1\r\nconnection: close\r\n");
        if !lines.iter().any(|line| line.starts_with("Host: ")) {
            head += "host: orders\r\n";
        }
        for line in lines {
            let token = self.tokens.iter().find(|(name, _)| name == line);
            match token {
                Some((_, token)) => head += &format!("authorization: Bearer {token}\r\n"),
                None => head += &format!("{line}\r\n"),
            }
        }
        head += "\r\n";
        let foreigner = match who {
            Web => return request(self.web.outbound(), &head).unwrap().status,
            WebOverX25519 => &self.over_x25519,
            Billing => &self.billing,
            Shipping => &self.shipping,
        };
        let mut stream = foreigner.connect(self.orders.inbound(8080), &[b"http/1.1"]).await.unwrap();
        let answer = converse(&mut stream, head.as_bytes()).await;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_of_the_context_lets_a_call_through_and_denies_another() {
    let (login, partner) = (Login::new("login"), Partner::new(1));
    let mesh = shop::open();
    mesh.apply(&format!("{NODE}---\n{}---\n{}", login.resource(""), partner.resource()));
    let policy = |row: &Row| {
        let Row { fact, condition, .. } = row;
        let statement = |principal: &str| {
            format!(
                "    permit(principal is {principal}, action == Action::\"GET\", resource in Service::\"orders\") when {{ (context.path == \
                 \"/{fact}\" || context.path like \"/{fact}/*\") && {condition} }};\n"
            )
        };
        let (nodes, workloads) = (statement("Node"), statement("Workload"));
        format!(
            "kind: Policy\nmesh: shop\nname: {}\nspec:\n  cedar: |\n{nodes}{workloads}",
            fact.to_lowercase()
        )
    };
    let policies: Vec<String> = ROWS.iter().map(policy).collect();
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &policies.join("---\n")).ok();
    let app = App::start("orders");
    let orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    get_until(&web, "orders", "/tlsVersion", 200);
    let token = |more: serde_json::Value| {
        let mut claims = login.claims("alice", &[], 600);
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        login.sign(&json!({"kid": "ec", "alg": "ES256"}), &claims)
    };
    let (svid, key) = dial::join(&mesh, "web").await;
    let callers = Callers {
        over_x25519: Foreigner::over(NamedGroup::X25519, &svid, &key),
        billing: partner.workload("billing"),
        shipping: partner.workload("shipping"),
        tokens: [
            ("BLUE", token(json!({"team": ["red", "blue"], "address": {"floor": 3}}))),
            ("RED", token(json!({"team": ["red"], "address": {"floor": 4}}))),
        ],
        web,
        orders,
    };
    let before = app.requests();
    let mut allowed = 0;
    for row in ROWS {
        for call in row.allowed {
            assert_eq!(callers.call(row.fact, *call).await, 200, "{}: {call:?}", row.fact);
            allowed += 1;
        }
        for call in row.denied {
            assert_eq!(callers.call(row.fact, *call).await, 403, "{}: {call:?}", row.fact);
        }
    }
    assert_eq!(app.requests() - before, allowed);
}
