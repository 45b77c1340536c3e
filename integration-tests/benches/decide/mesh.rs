//! What a change costs one agent in a mesh of 10,000 policies and 500 nodes: to compile its view, and to decide 10,000
//! live requests again by it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{
    Attempt, Authorization, Caller, CallerMemo, CanonicalPath, Engine, EscapedSlashes, Gathered, Known, Mode,
    Moment, NodeScope, ObsText, Peer, Place, PolicyDocument, PolicyIndex, PolicySlice, PortScope, Protocol,
    RouteTemplate, Undeclared,
};

const NODES: usize = 500;
/// Of each node's own; and those that are every node's.
const POLICIES_OF_NODE: usize = 19;
const POLICIES_OF_ALL: usize = 500;
const ROUTES: usize = 20;
const CONNECTIONS: usize = 10_000;
/// As many memories as an agent has for one caller.
const STRIPES: usize = 4;
const ROUNDS: usize = 11;

pub(super) fn run() {
    let (scope, slice) = view();
    let engines: Vec<_> = (0..ROUNDS).map(|_| timed(|| compile(&scope, &slice, None))).collect();
    report("apply a view of 10,000 policies' mesh: compile", engines.iter().map(|(_, took)| *took));
    let former = engines.first().map(|(engine, _)| engine);
    let again = (0..ROUNDS).map(|_| timed(|| compile(&scope, &slice, former)).1);
    report("the same, one policy changed", again.collect::<Vec<_>>());
    let (engine, _) = &engines[0];
    let callers: Vec<Caller> = (0..NODES).map(|node| Caller::Peer(node_id(node))).collect();
    let targets: Vec<String> =
        (0..CONNECTIONS).map(|number| format!("/r{}/{number}", number % ROUTES)).collect();
    let paths: Vec<_> = targets.iter().map(|target| CanonicalPath::parse("GET", target).unwrap()).collect();
    let rounds: Vec<_> = (0..ROUNDS).map(|_| timed(|| decide_again(engine, &callers, &paths)).1).collect();
    report("decide 10,000 live requests again", rounds);
}

/// 20 requests of each of 500 callers, by memories that know nothing yet.
fn decide_again(engine: &Engine, callers: &[Caller], paths: &[CanonicalPath<'_>]) -> usize {
    let peer = Peer::new(None, None);
    let moment = Moment { time: UnixMillis::from_secs(1_772_445_600), certificate_since: None };
    let mut allowed = 0;
    for (number, caller) in callers.iter().enumerate() {
        let mut memos: Vec<CallerMemo> = (0..STRIPES).map(|_| engine.caller(caller, &peer)).collect();
        for (index, path) in paths.iter().skip(number).step_by(callers.len()).enumerate() {
            let attempt =
                Attempt::Request { method: "GET", path, upgrade: false, gathered: Gathered::nothing() };
            let decision = memos[index % STRIPES].decide(super::PORT, black_box(attempt), moment);
            allowed += usize::from(decision.is_allowed());
        }
    }
    assert!(black_box(allowed) > 0, "some may");
    allowed
}

fn compile(scope: &NodeScope, slice: &PolicySlice, former: Option<&Engine>) -> Engine {
    let mut slice = slice.clone();
    if former.is_some() {
        slice.policies[0].text = slice.policies[0].text.replace("/r", "/s");
    }
    Engine::compile(scope.clone(), &slice, former).unwrap()
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let made = act();
    (made, begun.elapsed())
}

fn report(what: &str, took: impl IntoIterator<Item = Duration>) {
    let mut took: Vec<_> = took.into_iter().collect();
    took.sort();
    println!("{what:<46} median {:>10.1?}", took[took.len() / 2]);
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn node_id(node: usize) -> SpiffeId {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    SpiffeId::node(&trust_domain, &name("shop"), &name(&format!("node{node}")))
}

/// What one node gets of it all.
fn view() -> (NodeScope, PolicySlice) {
    let of_nodes = (0..NODES * POLICIES_OF_NODE).map(|number| {
        let (node, caller, route) = (number % NODES, number * 7 % NODES, number / NODES % ROUTES);
        format!(
            "permit(principal == Node::\"node{caller}\", action in Action::\"read\", resource in Service::\"service{node}\") \
             when {{ context.path like \"/r{route}/*\" }};"
        )
    });
    let of_all = (0..POLICIES_OF_ALL).map(|number| match number {
        0 => "permit(principal is Node, action == Action::\"GET\", resource) when { context.path like \"/r1/*\" };".to_owned(),
        number => format!("forbid(principal == Node::\"node{number}\", action in Action::\"write\", resource);"),
    });
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let mesh = name("shop");
    let documents: Vec<_> = of_nodes
        .chain(of_all)
        .enumerate()
        .map(|(index, text)| {
            let policy = name(&format!("p{index}"));
            PolicyDocument::parse(mesh.clone(), &trust_domain, policy, Mode::Enforce, &text).unwrap()
        })
        .collect();
    assert_eq!(documents.len(), 10_000);
    let routes =
        (0..ROUTES).map(|number| RouteTemplate::parse(&format!("/r{number}/{{id}}")).unwrap().into());
    let scope = NodeScope {
        place: Place::Node(node_id(0)),
        ports: vec![PortScope {
            number: super::PORT,
            protocol: Protocol::Http,
            services: vec![name("service0")],
            routes: routes.collect(),
            undeclared: Undeclared::Decide,
            authorization: Authorization::Enforce,
            users: None,
            escaped_slashes: EscapedSlashes::Reject,
            obs_text: ObsText::Reject,
        }],
        trust_domain,
        mesh: mesh.clone(),
    };
    let slice = PolicyIndex::new(&mesh, &documents).slice(&scope, Known::default());
    (scope, slice)
}
