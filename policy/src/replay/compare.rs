//! What can be told of two engines by the scopes of their statements, without asking Cedar.

use std::sync::Arc;

use crate::compile::{Engine, Governed, Inner, Port};
use crate::compiled::Compiled;
use crate::decision::{Attempt, Decision, Effect, Reason};
use crate::document::Mode;
use crate::evaluation::Evaluation;
use crate::facts::Principal;
use crate::outcomes::ConditionOutcome;
use crate::reads::FactSet;
use crate::scope::Authorization;
use crate::vocabulary::Action;

/// One engine's part in a comparison.
pub(super) struct Side<'a> {
    inner: &'a Inner,
    principal: &'a Principal,
    port: &'a Port,
    governed: &'a Governed,
}

/// The statements in play of one side, none of which is in audit.
#[derive(Debug)]
pub(super) struct Weighed {
    statements: Box<[Arc<Compiled>]>,
    /// What is done where none of them says anything.
    otherwise: Effect,
}

impl<'a> Side<'a> {
    pub(super) fn of(
        engine: &'a Engine,
        principal: &'a Principal,
        port: u16,
        resource: usize,
    ) -> Option<Self> {
        let inner = &*engine.0;
        let (port, governed) = (inner.ports.get(&port)?, inner.resources.get(resource)?);
        Some(Self { inner, principal, port, governed })
    }

    pub(super) fn is_alike(&self, other: &Self, action: Action, is_one_world: bool) -> bool {
        let (own, others) = (self.in_play(action), other.in_play(action));
        says_alike(&own, &others)
            && (is_one_world
                || self.port.authorization == other.port.authorization
                    && self.port.users == other.port.users
                    && self.port.protocol == other.port.protocol
                    && self.governed.resource.uid == other.governed.resource.uid
                    && self.governed.resource.within == other.governed.resource.within
                    && self.governed.resource.actions == other.governed.resource.actions
                    && self.is_for_users() == other.is_for_users()
                    && self.principal.within == other.principal.within
                    && self.is_labelled_alike(other, &own)
                    && self.sees_alike(other, &own))
    }

    /// Whether the caller has the same labels, as far as statements read them.
    fn is_labelled_alike(&self, other: &Self, in_play: &[&Arc<Compiled>]) -> bool {
        let mut read = in_play.iter().flat_map(|compiled| &compiled.reads.labels);
        let value = |side: &Self, label: &str| side.principal.entity.tag(label).and_then(Result::ok);
        read.all(|label| value(self, label) == value(other, label))
    }

    /// Whether whatever is made for nobody is denied there, whatever policies say.
    pub(super) fn is_for_users(&self) -> bool {
        self.governed.resource.requires_user
    }

    fn in_play(&self, action: Action) -> Vec<&'a Arc<Compiled>> {
        let policies = self.governed.policies.iter().filter_map(|index| self.inner.policies.get(*index));
        policies.filter(|compiled| compiled.admits(self.principal, action, &self.governed.resource)).collect()
    }

    /// Whether the entities that statements name have the same attributes, and are in the same things.
    fn sees_alike(&self, other: &Self, in_play: &[&Arc<Compiled>]) -> bool {
        in_play.iter().flat_map(|compiled| &compiled.literals).all(|uid| {
            match [self, other].map(|side| side.inner.entities.get(uid)) {
                [Some(own), Some(others)] => own.deep_eq(others),
                [own, others] => own.is_none() && others.is_none(),
            }
        })
    }

    /// What is decided where no statement in play has conditions: their scopes alone tell. On a route for users, of
    /// what is made for one.
    pub(super) fn settled(&self, action: Action) -> Option<Decision> {
        let in_play = self.in_play(action);
        // Of users nothing is recorded.
        if self.port.takes_some_users() || in_play.iter().any(|compiled| compiled.is_conditional) {
            return None;
        }
        let named = |mode, permitting| {
            let meant =
                in_play.iter().filter(|compiled| compiled.mode == mode && compiled.permits == permitting);
            let mut names: Vec<_> = meant.map(|compiled| Arc::clone(&compiled.name)).collect();
            names.sort();
            names
        };
        let bounded = named(Mode::Boundary, false);
        let (forbids, permits) = (named(Mode::Enforce, false), named(Mode::Enforce, true));
        if !are_for_here(&in_play) {
            return None;
        }
        let (effect, reason, policies) = if !bounded.is_empty() {
            (Effect::Deny, Reason::ForbiddenByBoundary, bounded)
        } else if !forbids.is_empty() {
            (Effect::Deny, Reason::Forbidden, forbids)
        } else if !permits.is_empty() {
            (Effect::Allow, Reason::Permitted, permits)
        } else {
            match self.otherwise() {
                Effect::Allow => (Effect::Allow, Reason::AuditDefaultAllow, Vec::new()),
                Effect::Deny => (Effect::Deny, Reason::NoPolicyMatched, Vec::new()),
            }
        };
        let (action, resource) = (Some(action), Some(Arc::clone(&self.governed.label)));
        Some(Decision {
            effect,
            reason,
            policies: policies.into(),
            audit: None,
            action,
            resource,
            reads: FactSet::NONE,
            conditions: None,
        })
    }

    /// What is in play where calls may be looked at one by one without asking Cedar. Users bear on nothing there.
    pub(super) fn weighed(&self, action: Action) -> Option<Weighed> {
        let in_play = self.in_play(action);
        // What it was recorded as may be nothing that is done there.
        let is_done_here = self.governed.resource.actions.contains(action);
        if !is_done_here || self.port.users.is_some() || self.is_for_users() || !are_for_here(&in_play) {
            return None;
        }
        Some(Weighed { statements: in_play.into_iter().cloned().collect(), otherwise: self.otherwise() })
    }

    /// What is done where no statement says anything.
    fn otherwise(&self) -> Effect {
        match self.port.authorization {
            Authorization::Audit if !self.principal.is_foreign => Effect::Allow,
            Authorization::Audit | Authorization::Enforce => Effect::Deny,
        }
    }
}

impl Weighed {
    /// What is done with a call, and what else of it the statements read than conditions of which it is known how they
    /// came out. Nothing where Cedar must be asked.
    pub(super) fn effect(
        &self,
        attempt: Attempt<'_>,
        given: &[ConditionOutcome],
    ) -> Option<(Effect, FactSet)> {
        let (mut permits, mut forbids, mut reads) = (false, false, FactSet::NONE);
        for compiled in &self.statements {
            let holds = match (compiled.outcome_in(given), &compiled.evaluation) {
                (Some(is_met), _) => is_met,
                (None, Evaluation::Plain(term)) => {
                    reads = reads.and(compiled.reads.facts);
                    term.holds(attempt)?
                }
                (None, Evaluation::Cedar(_)) => return None,
            };
            permits |= holds && compiled.permits;
            forbids |= holds && !compiled.permits;
        }
        let effect = match (forbids, permits) {
            (true, _) => Effect::Deny,
            (false, true) => Effect::Allow,
            (false, false) => self.otherwise,
        };
        Some((effect, reads))
    }
}

/// Whether none is a boundary that permits, or in audit: what these say is not told here.
fn are_for_here(in_play: &[&Arc<Compiled>]) -> bool {
    in_play.iter().all(|compiled| match compiled.mode {
        Mode::Boundary => !compiled.permits,
        Mode::Enforce => true,
        Mode::Audit => false,
    })
}

fn says_alike(own: &[&Arc<Compiled>], others: &[&Arc<Compiled>]) -> bool {
    own.len() == others.len()
        && own.iter().zip(others).all(|(own, other)| Arc::ptr_eq(own, other) || own.says_the_same(other))
}
