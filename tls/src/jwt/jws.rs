//! The signed form: three parts in base64url, of which the first says by which key (RFC 7515 §7.1).

use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

use super::key::JwtKey;
use super::key_set::JwtKeySet;
use super::strict_json;

/// The largest token that is looked at, in bytes: what fits into a header line.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a token's signature counts for nothing. The fault is whoever made or sent the token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwsError {
    /// Larger than any of ours.
    #[error("the token has {0} bytes; {MAX_TOKEN_BYTES} are the most")]
    TooLarge(usize),
    /// Not three parts in base64url without padding.
    #[error("the token is not three parts in base64url, with a dot between each")]
    NotCompact,
    /// The header is no object, or says something twice.
    #[error("the token's header is not a JSON object in which no member stands twice")]
    Header,
    /// `crit` names extensions, and none is known here.
    #[error("the token's header demands extensions (`crit`) that are not known here")]
    Critical,
    /// `typ` is something else.
    #[error("the token's `typ` is not that of such a token")]
    Type,
    /// With an id that is no text there is no saying which key.
    #[error("the token's header names no key (`kid`)")]
    NoKeyId,
    /// Without an id, and not exactly one key could have made it.
    #[error(
        "the token's header names no key (`kid`), and {0} of the keys that are known sign with its algorithm"
    )]
    WhichKey(usize),
    /// No key of this id.
    #[error("the token is signed by the key {0:?}, which is not in the bundle")]
    UnknownKey(String),
    /// `alg` is missing, unknown, or none of the key's, which are these.
    #[error("the token is not signed with {0}, which is all that its key may sign with")]
    Algorithm(String),
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
}

/// What `typ` may say, where it says anything.
#[derive(Debug, Clone, Copy)]
pub(super) enum Types {
    /// These and nothing else (JWT-SVID §2).
    Exactly(&'static [&'static str]),
    /// Media types in lower case: they are compared without regard to case, and `application/` may be left out (RFC 7515 §4.1.9).
    Media(&'static [&'static str]),
}

impl Types {
    fn have(self, named: &str) -> bool {
        match self {
            Self::Exactly(known) => known.contains(&named),
            Self::Media(known) => {
                let named = named.to_ascii_lowercase();
                known.contains(&named.strip_prefix("application/").unwrap_or(&named))
            }
        }
    }
}

/// A token's parts; nothing says that they are anybody's.
pub(super) struct Parts<'a> {
    header: Map<String, Value>,
    pub(super) payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

/// Takes a token apart.
pub(super) fn parts(token: &str) -> Result<Parts<'_>, JwsError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(JwsError::TooLarge(token.len()));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::NotCompact)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::NotCompact)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::NotCompact);
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header = strict_json::object(&header).ok_or(JwsError::Header)?;
    Ok(Parts { header, payload, signed, signature })
}

/// Checks the signature of `token`, of one of these types, by its key, and yields what was signed.
pub(super) fn verify<'a>(
    token: &str,
    types: Types,
    keys: &'a JwtKeySet,
) -> Result<(Vec<u8>, &'a JwtKey), JwsError> {
    let Parts { header, payload, signed, signature } = parts(token)?;
    let (key, verifier) = key_of(&header, types, keys)?;
    verifier.verify_sig(signed.as_bytes(), &signature).map_err(|_| JwsError::Signature)?;
    Ok((payload, key))
}

/// The key by which a token says that it is signed. Nothing is verified yet.
///
/// # Errors
/// The token cannot be read, or names none.
pub fn unverified_key_id(token: &str) -> Result<String, JwsError> {
    let Parts { header, .. } = parts(token)?;
    header.get("kid").and_then(Value::as_str).map(str::to_owned).ok_or(JwsError::NoKeyId)
}

/// The key that the header names, and how it verifies. A token need name none (RFC 7515 §4.1.4, JWT-SVID §2.2): it is
/// by the only one, then, that its algorithm leaves. Other members, such as `jku`, `jwk` and `x5u`, decide nothing.
fn key_of<'a>(
    header: &Map<String, Value>,
    types: Types,
    keys: &'a JwtKeySet,
) -> Result<(&'a JwtKey, &'a ParsedPublicKey), JwsError> {
    if header.contains_key("crit") {
        return Err(JwsError::Critical);
    }
    if header.get("typ").is_some_and(|kind| !kind.as_str().is_some_and(|kind| types.have(kind))) {
        return Err(JwsError::Type);
    }
    let algorithm = header.get("alg").and_then(Value::as_str);
    if !header.contains_key("kid") {
        let mut fitting = keys.keys().filter_map(|key| Some((key, key.verifier(algorithm)?)));
        return match (fitting.next(), fitting.count()) {
            (Some(only), 0) => Ok(only),
            (first, others) => Err(JwsError::WhichKey(usize::from(first.is_some()) + others)),
        };
    }
    let id = header.get("kid").and_then(Value::as_str).ok_or(JwsError::NoKeyId)?;
    let key = keys.key(id).ok_or_else(|| JwsError::UnknownKey(id.chars().take(64).collect()))?;
    let verifier = key.verifier(algorithm).ok_or_else(|| {
        let own: Vec<_> = key.algorithms().map(|algorithm| algorithm.as_str()).collect();
        JwsError::Algorithm(own.join(" or "))
    })?;
    Ok((key, verifier))
}
