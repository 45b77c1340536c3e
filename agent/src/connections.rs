//! Every live connection between agents, and where those are cut that may no longer be.
//!
//! A connection, request or stream is registered first and decided then; a change of rules is put in force first and
//! then walks through what is registered. So whichever comes first, the other sees it. The same holds for trust and
//! time: a peer whose certificate no root vouches for any longer, that is revoked, or has expired without a newer one
//! being proved, is cut wherever it is.

mod enforce;
mod flows;
mod kept;
mod leaving;
mod live;
mod passage;
mod refused;
mod rules;
mod succession;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hauberk_identity::UnixMillis;
use hauberk_policy::Tls;
use hauberk_tls::{LiveState, Negotiated, PeerIdentity, Svid, VerifyError};
use thiserror::Error;
use tokio::time::Instant;

use crate::context::Context;
use crate::decisions::Decisions;
use crate::mesh::{ClosedReason, Denial, Inbound};
use crate::users::Handles;
use kept::Room;
use leaving::Leaving;
use live::Handshake;
use succession::Succession;

pub(crate) use kept::Head;
pub(crate) use leaving::{ADDRESS_REFUSED, Destination, Leave, NOT_TLS};
pub(crate) use live::{Connection, Exporter, Role};
pub(crate) use passage::{DecidedFields, Passage, Subject};
pub(crate) use rules::Rules;
pub(crate) use succession::Shown;

/// The registry of live connections, and the rules in force for them.
#[derive(Debug)]
pub struct Connections {
    context: Context,
    rules: ArcSwap<Rules>,
    table: Mutex<Table>,
    next_id: AtomicU64,
    succession: Mutex<Succession>,
    handles: Handles,
    leaving: Leaving,
    /// For what is kept of requests under way.
    room: Arc<Room>,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<u64, Arc<Connection>>,
    by_exporter: HashMap<Exporter, u64>,
}

/// Why a connection is not good, or no longer.
#[derive(Debug, Error)]
pub(crate) enum Unwelcome {
    /// Its peer's certificate is not good.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Its peer is on the denylist.
    #[error("the peer is {}", .0.as_str())]
    Denied(Denial),
}

impl Unwelcome {
    /// Its kind, by a name for figures and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.reason(),
            Self::Denied(denial) => denial.as_str(),
        }
    }

    /// Whose fault it is, for a person.
    pub(crate) fn fault(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.fault(),
            Self::Denied(_) => "the peer's: an admin has it refused",
        }
    }
}

/// Keeps a connection in the registry until dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Connections {
    /// None yet. Nothing is let in before [`Connections::enforce`] runs.
    pub fn new(context: Context) -> Arc<Self> {
        let closed = Inbound::Closed { reason: ClosedReason::NoView };
        let succession = Succession::new(Arc::clone(&context.trust.borrow()));
        let room = Arc::default();
        Arc::new(Self {
            succession: Mutex::new(succession),
            context,
            rules: ArcSwap::from_pointee(Rules::new(Arc::new(closed))),
            table: Mutex::default(),
            next_id: AtomicU64::new(0),
            handles: Handles::default(),
            leaving: Leaving::new(&room),
            room,
        })
    }

    /// How many connections are live.
    pub fn len(&self) -> usize {
        self.table().live.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table().live.is_empty()
    }

    /// What all the data path shares.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Where decisions go.
    pub(crate) fn decisions(&self) -> &Decisions {
        &self.context.decisions
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Registers a connection, and verifies its peer only then: what is trusted may have changed during the handshake,
    /// and the walk that follows each change looks through what is registered. What the connection may do is decided
    /// afterwards.
    ///
    /// # Errors
    /// The peer's certificate is not good, or no longer, or it is on the denylist.
    pub(crate) fn register(
        self: &Arc<Self>,
        role: Role,
        peer: PeerIdentity,
        address: SocketAddr,
        tls: Option<Negotiated>,
        exporter: Exporter,
    ) -> Result<Registered, Unwelcome> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let metrics = &self.context.metrics;
        let listener = match role {
            Role::Inbound { port, .. } => Some(metrics.listener(port)),
            Role::Outbound => None,
        };
        match &listener {
            Some(listener) => listener.opened(),
            None => metrics.outbound_opened(),
        }
        let tls = tls.map(|tls| Tls { version: tls.version.into(), group: tls.group.into() });
        let handshake = Handshake { role, peer, address, tls, exporter };
        let connection = Arc::new(Connection::new(id, handshake, listener));
        let mut table = self.table();
        table.by_exporter.insert(exporter, id);
        table.live.insert(id, Arc::clone(&connection));
        drop(table);
        let registered = Registered { connections: Arc::clone(self), connection };
        registered.connection.hold_against_now(self)?;
        if role == Role::Outbound
            && let Some(reason) = self.rules().inbound().ends_outbound()
        {
            registered.connection.cut(reason.as_str());
        }
        Ok(registered)
    }

    /// Verifies a peer by what is trusted, and who is refused, and says until when it is who it says.
    fn verify_by(
        &self,
        trusted: &LiveState,
        peer: &PeerIdentity,
        role: Role,
        now: UnixMillis,
    ) -> Result<UnixMillis, Unwelcome> {
        if let Some(denial) = self.context.mesh.denied.denial(peer.id(), peer.serial()) {
            return Err(Unwelcome::Denied(denial));
        }
        Ok(trusted.verify_again(peer, now, role.of_peer())?)
    }

    /// Whether two certificates of one SPIFFE id are those of different instances. Only serial numbers of our own
    /// authorities say so, and not those of earlier releases.
    fn is_sibling(&self, one: &PeerIdentity, other: &PeerIdentity) -> bool {
        let state = self.context.identity.current();
        let are_ours = one.id().is_member_of(state.bundle().trust_domain());
        match (one.serial().instance(), other.serial().instance()) {
            (Some(one), Some(other)) => are_ours && one != other,
            _ => false,
        }
    }

    /// Whether we are refused by everybody ourselves.
    fn judge_ourselves(&self) {
        let denial = self.context.mesh.denied.denial_of_us(&self.context.identity.current());
        self.context.mesh.gate.set_denied(denial);
    }

    /// The connection with this name, if it is live.
    pub(crate) fn find(&self, exporter: &Exporter) -> Option<Arc<Connection>> {
        let table = self.table();
        table.live.get(table.by_exporter.get(exporter)?).cloned()
    }

    /// The connections that we opened.
    pub(crate) fn outgoing(&self) -> Vec<Arc<Connection>> {
        let table = self.table();
        table.live.values().filter(|connection| connection.role() == Role::Outbound).cloned().collect()
    }

    /// Whether the far end of a connection that we opened should by now have a certificate by another authority, and
    /// has not proved it.
    pub(crate) fn is_proof_due(&self, connection: &Connection) -> bool {
        let succession = self.succession();
        succession.is_proof_due(Instant::now()) && succession.is_lagging(connection)
    }

    /// Whether connections are passing from one authority to the next.
    pub(crate) fn is_succession_under_way(&self) -> bool {
        self.succession().done().is_none()
    }

    fn succession(&self) -> MutexGuard<'_, Succession> {
        self.succession.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificate that handshakes show at a moment.
pub(crate) fn shown_by(state: &LiveState) -> Option<Shown> {
    state.svid().map(|svid| Shown { serial: svid.serial(), issuer: Svid::issuer_serial(svid) })
}

impl Registered {
    /// The connection.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.live.remove(&self.connection.id());
        table.by_exporter.remove(self.connection.exporter());
        drop(table);
        match self.connection.listener() {
            Some(listener) => listener.closed(),
            None => self.connections.context.metrics.outbound_closed(),
        }
    }
}

#[cfg(test)]
mod tests;
