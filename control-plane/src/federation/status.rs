//! How it goes with the questions to one endpoint.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use tokio::sync::Mutex;

/// What became of the latest attempts. Kept in memory: after a start all are asked at once.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// One question at a time.
    asking: Arc<Mutex<()>>,
    succeeded_at: Option<UnixMillis>,
    problem: Option<(String, UnixMillis)>,
}

impl Status {
    pub(super) fn asking(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.asking)
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

    pub(super) fn succeeded_at(&self) -> Option<UnixMillis> {
        self.succeeded_at
    }

    pub(super) fn problem(&self) -> Option<(String, UnixMillis)> {
        self.problem.clone()
    }
}
