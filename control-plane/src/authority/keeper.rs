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
    let mut told = None;
    loop {
        tell_of_clock(&mut told, authorities.clock_is_ahead());
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

/// Says when the clock is believed no longer, and when it is again.
fn tell_of_clock(told: &mut Option<Duration>, ahead: Option<Duration>) {
    match (&told, ahead) {
        (None, Some(ahead)) => tracing::error!(
            event = "clock_ahead",
            seconds = ahead.as_secs(),
            "the clock of this host was set ahead: until it is set right, or has gone on for 25 hours, nothing is forgotten, and no \
             authority replaced or retired, by its age"
        ),
        (Some(_), None) => {
            tracing::info!(event = "clock_believed", "the clock of this host is believed again")
        }
        _ => {}
    }
    *told = ahead;
}
