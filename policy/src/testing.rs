//! A small shop for the tests of this crate.

use std::sync::LazyLock;

use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};

use crate::{
    Attempt, Authorization, Caller, CanonicalPath, Decision, Engine, EscapedSlashes, Gathered, Known, Mode,
    Moment, NodeLabel, NodeScope, ObsText, Peer, Place, PolicyDocument, PolicyIndex, PolicyProblem,
    PortScope, Protocol, Question, RoleMembers, RouteTemplate, Tls, Undeclared,
};

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("shop.example").unwrap()
}

pub(crate) fn node(node: &str) -> SpiffeId {
    SpiffeId::node(&domain(), &name("shop"), &name(node))
}

pub(crate) fn peer(node: &str) -> Caller {
    Caller::Peer(self::node(node))
}

pub(crate) fn foreign(id: &str) -> Caller {
    Caller::Peer(SpiffeId::parse(id).unwrap())
}

pub(crate) fn parse(text: &str) -> Result<PolicyDocument, Vec<PolicyProblem>> {
    PolicyDocument::parse(name("shop"), &domain(), name("p"), Mode::Enforce, text)
}

/// One document per text, named `p0`, `p1` and so on.
pub(crate) fn documents(texts: &[(Mode, &str)]) -> Vec<PolicyDocument> {
    let parse = |(index, (mode, text)): (usize, &(Mode, &str))| {
        PolicyDocument::parse(name("shop"), &domain(), name(&format!("p{index}")), *mode, text)
            .unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
    };
    texts.iter().enumerate().map(parse).collect()
}

pub(crate) fn port(number: u16, protocol: Protocol, services: &[&str], routes: &[&str]) -> PortScope {
    PortScope {
        number,
        protocol,
        services: services.iter().map(|service| name(service)).collect(),
        routes: routes.iter().map(|route| RouteTemplate::parse(route).unwrap().into()).collect(),
        undeclared: Undeclared::Decide,
        authorization: Authorization::Enforce,
        users: None,
        escaped_slashes: EscapedSlashes::Reject,
        obs_text: ObsText::Reject,
    }
}

/// Node `orders`: 8080 http (service orders), 9000 http (service orders-admin), 50051 grpc (service orders), 6379 tcp
/// (service cache), 8081 http without a service.
pub(crate) fn orders() -> NodeScope {
    NodeScope {
        trust_domain: domain(),
        mesh: name("shop"),
        place: Place::Node(node("orders")),
        ports: vec![
            port(8080, Protocol::Http, &["orders"], &["/orders/{id}", "/orders/*", "/health"]),
            port(9000, Protocol::Http2, &["orders-admin"], &[]),
            port(50051, Protocol::Grpc, &["orders"], &["shop.Orders/Get"]),
            port(6379, Protocol::Tcp, &["cache"], &[]),
            port(8081, Protocol::Http, &[], &[]),
        ],
    }
}

pub(crate) fn roles() -> Vec<RoleMembers> {
    vec![
        RoleMembers { role: name("clerks"), members: vec![node("web"), node("cart")] },
        RoleMembers { role: name("nobody"), members: Vec::new() },
    ]
}

/// `team`: web and orders checkout, cart stock; `tier`: web 1.
pub(crate) fn labels() -> Vec<NodeLabel> {
    let label = |name: &str, values: &[(&str, &str)]| NodeLabel {
        name: name.to_owned(),
        values: values.iter().map(|(own, value)| (node(own), (*value).to_owned())).collect(),
    };
    vec![
        label("tier", &[("web", "1")]),
        label("team", &[("web", "checkout"), ("orders", "checkout"), ("cart", "stock")]),
    ]
}

pub(crate) fn engine_for(scope: NodeScope, texts: &[(Mode, &str)]) -> Engine {
    let documents = documents(texts);
    let slice = PolicyIndex::new(&name("shop"), &documents)
        .slice(&scope, Known { roles: &roles(), labels: &labels(), ..Known::default() });
    Engine::compile(scope, &slice, None).unwrap()
}

pub(crate) fn engine(texts: &[&str]) -> Engine {
    engine_for(orders(), &texts.iter().map(|text| (Mode::Enforce, *text)).collect::<Vec<_>>())
}

/// An ordinary connection.
pub(crate) static HERE: LazyLock<Peer> = LazyLock::new(|| {
    let tls = Tls { version: "TLSv1.3".into(), group: "X25519MLKEM768".into() };
    Peer::new(Some("10.1.2.3".parse().unwrap()), Some(tls))
});

/// 2026-03-02T10:00:00Z, a Monday; with a certificate that is 700 seconds old.
pub(crate) const NOW: Moment = Moment {
    time: UnixMillis::from_secs(1_772_445_600),
    certificate_since: Some(UnixMillis::from_secs(1_772_444_900)),
};

pub(crate) fn question<'a>(caller: &'a Caller, port: u16, attempt: Attempt<'a>) -> Question<'a> {
    Question { caller, peer: &HERE, port, attempt, moment: NOW }
}

/// A request of which nothing more was gathered.
pub(crate) fn request<'a>(method: &'a str, path: &'a CanonicalPath<'a>, upgrade: bool) -> Attempt<'a> {
    Attempt::Request { method, path, upgrade, gathered: Gathered::nothing() }
}

pub(crate) fn ask(engine: &Engine, caller: &Caller, port: u16, method: &str, path: &str) -> Decision {
    let path = CanonicalPath::parse(method, path).unwrap();
    engine.decide(&question(caller, port, request(method, &path, false)))
}

pub(crate) fn connect(engine: &Engine, caller: &Caller, port: u16) -> Decision {
    engine.decide(&question(caller, port, Attempt::Stream))
}
