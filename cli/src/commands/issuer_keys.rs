//! The first keys of issuers that a change has asked for elsewhere: until they are there all their tokens are refused.

use std::time::Duration;

use futures_util::future::join_all;
use hauberk_proto::admin::v1::{Applied, ApplyResponse, Outcome, RefreshBundleRequest};
use hauberk_proto::mesh::v1::{JwtIssuerSpec, Resource, resource::Spec};
use owo_colors::OwoColorize as _;
use tokio::time::timeout;

use crate::kinds;
use crate::output;
use crate::session::Session;

/// How long is waited for all issuers: the control plane goes on trying.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has the keys fetched of the issuers whose source a change has made or changed, all at once, and tells of those that are not to be
/// had. No more than half of `patience` goes into it: what is waited for then is that agents enforce the change. Says whether any are
/// there by it, so that there is a later revision.
pub(crate) async fn fetch_first(session: &Session, answer: &ApplyResponse, patience: Duration) -> bool {
    let asked: Vec<&Resource> = answer.resources.iter().filter_map(asked_anew).collect();
    let fetches = asked.iter().map(|issuer| fetch(session, issuer, PATIENCE.min(patience / 2)));
    let mut is_later = false;
    for (issuer, fetched) in asked.iter().zip(join_all(fetches).await) {
        match fetched {
            Ok(()) => is_later = true,
            Err(why) => output::note(format_args!(
                "{} the keys of {} could not be fetched yet: {why}; the control plane goes on trying, and `hauberk check{}` tells of it",
                "warning:".yellow().bold(),
                kinds::label(issuer),
                session.of_context()
            )),
        }
    }
    is_later
}

/// Has the keys of one fetched, or says why they are not there.
async fn fetch(session: &Session, issuer: &Resource, patience: Duration) -> Result<(), String> {
    let request = RefreshBundleRequest {
        mesh: issuer.mesh.clone(),
        trust_domain: String::new(),
        issuer: issuer.name.clone(),
    };
    match timeout(patience, session.federation().refresh_bundle(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(output::printable(status.message())),
        Err(_) => Err("they did not come in time".to_owned()),
    }
}

/// The issuer, if its keys come from elsewhere than before.
fn asked_anew(applied: &Applied) -> Option<&Resource> {
    let resource = applied.resource.as_ref()?;
    let now = source(resource).filter(|(_, jwks, url, _)| !url.is_empty() || jwks.is_empty())?;
    match applied.outcome() {
        Outcome::Created => Some(resource),
        Outcome::Configured => {
            let is_same = applied.previous.as_ref().and_then(source).is_some_and(|former| former == now);
            (!is_same).then_some(resource)
        }
        _ => None,
    }
}

/// Where keys come from, as the control plane tells one source from another.
fn source(resource: &Resource) -> Option<(&str, &str, &str, bool)> {
    let Some(Spec::JwtIssuer(spec)) = &resource.spec else { return None };
    let JwtIssuerSpec { issuer, jwks, jwks_url, allow_private_addresses, .. } = spec;
    Some((issuer, jwks, jwks_url, allow_private_addresses.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_is_whoever_was_not_before() {
        let issuer = |url: &str, jwks: &str, description: &str| Resource {
            name: "login".to_owned(),
            spec: Some(Spec::JwtIssuer(JwtIssuerSpec {
                jwks_url: url.to_owned(),
                jwks: jwks.to_owned(),
                description: Some(description.to_owned()),
                ..JwtIssuerSpec::default()
            })),
            ..Resource::default()
        };
        let asked = |outcome: Outcome, previous: Option<Resource>, now: Resource| {
            let applied = Applied { outcome: outcome.into(), resource: Some(now), previous };
            asked_anew(&applied).is_some()
        };
        let (at, elsewhere) = (issuer("https://a/", "", ""), issuer("https://b/", "", ""));
        assert!(asked(Outcome::Created, None, at.clone()));
        assert!(asked(Outcome::Created, None, issuer("", "", "")), "it says itself where they are");
        assert!(!asked(Outcome::Created, None, issuer("", "{}", "")), "they are written down");
        assert!(asked(Outcome::Configured, Some(elsewhere), at.clone()));
        assert!(!asked(Outcome::Configured, Some(issuer("https://a/", "", "ours")), at.clone()));
        assert!(!asked(Outcome::Unchanged, Some(at.clone()), at));
        assert!(!asked(Outcome::Created, None, Resource::default()));
    }
}
