//! What is refused before policies are asked: connections, and requests for what they are.

use tokio::time::Instant;

use super::Connections;
use super::live::Connection;
use super::passage::Subject;
use super::rules::Ruling;
use crate::decisions::{self, DecisionId, Facts, Outcome, Verdict};

impl Connection {
    /// Records that the connection as such, which came at `since`, was refused.
    pub(crate) fn record_refusal(
        &self,
        connections: &Connections,
        reason: &'static str,
        since: Instant,
    ) -> DecisionId {
        let rules = connections.rules();
        let ruling = Ruling::Refused(reason);
        if let Some(listener) = self.listener() {
            listener.denied(reason);
        }
        let facts = self.facts(rules.view().ok(), &Subject::Stream, &ruling, self.moment(connections), "");
        let recorded = connections.decisions().begin(&facts);
        let outcome = Outcome { duration: since.elapsed(), ..Outcome::default() };
        connections.decisions().finish(&facts, Some(&recorded), &outcome);
        recorded.into_id()
    }

    /// Tells of a request that was refused for what it is, before it came to a decision.
    pub(crate) fn tell_refusal(
        &self,
        connections: &Connections,
        request: decisions::Request<'_>,
        reason: &'static str,
        outcome: &Outcome,
    ) {
        if let Some(listener) = self.listener() {
            listener.decided(Verdict::Deny, reason);
            if request != decisions::Request::Connect {
                listener.answered(outcome.status);
            }
        }
        let decisions = connections.decisions();
        if decisions.wants_outcomes() {
            let rules = connections.rules();
            let ruling = Ruling::Refused(reason);
            let moment = self.moment(connections);
            let facts = self.facts(rules.view().ok(), &Subject::Stream, &ruling, moment, "");
            let facts = Facts { request, ..facts };
            decisions.finish(&facts, None, outcome);
        }
    }
}
