//! What leaves the mesh: registered first and decided then, by the agent of the node whose app calls, and decided again
//! whenever rules or time change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_policy::{OnBehalfOf, Peer};
use hauberk_proto::convert::ExternalProtocol;
use slab::Slab;
use tokio::time::Instant;

use super::Connections;
use super::enforce::WALK_STEP;
use super::flows::{Changes, Meant};
use super::kept::{Head, Held, Kept, OUR_OWN, Room};
use super::passage::Subject;
use super::rules::Ruling;
use crate::mesh::{External, NodeView, ViewStamp};
use crate::metrics::ServiceMetrics;
use crate::users::{ByHandle, TokenFields};
use crate::wire::meter::Meter;

mod facts;
mod judge;
mod leave;

use facts::facts;
use judge::Judge;
use leave::Decided;

pub(crate) use leave::Leave;

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
    /// For whom it is made.
    user: ByHandle,
    kept: Option<Kept>,
    /// Where tokens stood by the rules that its head was last gathered by.
    tokens: TokenFields,
    to: Destination,
    meter: Arc<Meter>,
    /// What the port was for when it began.
    began_as: Option<ExternalProtocol>,
    /// Where it is connected to, once it is.
    address: Option<SocketAddr>,
    changes: Changes,
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

impl Connections {
    /// Registers what an app wants to call outside of the mesh, and decides it only then, so that no change of rules
    /// slips in between. What is gathered of it is what the very rules that decide it want to know, for whom it is made
    /// among that; what those may want that come while it is under way is kept of its `head`, which comes with whom it
    /// was just found to be made for.
    pub(crate) fn leave(
        self: &Arc<Self>,
        to: Destination,
        subject: impl FnOnce(Option<(&NodeView, &External)>, OnBehalfOf) -> Subject,
        head: Option<(Head<'_>, ByHandle)>,
        metrics: &ServiceMetrics,
        since: Instant,
    ) -> Leave {
        let meter = Arc::new(Meter::adding_to(metrics.traffic()));
        let (head, mut user) = head.map_or((None, ByHandle::nobody()), |(head, user)| (Some(head), user));
        // Copied before the lock is taken, for which all calls of this agent wait.
        let rules_before = self.rules();
        let mut kept = head.and_then(|head| Kept::of(&head, &rules_before));
        let mut flows = self.leaving.flows();
        // Under the lock that whoever changes rules, trust or denylist takes afterwards: either these are the new ones,
        // or the flow is found.
        let rules = self.rules();
        if !Arc::ptr_eq(&rules, &rules_before) {
            kept = head.and_then(|head| Kept::of(&head, &rules));
        }
        let judge = Judge::new(self, &rules);
        if let Ok(view) = judge.view {
            user.look_again(view, self.context());
        }
        let external = judge.external(&to);
        let decided_by = judge.view.ok().zip(external).map(|(view, external)| (&**view, &**external));
        let subject = subject(decided_by, user.on_behalf_of());
        let tokens = judge.tokens();
        let key = flows.insert(Flow {
            subject: subject.clone(),
            user: user.clone(),
            kept,
            tokens: tokens.clone(),
            to: to.clone(),
            meter: Arc::clone(&meter),
            began_as: external.and_then(|external| external.port(to.port)).map(|port| port.protocol),
            address: None,
            changes: Changes::Nothing,
        });
        drop(flows);
        let begun = Instant::now();
        let peer = Peer::new(Some(to.app.ip()), None);
        let ruling = judge.decide(external, &to, (&subject, &user), &peer);
        self.context().metrics.decided(begun.elapsed());
        let changes = Changes::of(&ruling, user.is_for_user());
        if let Some(flow) = self.leaving.flows().slab.get_mut(key) {
            // Newer rules may have decided it meanwhile, by the time.
            flow.changes = changes.max(flow.changes);
        }
        let decided = Decided {
            view: judge.view.ok().map(ViewStamp::of),
            external: external.cloned(),
            moment: judge.moment,
            caller: judge.caller,
            peer,
            tokens,
            ruling,
        };
        Leave::new(self, (key, to), meter, &subject, decided, since)
    }

    /// Decides everything that leaves the mesh again, and cuts what is denied.
    pub(super) async fn review_leaving(&self) {
        self.review_some_leaving(Meant::All).await;
    }

    /// The same of what was decided by the time, and of users whose token may have ended.
    pub(super) async fn review_changing_leaving(&self) {
        self.review_some_leaving(Meant::Changing).await;
    }

    /// The same of what is made for users who are not what they were.
    pub(super) async fn review_users_leaving(&self) {
        self.review_some_leaving(Meant::OfChangedUsers).await;
    }

    /// In steps, between which others have a turn. What begins meanwhile is decided by the new rules already.
    async fn review_some_leaving(&self, meant: Meant) {
        let may_be_meant = |flow: &Flow| match meant {
            Meant::All => true,
            Meant::OfChangedUsers => flow.user.is_for_user(),
            Meant::Changing => flow.changes != Changes::Nothing,
        };
        let all: Vec<_> = self
            .leaving
            .flows()
            .slab
            .iter()
            .filter(|(_, flow)| may_be_meant(flow))
            .map(|(key, _)| key)
            .collect();
        for some in all.chunks(WALK_STEP) {
            for key in some {
                // Calls that begin and end wait for one decision at the most.
                let mut flows = self.leaving.flows();
                // Not those of whoever began to walk: newer ones may have been here before him.
                let rules = self.rules();
                // It may have ended, and another have its place, which is decided once more then.
                if let Some(flow) = flows.slab.get_mut(*key) {
                    self.review_flow(flow, &Judge::new(self, &rules), meant);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn review_flow(&self, flow: &mut Flow, judge: &Judge<'_>, meant: Meant) {
        let is_other_user = flow.is_other_user(self, judge);
        let is_meant = match meant {
            Meant::All => true,
            Meant::OfChangedUsers => is_other_user,
            Meant::Changing => is_other_user || flow.changes == Changes::Decision,
        };
        if !is_meant {
            return;
        }
        let external = judge.external(&flow.to);
        let peer = Peer::new(Some(flow.to.app.ip()), None);
        if let (Ok(view), Some(external)) = (judge.view, external) {
            flow.gather_again(view, external);
        }
        let ruling = match external.and_then(|external| flow.refusal(external)) {
            Some(reason) => Ruling::Refused(reason),
            None => judge.decide(external, &flow.to, (&flow.subject, &flow.user), &peer),
        };
        flow.changes = Changes::of(&ruling, flow.user.is_for_user());
        if ruling.is_allowed() || flow.meter.is_cut() {
            return;
        }
        let reason = ruling.as_told().reason();
        let view = judge.view.ok().map(ViewStamp::of);
        // Without a certificate nobody is there who could have called.
        let decision = judge.caller.as_ref().map(|caller| {
            self.decisions().record(&facts(
                (view.as_ref(), external.map(|external| &external.name)),
                caller,
                (&flow.to, &peer),
                &flow.subject,
                (&ruling, judge.moment),
            ))
        });
        match &decision {
            Some(decision) => flow.meter.cut_by(decision),
            None => flow.meter.cut(),
        }
        let decision = decision.as_ref().map(tracing::field::display);
        tracing::info!(event = "egress_cut", host = flow.to.host, port = flow.to.port, reason, decision);
    }
}

impl Flow {
    /// Looks again for whom it is made, and says whether that is another one, or none that may be believed.
    fn is_other_user(&mut self, connections: &Connections, judge: &Judge<'_>) -> bool {
        let Ok(view) = judge.view else { return false };
        let is_other = self.user.look_again(view, connections.context());
        if is_other {
            self.subject.set_on_behalf_of(self.user.on_behalf_of());
        }
        is_other || self.user.refusal(judge.moment.time).is_some()
    }

    /// Gathers what this view wants from what was kept of its head.
    fn gather_again(&mut self, view: &Arc<NodeView>, external: &External) {
        let tokens = view.token_fields();
        match &mut self.kept {
            None => self.subject.forget_tokens(&self.tokens, &tokens),
            Some(kept) => {
                if let Subject::Request { gathered, .. } = &mut self.subject
                    && let Some(wanted) = external.engine.wanted(self.to.port)
                    && let Some(again) = kept.gather(view, wanted)
                {
                    *gathered = Some(Arc::new(again.made_for(self.user.on_behalf_of())));
                }
            }
        }
        self.tokens = tokens;
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

impl Leaving {
    /// Nothing yet. All of it counts as one identity's.
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self(Mutex::new(Flows { slab: Slab::new(), held: room.of(OUR_OWN, usize::MAX) }))
    }

    fn end(&self, key: usize) -> Option<Flow> {
        let mut flows = self.flows();
        let flow = flows.slab.try_remove(key)?;
        if let Some(kept) = &flow.kept {
            flows.held.give(kept.size());
        }
        Some(flow)
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flows {
    /// Registers one. Of its head is kept what there is room for.
    fn insert(&mut self, flow: Flow) -> usize {
        let kept = flow.kept.filter(|kept| self.held.take(kept.size()));
        self.slab.insert(Flow { kept, ..flow })
    }
}
