//! For whom one request is made, from its head to its end.

use std::sync::Arc;

use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_policy::{OnBehalfOf, UserTokens as Taken};
use http::{HeaderMap, HeaderValue};

use super::chain::Between;
use super::{Handles, Identity, Users, place, reason};
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
    /// The view by which its header was looked at; none where its port took no tokens, or nobody said who users are.
    looked_by: Option<Arc<NodeView>>,
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
        Self { claimed: Claimed::Nobody, looked_by: None }
    }

    /// What the header fields of a request say by a view. Its token is taken out, unless the app is to have it.
    pub fn look(view: &Arc<NodeView>, arrival: Arrival<'_>, headers: &mut HeaderMap) -> Self {
        let Some(users) = &view.users else {
            // Without issuers nobody can be told from what was made up.
            return match arrival.identity {
                Some(_) => Self { claimed: Claimed::Refused(reason::UNKNOWN_ISSUER), looked_by: None },
                None => Self::not_looked_for(),
            };
        };
        let taken = view.port(arrival.port).and_then(|port| port.users.as_ref());
        if taken.is_none() && arrival.identity.is_none() {
            return Self::not_looked_for();
        }
        let Arrival { peer, context, .. } = arrival;
        let now = context.clock.now();
        let passed = arrival.identity.map(|value| {
            let (trusted, denied) = (&context.identity.current(), &*context.mesh.denied);
            users.verify_passed(value, Between { own: &view.spiffe_id, peer, trusted, denied }, now)
        });
        let (found, place) = match taken {
            Some(taken) => users.look(taken, headers, now),
            None => (Claimed::Nobody, None),
        };
        if let Some(place) = place.filter(|_| taken.is_some_and(|taken| !taken.kept)) {
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
        Self { claimed, looked_by: Some(Arc::clone(view)) }
    }

    /// What the app is given, to give it back on its own calls.
    pub fn handle(&self, handles: &Handles) -> Option<HeaderValue> {
        match &self.claimed {
            Claimed::User(identity) => identity.handle.get_or_init(|| handles.seal(identity)).clone(),
            Claimed::Nobody | Claimed::Refused(_) => None,
        }
    }

    /// Holds who passed the user on against what is trusted, and who is refused, by now.
    fn hold_against(&mut self, context: &Context) {
        let Claimed::User(identity) = &self.claimed else { return };
        let Some(passed) = &identity.passed else { return };
        let (trusted, denied) = (&context.identity.current(), &*context.mesh.denied);
        if let Err(reason) = passed.check(trusted, denied, context.clock.now()) {
            self.claimed = Claimed::Refused(reason);
        }
    }

    /// What policies are told of it.
    pub fn on_behalf_of(&self) -> OnBehalfOf {
        match &self.claimed {
            Claimed::User(identity) => OnBehalfOf::User(Arc::clone(&identity.origin)),
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

    /// Looks again where another view is in force than that which was looked by. Says for whom it is made now, where that is
    /// not what it was.
    pub fn look_again(&mut self, view: &Arc<NodeView>, port: u16, context: &Context) -> Option<OnBehalfOf> {
        self.hold_against(context);
        let takes = takes_tokens(view, port);
        let Some(former) = &self.looked_by else {
            // What its header said then is not known any longer.
            return takes.map(|_| OnBehalfOf::NotLookedAt);
        };
        if Arc::ptr_eq(former, view) {
            return None;
        }
        self.looked_by = Some(Arc::clone(view));
        let now = context.clock.now();
        let Claimed::User(identity) = &self.claimed else { return None };
        let found = match (takes, &view.users) {
            (_, Some(users)) if identity.passed.is_some() => {
                users.verify(&identity.token, now).map(|user| match (&identity.passed, &identity.passed_on) {
                    (Some(passed), Some(text)) => Arc::new(user.passed(Arc::clone(passed), text)),
                    _ => user,
                })
            }
            (Some((users, taken)), _) => users.verify(&identity.token, now).and_then(|identity| {
                let is_taken = users.takes(taken, &identity);
                if is_taken { Ok(identity) } else { Err(reason::ISSUER_NOT_TAKEN) }
            }),
            (None, _) => Err(reason::UNKNOWN_ISSUER),
        };
        let before = self.on_behalf_of();
        self.claimed = found.map_or_else(Claimed::Refused, Claimed::User);
        let after = self.on_behalf_of();
        (before != after).then_some(after)
    }
}

/// Who says who users are, and how a port takes their tokens; none where nobody does, or it does not.
fn takes_tokens(view: &NodeView, port: u16) -> Option<(&Arc<Users>, &Taken)> {
    view.users.as_ref().zip(view.port(port)?.users.as_ref())
}
