//! What plain Cedar says: of all policies, all entities and the whole context, which are written out here once more and
//! owe nothing to the code that is tested.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{LazyLock, OnceLock};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision as CedarDecision, Entities, EntityUid, Policy,
    PolicyId, PolicySet, Request, RestrictedExpression, Schema, SlotId, Template,
};
use serde_json::{Value, json};

use super::nodes::{Listening, NODES, Sort};
use super::questions::{
    ADDRESSES, AGES, Asked, CALLERS, GROUPS, HEADERS, HOSTS, METHODS, PATHS, Pairs, QUERIES, RPCS, Somebody,
    USERS, What, unreadable,
};
use super::world::{Draft, LABELS, ROLES, World};
use crate::decision::{Effect, Reason};
use crate::document::Mode;
use crate::scope::Protocol;
use crate::vocabulary::SCHEMA;

/// What is said of a question, or of half of one.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(super) struct Said {
    pub(super) reason: Reason,
    pub(super) policies: BTreeSet<String>,
    pub(super) audit: Option<(Effect, BTreeSet<String>)>,
    pub(super) action: Option<&'static str>,
    pub(super) resource: Option<String>,
}

/// All statements of a world, as plain Cedar has them.
pub(super) struct Oracle<'a> {
    world: &'a World,
    authorizer: Authorizer,
    parts: [Part; 3],
}

/// Those in one mode.
struct Part {
    mode: Mode,
    statements: Vec<Statement>,
    set: PolicySet,
}

struct Statement {
    name: String,
    text: String,
    /// The same without conditions, as a permit.
    scope: OnceCell<PolicySet>,
    scope_text: String,
}

/// What of one part's policies is said.
struct Answer {
    reason: Reason,
    policies: BTreeSet<String>,
}

/// Where a request belongs.
struct Place {
    action: &'static str,
    route: &'static str,
    params: usize,
}

/// Names as plain Cedar has them.
pub(super) fn full(text: &str) -> String {
    let prefixes = [
        ("Node::\"", "spiffe://shop.example/mesh/shop/node/"),
        ("Port::\"", "spiffe://shop.example/mesh/shop/node/"),
        ("Route::\"", "spiffe://shop.example/mesh/shop/node/"),
        ("Service::\"", "shop/"),
        ("External::\"", "shop/"),
        ("Role::\"", "shop/"),
        ("DataClass::\"", "shop/"),
        ("Workload::\"", "spiffe://shop.example/workload/"),
    ];
    let text = prefixes
        .iter()
        .fold(text.to_owned(), |text, (kind, prefix)| text.replace(kind, &format!("{kind}{prefix}")));
    // Gateways, and what is full already.
    text.replace("/node/gateway/", "/gateway/")
        .replace("spiffe://shop.example/workload/spiffe://", "spiffe://")
}

impl<'a> Oracle<'a> {
    /// What is asked by the policies of a world, those that the parser refuses left out.
    pub(super) fn new(world: &'a World, drafts: &[(String, Mode, &Draft)]) -> Self {
        let part = |mode: Mode| {
            let mut part = Part { mode, statements: Vec::new(), set: PolicySet::new() };
            for (name, _, draft) in drafts.iter().filter(|(_, own, _)| *own == mode) {
                let text = full(&draft.text(&world.theme));
                if draft.is_linked() {
                    let id = PolicyId::new(format!("template of {name}"));
                    let template = full(&draft.template(&world.theme));
                    part.set.add_template(Template::parse(Some(id.clone()), template).unwrap()).unwrap();
                    let filled = draft.fillings().into_iter().map(|(slot, entity)| {
                        let slot = match slot {
                            crate::template::Slot::Principal => SlotId::principal(),
                            crate::template::Slot::Resource => SlotId::resource(),
                        };
                        (slot, full(entity).parse::<EntityUid>().unwrap())
                    });
                    part.set.link(id, PolicyId::new(name), filled.collect()).unwrap();
                } else {
                    part.set.add(Policy::parse(Some(PolicyId::new(name)), &text).unwrap()).unwrap();
                }
                let scope_text = full(&draft.scope());
                part.statements.push(Statement {
                    name: name.clone(),
                    text,
                    scope: OnceCell::new(),
                    scope_text,
                });
            }
            part
        };
        let parts = [Mode::Boundary, Mode::Enforce, Mode::Audit].map(part);
        Self { world, authorizer: Authorizer::new(), parts }
    }

    /// An upgrade is asked about twice, and the worse answer counts.
    pub(super) fn ask(&self, asked: &Asked) -> Said {
        let denied =
            |reason| Said { reason, policies: BTreeSet::new(), audit: None, action: None, resource: None };
        let principal = PRINCIPALS.get(asked.caller);
        let leaves = asked.serving().external().is_some();
        let Some(principal) = principal.filter(|_| !leaves || asked.calls_from_its_mesh()) else {
            return denied(Reason::NotAPrincipal);
        };
        let place = match place(asked) {
            Ok(place) => place,
            Err(reason) => return denied(reason),
        };
        if let What::Request { user: None, .. } = &asked.what
            && asked.serving().port(asked.port).is_some_and(|port| port.sort == Sort::Users)
            && place.route != "/open"
        {
            let (action, resource) = (Some(place.action), Some(resource(asked, place.route)));
            return Said { action, resource, ..denied(Reason::UserMissing) };
        }
        let first = self.ask_half(asked, principal, &place);
        let What::Request { upgrade: true, .. } = asked.what else { return first };
        let second = self.ask_half(asked, principal, &Place { action: "upgrade", ..place });
        worse(first, second)
    }

    fn ask_half(&self, asked: &Asked, principal: &EntityUid, place: &Place) -> Said {
        let uid = resource_uid(asked, place.route);
        let action = ACTIONS.get(place.action).unwrap().clone();
        let request = Request::new(principal.clone(), action, uid, context(asked, place), None).unwrap();
        let [written, read] = known(asked, self.world);
        let reads = asked.serving().port(asked.port).is_some_and(|port| port.sort == Sort::Reads);
        let all = if reads && place.route == READ { read } else { written };
        let [boundary, enforce, audit] = &self.parts;
        let bounded = self.answer(boundary, asked, &request, all);
        let enforced = match bounded.reason {
            Reason::NoPolicyMatched => self.answer(enforce, asked, &request, all),
            Reason::Forbidden => Answer { reason: Reason::ForbiddenByBoundary, ..bounded },
            _ => bounded,
        };
        let audited = self.answer(audit, asked, &request, all);
        let is_open = self.world.is_open
            && asked.serving().external().is_none()
            && !asked.caller.starts_with("spiffe://partner.example/");
        let reason = match enforced.reason {
            Reason::NoPolicyMatched if is_open => Reason::AuditDefaultAllow,
            reason => reason,
        };
        let stops = |reason: Reason| !matches!(reason, Reason::Permitted | Reason::NoPolicyMatched);
        let audit = (audited.reason != Reason::NoPolicyMatched).then(|| {
            let is_stopped = stops(enforced.reason) || stops(audited.reason);
            (if is_stopped { Effect::Deny } else { Effect::Allow }, audited.policies)
        });
        let resource = Some(resource(asked, place.route));
        Said { reason, policies: enforced.policies, audit, action: Some(place.action), resource }
    }

    fn answer(&self, part: &Part, asked: &Asked, request: &Request, all: &Entities) -> Answer {
        // Policies are about their own mesh alone.
        if asked.serving().mesh != "shop" {
            return Answer { reason: Reason::NoPolicyMatched, policies: BTreeSet::new() };
        }
        let cannot_tell: BTreeSet<_> = part
            .statements
            .iter()
            .filter(|statement| reads_unreadable(asked, &statement.text))
            .filter(|statement| {
                let set = statement.scope.get_or_init(|| statement.scope_text.parse().unwrap());
                self.authorizer.is_authorized(request, set, all).decision() == CedarDecision::Allow
            })
            .map(|statement| statement.name.clone())
            .collect();
        if !cannot_tell.is_empty() {
            let What::Request { query, .. } = &asked.what else { unreachable!() };
            let reason = if query.is_none() { Reason::UnreadableQuery } else { Reason::UnreadableHeader };
            let forbids = match part.mode {
                // Each that would have denied is counted.
                Mode::Audit => self.forbids_beside(&cannot_tell, part, request, all),
                _ => BTreeSet::new(),
            };
            return Answer { reason, policies: cannot_tell.into_iter().chain(forbids).collect() };
        }
        let response = self.authorizer.is_authorized(request, &part.set, all);
        let reasons: BTreeSet<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        let errors = response.diagnostics().errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
        });
        let errors: BTreeSet<_> = errors.collect();
        let (reason, policies) = match response.decision() {
            CedarDecision::Deny if !reasons.is_empty() => (Reason::Forbidden, reasons),
            _ if !errors.is_empty() => (Reason::EvaluationError, errors),
            CedarDecision::Allow => (Reason::Permitted, reasons),
            CedarDecision::Deny => (Reason::NoPolicyMatched, reasons),
        };
        Answer { reason, policies }
    }
}

impl Oracle<'_> {
    /// The forbids that hold among those of which it can be told.
    fn forbids_beside(
        &self,
        cannot_tell: &BTreeSet<String>,
        part: &Part,
        request: &Request,
        all: &Entities,
    ) -> BTreeSet<String> {
        let mut known = part.set.clone();
        for name in cannot_tell {
            if known.remove_static(PolicyId::new(name)).is_err() {
                known.unlink(PolicyId::new(name)).unwrap();
            }
        }
        let response = self.authorizer.is_authorized(request, &known, all);
        match response.decision() {
            CedarDecision::Deny => response.diagnostics().reason().map(ToString::to_string).collect(),
            CedarDecision::Allow => BTreeSet::new(),
        }
    }
}

fn worse(first: Said, second: Said) -> Said {
    let rank = |said: &Said| match said.reason {
        Reason::Permitted => 0,
        Reason::AuditDefaultAllow => 1,
        Reason::NoPolicyMatched => 2,
        Reason::EvaluationError | Reason::UnreadableHeader | Reason::UnreadableQuery => 3,
        Reason::Forbidden => 4,
        Reason::ForbiddenByBoundary => 5,
        other => panic!("{other:?}"),
    };
    let passes =
        |said: &Said| said.audit.as_ref().map_or(rank(said) <= 1, |(effect, _)| *effect == Effect::Allow);
    let audit = (first.audit.is_some() || second.audit.is_some()).then(|| {
        let effect = if passes(&first) && passes(&second) { Effect::Allow } else { Effect::Deny };
        let named = [&first, &second].into_iter().filter_map(|half| half.audit.as_ref());
        (effect, named.flat_map(|(_, policies)| policies.clone()).collect())
    });
    let (ranked, mut worse) = match rank(&first) > rank(&second) {
        true => (rank(&first), Said { audit, ..first.clone() }),
        false => (rank(&second), Said { audit, ..second.clone() }),
    };
    if rank(&first) == rank(&second) {
        worse.policies.extend(first.policies);
    }
    debug_assert_eq!(ranked, rank(&worse));
    worse
}

/// Whether a statement reads what of this question cannot be read.
fn reads_unreadable(asked: &Asked, text: &str) -> bool {
    let What::Request { query, headers, .. } = &asked.what else { return false };
    let mut of_headers =
        unreadable(headers).filter(|name| text.contains(&format!("headers.hasTag(\"{name}\")")));
    let mentions = ["context.query", "context has query", "context == context"];
    let reads_query = || mentions.iter().any(|mention| text.contains(mention));
    query.is_none() && reads_query() || of_headers.next().is_some()
}

/// Which action and route a request is, by hand.
fn place(asked: &Asked) -> Result<Place, Reason> {
    let port = asked.serving().port(asked.port).ok_or(Reason::NoSuchPort)?;
    let (method, path, upgrade) = match (&asked.what, port.protocol) {
        (What::Stream, Protocol::Tcp) => return Ok(Place { action: "connect", route: "", params: 0 }),
        (What::Stream, _) | (_, Protocol::Tcp) => return Err(Reason::WrongProtocol),
        (What::Request { method, path, upgrade, .. }, _) => (*method, *path, *upgrade),
    };
    if port.protocol == Protocol::Grpc {
        let is_rpc = path.matches('/').count() == 2 && !path.ends_with('/');
        if method != "POST" || upgrade || !is_rpc {
            return Err(Reason::WrongProtocol);
        }
        let route = if path == "/shop.Orders/Get" { declared(port, &[READ])? } else { "*undeclared" };
        return Ok(Place { action: "call", route, params: 0 });
    }
    let action = match method {
        "LOCK" | "PROPFIND" | "PROPPATCH" | "get" => "other",
        named => named,
    };
    // The narrowest first.
    let may_be: &[&str] = match path {
        "/orders/1" | "/orders/2" | "/orders/a%20b" if method == "POST" => {
            &["POST /orders/{id}", "/orders/{id}", "/orders/*"]
        }
        "/orders/1" | "/orders/2" | "/orders/a%20b" => &["/orders/{id}", "/orders/*"],
        "/orders/1/items/2" => &["/orders/{id}/items/{item}", "/orders/*"],
        "/orders/1/2" => &["/orders/*"],
        "/files/a/b" | "/files/" => &["/files/{rest...}"],
        "/health" => &["/health"],
        "/open" => &["/open"],
        _ => &[],
    };
    let route = declared(port, may_be)?;
    let of_path = PARAMS.iter().position(|(own, _)| *own == path).unwrap_or(0);
    Ok(Place { action, route, params: if route.contains('{') { of_path } else { 0 } })
}

/// The first of these that the port declares.
fn declared(port: &Listening, may_be: &[&'static str]) -> Result<&'static str, Reason> {
    let found = may_be.iter().find(|route| port.routes.iter().any(|(own, _)| own == *route));
    match found {
        Some(route) => Ok(route),
        None if port.sort == Sort::Declared => Err(Reason::UndeclaredRoute),
        None => Ok("*undeclared"),
    }
}

/// Parameters, each set once.
const PARAMS: [(&str, Pairs); 7] = [
    ("", &[]),
    ("/orders/1", &[("id", "1")]),
    ("/orders/2", &[("id", "2")]),
    ("/orders/a%20b", &[("id", "a b")]),
    ("/orders/1/items/2", &[("id", "1"), ("item", "2")]),
    ("/files/a/b", &[("rest", "a/b")]),
    ("/files/", &[("rest", "")]),
];

/// As decisions tell it.
fn resource(asked: &Asked, route: &str) -> String {
    format!("{}:{} {route}", asked.serving().label, asked.port).trim_end().to_owned()
}

fn resource_uid(asked: &Asked, route: &'static str) -> EntityUid {
    static KNOWN: LazyLock<HashMap<(usize, u16, &str), EntityUid>> = LazyLock::new(|| {
        let ports = NODES
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.ports.iter().map(move |port| (index, node, port)));
        let all = ports.flat_map(|(index, node, port)| {
            let routes = port.routes.iter().map(|(route, _)| *route).chain(["*undeclared"]);
            let of_port = format!("{}:{}", node.id, port.number);
            let itself = ((index, port.number, ""), uid("Port", &of_port));
            let routes = routes
                .map(move |route| ((index, port.number, route), uid("Route", &format!("{of_port} {route}"))));
            routes.chain([itself])
        });
        all.collect()
    });
    KNOWN[&(asked.node, asked.port, route)].clone()
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_json(json!({"type": kind, "id": id})).unwrap()
}

static ACTIONS: LazyLock<HashMap<&str, EntityUid>> = LazyLock::new(|| {
    let named =
        ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "upgrade", "other", "call", "connect"];
    named.map(|action| (action, uid("Action", action))).into()
});

/// Whoever ever calls, as principals.
static PRINCIPALS: LazyLock<HashMap<&str, EntityUid>> =
    LazyLock::new(|| CALLERS.iter().filter_map(|id| Some((*id, principal_of(id)?))).collect());

fn principal_of(id: &str) -> Option<EntityUid> {
    match id {
        "" => Some(uid("Anonymous", "anonymous")),
        id if id.contains("/admin/") => None,
        id if id.starts_with("spiffe://shop.example/mesh/") => Some(uid("Node", id)),
        id => Some(uid("Workload", id)),
    }
}

/// The method that reads.
pub(super) const READ: &str = "shop.Orders/Get";

/// All that there is of the meshes in one version of the labels and the roles, and of nobody or one of the users: where
/// a method writes, and where it reads. What a request brings along is there in all versions, since nothing but the
/// context leads to one.
fn known(asked: &Asked, world: &World) -> &'static [Entities; 2] {
    const VERSIONS: usize = LABELS.len() * ROLES.len() * (USERS.len() + 1);
    static ENTITIES: [OnceLock<[Entities; 2]>; VERSIONS] = [const { OnceLock::new() }; VERSIONS];
    let user = user_of(asked).map_or(0, |user| user + 1);
    let version = world.labels * ROLES.len() + world.roles;
    ENTITIES[version * (USERS.len() + 1) + user].get_or_init(|| {
        let user = user.checked_sub(1).map(|user| &USERS[user]);
        entities(world.labels, world.roles, user)
    })
}

fn entities(labels: usize, roles: usize, user: Option<&Somebody>) -> [Entities; 2] {
    let one = |kind: &str, id: &str, parents: &[(&str, &str)], attrs: Value, tags: Value| {
        let parents: Vec<_> = parents.iter().map(|(kind, id)| json!({"type": kind, "id": id})).collect();
        json!({"uid": {"type": kind, "id": id}, "attrs": attrs, "parents": parents, "tags": tags})
    };
    let plain = |kind: &str, id: &str, parents: &[(&str, &str)]| one(kind, id, parents, json!({}), json!({}));
    let within = |id: &str| -> Vec<(&str, &str)> {
        let of = ROLES[roles].iter().filter(|(_, members)| members.contains(&id));
        of.map(|(role, _)| ("Role", if *role == "clerks" { "shop/clerks" } else { "shop/nobody" })).collect()
    };
    let mut all = Vec::new();
    let nodes = NODES.iter().filter(|node| node.external().is_none()).map(|node| node.id);
    let others = nodes.filter(|id| !CALLERS.contains(id));
    for id in CALLERS.into_iter().chain(others) {
        let domain = id.split('/').nth(2).unwrap_or_default();
        let mut parents = within(id);
        match principal_of(id).map(|uid| uid.type_name().to_string()).as_deref() {
            Some("Node") => {
                let mesh = if id.contains("/bank/") { "bank" } else { "shop" };
                parents.extend([("Mesh", mesh), ("TrustDomain", domain)]);
                let labels = LABELS[labels].iter().filter_map(|(name, values)| {
                    let (_, value) = values.iter().find(|(node, _)| *node == id)?;
                    Some(((*name).to_owned(), json!(value)))
                });
                all.push(one("Node", id, &parents, json!({}), Value::Object(labels.collect())));
            }
            Some("Workload") => {
                parents.push(("TrustDomain", domain));
                all.push(plain("Workload", id, &parents));
            }
            Some(_) => all.push(plain("Anonymous", "anonymous", &[])),
            None => {}
        }
    }
    for serving in &NODES {
        let of_mesh = |own: &str| format!("{}/{own}", serving.mesh);
        let external = serving.external().map(of_mesh);
        let owner = external.as_ref().map_or(("Node", serving.id), |external| ("External", &**external));
        if let (kind @ "External", id) = owner {
            all.push(plain(kind, id, &[("Mesh", serving.mesh)]));
        }
        for Listening { number, protocol, services, routes, .. } in serving.ports {
            let port = format!("{}:{number}", serving.id);
            let services: Vec<_> = services.iter().map(|service| of_mesh(service)).collect();
            let services = services.iter().map(|service| ("Service", &**service));
            let parents: Vec<_> = services.chain([owner]).collect();
            let protocol = match protocol {
                Protocol::Http => "http",
                Protocol::Http2 => "http2",
                Protocol::Grpc => "grpc",
                Protocol::Tcp => "tcp",
            };
            all.push(one(
                "Port",
                &port,
                &parents,
                json!({"number": number, "protocol": protocol}),
                json!({}),
            ));
            for (template, classes) in routes.iter().copied().chain([("*undeclared", &[][..])]) {
                let classes: Vec<_> = classes.iter().map(|class| of_mesh(class)).collect();
                let classes = classes.iter().map(|class| ("DataClass", &**class));
                let parents: Vec<_> = classes.chain([("Port", &*port)]).collect();
                let attributes = json!({"template": template, "port": number});
                all.push(one("Route", &format!("{port} {template}"), &parents, attributes, json!({})));
            }
        }
    }
    // One that no node provides is there as well.
    let services = NODES.iter().flat_map(|node| {
        let provided = node.ports.iter().flat_map(|port| port.services.iter().copied());
        provided.chain(["payments"]).map(|service| (node.mesh, format!("{}/{service}", node.mesh)))
    });
    for (mesh, service) in services.collect::<BTreeSet<_>>() {
        all.push(plain("Service", &service, &[("Mesh", mesh)]));
    }
    let gathered = |pairs: &[(&str, &str)]| {
        let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, value) in pairs {
            tags.entry((*name).to_owned()).or_default().insert((*value).to_owned());
        }
        json!(tags)
    };
    for (index, query) in QUERIES.iter().enumerate() {
        all.push(one("Query", &index.to_string(), &[], json!({}), gathered(query.unwrap_or_default())));
    }
    for (index, lines) in HEADERS.iter().enumerate() {
        let lines: Vec<_> = lines.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        all.push(one("Headers", &index.to_string(), &[], json!({}), gathered(&lines)));
    }
    for (index, (_, params)) in PARAMS.iter().enumerate() {
        let tags: BTreeMap<_, _> = params.iter().copied().collect();
        all.push(one("Params", &index.to_string(), &[], json!({}), json!(tags)));
    }
    let mut claims = json!({});
    if let Some(user) = user {
        let groups: Vec<_> = user.groups.iter().map(|group| format!("login/{group}")).collect();
        let groups: Vec<_> = groups.iter().map(|group| ("UserGroup", &**group)).collect();
        let attributes =
            json!({"issuer": "https://login.example", "scopes": user.scopes, "roles": user.roles});
        all.push(one("User", &format!("login/{}", user.id), &groups, attributes, json!({})));
        if !user.team.is_empty() {
            claims["team"] = json!(user.team);
        }
        if let Some(level) = user.level {
            claims["level"] = json!([level.to_string()]);
        }
    }
    all.push(one("Claims", "request", &[], json!({}), claims));
    static SCHEMAS: LazyLock<[Schema; 2]> = LazyLock::new(|| {
        ["write", "read"].map(|group| {
            let line = |group: &str| format!("action \"call\" in [\"{group}\"]");
            assert_eq!(SCHEMA.matches(&line("write")).count(), 1);
            Schema::from_cedarschema_str(&SCHEMA.replace(&line("write"), &line(group))).unwrap().0
        })
    });
    SCHEMAS
        .each_ref()
        .map(|schema| Entities::from_json_value(Value::Array(all.clone()), Some(schema)).unwrap())
}

/// Caller, address, group and age.
type Connected = (&'static str, &'static str, Option<&'static str>, Option<u64>);

/// Expressions that are made once.
struct Expressions {
    peers: HashMap<Connected, RestrictedExpression>,
    times: HashMap<u64, RestrictedExpression>,
    texts: HashMap<&'static str, RestrictedExpression>,
    queries: Vec<RestrictedExpression>,
    headers: Vec<RestrictedExpression>,
    params: Vec<RestrictedExpression>,
    claims: RestrictedExpression,
    /// Of each user, and of nobody at last: who it is, and who passed it on.
    users: Vec<(Option<RestrictedExpression>, RestrictedExpression)>,
}

static EXPRESSIONS: LazyLock<Expressions> = LazyLock::new(|| {
    let entity = RestrictedExpression::new_entity_uid;
    let numbered = |kind: &str, count: usize| -> Vec<_> {
        (0..count).map(|index| entity(uid(kind, &index.to_string()))).collect()
    };
    let passed_on = |actors: &[&str]| {
        let ids = actors.iter().map(|actor| format!("spiffe://shop.example/mesh/shop/node/{actor}"));
        RestrictedExpression::new_set(ids.map(|id| entity(uid("Node", &id))))
    };
    let of_user =
        |user: &Somebody| (Some(entity(uid("User", &format!("login/{}", user.id)))), passed_on(user.actors));
    let mut peers = HashMap::new();
    for caller in CALLERS {
        for (address, group) in ADDRESSES.into_iter().flat_map(|address| GROUPS.map(|group| (address, group)))
        {
            for age in AGES {
                peers.insert((caller, address, group, age), peer(caller, address, group, age));
            }
        }
    }
    let time = |(seconds, text)| (seconds, RestrictedExpression::new_datetime(text));
    let texts = PATHS.iter().chain(&RPCS).chain(&METHODS).chain(&HOSTS);
    Expressions {
        peers,
        times: TIMES.map(time).into(),
        texts: texts.map(|text| (*text, string(text))).collect(),
        queries: numbered("Query", QUERIES.len()),
        headers: numbered("Headers", HEADERS.len()),
        params: numbered("Params", PARAMS.len()),
        claims: entity(uid("Claims", "request")),
        users: USERS.iter().map(of_user).chain([(None, passed_on(&[]))]).collect(),
    }
});

/// The times of questions, as Cedar writes them.
const TIMES: [(u64, &str); 4] = [
    (1_772_445_600, "2026-03-02T10:00:00Z"),
    (1_772_445_599, "2026-03-02T09:59:59Z"),
    (1_772_400_000, "2026-03-01T21:20:00Z"),
    (1_772_531_999, "2026-03-03T09:59:59Z"),
];

fn peer(caller: &str, address: &str, group: Option<&str>, age: Option<u64>) -> RestrictedExpression {
    let is_foreign = !caller.is_empty() && !caller.starts_with("spiffe://shop.example/");
    let mut facts = vec![
        ("federated", RestrictedExpression::new_bool(is_foreign)),
        ("address", RestrictedExpression::new_ip(address)),
    ];
    if !caller.is_empty() {
        let domain = caller.split('/').nth(2).unwrap();
        facts.extend([("spiffeId", string(caller)), ("trustDomain", string(domain))]);
    }
    if let Some(group) = group {
        facts.extend([("tlsVersion", string("TLSv1.3")), ("tlsGroup", string(group))]);
    }
    if let Some(age) = age {
        facts.push(("certificateAge", RestrictedExpression::new_long(age.try_into().unwrap())));
    }
    RestrictedExpression::new_record(facts.into_iter().map(|(name, fact)| (name.to_owned(), fact))).unwrap()
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// The whole context of an action.
fn context(asked: &Asked, place: &Place) -> Context {
    let made = &*EXPRESSIONS;
    let Asked { caller, address, group, age, time, .. } = *asked;
    let mut context = vec![
        ("peer", made.peers[&(caller, address, group, age)].clone()),
        ("time", made.times[&time].clone()),
    ];
    if let What::Request { method, path, host, query, headers, .. } = &asked.what {
        let (user, actors) = &made.users[user_of(asked).unwrap_or(USERS.len())];
        let headers = HEADERS.iter().position(|own| own == headers).unwrap();
        context.extend([
            ("path", made.texts[path].clone()),
            ("method", made.texts[method].clone()),
            ("host", made.texts[host].clone()),
            ("headers", made.headers[headers].clone()),
            ("claims", made.claims.clone()),
            ("actors", actors.clone()),
        ]);
        context.extend(user.clone().map(|user| ("user", user)));
        if place.action == "call" {
            let (service, rpc) = path[1..].split_once('/').unwrap();
            context.extend([("service", string(service)), ("rpc", string(rpc))]);
        }
        let query = QUERIES.iter().position(|own| own == query).unwrap();
        context
            .extend([("query", made.queries[query].clone()), ("params", made.params[place.params].clone())]);
    }
    Context::from_pairs(context.into_iter().map(|(name, value)| (name.to_owned(), value))).unwrap()
}

/// For which of the users a request is made.
fn user_of(asked: &Asked) -> Option<usize> {
    let What::Request { user: Some(user), .. } = &asked.what else { return None };
    USERS.iter().position(|own| std::ptr::eq(own, *user))
}
