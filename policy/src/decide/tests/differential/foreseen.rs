//! What is told of a question of which a part is not known must hold for the whole of it.

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use cedar_policy::{Authorizer, Decision as CedarDecision, Policy, PolicySet};
use serde_json::{Value, json};

use super::*;
use crate::context::{Circumstances, Query};
use crate::outlook::{Asked as Part, Asker, Clause, Given, Outlook, Paths};
use crate::pattern::PathPattern;
use crate::reads::FactSet;

/// Leaves out parts of a question, other ones for each question, and holds what is then told of it against what is
/// decided. Gives how often that could be done.
pub(super) fn agrees(
    engine: &Engine,
    asked: &Asked,
    attempt: Attempt<'_>,
    said: &Said,
) -> Result<usize, TestCaseError> {
    // What policies are not asked about.
    if matches!(
        said.reason,
        Reason::NotAPrincipal
            | Reason::NoSuchPort
            | Reason::WrongProtocol
            | Reason::UndeclaredRoute
            | Reason::UserMissing
    ) {
        return Ok(0);
    }
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{asked:?}").hash(&mut hasher);
    let mask = hasher.finish();
    let is_given = |bit: u32| mask >> bit & 1 == 1;
    let port = asked.port;
    let (caller, peer, moment) = (&asked.caller(), &asked.peer(), asked.moment());
    let gathered = asked.gathered(engine);
    let given = Given {
        address: peer.address().filter(|_| is_given(0)),
        tls: peer.tls().filter(|_| is_given(1)).cloned(),
        time: Some(moment.time).filter(|_| is_given(2)),
        certificate_age: asked.age.map(Duration::from_secs).filter(|_| is_given(3)),
        host: gathered.host().filter(|_| is_given(4)).map(str::to_owned),
        headers: gathered.headers().iter().filter(|_| is_given(5)).cloned().collect(),
        made_for: Some(gathered.on_behalf_of().clone()).filter(|_| is_given(9)),
        untold_claims: Vec::new(),
    };
    let (method, path) = match attempt {
        Attempt::Request { method, path, .. } => (Some(method), Some(path)),
        Attempt::Stream => (None, None),
    };
    let without_query = path.map(|path| path.path().to_owned());
    let without_query = without_query.as_deref().map(|path| CanonicalPath::parse("GET", path).unwrap());
    let under = without_query.as_ref().map(|path| path.path().rsplit_once('/').unwrap().0.to_owned() + "/*");
    let under = under.map(|under| PathPattern::parse(&under).unwrap());
    // Many paths, and all methods, take much longer than one.
    let paths = match (mask >> 16 & 7, path, &without_query, &under) {
        (0..3, Some(path), ..) => Paths::Exactly(path),
        (3..5, _, Some(path), _) => Paths::Exactly(path),
        (5..7, _, _, Some(pattern)) => Paths::Matching(pattern),
        _ => Paths::All,
    };
    let method_if_told = method.filter(|_| mask >> 24 & 7 > 0);
    let is_upgrade = matches!(attempt, Attempt::Request { upgrade: true, .. });
    let survey = engine.survey(port, Part { method: method_if_told, paths }, &given).unwrap();
    let asker = Asker { caller: caller.clone(), is_representative: false };
    let prospects = survey.of(&asker);
    let mut memo = engine.caller(caller, peer);
    let decision = memo.decide_as(port, attempt, moment, |action| *action != Action::Upgrade || !is_upgrade);
    let own = prospects.iter().find(|prospect| {
        let is_of_method = prospect.method.is_none() || prospect.method.as_deref() == method;
        let is_of_action = decision.action == Some(prospect.action) && is_of_method;
        is_of_action && Some(&prospect.resource) == decision.resource.as_ref()
    });
    let Some(own) = own else {
        return Err(TestCaseError::fail(format!("{asked:?} {decision:?}: not in {prospects:?}")));
    };
    let told = format!("{asked:?}\n{given:?} {paths:?}\n{own:?}\n{decision:?}");
    match own.outlook {
        Outlook::Always => prop_assert!(decision.is_allowed(), "{told}"),
        Outlook::Never => prop_assert!(!decision.is_allowed(), "{told}"),
        Outlook::Part | Outlook::Conditional => {
            if matches!(
                decision.reason,
                Reason::UnreadableHeader | Reason::UnreadableQuery | Reason::EvaluationError
            ) {
                prop_assert!(!own.denied_where.is_empty(), "{told}");
                return Ok(1);
            }
            let holds = |clauses: &[Clause]| {
                clauses.iter().any(|clause| {
                    let holds = |tree| holds(engine, asked, attempt, own.action, tree);
                    clause.trees.iter().all(holds)
                })
            };
            let permitted = own.reason == Reason::AuditDefaultAllow || holds(&own.permits);
            prop_assert_eq!(permitted && !holds(&own.forbids), decision.is_allowed(), "{}", told);
        }
    }
    Ok(1)
}

/// Whether a condition holds for the whole question.
fn holds(engine: &Engine, asked: &Asked, attempt: Attempt<'_>, action: Action, tree: &Value) -> bool {
    let inner = &*engine.0;
    let caller = asked.caller();
    let principal = inner.principal(&caller).unwrap();
    let (_, target) = inner.locate(asked.port, attempt).unwrap();
    let about = Circumstances {
        caller: &caller,
        is_foreign: principal.is_foreign,
        peer: &asked.peer(),
        moment: asked.moment(),
        action,
        attempt,
        template: target.template,
        query: Query::default(),
    };
    let all = json!({"op": "All"});
    let conditions = json!([{"kind": "when", "body": tree}]);
    let policy = json!({"effect": "permit", "principal": all, "action": all, "resource": all, "conditions": conditions});
    let policy = Policy::from_json(None, policy).unwrap();
    let set = PolicySet::from_policies([policy]).unwrap();
    let resource = &inner.resources[target.resource].resource;
    let (resource, sort) = (resource.uid.clone(), resource.actions);
    let request = about.request(principal.uid.clone(), resource, FactSet::all()).unwrap();
    let carried = about.entities(FactSet::all()).unwrap();
    let entities = with_caller(inner, &principal, sort).unwrap().add_entities(carried, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, &set, &entities);
    response.decision() == CedarDecision::Allow
}
