//! For whom one request is made, from its head to its end.

use std::sync::Arc;

use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_policy::OnBehalfOf;
use http::{HeaderMap, HeaderValue};

use super::chain::{Between, Stage, UNAVAILABLE};
use super::place::Place;
use super::{Handles, Identity, get_or_make, place, reason};
use crate::context::Context;
use crate::mesh::NodeView;

/// For whom a request says that it is made.
#[derive(Debug, Clone)]
pub(super) enum Claimed {
    /// For no user.
    Nobody,
    /// For this one.
    User(Arc<Identity>),
    /// Its token is no good, for this reason.
    Refused(&'static str),
}

/// For whom a request is made, by the view of one moment.
#[derive(Debug, Clone)]
pub struct MadeFor {
    claimed: Claimed,
    /// The view by which its header was looked at; none where its port took no tokens, or where a view came since by
    /// which they may stand in other fields.
    looked_by: Option<Arc<NodeView>>,
    /// Where its own token stood.
    found_at: Option<Place>,
}

/// A request as it arrives.
#[derive(Clone, Copy)]
pub struct Arrival<'a> {
    /// The listener's number.
    pub port: u16,
    /// Who sends it.
    pub peer: &'a SpiffeId,
    /// What its agent says of whom it is for.
    pub identity: Option<&'a HeaderValue>,
    /// The time, who we are, what is trusted and who is refused.
    pub context: &'a Context,
}

impl MadeFor {
    /// For nobody, since nobody looked for tokens.
    pub fn not_looked_for() -> Self {
        Self { claimed: Claimed::Nobody, looked_by: None, found_at: None }
    }

    /// What the header fields of a request say by a view. Its token is taken out, unless the app is to have it.
    pub fn look(view: &Arc<NodeView>, arrival: Arrival<'_>, headers: &mut HeaderMap) -> Self {
        let taken = view.port(arrival.port).and_then(|port| port.users.as_ref());
        if taken.is_none() && arrival.identity.is_none() {
            return Self::not_looked_for();
        }
        let looked_by = Some(Arc::clone(view));
        let Some(users) = &view.users else {
            // Without issuers nobody can be told from what was made up.
            let claimed = match (arrival.identity, place::bearer(headers)) {
                (Some(_), _) | (None, Ok(Some(_))) => Claimed::Refused(reason::UNKNOWN_ISSUER),
                (None, Ok(None)) => Claimed::Nobody,
                (None, Err(reason)) => Claimed::Refused(reason),
            };
            return Self { claimed, looked_by, found_at: None };
        };
        let Arrival { peer, context, .. } = arrival;
        let (now, denied) = (context.clock.now(), &*context.mesh.denied);
        let passed = arrival.identity.map(|value| {
            let trusted = &context.identity.current();
            users.verify_passed(value, Between { own: &view.spiffe_id, peer, trusted, denied }, now)
        });
        let (found, found_at) = match taken {
            Some(_) => users.look(headers, &context.mesh, now),
            None => (Claimed::Nobody, None),
        };
        if let Some(place) = found_at.as_ref().filter(|_| taken.is_some_and(|taken| !taken.kept)) {
            place.strip(headers);
        }
        let claimed = match (passed, found) {
            (Some(Err(reason)), _) => Claimed::Refused(reason),
            (None, found) | (Some(Ok(_)), found @ Claimed::Refused(_)) => found,
            // One and the same token by both ways is no contradiction.
            (Some(Ok(passed)), Claimed::User(found)) if passed.token != found.token => {
                Claimed::Refused(place::AMBIGUOUS)
            }
            (Some(Ok(passed)), _) => Claimed::User(passed),
        };
        Self { claimed, looked_by, found_at }
    }

    /// What the app is given, to give it back on its own calls. Where there is a user and none can be made, the request
    /// is refused: what the app did because of it would be for no user.
    pub fn handle(&mut self, handles: &Handles) -> Option<HeaderValue> {
        self.handle_by(|identity| handles.seal(identity))
    }

    pub(super) fn handle_by(
        &mut self,
        seal: impl FnOnce(&Identity) -> Option<HeaderValue>,
    ) -> Option<HeaderValue> {
        let Claimed::User(identity) = &self.claimed else { return None };
        let handle = get_or_make(&identity.handle, || seal(identity)).cloned();
        if handle.is_none() {
            self.claimed = Claimed::Refused(UNAVAILABLE);
        }
        handle
    }

    /// Holds whom the token was minted for, and who passed the user on, against what is trusted, and who is refused, by
    /// now.
    fn hold_against(&mut self, view: &NodeView, context: &Context) {
        let Claimed::User(identity) = &self.claimed else { return };
        let (trusted, denied) = (&context.identity.current(), &*context.mesh.denied);
        let now = context.clock.now();
        let checked = identity.check(denied).and_then(|()| match (&identity.passed, &view.users) {
            (None, _) => Ok(()),
            (Some(passed), Some(users)) => {
                passed.check(trusted, denied, &users.vouched, now, Stage::UnderWay)
            }
            (Some(_), None) => Err(reason::UNKNOWN_ISSUER),
        });
        if let Err(reason) = checked {
            self.claimed = Claimed::Refused(reason);
        }
    }

    /// What policies are told of it.
    pub fn on_behalf_of(&self) -> OnBehalfOf {
        match &self.claimed {
            Claimed::User(identity) if self.looked_by.is_some() => {
                OnBehalfOf::User(Arc::clone(&identity.origin))
            }
            // There may be another token by now.
            Claimed::User(_) => OnBehalfOf::NotLookedAt,
            Claimed::Nobody | Claimed::Refused(_) => OnBehalfOf::Nobody,
        }
    }

    /// Whether there is a user, for as long as the token is good.
    pub fn is_for_user(&self) -> bool {
        matches!(self.claimed, Claimed::User(_))
    }

    /// Why the request is denied whatever policies say, if so.
    pub fn refusal(&self, now: UnixMillis) -> Option<&'static str> {
        match &self.claimed {
            Claimed::Nobody => None,
            Claimed::User(identity) => identity.end(now),
            Claimed::Refused(reason) => Some(reason),
        }
    }

    /// Looks again where another view is in force than that which was looked by. Says for whom it is made now, where
    /// that is not what it was.
    pub fn look_again(&mut self, view: &Arc<NodeView>, port: u16, context: &Context) -> Option<OnBehalfOf> {
        self.hold_against(view, context);
        if self.looked_by.as_ref().is_some_and(|former| Arc::ptr_eq(former, view)) {
            return None;
        }
        let before = self.on_behalf_of();
        self.verify_again(view, port, context);
        let is_unknown = match &self.looked_by {
            // What its header said then is not known any longer.
            None => looked_at(view, port).next().is_some(),
            Some(former) => {
                looked_at(view, port).any(|place| looked_at(former, port).all(|known| known != place))
            }
        };
        if is_unknown && !matches!(self.claimed, Claimed::Refused(_)) {
            self.looked_by = None;
            return Some(OnBehalfOf::NotLookedAt);
        }
        self.looked_by = self.looked_by.take().map(|_| Arc::clone(view));
        let after = self.on_behalf_of();
        (before != after).then_some(after)
    }

    /// Verifies a user's token by another view.
    fn verify_again(&mut self, view: &NodeView, port: u16, context: &Context) {
        let Claimed::User(identity) = &self.claimed else { return };
        let (denied, now) = (&*context.mesh.denied, context.clock.now());
        let takes_tokens = view.port(port).is_some_and(|port| port.users.is_some());
        let found = match &view.users {
            Some(users) if takes_tokens || identity.passed.is_some() => {
                users.verify_again(identity, denied, now).and_then(|user| {
                    let is_at_home =
                        self.found_at.as_ref().is_none_or(|place| users.place_of(&user) == Some(place));
                    if is_at_home { Ok(user) } else { Err(place::MISPLACED) }
                })
            }
            Some(_) | None => Err(reason::UNKNOWN_ISSUER),
        };
        self.claimed = found.map_or_else(Claimed::Refused, Claimed::User);
    }
}

/// Where a port looks for tokens by a view; nowhere, where it does not.
fn looked_at(view: &NodeView, port: u16) -> impl Iterator<Item = &Place> {
    let taken = view.port(port).and_then(|port| port.users.as_ref());
    let by_issuers = taken.zip(view.users.as_ref()).map(|(_, users)| users.places());
    // Without issuers no token is good, and those that everybody knows as such are refused.
    let unissued = (taken.is_some() && view.users.is_none()).then_some(&Place::Bearer);
    by_issuers.into_iter().flatten().chain(unissued)
}
