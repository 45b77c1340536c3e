//! The property that everything rests on: sliced, indexed and remembered, this crate says what plain Cedar says of all
//! policies, all entities and the whole context.
//!
//! `HAUBERK_DIFFERENTIAL_CASES` sets how many sets of policies are tried; each is asked up to 63 questions, twice.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision as CedarDecision, Entities, Entity, EntityUid, Policy,
    PolicyId, PolicySet, Request, RestrictedExpression,
};
use hauberk_identity::UnixMillis;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use super::super::*;
use crate::circumstances::{Gathered, Tls};
use crate::decision::Effect;
use crate::document::{Mode, PolicyDocument};
use crate::facts::{Roles, entities};
use crate::path::CanonicalPath;
use crate::scope::{Authorization, NodeScope};
use crate::testing::{documents, engine_for, foreign, name, node, orders, peer, roles};
use crate::user::{ClaimsMapping, OnBehalfOf, Origin};
use crate::vocabulary::Kind;

/// A question in its parts, from which both sides make their own.
#[derive(Debug, Clone)]
struct Asked {
    caller: Caller,
    address: &'static str,
    group: Option<&'static str>,
    time: u64,
    age: Option<u64>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Stream,
    Request {
        port: u16,
        method: &'static str,
        path: &'static str,
        upgrade: bool,
        host: &'static str,
        /// Names and values; none where the query cannot be read.
        query: Option<Vec<(&'static str, &'static str)>>,
        /// Lines; none for a value that cannot be read.
        headers: Vec<(&'static str, Option<&'static str>)>,
        user: Option<Box<Somebody>>,
    },
}

/// For whom a request is made.
#[derive(Debug, Clone)]
struct Somebody {
    id: &'static str,
    groups: Vec<&'static str>,
    scopes: Vec<&'static str>,
    team: Option<&'static str>,
    actors: Vec<&'static str>,
}

/// What plain Cedar says of a question, or of half of one.
#[derive(Debug, PartialEq)]
struct Said {
    reason: Reason,
    policies: BTreeSet<String>,
    audit: Option<(Effect, BTreeSet<String>)>,
}

/// All statements of a world, as plain Cedar has them.
struct Oracle<'a> {
    scope: &'a NodeScope,
    statements: Vec<(Mode, Policy, String)>,
    all: Entities,
    roles: Roles,
}

impl Asked {
    fn peer(&self) -> Peer {
        let tls = self.group.map(|group| Tls { version: "TLSv1.3".into(), group: group.into() });
        Peer::new(Some(self.address.parse().unwrap()), tls)
    }

    fn moment(&self) -> Moment {
        let time = UnixMillis::from_secs(self.time);
        let certificate_since = self.age.map(|age| UnixMillis::from_secs(self.time - age));
        Moment { time, certificate_since }
    }
}

impl What {
    fn port(&self) -> u16 {
        match self {
            Self::Stream => 6379,
            Self::Request { port, .. } => *port,
        }
    }

    /// The request's target, its query escaped in one way or another.
    fn target(&self) -> String {
        let Self::Request { path, query, .. } = self else { return String::new() };
        let escape = |text: &str| text.replace(' ', "+").replace('&', "%26").replace('é', "%C3%A9");
        match query {
            None => format!("{path}?a=%zz"),
            Some(pairs) if pairs.is_empty() => (*path).to_owned(),
            Some(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
                format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
            }
        }
    }

    fn gathered(&self, engine: &Engine) -> Gathered {
        let Self::Request { host, headers, user, .. } = self else { return Gathered::default() };
        let lines = headers.iter().map(|(name, value)| (*name, value.map_or(&b"\xff"[..], str::as_bytes)));
        let gathered = engine.wanted(self.port()).map(|wanted| wanted.gather(host, lines));
        let made_for = user.as_ref().map_or(OnBehalfOf::Nobody, |user| user.seen_by(engine));
        gathered.unwrap_or_default().made_for(made_for)
    }
}

impl Somebody {
    fn seen_by(&self, engine: &Engine) -> OnBehalfOf {
        let Self { id, groups, scopes, team, actors } = self;
        let claims =
            serde_json::json!({"sub": id, "groups": groups, "scope": scopes.join(" "), "team": team});
        let (claims, wanted) = (claims.as_object().unwrap(), engine.claims_read());
        let issuer = "https://login.example".into();
        let user = ClaimsMapping::default().user(claims, wanted, &name("login"), &issuer).unwrap();
        OnBehalfOf::User(std::sync::Arc::new(Origin {
            user,
            actors: actors.iter().copied().map(node).collect(),
        }))
    }

    fn entity(&self) -> Entity {
        let attributes = [
            ("issuer".to_owned(), string("https://login.example")),
            ("scopes".to_owned(), set(&self.scopes)),
            ("roles".to_owned(), set(&[])),
        ];
        let groups = self.groups.iter().map(|group| format!("UserGroup::\"login/{group}\"").parse().unwrap());
        Entity::new(self.uid(), attributes.into(), groups.collect()).unwrap()
    }

    fn uid(&self) -> EntityUid {
        format!("User::\"login/{}\"", self.id).parse().unwrap()
    }
}

impl<'a> Oracle<'a> {
    fn new(scope: &'a NodeScope, documents: &[PolicyDocument]) -> Self {
        let roles = Roles::new(&roles(), &scope.names());
        let statements = documents
            .iter()
            .flat_map(|document| document.statements().iter().map(|statement| (document.mode(), statement)))
            .map(|(mode, statement)| {
                let policy = Policy::parse(Some(PolicyId::new(&statement.name)), &statement.text).unwrap();
                (mode, policy, statement.text.clone())
            });
        let all = Entities::from_entities(entities(scope, &roles), Some(&VOCABULARY.schema)).unwrap();
        Self { scope, statements: statements.collect(), all, roles }
    }

    /// An upgrade is asked about twice, and the worse answer counts.
    fn ask(&self, asked: &Asked) -> Said {
        let What::Request { upgrade: true, .. } = asked.what else { return self.ask_half(asked, false) };
        let halves = [self.ask_half(asked, false), self.ask_half(asked, true)];
        let rank = |reason: Reason| match reason {
            Reason::Permitted => 0,
            Reason::AuditDefaultAllow => 1,
            Reason::NoPolicyMatched => 2,
            Reason::EvaluationError | Reason::UnreadableHeader | Reason::UnreadableQuery => 3,
            Reason::Forbidden => 4,
            other => panic!("{other:?}"),
        };
        let worst = halves.iter().map(|half| rank(half.reason)).max().unwrap();
        let deciding = || halves.iter().filter(|half| rank(half.reason) == worst);
        let passes = |half: &Said| match &half.audit {
            Some((effect, _)) => *effect == Effect::Allow,
            None => rank(half.reason) <= 1,
        };
        let audited: Vec<_> = halves.iter().filter_map(|half| half.audit.as_ref()).collect();
        let effect = if halves.iter().all(passes) { Effect::Allow } else { Effect::Deny };
        let named = audited.iter().flat_map(|(_, policies)| policies.clone()).collect();
        Said {
            reason: deciding().next_back().unwrap().reason,
            policies: deciding().flat_map(|half| half.policies.clone()).collect(),
            audit: (!audited.is_empty()).then_some((effect, named)),
        }
    }

    fn ask_half(&self, asked: &Asked, as_upgrade: bool) -> Said {
        let principal = match &asked.caller {
            Caller::Peer(id) => caller(id, self.scope, &self.roles).unwrap(),
            Caller::Anonymous => anonymous(),
        };
        let port = self.scope.ports.iter().find(|own| own.number == asked.what.port()).unwrap();
        let (action, resource, carried) = self.place(asked, as_upgrade, port);
        let context = context(asked, &action, principal.is_foreign);
        let request = Request::new(
            principal.uid.clone(),
            format!("Action::\"{action}\"").parse().unwrap(),
            resource,
            context,
            Some(&VOCABULARY.schema),
        )
        .unwrap();
        let own = self.all.get(&principal.uid).is_none().then(|| principal.entity.clone());
        let all = self.all.clone().add_entities(carried.into_iter().chain(own), Some(&VOCABULARY.schema));
        let all = all.unwrap();
        let enforced = self.answer(Mode::Enforce, asked, &request, &all);
        let audited = self.answer(Mode::Audit, asked, &request, &all);
        let is_open = port.authorization == Authorization::Audit && !principal.is_foreign;
        let reason = match enforced.0 {
            Reason::NoPolicyMatched if is_open => Reason::AuditDefaultAllow,
            reason => reason,
        };
        let stops = |reason: Reason| !matches!(reason, Reason::Permitted | Reason::NoPolicyMatched);
        let audit = (audited.0 != Reason::NoPolicyMatched).then(|| {
            let is_stopped = stops(enforced.0) || stops(audited.0);
            (if is_stopped { Effect::Deny } else { Effect::Allow }, audited.1)
        });
        Said { reason, policies: enforced.1, audit }
    }

    fn answer(
        &self,
        mode: Mode,
        asked: &Asked,
        request: &Request,
        all: &Entities,
    ) -> (Reason, BTreeSet<String>) {
        let statements = || self.statements.iter().filter(|(own, ..)| *own == mode);
        let cannot_tell: BTreeSet<_> = statements()
            .filter(|(_, policy, text)| reads_unreadable(asked, text) && is_in_scope(policy, request, all))
            .map(|(_, policy, _)| policy.id().to_string())
            .collect();
        if !cannot_tell.is_empty() {
            let What::Request { query, .. } = &asked.what else { unreachable!() };
            let reason = if query.is_none() { Reason::UnreadableQuery } else { Reason::UnreadableHeader };
            return (reason, cannot_tell);
        }
        let set = PolicySet::from_policies(statements().map(|(_, policy, _)| policy.clone())).unwrap();
        let response = Authorizer::new().is_authorized(request, &set, all);
        let reasons: BTreeSet<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        let errors = response.diagnostics().errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
        });
        let errors: BTreeSet<_> = errors.collect();
        match response.decision() {
            CedarDecision::Deny if !reasons.is_empty() => (Reason::Forbidden, reasons),
            _ if !errors.is_empty() => (Reason::EvaluationError, errors),
            CedarDecision::Allow => (Reason::Permitted, reasons),
            CedarDecision::Deny => (Reason::NoPolicyMatched, reasons),
        }
    }

    /// The action, the resource, and what the request brings along.
    fn place(
        &self,
        asked: &Asked,
        as_upgrade: bool,
        port: &crate::scope::PortScope,
    ) -> (String, EntityUid, Vec<Entity>) {
        let What::Request { method, path, query, headers, user, .. } = &asked.what else {
            let uid = Kind::Port.uid(format!("{}:{}", self.scope.node, port.number));
            return ("connect".to_owned(), uid, Vec::new());
        };
        let canonical = CanonicalPath::parse(method, path).unwrap();
        let declared =
            port.routes.iter().map(|route| &route.template).filter(|route| route.matches(method, &canonical));
        let template = declared.min_by(|one, other| one.by_specificity(other));
        let template = template.map_or("*undeclared", |route| route.as_str());
        let methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
        let action = match (port.protocol, as_upgrade) {
            (Protocol::Grpc, _) => "call",
            (_, true) => "upgrade",
            _ if methods.contains(method) => method,
            _ => "other",
        };
        let resource = Kind::Route.uid(format!("{}:{} {template}", self.scope.node, port.number));
        let mut of_query: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in query.iter().flatten() {
            of_query.entry(name).or_default().push(value);
        }
        let mut of_headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in headers.iter().filter_map(|(name, value)| Some((*name, (*value)?))) {
            of_headers.entry(name).or_default().push(value);
        }
        let sets = |tags: BTreeMap<&str, Vec<&str>>| -> Vec<_> {
            tags.into_iter().map(|(name, values)| (name.to_owned(), set(&values))).collect()
        };
        let params = match template {
            "/orders/{id}" => vec![("id".to_owned(), string(path.rsplit('/').next().unwrap()))],
            _ => Vec::new(),
        };
        let team = user.as_ref().and_then(|user| user.team);
        let claims = team.map(|team| ("team".to_owned(), set(&[team]))).into_iter().collect();
        let carried = [
            ("Query", sets(of_query)),
            ("Headers", sets(of_headers)),
            ("Params", params),
            ("Claims", claims),
        ];
        let carried = carried.map(|(kind, tags)| {
            let uid = format!("{kind}::\"request\"").parse().unwrap();
            Entity::new_with_tags(uid, [], [], tags).unwrap()
        });
        let carried = carried.into_iter().chain(user.as_ref().map(|user| user.entity()));
        (action.to_owned(), resource, carried.collect())
    }
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn set(values: &[&str]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| string(value)))
}

/// The whole context of an action.
fn context(asked: &Asked, action: &str, is_foreign: bool) -> Context {
    let mut peer = vec![
        ("address".to_owned(), RestrictedExpression::new_ip(asked.address)),
        ("federated".to_owned(), RestrictedExpression::new_bool(is_foreign)),
    ];
    if let Some(group) = asked.group {
        peer.extend([("tlsVersion".to_owned(), string("TLSv1.3")), ("tlsGroup".to_owned(), string(group))]);
    }
    if let Some(age) = asked.age {
        let age = i64::try_from(age).unwrap();
        peer.push(("certificateAge".to_owned(), RestrictedExpression::new_long(age)));
    }
    if let Caller::Peer(id) = &asked.caller {
        let domain = id.as_str().split('/').nth(2).unwrap();
        peer.extend([
            ("spiffeId".to_owned(), string(id.as_str())),
            ("trustDomain".to_owned(), string(domain)),
        ]);
    }
    let time = format!("datetime(\"1970-01-01\").offset(duration(\"{}ms\"))", asked.time * 1_000);
    let mut context =
        vec![("peer", RestrictedExpression::new_record(peer).unwrap()), ("time", time.parse().unwrap())];
    if let What::Request { method, path, host, user, .. } = &asked.what {
        let uid = |kind: &str| {
            RestrictedExpression::new_entity_uid(format!("{kind}::\"request\"").parse().unwrap())
        };
        context.extend([("path", string(path)), ("method", string(method)), ("host", string(host))]);
        context.extend([("headers", uid("Headers")), ("claims", uid("Claims"))]);
        let actors = user.iter().flat_map(|user| &user.actors).map(|actor| Kind::Node.uid(node(actor)));
        let actors = actors.map(RestrictedExpression::new_entity_uid);
        context.push(("actors", RestrictedExpression::new_set(actors)));
        if let Some(user) = user {
            context.push(("user", RestrictedExpression::new_entity_uid(user.uid())));
        }
        if action == "call" {
            let (service, rpc) = path[1..].split_once('/').unwrap();
            context.extend([("service", string(service)), ("rpc", string(rpc))]);
        } else {
            context.extend([("query", uid("Query")), ("params", uid("Params"))]);
        }
    }
    Context::from_pairs(context.into_iter().map(|(name, value)| (name.to_owned(), value))).unwrap()
}

/// Whether a statement reads what of this question cannot be read.
fn reads_unreadable(asked: &Asked, text: &str) -> bool {
    let What::Request { query, headers, port, .. } = &asked.what else { return false };
    let unreadable = headers.iter().filter(|(_, value)| value.is_none());
    let mut of_headers = unreadable.filter(|(name, _)| text.contains(&format!("headers.hasTag(\"{name}\")")));
    let mentions = ["context.query", "context has query", "context == context"];
    let reads_query = mentions.iter().any(|mention| text.contains(mention));
    query.is_none() && *port != 50051 && reads_query || of_headers.next().is_some()
}

fn is_in_scope(policy: &Policy, request: &Request, all: &Entities) -> bool {
    let mut tree = policy.to_json().unwrap();
    tree["conditions"] = serde_json::json!([]);
    tree["effect"] = serde_json::json!("permit");
    let alone = PolicySet::from_policies([Policy::from_json(None, tree).unwrap()]).unwrap();
    Authorizer::new().is_authorized(request, &alone, all).decision() == CedarDecision::Allow
}

fn given(decision: &Decision) -> Said {
    let named = |policies: &[std::sync::Arc<str>]| policies.iter().map(ToString::to_string).collect();
    Said {
        reason: decision.reason,
        policies: named(&decision.policies),
        audit: decision.audit.as_ref().map(|audit| (audit.effect, named(&audit.policies))),
    }
}

const ANYWHERE: &[&str] = &[
    "context.peer.address.isInRange(ip(\"10.0.0.0/8\"))",
    "context.peer.address == ip(\"::1\")",
    "context.peer.address.isIpv4()",
    "context.peer.federated",
    "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
    "context.peer has tlsVersion && context.peer.tlsVersion == \"TLSv1.3\"",
    "context.peer has certificateAge && context.peer.certificateAge < 600",
    "context.peer has certificateAge && context.peer.certificateAge * 9223372036854775807 > 0",
    "context has peer.spiffeId && context.peer.spiffeId like \"*/web\"",
    "context.peer has trustDomain && context.peer.trustDomain == \"partner.example\"",
    "context.peer == context.peer",
    "context == context",
    "context.time < datetime(\"2026-03-02T10:00:00Z\")",
    "context.time.toTime() < duration(\"10h\")",
    "context.time.toDate() == datetime(\"2026-03-02\")",
    "context.time.offset(duration(\"9223370264409175807ms\")) > datetime(\"1970-01-01\")",
    "principal in Role::\"clerks\"",
    "resource in Service::\"orders\"",
    "Port::\"orders:6379\".number == 6379",
    "Port::\"orders:1\".number == 1",
    "Port::\"orders:6379\" in Service::\"cache\"",
    "Node::\"orders\" in Mesh::\"shop\"",
    "action in Action::\"read\"",
    "[Action::\"GET\", Action::\"call\"].contains(action)",
];

const OF_REQUESTS: &[&str] = &[
    "context.path like \"/orders/*\"",
    "context.path == \"/health\"",
    "context.path like \"*/2\"",
    "context.method == \"GET\"",
    "[\"GET\", \"LOCK\"].contains(context.method)",
    "context.host == \"orders.shop\"",
    "context.host like \"*.shop\"",
    "context.headers.hasTag(\"x-tenant\")",
    "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")",
    "context.headers.hasTag(\"x-team\") && context.headers.getTag(\"x-team\") == [\"a\"]",
    "context has user",
    "context has user && context.user == User::\"login/alice\"",
    "context has user && context.user in UserGroup::\"login/support\"",
    "context has user && context.user.scopes.contains(\"read\") && context.user.roles.isEmpty()",
    "context.claims.hasTag(\"team\") && context.claims.getTag(\"team\").contains(\"blue\")",
    "context.actors.contains(Node::\"web\")",
    "context.actors == [Node::\"web\"]",
    "context.actors.isEmpty()",
    "resource.template == \"/orders/{id}\"",
    "resource.port * 9223372036854775807 < 0",
    "(if context.path like \"*1\" then resource else resource) in Port::\"orders:8080\"",
];

const OF_HTTP: &[&str] = &[
    "context.query.hasTag(\"id\")",
    "context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"a b\")",
    "context.query.hasTag(\"id\") && context.query.getTag(\"id\").containsAll([\"1\", \"2\"])",
    "context.query.hasTag(context.host)",
    "context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"1\"",
    "context.params.hasTag(\"id\") && context.query.hasTag(\"id\") && \
     context.query.getTag(\"id\").contains(context.params.getTag(\"id\"))",
    "context has query && context has params",
];

const OF_CALLS: &[&str] = &["context.rpc == \"Get\"", "context.service like \"shop.*\"", "context has rpc"];

const OF_STREAMS: &[&str] = &["resource.number == 6379", "resource.number * 9223372036854775807 < 0"];

/// Conditions of one or more of these, joined in all ways.
fn condition(of: &[&[&'static str]]) -> impl Strategy<Value = String> + use<> {
    let of: Vec<&'static str> = of.iter().flat_map(|atoms| atoms.iter().copied()).collect();
    select(of).prop_map(str::to_owned).prop_recursive(3, 6, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) && ({other})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) || ({other})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(one, two, three)| format!("if {one} then ({two}) else ({three})")),
        ]
    })
}

fn some_policy() -> impl Strategy<Value = String> {
    let effect = select(vec!["permit", "permit", "forbid"]);
    let principal = select(vec![
        "principal is Node",
        "principal == Node::\"web\"",
        "principal == Node::\"orders\"",
        "principal in Role::\"clerks\"",
        "principal in Role::\"nobody\"",
        "principal in Mesh::\"shop\"",
        "principal is Node in TrustDomain::\"shop.example\"",
        "principal is Workload",
        "principal == Workload::\"ci\"",
        "principal is Workload in TrustDomain::\"partner.example\"",
        "principal is Anonymous",
    ]);
    let http = select(vec![
        "action in Action::\"http\"",
        "action in Action::\"read\"",
        "action in [Action::\"POST\", Action::\"GET\"]",
        "action == Action::\"GET\"",
        "action == Action::\"POST\"",
        "action == Action::\"other\"",
        "action == Action::\"upgrade\"",
    ]);
    let requests =
        select(vec!["action in [Action::\"read\", Action::\"write\"]", "action in Action::\"write\""]);
    let acts = prop_oneof![
        6 => (http, condition(&[ANYWHERE, OF_REQUESTS, OF_HTTP])),
        2 => (requests, condition(&[ANYWHERE, OF_REQUESTS])),
        2 => (Just("action == Action::\"call\""), condition(&[ANYWHERE, OF_REQUESTS, OF_CALLS])),
        2 => (Just("action == Action::\"connect\""), condition(&[ANYWHERE, OF_STREAMS])),
        2 => (Just("action"), condition(&[ANYWHERE])),
    ];
    let resource = select(vec![
        "resource",
        "resource in Service::\"orders\"",
        "resource in Service::\"orders-admin\"",
        "resource in Service::\"cache\"",
        "resource in Service::\"payments\"",
        "resource in Node::\"orders\"",
        "resource in Mesh::\"shop\"",
        "resource in Port::\"orders:8080\"",
        "resource == Route::\"orders:8080 /orders/{id}\"",
        "resource == Route::\"orders:8080 *undeclared\"",
        "resource == Port::\"orders:6379\"",
    ]);
    let when = select(vec!["", "when", "when", "when", "when", "unless"]);
    (effect, principal, acts, resource, when)
        .prop_map(|(effect, principal, (action, condition), resource, when)| {
            let condition = if when.is_empty() { String::new() } else { format!("{when} {{ {condition} }}") };
            format!("{effect}({principal}, {action}, {resource}) {condition};")
        })
        // Some combinations can never apply, which the parser refuses.
        .prop_filter("can apply", |text| crate::testing::parse(text).is_ok())
}

fn some_request() -> impl Strategy<Value = What> {
    let query = prop_oneof![
        1 => Just(None),
        9 => prop::collection::vec(
            (select(vec!["id", "a&b", "orders.shop", "é"]), select(vec!["1", "2", "a b", ""])),
            0..3,
        )
        .prop_map(Some),
    ];
    let value = prop_oneof![9 => select(vec!["blue", "a", "blue, a", ""]).prop_map(Some), 1 => Just(None)];
    let headers = prop::collection::vec((select(vec!["x-tenant", "x-team", "x-other"]), value), 0..3);
    let host = select(vec!["orders.shop", "other", ""]);
    let http = (
        select(vec![8080_u16, 9000, 8081]),
        select(vec!["GET", "HEAD", "POST", "DELETE", "LOCK", "get"]),
        select(vec!["/orders/1", "/orders/2", "/orders/1/2", "/orders", "/health", "/"]),
        any::<bool>(),
    );
    let grpc = (
        Just(50051),
        Just("POST"),
        select(vec!["/shop.Orders/Get", "/shop.Orders/Put", "/bank.Ledger/Get"]),
        Just(false),
    );
    let few = |of: Vec<&'static str>| prop::collection::vec(select(of), 0..3);
    let user = (
        select(vec!["alice", "bob"]),
        few(vec!["support", "staff"]),
        few(vec!["read", "write"]),
        select(vec![Some("blue"), Some("red"), None]),
        few(vec!["web", "cart"]),
    );
    let user = user.prop_map(|(id, groups, scopes, team, actors)| {
        Box::new(Somebody { id, groups, scopes, team, actors })
    });
    let user = prop::option::of(user);
    (prop_oneof![4 => http, 1 => grpc], host, query, headers, user).prop_map(
        |((port, method, path, upgrade), host, query, mut headers, user)| {
            if query.is_none() {
                // One thing that cannot be read at a time, so that there is one right reason.
                headers.retain(|(_, value)| value.is_some());
            }
            What::Request { port, method, path, upgrade, host, query, headers, user }
        },
    )
}

fn some_question() -> impl Strategy<Value = Asked> {
    let caller = select(vec![
        peer("web"),
        peer("intruder"),
        peer("orders"),
        foreign("spiffe://shop.example/mesh/bank/gateway/edge"),
        foreign("spiffe://shop.example/workload/ci"),
        foreign("spiffe://partner.example/app"),
        Caller::Anonymous,
    ]);
    let address = select(vec!["10.1.2.3", "192.0.2.7", "::1"]);
    let group = select(vec![Some("X25519MLKEM768"), Some("X25519"), None]);
    let time = select(vec![1_772_445_600_u64, 1_772_445_599, 1_772_400_000, 1_772_531_999]);
    let age = select(vec![Some(700_u64), Some(599), Some(1), Some(0), None]);
    let what = prop_oneof![6 => some_request(), 1 => Just(What::Stream)];
    (caller, address, group, time, age, what).prop_map(|(caller, address, group, time, age, what)| Asked {
        caller,
        address,
        group,
        time,
        age,
        what,
    })
}

fn cases() -> u32 {
    std::env::var("HAUBERK_DIFFERENTIAL_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(160)
}

/// Asks all questions of one set of policies; each again once all have been asked, so that it is remembered.
fn compare(policies: &[(bool, String)], is_open: bool, questions: &[Asked]) -> Result<(), TestCaseError> {
    let texts: Vec<_> = policies
        .iter()
        .map(|(audit, text)| (if *audit { Mode::Audit } else { Mode::Enforce }, text.as_str()))
        .collect();
    let mut scope = orders();
    if is_open {
        scope.ports.iter_mut().for_each(|port| port.authorization = Authorization::Audit);
    }
    let engine = engine_for(scope.clone(), &texts);
    let oracle = Oracle::new(&scope, &documents(&texts));
    let expected: Vec<_> = questions.iter().map(|asked| oracle.ask(asked)).collect();
    let mut memos: HashMap<(Caller, Peer), CallerMemo> = HashMap::new();
    for is_first in [true, false] {
        for (index, (asked, expected)) in questions.iter().zip(&expected).enumerate() {
            let (target, gathered) = (asked.what.target(), asked.what.gathered(&engine));
            let path = CanonicalPath::parse("GET", if target.is_empty() { "/" } else { &target }).unwrap();
            let attempt = match asked.what {
                What::Stream => Attempt::Stream,
                What::Request { method, upgrade, .. } => {
                    Attempt::Request { method, path: &path, upgrade, gathered: &gathered }
                }
            };
            let (caller, peer, moment) = (&asked.caller, &asked.peer(), asked.moment());
            let key = (caller.clone(), peer.clone());
            let memo = memos.entry(key).or_insert_with(|| engine.caller(caller, peer));
            let port = asked.what.port();
            prop_assert_eq!(&given(&memo.decide(port, attempt, moment)), expected, "{:?}", asked);
            if !is_first || index % 8 != 0 {
                continue;
            }
            // What explains must agree with what decides.
            let explained = engine.explain(&Question { caller, peer, port, attempt, moment });
            prop_assert_eq!(&given(&explained.decision), expected, "{:?}", asked);
            for note in &explained.policies {
                let applies = note.mismatches.is_empty();
                let determines = explained.decision.policies.contains(&note.name);
                prop_assert!(applies || !determines || note.error.is_some(), "{note:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn decides_as_plain_cedar_does() {
    let policies = prop::collection::vec((any::<bool>(), some_policy()), 0..8);
    let questions = prop::collection::vec(some_question(), 1..64);
    let compared = Cell::new(0);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) };
    let mut runner = TestRunner::new(config);
    // Few callers ask much, so that what is remembered for one question meets others that differ in a little.
    let callers = prop::collection::vec(some_question(), 1..3);
    let worlds = (policies, any::<bool>(), callers, questions);
    let outcome = runner.run(&worlds, |(policies, is_open, callers, mut questions)| {
        for (asked, of) in questions.iter_mut().zip(callers.iter().cycle()) {
            (asked.caller, asked.address, asked.group) = (of.caller.clone(), of.address, of.group);
        }
        compared.set(compared.get() + 2 * questions.len());
        compare(&policies, is_open, &questions)
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    println!("{} decisions compared", compared.get());
}
