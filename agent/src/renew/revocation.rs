//! That we are revoked, and by which token we do not come back: by none that was there before somebody has made one
//! for it.

use std::sync::Arc;

use hauberk_tls::Svid;
use tokio::sync::watch;

use super::SAVE_AGAIN;
use crate::config::{Config, Join};
use crate::credentials::Credentials;
use crate::enroll;
use crate::mesh::{Denial, Denied};
use crate::state::{Mark, SpentToken, State, StateError, TokenDigest};

/// What is known of it. The token that is there counts as spent from the moment at which we hear, whatever a renewal
/// waits for just then, and also after a restart.
#[derive(Debug)]
pub struct Revocation {
    config: Arc<Config>,
    state: Arc<State>,
    credentials: Credentials,
    denied: Arc<Denied>,
    /// What the disk had as we began.
    kept: Option<SpentToken>,
    spent: watch::Sender<Option<SpentToken>>,
}

impl Revocation {
    /// Of the instance with these credentials.
    pub fn new(
        config: Arc<Config>,
        state: Arc<State>,
        credentials: Credentials,
        denied: Arc<Denied>,
    ) -> Self {
        let kept = state.spent_token().unwrap_or_else(|error| {
            // What is there now is then taken for what was: the revocation lasts until somebody makes a token.
            tracing::error!(event = "state_damaged", %error);
            None
        });
        Self { config, state, credentials, denied, kept, spent: watch::Sender::new(kept) }
    }

    /// Whether we are revoked, and may be let in again by a token. Evidence is not shown anew: whoever has revoked us
    /// would not have kept us out.
    pub(super) fn waits_for_a_token(&self) -> bool {
        matches!(self.config.join, Some(Join::TokenFile(_)))
            && self.denied.denial_of_us(&self.credentials.live().current()) == Some(Denial::Revoked)
    }

    /// Whenever that may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<Mark> {
        self.denied.changes()
    }

    /// The token that was there when we heard of it, if there was any: now, where we have not.
    pub(super) fn spent_token(&self) -> Option<TokenDigest> {
        self.note();
        (*self.spent.borrow())?.found
    }

    /// Forgets it: we are somebody else by now.
    pub(super) fn forget(&self) {
        self.spent.send_if_modified(|spent| spent.take().is_some());
    }

    /// Notes what is spent when we hear that we are revoked, and keeps it, for as long as this is polled.
    pub(super) async fn follow(&self) {
        let (mut denied, mut spent) = (self.changes(), self.spent.subscribe());
        let mut kept = self.kept;
        loop {
            if self.waits_for_a_token() {
                self.note();
            }
            let wanted = *spent.borrow_and_update();
            if wanted != kept && self.keep(wanted).await {
                kept = wanted;
            }
            let [_, again] = SAVE_AGAIN;
            tokio::select! {
                // The senders are ours.
                Ok(()) = spent.changed() => {}
                // As where the registry was restored: another revocation is another matter.
                Ok(()) = denied.changed() => if !self.waits_for_a_token() {
                    self.forget();
                },
                () = tokio::time::sleep(again), if wanted != kept => {}
            }
        }
    }

    /// Once for each certificate.
    fn note(&self) {
        let Some(certificate) = self.credentials.live().current().svid().map(Svid::serial) else { return };
        self.spent.send_if_modified(|spent| {
            let is_new = spent.is_none_or(|spent| spent.certificate != certificate);
            if is_new {
                *spent = Some(SpentToken { certificate, found: enroll::token_in(&self.config) });
            }
            is_new
        });
    }

    /// Off the runtime's threads: a disk may hang.
    async fn keep(&self, spent: Option<SpentToken>) -> bool {
        let state = Arc::clone(&self.state);
        let keeping = tokio::task::spawn_blocking(move || match spent {
            Some(spent) => state.keeping()?.save_spent_token(spent),
            None => state.forget_spent_token(),
        });
        match keeping.await {
            // Of a node that has gone nothing is kept, and that is no fault.
            Ok(Ok(()) | Err(StateError::NodeGone)) => true,
            Ok(Err(error)) => {
                tracing::error!(event = "state_not_saved", %error, "which token is spent is known until a restart");
                false
            }
            Err(error) => {
                tracing::error!(event = "state_not_saved", %error);
                false
            }
        }
    }
}
