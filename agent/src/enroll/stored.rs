//! What is on disk of an identity, and what is to be done where it does not do.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use hauberk_tls::{BootstrapTrust, VerifyError};

use super::{Attempt, EnrollError};
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials::{CredentialsError, Issued};
use crate::skew;
use crate::state::{State, StateError};

/// Why what is on disk does not do.
pub(super) enum Lack {
    /// There is none, or nobody would accept it.
    Unusable(String),
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
    let problem = |error: StateError| {
        tracing::error!(event = "state_damaged", %error);
        Lack::Unusable(error.to_string())
    };
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
            Self::Unusable(why) => why.clone(),
            Self::OutOfTime { fault, .. } => fault.to_string(),
        }
    }

    /// What comes of it where there is nothing to join with. A clock may yet be set, so that no certificate is given up for
    /// what a wrong one tells; whether ours is wrong the control plane knows.
    pub(super) async fn without_joining(self, config: &Config, clock: Clock) -> Attempt {
        let (state_dir, why) = (config.state_dir.display().to_string(), self.why());
        let Self::OutOfTime { fault, trust } = self else {
            return EnrollError::NoToken { state_dir, why }.into();
        };
        match skew::agrees(&config.control_plane, trust, clock).await {
            Some(Err(skew)) => Attempt::Again(skew::named(Some(skew), why)),
            // What is not valid yet will be.
            Some(Ok(())) if matches!(fault, VerifyError::NotYetValid { .. }) => Attempt::Again(why),
            Some(Ok(())) => EnrollError::NoToken { state_dir, why }.into(),
            None => Attempt::Again(format!(
                "{why}; whether that clock is right the control plane at {} would tell, and it does not answer: it is \
                 waited for, or for the clock to be set",
                config.control_plane.authority()
            )),
        }
    }
}
