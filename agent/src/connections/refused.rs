//! What is refused before policies are asked: connections, and requests for what they are.

use tokio::time::Instant;

use super::Connections;
use super::live::Connection;
use super::passage::Subject;
use super::rules::Ruling;
use crate::decisions::{self, DecisionId, Facts, Outcome, Verdict};
use crate::mesh::ViewStamp;
use crate::wire::strict::Broken;

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
        let view = rules.view().ok().map(ViewStamp::of);
        let facts = self.facts(view.as_ref(), &Subject::Stream, &ruling, self.moment(connections), "");
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
        self.tell_outcome(connections, request, reason, outcome);
    }

    /// Tells of bytes that are no HTTP/1.1 requests: nobody knows for what.
    pub(crate) fn tell_broken(&self, connections: &Connections, broken: Broken, outcome: &Outcome) {
        let unread = decisions::Request::Http { method: "", path: "", is_upgrade: false };
        if !broken.is_under_way {
            return self.tell_refusal(connections, unread, broken.fault, outcome);
        }
        // The request whose body it is in is counted by itself.
        if let Some(listener) = self.listener() {
            listener.denied(broken.fault);
        }
        self.tell_outcome(connections, unread, broken.fault, outcome);
    }

    fn tell_outcome(
        &self,
        connections: &Connections,
        request: decisions::Request<'_>,
        reason: &'static str,
        outcome: &Outcome,
    ) {
        let decisions = connections.decisions();
        if decisions.wants_outcomes() {
            let rules = connections.rules();
            let ruling = Ruling::Refused(reason);
            let moment = self.moment(connections);
            let view = rules.view().ok().map(ViewStamp::of);
            let facts = self.facts(view.as_ref(), &Subject::Stream, &ruling, moment, "");
            let facts = Facts { request, ..facts };
            decisions.finish(&facts, None, outcome);
        }
    }
}
