//! What of Cedar's findings is told: mistakes, without what only follows from them.

use cedar_policy::{PolicyId, PolicySet, ValidationError, ValidationResult, ValidationWarning};

use crate::vocabulary::{Action, VOCABULARY};

/// What HTTP requests and gRPC calls bring along and TCP streams do not, and what gRPC calls alone do, as the schema has it.
const HTTP_FACTS: [&str; 9] =
    ["host", "path", "method", "query", "headers", "params", "user", "claims", "actors"];
const CALL_FACTS: [&str; 2] = ["service", "rpc"];

/// The findings that say something that no other finding says.
pub(super) fn worth_telling(result: &ValidationResult) -> (Vec<&ValidationError>, Vec<&ValidationWarning>) {
    let is_error = |policy: &PolicyId, which: fn(&ValidationError) -> bool| {
        result.validation_errors().any(|error| error.policy_id() == policy && which(error))
    };
    let applies_to_nothing = |policy: &PolicyId| {
        let mut warnings = result.validation_warnings().filter(|warning| warning.policy_id() == policy);
        warnings.any(|warning| matches!(warning, ValidationWarning::InvalidActionApplication(_)))
    };
    let errors = result.validation_errors().filter(|error| {
        // The conditions of a statement whose actions it does not know, Cedar judges by every action there is.
        is_unknown_name(error) || !is_error(error.policy_id(), is_unknown_action)
    });
    let warnings = result.validation_warnings().filter(|warning| {
        let policy = warning.policy_id();
        match warning {
            ValidationWarning::InvalidActionApplication(_) => !is_error(policy, is_unknown_name),
            ValidationWarning::ImpossiblePolicy(_) => {
                !is_error(policy, is_unknown_name) && !applies_to_nothing(policy)
            }
            _ => true,
        }
    });
    (errors.collect(), warnings.collect())
}

/// Whether some statement may be about gRPC methods. Of all others it makes no difference which of these read.
pub(super) fn may_be_calls(set: &PolicySet) -> bool {
    let of_policies = set.policies().map(|policy| policy.action_constraint());
    let mut all = of_policies.chain(set.templates().map(|template| template.action_constraint()));
    all.any(|constraint| VOCABULARY.admitted(&constraint).contains(Action::Call))
}

/// Whether a statement that can never apply by this warning may well apply by another validation.
pub(super) fn applies(other: &ValidationResult, warning: &ValidationWarning) -> bool {
    let is_impossible =
        |warning: &ValidationWarning| matches!(warning, ValidationWarning::ImpossiblePolicy(_));
    let same = |other: &ValidationWarning| is_impossible(other) && other.policy_id() == warning.policy_id();
    is_impossible(warning) && !other.validation_warnings().any(same)
}

/// What to do about a finding, where Cedar knows less of that than we do: it looks for the nearest name of what a request of one action
/// has, and does not know that the statement is meant for those of others.
pub(super) fn advice(message: &str) -> Option<String> {
    if message.starts_with("empty set literals are forbidden") {
        return Some("ask a set `.isEmpty()` instead: `context.actors.isEmpty()`".to_owned());
    }
    let (name, rest) = message.strip_prefix("attribute `")?.split_once("` in context for Action::\"")?;
    let action = rest.strip_suffix("\" not found")?;
    let first = name.split('.').next().unwrap_or(name);
    let (of_http, of_calls) = (HTTP_FACTS.contains(&first), CALL_FACTS.contains(&first));
    let (what, those) = match action {
        "connect" if of_http => ("TCP streams", "action in [Action::\"http\", Action::\"call\"]"),
        "connect" if of_calls => ("TCP streams", "action == Action::\"call\""),
        "connect" | "call" => return None,
        _ if of_calls => ("HTTP requests", "action == Action::\"call\""),
        _ => return None,
    };
    let http = if of_http { "`action in Action::\"http\"` for HTTP requests, or " } else { "" };
    let besides = if of_http { " for those and gRPC calls" } else { " for gRPC calls" };
    Some(format!(
        "the statement speaks of {what} too, which have no `{first}`: write {http}`{those}`{besides}; or ask `context has {first} &&` before it"
    ))
}

fn is_unknown_name(error: &ValidationError) -> bool {
    is_unknown_action(error) || matches!(error, ValidationError::UnrecognizedEntityType(_))
}

fn is_unknown_action(error: &ValidationError) -> bool {
    matches!(error, ValidationError::UnrecognizedActionId(_))
}
