//! How it goes with the questions to one endpoint.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use tokio::sync::{Mutex, Notify};

use super::error::RefreshError;

/// Why the latest attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// What stood in the way, in which the answer of whoever was asked may be repeated.
    pub problem: String,
    /// Since when attempts have failed.
    pub since: UnixMillis,
    /// What that says of what is to be done.
    pub hindrance: Hindrance,
}

/// What stands in the way, as far as somebody here can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// It is at an address inside, and would be asked there if the resource allowed that.
    Inside,
    /// No root of the web vouches for it.
    NoWebRoot,
    /// It answers, and not what was asked for: the fault is its publisher's, or of whoever said where to ask.
    Answer,
    /// What it serves is older than what it has served.
    Older,
    /// Who answers is known by another trust domain's bundle, and there is none that could say it.
    Voucher,
    /// A running agent could not enforce it.
    Agent,
    /// The control plane itself.
    Ours,
    /// What passes by itself.
    Passing,
    /// Something else: nobody answers, or not as it should.
    Other,
}

/// An answer that counts.
pub(super) struct Answer {
    /// How often it hints to ask.
    pub(super) hint: Option<Duration>,
    /// Which of its keys are of no use, and why.
    pub(super) passed_over: Vec<String>,
    /// Whether any is.
    pub(super) has_keys: bool,
}

impl Answer {
    /// What becomes of the keys that are not passed over.
    pub(super) fn of_others(&self) -> &'static str {
        if self.has_keys { "its other keys count" } else { "none of its keys counts" }
    }
}

/// What became of the latest attempts. Kept in memory: after a start all are asked at once.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// One question at a time.
    asking: Arc<Mutex<()>>,
    /// Somebody wants it asked before its time.
    wanted: Arc<Notify>,
    succeeded_at: Option<UnixMillis>,
    failing: Option<Failing>,
    /// What of the latest answer was of no use.
    passed_over: Vec<String>,
    /// The number under which there were two bundles, until there is one of another.
    reused: Option<u64>,
}

impl Status {
    pub(super) fn asking(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.asking)
    }

    pub(super) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    pub(super) fn succeed(&mut self, now: UnixMillis) {
        self.succeeded_at = Some(now);
        self.failing = None;
    }

    /// Notes a failure. Says whether it is another than the one before.
    pub(super) fn fail(&mut self, error: &RefreshError, now: UnixMillis) -> bool {
        let (problem, hindrance) = (error.to_string(), error.hindrance());
        let (is_new, since) = match &self.failing {
            Some(former) => (former.problem != problem, former.since),
            None => (true, now),
        };
        self.failing = Some(Failing { problem, since, hindrance });
        is_new
    }

    /// Notes what of an answer was of no use. Says whether there is any, and it is other than before.
    pub(super) fn pass_over(&mut self, passed_over: Vec<String>) -> bool {
        let is_new = !passed_over.is_empty() && self.passed_over != passed_over;
        self.passed_over = passed_over;
        is_new
    }

    pub(super) fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    pub(super) fn reuse(&mut self, number: Option<u64>) {
        self.reused = number;
    }

    pub(super) fn reused(&self) -> Option<u64> {
        self.reused
    }

    pub(super) fn succeeded_at(&self) -> Option<UnixMillis> {
        self.succeeded_at
    }

    pub(super) fn failing(&self) -> Option<Failing> {
        self.failing.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_count_only_where_there_are_any() {
        let answer = |has_keys| Answer { hint: None, passed_over: Vec::new(), has_keys };
        assert_eq!(
            [true, false].map(|any| answer(any).of_others()),
            ["its other keys count", "none of its keys counts"]
        );
    }
}
