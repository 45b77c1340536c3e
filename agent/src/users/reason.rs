//! Why a token is no good: the stable names that stand in decisions. What the token says is never repeated.

use hauberk_tls::jwt::{IssuedTokenError, JwsError, JwtSvidError};

use crate::mesh::Denial;

pub(super) const EXPIRED: &str = "user_token_expired";
pub(super) const MALFORMED: &str = "user_token_malformed";
pub(super) const CLAIMS: &str = "user_token_claims";
pub(super) const UNKNOWN_KEY: &str = "user_token_unknown_key";
pub(super) const UNKNOWN_ISSUER: &str = "user_token_unknown_issuer";

pub(super) fn of(error: &IssuedTokenError) -> &'static str {
    match error {
        IssuedTokenError::Issuer(_) => UNKNOWN_ISSUER,
        IssuedTokenError::Token(error) => match error {
            JwtSvidError::Signature(error) => of_signature(error),
            JwtSvidError::Expired { .. } => EXPIRED,
            JwtSvidError::NotYetValid { .. } => "user_token_not_yet_valid",
            JwtSvidError::Audience(_) => "user_token_audience",
            JwtSvidError::Claims
            | JwtSvidError::Claim(_)
            | JwtSvidError::NotSpiffeId(_)
            | JwtSvidError::ForeignTrustDomain { .. } => MALFORMED,
        },
    }
}

/// Of a token that our own control plane has minted.
pub(super) fn of_denial(denial: Denial) -> &'static str {
    match denial {
        Denial::Revoked => "user_token_revoked",
        Denial::Quarantined => "user_token_quarantined",
    }
}

fn of_signature(error: &JwsError) -> &'static str {
    match error {
        JwsError::TooLarge(_) => "user_token_too_large",
        JwsError::NotCompact | JwsError::Header => MALFORMED,
        JwsError::Critical | JwsError::Type => "user_token_header",
        JwsError::NoKeyId | JwsError::WhichKey(_) | JwsError::UnknownKey(_) => UNKNOWN_KEY,
        JwsError::Algorithm(_) => "user_token_algorithm",
        JwsError::Signature => "user_token_signature",
    }
}
