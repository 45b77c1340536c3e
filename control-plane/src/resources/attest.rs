//! An enrollment of agents by evidence, as it is accepted.

mod rule;
mod source;

use std::collections::BTreeSet;

use hauberk_identity::{EvidenceSelector, NodeName};
use hauberk_proto::mesh::v1 as wire;

use super::problem::Problems;
use rule::AttestRule;
pub use rule::{Makes, NoRule};
pub use source::{ClusterSource, EvidenceSource, TokenVerifier};

/// The most rules of one enrollment.
const MOST_RULES: usize = 256;

/// The most labels of one join token: a rule asks for no more.
pub const MOST_LABELS: usize = rule::MOST_SELECTORS;

/// An enrollment that is well-formed: one source of evidence, and what agents become by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestEnrollment {
    source: EvidenceSource,
    rules: Vec<AttestRule>,
}

impl AttestEnrollment {
    /// Reads a spec's `attest`, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::AttestEnrollment, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::AttestEnrollment { rules, evidence } = spec;
        let source = source::read(evidence.as_ref(), problems);
        let attestor = evidence.as_ref().map(source::attestor);
        if rules.is_empty() {
            let help = "write rules: [{virtualNode: …, selectors: […]}]";
            problems.invalid_but("spec.attest.rules", "what agents become is missing", help);
        }
        if rules.len() > MOST_RULES {
            problems
                .invalid("spec.attest.rules", format!("{} are too many: at most {MOST_RULES}", rules.len()));
        }
        let read = rules.iter().take(MOST_RULES).enumerate();
        let rules: Vec<_> =
            read.filter_map(|(index, rule)| rule::read(index, rule, attestor, problems)).collect();
        if problems.count() == before {
            rule::check_overlaps(&rules, problems);
        }
        let enrollment = Self { source: source?, rules };
        (problems.count() == before).then_some(enrollment)
    }

    /// What evidence is verified by.
    pub fn source(&self) -> &EvidenceSource {
        &self.source
    }

    /// The virtual nodes and gateways that agents may become.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.rules.iter().map(|rule| &rule.makes.node)
    }

    /// What agents become whose evidence has these properties.
    ///
    /// # Errors
    /// No rule fits, or rules that do not say the same.
    pub fn makes(&self, found: &BTreeSet<EvidenceSelector>) -> Result<&Makes, NoRule> {
        rule::judge(&self.rules, found)
    }
}

#[cfg(test)]
mod tests;
