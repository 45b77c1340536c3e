//! Where signatures are made: here and at once, or by a token, one after another.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use hauberk_tls::AuthorityKey;
use tokio::sync::OwnedSemaphorePermit;

use super::Authority;
use super::token::{Token, TokenError};

/// The right to have something signed. It is had before anything is recorded of what is to be signed: where a token does not
/// work, or cannot keep up, nothing is.
pub struct Turn(Option<(Arc<Token>, OwnedSemaphorePermit)>);

impl Turn {
    /// Does what signs.
    ///
    /// # Errors
    /// The token does not answer in time.
    pub async fn sign<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TokenError> {
        match self.0 {
            None => Ok(work()),
            Some((token, _place)) => token.signs(work).await,
        }
    }
}

impl Authority {
    /// A turn to sign with the key of an authority of ours.
    ///
    /// # Errors
    /// It is in a token that does not work, or has too much to sign.
    pub async fn turn(&self, key: &AuthorityKey) -> Result<Turn, TokenError> {
        match &self.token {
            Some(token) if key.is_elsewhere() => Ok(Turn(Some((Arc::clone(token), token.place().await?)))),
            _ => Ok(Turn(None)),
        }
    }

    /// The token in which keys are made, if there is one.
    pub fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// Why nothing can be signed now; `None` while it can.
    pub fn cannot_sign(&self, now: UnixMillis) -> Option<Arc<str>> {
        let issuing = self.issuing();
        let validity = issuing.validity();
        if !validity.contains(now) {
            let (from, until) = (validity.not_before(), validity.not_after());
            return Some(
                format!("the issuing authority is valid from {from} to {until}, and it is {now}").into(),
            );
        }
        self.token.as_ref().filter(|_| issuing.key().is_elsewhere())?.out_of_order()
    }
}
