//! A policy, as it is accepted.

use std::sync::Arc;

use hauberk_identity::TrustDomain;
use hauberk_policy::{Mode, PolicyDocument, Referent};
use hauberk_proto::mesh::v1 as wire;

use super::choice;
use super::key::ResourceKey;
use super::problem::Problems;

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 1_000;

/// Reads the spec of the policy `key`, and reports everything that is wrong with it. Places in the text are reported as
/// `line:column+length: ` before the message, counted from 1 in characters within the text.
pub(crate) fn parse(
    spec: &wire::PolicySpec,
    key: &ResourceKey,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> Option<Arc<PolicyDocument>> {
    let before = problems.count();
    let wire::PolicySpec { cedar, mode, description } = spec;
    let modes = [("ENFORCE", Mode::Enforce), ("AUDIT", Mode::Audit)];
    let mode = mode.as_deref().and_then(|mode| choice::choose(problems, "spec.mode", mode, &modes));
    let length = description.as_deref().map_or(0, |text| text.chars().count());
    if length > LONGEST_DESCRIPTION {
        let message = format!("it has {length} characters; at most {LONGEST_DESCRIPTION} are kept");
        problems.invalid("spec.description", message);
    }
    let (mesh, name) = (key.mesh.clone(), key.name.clone());
    match PolicyDocument::parse(mesh, trust_domain, name, mode.unwrap_or_default(), cedar) {
        Ok(document) => {
            for reference in document.references() {
                if let Referent::Role(_) = reference.referent {
                    let place =
                        format!("{}:{}+{}", reference.line, reference.column, reference.text.chars().count());
                    let message =
                        format!("{place}: {} stands for nobody: roles cannot be defined yet", reference.text);
                    problems.invalid_but("spec.cedar", message, "name the nodes themselves");
                }
            }
            (problems.count() == before).then(|| Arc::new(document))
        }
        Err(mistakes) => {
            for mistake in mistakes {
                let message =
                    format!("{}:{}+{}: {}", mistake.line, mistake.column, mistake.length, mistake.message);
                match mistake.help {
                    Some(help) => problems.invalid_but("spec.cedar", message, help),
                    None => problems.invalid("spec.cedar", message),
                }
            }
            None
        }
    }
}
