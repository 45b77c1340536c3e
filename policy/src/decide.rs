//! Decides: finds what a question is about, asks the policies in play, and remembers.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::Entities;
use hauberk_identity::UnixMillis;

use crate::cell::{Case, Cell, InPlay, Lesson};
use crate::circumstances::{Moment, Peer, Wanted};
use crate::compile::{Engine, Inner, Port};
use crate::context::{Circumstances, rpc_of};
use crate::decision::{Attempt, Caller, Decision, Question, Reason};
use crate::facts::{Principal, anonymous, caller};
use crate::path::{CanonicalPath, EscapedSlashes};
use crate::route::{RouteTemplate, worth_trying};
use crate::scope::{Protocol, Undeclared};
use crate::tally::Counted;
use crate::vocabulary::{Action, ActionSet, VOCABULARY};

/// One caller's view of an [`Engine`], which remembers what was decided.
///
/// Make one per connection, or per caller, peer and thread, and a new one when the engine changes. Its memory is
/// bounded. Whoever shares one among threads asks it by [`recall`](Self::recall), evaluates what it does not know while
/// others ask, and lets it [`learn`](Self::learn) the outcome.
#[derive(Debug, Clone)]
pub struct CallerMemo {
    asking: Arc<Asking>,
    cells: BTreeMap<(usize, Action), Cell>,
}

/// What does not change while one caller asks.
#[derive(Debug)]
struct Asking {
    engine: Engine,
    caller: Caller,
    peer: Peer,
    /// None for identities that never call services.
    principal: Option<Principal>,
}

/// What a memory says of a question.
#[derive(Debug)]
pub enum Recalled<'a> {
    /// The decision, and whether it was counted where it is remembered.
    Known(Decision, Counted),
    /// It must be evaluated.
    Open(Pending<'a>),
}

/// A question that must be evaluated. It holds on to nothing of the memory, which others may use meanwhile.
#[derive(Debug)]
pub struct Pending<'a> {
    asking: Arc<Asking>,
    port: u16,
    attempt: Attempt<'a>,
    moment: Moment,
    mark: Option<u64>,
    found: Found,
    /// The other reading of its path, where there are two.
    other: Option<Box<(CanonicalPath<'a>, Found)>>,
}

/// What is remembered of one reading of a question.
#[derive(Debug)]
enum Found {
    Known(Decision, Counted),
    /// All that it is, with what is known of that.
    Parts(Vec<(Action, Part)>),
}

#[derive(Debug)]
enum Part {
    Known(Decision),
    /// Which policies are in play is known, but not what they say.
    Open(Arc<InPlay>),
    Unknown,
}

/// A decision with what is worth remembering of it.
#[derive(Debug)]
pub struct Learned {
    decision: Decision,
    lessons: Vec<((usize, Action), Lesson)>,
    mark: Option<u64>,
    at: UnixMillis,
}

/// A request's place among the node's resources.
pub(crate) struct Target<'a> {
    pub(crate) action: Action,
    /// It is an [`Action::Upgrade`] besides, and must be let through as both.
    pub(crate) upgrade: bool,
    pub(crate) resource: usize,
    /// The route's template, if it is a declared one.
    pub(crate) template: Option<&'a RouteTemplate>,
}

impl Target<'_> {
    /// All that it is.
    pub(crate) fn actions(&self) -> impl Iterator<Item = Action> {
        [self.action].into_iter().chain(self.upgrade.then_some(Action::Upgrade))
    }
}

impl Engine {
    /// Decides one question and remembers nothing.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        self.caller(question.caller, question.peer).decide(question.port, question.attempt, question.moment)
    }

    /// Prepares for the questions of one caller on connections of one sort.
    pub fn caller(&self, caller: &Caller, peer: &Peer) -> CallerMemo {
        let principal = self.0.principal(caller);
        let asking = Asking { engine: self.clone(), caller: caller.clone(), peer: peer.clone(), principal };
        CallerMemo { asking: Arc::new(asking), cells: BTreeMap::new() }
    }

    /// What becomes of paths with escaped slashes at this port.
    pub fn escaped_slashes(&self, port: u16) -> EscapedSlashes {
        self.0.ports.get(&port).map(|port| port.escaped_slashes).unwrap_or_default()
    }

    /// What policies here can tell of a caller's connection: two that are equal in it may share a memory.
    pub fn peer_as_read(&self, peer: &Peer) -> Peer {
        peer.as_read(self.0.reads)
    }

    /// What of requests to this port its policies read besides method and path; none where they read nothing else.
    pub fn wanted(&self, port: u16) -> Option<&Wanted> {
        self.0.ports.get(&port)?.wanted.as_ref()
    }
}

impl CallerMemo {
    /// The engine that decides.
    pub fn engine(&self) -> &Engine {
        &self.asking.engine
    }

    /// Decides whether the caller may do this at the node's listener on `port`, now. What is already remembered is
    /// answered without allocating.
    pub fn decide(&mut self, port: u16, attempt: Attempt<'_>, moment: Moment) -> Decision {
        self.decide_as(port, attempt, moment, |_| true)
    }

    /// The decision on a part of what the attempt is.
    pub(crate) fn decide_as(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
    ) -> Decision {
        match self.look_up(port, attempt, moment, is_asked, None) {
            Recalled::Known(decision, _) => decision,
            Recalled::Open(pending) => self.learn(pending.decide()).0,
        }
    }

    /// What is remembered of a question. Where its decision is, the question is counted; `mark` stands for the attempt's
    /// method and path, and is not 0.
    pub fn recall<'a>(
        &self,
        port: u16,
        attempt: Attempt<'a>,
        moment: Moment,
        mark: Option<u64>,
    ) -> Recalled<'a> {
        // What is two things at once has two memories, and is counted in neither.
        let mark = mark.filter(|_| !matches!(attempt, Attempt::Request { upgrade: true, .. }));
        self.look_up(port, attempt, moment, |_| true, mark)
    }

    /// Remembers what was evaluated, where it depends on nothing that varies, and counts it there.
    pub fn learn(&mut self, learned: Learned) -> (Decision, Counted) {
        let Learned { decision, lessons, mark, at } = learned;
        let mut counted = Counted::No;
        for (place, lesson) in lessons {
            if let Some(tally) = lesson.enter(self.cells.entry(place))
                && let Some(mark) = mark
            {
                counted = tally.count(mark, at);
            }
        }
        (decision, counted)
    }

    /// A path that servers read in two ways must be let through in both.
    fn look_up<'a>(
        &self,
        port: u16,
        attempt: Attempt<'a>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
        mark: Option<u64>,
    ) -> Recalled<'a> {
        let pending = |mark, found, other| {
            let asking = Arc::clone(&self.asking);
            Recalled::Open(Pending { asking, port, attempt, moment, mark, found, other })
        };
        if let Attempt::Request { method, path, upgrade, gathered } = attempt
            && let Some(path) = path.with_slashes()
        {
            let other = Attempt::Request { method, path: &path, upgrade, gathered };
            let as_slashes = self.find(port, other, moment, &is_asked, None);
            let as_it_stands = self.find(port, attempt, moment, &is_asked, None);
            // What it counts as is how it stands, and is not told by one memory alone.
            return match (as_slashes, as_it_stands) {
                (Found::Known(one, _), Found::Known(other, _)) => {
                    Recalled::Known(one.and(other), Counted::No)
                }
                (as_slashes, as_it_stands) => pending(None, as_it_stands, Some(Box::new((path, as_slashes)))),
            };
        }
        match self.find(port, attempt, moment, &is_asked, mark) {
            Found::Known(decision, counted) => Recalled::Known(decision, counted),
            found => pending(mark, found, None),
        }
    }

    /// What is remembered of one reading.
    fn find(
        &self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: &impl Fn(&Action) -> bool,
        mark: Option<u64>,
    ) -> Found {
        let inner = &*self.asking.engine.0;
        let denied = |reason| Found::Known(Decision::denied(reason), Counted::No);
        if self.asking.principal.is_none() {
            return denied(Reason::NotAPrincipal);
        }
        let (port, target) = match inner.locate(port, attempt) {
            Ok(found) => found,
            Err(reason) => return denied(reason),
        };
        let Some(governed) = inner.resources.get(target.resource) else {
            return denied(Reason::EvaluationError);
        };
        let mut path = None;
        if let Attempt::Request { path: own, gathered, .. } = attempt {
            path = Some(own.path());
            if let Some(reason) = port.refuses(&governed.resource, gathered.on_behalf_of()) {
                let (action, resource) = (Some(target.action), Some(governed.label.clone()));
                let refused = Decision { action, resource, ..Decision::denied(reason) };
                return Found::Known(refused, Counted::No);
            }
        }
        let cell = |action| self.cells.get(&(target.resource, action));
        if !target.upgrade
            && is_asked(&target.action)
            && let Some((decision, tally)) = cell(target.action).and_then(|cell| cell.recall(path))
        {
            let counted = mark.map_or(Counted::No, |mark| tally.count(mark, moment.time));
            return Found::Known(decision.clone(), counted);
        }
        let part = |action| {
            let part = match cell(action) {
                None => Part::Unknown,
                Some(cell) => match (cell.recall(path), cell) {
                    (Some((decision, _)), _) => Part::Known(decision.clone()),
                    (None, Cell::Open(open)) => Part::Open(Arc::clone(&open.in_play)),
                    (None, Cell::Settled(..)) => Part::Unknown,
                },
            };
            (action, part)
        };
        Found::Parts(target.actions().filter(is_asked).map(part).collect())
    }
}

impl Pending<'_> {
    /// Evaluates it.
    pub fn decide(self) -> Learned {
        let Self { asking, port, attempt, moment, mark, found, other } = self;
        let mut lessons = Vec::new();
        let as_slashes = other.map(|other| {
            let (path, found) = *other;
            let read = match attempt {
                Attempt::Request { method, upgrade, gathered, .. } => {
                    Attempt::Request { method, path: &path, upgrade, gathered }
                }
                Attempt::Stream => Attempt::Stream,
            };
            asking.judge(port, read, moment, found, &mut lessons)
        });
        let as_it_stands = asking.judge(port, attempt, moment, found, &mut lessons);
        let decision = match as_slashes {
            Some(as_slashes) => as_slashes.and(as_it_stands),
            None => as_it_stands,
        };
        Learned { decision, lessons, mark, at: moment.time }
    }
}

impl Asking {
    /// Evaluates what is not known of one reading.
    fn judge(
        &self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        found: Found,
        lessons: &mut Vec<((usize, Action), Lesson)>,
    ) -> Decision {
        let parts = match found {
            Found::Known(decision, _) => return decision,
            Found::Parts(parts) => parts,
        };
        let inner = &*self.engine.0;
        let decision = parts.into_iter().map(|(action, part)| {
            let in_play = match part {
                Part::Known(decision) => return decision,
                Part::Open(in_play) => Some(in_play),
                Part::Unknown => None,
            };
            let located = inner.locate(port, attempt).ok();
            let located = located
                .and_then(|(port, target)| Some((port, inner.resources.get(target.resource)?, target)));
            let (Some(principal), Some((port, governed, target))) = (&self.principal, located) else {
                return Decision::denied(Reason::EvaluationError);
            };
            let (caller, peer, is_foreign) = (&self.caller, &self.peer, principal.is_foreign);
            let about = Circumstances {
                caller,
                is_foreign,
                peer,
                moment,
                action,
                attempt,
                template: target.template,
            };
            let lesson = Case { inner, principal, port, governed, about }.evaluate(in_play);
            let decision = lesson.decision().clone();
            lessons.push(((target.resource, action), lesson));
            decision
        });
        let decision = decision.reduce(Decision::and);
        decision.unwrap_or_else(|| Decision::denied(Reason::EvaluationError))
    }
}

impl Inner {
    pub(crate) fn principal(&self, who: &Caller) -> Option<Principal> {
        match who {
            Caller::Peer(id) => caller(id, &self.scope, &self.roles),
            // Nobody unknown calls by an agent of the mesh.
            Caller::Anonymous => self.scope.node().map(|_| anonymous()),
        }
    }

    /// Finds the action that an attempt is, and the resource that it is for.
    pub(crate) fn locate(&self, port: u16, attempt: Attempt<'_>) -> Result<(&Port, Target<'_>), Reason> {
        let port = self.ports.get(&port).ok_or(Reason::NoSuchPort)?;
        let (method, path, action, upgrade) = match (port.protocol, attempt) {
            (Protocol::Tcp, Attempt::Stream) => {
                let (action, resource) = (Action::Connect, port.stream);
                let target = Target { action, upgrade: false, resource, template: None };
                return Ok((port, target));
            }
            (Protocol::Http | Protocol::Http2, Attempt::Request { method, path, upgrade, .. }) => {
                (method, path, Action::of_method(method), upgrade)
            }
            (Protocol::Grpc, Attempt::Request { method: "POST", path, upgrade: false, .. })
                if rpc_of(path).is_some() =>
            {
                ("POST", path, Action::Call, false)
            }
            _ => return Err(Reason::WrongProtocol),
        };
        let declared = worth_trying(&port.routes, path).find(|(template, _)| template.matches(method, path));
        let (resource, template) = match (declared, port.undeclared) {
            (Some((template, resource)), _) => (*resource, Some(template)),
            (None, Undeclared::Decide) => (port.undeclared_route, None),
            (None, Undeclared::Deny) => return Err(Reason::UndeclaredRoute),
        };
        Ok((port, Target { action, upgrade, resource, template }))
    }
}

/// All of the engine's entities with the caller's own.
pub(crate) fn with_caller(inner: &Inner, principal: &Principal, sort: ActionSet) -> Option<Entities> {
    // The node may call itself, and is then there already.
    let known = inner.entities_of(sort);
    let own = known.get(&principal.uid).is_none().then(|| principal.entity.clone());
    known.clone().add_entities(own, Some(&VOCABULARY.world(sort).schema)).ok()
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
