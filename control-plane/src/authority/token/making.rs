//! How keys are made: so that none stays in the token of which nobody has heard.
//!
//! Who makes keys may fail after the first, or be waited for no longer; what it has made is of no use to anybody then.

use std::sync::Arc;
use std::time::Duration;

use super::{KeyId, Token, TokenError, lock};
use crate::authority::records::TokenKeyRecord;
use crate::random;

/// How long it may take to make authorities: keys too are made then, for which smart cards need seconds.
pub(super) const MAKING_DEADLINE: Duration = Duration::from_secs(30);

/// Keys that may be in the token.
#[derive(Debug, Default)]
pub(super) struct NewKeys {
    /// Made by whoever's turn it is.
    made: Vec<KeyId>,
    /// Made before, and nobody has got them.
    left: Vec<KeyId>,
}

impl Token {
    /// Does what makes keys, or opens them, one after another. Unless that is well and waited for to its end, the keys are
    /// destroyed again.
    ///
    /// # Errors
    /// Those of `work`; or the token does not answer in time.
    pub(in crate::authority) async fn makes<T: Send + 'static, E: From<TokenError> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let waits = Arc::new(());
        let (token, is_waiting) = (Arc::clone(self), Arc::downgrade(&waits));
        let made = async {
            let turn = Arc::clone(&self.makers).acquire_owned().await.ok()?;
            let work = move || {
                // Of one that broke off, or whose caller went at the last moment.
                token.leave();
                let outcome = work();
                if outcome.is_err() || is_waiting.strong_count() == 0 {
                    token.leave();
                    if let Err(error) = token.clear_away() {
                        let token = token.label();
                        tracing::warn!(
                            event = "token_key_left",
                            token,
                            %error,
                            "a new key that nobody needs is in its token: it is destroyed before another is made"
                        );
                    }
                }
                (outcome, turn)
            };
            self.on_a_thread(work).await
        };
        let (outcome, turn) = self.within(MAKING_DEADLINE, made).await?;
        if outcome.is_ok() {
            lock(&self.new_keys).made.clear();
        }
        drop((turn, waits));
        outcome
    }

    /// Makes a key for an authority, in the turn of whoever [`Token::makes`]. It waits.
    ///
    /// # Errors
    /// The token makes none, or what was left before cannot be destroyed.
    pub(in crate::authority) fn generate(&self, label: &str) -> Result<TokenKeyRecord, TokenError> {
        self.clear_away()?;
        let id = KeyId(random::bytes::<16>()?.to_vec());
        // Before it is made: a token may fail after that.
        lock(&self.new_keys).made.push(id.clone());
        let public_key = self.over_one_that_writes(|session| session.generate(&id, label))?;
        Ok(TokenKeyRecord {
            label: self.place.label.clone(),
            token_serial: self.place.serial.clone(),
            id: id.0,
            public_key: public_key.spki_der().to_vec(),
        })
    }

    /// Nobody gets what was made.
    fn leave(&self) {
        let NewKeys { made, left } = &mut *lock(&self.new_keys);
        left.append(made);
    }

    /// Destroys what nobody has got. One that cannot be destroyed keeps another from being made: whoever tries again and
    /// again would fill the token.
    fn clear_away(&self) -> Result<(), TokenError> {
        loop {
            let Some(id) = lock(&self.new_keys).left.last().cloned() else { return Ok(()) };
            self.destroy_by_id(&id)?;
            lock(&self.new_keys).left.retain(|left| *left != id);
        }
    }
}

#[cfg(test)]
mod tests;
