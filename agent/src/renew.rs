//! Where the certificate is renewed: one task, from half life until expiry and beyond.

mod due;
mod expiry;
mod revocation;

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, NodeName, UnixMillis};
use hauberk_policy::shell_quote;
use hauberk_proto::agent::v1::SignCertificateRequest;
use hauberk_proto::agent::v1::enrollment_client::EnrollmentClient;
use hauberk_proto::refusal;
use hauberk_tls::{BootstrapTrust, CertificateRequest, KeyPair};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, millis};
use crate::config::{Config, EnrollmentName, Join};
use crate::control_plane;
use crate::credentials::{Credentials, CredentialsError, Issued};
use crate::decisions::Decisions;
use crate::enroll::{self, Former, NotJoined};
use crate::random::{Backoff, fraction};
use crate::skew::{self, Skew};
use crate::state::{State, StateError, TokenDigest};
pub(crate) use due::Due;
pub use expiry::Expiry;
pub use revocation::Revocation;

/// The longest sleep without looking at the clock, which may be set or stand still while the host sleeps.
const LOOK: Duration = Duration::from_secs(15);
/// How long after the disk has refused a certificate it is asked again to take it: at first, and at the most.
const SAVE_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Why nothing is renewed for whoever is.
const REVOKED: &str = "this instance was revoked";

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
    /// Learns of a new instance id.
    pub decisions: Arc<Decisions>,
    /// Says whether we are revoked, and what does not let us in again.
    pub revocation: Arc<Revocation>,
    /// Our instance.
    pub instance: InstanceId,
    /// When the present certificate was issued.
    pub issued_at: UnixMillis,
    /// By which token we joined, as far as that is known.
    pub used_token: Option<TokenDigest>,
}

/// What comes of a request for renewal.
enum Signed {
    Anew(Box<Issued>),
    /// Nothing is renewed for us any longer, and why; we may join anew.
    Never(&'static str),
}

/// Why there is no new certificate yet.
#[derive(Debug, Error)]
enum RenewError {
    /// It may come by itself.
    #[error("{0}")]
    Delayed(String),
    /// Nothing is renewed for us, and we have not joined anew.
    #[error("{why}; {problem}")]
    NotJoined {
        /// Why nothing is.
        why: &'static str,
        /// Why we have not.
        #[source]
        problem: NotJoined,
    },
}

impl Renewal {
    /// Renews until `stop`. What the disk does not have by then is written before this ends, if the disk takes it.
    pub async fn run(mut self, stop: CancellationToken) {
        let revocation = Arc::clone(&self.revocation);
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep_saved(self.credentials.clone()) => {}
            () = revocation.follow() => {}
            () = self.renew_for_ever() => {}
        }
        if self.credentials.is_unsaved() {
            save(self.credentials).await;
        }
    }

    async fn renew_for_ever(&mut self) {
        let mut received = None;
        loop {
            let due = Due::of(self.issued_at, self.credentials.not_after(), received);
            self.wait_until_due(due).await;
            let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
            let mut told = None;
            while let Err(problem) = self.renew_once().await {
                let wait = backoff.step();
                self.tell(&problem, &mut told, wait);
                // By steady time: a clock that is set back meanwhile makes it no longer.
                tokio::time::sleep(wait).await;
            }
            received = Some(self.clock.now());
        }
    }

    /// What only a person can mend is told with what to do, once for as long as it is the same: it lasts for hours.
    fn tell(&self, problem: &RenewError, told: &mut Option<String>, wait: Duration) {
        let (not_after, retry_in_ms) = (self.credentials.not_after(), millis(wait));
        match problem {
            RenewError::Delayed(problem) => {
                tracing::warn!(event = "renewal_delayed", problem, %not_after, retry_in_ms);
            }
            RenewError::NotJoined { why, problem: NotJoined::Yet(problem) } => {
                tracing::warn!(event = "join_delayed", why, problem, %not_after, retry_in_ms);
            }
            RenewError::NotJoined { why, problem: NotJoined::ByNothing { problem, kind } } => {
                if told.as_ref() == Some(kind) {
                    tracing::debug!(event = "join_delayed", why, problem, %not_after, retry_in_ms);
                } else {
                    let to_do = self.what_to_do();
                    tracing::error!(event = "join_delayed", why, problem, to_do, %not_after, retry_in_ms);
                    *told = Some(kind.clone());
                }
            }
        }
    }

    /// What lets this agent join anew, for whoever runs it.
    fn what_to_do(&self) -> String {
        let by_token = |to: &str| match self.credentials.spiffe_id().and_then(|id| id.mesh_and_node()) {
            Some((mesh, NodeName::Node(name))) => {
                format!("`hauberk token create --mesh {mesh} --node {name} --out {to}`")
            }
            Some((mesh, NodeName::Gateway(name))) => {
                format!("`hauberk token create --mesh {mesh} --gateway {name} --out {to}`")
            }
            None => format!("`hauberk token create --out {to}`"),
        };
        match &self.config.join {
            Some(Join::TokenFile(file)) => {
                // Whoever reads this is in another directory.
                let path = std::path::absolute(file.path()).unwrap_or_else(|_| file.path().to_owned());
                format!(
                    "make a new token in the file: {}; it is looked for until there is one, without a restart",
                    by_token(&shell_quote(&path.to_string_lossy()))
                )
            }
            Some(Join::Evidence { enrollment: EnrollmentName { mesh, name }, .. }) => format!(
                "`hauberk audit list --refused` says why, and `hauberk describe enrollment {name} --mesh {mesh}` what is believed; it is \
                 tried again until this agent is let in"
            ),
            None => format!(
                "{}, and start the agent again with --join-token-file FILE, or with --enrollment",
                by_token("FILE")
            ),
        }
    }

    /// The tokens that do not let us in again once we are revoked: the one that we had, as far as that is known, and the
    /// one that was there when we heard of it, which nobody has made because of that.
    ///
    /// # Errors
    /// That one is not known yet.
    async fn spent_tokens(&self) -> Result<Vec<TokenDigest>, NotJoined> {
        let found = self.revocation.spent_token().await.map_err(|kind| NotJoined::ByNothing {
            problem: format!(
                "{kind}; until it can be read it is not known which token is of before the revocation, and the one that it \
                 holds then is taken for that"
            ),
            kind,
        })?;
        Ok([self.used_token, found].into_iter().flatten().collect())
    }

    /// Sleeps until it is due, or until the control plane says that it has no record of our certificate, that we are
    /// revoked and may come back, or that our authority signs no longer: then for a random part of the time over which
    /// all who are told so spread.
    async fn wait_until_due(&self, due: Due) {
        let mut trust = self.credentials.trust_changes();
        let mut not_on_record = self.credentials.not_on_record();
        let mut denied = self.revocation.changes();
        let mut spread = None;
        while !self.credentials.is_not_on_record() && !self.revocation.waits_for_a_token() {
            // Drawn once: told again, or told of others who are refused, the wait does not begin anew.
            if let (None, Some(within)) = (spread, self.credentials.renewal_within()) {
                spread = Some(self.clock.now().plus(within.mul_f64(fraction())));
            }
            let due = Due { at: spread.map_or(due.at, |spread| due.at.min(spread)), ..due };
            tokio::select! {
                () = self.wait_until(due) => return,
                Ok(()) = not_on_record.changed() => {}
                Ok(()) = denied.changed() => {}
                Ok(()) = trust.changed(), if spread.is_none() => {}
            }
        }
    }

    async fn wait_until(&self, due: Due) {
        loop {
            let now = self.clock.now();
            if due.is_past(now) {
                return;
            }
            let left = due.at.since(now).min(due.by.saturating_duration_since(Instant::now()));
            tokio::time::sleep(left.clamp(Duration::from_millis(1), LOOK)).await;
        }
    }

    /// Renews, or joins anew where nothing is renewed for us: after expiry, and at once where the control plane has no
    /// record of us. The former certificate is used until there is another.
    async fn renew_once(&mut self) -> Result<(), RenewError> {
        let is_expired = self.clock.now() >= self.credentials.not_after();
        let is_told = self.revocation.waits_for_a_token();
        let spent = if is_told { self.spent_tokens().await } else { Ok(Vec::new()) };
        let spent = spent.map_err(|problem| RenewError::NotJoined { why: REVOKED, problem })?;
        // It may have been taken back while the file was read.
        let is_revoked = is_told && self.revocation.waits_for_a_token();
        let signed = match (is_revoked, is_expired) {
            (true, _) => Signed::Never(REVOKED),
            (false, true) => Signed::Never("the certificate has expired"),
            (false, false) => self.sign_again().await?,
        };
        let delayed = |error: CredentialsError| RenewError::Delayed(error.to_string());
        let (instance, issued_at) = match signed {
            Signed::Anew(issued) => {
                let named = (issued.identity.instance, issued.identity.issued_at);
                self.credentials.replace(*issued).map_err(delayed)?;
                named
            }
            Signed::Never(why) => {
                let former =
                    Former { credentials: &self.credentials, instance: self.instance, spent: &spent };
                let joined = enroll::join_anew(&self.config, &self.state, self.clock, &former).await;
                let issued = joined.map_err(|problem| RenewError::NotJoined { why, problem })?;
                let named = (issued.identity.instance, issued.identity.issued_at);
                let token = issued.identity.used_token;
                self.credentials.begin_anew(issued).map_err(|error| not_taken(why, error))?;
                self.used_token = token;
                self.revocation.forget();
                tracing::info!(event = "joined_anew", why, former = %self.instance, instance = %named.0);
                named
            }
        };
        self.instance = instance;
        self.issued_at = issued_at;
        self.decisions.set_instance(instance);
        tracing::info!(event = "certificate_renewed", not_after = %self.credentials.not_after());
        Ok(())
    }

    async fn sign_again(&self) -> Result<Signed, RenewError> {
        let problem = match self.ask_to_sign().await {
            Ok(signed) => return Ok(signed),
            Err(problem) => problem,
        };
        let trust = BootstrapTrust::Bundle(Arc::clone(self.credentials.live().current().bundle()));
        let skew = skew::ask(&self.config.control_plane, trust, self.clock).await;
        Err(RenewError::Delayed(skew::named(skew, problem)))
    }

    /// A fresh key each time, so that one that leaked is of use for one life at the most.
    async fn ask_to_sign(&self) -> Result<Signed, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let csr = CertificateRequest::create(&key).map_err(|error| error.to_string())?;
        let connected = control_plane::connect_as(&self.config.control_plane, self.credentials.live()).await;
        let mut channel = connected.map_err(|error| error.to_string())?;
        match skew::over(&mut channel, self.clock).await {
            Some(Skew::Behind(_)) => {
                return Err("a certificate that is issued now would not be valid here yet".to_owned());
            }
            // What is valid there is valid here, for a shorter time.
            Some(skew) => tracing::warn!(event = "clock_skew", %skew),
            None => {}
        }
        let answer = EnrollmentClient::new(channel).sign_certificate(SignCertificateRequest { csr }).await;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if refusal::reason(&status).as_deref() == Some(refusal::NOT_ON_RECORD) => {
                return Ok(Signed::Never("the control plane has no record of this instance"));
            }
            Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
        };
        Issued::check(answer.certificate, answer.trust, self.instance, key, self.clock.now())
            .map(|mut issued| {
                issued.identity.used_token = self.used_token;
                Signed::Anew(Box::new(issued))
            })
            .map_err(|error| error.to_string())
    }
}

/// Why what was issued to whoever joins anew is not taken. That it names somebody else no later attempt mends: what
/// we join by is for another.
fn not_taken(why: &'static str, error: CredentialsError) -> RenewError {
    match error {
        CredentialsError::OtherId { .. } => {
            let problem = format!("what we would join by makes somebody else of us: {error}");
            RenewError::NotJoined { why, problem: NotJoined::ByNothing { kind: problem.clone(), problem } }
        }
        error => RenewError::Delayed(error.to_string()),
    }
}

/// Brings to the disk, again and again, what that does not have. Nothing else waits for it.
async fn keep_saved(credentials: Credentials) {
    let [first, most] = SAVE_AGAIN;
    loop {
        credentials.unsaved().await;
        let mut backoff = Backoff::new(first, most);
        loop {
            save(credentials.clone()).await;
            if !credentials.is_unsaved() {
                break;
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }
}

/// Tries once, off the runtime's threads: a disk may hang.
async fn save(credentials: Credentials) {
    match tokio::task::spawn_blocking(move || credentials.save()).await {
        // Of a node that has gone nothing is kept, and that is no fault.
        Ok(Ok(()) | Err(StateError::NodeGone)) => {}
        Ok(Err(error)) => {
            tracing::error!(event = "state_not_saved", %error, "the new certificate is in force all the same");
        }
        Err(error) => tracing::error!(event = "state_not_saved", %error),
    }
}

#[cfg(test)]
mod tests;
