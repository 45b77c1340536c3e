//! One question to a bundle endpoint (SPIFFE Federation §5.2), or to where an issuer's keys are: bounded in time and size,
//! straight to where the resource says, and believed only after who answers has been authenticated.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::TrustDomain;
use hauberk_tls::jwt::{JwtBundleError, JwtKeySet};
use hauberk_tls::{
    EndpointConnector, MAX_BUNDLE_BYTES, Refuses, SpiffeBundle, SpiffeBundleError, TrustBundle,
};
use serde::Deserialize;

use crate::ask::{STEP_DEADLINE, Unanswered, Unreached, get, web_connector, within};
use crate::resources::{
    BundleEndpoint, EndpointProfile, FederatedTrustDomain, KeyEndpoint, Unvouched, WebEndpoint,
};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest set of an issuer's keys, in bytes: it travels in the view of each node.
pub(super) const MAX_KEYS_BYTES: usize = 64 * 1024;

/// How much of an answer is repeated in an error, in characters.
const REPEATED_CHARS: usize = 200;

/// Why a bundle was not fetched. What was held before stays.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no answer, or none of any use.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// The answer is no bundle of this trust domain.
    #[error("its answer is no bundle of the trust domain: {0}")]
    Bundle(#[from] SpiffeBundleError),
    /// Nobody can say who answers.
    #[error(transparent)]
    Unvouched(#[from] Unvouched),
    /// Whoever could say it has no roots that we know.
    #[error(
        "its endpoint is one of {0}, whose bundle is not known, or has no root: nobody could say who answers there"
    )]
    NoRoots(TrustDomain),
    /// Whoever said who answers was replaced before the answer could count.
    #[error(
        "by what was known who answers was replaced meanwhile ({0}): what it answered does not count, it is asked again"
    )]
    VoucherReplaced(&'static str),
    /// The bundle is older than one that was seen.
    #[error("its bundle has number {offered}, and number {seen} was seen before: is an old copy served?")]
    Older {
        /// Its number.
        offered: u64,
        /// The highest that was seen.
        seen: u64,
    },
    /// The answer is not what an issuer says of itself.
    #[error("its answer is no OpenID Provider configuration: {0}")]
    Configuration(String),
    /// It is what another issuer says of itself.
    #[error(
        "its configuration is that of the issuer {0:?}: write that as `issuer` if it is meant, letter for letter"
    )]
    OtherIssuer(String),
    /// It says that its keys are where it is not itself.
    #[error(
        "its keys are said to be at {url:?}, where they are not asked for: {reason}; if that is meant, write it as `jwksUrl`"
    )]
    KeysElsewhere {
        /// Where.
        url: String,
        /// Why not there.
        reason: String,
    },
    /// The answer is no set of keys.
    #[error("its answer is no set of keys for tokens: {0}")]
    Keys(#[from] JwtBundleError),
}

impl From<Unanswered> for FetchError {
    fn from(error: Unanswered) -> Self {
        Self::Unreached(error.into())
    }
}

/// Asks for the bundle of `followed`. An endpoint that proves a SPIFFE id is known by `roots`, and none that `refuses` has something
/// against. Also tells the keys that are of no use.
///
/// # Errors
/// It is not to be had, or not to be believed.
pub(super) async fn fetch(
    followed: &FederatedTrustDomain,
    endpoint: &BundleEndpoint,
    (roots, refuses): (Arc<TrustBundle>, Arc<Refuses>),
    web_roots: Option<&Path>,
) -> Result<(SpiffeBundle, Vec<SpiffeBundleError>), FetchError> {
    let asked = async {
        let connector = match endpoint.profile() {
            EndpointProfile::Spiffe(id) => {
                let known = EndpointConnector::spiffe(roots, id.clone(), refuses, STEP_DEADLINE);
                known.map_err(Unanswered::from)?
            }
            EndpointProfile::Web => web_connector(web_roots).await?,
        };
        let document = get(&connector, endpoint.at(), MAX_BUNDLE_BYTES).await?;
        Ok(SpiffeBundle::parse_and_tell(followed.trust_domain(), &document)?)
    };
    within(DEADLINE, asked).await
}

/// Asks for the keys of an issuer, and before that where they are, if nobody has said. Also tells those that are of no use.
///
/// # Errors
/// They are not to be had, or not to be believed.
pub(super) async fn fetch_keys(
    issuer: &str,
    endpoint: &KeyEndpoint,
    web_roots: Option<&Path>,
) -> Result<(JwtKeySet, Vec<JwtBundleError>), FetchError> {
    let asked = async {
        let connector = web_connector(web_roots).await?;
        let discovered;
        let keys = match endpoint {
            KeyEndpoint::Keys(keys) => keys,
            KeyEndpoint::Configuration(own) => {
                let document = get(&connector, own, MAX_KEYS_BYTES).await?;
                discovered = keys_of(issuer, own, &document)?;
                &discovered
            }
        };
        let document = get(&connector, keys, MAX_KEYS_BYTES).await?;
        Ok(JwtKeySet::of_issuer(&document)?)
    };
    within(DEADLINE, asked).await
}

/// What an issuer says of itself (OpenID Connect Discovery 1.0 §3), as far as it matters here. What stands twice is refused.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// Where an issuer's configuration, from `own`, says that its keys are.
fn keys_of(issuer: &str, own: &WebEndpoint, document: &[u8]) -> Result<WebEndpoint, FetchError> {
    let read = serde_json::from_slice(document);
    let Configuration { issuer: named, jwks_uri: url } =
        read.map_err(|error: serde_json::Error| FetchError::Configuration(beginning(&error.to_string())))?;
    // Else whoever serves one issuer's configuration could give another one's keys for its own (§4.3).
    if named != issuer {
        return Err(FetchError::OtherIssuer(beginning(&named)));
    }
    own.beside(&url).map_err(|reason| FetchError::KeysElsewhere { url: beginning(&url), reason })
}

/// As much of what somebody else says as is worth repeating: it goes into logs and findings.
fn beginning(text: &str) -> String {
    text.chars().take(REPEATED_CHARS).collect()
}
