//! One request or stream that leaves the mesh, from its decision to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use hauberk_identity::{Name, Serial};
use hauberk_policy::{Caller, Counted, Gathered, Moment, Peer, Reason};
use http::Response;
use tokio::time::Instant;

use super::super::Connections;
use super::super::passage::{DecidedFields, Subject};
use super::super::rules::Ruling;
use super::Destination;
use super::facts::facts;
use crate::decisions::{DecisionId, Facts, Outcome, Recorded};
use crate::mesh::{External, ViewStamp};
use crate::users::TokenFields;
use crate::wire::meter::Meter;

/// A request or stream that was decided. Dropped when it has ended, it leaves the registry and its outcome is told.
#[derive(Debug)]
pub(crate) struct Leave {
    connections: Arc<Connections>,
    key: usize,
    to: Destination,
    meter: Arc<Meter>,
    gathered: Option<Arc<Gathered>>,
    /// What the external service is called.
    name: Option<Name>,
    decided: Decided,
    status: AtomicU16,
    since: Instant,
    recorded: Option<Recorded>,
    /// What was decided of it is among what is counted.
    is_counted: bool,
}

/// What was decided, and by what. It may last for days, and holds on to no rules.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) view: Option<ViewStamp>,
    /// The external service that is called, until it is connected to.
    pub(super) external: Option<Arc<External>>,
    pub(super) caller: Option<(Caller, Serial)>,
    pub(super) peer: Peer,
    pub(super) moment: Moment,
    /// Where tokens stood.
    pub(super) tokens: TokenFields,
    pub(super) ruling: Ruling,
}

impl Leave {
    /// What was registered under this key, with what was decided of it.
    pub(super) fn new(
        connections: &Arc<Connections>,
        (key, to): (usize, Destination),
        meter: Arc<Meter>,
        subject: &Subject,
        decided: Decided,
        since: Instant,
    ) -> Self {
        let mut leave = Self {
            connections: Arc::clone(connections),
            key,
            to,
            meter,
            gathered: subject.gathered().cloned(),
            name: decided.external.as_ref().map(|external| external.name.clone()),
            decided,
            status: AtomicU16::new(0),
            since,
            recorded: None,
            is_counted: false,
        };
        leave.record(subject);
        leave
    }

    /// Whether it may leave.
    pub(crate) fn is_allowed(&self) -> bool {
        self.decided.ruling.is_allowed()
    }

    /// Why it may not, where policies were not asked or said so before their rules: a stable name.
    pub(crate) fn reason(&self) -> &'static str {
        self.decided.ruling.as_told().reason()
    }

    /// What the external service is called that is.
    pub(crate) fn external_name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// The external service that is called, for whoever connects to it, once; none where it may not leave.
    pub(crate) fn take_external(&mut self) -> Option<Arc<External>> {
        self.decided.external.take().filter(|_| self.is_allowed())
    }

    /// What counts its bytes, and stops it when it is cut.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The id of the decision, where it was not plainly to allow.
    pub(crate) fn decision(&self) -> Option<&DecisionId> {
        self.recorded.as_ref().map(Recorded::id)
    }

    /// The fields that it was decided by when it began, or since.
    pub(crate) fn decided_fields(&self) -> DecidedFields {
        let flows = self.connections.leaving.flows();
        let since = flows.slab.get(self.key);
        DecidedFields {
            gathered: [self.gathered.clone(), since.and_then(|flow| flow.subject.gathered().cloned())],
            tokens: [self.decided.tokens.clone(), since.map(|flow| flow.tokens.clone()).unwrap_or_default()],
        }
    }

    /// Notes where it is connected to. Whether it may still be there is decided with everything else from now on.
    pub(crate) fn connected_to(&self, address: SocketAddr) {
        let mut flows = self.connections.leaving.flows();
        let Some(flow) = flows.slab.get_mut(self.key) else { return };
        flow.address = Some(address);
        let rules = self.connections.rules();
        let external = rules.view().ok().and_then(|view| view.external_with(&self.to.host));
        // Rules that came in the meantime did not know the address.
        if external.is_none_or(|external| flow.refusal(external).is_some()) {
            self.meter.cut();
        }
    }

    /// It is under way: nothing but a change refuses it from here on, so that it counts as what it was decided to be.
    pub(crate) fn let_out(&mut self) {
        if let Some(subject) = self.subject() {
            self.count(&subject);
        }
    }

    /// It is not let out after all, for this reason, which stands in the record from here on.
    pub(crate) fn refuse(&mut self, reason: &'static str) {
        let Some(subject) = self.subject() else { return };
        self.decided.ruling = Ruling::Refused(reason);
        self.meter.cut();
        self.record(&subject);
    }

    /// Notes what is answered.
    pub(crate) fn answered<B>(&self, response: &Response<B>) {
        self.status.store(response.status().as_u16(), Ordering::Relaxed);
    }

    pub(in super::super) fn subject(&self) -> Option<Subject> {
        self.connections.leaving.flows().slab.get(self.key).map(|flow| flow.subject.clone())
    }

    fn count(&mut self, subject: &Subject) {
        if !std::mem::replace(&mut self.is_counted, true)
            && let Some(facts) = self.facts(subject)
        {
            self.connections.decisions().count(&facts, Counted::No);
        }
    }

    /// Gives whatever is not plainly allowed an id.
    fn record(&mut self, subject: &Subject) {
        let is_plain = matches!(&self.decided.ruling, Ruling::Policy(decision)
            if decision.reason == Reason::Permitted && decision.audit.is_none());
        let Some(facts) = self.facts(subject) else { return };
        if !is_plain {
            self.recorded = Some(self.connections.decisions().begin(&facts));
        }
    }

    fn facts<'a>(&'a self, subject: &'a Subject) -> Option<Facts<'a>> {
        let Decided { view, caller, peer, ruling, moment, .. } = &self.decided;
        Some(facts(
            (view.as_ref(), self.name.as_ref()),
            caller.as_ref()?,
            (&self.to, peer),
            subject,
            (ruling, *moment),
        ))
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(flow) = self.connections.leaving.end(self.key) else { return };
        self.count(&flow.subject);
        let decisions = self.connections.decisions();
        if self.recorded.is_none() && !decisions.wants_outcomes() {
            return;
        }
        let (bytes_in, bytes_out) = self.meter.counted();
        let (status, duration) = (self.status.load(Ordering::Relaxed), self.since.elapsed());
        let Some(facts) = self.facts(&flow.subject) else { return };
        let outcome = Outcome { status, grpc_status: None, duration, bytes_in, bytes_out };
        decisions.finish(&facts, self.recorded.as_ref(), &outcome);
    }
}
