//! What is recorded of calls, and deciding it once more.

use std::sync::Arc;

use super::Undecidable;
use crate::circumstances::{Gathered, Moment, Peer};
use crate::decision::{Attempt, Caller, Decision};
use crate::memo::CallerMemo;
use crate::outcomes::ConditionOutcome;
use crate::path::{CanonicalPath, EscapedSlashes};
use crate::vocabulary::Action;

/// What is known of calls by one caller, on one port, with one action, of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFlow {
    /// Who called.
    pub caller: Caller,
    /// The called node's listener.
    pub port: u16,
    /// What was done.
    pub action: Action,
    /// The template of the route that they belonged to; empty where there was none.
    pub route: Box<str>,
    /// Some of them.
    pub calls: Vec<RecordedCall>,
    /// How many more there were.
    pub others: u64,
    /// How conditions came out in each of them, as far as that was recorded.
    pub outcomes: Arc<[ConditionOutcome]>,
}

/// Calls that are alike in all that policies can know of them, but for the time and the certificate's age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// The connection, as far as it was recorded.
    pub peer: Peer,
    /// When the latest of them was.
    pub moment: Moment,
    /// The method, as sent; empty for a stream.
    pub method: Box<str>,
    /// The path, and the query as far as that is known; empty for a stream.
    pub target: Box<str>,
    /// What else was recorded of the request's head.
    pub gathered: Gathered,
    /// The query was recorded, or there was none.
    pub is_query_known: bool,
    /// How many they are.
    pub count: u64,
}

impl RecordedCall {
    /// Gives `ask` what was attempted; nothing where that cannot be read, or is refused by what becomes of escaped
    /// slashes.
    pub fn with<T>(
        &self,
        flow: &RecordedFlow,
        escaped: EscapedSlashes,
        ask: impl FnOnce(Attempt<'_>) -> T,
    ) -> Option<T> {
        if flow.action == Action::Connect {
            return Some(ask(Attempt::Stream));
        }
        let path = CanonicalPath::parse_with(&self.method, &self.target, escaped).ok()?;
        let (upgrade, gathered) = (flow.action == Action::Upgrade, &self.gathered);
        Some(ask(Attempt::Request { method: &self.method, path: &path, upgrade, gathered }))
    }

    /// Whether it is what it was recorded as.
    pub(super) fn counts_as(&self, action: Action) -> bool {
        match action {
            // The listener's protocol says so.
            Action::Connect | Action::Call => true,
            action => Action::of_method(&self.method) == action,
        }
    }

    /// Decides one of them by a memory of its caller's.
    ///
    /// # Errors
    /// It depends on what was not recorded.
    pub fn decide(
        &self,
        memo: &mut CallerMemo,
        port: u16,
        attempt: Attempt<'_>,
    ) -> Result<Decision, Undecidable> {
        let decision = Arc::unwrap_or_clone(memo.decide(port, attempt, self.moment));
        // Of users nothing is recorded but how conditions came out.
        if decision.lacks_facts(&self.peer, self.is_query_known, false) {
            return Err(Undecidable::FactsNotRecorded);
        }
        Ok(decision)
    }
}
