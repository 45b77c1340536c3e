//! A remembered decision costs no allocation: the data path answers most requests by one. And all that is remembered
//! takes about what it is allowed.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test, which counts allocations where they are made"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{
    Allowance, Attempt, Authorization, Caller, CanonicalPath, Engine, EscapedSlashes, Gathered, Known, Mode,
    Moment, NodeScope, ObsText, Peer, Place, PolicyDocument, PolicyIndex, PolicySlice, PortScope, Protocol,
    RouteTemplate, Undeclared,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static MOST_BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the counter needs none itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any longer.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = BYTES.try_with(|bytes| {
            bytes.set(bytes.get().wrapping_add(layout.size()));
            let _ = MOST_BYTES.try_with(|most| most.set(most.get().max(bytes.get())));
        });
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get().wrapping_sub(layout.size())));
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    of();
    ALLOCATIONS.get() - before
}

/// A node with these routes and policies.
fn engine(routes: &[String], text: &str) -> Engine {
    let (scope, slice) = view(routes, text);
    Engine::compile(scope, &slice, None).unwrap()
}

fn view(routes: &[String], text: &str) -> (NodeScope, PolicySlice) {
    let name = |text: &str| Name::parse(text).unwrap();
    let (trust_domain, mesh) = (TrustDomain::parse("shop.example").unwrap(), name("shop"));
    let document =
        PolicyDocument::parse(mesh.clone(), &trust_domain, name("p"), Mode::Enforce, text).unwrap();
    let scope = NodeScope {
        trust_domain: trust_domain.clone(),
        mesh: mesh.clone(),
        place: Place::Node(SpiffeId::node(&trust_domain, &mesh, &name("orders"))),
        ports: vec![PortScope {
            number: 8080,
            protocol: Protocol::Http,
            services: vec![name("orders")],
            routes: routes.iter().map(|route| RouteTemplate::parse(route).unwrap().into()).collect(),
            undeclared: Undeclared::Decide,
            authorization: Authorization::Enforce,
            users: None,
            escaped_slashes: EscapedSlashes::Reject,
            obs_text: ObsText::Reject,
        }],
    };
    let slice = PolicyIndex::new(&mesh, [&document]).slice(&scope, Known::default());
    (scope, slice)
}

fn node(node: &str) -> Caller {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    Caller::Peer(SpiffeId::node(&trust_domain, &Name::parse("shop").unwrap(), &Name::parse(node).unwrap()))
}

#[test]
fn a_remembered_decision_allocates_nothing() {
    let text = "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when { \
                context.path like \"/orders/*\" && context.params.hasTag(\"id\") && \
                context.peer.address.isInRange(ip(\"10.0.0.0/8\")) };\n\
                permit(principal is Node, action == Action::\"PUT\", resource in Service::\"orders\");";
    let routes = ["/orders/{id}", "/files/{name}.{kind}", "/v1/b/{c}/d", "/v1/{a}b/c/e", "/v1/{a}/c/f"];
    let engine = engine(&routes.map(str::to_owned), text);
    let mut memo = engine.caller(&node("web"), &Peer::new(Some("10.1.2.3".parse().unwrap()), None));
    let moment = Moment { time: UnixMillis::from_secs(1_772_445_600), certificate_since: None };
    let mut ask = |method: &str, target: &str| {
        // What is canonical already is borrowed.
        let path = CanonicalPath::parse(method, target).unwrap();
        let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: Gathered::nothing() };
        memo.decide(8080, attempt, moment).is_allowed()
    };
    for (method, target, is_allowed) in [
        ("GET", "/orders/1", true),
        ("PUT", "/orders/1", true),
        ("GET", "/health", false),
        ("PUT", "/files/a.tar.gz", true),
        // Found after others that begin alike.
        ("PUT", "/v1/b/c/f", true),
    ] {
        assert!(allocations(|| assert_eq!(ask(method, target), is_allowed)) > 0, "the first is made");
        assert_eq!(allocations(|| assert_eq!(ask(method, target), is_allowed)), 0, "{method} {target}");
    }
}

#[test]
fn a_statement_that_cedar_is_not_asked_about_takes_little_more_than_its_text() {
    const STATEMENTS: usize = 500;
    let statement = |number: usize| {
        format!(
            "permit(principal == Node::\"n{number}\", action == Action::\"GET\", resource) when {{ context.path like \"/{number}/*\" }};"
        )
    };
    let few = view(&[], &statement(0));
    let many = view(&[], &(0..STATEMENTS).map(statement).collect::<String>());
    assert_eq!(many.1.policies.len(), STATEMENTS);
    let taken = |(scope, slice): &(NodeScope, PolicySlice)| {
        let scope = scope.clone();
        let before = BYTES.get();
        MOST_BYTES.set(before);
        let engine = Engine::compile(scope, slice, None).unwrap();
        let taken = [BYTES.get() - before, MOST_BYTES.get() - before];
        drop(engine);
        taken
    };
    // What all views share is made once.
    taken(&few);
    let [few, many] = [taken(&few), taken(&many)];
    let [kept, most] = [0, 1].map(|index| (many[index] - few[index]) / STATEMENTS);
    assert!(kept < 1_536, "{kept} bytes for each");
    assert!(most < 2_048, "{most} bytes for each until it was compiled");
}

#[test]
fn what_many_callers_remember_takes_no_more_than_they_are_allowed() {
    const ALLOWED: usize = 4 * 1024 * 1024;
    let plain = "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when { \
                 context.path like \"/r1/*\" };\n";
    let for_cedar = "permit(principal is Node, action in Action::\"http\", resource in Service::\"orders\") when { \
                     context.path like \"/r1/*\" && context.params.hasTag(\"id\") };\n";
    let routes: Vec<_> = (0..20).map(|number| format!("/r{number}/{{id}}")).collect();
    let moment = Moment { time: UnixMillis::from_secs(1_772_445_600), certificate_since: None };
    for (name, text) in [
        ("plain", plain.to_owned()),
        ("cedar", for_cedar.to_owned()),
        ("many", [plain, &for_cedar.repeat(8)].concat()),
    ] {
        let engine = engine(&routes, &text);
        let allowance = Allowance::new(ALLOWED);
        let mut memos: Vec<_> = (0..400)
            .map(|number| {
                let peer = Peer::new(Some("10.1.2.3".parse().unwrap()), None);
                engine.caller(&node(&format!("web{number}")), &peer).within(&allowance)
            })
            .collect();
        // What all of them share is made once.
        let path = CanonicalPath::parse("GET", "/").unwrap();
        let gathered = Gathered::nothing();
        let first = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered };
        engine.caller(&node("web"), &Peer::new(None, None)).decide(8080, first, moment);
        let before = BYTES.get();
        for memo in memos.iter_mut().take_while(|_| !allowance.is_spent()) {
            for (method, path) in (0..20)
                .flat_map(|route| (0..8).map(move |id| (route, id)))
                .flat_map(|(route, id)| ["GET", "PUT"].map(|method| (method, format!("/r{route}/{id}"))))
            {
                let path = CanonicalPath::parse(method, &path).unwrap();
                let gathered = Gathered::nothing();
                memo.decide(8080, Attempt::Request { method, path: &path, upgrade: false, gathered }, moment);
            }
        }
        assert!(allowance.is_spent(), "{name}");
        let taken = BYTES.get() - before;
        assert!((ALLOWED / 8..=ALLOWED).contains(&taken), "{name}: {taken} of {ALLOWED} bytes");
    }
}
