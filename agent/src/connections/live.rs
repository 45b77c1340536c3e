//! One live connection, and what passes over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hauberk_identity::{Name, Serial, UnixMillis};
use hauberk_policy::{Caller, CanonicalPath, Protocol};
use hauberk_tls::{LiveState, PeerIdentity, Usage};
use slab::Slab;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Connections;
use super::passage::{Passage, Subject};
use super::rules::{Rules, Ruling, SharedMemo, is_principal};
use super::succession::Shown;
use crate::decisions::{self, Facts};
use crate::mesh::{Denial, Denied, NodeView};
use crate::metrics::ListenerMetrics;
use crate::wire::meter::Meter;

/// The name of a connection, which only its two ends know (RFC 8446 §7.5).
pub(crate) type Exporter = [u8; 32];

/// A mutually authenticated connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    role: Role,
    caller: Caller,
    address: SocketAddr,
    exporter: Exporter,
    /// Where it is counted, if the peer called us.
    listener: Option<Arc<ListenerMetrics>>,
    /// Whom the peer has proved to be, most recently.
    proven: Mutex<PeerIdentity>,
    proven_until: AtomicU64,
    /// Until when the peer takes us for who we are; without end where that is not ours to prove.
    own_until: AtomicU64,
    /// Which certificate of ours the peer has seen most recently.
    shown: Mutex<Option<Shown>>,
    /// Who drives the connection, if that task cannot wait for `cut`.
    driver: AtomicWaker,
    retired: CancellationToken,
    cut: CancellationToken,
    state: Mutex<State>,
}

/// Which side we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer called us on this port.
    Inbound {
        /// The listener's number in the mesh.
        port: u16,
        /// What is spoken on the connection.
        protocol: Protocol,
    },
    /// We called the peer.
    Outbound,
}

impl Role {
    /// What the peer's certificate must be good for.
    pub(super) fn of_peer(self) -> Usage {
        match self {
            Self::Inbound { .. } => Usage::Client,
            Self::Outbound => Usage::Server,
        }
    }
}

#[derive(Debug)]
struct State {
    memo: Option<(Arc<Rules>, SharedMemo)>,
    flows: Slab<Flow>,
    /// When the last of them ended.
    quiet_since: Instant,
}

/// One request or stream that is under way.
#[derive(Debug)]
struct Flow {
    subject: Subject,
    meter: Arc<Meter>,
}

impl Connection {
    pub(super) fn new(
        id: u64,
        role: Role,
        peer: PeerIdentity,
        address: SocketAddr,
        exporter: Exporter,
        listener: Option<Arc<ListenerMetrics>>,
    ) -> Self {
        Self {
            id,
            role,
            caller: Caller::Peer(peer.id().clone()),
            address,
            exporter,
            listener,
            proven_until: AtomicU64::new(peer.not_after().0),
            own_until: AtomicU64::new(u64::MAX),
            shown: Mutex::default(),
            driver: AtomicWaker::new(),
            proven: Mutex::new(peer),
            retired: CancellationToken::new(),
            cut: CancellationToken::new(),
            state: Mutex::new(State { memo: None, flows: Slab::new(), quiet_since: Instant::now() }),
        }
    }

    /// Its number among the connections of this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Which side we are on.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Where it is counted, if the peer called us.
    pub(super) fn listener(&self) -> Option<&ListenerMetrics> {
        self.listener.as_deref()
    }

    /// Its name.
    pub(crate) fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// Whom the peer has proved to be, most recently.
    pub(crate) fn peer(&self) -> PeerIdentity {
        self.proven().clone()
    }

    /// Where the peer is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instant at which the peer's proof ends.
    pub(crate) fn proven_until(&self) -> UnixMillis {
        UnixMillis(self.proven_until.load(Ordering::Acquire))
    }

    /// The instant at which our own proof ends, on connections that we opened.
    pub(crate) fn own_until(&self) -> UnixMillis {
        UnixMillis(self.own_until.load(Ordering::Acquire))
    }

    /// Notes until when the peer takes us for who we are.
    pub(crate) fn set_own_until(&self, until: UnixMillis) {
        self.own_until.store(until.0, Ordering::Release);
    }

    /// The authority that signed the certificate which the peer has proved most recently.
    pub(super) fn peer_issuer(&self) -> Option<Serial> {
        self.proven().issuer_serial()
    }

    /// Which certificate of ours the peer has seen most recently.
    pub(crate) fn shown(&self) -> Option<Shown> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which certificate of ours the peer has seen.
    pub(crate) fn set_shown(&self, shown: Option<Shown>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// The instant at which it must end.
    pub(super) fn ends_at(&self) -> UnixMillis {
        self.proven_until().min(self.own_until())
    }

    /// Whether it must end at once; if not, the task is woken when it must. Only one task may wait so.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> bool {
        self.driver.register(cx.waker());
        self.cut.is_cancelled()
    }

    /// Fires when nothing new should be begun on it.
    pub(crate) fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Fires when it must end at once.
    pub(crate) fn cut_signal(&self) -> &CancellationToken {
        &self.cut
    }

    /// Ends it, with everything on it.
    pub(crate) fn cut(&self, reason: &str) {
        if self.cut.is_cancelled() {
            return;
        }
        tracing::info!(event = "connection_cut", peer = ?self.caller, address = %self.address, reason);
        self.cut.cancel();
        self.driver.wake();
        for (_, flow) in &self.state().flows {
            flow.meter.cut();
        }
    }

    /// Takes another proof of the same identity, which a handshake has just given: the last one counts. Says whether it
    /// was one that holds at this moment.
    pub(crate) fn extend(&self, peer: &PeerIdentity, connections: &Connections) -> bool {
        // A change of trust or denylist takes this lock for each connection after the new one is there: either it finds the
        // new proof here, or the new one is what we hold the proof against.
        let mut proven = self.proven();
        if proven.id() != peer.id() || connections.verify(peer, self.role).is_err() {
            return false;
        }
        self.proven_until.store(peer.not_after().0, Ordering::Release);
        *proven = peer.clone();
        true
    }

    /// Verifies the peer's proof by what is trusted and who is refused now, and cuts the connection where it does not hold.
    pub(super) fn hold_against(&self, connections: &Connections, trusted: &LiveState, now: UnixMillis) {
        let held = connections.verify_by(trusted, &self.proven(), self.role, now);
        if let Err(error) = held {
            self.cut(&error.to_string());
        }
    }

    /// Why the peer is refused by now, if so.
    pub(super) fn denial(&self, denied: &Denied) -> Option<Denial> {
        let proven = self.proven();
        denied.denial(proven.id(), proven.serial())
    }

    /// Whether these rules let the connection be, whatever is asked on it.
    pub(crate) fn check(&self, rules: &Rules) -> Result<(), &'static str> {
        let Role::Inbound { port, protocol } = self.role else { return Ok(()) };
        rules.check_port(port, protocol)?;
        match &self.caller {
            Caller::Peer(id) if is_principal(id, rules.view()?) => Ok(()),
            _ => Err("not_a_principal"),
        }
    }

    /// Registers a request or stream that began at `since`, and decides it only then, so that no change of rules slips
    /// in between.
    pub(crate) fn admit(
        self: &Arc<Self>,
        connections: &Arc<Connections>,
        subject: Subject,
        path: Option<&CanonicalPath<'_>>,
        service: Option<Name>,
        since: Instant,
    ) -> Passage {
        let meter = Arc::new(match &self.listener {
            Some(listener) => Meter::adding_to(listener.traffic()),
            None => Meter::default(),
        });
        let mut state = self.state();
        let key = state.flows.insert(Flow { subject: subject.clone(), meter: Arc::clone(&meter) });
        let rules = connections.rules();
        // Whoever cuts looks through the flows only afterwards, so that one of us sees the other.
        let memo = if self.cut.is_cancelled() { Err("connection_cut") } else { state.memo(&rules, self) };
        drop(state);
        let begun = Instant::now();
        let ruling = match memo {
            Ok(memo) => subject.decide(&memo, self.port(), path),
            Err(reason) => Ruling::Refused(reason),
        };
        connections.context().metrics.decided(begun.elapsed());
        let mut passage = Passage {
            connections: Arc::clone(connections),
            connection: Arc::clone(self),
            key,
            meter,
            view: rules.view().ok().cloned(),
            ruling,
            service,
            status: AtomicU16::new(0),
            since,
            recorded: None,
        };
        passage.record(&subject);
        passage
    }

    /// Decides everything under way again, and cuts what is denied.
    pub(super) fn review(&self, connections: &Connections, rules: &Arc<Rules>) {
        if let Err(reason) = self.check(rules) {
            self.cut(reason);
            return;
        }
        if self.role == Role::Outbound {
            return;
        }
        let mut state = self.state();
        // Also lets go of the former rules' memory.
        let memo = state.memo(rules, self);
        for (_, flow) in &state.flows {
            let ruling = match &memo {
                Ok(memo) => flow.subject.decide(memo, self.port(), None),
                Err(reason) => Ruling::Refused(reason),
            };
            if !ruling.is_allowed() && !flow.meter.is_cut() {
                flow.meter.cut();
                let facts = self.facts(rules.view().ok(), &flow.subject, &ruling, "");
                let decision = connections.decisions().record(&facts);
                if let Some(listener) = &self.listener {
                    listener.denied(facts.ruling.reason());
                }
                tracing::info!(event = "stream_cut", peer = ?self.caller, %decision);
            }
        }
    }

    pub(super) fn facts<'a>(
        &'a self,
        view: Option<&'a Arc<NodeView>>,
        subject: &'a Subject,
        ruling: &'a Ruling,
        service: &'a str,
    ) -> Facts<'a> {
        Facts {
            view,
            caller: &self.caller,
            caller_serial: Some(self.proven().serial()),
            peer_address: self.address,
            port: self.port(),
            service,
            request: match (subject, self.role) {
                (Subject::Request { target, .. }, Role::Inbound { protocol: Protocol::Grpc, .. }) => {
                    decisions::Request::Grpc { path: target.path() }
                }
                (Subject::Request { method, target, is_upgrade }, _) => decisions::Request::Http {
                    method: method.as_str(),
                    path: target.path(),
                    is_upgrade: *is_upgrade,
                },
                (Subject::Stream, _) => decisions::Request::Connect,
            },
            ruling: ruling.as_told(),
        }
    }

    /// Forgets a request or stream that has ended.
    pub(super) fn end(&self, key: usize, now: Instant) -> Option<Subject> {
        let mut state = self.state();
        state.quiet_since = now;
        state.flows.try_remove(key).map(|flow| flow.subject)
    }

    /// Whether the peer has asked nothing for so long on a connection that is kept for its next request or stream.
    pub(super) fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        match self.role {
            Role::Outbound => false,
            Role::Inbound { .. } => {
                let state = self.state();
                state.flows.is_empty() && now.duration_since(state.quiet_since) >= limit
            }
        }
    }

    fn port(&self) -> u16 {
        match self.role {
            Role::Inbound { port, .. } => port,
            Role::Outbound => 0,
        }
    }

    fn proven(&self) -> MutexGuard<'_, PeerIdentity> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn memo(&mut self, rules: &Arc<Rules>, connection: &Connection) -> Result<SharedMemo, &'static str> {
        if let Some((of, memo)) = &self.memo
            && Arc::ptr_eq(of, rules)
        {
            return Ok(Arc::clone(memo));
        }
        self.memo = None;
        let memo = rules.memo(&connection.caller, connection.id)?;
        self.memo = Some((Arc::clone(rules), Arc::clone(&memo)));
        Ok(memo)
    }
}
