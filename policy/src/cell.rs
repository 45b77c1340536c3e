//! What is known of one caller, action and resource: which policies are in play, and what they decided.

use std::collections::btree_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use cedar_policy::{AuthorizationError, Decision as CedarDecision, Entities, EntityUid, PolicySet, Request};

use crate::compile::{Governed, Inner, Port};
use crate::compiled::Compiled;
use crate::context::Circumstances;
use crate::decision::{Attempt, AuditOutcome, Decision, Effect, Reason};
use crate::document::Mode;
use crate::facts::Principal;
use crate::reads::{Fact, FactSet};
use crate::scope::Authorization;
use crate::tally::Tally;
use crate::vocabulary::{Action, VOCABULARY};

/// How many paths one caller's memory of one route and action holds before it starts afresh.
pub(crate) const MAX_REMEMBERED_PATHS: usize = 64;

/// The longest path that is remembered, in bytes.
const MAX_REMEMBERED_PATH_LEN: usize = 256;

/// What is known of one route, or port, and action.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// No policy in play reads what may vary: always the same.
    Settled(Decision, Arc<Tally>),
    Open(Box<OpenCell>),
}

#[derive(Debug, Clone)]
pub(crate) struct OpenCell {
    pub(crate) in_play: Arc<InPlay>,
    /// Counts, where the path alone tells the outcome; otherwise nothing is remembered.
    by_path: Option<Arc<Tally>>,
    pub(crate) remembered: HashMap<Box<str>, Decision, BuildHasherDefault<PathHasher>>,
}

/// Hashes the few paths that are remembered. Whoever chooses paths that fall together makes a search among
/// [`MAX_REMEMBERED_PATHS`], no more: it need not be one that nobody can foretell.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PathHasher(u64);

impl Hasher for PathHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(into, byte)| *into = *byte);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        // The golden ratio's bits, as Knuth proposes for hashing by multiplication.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// What one evaluation teaches.
#[derive(Debug)]
pub(crate) struct Lesson {
    decision: Decision,
    /// The policies in play, where the outcome may be another one for another question.
    in_play: Option<Arc<InPlay>>,
    /// Where the path alone tells it: that, unless it is too long to be kept.
    path: Option<Option<Box<str>>>,
}

/// The policies whose scope admits one caller, action and resource, and the entities that they can look at.
#[derive(Debug, Clone)]
pub(crate) struct InPlay {
    pub(crate) boundary: Part,
    pub(crate) enforce: Part,
    audit: Part,
    entities: Entities,
}

/// Those in one mode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    policies: PolicySet,
    pub(crate) members: Vec<Arc<Compiled>>,
    reads: FactSet,
}

/// What one set of policies says.
struct Verdict {
    outcome: Outcome,
    policies: Arc<[Arc<str>]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Silent,
    Permit,
    Forbid,
    /// Nobody knows what a policy would say.
    Unknown(Reason),
}

/// One question with all that bears on it.
pub(crate) struct Case<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) principal: &'a Principal,
    pub(crate) port: &'a Port,
    pub(crate) governed: &'a Governed,
    pub(crate) about: Circumstances<'a>,
}

impl Cell {
    /// What is remembered of a question, with where it is counted.
    pub(crate) fn recall(&self, path: Option<&str>) -> Option<(&Decision, &Arc<Tally>)> {
        match self {
            Self::Settled(decision, tally) => Some((decision, tally)),
            Self::Open(open) => {
                let tally = open.by_path.as_ref()?;
                Some((open.remembered.get(path?)?, tally))
            }
        }
    }
}

impl Lesson {
    /// What was decided.
    pub(crate) fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Writes it down, and gives where questions like it are counted. What somebody else has written there stays.
    pub(crate) fn enter(self, place: Entry<'_, (usize, Action), Cell>) -> Option<Arc<Tally>> {
        let Self { decision, in_play, path } = self;
        let Some(in_play) = in_play else {
            return match place.or_insert_with(|| Cell::Settled(decision, Tally::new(true))) {
                Cell::Settled(_, tally) => Some(Arc::clone(tally)),
                Cell::Open(_) => None,
            };
        };
        let by_path = path.is_some().then(|| Tally::new(false));
        let open = || Cell::Open(Box::new(OpenCell { in_play, by_path, remembered: HashMap::default() }));
        let Cell::Open(open) = place.or_insert_with(open) else { return None };
        if let Some(path) = path? {
            if open.remembered.len() >= MAX_REMEMBERED_PATHS {
                open.remembered.clear();
            }
            open.remembered.insert(path, decision);
        }
        open.by_path.clone()
    }
}

impl Case<'_> {
    /// Decides, and tells whether the outcome is the same for all questions of this caller, action and resource, or for all
    /// of this path. `in_play` are the policies in play, where they are known.
    pub(crate) fn evaluate(&self, in_play: Option<Arc<InPlay>>) -> Lesson {
        let Some(in_play) = in_play.or_else(|| self.in_play().map(Arc::new)) else {
            return Lesson { decision: self.denied(), in_play: None, path: None };
        };
        let reads = in_play.reads();
        let reads_method = reads.contains(Fact::Method) && !self.about.action.fixes_method();
        let by_path = !reads.vary() && !reads_method;
        let decision = self.decide(&in_play);
        if by_path && !reads.contains_any(&[Fact::Path, Fact::Params]) {
            return Lesson { decision, in_play: None, path: None };
        }
        let path = match self.about.attempt {
            Attempt::Request { path, .. } => {
                Some(path.path()).filter(|path| path.len() <= MAX_REMEMBERED_PATH_LEN)
            }
            Attempt::Stream => None,
        };
        Lesson { decision, in_play: Some(in_play), path: by_path.then(|| path.map(Box::from)) }
    }

    pub(crate) fn in_play(&self) -> Option<InPlay> {
        let (mut boundary, mut enforce, mut audit) = (Part::default(), Part::default(), Part::default());
        for compiled in self.governed.policies.iter().filter_map(|index| self.inner.policies.get(*index)) {
            if compiled.admits(self.principal, self.about.action) {
                let part = match compiled.mode {
                    Mode::Boundary => &mut boundary,
                    Mode::Enforce => &mut enforce,
                    Mode::Audit => &mut audit,
                };
                part.policies.add(compiled.policy.clone()).ok()?;
                part.reads = part.reads.and(compiled.reads.facts);
                part.members.push(Arc::clone(compiled));
            }
        }
        let members = boundary.members.iter().chain(&enforce.members).chain(&audit.members);
        let entities = self.entities(members)?;
        Some(InPlay { boundary, enforce, audit, entities })
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
        let (principal, resource) = (self.principal.uid.clone(), self.governed.resource.uid.clone());
        let (Some(request), Some(carried)) =
            (self.about.request(principal, resource, reads), self.about.entities(reads))
        else {
            return Decision { reads, ..self.denied() };
        };
        let with_carried;
        let entities = if carried.is_empty() {
            &in_play.entities
        } else {
            match in_play.entities.clone().add_entities(carried, None) {
                Ok(entities) => with_carried = entities,
                Err(_) => return Decision { reads, ..self.denied() },
            }
            &with_carried
        };
        // Before all others, so that a denial names the boundary and nothing that whoever is denied could have changed.
        let bounded = self.ask(&request, entities, &in_play.boundary);
        let is_bounded = bounded.outcome != Outcome::Silent;
        let enforced = if is_bounded { bounded } else { self.ask(&request, entities, &in_play.enforce) };
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
        let audited = self.ask(&request, entities, &in_play.audit);
        let audit = (audited.outcome != Outcome::Silent).then(|| {
            let stops = |outcome| matches!(outcome, Outcome::Forbid | Outcome::Unknown(_));
            let is_stopped = stops(enforced.outcome) || stops(audited.outcome);
            let effect = if is_stopped { Effect::Deny } else { Effect::Allow };
            Arc::new(AuditOutcome { effect, policies: audited.policies })
        });
        let (action, resource) = (Some(self.about.action), Some(self.governed.label.clone()));
        Decision { effect, reason, policies: enforced.policies, audit, action, resource, reads }
    }

    fn ask(&self, request: &Request, entities: &Entities, part: &Part) -> Verdict {
        if part.members.is_empty() {
            return Verdict { outcome: Outcome::Silent, policies: Arc::default() };
        }
        // What is not known is left out of the request: whatever reads it must not be asked.
        let lack = |compiled: &Compiled| self.about.lack(compiled.reads.facts, &compiled.headers);
        if let Some(reason) = part.members.iter().find_map(|compiled| lack(compiled)) {
            let lacking = part.members.iter().filter(|compiled| lack(compiled).is_some());
            return Verdict { outcome: Outcome::Unknown(reason), policies: names(lacking) };
        }
        let response = self.inner.authorizer.is_authorized(request, &part.policies, entities);
        let diagnostics = response.diagnostics();
        let named = |ids: &mut dyn Iterator<Item = &str>| {
            names(ids.filter_map(|id| part.members.iter().find(|member| *member.name == *id)))
        };
        let reasons = named(&mut diagnostics.reason().map(AsRef::as_ref));
        let errors = named(&mut diagnostics.errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id().as_ref(),
        }));
        // Cedar leaves out policies that fail, and so would pass over a forbid: any failure denies here.
        match response.decision() {
            CedarDecision::Deny if !reasons.is_empty() => {
                Verdict { outcome: Outcome::Forbid, policies: reasons }
            }
            _ if diagnostics.errors().next().is_some() => {
                Verdict { outcome: Outcome::Unknown(Reason::EvaluationError), policies: errors }
            }
            CedarDecision::Allow => Verdict { outcome: Outcome::Permit, policies: reasons },
            CedarDecision::Deny => Verdict { outcome: Outcome::Silent, policies: reasons },
        }
    }

    fn denied(&self) -> Decision {
        let (action, resource) = (Some(self.about.action), Some(self.governed.label.clone()));
        Decision { action, resource, ..Decision::denied(Reason::EvaluationError) }
    }
}

impl InPlay {
    fn reads(&self) -> FactSet {
        self.boundary.reads.and(self.enforce.reads).and(self.audit.reads)
    }
}

fn names<'a>(policies: impl Iterator<Item = &'a Arc<Compiled>>) -> Arc<[Arc<str>]> {
    let mut names: Vec<_> = policies.map(|compiled| Arc::clone(&compiled.name)).collect();
    names.sort();
    names.into()
}
