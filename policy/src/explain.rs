//! Why a decision came out as it did, and what would change it.

mod conditions;
mod near;

use std::sync::Arc;

use cedar_policy::{
    AuthorizationError, Entities, EntityUid, Policy, PolicySet, PrincipalConstraint, Request,
    ResourceConstraint,
};
use hauberk_identity::Name;
use serde_json::Value;

use crate::compile::{Engine, Governed};
use crate::compiled::Compiled;
use crate::context::{Circumstances, Query, rpc_of};
use crate::decide::with_caller;
use crate::decision::{Attempt, Caller, Decision, Effect, Question, Reason};
use crate::document::Mode;
use crate::facts::Principal;
use crate::grant::{Access, Grant, GrantCaller, GrantTarget, Verb};
use crate::pattern::PathPattern;
use crate::reads::FactSet;
use crate::scope::{Place, Protocol};
use crate::slice::admits;
use crate::user::OnBehalfOf;
use crate::vocabulary::{Action, ActionSet};
use conditions::failed;
pub(crate) use conditions::{alone, conditions, text_of_expression};
use near::Near;

/// A decision with its grounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The mesh whose policies decided.
    pub mesh: Name,
    /// Who asked: a SPIFFE id, or `anonymous`.
    pub caller: String,
    /// What was asked for, such as `GET /orders/1`.
    pub attempt: String,
    /// The outcome.
    pub decision: Decision,
    /// All statements that the node holds: those of the boundary that applied, those that decided, then by how few of
    /// their parts did not hold; where nothing permitted, permits before all others. Empty where the question failed
    /// before any policy was asked.
    pub policies: Vec<PolicyNote>,
    /// The grant that would let exactly this through, where one would.
    pub suggestion: Option<Grant>,
    /// The permits that lack nothing but a user, where there is none. A grant would let it through for all, and is not
    /// suggested then.
    pub for_users: Vec<Arc<str>>,
    /// The other permits whose scope admits this, and that fail of conditions on more than method and path alone. A
    /// grant lets it through whatever they ask for.
    pub conditional: Vec<Arc<str>>,
}

/// How one statement met a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyNote {
    /// The statement.
    pub name: Arc<str>,
    /// Whether it permits or forbids.
    pub effect: Effect,
    /// Whether it decides.
    pub mode: Mode,
    /// Whether its scope admits the principal.
    pub principal: bool,
    /// Whether its scope admits the action.
    pub action: bool,
    /// Whether its scope admits the resource.
    pub resource: bool,
    /// Every part of it that did not hold; empty where it applied.
    pub mismatches: Vec<Mismatch>,
    /// Nothing of it failed but conditions on the user that it is made for.
    pub lacks_user: bool,
    /// One of its conditions that did not hold asks of nothing beyond method and path: it is for other requests.
    pub is_for_others: bool,
    /// Why its conditions could not be evaluated, if so.
    pub error: Option<String>,
}

/// A part of a statement that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What was compared: `principal`, `action`, `resource`, `context.path`, or a whole condition.
    pub field: String,
    /// What the statement wants.
    pub expected: String,
    /// What there was.
    pub was: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, was {}", self.field, self.expected, self.was)
    }
}

impl Explanation {
    /// The command that would let exactly this through where it was decided, if one would.
    pub fn command(&self) -> Option<String> {
        self.suggestion.as_ref().map(|grant| grant.command_in(&self.mesh, Verb::Allow))
    }

    /// The statement that decided, or else the permit that came nearest to deciding.
    pub fn nearest(&self) -> Option<&PolicyNote> {
        let decided = self.policies.iter().find(|note| self.decision.policies.contains(&note.name));
        decided.or_else(|| {
            self.policies.iter().find(|note| note.effect == Effect::Allow && note.mode == Mode::Enforce)
        })
    }
}

impl Engine {
    /// Decides a question afresh and tells why. Of a path with two readings, why the graver of them came out as it did.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let inner = &*self.0;
        let decision = self.decide(question);
        let as_slashes = match question.attempt {
            Attempt::Request { path, .. } => path.with_slashes(),
            Attempt::Stream => None,
        };
        let has_two_readings = as_slashes.is_some();
        let question = &match (question.attempt, &as_slashes) {
            (Attempt::Request { method, upgrade, gathered, .. }, Some(path)) => {
                let attempt = Attempt::Request { method, path, upgrade, gathered };
                let other = Question { attempt, ..*question };
                let told = |decision: Decision| (decision.reason, decision.resource);
                let is_own = told(self.decide(&other)) == (decision.reason, decision.resource.clone());
                if is_own { other } else { *question }
            }
            _ => *question,
        };
        let for_nobody;
        let question = &match question.attempt {
            // That there is no user is known: it was denied for that.
            Attempt::Request { method, path, upgrade, gathered }
                if decision.reason == Reason::UserMissing
                    && *gathered.on_behalf_of() == OnBehalfOf::NotLookedAt =>
            {
                for_nobody = gathered.clone().made_for(OnBehalfOf::Nobody);
                let attempt = Attempt::Request { method, path, upgrade, gathered: &for_nobody };
                Question { attempt, ..*question }
            }
            _ => *question,
        };
        let principal = inner.principal(question.caller);
        let mut policies = Vec::new();
        let (mut suggestion, mut near) = (None, Near::default());
        if let (Some(principal), Ok((port, target))) =
            (&principal, inner.locate(question.port, question.attempt))
            && let Some(governed) = inner.resources.get(target.resource)
            && let Some(entities) = with_caller(inner, principal, governed.resource.actions)
        {
            // Of an upgrade, the half that decided; both, where they came out alike.
            let Question { caller, peer, attempt, moment, .. } = *question;
            let mut memo = self.caller(caller, peer);
            let mut decides = |action: &Action| {
                let half = memo.decide_as(question.port, attempt, moment, |asked| asked == action);
                half.reason == decision.reason
            };
            let (is_foreign, template) = (principal.is_foreign, target.template);
            let case = |action| {
                let about = Circumstances {
                    caller,
                    is_foreign,
                    peer,
                    moment,
                    action,
                    attempt,
                    template,
                    query: Query::default(),
                };
                let carried = about.entities(FactSet::all())?;
                let entities = entities.clone().add_entities(carried, None).ok()?;
                Some(Case { engine: self, principal, governed, entities, about })
            };
            let cases: Vec<_> = target.actions().filter(|action| decides(action)).filter_map(case).collect();
            policies = inner
                .policies
                .iter()
                .filter_map(|compiled| {
                    cases.iter().map(|case| case.note(compiled)).min_by_key(PolicyNote::distance)
                })
                .collect();
            let is_unmatched = matches!(decision.reason, Reason::NoPolicyMatched | Reason::AuditDefaultAllow);
            if is_unmatched {
                near = Near::of(inner.policies.iter().zip(&policies), question.attempt);
            }
            policies.sort_by_key(|note: &PolicyNote| {
                let decided = decision.policies.contains(&note.name);
                // Where a permit was lacking, one that comes near is of interest, and no forbid.
                let is_beside = is_unmatched && !(note.effect == Effect::Allow && note.mode == Mode::Enforce);
                (!note.is_bound(), !decided, is_beside, note.distance(), note.name.clone())
            });
            if is_unmatched {
                // A grant of one reading alone would open nothing.
                let is_exact = !near.is_for_users && !has_two_readings;
                suggestion = self.suggest(question, port.protocol).filter(|_| is_exact);
            }
        }
        let caller = match question.caller {
            Caller::Peer(id) => id.to_string(),
            Caller::Anonymous => "anonymous".to_owned(),
        };
        let attempt = match question.attempt {
            Attempt::Request { method, path, .. } => format!("{method} {path}"),
            Attempt::Stream => "a stream".to_owned(),
        };
        let mesh = inner.scope.mesh.clone();
        let Near { for_users, conditional, .. } = near;
        Explanation { mesh, caller, attempt, decision, policies, suggestion, for_users, conditional }
    }

    fn suggest(&self, question: &Question<'_>, protocol: Protocol) -> Option<Grant> {
        let scope = &self.0.scope;
        let caller = match question.caller {
            Caller::Peer(id) => GrantCaller::of(id, &scope.trust_domain, &scope.mesh)?,
            Caller::Anonymous => GrantCaller::Anonymous,
        };
        let port = scope.ports.iter().find(|port| port.number == question.port)?;
        // A service is what callers know; but it must mean this port alone, here and on other nodes.
        let (target, needs_port) = match port.services.as_slice() {
            [service] => {
                let ports = scope.ports.iter().filter(|port| port.services.contains(service));
                (GrantTarget::Service(service.clone()), ports.count() > 1)
            }
            _ => (self.own_target()?, scope.ports.len() > 1),
        };
        let access = match question.attempt {
            Attempt::Stream => Access::All,
            Attempt::Request { path, .. } if protocol == Protocol::Grpc => {
                let (service, method) = rpc_of(path)?;
                Access::exactly_rpc(service, method).ok()?
            }
            // Command lines write methods in upper case, and policies compare them as they are sent.
            Attempt::Request { method, .. } if method.to_uppercase() != method => return None,
            Attempt::Request { method, path, upgrade, .. } => {
                let upgrade = upgrade.then_some(Action::Upgrade.as_str());
                let methods = [method].into_iter().chain(upgrade).map(str::to_owned).collect();
                Access::Http { methods, path: Some(PathPattern::exactly(path.path())) }
            }
        };
        Some(Grant { callers: vec![caller], target, port: needs_port.then_some(question.port), access })
    }

    fn own_target(&self) -> Option<GrantTarget> {
        let scope = &self.0.scope;
        let node = match &scope.place {
            Place::Node(node) => node,
            Place::External(external) => return Some(GrantTarget::External(external.clone())),
        };
        match GrantCaller::of(node, &scope.trust_domain, &scope.mesh)? {
            GrantCaller::Node(node) => Some(GrantTarget::Node(node)),
            GrantCaller::Gateway(gateway) => Some(GrantTarget::Gateway(gateway)),
            _ => None,
        }
    }
}

/// One question with all that its explanation needs.
struct Case<'a> {
    engine: &'a Engine,
    principal: &'a Principal,
    governed: &'a Governed,
    entities: Entities,
    about: Circumstances<'a>,
}

impl Case<'_> {
    fn note(&self, compiled: &Compiled) -> PolicyNote {
        let principal = compiled.admits_principal(self.principal);
        let can_be_done = self.about.action.bits().common(self.governed.resource.actions);
        let action = compiled.actions.intersects(can_be_done);
        let resource = admits(&compiled.resource, &self.governed.resource);
        let mut mismatches = Vec::new();
        if !principal {
            let expected = self.wanted_principal(&compiled.principal);
            let was = self.name(&self.principal.uid);
            mismatches.push(Mismatch { field: "principal".to_owned(), expected, was });
        }
        if !action {
            let admitted = Action::ALL.into_iter().filter(|action| compiled.actions.contains(*action));
            let expected = admitted.map(Action::as_str).collect::<Vec<_>>().join(", ");
            let mut was = self.about.action.as_str().to_owned();
            if self.about.action == Action::Call {
                let reads = can_be_done.intersects(ActionSet::READING_CALL);
                was.push_str(if reads { " of a method that reads" } else { " of a method that writes" });
            }
            mismatches.push(Mismatch { field: "action".to_owned(), expected, was });
        }
        if !resource {
            let expected = self.wanted_resource(&compiled.resource);
            let was = self.name(&self.governed.resource.uid);
            mismatches.push(Mismatch { field: "resource".to_owned(), expected, was });
        }
        let is_in_scope = mismatches.is_empty();
        let lack = self.about.lack(compiled);
        let request = self.request();
        let is_lacking = is_in_scope && lack.is_some();
        // Its scope was looked at.
        let policy = (compiled.is_conditional && !is_lacking).then(|| compiled.policy());
        let policy = policy.transpose().map_err(|error| error.to_string());
        let error = match (lack, &policy) {
            _ if !is_in_scope => None,
            (Some(reason), _) => Some(reason.as_str().to_owned()),
            (None, Err(error)) => Some(error.clone()),
            // The statement as a whole has the word: a condition that does not hold spares those after it.
            (None, Ok(policy)) => {
                let policy = policy.as_ref();
                policy.and_then(|policy| self.holds_as_written(policy, request.as_ref()).err())
            }
        };
        let conditions = policy.ok().flatten().map_or_else(Vec::new, |policy| conditions(&policy));
        let mut lacks_user = is_in_scope && error.is_none();
        let mut is_for_others = false;
        for condition in conditions {
            match self.holds(&condition, request.as_ref()) {
                Ok(true) => {}
                // It is what the statement fails of.
                Err(_) if error.is_some() => {}
                // By itself a condition may well not make sense.
                Ok(false) | Err(_) => {
                    lacks_user &= near::is_of_users_alone(&condition);
                    is_for_others |= !near::asks_beyond_path_and_method(&condition);
                    mismatches.push(failed(&condition, request.as_ref(), &self.entities));
                }
            }
        }
        let effect = if compiled.permits { Effect::Allow } else { Effect::Deny };
        let (name, mode) = (compiled.name.clone(), compiled.mode);
        lacks_user &= !mismatches.is_empty();
        PolicyNote {
            name,
            effect,
            mode,
            principal,
            action,
            resource,
            mismatches,
            lacks_user,
            is_for_others,
            error,
        }
    }

    fn request(&self) -> Option<Request> {
        let (principal, resource) = (self.principal.uid.clone(), self.governed.resource.uid.clone());
        self.about.request(principal, resource, FactSet::all())
    }

    /// Whether one condition holds by itself.
    fn holds(&self, condition: &Value, request: Option<&Request>) -> Result<bool, String> {
        let policy = Policy::from_json(None, alone(condition)).map_err(|error| error.to_string())?;
        self.holds_as_written(&policy, request)
    }

    fn holds_as_written(&self, policy: &Policy, request: Option<&Request>) -> Result<bool, String> {
        let id = policy.id().clone();
        let set = PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string())?;
        let request = request.ok_or("the request does not fit the schema")?;
        let response = self.engine.0.authorizer.is_authorized(request, &set, &self.entities);
        match response.diagnostics().errors().next() {
            Some(AuthorizationError::PolicyEvaluationError(error)) => Err(error.inner().to_string()),
            None => Ok(response.diagnostics().reason().any(|reason| *reason == id)),
        }
    }

    fn wanted_principal(&self, constraint: &PrincipalConstraint) -> String {
        match constraint {
            PrincipalConstraint::Any => "anyone".to_owned(),
            PrincipalConstraint::Eq(uid) => self.name(uid),
            PrincipalConstraint::In(uid) => format!("in {}", self.name(uid)),
            PrincipalConstraint::Is(type_name) => format!("any {type_name}"),
            PrincipalConstraint::IsIn(type_name, uid) => format!("any {type_name} in {}", self.name(uid)),
        }
    }

    fn wanted_resource(&self, constraint: &ResourceConstraint) -> String {
        match constraint {
            ResourceConstraint::Any => "anything".to_owned(),
            ResourceConstraint::Eq(uid) => self.name(uid),
            ResourceConstraint::In(uid) => format!("in {}", self.name(uid)),
            ResourceConstraint::Is(type_name) => format!("any {type_name}"),
            ResourceConstraint::IsIn(type_name, uid) => format!("any {type_name} in {}", self.name(uid)),
        }
    }

    /// `Node "web"`.
    fn name(&self, uid: &EntityUid) -> String {
        format!("{} {:?}", uid.type_name(), self.engine.0.scope.names().shorten(uid))
    }
}

#[cfg(test)]
mod tests;
