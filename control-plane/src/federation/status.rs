//! How it goes with the questions to one endpoint.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use tokio::sync::{Mutex, Notify};

/// What became of the latest attempts. Kept in memory: after a start all are asked at once.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// One question at a time.
    asking: Arc<Mutex<()>>,
    /// Somebody wants it asked before its time.
    wanted: Arc<Notify>,
    succeeded_at: Option<UnixMillis>,
    problem: Option<(String, UnixMillis)>,
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
        self.problem = None;
    }

    /// Notes a failure. Says whether it is another than the one before.
    pub(super) fn fail(&mut self, problem: &str, now: UnixMillis) -> bool {
        let (is_new, since) = match &self.problem {
            Some((former, since)) => (former != problem, *since),
            None => (true, now),
        };
        self.problem = Some((problem.to_owned(), since));
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

    pub(super) fn problem(&self) -> Option<(String, UnixMillis)> {
        self.problem.clone()
    }
}
