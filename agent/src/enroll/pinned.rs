//! Which control plane is the right one, for the first contact.

use std::sync::Arc;

use hauberk_tls::{BootstrapTrust, BundleError, Fingerprint, TrustBundle};

use super::EnrollError;
use crate::config::{Config, Pin};
use crate::credentials::Credentials;
use crate::state::State;

/// By what the control plane is known, and the root that its answer must hold.
pub(super) fn bootstrap_trust(
    config: &Config,
    state: &State,
    former: Option<&Credentials>,
) -> Result<(BootstrapTrust, Option<Fingerprint>), EnrollError> {
    match &config.pin {
        Some(Pin::RootFingerprint(fingerprint)) => {
            let (pin, trust_domain) = (*fingerprint, config.trust_domain.clone());
            Ok((BootstrapTrust::Root { pin, trust_domain }, Some(pin)))
        }
        Some(Pin::BundleFile(path)) => {
            let wrong =
                |problem: String| EnrollError::BundleFile { path: path.display().to_string(), problem };
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            let bundle = TrustBundle::from_self_describing_pem(&text, config.trust_domain.as_ref())
                .map_err(|error: BundleError| wrong(error.to_string()))?;
            Ok((BootstrapTrust::Bundle(Arc::new(bundle)), None))
        }
        // What a former certificate came with does as well.
        None => match former {
            Some(former) => Ok((BootstrapTrust::Bundle(Arc::clone(former.live().current().bundle())), None)),
            None => match state.trust() {
                Ok(Some(trust)) => Ok((BootstrapTrust::Bundle(Arc::new(trust.bundle)), None)),
                Ok(None) | Err(_) => Err(EnrollError::NoPin),
            },
        },
    }
}
