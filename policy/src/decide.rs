//! Decides: finds the policies in play, asks Cedar, and remembers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Context, Decision as CedarDecision, Entities, PolicySet, Request,
    RestrictedExpression,
};

use crate::compile::{Engine, Governed, Inner, Port};
use crate::compiled::Reads;
use crate::decision::{Attempt, AuditOutcome, Caller, Decision, Effect, Question, Reason};
use crate::document::Mode;
use crate::facts::{Principal, anonymous, caller};
use crate::path::CanonicalPath;
use crate::scope::{Authorization, Protocol, Undeclared};
use crate::vocabulary::{Action, VOCABULARY};

/// How many paths one caller's memory of one route and action holds before it starts afresh.
const MAX_REMEMBERED_PATHS: usize = 64;

/// The longest path that is remembered, in bytes.
const MAX_REMEMBERED_PATH_LEN: usize = 256;

/// One caller's view of an [`Engine`], which remembers what was decided.
///
/// Make one per connection, or per caller and thread, and a new one when the engine changes. Its memory is bounded.
#[derive(Debug, Clone)]
pub struct CallerMemo {
    engine: Engine,
    /// None for identities that never call services.
    principal: Option<Box<Principal>>,
    /// The engine's entities and the caller's; made when first needed.
    entities: Option<Entities>,
    cells: BTreeMap<(usize, Action), Cell>,
}

/// What is known of one route, or port, and action.
#[derive(Debug, Clone)]
enum Cell {
    /// No policy in play reads the context: always the same.
    Settled(Decision),
    Open(Box<OpenCell>),
}

#[derive(Debug, Clone)]
struct OpenCell {
    in_play: InPlay,
    /// Whether the path alone tells the outcome; otherwise nothing is remembered.
    by_path: bool,
    remembered: HashMap<Box<str>, Decision>,
}

/// The policies whose scope admits one caller, action and resource.
#[derive(Debug, Clone, Default)]
struct InPlay {
    boundary: PolicySet,
    enforce: PolicySet,
    audit: PolicySet,
    names: Vec<Arc<str>>,
    reads: Reads,
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
    Error,
}

/// A request's place among the node's resources.
pub(crate) struct Target {
    pub(crate) action: Action,
    /// It is an [`Action::Upgrade`] besides, and must be let through as both.
    pub(crate) upgrade: bool,
    pub(crate) resource: usize,
}

impl Target {
    /// All that it is.
    pub(crate) fn actions(&self) -> impl Iterator<Item = Action> {
        [self.action].into_iter().chain(self.upgrade.then_some(Action::Upgrade))
    }
}

impl Engine {
    /// Decides one question and remembers nothing.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        self.caller(question.caller).decide(question.port, question.attempt)
    }

    /// Prepares for the questions of one caller.
    pub fn caller(&self, caller: &Caller) -> CallerMemo {
        let principal = self.0.principal(caller).map(Box::new);
        CallerMemo { engine: self.clone(), principal, entities: None, cells: BTreeMap::new() }
    }
}

impl CallerMemo {
    /// The engine that decides.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Decides whether the caller may do this at the node's listener on `port`. What is already remembered is answered
    /// without allocating.
    pub fn decide(&mut self, port: u16, attempt: Attempt<'_>) -> Decision {
        self.decide_as(port, attempt, |_| true)
    }

    /// The same for a part of what the attempt is.
    pub(crate) fn decide_as(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        is_asked: impl Fn(&Action) -> bool,
    ) -> Decision {
        let Self { engine, principal, entities, cells } = self;
        let inner = &*engine.0;
        let Some(principal) = principal else { return Decision::denied(Reason::NotAPrincipal) };
        let (port, target) = match inner.locate(port, attempt) {
            Ok(found) => found,
            Err(reason) => return Decision::denied(reason),
        };
        let Some(governed) = inner.resources.get(target.resource) else {
            return Decision::denied(Reason::EvaluationError);
        };
        let Some(entities) = with_caller(entities, inner, principal) else {
            return Decision::denied(Reason::EvaluationError);
        };
        let decide_one = |action| {
            let case = Case { inner, principal, entities, port, governed, action, attempt };
            match cells.entry((target.resource, action)).or_insert_with(|| case.open()) {
                Cell::Settled(decision) => decision.clone(),
                Cell::Open(open) => case.decide_open(open),
            }
        };
        target
            .actions()
            .filter(is_asked)
            .map(decide_one)
            .reduce(Decision::and)
            .unwrap_or_else(|| Decision::denied(Reason::EvaluationError))
    }
}

impl Inner {
    pub(crate) fn principal(&self, who: &Caller) -> Option<Principal> {
        match who {
            Caller::Peer(id) => caller(id, &self.scope, &self.roles),
            Caller::Anonymous => Some(anonymous()),
        }
    }

    /// Finds the action that an attempt is, and the resource that it is for.
    pub(crate) fn locate(&self, port: u16, attempt: Attempt<'_>) -> Result<(&Port, Target), Reason> {
        let port = self.ports.get(&port).ok_or(Reason::NoSuchPort)?;
        let (method, path, action, upgrade) = match (port.protocol, attempt) {
            (Protocol::Tcp, Attempt::Stream) => {
                let target = Target { action: Action::Connect, upgrade: false, resource: port.stream };
                return Ok((port, target));
            }
            (Protocol::Http | Protocol::Http2, Attempt::Request { method, path, upgrade }) => {
                (method, path, Action::of_method(method), upgrade)
            }
            (Protocol::Grpc, Attempt::Request { method: "POST", path, upgrade: false })
                if rpc_of(path).is_some() =>
            {
                ("POST", path, Action::Call, false)
            }
            _ => return Err(Reason::WrongProtocol),
        };
        let declared = port.routes.iter().find(|(template, _)| template.matches(method, path));
        let resource = match (declared, port.undeclared) {
            (Some((_, resource)), _) => *resource,
            (None, Undeclared::Decide) => port.undeclared_route,
            (None, Undeclared::Deny) => return Err(Reason::UndeclaredRoute),
        };
        Ok((port, Target { action, upgrade, resource }))
    }
}

/// The service and method of a gRPC request's path.
pub(crate) fn rpc_of<'a>(path: &'a CanonicalPath<'_>) -> Option<(&'a str, &'a str)> {
    let (service, method) = path.path().strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// The context of a request: exactly what the schema lists for its action.
pub(crate) fn context_of<'a>(action: Action, attempt: Attempt<'a>) -> Vec<(&'static str, &'a str)> {
    let Attempt::Request { method, path, .. } = attempt else { return Vec::new() };
    let mut context = vec![("path", path.path()), ("method", method)];
    if let (Action::Call, Some((service, rpc))) = (action, rpc_of(path)) {
        context.extend([("service", service), ("rpc", rpc)]);
    }
    context
}

/// The question as Cedar takes it.
pub(crate) fn request_of(
    principal: &Principal,
    action: Action,
    governed: &Governed,
    attempt: Attempt<'_>,
) -> Option<Request> {
    let pairs = context_of(action, attempt).into_iter();
    let pairs =
        pairs.map(|(name, value)| (name.to_owned(), RestrictedExpression::new_string(value.to_owned())));
    let context = Context::from_pairs(pairs).ok()?;
    let (principal, resource) = (principal.uid.clone(), governed.resource.uid.clone());
    Request::new(principal, VOCABULARY.action(action), resource, context, None).ok()
}

/// The engine's entities with the caller's own.
pub(crate) fn with_caller<'a>(
    entities: &'a mut Option<Entities>,
    inner: &Inner,
    principal: &Principal,
) -> Option<&'a Entities> {
    if entities.is_none() {
        // The node may call itself, and is then there already.
        let own = inner.entities.get(&principal.uid).is_none().then(|| principal.entity.clone());
        *entities = inner.entities.clone().add_entities(own, Some(&VOCABULARY.schema)).ok();
    }
    entities.as_ref()
}

/// One question with all that bears on it.
struct Case<'a> {
    inner: &'a Inner,
    principal: &'a Principal,
    entities: &'a Entities,
    port: &'a Port,
    governed: &'a Governed,
    action: Action,
    attempt: Attempt<'a>,
}

impl Case<'_> {
    /// Finds the policies in play, and settles the question for good where none of them reads the context.
    fn open(&self) -> Cell {
        let Some(in_play) = self.in_play() else { return Cell::Settled(self.denied()) };
        let reads_method = in_play.reads.method && !self.action.fixes_method();
        if !in_play.reads.path && !reads_method {
            return Cell::Settled(self.decide(&in_play));
        }
        Cell::Open(Box::new(OpenCell { in_play, by_path: !reads_method, remembered: HashMap::new() }))
    }

    fn decide_open(&self, open: &mut OpenCell) -> Decision {
        let path = match self.attempt {
            Attempt::Request { path, .. } if open.by_path => Some(path.path()),
            _ => None,
        };
        if let Some(decision) = path.and_then(|path| open.remembered.get(path)) {
            return decision.clone();
        }
        let decision = self.decide(&open.in_play);
        if let Some(path) = path.filter(|path| path.len() <= MAX_REMEMBERED_PATH_LEN) {
            if open.remembered.len() >= MAX_REMEMBERED_PATHS {
                open.remembered.clear();
            }
            open.remembered.insert(path.into(), decision.clone());
        }
        decision
    }

    fn in_play(&self) -> Option<InPlay> {
        let mut in_play = InPlay::default();
        for compiled in self.governed.policies.iter().filter_map(|index| self.inner.policies.get(*index)) {
            if compiled.admits(self.principal, self.action) {
                let set = match compiled.mode {
                    Mode::Boundary => &mut in_play.boundary,
                    Mode::Enforce => &mut in_play.enforce,
                    Mode::Audit => &mut in_play.audit,
                };
                set.add(compiled.policy.clone()).ok()?;
                in_play.names.push(compiled.name.clone());
                in_play.reads = in_play.reads.and(compiled.reads);
            }
        }
        Some(in_play)
    }

    fn decide(&self, in_play: &InPlay) -> Decision {
        let request = request_of(self.principal, self.action, self.governed, self.attempt);
        let Some(request) = request else { return self.denied() };
        // Before all others, so that a denial names the boundary and nothing that whoever is denied could have changed.
        let bounded = self.ask(&request, &in_play.boundary, &in_play.names);
        let is_bounded = bounded.outcome != Outcome::Silent;
        let enforced =
            if is_bounded { bounded } else { self.ask(&request, &in_play.enforce, &in_play.names) };
        let (effect, reason) = match (enforced.outcome, self.port.authorization) {
            (Outcome::Permit, _) => (Effect::Allow, Reason::Permitted),
            (Outcome::Forbid, _) if is_bounded => (Effect::Deny, Reason::ForbiddenByBoundary),
            (Outcome::Forbid, _) => (Effect::Deny, Reason::Forbidden),
            (Outcome::Error, _) => (Effect::Deny, Reason::EvaluationError),
            // AUDIT is for beginners with their own services; strangers whose bundle is followed are not meant.
            (Outcome::Silent, Authorization::Audit) if !self.principal.is_foreign => {
                (Effect::Allow, Reason::AuditDefaultAllow)
            }
            (Outcome::Silent, _) => (Effect::Deny, Reason::NoPolicyMatched),
        };
        let audited = self.ask(&request, &in_play.audit, &in_play.names);
        let audit = (audited.outcome != Outcome::Silent).then(|| {
            let stops = |outcome| matches!(outcome, Outcome::Forbid | Outcome::Error);
            let is_stopped = stops(enforced.outcome) || stops(audited.outcome);
            let effect = if is_stopped { Effect::Deny } else { Effect::Allow };
            Arc::new(AuditOutcome { effect, policies: audited.policies })
        });
        let (action, resource) = (Some(self.action), Some(self.governed.label.clone()));
        Decision { effect, reason, policies: enforced.policies, audit, action, resource }
    }

    fn ask(&self, request: &Request, policies: &PolicySet, names: &[Arc<str>]) -> Verdict {
        if policies.is_empty() {
            return Verdict { outcome: Outcome::Silent, policies: Arc::default() };
        }
        let response = self.inner.authorizer.is_authorized(request, policies, self.entities);
        let diagnostics = response.diagnostics();
        let named = |ids: &mut dyn Iterator<Item = &str>| -> Arc<[Arc<str>]> {
            let mut found: Vec<_> =
                ids.filter_map(|id| names.iter().find(|name| ***name == *id)).cloned().collect();
            found.sort();
            found.into()
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
                Verdict { outcome: Outcome::Error, policies: errors }
            }
            CedarDecision::Allow => Verdict { outcome: Outcome::Permit, policies: reasons },
            CedarDecision::Deny => Verdict { outcome: Outcome::Silent, policies: reasons },
        }
    }

    fn denied(&self) -> Decision {
        let (action, resource) = (Some(self.action), Some(self.governed.label.clone()));
        Decision { action, resource, ..Decision::denied(Reason::EvaluationError) }
    }
}

#[cfg(test)]
mod tests;
