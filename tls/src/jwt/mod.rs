//! JWT-SVIDs: the keys that sign and verify them, the sets they are published in, and the one strict check.
//!
//! Here because it is cryptography that control plane, agent and command line share, and nothing in it waits or asks
//! the time. By the JWT-SVID standard and RFC 7515 (JWS), 7517 (JWK) and 7518 (algorithms); where those leave a choice,
//! the narrow one is taken.

mod algorithm;
mod bundle;
mod issued;
mod jws;
mod key;
mod key_set;
mod signer;
pub(crate) mod strict_json;
mod svid;
mod user;

#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use bundle::{JwtBundle, JwtBundleError, KeyUse};
pub use issued::{IssuedTokenError, check_before_asking, verify_issued_token};
pub use jws::{JwsError, MAX_TOKEN_BYTES, unverified_key_id};
pub use key::{JwtKey, JwtKeyError};
pub use key_set::JwtKeySet;
pub use signer::{Claims, JwtSigner};
pub use svid::{JwtSvid, JwtSvidError, unverified_trust_domain, verify_jwt_svid};
pub use user::{UserToken, UserTokens, unverified_issuer};
