//! By whose bundle it is verified who answers at an `https_spiffe` endpoint: the trust domain's own, or that of another one to
//! which the endpoint belongs (SPIFFE Federation, "Chaining Trust with https_spiffe").

use std::sync::Arc;

use hauberk_identity::TrustDomain;
use hauberk_tls::SpiffeBundle;

use super::FederatedTrustDomain;
use crate::resources::mesh_catalog::MeshCatalog;

/// Whose bundle it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouching<'a> {
    /// That of the trust domain that is asked about.
    Itself,
    /// Our own.
    Ours,
    /// That of another one, which the mesh follows too; `None`: it is not known.
    Followed(&'a TrustDomain, Option<&'a Arc<SpiffeBundle>>),
}

/// Why there is none. The fault is whoever wrote the resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unvouched {
    /// Nothing of it is known.
    #[error(
        "the endpoint of {of} is one of {by}, which this mesh does not follow: nobody could say who answers there. Follow {by} too"
    )]
    NotFollowed {
        /// Whose endpoint it is.
        of: TrustDomain,
        /// To which it belongs.
        by: TrustDomain,
    },
    /// Each would be believed because of the other.
    #[error(
        "endpoints vouch for one another in a circle ({}): one of them must prove an id of its own trust domain, or be of https_web",
        .0.join(" by ")
    )]
    Circle(Vec<String>),
}

/// Follows the endpoints that vouch for one another to one that needs no other.
pub(crate) fn vouching<'a>(
    mesh: &'a MeshCatalog,
    followed: &'a FederatedTrustDomain,
    own: &TrustDomain,
) -> Result<Vouching<'a>, Unvouched> {
    let find = |domain: &TrustDomain| mesh.federated().find(|(_, other, _)| other.trust_domain() == domain);
    let mut seen = vec![followed.trust_domain()];
    let (mut current, mut first) = (followed, None);
    while let Some(by) = current.vouched_by() {
        if by == *own {
            return Ok(first.unwrap_or(Vouching::Ours));
        }
        if seen.iter().any(|domain| **domain == by) {
            let circle = seen.into_iter().map(ToString::to_string).chain([by.to_string()]);
            return Err(Unvouched::Circle(circle.collect()));
        }
        let of = current.trust_domain();
        let Some((_, next, bundle)) = find(&by) else {
            return Err(Unvouched::NotFollowed { of: of.clone(), by });
        };
        first = first.or(Some(Vouching::Followed(next.trust_domain(), bundle)));
        seen.push(next.trust_domain());
        current = next;
    }
    Ok(first.unwrap_or(Vouching::Itself))
}
