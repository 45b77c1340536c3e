//! What is told of connections that come to nothing before their peer is known.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::listener::Port;

/// How often each kind is told: anybody can provoke them, at any rate.
const TELL_EVERY: Duration = Duration::from_secs(300);

/// Kinds that somebody should do something about: a certificate that is not renewed, a clock, a bundle.
const TO_BE_MENDED: [&str; 6] = [
    "expired",
    "not_yet_valid",
    "root_outside_validity",
    "authority_revoked",
    "no_certificate_here",
    "refused_by_peer",
];

/// Which kinds have been told, and when. There are a fixed few.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<HashMap<&'static str, Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    untold: u64,
}

impl TurnedAway {
    /// Counts a connection that came to nothing, of this kind and by this fault. The first of each kind is told, then
    /// one now and then with the number of those between.
    pub(super) fn tell(
        &self,
        port: &Port,
        address: SocketAddr,
        (reason, fault): (&'static str, &'static str),
        error: &dyn Error,
    ) {
        port.metrics.turned_away(reason);
        let Some(untold) = self.untold(reason, Instant::now()) else {
            tracing::debug!(event = "handshake_refused", listener = port.number, %address, reason, %error);
            return;
        };
        if TO_BE_MENDED.contains(&reason) {
            tracing::warn!(event = "handshake_refused", listener = port.number, %address, reason, fault, untold, %error);
        } else {
            tracing::info!(event = "handshake_refused", listener = port.number, %address, reason, fault, untold, %error);
        }
    }

    /// Whether one of this kind is told at this moment: how many were not since the last that was.
    fn untold(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.entry(reason) {
            Entry::Occupied(mut last) if now.duration_since(last.get().at) < TELL_EVERY => {
                last.get_mut().untold += 1;
                None
            }
            Entry::Occupied(mut last) => Some(last.insert(Told { at: now, untold: 0 }).untold),
            Entry::Vacant(first) => {
                first.insert(Told { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_at_first_and_then_now_and_then() {
        let (turned_away, now) = (TurnedAway::default(), Instant::now());
        assert_eq!(turned_away.untold("expired", now), Some(0));
        assert_eq!(turned_away.untold("untrusted", now), Some(0));
        for _ in 0..1_000 {
            assert_eq!(turned_away.untold("expired", now), None);
        }
        assert_eq!(turned_away.untold("expired", now + TELL_EVERY), Some(1_000));
        assert_eq!(turned_away.untold("untrusted", now + TELL_EVERY), Some(0));
        assert_eq!(turned_away.untold("expired", now + TELL_EVERY), None);
    }
}
