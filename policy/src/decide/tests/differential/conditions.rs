//! What random policies' conditions are made of.

use proptest::prelude::*;

/// Atoms of conditions, those that read the same together: each of these groups is as likely as any other, so that what
/// one reads is as often tried as what many read. A group that stands there twice is tried twice as often.
pub(super) type Groups = &'static [&'static [&'static str]];

/// What may be asked of every action.
pub(super) const ANYWHERE: Groups = &[
    &[
        "context.peer.address.isInRange(ip(\"10.0.0.0/8\"))",
        "context.peer.address == ip(\"::1\")",
        "context.peer.address.isIpv4()",
    ],
    &[
        "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
        "context.peer has tlsVersion && context.peer.tlsVersion == \"TLSv1.3\"",
    ],
    &[
        "context.peer has certificateAge && context.peer.certificateAge < 600",
        "context.peer has certificateAge && context.peer.certificateAge * 9223372036854775807 > 0",
    ],
    &[
        "context.peer.federated",
        "context has peer.spiffeId && context.peer.spiffeId like \"*/web\"",
        "context.peer has trustDomain && context.peer.trustDomain == \"partner.example\"",
    ],
    &["context.peer == context.peer", "context == context"],
    &[
        "context.time < datetime(\"2026-03-02T10:00:00Z\")",
        "context.time.toTime() < duration(\"10h\")",
        "context.time.toDate() == datetime(\"2026-03-02\")",
        "context.time.offset(duration(\"9223370264409175807ms\")) > datetime(\"1970-01-01\")",
    ],
    &[
        "principal in Role::\"clerks\"",
        "resource in Service::\"orders\"",
        "Port::\"orders:6379\".number == 6379",
        "Port::\"orders:6379\" in Service::\"cache\"",
        "Node::\"orders\" in Mesh::\"shop\"",
    ],
    // Whose it is.
    &[
        "resource in Node::\"cart\" || resource in External::\"stripe\"",
        "resource in Role::\"clerks\"",
        "resource in TrustDomain::\"shop.example\" && resource in Mesh::\"shop\"",
        "resource in Service::\"cart\" || resource in Node::\"gateway/edge\"",
    ],
    // Names of others than who calls and what is called.
    &[
        "Node::\"web\" in Role::\"clerks\"",
        "Node::\"orders\" in Role::\"clerks\"",
        "Node::\"cart\" in TrustDomain::\"shop.example\"",
        "Workload::\"ci\" in Role::\"clerks\"",
        "Node::\"gateway/edge\" in Role::\"nobody\"",
    ],
    // Ports, routes and services by name, each of which is elsewhere for most nodes.
    PORTS_OF_OTHERS,
    PORTS_OF_OTHERS,
    PORTS_OF_OTHERS,
    // Labels of who calls, and of others.
    &[
        "principal.hasTag(\"team\") && principal.getTag(\"team\") == \"checkout\"",
        "principal.hasTag(\"team\")",
        "principal.hasTag(\"tier\") && principal.getTag(\"tier\") like \"1*\"",
        "principal.hasTag(\"team\") && Node::\"cart\".hasTag(\"team\") && principal.getTag(\"team\") == \
         Node::\"cart\".getTag(\"team\")",
    ],
    LABELS_OF_OTHERS,
    LABELS_OF_OTHERS,
    &["action in Action::\"read\"", "[Action::\"GET\", Action::\"call\"].contains(action)"],
    // What fails, of some questions or of all.
    &[
        "Port::\"orders:1\".number == 1",
        "Route::\"orders:8080 /none\".template like \"*\"",
        "Port::\"orders:6379\".number * 9223372036854775807 > 0",
        "context.time.offset(duration(\"9223370264409175807ms\")) > datetime(\"1970-01-01\")",
        "context.peer has certificateAge && 9223372036854775807 - context.peer.certificateAge + 600 > 0",
    ],
];

const PORTS_OF_OTHERS: &[&str] = &[
    "Port::\"orders:8080\" in Service::\"orders\"",
    "Port::\"cart:8081\" in [Service::\"cache\", Service::\"orders-admin\"]",
    "Port::\"gateway/edge:6379\" in Service::\"cache\"",
    "Port::\"cart:8080\" in principal || Port::\"orders:8080\" in principal",
    "Port::\"orders:50051\" in Role::\"clerks\"",
    "Port::\"cart:6379\" in TrustDomain::\"shop.example\" && Port::\"cart:6379\" in Mesh::\"shop\"",
    "Port::\"cart:9999\" in Service::\"cart\" || Port::\"web:1\" in Node::\"web\"",
    "Port::\"orders:8081\".protocol == \"http\" && Port::\"orders:8081\".number < 8082",
    "Port::\"cart:9999\".protocol like \"*\"",
    "(if context.peer.federated then Port::\"orders:8080\" else Port::\"cart:8080\") in Service::\"cart\"",
    "Port::\"cart:8080\" is Port in Service::\"cart\"",
    "Route::\"cart:8080 /orders/{id}\" in DataClass::\"cards\"",
    "Route::\"orders:8080 POST /orders/{id}\" in DataClass::\"pii\"",
    "Route::\"cart:50051 shop.Orders/Get\" in Service::\"orders\"",
    "Route::\"gateway/edge:8080 /none\" in Port::\"gateway/edge:8080\"",
    "Route::\"cart:8081 *undeclared\" in Node::\"cart\" && Route::\"cart:8081 *undeclared\" in Mesh::\"shop\"",
    "Route::\"cart:9000 /open\".template == \"/open\" && Route::\"cart:9000 /open\".port == 9000",
    "Service::\"orders\" in Mesh::\"shop\"",
    "Service::\"payments\" in Mesh::\"shop\" && External::\"stripe\" in Mesh::\"shop\"",
    "Service::\"cart\" in Mesh::\"bank\"",
];

const LABELS_OF_OTHERS: &[&str] = &[
    "Node::\"web\".hasTag(\"team\") && Node::\"web\".getTag(\"team\") == \"checkout\"",
    "Node::\"orders\".hasTag(\"tier\")",
    "Node::\"gateway/edge\".hasTag(\"team\")",
    "(if context.peer.federated then Node::\"web\" else Node::\"cart\").hasTag(\"team\")",
    "Workload::\"ci\".hasTag(\"team\") || Node::\"intruder\".hasTag(\"team\")",
];

/// What may be asked of every request.
pub(super) const OF_REQUESTS: Groups = &[
    &[
        "context.path like \"/orders/*\"",
        "context.path == \"/health\"",
        "context.path like \"*/2\"",
        "(if context.path like \"*1\" then resource else resource) in Port::\"orders:8080\"",
    ],
    OF_METHODS,
    OF_METHODS,
    &["context.host == \"orders.shop\"", "context.host like \"*.shop\""],
    &[
        "context.headers.hasTag(\"x-tenant\")",
        "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")",
        "context.headers.hasTag(\"x-team\") && context.headers.getTag(\"x-team\") == [\"a\"]",
    ],
    &[
        "resource.template == \"/orders/{id}\"",
        "resource.template like \"POST *\"",
        "resource in DataClass::\"pii\"",
        "resource in DataClass::\"cards\"",
    ],
    // Too large for one port's routes alone.
    &["resource.port * 1000000000000000 > 0", "-9223372036854775807 - resource.port < 0"],
    &[
        "context has user",
        "context has user && context.user == User::\"login/alice\"",
        "context has user && context.user in UserGroup::\"login/support\"",
        "context has user && context.user.scopes.contains(\"read\") && context.user.roles.isEmpty()",
        "context has user && context.user.issuer == \"https://login.example\" && context.user.roles.contains(\"boss\")",
    ],
    // Whoever is named need not be who it is made for, and may be: nothing else is asked of a name.
    &[
        "context has user && [User::\"login/alice\", User::\"login/bob\"].contains(context.user)",
        "context has user && context.user != User::\"login/bob\" && context.user.scopes.contains(\"read\")",
    ],
    &[
        "context.claims.hasTag(\"team\") && context.claims.getTag(\"team\").contains(\"blue\")",
        "context.claims.hasTag(\"level\") && context.claims.getTag(\"level\") == [\"7\"]",
    ],
    OF_ACTORS,
    OF_ACTORS,
];

const OF_ACTORS: &[&str] = &[
    "context.actors.contains(Node::\"web\")",
    "context.actors == [Node::\"web\"]",
    "context.actors.isEmpty()",
];

const OF_METHODS: &[&str] = &[
    "context.method == \"GET\"",
    "[\"GET\", \"LOCK\"].contains(context.method)",
    "context.method like \"PROP*\"",
];

/// What may be asked of HTTP requests.
pub(super) const OF_HTTP: Groups = &[
    &[
        "context.query.hasTag(\"id\")",
        "context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"a b\")",
        "context.query.hasTag(\"id\") && context.query.getTag(\"id\").containsAll([\"1\", \"2\"])",
        "context.query.hasTag(context.host)",
        "context has query && context has params",
    ],
    OF_PARAMETERS,
    OF_PARAMETERS,
    OF_PARAMETERS,
    &["context.params.hasTag(\"id\") && context.query.hasTag(\"id\") && \
       context.query.getTag(\"id\").contains(context.params.getTag(\"id\"))"],
];

const OF_PARAMETERS: &[&str] = &[
    "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"1\"",
    "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"a b\"",
    "context.params.hasTag(\"item\")",
    "context.params.hasTag(\"rest\") && context.params.getTag(\"rest\") like \"a/*\"",
];

/// What may be asked of gRPC calls.
pub(super) const OF_CALLS: Groups =
    &[&["context.rpc == \"Get\"", "context has rpc"], &["context.service like \"shop.*\""]];

/// What may be asked of streams.
pub(super) const OF_STREAMS: Groups =
    &[&["resource.number == 6379", "resource.number * 9223372036854775807 < 0"]];

/// How many atoms the conditions of one world are made of. Few, so that what one policy reads is not hidden behind all
/// that others read, and so that they meet the same facts.
pub(super) const THEME: usize = 3;

/// Conditions of one or more atoms, joined in all ways. An atom is a place in the world's theme.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Atom(usize),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    If(Box<Condition>, Box<Condition>, Box<Condition>),
}

impl Condition {
    /// As text, the atoms taken from these lists.
    pub(super) fn text(&self, theme: &[usize], of: &[Groups]) -> String {
        let text = |condition: &Self| condition.text(theme, of);
        match self {
            Self::Atom(place) => {
                let groups: Vec<&[&str]> = of.iter().flat_map(|groups| groups.iter().copied()).collect();
                let choice = theme[*place];
                let atoms = groups[choice % groups.len()];
                atoms[choice / groups.len() % atoms.len()].to_owned()
            }
            Self::And(one, other) => format!("({}) && ({})", text(one), text(other)),
            Self::Or(one, other) => format!("({}) || ({})", text(one), text(other)),
            Self::Not(one) => format!("!({})", text(one)),
            Self::If(one, two, three) => {
                format!("if {} then ({}) else ({})", text(one), text(two), text(three))
            }
        }
    }
}

pub(super) fn some_condition() -> impl Strategy<Value = Condition> {
    (0..THEME).prop_map(Condition::Atom).prop_recursive(3, 6, 3, |inner| {
        let boxed = inner.prop_map(Box::new);
        prop_oneof![
            (boxed.clone(), boxed.clone()).prop_map(|(one, other)| Condition::And(one, other)),
            (boxed.clone(), boxed.clone()).prop_map(|(one, other)| Condition::Or(one, other)),
            boxed.clone().prop_map(Condition::Not),
            (boxed.clone(), boxed.clone(), boxed)
                .prop_map(|(one, two, three)| Condition::If(one, two, three)),
        ]
    })
}
