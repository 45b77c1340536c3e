//! What the app is given of its request's user, and gives back on its own calls: sealed by this process, of no use
//! anywhere else, and good for as long as the user's token, and the certificates of who passed the user on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::{Serial, SpiffeId, UnixMillis};
use hauberk_tls::SealingKey;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::chain::{self, UNAVAILABLE};
use super::{Identity, get_or_make, hash_of};
use crate::context::Context;

/// What handles are sealed for.
const PURPOSE: &[u8] = b"hauberk-handle-v1";
/// How many signed tokens are kept for their next use, and how many bytes they may take.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How long before the end of our certificate a hop that it signed is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

pub(super) const FORGED: &str = "identity_handle_forged";
const EXPIRED: &str = "identity_handle_expired";

/// The handles of one process. Nothing is made before the first user comes.
#[derive(Default)]
pub struct Handles {
    key: OnceLock<SealingKey>,
    signed: Mutex<Signed>,
}

/// Tokens that were signed, by the handle's hash and whom they are for.
#[derive(Default)]
struct Signed {
    tokens: HashMap<([u8; 32], SpiffeId), Token>,
    bytes: usize,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    /// Our certificate that signed it, and until when it is used.
    serial: Serial,
    until: UnixMillis,
}

impl Handles {
    /// The handle of a user; none where the system has no randomness to give.
    pub(super) fn seal(&self, identity: &Identity) -> Option<HeaderValue> {
        let mut content = identity.passes_on_until().0.to_be_bytes().to_vec();
        match &identity.passed_on {
            Some(text) => content.extend_from_slice(text.as_bytes()),
            None => {
                content.extend_from_slice(identity.token.as_bytes());
                content.push(b'~');
            }
        }
        let sealed = self.key()?.seal(PURPOSE, &content).ok()?;
        secret(&URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What is sent to `audience` for a handle of ours, signed once for all requests of that user there.
    ///
    /// # Errors
    /// Why the handle is none, as a stable name.
    pub fn pass_on(
        &self,
        handle: &HeaderValue,
        audience: &SpiffeId,
        context: &Context,
    ) -> Result<HeaderValue, &'static str> {
        let text = handle.to_str().map_err(|_| FORGED)?;
        let now = context.clock.now();
        let us = context.identity.current();
        let own = us.svid().ok_or(UNAVAILABLE)?;
        let key = (hash_of(text), audience.clone());
        let known = self.signed().tokens.get(&key).cloned();
        if let Some(token) = known.filter(|token| token.until > now && token.serial == own.serial()) {
            return Ok(token.value);
        }
        let (until, passed_on) = self.open(text, now)?;
        let value = secret(&chain::extended(&passed_on, &us, audience, now)?).ok_or(FORGED)?;
        let until = until.min(own.validity().not_after().minus(RENEW_BEFORE));
        self.signed().insert(key, Token { value: value.clone(), serial: own.serial(), until });
        Ok(value)
    }

    /// Until when a handle of ours is good, and what it stands for: the user's token, with who passed it on after a
    /// tilde.
    ///
    /// # Errors
    /// Why the handle is none, as a stable name.
    pub(super) fn open(
        &self,
        handle: &str,
        now: UnixMillis,
    ) -> Result<(UnixMillis, Zeroizing<String>), &'static str> {
        let sealed = URL_SAFE_NO_PAD.decode(handle).map_err(|_| FORGED)?;
        // Without a key there is no handle of ours.
        let opened = self.key.get().and_then(|key| key.open(PURPOSE, &sealed));
        let opened = opened.ok_or(FORGED)?;
        let (until, passed_on) = opened.split_first_chunk::<8>().ok_or(FORGED)?;
        let until = UnixMillis(u64::from_be_bytes(*until));
        if until <= now {
            return Err(EXPIRED);
        }
        let passed_on = std::str::from_utf8(passed_on).map_err(|_| FORGED)?;
        Ok((until, Zeroizing::new(passed_on.to_owned())))
    }

    fn key(&self) -> Option<&SealingKey> {
        get_or_make(&self.key, || SealingKey::generate().ok())
    }

    fn signed(&self) -> MutexGuard<'_, Signed> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signed {
    fn insert(&mut self, key: ([u8; 32], SpiffeId), token: Token) {
        let size = token.value.len();
        if self.tokens.len() >= MOST || self.bytes.saturating_add(size) > MOST_BYTES {
            *self = Self::default();
        }
        if let Some(former) = self.tokens.insert(key, token) {
            self.bytes = self.bytes.saturating_sub(former.value.len());
        }
        self.bytes = self.bytes.saturating_add(size);
    }
}

/// A header value that no `Debug` shows.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles").finish_non_exhaustive()
    }
}
