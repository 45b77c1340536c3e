//! Decides: finds what a question is about, and asks the policies in play.

use std::sync::Arc;

use cedar_policy::Entities;

use crate::circumstances::{Peer, Wanted};
use crate::compile::{Engine, Inner, Port};
use crate::context::rpc_of;
use crate::decision::{Attempt, Caller, Decision, Question, Reason};
use crate::facts::{Principal, anonymous, caller};
use crate::memo::CallerMemo;
use crate::outcomes::ConditionOutcome;
use crate::path::EscapedSlashes;
use crate::route::RouteTemplate;
use crate::scope::{Protocol, Undeclared};
use crate::vocabulary::{Action, ActionSet, VOCABULARY};

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
        let mut memo = self.caller(question.caller, question.peer);
        Arc::unwrap_or_clone(memo.decide(question.port, question.attempt, question.moment))
    }

    /// Prepares for the questions of one caller on connections of one sort.
    pub fn caller(&self, caller: &Caller, peer: &Peer) -> CallerMemo {
        self.caller_given(caller, peer, None)
    }

    /// The same where it is known how conditions came out.
    pub(crate) fn caller_given(
        &self,
        caller: &Caller,
        peer: &Peer,
        given: Option<Arc<[ConditionOutcome]>>,
    ) -> CallerMemo {
        CallerMemo::new(self.clone(), caller.clone(), peer.clone(), given)
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

impl Inner {
    pub(crate) fn principal(&self, who: &Caller) -> Option<Principal> {
        match who {
            Caller::Peer(id) => caller(id, &self.scope, &self.said),
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
        let declared = port.routes.find(method, path);
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
