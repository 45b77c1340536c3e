//! Decides: finds what a question is about, asks the policies in play, and remembers.

use std::collections::BTreeMap;

use cedar_policy::Entities;

use crate::cell::{Case, Cell};
use crate::circumstances::{Moment, Peer, Wanted};
use crate::compile::{Engine, Inner, Port};
use crate::context::{Circumstances, rpc_of};
use crate::decision::{Attempt, Caller, Decision, Question, Reason};
use crate::facts::{Principal, anonymous, caller};
use crate::path::EscapedSlashes;
use crate::route::{RouteTemplate, worth_trying};
use crate::scope::{Protocol, Undeclared};
use crate::tally::Counted;
use crate::vocabulary::{Action, VOCABULARY};

/// One caller's view of an [`Engine`], which remembers what was decided.
///
/// Make one per connection, or per caller, peer and thread, and a new one when the engine changes. Its memory is
/// bounded.
#[derive(Debug, Clone)]
pub struct CallerMemo {
    engine: Engine,
    caller: Caller,
    peer: Peer,
    /// None for identities that never call services.
    principal: Option<Box<Principal>>,
    cells: BTreeMap<(usize, Action), Cell>,
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
        let principal = self.0.principal(caller).map(Box::new);
        let (caller, peer) = (caller.clone(), peer.clone());
        CallerMemo { engine: self.clone(), caller, peer, principal, cells: BTreeMap::new() }
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
        &self.engine
    }

    /// Decides whether the caller may do this at the node's listener on `port`, now. What is already remembered is
    /// answered without allocating.
    pub fn decide(&mut self, port: u16, attempt: Attempt<'_>, moment: Moment) -> Decision {
        self.decide_as(port, attempt, moment, |_| true)
    }

    /// The same, counting the question where its decision is remembered. `mark` stands for the attempt's method and path,
    /// and is not 0.
    pub fn decide_counted(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        mark: u64,
    ) -> (Decision, Counted) {
        // What is two things at once has two memories, and is counted in neither.
        let mark = Some(mark).filter(|_| !matches!(attempt, Attempt::Request { upgrade: true, .. }));
        self.decide_and_count(port, attempt, moment, |_| true, mark)
    }

    /// The decision on a part of what the attempt is.
    pub(crate) fn decide_as(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
    ) -> Decision {
        self.decide_and_count(port, attempt, moment, is_asked, None).0
    }

    /// A path that servers read in two ways must be let through in both.
    fn decide_and_count(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
        mark: Option<u64>,
    ) -> (Decision, Counted) {
        if let Attempt::Request { method, path, upgrade, gathered } = attempt
            && let Some(other) = path.with_slashes()
        {
            let other = Attempt::Request { method, path: &other, upgrade, gathered };
            let (as_slashes, _) = self.decide_reading(port, other, moment, &is_asked, None);
            let (as_it_stands, _) = self.decide_reading(port, attempt, moment, is_asked, None);
            // What it counts as is how it stands, and is not told by one memory alone.
            return (as_slashes.and(as_it_stands), Counted::No);
        }
        self.decide_reading(port, attempt, moment, is_asked, mark)
    }

    fn decide_reading(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
        mark: Option<u64>,
    ) -> (Decision, Counted) {
        let denied = |reason| (Decision::denied(reason), Counted::No);
        let Self { engine, caller, peer, principal, cells } = self;
        let inner = &*engine.0;
        let Some(principal) = principal else { return denied(Reason::NotAPrincipal) };
        let (port, target) = match inner.locate(port, attempt) {
            Ok(found) => found,
            Err(reason) => return denied(reason),
        };
        let Some(governed) = inner.resources.get(target.resource) else {
            return denied(Reason::EvaluationError);
        };
        if let Attempt::Request { gathered, .. } = attempt
            && let Some(reason) = port.refuses(&governed.resource, gathered.on_behalf_of())
        {
            let (action, resource) = (Some(target.action), Some(governed.label.clone()));
            return (Decision { action, resource, ..Decision::denied(reason) }, Counted::No);
        }
        let decide_one = |action| {
            let (is_foreign, template) = (principal.is_foreign, target.template);
            let about = Circumstances { caller, is_foreign, peer, moment, action, attempt, template };
            let case = Case { inner, principal, port, governed, about };
            let cell = cells.entry((target.resource, action)).or_insert_with(|| case.open());
            match (mark, cell) {
                (Some(mark), cell) => case.decide_counted(cell, mark),
                (None, Cell::Settled(decision, _)) => (decision.clone(), Counted::No),
                (None, Cell::Open(open)) => (case.decide_open(open), Counted::No),
            }
        };
        target
            .actions()
            .filter(is_asked)
            .map(decide_one)
            .reduce(|(one, _), (other, _)| (one.and(other), Counted::No))
            .unwrap_or_else(|| denied(Reason::EvaluationError))
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
pub(crate) fn with_caller(inner: &Inner, principal: &Principal) -> Option<Entities> {
    // The node may call itself, and is then there already.
    let own = inner.entities.get(&principal.uid).is_none().then(|| principal.entity.clone());
    inner.entities.clone().add_entities(own, Some(&VOCABULARY.schema)).ok()
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
