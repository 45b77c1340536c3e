//! What recorded flows cost that are held against a draft, on one core: a node with 20 policies, 50 callers and 200
//! routes, of each of which four methods were seen, with three paths each.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{
    Action, Authorization, Caller, Engine, EscapedSlashes, Gathered, Known, Mode, Moment, NodeScope, ObsText,
    Peer, Place, PolicyDocument, PolicyIndex, PortScope, Protocol, RecordedCall, RecordedFlow, Replay,
    RouteTemplate, Tls, Undeclared, Vouching,
};

const CALLERS: usize = 50;
const ROUTES: usize = 200;
const ROUNDS: usize = 5;

pub(super) fn run() {
    let flows = flows();
    // A forbid for one of the callers: what the others did is decided as before, and that is seen without asking.
    let one = "forbid(principal == Node::\"caller7\", action == Action::\"DELETE\", resource);";
    report("replay, a draft that concerns one caller", &flows, one);
    // Every flow is asked of both engines.
    let all = "forbid(principal is Node, action == Action::\"DELETE\", resource in Service::\"orders\");";
    report("replay, a draft that concerns every caller", &flows, all);
    let by_path = "forbid(principal is Node, action in Action::\"http\", resource in Service::\"orders\") when { context.path == \"/r1/1\" };";
    report("replay, a draft that reads every path", &flows, by_path);
}

fn report(what: &str, flows: &[RecordedFlow], more: &str) {
    let now = engine(&[], None);
    let draft = engine(&[more], Some(&now));
    let vouching = Vouching::default();
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            let mut replay = Replay::new(&now, &draft, &vouching);
            let mut told = 0_u64;
            for flow in flows {
                replay.flow(flow, |_, count, _| told += count);
            }
            assert!(black_box(told) > 0, "the draft changes something");
            flows.len() as f64 / begun.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!("{what:<46} median {:>10.0} flows a second", rates[ROUNDS / 2]);
}

fn engine(more: &[&str], former: Option<&Engine>) -> Engine {
    let name = |text: &str| Name::parse(text).unwrap();
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let mesh = name("shop");
    let permits = (0..20).map(|number| match number {
        0 => "permit(principal is Node, action in Action::\"http\", resource in Service::\"orders\");"
            .to_owned(),
        number => {
            format!("permit(principal == Node::\"other{number}\", action, resource in Service::\"orders\");")
        }
    });
    let texts: Vec<String> = permits.chain(more.iter().map(|text| (*text).to_owned())).collect();
    let documents: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let policy = name(&format!("p{index}"));
            PolicyDocument::parse(mesh.clone(), &trust_domain, policy, Mode::Enforce, text).unwrap()
        })
        .collect();
    let routes =
        (0..ROUTES).map(|number| RouteTemplate::parse(&format!("/r{number}/{{id}}")).unwrap().into());
    let scope = NodeScope {
        trust_domain: trust_domain.clone(),
        mesh: mesh.clone(),
        place: Place::Node(SpiffeId::node(&trust_domain, &mesh, &name("orders"))),
        ports: vec![PortScope {
            number: super::PORT,
            protocol: Protocol::Http,
            services: vec![name("orders")],
            routes: routes.collect(),
            undeclared: Undeclared::Decide,
            authorization: Authorization::Enforce,
            users: None,
            escaped_slashes: EscapedSlashes::Reject,
            obs_text: ObsText::Reject,
        }],
    };
    let slice = PolicyIndex::new(&mesh, &documents).slice(&scope, Known::default());
    Engine::compile(scope, &slice, former).unwrap()
}

fn flows() -> Vec<RecordedFlow> {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let mesh = Name::parse("shop").unwrap();
    let tls = Tls { version: "TLSv1.3".into(), group: "X25519MLKEM768".into() };
    let peer = Peer::new(Some("10.1.2.3".parse().unwrap()), Some(tls));
    let moment = Moment { time: UnixMillis::from_secs(1_772_445_600), certificate_since: None };
    let mut flows = Vec::new();
    for caller in 0..CALLERS {
        let caller = Name::parse(&format!("caller{caller}")).unwrap();
        let caller = Caller::Peer(SpiffeId::node(&trust_domain, &mesh, &caller));
        for route in 0..ROUTES {
            for action in [Action::Get, Action::Post, Action::Put, Action::Delete] {
                let call = |id: usize| RecordedCall {
                    peer: peer.clone(),
                    moment,
                    method: action.as_str().into(),
                    target: format!("/r{route}/{id}").into(),
                    gathered: Gathered::default(),
                    is_query_known: false,
                    count: 10,
                };
                flows.push(RecordedFlow {
                    caller: caller.clone(),
                    port: super::PORT,
                    action,
                    route: format!("/r{route}/{{id}}").into(),
                    calls: (1..=3).map(call).collect(),
                    others: 0,
                    outcomes: Arc::default(),
                });
            }
        }
    }
    flows
}
