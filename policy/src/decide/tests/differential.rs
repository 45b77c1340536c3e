//! The property that everything rests on: sliced, indexed and remembered, this crate says what plain Cedar says of all
//! policies, all entities and the whole context.
//!
//! What is told of questions that leave something open (`outlook`) must agree with it too.
//!
//! `HAUBERK_DIFFERENTIAL_CASES` sets how many sets of policies are tried; each is asked up to 127 questions, twice.

mod foreseen;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

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
use crate::slice::PolicyIndex;
use crate::testing::{domain, foreign, name, node, orders, peer, roles};
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
    /// With what a caller and a request bring along, by that.
    with_carried: RefCell<HashMap<String, Entities>>,
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
        let with_carried = RefCell::default();
        Self { scope, statements: statements.collect(), all, with_carried, roles }
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
        let all = self.with_carried(&principal, carried);
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

    fn with_carried(&self, principal: &Principal, carried: Vec<Entity>) -> Entities {
        let key = format!("{} {carried:?}", principal.uid);
        let add = || {
            let own = self.all.get(&principal.uid).is_none().then(|| principal.entity.clone());
            let new = carried.into_iter().chain(own);
            self.all.clone().add_entities(new, Some(&VOCABULARY.schema)).unwrap()
        };
        self.with_carried.borrow_mut().entry(key).or_insert_with(add).clone()
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
            let uid = Kind::Port.uid(format!("{}:{}", self.scope.node().unwrap(), port.number));
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
        let resource = Kind::Route.uid(format!("{}:{} {template}", self.scope.node().unwrap(), port.number));
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

/// Atoms of conditions, those that read the same together: each of these groups is as likely as any other, so that what one
/// reads is as often tried as what many read.
type Groups = &'static [&'static [&'static str]];

const ANYWHERE: Groups = &[
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
        "Port::\"orders:1\".number == 1",
        "Port::\"orders:6379\" in Service::\"cache\"",
        "Node::\"orders\" in Mesh::\"shop\"",
    ],
    &["action in Action::\"read\"", "[Action::\"GET\", Action::\"call\"].contains(action)"],
];

const OF_REQUESTS: Groups = &[
    &[
        "context.path like \"/orders/*\"",
        "context.path == \"/health\"",
        "context.path like \"*/2\"",
        "(if context.path like \"*1\" then resource else resource) in Port::\"orders:8080\"",
    ],
    &["context.method == \"GET\"", "[\"GET\", \"LOCK\"].contains(context.method)"],
    &["context.host == \"orders.shop\"", "context.host like \"*.shop\""],
    &[
        "context.headers.hasTag(\"x-tenant\")",
        "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")",
        "context.headers.hasTag(\"x-team\") && context.headers.getTag(\"x-team\") == [\"a\"]",
    ],
    &["resource.template == \"/orders/{id}\"", "resource.port * 9223372036854775807 < 0"],
    &[
        "context has user",
        "context has user && context.user == User::\"login/alice\"",
        "context has user && context.user in UserGroup::\"login/support\"",
        "context has user && context.user.scopes.contains(\"read\") && context.user.roles.isEmpty()",
    ],
    &["context.claims.hasTag(\"team\") && context.claims.getTag(\"team\").contains(\"blue\")"],
    &[
        "context.actors.contains(Node::\"web\")",
        "context.actors == [Node::\"web\"]",
        "context.actors.isEmpty()",
    ],
];

const OF_HTTP: Groups = &[
    &[
        "context.query.hasTag(\"id\")",
        "context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"a b\")",
        "context.query.hasTag(\"id\") && context.query.getTag(\"id\").containsAll([\"1\", \"2\"])",
        "context.query.hasTag(context.host)",
        "context has query && context has params",
    ],
    &["context.params.hasTag(\"id\") && context.params.getTag(\"id\") == \"1\""],
    &["context.params.hasTag(\"id\") && context.query.hasTag(\"id\") && \
       context.query.getTag(\"id\").contains(context.params.getTag(\"id\"))"],
];

const OF_CALLS: Groups =
    &[&["context.rpc == \"Get\"", "context has rpc"], &["context.service like \"shop.*\""]];

const OF_STREAMS: Groups = &[&["resource.number == 6379", "resource.number * 9223372036854775807 < 0"]];

/// How many atoms the conditions of one world are made of. Few, so that what one policy reads is not hidden behind all that
/// others read, and so that they meet the same facts.
const THEME: usize = 3;

/// Conditions of one or more atoms, joined in all ways. An atom is a place in the world's theme.
#[derive(Debug, Clone)]
enum Condition {
    Atom(usize),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    If(Box<Condition>, Box<Condition>, Box<Condition>),
}

impl Condition {
    /// As text, the atoms taken from these lists.
    fn text(&self, theme: &[usize], of: &[Groups]) -> String {
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

fn some_condition() -> impl Strategy<Value = Condition> {
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

/// A policy before its world has a theme.
#[derive(Debug, Clone)]
struct Draft {
    mode: Mode,
    effect: &'static str,
    principal: &'static str,
    action: &'static str,
    atoms: &'static [Groups],
    resource: &'static str,
    /// `when`, `unless`, or nothing.
    when: &'static str,
    condition: Condition,
}

impl Draft {
    /// The policy, unless it could never apply, which the parser refuses.
    fn document(&self, index: usize, theme: &[usize]) -> Option<PolicyDocument> {
        let Self { mode, effect, principal, action, atoms, resource, when, condition } = self;
        let condition = match *when {
            "" => String::new(),
            when => format!("{when} {{ {} }}", condition.text(theme, atoms)),
        };
        let text = format!("{effect}({principal}, {action}, {resource}) {condition};");
        PolicyDocument::parse(name("shop"), &domain(), name(&format!("p{index}")), *mode, &text).ok()
    }
}

fn some_policy() -> impl Strategy<Value = Draft> {
    let effect = select(vec!["permit", "permit", "forbid"]);
    // Most are in play for most questions: what happens between several is what is hard.
    let principal = prop_oneof![
        4 => Just("principal is Node"),
        2 => Just("principal == Node::\"web\""),
        2 => Just("principal in Role::\"clerks\""),
        3 => select(vec![
            "principal == Node::\"orders\"",
            "principal in Role::\"nobody\"",
            "principal in Mesh::\"shop\"",
            "principal is Node in TrustDomain::\"shop.example\"",
            "principal is Workload",
            "principal == Workload::\"ci\"",
            "principal is Workload in TrustDomain::\"partner.example\"",
            "principal is Anonymous",
        ]),
    ];
    let http = prop_oneof![
        4 => Just("action in Action::\"http\""),
        3 => select(vec![
            "action in Action::\"read\"",
            "action in [Action::\"POST\", Action::\"GET\"]",
            "action == Action::\"GET\"",
            "action == Action::\"POST\"",
            "action == Action::\"other\"",
            "action == Action::\"upgrade\"",
        ]),
    ];
    let requests =
        select(vec!["action in [Action::\"read\", Action::\"write\"]", "action in Action::\"write\""]);
    const OF_HTTP_ACTIONS: &[Groups] = &[ANYWHERE, OF_REQUESTS, OF_HTTP];
    const OF_ALL_REQUESTS: &[Groups] = &[ANYWHERE, OF_REQUESTS];
    const OF_RPCS: &[Groups] = &[ANYWHERE, OF_REQUESTS, OF_CALLS];
    const OF_CONNECTIONS: &[Groups] = &[ANYWHERE, OF_STREAMS];
    const OF_ANYTHING: &[Groups] = &[ANYWHERE];
    let acts = prop_oneof![
        6 => (http, Just(OF_HTTP_ACTIONS)),
        2 => (requests, Just(OF_ALL_REQUESTS)),
        2 => (Just("action == Action::\"call\""), Just(OF_RPCS)),
        2 => (Just("action == Action::\"connect\""), Just(OF_CONNECTIONS)),
        2 => (Just("action"), Just(OF_ANYTHING)),
    ];
    let resource = prop_oneof![
        4 => Just("resource"),
        3 => Just("resource in Service::\"orders\""),
        3 => select(vec![
            "resource in Service::\"orders-admin\"",
            "resource in Service::\"cache\"",
            "resource in Service::\"payments\"",
            "resource in Node::\"orders\"",
            "resource in Mesh::\"shop\"",
            "resource in Port::\"orders:8080\"",
            "resource == Route::\"orders:8080 /orders/{id}\"",
            "resource == Route::\"orders:8080 *undeclared\"",
            "resource == Port::\"orders:6379\"",
        ]),
    ];
    let when = select(vec!["", "when", "when", "when", "when", "unless"]);
    let mode = prop_oneof![3 => Just(Mode::Enforce), 2 => Just(Mode::Audit)];
    (mode, effect, principal, acts, resource, when, some_condition()).prop_map(
        |(mode, effect, principal, (action, atoms), resource, when, condition)| Draft {
            mode,
            effect,
            principal,
            action,
            atoms,
            resource,
            when,
            condition,
        },
    )
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
        prop_oneof![3 => Just(8080_u16), 1 => select(vec![9000, 8081])],
        select(vec!["GET", "HEAD", "POST", "DELETE", "LOCK", "get"]),
        prop_oneof![
            1 => select(vec!["/orders/1", "/orders/2"]),
            1 => select(vec!["/orders/1/2", "/orders", "/health", "/"]),
        ],
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
        peer("web"),
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

/// A question like `base` in all but one thing, which it has of `other`.
fn neighbour(base: &Asked, thing: usize, other: Asked) -> Asked {
    let mut asked = base.clone();
    match thing {
        0 => asked.caller = other.caller,
        1 => asked.address = other.address,
        2 => asked.group = other.group,
        3 => asked.time = other.time,
        4 => asked.age = other.age,
        _ => {
            let mut of_other = other.what;
            match (&mut asked.what, &mut of_other) {
                (
                    What::Request { port, method, path, upgrade, host, query, headers, user },
                    What::Request {
                        port: to_port,
                        method: to_method,
                        path: to_path,
                        upgrade: to_upgrade,
                        host: to_host,
                        query: to_query,
                        headers: to_headers,
                        user: to_user,
                    },
                ) if (*port == 50051) == (*to_port == 50051) => match thing {
                    5 => std::mem::swap(port, to_port),
                    6 => std::mem::swap(method, to_method),
                    7 => std::mem::swap(path, to_path),
                    8 => std::mem::swap(upgrade, to_upgrade),
                    9 => std::mem::swap(host, to_host),
                    10 => std::mem::swap(query, to_query),
                    11 => std::mem::swap(user, to_user),
                    _ => std::mem::swap(headers, to_headers),
                },
                _ => asked.what = of_other,
            }
            if let What::Request { query: None, headers, .. } = &mut asked.what {
                // One thing that cannot be read at a time, so that there is one right reason.
                headers.retain(|(_, value)| value.is_some());
            }
        }
    }
    asked
}

/// Policies about few facts, and questions that differ in little, so that what is remembered of one meets another for which it
/// would be wrong.
#[derive(Clone)]
struct World {
    theme: [usize; THEME],
    policies: Vec<Draft>,
    is_open: bool,
    base: Asked,
    /// What each question has of another one.
    others: Vec<(usize, Asked)>,
}

impl std::fmt::Debug for World {
    /// The policies as text: what a person needs of a failure.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policies: Vec<_> =
            self.documents().iter().map(|document| (document.mode(), document.text().to_owned())).collect();
        f.debug_struct("World")
            .field("policies", &policies)
            .field("is_open", &self.is_open)
            .field("questions", &self.questions())
            .finish()
    }
}

impl World {
    fn documents(&self) -> Vec<PolicyDocument> {
        let drafts = self.policies.iter().enumerate();
        drafts.filter_map(|(index, draft)| draft.document(index, &self.theme)).collect()
    }

    fn questions(&self) -> Vec<Asked> {
        let asked = self.others.iter().cloned().map(|(thing, other)| neighbour(&self.base, thing, other));
        [self.base.clone()].into_iter().chain(asked).collect()
    }
}

fn some_world() -> impl Strategy<Value = World> {
    let atom = || any::<u16>().prop_map(usize::from);
    let theme = prop_oneof![
        1 => atom().prop_map(|atom| [atom; THEME]),
        1 => (atom(), atom()).prop_map(|(one, other)| [one, other, other]),
        1 => prop::array::uniform3(atom()),
    ];
    let policies = prop::collection::vec(some_policy(), 0..8);
    let others = prop::collection::vec((0..13_usize, some_question()), 0..127);
    (theme, policies, any::<bool>(), some_question(), others)
        .prop_map(|(theme, policies, is_open, base, others)| World { theme, policies, is_open, base, others })
}

fn cases() -> u32 {
    std::env::var("HAUBERK_DIFFERENTIAL_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(400)
}

/// Asks all questions of one set of policies; each again once all have been asked, so that it is remembered. Gives how many
/// answers were compared.
fn compare(world: &World) -> Result<usize, TestCaseError> {
    let (documents, questions) = (world.documents(), world.questions());
    let mut scope = orders();
    if world.is_open {
        scope.ports.iter_mut().for_each(|port| port.authorization = Authorization::Audit);
    }
    let slice = PolicyIndex::new(&name("shop"), &documents).slice(&scope, &roles());
    let engine = Engine::compile(scope.clone(), &slice, None).unwrap();
    let oracle = Oracle::new(&scope, &documents);
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
            if !is_first || index % 16 != 0 {
                continue;
            }
            foreseen::agrees(&engine, asked, port, attempt, index)?;
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
    Ok(2 * questions.len())
}

#[test]
fn decides_as_plain_cedar_does() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
    let cases = cases().div_ceil(u32::try_from(threads).unwrap());
    let compared = AtomicUsize::new(0);
    let run = || {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
        let outcome = TestRunner::new(config).run(&some_world(), |world| {
            compared.fetch_add(compare(&world)?, Ordering::Relaxed);
            Ok(())
        });
        outcome.err().map(|failure| failure.to_string())
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{} decisions compared", compared.into_inner());
}
