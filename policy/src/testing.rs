//! A small shop for the tests of this crate.

use hauberk_identity::{Name, SpiffeId, TrustDomain};

use crate::{
    Attempt, Authorization, Caller, CanonicalPath, Decision, Engine, Mode, NodeScope, PolicyDocument,
    PolicyIndex, PolicyProblem, PortScope, Protocol, Question, RoleMembers, RouteTemplate, Undeclared,
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
    }
}

/// Node `orders`: 8080 http (service orders), 9000 http (service orders-admin), 50051 grpc (service orders), 6379 tcp
/// (service cache), 8081 http without a service.
pub(crate) fn orders() -> NodeScope {
    NodeScope {
        trust_domain: domain(),
        mesh: name("shop"),
        node: node("orders"),
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

pub(crate) fn engine_for(scope: NodeScope, texts: &[(Mode, &str)]) -> Engine {
    let documents = documents(texts);
    let slice = PolicyIndex::new(&name("shop"), &documents).slice(&scope, &roles());
    Engine::compile(scope, &slice, None).unwrap()
}

pub(crate) fn engine(texts: &[&str]) -> Engine {
    engine_for(orders(), &texts.iter().map(|text| (Mode::Enforce, *text)).collect::<Vec<_>>())
}

pub(crate) fn ask(engine: &Engine, caller: &Caller, port: u16, method: &str, path: &str) -> Decision {
    let path = CanonicalPath::parse(method, path).unwrap();
    let attempt = Attempt::Request { method, path: &path, upgrade: false };
    engine.decide(&Question { caller, port, attempt })
}

pub(crate) fn connect(engine: &Engine, caller: &Caller, port: u16) -> Decision {
    engine.decide(&Question { caller, port, attempt: Attempt::Stream })
}
