//! What leaves the mesh: registered first and decided then, by the agent of the node whose app calls, and decided again whenever
//! rules or time change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::Serial;
use hauberk_policy::{Caller, Counted, EscapedSlashes, Gathered, Moment, Peer, Reason};
use hauberk_proto::convert::ExternalProtocol;
use http::Response;
use slab::Slab;
use tokio::time::Instant;

use super::Connections;
use super::enforce::WALK_STEP;
use super::passage::Subject;
use super::rules::{self, Rules, Ruling};
use crate::decisions::{self, DecisionId, Facts, LeavesTo, Outcome, Recorded};
use crate::mesh::{External, NodeView};
use crate::metrics::ServiceMetrics;
use crate::wire::meter::Meter;

/// No external service has the host.
const NOT_NAMED: &str = "no_external_service";
/// The host led to addresses alone at which nothing is called.
pub(crate) const ADDRESS_REFUSED: &str = "address_not_allowed";
/// What goes to a port for TLS does not begin with it.
pub(crate) const NOT_TLS: &str = "not_tls";

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Leaving(Mutex<Slab<Flow>>);

/// One request or stream.
#[derive(Debug)]
struct Flow {
    subject: Subject,
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

/// Everything that decides at one moment.
struct Judge<'a> {
    rules: &'a Rules,
    view: Result<&'a Arc<NodeView>, &'static str>,
    /// Who we are; none without a certificate.
    caller: Option<(Caller, Serial)>,
    moment: Moment,
}

impl Connections {
    /// Registers what an app wants to call outside of the mesh, and decides it only then, so that no change of rules slips in
    /// between. What is gathered of it is what the very rules that decide it want to know.
    pub(crate) fn leave(
        self: &Arc<Self>,
        to: Destination,
        subject: impl FnOnce(Option<(&NodeView, &External)>) -> Subject,
        metrics: &ServiceMetrics,
        since: Instant,
    ) -> Leave {
        let meter = Arc::new(Meter::adding_to(metrics.traffic()));
        let mut flows = self.leaving.flows();
        // Under the lock that whoever changes rules takes afterwards: either these are the new ones, or the flow is found.
        let rules = self.rules();
        let judge = Judge::new(self, &rules);
        let external = judge.external(&to);
        let subject = subject(judge.view.ok().zip(external).map(|(view, external)| (&**view, &**external)));
        let key = flows.insert(Flow {
            subject: subject.clone(),
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
            && let Some(flow) = self.leaving.flows().get_mut(key)
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
            self.leaving.flows().iter().filter(|(_, flow)| is_meant(flow)).map(|(key, _)| key).collect();
        for some in all.chunks(WALK_STEP) {
            for key in some {
                // Calls that begin and end wait for one decision at the most.
                let mut flows = self.leaving.flows();
                // Not those of whoever began to walk: newer ones may have been here before him.
                let rules = self.rules();
                // It may have ended, and another have its place, which is decided once more then.
                if let Some(flow) = flows.get_mut(*key) {
                    self.review_flow(flow, &Judge::new(self, &rules));
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn review_flow(&self, flow: &mut Flow, judge: &Judge<'_>) {
        let external = judge.external(&flow.to);
        let peer = Peer::new(Some(flow.to.app.ip()), None);
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

impl<'a> Judge<'a> {
    fn new(connections: &Connections, rules: &'a Rules) -> Self {
        let (current, time) = (connections.context().identity.current(), connections.context().clock.now());
        let own = current.svid();
        let certificate_since = own.map(|own| own.validity().not_before());
        let caller = own.map(|own| (Caller::Peer(own.id().clone()), own.serial()));
        Self { rules, view: rules.view(), caller, moment: Moment { time, certificate_since } }
    }

    fn external(&self, to: &Destination) -> Option<&'a Arc<External>> {
        self.view.ok()?.external_with(&to.host)
    }

    fn decide(
        &self,
        external: Option<&Arc<External>>,
        to: &Destination,
        subject: &Subject,
        peer: &Peer,
    ) -> Ruling {
        if let Err(reason) = self.view {
            return Ruling::Refused(reason);
        }
        let Some((caller, _)) = &self.caller else { return Ruling::Refused("no_certificate") };
        let Some(external) = external else { return Ruling::Refused(NOT_NAMED) };
        let (port, moment) = (to.port, self.moment);
        let decided = subject.with_path((None, EscapedSlashes::Reject), moment, |attempt, _| {
            rules::decide(&self.rules.memo_of(external, caller, peer), port, attempt, moment)
        });
        decided.map_or_else(Ruling::Refused, Ruling::Policy)
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

    /// Whether the field was decided by as it stood among a request's header fields.
    pub(crate) fn is_decided_by(&self, field: &str) -> bool {
        self.gathered.as_ref().is_some_and(|gathered| gathered.looked_for(field))
    }

    /// Notes where it is connected to. Whether it may still be there is decided with everything else from now on.
    pub(crate) fn connected_to(&self, address: SocketAddr) {
        let mut flows = self.connections.leaving.flows();
        let Some(flow) = flows.get_mut(self.key) else { return };
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

    fn subject(&self) -> Option<Subject> {
        self.connections.leaving.flows().get(self.key).map(|flow| flow.subject.clone())
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
        let Some(flow) = self.connections.leaving.flows().try_remove(self.key) else { return };
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
    fn flows(&self) -> MutexGuard<'_, Slab<Flow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts<'a>(
    (view, external): (Option<&'a Arc<NodeView>>, Option<&'a Arc<External>>),
    (caller, serial): &'a (Caller, Serial),
    (to, peer): (&'a Destination, &'a Peer),
    subject: &'a Subject,
    (ruling, moment): (&'a Ruling, Moment),
) -> Facts<'a> {
    let (request, query) = match subject {
        Subject::Request { method, target, is_upgrade, .. } => {
            let (method, path) = (method.as_str(), target.path());
            (decisions::Request::Http { method, path, is_upgrade: *is_upgrade }, target.query())
        }
        Subject::Stream => (decisions::Request::Connect, None),
    };
    Facts {
        view,
        caller,
        caller_serial: Some(*serial),
        peer_address: to.app,
        peer,
        moment,
        port: to.port,
        service: "",
        leaves_to: Some(LeavesTo {
            external: external.map_or("", |external| external.name.as_str()),
            host: &to.host,
        }),
        request,
        query,
        gathered: subject.gathered(),
        ruling: ruling.as_told(),
    }
}
