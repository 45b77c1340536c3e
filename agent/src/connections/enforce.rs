//! Where a change of rules, trust, denylist or time meets what is live.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hauberk_tls::{FederatedBundles, LiveState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::live::Connection;
use super::succession::Lagging;
use super::{Connections, Role, Rules, shown_by};
use crate::mesh::Inbound;

/// How often the time is held against certificates, and against what policies say of it.
const TICK: Duration = Duration::from_secs(1);
/// How long before its end a connection is given nothing new. Whoever opened it stops first, so that no request meets
/// a connection that is just being closed.
const RETIRE_BEFORE: Duration = Duration::from_secs(5);
const RETIRE_OWN_BEFORE: Duration = Duration::from_secs(10);
/// How long a peer may keep a connection on which it asks nothing, be it for HTTP or a tunnel. Our own agents close
/// such connections sooner, or find them closed when they next need one.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// For how long a peer may leave an answer that was cut on a connection before that is given nothing new, and then
/// ended.
const RETIRE_LEFT: Duration = Duration::from_secs(2);
pub(super) const LEFT: Duration = Duration::from_secs(5);
/// After how many connections, and flows on them, a walk lets others have a turn: a revocation among them. One
/// connection is not broken off, and has a few hundred flows at the most.
pub(super) const WALK_STEP: usize = 256;

impl Connections {
    /// Puts every change of rules, trust and time in force for live traffic, until `stop`.
    pub async fn enforce(&self, stop: CancellationToken) {
        // Beside one another: a revocation does not wait for all that is decided again by the time.
        tokio::join!(self.enforce_changes(&stop), self.enforce_time(&stop));
    }

    async fn enforce_time(&self, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.apply_time();
            self.review_changing().await;
            self.review_changing_leaving().await;
            self.follow();
        }
    }

    async fn enforce_changes(&self, stop: &CancellationToken) {
        let mut inbound = self.context.mesh.inbound();
        let mut trust = self.context.identity.subscribe();
        let mut denied = self.context.mesh.denied.changes();
        denied.mark_changed();
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
            }
        }
    }

    pub(super) async fn apply(&self, inbound: Arc<Inbound>) {
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
            let flows = connection.review(self, &rules);
            if let Some(reason) = end {
                connection.cut(reason.as_str());
            }
            if others_changed {
                connection.hold_against(self, &trusted, now);
            }
            flows
        })
        .await;
        self.review_leaving().await;
        self.context.mesh.applied.publish(Arc::clone(rules.inbound()));
    }

    async fn apply_trust(&self, trusted: &LiveState) {
        let now = self.context.clock.now();
        self.walk(|connection| {
            connection.hold_against(self, trusted, now);
            0
        })
        .await;
        self.review_users().await;
        self.review_users_leaving().await;
        self.context.mesh.applied.publish_trust(Arc::clone(trusted.bundle()));
    }

    pub(super) async fn apply_denylist(&self) {
        let denied = &self.context.mesh.denied;
        self.walk(|connection| {
            if let Some(denial) = connection.denial(denied) {
                connection.cut(denial.as_str());
            }
            0
        })
        .await;
        self.review_users().await;
        self.review_users_leaving().await;
    }

    pub(super) fn apply_time(&self) {
        let now = self.context.clock.now();
        let instant = Instant::now();
        let table = self.table();
        for connection in table.live.values() {
            let until = connection.ends_at();
            let before = match connection.role() {
                Role::Inbound { .. } => RETIRE_BEFORE,
                Role::Outbound => RETIRE_OWN_BEFORE,
            };
            let left = connection.left_after_cut(instant).unwrap_or_default();
            if now > until {
                connection.cut("certificate_expired");
            } else if connection.is_idle(instant, 2 * IDLE) {
                // It was asked to end and does not.
                connection.cut("idle");
            } else if left >= LEFT {
                connection.cut("cut_answer_not_taken");
            } else if now.plus(before) > until || connection.is_idle(instant, IDLE) || left >= RETIRE_LEFT {
                connection.retired().cancel();
            }
        }
    }

    /// Brings connections from an authority that signs no longer to the next, and says when that is done.
    pub(super) fn follow(&self) {
        let now = Instant::now();
        let own = shown_by(&self.context.identity.current());
        let mut succession = self.succession();
        if succession.done().is_none() {
            let table = self.table();
            let lagging: Vec<_> =
                table.live.values().filter(|live| succession.is_lagging(live)).cloned().collect();
            drop(table);
            let next = self.next_id.load(Ordering::Relaxed);
            let are_programs_lagging = self.context.mesh.issuers.any(|issuer| succession.is_former(*issuer));
            let is_lagging = are_programs_lagging || !lagging.is_empty();
            succession.advance(own.and_then(|own| own.issuer), is_lagging, next, now);
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

    /// Reviews every connection; `review` says how many flows it looked at.
    pub(super) async fn walk(&self, review: impl Fn(&Connection) -> usize) {
        let all = self.table().live.values().cloned().collect();
        in_steps(all, review).await;
    }
}

/// Reviews these, in steps.
pub(super) async fn in_steps(connections: Vec<Arc<Connection>>, review: impl Fn(&Connection) -> usize) {
    let mut done = 0;
    for connection in connections {
        done += 1 + review(&connection);
        if done >= WALK_STEP {
            done = 0;
            tokio::task::yield_now().await;
        }
    }
}
