//! What a token says, once its signature is good: the one check of a JWT-SVID.

use std::fmt;
use std::time::Duration;

use hauberk_identity::{SpiffeId, SpiffeIdError, TrustDomain, UnixMillis};
use serde_json::{Map, Value};
use thiserror::Error;

use super::bundle::JwtBundle;
use super::jws::{self, JwsError, Types};
use super::key_set::JwtKeySet;
use super::strict_json;
use crate::fingerprint::Fingerprint;

/// What `typ` may say (JWT-SVID §2.3).
const TYPES: Types = Types::Exactly(&["JWT", "JOSE"]);

/// Instants beyond are refused rather than rounded: the integers that every reader of JSON holds exactly.
const MAX_NUMBER: f64 = 9_007_199_254_740_991.0;

/// A token that was verified.
#[derive(Clone)]
pub struct JwtSvid {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: UnixMillis,
    claims: Map<String, Value>,
}

/// Why a token proves nothing. The fault is whoever made or sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwtSvidError {
    /// Form or signature.
    #[error(transparent)]
    Signature(#[from] JwsError),
    /// The content is no object, or says something twice.
    #[error("the token's content is not a JSON object in which no member stands twice")]
    Claims,
    /// A claim is missing or not what the standard says.
    #[error("the token's claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// Too late.
    #[error("the token expired at {expired_at}; it is {now}")]
    Expired {
        /// When.
        expired_at: UnixMillis,
        /// The time that was checked.
        now: UnixMillis,
    },
    /// Too early.
    #[error("the token is valid from {valid_from}; it is {now}")]
    NotYetValid {
        /// From when.
        valid_from: UnixMillis,
        /// The time that was checked.
        now: UnixMillis,
    },
    /// Meant for others.
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    /// Nobody in particular.
    #[error("the token's `sub` is not a SPIFFE id: {0}")]
    NotSpiffeId(#[from] SpiffeIdError),
    /// The key's domain says who somebody else's are.
    #[error("{id} is not of trust domain {trust_domain}, whose key signed the token")]
    ForeignTrustDomain {
        /// Whom the token names.
        id: SpiffeId,
        /// Whose key it was.
        trust_domain: TrustDomain,
    },
}

/// Verifies a token (JWT-SVID §4): signed by a key of `bundle` with that key's algorithm, not expired, meant for
/// `audience`, and about a member of the bundle's trust domain. No leeway is given: clocks are the callers' to keep.
///
/// # Errors
/// The first rule that it breaks; see [`JwtSvidError`].
pub fn verify_jwt_svid(
    token: &str,
    audience: &str,
    bundle: &JwtBundle,
    now: UnixMillis,
) -> Result<JwtSvid, JwtSvidError> {
    let (Verified { claims, expires_at, key: _ }, audience) =
        claims_of(token, audience, bundle.key_set(), now, Duration::ZERO)?;
    let id = subject(&claims)?;
    if !id.is_member_of(bundle.trust_domain()) {
        return Err(JwtSvidError::ForeignTrustDomain { id, trust_domain: bundle.trust_domain().clone() });
    }
    Ok(JwtSvid { id, audience, expires_at, claims })
}

/// The trust domain of whom a token claims to be about: the one whose bundle to verify it by. Nothing is verified yet.
///
/// # Errors
/// The token cannot be read, or is about nobody in particular.
pub fn unverified_trust_domain(token: &str) -> Result<TrustDomain, JwtSvidError> {
    let claims = strict_json::object(&jws::parts(token)?.payload).ok_or(JwtSvidError::Claims)?;
    Ok(subject(&claims)?.trust_domain())
}

fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtSvidError> {
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(JwtSvidError::Claim("sub"))?;
    Ok(SpiffeId::parse(subject)?)
}

/// A token that is signed and not expired, whoever it is about and for.
pub(super) struct Verified {
    pub(super) claims: Map<String, Value>,
    pub(super) expires_at: UnixMillis,
    /// The key that verified it.
    pub(super) key: Fingerprint,
}

/// What every token must be, and whom it is for besides us.
pub(super) fn claims_of(
    token: &str,
    audience: &str,
    keys: &JwtKeySet,
    now: UnixMillis,
    leeway: Duration,
) -> Result<(Verified, Vec<String>), JwtSvidError> {
    let verified = verified(token, TYPES, keys, now, leeway)?;
    let audience = audiences(&verified.claims, audience)?;
    Ok((verified, audience))
}

/// Signed, not expired, and not from the future by more than `leeway`.
pub(super) fn verified(
    token: &str,
    types: Types,
    keys: &JwtKeySet,
    now: UnixMillis,
    leeway: Duration,
) -> Result<Verified, JwtSvidError> {
    let (payload, key) = jws::verify(token, types, keys)?;
    let claims = strict_json::object(&payload).ok_or(JwtSvidError::Claims)?;
    let expires_at = end(&claims, now)?;
    let issued_at = instant(&claims, "iat")?.filter(|_| leeway > Duration::ZERO);
    if let Some(valid_from) = instant(&claims, "nbf")?.max(issued_at)
        && valid_from > now.plus(leeway)
    {
        return Err(JwtSvidError::NotYetValid { valid_from, now });
    }
    Ok(Verified { claims, expires_at, key: key.fingerprint() })
}

/// Whether a token could be good, by what it says: that it is one, is for us, and has not expired. Anybody can write that.
pub(super) fn check_unverified(token: &str, audience: &str, now: UnixMillis) -> Result<(), JwtSvidError> {
    let claims = strict_json::object(&jws::parts(token)?.payload).ok_or(JwtSvidError::Claims)?;
    end(&claims, now)?;
    audiences(&claims, audience)?;
    Ok(())
}

/// When it ends, which it has not done.
fn end(claims: &Map<String, Value>, now: UnixMillis) -> Result<UnixMillis, JwtSvidError> {
    let expires_at = instant(claims, "exp")?.ok_or(JwtSvidError::Claim("exp"))?;
    if expires_at <= now {
        return Err(JwtSvidError::Expired { expired_at: expires_at, now });
    }
    Ok(expires_at)
}

/// A NumericDate of RFC 7519 §2, where there is one.
fn instant(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixMillis>, JwtSvidError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=MAX_NUMBER / 1_000.0).contains(seconds));
    let seconds = seconds.ok_or(JwtSvidError::Claim(name))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
    let millis = (seconds * 1_000.0) as u64;
    Ok(Some(UnixMillis(millis)))
}

/// One text or a list of texts, none empty, and at least one (RFC 7519 §4.1.3).
pub(super) fn audiences_of(claims: &Map<String, Value>) -> Result<Vec<&str>, JwtSvidError> {
    let named = match claims.get("aud") {
        Some(Value::Array(values)) => values.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
        Some(Value::String(one)) => Some(vec![one.as_str()]),
        _ => None,
    };
    let named = named.filter(|named| !named.is_empty() && named.iter().all(|text| !text.is_empty()));
    named.ok_or(JwtSvidError::Claim("aud"))
}

/// The same, with this audience among them.
fn audiences(claims: &Map<String, Value>, audience: &str) -> Result<Vec<String>, JwtSvidError> {
    let named = audiences_of(claims)?;
    if audience.is_empty() || !named.contains(&audience) {
        return Err(JwtSvidError::Audience(audience.to_owned()));
    }
    Ok(named.into_iter().map(str::to_owned).collect())
}

impl JwtSvid {
    /// Who it is about.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whom it is for.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// From when on it proves nothing.
    pub fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// All that it says, these three included.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
