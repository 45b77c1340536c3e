//! What the policies of one mode say together.

use std::sync::Arc;

use crate::compiled::Compiled;
use crate::decision::Reason;

/// What one set of policies says.
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    /// Those that say so, sorted.
    pub(super) policies: Arc<[Arc<str>]>,
    /// Those that could not be evaluated, or lacked what they read, sorted.
    pub(super) failed: Arc<[Arc<str>]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Silent,
    Permit,
    Forbid,
    /// Nobody knows what a policy would say.
    Unknown(Reason),
}

impl Verdict {
    /// Nobody knows what these would say.
    pub(super) fn unknown(reason: Reason, policies: Arc<[Arc<str>]>) -> Self {
        Self { outcome: Outcome::Unknown(reason), policies, failed: Arc::default() }
    }

    /// Whether the conditions of one of those that were asked were met, where what was decided tells.
    pub(super) fn met_by(&self, member: &Compiled) -> Option<bool> {
        let has = |sorted: &[Arc<str>]| sorted.binary_search(&member.name).is_ok();
        match (self.outcome, member.permits) {
            (Outcome::Silent, _) | (Outcome::Permit, false) => Some(false),
            (Outcome::Permit, true) => (!has(&self.failed)).then(|| has(&self.policies)),
            (Outcome::Forbid, false) => (!has(&self.failed)).then(|| has(&self.policies)),
            // Beside a forbid Cedar does not tell what permits say.
            (Outcome::Forbid, true) | (Outcome::Unknown(_), _) => None,
        }
    }
}

/// Sorted.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Arc<[Arc<str>]> {
    let mut names: Vec<_> = names.cloned().collect();
    names.sort();
    names.into()
}
