//! A remembered decision costs no allocation: the data path answers most requests by one.
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
    Attempt, Authorization, Caller, CanonicalPath, Engine, EscapedSlashes, Gathered, Mode, Moment, NodeScope,
    Peer, Place, PolicyDocument, PolicyIndex, PortScope, Protocol, RouteTemplate, Undeclared,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the counter needs none itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any longer.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
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

#[test]
fn a_remembered_decision_allocates_nothing() {
    let name = |text: &str| Name::parse(text).unwrap();
    let (trust_domain, mesh) = (TrustDomain::parse("shop.example").unwrap(), name("shop"));
    let text = "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when { \
                context.path like \"/orders/*\" && context.params.hasTag(\"id\") && \
                context.peer.address.isInRange(ip(\"10.0.0.0/8\")) };\n\
                permit(principal is Node, action == Action::\"PUT\", resource in Service::\"orders\");";
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
            routes: ["/orders/{id}", "/files/{name}.{kind}"]
                .map(|route| RouteTemplate::parse(route).unwrap().into())
                .to_vec(),
            undeclared: Undeclared::Decide,
            authorization: Authorization::Enforce,
            users: None,
            escaped_slashes: EscapedSlashes::Reject,
        }],
    };
    let slice = PolicyIndex::new(&mesh, [&document]).slice(&scope, &[], &[]);
    let engine = Engine::compile(scope, &slice, None).unwrap();
    let caller = Caller::Peer(SpiffeId::node(&trust_domain, &mesh, &name("web")));
    let mut memo = engine.caller(&caller, &Peer::new(Some("10.1.2.3".parse().unwrap()), None));
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
    ] {
        assert!(allocations(|| assert_eq!(ask(method, target), is_allowed)) > 0, "the first is made");
        assert_eq!(allocations(|| assert_eq!(ask(method, target), is_allowed)), 0, "{method} {target}");
    }
}
