//! What is on disk of an identity, and what is to be done where it does not do.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use hauberk_tls::{BootstrapTrust, HandshakeError, VerifyError};

use super::{Attempt, EnrollError};
use crate::clock::Clock;
use crate::config::Config;
use crate::control_plane::ConnectError;
use crate::credentials::{CredentialsError, Issued};
use crate::skew;
use crate::state::{State, StateError};

/// Why what is on disk does not do.
pub(super) enum Lack {
    /// There is none, or nobody would accept it.
    Unusable(String),
    /// A file is not to be read.
    Damaged(String),
    /// It is good at another time than this host's clock tells.
    OutOfTime {
        /// Which.
        fault: VerifyError,
        /// By what the control plane is known.
        trust: BootstrapTrust,
    },
}

/// The identity that is on disk, if it is valid now.
pub(super) fn stored(state: &State, now: UnixMillis) -> Result<Issued, Lack> {
    let problem = |error: StateError| Lack::Damaged(error.to_string());
    let lacking = |what: &str| Lack::Unusable(what.to_owned());
    let identity = state.identity().map_err(problem)?.ok_or_else(|| lacking("none was issued yet"))?;
    let trust =
        state.trust().map_err(problem)?.ok_or_else(|| lacking("there is no trust bundle beside it"))?;
    let issued = Issued { identity, trust };
    match issued.verify(now) {
        Ok(()) => {
            let (spiffe_id, instance) = (issued.identity.svid.id(), &issued.identity.instance);
            tracing::info!(event = "identity_loaded", %spiffe_id, %instance);
            Ok(issued)
        }
        Err(CredentialsError::Unverified(fault)) if fault.is_about_time() => {
            Err(Lack::OutOfTime { fault, trust: BootstrapTrust::Bundle(Arc::new(issued.trust.bundle)) })
        }
        Err(error) => Err(Lack::Unusable(error.to_string())),
    }
}

impl Lack {
    /// In words.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Unusable(why) | Self::Damaged(why) => why.clone(),
            Self::OutOfTime { fault, .. } => fault.to_string(),
        }
    }

    /// Whether we were somebody, and need another certificate only for the time that has passed.
    pub(super) fn is_of_time(&self) -> bool {
        matches!(self, Self::OutOfTime { .. })
    }

    /// Tells what is damaged, once for as long as it is the same: it is looked at before each attempt.
    pub(super) fn tell(&self, told: &mut Option<String>) {
        if let Self::Damaged(error) = self
            && told.as_ref() != Some(error)
        {
            tracing::error!(event = "state_damaged", %error);
            *told = Some(error.clone());
        }
    }

    /// What comes of it where there is nothing to join with. A clock may yet be set, so that no certificate is given up
    /// for what a wrong one tells; whether ours is wrong the control plane knows.
    pub(super) async fn without_joining(self, config: &Config, clock: Clock) -> Attempt {
        let (state_dir, why) = (config.state_dir.display().to_string(), self.why());
        let Self::OutOfTime { fault, trust } = self else {
            return EnrollError::NoToken { state_dir, why }.into();
        };
        // What is not valid yet will be.
        let is_to_come = matches!(fault, VerifyError::NotYetValid { .. });
        let problem = match skew::agrees(&config.control_plane, trust, clock).await {
            Ok(Some(Err(skew))) => return Attempt::Again(skew::named(Some(skew), why)),
            Ok(Some(Ok(()))) if is_to_come => return Attempt::Again(why),
            Ok(Some(Ok(()))) => return EnrollError::NoToken { state_dir, why }.into(),
            // It answers, and what is on disk does not vouch for it at any time.
            Err(ConnectError::Handshake(refused @ HandshakeError::PeerRefused(_)))
                if !is_to_come && !refused.is_about_time() =>
            {
                let why = format!(
                    "{why}; what is trusted there does not vouch for the control plane at {}: {refused}; if its root was \
                     changed, --root-fingerprint tells the new one",
                    config.control_plane.authority()
                );
                return Attempt::Stranger(EnrollError::NoToken { state_dir, why });
            }
            Ok(None) => {
                format!("the control plane at {} does not tell its time", config.control_plane.authority())
            }
            Err(error) => error.to_string(),
        };
        Attempt::Again(format!(
            "{why}; the control plane would tell whether that clock is right, but {problem}: it is waited for, or for the \
             clock to be set"
        ))
    }
}
