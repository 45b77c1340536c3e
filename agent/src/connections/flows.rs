//! What passes over a connection: registered first and decided then, and decided again whenever rules or time change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use hauberk_identity::Name;
use hauberk_policy::{Counted, Gathered, Moment, Protocol};
use slab::Slab;
use tokio::time::Instant;

use super::Connections;
use super::enforce::in_steps;
use super::kept::{Head, Held, Kept, MOST_OF_CONNECTION};
use super::live::{Connection, Role};
use super::passage::{Passage, Subject};
use super::rules::{Rules, Ruling, SharedMemo};
use crate::decisions::{self, Facts};
use crate::mesh::ViewStamp;
use crate::users::{Handles, TokenFields};
use crate::wire::meter::Meter;

#[derive(Debug)]
pub(super) struct State {
    memo: Option<(Arc<Rules>, SharedMemo)>,
    flows: Slab<Flow>,
    /// The room that what is kept of them takes, once any of it is.
    held: Option<Held>,
    /// When the last of them ended.
    quiet_since: Instant,
}

/// One request or stream that is under way.
#[derive(Debug)]
struct Flow {
    subject: Subject,
    kept: Option<Kept>,
    /// Where tokens stood by the rules that its head was last gathered by.
    tokens: TokenFields,
    meter: Arc<Meter>,
    changes: Changes,
    /// Since when it may not go on.
    cut_since: Option<Instant>,
}

/// What may become of a flow as time passes, although nothing new is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changes {
    Nothing,
    /// Its user is worth less. What policies say stays.
    User,
    /// What policies say.
    Decision,
}

/// Which flows are decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    All,
    /// Those whose user is not what it was: asking policies about all that are made for users would cost more than the
    /// calls did.
    OfChangedUsers,
    /// These, and those that policies decide by the time.
    Changing,
}

impl Connections {
    /// What apps are given of the users of their requests.
    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Decides again what was decided by the time, or by the age of a peer's certificate. Connections on which nothing
    /// was are passed over.
    pub(super) async fn review_changing(&self) {
        let is_changing = |connection: &&Arc<Connection>| connection.changing.load(Ordering::Relaxed) > 0;
        let changing = self.table().live.values().filter(is_changing).cloned().collect();
        in_steps(changing, |connection| connection.decide_again(self, Meant::Changing)).await;
    }

    /// Decides again what is made for users who are not what they were: who passed them on may be worth less by now.
    /// Whatever is admitted is held against that under the lock under which it is registered, so that it is found here,
    /// or has been refused already.
    pub(super) async fn review_users(&self) {
        self.walk(|connection| connection.decide_again(self, Meant::OfChangedUsers)).await;
    }
}

impl Connection {
    /// Registers a request or stream that began at `since`, and decides it only then, so that no change of rules slips
    /// in between. What is gathered of it is what the very rules that decide it want to know; what those may want that
    /// come while it is under way is kept of its `head`.
    pub(crate) fn admit(
        self: &Arc<Self>,
        connections: &Arc<Connections>,
        subject: impl FnOnce(&Rules) -> Subject,
        head: Option<Head<'_>>,
        service: Option<Name>,
        since: Instant,
    ) -> Passage {
        let meter = Arc::new(match self.listener() {
            Some(listener) => Meter::adding_to(listener.traffic()),
            None => Meter::default(),
        });
        // Copied before the lock is taken, which all streams of the peer share.
        let rules_before = connections.rules();
        let mut kept = head.and_then(|head| Kept::of(&head, &rules_before));
        let mut state = self.state();
        // Under the lock that whoever changes rules takes afterwards: either these are the new ones, or the flow is
        // found.
        let rules = connections.rules();
        if !Arc::ptr_eq(&rules, &rules_before) {
            kept = head.and_then(|head| Kept::of(&head, &rules));
        }
        let subject = subject(&rules);
        let kept = kept.filter(|kept| {
            let held = state.held.get_or_insert_with(|| self.room(connections));
            held.take(kept.size())
        });
        let tokens = rules.view().map(|view| view.token_fields()).unwrap_or_default();
        let key = state.flows.insert(Flow {
            subject: subject.clone(),
            kept,
            tokens: tokens.clone(),
            meter: Arc::clone(&meter),
            changes: Changes::Nothing,
            cut_since: None,
        });
        // Whoever cuts looks through the flows only afterwards, so that one of us sees the other.
        let memo =
            if self.cut_signal().is_cancelled() { Err("connection_cut") } else { state.memo(&rules, self) };
        drop(state);
        let begun = Instant::now();
        let moment = self.moment(connections);
        let decisions = connections.decisions();
        let (ruling, counted) = match memo {
            Ok(memo) => {
                let path = head.and_then(|head| head.path);
                subject.decide_first(&memo, self.port(), path, moment, decisions)
            }
            Err(reason) => (Ruling::Refused(reason), Counted::No),
        };
        connections.context().metrics.decided(begun.elapsed());
        let changes = Changes::of(&ruling, subject.is_for_user());
        if changes != Changes::Nothing {
            self.state().set_changes(key, changes, &self.changing);
        }
        let mut passage = Passage {
            connections: Arc::clone(connections),
            connection: Arc::clone(self),
            key,
            meter,
            gathered: subject.gathered().cloned(),
            tokens,
            view: rules.view().ok().map(ViewStamp::of),
            ruling,
            moment,
            service,
            status: AtomicU16::new(0),
            since,
            recorded: None,
        };
        passage.record(&subject, counted);
        passage
    }

    /// Decides everything under way again, and cuts what is denied. Says how many flows it looked at.
    pub(super) fn review(&self, connections: &Connections, rules: &Arc<Rules>) -> usize {
        if let Err(reason) = self.check(rules) {
            self.cut(reason);
            return 0;
        }
        self.decide_again(connections, Meant::All)
    }

    /// Says how many flows it looked at.
    fn decide_again(&self, connections: &Connections, meant: Meant) -> usize {
        // Nothing is decided there, and rules that it held on to would stay for as long as it lives.
        if self.role() == Role::Outbound {
            return 0;
        }
        let moment = self.moment(connections);
        let mut state = self.state();
        // Not those of whoever began to walk: newer ones may have been here before him.
        let rules = connections.rules();
        // Also lets go of the former rules' memory.
        let memo = state.memo(&rules, self);
        let view = rules.view().ok();
        let stamp = view.map(ViewStamp::of);
        let tokens = view.map(|view| view.token_fields()).unwrap_or_default();
        for (_, flow) in state.flows.iter_mut() {
            let is_other_user = flow.is_other_user(&rules, self.port(), connections, moment);
            let is_meant = match meant {
                Meant::All => true,
                Meant::OfChangedUsers => is_other_user,
                Meant::Changing => is_other_user || flow.changes == Changes::Decision,
            };
            if !is_meant {
                continue;
            }
            match (view, &mut flow.kept) {
                (Some(view), Some(kept)) => {
                    flow.subject.gather_again(kept, view, self.port(), connections.context());
                }
                (Some(_), None) => flow.subject.forget_tokens(&flow.tokens, &tokens),
                (None, _) => {}
            }
            if view.is_some() {
                flow.tokens.clone_from(&tokens);
            }
            let ruling = match &memo {
                Ok(memo) => flow.subject.decide(memo, self.port(), moment),
                Err(reason) => Ruling::Refused(reason),
            };
            flow.set_changes(Changes::of(&ruling, flow.subject.is_for_user()), &self.changing);
            if !ruling.is_allowed() && !flow.meter.is_cut() {
                let facts = self.facts(stamp.as_ref(), &flow.subject, &ruling, moment, "");
                let decision = connections.decisions().record(&facts);
                flow.meter.cut_by(&decision);
                if flow.cut_since.replace(Instant::now()).is_none() {
                    self.cut_flows.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(listener) = self.listener() {
                    listener.denied(facts.ruling.reason());
                }
                tracing::info!(event = "stream_cut", peer = ?self.caller, %decision);
            }
        }
        state.flows.len()
    }

    /// What policies may know of this moment.
    pub(super) fn moment(&self, connections: &Connections) -> Moment {
        let (time, certificate_since) = (connections.context().clock.now(), Some(self.proven_since()));
        Moment { time, certificate_since }
    }

    pub(super) fn facts<'a>(
        &'a self,
        view: Option<&'a ViewStamp>,
        subject: &'a Subject,
        ruling: &'a Ruling,
        moment: Moment,
        service: &'a str,
    ) -> Facts<'a> {
        let query = match subject {
            Subject::Request { target, .. } => target.query(),
            Subject::Stream => None,
        };
        Facts {
            view,
            caller: &self.caller,
            caller_serial: Some(self.proven().serial()),
            peer_address: self.address(),
            peer: &self.circumstances,
            moment,
            port: self.port(),
            service,
            leaves_to: None,
            request: match (subject, self.role()) {
                (Subject::Request { target, .. }, Role::Inbound { protocol: Protocol::Grpc, .. }) => {
                    decisions::Request::Grpc { path: target.path() }
                }
                (Subject::Request { method, target, is_upgrade, .. }, _) => decisions::Request::Http {
                    method: method.as_str(),
                    path: target.path(),
                    is_upgrade: *is_upgrade,
                },
                (Subject::Stream, _) => decisions::Request::Connect,
            },
            query,
            gathered: subject.gathered(),
            ruling: ruling.as_told(),
        }
    }

    /// Forgets a request or stream that has ended.
    pub(super) fn end(&self, key: usize, now: Instant) -> Option<Subject> {
        let mut state = self.state();
        state.quiet_since = now;
        let mut flow = state.flows.try_remove(key)?;
        flow.set_changes(Changes::Nothing, &self.changing);
        if flow.cut_since.is_some() {
            self.cut_flows.fetch_sub(1, Ordering::Relaxed);
        }
        if let (Some(kept), Some(held)) = (&flow.kept, &mut state.held) {
            held.give(kept.size());
        }
        Some(flow.subject)
    }

    /// What was gathered of a request or stream under way, by the rules of now.
    pub(super) fn gathered(&self, key: usize) -> Option<Arc<Gathered>> {
        self.state().flows.get(key)?.subject.gathered().cloned()
    }

    /// The room for what is kept of requests of this peer. Another trust domain counts as one: it makes as many
    /// identities as it likes.
    fn room(&self, connections: &Connections) -> Held {
        let (id, current) = (self.peer_id(), connections.context().identity.current());
        let (domain, own) = (id.trust_domain(), current.bundle().trust_domain());
        let identity = if domain == *own { id.as_str() } else { domain.as_str() };
        connections.room.of(identity, MOST_OF_CONNECTION)
    }

    /// For how long the peer has not taken the rest of an answer that may not go on, if there is one. For as long as its
    /// caller takes nothing, nobody asks such an answer whether it may go on. Connections on which nothing was cut are
    /// passed over: everybody is looked at each second.
    pub(super) fn left_after_cut(&self, now: Instant) -> Option<Duration> {
        if self.cut_flows.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let state = self.state();
        let is_left = |flow: &&Flow| flow.meter.is_answering();
        let left = state.flows.iter().map(|(_, flow)| flow).filter(is_left).filter_map(|flow| flow.cut_since);
        left.min().map(|since| now.duration_since(since))
    }

    /// Whether the peer has asked nothing for so long on a connection that is kept for its next request or stream.
    pub(super) fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        match self.role() {
            Role::Outbound => false,
            Role::Inbound { .. } => {
                let state = self.state();
                state.flows.is_empty() && now.duration_since(state.quiet_since) >= limit
            }
        }
    }
}

impl Changes {
    pub(super) fn of(ruling: &Ruling, is_for_user: bool) -> Self {
        if ruling.changes_with_time() {
            return Self::Decision;
        }
        if is_for_user { Self::User } else { Self::Nothing }
    }
}

impl Flow {
    /// Looks again for whom it is made, and says whether that is another one, or none that may be believed.
    fn is_other_user(&mut self, rules: &Rules, port: u16, connections: &Connections, moment: Moment) -> bool {
        let is_other =
            rules.view().is_ok_and(|view| self.subject.look_again(view, port, connections.context()));
        is_other || self.subject.refusal(moment.time).is_some()
    }

    fn set_changes(&mut self, changes: Changes, count: &AtomicUsize) {
        let is_changing = |changes| changes != Changes::Nothing;
        match (is_changing(self.changes), is_changing(changes)) {
            (false, true) => _ = count.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = count.fetch_sub(1, Ordering::Relaxed),
            (false, false) | (true, true) => {}
        }
        self.changes = changes;
    }
}

impl State {
    /// Nothing is under way since `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { memo: None, flows: Slab::new(), held: None, quiet_since: now }
    }

    pub(super) fn cut_all(&self) {
        self.flows.iter().for_each(|(_, flow)| flow.meter.cut());
    }

    fn set_changes(&mut self, key: usize, changes: Changes, count: &AtomicUsize) {
        if let Some(flow) = self.flows.get_mut(key) {
            // Newer rules may have decided it meanwhile, by the time.
            flow.set_changes(changes.max(flow.changes), count);
        }
    }

    fn memo(&mut self, rules: &Arc<Rules>, connection: &Connection) -> Result<SharedMemo, &'static str> {
        if let Some((of, memo)) = &self.memo
            && Arc::ptr_eq(of, rules)
        {
            return Ok(Arc::clone(memo));
        }
        self.memo = None;
        let memo = rules.memo(&connection.caller, &connection.circumstances, connection.id())?;
        self.memo = Some((Arc::clone(rules), Arc::clone(&memo)));
        Ok(memo)
    }
}
