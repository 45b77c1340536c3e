//! What would be decided of questions that say only a part of what policies may read: always, never, or where what
//! holds.
//!
//! The policies in play, and all that is evaluated, are those of [`Engine::decide`]; what is not known is left standing
//! as a condition instead of being assumed.

mod known;
mod places;
mod residual;
mod summary;

use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::Entities;
use hauberk_identity::UnixMillis;
use serde_json::Value;

use crate::cell::{Case, Part};
use crate::circumstances::{Gathered, HeaderLines, Moment, Peer, Tls};
use crate::compile::Engine;
use crate::compiled::Compiled;
use crate::context::{Circumstances, Query, sorted_query};
use crate::decide::with_caller;
use crate::decision::{Caller, Effect, Reason};
use crate::explain::{conditions, text_of_expression};
use crate::facts::Principal;
use crate::path::{CanonicalPath, ESCAPED_SLASH, EscapedSlashes};
use crate::path_set::{Glob, Relation, Step};
use crate::pattern::PathPattern;
use crate::reads::{Fact, FactSet, Reads};
use crate::scope::Authorization;
use crate::user::OnBehalfOf;
use crate::vocabulary::{Action, ActionSet};
use places::Place;
use residual::Residual;
use summary::View;

/// Who would ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The caller.
    pub caller: Caller,
    /// It stands for others of its trust domain and mesh, whom no policy and no role names: of its id no more is known.
    pub is_representative: bool,
}

/// What would be asked for, at one port.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The HTTP method, or `upgrade`; none: each.
    pub method: Option<&'a str>,
    /// Of a request, the paths.
    pub paths: Paths<'a>,
}

/// The paths that are asked about.
#[derive(Debug, Clone, Copy)]
pub enum Paths<'a> {
    /// All of them.
    All,
    /// This one. Its query is known where there is one, be it empty.
    Exactly(&'a CanonicalPath<'a>),
    /// Those that match.
    Matching(&'a PathPattern),
}

/// What is known of the circumstances. Whatever is none is not known.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Where the caller connects from.
    pub address: Option<IpAddr>,
    /// What its handshake negotiated.
    pub tls: Option<Tls>,
    /// When it is.
    pub time: Option<UnixMillis>,
    /// How old the certificate is that the caller proved last.
    pub certificate_age: Option<Duration>,
    /// The host that the request names.
    pub host: Option<String>,
    /// Header fields, with names in lower case. Of others nothing is known.
    pub headers: Vec<HeaderLines>,
    /// For whom it is made.
    pub made_for: Option<OnBehalfOf>,
    /// Claims that the user's token has, or may have, and of which nothing is known.
    pub untold_claims: Vec<Box<str>>,
}

/// Whether something would be let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outlook {
    /// Whatever else holds.
    Always,
    /// On a part of the paths that were asked about, and there whatever else holds.
    Part,
    /// Depending on what was not told.
    Conditional,
    /// Whatever else holds, it is denied.
    Never,
}

/// What would be decided on one action and route, or port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prospect {
    /// What is done.
    pub action: Action,
    /// The method, where the action does not say it.
    pub method: Option<String>,
    /// The route or port, as policies write it.
    pub resource: Arc<str>,
    /// Whether it is let through.
    pub outlook: Outlook,
    /// Why it is let through where it is, or, of [`Outlook::Never`], why it is denied.
    pub reason: Reason,
    /// The statements that determine it where nothing is open.
    pub policies: Vec<Arc<str>>,
    /// Where something is open: it is let through where one of these permits, unless the reason says that it is by
    /// default, …
    pub permits: Vec<Clause>,
    /// … and none of these forbids, …
    pub forbids: Vec<Clause>,
    /// … and none of these happens.
    pub denied_where: Vec<String>,
}

/// A statement that applies under conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Its name.
    pub policy: Arc<str>,
    /// What is left of its conditions, as Cedar text. All must hold; none: it applies.
    pub conditions: Vec<String>,
    /// What they read.
    pub reads: FactSet,
    /// What holds of the labels, roles and data classes that they ask for.
    pub held: Vec<String>,
    /// The same for programs, with full names.
    #[cfg(test)]
    pub(crate) trees: Vec<Value>,
}

/// One question, or many, prepared for any number of callers.
#[derive(Debug)]
pub struct Survey<'a> {
    engine: &'a Engine,
    asked: Asked<'a>,
    /// The one path that a pattern matches, where it is one.
    only: Option<CanonicalPath<'a>>,
    given: &'a Given,
    gathered: Gathered,
    peer: Peer,
    moment: Moment,
    places: Vec<Place<'a>>,
    /// The conditions of statements, by name.
    statements: RefCell<HashMap<Arc<str>, Rc<Vec<Value>>>>,
}

impl Engine {
    /// Prepares a question about one port.
    ///
    /// # Errors
    /// There is no such port.
    pub fn survey<'a>(&'a self, port: u16, asked: Asked<'a>, given: &'a Given) -> Result<Survey<'a>, Reason> {
        let port = self.0.ports.get(&port).ok_or(Reason::NoSuchPort)?;
        // Of what is not known nothing is read, so that it does not matter what stands there.
        let time = given.time.unwrap_or(UnixMillis::from_secs(1 << 32));
        let moment = Moment { time, certificate_since: given.certificate_age.map(|age| time.minus(age)) };
        Ok(Survey {
            engine: self,
            asked,
            only: known::only_path(asked.paths),
            given,
            gathered: Gathered::recorded(given.host.clone(), given.headers.clone())
                .made_for(given.made_for.clone().unwrap_or(OnBehalfOf::Nobody)),
            peer: Peer::new(given.address, given.tls.clone()),
            moment,
            places: places::places(port, asked),
            statements: RefCell::default(),
        })
    }
}

impl Survey<'_> {
    /// How many prospects there are for each caller.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is nothing that could be asked.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What would be decided if this caller asked: for each action and route, or port.
    pub fn of(&self, asker: &Asker) -> Vec<Prospect> {
        let inner = &*self.engine.0;
        let principal = inner.principal(&asker.caller);
        let in_world = |sort| principal.as_ref().and_then(|principal| with_caller(inner, principal, sort));
        let reading = LazyCell::new(|| in_world(ActionSet::READING_CALL));
        let writing = LazyCell::new(|| in_world(ActionSet::default()));
        let prospect = |place: &Place<'_>| {
            let entities = if self.reads(place) { &*reading } else { &*writing };
            match (&principal, entities) {
                (Some(principal), Some(entities)) => self.prospect(asker, principal, entities, place),
                (Some(_), None) => self.never(place, Reason::EvaluationError, Vec::new()),
                (None, _) => self.never(place, Reason::NotAPrincipal, Vec::new()),
            }
        };
        self.places.iter().map(prospect).collect()
    }

    /// Whether it is a gRPC method that reads.
    fn reads(&self, place: &Place<'_>) -> bool {
        let governed = self.engine.0.resources.get(place.resource);
        governed.is_some_and(|governed| governed.resource.actions.intersects(ActionSet::READING_CALL))
    }

    fn prospect(
        &self,
        asker: &Asker,
        principal: &Principal,
        entities: &Entities,
        place: &Place<'_>,
    ) -> Prospect {
        if place.is_refused {
            return self.never(place, Reason::UndeclaredRoute, Vec::new());
        }
        let inner = &*self.engine.0;
        let unevaluated = || self.never(place, Reason::EvaluationError, Vec::new());
        let Some(governed) = inner.resources.get(place.resource) else { return unevaluated() };
        let is_stream = place.action == Action::Connect;
        let made_for = if is_stream { Some(&OnBehalfOf::Nobody) } else { self.given.made_for.as_ref() };
        if let Some(reason) = made_for.and_then(|made_for| place.port.refuses(&governed.resource, made_for)) {
            return self.never(place, reason, Vec::new());
        }
        let is_anonymous = asker.caller == Caller::Anonymous;
        let certificate_since = self.moment.certificate_since.filter(|_| !is_anonymous);
        let about = Circumstances {
            caller: &asker.caller,
            is_foreign: principal.is_foreign,
            peer: &self.peer,
            moment: Moment { certificate_since, ..self.moment },
            action: place.action,
            attempt: self.attempt(place),
            template: place.template,
            query: Query::default(),
        };
        let case = Case { inner, principal, port: place.port, governed, about, given: &[] };
        let Some(in_play) = case.in_play() else { return unevaluated() };
        let known = self.known(asker, place);
        let about = &case.about;
        let carried =
            about.entities(known).and_then(|carried| entities.clone().add_entities(carried, None).ok());
        let Some(entities) = carried else { return unevaluated() };
        // Of one who stands for others some is known.
        let supplied = known.and(FactSet::of(&[Fact::Identity]));
        let request = about.request(principal.uid.clone(), governed.resource.uid.clone(), supplied);
        let Some(request) = request else { return unevaluated() };
        let (authorizer, gathered) = (&inner.authorizer, &self.gathered);
        let (is_rpc, is_alias) = (place.action == Action::Call, asker.is_representative);
        let sight = Residual {
            authorizer,
            request,
            entities,
            known,
            is_alias,
            gathered,
            untold_claims: &self.given.untold_claims,
            paths: &place.paths,
            is_rpc,
        };
        let bounded = self.view(&in_play.boundary, &sight, place);
        let mut enforced = self.view(&in_play.enforce, &sight, place);
        if made_for.is_none() {
            let of_nobody = governed.resource.requires_user.then_some("it is made for no user");
            let of_others = "it is made for a user of an issuer that the port does not take";
            let of_others = (place.port.takes_some_users()).then_some(of_others);
            enforced.denied_where.extend(of_nobody.into_iter().chain(of_others).map(str::to_owned));
        }
        if self.may_have_two_readings(place) {
            let of_both =
                "its path holds an escaped slash, and is not let through with slashes in their place";
            enforced.denied_where.push(of_both.to_owned());
        }
        let by_default = place.port.authorization == Authorization::Audit && !principal.is_foreign;
        self.sum_up(place, bounded, enforced, by_default)
    }

    /// Whether a path may be meant that has another reading, of which nothing is said here. One that is asked about
    /// exactly is its own reading alone.
    fn may_have_two_readings(&self, place: &Place<'_>) -> bool {
        let holds_escaped_slash = || {
            let glob =
                [Step::Any].into_iter().chain(ESCAPED_SLASH.chars().map(Step::Char)).chain([Step::Any]);
            matches!(place.paths.relation(&Glob::new(glob.collect())), Relation::Whole | Relation::Part)
        };
        place.port.escaped_slashes == EscapedSlashes::Keep
            && place.action != Action::Connect
            && !matches!(self.asked.paths, Paths::Exactly(_))
            && holds_escaped_slash()
    }

    /// What one part of the policies says, as far as it can be told.
    fn view(&self, part: &Part, sight: &Residual<'_>, place: &Place<'_>) -> View {
        let mut view = View::default();
        for compiled in &part.members {
            self.look_for_lacks(compiled, place, &mut view);
            let statement = sight.of_statement(&self.conditions(compiled));
            if statement.fails {
                view.lack(Reason::EvaluationError, &compiled.name);
            }
            if statement.may_fail {
                view.denied_where.push(format!("policy {} cannot be evaluated", compiled.name));
            }
            let Some(open) = statement.open else { continue };
            let effect = if compiled.permits { Effect::Allow } else { Effect::Deny };
            let names = self.engine.0.scope.names();
            let readable = |tree: &Value| text_of_expression(&residual::with_short_names(tree, &names));
            let asked = open.iter().map(Reads::of);
            let clause = Clause {
                held: asked.flat_map(|reads| sight.held(&reads, &names)).collect(),
                policy: Arc::clone(&compiled.name),
                conditions: open.iter().map(readable).collect(),
                reads: open.iter().fold(FactSet::NONE, |reads, tree| reads.and(Reads::of(tree).facts)),
                #[cfg(test)]
                trees: open,
            };
            match effect {
                Effect::Allow => view.permits.push(clause),
                Effect::Deny => view.forbids.push(clause),
            }
        }
        view
    }

    /// What a statement reads that may be of no single reading, which denies whatever else it says.
    fn look_for_lacks(&self, compiled: &Compiled, place: &Place<'_>, view: &mut View) {
        let facts = compiled.reads.facts;
        let mut open = |text: String| {
            if !view.denied_where.contains(&text) {
                view.denied_where.push(text);
            }
        };
        let mut lacking = None;
        if facts.contains(Fact::Headers) && place.action != Action::Connect {
            for name in &compiled.headers {
                match self.gathered.field(name) {
                    None => open(format!("header field {name} is no text, or is spelled in two ways")),
                    Some(lines) if lines.values.is_none() => lacking = Some(Reason::UnreadableHeader),
                    Some(_) => {}
                }
            }
        }
        if facts.contains(Fact::Query) && place.action != Action::Connect {
            match self.query() {
                None => open("the query can be read in more than one way".to_owned()),
                Some(query) => {
                    let names = &compiled.reads.query;
                    if sorted_query(query).is_none_or(|pairs| names.are_spelled_otherwise(&pairs)) {
                        lacking = Some(Reason::UnreadableQuery);
                    }
                }
            }
        }
        if let Some(reason) = lacking {
            view.lack(reason, &compiled.name);
        }
    }

    fn query(&self) -> Option<&str> {
        self.path()?.query()
    }

    fn conditions(&self, compiled: &Compiled) -> Rc<Vec<Value>> {
        if let Some(known) = self.statements.borrow().get(&compiled.name) {
            return Rc::clone(known);
        }
        let found = Rc::new(compiled.policy().map_or_else(|_| Vec::new(), |policy| conditions(&policy)));
        self.statements.borrow_mut().insert(Arc::clone(&compiled.name), Rc::clone(&found));
        found
    }
}

#[cfg(test)]
mod tests;
