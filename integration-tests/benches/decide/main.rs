//! `cargo bench --bench decide`: what one decision costs, in batches of 1,000, and what a change of policies does,
//! without a network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark: a failure is a panic with a reason, and it is timed by the real clock"
)]

mod mesh;
mod replay;

use std::hint::black_box;
use std::time::{Duration, Instant};

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{
    Attempt, Authorization, Caller, CallerMemo, CanonicalPath, Engine, EscapedSlashes, Gathered, Known, Mode,
    Moment, NodeScope, ObsText, Peer, Place, PolicyDocument, PolicyIndex, PortScope, Protocol, Recalled,
    RouteTemplate, Tls, Undeclared,
};

const BATCH: u32 = 1_000;
const BATCHES: usize = 200;
const PORT: u16 = 8080;

/// What is asked about `/orders/{id}`, among policies of other routes and callers.
const POLICIES: [&str; 6] = [
    "permit(principal == Node::\"web\", action in Action::\"read\", resource in Service::\"orders\") when { \
     context.path like \"/orders/*\" || context.path like \"/v1/*\" };",
    "permit(principal == Node::\"web\", action == Action::\"POST\", resource in Service::\"orders\") when { \
     context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\") };",
    "forbid(principal, action == Action::\"DELETE\", resource in Service::\"orders\") unless { \
     context.time.toTime() < duration(\"18h\") };",
    "permit(principal == Node::\"web\", action == Action::\"DELETE\", resource in Service::\"orders\");",
    "forbid(principal == Node::\"cart\", action, resource);",
    "permit(principal is Node, action == Action::\"GET\", resource == Route::\"orders:8080 /health\");",
];

struct Bench {
    engine: Engine,
    caller: Caller,
    peer: Peer,
    moment: Moment,
}

impl Bench {
    /// With these routes beside those that policies are about.
    fn new(others: impl Iterator<Item = String>) -> Self {
        let name = |text: &str| Name::parse(text).unwrap();
        let trust_domain = TrustDomain::parse("shop.example").unwrap();
        let mesh = name("shop");
        let documents: Vec<_> = POLICIES
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let policy = name(&format!("p{index}"));
                PolicyDocument::parse(mesh.clone(), &trust_domain, policy, Mode::Enforce, text).unwrap()
            })
            .collect();
        let routes = others.chain(["/orders/{id}".to_owned(), "/health".to_owned()]);
        let scope = NodeScope {
            trust_domain: trust_domain.clone(),
            mesh: mesh.clone(),
            place: Place::Node(SpiffeId::node(&trust_domain, &mesh, &name("orders"))),
            ports: vec![PortScope {
                number: PORT,
                protocol: Protocol::Http,
                services: vec![name("orders")],
                routes: routes.map(|route| RouteTemplate::parse(&route).unwrap().into()).collect(),
                undeclared: Undeclared::Decide,
                authorization: Authorization::Enforce,
                users: None,
                escaped_slashes: EscapedSlashes::Reject,
                obs_text: ObsText::Reject,
            }],
        };
        let slice = PolicyIndex::new(&mesh, &documents).slice(&scope, Known::default());
        let tls = Tls { version: "TLSv1.3".into(), group: "X25519MLKEM768".into() };
        let time = UnixMillis::from_secs(1_772_445_600);
        Self {
            engine: Engine::compile(scope, &slice, None).unwrap(),
            caller: Caller::Peer(SpiffeId::node(&trust_domain, &mesh, &name("web"))),
            peer: Peer::new(Some("10.1.2.3".parse().unwrap()), Some(tls)),
            moment: Moment { time, certificate_since: Some(UnixMillis::from_secs(1_772_445_000)) },
        }
    }

    fn memo(&self) -> CallerMemo {
        self.engine.caller(&self.caller, &self.peer)
    }

    fn decide(&self, memo: &mut CallerMemo, method: &str, path: &CanonicalPath<'_>, gathered: &Gathered) {
        let attempt = Attempt::Request { method, path, upgrade: false, gathered };
        assert!(black_box(memo.decide(PORT, black_box(attempt), self.moment)).is_allowed());
    }
}

fn main() {
    let bench = Bench::new((0..20).map(|number| format!("/other{number}/{{id}}")));
    let path = CanonicalPath::parse("GET", "/orders/1234").unwrap();
    let nothing = Gathered::nothing();

    let mut memo = bench.memo();
    report("remembered decision", || bench.decide(&mut memo, "GET", &path, nothing));

    let mut memo = bench.memo();
    report("canonicalise, route and decide", || {
        let path = CanonicalPath::parse("GET", black_box("/orders/%31234?a=b")).unwrap();
        bench.decide(&mut memo, "GET", &path, nothing);
    });

    let large = Bench::new((0..500).map(|number| format!("/v1/resource{number}/{{id}}")));
    for (what, target) in [
        ("the same with 500 routes under /v1: one of them", "/v1/resource250/%31234?a=b"),
        ("and one that is none of them", "/v1/resources/%31234?a=b"),
    ] {
        let mut memo = large.memo();
        report(what, || {
            let path = CanonicalPath::parse("GET", black_box(target)).unwrap();
            large.decide(&mut memo, "GET", &path, nothing);
        });
    }

    report("first decision", || bench.decide(&mut bench.memo(), "GET", &path, nothing));

    let mut memo = bench.memo();
    report("residual decision: a header field, gathered", || {
        let wanted = bench.engine.wanted(PORT).unwrap();
        let gathered = wanted.gather("orders", [("accept", &b"*/*"[..]), ("x-tenant", b"blue")]);
        bench.decide(&mut memo, "POST", &path, &gathered);
    });

    let mut memo = bench.memo();
    report("remembered decision, counted", || {
        let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: nothing };
        match black_box(memo.recall(PORT, black_box(attempt), bench.moment, Some(7))) {
            Recalled::Known(decision, _) => assert!(decision.is_allowed()),
            Recalled::Open(pending) => drop(memo.learn(pending.decide())),
        }
    });

    let gathered = bench.engine.wanted(PORT).unwrap().gather("orders", []);
    let mut memo = bench.memo();
    report("residual decision: the time", || bench.decide(&mut memo, "DELETE", &path, &gathered));

    mesh::run();
    replay::run();
}

/// Prints the mean of one in batches of 1,000, and that of the slowest batch in a hundred.
fn report(what: &str, mut one: impl FnMut()) {
    let mut batches: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let begun = Instant::now();
            (0..BATCH).for_each(|_| one());
            begun.elapsed() / BATCH
        })
        .collect();
    batches.sort();
    let mean = batches.iter().sum::<Duration>() / u32::try_from(BATCHES).unwrap();
    let slow = batches[BATCHES * 99 / 100];
    println!("{what:<46} mean {mean:>10.0?}   p99 of batches {slow:>10.0?}");
}
