//! Where the certificate is renewed: one task, from half life until expiry and beyond.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, UnixMillis, renewal_at};
use hauberk_proto::agent::v1::SignCertificateRequest;
use hauberk_proto::agent::v1::enrollment_client::EnrollmentClient;
use hauberk_tls::{BootstrapTrust, CertificateRequest, KeyPair, ServerExpectation};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::control_plane;
use crate::credentials::{Credentials, Issued};
use crate::decisions::Decisions;
use crate::enroll;
use crate::mesh::InboundGate;
use crate::random::{Backoff, fraction};
use crate::skew::{self, Skew};
use crate::state::State;

/// The longest sleep without looking at the clock, which may be set or stand still while the host sleeps.
const LOOK: Duration = Duration::from_secs(15);

/// What renewal needs.
#[derive(Debug)]
pub struct Renewal {
    /// What was configured.
    pub config: Arc<Config>,
    /// Where certificates are kept.
    pub state: Arc<State>,
    /// The time of day.
    pub clock: Clock,
    /// What is renewed.
    pub credentials: Credentials,
    /// Closed while there is no valid certificate.
    pub gate: Arc<InboundGate>,
    /// Learns of a new instance id.
    pub decisions: Arc<Decisions>,
    /// Our instance.
    pub instance: InstanceId,
    /// When the present certificate was issued.
    pub issued_at: UnixMillis,
}

impl Renewal {
    /// Renews until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.renew_for_ever() => {}
        }
    }

    async fn renew_for_ever(&mut self) {
        loop {
            let due = renewal_at(self.issued_at, self.credentials.not_after(), fraction());
            self.wait_until_due(due).await;
            let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
            loop {
                let problem = match self.renew_once().await {
                    Ok(()) => break,
                    Err(problem) => problem,
                };
                let wait = backoff.step();
                let not_after = self.credentials.not_after();
                tracing::warn!(event = "renewal_delayed", problem, %not_after, retry_in_ms = wait.as_millis() as u64);
                self.wait_until(self.clock.now().plus(wait)).await;
            }
        }
    }

    /// Sleeps until the instant, or until the control plane says that our authority signs no longer: then for a random
    /// part of the time over which all who are told so spread.
    async fn wait_until_due(&self, due: UnixMillis) {
        let mut trust = self.credentials.trust_changes();
        loop {
            let within = self.credentials.renewal_within();
            let due = match within {
                Some(within) => due.min(self.clock.now().plus(within.mul_f64(fraction()))),
                None => due,
            };
            tokio::select! {
                () = self.wait_until(due) => return,
                // Told again, the wait does not begin anew.
                Ok(()) = trust.changed(), if within.is_none() => {}
            }
        }
    }

    /// Sleeps, and closes everything at the instant of expiry.
    async fn wait_until(&self, instant: UnixMillis) {
        loop {
            let now = self.clock.now();
            let not_after = self.credentials.not_after();
            if now >= not_after && self.gate.has_valid_certificate() {
                tracing::error!(event = "certificate_expired", %not_after);
                self.gate.set_certificate_valid(false);
            }
            if now >= instant {
                return;
            }
            // A millisecond past the instant, for validity includes its last one.
            let next =
                if now < not_after { instant.min(not_after.plus(Duration::from_millis(1))) } else { instant };
            tokio::time::sleep(next.since(now).clamp(Duration::from_millis(1), LOOK)).await;
        }
    }

    async fn renew_once(&mut self) -> Result<(), String> {
        let issued = if self.clock.now() < self.credentials.not_after() {
            match self.sign_again().await {
                Ok(issued) => issued,
                Err(problem) => {
                    let trust =
                        BootstrapTrust::Bundle(Arc::clone(self.credentials.live().current().bundle()));
                    let skew = skew::ask(&self.config.control_plane, trust, self.clock).await;
                    return Err(skew::named(skew, problem));
                }
            }
        } else {
            enroll::join_again(&self.config, &self.state, self.clock).await?
        };
        let (instance, issued_at) = (issued.identity.instance, issued.identity.issued_at);
        self.credentials.replace(issued).map_err(|error| error.to_string())?;
        self.instance = instance;
        self.issued_at = issued_at;
        self.decisions.set_instance(instance);
        self.gate.set_certificate_valid(true);
        tracing::info!(event = "certificate_renewed", not_after = %self.credentials.not_after());
        Ok(())
    }

    /// A fresh key each time, so that one that leaked is of use for one life at the most.
    async fn sign_again(&self) -> Result<Issued, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let csr = CertificateRequest::create(&key).map_err(|error| error.to_string())?;
        let connector = self
            .credentials
            .live()
            .connector(
                ServerExpectation::ControlPlane,
                control_plane::ALPN,
                true,
                control_plane::HANDSHAKE_TIMEOUT,
            )
            .map_err(|error| error.to_string())?;
        let mut channel = control_plane::connect(&self.config.control_plane, &connector)
            .await
            .map_err(|error| error.to_string())?;
        match skew::over(&mut channel, self.clock).await {
            Some(Skew::Behind(_)) => {
                return Err("a certificate that is issued now would not be valid here yet".to_owned());
            }
            // What is valid there is valid here, for a shorter time.
            Some(skew) => tracing::warn!(event = "clock_skew", %skew),
            None => {}
        }
        let answer = EnrollmentClient::new(channel)
            .sign_certificate(SignCertificateRequest { csr })
            .await
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
            .into_inner();
        Issued::check(answer.certificate, answer.trust, self.instance, key, self.clock.now())
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
