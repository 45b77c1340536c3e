//! Users: for whom a request is made, by a token that an issuer of the mesh has signed.
//!
//! A token is verified where the call comes in from outside of the chain of agents, by the keys that the view brings. One that
//! is no good denies the request, also where none is needed. What a token says is kept for as long as the issuers stay what
//! they are, so that it costs a hash the next time.

mod kept;
mod place;
mod reason;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_identity::UnixMillis;
use hauberk_policy::{OnBehalfOf, Origin, UserTokens as Taken};
use hauberk_proto::convert::JwtIssuer;
use hauberk_tls::jwt::{JwtKeySet, UserToken, UserTokens, unverified_issuer};
use http::HeaderMap;
use zeroize::Zeroizing;

use crate::mesh::NodeView;
use kept::Kept;

use place::Place;

/// The largest token of a user, in bytes: with who passed it on it must fit into a request's head.
const MAX_TOKEN: usize = 8 * 1024;

/// Whoever says who users are, as a view has them.
pub struct Users {
    issuers: Vec<Issuer>,
    /// The claims that policies name.
    claims: Vec<String>,
    kept: Mutex<Kept>,
}

struct Issuer {
    said: JwtIssuer,
    url: Arc<str>,
    keys: JwtKeySet,
    /// Where its tokens stand.
    place: Place,
}

/// A user whose token was verified.
struct Identity {
    origin: Arc<Origin>,
    expires_at: UnixMillis,
    token: Zeroizing<Box<str>>,
}

/// For whom a request says that it is made.
#[derive(Debug, Clone)]
enum Claimed {
    /// For no user.
    Nobody,
    /// For this one.
    User(Arc<Identity>),
    /// Its token is no good, for this reason.
    Refused(&'static str),
}

/// For whom a request is made, by the view of one moment.
#[derive(Debug, Clone)]
pub(crate) struct MadeFor {
    claimed: Claimed,
    /// The view by which its header was looked at; none where its port took no tokens, or nobody said who users are.
    looked_by: Option<Arc<NodeView>>,
}

impl Users {
    /// Reads the issuers of a view, and whose claims its policies name; `None` where there is none. What `former` has
    /// verified stands where nothing of it has changed.
    pub(crate) fn of(
        issuers: Vec<JwtIssuer>,
        claims: &BTreeSet<&str>,
        former: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        if issuers.is_empty() {
            return None;
        }
        let is_same = |former: &&Arc<Self>| {
            former.issuers.iter().map(|issuer| &issuer.said).eq(&issuers)
                && former.claims.iter().map(String::as_str).eq(claims.iter().copied())
        };
        if let Some(same) = former.filter(is_same) {
            return Some(Arc::clone(same));
        }
        let issuers = issuers.into_iter().map(Issuer::new).collect();
        let claims = claims.iter().map(ToString::to_string).collect();
        Some(Arc::new(Self { issuers, claims, kept: Mutex::default() }))
    }

    /// For whom a request with these header fields is made, where tokens are taken so, and where its token stands.
    fn look(&self, taken: &Taken, headers: &HeaderMap, now: UnixMillis) -> (Claimed, Option<Place>) {
        match self.find(taken, headers) {
            Ok(None) => (Claimed::Nobody, None),
            Ok(Some((token, place))) => match self.verify(token, now) {
                Ok(identity) if !self.takes(taken, &identity) => {
                    (Claimed::Refused(reason::ISSUER_NOT_TAKEN), None)
                }
                Ok(identity) if self.place_of(&identity) != Some(&place) => {
                    (Claimed::Refused("user_token_misplaced"), None)
                }
                Ok(identity) => (Claimed::User(identity), Some(place)),
                Err(reason) => (Claimed::Refused(reason), None),
            },
            Err(reason) => (Claimed::Refused(reason), None),
        }
    }

    /// Who a token makes the request to be for.
    fn verify(&self, token: &str, now: UnixMillis) -> Result<Arc<Identity>, &'static str> {
        if token.len() > MAX_TOKEN {
            return Err("user_token_too_large");
        }
        let hash = hash_of(token);
        if let Some(known) = self.kept().get(&hash) {
            return if known.expires_at > now { Ok(known) } else { Err(reason::EXPIRED) };
        }
        let url = unverified_issuer(token).map_err(|error| reason::of(&error))?;
        let issuer = self.issuers.iter().find(|issuer| issuer.said.issuer == url);
        let issuer = issuer.ok_or(reason::UNKNOWN_ISSUER)?;
        let JwtIssuer { name, issuer: own, audiences, claims, .. } = &issuer.said;
        let rules = UserTokens { issuer: own, audiences, keys: &issuer.keys };
        let UserToken { claims: said, expires_at } =
            rules.verify(token, now).map_err(|error| reason::of(&error))?;
        let wanted = self.claims.iter().map(String::as_str);
        let user = claims.user(&said, wanted, name, &issuer.url).map_err(|_| "user_token_claims")?;
        let origin = Arc::new(Origin { user, actors: Vec::new() });
        let identity = Arc::new(Identity { origin, expires_at, token: Zeroizing::new(token.into()) });
        self.kept().insert(hash, Arc::clone(&identity));
        Ok(identity)
    }

    fn takes(&self, taken: &Taken, identity: &Identity) -> bool {
        taken.issuers.is_empty() || taken.issuers.contains(&identity.origin.user.issuer)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer {
    /// One whose keys cannot be read has none: nobody is believed to be a user of it.
    fn new(said: JwtIssuer) -> Self {
        let keys = JwtKeySet::from_jwks(&said.jwks).unwrap_or_else(|error| {
            tracing::error!(event = "issuer_keys_refused", issuer = %said.name, %error, "its tokens are refused");
            JwtKeySet::default()
        });
        let place = place::place(said.token_header.as_deref());
        Self { url: said.issuer.as_str().into(), keys, place, said }
    }
}

impl MadeFor {
    /// For nobody, since nobody looked for tokens.
    pub(crate) fn not_looked_for() -> Self {
        Self { claimed: Claimed::Nobody, looked_by: None }
    }

    /// What the header fields of a request say by a view. Its token is taken out, unless the app is to have it.
    pub(crate) fn look(view: &Arc<NodeView>, port: u16, headers: &mut HeaderMap, now: UnixMillis) -> Self {
        let Some((users, taken)) = takes_tokens(view, port) else { return Self::not_looked_for() };
        let (claimed, place) = users.look(taken, headers, now);
        if let Some(place) = place.filter(|_| !taken.kept) {
            place.strip(headers);
        }
        Self { claimed, looked_by: Some(Arc::clone(view)) }
    }

    /// What policies are told of it.
    pub(crate) fn on_behalf_of(&self) -> OnBehalfOf {
        match &self.claimed {
            Claimed::User(identity) => OnBehalfOf::User(Arc::clone(&identity.origin)),
            Claimed::Nobody | Claimed::Refused(_) => OnBehalfOf::Nobody,
        }
    }

    /// Whether there is a user, for as long as the token is good.
    pub(crate) fn is_for_user(&self) -> bool {
        matches!(self.claimed, Claimed::User(_))
    }

    /// Why the request is denied whatever policies say, if so.
    pub(crate) fn refusal(&self, now: UnixMillis) -> Option<&'static str> {
        match &self.claimed {
            Claimed::Nobody => None,
            Claimed::User(identity) => (identity.expires_at <= now).then_some(reason::EXPIRED),
            Claimed::Refused(reason) => Some(reason),
        }
    }

    /// Looks again where another view is in force than that which was looked by. Says for whom it is made now, where that is
    /// not what it was.
    pub(crate) fn look_again(
        &mut self,
        view: &Arc<NodeView>,
        port: u16,
        now: UnixMillis,
    ) -> Option<OnBehalfOf> {
        let takes = takes_tokens(view, port);
        let Some(former) = &self.looked_by else {
            // What its header said then is not known any longer.
            return takes.map(|_| OnBehalfOf::NotLookedAt);
        };
        if Arc::ptr_eq(former, view) {
            return None;
        }
        self.looked_by = Some(Arc::clone(view));
        let Claimed::User(identity) = &self.claimed else { return None };
        let found = match takes {
            Some((users, taken)) => users.verify(&identity.token, now).and_then(|identity| {
                let is_taken = users.takes(taken, &identity);
                if is_taken { Ok(identity) } else { Err(reason::ISSUER_NOT_TAKEN) }
            }),
            None => Err(reason::UNKNOWN_ISSUER),
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

fn hash_of(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.issuers.iter().map(|issuer| &issuer.said.name);
        f.debug_set().entries(names).finish()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.origin.user.name())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
