//! That we are revoked, and by which token we do not come back: by none that was there before somebody has made one
//! for it.

use std::sync::Arc;

use hauberk_tls::Svid;
use tokio::sync::{Mutex, watch};

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
    /// What it had was damaged, and is there still.
    is_damaged: bool,
    spent: watch::Sender<Option<SpentToken>>,
    /// Held by whoever looks what is spent, so that it is what was found first.
    noting: Mutex<()>,
}

impl Revocation {
    /// Of the instance with these credentials.
    pub fn new(
        config: Arc<Config>,
        state: Arc<State>,
        credentials: Credentials,
        denied: Arc<Denied>,
    ) -> Self {
        let (kept, is_damaged) = match state.spent_token() {
            Ok(kept) => (kept, false),
            // What is there now is then taken for what was: the revocation lasts until somebody makes a token.
            Err(error) => {
                tracing::error!(event = "state_damaged", %error);
                (None, matches!(error, StateError::Damaged { .. }))
            }
        };
        let (spent, noting) = (watch::Sender::new(kept), Mutex::default());
        Self { config, state, credentials, denied, kept, is_damaged, spent, noting }
    }

    /// Whether we are revoked, and may be let in again by a token. Evidence is not shown anew: whoever has revoked us
    /// would not have kept us out.
    pub(super) fn waits_for_a_token(&self) -> bool {
        matches!(self.config.join, Some(Join::TokenFile(_)))
            && self.denied.denial_of_us(&self.credentials.live().current()) == Some(Denial::Revoked)
    }

    /// Whether what the disk had of it as we began cannot be.
    #[cfg(test)]
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Whenever that may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<Mark> {
        self.denied.changes()
    }

    /// The token that was there when we heard of it, if there was any: now, where we have not.
    ///
    /// # Errors
    /// That is not known yet, for there may be one and it cannot be read now.
    pub(super) async fn spent_token(&self) -> Result<Option<TokenDigest>, String> {
        self.note().await?;
        Ok(self.spent.borrow().and_then(|spent| spent.found))
    }

    /// Forgets it: we are somebody else by now.
    pub(super) fn forget(&self) {
        self.spent.send_if_modified(|spent| spent.take().is_some());
    }

    /// Notes what is spent when we hear that we are revoked, and keeps it, for as long as this is polled.
    pub(super) async fn follow(&self) {
        let (mut denied, mut spent) = (self.changes(), self.spent.subscribe());
        let (mut kept, mut is_damaged) = (self.kept, self.is_damaged);
        loop {
            // What cannot be read is told by the renewal, which does nothing without it.
            let is_noted = !self.waits_for_a_token() || self.note().await.is_ok();
            let wanted = *spent.borrow_and_update();
            // What is damaged goes by itself only once it is known that something else does not take its place.
            let is_left = is_damaged && self.denied.is_known() && !self.waits_for_a_token();
            let is_due = wanted != kept || is_left;
            let is_kept = !is_due || self.keep(wanted).await;
            if is_due && is_kept {
                (kept, is_damaged) = (wanted, false);
            }
            let [_, again] = SAVE_AGAIN;
            tokio::select! {
                // The senders are ours.
                Ok(()) = spent.changed() => {}
                // As where the registry was restored: another revocation is another matter.
                Ok(()) = denied.changed() => if !self.waits_for_a_token() {
                    self.forget();
                },
                () = tokio::time::sleep(again), if !is_kept || !is_noted => {}
            }
        }
    }

    /// Once for each certificate.
    ///
    /// # Errors
    /// There may be a token and it cannot be read now. Nothing is noted then: that there was none would let in by that
    /// very token.
    async fn note(&self) -> Result<(), String> {
        let Some(certificate) = self.credentials.live().current().svid().map(Svid::serial) else {
            return Ok(());
        };
        let _noting = self.noting.lock().await;
        if self.spent.borrow().is_some_and(|spent| spent.certificate == certificate) {
            return Ok(());
        }
        let found = enroll::token_in(&self.config).await?;
        // It may have been taken back while the file was read: another revocation is another matter.
        if self.waits_for_a_token() {
            self.spent.send_replace(Some(SpentToken { certificate, found }));
        }
        Ok(())
    }

    /// Whether the disk has it, or what it has is of no account. Off the runtime's threads: a disk may hang.
    pub(super) async fn keep(&self, spent: Option<SpentToken>) -> bool {
        // Until the disk has who we are by now, a restart finds who was revoked, and needs it.
        if spent.is_none() && self.credentials.is_unsaved() {
            return false;
        }
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
