//! The stream to the control plane: views, endpoints and trust come down; acknowledgements, registrations and decisions
//! go up.

mod acknowledge;
mod age;
mod apply;
mod denylist;
mod disk;
mod endpoints;
mod held;
mod hello;
mod session;
mod token_keys;

use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::agent::v1 as pb;
use hauberk_tls::BootstrapTrust;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use age::ViewAge;
pub use apply::{Authentic, Content, Floors, Prepared, Recipient, Rejection, authenticate};
pub use denylist::BadDenylist;
pub use held::Held;

use crate::clock::millis;
use crate::config::HostPort;
use crate::control_plane::{self, ConnectError};
use crate::credentials::Credentials;
use crate::decisions::Decisions;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::random::Backoff;
use crate::skew::{self, Skew};
use crate::workloads::Board;
use session::{End, Session};

/// Keeps a stream to the control plane, for as long as the agent runs.
#[derive(Debug)]
pub struct Sync {
    /// Where the control plane is.
    pub control_plane: HostPort,
    /// The time of day, for the control plane to see how far ours is off.
    pub clock: crate::clock::Clock,
    /// Who we are.
    pub credentials: Credentials,
    /// Whom views must be for.
    pub recipient: Recipient,
    /// What is learned goes here.
    pub mesh: Mesh,
    /// What is told of workloads goes here.
    pub workloads: Board,
    /// What was decided comes from here.
    pub decisions: Arc<Decisions>,
    /// How long views took is counted here.
    pub metrics: Arc<Metrics>,
    /// Where we take traffic, now and at each change.
    pub registrations: watch::Receiver<pb::Register>,
    /// Whether there is a stream at the moment.
    pub connected: watch::Sender<bool>,
    /// Set once the first session has told everything, or has failed: nothing better is to be expected soon.
    pub settled: watch::Sender<bool>,
}

impl Sync {
    /// Runs one session after the other until `stop`. What the disk does not have by then is written before this ends,
    /// if the disk takes it.
    pub async fn run(self, mut held: Held, stop: CancellationToken) {
        let disk = held.disk.clone();
        let sessions = async {
            self.sessions(&mut held, &stop).await;
            disk.close();
        };
        tokio::join!(sessions, disk.run());
    }

    async fn sessions(&self, held: &mut Held, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut told = None;
        loop {
            let end = tokio::select! {
                () = stop.cancelled() => break,
                end = self.one_session(held, &mut backoff) => end,
            };
            let was_connected = *self.connected.borrow();
            self.session_ended(held);
            let mut may_be_clock = !was_connected;
            let reason = match end {
                Ok(End::CertificateRenewed) => continue,
                Ok(End::Closed(reason)) => {
                    told = None;
                    reason
                }
                Err(error) => {
                    may_be_clock &= !matches!(error, ConnectError::Unreachable { .. });
                    error.to_string()
                }
            };
            let wait = backoff.step();
            let retry_in_ms = millis(wait);
            // The same failure again at each attempt would bury everything else.
            if told.as_ref() == Some(&reason) {
                tracing::debug!(event = "control_plane_away", reason, retry_in_ms);
            } else {
                let skew = if may_be_clock { self.skew(stop).await } else { None };
                let named = skew::named(skew, reason.clone());
                tracing::warn!(event = "control_plane_away", reason = named, retry_in_ms);
                told = Some(reason);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.session_ended(held);
    }

    async fn one_session(&self, held: &mut Held, backoff: &mut Backoff) -> Result<End, ConnectError> {
        // Taken before the handshake, so that a certificate which is renewed meanwhile ends the session at once.
        let mut identity = self.credentials.live().subscribe();
        identity.mark_unchanged();
        let channel = control_plane::connect_as(&self.control_plane, self.credentials.live()).await?;
        Ok(Session::new(self, held, identity).run(channel, backoff).await)
    }

    async fn skew(&self, stop: &CancellationToken) -> Option<Skew> {
        let trust = BootstrapTrust::Bundle(Arc::clone(self.credentials.live().current().bundle()));
        tokio::select! {
            () = stop.cancelled() => None,
            skew = skew::ask(&self.control_plane, trust, self.clock) => skew,
        }
    }

    fn session_ended(&self, held: &mut Held) {
        self.connected.send_replace(false);
        self.settled.send_replace(true);
        self.decisions.observe(&pb::Observe::default());
        held.session_ended(self.clock.now());
        held.save_trust(&self.credentials);
    }
}

#[cfg(test)]
mod tests;
