//! How the agent becomes somebody: by what is on disk, by a join token, or by evidence of where it runs.

mod anew;
mod own_key;
mod pinned;
mod shown;
mod stored;
mod strangers;

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::enrollment_client::EnrollmentClient;
use hauberk_proto::refusal;
use hauberk_tls::device::ChannelBinding;
use hauberk_tls::{
    CertificateRequest, CsrError, Fingerprint, HandshakeError, KeyPair, SetupError, bootstrap_connector,
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::clock::{Clock, millis};
use crate::config::{Config, EnrollmentName, Join};
use crate::control_plane::{self, ConnectError};
use crate::credentials::{CredentialsError, Issued};
use crate::random::Backoff;
use crate::skew;
use crate::state::{State, StateError, TokenDigest};
pub(crate) use anew::{Former, NotJoined, join_anew};
use own_key::own_key;
use pinned::bootstrap_trust;
pub(crate) use shown::token_in;
use shown::{Evidence, read_evidence};
use stored::{Lack, stored};
use strangers::Strangers;

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum EnrollError {
    /// There is no certificate and no token to get one with. The fault is the administrator's.
    #[error(
        "there is no valid certificate in {state_dir} ({why}) and nothing to get one with: make a token by `hauberk token \
         create --node NAME` and name its file by --join-token-file, or show evidence by --enrollment"
    )]
    NoToken {
        /// The state directory.
        state_dir: String,
        /// Why what is there does not do.
        why: String,
    },
    /// Nothing says which control plane is the right one. The fault is the administrator's.
    #[error(
        "nothing says which control plane is the right one: give --root-fingerprint, as `hauberk-control-plane init` \
         printed it, or --bundle-file"
    )]
    NoPin,
    /// The bundle file cannot be used. The fault is the administrator's.
    #[error("{path}: {problem}")]
    BundleFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server that answers is not the control plane that was named. The fault is its, or of the pin.
    #[error("the server at {address} is not the control plane that was named: {source}")]
    WrongControlPlane {
        /// Where it answered.
        address: String,
        /// What is wrong with it.
        source: HandshakeError,
    },
    /// The control plane refuses us. Its words say why.
    #[error("the control plane refuses to let this agent in: {message} ({code:?})")]
    Refused {
        /// The gRPC status.
        code: Code,
        /// Its reason, for programs.
        reason: Option<String>,
        /// The control plane's reason.
        message: String,
    },
    /// The control plane issued something that we cannot use.
    #[error(transparent)]
    Unusable(#[from] CredentialsError),
    /// Nothing can be proved with the evidence that was configured. The fault is the administrator's.
    #[error("the evidence cannot be shown: {0}")]
    Evidence(String),
    /// The state directory refuses.
    #[error(transparent)]
    State(#[from] StateError),
    /// We were told to stop.
    #[error("stopped before there was a certificate")]
    Stopped,
    /// The TLS library refuses. The fault is ours.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No request can be made of our key. The fault is ours.
    #[error(transparent)]
    Request(#[from] CsrError),
}

/// Why one attempt failed.
#[derive(Debug, Error)]
enum Attempt {
    #[error(transparent)]
    Final(#[from] EnrollError),
    /// Somebody else answers than the control plane that let us in before. It may be in its place for a while only.
    #[error(transparent)]
    Stranger(EnrollError),
    /// There is nothing to join with yet.
    #[error("{0}")]
    Nothing(String),
    #[error("{0}")]
    Again(String),
}

impl EnrollError {
    /// Whether only a person can mend it, so that trying again is of no use.
    pub fn is_for_the_administrator(&self) -> bool {
        match self {
            Self::NoToken { .. }
            | Self::NoPin
            | Self::BundleFile { .. }
            | Self::WrongControlPlane { .. }
            | Self::Evidence(_)
            | Self::Refused { .. } => true,
            Self::Unusable(_) | Self::State(_) | Self::Stopped | Self::Setup(_) | Self::Request(_) => false,
        }
    }
}

/// Gives the identity that is on disk if it is still valid, and otherwise joins, for as long as the control plane is
/// away. The clock may be set meanwhile, as while a host starts: what is on disk is looked at before each attempt, and
/// before a token is used.
///
/// # Errors
/// There is nothing to join with, the control plane refuses, or `stop` came first.
pub async fn obtain(
    config: &Config,
    state: &Arc<State>,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<Issued, EnrollError> {
    obtain_after(Strangers::default(), config, state, clock, stop).await
}

/// The same, after such strangers have answered.
async fn obtain_after(
    mut strangers: Strangers,
    config: &Config,
    state: &Arc<State>,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<Issued, EnrollError> {
    let (mut is_told, mut damage_told) = (false, None);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let lack = match stored(state, clock.now()) {
            Ok(issued) => return Ok(issued),
            Err(lack) => lack,
        };
        lack.tell(&mut damage_told);
        if config.join.is_some() && !std::mem::replace(&mut is_told, true) {
            let why = lack.why();
            tracing::info!(event = "joining", control_plane = config.control_plane.authority(), why);
        }
        let problem = tokio::select! {
            () = stop.cancelled() => return Err(EnrollError::Stopped),
            outcome = become_somebody(config, state, clock, lack) => match outcome {
                Ok(issued) => return Ok(issued),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Stranger(error)) if strangers.are_to_stay() => return Err(error),
                Err(Attempt::Stranger(error)) => error.to_string(),
                Err(Attempt::Nothing(problem) | Attempt::Again(problem)) => {
                    strangers = Strangers::default();
                    problem
                }
            },
        };
        let wait = backoff.step();
        let event = if config.join.is_some() { "join_delayed" } else { "identity_awaited" };
        tracing::warn!(event, problem, retry_in_ms = millis(wait));
        tokio::select! {
            () = stop.cancelled() => return Err(EnrollError::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One attempt at a certificate.
async fn become_somebody(
    config: &Config,
    state: &Arc<State>,
    clock: Clock,
    lack: Lack,
) -> Result<Issued, Attempt> {
    if config.join.is_none() {
        return Err(lack.without_joining(config, clock).await);
    }
    let was_in = lack.is_of_time();
    let door = Door::reach(config, state, clock, None).await.map_err(|attempt| match attempt {
        Attempt::Final(error @ EnrollError::WrongControlPlane { .. }) if was_in => Attempt::Stranger(error),
        other => other,
    })?;
    // The clock may have been set since we looked, and what is on disk be as good as what would be issued: no token is
    // used.
    if let Ok(issued) = stored(state, clock.now()) {
        return Ok(issued);
    }
    let issued = door.join(clock).await?;
    state.save_trust(&issued.trust).map_err(EnrollError::State)?;
    state
        .keeping()
        .and_then(|keeping| keeping.save_identity(&issued.identity))
        .map_err(EnrollError::State)?;
    Ok(issued)
}

/// A control plane that was reached, and what it is to be shown.
struct Door {
    channel: Channel,
    /// Names the connection.
    name: ChannelBinding,
    evidence: Evidence,
    key: KeyPair,
    csr: Vec<u8>,
    /// Who we were.
    former: Option<pb::FormerInstance>,
    /// The root that the answer must hold.
    pin: Option<Fingerprint>,
}

impl Door {
    /// Goes as far as can be gone without using a token.
    async fn reach(
        config: &Config,
        state: &Arc<State>,
        clock: Clock,
        former: Option<&Former<'_>>,
    ) -> Result<Self, Attempt> {
        // What could be wrong on our side comes first, so that it is told whether or not the control plane is there.
        let credentials = former.map(|former| former.credentials);
        let (trust, pin) = bootstrap_trust(config, state, credentials)?;
        let evidence = read_evidence(config, former.map_or(&[], |former| former.spent)).await?;
        let key = own_key(matches!(config.join, Some(Join::Evidence { .. })), state, credentials).await?;
        let csr = CertificateRequest::create(&key).map_err(EnrollError::Request)?;
        let connector =
            bootstrap_connector(trust.clone(), control_plane::ALPN, control_plane::HANDSHAKE_TIMEOUT)
                .map_err(EnrollError::Setup)?;
        let address = &config.control_plane;
        let (mut channel, name) = match control_plane::connect_named(address, &connector).await {
            Ok(connected) => connected,
            // A clock may yet be set, as while a host starts.
            Err(ConnectError::Handshake(error)) if error.is_about_time() => {
                let skew = skew::ask(address, trust, clock).await;
                return Err(Attempt::Again(skew::named(skew, error.to_string())));
            }
            Err(ConnectError::Handshake(source @ HandshakeError::PeerRefused(_))) => {
                return Err(EnrollError::WrongControlPlane { address: address.authority(), source }.into());
            }
            Err(error) => return Err(Attempt::Again(error.to_string())),
        };
        // What is issued to a host whose clock is off is of no use, or of more than it should be.
        if let Some(skew) = skew::over(&mut channel, clock).await {
            return Err(Attempt::Again(skew.to_string()));
        }
        let former = former.and_then(Former::named);
        Ok(Self { channel, name, evidence, key, csr, former, pin })
    }

    async fn join(self, clock: Clock) -> Result<Issued, Attempt> {
        let Self { channel, name, evidence, key, csr, former, pin } = self;
        let used_token = match &evidence {
            Evidence::Token(token) => Some(TokenDigest::of(token)),
            Evidence::Machine(..) => None,
        };
        let (evidence, enrollment) = match evidence {
            Evidence::Token(token) => (pb::attest_request::Evidence::JoinToken(token.to_string()), None),
            Evidence::Machine(evidence, enrollment) => {
                let shown = evidence.show(&name, &key.public_key(), &enrollment);
                let shown = shown.map_err(|error| EnrollError::Evidence(error.to_string()))?;
                let EnrollmentName { mesh, name } = enrollment;
                (shown, Some(pb::EnrollmentName { mesh: mesh.to_string(), name: name.to_string() }))
            }
        };
        let request =
            pb::AttestRequest { csr, evidence: Some(evidence), agent: Some(about_us()), enrollment, former };
        let answer = EnrollmentClient::new(channel).attest(request).await.map_err(|status| judge(&status))?;
        let accepted = accept(answer.into_inner(), key, pin, clock.now());
        let mut issued = accepted.map_err(|error| match error {
            // How long it lives is known only now. The token is used up, and good for the same key all the same.
            EnrollError::Unusable(CredentialsError::Clock(problem)) => Attempt::Again(problem),
            other => Attempt::Final(other),
        })?;
        issued.identity.used_token = used_token;
        Ok(issued)
    }
}

fn accept(
    answer: pb::AttestResponse,
    key: KeyPair,
    pin: Option<Fingerprint>,
    now: UnixMillis,
) -> Result<Issued, EnrollError> {
    let pb::AttestResponse { certificate, trust, instance_id } = answer;
    let instance = InstanceId::parse(&instance_id)
        .map_err(|_| CredentialsError::Missing("a well-formed instance id"))?;
    let issued = Issued::check(certificate, trust, instance, key, now)?;
    if let Some(pin) = pin
        && issued.trust.bundle.root(pin).is_none()
    {
        return Err(CredentialsError::Trust(format!("it lacks the root {pin} that was pinned")).into());
    }
    tracing::info!(
        event = "joined",
        spiffe_id = %issued.identity.svid.id(),
        instance = %issued.identity.instance,
        not_after = %issued.identity.svid.validity().not_after(),
    );
    Ok(issued)
}

/// Whether asking again may help.
fn judge(status: &tonic::Status) -> Attempt {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Cancelled
        | Code::Internal
        | Code::Unknown => Attempt::Again(format!("{:?}: {}", status.code(), status.message())),
        code => {
            let (message, reason) = (status.message().to_owned(), refusal::reason(status));
            Attempt::Final(EnrollError::Refused { code, reason, message })
        }
    }
}

fn about_us() -> pb::AgentInfo {
    pb::AgentInfo { version: env!("CARGO_PKG_VERSION").to_owned(), hostname: hostname() }
}

/// The name of this host, for people.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
