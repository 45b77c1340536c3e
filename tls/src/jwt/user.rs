//! Tokens of users: what OpenID Connect and RFC 9068 hand out, by the same strict check.

use std::fmt;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use serde_json::{Map, Value};

use super::issued::IssuedTokenError;
use super::jws::{self, Types};
use super::key_set::JwtKeySet;
use super::strict_json;
use super::svid::{JwtSvidError, Verified, audiences_of, verified};

/// How far an issuer's clock may be ahead of ours.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

/// What `typ` may say of a user's token (RFC 7519 §5.1, RFC 9068 §2.1).
const TYPES: Types = Types::Media(&["jwt", "jose", "at+jwt"]);

/// What an issuer's tokens must be.
#[derive(Debug, Clone, Copy)]
pub struct UserTokens<'a> {
    /// What the issuer calls itself.
    pub issuer: &'a str,
    /// Of which a token must name one.
    pub audiences: &'a [String],
    /// They are held against the client that a token was issued to, `client_id` (RFC 9068 §2.2), instead of whom it is for, `aud`.
    pub audience_is_client: bool,
    /// The issuer's keys.
    pub keys: &'a JwtKeySet,
}

/// A user's token that was verified.
#[derive(Clone)]
pub struct UserToken {
    /// All that it says.
    pub claims: Map<String, Value>,
    /// From when on it says nothing.
    pub expires_at: UnixMillis,
}

impl UserTokens<'_> {
    /// Verifies a token: signed by a key of the issuer's with that key's algorithm, which it names or which is the only one of
    /// that algorithm, by this issuer, for one of the audiences,
    /// not expired, and not from the future by more than a minute.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<UserToken, IssuedTokenError> {
        let Verified { claims, expires_at, .. } = verified(token, TYPES, self.keys, now, LEEWAY)?;
        if self.issuer.is_empty() || claims.get("iss").and_then(Value::as_str) != Some(self.issuer) {
            return Err(IssuedTokenError::Issuer(self.issuer.to_owned()));
        }
        let is_meant = |named: &[&str]| named.iter().any(|name| self.audiences.iter().any(|own| own == name));
        let mut is_for_us = true;
        if self.audience_is_client {
            let client = claims.get("client_id").and_then(Value::as_str);
            is_for_us &= is_meant(&[client.ok_or(JwtSvidError::Claim("client_id"))?]);
        }
        // Where a token names an audience, it is for nobody else (RFC 7519 §4.1.3).
        if !self.audience_is_client || claims.get("aud").is_some() {
            is_for_us &= is_meant(&audiences_of(&claims)?);
        }
        if !is_for_us {
            return Err(JwtSvidError::Audience(self.audiences.join(", ")).into());
        }
        Ok(UserToken { claims, expires_at })
    }
}

/// Who a token says that it is of: the one by whose keys to verify it. Nothing is verified yet.
///
/// # Errors
/// The token cannot be read, or says nothing of it.
pub fn unverified_issuer(token: &str) -> Result<String, IssuedTokenError> {
    let claims = jws::parts(token).map_err(JwtSvidError::from)?.payload;
    let claims = strict_json::object(&claims).ok_or(JwtSvidError::Claims)?;
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(JwtSvidError::Claim("iss"))?;
    Ok(issuer.to_owned())
}

impl fmt::Debug for UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
