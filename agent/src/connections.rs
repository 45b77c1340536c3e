//! Every live connection between agents, and where those are cut that may no longer be.
//!
//! A connection, request or stream is registered first and decided then; a change of rules is put in force first and
//! then walks through what is registered. So whichever comes first, the other sees it. The same holds for trust and
//! time: a peer whose certificate no root vouches for any longer, that is revoked, or has expired without a newer one being
//! proved, is cut wherever it is.

mod flows;
mod live;
mod passage;
mod refused;
mod rules;
mod succession;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hauberk_identity::UnixMillis;
use hauberk_policy::Tls;
use hauberk_tls::{FederatedBundles, LiveState, Negotiated, PeerIdentity, Svid, VerifyError};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::decisions::Decisions;
use crate::mesh::{ClosedReason, Denial, Inbound};
use crate::users::Handles;
use succession::{Lagging, Succession};

pub(crate) use live::{Connection, Exporter, Role};
pub(crate) use passage::{Passage, Subject};
pub(crate) use rules::Rules;
pub(crate) use succession::Shown;

/// How often the time is held against certificates, and against what policies say of it.
const TICK: Duration = Duration::from_secs(1);
/// How long before its end a connection is given nothing new. Whoever opened it stops first, so that no request meets
/// a connection that is just being closed.
const RETIRE_BEFORE: Duration = Duration::from_secs(5);
const RETIRE_OWN_BEFORE: Duration = Duration::from_secs(10);
/// How long a peer may keep a connection on which it asks nothing, be it for HTTP or a tunnel. Our own agents close such
/// connections sooner, or find them closed when they next need one.
const IDLE: Duration = Duration::from_secs(300);
/// After how many connections the walk lets other tasks have a turn.
const WALK_STEP: usize = 256;

/// The registry of live connections, and the rules in force for them.
#[derive(Debug)]
pub struct Connections {
    context: Context,
    rules: ArcSwap<Rules>,
    table: Mutex<Table>,
    next_id: AtomicU64,
    succession: Mutex<Succession>,
    handles: Handles,
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
        Arc::new(Self {
            succession: Mutex::new(succession),
            context,
            rules: ArcSwap::from_pointee(Rules::new(Arc::new(closed))),
            table: Mutex::default(),
            next_id: AtomicU64::new(0),
            handles: Handles::default(),
        })
    }

    /// Puts every change of rules, trust and time in force for live traffic, until `stop`.
    pub async fn enforce(&self, stop: CancellationToken) {
        let mut inbound = self.context.mesh.inbound();
        let mut trust = self.context.identity.subscribe();
        let mut denied = self.context.mesh.denied.changes();
        denied.mark_changed();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        inbound.mark_changed();
        // None is live yet: each is held against what is trusted as it is registered.
        trust.mark_changed();
        let mut told = self.context.trust.clone();
        told.mark_changed();
        let mut own = shown_by(&trust.borrow());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = inbound.changed() => {
                    let next = Arc::clone(&inbound.borrow_and_update());
                    self.apply(next).await;
                }
                Ok(()) = trust.changed() => {
                    let state = trust.borrow_and_update().clone();
                    let shown = shown_by(&state);
                    if std::mem::replace(&mut own, shown) != shown {
                        self.succession().renewed(Instant::now());
                    }
                    self.apply_trust(&state).await;
                    self.judge_ourselves();
                }
                Ok(()) = told.changed() => {
                    let next = Arc::clone(&told.borrow_and_update());
                    self.succession().told(next, Instant::now());
                    self.follow();
                }
                Ok(()) = denied.changed() => {
                    let mark = *denied.borrow_and_update();
                    self.judge_ourselves();
                    // First what closes or opens because of it, so that all of it holds once it is said to.
                    let next = Arc::clone(&inbound.borrow_and_update());
                    if !Arc::ptr_eq(&next, self.rules().inbound()) {
                        self.apply(next).await;
                    }
                    self.apply_denylist().await;
                    self.context.mesh.denied.publish_applied(mark);
                }
                _ = tick.tick() => {
                    self.apply_time();
                    self.review_changing().await;
                    self.follow();
                }
            }
        }
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
        let connection = Arc::new(Connection::new(id, role, peer, address, tls, exporter, listener));
        let mut table = self.table();
        table.by_exporter.insert(exporter, id);
        table.live.insert(id, Arc::clone(&connection));
        drop(table);
        let registered = Registered { connections: Arc::clone(self), connection };
        self.verify(&registered.connection.peer(), role)?;
        if role == Role::Outbound
            && let Some(reason) = self.rules().inbound().ends_outbound()
        {
            registered.connection.cut(reason.as_str());
        }
        Ok(registered)
    }

    /// Verifies a peer by what is trusted, and who is refused, at this moment.
    fn verify(&self, peer: &PeerIdentity, role: Role) -> Result<(), Unwelcome> {
        self.verify_by(&self.context.identity.current(), peer, role, self.context.clock.now())
    }

    fn verify_by(
        &self,
        trusted: &LiveState,
        peer: &PeerIdentity,
        role: Role,
        now: UnixMillis,
    ) -> Result<(), Unwelcome> {
        if let Some(denial) = self.context.mesh.denied.denial(peer.id(), peer.serial()) {
            return Err(Unwelcome::Denied(denial));
        }
        Ok(trusted.verify_again(peer, now, role.of_peer())?)
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

    async fn apply(&self, inbound: Arc<Inbound>) {
        let rules = Arc::new(Rules::new(inbound));
        self.rules.store(Arc::clone(&rules));
        let end = rules.inbound().ends_outbound();
        // Whom handshakes let in, and then those whom they have let in. Without rules nobody of another domain is.
        let others_changed = self.context.identity.publish_federated(match rules.view() {
            Ok(view) => view.federated.clone(),
            Err(_) => FederatedBundles::default(),
        });
        let (trusted, now) = (self.context.identity.current(), self.context.clock.now());
        self.walk(|connection| {
            connection.review(self, &rules);
            if let Some(reason) = end {
                connection.cut(reason.as_str());
            }
            if others_changed {
                connection.hold_against(self, &trusted, now);
            }
        })
        .await;
        self.context.mesh.applied.publish(Arc::clone(rules.inbound()));
    }

    async fn apply_trust(&self, trusted: &LiveState) {
        let now = self.context.clock.now();
        self.walk(|connection| connection.hold_against(self, trusted, now)).await;
        self.review_changing().await;
        self.context.mesh.applied.publish_trust(Arc::clone(trusted.bundle()));
    }

    async fn apply_denylist(&self) {
        let denied = &self.context.mesh.denied;
        self.walk(|connection| {
            if let Some(denial) = connection.denial(denied) {
                connection.cut(denial.as_str());
            }
        })
        .await;
        self.review_changing().await;
    }

    fn apply_time(&self) {
        let now = self.context.clock.now();
        let instant = Instant::now();
        let table = self.table();
        for connection in table.live.values() {
            let until = connection.ends_at();
            let before = match connection.role() {
                Role::Inbound { .. } => RETIRE_BEFORE,
                Role::Outbound => RETIRE_OWN_BEFORE,
            };
            if now > until {
                connection.cut("certificate_expired");
            } else if connection.is_idle(instant, 2 * IDLE) {
                // It was asked to end and does not.
                connection.cut("idle");
            } else if now.plus(before) > until || connection.is_idle(instant, IDLE) {
                connection.retired().cancel();
            }
        }
    }

    /// Whether the far end of a connection that we opened should by now have a certificate by another authority, and has
    /// not proved it.
    pub(crate) fn is_proof_due(&self, connection: &Connection) -> bool {
        let succession = self.succession();
        succession.is_proof_due(Instant::now()) && succession.is_lagging(connection)
    }

    /// Whether connections are passing from one authority to the next.
    pub(crate) fn is_succession_under_way(&self) -> bool {
        self.succession().done().is_none()
    }

    /// Brings connections from an authority that signs no longer to the next, and says when that is done.
    fn follow(&self) {
        let now = Instant::now();
        let own = shown_by(&self.context.identity.current());
        let mut succession = self.succession();
        if succession.done().is_none() {
            let table = self.table();
            let lagging: Vec<_> =
                table.live.values().filter(|live| succession.is_lagging(live)).cloned().collect();
            drop(table);
            let next = self.next_id.load(Ordering::Relaxed);
            succession.advance(own.and_then(|own| own.issuer), !lagging.is_empty(), next, now);
            for connection in lagging {
                if succession.verdict(&connection, now) == Lagging::Retire {
                    connection.retired().cancel();
                }
            }
        }
        if let Some(version) = succession.done() {
            self.context.mesh.applied.publish_followed(version);
        }
    }

    fn succession(&self) -> MutexGuard<'_, Succession> {
        self.succession.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn walk(&self, review: impl Fn(&Connection)) {
        let all: Vec<_> = self.table().live.values().cloned().collect();
        for some in all.chunks(WALK_STEP) {
            for connection in some {
                review(connection);
            }
            tokio::task::yield_now().await;
        }
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
