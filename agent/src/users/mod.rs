//! Users: for whom a request is made, by a token that an issuer of the mesh has signed.
//!
//! A token is verified where the call comes in from outside of the chain of agents, by the keys that the view brings.
//! One that is no good denies the request, also where none is needed. What a token says is kept for as long as the
//! issuers stay what they are, so that it costs a hash the next time.
//!
//! Behind the first agent the user goes on in `hauberk-identity`: between agents the token itself with who passed it on
//! (`chain`), between agent and app a handle that is of no use to anybody else (`handles`).

mod by_handle;
mod chain;
mod handles;
mod kept;
mod made_for;
mod place;
mod reason;
mod vouched;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_identity::UnixMillis;
use hauberk_policy::{Origin, User};
use hauberk_proto::convert::JwtIssuer;
use hauberk_tls::jwt::{
    JwtBundleError, JwtKeySet, UserToken, UserTokens, unverified_issuer, unverified_key_id,
};
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use chain::{Between, Parts, Passed, Stage};
use kept::{Hash, Kept};
use made_for::Claimed;
use place::Place;
use vouched::Vouched;

use crate::mesh::{Denied, Mesh, MintedFor};

pub use by_handle::ByHandle;
pub use handles::Handles;
pub use made_for::{Arrival, MadeFor};
pub use place::TokenFields;

/// The largest token of a user, in bytes: with who passed it on it must fit into a request's head.
const MAX_TOKEN: usize = 8 * 1024;

/// Whoever says who users are, as a view has them.
pub struct Users {
    issuers: Vec<Issuer>,
    token_fields: TokenFields,
    /// The claims that policies name.
    claims: Vec<String>,
    kept: Mutex<Kept<Identity>>,
    /// Those who pass users on.
    vouched: Vouched,
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
    /// When the token ends, or the first certificate of who passed it on before the last one did.
    expires_at: UnixMillis,
    token: Zeroizing<Box<str>>,
    /// Whom our own control plane has minted it for, where its issuer is that.
    minted_for: Option<MintedFor>,
    /// Who passed it on, if anybody did, and the header value that says so.
    passed: Option<Arc<Passed>>,
    passed_on: Option<Zeroizing<Box<str>>>,
    /// What the app is given, once it was.
    handle: OnceLock<HeaderValue>,
}

impl Users {
    /// Reads the issuers of a view, and whose claims its policies name; `None` where there is none. What `former` has
    /// verified stands where nothing of it has changed.
    pub fn of(
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
        let issuers: Vec<_> = issuers.into_iter().map(Issuer::new).collect();
        let token_fields = TokenFields::of(&issuers);
        let claims = claims.iter().map(ToString::to_string).collect();
        let (kept, vouched) = (Mutex::default(), Vouched::default());
        Some(Arc::new(Self { issuers, token_fields, claims, kept, vouched }))
    }

    /// For whom a request with these header fields is made, where tokens are taken, and where its token stands.
    fn look(&self, headers: &HeaderMap, mesh: &Mesh, now: UnixMillis) -> (Claimed, Option<Place>) {
        match self.find(headers) {
            Ok(None) => (Claimed::Nobody, None),
            Ok(Some((token, place))) => match self.verify(token, &mesh.denied, now) {
                Ok(identity) if self.place_of(&identity) != Some(&place) => {
                    (Claimed::Refused(place::MISPLACED), None)
                }
                Ok(identity) => (Claimed::User(identity), Some(place)),
                Err(reason) => {
                    if reason == reason::UNKNOWN_KEY {
                        self.note_unknown_key(token, mesh);
                    }
                    (Claimed::Refused(reason), None)
                }
            },
            Err(reason) => (Claimed::Refused(reason), None),
        }
    }

    /// Has the control plane look for the key that a token names. Our own keys are told before they sign.
    fn note_unknown_key(&self, token: &str, mesh: &Mesh) {
        let (Ok(url), Ok(_named)) = (unverified_issuer(token), unverified_key_id(token)) else { return };
        let issuer = self.issuers.iter().find(|issuer| issuer.said.issuer == url && !issuer.said.is_ours);
        if let Some(issuer) = issuer {
            mesh.unknown_keys.note(&issuer.said.name);
        }
    }

    /// Who a token makes the request to be for.
    fn verify(&self, token: &str, denied: &Denied, now: UnixMillis) -> Result<Arc<Identity>, &'static str> {
        if token.len() > MAX_TOKEN {
            return Err("user_token_too_large");
        }
        let hash = hash_of(token);
        // What another agent passed on holds for its connection alone, and is no token that a caller may show.
        if let Some(known) = self.kept().get(&hash).filter(|known| known.passed.is_none()) {
            let is_good = known.expires_at > now;
            return if is_good { known.check(denied).map(|()| known) } else { Err(reason::EXPIRED) };
        }
        let url = unverified_issuer(token).map_err(|error| reason::of(&error))?;
        let issuer = self.issuers.iter().find(|issuer| issuer.said.issuer == url);
        let issuer = issuer.ok_or(reason::UNKNOWN_ISSUER)?;
        let JwtIssuer { name, issuer: own, audiences, claims, audience_is_client, is_ours, .. } =
            &issuer.said;
        let audience_is_client = *audience_is_client;
        let rules = UserTokens { issuer: own, audiences, audience_is_client, keys: &issuer.keys };
        let UserToken { claims: said, expires_at } =
            rules.verify(token, now).map_err(|error| reason::of(&error))?;
        let wanted = self.claims.iter().map(String::as_str);
        let user = claims.user(&said, wanted, name, &issuer.url).map_err(|_| reason::CLAIMS)?;
        let minted_for = match is_ours {
            true => Some(MintedFor::of(&said).ok_or(reason::CLAIMS)?),
            false => None,
        };
        let identity = Arc::new(Identity::new(user, expires_at, token, minted_for));
        self.keep(hash, &identity);
        // At each use: it is remembered whatever becomes of whom it names.
        identity.check(denied).map(|()| identity)
    }

    /// Verifies the token of a user anew, who was passed on, if so, by the same as before.
    fn verify_again(
        &self,
        identity: &Identity,
        denied: &Denied,
        now: UnixMillis,
    ) -> Result<Arc<Identity>, &'static str> {
        let user = self.verify(&identity.token, denied, now)?;
        Ok(match (&identity.passed, &identity.passed_on) {
            (Some(passed), Some(text)) => Arc::new(user.passed(Arc::clone(passed), text)),
            _ => user,
        })
    }

    /// Who a header value between agents makes the request to be for.
    fn verify_passed(
        &self,
        value: &HeaderValue,
        between: Between<'_>,
        now: UnixMillis,
    ) -> Result<Arc<Identity>, &'static str> {
        self.verify_passed_text(value.to_str().map_err(|_| "identity_malformed")?, between, now)
    }

    /// The same for its text.
    fn verify_passed_text(
        &self,
        text: &str,
        between: Between<'_>,
        now: UnixMillis,
    ) -> Result<Arc<Identity>, &'static str> {
        if text.len() > chain::MAX_LEN {
            return Err("identity_too_large");
        }
        let hash = hash_of(text);
        let known = self.kept().get(&hash);
        if let Some((known, passed)) = known.as_ref().and_then(|known| Some((known, known.passed.as_ref()?)))
        {
            passed.check_between(between)?;
            if let Some(reason) = known.end(now) {
                return Err(reason);
            }
            known.check(between.denied)?;
            passed.check(between.trusted, between.denied, &self.vouched, now, Stage::Arriving)?;
            return Ok(Arc::clone(known));
        }
        let parts = Parts::parse(text)?;
        // Before anything costs: it is not for us, or shown by somebody else.
        parts.check_between(between)?;
        let user = self.verify(parts.user, between.denied, now)?;
        let passed = Arc::new(parts.verify(between, &self.vouched, now)?);
        let identity = Arc::new(user.passed(passed, text));
        self.keep(hash, &identity);
        Ok(identity)
    }

    fn keep(&self, hash: Hash, identity: &Arc<Identity>) {
        self.kept().insert(hash, Arc::clone(identity), identity.size());
    }

    fn kept(&self) -> MutexGuard<'_, Kept<Identity>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer {
    /// One whose keys cannot be read has none: nobody is believed to be a user of it.
    fn new(said: JwtIssuer) -> Self {
        let refused = |error| {
            tracing::error!(event = "issuer_keys_refused", issuer = %said.name, %error, "its tokens are refused");
            (JwtKeySet::default(), Vec::new())
        };
        // One that an earlier control plane takes, and we do not, takes no others with it.
        let (keys, passed_over) = JwtKeySet::of_issuer(&said.jwks).unwrap_or_else(refused);
        for error in passed_over.iter().filter(|error| !matches!(error, JwtBundleError::NoneForTokens(_))) {
            tracing::warn!(event = "issuer_key_refused", issuer = %said.name, %error, "its tokens are refused");
        }
        let place = place::place(said.token_header.as_deref());
        Self { url: said.issuer.as_str().into(), keys, place, said }
    }
}

impl Identity {
    /// One that nobody passed on.
    fn new(user: User, expires_at: UnixMillis, token: &str, minted_for: Option<MintedFor>) -> Self {
        let origin = Arc::new(Origin { user, actors: Vec::new() });
        let (passed, passed_on, handle) = (None, None, OnceLock::new());
        let token = Zeroizing::new(token.into());
        Self { origin, expires_at, token, minted_for, passed, passed_on, handle }
    }

    /// The same, passed on by these, as a header value says.
    fn passed(&self, passed: Arc<Passed>, text: &str) -> Self {
        let origin = Arc::new(Origin { user: self.origin.user.clone(), actors: passed.actors() });
        let expires_at = self.expires_at.min(passed.ends_under_way_at());
        let passed_on = Some(Zeroizing::new(text.into()));
        let (token, minted_for) = (self.token.clone(), self.minted_for.clone());
        let (passed, handle) = (Some(passed), OnceLock::new());
        Self { origin, expires_at, token, minted_for, passed, passed_on, handle }
    }

    /// Why it is worth nothing any longer, if so.
    fn end(&self, now: UnixMillis) -> Option<&'static str> {
        let has_ended = |passed: &Arc<Passed>| passed.ends_under_way_at() <= now;
        match &self.passed {
            _ if self.expires_at > now => None,
            Some(passed) if has_ended(passed) => Some(chain::EXPIRED),
            _ => Some(reason::EXPIRED),
        }
    }

    /// Whether everybody refuses whom its token was minted for.
    fn check(&self, denied: &Denied) -> Result<(), &'static str> {
        let denial = self.minted_for.as_ref().and_then(|minted_for| denied.denial_of_token(minted_for));
        denial.map_or(Ok(()), |denial| Err(reason::of_denial(denial)))
    }

    /// Until when it can be passed on: the next one asks for the certificates of all who did.
    fn passes_on_until(&self) -> UnixMillis {
        self.passed.as_ref().map_or(self.expires_at, |passed| self.expires_at.min(passed.ends_at()))
    }

    fn size(&self) -> usize {
        let passed = self.passed.as_ref().map_or(0, |passed| passed.size());
        let passed_on = self.passed_on.as_ref().map_or(0, |text| text.len());
        // The handle is about as long as what it seals, and a third more.
        self.token.len() + self.origin.size() + passed + 3 * passed_on.max(self.token.len())
    }
}

/// What is there, or can be made now. That it cannot be made is not remembered.
fn get_or_make<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Option<T>) -> Option<&T> {
    match cell.get() {
        Some(made) => Some(made),
        None => {
            let made = make()?;
            Some(cell.get_or_init(|| made))
        }
    }
}

fn hash_of(token: &str) -> Hash {
    let mut hash = Hash::default();
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
