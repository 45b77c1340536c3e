//! What leaves the mesh: registered first and decided then, by the agent of the node whose app calls, and decided again whenever
//! rules or time change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::Serial;
use hauberk_policy::{Caller, Counted, Gathered, Moment, OnBehalfOf, Peer, Reason};
use hauberk_proto::convert::ExternalProtocol;
use http::Response;
use slab::Slab;
use tokio::time::Instant;

use super::Connections;
use super::enforce::WALK_STEP;
use super::kept::{Head, Held, Kept, OUR_OWN, Room};
use super::passage::Subject;
use super::rules::{Rules, Ruling};
use crate::decisions::{DecisionId, Facts, Outcome, Recorded};
use crate::mesh::{External, NodeView};
use crate::metrics::ServiceMetrics;
use crate::wire::meter::Meter;

mod facts;
mod judge;

use facts::facts;
use judge::Judge;

/// No external service has the host.
const NOT_NAMED: &str = "no_external_service";
/// The host led to addresses alone at which nothing is called.
pub(crate) const ADDRESS_REFUSED: &str = "address_not_allowed";
/// What goes to a port for TLS does not begin with it.
pub(crate) const NOT_TLS: &str = "not_tls";

/// What is under way.
#[derive(Debug)]
pub(super) struct Leaving(Mutex<Flows>);

#[derive(Debug)]
struct Flows {
    slab: Slab<Flow>,
    /// The room that what is kept of them takes.
    held: Held,
}

/// One request or stream.
#[derive(Debug)]
struct Flow {
    subject: Subject,
    /// What is kept of its head, and for whom it is made.
    kept: Option<(Kept, OnBehalfOf)>,
    to: Destination,
    meter: Arc<Meter>,
    /// What the port was for when it began.
    began_as: Option<ExternalProtocol>,
    /// Where it is connected to, once it is.
    address: Option<SocketAddr>,
    is_changing: bool,
}

/// Where an app wants to call.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// In the spelling of external services.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    /// Where the app itself is.
    pub(crate) app: SocketAddr,
}

/// A request or stream that was decided. Dropped when it has ended, it leaves the registry and its outcome is told.
#[derive(Debug)]
pub(crate) struct Leave {
    connections: Arc<Connections>,
    key: usize,
    to: Destination,
    meter: Arc<Meter>,
    caller: Option<(Caller, Serial)>,
    peer: Peer,
    view: Option<Arc<NodeView>>,
    external: Option<Arc<External>>,
    gathered: Option<Arc<Gathered>>,
    moment: Moment,
    ruling: Ruling,
    status: AtomicU16,
    since: Instant,
    recorded: Option<Recorded>,
    /// What was decided of it is among what is counted.
    is_counted: bool,
}

impl Connections {
    /// Registers what an app wants to call outside of the mesh, and decides it only then, so that no change of rules slips in
    /// between. What is gathered of it is what the very rules that decide it want to know; what those may want that come while
    /// it is under way is kept of its `head`, and for whom it is made.
    pub(crate) fn leave(
        self: &Arc<Self>,
        to: Destination,
        subject: impl FnOnce(Option<(&NodeView, &External)>) -> Subject,
        head: Option<(Head<'_>, OnBehalfOf)>,
        metrics: &ServiceMetrics,
        since: Instant,
    ) -> Leave {
        let meter = Arc::new(Meter::adding_to(metrics.traffic()));
        let keep = |rules: &Rules| {
            let (head, _) = head.as_ref()?;
            Kept::of(head.host, head.fields, rules.view().ok())
        };
        // Copied before the lock is taken, for which all calls of this agent wait.
        let rules_before = self.rules();
        let mut kept = keep(&rules_before);
        let mut flows = self.leaving.flows();
        // Under the lock that whoever changes rules takes afterwards: either these are the new ones, or the flow is found.
        let rules = self.rules();
        if !Arc::ptr_eq(&rules, &rules_before) {
            kept = keep(&rules);
        }
        let judge = Judge::new(self, &rules);
        let external = judge.external(&to);
        let subject = subject(judge.view.ok().zip(external).map(|(view, external)| (&**view, &**external)));
        let kept = kept.filter(|kept| flows.held.take(kept.size())).zip(head.map(|(_, made_for)| made_for));
        let key = flows.slab.insert(Flow {
            subject: subject.clone(),
            kept,
            to: to.clone(),
            meter: Arc::clone(&meter),
            began_as: external.and_then(|external| external.port(to.port)).map(|port| port.protocol),
            address: None,
            is_changing: false,
        });
        drop(flows);
        let begun = Instant::now();
        let peer = Peer::new(Some(to.app.ip()), None);
        let ruling = judge.decide(external, &to, &subject, &peer);
        self.context().metrics.decided(begun.elapsed());
        if ruling.changes_with_time()
            && let Some(flow) = self.leaving.flows().slab.get_mut(key)
        {
            flow.is_changing = true;
        }
        let (view, external) = (judge.view.ok().cloned(), external.cloned());
        let mut leave = Leave {
            connections: Arc::clone(self),
            key,
            to,
            meter,
            caller: judge.caller,
            peer,
            view,
            external,
            gathered: subject.gathered().cloned(),
            moment: judge.moment,
            ruling,
            status: AtomicU16::new(0),
            since,
            recorded: None,
            is_counted: false,
        };
        leave.record(&subject);
        leave
    }

    /// Decides everything that leaves the mesh again, and cuts what is denied.
    pub(super) async fn review_leaving(&self) {
        self.review_some_leaving(|_| true).await;
    }

    /// The same of what was decided by the time.
    pub(super) async fn review_changing_leaving(&self) {
        self.review_some_leaving(|flow| flow.is_changing).await;
    }

    /// In steps, between which others have a turn. What begins meanwhile is decided by the new rules already.
    async fn review_some_leaving(&self, is_meant: impl Fn(&Flow) -> bool) {
        let all: Vec<_> =
            self.leaving.flows().slab.iter().filter(|(_, flow)| is_meant(flow)).map(|(key, _)| key).collect();
        for some in all.chunks(WALK_STEP) {
            for key in some {
                // Calls that begin and end wait for one decision at the most.
                let mut flows = self.leaving.flows();
                // Not those of whoever began to walk: newer ones may have been here before him.
                let rules = self.rules();
                // It may have ended, and another have its place, which is decided once more then.
                if let Some(flow) = flows.slab.get_mut(*key) {
                    self.review_flow(flow, &Judge::new(self, &rules));
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn review_flow(&self, flow: &mut Flow, judge: &Judge<'_>) {
        let external = judge.external(&flow.to);
        let peer = Peer::new(Some(flow.to.app.ip()), None);
        if let (Ok(view), Some(external)) = (judge.view, external) {
            flow.gather_again(view, external);
        }
        let ruling = match external.and_then(|external| flow.refusal(external)) {
            Some(reason) => Ruling::Refused(reason),
            None => judge.decide(external, &flow.to, &flow.subject, &peer),
        };
        flow.is_changing = ruling.changes_with_time();
        if ruling.is_allowed() || flow.meter.is_cut() {
            return;
        }
        flow.meter.cut();
        let Some(caller) = &judge.caller else { return };
        let facts = facts(
            (judge.view.ok(), external),
            caller,
            (&flow.to, &peer),
            &flow.subject,
            (&ruling, judge.moment),
        );
        let decision = self.decisions().record(&facts);
        tracing::info!(event = "egress_cut", host = flow.to.host, port = flow.to.port, %decision);
    }
}

impl Flow {
    /// Gathers what this view wants from what was kept of its head, if anything was.
    fn gather_again(&mut self, view: &Arc<NodeView>, external: &External) {
        let (Subject::Request { gathered, .. }, Some((kept, made_for))) = (&mut self.subject, &mut self.kept)
        else {
            return;
        };
        let Some(wanted) = external.engine.wanted(self.to.port) else { return };
        let Some(again) = kept.gather(view, wanted) else { return };
        *gathered = Some(Arc::new(again.made_for(made_for.clone())));
    }

    /// Why it may not go on where it is, as the external service is now, whatever policies say.
    fn refusal(&self, external: &External) -> Option<&'static str> {
        if self.address.is_some_and(|address| !external.may_be_at(address.ip())) {
            return Some(ADDRESS_REFUSED);
        }
        // Nobody has looked at what it began with, and nobody can any longer.
        let is_for_tls =
            external.port(self.to.port).is_some_and(|port| port.protocol == ExternalProtocol::Tls);
        (is_for_tls && self.began_as != Some(ExternalProtocol::Tls)).then_some(NOT_TLS)
    }
}

impl Leave {
    /// Whether it may leave.
    pub(crate) fn is_allowed(&self) -> bool {
        self.ruling.is_allowed()
    }

    /// Why it may not, where policies were not asked or said so before their rules: a stable name.
    pub(crate) fn reason(&self) -> &'static str {
        self.ruling.as_told().reason()
    }

    /// The external service that is called.
    pub(crate) fn external(&self) -> Option<&Arc<External>> {
        self.external.as_ref()
    }

    /// What counts its bytes, and stops it when it is cut.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The id of the decision, where it was not plainly to allow.
    pub(crate) fn decision(&self) -> Option<&DecisionId> {
        self.recorded.as_ref().map(Recorded::id)
    }

    /// Whether the field was decided by as it stood among a request's header fields: when it began, or since.
    pub(crate) fn is_decided_by(&self, field: &str) -> bool {
        let since = self.subject().and_then(|subject| subject.gathered().cloned());
        self.gathered.iter().chain(&since).any(|gathered| gathered.looked_for(field))
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
        self.ruling = Ruling::Refused(reason);
        self.meter.cut();
        self.record(&subject);
    }

    /// Notes what is answered.
    pub(crate) fn answered<B>(&self, response: &Response<B>) {
        self.status.store(response.status().as_u16(), Ordering::Relaxed);
    }

    pub(super) fn subject(&self) -> Option<Subject> {
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
        let is_plain = matches!(&self.ruling, Ruling::Policy(decision)
            if decision.reason == Reason::Permitted && decision.audit.is_none());
        let Some(facts) = self.facts(subject) else { return };
        if !is_plain {
            self.recorded = Some(self.connections.decisions().begin(&facts));
        }
    }

    fn facts<'a>(&'a self, subject: &'a Subject) -> Option<Facts<'a>> {
        Some(facts(
            (self.view.as_ref(), self.external.as_ref()),
            self.caller.as_ref()?,
            (&self.to, &self.peer),
            subject,
            (&self.ruling, self.moment),
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

impl Leaving {
    /// Nothing yet. All of it counts as one identity's.
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self(Mutex::new(Flows { slab: Slab::new(), held: room.of(OUR_OWN, usize::MAX) }))
    }

    fn end(&self, key: usize) -> Option<Flow> {
        let mut flows = self.flows();
        let flow = flows.slab.try_remove(key)?;
        if let Some((kept, _)) = &flow.kept {
            flows.held.give(kept.size());
        }
        Some(flow)
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
