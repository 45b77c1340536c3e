//! The end of our certificate, by the clock: everything is closed at that instant, whatever a renewal waits for just
//! then.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Serial, UnixMillis};
use tokio_util::sync::CancellationToken;

use super::LOOK;
use crate::clock::Clock;
use crate::credentials::Credentials;
use crate::mesh::InboundGate;

/// Keeps the gate closed while there is no valid certificate. Nobody else says anything of that while this runs.
#[derive(Debug)]
pub struct Expiry {
    credentials: Credentials,
    gate: Arc<InboundGate>,
    clock: Clock,
    /// The certificate for which it was closed.
    closed_for: Option<Serial>,
}

impl Expiry {
    /// Of this certificate and all that follow it.
    pub fn new(credentials: Credentials, gate: Arc<InboundGate>, clock: Clock) -> Self {
        Self { credentials, gate, clock, closed_for: None }
    }

    /// Looks whenever there is another certificate, when it ends, and now and then, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut live = self.credentials.live().subscribe();
        loop {
            live.mark_unchanged();
            let wait = self.look();
            tokio::select! {
                () = stop.cancelled() => return,
                // The sender is ours.
                Ok(()) = live.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Closes what is to be closed, or opens it again; how long to wait before the next look.
    pub(super) fn look(&mut self) -> Duration {
        let now = self.clock.now();
        let live = self.credentials.live().current();
        let (serial, validity) = live.svid().map(|svid| (svid.serial(), svid.validity())).unzip();
        let not_after = validity.map_or(UnixMillis(0), |validity| validity.not_after());
        let was_valid = self.gate.has_valid_certificate();
        if now >= not_after && was_valid {
            tracing::error!(event = "certificate_expired", %not_after);
            self.closed_for = serial;
            self.gate.set_certificate_valid(false);
        } else if !was_valid && validity.is_some_and(|it| it.not_before() <= now && now < it.not_after()) {
            if self.closed_for == serial {
                tracing::warn!(event = "certificate_valid_again", %not_after, "this host's clock was set back");
            }
            self.gate.set_certificate_valid(true);
        }
        let left = if now < not_after { not_after.since(now) } else { LOOK };
        left.clamp(Duration::from_millis(1), LOOK)
    }
}
