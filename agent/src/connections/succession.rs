//! How live connections pass from an authority that signs no longer to the one that follows it.
//!
//! Both ends of a connection hold new certificates within seconds, and prove them for connections that stay open
//! (`outbound/prove.rs`). That we trust what is to be trusted is acknowledged only once no live connection rests on the
//! former authority, at either end, and no program beside us is given a certificate by it, so that the former, revoked
//! after that, takes no call with it. Where that is not so in time, as with a foreign client that proves nothing anew,
//! a connection is given nothing new: it ends when nothing is under way on it. Whoever opened it stops first. After
//! [`AT_MOST`] the acknowledgement waits no longer.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::Serial;
use tokio::time::Instant;

use super::live::{Connection, Role};
use crate::state::StoredTrust;

/// How long after everybody should have renewed connections that we opened are given nothing new; those that peers
/// opened; and what is to be trusted is acknowledged whatever there is.
const RETIRE_OWN_AFTER: Duration = Duration::from_secs(5);
const RETIRE_AFTER: Duration = Duration::from_secs(10);
const AT_MOST: Duration = Duration::from_secs(15);
/// How long after our own renewal no handshake is under way any longer in which we showed the former certificate.
const HANDSHAKES_END: Duration = Duration::from_secs(1);

/// A certificate of ours, as the far end of a connection has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its serial number.
    pub(crate) serial: Serial,
    /// The serial number of the authority that signed it.
    pub(crate) issuer: Option<Serial>,
}

/// How far it has come since the last authority stopped to sign.
#[derive(Debug)]
pub(super) struct Succession {
    trust: Arc<StoredTrust>,
    begun_at: Instant,
    renewed_at: Option<Instant>,
    /// Connections with lower numbers than these may be given nothing new.
    retires: Option<u64>,
    is_done: bool,
}

/// What is to be done with a connection that still rests on the former authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lagging {
    /// Wait for the proof.
    Wait,
    /// Nothing new should be begun on it.
    Retire,
}

impl Succession {
    /// Begins with what is trusted when nothing is live yet. Our own certificate may be a former one, as after a
    /// restart.
    pub(super) fn new(trust: Arc<StoredTrust>) -> Self {
        let is_done = trust.signs_no_longer().next().is_none();
        Self { trust, begun_at: Instant::now(), renewed_at: None, retires: None, is_done }
    }

    /// Takes note of what is to be trusted from now on.
    pub(super) fn told(&mut self, trust: Arc<StoredTrust>, now: Instant) {
        if trust.signs_no_longer().any(|issuer| !self.trust.signs_no_longer().any(|known| known == issuer)) {
            (self.begun_at, self.retires, self.is_done) = (now, None, false);
        }
        self.trust = trust;
    }

    /// Takes note that our own certificate is another.
    pub(super) fn renewed(&mut self, now: Instant) {
        self.renewed_at = Some(now);
    }

    /// The version of trust that all live connections obey, once they do.
    pub(super) fn done(&self) -> Option<u64> {
        self.is_done.then(|| self.trust.version())
    }

    /// Whether this authority signs no longer.
    pub(super) fn is_former(&self, issuer: Serial) -> bool {
        self.trust.is_former(issuer)
    }

    /// Whether the certificates by which the ends of a connection know each other are by an authority that signs no
    /// longer.
    pub(super) fn is_lagging(&self, connection: &Connection) -> bool {
        let is_former = |issuer: Option<Serial>| issuer.is_some_and(|issuer| self.is_former(issuer));
        is_former(connection.peer_issuer()) || is_former(connection.shown().and_then(|own| own.issuer))
    }

    /// Whether everybody should have renewed by now. Also once we are done ourselves: a connection that was begun since
    /// may have found its peer with a former certificate.
    pub(super) fn is_proof_due(&self, now: Instant) -> bool {
        now.duration_since(self.begun_at) >= self.trust.renew_within()
    }

    /// Goes on. `lagging` says whether any connection is, or any program beside us; `next` is the number of the next
    /// connection.
    pub(super) fn advance(&mut self, own: Option<Serial>, lagging: bool, next: u64, now: Instant) {
        let waited = now.duration_since(self.begun_at).saturating_sub(self.trust.renew_within());
        if waited >= RETIRE_OWN_AFTER && self.retires.is_none() {
            self.retires = Some(next);
        }
        let are_handshakes_over = self.renewed_at.is_none_or(|at| now.duration_since(at) >= HANDSHAKES_END);
        let is_renewed = !own.is_some_and(|issuer| self.trust.is_former(issuer));
        // Until everybody should have renewed, a peer may still show a former certificate on a new connection.
        let is_peers_turn_over =
            now.duration_since(self.begun_at) >= self.trust.renew_within() + HANDSHAKES_END;
        self.is_done |=
            waited >= AT_MOST || (!lagging && is_renewed && are_handshakes_over && is_peers_turn_over);
    }

    /// What to do with a connection that lags.
    pub(super) fn verdict(&self, connection: &Connection, now: Instant) -> Lagging {
        let waited = now.duration_since(self.begun_at).saturating_sub(self.trust.renew_within());
        let after = match connection.role() {
            Role::Outbound => RETIRE_OWN_AFTER,
            Role::Inbound { .. } => RETIRE_AFTER,
        };
        // One that was opened later found its peer with an old certificate still: another would find the same.
        let is_older = self.retires.is_some_and(|below| connection.id() < below);
        if is_older && waited >= after { Lagging::Retire } else { Lagging::Wait }
    }
}
