//! Takes the steps that are due by themselves, for as long as the control plane runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::lifecycle::Authorities;
use crate::audit::Actor;

/// How often it is looked what is due: whoever rotates by hand waits for it.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(200);

/// Before a step that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Who takes steps by itself.
pub fn own_actor() -> Actor {
    Actor { name: "control-plane".to_owned(), source: "local".to_owned() }
}

/// Takes steps until `stop`.
pub async fn keep(authorities: Arc<Authorities>, stop: CancellationToken) {
    let actor = own_actor();
    loop {
        let taken = [authorities.advance(&actor).await, authorities.advance_jwt_keys(&actor).await];
        let mut pause = if taken.iter().any(|taken| matches!(taken, Ok(true))) {
            Duration::ZERO
        } else {
            LOOKED_AT_EVERY
        };
        for error in taken.into_iter().filter_map(Result::err) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(event = "authority_step_failed", %error, cause, "it is tried again");
            pause = TRY_AGAIN;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
