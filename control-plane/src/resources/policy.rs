//! A policy, as it is accepted.

use std::sync::Arc;

use hauberk_identity::TrustDomain;
use hauberk_policy::{Mode, PolicyDocument, PolicyProblem};
use hauberk_proto::mesh::v1 as wire;

use super::catalog::Model;
use super::choice;
use super::key::ResourceKey;
use super::problem::Problems;
use super::template::LinkedPolicy;

/// Reads the spec of the policy `key`, and reports everything that is wrong with it. Places in the text are reported as
/// `line:column+length: ` before the message, counted from 1 in characters within the text.
pub(crate) fn parse(
    spec: &wire::PolicySpec,
    key: &ResourceKey,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> Option<Model> {
    let before = problems.count();
    let wire::PolicySpec { cedar, mode, description, template } = spec;
    let modes = [("ENFORCE", Mode::Enforce), ("AUDIT", Mode::Audit)];
    let mode = mode.as_deref().and_then(|mode| choice::choose(problems, "spec.mode", mode, &modes));
    let mode = mode.unwrap_or_default();
    choice::description(problems, description.as_deref());
    let model = match template {
        Some(link) => {
            if !cedar.is_empty() {
                problems.invalid_but("spec.cedar", "it follows a template, too", "leave one of them out");
            }
            Model::Linked(LinkedPolicy::parse(link, mode, key, problems)?)
        }
        None => Model::Policy(read(cedar, mode, key, trust_domain, problems)?),
    };
    (problems.count() == before).then_some(model)
}

/// The same of a boundary.
pub(crate) fn parse_boundary(
    spec: &wire::BoundarySpec,
    key: &ResourceKey,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> Option<Arc<PolicyDocument>> {
    let before = problems.count();
    let wire::BoundarySpec { cedar, description } = spec;
    choice::description(problems, description.as_deref());
    let document = read(cedar, Mode::Boundary, key, trust_domain, problems)?;
    (problems.count() == before).then_some(document)
}

fn read(
    cedar: &str,
    mode: Mode,
    key: &ResourceKey,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> Option<Arc<PolicyDocument>> {
    let (mesh, name) = (key.mesh.clone(), key.name.clone());
    let read = if problems.are_of_stored() { PolicyDocument::parse_stored } else { PolicyDocument::parse };
    report(read(mesh, trust_domain, name, mode, cedar), problems).map(Arc::new)
}

/// Reports the mistakes in a text.
pub(crate) fn report<T>(read: Result<T, Vec<PolicyProblem>>, problems: &mut Problems) -> Option<T> {
    let mistakes = match read {
        Ok(read) => return Some(read),
        Err(mistakes) => mistakes,
    };
    for mistake in mistakes {
        let message = format!("{}:{}+{}: {}", mistake.line, mistake.column, mistake.length, mistake.message);
        match mistake.help {
            Some(help) => problems.invalid_but("spec.cedar", message, help),
            None => problems.invalid("spec.cedar", message),
        }
    }
    None
}
