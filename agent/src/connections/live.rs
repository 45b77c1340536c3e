//! One live connection, and what passes over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use hauberk_identity::{Serial, SpiffeId, UnixMillis};
use hauberk_policy::{Caller, Peer, Protocol, Tls};
use hauberk_tls::{LiveState, PeerIdentity, Usage};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flows::State;
use super::rules::{Rules, is_principal};
use super::succession::Shown;
use super::{Connections, Unwelcome};
use crate::mesh::{Denial, Denied};
use crate::metrics::ListenerMetrics;

/// The name of a connection, which only its two ends know (RFC 8446 §7.5).
pub(crate) type Exporter = [u8; 32];

/// A mutually authenticated connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    role: Role,
    pub(super) caller: Caller,
    id_of_peer: SpiffeId,
    address: SocketAddr,
    /// What policies may know of it.
    pub(super) circumstances: Peer,
    exporter: Exporter,
    /// Where it is counted, if the peer called us.
    listener: Option<Arc<ListenerMetrics>>,
    /// Whom the peer has proved to be, most recently.
    proven: Mutex<PeerIdentity>,
    proven_since: AtomicU64,
    /// When the first of those certificates ends that make up the proof.
    proven_until: AtomicU64,
    /// Until when the peer takes us for who we are; without end where that is not ours to prove.
    own_until: AtomicU64,
    /// Which certificate of ours the peer has seen most recently.
    shown: Mutex<Option<Shown>>,
    /// Who drives the connection, if that task cannot wait for `cut`.
    driver: AtomicWaker,
    retired: CancellationToken,
    cut: CancellationToken,
    /// How many requests and streams under way may be denied as time passes.
    pub(super) changing: AtomicUsize,
    /// How many of them were cut by a decision and have not ended.
    pub(super) cut_flows: AtomicUsize,
    state: Mutex<State>,
}

/// What the handshake of a connection settled.
pub(super) struct Handshake {
    pub(super) role: Role,
    pub(super) peer: PeerIdentity,
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) exporter: Exporter,
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

impl Connection {
    pub(super) fn new(id: u64, handshake: Handshake, listener: Option<Arc<ListenerMetrics>>) -> Self {
        let Handshake { role, peer, address, tls, exporter } = handshake;
        Self {
            id,
            role,
            caller: Caller::Peer(peer.id().clone()),
            id_of_peer: peer.id().clone(),
            address,
            circumstances: Peer::new(Some(address.ip()), tls),
            exporter,
            listener,
            proven_since: AtomicU64::new(peer.not_before().0),
            proven_until: AtomicU64::new(peer.not_after().0),
            own_until: AtomicU64::new(u64::MAX),
            shown: Mutex::default(),
            driver: AtomicWaker::new(),
            proven: Mutex::new(peer),
            retired: CancellationToken::new(),
            cut: CancellationToken::new(),
            changing: AtomicUsize::new(0),
            cut_flows: AtomicUsize::new(0),
            state: Mutex::new(State::new(Instant::now())),
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

    /// Who the peer is.
    pub(crate) fn peer_id(&self) -> &SpiffeId {
        &self.id_of_peer
    }

    /// Where the peer is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instant at which the peer's proof ends.
    pub(crate) fn proven_until(&self) -> UnixMillis {
        UnixMillis(self.proven_until.load(Ordering::Acquire))
    }

    /// The instant since which the peer's proof holds.
    pub(crate) fn proven_since(&self) -> UnixMillis {
        UnixMillis(self.proven_since.load(Ordering::Acquire))
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
        let peer = match &self.caller {
            Caller::Peer(id) => id.as_str(),
            Caller::Anonymous => "nobody",
        };
        tracing::info!(event = "connection_cut", peer, address = %self.address, reason);
        self.cut.cancel();
        self.driver.wake();
        self.state().cut_all();
    }

    /// Takes another proof of the same identity and instance, which a handshake has just given: the last one counts.
    /// Says whether it was one that holds at this moment.
    pub(crate) fn extend(&self, peer: &PeerIdentity, connections: &Connections) -> bool {
        // A change of trust or denylist takes this lock for each connection after the new one is there: either it finds
        // the new proof here, or the new one is what we hold the proof against.
        let mut proven = self.proven();
        let is_same = proven.id() == peer.id() && !connections.is_sibling(&proven, peer);
        if !is_same || self.verify_now(peer, connections).is_err() {
            return false;
        }
        self.proven_since.store(peer.not_before().0, Ordering::Release);
        *proven = peer.clone();
        true
    }

    /// Verifies the peer's proof by what is trusted and who is refused now, and cuts the connection where it does not
    /// hold.
    pub(super) fn hold_against(&self, connections: &Connections, trusted: &LiveState, now: UnixMillis) {
        let held = self.verify(&self.proven(), connections, trusted, now);
        if let Err(error) = held {
            self.cut(&error.to_string());
        }
    }

    /// The same at this moment, with nothing cut.
    pub(super) fn hold_against_now(&self, connections: &Connections) -> Result<(), Unwelcome> {
        self.verify_now(&self.proven(), connections)
    }

    fn verify_now(&self, peer: &PeerIdentity, connections: &Connections) -> Result<(), Unwelcome> {
        let context = connections.context();
        self.verify(peer, connections, &context.identity.current(), context.clock.now())
    }

    /// Where the proof holds, it holds for as long as all that vouches for it does. Called with the lock on what was
    /// proved, so that the last one to verify has the last word on how long.
    fn verify(
        &self,
        peer: &PeerIdentity,
        connections: &Connections,
        trusted: &LiveState,
        now: UnixMillis,
    ) -> Result<(), Unwelcome> {
        let until = connections.verify_by(trusted, peer, self.role, now)?;
        self.proven_until.store(until.0, Ordering::Release);
        Ok(())
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

    pub(super) fn port(&self) -> u16 {
        match self.role {
            Role::Inbound { port, .. } => port,
            Role::Outbound => 0,
        }
    }

    pub(super) fn proven(&self) -> MutexGuard<'_, PeerIdentity> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
