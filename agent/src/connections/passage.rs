//! One request or stream, from its decision to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use hauberk_identity::{Name, UnixMillis};
use hauberk_policy::{
    Attempt, CanonicalPath, Counted, EscapedSlashes, Gathered, Moment, ObsText, OnBehalfOf,
};
use http::uri::PathAndQuery;
use http::{Method, Response};
use tokio::time::Instant;

use super::Connections;
use super::kept::Kept;
use super::live::Connection;
use super::rules::{self, Ruling, SharedMemo};
use crate::context::Context;
use crate::decisions::{DecisionId, Decisions, Outcome, Recorded};
use crate::mesh::{NodeView, ViewStamp};
use crate::users::{MadeFor, TokenFields};
use crate::wire::meter::Meter;

/// What must be known of a request or stream to decide it again.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// An HTTP request, gRPC calls included.
    Request {
        /// Its method.
        method: Method,
        /// Its path in canonical form, and its query.
        target: PathAndQuery,
        /// Whether it asks for another protocol.
        is_upgrade: bool,
        /// What policies want to know besides; none where they want nothing.
        gathered: Option<Arc<Gathered>>,
        /// For whom it is made.
        made_for: MadeFor,
    },
    /// A TCP stream.
    Stream,
}

/// A request or stream that was decided. Dropped when it has ended, it leaves the registry and its outcome is told. A
/// request's is shared by its two bodies, either of which may end last.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(super) connections: Arc<Connections>,
    pub(super) connection: Arc<Connection>,
    pub(super) key: usize,
    pub(super) meter: Arc<Meter>,
    pub(super) gathered: Option<Arc<Gathered>>,
    /// Where tokens stood when it began.
    pub(super) tokens: TokenFields,
    /// It may last for days, and holds on to no rules.
    pub(super) view: Option<ViewStamp>,
    pub(super) ruling: Ruling,
    /// When it was decided.
    pub(super) moment: Moment,
    pub(super) service: Option<Name>,
    pub(super) status: AtomicU16,
    pub(super) since: Instant,
    pub(super) recorded: Option<Recorded>,
}

/// The header fields by which a request is decided as they stand in its head: what its trailers say of them nobody has
/// looked at.
#[derive(Debug)]
pub(crate) struct DecidedFields {
    /// When it began, and by the rules of now.
    pub(super) gathered: [Option<Arc<Gathered>>; 2],
    pub(super) tokens: [TokenFields; 2],
}

impl DecidedFields {
    /// Whether this field is one of them, however it is spelled.
    pub(crate) fn hold(&self, field: &str) -> bool {
        self.gathered.iter().flatten().any(|gathered| gathered.looked_for(field))
            || self.tokens.iter().any(|tokens| tokens.hold(field))
    }
}

impl Subject {
    pub(super) fn gathered(&self) -> Option<&Arc<Gathered>> {
        match self {
            Self::Request { gathered, .. } => gathered.as_ref(),
            Self::Stream => None,
        }
    }

    /// Decides it again.
    pub(super) fn decide(&self, memo: &SharedMemo, port: u16, moment: Moment) -> Ruling {
        let escaped = rules::escaped_slashes(memo, port);
        self.with_path((None, escaped), moment, |attempt, _| {
            Ruling::Policy(rules::decide(memo, port, attempt, moment, None).0)
        })
        .unwrap_or_else(Ruling::Refused)
    }

    /// Decides it for the first time. `path` is the target's path, if it has been parsed already.
    pub(super) fn decide_first(
        &self,
        memo: &SharedMemo,
        port: u16,
        path: Option<&CanonicalPath<'_>>,
        moment: Moment,
        decisions: &Decisions,
    ) -> (Ruling, Counted) {
        let escaped = rules::escaped_slashes(memo, port);
        // Read by the rules before these, where they have just changed.
        let path = path.filter(|path| escaped == EscapedSlashes::Keep || path.with_slashes().is_none());
        self.with_path((path, escaped), moment, |attempt, (method, path)| {
            let mark = Some(decisions.mark(method, path));
            let (decision, counted) = rules::decide(memo, port, attempt, moment, mark);
            (Ruling::Policy(decision), counted)
        })
        .unwrap_or_else(|reason| (Ruling::Refused(reason), Counted::No))
    }

    /// Gives `ask` what is attempted, with its method and path; the reason where it is refused before: the path has
    /// several readings, or its user's token is no good at this moment.
    pub(super) fn with_path<T>(
        &self,
        (path, escaped): (Option<&CanonicalPath<'_>>, EscapedSlashes),
        moment: Moment,
        ask: impl FnOnce(Attempt<'_>, (&str, &str)) -> T,
    ) -> Result<T, &'static str> {
        let Self::Request { method, target, is_upgrade, gathered, .. } = self else {
            return Ok(ask(Attempt::Stream, ("", "")));
        };
        if let Some(reason) = self.refusal(moment.time) {
            return Err(reason);
        }
        let parsed;
        let path = match path {
            Some(path) => path,
            None => {
                parsed = CanonicalPath::parse_with(method.as_str(), target.as_str(), escaped)
                    .map_err(|_| "ambiguous_path")?;
                &parsed
            }
        };
        let (method, upgrade) = (method.as_str(), *is_upgrade);
        let gathered = gathered.as_deref().unwrap_or(Gathered::nothing());
        Ok(ask(Attempt::Request { method, path, upgrade, gathered }, (method, path.path())))
    }
}

impl Subject {
    /// Whether it is made for a user, whose token ends some time.
    pub(super) fn is_for_user(&self) -> bool {
        matches!(self, Self::Request { made_for, .. } if made_for.is_for_user())
    }

    /// Why its user's token is no good at this moment, if so.
    pub(super) fn refusal(&self, now: UnixMillis) -> Option<&'static str> {
        match self {
            Self::Request { made_for, .. } => made_for.refusal(now),
            Self::Stream => None,
        }
    }

    /// Looks by this view, at this moment, for whom it is made, and says whether policies are told of another one than
    /// before.
    pub(super) fn look_again(&mut self, view: &Arc<NodeView>, port: u16, context: &Context) -> bool {
        let Self::Request { made_for, .. } = self else { return false };
        let Some(now) = made_for.look_again(view, port, context) else { return false };
        self.set_on_behalf_of(now);
        true
    }

    /// Tells policies from now on that it is made for this one.
    pub(super) fn set_on_behalf_of(&mut self, now: OnBehalfOf) {
        if let Self::Request { gathered: Some(known), .. } = self {
            *known = Arc::new(Gathered::clone(known).made_for(now));
        }
    }

    /// Of a head that was not kept: leaves out of what was gathered which fields held tokens then and hold none now, or
    /// the other way round. What stands in them is either a secret, or was never gathered.
    pub(super) fn forget_tokens(&mut self, then: &TokenFields, now: &TokenFields) {
        if then == now {
            return;
        }
        if let Self::Request { gathered: Some(known), .. } = self {
            let is_other = |field: &str| then.hold(field) != now.hold(field);
            *known = Arc::new(Gathered::clone(known).without_fields(is_other));
        }
    }

    /// Gathers what this view wants from what was kept of its head.
    pub(super) fn gather_again(
        &mut self,
        kept: &mut Kept,
        view: &Arc<NodeView>,
        port: u16,
        context: &Context,
    ) {
        let Self::Request { gathered, made_for, .. } = self else { return };
        let Some(wanted) = view.engine.wanted(port) else { return };
        let Some(again) = kept.gather(view, wanted) else { return };
        let on_behalf_of = made_for.look_again(view, port, context);
        let on_behalf_of = || on_behalf_of.unwrap_or_else(|| made_for.on_behalf_of());
        *gathered = Some(Arc::new(if wanted.user() { again.made_for(on_behalf_of()) } else { again }));
    }
}

impl Passage {
    /// Whether it may pass.
    pub(crate) fn is_allowed(&self) -> bool {
        self.ruling.is_allowed()
    }

    /// What counts its bytes, and stops it when it is cut.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The fields that it was decided by when it began, or since.
    pub(crate) fn decided_fields(&self) -> DecidedFields {
        let rules = self.connections.rules();
        let tokens = rules.view().map(|view| view.token_fields()).unwrap_or_default();
        DecidedFields {
            gathered: [self.gathered.clone(), self.connection.gathered(self.key)],
            tokens: [self.tokens.clone(), tokens],
        }
    }

    /// Whether bytes beyond ASCII are passed on in its trailers, by the rules of now.
    pub(crate) fn takes_obs_text(&self) -> bool {
        let rules = self.connections.rules();
        let port = rules.view().ok().and_then(|view| view.port(self.connection.port()));
        port.is_some_and(|port| port.obs_text == ObsText::Forward)
    }

    /// The host by which it was decided, in the one spelling that policies see; none where they do not read it.
    pub(crate) fn host(&self) -> Option<&str> {
        self.gathered.as_ref()?.host()
    }

    /// The id of the decision, where it was not plainly to allow.
    pub(crate) fn decision(&self) -> Option<&DecisionId> {
        self.recorded.as_ref().map(Recorded::id)
    }

    /// Notes what is answered.
    pub(crate) fn answered<B>(&self, response: &Response<B>) {
        self.status.store(response.status().as_u16(), Ordering::Relaxed);
        self.meter.note_grpc_status(response.headers());
    }

    /// Counts what was decided, and gives whatever is not plainly allowed an id. `counted` is what has become of that
    /// where the decision is remembered.
    pub(super) fn record(&mut self, subject: &Subject, counted: Counted) {
        let is_plain = matches!(&self.ruling, Ruling::Policy(decision)
            if decision.reason == hauberk_policy::Reason::Permitted && decision.audit.is_none());
        if !is_plain || !matches!(counted, Counted::Yes) {
            let service = self.service.as_ref().map(AsRef::as_ref).unwrap_or_default();
            let (view, moment) = (self.view.as_ref(), self.moment);
            let facts = self.connection.facts(view, subject, &self.ruling, moment, service);
            let decisions = self.connections.decisions();
            decisions.count(&facts, counted);
            if !is_plain {
                self.recorded = Some(decisions.begin(&facts));
            }
        }
        if let Some(listener) = self.connection.listener() {
            let ruling = self.ruling.as_told();
            listener.decided(ruling.verdict(), ruling.reason());
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let now = Instant::now();
        let Some(subject) = self.connection.end(self.key, now) else { return };
        let duration = now.duration_since(self.since);
        let status = self.status.load(Ordering::Relaxed);
        if let (Subject::Request { is_upgrade, .. }, Some(listener)) = (&subject, self.connection.listener())
        {
            listener.answered(status);
            // How long other protocols last says nothing of how fast requests are.
            if self.is_allowed() && !is_upgrade {
                listener.took(duration);
            }
        }
        let decisions = self.connections.decisions();
        if self.recorded.is_none() && !decisions.wants_outcomes() {
            return;
        }
        let (bytes_in, bytes_out) = self.meter.counted();
        let grpc_status = self.meter.grpc_status();
        let service = self.service.as_ref().map(AsRef::as_ref).unwrap_or_default();
        decisions.finish(
            &self.connection.facts(self.view.as_ref(), &subject, &self.ruling, self.moment, service),
            self.recorded.as_ref(),
            &Outcome { status, grpc_status, duration, bytes_in, bytes_out },
        );
    }
}
