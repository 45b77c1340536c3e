//! Tokens of other issuers than ourselves: the same strict check, and who issued it.

use hauberk_identity::UnixMillis;
use serde_json::{Map, Value};
use thiserror::Error;

use super::key_set::JwtKeySet;
use super::svid::{JwtSvidError, Verified, check_unverified, claims_of};
use super::user::LEEWAY;
use crate::fingerprint::Fingerprint;

/// Why a token of an issuer proves nothing. The fault is whoever made or sent it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssuedTokenError {
    /// Form, signature, times or audience.
    #[error(transparent)]
    Token(#[from] JwtSvidError),
    /// Signed by a key of the issuer's, for another.
    #[error("the token's issuer is not {0:?}")]
    Issuer(String),
}

/// Verifies a token as [`super::verify_jwt_svid`] does, of `issuer` instead of a trust domain, and yields what it says, and
/// which key verified it. It may be signed by EdDSA too. It may be from the future by as much as a minute: the clock that
/// it was made by is another's, and it is shown as soon as it is made.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify_issued_token(
    token: &str,
    issuer: &str,
    audience: &str,
    keys: &JwtKeySet,
    now: UnixMillis,
) -> Result<(Map<String, Value>, Fingerprint), IssuedTokenError> {
    let (Verified { claims, key, .. }, _) = claims_of(token, audience, keys, now, LEEWAY)?;
    if issuer.is_empty() || claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(IssuedTokenError::Issuer(issuer.to_owned()));
    }
    Ok((claims, key))
}

/// Whether it is worth while to ask an issuer about a token: by its own words, which nothing proves, it is one, is for
/// `audience`, and has not expired.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_before_asking(token: &str, audience: &str, now: UnixMillis) -> Result<(), IssuedTokenError> {
    Ok(check_unverified(token, audience, now)?)
}
