//! One caller, action and resource: which policies are in play, and what they decide.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Decision as CedarDecision, Entities, EntityUid, PolicyId, PolicySet, Request,
};

use crate::compile::{Governed, Inner, Port};
use crate::compiled::Compiled;
use crate::context::Circumstances;
use crate::decision::{Attempt, AuditOutcome, Decision, Effect, Reason};
use crate::document::Mode;
use crate::evaluation::Evaluation;
use crate::facts::Principal;
use crate::outcomes::{Condition, ConditionOutcome, MAX_CONDITIONS, Outcomes};
use crate::reads::{Fact, FactSet};
use crate::scope::Authorization;
use crate::vocabulary::VOCABULARY;

mod remembered;
mod verdict;

#[cfg(test)]
pub(crate) use remembered::MAX_REMEMBERED_PATHS;
pub(crate) use remembered::{Cell, Lesson};
use verdict::{Outcome, Verdict, names};

/// The policies whose scope admits one caller, action and resource, and the entities that they can look at.
#[derive(Debug, Clone)]
pub(crate) struct InPlay {
    pub(crate) boundary: Part,
    pub(crate) enforce: Part,
    audit: Part,
    /// What those that Cedar is asked about can look at.
    entities: Entities,
    /// Those of which it is told how their conditions came out.
    conditions: Arc<[Condition]>,
}

/// Those in one mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    pub(crate) members: Vec<Arc<Compiled>>,
    /// Those of them that Cedar must be asked about.
    for_cedar: PolicySet,
    /// Where these are among the members.
    asked_of_cedar: HashMap<PolicyId, usize>,
    reads: FactSet,
}

/// A question as Cedar takes it.
struct Asked<'a> {
    request: Request,
    entities: Cow<'a, Entities>,
}

/// One question with all that bears on it.
pub(crate) struct Case<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) principal: &'a Principal,
    pub(crate) port: &'a Port,
    pub(crate) governed: &'a Governed,
    pub(crate) about: Circumstances<'a>,
    /// How conditions came out, where that is known beforehand.
    pub(crate) given: &'a [ConditionOutcome],
}

impl Case<'_> {
    /// Decides, and tells whether the outcome is the same for all questions of this caller, action and resource, or for
    /// all of this path. `in_play` are the policies in play, where they are known.
    pub(crate) fn evaluate(&self, in_play: Option<Arc<InPlay>>) -> Lesson {
        let Some(in_play) = in_play.or_else(|| self.in_play().map(Arc::new)) else {
            return Lesson::settled(Arc::new(self.denied()));
        };
        let reads = in_play.reads();
        let reads_method = reads.contains(Fact::Method) && !self.about.action.fixes_method();
        let by_path = !reads.vary() && !reads_method;
        let decision = Arc::new(self.decide(&in_play));
        if by_path && !reads.contains_any(&[Fact::Path, Fact::Params]) {
            return Lesson::settled(decision);
        }
        let path = match self.about.attempt {
            Attempt::Request { path, .. } => Some(path.path()),
            Attempt::Stream => None,
        };
        Lesson::open(decision, in_play, by_path.then_some(path))
    }

    pub(crate) fn in_play(&self) -> Option<InPlay> {
        let (mut boundary, mut enforce, mut audit) = (Part::default(), Part::default(), Part::default());
        for compiled in self.governed.policies.iter().filter_map(|index| self.inner.policies.get(*index)) {
            if compiled.admits(self.principal, self.about.action, &self.governed.resource) {
                let plain;
                let compiled = match compiled.outcome_in(self.given) {
                    None => compiled,
                    Some(false) => continue,
                    Some(true) => {
                        plain = Arc::new(compiled.without_conditions());
                        &plain
                    }
                };
                let part = match compiled.mode {
                    Mode::Boundary => &mut boundary,
                    Mode::Enforce => &mut enforce,
                    Mode::Audit => &mut audit,
                };
                if let Some(policy) = compiled.evaluation.for_cedar() {
                    part.for_cedar.add(policy.clone()).ok()?;
                    part.asked_of_cedar.insert(policy.id().clone(), part.members.len());
                }
                part.reads = part.reads.and(compiled.reads.facts);
                part.members.push(Arc::clone(compiled));
            }
        }
        let members = boundary.members.iter().chain(&enforce.members).chain(&audit.members);
        let for_cedar = members.clone().filter(|compiled| compiled.evaluation.for_cedar().is_some());
        let mut for_cedar = for_cedar.peekable();
        let entities = if for_cedar.peek().is_some() { self.entities(for_cedar)? } else { Entities::empty() };
        let conditions = members.filter_map(|compiled| {
            let (policy, text) = (Arc::clone(&compiled.name), Arc::clone(compiled.condition.as_ref()?));
            Some(Condition { policy, text })
        });
        let conditions: Vec<_> = conditions.collect();
        let conditions = if conditions.len() > MAX_CONDITIONS { Arc::default() } else { conditions.into() };
        Some(InPlay { boundary, enforce, audit, entities, conditions })
    }

    /// What these policies can look at: the caller, the action and the resource with all that they are in, and what the
    /// policies name.
    fn entities<'c>(&self, policies: impl Iterator<Item = &'c Arc<Compiled>>) -> Option<Entities> {
        let mut wanted: HashSet<EntityUid> = HashSet::new();
        let action = VOCABULARY.action(self.about.action);
        let sort = self.governed.resource.actions;
        let (known_of_node, actions) = (self.inner.entities_of(sort), &VOCABULARY.world(sort).actions);
        let named = policies.flat_map(|compiled| &compiled.literals).chain([&action]);
        for uid in named {
            let of_node = known_of_node.ancestors(uid).into_iter().flatten();
            let of_actions = actions.ancestors(uid).into_iter().flatten();
            wanted.extend(of_node.chain(of_actions).chain([uid]).cloned());
        }
        wanted.extend(self.principal.within.iter().chain(&self.governed.resource.within).cloned());
        let known = |uid| known_of_node.get(uid).or_else(|| actions.get(uid));
        // The node may call itself, and is then there already.
        let caller = self.inner.entities.get(&self.principal.uid).is_none().then_some(&self.principal.entity);
        let entities = wanted.iter().filter_map(known).chain(caller).cloned();
        Entities::from_entities(entities, None).ok()
    }

    fn decide(&self, in_play: &InPlay) -> Decision {
        let reads = in_play.reads();
        let asked = match in_play.is_for_cedar().then(|| self.as_cedar(in_play)) {
            None => None,
            Some(Some(asked)) => Some(asked),
            Some(None) => return Decision { reads, ..self.denied() },
        };
        let asked = asked.as_ref();
        // Before all others, so that a denial names the boundary and nothing that whoever is denied could have changed.
        let bounded = self.ask(asked, &in_play.boundary);
        let is_bounded = bounded.outcome != Outcome::Silent;
        let enforced = (!is_bounded).then(|| self.ask(asked, &in_play.enforce));
        let audited = self.ask_audit(asked, &in_play.audit);
        let conditions = in_play.outcomes([Some(&bounded), enforced.as_ref(), Some(&audited)]);
        let enforced = enforced.unwrap_or(bounded);
        let (effect, reason) = match (enforced.outcome, self.port.authorization) {
            // A boundary never permits: a view that says so is not one of ours.
            (Outcome::Permit, _) if is_bounded => (Effect::Deny, Reason::EvaluationError),
            (Outcome::Permit, _) => (Effect::Allow, Reason::Permitted),
            (Outcome::Forbid, _) if is_bounded => (Effect::Deny, Reason::ForbiddenByBoundary),
            (Outcome::Forbid, _) => (Effect::Deny, Reason::Forbidden),
            (Outcome::Unknown(reason), _) => (Effect::Deny, reason),
            // AUDIT is for beginners with their own services; strangers whose bundle is followed are not meant.
            (Outcome::Silent, Authorization::Audit) if !self.principal.is_foreign => {
                (Effect::Allow, Reason::AuditDefaultAllow)
            }
            (Outcome::Silent, _) => (Effect::Deny, Reason::NoPolicyMatched),
        };
        let audit = (audited.outcome != Outcome::Silent).then(|| {
            let stops = |outcome| matches!(outcome, Outcome::Forbid | Outcome::Unknown(_));
            let is_stopped = stops(enforced.outcome) || stops(audited.outcome);
            let effect = if is_stopped { Effect::Deny } else { Effect::Allow };
            Arc::new(AuditOutcome { effect, policies: audited.policies })
        });
        let (action, resource) = (Some(self.about.action), Some(self.governed.label.clone()));
        Decision { effect, reason, policies: enforced.policies, audit, action, resource, reads, conditions }
    }

    /// The question as Cedar takes it, with those facts that policies in play read.
    fn as_cedar<'p>(&self, in_play: &'p InPlay) -> Option<Asked<'p>> {
        let reads = in_play.reads();
        let (principal, resource) = (self.principal.uid.clone(), self.governed.resource.uid.clone());
        let request = self.about.request(principal, resource, reads)?;
        let carried = self.about.entities(reads)?;
        let mut entities = Cow::Borrowed(&in_play.entities);
        if !carried.is_empty() {
            entities = Cow::Owned(entities.into_owned().add_entities(carried, None).ok()?);
        }
        Some(Asked { request, entities })
    }

    /// What policies in one mode say together.
    fn ask(&self, asked: Option<&Asked<'_>>, part: &Part) -> Verdict {
        let lacks = self.lacks(part);
        part.barred(&lacks).unwrap_or_else(|| self.ask_known(asked, part, &lacks))
    }

    /// What policies in audit say together. Where it is not known of some, the forbids that hold are named beside
    /// these: of each it is counted whether it would have denied.
    fn ask_audit(&self, asked: Option<&Asked<'_>>, part: &Part) -> Verdict {
        let lacks = self.lacks(part);
        let known = self.ask_known(asked, part, &lacks);
        match part.barred(&lacks) {
            None => known,
            Some(barred) if known.outcome == Outcome::Forbid => {
                Verdict { policies: names(barred.policies.iter().chain(&*known.policies)), ..barred }
            }
            Some(barred) => barred,
        }
    }

    /// Of each member why it is not known what it says; nothing at all where that is known of all.
    fn lacks(&self, part: &Part) -> Vec<Option<Reason>> {
        let lacks = || part.members.iter().map(|compiled| self.about.lack(compiled));
        if lacks().any(|lack| lack.is_some()) { lacks().collect() } else { Vec::new() }
    }

    /// What the members say that lack nothing.
    fn ask_known(&self, asked: Option<&Asked<'_>>, part: &Part, lacks: &[Option<Reason>]) -> Verdict {
        if part.members.is_empty() {
            return Verdict { outcome: Outcome::Silent, policies: Arc::default(), failed: Arc::default() };
        }
        let is_known = |index: usize| lacks.get(index).is_none_or(Option::is_none);
        let (mut permitting, mut forbidding, mut failing) = (Vec::new(), Vec::new(), Vec::new());
        for (_, compiled) in part.members.iter().enumerate().filter(|(index, _)| is_known(*index)) {
            let Evaluation::Plain(term) = &compiled.evaluation else { continue };
            match term.holds(self.about.attempt) {
                Some(true) if compiled.permits => permitting.push(&compiled.name),
                Some(true) => forbidding.push(&compiled.name),
                Some(false) => {}
                None => failing.push(&compiled.name),
            }
        }
        if !part.for_cedar.is_empty() {
            let Some(asked) = asked else { return Verdict::unknown(Reason::EvaluationError, Arc::default()) };
            let response =
                self.inner.authorizer.is_authorized(&asked.request, &part.for_cedar, &asked.entities);
            let diagnostics = response.diagnostics();
            let named = |id: &PolicyId| {
                let index = *part.asked_of_cedar.get(id)?;
                Some((index, &part.members.get(index)?.name))
            };
            let reasons: Option<Vec<_>> = diagnostics.reason().map(named).collect();
            let errors = diagnostics.errors().map(|error| match error {
                AuthorizationError::PolicyEvaluationError(error) => named(error.policy_id()),
            });
            // Whoever is not known here might be a forbid.
            let (Some(reasons), Some(errors)) = (reasons, errors.collect::<Option<Vec<_>>>()) else {
                return Verdict::unknown(Reason::EvaluationError, Arc::default());
            };
            let known = |said: Vec<(usize, _)>| said.into_iter().filter(|(index, _)| is_known(*index));
            match response.decision() {
                CedarDecision::Allow => permitting.extend(known(reasons).map(|(_, name)| name)),
                CedarDecision::Deny => forbidding.extend(known(reasons).map(|(_, name)| name)),
            }
            failing.extend(known(errors).map(|(_, name)| name));
        }
        // Cedar leaves out policies that fail, and so would pass over a forbid: any failure denies here.
        let failed = names(failing.into_iter());
        let (outcome, policies) = if !forbidding.is_empty() {
            (Outcome::Forbid, forbidding)
        } else if !failed.is_empty() {
            let outcome = Outcome::Unknown(Reason::EvaluationError);
            return Verdict { outcome, policies: Arc::clone(&failed), failed };
        } else if !permitting.is_empty() {
            (Outcome::Permit, permitting)
        } else if !lacks.is_empty() {
            return Verdict::unknown(Reason::FactsMissing, names(part.lacking(lacks)));
        } else {
            (Outcome::Silent, Vec::new())
        };
        let failed = if lacks.is_empty() { failed } else { names(failed.iter().chain(part.lacking(lacks))) };
        Verdict { outcome, policies: names(policies.into_iter()), failed }
    }

    fn denied(&self) -> Decision {
        let (action, resource) = (Some(self.about.action), Some(self.governed.label.clone()));
        Decision { action, resource, ..Decision::denied(Reason::EvaluationError) }
    }
}

impl Part {
    /// What is said without asking anybody where some lack what they read. What is not known is left out of the
    /// request, so whatever reads it must not be listened to; where only permits do, what they would have said does not
    /// matter as soon as another permit holds, or a forbid.
    fn barred(&self, lacks: &[Option<Reason>]) -> Option<Verdict> {
        let reason = lacks.iter().find_map(|lack| *lack)?;
        let is_passed_over = |(compiled, lack): (&Arc<Compiled>, &Option<Reason>)| match lack {
            Some(reason) => compiled.permits && *reason == Reason::FactsMissing,
            None => true,
        };
        let are_passed_over = self.members.iter().zip(lacks).all(is_passed_over);
        (!are_passed_over).then(|| Verdict::unknown(reason, names(self.lacking(lacks))))
    }

    /// The names of those that lack something.
    fn lacking<'p>(&'p self, lacks: &'p [Option<Reason>]) -> impl Iterator<Item = &'p Arc<str>> {
        let lacking = self.members.iter().zip(lacks).filter(|(_, lack)| lack.is_some());
        lacking.map(|(compiled, _)| &compiled.name)
    }
}

impl InPlay {
    fn reads(&self) -> FactSet {
        self.boundary.reads.and(self.enforce.reads).and(self.audit.reads)
    }

    /// How conditions came out, by what boundary, policies, and those in audit said, where they were asked.
    fn outcomes(&self, said: [Option<&Verdict>; 3]) -> Option<Arc<Outcomes>> {
        if self.conditions.is_empty() {
            return None;
        }
        let parts = [&self.boundary, &self.enforce, &self.audit].into_iter().zip(said);
        let members = parts.flat_map(|(part, said)| part.members.iter().map(move |member| (member, said)));
        let told = members.filter(|(member, _)| member.condition.is_some());
        Outcomes::new(&self.conditions, told.map(|(member, said)| said.and_then(|said| said.met_by(member))))
    }

    fn is_for_cedar(&self) -> bool {
        [&self.boundary, &self.enforce, &self.audit].iter().any(|part| !part.for_cedar.is_empty())
    }
}
