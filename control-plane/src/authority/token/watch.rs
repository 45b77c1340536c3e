//! Whether the token works: looked at now and then, and whenever somebody has seen it fail.

use std::sync::Arc;
use std::time::Duration;

use hauberk_tls::IssuingAuthority;
use tokio_util::sync::CancellationToken;

use super::{Token, TokenError, lock};
use crate::authority::Authority;

/// How often a token that works is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// How often one that does not is.
const TRIED_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Keeps [`Token::out_of_order`] true until `stop`, where there is a token. Begins the module anew where that may help.
pub async fn watch(authority: Arc<Authority>, stop: CancellationToken) {
    let Some(token) = authority.token().cloned() else { return };
    loop {
        if token.out_of_order().is_some() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TRIED_AGAIN_EVERY) => {}
            }
        } else {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
                () = token.doubt.notified() => {}
            }
        }
        let Some(works) = stop.run_until_cancelled(look(&token, &authority.issuing())).await else { return };
        token.note(works);
    }
}

async fn look(token: &Arc<Token>, issuing: &Arc<IssuingAuthority>) -> Result<(), String> {
    let Err(failed) = try_out(token, issuing).await else { return Ok(()) };
    let again = Arc::clone(token);
    match token.signs(move || again.begin_anew()).await.and_then(|begun| begun) {
        Ok(()) => try_out(token, issuing).await,
        // It hangs: why is known.
        Err(TokenError::Busy(_)) => Err(failed),
        Err(error) => Err(error.to_string()),
    }
}

/// Has it sign with the key that certificates are signed with; where that is not in it, logs in.
async fn try_out(token: &Arc<Token>, issuing: &Arc<IssuingAuthority>) -> Result<(), String> {
    let (at_work, issuing) = (Arc::clone(token), Arc::clone(issuing));
    let tried = token.signs(move || {
        if issuing.key().is_elsewhere() {
            issuing.key().prove()
        } else {
            at_work.check().map_err(|error: TokenError| error.to_string())
        }
    });
    tried.await.map_err(|error| error.to_string()).and_then(|tried| tried)
}

impl Token {
    fn note(&self, works: Result<(), String>) {
        let mut out_of_order = lock(&self.out_of_order);
        match works {
            Ok(()) if out_of_order.is_some() => {
                tracing::info!(event = "token_works", token = self.label(), "the PKCS#11 token works again");
                *out_of_order = None;
            }
            Ok(()) => {}
            Err(reason) if out_of_order.as_deref() == Some(reason.as_str()) => {}
            Err(reason) => {
                tracing::error!(
                    event = "token_failed",
                    token = self.label(),
                    reason,
                    "the PKCS#11 token does not work"
                );
                *out_of_order = Some(reason.into());
            }
        }
    }
}
