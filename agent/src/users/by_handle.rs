//! For whom a request is made that leaves the mesh, by the handle that its app brings. No other agent looks at it: ours
//! finds out what the next one would have been told.

use std::sync::{Arc, Weak};

use hauberk_identity::UnixMillis;
use hauberk_policy::{OnBehalfOf, Origin};
use http::HeaderValue;

use super::chain::{self, Between, Parts, Stage};
use super::handles::FORGED;
use super::{Handles, Identity, Users, reason};
use crate::context::Context;
use crate::mesh::NodeView;

/// For whom a request is made that leaves the mesh, by the view of one moment.
#[derive(Debug, Clone)]
pub struct ByHandle {
    said: Said,
    looked_by: Weak<NodeView>,
}

#[derive(Debug, Clone)]
enum Said {
    /// It has no handle.
    Nobody,
    User(Passing),
    /// Its handle is no good, or no longer, for this reason.
    Refused(&'static str),
}

/// A user who is about to leave.
#[derive(Debug, Clone)]
struct Passing {
    identity: Arc<Identity>,
    /// With all who passed the user on to us.
    origin: Arc<Origin>,
}

impl ByHandle {
    /// For nobody, since no handle came along.
    pub fn nobody() -> Self {
        Self { said: Said::Nobody, looked_by: Weak::new() }
    }

    /// What a handle says by a view, which verifies anew what was verified when the user came in. Without a view nobody
    /// is a user.
    pub fn look(
        handle: &HeaderValue,
        view: Option<&Arc<NodeView>>,
        handles: &Handles,
        context: &Context,
    ) -> Self {
        let said = open(handle, view, handles, context).map_or_else(Said::Refused, Said::User);
        Self { said, looked_by: view.map(Arc::downgrade).unwrap_or_default() }
    }

    /// What policies are told of it.
    pub fn on_behalf_of(&self) -> OnBehalfOf {
        match &self.said {
            Said::User(Passing { origin, .. }) => OnBehalfOf::User(Arc::clone(origin)),
            Said::Nobody | Said::Refused(_) => OnBehalfOf::Nobody,
        }
    }

    /// Whether there is a user, for as long as all that vouches for that is good.
    pub fn is_for_user(&self) -> bool {
        matches!(self.said, Said::User(_))
    }

    /// Why the request is denied whatever policies say, if so.
    pub fn refusal(&self, now: UnixMillis) -> Option<&'static str> {
        match &self.said {
            Said::Nobody => None,
            Said::User(Passing { identity, .. }) => identity.end_of_passing_on(now),
            Said::Refused(reason) => Some(reason),
        }
    }

    /// Holds whom the token was minted for, and who passed the user on, against what is trusted, and who is refused, by
    /// now, and verifies the user where another view is in force than that which was looked by. Says whether policies
    /// are told of another one than before.
    pub fn look_again(&mut self, view: &Arc<NodeView>, context: &Context) -> bool {
        let Said::User(passing) = &self.said else { return false };
        let is_same = std::ptr::eq(self.looked_by.as_ptr(), Arc::as_ptr(view));
        let again = passing.again(view, is_same, context).map_or_else(Said::Refused, Said::User);
        let before = self.on_behalf_of();
        self.looked_by = Arc::downgrade(view);
        self.said = again;
        self.on_behalf_of() != before
    }
}

impl Passing {
    fn new(identity: Arc<Identity>) -> Self {
        let actors = identity.passed.as_ref().map(|passed| passed.signers()).unwrap_or_default();
        let origin = Arc::new(Origin { user: identity.origin.user.clone(), actors });
        Self { identity, origin }
    }

    fn again(&self, view: &NodeView, is_same: bool, context: &Context) -> Result<Self, &'static str> {
        let users = view.users.as_ref().ok_or(reason::UNKNOWN_ISSUER)?;
        let (now, passed) = (context.clock.now(), self.identity.passed.as_ref());
        let denied = &*context.mesh.denied;
        self.identity.check(denied)?;
        if let Some(passed) = passed {
            let trusted = &context.identity.current();
            // Nobody proves anew who it is, not even the last one.
            passed.check(trusted, denied, &users.vouched, now, Stage::Arriving)?;
        }
        if is_same {
            return Ok(self.clone());
        }
        users.verify_again(&self.identity, denied, now).map(Self::new)
    }
}

impl Identity {
    /// Why it is not passed on any longer, if so.
    fn end_of_passing_on(&self, now: UnixMillis) -> Option<&'static str> {
        let has_ended = self.passed.as_ref().is_some_and(|passed| passed.ends_at() <= now);
        match self.passes_on_until() > now {
            true => None,
            false if has_ended => Some(chain::EXPIRED),
            false => Some(reason::EXPIRED),
        }
    }
}

fn open(
    handle: &HeaderValue,
    view: Option<&Arc<NodeView>>,
    handles: &Handles,
    context: &Context,
) -> Result<Passing, &'static str> {
    let now = context.clock.now();
    let (_, text) = handles.open(handle.to_str().map_err(|_| FORGED)?, now)?;
    let view = view.ok_or(reason::UNKNOWN_ISSUER)?;
    let users = view.users.as_ref().ok_or(reason::UNKNOWN_ISSUER)?;
    verify(users, &text, view, context, now).map(Passing::new)
}

/// Verifies what a handle of ours stands for, as it was when we were given it.
fn verify(
    users: &Users,
    text: &str,
    view: &NodeView,
    context: &Context,
    now: UnixMillis,
) -> Result<Arc<Identity>, &'static str> {
    let parts = Parts::parse(text)?;
    let denied = &*context.mesh.denied;
    let Some(peer) = parts.last_signer()? else { return users.verify(parts.user, denied, now) };
    let trusted = &context.identity.current();
    let between = Between { own: &view.spiffe_id, peer: &peer, trusted, denied };
    users.verify_passed_text(text, between, now)
}
