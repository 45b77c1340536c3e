//! The facts of one question as Cedar takes them: exactly those that are read, of those that the schema lists for its
//! action.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::LazyLock;

use cedar_policy::{Context, Entity, EntityUid, Request, RestrictedExpression};

use crate::circumstances::{Gathered, Moment, Peer};
use crate::compiled::Compiled;
use crate::decision::{Attempt, Caller, Reason};
use crate::fields::parse_query;
use crate::path::CanonicalPath;
use crate::reads::{Fact, FactSet};
use crate::route::RouteTemplate;
use crate::user::OnBehalfOf;
use crate::vocabulary::{Action, Kind, VOCABULARY};

/// The types of what a request brings along. Policies get at their one entity through the context alone.
pub(crate) const CARRIED: [&str; 4] = ["Query", "Headers", "Params", "Claims"];

/// All that may be read of one question.
pub(crate) struct Circumstances<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) is_foreign: bool,
    pub(crate) peer: &'a Peer,
    pub(crate) moment: Moment,
    pub(crate) action: Action,
    pub(crate) attempt: Attempt<'a>,
    /// The route that the request belongs to, if it is a declared one.
    pub(crate) template: Option<&'a RouteTemplate>,
    pub(crate) query: Query<'a>,
}

/// The names and values of a request's query, sorted. Parsed once, however many policies read it.
#[derive(Default)]
pub(crate) struct Query<'a>(OnceCell<Option<Vec<Parameter<'a>>>>);

pub(crate) type Parameter<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The entities of [`CARRIED`].
struct Carried {
    query: EntityUid,
    headers: EntityUid,
    params: EntityUid,
    claims: EntityUid,
}

static CARRIED_BY_REQUEST: LazyLock<Option<Carried>> = LazyLock::new(|| {
    let uid = |kind: &str| format!("{kind}::\"request\"").parse().ok();
    Some(Carried {
        query: uid("Query")?,
        headers: uid("Headers")?,
        params: uid("Params")?,
        claims: uid("Claims")?,
    })
});

/// The service and method of a gRPC request's path.
pub(crate) fn rpc_of<'a>(path: &'a CanonicalPath<'_>) -> Option<(&'a str, &'a str)> {
    let (service, method) = path.path().strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

impl<'a> Circumstances<'a> {
    /// Why what is read cannot be known, if so. Whatever depends on it is denied.
    pub(crate) fn lack(&self, compiled: &Compiled) -> Option<Reason> {
        let reads = compiled.reads.facts;
        if reads.contains(Fact::Address) && self.peer.address().is_none() {
            return Some(Reason::FactsMissing);
        }
        let Attempt::Request { path, gathered, .. } = self.attempt else { return None };
        if reads.contains(Fact::Host) && gathered.host().is_none() {
            return Some(Reason::FactsMissing);
        }
        if reads.are_of_users() && *gathered.on_behalf_of() == OnBehalfOf::NotLookedAt {
            return Some(Reason::FactsMissing);
        }
        if reads.contains(Fact::Headers) {
            for name in &compiled.headers {
                match gathered.field(name) {
                    None => return Some(Reason::FactsMissing),
                    Some(lines) if lines.values.is_none() => return Some(Reason::UnreadableHeader),
                    Some(_) => {}
                }
            }
        }
        let is_unreadable = || {
            let pairs = self.query.of(path);
            pairs.is_none_or(|pairs| compiled.reads.query.are_spelled_otherwise(pairs))
        };
        (reads.contains(Fact::Query) && is_unreadable()).then_some(Reason::UnreadableQuery)
    }

    /// The question as Cedar takes it, with those of the facts in `reads` that are known.
    pub(crate) fn request(
        &self,
        principal: EntityUid,
        resource: EntityUid,
        reads: FactSet,
    ) -> Option<Request> {
        let context = Context::from_pairs(self.pairs(reads)?).ok()?;
        Request::new(principal, VOCABULARY.action(self.action), resource, context, None).ok()
    }

    /// The entities that the context of such a request mentions.
    pub(crate) fn entities(&self, reads: FactSet) -> Option<Vec<Entity>> {
        let mut entities = Vec::new();
        let Attempt::Request { path, gathered, .. } = self.attempt else { return Some(entities) };
        let carried = CARRIED_BY_REQUEST.as_ref()?;
        if reads.contains(Fact::Headers) {
            let lines = gathered.headers().iter().filter_map(|lines| {
                let values = lines.values.as_ref().filter(|values| !values.is_empty())?;
                Some((lines.name.to_string(), set(values.iter().map(|value| Cow::Borrowed(&**value)))))
            });
            entities.push(tagged(&carried.headers, lines)?);
        }
        let user = gathered.on_behalf_of().origin().map(|origin| &origin.user);
        if let (true, Some(user)) = (reads.contains(Fact::User), user) {
            entities.push(user.entity()?);
        }
        if reads.contains(Fact::Claims) {
            let claims = user.into_iter().flat_map(|user| &user.claims).map(|(name, values)| {
                (name.to_string(), set(values.iter().map(|value| Cow::Borrowed(&**value))))
            });
            entities.push(tagged(&carried.claims, claims)?);
        }
        if reads.contains(Fact::Query) {
            let pairs = self.query.of(path).unwrap_or_default();
            let tags = pairs.chunk_by(|(one, _), (next, _)| one == next).filter_map(|same| {
                let (name, _) = same.first()?;
                Some((name.to_string(), set(same.iter().map(|(_, value)| Cow::Borrowed(&**value)))))
            });
            entities.push(tagged(&carried.query, tags)?);
        }
        if reads.contains(Fact::Params) {
            let found = self.template.map(|template| template.parameters(path)).unwrap_or_default();
            let tags = found.into_iter().map(|(name, value)| (name.to_owned(), string(value)));
            entities.push(tagged(&carried.params, tags)?);
        }
        Some(entities)
    }

    fn pairs(&self, reads: FactSet) -> Option<Vec<(String, RestrictedExpression)>> {
        let mut pairs = Pairs(Vec::with_capacity(8));
        if reads.contains(Fact::Time) {
            let time = format!("{:.3}", self.moment.time);
            pairs.add("time", RestrictedExpression::new_datetime(time));
        }
        if reads.contains_any(&[Fact::Address, Fact::CertificateAge, Fact::Tls, Fact::Identity]) {
            pairs.add("peer", RestrictedExpression::new_record(self.peer_pairs(reads)).ok()?);
        }
        let Attempt::Request { method, path, gathered, .. } = self.attempt else { return Some(pairs.0) };
        let carried = CARRIED_BY_REQUEST.as_ref()?;
        if reads.contains(Fact::Method) {
            pairs.add("method", string(method));
        }
        if reads.contains(Fact::Path) {
            pairs.add("path", string(path.path()));
        }
        if let (true, Some(host)) = (reads.contains(Fact::Host), gathered.host()) {
            pairs.add("host", string(host));
        }
        if reads.contains(Fact::Headers) {
            pairs.add("headers", RestrictedExpression::new_entity_uid(carried.headers.clone()));
        }
        let origin = gathered.on_behalf_of().origin();
        if let (true, Some(origin)) = (reads.contains(Fact::User), origin) {
            pairs.add("user", RestrictedExpression::new_entity_uid(origin.user.uid()));
        }
        if reads.contains(Fact::Claims) {
            pairs.add("claims", RestrictedExpression::new_entity_uid(carried.claims.clone()));
        }
        if reads.contains(Fact::Actors) {
            let actors = origin.into_iter().flat_map(|origin| &origin.actors);
            let actors = actors.map(|id| RestrictedExpression::new_entity_uid(Kind::Node.uid(id)));
            pairs.add("actors", RestrictedExpression::new_set(actors));
        }
        if self.action == Action::Call
            && let (true, Some((service, rpc))) = (reads.contains(Fact::Path), rpc_of(path))
        {
            pairs.add("service", string(service));
            pairs.add("rpc", string(rpc));
        }
        if reads.contains(Fact::Query) {
            pairs.add("query", RestrictedExpression::new_entity_uid(carried.query.clone()));
        }
        if reads.contains(Fact::Params) {
            pairs.add("params", RestrictedExpression::new_entity_uid(carried.params.clone()));
        }
        Some(pairs.0)
    }

    fn peer_pairs(&self, reads: FactSet) -> Vec<(String, RestrictedExpression)> {
        let mut pairs = Pairs(Vec::with_capacity(7));
        if let (true, Some(address)) = (reads.contains(Fact::Address), self.peer.address()) {
            pairs.add("address", RestrictedExpression::new_ip(address.to_string()));
        }
        if let (true, Some(tls)) = (reads.contains(Fact::Tls), self.peer.tls()) {
            pairs.add("tlsVersion", string(&*tls.version));
            pairs.add("tlsGroup", string(&*tls.group));
        }
        if let (true, Some(age)) = (reads.contains(Fact::CertificateAge), self.moment.certificate_age()) {
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            pairs.add("certificateAge", RestrictedExpression::new_long(age));
        }
        if reads.contains(Fact::Identity) {
            pairs.add("federated", RestrictedExpression::new_bool(self.is_foreign));
            if let Caller::Peer(id) = self.caller {
                pairs.add("spiffeId", string(id.as_str()));
                pairs.add("trustDomain", string(id.trust_domain().as_str()));
            }
        }
        pairs.0
    }
}

impl<'a> Query<'a> {
    /// None where it has no single reading.
    fn of(&self, path: &'a CanonicalPath<'_>) -> Option<&[Parameter<'a>]> {
        self.0.get_or_init(|| sorted_query(path.query().unwrap_or_default())).as_deref()
    }
}

impl Gathered {
    /// The same as seen through what is recorded of it: what `reads` does not hold is left out.
    pub fn of_facts(&self, reads: FactSet) -> Self {
        let host = self.host().filter(|_| reads.contains(Fact::Host)).map(str::to_owned);
        let headers = if reads.contains(Fact::Headers) { self.headers().to_vec() } else { Vec::new() };
        let made_for =
            if reads.are_of_users() { self.on_behalf_of().clone() } else { OnBehalfOf::NotLookedAt };
        Self::recorded(host, headers).made_for(made_for)
    }
}

/// The names and values of a query by their order; none where it has no single reading.
pub(crate) fn sorted_query(query: &str) -> Option<Vec<Parameter<'_>>> {
    let mut pairs = parse_query(query)?;
    pairs.sort();
    Some(pairs)
}

struct Pairs(Vec<(String, RestrictedExpression)>);

impl Pairs {
    fn add(&mut self, name: &str, value: RestrictedExpression) {
        self.0.push((name.to_owned(), value));
    }
}

pub(crate) fn string<'a>(text: impl Into<Cow<'a, str>>) -> RestrictedExpression {
    RestrictedExpression::new_string(text.into().into_owned())
}

pub(crate) fn set<'a>(values: impl Iterator<Item = Cow<'a, str>>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.map(string))
}

fn tagged(uid: &EntityUid, tags: impl Iterator<Item = (String, RestrictedExpression)>) -> Option<Entity> {
    Entity::new_with_tags(uid.clone(), [], [], tags).ok()
}
